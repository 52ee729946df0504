//! Against a server of a hundred lines: what goes out when objects come, change, are wrong, and cannot be read.

use serde_json::json;

use super::*;
use crate::{
    cluster::fake::{Fake, Instead, busy, refusal},
    health::Health,
    pipeline::honest::domains,
};

fn object(name: &str, suspend: &Value) -> Value {
    json!({
        "metadata": {"name": name, "uid": format!("uid-{name}"), "resourceVersion": "1"},
        "spec": {
            "signerName": format!("podmint.dev/{name}"), "trustDomain": "a.example", "suspend": suspend,
            "authority": {"selfManaged": {"secretName": format!("{name}-ca")}},
        },
    })
}

/// Lists what `items` holds; its watch ends when told so.
fn serving(fake: &Fake, items: &Arc<std::sync::Mutex<Vec<Value>>>) {
    let items = Arc::clone(items);
    fake.instead(move |_, path, _| {
        if path.contains("watch=true") {
            return Some(Instead::Lines(vec![json!({"type": "MODIFIED"}).to_string()], true));
        }
        let items = items.lock().unwrap().clone();
        Some(Instead::Json(200, json!({"metadata": {"resourceVersion": "5"}, "items": items})))
    });
}

fn started(fake: &Fake, metrics: &Metrics) -> (watch::Receiver<Config>, watch::Receiver<Judgement>) {
    let token = Health::new().token("PodSigners listed");
    let podsigners = PodSigners::new(fake.calls(), domains(), metrics.clone(), Pace::compressed(1000), token);
    let both = (podsigners.config(), podsigners.judgement());
    tokio::spawn(podsigners.run());
    both
}

async fn until(config: &mut watch::Receiver<Config>, holds: impl Fn(&Config) -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), config.wait_for(|config| holds(config))).await;
    drop(waited.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn objects_that_come_change_and_go_are_in_force_at_once() {
    let (fake, items) = (Fake::new(), Arc::new(std::sync::Mutex::new(vec![object("a", &json!(false))])));
    serving(&fake, &items);
    let (mut config, judgement) = started(&fake, &Metrics::new());
    until(&mut config, |config| config.signers().len() == 1).await;
    items.lock().unwrap().push(object("b", &json!(false)));
    until(&mut config, |config| config.signers().len() == 2).await;
    items.lock().unwrap()[1] = object("b", &json!(true));
    until(&mut config, |config| config.signers().iter().any(|signer| signer.suspend)).await;
    items.lock().unwrap()[1] = object("b", &json!("perhaps"));
    let mut judged = judgement.clone();
    drop(judged.wait_for(|judged| judged.iter().any(|one| one.refused.is_some())).await.unwrap());
    assert!(config.borrow().signers().iter().any(|signer| signer.suspend), "the last good one stays");
    items.lock().unwrap().remove(0);
    until(&mut config, |config| config.signers().len() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_in_force_stays_while_nothing_can_be_read() {
    let (fake, items, metrics) =
        (Fake::new(), Arc::new(std::sync::Mutex::new(vec![object("a", &json!(false))])), Metrics::new());
    serving(&fake, &items);
    let (mut config, _) = started(&fake, &metrics);
    until(&mut config, |config| config.signers().len() == 1).await;
    fake.instead(|_, _, _| {
        let (code, status) = refusal(503, "ServiceUnavailable", "");
        Some(Instead::Json(code, status))
    });
    let heard = fake.count("GET");
    while fake.count("GET") < heard.saturating_add(5) {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(config.borrow().signers().len(), 1);
    assert!(!metrics.text().unwrap().contains("watch_restarts_total{cause=\"error\"} 0"));
}

#[tokio::test(start_paused = true)]
async fn an_object_that_cannot_be_read_does_not_hide_the_others() {
    let items = Arc::new(std::sync::Mutex::new(vec![json!({"metadata": {"name": 7}}), object("a", &json!(false))]));
    let (fake, metrics) = (Fake::new(), Metrics::new());
    serving(&fake, &items);
    let (mut config, _) = started(&fake, &metrics);
    until(&mut config, |config| config.signers().len() == 1).await;
    assert!(!metrics.text().unwrap().contains("malformed_objects_total 0"));
}

#[tokio::test(start_paused = true)]
async fn list_and_watch_wait_for_as_long_as_the_api_server_asks() {
    let (fake, mut calls) = (Fake::new(), 0..);
    fake.instead(move |_, _, _| match calls.next() {
        Some(1) => Some(Instead::Json(200, json!({"metadata": {"resourceVersion": "5"}}))),
        _ => Some(busy(30)),
    });
    let _held = started(&fake, &Metrics::new());
    let made = async |millis| {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        fake.count("GET")
    };
    assert_eq!(made(29_900).await, 1);
    assert_eq!(made(1_000).await, 3, "list and watch");
    assert_eq!(made(29_000).await, 3);
    assert_eq!(made(1_000).await, 4);
}
