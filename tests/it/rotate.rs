//! The root changes, and nobody is refused: every phase on a real API server, with replicas that are killed at each edge, an API
//! server that goes away, and Secrets that somebody spoils on the way.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::future::join_all;
use podmint_signer::authority::{Origin, trace};
use podmint_signer::pace::Pace;
use podmint_tests::server::Settings;
use podmint_tests::stage::Pod;
use podmint_tests::until::until;
use podmint_tests::{Bed, Stage, assets, call, on_every_bed};
use serde_json::{Value, json};

use crate::forge::foreign_root;

/// A minute is half a second: Distribute takes 7.5 s, Drain of certificates that live an hour 31 s.
const PACE: u32 = 120;
const DISTRIBUTE: Duration = Duration::from_secs(15 * 60).checked_div(PACE).unwrap();
const LIFE: Duration = Duration::from_secs(3600).checked_div(PACE).unwrap();

on_every_bed! {
    /// Two replicas, one wish: certificates all the while, none too early, the old root withdrawn last.
    async fn a_rotation_of_the_root_refuses_nobody(bed: Bed) {
        let stage = Stage::open(&bed, "rotate").await;
        let first = paced(&stage).start().await.ready().await;
        let second = paced(&stage).called("replica-b").start().await.ready().await;
        let pod = stage.any_pod().await;
        let old = stage.published_roots().await;
        let mut witness = Witness::new(&stage, &pod, &old);
        witness.look().await;
        ask(&stage, json!({"podmint.dev/rotate": "now"})).await;

        witness.until("drain").await;
        let new: BTreeSet<String> = witness.published().difference(&pems(&old)).cloned().collect();
        let (published, switched) = (witness.first_seen(&new), witness.first_issued_under(&new));
        assert!(switched.duration_since(published) >= DISTRIBUTE, "signed {:?} after it was published", switched.duration_since(published));
        let last = Instant::now();
        witness.until("stable").await;
        until("the old root is withdrawn", async || (pems(&stage.published_roots().await) == new).then_some(())).await;
        assert!(last.elapsed() >= LIFE.saturating_sub(Duration::from_secs(2)), "withdrawn {:?} after the switch", last.elapsed());

        assert_eq!(state(&stage).await.unwrap()["generation"], 2, "asked for once, done once");
        let roots = secret(&stage, "podmint-ca-root").await.unwrap();
        assert!(roots["data"].get("next.key").is_none(), "the key of the old root is gone");
        for signer in [&first, &second] {
            assert!(signer.metric("podmint_signer_foreign_issuance_total", &[]).await < 0.5, "a replica takes the other for a stranger");
            until("it says that all is done", async || {
                (signer.metric("podmint_signer_rotation", &["phase=\"stable\""]).await > 0.5).then_some(())
            }).await;
        }
        first.stop().await;
        second.stop().await;
    }

    /// What somebody does to the signing Secret in the middle of a rotation is noticed, never followed blindly, and mended where it can be.
    async fn a_spoilt_secret_does_not_spoil_a_rotation(bed: Bed) {
        join_all(Fault::ALL.map(|fault| spoilt(bed.clone(), fault))).await;
    }
}

/// What somebody does.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Deleted,
    Emptied,
    /// From before the rotation, once it signs.
    OldCopy,
    /// The same again and again, as a GitOps tool does that owns it.
    Fought,
    ForeignKey,
    ForeignAuthority,
}

impl Fault {
    const ALL: [Self; 6] =
        [Self::Deleted, Self::Emptied, Self::OldCopy, Self::Fought, Self::ForeignKey, Self::ForeignAuthority];
}

