//! The configuration: a stream of `PodSigner` documents in YAML comes in, checked values come out, or an error that names the
//! document, the field and the line, and says what to write instead.

mod check;
mod document;
pub(crate) mod object;
mod pattern;
mod profile;
mod report;
mod rule;
mod template;
#[cfg(test)]
mod tests;
mod wording;

use std::{path::Path, sync::Arc};

pub(crate) use self::{check::LONGEST_SECONDS, template::subject_text};
pub use self::{
    document::ConfigError,
    pattern::Pattern,
    template::{Template, Variable},
    wording::{DnsSource, SubjectWording, Usages, Wording},
};
use crate::{
    authority::Wish,
    names::{CertificateName, DnsName, NameError, Namespace, ServiceAccountName, SignerName, TrustDomain},
    pipeline::KeyType,
};

/// The two domains of an installation, given on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domains {
    /// All our signer names are below this one: admission guard and RBAC name it.
    pub signer: DnsName,
    /// The cluster's DNS domain.
    pub cluster: DnsName,
}

impl Domains {
    /// Checks both.
    pub fn parse(signer: &str, cluster: &str) -> Result<Self, NameError> {
        Ok(Self { signer: DnsName::parse(signer)?, cluster: DnsName::parse(cluster)? })
    }
}

/// What is in force.
#[derive(Clone, Debug)]
pub struct Config {
    signers: Vec<Arc<PodSigner>>,
    domains: Domains,
}

/// One signer name, and who gets certificates by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSigner {
    /// `metadata.name`.
    pub name: DnsName,
    /// `spec.signerName`.
    pub signer_name: SignerName,
    /// `spec.trustDomain`.
    pub trust_domain: TrustDomain,
    /// `spec.allow`: nobody is admitted by an empty list.
    pub allow: Box<[AllowRule]>,
    /// `spec.suspend`.
    pub suspend: bool,
    /// `spec.keyTypes`.
    pub key_types: Box<[KeyType]>,
    /// `spec.lifetime`.
    pub lifetime: Lifetime,
    /// `spec.profile`.
    pub wording: Wording,
    /// `spec.authority`.
    pub authority: Authority,
    /// What its annotations ask of the CA; nothing is known of a document in a file, which is never changed for a day.
    pub wish: Option<Wish>,
}

/// Keys and values, sorted.
pub type LabelPairs = Box<[(Box<str>, Box<str>)]>;

/// Who is admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowRule {
    /// For messages and the audit log.
    pub name: String,
    /// Of which one must match.
    pub namespaces: Box<[Pattern]>,
    /// Of which one must match.
    pub service_accounts: Box<[Pattern]>,
    /// Labels that the namespace must have, all of them.
    pub namespace_labels: LabelPairs,
    /// Labels that the node must have, all of them: an identity lives only where it should.
    pub node_labels: LabelPairs,
    /// The longest life that this rule grants.
    pub max_seconds: Option<u32>,
    /// The only keys that this rule certifies.
    pub key_types: Option<Box<[KeyType]>>,
    /// What pods may ask for beyond the profile.
    pub requests: Requests,
    /// Not in force: what it would change is counted and logged.
    pub shadow: bool,
}

/// What the `userAnnotations` of a pod may ask for: nothing by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Names of Services that select the pod.
    pub services: bool,
    /// Its host name below such a Service.
    pub hostname: bool,
    /// Its addresses.
    pub pod_ips: bool,
    /// These DNS names, word for word.
    pub dns_names: Box<[CertificateName]>,
    /// These common names, word for word.
    pub common_names: Box<[Box<str>]>,
}

/// How long certificates live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The longest life that is granted.
    pub max_seconds: u32,
    /// Renewal begins somewhere from here on, in thousandths of the life …
    pub refresh_from_permille: u32,
    /// … to here.
    pub refresh_to_permille: u32,
}

/// Where a CA comes from, and where it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Where it comes from.
    pub origin: Origin,
    /// The Secret of the issuing CA, read by every replica.
    pub secret_name: DnsName,
    /// The Secret of the root, read only while an issuing CA is made.
    pub root_secret_name: DnsName,
}

/// Where a CA comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Podmint makes it.
    SelfManaged,
    /// Somebody writes it into this Secret of our namespace.
    Secret(DnsName),
    /// Somebody mounts it into this folder.
    Files(Box<Path>),
}

impl Authority {
    /// Our own two Secrets.
    pub(crate) fn names(&self) -> [&DnsName; 2] {
        let Self { origin: _, secret_name, root_secret_name } = self;
        [secret_name, root_secret_name]
    }

    /// Every Secret that it rests on: no other PodSigner may have one of them.
    fn secrets(&self) -> impl Iterator<Item = &DnsName> {
        self.names().into_iter().chain(match &self.origin {
            Origin::Secret(brought) => Some(brought),
            Origin::SelfManaged | Origin::Files(_) => None,
        })
    }

    /// Where it is brought, as messages call it; none where we make it.
    pub(crate) fn brought(&self) -> Option<String> {
        match &self.origin {
            Origin::SelfManaged => None,
            Origin::Secret(name) => Some(format!("the Secret {name}")),
            Origin::Files(folder) => Some(format!("the folder {}", folder.display())),
        }
    }
}

impl Config {
    /// Reads and checks a stream of documents.
    pub fn parse(yaml: &str, domains: &Domains) -> Result<Self, ConfigError> {
        let signers = check::signers(&document::read(yaml)?, domains)?;
        Ok(Self { signers: signers.into_iter().map(Arc::new).collect(), domains: domains.clone() })
    }

    /// These, checked already.
    pub(crate) fn of(signers: Vec<Arc<PodSigner>>, domains: &Domains) -> Self {
        Self { signers, domains: domains.clone() }
    }

    /// All of them, as they stand in the file.
    pub fn signers(&self) -> &[Arc<PodSigner>] {
        &self.signers
    }

    /// The one with this name.
    pub fn signer(&self, name: &SignerName) -> Option<&Arc<PodSigner>> {
        self.signers.iter().find(|signer| signer.signer_name == *name)
    }

    /// The domains of this installation.
    pub fn domains(&self) -> &Domains {
        &self.domains
    }

    /// What would be in force, for people: the output of `podmint-signer check`.
    pub fn report(&self) -> String {
        report::report(self)
    }
}

impl PodSigner {
    /// Whether somebody has to know which Services select a pod.
    pub fn wants_services(&self) -> bool {
        self.wording.wants_services() || self.allow.iter().any(|rule| rule.requests.services || rule.requests.hostname)
    }
}

impl AllowRule {
    /// Whether both the namespace and the ServiceAccount match.
    pub fn admits(&self, namespace: &Namespace, service_account: &ServiceAccountName) -> bool {
        let one = |patterns: &[Pattern], text: &str| patterns.iter().any(|pattern| pattern.matches(text));
        one(&self.namespaces, namespace.as_str()) && one(&self.service_accounts, service_account.as_str())
    }
}
