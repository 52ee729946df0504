//! devcluster is held to the truth: one table of requests and of answers, each with what the API server says to it. The same
//! table runs on devcluster and on the real servers; where the two differ, devcluster is wrong.

use podmint_tests::keys::{Key, KeyType};
use podmint_tests::stage::{Form, Request, RequestPlan};
use podmint_tests::{Bed, Stage, Who, call, on_every_bed};
use serde_json::{Value, json};

use crate::forge::{Issue, certificate, conditions, rfc3339, server_seconds};

on_every_bed! {
    /// What may be asked.
    async fn requests_are_judged_as_the_table_says(bed: Bed) {
        let stage = Stage::open(&bed, "verdicts").await;
        let pod = stage.any_pod().await;
        let honest = || stage.request_for(&pod).by(&Who::Admin);
        let long = "x".repeat(129);
        let table: Vec<(&str, RequestPlan<'_>, u16)> = vec![
            ("an honest request", honest(), 201),
            ("no pod name", honest().with("podName", ""), 422),
            ("a pod name in capitals", honest().with("podName", "Web"), 422),
            ("no pod UID", honest().with("podUID", ""), 422),
            ("a pod UID of 129 bytes", honest().with("podUID", long.clone()), 422),
            ("any pod UID of 128 bytes", honest().with("podUID", "x".repeat(128)), 201),
            ("no node name", honest().with("nodeName", ""), 422),
            ("a node UID of 129 bytes", honest().with("nodeUID", long.clone()), 422),
            ("an account name in capitals", honest().with("serviceAccountName", "Shop"), 422),
            ("an account UID of 129 bytes", honest().with("serviceAccountUID", long.clone()), 422),
            ("a signer without a path", honest().with("signerName", "podmint.dev"), 422),
            ("a signer with two slashes", honest().with("signerName", "podmint.dev/a/b"), 422),
            ("a signer whose domain is one label", honest().with("signerName", "podmint/a"), 422),
            ("a life of an hour", honest().with("maxExpirationSeconds", 3600), 201),
            ("a life of an hour less a second", honest().with("maxExpirationSeconds", 3599), 422),
            ("a life of 91 days", honest().with("maxExpirationSeconds", 7_862_400), 201),
            ("a life of 91 days and a second", honest().with("maxExpirationSeconds", 7_862_401), 422),
            ("a day from a kubernetes.io signer", honest().with("signerName", "kubernetes.io/x").with("maxExpirationSeconds", 86_400), 201),
            ("more than a day from one", honest().with("signerName", "kubernetes.io/x").with("maxExpirationSeconds", 86_401), 422),
            ("an annotation with a prefix", honest().with("unverifiedUserAnnotations", json!({"example.org/a": "b"})), 201),
            ("an annotation without one", honest().with("unverifiedUserAnnotations", json!({"a": "b"})), 422),
            ("annotations of 256 KiB and a byte", honest().with("unverifiedUserAnnotations", json!({"e.org/a": "x".repeat(262_144)})), 422),
        ];
        for (what, plan, expected) in table {
            let code = plan.try_make().await.map_or_else(|why| why.code, |_made| 201);
            assert_eq!(code, expected, "{what}");
        }
        for (what, request, expected) in damaged(&stage, &honest) {
            let code = call::post(&stage.admin, &stage.requests(), &request).await.map_or_else(|why| why.code, |_made| 201);
            assert_eq!(code, expected, "{what}");
        }
    }

    /// What may be answered.
    async fn answers_are_judged_as_the_table_says(bed: Bed) {
        let stage = Stage::open(&bed, "answers").await;
        let pod = stage.any_pod().await;
        let key = Key::make(KeyType::EcdsaP256);
        let other = Key::make(KeyType::EcdsaP256);
        let ask = async || stage.request_for(&pod).by(&Who::Admin).with("maxExpirationSeconds", 7200).make_with(&key).await;
        let now = server_seconds(&stage).await;
        let good = |life| Issue { key: &key, from: now - 60, life, refresh: now + 1800, reason: "Issued" };
        let table: Vec<(&str, Value, u16)> = vec![
            ("a certificate", good(7200).status(), 200),
            ("a self-signed CA", { let mut status = good(7200).status(); status["certificateChain"] = json!(certificate(&key, now - 60, 7200, true)); status }, 200),
            ("a life a second too long", good(7201).status(), 422),
            ("a life of an hour", Issue { refresh: now + 1200, ..good(3600) }.status(), 200),
            ("a life of an hour less a second", Issue { refresh: now + 1200, ..good(3599) }.status(), 422),
            ("another key", Issue { key: &other, ..good(7200) }.status(), 422),
            ("four and a half minutes ago", Issue { from: now - 270, ..good(7200) }.status(), 200),
            ("six minutes ago", Issue { from: now - 360, ..good(7200) }.status(), 422),
            ("in six minutes", Issue { from: now + 360, refresh: now + 3600, ..good(7200) }.status(), 422),
            ("renewal ten minutes after the beginning", Issue { refresh: now - 60 + 600, ..good(7200) }.status(), 200),
            ("renewal a second sooner", Issue { refresh: now - 60 + 599, ..good(7200) }.status(), 422),
            ("renewal ten minutes before the end", Issue { refresh: now - 60 + 6600, ..good(7200) }.status(), 200),
            ("renewal a second later", Issue { refresh: now - 60 + 6601, ..good(7200) }.status(), 422),
            ("a time that is not the leaf's", with(good(7200).status(), "notAfter", json!(rfc3339(now + 7139))), 422),
            ("no time of renewal", with(good(7200).status(), "beginRefreshAt", Value::Null), 422),
            ("no certificate", with(good(7200).status(), "certificateChain", json!("")), 422),
            ("text that is no certificate", with(good(7200).status(), "certificateChain", json!("hello")), 422),
            ("a certificate without a condition", with(good(7200).status(), "conditions", json!([])), 422),
            ("an unknown condition", conditions(&["Ready"], "Reason"), 422),
            ("denied", conditions(&["Denied"], "Reason"), 200),
            ("failed", conditions(&["Failed"], "Reason"), 200),
            ("denied and failed", conditions(&["Denied", "Failed"], "Reason"), 422),
            ("denied without a reason", conditions(&["Denied"], ""), 422),
            ("denied for a reason of two words", conditions(&["Denied"], "two words"), 422),
            ("denied with a certificate", with(good(7200).status(), "conditions", conditions(&["Denied"], "Reason")["conditions"].clone()), 422),
        ];
        for (what, status, expected) in table {
            let request = ask().await;
            assert_eq!(answer(&stage, &request, &status).await, expected, "{what}");
        }
        // Once given, an answer is final; the same again is no change.
        let request = ask().await;
        assert_eq!(answer(&stage, &request, &conditions(&["Denied"], "Reason")).await, 200);
        assert_eq!(answer(&stage, &request, &conditions(&["Denied"], "Reason")).await, 200, "the same again");
        assert_eq!(answer(&stage, &request, &conditions(&["Denied"], "Other")).await, 422, "another reason");
        assert_eq!(answer(&stage, &request, &good(7200).status()).await, 422, "a certificate after all");
        // A write must say what it read.
        let request = ask().await;
        let mut object = stage.read(&request).await.unwrap();
        object["status"] = conditions(&["Denied"], "Reason");
        object["metadata"]["resourceVersion"] = json!("1");
        assert_eq!(put(&stage, &request, &object).await, 409, "an old resourceVersion");
    }
}

