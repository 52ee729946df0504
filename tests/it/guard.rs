//! The admission guard as it is shipped, on a server with everything a careful administrator switches on.

use podmint_tests::call;
use podmint_tests::install;
use podmint_tests::signer::MINUTE;
use podmint_tests::stage::Said;
use podmint_tests::until::{never, until};
use podmint_tests::{Bed, Stage, Who};
use serde_json::json;

/// One walk through an installation exactly as the manifests make it: only the kubelet of the node asks, only the signer answers,
/// and while the guard is gone nothing new is signed.
#[test]
fn the_guard_lets_only_kubelets_ask_and_only_the_signer_answer() {
    podmint_tests::run(async {
        let bed = Bed::guarded().await;
        let stage = Stage::as_shipped(&bed, "guard").await;
        let pod = stage.any_pod().await;
        // An API server enforces a policy a moment after it has stored it. Nobody answers yet.
        until("the API server enforces the guard", async || {
            let Ok(taken) = stage.request_for(&pod).by(&Who::Admin).try_make().await else { return Some(()) };
            call::delete(&stage.admin, &taken.path).await.unwrap();
            None
        })
        .await;
        let signer = stage.a_signer().guarded().start().await.ready().await;

        // Others may not ask: an administrator, the kubelet of another node, somebody who merely calls himself a kubelet.
        let other = stage.node("node-b").await;
        for who in [Who::Admin, Who::node(&other.name)] {
            let refused = stage.request_for(&pod).by(&who).try_make().await.expect_err("the guard refuses");
            assert_eq!(refused.code, 403, "{refused}");
        }
        let elsewhere = stage
            .a_pod("elsewhere")
            .on(&pod.node)
            .as_account(&pod.account)
            .with("signerName", json!("example.org/other"))
            .make()
            .await;
        stage.request_for(&elsewhere).by(&Who::Admin).make().await;

        // The kubelet of the node may, and is answered.
        let request = stage.request_for(&pod).make().await;
        stage.issued(&request).await;

        // Others may not answer.
        signer.stop().await;
        let open = stage.request_for(&pod).make().await;
        let mut object = stage.read(&open).await.unwrap();
        object["status"] = json!({"conditions": [{
            "type": "Denied", "status": "True", "reason": "Spite", "message": "no", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]});
        let refused =
            call::put(&stage.admin, &format!("{}/status", open.path), &object).await.expect_err("the guard refuses");
        assert_eq!(refused.code, 403, "{refused}");
        assert_eq!(Said::of(&stage.read(&open).await.unwrap()), None);

        // Without the guard nothing new is signed; with it again, what waited is.
        install::remove_guard(&bed).await;
        let signer = stage.a_signer().guarded().start().await;
        signer.says("hold", "guard_missing").await;
        never("something was signed without the guard", MINUTE, async || {
            Said::of(&stage.read(&open).await?).map(|said| format!("{said:?}"))
        })
        .await;
        install::guard(&bed).await;
        stage.issued(&open).await;
        until("the signer sees that the guard is the shipped one", async || {
            (signer.metric("podmint_signer_guard", &["state=\"in_force\""]).await > 0.5).then_some(())
        })
        .await;
        signer.stop().await;
    });
}
