//! The operator's command: reads arguments and the kubeconfig, chooses the cryptography, prints what comes out.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use anyhow::{Context, Result, anyhow};
use clap::Parser;
use kube::config::{KubeConfigOptions, Kubeconfig};
use podmint_signer::{
    kubectl::{
        Installation,
        args::{Arguments, ClusterArguments, Command, DoctorArguments, InstallationArguments, Output},
        doctor::{COULD_NOT_LOOK, examine},
    },
    names::{DnsName, Namespace},
};
use time::OffsetDateTime;

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Doctor(arguments) => doctor(&arguments),
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

fn doctor(arguments: &DoctorArguments) -> Result<u8> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_other| anyhow!("another cryptographic provider is installed already"))?;
    let installation = installation(&arguments.installation)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let report = runtime.context("could not start the runtime")?.block_on(async {
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
                .with_context(|| format!("could not read the kubeconfig {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &options).await
        }
        None => kube::Config::from_kubeconfig(&options).await,
    }
    .context("the kubeconfig leads to no API server")
}

fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("could not print")
}

#[expect(clippy::disallowed_methods, reason = "this machine's clock is one of the things that are looked at")]
fn local_time() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
