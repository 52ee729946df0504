//! How long the signer waits: every wait but those of the network and of certificates themselves goes through a [`Pace`], so
//! that a story can live through a minute in a fraction of it.

use std::{num::NonZeroU32, time::Duration};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::Instant;

/// The factor by which the signer's own waits are shortened. Certificate dates never are: they follow the API server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    factor: NonZeroU32,
}

impl Pace {
    /// Waits as long as it says: what production runs with.
    #[must_use]
    pub const fn real() -> Self {
        Self { factor: NonZeroU32::MIN }
    }

    /// Waits `factor` times shorter: for tests. Nought counts as one.
    #[must_use]
    pub const fn compressed(factor: u32) -> Self {
        match NonZeroU32::new(factor) {
            Some(factor) => Self { factor },
            None => Self::real(),
        }
    }

    /// What becomes of `wait` at this pace.
    #[must_use]
    pub fn of(self, wait: Duration) -> Duration {
        wait.checked_div(self.factor.get()).unwrap_or(wait)
    }

    /// Waits.
    pub(crate) async fn pause(self, wait: Duration) {
        tokio::time::sleep(self.of(wait)).await;
    }
}

/// Waits until then, or for ever.
pub(crate) async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Waits that double from `first` to `longest`, each shortened by chance to between a half and the whole, so that what failed
/// together does not come back together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) longest: Duration,
}

impl Backoff {
    /// The wait before attempt number `attempt` (0 is the first repetition). `chance` is uniform over its type.
    pub(crate) fn wait(self, attempt: u32, chance: u16) -> Duration {
        let doubled = 2_u32.checked_pow(attempt).and_then(|times| self.first.checked_mul(times));
        let whole = doubled.unwrap_or(self.longest).min(self.longest);
        let half = whole.checked_div(2).unwrap_or(whole);
        let share = half.saturating_mul(u32::from(chance)).checked_div(u32::from(u16::MAX)).unwrap_or(half);
        half.saturating_add(share)
    }
}

/// Sixteen random bits, for spreading things; a source of chance that fails only makes the spread narrower.
pub(crate) fn chance() -> u16 {
    #[cfg(test)]
    if let Some(chance) = seeded::next() {
        return chance;
    }
    let mut bytes = [0_u8; 2];
    match SystemRandom::new().fill(&mut bytes) {
        Ok(()) => u16::from_ne_bytes(bytes),
        Err(ring::error::Unspecified) => u16::MAX / 2,
    }
}

/// Chance that a simulation can repeat: what comes of a seed, on the thread that has sown one.
#[cfg(test)]
pub(crate) mod seeded {
    use std::cell::Cell;

    thread_local! {
        static STATE: Cell<Option<u64>> = const { Cell::new(None) };
    }

    pub(crate) fn sow(seed: Option<u64>) {
        STATE.set(seed);
    }

    pub(super) fn next() -> Option<u16> {
        let state = STATE.get()?;
        let (state, word) = step(state);
        STATE.set(Some(state));
        u16::try_from(word >> 48).ok()
    }

    /// SplitMix64: the next state, and the word of this one.
    pub(crate) fn step(state: u64) -> (u64, u64) {
        let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (state, word ^ (word >> 31))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_minute_is_shorter_and_a_real_one_is_not() {
        let minute = Duration::from_mins(1);
        assert_eq!(Pace::real().of(minute), minute);
        assert_eq!(Pace::compressed(60).of(minute), Duration::from_secs(1));
        assert_eq!(Pace::compressed(0), Pace::real());
    }

    #[test]
    fn waits_double_up_to_the_longest_and_never_fall_below_half() {
        let backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(5) };
        assert_eq!(backoff.wait(0, u16::MAX), Duration::from_millis(100));
        assert_eq!(backoff.wait(0, 0), Duration::from_millis(50));
        assert_eq!(backoff.wait(3, u16::MAX), Duration::from_millis(800));
        for attempt in [7, 31, 32, u32::MAX] {
            assert_eq!(backoff.wait(attempt, u16::MAX), Duration::from_secs(5));
            assert_eq!(backoff.wait(attempt, 0), Duration::from_millis(2500));
        }
    }
}
