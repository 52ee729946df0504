//! How well the identity is: what an on-call engineer should know before it breaks.

use crate::credential::Credential;
use crate::files::PlaceKind;
use crate::load::Seen;
use crate::snapshot::{OwnChain, Snapshot};
use crate::spiffe::{SpiffeId, TrustDomain};
use rustls_pki_types::UnixTime;

/// The state of an identity at one moment. Get it from [`PodIdentity::health`](crate::PodIdentity::health).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Our SPIFFE ID.
    pub id: SpiffeId,
    /// The snapshot in use.
    pub generation: u64,
    /// When that snapshot was read.
    pub loaded_at: UnixTime,
    /// Our leaf's serial number in hexadecimal.
    pub serial: String,
    /// When our leaf expires.
    pub not_after: UnixTime,
    /// Where our leaf is in its life.
    pub age: Age,
    /// Whether the files can be expected to change.
    pub updates: Updates,
    /// Whether our chain verifies against our own anchors.
    pub own_chain: OwnChain,
    /// What was wrong with the latest reading. While there is something, the last good parts are in use.
    pub problems: Vec<Problem>,
    /// Readings so far.
    pub loads: u64,
    /// Readings with a problem.
    pub failed_loads: u64,
    /// How changes are noticed.
    pub watch: WatchMode,
    /// Open connections of our acceptors and connectors.
    pub connections: usize,
    /// The key file may be read by every user in the pod: set `fsGroup`, and a kubelet lets that group read it alone.
    pub key_is_world_readable: bool,
}

impl Health {
    /// Nothing to look into.
    pub fn is_good(&self) -> bool {
        matches!(self.age, Age::Fresh | Age::Due)
            && self.updates == Updates::Expected
            && !matches!(self.own_chain, OwnChain::Untrusted(_))
            && self.problems.is_empty()
    }

    /// Handshakes can succeed: fit for a readiness probe. An overdue credential still works.
    pub fn is_ready(&self) -> bool {
        self.age != Age::Expired
    }
}

/// Where a certificate is in its life. The signer asks for renewal at 40 to 60 % of it; the kubelet takes up to ten minutes more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Age {
    /// Before two thirds.
    Fresh,
    /// After two thirds: a renewal should come any minute.
    Due,
    /// After four fifths: the renewal did not come. Look at the pod's events and its PodCertificateRequests.
    Overdue,
    /// Too late. The kubelet leaves expired files in place.
    Expired,
}

/// Whether the files can be expected to change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Updates {
    /// They are in a projected volume, or in a plain folder.
    Expected,
    /// A `subPath` mount never changes: mount the whole volume instead.
    NeverSubPath,
    /// The certificate is overdue and its whole volume has not been written since it was due: the kubelet stopped, because a request was denied or failed, or
    /// because another source of the volume is broken. Trust bundles in it are frozen too. A new pod gets a new start.
    Frozen,
}

/// How changes of the files are noticed. Polling goes on in either case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WatchMode {
    /// At once, by inotify.
    Inotify,
    /// By the poll alone: inotify is exhausted or not there.
    Poll,
}

/// What was wrong with one part of the latest reading.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// The trust domain whose bundle is bad; nothing means the credential.
    pub domain: Option<TrustDomain>,
    /// A stable name.
    pub reason: &'static str,
    /// For people. It never holds what the file holds.
    pub message: String,
    /// When this reason was first seen.
    pub since: UnixTime,
}

pub(crate) fn age(credential: &Credential, now: UnixTime) -> Age {
    let from = credential.not_before().as_secs();
    let life = credential.not_after().as_secs().saturating_sub(from);
    let lived = now.as_secs().saturating_sub(from);
    if credential.is_expired(now) {
        Age::Expired
    } else if lived >= part(life, 4, 5) {
        Age::Overdue
    } else if lived >= part(life, 2, 3) {
        Age::Due
    } else {
        Age::Fresh
    }
}

pub(crate) fn updates(snapshot: &Snapshot, seen: &Seen, now: UnixTime) -> Updates {
    let credential = snapshot.credential();
    let from = credential.not_before().as_secs();
    let due = from.saturating_add(part(credential.not_after().as_secs().saturating_sub(from), 2, 3));
    match seen.kind {
        Some(PlaceKind::SubPath) => Updates::NeverSubPath,
        Some(PlaceKind::Volume)
            if age(credential, now) >= Age::Overdue && seen.written.is_none_or(|written| written.as_secs() < due) =>
        {
            Updates::Frozen
        }
        Some(PlaceKind::Volume | PlaceKind::Plain) | None => Updates::Expected,
    }
}

fn part(whole: u64, of: u64, parts: u64) -> u64 {
    whole.saturating_mul(of).checked_div(parts).unwrap_or(whole)
}
