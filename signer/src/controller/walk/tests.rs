//! Whole walks against the little API server of the unit tests.

use http::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    audit::{Log, Sink},
    cluster::{
        events::Writer,
        fake::{Fake, Instead, refusal},
        keeper::Authority,
        lease::{Standing, Turn},
        versions::REQUESTS,
    },
    names::Sha256,
    pipeline::honest::{POD_UID, issuer, object, request, signer},
    roster::Member,
};

const REQUEST: &str = "/apis/certificates.k8s.io/v1/namespaces/shop/podcertificaterequests/req-x7k2p";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/podmint-system/leases/podmint-signer";
const POD: &str = "/api/v1/namespaces/shop/pods/cart-0";

pub(in crate::controller) struct Scene {
    pub(in crate::controller) fake: Fake,
    pub(in crate::controller) parts: Arc<Parts>,
    audit: Arc<Mutex<Vec<Value>>>,
    guard: watch::Sender<GuardState>,
    authority: watch::Sender<Authority>,
    notices: Writer,
    pub(in crate::controller) turn: Turn,
}

/// A request that is issued, if nothing is changed.
pub(in crate::controller) async fn scene() -> Scene {
    let audit = Arc::default();
    scene_with(Sink::Memory(Arc::clone(&audit)), audit).await
}

async fn scene_with(sink: Sink, audit: Arc<Mutex<Vec<Value>>>) -> Scene {
    let fake = Fake::new();
    let source = json!({"podCertificate": {
        "signerName": "podmint.dev/workload", "keyType": "ECDSAP256", "maxExpirationSeconds": 43_200,
    }});
    fake.put("/apis/certificates.k8s.io/v1", json!({"resources": [{"name": REQUESTS}]}));
    fake.put(REQUEST, request());
    fake.put(
        POD,
        json!({
            "metadata": {"name": "cart-0", "namespace": "shop", "uid": POD_UID},
            "spec": {
                "nodeName": "node-a", "serviceAccountName": "cart", "containers": [],
                "volumes": [{"name": "v", "projected": {"sources": [source]}}],
            },
            "status": {"phase": "Pending"},
        }),
    );
    let uid = |uid: &str| json!({"metadata": {"uid": uid}});
    fake.put("/api/v1/namespaces/shop/serviceaccounts/cart", uid("c0ffee00-1111-4222-8333-444455556666"));
    fake.put("/api/v1/nodes/node-a", uid("0ddba11e-7777-4888-9999-aaaabbbbcccc"));

    let (calls, metrics, pace) = (fake.calls(), Metrics::new(), Pace::compressed(1000));
    let versions = Versions::new(calls.clone(), pace);
    versions.discover().await.unwrap();
    let issuer = issuer();
    let roots = Some(Arc::from(issuer.generation().trust_bundle()));
    let authority = watch::Sender::new(Authority { issuer: Ok(Arc::new(issuer)), roots, view: None, trouble: None });
    let roster = Roster::new();
    roster.add(0, Member::new(watch::Sender::new(signer()), authority.subscribe(), None).0);
    let guard = watch::Sender::new(GuardState::InForce);
    let (notices, writer) = Notices::new(calls.clone(), "one".to_owned(), metrics.clone(), pace);
    let standing = watch::Sender::new(Standing::First { until: None });
    let (turn, desk) = Turn::new(calls.clone(), "podmint-system", "one", pace, standing, CancellationToken::new());
    let parts = Arc::new(Parts {
        lookup: Lookup::new(calls.clone(), "podmint-system"),
        services: SeenServices::new(),
        calls,
        versions,
        roster,
        authority_changes: watch::Sender::new(()),
        guard: guard.subscribe(),
        clerk: Clerk::new(Log::open(sink).unwrap(), "one"),
        notices,
        metrics,
        pace,
        desk,
        live: Mutex::default(),
        holds: Mutex::default(),
        tracers: Mutex::default(),
    });
    Scene { fake, parts, audit, guard, authority, notices: writer, turn }
}

fn job(request: Value) -> Job {
    let object = object(request);
    Job {
        signer: 0,
        target: object.target().unwrap(),
        version: Version::V1,
        object: Some(Arc::new(object)),
        since: Instant::now(),
        reason: "",
        right: Right::First,
    }
}

impl Scene {
    pub(in crate::controller) async fn walk(&self) -> Ended {
        self.walk_again("").await
    }

    /// As when it comes back for this reason.
    async fn walk_again(&self, reason: &'static str) -> Ended {
        walk(Arc::clone(&self.parts), Job { reason, ..job(request()) }).await.ended
    }

