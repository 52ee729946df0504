use serde_json::{Value, json};

use super::*;
use crate::{
    cluster::fake::Instead,
    pipeline::{
        Hold, KeyType,
        honest::{TestKey, object, request, request_with},
    },
};

/// One that is told its news by hand.
fn standby(scene: &walk::tests::Scene) -> Controller {
    let ((_, news), (_, standing)) = (mpsc::channel(1), watch::channel(Standing::behind()));
    Controller::new(Arc::clone(&scene.parts), Health::new(), news, standing, watch::Sender::new(true))
}

/// As on a standby that has not walked it, and has not heard yet that it is answered.
#[tokio::test(start_paused = true)]
async fn who_was_seen_first_has_the_key_although_nobody_has_looked_at_him() {
    let scene = walk::tests::scene().await;
    let mut controller = standby(&scene);
    let mut first = request();
    first["metadata"]["name"] = "first".into();
    first["metadata"]["uid"] = "another-request".into();
    first["metadata"]["resourceVersion"] = "4710".into();
    first["spec"]["podUID"] = "another-pod".into();
    controller.hear(0, News::Seen(1, Version::V1, Box::new(object(first))));
    assert_eq!(scene.hold().await, Hold::KeyOnAnotherPod);
    controller.hear(0, News::Gone(RequestUid::parse("another-request").unwrap()));
    assert!(matches!(scene.walk().await, Ended::Answered), "it is the only one now");
}

