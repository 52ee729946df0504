//! What the status says in each situation, and how often it is written.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    authority::{SelfManaged, Timing, View, Wish},
    cluster::fake::Fake,
    config::object::{InForce, judge},
    metrics::Metrics,
    pipeline::{
        Hold,
        honest::{NOW, domains, issuer},
    },
    roster::Member,
};

fn object(spec: Value) -> Value {
    let metadata = json!({"name": "a", "uid": "u", "resourceVersion": "1", "generation": 3});
    json!({"metadata": metadata, "spec": spec})
}

fn spec(suspend: bool) -> Value {
    json!({"signerName": "podmint.dev/a", "trustDomain": "a.example", "suspend": suspend})
}

fn judged(object: Value, before: &InForce) -> Judged {
    judge(vec![serde_json::from_value(object).unwrap()], before, &domains()).remove(0)
}

fn sound() -> Authority {
    let issuer = issuer();
    let view = View::of(issuer.generation(), &SelfManaged, &Wish::default(), Timing::at(Pace::real()));
    Authority { issuer: Ok(Arc::new(issuer)), roots: None, view: Some(Arc::new(view)), trouble: None }
}

fn held(hold: Hold, trouble: Option<&str>) -> Authority {
    Authority { issuer: Err(hold), trouble: trouble.map(Arc::from), ..sound() }
}

fn of(status: &PodSignerStatus, kind: &str) -> (String, String) {
    let condition = status.conditions.iter().find(|condition| condition.kind == kind).unwrap();
    (condition.status.clone(), condition.reason.clone())
}

#[track_caller]
fn says(one: &Judged, authority: Option<&Authority>, guard: GuardState, state: &str, wanted: [(&str, &str, &str); 5]) {
    let status = say::status(one, authority, guard, NOW);
    assert_eq!((status.state.as_str(), status.observed_generation), (state, 3));
    for (kind, value, reason) in wanted {
        assert_eq!(of(&status, kind), (value.to_owned(), reason.to_owned()), "{kind}");
    }
}

#[test]
fn each_situation_has_its_conditions() {
    let (good, in_force) = (judged(object(spec(false)), &InForce::new()), GuardState::InForce);
    let ready = |reason| ("Ready", "False", reason);
    let (usable, published) = (("AuthorityReady", "True", "Usable"), ("TrustPublished", "True", "ReadBack"));
    let (still, sound_one) = (("RotationInProgress", "False", "NotRotating"), ("Degraded", "False", "AsItShouldBe"));
    says(
        &good,
        Some(&sound()),
        in_force,
        "Issuing",
        [("Ready", "True", "Issuing"), usable, published, still, sound_one],
    );
    let guardless = [ready("GuardMissing"), usable, published, still, sound_one];
    says(&good, Some(&sound()), GuardState::Missing, "Waiting", guardless);
    let suspended = judged(object(spec(true)), &InForce::new());
    let wanted = [("Ready", "True", "Suspended"), usable, published, still, sound_one];
    says(&suspended, Some(&sound()), in_force, "Suspended", wanted);
    let unpublished = held(Hold::TrustNotPublished, None);
    let not_published = ("TrustPublished", "False", "NotPublished");
    let wanted = [ready("TrustNotPublished"), usable, not_published, still, sound_one];
    says(&good, Some(&unpublished), in_force, "Waiting", wanted);
    let lost = held(Hold::AuthorityUnusable, Some("the key is gone"));
    let unseen = ("TrustPublished", "Unknown", "NotSeen");
    let wanted = [
        ready("AuthorityUnusable"),
        ("AuthorityReady", "False", "Unusable"),
        unseen,
        still,
        ("Degraded", "True", "AuthorityTrouble"),
    ];
    says(&good, Some(&lost), in_force, "Waiting, degraded", wanted);
}

