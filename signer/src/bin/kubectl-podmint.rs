//! The operator's command: reads arguments and the kubeconfig, chooses the cryptography, prints what comes out.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow};
use clap::{CommandFactory, Parser};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use podmint_signer::{
    kubectl::{
        Installation,
        args::{
            Arguments, ClusterArguments, Command, CommonArguments, DoctorArguments, ExplainArguments, HoldArguments,
            InstallationArguments, Output, ReleaseArguments, RequestsArguments,
        },
        ca::{
            CaError, Outcome,
            args::{BackupArguments, CaCommand, KeysCommand, OfSigner, Place, ResetArguments},
            backup, order, reset, restore,
        },
        complete,
        doctor::{COULD_NOT_LOOK, examine},
        explain::{self, Question, Which},
        hold::{self, Order},
        requests::pending,
        shown::Shown,
        status,
    },
    names::{DnsName, Namespace, PodName},
    pipeline::Scope,
};
use serde_json::Value;
use time::OffsetDateTime;
use zeroize::Zeroizing;

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Doctor(arguments) => doctor(&arguments),
        Command::Explain(arguments) => explain(&arguments),
        Command::Requests(arguments) => requests(&arguments),
        Command::Hold(arguments) => hold(arguments),
        Command::Release(arguments) => release(arguments),
        Command::Status(arguments) => status(&arguments),
        Command::Completion => print(complete::SCRIPT).map(|()| 0),
        Command::Complete { words } => print(&complete::reply(&Arguments::command(), &words)).map(|()| 0),
        Command::Guard(arguments) => installation(&arguments).and_then(|it| print(&it.guard())).map(|()| 0),
        Command::Authority(command) => authority(&command),
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            // Nobody is left to be told when this fails.
            drop(writeln!(io::stderr(), "kubectl podmint: {error:#}"));
            ExitCode::from(COULD_NOT_LOOK)
        }
    }
}

fn explain(arguments: &ExplainArguments) -> Result<u8> {
    let explanation = asking(&arguments.common.cluster, async |config| {
        let question = question(arguments, &config.default_namespace)?;
        explain::explain(config, question).await.context("could not explain")
    })?;
    show(&explanation, arguments.common.output)
}

fn requests(arguments: &RequestsArguments) -> Result<u8> {
    let installation = signer(&arguments.common)?;
    let pending = asking(&arguments.common.cluster, async |config| {
        let namespace = arguments.namespace.as_ref().unwrap_or(&config.default_namespace);
        let namespace = Namespace::parse(namespace).context("--namespace is no namespace")?;
        let namespace = (!arguments.all_namespaces).then_some(&namespace);
        pending(config, installation, namespace).await.context("could not look at requests")
    })?;
    show(&pending, arguments.common.output)
}

fn hold(arguments: HoldArguments) -> Result<u8> {
    let HoldArguments { what, reason, absent, namespace, common } = arguments;
    let order = |context: &str| {
        Ok(match scope(&what, namespace.as_deref().unwrap_or(context))? {
            None => Order::List,
            Some(scope) => Order::Hold { scope, reason, absent },
        })
    };
    carry_out(order, &common)
}

fn release(arguments: ReleaseArguments) -> Result<u8> {
    let ReleaseArguments { what, all, entry, namespace, common } = arguments;
    let order = |context: &str| {
        Ok(match (scope(&what, namespace.as_deref().unwrap_or(context))?, entry) {
            (Some(scope), _) => Order::Release(scope),
            (None, Some(key)) => Order::ReleaseKey(key),
            (None, None) if all => Order::ReleaseAll,
            (None, None) => return Err(anyhow!("say what to release, as node/worker-3; or --all")),
        })
    };
    carry_out(order, &common)
}

fn carry_out(order: impl FnOnce(&str) -> Result<Order>, common: &CommonArguments) -> Result<u8> {
    let installation = signer(common)?;
    let standing = asking(&common.cluster, async |config| {
        let order = order(&config.default_namespace)?;
        Ok(hold::hold(config, installation, order).await?)
    })?;
    show(&standing, common.output)
}

/// `node/worker-3` or `node worker-3`; nothing of nothing.
fn scope(what: &[String], namespace: &str) -> Result<Option<Scope>> {
    let (kind, name) = match what {
        [] => return Ok(None),
        [both] => both.split_once('/').with_context(|| format!("write KIND/NAME, as node/worker-3, not {both:?}"))?,
        [kind, name, ..] => (kind.as_str(), name.as_str()),
    };
    Ok(Some(Scope::parse(kind, Some(namespace), name)?))
}

