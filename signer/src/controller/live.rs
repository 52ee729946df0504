//! What is remembered of every live request, answered ones included: its public key, and its chain once we know it.
//!
//! Two pods with one key mean that somebody copied a key, or replayed a request that he could read: the later one gets nothing.
//! A chain that is known need not be traced when it comes back on the watch.
//!
//! Only half of each hash is kept: 128 bits, which nobody can choose without finding a preimage.

use std::collections::HashMap;

use crate::names::{PodUid, RequestUid, Sha256};

/// All live requests that were looked at.
#[derive(Debug, Default)]
pub(crate) struct Live {
    requests: HashMap<Half, Known>,
    keys: HashMap<Half, Holder>,
    /// The latest listing of each signer, by its number.
    rounds: HashMap<usize, u64>,
}

type Half = [u8; 16];

#[derive(Clone, Copy, Debug)]
struct Known {
    signer: usize,
    round: u64,
    key: Option<Half>,
    chain: Option<Half>,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    request: Half,
    pod: Half,
    /// Seconds since 1970; the request that was made first has the key.
    created: i64,
    /// Whether it has, or is about to have, its certificate: then nobody comes first any more.
    served: bool,
}

impl Live {
    /// Notes that a request was seen in a listing, or after it.
    pub(crate) fn touch(&mut self, signer: usize, round: u64, request: &RequestUid) {
        self.rounds.insert(signer, round);
        if let Some(known) = self.requests.get_mut(&half(request.as_str())) {
            known.round = round;
        }
    }

    /// Notes that a request has this key. False if an earlier request of another pod has it.
    pub(crate) fn claim(
        &mut self,
        key: &Sha256,
        request: &RequestUid,
        pod: &PodUid,
        created: i64,
        signer: usize,
    ) -> bool {
        let (key, request, pod) = (first_half(key), half(request.as_str()), half(pod.as_str()));
        if let Some(holder) = self.keys.get(&key)
            && holder.pod != pod
            && (holder.served || (holder.created, holder.request) < (created, request))
        {
            return false;
        }
        let before = self.keys.get(&key).copied().filter(|holder| holder.pod == pod);
        let known = self.known(request, signer);
        known.key = Some(key);
        // A pod may ask again with its key: that it was served, and since when it has the key, stays.
        let served = known.chain.is_some() || before.is_some_and(|holder| holder.served);
        let created = before.map_or(created, |holder| holder.created.min(created));
        self.keys.insert(key, Holder { request, pod, created, served });
        true
    }

    /// Notes that a request of this key has its certificate, whoever wrote it and whether or not it has been traced: whoever claimed the
    /// key and has none gives way, or a replica that has just started would certify the key a second time.
    pub(crate) fn certified(&mut self, key: &Sha256, request: &RequestUid, pod: &PodUid, created: i64, signer: usize) {
        let (key, request, pod) = (first_half(key), half(request.as_str()), half(pod.as_str()));
        let before = self.keys.get(&key).copied();
        if before.is_some_and(|holder| holder.served && holder.pod != pod) {
            return;
        }
        self.known(request, signer).key = Some(key);
        let created = before.filter(|holder| holder.pod == pod).map_or(created, |holder| holder.created.min(created));
        self.keys.insert(key, Holder { request, pod, created, served: true });
    }

    /// Takes the key for good, just before its certificate goes out. False if an earlier request of another pod has claimed it
    /// since this one did: both were being looked at, and only one may have it.
    pub(crate) fn take(&mut self, request: &RequestUid, pod: &PodUid, signer: usize, chain: &str) -> bool {
        let key = self.requests.get(&half(request.as_str())).and_then(|known| known.key);
        if let Some(holder) = key.and_then(|key| self.keys.get_mut(&key)) {
            if holder.pod != half(pod.as_str()) {
                return false;
            }
            holder.served = true;
        }
        self.note_chain(request, signer, chain);
        true
    }

    /// Notes the chain of a request: what we are about to publish, before the watch shows it, or what was traced already.
    pub(crate) fn note_chain(&mut self, request: &RequestUid, signer: usize, chain: &str) {
        let request = half(request.as_str());
        let known = self.known(request, signer);
        known.chain = Some(half(chain));
        if let Some(key) = known.key
            && let Some(holder) = self.keys.get_mut(&key)
            && holder.request == request
        {
            holder.served = true;
        }
    }

    /// Whether this very chain was noted.
    pub(crate) fn knows_chain(&self, request: &RequestUid, chain: &str) -> bool {
        self.requests.get(&half(request.as_str())).is_some_and(|known| known.chain == Some(half(chain)))
    }

    /// The request is gone.
    pub(crate) fn forget(&mut self, request: &RequestUid) {
        let request = half(request.as_str());
        if let Some(known) = self.requests.remove(&request) {
            self.release(request, known);
        }
    }

    /// Forgets every request of a signer that its last listing did not show.
    pub(crate) fn sweep(&mut self, signer: usize, round: u64) {
        let gone: Vec<(Half, Known)> =
            self.requests.extract_if(|_, known| known.signer == signer && known.round < round).collect();
        for (request, known) in gone {
            self.release(request, known);
        }
    }

    /// Forgets every request of a signer that is not in force any more.
    pub(crate) fn dismiss(&mut self, is_gone: impl Fn(usize) -> bool) {
        let gone: Vec<usize> = self.rounds.extract_if(|signer, _| is_gone(*signer)).map(|(signer, _)| signer).collect();
        for signer in gone {
            self.sweep(signer, u64::MAX);
        }
    }

    fn release(&mut self, request: Half, known: Known) {
        if let Some(key) = known.key
            && self.keys.get(&key).is_some_and(|holder| holder.request == request)
        {
            self.keys.remove(&key);
        }
    }

