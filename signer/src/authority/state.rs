//! What to do next about the CA. One look at the two Secrets and the trust bundle goes in, one step comes out.
//!
//! Whoever takes a step creates only what is absent and replaces only what he has read (compare and swap). Whoever loses such a
//! race looks again and asks again: of two replicas that start at once, both end with the CA of the one that won.

use std::fmt;

use time::OffsetDateTime;

use super::load::{Generation, LoadError, Root};
use crate::names::Sha256;

/// What a look at a Secret has shown. Only quorum reads count.
#[derive(Clone, Debug)]
pub enum Seen<T> {
    /// Nobody looked.
    Unread,
    /// There is no such Secret.
    Absent,
    /// It is there, and not as we wrote it.
    Broken(LoadError),
    /// It is there, and sound.
    Found(T),
}

impl<T> From<Result<T, LoadError>> for Seen<T> {
    fn from(loaded: Result<T, LoadError>) -> Self {
        loaded.map_or_else(Self::Broken, Self::Found)
    }
}

/// Everything that the next step depends on.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    /// The Secret that replicas sign from.
    pub signing: Seen<&'a Generation>,
    /// The Secret of the root. Leave it [`Unread`](Seen::Unread) until a step asks for it.
    pub root: Seen<&'a Root>,
    /// The roots in our ClusterTrustBundle; none where there is no such bundle.
    pub bundle: Option<&'a [Sha256]>,
    /// What this process signed with before.
    pub before: Option<Before>,
}

/// What a process remembers of the CA that it signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Before {
    /// Its number.
    pub number: u64,
    /// Its root.
    pub root: Sha256,
}

impl Before {
    /// Remembers this one.
    pub fn of(generation: &Generation) -> Self {
        Self { number: generation.number(), root: generation.root_fingerprint() }
    }
}

/// The next step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sign with what was found, and look again then, or when something changes.
    Sign {
        /// The moment of the next step.
        until: OffsetDateTime,
        /// What an administrator should see to before it is too late.
        alarm: Option<Trouble>,
    },
    /// Read the root's Secret, and ask again.
    ReadRoot,
    /// Make a root and put it into its Secret. Then look again.
    MakeRoot(Write),
    /// Make an issuing CA of this number under the root that was found, and put it into the signing Secret. Then look again.
    MakeGeneration(u64, Write),
    /// Sign nothing new, loudly. A CA that was loaded before, and is still usable and published, goes on.
    Hold(Trouble),
}

/// How to write a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Create it; if it is there, somebody was faster.
    Create,
    /// Replace what was read, with its resourceVersion; if that has changed, somebody was faster.
    Replace,
}

/// What keeps the CA from going on, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The signing Secret is not as we wrote it.
    SigningBroken(LoadError),
    /// The root's Secret is not as we wrote it.
    RootBroken(LoadError),
    /// Certificates of a root are about, and its key is gone.
    RootKeyLost,
    /// The Secrets hold another root than the one that is trusted.
    OtherRoot {
        /// The one in the Secrets.
        found: Sha256,
    },
    /// The Secret of the root holds another root than the signing Secret.
    RootsDiffer,
    /// An older issuing CA is back in the signing Secret.
    RolledBack {
        /// The number that was seen before.
        from: u64,
        /// The number now.
        to: u64,
    },
    /// The root itself ends.
    RootEnds(OffsetDateTime),
    /// The issuing CA is not valid yet: somebody's clock is wrong.
    NotYetValid(OffsetDateTime),
}

impl Trouble {
    /// For metrics and logs.
    pub fn label(&self) -> &'static str {
        match self {
            Self::SigningBroken(_) => "signing_secret_broken",
            Self::RootBroken(_) => "root_secret_broken",
            Self::RootKeyLost => "root_key_lost",
            Self::OtherRoot { .. } => "other_root",
            Self::RootsDiffer => "roots_differ",
            Self::RolledBack { .. } => "rolled_back",
            Self::RootEnds(_) => "root_ends",
            Self::NotYetValid(_) => "not_yet_valid",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SigningBroken(error) => write!(
                out,
                "the Secret of the issuing CA is not as Podmint wrote it: {error}; restore it, or delete it to have a new issuing CA \
                 made under the same root"
            ),
            Self::RootBroken(error) => {
                write!(out, "the Secret of the root is not as Podmint wrote it: {error}; restore it from a backup")
            }
            Self::RootKeyLost => out.write_str(
                "the Secret of the root is gone while its certificates are trusted: restore it from a backup; Podmint does not make \
                 another root beside certificates that live",
            ),
            Self::OtherRoot { found } => write!(
                out,
                "the Secrets hold the root {found}, and another one is trusted: somebody replaced them; restore them from a backup"
            ),
            Self::RootsDiffer => out.write_str(
                "the Secret of the root holds another root than the one above the issuing CA: restore it from a backup",
            ),
            Self::RolledBack { from, to } => write!(
                out,
                "the Secret of the issuing CA went back from generation {from} to {to}: somebody restored an old copy; it is used, for \
                 it is under the same root"
            ),
            Self::RootEnds(at) => write!(out, "the root ends at {at}"),
            Self::NotYetValid(from) => {
                write!(out, "the issuing CA is valid from {from}: the API server's clock is, or was, wrong")
            }
        }
    }
}

