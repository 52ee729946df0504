//! Says which replica answers first. Only tidiness rests on it: two replicas that both believe to be first lose races, nothing
//! else, for an answer is final once it is written.
//!
//! Whoever finds that a silent first is gone takes the Lease before he goes on, so that of two who would stand in one does, and the silent
//! one learns of it when he comes back: by his own watch, for a Lease that he has not renewed for a while counts for nothing until he has
//! looked again. All of that costs calls only when something is wrong.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::calls::{CallError, Calls};
use crate::{chain::Chain, pace::Pace};

/// Who answers first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// This replica does: until then; where there are no Leases, without end.
    First { until: Option<Instant> },
    /// Another one does, or we do not know yet; since when it has been the same one.
    Behind { since: Instant },
}

impl Standing {
    pub(crate) fn behind() -> Self {
        Self::Behind { since: Instant::now() }
    }

    pub(crate) fn is_first(self) -> bool {
        match self {
            Self::First { until } => until.is_none_or(|until| Instant::now() < until),
            Self::Behind { .. } => false,
        }
    }

    /// Whether we were when we last looked. Another may be by now.
    pub(crate) fn was_first(self) -> bool {
        matches!(self, Self::First { .. })
    }

    /// Since when we have not been first.
    pub(crate) fn since(self) -> Instant {
        match self {
            Self::First { until } => until.unwrap_or_else(Instant::now),
            Self::Behind { since } => since,
        }
    }
}

/// By what right a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    /// We are first.
    First,
    /// The first has passed it over, or is gone.
    PassedOver,
}

/// Where walks and the controller ask.
#[derive(Clone)]
pub(crate) struct Desk {
    standing: watch::Receiver<Standing>,
    /// Whose place is to be taken: the one's who has been first since then.
    silent: mpsc::Sender<Instant>,
    doubts: Arc<Notify>,
    /// When the last look began that has ended.
    looked: watch::Receiver<Instant>,
    /// When somebody else was last seen to answer.
    answered: Arc<Mutex<Option<Instant>>>,
    pace: Pace,
}

impl Desk {
    /// Whether an answer may be written by this right. Who was first and may not be any more waits for a look that begins now, one for all who
    /// ask. Who cannot be told, because the Lease cannot be read or not soon, writes: nothing rests on it.
    pub(crate) async fn may_answer(&self, right: Right) -> bool {
        if right == Right::PassedOver || self.standing.borrow().is_first() {
            return true;
        }
        let (mut looked, asked) = (self.looked.clone(), Instant::now());
        self.doubts.notify_one();
        let told = timeout(self.pace.of(LONGEST), looked.wait_for(|begun| *begun >= asked)).await;
        !matches!(told, Ok(Ok(_))) || self.standing.borrow().was_first()
    }

    /// The one who has been first since then is gone: we are first now, unless another is quicker, or he is heard after all.
    pub(crate) fn stand_in(&self, since: Instant) {
        if self.silent.try_send(since).is_err() {
            tracing::debug!("who looks after the lease has been told already");
        }
    }

    /// When somebody else was last seen to answer.
    pub(crate) fn last_answer(&self) -> Option<Instant> {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody else has answered. He is not silent; and if we are first, the Lease is looked at.
    pub(crate) fn beaten(&self) {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.doubt(NEW);
    }

    /// A call failed. Others may answer while we cannot.
    pub(crate) fn failed(&self) {
        self.doubt(RETRY);
    }

    /// Unless the last look is younger than this.
    fn doubt(&self, age: Duration) {
        let left = self.pace.of(FRESH.saturating_sub(age));
        if let Standing::First { until: Some(until) } = *self.standing.borrow()
            && until.saturating_duration_since(Instant::now()) < left
        {
            self.doubts.notify_one();
        }
    }
}

/// Takes, renews and gives back the Lease.
pub(crate) struct Turn {
    pub(crate) calls: Calls,
    pub(crate) namespace: String,
    pub(crate) identity: String,
    pub(crate) pace: Pace,
    pub(crate) standing: watch::Sender<Standing>,
    pub(crate) stop: CancellationToken,
    silent: mpsc::Receiver<Instant>,
    doubts: Arc<Notify>,
    looked: watch::Sender<Instant>,
    answered: Arc<Mutex<Option<Instant>>>,
    seen: Option<Seen>,
    /// Since when we have been told that there is no Lease for us.
    refused: Option<Instant>,
}

/// What we saw of another holder, and when it last changed. Its own times are not compared with ours.
struct Seen {
    lease: LeaseSpec,
    since: Instant,
}

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// The Lease is ours.
    Ours,
    /// It is another one's, who has had it since before the last look.
    Known,
    /// It is another one's, who has just taken it.
    New,
}

