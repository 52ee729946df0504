//! The kinds that are served, under which versions, and what differs between them. Discovery is written from this table.

use serde_json::{Value, json};

use crate::options::Versions;

/// A kind, whatever the version it is spoken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Kind {
    Namespace,
    Node,
    Pod,
    ServiceAccount,
    Service,
    Secret,
    ConfigMap,
    Event,
    Lease,
    Request,
    TrustBundle,
    Policy,
    PolicyBinding,
    PodSigner,
}

/// How a kind looks in one version. The stored form is the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    /// As stored.
    Stored,
    /// `PodCertificateRequest` in v1: no public key and proof beside the stub.
    RequestV1,
    /// `Event` in events.k8s.io/v1: other field names.
    EventV1,
}

impl Form {
    /// Where the bytes of this form are kept: each kind has at most two forms.
    pub(crate) const fn slot(self) -> usize {
        match self {
            Self::Stored => 0,
            Self::RequestV1 | Self::EventV1 => 1,
        }
    }
}

/// One entry of the API: a kind in a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) kind: Kind,
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) form: Form,
}

impl Served {
    pub(crate) fn api_version(self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }
}

const ALL: [Kind; 14] = [
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::ServiceAccount,
    Kind::Service,
    Kind::Secret,
    Kind::ConfigMap,
    Kind::Event,
    Kind::Lease,
    Kind::Request,
    Kind::TrustBundle,
    Kind::Policy,
    Kind::PolicyBinding,
    Kind::PodSigner,
];

impl Kind {
    pub(crate) const fn all() -> [Self; 14] {
        ALL
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::ServiceAccount => "ServiceAccount",
            Self::Service => "Service",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::Event => "Event",
            Self::Lease => "Lease",
            Self::Request => "PodCertificateRequest",
            Self::TrustBundle => "ClusterTrustBundle",
            Self::Policy => "ValidatingAdmissionPolicy",
            Self::PolicyBinding => "ValidatingAdmissionPolicyBinding",
            Self::PodSigner => "PodSigner",
        }
    }

    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::ServiceAccount => "serviceaccounts",
            Self::Service => "services",
            Self::Secret => "secrets",
            Self::ConfigMap => "configmaps",
            Self::Event => "events",
            Self::Lease => "leases",
            Self::Request => "podcertificaterequests",
            Self::TrustBundle => "clustertrustbundles",
            Self::Policy => "validatingadmissionpolicies",
            Self::PolicyBinding => "validatingadmissionpolicybindings",
            Self::PodSigner => "podsigners",
        }
    }

    pub(crate) fn from_plural(plural: &str) -> Option<Self> {
        ALL.into_iter().find(|kind| kind.plural() == plural)
    }

    /// The group in which it is stored and named in errors.
    pub(crate) const fn group(self) -> &'static str {
        match self {
            Self::Namespace
            | Self::Node
            | Self::Pod
            | Self::ServiceAccount
            | Self::Service
            | Self::Secret
            | Self::ConfigMap
            | Self::Event => "",
            Self::Lease => "coordination.k8s.io",
            Self::Request | Self::TrustBundle => "certificates.k8s.io",
            Self::Policy | Self::PolicyBinding => "admissionregistration.k8s.io",
            Self::PodSigner => "podmint.dev",
        }
    }

    pub(crate) fn qualified(self) -> String {
        match self.group() {
            "" => self.plural().to_owned(),
            group => format!("{}.{group}", self.plural()),
        }
    }

    pub(crate) const fn namespaced(self) -> bool {
        match self {
            Self::Pod
            | Self::ServiceAccount
            | Self::Service
            | Self::Secret
            | Self::ConfigMap
            | Self::Event
            | Self::Lease
            | Self::Request => true,
            Self::Namespace | Self::Node | Self::TrustBundle | Self::Policy | Self::PolicyBinding | Self::PodSigner => {
                false
            }
        }
    }

    pub(crate) const fn has_status(self) -> bool {
        matches!(
            self,
            Self::Pod | Self::Node | Self::Namespace | Self::Service | Self::Request | Self::Policy | Self::PodSigner
        )
    }

    /// Whether a PUT may leave out the resourceVersion.
    pub(crate) const fn unconditional_update(self) -> bool {
        match self {
            Self::Namespace
            | Self::Node
            | Self::Pod
            | Self::ServiceAccount
            | Self::Service
            | Self::Secret
            | Self::ConfigMap
            | Self::Event => true,
            Self::Lease | Self::Request | Self::TrustBundle | Self::Policy | Self::PolicyBinding | Self::PodSigner => {
                false
            }
        }
    }

    /// Whether a PUT may create.
    pub(crate) const fn create_on_update(self) -> bool {
        matches!(self, Self::Lease | Self::Event)
    }

    /// The fields a field selector may name.
    pub(crate) const fn selectable(self) -> &'static [&'static str] {
        match self {
            Self::Pod => &[
                "metadata.name",
                "metadata.namespace",
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.nominatedNodeName",
            ],
            Self::Node => &["metadata.name", "spec.unschedulable"],
            Self::Namespace => &["metadata.name", "status.phase"],
            Self::Secret => &["metadata.name", "metadata.namespace", "type"],
            Self::Event => &[
                "involvedObject.kind",
                "involvedObject.namespace",
                "involvedObject.name",
                "involvedObject.uid",
                "metadata.name",
                "metadata.namespace",
                "reason",
                "type",
            ],
            Self::Request => &["metadata.name", "spec.signerName", "spec.podName", "spec.nodeName"],
            Self::TrustBundle => &["metadata.name", "spec.signerName"],
            Self::ServiceAccount | Self::ConfigMap | Self::Lease => &["metadata.name", "metadata.namespace"],
            Self::Service => &["metadata.name", "metadata.namespace", "spec.clusterIP", "spec.type"],
            Self::Policy | Self::PolicyBinding | Self::PodSigner => &["metadata.name"],
        }
    }

    const fn verbs(self) -> &'static [&'static str] {
        &["create", "delete", "get", "list", "patch", "update", "watch"]
    }
}

