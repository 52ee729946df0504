//! Statuses that our signer did not write, with certificates of an authority that nobody knows.

use podmint_tests::keys::Key;
use podmint_tests::{Stage, call};
use serde_json::{Value, json};

/// A certificate with what the status says about it.
pub(crate) struct Issue<'a> {
    pub(crate) key: &'a Key,
    pub(crate) from: i64,
    pub(crate) life: i64,
    pub(crate) refresh: i64,
    pub(crate) reason: &'a str,
}

impl Issue<'_> {
    pub(crate) fn status(&self) -> Value {
        let mut status = conditions(&["Issued"], self.reason);
        status["certificateChain"] = json!(certificate(self.key, self.from, self.life, false));
        status["notBefore"] = json!(rfc3339(self.from));
        status["beginRefreshAt"] = json!(rfc3339(self.refresh));
        status["notAfter"] = json!(rfc3339(self.from + self.life));
        status
    }
}

pub(crate) fn conditions(types: &[&str], reason: &str) -> Value {
    let one = |name: &&str| json!({"type": name, "status": "True", "reason": reason, "message": "words", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    json!({"conditions": types.iter().map(one).collect::<Vec<_>>()})
}

/// Signed by a CA that nobody knows: the API server does not mind.
pub(crate) fn certificate(key: &Key, from: i64, life: i64, is_ca: bool) -> String {
    let time = |seconds| time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    let mut leaf = rcgen::CertificateParams::default();
    leaf.not_before = time(from);
    leaf.not_after = time(from + life);
    if is_ca {
        leaf.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    }
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::new(authority, rcgen::KeyPair::generate().unwrap());
    let public = rcgen::SubjectPublicKeyInfo::from_der(&key.public()).unwrap();
    leaf.signed_by(&public, &issuer).unwrap().pem()
}

/// The server's own idea of the time: when it says that it made something.
pub(crate) async fn server_seconds(stage: &Stage) -> i64 {
    let namespace = call::get(&stage.admin, &format!("/api/v1/namespaces/{}", stage.namespace)).await.unwrap();
    podmint_tests::leaf::seconds(namespace["metadata"]["creationTimestamp"].as_str().unwrap())
}

pub(crate) fn rfc3339(seconds: i64) -> String {
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    time.format(&time::format_description::well_known::Rfc3339).unwrap()
}

/// A root that nobody knows, as PEM.
pub(crate) fn foreign_root() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut root = rcgen::CertificateParams::default();
    root.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    root.self_signed(&key).unwrap().pem()
}
