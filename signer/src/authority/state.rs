//! What to do next about the CA. One look at the trust bundle and the two Secrets goes in, one step comes out.
//!
//! Whoever takes a step creates only what is absent and replaces only what he has read (compare and swap). Whoever loses such a
//! race looks again and asks again: of two replicas that start at once, both end with the CA of the one that won.

use time::{Duration, OffsetDateTime};

use super::{
    load::{LoadError, Root},
    plan::{Fault, Mended, Plan, Rotation},
    rotation::{Timing, advance, next_event},
    source::Source,
    trouble::Trouble,
    wish::Wish,
};
use crate::{config::LONGEST_SECONDS, names::Sha256};

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

impl<T> Seen<T> {
    /// The same of a part of it.
    pub fn map<U>(&self, part: impl FnOnce(&T) -> U) -> Seen<U> {
        match self {
            Self::Unread => Seen::Unread,
            Self::Absent => Seen::Absent,
            Self::Broken(error) => Seen::Broken(error.clone()),
            Self::Found(found) => Seen::Found(part(found)),
        }
    }
}

/// What the next step depends on, of the signing Secret.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Signing {
    /// The plan.
    pub plan: Plan,
    /// The root of the issuing CA.
    pub root: Sha256,
    /// The issuing CA, and what is between it and the root.
    pub issuing: Sha256,
    /// Whether both were brought: then nothing of theirs is due by time.
    pub is_brought: bool,
    /// From when on the issuing CA is valid.
    pub not_before: OffsetDateTime,
    /// When its successor is due.
    pub renew_at: OffsetDateTime,
    /// Until when it can issue.
    pub usable_until: OffsetDateTime,
    /// When the root's successor is due.
    pub rotate_at: OffsetDateTime,
}

impl Signing {
    /// Whether the plan speaks of this root.
    pub fn knows(&self, root: Sha256) -> bool {
        self.root == root || self.plan.rotation.is_some_and(|rotation| rotation.other() == root)
    }
}

/// What the next step depends on, of the root's Secret: the roots whose keys are in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// The root.
    pub current: HeldRoot,
    /// The one that a rotation goes to.
    pub next: Option<HeldRoot>,
}

/// One root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeldRoot {
    /// Which one.
    pub fingerprint: Sha256,
    /// From when on what it signs is valid.
    pub not_before: OffsetDateTime,
    /// Its end.
    pub not_after: OffsetDateTime,
}

impl Held {
    /// The root of this fingerprint, if its key is here.
    pub fn find(&self, fingerprint: Sha256) -> Option<HeldRoot> {
        [Some(self.current), self.next].into_iter().flatten().find(|root| root.fingerprint == fingerprint)
    }
}

/// Everything that the next step depends on. It is to be looked at in this order: the trust bundle, the signing Secret, the
/// root's Secret; so that each is held against what was there before it and never against something older than itself.
#[derive(Clone, Debug)]
pub struct Sight<'a> {
    /// The Secret that replicas sign from.
    pub signing: Seen<&'a Signing>,
    /// The Secret of the root. Leave it [`Unread`](Seen::Unread) until a step asks for it.
    pub root: Seen<Held>,
    /// The roots in our ClusterTrustBundle; none where there is no such bundle.
    pub bundle: Option<&'a [Sha256]>,
    /// The root that signed when that was written last, as is noted on it: the one thing that is left where both Secrets are
    /// another one's, or old copies.
    pub marked: Option<Sha256>,
    /// What this process signed with before. Where it has not looked for longer than a replica may sign without, that is told beside a
    /// lower number alone.
    pub before: Option<Before>,
    /// The highest number that this process has seen, though it has signed with an older one since.
    pub highest: u64,
    /// For how long, by its own clock, this process has found at each look what [`awaited`](super::rotation::awaited) asks for.
    pub watched: Duration,
    /// The longest life in seconds that this process may grant.
    pub longest: u32,
    /// Where roots and issuing CAs come from.
    pub source: &'a dyn Source,
    /// What an administrator asks for.
    pub wish: &'a Wish,
    /// How long the phases are.
    pub timing: Timing,
}

/// Three readings of one moment. What is written down is the later one, what is waited for goes by the earlier one: so no jump of
/// the API server's clock shortens a phase while a process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The API server's.
    pub now: OffsetDateTime,
    /// The earlier one of that and of this process's own, which is set once by the API server's.
    pub slow: OffsetDateTime,
    /// The later one.
    pub fast: OffsetDateTime,
}

