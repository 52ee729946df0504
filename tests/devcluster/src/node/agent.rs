//! The task of one node: it owns all state and keeps volumes as they should be.
//!
//! The handle talks to it through [`Command`]s. The worker of [`super::request`] makes keys and requests beside it, one at a time,
//! and holds the other ends of `jobs` and `done`. When the handle is dropped, `commands` closes and the task ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::stream::{BoxStream, SelectAll, StreamExt as _};
use kube::api::DynamicObject;
use kube::runtime::watcher::Event;
use serde_json::Value;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

use super::follow::{News, Topic};
use super::options::{NodeEvent, NodeOptions, What};
use super::pod::Pod;
use super::record::{Outcome, Record, State};
use super::request::{Done, Job, SourceKey, outcome};
use super::trust::Trust;
use crate::clock::{Chance, Clock};

/// What the handle asks for.
pub(crate) enum Command {
    /// Ask anew for every certificate of a pod; says how many.
    Refresh { namespace: String, pod: String, count: oneshot::Sender<usize> },
    /// Ask anew for every certificate this often.
    RefreshEvery(Option<Duration>, oneshot::Sender<()>),
    /// Lose all memory.
    Restart(oneshot::Sender<()>),
    /// Say where every source stands.
    States(oneshot::Sender<Vec<SourceState>>),
}

/// Where one source of one pod stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceState {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The volume's name.
    pub volume: String,
    /// Where it stands.
    pub state: State,
}

/// Namespace and name.
pub(crate) type Name = (String, String);

/// A record, and when a request that could not be made may be tried again.
#[derive(Default)]
pub(crate) struct Tracked {
    pub(crate) record: Record,
    at_work: bool,
    renewal: bool,
    wait: Duration,
    retry_at: Option<Instant>,
}

pub(crate) struct Agent {
    pub(crate) client: kube::Client,
    pub(crate) options: NodeOptions,
    pub(crate) trust: Trust,
    pub(crate) records: BTreeMap<SourceKey, Tracked>,
    pub(crate) chance: Chance,
    pods: BTreeMap<Name, Pod>,
    requests: BTreeMap<Name, Value>,
    /// Names seen since a list began.
    listing: BTreeMap<Topic, BTreeSet<Name>>,
    node_uid: String,
    life: u64,
    next_pass: Instant,
    forced: Option<(Duration, Instant)>,
    events: broadcast::Sender<NodeEvent>,
    jobs: mpsc::Sender<Job>,
}

impl Agent {
    pub(crate) fn new(
        client: kube::Client,
        options: NodeOptions,
        events: broadcast::Sender<NodeEvent>,
        jobs: mpsc::Sender<Job>,
    ) -> Self {
        let trust = Trust::new(options.pace.trust_cache);
        let chance = Chance::of(options.seed);
        Self {
            client,
            options,
            trust,
            records: BTreeMap::new(),
            chance,
            pods: BTreeMap::new(),
            requests: BTreeMap::new(),
            listing: BTreeMap::new(),
            node_uid: String::new(),
            life: 0,
            next_pass: Instant::now(),
            forced: None,
            events,
            jobs,
        }
    }

