//! Writes the status of PodSigners: what became of each, how its CA is, what happens next. The replica that answers first writes; a
//! change of a condition at once, the rest at most every 30 s.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use tokio::{sync::watch, time::Instant};

use super::{
    calls::{CallError, Calls},
    events::{About, Notice, Notices},
    guard::GuardState,
    keeper::Authority,
    lease::Standing,
    podsigners::{Judgement, PATH},
};
use crate::{chain::Chain, config::object::Judged, pace::Pace, resource::PodSignerStatus, roster::Roster};

mod say;

/// Writes it.
pub(crate) struct StatusWriter {
    pub(crate) calls: Calls,
    pub(crate) judgement: watch::Receiver<Judgement>,
    pub(crate) roster: Roster,
    pub(crate) authority_changes: watch::Receiver<()>,
    pub(crate) guard: watch::Receiver<GuardState>,
    pub(crate) standing: watch::Receiver<Standing>,
    pub(crate) notices: Notices,
    pub(crate) pace: Pace,
    pub(crate) written: BTreeMap<String, Written>,
}

/// What was written last for one object, by its UID.
pub(crate) struct Written {
    /// In place of which version: while that is the one we know, ours has not come back yet.
    instead_of: String,
    at: Instant,
}

impl StatusWriter {
    /// For as long as the signer runs.
    pub(crate) async fn run(mut self) {
        let mut roster = self.roster.changes();
        loop {
            if self.standing.borrow().is_first() {
                self.write_all().await;
            }
            // Many changes at once are one to those who read it.
            self.pace.pause(GAP).await;
            tokio::select! {
                Ok(()) = self.judgement.changed() => {}
                Ok(()) = roster.changed() => {}
                Ok(()) = self.authority_changes.changed() => {}
                Ok(()) = self.guard.changed() => {}
                Ok(()) = self.standing.changed() => {}
                () = self.pace.pause(EVERY) => {}
            }
        }
    }

    async fn write_all(&mut self) {
        let Some(now) = self.calls.clock().now() else { return };
        let judgement = self.judgement.borrow_and_update().clone();
        self.written.retain(|uid, _| judgement.iter().any(|one| one.object.metadata.uid == *uid));
        for one in judgement.iter() {
            let authority = one.in_force.as_ref().and_then(|signer| self.roster.authority_of(&signer.name));
            let status = say::status(one, authority.as_ref(), *self.guard.borrow(), now);
            if !self.is_due(one, &status) {
                continue;
            }
            let metadata = &one.object.metadata;
            match self.write(one, &status).await {
                Ok(()) => {
                    self.tell(one);
                    let written = Written { instead_of: metadata.resource_version.clone(), at: Instant::now() };
                    self.written.insert(metadata.uid.clone(), written);
                }
                // The watch brings what it is now.
                Err(error) if error.is_conflict() || error.is_absent() => {}
                Err(error) => {
                    tracing::warn!(podsigner = metadata.name, error = %Chain(&error), "could not write the status");
                }
            }
        }
    }

    fn is_due(&self, one: &Judged, status: &PodSignerStatus) -> bool {
        let before = &one.object.status;
        let written = self.written.get(&one.object.metadata.uid);
        if status == before || written.is_some_and(|it| it.instead_of == one.object.metadata.resource_version) {
            return false;
        }
        let is_answer = status.commands != before.commands;
        let matters = is_answer || status.conditions != before.conditions || status.state != before.state;
        matters || written.is_none_or(|it| it.at.elapsed() >= self.pace.of(EVERY))
    }

    async fn write(&self, one: &Judged, status: &PodSignerStatus) -> Result<(), CallError> {
        let metadata = &one.object.metadata;
        let body = json!({
            "apiVersion": "podmint.dev/v1alpha1",
            "kind": "PodSigner",
            "metadata": {"name": metadata.name, "uid": metadata.uid, "resourceVersion": metadata.resource_version},
            "status": status,
        });
        let path = format!("{PATH}/{}/status", metadata.name);
        self.calls.replace::<serde::de::IgnoredAny>(&path, &body).await.map(drop)
    }

    /// An Event for whoever has just changed it, if that is not in force.
    fn tell(&self, one: &Judged) {
        let Some(refused) = &one.refused else { return };
        let metadata = &one.object.metadata;
        let known = one.object.status.conditions.iter().any(|condition| {
            condition.reason == refused.reason && condition.observed_generation == metadata.generation
        });
        if !known {
            self.notices.leave(Notice {
                about: About::PodSigner { name: metadata.name.clone(), uid: metadata.uid.clone() },
                reason: refused.reason,
                text: say::refusal(one, refused),
            });
        }
    }
}

const EVERY: Duration = Duration::from_secs(30);
const GAP: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
