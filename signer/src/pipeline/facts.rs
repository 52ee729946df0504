//! What the API server knows of a pod, a ServiceAccount and a node, reduced to the few fields that a decision needs.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use serde::{Deserialize, de::IgnoredAny};

use super::key::KeyType;
use crate::names::{
    Hostname, NodeName, NodeUid, PodUid, ServiceAccountName, ServiceAccountUid, ServiceName, SignerName,
};

/// How a fact was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Freshness {
    /// From the API server's cache (`resourceVersion=0`), which may lag. Good enough to accept, never to refuse.
    Cached,
    /// By a quorum read, or told by the API server's own "not found" to one.
    Quorum,
}

/// What a look-up found.
#[derive(Clone, Debug)]
pub enum Fact<T> {
    /// There is no such object.
    Absent(Freshness),
    /// There is.
    Found(T, Freshness),
}

impl<T> Fact<T> {
    pub(super) fn freshness(&self) -> Freshness {
        match self {
            Self::Absent(freshness) | Self::Found(_, freshness) => *freshness,
        }
    }
}

/// A pod, as far as a certificate depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFacts {
    /// The UID; none if the object lacks one, which no claim can match.
    pub uid: Option<PodUid>,
    /// The node it is bound to, for ever; none before that.
    pub node: Option<NodeName>,
    /// The ServiceAccount it runs as, for ever.
    pub service_account: Option<ServiceAccountName>,
    /// Whether a kubelet made it of a file: such a pod is no proof of anything.
    pub is_mirror: bool,
    /// Its labels, which its author chooses and may change.
    pub labels: Labels,
    /// Its host name in the DNS, for ever, where its author (or its StatefulSet) gave it one.
    pub hostname: Option<Hostname>,
    /// The Service below which that host name is, for ever.
    pub subdomain: Option<ServiceName>,
    /// Whether it is on its node's own network, for ever.
    pub is_on_host_network: bool,
    /// Its addresses, once its kubelet has told them: not before its volumes are there, so that its first certificate has none.
    pub addresses: Box<[IpAddr]>,
    /// How far it has come.
    pub phase: Phase,
    /// Its `podCertificate` sources, of all volumes and signers.
    pub projections: Box<[Projection]>,
}

/// The labels of an object.
pub type Labels = BTreeMap<Box<str>, Box<str>>;

/// How far a pod has come; it never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing of it has run, so it has no certificate to lose.
    Waiting,
    /// Some container has run (an init container of a `Pending` pod counts), or we cannot tell.
    Started,
    /// `Succeeded` or `Failed`.
    Finished,
}

/// One `podCertificate` source of a pod's volumes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Projection {
    /// The signer that is to be asked.
    pub signer: Box<str>,
    /// The key that is to be made; none for a type we do not know.
    pub key_type: Option<KeyType>,
    /// The longest life, in seconds.
    pub max_expiration_seconds: i64,
    /// What the pod's author tells the signer, sorted by key.
    pub annotations: Box<[(Box<str>, Box<str>)]>,
}

/// A ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountFacts {
    /// The UID of the one that lives now.
    pub uid: Option<ServiceAccountUid>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// The UID of the one that lives now.
    pub uid: Option<NodeUid>,
    /// Its labels, which its administrator chooses, and its kubelet for some.
    pub labels: Arc<Labels>,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceFacts {
    /// Its labels.
    pub labels: Arc<Labels>,
}

impl PodFacts {
    /// The sources that ask this signer.
    pub(super) fn projections_of(&self, signer: &SignerName) -> impl Iterator<Item = &Projection> {
        self.projections.iter().filter(move |projection| *projection.signer == *signer.as_str())
    }
}

/// The fields of a Pod that are looked at. All others are skipped as they are read, for a pod may be a megabyte long.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Pod {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Option<PodSpec>,
    #[serde(default)]
    status: Option<PodStatus>,
}

