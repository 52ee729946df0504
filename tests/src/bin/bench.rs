//! The figures: how fast the signer answers, next to what the API server takes when nobody signs, and what it costs.
//!
//! `cargo run --release -p podmint-tests --bin bench -- [--json]`. Everything runs on this machine, so the API server, etcd and
//! this program share its cores with the signer; read the figures as what one machine gives to all of them together.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measurement that cannot go on says so by a panic, and prints what it found"
)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Parser;
use futures::stream::{self, StreamExt as _};
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use podmint_tests::keys::Key;
use podmint_tests::keys::KeyType;
use podmint_tests::server::Settings;
use podmint_tests::signer::SignerProcess;
use podmint_tests::stage::{Pod, Said};
use podmint_tests::until::until;
use podmint_tests::{Bed, Stage, assets, call};
use serde_json::{Value, json};

/// What to measure.
#[derive(Parser)]
struct Arguments {
    /// One line of JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Requests in the burst.
    #[arg(long, default_value_t = 2000)]
    burst: usize,
    /// Pods that the requests are for. A request needs a pod that lives and projects the signer, but many may be for one.
    #[arg(long, default_value_t = 50)]
    pods: usize,
    /// Requests at the steady rate of 20 a second.
    #[arg(long, default_value_t = 400)]
    steady: usize,
}

/// Calls of this program in flight, for making requests: more than a kubelet, fewer than would starve the signer.
const CALLS: usize = 16;

#[tokio::main]
async fn main() {
    let arguments = Arguments::parse();
    let binary = dist_binary();
    let size = std::fs::metadata(&binary).unwrap().len();
    eprintln!("starting a control plane …");
    let bed = Bed::own(Settings { recorded: false, ..Settings::of(assets::VERSIONS[0]) }).await;
    let mut figures = Figures::default();
    figures.add("binary size", size as f64 / 1e6, "MB", Some(10.0));

    let stage = Stage::open(&bed, "bench").await;
    let pods = many_pods(&stage, arguments.pods).await;
    let begun = Instant::now();
    let first = stage.request_for(&pods[0]).make().await;
    let made = begun.elapsed();
    let begun = Instant::now();
    let signer = stage.a_signer().start_process_of(&binary).await;
    until("the first certificate is there", async || Said::of(&stage.read(&first).await?)).await;
    figures.add("start to first certificate", begun.elapsed().as_secs_f64() * 1e3, "ms", Some(250.0));
    eprintln!("one request is made in {made:?}");
    let signer = signer.ready().await;

    eprintln!("{} requests at 20 a second …", arguments.steady);
    let mut waits = steady(&stage, &pods, arguments.steady).await;
    waits.sort_by(f64::total_cmp);
    figures.add("created to issued at 20/s, p50", waits[waits.len() / 2], "ms", Some(6.0));
    figures.add("created to issued at 20/s, p99", waits[waits.len() * 99 / 100], "ms", Some(60.0));

    eprintln!("a burst of {} that nobody signs (each is denied) …", arguments.burst);
    let null = Stage::open(&bed, "bench-null").await;
    let null_pods = many_pods(&null, arguments.pods).await;
    let denied = denied_per_second(&null, &null_pods, arguments.burst).await;
    eprintln!("a burst of {} …", arguments.burst);
    let before = cpu_seconds(&signer);
    let issued = issued_per_second(&stage, &pods, arguments.burst).await;
    let cpu = cpu_seconds(&signer) - before;
    figures.add("burst: denied by a null signer", denied, "/s", None);
    figures.add("burst: issued", issued, "/s", None);
    figures.add("burst: issued / denied", issued / denied, "", Some(0.95));
    figures.add("CPU of the signer for a certificate", cpu / arguments.burst as f64 * 1e3, "ms", Some(0.3));
    figures.add("peak memory of the signer", high_water_mark(&signer), "MiB", Some(16.0));
    assert_eq!(signer.terminate(), 0);
    if arguments.json { figures.print_json() } else { figures.print_table(&arguments) }
}

/// What was measured, in order.
#[derive(Default)]
struct Figures(Vec<(&'static str, f64, &'static str, Option<f64>)>);

impl Figures {
    fn add(&mut self, name: &'static str, value: f64, unit: &'static str, aim: Option<f64>) {
        eprintln!("{name}: {value:.2} {unit}");
        self.0.push((name, value, unit, aim));
    }

    fn print_table(&self, arguments: &Arguments) {
        let Arguments { json: _, burst, pods, steady } = arguments;
        println!(
            "\nKubernetes {}, {steady} steady requests, a burst of {burst}, all for {pods} pods on one node",
            assets::VERSIONS[0]
        );
        for (name, value, unit, aim) in &self.0 {
            let aim = aim.map_or(String::new(), |aim| format!("(aim {aim} {unit})"));
            println!("{name:<40} {value:>10.2} {unit:<4} {aim}");
        }
    }

    fn print_json(&self) {
        let entry = |(name, value, unit, aim): &(&str, f64, &str, Option<f64>)| json!({"figure": name, "value": value, "unit": unit, "aim": aim});
        println!("{}", Value::from_iter(self.0.iter().map(entry)));
    }
}

