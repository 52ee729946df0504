//! Whether an answer, or none, is right: by the objects themselves, as the API server showed them.

use std::collections::BTreeMap;

use base64::Engine as _;
use podmint_examples::demo::checker::request::{Answer, Request, text};
use serde_json::Value;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::Facts;

/// Who asks with each key, by PKCS#10 request: who copies a key copies the request that proves it.
pub(super) type Askers = BTreeMap<String, Vec<Asker>>;

pub(super) struct Asker {
    pod: String,
    /// The order in which the API server took it.
    place: u64,
    is_issued: bool,
}

pub(super) fn askers(facts: &Facts) -> Askers {
    let mut askers = Askers::new();
    for versions in facts.seen.requests.iter().map(|seen| &seen.versions) {
        let (Some(first), Some(last)) = (versions.first(), versions.last()) else { continue };
        askers.entry(text(last, "/spec/stubPKCS10Request")).or_default().push(Asker {
            pod: text(last, "/spec/podUID"),
            place: text(first, "/metadata/resourceVersion").parse().unwrap_or(0),
            is_issued: list(last.pointer("/status/conditions")).iter().any(|one| one["type"] == "Issued"),
        });
    }
    askers
}

/// Whether the key that a request asks with is another pod's, who came first or has been certified.
fn is_anothers(request: &Request, object: &Value, askers: &Askers) -> bool {
    let all = askers.get(&text(object, "/spec/stubPKCS10Request")).map(Vec::as_slice).unwrap_or_default();
    let mine = all.iter().filter(|asker| asker.pod == request.pod_uid).map(|asker| asker.place).min();
    all.iter()
        .any(|asker| asker.pod != request.pod_uid && (asker.is_issued || mine.is_some_and(|mine| asker.place < mine)))
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

pub(super) fn check(request: &Request, object: &Value, facts: &Facts, askers: &Askers, wrong: &mut Vec<String>) {
    let mut says = |what: String| {
        wrong.push(format!("{} of {}/{} {what}", request.name, request.namespace, request.pod));
    };
    let contradiction = contradiction(request, object, facts);
    let is_anothers = is_anothers(request, object, askers);
    match (&request.answer, contradiction, why_held(request, facts)) {
        (Answer::Pending, _, _) if is_anothers => {}
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
    let stub = base64::engine::general_purpose::STANDARD.decode(text(object, "/spec/stubPKCS10Request"));
    stub.is_ok_and(|der| {
        X509CertificationRequest::from_der(&der).is_ok_and(|(_, stub)| stub.verify_signature().is_ok())
    })
}

/// What a request asks for that does not say.
const DAY: i64 = 86_400;
