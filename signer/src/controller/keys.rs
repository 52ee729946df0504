//! Which request has which public key, as long as the request lives. Two pods with one key means that somebody copied a key, or
//! replayed a request that he could read: the later one gets nothing.
//!
//! Only the first half of each hash is kept: 128 bits that nobody can choose without finding a key for them.

use std::collections::HashMap;

use crate::names::{PodUid, RequestUid, Sha256};

/// The keys of all live requests, answered ones included.
#[derive(Debug, Default)]
pub(crate) struct LiveKeys {
    holders: HashMap<Half, Holder>,
    requests: HashMap<Half, Half>,
}

type Half = [u8; 16];

#[derive(Clone, Copy, Debug)]
struct Holder {
    request: Half,
    pod: Half,
    /// Seconds since 1970; the request that was made first has the key.
    created: i64,
}

impl LiveKeys {
    /// Notes that a request has this key. False if a request of another pod had it before.
    pub(crate) fn claim(&mut self, key: &Sha256, request: &RequestUid, pod: &PodUid, created: i64) -> bool {
        let Some(key) = half(key) else { return false };
        let (Some(request), Some(pod)) = (half_of(request.as_str()), half_of(pod.as_str())) else { return false };
        if let Some(holder) = self.holders.get(&key)
            && holder.pod != pod
            && (holder.created, holder.request) < (created, request)
        {
            return false;
        }
        self.holders.insert(key, Holder { request, pod, created });
        self.requests.insert(request, key);
        true
    }

    /// The request is gone.
    pub(crate) fn forget(&mut self, request: &RequestUid) {
        let Some(request) = half_of(request.as_str()) else { return };
        if let Some(key) = self.requests.remove(&request)
            && self.holders.get(&key).is_some_and(|holder| holder.request == request)
        {
            self.holders.remove(&key);
        }
    }

    /// Forgets every request that is not among these.
    pub(crate) fn keep<'a>(&mut self, live: impl Iterator<Item = &'a RequestUid>) {
        let live: std::collections::HashSet<Half> = live.filter_map(|request| half_of(request.as_str())).collect();
        self.requests.retain(|request, _| live.contains(request));
        self.holders.retain(|_, holder| live.contains(&holder.request));
    }
}

fn half_of(text: &str) -> Option<Half> {
    half(&Sha256::of(text.as_bytes()))
}

fn half(hash: &Sha256) -> Option<Half> {
    hash.as_bytes().first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(keys: &mut LiveKeys, key: &str, request: &str, pod: &str, created: i64) -> bool {
        let (request, pod) = (RequestUid::parse(request).unwrap(), PodUid::parse(pod).unwrap());
        keys.claim(&Sha256::of(key.as_bytes()), &request, &pod, created)
    }

    #[test]
    fn the_later_of_two_pods_with_one_key_gets_nothing() {
        let mut keys = LiveKeys::default();
        assert!(claim(&mut keys, "k", "r1", "p1", 10));
        assert!(!claim(&mut keys, "k", "r2", "p2", 11));
        assert!(claim(&mut keys, "other", "r3", "p2", 11));
        assert!(claim(&mut keys, "k", "r1", "p1", 10), "looking again changes nothing");
    }

    #[test]
    fn seen_in_the_wrong_order_the_earlier_one_still_has_the_key() {
        let mut keys = LiveKeys::default();
        assert!(claim(&mut keys, "k", "r2", "p2", 11));
        assert!(claim(&mut keys, "k", "r1", "p1", 10));
        assert!(!claim(&mut keys, "k", "r2", "p2", 11));
    }

    #[test]
    fn one_pod_may_ask_twice_with_one_key() {
        let mut keys = LiveKeys::default();
        assert!(claim(&mut keys, "k", "r1", "p1", 10) && claim(&mut keys, "k", "r2", "p1", 11));
    }

    #[test]
    fn a_key_is_free_when_its_request_is_gone() {
        let mut keys = LiveKeys::default();
        assert!(claim(&mut keys, "k", "r1", "p1", 10));
        keys.forget(&RequestUid::parse("r1").unwrap());
        assert!(claim(&mut keys, "k", "r2", "p2", 11));
        let r3 = RequestUid::parse("r3").unwrap();
        keys.keep([&r3].into_iter());
        assert!(keys.holders.is_empty() && keys.requests.is_empty());
    }
}
