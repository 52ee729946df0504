//! How many requests come in a second, over the last minute. kube-controller-manager deletes at most twenty a second: what comes
//! faster than that, for hours, fills etcd.

use std::collections::VecDeque;

/// Sixty seconds of counts.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    seconds: VecDeque<u32>,
    this: u32,
    /// Seconds until it may be said again.
    quiet: u32,
}

impl Rate {
    pub(crate) fn count(&mut self) {
        self.this = self.this.saturating_add(1);
    }

    /// A second has passed; what is the rate now?
    pub(crate) fn tick(&mut self) -> f64 {
        self.seconds.push_back(std::mem::take(&mut self.this));
        if self.seconds.len() > MINUTE {
            self.seconds.pop_front();
        }
        let total: u32 = self.seconds.iter().fold(0, |sum, count| sum.saturating_add(*count));
        let rate = f64::from(total) / 60.0;
        self.quiet = self.quiet.saturating_sub(1);
        if rate >= WARN && self.quiet == 0 {
            self.quiet = 600;
            tracing::warn!(
                rate,
                "more than ten requests a second: Kubernetes deletes at most twenty a second, cluster-wide; longer lives would help"
            );
        }
        rate
    }
}

const MINUTE: usize = 60;
/// Half of what can be deleted.
const WARN: f64 = 10.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_minute() {
        let mut rate = Rate::default();
        for _ in 0..120 {
            rate.count();
        }
        assert!((rate.tick() - 2.0).abs() < 1e-9);
        for _ in 0..59 {
            assert!((rate.tick() - 2.0).abs() < 1e-9);
        }
        assert!(rate.tick().abs() < 1e-9);
    }
}
