//! An API server that lags shows the past in its cached reads. The past may only speak for a pod, never against it.

use std::time::Duration;

use podmint_devcluster::Verb;
use podmint_tests::proxy::Proxy;
use podmint_tests::{Bed, Stage, Who, call, on_every_bed};

on_every_bed! {
    /// Cached reads know neither the pod nor its node nor its account yet: all three are read again, and the pod is served.
    async fn a_cache_that_does_not_know_the_pod_yet_does_not_refuse_it(bed: Bed) {
        let stage = Stage::open(&bed, "lag-absent").await;
        let proxy = Proxy::start(bed.client(&stage.signer_account).await).await;
        let signer = stage.a_signer().through(proxy.client()).start().await.ready().await;
        let pod = stage.any_pod().await;
        let paths = [stage.core("pods/web"), stage.core("serviceaccounts/shop"), format!("/api/v1/nodes/{}", pod.node.name)];
        for path in &paths {
            proxy.freeze(path, None);
        }
        stage.issued(&stage.request_for(&pod).make().await).await;
        assert!(proxy.shown().contains(&paths[0]), "the story shows nothing unless the past was asked for: {:?}", proxy.shown());
        signer.stop().await;
    }

    /// A cached read still shows the pod of before, with another UID, on another node, and finished.
    async fn a_cache_that_shows_the_pod_of_before_does_not_refuse_the_new_one(bed: Bed) {
        let stage = Stage::open(&bed, "lag-before").await;
        let proxy = Proxy::start(bed.client(&stage.signer_account).await).await;
        let signer = stage.a_signer().through(proxy.client()).start().await.ready().await;
        let (other, account) = (stage.node("node-b").await, stage.account("shop").await);
        stage.a_pod("web").on(&other).as_account(&account).projecting_nothing().make().await;
        let mut before = call::get(&stage.admin, &stage.core("pods/web")).await.unwrap();
        before["status"]["phase"] = serde_json::json!("Succeeded");
        call::delete(&stage.admin, &stage.core("pods/web")).await.unwrap();
        let pod = stage.a_pod("web").on(&stage.node("node-a").await).as_account(&account).make().await;
        proxy.freeze(&stage.core("pods/web"), Some(&before));
        stage.issued(&stage.request_for(&pod).make().await).await;
        assert!(!proxy.shown().is_empty(), "the story shows nothing unless the past was asked for");
        signer.stop().await;
    }
}

/// The same with devcluster's own lag: everything a minute behind.
#[test]
fn a_devcluster_that_lags_a_minute_behind_serves_good_pods() {
    podmint_tests::run(async {
        let bed = Bed::embedded().await;
        let stage = Stage::open(&bed, "lag-minute").await;
        let signer = stage.a_signer().start().await.ready().await;
        let faults = bed.devcluster().unwrap().faults();
        for resource in ["pods", "serviceaccounts", "nodes"] {
            faults.lag(resource, Duration::from_secs(60));
        }
        let pod = stage.any_pod().await;
        let before = faults.calls(Verb::Get, "pods");
        stage.issued(&stage.request_for(&pod).by(&Who::Admin).make().await).await;
        assert!(faults.calls(Verb::Get, "pods") >= before + 2, "once from the cache, once by quorum");
        signer.stop().await;
    });
}
