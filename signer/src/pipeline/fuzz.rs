//! The whole decision against objects that are nearly right: a request, its pod, account and node in JSON, each changed a little by a seed,
//! read as the signer reads them and decided as the walk decides. Whatever comes, it ends in an answer; and what is issued or denied
//! is judged once more by the JSON alone, in other words than the pipeline's.
//!
//! On stable Rust, for a second in every test run and for minutes with `tests/run --long`. A failure names seed and round.

#![expect(clippy::arithmetic_side_effects, reason = "counters of a test")]

use std::{collections::BTreeMap, sync::Arc};

use proptest::{
    prelude::Rng,
    test_runner::{RngAlgorithm, TestRng},
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::{
    Answer, Bare, Claim, Decision, Denial, Fact, Freshness, Holds, Means, Observed, Pod, Unclaimed,
    answer::decide,
    honest::{NOW, POD_UID, issuer, request, serial, signer},
};
use crate::{
    authority::Issuer,
    cluster::{versions::Version, wire::RequestObject},
    config::PodSigner,
};

/// Everything that a decision looks at, as the API server would show it.
#[derive(Clone, Debug)]
struct Scene {
    request: Value,
    pod: Value,
    account: Value,
    node: Value,
    /// The ConfigMap of what is on hold.
    holds: BTreeMap<String, String>,
    /// Read from the API server's cache first.
    cached: bool,
    now: OffsetDateTime,
}

fn scene() -> Scene {
    let source = json!({"podCertificate": {
        "signerName": "podmint.dev/workload", "keyType": "ECDSAP256", "maxExpirationSeconds": 43_200,
    }});
    let uid = |uid: &str| json!({"metadata": {"uid": uid}});
    Scene {
        request: request(),
        pod: json!({
            "metadata": {"name": "cart-0", "namespace": "shop", "uid": POD_UID, "labels": {"app": "cart"}},
            "spec": {
                "nodeName": "node-a", "serviceAccountName": "cart",
                "volumes": [{"name": "v", "projected": {"sources": [source]}}],
            },
            "status": {"phase": "Pending"},
        }),
        account: uid("c0ffee00-1111-4222-8333-444455556666"),
        node: uid("0ddba11e-7777-4888-9999-aaaabbbbcccc"),
        holds: BTreeMap::new(),
        cached: false,
        now: NOW,
    }
}

/// What an administrator has on hold; the last one is the honest pod's node.
const HOLDS: [&str; 4] = [
    "{kind: namespace, name: team-x}",
    "{kind: pod, namespace: shop, name: cart-1}",
    "kind: [",
    "{kind: node, name: node-a}",
];

/// What a field may become, beside another field's value: texts that mean something somewhere, and what is no text at all.
const WORDS: [&str; 14] = [
    "",
    "shop",
    "cart",
    "cart-0",
    "node-a",
    "..",
    "team-x",
    "kube-system",
    "a/b",
    "Succeeded",
    "ECDSAP384",
    "podmint.dev/other",
    "podmint.dev/common-name",
    "kubernetes.io/config.mirror",
];

struct Dice(TestRng);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.0.next_u32()).unwrap() % end
    }

    fn word(&mut self) -> &'static str {
        WORDS[self.below(WORDS.len())]
    }

    fn value(&mut self) -> Value {
        match self.below(8) {
            0 => Value::Null,
            1 => json!([]),
            2 => json!({}),
            3 => json!(self.below(100_000)),
            4 => json!(-1),
            5 => json!(true),
            6 => json!("x".repeat(self.below(300))),
            _ => json!(self.word()),
        }
    }

    /// Changes one place in a tree, mostly a leaf.
    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum: what is left is replaced, whatever it is")]
    fn change(&mut self, value: &mut Value) {
        match value {
            Value::Object(fields) if !fields.is_empty() && self.below(12) > 0 => {
                let key = fields.keys().nth(self.below(fields.len())).unwrap().clone();
                match self.below(20) {
                    0 => drop(fields.remove(&key)),
                    1 => drop(fields.insert(self.word().to_owned(), json!("x"))),
                    _ => self.change(&mut fields[&key]),
                }
            }
            Value::Array(items) if !items.is_empty() && self.below(12) > 0 => {
                let place = self.below(items.len());
                if self.below(10) == 0 {
                    items.push(items[place].clone());
                }
                self.change(&mut items[place]);
            }
            Value::String(text) if !text.is_empty() && self.below(3) == 0 => {
                let place = self.below(text.chars().count());
                let other = char::from(u8::try_from(self.below(128)).unwrap());
                *text = text.chars().enumerate().map(|(at, old)| if at == place { other } else { old }).collect();
            }
            other => *other = self.value(),
        }
    }
}

