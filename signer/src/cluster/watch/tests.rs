use std::sync::atomic::{AtomicUsize, Ordering};

use http::Method;
use serde_json::{Value, json};

use super::*;
use crate::cluster::fake::{Fake, Instead, busy};

fn request(name: &str, version: u32) -> Value {
    json!({
        "metadata": {"namespace": "shop", "name": name, "uid": format!("uid-{name}"), "resourceVersion": version.to_string()},
        "spec": {"signerName": "podmint.dev/workload", "podName": name},
    })
}

fn event(kind: &str, object: &Value) -> String {
    json!({"type": kind, "object": object}).to_string()
}

fn page(version: &str, items: &[Value], next: &str) -> Instead {
    Instead::Json(200, json!({"metadata": {"resourceVersion": version, "continue": next}, "items": items}))
}

/// A server whose streams and lists are what `answer` says, by the number of the call; it has discovery.
async fn watch(
    answer: impl Fn(bool, usize, &str) -> Instead + Send + 'static,
) -> (mpsc::Receiver<(usize, News)>, Metrics, Fake) {
    watch_over(|_| page("99", &[], "more"), answer).await
}

/// Such a server that says how far its etcd has come, by the number of the call.
async fn watch_over(
    newest: impl Fn(usize) -> Instead + Send + 'static,
    answer: impl Fn(bool, usize, &str) -> Instead + Send + 'static,
) -> (mpsc::Receiver<(usize, News)>, Metrics, Fake) {
    watch_with(watch::Sender::new(true).subscribe(), newest, answer).await
}

async fn watch_with(
    room: watch::Receiver<bool>,
    newest: impl Fn(usize) -> Instead + Send + 'static,
    answer: impl Fn(bool, usize, &str) -> Instead + Send + 'static,
) -> (mpsc::Receiver<(usize, News)>, Metrics, Fake) {
    let fake = Fake::new();
    let (lists, streams, asked) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    fake.instead(move |method, path, _| {
        assert_eq!(method, Method::GET);
        match path {
            "/apis/certificates.k8s.io/v1" => Some(Instead::Json(200, json!({"resources": [{"name": REQUESTS}]}))),
            "/apis/certificates.k8s.io/v1beta1" => None,
            path if path.ends_with("&limit=1") => Some(newest(asked.fetch_add(1, Ordering::SeqCst))),
            path if path.contains("watch=true") => Some(answer(true, streams.fetch_add(1, Ordering::SeqCst), path)),
            path => Some(answer(false, lists.fetch_add(1, Ordering::SeqCst), path)),
        }
    });
    let (metrics, pace) = (Metrics::new(), Pace::compressed(1000));
    let versions = Versions::new(fake.calls(), pace);
    versions.discover().await.unwrap();
    let (out, news) = mpsc::channel(16);
    let signer = SignerName::parse("podmint.dev/workload").unwrap();
    let watch = Watch { calls: fake.calls(), versions, signer, number: 3, out, room, metrics: metrics.clone(), pace };
    tokio::spawn(watch.run());
    (news, metrics, fake)
}

async fn next(news: &mut mpsc::Receiver<(usize, News)>) -> String {
    loop {
        let told = next_of_all(news).await;
        if !["open", "deaf"].contains(&&*told) {
            return told;
        }
    }
}

async fn next_of_all(news: &mut mpsc::Receiver<(usize, News)>) -> String {
    let (number, told) = tokio::time::timeout(Duration::from_secs(5), news.recv()).await.unwrap().unwrap();
    assert_eq!(number, 3);
    match told {
        News::Seen(round, _, object) => format!("{round} {}", object.target().unwrap().name),
        News::Again(round, _, object) => format!("{round} {} again", object.target().unwrap().name),
        News::Gone(uid) => format!("gone {uid}"),
        News::Listed(round) => format!("listed {round}"),
        News::Open => "open".to_owned(),
        News::Deaf => "deaf".to_owned(),
    }
}

async fn expect(news: &mut mpsc::Receiver<(usize, News)>, all: &[&str]) {
    for expected in all {
        assert_eq!(next(news).await, *expected);
    }
}

