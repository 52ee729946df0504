//! Who asks: requests made as kubelets make them, and a watch that sees when each is answered.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::stream::{self, StreamExt as _};
use futures::{AsyncBufReadExt as _, Stream, TryStreamExt as _};
use http::Request;
use http::header::CONTENT_TYPE;
use podmint_tests::keys::{Key, KeyType};
use podmint_tests::stage::Pod;
use podmint_tests::{Stage, Who, call};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::waited::Waited;

/// Pods whose kubelets ask.
pub(crate) struct Load {
    stage: Stage,
    pods: Vec<Pod>,
}

/// When each request was created, and answered.
pub(crate) struct Waits {
    begun: Instant,
    created: Vec<Instant>,
    answered: Vec<Instant>,
}

/// Requests that were made, and may not be answered yet.
pub(crate) struct Asked {
    begun: Instant,
    created: Vec<(String, Instant)>,
    seen: watch::Receiver<HashMap<String, Instant>>,
}

impl Asked {
    /// Waits until all are answered.
    async fn answered(self) -> Waits {
        let Self { begun, created, seen } = self;
        Waits::until_answered(begun, created, seen).await
    }

    /// The same, of those that waited for somebody who was started then.
    pub(crate) async fn answered_after(self, started: Instant) -> Waits {
        Self { begun: started, ..self }.answered().await
    }
}

impl Load {
    /// Pods of ten ServiceAccounts, a hundred on each node.
    pub(crate) async fn make(stage: &Stage, count: usize) -> Self {
        let (mut nodes, mut accounts) = (Vec::new(), Vec::new());
        for number in 0..count.div_ceil(PODS_ON_A_NODE) {
            nodes.push(stage.node(&format!("node-{number}")).await);
        }
        for number in 0..ACCOUNTS {
            accounts.push(stage.account(&format!("shop-{number}")).await);
        }
        let made = stream::iter(0..count).map(async |number| {
            let (node, account) = (&nodes[number / PODS_ON_A_NODE], &accounts[number % ACCOUNTS]);
            stage.a_pod(&format!("web-{number}")).on(node).as_account(account).make().await
        });
        Self { stage: stage.clone(), pods: made.buffer_unordered(CALLS).collect().await }
    }

    /// Where its pods are.
    pub(crate) fn namespace(&self) -> &str {
        &self.stage.namespace
    }

    /// Requests as fast as the API server takes them, until all are answered. When there are answered ones of the same pods already,
    /// each asks for another key.
    pub(crate) async fn burst(&self, count: usize) -> Waits {
        self.pile(count).await.answered().await
    }

    /// Requests as fast as the API server takes them.
    pub(crate) async fn pile(&self, count: usize) -> Asked {
        let (seen, requests) = (observe(&self.stage).await, self.requests("burst", count));
        let begun = Instant::now();
        let created = stream::iter(requests).map(async |(name, request)| (name, self.create(&request).await));
        let created = created.buffer_unordered(CALLS).collect().await;
        Asked { begun, created, seen }
    }

    /// Requests at twenty a second.
    pub(crate) async fn steady(&self, count: usize) -> Waits {
        self.trickle(count).await.answered().await
    }

    /// Requests at twenty a second from this one's namespace, while another floods the signer from its own. The flood ends with the
    /// last of them: one who answers in turn would not come to it as long as the flood is quicker than he is.
    pub(crate) async fn steady_beside_a_flood(&self, count: usize, flooding: &Self) -> Waits {
        let flood = flooding.requests("flood", flooding.pods.len());
        let asked = tokio::select! {
            asked = self.trickle(count) => asked,
            () = flooding.flood(&flood) => unreachable!("it goes on until it is dropped"),
        };
        asked.answered().await
    }

    async fn trickle(&self, count: usize) -> Asked {
        let (seen, requests) = (observe(&self.stage).await, self.requests("steady", count));
        let begun = Instant::now();
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        let mut created = Vec::new();
        for (name, request) in requests {
            tick.tick().await;
            created.push((name, self.create(&request).await));
        }
        Asked { begun, created, seen }
    }

    /// Requests as fast as the API server takes them, without an end. Each pod keeps its key.
    async fn flood(&self, requests: &[(String, Value)]) {
        let endless = stream::iter(requests.iter().cycle().enumerate()).map(async |(number, (name, request))| {
            let mut request = request.clone();
            request["metadata"]["name"] = Value::from(format!("{name}-{number}"));
            self.create(&request).await
        });
        endless.buffer_unordered(CALLS).for_each(async |_| {}).await;
    }

    /// What so many kubelets hold open: each watches the requests of its node. They end when this is dropped.
    pub(crate) async fn kubelets(&self, count: usize) -> JoinSet<()> {
        let mut kubelets = JoinSet::new();
        let mut client = self.stage.admin.clone();
        for number in 0..count {
            if number % WATCHES_OF_A_CONNECTION == 0 {
                client = self.stage.bed.client(&Who::Admin).await;
            }
            let node = format!("node-{number}.{}", self.stage.namespace);
            let path = format!("{REQUESTS}?watch=true&fieldSelector=spec.nodeName%3D{node}");
            let watch = Request::get(path).body(Vec::new()).expect("a path");
            let mut lines = client.request_stream(watch).await.expect("requests can be watched").lines();
            kubelets.spawn(async move { while let Ok(Some(_)) = lines.try_next().await {} });
        }
        kubelets
    }

    /// One request, made before anybody is there to answer it.
    pub(crate) async fn first(&self) -> Asked {
        let (seen, mut requests) = (observe(&self.stage).await, self.requests("first", 1));
        let (name, request) = requests.pop().expect("there is one");
        let begun = Instant::now();
        Asked { begun, created: vec![(name, self.create(&request).await)], seen }
    }

