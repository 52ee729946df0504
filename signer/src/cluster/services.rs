//! The Services of the cluster, listed in pages, then watched: what tells which of them select a pod, without a call for each
//! request and without a look at any other pod. Nothing is listed until a PodSigner asks for names of Services.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use kube::client::Body;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use super::{
    calls::{CallError, Calls, stay_away},
    following::{End, Event, Left, NoEvent, RETRY, StreamError, Watched, encode, follow, next_line},
    lines::Lines,
};
use crate::{
    chain::Chain,
    health::Token,
    metrics::Metrics,
    names::{Namespace, ServiceName},
    pace::{Pace, chance},
    pipeline::{Labels, Service, Services},
};

/// What is known of the Services. All clones are one.
#[derive(Clone)]
pub(crate) struct SeenServices {
    state: Arc<RwLock<State>>,
    wanted: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    services: Services,
    /// When the API server was last heard; none before the first listing ended.
    heard: Option<Instant>,
}

/// The one who keeps them.
pub(crate) struct ServiceWatch {
    pub(crate) calls: Calls,
    pub(crate) seen: SeenServices,
    pub(crate) metrics: Metrics,
    pub(crate) pace: Pace,
    /// Held until they are listed once, where it is known from the start that somebody will ask.
    pub(crate) token: Option<Token>,
}

impl SeenServices {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), wanted: watch::Sender::new(false) }
    }

    /// From now on they are listed and watched.
    pub(crate) fn want(&self) {
        self.wanted.send_if_modified(|wanted| !std::mem::replace(wanted, true));
    }

    /// The Services that select a pod with these labels; none while they are not known, or what is known may be old.
    pub(crate) fn selecting(&self, namespace: &Namespace, labels: &Labels) -> Option<Box<[ServiceName]>> {
        self.want();
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.heard.filter(|heard| heard.elapsed() < TRUSTED)?;
        Some(state.services.selecting(namespace, labels))
    }

    fn change(&self, change: impl FnOnce(&mut Services)) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        change(&mut state.services);
        state.heard = Some(Instant::now());
    }
}

/// The Services of one namespace as they are now, for those who ask once.
pub(crate) async fn of_namespace(calls: &Calls, namespace: &Namespace) -> Result<Services, CallError> {
    let page: Page = calls.get(&format!("/api/v1/namespaces/{namespace}/services")).await?;
    let mut services = Services::default();
    let read = |item: &RawValue| serde_json::from_str::<Object>(item.get()).ok().and_then(Object::service);
    page.items.unwrap_or_default().iter().filter_map(|item| read(item)).for_each(|service| services.set(service));
    Ok(services)
}

impl ServiceWatch {
    /// For ever.
    pub(crate) async fn run(mut self) {
        drop(self.seen.wanted.subscribe().wait_for(|wanted| *wanted).await);
        let mut attempt = 0_u32;
        loop {
            let (error, retry_after) = match self.list().await {
                Ok(from) => {
                    drop(self.token.take());
                    let (calls, metrics, pace) = (self.calls.clone(), self.metrics.clone(), self.pace);
                    match follow(&mut self, &calls, &metrics, pace, from).await {
                        Left::List(cause) => {
                            attempt = 0;
                            self.metrics.watch_restarted(cause);
                            continue;
                        }
                        Left::Unserved(error) => (Chain(&error).to_string(), error.retry_after()),
                        Left::Stopped => return,
                    }
                }
                Err(error) => (Chain(&error).to_string(), error.retry_after()),
            };
            self.metrics.watch_restarted("error");
            let wait = stay_away(retry_after, self.pace.of(RETRY.wait(attempt, chance())));
            attempt = attempt.saturating_add(1);
            tracing::warn!(error, again_in = ?wait, "cannot see Services: pods that are to have their names wait");
            sleep(wait).await;
        }
    }

