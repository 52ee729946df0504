//! What is remembered of every live request, answered ones included: its public key, and its chain once we know it.
//!
//! Two pods with one key mean that somebody copied a key, or replayed a request that he could read: the later one gets nothing. Which
//! is the later the API server says, by the order in which it took them. A request is noted when it is seen, before it can be answered;
//! whoever has seen one has seen all that came before it, so that two replicas never certify one key for two pods, however little one
//! knows of what the other has answered.
//!
//! A chain that is known need not be traced when it comes back on the watch.
//!
//! Only half of each hash is kept: 128 bits, which nobody can choose without finding a preimage.

#![expect(
    clippy::indexing_slicing,
    reason = "what is in one of the two tables is the place of a request that is there"
)]

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    ops::{Index, IndexMut},
};

use hashbrown::HashTable;

use crate::names::{PodUid, RequestUid, Sha256};

/// All live requests that were seen. A hundred bytes each, and less than twenty to find it: there may be very many.
#[derive(Debug, Default)]
pub(crate) struct Live {
    requests: Rows,
    /// Where each request is.
    places: HashTable<Place>,
    /// Where those are that ask with each key: one request, as a rule.
    askers: HashTable<Place>,
    unanswered: usize,
    hasher: RandomState,
    /// The latest listing of each signer, by its number.
    rounds: HashMap<usize, u64>,
}

type Half = [u8; 16];
type Place = u32;

/// Requests by their places. In rows, for one long list would be copied whenever it grows, and leave a hole of its size.
#[derive(Debug, Default)]
struct Rows {
    rows: Vec<Vec<Known>>,
    /// The first place that was never taken.
    next: Place,
    /// Places that are free again.
    free: Vec<Place>,
}

impl Rows {
    fn insert(&mut self, known: Known) -> Place {
        if let Some(at) = self.free.pop() {
            self[at] = known;
            return at;
        }
        if self.rows.last().is_none_or(|row| row.len() == ROW) {
            self.rows.push(Vec::with_capacity(ROW));
        }
        if let Some(row) = self.rows.last_mut() {
            row.push(known);
        }
        let at = self.next;
        self.next = at.saturating_add(1);
        at
    }

    fn remove(&mut self, at: Place) -> Known {
        self.free.push(at);
        self[at]
    }

    /// Row and column.
    fn split(at: Place) -> (usize, usize) {
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        (at / ROW, at % ROW)
    }
}

impl Index<Place> for Rows {
    type Output = Known;

    fn index(&self, at: Place) -> &Known {
        let (row, column) = Self::split(at);
        &self.rows[row][column]
    }
}

impl IndexMut<Place> for Rows {
    fn index_mut(&mut self, at: Place) -> &mut Known {
        let (row, column) = Self::split(at);
        &mut self.rows[row][column]
    }
}

const ROW: usize = 1024;

#[derive(Clone, Copy, Debug)]
struct Known {
    request: Half,
    signer: u32,
    round: u32,
    chain: Option<Half>,
    asks: Option<Asker>,
    is_answered: bool,
}

#[derive(Clone, Copy, Debug)]
struct Asker {
    key: Half,
    pod: Half,
    /// The resourceVersion it was first seen with: a smaller one came first.
    place: u64,
    /// Whether it has, or is about to have, its certificate: then nobody comes first any more.
    served: bool,
}

/// A request, its key and its place among all requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asks<'a> {
    pub(crate) key: &'a Sha256,
    pub(crate) request: &'a RequestUid,
    pub(crate) pod: &'a PodUid,
    pub(crate) place: u64,
}

impl Live {
    /// Notes that a request was seen in a listing, or after it, answered or not.
    pub(crate) fn touch(&mut self, signer: usize, round: u64, request: &RequestUid, is_answered: bool) {
        self.rounds.insert(signer, round);
        let at = self.known(half(request.as_str()), signer);
        self.requests[at].round = short(round);
        self.set_answered(at, is_answered);
    }

    /// How many there are, and how many of them are not answered.
    pub(crate) fn count(&self) -> (usize, usize) {
        (self.places.len(), self.unanswered)
    }

