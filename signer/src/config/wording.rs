//! What the certificates of a PodSigner say beside the key: `spec.profile`.

use std::fmt;

use super::template::Template;
use crate::names::DnsName;

/// What is in force, all of it checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wording {
    /// `spec.profile.spiffeId`: the path behind the trust domain; none for `none`.
    pub spiffe_path: Option<Template>,
    /// `spec.profile.dnsNames`: none by default.
    pub dns_names: Box<[DnsSource]>,
    /// `spec.profile.ipAddresses`: whether the pod's addresses are named.
    pub pod_ips: bool,
    /// `spec.profile.usages`.
    pub usages: Usages,
    /// `spec.profile.subject`: empty by default.
    pub subject: SubjectWording,
    /// The DNS domain of the cluster, behind every DNS name.
    pub cluster_domain: DnsName,
}

/// The fields of the subject, for servers that go by them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectWording {
    /// `organization`.
    pub organization: Option<Template>,
    /// `organizationalUnit`.
    pub organizational_unit: Option<Template>,
    /// `commonName`.
    pub common_name: Option<Template>,
}

impl SubjectWording {
    /// Each field that there may be, by its name in YAML.
    pub(crate) fn fields(&self) -> [(&'static str, Option<&Template>); 3] {
        let Self { organization, organizational_unit, common_name } = self;
        [
            ("organization", organization.as_ref()),
            ("organizationalUnit", organizational_unit.as_ref()),
            ("commonName", common_name.as_ref()),
        ]
    }

    /// Whether the subject is empty.
    pub fn is_empty(&self) -> bool {
        self.fields().iter().all(|(_, template)| template.is_none())
    }
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usages {
    /// Both ends, as every X.509-SVID must.
    Both,
    /// TLS servers alone.
    Server,
    /// TLS clients alone.
    Client,
}

impl Usages {
    /// Whether a client may present it.
    pub fn client(self) -> bool {
        match self {
            Self::Both | Self::Client => true,
            Self::Server => false,
        }
    }

    /// Whether a server may present it.
    pub fn server(self) -> bool {
        match self {
            Self::Both | Self::Server => true,
            Self::Client => false,
        }
    }
}

/// Where DNS names come from. Each has a fact behind it that the API server tells; what a pod says of itself is never enough.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsSource {
    /// The names of each Service whose selector matches the pod's labels.
    Services,
    /// The pod's own name below such a Service: `spec.hostname` below `spec.subdomain`, as StatefulSets set them.
    Hostname,
    /// A name below the pod's namespace, made of verified facts.
    Template(Template),
}

impl DnsSource {
    /// Those that are words, as they are written in YAML. A template has a dot.
    pub(super) const WORDS: [&str; 2] = ["services", "hostname"];
}

impl fmt::Display for DnsSource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Services => out.write_str("services"),
            Self::Hostname => out.write_str("hostname"),
            Self::Template(template) => write!(out, "{template}"),
        }
    }
}

impl Wording {
    /// Whether somebody has to know which Services select a pod.
    pub fn wants_services(&self) -> bool {
        self.dns_names.iter().any(|source| match source {
            DnsSource::Services | DnsSource::Hostname => true,
            DnsSource::Template(_) => false,
        })
    }
}
