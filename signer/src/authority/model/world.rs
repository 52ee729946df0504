//! A cluster with two replicas, small enough to be seen whole, whose CA is made here or brought by a writer. Times are ages in ticks, so
//! that no world is new only because it is later.

use time::{Duration, OffsetDateTime};

use super::{
    keeper::{Defect, Keeper},
    writer::{self, Ca, Place, id, number_of},
};
use crate::{
    authority::{
        plan::{Fault, Mended, Plan, Rotation},
        rotation::Timing,
        state::{Held, HeldRoot, Signing},
    },
    pace::Pace,
    pipeline::honest::NOW,
};

/// What must never be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Violation {
    /// A certificate was signed under a root that consumers cannot know yet.
    Unknown,
    /// A root was withdrawn while a certificate under it lives.
    Withdrawn,
    /// The number of an issuing CA went back, and nobody was told.
    NumberBack,
    /// A replica goes on with what does not know the root that it signed under before.
    Followed,
    /// Faults stopped, and what was asked for, or brought, did not come about.
    NoRest,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// A replica takes its next step; with the signing Secret as it read it before, or anew.
    Step { keeper: usize, cached: bool },
    /// A replica dies and starts again.
    Crash(usize),
    /// Time passes.
    Tick,
    /// Somebody asks for a rotation.
    Ask,
    /// The issuing CA is half through its life.
    Age,
    /// A copy of everything is put away.
    Copy,
    /// The copy of the signing Secret comes back.
    RestoreSigning,
    /// The copy of the root's Secret comes back.
    RestoreRoots,
    /// etcd is as it was when the copy was put away: both come back, and the bundle of that time.
    RestoreAll,
    /// The signing Secret is deleted.
    Delete,
    /// It is overwritten with something that cannot be read.
    Break,
    /// That is undone.
    Mend,
    /// A root is taken out of the bundle.
    Unpublish(u8),
    /// A foreign root is put into it.
    Plant,
    /// The API server's clock jumps ahead.
    Jump,
    /// It does, and is mended soon.
    Ahead,
    /// The writer brings this one: a new one, or one that he has brought before.
    Bring(Ca),
    /// He takes away what he has brought, or spoils it.
    Spoil,
    /// It is to be made again.
    Leave,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    /// Where the CA comes from.
    pub(super) place: Place,
    pub(super) signing: Secret,
    pub(super) roots: Option<Keys>,
    pub(super) copy: Option<Copied>,
    /// Whether that came back at some time.
    pub(super) is_restored: bool,
    pub(super) bundle: Bundle,
    pub(super) keepers: [Keeper; 2],
    /// How long certificates under each root live yet.
    pub(super) live: [u8; ROOTS],
    /// For how long each root was there for consumers to learn of.
    pub(super) known: [u8; ROOTS],
    pub(super) made: u8,
    /// The wish that stands.
    pub(super) wish: u8,
    pub(super) budget: Budget,
    /// For how many ticks the API server's clock is ahead yet.
    pub(super) ahead: u8,
}

/// What is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bundle {
    /// By bit.
    pub(super) roots: u8,
    pub(super) marked: Option<u8>,
}

/// How much of each may happen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    pub(super) asks: u8,
    pub(super) crashes: u8,
    pub(super) faults: u8,
    /// Of these two, at no cost to the others.
    pub(super) breaks: u8,
    pub(super) ages: u8,
    pub(super) jumps: u8,
    pub(super) restores: u8,
    pub(super) brings: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Secret {
    Absent,
    /// What was there before comes back when it is mended.
    Broken(Sig),
    Sound(Sig),
}

/// All at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Copied {
    pub(super) sig: Sig,
    pub(super) keys: Keys,
    pub(super) bundle: Bundle,
}

/// The root's Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Keys {
    pub(super) current: Ca,
    pub(super) next: Option<Ca>,
}

/// The signing Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sig {
    pub(super) number: u16,
    pub(super) root: u8,
    /// Of those that are brought.
    pub(super) issuing: u8,
    pub(super) phase: Phase,
    pub(super) asked: u8,
    pub(super) is_old: bool,
    /// And it was not certain which root had signed last. Noted where a CA is brought: elsewhere nothing depends on it. What it keeps from
    /// being done it keeps for longer than a walk.
    pub(super) is_mended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Stable,
    Prepare { next: u8 },
    Distribute { next: u8, age: u8 },
    Sign { previous: u8 },
    Drain { previous: u8, age: u8 },
}

