use http::Method;
use serde_json::json;

use super::*;
use crate::{
    authority::wish::{PAUSE, ROTATE},
    cluster::{
        fake::{Fake, Instead, busy, refusal},
        versions::{BUNDLES, REQUESTS},
    },
    config::Config,
    metrics::Metrics,
};

mod sources;

const ROOTS: &str = "/api/v1/namespaces/mint/secrets/podmint-ca-root";
const SIGNING: &str = "/api/v1/namespaces/mint/secrets/podmint-ca";
const BUNDLE: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles/podmint.dev:workload:prod";

fn config() -> Config {
    config_of("{}")
}

fn config_of(authority: &str) -> Config {
    let yaml = format!(
        "{{apiVersion: podmint.dev/v1alpha1, kind: PodSigner, metadata: {{name: prod}}, spec: {{signerName: podmint.dev/workload, \
         trustDomain: example.org, lifetime: {{max: 1h}}, allow: [], authority: {authority}}}}}"
    );
    Config::parse(&yaml, &Domains::parse("podmint.dev", "cluster.local").unwrap()).unwrap()
}

fn served() -> Fake {
    let fake = Fake::new();
    let resources = json!({"resources": [{"name": REQUESTS}, {"name": BUNDLES}]});
    fake.put("/apis/certificates.k8s.io/v1", resources);
    fake
}

async fn keeper(fake: &Fake) -> (Keeper, watch::Receiver<Authority>) {
    keeper_of(fake, &config()).await
}

async fn keeper_of(fake: &Fake, config: &Config) -> (Keeper, watch::Receiver<Authority>) {
    let (pace, calls) = (Pace::compressed(HURRY), fake.calls());
    let versions = Versions::new(calls.clone(), pace);
    versions.discover().await.unwrap();
    let out = watch::Sender::new(Authority::unknown());
    let authority = out.subscribe();
    let makeup = Makeup {
        calls,
        versions,
        namespace: "mint".to_owned(),
        signer: watch::channel(Arc::clone(&config.signers()[0])).1,
        domains: config.domains().clone(),
        pace,
        out,
        changes: watch::Sender::new(()),
        vitals: Vitals::new(Metrics::new()),
        number: 0,
        token: None,
    };
    (Keeper::new(makeup), authority)
}

/// The phases of a rotation take 1 s and 4 s, and a replica signs for 60 ms, and the second that HTTP dates leave open, after it
/// last looked.
const HURRY: u32 = 1000;

fn root(authority: &watch::Receiver<Authority>) -> Option<Sha256> {
    authority.borrow().issuer.as_ref().ok().map(|issuer| issuer.generation().root_fingerprint())
}

#[tokio::test(start_paused = true)]
async fn a_first_start_makes_a_ca_publishes_it_and_only_then_signs() {
    let fake = served();
    let (mut keeper, authority) = keeper(&fake).await;
    assert_eq!(root(&authority), None);
    keeper.look().await.unwrap();
    assert!(root(&authority).is_some());
    let heard = fake.heard.lock().unwrap().clone();
    let publish = heard.iter().position(|call| call.starts_with("POST /apis/certificates.k8s.io")).unwrap();
    assert!(
        heard.iter().skip(publish).any(|call| call.starts_with("GET /apis/certificates.k8s.io/v1/clustertrustbundles"))
    );
}

