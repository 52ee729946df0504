//! Where walks begin.

use super::{
    keeper::Keeper,
    world::{Budget, Bundle, Copied, KNOWN, Keys, LIFE, NOTHING, Phase, ROOTS, SLEEP, Secret, Sig, World, made},
    writer::{Ca, Place},
};

/// What is walked from, and how many worlds each walk may see: a cluster whose CA has signed for long, one that is installed just now,
/// and some in the midst of a rotation, of which somebody has a copy from before or slept through it.
pub(super) fn of_our_own() -> Vec<(World, usize)> {
    let sig = SIGNS;
    let old = signing(Place::Made, made(0), Budget { asks: 1, crashes: 1, ages: 1, ..NOTHING });
    let empty = empty(&old, Place::Made);
    let rotating = World {
        signing: Secret::Sound(Sig { phase: Phase::Distribute { next: 1, age: 0 }, asked: 1, ..sig }),
        roots: Some(Keys { current: made(0), next: Some(made(1)) }),
        copy: Some(Copied { sig, keys: Keys { current: made(0), next: None }, bundle: old.bundle }),
        bundle: Bundle { roots: 0b11, marked: Some(0) },
        made: 2,
        wish: 1,
        budget: Budget { crashes: 1, faults: 2, breaks: 1, ..NOTHING },
        ..old.clone()
    };
    let draining = World {
        signing: Secret::Sound(Sig {
            number: 2,
            root: 1,
            phase: Phase::Drain { previous: 0, age: 0 },
            asked: 1,
            ..sig
        }),
        known: [KNOWN, KNOWN, 0, 0],
        budget: Budget { faults: 2, breaks: 1, jumps: 1, ages: 1, ..NOTHING },
        ..rotating.clone()
    };
    // One replica slept through it all, to its end or not; or looked just before the other one switched and the Secret was broken.
    let switched = Sig { number: 2, root: 1, phase: Phase::Drain { previous: 0, age: 2 }, asked: 1, ..sig };
    let slept = World {
        signing: Secret::Sound(switched),
        bundle: Bundle { roots: 0b11, marked: Some(1) },
        keepers: [Keeper::that_signed_with(sig, SLEEP + 1), Keeper::default()],
        copy: None,
        live: [0, LIFE, 0, 0],
        budget: NOTHING,
        ..draining.clone()
    };
    let slept_longer = World {
        signing: Secret::Sound(Sig { phase: Phase::Stable, ..switched }),
        roots: Some(Keys { current: made(1), next: None }),
        bundle: Bundle { roots: 0b10, marked: Some(1) },
        ..slept.clone()
    };
    // One was cut off, and looks again after etcd went back to before the rotation.
    let cut_off = World {
        keepers: [Keeper::that_signed_with(switched, SLEEP + 1), Keeper::default()],
        copy: rotating.copy,
        live: [LIFE, LIFE, 0, 0],
        budget: Budget { restores: 1, crashes: 1, ..NOTHING },
        ..slept.clone()
    };
    let distributed = Sig { phase: Phase::Distribute { next: 1, age: KNOWN }, asked: 1, ..sig };
    let drains = Sig { number: 2, root: 1, phase: Phase::Drain { previous: 0, age: 1 }, asked: 1, ..sig };
    let awake = World {
        signing: Secret::Broken(drains),
        keepers: [Keeper::that_signed_with(distributed, SLEEP), Keeper::default()],
        ..slept.clone()
    };
    let with = |budget| World { budget, ..old.clone() };
    vec![
        (slept, 50_000),
        (slept_longer, 50_000),
        (awake, 50_000),
        (cut_off, 50_000),
        (draining, 250_000),
        (rotating, 250_000),
        (with(Budget { asks: 1, crashes: 1, faults: 1, breaks: 1, ..NOTHING }), 200_000),
        (with(Budget { asks: 1, faults: 2, ..NOTHING }), 250_000),
        (with(Budget { asks: 1, jumps: 1, ..NOTHING }), 100_000),
        (old, 200_000),
        (empty, 50_000),
    ]
}

/// Two faults in a row, when the previous root is needed no more and goes only when that is certain. Somebody has a copy from before the
/// rotation, or from just before the switch.
pub(super) fn of_two_faults() -> Vec<(World, usize)> {
    let ours = signing(Place::Made, made(0), Budget { faults: 2, ..NOTHING });
    let keys = Keys { current: made(0), next: Some(made(1)) };
    let drained = World {
        signing: Secret::Sound(Sig {
            number: 2,
            root: 1,
            phase: Phase::Drain { previous: 0, age: LIFE },
            asked: 1,
            ..SIGNS
        }),
        roots: Some(keys),
        copy: Some(Copied { sig: SIGNS, keys: Keys { next: None, ..keys }, bundle: ours.bundle }),
        bundle: Bundle { roots: 0b11, marked: Some(1) },
        live: [0, LIFE, 0, 0],
        known: [KNOWN, KNOWN, 0, 0],
        made: 2,
        wish: 1,
        ..ours
    };
    let distributed = Sig { phase: Phase::Distribute { next: 1, age: KNOWN }, asked: 1, ..SIGNS };
    let copy = Some(Copied { sig: distributed, keys, bundle: Bundle { roots: 0b11, marked: Some(0) } });
    let of_late = World { copy, ..drained.clone() };
    // The first fault was mended just now: the previous root is in the bundle again, and nobody has heard of it yet.
    let known = [0, KNOWN, 0, 0];
    let repaired = World { known, budget: Budget { faults: 1, ..NOTHING }, ..of_late.clone() };
    vec![(of_late, MOST), (drained, MOST), (repaired, MOST)]
}

