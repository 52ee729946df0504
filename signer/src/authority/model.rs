//! Every way that two replicas, a cluster and bad luck can take through a rotation, up to a bound: a breadth-first walk over
//! [`next_step`] itself. Between any two reads or writes of a replica the other one may act, either may crash or sleep, Secrets
//! may be deleted, broken or restored from an old copy, the bundle edited, the clock jump. Whoever brings a CA may renew it, replace its
//! root, spoil it, take it away and bring an older one again; he may take over a CA that is made here, and leave it again.
//!
//! What must hold in every world: nothing is signed under a root that consumers cannot know yet; no root is withdrawn while a
//! certificate under it lives; numbers never go back unnoticed; and when faults stop, a rotation that was asked for ends, and what is
//! brought signs. Each [`Defect`] takes one guard away, and must be found.
//!
//! Here is what a keeper does with a step, in fewer words than in `cluster/keeper.rs`: that it does the same is for the keeper's
//! own tests and the stories to show. Not covered: roots and issuing CAs near their end, broken root Secrets, faults beyond the
//! budget, an API server's clock that goes back, a process that starts while that clock is ahead and stays so for longer than consumers
//! have to learn of a root, and a bundle that is deleted with its mark just before an old plan comes back.

#![expect(clippy::arithmetic_side_effects, reason = "a model, in small numbers")]

mod keeper;
mod starts;
mod world;
mod writer;

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
};

use self::{
    keeper::Defect,
    world::{Action, Violation, World},
};

/// What a walk has found.
struct Walk {
    worlds: usize,
    /// The shortest way to a violation.
    found: Option<(Violation, Vec<Action>)>,
}

/// Everything that can be reached from `start`, until something is wrong or this many worlds were seen.
fn walk(start: &World, defect: Option<Defect>, most: usize) -> Walk {
    let hasher = BuildHasherDefault::<DefaultHasher>::default();
    // From a world's hash to how it was reached: 16 bytes and a bit for each, where the worlds themselves would be ten times that.
    let mut seen: HashMap<u64, (u64, u16)> = HashMap::new();
    let mut queue = VecDeque::from([start.clone()]);
    seen.insert(hasher.hash_one(start), (0, 0));
    while let Some(world) = queue.pop_front() {
        let from = hasher.hash_one(&world);
        for (number, action) in world.actions().into_iter().enumerate() {
            let mut next = world.clone();
            let wrong = next.act(action, defect).err();
            let to = hasher.hash_one(&next);
            let is_new = !seen.contains_key(&to);
            let stuck = is_new && wrong.is_none() && to.is_multiple_of(SAMPLE);
            let wrong = wrong.or_else(|| if stuck { next.comes_to_rest(defect).err() } else { None });
            if is_new {
                seen.insert(to, (from, u16::try_from(number).unwrap()));
            }
            if let Some(wrong) = wrong {
                let mut way = path(&seen, from, start, defect);
                way.push(action);
                return Walk { worlds: seen.len(), found: Some((wrong, way)) };
            }
            if is_new {
                queue.push_back(next);
            }
        }
        if seen.len() >= most {
            break;
        }
    }
    Walk { worlds: seen.len(), found: None }
}

/// The actions that lead to a world.
fn path(seen: &HashMap<u64, (u64, u16)>, mut to: u64, start: &World, defect: Option<Defect>) -> Vec<Action> {
    let mut numbers = Vec::new();
    while let Some((from, number)) = seen.get(&to).filter(|(from, _)| *from != 0) {
        numbers.push(usize::from(*number));
        to = *from;
    }
    let mut world = start.clone();
    let mut way = Vec::new();
    for number in numbers.into_iter().rev() {
        let action = world.actions()[number];
        world.act(action, defect).unwrap();
        way.push(action);
    }
    way
}

/// Of so many worlds one is asked whether it comes to rest: that takes as long as a thousand others.
const SAMPLE: u64 = 61;

#[test]
fn no_world_is_wrong() {
    nothing_is_wrong(&starts::of_our_own());
}

#[test]
fn no_world_of_two_faults_in_a_row_is_wrong() {
    nothing_is_wrong(&starts::of_two_faults());
}

#[test]
fn no_world_with_a_writer_is_wrong() {
    nothing_is_wrong(&starts::of_a_writer());
}

fn nothing_is_wrong(starts: &[(World, usize)]) {
    for (start, most) in starts {
        let walk = walk(start, None, *most);
        eprintln!("{} worlds", walk.worlds);
        assert!(walk.found.is_none(), "{:#?}", walk.found);
    }
}

#[test]
fn each_planted_defect_is_found() {
    all_are_found(keeper::DEFECTS, &starts::of_our_own());
}

#[test]
fn each_planted_defect_is_found_by_two_faults_in_a_row() {
    all_are_found(keeper::DEFECTS_OF_TWO_FAULTS, &starts::of_two_faults());
}

#[test]
fn each_planted_defect_is_found_with_a_writer() {
    all_are_found(keeper::DEFECTS_OF_A_WRITER, &starts::of_a_writer());
}

fn all_are_found(defects: &[(Defect, Violation)], starts: &[(World, usize)]) {
    for (defect, expected) in defects {
        let mut found = starts.iter().filter_map(|(start, most)| walk(start, Some(*defect), *most).found);
        let (_, way) = found
            .find(|(violation, _)| violation == expected)
            .unwrap_or_else(|| panic!("{defect:?} does not lead to {expected:?}"));
        eprintln!("{defect:?}: {expected:?} after {} actions", way.len());
    }
}
