//! The root changes, and nobody is refused: every phase on a real API server, with two replicas, and with Secrets that somebody
//! spoils on the way.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures::future::join_all;
use podmint_signer::authority::{Origin, trace};
use podmint_signer::pace::Pace;
use podmint_tests::signer::MINUTE;
use podmint_tests::stage::Pod;
use podmint_tests::until::{never, until};
use podmint_tests::{Bed, Stage, call, on_every_bed};
use serde_json::{Value, json};

use crate::forge::foreign_root;
use crate::hand::{path, secret, state, wish};

/// A minute is half a second: Distribute takes 7.5 s, Drain of certificates that live an hour 31 s.
pub(crate) const PACE: u32 = 120;
const DISTRIBUTE: Duration = Duration::from_secs(15 * 60).checked_div(PACE).unwrap();
const LIFE: Duration = Duration::from_secs(3600).checked_div(PACE).unwrap();

on_every_bed! {
    /// Two replicas, one wish: certificates all the while, none too early, the old root withdrawn last.
    async fn a_rotation_of_the_root_refuses_nobody(bed: Bed) {
        let stage = Stage::open(&bed, "rotate").await;
        let first = paced(&stage).start().await.ready().await;
        let second = paced(&stage).called("replica-b").start().await.ready().await;
        let pod = stage.any_pod().await;
        let mut witness = Witness::new(&stage, &pod).await;
        ask(&stage, json!({"podmint.dev/rotate": "now"})).await;
        witness.hands_over().await;

        assert_eq!(state(&stage).await.unwrap()["generation"], 2, "asked for once, done once");
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
        join_all(FAULTS.map(|(fault, phase)| spoilt(bed.clone(), fault, phase))).await;
    }
}

/// What somebody does.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Deleted,
    Emptied,
    /// From before the rotation.
    OldCopy,
    /// The same again and again, as a GitOps tool does that owns it.
    Fought,
    ForeignKey,
    ForeignAuthority,
}

/// When.
const FAULTS: [(Fault, &str); 8] = [
    (Fault::Deleted, "distribute"),
    (Fault::Emptied, "distribute"),
    (Fault::OldCopy, "drain"),
    (Fault::Fought, "drain"),
    (Fault::ForeignKey, "distribute"),
    (Fault::ForeignKey, "drain"),
    (Fault::ForeignAuthority, "distribute"),
    (Fault::ForeignAuthority, "drain"),
];

async fn spoilt(bed: Bed, fault: Fault, phase: &str) {
    let stage = Stage::open(&bed, &format!("spoilt-{}-{phase}", format!("{fault:?}").to_lowercase())).await;
    // Drain is to last until all has been looked at, on a busy machine, too.
    let signer = paced(&stage).with("lifetime", json!({"max": "3h"})).start().await.ready().await;
    let pod = stage.any_pod().await;
    let roots = stage.published_roots().await;
    let copy = secret(&stage, "podmint-ca").await.unwrap();
    ask(&stage, json!({"podmint.dev/rotate": "now"})).await;
    reaches(&stage, phase).await;
    // The Secret says so a moment before the new root signs.
    let before = until(format!("{fault:?}: whoever signs in {phase} has signed"), async || {
        let status = stage.issued(&stage.request_for(&pod).make().await).await;
        let is_old = matches!(trace(status["certificateChain"].as_str()?, &roots), Origin::Ours { .. });
        (phase != "drain" || !is_old).then_some(status)
    })
    .await;
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
            // In Distribute it goes on as long only as nobody can have made the next root sign: too short for a busy machine.
            if phase == "drain" {
                let again = stage.issued(&stage.request_for(&pod).make().await).await;
                assert_eq!(issuing(&again), issuing(&before), "{fault:?}: the CA in memory goes on");
            }
            never(format!("{fault:?}: what is not ours is written over"), MINUTE, async || {
                (secret(&stage, "podmint-ca").await.unwrap()["data"] != spoilt).then(|| "it was".to_owned())
            })
            .await;
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

pub(crate) fn paced(stage: &Stage) -> podmint_tests::signer::SignerPlan<'_> {
    stage.a_signer().with("lifetime", json!({"max": "1h"})).at(Pace::compressed(PACE))
}

/// Asks for certificates again and again, and notes what is published and what signs.
pub(crate) struct Witness<'s> {
    stage: &'s Stage,
    pod: &'s Pod,
    /// What was published, and the last look that did not show it yet.
    seen: Vec<(String, Instant)>,
    /// What signed, when it was asked, and when that was seen.
    issued: Vec<(String, Instant, Instant)>,
    looked: Instant,
}

