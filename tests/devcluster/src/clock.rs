//! The one place of this crate that reads the clock, and the one that draws random bytes.

use std::ops::Range;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::fill;
use jiff::{SignedDuration, Timestamp};

/// A wall clock that may be ahead of or behind this machine's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    ahead_seconds: i64,
}

impl Clock {
    pub(crate) const fn ahead(seconds: i64) -> Self {
        Self { ahead_seconds: seconds }
    }

    pub(crate) fn now(self) -> Timestamp {
        #[expect(clippy::disallowed_methods, reason = "this is the one clock of this crate")]
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let millis = i64::try_from(since.as_millis()).unwrap_or(i64::MAX);
        Timestamp::from_millisecond(millis)
            .unwrap_or(Timestamp::UNIX_EPOCH)
            .saturating_add(SignedDuration::from_secs(self.ahead_seconds))
            .unwrap_or(Timestamp::UNIX_EPOCH)
    }
}

/// A time as the API writes it: whole seconds, UTC.
pub(crate) fn rfc3339(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as the `Date` header has it.
pub(crate) fn http_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

/// Random bytes. Without a source of randomness nothing here makes sense: zeros would be seen at once as equal UIDs.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if fill(&mut bytes).is_err() {
        tracing::error!("the system gives no random bytes");
    }
    bytes
}

/// A random UUID, version 4.
pub(crate) fn uuid() -> String {
    let mut bytes: [u8; 16] = random();
    let [_, _, _, _, _, _, version, _, variant, ..] = &mut bytes;
    *version = (*version & 0x0f) | 0x40;
    *variant = (*variant & 0x3f) | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)]
        .iter()
        .filter_map(|(from, to)| hex.get(*from..*to))
        .collect::<Vec<_>>()
        .join("-")
}

/// Five characters as the API server appends to a `generateName`.
pub(crate) fn name_suffix() -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    let bytes: [u8; 5] = random();
    bytes
        .iter()
        .filter_map(|byte| ALPHABET.get(usize::from(*byte).checked_rem(ALPHABET.len())?))
        .map(|letter| char::from(*letter))
        .collect()
}

/// Where a node agent's delays come from: the system, or a seed, so that the same delays can be drawn again.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chance(Option<u64>);

impl Chance {
    /// What a seed begins with; without one, the system's own.
    pub(crate) const fn of(seed: Option<u64>) -> Self {
        Self(seed)
    }

    /// A wait within the range.
    pub(crate) fn within(&mut self, range: &Range<Duration>) -> Duration {
        let spread = range.end.saturating_sub(range.start);
        let nanos = u64::try_from(spread.as_nanos()).unwrap_or(u64::MAX);
        range.start.saturating_add(Duration::from_nanos(self.below(nanos)))
    }

    /// SplitMix64: delays need no more.
    fn below(&mut self, below: u64) -> u64 {
        let Some(seed) = &mut self.0 else { return random_below(below) };
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *seed;
        for (shift, factor) in [(30, 0xbf58_476d_1ce4_e5b9), (27, 0x94d0_49bb_1331_11eb)] {
            mixed = (mixed ^ mixed.wrapping_shr(shift)).wrapping_mul(factor);
        }
        (mixed ^ mixed.wrapping_shr(31)).checked_rem(below).unwrap_or(0)
    }
}

/// A number in `0..below`; 0 if `below` is 0.
pub(crate) fn random_below(below: u64) -> u64 {
    u64::from_be_bytes(random()).checked_rem(below).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_draws_the_same_waits_again_and_another_one_others() {
        let range = Duration::from_secs(60)..Duration::from_secs(90);
        let drawn = |seed| {
            let mut chance = Chance::of(seed);
            [(); 100].map(|()| chance.within(&range))
        };
        assert!(drawn(Some(1)).iter().chain(&drawn(None)).all(|wait| range.contains(wait)));
        assert_eq!(drawn(Some(1)), drawn(Some(1)));
        assert_ne!(drawn(Some(1)), drawn(Some(2)));
        assert_eq!(Chance::of(Some(1)).within(&(Duration::ZERO..Duration::ZERO)), Duration::ZERO);
    }
}