    /// As when the first has passed it over.
    async fn walk_in_place_of_the_first(&self) -> Ended {
        walk(Arc::clone(&self.parts), Job { right: Right::PassedOver, ..job(request()) }).await.ended
    }

    pub(in crate::controller) async fn hold(&self) -> Hold {
        match self.walk().await {
            Ended::Held { hold, .. } => hold,
            Ended::Answered | Ended::Lost | Ended::Gone | Ended::Left | Ended::Faulted => panic!("not held"),
        }
    }

    fn puts(&self) -> usize {
        self.fake.count("PUT")
    }

    /// The request's ServiceAccount; and an entry that holds nobody.
    pub(in crate::controller) fn put_on_hold(&self) {
        let entry = "{kind: serviceaccount, namespace: shop, name: cart, reason: leaked}";
        self.fake.put(HOLDS, json!({"metadata": {"name": "podmint-holds"}, "data": {"a": entry, "b": "nonsense"}}));
    }

    /// Events that somebody would write.
    pub(in crate::controller) fn left_notices(&self) -> usize {
        self.notices.waiting()
    }

    fn metric(&self, line: &str) -> bool {
        self.parts.metrics.text().unwrap().lines().any(|shown| shown == format!("podmint_signer_{line}"))
    }

    fn outcomes(&self) -> Vec<String> {
        let word = |record: &Value| record["outcome"].as_str().unwrap_or(record["event"].as_str().unwrap()).to_owned();
        self.audit.lock().unwrap().iter().map(word).collect()
    }

    /// Another replica holds the Lease, and we know it.
    pub(in crate::controller) fn stand_behind(&self) {
        let spec = json!({"holderIdentity": "two", "leaseTransitions": 1});
        self.fake.put(LEASE, json!({"metadata": {"name": "podmint-signer", "resourceVersion": "1"}, "spec": spec}));
        self.turn.standing.send_replace(Standing::behind());
    }

    /// The first PUT is answered so, whatever happens to it.
    fn first_put(&self, mut meanwhile: impl FnMut(&Fake, &Value) + Send + 'static, code: u16, status: Value) {
        let (fake, mut done) = (self.fake.clone(), false);
        self.fake.instead(move |method, _, body| {
            if *method != Method::PUT || std::mem::replace(&mut done, true) {
                return None;
            }
            meanwhile(&fake, body);
            Some(Instead::Json(code, status.clone()))
        });
    }
}