async fn spoilt(bed: Bed, fault: Fault) {
    let stage = Stage::open(&bed, &format!("spoilt-{}", format!("{fault:?}").to_lowercase())).await;
    let signer = paced(&stage).start().await.ready().await;
    let pod = stage.any_pod().await;
    let roots = stage.published_roots().await;
    let copy = secret(&stage, "podmint-ca").await.unwrap();
    ask(&stage, json!({"podmint.dev/rotate": "now"})).await;
    let phase = match fault {
        Fault::OldCopy | Fault::Fought => "drain",
        Fault::Deleted | Fault::Emptied | Fault::ForeignKey | Fault::ForeignAuthority => "distribute",
    };
    reaches(&stage, phase).await;
    // Under the root that signs now.
    let before = stage.issued(&stage.request_for(&pod).make().await).await;
    let both = pems(&stage.published_roots().await);
    assert_eq!(both.len(), 2, "{fault:?}");
    let data = |secret: &Value| json!({"data": secret["data"]});
    match fault {
        Fault::Deleted => drop(call::delete(&stage.admin, &path(&stage, "podmint-ca")).await.unwrap()),
        Fault::Emptied => change(&stage, json!({"data": null})).await,
        Fault::OldCopy => change(&stage, data(&copy)).await,
        Fault::Fought => {
            for _ in 0..20 {
                change(&stage, data(&copy)).await;
                assert_eq!(pems(&stage.published_roots().await), both, "{fault:?}: a root of ours was withdrawn");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
        Fault::ForeignKey => {
            let key = pem_of_a_key();
            change(&stage, json!({"data": {"tls.key": base64(&key)}})).await;
        }
        Fault::ForeignAuthority => {
            change(&stage, json!({"data": {"ca.crt": base64(&foreign_root()), "tls.crt": base64(&foreign_root())}}))
                .await;
        }
    }
    match fault {
        Fault::Deleted | Fault::Emptied | Fault::OldCopy | Fault::Fought => {
            // It goes on by itself; the next certificate chains to a root that was there all the while.
            until(format!("{fault:?}: the rotation goes on"), async || state(&stage).await?.get("rotation").map(drop))
                .await;
        }
        Fault::ForeignKey | Fault::ForeignAuthority => {
            let spoilt = secret(&stage, "podmint-ca").await.unwrap()["data"].clone();
            let again = stage.issued(&stage.request_for(&pod).make().await).await;
            assert_eq!(issuing(&again), issuing(&before), "{fault:?}: the CA in memory goes on");
            assert_eq!(
                secret(&stage, "podmint-ca").await.unwrap()["data"],
                spoilt,
                "{fault:?}: what is not ours is left alone"
            );
            let good = secret(&stage, "podmint-ca-root").await.unwrap();
            assert!(good["data"].get("next.key").is_some(), "{fault:?}");
            call::delete(&stage.admin, &path(&stage, "podmint-ca")).await.unwrap();
        }
    }
    reaches(&stage, "drain").await;
    assert_eq!(pems(&stage.published_roots().await), both, "{fault:?}: both roots stay");
    let after = stage.issued(&stage.request_for(&pod).make().await).await;
    for status in [&before, &after] {
        let chain = status["certificateChain"].as_str().unwrap();
        let published = stage.published_roots().await;
        assert!(matches!(trace(chain, &published), Origin::Ours { .. }), "{fault:?}");
    }
    // What was signed before may be of either root: on a busy machine the switch can come between the look and the certificate.
    let chain = after["certificateChain"].as_str().unwrap();
    assert!(!matches!(trace(chain, &roots), Origin::Ours { .. }), "{fault:?}: the new root signs");
    signer.stop().await;
}

/// Killed at every edge, a replica that starts anew goes on where the last one stopped; at one of them the API server is away
/// as well.
#[test]
fn a_rotation_survives_a_kill_at_each_edge() {
    podmint_tests::run(async {
        let bed = Bed::own(Settings::of("1.37.2")).await;
        let stage = Stage::open(&bed, "killed-edges").await;
        let pod = stage.any_pod().await;
        let binary = assets::binary("paced-signer");
        let mut signer = paced(&stage).start_process_of(&binary).await.ready().await;
        stage.issued(&stage.request_for(&pod).make().await).await;
        let old = pems(&stage.published_roots().await);
        ask(&stage, json!({"podmint.dev/rotate": "now"})).await;
        for edge in ["a next key", "a next root", "distribute", "drain", "one key", "stable"] {
            waits(edge, async || is_at(&stage, edge).await.then_some(())).await;
            signer.kill();
            let published = pems(&stage.published_roots().await);
            assert!(edge == "stable" || published.is_superset(&old), "{edge}: the old root was withdrawn");
            if edge == "distribute" {
                bed.go_down();
                bed.come_back().await;
            }
            signer = paced(&stage)
                .called(&format!("after-{}", edge.replace(' ', "-")))
                .start_process_of(&binary)
                .await
                .ready()
                .await;
            let status = stage.issued(&stage.request_for(&pod).make().await).await;
            let chain = status["certificateChain"].as_str().unwrap().to_owned();
            assert!(matches!(trace(&chain, &stage.published_roots().await), Origin::Ours { .. }), "{edge}");
        }
        until("the old root is withdrawn", async || {
            pems(&stage.published_roots().await).is_disjoint(&old).then_some(())
        })
        .await;
        assert_eq!(state(&stage).await.unwrap()["generation"], 2, "no step was taken twice");
        assert_eq!(signer.terminate(), 0);
    });
}

/// Whether the Secrets show this edge, or one after it.
async fn is_at(stage: &Stage, edge: &str) -> bool {
    let has_next =
        async || secret(stage, "podmint-ca-root").await.is_some_and(|roots| roots["data"].get("next.key").is_some());
    let Some(state) = state(stage).await else { return false };
    let phase = state["rotation"]["phase"].as_str().unwrap_or("stable").to_owned();
    let is_switched = state["generation"] == 2;
    match edge {
        "a next key" => has_next().await,
        "a next root" => phase != "stable",
        "one key" => is_switched && !has_next().await,
        "stable" => is_switched && phase == "stable",
        _ => phase == edge,
    }
}

fn paced(stage: &Stage) -> podmint_tests::signer::SignerPlan<'_> {
    stage.a_signer().with("lifetime", json!({"max": "1h"})).at(Pace::compressed(PACE))
}

/// Asks for certificates again and again, and notes what is published and what signs.
struct Witness<'s> {
    stage: &'s Stage,
    pod: &'s Pod,
    seen: Vec<(String, Instant)>,
    issued: Vec<(String, Instant)>,
}

