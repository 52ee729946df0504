//! The fault suite: a real kube-apiserver and etcd, three signer processes, a fleet of kubelets that renew all the time, and a storm of
//! faults that a seed decides. What came of it is judged by [`checker`](crate::checker).
//!
//! A seed fixes which faults come, when, to whom and for how long, and what the hostile requests are. It does not fix how the operating
//! system shares its processors: the same seed is the same storm, not the same run. The simulation of `signer/src/simulation` comes nearer to that.

pub mod fleet;
pub mod replica;
pub mod storm;
#[cfg(test)]
mod table;
pub mod takeover;
pub mod watchdog;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use podmint_examples::demo::checker::{Evidence, PodFacts};
use podmint_examples::demo::kinds::Kinds;
use podmint_examples::demo::news::Reporter;
use podmint_examples::demo::tape::Tape;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::assets::VERSIONS;
use crate::chance::Chance;
use crate::checker::hostile::Sent;
use crate::checker::{Facts, Verdict, check, unsettled};
use crate::proxy::Proxy;
use crate::proxy::trouble::{Gate, Trouble};
use crate::server::Settings;
use crate::signer::TRUST_DOMAIN;
use crate::stage::uid;
use crate::{Bed, Stage, assets, call};

use fleet::Fleet;
use replica::{Replica, memory_of_the_chart};
use storm::{Blow, Fault, REPLICAS, storm};
use watchdog::Watchdog;

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// What decides everything that is left to chance.
    pub seed: u64,
    /// For how long faults begin.
    pub length: Duration,
    /// How often each fault comes.
    pub of_each: usize,
    /// Requests that wait when the first replica starts.
    pub cold: usize,
    /// Requests of one flood.
    pub flood: usize,
    /// Nodes, and pods on each.
    pub nodes: (usize, usize),
}

impl Plan {
    /// A minute or so, for every day.
    pub fn short(seed: u64) -> Self {
        Self { seed, length: Duration::from_secs(45), of_each: 1, cold: 300, flood: 300, nodes: (3, 4) }
    }

    /// By hand: a cold start of ten thousand, and faults for a quarter of an hour.
    pub fn long(seed: u64) -> Self {
        Self { seed, length: Duration::from_mins(15), of_each: 12, cold: 10_000, flood: 2_000, nodes: (6, 10) }
    }
}

/// Everybody who takes part.
struct Scene {
    stage: Stage,
    fleet: Fleet,
    /// Two blows to one replica do not overlap.
    replicas: [Mutex<Replica>; REPLICAS],
    /// Nor do two to the API server, or to the Secret.
    api: Mutex<()>,
    secret: Mutex<()>,
    begun: Instant,
    watchdog: Watchdog,
}

/// Runs the storm of this plan. Says what the checker says; the storm is told on standard error. One that stands still ends this process.
pub async fn run(plan: Plan) -> Verdict {
    let chance = Chance::new(plan.seed);
    // What has to be built first may take as long as it likes.
    assets::kubernetes(VERSIONS[0]);
    assets::binary("podmint-signer");
    let watchdog = Watchdog::start(plan.length * 2 + STANDSTILL, move |words| {
        eprintln!("chaos {}: the run {words}", plan.seed);
        std::process::exit(1);
    });
    let doing = watchdog.doing("for an API server, and a fleet that asks");
    let bed = Bed::own(Settings::of(VERSIONS[0])).await;
    let stage = Stage::open(&bed, "chaos").await;
    let (reporter, mut news) = Reporter::new();
    let listener = tokio::spawn(async move { while news.recv().await.is_some() {} });
    let kinds = Kinds::discover(&stage.admin).await.expect("the API server says what it serves");
    let tape = Tape::start(&stage.admin, &kinds, &stage.signer_name, &reporter).await.expect("the tape runs");
    let mut fleet = Fleet::make(&stage, plan.nodes.0, plan.nodes.1).await;
    fleet.burst(plan.cold).await;
    eprintln!("chaos {}: {} requests wait for the first replica", plan.seed, plan.cold);

    drop(doing);
    let doing = watchdog.doing("for the end of the cold start");
    let replicas = replicas(&stage, &fleet.admitted(), &chance).await;
    let begun = Instant::now();
    until_settled(&stage, &fleet, &tape, plan.seed).await;
    eprintln!("chaos {}: a cold start of {} took {:?}", plan.seed, plan.cold, begun.elapsed());

    fleet.begin(RENEWAL).await;
    drop(doing);
    let (api, secret, begun) = (Mutex::default(), Mutex::default(), Instant::now());
    let scene = Scene { stage, fleet, replicas, api, secret, begun, watchdog };
    let storm = storm(&chance, plan.length, plan.of_each);
    join_all(storm.iter().enumerate().map(|(number, blow)| {
        let chance = chance.apart(number.try_into().expect("a count"));
        scene.strike(plan, *blow, chance)
    }))
    .await;
    eprintln!("chaos {}: the storm is over after {:?}", plan.seed, scene.begun.elapsed());

    let doing = scene.watchdog.doing("for the kubelets to rest, and all to be answered");
    scene.fleet.rest().await;
    let begun = Instant::now();
    let late = until_settled(&scene.stage, &scene.fleet, &tape, plan.seed).await;
    if late.is_empty() {
        eprintln!("chaos {}: all was answered {:?} later", plan.seed, begun.elapsed());
    }
    drop(doing);
    let _doing = scene.watchdog.doing("for the replicas to end, and the checker");
    let Scene { stage, fleet, replicas, watchdog: _watchdog, .. } = scene;
    let replicas = join_all(replicas.into_iter().map(|replica| replica.into_inner().end())).await;
    for replica in &replicas {
        eprintln!("chaos {}: {} used {} MiB of memory at most", plan.seed, replica.name, replica.peak >> 10);
    }
    let hostile = fleet.sent();
    for Sent { kind, admitted, refused, .. } in &hostile {
        eprintln!("chaos {}: {kind}: {admitted} admitted, {refused} refused", plan.seed);
    }
    let writes = writes(&bed, &stage);
    let memory = memory_of_the_chart();
    listener.abort();
    check(&Facts { replicas, memory, writes, hostile, late, ..facts(&stage, &fleet, &tape).await })
}