    /// Notes that a request was answered, whatever the answer.
    pub(crate) fn note_answer(&mut self, request: &RequestUid) {
        if let Some(at) = self.find(&half(request.as_str())) {
            self.set_answered(at, true);
        }
    }

    fn set_answered(&mut self, at: Place, is_answered: bool) {
        match (std::mem::replace(&mut self.requests[at].is_answered, is_answered), is_answered) {
            (false, true) => self.unanswered = self.unanswered.saturating_sub(1),
            (true, false) => self.unanswered = self.unanswered.saturating_add(1),
            (true, true) | (false, false) => {}
        }
    }

    /// Whether a request was seen, and no answer to it.
    pub(crate) fn is_unanswered(&self, request: &RequestUid) -> bool {
        self.find(&half(request.as_str())).is_some_and(|at| !self.requests[at].is_answered)
    }

    /// Whether an answer to a request was seen.
    pub(crate) fn is_answered(&self, request: &RequestUid) -> bool {
        self.find(&half(request.as_str())).is_some_and(|at| self.requests[at].is_answered)
    }

    /// Notes that a request has this key. False if the key is another pod's, who came earlier or has a certificate.
    pub(crate) fn claim(&mut self, signer: usize, asks: Asks<'_>) -> bool {
        let at = self.known(half(asks.request.as_str()), signer);
        self.note(at, asks, self.requests[at].chain.is_some())
    }

    /// Notes that a request of this key has its certificate, whoever wrote it and whether or not it has been traced: whoever asks with the
    /// key and has none gives way, or a replica that has just started would certify the key a second time.
    pub(crate) fn certified(&mut self, signer: usize, asks: Asks<'_>) {
        let at = self.known(half(asks.request.as_str()), signer);
        self.note(at, asks, true);
    }

    fn note(&mut self, at: Place, asks: Asks<'_>, served: bool) -> bool {
        let (key, pod) = (first_half(asks.key), half(asks.pod.as_str()));
        if let Some(known) = &mut self.requests[at].asks {
            known.served |= served;
        } else {
            self.requests[at].asks = Some(Asker { key, pod, place: asks.place, served });
            let Self { requests, askers, hasher, .. } = self;
            let hash = |at: &Place| hasher.hash_one(requests[*at].asks.map(|asks| asks.key));
            askers.insert_unique(hash(&at), at, hash);
        }
        self.has(&key, &pod)
    }

    /// Whether this key is this pod's: it has a certificate, or asked first.
    fn has(&self, key: &Half, pod: &Half) -> bool {
        let candidates = self.askers.iter_hash(self.hasher.hash_one(Some(key))).map(|at| &self.requests[*at]);
        let askers =
            candidates.filter_map(|known| known.asks.filter(|asks| asks.key == *key).map(|asks| (known.request, asks)));
        let first = askers.min_by_key(|(request, asks)| (!asks.served, asks.place, *request));
        first.is_none_or(|(_, first)| first.pod == *pod)
    }

    /// Takes the key for good, just before its certificate goes out. False if it has turned out to be another pod's while this request
    /// was looked at: only one may have it.
    pub(crate) fn take(&mut self, request: &RequestUid, pod: &PodUid, signer: usize, chain: &str) -> bool {
        let asks = self.find(&half(request.as_str())).and_then(|at| self.requests[at].asks);
        if asks.is_some_and(|asks| !self.has(&asks.key, &half(pod.as_str()))) {
            return false;
        }
        self.note_chain(request, signer, chain);
        true
    }

    /// Notes the chain of a request: what we are about to publish, before the watch shows it, or what was traced already.
    pub(crate) fn note_chain(&mut self, request: &RequestUid, signer: usize, chain: &str) {
        let at = self.known(half(request.as_str()), signer);
        let known = &mut self.requests[at];
        known.chain = Some(half(chain));
        if let Some(asks) = &mut known.asks {
            asks.served = true;
        }
    }

    /// Whether this very chain was noted.
    pub(crate) fn knows_chain(&self, request: &RequestUid, chain: &str) -> bool {
        self.find(&half(request.as_str())).is_some_and(|at| self.requests[at].chain == Some(half(chain)))
    }

