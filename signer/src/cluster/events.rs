//! Tells a pod's author why its certificate does not come, and an administrator why his PodSigner is not in force: an Event on
//! the object. Best effort and bounded: an Event is never worth a certificate.

use std::{collections::HashMap, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::mpsc, time::Instant};

use super::calls::Calls;
use crate::{
    chain::Chain,
    metrics::Metrics,
    names::{Namespace, PodName, PodUid},
    pace::{Pace, chance},
};

/// Whom it is about.
#[derive(Clone, Debug)]
pub(crate) enum About {
    Pod { namespace: Namespace, name: PodName, uid: PodUid },
    PodSigner { name: String, uid: String },
}

/// What is to be told.
#[derive(Clone, Debug)]
pub(crate) struct Notice {
    pub(crate) about: About,
    /// One word, for machines.
    pub(crate) reason: &'static str,
    /// What to change, for people.
    pub(crate) text: String,
}

/// Where notices are left. Never waits.
#[derive(Clone)]
pub(crate) struct Notices {
    out: mpsc::Sender<Notice>,
    metrics: Metrics,
}

impl Notices {
    /// The one who leaves notices and the one who writes them.
    pub(crate) fn new(calls: Calls, identity: String, metrics: Metrics, pace: Pace) -> (Self, Writer) {
        let (out, notices) = mpsc::channel(WAITING);
        let writer = Writer { calls, identity, metrics: metrics.clone(), pace, notices, told: HashMap::new() };
        (Self { out, metrics }, writer)
    }

    pub(crate) fn leave(&self, notice: Notice) {
        if let Err(error) = self.out.try_send(notice) {
            self.metrics.events_dropped.inc();
            tracing::debug!(%error, "too many events to write: dropped one");
        }
    }
}

/// Writes the notices, one after the other.
pub(crate) struct Writer {
    calls: Calls,
    identity: String,
    metrics: Metrics,
    pace: Pace,
    notices: mpsc::Receiver<Notice>,
    /// When each object was last told something, by its UID.
    told: HashMap<String, Instant>,
}

impl Writer {
    /// Until the last [`Notices`] is gone.
    pub(crate) async fn run(mut self) {
        while let Some(notice) = self.notices.recv().await {
            if !self.may_tell(notice.about.uid(), Instant::now()) {
                continue;
            }
            let path = format!("/api/v1/namespaces/{}/events", notice.about.namespace());
            if let Err(error) = self.calls.create::<Value>(&path, &self.event(&notice)).await {
                self.metrics.events_dropped.inc();
                tracing::debug!(about = ?notice.about, error = %Chain(&error), "could not write an event");
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn waiting(&self) -> usize {
        self.notices.len()
    }

    /// Never more than one a minute for an object.
    fn may_tell(&mut self, uid: &str, now: Instant) -> bool {
        let quiet = self.pace.of(QUIET);
        if self.told.len() >= REMEMBERED {
            self.told.retain(|_, told| now.saturating_duration_since(*told) < quiet);
        }
        let recently = self.told.get(uid).is_some_and(|told| now.saturating_duration_since(*told) < quiet);
        if recently || self.told.len() >= REMEMBERED {
            return false;
        }
        self.told.insert(uid.to_owned(), now);
        true
    }

    fn event(&self, notice: &Notice) -> Value {
        let now = self.calls.clock().now().and_then(|now| jiff::Timestamp::from_second(now.unix_timestamp()).ok());
        let now = now.map(|now| now.to_string());
        // A name is unique if the time in it is: of an object there is at most one a minute.
        let stamp = format!("{:x}{:04x}", self.calls.clock().now().map_or(0, |now| now.unix_timestamp()), chance());
        let name: String = notice.about.name().chars().take(LONGEST_NAME).collect();
        let text: String = notice.text.chars().take(LONGEST_TEXT).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {
                "name": format!("{}.{stamp}", name.trim_end_matches(['.', '-'])), "namespace": notice.about.namespace(),
            },
            "involvedObject": notice.about.reference(),
            "type": "Warning",
            "reason": notice.reason,
            "message": text,
            "source": {"component": "podmint-signer"},
            "reportingComponent": "podmint.dev/signer",
            "reportingInstance": self.identity,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        })
    }
}

impl About {
    fn name(&self) -> &str {
        match self {
            Self::Pod { name, .. } => name.as_str(),
            Self::PodSigner { name, .. } => name,
        }
    }

