//! What a kubelet remembers about one `podCertificate` source, and how that changes. Pure: time comes in.

use jiff::Timestamp;

/// Where a source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nothing was asked for yet.
    Initial,
    /// The first request is not answered yet.
    Wait,
    /// There is a certificate.
    Fresh,
    /// There is a certificate, and a request for the next is not answered yet.
    WaitRefresh,
    /// Denied. Stays so until the pod is replaced or the agent restarts.
    Denied,
    /// Failed. Stays so until the pod is replaced or the agent restarts.
    Failed,
}

/// A key and its certificates. Has no `Debug`: nothing may print it.
#[derive(Clone)]
pub(crate) struct Credential {
    pub(crate) key: String,
    pub(crate) chain: String,
    pub(crate) refresh_at: Timestamp,
}

/// A request that was made.
#[derive(Clone)]
pub(crate) struct Pending {
    pub(crate) request: String,
    pub(crate) key: String,
    /// A request that cannot be found any more after this time is lost.
    pub(crate) abandon_at: Timestamp,
}

/// One source's progress.
#[derive(Default)]
pub(crate) enum Record {
    /// See [`State::Initial`].
    #[default]
    Initial,
    /// See [`State::Wait`].
    Wait(Pending),
    /// See [`State::Fresh`].
    Fresh(Credential),
    /// See [`State::WaitRefresh`].
    WaitRefresh(Credential, Pending),
    /// See [`State::Denied`].
    Denied(String),
    /// See [`State::Failed`].
    Failed(String),
}

/// How a request was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Issued { chain: String, refresh_at: Timestamp },
    Denied { reason: String, message: String },
    Failed { reason: String, message: String },
}

impl Record {
    pub(crate) const fn state(&self) -> State {
        match self {
            Self::Initial => State::Initial,
            Self::Wait(_) => State::Wait,
            Self::Fresh(_) => State::Fresh,
            Self::WaitRefresh(..) => State::WaitRefresh,
            Self::Denied(_) => State::Denied,
            Self::Failed(_) => State::Failed,
        }
    }

