//! What the status says. Pure: the object, its CA and the guard come in, words go out.

use time::OffsetDateTime;

use super::{Authority, GuardState, Judged};
use crate::{
    authority::{
        View,
        plan::{Fault, Mended, STABLE},
        view::{Role, Shown},
        wish::{self, Answered},
    },
    config::object::Refused,
    pipeline::Hold,
    resource::{AuthorityStatus, CommandStatus, Condition, GenerationStatus, NextStep, PodSignerStatus},
};

/// A condition before it has a time.
struct Said {
    kind: &'static str,
    status: &'static str,
    reason: String,
    message: String,
}

/// The whole status. A condition that is as it was keeps its time.
pub(super) fn status(
    one: &Judged,
    authority: Option<&Authority>,
    guard: GuardState,
    now: OffsetDateTime,
) -> PodSignerStatus {
    let said = [
        ready(one, authority, guard),
        authority_ready(one, authority),
        trust_published(one, authority),
        rotation(one, authority),
        degraded(one, authority, now),
    ];
    let before = &one.object.status.conditions;
    let generation = one.object.metadata.generation;
    let state = state(&said);
    let timed = |Said { kind, status, reason, message }: Said| {
        let since = before.iter().find(|it| it.kind == kind && it.status == status);
        Condition {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason,
            message,
            last_transition_time: since.map_or_else(|| rfc3339(now), |it| it.last_transition_time.clone()),
            observed_generation: generation,
        }
    };
    PodSignerStatus {
        observed_generation: generation,
        state,
        conditions: said.into_iter().map(timed).collect(),
        authority: authority.and_then(kept),
        commands: commands(one, authority, now),
    }
}

/// What became of each annotation. One that has come no further keeps its time.
fn commands(one: &Judged, authority: Option<&Authority>, now: OffsetDateTime) -> Vec<CommandStatus> {
    let view = authority.and_then(|authority| authority.view.as_deref());
    let trouble = match &one.in_force {
        Some(_) => authority.and_then(|authority| authority.trouble.as_deref()),
        None => Some("nothing is in force"),
    };
    let said = wish::answers(&one.object.metadata.annotations, view, trouble);
    let timed = |Answered { annotation, value, progress, message }: Answered| {
        let progress = progress.as_str();
        let is_same = |it: &&CommandStatus| it.annotation == annotation && it.value == value && it.progress == progress;
        let since = one.object.status.commands.iter().find(is_same).map(|it| it.since.clone());
        let since = since.unwrap_or_else(|| rfc3339(now));
        CommandStatus { annotation, value, progress: progress.to_owned(), message, since }
    };
    said.into_iter().map(timed).collect()
}

/// For people, in one line.
pub(super) fn refusal(one: &Judged, refused: &Refused) -> String {
    let meanwhile = match one.in_force {
        Some(_) => "the last good spec stays in force",
        None => "nothing is in force, and requests wait",
    };
    format!("{}; {meanwhile}", refused.message)
}

fn ready(one: &Judged, authority: Option<&Authority>, guard: GuardState) -> Said {
    let no = |reason: &str, message: String| said("Ready", "False", reason, message);
    let Some(signer) = &one.in_force else {
        return match &one.refused {
            Some(refused) => no(refused.reason, refusal(one, refused)),
            None => no("NotInForce", String::new()),
        };
    };
    // As it should be: whoever waits for an object to become ready, as Helm does, would otherwise wait for ever.
    if signer.suspend {
        return said("Ready", "True", "Suspended", "spec.suspend is true: requests wait".to_owned());
    }
    if !guard.lets_sign() {
        return no(
            "GuardMissing",
            "requests wait for the admission guard: `kubectl podmint guard` prints it".to_owned(),
        );
    }
    match authority.map(|authority| (&authority.issuer, &authority.trouble)) {
        Some((Ok(_), _)) => {
            said("Ready", "True", "Issuing", format!("requests for {} are answered", signer.signer_name))
        }
        Some((Err(hold), trouble)) => {
            let message = trouble.as_deref().map_or_else(|| hold.to_string(), str::to_owned);
            no(reason(hold), message)
        }
        None => no("AuthorityUnusable", "its CA has not been looked at yet".to_owned()),
    }
}

fn authority_ready(one: &Judged, authority: Option<&Authority>) -> Said {
    let kind = "AuthorityReady";
    let Some(authority) = authority.filter(|_| one.in_force.is_some()) else { return not_in_force(kind) };
    match (&authority.issuer, authority.trouble.as_deref()) {
        (Ok(issuer), _) => {
            let (number, until) = (issuer.generation().number(), rfc3339(issuer.generation().usable_until()));
            said(kind, "True", "Usable", format!("generation {number} can issue until {until}"))
        }
        (Err(Hold::TrustNotPublished), _) => {
            said(kind, "True", "Usable", "it waits for its root to be published".to_owned())
        }
        (Err(hold @ Hold::KeyStolen), _) => said(kind, "False", "KeyStolen", hold.to_string()),
        (Err(_), Some(trouble)) => said(kind, "False", "Unusable", trouble.to_owned()),
        (Err(_), None) => said(kind, "Unknown", "NotSeen", "it has not been looked at yet".to_owned()),
    }
}

