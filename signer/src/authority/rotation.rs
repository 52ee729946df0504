//! The rotation of the root, one step at a time: *Prepare* (the next root is made), *Distribute* (it is published beside the one
//! that signs, and was read back), *Sign* (an issuing CA below it signs), *Drain* (that was read back; what was issued under the
//! previous one lives out its life), *Retire* (the previous one is withdrawn, its key gone).
//!
//! The next root's key is in the root's Secret before its name is in the plan, and in the plan before it is in the bundle. The
//! previous one's key goes before its name leaves the plan, and that before it leaves the bundle. So an old copy of one of the
//! three is told by the others.

use time::{Duration, OffsetDateTime};

use super::{
    load::Root,
    plan::{Mended, Plan, Rotation},
    state::{Clock, Held, Name, Seen, Sight, Signing, Step, Write, held, lasting, number_after, replace},
    trouble::Trouble,
    wish::Wish,
};
use crate::{config::LONGEST_SECONDS, names::Sha256, pace::Pace};

/// How long the phases are.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How long consumers have to learn of the next root, and a drained one is watched before it is withdrawn.
    pub distribute: Duration,
    /// How much longer than the longest life the previous root drains.
    pub margin: Duration,
    /// What becomes of lives: whole but for tests.
    pub pace: Pace,
}

impl Timing {
    /// The phases at this pace.
    pub fn at(pace: Pace) -> Self {
        let paced = |wait| Duration::try_from(pace.of(wait)).unwrap_or(Duration::MAX);
        Self { distribute: paced(DISTRIBUTE), margin: paced(MARGIN), pace }
    }

    /// How long a root drains under which lives of so many seconds were granted.
    pub fn drain(self, longest: u32) -> Duration {
        let life = self.pace.of(std::time::Duration::from_secs(u64::from(longest)));
        Duration::try_from(life).unwrap_or(Duration::MAX).saturating_add(self.margin)
    }
}

/// What happens next if nothing comes between, and when.
pub fn next_event(signing: &Signing, wish: &Wish, timing: Timing) -> (Name, OffsetDateTime) {
    let is_due = wish.renews(&signing.plan);
    let renewal = (Name::Renew, if is_due { OffsetDateTime::UNIX_EPOCH } else { signing.renew_at });
    if wish.is_paused {
        return renewal;
    }
    let step = match signing.plan.rotation {
        None if wish.rotates(&signing.plan, signing.root) => (Name::Prepare, OffsetDateTime::UNIX_EPOCH),
        None => (Name::Prepare, signing.rotate_at),
        Some(Rotation::Prepare { .. }) => (Name::Distribute, OffsetDateTime::UNIX_EPOCH),
        Some(Rotation::Distribute { since, .. }) => (Name::Sign, since.saturating_add(timing.distribute)),
        Some(Rotation::Sign { .. }) => (Name::Drain, OffsetDateTime::UNIX_EPOCH),
        Some(Rotation::Drain { since, longest, .. }) => {
            let drained = since.saturating_add(timing.drain(longest));
            (Name::Retire, drained.saturating_add(timing.distribute))
        }
    };
    if step.1 <= renewal.1 { step } else { renewal }
}

/// The root that is to be found at each look for as long as consumers have to learn of a new one, before the step that nobody can take
/// back: the next one in the bundle, before it signs; the previous one in the bundle and drained, before it is withdrawn. A process that
/// starts while the API server's clock is ahead has that clock alone to go by.
pub fn awaited(rotation: Option<Rotation>, timing: Timing, clock: Clock) -> Option<Sha256> {
    match rotation? {
        Rotation::Prepare { next } | Rotation::Distribute { next, .. } => Some(next),
        Rotation::Drain { previous, since, longest } => {
            (clock.slow >= since.saturating_add(timing.drain(longest))).then_some(previous)
        }
        Rotation::Sign { .. } => None,
    }
}

/// The step of the rotation that is due; else what stands against it, if anything does.
pub(super) fn advance(signing: &Signing, sight: &Sight<'_>, clock: Clock) -> Result<Step, Option<Trouble>> {
    let Sight { wish, timing, .. } = sight;
    if wish.is_paused {
        return Err(None);
    }
    let stepped = match signing.plan.rotation {
        None if wish.rotates(&signing.plan, signing.root) || sight.source.rotates(signing, clock) => {
            prepare(signing, sight, clock)
        }
        Some(Rotation::Prepare { next } | Rotation::Distribute { next, .. })
            if is_brought_no_more(next, signing, sight, clock) =>
        {
            abandon(next, signing, sight)
        }
        Some(Rotation::Prepare { next }) if sight.bundle.is_some_and(|roots| roots.contains(&next)) => {
            let rotation = Some(Rotation::Distribute { next, since: clock.fast });
            Ok(replace(Name::Distribute, Plan { rotation, ..signing.plan.clone() }, None))
        }
        // Both clocks: this process's own shows that the API server was there to learn from all the while.
        Some(Rotation::Distribute { since, .. })
            if clock.slow >= since.saturating_add(timing.distribute) && sight.watched >= timing.distribute =>
        {
            switch(signing, sight, clock)
        }
        Some(Rotation::Sign { previous, longest }) => {
            let rotation = Some(Rotation::Drain { previous, since: clock.fast, longest });
            Ok(replace(Name::Drain, Plan { rotation, ..signing.plan.clone() }, None))
        }
        Some(Rotation::Drain { previous, since, longest })
            if clock.slow >= since.saturating_add(timing.drain(longest)) && sight.watched >= timing.distribute
                || wish.withdraw == Some(previous) =>
        {
            retire(signing, sight)
        }
        None | Some(Rotation::Prepare { .. } | Rotation::Distribute { .. } | Rotation::Drain { .. }) => {
            return Err(None);
        }
    };
    match stepped {
        Err(None) => Ok(Step::ReadRoot),
        other => other,
    }
}

