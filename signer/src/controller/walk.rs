//! The walk of one request, from the object to the answer: reads, lets the pipeline decide, records, publishes. What the
//! pipeline decides is decided there; here is only the order of things.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use time::OffsetDateTime;
use tokio::{sync::watch, time::Instant};

use super::{
    item::Job,
    live::{Asks, Live},
};
use crate::{
    audit::{AuditError, Clerk, Outcome, Recorded, Refused},
    authority::{Origin, Tracer},
    chain::Chain,
    cluster::{
        calls::{CallError, Calls},
        events::{About, Notice, Notices},
        guard::GuardState,
        keeper::serial,
        lease::{Desk, Right},
        lookup::{Lookup, LookupError, Wants},
        publish::{Put, fate, publish, reread},
        services::SeenServices,
        versions::{Version, Versions},
        wire::{RequestObject, State, Target},
    },
    config::PodSigner,
    metrics::{AnswerLabels, Metrics},
    names::{PodName, PodUid, ServiceName},
    pace::Pace,
    pipeline::{
        Answer, Claim, Decision, Denial, Fact, Fault, Freshness, Hold, Holds, Issued, Observed, Unclaimed,
        answer::{Means, decide},
        claim::key_asked_with,
        holds::CONFIG_MAP,
        rules::Broken,
    },
    roster::Roster,
};

/// What all walks share.
pub(crate) struct Parts {
    pub(crate) calls: Calls,
    pub(crate) versions: Versions,
    pub(crate) lookup: Lookup,
    pub(crate) services: SeenServices,
    pub(crate) roster: Roster,
    pub(crate) authority_changes: watch::Sender<()>,
    pub(crate) guard: watch::Receiver<GuardState>,
    pub(crate) clerk: Clerk,
    pub(crate) notices: Notices,
    pub(crate) metrics: Metrics,
    pub(crate) pace: Pace,
    pub(crate) desk: Desk,
    pub(crate) live: Mutex<Live>,
    /// As they were last read.
    pub(crate) holds: Mutex<Arc<Holds>>,
    /// Of each signer, for its roots of now.
    pub(crate) tracers: Mutex<HashMap<usize, Tracer>>,
}

/// A walk that ended.
pub(crate) struct Walked {
    pub(crate) ended: Ended,
    pub(crate) took: Duration,
    /// An error that may show that the API server has too much to do.
    pub(crate) overload: Option<Arc<CallError>>,
}

/// How.
pub(crate) enum Ended {
    /// We answered.
    Answered,
    /// Somebody else did.
    Lost,
    /// There is nothing to answer any more.
    Gone,
    /// It stays pending, for another replica to answer.
    Left,
    /// It stays pending, for a reason that has to pass.
    Held { hold: Hold, pod: Option<(PodName, PodUid)> },
    /// It stays pending, and it is our own trouble.
    Faulted,
}

