//! Where all of this runs: an embedded cluster, or a real API server. The rest of the demo cannot tell the difference.

use anyhow::{Context, Result};
use kube::Client;
use podmint_devcluster::node::Kubelet;
use podmint_devcluster::{DevCluster, Identity, Options};

use super::args::Args;
use super::kinds::Kinds;
use super::real::RealServer;
use super::scene;

/// A place to run.
pub enum Ground {
    /// In this process.
    Embedded(DevCluster),
    /// Somewhere else.
    Real(Box<RealServer>),
}

impl Ground {
    /// Starts the embedded cluster, or looks whether the API server of `--kubeconfig` may be used. Changes nothing there yet.
    pub async fn open(args: &Args) -> Result<Self> {
        match &args.kubeconfig {
            Some(file) => Ok(Self::Real(Box::new(RealServer::connect(file).await?))),
            None => {
                let options = Options {
                    signers: vec![Identity::service_account(scene::SIGNER_NAMESPACE, scene::SIGNER_ACCOUNT)],
                    writers: vec![Identity::User(scene::INTRUDER.to_owned())],
                    ..Options::default()
                };
                Ok(Self::Embedded(DevCluster::start(options).await.context("could not start the embedded cluster")?))
            }
        }
    }

    /// In a few words.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Embedded(_) => "embedded cluster, admission guard off".to_owned(),
            Self::Real(server) => {
                format!("{}, admission guard {}", server.describe(), if server.guarded() { "on" } else { "off" })
            }
        }
    }

    /// What the signer's service account, the impostor and the demo's namespaces need to be there.
    pub async fn prepare(&mut self) -> Result<()> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Real(server) => server.prepare().await,
        }
    }

    /// May do everything.
    pub fn admin(&self) -> Result<Client> {
        match self {
            Self::Embedded(cluster) => cluster.try_client(&Identity::Admin),
            Self::Real(server) => Ok(server.admin()),
        }
    }

    /// The kubelet of a node.
    pub fn kubelet(&self, node: &str) -> Result<Client> {
        match self {
            Self::Embedded(cluster) => cluster.try_client(&Identity::node(node)),
            Self::Real(server) => server.acting_as(&format!("system:node:{node}"), &["system:nodes"]),
        }
    }

    /// The signer, with the rights of `deploy/kustomize/rbac.yaml`.
    pub fn signer(&self) -> Result<Client> {
        match self {
            Self::Embedded(cluster) => {
                cluster.try_client(&Identity::service_account(scene::SIGNER_NAMESPACE, scene::SIGNER_ACCOUNT))
            }
            Self::Real(server) => server.acting_as(
                &format!("system:serviceaccount:{}:{}", scene::SIGNER_NAMESPACE, scene::SIGNER_ACCOUNT),
                &[],
            ),
        }
    }

    /// Somebody who may create requests, and is no kubelet.
    pub fn intruder(&self) -> Result<Client> {
        match self {
            Self::Embedded(cluster) => cluster.try_client(&Identity::User(scene::INTRUDER.to_owned())),
            Self::Real(server) => server.acting_as(scene::INTRUDER, &[]),
        }
    }

    /// Which kubelet the node agents imitate: the one that belongs to the API server.
    #[must_use]
    pub fn kubelets(&self) -> Kubelet {
        match self {
            Self::Embedded(_) => Kubelet::V1_37,
            Self::Real(server) => server.kubelets(),
        }
    }

    /// Sees to it that something stops a kubelet that names another node. `forgery` is such a request.
    pub async fn fence(&mut self, kinds: &Kinds, forgery: &serde_json::Value) -> Result<()> {
        match self {
            // NodeRestriction is on by default there, and does.
            Self::Embedded(_) => Ok(()),
            Self::Real(server) => server.fence(kinds, forgery).await,
        }
    }

    /// Leaves nothing behind.
    pub async fn clean_up(self, kinds: &Kinds) -> Result<()> {
        match self {
            // It ends with its handle.
            Self::Embedded(_) => Ok(()),
            Self::Real(server) => server.clean_up(kinds).await,
        }
    }
}
