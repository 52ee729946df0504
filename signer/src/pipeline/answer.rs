//! The whole walk in one function, and the one type in which every walk ends.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{
    approved::Approved,
    issued::{Fault, Issued},
    observed::Observed,
    profile::Profile,
    refusal::{Denial, Hold},
    verified::{LookAgain, Unverified, Verified},
};
use crate::{authority::Issuer, config::PodSigner, names::SerialNumber};

/// How a walk ends.
#[derive(Debug)]
pub enum Answer {
    /// Publish the certificate.
    Issue(Box<Issued>),
    /// Refuse for ever.
    Deny(Denial),
    /// Say nothing; look again when the cause may have gone.
    Hold(Hold),
    /// Say nothing; try again soon.
    Fault(Fault),
}

impl Answer {
    /// For metrics and logs: the kind of answer.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Issue(_) => "issued",
            Self::Deny(_) => "denied",
            Self::Hold(_) => "held",
            Self::Fault(_) => "fault",
        }
    }

    /// For people: why, and what to change.
    pub fn message(&self) -> String {
        match self {
            Self::Issue(issued) => issued.words().called(),
            Self::Deny(denial) => denial.to_string(),
            Self::Hold(hold) => hold.to_string(),
            Self::Fault(fault) => fault.to_string(),
        }
    }

    /// For metrics and logs: why.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Issue(_) => "issued",
            Self::Deny(denial) => denial.label(),
            Self::Hold(hold) => hold.label(),
            Self::Fault(fault) => fault.label(),
        }
    }
}

/// An answer, or the wish to see some facts again before there is one.
#[derive(Debug)]
pub enum Decision {
    /// The end of the walk.
    Answer(Answer),
    /// Read these by quorum, and decide again at once.
    LookAgain(LookAgain),
}

/// What the walk needs beside what was observed.
#[derive(Clone, Copy, Debug)]
pub struct Means<'a> {
    /// The PodSigner of the claim's signer name; none where there is none.
    pub signer: Option<&'a Arc<PodSigner>>,
    /// The CA, if there is one that may sign now.
    pub issuer: Option<&'a Issuer>,
    /// The API server's time.
    pub now: OffsetDateTime,
    /// A fresh serial number.
    pub serial: SerialNumber,
}

/// Walks from facts to answer.
pub fn decide(seen: Observed, means: Means<'_>) -> Decision {
    match walk(seen, means) {
        Ok(issued) => Decision::Answer(Answer::Issue(Box::new(issued))),
        Err(decision) => decision,
    }
}

fn walk(seen: Observed, means: Means<'_>) -> Result<Issued, Decision> {
    let Means { signer, issuer, now, serial } = means;
    let profile = words(seen, signer, issuer.map(Issuer::usable_until), now, serial)?;
    let issuer = issuer.ok_or(Hold::AuthorityUnusable)?;
    Issued::sign(profile, issuer).map_err(|fault| {
        // The keeper looks again by itself.
        let not_yet = matches!(fault, Fault::NotYet(_));
        if not_yet { Hold::AuthorityUnusable.into() } else { Decision::Answer(Answer::Fault(fault)) }
    })
}

/// Walks from facts to the words of the certificate: all that is decided before the CA's key is touched. The signer goes on from
/// here; `kubectl podmint explain` ends here. `usable_until` is the CA's, where there is one.
pub fn words(
    seen: Observed,
    signer: Option<&Arc<PodSigner>>,
    usable_until: Option<OffsetDateTime>,
    now: OffsetDateTime,
    serial: SerialNumber,
) -> Result<Profile, Decision> {
    let name = seen.claim.signer.clone();
    let verified = Verified::check(seen)?;
    let approved = Approved::admit(verified, signer.ok_or(Hold::NoSuchSigner(name))?)?;
    Ok(Profile::decide(approved, usable_until.ok_or(Hold::AuthorityUnusable)?, now, serial)?)
}

impl From<Unverified> for Decision {
    fn from(unverified: Unverified) -> Self {
        match unverified {
            Unverified::LookAgain(again) => Self::LookAgain(again),
            Unverified::Deny(denial) => Self::Answer(Answer::Deny(denial)),
            Unverified::Hold(hold) => Self::Answer(Answer::Hold(hold)),
        }
    }
}

impl From<Hold> for Decision {
    fn from(hold: Hold) -> Self {
        Self::Answer(Answer::Hold(hold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{
        Claim, Fact, Freshness,
        honest::{self, NOW, changed, claim, config_with_rule, honest, honest_of, issuer, serial, signer},
    };

    fn decided(seen: Observed, signer: Option<&Arc<PodSigner>>, issuer: Option<&Issuer>) -> Decision {
        decide(seen, Means { signer, issuer, now: NOW, serial: serial() })
    }

    #[test]
    fn an_honest_request_is_answered_with_a_certificate() {
        let Decision::Answer(answer) = decided(honest(), Some(&signer()), Some(&issuer())) else { panic!() };
        assert_eq!((answer.kind(), answer.label()), ("issued", "issued"));
    }

    #[test]
    fn what_a_pod_asks_for_and_is_granted_is_in_its_certificate() {
        let asks: Box<[(Box<str>, Box<str>)]> = [("podmint.dev/common-name".into(), "cart_rw".into())].into();
        let mut seen = honest_of(Claim { annotations: asks.clone(), ..claim() });
        let Fact::Found(pod, _) = &mut seen.pod else { panic!() };
        pod.projections[0].annotations = asks;
        let signer = config_with_rule("{commonNames: [cart_rw]}");
        let Decision::Answer(answer) = decided(seen, Some(&signer), Some(&issuer())) else { panic!() };
        assert_eq!(answer.message(), "spiffe://prod.example.org/ns/shop/sa/cart");
        let Answer::Issue(issued) = answer else { panic!() };
        assert!(issued.words().subject.fields().eq([(3, "cart_rw")]));
    }

    #[test]
    fn binding_comes_before_policy_and_policy_before_the_ca() {
        let suspended = changed(|signer| signer.suspend = true);
        let gone = Observed { node: Fact::Absent(Freshness::Cached), ..honest() };
        assert!(matches!(decided(gone, Some(&suspended), None), Decision::LookAgain(again) if again.node));
        let label = |decision: Decision| match decision {
            Decision::Answer(answer) => (answer.kind(), answer.label()),
            Decision::LookAgain(_) => ("again", ""),
        };
        assert_eq!(label(decided(honest(), Some(&suspended), None)), ("held", "suspended"));
        assert_eq!(label(decided(honest(), None, Some(&issuer()))), ("held", "no_such_signer"));
        assert_eq!(label(decided(honest(), Some(&signer()), None)), ("held", "authority_unusable"));
        let late = honest::issuer();
        let means = Means { signer: Some(&signer()), issuer: Some(&late), now: late.usable_until(), serial: serial() };
        assert_eq!(label(decide(honest(), means)), ("held", "authority_ends_first"));
    }
}