    /// Reads all of them anew, and gives the resourceVersion to go on from.
    async fn list(&self) -> Result<String, CallError> {
        let (mut at_once, mut next) = (PAGE, String::new());
        let mut services = Services::default();
        loop {
            let path = format!("{SERVICES}?limit={at_once}&continue={}", encode(&next));
            let page = match self.calls.get::<Page>(&path).await {
                Err(CallError::TooLong(_)) if at_once > 1 => {
                    at_once = at_once.checked_div(8).unwrap_or(1).max(1);
                    continue;
                }
                page => page?,
            };
            for item in page.items.unwrap_or_default() {
                if let Some(service) = self.read(&item).and_then(Object::service) {
                    services.set(service);
                }
            }
            next = page.metadata.next.unwrap_or_default();
            if next.is_empty() {
                tracing::debug!(services = services.len(), "listed the Services that select pods");
                self.seen.change(|known| *known = services);
                return Ok(page.metadata.resource_version.unwrap_or_default());
            }
        }
    }

    fn event(&self, line: &[u8], from: &mut String) -> Result<(), End> {
        let event = match Event::read(line) {
            Ok(event) => event,
            Err(NoEvent::End(end)) => return Err(end),
            Err(NoEvent::Malformed(error)) => return Err(End::Failed(StreamError::Broken(error.to_string()))),
        };
        let Some(object) = self.read(event.object) else { return Ok(()) };
        if let Some(version) = &object.metadata.resource_version {
            version.clone_into(from);
        }
        self.seen.change(|services| {
            if matches!(&*event.kind, "ADDED" | "MODIFIED" | "DELETED")
                && let Some((namespace, name)) = object.key()
            {
                services.remove(&namespace, &name);
                if event.kind != "DELETED"
                    && let Some(service) = object.service()
                {
                    services.set(service);
                }
            }
        });
        Ok(())
    }

    /// One malformed object spoils neither list nor watch.
    fn read(&self, object: &RawValue) -> Option<Object> {
        serde_json::from_str(object.get())
            .inspect_err(|error| {
                self.metrics.malformed_objects.inc();
                tracing::warn!(%error, "skipped a Service that cannot be read");
            })
            .ok()
    }
}

impl Watched for ServiceWatch {
    fn name(&self) -> String {
        "Services".to_owned()
    }

    fn list(&self) -> String {
        format!("{SERVICES}?")
    }

    async fn opened(&mut self, _is_anew: bool) -> Result<(), End> {
        self.seen.change(|_same| ());
        Ok(())
    }

    async fn read(&mut self, mut lines: Lines<Body>, from: &mut String) -> End {
        loop {
            let read = match next_line(&mut lines).await {
                Ok(Some(line)) => self.event(&line, from),
                // What it said is not known: begin anew.
                Ok(None) => Err(End::Lost("error")),
                Err(end) => Err(end),
            };
            if let Err(end) = read {
                return end;
            }
        }
    }

    async fn broke_off(&mut self) -> Result<(), End> {
        Ok(())
    }
}

#[derive(Deserialize)]
struct Page {
    metadata: Metadata,
    items: Option<Vec<Box<RawValue>>>,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    spec: Option<Spec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    namespace: Option<String>,
    name: Option<String>,
    resource_version: Option<String>,
    #[serde(rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Spec {
    #[serde(rename = "type")]
    kind: Option<String>,
    selector: Option<BTreeMap<Box<str>, Box<str>>>,
}

impl Object {
    fn key(&self) -> Option<(Namespace, ServiceName)> {
        let namespace = Namespace::parse(self.metadata.namespace.as_deref()?).ok()?;
        Some((namespace, ServiceName::parse(self.metadata.name.as_deref()?).ok()?))
    }

    /// Where it selects pods at all: the selector of an ExternalName Service means nothing, and an empty one selects none.
    fn service(self) -> Option<Service> {
        let (namespace, name) = self.key()?;
        let spec = self.spec.filter(|spec| spec.kind.as_deref() != Some("ExternalName"))?;
        let selector: Box<[_]> = spec.selector?.into_iter().collect();
        (1..=MOST_PAIRS).contains(&selector.len()).then_some(Service { namespace, name, selector })
    }
}

