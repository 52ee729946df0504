//! What was seen of a cluster. Only what a finding hangs on.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use super::report::Unseen;
use crate::{cluster::guard::GuardState, pipeline::Holds};

/// What was seen, or why not.
pub(super) type Seen<T> = Result<T, Unseen>;

/// Everything that findings are made of.
pub(super) struct Facts {
    /// The signer domain of the installation looked for.
    pub(super) domain: String,
    /// The namespace of its signer.
    pub(super) namespace: String,
    pub(super) server: Seen<Release>,
    /// The API server's time.
    pub(super) now: OffsetDateTime,
    /// How many seconds this machine's clock is ahead of the API server's.
    pub(super) ahead_here: i64,
    pub(super) served: Seen<Served>,
    pub(super) guard: Seen<GuardState>,
    /// What became of a request that the guard must refuse; nothing where requests are not served.
    pub(super) guard_proof: Seen<Option<Verdict>>,
    /// What became of a request that NodeRestriction must refuse.
    pub(super) restriction_proof: Seen<Option<Verdict>>,
    /// When a replica of the signer last said that it lives.
    pub(super) signer_seen: Seen<Option<OffsetDateTime>>,
    /// The PodSigner objects; none where there is no CRD.
    pub(super) podsigners: Seen<Vec<PodSigner>>,
    /// The signer names that the signer is configured with, by objects or by ConfigMaps, where there are any.
    pub(super) configured: Seen<Option<BTreeSet<String>>>,
    /// The signer names that trust bundles are published under.
    pub(super) published: Seen<BTreeSet<String>>,
    pub(super) requests: Seen<Vec<Request>>,
    /// Those that have not ended and project a certificate or a trust bundle, or did.
    pub(super) pods: Seen<Vec<Pod>>,
    pub(super) nodes: Seen<Vec<Node>>,
    /// How many seconds each node's clock is ahead of the API server's.
    pub(super) ahead: Seen<BTreeMap<String, i64>>,
    /// How kube-proxy works here; nothing where it is not found.
    pub(super) proxy_mode: Seen<Option<String>>,
    /// What administrators have on hold.
    pub(super) holds: Seen<Holds>,
}

impl Facts {
    /// What could not be seen.
    pub(super) fn unseen(&self) -> Vec<Unseen> {
        // Whoever adds a fact is made to think of this list.
        let Self {
            domain: _,
            namespace: _,
            server,
            now: _,
            ahead_here: _,
            served,
            guard,
            guard_proof,
            restriction_proof,
            signer_seen,
            podsigners,
            configured,
            published,
            requests,
            pods,
            nodes,
            ahead,
            proxy_mode,
            holds,
        } = self;
        let of_cluster = [
            server.as_ref().err(),
            served.as_ref().err(),
            guard.as_ref().err(),
            guard_proof.as_ref().err(),
            restriction_proof.as_ref().err(),
            signer_seen.as_ref().err(),
            podsigners.as_ref().err(),
            configured.as_ref().err(),
            published.as_ref().err(),
            requests.as_ref().err(),
            pods.as_ref().err(),
            nodes.as_ref().err(),
            ahead.as_ref().err(),
            proxy_mode.as_ref().err(),
            holds.as_ref().err(),
        ];
        let of_nodes = nodes.iter().flatten().map(|node| node.kubelet.as_ref().err());
        of_cluster.into_iter().chain(of_nodes).flatten().cloned().collect()
    }

    /// What was looked at, in a few words.
    pub(super) fn looked_at(&self) -> String {
        let server = self.server.as_ref().map_or("an API server of unknown version", |release| &release.text);
        let count =
            |count: Option<usize>, what: &str| count.map(|count| format!(", {count} {what}")).unwrap_or_default();
        format!(
            "{server}{}{}{}",
            count(self.nodes.as_ref().ok().map(Vec::len), "nodes"),
            count(self.pods.as_ref().ok().map(Vec::len), "pods with certificates or trust bundles"),
            count(self.requests.as_ref().ok().map(Vec::len), "certificate requests"),
        )
    }
}

