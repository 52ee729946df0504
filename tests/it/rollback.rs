//! The CA's objects are lost, or are again what they were long ago. That is noticed by whoever lived through what they do not know,
//! no root is made in silence, and what brings the newest ones back mends it.

use podmint_signer::authority::{Origin, trace};
use podmint_signer::pace::Pace;
use podmint_tests::server::Settings;
use podmint_tests::signer::{MINUTE, Signer};
use podmint_tests::stage::{Pod, Request, Said};
use podmint_tests::until::{never, until};
use podmint_tests::{Bed, Stage, call, install, on_every_bed};
use serde_json::{Value, json};

use crate::hand::{path, secret, sign_at_once, state};
use crate::rotate::{ask, paced, pems, reaches, waits};
use crate::trust::{bundle, moved};

on_every_bed! {
    /// The root's Secret is gone: signing goes on, a rotation waits, and none is made in its place. Restored, the rotation goes on.
    async fn a_lost_root_is_not_replaced(bed: Bed) {
        let stage = Stage::open(&bed, "root-lost").await;
        let signer = paced(&stage).start().await.ready().await;
        let pod = stage.any_pod().await;
        let (roots, kept) = (stage.published_roots().await, secret(&stage, ROOT).await.unwrap());
        call::delete(&stage.admin, &path(&stage, ROOT)).await.unwrap();
        ask(&stage, json!({"podmint.dev/rotate": "now"})).await;
        never("another root was made", MINUTE * 4, async || {
            secret(&stage, ROOT).await.map(|_| "its Secret is there".to_owned())
        })
        .await;
        stage.issued(&stage.request_for(&pod).make().await).await;
        assert_eq!(stage.published_roots().await, roots);
        install::apply(&stage.admin, &moved(kept, Some(&stage.signer_namespace))).await;
        reaches(&stage, "distribute").await;
        assert!(pems(&stage.published_roots().await).is_superset(&pems(&roots)));
        signer.stop().await;
    }

    /// Both Secrets are from before a rotation, as a backup brings them back: the mark on the bundle tells. Who runs goes on with what it
    /// has in memory, who starts signs nothing, until the newest ones are back.
    async fn secrets_from_before_a_rotation_are_not_followed(bed: Bed) {
        let stage = Stage::open(&bed, "both-old").await;
        let signer = paced(&stage).start().await.ready().await;
        let pod = stage.any_pod().await;
        let old = [secret(&stage, SIGNING).await.unwrap(), secret(&stage, ROOT).await.unwrap()];
        let first = stage.published_roots().await;
        ask(&stage, json!({"podmint.dev/rotate": "now"})).await;
        reaches(&stage, "drain").await;
        waits("the old root drains out", async || {
            let drained = state(&stage).await?.get("rotation").is_none();
            (drained && pems(&stage.published_roots().await).is_disjoint(&pems(&first))).then_some(())
        })
        .await;
        let newest = [secret(&stage, SIGNING).await.unwrap(), secret(&stage, ROOT).await.unwrap()];
        let roots = stage.published_roots().await;
        signer.stop().await;
        // It remembers for fifteen seconds, however busy the machine is, and reads the Secrets twice meanwhile.
        let signer = paced(&stage).at(Pace::compressed(4)).called("replica-b").start().await.ready().await;
        put_back(&stage, old).await;
        for _ in 0..8 {
            assert!(is_under(&stage.issued(&stage.request_for(&pod).make().await).await, &roots), "it goes on");
            tokio::time::sleep(MINUTE).await;
        }
        signer.stop().await;
        let signer = paced(&stage).called("replica-c").start().await;
        let request = stage.request_for(&pod).make().await;
        signer.says("hold", "authority_unusable").await;
        is_not_answered(&stage, &request).await;
        assert_eq!(stage.published_roots().await, roots, "nothing is withdrawn, nothing is made");
        put_back(&stage, newest).await;
        assert!(is_under(&stage.issued(&request).await, &roots));
        signer.stop().await;
    }

    /// While no signer runs, the previous root is taken out of the bundle, and the signing Secret of when it signed comes back. Pods may
    /// not know that root any more: the new one goes on, and the old one drains.
    async fn a_root_that_was_taken_out_does_not_sign_again(bed: Bed) {
        let stage = Stage::open(&bed, "taken-out").await;
        let signer = paced(&stage).start().await.ready().await;
        let pod = stage.any_pod().await;
        let (old, first) = (secret(&stage, SIGNING).await.unwrap(), stage.published_roots().await);
        switches(&stage).await;
        until("the new root signs", async || {
            (!is_under(&stage.issued(&stage.request_for(&pod).make().await).await, &first)).then_some(())
        })
        .await;
        signer.stop().await;
        let (bundle_path, both) = bundle(&stage).await;
        let new: String = pems(&both).difference(&pems(&first)).cloned().collect();
        call::patch(&stage.admin, &bundle_path, &json!({"spec": {"trustBundle": new}})).await.unwrap();
        install::apply(&stage.admin, &moved(old, Some(&stage.signer_namespace))).await;

        let signer = paced(&stage).at(Pace::real()).called("replica-b").start().await.ready().await;
        assert!(is_under(&stage.issued(&stage.request_for(&pod).make().await).await, &new));
        assert_eq!(state(&stage).await.unwrap()["mended"]["fault"], "oldCopy");
        assert_eq!(pems(&stage.published_roots().await), pems(&both), "what the old root signed is trusted until it ends");
        signer.stop().await;
    }
}

