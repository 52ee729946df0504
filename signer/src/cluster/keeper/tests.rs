use http::Method;
use serde_json::json;

use super::*;
use crate::{
    cluster::{
        fake::{Fake, Instead, refusal},
        versions::{BUNDLES, REQUESTS},
    },
    config::Config,
    health::Health,
    metrics::Metrics,
};

const SIGNING: &str = "/api/v1/namespaces/mint/secrets/podmint-ca";
const BUNDLE: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles/podmint.dev:workload:prod";

fn config() -> Config {
    let yaml = "{apiVersion: podmint.dev/v1alpha1, kind: PodSigner, metadata: {name: prod}, spec: {signerName: \
                podmint.dev/workload, trustDomain: example.org, allow: []}}";
    Config::parse(yaml, &Domains::parse("podmint.dev", "cluster.local").unwrap()).unwrap()
}

fn served() -> Fake {
    let fake = Fake::new();
    let resources = json!({"resources": [{"name": REQUESTS}, {"name": BUNDLES}]});
    fake.put("/apis/certificates.k8s.io/v1", resources);
    fake
}

async fn keeper(fake: &Fake) -> (Keeper, watch::Receiver<Authority>) {
    let (config, pace, calls) = (config(), Pace::compressed(1000), fake.calls());
    let versions = Versions::new(calls.clone(), pace);
    versions.discover().await.unwrap();
    let out = watch::Sender::new(Authority::unknown());
    let authority = out.subscribe();
    let makeup = Makeup {
        calls,
        versions,
        namespace: "mint".to_owned(),
        signer: Arc::clone(&config.signers()[0]),
        domains: config.domains().clone(),
        pace,
        out,
        changes: watch::Sender::new(()),
        vitals: Vitals::new(1, Metrics::new()),
        number: 0,
        token: Health::new().token("CA"),
    };
    (Keeper::new(makeup), authority)
}

fn root(authority: &watch::Receiver<Authority>) -> Option<Sha256> {
    authority.borrow().issuer.as_ref().ok().map(|issuer| issuer.generation().root_fingerprint())
}

#[tokio::test]
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

#[tokio::test]
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

#[tokio::test]
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

#[tokio::test]
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

#[tokio::test]
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