    fn uid(&self) -> &str {
        match self {
            Self::Pod { uid, .. } => uid.as_str(),
            Self::PodSigner { uid, .. } => uid,
        }
    }

    /// Where the Event is: that of an object of the whole cluster is in `default`, as Kubernetes has it.
    fn namespace(&self) -> &str {
        match self {
            Self::Pod { namespace, .. } => namespace.as_str(),
            Self::PodSigner { .. } => "default",
        }
    }

    fn reference(&self) -> Value {
        match self {
            Self::Pod { namespace, name, uid } => {
                json!({"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid})
            }
            Self::PodSigner { name, uid } => {
                json!({"apiVersion": "podmint.dev/v1alpha1", "kind": "PodSigner", "name": name, "uid": uid})
            }
        }
    }
}

const QUIET: Duration = Duration::from_mins(1);
const WAITING: usize = 256;
/// With more pods than this to tell something in one minute, the cause is not theirs.
const REMEMBERED: usize = 10_000;
/// Letters of the object's name in the Event's, which may have 253.
const LONGEST_NAME: usize = 200;
/// What the API server takes.
const LONGEST_TEXT: usize = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake::Fake;

    fn notice(pod: &str) -> Notice {
        Notice {
            about: About::Pod {
                namespace: Namespace::parse("shop").unwrap(),
                name: PodName::parse(pod).unwrap(),
                uid: PodUid::parse(pod.get(..40).unwrap_or(pod)).unwrap(),
            },
            reason: "CertificateOnHold",
            text: "x".repeat(5000),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_pod_gets_no_more_than_one_event_a_minute() {
        let fake = Fake::new();
        let (notices, writer) = Notices::new(fake.calls(), "one".to_owned(), Metrics::new(), Pace::real());
        for pod in ["web-1", "web-1", "web-2"] {
            notices.leave(notice(pod));
        }
        drop(notices);
        writer.run().await;
        assert_eq!(fake.count("POST /api/v1/namespaces/shop/events"), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_about_a_pod_signer_is_in_the_namespace_that_kubernetes_wants() {
        let fake = Fake::new();
        let (notices, writer) = Notices::new(fake.calls(), "one".to_owned(), Metrics::new(), Pace::real());
        let about = About::PodSigner { name: "workload".to_owned(), uid: "u".to_owned() };
        notices.leave(Notice { about, reason: "SpecRefused", text: String::new() });
        drop(notices);
        writer.run().await;
        assert_eq!(fake.count("POST /api/v1/namespaces/default/events"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_are_dropped_and_counted_and_nobody_waits() {
        let metrics = Metrics::new();
        let (notices, writer) = Notices::new(Fake::new().calls(), "one".to_owned(), metrics.clone(), Pace::real());
        for number in 0..WAITING.saturating_add(7) {
            notices.leave(notice(&format!("web-{number}")));
        }
        drop(writer);
        assert!(metrics.text().unwrap().contains("events_dropped_total 7"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_fits_what_the_api_server_takes() {
        let (_, writer) = Notices::new(Fake::new().calls(), "one".to_owned(), Metrics::new(), Pace::real());
        let event = writer.event(&notice("a.".repeat(126).trim_end_matches('.')));
        assert!(event["metadata"]["name"].as_str().unwrap().len() <= 253);
        assert_eq!(event["message"].as_str().unwrap().len(), LONGEST_TEXT);
    }
}
