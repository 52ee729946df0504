//! How many requests are walked at a time: more while that makes more of them, half as many when the API server says that it has too
//! much to do. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::calls::CallError;

/// Additive increase, multiplicative decrease.
#[derive(Debug)]
pub(crate) struct Limit {
    at_a_time: usize,
    /// Successes since the last increase.
    kept_up: usize,
    /// How long a walk takes whose calls wait for no others.
    quickest: Option<Duration>,
    /// Until when nothing is begun, because the API server asked for it.
    quiet_until: Option<Instant>,
    /// Until when further bad news belongs to the same overload.
    eased_until: Option<Instant>,
}

impl Limit {
    pub(crate) const fn new() -> Self {
        Self { at_a_time: START, kept_up: 0, quickest: None, quiet_until: None, eased_until: None }
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

    /// A walk ended well and took this long, beside so many others. Its end says that more would be served if there were more at a
    /// time only where there were as many as may be, and where it was not a queue in the API server that it waited in.
    pub(crate) fn kept_up(&mut self, took: Duration, others: usize, now: Instant) {
        if took > SLOW {
            self.ease(None, now);
            return;
        }
        // An API server may come to be further away. Whoever has it nearly to himself sees that; in a crowd it would be the crowd.
        let is_alone = others < LEAST;
        let slower = |quickest: Duration| quickest.saturating_add(quickest.checked_div(FORGETS).unwrap_or_default());
        let quickest =
            self.quickest.map_or(took, |quickest| took.min(if is_alone { slower(quickest) } else { quickest }));
        self.quickest = Some(quickest);
        if others.saturating_add(1) < self.at_a_time || took > BRISK.max(quickest.saturating_mul(QUEUED)) {
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
/// Half of what an answer may take before a pod feels it. A walk that takes longer, and this many times as long as the quickest, has
/// waited in queues that more walks would only lengthen.
const BRISK: Duration = Duration::from_millis(40);
const QUEUED: u32 = 3;
/// By one part in so many the quickest may be slower after each walk that had the API server nearly to itself: it is the quickest of some
/// hundred.
const FORGETS: u32 = 256;
/// Errors that come together have one cause.
const SAME_OVERLOAD: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const QUICK: Duration = Duration::from_millis(5);

    /// So many walks in turn, each beside as many others as may be.
    fn walks(limit: &mut Limit, count: usize, took: Duration) {
        for _ in 0..count {
            limit.kept_up(took, limit.at_a_time().saturating_sub(1), Instant::now());
        }
    }

    #[test]
    fn it_grows_by_one_a_round_up_to_its_cap() {
        let (mut limit, now) = (Limit::new(), Instant::now());
        walks(&mut limit, START, QUICK);
        assert_eq!(limit.at_a_time(), START + 1);
        walks(&mut limit, MOST * MOST, QUICK);
        assert_eq!((limit.at_a_time(), limit.room(200, now)), (MOST, 56));
    }

    #[test]
    fn it_does_not_grow_where_more_would_serve_no_more() {
        let (mut limit, now) = (Limit::new(), Instant::now());
        for _ in 0..MOST * MOST {
            limit.kept_up(QUICK, START - 2, now);
        }
        assert_eq!(limit.at_a_time(), START, "a trickle does not use what it may");
        walks(&mut limit, 1_000, BRISK + QUICK);
        assert_eq!(limit.at_a_time(), START, "ten times as long as the quickest: they stood in a queue");
    }

    #[test]
    fn an_api_server_far_away_is_no_queue() {
        let mut limit = Limit::new();
        walks(&mut limit, START, BRISK * 4);
        assert_eq!(limit.at_a_time(), START + 1);
        let mut limit = Limit::new();
        walks(&mut limit, 1, QUICK);
        walks(&mut limit, 50_000, BRISK * 4);
        assert_eq!(limit.at_a_time(), START, "for all we know they stood in a queue");
        (0..1_000).for_each(|_| limit.kept_up(BRISK * 4, LEAST - 1, Instant::now()));
        walks(&mut limit, START, BRISK * 4);
        assert_eq!(limit.at_a_time(), START + 1, "it has moved away, as those who were alone have seen");
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
        limit.kept_up(SLOW + QUICK, 0, now);
        assert_eq!(limit.at_a_time(), START / 2);
    }
}