/// A PodSigner, as its status has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PodSigner {
    pub(super) name: String,
    /// In a word; empty where no signer has said anything.
    pub(super) state: String,
    /// Why it is not as it should be.
    pub(super) trouble: Option<String>,
}

/// Seconds from one moment to a later one.
pub(super) fn seconds(from: OffsetDateTime, to: OffsetDateTime) -> i64 {
    to.unix_timestamp().saturating_sub(from.unix_timestamp())
}

/// The version of a component, as it tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Release {
    pub(super) text: String,
    /// 37 of `v1.37.2`. Nothing for anything but version 1.
    pub(super) minor: Option<u32>,
}

impl Release {
    pub(super) fn parse(text: &str) -> Self {
        let mut parts = text.trim_start_matches('v').split('.');
        let minor = (parts.next() == Some("1")).then(|| parts.next()?.parse().ok()).flatten();
        Self { text: text.to_owned(), minor }
    }

    /// Whether it is certainly older than 1.`minor`.
    pub(super) fn is_before(&self, minor: u32) -> bool {
        self.minor.is_some_and(|own| own < minor)
    }
}

/// In which versions of `certificates.k8s.io` the two kinds are served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Served {
    pub(super) requests: Versions,
    pub(super) bundles: Versions,
}

/// The versions that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Versions {
    pub(super) v1: bool,
    pub(super) v1beta1: bool,
}

impl Versions {
    pub(super) fn any(self) -> bool {
        self.v1 || self.v1beta1
    }
}

/// What became of a forged request, which was a dry run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// By the very rule that has to refuse it.
    Refused,
    /// It would have been stored.
    Taken,
}

/// A certificate request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) signer_name: String,
    pub(super) created: OffsetDateTime,
    pub(super) is_answered: bool,
}

/// A node.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) kubelet_release: Release,
    /// As in `containerd://1.7.2`.
    pub(super) runtime: String,
    pub(super) declared: BTreeSet<String>,
    pub(super) kubelet: Seen<Kubelet>,
}

/// What a kubelet says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Kubelet {
    /// The feature gates that matter, where it knows them.
    pub(super) gates: BTreeMap<&'static str, bool>,
    pub(super) cgroup_version: Option<u32>,
    /// `failCgroupV1` of its configuration.
    pub(super) fails_on_cgroup_v1: Option<bool>,
    /// The version from which on its container runtime is too old.
    pub(super) runtime_ends_with: Option<String>,
    /// Certificates of its pods that are in trouble: signer name and state, and how many.
    pub(super) troubled: BTreeMap<(String, String), u32>,
}

/// The feature gates of a kubelet without which there are no certificates.
pub(super) const GATES: [&str; 2] = ["PodCertificateRequest", "ClusterTrustBundleProjection"];