fn status(common: &CommonArguments) -> Result<u8> {
    let installation = signer(common)?;
    let status = asking(&common.cluster, async |config| {
        status::status(config, &installation).await.context("could not look at the installation")
    })?;
    show(&status, common.output)
}

fn show(result: &impl Shown, output: Output) -> Result<u8> {
    print(&result.shown(output).context("could not write YAML")?)?;
    Ok(result.exit_status())
}

fn signer(common: &CommonArguments) -> Result<Installation> {
    let CommonArguments { signer_domain, signer_namespace, cluster_domain, cluster: _, output: _ } = common;
    Ok(Installation {
        domain: DnsName::parse(signer_domain).context("--signer-domain is no domain")?,
        namespace: Namespace::parse(signer_namespace).context("--signer-namespace is no namespace")?,
        cluster_domain: DnsName::parse(cluster_domain).context("--cluster-domain is no domain")?,
    })
}

fn question(arguments: &ExplainArguments, context: &str) -> Result<Question> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()));
    let (pod, of_manifest) = match (named_pod(&arguments.pod)?, &arguments.filename) {
        (Some(name), _) => (Which::Named(PodName::parse(name).context("write pod/NAME")?), None),
        (None, Some(path)) => {
            let manifests: Vec<Value> =
                serde_saphyr::from_multiple(&read(path)?).with_context(|| format!("{} is no YAML", path.display()))?;
            let manifest = pod_among(manifests).with_context(|| format!("could not explain {}", path.display()))?;
            let namespace = manifest.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
            (Which::Planned(manifest), namespace)
        }
        (None, None) => return Err(anyhow!("name a pod, as pod/NAME, or a file by -f")),
    };
    let namespace = arguments.namespace.clone().or(of_manifest).unwrap_or_else(|| context.to_owned());
    Ok(Question {
        installation: signer(&arguments.common)?,
        config: arguments.config.as_deref().map(read).transpose()?,
        namespace: Namespace::parse(&namespace).context("--namespace is no namespace")?,
        pod,
    })
}

/// `pod/NAME`, `pod NAME` or `NAME`; nothing of nothing.
fn named_pod(words: &[String]) -> Result<Option<&str>> {
    let (kind, name) = match words {
        [] => return Ok(None),
        [word] => word.split_once('/').unwrap_or(("pod", word)),
        [kind, name, ..] => (kind.as_str(), name.as_str()),
    };
    match kind {
        "pod" | "pods" | "po" => Ok(Some(name)),
        _ => Err(anyhow!("only a pod can be explained: write pod/NAME, not {:?}", words.join(" "))),
    }
}

/// The one pod of a file, which may hold other objects beside it.
fn pod_among(manifests: Vec<Value>) -> Result<Value> {
    let kind = |manifest: &Value| manifest.get("kind").and_then(Value::as_str).map(str::to_owned);
    let kinds: Vec<String> = manifests.iter().filter_map(kind).collect();
    let mut pods = manifests.into_iter().filter(|manifest| kind(manifest).as_deref() == Some("Pod"));
    match (pods.next(), pods.next()) {
        (Some(pod), None) => Ok(pod),
        (Some(_), Some(_)) => Err(anyhow!("there are several pods in it: write each into a file of its own")),
        (None, _) if kinds.is_empty() => Err(anyhow!("there is no object in it: it must hold the manifest of a pod")),
        (None, _) => Err(anyhow!(
            "there is no pod in it, only {}: write a pod as the controller would make it, with kind: Pod",
            kinds.join(", ")
        )),
    }
}

