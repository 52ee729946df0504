//! The shipped signer in every respect but one: its own waits are 120 times shorter. For stories that kill it in the middle of what
//! takes hours.
#![expect(clippy::panic, clippy::expect_used, reason = "a story that cannot go on says so by a panic")]

use std::net::TcpListener;

use clap::Parser as _;
use kube::config::{KubeConfigOptions, Kubeconfig};
use podmint_signer::args::{Arguments, Command};
use podmint_signer::audit::Sink;
use podmint_signer::config::{Config, Domains};
use podmint_signer::pace::Pace;
use podmint_signer::run::{Options, client, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// As `tests/it/rotate.rs` has it.
const PACE: u32 = 120;

fn main() {
    let Command::Run(arguments) = Arguments::parse().command else { panic!("only `run` is wanted here") };
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    podmint_devcluster::choose_crypto();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let domains = Domains::parse(&arguments.domains.signer_domain, &arguments.domains.cluster_domain);
        let text = std::fs::read_to_string(arguments.config.expect("--config")).expect("a configuration");
        let file = Kubeconfig::read_from(arguments.kubeconfig.expect("--kubeconfig")).expect("a kubeconfig");
        let way = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
        let options = Options {
            client: client(way.expect("a kubeconfig that leads somewhere")).expect("a client"),
            source: Config::parse(&text, &domains.expect("two domains")).expect("a good configuration").into(),
            namespace: arguments.namespace.expect("--namespace"),
            identity: arguments.identity.expect("--identity"),
            audit: Sink::File(arguments.audit_log),
            listen: arguments.listen.map(|address| TcpListener::bind(address).expect("a free port")),
            guard: arguments.admission_guard.into(),
            pace: Pace::compressed(PACE),
        };
        let stop = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be listened for");
        let told = stop.clone();
        tokio::spawn(async move {
            terminate.recv().await;
            told.cancel();
        });
        run(options, stop).await.expect("the signer stops without an error");
    });
}
