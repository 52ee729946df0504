//! A short storm of faults, with one seed: the long one is `tests/run --chaos`.

use podmint_tests::chaos::{Plan, run};

/// Every fault of the suite once, and every law of the checker holds.
#[test]
fn a_storm_of_every_fault_breaks_no_law() {
    podmint_tests::run(async {
        let plan = Plan::short(SEED);
        let verdict = run(plan).await;
        eprintln!("seed {SEED}: {verdict:#?}");
        assert!(verdict.wrong.is_empty(), "seed {SEED} (again: chaos short {SEED}): {:#?}", verdict.wrong);
        assert!(verdict.issued > plan.cold + plan.flood && verdict.denied > 0, "{verdict:?}");
    });
}

const SEED: u64 = 8;
