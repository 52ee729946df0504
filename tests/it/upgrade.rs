//! Kubernetes is upgraded under a signer that keeps running.

use podmint_tests::server::Settings;
use podmint_tests::{Bed, Stage};

/// 1.36 knows v1beta1 alone, 1.37 serves v1 alone: the signer finds out by itself, and its CA is still the one.
#[test]
#[ignore = "tests/run --rest"]
fn an_upgrade_from_1_36_to_1_37_needs_no_restart_of_the_signer() {
    podmint_tests::run(async {
        let bed = Bed::own(Settings::of("1.36.3")).await;
        let before = Stage::open(&bed, "upgrade").await;
        let pod = before.any_pod().await;
        let signer = before.a_signer().start().await.ready().await;
        before.issued(&before.request_for(&pod).make().await).await;
        let roots = before.published_roots().await;

        let server = bed.server().unwrap();
        server.stop_api();
        server.start_api("1.37.2").await;
        assert_eq!(bed.api_version("podcertificaterequests").await, "v1");
        let after = before.clone().writing("v1");
        after.issued(&after.request_for(&pod).make().await).await;
        assert_eq!(after.published_roots().await, roots);
        assert!(!signer.has_ended());
        signer.stop().await;
    });
}
