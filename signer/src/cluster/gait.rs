//! Whether the API server's clock goes as fast as ours, which counts the time that passes and knows no date. Pure.

use std::{collections::BTreeMap, time::Duration};

use time::OffsetDateTime;
use tokio::time::Instant;

/// What a reply says of the time, and between which moments of ours that was so.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) said: OffsetDateTime,
    pub(super) asked: Instant,
    pub(super) heard: Instant,
}

/// How a clock goes that does not go as ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Jump {
    /// Ahead, by so much at least.
    Forward(Duration),
    /// Back, by so much at least.
    Back(Duration),
    /// Not at all, for so long at least.
    Frozen(Duration),
}

impl Jump {
    /// A metric's label.
    pub(super) const fn direction(self) -> &'static str {
        let [forward, back, frozen] = DIRECTIONS;
        match self {
            Self::Forward(_) => forward,
            Self::Back(_) => back,
            Self::Frozen(_) => frozen,
        }
    }

    pub(super) const fn by(self) -> Duration {
        match self {
            Self::Forward(by) | Self::Back(by) | Self::Frozen(by) => by,
        }
    }
}

/// How it has gone so far.
#[derive(Debug)]
pub(super) struct Gait {
    /// What our clock counts from.
    nought: Instant,
    /// What the API server's clock showed at that moment, as far as that is known.
    then: Span,
    /// What it told last, and when it was first heard to.
    said: OffsetDateTime,
    since: Instant,
    is_frozen: bool,
    /// The last jump of each kind that was told to people, when, and how many were not told since.
    told: BTreeMap<&'static str, (Instant, Duration, u32)>,
}

impl Gait {
    pub(super) fn new(reading: Reading) -> Self {
        let (nought, then) = (reading.asked, reading.then(reading.asked));
        let (said, since, is_frozen, told) = (reading.said, reading.heard, false, BTreeMap::new());
        Self { nought, then, said, since, is_frozen, told }
    }

    /// A reply came. Most of them say what the one before said.
    pub(super) fn step(&mut self, reading: Reading) -> Option<Jump> {
        if reading.said == self.said {
            let still = reading.asked.saturating_duration_since(self.since);
            let is_new = still >= FROZEN && !self.is_frozen;
            self.is_frozen |= is_new;
            return is_new.then_some(Jump::Frozen(still));
        }
        (self.said, self.since, self.is_frozen) = (reading.said, reading.heard, false);
        let then = reading.then(self.nought);
        let jump = self.then.jump(then);
        // Each reply narrows it down. Two clocks never go quite alike, so that in time the latest contradicts what was known before.
        self.then = self.then.overlap(then).unwrap_or(then);
        jump
    }

    /// How many of the like were not told, if this one is to be. Two API servers whose clocks differ make one with every other reply.
    pub(super) fn tell(&mut self, jump: Jump, now: Instant) -> Option<u32> {
        let told = self.told.entry(jump.direction());
        let (at, by, left) = told.or_insert((now, Duration::ZERO, 0));
        let is_news = now.saturating_duration_since(*at) >= QUIET || jump.by() > by.saturating_mul(2);
        if is_news {
            (*at, *by) = (now, jump.by());
            return Some(std::mem::take(left));
        }
        *left = left.saturating_add(1);
        None
    }
}

impl Reading {
    /// What the API server's clock showed at this moment. It tells whole seconds, cut off.
    fn then(self, nought: Instant) -> Span {
        let said = self.said.unix_timestamp().saturating_mul(1000);
        Span {
            earliest: said.saturating_sub(between(nought, self.heard)),
            latest: said.saturating_add(1000).saturating_sub(between(nought, self.asked)),
        }
    }
}

/// Some moment in between, in milliseconds of Unix time.
#[derive(Clone, Copy, Debug)]
struct Span {
    earliest: i64,
    latest: i64,
}

impl Span {
    /// What lies between this and a later one, if that is too much for clocks that are set right.
    fn jump(self, now: Self) -> Option<Jump> {
        let by = |more: i64, less: i64| {
            let by = u64::try_from(more.saturating_sub(less)).map(Duration::from_millis).unwrap_or_default();
            (by > TOLERATED).then_some(by)
        };
        let forward = by(now.earliest, self.latest).map(Jump::Forward);
        forward.or_else(|| by(self.earliest, now.latest).map(Jump::Back))
    }

    fn overlap(self, other: Self) -> Option<Self> {
        let both = Self { earliest: self.earliest.max(other.earliest), latest: self.latest.min(other.latest) };
        (both.earliest <= both.latest).then_some(both)
    }
}

/// In milliseconds; less than nought if the second comes first.
fn between(one: Instant, two: Instant) -> i64 {
    let count = |passed: Duration| i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
    match two.checked_duration_since(one) {
        Some(passed) => count(passed),
        None => count(one.saturating_duration_since(two)).saturating_neg(),
    }
}

pub(crate) const DIRECTIONS: [&str; 3] = ["forward", "back", "frozen"];

