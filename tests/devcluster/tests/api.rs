//! The API as a client sees it: versions, watches, conflicts, selectors, deletion, trouble on demand.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "a test stops at the first surprise"
)]

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, ServiceAccount};
use kube::api::{
    Api, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams,
};
use kube::{Client, Error, ResourceExt};
use podmint_devcluster::{DevCluster, Failure, Identity, Options, Verb};
use serde_json::{Value, json};

async fn cluster() -> (DevCluster, Client) {
    let cluster = DevCluster::start(Options::default()).await.unwrap();
    let client = cluster.client(&Identity::Admin);
    (cluster, client)
}

fn config(name: &str, labels: Value) -> ConfigMap {
    serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels }, "data": { "a": "1" } })).unwrap()
}

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": name }, "spec": { "nodeName": "n1", "containers": [{ "name": "c", "image": "i" }] }
    }))
    .unwrap()
}

fn status(error: Error) -> (u16, String, String) {
    match error {
        Error::Api(status) => (status.code, status.reason.clone(), status.message.clone()),
        other => panic!("not an answer of the API: {other}"),
    }
}

async fn get(client: &Client, path: &str) -> Result<Value, Error> {
    client.request(http::Request::get(path).body(Vec::new()).unwrap()).await
}

#[tokio::test]
async fn versions_grow_over_all_kinds_and_uids_are_new() {
    let (_cluster, client) = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
    let first = maps.create(&PostParams::default(), &config("a", json!({}))).await.unwrap();
    let account = accounts.get("default").await.unwrap();
    let second = maps.create(&PostParams::default(), &config("b", json!({}))).await.unwrap();
    let version = |text: Option<String>| text.unwrap().parse::<u64>().unwrap();
    assert!(version(account.resource_version()) < version(first.resource_version()));
    assert!(version(first.resource_version()) < version(second.resource_version()));
    assert_ne!(first.uid(), second.uid());
    assert!(first.creation_timestamp().is_some());
}

#[tokio::test]
async fn a_stale_update_conflicts_and_an_equal_one_changes_nothing() {
    let (_cluster, client) = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let first = maps.create(&PostParams::default(), &config("a", json!({}))).await.unwrap();
    let same = maps.replace("a", &PostParams::default(), &first).await.unwrap();
    assert_eq!(same.resource_version(), first.resource_version());
    let mut changed = first.clone();
    changed.labels_mut().insert("x".to_owned(), "y".to_owned());
    maps.replace("a", &PostParams::default(), &changed).await.unwrap();
    let (code, reason, message) = status(maps.replace("a", &PostParams::default(), &changed).await.unwrap_err());
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert_eq!(
        message,
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest \
         version and try again"
    );
    let (code, reason, message) =
        status(maps.create(&PostParams::default(), &config("a", json!({}))).await.unwrap_err());
    assert_eq!((code, reason.as_str(), message.as_str()), (409, "AlreadyExists", "configmaps \"a\" already exists"));
}

#[tokio::test]
async fn another_uid_is_a_conflict() {
    let (_cluster, client) = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let mut map = maps.create(&PostParams::default(), &config("a", json!({}))).await.unwrap();
    map.metadata.uid = Some("other".to_owned());
    let (code, reason, message) = status(maps.replace("a", &PostParams::default(), &map).await.unwrap_err());
    assert_eq!((code, reason.as_str()), (409, "Conflict"));
    assert!(message.contains("Precondition failed: UID in precondition: other"), "{message}");
    let preconditions = Preconditions { uid: Some("other".to_owned()), resource_version: None };
    let options = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    assert_eq!(status(maps.delete("a", &options).await.unwrap_err()).0, 409);
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(
        status(maps.get("a").await.unwrap_err()),
        (404, "NotFound".to_owned(), "configmaps \"a\" not found".to_owned())
    );
}

#[tokio::test]
async fn generated_names_are_the_prefix_and_five_letters() {
    let (_cluster, client) = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let mut map = config("", json!({}));
    map.metadata.name = None;
    assert_eq!(status(maps.create(&PostParams::default(), &map).await.unwrap_err()).0, 422);
    map.metadata.generate_name = Some("req-".to_owned());
    let made = maps.create(&PostParams::default(), &map).await.unwrap();
    assert!(made.name_any().starts_with("req-") && made.name_any().len() == 9);
}

