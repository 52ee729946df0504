//! The signer under test: in this process with compressed waits, or as a process of its own that can be killed.

use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use podmint_signer::audit::Sink;
use podmint_signer::config::{Config, Domains};
use podmint_signer::pace::Pace;
use podmint_signer::run::{Guard, Options, Source};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::call;
use crate::kept::{Kept, Scratch};
use crate::until::{LIMIT, until};
use crate::{Stage, assets, ports, tally};

/// How many times faster the signer waits in a story.
pub const COMPRESSED: u32 = 60;

/// A minute as the signer under test lives it.
pub const MINUTE: Duration = Duration::from_secs(60).checked_div(COMPRESSED).unwrap();

/// A signer being described.
pub struct SignerPlan<'a> {
    stage: &'a Stage,
    spec: Value,
    identity: String,
    guard: Guard,
    pace: Pace,
    client: Option<kube::Client>,
    from_objects: bool,
    fed_by: Option<watch::Receiver<Config>>,
}

impl Stage {
    /// A signer for the story's signer name that admits everybody of the story's namespace.
    pub fn a_signer(&self) -> SignerPlan<'_> {
        let spec = json!({
            "signerName": self.signer_name,
            "trustDomain": TRUST_DOMAIN,
            "allow": [{"name": "story", "namespaces": [self.namespace], "serviceAccounts": ["*"]}],
        });
        SignerPlan {
            stage: self,
            spec,
            identity: "replica-a".to_owned(),
            guard: Guard::Off,
            pace: Pace::compressed(COMPRESSED),
            client: None,
            from_objects: false,
            fed_by: None,
        }
    }

    /// The only name in the certificate of a service account of the story.
    pub fn identity_of(&self, account: &str) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/{account}", self.namespace)
    }
}

/// The trust domain of all stories.
pub const TRUST_DOMAIN: &str = "stories.example.org";

impl SignerPlan<'_> {
    /// With another value in the `spec` of its PodSigner.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.spec[field] = value;
        self
    }

    /// Under another replica name.
    pub fn called(mut self, identity: &str) -> Self {
        self.identity = identity.to_owned();
        self
    }

    /// Which signs only while the admission guard is there.
    pub fn guarded(mut self) -> Self {
        self.guard = Guard::Required;
        self
    }

    /// At another pace.
    pub fn at(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Which reaches the API server in a way of the story's own.
    pub fn through(mut self, client: kube::Client) -> Self {
        self.client = Some(client);
        self
    }

    /// Which reads the PodSigner objects of the cluster, whoever makes them.
    pub fn from_objects(mut self) -> Self {
        self.from_objects = true;
        self
    }

    /// Whose PodSigners the story changes while it runs.
    pub fn fed_by(mut self, config: watch::Receiver<Config>) -> Self {
        self.fed_by = Some(config);
        self
    }

    /// Starts it in this process.
    pub async fn start(mut self) -> Signer {
        let domains = Domains::parse("podmint.dev", "cluster.local").expect("two domains");
        let source = match self.fed_by.take() {
            Some(config) => Source::Documents(config),
            None if self.from_objects => Source::Objects(domains),
            None => Config::parse(&self.document(), &domains).expect("a story's configuration is good").into(),
        };
        let listen = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let metrics = plain_client(listen.local_addr().expect("a bound socket has an address").port());
        let client = match self.client {
            Some(client) => client,
            None => self.stage.bed.client(&self.stage.signer_account).await,
        };
        let audit = Arc::new(Mutex::new(Vec::new()));
        let options = Options {
            client,
            source,
            namespace: self.stage.signer_namespace.clone(),
            identity: self.identity,
            audit: Sink::Memory(Arc::clone(&audit)),
            listen: Some(listen),
            guard: self.guard,
            pace: self.pace,
        };
        let stop = CancellationToken::new();
        let running = podmint_signer::run::run(options, stop.clone());
        let task = tokio::spawn(async move { running.await.map_err(|error| format!("{error:?}")) });
        Signer { stage: self.stage.clone(), audit, metrics, stop, task: Some(task) }
    }

    /// Starts the shipped binary, at its real pace.
    pub async fn start_process(self) -> SignerProcess {
        self.start_process_of(&assets::binary("podmint-signer")).await
    }

    /// Starts another build of it.
    pub async fn start_process_of(self, binary: &Path) -> SignerProcess {
        let scratch = Scratch::new();
        let Some(who) = self.stage.signer_account_name() else { panic!("the signer runs as a service account") };
        let kubeconfig = self.stage.bed.kubeconfig(who.0, who.1).await;
        let (arguments, port) = self.arguments(&scratch, &kubeconfig, &scratch.join("audit.jsonl"));
        let started = Instant::now();
        let process = Kept::start(binary, &arguments, &scratch.join("signer.log"));
        SignerProcess { started, process, metrics: plain_client(port), scratch }
    }

    /// The command line of the shipped binary, whose files are in `folder`, and the port it will listen on.
    pub fn arguments(&self, folder: &Scratch, kubeconfig: &str, audit: &Path) -> (Vec<String>, u16) {
        let port = ports::free();
        let guard = match self.guard {
            Guard::Required => "required",
            Guard::Off => "off",
        };
        let mut arguments = vec!["run".to_owned()];
        for (flag, value) in [
            ("--config", folder.write("config.yaml", &self.document()).display().to_string()),
            ("--kubeconfig", folder.write("kubeconfig", kubeconfig).display().to_string()),
            ("--namespace", self.stage.signer_namespace.clone()),
            ("--listen", format!("127.0.0.1:{port}")),
            ("--audit-log", audit.display().to_string()),
            ("--identity", self.identity.clone()),
            ("--admission-guard", guard.to_owned()),
        ] {
            arguments.extend([flag.to_owned(), value]);
        }
        (arguments, port)
    }

    /// The configuration file.
    pub fn document(&self) -> String {
        self.object().to_string()
    }

    /// Its PodSigner.
    pub fn object(&self) -> Value {
        json!({
            "apiVersion": "podmint.dev/v1alpha1", "kind": "PodSigner",
            "metadata": {"name": "story"}, "spec": self.spec,
        })
    }
}