impl World {
    pub(super) fn actions(&self) -> Vec<Action> {
        let mut all = Vec::with_capacity(16);
        for (number, keeper) in self.keepers.iter().enumerate() {
            all.push(Action::Step { keeper: number, cached: false });
            if keeper.may_use_cache() {
                all.push(Action::Step { keeper: number, cached: true });
            }
            if self.budget.crashes > 0 && *keeper != Keeper::default() {
                all.push(Action::Crash(number));
            }
        }
        all.push(Action::Tick);
        if self.budget.asks > 0 {
            all.push(Action::Ask);
        }
        if self.budget.ages > 0 {
            all.push(Action::Age);
        }
        if self.budget.jumps > 0 && self.keepers.iter().all(Keeper::has_set_its_clock) {
            all.push(Action::Jump);
        }
        if self.budget.jumps > 0 {
            all.push(Action::Ahead);
        }
        if self.budget.brings > 0 {
            match self.place {
                Place::Made | Place::Spoilt(_) => all.extend(self.brings(None)),
                Place::Brought(ca) => {
                    all.extend(self.brings(Some(ca)));
                    all.push(Action::Spoil);
                }
            }
            if self.place != Place::Made && self.made > 0 {
                all.push(Action::Leave);
            }
        }
        if let Secret::Broken(_) = self.signing {
            all.push(Action::Mend);
        }
        let is_sound = matches!(self.signing, Secret::Sound(_));
        if is_sound && self.budget.breaks > 0 {
            all.push(Action::Break);
        }
        if self.budget.restores > 0 && self.copy.is_some() {
            all.push(Action::RestoreAll);
        }
        if self.budget.faults > 0 {
            match (self.signing, self.roots) {
                (Secret::Sound(_), Some(_)) => {
                    all.push(Action::Delete);
                    if self.copy.is_none() {
                        all.push(Action::Copy);
                    }
                }
                (Secret::Absent | Secret::Broken(_) | Secret::Sound(_), _) => {}
            }
            if let Some(Copied { sig, keys, .. }) = self.copy {
                if self.signing != Secret::Sound(sig) {
                    all.push(Action::RestoreSigning);
                }
                if self.roots != Some(keys) {
                    all.push(Action::RestoreRoots);
                }
            }
            let roots = 0..u8::try_from(ROOTS).unwrap();
            all.extend(roots.filter(|root| self.publishes(*root)).map(Action::Unpublish));
            if self.bundle.roots & PLANTED == 0 {
                all.push(Action::Plant);
            }
        }
        all
    }

    /// What a writer may bring next. Where roots were made, the first one was.
    fn brings(&self, now: Option<Ca>) -> impl Iterator<Item = Action> {
        let is_taken = self.made > 0;
        let others = writer::ALL.into_iter().filter(move |ca| Some(*ca) != now && !(is_taken && ca.root == 0));
        others.map(Action::Bring)
    }

    pub(super) fn act(&mut self, action: Action, defect: Option<Defect>) -> Result<(), Violation> {
        match action {
            Action::Step { keeper, cached } => return self.step(keeper, cached, defect),
            Action::Crash(keeper) => {
                self.budget.crashes -= 1;
                self.keepers[keeper] = Keeper::default();
            }
            Action::Tick => return self.tick(defect),
            Action::Ask => {
                self.budget.asks -= 1;
                self.wish += 1;
            }
            Action::Age => {
                self.budget.ages -= 1;
                if let Secret::Sound(sig) = &mut self.signing {
                    sig.is_old = true;
                    self.signing_changed();
                }
            }
            Action::Jump => {
                self.budget.jumps -= 1;
                self.pass(JUMP);
                for keeper in &mut self.keepers {
                    keeper.lag_by(JUMP);
                }
            }
            Action::Ahead => {
                self.budget.jumps -= 1;
                self.ahead = AHEAD;
            }
            Action::Bring(ca) => {
                self.budget.brings -= 1;
                self.place = Place::Brought(ca);
            }
            Action::Spoil => {
                self.budget.brings -= 1;
                if let Place::Brought(ca) = self.place {
                    self.place = Place::Spoilt(ca);
                }
            }
            Action::Leave => {
                self.budget.brings -= 1;
                self.place = Place::Made;
            }
            Action::Mend => {
                if let Secret::Broken(sig) = self.signing {
                    self.signing = Secret::Sound(sig);
                    self.signing_changed();
                }
            }
            Action::Copy => {
                if let (Secret::Sound(sig), Some(keys)) = (self.signing, self.roots) {
                    self.copy = Some(Copied { sig, keys, bundle: self.bundle });
                }
            }
            Action::RestoreSigning
            | Action::RestoreRoots
            | Action::RestoreAll
            | Action::Delete
            | Action::Break
            | Action::Unpublish(_)
            | Action::Plant => self.suffer(action),
        }
        Ok(())
    }

