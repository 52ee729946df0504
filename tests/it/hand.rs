//! By the hand of an administrator: what is asked of a CA, what is read of it, and what is written over it.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use podmint_signer::authority::state::{Name, Signing};
use podmint_signer::authority::{
    Generation, Makings, Plan, Put, Roots, Rotation, SecretData, SelfManaged, Write, make,
};
use podmint_signer::config::Domains;
use podmint_signer::names::{SerialNumber, TrustDomain};
use podmint_tests::call::{self, Answer};
use podmint_tests::signer::TRUST_DOMAIN;
use podmint_tests::{Stage, until::until};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};

/// Asks for something by annotations.
pub(crate) async fn wish(stage: &Stage, annotations: Value) -> Answer {
    call::patch(&stage.admin, &path(stage, "podmint-ca"), &json!({"metadata": {"annotations": annotations}})).await
}

/// One of the Secrets, if it can be read now.
pub(crate) async fn secret(stage: &Stage, name: &str) -> Option<Value> {
    call::get(&stage.admin, &path(stage, name)).await.ok()
}

/// The plan in the signing Secret, if it can be read now.
pub(crate) async fn state(stage: &Stage) -> Option<Value> {
    use base64::{Engine as _, prelude::BASE64_STANDARD};
    let secret = secret(stage, "podmint-ca").await?;
    let state = BASE64_STANDARD.decode(secret["data"]["state.json"].as_str()?).ok()?;
    serde_json::from_slice(&state).ok()
}

pub(crate) fn path(stage: &Stage, name: &str) -> String {
    format!("/api/v1/namespaces/{}/secrets/{name}", stage.signer_namespace)
}

/// Lets the issuing CA grow old before its time: another one takes its place that was made sixteen days ago, past half of its life.
/// The signer makes the next one. Says which number it has. The root must be as old.
pub(crate) async fn age(stage: &Stage) -> u64 {
    let old = until("the issuing CA can be aged", async || {
        put(stage, |signing| Some((issue(signing, signing.plan.number), signing.not_before - Duration::days(16)))).await
    });
    old.await.number()
}

/// Puts the next issuing CA below the same root in its place, as a replica does when it is due.
pub(crate) async fn renew(stage: &Stage) -> Option<Generation> {
    put(stage, |signing| Some((issue(signing, signing.plan.number + 1), signing.not_before + Duration::HOUR))).await
}

fn issue(signing: &Signing, number: u64) -> Put {
    let plan = Plan { number, ..signing.plan.clone() };
    Put { name: Name::Renew, plan, below: Some(signing.root), write: Write::Replace }
}

/// Makes a next root sign, if there is one, whoever knows it.
pub(crate) async fn sign_at_once(stage: &Stage) {
    put(stage, |signing| {
        let next = signing.plan.rotation.and_then(Rotation::next)?;
        let rotation = Some(Rotation::Sign { previous: signing.root, longest: signing.plan.longest });
        let plan = Plan { number: signing.plan.number + 1, rotation, ..signing.plan.clone() };
        let put = Put { name: Name::Sign, plan, below: Some(next), write: Write::Replace };
        Some((put, signing.not_before + Duration::HOUR))
    })
    .await;
}

/// Writes what this makes of the signing Secret, by the product's own code, unless somebody is faster.
async fn put(stage: &Stage, change: impl Fn(&Signing) -> Option<(Put, OffsetDateTime)>) -> Option<Generation> {
    let found = secret(stage, "podmint-ca").await?;
    let before = Generation::load(&data(&found)?).ok()?;
    let (put, now) = change(before.signing())?;
    let roots = Roots::load(&data(&secret(stage, "podmint-ca-root").await?)?).ok()?;
    let trust_domain = TrustDomain::parse(TRUST_DOMAIN).ok()?;
    let domains = Domains::parse("podmint.dev", "cluster.local").ok()?;
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).expect("the system gives random bytes");
    let serial = SerialNumber::from_random(random);
    let makings =
        Makings { trust_domain: &trust_domain, domains: &domains, now, serial, source: &SelfManaged, trusted: "" };
    let made = make::signing(&put, Some(&before), Some(&roots), &makings).ok()?;
    let data: BTreeMap<String, ByteString> = made.data().expect("a plan can be written");
    let change = json!({"metadata": {"resourceVersion": found["metadata"]["resourceVersion"]}, "data": data});
    call::patch(&stage.admin, &path(stage, "podmint-ca"), &change).await.ok()?;
    Some(made)
}

fn data(secret: &Value) -> Option<SecretData> {
    serde_json::from_value(secret["data"].clone()).ok()
}
