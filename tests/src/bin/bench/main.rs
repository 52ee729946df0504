//! The figures: how fast the signer answers, next to what the API server takes when nobody signs, and what it costs.
//!
//! `cargo run --release -p podmint-tests --bin bench -- [--json]`. Everything runs on this machine, so the API server, etcd and
//! this program share its cores with whoever answers; read the figures as what one machine gives to all of them together. What
//! does not depend on who else uses the machine is the time that each process computes.
//!
//! In each round every program is started anew, and the API server with it, with the same rights, for the same pods; it answers one
//! request that waits already, then a steady trickle, then a trickle beside another namespace's flood, then a burst, and all requests
//! are deleted again. Those who ask are kubelets to the API server. `--watchers 1000` adds what a thousand kubelets hold open;
//! `--pods 10000 --burst 10000` is every pod of a hundred nodes at one time.
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

mod figures;
mod floor;
mod load;
mod names;
mod null;
mod picture;
mod program;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use figures::Figures;
use load::Load;
use podmint_tests::server::Settings;
use podmint_tests::stage::Stage;
use podmint_tests::{Bed, Who, assets, call, install};
use program::{Program, Running};

/// What to measure.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// One line of JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// How often; every program has its turn in each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Requests in the burst.
    #[arg(long, default_value_t = 2000)]
    burst: usize,
    /// Pods that the requests are for; when there are fewer than requests, some ask again.
    #[arg(long, default_value_t = 2000)]
    pods: usize,
    /// Requests at the steady rate of 20 a second.
    #[arg(long, default_value_t = 200)]
    steady: usize,
    /// Kubelets that watch their requests all the while.
    #[arg(long, default_value_t = 0)]
    watchers: usize,
    /// With the chart's opt-in FlowSchema: concurrency of its own at the API server for whoever answers.
    #[arg(long)]
    flow_schema: bool,
    /// Which programs.
    #[arg(long, value_delimiter = ',', default_value = "null,ours,ours3,go,agnhost")]
    programs: Vec<Program>,
    /// Draws what was measured (SVG).
    #[arg(long, value_name = "FILE")]
    picture: Option<PathBuf>,
    /// Another build of the signer; default is to build it as it is shipped.
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Part {
    /// The null signer itself, which the benchmark starts as a process of its own.
    #[command(hide = true)]
    Null { kubeconfig: PathBuf, signer_name: String },
    /// What names and rules cost: a decision, the index of Services, `explain`.
    Names,
    /// What it costs to start where so many requests wait already, and to answer them.
    Listed {
        #[arg(default_value_t = 150_000)]
        count: usize,
    },
}

fn main() {
    let arguments = Arguments::parse();
    match arguments.part {
        // On one thread, as the signer.
        Some(Part::Null { kubeconfig, signer_name }) => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(null::run(&kubeconfig, &signer_name));
        }
        Some(Part::Names) => {
            let mut figures = Figures::default();
            tokio::runtime::Runtime::new().unwrap().block_on(names::measure(&mut figures));
            show(&figures, arguments.json);
        }
        Some(Part::Listed { count }) => {
            let mut figures = Figures::default();
            tokio::runtime::Runtime::new().unwrap().block_on(listed(&arguments, count, &mut figures));
            show(&figures, arguments.json);
        }
        None => tokio::runtime::Runtime::new().unwrap().block_on(bench(arguments)),
    }
}

