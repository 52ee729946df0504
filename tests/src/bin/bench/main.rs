//! The figures: how fast the signer answers, next to what the API server takes when nobody signs, and what it costs.
//!
//! `cargo run --release -p podmint-tests --bin bench -- [--json]`. Everything runs on this machine, so the API server, etcd and
//! this program share its cores with whoever answers; read the figures as what one machine gives to all of them together. What
//! does not depend on who else uses the machine is the time that each process computes.
//!
//! In each round every program is started anew, and the API server with it, with the same rights, for the same pods; it answers one
//! request that waits already, then a quiet namespace's trickle, then the same beside another namespace's flood, then a burst, then
//! the same pods once more. Those who ask are kubelets to the API server. `--watchers 1000` adds what a thousand kubelets hold open;
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

mod cost;
mod figures;
mod floor;
mod load;
mod names;
mod null;
mod picture;
mod program;
mod turn;
mod waited;

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use figures::Figures;
use load::Load;
use podmint_tests::server::Settings;
use podmint_tests::stage::Stage;
use podmint_tests::{Bed, assets, install};
use program::Program;
use serde_json::{Value, json};
use turn::{Ceiling, Ground, Turn};

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
    /// Requests in the burst, and in the one after it.
    #[arg(long, default_value_t = 2000)]
    burst: usize,
    /// Pods that the requests are for; when there are fewer than requests, some ask again.
    #[arg(long, default_value_t = 2000)]
    pods: usize,
    /// Requests at the steady rate of 20 a second, alone and beside the flood. Of all rounds together, 400 give a p99.
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
        /// Who starts: with `ours3` it also says what the replicas cost that only look on.
        #[arg(long, default_value = "ours")]
        program: Program,
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
            show(&figures, json!({"part": "names"}), arguments.json);
        }
        Some(Part::Listed { count, program }) => {
            let mut figures = Figures::default();
            tokio::runtime::Runtime::new().unwrap().block_on(listed(&arguments, count, program, &mut figures));
            show(
                &figures,
                json!({"part": "listed", "kubernetes": assets::VERSIONS[0], "requests": count}),
                arguments.json,
            );
        }
        None => tokio::runtime::Runtime::new().unwrap().block_on(bench(arguments)),
    }
}

async fn bench(arguments: Arguments) {
    let binary = arguments.binary.clone().unwrap_or_else(program::shipped);
    let (floor, path) = floor::measure();
    eprintln!("starting a control plane …");
    let bed = Bed::own(Settings { recorded: false, ..Settings::of(assets::VERSIONS[0]) }).await;
    let stage = Stage::open(&bed, "bench").await;
    if arguments.flow_schema {
        install::flow_schema(&bed, &stage.namespace).await;
    }
    let ground = ground(&arguments, &stage, &binary).await;
    let mut figures = Figures::default();
    for round in 1..=arguments.rounds {
        let (mut ceiling, mut costs) = (Ceiling::new(), Vec::new());
        for program in &arguments.programs {
            eprintln!("round {round}, {}", program.name());
            costs.push((*program, Turn::take(&ground, *program, &mut ceiling, &mut figures).await));
        }
        compare(&costs, floor, &mut figures);
    }
    figures.add("ours", FLOOR, floor * 1e3, "ms", None);
    figures.add("ours", "CPU of the pure path, to the cryptography's", path / floor, "x", Some(1.1));
    let size = std::fs::metadata(&binary).unwrap().len();
    figures.add("ours", "binary size", size as f64 / 1e6, "MB", Some(10.0));
    if arguments.flow_schema {
        let used =
            cost::metric(&stage, "apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"podmint-signer\"")
                .await;
        assert!(used > 0.0, "the API server led no call through the chart's FlowSchema");
    }
    if !arguments.json {
        println!("\n{}", headline(&arguments));
        println!(
            "In brackets: the least and the most that a round gave. Percentiles are those of all rounds together.\n"
        );
    }
    show(&figures, about(&arguments), arguments.json);
    if let Some(file) = &arguments.picture {
        std::fs::write(file, picture::draw(&figures, &headline(&arguments))).expect("the picture can be written");
    }
}

async fn ground<'a>(arguments: &'a Arguments, stage: &'a Stage, binary: &'a Path) -> Ground<'a> {
    eprintln!("{} pods …", arguments.pods);
    let load = Load::make(stage, arguments.pods).await;
    // Another namespace, whose requests the same signer answers.
    let quiet = Stage::open(&stage.bed, "quiet").await.answering_for(&stage.signer_name);
    let quiet = Load::make(&quiet, arguments.steady).await;
    Ground { arguments, stage, binary, load, quiet }
}

/// What a certificate of a burst costs ours, next to what it costs others in the same round.
fn compare(costs: &[(Program, f64)], floor: f64, figures: &mut Figures) {
    let go = costs.iter().find(|(program, _)| *program == Program::Go).map(|(_, cpu)| *cpu);
    for (program, cpu) in costs.iter().filter(|(program, _)| program.is_ours()) {
        let aim = |aim: f64| (*program == Program::Ours).then_some(aim);
        if let Some(go) = go {
            figures.add(program.name(), "burst: CPU to plain Go's", cpu / go, "x", aim(0.5));
        }
        figures.add(program.name(), "burst: CPU to the cryptography's", cpu / floor, "x", aim(2.5));
    }
}

/// A signer that starts where requests have piled up: more than a cluster of five thousand nodes has within a quarter of an hour.
async fn listed(arguments: &Arguments, count: usize, program: Program, figures: &mut Figures) {
    let binary = arguments.binary.clone().unwrap_or_else(program::shipped);
    let bed = Bed::own(Settings { recorded: false, ..Settings::of(assets::VERSIONS[0]) }).await;
    let stage = Stage::open(&bed, "listed").await;
    let load = Load::make(&stage, arguments.pods).await;
    eprintln!("{count} requests …");
    let pile = load.pile(count).await;
    let running = program.start(&stage, &[load.namespace()], &binary).await;
    let waits = pile.answered_after(running.started).await;
    let name = program.name();
    figures.add(name, "start to first answer", waits.first(), "ms", None);
    figures.add(name, "answered", waits.answered_per_second(), "/s", None);
    figures.add(name, "CPU for each", running.cpu() / count as f64 * 1e3, "ms", None);
    if let Some(cpu) = running.cpu_of_a_standby() {
        figures.add(name, "CPU for each, of a standby", cpu / count as f64 * 1e3, "ms", None);
    }
    figures.add(name, "peak memory", running.peak(), "MiB", Some(48.0));
    running.stop();
    // Once more: all are there, and answered.
    let first = load.first().await;
    let running = program.start(&stage, &[load.namespace()], &binary).await;
    let start = first.answered_after(running.started).await.first();
    figures.add(name, "start to first answer, all others answered", start, "ms", None);
    figures.add(name, "peak memory, all others answered", running.peak(), "MiB", Some(48.0));
    running.stop();
}

/// One line of JSON, or a table.
fn show(figures: &Figures, mut about: Value, json: bool) {
    if json {
        about["figures"] = figures.json();
        println!("{about}");
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

/// The same for machines.
fn about(arguments: &Arguments) -> Value {
    let Arguments { rounds, burst, pods, steady, watchers, flow_schema, .. } = arguments;
    json!({
        "part": "programs", "kubernetes": assets::VERSIONS[0], "rounds": rounds, "burst": burst, "pods": pods, "steady": steady,
        "watchers": watchers, "flowSchema": flow_schema,
    })
}

/// What the picture shows beside the programs' own.
const FLOOR: &str = "CPU of the cryptography alone, each";
