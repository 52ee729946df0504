//! What a caller chooses: the Kubernetes version that is imitated, who may do what, and how strict admission is.

use std::time::Duration;

use crate::node::Kubelet;

/// Which Kubernetes release the API looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versions {
    /// 1.37 with default flags: `certificates.k8s.io/v1` alone, stub PKCS#10.
    #[default]
    V1_37,
    /// 1.37 with v1beta1 switched on beside v1: what an operator needs while older kubelets are left.
    V1_37WithBeta,
    /// 1.36: `v1beta1` alone; a stub PKCS#10, or a public key with a proof of possession.
    V1_36,
    /// 1.35: `v1beta1` alone; public key and proof of possession, no stub.
    V1_35,
}

impl Versions {
    /// The kubelet of the same release.
    #[must_use]
    pub const fn kubelet(self) -> Kubelet {
        match self {
            Self::V1_37 | Self::V1_37WithBeta => Kubelet::V1_37,
            Self::V1_36 => Kubelet::V1_36,
            Self::V1_35 => Kubelet::V1_35,
        }
    }
}

/// Who is calling. Each has its static bearer token.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Identity {
    /// `system:masters`: may do everything, and may impersonate.
    Admin,
    /// The kubelet of the node with this name.
    Node(String),
    /// A service account.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Anybody else.
    User(String),
}

impl Identity {
    /// The kubelet of `name`.
    #[must_use]
    pub fn node(name: &str) -> Self {
        Self::Node(name.to_owned())
    }

    /// The service account `name` in `namespace`.
    #[must_use]
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The user name as the API server knows it.
    #[must_use]
    pub fn user_name(&self) -> String {
        match self {
            Self::Admin => "kubernetes-admin".to_owned(),
            Self::Node(name) => format!("system:node:{name}"),
            Self::ServiceAccount { namespace, name } => format!("system:serviceaccount:{namespace}:{name}"),
            Self::User(name) => name.clone(),
        }
    }
}

/// How a [`DevCluster`](crate::DevCluster) is set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// The release that is imitated.
    pub versions: Versions,
    /// Whether the NodeRestriction plugin runs. Stories that show the signer refusing by itself switch it off.
    pub node_restriction: bool,
    /// Who may `sign` and `attest` for every signer name, beside [`Identity::Admin`], and use the kinds a signer needs.
    pub signers: Vec<Identity>,
    /// Who else may use every kind with every verb, but neither `sign` nor `attest`.
    pub writers: Vec<Identity>,
    /// Whether the few controllers that tidy up run: a default service account for each namespace, removal of what a
    /// deleted namespace or owner leaves behind. A bare kube-apiserver has none of them.
    pub controllers: bool,
    /// How far the API server's clock is ahead of this machine's, in whole seconds (it may be behind).
    pub clock_ahead_seconds: i64,
    /// How many changes of each kind a watch can look back. Older resourceVersions get 410.
    pub watch_window: usize,
    /// How often a watch that allows bookmarks gets one.
    pub bookmark_every: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            versions: Versions::default(),
            node_restriction: true,
            signers: vec![Identity::service_account("podmint", "podmint-signer")],
            writers: Vec::new(),
            controllers: true,
            clock_ahead_seconds: 0,
            watch_window: 20_000,
            bookmark_every: Duration::from_secs(60),
        }
    }
}
