//! What the controller keeps with each unanswered request, and how long each kind of hold waits.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{queue::Awaits, walk::Parts};
use crate::{
    cluster::{
        events::{About, Notice},
        lease::Right,
        versions::Version,
        wire::{Field, RequestObject, Target},
    },
    names::{PodName, PodUid},
    pace::{Backoff, Pace},
    pipeline::Hold,
};

/// A request in the queue.
pub(crate) struct Item {
    pub(crate) signer: usize,
    /// The listing that first showed it, or that it came after.
    pub(crate) round: u64,
    target: Target,
    version: Version,
    /// None when there was no room for it: then it is read again when its turn comes.
    object: Option<Arc<RequestObject>>,
    /// When it was first seen here, and how old it was then.
    seen: Instant,
    age: Duration,
    attempts: u32,
    /// Why it came back last.
    reason: &'static str,
    held: Option<Instant>,
    /// What the pod's author was told last.
    told: Option<(&'static str, Instant)>,
}

/// What a walk starts from.
pub(crate) struct Job {
    pub(crate) signer: usize,
    pub(crate) target: Target,
    pub(crate) version: Version,
    pub(crate) object: Option<Arc<RequestObject>>,
    /// Since when it stands in line: what was read of others since then is fresh enough for it.
    pub(crate) since: Instant,
    /// Why it came back last.
    pub(crate) reason: &'static str,
    pub(crate) right: Right,
}

impl Item {
    pub(crate) fn new(
        signer: usize,
        round: u64,
        version: Version,
        target: Target,
        object: RequestObject,
        age: Duration,
        keep: bool,
    ) -> Self {
        Self {
            signer,
            round,
            target,
            version,
            object: keep.then(|| Arc::new(object)),
            seen: Instant::now(),
            age,
            attempts: 0,
            reason: "",
            held: None,
            told: None,
        }
    }

    /// The same request, seen again: only its resourceVersion can have changed in a way that matters.
    pub(crate) fn update(&mut self, version: Version, object: RequestObject) {
        if let Ok(target) = object.target() {
            self.target = target;
        }
        self.version = version;
        if self.object.is_some() {
            self.object = Some(Arc::new(object));
        }
    }

    pub(crate) fn job(&self, right: Right, now: Instant) -> Job {
        let Self { signer, target, version, object, reason, .. } = self;
        // One that was held is looked at again because something may have changed.
        let since = if self.attempts == 0 { self.seen } else { now };
        Job { signer: *signer, target: target.clone(), version: *version, object: object.clone(), since, reason, right }
    }

    /// How old the request is.
    pub(crate) fn age(&self, now: Instant) -> Duration {
        self.age.saturating_add(now.saturating_duration_since(self.seen))
    }

    /// How long we have known it.
    pub(crate) fn known(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.seen)
    }

    /// Roughly the bytes it keeps in memory beyond those of every item.
    pub(crate) fn weight(&self) -> usize {
        self.object.as_deref().map_or(0, weight)
    }

    /// Why it came back last; nothing if it has not.
    pub(crate) fn reason(&self) -> &'static str {
        self.reason
    }

    /// Another reason than last time begins another backoff.
    pub(crate) fn because(&mut self, reason: &'static str) {
        if std::mem::replace(&mut self.reason, reason) != reason {
            self.attempts = 0;
        }
    }

    /// The number of times it has come back, for its backoff.
    pub(crate) fn next_attempt(&mut self) -> u32 {
        let attempt = self.attempts;
        self.attempts = self.attempts.saturating_add(1);
        attempt
    }

    /// Notes that it is held, and tells the pod's author once it has been for long enough; again when the reason changes, and before the API
    /// server forgets that he was told.
    pub(crate) fn tell(&mut self, parts: &Parts, hold: &Hold, pod: Option<(PodName, PodUid)>, now: Instant) {
        let since = *self.held.get_or_insert(now);
        let due = now.saturating_duration_since(since) >= parts.pace.of(TELL_AFTER);
        let due = due && is_news(self.told, hold.label(), now, parts.pace.of(TELL_AGAIN));
        let Some((pod, pod_uid)) = pod.filter(|_| due) else { return };
        self.told = Some((hold.label(), now));
        parts.notices.leave(Notice {
            about: About::Pod { namespace: self.target.namespace.clone(), name: pod, uid: pod_uid },
            reason: "CertificateOnHold",
            text: format!("certificate request {} waits: {hold}", self.target.name),
        });
    }

    /// When the pod's author is to be told, if he has not been.
    pub(crate) fn tell_at(&self, pace: Pace) -> Option<Instant> {
        self.told.is_none().then(|| self.held?.checked_add(pace.of(TELL_AFTER))).flatten()
    }
}

