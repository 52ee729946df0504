//! The unanswered requests and what is happening to each: ready, in flight, or waiting for a cause or a moment. Pure: time comes
//! in as an argument.
//!
//! Namespaces take turns, so that a flood in one does not delay the others. Within a namespace the oldest goes first; but once
//! the oldest has waited for more than a minute the newest does. Where more is asked for than can be served, either order serves as
//! many; but the oldest first serves each of them minutes after it asked, just before the cleaner deletes it, and the newest first
//! within seconds (`backlog` simulates both: half an hour at twice what can be served, and every pod asks anew when its request was
//! deleted). Under what passes within a minute nobody is overtaken.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::names::RequestUid;

/// What a waiting request waits for, besides its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaits {
    /// Nothing that we would be told of.
    Time,
    /// The CA, or the trust in it.
    Authority,
    /// The admission guard.
    Guard,
    /// The PodSigner.
    Policy,
    /// That we are first.
    Turn,
    /// The end of the listing that first showed it.
    Listing,
}

/// What becomes of a request after a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is answered or gone.
    Leave,
    /// Look again then, or when what it waits for changes.
    Wait { until: Instant, awaits: Awaits },
}

/// `T` is what the controller keeps with each request.
pub(crate) struct Queue<T> {
    entries: HashMap<RequestUid, Box<Entry<T>>>,
    /// How many of each namespace there are.
    sizes: HashMap<Arc<str>, usize>,
    ready: HashMap<Arc<str>, VecDeque<RequestUid>>,
    /// The namespaces that have something ready, each once, in the order of their turns.
    turns: VecDeque<Arc<str>>,
    timers: BTreeSet<(Instant, RequestUid)>,
}

struct Entry<T> {
    namespace: Arc<str>,
    item: T,
    place: Place,
    seen: Instant,
    round: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Ready,
    InFlight,
    Waiting { until: Instant, awaits: Awaits },
}

/// Of the line of a namespace.
enum End {
    Oldest,
    Newest,
}

/// How many requests are where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    pub(crate) ready: usize,
    pub(crate) in_flight: usize,
    pub(crate) waiting: usize,
}

impl<T> Queue<T> {
    pub(crate) fn new() -> Self {
        Self {
            entries: HashMap::new(),
            sizes: HashMap::new(),
            ready: HashMap::new(),
            turns: VecDeque::new(),
            timers: BTreeSet::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is room for one more of this namespace, where so many may be in all. One that floods may take two thirds, two of them
    /// four fifths, and so on: the more there are of it, the more room it leaves to others.
    pub(crate) fn has_room(&self, namespace: &str, most: usize) -> bool {
        let free = most.saturating_sub(self.len());
        self.sizes.get(namespace).copied().unwrap_or(0) < free.saturating_mul(2)
    }

    pub(crate) fn get(&self, uid: &RequestUid) -> Option<&T> {
        self.entries.get(uid).map(|entry| &entry.item)
    }

    pub(crate) fn get_mut(&mut self, uid: &RequestUid) -> Option<&mut T> {
        self.entries.get_mut(uid).map(|entry| &mut entry.item)
    }

    /// Adds a request, ready. `round` is the listing it was seen in.
    pub(crate) fn add(&mut self, uid: &RequestUid, namespace: &str, item: T, round: u64, now: Instant) {
        self.remove(uid);
        let namespace: Arc<str> = match self.sizes.get_key_value(namespace) {
            Some((known, _)) => Arc::clone(known),
            None => namespace.into(),
        };
        let size = self.sizes.entry(Arc::clone(&namespace)).or_default();
        *size = size.saturating_add(1);
        let entry = Box::new(Entry { namespace, item, place: Place::Ready, seen: now, round });
        self.entries.insert(uid.clone(), entry);
        self.line_up(uid);
    }

    /// Notes that a known request was seen again in `round`.
    pub(crate) fn touch(&mut self, uid: &RequestUid, round: u64) {
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.round = round;
        }
    }

    pub(crate) fn remove(&mut self, uid: &RequestUid) -> Option<T> {
        self.step_out(uid);
        self.forget(uid)
    }

    fn forget(&mut self, uid: &RequestUid) -> Option<T> {
        let entry = self.entries.remove(uid)?;
        if let Some(size) = self.sizes.get_mut(&entry.namespace) {
            *size = size.saturating_sub(1);
            if *size == 0 {
                self.sizes.remove(&entry.namespace);
            }
        }
        Some(entry.item)
    }

    /// The next request whose turn it is and that has been known for at least `age`. It is in flight from now on.
    pub(crate) fn take(&mut self, age: Duration, now: Instant) -> Option<RequestUid> {
        for _ in 0..self.turns.len() {
            let namespace = self.turns.pop_front()?;
            let end = self.choose(&namespace, age, now);
            let chosen = self.ready.get_mut(&namespace).and_then(|waiting| match end? {
                End::Oldest => waiting.pop_front(),
                End::Newest => waiting.pop_back(),
            });
            if self.ready.get(&namespace).is_some_and(|waiting| !waiting.is_empty()) {
                self.turns.push_back(namespace);
            } else {
                self.ready.remove(&namespace);
            }
            if let Some(uid) = chosen {
                if let Some(entry) = self.entries.get_mut(&uid) {
                    entry.place = Place::InFlight;
                }
                return Some(uid);
            }
        }
        None
    }

    /// What becomes of a request that was in flight. One that was removed meanwhile stays away.
    pub(crate) fn settle(&mut self, uid: &RequestUid, next: Next) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if entry.place != Place::InFlight {
            return;
        }
        match next {
            Next::Leave => drop(self.forget(uid)),
            Next::Wait { until, awaits } => {
                entry.place = Place::Waiting { until, awaits };
                self.timers.insert((until, uid.clone()));
            }
        }
    }

