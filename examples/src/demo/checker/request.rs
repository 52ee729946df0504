//! One certificate request: read from JSON, then held against its pod, its key and the published roots.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::certificate::{self, Leaf};
use super::evidence::{Evidence, RequestFacts};

/// A request, as its last version shows it.
#[derive(Debug)]
pub struct Request {
    /// Its UID.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its namespace, which is the pod's.
    pub namespace: String,
    /// The pod it says it is for.
    pub pod: String,
    /// The UID it says that pod has.
    pub pod_uid: String,
    /// What became of it.
    pub answer: Answer,
    /// The node it says that pod is on.
    pub node: String,
    /// The service account it says that pod runs as.
    pub account: String,
    signer: String,
    key: Vec<u8>,
    longest: i64,
}

/// What became of it.
#[derive(Debug)]
pub enum Answer {
    /// Nothing yet.
    Pending,
    /// A certificate.
    Issued(Box<Certificate>),
    /// Denied.
    Denied,
    /// Something the signer must never write.
    Broken,
}

/// What an issued status holds.
#[derive(Debug)]
pub struct Certificate {
    chain: Vec<Vec<u8>>,
    leaf: Leaf,
    /// The resourceVersion of the write that published it.
    revision: u64,
    not_before: OffsetDateTime,
    begin_refresh_at: OffsetDateTime,
    not_after: OffsetDateTime,
}

impl Request {
    /// The certificate it was given.
    pub fn leaf(&self) -> Option<&Leaf> {
        match &self.answer {
            Answer::Issued(certificate) => Some(&certificate.leaf),
            Answer::Pending | Answer::Denied | Answer::Broken => None,
        }
    }
}

/// Reads a request. What cannot be read is reported and left out.
pub fn read(facts: &RequestFacts, wrong: &mut Vec<String>) -> Option<Request> {
    let last = facts.versions.last()?;
    let name = text(last, "/metadata/name");
    let key = match key(last) {
        Ok(key) => key,
        Err(why) => {
            wrong.push(format!("the key of {name} cannot be read: {why}"));
            return None;
        }
    };
    let answer = answer(last).unwrap_or_else(|why| {
        wrong.push(format!("{name} {why}"));
        Answer::Broken
    });
    if let Some(changed) = changed_after_its_answer(facts) {
        wrong.push(format!("{name} was changed after it had been answered ({changed})"));
    }
    Some(Request {
        uid: text(last, "/metadata/uid"),
        namespace: text(last, "/metadata/namespace"),
        pod: text(last, "/spec/podName"),
        pod_uid: text(last, "/spec/podUID"),
        node: text(last, "/spec/nodeName"),
        account: text(last, "/spec/serviceAccountName"),
        signer: text(last, "/spec/signerName"),
        longest: last.pointer("/spec/maxExpirationSeconds").and_then(Value::as_i64).unwrap_or_default(),
        key,
        answer,
        name,
    })
}

/// Holds an issued certificate against everything else that is known.
pub fn check(request: &Request, evidence: &Evidence, wrong: &mut Vec<String>) {
    let Answer::Issued(certificate) = &request.answer else { return };
    let mut says = |what: String| wrong.push(format!("the certificate of {} {what}", request.name));
    let leaf = &certificate.leaf;
    if request.signer != evidence.signer_name {
        says(format!("is of the signer {}, which is not ours", request.signer));
    }
    match evidence.pods.get(&request.pod_uid) {
        None => says(format!("is for a pod that never was: {}", request.pod_uid)),
        Some(pod) => {
            if (&pod.namespace, &pod.name) != (&request.namespace, &request.pod) {
                says(format!(
                    "is for {}/{}, but that UID is {}/{}",
                    request.namespace, request.pod, pod.namespace, pod.name
                ));
            }
            if pod.node != request.node {
                says(format!("was asked for by {}, but the pod runs on {}", request.node, pod.node));
            }
            if pod.account != request.account {
                says(format!("was asked for {}, but the pod runs as {}", request.account, pod.account));
            }
            let id = format!("spiffe://{}/ns/{}/sa/{}", evidence.trust_domain, pod.namespace, pod.account);
            if leaf.names.as_slice() != [id.as_str()] {
                says(format!("names {:?}, not {id}", leaf.names));
            }
        }
    }
    if leaf.key != request.key {
        says("holds another key than the request".to_owned());
    }
    if leaf.authority {
        says("is an authority's".to_owned());
    }
    if (leaf.not_before, leaf.not_after) != (certificate.not_before, certificate.not_after) {
        says("has other dates than the status".to_owned());
    }
    if leaf.not_after.unix_timestamp().saturating_sub(leaf.not_before.unix_timestamp()) > request.longest {
        says("lives longer than was asked for".to_owned());
    }
    if !(leaf.not_before..leaf.not_after).contains(&certificate.begin_refresh_at) {
        says("is to be renewed outside of its life".to_owned());
    }
    if let Err(why) = certificate::verify(&certificate.chain, &roots_before(certificate.revision, evidence)) {
        says(why);
    }
}

