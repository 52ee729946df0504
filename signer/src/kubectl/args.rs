//! The command line of `kubectl podmint`: text in, nothing checked but its form.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Looks after Podmint with your kubeconfig and your rights.
#[derive(Debug, Parser)]
#[command(name = "kubectl-podmint", bin_name = "kubectl podmint", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Find what keeps pods from their certificates, and say how to mend it.
    ///
    /// Exit status: 0 when nothing is broken, 1 when something is, 2 when nothing that was seen is broken but something could not
    /// be looked at. Nothing is changed: what has to be tried is tried as a dry run.
    Doctor(DoctorArguments),
    /// Print the admission guard as it is to be applied: `kubectl podmint guard | kubectl apply -f -`.
    Guard(InstallationArguments),
}

/// How to look.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
    /// Which installation.
    #[command(flatten)]
    pub installation: InstallationArguments,
    /// For people or for machines.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Which cluster, and as whom.
#[derive(Debug, Args)]
pub struct ClusterArguments {
    /// The kubeconfig; default is kubectl's.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; default is the current one.
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
}

/// What the installation's parts are named after.
#[derive(Debug, Args)]
pub struct InstallationArguments {
    /// Domain of all signer names of this installation.
    #[arg(long, value_name = "DOMAIN", default_value = "podmint.dev")]
    pub signer_domain: String,
    /// Namespace that the signer runs in.
    #[arg(long, value_name = "NAMESPACE", default_value = "podmint-system")]
    pub namespace: String,
}

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for people.
    Text,
    /// One object.
    Json,
}
