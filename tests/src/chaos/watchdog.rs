//! A run that stands still must not stand for ever: it ends red and says what it waited for. On a thread of its own, for what stands
//! still may be the runtime.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Watches until it is dropped.
pub struct Watchdog {
    doings: Doings,
    _alive: SyncSender<()>,
}

/// What goes on, by number: since when, and what.
type Doings = Arc<Mutex<BTreeMap<usize, (Instant, String)>>>;

/// Something that goes on until this is dropped.
pub struct Doing {
    doings: Doings,
    number: usize,
}

impl Watchdog {
    /// After `limit` it tells what goes on, and calls `bite` from its thread.
    pub fn start(limit: Duration, bite: impl FnOnce(String) + Send + 'static) -> Self {
        let doings = Doings::default();
        let (alive, told) = sync_channel(0);
        let seen = Arc::clone(&doings);
        std::thread::spawn(move || watch(limit, &told, &seen, bite));
        Self { doings, _alive: alive }
    }

    /// From now on this goes on.
    pub fn doing(&self, what: impl Into<String>) -> Doing {
        let mut doings = locked(&self.doings);
        let number = doings.last_key_value().map_or(0, |(last, _)| last + 1);
        doings.insert(number, (Instant::now(), what.into()));
        Doing { doings: Arc::clone(&self.doings), number }
    }
}

impl Drop for Doing {
    fn drop(&mut self) {
        locked(&self.doings).remove(&self.number);
    }
}

fn watch(limit: Duration, told: &Receiver<()>, doings: &Doings, bite: impl FnOnce(String)) {
    // Nobody ever sends: either the run ends, or the time is over.
    if told.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
        let doings = locked(doings);
        let lines = doings.values().map(|(since, what)| format!("\n  for {:.0?}: {what}", since.elapsed()));
        bite(format!("is not over after {limit:?}; it waits{}", lines.collect::<String>()));
    }
}

fn locked(doings: &Doings) -> MutexGuard<'_, BTreeMap<usize, (Instant, String)>> {
    doings.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_goes_on_and_not_what_is_over() {
        let (bitten, said) = sync_channel(1);
        let dog = Watchdog::start(Duration::from_secs(2), move |words| bitten.send(words).unwrap());
        drop(dog.doing("the API server starts"));
        let _doing = dog.doing("Kill of replica-0");
        let words = said.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(words.contains("Kill of replica-0") && !words.contains("the API server starts"), "{words}");
    }

    #[test]
    fn a_run_that_ends_in_time_is_left_alone() {
        let (bitten, said) = sync_channel::<String>(1);
        drop(Watchdog::start(Duration::from_secs(20), move |words| bitten.send(words).unwrap()));
        assert!(said.recv_timeout(Duration::from_secs(30)).is_err(), "its thread has ended without a word");
    }
}