#[test]
fn a_refused_spec_is_told_with_what_is_in_force_meanwhile() {
    let wrong = json!({"signerName": "other.org/a", "trustDomain": "a.example"});
    let nothing = judged(object(wrong.clone()), &InForce::new());
    let unknown = |kind| (kind, "Unknown", "NotInForce");
    let wanted = [
        ("Ready", "False", "SpecRefused"),
        unknown("AuthorityReady"),
        unknown("TrustPublished"),
        unknown("RotationInProgress"),
        ("Degraded", "True", "SpecRefused"),
    ];
    says(&nothing, None, GuardState::InForce, "Refused", wanted);
    let before = judged(object(spec(false)), &InForce::new());
    let last_good = judged(object(wrong), &InForce::from([("u".to_owned(), before.in_force.unwrap())]));
    let status = say::status(&last_good, Some(&sound()), GuardState::InForce, NOW);
    assert_eq!(status.state, "Issuing, degraded");
    let degraded = status.conditions.iter().find(|condition| condition.kind == "Degraded").unwrap();
    assert!(degraded.message.ends_with("the last good spec stays in force"), "{}", degraded.message);
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let (mut one, sound) = (judged(object(spec(false)), &InForce::new()), sound());
    one.object.status = say::status(&one, Some(&sound), GuardState::InForce, NOW);
    let later = NOW.saturating_add(time::Duration::HOUR);
    let same = say::status(&one, Some(&sound), GuardState::InForce, later);
    assert_eq!(same, one.object.status);
    let other = say::status(&one, Some(&sound), GuardState::Missing, later);
    let time = |status: &PodSignerStatus, kind: &str| {
        status.conditions.iter().find(|it| it.kind == kind).unwrap().last_transition_time.clone()
    };
    assert_ne!(time(&other, "Ready"), time(&same, "Ready"));
    assert_eq!(time(&other, "Degraded"), time(&same, "Degraded"));
}

#[test]
fn the_status_tells_the_generation_and_what_happens_next() {
    let one = judged(object(spec(false)), &InForce::new());
    let authority = say::status(&one, Some(&sound()), GuardState::InForce, NOW).authority.unwrap();
    let [issuing, root] = authority.generations.as_slice() else { panic!("{authority:?}") };
    assert!(issuing.subject.contains("CN=Podmint issuing") && issuing.subject_key_id.len() == 59, "{issuing:?}");
    assert_eq!((issuing.usable_until.as_str(), issuing.phase.as_str()), (authority.usable_until.as_str(), "issuing"));
    assert_eq!((root.phase.as_str(), authority.phase.as_str(), authority.number), ("root", "stable", 7));
    let next = authority.next.unwrap();
    assert!(next.step == "Renew" && next.at < issuing.usable_until, "{next:?}");

    let mut turning = sound();
    let view = View { phase: "distribute", ..View::clone(turning.view.as_deref().unwrap()) };
    turning.view = Some(Arc::new(view));
    let status = say::status(&one, Some(&turning), GuardState::InForce, NOW);
    assert_eq!(of(&status, "RotationInProgress"), ("True".to_owned(), "RootRotates".to_owned()));
}

async fn writer(fake: &Fake, one: Judged) -> StatusWriter {
    let (calls, pace) = (fake.calls(), Pace::real());
    // Any reply sets the clock.
    drop(calls.get::<Value>("/healthz").await);
    let roster = Roster::new();
    let policy = watch::Sender::new(one.in_force.clone().unwrap());
    roster.add(0, Member::new(policy, watch::channel(sound()).1, None).0);
    let (notices, _) = Notices::new(calls.clone(), "one".to_owned(), Metrics::new(), pace);
    StatusWriter {
        calls,
        judgement: watch::channel(Judgement::from([one])).1,
        roster,
        authority_changes: watch::channel(()).1,
        guard: watch::channel(GuardState::InForce).1,
        standing: watch::channel(Standing::First { until: None }).1,
        notices,
        pace,
        written: BTreeMap::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn what_changes_is_written_once_and_what_does_not_never() {
    let (fake, object) = (Fake::new(), object(spec(false)));
    fake.put("/apis/podmint.dev/v1alpha1/podsigners/a", object.clone());
    let mut writer = writer(&fake, judged(object, &InForce::new())).await;
    writer.write_all().await;
    writer.write_all().await;
    assert_eq!(fake.count("PUT"), 1, "the second finds that its own has not come back yet");
    let now = fake.get("/apis/podmint.dev/v1alpha1/podsigners/a").unwrap();
    assert_eq!(now["status"]["state"], "Issuing");
    writer.judgement = watch::channel(Judgement::from([judged(now.clone(), &InForce::new())])).1;
    writer.write_all().await;
    assert_eq!(fake.count("PUT"), 1, "nothing has changed");

    let mut other = now.clone();
    other["status"]["authority"]["usableUntil"] = json!("2020-01-01T00:00:00Z");
    writer.judgement = watch::channel(Judgement::from([judged(other, &InForce::new())])).1;
    writer.written.get_mut("u").unwrap().instead_of = "before".to_owned();
    writer.write_all().await;
    assert_eq!(fake.count("PUT"), 1, "no condition has changed, and half a minute has not passed");
    let mut other = now;
    other["status"]["conditions"][0]["status"] = json!("False");
    writer.judgement = watch::channel(Judgement::from([judged(other, &InForce::new())])).1;
    writer.write_all().await;
    assert_eq!(fake.count("PUT"), 2, "a condition is written at once");
}
