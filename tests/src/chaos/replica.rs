//! A replica of the signer: a process of its own behind a proxy of its own, which is killed and started again with the same name and
//! the same audit log, as a pod's container is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::checker::replicas::{Entry, Remains};
use crate::kept::{Kept, Scratch};
use crate::proxy::Proxy;
use crate::signer::{SignerPlan, plain_client};
use crate::until::until;
use crate::{assets, call};

/// One replica.
pub struct Replica {
    /// The way to the API server.
    pub proxy: Proxy,
    name: String,
    arguments: Vec<String>,
    metrics: kube::Client,
    process: Option<Kept>,
    reader: Option<Reader>,
    folder: Scratch,
    /// The most memory that it is given, in KiB.
    limit: Option<u64>,
    /// The most memory that any of its lives has used, in KiB.
    peak: u64,
    /// What befell it, beside the length of its audit log at that time.
    marks: Vec<(u64, Entry)>,
}

/// Whoever reads the audit log from a pipe, as a log collector does.
struct Reader {
    stopped: watch::Sender<bool>,
    /// How often nothing came for a moment.
    silences: watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Replica {
    /// Not yet started. The audit log goes to a file, or to a pipe that somebody reads.
    pub fn new(plan: SignerPlan<'_>, name: &str, proxy: Proxy, by_pipe: bool) -> Self {
        let folder = Scratch::new();
        let sink = folder.join("audit");
        let reader = by_pipe.then(|| {
            mknodat(CWD, &sink, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe can be made");
            Reader::start(&sink, folder.join("audit.jsonl"))
        });
        let (arguments, port) = plan.called(name).arguments(&folder, &proxy.kubeconfig(), &sink);
        let replica = Self {
            proxy,
            name: name.to_owned(),
            arguments,
            metrics: plain_client(port),
            process: None,
            reader,
            folder,
            limit: None,
            peak: 0,
            marks: Vec::new(),
        };
        replica.log_to(None);
        replica
    }

    /// Which ends when it wants more memory than so many KiB.
    pub fn limited_to(self, most: u64) -> Self {
        Self { limit: Some(most), ..self }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it, unless it runs.
    pub fn start(&mut self) {
        if self.process.is_none() {
            let process =
                Kept::start(&assets::binary("podmint-signer"), &self.arguments, &self.folder.join("signer.log"));
            if let Some(most) = self.limit {
                process.limit_memory(most);
            }
            self.process = Some(process);
        }
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&self) {
        until(format!("{} is ready", self.name), async || call::text(&self.metrics, "/readyz").await.ok()).await;
    }

    /// SIGKILL.
    pub async fn kill(&mut self) {
        self.note_peak();
        if let Some(process) = self.process.take() {
            let status = process.kill();
            if let Some(reader) = &mut self.reader {
                reader.has_read_all().await;
            }
            self.mark(Entry::End(status));
        }
    }

    /// SIGSTOP. A line that is on its way then is given up as too late when it goes on, and written.
    pub fn pause(&mut self) {
        self.mark(Entry::Deaf);
        self.process().pause();
    }

    /// SIGCONT.
    pub async fn resume(&mut self) {
        self.process().resume();
        self.hears().await;
    }

    /// The process, while it runs.
    pub fn process(&self) -> &Kept {
        self.process.as_ref().expect("it runs")
    }

    /// The audit log's file takes nothing for so long, as on a full disk. Not for one that writes to a pipe.
    pub async fn fill_disk(&mut self, time: Duration) {
        self.mark(Entry::Deaf);
        self.log_to(Some("/dev/full"));
        tokio::time::sleep(time).await;
        self.log_to(None);
        self.hears().await;
    }

    /// Nobody reads the pipe of the audit log for so long. Not for one that writes to a file.
    pub async fn block_pipe(&mut self, time: Duration) {
        self.mark(Entry::Deaf);
        let block = |is_blocked| {
            let reader = self.reader.as_ref().expect("it writes to a pipe");
            reader.stopped.send_replace(is_blocked);
        };
        block(true);
        tokio::time::sleep(time).await;
        block(false);
        self.hears().await;
    }

    /// SIGTERM, and what is left.
    pub async fn end(mut self) -> Remains {
        self.note_peak();
        let words = self.process().last_words();
        let status = self.process.take().expect("it runs").terminate();
        if let Some(reader) = self.reader.take() {
            reader.finish().await;
        }
        self.mark(Entry::End(status));
        let said = std::fs::read_to_string(self.folder.join("signer.log")).unwrap_or_default();
        Remains {
            log: log(&std::fs::read(self.audit()).unwrap_or_default(), &self.marks),
            panics: said.lines().filter(|line| line.contains(PANICKED)).map(str::to_owned).collect(),
            name: self.name,
            peak: self.peak,
            words,
        }
    }

    /// Until what has waited while it was deaf is in the audit log.
    async fn hears(&mut self) {
        tokio::time::sleep(CATCHES_UP).await;
        self.mark(Entry::Hears);
    }

    fn mark(&mut self, what: Entry) {
        let length = std::fs::metadata(self.audit()).map_or(0, |log| log.len());
        self.marks.push((length, what));
    }

    /// The file that is read in the end.
    fn audit(&self) -> PathBuf {
        self.folder.join("audit.jsonl")
    }

    fn note_peak(&mut self) {
        self.peak = self.peak.max(self.process.as_ref().map_or(0, Kept::peak_memory));
    }

    /// Where the link in the folder leads; without a word to the file that is read in the end.
    fn log_to(&self, elsewhere: Option<&str>) {
        if self.reader.is_some() {
            return;
        }
        let (link, new) = (self.folder.join("audit"), self.folder.join("audit.new"));
        std::os::unix::fs::symlink(elsewhere.unwrap_or("audit.jsonl"), &new).expect("a link can be made");
        std::fs::rename(new, link).expect("a link can be replaced");
    }
}

impl Reader {
    fn start(pipe: &Path, file: PathBuf) -> Self {
        let mut pipe = pipe::OpenOptions::new().read_write(true).open_receiver(pipe).expect("a pipe can be read");
        let (stopped, mut told) = watch::channel(false);
        let (silent, silences) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut out = std::fs::OpenOptions::new().create(true).append(true).open(file).expect("a log file");
            let mut piece = vec![0; 4096];
            // When nobody tells any more, what is in the pipe by now is all there is.
            while told.has_changed().is_ok() {
                if *told.borrow_and_update() {
                    // Told, or nobody is left who could: looked at above.
                    let _changed = told.changed().await;
                    continue;
                }
                let Ok(read) = tokio::time::timeout(SHORT, pipe.read(&mut piece)).await else {
                    silent.send_modify(|silences| *silences += 1);
                    continue;
                };
                let read = read.expect("a pipe can be read");
                std::io::Write::write_all(&mut out, &piece[..read]).expect("a log file takes lines");
            }
            while let Ok(read) = pipe.try_read(&mut piece) {
                std::io::Write::write_all(&mut out, &piece[..read]).expect("a log file takes lines");
            }
        });
        Self { stopped, silences, task }
    }

    /// Until what was in the pipe is in the file, once nobody writes any more. The first silence may have begun before.
    async fn has_read_all(&mut self) {
        let before = *self.silences.borrow_and_update();
        self.silences.wait_for(|silences| *silences > before + 1).await.expect("the reader does not panic");
    }

    async fn finish(self) {
        drop(self.stopped);
        self.task.await.expect("the reader does not panic");
    }
}

/// The lines of an audit log, and among them what befell its writer. A line that is cut off is left out, as whoever reads such logs must.
fn log(text: &[u8], marks: &[(u64, Entry)]) -> Vec<Entry> {
    let (mut log, mut marks, mut at) = (Vec::new(), marks.iter().peekable(), 0);
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        while let Some((_, befell)) = marks.next_if(|(length, _)| *length <= at) {
            log.push(befell.clone());
        }
        log.extend(serde_json::from_slice(line).ok().map(Entry::Line));
        at += u64::try_from(line.len()).expect("a line is short");
    }
    log.extend(marks.map(|(_, befell)| befell.clone()));
    log
}