/// Any object of which nothing but the metadata counts.
#[derive(Default, Deserialize)]
pub(crate) struct Bare {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Default, Deserialize)]
struct Metadata {
    uid: Option<Box<str>>,
    labels: Option<Labels>,
    annotations: Option<BTreeMap<Box<str>, IgnoredAny>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodSpec {
    node_name: Option<Box<str>>,
    service_account_name: Option<Box<str>>,
    hostname: Option<Box<str>>,
    subdomain: Option<Box<str>>,
    host_network: Option<bool>,
    volumes: Option<Vec<Volume>>,
}

#[derive(Deserialize)]
struct Volume {
    projected: Option<Projected>,
}

#[derive(Deserialize)]
struct Projected {
    sources: Option<Vec<ProjectedSource>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProjectedSource {
    pod_certificate: Option<PodCertificateProjection>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodCertificateProjection {
    signer_name: Box<str>,
    key_type: Box<str>,
    max_expiration_seconds: Option<i64>,
    /// A `BTreeMap` is sorted; the claim's are sorted to match.
    user_annotations: Option<BTreeMap<Box<str>, Box<str>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStatus {
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<PodIp>>,
    phase: Option<Box<str>>,
    init_container_statuses: Option<Vec<ContainerStatus>>,
    container_statuses: Option<Vec<ContainerStatus>>,
    ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Deserialize)]
struct PodIp {
    ip: Option<Box<str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerStatus {
    state: Option<ContainerState>,
    last_state: Option<ContainerState>,
    restart_count: Option<i64>,
}

#[derive(Deserialize)]
struct ContainerState {
    running: Option<IgnoredAny>,
    terminated: Option<IgnoredAny>,
}

impl From<Pod> for PodFacts {
    fn from(Pod { metadata, spec, status }: Pod) -> Self {
        let phase = phase(status.as_ref());
        let spec = spec.unwrap_or_default();
        let PodSpec { node_name, service_account_name, hostname, subdomain, host_network, volumes } = spec;
        let addresses = status.into_iter().filter_map(|status| status.pod_ips).flatten();
        let sources = volumes.into_iter().flatten().filter_map(|volume| volume.projected?.sources).flatten();
        Self {
            uid: metadata.uid.and_then(|uid| PodUid::parse(&uid).ok()),
            node: node_name.and_then(|name| NodeName::parse(&name).ok()),
            service_account: service_account_name.and_then(|name| ServiceAccountName::parse(&name).ok()),
            is_mirror: metadata.annotations.is_some_and(|annotations| annotations.contains_key(MIRROR)),
            labels: metadata.labels.unwrap_or_default(),
            hostname: hostname.and_then(|name| Hostname::parse(&name).ok()),
            subdomain: subdomain.and_then(|name| ServiceName::parse(&name).ok()),
            is_on_host_network: host_network == Some(true),
            addresses: addresses.filter_map(|address| address.ip?.parse().ok()).filter(is_a_pods).take(2).collect(),
            phase,
            projections: sources.filter_map(|source| source.pod_certificate).map(Projection::from).collect(),
        }
    }
}

/// What nobody's pod can have is not believed of any.
fn is_a_pods(address: &IpAddr) -> bool {
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// `Pending` lasts while init containers run, and those have their certificate already.
fn phase(status: Option<&PodStatus>) -> Phase {
    let Some(status) = status else { return Phase::Started };
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    match status.phase.as_deref() {
        Some("Succeeded" | "Failed") => Phase::Finished,
        Some("Pending") if !lists.into_iter().flatten().flatten().any(has_run) => Phase::Waiting,
        _ => Phase::Started,
    }
}

fn has_run(container: &ContainerStatus) -> bool {
    let ran = |state: &Option<ContainerState>| {
        state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    ran(&container.state) || ran(&container.last_state) || container.restart_count.is_some_and(|count| count > 0)
}

impl From<PodCertificateProjection> for Projection {
    fn from(source: PodCertificateProjection) -> Self {
        Self {
            key_type: KeyType::parse(&source.key_type),
            signer: source.signer_name,
            max_expiration_seconds: source.max_expiration_seconds.unwrap_or(DEFAULT_EXPIRATION),
            annotations: source.user_annotations.into_iter().flatten().collect(),
        }
    }
}

impl From<Bare> for ServiceAccountFacts {
    fn from(account: Bare) -> Self {
        Self { uid: account.metadata.uid.and_then(|uid| ServiceAccountUid::parse(&uid).ok()) }
    }
}

impl From<Bare> for NodeFacts {
    fn from(node: Bare) -> Self {
        let Metadata { uid, labels, annotations: _ } = node.metadata;
        Self { uid: uid.and_then(|uid| NodeUid::parse(&uid).ok()), labels: Arc::new(labels.unwrap_or_default()) }
    }
}

impl From<Bare> for NamespaceFacts {
    fn from(namespace: Bare) -> Self {
        Self { labels: Arc::new(namespace.metadata.labels.unwrap_or_default()) }
    }
}

/// The API server's default for `maxExpirationSeconds`, of a request and of a pod's source alike.
pub(super) const DEFAULT_EXPIRATION: i64 = 86_400;

/// What a kubelet marks the copies of its static pods with.
const MIRROR: &str = "kubernetes.io/config.mirror";

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn facts(pod: Value) -> PodFacts {
        PodFacts::from(serde_json::from_value::<Pod>(pod).unwrap())
    }

    fn phase_of(status: Value) -> Phase {
        facts(json!({"metadata": {}, "spec": {"containers": []}, "status": status})).phase
    }

    #[test]
    fn a_pod_is_reduced_to_what_counts() {
        let pod = facts(json!({
            "metadata": {"uid": "u-1", "labels": {"app": "cart"},
                "annotations": {"kubernetes.io/config.mirror": "x"}, "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {
                "nodeName": "node-a",
                "serviceAccountName": "cart",
                "hostname": "cart-0",
                "subdomain": "carts",
                "containers": [],
                "volumes": [
                    {"name": "a", "emptyDir": {}},
                    {"name": "b", "projected": {"sources": [
                        {"serviceAccountToken": {"path": "t"}},
                        {"podCertificate": {"signerName": "podmint.dev/workload", "keyType": "ED25519", "maxExpirationSeconds": 3600,
                            "userAnnotations": {"b/c": "2", "a/b": "1"}}},
                        {"podCertificate": {"signerName": "other.org/x", "keyType": "NEW"}},
                    ]}},
                ],
            },
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.7"}, {"ip": "127.0.0.1"}, {"ip": "x"}, {}, {"ip": "fd00::7"}]},
        }));
        assert_eq!(pod.uid.unwrap().as_str(), "u-1");
        assert_eq!(pod.node.unwrap().as_str(), "node-a");
        assert_eq!(pod.service_account.unwrap().as_str(), "cart");
        assert!(pod.is_mirror);
        assert_eq!(pod.labels.get("app").map(|value| &**value), Some("cart"));
        assert_eq!((pod.hostname.unwrap().as_str(), pod.subdomain.unwrap().as_str()), ("cart-0", "carts"));
        assert_eq!(pod.phase, Phase::Started, "a pod that is being deleted has not finished");
        assert_eq!(*pod.addresses, [IpAddr::from([10, 0, 0, 7]), "fd00::7".parse().unwrap()]);
        assert!(!pod.is_on_host_network);
        let [first, second] = &*pod.projections else { panic!() };
        assert_eq!(
            (&*first.signer, first.key_type, first.max_expiration_seconds),
            ("podmint.dev/workload", Some(KeyType::Ed25519), 3_600)
        );
        assert_eq!(*first.annotations, [("a/b".into(), "1".into()), ("b/c".into(), "2".into())]);
        assert_eq!((second.key_type, second.max_expiration_seconds), (None, 86_400));
    }

    #[test]
    fn an_address_that_nobodys_pod_can_have_is_not_believed() {
        for address in ["127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"] {
            assert!(!is_a_pods(&address.parse().unwrap()), "{address}");
        }
        assert!(["10.0.0.7", "fd00::7", "169.254.7.7"].iter().all(|address| is_a_pods(&address.parse().unwrap())));
    }

    #[test]
    fn of_a_namespace_its_labels_count() {
        let bare = serde_json::from_value::<Bare>(json!({"metadata": {"labels": {"env": "prod"}}})).unwrap();
        assert_eq!(NamespaceFacts::from(bare).labels.get("env").map(|value| &**value), Some("prod"));
    }

    #[test]
    fn what_is_empty_or_absent_is_nothing() {
        let pod = facts(
            json!({"metadata": {"uid": ""}, "spec": {"nodeName": "", "serviceAccountName": "", "containers": []}}),
        );
        assert_eq!((pod.uid, pod.node, pod.service_account, pod.is_mirror), (None, None, None, false));
    }

    #[test]
    fn a_pod_waits_until_its_first_container_runs() {
        assert_eq!(phase_of(json!({"phase": "Pending"})), Phase::Waiting);
        let init = |state: Value| {
            json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]})
        };
        assert_eq!(phase_of(init(json!({"waiting": {}}))), Phase::Waiting);
        assert_eq!(phase_of(init(json!({"running": {}}))), Phase::Started);
        assert_eq!(phase_of(init(json!({"terminated": {"exitCode": 0}}))), Phase::Started);
        let before = |state: Value, restarts: u32| {
            json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "image": "", "imageID": "", "ready": false, "restartCount": restarts, "state": {"waiting": {}}, "lastState": state}]})
        };
        assert_eq!(phase_of(before(json!({}), 0)), Phase::Waiting);
        assert_eq!(phase_of(before(json!({"terminated": {"exitCode": 1}}), 0)), Phase::Started);
        assert_eq!(phase_of(before(json!({}), 1)), Phase::Started, "it has run, and nothing else is known of that");
        assert_eq!(phase_of(json!({"phase": "Running"})), Phase::Started);
        assert_eq!(phase_of(json!({"phase": "Unknown"})), Phase::Started);
        assert_eq!(phase_of(json!({})), Phase::Started, "when we cannot tell");
        assert_eq!(phase_of(json!({"phase": "Succeeded"})), Phase::Finished);
        assert_eq!(phase_of(json!({"phase": "Failed"})), Phase::Finished);
    }
}
