//! What a CA's administrator does with `kubectl podmint`, with no more rights than the shipped roles give: rotate, pause, resume,
//! withdraw, and keep, restore or give up the keys. The binary is the shipped one; PodSigners are objects, so each story has a cluster to
//! itself.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use podmint_signer::authority::{Origin, trace};
use podmint_signer::pace::Pace;
use podmint_tests::install::{self, PODSIGNERS};
use podmint_tests::kept::Scratch;
use podmint_tests::server::Settings;
use podmint_tests::signer::Signer;
use podmint_tests::stage::Pod;
use podmint_tests::until::until;
use podmint_tests::{Bed, Stage, Who, assets, bare, call};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::forge::foreign_root;

#[test]
fn on_devcluster() {
    podmint_tests::run(async { every_scene(&Bed::over(bare()).await).await });
}

#[test]
fn on_the_newest_kubernetes() {
    podmint_tests::run(async {
        let bed = Bed::own(Settings::of("1.37.2")).await;
        install::crd(&bed).await;
        every_scene(&bed).await;
    });
}

async fn every_scene(bed: &Bed) {
    a_rotation_is_asked_for_paused_and_ended(bed).await;
    nothing_is_signed_under_a_stolen_key(bed).await;
    a_backup_comes_back_and_nothing_older_does(bed).await;
    a_lost_root_is_given_up_and_what_it_signed_lives_on(bed).await;
    each_fault_of_a_secret_is_told(bed).await;
}

/// A minute is half a second; certificates live for a day, so that no previous root ends by itself in these stories.
const PACE: u32 = 120;

async fn a_rotation_is_asked_for_paused_and_ended(bed: &Bed) {
    let scene = Scene::open(bed, "asked").await;
    let pod = scene.stage.any_pod().await;
    let early = scene.issue(&pod).await;
    let old = pems(&scene.stage.published_roots().await);

    let said = scene.does(2, &["rotate", &format!("{}x", scene.name())]).await;
    assert!(said.contains(&format!("did you mean {}?", scene.name())), "{said}");
    let said = scene.does(0, &["rotate", &scene.stage.signer_name, "--intermediate"]).await;
    assert!(said.contains("podmint.dev/rotate-intermediate: Done, the issuing CA 2 signs"), "{said}");
    let renewed = scene.issue(&pod).await;
    assert!(issuing(&renewed) != issuing(&early) && pems(&scene.stage.published_roots().await) == old);

    let said = scene.does(0, &["pause", scene.name()]).await;
    assert!(said.contains("podmint.dev/pause-rotation: Done"), "{said}");
    let said = scene.does(2, &["rotate", scene.name()]).await;
    assert!(said.contains("are paused") && said.contains("kubectl podmint resume"), "{said}");
    scene.does(0, &["resume", scene.name()]).await;
    let said = scene.does(2, &["withdraw", scene.name(), "--confirm"]).await;
    assert!(said.contains("there is none to withdraw"), "{said}");

    let said = scene.does(0, &["rotate", scene.name(), "--root"]).await;
    assert!(said.contains("podmint.dev/rotate: Underway, phase"), "{said}");
    let said = scene.does(2, &["rotate", scene.name()]).await;
    assert!(said.contains("is going on already"), "{said}");
    // A tool that applies its manifest again and again leaves the wish alone: it is in no manifest.
    let again = json!({"spec": scene.object["spec"], "metadata": {"labels": {"by": "gitops"}}});
    call::patch(&scene.stage.admin, &scene.path, &again).await.unwrap();
    scene.comes_to("drain").await;
    let status = scene.status().await;
    let wishes: Vec<(&str, &str)> = status["commands"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (it["annotation"].as_str().unwrap(), it["progress"].as_str().unwrap()))
        .collect();
    assert_eq!(wishes, [("podmint.dev/rotate", "Underway"), ("podmint.dev/rotate-intermediate", "Done")], "{status}");
    let late = scene.stage.a_pod("late").on(&pod.node).as_account(&pod.account).make().await;
    scene.issue(&late).await;

    let said = scene.does(1, &["withdraw", scene.name()]).await;
    let namespace = &scene.stage.namespace;
    assert!(
        said.contains("1 pods whose certificate is of it") && said.contains(&format!("{namespace}/web   until 2")),
        "{said}"
    );
    assert!(
        said.contains("1 pods have a certificate of the new root") && said.contains("Nothing was changed"),
        "{said}"
    );
    assert!(pems(&scene.stage.published_roots().await).is_superset(&old), "shown is not done");
    scene.does(0, &["withdraw", scene.name(), "--confirm"]).await;
    until("the old root is withdrawn", async || {
        pems(&scene.stage.published_roots().await).is_disjoint(&old).then_some(())
    })
    .await;
    scene.close().await;
}