#[tokio::test(start_paused = true)]
async fn pages_are_listed_then_events_are_followed() {
    let (mut news, _, fake) = watch(|stream, number, _| match (stream, number) {
        (false, 0) => page("5", &[request("a", 1)], "more"),
        (false, _) => page("7", &[request("b", 2)], ""),
        (true, 0) => {
            let bookmark = json!({"metadata": {"resourceVersion": "11"}});
            let lines =
                [event("ADDED", &request("c", 8)), event("DELETED", &request("a", 9)), event("BOOKMARK", &bookmark)];
            Instead::Lines(lines.into(), false)
        }
        (true, _) => Instead::Lines(vec![event("MODIFIED", &request("d", 12))], true),
    })
    .await;
    expect(&mut news, &["1 a", "1 b", "listed 1", "1 c", "gone uid-a", "1 d"]).await;
    let heard = fake.heard.lock().unwrap().join("\n");
    assert!(heard.contains("fieldSelector=spec.signerName%3Dpodmint.dev%2Fworkload"));
    assert!(
        heard.contains("continue=more") && heard.contains("resourceVersion=7") && heard.contains("resourceVersion=11")
    );
}

/// As under a storm of errors: it comes to its end all the same, and what is seen later is not taken for what is gone.
#[tokio::test(start_paused = true)]
async fn a_listing_that_breaks_off_goes_on_at_the_page_that_failed() {
    let (mut news, _, fake) = watch(|stream, number, path| match (stream, number) {
        (true, _) => Instead::Lines(Vec::new(), true),
        (false, _) if number % 2 == 1 => Instead::Json(503, json!({"code": 503})),
        (false, _) if path.ends_with("continue=") => page("5", &[request("a", 1)], "two"),
        (false, _) if path.ends_with("continue=two") => page("5", &[request("b", 2)], "three"),
        (false, _) => page("5", &[request("c", 3)], ""),
    })
    .await;
    expect(&mut news, &["1 a", "1 b", "1 c", "listed 1"]).await;
    let heard = fake.heard.lock().unwrap().clone();
    assert_eq!(heard.iter().filter(|call| call.ends_with("limit=500&continue=")).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_cannot_go_on_begins_anew() {
    // etcd has forgotten it, the page fails whatever the reason, or the version is not served any more.
    for (code, reason, tries) in [(410, "Expired", 1), (500, "InternalError", 5), (404, "", 1)] {
        let (mut news, _, fake) = watch(move |stream, number, path| match (stream, number) {
            (true, _) => Instead::Lines(Vec::new(), true),
            (false, 0) => page("5", &[request("a", 1)], "two"),
            (false, _) if path.ends_with("continue=two") => {
                Instead::Json(code, json!({"code": code, "reason": reason, "details": {}}))
            }
            (false, _) => page("7", &[request("b", 2)], ""),
        })
        .await;
        expect(&mut news, &["1 a", "2 b", "listed 2"]).await;
        let heard = fake.heard.lock().unwrap().clone();
        assert_eq!(heard.iter().filter(|call| call.ends_with("continue=two")).count(), tries, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_says_when_it_does_not_hear_and_when_again_and_not_that_it_still_does() {
    let (mut news, _, _) = watch(|stream, number, _| match (stream, number) {
        (false, _) => page("5", &[], ""),
        // Over, as every one in the end; and then cut off.
        (true, 0) => Instead::Lines(vec![event("ADDED", &request("a", 8))], false),
        (true, 1) => Instead::Lines(vec![event("ERROR", &json!({"code": 500}))], true),
        (true, _) => Instead::Lines(vec![event("ADDED", &request("b", 9))], true),
    })
    .await;
    for expected in ["listed 1", "open", "1 a", "deaf", "open", "1 b"] {
        assert_eq!(next_of_all(&mut news).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_watch_lists_again_whichever_way_it_is_told() {
    let (mut news, metrics, _) = watch(|stream, number, _| match (stream, number) {
        (false, _) => page("5", &[], ""),
        (true, 0) => Instead::Json(410, json!({"code": 410, "reason": "Expired"})),
        (true, 1) => Instead::Lines(vec![event("ERROR", &json!({"code": 410, "reason": "Expired"}))], true),
        (true, _) => Instead::Lines(Vec::new(), true),
    })
    .await;
    expect(&mut news, &["listed 1", "listed 2", "listed 3"]).await;
    assert!(metrics.text().unwrap().contains("watch_restarts_total{cause=\"expired\"} 2"));
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_is_an_older_one_is_listed_at_once() {
    for (newest, round) in [("10", "listed 2"), ("11", "1 b"), ("12", "1 b"), ("9z", "1 b")] {
        let newest_of = move |_| page(newest, &[], "more");
        let (mut news, metrics, _) = watch_over(newest_of, |stream, number, _| match (stream, number) {
            (false, 0) => page("5", &[], ""),
            (false, _) => page("3", &[], ""),
            (true, 0) => Instead::Lines(vec![event("ADDED", &request("a", 11))], false),
            (true, _) => Instead::Lines(vec![event("ADDED", &request("b", 12))], true),
        })
        .await;
        expect(&mut news, &["listed 1", "1 a", round]).await;
        let is_told = metrics.text().unwrap().contains("watch_restarts_total{cause=\"rolled_back\"} 1");
        assert_eq!(is_told, newest == "10", "{newest}");
    }
}

/// The API server is away and comes back with an older etcd: a watch would be silent, and so is not begun before it has been asked.
#[tokio::test(start_paused = true)]
async fn nothing_is_watched_before_it_is_known_how_far_etcd_has_come() {
    let newest = |number| match number {
        0 | 1 => Instead::Json(503, json!({"code": 503})),
        _ => page("10", &[], "more"),
    };
    let (mut news, _, fake) = watch_over(newest, |stream, number, _| match (stream, number) {
        (false, 0) => page("5", &[], ""),
        (false, _) => page("3", &[request("b", 3)], ""),
        (true, 0) => Instead::Lines(vec![event("ADDED", &request("a", 11))], false),
        (true, _) => Instead::Lines(Vec::new(), true),
    })
    .await;
    expect(&mut news, &["listed 1", "1 a", "2 b", "listed 2"]).await;
    let heard = fake.heard.lock().unwrap().clone();
    let calls = heard.iter().filter(|call| call.contains(REQUESTS)).map(|call| match () {
        () if call.contains("watch=true") => "watch",
        () if call.ends_with("&limit=1") => "ask",
        () => "list",
    });
    assert_eq!(calls.collect::<Vec<_>>()[..6], ["list", "watch", "ask", "ask", "ask", "list"]);
}

/// As of a proxy that answers for an API server that is not there.
#[tokio::test(start_paused = true)]
async fn streams_that_end_at_once_and_bring_nothing_are_opened_less_and_less_often() {
    let (mut news, metrics, fake) = watch(|stream, number, _| match stream {
        false => page("5", &[], ""),
        true => {
            assert!(number < 1_000, "it never waits");
            Instead::Lines(Vec::new(), false)
        }
    })
    .await;
    expect(&mut news, &["listed 1"]).await;
    tokio::spawn(async move { while news.recv().await.is_some() {} });
    tokio::time::sleep(Pace::compressed(1000).of(Duration::from_mins(1))).await;
    let opened = fake.count_of("watch=true");
    assert!((3..=20).contains(&opened), "{opened} times in a minute");
    assert!(metrics.text().unwrap().contains("watch_restarts_total{cause=\"error\"}"));
}

#[tokio::test(start_paused = true)]
async fn a_malformed_object_is_skipped_and_counted_and_half_a_line_ends_a_stream() {
    let (mut news, metrics, _) = watch(|stream, number, _| match (stream, number) {
        (false, _) => page("5", &[json!("no object"), json!({"spec": 7}), request("a", 1)], ""),
        (true, 0) => {
            let garbage =
                ["{]", "{\"type\":\"ADDED\",\"object\":42}", "{\"type\":\"NEWS\",\"object\":{}}", "{\"type\":\"ADD"];
            let mut lines: Vec<String> = garbage.map(str::to_owned).into();
            lines.insert(3, event("ADDED", &request("b", 2)));
            Instead::Lines(lines, false)
        }
        (true, _) => Instead::Lines(vec![event("ADDED", &request("c", 3))], true),
    })
    .await;
    expect(&mut news, &["1 a", "listed 1", "1 b", "1 c"]).await;
    assert!(metrics.text().unwrap().contains("malformed_objects_total 5"), "{}", metrics.text().unwrap());
}

#[tokio::test(start_paused = true)]
async fn requests_for_other_signers_are_left_alone_even_if_the_server_shows_them() {
    let mut other = request("other", 1);
    other["spec"]["signerName"] = "example.org/other".into();
    let (mut news, _, _) = watch(move |stream, _, _| match stream {
        false => page("5", &[other.clone(), request("ours", 1)], ""),
        true => Instead::Lines(Vec::new(), true),
    })
    .await;
    expect(&mut news, &["1 ours", "listed 1"]).await;
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_gone_is_discovered_again() {
    let (mut news, _, fake) = watch(|stream, number, _| match (stream, number) {
        (false, 0) => Instead::Json(404, json!({"code": 404, "details": {}})),
        (false, _) => page("5", &[], ""),
        (true, _) => Instead::Lines(Vec::new(), true),
    })
    .await;
    expect(&mut news, &["listed 2"]).await;
    assert_eq!(fake.count("GET /apis/certificates.k8s.io/v1beta1"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_is_too_long_is_asked_for_in_smaller_pieces() {
    let (mut news, _, fake) = watch(|stream, _, path| match stream {
        false if path.contains("limit=500") => {
            page("5", &vec![json!("x".repeat(1 << 20)); super::super::calls::REPLY_LIMIT >> 20], "")
        }
        false => page("5", &[request("a", 1)], ""),
        true => Instead::Lines(Vec::new(), true),
    })
    .await;
    expect(&mut news, &["1 a", "listed 1"]).await;
    assert!(fake.heard.lock().unwrap().join("\n").contains("limit=62"));
}

/// A listing of very many is still on its way when half of those it showed first are answered.
#[tokio::test(start_paused = true)]
async fn what_was_turned_away_while_a_listing_was_under_way_is_shown_once_more_after_it() {
    let room = watch::Sender::new(true);
    let (asked, there) = (room.subscribe(), |_| page("99", &[], "more"));
    let (mut news, metrics, _) = watch_with(asked, there, move |stream, number, _| match (stream, number) {
        (true, _) => Instead::Lines(Vec::new(), true),
        (false, 0) => {
            room.send_replace(false);
            room.send_replace(true);
            page("5", &[request("a", 1)], "")
        }
        (false, 1) => page("7", &[request("b", 2)], "more"),
        (false, _) => page("7", &[request("c", 2)], ""),
    })
    .await;
    expect(&mut news, &["1 a", "listed 1", "1 b again", "1 c again"]).await;
    let told = tokio::time::timeout(Duration::from_secs(1), next(&mut news)).await;
    assert!(told.is_err(), "it is shown once: {told:?}");
    assert!(!metrics.text().unwrap().contains("watch_restarts_total{cause=\"error\"} 1"));
}

/// Where the room ends again, the page that may have come too soon is shown again when there is some; and all from the beginning once the
/// last was shown. What happens meanwhile is heard.
#[tokio::test(start_paused = true)]
async fn what_is_turned_away_is_shown_for_as_long_as_there_is_room() {
    let room = watch::Sender::new(true);
    let (asked, there, turns_away) = (room.subscribe(), |_| page("99", &[], "more"), room.clone());
    let (mut news, _, _) = watch_with(asked, there, move |stream, number, path| {
        let name = match (stream, path.rsplit("continue=").next().unwrap_or_default()) {
            (true, _) => return Instead::Lines(vec![event("ADDED", &request("new", 8))], true),
            (false, "") => "a",
            (false, "second") => {
                // The one before the third of its kind leaves no room.
                if number == 4 {
                    turns_away.send_replace(false);
                }
                "b"
            }
            (false, _) => "c",
        };
        let next = match name {
            "a" => "second",
            "b" => "third",
            _ => "",
        };
        page("5", &[request(name, 1)], next)
    })
    .await;
    expect(&mut news, &["1 a", "1 b", "1 c", "listed 1", "1 new"]).await;
    room.send_replace(false);
    let told = tokio::time::timeout(Duration::from_secs(1), next(&mut news)).await;
    assert!(told.is_err(), "there is no room: {told:?}");
    room.send_replace(true);
    expect(&mut news, &["1 a again", "1 b again"]).await;
    let told = tokio::time::timeout(Duration::from_secs(1), next(&mut news)).await;
    assert!(told.is_err(), "there is none any more: {told:?}");
    room.send_replace(true);
    expect(&mut news, &["1 b again", "1 c again", "1 a again", "1 b again", "1 c again"]).await;
    let told = tokio::time::timeout(Duration::from_secs(1), next(&mut news)).await;
    assert!(told.is_err(), "all were shown since: {told:?}");
}

/// A page that cannot be read costs a pause, and not the watch beside it; one that never can is given up, as in a first listing.
#[tokio::test(start_paused = true)]
async fn a_page_that_fails_when_it_is_shown_again_leaves_the_watch_alone() {
    let cases: [(_, _, _, &[&str]); 3] = [
        (429, "TooManyRequests", 2, &["1 b again", "1 c again"]),
        (429, "TooManyRequests", 5, &["1 b again", "1 b again", "1 c again"]),
        (410, "Expired", 1, &["1 b again", "1 b again", "1 c again"]),
    ];
    for (code, reason, failures, shown) in cases {
        let room = watch::Sender::new(true);
        let (asked, there) = (room.subscribe(), |_| page("99", &[], "more"));
        let left = AtomicUsize::new(failures);
        let (mut news, metrics, fake) = watch_with(asked, there, move |stream, number, path| match (stream, number) {
            (true, _) => Instead::Lines(vec![event("ADDED", &request("new", 8))], true),
            (false, 0) => page("5", &[request("a", 1)], ""),
            (false, _) if path.ends_with("continue=") => page("7", &[request("b", 2)], "two"),
            (false, _) => match left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)) {
                Ok(_) => Instead::Json(code, json!({"code": code, "reason": reason, "details": {}})),
                Err(_) => page("7", &[request("c", 3)], ""),
            },
        })
        .await;
        expect(&mut news, &["1 a", "listed 1", "1 new"]).await;
        room.send_replace(false);
        room.send_replace(true);
        for expected in shown {
            assert_eq!(next_of_all(&mut news).await, *expected);
        }
        let told = tokio::time::timeout(Duration::from_secs(1), next_of_all(&mut news)).await;
        assert!(told.is_err(), "the watch is as it was: {told:?}");
        let text = metrics.text().unwrap();
        let restarts = text.lines().filter(|line| line.contains("watch_restarts_total{") && !line.ends_with(" 0"));
        assert_eq!(restarts.collect::<Vec<_>>(), [""; 0]);
        let heard = fake.heard.lock().unwrap().clone();
        assert_eq!(heard.iter().filter(|call| call.contains("watch=true")).count(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn lists_and_watches_wait_for_as_long_as_the_api_server_asks() {
    let room = watch::Sender::new(true);
    let (asked, there) = (room.subscribe(), |_| page("99", &[], "more"));
    let (_news, _, fake) = watch_with(asked, there, |stream, number, _| match (stream, number) {
        (_, 0) | (false, 2) => busy(30),
        (true, _) => Instead::Lines(Vec::new(), true),
        (false, _) => page("5", &[], ""),
    })
    .await;
    let made = async |millis| {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        (fake.count_of("limit=500"), fake.count_of("watch=true"))
    };
    assert_eq!(made(29_900).await, (1, 0));
    assert_eq!(made(1_000).await, (2, 1));
    assert_eq!(made(29_000).await, (2, 1));
    assert_eq!(made(1_000).await, (2, 2));
    room.send_replace(false);
    room.send_replace(true);
    assert_eq!(made(29_900).await, (3, 2), "what was turned away");
    assert_eq!(made(1_000).await, (4, 2));
}