impl Turn {
    /// And where to ask.
    pub(crate) fn new(
        calls: Calls,
        namespace: &str,
        identity: &str,
        pace: Pace,
        standing: watch::Sender<Standing>,
        stop: CancellationToken,
    ) -> (Self, Desk) {
        let ((tell, silent), doubts, answered) = (mpsc::channel(1), Arc::new(Notify::new()), Arc::default());
        let looked = watch::Sender::new(Instant::now());
        let desk = Desk {
            standing: standing.subscribe(),
            silent: tell,
            doubts: Arc::clone(&doubts),
            looked: looked.subscribe(),
            answered: Arc::clone(&answered),
            pace,
        };
        let (namespace, identity, seen, refused) = (namespace.to_owned(), identity.to_owned(), None, None);
        let turn =
            Self { calls, namespace, identity, pace, standing, stop, silent, doubts, looked, answered, seen, refused };
        (turn, desk)
    }

    pub(crate) async fn run(mut self) {
        let mut next = Instant::now();
        loop {
            let pause = tokio::select! {
                () = self.stop.cancelled() => break,
                Some(since) = self.silent.recv() => {
                    self.stand_in(since).await;
                    continue;
                }
                () = self.doubts.notified() => self.renew(false).await,
                () = sleep_until(next) => self.renew(false).await,
            };
            // What failed is tried again sooner: until then it is not known who is first. So it is where the API server asks us to stay away
            // for longer, which nobody else does: the Lease would pass to another replica, some of our status writes would be lost to its,
            // and this small call would be made by it as often.
            let pause = if pause.is_some() { RENEW } else { RETRY };
            let now = Instant::now();
            next = now.checked_add(self.pace.of(pause)).unwrap_or(now);
        }
        if self.standing.borrow().was_first()
            && let Err(error) = self.give_back().await
        {
            tracing::debug!(error = %Chain(&error), "could not give the lease back; it will run out");
        }
    }

    async fn stand_in(&mut self, since: Instant) {
        let standing = *self.standing.borrow();
        // Only for the one whose silence was noticed, and who has not been heard since: this may have waited for long.
        if !standing.was_first() && standing.since() == since && self.is_silent() {
            self.renew(true).await;
        }
    }

    fn is_silent(&self) -> bool {
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.is_none_or(|at| at.elapsed() >= self.pace.of(SILENCE))
    }

    /// Looks, and says what it found, if it could.
    async fn renew(&mut self, takes: bool) -> Option<Found> {
        let begun = Instant::now();
        let found = self.take_in(begun, takes).await;
        self.looked.send_replace(begun);
        found
    }

    async fn take_in(&mut self, begun: Instant, takes: bool) -> Option<Found> {
        let looked = self.look(takes).await;
        if let Err(error) = &looked
            && (error.is_forbidden() || error.is_unserved())
        {
            if begun.saturating_duration_since(*self.refused.get_or_insert(begun)) >= self.pace.of(REFUSED) {
                self.do_without(error);
                return Some(Found::Ours);
            }
        } else {
            self.refused = None;
        }
        match looked {
            Ok(found) => {
                self.stand(found, begun);
                Some(found)
            }
            Err(error) => {
                tracing::debug!(error = %Chain(&error), "could not renew the lease");
                self.standing.send_if_modified(|standing| {
                    if let Standing::First { until: Some(until) } = standing {
                        *until = begun.min(*until);
                    }
                    false
                });
                None
            }
        }
    }

    /// Where there are no Leases for us, there is no order to keep; then we simply answer. Only where that lasts: an API server that has just
    /// started refuses everything until it has read its Roles, and all replicas would answer everything for as long.
    fn do_without(&self, error: &CallError) {
        if self.standing.send_replace(Standing::First { until: None }) != (Standing::First { until: None }) {
            tracing::warn!(error = %Chain(error), "no lease: all replicas answer without waiting for a turn, and lose races");
        }
    }

