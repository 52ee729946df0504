//! Lines in, lines on a file: written by a thread of its own, so that a slow disk or a full pipe holds up certificates and
//! nothing else. A line counts as written when the operating system has taken it.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::fd::AsFd,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;

/// Where the lines go.
#[derive(Clone, Debug)]
pub enum Sink {
    /// A file that is appended to. It is opened anew when it was moved away, as log rotation does.
    File(PathBuf),
    /// Standard output, one line each.
    Stdout,
    /// For tests and the demo: read while the signer runs.
    Memory(Arc<Mutex<Vec<Value>>>),
}

/// Why a line could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// More lines wait than may.
    #[error("the audit log is too slow: {WAITING} lines wait already")]
    Full,
    /// The line may be written yet.
    #[error("the audit log took no line for {0:?}")]
    Late(Duration),
    /// The operating system said no.
    #[error("could not write the audit log")]
    Write(#[source] Arc<io::Error>),
    /// The signer is stopping.
    #[error("the audit log is closed")]
    Closed,
    /// The thread could not be started.
    #[error("could not start the audit log's thread")]
    Thread(#[source] io::Error),
}

/// Takes lines. All clones write to one log; when the last is gone the thread ends.
#[derive(Clone, Debug)]
pub(crate) struct Log(Way);

#[derive(Clone, Debug)]
enum Way {
    Thread(mpsc::SyncSender<Line>),
    /// Needs no thread, for it never waits.
    Memory(Arc<Mutex<Vec<Value>>>),
}

#[derive(Debug)]
struct Line {
    text: Text,
    written: oneshot::Sender<Result<(), Arc<io::Error>>>,
}

impl Log {
    /// Opens the sink, so that a path that cannot be written is found before anything is signed.
    pub(crate) fn open(sink: Sink) -> Result<Self, AuditError> {
        let path = match sink {
            Sink::File(path) => Some(path),
            Sink::Stdout => None,
            Sink::Memory(records) => return Ok(Self(Way::Memory(records))),
        };
        let mut output = Output::open(path).map_err(|error| AuditError::Write(Arc::new(error)))?;
        let (lines, waiting) = mpsc::sync_channel(WAITING);
        let thread = thread::Builder::new().name("audit".to_owned()).stack_size(STACK);
        thread.spawn(move || write_all(&mut output, &waiting)).map_err(AuditError::Thread)?;
        Ok(Self(Way::Thread(lines)))
    }

    /// Waits until the operating system has the line.
    pub(crate) async fn write(&self, line: Text) -> Result<(), AuditError> {
        let lines = match &self.0 {
            Way::Thread(lines) => lines,
            Way::Memory(records) => {
                let record = serde_json::from_slice(&line.0).map_err(unfit)?;
                records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
                return Ok(());
            }
        };
        let (written, told) = oneshot::channel();
        lines.try_send(Line { text: line, written }).map_err(|error| match error {
            mpsc::TrySendError::Full(_) => AuditError::Full,
            mpsc::TrySendError::Disconnected(_) => AuditError::Closed,
        })?;
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(AuditError::Write(error)),
            Ok(Err(_ended)) => Err(AuditError::Closed),
            Err(_) => Err(AuditError::Late(PATIENCE)),
        }
    }
}

/// A line, and its end.
#[derive(Debug)]
pub(crate) struct Text(Vec<u8>);

impl Text {
    pub(crate) fn of(record: &impl Serialize) -> Result<Self, AuditError> {
        let mut text = serde_json::to_vec(record).map_err(unfit)?;
        text.push(b'\n');
        Ok(Self(text))
    }

