//! The audit log says of every answer who got it, for which pod and key, which words and why, and what became of it.

use aws_lc_rs::digest::{SHA256, digest};
use podmint_tests::keys::Key;
use podmint_tests::leaf::{self, Expected};
use podmint_tests::stage::{Pod, Request, Said};
use podmint_tests::until::until;
use podmint_tests::{Bed, Stage, Who, on_every_bed};
use serde_json::{Value, json};

on_every_bed! {
    /// Every field of both lines of a certificate, against what the API server and the certificate say.
    async fn the_log_says_who_got_what_and_why(bed: Bed) {
        let stage = Stage::open(&bed, "record").await;
        let signer = stage.a_signer().called("replica-r").start().await.ready().await;
        let pod = stage.any_pod().await;
        let plan = stage.request_for(&pod);
        let key = Key::make(plan.key_type());
        let request = plan.make_with(&key).await;
        let status = stage.issued(&request).await;
        let outcome = until("the second line is written", async || lines(&signer.audit(), "outcome", &request.uid).pop()).await;

        let (uri, roots) = (stage.identity_of(&pod.account.name), stage.published_roots().await);
        let leaf = leaf::check(&status, Expected { uri: &uri, public_key: &key.public(), longest_life: 86_400, roots: &roots });
        let serial = hex(leaf.serial.strip_prefix(&[0]).unwrap_or(&leaf.serial));
        let mut expected = of_the_request(&stage, &request, &pod, &key, "issuing");
        expected["serial"] = json!(serial);
        expected["fingerprint"] = json!(fingerprint(&status));
        expected["issuer"] = json!({"generation": 1});
        expected["podSigner"] = json!("story");
        expected["rule"] = json!("story");
        expected["shadowRule"] = Value::Null;
        for field in ["notBefore", "notAfter", "beginRefreshAt"] {
            expected[field] = status[field].clone();
        }
        expected["ignoredCsrContent"] = json!([]);
        expected["sans"] = json!([{
            "uri": uri,
            "trustDomain": {"value": uri.split('/').nth(2), "from": "PodSigner spec.trustDomain"},
            "namespace": {"value": stage.namespace, "from": "namespace of request and pod"},
            "serviceAccount": {"value": pod.account.name, "from": "Pod spec.serviceAccountName, UID checked"},
        }]);
        expected["subject"] = Value::Null;
        let issuing = lines(&signer.audit(), "issuing", &request.uid);
        assert_eq!(issuing.iter().map(timeless).collect::<Vec<_>>(), [expected]);
        assert_eq!(timeless(&outcome), json!({
            "event": "outcome", "replica": "replica-r", "request": {"uid": request.uid}, "answer": "issue", "serial": serial,
            "outcome": "published",
        }));
        signer.stop().await;
    }

    /// A refusal has the words that its pod's author reads.
    async fn the_log_says_who_was_refused_and_why(bed: Bed) {
        let stage = Stage::open(&bed, "record-no").await;
        let signer = stage.a_signer().called("replica-r").start().await.ready().await;
        let pod = stage.any_pod().await;
        let elsewhere = Pod { node: stage.node("node-b").await, ..pod };
        let plan = stage.request_for(&elsewhere).by(&Who::Admin);
        let key = Key::make(plan.key_type());
        let request = plan.make_with(&key).await;
        let Said::Denied { reason, message } = stage.answer(&request).await else { panic!("the pod is on another node") };
        let outcome = until("the second line is written", async || lines(&signer.audit(), "outcome", &request.uid).pop()).await;

        let mut expected = of_the_request(&stage, &request, &elsewhere, &key, "denying");
        // The condition's word, written as metrics write it.
        assert_eq!(reason, "WrongNode");
        expected["reason"] = json!("wrong_node");
        expected["message"] = json!(message);
        let denying = lines(&signer.audit(), "denying", &request.uid);
        assert_eq!(denying.iter().map(timeless).collect::<Vec<_>>(), [expected]);
        assert_eq!(timeless(&outcome), json!({
            "event": "outcome", "replica": "replica-r", "request": {"uid": request.uid}, "answer": "deny", "serial": null,
            "outcome": "published",
        }));
        signer.stop().await;
    }
}

/// What is the same in every first line.
fn of_the_request(stage: &Stage, request: &Request, pod: &Pod, key: &Key, event: &str) -> Value {
    json!({
        "event": event,
        "replica": "replica-r",
        "request": {"namespace": stage.namespace, "name": request.name, "uid": request.uid},
        "signerName": stage.signer_name,
        "pod": {"namespace": stage.namespace, "name": pod.name, "uid": pod.uid},
        "serviceAccount": {"name": pod.account.name, "uid": pod.account.uid},
        "node": {"name": pod.node.name, "uid": pod.node.uid},
        "keyType": "ECDSAP256",
        "keyHash": sha256(&key.public()),
        "maxExpirationSeconds": 86_400,
    })
}

/// The lines of one kind about one request.
pub(crate) fn lines(log: &[Value], event: &str, uid: &str) -> Vec<Value> {
    log.iter().filter(|line| line["event"] == event && line["request"]["uid"] == uid).cloned().collect()
}

/// The hash of the leaf in an issued status, as the log has it.
pub(crate) fn fingerprint(status: &Value) -> String {
    let chain = status["certificateChain"].as_str().expect("an issued status has a chain");
    sha256(pem::parse_many(chain).expect("the chain is PEM")[0].contents())
}

/// The line without its time, which has to be one.
fn timeless(line: &Value) -> Value {
    let mut line = line.clone();
    let time = line.as_object_mut().unwrap().remove("time").unwrap();
    let format = &time::format_description::well_known::Rfc3339;
    time::OffsetDateTime::parse(time.as_str().unwrap(), format).unwrap();
    line
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
