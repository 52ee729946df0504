//! The command line of these commands.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{order::Order, restore::Sure};
use crate::kubectl::args::{ClusterArguments, InstallationArguments};

/// What to do with a CA.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Rotate the root of a PodSigner, or its issuing CA: nobody is refused meanwhile.
    ///
    /// It is asked of the signer by an annotation of the PodSigner, which answers in its status. Exit status of this command and of the
    /// others: 0 when it is done or has begun, 1 when it is not, 2 when it cannot be asked for.
    Rotate(RotateArguments),
    /// Keep rotations of the root from beginning and from going on.
    Pause(OfSigner),
    /// Let rotations go on.
    Resume(OfSigner),
    /// Withdraw the previous root before its certificates have ended: its key is stolen.
    ///
    /// Without --confirm it only shows which pods still depend on that root, and until when.
    Withdraw(WithdrawArguments),
    /// Keep a copy of a CA, put it back, or go on without it.
    #[command(subcommand)]
    Ca(KeysCommand),
}

/// What to do with the keys of a CA.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Write both Secrets of a CA and its trust bundle into a file, which only you may read.
    Backup(BackupArguments),
    /// Put a backup in place of what is there; what would go back, and the wrong key, is refused.
    Restore(RestoreArguments),
    /// Go on with a new root, because the key of the one that signed is lost and there is no backup.
    Reset(ResetArguments),
}

/// Which PodSigner, and where.
#[derive(Debug, Args)]
pub struct OfSigner {
    /// The PodSigner, by its name or by its signer name.
    #[arg(value_name = "SIGNER")]
    pub signer: String,
    /// Where.
    #[command(flatten)]
    pub place: Place,
}

/// Which cluster, and which installation.
#[derive(Debug, Args)]
pub struct Place {
    /// Which cluster.
    #[command(flatten)]
    pub cluster: ClusterArguments,
    /// Which installation.
    #[command(flatten)]
    pub installation: InstallationArguments,
}

/// What to rotate.
#[derive(Debug, Args)]
pub struct RotateArguments {
    /// Which PodSigner.
    #[command(flatten)]
    pub of: OfSigner,
    /// The root, as without any of these: a quarter of an hour until the new one signs.
    #[arg(long, conflicts_with_all = ["intermediate", "stolen_key"])]
    pub root: bool,
    /// The issuing CA below the same root, at once. It does not help against a stolen key: the root that it is under stays trusted.
    #[arg(long, conflicts_with = "stolen_key")]
    pub intermediate: bool,
    /// The root, and nothing more is signed under it: its key, or that of its issuing CA, is stolen.
    #[arg(long)]
    pub stolen_key: bool,
}

/// What to withdraw.
#[derive(Debug, Args)]
pub struct WithdrawArguments {
    /// Which PodSigner.
    #[command(flatten)]
    pub of: OfSigner,
    /// Do it.
    #[arg(long)]
    pub confirm: bool,
}

/// What to back up, and where to.
#[derive(Debug, Args)]
pub struct BackupArguments {
    /// Which PodSigner.
    #[command(flatten)]
    pub of: OfSigner,
    /// A file that is not there yet; `-` for standard output, for a program that encrypts it.
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
}

/// What to restore.
#[derive(Debug, Args)]
pub struct RestoreArguments {
    /// A file that `backup` wrote; `-` for standard input.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Do it.
    #[arg(long)]
    pub confirm: bool,
    /// Even if it is of an older generation than what is there.
    #[arg(long)]
    pub accept_older: bool,
    /// Where.
    #[command(flatten)]
    pub place: Place,
}

/// What to give up.
#[derive(Debug, Args)]
pub struct ResetArguments {
    /// Which PodSigner.
    #[command(flatten)]
    pub of: OfSigner,
    /// Do it: a new root is made.
    #[arg(long)]
    pub accept_new_root: bool,
}

impl RotateArguments {
    /// What this asks for.
    #[must_use]
    pub fn order(&self) -> Order {
        match (self.intermediate, self.stolen_key) {
            (true, _) => Order::RotateIntermediate,
            (false, true) => Order::ReplaceStolen,
            (false, false) => Order::RotateRoot,
        }
    }
}

impl RestoreArguments {
    /// How sure its user is.
    #[must_use]
    pub fn sure(&self) -> Sure {
        Sure { confirmed: self.confirm, accepts_older: self.accept_older }
    }
}
