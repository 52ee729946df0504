//! Keeps the unanswered requests, decides whose turn it is, and starts the walks. It waits for nothing but its channels; what
//! takes time happens in the walks and in the other parts.

pub(crate) mod item;
pub(crate) mod limit;
pub(crate) mod live;
pub(crate) mod queue;
mod rate;
pub(crate) mod walk;

use std::{
    collections::{BTreeSet, HashMap},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{Id, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use self::{
    item::Item,
    limit::Limit,
    queue::{Awaits, Depth, Next, Queue},
    rate::Rate,
    walk::{Ended, Parts, Walked, walk},
};
use crate::{
    authority::Origin,
    cluster::{
        lease::{Right, SILENCE, Standing},
        versions::Version,
        watch::News,
        wire::{RequestObject, State, Target},
    },
    health::Health,
    metrics::{ReasonLabels, StateLabels},
    names::RequestUid,
    pace::{Backoff, chance, sleep_until},
};

/// The one task that owns the queue.
pub(crate) struct Controller {
    parts: Arc<Parts>,
    health: Health,
    /// From the watches, by number of the signer.
    news: mpsc::Receiver<(usize, News)>,
    standing: watch::Receiver<Standing>,
    /// Whether there is room: told when a request was turned away for want of it, and when half of those that were kept are done.
    room: watch::Sender<bool>,
    queue: Queue<Item>,
    /// Bytes of the objects in the queue.
    stored: usize,
    /// How many were in the queue, at most, when one was turned away.
    turned_away: Option<usize>,
    limit: Limit,
    /// The last listing of each signer that has ended.
    listed: HashMap<usize, u64>,
    walks: JoinSet<Walked>,
    /// What each is about, and the number of its signer.
    flying: HashMap<Id, (RequestUid, usize)>,
    rate: Rate,
    /// Issued requests that came by before we knew our own roots.
    untraced: Vec<(usize, RequestUid, Box<RequestObject>)>,
    progress: Progress,
}

/// What a replica that is not first knows of the one that is.
#[derive(Debug, Default)]
struct Progress {
    /// Since when we would see him answer.
    open: Option<Instant>,
    /// The signers of which we hear nothing.
    deaf: BTreeSet<usize>,
    /// The longest that a request waited which he answered lately, and when that was.
    slowest: Option<(Duration, Instant)>,
    /// The one request that we answer to find out whether he is gone, and since when.
    trial: Option<(RequestUid, Instant)>,
}

impl Progress {
    /// Somebody else answered what we have known for so long.
    fn note(&mut self, known: Duration, now: Instant) {
        let lately = self.slowest.filter(|(_, at)| now.saturating_duration_since(*at) < STUCK);
        if lately.is_none_or(|(slowest, _)| slowest <= known) {
            self.slowest = Some((known, now));
        }
    }

    /// The last sign of life of the one who has been first since then, where others answered last then; none while we would see no sign.
    fn last_sign(&self, since: Instant, answered: Option<Instant>) -> Option<Instant> {
        if !self.deaf.is_empty() {
            return None;
        }
        Some(self.open?.max(since).max(answered.unwrap_or(since)))
    }
}

impl Controller {
    pub(crate) fn new(
        parts: Arc<Parts>,
        health: Health,
        news: mpsc::Receiver<(usize, News)>,
        standing: watch::Receiver<Standing>,
        room: watch::Sender<bool>,
    ) -> Self {
        Self {
            parts,
            health,
            news,
            standing,
            room,
            queue: Queue::new(),
            stored: 0,
            turned_away: None,
            limit: Limit::new(),
            listed: HashMap::new(),
            walks: JoinSet::new(),
            flying: HashMap::new(),
            rate: Rate::default(),
            untraced: Vec::new(),
            progress: Progress::default(),
        }
    }

    /// Until stopped; then what is in flight is finished.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut guard = self.parts.guard.clone();
        let mut authority = self.parts.authority_changes.subscribe();
        let mut roster = self.parts.roster.changes();
        loop {
            self.dispatch();
            let due = self.due();
            tokio::select! {
                // What comes seldom first, so that what comes often keeps nothing waiting; and the same every time.
                biased;
                () = stop.cancelled() => break,
                _ = tick.tick() => self.tick(),
                () = sleep_until(due) => self.queue.wake_due(Instant::now()),
                Ok(()) = guard.changed() => self.queue.wake(Awaits::Guard),
                Ok(()) = authority.changed() => {
                    self.queue.wake(Awaits::Authority);
                    self.trace_the_rest();
                }
                Ok(()) = roster.changed() => self.follow_roster(),
                Ok(()) = self.standing.changed() => self.queue.wake(Awaits::Turn),
                Some(joined) = self.walks.join_next_with_id() => self.land(joined),
                Some((signer, news)) = self.news.recv() => self.hear(signer, news),
            }
        }
        self.drain().await;
    }

    /// What is in flight may end; nothing new begins.
    async fn drain(mut self) {
        let finish = async {
            while let Some(joined) = self.walks.join_next_with_id().await {
                self.land(joined);
            }
        };
        if tokio::time::timeout(DRAIN, finish).await.is_err() {
            tracing::warn!(unfinished = self.walks.len(), "stopping with requests unfinished; they stay pending");
        }
    }

    fn dispatch(&mut self) {
        let now = Instant::now();
        let mut room = self.limit.room(self.walks.len(), now);
        let is_silent = self.is_silent(now);
        if is_silent {
            room = room.min(usize::from(self.progress.trial.is_none()));
        }
        let (age, right) = self.patience(is_silent);
        while room > 0
            && let Some(uid) = self.queue.take(age, now)
        {
            let Some(item) = self.queue.get(&uid) else { continue };
            // An earlier request with the same key, answered perhaps, may come later in the same listing.
            if self.listed.get(&item.signer).is_none_or(|ended| *ended < item.round) {
                let until = now.checked_add(UNLISTED).unwrap_or(now);
                self.queue.settle(&uid, Next::Wait { until, awaits: Awaits::Listing });
                continue;
            }
            if is_silent {
                self.progress.trial = Some((uid.clone(), now));
            }
            let signer = item.signer;
            let handle = self.walks.spawn(walk(Arc::clone(&self.parts), item.job(right, now)));
            self.flying.insert(handle.id(), (uid, signer));
            room = room.saturating_sub(1);
        }
    }

    /// Whether we are not first, and who is shows no sign of life.
    fn is_silent(&self, now: Instant) -> bool {
        let standing = *self.standing.borrow();
        let sign = self.progress.last_sign(standing.since(), self.parts.desk.last_answer());
        let is_long_ago = |sign| now.saturating_duration_since(sign) >= self.parts.pace.of(SILENCE);
        !standing.was_first() && sign.is_some_and(is_long_ago)
    }

    /// How long a request must have been pending before we walk it, and by what right: at once when we are first, for all that we know (who
    /// has not renewed the Lease in time looks before he writes); after a second when the first is silent; and when he has passed it over.
    /// Under a long backlog a request is not passed over because it has waited for half a minute, but only when it has waited for much
    /// longer than those that are answered.
    fn patience(&self, is_silent: bool) -> (Duration, Right) {
        let pace = self.parts.pace;
        if self.standing.borrow().was_first() {
            return (Duration::ZERO, Right::First);
        }
        if is_silent {
            return (pace.of(SILENCE), Right::PassedOver);
        }
        let slowest = self.progress.slowest.map_or(Duration::ZERO, |(slowest, _)| slowest.min(SLOWEST));
        (pace.of(STUCK).saturating_add(slowest.saturating_mul(2)), Right::PassedOver)
    }

    /// A walk has ended. If it was the one that shows whether the first is gone, he is, if it answered and nobody else did meanwhile: the API
    /// server would have taken what he had on its way there before ours. One who is only slow is not stood in for.
    fn judge_trial(&mut self, uid: &RequestUid, has_answered: bool) {
        let Some((_, begun)) = self.progress.trial.take_if(|(tried, _)| tried == uid) else { return };
        let standing = *self.standing.borrow();
        if has_answered && !standing.was_first() && self.parts.desk.last_answer().is_none_or(|at| at < begun) {
            self.parts.desk.stand_in(standing.since());
        }
    }

    /// When something is to be done although nothing happens.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        // A standby looks at what is ready again and again, for there it is time alone that makes a request its business.
        let idle = (!self.standing.borrow().was_first() && self.queue.len() > 0)
            .then(|| now.checked_add(self.parts.pace.of(GLANCE)))
            .flatten();
        let quiet = self.limit.quiet_until().filter(|until| *until > now);
        [self.queue.next_due(), idle, quiet].into_iter().flatten().min()
    }

    /// PodSigners have changed: what one of them holds is looked at again, and what belongs to none is forgotten.
    fn follow_roster(&mut self) {
        let roster = self.parts.roster.clone();
        self.untraced.retain(|(signer, ..)| roster.knows(*signer));
        self.listed.retain(|signer, _| roster.knows(*signer));
        self.progress.deaf.retain(|signer| roster.knows(*signer));
        for item in self.queue.sweep(u64::MAX, |item| !roster.knows(item.signer)) {
            self.stored = self.stored.saturating_sub(item.weight());
        }
        self.parts.live().dismiss(|signer| !roster.knows(signer));
        self.parts.tracers().retain(|signer, _| roster.knows(*signer));
        self.queue.wake(Awaits::Policy);
    }

    fn hear(&mut self, signer: usize, news: News) {
        // It was on its way when its signer went.
        if !self.parts.roster.knows(signer) {
            return;
        }
        match news {
            News::Seen(round, version, object) => self.see(signer, round, version, *object),
            News::Again(round, version, object) => self.see_again(signer, round, version, *object),
            News::Gone(uid) => {
                self.drop_from_queue(&uid);
                self.parts.live().forget(&uid);
            }
            News::Listed(round) => {
                for item in self.queue.sweep(round, |item| item.signer == signer) {
                    self.stored = self.stored.saturating_sub(item.weight());
                }
                self.parts.live().sweep(signer, round);
                self.parts.roster.listed(signer);
                self.listed.insert(signer, round);
                self.queue.wake(Awaits::Listing);
            }
            News::Open => {
                self.progress.deaf.remove(&signer);
                self.progress.open = Some(Instant::now());
            }
            News::Deaf => drop(self.progress.deaf.insert(signer)),
        }
    }

    fn see(&mut self, signer: usize, round: u64, version: Version, object: RequestObject) {
        let target = match object.target() {
            Ok(target) => target,
            Err(error) => {
                self.parts.metrics.malformed_objects.inc();
                tracing::warn!(%error, "skipped a request that cannot be addressed");
                return;
            }
        };
        self.parts.live().touch(signer, round, &target.uid, object.state() != State::Pending);
        match object.state() {
            State::Pending if object.is_deleting() => {
                self.drop_from_queue(&target.uid);
            }
            State::Pending => {
                self.note_key(signer, &target, &object);
                if let Some(known) = self.queue.get_mut(&target.uid) {
                    let before = known.weight();
                    known.update(version, object);
                    self.stored = self.stored.saturating_sub(before).saturating_add(known.weight());
                    self.queue.touch(&target.uid, round);
                    return;
                }
                if !self.queue.has_room(target.namespace.as_str(), MOST_KEPT) {
                    self.turned_away = self.turned_away.max(Some(self.queue.len()));
                    self.room.send_if_modified(|room| std::mem::replace(room, false));
                    return;
                }
                self.parts.metrics.requests.inc();
                self.rate.count();
                let age = self.parts.age(object.created());
                let item = Item::new(signer, round, version, target.clone(), object, age, self.stored < STORE);
                self.stored = self.stored.saturating_add(item.weight());
                self.queue.add(&target.uid, target.namespace.as_str(), item, round, Instant::now());
            }
            State::Issued => {
                self.answered(&target.uid);
                if !self.parts.live().knows_chain(&target.uid, object.certificate_chain().unwrap_or_default()) {
                    self.note_key(signer, &target, &object);
                    self.inspect(signer, target.uid, Box::new(object));
                }
            }
            State::Denied | State::Failed => self.answered(&target.uid),
        }
    }

    /// What was answered or deleted since is known, for all that were seen are.
    fn see_again(&mut self, signer: usize, round: u64, version: Version, object: RequestObject) {
        let waits = object
            .target()
            .is_ok_and(|target| self.queue.get(&target.uid).is_none() && self.parts.live().is_unanswered(&target.uid));
        if waits {
            self.see(signer, round, version, object);
        }
    }

    /// Somebody answered. What is in flight here is most often answered by us, and its walk will say so in a moment.
    fn answered(&mut self, uid: &RequestUid) {
        if self.flying.values().any(|(flying, _)| flying == uid) {
            return;
        }
        if let Some(item) = self.drop_from_queue(uid) {
            self.beaten(item.known(Instant::now()));
        }
    }

    /// Somebody else answered this.
    fn beaten(&mut self, known: Duration) {
        self.progress.note(known, Instant::now());
        self.parts.desk.beaten();
    }

    fn note_key(&self, signer: usize, target: &Target, object: &RequestObject) {
        // It reads bytes that somebody else wrote.
        if catch_unwind(AssertUnwindSafe(|| self.parts.note_key(signer, target, object))).is_err() {
            self.parts.metrics.panics.inc();
            tracing::error!(request = target.uid.as_str(), "could not read the key of a request: it panicked");
        }
    }

    /// Looks at a certificate that was issued under our signer name, whoever wrote it.
    fn inspect(&mut self, signer: usize, uid: RequestUid, object: Box<RequestObject>) {
        let chain = object.certificate_chain().unwrap_or_default();
        // It reads bytes that somebody else wrote.
        match catch_unwind(AssertUnwindSafe(|| self.parts.trace(signer, chain))) {
            Ok(Some(Origin::Ours { .. })) => self.parts.live().note_chain(&uid, signer, chain),
            Ok(Some(Origin::Foreign { .. } | Origin::Unreadable)) => {
                self.parts.live().note_chain(&uid, signer, chain);
                self.parts.metrics.foreign_issuance.inc();
                tracing::error!(
                    request = uid.as_str(),
                    "a certificate was issued under our signer name that is not ours"
                );
            }
            Ok(None) if self.untraced.len() < MOST_UNTRACED => self.untraced.push((signer, uid, object)),
            Ok(None) => {}
            Err(_panic) => {
                self.parts.metrics.panics.inc();
                tracing::error!(request = uid.as_str(), "could not look at an issued certificate: the check panicked");
            }
        }
    }

    fn trace_the_rest(&mut self) {
        for (signer, uid, object) in std::mem::take(&mut self.untraced) {
            self.inspect(signer, uid, object);
        }
    }

    fn land(&mut self, joined: Result<(Id, Walked), JoinError>) {
        let id = joined.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some((uid, signer)) = self.flying.remove(&id) else { return };
        let walked = joined.map(|(_, walked)| walked);
        self.judge_trial(&uid, walked.as_ref().is_ok_and(|walked| matches!(walked.ended, Ended::Answered)));
        // Its PodSigner was taken up anew meanwhile, and the request is in the queue once more.
        let is_anew = self.queue.get(&uid).is_some_and(|item| item.signer != signer);
        match walked {
            Ok(_) if is_anew => {}
            Ok(walked) => self.settle(&uid, walked),
            Err(error) => {
                if error.is_panic() {
                    self.parts.metrics.panics.inc();
                    tracing::error!(request = uid.as_str(), "the walk of a request panicked; it is set aside");
                }
                if !is_anew {
                    self.because(&uid, "panic");
                    let next = self.wait(&uid, PANICKED, Awaits::Time);
                    self.queue.settle(&uid, next);
                }
            }
        }
    }

    fn settle(&mut self, uid: &RequestUid, walked: Walked) {
        let now = Instant::now();
        match &walked.overload {
            Some(error) => {
                self.parts.desk.failed();
                if self.limit.met(error, now) {
                    self.parts.metrics.overload.inc();
                }
            }
            None => self.limit.kept_up(walked.took, self.walks.len(), now),
        }
        let next = match walked.ended {
            // An answer was seen meanwhile: another's, or ours whose reply was lost.
            Ended::Left | Ended::Held { .. } | Ended::Faulted if self.parts.live().is_answered(uid) => Next::Leave,
            Ended::Answered => {
                if let Some(item) = self.queue.get(uid) {
                    self.parts.metrics.answer_seconds.observe(item.age(now).as_secs_f64());
                }
                Next::Leave
            }
            Ended::Lost => {
                if let Some(known) = self.queue.get(uid).map(|item| item.known(now)) {
                    self.beaten(known);
                }
                Next::Leave
            }
            Ended::Gone => Next::Leave,
            Ended::Left => {
                let until = now.checked_add(self.parts.pace.of(SILENCE)).unwrap_or(now);
                Next::Wait { until, awaits: Awaits::Turn }
            }
            Ended::Held { hold, pod } => {
                let awaits = item::awaits(&hold);
                self.because(uid, hold.label());
                // One who cannot renew his Lease in time, and whom nobody has followed, tells too: twice is better than never.
                let tells = self.standing.borrow().was_first();
                if let (true, Some(item)) = (tells, self.queue.get_mut(uid)) {
                    item.tell(&self.parts, &hold, pod, now);
                }
                self.wait(uid, item::backoff(&hold), awaits)
            }
            Ended::Faulted => {
                self.because(uid, "fault");
                self.wait(uid, FAULT, Awaits::Time)
            }
        };
        if next == Next::Leave {
            self.parts.live().note_answer(uid);
            self.stored = self.stored.saturating_sub(self.queue.get(uid).map_or(0, Item::weight));
        }
        self.queue.settle(uid, next);
    }

    fn wait(&mut self, uid: &RequestUid, backoff: Backoff, awaits: Awaits) -> Next {
        let now = Instant::now();
        let attempt = self.queue.get_mut(uid).map_or(0, Item::next_attempt);
        let wait = self.parts.pace.of(backoff.wait(attempt, chance()));
        let told = self.queue.get(uid).and_then(|item| item.tell_at(self.parts.pace));
        let until = now.checked_add(wait).unwrap_or(now);
        // So that the Event comes when it is due, and not with the next look after that.
        let until = told.filter(|told| *told > now).map_or(until, |told| until.min(told));
        Next::Wait { until, awaits }
    }

    fn because(&mut self, uid: &RequestUid, reason: &'static str) {
        if let Some(item) = self.queue.get_mut(uid) {
            item.because(reason);
        }
    }

    fn drop_from_queue(&mut self, uid: &RequestUid) -> Option<Item> {
        let item = self.queue.remove(uid)?;
        self.stored = self.stored.saturating_sub(item.weight());
        Some(item)
    }

    fn tick(&mut self) {
        self.health.beat();
        let now = Instant::now();
        let metrics = &self.parts.metrics;
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let (live, unanswered) = self.parts.live().count();
        metrics.live_requests.set(gauge(live));
        let Depth { ready, in_flight, waiting } = self.queue.depth();
        let turned_away = unanswered.saturating_sub(self.queue.len());
        for (state, count) in
            [("ready", ready), ("in_flight", in_flight), ("waiting", waiting), ("turned_away", turned_away)]
        {
            metrics.queue.get_or_create(&StateLabels { state }).set(gauge(count));
        }
        metrics.waiting.clear();
        for item in self.queue.waiting().filter(|item| !item.reason().is_empty()) {
            metrics.waiting.get_or_create(&ReasonLabels { reason: item.reason() }).inc();
        }
        metrics.in_flight_limit.set(gauge(self.limit.at_a_time()));
        let oldest = self.queue.items().map(|item| item.age(now)).max().unwrap_or_default();
        metrics.oldest_pending_seconds.set(oldest.as_secs_f64());
        metrics.first.set(i64::from(self.standing.borrow().is_first()));
        metrics.requests_per_second.set(self.rate.tick());
        if self.turned_away.take_if(|most| self.queue.len() <= *most / 2).is_some() {
            self.room.send_replace(true);
        }
    }
}