    /// The request is gone.
    pub(crate) fn forget(&mut self, request: &RequestUid) {
        if let Some(at) = self.find(&half(request.as_str())) {
            self.remove(at);
        }
    }

    /// Forgets every request of a signer that its last listing did not show.
    pub(crate) fn sweep(&mut self, signer: usize, round: u64) {
        let (signer, round) = (short(signer), short(round));
        let is_gone = |known: &Known| known.signer == signer && known.round < round;
        let gone: Vec<Place> = self.places.iter().copied().filter(|at| is_gone(&self.requests[*at])).collect();
        gone.into_iter().for_each(|at| self.remove(at));
    }

    /// Forgets every request of a signer that is not in force any more.
    pub(crate) fn dismiss(&mut self, is_gone: impl Fn(usize) -> bool) {
        let gone: Vec<usize> = self.rounds.extract_if(|signer, _| is_gone(*signer)).map(|(signer, _)| signer).collect();
        for signer in gone {
            self.sweep(signer, u64::MAX);
        }
    }

    fn find(&self, request: &Half) -> Option<Place> {
        self.places.find(self.hasher.hash_one(request), |at| self.requests[*at].request == *request).copied()
    }

    /// Where it is: from now on, if it was not known.
    fn known(&mut self, request: Half, signer: usize) -> Place {
        if let Some(at) = self.find(&request) {
            return at;
        }
        let (signer, round) = (short(signer), short(self.rounds.get(&signer).copied().unwrap_or(0)));
        let at = self.requests.insert(Known { request, signer, round, chain: None, asks: None, is_answered: false });
        self.unanswered = self.unanswered.saturating_add(1);
        let Self { requests, places, hasher, .. } = self;
        let hash = |at: &Place| hasher.hash_one(requests[*at].request);
        places.insert_unique(hash(&at), at, hash);
        at
    }

    fn remove(&mut self, at: Place) {
        self.set_answered(at, true);
        let known = self.requests.remove(at);
        let lists = [
            (&mut self.places, Some(self.hasher.hash_one(known.request))),
            (&mut self.askers, known.asks.map(|asks| self.hasher.hash_one(Some(asks.key)))),
        ];
        for (list, hash) in lists {
            if let Some(Ok(entry)) = hash.map(|hash| list.find_entry(hash, |place| *place == at)) {
                entry.remove();
            }
        }
    }
}

