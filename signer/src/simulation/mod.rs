//! The whole signer, as it ships, against an API server in virtual time: hundreds of runs with three replicas, each a few minutes
//! long and over within milliseconds. A seed decides who asks when, what breaks, for how long each call takes and how long each
//! backoff is. Which of two things of one millisecond comes first it does not decide: of a run that breaks a law the like is found by
//! its seed, not always the very run.
//!
//! What is real: everything behind [`run`](crate::run::run) — queue, limits, walks, Lease, watches, CA, retries, the clock that follows
//! `Date`. What is not: the network, the API server ([`world`]), the audit log's file, and the operating system. `tests/run --chaos`
//! has those.

#![expect(clippy::arithmetic_side_effects, reason = "a simulation, in small numbers")]

mod backlog;
mod copied;
mod fair;
mod fairness;
mod fleet;
mod laws;
mod takeover;
mod world;

use std::{
    sync::{Arc, LazyLock, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use tokio::{
    runtime::Builder,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use self::{
    laws::{One, Outcome},
    world::{Dice, Seat, Trouble, World, lock},
};
use crate::{
    audit::Sink,
    config::Config,
    pace::{Pace, seeded},
    pipeline::{
        KeyType,
        honest::{CONFIG, TestKey, domains, request},
    },
    run::{Guard, Options, run},
};

/// Runs in virtual time, with chance that `seed` decides.
fn simulate<T>(seed: u64, scenario: impl Future<Output = T>) -> T {
    seeded::sow(Some(seed));
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let result = runtime.block_on(scenario);
    drop(runtime);
    seeded::sow(None);
    result
}

type AuditLog = Arc<Mutex<Vec<Value>>>;

/// A replica: one life after another, under one name.
struct Replica {
    name: &'static str,
    seat: Arc<Seat>,
    stop: CancellationToken,
    task: JoinHandle<()>,
    logs: Vec<AuditLog>,
}

impl Replica {
    fn start(world: &Arc<World>, name: &'static str) -> Self {
        Self::live(world, name, 0)
    }

    fn live(world: &Arc<World>, name: &'static str, life: u64) -> Self {
        let number = name.bytes().fold(life, |number, byte| number.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let (seat, stop, log) = (Seat::new(number), CancellationToken::new(), AuditLog::default());
        let options = Options {
            client: world.client(&seat),
            source: Config::parse(CONFIG, &domains()).unwrap().into(),
            namespace: "mint".to_owned(),
            identity: name.to_owned(),
            audit: Sink::Memory(Arc::clone(&log)),
            listen: None,
            guard: Guard::Off,
            pace: Pace::real(),
        };
        let running = run(options, stop.clone());
        let task = tokio::spawn(async move { running.await.unwrap() });
        Self { name, seat, stop, task, logs: vec![log] }
    }

    /// As by SIGKILL. What is left of it in this process reaches nobody any more.
    fn kill(&self) {
        self.seat.die();
        self.stop.cancel();
        self.task.abort();
    }

    /// As by SIGTERM.
    fn terminate(&self) {
        self.stop.cancel();
    }

    /// From now on this is on its way to the API server.
    fn befall(&self, trouble: Trouble) {
        self.seat.trouble.send_replace(trouble);
    }

    /// The next life, unless it lives.
    fn revive(&mut self, world: &Arc<World>) {
        if !self.stop.is_cancelled() {
            return;
        }
        let Self { seat, stop, task, logs, .. } = Self::live(world, self.name, self.logs.len().try_into().unwrap());
        (self.seat, self.stop, self.task) = (seat, stop, task);
        self.logs.extend(logs);
    }
}

const NAMES: [&str; 3] = ["one", "two", "three"];

/// PKCS#10 requests, made once for all runs: a key for each pod of each namespace.
static CSRS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let csr = |_| BASE64_STANDARD.encode(TestKey::new(KeyType::EcdsaP256).csr());
    (0..2 * PODS).map(csr).collect()
});

const PODS: usize = 16;

/// Pods of a namespace, with what they stand on.
fn furnish(world: &World, namespace: &str) {
    let source = json!({"podCertificate": {
        "signerName": "podmint.dev/workload", "keyType": "ECDSAP256", "maxExpirationSeconds": 43_200,
    }});
    for pod in 0..PODS {
        world.fake.put(
            &format!("/api/v1/namespaces/{namespace}/pods/cart-{pod}"),
            json!({
                "metadata": {"name": format!("cart-{pod}"), "namespace": namespace, "uid": pod_uid(namespace, pod)},
                "spec": {
                    "nodeName": "node-a", "serviceAccountName": "cart", "containers": [],
                    "volumes": [{"name": "v", "projected": {"sources": [source]}}],
                },
                "status": {"phase": "Pending"},
            }),
        );
    }
    let uid = |uid: &str| json!({"metadata": {"uid": uid}});
    let account = uid("c0ffee00-1111-4222-8333-444455556666");
    world.fake.put(&format!("/api/v1/namespaces/{namespace}/serviceaccounts/cart"), account);
    world.fake.put("/api/v1/nodes/node-a", uid("0ddba11e-7777-4888-9999-aaaabbbbcccc"));
}

fn pod_uid(namespace: &str, pod: usize) -> String {
    format!("{namespace}-pod-{pod}")
}

/// A pod asks.
fn ask(world: &World, namespace: &str, number: usize) {
    let pod = number % PODS;
    // Two namespaces share no key.
    let key = if namespace == "shop" { pod } else { PODS + pod };
    ask_with(world, namespace, &name(namespace, number), pod, key);
}

/// Another pod asks with the key of this request of the namespace `shop`. Lists show it before all that are honest.
fn copy(world: &World, number: usize) {
    let pod = number % PODS;
    ask_with(world, "shop", &name("copy", number), (pod + 1) % PODS, pod);
}

fn ask_with(world: &World, namespace: &str, name: &str, pod: usize, key: usize) {
    let mut object = request();
    object["metadata"]["namespace"] = namespace.into();
    object["metadata"]["name"] = name.into();
    object["metadata"]["uid"] = format!("uid-{name}").into();
    object["spec"]["podName"] = format!("cart-{pod}").into();
    object["spec"]["podUID"] = pod_uid(namespace, pod).into();
    object["spec"]["stubPKCS10Request"] = CSRS[key].as_str().into();
    world.create(namespace, name, object);
}

fn name(namespace: &str, number: usize) -> String {
    format!("{namespace}-{number}")
}

/// One thing that happens.
#[derive(Clone, Copy, Debug)]
enum Act {
    Ask(usize),
    /// Somebody copies the key of this request, if it is there.
    Copy(usize),
    /// The request goes, answered or not.
    Delete(usize),
    Kill(usize),
    KillAll,
    Terminate(usize),
    Revive(usize),
    Befall(usize, Trouble),
    /// The clock of a replica's API server.
    Ahead(usize, i64),
    /// It stands still, or goes on as if it never had.
    Freeze(usize, bool),
    /// The clock of all.
    Jump(i64),
    Down(bool),
    LeaseTaken,
    LeaseGone,
}

/// Who asks when, and what breaks, in order.
fn acts(seed: u64) -> Vec<(Duration, Act)> {
    let dice = Dice::new(seed ^ 0x5eed);
    let moment = |bound: u64| Duration::from_millis(dice.below(bound));
    let mut acts = Vec::new();
    for number in 0..REQUESTS {
        let at = moment(RUN);
        acts.push((at, Act::Ask(number)));
        if dice.falls(250) {
            acts.push((at + moment(3_000), Act::Copy(number)));
        }
    }
    for _ in 0..dice.below(FAULTS).saturating_add(1) {
        let (at, whom) = (moment(RUN), usize::try_from(dice.below(3)).unwrap());
        let over = at + Duration::from_millis(500) + moment(20_000);
        let befall = |trouble| [(at, Act::Befall(whom, trouble)), (over, Act::Befall(whom, Trouble::default()))];
        match dice.below(18) {
            14 => {
                acts.push((at, Act::KillAll));
                acts.extend((0..NAMES.len()).map(|whom| (over + moment(1_000), Act::Revive(whom))));
            }
            15 => acts.extend(befall(Trouble { pages: true, ..Trouble::default() })),
            16 => {
                let ahead = if dice.falls(500) { 600 } else { -600 };
                acts.extend([(at, Act::Ahead(whom, ahead)), (over, Act::Ahead(whom, 0))]);
            }
            17 => acts.extend([(at, Act::Freeze(whom, true)), (over, Act::Freeze(whom, false))]),
            0 | 1 => acts.extend([(at, Act::Kill(whom)), (over, Act::Revive(whom))]),
            2 => acts.extend([(at, Act::Terminate(whom)), (over, Act::Revive(whom))]),
            3 => acts.extend(befall(Trouble { stuck: true, ..Trouble::default() })),
            4 => acts.extend(befall(Trouble { broken: true, ..Trouble::default() })),
            5 => acts.extend(befall(Trouble { slow: dice.below(3_000), ..Trouble::default() })),
            6 => acts.extend(befall(Trouble { refused: dice.below(700), ..Trouble::default() })),
            7 => acts.extend(befall(Trouble { lost: 300, ..Trouble::default() })),
            8 => acts.extend(befall(Trouble { cut: true, ..Trouble::default() })),
            9 => {
                acts.extend([(at, Act::Down(true)), (over, Act::Down(false))]);
                if dice.falls(500) {
                    let read = over + moment(3_000);
                    for whom in 0..NAMES.len() {
                        acts.push((over, Act::Befall(whom, Trouble { no_roles: true, ..Trouble::default() })));
                        acts.push((read, Act::Befall(whom, Trouble::default())));
                    }
                }
            }
            10 => {
                let ahead = i64::try_from(dice.below(400)).unwrap() - 200;
                acts.extend([(at, Act::Ahead(whom, ahead)), (over, Act::Ahead(whom, 0))]);
            }
            11 => {
                let seconds = if dice.falls(300) { 3_600 } else { i64::try_from(dice.below(240)).unwrap() - 30 };
                acts.push((at, Act::Jump(seconds)));
            }
            12 => acts.push((at, if dice.falls(500) { Act::LeaseTaken } else { Act::LeaseGone })),
            _ => acts.push((at, Act::Delete(usize::try_from(dice.below(24)).unwrap()))),
        }
    }
    acts.sort_by_key(|(at, _)| *at);
    acts
}

/// A run: what happens, until every request is answered or the law's time is over.
async fn storm(seed: u64) -> Outcome {
    let world = World::new(seed, 16, Duration::from_micros(3_137));
    furnish(&world, "shop");
    let mut replicas = NAMES.map(|name| Replica::start(&world, name));
    let (begun, mut outcome) = (Instant::now(), Outcome::default());
    for (at, act) in acts(seed) {
        sleep_until(begun + at).await;
        play(&world, &mut replicas, act, &mut outcome);
    }
    for number in 0..replicas.len() {
        play(&world, &mut replicas, Act::Revive(number), &mut outcome);
    }
    let healed = Instant::now();
    while healed.elapsed() < LAW && !outcome.unanswered(&world).is_empty() {
        sleep(Duration::from_millis(250)).await;
    }
    outcome.settled = healed.elapsed();
    outcome.judge(&world, &replicas);
    for replica in &replicas {
        replica.kill();
    }
    outcome
}

fn play(world: &Arc<World>, replicas: &mut [Replica; 3], act: Act, outcome: &mut Outcome) {
    match act {
        Act::Ask(number) => {
            ask(world, "shop", number);
            outcome.asked.insert(name("shop", number));
        }
        Act::Copy(number) => {
            if world.fake.get(&world::path("shop", &name("shop", number))).is_some() {
                copy(world, number);
                outcome.copied.insert(name("copy", number));
            }
        }
        Act::Delete(number) => {
            outcome.gone.extend(world.fake.get(&world::path("shop", &name("shop", number))).as_ref().map(One::of));
            world.delete("shop", &name("shop", number));
            outcome.asked.remove(&name("shop", number));
        }
        Act::Kill(whom) => replicas[whom].kill(),
        Act::KillAll => replicas.iter().for_each(Replica::kill),
        Act::Terminate(whom) => replicas[whom].terminate(),
        Act::Revive(whom) => {
            outcome.note_calls(&replicas[whom]);
            replicas[whom].revive(world);
        }
        Act::Befall(whom, trouble) => replicas[whom].befall(trouble),
        Act::Ahead(whom, seconds) => {
            replicas[whom].seat.ahead.store(seconds, Relaxed);
            world.far_off.fetch_or(seconds.abs() > 240, Relaxed);
        }
        Act::Freeze(whom, is_frozen) => *lock(&replicas[whom].seat.frozen) = is_frozen.then(|| world.now()),
        Act::Jump(seconds) => world.jumped.store(world.jumped.load(Relaxed) + seconds, Relaxed),
        Act::Down(is_down) => world.go_down(is_down),
        Act::LeaseTaken => {
            if let Some(mut lease) = world.fake.get(LEASE) {
                lease["spec"]["holderIdentity"] = "nobody".into();
                lease["metadata"]["resourceVersion"] = "999".into();
                world.fake.put(LEASE, lease);
            }
        }
        Act::LeaseGone => world.fake.remove(LEASE),
    }
}

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/mint/leases/podmint-signer";
/// Requests of one run.
const REQUESTS: usize = 24;
/// The most faults of one run.
const FAULTS: u64 = 8;
/// For how long things happen, in milliseconds.
const RUN: u64 = 60_000;
/// How long after the last fault everything must be answered.
const LAW: Duration = Duration::from_secs(60);

/// So many, for some defects show seldom: an answer whose fate is not known and which is taken for written by seeds 400, 453, 531 and 696 of
/// the first 700, and walks that begin before the end of their listing by 78, 152 and some eight more. One beyond these that breaks a law
/// is to be added here. Most of the minute that it takes goes into real signatures.
#[test]
fn thousands_of_seeds_break_no_law() {
    laws::hold_for(0..2_000);
}

#[test]
#[ignore = "tests/run --chaos"]
fn ten_thousand_more_seeds_break_no_law() {
    laws::hold_for(1_000_000..1_010_000);
}