impl<'s> Witness<'s> {
    /// Has seen one certificate already.
    pub(crate) async fn new(stage: &'s Stage, pod: &'s Pod) -> Self {
        let looked = Instant::now();
        let seen = pems(&stage.published_roots().await).into_iter().map(|root| (root, looked)).collect();
        let mut witness = Self { stage, pod, seen, issued: Vec::new(), looked };
        witness.look().await;
        witness
    }

    /// A rotation, from before Distribute to its end: what signs next is published for long enough before, what signed before is trusted
    /// for as long as its last certificate lives, and its key is gone. Gives what signs now.
    pub(crate) async fn hands_over(&mut self) -> BTreeSet<String> {
        let old = self.published();
        self.until("drain").await;
        let new: BTreeSet<String> = self.published().difference(&old).cloned().collect();
        // The Secret says so a moment before the next root signs.
        let begun = Instant::now();
        while !self.issued.iter().any(|(root, ..)| new.contains(root)) {
            assert!(begun.elapsed() < LONG, "the next root does not sign");
            self.look().await;
        }
        let waited = self.first_issued_under(&new).duration_since(self.last_unseen(&new));
        assert!(waited >= DISTRIBUTE, "signed {waited:?} after it was published");
        let last = self.issued.iter().rfind(|(root, ..)| !new.contains(root)).expect("the old root signed").1;
        self.until("stable").await;
        until("the old root is withdrawn", async || (pems(&self.stage.published_roots().await) == new).then_some(()))
            .await;
        let kept = last.elapsed();
        assert!(kept >= LIFE, "withdrawn {kept:?} after its last certificate");
        let roots = secret(self.stage, "podmint-ca-root").await.unwrap();
        assert!(roots["data"].get("next.key").is_none(), "the key of the old CA is gone");
        new
    }

    async fn look(&mut self) {
        // Before anything is signed: what is seen later was perhaps there already.
        let before = self.stage.published_roots().await;
        let asked = Instant::now();
        let status = self.stage.issued(&self.stage.request_for(self.pod).make().await).await;
        let chain = status["certificateChain"].as_str().unwrap();
        let now = Instant::now();
        for root in pems(&self.stage.published_roots().await) {
            if !self.seen.iter().any(|(seen, _)| *seen == root) {
                self.seen.push((root, self.looked));
            }
        }
        self.looked = now;
        let under = self.seen.iter().find(|(root, _)| matches!(trace(chain, root), Origin::Ours { .. }));
        let (root, _) = under.expect("a certificate chains to a root that was seen published");
        assert!(pems(&before).contains(root), "it was published before the request was made");
        self.issued.push((root.clone(), asked, now));
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

    fn last_unseen(&self, roots: &BTreeSet<String>) -> Instant {
        self.seen.iter().find(|(root, _)| roots.contains(root)).expect("it was published").1
    }

    fn first_issued_under(&self, roots: &BTreeSet<String>) -> Instant {
        self.issued.iter().find(|(root, ..)| roots.contains(root)).expect("it signs").2
    }
}

pub(crate) async fn is_in(stage: &Stage, phase: &str) -> bool {
    state(stage).await.is_some_and(|state| state["rotation"]["phase"].as_str().unwrap_or("stable") == phase)
}

pub(crate) async fn reaches(stage: &Stage, phase: &str) {
    waits(phase, async || is_in(stage, phase).await.then_some(())).await;
}

/// As [`until`], for what takes as long as a rotation.
pub(crate) async fn waits<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
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

pub(crate) async fn ask(stage: &Stage, annotations: Value) {
    wish(stage, annotations).await.unwrap();
}

async fn change(stage: &Stage, change: Value) {
    call::patch(&stage.admin, &path(stage, "podmint-ca"), &change).await.unwrap();
}

fn base64(text: &str) -> String {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(text)
}

fn pem_of_a_key() -> String {
    rcgen::KeyPair::generate().unwrap().serialize_pem()
}

/// The certificates of a text, each as a text.
pub(crate) fn pems(text: &str) -> BTreeSet<String> {
    pem::parse_many(text).unwrap().iter().map(pem::encode).collect()
}

pub(crate) fn issuing(status: &Value) -> Vec<u8> {
    pem::parse_many(status["certificateChain"].as_str().unwrap()).unwrap()[1].contents().to_vec()
}