impl Clock {
    /// Of the two clocks.
    pub fn new(now: OffsetDateTime, own: OffsetDateTime) -> Self {
        Self { now, slow: now.min(own), fast: now.max(own) }
    }
}

/// What a process remembers of the CA that it signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Before {
    /// Its number.
    pub number: u64,
    /// Its root.
    pub root: Sha256,
}

impl Before {
    /// Remembers this one.
    pub fn of(signing: &Signing) -> Self {
        Self { number: signing.plan.number, root: signing.root }
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
    /// Make another root and put it beside the first into their Secret, in place of one that is there. Then look again.
    MakeNext,
    /// Take the next root out of their Secret: it is not wanted any more. Then look again.
    Forget,
    /// Let the next root take the place of the first in their Secret: the first one's key is gone for good. Then look again.
    Promote,
    /// Write this into the signing Secret. Then look again.
    Put(Put),
    /// Sign nothing new, loudly. A CA that was loaded before, and is still usable and published, goes on.
    Hold(Trouble),
}

/// What to write into the signing Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    /// What this is, for the log.
    pub name: Name,
    /// The plan from now on.
    pub plan: Plan,
    /// Make a new issuing CA below this root; none where the one that is there stays.
    pub below: Option<Sha256>,
    /// How.
    pub write: Write,
}

/// What an administrator reads of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// The first issuing CA, or one in place of one that was lost.
    Issue,
    /// The next issuing CA below the same root.
    Renew,
    /// Longer lives are granted from now on.
    Lengthen,
    /// A next root is made, and is to be published.
    Prepare,
    /// It is published; consumers learn of it.
    Distribute,
    /// It signs.
    Sign,
    /// It was seen to sign; the previous one drains.
    Drain,
    /// The previous one is withdrawn.
    Retire,
    /// The next one is withdrawn before it signed: it is not brought any more.
    Abandon,
    /// The plan was an old copy; the rotation that it did not know of goes on.
    Resume,
}

impl Name {
    /// For logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Issue => "Issue",
            Self::Renew => "Renew",
            Self::Lengthen => "Lengthen",
            Self::Prepare => "Prepare",
            Self::Distribute => "Distribute",
            Self::Sign => "Sign",
            Self::Drain => "Drain",
            Self::Retire => "Retire",
            Self::Abandon => "Abandon",
            Self::Resume => "Resume",
        }
    }
}

/// How to write a Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Create it; if it is there, somebody was faster.
    Create,
    /// Replace what was read, with its resourceVersion; if that has changed, somebody was faster.
    Replace,
}

/// Decides.
pub fn next_step(sight: &Sight<'_>, clock: Clock) -> Step {
    match &sight.signing {
        Seen::Found(signing) => with_signing(signing, sight, clock),
        Seen::Absent | Seen::Unread => without_signing(sight, clock, Write::Create),
        Seen::Broken(LoadError::Empty) => without_signing(sight, clock, Write::Replace),
        Seen::Broken(error) => Step::Hold(Trouble::SigningBroken(error.clone())),
    }
}

/// How a trust bundle stands to what the plan says that it should hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bundle {
    /// It holds that and nothing else.
    InOrder,
    /// All that it lacks is a root on which nothing depends yet: it is to be written, and signing goes on meanwhile.
    LacksNext,
    /// It lacks something else, or holds more. Nothing is signed before it is written and read back.
    Wrong,
}

impl Bundle {
    /// Of these roots and this mark, under this plan.
    pub fn compare(found: &[Sha256], marked: Option<Sha256>, signing: &Signing) -> Self {
        let other = signing.plan.rotation.map(Rotation::other);
        let next = signing.plan.rotation.and_then(Rotation::next);
        let lacks = |root: Sha256| !found.contains(&root);
        if lacks(signing.root) || marked != Some(signing.root) || found.iter().any(|root| !signing.knows(*root)) {
            Self::Wrong
        } else if other.is_none_or(|other| !lacks(other)) {
            Self::InOrder
        } else if next.is_some() {
            Self::LacksNext
        } else {
            Self::Wrong
        }
    }
}