impl<'s> Witness<'s> {
    fn new(stage: &'s Stage, pod: &'s Pod, published: &str) -> Self {
        let seen = pems(published).into_iter().map(|root| (root, Instant::now())).collect();
        Self { stage, pod, seen, issued: Vec::new() }
    }

    async fn look(&mut self) {
        // Before anything is signed: what is seen later was perhaps there already.
        let before = self.stage.published_roots().await;
        let status = self.stage.issued(&self.stage.request_for(self.pod).make().await).await;
        let chain = status["certificateChain"].as_str().unwrap();
        let now = Instant::now();
        for root in pems(&self.stage.published_roots().await) {
            if !self.seen.iter().any(|(seen, _)| *seen == root) {
                self.seen.push((root, now));
            }
        }
        let under = self.seen.iter().find(|(root, _)| matches!(trace(chain, root), Origin::Ours { .. }));
        let (root, _) = under.expect("a certificate chains to a root that was seen published");
        assert!(pems(&before).contains(root), "it was published before the request was made");
        self.issued.push((root.clone(), now));
    }

    async fn until(&mut self, phase: &str) {
        let begun = Instant::now();
        loop {
            self.look().await;
            if is_in(self.stage, phase).await {
                break;
            }
            assert!(begun.elapsed() < LONG, "it does not come to {phase}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        self.look().await;
    }

    fn published(&self) -> BTreeSet<String> {
        self.seen.iter().map(|(root, _)| root.clone()).collect()
    }

    fn first_seen(&self, roots: &BTreeSet<String>) -> Instant {
        self.seen.iter().find(|(root, _)| roots.contains(root)).expect("it was published").1
    }

    fn first_issued_under(&self, roots: &BTreeSet<String>) -> Instant {
        self.issued.iter().find(|(root, _)| roots.contains(root)).expect("it signs").1
    }
}

async fn is_in(stage: &Stage, phase: &str) -> bool {
    state(stage).await.is_some_and(|state| state["rotation"]["phase"].as_str().unwrap_or("stable") == phase)
}

async fn reaches(stage: &Stage, phase: &str) {
    waits(phase, async || is_in(stage, phase).await.then_some(())).await;
}

/// As [`until`], for what takes as long as a rotation.
async fn waits<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < LONG, "waited {LONG:?} in vain until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Several times what a rotation takes on a machine that has nothing else to do.
const LONG: Duration = Duration::from_secs(150);

async fn ask(stage: &Stage, annotations: Value) {
    change(stage, json!({"metadata": {"annotations": annotations}})).await;
}

async fn change(stage: &Stage, change: Value) {
    call::patch(&stage.admin, &path(stage, "podmint-ca"), &change).await.unwrap();
}

async fn secret(stage: &Stage, name: &str) -> Option<Value> {
    call::get(&stage.admin, &path(stage, name)).await.ok()
}

async fn state(stage: &Stage) -> Option<Value> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let secret = secret(stage, "podmint-ca").await?;
    let state = BASE64_STANDARD.decode(secret["data"]["state.json"].as_str()?).ok()?;
    serde_json::from_slice(&state).ok()
}

fn path(stage: &Stage, name: &str) -> String {
    format!("/api/v1/namespaces/{}/secrets/{name}", stage.signer_namespace)
}

fn base64(text: &str) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(text)
}

fn pem_of_a_key() -> String {
    rcgen::KeyPair::generate().unwrap().serialize_pem()
}

/// The certificates of a text, each as a text.
fn pems(text: &str) -> BTreeSet<String> {
    pem::parse_many(text).unwrap().iter().map(pem::encode).collect()
}

fn issuing(status: &Value) -> Vec<u8> {
    pem::parse_many(status["certificateChain"].as_str().unwrap()).unwrap()[1].contents().to_vec()
}
