//! What a line of the record says, serialised field by field: two lines stand behind each certificate.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::{self, Display},
    net::IpAddr,
};

use serde::{Serialize, Serializer};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    cluster::wire::Target,
    config::{Template, Variable},
    names::{SerialNumber, Sha256},
    pipeline::{
        Because, Claim, DnsWord, Issued, KeyType,
        asked::{ADD_POD_IP, COMMON_NAME},
    },
};

/// What happened, to which request, and what else is to be said of it.
#[derive(Serialize)]
pub(super) struct Line<'a, More> {
    pub(super) time: Time,
    pub(super) event: &'static str,
    pub(super) replica: &'a str,
    pub(super) request: Request<'a>,
    #[serde(flatten)]
    pub(super) more: More,
}

/// RFC 3339, to the second; null where it cannot be written so, which is no time that we sign.
pub(super) struct Time(pub(super) OffsetDateTime);

#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Request<'a> {
    Named {
        namespace: &'a str,
        name: &'a str,
        uid: &'a str,
    },
    /// One that a line before this has named.
    Known {
        uid: &'a str,
    },
}

/// What is claimed, and by whom.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Claimed<'a> {
    signer_name: &'a str,
    pod: Pod<'a>,
    service_account: Owner<'a>,
    node: Owner<'a>,
    key_type: KeyType,
    key_hash: Sha256,
    max_expiration_seconds: u32,
}

#[derive(Serialize)]
struct Pod<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
}

#[derive(Serialize)]
struct Owner<'a> {
    name: &'a str,
    uid: &'a str,
}

/// A refusal for ever.
#[derive(Serialize)]
pub(super) struct Denying<'a> {
    /// None when the request was too broken to be read.
    #[serde(flatten)]
    pub(super) claim: Option<Claimed<'a>>,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// A hold of an administrator's.
#[derive(Serialize)]
pub(super) struct Held<'a> {
    #[serde(flatten)]
    pub(super) claim: Claimed<'a>,
    pub(super) hold: Value,
}

/// What became of an answer.
#[derive(Serialize)]
pub(super) struct Became {
    pub(super) answer: &'static str,
    pub(super) serial: Option<SerialNumber>,
    pub(super) outcome: &'static str,
}

/// The certificate, with every fact behind it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Issuing<'a> {
    #[serde(flatten)]
    claim: Claimed<'a>,
    serial: SerialNumber,
    sans: Vec<San<'a>>,
    /// Its fields by their names in YAML; null where it is empty.
    subject: Option<BTreeMap<&'static str, Field<'a>>>,
    fingerprint: Sha256,
    issuer: Issuer,
    pod_signer: &'a str,
    rule: &'a str,
    shadow_rule: Option<&'a str>,
    not_before: Time,
    not_after: Time,
    begin_refresh_at: Time,
    ignored_csr_content: &'a [String],
}

#[derive(Serialize)]
struct Issuer {
    generation: u64,
}

/// A name, and the words of the PodSigner and the facts that it rests on.
#[derive(Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
enum San<'a> {
    Identity {
        uri: &'a str,
        #[serde(flatten)]
        facts: Facts<'a>,
    },
    Dns {
        dns: &'a str,
        granted_by: GrantedBy<'a>,
        #[serde(flatten)]
        facts: Facts<'a>,
    },
    Address {
        ip: IpAddr,
        granted_by: GrantedBy<'a>,
        from: &'static str,
    },
}

/// A field of the subject, likewise.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Field<'a> {
    text: &'a str,
    granted_by: GrantedBy<'a>,
    #[serde(flatten)]
    facts: Facts<'a>,
}

/// By what they are, as a template calls it.
type Facts<'a> = BTreeMap<Cow<'static, str>, Fact<'a>>;

#[derive(Serialize)]
struct Fact<'a> {
    value: Option<&'a str>,
    /// Where it was read.
    from: &'static str,
}