/// Requests whose key or proof is broken. Each form is judged where it is known.
fn damaged<'a>(stage: &Stage, honest: &impl Fn() -> RequestPlan<'a>) -> Vec<(&'static str, Value, u16)> {
    let key = Key::make(KeyType::EcdsaP256);
    let object = |plan: RequestPlan<'_>| plan.object(&key);
    let mut table = Vec::new();
    match stage.form() {
        Form::Stub => {
            let stub = key.stub_request();
            let mut forged = stub.clone();
            *forged.last_mut().unwrap() ^= 1;
            let encode = |bytes: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
            table.push((
                "a stub with a broken signature",
                object(honest().with("stubPKCS10Request", encode(&forged))),
                422,
            ));
            table.push(("half a stub", object(honest().with("stubPKCS10Request", encode(&stub[..40]))), 422));
            table.push(("no key at all", object(honest().with("stubPKCS10Request", "")), 422));
        }
        Form::KeyAndProof => {
            let mut foreign = object(honest());
            foreign["spec"]["proofOfPossession"] =
                object(honest().with("podUID", "another"))["spec"]["proofOfPossession"].clone();
            table.push(("a proof over another UID", foreign, 422));
            let mut half = object(honest());
            half["spec"].as_object_mut().unwrap().remove("proofOfPossession");
            table.push(("a key without a proof", half, 422));
        }
    }
    table
}

fn with(mut status: Value, field: &str, value: Value) -> Value {
    status[field] = value;
    status
}

async fn answer(stage: &Stage, request: &Request, status: &Value) -> u16 {
    let mut object = stage.read(request).await.unwrap();
    object["status"] = status.clone();
    put(stage, request, &object).await
}

async fn put(stage: &Stage, request: &Request, object: &Value) -> u16 {
    let done = call::put(&stage.admin, &format!("{}/status", request.path), object).await;
    done.map_or_else(|why| why.code, |_written| 200)
}
