//! What hangs on us is held, said aloud, and answered once it is put right. No pod is made anew for it.

use std::time::Instant;

use podmint_tests::keys::KeyType;
use podmint_tests::signer::{MINUTE, Signer};
use podmint_tests::stage::{Pod, Request, Said};
use podmint_tests::until::{never, until};
use podmint_tests::{Bed, Stage, on_every_bed};
use serde_json::{Value, json};

on_every_bed! {
    /// A policy with a typo admits nobody; its repair does, and the same request is answered.
    async fn a_policy_typo_holds_until_it_is_repaired(bed: Bed) {
        let stage = Stage::open(&bed, "typo").await;
        let typo = json!([{"name": "shops", "namespaces": [format!("{}x", stage.namespace)], "serviceAccounts": ["*"]}]);
        let signer = stage.a_signer().with("allow", typo).start().await.ready().await;
        let pod = stage.any_pod().await;
        let request = stage.request_for(&pod).make().await;

        let event = is_held(&stage, &signer, &pod, &request, "not_admitted").await;
        let words = event["message"].as_str().unwrap();
        assert!(words.contains(&stage.namespace) && words.contains("shop"), "it says what to add: {words}");
        signer.stop().await;

        let repaired = stage.a_signer().start().await.ready().await;
        stage.issued(&request).await;
        repaired.stop().await;
    }

    /// An empty list admits nobody.
    async fn an_empty_list_admits_nobody(bed: Bed) {
        let stage = Stage::open(&bed, "empty").await;
        let signer = stage.a_signer().with("allow", json!([])).start().await.ready().await;
        let pod = stage.any_pod().await;
        let request = stage.request_for(&pod).make().await;
        is_held(&stage, &signer, &pod, &request, "not_admitted").await;
        signer.stop().await;
    }

    /// A key type that the policy does not serve: the pod's author learns which would do.
    async fn a_key_type_not_served_is_held(bed: Bed) {
        let stage = Stage::open(&bed, "key-type").await;
        let signer = stage.a_signer().with("keyTypes", json!(["ED25519"])).start().await.ready().await;
        let pod = stage.any_pod().await;
        let request = stage.request_for(&pod).make().await;
        let event = is_held(&stage, &signer, &pod, &request, "key_type_not_served").await;
        assert!(event["message"].as_str().unwrap().contains(KeyType::Ed25519.word()), "{event}");
        signer.stop().await;
    }

    /// A suspended signer answers nobody until it is resumed.
    async fn a_suspended_signer_holds(bed: Bed) {
        let stage = Stage::open(&bed, "suspended").await;
        let signer = stage.a_signer().with("suspend", json!(true)).start().await;
        let pod = stage.any_pod().await;
        let request = stage.request_for(&pod).make().await;
        is_held(&stage, &signer, &pod, &request, "suspended").await;
        signer.stop().await;
        let resumed = stage.a_signer().start().await.ready().await;
        stage.issued(&request).await;
        resumed.stop().await;
    }

    /// A node that the API server learns of later than of the request: answered as soon as it is there, with nobody's help.
    async fn a_pod_that_appears_later_is_served(bed: Bed) {
        let stage = Stage::open(&bed, "later").await;
        let signer = stage.a_signer().start().await.ready().await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        let first = stage.a_pod("web").on(&node).as_account(&account).make().await;
        let gone = format!("/api/v1/nodes/{}", node.name);
        podmint_tests::call::delete(&stage.admin, &gone).await.unwrap();
        let request = stage.request_for(&first).by(&podmint_tests::Who::Admin).make().await;
        signer.says("hold", "node_not_found").await;
        assert_eq!(Said::of(&stage.read(&request).await.unwrap()), None);
        // The node is another one now: the request names the one that is gone for ever, a new request the one that lives.
        let node = stage.node("node-a").await;
        signer.says("hold", "other_node").await;
        let pod = Pod { node, ..first };
        stage.issued(&stage.request_for(&pod).make().await).await;
        assert_eq!(Said::of(&stage.read(&request).await.unwrap()), None);
        signer.stop().await;
    }
}

/// Held for this reason at once in the metrics, told on the pod after half a minute, and still held after three more. Returns the
/// Event.
async fn is_held(stage: &Stage, signer: &Signer, pod: &Pod, request: &Request, reason: &str) -> Value {
    let begun = Instant::now();
    signer.says("hold", reason).await;
    let event = until("an Event on the pod says why", async || stage.events_of(pod).await.into_iter().next()).await;
    assert_eq!(event["type"], "Warning", "{event}");
    never("a held request was answered", MINUTE * 3, async || {
        let object = stage.read(request).await.expect("the request is still there");
        Said::of(&object).map(|said| format!("{said:?}"))
    })
    .await;
    let told = stage.events_of(pod).await.len();
    let half_hours = begun.elapsed().as_secs() / (MINUTE * 30).as_secs();
    assert!(told <= 1 + usize::try_from(half_hours).unwrap(), "{told} Events: at most one in half an hour");
    event
}