/// Makes a request every 50 ms and returns how many milliseconds each waited, from the answer to its creation to the watch event
/// that shows its certificate.
async fn steady(stage: &Stage, pods: &[Pod], count: usize) -> Vec<f64> {
    let watch = watch_issued(stage, count).await;
    let mut made = HashMap::new();
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let keys = many_keys(count);
    let client = stage.admin.clone();
    for (number, key) in keys.iter().enumerate() {
        let object = stage.request_for(&pods[number % pods.len()]).object(key);
        tick.tick().await;
        let begun = Instant::now();
        let name = name_of(&call::post(&client, &stage.requests(), &object).await.unwrap());
        made.insert(name, begun);
    }
    let issued = watch.await.unwrap();
    made.into_iter().map(|(name, begun)| issued[&name].duration_since(begun).as_secs_f64() * 1e3).collect()
}

/// Requests made as fast as the API server takes them, and how many a second have their certificate, from the first creation to
/// the last answer.
async fn issued_per_second(stage: &Stage, pods: &[Pod], count: usize) -> f64 {
    let objects = many_objects(stage, pods, count);
    let watch = watch_issued(stage, count).await;
    let begun = Instant::now();
    stream::iter(objects)
        .for_each_concurrent(CALLS, async |object| {
            drop(call::post(&stage.admin, &stage.requests(), &object).await.unwrap())
        })
        .await;
    let issued = watch.await.unwrap();
    count as f64 / issued.values().max().unwrap().duration_since(begun).as_secs_f64()
}

/// The same with a signer that looks at nothing and denies everything: what the API server itself allows.
async fn denied_per_second(stage: &Stage, pods: &[Pod], count: usize) -> f64 {
    let objects = many_objects(stage, pods, count);
    let mut lines = watch(stage).await;
    let begun = Instant::now();
    let making = stream::iter(objects).for_each_concurrent(CALLS, async |object| {
        drop(call::post(&stage.admin, &stage.requests(), &object).await.unwrap())
    });
    let denying = async {
        let fresh = stream::poll_fn(|context| lines.poll_next_unpin(context)).filter_map(async |event| pending(event));
        fresh.take(count).for_each_concurrent(CALLS, async |object| deny(stage, object).await).await;
    };
    tokio::join!(making, denying);
    count as f64 / begun.elapsed().as_secs_f64()
}

fn pending(mut event: Value) -> Option<Value> {
    let is_new = event["type"] == "ADDED" && Said::of(&event["object"]).is_none();
    is_new.then(|| event["object"].take())
}

async fn deny(stage: &Stage, mut object: Value) {
    let path = format!("{}/{}/status", stage.requests(), name_of(&object));
    let now = &object["metadata"]["creationTimestamp"];
    object["status"] = json!({"conditions": [
        {"type": "Denied", "status": "True", "reason": "Null", "message": "nothing is signed here", "lastTransitionTime": now},
    ]});
    call::put(&stage.admin, &path, &object).await.unwrap();
}

/// Begins to watch, and gives the time at which each of the next `count` requests was seen with its certificate.
async fn watch_issued(stage: &Stage, count: usize) -> tokio::task::JoinHandle<HashMap<String, Instant>> {
    let mut events = watch(stage).await;
    let mut old = already(stage).await;
    tokio::spawn(async move {
        let mut issued = HashMap::new();
        while issued.len() < count {
            let event = events.next().await.expect("the watch goes on");
            let name = name_of(&event["object"]);
            if matches!(Said::of(&event["object"]), Some(Said::Issued(_))) && !old.remove(&name) {
                issued.entry(name).or_insert_with(Instant::now);
            }
        }
        issued
    })
}

/// What a new watch shows first.
async fn already(stage: &Stage) -> std::collections::HashSet<String> {
    let list = call::get(&stage.admin, &stage.requests()).await.unwrap();
    list["items"].as_array().unwrap().iter().map(name_of).collect()
}

async fn watch(stage: &Stage) -> impl futures::Stream<Item = Value> + Unpin + Send + use<> {
    let path = format!("{}?watch=true", stage.requests());
    let request = http::Request::get(path).body(Vec::new()).unwrap();
    let lines = stage.admin.request_stream(request).await.unwrap();
    Box::pin(lines.lines().map_ok(|line| serde_json::from_str(&line).unwrap()).map(Result::unwrap))
}

fn many_objects(stage: &Stage, pods: &[Pod], count: usize) -> Vec<Value> {
    let objects = many_keys(count).into_iter().enumerate();
    objects.map(|(number, key)| stage.request_for(&pods[number % pods.len()]).object(&key)).collect()
}

fn many_keys(count: usize) -> Vec<Key> {
    (0..count).map(|_| Key::make(KeyType::EcdsaP256)).collect()
}

async fn many_pods(stage: &Stage, count: usize) -> Vec<Pod> {
    let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
    let mut pods = Vec::new();
    for number in 0..count {
        pods.push(stage.a_pod(&format!("web-{number}")).on(&node).as_account(&account).make().await);
    }
    pods
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// As it is put into an image.
fn dist_binary() -> PathBuf {
    eprintln!("building the signer as it is shipped (profile dist) …");
    let built = Command::new("cargo")
        .args(["build", "--quiet", "--profile", "dist", "-p", "podmint-signer"])
        .current_dir(assets::root())
        .env("CARGO_TARGET_DIR", assets::target())
        .status();
    assert!(built.unwrap().success());
    assets::target().join("dist/podmint-signer")
}

/// User and system time, from `/proc`, in hundredths of a second.
fn cpu_seconds(signer: &SignerProcess) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", signer.process().pid())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn high_water_mark(signer: &SignerProcess) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", signer.process().pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}