    fn suffer(&mut self, fault: Action) {
        if fault == Action::Break {
            self.budget.breaks -= 1;
        } else if fault == Action::RestoreAll {
            self.budget.restores -= 1;
        } else {
            self.budget.faults -= 1;
        }
        match (fault, self.copy, self.signing) {
            (Action::RestoreSigning, Some(Copied { sig, .. }), _) => {
                self.signing = Secret::Sound(sig);
                self.is_restored = true;
            }
            (Action::RestoreRoots, Some(Copied { keys, .. }), _) => {
                self.roots = Some(keys);
                self.is_restored = true;
            }
            (Action::RestoreAll, Some(Copied { sig, keys, bundle }), _) => {
                (self.signing, self.roots, self.bundle) = (Secret::Sound(sig), Some(keys), bundle);
                self.is_restored = true;
                // The wish that stood then comes back as well. What signed then is known as it was; what signs until it is noticed is lost.
                self.wish = sig.asked;
                self.known[usize::from(sig.root)] = KNOWN;
                self.bundle_changed();
            }
            (Action::Delete, _, _) => self.signing = Secret::Absent,
            (Action::Break, _, Secret::Sound(sig)) => self.signing = Secret::Broken(sig),
            (Action::Unpublish(root), _, _) => {
                self.bundle.roots &= !(1 << root);
                // Whoever knew it will know it again; who had not heard of it yet must hear of it anew.
                let signs = match self.signing {
                    Secret::Sound(sig) | Secret::Broken(sig) => sig.root == root,
                    Secret::Absent => false,
                };
                if self.live[usize::from(root)] == 0 && !signs && self.bundle.marked != Some(root) {
                    self.known[usize::from(root)] = 0;
                }
                self.bundle_changed();
            }
            (Action::Plant, _, _) => {
                self.bundle.roots |= PLANTED;
                self.bundle_changed();
            }
            _ => {}
        }
        self.signing_changed();
        self.roots_changed();
    }

    fn tick(&mut self, defect: Option<Defect>) -> Result<(), Violation> {
        for keeper in 0..self.keepers.len() {
            self.sign(keeper, defect)?;
        }
        self.pass(1);
        self.ahead = self.ahead.saturating_sub(1);
        for keeper in &mut self.keepers {
            keeper.wait();
        }
        for root in 0..ROOTS {
            self.live[root] = self.live[root].saturating_sub(1);
            if self.publishes(u8::try_from(root).unwrap()) {
                self.known[root] = (self.known[root] + 1).min(KNOWN);
            }
        }
        Ok(())
    }

    /// A certificate is signed whenever one may be: the later it is, the longer it lives.
    pub(super) fn sign(&mut self, keeper: usize, defect: Option<Defect>) -> Result<(), Violation> {
        let Some(sig) = self.keepers[keeper].signs_with(defect) else { return Ok(()) };
        let root = usize::from(sig.root);
        // Nobody is there yet who would have to know the very first one.
        let is_first = self.known.iter().all(|known| *known < KNOWN);
        if self.known[root] < KNOWN && !is_first {
            return Err(Violation::Unknown);
        }
        self.known[root] = KNOWN;
        self.live[root] = LIFE;
        Ok(())
    }

    /// The API server's clock goes on.
    fn pass(&mut self, ticks: u8) {
        let older = |sig: &mut Sig| match &mut sig.phase {
            Phase::Distribute { age, .. } | Phase::Drain { age, .. } => *age = (*age + ticks).min(OLD),
            Phase::Stable | Phase::Prepare { .. } | Phase::Sign { .. } => {}
        };
        match &mut self.signing {
            Secret::Broken(sig) | Secret::Sound(sig) => older(sig),
            Secret::Absent => {}
        }
        if let Some(Copied { sig, .. }) = &mut self.copy {
            older(sig);
        }
        for keeper in &mut self.keepers {
            keeper.grow_older(ticks, older);
        }
    }

    pub(super) fn publishes(&self, root: u8) -> bool {
        self.bundle.roots & (1 << root) != 0
    }

    pub(super) fn publish(&mut self, wanted: Bundle) -> Result<(), Violation> {
        let withdrawn = (0..ROOTS).filter(|root| self.bundle.roots & !wanted.roots & (1 << root) != 0);
        if withdrawn.into_iter().any(|root| self.live[root] > 0) {
            return Err(Violation::Withdrawn);
        }
        for root in 0..ROOTS {
            if wanted.roots & (1 << root) == 0 {
                self.known[root] = 0;
            }
        }
        self.bundle = wanted;
        self.bundle_changed();
        Ok(())
    }