/// API servers that take their time from anywhere at all differ by less.
const TOLERATED: Duration = Duration::from_secs(5);
/// Our watches alone make more than one call in that time.
const FROZEN: Duration = Duration::from_secs(30);
/// What goes on is told again after this long, and what is more than twice as bad at once.
const QUIET: Duration = Duration::from_mins(10);

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    /// Seconds of the API server's clock and of ours; replies come at once, or after as many more seconds.
    struct Scene {
        begun: Instant,
        gait: Gait,
    }

    const MIDNIGHT: OffsetDateTime = datetime!(2026-11-23 00:00:00 UTC);

    fn reading(begun: Instant, said: i64, asked: f64, late: f64) -> Reading {
        let after = |begun: Instant, seconds| begun.checked_add(Duration::from_secs_f64(seconds)).unwrap();
        let asked = after(begun, asked);
        Reading { said: MIDNIGHT.saturating_add(time::Duration::seconds(said)), asked, heard: after(asked, late) }
    }

    impl Scene {
        fn new() -> Self {
            let begun = Instant::now();
            Self { begun, gait: Gait::new(reading(begun, 0, 0.0, 0.0)) }
        }

        fn hears(&mut self, said: i64, asked: f64, late: f64) -> Option<(&'static str, u64)> {
            let jump = self.gait.step(reading(self.begun, said, asked, late));
            jump.map(|jump| (jump.direction(), jump.by().as_secs()))
        }
    }

    #[test]
    fn a_clock_that_goes_as_ours_does_is_not_noticed_however_slow_replies_are() {
        let mut scene = Scene::new();
        for (said, asked, late) in
            [(0, 0.9, 0.0), (1, 1.0, 0.0), (1, 1.0, 19.0), (3, 3.999, 0.0), (22, 3.0, 19.5), (41, 41.2, 0.1)]
        {
            assert_eq!(scene.hears(said, asked, late), None);
        }
        // A day later it is three seconds ahead.
        for second in 0..86_400_i64 {
            let ahead = second * 3 / 86_400;
            assert_eq!(scene.hears(60 + second + ahead, 60.5 + f64::from(i32::try_from(second).unwrap()), 0.0), None);
        }
    }

    #[test]
    fn a_jump_is_noticed_once_either_way() {
        let mut scene = Scene::new();
        assert_eq!(scene.hears(10, 10.0, 0.0), None);
        assert_eq!(scene.hears(18, 12.0, 0.0), None, "five seconds, and one that is cut off");
        assert_eq!(Scene::new().hears(8, 1.0, 0.0), Some(("forward", 6)));
        let mut scene = Scene::new();
        assert_eq!(scene.hears(610, 10.0, 0.0), Some(("forward", 599)));
        assert_eq!(scene.hears(611, 11.0, 0.0), None);
        assert_eq!(scene.hears(11, 11.5, 0.0), Some(("back", 599)));
        assert_eq!(scene.hears(12, 12.5, 0.0), None);
    }

    #[test]
    fn a_jump_during_a_slow_reply_is_noticed_after_it() {
        let mut scene = Scene::new();
        assert_eq!(scene.hears(15, 1.0, 15.0), None, "it may just have been slow");
        assert_eq!(scene.hears(26, 16.5, 0.0), Some(("forward", 8)));
    }

    #[test]
    fn a_clock_that_stands_still_is_noticed_once_and_when_it_goes_on_where_it_stood() {
        let mut scene = Scene::new();
        assert_eq!(scene.hears(0, 29.9, 0.0), None);
        assert_eq!(scene.hears(0, 30.0, 0.0), Some(("frozen", 30)));
        assert_eq!(scene.hears(0, 90.0, 0.0), None);
        assert_eq!(scene.hears(1, 91.0, 0.0), Some(("back", 89)));
        assert_eq!(scene.hears(1, 121.5, 0.0), Some(("frozen", 30)));
        assert_eq!(scene.hears(31, 121.9, 0.0), None, "it was right all the while");
    }

    #[test]
    fn two_clocks_that_differ_are_told_now_and_then_and_what_is_worse_at_once() {
        let mut gait = Gait::new(reading(Instant::now(), 0, 0.0, 0.0));
        let (begun, seconds) = (Instant::now(), Duration::from_secs);
        let mut tell = |jump, after| gait.tell(jump, begun + seconds(after));
        assert_eq!(tell(Jump::Forward(seconds(7)), 0), Some(0));
        assert_eq!(tell(Jump::Back(seconds(7)), 0), Some(0));
        for second in 1..600 {
            assert_eq!(tell(Jump::Forward(seconds(8)), second), None);
        }
        assert_eq!(tell(Jump::Forward(seconds(600)), 599), Some(599));
        assert_eq!(tell(Jump::Forward(seconds(7)), 1198), None);
        assert_eq!(tell(Jump::Forward(seconds(7)), 1199), Some(1));
    }
}