/// Every root that had been published when this was written. One etcd numbers all writes, whatever their kind.
fn roots_before(revision: u64, evidence: &Evidence) -> Vec<Vec<u8>> {
    let earlier = evidence.bundles.iter().filter(|bundle| bundle.revision < revision);
    earlier.filter_map(|bundle| certificate::certificates(&bundle.pem).ok()).flatten().collect()
}

fn answer(object: &Value) -> Result<Answer, String> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    match conditions.map(Vec::as_slice).unwrap_or_default() {
        [] => Ok(Answer::Pending),
        [condition] if text(condition, "/status") != "True" => Err("has a condition that is not True".to_owned()),
        [condition] => match text(condition, "/type").as_str() {
            "Issued" => issued(object).map(|certificate| Answer::Issued(Box::new(certificate))),
            "Denied" => Ok(Answer::Denied),
            other => Err(format!("has the condition {other}, which the signer never writes")),
        },
        _ => Err("has more than one condition".to_owned()),
    }
}

fn issued(object: &Value) -> Result<Certificate, String> {
    let chain = certificate::certificates(&text(object, "/status/certificateChain"))?;
    let date = |path: &str| {
        OffsetDateTime::parse(&text(object, path), &Rfc3339)
            .map_err(|why| format!("has an unreadable date at {path}: {why}"))
    };
    Ok(Certificate {
        leaf: certificate::leaf(&chain)?,
        chain,
        revision: text(object, "/metadata/resourceVersion")
            .parse()
            .map_err(|why| format!("has no usable resourceVersion: {why}"))?,
        not_before: date("/status/notBefore")?,
        begin_refresh_at: date("/status/beginRefreshAt")?,
        not_after: date("/status/notAfter")?,
    })
}

/// An answer is final: two versions with an answer must show the same status.
fn changed_after_its_answer(facts: &RequestFacts) -> Option<String> {
    let answered = |version: &&Value| {
        version.pointer("/status/conditions").and_then(Value::as_array).is_some_and(|all| !all.is_empty())
    };
    let first = facts.versions.iter().find(answered)?;
    let later = facts.versions.iter().skip_while(|version| !answered(version));
    let other = later.into_iter().find(|version| version.get("status") != first.get("status"))?;
    Some(format!("resourceVersion {}", text(other, "/metadata/resourceVersion")))
}

/// The public key, as SubjectPublicKeyInfo: out of the PKCS#10 request, or bare as kubelets before 1.36 sent it.
fn key(object: &Value) -> Result<Vec<u8>, String> {
    let bytes = |path: &str| STANDARD.decode(text(object, path)).map_err(|why| format!("{path} is no base64: {why}"));
    let request = bytes("/spec/stubPKCS10Request")?;
    if request.is_empty() {
        let key = bytes("/spec/pkixPublicKey")?;
        return if key.is_empty() { Err("there is none".to_owned()) } else { Ok(key) };
    }
    match X509CertificationRequest::from_der(&request) {
        Ok((_, request)) => Ok(request.certification_request_info.subject_pki.raw.to_vec()),
        Err(why) => Err(format!("it is no PKCS#10: {why}")),
    }
}

/// The text at this path, or nothing.
pub fn text(value: &Value, path: &str) -> String {
    value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}