/// Our own trouble.
#[derive(Debug, thiserror::Error)]
enum WalkError {
    #[error("the API server serves no podcertificaterequests")]
    NotServed,
    #[error("could not read the request")]
    Read(#[source] Arc<CallError>),
    #[error(transparent)]
    Lookup(LookupError),
    #[error("quorum reads did not settle the question")]
    Unsettled,
    #[error("the API server has not told the time")]
    NoTime,
    #[error("the source of random numbers failed")]
    NoChance,
    #[error(transparent)]
    Issue(Fault),
    #[error("our status breaks the API server's rules; it was not sent")]
    Unfit(#[source] Broken),
    #[error("could not write the status")]
    Write(#[source] Arc<CallError>),
    #[error("the API server refused the status; it is not sent again as it is")]
    Rejected(#[source] Arc<CallError>),
    #[error("the signer lacks the right to `sign` for this signer name: apply deploy/kustomize/rbac.yaml")]
    LacksSign(#[source] Arc<CallError>),
    #[error(
        "the signer may not write the status: apply deploy/kustomize/rbac.yaml (update on podcertificaterequests/status) and look at the admission guard"
    )]
    Forbidden(#[source] Arc<CallError>),
    #[error("the request changed again and again while it was looked at")]
    Restless,
}

/// One way through, and whether it must be gone again.
enum Once {
    End(Ended),
    /// The object changed under us, or the answer grew old: look again at once.
    Again,
}

/// Walks one request.
pub(crate) async fn walk(parts: Arc<Parts>, job: Job) -> Walked {
    let begun = Instant::now();
    let mut timer = parts.metrics.walk();
    let target = job.target.clone();
    let (ended, overload) = match go(&parts, job).await {
        Ok(ended) => (ended, None),
        Err(error) => {
            parts.count("fault", error.label());
            tracing::warn!(
                namespace = %target.namespace, request = %target.name, reason = error.label(), error = %Chain(&error),
                "a request cannot be answered just now"
            );
            if error.is_unserved()
                && let Err(error) = parts.versions.discover().await
            {
                tracing::debug!(error = %Chain(&error), "could not ask which versions the API server serves");
            }
            (Ended::Faulted, error.call())
        }
    };
    timer.outcome = match &ended {
        Ended::Answered => "answered",
        Ended::Lost | Ended::Gone | Ended::Left => "lost",
        Ended::Held { .. } => "hold",
        Ended::Faulted => "fault",
    };
    Walked { ended, took: begun.elapsed(), overload }
}

async fn go(parts: &Parts, mut job: Job) -> Result<Ended, WalkError> {
    for _ in 0..MOST_TURNS {
        let version = parts.versions.served().requests.ok_or(WalkError::NotServed)?;
        let object = match job.object.take() {
            Some(object) => object,
            None => {
                let read = reread(&parts.calls, version, &job.target).await;
                job.version = version;
                match read.map_err(|error| WalkError::Read(Arc::new(error)))? {
                    Some(object) => Arc::new(object),
                    None => return Ok(Ended::Gone),
                }
            }
        };
        if object.is_deleting() {
            return Ok(Ended::Gone);
        }
        if object.state() != State::Pending {
            parts.metrics.lost_races.inc();
            return Ok(Ended::Lost);
        }
        let Once::End(ended) = once(parts, &object, &job, version).await? else {
            job.since = Instant::now();
            continue;
        };
        return Ok(ended);
    }
    Err(WalkError::Restless)
}

async fn once(parts: &Parts, object: &RequestObject, job: &Job, version: Version) -> Result<Once, WalkError> {
    let now = parts.calls.clock().now().ok_or(WalkError::NoTime)?;
    if !parts.guard.borrow().lets_sign() {
        return Ok(held(parts, job, Hold::GuardMissing, pod_of(object)));
    }
    let claim = match claim(parts, object, job).await? {
        Ok(claim) => Arc::new(claim),
        Err(Unclaimed::Unaddressable(error)) => {
            parts.metrics.malformed_objects.inc();
            tracing::warn!(%error, "skipped a request that cannot be addressed");
            return Ok(Once::End(Ended::Gone));
        }
        Err(Unclaimed::Denied(target, denial)) => {
            let refused = Refused { target, claim: None, denial };
            return match may_answer(parts, job, version).await? {
                Some(end) => Ok(end),
                None => deny(parts, refused, pod_of(object), version, now).await,
            };
        }
        Err(Unclaimed::KeyNotVisible(_, hold)) => return Ok(held(parts, job, hold, pod_of(object))),
    };
    let pod = Some((claim.pod.clone(), claim.pod_uid.clone()));
    if !parts.has_its_key(job.signer, &claim) {
        return Ok(key_on_another_pod(parts, job, &claim));
    }
    let answer = look_and_decide(parts, job, &claim).await?;
    if matches!(answer, Answer::Issue(_) | Answer::Deny(_))
        && let Some(end) = may_answer(parts, job, version).await?
    {
        return Ok(end);
    }
    match answer {
        Answer::Issue(issued) => issue(parts, issued, job, version).await,
        Answer::Deny(denial) => {
            let refused = Refused { target: claim.target.clone(), claim: Some(Arc::clone(&claim)), denial };
            deny(parts, refused, pod, version, now).await
        }
        Answer::Hold(hold) => {
            // For courts, and once: what an administrator stopped is no trouble that passes.
            if let Hold::OnHold(by) = &hold
                && job.reason != hold.label()
                && let Err(error) = parts.clerk.record_hold(&claim, by, now).await
            {
                parts.audit_failed(&error);
            }
            Ok(held(parts, job, hold, pod))
        }
        Answer::Fault(fault) => Err(WalkError::Issue(fault)),
    }
}

/// The claim; what `v1` does not show is read through `v1beta1` where that is served.
async fn claim(parts: &Parts, object: &RequestObject, job: &Job) -> Result<Result<Claim, Unclaimed>, WalkError> {
    let claim = Claim::parse(object, job.version);
    if !matches!(claim, Err(Unclaimed::KeyNotVisible(..))) {
        return Ok(claim);
    }
    // Asked anew, for somebody may have switched it on by now.
    let served = parts.versions.discover().await.map_err(|error| WalkError::Read(Arc::new(error)))?;
    if !served.beta_requests {
        return Ok(claim);
    }
    let read = reread(&parts.calls, Version::V1beta1, &job.target).await;
    Ok(match read.map_err(|error| WalkError::Read(Arc::new(error)))? {
        Some(object) => Claim::parse(&object, Version::V1beta1),
        None => claim,
    })
}

/// From the API server's cache first, which can only accept; then by quorum.
async fn look_and_decide(parts: &Parts, job: &Job, claim: &Arc<Claim>) -> Result<Answer, WalkError> {
    for freshness in [Freshness::Cached, Freshness::Quorum] {
        let policy = parts.roster.policy(job.signer);
        let wants = policy.as_deref().map_or_else(Wants::default, Wants::from);
        let seen = parts.lookup.observe(Arc::clone(claim), freshness, job.since, wants);
        let (mut seen, holds) = tokio::try_join!(seen, parts.lookup.holds(job.since)).map_err(WalkError::Lookup)?;
        if let Some(holds) = &holds {
            parts.note_holds(holds);
        }
        seen.holds = holds;
        seen.services = parts.services_of(policy.as_deref(), &seen);
        let (issuer, unusable) = match parts.roster.authority(job.signer).issuer {
            Ok(issuer) => (Some(issuer), None),
            Err(hold) => (None, Some(hold)),
        };
        let means = Means {
            signer: policy.as_ref(),
            issuer: issuer.as_deref(),
            // Read after the look-up, whose replies have just set the clock.
            now: parts.calls.clock().now().ok_or(WalkError::NoTime)?,
            serial: serial().ok_or(WalkError::NoChance)?,
        };
        match (decide(seen, means), unusable) {
            (Decision::Answer(Answer::Hold(Hold::AuthorityUnusable)), Some(hold)) => return Ok(Answer::Hold(hold)),
            (Decision::Answer(answer), _) => return Ok(answer),
            (Decision::LookAgain(_), _) => {}
        }
    }
    Err(WalkError::Unsettled)
}

/// How it ends if it is not for us to answer. Asked once it is known that there is an answer, so that what is held disturbs nobody; and
/// before it is recorded. Whoever stands in for another looks whether he has answered after all: a look costs less than a lost write.
async fn may_answer(parts: &Parts, job: &Job, version: Version) -> Result<Option<Once>, WalkError> {
    if !parts.desk.may_answer(job.right).await {
        return Ok(Some(Once::End(Ended::Left)));
    }
    if job.right == Right::First {
        return Ok(None);
    }
    let now = reread(&parts.calls, version, &job.target).await.map_err(|error| WalkError::Read(Arc::new(error)))?;
    Ok(match now {
        Some(object) if object.state() == State::Pending => None,
        Some(_) => {
            parts.metrics.lost_races.inc();
            Some(Once::End(Ended::Lost))
        }
        None => Some(Once::End(Ended::Gone)),
    })
}

async fn issue(parts: &Parts, issued: Box<Issued>, job: &Job, version: Version) -> Result<Once, WalkError> {
    let now = parts.calls.clock().now().ok_or(WalkError::NoTime)?;
    let (short_lived, ignored) = (issued.is_short_lived(), !issued.claim().ignored.is_empty());
    let (claim, words) = (Arc::clone(issued.claim()), issued.words().clone());
    let policy = issued.approved().signer().name.clone();
    let (rule, shadow) = (issued.approved().rule().to_owned(), issued.approved().shadow().map(str::to_owned));
    // Before the audit line, so that the log shows no certificate that never left. The watch shows the chain only later.
    if !parts.live().take(&claim.target.uid, &claim.pod_uid, job.signer, issued.chain_pem()) {
        return Ok(key_on_another_pod(parts, job, &claim));
    }
    let recorded = match parts.clerk.record_issue(issued, now).await {
        Ok(recorded) => recorded,
        Err(error) => return Ok(unrecorded(parts, job, &error, Some((claim.pod.clone(), claim.pod_uid.clone())))),
    };
    let once = send(parts, recorded, version).await?;
    if matches!(once, Once::End(Ended::Answered)) {
        parts.count("issue", "issued");
        parts.metrics.rule(policy.as_str(), &rule, "issued");
        if let Some(shadow) = shadow {
            parts.shadow(policy.as_str(), &shadow, &claim.target);
        }
        if short_lived {
            parts.metrics.short_lives.inc();
        }
        if ignored {
            parts.metrics.ignored_csr_content.inc();
        }
        tracing::info!(
            namespace = %claim.target.namespace, request = %claim.target.name, pod = %claim.pod, name = words.called(),
            serial = %words.serial, until = %words.not_after, "issued"
        );
    }
    Ok(once)
}

async fn deny(
    parts: &Parts,
    refused: Refused,
    pod: Option<(PodName, PodUid)>,
    version: Version,
    now: OffsetDateTime,
) -> Result<Once, WalkError> {
    let (target, denial) = (refused.target.clone(), refused.denial.clone());
    let recorded = match parts.clerk.record_denial(refused, now).await {
        Ok(recorded) => recorded,
        Err(error) => {
            parts.audit_failed(&error);
            parts.count("hold", Hold::AuditUnwritable.label());
            return Ok(Once::End(Ended::Held { hold: Hold::AuditUnwritable, pod }));
        }
    };
    let once = send(parts, recorded, version).await?;
    if matches!(once, Once::End(Ended::Answered)) {
        parts.count("deny", denial.label());
        tracing::warn!(
            namespace = %target.namespace, request = %target.name, reason = denial.label(), "denied: {denial}"
        );
        parts.tell_denial(&target, &denial, pod);
    }
    Ok(once)
}

/// Publishes what was recorded, finds out what became of it, and records that.
async fn send(parts: &Parts, recorded: Recorded, version: Version) -> Result<Once, WalkError> {
    let now = parts.calls.clock().now().ok_or(WalkError::NoTime)?;
    let mut put = publish(&parts.calls, version, &recorded, now).await;
    if let Put::Unknown(error) = put {
        put = match reread(&parts.calls, version, recorded.target()).await {
            Ok(None) => Put::Gone,
            // While it is pending the write may be on its way yet; the next one will win or lose against it.
            Ok(Some(object)) => fate(&object, recorded.chain_pem()).unwrap_or(Put::Unknown(error)),
            Err(_) => Put::Unknown(error),
        };
    }
    let (outcome, result) = judge(parts, put);
    let now = parts.calls.clock().now().unwrap_or(now);
    if let Err(error) = parts.clerk.record_outcome(&recorded.receipt(), outcome, now).await {
        parts.audit_failed(&error);
    }
    result
}

fn judge(parts: &Parts, put: Put) -> (Outcome, Result<Once, WalkError>) {
    match put {
        Put::Written => (Outcome::Published, Ok(Once::End(Ended::Answered))),
        Put::Conflict | Put::Stale => (Outcome::Withdrawn, Ok(Once::Again)),
        Put::Gone => (Outcome::Gone, Ok(Once::End(Ended::Gone))),
        Put::Beaten => {
            parts.metrics.lost_races.inc();
            (Outcome::Lost, Ok(Once::End(Ended::Lost)))
        }
        Put::Unfit(broken) => (Outcome::Withdrawn, Err(WalkError::Unfit(broken))),
        Put::Refused(error) => {
            let error = Arc::new(error);
            let (cause, error) = if error.lacks_sign() {
                ("lacks_sign", WalkError::LacksSign(error))
            } else if error.is_forbidden() {
                ("forbidden", WalkError::Forbidden(error))
            } else {
                ("invalid", WalkError::Rejected(error))
            };
            parts.metrics.rejected(cause);
            (Outcome::Rejected, Err(error))
        }
        Put::Unknown(error) => (Outcome::Unknown, Err(WalkError::Write(Arc::new(error)))),
        Put::Failed(error) => {
            if !error.is_overload() && !error.is_unserved() {
                parts.metrics.rejected("other");
            }
            (Outcome::Withdrawn, Err(WalkError::Write(Arc::new(error))))
        }
    }
}

fn held(parts: &Parts, job: &Job, hold: Hold, pod: Option<(PodName, PodUid)>) -> Once {
    parts.count("hold", hold.label());
    if let Hold::NotAdmitted { policy, shadow: Some(shadow), .. } = &hold {
        parts.shadow(policy, shadow, &job.target);
    }
    tracing::debug!(
        namespace = %job.target.namespace, request = %job.target.name, reason = hold.label(), "held: {hold}"
    );
    Once::End(Ended::Held { hold, pod })
}

fn key_on_another_pod(parts: &Parts, job: &Job, claim: &Claim) -> Once {
    parts.metrics.shared_keys.inc();
    tracing::error!(
        namespace = %claim.target.namespace, request = %claim.target.name, pod = %claim.pod, key = %claim.key.hash(),
        "two pods ask with one key: somebody copied a key or replayed a request"
    );
    held(parts, job, Hold::KeyOnAnotherPod, Some((claim.pod.clone(), claim.pod_uid.clone())))
}

fn unrecorded(parts: &Parts, job: &Job, error: &AuditError, pod: Option<(PodName, PodUid)>) -> Once {
    parts.audit_failed(error);
    held(parts, job, Hold::AuditUnwritable, pod)
}

/// The pod that a request names, where it could not be read as a whole.
fn pod_of(object: &RequestObject) -> Option<(PodName, PodUid)> {
    let pod = PodName::parse(object.spec.pod_name.text()?).ok()?;
    Some((pod, PodUid::parse(object.spec.pod_uid.text()?).ok()?))
}

/// Where a request stands among all: resourceVersions of one kind are ordered (KEP-5504), and nobody writes a request before its answer.
fn place(target: &Target) -> u64 {
    target.resource_version.as_str().parse().unwrap_or(u64::MAX)
}

impl Parts {
    pub(crate) fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Services that select the pod, where its certificate is to have their names.
    fn services_of(&self, signer: Option<&PodSigner>, seen: &Observed) -> Option<Box<[ServiceName]>> {
        let wanted = signer.is_some_and(PodSigner::wants_services);
        match &seen.pod {
            Fact::Found(pod, _) if wanted => self.services.selecting(&seen.claim.target.namespace, &pod.labels),
            Fact::Found(..) | Fact::Absent(_) => None,
        }
    }

    /// How old a request is, by the API server's clock.
    pub(crate) fn age(&self, created: Option<jiff::Timestamp>) -> Duration {
        let Some((now, created)) = self.calls.clock().now().zip(created) else { return Duration::ZERO };
        let seconds = now.unix_timestamp().saturating_sub(created.as_second());
        // Both are whole seconds: what seems to be one second old was most often made this very moment.
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_sub(Duration::from_secs(1))
    }

    /// Whether a chain that somebody published under this signer name is one of ours; none while we do not know our own roots.
    pub(crate) fn trace(&self, signer: usize, chain: &str) -> Option<Origin> {
        let roots = self.roster.authority(signer).roots?;
        let mut tracers = self.tracers();
        let tracer = tracers.entry(signer).or_insert_with(|| Tracer::new(Arc::clone(&roots)));
        if !tracer.is_of(&roots) {
            *tracer = Tracer::new(roots);
        }
        Some(tracer.trace(chain))
    }

    pub(crate) fn tracers(&self) -> MutexGuard<'_, HashMap<usize, Tracer>> {
        self.tracers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the key of a request that was seen: before anybody can be answered who came later, and whether or not it is proved, for that
    /// costs too much to be done here. A key that `v1` does not show is noted when it is looked at.
    pub(crate) fn note_key(&self, signer: usize, target: &Target, object: &RequestObject) {
        let pod = object.spec.pod_uid.text().and_then(|uid| PodUid::parse(uid).ok());
        let Some((key, pod)) = key_asked_with(object).zip(pod) else { return };
        let asks = Asks { key: &key, request: &target.uid, pod: &pod, place: place(target) };
        if object.state() == State::Issued {
            self.live().certified(signer, asks);
        } else {
            self.live().claim(signer, asks);
        }
    }

    fn has_its_key(&self, signer: usize, claim: &Claim) -> bool {
        let (key, target) = (claim.key.hash(), &claim.target);
        let asks = Asks { key: &key, request: &target.uid, pod: &claim.pod_uid, place: place(target) };
        self.live().claim(signer, asks)
    }

    fn count(&self, answer: &'static str, reason: &'static str) {
        self.metrics.answers.get_or_create(&AnswerLabels { answer, reason }).inc();
    }

    /// A rule in shadow would have been the first to admit this request.
    fn shadow(&self, policy: &str, rule: &str, target: &Target) {
        self.metrics.rule(policy, rule, "shadow");
        tracing::info!(namespace = %target.namespace, request = %target.name, policy, rule, "a rule in shadow would admit this");
    }

    /// Says aloud what holds nobody although somebody meant it to.
    pub(crate) fn note_holds(&self, holds: &Arc<Holds>) {
        let count = |list: usize| i64::try_from(list).unwrap_or(i64::MAX);
        self.metrics.holds.set(count(holds.all().len()));
        self.metrics.malformed_holds.set(count(holds.malformed().len()));
        let before = {
            let mut last = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *last, Arc::clone(holds))
        };
        for entry in holds.malformed().iter().filter(|entry| !before.malformed().contains(entry)) {
            tracing::error!(
                key = entry.key,
                problem = entry.problem,
                "an entry of ConfigMap {CONFIG_MAP} holds nobody, for it cannot be understood: `kubectl podmint hold` lists it"
            );
        }
    }

    fn audit_failed(&self, error: &AuditError) {
        self.metrics.audit_failures.inc();
        tracing::error!(error = %Chain(error), "the audit log cannot be written: nothing is published without it");
    }

    fn tell_denial(&self, target: &Target, denial: &Denial, pod: Option<(PodName, PodUid)>) {
        let Some((pod, pod_uid)) = pod.filter(|_| !denial.is_quiet()) else { return };
        self.notices.leave(Notice {
            about: About::Pod { namespace: target.namespace.clone(), name: pod, uid: pod_uid },
            reason: "CertificateDenied",
            text: format!("certificate request {} is denied: {denial}", target.name),
        });
    }
}

impl WalkError {
    fn label(&self) -> &'static str {
        match self {
            Self::NotServed => "not_served",
            Self::Read(_) => "read",
            Self::Lookup(_) => "lookup",
            Self::Unsettled => "unsettled",
            Self::NoTime => "no_time",
            Self::NoChance => "no_chance",
            Self::Issue(fault) => fault.label(),
            Self::Unfit(_) => "unfit",
            Self::Write(_) => "write",
            Self::Rejected(_) => "rejected",
            Self::LacksSign(_) => "lacks_sign",
            Self::Forbidden(_) => "forbidden",
            Self::Restless => "restless",
        }
    }

    fn call(&self) -> Option<Arc<CallError>> {
        match self {
            Self::Read(error)
            | Self::Write(error)
            | Self::Rejected(error)
            | Self::LacksSign(error)
            | Self::Forbidden(error) => Some(Arc::clone(error)),
            Self::Lookup(error) => Some(Arc::clone(&error.source)),
            Self::NotServed
            | Self::Unsettled
            | Self::NoTime
            | Self::NoChance
            | Self::Issue(_)
            | Self::Unfit(_)
            | Self::Restless => None,
        }
    }

    fn is_unserved(&self) -> bool {
        matches!(self, Self::NotServed) || self.call().is_some_and(|error| error.is_unserved())
    }
}

/// A request that changes more often than this while it is looked at waits for its next turn.
const MOST_TURNS: u32 = 3;

#[cfg(test)]
pub(super) mod tests;