/// The most memory that the chart gives a replica, in KiB.
pub fn memory_of_the_chart() -> u64 {
    let path = assets::root().join("deploy/helm/podmint/values.yaml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let values: Value = serde_saphyr::from_str(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    let limit = values["resources"]["limits"]["memory"].as_str().expect("the chart limits the memory");
    let mebibytes = limit.strip_suffix("Mi").and_then(|number| number.parse::<u64>().ok());
    mebibytes.expect("the chart counts it in MiB") << 10
}

/// What Rust says, on standard error, of a thread that panics, whether or not somebody catches it.
const PANICKED: &str = " panicked at ";
const SHORT: Duration = Duration::from_millis(50);
/// What waited for the audit log is written at once when nothing is in the way, or given up after five seconds.
const CATCHES_UP: Duration = Duration::from_secs(7);

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_befell_a_replica_stands_where_its_log_was() {
        let text = b"1\n2\n{\"torn\": \n3\n";
        let marks = [(2, Entry::Deaf), (3, Entry::Hears), (14, Entry::End(9)), (17, Entry::End(0))];
        let line = |number: u64| Entry::Line(json!(number));
        assert_eq!(
            log(text, &marks),
            [line(1), Entry::Deaf, line(2), Entry::Hears, Entry::End(9), line(3), Entry::End(0)]
        );
    }

    #[test]
    fn the_chart_says_how_much_memory_there_is() {
        assert!(memory_of_the_chart() >= 32 << 10);
    }
}