/// Everything served by `versions`, preferred versions first.
pub(crate) fn served(versions: Versions) -> Vec<Served> {
    let one = |kind: Kind, group, version, form| Served { kind, group, version, form };
    let mut all: Vec<Served> = ALL
        .into_iter()
        .filter(|kind| !matches!(kind, Kind::Request | Kind::TrustBundle | Kind::PodSigner))
        .map(|kind| one(kind, kind.group(), "v1", Form::Stored))
        .collect();
    all.push(one(Kind::Event, "events.k8s.io", "v1", Form::EventV1));
    all.push(one(Kind::PodSigner, "podmint.dev", "v1alpha1", Form::Stored));
    let (stable, beta) = match versions {
        Versions::V1_37 => (true, false),
        Versions::V1_37WithBeta => (true, true),
        Versions::V1_36 | Versions::V1_35 => (false, true),
    };
    let group = "certificates.k8s.io";
    if stable {
        all.push(one(Kind::Request, group, "v1", Form::RequestV1));
        all.push(one(Kind::TrustBundle, group, "v1", Form::Stored));
    }
    if beta {
        all.push(one(Kind::Request, group, "v1beta1", Form::Stored));
        all.push(one(Kind::TrustBundle, group, "v1beta1", Form::Stored));
    }
    all
}

/// `/apis`: the groups.
pub(crate) fn group_list(all: &[Served]) -> Value {
    let mut groups: Vec<&str> = all.iter().map(|one| one.group).filter(|group| !group.is_empty()).collect();
    groups.sort_unstable();
    groups.dedup();
    let groups: Vec<Value> = groups.into_iter().filter_map(|group| api_group(all, group)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/<group>`.
pub(crate) fn api_group(all: &[Served], group: &str) -> Option<Value> {
    let mut versions: Vec<&str> = Vec::new();
    for one in all.iter().filter(|one| one.group == group) {
        if !versions.contains(&one.version) {
            versions.push(one.version);
        }
    }
    let spelt = |version: &&str| json!({ "groupVersion": format!("{group}/{version}"), "version": version });
    let listed: Vec<Value> = versions.iter().map(spelt).collect();
    let preferred = versions.first().map(spelt)?;
    Some(json!({
        "kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": listed, "preferredVersion": preferred
    }))
}

/// `/api/v1` or `/apis/<group>/<version>`: the resources.
pub(crate) fn resource_list(all: &[Served], group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for one in all.iter().filter(|one| one.group == group && one.version == version) {
        let kind = one.kind;
        resources.push(json!({
            "name": kind.plural(), "singularName": kind.name().to_lowercase(), "namespaced": kind.namespaced(),
            "kind": kind.name(), "verbs": kind.verbs(),
        }));
        if kind.has_status() {
            resources.push(json!({
                "name": format!("{}/status", kind.plural()), "singularName": "", "namespaced": kind.namespaced(),
                "kind": kind.name(), "verbs": ["get", "patch", "update"],
            }));
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    (!resources.is_empty()).then(|| {
        json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources })
    })
}