fn authority(command: &CaCommand) -> Result<u8> {
    match command {
        CaCommand::Rotate(arguments) => order(&arguments.of, arguments.order()),
        CaCommand::Pause(of) => order(of, order::Order::Pause),
        CaCommand::Resume(of) => order(of, order::Order::Resume),
        CaCommand::Withdraw(arguments) => order(&arguments.of, order::Order::Withdraw { confirmed: arguments.confirm }),
        CaCommand::Ca(KeysCommand::Backup(BackupArguments { of: OfSigner { signer, place }, to })) => {
            let taken = at(place, async |config, installation| backup::backup(config, installation, signer).await)?;
            save(to, &taken.file)?;
            // Where the file goes to standard output, nothing else may.
            io::stderr().write_all(taken.text.as_bytes()).context("could not print")?;
            Ok(0)
        }
        CaCommand::Ca(KeysCommand::Restore(arguments)) => {
            let file = Zeroizing::new(load(&arguments.file)?);
            let sure = arguments.sure();
            told(&at(&arguments.place, async |config, it| restore::restore(config, it, &file, sure).await)?)
        }
        CaCommand::Ca(KeysCommand::Reset(ResetArguments { of: OfSigner { signer, place }, accept_new_root })) => {
            told(&at(place, async |config, it| reset::reset(config, it, signer, *accept_new_root).await)?)
        }
    }
}

fn order(of: &OfSigner, wanted: order::Order) -> Result<u8> {
    let OfSigner { signer, place } = of;
    told(&at(place, async |config, installation| order::order(config, installation, signer, wanted).await)?)
}

/// Does this in the cluster and for the installation that are named.
fn at<T>(place: &Place, act: impl AsyncFnOnce(kube::Config, Installation) -> Result<T, CaError>) -> Result<T> {
    let installation = installation(&place.installation)?;
    asking(&place.cluster, async |config| Ok(act(config, installation).await?))
}

fn told(outcome: &Outcome) -> Result<u8> {
    print(&outcome.text)?;
    Ok(outcome.exit_status())
}

/// A file that nobody else may read, and that was not there; or standard output, where that is asked for.
fn save(to: &Path, file: &[u8]) -> Result<()> {
    if to == Path::new("-") {
        return io::stdout().lock().write_all(file).context("could not write to standard output");
    }
    let mut new = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .with_context(|| format!("could not make {}: an old backup is never written over", to.display()))?;
    let written = new.write_all(file).and_then(|()| new.sync_all());
    if written.is_err() {
        // Half a backup is none.
        drop(fs::remove_file(to));
    }
    written.with_context(|| format!("could not write {}", to.display()))
}

fn load(from: &Path) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    if from == Path::new("-") {
        io::stdin().lock().read_to_end(&mut file).context("could not read standard input")?;
    } else {
        file = fs::read(from).with_context(|| format!("could not read {}", from.display()))?;
    }
    Ok(file)
}

/// Asks the API server that is named; what goes wrong says which one that was.
fn asking<T>(cluster: &ClusterArguments, ask: impl AsyncFnOnce(kube::Config) -> Result<T>) -> Result<T> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_other| anyhow!("another cryptographic provider is installed already"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("could not start the runtime")?.block_on(async {
        let config = config(cluster).await?;
        let server = config.cluster_url.to_string();
        ask(config).await.with_context(|| format!("asking {}", server.trim_end_matches('/')))
    })
}

fn doctor(arguments: &DoctorArguments) -> Result<u8> {
    let installation = installation(&arguments.installation)?;
    let report = asking(&arguments.cluster, async |config| {
        examine(config, &installation, local_time).await.context("could not look at the cluster")
    })?;
    show(&report, arguments.output)
}

fn installation(arguments: &InstallationArguments) -> Result<Installation> {
    let InstallationArguments { signer_domain, namespace, cluster_domain } = arguments;
    Ok(Installation {
        domain: DnsName::parse(signer_domain).context("--signer-domain is no domain")?,
        namespace: Namespace::parse(namespace).context("--namespace is no namespace")?,
        cluster_domain: DnsName::parse(cluster_domain).context("--cluster-domain is no domain")?,
    })
}

async fn config(arguments: &ClusterArguments) -> Result<kube::Config> {
    let options = KubeConfigOptions { context: arguments.context.clone(), ..KubeConfigOptions::default() };
    match &arguments.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .map_err(told_once)
                .with_context(|| format!("could not read the kubeconfig {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &options).await
        }
        None => kube::Config::from_kubeconfig(&options).await,
    }
    .map_err(told_once)
    .context("the kubeconfig leads to no API server")
}

/// kube's message ends with its cause's; both would be printed.
fn told_once(error: KubeconfigError) -> anyhow::Error {
    anyhow!(error.to_string())
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("could not print")
}

#[expect(clippy::disallowed_methods, reason = "this machine's clock is one of the things that are looked at")]
fn local_time() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
