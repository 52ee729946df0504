//! PodSigner objects, while the signer runs: added, changed, suspended, wrong, two of a name, of another domain, deleted. They are
//! objects of the whole cluster, so each signer here has a cluster to itself.

use podmint_signer::config::{Config, Domains};
use podmint_tests::install::{self, PODSIGNERS};
use podmint_tests::server::Settings;
use podmint_tests::signer::{MINUTE, Signer};
use podmint_tests::stage::{Request, Said};
use podmint_tests::until::{never, until};
use podmint_tests::{Bed, Stage, bare, call};
use serde_json::{Value, json};

#[test]
fn on_devcluster() {
    podmint_tests::run(async { every_scene(&Bed::over(bare()).await).await });
}

#[test]
fn on_the_newest_kubernetes() {
    podmint_tests::run(async {
        let bed = Bed::own(Settings::of("1.37.2")).await;
        install::crd(&bed).await;
        the_schema_refuses_what_the_signer_refuses(&bed).await;
        every_scene(&bed).await;
    });
}

async fn every_scene(bed: &Bed) {
    signers_come_change_and_go_without_a_restart(bed).await;
    a_wrong_change_keeps_the_last_good_spec(bed).await;
    of_two_with_one_name_the_older_wins(bed).await;
    a_name_outside_the_domain_is_refused_and_the_others_go_on(bed).await;
}

async fn signers_come_change_and_go_without_a_restart(bed: &Bed) {
    let stage = Stage::open(bed, "live").await;
    let signer = stage.a_signer().from_objects().start().await.ready().await;
    let pod = stage.any_pod().await;
    let early = stage.request_for(&pod).make().await;
    is_not_answered(&stage, &early).await;

    let object = add(&stage, &document(&stage)).await;
    stage.issued(&early).await;
    let roots = stage.published_roots().await;
    let status = says(&stage, &object, "Issuing").await;
    for (kind, value) in [
        ("Ready", "True"),
        ("AuthorityReady", "True"),
        ("TrustPublished", "True"),
        ("RotationInProgress", "False"),
        ("Degraded", "False"),
    ] {
        let condition = condition(&status, kind);
        assert_eq!(
            (&condition["status"], &condition["observedGeneration"]),
            (&json!(value), &json!(1)),
            "{kind}: {status}"
        );
    }
    let generations = status["authority"]["generations"].as_array().unwrap();
    let phases: Vec<&str> = generations.iter().filter_map(|one| one["phase"].as_str()).collect();
    assert_eq!(
        (phases.as_slice(), &status["authority"]["number"]),
        (["issuing", "root"].as_slice(), &json!(1)),
        "{status}"
    );
    assert!(status["authority"]["next"]["at"].as_str() < status["authority"]["usableUntil"].as_str(), "{status}");

    change(&stage, &object, json!({"suspend": true})).await;
    says(&stage, &object, "Suspended").await;
    let held = stage.request_for(&pod).make().await;
    signer.says("hold", "suspended").await;
    is_not_answered(&stage, &held).await;
    change(&stage, &object, json!({"suspend": false})).await;
    stage.issued(&held).await;

    change(&stage, &object, json!({"allow": []})).await;
    // PodSigners and requests come by watches of their own.
    says(&stage, &object, "Issuing").await;
    let not_admitted = stage.request_for(&pod).make().await;
    signer.says("hold", "not_admitted").await;
    change(&stage, &object, json!({"allow": document(&stage)["spec"]["allow"]})).await;
    stage.issued(&not_admitted).await;
    let status = says(&stage, &object, "Issuing").await;
    assert_eq!(status["observedGeneration"], 5, "{status}");

    remove(&stage, &object).await;
    until_dismissed(&signer).await;
    let orphan = stage.request_for(&pod).make().await;
    is_not_answered(&stage, &orphan).await;
    assert_eq!(stage.published_roots().await, roots, "certificates that live are still trusted");
    call::get(&stage.admin, &stage.core("secrets/podmint-ca")).await.expect("the CA is still there");

    let object = add(&stage, &object).await;
    stage.issued(&orphan).await;
    assert_eq!(stage.published_roots().await, roots, "it goes on with its CA");
    remove(&stage, &object).await;
    signer.stop().await;
}

