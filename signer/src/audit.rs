//! The record of what was issued and refused, for courts: one JSON line before anything is published, one with what became of
//! it. What could not be recorded is not published: [`Recorded`] is the only thing that can be, and only this file makes it.

mod line;
mod log;

use std::sync::Arc;

use serde::Serialize;
use time::OffsetDateTime;

pub(crate) use self::log::Log;
pub use self::log::{AuditError, Sink};
use self::{
    line::{Became, Claimed, Denying, Held, Issuing, Line, Request, Time},
    log::Text,
};
use crate::{
    cluster::{versions::Version, wire::Target},
    names::{RequestUid, SerialNumber},
    pipeline::{Claim, Denial, HeldBy, Issued, rules::Broken, status},
};

/// An answer whose line is in the audit log.
///
/// The fields are private to this file, so that nobody can publish what was not recorded.
pub(crate) struct Recorded(Final);

/// An answer that is going to be published.
enum Final {
    Issued(Box<Issued>),
    Denied(Refused),
}

/// A refusal, with what is known of whoever was refused.
pub(crate) struct Refused {
    pub(crate) target: Target,
    /// None when the request was too broken to be read.
    pub(crate) claim: Option<Arc<Claim>>,
    pub(crate) denial: Denial,
}

/// What became of a recorded answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is what the API server has.
    Published,
    /// Somebody else answered first.
    Lost,
    /// The request is gone.
    Gone,
    /// It was not written: the request had changed, or time had passed. Another answer may follow.
    Withdrawn,
    /// The API server refused it.
    Rejected,
    /// Nobody knows: the reply was lost, and the request could not be read again.
    Unknown,
}

/// Writes records. All clones write to one log.
#[derive(Clone, Debug)]
pub(crate) struct Clerk {
    log: Log,
    replica: Arc<str>,
}

impl Clerk {
    pub(crate) fn new(log: Log, replica: &str) -> Self {
        Self { log, replica: replica.into() }
    }

    /// Records a certificate, with every fact behind it.
    pub(crate) async fn record_issue(&self, issued: Box<Issued>, at: OffsetDateTime) -> Result<Recorded, AuditError> {
        let line = self.line("issuing", Request::named(&issued.claim().target), Issuing::of(&issued), at)?;
        self.log.write(line).await?;
        Ok(Recorded(Final::Issued(issued)))
    }

    /// Records a refusal for ever.
    pub(crate) async fn record_denial(&self, refused: Refused, at: OffsetDateTime) -> Result<Recorded, AuditError> {
        let Refused { target, claim, denial } = &refused;
        let claim = claim.as_deref().map(Claimed::of);
        let denying = Denying { claim, reason: denial.label(), message: denial.to_string() };
        let line = self.line("denying", Request::named(target), denying, at)?;
        self.log.write(line).await?;
        Ok(Recorded(Final::Denied(refused)))
    }

    /// Records that an administrator's hold keeps a pod from its certificate.
    pub(crate) async fn record_hold(&self, claim: &Claim, by: &HeldBy, at: OffsetDateTime) -> Result<(), AuditError> {
        let held = Held { claim: Claimed::of(claim), hold: by.to_json() };
        self.log.write(self.line("held", Request::named(&claim.target), held, at)?).await
    }

    /// Records what became of it.
    pub(crate) async fn record_outcome(
        &self,
        receipt: &Receipt,
        outcome: Outcome,
        at: OffsetDateTime,
    ) -> Result<(), AuditError> {
        let Receipt { request, answer, serial } = receipt;
        let became = Became { answer, serial: *serial, outcome: outcome.label() };
        self.log.write(self.line("outcome", Request::Known { uid: request.as_str() }, became, at)?).await
    }

    fn line(
        &self,
        event: &'static str,
        request: Request<'_>,
        more: impl Serialize,
        at: OffsetDateTime,
    ) -> Result<Text, AuditError> {
        Text::of(&Line { time: Time(at), event, replica: &self.replica, request, more })
    }
}

/// What remains of a recorded answer once it is on its way.
#[derive(Clone, Debug)]
pub(crate) struct Receipt {
    request: RequestUid,
    answer: &'static str,
    serial: Option<SerialNumber>,
}

impl Recorded {
    /// Where it goes.
    pub(crate) fn target(&self) -> &Target {
        match &self.0 {
            Final::Issued(issued) => &issued.claim().target,
            Final::Denied(refused) => &refused.target,
        }
    }

    /// The body of the one PUT.
    pub(crate) fn body(&self, version: Version, now: OffsetDateTime) -> Result<status::Body<'_>, Broken> {
        match &self.0 {
            Final::Issued(issued) => status::issued(issued, version, now),
            Final::Denied(refused) => status::denied(&refused.target, &refused.denial, version, now),
        }
    }

    /// The chain that is about to be published.
    pub(crate) fn chain_pem(&self) -> Option<&str> {
        match &self.0 {
            Final::Issued(issued) => Some(issued.chain_pem()),
            Final::Denied(_) => None,
        }
    }

    /// Whether it is too old to be published.
    pub(crate) fn is_stale(&self, now: OffsetDateTime) -> bool {
        match &self.0 {
            Final::Issued(issued) => issued.is_stale(now),
            Final::Denied(_) => false,
        }
    }

    pub(crate) fn receipt(&self) -> Receipt {
        let (answer, serial) = match &self.0 {
            Final::Issued(issued) => ("issue", Some(issued.words().serial)),
            Final::Denied(_) => ("deny", None),
        };
        Receipt { request: self.target().uid.clone(), answer, serial }
    }
}

impl Outcome {
    const fn label(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Lost => "lost",
            Self::Gone => "gone",
            Self::Withdrawn => "withdrawn",
            Self::Rejected => "rejected",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests;
