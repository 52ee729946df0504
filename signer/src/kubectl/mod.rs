//! The operator's command, `kubectl podmint`: a kubectl plugin with its user's kubeconfig and rights and none of the signer's. It
//! lives in the signer's crate because it must not think otherwise than the signer: it compares the admission guard, reads
//! `PodSigner` documents and finds API versions by the very same code.
//!
//! Each command is a module of its own; [`args`] is the command line.

pub mod args;
pub mod ca;
pub mod complete;
pub mod doctor;
pub mod explain;
pub mod hold;
pub mod requests;
pub mod shown;
pub mod status;
mod view;

use crate::{
    cluster::guard,
    config::Domains,
    names::{DnsName, Namespace},
};

/// One installation of Podmint: what its parts are named after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// All its signer names are below this one.
    pub domain: DnsName,
    /// The namespace that its signer runs in.
    pub namespace: Namespace,
    /// The DNS domain of the cluster, as its signer was told.
    pub cluster_domain: DnsName,
}

impl Installation {
    fn domains(&self) -> Domains {
        Domains { signer: self.domain.clone(), cluster: self.cluster_domain.clone() }
    }

    /// The admission guard as it is to be applied for this installation.
    #[must_use]
    pub fn guard(&self) -> String {
        guard::manifest(self.domain.as_str(), &self.signer_username())
    }

    /// Whom the API server knows the signer as.
    fn signer_username(&self) -> String {
        format!("system:serviceaccount:{}:podmint-signer", self.namespace)
    }
}
