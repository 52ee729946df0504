//! What is in force of several objects, and what each author is told.

use serde_json::json;

use super::*;
use crate::pipeline::honest::domains;

fn object(name: &str, second: i64, spec: Value) -> Object {
    let created = jiff::Timestamp::from_second(1_700_000_000_i64.saturating_add(second)).unwrap();
    let metadata =
        json!({"name": name, "uid": format!("uid-{name}"), "resourceVersion": "7", "creationTimestamp": created});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
}

fn good(path: &str, secret: &str) -> Value {
    let authority = json!({"selfManaged": {"secretName": secret}});
    json!({"signerName": format!("podmint.dev/{path}"), "trustDomain": "prod.example.org", "authority": authority})
}

fn with(mut spec: Value, field: &str, value: Value) -> Value {
    spec[field] = value;
    spec
}

fn judged(objects: Vec<Object>, before: &InForce) -> (Vec<Judged>, InForce) {
    let judged = judge(objects, before, &domains());
    let in_force = judged.iter().filter_map(|one| Some((one.object.metadata.uid.clone(), one.in_force.clone()?)));
    let in_force = in_force.collect();
    (judged, in_force)
}

/// The names of those in force, and what the others were told.
fn names(judged: &[Judged]) -> Vec<(&str, Option<&str>, Option<&'static str>)> {
    let one = |one: &Judged| one.in_force.as_ref().map(|signer| signer.signer_name.path().to_owned());
    judged
        .iter()
        .map(|it| {
            let path = one(it).map(|path| &*path.leak());
            (it.object.metadata.name.as_str(), path, it.refused.as_ref().map(|refused| refused.reason))
        })
        .collect()
}

#[test]
fn an_object_is_checked_in_the_words_of_a_file_without_a_line() {
    let spec = with(good("a", "a-ca"), "lifetime", json!({"max": "59m"}));
    let (judged, _) = judged(vec![object("a", 0, spec)], &InForce::new());
    let refused = judged[0].refused.as_ref().unwrap();
    assert!(refused.message.starts_with("spec.lifetime.max: 59m is shorter than 1h"), "{refused:?}");
    assert!(judged[0].in_force.is_none(), "a rejected new one holds");
}

#[test]
fn every_kind_of_value_comes_through() {
    let spec = json!({
        "signerName": "podmint.dev/a", "trustDomain": "prod.example.org", "suspend": true, "keyTypes": ["ED25519"],
        "allow": [{"name": "all", "namespaces": ["*"], "serviceAccounts": ["*"]}],
        "lifetime": {"max": "90m", "refreshAt": [0.5, 0.66]}, "authority": null,
    });
    let (judged, _) = judged(vec![object("a", 0, spec)], &InForce::new());
    let signer = judged[0].in_force.as_ref().unwrap();
    assert!(signer.suspend && signer.allow.len() == 1 && signer.lifetime.refresh_to_permille == 660, "{signer:?}");
}

#[test]
fn a_wrong_change_keeps_the_last_good_spec() {
    let (_, before) = judged(vec![object("a", 0, good("a", "a-ca"))], &InForce::new());
    let wrong = with(good("a", "a-ca"), "trustDomain", json!("Prod"));
    let (after, in_force) = judged(vec![object("a", 0, wrong)], &before);
    assert_eq!(names(&after), [("a", Some("a"), Some("SpecRefused"))]);
    assert!(Arc::ptr_eq(&in_force["uid-a"], &before["uid-a"]));
    let another = with(good("a", "a-ca"), "suspend", json!(true));
    let (after, in_force) = judged(vec![object("a", 0, another)], &in_force);
    assert_eq!(names(&after), [("a", Some("a"), None)]);
    assert!(in_force["uid-a"].suspend);
}

#[test]
fn what_did_not_change_is_not_taken_for_a_change() {
    let (_, before) = judged(vec![object("a", 0, good("a", "a-ca"))], &InForce::new());
    let (_, after) = judged(vec![object("a", 0, good("a", "a-ca"))], &before);
    assert!(Arc::ptr_eq(&before["uid-a"], &after["uid-a"]));
}