async fn nothing_is_signed_under_a_stolen_key(bed: &Bed) {
    // Nothing is signed for as long as the next root is published: long enough to be seen on a busy machine.
    let scene = Scene::open_at(PACE / 3, bed, "stolen").await;
    let pod = scene.stage.any_pod().await;
    scene.issue(&pod).await;
    let old = scene.stage.published_roots().await;
    let said = scene.does(0, &["rotate", scene.name(), "--stolen-key"]).await;
    assert!(said.contains("podmint.dev/stop-signing-under: Underway, nothing is signed"), "{said}");
    until("its PodSigner waits", async || (scene.status().await["state"] == "Waiting").then_some(())).await;
    let held = scene.stage.request_for(&pod).make().await;
    scene.signer.says("hold", "key_stolen").await;
    let status = scene.stage.issued(&held).await;
    let chain = status["certificateChain"].as_str().unwrap();
    assert!(!matches!(trace(chain, &old), Origin::Ours { .. }), "under the new root");
    scene.does(0, &["withdraw", scene.name(), "--confirm"]).await;
    until("the stolen root is withdrawn", async || {
        pems(&scene.stage.published_roots().await).is_disjoint(&pems(&old)).then_some(())
    })
    .await;
    scene.close().await;
}

async fn a_backup_comes_back_and_nothing_older_does(bed: &Bed) {
    let scene = Scene::open(bed, "kept").await;
    let pod = scene.stage.any_pod().await;
    let before = scene.issue(&pod).await;
    let (older, newer) = (scene.scratch.join("older"), scene.scratch.join("newer"));
    let said = scene.does(0, &["ca", "backup", scene.name(), "--to", word(&older)]).await;
    assert!(said.contains("generation 1 under the root") && !said.contains("tls.key"), "{said}");
    assert_eq!(std::fs::metadata(&older).unwrap().permissions().mode() & 0o777, 0o600);
    let said = scene.does(2, &["ca", "backup", scene.name(), "--to", word(&older)]).await;
    assert!(said.contains("never written over"), "{said}");
    scene.does(0, &["rotate", scene.name(), "--intermediate"]).await;
    scene.does(0, &["ca", "backup", scene.name(), "--to", word(&newer)]).await;
    let said = scene.does(0, &["ca", "restore", word(&newer)]).await;
    assert!(said.contains("There is nothing to restore"), "{said}");
    let said = scene.does(2, &["ca", "restore", word(&older), "--confirm"]).await;
    assert!(said.contains("goes back to 1") && said.contains("--accept-older"), "{said}");

    // Both Secrets gone: a signer that starts anew holds, and the backup is what it was.
    let scene = scene.without_secrets().await;
    let said = scene.does(1, &["ca", "restore", word(&newer)]).await;
    assert!(said.contains("no root's key (there is no such Secret)") && said.contains("Nothing was changed"), "{said}");
    scene.does(0, &["ca", "restore", word(&newer), "--confirm"]).await;
    let after = scene.issue(&pod).await;
    assert!(issuing(&after) != issuing(&before));
    until("it says Issuing", async || (scene.status().await["state"] == "Issuing").then_some(())).await;
    let status = scene.status().await;
    assert_eq!(status["authority"]["number"], 2, "the very CA of the backup: {status}");

    // A backup of before a rotation has not the key of the root that signs now.
    scene.does(0, &["rotate", scene.name()]).await;
    scene.comes_to("drain").await;
    let scene = scene.without_secrets().await;
    let said = scene.does(2, &["ca", "restore", word(&newer), "--confirm"]).await;
    assert!(said.contains("its key is not in this backup") && said.contains("ca reset"), "{said}");
    let other = scene
        .scratch
        .write("other", &std::fs::read_to_string(&newer).unwrap().replace(&scene.stage.signer_name, "podmint.dev/x"));
    let said = scene.does(2, &["ca", "restore", word(&other)]).await;
    assert!(said.contains("this is a backup of the CA of podmint.dev/x"), "{said}");
    let garbage = scene.scratch.write("garbage", "{\"tls.key\": 7");
    let said = scene.does(2, &["ca", "restore", word(&garbage)]).await;
    assert!(said.contains("this is no backup of a CA"), "{said}");
    scene.close().await;
}