const SERVICES: &str = "/api/v1/services";
/// A Service weighs one to three kB.
const PAGE: u32 = 500;
/// After this long without a word from the API server, names are not given by what was known: a Service may be gone.
const TRUSTED: Duration = Duration::from_secs(60);
/// A selector longer than this is nobody's; it would only fill our memory.
const MOST_PAIRS: usize = 16;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::cluster::fake::{Fake, Instead, busy};

    fn service(spec: serde_json::Value) -> Option<Service> {
        let object = json!({"metadata": {"namespace": "shop", "name": "cart", "resourceVersion": "7"}, "spec": spec});
        serde_json::from_value::<Object>(object).unwrap().service()
    }

    fn labels() -> Labels {
        [("app".into(), "cart".into())].into()
    }

    #[test]
    fn only_a_service_with_a_selector_selects() {
        assert!(service(json!({"selector": {"app": "cart"}})).is_some());
        assert!(service(json!({"selector": {"app": "cart"}, "clusterIP": "None", "type": "ClusterIP"})).is_some());
        assert!(service(json!({"selector": {"app": "cart"}, "publishNotReadyAddresses": true})).is_some());
        assert!(service(json!({"selector": {"app": "cart"}, "ipFamilies": ["IPv6", "IPv4"]})).is_some());
        assert!(service(json!({"selector": {}})).is_none());
        assert!(service(json!({"selector": null})).is_none());
        assert!(service(json!({})).is_none());
        assert!(service(json!({"type": "ExternalName", "externalName": "a.b", "selector": {"app": "cart"}})).is_none());
        let long: BTreeMap<String, &str> = (0..17).map(|number| (format!("k{number}"), "v")).collect();
        assert!(service(json!({"selector": long})).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_known_before_the_first_listing_and_long_after_the_last_word() {
        let seen = SeenServices::new();
        let namespace = Namespace::parse("shop").unwrap();
        assert!(!*seen.wanted.borrow());
        assert_eq!(seen.selecting(&namespace, &labels()), None);
        assert!(*seen.wanted.borrow(), "asking begins the watch");
        seen.change(|services| services.set(service(json!({"selector": {"app": "cart"}})).unwrap()));
        assert_eq!(seen.selecting(&namespace, &labels()).unwrap().len(), 1);
        tokio::time::advance(TRUSTED).await;
        assert_eq!(seen.selecting(&namespace, &labels()), None);
        seen.change(|_heard| ());
        assert_eq!(seen.selecting(&namespace, &labels()).unwrap().len(), 1);
    }

    /// The API server is away and comes back with an older etcd: a watch would be silent, so that names of Services would be missing until
    /// the next listing. It is not begun before etcd has been asked how far it has come.
    #[tokio::test(start_paused = true)]
    async fn an_etcd_that_is_an_older_one_is_listed_at_once() {
        let object = |name: &str, version: &str| {
            json!({"metadata": {"namespace": "shop", "name": name, "resourceVersion": version},
                "spec": {"selector": {"app": "cart"}}})
        };
        let page = |version: &str, items: &[serde_json::Value]| {
            Instead::Json(200, json!({"metadata": {"resourceVersion": version}, "items": items}))
        };
        let (asked, watched) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let fake = Fake::new();
        fake.instead(move |_, path, _| {
            let added = json!({"type": "ADDED", "object": object("new", "11")}).to_string();
            Some(match path {
                path if path.ends_with("limit=1") => match asked.fetch_add(1, Ordering::SeqCst) {
                    0 | 1 => Instead::Json(503, json!({"code": 503})),
                    _ => page("10", &[]),
                },
                path if !path.contains("watch=true") && watched.load(Ordering::SeqCst) == 0 => page("5", &[]),
                path if !path.contains("watch=true") => page("3", &[object("old", "3")]),
                _ => match watched.fetch_add(1, Ordering::SeqCst) {
                    0 => Instead::Lines(vec![added], false),
                    _ => Instead::Lines(Vec::new(), true),
                },
            })
        });
        let seen = SeenServices::new();
        seen.want();
        let (metrics, pace) = (Metrics::new(), Pace::compressed(1000));
        let watch =
            ServiceWatch { calls: fake.calls(), seen: seen.clone(), metrics: metrics.clone(), pace, token: None };
        let watching = tokio::spawn(watch.run());
        let namespace = Namespace::parse("shop").unwrap();
        let old = [ServiceName::parse("old").unwrap()];
        tokio::time::timeout(Duration::from_secs(5), async {
            while seen.selecting(&namespace, &labels()).as_deref() != Some(&old) {
                sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .unwrap();
        watching.abort();
        let calls = fake.heard.lock().unwrap().clone();
        let calls = calls.iter().map(|call| match () {
            () if call.contains("watch=true") => "watch",
            () if call.ends_with("limit=1") => "ask",
            () => "list",
        });
        assert_eq!(calls.collect::<Vec<_>>()[..6], ["list", "watch", "ask", "ask", "ask", "list"]);
        assert!(metrics.text().unwrap().contains("watch_restarts_total{cause=\"rolled_back\"} 1"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_fails_each_time_is_opened_less_and_less_often() {
        let failures: [fn() -> Instead; 2] = [
            || Instead::Json(404, json!({"code": 404, "message": "404 page not found"})),
            || Instead::Lines(vec!["{]".to_owned()], false),
        ];
        for failure in failures {
            let (fake, streams) = (Fake::new(), AtomicUsize::new(0));
            fake.instead(move |_, path, _| {
                if !path.contains("watch=true") {
                    return Some(Instead::Json(200, json!({"metadata": {"resourceVersion": "5"}})));
                }
                assert!(streams.fetch_add(1, Ordering::SeqCst) < 1_000, "it never waits");
                Some(failure())
            });
            let seen = SeenServices::new();
            seen.want();
            let (metrics, pace) = (Metrics::new(), Pace::compressed(1000));
            let watching = tokio::spawn(ServiceWatch { calls: fake.calls(), seen, metrics, pace, token: None }.run());
            sleep(pace.of(Duration::from_mins(1))).await;
            let opened = fake.count_of("watch=true");
            assert!((3..=20).contains(&opened), "{opened} times in a minute");
            watching.abort();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn list_and_watch_wait_for_as_long_as_the_api_server_asks() {
        let (fake, lists, streams) = (Fake::new(), AtomicUsize::new(0), AtomicUsize::new(0));
        let page = || Instead::Json(200, json!({"metadata": {"resourceVersion": "5"}}));
        let is_first = |count: &AtomicUsize| count.fetch_add(1, Ordering::SeqCst) == 0;
        fake.instead(move |_, path, _| {
            Some(match path {
                path if path.ends_with("limit=1") => page(),
                path if path.contains("watch=true") && is_first(&streams) => busy(30),
                path if path.contains("watch=true") => Instead::Lines(Vec::new(), true),
                _ if is_first(&lists) => busy(30),
                _ => page(),
            })
        });
        let seen = SeenServices::new();
        seen.want();
        let (metrics, pace) = (Metrics::new(), Pace::compressed(1000));
        tokio::spawn(ServiceWatch { calls: fake.calls(), seen, metrics, pace, token: None }.run());
        let made = async |millis| {
            sleep(Duration::from_millis(millis)).await;
            (fake.count_of("limit=500"), fake.count_of("watch=true"))
        };
        assert_eq!(made(29_900).await, (1, 0));
        assert_eq!(made(1_000).await, (2, 1));
        assert_eq!(made(29_000).await, (2, 1));
        assert_eq!(made(1_000).await, (2, 2));
    }
}
