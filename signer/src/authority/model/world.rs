//! A cluster with two replicas, small enough to be seen whole. Times are ages in ticks, so that no world is new only because it
//! is later.

use std::sync::LazyLock;

use time::{Duration, OffsetDateTime};

use super::keeper::{Defect, Keeper};
use crate::{
    authority::{
        plan::{Plan, Rotation},
        rotation::Timing,
        state::{Held, HeldRoot, Signing},
    },
    names::Sha256,
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
    /// Faults stopped, and the rotation that was asked for did not end.
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
    /// A copy of both Secrets is put away.
    Copy,
    /// The copy of the signing Secret comes back.
    RestoreSigning,
    /// The copy of the root's Secret comes back.
    RestoreRoots,
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
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) signing: Secret,
    pub(super) roots: Option<Keys>,
    copy: Option<(Sig, Keys)>,
    /// Whether that came back at some time.
    is_restored: bool,
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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Secret {
    Absent,
    /// What was there before comes back when it is mended.
    Broken(Sig),
    Sound(Sig),
}

/// The root's Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Keys {
    pub(super) current: u8,
    pub(super) next: Option<u8>,
}

/// The signing Secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Sig {
    pub(super) number: u8,
    pub(super) root: u8,
    pub(super) phase: Phase,
    pub(super) asked: u8,
    pub(super) is_old: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Phase {
    Stable,
    Prepare { next: u8 },
    Distribute { next: u8, age: u8 },
    Sign { previous: u8 },
    Drain { previous: u8, age: u8 },
}

