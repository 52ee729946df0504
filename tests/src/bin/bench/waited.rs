//! How long requests waited, and which percentiles of that can be told.

use std::time::Duration;

/// The waits of some requests in milliseconds, the shortest first.
#[derive(Clone)]
pub(crate) struct Waited(Vec<f64>);

/// What is said of many waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Percentile {
    P50,
    P90,
    P99,
    P999,
    Longest,
}

impl Waited {
    pub(crate) fn of(waits: impl Iterator<Item = Duration>) -> Self {
        Self::sorted(waits.map(|wait| wait.as_secs_f64() * 1e3).collect())
    }

    /// Those of all rounds.
    pub(crate) fn together(rounds: &[Self]) -> Self {
        Self::sorted(rounds.iter().flat_map(|round| round.0.iter().copied()).collect())
    }

    fn sorted(mut waits: Vec<f64>) -> Self {
        waits.sort_by(f64::total_cmp);
        Self(waits)
    }

    /// The wait that so many of all did not exceed.
    pub(crate) fn at(&self, percentile: Percentile) -> f64 {
        self.0[self.rank(percentile) - 1]
    }

    /// What is told of them. The 90th percentile only stands in for the 99th.
    pub(crate) fn told(&self) -> Vec<Percentile> {
        let tail = self.tail();
        let beside = (tail == Percentile::P99 && self.can_tell(Percentile::P999)).then_some(Percentile::P999);
        let told =
            [Some(Percentile::P50), (tail != Percentile::P50).then_some(tail), beside, Some(Percentile::Longest)];
        told.into_iter().flatten().collect()
    }

    /// How long the slow ones waited, by the best percentile that can be told.
    pub(crate) fn tail(&self) -> Percentile {
        let tails = [Percentile::P99, Percentile::P90];
        tails.into_iter().find(|tail| self.can_tell(*tail)).unwrap_or(Percentile::P50)
    }

    fn can_tell(&self, percentile: Percentile) -> bool {
        self.0.len() - self.rank(percentile) >= BEYOND
    }

    fn rank(&self, percentile: Percentile) -> usize {
        (self.0.len() * percentile.thousandths()).div_ceil(1000)
    }
}

impl Percentile {
    /// For the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::P50 => "p50",
            Self::P90 => "p90",
            Self::P99 => "p99",
            Self::P999 => "p99.9",
            Self::Longest => "longest",
        }
    }

    /// What a request may wait for our signer, in milliseconds: half a second is a kubelet's first retry.
    pub(crate) const fn aim(self) -> Option<f64> {
        match self {
            Self::P99 => Some(80.0),
            Self::P999 => Some(500.0),
            Self::P50 | Self::P90 | Self::Longest => None,
        }
    }

    const fn thousandths(self) -> usize {
        match self {
            Self::P50 => 500,
            Self::P90 => 900,
            Self::P99 => 990,
            Self::P999 => 999,
            Self::Longest => 1000,
        }
    }
}

/// How many waits have to lie beyond a percentile, or it hangs on one or two of them. With four, what is called the 99th is in nine
/// cases of ten one between the 97.7th and the 99.5th. That takes 40 waits for p90, 400 for p99 and 4,000 for p99.9.
const BEYOND: usize = 4;

#[cfg(test)]
mod tests {
    use super::{Duration, Percentile, Waited};

    #[test]
    fn a_percentile_is_a_wait_that_so_many_did_not_exceed() {
        let waited = milliseconds(1..=1000);
        let percentiles = [Percentile::P50, Percentile::P90, Percentile::P99, Percentile::P999, Percentile::Longest];
        assert_eq!(percentiles.map(|percentile| waited.at(percentile)), [500.0, 900.0, 990.0, 999.0, 1000.0]);
        let one = milliseconds(7..=7);
        assert_eq!(percentiles.map(|percentile| one.at(percentile)), [7.0; 5]);
    }

    #[test]
    fn the_99th_percentile_of_a_hundred_is_not_the_longest() {
        let waited = milliseconds(1..=100);
        assert_eq!(waited.at(Percentile::P99), 99.0);
    }

    #[test]
    fn a_percentile_is_told_where_four_waits_lie_beyond_it() {
        let told = |count| milliseconds(1..=count).told().into_iter().map(Percentile::name).collect::<Vec<_>>();
        assert_eq!(told(1), ["p50", "longest"]);
        assert_eq!(told(39), ["p50", "longest"]);
        assert_eq!(told(40), ["p50", "p90", "longest"]);
        assert_eq!(told(399), ["p50", "p90", "longest"]);
        assert_eq!(told(400), ["p50", "p99", "longest"]);
        assert_eq!(told(3999), ["p50", "p99", "longest"]);
        assert_eq!(told(4000), ["p50", "p99", "p99.9", "longest"]);
    }

    #[test]
    fn rounds_are_one_crowd() {
        let together = Waited::together(&[milliseconds(101..=200), milliseconds(1..=100)]);
        assert_eq!(together.at(Percentile::P50), 100.0);
        assert_eq!(together.at(Percentile::Longest), 200.0);
    }

    fn milliseconds(waits: std::ops::RangeInclusive<u64>) -> Waited {
        Waited::of(waits.rev().map(Duration::from_millis))
    }
}
