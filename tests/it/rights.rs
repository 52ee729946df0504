//! The rights of `deploy/kustomize/rbac.yaml`: enough for everything the signer does, and not one too many. Every story on a real server
//! runs with them; here each is taken away in turn, and something must be seen to fail.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt as _};
use podmint_devcluster::Options;
use podmint_tests::install::{self, Right};
use podmint_tests::proxy::Proxy;
use podmint_tests::server::Settings;
use podmint_tests::signer::Signer;
use podmint_tests::stage::{Pod, Said};
use podmint_tests::{Bed, Stage, bare, call, leaf};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::forge::foreign_root;

/// How long each step of the day may take before it counts as failed. With all rights each takes a fraction of a second.
const STEP: Duration = Duration::from_secs(12);

/// An ordinary day asks for everything the signer does: with all rights it goes well, without any one of them it does not.
#[test]
fn every_right_is_needed() {
    podmint_tests::run(async {
        let bed = Bed::own(Settings::of("1.37.2")).await;
        install_guard_for_every_namespace(&bed).await;
        install::crd(&bed).await;
        // Kubernetes lets every service account read trust bundles unless its administrator thinks otherwise, as here.
        let admin = bed.client(&podmint_tests::Who::Admin).await;
        let default = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/system:cluster-trust-bundle-discovery";
        call::delete(&admin, default).await.unwrap();
        let old_authority = Arc::new(old_authority().await);
        for reads in [Reads::Documents, Reads::Objects] {
            if let Err(step) = ordinary_day(&bed, None, reads, &old_authority).await {
                panic!("with all rights of the manifest this failed: {step}");
            }
        }

        let days = install::rights().into_iter().map(|right| {
            let (bed, old_authority) = (bed.clone(), Arc::clone(&old_authority));
            async move {
                let day = ordinary_day(&bed, Some(&right), Reads::by(&right), &old_authority).await;
                eprintln!("without {right}: {}", day.as_ref().err().map_or("nothing failed", String::as_str));
                (right, day)
            }
        });
        let days: Vec<_> = stream::iter(days).buffer_unordered(4).collect().await;
        let surplus: Vec<String> =
            days.iter().filter(|(_, day)| day.is_ok()).map(|(right, _)| right.to_string()).collect();
        assert!(surplus.is_empty(), "nothing fails without these rights, so nobody needs them: {surplus:#?}");
    });
}

/// Where the signer's PodSigner is.
#[derive(Clone, Copy, PartialEq)]
enum Reads {
    Documents,
    Objects,
}

impl Reads {
    /// Who reads documents needs no right to objects.
    fn by(right: &Right) -> Self {
        if right.resource.starts_with("podsigners") { Self::Objects } else { Self::Documents }
    }
}

/// Objects are the whole cluster's: one signer at a time reads them.
static OBJECTS: Mutex<()> = Mutex::const_new(());

