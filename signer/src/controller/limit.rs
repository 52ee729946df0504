//! How many requests are walked at a time: more while the API server keeps up, half as many when it says it does not. Pure.

use std::time::{Duration, Instant};

use crate::cluster::calls::CallError;

/// Additive increase, multiplicative decrease.
#[derive(Debug)]
pub(crate) struct Limit {
    at_a_time: usize,
    /// Successes since the last increase.
    kept_up: usize,
    /// Until when nothing is begun, because the API server asked for it.
    quiet_until: Option<Instant>,
    /// Until when further bad news belongs to the same overload.
    eased_until: Option<Instant>,
}

impl Limit {
    pub(crate) const fn new() -> Self {
        Self { at_a_time: START, kept_up: 0, quiet_until: None, eased_until: None }
    }

    pub(crate) const fn at_a_time(&self) -> usize {
        self.at_a_time
    }

    /// How many more may begin while `flying` are in flight.
    pub(crate) fn room(&self, flying: usize, now: Instant) -> usize {
        if self.quiet_until.is_some_and(|until| now < until) { 0 } else { self.at_a_time.saturating_sub(flying) }
    }

    /// When room may come back although nothing ends.
    pub(crate) fn quiet_until(&self) -> Option<Instant> {
        self.quiet_until
    }

    /// A walk ended well, and took this long.
    pub(crate) fn kept_up(&mut self, took: Duration, now: Instant) {
        if took > SLOW {
            self.ease(None, now);
            return;
        }
        self.kept_up = self.kept_up.saturating_add(1);
        if self.kept_up >= self.at_a_time {
            self.kept_up = 0;
            self.at_a_time = self.at_a_time.saturating_add(1).min(MOST);
        }
    }

    /// A walk met this error. True when it was one of overload.
    pub(crate) fn met(&mut self, error: &CallError, now: Instant) -> bool {
        let overload = error.is_overload();
        if overload {
            self.ease(error.retry_after(), now);
        }
        overload
    }

    fn ease(&mut self, retry_after: Option<Duration>, now: Instant) {
        if let Some(until) = retry_after.and_then(|wait| now.checked_add(wait)) {
            self.quiet_until = Some(self.quiet_until.map_or(until, |before| before.max(until)));
        }
        if self.eased_until.is_some_and(|until| now < until) {
            return;
        }
        self.eased_until = now.checked_add(SAME_OVERLOAD);
        self.kept_up = 0;
        self.at_a_time = (self.at_a_time / 2).max(LEAST);
    }
}

/// Enough to fill an API server at low latency (16 in flight at 5 ms are 3000 a second).
const START: usize = 16;
/// One flow may have 300 requests queued before the API server answers 429.
const MOST: usize = 256;
/// Never fewer: what priority and fairness lets through at a time on a large cluster.
const LEAST: usize = 4;
/// A walk is four calls; when it takes this long, its calls stand in a queue.
const SLOW: Duration = Duration::from_secs(6);
/// Errors that come together have one cause.
const SAME_OVERLOAD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(5);

    #[test]
    fn it_grows_by_one_a_round_up_to_its_cap() {
        let (mut limit, now) = (Limit::new(), Instant::now());
        for _ in 0..START {
            limit.kept_up(QUICK, now);
        }
        assert_eq!(limit.at_a_time(), START + 1);
        for _ in 0..MOST * MOST {
            limit.kept_up(QUICK, now);
        }
        assert_eq!((limit.at_a_time(), limit.room(200, now)), (MOST, 56));
    }

    #[test]
    fn one_overload_halves_it_once() {
        let (mut limit, now) = (Limit::new(), Instant::now());
        let late = CallError::Late(Duration::from_secs(20));
        assert!(limit.met(&late, now) && limit.met(&late, now));
        assert_eq!(limit.at_a_time(), START / 2);
        for second in 1..10 {
            limit.met(&late, now + Duration::from_secs(second));
        }
        assert_eq!(limit.at_a_time(), LEAST);
    }

    #[test]
    fn it_keeps_quiet_for_as_long_as_it_is_asked() {
        let (mut limit, now) = (Limit::new(), Instant::now());
        limit.ease(Some(Duration::from_secs(3)), now);
        assert_eq!(limit.room(0, now + Duration::from_millis(2999)), 0);
        assert_eq!(limit.room(0, now + Duration::from_secs(3)), START / 2);
        assert_eq!(limit.quiet_until(), Some(now + Duration::from_secs(3)));
    }

    #[test]
    fn walks_that_crawl_are_a_sign_too_and_other_errors_are_not() {
        let (mut limit, now) = (Limit::new(), Instant::now());
        assert!(!limit.met(&CallError::TooLong(1), now));
        assert_eq!(limit.at_a_time(), START);
        limit.kept_up(SLOW + QUICK, now);
        assert_eq!(limit.at_a_time(), START / 2);
    }
}