/// A signer that runs in this process.
pub struct Signer {
    stage: Stage,
    audit: Arc<Mutex<Vec<Value>>>,
    metrics: kube::Client,
    stop: CancellationToken,
    task: Option<JoinHandle<Result<(), String>>>,
}

impl Signer {
    /// Waits until it says that it is ready.
    pub async fn ready(self) -> Self {
        until("the signer is ready", async || {
            assert!(!self.has_ended(), "the signer ended before it was ready");
            call::text(&self.metrics, "/readyz").await.ok()
        })
        .await;
        self
    }

    /// Whether it says now that it is ready, or what it waits for.
    pub async fn readiness(&self) -> Result<String, call::Refused> {
        call::text(&self.metrics, "/readyz").await
    }

    /// The audit log so far.
    pub fn audit(&self) -> Vec<Value> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The sum of a metric over all its labels that contain every one of `labels`; 0 where there is none.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metric(&self.metrics, name, labels).await
    }

    /// How often it gave this answer for this reason.
    pub async fn answered(&self, answer: &str, reason: &str) -> f64 {
        let (answer, reason) = (format!("answer=\"{answer}\""), format!("reason=\"{reason}\""));
        self.metric("podmint_signer_answers_total", &[&answer, &reason]).await
    }

    /// Waits until it has given this answer for this reason.
    pub async fn says(&self, answer: &str, reason: &str) {
        until(format!("the signer says {answer}, {reason}"), async || {
            (self.answered(answer, reason).await > 0.0).then_some(())
        })
        .await;
    }

    /// Whether it has stopped by itself.
    pub fn has_ended(&self) -> bool {
        self.task.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops it as SIGTERM does, and checks what every story ends with: no status write was refused by validation.
    pub async fn stop(mut self) {
        let (own, stage) =
            (self.metric("podmint_signer_rejected_writes_total", &["invalid"]).await, self.stage.clone());
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            let ended = tokio::time::timeout(LIMIT, task).await.expect("the signer stops");
            ended.expect("the signer does not panic").expect("the signer stops without an error");
        }
        assert!(own.abs() < 0.5, "the signer counts {own} rejected writes");
        tally::no_status_was_rejected(&stage);
    }
}

impl Drop for Signer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// A signer that runs as a process.
pub struct SignerProcess {
    started: Instant,
    process: Kept,
    metrics: kube::Client,
    scratch: Scratch,
}

impl SignerProcess {
    /// Waits until it says that it is ready.
    pub async fn ready(self) -> Self {
        until("the signer is ready", async || {
            assert!(self.process.is_alive(), "the signer ended:\n{}", self.process.last_words());
            call::text(&self.metrics, "/readyz").await.ok()
        })
        .await;
        self
    }

    /// When it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The process.
    pub fn process(&self) -> &Kept {
        &self.process
    }

    /// The audit log so far. A last line that is cut off is left out, as whoever reads such logs must.
    pub fn audit(&self) -> Vec<Value> {
        audit(&self.scratch)
    }

    /// As [`Signer::metric`].
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        metric(&self.metrics, name, labels).await
    }

    /// SIGKILL; returns the audit log as it was left.
    pub fn kill(self) -> Vec<Value> {
        let Self { process, scratch, .. } = self;
        process.kill();
        audit(&scratch)
    }

    /// SIGTERM; returns the exit status.
    pub fn terminate(self) -> i32 {
        self.process.terminate()
    }

    /// SIGTERM; returns the whole audit log and the exit status.
    pub fn terminate_and_read(self) -> (Vec<Value>, i32) {
        let Self { process, scratch, .. } = self;
        let status = process.terminate();
        (audit(&scratch), status)
    }
}

pub(crate) fn audit(scratch: &Scratch) -> Vec<Value> {
    let text = std::fs::read_to_string(scratch.join("audit.jsonl")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

pub(crate) async fn metric(client: &kube::Client, name: &str, labels: &[&str]) -> f64 {
    let text = call::text(client, "/metrics").await.unwrap_or_default();
    let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    let matching = text.lines().filter(of_name).filter(|line| labels.iter().all(|label| line.contains(label)));
    matching.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

pub(crate) fn plain_client(port: u16) -> kube::Client {
    let mut config = kube::Config::new(format!("http://127.0.0.1:{port}").parse().expect("our own address"));
    config.default_retry = false;
    podmint_devcluster::choose_crypto();
    kube::Client::try_from(config).expect("a client can be made")
}