    fn stand(&self, found: Found, begun: Instant) {
        let (mut is_first, mut was_first) = (false, false);
        self.standing.send_if_modified(|standing| {
            let before = *standing;
            *standing = match (found, before) {
                (Found::Ours, _) => Standing::First { until: begun.checked_add(self.pace.of(FRESH)) },
                (Found::Known, Standing::Behind { .. }) => before,
                (Found::Known | Found::New, _) => Standing::behind(),
            };
            was_first = before.was_first();
            is_first = standing.was_first();
            // One who is first and stays so need not be told.
            *standing != before && !(was_first && is_first)
        });
        if was_first != is_first {
            tracing::info!(identity = self.identity, first = is_first, "who answers first has changed");
        }
    }

    async fn look(&mut self, takes: bool) -> Result<Found, CallError> {
        let lease: Lease = match self.calls.get(&self.path(NAME)).await {
            Err(error) if error.is_absent() => return self.create().await,
            other => other?,
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let is_known = self.seen.as_ref().is_some_and(|seen| {
            seen.lease.holder_identity == spec.holder_identity && seen.lease.lease_transitions == spec.lease_transitions
        });
        let has_run_out = self.has_run_out(&spec);
        let is_free = holder == self.identity || holder.is_empty() || has_run_out || takes && is_known;
        if !is_free {
            return Ok(if is_known { Found::Known } else { Found::New });
        }
        let changes = spec.lease_transitions.unwrap_or(0);
        let changes = if holder == self.identity { changes } else { changes.saturating_add(1) };
        let taken = Lease { spec: Some(self.claim(&self.identity, changes)), ..lease };
        found(self.calls.replace::<Lease>(&self.path(NAME), &taken).await)
    }

    /// A holder that has not renewed for as long as the Lease lasts, by our own watch.
    fn has_run_out(&mut self, spec: &LeaseSpec) -> bool {
        match &self.seen {
            Some(seen) if seen.lease == *spec => seen.since.elapsed() > self.pace.of(LASTS),
            _ => {
                self.seen = Some(Seen { lease: spec.clone(), since: Instant::now() });
                false
            }
        }
    }

    async fn create(&self) -> Result<Found, CallError> {
        let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
        let lease = Lease { metadata, spec: Some(self.claim(&self.identity, 0)) };
        found(self.calls.create::<Lease>(&self.path(""), &lease).await)
    }

    async fn give_back(&self) -> Result<(), CallError> {
        let lease: Lease = self.calls.get(&self.path(NAME)).await?;
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_deref() == Some(&self.identity) {
            let changes = spec.lease_transitions.unwrap_or(0);
            let empty = Lease { spec: Some(self.claim("", changes)), ..lease };
            self.calls.replace::<Lease>(&self.path(NAME), &empty).await?;
        }
        Ok(())
    }

    fn claim(&self, holder: &str, changes: i32) -> LeaseSpec {
        let now = self.calls.clock().now();
        let stamp = now.and_then(|now| jiff::Timestamp::from_second(now.unix_timestamp()).ok()).map(MicroTime);
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: i32::try_from(LASTS.as_secs()).ok(),
            acquire_time: stamp.clone(),
            renew_time: stamp,
            lease_transitions: Some(changes),
            ..LeaseSpec::default()
        }
    }

    fn path(&self, name: &str) -> String {
        let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace);
        if name.is_empty() { leases } else { format!("{leases}/{name}") }
    }
}

/// A conflict means that another replica was quicker.
fn found(written: Result<Lease, CallError>) -> Result<Found, CallError> {
    match written {
        Ok(_) => Ok(Found::Ours),
        Err(error) if error.is_conflict() => Ok(Found::New),
        Err(error) => Err(error),
    }
}

/// After this long without an answer, the one who should answer counts as gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(1);

