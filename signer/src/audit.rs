//! The record of what was issued and refused, for courts: one JSON line before anything is published, one with what became of
//! it. What could not be recorded is not published: [`Recorded`] is the only thing that can be, and only this file makes it.

mod log;

use std::sync::Arc;

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

pub(crate) use self::log::Log;
pub use self::log::{AuditError, Sink};
use crate::{
    cluster::{versions::Version, wire::Target},
    names::{RequestUid, SerialNumber},
    pipeline::{Claim, Denial, Issued, rules::Broken, status},
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
                "sans": [{
                    "uri": words.uri,
                    "trustDomain": {"value": approved.signer().trust_domain.as_str(), "from": "PodSigner spec.trustDomain"},
                    "namespace": {"value": claim.target.namespace, "from": "namespace of request and pod"},
                    "serviceAccount": {"value": claim.service_account, "from": "Pod spec.serviceAccountName, UID checked"},
                }],
                "fingerprint": issued.fingerprint(),
                "issuer": {"generation": issued.generation()},
                "podSigner": approved.signer().name,
                "rule": approved.rule(),
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

fn add(record: &mut Value, more: Value) {
    if let (Some(record), Value::Object(more)) = (record.as_object_mut(), more) {
        record.extend(more);
    }
}

/// RFC 3339; a time that cannot be written so is not one that we sign.
fn text(at: OffsetDateTime) -> Option<String> {
    at.replace_nanosecond(0).ok()?.format(&Rfc3339).ok()
}