async fn replicas(stage: &Stage, admitted: &[String], chance: &Chance) -> [Mutex<Replica>; REPLICAS] {
    let mut all = Vec::new();
    for number in 0..REPLICAS {
        let client = stage.bed.client(&stage.signer_account).await;
        let proxy = Proxy::start_with(client, chance.below(u64::MAX)).await;
        let plan = stage
            .a_signer()
            .with("allow", json!([{"name": "fleet", "namespaces": admitted, "serviceAccounts": ["*"]}]));
        let mut replica = Replica::new(plan, &format!("replica-{number}"), proxy, number == PIPED);
        if number == LIMITED {
            replica = replica.limited_to(memory_of_the_chart());
        }
        replica.start();
        all.push(replica);
    }
    for replica in &all {
        replica.ready().await;
    }
    let all: [Replica; REPLICAS] = all.try_into().unwrap_or_else(|_| panic!("as many as were made"));
    all.map(Mutex::new)
}

/// Until every request is as it has to be, or the time that the law gives is over: what is left then.
async fn until_settled(stage: &Stage, fleet: &Fleet, tape: &Tape, seed: u64) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let left = unsettled(&facts(stage, fleet, tape).await);
        if left.is_empty() {
            return left;
        }
        if begun.elapsed() > LAW {
            eprintln!("chaos {seed}: {} things are not settled after {LAW:?}", left.len());
            return left;
        }
        tokio::time::sleep(GLANCE).await;
    }
}

/// What was seen so far, without what only the end shows: audit logs and writes.
async fn facts(stage: &Stage, fleet: &Fleet, tape: &Tape) -> Facts {
    let all = format!(
        "/apis/certificates.k8s.io/v1/podcertificaterequests?fieldSelector=spec.signerName%3D{}",
        stage.signer_name.replace('/', "%2F")
    );
    let list = call::get(&stage.admin, &all).await.expect("requests can be listed");
    let alive = list["items"].as_array().into_iter().flatten().map(uid).collect();
    let pods = fleet.objects().await;
    let (requests, bundles) = tape.facts();
    let seen = Evidence {
        signer_name: stage.signer_name.clone(),
        trust_domain: TRUST_DOMAIN.to_owned(),
        pods: pods.iter().map(|(uid, pod)| (uid.clone(), pod_facts(pod))).collect(),
        requests,
        bundles,
        ..Evidence::default()
    };
    Facts { seen, pods, alive, admitted: fleet.admitted().into(), volumes: fleet.volumes().await, ..Facts::default() }
}

/// The status writes of all replicas by what the API server said, whichever request it said it of.
fn writes(bed: &Bed, stage: &Stage) -> BTreeMap<String, usize> {
    let mut writes = BTreeMap::new();
    for write in bed.server().expect("a real one").status_writes(&stage.signer_account.user_name()) {
        let name = write.request.rsplit('/').next().unwrap_or_default();
        *writes
            .entry(format!("{} {}", write.code, write.message.replace(name, "…")).trim_end().to_owned())
            .or_default() += 1;
    }
    writes
}

fn pod_facts(pod: &Value) -> PodFacts {
    let word = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    PodFacts {
        namespace: word("/metadata/namespace"),
        name: word("/metadata/name"),
        account: word("/spec/serviceAccountName"),
        node: word("/spec/nodeName"),
    }
}

