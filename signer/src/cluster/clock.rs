//! The API server's clock: the `Date` of its latest reply plus the time that has passed here since. Nothing that the signer decides goes by
//! the local time of day. TLS does: rustls asks whether the API server's certificate is valid by it, whenever a connection is made. Where
//! it is so wrong that it is not, the API server is not reached, and nothing is signed.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, header::DATE};
use prometheus_client::metrics::{counter::Counter, family::Family};
use time::{OffsetDateTime, PrimitiveDateTime, format_description::BorrowedFormatItem, macros::format_description};
use tokio::time::Instant;

use super::gait::{Gait, Jump, Reading};
use crate::metrics::{DirectionLabels, Metrics};

/// What the API server last said the time is. All clones are one clock.
#[derive(Clone, Debug, Default)]
pub struct ServerClock {
    latest: Arc<Mutex<Option<Latest>>>,
    jumps: Family<DirectionLabels, Counter>,
}

#[derive(Debug)]
struct Latest {
    reading: Reading,
    gait: Gait,
}

impl ServerClock {
    /// One whose jumps are counted there.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        Self { latest: Arc::default(), jumps: metrics.clock_jumps.clone() }
    }

    /// The time by the API server; nothing before its first reply. Whole seconds are what HTTP tells, so this may be up to a
    /// second behind, and go back by as much from one reply to the next.
    #[must_use]
    pub fn now(&self) -> Option<OffsetDateTime> {
        self.at(Instant::now())
    }

    /// Takes the `Date` of a reply that was asked for and heard then. Of two replies the one heard later counts, whichever is noted first.
    /// A jump is followed at once, for by that clock certificates are judged; it is counted and told, for it may be nobody's wish.
    pub(crate) fn hear(&self, headers: &HeaderMap, asked: Instant, heard: Instant) {
        let Some(said) = headers.get(DATE).and_then(|value| value.to_str().ok()).and_then(parse) else { return };
        if let Some((jump, untold)) = self.note(Reading { said, asked, heard }) {
            tracing::warn!(
                direction = jump.direction(),
                seconds = jump.by().as_secs(),
                now = %said,
                not_told_since = untold,
                "the API server's clock does not go as ours: it jumped, API servers differ, or this machine slept"
            );
        }
    }

    /// Says which jump is to be told, and how many were not.
    fn note(&self, reading: Reading) -> Option<(Jump, u32)> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(latest) = latest.as_mut() else {
            *latest = Some(Latest { reading, gait: Gait::new(reading) });
            return None;
        };
        if latest.reading.heard > reading.heard {
            return None;
        }
        latest.reading = reading;
        let jump = latest.gait.step(reading)?;
        self.jumps.get_or_create(&DirectionLabels { direction: jump.direction() }).inc();
        Some((jump, latest.gait.tell(jump, reading.heard)?))
    }

    fn at(&self, instant: Instant) -> Option<OffsetDateTime> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let Reading { said, heard, .. } = latest.as_ref()?.reading;
        let passed = time::Duration::try_from(instant.saturating_duration_since(heard)).ok()?;
        said.checked_add(passed)
    }
}

fn parse(date: &str) -> Option<OffsetDateTime> {
    PrimitiveDateTime::parse(date, HTTP_DATE).ok().map(PrimitiveDateTime::assume_utc)
}

/// IMF-fixdate, the one form of RFC 9110 that a server may send.
pub(crate) const HTTP_DATE: &[BorrowedFormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use time::macros::datetime;

    use super::*;

    fn dated(date: &str) -> HeaderMap {
        HeaderMap::from_iter([(DATE, date.parse().unwrap())])
    }

    #[test]
    fn there_is_no_time_before_the_first_reply() {
        let clock = ServerClock::default();
        assert_eq!(clock.now(), None);
        clock.hear(&HeaderMap::new(), Instant::now(), Instant::now());
        clock.hear(&dated("yesterday"), Instant::now(), Instant::now());
        assert_eq!(clock.now(), None);
    }

    #[test]
    fn time_goes_on_from_the_last_reply() {
        let (clock, start) = (ServerClock::default(), Instant::now());
        clock.hear(&dated("Mon, 23 Nov 2026 19:08:09 GMT"), start, start);
        assert_eq!(clock.at(start + Duration::from_secs(65)), Some(datetime!(2026-11-23 19:09:14 UTC)));
    }

    #[test]
    fn the_reply_heard_last_counts() {
        let (clock, start) = (ServerClock::default(), Instant::now());
        let later = start + Duration::from_secs(10);
        clock.hear(&dated("Mon, 23 Nov 2026 20:00:00 GMT"), start, later);
        clock.hear(&dated("Mon, 23 Nov 2026 19:00:00 GMT"), start, start);
        assert_eq!(clock.at(later), Some(datetime!(2026-11-23 20:00:00 UTC)));
        clock.hear(&dated("Mon, 23 Nov 2026 18:00:00 GMT"), later, later + Duration::from_secs(1));
        assert_eq!(clock.at(later + Duration::from_secs(1)), Some(datetime!(2026-11-23 18:00:00 UTC)));
    }

    /// As of two API servers behind a load balancer.
    #[test]
    fn jumps_are_counted_each_and_told_once_in_a_while() {
        let metrics = Metrics::new();
        let (clock, start) = (ServerClock::new(&metrics), Instant::now());
        let mut told = Vec::new();
        for second in 0..200_u16 {
            let heard = start + Duration::from_secs(second.into());
            let said = datetime!(2026-11-23 19:00:00 UTC) + time::Duration::seconds(i64::from(second));
            told.extend(clock.note(Reading { said, asked: heard, heard }));
            told.extend(clock.note(Reading { said: said + time::Duration::seconds(8), asked: heard, heard }));
        }
        let seconds = Duration::from_secs;
        assert_eq!(told, [(Jump::Forward(seconds(7)), 0), (Jump::Back(seconds(7)), 0)]);
        let text = metrics.text().unwrap();
        for line in ["{direction=\"forward\"} 200", "{direction=\"back\"} 199", "{direction=\"frozen\"} 0"] {
            assert!(text.contains(&format!("podmint_signer_clock_jumps_total{line}")), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_frozen_clock_is_counted_and_followed() {
        let metrics = Metrics::new();
        let (clock, start) = (ServerClock::new(&metrics), Instant::now());
        for second in 0..90 {
            let heard = start + Duration::from_secs(second);
            clock.hear(&dated("Mon, 23 Nov 2026 19:08:09 GMT"), heard, heard);
        }
        assert!(metrics.text().unwrap().contains("clock_jumps_total{direction=\"frozen\"} 1"));
        assert_eq!(clock.at(start + Duration::from_secs(89)), Some(datetime!(2026-11-23 19:08:09 UTC)));
    }
}
