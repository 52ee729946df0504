//! What happens, in order: the ground, the recording, the signer, the nodes, the pods, the conversation, the impostor, the end.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::Client;
use podmint_devcluster::node::{NodeAgent, NodeOptions};
use podmint_signer::config::{Config, Domains};
use podmint_signer::run::{Guard, Options, run};
use podmint_signer::{audit, pace};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::args::Args;
use super::checker::{AttemptFacts, Evidence, Expected, PodFacts};
use super::ground::Ground;
use super::impostor::{self, Target};
use super::kinds::{self, Kinds};
use super::news::{News, Reporter};
use super::pair::{Counts, Pair};
use super::reasons;
use super::scene::{self, CLIENT, NEWCOMER, NODES, PLAYERS, Player, SERVER};
use super::tape::Tape;

/// Plays it all, leaves nothing behind, and returns what was seen.
pub async fn play(args: &Args, counts: &Counts, reporter: &Reporter, stop: &CancellationToken) -> Result<Evidence> {
    let begun = Instant::now();
    reporter.step(if args.kubeconfig.is_some() {
        "Looking at the API server"
    } else {
        "Starting the embedded cluster"
    });
    let mut ground = Ground::open(args).await?;
    let kinds = Kinds::discover(&ground.admin()?).await?;
    reporter.tell(News::Ground(ground.describe()));
    let played = on_stage(&mut ground, &kinds, counts, reporter, stop, begun, args.length()).await;
    reporter.step("Cleaning up");
    let cleaned = ground.clean_up(&kinds).await;
    let evidence = played?;
    cleaned.context("the demo could not clean up behind itself")?;
    Ok(evidence)
}

async fn on_stage(
    ground: &mut Ground,
    kinds: &Kinds,
    counts: &Counts,
    reporter: &Reporter,
    stop: &CancellationToken,
    begun: Instant,
    length: Duration,
) -> Result<Evidence> {
    let tape = Tape::start(&ground.admin()?, kinds, scene::SIGNER_NAME, reporter).await?;
    let mut show = Show::new(kinds, counts, reporter, tape)?;
    let acted = tokio::select! {
        acted = show.act(ground, begun, length) => acted,
        () = stop.cancelled() => Ok(()),
    };
    reporter.step("Ending");
    let ended = show.end(if acted.is_ok() { LAST_ANSWERS } else { Duration::ZERO }).await;
    acted.and(ended)?;
    show.evidence(!stop.is_cancelled())
}

/// Everything that is running, and what has been noted so far.
struct Show<'a> {
    kinds: &'a Kinds,
    counts: &'a Counts,
    reporter: &'a Reporter,
    tape: Tape,
    folder: TempDir,
    signer: Option<Signer>,
    agents: Vec<NodeAgent>,
    pair: Option<Pair>,
    pods: BTreeMap<String, PodFacts>,
    attempts: Vec<AttemptFacts>,
    renewing_since: Option<Instant>,
}

struct Signer {
    task: JoinHandle<Result<()>>,
    stop: CancellationToken,
    reasons: JoinHandle<()>,
}

impl<'a> Show<'a> {
    fn new(kinds: &'a Kinds, counts: &'a Counts, reporter: &'a Reporter, tape: Tape) -> Result<Self> {
        Ok(Self {
            kinds,
            counts,
            reporter,
            tape,
            folder: tempfile::Builder::new()
                .prefix("podmint-demo-")
                .tempdir()
                .context("could not make a folder for the volumes")?,
            signer: None,
            agents: Vec::new(),
            pair: None,
            pods: BTreeMap::new(),
            attempts: Vec::new(),
            renewing_since: None,
        })
    }

