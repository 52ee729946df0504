//! What befalls a run, and when: a seed decides.

use std::time::Duration;

use crate::chance::Chance;

/// How many replicas there are.
pub const REPLICAS: usize = 3;

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blow {
    /// How long after the storm began.
    pub at: Duration,
    /// What.
    pub what: Fault,
    /// To which replica, where it happens to one.
    pub whom: usize,
    /// For how long, where it lasts.
    pub lasts: Duration,
}

/// What can happen. The numbers are those of the reference; `FAULTS.md` has them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// SIGKILL of one replica (F17).
    Kill,
    /// SIGKILL of all at once (F18).
    KillAll,
    /// SIGSTOP for longer than a Lease lasts.
    Hang,
    /// Connections of one replica break, and no new one stands (F19).
    Partition,
    /// Connections of one replica stand and nothing moves on them (F9).
    BlackHole,
    /// Each call of one replica takes a second more (F2, F49).
    Slow,
    /// A third of the calls of one replica is refused: 409, 429 with Retry-After, 500, 503, 504 (F3, F4, F11, F47).
    Refusals,
    /// A third of the writes of one replica land and their reply is lost (F5).
    LostReplies,
    /// The watches of one replica break off in the middle of a line (F6).
    CutWatches,
    /// The watches of one replica are answered with 410 (F7).
    ExpiredWatches,
    /// One replica hears another time than the others: minutes off, as of an API server whose clock is wrong (F25).
    WrongClock,
    /// One replica's watches begin with objects that no API server would take.
    MalformedEvents,
    /// The API server is killed and comes back (F1).
    ApiServer,
    /// etcd forgets its history, and the API server comes back without its cache (F7).
    Compaction,
    /// The Secret of the CA is emptied, and put back (F28).
    SecretSpoilt,
    /// The Secret of the CA is deleted, and put back (F26).
    SecretGone,
    /// The Lease says that somebody is first who is not there.
    LeaseTaken,
    /// The Lease is deleted.
    LeaseGone,
    /// The trust bundle is emptied of our root (F34).
    BundleSpoilt,
    /// The trust bundle is deleted (F34).
    BundleGone,
    /// The audit log of one replica takes no more (F45).
    DiskFull,
    /// Nobody reads the audit log of one replica (F46).
    PipeBlocked,
    /// Requests that lie, are huge, or come from nowhere (F42, A1 to A12).
    Hostile,
    /// One namespace asks for very many at once (F41).
    Flood,
    /// Requests are deleted before they are answered (F35).
    Deleted,
}

impl Fault {
    /// Every one.
    pub const ALL: [Self; 25] = [
        Self::Kill,
        Self::KillAll,
        Self::Hang,
        Self::Partition,
        Self::BlackHole,
        Self::Slow,
        Self::Refusals,
        Self::LostReplies,
        Self::CutWatches,
        Self::ExpiredWatches,
        Self::WrongClock,
        Self::MalformedEvents,
        Self::ApiServer,
        Self::Compaction,
        Self::SecretSpoilt,
        Self::SecretGone,
        Self::LeaseTaken,
        Self::LeaseGone,
        Self::BundleSpoilt,
        Self::BundleGone,
        Self::DiskFull,
        Self::PipeBlocked,
        Self::Hostile,
        Self::Flood,
        Self::Deleted,
    ];

    /// In seconds, where it lasts.
    fn lasts(self) -> std::ops::Range<u64> {
        match self {
            Self::Hang => 16..20,
            Self::BlackHole | Self::Partition => 3..12,
            Self::PipeBlocked => 7..12,
            Self::Kill | Self::KillAll | Self::ApiServer | Self::Compaction => 1..4,
            Self::Slow
            | Self::Refusals
            | Self::LostReplies
            | Self::CutWatches
            | Self::ExpiredWatches
            | Self::WrongClock
            | Self::MalformedEvents
            | Self::SecretSpoilt
            | Self::SecretGone
            | Self::LeaseTaken
            | Self::DiskFull => 3..8,
            Self::LeaseGone | Self::BundleSpoilt | Self::BundleGone | Self::Hostile | Self::Flood | Self::Deleted => {
                0..1
            }
        }
    }
}

/// Every fault so many times within `length`, in the order of their times. Two blows to one replica do not overlap: the second waits.
pub fn storm(chance: &Chance, length: Duration, of_each: usize) -> Vec<Blow> {
    let longest = length.as_millis().try_into().expect("a run of hours at most");
    let mut blows: Vec<Blow> = Fault::ALL
        .into_iter()
        .flat_map(|what| std::iter::repeat_n(what, of_each))
        .map(|what| Blow {
            at: Duration::from_millis(chance.below(longest)),
            what,
            whom: *chance.one_of(&[0, 1, 2]),
            lasts: Duration::from_secs(chance.within(what.lasts())),
        })
        .collect();
    blows.sort_by_key(|blow| (blow.at, blow.what));
    blows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_storm_and_every_fault_is_in_it() {
        let minute = Duration::from_secs(60);
        let one = storm(&Chance::new(4711), minute, 2);
        assert_eq!(one, storm(&Chance::new(4711), minute, 2));
        assert_ne!(one, storm(&Chance::new(4712), minute, 2));
        for fault in Fault::ALL {
            assert_eq!(one.iter().filter(|blow| blow.what == fault).count(), 2, "{fault:?}");
        }
        assert!(
            one.is_sorted_by_key(|blow| blow.at) && one.iter().all(|blow| blow.at < minute && blow.whom < REPLICAS)
        );
    }
}
