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

use crate::checker::End;
use crate::kept::{Kept, Scratch};
use crate::proxy::Proxy;
use crate::signer::{SignerPlan, audit, plain_client};
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
    /// The most memory that any of its lives has used, in KiB.
    peak: u64,
}

/// Whoever reads the audit log from a pipe, as a log collector does.
struct Reader {
    stopped: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// What is known of a replica when all is over.
pub struct Remains {
    /// Its audit log, over all its lives.
    pub log: Vec<Value>,
    /// How it ended.
    pub end: End,
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
            peak: 0,
        };
        replica.log_to(None);
        replica
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts it, unless it runs.
    pub fn start(&mut self) {
        let log = self.folder.join("signer.log");
        self.process.get_or_insert_with(|| Kept::start(&assets::binary("podmint-signer"), &self.arguments, &log));
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&self) {
        until(format!("{} is ready", self.name), async || call::text(&self.metrics, "/readyz").await.ok()).await;
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.note_peak();
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    /// The process, while it runs.
    pub fn process(&self) -> &Kept {
        self.process.as_ref().expect("it runs")
    }

    /// From now on the audit log's file takes nothing, as on a full disk, or is as before. Not for one that writes to a pipe.
    pub fn fill_disk(&self, is_full: bool) {
        self.log_to(is_full.then_some("/dev/full"));
    }

    /// From now on nobody reads the pipe of the audit log, or somebody does again. Not for one that writes to a file.
    pub fn block_pipe(&self, is_blocked: bool) {
        let reader = self.reader.as_ref().expect("it writes to a pipe");
        reader.stopped.send_replace(is_blocked);
    }

    /// SIGTERM, and what is left.
    pub async fn end(mut self) -> Remains {
        self.note_peak();
        let status = self.process.take().expect("it runs").terminate();
        let words = std::fs::read_to_string(self.folder.join("signer.log")).expect("it wrote a log");
        if let Some(reader) = self.reader {
            reader.finish().await;
        }
        Remains { log: audit(&self.folder), end: End { name: self.name, words, peak: self.peak, status } }
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
                let Ok(read) = tokio::time::timeout(SHORT, pipe.read(&mut piece)).await else { continue };
                let read = read.expect("a pipe can be read");
                std::io::Write::write_all(&mut out, &piece[..read]).expect("a log file takes lines");
            }
            while let Ok(read) = pipe.try_read(&mut piece) {
                std::io::Write::write_all(&mut out, &piece[..read]).expect("a log file takes lines");
            }
        });
        Self { stopped, task }
    }

    async fn finish(self) {
        drop(self.stopped);
        self.task.await.expect("the reader does not panic");
    }
}

const SHORT: Duration = Duration::from_millis(50);
