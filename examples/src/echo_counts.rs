//! What the echo pair counts for itself. Others, such as the demo's checker, hold it against what the API server saw.

use podmint::{PeerIdentity, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Counters of one side, shared by all of its connections.
#[derive(Debug, Default)]
pub struct Counts(Mutex<Totals>);

/// The figures at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Handshakes after which the peer answered.
    pub handshakes: u64,
    /// Handshakes that failed, for whatever reason.
    pub failed_handshakes: u64,
    /// The stable reason of each failure.
    pub failures: Vec<String>,
    /// Lines echoed.
    pub messages: u64,
    /// Conversations that broke off.
    pub dropped: u64,
    /// How long each handshake took on this side.
    pub latencies: Vec<Duration>,
    /// The SPIFFE IDs on the other end.
    pub peers: BTreeSet<String>,
    /// The serial numbers of the peers' certificates, each with its SPIFFE ID.
    pub peer_serials: BTreeMap<String, String>,
    /// The serial numbers of our own certificates that were used.
    pub own_serials: BTreeSet<String>,
    /// The newest generation that was used.
    pub generation: u64,
}

/// Enough for a day at ten handshakes a second; figures of later ones add nothing.
const MOST_LATENCIES: usize = 1_000_000;
/// The first failures tell what the later ones repeat.
const MOST_FAILURES: usize = 100;

impl Counts {
    /// The figures now.
    pub fn totals(&self) -> Totals {
        self.lock().clone()
    }

    /// The peers' certificates so far: serial number and SPIFFE ID.
    pub fn peer_serials(&self) -> BTreeMap<String, String> {
        self.lock().peer_serials.clone()
    }

    pub(crate) fn handshake(&self, peer: &PeerIdentity, own: &Snapshot, took: Duration) {
        let mut totals = self.lock();
        totals.handshakes = totals.handshakes.saturating_add(1);
        if totals.latencies.len() < MOST_LATENCIES {
            totals.latencies.push(took);
        }
        totals.peers.insert(peer.id().to_string());
        totals.peer_serials.insert(peer.serial().to_owned(), peer.id().to_string());
        totals.own_serials.insert(own.credential().serial().to_owned());
        totals.generation = totals.generation.max(own.generation());
    }

    pub(crate) fn failure(&self, reason: &str) {
        let mut totals = self.lock();
        totals.failed_handshakes = totals.failed_handshakes.saturating_add(1);
        if totals.failures.len() < MOST_FAILURES {
            totals.failures.push(reason.to_owned());
        }
    }

    pub(crate) fn message(&self) {
        let mut totals = self.lock();
        totals.messages = totals.messages.saturating_add(1);
    }

    pub(crate) fn drop_out(&self) {
        let mut totals = self.lock();
        totals.dropped = totals.dropped.saturating_add(1);
    }

    fn lock(&self) -> MutexGuard<'_, Totals> {
        // Only additions happen under this lock: what a panic left behind is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
