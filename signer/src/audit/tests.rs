//! Courts and their tools read these lines: each field of each.

use std::sync::Mutex;

use serde_json::{Value, json};

use super::*;
use crate::{
    names::Sha256,
    pipeline::{
        Approved, Fact, Profile, ProofFailed, Scope, Verified,
        honest::{NOW, claim, config_with, honest, issuer, serial},
    },
};

/// With every word that a profile may give, and a template that names a fact twice.
const FULL: &str = "profile: {spiffeId: '/ns/{namespace}/sa/{serviceAccount}/ns/{namespace}', \
    dnsNames: [services, hostname, 'x.{namespace}.svc'], ipAddresses: [podIPs], \
    subject: {organization: Shop, organizationalUnit: '{namespace}', commonName: '{serviceAccount}'}}";

fn certificate(profile: &str) -> Box<Issued> {
    let mut seen = honest();
    let Fact::Found(pod, _) = &mut seen.pod else { panic!("an honest pod is there") };
    pod.addresses = [[10, 0, 0, 7].into()].into();
    let approved = Approved::admit(Verified::check(seen).unwrap(), &config_with(profile)).unwrap();
    let issuer = issuer();
    let profile = Profile::decide(approved, issuer.usable_until(), NOW, serial()).unwrap();
    Box::new(Issued::sign(profile, &issuer).unwrap())
}

fn clerk() -> (Clerk, Arc<Mutex<Vec<Value>>>) {
    let lines = Arc::default();
    (Clerk::new(Log::open(Sink::Memory(Arc::clone(&lines))).unwrap(), "podmint-0"), lines)
}

/// What every line about a request begins with; with what it claims.
fn about(event: &str, key_hash: Sha256, more: Value) -> Value {
    let mut line = json!({
        "time": "2026-11-23T19:00:00Z",
        "event": event,
        "replica": "podmint-0",
        "request": {"namespace": "shop", "name": "req-x7k2p", "uid": "b1e6a0f2-9d53-4c1b-8a71-2f0c6e5d4a33"},
        "signerName": "podmint.dev/workload",
        "pod": {"namespace": "shop", "name": "cart-0", "uid": "6d2f7e1c-0f4a-4a8e-9d0b-5f3a1c2b7e90"},
        "serviceAccount": {"name": "cart", "uid": "c0ffee00-1111-4222-8333-444455556666"},
        "node": {"name": "node-a", "uid": "0ddba11e-7777-4888-9999-aaaabbbbcccc"},
        "keyType": "ECDSAP256",
        "keyHash": key_hash.to_string(),
        "maxExpirationSeconds": 43_200,
    });
    let Value::Object(more) = more else { panic!("fields") };
    line.as_object_mut().unwrap().extend(more);
    line
}