async fn a_wrong_change_keeps_the_last_good_spec(bed: &Bed) {
    let stage = Stage::open(bed, "wrong").await;
    let signer = stage.a_signer().from_objects().start().await.ready().await;
    let object = add(&stage, &document(&stage)).await;
    let pod = stage.any_pod().await;
    stage.issued(&stage.request_for(&pod).make().await).await;
    let other = add(&stage, &named(document(&stage), "other", "other-ca")).await;
    until("the other one is in force", async || {
        read(&stage, &other).await["status"]["state"].as_str().filter(|state| *state != "Refused").map(drop)
    })
    .await;

    let others = json!({"selfManaged": {"secretName": "other-ca"}});
    change(&stage, &object, json!({"authority": others, "suspend": true})).await;
    let status = says(&stage, &object, "Issuing, degraded").await;
    let degraded = condition(&status, "Degraded");
    assert_eq!((&degraded["reason"], &degraded["observedGeneration"]), (&json!("Conflict"), &json!(2)), "{status}");
    let words = degraded["message"].as_str().unwrap();
    assert!(words.contains("keeps its CA in the Secret other-ca, too") && words.contains("last good"), "{words}");
    stage.issued(&stage.request_for(&pod).make().await).await;
    told(&stage, &object, "Conflict").await;

    let own = json!({"selfManaged": {"secretName": "podmint-ca"}});
    change(&stage, &object, json!({"authority": own, "suspend": false})).await;
    says(&stage, &object, "Issuing").await;
    remove(&stage, &object).await;
    remove(&stage, &other).await;
    signer.stop().await;
}

async fn of_two_with_one_name_the_older_wins(bed: &Bed) {
    let stage = Stage::open(bed, "twice").await;
    let older = add(&stage, &document(&stage)).await;
    let mut younger = named(document(&stage), "younger", "podmint-ca");
    younger["spec"]["signerName"] = json!(stage.signer_name);
    younger["spec"]["allow"] = json!([]);
    // Creation times are whole seconds.
    until("the next second", async || {
        add(&stage, &younger).await;
        let later = read(&stage, &younger).await["metadata"]["creationTimestamp"].clone();
        if later.as_str() > older["metadata"]["creationTimestamp"].as_str() {
            return Some(());
        }
        remove(&stage, &younger).await;
        None
    })
    .await;
    let signer = stage.a_signer().from_objects().start().await.ready().await;
    says(&stage, &older, "Issuing").await;
    let status = says(&stage, &younger, "Refused").await;
    let words = condition(&status, "Ready")["message"].as_str().unwrap();
    assert!(words.contains(&format!("PodSigner {} has signerName", stage.namespace)), "{words}");
    let pod = stage.any_pod().await;
    stage.issued(&stage.request_for(&pod).make().await).await;

    remove(&stage, &older).await;
    says(&stage, &younger, "Issuing").await;
    stage.request_for(&pod).make().await;
    signer.says("hold", "not_admitted").await;
    remove(&stage, &younger).await;
    signer.stop().await;
}

async fn a_name_outside_the_domain_is_refused_and_the_others_go_on(bed: &Bed) {
    let stage = Stage::open(bed, "foreign").await;
    let mut foreign = named(document(&stage), "foreign", "foreign-ca");
    foreign["spec"]["signerName"] = json!("mint.example.org/workload");
    let foreign = add(&stage, &foreign).await;
    let object = add(&stage, &document(&stage)).await;
    let signer = stage.a_signer().from_objects().start().await.ready().await;
    let status = says(&stage, &foreign, "Refused").await;
    let ready = condition(&status, "Ready");
    assert!(ready["message"].as_str().unwrap().contains("not the signer domain of this installation"), "{status}");
    told(&stage, &foreign, "SpecRefused").await;
    let pod = stage.any_pod().await;
    stage.issued(&stage.request_for(&pod).make().await).await;
    remove(&stage, &foreign).await;
    remove(&stage, &object).await;
    signer.stop().await;
}

