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
    let name = seen.claim.signer.clone();
    let verified = Verified::check(seen)?;
    let signer = signer.ok_or(Hold::NoSuchSigner(name))?;
    let approved = Approved::admit(verified, signer)?;
    let issuer = issuer.ok_or(Hold::AuthorityUnusable)?;
    let profile = Profile::decide(approved, issuer.usable_until(), now, serial)?;
    Issued::sign(profile, issuer).map_err(|fault| Decision::Answer(Answer::Fault(fault)))
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