/// Whether a process that cannot use the Secret it sees may go on with the CA it remembers: only while nobody else can have
/// moved on from it. Nobody can from a Secret that cannot be read, unless he did so just before.
pub fn may_go_on(remembered: &Signing, marked: Option<Sha256>, timing: Timing, clock: Clock) -> bool {
    let moved = match remembered.plan.rotation {
        Some(Rotation::Distribute { since, .. }) => clock.fast >= since.saturating_add(timing.distribute),
        Some(Rotation::Prepare { .. } | Rotation::Sign { .. } | Rotation::Drain { .. }) | None => false,
    };
    let is_valid = remembered.not_before <= clock.now && clock.now < remembered.usable_until;
    !moved && marked == Some(remembered.root) && is_valid
}

fn with_signing(signing: &Signing, sight: &Sight<'_>, clock: Clock) -> Step {
    if let Some(step) = not_as_left(signing, sight, clock.now) {
        return step;
    }
    if clock.now < signing.not_before {
        // The API server's clock was ahead when it was made, or is behind now. Of what is brought there is no other.
        let not_yet = Trouble::NotYetValid(signing.not_before);
        let renewed = if signing.is_brought { Err(not_yet) } else { renew(signing, sight, clock.now) };
        return renewed.unwrap_or_else(Step::Hold);
    }
    if sight.longest > signing.plan.longest {
        return replace(Name::Lengthen, Plan { longest: sight.longest, ..signing.plan.clone() }, None);
    }
    let waits = match advance(signing, sight, clock) {
        Ok(step) => return step,
        Err(trouble) => trouble,
    };
    let alarm = waits.or_else(|| brought(signing, sight, clock.now)).or_else(|| rolled_back(signing, highest(sight)));
    if !sight.source.renews(signing, clock) && !sight.wish.renews(&signing.plan) {
        return match alarm {
            // Whoever makes a CA himself has made another one long before.
            Some(trouble) if clock.now >= signing.usable_until => Step::Hold(trouble),
            alarm => Step::Sign { until: next_event(signing, sight.wish, sight.timing).1, alarm },
        };
    }
    match renew(signing, sight, clock.now) {
        Ok(step) => step,
        Err(trouble) if clock.now < signing.usable_until => {
            Step::Sign { until: signing.usable_until, alarm: Some(trouble) }
        }
        Err(trouble) => Step::Hold(trouble),
    }
}

/// Another issuing CA below the same root; else what stands against it.
fn renew(signing: &Signing, sight: &Sight<'_>, now: OffsetDateTime) -> Result<Step, Trouble> {
    match key_of(signing.root, sight, now) {
        Ok(()) => {
            let number = number_after(signing.plan.number, sight);
            Ok(replace(Name::Renew, Plan { number, ..signing.plan.clone() }, Some(signing.root)))
        }
        Err(None) => Ok(Step::ReadRoot),
        Err(Some(trouble)) => Err(trouble),
    }
}

/// Whether what is there is what we left. The bundle may hold other roots than the plan says because somebody edited it: then it
/// is to be repaired. Or because the signing Secret is another one's, or an old copy: then it is not to be followed. The root's
/// own Secret tells which.
fn not_as_left(signing: &Signing, sight: &Sight<'_>, now: OffsetDateTime) -> Option<Step> {
    let trusted = sight.bundle.unwrap_or_default();
    let is_remembered = sight.before.is_none_or(|before| signing.knows(before.root));
    // The mark is of the root that signs, or, until the new one does, of the one that signed before.
    let previous = signing.plan.rotation.and_then(Rotation::previous);
    let is_marked = sight.marked.is_none_or(|marked| marked == signing.root || previous == Some(marked));
    let is_published = trusted.is_empty() || trusted.contains(&signing.root);
    if is_remembered && is_marked && is_published && trusted.iter().all(|root| signing.knows(*root)) {
        return None;
    }
    let other = Step::Hold(Trouble::OtherRoot { found: signing.root });
    let held = match &sight.root {
        Seen::Unread => return Some(Step::ReadRoot),
        Seen::Found(held) if held.find(signing.root).is_some() => held,
        // Without the root's word: who has signed with this very CA a moment ago knows that it is the one.
        Seen::Found(_) | Seen::Absent | Seen::Broken(_) => {
            let is_same = sight.before == Some(Before::of(signing));
            return (!(is_same && is_marked && is_published)).then_some(other);
        }
    };
    let signed = [sight.before.map(|before| before.root), sight.marked];
    if signed.into_iter().flatten().any(|root| !signing.knows(root) && held.find(root).is_none()) {
        return Some(other);
    }
    if let Some(marked) = sight.marked.filter(|_| !is_marked) {
        return Some(held.find(marked).map_or(other, |root| go_on_under(root, held, signing, sight, now)));
    }
    // A root of ours that is trusted, or was signed with, and the plan does not speak of it.
    let is_about = |root: &Sha256| trusted.contains(root) || signed.contains(&Some(*root));
    let forgotten = [Some(held.current), held.next].into_iter().flatten().map(|root| root.fingerprint);
    let forgotten = forgotten.into_iter().find(|root| !signing.knows(*root) && is_about(root))?;
    let rotation = if forgotten == held.current.fingerprint {
        // Its key is only waiting to be thrown away, and what it signed lives on.
        Rotation::Sign { previous: forgotten, longest: signing.plan.longest.max(sight.longest) }
    } else {
        Rotation::Prepare { next: forgotten }
    };
    Some(replace(Name::Resume, Plan { rotation: Some(rotation), ..resumed(signing, sight, now) }, None))
}