/// What is walked from where a CA is brought: one that has signed for long, one of which nothing is there yet, and some in the midst of a
/// rotation, of which somebody has a copy from before.
pub(super) fn of_a_writer() -> Vec<(World, usize)> {
    let (first, other) = (Ca { root: 0, issuing: 1 }, Ca { root: 1, issuing: 1 });
    let sig = Sig { issuing: 1, ..SIGNS };
    let keys = Keys { current: first, next: None };
    let old = signing(Place::Brought(first), first, Budget { brings: 2, crashes: 1, ..NOTHING });
    let empty = empty(&old, Place::Spoilt(first));
    let rotating = World {
        place: Place::Brought(other),
        signing: Secret::Sound(Sig { phase: Phase::Distribute { next: 1, age: 0 }, ..sig }),
        roots: Some(Keys { current: first, next: Some(other) }),
        copy: Some(Copied { sig, keys, bundle: old.bundle }),
        bundle: Bundle { roots: 0b11, marked: Some(0) },
        budget: Budget { brings: 1, faults: 1, breaks: 1, ..NOTHING },
        ..old.clone()
    };
    let draining = World {
        signing: Secret::Sound(Sig { number: 2, root: 1, phase: Phase::Drain { previous: 0, age: 0 }, ..sig }),
        bundle: Bundle { roots: 0b11, marked: Some(1) },
        live: [LIFE, LIFE, 0, 0],
        known: [KNOWN, KNOWN, 0, 0],
        budget: Budget { brings: 1, faults: 1, breaks: 1, ..NOTHING },
        ..rotating.clone()
    };
    // The new root had signed when an old copy came back.
    let resumed = World {
        signing: Secret::Sound(Sig { phase: Phase::Prepare { next: 1 }, is_mended: true, ..sig }),
        copy: None,
        bundle: Bundle { roots: 0b11, marked: Some(0) },
        budget: Budget { brings: 2, crashes: 1, ..NOTHING },
        ..draining.clone()
    };
    // One that was made is to be taken over, and perhaps to be made again.
    let ours = signing(Place::Made, made(0), Budget { brings: 3, crashes: 1, ..NOTHING });
    let ours = World { made: 3, ..ours };
    let taken_over = World {
        made: ours.made,
        place: Place::Brought(other),
        signing: Secret::Sound(Sig { phase: Phase::Distribute { next: 1, age: 0 }, ..SIGNS }),
        roots: Some(Keys { current: made(0), next: Some(other) }),
        copy: Some(Copied { sig: SIGNS, keys: Keys { current: made(0), next: None }, bundle: ours.bundle }),
        ..rotating.clone()
    };
    let with = |world: &World, budget| World { budget, ..world.clone() };
    vec![
        (with(&rotating, Budget { brings: 2, crashes: 1, ..NOTHING }), MOST),
        (with(&rotating, Budget { brings: 1, jumps: 1, crashes: 1, ..NOTHING }), MOST),
        (rotating, MOST),
        (with(&draining, Budget { brings: 2, jumps: 1, ..NOTHING }), MOST),
        (draining, MOST),
        (resumed, MOST),
        (ours, MOST),
        (with(&taken_over, Budget { brings: 2, ..NOTHING }), MOST),
        (taken_over, MOST),
        (with(&old, Budget { brings: 1, faults: 2, ..NOTHING }), MOST),
        (with(&old, Budget { brings: 1, asks: 1, crashes: 1, ..NOTHING }), MOST),
        (with(&old, Budget { brings: 3, ..NOTHING }), MOST),
        (old, MOST),
        (empty, MOST),
    ]
}

/// This CA has signed for long.
fn signing(place: Place, ca: Ca, budget: Budget) -> World {
    World {
        place,
        signing: Secret::Sound(Sig { issuing: ca.issuing, ..SIGNS }),
        roots: Some(Keys { current: ca, next: None }),
        copy: None,
        is_restored: false,
        bundle: Bundle { roots: 1, marked: Some(0) },
        keepers: [Keeper::default(), Keeper::default()],
        live: [LIFE, 0, 0, 0],
        known: [KNOWN, 0, 0, 0],
        made: u8::from(place == Place::Made),
        wish: 0,
        budget,
        ahead: 0,
    }
}

/// Of that nothing is there yet.
fn empty(old: &World, place: Place) -> World {
    World {
        place,
        signing: Secret::Absent,
        roots: None,
        bundle: Bundle { roots: 0, marked: None },
        live: [0; ROOTS],
        known: [0; ROOTS],
        made: 0,
        ..old.clone()
    }
}

/// A first CA.
const SIGNS: Sig =
    Sig { number: 1, root: 0, issuing: 0, phase: Phase::Stable, asked: 0, is_old: false, is_mended: false };
/// Worlds of a walk, where there are many of them.
const MOST: usize = 100_000;