/// What befalls one request that nobody foresaw holds up no other; it is tried again.
#[tokio::test(start_paused = true)]
async fn a_walk_that_panics_is_set_aside_and_the_rest_go_on() {
    let scene = walk::tests::scene().await;
    let path = |kind: &str, name: &str| format!("{kind}/namespaces/shop/{name}");
    let requests = "/apis/certificates.k8s.io/v1";
    let mut unlucky = request_with(&TestKey::new(KeyType::EcdsaP256));
    for (place, value) in [
        ("/metadata/name", "unlucky"),
        ("/metadata/uid", "uid-of-unlucky"),
        ("/spec/podName", "cart-1"),
        ("/spec/podUID", "uid-of-cart-1"),
    ] {
        *unlucky.pointer_mut(place).unwrap() = value.into();
    }
    let mut pod = scene.fake.get(&path("/api/v1", "pods/cart-0")).unwrap();
    pod["metadata"]["name"] = "cart-1".into();
    pod["metadata"]["uid"] = "uid-of-cart-1".into();
    scene.fake.put(&path("/api/v1", "pods/cart-1"), pod);
    scene.fake.put(&path(requests, "podcertificaterequests/unlucky"), unlucky.clone());
    scene.fake.instead(|_, path, _| path.contains("/pods/cart-1").then_some(Instead::Panic));
    let is_issued = |name: &str| {
        let request = scene.fake.get(&path(requests, &format!("podcertificaterequests/{name}"))).unwrap();
        request["status"]["conditions"][0]["type"] == "Issued"
    };

    let ((news, heard), standing) = (mpsc::channel(3), watch::Sender::new(Standing::First { until: None }));
    let parts = Arc::clone(&scene.parts);
    let controller = Controller::new(parts, Health::new(), heard, standing.subscribe(), watch::Sender::new(true));
    let stop = CancellationToken::new();
    let running = tokio::spawn(controller.run(stop.clone()));
    for object in [object(unlucky), object(request())] {
        news.send((0, News::Seen(1, Version::V1, Box::new(object)))).await.unwrap();
    }
    news.send((0, News::Listed(1))).await.unwrap();
    tokio::time::sleep(scene.parts.pace.of(PANICKED.first) / 4).await;
    assert!(is_issued("req-x7k2p") && !is_issued("unlucky"));
    assert_eq!(scene.parts.metrics.panics.get(), 1, "it is not tried again at once");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let waiting = scene.parts.metrics.text().unwrap();
    assert!(waiting.contains("podmint_signer_waiting{reason=\"panic\"} 1"), "{waiting}");
    assert!(waiting.contains("podmint_signer_live_requests 2"), "{waiting}");
    scene.fake.instead(|_, _, _| None);
    tokio::time::sleep(scene.parts.pace.of(PANICKED.longest)).await;
    assert!(is_issued("unlucky"));
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn why_a_pod_waits_is_told_by_whoever_was_first_last() {
    let unrenewed = Standing::First { until: Some(Instant::now()) };
    for (standing, is_told) in [(unrenewed, true), (Standing::behind(), false)] {
        let scene = walk::tests::scene().await;
        let ((news, heard), standing) = (mpsc::channel(2), watch::Sender::new(standing));
        let parts = Arc::clone(&scene.parts);
        let controller = Controller::new(parts, Health::new(), heard, standing.subscribe(), watch::Sender::new(true));
        let stop = CancellationToken::new();
        let running = tokio::spawn(controller.run(stop.clone()));
        scene.put_on_hold();
        news.send((0, News::Seen(1, Version::V1, Box::new(object(request()))))).await.unwrap();
        news.send((0, News::Listed(1))).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
        running.await.unwrap();
        assert_eq!(scene.left_notices() > 0, is_told);
    }
}

/// A request in flight, on a walk that was begun for the signer of this number.
fn launch(controller: &mut Controller, signer: usize) -> (Id, RequestUid) {
    controller.hear(0, News::Seen(1, Version::V1, Box::new(object(request()))));
    let uid = controller.queue.take(Duration::ZERO, Instant::now()).unwrap();
    let id = tokio::spawn(async {}).id();
    controller.flying.insert(id, (uid.clone(), signer));
    (id, uid)
}

fn walked(ended: Ended) -> Walked {
    Walked { ended, took: Duration::ZERO, overload: None }
}

/// Ours, whose reply was lost, and so was that of the look after it; or another's.
#[tokio::test(start_paused = true)]
async fn what_was_seen_answered_while_its_walk_failed_is_not_walked_again() {
    let scene = walk::tests::scene().await;
    for is_answered in [false, true] {
        let mut controller = standby(&scene);
        let (id, _) = launch(&mut controller, 0);
        if is_answered {
            let mut answered = request();
            answered["status"] = json!({"conditions": [{"type": "Denied", "status": "True"}]});
            controller.hear(0, News::Seen(1, Version::V1, Box::new(object(answered))));
        }
        controller.land(Ok((id, walked(Ended::Faulted))));
        assert_eq!(controller.queue.len(), usize::from(!is_answered));
    }
}

/// Its PodSigner was taken up anew: the same request is on its way once more.
#[tokio::test(start_paused = true)]
async fn a_walk_by_an_older_number_of_its_signer_says_nothing_of_the_next_one() {
    let scene = walk::tests::scene().await;
    for older in [false, true] {
        let mut controller = standby(&scene);
        let (id, _) = launch(&mut controller, usize::from(older));
        controller.land(Ok((id, walked(Ended::Gone))));
        assert_eq!(controller.queue.len(), usize::from(older));
        assert!(controller.flying.is_empty());
    }
}

/// What was answered while we heard nothing looks as if the first were silent; he is not passed by for that.
#[tokio::test(start_paused = true)]
async fn who_hears_nothing_calls_nobody_silent() {
    let scene = walk::tests::scene().await;
    let mut controller = standby(&scene);
    let is_silent = |controller: &Controller| controller.is_silent(Instant::now());
    controller.hear(0, News::Open);
    tokio::time::advance(SILENCE).await;
    assert!(is_silent(&controller));
    controller.hear(0, News::Deaf);
    tokio::time::advance(SILENCE * 9).await;
    assert!(!is_silent(&controller));
    controller.hear(0, News::Open);
    assert!(!is_silent(&controller), "who has only just answered is heard in a moment");
    tokio::time::advance(SILENCE).await;
    assert!(is_silent(&controller));
}

/// His answers that only take long come before the one that would show that he is gone.
#[tokio::test(start_paused = true)]
async fn who_is_heard_while_it_is_tried_whether_he_is_gone_is_not_stood_in_for() {
    for (is_heard, has_answered) in [(false, true), (true, true), (false, false)] {
        let scene = walk::tests::scene().await;
        scene.stand_behind();
        let (standing, silence) = (scene.turn.standing.subscribe(), scene.parts.pace.of(SILENCE));
        let ((_, news), parts) = (mpsc::channel(1), Arc::clone(&scene.parts));
        let mut controller = Controller::new(parts, Health::new(), news, standing.clone(), watch::Sender::new(true));
        let turn = tokio::spawn(scene.turn.run());
        tokio::time::sleep(silence).await;
        let uid = RequestUid::parse("the-oldest").unwrap();
        controller.progress.trial = Some((uid.clone(), Instant::now()));
        if is_heard {
            controller.parts.desk.beaten();
        }
        tokio::time::sleep(silence).await;
        controller.judge_trial(&uid, has_answered);
        assert!(controller.progress.trial.is_none(), "the next is tried");
        tokio::time::sleep(silence).await;
        assert_eq!(standing.borrow().was_first(), has_answered && !is_heard);
        turn.abort();
    }
}

/// A flood is turned away where there is still room for others; what it lost is asked for when half of the rest are gone, and once.
#[tokio::test(start_paused = true)]
async fn what_was_turned_away_is_asked_for_once_there_is_room() {
    let scene = walk::tests::scene().await;
    let mut controller = standby(&scene);
    let mut room = controller.room.subscribe();
    let name = |number: usize| format!("request-{number}");
    let one = |namespace: &str, number: usize| {
        let mut one = request();
        one["metadata"]["namespace"] = namespace.into();
        one["metadata"]["uid"] = name(number).into();
        one["metadata"]["name"] = name(number).into();
        News::Seen(1, Version::V1, Box::new(object(one)))
    };
    (0..=MOST_KEPT).for_each(|number| controller.hear(0, one("shop", number)));
    let kept = controller.queue.len();
    assert_eq!(kept, MOST_KEPT * 2 / 3 + 1);
    assert!(room.has_changed().unwrap() && !*room.borrow_and_update());
    controller.tick();
    let text = scene.parts.metrics.text().unwrap();
    for (metric, value) in [("queue{state=\"turned_away\"}", MOST_KEPT + 1 - kept), ("live_requests", MOST_KEPT + 1)] {
        assert!(text.contains(&format!("podmint_signer_{metric} {value}\n")), "{text}");
    }
    controller.hear(0, one("bank", MOST_KEPT + 1));
    assert_eq!(controller.queue.len(), kept + 1, "nobody else is turned away for it");
    let mut asked = Vec::new();
    for number in 0..kept {
        controller.hear(0, News::Gone(RequestUid::parse(&name(number)).unwrap()));
        controller.tick();
        if room.has_changed().unwrap() {
            assert!(*room.borrow_and_update());
            asked.push(controller.queue.len());
        }
    }
    assert_eq!(asked, [kept / 2]);
}

/// A page of a listing that began a while ago shows what was answered or deleted since as it was then.
#[tokio::test(start_paused = true)]
async fn what_is_shown_again_is_looked_at_if_it_still_waits() {
    let scene = walk::tests::scene().await;
    let mut controller = standby(&scene);
    let one = |name: &str, status: Value| {
        let mut one = request();
        one["metadata"]["uid"] = name.into();
        one["status"] = status;
        Box::new(object(one))
    };
    let denied = json!({"conditions": [{"type": "Denied", "status": "True", "reason": "No", "message": ""}]});
    controller.hear(0, News::Seen(1, Version::V1, one("answered", Value::Null)));
    controller.hear(0, News::Seen(1, Version::V1, one("answered", denied)));
    controller.hear(0, News::Seen(1, Version::V1, one("gone", Value::Null)));
    controller.hear(0, News::Gone(RequestUid::parse("gone").unwrap()));
    controller.hear(0, News::Seen(1, Version::V1, one("kept", Value::Null)));
    controller.hear(0, News::Seen(1, Version::V1, one("waits", Value::Null)));
    controller.drop_from_queue(&RequestUid::parse("waits").unwrap()).unwrap();
    assert_eq!(controller.queue.len(), 1);
    for name in ["answered", "gone", "kept", "never-seen"] {
        controller.hear(0, News::Again(1, Version::V1, one(name, Value::Null)));
        assert_eq!(controller.queue.len(), 1, "{name}");
    }
    controller.hear(0, News::Again(1, Version::V1, one("waits", Value::Null)));
    assert_eq!(controller.queue.len(), 2);
}