/// Signers and listings are few.
fn short(number: impl TryInto<u32>) -> u32 {
    number.try_into().unwrap_or(u32::MAX)
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
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn uid(request: &str) -> RequestUid {
        RequestUid::parse(request).unwrap()
    }

    fn claim(live: &mut Live, key: &str, request: &str, pod: &str, place: u64) -> bool {
        let (key, request, pod) = (Sha256::of(key.as_bytes()), uid(request), PodUid::parse(pod).unwrap());
        live.claim(0, Asks { key: &key, request: &request, pod: &pod, place })
    }

    fn certified(live: &mut Live, key: &str, request: &str, pod: &str, place: u64) {
        let (key, request, pod) = (Sha256::of(key.as_bytes()), uid(request), PodUid::parse(pod).unwrap());
        live.certified(0, Asks { key: &key, request: &request, pod: &pod, place });
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
        let mut live = Live::default();
        assert!(claim(&mut live, "k", "r1", "p1", 10));
        live.note_chain(&uid("r1"), 0, "chain");
        assert!(!claim(&mut live, "k", "r2", "p2", 9), "even from one who came first and was seen later");
    }

    /// As after a start, when the other's certificate is seen before it can be traced.
    #[test]
    fn a_certificate_that_is_not_traced_yet_keeps_its_key_too() {
        let mut live = Live::default();
        certified(&mut live, "k", "r1", "p1", 10);
        assert!(!claim(&mut live, "k", "r2", "p2", 9));
        let mut live = Live::default();
        assert!(claim(&mut live, "k", "r2", "p2", 9));
        certified(&mut live, "k", "r1", "p1", 10);
        assert!(!live.take(&uid("r2"), &PodUid::parse("p2").unwrap(), 0, "chain 2"), "it was being looked at");
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

    /// Each of them keeps the key, not only the last one that was seen.
    #[test]
    fn a_pod_keeps_its_key_while_one_of_its_requests_lives() {
        for gone in ["r1", "r2", "r3"] {
            let mut live = Live::default();
            for (request, place) in [("r1", 10), ("r2", 11)] {
                assert!(claim(&mut live, "k", request, "p1", place));
                live.note_chain(&uid(request), 0, "chain");
            }
            certified(&mut live, "k", "r3", "p1", 12);
            live.forget(&uid(gone));
            assert!(!claim(&mut live, "k", "r4", "p2", 13), "{gone}");
        }
    }

    #[test]
    fn the_next_in_line_has_a_key_when_the_first_is_gone() {
        let mut live = Live::default();
        for (request, pod, place, has) in [("r1", "p1", 10, true), ("r3", "p3", 12, false), ("r2", "p2", 11, false)] {
            assert_eq!(claim(&mut live, "k", request, pod, place), has);
        }
        live.forget(&uid("r1"));
        assert!(!claim(&mut live, "k", "r3", "p3", 12));
        assert!(claim(&mut live, "k", "r2", "p2", 11));
        live.forget(&uid("r2"));
        live.forget(&uid("r3"));
        assert!(live.askers.is_empty() && live.places.is_empty());
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
        live.touch(0, 1, &uid("r1"), false);
        assert!(claim(&mut live, "k1", "r1", "p1", 10) && claim(&mut live, "k2", "r2", "p2", 10));
        live.touch(0, 2, &uid("r1"), true);
        live.sweep(1, 2);
        assert_eq!(live.count(), (2, 1));
        live.sweep(0, 2);
        assert_eq!((live.count(), live.askers.len()), ((1, 0), 1));
        assert!(!claim(&mut live, "k1", "r3", "p3", 11) && claim(&mut live, "k2", "r4", "p4", 11));
    }

    #[test]
    fn only_the_very_chain_that_was_noted_is_known() {
        let mut live = Live::default();
        live.note_chain(&uid("r1"), 0, "chain");
        assert!(live.knows_chain(&uid("r1"), "chain"));
        assert!(!live.knows_chain(&uid("r1"), "another") && !live.knows_chain(&uid("r2"), "chain"));
    }

    proptest! {
        /// Whatever happens in whatever order: who has a key is whom the plain rule names, and nothing is left of what is gone.
        #[test]
        fn it_is_the_plain_rule(steps in prop::collection::vec((0..5_u8, 0..6_u8, 0..3_u8, 0..4_u8), 0..60)) {
            let (mut live, mut all) = (Live::default(), BTreeMap::<u8, (u8, u8, bool)>::new());
            for (what, request, key, pod) in steps {
                let (name, place) = (format!("r{request}"), u64::from(request));
                let (key, pod, _) = *all.get(&request).unwrap_or(&(key, pod, false));
                let has = |all: &BTreeMap<u8, (u8, u8, bool)>| {
                    let askers = all.iter().filter(|(_, (other, ..))| *other == key);
                    // Of two who have their certificate, as of two who have none, who came first.
                    askers.min_by_key(|(request, (.., served))| (!served, **request)).is_none_or(|(_, (_, first, _))| *first == pod)
                };
                match what {
                    0 | 1 => {
                        all.entry(request).or_insert((key, pod, false));
                        let is_first = claim(&mut live, &format!("k{key}"), &name, &format!("p{pod}"), place);
                        prop_assert_eq!(is_first, has(&all));
                    }
                    2 => {
                        all.insert(request, (key, pod, true));
                        certified(&mut live, &format!("k{key}"), &name, &format!("p{pod}"), place);
                    }
                    3 if all.contains_key(&request) => {
                        let takes = live.take(&uid(&name), &PodUid::parse(&format!("p{pod}")).unwrap(), 0, "chain");
                        prop_assert_eq!(takes, has(&all));
                        if takes {
                            all.insert(request, (key, pod, true));
                        }
                    }
                    _ => {
                        live.forget(&uid(&name));
                        all.remove(&request);
                    }
                }
                prop_assert_eq!((live.count(), live.askers.len()), ((all.len(), all.len()), all.len()));
            }
        }
    }
}