/// Each is a slip that the API server refuses at once, and that the signer would refuse in a file, too.
async fn the_schema_refuses_what_the_signer_refuses(bed: &Bed) {
    let stage = Stage::open(bed, "schema").await;
    let good = document(&stage);
    let slips = [
        ("/spec/signerName", json!("podmint.dev")),
        ("/spec/signerName", json!("podmint.dev/a/b")),
        ("/spec/signerName", json!("x.kubernetes.io/a")),
        ("/spec/signerName", json!("kubernetes.io/a")),
        ("/spec/trustDomain", json!("spiffe://a")),
        ("/spec/trustDomain", json!("")),
        ("/spec/trustDomain", json!("a..b")),
        ("/spec/suspend", json!("yes")),
        ("/spec/allow/0/name", json!("")),
        ("/spec/allow/0/namespaces", json!([])),
        ("/spec/allow/0/namespaces", json!(["Shop"])),
        ("/spec/allow/0/serviceAccounts", json!([""])),
        ("/spec/allow", json!([good["spec"]["allow"][0], good["spec"]["allow"][0]])),
        ("/spec/keyTypes", json!([])),
        ("/spec/keyTypes", json!(["ED448"])),
        ("/spec/keyTypes", json!(["ED25519", "ED25519"])),
        ("/spec/lifetime", json!({"max": "59m"})),
        ("/spec/lifetime", json!({"max": "14d1s"})),
        ("/spec/lifetime", json!({"max": "1.5h"})),
        ("/spec/lifetime", json!({"max": "99999999999999999d"})),
        ("/spec/lifetime", json!({"max": 24})),
        ("/spec/lifetime", json!({"refreshAt": [0.1, 0.5]})),
        ("/spec/lifetime", json!({"refreshAt": [0.6, 0.4]})),
        ("/spec/lifetime", json!({"refreshAt": [0.4]})),
        ("/spec/authority", json!({"selfManaged": {"secretName": "a", "rootSecretName": "a"}})),
        ("/spec/authority", json!({"selfManaged": {"secretName": "A"}})),
        ("/spec/authority", json!({"selfManaged": {}, "secret": {"name": "my-ca"}})),
        ("/spec/authority", json!({"secret": {"name": "my-ca"}, "files": {"directory": "/run/ca"}})),
        ("/spec/authority", json!({"secret": {}})),
        ("/spec/authority", json!({"secret": {"name": "podmint-ca"}})),
        ("/spec/authority", json!({"secret": {"name": "a", "secretName": "b", "rootSecretName": "a"}})),
        ("/spec/authority", json!({"secret": {"name": "a", "secretName": "b", "rootSecretName": "b"}})),
        ("/spec/authority", json!({"files": {"directory": "run/ca"}})),
        ("/spec/authority", json!({"files": {"directory": "/run/ca", "secretName": "b", "rootSecretName": "b"}})),
    ];
    let domains = Domains::parse("podmint.dev", "cluster.local").unwrap();
    for (place, wrong) in slips {
        let mut object = good.clone();
        object["spec"]["keyTypes"] = json!(["ED25519"]);
        for field in ["suspend", "lifetime", "authority"] {
            object["spec"][field] = json!(null);
        }
        *object.pointer_mut(place).unwrap() = wrong.clone();
        let refused = call::post(&stage.admin, PODSIGNERS, &object).await;
        assert_eq!(refused.as_ref().map_err(|refused| refused.code).err(), Some(422), "{place} {wrong}: {refused:?}");
        assert!(Config::parse(&object.to_string(), &domains).is_err(), "{place} {wrong}");
    }

    for life in ["1h", "14d", "13d24h", "1d2h3m4s", "90m"] {
        let mut object = good.clone();
        object["spec"]["lifetime"] = json!({"max": life});
        let made = add(&stage, &object).await;
        assert_eq!(made["spec"]["lifetime"], json!({"max": life, "refreshAt": [0.4, 0.6]}));
        assert_eq!(made["spec"].get("authority"), None, "one way can be written in place of the other");
        assert_eq!(made["spec"]["keyTypes"].as_array().unwrap().len(), 6);
        let renamed = json!({"spec": {"signerName": "podmint.dev/renamed"}});
        let refused = call::patch(&stage.admin, &path(&made), &renamed).await.expect_err("signerName never changes");
        assert!(refused.code == 422 && refused.message.contains("make another PodSigner"), "{refused}");
        remove(&stage, &made).await;
    }
    a_line_for_kubectl_tells_the_state(&stage).await;
}

