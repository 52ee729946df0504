//! The record of what was issued and refused, for courts: one JSON line before anything is published, one with what became of
//! it. What could not be recorded is not published: [`Recorded`] is the only thing that can be, and only this file makes it.

mod log;

use std::sync::Arc;

use serde_json::{Map, Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub(crate) use self::log::Log;
pub use self::log::{AuditError, Sink};
use crate::{
    cluster::{versions::Version, wire::Target},
    config::{Template, Variable},
    names::{RequestUid, SerialNumber},
    pipeline::{
        Because, Claim, Denial, DnsWord, HeldBy, Issued,
        asked::{ADD_POD_IP, COMMON_NAME},
        rules::Broken,
        status,
    },
};

/// An answer whose line is in the audit log.
///
/// The fields are private to this file, so that nobody can publish what was not recorded.
pub(crate) struct Recorded(Final);

/// An answer that is going to be published.
enum Final {
    Issued(Box<Issued>),
    Denied(Refused),
}

/// A refusal, with what is known of whoever was refused.
pub(crate) struct Refused {
    pub(crate) target: Target,
    /// None when the request was too broken to be read.
    pub(crate) claim: Option<Arc<Claim>>,
    pub(crate) denial: Denial,
}

/// What became of a recorded answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is what the API server has.
    Published,
    /// Somebody else answered first.
    Lost,
    /// The request is gone.
    Gone,
    /// It was not written: the request had changed, or time had passed. Another answer may follow.
    Withdrawn,
    /// The API server refused it.
    Rejected,
    /// Nobody knows: the reply was lost, and the request could not be read again.
    Unknown,
}

/// Writes records. All clones write to one log.
#[derive(Clone, Debug)]
pub(crate) struct Clerk {
    log: Log,
    replica: Arc<str>,
}

impl Clerk {
    pub(crate) fn new(log: Log, replica: &str) -> Self {
        Self { log, replica: replica.into() }
    }

    /// Records a certificate, with every fact behind it.
    pub(crate) async fn record_issue(&self, issued: Box<Issued>, at: OffsetDateTime) -> Result<Recorded, AuditError> {
        let words = issued.words();
        let claim = issued.claim();
        let approved = issued.approved();
        let mut record = self.record("issuing", &claim.target, Some(claim), at);
        add(
            &mut record,
            json!({
                "serial": words.serial,
                "sans": names(&issued),
                "subject": subject(&issued),
                "fingerprint": issued.fingerprint(),
                "issuer": {"generation": issued.generation()},
                "podSigner": approved.signer().name,
                "rule": approved.rule(),
                "shadowRule": approved.shadow(),
                "notBefore": text(words.not_before),
                "notAfter": text(words.not_after),
                "beginRefreshAt": text(words.begin_refresh_at),
                "ignoredCsrContent": claim.ignored,
            }),
        );
        self.log.write(record).await?;
        Ok(Recorded(Final::Issued(issued)))
    }

    /// Records a refusal for ever.
    pub(crate) async fn record_denial(&self, refused: Refused, at: OffsetDateTime) -> Result<Recorded, AuditError> {
        let mut record = self.record("denying", &refused.target, refused.claim.as_deref(), at);
        add(&mut record, json!({"reason": refused.denial.label(), "message": refused.denial.to_string()}));
        self.log.write(record).await?;
        Ok(Recorded(Final::Denied(refused)))
    }

    /// Records that an administrator's hold keeps a pod from its certificate.
    pub(crate) async fn record_hold(&self, claim: &Claim, by: &HeldBy, at: OffsetDateTime) -> Result<(), AuditError> {
        let mut record = self.record("held", &claim.target, Some(claim), at);
        add(&mut record, json!({"hold": by.to_json()}));
        self.log.write(record).await
    }