/// Decides. `now` is the API server's time.
pub fn next_step(sight: &Sight<'_>, now: OffsetDateTime) -> Step {
    match &sight.signing {
        Seen::Found(generation) => with_generation(generation, sight, now),
        Seen::Absent | Seen::Unread => without_generation(sight, now, Write::Create),
        Seen::Broken(LoadError::Empty) => without_generation(sight, now, Write::Replace),
        Seen::Broken(error) => Step::Hold(Trouble::SigningBroken(error.clone())),
    }
}

fn with_generation(generation: &Generation, sight: &Sight<'_>, now: OffsetDateTime) -> Step {
    let root = generation.root_fingerprint();
    if sight.before.is_some_and(|before| before.root != root) {
        return Step::Hold(Trouble::OtherRoot { found: root });
    }
    if let Some(step) = overwritten(root, sight) {
        return step;
    }
    if now < generation.not_before() {
        return Step::Hold(Trouble::NotYetValid(generation.not_before()));
    }
    if now < generation.renew_at() {
        return Step::Sign { until: generation.renew_at(), alarm: rolled_back(generation, sight.before) };
    }
    match renewal(root, sight, now) {
        Ok(()) => Step::MakeGeneration(generation.number().saturating_add(1), Write::Replace),
        Err(None) => Step::ReadRoot,
        Err(Some(trouble)) if now < generation.usable_until() => {
            Step::Sign { until: generation.usable_until(), alarm: Some(trouble) }
        }
        Err(Some(trouble)) => Step::Hold(trouble),
    }
}

/// A bundle without our root was either edited, and is to be repaired, or it is the Secret that was overwritten. The root's own
/// Secret tells which.
fn overwritten(root: Sha256, sight: &Sight<'_>) -> Option<Step> {
    let trusted = sight.bundle?;
    if trusted.is_empty() || trusted.contains(&root) {
        return None;
    }
    match &sight.root {
        Seen::Unread => Some(Step::ReadRoot),
        Seen::Found(found) if found.fingerprint() == root => None,
        Seen::Found(_) | Seen::Absent | Seen::Broken(_) => Some(Step::Hold(Trouble::OtherRoot { found: root })),
    }
}

/// Whether the next issuing CA can be made; `Err(None)` where the root has to be read first.
fn renewal(root: Sha256, sight: &Sight<'_>, now: OffsetDateTime) -> Result<(), Option<Trouble>> {
    match &sight.root {
        Seen::Unread => Err(None),
        Seen::Absent | Seen::Broken(LoadError::Empty) => Err(Some(Trouble::RootKeyLost)),
        Seen::Broken(error) => Err(Some(Trouble::RootBroken(error.clone()))),
        Seen::Found(found) if found.fingerprint() != root => Err(Some(Trouble::RootsDiffer)),
        Seen::Found(found) => lasting(found, now).map_err(Some),
    }
}

fn without_generation(sight: &Sight<'_>, now: OffsetDateTime, write: Write) -> Step {
    let trusted = |root: Sha256| {
        let by_bundle = sight.bundle.is_none_or(|roots| roots.is_empty() || roots.contains(&root));
        by_bundle && sight.before.is_none_or(|before| before.root == root)
    };
    let anything_lives = sight.before.is_some() || sight.bundle.is_some_and(|roots| !roots.is_empty());
    match &sight.root {
        Seen::Unread => Step::ReadRoot,
        Seen::Broken(error) if *error != LoadError::Empty => Step::Hold(Trouble::RootBroken(error.clone())),
        Seen::Absent | Seen::Broken(_) if anything_lives => Step::Hold(Trouble::RootKeyLost),
        Seen::Absent => Step::MakeRoot(Write::Create),
        Seen::Broken(_) => Step::MakeRoot(Write::Replace),
        Seen::Found(root) if !trusted(root.fingerprint()) => {
            Step::Hold(Trouble::OtherRoot { found: root.fingerprint() })
        }
        Seen::Found(root) => match lasting(root, now) {
            Ok(()) => Step::MakeGeneration(sight.before.map_or(1, |before| before.number.saturating_add(1)), write),
            Err(trouble) => Step::Hold(trouble),
        },
    }
}

/// Whether anything made under this root could issue.
fn lasting(root: &Root, now: OffsetDateTime) -> Result<(), Trouble> {
    if root.not_after().saturating_sub(super::make::LEAST_LEFT) < now {
        Err(Trouble::RootEnds(root.not_after()))
    } else {
        Ok(())
    }
}

fn rolled_back(generation: &Generation, before: Option<Before>) -> Option<Trouble> {
    let from = before?.number;
    let to = generation.number();
    (to < from).then_some(Trouble::RolledBack { from, to })
}