#[tokio::test]
async fn a_watch_tells_every_change_in_order() {
    let (_cluster, client) = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let before = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    let mut watch = maps.watch(&WatchParams::default(), &before).await.unwrap().boxed();
    maps.create(&PostParams::default(), &config("a", json!({}))).await.unwrap();
    let patch = json!({ "data": { "a": null, "b": "2" } });
    maps.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    maps.delete("a", &DeleteParams::default()).await.unwrap();
    let mut seen = Vec::new();
    let mut versions = vec![before.parse::<u64>().unwrap()];
    while seen.len() < 3 {
        let (kind, map) = match watch.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(map) => ("added", map),
            WatchEvent::Modified(map) => ("modified", map),
            WatchEvent::Deleted(map) => ("deleted", map),
            other => panic!("{other:?}"),
        };
        versions.push(map.resource_version().unwrap().parse().unwrap());
        seen.push((kind, map.data.unwrap().into_keys().collect::<String>()));
    }
    assert_eq!(seen, [("added", "a".to_owned()), ("modified", "b".to_owned()), ("deleted", "b".to_owned())]);
    assert!(versions.windows(2).all(|pair| pair[0] < pair[1]), "a deletion has a version of its own: {versions:?}");
}

#[tokio::test]
async fn an_object_enters_and_leaves_the_view_of_a_selector() {
    let (_cluster, client) = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let mut watch = maps.watch(&WatchParams::default().labels("on=yes"), "0").await.unwrap().boxed();
    maps.create(&PostParams::default(), &config("a", json!({ "on": "no" }))).await.unwrap();
    for (label, expected) in [("yes", "added"), ("no", "deleted")] {
        let patch = json!({ "metadata": { "labels": { "on": label } } });
        maps.patch("a", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        let seen = match watch.try_next().await.unwrap().unwrap() {
            WatchEvent::Added(_) => "added",
            WatchEvent::Deleted(_) => "deleted",
            other => panic!("{other:?}"),
        };
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn a_watch_from_a_compacted_version_gets_410() {
    let (cluster, client) = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let old = maps.create(&PostParams::default(), &config("a", json!({}))).await.unwrap().resource_version().unwrap();
    maps.create(&PostParams::default(), &config("b", json!({}))).await.unwrap();
    let mut open = maps.watch(&WatchParams::default(), &old).await.unwrap().boxed();
    assert!(matches!(open.try_next().await.unwrap().unwrap(), WatchEvent::Added(_)));
    cluster.faults().compact("configmaps");
    let mut late = maps.watch(&WatchParams::default(), &old).await.unwrap().boxed();
    match late.try_next().await.unwrap().unwrap() {
        WatchEvent::Error(status) => assert_eq!((status.code, status.reason.as_str()), (410, "Expired")),
        other => panic!("{other:?}"),
    }
    assert!(late.try_next().await.unwrap().is_none(), "and ends");
    // A watch that was under way goes on.
    maps.create(&PostParams::default(), &config("c", json!({}))).await.unwrap();
    assert!(matches!(open.try_next().await.unwrap().unwrap(), WatchEvent::Added(_)));
}

#[tokio::test]
async fn a_small_window_forgets_by_itself() {
    let cluster = DevCluster::start(Options { watch_window: 2, ..Options::default() }).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(&Identity::Admin), "default");
    let old = maps.create(&PostParams::default(), &config("a", json!({}))).await.unwrap().resource_version().unwrap();
    for name in ["b", "c", "d"] {
        maps.create(&PostParams::default(), &config(name, json!({}))).await.unwrap();
    }
    let mut late = maps.watch(&WatchParams::default(), &old).await.unwrap().boxed();
    assert!(matches!(late.try_next().await.unwrap().unwrap(), WatchEvent::Error(_)));
}

#[tokio::test]
async fn watches_get_bookmarks_and_end_in_time() {
    let options = Options { bookmark_every: Duration::from_millis(100), ..Options::default() };
    let cluster = DevCluster::start(options).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(&Identity::Admin), "default");
    let secrets: Api<Secret> = Api::namespaced(cluster.client(&Identity::Admin), "default");
    let start = maps.list(&ListParams::default()).await.unwrap().metadata.resource_version.unwrap();
    // Another kind moves the version on: a bookmark lets a quiet watch follow.
    let secret: Secret =
        serde_json::from_value(json!({ "metadata": { "name": "s" }, "stringData": { "k": "v" } })).unwrap();
    let version = secrets.create(&PostParams::default(), &secret).await.unwrap().resource_version();
    let mut watch = maps.watch(&WatchParams::default().timeout(4), &start).await.unwrap().boxed();
    match watch.try_next().await.unwrap().unwrap() {
        WatchEvent::Bookmark(bookmark) => assert_eq!(Some(bookmark.metadata.resource_version), version),
        other => panic!("{other:?}"),
    }
    let rest = tokio::time::timeout(Duration::from_secs(30), watch.try_collect::<Vec<_>>()).await.unwrap().unwrap();
    assert!(!rest.is_empty(), "more bookmarks until the end");
    let stored = secrets.get("s").await.unwrap();
    assert_eq!(stored.data.unwrap()["k"].0, b"v");
}

#[tokio::test]
async fn lists_come_in_pages_of_one_moment() {
    let (cluster, client) = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    for name in ["a", "b", "c"] {
        maps.create(&PostParams::default(), &config(name, json!({}))).await.unwrap();
    }
    let first = maps.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!((first.items.len(), first.metadata.remaining_item_count), (2, Some(1)));
    maps.delete("c", &DeleteParams::default()).await.unwrap();
    let token = first.metadata.continue_.unwrap();
    let rest = maps.list(&ListParams::default().limit(2).continue_token(&token)).await.unwrap();
    assert_eq!(rest.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["c"], "as it was");
    assert_eq!(rest.metadata.resource_version, first.metadata.resource_version);
    cluster.faults().compact("configmaps");
    let (code, reason, _) = status(maps.list(&ListParams::default().continue_token(&token)).await.unwrap_err());
    assert_eq!((code, reason.as_str()), (410, "Expired"));
}

#[tokio::test]
async fn a_cached_read_may_lag_and_a_quorum_read_does_not() {
    let (cluster, client) = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    maps.create(&PostParams::default(), &config("old", json!({}))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    cluster.faults().lag("configmaps", Duration::from_secs(3));
    maps.create(&PostParams::default(), &config("new", json!({}))).await.unwrap();
    maps.delete("old", &DeleteParams::default()).await.unwrap();
    let path = |name: &str| format!("/api/v1/namespaces/default/configmaps/{name}?resourceVersion=0");
    assert_eq!(status(get(&client, &path("new")).await.unwrap_err()).0, 404);
    assert!(get(&client, &path("old")).await.is_ok());
    assert!(maps.get("new").await.is_ok());
    let cached = maps.list(&ListParams::default().match_any()).await.unwrap();
    assert_eq!(cached.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["old"]);
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    assert!(get(&client, &path("new")).await.is_ok(), "the cache has caught up");
    assert_eq!(status(get(&client, &path("old")).await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn trouble_comes_as_often_as_it_was_ordered() {
    let (cluster, client) = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    let failure =
        Failure { verb: Some(Verb::Get), resource: "configmaps".to_owned(), code: 500, times: 2, retry_after: None };
    cluster.faults().fail(failure.clone());
    assert!(maps.list(&ListParams::default()).await.is_ok(), "another verb");
    // Not 429, 503 or 504: those the client tries again by itself.
    for expected in [500, 500, 404] {
        assert_eq!(status(maps.get("a").await.unwrap_err()).0, expected);
    }
    let faults = cluster.faults();
    assert_eq!((faults.calls(Verb::Get, "configmaps"), faults.refused("configmaps", 500)), (3, 2));
    faults.fail(Failure { code: 0, times: 1, ..failure });
    assert!(!matches!(maps.get("a").await.unwrap_err(), Error::Api(_)), "the connection is cut");
}

#[tokio::test]
async fn watches_can_be_closed_and_an_outage_keeps_what_is_stored() {
    let (cluster, client) = cluster().await;
    let maps: Api<ConfigMap> = Api::namespaced(client, "default");
    maps.create(&PostParams::default(), &config("a", json!({}))).await.unwrap();
    let mut watch = maps.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    assert!(matches!(watch.try_next().await.unwrap().unwrap(), WatchEvent::Added(_)));
    cluster.faults().close_watches("configmaps");
    assert!(watch.try_next().await.unwrap().is_none());
    cluster.go_down();
    let down = tokio::time::timeout(Duration::from_secs(5), async {
        while maps.get("a").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    down.await.unwrap();
    cluster.come_back().await.unwrap();
    assert!(maps.get("a").await.is_ok());
}

#[tokio::test]
async fn a_pod_on_a_node_leaves_in_two_steps() {
    let (_cluster, client) = cluster().await;
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let made = pods.create(&PostParams::default(), &pod("web")).await.unwrap();
    assert_eq!(made.status.unwrap().phase.as_deref(), Some("Pending"));
    assert_eq!(made.spec.unwrap().service_account_name.as_deref(), Some("default"));
    pods.delete("web", &DeleteParams::default()).await.unwrap();
    assert!(pods.get("web").await.unwrap().metadata.deletion_timestamp.is_some());
    pods.delete("web", &DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() }).await.unwrap();
    assert_eq!(status(pods.get("web").await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn status_and_the_rest_are_written_apart() {
    let (_cluster, client) = cluster().await;
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let mut web = pods.create(&PostParams::default(), &pod("web")).await.unwrap();
    web.labels_mut().insert("x".to_owned(), "y".to_owned());
    web.status.as_mut().unwrap().phase = Some("Running".to_owned());
    let by_status = pods.replace_status("web", &PostParams::default(), &web).await.unwrap();
    assert_eq!(by_status.status.as_ref().unwrap().phase.as_deref(), Some("Running"));
    assert!(by_status.labels().is_empty());
    let mut again = by_status;
    again.labels_mut().insert("x".to_owned(), "y".to_owned());
    again.status.as_mut().unwrap().phase = Some("Failed".to_owned());
    let by_main = pods.replace("web", &PostParams::default(), &again).await.unwrap();
    assert_eq!(
        (by_main.labels()["x"].as_str(), by_main.status.as_ref().unwrap().phase.as_deref()),
        ("y", Some("Running"))
    );
    let mut moved = pods.get("web").await.unwrap();
    moved.spec.as_mut().unwrap().node_name = Some("n2".to_owned());
    assert_eq!(status(pods.replace("web", &PostParams::default(), &moved).await.unwrap_err()).0, 422);
}

#[tokio::test]
async fn who_calls_matters() {
    let (cluster, admin) = cluster().await;
    let stranger: Api<Pod> = Api::namespaced(cluster.client(&Identity::User("eve".to_owned())), "default");
    let (code, _, message) = status(stranger.get("web").await.unwrap_err());
    assert_eq!(code, 403);
    assert_eq!(
        message,
        "pods \"web\" is forbidden: User \"eve\" cannot get resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let node = cluster.client(&Identity::node("n1"));
    let all: Api<Pod> = Api::all(node.clone());
    assert_eq!(status(all.list(&ListParams::default()).await.unwrap_err()).0, 403);
    assert!(all.list(&ListParams::default().fields("spec.nodeName=n1")).await.is_ok());
    assert_eq!(status(all.list(&ListParams::default().fields("spec.nodeName=n2")).await.unwrap_err()).0, 403);
    let anonymous = Client::try_from(kube::Config::new(cluster.url().parse().unwrap())).unwrap();
    assert_eq!(status(get(&anonymous, "/api/v1/pods").await.unwrap_err()).0, 401);
    assert!(get(&anonymous, "/version").await.is_ok());
    let request =
        http::Request::get("/api/v1/pods").header("Impersonate-User", "system:node:n1").body(Vec::new()).unwrap();
    assert_eq!(status(admin.request::<Value>(request).await.unwrap_err()).0, 403);
}

#[tokio::test]
async fn a_namespace_brings_its_account_and_takes_everything_along() {
    let (_cluster, client) = cluster().await;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let pods: Api<Pod> = Api::namespaced(client.clone(), "shop");
    assert_eq!(
        status(pods.create(&PostParams::default(), &pod("web")).await.unwrap_err()).2,
        "namespaces \"shop\" not found"
    );
    let shop: Namespace = serde_json::from_value(json!({ "metadata": { "name": "shop" } })).unwrap();
    namespaces.create(&PostParams::default(), &shop).await.unwrap();
    pods.create(&PostParams::default(), &pod("web")).await.unwrap();
    namespaces.delete("shop", &DeleteParams::default()).await.unwrap();
    assert_eq!(status(pods.get("web").await.unwrap_err()).0, 404);
}

#[tokio::test]
async fn an_event_has_two_faces() {
    let (_cluster, client) = cluster().await;
    let event = json!({
        "metadata": { "name": "e", "namespace": "default" }, "note": "look", "reason": "R", "type": "Warning", "action": "A",
        "regarding": { "kind": "Pod", "name": "web", "namespace": "default" }, "reportingController": "c",
    });
    let request =
        http::Request::post("/apis/events.k8s.io/v1/namespaces/default/events").body(event.to_string().into_bytes());
    client.request::<Value>(request.unwrap()).await.unwrap();
    let core = get(&client, "/api/v1/namespaces/default/events/e").await.unwrap();
    assert_eq!((core["message"].as_str(), core["involvedObject"]["name"].as_str()), (Some("look"), Some("web")));
    assert_eq!(core["note"], Value::Null);
    let newer = get(&client, "/apis/events.k8s.io/v1/namespaces/default/events/e").await.unwrap();
    assert_eq!((newer["note"].as_str(), newer["apiVersion"].as_str()), (Some("look"), Some("events.k8s.io/v1")));
}

#[tokio::test]
async fn every_answer_carries_the_servers_time() {
    let cluster = DevCluster::start(Options { clock_ahead_seconds: 3600, ..Options::default() }).await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client(&Identity::Admin), "default");
    let made = maps.create(&PostParams::default(), &config("a", json!({}))).await.unwrap();
    use std::io::{Read as _, Write as _};
    let address = cluster.url().strip_prefix("http://").unwrap().to_owned();
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text.to_lowercase()
    });
    let answer = answer.await.unwrap();
    let date = answer.lines().find_map(|line| line.strip_prefix("date: ")).unwrap().to_owned();
    let hour = made.creation_timestamp().unwrap().0.strftime("%a, %d %b %Y %H:").to_string().to_lowercase();
    assert!(date.starts_with(&hour) && date.ends_with("gmt"), "{date}");
}