impl Scene {
    async fn strike(&self, plan: Plan, blow: Blow, chance: Chance) {
        tokio::time::sleep_until((self.begun + blow.at).into()).await;
        let _doing = self.watchdog.doing(format!("for the end of {blow:?}"));
        let trouble = |trouble: Trouble| self.trouble(blow, trouble);
        match blow.what {
            Fault::Kill => {
                let mut replica = self.replica(blow).await;
                replica.kill().await;
                tokio::time::sleep(blow.lasts).await;
                replica.start();
            }
            Fault::KillAll => self.kill_all(blow).await,
            Fault::Hang => {
                let mut replica = self.replica(blow).await;
                replica.pause();
                tokio::time::sleep(blow.lasts).await;
                replica.resume().await;
            }
            Fault::Partition => trouble(Trouble { gate: Gate::Broken, ..Trouble::default() }).await,
            Fault::BlackHole => trouble(Trouble { gate: Gate::Stuck, ..Trouble::default() }).await,
            Fault::Slow => trouble(Trouble { delay: Duration::from_secs(1), ..Trouble::default() }).await,
            Fault::Refusals => {
                trouble(Trouble { refused: (333, &[409, 429, 500, 503, 504]), ..Trouble::default() }).await
            }
            Fault::LostReplies => trouble(Trouble { lost: 333, ..Trouble::default() }).await,
            Fault::CutWatches => trouble(Trouble { cut: Some(3), ..Trouble::default() }).await,
            Fault::ExpiredWatches => trouble(Trouble { expired: true, ..Trouble::default() }).await,
            Fault::WrongClock => {
                // Within what notBefore may be off: further is tried where the API server's own clock can be moved.
                let ahead = *chance.one_of(&[-200, -90, 90, 200]);
                trouble(Trouble { ahead, ..Trouble::default() }).await;
            }
            Fault::MalformedEvents => self.malformed(blow).await,
            Fault::ApiServer => self.api_server(blow, false).await,
            Fault::Compaction => self.api_server(blow, true).await,
            Fault::SecretSpoilt | Fault::SecretGone => self.secret(blow).await,
            Fault::LeaseTaken => self.lease_taken(blow).await,
            Fault::LeaseGone => self.told(blow, call::delete(&self.stage.admin, &self.lease()).await),
            Fault::BundleSpoilt | Fault::BundleGone => self.bundle(blow).await,
            Fault::DiskFull | Fault::PipeBlocked => self.audit(blow).await,
            Fault::Hostile => {
                self.tell(blow, "");
                self.fleet.hostile(&chance).await;
            }
            Fault::Flood => {
                self.tell(blow, "");
                self.fleet.flood(plan.flood).await;
            }
            Fault::Deleted => {
                self.tell(blow, "");
                self.fleet.made_and_deleted(&chance).await;
            }
        }
    }

