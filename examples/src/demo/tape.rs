//! A list and watch of the demo's own, running from before the first request: everything the API server shows about our signer.
//!
//! The checker and the live view are fed from here, never from what the signer says about itself.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{Stream, StreamExt};
use kube::api::DynamicObject;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::checker::{BundleFacts, RequestFacts};
use super::kinds::{self, Kinds};
use super::news::{News, Reporter, Request};

/// The recording. Clones share it.
#[derive(Debug, Clone)]
pub struct Tape {
    reels: Arc<Mutex<Reels>>,
    _tasks: Arc<[Task; 2]>,
}

#[derive(Debug, Default)]
struct Reels {
    requests: BTreeMap<String, Seen>,
    bundles: Vec<BundleFacts>,
    issued_for: BTreeMap<String, usize>,
}

#[derive(Debug)]
struct Seen {
    facts: RequestFacts,
    since: Instant,
    answered: Option<Answer>,
    /// The fixed point of what it says about itself.
    request: Request,
    pod_uid: String,
}

/// How a request was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// With a certificate.
    Issued,
    /// Denied.
    Denied {
        /// The condition's reason.
        reason: String,
        /// The condition's message.
        message: String,
    },
    /// With a condition the signer never writes.
    Other(String),
}

impl Tape {
    /// Starts recording what concerns this signer name, and returns when the first lists have been read: from here on nothing is missed.
    pub async fn start(client: &Client, kinds: &Kinds, signer_name: &str, reporter: &Reporter) -> Result<Self> {
        let reels: Arc<Mutex<Reels>> = Arc::default();
        let (requests_listed, listed) = oneshot::channel();
        let keep = reels.clone();
        let told = reporter.clone();
        let requests = stream(&kinds::api(client, &kinds.request(), ""), signer_name);
        let requests =
            record(requests, requests_listed, reporter.clone(), move |object| lock(&keep).request(object, &told));
        let (bundles_listed, also_listed) = oneshot::channel();
        let keep = reels.clone();
        let bundles = stream(&kinds::api(client, &kinds.bundle(), ""), signer_name);
        let bundles = record(bundles, bundles_listed, reporter.clone(), move |object| lock(&keep).bundle(object));
        let tape = Self { reels, _tasks: Arc::new([Task(tokio::spawn(requests)), Task(tokio::spawn(bundles))]) };
        let both = async { futures::try_join!(listed, also_listed) };
        tokio::time::timeout(FIRST_LIST, both)
            .await
            .context("the API server did not list requests and trust bundles in time")??;
        Ok(tape)
    }

    /// The answer to a request, as soon as there is one; none when the time is up.
    pub async fn answer(&self, uid: &str, within: Duration) -> Option<Answer> {
        let begun = Instant::now();
        while begun.elapsed() < within {
            if let Some(answer) = self.reels().requests.get(uid).and_then(|seen| seen.answered.clone()) {
                return Some(answer);
            }
            tokio::time::sleep(GLANCE).await;
        }
        None
    }

    /// Requests without an answer, but for those of these pods.
    #[must_use]
    pub fn pending_but_for(&self, pods: &[String]) -> usize {
        let reels = self.reels();
        let pending = reels.requests.values().filter(|seen| seen.answered.is_none());
        pending.filter(|seen| !pods.contains(&seen.pod_uid)).count()
    }

    /// Whether this pod has asked.
    #[must_use]
    pub fn has_asked(&self, pod_uid: &str) -> bool {
        self.reels().requests.values().any(|seen| seen.pod_uid == pod_uid)
    }

    /// Everything, for the checker.
    #[must_use]
    pub fn facts(&self) -> (Vec<RequestFacts>, Vec<BundleFacts>) {
        let reels = self.reels();
        (reels.requests.values().map(|seen| seen.facts.clone()).collect(), reels.bundles.clone())
    }

    fn reels(&self) -> MutexGuard<'_, Reels> {
        lock(&self.reels)
    }
}

impl Reels {
    fn request(&mut self, object: &Value, reporter: &Reporter) {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let uid = text("/metadata/uid");
        let seen = self.requests.entry(uid.clone()).or_insert_with(|| {
            let pod = format!("{}/{}", text("/metadata/namespace"), text("/spec/podName"));
            let request = Request { uid, name: text("/metadata/name"), pod, node: text("/spec/nodeName") };
            reporter.tell(News::Requested(request.clone()));
            Seen {
                facts: RequestFacts::default(),
                since: Instant::now(),
                answered: None,
                request,
                pod_uid: text("/spec/podUID"),
            }
        });
        if seen.facts.versions.last() != Some(object) {
            seen.facts.versions.push(object.clone());
        }
        if seen.answered.is_some() {
            return;
        }
        seen.answered = answer(object);
        let request = seen.request.clone();
        match &seen.answered {
            Some(Answer::Issued) => {
                let before = self.issued_for.entry(seen.pod_uid.clone()).or_default();
                reporter.tell(News::Issued { request, renewal: *before > 0, took: seen.since.elapsed() });
                *before = before.saturating_add(1);
            }
            Some(Answer::Denied { reason, message }) => {
                reporter.tell(News::Denied { request, reason: reason.clone(), message: message.clone() });
            }
            Some(Answer::Other(condition)) => {
                reporter.tell(News::Trouble(format!("{} was answered with {condition}", request.name)))
            }
            None => {}
        }
    }

    fn bundle(&mut self, object: &Value) {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let revision = text("/metadata/resourceVersion").parse().unwrap_or(u64::MAX);
        self.bundles.push(BundleFacts { revision, pem: text("/spec/trustBundle").to_owned() });
    }
}

/// The first condition there is; the checker looks closer.
fn answer(object: &Value) -> Option<Answer> {
    let condition = object.pointer("/status/conditions/0")?;
    let text = |key: &str| condition.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(match text("type").as_str() {
        "Issued" => Answer::Issued,
        "Denied" => Answer::Denied { reason: text("reason"), message: text("message") },
        other => Answer::Other(other.to_owned()),
    })
}

fn stream(
    api: &Api<DynamicObject>,
    signer_name: &str,
) -> impl Stream<Item = Result<Event<DynamicObject>, watcher::Error>> + Send + 'static + use<> {
    let ours = watcher::Config::default().fields(&format!("spec.signerName={signer_name}"));
    watcher(api.clone(), ours).default_backoff()
}

/// Ends with its task. An object that is deleted stays on the tape.
async fn record(
    events: impl Stream<Item = Result<Event<DynamicObject>, watcher::Error>>,
    listed: oneshot::Sender<()>,
    reporter: Reporter,
    mut keep: impl FnMut(&Value),
) {
    let mut listed = Some(listed);
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Ok(Event::InitApply(object) | Event::Apply(object)) => match serde_json::to_value(&object) {
                Ok(object) => keep(&object),
                Err(why) => reporter.tell(News::Trouble(format!("an object could not be recorded: {why}"))),
            },
            // Whoever waited may have given up: then nobody needs to know.
            Ok(Event::InitDone) => drop(listed.take().map(|listed| listed.send(()))),
            Ok(Event::Init | Event::Delete(_)) => {}
            Err(why) => reporter.tell(News::Trouble(format!("the demo's own watch was interrupted: {why}"))),
        }
    }
}

/// Ends with the tape.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn lock(reels: &Mutex<Reels>) -> MutexGuard<'_, Reels> {
    reels.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A list of nothing takes milliseconds; an API server that just started may need some seconds.
const FIRST_LIST: Duration = Duration::from_secs(30);
/// Shorter than a person notices.
const GLANCE: Duration = Duration::from_millis(20);