#[tokio::test(start_paused = true)]
async fn two_that_start_at_once_and_one_that_restarts_end_with_one_ca() {
    let fake = served();
    let ((mut one, first), (mut two, second)) = (keeper(&fake).await, keeper(&fake).await);
    let (looked, too) = tokio::join!(one.look(), two.look());
    looked.unwrap();
    too.unwrap();
    let (mut again, third) = keeper(&fake).await;
    again.look().await.unwrap();
    assert!(root(&first).is_some() && root(&first) == root(&second) && root(&second) == root(&third));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_signed_while_the_bundle_cannot_be_published_or_read_back() {
    let fake = served();
    fake.instead(|method, path, _| {
        let (code, status) = refusal(403, "Forbidden", "x");
        (*method == Method::POST && path.contains(BUNDLES)).then_some(Instead::Json(code, status))
    });
    let (mut keeper, authority) = keeper(&fake).await;
    assert!(keeper.look().await.is_err());
    assert!(matches!(authority.borrow().issuer, Err(Hold::TrustNotPublished)));
    fake.instead(|_, _, _| None);
    keeper.look().await.unwrap();
    assert!(root(&authority).is_some());
}

#[tokio::test(start_paused = true)]
async fn an_edited_or_deleted_bundle_stops_signing_until_it_is_repaired() {
    let fake = served();
    let (mut keeper, mut authority) = keeper(&fake).await;
    keeper.look().await.unwrap();
    let good = fake.get(BUNDLE).unwrap();
    for spoil in [
        |fake: &Fake, _: &serde_json::Value| fake.remove(BUNDLE),
        |fake: &Fake, good: &serde_json::Value| {
            let mut unlabelled = good.clone();
            unlabelled["metadata"]["labels"] = json!({});
            fake.put(BUNDLE, unlabelled);
        },
    ] {
        spoil(&fake, &good);
        // Before the repair is written, no walk may find the right to sign.
        let seen = authority.clone();
        fake.instead(move |method, path, _| {
            if *method != Method::GET && path.contains(BUNDLES) {
                assert!(matches!(seen.borrow().issuer, Err(Hold::TrustNotPublished)));
            }
            None
        });
        authority.mark_unchanged();
        keeper.look().await.unwrap();
        assert!(authority.has_changed().unwrap() && root(&authority).is_some());
        let repaired = fake.get(BUNDLE).unwrap();
        assert_eq!(repaired["spec"], good["spec"]);
        assert_eq!(repaired["metadata"]["labels"], good["metadata"]["labels"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_spoilt_secret_is_never_replaced_and_the_ca_in_memory_goes_on() {
    let fake = served();
    let (mut keeper, authority) = keeper(&fake).await;
    keeper.look().await.unwrap();
    let before = root(&authority);
    let mut spoilt = fake.get(SIGNING).unwrap();
    spoilt["data"]["tls.key"] = "bm8ga2V5".into();
    fake.put(SIGNING, spoilt.clone());
    keeper.memory.signing = None;
    keeper.look().await.unwrap();
    assert_eq!((root(&authority), fake.get(SIGNING).unwrap()), (before, spoilt));
    // A replica that starts now has nothing in memory.
    let (mut fresh, held) = self::keeper(&fake).await;
    fresh.look().await.unwrap();
    assert!(matches!(held.borrow().issuer, Err(Hold::AuthorityUnusable)));
}

fn ask(fake: &Fake, annotation: &str, value: &str) {
    let mut secret = fake.get(SIGNING).unwrap();
    secret["metadata"]["annotations"][annotation] = value.into();
    secret["metadata"]["resourceVersion"] = "100".into();
    fake.put(SIGNING, secret);
}

fn phase(authority: &watch::Receiver<Authority>) -> &'static str {
    authority.borrow().view.as_ref().map_or("", |view| view.phase)
}

fn published(fake: &Fake) -> Vec<Sha256> {
    fingerprints(fake.get(BUNDLE).unwrap()["spec"]["trustBundle"].as_str().unwrap())
}

/// Lets each of them look again and again until this is so.
async fn until(keepers: &mut [&mut Keeper], is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "it does not come about");
        for keeper in &mut *keepers {
            keeper.look().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_ca_that_was_made_by_a_clock_ahead_is_replaced_when_that_is_mended() {
    let fake = served();
    let ((mut one, first), (mut two, second)) = (keeper(&fake).await, keeper(&fake).await);
    let issuing = |authority: &watch::Receiver<Authority>| {
        authority.borrow().issuer.as_ref().ok().map(|issuer| issuer.generation().fingerprint())
    };
    until(&mut [&mut one, &mut two], || issuing(&first).is_some() && issuing(&first) == issuing(&second)).await;
    let (before, above) = (issuing(&first), root(&first));
    let mut made = vec![before];
    for ahead in [20 * 86_400, 0] {
        *fake.ahead.lock().unwrap() = ahead;
        until(&mut [&mut one, &mut two], || {
            let both = [issuing(&first), issuing(&second)];
            both[0].is_some() && both[0] == both[1] && !made.contains(&both[0])
        })
        .await;
        made.push(issuing(&first));
        assert_eq!((root(&first), published(&fake)), (above, above.into_iter().collect()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_starts_while_the_clock_is_ahead_withdraws_nothing() {
    let fake = served();
    let (mut old, seen) = keeper(&fake).await;
    until(&mut [&mut old], || root(&seen).is_some()).await;
    ask(&fake, ROTATE, "now");
    until(&mut [&mut old], || phase(&seen) == "drain").await;
    drop(old);
    *fake.ahead.lock().unwrap() = 3_600;
    let (mut keeper, authority) = keeper(&fake).await;
    // The drain takes 4 s, and by the clock that is ahead it is over. Half a second of the one that it is watched for passes.
    for _ in 0..25 {
        keeper.look().await.unwrap();
        assert_eq!((phase(&authority), published(&fake).len()), ("drain", 2));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    *fake.ahead.lock().unwrap() = 0;
    let begun = Instant::now();
    until(&mut [&mut keeper], || phase(&authority) == "stable").await;
    assert!(begun.elapsed() > Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(published(&fake), [root(&authority).unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn two_replicas_rotate_the_root_once_and_sign_all_the_while() {
    let fake = served();
    let ((mut one, first), (mut two, second)) = (keeper(&fake).await, keeper(&fake).await);
    until(&mut [&mut one, &mut two], || root(&second).is_some()).await;
    let old = root(&first).unwrap();
    ask(&fake, ROTATE, "now");

    until(&mut [&mut one, &mut two], || phase(&first) == "distribute" && phase(&second) == "distribute").await;
    assert_eq!((root(&first), root(&second)), (Some(old), Some(old)), "the next root is published, and does not sign");
    let both = published(&fake);
    assert!(both.len() == 2 && both.contains(&old));
    until(&mut [&mut one, &mut two], || {
        assert!(root(&first).is_some() && root(&second).is_some(), "signing never stops");
        phase(&first) == "drain" && phase(&second) == "drain"
    })
    .await;
    let new = root(&first).unwrap();
    assert!(new != old && root(&second) == Some(new) && both.contains(&new));
    assert_eq!(published(&fake).len(), 2, "the old root is trusted while its certificates live");

    until(&mut [&mut one, &mut two], || phase(&first) == "stable" && phase(&second) == "stable").await;
    assert_eq!(published(&fake), [new]);
    assert!(fake.get(ROOTS).unwrap()["data"].get("next.key").is_none(), "the old key is gone");
    let number = |authority: &watch::Receiver<Authority>| authority.borrow().view.as_ref().unwrap().number;
    assert_eq!((number(&first), number(&second)), (2, 2));
    for _ in 0..5 {
        one.look().await.unwrap();
        two.look().await.unwrap();
    }
    assert_eq!(published(&fake), [new], "asked for once, done once");
}

#[tokio::test(start_paused = true)]
async fn a_rotation_waits_while_it_is_paused_or_cannot_be_published() {
    let fake = served();
    let (mut keeper, authority) = keeper(&fake).await;
    keeper.look().await.unwrap();
    let old = root(&authority);
    ask(&fake, ROTATE, "now");
    ask(&fake, PAUSE, "true");
    keeper.memory.signing = None;
    keeper.look().await.unwrap();
    assert_eq!(phase(&authority), "stable");
    ask(&fake, PAUSE, "false");
    fake.instead(|method, path, _| {
        let (code, status) = refusal(403, "Forbidden", "x");
        (*method == Method::PUT && path.contains(BUNDLES)).then_some(Instead::Json(code, status))
    });
    keeper.memory.signing = None;
    assert!(keeper.look().await.is_err());
    assert_eq!((phase(&authority), root(&authority)), ("prepare", old), "what is published goes on");
    fake.instead(|_, _, _| None);
    keeper.look().await.unwrap();
    assert_eq!((phase(&authority), root(&authority)), ("distribute", old));
}

#[tokio::test(start_paused = true)]
async fn an_unseen_hour_counts_for_nothing() {
    let fake = served();
    let (mut keeper, authority) = keeper(&fake).await;
    keeper.look().await.unwrap();
    ask(&fake, ROTATE, "now");
    until(&mut [&mut keeper], || phase(&authority) == "distribute").await;
    *fake.ahead.lock().unwrap() = 3_600;
    keeper.look().await.unwrap();
    keeper.look().await.unwrap();
    assert_eq!(phase(&authority), "distribute", "the clock jumped; nobody has learnt of the next root by that");
    // A machine that was suspended finds the API server's clock ahead just so: it knows no more than one that starts.
    let mut spoilt = fake.get(SIGNING).unwrap();
    spoilt["data"]["tls.key"] = "bm8ga2V5".into();
    fake.put(SIGNING, spoilt);
    *fake.ahead.lock().unwrap() = 7_200;
    keeper.memory.signing = None;
    // The clock is told by the reply, and the one before it is what the last look went by.
    keeper.look().await.unwrap();
    keeper.look().await.unwrap();
    assert!(matches!(authority.borrow().issuer, Err(Hold::AuthorityUnusable)), "others may have moved on meanwhile");
}

#[tokio::test(start_paused = true)]
async fn an_old_plan_is_not_published_over_a_newer_one() {
    let fake = served();
    let ((mut one, first), (mut two, second)) = (keeper(&fake).await, keeper(&fake).await);
    until(&mut [&mut one, &mut two], || root(&second).is_some()).await;
    ask(&fake, ROTATE, "now");
    until(&mut [&mut one], || phase(&first) == "distribute").await;
    // The other one has read the Secret a moment ago, before the rotation began.
    if let Some(read) = &mut two.memory.signing {
        read.heard = Instant::now();
    }
    let both = published(&fake);
    assert_eq!(phase(&second), "stable");
    two.look().await.unwrap();
    assert_eq!(published(&fake), both);
    assert_eq!(phase(&second), "distribute", "it looked again before it wrote");
}

/// What etcd holds of a CA.
const ALL: [&str; 3] = [ROOTS, SIGNING, BUNDLE];

fn copy(fake: &Fake) -> [serde_json::Value; 3] {
    ALL.map(|path| fake.get(path).unwrap())
}

fn put_back(fake: &Fake, copy: &[serde_json::Value; 3]) {
    ALL.into_iter().zip(copy).for_each(|(path, object)| fake.put(path, object.clone()));
}

/// A rotation, from its beginning to its end.
async fn rotate(fake: &Fake, keeper: &mut Keeper, authority: &watch::Receiver<Authority>, wish: &str) {
    let old = root(authority);
    ask(fake, ROTATE, wish);
    keeper.memory.signing = None;
    until(&mut [keeper], || root(authority) != old && phase(authority) == "stable").await;
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_went_back_is_noticed_after_minutes_without_it() {
    let fake = served();
    let (mut keeper, authority) = keeper(&fake).await;
    keeper.look().await.unwrap();
    let (first, old) = (root(&authority), copy(&fake));
    rotate(&fake, &mut keeper, &authority, "now").await;
    let (second, newest) = (root(&authority), copy(&fake));

    put_back(&fake, &old);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_mins(5)).await;
        for _ in 0..3 {
            keeper.look().await.unwrap();
            assert!(matches!(authority.borrow().issuer, Err(Hold::AuthorityUnusable)), "it knows better");
        }
    }
    assert!(keeper.memory.generation.is_none(), "nor does it sign with what it remembers");
    assert_eq!(copy(&fake), old, "nothing is made, nothing is withdrawn");
    let (mut fresh, followed) = self::keeper(&fake).await;
    fresh.look().await.unwrap();
    assert_eq!(root(&followed), first, "whoever starts cannot know");

    put_back(&fake, &newest);
    keeper.memory.signing = None;
    keeper.look().await.unwrap();
    assert_eq!(root(&authority), second);
}

#[tokio::test(start_paused = true)]
async fn what_others_moved_on_to_meanwhile_is_followed() {
    let fake = served();
    let ((mut one, first), (mut two, second)) = (keeper(&fake).await, keeper(&fake).await);
    until(&mut [&mut one, &mut two], || root(&second).is_some()).await;
    for wish in ["now", "again"] {
        rotate(&fake, &mut one, &first, wish).await;
    }
    // The clock is told by a reply, and the one before it is what the last look went by.
    two.look().await.unwrap();
    two.look().await.unwrap();
    assert_eq!(root(&second), root(&first));
    // Nor does it count where nothing is found: whoever makes it anew may count anew.
    tokio::time::sleep(Duration::from_mins(5)).await;
    fake.remove(SIGNING);
    two.memory.signing = None;
    two.look().await.unwrap();
    two.look().await.unwrap();
    assert_eq!((root(&second), two.memory.last), (root(&first), None));
}

#[tokio::test(start_paused = true)]
async fn it_waits_for_as_long_as_the_api_server_asks_and_what_was_read_back_ends_meanwhile() {
    let fake = served();
    let (mut keeper, mut authority) = keeper(&fake).await;
    keeper.look().await.unwrap();
    fake.instead(|_, _, _| Some(busy(30)));
    let before = fake.count("");
    tokio::spawn(keeper.run());
    let ended = authority.wait_for(|authority| authority.issuer.is_err());
    drop(tokio::time::timeout(READ_BACK_LASTS.checked_div(HURRY).unwrap() * 2, ended).await.unwrap().unwrap());
    assert_eq!(fake.count("").saturating_sub(before), 1);
    tokio::time::sleep(Duration::from_millis(29_900)).await;
    assert_eq!(fake.count("").saturating_sub(before), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(fake.count("").saturating_sub(before), 2);
}