    /// Takes all requests away, so that the next who is measured finds what this one found.
    pub(crate) async fn clear(&self) {
        // The API server gives up after a minute, which may be too short for very many.
        while let Err(why) = call::delete(&self.stage.admin, &self.stage.requests()).await {
            assert_eq!(why.code, 504, "requests can be deleted: {why}");
        }
    }

    /// Each time under names of their own, so that nobody takes for an answer what he sees of those that were cleared away.
    fn requests(&self, prefix: &str, count: usize) -> Vec<(String, Value)> {
        static TIME: AtomicUsize = AtomicUsize::new(0);
        let time = TIME.fetch_add(1, Ordering::Relaxed);
        let pods = self.pods.iter().cycle().take(count).enumerate();
        let named = pods.map(|(number, pod)| (format!("{prefix}-{time}-{number}"), pod));
        named
            .map(|(name, pod)| {
                let request = self.stage.request_for(pod).named(&name).object(&Key::make(KeyType::EcdsaP256));
                (name, request)
            })
            .collect()
    }

    /// As the kubelet of its node, so that the API server counts it among theirs.
    async fn create(&self, request: &Value) -> Instant {
        let node = request["spec"]["nodeName"].as_str().expect("it names a node");
        let post = Request::post(self.stage.requests())
            .header(CONTENT_TYPE, "application/json")
            .header("Impersonate-User", format!("system:node:{node}"))
            .header("Impersonate-Group", "system:nodes")
            .body(request.to_string().into_bytes());
        let made = self.stage.admin.request_text(post.expect("a path is a path")).await;
        made.expect("an honest request is taken");
        Instant::now()
    }
}

impl Waits {
    async fn until_answered(
        begun: Instant,
        created: Vec<(String, Instant)>,
        mut seen: watch::Receiver<HashMap<String, Instant>>,
    ) -> Self {
        let all = seen
            .wait_for(|seen| seen.len() >= created.len() && created.iter().all(|(name, _)| seen.contains_key(name)));
        let limit = LIMIT.max(SLOWEST * u32::try_from(created.len()).expect("not that many"));
        let all =
            tokio::time::timeout(limit, all).await.expect("every request is answered").expect("the watch goes on");
        let answered = created.iter().map(|(name, _)| all[name]).collect();
        Self { begun, created: created.into_iter().map(|(_, created)| created).collect(), answered }
    }

    /// From each creation to its answer.
    pub(crate) fn waited(&self) -> Waited {
        let pairs = self.created.iter().zip(&self.answered);
        Waited::of(pairs.map(|(created, answered)| answered.saturating_duration_since(*created)))
    }

    /// How many milliseconds after the beginning the first was answered.
    pub(crate) fn first(&self) -> f64 {
        self.answered.iter().min().expect("there are some").duration_since(self.begun).as_secs_f64() * 1e3
    }

    /// How much longer it took to answer all than to create all.
    pub(crate) fn stretch(&self) -> f64 {
        self.seconds() / until_last(self.begun, &self.created)
    }

    /// From the first creation to the last answer.
    pub(crate) fn answered_per_second(&self) -> f64 {
        self.answered.len() as f64 / self.seconds()
    }

    /// From the first creation to the last answer.
    pub(crate) fn seconds(&self) -> f64 {
        until_last(self.begun, &self.answered)
    }
}

fn until_last(begun: Instant, all: &[Instant]) -> f64 {
    all.iter().max().expect("there are some").duration_since(begun).as_secs_f64()
}

/// Notes when each request is first seen with an answer, of those that are made from now on.
async fn observe(stage: &Stage) -> watch::Receiver<HashMap<String, Instant>> {
    let (seen, receiver) = watch::channel(HashMap::new());
    let some = call::get(&stage.admin, &format!("{}?limit=1", stage.requests())).await.expect("requests can be listed");
    let now = some["metadata"]["resourceVersion"].as_str().expect("a list has a version");
    let mut lines = Box::pin(requests_of(stage, now).await);
    let stage = stage.clone();
    tokio::spawn(async move {
        loop {
            while let Ok(Some(line)) = lines.try_next().await {
                let Event { object: Object { metadata: Metadata { name }, status } } =
                    serde_json::from_str(&line).expect("an event");
                if status.is_some_and(|status| !status.conditions.is_empty()) {
                    seen.send_modify(|seen| {
                        seen.entry(name).or_insert_with(Instant::now);
                    });
                }
                if seen.is_closed() {
                    return;
                }
            }
            if seen.is_closed() {
                return;
            }
            // The API server lets go of whoever reads too slowly on a busy machine. A new watch begins with all that is there.
            lines = Box::pin(requests_of(&stage, "").await);
        }
    });
    receiver
}

async fn requests_of(stage: &Stage, version: &str) -> impl Stream<Item = std::io::Result<String>> + use<> {
    let path = format!("{}?watch=true&resourceVersion={version}", stage.requests());
    let request = Request::get(path).body(Vec::new()).expect("a path");
    stage.admin.request_stream(request).await.expect("requests can be watched").lines()
}

#[derive(Deserialize)]
struct Event {
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    status: Option<Status>,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Vec<serde::de::IgnoredAny>,
}

const PODS_ON_A_NODE: usize = 100;
const ACCOUNTS: usize = 10;
/// Calls in flight, for making requests: more than a kubelet, fewer than would starve whoever answers.
const CALLS: usize = 16;
/// The API server lets one connection carry a hundred streams.
const WATCHES_OF_A_CONNECTION: usize = 90;
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/podcertificaterequests";
const LIMIT: Duration = Duration::from_mins(5);
/// For each, where there are very many.
const SLOWEST: Duration = Duration::from_millis(20);
