//! What an administrator asks of a CA: annotations of the PodSigner, or of the signing Secret where PodSigners are in a file. Nobody
//! takes one away when it is done. Each says what it is about, so that what was done once is not done again.

use std::collections::BTreeMap;

use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    plan::{Plan, STABLE},
    view::{Role, View},
};
use crate::names::{Sha256, clip, nearest};

/// What an administrator asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wish {
    /// Rotate the root, once for each new value.
    pub rotate: Option<String>,
    /// Make another issuing CA in place of the one with this number.
    pub renew: Option<u64>,
    /// Begin no rotation, and let none take a step that anybody would notice.
    pub is_paused: bool,
    /// Sign nothing more under this root: its key is stolen.
    pub stolen: Option<Sha256>,
    /// Withdraw this previous root now, whatever lives under it: its key is stolen.
    pub withdraw: Option<Sha256>,
    /// Go on with a new root in place of this one, whose key is lost.
    pub lost: Option<Sha256>,
}

impl Wish {
    /// Of an object's annotations. What cannot be understood asks for nothing; [`answers`] says so.
    pub fn read(annotations: &BTreeMap<String, String>) -> Self {
        let word = |name: &str| annotations.get(name).filter(|word| !word.is_empty());
        let root = |name: &str| word(name).and_then(|word| Sha256::parse(word));
        Self {
            rotate: word(ROTATE).cloned(),
            renew: word(RENEW).and_then(|word| word.parse().ok()),
            is_paused: word(PAUSE).is_some_and(|word| word == YES),
            stolen: root(STOLEN),
            withdraw: root(WITHDRAW),
            lost: root(LOST),
        }
    }

    /// Whether a rotation of the root is wished for that was not granted yet.
    pub(super) fn rotates(&self, plan: &Plan, root: Sha256) -> bool {
        self.rotate.is_some() && self.rotate != plan.asked || self.lost == Some(root)
    }

    /// Whether this issuing CA is to have a successor now.
    pub(super) fn renews(&self, plan: &Plan) -> bool {
        self.renew == Some(plan.number)
    }
}

/// How far a wish has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is as was asked for.
    Done,
    /// It has begun.
    Underway,
    /// It has not begun.
    Waiting,
    /// It will never begin.
    Refused,
}

impl Progress {
    /// For the status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "Done",
            Self::Underway => "Underway",
            Self::Waiting => "Waiting",
            Self::Refused => "Refused",
        }
    }
}

/// What became of one annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The annotation.
    pub annotation: String,
    /// Its value.
    pub value: String,
    /// How far it has come.
    pub progress: Progress,
    /// What that means, and what to do.
    pub message: String,
}

/// What became of each wish, as the CA is now. Without a view there is no CA that can be used, and `trouble` says why.
pub fn answers(annotations: &BTreeMap<String, String>, view: Option<&View>, trouble: Option<&str>) -> Vec<Answered> {
    let ours = annotations.iter().filter(|(name, _)| name.starts_with(OURS));
    let answered = ours.map(|(name, value)| {
        let (progress, message) = answer(name, value, view, trouble);
        let (annotation, value) = (name.clone(), clip(value));
        Answered { annotation, value, progress, message }
    });
    answered.collect()
}

type Said = (Progress, String);

fn answer(name: &str, value: &str, view: Option<&View>, trouble: Option<&str>) -> Said {
    let asked = match understand(name, value) {
        Ok(asked) => asked,
        Err(message) => return (Progress::Refused, message),
    };
    let Some(view) = view else {
        return (Progress::Waiting, trouble.unwrap_or("the CA has not been looked at yet").to_owned());
    };
    let (progress, message) = match asked {
        Asked::Rotate | Asked::Renew(_) if view.brought.is_some() => {
            let from = view.brought.as_deref().unwrap_or_default();
            (Progress::Refused, format!("the CA is brought in {from}: what is written there is what signs next"))
        }
        Asked::Rotate => rotated(value, view),
        Asked::Renew(number) => renewed(number, view),
        Asked::Pause if view.wish.is_paused => {
            (Progress::Done, "no rotation of the root begins or goes on; the issuing CA is renewed as ever".to_owned())
        }
        Asked::Pause => (Progress::Waiting, "it is about to be paused".to_owned()),
        Asked::Stolen(root) => stopped(root, view),
        Asked::Withdraw(root) => withdrawn(root, view),
        Asked::Lost(root) => replaced(root, view),
    };
    match trouble.filter(|_| progress == Progress::Waiting) {
        Some(trouble) => (progress, format!("{message}; {trouble}")),
        None => (progress, message),
    }
}

/// One wish that can be understood.
enum Asked {
    Rotate,
    Renew(u64),
    Pause,
    Stolen(Sha256),
    Withdraw(Sha256),
    Lost(Sha256),
}