/// What `kubectl get podsigners` prints.
async fn a_line_for_kubectl_tells_the_state(stage: &Stage) {
    let columns: Vec<Value> =
        install::shipped_crd()["spec"]["versions"][0]["additionalPrinterColumns"].as_array().unwrap().clone();
    let shown = columns.iter().filter(|column| column["priority"].as_i64().unwrap_or(0) == 0);
    let names: Vec<&str> = shown.filter_map(|column| column["name"].as_str()).collect();
    assert_eq!(names, ["Signer", "State", "CA usable until", "Age"], "of {}", stage.namespace);
}

/// The story's PodSigner, under a name of its own.
fn document(stage: &Stage) -> Value {
    let mut object = stage.a_signer().object();
    object["metadata"]["name"] = json!(stage.namespace);
    object
}

async fn add(stage: &Stage, object: &Value) -> Value {
    let metadata = json!({"name": object["metadata"]["name"]});
    let object =
        json!({"apiVersion": object["apiVersion"], "kind": "PodSigner", "metadata": metadata, "spec": object["spec"]});
    call::post(&stage.admin, PODSIGNERS, &object).await.unwrap_or_else(|why| panic!("{object}: {why}"))
}

async fn change(stage: &Stage, object: &Value, spec: Value) {
    call::patch(&stage.admin, &path(object), &json!({"spec": spec}))
        .await
        .unwrap_or_else(|why| panic!("{spec}: {why}"));
}

async fn remove(stage: &Stage, object: &Value) {
    call::delete(&stage.admin, &path(object)).await.unwrap();
}

async fn read(stage: &Stage, object: &Value) -> Value {
    call::get(&stage.admin, &path(object)).await.unwrap()
}

fn path(object: &Value) -> String {
    format!("{PODSIGNERS}/{}", object["metadata"]["name"].as_str().unwrap())
}

/// The same with a name, a signer name and Secrets of its own.
fn named(mut object: Value, name: &str, secret: &str) -> Value {
    let own = format!("{}-{name}", object["metadata"]["name"].as_str().unwrap());
    object["spec"]["signerName"] = json!(format!("podmint.dev/{own}"));
    object["metadata"]["name"] = json!(own);
    object["spec"]["authority"] = json!({"selfManaged": {"secretName": secret}});
    object
}

/// Waits until its status says so of its newest spec.
async fn says(stage: &Stage, object: &Value, state: &str) -> Value {
    let mut last = Value::Null;
    until(format!("{} says {state}", path(object)), async || {
        let now = read(stage, object).await;
        last = now["status"].clone();
        (last["state"] == state && last["observedGeneration"] == now["metadata"]["generation"]).then_some(last.clone())
    })
    .await
}

fn condition<'s>(status: &'s Value, kind: &str) -> &'s Value {
    let conditions = status["conditions"].as_array().unwrap();
    conditions.iter().find(|condition| condition["type"] == kind).unwrap_or_else(|| panic!("no {kind}: {status}"))
}

/// An Event about it, in the namespace where those of cluster-wide objects are.
async fn told(stage: &Stage, object: &Value, reason: &str) {
    until(format!("an Event says {reason}"), async || {
        let list = call::get(&stage.admin, "/api/v1/namespaces/default/events").await.ok()?;
        let events = list["items"].as_array()?.clone();
        let uid = &object["metadata"]["uid"];
        events.into_iter().find(|event| event["involvedObject"]["uid"] == *uid && event["reason"] == reason)
    })
    .await;
}

async fn is_not_answered(stage: &Stage, request: &Request) {
    never("it is answered", MINUTE, async || Said::of(&stage.read(request).await?).map(|said| format!("{said:?}")))
        .await;
}

/// Nothing but its own metrics shows that a signer has let go of a name: it watches no requests of it.
async fn until_dismissed(signer: &Signer) {
    until("no CA is kept", async || {
        signer.metric("podmint_signer_ca_usable_until_timestamp_seconds", &[]).await.is_infinite().then_some(())
    })
    .await;
}