    /// From the empty stage to the moment when time is up.
    async fn act(&mut self, ground: &mut Ground, begun: Instant, length: Duration) -> Result<()> {
        self.reporter.step("Making namespaces, nodes and service accounts");
        let admin = ground.admin()?;
        let node_uids = self.furnish(ground, &admin).await?;
        self.reporter.step("Starting the signer");
        self.start_signer(ground.signer()?, &admin)?;
        self.reporter.step("Starting a node agent for each node, and the pods");
        for name in NODES {
            let options = NodeOptions { kubelet: ground.kubelets(), ..NodeOptions::new(name, self.volumes()) };
            let agent = NodeAgent::start(ground.kubelet(name)?, options).await;
            self.agents.push(agent.with_context(|| format!("could not start the node agent of {name}"))?);
        }
        for player in PLAYERS {
            self.start_pod(player, &admin).await?;
        }
        self.reporter.step("Waiting for the first certificates");
        self.wait_for_files(&[SERVER, CLIENT]).await?;
        self.reporter.step("Starting the two services");
        self.pair = Some(Pair::start(&self.folder_of(SERVER), &self.folder_of(CLIENT), self.counts).await?);
        self.wait("a first handshake", || self.counts.handshakes() > 0).await?;
        self.reporter.tell(News::Playing);
        self.start_renewals().await;
        let target = self.target(&admin, node_uids, ground).await?;
        let pause = length.checked_div(20).unwrap_or_default().min(READING);
        self.attempts = impostor::attempt_all(ground, self.kinds, &target, &self.tape, self.reporter, pause).await?;
        let newcomer = self.uid_of(NEWCOMER)?;
        self.wait("the request of the pod that no rule admits", || self.tape.has_asked(&newcomer)).await?;
        self.play_on(begun, length).await
    }

    async fn furnish(&self, ground: &mut Ground, admin: &Client) -> Result<[String; 2]> {
        let core = kinds::core;
        for namespace in scene::namespaces() {
            kinds::create(admin, &core("Namespace", "namespaces"), scene::namespace(namespace)).await?;
        }
        ground.prepare().await?;
        let mut uids = NODES.map(str::to_owned);
        for (name, uid) in NODES.into_iter().zip(&mut uids) {
            let node = kinds::create(admin, &core("Node", "nodes"), scene::node(name)).await?;
            *uid = node.metadata.uid.context("an object has a UID")?;
        }
        for player in PLAYERS {
            kinds::create(admin, &core("ServiceAccount", "serviceaccounts"), player.account()).await?;
        }
        Ok(uids)
    }

    /// In this process, with waits as in production. The guard is a policy of a real API server, and off: NodeRestriction stands
    /// in for it here.
    fn start_signer(&mut self, client: Client, admin: &Client) -> Result<()> {
        let domains = Domains::parse("podmint.dev", "cluster.local").context("the demo's own domains are malformed")?;
        let config = Config::parse(&scene::pod_signer(), &domains).context("the demo's own PodSigner is malformed")?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port for the signer's metrics")?;
        let metrics = listener.local_addr().context("no address for the signer's metrics")?;
        let options = Options {
            client,
            source: config.into(),
            namespace: scene::SIGNER_NAMESPACE.to_owned(),
            identity: "demo".to_owned(),
            audit: audit::Sink::File(self.audit_log()),
            listen: Some(listener),
            guard: Guard::Off,
            pace: pace::Pace::real(),
        };
        let stop = CancellationToken::new();
        let signer = run(options, stop.clone());
        let task = tokio::spawn(async move { signer.await.context("the signer failed") });
        let reasons = tokio::spawn(reasons::follow(admin.clone(), metrics, self.reporter.clone()));
        self.signer = Some(Signer { task, stop, reasons });
        Ok(())
    }

    async fn start_pod(&mut self, player: Player, admin: &Client) -> Result<()> {
        let pod = kinds::create(admin, &kinds::core("Pod", "pods"), player.pod()).await?;
        let text = |path: &str| pod.data.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let facts = PodFacts {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            account: text("/spec/serviceAccountName"),
            node: text("/spec/nodeName"),
        };
        self.pods.insert(pod.metadata.uid.clone().context("an object has a UID")?, facts);
        Ok(())
    }

    async fn wait_for_files(&self, players: &[Player]) -> Result<()> {
        for player in players {
            let files = self.folder_of(*player);
            let pod = format!("{}/{}", player.namespace, player.name);
            self.wait(&format!("the files of {pod}"), || files.join(scene::CREDENTIALS).exists()).await?;
            self.reporter.tell(News::Running { pod, node: player.node.to_owned() });
        }
        Ok(())
    }

    /// Both nodes at their own pace, so that over a run old meets new in every order.
    async fn start_renewals(&mut self) {
        for (agent, every) in self.agents.iter().zip(RENEW_EVERY) {
            agent.refresh_every(Some(every)).await;
        }
        self.renewing_since = Some(Instant::now());
    }

    async fn target(&self, admin: &Client, node_uids: [String; 2], ground: &Ground) -> Result<Target> {
        let accounts = kinds::api(admin, &kinds::core("ServiceAccount", "serviceaccounts"), SERVER.namespace);
        let account = accounts
            .get(SERVER.name)
            .await
            .map_err(kinds::told)
            .context("could not read the server's service account")?;
        Ok(Target {
            pod_uid: self.uid_of(SERVER)?,
            account_uid: account.metadata.uid.context("an object has a UID")?,
            node_uids,
            kubelet: ground.kubelets(),
        })
    }