/// Makes the next root sign; how long that takes otherwise is another story's subject. No step is taken after that.
async fn switches(stage: &Stage) {
    ask(stage, json!({"podmint.dev/rotate": "now"})).await;
    waits("the new root is to sign", async || {
        sign_at_once(stage).await;
        (state(stage).await?["rotation"]["phase"] == "drain").then_some(())
    })
    .await;
    ask(stage, json!({"podmint.dev/pause-rotation": "true"})).await;
}

/// etcd is as it was before a rotation: Secrets, bundle and mark are of one moment, and pods hold certificates of a root that is
/// nowhere. Who signed with that before holds, however long the API server was away. With the three objects of the newest backup all is as
/// before; without one, whoever starts goes on with the old root, and makes no third one.
#[test]
fn an_etcd_from_before_a_rotation_is_noticed_by_who_lived_through_it() {
    podmint_tests::run(async {
        let bed = Bed::own(Settings::of("1.37.2")).await;
        let server = bed.server().unwrap();
        let stage = Stage::open(&bed, "etcd-restored").await;
        let pod = stage.any_pod().await;
        let signer = paced(&stage).start().await.ready().await;
        stage.issued(&stage.request_for(&pod).make().await).await;
        let old = stage.published_roots().await;
        server.snapshot().await;

        switches(&stage).await;
        let lost = until("the new root signs", async || {
            let status = stage.issued(&stage.request_for(&pod).make().await).await;
            (!is_under(&status, &old)).then_some(status)
        })
        .await;
        signer.stop().await;
        // For this one the API server is away for longer than what it has confirmed counts; for the next one it is not, unless the machine is
        // busy.
        let mut signer = paced(&stage).called("replica-b").start().await.ready().await;
        let newest = [secret(&stage, SIGNING).await.unwrap(), secret(&stage, ROOT).await.unwrap()];
        let (bundle_path, both) = bundle(&stage).await;
        let newest_bundle = call::get(&stage.admin, &bundle_path).await.unwrap();

        for has_backup in [true, false] {
            server.restore().await;
            assert_eq!(stage.published_roots().await, old, "etcd forgot the rotation");
            assert_eq!(state(&stage).await.unwrap()["generation"], 1);
            let request = holds(&stage, &signer, &pod).await;
            if !has_backup {
                // It is seen, although etcd counts again from where it was.
                signer.says("hold", "authority_unusable").await;
            }
            let root = secret(&stage, ROOT).await.unwrap();
            assert!(root["data"].get("next.key").is_none(), "a root was made in silence");
            assert_eq!(stage.published_roots().await, old, "nothing is withdrawn, nothing is made");
            if has_backup {
                let mut object = moved(newest_bundle.clone(), None);
                object["apiVersion"] = json!("certificates.k8s.io/v1");
                object["kind"] = json!("ClusterTrustBundle");
                // The bundle first: as soon as the Secrets are back, the signer sees to it by itself.
                install::apply(&stage.admin, &object).await;
                put_back(&stage, newest.clone()).await;
            }
            signer.stop().await;
            let next = paced(&stage).at(Pace::real()).called(&format!("after-{has_backup}"));
            signer = next.start().await.ready().await;
            let status = stage.issued(&request).await;
            let published = stage.published_roots().await;
            if has_backup {
                assert!(!is_under(&status, &old) && is_under(&lost, &published) && is_under(&status, &published));
                assert_eq!(pems(&published), pems(&both));
            } else {
                assert!(is_under(&status, &old), "it goes on with the old root");
                assert_eq!(published, old, "no third root");
            }
        }
        signer.stop().await;
    });
}

/// A request that nobody answers, for no CA can be used.
async fn holds(stage: &Stage, signer: &Signer, pod: &Pod) -> Request {
    // Until it looks again, it signs with what it has confirmed.
    until("the signer knows better", async || {
        (signer.metric("podmint_signer_ca_trouble", &["other_root"]).await > 0.5).then_some(())
    })
    .await;
    let request = stage.request_for(pod).make().await;
    is_not_answered(stage, &request).await;
    let usable = signer.metric("podmint_signer_ca_usable_until_timestamp_seconds", &[]).await;
    assert!(usable < 0.5, "it says that a CA can be used until {usable}");
    request
}

async fn is_not_answered(stage: &Stage, request: &Request) {
    never("it is answered", MINUTE, async || Said::of(&stage.read(request).await?).map(|said| format!("{said:?}")))
        .await;
}

async fn put_back(stage: &Stage, secrets: [Value; 2]) {
    for secret in secrets {
        install::apply(&stage.admin, &moved(secret, Some(&stage.signer_namespace))).await;
    }
}

fn is_under(status: &Value, roots: &str) -> bool {
    matches!(trace(status["certificateChain"].as_str().unwrap(), roots), Origin::Ours { .. })
}

const SIGNING: &str = "podmint-ca";
const ROOT: &str = "podmint-ca-root";
