//! Several replicas: one CA, one certificate for a request, and no gap when one dies.

use std::collections::BTreeSet;

use podmint_tests::stage::Said;
use podmint_tests::until::until;
use podmint_tests::{Bed, Stage, on_every_bed};

on_every_bed! {
    /// Two replicas that start at once, on nothing, end with one CA between them.
    async fn two_replicas_end_with_one_authority(bed: Bed) {
        let stage = Stage::open(&bed, "two").await;
        let (first, second) = tokio::join!(stage.a_signer().start(), stage.a_signer().called("replica-b").start());
        let (first, second) = tokio::join!(first.ready(), second.ready());
        let pod = stage.any_pod().await;
        let mut requests = Vec::new();
        for _ in 0..20 {
            requests.push(stage.request_for(&pod).make().await);
        }
        let mut intermediates = BTreeSet::new();
        for request in &requests {
            let status = stage.issued(request).await;
            let chain = pem::parse_many(status["certificateChain"].as_str().unwrap()).unwrap();
            intermediates.insert(chain[1].contents().to_vec());
        }
        assert_eq!(intermediates.len(), 1, "certificates of {} authorities", intermediates.len());
        let roots = pem::parse_many(stage.published_roots().await).unwrap();
        assert_eq!(roots.len(), 1, "{} roots are published", roots.len());
        for signer in [&first, &second] {
            assert!(signer.metric("podmint_signer_foreign_issuance_total", &[]).await < 0.5, "a replica takes the other for a stranger");
        }
        first.stop().await;
        second.stop().await;
    }

    /// The replica that answers first is gone without a word: the other one answers.
    async fn a_dead_replica_costs_about_a_second(bed: Bed) {
        let stage = Stage::open(&bed, "dead").await;
        let first = stage.a_signer().start().await.ready().await;
        let second = stage.a_signer().called("replica-b").start().await.ready().await;
        let pod = stage.any_pod().await;
        let before = stage.request_for(&pod).make().await;
        stage.issued(&before).await;
        drop(first);
        let request = stage.request_for(&pod).make().await;
        assert_eq!(until("the other one answers", async || Said::of(&stage.read(&request).await?)).await, Said::Issued(stage.read(&request).await.unwrap()["status"].clone()));
        second.stop().await;
    }
}