/// Another root has signed since this was written, and goes on. The one that is back drains: it may have been withdrawn meanwhile, so
/// that nobody knows it any more.
fn go_on_under(root: HeldRoot, held: &Held, signing: &Signing, sight: &Sight<'_>, now: OffsetDateTime) -> Step {
    if let Err(trouble) = lasting(root, now) {
        return Step::Hold(trouble);
    }
    let longest = signing.plan.longest.max(sight.longest);
    let rotation = if root == held.current {
        Rotation::Prepare { next: signing.root }
    } else {
        Rotation::Sign { previous: signing.root, longest }
    };
    let number = number_after(signing.plan.number, sight);
    let plan = Plan { number, rotation: Some(rotation), longest, ..resumed(signing, sight, now) };
    replace(Name::Resume, plan, Some(root.fingerprint))
}

/// An old copy of a plan, as it goes on.
fn resumed(signing: &Signing, sight: &Sight<'_>, now: OffsetDateTime) -> Plan {
    let asked = sight.wish.rotate.clone().or_else(|| signing.plan.asked.clone());
    let mended = Some(mended(Fault::OldCopy, sight, now));
    Plan { asked, mended, ..signing.plan.clone() }
}

fn mended(fault: Fault, sight: &Sight<'_>, at: OffsetDateTime) -> Mended {
    let agrees = |marked| sight.before.is_none_or(|before| before.root == marked);
    Mended { fault, at, is_certain: sight.marked.is_some_and(agrees) }
}

fn without_signing(sight: &Sight<'_>, clock: Clock, write: Write) -> Step {
    let lost = given_up(sight);
    let anything_lives = sight.before.is_some() || sight.bundle.is_some_and(|roots| !roots.is_empty());
    let is_at_hand = is_at_hand(sight);
    let held = match &sight.root {
        Seen::Unread => return Step::ReadRoot,
        Seen::Broken(error) if *error != LoadError::Empty => {
            return Step::Hold(Trouble::RootBroken(error.clone()));
        }
        Seen::Absent | Seen::Broken(_) if anything_lives && lost.is_none() && !is_at_hand => {
            return Step::Hold(Trouble::RootKeyLost);
        }
        Seen::Absent => return make_root(sight, Write::Create),
        Seen::Broken(_) => return make_root(sight, Write::Replace),
        Seen::Found(held) => held,
    };
    let published =
        |root: HeldRoot| sight.bundle.is_none_or(|roots| roots.is_empty() || roots.contains(&root.fingerprint));
    let trusted = |root: HeldRoot| published(root) || sight.marked == Some(root.fingerprint);
    let signed = [sight.before.map(|before| before.root), sight.marked];
    let remembered = signed.into_iter().flatten().all(|root| held.find(root).is_some());
    // The one that signed last, before any that may have been withdrawn meanwhile.
    let marked = sight.marked.and_then(|marked| held.find(marked));
    let all = [marked, Some(held.current), held.next];
    let below = all.into_iter().flatten().find(|root| remembered && trusted(*root));
    let lost = lost.filter(|lost| held.find(*lost).is_none() && sight.source.takes(held.current, clock.now));
    let Some(below) = below.or(lost.map(|_| held.current)) else {
        return Step::Hold(Trouble::OtherRoot { found: held.current.fingerprint });
    };
    if let Err(trouble) = lasting(below, clock.now) {
        return Step::Hold(trouble);
    }
    // A rotation that was going on begins anew with the root that it had: certificates of that one may be about.
    let next = held.next.filter(|next| *next != below).map(|next| Rotation::Prepare { next: next.fingerprint });
    // What the previous root signed lives on, as does what a lost one did; for how long is forgotten with the plan.
    let previous = Some(held.current).filter(|current| *current != below && published(*current));
    let drains = lost.or(previous.map(|previous| previous.fingerprint));
    let drains = drains.map(|previous| Rotation::Sign { previous, longest: LONGEST_SECONDS });
    let plan = Plan {
        number: number_after(0, sight),
        rotation: drains.or(next),
        longest: sight.longest,
        // What was granted before is forgotten with the plan. To rotate once too often helps nobody.
        asked: sight.wish.rotate.clone(),
        mended: anything_lives.then(|| mended(Fault::Lost, sight, clock.now)),
    };
    Step::Put(Put { name: Name::Issue, plan, below: Some(below.fingerprint), write })
}