    /// Records what became of it.
    pub(crate) async fn record_outcome(
        &self,
        receipt: &Receipt,
        outcome: Outcome,
        at: OffsetDateTime,
    ) -> Result<(), AuditError> {
        let record = json!({
            "time": text(at),
            "event": "outcome",
            "replica": &*self.replica,
            "request": {"uid": receipt.request},
            "answer": receipt.answer,
            "serial": receipt.serial,
            "outcome": outcome.label(),
        });
        self.log.write(record).await
    }

    fn record(&self, event: &str, target: &Target, claim: Option<&Claim>, at: OffsetDateTime) -> Value {
        let mut record = json!({
            "time": text(at),
            "event": event,
            "replica": &*self.replica,
            "request": {"namespace": target.namespace, "name": target.name, "uid": target.uid},
        });
        if let Some(claim) = claim {
            add(
                &mut record,
                json!({
                    "signerName": claim.signer,
                    "pod": {"namespace": claim.target.namespace, "name": claim.pod, "uid": claim.pod_uid},
                    "serviceAccount": {"name": claim.service_account, "uid": claim.service_account_uid},
                    "node": {"name": claim.node, "uid": claim.node_uid},
                    "keyType": claim.key_type(),
                    "keyHash": claim.key.hash(),
                    "maxExpirationSeconds": claim.max_expiration_seconds,
                }),
            );
        }
        record
    }
}

/// What remains of a recorded answer once it is on its way.
#[derive(Clone, Debug)]
pub(crate) struct Receipt {
    request: RequestUid,
    answer: &'static str,
    serial: Option<SerialNumber>,
}

impl Recorded {
    /// Where it goes.
    pub(crate) fn target(&self) -> &Target {
        match &self.0 {
            Final::Issued(issued) => &issued.claim().target,
            Final::Denied(refused) => &refused.target,
        }
    }

    /// The body of the one PUT.
    pub(crate) fn body(&self, version: Version, now: OffsetDateTime) -> Result<Value, Broken> {
        match &self.0 {
            Final::Issued(issued) => status::issued(issued, version, now),
            Final::Denied(refused) => status::denied(&refused.target, &refused.denial, version, now),
        }
    }

    /// The chain that is about to be published.
    pub(crate) fn chain_pem(&self) -> Option<&str> {
        match &self.0 {
            Final::Issued(issued) => Some(issued.chain_pem()),
            Final::Denied(_) => None,
        }
    }

    /// Whether it is too old to be published.
    pub(crate) fn is_stale(&self, now: OffsetDateTime) -> bool {
        match &self.0 {
            Final::Issued(issued) => issued.is_stale(now),
            Final::Denied(_) => false,
        }
    }

    pub(crate) fn receipt(&self) -> Receipt {
        let (answer, serial) = match &self.0 {
            Final::Issued(issued) => ("issue", Some(issued.words().serial)),
            Final::Denied(_) => ("deny", None),
        };
        Receipt { request: self.target().uid.clone(), answer, serial }
    }
}

impl Outcome {
    const fn label(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Lost => "lost",
            Self::Gone => "gone",
            Self::Withdrawn => "withdrawn",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }
}

/// Each name, and the fact and the words of the PodSigner that it rests on.
fn names(issued: &Issued) -> Value {
    let (words, claim, signer) = (issued.words(), issued.claim(), issued.approved().signer());
    let namespace = json!({"value": claim.target.namespace, "from": "namespace of request and pod"});
    let identity = words.uri.iter().zip(&signer.wording.spiffe_path).map(|(uri, path)| {
        let mut record = json!({
            "uri": uri,
            "trustDomain": {"value": signer.trust_domain.as_str(), "from": "PodSigner spec.trustDomain"},
        });
        add(&mut record, values(path, issued));
        record
    });
    let dns = words.dns_names.iter().map(|DnsWord { name, because, asked_by }| {
        let source = match because {
            Because::Service(_) => "services".to_owned(),
            Because::Hostname(..) => "hostname".to_owned(),
            Because::Template(template) => template.to_string(),
            Because::Rule => "dnsNames".to_owned(),
        };
        let mut record = json!({
            "dns": name,
            "namespace": namespace,
            "grantedBy": granted_by(issued, "dnsNames", &source, *asked_by),
        });
        add(
            &mut record,
            match because {
                Because::Rule => json!({}),
                Because::Service(service) => json!({"service": {"value": service, "from": BY_SELECTOR}}),
                Because::Hostname(hostname, service) => json!({
                    "hostname": {"value": hostname, "from": "Pod spec.hostname"},
                    "service": {"value": service, "from": format!("Pod spec.subdomain, and {BY_SELECTOR}")},
                }),
                Because::Template(template) => values(template, issued),
            },
        );
        record
    });
    let addresses = words.ip_addresses.iter().map(|address| {
        let asked_by = (!signer.wording.pod_ips).then_some(ADD_POD_IP);
        json!({
            "ip": address.to_string(),
            "from": "Pod status.podIPs",
            "grantedBy": granted_by(issued, "ipAddresses", "podIPs", asked_by),
        })
    });
    identity.chain(dns).chain(addresses).collect()
}