    /// Makes everything ready that waits for this, the oldest first.
    pub(crate) fn wake(&mut self, cause: Awaits) {
        let mut woken: Vec<(Instant, RequestUid)> = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry.place, Place::Waiting { awaits, .. } if awaits == cause))
            .map(|(uid, entry)| (entry.seen, uid.clone()))
            .collect();
        woken.sort_unstable();
        for (_, uid) in woken {
            self.step_out(&uid);
            self.line_up(&uid);
        }
    }

    /// Makes everything ready whose time has come.
    pub(crate) fn wake_due(&mut self, now: Instant) {
        while let Some((until, uid)) = self.timers.first().cloned() {
            if until > now {
                return;
            }
            self.step_out(&uid);
            self.line_up(&uid);
        }
    }

    /// When the next waiting request is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.timers.first().map(|(until, _)| *until)
    }

    /// Removes what fits `test` and was not seen in `round` or later.
    pub(crate) fn sweep(&mut self, round: u64, test: impl Fn(&T) -> bool) -> Vec<T> {
        let gone: Vec<RequestUid> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.round < round && test(&entry.item))
            .map(|(uid, _)| uid.clone())
            .collect();
        gone.iter().filter_map(|uid| self.remove(uid)).collect()
    }

    pub(crate) fn items(&self) -> impl Iterator<Item = &T> {
        self.entries.values().map(|entry| &entry.item)
    }

    /// What waits for a cause or a moment.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = &T> {
        let waits = |entry: &Entry<T>| matches!(entry.place, Place::Waiting { .. });
        self.entries.values().filter(move |entry| waits(entry)).map(|entry| &entry.item)
    }

    pub(crate) fn depth(&self) -> Depth {
        let mut depth = Depth::default();
        for entry in self.entries.values() {
            let count = match entry.place {
                Place::Ready => &mut depth.ready,
                Place::InFlight => &mut depth.in_flight,
                Place::Waiting { .. } => &mut depth.waiting,
            };
            *count = count.saturating_add(1);
        }
        depth
    }

    fn choose(&self, namespace: &Arc<str>, age: Duration, now: Instant) -> Option<End> {
        let waiting = self.ready.get(namespace)?;
        let waited = |uid| self.entries.get(uid).map(|entry| now.saturating_duration_since(entry.seen));
        let (oldest, newest) = (waited(waiting.front()?)?, waited(waiting.back()?)?);
        match () {
            () if oldest > BACKLOG && newest >= age => Some(End::Newest),
            () if oldest >= age => Some(End::Oldest),
            () => None,
        }
    }

    /// Puts an entry at the end of its namespace's line.
    fn line_up(&mut self, uid: &RequestUid) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.place = Place::Ready;
        let waiting = self.ready.entry(Arc::clone(&entry.namespace)).or_default();
        if waiting.is_empty() {
            self.turns.push_back(Arc::clone(&entry.namespace));
        }
        waiting.push_back(uid.clone());
    }

    /// Takes an entry out of the line or from the timers, wherever it is.
    fn step_out(&mut self, uid: &RequestUid) {
        let Some(entry) = self.entries.get(uid) else { return };
        match entry.place {
            Place::InFlight => {}
            Place::Waiting { until, .. } => {
                self.timers.remove(&(until, uid.clone()));
            }
            Place::Ready => {
                let namespace = Arc::clone(&entry.namespace);
                if let Some(waiting) = self.ready.get_mut(&namespace) {
                    if let Some(at) = place_in(waiting, uid) {
                        waiting.remove(at);
                    }
                    if waiting.is_empty() {
                        self.ready.remove(&namespace);
                        self.turns.retain(|turn| *turn != namespace);
                    }
                }
            }
        }
    }
}