/// The root that signed last, where it is this one that an administrator gives up for lost. Its certificate is in the bundle still.
fn given_up(sight: &Sight<'_>) -> Option<Sha256> {
    let signed = [sight.before.map(|before| before.root), sight.marked];
    let published = |lost: &Sha256| sight.bundle.is_some_and(|roots| roots.contains(lost));
    sight.wish.lost.filter(|lost| signed.into_iter().flatten().all(|root| root == *lost) && published(lost))
}

/// Whether the root that certificates live under is brought once more: then it is no new one.
fn is_at_hand(sight: &Sight<'_>) -> bool {
    let Some(brought) = sight.source.brings().map(Root::fingerprint) else { return false };
    let signed = [sight.before.map(|before| before.root), sight.marked];
    let trusted = sight.bundle.is_none_or(|roots| roots.is_empty() || roots.contains(&brought));
    trusted && signed.into_iter().flatten().all(|root| root == brought)
}

fn make_root(sight: &Sight<'_>, write: Write) -> Step {
    sight.source.trouble().map_or(Step::MakeRoot(write), Step::Hold)
}

/// What is wrong with what is brought: that it cannot be used, or ends before the longest certificate would.
fn brought(signing: &Signing, sight: &Sight<'_>, now: OffsetDateTime) -> Option<Trouble> {
    let from = sight.source.place()?;
    let longest = Duration::seconds(i64::from(sight.longest));
    let ends = || Trouble::BroughtEnds { from: from.to_owned(), at: signing.usable_until };
    sight.source.trouble().or_else(|| (signing.usable_until.saturating_sub(longest) <= now).then(ends))
}

/// Whether a CA can be made below this root; `Err(None)` where the root's Secret has to be read first.
fn key_of(root: Sha256, sight: &Sight<'_>, now: OffsetDateTime) -> Result<(), Option<Trouble>> {
    if sight.source.brings().is_some_and(|brought| brought.fingerprint() == root) {
        return Ok(());
    }
    let held = held(&sight.root)?;
    let root = held.find(root).ok_or(Some(Trouble::RootsDiffer))?;
    lasting(root, now).map_err(Some)
}

/// What is in the root's Secret; `Err(None)` where it has to be read first.
pub(super) fn held(seen: &Seen<Held>) -> Result<Held, Option<Trouble>> {
    match seen {
        Seen::Unread => Err(None),
        Seen::Absent | Seen::Broken(LoadError::Empty) => Err(Some(Trouble::RootKeyLost)),
        Seen::Broken(error) => Err(Some(Trouble::RootBroken(error.clone()))),
        Seen::Found(held) => Ok(*held),
    }
}

/// Whether anything made under this root could issue.
pub(super) fn lasting(root: HeldRoot, now: OffsetDateTime) -> Result<(), Trouble> {
    if root.not_after.saturating_sub(super::make::LEAST_LEFT) < now {
        Err(Trouble::RootEnds(root.not_after))
    } else if now < root.not_before {
        Err(Trouble::NotYetValid(root.not_before))
    } else {
        Ok(())
    }
}

pub(super) fn replace(name: Name, plan: Plan, below: Option<Sha256>) -> Step {
    Step::Put(Put { name, plan, below, write: Write::Replace })
}

/// Never one that this process has seen, though an old copy be back.
pub(super) fn number_after(number: u64, sight: &Sight<'_>) -> u64 {
    number.max(highest(sight)).saturating_add(1)
}

fn highest(sight: &Sight<'_>) -> u64 {
    sight.highest.max(sight.before.map_or(0, |before| before.number))
}

fn rolled_back(signing: &Signing, from: u64) -> Option<Trouble> {
    let to = signing.plan.number;
    (to < from).then_some(Trouble::RolledBack { from, to })
}
