//! The task that follows the files: inotify on the folders, and a poll that never stops.
//!
//! A watch on a file, or on `..data` itself, dies with the first swap; so the folder is watched, for the one name that matters. Correctness
//! rests on the poll alone: inotify may be exhausted, lose events or not exist.

use crate::files::PlaceKind;
use crate::health::WatchMode;
use crate::identity::Shared;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// A swap raises several events within microseconds: wait for the last of them.
const SETTLE: Duration = Duration::from_millis(2);
/// After a reading that met a swap half-way. The poll comes after the last of these.
const RETRIES: [Duration; 3] = [Duration::from_millis(20), Duration::from_millis(100), Duration::from_millis(500)];

/// Follows the files for ever; whoever holds the identity aborts it.
pub(crate) async fn follow(shared: Arc<Shared>) {
    let mut watch = Watch::default();
    let mut poll = tokio::time::interval(shared.poll);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first reading is below; an interval's first tick would come at once and be a second one.
    poll.reset();
    let mut retry = RETRIES.into_iter();
    loop {
        // First the watch, then the reading: what changes in between raises an event.
        let mode = if shared.loader.files.has_events() { watch.renew(&folders(&shared)) } else { watch.end() };
        shared.set_watch(mode);
        let retry_at = if reload(&shared).await {
            retry.next().and_then(|pause| Instant::now().checked_add(pause))
        } else {
            retry = RETRIES.into_iter();
            None
        };
        look_after_connections(&shared).await;
        while let Wake::Connections = wake(&mut watch, &mut poll, retry_at, &shared).await {
            look_after_connections(&shared).await;
        }
    }
}

/// What woke the task.
enum Wake {
    Files,
    Connections,
}

async fn wake(watch: &mut Watch, poll: &mut Interval, retry: Option<Instant>, shared: &Shared) -> Wake {
    let connections = &shared.connections;
    tokio::select! {
        () = watch.changed() => tokio::time::sleep(SETTLE).await,
        _ = poll.tick() => {}
        () = until(retry) => {}
        () = until(connections.next_deadline()) => return Wake::Connections,
        () = connections.changed.notified() => return Wake::Connections,
    }
    Wake::Files
}

/// Reads the files on a thread that may block. True if it is worth trying again soon.
pub(crate) async fn reload(shared: &Arc<Shared>) -> bool {
    let shared = Arc::clone(shared);
    // An error means that the runtime is shutting down.
    tokio::task::spawn_blocking(move || shared.reload()).await.unwrap_or(false)
}

/// Ends what is over, and, if asked for, looks at who still passes: on a thread that may block, because it costs 55 µs for each peer.
async fn look_after_connections(shared: &Arc<Shared>) {
    shared.end_what_is_over();
    if shared.connections.take_request() {
        let shared = Arc::clone(shared);
        // An error means that the runtime is shutting down.
        tokio::task::spawn_blocking(move || shared.recheck()).await.unwrap_or_default();
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn folders(shared: &Shared) -> BTreeSet<PathBuf> {
    shared
        .loader
        .source
        .paths()
        .iter()
        .map(|path| shared.loader.files.locate(path))
        .filter(|place| place.kind != PlaceKind::SubPath)
        .map(|place| place.folder)
        .collect()
}

/// One inotify instance for all folders; none while the system has none to give.
#[derive(Debug, Default)]
struct Watch {
    events: Option<AsyncFd<OwnedFd>>,
}

impl Watch {
    /// Adds every folder again. The kernel knows a folder it already watches; one that was replaced becomes a new watch.
    fn renew(&mut self, folders: &BTreeSet<PathBuf>) -> WatchMode {
        self.events = self.events.take().or_else(instance);
        let Some(events) = &self.events else { return WatchMode::Poll };
        let what = WatchFlags::MOVED_TO
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE_SELF
            | WatchFlags::MOVE_SELF
            | WatchFlags::ONLYDIR;
        let all = folders.iter().all(|folder| inotify::add_watch(events.get_ref(), folder, what).is_ok());
        if all { WatchMode::Inotify } else { WatchMode::Poll }
    }

    fn end(&mut self) -> WatchMode {
        self.events = None;
        WatchMode::Poll
    }

    /// Waits until something may have changed. For ever, if there is no inotify.
    async fn changed(&mut self) {
        let Some(events) = &self.events else { return std::future::pending().await };
        loop {
            match events.readable().await {
                Ok(mut ready) => {
                    let relevant = drain(events.get_ref());
                    ready.clear_ready();
                    if relevant {
                        return;
                    }
                }
                // Without a working instance the poll goes on; the next turn asks for a new one.
                Err(_broken) => {
                    self.events = None;
                    return std::future::pending().await;
                }
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe for types other than OwnedFd; an OwnedFd keeps its descriptor open as asked"
)]
fn instance() -> Option<AsyncFd<OwnedFd>> {
    let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok()?;
    AsyncFd::new(events).ok()
}

/// Takes all events; true if one of them matters.
fn drain(events: &OwnedFd) -> bool {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = inotify::Reader::new(events, &mut buffer);
    let mut relevant = false;
    while let Ok(event) = reader.next() {
        relevant |= matters(event.events(), event.file_name().map(std::ffi::CStr::to_bytes));
    }
    relevant
}

/// Within a volume only the swap of `..data` counts, not the steps before it. A lost event counts as a change.
fn matters(events: ReadFlags, name: Option<&[u8]>) -> bool {
    match name {
        Some(b"..data") => events.contains(ReadFlags::MOVED_TO),
        Some(name) => !name.starts_with(b".."),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotation_is_one_event() {
        assert!(matters(ReadFlags::MOVED_TO, Some(b"..data")));
        assert!(!matters(ReadFlags::CREATE, Some(b"..data_tmp")));
        assert!(!matters(ReadFlags::CREATE, Some(b"..2026_11_23")));
        assert!(matters(ReadFlags::CLOSE_WRITE, Some(b"bundle.pem")));
    }

    #[test]
    fn an_overflow_and_a_lost_folder_count_as_changes() {
        assert!(matters(ReadFlags::QUEUE_OVERFLOW, None));
        assert!(matters(ReadFlags::DELETE_SELF, None));
        assert!(matters(ReadFlags::IGNORED, None));
    }
}
