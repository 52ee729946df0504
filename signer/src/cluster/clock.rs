//! The API server's clock: the `Date` of its latest reply plus the time that has passed here since. Nothing that the signer decides goes by
//! the local time of day. TLS does: rustls asks whether the API server's certificate is valid by it, whenever a connection is made. Where
//! it is so wrong that it is not, the API server is not reached, and nothing is signed.

use std::sync::{Arc, Mutex, PoisonError};

use http::{HeaderMap, header::DATE};
use time::{OffsetDateTime, PrimitiveDateTime, format_description::BorrowedFormatItem, macros::format_description};
use tokio::time::Instant;

/// What the API server last said the time is. All clones are one clock.
#[derive(Clone, Debug, Default)]
pub struct ServerClock {
    latest: Arc<Mutex<Option<Reading>>>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    said: OffsetDateTime,
    heard: Instant,
}

impl ServerClock {
    /// The time by the API server; nothing before its first reply. Whole seconds are what HTTP tells, so this may be up to a
    /// second behind, and go back by as much from one reply to the next.
    #[must_use]
    pub fn now(&self) -> Option<OffsetDateTime> {
        self.at(Instant::now())
    }

    /// Takes the `Date` of a reply that came at `heard`. Of two replies the one heard later counts, whichever is noted first.
    pub(crate) fn hear(&self, headers: &HeaderMap, heard: Instant) {
        let Some(said) = headers.get(DATE).and_then(|value| value.to_str().ok()).and_then(parse) else { return };
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.is_none_or(|before| before.heard <= heard) {
            *latest = Some(Reading { said, heard });
        }
    }

    fn at(&self, instant: Instant) -> Option<OffsetDateTime> {
        let reading = (*self.latest.lock().unwrap_or_else(PoisonError::into_inner))?;
        let passed = time::Duration::try_from(instant.saturating_duration_since(reading.heard)).ok()?;
        reading.said.checked_add(passed)
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
        clock.hear(&HeaderMap::new(), Instant::now());
        clock.hear(&dated("yesterday"), Instant::now());
        assert_eq!(clock.now(), None);
    }

    #[test]
    fn time_goes_on_from_the_last_reply() {
        let (clock, start) = (ServerClock::default(), Instant::now());
        clock.hear(&dated("Mon, 23 Nov 2026 19:08:09 GMT"), start);
        assert_eq!(clock.at(start + Duration::from_secs(65)), Some(datetime!(2026-11-23 19:09:14 UTC)));
    }

    #[test]
    fn the_reply_heard_last_counts() {
        let (clock, start) = (ServerClock::default(), Instant::now());
        let later = start + Duration::from_secs(10);
        clock.hear(&dated("Mon, 23 Nov 2026 20:00:00 GMT"), later);
        clock.hear(&dated("Mon, 23 Nov 2026 19:00:00 GMT"), start);
        assert_eq!(clock.at(later), Some(datetime!(2026-11-23 20:00:00 UTC)));
        clock.hear(&dated("Mon, 23 Nov 2026 18:00:00 GMT"), later + Duration::from_secs(1));
        assert_eq!(clock.at(later + Duration::from_secs(1)), Some(datetime!(2026-11-23 18:00:00 UTC)));
    }
}