fn understand(name: &str, value: &str) -> Result<Asked, String> {
    let root = || {
        Sha256::parse(value).ok_or_else(|| {
            "this is no SHA-256 of a root: status.authority.generations has those that there are".to_owned()
        })
    };
    match name {
        ROTATE if value.is_empty() => {
            Err("an empty value asks for nothing: give it any text, a new one each time".to_owned())
        }
        ROTATE => Ok(Asked::Rotate),
        RENEW => value.parse().map(Asked::Renew).map_err(|_not_a_number| {
            "write the number of the issuing CA that is to be replaced, which status.authority.number says".to_owned()
        }),
        PAUSE if value == YES => Ok(Asked::Pause),
        PAUSE => Err("this pauses nothing: write true, or take the annotation away".to_owned()),
        STOLEN => root().map(Asked::Stolen),
        WITHDRAW => root().map(Asked::Withdraw),
        LOST => root().map(Asked::Lost),
        unknown => Err(match nearest(unknown, ALL) {
            Some(nearest) => format!("this is not known; did you mean {nearest}?"),
            None => format!("this is not known: there are {}", ALL.join(", ")),
        }),
    }
}

fn rotated(value: &str, view: &View) -> Said {
    let is_granted = view.asked.as_deref() == Some(value);
    match (is_granted, view.phase == STABLE) {
        (true, true) => (Progress::Done, format!("the root {} signs", of(Role::Root, view))),
        (true, false) => (Progress::Underway, next(view)),
        (false, false) => {
            (Progress::Waiting, format!("it begins when the rotation before it has ended: {}", next(view)))
        }
        (false, true) if view.wish.is_paused => (Progress::Waiting, PAUSED.to_owned()),
        (false, true) => (Progress::Waiting, "it is about to begin".to_owned()),
    }
}

fn renewed(number: u64, view: &View) -> Said {
    if number > view.number {
        return (Progress::Refused, format!("the issuing CA has the number {}", view.number));
    }
    if number == view.number {
        return (Progress::Waiting, "its successor is about to be made".to_owned());
    }
    (Progress::Done, format!("the issuing CA {} signs", view.number))
}

fn stopped(root: Sha256, view: &View) -> Said {
    if is(Role::Root, root, view) {
        if view.wish.stolen != Some(root) {
            return (Progress::Waiting, "signing under it is about to stop".to_owned());
        }
        let until = if view.phase == STABLE {
            "no other root is on its way: ask for a rotation as well".to_owned()
        } else {
            format!("another root is on its way: {}", next(view))
        };
        return (Progress::Underway, format!("nothing is signed; {until}"));
    }
    let previous =
        if is(Role::PreviousRoot, root, view) { ", and is trusted still: withdraw it when you choose to" } else { "" };
    (Progress::Done, format!("this root does not sign{previous}"))
}

fn withdrawn(root: Sha256, view: &View) -> Said {
    if is(Role::Root, root, view) {
        return (Progress::Refused, "this is the root that signs: rotate first".to_owned());
    }
    if is(Role::NextRoot, root, view) {
        return (Progress::Refused, "this is the root that signs next, and nothing lives under it yet".to_owned());
    }
    if !is(Role::PreviousRoot, root, view) {
        return (Progress::Done, "this root is not trusted".to_owned());
    }
    let message = if view.wish.is_paused { PAUSED } else { "it is about to be withdrawn" };
    (Progress::Waiting, message.to_owned())
}

fn replaced(root: Sha256, view: &View) -> Said {
    if !is(Role::Root, root, view) {
        let previous =
            if is(Role::PreviousRoot, root, view) { "; what it signed is trusted until it ends" } else { "" };
        return (Progress::Done, format!("the root {} signs in its place{previous}", of(Role::Root, view)));
    }
    match view.phase {
        STABLE if view.wish.is_paused => (Progress::Waiting, PAUSED.to_owned()),
        STABLE => (Progress::Waiting, "it is about to begin".to_owned()),
        _ => (Progress::Underway, next(view)),
    }
}

fn next(view: &View) -> String {
    let paused = if view.wish.is_paused { "; it is paused" } else { "" };
    let at = if view.next_at == OffsetDateTime::UNIX_EPOCH {
        "at once".to_owned()
    } else {
        format!("at {}", view.next_at.truncate_to_second().format(&Rfc3339).unwrap_or_default())
    };
    format!("phase {}, next {} {at}{paused}", view.phase, view.next.as_str())
}

fn is(role: Role, root: Sha256, view: &View) -> bool {
    view.parts.iter().any(|part| part.role == role && part.fingerprint == root)
}

fn of(role: Role, view: &View) -> String {
    view.parts.iter().find(|part| part.role == role).map_or_else(String::new, |part| part.fingerprint.to_string())
}

const PAUSED: &str = "rotations are paused: `kubectl podmint resume` lets them go on";

const OURS: &str = "podmint.dev/";
/// Rotate the root: any text, a new one each time.
pub const ROTATE: &str = "podmint.dev/rotate";
/// Make another issuing CA: the number of the one that is to be replaced.
pub const RENEW: &str = "podmint.dev/rotate-intermediate";
/// `true` keeps rotations of the root from beginning and from going on.
pub const PAUSE: &str = "podmint.dev/pause-rotation";
/// Sign nothing more under the root of this fingerprint.
pub const STOLEN: &str = "podmint.dev/stop-signing-under";
/// Withdraw the previous root of this fingerprint before it has drained.
pub const WITHDRAW: &str = "podmint.dev/withdraw-root";
/// Go on with a new root: the fingerprint of the one whose key is lost.
pub const LOST: &str = "podmint.dev/accept-new-root";
pub(super) const ALL: [&str; 6] = [ROTATE, RENEW, PAUSE, STOLEN, WITHDRAW, LOST];
/// What [`PAUSE`] says.
pub const YES: &str = "true";