const NAME: &str = "podmint-signer";
const LASTS: Duration = Duration::from_secs(15);
/// Longer than an API server takes to read its Roles.
const REFUSED: Duration = Duration::from_mins(1);
/// Two renewals may be lost.
const RENEW: Duration = Duration::from_secs(4);
/// How soon after a renewal that failed the next one is tried.
const RETRY: Duration = Duration::from_secs(1);
/// How long after a renewal we write without looking again. A process that was stopped for longer, or whose renewal failed, looks first.
pub(crate) const FRESH: Duration = Duration::from_secs(8);
/// A look that is younger than this shows what the next one would.
const NEW: Duration = Duration::from_millis(100);
/// How long a walk waits to be told; then it answers.
const LONGEST: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::fake::{Fake, Instead, refusal};

    fn turn(fake: &Fake, identity: &str) -> (Turn, Desk) {
        let standing = watch::Sender::new(Standing::behind());
        Turn::new(fake.calls(), "mint", identity, Pace::compressed(1000), standing, CancellationToken::new())
    }

    fn since(turn: &Turn) -> Instant {
        turn.standing.borrow().since()
    }

    fn is_first(turn: &Turn) -> bool {
        turn.standing.borrow().is_first()
    }

    #[tokio::test(start_paused = true)]
    async fn one_is_first_until_it_gives_back_or_falls_silent() {
        let fake = Fake::new();
        let ((mut one, _), (mut two, _)) = (turn(&fake, "one"), turn(&fake, "two"));
        assert_eq!(one.look(false).await.unwrap(), Found::Ours);
        assert_eq!(two.look(false).await.unwrap(), Found::New);
        assert_eq!(two.look(false).await.unwrap(), Found::Known);
        one.give_back().await.unwrap();
        assert_eq!(two.look(false).await.unwrap(), Found::Ours);
        assert_eq!(one.look(false).await.unwrap(), Found::New);
        tokio::time::sleep(one.pace.of(LASTS.saturating_add(RENEW))).await;
        assert_eq!(one.look(false).await.unwrap(), Found::Ours);
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_who_would_stand_in_one_does() {
        let fake = Fake::new();
        let ((mut one, _), (mut two, _), (mut three, _)) =
            (turn(&fake, "one"), turn(&fake, "two"), turn(&fake, "three"));
        one.renew(false).await;
        two.renew(false).await;
        three.renew(false).await;
        let (silent_for_two, silent_for_three) = (since(&two), since(&three));
        tokio::time::sleep(Duration::from_millis(1)).await;
        two.stand_in(silent_for_two).await;
        assert!(is_first(&two));
        three.stand_in(silent_for_three).await;
        assert!(!is_first(&three), "it is another one who is first now");
        three.stand_in(silent_for_three).await;
        assert!(!is_first(&three), "and he was never silent");
        three.stand_in(since(&three)).await;
        assert!(is_first(&three));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_stands_in_for_who_has_just_been_heard() {
        let fake = Fake::new();
        let ((mut one, _), (mut two, desk)) = (turn(&fake, "one"), turn(&fake, "two"));
        one.renew(false).await;
        two.renew(false).await;
        desk.beaten();
        two.stand_in(since(&two)).await;
        assert!(!is_first(&two));
        tokio::time::sleep(two.pace.of(SILENCE)).await;
        two.stand_in(since(&two)).await;
        assert!(is_first(&two));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_first_looks_again_before_he_writes() {
        let fake = Fake::new();
        let (mut one, mut desk) = turn(&fake, "one");
        (one.pace, desk.pace) = (Pace::compressed(10), Pace::compressed(10));
        let (mut standing, stop, fresh, path) =
            (one.standing.subscribe(), one.stop.clone(), one.pace.of(FRESH), one.path(NAME));
        tokio::spawn(one.run());
        standing.wait_for(|standing| standing.is_first()).await.unwrap();
        fake.instead(|_, _, _| Some(Instead::Json(500, serde_json::json!({"code": 500}))));
        tokio::time::sleep(fresh).await;
        assert!(
            !standing.borrow().is_first() && desk.may_answer(Right::First).await,
            "nobody is known to have followed"
        );
        // No look begins at this very moment.
        tokio::time::sleep(Duration::from_millis(30)).await;
        let mut lease = fake.get(&path).unwrap();
        lease["spec"]["holderIdentity"] = "two".into();
        fake.put(&path, lease);
        fake.instead(|_, _, _| None);
        let asked = fake.count_of("/leases");
        let told = futures::future::join_all((0..100).map(|_| desk.may_answer(Right::First))).await;
        assert!(told.iter().all(|may| !may), "somebody did");
        assert!(fake.count_of("/leases") <= asked + 2, "a look or two for all who ask");
        stop.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_takes_for_ever_holds_nobody_up_for_long() {
        let fake = Fake::new();
        let (one, desk) = turn(&fake, "one");
        let longest = one.pace.of(LONGEST);
        one.standing.send_replace(Standing::First { until: Some(Instant::now()) });
        let begun = Instant::now();
        // Nobody looks: it has not been started.
        let told = futures::future::join_all((0..100).map(|_| desk.may_answer(Right::First))).await;
        assert!(told.iter().all(|may| *may));
        assert!(begun.elapsed() < longest * 2, "all at once, and not one after the other");
        let begun = Instant::now();
        drop(one);
        assert!(desk.may_answer(Right::First).await && begun.elapsed() < longest, "nobody will ever look");
    }

    /// Or he would be silent since our last look, and so never for long.
    #[tokio::test(start_paused = true)]
    async fn another_is_first_since_he_was_seen_to_be_and_not_since_the_last_look() {
        let fake = Fake::new();
        let ((mut one, _), (mut two, _), (mut three, _)) =
            (turn(&fake, "one"), turn(&fake, "two"), turn(&fake, "three"));
        one.renew(false).await;
        assert_eq!(two.renew(false).await, Some(Found::New));
        let known = since(&two);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(two.renew(false).await, Some(Found::Known));
        assert_eq!(since(&two), known);
        one.give_back().await.unwrap();
        three.renew(false).await;
        assert_eq!(two.renew(false).await, Some(Found::New));
        assert!(since(&two) > known);
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_is_first_and_beaten_looks_again() {
        let fake = Fake::new();
        let ((mut one, first), (mut two, second)) = (turn(&fake, "one"), turn(&fake, "two"));
        one.renew(false).await;
        two.renew(false).await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        first.beaten();
        assert!(timeout(Duration::from_secs(5), one.doubts.notified()).await.is_ok());
        second.beaten();
        assert!(timeout(Duration::from_millis(50), two.doubts.notified()).await.is_err(), "it is another's to answer");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_loses_the_race_for_it_is_behind() {
        let fake = Fake::new();
        fake.instead(|method, _, _| {
            let (code, status) = refusal(409, "AlreadyExists", "podmint-signer");
            (method == http::Method::POST).then_some(Instead::Json(code, status))
        });
        assert_eq!(turn(&fake, "one").0.look(false).await.unwrap(), Found::New);
    }

    #[tokio::test(start_paused = true)]
    async fn where_there_are_no_leases_for_long_everyone_answers() {
        let fake = Fake::new();
        fake.instead(|_, _, _| {
            let (code, status) = refusal(403, "Forbidden", "podmint-signer");
            Some(Instead::Json(code, status))
        });
        let (turn, desk) = turn(&fake, "one");
        let (mut standing, stop, begun) = (turn.standing.subscribe(), turn.stop.clone(), Instant::now());
        let refused = turn.pace.of(REFUSED);
        tokio::spawn(turn.run());
        standing.wait_for(|standing| *standing == Standing::First { until: None }).await.unwrap();
        assert!(begun.elapsed() >= refused, "an API server that starts refuses everything");
        assert!(desk.may_answer(Right::First).await);
        stop.cancel();
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_starts_makes_nobody_first_and_takes_it_from_nobody() {
        let fake = Fake::new();
        let ((mut one, _), (mut two, _)) = (turn(&fake, "one"), turn(&fake, "two"));
        one.renew(false).await;
        two.renew(false).await;
        let refused = || {
            fake.instead(|_, _, _| {
                let (code, status) = refusal(403, "Forbidden", "podmint-signer");
                Some(Instead::Json(code, status))
            });
        };
        refused();
        assert_eq!(two.renew(true).await, None);
        assert!(!is_first(&two));
        assert_eq!(one.renew(false).await, None);
        assert!(one.standing.borrow().was_first(), "nobody is known to have followed");
        tokio::time::sleep(one.pace.of(REFUSED)).await;
        fake.instead(|_, _, _| Some(Instead::Json(500, serde_json::json!({"code": 500}))));
        assert_eq!(two.renew(false).await, None);
        refused();
        assert_eq!(
            two.renew(false).await,
            None,
            "what fails otherwise in between tells of an API server that is not well"
        );
        tokio::time::sleep(two.pace.of(REFUSED)).await;
        assert_eq!(two.renew(false).await, Some(Found::Ours));
    }
}
