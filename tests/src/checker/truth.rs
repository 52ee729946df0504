//! Whether an answer, or none, is right: by the objects themselves, as the API server showed them.

use std::collections::BTreeMap;

use base64::Engine as _;
use podmint_examples::demo::checker::request::{Answer, Request, text};
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::Facts;

/// The pod whose key it is, by public key: the one that has a certificate for it, or else the one that asked first.
pub(super) type Owners = BTreeMap<Vec<u8>, String>;

pub(super) fn owners(facts: &Facts) -> Owners {
    let mut first: BTreeMap<Vec<u8>, ((bool, u64), String)> = BTreeMap::new();
    for seen in &facts.seen.requests {
        let (Some(oldest), Some(latest)) = (seen.versions.first(), seen.versions.last()) else { continue };
        let (Some(key), true) = (key(latest), facts.alive.contains(&text(latest, "/metadata/uid"))) else { continue };
        let is_issued = text(latest, "/status/conditions/0/type") == "Issued";
        // One etcd numbers all writes: what was made first has the smallest.
        let made = text(oldest, "/metadata/resourceVersion").parse().unwrap_or(u64::MAX);
        let asks = ((!is_issued, made), text(latest, "/spec/podUID"));
        let owner = first.entry(key).or_insert_with(|| asks.clone());
        if asks.0 < owner.0 {
            *owner = asks;
        }
    }
    first.into_iter().map(|(key, (_, pod))| (key, pod)).collect()
}

/// Two pods with one key: somebody copied it, and only one of them may be certified.
pub(super) fn no_key_is_two_pods(requests: &[Request], wrong: &mut Vec<String>) {
    let mut owners: BTreeMap<&[u8], &Request> = BTreeMap::new();
    for request in requests {
        let Some(leaf) = request.leaf() else { continue };
        let owner = owners.entry(&leaf.key).or_insert(request);
        if owner.pod_uid != request.pod_uid {
            wrong.push(format!("{} and {} certify one key for two pods", owner.name, request.name));
        }
    }
}

pub(super) fn check(request: &Request, object: &Value, facts: &Facts, owners: &Owners, wrong: &mut Vec<String>) {
    let mut says = |what: String| {
        wrong.push(format!("{} of {}/{} {what}", request.name, request.namespace, request.pod));
    };
    let contradiction = contradiction(request, object, facts);
    let is_anothers = || key(object).and_then(|key| owners.get(&key)).is_some_and(|owner| *owner != request.pod_uid);
    match (&request.answer, contradiction, why_held(request, facts)) {
        (Answer::Pending, _, _) if is_anothers() => {}
        (Answer::Issued(_), Some(contradiction), _) => says(format!("was issued, though {contradiction}")),
        (Answer::Issued(_), None, Some(held)) => says(format!("was issued, though {held}")),
        (Answer::Denied, None, _) => says("was denied, and nothing contradicts it".to_owned()),
        (Answer::Pending, None, None) if facts.alive.contains(&request.uid) => says("was never answered".to_owned()),
        (Answer::Pending, Some(contradiction), None) if facts.alive.contains(&request.uid) => {
            says(format!("was never denied, though {contradiction}"));
        }
        (Answer::Issued(_) | Answer::Denied | Answer::Pending | Answer::Broken, _, _) => {}
    }
}

/// What may pass, and does not depend on the request alone.
fn why_held(request: &Request, facts: &Facts) -> Option<&'static str> {
    if !facts.admitted.contains(&request.namespace) {
        return Some("no rule admits its namespace");
    }
    match facts.pods.get(&request.pod_uid) {
        None => Some("there never was such a pod"),
        Some(pod) if text(pod, "/metadata/name") != request.pod => Some("that UID is another pod's"),
        Some(pod) if text(pod, "/metadata/namespace") != request.namespace => Some("that pod is elsewhere"),
        Some(_) => None,
    }
}

/// What can never become right for this pod.
fn contradiction(request: &Request, object: &Value, facts: &Facts) -> Option<String> {
    if !proves_its_key(object) {
        return Some("its proof of possession does not hold".to_owned());
    }
    let pod = facts.pods.get(&request.pod_uid)?;
    if text(pod, "/metadata/name") != request.pod || text(pod, "/metadata/namespace") != request.namespace {
        return None;
    }
    let (node, account) = (text(pod, "/spec/nodeName"), text(pod, "/spec/serviceAccountName"));
    if node != request.node {
        return Some(format!("the pod is on {node}"));
    }
    if account != request.account {
        return Some(format!("the pod runs as {account}"));
    }
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some() {
        return Some("it is a mirror pod".to_owned());
    }
    if matches!(text(pod, "/status/phase").as_str(), "Succeeded" | "Failed") {
        return Some("the pod has ended".to_owned());
    }
    let mine: Vec<&Value> = sources(pod).filter(|source| agrees(source, object)).collect();
    match mine.as_slice() {
        [] => Some("no volume of the pod asks for this".to_owned()),
        [source, ..] => strange_annotation(source).map(|key| format!("it says {key:?}, which nobody knows")),
    }
}

/// The `podCertificate` sources of a pod.
fn sources(pod: &Value) -> impl Iterator<Item = &Value> {
    let volumes = list(pod.pointer("/spec/volumes")).iter();
    volumes.flat_map(|volume| list(volume.pointer("/projected/sources"))).filter_map(|one| one.get("podCertificate"))
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// Whether a kubelet may make this request for this source.
fn agrees(source: &Value, request: &Value) -> bool {
    let most = source["maxExpirationSeconds"].as_i64().unwrap_or(DAY);
    let annotations = |value: &Value| value.as_object().cloned().unwrap_or_default();
    source["signerName"] == request["spec"]["signerName"]
        && request["spec"]["maxExpirationSeconds"].as_i64().is_some_and(|asked| asked <= most)
        && annotations(&source["userAnnotations"]) == annotations(&request["spec"]["unverifiedUserAnnotations"])
}

/// The signer of a run knows no annotation at all: its rules grant none.
fn strange_annotation(source: &Value) -> Option<&str> {
    source["userAnnotations"].as_object()?.keys().next().map(String::as_str)
}

/// A PKCS#10 request is signed by the key in it.
fn proves_its_key(object: &Value) -> bool {
    let stub = stub(object);
    X509CertificationRequest::from_der(&stub).is_ok_and(|(_, stub)| stub.verify_signature().is_ok())
}

/// The public key: who copies it copies the request that proves it, or proves it anew.
fn key(object: &Value) -> Option<Vec<u8>> {
    let stub = stub(object);
    let (_, stub) = X509CertificationRequest::from_der(&stub).ok()?;
    Some(stub.certification_request_info.subject_pki.raw.to_vec())
}

fn stub(object: &Value) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(text(object, "/spec/stubPKCS10Request")).unwrap_or_default()
}

/// What a request asks for that does not say.
const DAY: i64 = 86_400;
