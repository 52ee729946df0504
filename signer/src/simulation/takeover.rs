//! What it costs that the replica which answers first dies, hangs or is cut off at the very moment a pod asks.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    LEASE, NAMES, Replica, ask, furnish, name, simulate,
    world::{Dice, Trouble, World, lock},
};

/// How long the request of this seed waited.
async fn wait(seed: u64) -> Duration {
    let (world, dice) = (World::new(seed, 16, Duration::from_micros(3_137)), Dice::new(seed));
    furnish(&world, "shop");
    let replicas = NAMES.map(|name| Replica::start(&world, name));
    // It has answered others until now, or nobody has asked for a while.
    sleep(Duration::from_secs(20)).await;
    for number in 1..usize::try_from(dice.below(4)).unwrap() {
        ask(&world, "shop", number);
        sleep(Duration::from_millis(dice.below(400))).await;
    }
    let holder = world.fake.get(LEASE).unwrap()["spec"]["holderIdentity"].as_str().unwrap().to_owned();
    let first = replicas.iter().find(|replica| replica.name == holder).unwrap();
    match dice.below(3) {
        0 => first.kill(),
        1 => first.befall(Trouble { stuck: true, ..Trouble::default() }),
        _ => first.befall(Trouble { broken: true, ..Trouble::default() }),
    }
    sleep(Duration::from_millis(dice.below(50))).await;
    let begun = Instant::now();
    ask(&world, "shop", 0);
    while !lock(&world.answered).contains_key(&name("shop", 0)) {
        assert!(begun.elapsed() < Duration::from_mins(1), "seed {seed}: nobody takes over");
        sleep(Duration::from_millis(1)).await;
    }
    let answered = lock(&world.answered)[&name("shop", 0)];
    replicas.iter().for_each(Replica::kill);
    answered.saturating_duration_since(begun)
}

#[test]
fn a_first_replica_that_is_gone_costs_about_a_second() {
    let mut waits: Vec<Duration> = (0..400).map(|seed| simulate(seed, wait(seed))).collect();
    waits.sort();
    let share = |hundredths: usize| waits[waits.len() * hundredths / 100];
    println!("p50 {:?}, p99 {:?}, most {:?}", share(50), share(99), waits.last());
    assert!(share(99) <= Duration::from_millis(1_500), "p99 {:?}", share(99));
}
