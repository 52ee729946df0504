//! What is not ours, or is done, is left alone.

use podmint_tests::call;
use podmint_tests::keys::{Key, KeyType};
use podmint_tests::signer::MINUTE;
use podmint_tests::stage::Said;
use podmint_tests::until::{never, until};
use podmint_tests::{Bed, Stage, Who, on_every_bed};
use serde_json::json;

use crate::forge::{Issue, server_seconds};

on_every_bed! {
    /// Requests for another signer, even below our own domain, are none of our business.
    async fn requests_for_other_signers_are_untouched(bed: Bed) {
        let stage = Stage::open(&bed, "others").await;
        let signer = stage.a_signer().start().await.ready().await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        let mut strangers = Vec::new();
        for name in ["example.org/other".to_owned(), format!("{}-x", stage.signer_name)] {
            let path = name.replace(['/', '.'], "-");
            let pod = stage.a_pod(&path).on(&node).as_account(&account).with("signerName", json!(name)).make().await;
            let request = stage.request_for(&pod).make().await;
            strangers.push((stage.read(&request).await.unwrap(), request));
        }
        let ours = stage.a_pod("ours").on(&node).as_account(&account).make().await;
        stage.issued(&stage.request_for(&ours).make().await).await;
        never("a stranger's request was touched", MINUTE, async || {
            for (before, request) in &strangers {
                let now = stage.read(request).await.expect("it is still there");
                if now != *before {
                    return Some(format!("{now}"));
                }
            }
            None
        })
        .await;
        signer.stop().await;
    }

    /// What was answered stays as it was answered, also for a signer that starts later with other rules.
    async fn answered_requests_are_untouched(bed: Bed) {
        let stage = Stage::open(&bed, "answered").await;
        let signer = stage.a_signer().start().await.ready().await;
        let pod = stage.any_pod().await;
        let issued = stage.request_for(&pod).make().await;
        stage.issued(&issued).await;
        let other = stage.account("billing").await;
        let denied = stage.request_for(&pod).by(&Who::Admin).with("serviceAccountName", other.name).with("serviceAccountUID", other.uid).make().await;
        assert!(matches!(stage.answer(&denied).await, Said::Denied { .. }));
        let before = [stage.read(&issued).await.unwrap(), stage.read(&denied).await.unwrap()];
        signer.stop().await;

        let later = stage.a_signer().with("allow", json!([])).called("replica-b").start().await.ready().await;
        // A touch that changes nothing of substance still comes by on the watch.
        for request in [&issued, &denied] {
            let label = json!({"metadata": {"labels": {"touched": "yes"}}});
            call::patch(&stage.admin, &request.path, &label).await.unwrap();
        }
        never("an answer changed", MINUTE, async || {
            for (before, request) in before.iter().zip([&issued, &denied]) {
                let now = stage.read(request).await.unwrap();
                if now["status"] != before["status"] {
                    return Some(format!("{now}"));
                }
            }
            None
        })
        .await;
        assert!(later.audit().is_empty(), "{:#?}", later.audit());
        later.stop().await;
    }

    /// A certificate under our name that is not ours raises an alarm.
    async fn a_foreign_certificate_is_noticed(bed: Bed) {
        let stage = Stage::open(&bed, "foreign").await;
        let signer = stage.a_signer().with("allow", json!([])).start().await.ready().await;
        let pod = stage.any_pod().await;
        let key = Key::make(KeyType::EcdsaP256);
        let request = stage.request_for(&pod).make_with(&key).await;
        signer.says("hold", "not_admitted").await;
        let alarms = async || signer.metric("podmint_signer_foreign_issuance_total", &[]).await;
        assert!(alarms().await < 0.5);
        let now = server_seconds(&stage).await;
        let forged = Issue { key: &key, from: now - 60, life: 86_400, refresh: now + 40_000, reason: "Issued" }.status();
        let mut object = stage.read(&request).await.unwrap();
        object["status"] = forged;
        call::put(&stage.admin, &format!("{}/status", request.path), &object).await.unwrap();
        until("the alarm is raised", async || (alarms().await > 0.5).then_some(())).await;
        signer.stop().await;
    }
}
