//! SIGKILL at every edge of what a CA does: whoever starts next, or runs beside it, goes on where the killed replica stopped. No
//! step is skipped or taken twice, and nothing is signed that pods cannot know.

use std::time::Duration;

use podmint_devcluster::Options;
use podmint_signer::authority::{Origin, trace};
use podmint_tests::server::Settings;
use podmint_tests::signer::{SignerPlan, SignerProcess};
use podmint_tests::stage::Pod;
use podmint_tests::until::until;
use podmint_tests::{Bed, Stage, assets, bare};
use serde_json::{Value, json};

use crate::brought::{Place, Writer, allow};
use crate::hand::{age, secret, state};
use crate::rotate::{ask, issuing, paced, pems, waits};
use crate::trust::move_authority;

/// One replica, and an API server that is restarted at each edge as well.
#[test]
fn a_rotation_survives_a_kill_at_each_edge() {
    podmint_tests::run(async {
        let bed = Bed::own(Settings::of("1.37.2")).await;
        let restart = async || {
            bed.go_down();
            bed.come_back().await;
        };
        rotation(&bed, "killed-edges", None, false, restart).await;
    });
}

/// The other replica goes on meanwhile.
#[test]
fn a_rotation_survives_kills_of_one_of_two_replicas() {
    podmint_tests::run(async {
        rotation(&Bed::shared("1.37.2").await, "killed-beside", None, true, async || {}).await;
    });
}

/// A CA that is brought, by one replica and by two.
#[test]
fn the_rotation_of_a_brought_ca_survives_a_kill_at_each_edge() {
    podmint_tests::run(async {
        let bed = Bed::shared("1.37.2").await;
        for (story, has_other) in [("killed-brought", false), ("killed-brought-two", true)] {
            rotation(&bed, story, Some(&Place::new(false)), has_other, async || {}).await;
        }
    });
}

/// Of our own CA, or of the one that somebody brings there.
async fn rotation(bed: &Bed, story: &str, brought: Option<&Place>, has_other: bool, restart: impl AsyncFn()) {
    let stage = Stage::open(bed, story).await;
    let pod = stage.any_pod().await;
    if let Some(place) = brought {
        allow(&stage).await;
        place.bring(&stage, &Writer::new().issuing()).await;
    }
    let start =
        async |name: &str| start(brought.map_or_else(|| paced(&stage), |place| place.signer(&stage)), name).await;
    let mut signer = start("first").await;
    let other = if has_other { Some(start("other").await) } else { None };
    let old = pems(&stage.published_roots().await);
    issued(&stage, &pod, "before").await;
    match brought {
        Some(place) => place.bring(&stage, &Writer::new().issuing()).await,
        None => ask(&stage, json!({"podmint.dev/rotate": "now"})).await,
    }
    for (number, edge) in EDGES.into_iter().enumerate() {
        waits(edge, async || (edge_of(&stage).await? > number).then_some(())).await;
        signer.kill();
        let published = pems(&stage.published_roots().await);
        // The other replica may have come further since.
        let is_over = edge_of(&stage).await == Some(EDGES.len());
        assert!(is_over || published.is_superset(&old), "{edge}: the old root was withdrawn");
        restart().await;
        signer = start(&format!("after-{}", edge.replace(' ', "-"))).await;
        issued(&stage, &pod, edge).await;
    }
    until("the old root is withdrawn", async || pems(&stage.published_roots().await).is_disjoint(&old).then_some(()))
        .await;
    assert_eq!(state(&stage).await.unwrap()["generation"], 2, "no step was taken twice");
    for signer in [Some(signer), other].into_iter().flatten() {
        assert_eq!(signer.terminate(), 0);
    }
}

/// The edges that the Secrets show, in their order.
const EDGES: [&str; 7] = ["a next key", "a next root", "distribute", "sign", "drain", "one key", "stable"];