/// Looked for from both ends: what another replica answers is near one of them, as a rule.
fn place_in(line: &VecDeque<RequestUid>, uid: &RequestUid) -> Option<usize> {
    line.iter().zip(line.iter().rev()).enumerate().find_map(|(at, (front, back))| match () {
        () if front == uid => Some(at),
        () if back == uid => line.len().checked_sub(at)?.checked_sub(1),
        () => None,
    })
}

/// Twice what any healthy burst takes; the cleaner deletes at fifteen minutes, long after.
const BACKLOG: Duration = Duration::from_mins(1);

#[cfg(test)]
mod backlog;

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(name: &str) -> RequestUid {
        RequestUid::parse(name).unwrap()
    }

    fn queue(requests: &[(&str, &str)], now: Instant) -> Queue<()> {
        let mut queue = Queue::new();
        for (namespace, name) in requests {
            queue.add(&uid(name), namespace, (), 0, now);
        }
        queue
    }

    fn take_all(queue: &mut Queue<()>, now: Instant) -> Vec<String> {
        std::iter::from_fn(|| queue.take(Duration::ZERO, now)).map(|uid| uid.as_str().to_owned()).collect()
    }

    #[test]
    fn namespaces_take_turns() {
        let now = Instant::now();
        let mut queue =
            queue(&[("flood", "f1"), ("flood", "f2"), ("flood", "f3"), ("quiet", "q1"), ("calm", "c1")], now);
        assert_eq!(take_all(&mut queue, now), ["f1", "q1", "c1", "f2", "f3"]);
    }

    #[test]
    fn the_newest_goes_first_once_the_oldest_has_waited_for_a_minute() {
        let start = Instant::now();
        let later = start + Duration::from_secs(61);
        let mut queue = queue(&[("shop", "old"), ("shop", "older")], start);
        queue.add(&uid("new"), "shop", (), 0, later);
        assert_eq!(take_all(&mut queue, later), ["new", "older", "old"]);
    }

    #[test]
    fn a_standby_takes_only_what_has_waited() {
        let start = Instant::now();
        let mut queue = queue(&[("shop", "a"), ("bank", "b")], start);
        let age = Duration::from_secs(1);
        assert_eq!(queue.take(age, start + Duration::from_millis(999)), None);
        assert_eq!(queue.take(age, start + age), Some(uid("a")));
        queue.add(&uid("young"), "bank", (), 0, start + age);
        assert_eq!(queue.take(age, start + age), Some(uid("b")));
        assert_eq!(queue.take(age, start + age), None);
    }

    #[test]
    fn a_waiting_request_comes_back_at_its_time_or_when_its_cause_changes() {
        let now = Instant::now();
        let until = now + Duration::from_secs(5);
        let mut queue = queue(&[("shop", "a"), ("shop", "b")], now);
        for (name, awaits) in [("a", Awaits::Time), ("b", Awaits::Guard)] {
            assert_eq!(queue.take(Duration::ZERO, now), Some(uid(name)));
            queue.settle(&uid(name), Next::Wait { until, awaits });
        }
        assert_eq!(queue.next_due(), Some(until));
        queue.wake(Awaits::Authority);
        assert_eq!(queue.take(Duration::ZERO, now), None);
        queue.wake(Awaits::Guard);
        assert_eq!(take_all(&mut queue, now), ["b"]);
        queue.wake_due(until - Duration::from_millis(1));
        assert_eq!(queue.take(Duration::ZERO, now), None);
        queue.wake_due(until);
        assert_eq!(take_all(&mut queue, now), ["a"]);
        assert_eq!(queue.next_due(), None);
    }

    #[test]
    fn what_is_woken_by_one_cause_stands_in_the_order_it_came() {
        let start = Instant::now();
        let mut queue = Queue::new();
        let names: Vec<String> = (0..40).map(|number| format!("r{:02}", (number * 7) % 40)).collect();
        for (second, name) in (0..).zip(&names) {
            queue.add(&uid(name), "shop", (), 0, start + Duration::from_millis(second));
        }
        let now = start + Duration::from_secs(1);
        while let Some(uid) = queue.take(Duration::ZERO, now) {
            queue.settle(&uid, Next::Wait { until: now + Duration::from_secs(30), awaits: Awaits::Authority });
        }
        queue.wake(Awaits::Authority);
        assert_eq!(take_all(&mut queue, now), names);
    }

    #[test]
    fn a_deleted_request_leaves_wherever_it_is() {
        let now = Instant::now();
        let mut queue = queue(&[("shop", "ready"), ("bank", "flying"), ("mill", "waiting")], now);
        assert_eq!(queue.take(Duration::ZERO, now), Some(uid("ready")));
        queue.settle(&uid("ready"), Next::Wait { until: now, awaits: Awaits::Time });
        queue.wake_due(now);
        assert_eq!(queue.take(Duration::ZERO, now), Some(uid("flying")));
        assert_eq!(queue.take(Duration::ZERO, now), Some(uid("waiting")));
        queue.settle(&uid("waiting"), Next::Wait { until: now, awaits: Awaits::Time });
        assert_eq!(queue.depth(), Depth { ready: 1, in_flight: 1, waiting: 1 });
        for name in ["ready", "flying", "waiting"] {
            queue.remove(&uid(name));
        }
        queue.settle(&uid("flying"), Next::Leave);
        queue.wake_due(now);
        assert_eq!((queue.len(), queue.take(Duration::ZERO, now)), (0, None));
        assert!(queue.turns.is_empty() && queue.ready.is_empty() && queue.timers.is_empty());
    }

    #[test]
    fn a_deleted_request_leaves_the_others_in_their_order() {
        let (now, names) = (Instant::now(), ["a", "b", "c", "d", "e"]);
        for gone in names {
            let mut queue = queue(&names.map(|name| ("shop", name)), now);
            queue.remove(&uid(gone));
            let left: Vec<&str> = names.into_iter().filter(|name| *name != gone).collect();
            assert_eq!(take_all(&mut queue, now), left);
        }
    }

    #[test]
    fn a_sweep_removes_what_the_last_listing_did_not_show() {
        let now = Instant::now();
        let mut queue = queue(&[("shop", "kept"), ("shop", "gone")], now);
        queue.touch(&uid("kept"), 7);
        assert_eq!(queue.sweep(7, |()| false).len(), 0);
        assert_eq!(queue.sweep(7, |()| true).len(), 1);
        assert_eq!(take_all(&mut queue, now), ["kept"]);
    }
}