    fn known(&mut self, request: Half, signer: usize) -> &mut Known {
        let round = self.rounds.get(&signer).copied().unwrap_or(0);
        self.requests.entry(request).or_insert(Known { signer, round, key: None, chain: None })
    }
}

fn half(text: &str) -> Half {
    first_half(&Sha256::of(text.as_bytes()))
}

fn first_half(hash: &Sha256) -> Half {
    let mut half = [0; 16];
    half.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
    half
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(request: &str) -> RequestUid {
        RequestUid::parse(request).unwrap()
    }

    fn claim(live: &mut Live, key: &str, request: &str, pod: &str, created: i64) -> bool {
        live.claim(&Sha256::of(key.as_bytes()), &uid(request), &PodUid::parse(pod).unwrap(), created, 0)
    }

    #[test]
    fn the_later_of_two_pods_with_one_key_gets_nothing() {
        let mut live = Live::default();
        assert!(claim(&mut live, "k", "r1", "p1", 10));
        assert!(!claim(&mut live, "k", "r2", "p2", 11));
        assert!(claim(&mut live, "other", "r3", "p2", 11));
        assert!(claim(&mut live, "k", "r1", "p1", 10), "looking again changes nothing");
    }

    #[test]
    fn seen_in_the_wrong_order_the_earlier_one_still_has_the_key() {
        let mut live = Live::default();
        assert!(claim(&mut live, "k", "r2", "p2", 11));
        assert!(claim(&mut live, "k", "r1", "p1", 10));
        assert!(!claim(&mut live, "k", "r2", "p2", 11));
    }

    #[test]
    fn who_has_a_certificate_keeps_the_key() {
        // Made in the same second: which of two UIDs comes first is chance.
        for (first, second) in [("r1", "r2"), ("r2", "r1")] {
            let mut live = Live::default();
            assert!(claim(&mut live, "k", first, "p1", 10));
            live.note_chain(&uid(first), 0, "chain");
            assert!(!claim(&mut live, "k", second, "p2", 10));
        }
    }

    /// As after a start, when the other's certificate is seen before it can be traced.
    #[test]
    fn a_certificate_that_is_not_traced_yet_keeps_its_key_too() {
        let pod = |name: &str| PodUid::parse(name).unwrap();
        let certified = |live: &mut Live| live.certified(&Sha256::of(b"k"), &uid("r1"), &pod("p1"), 10, 0);
        for other in ["r0", "r2", "r3"] {
            let mut live = Live::default();
            certified(&mut live);
            assert!(!claim(&mut live, "k", other, "p2", 10), "{other} came in the same second");
            let mut live = Live::default();
            assert!(claim(&mut live, "k", other, "p2", 9));
            certified(&mut live);
            assert!(!live.take(&uid(other), &pod("p2"), 0, "chain 2"), "{other} was being looked at");
        }
    }

    #[test]
    fn of_two_that_are_looked_at_at_once_one_takes_the_key() {
        let pod = |name: &str| PodUid::parse(name).unwrap();
        let mut live = Live::default();
        assert!(claim(&mut live, "k", "r2", "p2", 11));
        assert!(claim(&mut live, "k", "r1", "p1", 10), "made earlier, seen later");
        assert!(!live.take(&uid("r2"), &pod("p2"), 0, "chain 2"));
        assert!(live.take(&uid("r1"), &pod("p1"), 0, "chain 1"));

        let mut live = Live::default();
        assert!(claim(&mut live, "k", "r2", "p2", 11));
        assert!(live.take(&uid("r2"), &pod("p2"), 0, "chain 2"));
        assert!(!claim(&mut live, "k", "r1", "p1", 10), "the other has its certificate");
    }

    #[test]
    fn one_pod_may_ask_twice_with_one_key() {
        let mut live = Live::default();
        assert!(claim(&mut live, "k", "r1", "p1", 10) && claim(&mut live, "k", "r2", "p1", 11));
    }

    #[test]
    fn a_pod_that_asks_again_does_not_lose_its_key_to_another() {
        let mut live = Live::default();
        assert!(claim(&mut live, "k", "r1", "p1", 10));
        live.note_chain(&uid("r1"), 0, "chain");
        assert!(claim(&mut live, "k", "r3", "p1", 12));
        assert!(!claim(&mut live, "k", "r2", "p2", 11));
    }

    #[test]
    fn a_key_is_free_when_its_request_is_gone() {
        let mut live = Live::default();
        assert!(claim(&mut live, "k", "r1", "p1", 10));
        live.forget(&uid("r1"));
        assert!(claim(&mut live, "k", "r2", "p2", 11));
    }

    #[test]
    fn a_listing_that_does_not_show_a_request_ends_its_memory() {
        let mut live = Live::default();
        live.touch(0, 1, &uid("r1"));
        assert!(claim(&mut live, "k1", "r1", "p1", 10) && claim(&mut live, "k2", "r2", "p2", 10));
        live.touch(0, 2, &uid("r1"));
        live.sweep(1, 2);
        assert_eq!(live.requests.len(), 2);
        live.sweep(0, 2);
        assert_eq!((live.requests.len(), live.keys.len()), (1, 1));
        assert!(!claim(&mut live, "k1", "r3", "p3", 11) && claim(&mut live, "k2", "r4", "p4", 11));
    }

    #[test]
    fn only_the_very_chain_that_was_noted_is_known() {
        let mut live = Live::default();
        live.note_chain(&uid("r1"), 0, "chain");
        assert!(live.knows_chain(&uid("r1"), "chain"));
        assert!(!live.knows_chain(&uid("r1"), "another") && !live.knows_chain(&uid("r2"), "chain"));
    }
}