    pub(super) fn signing_changed(&mut self) {
        self.keepers.iter_mut().for_each(|keeper| keeper.stale.signing = true);
    }

    pub(super) fn roots_changed(&mut self) {
        self.keepers.iter_mut().for_each(|keeper| keeper.stale.roots = true);
    }

    pub(super) fn bundle_changed(&mut self) {
        self.keepers.iter_mut().for_each(|keeper| keeper.stale.bundle = true);
    }

    /// Whether all that was asked for gets done when nothing more goes wrong: with what is brought as it is, and when that is in order.
    pub(super) fn comes_to_rest(&self, defect: Option<Defect>) -> Result<(), Violation> {
        let mut world = self.clone();
        world.budget = NOTHING;
        if let Secret::Broken(_) = world.signing {
            world.act(Action::Mend, defect)?;
        }
        world.goes_on_until_it_rests(defect)?;
        if let Place::Spoilt(ca) = world.place {
            world.place = Place::Brought(ca);
            world.goes_on_until_it_rests(defect)?;
        }
        Ok(())
    }

    fn goes_on_until_it_rests(&mut self, defect: Option<Defect>) -> Result<(), Violation> {
        for _ in 0..TICKS_TO_REST {
            for keeper in [0, 1] {
                for _ in 0..STEPS_TO_REST {
                    self.step(keeper, false, defect)?;
                }
            }
            if self.rests(defect) {
                return Ok(());
            }
            self.tick(defect)?;
        }
        Err(Violation::NoRest)
    }

    fn rests(&self, defect: Option<Defect>) -> bool {
        let holds = |keys: Keys, root: u8| keys.current.root == root || keys.next.is_some_and(|next| next.root == root);
        let keys_are_lost = match (self.signing, self.roots) {
            (Secret::Sound(sig), Some(keys)) => !holds(keys, sig.root),
            (Secret::Absent, Some(keys)) => {
                ![Some(keys.current), keys.next].into_iter().flatten().any(|ca| self.publishes(ca.root))
            }
            (Secret::Absent | Secret::Broken(_) | Secret::Sound(_), _) => false,
        };
        // Or of one that is noted on the bundle, or that a replica has signed with before old copies came back.
        let is_held = |root: u8| self.roots.is_some_and(|keys| holds(keys, root));
        let knows = |root: u8| matches!(self.signing, Secret::Sound(sig) if sig.seen().knows(id(root)));
        let remembered = self.keepers.iter().filter_map(Keeper::root).any(|root| !knows(root) && !is_held(root));
        let goes_on =
            |root: u8| matches!(self.signing, Secret::Sound(sig) if sig.root == root || sig.previous() == Some(root));
        let marked = self.bundle.marked.is_some_and(|root| !goes_on(root) && !is_held(root));
        let keys_are_lost = keys_are_lost || self.is_restored && remembered || marked;
        let Secret::Sound(sig) = self.signing else {
            // Of nothing comes nothing.
            let is_nothing = matches!(self.place, Place::Spoilt(_)) && self.roots.is_none();
            return keys_are_lost || is_nothing;
        };
        let all_sign =
            self.keepers.iter().all(|keeper| keeper.signs_with(defect).is_some_and(|with| with.root == sig.root));
        let is_stable = sig.phase == Phase::Stable && self.bundle.roots == 1 << sig.root;
        let is_done = match self.place {
            Place::Made => is_stable && sig.asked == self.wish && sig.issuing == 0,
            Place::Brought(ca) => {
                // Its key is lost, and it may have signed.
                let stays = |next| sig.is_mended && self.roots.is_none_or(|keys| !holds(keys, next));
                let waits = matches!(sig.phase, Phase::Distribute { next, .. } if stays(next));
                waits || is_stable && Ca { root: sig.root, issuing: sig.issuing } == ca
            }
            // A rotation may wait for another root than the one that is gone.
            Place::Spoilt(_) => true,
        };
        keys_are_lost || is_done && all_sign
    }
}

impl Sig {
    /// The root that signed before.
    fn previous(self) -> Option<u8> {
        match self.phase {
            Phase::Stable | Phase::Prepare { .. } | Phase::Distribute { .. } => None,
            Phase::Sign { previous } | Phase::Drain { previous, .. } => Some(previous),
        }
    }