fn trust_published(one: &Judged, authority: Option<&Authority>) -> Said {
    let kind = "TrustPublished";
    let Some(authority) = authority.filter(|_| one.in_force.is_some()) else { return not_in_force(kind) };
    match &authority.issuer {
        Ok(_) | Err(Hold::KeyStolen) => {
            said(kind, "True", "ReadBack", "the root was read back from its ClusterTrustBundle".to_owned())
        }
        Err(hold @ Hold::TrustNotPublished) => said(kind, "False", "NotPublished", hold.to_string()),
        Err(_) => said(kind, "Unknown", "NotSeen", "there is no CA yet whose root could be published".to_owned()),
    }
}

fn rotation(one: &Judged, authority: Option<&Authority>) -> Said {
    let kind = "RotationInProgress";
    if one.in_force.is_none() {
        return not_in_force(kind);
    }
    let Some(view) = authority.and_then(|authority| authority.view.as_deref()) else {
        return said(kind, "Unknown", "NotSeen", "no CA has been seen".to_owned());
    };
    if view.phase == STABLE {
        return said(kind, "False", "NotRotating", String::new());
    }
    let paused = if view.wish.is_paused { "; it is paused" } else { "" };
    let message = format!(
        "the root rotates, phase {}: next {} at {}{paused}",
        view.phase,
        view.next.as_str(),
        rfc3339(view.next_at)
    );
    said(kind, "True", "RootRotates", message)
}

fn degraded(one: &Judged, authority: Option<&Authority>, now: OffsetDateTime) -> Said {
    let kind = "Degraded";
    if let Some(refused) = &one.refused {
        return said(kind, "True", refused.reason, refusal(one, refused));
    }
    let mended = authority.and_then(|authority| authority.view.as_ref()?.mended);
    match (authority.and_then(|authority| authority.trouble.as_deref()), mended) {
        (Some(trouble), _) => said(kind, "True", "AuthorityTrouble", trouble.to_owned()),
        (None, Some(mended)) if now < mended.at.saturating_add(TOLD) => {
            said(kind, "True", "SecretMended", words(mended))
        }
        (None, _) => said(kind, "False", "AsItShouldBe", String::new()),
    }
}

fn words(Mended { fault, at, is_certain: _ }: Mended) -> String {
    let at = rfc3339(at);
    match fault {
        Fault::Lost => format!(
            "the Secret of the issuing CA was gone or empty at {at}, and another issuing CA was made under the same root: find out who took \
             it away"
        ),
        Fault::OldCopy => format!(
            "the Secret of the issuing CA was an old copy at {at}, of before a step of the rotation, which goes on: find out who put it there"
        ),
    }
}

fn not_in_force(kind: &'static str) -> Said {
    said(kind, "Unknown", "NotInForce", "nothing is in force".to_owned())
}

fn said(kind: &'static str, status: &'static str, reason: &str, message: String) -> Said {
    Said { kind, status, reason: reason.to_owned(), message }
}

/// One word for `kubectl get`, and another where somebody should look.
fn state(said: &[Said; 5]) -> String {
    let [ready, .., degraded] = said;
    let word = match (ready.status, ready.reason.as_str()) {
        (_, "Suspended") => "Suspended",
        ("True", _) => "Issuing",
        (_, "SpecRefused" | "Conflict" | "NotInForce") => return "Refused".to_owned(),
        _ => "Waiting",
    };
    if degraded.status == "True" { format!("{word}, degraded") } else { word.to_owned() }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "no other hold is a CA's")]
fn reason(hold: &Hold) -> &'static str {
    match hold {
        Hold::TrustNotPublished => "TrustNotPublished",
        Hold::KeyStolen => "KeyStolen",
        _ => "AuthorityUnusable",
    }
}

fn kept(authority: &Authority) -> Option<AuthorityStatus> {
    let view = authority.view.as_deref()?;
    let View { phase, number, parts, next, next_at, brought: _, wish, asked: _, mended: _, drains } = view;
    let issuing = parts.iter().find(|part| part.role == Role::Issuing)?;
    Some(AuthorityStatus {
        usable_until: rfc3339(issuing.usable_until),
        number: i64::try_from(*number).unwrap_or(i64::MAX),
        phase: (*phase).to_owned(),
        paused: wish.is_paused,
        generations: parts.iter().map(|part| generation(part, *drains)).collect(),
        next: Some(NextStep { step: next.as_str().to_owned(), at: rfc3339(*next_at) }),
    })
}

fn generation(part: &Shown, drains: Option<(OffsetDateTime, OffsetDateTime)>) -> GenerationStatus {
    let drains = drains.filter(|_| part.role == Role::PreviousRoot);
    let Shown { role, subject, key_identifier, fingerprint, not_after, usable_until } = part;
    GenerationStatus {
        phase: role.as_str().to_owned(),
        subject: subject.clone(),
        subject_key_id: key_identifier.clone(),
        fingerprint: fingerprint.to_string(),
        not_after: rfc3339(*not_after),
        usable_until: rfc3339(*usable_until),
        signed_until: drains.map(|(signed, _)| rfc3339(signed)),
        trusted_until: drains.map(|(_, trusted)| rfc3339(trusted)),
    }
}

fn rfc3339(time: OffsetDateTime) -> String {
    jiff::Timestamp::from_second(time.unix_timestamp()).map_or_else(|_| String::new(), |time| time.to_string())
}

/// For how long it is said that something was wrong with a Secret, once it is set right.
const TOLD: time::Duration = time::Duration::HOUR;
