//! Objects that are wrong, huge or malicious cost their own answer and nobody else's.

use podmint_tests::keys::{Key, KeyType, common_name, der};
use podmint_tests::leaf::{self, Expected};
use podmint_tests::proxy::Proxy;
use podmint_tests::stage::Said;
use podmint_tests::until::until;
use podmint_tests::{Bed, Stage, Who, call, on_every_bed};
use serde_json::json;

on_every_bed! {
    /// The watch shows objects that no API server would take: each is skipped and counted, the next one is served.
    async fn malformed_objects_do_not_stop_the_watch(bed: Bed) {
        let stage = Stage::open(&bed, "malformed").await;
        let proxy = Proxy::start(bed.client(&stage.signer_account).await).await;
        let kind = json!({"apiVersion": format!("certificates.k8s.io/{}", bed.api_version("podcertificaterequests").await), "kind": "PodCertificateRequest"});
        let broken = [
            json!({"metadata": {"name": "no-spec", "namespace": stage.namespace, "uid": "1", "resourceVersion": "1"}}),
            json!({"metadata": {"name": "numbers", "namespace": stage.namespace, "uid": "2", "resourceVersion": "1"},
                "spec": {"signerName": stage.signer_name, "podName": 7, "podUID": [], "nodeName": {}, "maxExpirationSeconds": "long"}}),
            json!({"metadata": {"name": ["list"], "namespace": 5}, "spec": "text", "status": 3}),
            json!({"metadata": null, "spec": null}),
            json!({"metadata": {"name": "odd", "namespace": stage.namespace, "uid": "3", "resourceVersion": "1"},
                "spec": {"signerName": stage.signer_name}, "status": {"conditions": "none", "certificateChain": 9}}),
        ];
        proxy.begin_watches_with("podcertificaterequests", broken.into_iter().map(|mut object| {
            object["apiVersion"] = kind["apiVersion"].clone();
            object["kind"] = kind["kind"].clone();
            object
        }));
        let signer = stage.a_signer().through(proxy.client()).start().await.ready().await;
        let pod = stage.any_pod().await;
        stage.issued(&stage.request_for(&pod).make().await).await;
        until("malformed objects are counted", async || (signer.metric("podmint_signer_malformed_objects_total", &[]).await > 0.5).then_some(())).await;
        assert!(signer.metric("podmint_signer_panics_total", &[]).await < 0.5);
        signer.stop().await;
    }

    /// A request as large as the API server takes it, with every field at its longest, gets an answer, and so does the one after it.
    async fn the_largest_request_is_answered(bed: Bed) {
        let stage = Stage::open(&bed, "largest").await;
        let signer = stage.a_signer().start().await.ready().await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        let value = "v".repeat(250_000);
        let large = stage.a_pod("large").on(&node).as_account(&account).with("userAnnotations", json!({"stories.example.org/large": value})).make().await;
        let request = stage.request_for(&large).by(&Who::Admin).named(&"n".repeat(253)).make().await;
        let said = stage.answer(&request).await;
        assert!(matches!(&said, Said::Denied { reason, .. } if reason == "InvalidUnverifiedUserAnnotations"), "{said:?}");
        let pod = stage.a_pod("web").on(&node).as_account(&account).make().await;
        stage.issued(&stage.request_for(&pod).make().await).await;
        signer.stop().await;
    }
}

/// A PKCS#10 request that claims to be somebody else: its words are counted and left out, its key is certified for who asks.
#[test]
fn what_a_stub_request_claims_is_ignored() {
    podmint_tests::run(async {
        for bed in [Bed::embedded().await, Bed::shared("1.37.2").await] {
            let stage = Stage::open(&bed, "claims").await;
            let signer = stage.a_signer().start().await.ready().await;
            let pod = stage.any_pod().await;
            let key = Key::make(KeyType::EcdsaP256);
            let stub = key.request_naming(&common_name("admin"), &extension_request("system:masters.example.org"));
            let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, stub);
            let request = stage.request_for(&pod).with("stubPKCS10Request", encoded).make_with(&key).await;
            let status = stage.issued(&request).await;
            let (uri, roots) = (stage.identity_of("shop"), stage.published_roots().await);
            leaf::check(
                &status,
                Expected { uri: &uri, public_key: &key.public(), longest_life: 86_400, roots: &roots },
            );
            assert!(signer.metric("podmint_signer_ignored_csr_content_total", &[]).await > 0.5);
            signer.stop().await;
        }
    });
}

/// Requests that come faster than they are answered, most of them for pods that never were, do not keep an honest pod waiting for
/// ever.
#[test]
fn a_flood_of_ghosts_does_not_starve_an_honest_pod() {
    podmint_tests::run(async {
        let bed = Bed::embedded().await;
        let stage = Stage::open(&bed, "flood").await;
        let pod = stage.any_pod().await;
        let signer = stage.a_signer().start().await.ready().await;
        for number in 0..200 {
            let plan = stage.request_for(&pod).by(&Who::Admin).with("podName", format!("ghost-{number}"));
            plan.make().await;
        }
        stage.issued(&stage.request_for(&pod).make().await).await;
        let list = call::get(&stage.admin, &stage.requests()).await.unwrap();
        let issued = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|item| matches!(Said::of(item), Some(Said::Issued(_))))
            .count();
        assert_eq!(issued, 1, "no ghost got a certificate");
        signer.stop().await;
    });
}

/// An extensionRequest attribute with one DNS name.
fn extension_request(name: &str) -> Vec<u8> {
    let names = der(0x30, &der(0x82, name.as_bytes()));
    let extension = der(0x30, &[der(0x06, &[0x55, 0x1d, 0x11]), der(0x04, &names)].concat());
    let extensions = der(0x30, &extension);
    der(0x30, &[der(0x06, &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x0e]), der(0x31, &extensions)].concat())
}
