//! A replica of the model: what `cluster/keeper.rs` does with the steps that it is told to take.

use time::Duration;

use super::{
    world::{
        Bundle as Published, Keys, LIFE, OLD, Phase, ROOTS, SLEEP, Secret, Sig, Violation, World, ago, ahead, made,
        timing, wish,
    },
    writer::{Ca, Place, id, number_of},
};
use crate::{
    authority::{
        load::{LoadError, Root},
        plan::{Plan, Rotation},
        rotation::awaited,
        state::{Before, Bundle, Clock, Name, Put, Seen, Sight, Signing, Step, may_go_on, next_step},
        trouble::Trouble,
        wish::Wish,
    },
    names::Sha256,
    pipeline::honest::NOW,
};

/// What a replica knows and is about to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Keeper {
    doing: Doing,
    /// Whether somebody else wrote since it was read.
    pub(super) stale: Stale,
    /// The signing Secret and what is brought as last read, and how long ago.
    cache: Option<(Secret, Place, u8)>,
    /// What it signs with or could sign with, and how long ago that was confirmed.
    memory: Option<(Sig, u8)>,
    /// Number and root of that when it was confirmed too long ago.
    last: Option<(u16, u8)>,
    /// Whether it may sign with that.
    is_issuing: bool,
    /// The next root, for how long it was there at each look, and how long ago the last look was.
    watched: Option<(u8, u8, u8)>,
    /// How long ago the bundle was read, and whether it had been written since the read before.
    read: u8,
    was_written: bool,
    /// How far its own clock is behind.
    lag: u8,
    /// Whether that was set by an API server's that was ahead.
    started_ahead: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Stale {
    pub(super) bundle: bool,
    pub(super) signing: bool,
    pub(super) roots: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum Doing {
    #[default]
    Nothing,
    HasBundle(Published),
    /// With what was read of the signing Secret in the cache; where the CA is brought that is to be read next.
    HasSecret(Published),
    HasSigning(Looked),
    WritesRoots(Keys),
    WritesSigning {
        sig: Sig,
        is_new: bool,
    },
    WritesBundle(Published),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Looked {
    bundle: Published,
    signing: Secret,
    place: Place,
    is_fresh: bool,
}

/// One guard less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Defect {
    NeverPrepares,
    NeverDistributes,
    NeverSigns,
    NeverPromotes,
    NeverRetires,
    SignsWithoutDistributing,
    WatchesNothing,
    RetiresEarly,
    RetiresByTheClockThatJumped,
    RetiresAtItsFirstLook,
    RenewsWithTheSameNumber,
    SwitchesWithTheSameNumber,
    TellsNobodyOfAnOldCopy,
    FollowsAnOldCopy,
    /// And does not find it again.
    ForgetsTheRotationWithTheSecret,
    GoesBackWithAnOldCopy,
    OverlooksTheMark,
    SignsBeforePublishing,
    SignsHoweverLongItSlept,
    RemembersHoweverLongItSlept,
    ForgetsWhatItSignedWith,
    GoesOnWhateverOthersDid,
    WritesOverOthers,
    PublishesOverOthers,
    NeverIssues,
    NeverMakesARoot,
    NeverMakesANext,
    /// What follows is of a CA that is brought.
    NeverRenews,
    NeverForgets,
    NeverAbandons,
    AbandonsWhatMayHaveSigned,
    NeverTakesAThird,
    RenewsUnderAnotherRoot,
    StopsWhenItIsSpoilt,
    HeedsWishesOfWhatIsBrought,
    StaysWithWhatWasBrought,
}

/// Each with what it leads to.
pub(super) const DEFECTS: &[(Defect, Violation)] = &[
    (Defect::NeverPrepares, Violation::NoRest),
    (Defect::NeverDistributes, Violation::NoRest),
    (Defect::NeverSigns, Violation::NoRest),
    (Defect::NeverPromotes, Violation::NoRest),
    (Defect::NeverRetires, Violation::NoRest),
    (Defect::SignsWithoutDistributing, Violation::Unknown),
    (Defect::WatchesNothing, Violation::Unknown),
    (Defect::RetiresEarly, Violation::Withdrawn),
    (Defect::RetiresByTheClockThatJumped, Violation::Withdrawn),
    (Defect::RetiresAtItsFirstLook, Violation::Withdrawn),
    (Defect::RenewsWithTheSameNumber, Violation::NumberBack),
    (Defect::SwitchesWithTheSameNumber, Violation::NumberBack),
    (Defect::TellsNobodyOfAnOldCopy, Violation::NumberBack),
    (Defect::FollowsAnOldCopy, Violation::Withdrawn),
    (Defect::ForgetsTheRotationWithTheSecret, Violation::Withdrawn),
    (Defect::OverlooksTheMark, Violation::Unknown),
    (Defect::SignsBeforePublishing, Violation::Withdrawn),
    (Defect::SignsHoweverLongItSlept, Violation::Withdrawn),
    (Defect::RemembersHoweverLongItSlept, Violation::NoRest),
    (Defect::ForgetsWhatItSignedWith, Violation::Followed),
    (Defect::GoesOnWhateverOthersDid, Violation::Withdrawn),
    (Defect::WritesOverOthers, Violation::NumberBack),
    (Defect::PublishesOverOthers, Violation::Unknown),
];

/// The same of two faults in a row.
pub(super) const DEFECTS_OF_TWO_FAULTS: &[(Defect, Violation)] = &[(Defect::GoesBackWithAnOldCopy, Violation::Unknown)];

/// The same where the CA is brought.
pub(super) const DEFECTS_OF_A_WRITER: &[(Defect, Violation)] = &[
    (Defect::NeverMakesARoot, Violation::NoRest),
    (Defect::NeverIssues, Violation::NoRest),
    (Defect::NeverRenews, Violation::NoRest),
    (Defect::NeverMakesANext, Violation::NoRest),
    (Defect::NeverPrepares, Violation::NoRest),
    (Defect::NeverDistributes, Violation::NoRest),
    (Defect::NeverSigns, Violation::NoRest),
    (Defect::NeverPromotes, Violation::NoRest),
    (Defect::NeverRetires, Violation::NoRest),
    (Defect::NeverForgets, Violation::NoRest),
    (Defect::NeverAbandons, Violation::NoRest),
    (Defect::NeverTakesAThird, Violation::NoRest),
    (Defect::AbandonsWhatMayHaveSigned, Violation::Withdrawn),
    (Defect::SignsWithoutDistributing, Violation::Unknown),
    (Defect::WatchesNothing, Violation::Unknown),
    (Defect::RetiresEarly, Violation::Withdrawn),
    (Defect::RetiresByTheClockThatJumped, Violation::Withdrawn),
    (Defect::RetiresAtItsFirstLook, Violation::Withdrawn),
    (Defect::RenewsWithTheSameNumber, Violation::NumberBack),
    (Defect::SwitchesWithTheSameNumber, Violation::NumberBack),
    (Defect::RenewsUnderAnotherRoot, Violation::NoRest),
    (Defect::FollowsAnOldCopy, Violation::Withdrawn),
    (Defect::ForgetsTheRotationWithTheSecret, Violation::Withdrawn),
    (Defect::StopsWhenItIsSpoilt, Violation::NoRest),
    (Defect::HeedsWishesOfWhatIsBrought, Violation::NoRest),
    (Defect::StaysWithWhatWasBrought, Violation::NoRest),
];

impl Keeper {
    /// This long ago.
    pub(super) fn that_signed_with(sig: Sig, age: u8) -> Self {
        Self {
            memory: Some((sig, age)),
            is_issuing: true,
            cache: Some((Secret::Sound(sig), Place::Made, age)),
            ..Self::default()
        }
    }

    pub(super) fn root(&self) -> Option<u8> {
        self.memory.map(|(sig, _)| sig.root).or(self.last.map(|(_, root)| root))
    }

    /// What it signed with, as far as that counts beside what was found.
    fn before(&mut self, looked: Looked) -> Option<Before> {
        let found = match looked.signing {
            Secret::Sound(sig) => sig.number,
            Secret::Absent | Secret::Broken(_) => u16::MAX,
        };
        let last = self.last.filter(|(number, _)| found < *number);
        if looked.is_fresh {
            self.last = last;
        }
        let last = last.map(|(number, root)| Before { number: u64::from(number), root: id(root) });
        self.memory.map(|(sig, _)| Before::of(&sig.seen())).or(last)
    }

    pub(super) fn may_use_cache(&self) -> bool {
        matches!(self.doing, Doing::HasBundle(_)) && self.cache.is_some_and(|(.., age)| age <= SLEEP)
    }

    pub(super) fn signs_with(&self, defect: Option<Defect>) -> Option<Sig> {
        let (sig, age) = self.memory.filter(|_| self.is_issuing)?;
        (age <= SLEEP || defect == Some(Defect::SignsHoweverLongItSlept)).then_some(sig)
    }

    /// By the API server's clock.
    pub(super) fn grow_older(&mut self, ticks: u8, older: impl Fn(&mut Sig)) {
        let add = |age: &mut u8| *age = (*age + ticks).min(SLEEP + 1);
        if let Some((secret, _, age)) = &mut self.cache {
            secret.grow_older(&older);
            add(age);
        }
        if let Some((sig, age)) = &mut self.memory {
            older(sig);
            add(age);
        }
        match &mut self.doing {
            Doing::HasSigning(looked) => looked.signing.grow_older(&older),
            Doing::WritesSigning { sig, .. } => older(sig),
            Doing::Nothing
            | Doing::HasBundle(_)
            | Doing::HasSecret(_)
            | Doing::WritesRoots(_)
            | Doing::WritesBundle(_) => {}
        }
    }

    /// By its own.
    pub(super) fn wait(&mut self) {
        // A gap after which the watch begins anew may be as long as it likes.
        if let Some((_, _, gap)) = &mut self.watched {
            *gap = (*gap + 1).min(OLD);
        }
        if matches!(self.doing, Doing::HasBundle(_) | Doing::HasSecret(_) | Doing::HasSigning(_)) {
            self.read = (self.read + 1).min(OLD);
        }
    }

    pub(super) fn has_set_its_clock(&self) -> bool {
        self.cache.is_some()
    }

    pub(super) fn lag_by(&mut self, ticks: u8) {
        self.lag = (self.lag + ticks).min(OLD);
    }

    fn watch(&mut self, looked: Looked, clock: Clock) -> Duration {
        let rotation = match looked.signing {
            Secret::Sound(sig) => sig.seen().plan.rotation,
            Secret::Broken(_) | Secret::Absent => None,
        };
        let root = awaited(rotation, timing(), clock).map(number_of);
        let root = root.filter(|root| looked.bundle.roots & (1 << root) != 0);
        let gap = self.watched.map_or(0, |(_, _, gap)| gap.saturating_sub(self.read));
        let same = self.watched.filter(|(watched, ..)| Some(*watched) == root && gap <= SLEEP && !self.was_written);
        let watched = same.map_or(0, |(_, watched, _)| (watched + gap).min(OLD));
        self.watched = root.map(|root| (root, watched, self.read));
        Duration::seconds(i64::from(watched))
    }
}

impl Secret {
    fn grow_older(&mut self, older: impl Fn(&mut Sig)) {
        match self {
            Self::Broken(sig) | Self::Sound(sig) => older(sig),
            Self::Absent => {}
        }
    }

    /// What is written into a broken Secret when it is mended is no part of what is read.
    fn as_read(self) -> Self {
        match self {
            Self::Broken(_) => Self::Broken(NONE),
            Self::Absent | Self::Sound(_) => self,
        }
    }
}

/// What is known of a Secret that cannot be read.
const NONE: Sig =
    Sig { number: 0, root: 0, issuing: 0, phase: Phase::Stable, asked: 0, is_old: false, is_mended: false };

impl World {
    /// One read, with what is decided on it, or one write.
    pub(super) fn step(&mut self, number: usize, cached: bool, defect: Option<Defect>) -> Result<(), Violation> {
        match std::mem::take(&mut self.keepers[number].doing) {
            Doing::Nothing => {
                let keeper = &mut self.keepers[number];
                keeper.was_written = keeper.stale.bundle;
                (keeper.stale.bundle, keeper.read) = (false, 0);
                keeper.doing = Doing::HasBundle(self.bundle);
                Ok(())
            }
            Doing::HasBundle(bundle) => {
                let keeper = &mut self.keepers[number];
                if let Some((signing, place, _)) = keeper.cache.filter(|_| cached) {
                    let looked = Looked { bundle, signing, place, is_fresh: false };
                    return self.decide(number, looked, Seen::Unread, defect);
                }
                keeper.started_ahead |= keeper.cache.is_none() && self.ahead > 0;
                let signing = self.signing.as_read();
                keeper.stale.signing = false;
                keeper.cache = Some((signing, Place::Made, 0));
                if self.place == Place::Made {
                    let looked = Looked { bundle, signing, place: Place::Made, is_fresh: true };
                    return self.decide(number, looked, Seen::Unread, defect);
                }
                keeper.doing = Doing::HasSecret(bundle);
                Ok(())
            }
            Doing::HasSecret(bundle) => {
                let keeper = &mut self.keepers[number];
                let Some((signing, place, _)) = &mut keeper.cache else { return Ok(()) };
                *place = self.place;
                let looked = Looked { bundle, signing: *signing, place: self.place, is_fresh: true };
                self.decide(number, looked, Seen::Unread, defect)
            }
            Doing::HasSigning(looked) => {
                self.keepers[number].stale.roots = false;
                let roots = self.roots.map_or(Seen::Absent, Seen::Found);
                self.decide(number, looked, roots, defect)
            }
            Doing::WritesRoots(keys) => {
                if !self.keepers[number].stale.roots {
                    if self.place == Place::Made {
                        self.made = self.made.max(keys.next.unwrap_or(keys.current).root + 1);
                    }
                    self.roots = Some(keys);
                    self.roots_changed();
                }
                Ok(())
            }
            Doing::WritesSigning { sig, is_new } => self.write_signing(number, sig, is_new, defect),
            Doing::WritesBundle(wanted) => {
                if !self.keepers[number].stale.bundle || defect == Some(Defect::PublishesOverOthers) {
                    return self.publish(wanted);
                }
                Ok(())
            }
        }
    }

    fn write_signing(
        &mut self,
        number: usize,
        sig: Sig,
        is_new: bool,
        defect: Option<Defect>,
    ) -> Result<(), Violation> {
        let keeper = &mut self.keepers[number];
        keeper.cache = keeper.cache.map(|(secret, place, _)| (secret, place, SLEEP + 1));
        if keeper.stale.signing && defect != Some(Defect::WritesOverOthers) {
            return Ok(());
        }
        if let Secret::Sound(before) = self.signing
            && (is_new && sig.number <= before.number || sig.number < before.number)
        {
            return Err(Violation::NumberBack);
        }
        self.signing = Secret::Sound(sig);
        self.signing_changed();
        Ok(())
    }

    fn decide(
        &mut self,
        number: usize,
        looked: Looked,
        roots: Seen<Keys>,
        defect: Option<Defect>,
    ) -> Result<(), Violation> {
        let keeper = &mut self.keepers[number];
        if keeper.memory.is_some_and(|(_, age)| age > SLEEP) && defect != Some(Defect::RemembersHoweverLongItSlept) {
            keeper.last = keeper.memory.take().map(|(sig, _)| (sig.number, sig.root));
            keeper.is_issuing = false;
        }
        let before = keeper.before(looked);
        let is_first = matches!(roots, Seen::Unread);
        let started = if keeper.started_ahead { ahead() } else { Duration::ZERO };
        let now = if self.ahead > 0 { NOW + ahead() } else { NOW };
        let clock = Clock::new(now, ago(keeper.lag) + started);
        let watched = if is_first {
            keeper.watch(looked, clock)
        } else {
            Duration::seconds(i64::from(keeper.watched.map_or(0, |(_, watched, _)| watched)))
        };
        let trusted: Vec<Sha256> = (0..8).filter(|root| looked.bundle.roots & (1 << root) != 0).map(id).collect();
        let signing = match looked.signing {
            Secret::Sound(sig) => Some(sig.seen()),
            Secret::Absent | Secret::Broken(_) => None,
        };
        let source = looked.place.source();
        let wish = Wish { rotate: wish(self.wish), ..Wish::default() };
        let wish = if defect == Some(Defect::HeedsWishesOfWhatIsBrought) { wish } else { source.heeds(wish) };
        let sight = Sight {
            signing: match (&signing, looked.signing) {
                (Some(signing), _) => Seen::Found(signing),
                (None, Secret::Broken(_)) => Seen::Broken(LoadError::State),
                (None, Secret::Absent | Secret::Sound(_)) => Seen::Absent,
            },
            root: roots.map(|keys| keys.seen()),
            bundle: Some(&trusted),
            marked: looked.bundle.marked.map(id),
            before: before.filter(|_| keeper.memory.is_some() || defect != Some(Defect::ForgetsWhatItSignedWith)),
            highest: 0,
            watched,
            longest: u32::from(LIFE),
            source,
            wish: &wish,
            timing: timing(),
        };
        let step = spoilt(&sight, clock, defect);
        let is_write = !matches!(step, Step::Sign { .. } | Step::Hold(_) | Step::ReadRoot);
        if is_write && !looked.is_fresh {
            return Ok(());
        }
        if let (true, Secret::Sound(sig)) = (is_write, looked.signing)
            && before.is_none_or(|before| before.number <= u64::from(sig.number))
        {
            keeper.memory = Some((sig, keeper.cache.map_or(0, |(.., age)| age)));
            keeper.is_issuing = false;
        }
        // Of the other defects something worse comes later.
        let is_told = defect.is_none_or(|defect| defect == Defect::ForgetsWhatItSignedWith);
        if let (true, Step::Sign { .. }, Some(before), Secret::Sound(sig)) = (is_told, &step, before, looked.signing)
            && !sig.seen().knows(before.root)
        {
            return Err(Violation::Followed);
        }
        self.take(number, step, looked, &roots, clock, defect)
    }

    fn take(
        &mut self,
        number: usize,
        step: Step,
        looked: Looked,
        roots: &Seen<Keys>,
        clock: Clock,
        defect: Option<Defect>,
    ) -> Result<(), Violation> {
        let held = match roots {
            Seen::Found(keys) => Some(*keys),
            Seen::Unread | Seen::Absent | Seen::Broken(_) => None,
        };
        let another = match looked.place {
            Place::Made if usize::from(self.made) < ROOTS => Some(made(self.made)),
            Place::Made | Place::Brought(_) | Place::Spoilt(_) => looked.place.brings(),
        };
        let doing = &mut self.keepers[number].doing;
        match (step, looked.signing, held) {
            (Step::ReadRoot, _, _) => *doing = Doing::HasSigning(looked),
            (Step::MakeRoot(_), _, _) => {
                *doing = another.map_or(Doing::Nothing, |current| Doing::WritesRoots(Keys { current, next: None }));
            }
            (Step::MakeNext, _, Some(keys)) if another.is_some() => {
                *doing = Doing::WritesRoots(Keys { next: another, ..keys });
            }
            (Step::Forget, _, Some(keys)) => *doing = Doing::WritesRoots(Keys { next: None, ..keys }),
            (Step::Promote, _, Some(Keys { next: Some(next), .. })) => {
                *doing = Doing::WritesRoots(Keys { current: next, next: None });
            }
            (Step::Put(Put { plan, below, .. }), found, _) => {
                let (ca, is_old) = match (below, found) {
                    (Some(below), _) => {
                        let held = held.into_iter().flat_map(|keys| [Some(keys.current), keys.next]).flatten();
                        let mut all = looked.place.brings().into_iter().chain(held);
                        let Some(ca) = all.find(|ca| id(ca.root) == below) else { return Ok(()) };
                        (ca, false)
                    }
                    (None, Secret::Sound(sig)) => (Ca { root: sig.root, issuing: sig.issuing }, sig.is_old),
                    (None, Secret::Absent | Secret::Broken(_)) => return Ok(()),
                };
                *doing = Doing::WritesSigning { sig: Sig::wanted(&plan, ca, is_old), is_new: below.is_some() };
            }
            (Step::Sign { alarm, .. }, Secret::Sound(sig), _) => {
                return self.sign_with(number, sig, looked, alarm.as_ref(), defect);
            }
            (Step::Hold(_), _, _) => return self.hold(number, looked, clock, defect),
            _ => {}
        }
        Ok(())
    }

    fn sign_with(
        &mut self,
        number: usize,
        sig: Sig,
        looked: Looked,
        alarm: Option<&Trouble>,
        defect: Option<Defect>,
    ) -> Result<(), Violation> {
        let seen = sig.seen();
        let found: Vec<Sha256> = (0..8).filter(|root| looked.bundle.roots & (1 << root) != 0).map(id).collect();
        let mut bundle = Bundle::compare(&found, looked.bundle.marked.map(id), &seen);
        if defect == Some(Defect::SignsBeforePublishing) && bundle == Bundle::Wrong {
            bundle = Bundle::LacksNext;
        }
        let keeper = &mut self.keepers[number];
        if bundle == Bundle::Wrong {
            keeper.is_issuing = false;
        } else {
            let went_back = keeper.memory.is_some_and(|(before, _)| sig.number < before.number);
            // Where more than this is wrong, another trouble may be told first.
            if went_back && alarm.is_none() {
                return Err(Violation::NumberBack);
            }
            keeper.memory = Some((sig, keeper.cache.map_or(0, |(.., age)| age)));
            keeper.is_issuing = true;
            self.sign(number, defect)?;
        }
        if bundle != Bundle::InOrder && looked.is_fresh {
            let other = seen.plan.rotation.map_or(0, |rotation| 1 << number_of(rotation.other()));
            self.keepers[number].doing =
                Doing::WritesBundle(Published { roots: 1 << sig.root | other, marked: Some(sig.root) });
        }
        Ok(())
    }

    fn hold(&mut self, number: usize, looked: Looked, clock: Clock, defect: Option<Defect>) -> Result<(), Violation> {
        let keeper = &mut self.keepers[number];
        let Some((sig, age)) = &mut keeper.memory else { return Ok(()) };
        let goes_on = may_go_on(&sig.seen(), looked.bundle.marked.map(id), timing(), clock)
            || defect == Some(Defect::GoesOnWhateverOthersDid);
        *age = keeper.cache.map_or(0, |(.., age)| age);
        keeper.is_issuing = goes_on && looked.bundle.roots & (1 << sig.root) != 0;
        self.sign(number, defect)
    }
}

/// The product's own decision, with one guard less.
fn spoilt(sight: &Sight<'_>, clock: Clock, defect: Option<Defect>) -> Step {
    let mut sight = sight.clone();
    let mut clock = clock;
    let Some(defect) = defect else { return next_step(&sight, clock) };
    let far = Duration::days(1);
    let is_draining = |signing: &Signing| matches!(signing.plan.rotation, Some(Rotation::Drain { .. }));
    match (defect, &sight.signing) {
        (Defect::SignsWithoutDistributing, _) => {
            sight.watched = far;
            sight.timing.distribute = Duration::ZERO;
        }
        (Defect::WatchesNothing, Seen::Found(signing)) if !is_draining(signing) => sight.watched = far,
        (Defect::OverlooksTheMark, _) => sight.marked = None,
        (Defect::RetiresEarly, Seen::Found(signing)) if is_draining(signing) => {
            clock.slow += Duration::seconds(3);
            sight.watched = far;
        }
        (Defect::RetiresByTheClockThatJumped, Seen::Found(signing)) if is_draining(signing) => {
            clock.slow = clock.now;
            sight.watched = far;
        }
        (Defect::RetiresAtItsFirstLook, Seen::Found(signing)) if is_draining(signing) => sight.watched = far,
        _ => {}
    }
    let forgetful;
    if let Seen::Found(signing) = sight.signing {
        let mut signing = signing.clone();
        if defect == Defect::AbandonsWhatMayHaveSigned {
            signing.plan.mended = None;
        }
        if defect == Defect::StaysWithWhatWasBrought {
            signing.is_brought &= sight.source.place().is_some();
        }
        forgetful = signing;
        sight.signing = Seen::Found(&forgetful);
    }
    let step = next_step(&sight, clock);
    // As if there were nothing to do, and whatever there is to tell were told.
    let alarm = Some(Trouble::RolledBack { from: 1, to: 0 });
    let nothing = Step::Sign { until: clock.now, alarm };
    let brought = sight.source.brings().map(Root::fingerprint);
    let before = match &sight.signing {
        Seen::Found(signing) => Some(&signing.plan),
        Seen::Unread | Seen::Absent | Seen::Broken(_) => None,
    };
    match (defect, step) {
        (Defect::NeverPrepares, Step::Put(Put { name: Name::Prepare, .. }))
        | (Defect::NeverDistributes, Step::Put(Put { name: Name::Distribute, .. }))
        | (Defect::NeverSigns, Step::Put(Put { name: Name::Sign, .. }))
        | (Defect::NeverRetires, Step::Put(Put { name: Name::Retire, .. }))
        | (
            Defect::FollowsAnOldCopy | Defect::ForgetsTheRotationWithTheSecret,
            Step::Put(Put { name: Name::Resume, .. }),
        )
        | (Defect::NeverPromotes, Step::Promote)
        | (Defect::NeverIssues, Step::Put(Put { name: Name::Issue, .. }))
        | (Defect::NeverMakesARoot, Step::MakeRoot(_))
        | (Defect::NeverMakesANext, Step::MakeNext)
        | (Defect::NeverRenews, Step::Put(Put { name: Name::Renew, .. }))
        | (Defect::NeverForgets, Step::Forget)
        | (Defect::NeverAbandons, Step::Put(Put { name: Name::Abandon, .. })) => nothing,
        (Defect::NeverTakesAThird, Step::Put(Put { name: Name::Prepare, .. }))
            if before.is_some_and(|plan| plan.rotation.is_some()) =>
        {
            nothing
        }
        // As if all that is brought were below the root that signs.
        (Defect::RenewsUnderAnotherRoot, Step::Put(mut put)) if put.name == Name::Prepare => {
            let number = before.map_or(1, |before| before.number + 1);
            put.plan = Plan { number, rotation: None, ..put.plan };
            put.below = brought;
            put.name = Name::Renew;
            Step::Put(put)
        }
        (Defect::StopsWhenItIsSpoilt, Step::Sign { alarm: Some(trouble), .. }) => Step::Hold(trouble),
        (Defect::TellsNobodyOfAnOldCopy, Step::Sign { until, .. }) => Step::Sign { until, alarm: None },
        (Defect::RenewsWithTheSameNumber, Step::Put(mut put)) if put.name == Name::Renew => {
            put.plan.number = before.map_or(1, |before| before.number);
            Step::Put(put)
        }
        (Defect::SwitchesWithTheSameNumber, Step::Put(mut put)) if put.name == Name::Sign => {
            put.plan.number = before.map_or(1, |before| before.number);
            Step::Put(put)
        }
        (Defect::ForgetsTheRotationWithTheSecret, Step::Put(mut put)) if put.name == Name::Issue => {
            put.plan.rotation = None;
            Step::Put(put)
        }
        (Defect::GoesBackWithAnOldCopy, Step::Put(Put { name: Name::Resume, below: Some(_), .. })) => nothing,
        (_, step) => step,
    }
}