/// How exact the gauges are.
const TICK: Duration = Duration::from_secs(1);
/// A process that is told to stop has five seconds in all.
const DRAIN: Duration = Duration::from_millis(3500);
/// One who answers others and not this has met something that we may not meet.
const STUCK: Duration = Duration::from_secs(30);
/// One that was held for long and then answered says nothing of how long the others wait.
const SLOWEST: Duration = Duration::from_mins(3);
/// How often a standby looks whether somebody should be stood in for.
const GLANCE: Duration = Duration::from_millis(100);
/// Longer than any listing; when one ends it is told.
const UNLISTED: Duration = Duration::from_mins(10);
const FAULT: Backoff = Backoff { first: Duration::from_millis(200), longest: Duration::from_secs(30) };
/// An object that panicked once will do so again, unless it was bad luck.
const PANICKED: Backoff = Backoff { first: Duration::from_secs(5), longest: Duration::from_mins(5) };
/// Beyond this many the API server is the better place to keep them; they are shown again when half are done. Fewer in tests, so that what
/// is simulated comes to it.
const MOST_KEPT: usize = if cfg!(test) { 200 } else { 10_000 };
/// Certificates issued before a start that wait for our roots to be known; a listing every ten minutes shows the rest.
const MOST_UNTRACED: usize = 500;
/// Bytes of requests kept in memory; the rest are read again when it is their turn.
const STORE: usize = 4 << 20;

#[cfg(test)]
mod tests;