#[tokio::test]
async fn each_word_of_a_certificate_is_recorded_with_what_it_rests_on() {
    let (clerk, lines) = clerk();
    let issued = certificate(FULL);
    let (key, fingerprint) = (issued.claim().key.hash(), issued.fingerprint().to_string());
    clerk.record_issue(issued, NOW).await.unwrap();
    let namespace = json!({"value": "shop", "from": "namespace of request and pod"});
    let account = json!({"value": "cart", "from": "Pod spec.serviceAccountName, UID checked"});
    let of_service = |dns: &str, service: &str| {
        json!({
            "dns": dns,
            "grantedBy": "PodSigner spec.profile.dnsNames: services",
            "namespace": namespace,
            "service": {"value": service, "from": "Service whose spec.selector matches the Pod's labels"},
        })
    };
    let of_hostname = |dns: &str| {
        json!({
            "dns": dns,
            "grantedBy": "PodSigner spec.profile.dnsNames: hostname",
            "namespace": namespace,
            "hostname": {"value": "cart-0", "from": "Pod spec.hostname"},
            "service": {
                "value": "carts",
                "from": "Pod spec.subdomain, and Service whose spec.selector matches the Pod's labels",
            },
        })
    };
    let wanted = about(
        "issuing",
        key,
        json!({
            "serial": "5a".repeat(16),
            "sans": [
                {
                    "uri": "spiffe://prod.example.org/ns/shop/sa/cart/ns/shop",
                    "trustDomain": {"value": "prod.example.org", "from": "PodSigner spec.trustDomain"},
                    "namespace": namespace,
                    "serviceAccount": account,
                },
                of_service("carts.shop.svc", "carts"),
                of_service("carts.shop.svc.cluster.local", "carts"),
                of_service("front.shop.svc", "front"),
                of_service("front.shop.svc.cluster.local", "front"),
                of_hostname("cart-0.carts.shop.svc"),
                of_hostname("cart-0.carts.shop.svc.cluster.local"),
                {
                    "dns": "x.shop.svc",
                    "grantedBy": "PodSigner spec.profile.dnsNames: x.{namespace}.svc",
                    "namespace": namespace,
                },
                {
                    "ip": "10.0.0.7",
                    "grantedBy": "PodSigner spec.profile.ipAddresses: podIPs",
                    "from": "Pod status.podIPs",
                },
            ],
            "subject": {
                "organization": {"text": "Shop", "grantedBy": "PodSigner spec.profile.subject.organization: Shop"},
                "organizationalUnit": {
                    "text": "shop",
                    "grantedBy": "PodSigner spec.profile.subject.organizationalUnit: {namespace}",
                    "namespace": namespace,
                },
                "commonName": {
                    "text": "cart",
                    "grantedBy": "PodSigner spec.profile.subject.commonName: {serviceAccount}",
                    "serviceAccount": account,
                },
            },
            "fingerprint": fingerprint,
            "issuer": {"generation": 7},
            "podSigner": "workload",
            "rule": "shops",
            "shadowRule": null,
            "notBefore": "2026-11-23T18:59:00Z",
            "notAfter": "2026-11-23T19:59:00Z",
            "beginRefreshAt": "2026-11-23T19:33:06Z",
            "ignoredCsrContent": [],
        }),
    );
    assert_eq!(*lines.lock().unwrap(), [wanted]);
}

#[tokio::test]
async fn a_template_names_each_fact_once_on_a_line_without_a_break() {
    let text =
        clerk().0.line("issuing", Request::named(&claim().target), Issuing::of(&certificate(FULL)), NOW).unwrap();
    let text = String::from_utf8(text.into_bytes()).unwrap();
    assert_eq!(text.find('\n'), text.len().checked_sub(1));
    let identity = text.split_once("{\"uri\":").unwrap().1.split_once("},{").unwrap().0;
    assert_eq!(identity.matches("\"namespace\":").count(), 1, "{identity}");
}

#[tokio::test]
async fn refusals_holds_and_outcomes_say_whose_they_are() {
    let (clerk, lines) = clerk();
    let claim = Arc::new(claim());
    let denial = Denial::ProofFailed(ProofFailed::Csr);
    let refused = |claim: Option<&Arc<Claim>>| Refused {
        target: honest().claim.target.clone(),
        claim: claim.cloned(),
        denial: denial.clone(),
    };
    let recorded = clerk.record_denial(refused(Some(&claim)), NOW).await.unwrap();
    clerk.record_denial(refused(None), NOW).await.unwrap();
    clerk.record_outcome(&recorded.receipt(), Outcome::Withdrawn, NOW).await.unwrap();
    let by = HeldBy {
        key: "one".to_owned(),
        scope: Scope::parse("node", None, "node-a").unwrap(),
        reason: Some("stolen".to_owned()),
        since: None,
    };
    clerk.record_hold(&claim, &by, NOW).await.unwrap();
    let words = json!({"reason": "proof_failed", "message": denial.to_string()});
    let mut unread = about("denying", claim.key.hash(), words.clone());
    unread
        .as_object_mut()
        .unwrap()
        .retain(|field, _| ["time", "event", "replica", "request", "reason", "message"].contains(&field.as_str()));
    let outcome = json!({
        "time": "2026-11-23T19:00:00Z",
        "event": "outcome",
        "replica": "podmint-0",
        "request": {"uid": "b1e6a0f2-9d53-4c1b-8a71-2f0c6e5d4a33"},
        "answer": "deny",
        "serial": null,
        "outcome": "withdrawn",
    });
    let hold = json!({"kind": "node", "namespace": null, "name": "node-a", "reason": "stolen", "since": null});
    let wanted = [
        about("denying", claim.key.hash(), words),
        unread,
        outcome,
        about("held", claim.key.hash(), json!({ "hold": hold })),
    ];
    assert_eq!(*lines.lock().unwrap(), wanted);
}