#[tokio::test(start_paused = true)]
async fn an_honest_request_is_recorded_and_answered_with_one_put() {
    let scene = scene().await;
    assert!(matches!(scene.walk().await, Ended::Answered));
    assert_eq!((scene.puts(), scene.outcomes()), (1, vec!["issuing".to_owned(), "published".to_owned()]));
    let status = scene.fake.get(REQUEST).unwrap()["status"].clone();
    let records = scene.audit.lock().unwrap().clone();
    assert_eq!(status["conditions"][0]["type"], "Issued");
    assert!(status["conditions"][0]["message"].as_str().unwrap().contains(records[0]["serial"].as_str().unwrap()));
    assert_eq!(records[0]["pod"]["uid"], POD_UID);
    assert!(scene.metric("answers_total{answer=\"issue\",reason=\"issued\"} 1"));
    assert!(scene.metric("ignored_csr_content_total 0"), "there is none");
    // The walk again: nothing is published twice.
    assert!(matches!(scene.walk().await, Ended::Lost));
    assert_eq!(scene.fake.get(REQUEST).unwrap()["status"], status);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_recorded_is_not_published() {
    let scene = scene_with(Sink::File("/dev/full".into()), Arc::default()).await;
    assert_eq!((scene.hold().await, scene.puts()), (Hold::AuditUnwritable, 0));
    assert!(scene.metric("audit_failures_total 1"));
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_lags_refuses_nobody() {
    let scene = scene().await;
    scene.fake.instead(|_, path, _| {
        let (code, status) = refusal(404, "NotFound", "cart-0");
        path.ends_with("cart-0?resourceVersion=0").then_some(Instead::Json(code, status))
    });
    assert!(matches!(scene.walk().await, Ended::Answered));
    scene.fake.remove(POD);
    scene.fake.put(REQUEST, request());
    assert_eq!(scene.hold().await, Hold::PodNotFound);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_is_walked_again_from_a_fresh_read() {
    let scene = scene().await;
    let touched = |fake: &Fake, _: &Value| {
        let mut changed = request();
        changed["metadata"]["resourceVersion"] = "4712".into();
        fake.put(REQUEST, changed);
    };
    scene.first_put(touched, 409, json!({"code": 409, "reason": "Conflict", "details": {"name": "req-x7k2p"}}));
    assert!(matches!(scene.walk().await, Ended::Answered));
    assert_eq!(scene.outcomes(), ["issuing", "withdrawn", "issuing", "published"]);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_request_and_its_namesake_are_left_alone() {
    let scene = scene().await;
    scene.first_put(|fake, _| fake.remove(REQUEST), 404, refusal(404, "NotFound", "req-x7k2p").1);
    assert!(matches!(scene.walk().await, Ended::Gone));
    let scene = self::scene().await;
    let namesake = |fake: &Fake, _: &Value| {
        let mut other = request();
        other["metadata"]["uid"] = "another".into();
        fake.put(REQUEST, other);
    };
    scene.first_put(namesake, 409, refusal(409, "Conflict", "req-x7k2p").1);
    assert!(matches!(scene.walk().await, Ended::Gone));
    assert_eq!(scene.fake.get(REQUEST).unwrap().get("status"), None);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_is_looked_up_and_ours_is_fine() {
    let scene = scene().await;
    let lands = |fake: &Fake, body: &Value| {
        let mut written = request();
        written["status"] = body["status"].clone();
        fake.put(REQUEST, written);
    };
    scene.first_put(lands, 504, json!({"code": 504, "message": "etcd is slow"}));
    assert!(matches!(scene.walk().await, Ended::Answered));
    assert_eq!((scene.puts(), scene.outcomes()), (1, vec!["issuing".to_owned(), "published".to_owned()]));
    // When it did not land, it is our fault and is tried again later.
    let scene = self::scene().await;
    scene.first_put(|_, _| {}, 504, json!({"code": 504}));
    assert!(matches!(scene.walk().await, Ended::Faulted));
    assert!(matches!(scene.walk().await, Ended::Answered));
}

#[tokio::test(start_paused = true)]
async fn a_lost_race_is_no_rejected_write() {
    let scene = scene().await;
    let cause = json!({"field": "status", "message": "Invalid value: immutable after PodCertificateRequest is issued, denied, or failed"});
    scene.first_put(
        |_, _| {},
        422,
        json!({"code": 422, "reason": "Invalid", "details": {"name": "r", "causes": [cause]}}),
    );
    assert!(matches!(scene.walk().await, Ended::Lost));
    assert!(scene.metric("lost_races_total 1") && scene.metric("rejected_writes_total{cause=\"invalid\"} 0"));
}

#[tokio::test(start_paused = true)]
async fn a_missing_right_to_sign_and_a_rejected_status_are_counted_apart() {
    let scene = scene().await;
    let sign = json!({"reason": "FieldValueForbidden", "field": "spec.signerName", "message": "Forbidden: …"});
    scene.first_put(|_, _| {}, 422, json!({"code": 422, "details": {"name": "r", "causes": [sign]}}));
    assert!(matches!(scene.walk().await, Ended::Faulted));
    assert!(scene.metric("rejected_writes_total{cause=\"lacks_sign\"} 1"));
    let other = json!({"field": "status.notBefore", "message": "Invalid value: …"});
    scene.first_put(|_, _| {}, 422, json!({"code": 422, "details": {"name": "r", "causes": [other]}}));
    assert!(matches!(scene.walk().await, Ended::Faulted));
    assert!(scene.metric("rejected_writes_total{cause=\"invalid\"} 1"));
    assert_eq!(scene.outcomes(), ["issuing", "rejected", "issuing", "rejected"]);
}

#[tokio::test(start_paused = true)]
async fn without_guard_or_published_trust_nothing_is_written_not_even_recorded() {
    let scene = scene().await;
    scene.guard.send_replace(GuardState::Unbound);
    assert_eq!(scene.hold().await, Hold::GuardMissing);
    scene.guard.send_replace(GuardState::OtherText);
    scene.authority.send_replace(Authority {
        issuer: Err(Hold::TrustNotPublished),
        roots: None,
        view: None,
        trouble: None,
    });
    assert_eq!(scene.hold().await, Hold::TrustNotPublished);
    assert_eq!((scene.puts(), scene.outcomes().len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_key_of_another_pods_live_request_gets_nothing() {
    let scene = scene().await;
    let claim = Claim::parse(&object(request()), Version::V1).unwrap();
    let other = crate::names::RequestUid::parse("other").unwrap();
    let pod = PodUid::parse("other").unwrap();
    let key = claim.key.hash();
    assert!(scene.parts.live().claim(0, Asks { key: &key, request: &other, pod: &pod, place: 0 }));
    assert_eq!(scene.hold().await, Hold::KeyOnAnotherPod);
    assert!(scene.metric("shared_keys_total 1"));
    scene.parts.live().forget(&other);
    assert!(matches!(scene.walk().await, Ended::Answered));
}

/// Whoever asked first by the API server's order, or has a certificate already.
#[tokio::test(start_paused = true)]
async fn a_key_that_was_seen_with_another_pod_is_whose_it_was() {
    for (version, is_issued, is_theirs) in [("4710", false, true), ("4712", false, false), ("4712", true, true)] {
        let scene = scene().await;
        let mut other = request();
        other["metadata"]["uid"] = "other".into();
        other["metadata"]["resourceVersion"] = version.into();
        other["spec"]["podUID"] = "other".into();
        if is_issued {
            other["status"] = json!({"conditions": [{"type": "Issued", "status": "True"}]});
        }
        let other = object(other);
        scene.parts.note_key(0, &other.target().unwrap(), &other);
        let is_held = matches!(scene.walk().await, Ended::Held { hold: Hold::KeyOnAnotherPod, .. });
        assert_eq!(is_held, is_theirs, "{version} {is_issued}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_contradiction_is_denied_once_it_is_read_by_quorum() {
    let scene = scene().await;
    let mut pod = scene.fake.get(POD).unwrap();
    pod["spec"]["nodeName"] = "node-b".into();
    scene.fake.put(POD, pod);
    assert!(matches!(scene.walk().await, Ended::Answered));
    assert_eq!(scene.fake.get(REQUEST).unwrap()["status"]["conditions"][0]["reason"], "WrongNode");
    assert_eq!(scene.outcomes(), ["denying", "published"]);
    let heard = scene.fake.heard.lock().unwrap().join("\n");
    assert!(heard.contains("cart-0?resourceVersion=0") && heard.contains("cart-0\n"));
    assert_eq!(scene.left_notices(), 1, "the pod's author is told");
}

#[tokio::test(start_paused = true)]
async fn the_author_of_a_pod_that_has_ended_is_not_told() {
    let scene = scene().await;
    let mut pod = scene.fake.get(POD).unwrap();
    pod["status"]["phase"] = "Succeeded".into();
    scene.fake.put(POD, pod);
    assert!(matches!(scene.walk().await, Ended::Answered));
    assert_eq!((scene.outcomes(), scene.left_notices()), (vec!["denying".to_owned(), "published".to_owned()], 0));
}

/// A write that is lost costs the API server more than a look.
#[tokio::test(start_paused = true)]
async fn who_stands_in_for_another_looks_before_he_records() {
    let scene = scene().await;
    scene.fake.remove(REQUEST);
    assert!(matches!(scene.walk_in_place_of_the_first().await, Ended::Gone));
    let mut answered = request();
    answered["status"] = json!({"conditions": [{"type": "Issued", "status": "True"}]});
    scene.fake.put(REQUEST, answered);
    assert!(matches!(scene.walk_in_place_of_the_first().await, Ended::Lost));
    assert_eq!((scene.puts(), scene.outcomes().len()), (0, 0));
    scene.fake.put(REQUEST, request());
    let looked = scene.fake.count(&format!("GET {REQUEST}"));
    assert!(matches!(scene.walk_in_place_of_the_first().await, Ended::Answered));
    assert_eq!(scene.fake.count(&format!("GET {REQUEST}")), looked + 1);
}

#[tokio::test(start_paused = true)]
async fn what_v1_does_not_show_is_read_through_v1beta1_where_that_is_served() {
    const BETA: &str = "/apis/certificates.k8s.io/v1beta1";
    let scene = scene().await;
    let mut hidden = request();
    hidden["spec"]["stubPKCS10Request"] = Value::Null;
    let hidden = || job(hidden.clone());
    let ended = walk(Arc::clone(&scene.parts), hidden()).await.ended;
    let Ended::Held { hold: Hold::KeyNotVisible, pod } = ended else { panic!("the key was not seen") };
    assert_eq!(pod.unwrap().1.as_str(), POD_UID, "its author can be told");
    scene.fake.put(BETA, json!({"resources": [{"name": REQUESTS}]}));
    scene.fake.put(&REQUEST.replace("/v1/", "/v1beta1/"), request());
    // So long nobody asks again which versions there are.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(walk(Arc::clone(&scene.parts), hidden()).await.ended, Ended::Answered));
}

#[tokio::test(start_paused = true)]
async fn a_path_that_is_gone_is_looked_for_and_what_overloads_the_api_server_is_told() {
    let (gone, busy) = (json!({"code": 404, "message": "404 page not found"}), refusal(429, "TooManyRequests", "r").1);
    for (code, status, looks, rejected) in [(404, gone, 1, 0), (429, busy, 0, 0), (400, refusal(400, "", "r").1, 0, 1)]
    {
        let scene = scene().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        scene.first_put(|_, _| {}, code, status);
        let discovery = "GET /apis/certificates.k8s.io/v1beta1";
        let before = scene.fake.count(discovery);
        let walked = walk(Arc::clone(&scene.parts), job(request())).await;
        assert!(matches!(walked.ended, Ended::Faulted), "{code}");
        assert_eq!(walked.overload.unwrap().is_overload(), code == 429);
        assert_eq!(scene.fake.count(discovery) - before, looks, "{code}");
        assert!(scene.metric(&format!("rejected_writes_total{{cause=\"other\"}} {rejected}")), "{code}");
        assert!(scene.metric("answers_total{answer=\"fault\",reason=\"write\"} 1"), "{code}");
    }
}

/// Both clocks show whole seconds, so that one of them may be no age at all.
#[tokio::test(start_paused = true)]
async fn a_request_is_as_old_as_the_api_servers_clock_says() {
    let scene = scene().await;
    let ago = |seconds: i64| {
        let now = scene.parts.calls.clock().now().unwrap().unix_timestamp();
        scene.parts.age(Some(jiff::Timestamp::from_second(now - seconds).unwrap())).as_secs()
    };
    assert_eq!((ago(10), ago(1), ago(0), ago(-5)), (9, 0, 0, 0));
    assert_eq!(scene.parts.age(None), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_another_ca_is_traced_as_foreign() {
    let scene = scene().await;
    scene.walk().await;
    let chain = scene.fake.get(REQUEST).unwrap()["status"]["certificateChain"].as_str().unwrap().to_owned();
    let uid = object(request()).target().unwrap().uid;
    assert!(scene.parts.live().knows_chain(&uid, &chain));
    assert!(matches!(scene.parts.trace(0, &chain), Some(Origin::Ours { .. })));
    let another = issuer();
    let roots = Some(Arc::from(another.generation().trust_bundle()));
    scene.authority.send_replace(Authority { issuer: Ok(Arc::new(another)), roots, view: None, trouble: None });
    assert!(matches!(scene.parts.trace(0, &chain), Some(Origin::Foreign { leaf }) if leaf != Sha256::of(b"")));
}

const HOLDS: &str = "/api/v1/namespaces/podmint-system/configmaps/podmint-holds";

/// As often as it is looked at, it is recorded once; and the next walk after its release is answered.
#[tokio::test(start_paused = true)]
async fn what_is_on_hold_is_recorded_once_and_answered_when_released() {
    let scene = scene().await;
    scene.put_on_hold();
    assert!(matches!(scene.hold().await, Hold::OnHold(by) if by.reason.as_deref() == Some("leaked")));
    assert_eq!(scene.outcomes(), ["held"]);
    assert!(matches!(scene.walk_again("on_hold").await, Ended::Held { hold: Hold::OnHold(_), .. }));
    assert_eq!((scene.puts(), scene.outcomes()), (0, vec!["held".to_owned()]));
    assert!(scene.metric("holds 1") && scene.metric("malformed_holds 1"));
    scene.fake.remove(HOLDS);
    // It may be known for so long; a walk that was held comes back later.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(scene.walk_again("on_hold").await, Ended::Answered));
}

/// Nothing is issued by a signer that cannot know who is on hold.
#[tokio::test(start_paused = true)]
async fn holds_that_cannot_be_read_hold_everybody() {
    for (code, forbidden) in [(403, true), (500, false), (503, false)] {
        let scene = scene().await;
        scene.fake.instead(move |_, path, _| {
            (path == HOLDS).then(|| Instead::Json(code, refusal(code, "", "podmint-holds").1))
        });
        match scene.walk().await {
            Ended::Held { hold, .. } => assert!(forbidden && hold == Hold::HoldsNotKnown, "{hold}"),
            Ended::Faulted => assert!(!forbidden, "{code}"),
            Ended::Answered | Ended::Lost | Ended::Gone | Ended::Left => panic!("{code}: answered"),
        }
        assert_eq!(scene.puts(), 0);
    }
}
