//! The operator's command: reads arguments and the kubeconfig, chooses the cryptography, prints what comes out.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use podmint_signer::{
    kubectl::{
        Installation,
        args::{
            Arguments, ClusterArguments, Command, DoctorArguments, ExplainArguments, InstallationArguments, Output,
        },
        doctor::{COULD_NOT_LOOK, examine},
        explain::{self, Question, Which},
    },
    names::{DnsName, Namespace, PodName},
};
use serde_json::Value;
use time::OffsetDateTime;

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Doctor(arguments) => doctor(&arguments),
        Command::Explain(arguments) => explain(&arguments),
        Command::Guard(arguments) => installation(&arguments).and_then(|it| print(&it.guard())).map(|()| 0),
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
    let explanation = runtime()?.block_on(async {
        let config = config(&arguments.cluster).await?;
        let question = question(arguments, &config.default_namespace)?;
        explain::explain(config, question).await.context("could not explain")
    })?;
    print(&match arguments.output {
        Output::Text => explanation.to_string(),
        Output::Json => format!("{}\n", explanation.to_json()),
    })?;
    Ok(explanation.exit_status())
}

fn question(arguments: &ExplainArguments, context: &str) -> Result<Question> {
    let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()));
    let (pod, of_manifest) = match (&arguments.pod, &arguments.filename) {
        (Some(pod), _) => {
            let name = pod.strip_prefix("pod/").or_else(|| pod.strip_prefix("pods/")).unwrap_or(pod);
            (Which::Named(PodName::parse(name).context("write pod/NAME")?), None)
        }
        (None, Some(path)) => {
            let manifests: Vec<Value> =
                serde_saphyr::from_multiple(&read(path)?).with_context(|| format!("{} is no YAML", path.display()))?;
            let manifest = manifests.into_iter().next().with_context(|| format!("{} is empty", path.display()))?;
            let namespace = manifest.pointer("/metadata/namespace").and_then(Value::as_str).map(str::to_owned);
            (Which::Planned(manifest), namespace)
        }
        (None, None) => return Err(anyhow!("name a pod, as pod/NAME, or a file by -f")),
    };
    let namespace = arguments.namespace.clone().or(of_manifest).unwrap_or_else(|| context.to_owned());
    Ok(Question {
        installation: Installation {
            domain: DnsName::parse(&arguments.signer_domain).context("--signer-domain is no domain")?,
            namespace: Namespace::parse(&arguments.signer_namespace).context("--signer-namespace is no namespace")?,
        },
        cluster_domain: DnsName::parse(&arguments.cluster_domain).context("--cluster-domain is no domain")?,
        config: arguments.config.as_deref().map(read).transpose()?,
        namespace: Namespace::parse(&namespace).context("--namespace is no namespace")?,
        pod,
    })
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_other| anyhow!("another cryptographic provider is installed already"))?;
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("could not start the runtime")
}

fn doctor(arguments: &DoctorArguments) -> Result<u8> {
    let installation = installation(&arguments.installation)?;
    let report = runtime()?.block_on(async {
        let config = config(&arguments.cluster).await?;
        examine(config, &installation, local_time).await.context("could not look at the cluster")
    })?;
    print(&match arguments.output {
        Output::Text => report.to_string(),
        Output::Json => format!("{}\n", report.to_json()),
    })?;
    Ok(report.exit_status())
}

fn installation(arguments: &InstallationArguments) -> Result<Installation> {
    let InstallationArguments { signer_domain, namespace } = arguments;
    let domain = DnsName::parse(signer_domain).context("--signer-domain is no domain")?;
    let namespace = Namespace::parse(namespace).context("--namespace is no namespace")?;
    Ok(Installation { domain, namespace })
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
