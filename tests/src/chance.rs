//! Chance that comes from a seed: the same seed, the same choices. The mixer is SplitMix64, which is enough for choosing faults.

use std::sync::atomic::{AtomicU64, Ordering};

/// A stream of choices.
#[derive(Debug)]
pub struct Chance(AtomicU64);

impl Chance {
    /// The choices of this seed.
    pub fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }

    /// Another stream of choices, which `word` decides.
    pub fn apart(&self, word: u64) -> Self {
        Self::new(self.0.load(Ordering::Relaxed) ^ mixed(word.wrapping_add(1)))
    }

    /// One of the numbers below `bound`, which is not nought.
    pub fn below(&self, bound: u64) -> u64 {
        mixed(self.0.fetch_add(STEP, Ordering::Relaxed)) % bound
    }

    /// A number of this range.
    pub fn within(&self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// One of these.
    pub fn one_of<'a, T>(&self, all: &'a [T]) -> &'a T {
        let place = self.below(all.len().try_into().expect("a count"));
        &all[usize::try_from(place).expect("a place in a list")]
    }
}

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

const fn mixed(state: u64) -> u64 {
    let mut word = state.wrapping_add(STEP);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_sequence_and_another_seed_is_another() {
        let draw = |seed| {
            let chance = Chance::new(seed);
            [(); 8].map(|()| chance.below(1000))
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().all(|number| *number < 1000));
        let chance = Chance::new(7);
        assert_ne!(chance.apart(1).below(1 << 40), chance.apart(2).below(1 << 40));
    }
}