    async fn replica(&self, blow: Blow) -> tokio::sync::MutexGuard<'_, Replica> {
        let replica = self.replicas[blow.whom].lock().await;
        self.tell(blow, replica.name());
        replica
    }

    async fn trouble(&self, blow: Blow, trouble: Trouble) {
        let replica = self.replica(blow).await;
        replica.proxy.set(trouble);
        tokio::time::sleep(blow.lasts).await;
        replica.proxy.set(Trouble::default());
    }

    async fn kill_all(&self, blow: Blow) {
        let [mut one, mut two, mut three] =
            [self.replicas[0].lock().await, self.replicas[1].lock().await, self.replicas[2].lock().await];
        self.tell(blow, "");
        tokio::join!(one.kill(), two.kill(), three.kill());
        tokio::time::sleep(blow.lasts).await;
        for replica in [&mut one, &mut two, &mut three] {
            replica.start();
        }
    }

    async fn malformed(&self, blow: Blow) {
        let replica = self.replica(blow).await;
        let (namespace, signer) = (&self.stage.namespace, &self.stage.signer_name);
        let broken = [
            json!({"metadata": {"name": ["list"], "namespace": 5}, "spec": "text", "status": 3}),
            json!({"metadata": null, "spec": null}),
            json!({"metadata": {"name": "numbers", "namespace": namespace, "uid": "2", "resourceVersion": "1"},
                "spec": {"signerName": signer, "podName": 7, "podUID": [], "nodeName": {}, "maxExpirationSeconds": "long"}}),
            json!({"metadata": {"name": "odd", "namespace": namespace, "uid": "3", "resourceVersion": "1"},
                "spec": {"signerName": signer}, "status": {"conditions": "none", "certificateChain": 9}}),
        ];
        replica.proxy.begin_watches_with("podcertificaterequests", broken);
        // So that watches begin.
        replica.proxy.set(Trouble { cut: Some(0), ..Trouble::default() });
        tokio::time::sleep(blow.lasts).await;
        replica.proxy.set(Trouble::default());
        replica.proxy.begin_watches_with("podcertificaterequests", []);
    }

    async fn api_server(&self, blow: Blow, forgets: bool) {
        let _alone = self.api.lock().await;
        let server = self.stage.bed.server().expect("a real one");
        let forgotten = if forgets { server.compact().await } else { String::new() };
        self.tell(blow, &forgotten);
        server.stop_api();
        tokio::time::sleep(blow.lasts).await;
        server.start_api(server.version()).await;
    }

    async fn secret(&self, blow: Blow) {
        let _alone = self.secret.lock().await;
        let path = format!("/api/v1/namespaces/{}/secrets/podmint-ca", self.stage.signer_namespace);
        let Some(copy) = self.patiently(async || call::get(&self.stage.admin, &path).await).await else { return };
        let done = if blow.what == Fault::SecretGone {
            call::delete(&self.stage.admin, &path).await
        } else {
            call::patch(&self.stage.admin, &path, &json!({"data": null})).await
        };
        self.told(blow, done);
        tokio::time::sleep(blow.lasts).await;
        // The signer may have mended it by now: then it stays as it is.
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "type": copy["type"], "data": copy["data"],
            "metadata": {
                "name": "podmint-ca", "namespace": self.stage.signer_namespace,
                "labels": copy["metadata"]["labels"], "annotations": copy["metadata"]["annotations"],
            },
        });
        self.patiently(async || match call::get(&self.stage.admin, &path).await {
            Ok(there) if there["data"].is_object() => Ok(there),
            Ok(_) => call::patch(&self.stage.admin, &path, &json!({"data": copy["data"]})).await,
            Err(why) if why.code == 404 => {
                let (folder, _name) = path.rsplit_once('/').expect("a path has parts");
                call::post(&self.stage.admin, folder, &object).await
            }
            Err(why) => Err(why),
        })
        .await;
    }

    fn lease(&self) -> String {
        format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/podmint-signer", self.stage.signer_namespace)
    }

    async fn lease_taken(&self, blow: Blow) {
        let taken = json!({"spec": {"holderIdentity": "nobody"}});
        self.told(blow, call::patch(&self.stage.admin, &self.lease(), &taken).await);
        tokio::time::sleep(blow.lasts).await;
    }

    async fn bundle(&self, blow: Blow) {
        let _not_away = self.api.lock().await;
        for bundle in self.stage.trust_bundles().await {
            let name = bundle["metadata"]["name"].as_str().expect("an object has a name").replace(':', "%3A");
            let path = format!("/apis/certificates.k8s.io/v1/clustertrustbundles/{name}");
            let done = if blow.what == Fault::BundleGone {
                call::delete(&self.stage.admin, &path).await
            } else {
                call::patch(&self.stage.admin, &path, &json!({"spec": {"trustBundle": self.foreign_root()}})).await
            };
            self.told(blow, done);
        }
    }

    /// A root of somebody else.
    fn foreign_root(&self) -> String {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, self.stage.namespace.as_str());
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        params.self_signed(&key).expect("it signs itself").pem()
    }

    async fn audit(&self, blow: Blow) {
        let is_pipe = blow.what == Fault::PipeBlocked;
        let whom = if is_pipe { PIPED } else { blow.whom % PIPED };
        let mut replica = self.replica(Blow { whom, ..blow }).await;
        if is_pipe {
            replica.block_pipe(blow.lasts).await;
        } else {
            replica.fill_disk(blow.lasts).await;
        }
    }

    /// Again and again while the API server is away.
    async fn patiently<T>(&self, mut ask: impl AsyncFnMut() -> Result<T, call::Refused>) -> Option<T> {
        for _ in 0..300 {
            match ask().await {
                Ok(done) => return Some(done),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        None
    }

    fn tell(&self, blow: Blow, about: &str) {
        eprintln!("chaos: {:5.1} s: {:?} {about} for {:?}", self.begun.elapsed().as_secs_f64(), blow.what, blow.lasts);
    }

    /// It may fall into a time when the API server is away: then it did not happen.
    fn told(&self, blow: Blow, done: call::Answer) {
        self.tell(blow, &done.map_or_else(|why| format!("did not happen: {why}"), |_| String::new()));
    }
}

/// The replica that writes its audit log into a pipe.
const PIPED: usize = 2;
/// The replica that the kernel gives no more memory than the chart does.
const LIMITED: usize = 0;
/// How often each pod's certificate is renewed.
const RENEWAL: Duration = Duration::from_secs(2);
/// What a run may take beside twice the time in which faults begin: start, settling, and a machine that is busy.
const STANDSTILL: Duration = Duration::from_mins(5);
/// How long after the last fault everything must be answered.
const LAW: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_secs(1);
