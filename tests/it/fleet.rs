//! The fleet: services of the client library that talk mTLS all the while as the CA under them rotates, on nodes that learn of a new
//! root as late as kubelets do, with a signer that is killed, suspended and refused. Nobody may be refused by anybody. The same
//! fleet under a signer that signs at once is refused: so the fleet would notice.
//!
//! Time runs [`PACE`] times faster for all who wait: the signer's phases, the kubelets' syncs and caches, the services' polls, and
//! the moment when a certificate is renewed. Dates in certificates are the API server's; so a certificate outlives its part here,
//! and what shows that the old root drained long enough is the trust: whoever still holds a certificate under it is refused.

mod authority;
mod service;
mod trouble;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use podmint_devcluster::Options;
use podmint_devcluster::node::{self, NodeAgent, NodeOptions};
use podmint_signer::pace::Pace;
use podmint_tests::call::{self, Refused};
use podmint_tests::kept::Scratch;
use podmint_tests::signer::SignerProcess;
use podmint_tests::stage::{Account, Node};
use podmint_tests::{Bed, Stage, Who, assets};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use self::authority::Rotated;
use self::service::{Identity, Service, Talk};
use self::trouble::{Trouble, told};
use crate::hand::sign_at_once;
use crate::rotate::PACE;

/// Few, for every day: two roots, and issuing CAs in all phases of both.
#[test]
fn services_talk_through_every_rotation() {
    podmint_tests::run(async {
        let report = rotations(Plan { seed: 1, roots: 2, renewals: 16 }).await;
        report.is_whole(2, 16);
    });
}

mod long {
    /// Many: fifty roots and five hundred issuing CAs, by five fleets side by side.
    #[test]
    #[ignore = "tests/run --long"]
    fn services_talk_through_fifty_roots_and_five_hundred_issuing_cas() {
        podmint_tests::run(async { super::many().await });
    }
}

async fn many() {
    let fleets = (1..=5).map(|seed| rotations(Plan { seed, roots: 10, renewals: 100 }));
    let all = join_all(fleets).await.into_iter().reduce(Report::and).unwrap();
    eprintln!("all fleets: {all}");
    all.is_whole(50, 500);
}

