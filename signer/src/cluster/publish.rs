//! Writes an answer: one PUT to `/status`, with the uid and the resourceVersion of the request that was looked at. Nothing but
//! a recorded answer can be written.

use time::OffsetDateTime;

use super::{
    calls::{CallError, Calls},
    versions::{GROUP, REQUESTS, Version},
    wire::{RequestObject, State, Target},
};
use crate::{audit::Recorded, pipeline::rules::Broken};

/// What became of the PUT.
#[derive(Debug)]
pub(crate) enum Put {
    /// It is written.
    Written,
    /// The request changed since it was looked at: look again.
    Conflict,
    /// The request is gone.
    Gone,
    /// Somebody answered first.
    Beaten,
    /// The answer is too old: sign anew.
    Stale,
    /// Our status breaks the API server's own rules, by our own copy of them. It was not sent.
    Unfit(Broken),
    /// The API server refused it.
    Refused(CallError),
    /// It may have been written, or not.
    Unknown(CallError),
    /// It was not written.
    Failed(CallError),
}

/// Writes.
pub(crate) async fn publish(calls: &Calls, version: Version, recorded: &Recorded, now: OffsetDateTime) -> Put {
    if recorded.is_stale(now) {
        return Put::Stale;
    }
    let body = match recorded.body(version, now) {
        Ok(body) => body,
        Err(broken) => return Put::Unfit(broken),
    };
    let path = format!("{}/status", path(version, recorded.target()));
    match calls.replace_briefly(&path, &body).await {
        Ok(()) => Put::Written,
        Err(error) => judge(error),
    }
}

fn judge(error: CallError) -> Put {
    if error.is_conflict() {
        Put::Conflict
    } else if error.is_absent() {
        Put::Gone
    } else if error.is_immutable() {
        Put::Beaten
    } else if error.is_invalid() || error.is_forbidden() {
        Put::Refused(error)
    } else if error.may_have_landed() {
        Put::Unknown(error)
    } else {
        Put::Failed(error)
    }
}

/// A request as it is now, by quorum; none if it is gone, or if another one has its name.
pub(crate) async fn reread(
    calls: &Calls,
    version: Version,
    target: &Target,
) -> Result<Option<RequestObject>, CallError> {
    match calls.get::<RequestObject>(&path(version, target)).await {
        Ok(object) => Ok(Some(object).filter(|object| object.target().is_ok_and(|found| found.uid == target.uid))),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What a request shows about an answer of ours whose fate is not known; nothing while it is pending.
pub(crate) fn fate(object: &RequestObject, chain: Option<&str>) -> Option<Put> {
    match object.state() {
        State::Pending => None,
        State::Issued if chain.is_some() && object.certificate_chain() == chain => Some(Put::Written),
        // Whoever denied it, us or another, it is denied.
        State::Denied if chain.is_none() => Some(Put::Written),
        State::Issued | State::Denied | State::Failed => Some(Put::Beaten),
    }
}

fn path(version: Version, target: &Target) -> String {
    format!("/apis/{GROUP}/{}/namespaces/{}/{REQUESTS}/{}", version.as_str(), target.namespace, target.name)
}