/// The answer, or nothing where the objects are none that an API server could show.
fn decided(scene: &Scene, policy: &Arc<PodSigner>, issuer: &Issuer) -> Option<Answer> {
    let object: RequestObject = serde_json::from_value(scene.request.clone()).ok()?;
    let claim = match Claim::parse(&object, Version::V1) {
        Ok(claim) => claim,
        Err(Unclaimed::Denied(_, denial)) => return Some(Answer::Deny(denial)),
        Err(Unclaimed::Unaddressable(_) | Unclaimed::KeyNotVisible(..)) => return None,
    };
    let (claim, holds) = (Arc::new(claim), Arc::new(Holds::read(&scene.holds)));
    let look = |freshness| {
        let bare = |value: &Value| serde_json::from_value::<Bare>(value.clone()).ok();
        let seen = Observed {
            claim: Arc::clone(&claim),
            pod: Fact::Found(serde_json::from_value::<Pod>(scene.pod.clone()).ok()?.into(), freshness),
            service_account: Fact::Found(bare(&scene.account)?.into(), freshness),
            node: Fact::Found(bare(&scene.node)?.into(), freshness),
            namespace: None,
            services: None,
            holds: Some(Arc::clone(&holds)),
        };
        Some(decide(seen, Means { signer: Some(policy), issuer: Some(issuer), now: scene.now, serial: serial() }))
    };
    if scene.cached
        && let Decision::Answer(answer) = look(Freshness::Cached)?
    {
        assert!(!is_about_a_fact(&answer), "refused for what a cache may not know yet: {answer:?}");
        return Some(answer);
    }
    match look(Freshness::Quorum)? {
        Decision::Answer(answer) => Some(answer),
        Decision::LookAgain(again) => panic!("all was read by quorum, and it wants {again:?}"),
    }
}

/// A refusal for ever that rests on what was read of others.
fn is_about_a_fact(answer: &Answer) -> bool {
    matches!(answer, Answer::Deny(denial) if !is_about_the_request(denial))
}

/// By the JSON alone: whether every fact that a certificate rests on is there, the same on both sides.
fn agrees(scene: &Scene) -> bool {
    let text = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let same = |asked: &str, of: &Value, path: &str| {
        text(&scene.request, asked).is_some_and(|asked| text(of, path).as_ref() == Some(&asked))
    };
    let sources = scene.pod.pointer("/spec/volumes").and_then(Value::as_array).into_iter().flatten();
    let sources = sources.flat_map(|volume| volume.pointer("/projected/sources").and_then(Value::as_array)).flatten();
    let asked = scene.request.pointer("/spec/maxExpirationSeconds").and_then(Value::as_i64);
    let is_projected = sources.filter_map(|source| source.get("podCertificate")).any(|source| {
        let most = source.get("maxExpirationSeconds").and_then(Value::as_i64).unwrap_or(86_400);
        same("/spec/signerName", source, "/signerName")
            && text(source, "/keyType").as_deref() == Some("ECDSAP256")
            && asked.is_none_or(|asked| asked <= most)
    });
    let namespace = text(&scene.request, "/metadata/namespace").unwrap_or_default();
    is_projected
        && same("/spec/podUID", &scene.pod, "/metadata/uid")
        && same("/spec/nodeName", &scene.pod, "/spec/nodeName")
        && same("/spec/serviceAccountName", &scene.pod, "/spec/serviceAccountName")
        && same("/spec/serviceAccountUID", &scene.account, "/metadata/uid")
        && same("/spec/nodeUID", &scene.node, "/metadata/uid")
        && scene.pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_none()
        && !matches!(text(&scene.pod, "/status/phase").as_deref(), Some("Succeeded" | "Failed"))
        && (namespace == "shop" || namespace.starts_with("team-"))
}

