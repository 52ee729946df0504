//! What is measured: programs that answer requests, each started anew with the rights of the chart's ServiceAccount.

use std::path::{Path, PathBuf};
use std::time::Instant;

use podmint_tests::kept::{Kept, Scratch};
use podmint_tests::signer::SignerProcess;
use podmint_tests::{Stage, assets};
use serde_json::json;

/// Who answers.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Program {
    /// Looks at nothing and denies everything: what the API server takes.
    Null,
    /// Our signer, as it is shipped.
    Ours,
    /// Three replicas of it.
    Ours3,
    /// A plain signer in Go: client-go without its throttle, 16 workers.
    Go,
    /// Upstream's test signer, whose client throttles itself to five a second.
    Agnhost,
}

/// A program that runs, in one or more processes.
pub(crate) struct Running {
    /// Just before its first process was started.
    pub(crate) started: Instant,
    signers: Vec<SignerProcess>,
    others: Vec<Kept>,
    _scratch: Scratch,
}

impl Program {
    /// For the table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Ours => "ours",
            Self::Ours3 => "ours, 3 replicas",
            Self::Go => "plain Go",
            Self::Agnhost => "agnhost (5/s)",
        }
    }

    pub(crate) const fn is_ours(self) -> bool {
        matches!(self, Self::Ours | Self::Ours3)
    }

    /// More would only show the throttle for longer.
    pub(crate) const fn most(self) -> usize {
        match self {
            Self::Agnhost => 200,
            Self::Null | Self::Ours | Self::Ours3 | Self::Go => usize::MAX,
        }
    }

    /// Starts it, to answer for all of these namespaces. It may not be ready yet.
    pub(crate) async fn start(self, stage: &Stage, namespaces: &[&str], binary: &Path) -> Running {
        let scratch = Scratch::new();
        let (mut signers, mut others, mut started) = (Vec::new(), Vec::new(), None);
        let allow = json!([{"name": "all", "namespaces": namespaces, "serviceAccounts": ["*"]}]);
        for replica in self.replicas() {
            let signer = stage.a_signer().with("allow", allow.clone()).called(replica).start_process_of(binary).await;
            started.get_or_insert(signer.started());
            signers.push(signer);
        }
        if let Some(program) = self.other() {
            let (namespace, name) = stage.signer_account_name().expect("the signer runs as a service account");
            let kubeconfig = scratch.write("kubeconfig", &stage.bed.kubeconfig(namespace, name).await);
            let arguments = self.arguments(&kubeconfig.display().to_string(), &stage.signer_name);
            started = Some(Instant::now());
            others.push(Kept::start(&program, &arguments, &scratch.join("log")));
        }
        Running { started: started.unwrap_or_else(Instant::now), signers, others, _scratch: scratch }
    }

    const fn replicas(self) -> &'static [&'static str] {
        match self {
            Self::Null | Self::Go | Self::Agnhost => &[],
            Self::Ours => &["replica-a"],
            Self::Ours3 => &["replica-a", "replica-b", "replica-c"],
        }
    }

    /// The file of a program that is not ours.
    fn other(self) -> Option<PathBuf> {
        match self {
            Self::Null => Some(std::env::current_exe().expect("a process knows its file")),
            Self::Go => Some(assets::go_program("plain-signer")),
            Self::Agnhost => Some(assets::go_program("agnhost")),
            Self::Ours | Self::Ours3 => None,
        }
    }

    fn arguments(self, kubeconfig: &str, signer_name: &str) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Null => &["null", kubeconfig, signer_name],
            Self::Go => &[kubeconfig, signer_name],
            Self::Agnhost => &[
                "podcertificatesigner",
                "--kubeconfig",
                kubeconfig,
                "--signer-name",
                signer_name,
                "--cluster-dns-domain",
                "cluster.local",
            ],
            Self::Ours | Self::Ours3 => &[],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }
}

impl Running {
    fn processes(&self) -> impl Iterator<Item = &Kept> {
        self.signers.iter().map(SignerProcess::process).chain(&self.others)
    }

    /// What it has used of the processors so far, in seconds.
    pub(crate) fn cpu(&self) -> f64 {
        self.processes().map(|process| cpu(process.pid())).sum()
    }

    /// The same, on average of the processes that did not use the most.
    pub(crate) fn cpu_of_a_standby(&self) -> Option<f64> {
        let busiest = self.processes().map(|process| cpu(process.pid())).fold(0.0, f64::max);
        let standbys = self.processes().count() - 1;
        (standbys > 0).then(|| (self.cpu() - busiest) / standbys as f64)
    }

    /// From now on only what memory it has then counts for its peak.
    pub(crate) fn forget_peak(&self) {
        for process in self.processes() {
            // See proc_pid_clear_refs(5).
            std::fs::write(format!("/proc/{}/clear_refs", process.pid()), "5").expect("the process runs");
        }
    }

    /// The most memory that one of its processes had, in MiB.
    pub(crate) fn peak(&self) -> f64 {
        self.processes().map(|process| peak(process.pid())).fold(0.0, f64::max)
    }

    /// Ends it.
    pub(crate) fn stop(self) {
        self.signers
            .into_iter()
            .for_each(|signer| assert_eq!(signer.terminate(), 0, "the signer stops without an error"));
        for other in self.others {
            other.kill();
        }
    }
}

/// Our signer as it is put into an image.
pub(crate) fn shipped() -> PathBuf {
    eprintln!("building the signer as it is shipped (profile dist) …");
    let built = assets::cargo()
        .args(["build", "--quiet", "--profile", "dist", "-p", "podmint-signer", "--bin", "podmint-signer"])
        .status();
    assert!(built.expect("cargo can be started").success(), "the signer cannot be built");
    assets::target().join("dist/podmint-signer")
}

/// User and system time of a process in seconds; the kernel counts in hundredths.
pub(crate) fn cpu(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    [11, 12].iter().map(|place| fields[*place].parse::<f64>().expect("a number")).sum::<f64>() / 100.0
}

fn peak(pid: i32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel keeps this");
    line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
}