/// A pod, as far as its certificates hang on it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Pod {
    pub(super) metadata: PodMetadata,
    pub(super) spec: PodSpec,
    #[serde(default)]
    pub(super) status: PodStatus,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodMetadata {
    pub(super) name: String,
    #[serde(default)]
    pub(super) namespace: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) owner_references: Vec<Owner>,
    #[serde(default)]
    pub(super) creation_timestamp: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Owner {
    pub(super) kind: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) controller: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct PodStatus {
    #[serde(default)]
    pub(super) phase: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSpec {
    #[serde(default)]
    pub(super) node_name: String,
    #[serde(default)]
    pub(super) os: Option<Os>,
    #[serde(default)]
    pub(super) security_context: Option<PodSecurity>,
    #[serde(default)]
    pub(super) init_containers: Vec<Container>,
    #[serde(default)]
    pub(super) containers: Vec<Container>,
    #[serde(default)]
    pub(super) ephemeral_containers: Vec<Container>,
    #[serde(default)]
    pub(super) volumes: Vec<Volume>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Os {
    #[serde(default)]
    pub(super) name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct PodSecurity {
    #[serde(default)]
    pub(super) run_as_user: Option<i64>,
    #[serde(default)]
    pub(super) run_as_group: Option<i64>,
    #[serde(default)]
    pub(super) run_as_non_root: Option<bool>,
    #[serde(default)]
    pub(super) fs_group: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Container {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) security_context: Option<ContainerSecurity>,
    #[serde(default)]
    pub(super) volume_mounts: Vec<Mount>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ContainerSecurity {
    #[serde(default)]
    pub(super) run_as_user: Option<i64>,
    #[serde(default)]
    pub(super) run_as_non_root: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Mount {
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) mount_path: String,
    #[serde(default)]
    pub(super) sub_path: String,
    #[serde(default)]
    pub(super) sub_path_expr: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Volume {
    pub(super) name: String,
    #[serde(default)]
    pub(super) projected: Option<Projected>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Projected {
    #[serde(default)]
    pub(super) default_mode: Option<u32>,
    #[serde(default)]
    pub(super) default_user: Option<i64>,
    #[serde(default)]
    pub(super) sources: Vec<Source>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Source {
    #[serde(default)]
    pub(super) pod_certificate: Option<Certificate>,
    #[serde(default)]
    pub(super) cluster_trust_bundle: Option<Trust>,
    /// Sources of other kinds.
    #[serde(flatten)]
    pub(super) others: Map<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Certificate {
    #[serde(default)]
    pub(super) signer_name: String,
    #[serde(default)]
    pub(super) user: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Trust {
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) signer_name: Option<String>,
    #[serde(default)]
    pub(super) label_selector: Option<Value>,
    #[serde(default)]
    pub(super) optional: Option<bool>,
    #[serde(default)]
    pub(super) path: String,
}

impl Pod {
    /// Whether it is any of our business: it lives, and has or had a source of one of the two kinds.
    pub(super) fn matters(&self) -> bool {
        let ended = ["Succeeded", "Failed"].contains(&self.status.phase.as_str());
        !ended && self.sources().any(|at| at.source.is_empty() || at.source.is_ours())
    }

    /// All sources of its projected volumes, with where they stand.
    pub(super) fn sources(&self) -> impl Iterator<Item = At<'_>> {
        let volumes = self.spec.volumes.iter().enumerate();
        volumes.filter_map(|(index, volume)| Some((index, volume, volume.projected.as_ref()?))).flat_map(
            |(volume_index, volume, projected)| {
                let sources = projected.sources.iter().enumerate();
                sources.map(move |(index, source)| At { volume, projected, source, volume_index, index })
            },
        )
    }

    /// Every container, with the name of the list that it stands in.
    pub(super) fn containers(&self) -> impl Iterator<Item = (&'static str, usize, &Container)> {
        let of = |list: &'static str, containers| {
            <[Container]>::iter(containers).enumerate().map(move |(index, container)| (list, index, container))
        };
        let PodSpec { init_containers, containers, ephemeral_containers, .. } = &self.spec;
        of("initContainers", init_containers)
            .chain(of("containers", containers))
            .chain(of("ephemeralContainers", ephemeral_containers))
    }

    /// The signer names that it wants certificates from.
    pub(super) fn signer_names(&self) -> BTreeSet<&str> {
        self.sources().filter_map(|at| Some(at.source.pod_certificate.as_ref()?.signer_name.as_str())).collect()
    }
}

/// A source and where it stands.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) volume: &'a Volume,
    pub(super) projected: &'a Projected,
    pub(super) source: &'a Source,
    pub(super) volume_index: usize,
    pub(super) index: usize,
}

impl At<'_> {
    /// Its JSON pointer below the pod's spec.
    pub(super) fn pointer(&self) -> String {
        format!("/spec/volumes/{}/projected/sources/{}", self.volume_index, self.index)
    }
}

impl Source {
    fn is_ours(&self) -> bool {
        self.pod_certificate.is_some() || self.cluster_trust_bundle.is_some()
    }

    /// An API server with the feature gate off takes the content of such a source away and leaves this.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_ours() && self.others.is_empty()
    }
}