/// `Err(None)` from here on: the root's Secret has to be read first.
fn prepare(signing: &Signing, sight: &Sight<'_>, clock: Clock) -> Result<Step, Option<Trouble>> {
    if let Some(trouble) = sight.source.trouble() {
        return Err(Some(trouble));
    }
    let is_lost = sight.wish.lost == Some(signing.root);
    let Held { current, next } = match (held(&sight.root), &sight.root) {
        (Err(Some(Trouble::RootKeyLost)), Seen::Absent) if is_lost => return Ok(Step::MakeRoot(Write::Create)),
        (Err(Some(Trouble::RootKeyLost)), _) if is_lost => return Ok(Step::MakeRoot(Write::Replace)),
        (held, _) => held?,
    };
    if next.is_some_and(|next| next.fingerprint == signing.root) {
        return Ok(Step::Promote);
    }
    // The one that was made in place of a lost one has no other beside it.
    let next = if current.fingerprint == signing.root { next } else { Some(current).filter(|_| is_lost) };
    match next.filter(|next| sight.source.takes(*next, clock.now)) {
        None if current.fingerprint != signing.root => Err(Some(Trouble::RootsDiffer)),
        None => Ok(Step::MakeNext),
        Some(next) => {
            let rotation = Some(Rotation::Prepare { next: next.fingerprint });
            let asked = sight.wish.rotate.clone().or_else(|| signing.plan.asked.clone());
            Ok(replace(Name::Prepare, Plan { rotation, asked, ..signing.plan.clone() }, None))
        }
    }
}

/// Whether another root is brought by now than the one that is published as the next. What cannot be used brings none.
fn is_brought_no_more(next: Sha256, signing: &Signing, sight: &Sight<'_>, clock: Clock) -> bool {
    let is_another = sight.source.brings().is_some_and(|brought| brought.fingerprint() != next);
    is_another && !may_have_signed(signing, clock)
}

/// Whether certificates of the next root may live: where a plan was mended and nothing told which root had signed last, it may have been
/// this one.
fn may_have_signed(signing: &Signing, clock: Clock) -> bool {
    let lives = |Mended { fault: _, at, is_certain }: Mended| {
        !is_certain && at.saturating_add(Duration::seconds(i64::from(LONGEST_SECONDS))) > clock.slow
    };
    signing.plan.mended.is_some_and(lives)
}

/// Nothing was signed under the next root, so that another may take its place, or none. Its key goes before its name.
fn abandon(next: Sha256, signing: &Signing, sight: &Sight<'_>) -> Result<Step, Option<Trouble>> {
    let held = held(&sight.root)?;
    if sight.source.brings().map(Root::fingerprint) != Some(signing.root) {
        return another(next, held, signing, sight);
    }
    if held.next.is_some_and(|found| found.fingerprint == next) {
        return Ok(Step::Forget);
    }
    Ok(replace(Name::Abandon, Plan { rotation: None, ..signing.plan.clone() }, None))
}

/// Another root in place of the next one: it has a key before it has a name.
fn another(next: Sha256, held: Held, signing: &Signing, sight: &Sight<'_>) -> Result<Step, Option<Trouble>> {
    match held.next.filter(|other| other.fingerprint != signing.root && other.fingerprint != next) {
        None => sight.source.trouble().map_or(Ok(Step::MakeNext), |trouble| Err(Some(trouble))),
        Some(other) => {
            let rotation = Some(Rotation::Prepare { next: other.fingerprint });
            Ok(replace(Name::Prepare, Plan { rotation, ..signing.plan.clone() }, None))
        }
    }
}

fn switch(signing: &Signing, sight: &Sight<'_>, clock: Clock) -> Result<Step, Option<Trouble>> {
    let Some(next) = signing.plan.rotation.and_then(Rotation::next) else { return Err(Some(Trouble::RootsDiffer)) };
    let held = held(&sight.root)?;
    let Some(root) = held.find(next) else {
        // Unless it has signed already, nothing depends on the one whose key is lost.
        let stays = may_have_signed(signing, clock);
        return if stays { Err(Some(Trouble::RootsDiffer)) } else { another(next, held, signing, sight) };
    };
    lasting(root, clock.now).map_err(Some)?;
    let previous = signing.root;
    let plan = Plan {
        number: number_after(signing.plan.number, sight),
        rotation: Some(Rotation::Sign { previous, longest: signing.plan.longest }),
        longest: sight.longest,
        asked: signing.plan.asked.clone(),
        mended: signing.plan.mended,
    };
    Ok(replace(Name::Sign, plan, Some(next)))
}

fn retire(signing: &Signing, sight: &Sight<'_>) -> Result<Step, Option<Trouble>> {
    let Held { current, next } = held(&sight.root)?;
    if current.fingerprint == signing.root {
        return Ok(replace(Name::Retire, Plan { rotation: None, ..signing.plan.clone() }, None));
    }
    if next.is_some_and(|next| next.fingerprint == signing.root) {
        return Ok(Step::Promote);
    }
    Err(Some(Trouble::RootsDiffer))
}

/// A kubelet shows pods a new root within 6 minutes at most; this leaves room for a node that was away for a while.
const DISTRIBUTE: std::time::Duration = std::time::Duration::from_mins(15);

/// A replica may sign for a minute after it last saw which CA signs. Another minute is for clocks that differ.
const MARGIN: std::time::Duration = std::time::Duration::from_mins(2);