    /// Until time is up; longer only if the signer or a service gives up, which is an error.
    async fn play_on(&mut self, begun: Instant, length: Duration) -> Result<()> {
        while begun.elapsed() < length {
            self.signer_lives()?;
            tokio::time::sleep(GLANCE).await;
        }
        Ok(())
    }

    fn signer_lives(&self) -> Result<()> {
        match &self.signer {
            Some(signer) if signer.task.is_finished() => bail!("the signer ended by itself"),
            Some(_) | None => Ok(()),
        }
    }

    /// Nothing is cut off: renewals stop, what was asked is answered, the conversation ends, then the signer.
    async fn end(&mut self, last_answers: Duration) -> Result<()> {
        for agent in &self.agents {
            agent.refresh_every(None).await;
        }
        let held: Vec<String> = self.uid_of(NEWCOMER).into_iter().collect();
        let begun = Instant::now();
        while self.tape.pending_but_for(&held) > 0 && begun.elapsed() < last_answers {
            tokio::time::sleep(GLANCE).await;
        }
        if let Some(pair) = self.pair.take() {
            pair.stop().await?;
        }
        // An agent ends when it is dropped.
        self.agents.clear();
        match self.signer.take() {
            None => Ok(()),
            Some(signer) => {
                signer.reasons.abort();
                signer.stop.cancel();
                signer.task.await.context("the signer panicked")?
            }
        }
    }

    fn evidence(&self, whole: bool) -> Result<Evidence> {
        let (requests, bundles) = self.tape.facts();
        let long_enough = |since: Instant| since.elapsed() > RENEWED_SURELY;
        Ok(Evidence {
            signer_name: scene::SIGNER_NAME.to_owned(),
            trust_domain: scene::TRUST_DOMAIN.to_owned(),
            pods: self.pods.clone(),
            requests,
            bundles,
            trail: self.trail()?,
            pair: self.counts.facts(),
            attempts: self.attempts.clone(),
            expected: Expected {
                held_pods: self.uid_of(NEWCOMER).into_iter().collect(),
                renewals: self.renewing_since.is_some_and(long_enough),
                whole,
            },
        })
    }

    fn trail(&self) -> Result<Vec<Value>> {
        let text = match std::fs::read_to_string(self.audit_log()) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.context("could not read the audit log")?,
        };
        let lines = text
            .lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("the audit log holds {line:?}")));
        lines.collect()
    }

    async fn wait(&self, what: &str, done: impl Fn() -> bool) -> Result<()> {
        let begun = Instant::now();
        while !done() {
            self.signer_lives()?;
            if begun.elapsed() > PATIENCE {
                bail!("waited {} s in vain for {what} (RUST_LOG=info shows what the signer says)", PATIENCE.as_secs());
            }
            tokio::time::sleep(GLANCE).await;
        }
        Ok(())
    }

    fn uid_of(&self, player: Player) -> Result<String> {
        let named = |(_, pod): &(&String, &PodFacts)| {
            (pod.namespace.as_str(), pod.name.as_str()) == (player.namespace, player.name)
        };
        Ok(self.pods.iter().find(named).with_context(|| format!("there is no pod {}", player.name))?.0.clone())
    }

    fn volumes(&self) -> PathBuf {
        self.folder.path().join("volumes")
    }

    fn folder_of(&self, player: Player) -> PathBuf {
        self.volumes().join(player.namespace).join(player.name).join(scene::VOLUME)
    }

    fn audit_log(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl")
    }
}

/// Often enough that a person sees it happen several times, seldom enough to read in between. For each of the two nodes.
const RENEW_EVERY: [Duration; 2] = [Duration::from_millis(2700), Duration::from_millis(3300)];
/// On the slowest machine.
const RENEWED_SURELY: Duration = Duration::from_secs(10);
/// For a person to follow the impostor.
const READING: Duration = Duration::from_secs(1);
/// Everything here takes well below a second, on a slow machine perhaps ten.
const PATIENCE: Duration = Duration::from_secs(30);
/// Requests that are under way when time is up.
const LAST_ANSWERS: Duration = Duration::from_secs(15);
/// Shorter than a person notices.
const GLANCE: Duration = Duration::from_millis(20);