/// The subject's fields, each with the facts in it; null where it is empty.
fn subject(issued: &Issued) -> Value {
    let words = &issued.words().subject;
    let wording = &issued.approved().signer().wording.subject;
    let texts = [&words.organization, &words.organizational_unit, &words.common_name];
    let asked = issued.approved().asked().common_name.is_some();
    let fields = wording.fields().into_iter().zip(texts).filter_map(|((field, template), text)| {
        if field == "commonName" && asked {
            let granted_by = granted_by(issued, "subject", "commonNames", Some(COMMON_NAME));
            return Some((field.to_owned(), json!({"text": text.as_ref()?, "grantedBy": granted_by})));
        }
        let mut record = json!({"text": text.as_ref()?, "grantedBy": format!("PodSigner spec.profile.subject.{field}: {}", template?)});
        add(&mut record, values(template?, issued));
        Some((field.to_owned(), record))
    });
    let fields: Map<String, Value> = fields.collect();
    if fields.is_empty() { Value::Null } else { fields.into() }
}

/// The words of the PodSigner that give a name: of its profile to all, or of a rule to those who ask.
fn granted_by(issued: &Issued, field: &str, source: &str, asked_by: Option<&str>) -> String {
    match asked_by {
        None => format!("PodSigner spec.profile.{field}: {source}"),
        Some(annotation) => {
            format!(
                "PodSigner spec.allow, rule {}, requests.{source}; asked for by {annotation}",
                issued.approved().rule()
            )
        }
    }
}

/// What each variable of a template stood for, and where that was read.
fn values(template: &Template, issued: &Issued) -> Value {
    let (claim, pod) = (issued.claim(), issued.approved().verified().pod());
    let value = |variable: &Variable| match variable {
        Variable::Namespace => {
            ("namespace".to_owned(), json!({"value": claim.target.namespace, "from": "namespace of request and pod"}))
        }
        Variable::ServiceAccount => (
            "serviceAccount".to_owned(),
            json!({"value": claim.service_account, "from": "Pod spec.serviceAccountName, UID checked"}),
        ),
        Variable::Pod => ("pod".to_owned(), json!({"value": claim.pod, "from": "Pod metadata.name, UID checked"})),
        Variable::Node => ("node".to_owned(), json!({"value": claim.node, "from": "Pod spec.nodeName, UID checked"})),
        Variable::Label(key) => (
            format!("label:{key}"),
            json!({"value": pod.labels.get(key), "from": "Pod metadata.labels, trusted by spec.profile.trustedLabels"}),
        ),
    };
    Value::Object(template.variables().map(value).collect())
}

const BY_SELECTOR: &str = "Service whose spec.selector matches the Pod's labels";

fn add(record: &mut Value, more: Value) {
    if let (Some(record), Value::Object(more)) = (record.as_object_mut(), more) {
        record.extend(more);
    }
}

/// RFC 3339; a time that cannot be written so is not one that we sign.
fn text(at: OffsetDateTime) -> Option<String> {
    at.replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}
