//! The command line: text in, nothing checked but its form.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cluster::guard::Guard;

/// Answers Kubernetes PodCertificateRequests with short-lived X.509 certificates from a CA that it manages.
#[derive(Debug, Parser)]
#[command(name = "podmint-signer", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer requests until told to stop.
    Run(RunArguments),
    /// Check a configuration and print what would be in force.
    Check(CheckArguments),
}

/// What to check.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// File with a stream of `PodSigner` YAML documents.
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// What it is checked against.
    #[command(flatten)]
    pub domains: DomainArguments,
}

/// The domains that PodSigners are checked against.
#[derive(Debug, Args)]
pub struct DomainArguments {
    /// Domain of all signer names of this installation.
    #[arg(long, value_name = "DOMAIN", default_value = "podmint.dev")]
    pub signer_domain: String,
    /// DNS domain of the cluster.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
}

/// How to run.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// File with a stream of `PodSigner` YAML documents; without it the PodSigner objects of the cluster count, and no file does.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What PodSigners are checked against.
    #[command(flatten)]
    pub domains: DomainArguments,
    /// How to reach the API server; in a pod, its ServiceAccount says.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the CA's Secrets and of the Lease; default is the pod's, or that of the kubeconfig.
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Where to serve /metrics, /livez and /readyz; nowhere if absent.
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,
    /// Where the audit log goes: a file, which is appended to, or - for standard output.
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub audit_log: PathBuf,
    /// Whether to sign only while the admission guard (`kubectl podmint guard` prints it) is in force.
    #[arg(long, value_enum, default_value_t = GuardArgument::Required)]
    pub admission_guard: GuardArgument,
    /// Name of this replica in the Lease and in Events; default is the host's name, in a cluster the pod's.
    #[arg(long, value_name = "NAME")]
    pub identity: Option<String>,
    /// How much to log.
    #[arg(long, value_enum, default_value_t = LogLevel::Info)]
    pub log: LogLevel,
    /// For people or for machines. The log goes to standard error.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// See [`Guard`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum GuardArgument {
    /// Hold new requests while it is missing or not bound.
    Required,
    /// Do not look for it.
    Off,
}

impl From<GuardArgument> for Guard {
    fn from(argument: GuardArgument) -> Self {
        match argument {
            GuardArgument::Required => Self::Required,
            GuardArgument::Off => Self::Off,
        }
    }
}

/// How much to log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogLevel {
    /// What somebody must do something about.
    Error,
    /// What somebody should know.
    Warn,
    /// One line for each answer.
    Info,
    /// Every call.
    Debug,
}

/// In which form.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// An object a line.
    Json,
}
