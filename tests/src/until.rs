//! Waiting for a condition, with a limit. No story sleeps for a fixed time and hopes.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Generous, because a machine may be busy: it only decides how long a broken story takes to fail.
pub const LIMIT: Duration = Duration::from_secs(90);

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(20);

/// Waits until `look` gives something and returns it.
///
/// # Panics
/// When `LIMIT` has passed, saying what was waited for.
pub async fn until<T>(what: impl Display, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < LIMIT, "waited {LIMIT:?} in vain until {what}");
        tokio::time::sleep(STEP).await;
    }
}

/// Looks again and again for `time`, and panics as soon as `look` gives something.
pub async fn never(what: impl Display, time: Duration, mut look: impl AsyncFnMut() -> Option<String>) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        if let Some(found) = look().await {
            panic!("{what}: {found}");
        }
        tokio::time::sleep(STEP).await;
    }
}
