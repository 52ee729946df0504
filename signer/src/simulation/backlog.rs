//! Many requests at once, three replicas, and a first one that goes or stutters in the middle: nobody answers what another answers.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    LEASE, NAMES, Replica, ask, furnish, name, simulate,
    world::{Dice, Trouble, World, lock},
};

/// So many that what replicas have in flight at the moment of the blow, some twenty, is less than one in twenty: that much may be lost at
/// once, and what goes on being lost is seen.
const BURST: usize = 600;

/// What befalls the first replica in the middle of the burst.
#[derive(Clone, Copy, Debug)]
enum Blow {
    Nothing,
    Killed,
    Hung,
    CutOff,
    /// The API server does nothing for some seconds; then it goes on for all.
    Stall,
    /// It is killed and comes back, and at first knows no Roles.
    Restart,
}

/// Answers, and status writes that came of them.
async fn burst(seed: u64, blow: Blow, is_cold: bool, write_takes: Duration) -> (usize, usize) {
    let (world, dice) = (World::new(seed, 4, write_takes), Dice::new(seed));
    furnish(&world, "shop");
    let ask_all = || (0..BURST).for_each(|number| ask(&world, "shop", number));
    if is_cold {
        ask_all();
    }
    let mut replicas = NAMES.map(|name| Replica::start(&world, name));
    sleep(Duration::from_secs(if is_cold { 1 } else { 10 })).await;
    if !is_cold {
        ask_all();
    }
    let begun = Instant::now();
    sleep(Duration::from_millis(dice.below(8_000))).await;
    let holder = world.fake.get(LEASE).unwrap()["spec"]["holderIdentity"].as_str().unwrap().to_owned();
    let first = replicas.iter().position(|replica| replica.name == holder).unwrap();
    let lasts = Duration::from_millis(1_000 + dice.below(18_000));
    let befall_all = |trouble| replicas.iter().for_each(|replica| replica.befall(trouble));
    match blow {
        Blow::Nothing => {}
        Blow::Killed => replicas[first].kill(),
        Blow::Hung => replicas[first].befall(Trouble { stuck: true, ..Trouble::default() }),
        Blow::CutOff => replicas[first].befall(Trouble { broken: true, ..Trouble::default() }),
        Blow::Stall => befall_all(Trouble { stuck: true, ..Trouble::default() }),
        Blow::Restart => {
            befall_all(Trouble { broken: true, ..Trouble::default() });
            sleep(lasts / 4).await;
            befall_all(Trouble { no_roles: true, ..Trouble::default() });
        }
    }
    sleep(lasts).await;
    befall_all(Trouble::default());
    replicas[first].revive(&world);
    while lock(&world.answered).len() < BURST {
        let left = || (0..BURST).filter(|number| !lock(&world.answered).contains_key(&name("shop", *number))).count();
        assert!(begun.elapsed() < Duration::from_mins(5), "seed {seed}, {blow:?}: {} are left", left());
        sleep(Duration::from_millis(100)).await;
    }
    // Who still has one in hand writes it now.
    sleep(Duration::from_secs(5)).await;
    replicas.iter().for_each(Replica::kill);
    let answers = lock(&world.answered).len();
    (answers, world.writes.load(Relaxed))
}

/// One write an answer, and one in twenty may be lost.
fn costs_one_write(seeds: u64, is_cold: bool, write_takes: Duration) {
    for seed in 0..seeds {
        for blow in [Blow::Nothing, Blow::Killed, Blow::Hung, Blow::CutOff, Blow::Stall, Blow::Restart] {
            let (answers, writes) = simulate(seed, burst(seed, blow, is_cold, write_takes));
            println!("seed {seed}, {blow:?}: {writes} writes for {answers} answers");
            assert!(writes * 100 <= answers * 105, "seed {seed}, {blow:?}: {writes} writes for {answers} answers");
        }
    }
}

#[test]
fn a_cold_start_costs_one_write_an_answer_whatever_becomes_of_the_first() {
    costs_one_write(1, true, Duration::from_millis(144));
}

/// It takes longer than a minute: the oldest has waited for so long that the newest goes first.
#[test]
fn a_long_backlog_costs_one_write_an_answer_whatever_becomes_of_the_first() {
    costs_one_write(1, false, Duration::from_millis(800));
}

#[test]
#[ignore = "tests/run --chaos"]
fn hundreds_of_bursts_cost_one_write_an_answer() {
    costs_one_write(20, true, Duration::from_millis(144));
    costs_one_write(20, false, Duration::from_millis(800));
}