/// The red twin: the plan goes straight to *Sign*, so that the root is published and read back, and nobody waits for those who have
/// not seen it yet.
#[test]
fn under_a_signer_that_signs_at_once_handshakes_fail() {
    podmint_tests::run(async {
        let fleet = Fleet::open(7).await;
        let signer = fleet.signer("rash").await;
        let talk = Arc::new(Talk::default());
        let services = fleet.services(&talk).await;
        talk.until(200).await;
        assert_eq!(talk.words(), Vec::<String>::new(), "before anything rotates");
        let stage = fleet.stage.clone();
        let rash = tokio::spawn(async move {
            loop {
                sign_at_once(&stage).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
        let stop = CancellationToken::new();
        let newcomers = fleet.newcomers(&talk, &stop, Duration::from_millis(200));
        let rotations = async {
            for number in 1..=3 {
                tokio::select! {
                    rotated = authority::rotate(&fleet.stage, number, &talk) => eprintln!("rash: {rotated}"),
                    () = talk.fails() => break,
                }
            }
            stop.cancel();
        };
        let ((), newcomers) = tokio::join!(rotations, newcomers);
        rash.abort();
        Service::stop_all(services).await;
        let (failed, words) = (talk.failed_count(), talk.words());
        eprintln!("rash: {} handshakes, {failed} failed, {newcomers} pods came and went; {words:#?}", talk.count());
        assert!(failed > 0, "a fleet that does not notice proves nothing");
        assert!(words.iter().any(|word| word.contains(NOT_KNOWN_YET)), "{words:#?}");
        // Whom a peer does not know hears no reason.
        let others = words.iter().filter(|word| !word.contains(NOT_KNOWN_YET) && !word.contains("peer_refused"));
        assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new(), "for another reason than the root");
        assert_eq!(signer.terminate(), 0);
    });
}

/// What the library says of a certificate under a root that has not reached it.
const NOT_KNOWN_YET: &str = "unknown_issuer";

/// What is done to a fleet.
struct Plan {
    seed: u64,
    roots: usize,
    renewals: usize,
}

/// Rotates as planned, makes trouble all the while, and says what became of it.
async fn rotations(plan: Plan) -> Report {
    let fleet = Fleet::open(plan.seed).await;
    let signers = [fleet.signer("replica-a").await, fleet.signer("replica-b").await];
    let talk = Arc::new(Talk::default());
    let services = fleet.services(&talk).await;
    talk.until(100).await;

    let stop = CancellationToken::new();
    let begun = Instant::now();
    let work = async {
        let roots = async {
            let mut rotated = Vec::new();
            for number in 1..=plan.roots {
                rotated.push(authority::rotate(&fleet.stage, number, &talk).await);
                eprintln!("fleet {}, rotation {number}: {}", plan.seed, rotated.last().unwrap());
            }
            rotated
        };
        let (rotated, ()) = tokio::join!(roots, authority::renew(&fleet.stage, plan.renewals, &talk));
        stop.cancel();
        rotated
    };
    let newcomers = fleet.newcomers(&talk, &stop, RARELY);
    let trouble = Trouble::new(&fleet, plan.seed).make(signers, &stop);
    let (rotated, newcomers, (signers, troubles)) = tokio::join!(work, newcomers, trouble);
    let took = begun.elapsed();
    Service::stop_all(services).await;
    for signer in signers {
        assert_eq!(signer.terminate(), 0);
    }
    let report = Report {
        handshakes: talk.count(),
        failed: talk.failed_count(),
        words: talk.words(),
        newcomers,
        renewed: talk.renewed(),
        rotated,
        troubles,
        took,
    };
    eprintln!("fleet {}: {report}", plan.seed);
    report
}

/// What became of a fleet.
struct Report {
    handshakes: u64,
    failed: u64,
    words: Vec<String>,
    newcomers: usize,
    renewed: usize,
    rotated: Vec<Rotated>,
    troubles: Vec<(&'static str, usize)>,
    took: Duration,
}

impl Report {
    fn is_whole(&self, roots: usize, renewals: usize) {
        assert_eq!(self.words, Vec::<String>::new(), "{} handshakes failed", self.failed);
        assert_eq!(self.failed, 0);
        assert_eq!(self.rotated.len(), roots);
        assert!(self.renewed >= renewals, "{} issuing CAs were renewed", self.renewed);
        assert!(self.newcomers > 0 && self.handshakes > 0);
    }

    fn and(mut self, other: Self) -> Self {
        self.handshakes += other.handshakes;
        self.failed += other.failed;
        self.words.extend(other.words);
        self.newcomers += other.newcomers;
        self.renewed += other.renewed;
        self.rotated.extend(other.rotated);
        for ((_, times), (_, more)) in self.troubles.iter_mut().zip(other.troubles) {
            *times += more;
        }
        self.took = self.took.max(other.took);
        self
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { handshakes, failed, words: _, newcomers, renewed, rotated, troubles, took } = self;
        let (roots, seconds) = (rotated.len(), took.as_secs());
        let (least, most) = Rotated::range(rotated);
        write!(
            out,
            "{handshakes} handshakes, {failed} failed, {newcomers} pods came and went; {roots} roots and {renewed} issuing CAs rotated in \
             {seconds} s; from the wish: {least} to {most}; trouble: {}",
            told(troubles)
        )
    }
}

/// A cluster of three nodes, and a signer name on it.
struct Fleet {
    stage: Stage,
    agents: Vec<(Node, NodeAgent)>,
    _volumes: Scratch,
}

impl Fleet {
    async fn open(seed: u64) -> Self {
        let bed = Bed::over(Options::default()).await;
        let stage = Stage::open(&bed, "fleet").await;
        let volumes = Scratch::new();
        let mut agents = Vec::new();
        for number in 0..3 {
            let node = stage.node(&format!("node-{number}")).await;
            let options = NodeOptions {
                pace: node::Pace { sooner: PACE, ..node::Pace::compressed(PACE) },
                seed: Some(seed * 10 + number),
                ..NodeOptions::new(&node.name, volumes.path())
            };
            let client = bed.client(&Who::node(&node.name)).await;
            agents.push((node, NodeAgent::start(client, options).await.expect("a node agent starts")));
        }
        Self { stage, agents, _volumes: volumes }
    }

    /// A replica as a process, ready to sign.
    async fn signer(&self, name: &str) -> SignerProcess {
        let plan = self.stage.a_signer().with("lifetime", json!({"max": "1h"})).called(name);
        plan.start_process_of(&assets::binary("paced-signer")).await.ready().await
    }

    /// The services. The last one mounts its trust by name, which kubelets show up to five minutes later.
    async fn services(&self, talk: &Arc<Talk>) -> Vec<Service> {
        let by_name = self.stage.trust_bundles().await[0]["metadata"]["name"].clone();
        let mut services = Vec::new();
        for number in 0..SERVICES {
            let name = format!("service-{number}");
            let account = self.stage.account(&name).await;
            let trust = if number + 1 == SERVICES { json!({"name": by_name}) } else { self.by_signer() };
            let identity = self.pod(&name, number, &account, trust).await;
            services.push(Service::start(&name, identity, Arc::clone(talk)).await);
        }
        services
    }

    /// Pods that start, greet everybody with a certificate of this moment, and go.
    async fn newcomers(&self, talk: &Talk, stop: &CancellationToken, every: Duration) -> usize {
        let account = self.stage.account("newcomer").await;
        let mut number = 0;
        while !stop.is_cancelled() {
            let name = format!("newcomer-{number}");
            let identity = self.pod(&name, number, &account, self.by_signer()).await;
            talk.meet(&name, &identity).await;
            drop(identity);
            let path = format!("{}/{name}", self.stage.core("pods"));
            told_again(async || match call::delete(&self.stage.admin, &path).await {
                Ok(_) | Err(Refused { code: 404, .. }) => Some(()),
                Err(_) => None,
            })
            .await;
            number += 1;
            tokio::select! { () = tokio::time::sleep(every) => {}, () = stop.cancelled() => {} }
        }
        number
    }

    fn by_signer(&self) -> Value {
        json!({"signerName": self.stage.signer_name, "labelSelector": {}})
    }

    /// A pod on one of the nodes, and what its files give.
    async fn pod(&self, name: &str, number: usize, account: &Account, mut trust: Value) -> Identity {
        let (node, agent) = &self.agents[number % self.agents.len()];
        trust["path"] = json!("trust.pem");
        let certificate = json!({
            "signerName": self.stage.signer_name, "keyType": "ECDSAP256", "maxExpirationSeconds": 3600,
            "credentialBundlePath": "bundle.pem",
        });
        let sources = json!([{"podCertificate": certificate}, {"clusterTrustBundle": trust}]);
        let volumes = json!([{"name": "identity", "projected": {"sources": sources}}]);
        let plan = || self.stage.a_pod(name).on(node).as_account(account).specified("volumes", volumes.clone());
        told_again(async || match plan().try_make().await {
            Ok(_) | Err(Refused { code: 409, .. }) => Some(()),
            Err(_) => None,
        })
        .await;
        Identity::of(agent.volume(&self.stage.namespace, name, "identity")).await
    }
}

/// Says it again until the API server has heard: it is away now and then, and an answer may be lost.
async fn told_again<T>(mut say: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = say().await {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "the API server does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What becomes of a wait here.
fn paced(wait: Duration) -> Duration {
    Pace::compressed(PACE).of(wait)
}

const SERVICES: usize = 6;
/// A pod in two minutes.
const RARELY: Duration = Duration::from_secs(1);
