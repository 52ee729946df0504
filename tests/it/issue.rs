//! What an honest kubelet asks for is issued, and every word of it is right.

use podmint_tests::keys::{Key, KeyType};
use podmint_tests::leaf::{self, Expected, Leaf};
use podmint_tests::stage::{Account, Form, Pod};
use podmint_tests::{Bed, Stage, bare, on_every_bed};
use serde_json::json;

const DAY: i64 = 86_400;

on_every_bed! {
    /// Each kind of key a kubelet makes gets its certificate, and the signer's record has each before it was published.
    async fn every_key_type_gets_its_certificate(bed: Bed) {
        every_key_type(&Stage::open(&bed, "issue").await).await;
    }

    /// The life is the shortest of what was asked for and what the policy grants.
    async fn a_life_is_no_longer_than_asked_and_allowed(bed: Bed) {
        let stage = Stage::open(&bed, "life").await;
        let signer = stage.a_signer().with("lifetime", json!({"max": "6h"})).start().await.ready().await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        for (asked, granted) in [(3600, 3600), (7200, 7200), (21_600, 21_600), (DAY, 21_600), (90 * DAY, 21_600)] {
            let pod = stage.a_pod(&format!("asks-{asked}")).on(&node).as_account(&account).with("maxExpirationSeconds", json!(asked)).make().await;
            issue(&stage, &pod, &account, granted).await;
        }
        signer.stop().await;
    }

    /// A burst of pods does not come back as one: the times at which they renew differ.
    async fn renewals_are_spread(bed: Bed) {
        let stage = Stage::open(&bed, "spread").await;
        let signer = stage.a_signer().start().await.ready().await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        let mut begins = Vec::new();
        for number in 0..12 {
            let pod = stage.a_pod(&format!("web-{number}")).on(&node).as_account(&account).make().await;
            let leaf = issue(&stage, &pod, &account, DAY).await;
            begins.push(leaf.begin_refresh_at - leaf.not_before);
        }
        begins.sort_unstable();
        let spread = begins.last().unwrap() - begins.first().unwrap();
        // Twelve draws from a fifth of a day all fall within a tenth of that once in 10^10 runs.
        assert!(spread > DAY / 50, "renewals begin within {spread} s of each other");
        signer.stop().await;
    }

    /// A renewal is a new certificate for a new key, with the same name.
    async fn a_renewal_has_a_new_serial(bed: Bed) {
        let stage = Stage::open(&bed, "renewal").await;
        let signer = stage.a_signer().start().await.ready().await;
        let account = stage.account("shop").await;
        let pod = stage.a_pod("web").on(&stage.node("node-a").await).as_account(&account).make().await;
        let (first, second) = (issue(&stage, &pod, &account, DAY).await, issue(&stage, &pod, &account, DAY).await);
        assert_ne!(first.serial, second.serial);
        assert_eq!(first.authority, second.authority);
        signer.stop().await;
    }
}

/// devcluster looks like every version; the real ones have the story above.
#[test]
fn every_key_type_gets_its_certificate_on_every_devcluster() {
    use podmint_devcluster::{Options, Versions};
    podmint_tests::run(async {
        for versions in [Versions::V1_37WithBeta, Versions::V1_36, Versions::V1_35] {
            let bed = Bed::over(Options { versions, ..bare() }).await;
            every_key_type(&Stage::open(&bed, "issue").await).await;
        }
    });
}

/// A 1.35 kubelet under a newer API server that still serves v1beta1: its key is found.
#[test]
fn a_public_key_with_proof_is_served_where_v1beta1_is() {
    use podmint_devcluster::{Options, Versions};
    podmint_tests::run(async {
        for versions in [Versions::V1_36, Versions::V1_37WithBeta] {
            let bed = Bed::over(Options { versions, ..bare() }).await;
            let stage = Stage::open(&bed, "old-kubelet").await.writing("v1beta1");
            let signer = stage.a_signer().start().await.ready().await;
            let pod = stage.any_pod().await;
            let key = Key::make(KeyType::EcdsaP256);
            let request = stage.request_for(&pod).in_form(Form::KeyAndProof).make_with(&key).await;
            let status = stage.issued(&request).await;
            check(&stage, &status, &key, &pod.account, DAY).await;
            signer.stop().await;
        }
    });
}

async fn every_key_type(stage: &Stage) {
    let signer = stage.a_signer().start().await.ready().await;
    let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
    for key_type in KeyType::ALL {
        let name = format!("web-{}", key_type.word().to_lowercase());
        let pod = stage.a_pod(&name).on(&node).as_account(&account).projecting(key_type).make().await;
        issue(stage, &pod, &account, DAY).await;
    }
    // What was published has a line that was written before, and one that says that it was.
    assert!(signer.audit().len() >= 2 * KeyType::ALL.len(), "{:#?}", signer.audit());
    assert!((signer.metric("podmint_signer_answers_total", &["answer=\"issue\""]).await - 6.0).abs() < 0.5);
    signer.stop().await;
}

/// Asks as the pod's kubelet does, waits, and checks what came.
pub(crate) async fn issue(stage: &Stage, pod: &Pod, account: &Account, longest_life: i64) -> Leaf {
    let plan = stage.request_for(pod);
    let key = Key::make(plan.key_type());
    let request = plan.make_with(&key).await;
    let status = stage.issued(&request).await;
    check(stage, &status, &key, account, longest_life).await
}

async fn check(stage: &Stage, status: &serde_json::Value, key: &Key, account: &Account, longest_life: i64) -> Leaf {
    let (uri, roots) = (stage.identity_of(&account.name), stage.published_roots().await);
    leaf::check(status, Expected { uri: &uri, public_key: &key.public(), longest_life, roots: &roots })
}
