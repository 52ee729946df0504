//! `devcluster`: the embedded API server as a process, for a look with kubectl or curl.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use podmint_devcluster::node::{NodeAgent, NodeOptions};
use podmint_devcluster::{DevCluster, Identity, Options, Versions};

/// Starts an embedded API server on loopback and prints the path of a kubeconfig for its administrator.
#[derive(Debug, Parser)]
struct Args {
    /// Where to write the kubeconfig; nobody else may read it.
    #[arg(long, default_value = "devcluster.kubeconfig")]
    kubeconfig: PathBuf,
    /// The Kubernetes release to imitate: 1.37, 1.37-beta, 1.36 or 1.35.
    #[arg(long, default_value = "1.37", value_parser = versions)]
    kubernetes: Versions,
    /// A node to run an agent for; may be given several times.
    #[arg(long = "node")]
    nodes: Vec<String>,
    /// Where the agents put the volumes of pods.
    #[arg(long, default_value = "devcluster-volumes")]
    volumes: PathBuf,
}

fn versions(text: &str) -> Result<Versions, String> {
    match text {
        "1.37" => Ok(Versions::V1_37),
        "1.37-beta" => Ok(Versions::V1_37WithBeta),
        "1.36" => Ok(Versions::V1_36),
        "1.35" => Ok(Versions::V1_35),
        other => Err(format!("{other:?} is not one of 1.37, 1.37-beta, 1.36, 1.35")),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let cluster = DevCluster::start(Options { versions: args.kubernetes, ..Options::default() }).await?;
    let mut agents = Vec::new();
    for node in &args.nodes {
        let client = cluster.try_client(&Identity::node(node))?;
        let options =
            NodeOptions { kubelet: args.kubernetes.kubelet(), ..NodeOptions::new(node, args.volumes.join(node)) };
        agents.push(NodeAgent::start(client, options).await?);
    }
    write_private(&args.kubeconfig, &cluster.kubeconfig(&Identity::Admin))?;
    writeln!(std::io::stdout(), "{}", args.kubeconfig.display()).context("could not print the path")?;
    tokio::signal::ctrl_c().await.context("could not wait for Ctrl-C")?;
    std::fs::remove_file(&args.kubeconfig).context("could not remove the kubeconfig")
}

/// The file holds an administrator's token.
fn write_private(path: &PathBuf, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let opened = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("could not write {}", path.display()))
}