/// The words of the PodSigner that give a name.
enum GrantedBy<'a> {
    /// Those of its profile, to all.
    Profile { field: &'static str, source: &'a dyn Display },
    /// Those of its profile for a field of the subject.
    Subject { field: &'static str, template: &'a Template },
    /// Those of a rule, to those who ask.
    Rule { rule: &'a str, requests: &'static str, annotation: &'static str },
}

impl<'a> Request<'a> {
    pub(super) fn named(target: &'a Target) -> Self {
        let Target { namespace, name, uid, resource_version: _ } = target;
        Self::Named { namespace: namespace.as_str(), name: name.as_str(), uid: uid.as_str() }
    }
}

impl<'a> Claimed<'a> {
    pub(super) fn of(claim: &'a Claim) -> Self {
        Self {
            signer_name: claim.signer.as_str(),
            pod: Pod {
                namespace: claim.target.namespace.as_str(),
                name: claim.pod.as_str(),
                uid: claim.pod_uid.as_str(),
            },
            service_account: Owner { name: claim.service_account.as_str(), uid: claim.service_account_uid.as_str() },
            node: Owner { name: claim.node.as_str(), uid: claim.node_uid.as_str() },
            key_type: claim.key_type(),
            key_hash: claim.key.hash(),
            max_expiration_seconds: claim.max_expiration_seconds,
        }
    }
}

impl<'a> Issuing<'a> {
    pub(super) fn of(issued: &'a Issued) -> Self {
        let (words, claim, approved) = (issued.words(), issued.claim(), issued.approved());
        let subject = Field::all(issued);
        Self {
            claim: Claimed::of(claim),
            serial: words.serial,
            sans: San::all(issued),
            subject: (!subject.is_empty()).then_some(subject),
            fingerprint: issued.fingerprint(),
            issuer: Issuer { generation: issued.generation() },
            pod_signer: approved.signer().name.as_str(),
            rule: approved.rule(),
            shadow_rule: approved.shadow(),
            not_before: Time(words.not_before),
            not_after: Time(words.not_after),
            begin_refresh_at: Time(words.begin_refresh_at),
            ignored_csr_content: &claim.ignored,
        }
    }
}

impl<'a> San<'a> {
    fn all(issued: &'a Issued) -> Vec<Self> {
        let (words, signer) = (issued.words(), issued.approved().signer());
        let identity = words.uri.iter().zip(&signer.wording.spiffe_path).map(|(uri, path)| {
            let mut facts = facts(path, issued);
            facts.insert("trustDomain".into(), Fact::new(signer.trust_domain.as_str(), "PodSigner spec.trustDomain"));
            Self::Identity { uri, facts }
        });
        let dns = words.dns_names.iter().map(|word| Self::dns(word, issued));
        let granted_by = || match signer.wording.pod_ips {
            true => GrantedBy::Profile { field: "ipAddresses", source: &"podIPs" },
            false => GrantedBy::rule(issued, "podIPs", ADD_POD_IP),
        };
        let address = |ip: &IpAddr| Self::Address { ip: *ip, granted_by: granted_by(), from: "Pod status.podIPs" };
        identity.chain(dns).chain(words.ip_addresses.iter().map(address)).collect()
    }

    fn dns(word: &'a DnsWord, issued: &'a Issued) -> Self {
        let DnsWord { name, because, asked_by } = word;
        let (source, requests): (&dyn Display, _) = match because {
            Because::Service(_) => (&"services", "services"),
            Because::Hostname(..) => (&"hostname", "hostname"),
            Because::Template(template) => (template, "dnsNames"),
            Because::Rule => (&"dnsNames", "dnsNames"),
        };
        let granted_by = match *asked_by {
            None => GrantedBy::Profile { field: "dnsNames", source },
            Some(annotation) => GrantedBy::rule(issued, requests, annotation),
        };
        let mut facts = match because {
            Because::Rule => Facts::new(),
            Because::Service(service) => Facts::from([("service".into(), Fact::new(service.as_str(), BY_SELECTOR))]),
            Because::Hostname(hostname, service) => Facts::from([
                ("hostname".into(), Fact::new(hostname.as_str(), "Pod spec.hostname")),
                ("service".into(), Fact::new(service.as_str(), BY_SUBDOMAIN)),
            ]),
            Because::Template(template) => facts(template, issued),
        };
        facts.insert("namespace".into(), Fact::namespace(issued));
        Self::Dns { dns: name.as_str(), granted_by, facts }
    }
}