/// Everything the signer does, once. The error is the first step that failed.
async fn ordinary_day(bed: &Bed, missing: Option<&Right>, reads: Reads, old_authority: &[Value]) -> Result<(), String> {
    let _alone = if reads == Reads::Objects { Some(OBJECTS.lock().await) } else { None };
    let stage = Stage::open_without(missing, bed, "rights").await;
    // Only an authority that exists already, half-way through its life, is changed at start; only one that does not is made.
    let inherits = missing.is_some_and(|right| right.resource == "secrets" && right.verb == "update");
    if inherits {
        for secret in old_authority {
            install::apply(&stage.admin, &placed(secret.clone(), &stage.signer_namespace)).await;
        }
    }
    let proxy = Proxy::start(bed.client(&stage.signer_account).await).await;
    let rule = json!([{"name": "shop", "namespaces": [stage.namespace], "serviceAccounts": ["shop"],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": stage.namespace}}}]);
    let plan = stage.a_signer().guarded().with("allow", rule).with("profile", json!({"dnsNames": ["services"]}));
    let plan = plan.through(proxy.client());
    let mut object = plan.object();
    object["metadata"]["name"] = json!(stage.namespace);
    let signer = match reads {
        Reads::Documents => plan.start().await,
        Reads::Objects => {
            install::apply(&stage.admin, &object).await;
            plan.from_objects().start().await
        }
    };
    let day = its_steps(&stage, &signer, &proxy, reads, inherits.then_some(old_authority)).await;
    if reads == Reads::Objects {
        call::delete(&stage.admin, &install::path(&object)).await.unwrap();
    }
    day
}

async fn its_steps(
    stage: &Stage,
    signer: &Signer,
    proxy: &Proxy,
    reads: Reads,
    inherited: Option<&[Value]>,
) -> Result<(), String> {
    step("the signer becomes ready", async || signer.readiness().await.is_ok()).await?;
    let pod = stage.any_pod().await;
    answered(stage, &pod, "a certificate is issued").await?;
    if reads == Reads::Objects {
        let path = format!("{}/{}", install::PODSIGNERS, stage.namespace);
        step("its PodSigner says so", async || {
            call::get(&stage.admin, &path).await.is_ok_and(|now| now["status"]["state"] == "Issuing")
        })
        .await?;
    }
    step("it answers first", async || signer.metric("podmint_signer_first", &[]).await > 0.5).await?;
    lease_is_renewed(stage).await?;
    new_services_are_seen(stage, &pod).await?;
    let faults = async || signer.metric("podmint_signer_answers_total", &["answer=\"fault\""]).await;
    let before = faults().await;
    proxy.conflict(1);
    answered(stage, &pod, "a certificate is issued after a conflict").await?;
    if faults().await > before + 0.5 {
        return Err("a conflict is looked into at once".to_owned());
    }
    bundle_is_repaired(stage).await?;
    event_is_written(stage, &pod, signer).await?;
    if let Some(old_authority) = inherited {
        let secret = format!("/api/v1/namespaces/{}/secrets/podmint-ca", stage.signer_namespace);
        let before = &old_authority[0]["data"];
        step("the next intermediate is made", async || {
            call::get(&stage.admin, &secret).await.is_ok_and(|now| now["data"] != *before)
        })
        .await?;
    }
    let restarts = signer.metric("podmint_signer_watch_restarts_total", &[]).await;
    if restarts > 0.5 { Err(format!("the watch holds ({restarts} restarts)")) } else { Ok(()) }
}

async fn answered(stage: &Stage, pod: &Pod, what: &str) -> Result<(), String> {
    let request = stage.request_for(pod).make().await;
    step(what, async || {
        let object = stage.read(&request).await;
        matches!(object.as_ref().and_then(Said::of), Some(Said::Issued(_)))
    })
    .await
}

async fn new_services_are_seen(stage: &Stage, pod: &Pod) -> Result<(), String> {
    stage.service("web", json!({"selector": {"app": pod.name}, "ports": [{"port": 443}]})).await;
    step("a new Service gives its pods a name", async || {
        let request = stage.request_for(pod).make().await;
        let names = leaf::names(&stage.issued(&request).await);
        names.contains(&format!("DNS:web.{}.svc", stage.namespace))
    })
    .await
}

async fn lease_is_renewed(stage: &Stage) -> Result<(), String> {
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/podmint-signer", stage.signer_namespace);
    let renewed = async || Some(call::get(&stage.admin, &path).await.ok()?["spec"]["renewTime"].clone());
    let before = renewed().await;
    step("the lease is renewed", async || renewed().await.is_some_and(|now| Some(now) != before)).await
}

async fn bundle_is_repaired(stage: &Stage) -> Result<(), String> {
    let bundles = stage.trust_bundles().await;
    let name = bundles[0]["metadata"]["name"].as_str().unwrap();
    let before = stage.published_roots().await;
    let edit = json!({"spec": {"trustBundle": foreign_root()}});
    call::patch(&stage.admin, &format!("/apis/certificates.k8s.io/v1/clustertrustbundles/{name}"), &edit)
        .await
        .unwrap();
    step("the trust bundle is repaired", async || stage.published_roots().await == before).await
}

async fn event_is_written(stage: &Stage, pod: &Pod, signer: &Signer) -> Result<(), String> {
    let refused = stage.a_pod("billing").on(&pod.node).as_account(&stage.account("billing").await).make().await;
    stage.request_for(&refused).make().await;
    signer.says("hold", "not_admitted").await;
    step("the pod is told why it waits", async || !stage.events_of(&refused).await.is_empty()).await
}

async fn step(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Result<(), String> {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within(wait).await.map_err(|()| what.to_owned())
}

async fn within(wait: impl Future<Output = ()>) -> Result<(), ()> {
    tokio::time::timeout(STEP, wait).await.map_err(|_elapsed| ())
}

/// The guard of one installation names its one signer. Here every namespace has one, so the second policy takes any account of
/// that name; the first is as shipped.
async fn install_guard_for_every_namespace(bed: &Bed) {
    let admin = bed.client(&podmint_tests::Who::Admin).await;
    for mut object in install::manifest("admission-guard.yaml") {
        if object["kind"] == "ValidatingAdmissionPolicy" && object["metadata"]["name"] == "podmint-answers" {
            object["spec"]["validations"][0]["expression"] =
                json!("request.userInfo.username.endsWith(':podmint-signer')");
        }
        install::apply(&admin, &object).await;
    }
}

/// The Secrets of a CA that was made 16 days ago.
async fn old_authority() -> Vec<Value> {
    let past = Bed::over(Options { clock_ahead_seconds: -16 * 86_400, ..bare() }).await;
    let stage = Stage::open(&past, "past").await;
    let signer = stage.a_signer().start().await.ready().await;
    signer.stop().await;
    let mut secrets = Vec::new();
    for name in ["podmint-ca", "podmint-ca-root"] {
        secrets.push(call::get(&stage.admin, &stage.core(&format!("secrets/{name}"))).await.unwrap());
    }
    secrets
}

fn placed(mut secret: Value, namespace: &str) -> Value {
    let metadata = &secret["metadata"];
    secret["metadata"] = json!({
        "name": metadata["name"], "namespace": namespace, "labels": metadata["labels"], "annotations": metadata["annotations"],
    });
    secret
}
