//! A key that somebody copied, and a replica that has just started: what it does not know yet must not decide.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    NAMES, Replica, ask, copy, furnish, name, simulate,
    world::{Trouble, World, lock},
};

/// Requests that come before the copy, and fill more than one page.
const OTHERS: usize = 20;

/// Everybody dies after the key's own pod has its certificate, and comes back to a list of which only the first page can be read for a
/// while. The copy is on it, and the certificate on a later one.
async fn restart(seed: u64) {
    let world = World::new(seed, 16, Duration::from_micros(3_137));
    furnish(&world, "shop");
    let mut replicas = NAMES.map(|name| Replica::start(&world, name));
    (0..OTHERS).for_each(|number| ask(&world, "shop", number));
    until(&world, OTHERS).await;
    replicas.iter().for_each(Replica::kill);
    copy(&world, OTHERS - 1);
    for replica in &mut replicas {
        replica.revive(&world);
        replica.befall(Trouble { pages: true, ..Trouble::default() });
    }
    sleep(Duration::from_secs(20)).await;
    assert_eq!(lock(&world.answered).len(), OTHERS, "seed {seed}: one was answered before all were seen");
    for replica in &replicas {
        replica.befall(Trouble::default());
    }
    ask(&world, "shop", OTHERS);
    until(&world, OTHERS + 1).await;
    sleep(Duration::from_secs(90)).await;
    let is_certified = lock(&world.answered).contains_key(&name("copy", OTHERS - 1));
    assert!(!is_certified, "seed {seed}: two pods have a certificate for one key");
    replicas.iter().for_each(Replica::kill);
}

async fn until(world: &World, answers: usize) {
    let begun = Instant::now();
    while lock(&world.answered).len() < answers {
        assert!(begun.elapsed() < Duration::from_mins(1), "{} of {answers} were answered", lock(&world.answered).len());
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_start_answers_nobody_before_it_has_seen_all() {
    for seed in 0..5 {
        simulate(seed, restart(seed));
    }
}
