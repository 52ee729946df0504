//! Node agents: what a kubelet does for pods with `podCertificate` and `clusterTrustBundle` sources.
//!
//! An agent talks to the API through its [`kube::Client`] alone, so the same agent works against a real API server.

mod agent;
mod atomic;
pub(crate) mod der;
mod follow;
pub(crate) mod key;
mod options;
mod pod;
mod record;
mod request;
mod trust;
mod volume;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::api::{Api, DynamicObject, PostParams};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;

pub use agent::SourceState;
pub use options::{Kubelet, NodeEvent, NodeOptions, Ownership, Pace, What};
pub use record::State;

use crate::clock::Chance;
use agent::{Agent, Command};

/// How many events a slow listener may be behind.
const EVENTS: usize = 4096;
/// How many requests may wait for the worker.
const JOBS: usize = 1024;
const COMMANDS: usize = 64;

/// A running node agent. It ends when this is dropped; the files of its volumes stay.
#[derive(Debug)]
pub struct NodeAgent {
    options: NodeOptions,
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<NodeEvent>,
    tasks: Vec<JoinHandle<()>>,
}

impl NodeAgent {
    /// Registers the node, if it is not there, and follows the pods bound to it. `client` speaks as that node.
    ///
    /// # Errors
    /// If the node cannot be registered.
    pub async fn start(client: kube::Client, options: NodeOptions) -> Result<Self> {
        register(&client, &options.name).await.with_context(|| format!("could not register node {}", options.name))?;
        let (commands, orders) = mpsc::channel(COMMANDS);
        let (events, _) = broadcast::channel(EVENTS);
        let (jobs, work) = mpsc::channel(JOBS);
        let (done, finished) = mpsc::channel(JOBS);
        let worker = request::work(
            client.clone(),
            options.kubelet,
            options.pace.abandon_after.clone(),
            Chance::of(options.seed),
            work,
            done,
        );
        let news = follow::follow(&client, &options).await;
        let agent = Agent::new(client, options.clone(), events.clone(), jobs);
        let tasks = vec![tokio::spawn(worker), tokio::spawn(agent.run(news, orders, finished))];
        Ok(Self { options, commands, events, tasks })
    }

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Where the files of a volume are, or will be.
    #[must_use]
    pub fn volume(&self, namespace: &str, pod: &str, volume: &str) -> PathBuf {
        volume::path(&self.options, namespace, pod, volume)
    }

    /// What happens from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<NodeEvent> {
        self.events.subscribe()
    }

    /// Asks anew for every certificate of a pod, whatever its age. Says for how many; a source that is waiting or refused is left.
    pub async fn refresh(&self, namespace: &str, pod: &str) -> usize {
        let (count, counted) = oneshot::channel();
        self.order(Command::Refresh { namespace: namespace.to_owned(), pod: pod.to_owned(), count }, counted)
            .await
            .unwrap_or(0)
    }

    /// Asks anew for every certificate of the node this often; `None` ends it.
    pub async fn refresh_every(&self, every: Option<Duration>) {
        let (heard, hears) = oneshot::channel();
        self.order(Command::RefreshEvery(every, heard), hears).await;
    }

    /// The kubelet restarts: its memory is lost and every key made anew.
    pub async fn restart(&self) {
        let (heard, hears) = oneshot::channel();
        self.order(Command::Restart(heard), hears).await;
    }

    /// Where every certificate source stands.
    pub async fn states(&self) -> Vec<SourceState> {
        let (answer, answered) = oneshot::channel();
        self.order(Command::States(answer), answered).await.unwrap_or_default()
    }

    /// Nothing if the agent has ended.
    async fn order<T>(&self, command: Command, answer: oneshot::Receiver<T>) -> Option<T> {
        self.commands.send(command).await.ok()?;
        answer.await.ok()
    }
}

impl Drop for NodeAgent {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn register(client: &kube::Client, name: &str) -> Result<()> {
    let nodes: Api<DynamicObject> = Api::all_with(client.clone(), &request::resource("", "v1", "Node"));
    let known = nodes.get_opt(name).await.context("while looking for the node")?;
    if known.is_some() {
        return Ok(());
    }
    let node = DynamicObject::new(name, &request::resource("", "v1", "Node"));
    match nodes.create(&PostParams::default(), &node).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error).context("while creating the node"),
    }
}
