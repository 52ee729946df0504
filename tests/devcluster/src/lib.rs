//! The embedded cluster: the part of the Kubernetes API that Podmint's own clients use, and node agents that do what kubelets do
//! with credentials, in one process on loopback.
//!
//! The signer runs against it unmodified. It is what the demo starts on a laptop with no cluster, and the quick test bed.
//!
//! ```
//! use podmint_devcluster::node::{NodeAgent, NodeOptions};
//! use podmint_devcluster::{DevCluster, Identity, Options};
//!
//! # async fn example(folder: std::path::PathBuf) -> anyhow::Result<()> {
//! let cluster = DevCluster::start(Options::default()).await?;
//! let admin = cluster.client(&Identity::Admin);
//! let agent = NodeAgent::start(cluster.client(&Identity::node("n1")), NodeOptions::new("n1", folder)).await?;
//! // … create pods bound to n1 as `admin`, run a signer, then:
//! agent.refresh("shop", "web").await; // every certificate of the pod anew
//! agent.restart().await; // as a kubelet's: every key of the node anew
//! let files = agent.volume("shop", "web", "identity");
//! # Ok(())
//! # }
//! ```
//!
//! # What it is
//! - An API server ([`DevCluster`]): list, watch, get, create, update, patch and delete for Pods, ServiceAccounts, Nodes,
//!   Namespaces, Secrets, ConfigMaps, Events, Leases, PodCertificateRequests, ClusterTrustBundles and
//!   ValidatingAdmissionPolicies; one counter of resourceVersions, conflicts, selectors, pages, bookmarks and 410 as on the real
//!   one; discovery and `Date`. It looks like 1.37, 1.36 or 1.35 ([`Versions`]).
//! - Its rules for certificate requests (`rules/`), their answers and trust bundles, NodeRestriction, the `sign` and `attest`
//!   checks. Written from the Go sources and apart from the signer's own copy: the two check each other.
//! - Node agents ([`node::NodeAgent`]): keys of all six types, requests, refreshes, refusals that are final, AtomicWriter.
//!   They speak to the API by a client alone, so they work against a real API server too.
//! - Trouble on demand ([`Faults`]): calls that fail, caches that lag, watches that close, history that is forgotten, outages.
//!
//! # What it is not
//! - No authorisation worth the name but for nodes: a [`Identity::ServiceAccount`] or [`Identity::User`] may do everything if it
//!   is among [`Options::signers`] or [`Options::writers`], else next to nothing. RBAC is a matter for the real server.
//! - No admission policies are enforced; they are stored. No apply patches, JSON patches, `managedFields`, `deletecollection`,
//!   protobuf, tables, priority and fairness, or upgrades. A strategic merge patch is treated as a merge patch.
//! - Of NodeRestriction only what concerns certificate requests. Of pod validation only what concerns credentials.
//! - The agents run no containers. In a volume they serve `podCertificate` and `clusterTrustBundle` sources; tokens, ConfigMaps,
//!   Secrets and the downward API are left out. Files belong to whoever runs the process; only modes follow the pod. They write
//!   no pod Events.
//! - With [`Options::controllers`] deletion of owned objects is immediate. There is no cleaner that deletes old requests.
//!
//! # How it is held to the truth
//! The same stories run against it and against real kube-apiservers; where the two differ, it is wrong. The rules have a test
//! for each numbered case of the reference.
//!
//! # The walk
//! `api/server` takes a connection, `api/route` reads what is meant, `api/access` says who may, `api/read` and `api/write` do it,
//! `api/admit` knows what differs between kinds and asks [`rules`], `api/store` keeps the objects. `node/agent` is the task of a
//! node: `node/follow` feeds it, `node/record` is its memory, `node/request` its one worker, `node/pod` and `node/volume` what it
//! puts on disk, `node/atomic` how.

mod api;
mod clock;
mod cluster;
pub mod node;
mod options;
mod rules;

pub use api::fault::{Failure, Faults, Verb};
pub use cluster::{DevCluster, choose_crypto};
pub use options::{Identity, Options, Versions};
