//! The embedded cluster: an API server and node agents in one process.
//!
//! Being built. The public face is fixed:
//!
//! ```text
//! let cluster = DevCluster::start(Options::default()).await?;             // loopback, free port
//! cluster.url() -> String
//! cluster.client(&Identity) -> kube::Client
//! cluster.kubeconfig(&Identity) -> String                                 // YAML, token inside
//! cluster.faults() -> Faults                                              // Clone
//! cluster.go_down(); cluster.come_back().await?                           // same port, same objects (etcd survives); connections and watches cut
//! cluster.stop().await                                                    // also on drop
//!
//! Faults: faults.fail(Failure { verb: Some(Verb::Get), resource: "pods".into(), code: 503, times: 3, retry_after: None })
//!         faults.lag("pods", Duration)      // get/list with resourceVersion=0 see the past
//!         faults.close_watches("pods")      // every open watch ends
//!         faults.compact("pods")            // every older resourceVersion gets 410
//!         faults.clear()
//!         faults.calls(Verb, "podcertificaterequests/status") -> u64        // how often called, and rejected() by code
//!
//! let agent = NodeAgent::start(cluster.client(&Identity::node("n1")), NodeOptions::new("n1", dir)).await?;
//! agent.volume("ns", "pod", "volume") -> PathBuf       // where the files are: <root>/<ns>/<pod>/<volume>
//! agent.refresh("ns", "pod").await                     // every certificate of the pod is asked for anew, now (if fresh)
//! agent.refresh_every(Some(Duration)).await            // or None
//! agent.restart().await                                // loses its memory: every key anew
//! agent.events() -> tokio::sync::broadcast::Receiver<NodeEvent>
//! agent.states().await -> Vec<(String, String, String, State)>  // namespace, pod, volume; State::{Initial, Wait, Fresh, WaitRefresh, Denied, Failed}
//! agent.stop().await                                   // also on drop; volumes stay on disk
//! ```

mod api;
mod clock;
mod cluster;
pub mod node;
mod options;
mod rules;

pub use api::fault::{Failure, Faults, Verb};
pub use cluster::DevCluster;
pub use options::{Identity, Options, Versions};

