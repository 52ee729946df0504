//! The one place of this crate that reads the clock, and the one that draws random bytes.

use std::time::{SystemTime, UNIX_EPOCH};

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

/// A number in `0..below`; 0 if `below` is 0.
pub(crate) fn random_below(below: u64) -> u64 {
    u64::from_be_bytes(random()).checked_rem(below).unwrap_or(0)
}