/// How many of them are behind.
async fn edge_of(stage: &Stage) -> Option<usize> {
    let has_next = secret(stage, "podmint-ca-root").await?["data"].get("next.key").is_some();
    let state = state(stage).await?;
    let is_switched = state["generation"] == 2;
    Some(match state["rotation"]["phase"].as_str().unwrap_or("stable") {
        "prepare" => 2,
        "distribute" => 3,
        "sign" => 4,
        "drain" if has_next => 5,
        "drain" => 6,
        _ if is_switched => 7,
        _ => usize::from(has_next),
    })
}

/// The issuing CA is renewed often and in silence. Killed before the next one is made, while it is made (the moments in between are
/// tried one after another), once it is there, and once it signs: there is one more of them, no less and no more.
#[test]
fn a_renewal_survives_a_kill_at_each_edge() {
    podmint_tests::run(async {
        // The root was made seventeen days ago: no issuing CA can be older than that.
        let past = Bed::over(Options { clock_ahead_seconds: -17 * 86_400, ..bare() }).await;
        let stage = Stage::open(&Bed::shared("1.37.2").await, "killed-renewal").await;
        let then = Stage::open(&past, "killed-renewal-then").await.answering_for(&stage.signer_name);
        paced(&then).start().await.ready().await.stop().await;
        move_authority(&then, &stage).await;
        let pod = stage.any_pod().await;
        let mut signer = start(paced(&stage), "first").await;
        let roots = stage.published_roots().await;
        let mut signed = issuing(&issued(&stage, &pod, "before").await);
        let mut other = None;
        for has_other in [false, true] {
            if has_other {
                other = Some(start(paced(&stage), "other").await);
            }
            for edge in ["old", "old, 40 ms", "old, 80 ms", "old, 120 ms", "renewed", "signing"] {
                let old = age(&stage).await;
                match edge {
                    "renewed" => waits(edge, async || is_past(&stage, old).await).await,
                    "signing" => {
                        waits(edge, async || (issuing(&issued(&stage, &pod, edge).await) != signed).then_some(()))
                            .await;
                    }
                    _ => {
                        let wait = edge.split(' ').nth(1).map_or(0, |word| word.parse().unwrap());
                        tokio::time::sleep(Duration::from_millis(wait)).await;
                    }
                }
                signer.kill();
                signer = start(paced(&stage), "next").await;
                waits(edge, async || is_past(&stage, old).await).await;
                let status = waits(edge, async || {
                    let status = issued(&stage, &pod, edge).await;
                    (issuing(&status) == current(&stage).await).then_some(status)
                })
                .await;
                assert_ne!(issuing(&status), signed, "{edge}: another issuing CA signs");
                signed = issuing(&status);
                assert_eq!(state(&stage).await.unwrap()["generation"], old + 1, "{edge}: one more");
                assert_eq!(stage.published_roots().await, roots, "{edge}: nobody has to know of it");
            }
        }
        for signer in [Some(signer), other].into_iter().flatten() {
            assert_eq!(signer.terminate(), 0);
        }
    });
}

async fn start(plan: SignerPlan<'_>, name: &str) -> SignerProcess {
    let binary = assets::binary("paced-signer");
    plan.called(name).start_process_of(&binary).await.ready().await
}

/// A certificate of this moment, which chains to a published root.
async fn issued(stage: &Stage, pod: &Pod, edge: &str) -> Value {
    let status = stage.issued(&stage.request_for(pod).make().await).await;
    let chain = status["certificateChain"].as_str().unwrap();
    assert!(matches!(trace(chain, &stage.published_roots().await), Origin::Ours { .. }), "{edge}");
    status
}

async fn is_past(stage: &Stage, generation: u64) -> Option<()> {
    (state(stage).await?["generation"].as_u64()? > generation).then_some(())
}

/// The issuing CA that is in its Secret.
async fn current(stage: &Stage) -> Vec<u8> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let secret = secret(stage, "podmint-ca").await.unwrap();
    let pem = BASE64_STANDARD.decode(secret["data"]["tls.crt"].as_str().unwrap()).unwrap();
    pem::parse(pem).unwrap().into_contents()
}