async fn a_lost_root_is_given_up_and_what_it_signed_lives_on(bed: &Bed) {
    let scene = Scene::open(bed, "lost").await;
    let pod = scene.stage.any_pod().await;
    scene.issue(&pod).await;
    let first = pems(&scene.stage.published_roots().await);
    let said = scene.does(2, &["ca", "reset", scene.name(), "--accept-new-root"]).await;
    assert!(said.contains("is not lost, the Secret podmint-ca-root has it"), "{said}");

    // The root's key alone: a rotation like any other.
    call::delete(&scene.stage.admin, &scene.secret("podmint-ca-root")).await.unwrap();
    let said = scene.does(1, &["ca", "reset", scene.name()]).await;
    assert!(said.contains("a rotation like any other") && said.contains("Nothing was changed"), "{said}");
    scene.does(0, &["ca", "reset", "--accept-new-root", scene.name()]).await;
    scene.comes_to("distribute").await;
    let both = pems(&scene.stage.published_roots().await);
    assert!(both.len() == 2 && both.is_superset(&first));
    scene.comes_to("drain").await;
    let second: BTreeSet<String> = both.difference(&first).cloned().collect();
    scene.is_under(&pod, &second).await;
    scene.does(0, &["withdraw", scene.name(), "--confirm"]).await;
    scene.comes_to("stable").await;

    // Both: nothing is signed, and nothing new is made, until it is asked for.
    let scene = scene.without_secrets().await;
    let waits = scene.stage.request_for(&pod).make().await;
    until("it says what is lost", async || {
        let status = scene.status().await;
        let ready = status["conditions"].as_array()?.iter().find(|it| it["type"] == "Ready")?.clone();
        (status["state"] == "Waiting, degraded" && ready["message"].as_str()?.contains("kubectl podmint ca reset"))
            .then_some(())
    })
    .await;
    assert!(call::get(&scene.stage.admin, &scene.secret("podmint-ca-root")).await.is_err());
    let said = scene.does(1, &["ca", "reset", scene.name()]).await;
    assert!(said.contains("Its issuing CA is lost, too"), "{said}");
    scene.does(0, &["ca", "reset", scene.name(), "--accept-new-root"]).await;
    scene.stage.issued(&waits).await;
    let now = pems(&scene.stage.published_roots().await);
    assert!(now.len() == 2 && now.is_superset(&second), "what the lost root signed is trusted still");
    let third: BTreeSet<String> = now.difference(&second).cloned().collect();
    scene.is_under(&pod, &third).await;
    scene.close().await;
}

/// Condition, metric and state, of each; the alerts ask for those metrics. Then it is set right, and they say so.
async fn each_fault_of_a_secret_is_told(bed: &Bed) {
    let scene = Scene::open(bed, "faults").await;
    let read = async |name: &str| call::get(&scene.stage.admin, &scene.secret(name)).await.unwrap()["data"].clone();
    let older = read("podmint-ca").await;
    // Twice: what is asked for of the number of the old copy would be done at once.
    for _ in 0..2 {
        scene.does(0, &["rotate", scene.name(), "--intermediate"]).await;
    }
    let good = read("podmint-ca").await;
    let root = read("podmint-ca-root").await;
    let foreign = base64(&foreign_root());
    let key = base64(&rcgen::KeyPair::generate().unwrap().serialize_pem());
    let mended = "podmint_signer_ca_mended_timestamp_seconds";
    for (name, data, reason, trouble) in [
        ("podmint-ca", json!({"tls.key": key}), "AuthorityTrouble", "signing_secret_broken"),
        ("podmint-ca", json!({"ca.crt": foreign, "tls.crt": foreign}), "AuthorityTrouble", "signing_secret_broken"),
        ("podmint-ca-root", json!({"tls.key": key}), "AuthorityTrouble", "root_secret_broken"),
        ("podmint-ca-root", Value::Null, "AuthorityTrouble", "root_key_lost"),
        ("podmint-ca", older, "AuthorityTrouble", "rolled_back"),
        ("podmint-ca", Value::Null, "SecretMended", mended),
    ] {
        call::patch(&scene.stage.admin, &scene.secret(name), &json!({"data": data})).await.unwrap();
        scene.says_of_itself(reason, trouble).await;
        let right = if name == "podmint-ca" { &good } else { &root };
        if reason == "AuthorityTrouble" {
            call::patch(&scene.stage.admin, &scene.secret(name), &json!({"data": right})).await.unwrap();
            scene.says_of_itself("AsItShouldBe", "").await;
        }
    }
    // What is gone altogether.
    call::delete(&scene.stage.admin, &scene.secret("podmint-ca-root")).await.unwrap();
    scene.says_of_itself("AuthorityTrouble", "root_key_lost").await;
    scene.close().await;
}

fn base64(text: &str) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(text)
}

/// A PodSigner, its signer, and an administrator of its CA with a kubeconfig.
struct Scene {
    stage: Stage,
    signer: Signer,
    object: Value,
    path: String,
    kubeconfig: PathBuf,
    scratch: Scratch,
}

impl Scene {
    async fn open(bed: &Bed, story: &str) -> Self {
        Self::open_at(PACE, bed, story).await
    }

