//! The command: reads arguments and files, chooses the cryptography, runs the signer, and hands it another configuration when the
//! file changes.

use std::{
    io::{IsTerminal, Write},
    net::TcpListener,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use podmint_signer::{
    args::{Arguments, Command, DomainArguments, LogFormat, LogLevel, RunArguments},
    audit::Sink,
    config::{Config, Domains},
    pace::Pace,
    run::{Options, Source, run},
};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// That of the image's libc is slow. This one takes as little memory, and hardly more than one thread asks for it.
#[global_allocator]
static ALLOCATOR: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

fn main() -> ExitCode {
    match command() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told when this fails.
            drop(writeln!(std::io::stderr(), "podmint-signer: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn command() -> Result<()> {
    match Arguments::parse().command {
        Command::Check(arguments) => {
            let report = read(&arguments.config, &domains(&arguments.domains)?)?.1.report();
            writeln!(std::io::stdout(), "{}", report.trim_end()).context("could not print the report")
        }
        Command::Run(arguments) => {
            let (lost, _written) = start_log(arguments.log, arguments.log_format)?;
            leave_no_dump().context("could not switch core dumps off: they would hold the CA's key")?;
            rustls::crypto::ring::default_provider()
                .install_default()
                .map_err(|_other| anyhow!("another cryptographic provider is installed already"))?;
            // One thread: the work is a third of a millisecond for each certificate, and what it waits for is the network.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.context("could not start the runtime")?.block_on(serve(arguments, lost))
        }
    }
}

async fn serve(arguments: RunArguments, lost: ErrorCounter) -> Result<()> {
    tokio::spawn(tell_lost_lines(lost));
    let domains = domains(&arguments.domains)?;
    let source = match &arguments.config {
        Some(path) => Source::Documents(follow(path.clone(), domains)?),
        None => Source::Objects(domains),
    };
    let client = client(arguments.kubeconfig.as_deref()).await?;
    let options = Options {
        source,
        namespace: arguments.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned()),
        client,
        identity: arguments.identity.clone().unwrap_or_else(host_name),
        audit: sink(&arguments.audit_log),
        listen: arguments.listen.map(TcpListener::bind).transpose().context("could not listen where --listen says")?,
        guard: arguments.admission_guard.into(),
        pace: Pace::real(),
    };
    let stop = CancellationToken::new();
    tokio::spawn(cancel_on_signal(stop.clone())?);
    run(options, stop).await.context("the signer failed")
}

/// Reads the file, and again and again after. A bad one changes nothing but the log.
fn follow(path: PathBuf, domains: Domains) -> Result<watch::Receiver<Config>> {
    let (mut text, config) = read(&path, &domains)?;
    let (out, config) = watch::channel(config);
    tokio::spawn(async move {
        let mut said = None;
        while !out.is_closed() {
            tokio::time::sleep(LOOK_AGAIN).await;
            match read(&path, &domains) {
                Ok((again, _)) if again == text => said = None,
                Ok((changed, config)) => {
                    tracing::info!("the configuration has changed");
                    (text, said) = (changed, None);
                    out.send_replace(config);
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    if said.as_ref() != Some(&error) {
                        tracing::error!(
                            error,
                            "the configuration has changed and is not good; the last good one stays"
                        );
                        said = Some(error);
                    }
                }
            }
        }
    });
    Ok(config)
}

fn domains(arguments: &DomainArguments) -> Result<Domains> {
    let DomainArguments { signer_domain, cluster_domain } = arguments;
    Domains::parse(signer_domain, cluster_domain).context("--signer-domain or --cluster-domain is no domain")
}

fn read(path: &Path, domains: &Domains) -> Result<(String, Config)> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("could not read the configuration {}: give its path with --config", path.display()))?;
    let config =
        Config::parse(&text, domains).with_context(|| format!("the configuration {} is not good", path.display()))?;
    Ok((text, config))
}

async fn client(kubeconfig: Option<&Path>) -> Result<kube::Client> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .map_err(told_once)
                .with_context(|| format!("could not read the kubeconfig {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(told_once)
                .with_context(|| format!("the kubeconfig {} leads to no API server", path.display()))?
        }
        None => kube::Config::incluster().context("this is no pod with a ServiceAccount: give --kubeconfig")?,
    };
    config.connect_timeout = Some(CONNECT);
    podmint_signer::run::client(config).context("could not make a client for the API server")
}

/// kube's message ends with its cause's; both would be printed.
fn told_once(error: KubeconfigError) -> anyhow::Error {
    anyhow!(error.to_string())
}

fn cancel_on_signal(stop: CancellationToken) -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("could not listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("could not listen for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop: finishing what is in flight");
        stop.cancel();
    })
}

/// Lines go to a thread, and those that it cannot write in time are lost: whoever reads them, or does not, holds up no certificate. What was
/// lost is counted; what waits is written when the guard is dropped.
fn start_log(level: LogLevel, format: LogFormat) -> Result<(ErrorCounter, WorkerGuard)> {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
    };
    // Of other crates only what is wrong; kube's client reports every failed call, as we do.
    let targets = Targets::new()
        .with_default(tracing::Level::WARN)
        .with_target("podmint_signer", level)
        .with_target("kube_client", tracing::level_filters::LevelFilter::OFF);
    let colours = std::io::stderr().is_terminal();
    let (writer, written) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MOST_LINES).finish(std::io::stderr());
    let lost = writer.error_counter();
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colours);
    let log = tracing_subscriber::registry().with(targets);
    match format {
        LogFormat::Text => log.with(lines).try_init(),
        LogFormat::Json => log.with(lines.json()).try_init(),
    }
    .context("could not start the log")?;
    Ok((lost, written))
}

async fn tell_lost_lines(counter: ErrorCounter) {
    let mut before = 0;
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        let lost = counter.dropped_lines();
        if lost > before {
            tracing::warn!(lost, "lines of this log were lost: nobody took them in time");
            before = lost;
        }
    }
}

/// Before any key is read: a core dump would hold it. The limit keeps dumps from files, but not from a pipe of `core_pattern`; not
/// being dumpable keeps them from both, and the memory from other processes of the same user.
fn leave_no_dump() -> std::io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

fn sink(path: &Path) -> Sink {
    if path.as_os_str() == "-" { Sink::Stdout } else { Sink::File(path.to_path_buf()) }
}

/// In a pod, the pod's name.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { format!("podmint-signer-{}", std::process::id()) } else { name.to_owned() }
}

/// How often the configuration is read; a mounted file changes without a sign.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// Lines of the log that may wait to be written.
const MOST_LINES: usize = 1_000;
const CONNECT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_leaves_no_dump_is_not_dumpable_and_has_no_room_for_one() {
        leave_no_dump().unwrap();
        let limit = rustix::process::getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        #[cfg(target_os = "linux")]
        assert_eq!(rustix::process::dumpable_behavior(), Ok(rustix::process::DumpableBehavior::NotDumpable));
    }
}