impl<'a> Field<'a> {
    fn all(issued: &'a Issued) -> BTreeMap<&'static str, Self> {
        let words = &issued.words().subject;
        let asked = issued.approved().asked().common_name.is_some();
        let texts = [&words.organization, &words.organizational_unit, &words.common_name];
        let fields = issued.approved().signer().wording.subject.fields().into_iter().zip(texts);
        let fields = fields.filter_map(|((field, template), text)| {
            let text = text.as_deref()?;
            if field == "commonName" && asked {
                let granted_by = GrantedBy::rule(issued, "commonNames", COMMON_NAME);
                return Some((field, Self { text, granted_by, facts: Facts::new() }));
            }
            let template = template?;
            let granted_by = GrantedBy::Subject { field, template };
            Some((field, Self { text, granted_by, facts: facts(template, issued) }))
        });
        fields.collect()
    }
}

/// What each variable of a template stood for.
fn facts<'a>(template: &'a Template, issued: &'a Issued) -> Facts<'a> {
    let (claim, pod) = (issued.claim(), issued.approved().verified().pod());
    let fact = |variable: &Variable| match variable {
        Variable::Namespace => ("namespace".into(), Fact::namespace(issued)),
        Variable::ServiceAccount => {
            let account = claim.service_account.as_str();
            ("serviceAccount".into(), Fact::new(account, "Pod spec.serviceAccountName, UID checked"))
        }
        Variable::Pod => ("pod".into(), Fact::new(claim.pod.as_str(), "Pod metadata.name, UID checked")),
        Variable::Node => ("node".into(), Fact::new(claim.node.as_str(), "Pod spec.nodeName, UID checked")),
        Variable::Label(key) => {
            let value = pod.labels.get(key).map(|value| &**value);
            let from = "Pod metadata.labels, trusted by spec.profile.trustedLabels";
            (format!("label:{key}").into(), Fact { value, from })
        }
    };
    template.variables().map(fact).collect()
}

impl<'a> Fact<'a> {
    fn new(value: &'a str, from: &'static str) -> Self {
        Self { value: Some(value), from }
    }

    fn namespace(issued: &'a Issued) -> Self {
        Self::new(issued.claim().target.namespace.as_str(), "namespace of request and pod")
    }
}

impl<'a> GrantedBy<'a> {
    fn rule(issued: &'a Issued, requests: &'static str, annotation: &'static str) -> Self {
        Self::Rule { rule: issued.approved().rule(), requests, annotation }
    }
}

impl Display for GrantedBy<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Profile { field, source } => write!(out, "PodSigner spec.profile.{field}: {source}"),
            Self::Subject { field, template } => write!(out, "PodSigner spec.profile.subject.{field}: {template}"),
            Self::Rule { rule, requests, annotation } => {
                write!(out, "PodSigner spec.allow, rule {rule}, requests.{requests}; asked for by {annotation}")
            }
        }
    }
}

impl Serialize for GrantedBy<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        self.0.replace_nanosecond(0).ok().and_then(|at| at.format(&Rfc3339).ok()).serialize(out)
    }
}

const BY_SELECTOR: &str = "Service whose spec.selector matches the Pod's labels";
const BY_SUBDOMAIN: &str = "Pod spec.subdomain, and Service whose spec.selector matches the Pod's labels";