/// Where walks begin, and how many worlds each may see: a cluster whose CA has signed for long, one that is installed just now,
/// and some in the midst of a rotation, of which somebody has a copy from before or slept through it.
pub(super) fn starts() -> Vec<(World, usize)> {
    let sig = Sig { number: 1, root: 0, phase: Phase::Stable, asked: 0, is_old: false };
    let nothing = Budget { asks: 0, crashes: 0, faults: 0, breaks: 0, ages: 0, jumps: 0 };
    let old = World {
        signing: Secret::Sound(sig),
        roots: Some(Keys { current: 0, next: None }),
        copy: None,
        is_restored: false,
        bundle: Bundle { roots: 1, marked: Some(0) },
        keepers: [Keeper::default(), Keeper::default()],
        live: [LIFE, 0, 0, 0],
        known: [KNOWN, 0, 0, 0],
        made: 1,
        wish: 0,
        budget: Budget { asks: 1, crashes: 1, ages: 1, ..nothing },
    };
    let (live, known) = ([0; ROOTS], [0; ROOTS]);
    let empty = World {
        signing: Secret::Absent,
        roots: None,
        bundle: Bundle { roots: 0, marked: None },
        live,
        known,
        made: 0,
        ..old.clone()
    };
    let rotating = World {
        signing: Secret::Sound(Sig { phase: Phase::Distribute { next: 1, age: 0 }, asked: 1, ..sig }),
        roots: Some(Keys { current: 0, next: Some(1) }),
        copy: Some((sig, Keys { current: 0, next: None })),
        bundle: Bundle { roots: 0b11, marked: Some(0) },
        made: 2,
        wish: 1,
        budget: Budget { crashes: 1, faults: 2, breaks: 1, ..nothing },
        ..old.clone()
    };
    let draining = World {
        signing: Secret::Sound(Sig {
            number: 2,
            root: 1,
            phase: Phase::Drain { previous: 0, age: 0 },
            asked: 1,
            is_old: false,
        }),
        known: [KNOWN, KNOWN, 0, 0],
        budget: Budget { faults: 2, breaks: 1, jumps: 1, ages: 1, ..nothing },
        ..rotating.clone()
    };
    // One replica slept through it all; or looked just before the other one switched and the Secret was broken.
    let slept = World {
        signing: Secret::Sound(Sig {
            number: 2,
            root: 1,
            phase: Phase::Drain { previous: 0, age: 2 },
            asked: 1,
            is_old: false,
        }),
        bundle: Bundle { roots: 0b11, marked: Some(1) },
        keepers: [Keeper::that_signed_with(sig, SLEEP + 1), Keeper::default()],
        copy: None,
        live: [0, LIFE, 0, 0],
        budget: nothing,
        ..draining.clone()
    };
    let distributed = Sig { phase: Phase::Distribute { next: 1, age: KNOWN }, asked: 1, ..sig };
    let drains = Sig { number: 2, root: 1, phase: Phase::Drain { previous: 0, age: 1 }, asked: 1, is_old: false };
    let awake = World {
        signing: Secret::Broken(drains),
        keepers: [Keeper::that_signed_with(distributed, SLEEP), Keeper::default()],
        ..slept.clone()
    };
    let with = |budget| World { budget, ..old.clone() };
    vec![
        (slept, 50_000),
        (awake, 50_000),
        (draining, 250_000),
        (rotating, 250_000),
        (with(Budget { asks: 1, crashes: 1, faults: 1, breaks: 1, ..nothing }), 200_000),
        (with(Budget { asks: 1, faults: 2, ..nothing }), 250_000),
        (with(Budget { asks: 1, jumps: 1, ..nothing }), 100_000),
        (old, 200_000),
        (empty, 50_000),
    ]
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
        if let Secret::Broken(_) = self.signing {
            all.push(Action::Mend);
        }
        let is_sound = matches!(self.signing, Secret::Sound(_));
        if is_sound && self.budget.breaks > 0 {
            all.push(Action::Break);
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
            if let Some((sig, keys)) = self.copy {
                if self.signing != Secret::Sound(sig) {
                    all.push(Action::RestoreSigning);
                }
                if self.roots != Some(keys) {
                    all.push(Action::RestoreRoots);
                }
            }
            all.extend((0..self.made).filter(|root| self.publishes(*root)).map(Action::Unpublish));
            if self.bundle.roots & PLANTED == 0 {
                all.push(Action::Plant);
            }
        }
        all
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
            Action::Mend => {
                if let Secret::Broken(sig) = self.signing {
                    self.signing = Secret::Sound(sig);
                    self.signing_changed();
                }
            }
            Action::Copy => {
                if let (Secret::Sound(sig), Some(keys)) = (self.signing, self.roots) {
                    self.copy = Some((sig, keys));
                }
            }
            Action::RestoreSigning
            | Action::RestoreRoots
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
        } else {
            self.budget.faults -= 1;
        }
        match (fault, self.copy, self.signing) {
            (Action::RestoreSigning, Some((sig, _)), _) => {
                self.signing = Secret::Sound(sig);
                self.is_restored = true;
            }
            (Action::RestoreRoots, Some((_, keys)), _) => {
                self.roots = Some(keys);
                self.is_restored = true;
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
        if self.known[root] < KNOWN && root != 0 {
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
        if let Some((sig, _)) = &mut self.copy {
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

    /// Whether all that was asked for gets done when nothing more goes wrong.
    pub(super) fn comes_to_rest(&self, defect: Option<Defect>) -> Result<(), Violation> {
        let mut world = self.clone();
        world.budget = Budget { asks: 0, crashes: 0, faults: 0, breaks: 0, ages: 0, jumps: 0 };
        if let Secret::Broken(_) = world.signing {
            world.act(Action::Mend, defect)?;
        }
        for _ in 0..TICKS_TO_REST {
            for keeper in [0, 1] {
                for _ in 0..STEPS_TO_REST {
                    world.step(keeper, false, defect)?;
                }
            }
            if world.rests(defect) {
                return Ok(());
            }
            world.tick(defect)?;
        }
        Err(Violation::NoRest)
    }

    fn rests(&self, defect: Option<Defect>) -> bool {
        let keys_are_lost = match (self.signing, self.roots) {
            (Secret::Sound(sig), Some(keys)) => keys.current != sig.root && keys.next != Some(sig.root),
            (Secret::Absent, Some(keys)) => {
                ![Some(keys.current), keys.next].into_iter().flatten().any(|root| self.publishes(root))
            }
            (Secret::Absent | Secret::Broken(_) | Secret::Sound(_), _) => false,
        };
        // Or of one that is noted on the bundle, or that a replica has signed with before old copies came back.
        let remembered = self.keepers.iter().filter_map(Keeper::root).filter(|_| self.is_restored);
        let signed = remembered.chain(self.bundle.marked);
        let is_lost = |root: u8| {
            let known = matches!(self.signing, Secret::Sound(sig) if sig.seen().knows(id(root)));
            !known && self.roots.is_none_or(|keys| keys.current != root && keys.next != Some(root))
        };
        let keys_are_lost = keys_are_lost || signed.into_iter().any(is_lost);
        let Secret::Sound(sig) = self.signing else { return keys_are_lost };
        let is_done = sig.phase == Phase::Stable && sig.asked == self.wish;
        let all_sign =
            self.keepers.iter().all(|keeper| keeper.signs_with(defect).is_some_and(|with| with.root == sig.root));
        keys_are_lost || is_done && all_sign && self.bundle.roots == 1 << sig.root
    }
}

impl Sig {
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
        Signing {
            plan: Plan { rotation, asked: wish(self.asked), ..Plan::new(u64::from(self.number), u32::from(LIFE)) },
            root: id(self.root),
            not_before: NOW - Duration::days(1),
            renew_at: if self.is_old { NOW } else { far },
            usable_until: far,
            rotate_at: far,
        }
    }

    /// As the product wants it.
    pub(super) fn wanted(plan: &Plan, root: u8, is_old: bool) -> Self {
        let number = u8::try_from(plan.number).unwrap();
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
        Self { number, root, phase, asked, is_old }
    }
}

impl Keys {
    pub(super) fn seen(self) -> Held {
        let root = |root| HeldRoot { fingerprint: id(root), not_after: NOW + Duration::days(3652) };
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

pub(super) fn id(root: u8) -> Sha256 {
    IDS[usize::from(root)]
}

pub(super) fn number_of(id: Sha256) -> u8 {
    u8::try_from(IDS.iter().position(|known| *known == id).unwrap()).unwrap()
}

pub(super) fn ago(age: u8) -> OffsetDateTime {
    NOW - Duration::seconds(i64::from(age))
}

fn age(since: OffsetDateTime) -> u8 {
    u8::try_from((NOW - since).whole_seconds()).unwrap()
}

static IDS: LazyLock<[Sha256; 8]> = LazyLock::new(|| [0, 1, 2, 3, 4, 5, 6, 7].map(|number| Sha256::of(&[number])));

pub(super) const ROOTS: usize = 4;
/// The bit of a root that is nobody's.
pub(super) const PLANTED: u8 = 1 << 7;
/// Ticks until every consumer knows a root that is published, and that the product waits.
const KNOWN: u8 = 2;
/// Ticks that a certificate lives.
pub(super) const LIFE: u8 = 2;
/// Ticks that a replica signs after it last read which CA signs.
pub(super) const SLEEP: u8 = 1;
/// Longer than any phase.
const JUMP: u8 = 5;
/// Ages beyond this are all one.
pub(super) const OLD: u8 = 10;
const TICKS_TO_REST: usize = 40;
const STEPS_TO_REST: usize = 40;
