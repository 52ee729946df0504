//! The connections that are open: which end when their peer's certificate ends, and which when trust or the authorizer changes.
//!
//! A TLS connection outlives what let it in, unless somebody looks again. Acceptors and connectors register each connection here; the task that follows the
//! files looks. Trust that grows closes nothing.

use crate::authorize::Authorizer;
use crate::meter;
use crate::snapshot::Snapshot;
use crate::verify::{self, Moment, Side};
use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, UnixTime};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Why an open connection ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Ending {
    /// The peer's certificate reaches its end.
    #[error("the peer's certificate has reached its end")]
    PeerExpires,
    /// The connection is as old as connections may get here.
    #[error("the connection has reached its greatest age")]
    MaxAge,
    /// The peer's chain no longer verifies: an anchor was withdrawn.
    #[error("the peer is no longer trusted ({0})")]
    TrustLost(&'static str),
    /// The authorizer was replaced, and the new one does not let the peer in.
    #[error("the peer is no longer allowed")]
    NotAllowed,
}

impl Ending {
    /// A stable name, for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::PeerExpires => "peer_expires",
            Self::MaxAge => "max_age",
            Self::TrustLost(_) => "trust_lost",
            Self::NotAllowed => "not_allowed",
        }
    }
}

/// How near a connection is to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Finish what is under way; it ends soon.
    Ending(Ending),
    /// Nothing passes any more.
    Ended(Ending),
}

/// Before a deadline, so long is left to finish in good order.
const GRACE: Duration = Duration::from_secs(30);

/// All open connections of an identity.
#[derive(Default)]
pub(crate) struct Connections {
    open: Mutex<Open>,
    /// The task should look again: an earlier deadline, or another authorizer.
    pub(crate) changed: Notify,
}

#[derive(Default)]
struct Open {
    next_id: u64,
    /// By what the peer showed, so that one check serves all of its connections.
    peers: BTreeMap<Shown, BTreeMap<u64, Entry>>,
    deadlines: BTreeSet<(Instant, u64, Step)>,
    /// Which peer a connection belongs to, and its deadlines.
    by_id: BTreeMap<u64, (Shown, [Option<Instant>; 2])>,
    recheck: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Soft,
    Hard,
}

/// The peer's chain, and the side it stands on.
#[derive(Clone, PartialEq, Eq)]
struct Shown {
    is_client: bool,
    chain: Arc<[CertificateDer<'static>]>,
}

impl Ord for Shown {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.chain, &other.chain) {
            return self.is_client.cmp(&other.is_client);
        }
        self.is_client.cmp(&other.is_client).then_with(|| {
            let (ours, theirs) = (self.chain.iter(), other.chain.iter());
            ours.map(AsRef::<[u8]>::as_ref).cmp(theirs.map(AsRef::<[u8]>::as_ref))
        })
    }
}

impl PartialOrd for Shown {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

struct Entry {
    authorizer: Authorizer,
    phase: watch::Sender<Phase>,
    not_after: UnixTime,
    reason: Ending,
}

/// What a new connection brings.
pub(crate) struct Newcomer {
    pub(crate) side: Side,
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) authorizer: Authorizer,
    pub(crate) not_after: UnixTime,
    pub(crate) max_age: Option<Duration>,
}

/// A registered connection; its drop is the end of the registration.
pub(crate) struct Registered {
    id: u64,
    connections: Weak<Connections>,
    phase: watch::Receiver<Phase>,
}