    #[cfg(test)]
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

fn unfit(error: serde_json::Error) -> AuditError {
    AuditError::Write(Arc::new(error.into()))
}

/// Writes whatever waits, all of it at once. In a burst it lets lines gather for a moment: one write and one waking for many.
fn write_all(output: &mut Output, waiting: &mpsc::Receiver<Line>) {
    let mut last: Option<Instant> = None;
    while let Ok(first) = waiting.recv() {
        if let Some(rest) = last.and_then(|last| GATHER.checked_sub(last.elapsed())) {
            thread::sleep(rest);
        }
        let Line { text: Text(mut text), written } = first;
        let mut told = vec![written];
        for line in waiting.try_iter().take(WAITING) {
            text.extend(line.text.0);
            told.push(line.written);
        }
        let result = output.write(&text).map_err(Arc::new);
        for written in told {
            // Whoever waited may have lost patience.
            drop(written.send(result.clone()));
        }
        last = Some(Instant::now());
    }
}

struct Output {
    /// None for standard output.
    path: Option<PathBuf>,
    file: std::fs::File,
    /// After half a line: the next one begins on a line of its own.
    torn: bool,
}

impl Output {
    fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let file = match &path {
            Some(path) => append(path)?,
            // Without a buffer, which would keep what could not be written.
            None => io::stdout().as_fd().try_clone_to_owned()?.into(),
        };
        Ok(Self { path, file, torn: false })
    }

    /// Writes lines, all at once.
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if let Some(path) = self.path.as_ref().filter(|path| moved_away(path, &self.file)) {
            self.file = append(path)?;
            self.torn = false;
        }
        if self.torn {
            self.file.write_all(b"\n")?;
        }
        self.torn = true;
        self.file.write_all(lines)?;
        self.torn = false;
        Ok(())
    }
}

fn append(path: &PathBuf) -> io::Result<std::fs::File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Whether the path leads to another file than the one that is open, or to none.
fn moved_away(path: &PathBuf, file: &std::fs::File) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (std::fs::metadata(path), file.metadata()) {
        (Ok(there), Ok(open)) => identity(there) != identity(open),
        (Err(_), _) | (_, Err(_)) => true,
    }
}

/// As many walks as may be in flight, twice over: each writes two lines.
const WAITING: usize = 512;
/// Between two writes. A line that comes alone does not wait.
const GATHER: Duration = Duration::from_millis(1);
/// A disk that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// The thread writes; nothing recurses.
const STACK: usize = 128 << 10;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(path: &PathBuf) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn line(record: Value) -> Text {
        Text::of(&record).unwrap()
    }

    #[tokio::test]
    async fn a_line_that_is_acknowledged_is_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let log = Log::open(Sink::File(path.clone())).unwrap();
        for number in 0..3 {
            log.write(line(json!({ "number": number }))).await.unwrap();
            assert_eq!(lines(&path).len(), number + 1);
        }
    }

    #[test]
    fn a_line_after_half_a_line_is_whole() {
        let (mut reader, writer) = io::pipe().unwrap();
        let file = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
        let mut output = Output { path: None, file: file.try_clone().unwrap(), torn: true };
        output.write(b"{\"whole\":1}\n").unwrap();
        output.write(b"{\"whole\":2}\n").unwrap();
        drop((output, file));
        let mut said = String::new();
        io::Read::read_to_string(&mut reader, &mut said).unwrap();
        assert_eq!(said, "\n{\"whole\":1}\n{\"whole\":2}\n");
    }

    #[tokio::test]
    async fn a_file_that_was_moved_away_is_opened_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let log = Log::open(Sink::File(path.clone())).unwrap();
        log.write(line(json!("old"))).await.unwrap();
        std::fs::rename(&path, folder.path().join("audit.jsonl.1")).unwrap();
        log.write(line(json!("new"))).await.unwrap();
        assert_eq!(lines(&path), [json!("new")]);
    }

    #[tokio::test]
    async fn a_path_that_cannot_be_written_is_found_at_once_and_later() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("there").join("audit.jsonl");
        assert!(Log::open(Sink::File(path.clone())).is_err());
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let log = Log::open(Sink::File(path.clone())).unwrap();
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        assert!(matches!(log.write(line(json!("lost"))).await, Err(AuditError::Write(_))));
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        log.write(line(json!("back"))).await.unwrap();
        assert_eq!(lines(&path), [json!("back")]);
    }

    /// `/dev/full` takes nothing, as a disk without room.
    #[tokio::test]
    async fn a_full_disk_is_told_and_not_passed_over() {
        let log = Log::open(Sink::File("/dev/full".into())).unwrap();
        assert!(matches!(log.write(line(json!("lost"))).await, Err(AuditError::Write(_))));
    }
}
