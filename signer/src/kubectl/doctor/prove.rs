//! Proof that admission refuses what it must: requests that somebody who cheats would make, sent as dry runs. Nothing is stored.

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{CertificateParams, KeyPair, PublicKeyData, SigningKey};
use serde_json::{Map, Value, json};

use super::{
    facts::{Seen, Served, Verdict},
    look::{calls, newest},
    report::Unseen,
};
use crate::{
    chain::Chain,
    cluster::{
        calls::{CallError, Calls},
        guard::REQUESTS,
        versions::Version,
    },
    names::DnsName,
};

/// A request under a name of ours, by somebody who is no kubelet: the guard must refuse it.
pub(super) async fn guard(calls: &Calls, domain: &DnsName, served: Option<&Served>) -> Seen<Option<Verdict>> {
    let Some(version) = newest(served.map(|served| served.requests)) else { return Ok(None) };
    let answer = forge(calls, version, &format!("{domain}/podmint-doctor")).await;
    let by_guard = format!("ValidatingAdmissionPolicy '{REQUESTS}'");
    judge("whether the admission guard refuses a forged request", answer, &by_guard).map(Some)
}

/// A request for a pod of another node, under a name that is nobody's, by a node: NodeRestriction must refuse it.
pub(super) async fn restriction(as_node: &Calls, served: Option<&Served>) -> Seen<Option<Verdict>> {
    let Some(version) = newest(served.map(|served| served.requests)) else { return Ok(None) };
    let answer = forge(as_node, version, "podmint.invalid/podmint-doctor").await;
    judge("whether NodeRestriction refuses a forged request", answer, "which is not the requesting node").map(Some)
}

/// The way to the API server of a node that does not exist. Rights and admission go by the name alone.
pub(super) fn as_node(config: &kube::Config) -> Result<Calls, kube::Error> {
    let mut config = config.clone();
    config.auth_info.impersonate = Some("system:node:podmint-doctor-thief".to_owned());
    config.auth_info.impersonate_groups = Some(vec!["system:nodes".to_owned()]);
    Ok(calls(kube::Client::try_from(config)?))
}

async fn forge(calls: &Calls, version: Version, signer_name: &str) -> Result<Value, Forgery> {
    let request = request(version, signer_name).map_err(Forgery::Key)?;
    let path =
        format!("/apis/certificates.k8s.io/{}/namespaces/default/podcertificaterequests?dryRun=All", version.as_str());
    calls.create(&path, &request).await.map_err(Forgery::Call)
}

enum Forgery {
    Call(CallError),
    Key(rcgen::Error),
}

fn judge(what: &str, answer: Result<Value, Forgery>, refusal: &str) -> Seen<Verdict> {
    match answer {
        Ok(_) => Ok(Verdict::Taken),
        Err(Forgery::Key(error)) => Err(Unseen::by(what, &error, false)),
        Err(Forgery::Call(error)) => {
            let why = Chain(&error).to_string();
            if error.is_forbidden() && why.contains(refusal) {
                return Ok(Verdict::Refused);
            }
            // What RBAC refuses was not judged by admission.
            let for_want_of_rights =
                error.is_forbidden() && (why.contains("cannot create") || why.contains("cannot impersonate"));
            Err(Unseen::by(what, &error, for_want_of_rights))
        }
    }
}

/// Everything about it is as it should be, but that no such pod and no such node are there.
fn request(version: Version, signer_name: &str) -> Result<Value, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut spec = Map::new();
    let mut say = |field: &str, value: Value| drop(spec.insert(field.to_owned(), value));
    say("signerName", json!(signer_name));
    say("maxExpirationSeconds", json!(3600));
    for (name, uid, what) in [
        ("podName", "podUID", "podmint-doctor"),
        ("serviceAccountName", "serviceAccountUID", "default"),
        ("nodeName", "nodeUID", "podmint-doctor-victim"),
    ] {
        say(name, json!(what));
        say(uid, json!(UID));
    }
    match version {
        Version::V1 => {
            let stub = CertificateParams::default().serialize_request(&key)?;
            say("stubPKCS10Request", json!(STANDARD.encode(stub.der())));
        }
        // As kubelets of 1.35 write it, which all versions take.
        Version::V1beta1 => {
            say("pkixPublicKey", json!(STANDARD.encode(key.subject_public_key_info())));
            say("proofOfPossession", json!(STANDARD.encode(key.sign(UID.as_bytes())?)));
        }
    }
    Ok(json!({
        "apiVersion": format!("certificates.k8s.io/{}", version.as_str()), "kind": "PodCertificateRequest",
        "metadata": {"generateName": "podmint-doctor-", "namespace": "default"}, "spec": spec,
    }))
}

const UID: &str = "00000000-0000-4000-8000-000000000000";