impl Registered {
    pub(crate) fn phase(&self) -> &watch::Receiver<Phase> {
        &self.phase
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if let Some(connections) = self.connections.upgrade() {
            let mut open = connections.lock();
            open.remove(self.id);
            meter::open(open.by_id.len());
        }
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registered({})", self.id)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connections({})", self.lock().by_id.len())
    }
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are open.
    pub(crate) fn len(&self) -> usize {
        self.lock().by_id.len()
    }

    /// Registers a connection that was just verified, at this time.
    pub(crate) fn register(self: &Arc<Self>, newcomer: Newcomer, now: UnixTime) -> Registered {
        let Newcomer { side, chain, authorizer, not_after, max_age } = newcomer;
        // Whole seconds: a certificate is good through its last one.
        let left = not_after.as_secs().saturating_add(1).saturating_sub(now.as_secs());
        let (left, reason) = match max_age.map(spread) {
            Some(age) if age < Duration::from_secs(left) => (age, Ending::MaxAge),
            Some(_) | None => (Duration::from_secs(left), Ending::PeerExpires),
        };
        let shown = Shown { is_client: side == Side::Client, chain: chain.into() };
        let (phase, receiver) = watch::channel(Phase::Open);

        let mut open = self.lock();
        let id = open.next_id;
        open.next_id = open.next_id.saturating_add(1);
        let earliest = open.deadlines.first().map(|first| first.0);
        let started = Instant::now();
        // A deadline beyond what the clock can count is none.
        let hard = started.checked_add(left);
        // `now` may be almost a second further than it says, and the wall clock ends a connection too: the warning comes before both.
        let least = left.min(Duration::from_secs(not_after.as_secs().saturating_sub(now.as_secs())));
        let soft = started.checked_add(least.saturating_sub(GRACE.min(left.checked_div(10).unwrap_or(GRACE))));
        open.deadlines.extend(soft.map(|at| (at, id, Step::Soft)));
        open.deadlines.extend(hard.map(|at| (at, id, Step::Hard)));
        // The same chain is kept once.
        let shown = open.peers.get_key_value(&shown).map_or(shown, |(known, _)| known.clone());
        open.by_id.insert(id, (shown.clone(), [soft, hard]));
        open.peers.entry(shown).or_default().insert(id, Entry { authorizer, phase, not_after, reason });
        meter::open(open.by_id.len());
        if open.deadlines.first().map(|first| first.0) != earliest {
            self.changed.notify_one();
        }
        drop(open);
        Registered { id, connections: Arc::downgrade(self), phase: receiver }
    }

    /// Asks the task to look at every connection again.
    pub(crate) fn recheck_soon(&self) {
        self.lock().recheck = true;
        self.changed.notify_one();
    }

    /// When the next deadline comes.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.lock().deadlines.first().map(|first| first.0)
    }

    /// Ends what is due, by the steady clock.
    pub(crate) fn end_due(&self) {
        let now = Instant::now();
        let mut open = self.lock();
        while let Some((at, id, step)) = open.deadlines.first().copied()
            && at <= now
        {
            open.deadlines.pop_first();
            let Some(entry) = open.entry(id) else { continue };
            let reason = entry.reason.clone();
            match step {
                Step::Soft => entry.soften(reason),
                Step::Hard => entry.end(reason),
            }
        }
    }

    /// Ends what the wall clock says is over: it may have jumped.
    pub(crate) fn end_expired(&self, now: UnixTime) {
        for entry in self.lock().peers.values().flat_map(BTreeMap::values) {
            if now.as_secs() > entry.not_after.as_secs() {
                entry.end(Ending::PeerExpires);
            }
        }
    }

    /// Whether somebody asked for a second look; asking once is enough.
    pub(crate) fn take_request(&self) -> bool {
        std::mem::take(&mut self.lock().recheck)
    }

    /// Verifies every peer again, each chain once, and ends the connections of those that no longer pass. Returns how many it ended.
    pub(crate) fn recheck(&self, snapshot: &Snapshot, moment: Moment, provider: &CryptoProvider) -> usize {
        // The checks take about 55 µs each, so they are made without the lock: new connections go on.
        let shown: Vec<Shown> = self.lock().peers.keys().cloned().collect();
        let mut ended = 0_usize;
        for shown in shown {
            let side = if shown.is_client { Side::Client } else { Side::Server };
            let verdict = verify::again(&shown.chain, side, snapshot, moment, provider);
            let open = self.lock();
            for entry in open.peers.get(&shown).into_iter().flat_map(BTreeMap::values) {
                let over = match &verdict {
                    Ok(peer) if entry.authorizer.allows(peer) => continue,
                    Ok(_) => Ending::NotAllowed,
                    Err(reason) => Ending::TrustLost(reason.name()),
                };
                entry.end(over);
                ended = ended.saturating_add(1);
            }
        }
        ended
    }
}

impl Open {
    fn entry(&self, id: u64) -> Option<&Entry> {
        self.peers.get(&self.by_id.get(&id)?.0)?.get(&id)
    }

    fn remove(&mut self, id: u64) {
        let Some((shown, [soft, hard])) = self.by_id.remove(&id) else { return };
        if let Some(entries) = self.peers.get_mut(&shown) {
            entries.remove(&id);
            if entries.is_empty() {
                self.peers.remove(&shown);
            }
        }
        for (at, step) in [(soft, Step::Soft), (hard, Step::Hard)] {
            if let Some(at) = at {
                self.deadlines.remove(&(at, id, step));
            }
        }
    }
}

impl Entry {
    fn soften(&self, why: Ending) {
        self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Open;
            if first {
                *phase = Phase::Ending(why);
            }
            first
        });
    }

    fn end(&self, why: Ending) {
        self.phase.send_if_modified(|phase| {
            let first = !matches!(phase, Phase::Ended(_));
            if first {
                tracing::info!(%why, "closing a connection");
                meter::closed(&why);
                *phase = Phase::Ended(why);
            }
            first
        });
    }
}

/// Ten per cent more or less, so that connections that began together do not end together.
fn spread(age: Duration) -> Duration {
    let random = RandomState::new().hash_one(age) % 201;
    let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    let part = millis.saturating_mul(random.saturating_add(900)).checked_div(1000).unwrap_or(millis);
    Duration::from_millis(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_comes_before_the_wall_clock_ends_it() {
        let connections = Arc::new(Connections::default());
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let newcomer = Newcomer {
            side: Side::Client,
            chain: Vec::new(),
            authorizer: Authorizer::one_of([]),
            not_after: at(1004),
            max_age: None,
        };
        let _registered = connections.register(newcomer, at(1000));
        let registered_by = Instant::now();
        // It may have been 1000.999: the wall clock ends it at 1005, which is 4.001 s from then.
        let warned = connections.next_deadline().unwrap();
        assert!(warned < registered_by.checked_add(Duration::from_secs(4)).unwrap());
    }
}