fn holds_for(rounds: usize, seed: u8) {
    let mut dice = Dice(TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]));
    let (policy, issuer, honest) = (signer(), issuer(), scene());
    let mut counts = [0_usize; 4];
    for round in 0..rounds {
        let mut scene = honest.clone();
        scene.cached = dice.below(2) == 0;
        scene.holds = (0..dice.below(3)).map(|key| (format!("h{key}"), HOLDS[dice.below(4)].to_owned())).collect();
        scene.now = NOW.saturating_add(time::Duration::days(i64::try_from(dice.below(3) * dice.below(12)).unwrap()));
        for _ in 0..dice.below(3) {
            match dice.below(6) {
                0..=2 => dice.change(&mut scene.request),
                3 | 4 => dice.change(&mut scene.pod),
                _ if dice.below(2) == 0 => dice.change(&mut scene.account),
                _ => dice.change(&mut scene.node),
            }
        }
        let Some(answer) = decided(&scene, &policy, &issuer) else { continue };
        let place = match &answer {
            Answer::Issue(issued) => {
                assert!(agrees(&scene), "seed {seed}, round {round}: issued for {scene:#}", scene = scene.request);
                let of = |path: &str| scene.request.pointer(path).and_then(Value::as_str).unwrap();
                let (namespace, account) = (of("/metadata/namespace"), of("/spec/serviceAccountName"));
                let name = format!("spiffe://prod.example.org/ns/{namespace}/sa/{account}");
                assert_eq!(issued.words().uri.as_ref(), Some(&name), "seed {seed}, round {round}");
                assert!(
                    !scene.holds.values().any(|hold| hold == HOLDS[3]),
                    "seed {seed}, round {round}: it is on hold"
                );
                assert!(issued.words().not_after <= issuer.generation().not_after(), "seed {seed}, round {round}");
                0
            }
            Answer::Deny(denial) => {
                assert!(is_changed(&scene, &honest), "seed {seed}, round {round}: an honest request: {denial}");
                assert!(!agrees(&scene) || is_about_the_request(denial), "seed {seed}, round {round}: {denial}");
                assert!(denial.to_string().len() < 1_000, "{denial}");
                1
            }
            Answer::Hold(_) => 2,
            Answer::Fault(fault) => panic!("seed {seed}, round {round}: our own trouble with {scene:?}: {fault}"),
        };
        counts[place] += 1;
    }
    assert!(counts[..3].iter().all(|count| *count > rounds / 200), "one-sided: {counts:?}");
}

fn is_changed(scene: &Scene, honest: &Scene) -> bool {
    (&scene.request, &scene.pod, &scene.account, &scene.node)
        != (&honest.request, &honest.pod, &honest.account, &honest.node)
}

/// What the comparison of both sides does not show: the form of a field, its key and its annotations.
fn is_about_the_request(denial: &Denial) -> bool {
    match denial {
        Denial::Malformed(_)
        | Denial::ProofFailed(_)
        | Denial::UnsupportedKey
        | Denial::NotProjected(_)
        | Denial::UnknownAnnotation { .. } => true,
        Denial::WrongNode { .. } | Denial::WrongServiceAccount { .. } | Denial::MirrorPod | Denial::Finished => false,
    }
}

#[test]
fn any_objects_end_in_an_answer_that_the_json_bears_out() {
    holds_for(4_000, 1);
}

#[test]
#[ignore = "tests/run --long"]
fn any_objects_end_in_an_answer_for_long() {
    for seed in 2..60 {
        holds_for(20_000, seed);
    }
}