    pub(crate) async fn run(
        mut self,
        mut news: SelectAll<BoxStream<'static, News>>,
        mut commands: mpsc::Receiver<Command>,
        mut done: mpsc::Receiver<Done>,
    ) {
        loop {
            let due = self.next_due();
            tokio::select! {
                Some((topic, event)) = news.next() => match event {
                    Ok(event) => self.learn(topic, event),
                    Err(error) => tracing::debug!(node = self.options.name, ?topic, %error, "a watch broke"),
                },
                command = commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return,
                },
                Some(done) = done.recv() => self.requested(done),
                () = tokio::time::sleep_until(due) => self.pass(),
            }
            self.sync_pods().await;
        }
    }

    fn next_due(&self) -> Instant {
        let pods = self.pods.values().filter_map(Pod::next_sync);
        let retries = self.records.values().filter_map(|tracked| tracked.retry_at);
        let forced = self.forced.map(|(_, when)| when);
        pods.chain(retries).chain(forced).fold(self.next_pass, Instant::min)
    }

    // What the watches say.

    fn learn(&mut self, topic: Topic, event: Event<DynamicObject>) {
        match event {
            Event::Init => {
                self.listing.insert(topic, BTreeSet::new());
            }
            Event::InitApply(object) => {
                let name = named(&object);
                if let Some(seen) = self.listing.get_mut(&topic) {
                    seen.insert(name.clone());
                }
                self.apply(topic, name, object);
            }
            Event::InitDone => self.listed(topic),
            Event::Apply(object) => self.apply(topic, named(&object), object),
            Event::Delete(object) => self.forget(topic, &named(&object)),
        }
    }

    fn apply(&mut self, topic: Topic, name: Name, object: DynamicObject) {
        let uid = object.metadata.uid.clone().unwrap_or_default();
        let value = serde_json::to_value(object).unwrap_or_default();
        match topic {
            Topic::Pods => self.track(name, value),
            Topic::Requests => {
                self.requests.insert(name.clone(), value);
                self.answered(&name);
            }
            Topic::TrustBundles => {
                self.trust.changed(&name.1, Some(value));
                self.trust_changed();
            }
            Topic::Node => self.node_uid = uid,
        }
    }

    fn forget(&mut self, topic: Topic, name: &Name) {
        match topic {
            Topic::Pods => self.drop_pod(name),
            Topic::Requests => {
                self.requests.remove(name);
            }
            Topic::TrustBundles => {
                self.trust.changed(&name.1, None);
                self.trust_changed();
            }
            Topic::Node => {}
        }
    }

    /// A list is complete: what it did not hold is gone.
    fn listed(&mut self, topic: Topic) {
        let Some(seen) = self.listing.remove(&topic) else { return };
        match topic {
            Topic::Pods => {
                let gone: Vec<Name> = self.pods.keys().filter(|name| !seen.contains(*name)).cloned().collect();
                gone.iter().for_each(|name| self.drop_pod(name));
            }
            Topic::Requests => self.requests.retain(|name, _| seen.contains(name)),
            Topic::TrustBundles => {
                self.trust.keep_only(&seen.into_iter().map(|(_, name)| name).collect());
                self.trust_changed();
            }
            Topic::Node => {}
        }
    }

    fn track(&mut self, name: Name, value: Value) {
        let replaced = self.pods.get(&name).is_some_and(|known| known.uid != Pod::uid_of(&value));
        if replaced {
            self.drop_pod(&name);
        }
        match self.pods.get_mut(&name) {
            Some(known) => known.update(value),
            None => {
                let pod = Pod::new(&name, value);
                for key in pod.sources() {
                    self.records.entry(key).or_default();
                }
                self.pods.insert(name, pod);
                self.ask_for_due();
            }
        }
    }

    fn drop_pod(&mut self, name: &Name) {
        let Some(pod) = self.pods.remove(name) else { return };
        self.records.retain(|key, _| key.uid != pod.uid);
        pod.remove_volumes(&self.options);
    }

    fn trust_changed(&mut self) {
        let prompt = self.options.pace.pod_sync.end.is_zero();
        for pod in self.pods.values_mut().filter(|pod| pod.has_trust()) {
            pod.something_new(prompt);
        }
    }

    // Requests and their answers.

    /// Hands every source that is due to the worker.
    fn ask_for_due(&mut self) {
        let (now, moment) = (Clock::default().now(), Instant::now());
        if self.node_uid.is_empty() {
            return;
        }
        for (key, tracked) in &mut self.records {
            let waiting = tracked.retry_at.is_some_and(|retry_at| retry_at > moment);
            if tracked.at_work || waiting || !tracked.record.is_due(now) {
                continue;
            }
            let pod = self.pods.get(&(key.namespace.clone(), key.pod.clone()));
            let Some((projection, pod)) = pod.and_then(|pod| Some((pod.projection(key)?, pod))) else { continue };
            let job = Job {
                key: key.clone(),
                service_account: pod.service_account().to_owned(),
                node: self.options.name.clone(),
                node_uid: self.node_uid.clone(),
                projection,
                life: self.life,
            };
            // A full queue is no harm: the next pass asks again.
            if self.jobs.try_send(job).is_ok() {
                tracked.at_work = true;
                tracked.retry_at = None;
            }
        }
    }

    fn requested(&mut self, done: Done) {
        if done.life != self.life {
            return;
        }
        let Some(tracked) = self.records.get_mut(&done.key) else { return };
        tracked.at_work = false;
        let what = match done.made {
            Ok(pending) => {
                tracked.wait = Duration::ZERO;
                tracked.renewal = tracked.record.state() == State::Fresh;
                let request = pending.request.clone();
                tracked.record.requested(pending);
                What::Requested { request, renewal: tracked.renewal }
            }
            Err(error) => {
                let range = &self.options.pace.create_backoff;
                tracked.wait = tracked.wait.saturating_mul(2).clamp(range.start, range.end);
                tracked.retry_at = Instant::now().checked_add(tracked.wait);
                What::Error { message: format!("{error:#}") }
            }
        };
        self.tell(&done.key, what);
        // The answer may have come before we knew the name.
        let pending = self.records.get(&done.key).and_then(|tracked| tracked.record.pending());
        if let Some(name) = pending.map(|pending| (done.key.namespace.clone(), pending.request.clone())) {
            self.answered(&name);
        }
    }

    /// Takes the answer out of a request, if it has one and is waited for.
    fn answered(&mut self, name: &Name) {
        let waits = |key: &SourceKey, tracked: &Tracked| {
            key.namespace == name.0 && tracked.record.pending().is_some_and(|pending| pending.request == name.1)
        };
        let Some(key) = self.records.iter().find(|(key, tracked)| waits(key, tracked)).map(|(key, _)| key.clone())
        else {
            return;
        };
        let (pace, chance) = (&self.options.pace, &mut self.chance);
        let Some(outcome) = self.requests.get(name).and_then(|request| outcome(request, pace, chance)) else { return };
        let request = name.1.clone();
        let Some(tracked) = self.records.get_mut(&key) else { return };
        let what = match &outcome {
            Outcome::Issued { .. } => What::Issued { request, renewal: tracked.renewal },
            Outcome::Denied { reason, message } => {
                What::Denied { request, reason: reason.clone(), message: message.clone() }
            }
            Outcome::Failed { reason, message } => {
                What::Failed { request, reason: reason.clone(), message: message.clone() }
            }
        };
        tracked.record.answered(outcome);
        self.tell(&key, what);
        let prompt = self.options.pace.pod_sync.end.is_zero();
        if let Some(pod) = self.pods.get_mut(&(key.namespace.clone(), key.pod.clone())) {
            pod.something_new(prompt);
        }
    }

    /// What a kubelet does every minute or two: refresh what is due, give up what is lost.
    fn pass(&mut self) {
        let moment = Instant::now();
        if moment >= self.next_pass {
            let wait = self.chance.within(&self.options.pace.refresh_pass).max(Duration::from_millis(10));
            self.next_pass = moment.checked_add(wait).unwrap_or(moment);
            self.give_up_lost();
        }
        if let Some((every, _)) = self.forced.filter(|(_, when)| moment >= *when) {
            self.forced = moment.checked_add(every).map(|next| (every, next));
            let now = Clock::default().now();
            for tracked in self.records.values_mut() {
                tracked.record.hasten(now);
            }
        }
        self.ask_for_due();
    }

    fn give_up_lost(&mut self) {
        let now = Clock::default().now();
        let mut lost = Vec::new();
        for (key, tracked) in &mut self.records {
            let Some(request) = tracked.record.pending().map(|pending| pending.request.clone()) else { continue };
            let there = self.requests.contains_key(&(key.namespace.clone(), request.clone()));
            if !there && tracked.record.missing(now) {
                lost.push((key.clone(), request));
            }
        }
        for (key, request) in lost {
            self.tell(&key, What::Lost { request });
        }
    }

    // The handle's wishes.

    fn obey(&mut self, command: Command) {
        let heard = match command {
            Command::Refresh { namespace, pod, count } => count.send(self.refresh(&namespace, &pod)).is_ok(),
            Command::RefreshEvery(every, heard) => {
                self.forced = every.and_then(|every| Some((every, Instant::now().checked_add(every)?)));
                heard.send(()).is_ok()
            }
            Command::Restart(heard) => {
                self.restart();
                heard.send(()).is_ok()
            }
            Command::States(answer) => answer.send(self.states()).is_ok(),
        };
        if !heard {
            tracing::debug!("nobody waited for the answer");
        }
    }

    fn refresh(&mut self, namespace: &str, pod: &str) -> usize {
        let now = Clock::default().now();
        let of_pod = self.records.iter_mut().filter(|(key, _)| key.namespace == namespace && key.pod == pod);
        let count = of_pod.map(|(_, tracked)| tracked.record.hasten(now)).filter(|hastened| *hastened).count();
        self.ask_for_due();
        count
    }

    /// A kubelet keeps nothing over a restart: every key is made anew, and requests that are out are forgotten.
    fn restart(&mut self) {
        self.life = self.life.saturating_add(1);
        self.trust.forget_made();
        for tracked in self.records.values_mut() {
            *tracked = Tracked::default();
        }
        let prompt = self.options.pace.pod_sync.end.is_zero();
        for pod in self.pods.values_mut() {
            pod.something_new(prompt);
        }
        self.ask_for_due();
    }

    fn states(&self) -> Vec<SourceState> {
        let state = |(key, tracked): (&SourceKey, &Tracked)| SourceState {
            namespace: key.namespace.clone(),
            pod: key.pod.clone(),
            volume: key.volume.clone(),
            state: tracked.record.state(),
        };
        self.records.iter().map(state).collect()
    }

    fn tell(&self, key: &SourceKey, what: What) {
        self.say(&key.namespace, &key.pod, &key.volume, what);
    }

    /// Nobody has to listen.
    fn say(&self, namespace: &str, pod: &str, volume: &str, what: What) {
        let event = NodeEvent {
            node: self.options.name.clone(),
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            volume: volume.to_owned(),
            what,
        };
        if self.events.send(event).is_err() {
            tracing::trace!("nobody listens to node events");
        }
    }

    // Volumes.

    async fn sync_pods(&mut self) {
        // The node's UID comes by a watch of its own, maybe after the pods.
        self.ask_for_due();
        let moment = Instant::now();
        let due: Vec<Name> =
            self.pods.iter().filter(|(_, pod)| pod.is_due(moment)).map(|(name, _)| name.clone()).collect();
        for name in due {
            let Some(mut pod) = self.pods.remove(&name) else { continue };
            let said = pod.sync(self).await;
            for (volume, what) in said {
                self.say(&name.0, &name.1, &volume, what);
            }
            self.pods.insert(name, pod);
        }
    }
}

fn named(object: &DynamicObject) -> Name {
    (object.metadata.namespace.clone().unwrap_or_default(), object.metadata.name.clone().unwrap_or_default())
}