#[test]
fn of_two_with_one_signer_name_the_older_wins_for_every_replica() {
    let (old, new) = (object("z", 0, good("a", "z-ca")), object("b", 1, good("a", "b-ca")));
    let expected = [("z", Some("a"), None), ("b", None, Some("Conflict"))];
    let (fresh, _) = judged(vec![new.clone(), old.clone()], &InForce::new());
    assert_eq!(names(&fresh), expected);
    let words = &fresh[1].refused.as_ref().unwrap().message;
    assert!(words.starts_with("PodSigner z has signerName podmint.dev/a, too"), "{words}");
    // A replica that knew the younger one alone says the same as one that starts now.
    let (_, before) = judged(vec![new.clone()], &InForce::new());
    let (after, _) = judged(vec![new, old], &before);
    assert_eq!(names(&after), expected);
}

#[test]
fn a_secret_stays_with_the_one_that_has_it() {
    let both = |older: Value| vec![object("old", 0, older), object("new", 1, good("new", "new-ca"))];
    let (first, before) = judged(both(good("old", "old-ca")), &InForce::new());
    assert_eq!(names(&first), [("old", Some("old"), None), ("new", Some("new"), None)]);
    let (after, in_force) = judged(both(good("old", "new-ca")), &before);
    assert_eq!(names(&after), [("old", Some("old"), Some("Conflict")), ("new", Some("new"), None)]);
    assert_eq!(in_force["uid-old"].authority.secret_name.as_str(), "old-ca");
    let (fresh, _) = judged(both(good("old", "new-ca")), &InForce::new());
    assert_eq!(names(&fresh), [("old", Some("old"), None), ("new", None, Some("Conflict"))]);
}

#[test]
fn a_foreign_domain_is_refused_and_told_what_to_write() {
    let spec = with(good("a", "a-ca"), "signerName", json!("other.org/a"));
    let (judged, _) = judged(vec![object("a", 0, spec)], &InForce::new());
    let refused = judged[0].refused.as_ref().unwrap();
    assert!(judged[0].in_force.is_none() && refused.message.contains("write podmint.dev/a"), "{refused:?}");
}

#[test]
fn what_is_being_deleted_is_gone_and_leaves_its_name_to_the_next() {
    let mut old = object("old", 0, good("a", "a-ca"));
    let new = object("new", 1, good("a", "b-ca"));
    old.metadata.deletion_timestamp = Some(jiff::Timestamp::UNIX_EPOCH);
    let (judged, _) = judged(vec![old, new], &InForce::new());
    assert_eq!(names(&judged), [("new", Some("a"), None)]);
}

#[test]
fn a_status_of_another_version_does_not_hide_the_object() {
    let mut value =
        serde_json::to_value(json!({"metadata": {"name": "a", "uid": "u", "resourceVersion": "1"}})).unwrap();
    value["status"] = json!({"conditions": "none"});
    let object: Object = serde_json::from_value(value).unwrap();
    assert_eq!(object.status, PodSignerStatus::default());
    let (judged, _) = judged(vec![object], &InForce::new());
    assert!(judged[0].refused.as_ref().unwrap().message.contains("spec is missing"));
}

#[test]
fn what_is_asked_of_the_ca_counts_whatever_is_wrong_with_the_spec() {
    let asking = |spec: Value| {
        let mut object = object("a", 0, spec);
        object.metadata.annotations.insert("podmint.dev/pause-rotation".to_owned(), "true".to_owned());
        object
    };
    let (_, before) = judged(vec![object("a", 0, good("a", "a-ca"))], &InForce::new());
    let wrong = with(good("a", "a-ca"), "suspend", json!("perhaps"));
    let (refused, after) = judged(vec![asking(wrong.clone())], &before);
    assert!(refused[0].refused.is_some());
    let signer = refused[0].in_force.as_ref().unwrap();
    assert!(signer.wish.as_ref().unwrap().is_paused && !before["uid-a"].wish.as_ref().unwrap().is_paused);
    let (again, _) = judged(vec![asking(wrong)], &after);
    assert!(Arc::ptr_eq(again[0].in_force.as_ref().unwrap(), signer), "the very same is no change");
}
