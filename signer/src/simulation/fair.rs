//! A namespace that floods, and one that asks now and then, before an API server that lets four writes through at a time.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    NAMES, Replica, ask, furnish, name, simulate,
    world::{World, lock},
};

const FLOOD: usize = 600;

/// The longest wait of the quiet namespace, and of the one that floods.
async fn waits(seed: u64) -> (Duration, Duration) {
    let world = World::new(seed, 4, Duration::from_micros(40_071));
    furnish(&world, "shop");
    furnish(&world, "team-flood");
    let replicas = NAMES.map(|name| Replica::start(&world, name));
    sleep(Duration::from_secs(10)).await;
    let begun = Instant::now();
    (0..FLOOD).for_each(|number| ask(&world, "team-flood", number));
    let mut quiet = Vec::new();
    while lock(&world.answered).len() < FLOOD.saturating_add(quiet.len()) {
        assert!(begun.elapsed() < Duration::from_mins(5), "seed {seed}: not all were answered");
        quiet.push(Instant::now());
        ask(&world, "shop", quiet.len());
        sleep(Duration::from_millis(300)).await;
    }
    let answered = lock(&world.answered);
    let flood = (0..FLOOD).map(|number| answered[&name("team-flood", number)].saturating_duration_since(begun));
    let shop =
        (1..).zip(&quiet).map(|(number, asked)| answered[&name("shop", number)].saturating_duration_since(*asked));
    let longest = (shop.max().unwrap(), flood.max().unwrap());
    replicas.iter().for_each(Replica::kill);
    longest
}

#[test]
fn a_flood_in_one_namespace_does_not_keep_another_waiting() {
    for seed in 0..2 {
        let (quiet, flood) = simulate(seed, waits(seed));
        println!("seed {seed}: the quiet one waits {quiet:?} at most, the flood {flood:?}");
        // What is in flight already goes first: as many as the limit lets.
        assert!(quiet < Duration::from_secs(1), "seed {seed}: {quiet:?}");
        assert!(flood > quiet * 10, "seed {seed}: that was no flood: {flood:?}");
    }
}