    /// Whether it is time to ask for a certificate.
    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        match self {
            Self::Initial => true,
            Self::Fresh(credential) => now >= credential.refresh_at,
            Self::Wait(_) | Self::WaitRefresh(..) | Self::Denied(_) | Self::Failed(_) => false,
        }
    }

    /// Makes a certificate due for refresh now. Says whether there was one.
    pub(crate) fn hasten(&mut self, now: Timestamp) -> bool {
        match self {
            Self::Fresh(credential) => {
                credential.refresh_at = credential.refresh_at.min(now);
                true
            }
            Self::Initial | Self::Wait(_) | Self::WaitRefresh(..) | Self::Denied(_) | Self::Failed(_) => false,
        }
    }

    /// The request that is out, if one is.
    pub(crate) const fn pending(&self) -> Option<&Pending> {
        match self {
            Self::Wait(pending) | Self::WaitRefresh(_, pending) => Some(pending),
            Self::Initial | Self::Fresh(_) | Self::Denied(_) | Self::Failed(_) => None,
        }
    }

    /// A request was made.
    pub(crate) fn requested(&mut self, pending: Pending) {
        *self = match std::mem::take(self) {
            Self::Initial | Self::Wait(_) => Self::Wait(pending),
            Self::Fresh(credential) | Self::WaitRefresh(credential, _) => Self::WaitRefresh(credential, pending),
            ended @ (Self::Denied(_) | Self::Failed(_)) => ended,
        };
    }

    /// The request was answered. A refusal of a refresh throws away the certificate that was still good.
    pub(crate) fn answered(&mut self, outcome: Outcome) {
        *self = match (std::mem::take(self), outcome) {
            (Self::Wait(pending) | Self::WaitRefresh(_, pending), Outcome::Issued { chain, refresh_at }) => {
                Self::Fresh(Credential { key: pending.key, chain, refresh_at })
            }
            (Self::Wait(_) | Self::WaitRefresh(..), Outcome::Denied { reason, message }) => {
                Self::Denied(format!("PodCertificateRequest was denied: {reason}: {message}"))
            }
            (Self::Wait(_) | Self::WaitRefresh(..), Outcome::Failed { reason, message }) => {
                Self::Failed(format!("PodCertificateRequest failed: {reason}: {message}"))
            }
            (unmoved @ (Self::Initial | Self::Fresh(_) | Self::Denied(_) | Self::Failed(_)), _) => unmoved,
        };
    }

    /// The request cannot be found. Before its time that may be lag; after, it is lost. Says whether it was.
    pub(crate) fn missing(&mut self, now: Timestamp) -> bool {
        if self.pending().is_none_or(|pending| now <= pending.abandon_at) {
            return false;
        }
        *self = match std::mem::take(self) {
            Self::Wait(_) => Self::Initial,
            Self::WaitRefresh(credential, _) => Self::Fresh(credential),
            other @ (Self::Initial | Self::Fresh(_) | Self::Denied(_) | Self::Failed(_)) => other,
        };
        true
    }

    /// Key and chain for the volume. After expiry too: a kubelet does not withdraw them.
    pub(crate) fn credential(&self) -> Result<&Credential, String> {
        match self {
            Self::Initial => Err("PodCertificateRequest not created yet".to_owned()),
            Self::Wait(pending) => Err(format!("PodCertificateRequest {} not issued yet", pending.request)),
            Self::Fresh(credential) | Self::WaitRefresh(credential, _) => Ok(credential),
            Self::Denied(why) | Self::Failed(why) => Err(why.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pending(key: &str) -> Pending {
        Pending { request: format!("req-{key}"), key: key.to_owned(), abandon_at: at(600) }
    }

    fn issued(chain: &str) -> Outcome {
        Outcome::Issued { chain: chain.to_owned(), refresh_at: at(1000) }
    }

    fn denied() -> Outcome {
        Outcome::Denied { reason: "No".to_owned(), message: "not you".to_owned() }
    }

    fn fresh() -> Record {
        let mut record = Record::default();
        record.requested(pending("one"));
        record.answered(issued("first"));
        record
    }

    #[test]
    fn a_first_request_waits_and_is_answered() {
        let mut record = Record::default();
        assert!(record.is_due(at(0)) && record.credential().is_err());
        record.requested(pending("one"));
        assert_eq!(record.state(), State::Wait);
        assert!(!record.is_due(at(10_000)) && record.credential().is_err());
        record.answered(issued("first"));
        let credential = record.credential().unwrap();
        assert_eq!((credential.key.as_str(), credential.chain.as_str()), ("one", "first"));
        assert!(!record.is_due(at(999)) && record.is_due(at(1000)));
    }

    #[test]
    fn the_old_certificate_stays_until_the_new_one_is_there() {
        let mut record = fresh();
        record.requested(pending("two"));
        assert_eq!((record.state(), record.credential().unwrap().key.as_str()), (State::WaitRefresh, "one"));
        record.answered(issued("second"));
        assert_eq!((record.state(), record.credential().unwrap().key.as_str()), (State::Fresh, "two"));
    }

    #[test]
    fn a_refusal_is_final_and_drops_the_old_certificate() {
        for outcome in [denied(), Outcome::Failed { reason: "No".to_owned(), message: "broken".to_owned() }] {
            let mut record = fresh();
            record.requested(pending("two"));
            record.answered(outcome.clone());
            let state = record.state();
            assert!(matches!(state, State::Denied | State::Failed));
            assert!(record.credential().is_err());
            record.answered(issued("late"));
            record.requested(pending("three"));
            assert!(!record.hasten(at(0)) && !record.is_due(at(i64::from(i32::MAX))) && !record.missing(at(9999)));
            assert_eq!(record.state(), state);
        }
    }

    #[test]
    fn a_lost_request_is_made_again_only_after_its_time() {
        let mut first = Record::default();
        first.requested(pending("one"));
        assert!(!first.missing(at(600)));
        assert!(first.missing(at(601)));
        assert_eq!(first.state(), State::Initial);
        let mut refresh = fresh();
        refresh.requested(pending("two"));
        assert!(refresh.missing(at(601)));
        assert_eq!((refresh.state(), refresh.credential().unwrap().key.as_str()), (State::Fresh, "one"));
    }

    #[test]
    fn only_a_certificate_can_be_hastened() {
        let mut record = fresh();
        assert!(record.hasten(at(5)) && record.is_due(at(5)));
        assert!(!Record::default().hasten(at(5)));
    }
}