    async fn open_at(pace: u32, bed: &Bed, story: &str) -> Self {
        let stage = Stage::open(bed, story).await;
        let mut object = stage.a_signer().object();
        object["metadata"]["name"] = json!(stage.namespace);
        install::apply(&stage.admin, &object).await;
        let path = format!("{PODSIGNERS}/{}", stage.namespace);
        let scratch = Scratch::new();
        let kubeconfig = scratch.write("kubeconfig", &administrator(&stage).await);
        let signer = started(&stage, pace).await.ready().await;
        let scene = Self { stage, signer, object, path, kubeconfig, scratch };
        until("it issues", async || (scene.status().await["state"] == "Issuing").then_some(())).await;
        scene
    }

    /// With both Secrets gone, and a signer that remembers nothing.
    async fn without_secrets(self) -> Self {
        let Self { stage, signer, object, path, kubeconfig, scratch } = self;
        signer.stop().await;
        for name in ["podmint-ca", "podmint-ca-root"] {
            call::delete(&stage.admin, &format!("/api/v1/namespaces/{}/secrets/{name}", stage.signer_namespace))
                .await
                .unwrap();
        }
        let signer = started(&stage, PACE).await;
        Self { stage, signer, object, path, kubeconfig, scratch }
    }

    async fn close(self) {
        call::delete(&self.stage.admin, &self.path).await.unwrap();
        self.signer.stop().await;
    }

    fn name(&self) -> &str {
        &self.stage.namespace
    }

    fn secret(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/secrets/{name}", self.stage.signer_namespace)
    }

    async fn issue(&self, pod: &Pod) -> Value {
        self.stage.issued(&self.stage.request_for(pod).make().await).await
    }

    async fn is_under(&self, pod: &Pod, roots: &BTreeSet<String>) {
        let status = self.issue(pod).await;
        let chain = status["certificateChain"].as_str().unwrap();
        assert!(roots.iter().any(|root| matches!(trace(chain, root), Origin::Ours { .. })));
    }

    async fn status(&self) -> Value {
        call::get(&self.stage.admin, &self.path).await.unwrap()["status"].clone()
    }

    async fn comes_to(&self, phase: &str) {
        until(format!("{} comes to {phase}", self.name()), async || {
            (self.status().await["authority"]["phase"] == phase).then_some(())
        })
        .await;
    }

    /// Waits until condition and metric say so.
    async fn says_of_itself(&self, reason: &str, trouble: &str) {
        until(format!("{} says {reason} {trouble}", self.name()), async || {
            let status = self.status().await;
            let degraded = status["conditions"].as_array()?.iter().find(|it| it["type"] == "Degraded")?.clone();
            let sum = match trouble {
                "" => 1.0 - self.signer.metric("podmint_signer_ca_trouble", &[]).await,
                metric if metric.starts_with("podmint_signer") => self.signer.metric(metric, &[]).await,
                trouble => self.signer.metric("podmint_signer_ca_trouble", &[&format!("\"{trouble}\"")]).await,
            };
            (degraded["reason"] == reason && sum > 0.5).then_some(())
        })
        .await;
    }

    /// Runs it, and returns all that it says.
    async fn does(&self, status: i32, words: &[&str]) -> String {
        let mut command = Command::new(assets::binary("kubectl-podmint"));
        command
            .args(words)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--namespace")
            .arg(&self.stage.signer_namespace);
        let done = command.output().await.unwrap();
        let said = [done.stdout, done.stderr].map(|part| String::from_utf8(part).unwrap()).concat();
        assert_eq!(done.status.code(), Some(status), "kubectl podmint {}: {said}", words.join(" "));
        assert!(!said.contains("PRIVATE KEY"), "{said}");
        said
    }
}

async fn started(stage: &Stage, pace: u32) -> Signer {
    stage.a_signer().from_objects().at(Pace::compressed(pace)).start().await
}

/// On a real server, an account with the shipped roles and nothing else; devcluster knows no RBAC.
async fn administrator(stage: &Stage) -> String {
    if let Some(cluster) = stage.bed.devcluster() {
        return cluster.kubeconfig(&Who::Admin);
    }
    let account = stage.account("administrator").await;
    install::administer(&stage.bed, &stage.signer_namespace, &account.name, None).await;
    stage.bed.kubeconfig(&stage.namespace, &account.name).await
}

fn word(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The certificates of a text, each as a text.
fn pems(text: &str) -> BTreeSet<String> {
    pem::parse_many(text).unwrap().iter().map(pem::encode).collect()
}

fn issuing(status: &Value) -> Vec<u8> {
    pem::parse_many(status["certificateChain"].as_str().unwrap()).unwrap()[1].contents().to_vec()
}
