//! What consumers trust: published before anything is signed, repaired when somebody edits it, and the same over the life of
//! an intermediate.

use podmint_devcluster::{Failure, Options, Verb};
use podmint_tests::call;
use podmint_tests::install;
use podmint_tests::signer::MINUTE;
use podmint_tests::stage::Said;
use podmint_tests::until::{never, until};
use podmint_tests::{Bed, Stage, bare, on_every_bed};
use serde_json::{Value, json};

use crate::forge::foreign_root;

on_every_bed! {
    /// Somebody deletes the trust bundle: it comes back as it was.
    async fn a_deleted_trust_bundle_comes_back(bed: Bed) {
        let stage = Stage::open(&bed, "bundle-gone").await;
        let signer = stage.a_signer().start().await.ready().await;
        let (path, before) = bundle(&stage).await;
        call::delete(&stage.admin, &path).await.unwrap();
        until("the trust bundle is back", async || (stage.published_roots().await == before).then_some(())).await;
        let pod = stage.any_pod().await;
        stage.issued(&stage.request_for(&pod).make().await).await;
        signer.stop().await;
    }

    /// Somebody plants another root: it is taken out again.
    async fn an_edited_trust_bundle_is_repaired(bed: Bed) {
        let stage = Stage::open(&bed, "bundle-edited").await;
        let signer = stage.a_signer().start().await.ready().await;
        let (path, before) = bundle(&stage).await;
        let planted = json!({"spec": {"trustBundle": foreign_root()}});
        call::patch(&stage.admin, &path, &planted).await.unwrap();
        until("the planted root is gone", async || (stage.published_roots().await == before).then_some(())).await;
        assert!(signer.metric("podmint_signer_trust_repairs_total", &[]).await > 0.5);
        signer.stop().await;
    }
}

/// While the root cannot be published, nothing is signed; once it can, everything that waited is.
#[test]
fn nothing_is_signed_before_the_root_is_published() {
    podmint_tests::run(async {
        let bed = Bed::embedded().await;
        let stage = Stage::open(&bed, "unpublished").await;
        let faults = bed.devcluster().unwrap().faults();
        let refuse = Failure {
            verb: Some(Verb::Create),
            resource: "clustertrustbundles".to_owned(),
            code: 503,
            times: u32::MAX,
            retry_after: None,
        };
        faults.fail(refuse);
        let signer = stage.a_signer().start().await;
        let pod = stage.any_pod().await;
        let request = stage.request_for(&pod).make().await;
        signer.says("hold", "trust_not_published").await;
        assert!(signer.readiness().await.is_err(), "it does not say that it is ready");
        never("something was signed", MINUTE, async || {
            Said::of(&stage.read(&request).await?).map(|said| format!("{said:?}"))
        })
        .await;
        assert!(stage.trust_bundles().await.is_empty());
        faults.clear();
        stage.issued(&request).await;
        signer.stop().await;
    });
}

/// Half of an intermediate's life is over: the next is made under the same root, and is the one that signs.
#[test]
fn the_next_intermediate_comes_before_the_old_one_is_unusable() {
    podmint_tests::run(async {
        for bed in [Bed::embedded().await, Bed::shared("1.37.2").await] {
            // A cluster that lived 16 days ago leaves its CA to the one that lives now.
            let past = Bed::over(Options { clock_ahead_seconds: -16 * 86_400, ..bare() }).await;
            let now = Stage::open(&bed, "now").await;
            let then = Stage::open(&past, "then").await.answering_for(&now.signer_name);
            let pod = then.any_pod().await;
            let signer = then.a_signer().start().await.ready().await;
            let old = then.issued(&then.request_for(&pod).make().await).await;
            signer.stop().await;
            move_authority(&then, &now).await;
            let roots = then.published_roots().await;

            let signer = now.a_signer().start().await.ready().await;
            let pod = now.any_pod().await;
            let new = until("the next intermediate signs", async || {
                let status = now.issued(&now.request_for(&pod).make().await).await;
                (certificate(&status, 1) != certificate(&old, 1)).then_some(status)
            })
            .await;
            assert_eq!(now.published_roots().await, roots, "the root is the same");
            assert_ne!(certificate(&new, 1), certificate(&old, 1));
            signer.stop().await;
        }
    });
}

/// Path and content of the one published bundle.
pub(crate) async fn bundle(stage: &Stage) -> (String, String) {
    let bundles = stage.trust_bundles().await;
    let [only] = bundles.as_slice() else { panic!("one bundle, not {}", bundles.len()) };
    let version = stage.bed.api_version("clustertrustbundles").await;
    let path = format!(
        "/apis/certificates.k8s.io/{version}/clustertrustbundles/{}",
        only["metadata"]["name"].as_str().unwrap()
    );
    (path, only["spec"]["trustBundle"].as_str().unwrap().to_owned())
}

/// Copies the two Secrets and the trust bundle, as a restored backup does.
pub(crate) async fn move_authority(from: &Stage, to: &Stage) {
    for name in ["podmint-ca", "podmint-ca-root"] {
        let path = format!("/api/v1/namespaces/{}/secrets/{name}", from.signer_namespace);
        let secret = call::get(&from.admin, &path).await.unwrap();
        install::apply(&to.admin, &moved(secret, Some(&to.signer_namespace))).await;
    }
    for bundle in from.trust_bundles().await {
        let mut bundle = moved(bundle, None);
        bundle["apiVersion"] =
            json!(format!("certificates.k8s.io/{}", to.bed.api_version("clustertrustbundles").await));
        bundle["kind"] = json!("ClusterTrustBundle");
        install::apply(&to.admin, &bundle).await;
    }
}

pub(crate) fn moved(mut object: Value, namespace: Option<&str>) -> Value {
    let metadata = &object["metadata"];
    let mut kept =
        json!({"name": metadata["name"], "labels": metadata["labels"], "annotations": metadata["annotations"]});
    if let Some(namespace) = namespace {
        kept["namespace"] = json!(namespace);
    }
    object["metadata"] = kept;
    object
}

fn certificate(status: &Value, place: usize) -> Vec<u8> {
    pem::parse_many(status["certificateChain"].as_str().unwrap()).unwrap()[place].contents().to_vec()
}
