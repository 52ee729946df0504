//! Who asks: kubelets that renew all the time, bursts of requests, and requests that lie.

mod hostile;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use podmint_devcluster::node::{NodeAgent, NodeOptions};
use serde_json::Value;

use crate::chance::Chance;
use crate::checker::nodes::Volume;
use crate::kept::Scratch;
use crate::keys::{Key, KeyType};
use crate::stage::{Node, Pod, Request, uid};
use crate::{Stage, Who, call};

use hostile::Tally;

/// Nodes, their pods, and requests ready to be made.
pub struct Fleet {
    stage: Stage,
    /// Where nobody floods.
    quiet: Vec<Pod>,
    /// Where somebody does.
    flooding: (Stage, Vec<Pod>),
    /// Where no rule admits anybody.
    strangers: (Stage, Vec<Pod>),
    nodes: Vec<Node>,
    clients: BTreeMap<String, kube::Client>,
    /// A request of each pod, by UID: made once, asked for many times.
    objects: BTreeMap<String, Value>,
    agents: Vec<NodeAgent>,
    volumes: Scratch,
    sent: Tally,
}

impl Fleet {
    /// Pods of a few accounts on a few nodes.
    pub async fn make(stage: &Stage, nodes: usize, pods_each: usize) -> Self {
        let (flooding, strangers) = (stage.beside("flood").await, stage.beside("strange").await);
        let mut fleet = Self {
            stage: stage.clone(),
            quiet: Vec::new(),
            flooding: (flooding.clone(), Vec::new()),
            strangers: (strangers.clone(), Vec::new()),
            nodes: Vec::new(),
            clients: BTreeMap::new(),
            objects: BTreeMap::new(),
            agents: Vec::new(),
            volumes: Scratch::new(),
            sent: Tally::default(),
        };
        for number in 0..nodes {
            let node = stage.node(&format!("node-{number}")).await;
            let client = stage.bed.client(&Who::Node(node.name.clone())).await;
            fleet.clients.insert(node.name.clone(), client);
            fleet.nodes.push(node);
        }
        fleet.quiet = fleet.pods(stage, nodes * pods_each).await;
        fleet.flooding.1 = fleet.pods(&flooding, nodes).await;
        fleet.strangers.1 = fleet.pods(&strangers, 2).await;
        fleet
    }

    async fn pods(&mut self, stage: &Stage, count: usize) -> Vec<Pod> {
        let mut accounts = Vec::new();
        for number in 0..3 {
            accounts.push(stage.account(&format!("shop-{number}")).await);
        }
        let mut pods = Vec::new();
        for number in 0..count {
            let node = &self.nodes[number % self.nodes.len()];
            let plan = stage.a_pod(&format!("web-{number}")).on(node).as_account(&accounts[number % 3]);
            let pod = plan.make().await;
            self.objects.insert(pod.uid.clone(), stage.request_for(&pod).object(&Key::make(KeyType::EcdsaP256)));
            pods.push(pod);
        }
        pods
    }

    /// The kubelets begin, and renew everything this often.
    pub async fn begin(&mut self, every: Duration) {
        for (name, client) in &self.clients {
            let options = NodeOptions::new(name, self.volumes.join(name));
            let agent = NodeAgent::start(client.clone(), options).await.expect("a node agent starts");
            agent.refresh_every(Some(every)).await;
            self.agents.push(agent);
        }
    }

    /// They renew no more.
    pub async fn rest(&self) {
        for agent in &self.agents {
            agent.refresh_every(None).await;
        }
    }

    /// What they have.
    pub async fn volumes(&self) -> Vec<Volume> {
        let mut volumes = Vec::new();
        let uids: BTreeMap<(&str, &str), &str> = self
            .known()
            .map(|(stage, pod)| ((stage.namespace.as_str(), pod.name.as_str()), pod.uid.as_str()))
            .collect();
        for agent in &self.agents {
            for one in agent.states().await {
                if one.namespace == self.strangers.0.namespace {
                    continue;
                }
                let file = agent.volume(&one.namespace, &one.pod, &one.volume).join("bundle.pem");
                let pod_uid = uids.get(&(one.namespace.as_str(), one.pod.as_str())).copied().unwrap_or_default();
                volumes.push(Volume {
                    pod_uid: pod_uid.to_owned(),
                    state: one.state,
                    bundle: std::fs::read_to_string(file).unwrap_or_default(),
                });
            }
        }
        volumes
    }

    /// Every pod of the cluster that is ours, as it is now.
    pub async fn objects(&self) -> BTreeMap<String, Value> {
        let mut all = BTreeMap::new();
        for stage in [&self.stage, &self.flooding.0, &self.strangers.0] {
            let list = call::get(&self.stage.admin, &stage.core("pods")).await.expect("pods can be listed");
            for pod in list["items"].as_array().into_iter().flatten() {
                all.insert(uid(pod), pod.clone());
            }
        }
        all
    }

    /// The namespaces that a rule admits.
    pub fn admitted(&self) -> [String; 2] {
        [self.stage.namespace.clone(), self.flooding.0.namespace.clone()]
    }

    fn known(&self) -> impl Iterator<Item = (&Stage, &Pod)> {
        let quiet = self.quiet.iter().map(|pod| (&self.stage, pod));
        let flooding = self.flooding.1.iter().map(|pod| (&self.flooding.0, pod));
        quiet.chain(flooding).chain(self.strangers.1.iter().map(|pod| (&self.strangers.0, pod)))
    }

    /// So many requests of the quiet namespace, as fast as the API server takes them.
    pub async fn burst(&self, count: usize) {
        self.ask(&self.stage, &self.quiet, count).await;
    }

    /// The same of the namespace that floods.
    pub async fn flood(&self, count: usize) {
        self.ask(&self.flooding.0, &self.flooding.1, count).await;
    }

    /// Requests that are deleted at once, or a moment later.
    pub async fn made_and_deleted(&self, chance: &Chance) {
        for _ in 0..20 {
            let pod = chance.one_of(&self.quiet);
            let Some(request) = self.one(&self.stage, pod).await else { continue };
            tokio::time::sleep(Duration::from_millis(chance.below(30))).await;
            // It may be down just now: then the request stays, and is answered.
            let _gone = call::delete(&self.stage.admin, &request.path).await;
        }
    }

    async fn ask(&self, stage: &Stage, pods: &[Pod], count: usize) {
        let asked = stream::iter(0..count).map(|number| self.one(stage, &pods[number % pods.len()]));
        asked.buffer_unordered(AT_ONCE).for_each(async |_| ()).await;
    }

    /// One request as its kubelet makes it, again and again until the API server takes it.
    async fn one(&self, stage: &Stage, pod: &Pod) -> Option<Request> {
        let (client, path) = (&self.clients[&pod.node.name], stage.requests());
        for _ in 0..PATIENCE {
            match call::post(client, &path, &self.objects[&pod.uid]).await {
                Ok(object) => {
                    let name = object["metadata"]["name"].as_str().expect("an object has a name").to_owned();
                    return Some(Request { path: format!("{path}/{name}"), name, uid: uid(&object) });
                }
                Err(why) if why.code == 0 || why.code >= 429 => tokio::time::sleep(RETRY).await,
                Err(why) => panic!("an honest request was not taken: {why}"),
            }
        }
        None
    }
}

/// Calls in flight: more than a kubelet, fewer than would starve whoever answers.
const AT_ONCE: usize = 12;
const RETRY: Duration = Duration::from_millis(100);
/// Times `RETRY`: longer than the API server is ever away.
const PATIENCE: usize = 600;