/// Whether somebody who was told that is to be told this.
fn is_news(told: Option<(&str, Instant)>, reason: &str, now: Instant, again: Duration) -> bool {
    told.is_none_or(|(before, at)| before != reason || now.saturating_duration_since(at) >= again)
}

/// The texts that may be long.
fn weight(object: &RequestObject) -> usize {
    let spec = &object.spec;
    let texts = [&spec.stub_pkcs10_request, &spec.pkix_public_key, &spec.proof_of_possession];
    let texts = texts.into_iter().filter_map(Field::text).map(str::len);
    let annotations = match &spec.annotations {
        Field::Good(annotations) => annotations.as_slice(),
        Field::Absent | Field::Wrong => &[],
    };
    let annotations = annotations.iter().flat_map(|(key, value)| [key.len(), value.len()]);
    texts.chain(annotations).fold(size_of::<RequestObject>(), usize::saturating_add)
}

/// How long a request that is held waits before it is looked at again.
pub(crate) fn backoff(hold: &Hold) -> Backoff {
    match hold {
        // Caches that lag catch up within a moment, or something is really not there.
        Hold::PodNotFound
        | Hold::OtherPod { .. }
        | Hold::PodNotBound
        | Hold::ServiceAccountNotFound(_)
        | Hold::OtherServiceAccount(_)
        | Hold::NodeNotFound(_)
        | Hold::OtherNode(_)
        | Hold::NotSelected(_)
        | Hold::ServicesNotKnown => Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(30) },
        // We are told when these change; the time is for when we are not.
        Hold::AuthorityEndsFirst { .. }
        | Hold::AuthorityUnusable
        | Hold::KeyStolen
        | Hold::TrustNotPublished
        | Hold::GuardMissing => Backoff { first: Duration::from_secs(2), longest: Duration::from_secs(30) },
        // Nobody tells us that a hold is over, and it is to end soon after it was released.
        Hold::OnHold(_) | Hold::HoldsNotKnown => {
            Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(15) }
        }
        Hold::AuditUnwritable => Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(10) },
        // A person has to change something. We are told when it is the PodSigner.
        Hold::KeyNotVisible
        | Hold::UnknownAnnotation { .. }
        | Hold::NoSuchSigner(_)
        | Hold::Suspended { .. }
        | Hold::NotAdmitted { .. }
        | Hold::KeyTypeNotServed { .. }
        | Hold::NoSuchName { .. }
        | Hold::TooManyServices { .. }
        | Hold::AnnotationValue { .. }
        | Hold::NotGranted { .. }
        | Hold::KeyOnAnotherPod => Backoff { first: Duration::from_secs(5), longest: Duration::from_mins(1) },
    }
}

/// Whose change makes a held request worth another look.
pub(crate) fn awaits(hold: &Hold) -> Awaits {
    match hold {
        Hold::AuthorityEndsFirst { .. } | Hold::AuthorityUnusable | Hold::KeyStolen | Hold::TrustNotPublished => {
            Awaits::Authority
        }
        Hold::GuardMissing => Awaits::Guard,
        Hold::NoSuchSigner(_)
        | Hold::Suspended { .. }
        | Hold::NotAdmitted { .. }
        | Hold::KeyTypeNotServed { .. }
        | Hold::NoSuchName { .. }
        | Hold::AnnotationValue { .. }
        | Hold::NotGranted { .. } => Awaits::Policy,
        Hold::KeyNotVisible
        | Hold::PodNotFound
        | Hold::OtherPod { .. }
        | Hold::PodNotBound
        | Hold::ServiceAccountNotFound(_)
        | Hold::OtherServiceAccount(_)
        | Hold::NodeNotFound(_)
        | Hold::OtherNode(_)
        | Hold::UnknownAnnotation { .. }
        | Hold::ServicesNotKnown
        | Hold::TooManyServices { .. }
        | Hold::NotSelected(_)
        | Hold::OnHold(_)
        | Hold::HoldsNotKnown
        | Hold::AuditUnwritable
        | Hold::KeyOnAnotherPod => Awaits::Time,
    }
}

/// Long enough that what passes by itself has passed.
const TELL_AFTER: Duration = Duration::from_secs(30);
/// An Event lives an hour unless the API server is told otherwise, and the one that was written may have been lost.
const TELL_AGAIN: Duration = Duration::from_mins(30);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_is_told_again_when_the_reason_changes_and_before_the_event_is_forgotten() {
        let now = Instant::now() + TELL_AGAIN;
        let told = |minutes| Some(("not_admitted", now - Duration::from_mins(minutes)));
        assert!(is_news(None, "not_admitted", now, TELL_AGAIN));
        assert!(!is_news(told(29), "not_admitted", now, TELL_AGAIN));
        assert!(is_news(told(29), "suspended", now, TELL_AGAIN));
        assert!(is_news(told(30), "not_admitted", now, TELL_AGAIN));
    }
}