async fn bench(arguments: Arguments) {
    let binary = arguments.binary.clone().unwrap_or_else(program::shipped);
    let mut figures = Figures::default();
    let size = std::fs::metadata(&binary).unwrap().len();
    figures.add("ours", "binary size", size as f64 / 1e6, "MB", Some(10.0));
    let (floor, path) = floor::measure();
    figures.add("floor", CPU, floor * 1e3, "ms", None);
    figures.add("ours", "CPU from request to certificate, to floor", path / floor, "x", Some(1.1));
    eprintln!("starting a control plane …");
    let bed = Bed::own(Settings { recorded: false, ..Settings::of(assets::VERSIONS[0]) }).await;
    let stage = Stage::open(&bed, "bench").await;
    if arguments.flow_schema {
        install::flow_schema(&bed, &stage.namespace).await;
    }
    eprintln!("{} pods …", arguments.pods);
    let load = Load::make(&stage, arguments.pods).await;
    // Another namespace, whose requests the same signer answers.
    let quiet = Stage::open(&bed, "quiet").await.answering_for(&stage.signer_name);
    let quiet = Load::make(&quiet, QUIET_PODS).await;
    for round in 1..=arguments.rounds {
        let mut ceiling = None;
        for program in &arguments.programs {
            eprintln!("round {round}, {}", program.name());
            let rate = measure(&arguments, &stage, (&load, &quiet), *program, &binary, &mut figures).await;
            match ceiling {
                None if *program == Program::Null => ceiling = Some(rate),
                None => {}
                Some(ceiling) => {
                    figures.add(program.name(), SHARE, rate / ceiling, "", (*program == Program::Ours).then_some(0.95))
                }
            }
        }
    }
    if arguments.flow_schema {
        let used =
            metric(&stage, "apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"podmint-signer\"").await;
        assert!(used > 0.0, "the API server led no call through the chart's FlowSchema");
    }
    if !arguments.json {
        println!("\n{}", headline(&arguments));
    }
    show(&figures, arguments.json);
    if let Some(file) = &arguments.picture {
        std::fs::write(file, picture::draw(&figures, &headline(&arguments))).expect("the picture can be written");
    }
}

/// A signer that starts where requests have piled up: more than a cluster of five thousand nodes has within a quarter of an hour.
async fn listed(arguments: &Arguments, count: usize, figures: &mut Figures) {
    let binary = arguments.binary.clone().unwrap_or_else(program::shipped);
    let bed = Bed::own(Settings { recorded: false, ..Settings::of(assets::VERSIONS[0]) }).await;
    let stage = Stage::open(&bed, "listed").await;
    let load = Load::make(&stage, arguments.pods).await;
    eprintln!("{count} requests …");
    let pile = load.pile(count).await;
    let running = Program::Ours.start(&stage, &[load.namespace()], &binary).await;
    let waits = pile.answered_after(running.started).await;
    let name = Program::Ours.name();
    figures.add(name, "start to first answer", waits.first(), "ms", None);
    figures.add(name, "answered", waits.answered_per_second(), "/s", None);
    figures.add(name, CPU, running.cpu() / count as f64 * 1e3, "ms", None);
    figures.add(name, MEMORY, running.peak(), "MiB", Some(48.0));
    running.stop();
    // Once more: all are there, and answered.
    let first = load.first().await;
    let running = Program::Ours.start(&stage, &[load.namespace()], &binary).await;
    let start = first.answered_after(running.started).await.first();
    figures.add(name, "start to first answer, all others answered", start, "ms", None);
    figures.add(name, "peak memory, all others answered", running.peak(), "MiB", Some(48.0));
    running.stop();
}

fn show(figures: &Figures, json: bool) {
    if json {
        println!("{}", figures.json());
    } else {
        print!("{}", figures.table());
    }
}

fn headline(arguments: &Arguments) -> String {
    let Arguments { rounds, burst, pods, watchers, flow_schema, .. } = arguments;
    let level = if *flow_schema { ", the chart's FlowSchema" } else { "" };
    format!(
        "Kubernetes {}, {rounds} rounds: a burst of {burst} requests for {pods} pods, {watchers} kubelets watching{level}",
        assets::VERSIONS[0]
    )
}