    /// As the product sees it.
    pub(super) fn seen(self) -> Signing {
        let far = NOW + Duration::days(1000);
        let rotation = match self.phase {
            Phase::Stable => None,
            Phase::Prepare { next } => Some(Rotation::Prepare { next: id(next) }),
            Phase::Distribute { next, age } => Some(Rotation::Distribute { next: id(next), since: ago(age) }),
            Phase::Sign { previous } => Some(Rotation::Sign { previous: id(previous), longest: u32::from(LIFE) }),
            Phase::Drain { previous, age } => {
                Some(Rotation::Drain { previous: id(previous), since: ago(age), longest: u32::from(LIFE) })
            }
        };
        let mended = self.is_mended.then_some(Mended { fault: Fault::Lost, at: NOW, is_certain: false });
        let plan = Plan::new(u64::from(self.number), u32::from(LIFE));
        Signing {
            plan: Plan { rotation, asked: wish(self.asked), mended, ..plan },
            root: id(self.root),
            issuing: writer::issuing_id(Ca { root: self.root, issuing: self.issuing }),
            is_brought: self.issuing > 0,
            not_before: NOW - Duration::days(1),
            renew_at: if self.is_old { NOW } else { far },
            usable_until: far,
            rotate_at: far,
        }
    }

    /// As the product wants it.
    pub(super) fn wanted(plan: &Plan, Ca { root, issuing }: Ca, is_old: bool) -> Self {
        let number = u16::try_from(plan.number).unwrap();
        let asked = plan.asked.as_ref().map_or(0, |asked| asked.parse().unwrap());
        let phase = match plan.rotation {
            None => Phase::Stable,
            Some(Rotation::Prepare { next }) => Phase::Prepare { next: number_of(next) },
            Some(Rotation::Distribute { next, since }) => Phase::Distribute { next: number_of(next), age: age(since) },
            Some(Rotation::Sign { previous, .. }) => Phase::Sign { previous: number_of(previous) },
            Some(Rotation::Drain { previous, since, .. }) => {
                Phase::Drain { previous: number_of(previous), age: age(since) }
            }
        };
        let is_mended = issuing > 0 && plan.mended.is_some_and(|mended| !mended.is_certain);
        Self { number, root, issuing, phase, asked, is_old, is_mended }
    }
}

impl Keys {
    pub(super) fn seen(self) -> Held {
        let root = |ca: Ca| HeldRoot {
            fingerprint: id(ca.root),
            not_before: NOW - Duration::days(1),
            not_after: NOW + Duration::days(3652),
        };
        Held { current: root(self.current), next: self.next.map(root) }
    }
}

pub(super) fn timing() -> Timing {
    let ticks = |ticks| Duration::seconds(i64::from(ticks));
    Timing { distribute: ticks(KNOWN), margin: ticks(SLEEP + 1), pace: Pace::real() }
}

pub(super) fn wish(number: u8) -> Option<String> {
    (number > 0).then(|| number.to_string())
}

/// A CA that nobody brings.
pub(super) fn made(root: u8) -> Ca {
    Ca { root, issuing: 0 }
}

pub(super) fn ago(age: u8) -> OffsetDateTime {
    NOW - Duration::seconds(i64::from(age))
}

/// What is noted for later than now passes for noted now: to wait for longer endangers nothing.
fn age(since: OffsetDateTime) -> u8 {
    u8::try_from((NOW - since).whole_seconds().max(0)).unwrap()
}

/// By how much the API server's clock is ahead where it is mended soon.
pub(super) fn ahead() -> Duration {
    Duration::seconds(i64::from(JUMP))
}

pub(super) const NOTHING: Budget =
    Budget { asks: 0, crashes: 0, faults: 0, breaks: 0, ages: 0, jumps: 0, restores: 0, brings: 0 };
pub(super) const ROOTS: usize = 4;
/// The bit of a root that is nobody's.
pub(super) const PLANTED: u8 = 1 << 7;
/// Ticks until every consumer knows a root that is published, and that the product waits.
pub(super) const KNOWN: u8 = 2;
/// Ticks that a certificate lives.
pub(super) const LIFE: u8 = 2;
/// Ticks that a replica signs after it last read which CA signs.
pub(super) const SLEEP: u8 = 1;
/// Longer than any phase.
const JUMP: u8 = 5;
/// Ticks that such a clock stays ahead for: fewer than the product waits.
const AHEAD: u8 = 1;
/// Ages beyond this are all one.
pub(super) const OLD: u8 = 10;
const TICKS_TO_REST: usize = 40;
const STEPS_TO_REST: usize = 40;
