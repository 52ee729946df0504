//! A request that contradicts the cluster is refused by the signer itself. Nothing else could: NodeRestriction and the admission
//! guard are off here, and an administrator makes the requests. Which answer it is, Deny or Hold, is the design's table.

use std::time::Duration;

use podmint_tests::call;
use podmint_tests::keys::KeyType;
use podmint_tests::signer::{MINUTE, Signer};
use podmint_tests::stage::{Pod, Request, RequestPlan, Said};
use podmint_tests::tally::no_status_was_rejected;
use podmint_tests::until::never;
use podmint_tests::{Bed, Stage, Who, on_every_bed};
use serde_json::json;

/// The answers that are not a certificate.
enum No {
    /// Final, with this reason in the condition.
    Deny(&'static str),
    /// Pending, with this reason in the metrics.
    Hold(&'static str),
}

on_every_bed! {
    /// The UID of a pod that lives, but not of this one.
    async fn another_pods_uid_is_held(bed: Bed) {
        let story = Story::begin(&bed, "other-uid").await;
        let other = story.stage.a_pod("other").on(&story.pod.node).as_account(&story.pod.account).make().await;
        story.refuses(story.honest().with("podUID", other.uid), No::Hold("other_pod")).await;
    }

    /// A node the pod is not bound to, itself in perfect order.
    async fn another_node_is_denied(bed: Bed) {
        let story = Story::begin(&bed, "other-node").await;
        let other = story.stage.node("node-b").await;
        story.refuses(story.honest().with("nodeName", other.name).with("nodeUID", other.uid), No::Deny("WrongNode")).await;
    }

    /// An account the pod does not run as, itself in perfect order.
    async fn another_account_is_denied(bed: Bed) {
        let story = Story::begin(&bed, "other-account").await;
        let other = story.stage.account("billing").await;
        let plan = story.honest().with("serviceAccountName", other.name).with("serviceAccountUID", other.uid);
        story.refuses(plan, No::Deny("WrongServiceAccount")).await;
    }

    /// The pod of before, when one of the same name has taken its place.
    async fn a_recreated_pod_is_held(bed: Bed) {
        let mut story = Story::begin(&bed, "pod-again").await;
        let before = story.pod.clone();
        call::delete(&story.stage.admin, &story.stage.core("pods/web")).await.unwrap();
        story.pod = story.stage.a_pod("web").on(&before.node).as_account(&before.account).make().await;
        assert_ne!(before.uid, story.pod.uid);
        story.refuses(story.honest().with("podUID", before.uid), No::Hold("other_pod")).await;
    }

    /// The account of before, when one of the same name has taken its place.
    async fn a_recreated_account_is_held(bed: Bed) {
        let mut story = Story::begin(&bed, "account-again").await;
        let before = story.pod.account.clone();
        call::delete(&story.stage.admin, &story.stage.core("serviceaccounts/shop")).await.unwrap();
        story.pod.account = story.stage.account("shop").await;
        assert_ne!(before.uid, story.pod.account.uid);
        story.refuses(story.honest().with("serviceAccountUID", before.uid), No::Hold("other_service_account")).await;
    }

    /// The node of before, when one of the same name has taken its place.
    async fn a_recreated_node_is_held(bed: Bed) {
        let mut story = Story::begin(&bed, "node-again").await;
        let before = story.pod.node.clone();
        call::delete(&story.stage.admin, &format!("/api/v1/nodes/{}", before.name)).await.unwrap();
        story.pod.node = story.stage.node("node-a").await;
        assert_ne!(before.uid, story.pod.node.uid);
        story.refuses(story.honest().with("nodeUID", before.uid), No::Hold("other_node")).await;
    }

    /// A pod that has no volume for this signer.
    async fn a_pod_that_does_not_project_the_signer_is_denied(bed: Bed) {
        let story = Story::begin(&bed, "not-projected").await;
        let plain = story.stage.a_pod("plain").on(&story.pod.node).as_account(&story.pod.account).projecting_nothing().make().await;
        story.refuses(story.stage.request_for(&plain).by(&Who::Admin), No::Deny("NotProjected")).await;
    }

    /// A key of a kind the pod did not ask for.
    async fn another_key_type_is_denied(bed: Bed) {
        let story = Story::begin(&bed, "other-key").await;
        story.refuses(story.honest().key(KeyType::Ed25519), No::Deny("NotProjected")).await;
    }

    /// A longer life than the pod asked for.
    async fn a_longer_life_is_denied(bed: Bed) {
        let story = Story::begin(&bed, "longer").await;
        let short = story.stage.a_pod("short").on(&story.pod.node).as_account(&story.pod.account).with("maxExpirationSeconds", json!(3600)).make().await;
        story.refuses(story.stage.request_for(&short).by(&Who::Admin).with("maxExpirationSeconds", 7200), No::Deny("NotProjected")).await;
    }

    /// Annotations the pod does not have, as a node would add to gain a name.
    async fn added_annotations_are_denied(bed: Bed) {
        let story = Story::begin(&bed, "annotations").await;
        let plan = story.honest().with("unverifiedUserAnnotations", json!({"stories.example.org/extra": "name"}));
        story.refuses(plan, No::Deny("NotProjected")).await;
    }

    /// Annotations of the pod that are left out.
    async fn removed_annotations_are_denied(bed: Bed) {
        let story = Story::begin(&bed, "annotations-gone").await;
        let annotated = story.stage.a_pod("annotated").on(&story.pod.node).as_account(&story.pod.account)
            .with("userAnnotations", json!({"stories.example.org/extra": "name"})).make().await;
        let plan = story.stage.request_for(&annotated).by(&Who::Admin).with("unverifiedUserAnnotations", json!({}));
        story.refuses(plan, No::Deny("NotProjected")).await;
    }

    /// An annotation that Podmint does not know, on a pod that has not started: its author is told.
    async fn an_unknown_annotation_is_denied_while_the_pod_is_pending(bed: Bed) {
        let story = Story::begin(&bed, "unknown-annotation").await;
        let annotated = story.stage.a_pod("annotated").on(&story.pod.node).as_account(&story.pod.account)
            .with("userAnnotations", json!({"stories.example.org/extra": "name"})).make().await;
        story.refuses(story.stage.request_for(&annotated).by(&Who::Admin), No::Deny("InvalidUnverifiedUserAnnotations")).await;
    }

    /// The same once the pod runs: a version of ours that was rolled back must not wedge it.
    async fn an_unknown_annotation_of_a_running_pod_is_held(bed: Bed) {
        let story = Story::begin(&bed, "running-annotation").await;
        let annotated = story.stage.a_pod("annotated").on(&story.pod.node).as_account(&story.pod.account)
            .with("userAnnotations", json!({"stories.example.org/extra": "name"})).make().await;
        story.phase("annotated", "Running").await;
        story.refuses(story.stage.request_for(&annotated).by(&Who::Admin), No::Hold("unknown_annotation")).await;
    }

    /// A copy that a kubelet shows of a file on its disk.
    async fn a_mirror_pod_is_denied(bed: Bed) {
        let story = Story::begin(&bed, "mirror").await;
        let mirror = story.stage.a_pod("mirror").on(&story.pod.node).as_account(&story.pod.account)
            .annotated("kubernetes.io/config.mirror", "hash").make().await;
        story.refuses(story.stage.request_for(&mirror).by(&Who::Admin), No::Deny("MirrorPod")).await;
    }

    /// A pod that has ended well, and one that has not.
    async fn a_finished_pod_is_denied(bed: Bed) {
        let story = Story::begin(&bed, "finished").await;
        for phase in ["Succeeded", "Failed"] {
            let name = phase.to_lowercase();
            let ended = story.stage.a_pod(&name).on(&story.pod.node).as_account(&story.pod.account).make().await;
            story.phase(&name, phase).await;
            let request = story.stage.request_for(&ended).by(&Who::Admin).make().await;
            assert!(matches!(story.stage.answer(&request).await, Said::Denied { reason, .. } if reason == "PodFinished"));
        }
        story.end().await;
    }

    /// A pod that never was.
    async fn a_pod_that_never_was_is_held(bed: Bed) {
        let story = Story::begin(&bed, "ghost").await;
        let ghost = Pod { name: "ghost".to_owned(), uid: "11111111-2222-3333-4444-555555555555".to_owned(), ..story.pod.clone() };
        story.refuses(story.stage.request_for(&ghost).by(&Who::Admin), No::Hold("pod_not_found")).await;
    }

    /// The same public key in live requests of two pods: the later is held.
    async fn a_key_of_another_pod_is_held(bed: Bed) {
        let story = Story::begin(&bed, "same-key").await;
        let key = podmint_tests::keys::Key::make(KeyType::EcdsaP256);
        let first = story.honest().make_with(&key).await;
        story.stage.issued(&first).await;
        let thief = story.stage.a_pod("thief").on(&story.pod.node).as_account(&story.pod.account).make().await;
        let second = story.stage.request_for(&thief).by(&Who::Admin).make_with(&key).await;
        story.signer.says("hold", "key_on_another_pod").await;
        story.stays_pending(&second, MINUTE).await;
        assert!(story.signer.metric("podmint_signer_shared_keys_total", &[]).await > 0.5, "an alarm is raised");
        story.end().await;
    }
}

/// A signer, and a pod that would get a certificate.
struct Story {
    stage: Stage,
    signer: Signer,
    pod: Pod,
}

impl Story {
    async fn begin(bed: &Bed, name: &str) -> Self {
        let stage = Stage::open(bed, name).await;
        let signer = stage.a_signer().start().await.ready().await;
        let pod = stage.any_pod().await;
        Self { stage, signer, pod }
    }

    /// The request the pod's kubelet would make, made by an administrator.
    fn honest(&self) -> RequestPlan<'_> {
        self.stage.request_for(&self.pod).by(&Who::Admin)
    }

    /// The answer is this no, stays so for a minute, and an honest request beside it is still served.
    async fn refuses(&self, plan: RequestPlan<'_>, no: No) {
        let request = plan.make().await;
        match no {
            No::Hold(reason) => {
                self.signer.says("hold", reason).await;
                self.stays_pending(&request, MINUTE).await;
            }
            No::Deny(expected) => {
                let said = self.stage.answer(&request).await;
                let Said::Denied { reason, message } = &said else { panic!("denied, not {said:?}") };
                assert_eq!(reason, expected, "{message}");
                assert!(!message.is_empty(), "whoever can change something is told what");
                never("a final answer changed", MINUTE, async || {
                    let now = Said::of(&self.stage.read(&request).await?)?;
                    (now != said).then(|| format!("{now:?}"))
                })
                .await;
            }
        }
        assert!(self.certificates().is_empty(), "a certificate was made: {:?}", self.certificates());
        self.stage.issued(&self.honest().make().await).await;
        assert!(!self.certificates().is_empty(), "the audit log shows certificates");
        no_status_was_rejected(&self.stage);
    }

    async fn stays_pending(&self, request: &Request, time: Duration) {
        never("a held request was answered", time, async || {
            let object = self.stage.read(request).await.expect("the request is still there");
            Said::of(&object).map(|said| format!("{said:?}"))
        })
        .await;
    }

    /// The serial numbers in the audit log.
    fn certificates(&self) -> Vec<String> {
        self.signer.audit().iter().filter_map(|line| Some(line.get("serial")?.as_str()?.to_owned())).collect()
    }

    async fn phase(&self, pod: &str, phase: &str) {
        let path = self.stage.core(&format!("pods/{pod}/status"));
        call::patch(&self.stage.admin, &path, &json!({"status": {"phase": phase}})).await.unwrap();
    }

    async fn end(self) {
        self.signer.stop().await;
    }
}
