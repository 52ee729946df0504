//! The command line of `kubectl podmint`: text in, nothing checked but its form.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::ca::args::CaCommand;

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
    /// Say whether a pod would get a certificate, with which names and by which rule; or what holds or denies it.
    ///
    /// Exit status: 0 when each source of the pod gets its certificate, 1 when one does not, 2 when something could not be read.
    Explain(ExplainArguments),
    /// List what is pending, and why.
    ///
    /// Exit status: 0 when nothing is, 1 when something is, 2 when something could not be read.
    Requests(RequestsArguments),
    /// Put a pod, a ServiceAccount, a node or a namespace on hold; without one, list what is on hold.
    ///
    /// From then on nothing is issued or renewed for its pods, by any replica, until it is released. What was issued before is not revoked:
    /// it is listed, with the time until when it is good.
    ///
    /// Exit status: 0 when all holds are in force, 1 when an entry holds nobody, 2 when nothing could be changed or something not be read.
    Hold(HoldArguments),
    /// Release what is on hold.
    Release(ReleaseArguments),
    /// Say how the installation is: its signer, its PodSigners, what is pending and on hold.
    ///
    /// Exit status: 0 when every PodSigner issues and every hold is in force, 1 when not, 2 when something could not be read.
    Status(CommonArguments),
    /// Print what gives kubectl completions of these commands: `kubectl podmint completion > ~/bin/kubectl_complete-podmint`, and make it
    /// executable.
    Completion,
    /// What could stand next: kubectl asks for it.
    #[command(name = "__complete", hide = true)]
    Complete {
        /// The words so far, of which the last is not finished.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
    /// Print the admission guard as it is to be applied: `kubectl podmint guard | kubectl apply -f -`.
    Guard(InstallationArguments),
    /// What a CA's administrator does.
    #[command(flatten)]
    Authority(CaCommand),
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

/// Which pod, and by which configuration.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The pod.
    #[arg(value_name = "pod/NAME", num_args = 0..=2, required_unless_present = "filename")]
    pub pod: Vec<String>,
    /// A manifest of a pod that is not there yet.
    #[arg(short, long, value_name = "FILE", conflicts_with = "pod")]
    pub filename: Option<PathBuf>,
    /// Namespace of the pod; default is the manifest's, or that of the context.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// A file with PodSigners to go by, in place of those in the cluster: what would it change?
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What these commands share.
    #[command(flatten)]
    pub common: CommonArguments,
}

/// Which requests.
#[derive(Debug, Args)]
pub struct RequestsArguments {
    /// Namespace of the requests; default is that of the context.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Those of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// What these commands share.
    #[command(flatten)]
    pub common: CommonArguments,
}

/// Whom to hold.
#[derive(Debug, Args)]
pub struct HoldArguments {
    /// Whose pods: pod, serviceaccount, node or namespace, and its name.
    #[arg(value_name = "KIND/NAME", num_args = 0..=2)]
    pub what: Vec<String>,
    /// Why: it stands in the audit log and is told on the pods.
    #[arg(long, value_name = "TEXT", requires = "what")]
    pub reason: Option<String>,
    /// Also when there is no such object (yet).
    #[arg(long, requires = "what")]
    pub absent: bool,
    /// Namespace of the pod or ServiceAccount; default is that of the context.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// What these commands share.
    #[command(flatten)]
    pub common: CommonArguments,
}

/// Whom to release.
#[derive(Debug, Args)]
pub struct ReleaseArguments {
    /// What is on hold: pod, serviceaccount, node or namespace, and its name.
    #[arg(value_name = "KIND/NAME", num_args = 0..=2, required_unless_present_any = ["all", "entry"])]
    pub what: Vec<String>,
    /// Everything that is on hold.
    #[arg(long, conflicts_with_all = ["what", "entry"])]
    pub all: bool,
    /// The entry of this key: for one that cannot be understood.
    #[arg(long, value_name = "KEY", conflicts_with = "what")]
    pub entry: Option<String>,
    /// Namespace of the pod or ServiceAccount; default is that of the context.
    #[arg(short, long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// What these commands share.
    #[command(flatten)]
    pub common: CommonArguments,
}

/// What the commands share whose `--namespace` is that of pods.
#[derive(Debug, Args)]
pub struct CommonArguments {
    /// Domain of all signer names of this installation.
    #[arg(long, value_name = "DOMAIN", default_value = "podmint.dev")]
    pub signer_domain: String,
    /// Namespace that the signer runs in.
    #[arg(long, value_name = "NAMESPACE", default_value = "podmint-system")]
    pub signer_namespace: String,
    /// DNS domain of the cluster.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
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
    /// DNS domain of the cluster.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
}

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Lines for people.
    Text,
    /// The same with more in them.
    Wide,
    /// One object.
    Json,
    /// One object.
    Yaml,
}