/// One turn of one program. Returns how many of a burst it answers in a second.
async fn measure(
    arguments: &Arguments,
    stage: &Stage,
    (load, quiet): (&Load, &Load),
    program: Program,
    binary: &Path,
    figures: &mut Figures,
) -> f64 {
    let name = program.name();
    let is_ours = program == Program::Ours;
    let aim = |aim: f64| is_ours.then_some(aim);
    // With many kubelets, what the API server lets through hangs on what it has seen lately.
    stage.bed.go_down();
    stage.bed.come_back().await;
    let _kubelets = load.kubelets(arguments.watchers).await;
    load.clear().await;
    let has_ca = !stage.trust_bundles().await.is_empty();
    let first = load.first().await;
    let running = program.start(stage, &[load.namespace(), quiet.namespace()], binary).await;
    let start = first.answered_after(running.started).await.first();
    let figure =
        if has_ca || program == Program::Null { "start to first answer" } else { "start to first answer, CA made" };
    figures.add(name, figure, start, "ms", aim(250.0));

    if program.most() > arguments.burst {
        let before = running.cpu();
        tokio::time::sleep(IDLE).await;
        figures.add(name, "idle, of a core", (running.cpu() - before) / IDLE.as_secs_f64() * 100.0, "%", aim(0.2));

        let waits = load.steady(arguments.steady).await;
        figures.add(name, "created to answered at 20/s, p50", waits.percentile(500), "ms", aim(6.0));
        figures.add(name, "created to answered at 20/s, p99", waits.percentile(990), "ms", aim(60.0));
        load.clear().await;

        // The null signer keeps no queue: what it is slower by, everybody is whose API server is flooded.
        let alone = quiet.steady(arguments.steady).await.percentile(990);
        quiet.clear().await;
        let beside = quiet.steady_beside_a_flood(arguments.steady, load).await.percentile(990);
        figures.add(name, "flood next door: p99 to p99 alone", beside / alone, "x", aim(2.0));
        figures.add(name, "flood next door: p99", beside, "ms", None);
        load.clear().await;
        quiet.clear().await;
    }

    let count = arguments.burst.min(program.most());
    let before = Cost::so_far(stage, &running).await;
    let waits = load.burst(count).await;
    let cost = Cost::so_far(stage, &running).await;
    let each = |after: f64, before: f64| (after - before) / count as f64;
    figures.add(name, RATE, waits.answered_per_second(), "/s", None);
    figures.add(name, "burst: created", waits.created_per_second(), "/s", None);
    figures.add(name, "burst: time to all answered to all created", waits.stretch(), "x", aim(1.05));
    for (figure, thousandths, limit) in [
        ("burst: created to answered, p50", 500, None),
        ("burst: created to answered, p99", 990, aim(80.0)),
        ("burst: created to answered, p99.9", 999, aim(500.0)),
        ("burst: created to answered, longest", 1000, None),
    ] {
        figures.add(name, figure, waits.percentile(thousandths), "ms", limit);
    }
    figures.add(name, CPU, each(cost.own, before.own) * 1e3, "ms", aim(0.3));
    figures.add(name, "CPU of API server and etcd for each", each(cost.server, before.server) * 1e3, "ms", None);
    figures.add(name, "calls to the API server for each", each(cost.calls, before.calls) - 1.0, "", None);
    figures.add(name, MEMORY, running.peak(), "MiB", aim(16.0));
    running.stop();
    waits.answered_per_second()
}

/// Figures that the picture shows.
const RATE: &str = "burst: answered";
const SHARE: &str = "burst: share of null's";
const CPU: &str = "CPU for each";
const MEMORY: &str = "peak memory";
const IDLE: Duration = Duration::from_secs(10);
const QUIET_PODS: usize = 100;

/// What was used so far.
struct Cost {
    /// By whoever answers, in seconds.
    own: f64,
    /// By API server and etcd, in seconds.
    server: f64,
    /// All calls that the API server has answered; one of each request's is its creation.
    calls: f64,
}

impl Cost {
    async fn so_far(stage: &Stage, running: &Running) -> Self {
        let server = stage.bed.server().unwrap();
        Self {
            own: running.cpu(),
            server: server.pids().into_iter().map(program::cpu).sum(),
            calls: metric(stage, "apiserver_request_total{").await,
        }
    }
}

/// The sum of the API server's counters whose lines begin so.
async fn metric(stage: &Stage, start: &str) -> f64 {
    let admin = stage.bed.client(&Who::Admin).await;
    let metrics = call::text(&admin, "/metrics").await.unwrap();
    let lines = metrics.lines().filter(|line| line.starts_with(start));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
