//! The fault suite by hand: `tests/run --chaos [SEED]`. A run that finds something says its seed and ends with status 1.

#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a program that reports a few numbers"
)]

use std::time::Duration;

use clap::{Parser, Subcommand};
use podmint_tests::chaos::takeover::{self, Ends};
use podmint_tests::chaos::{Plan, run};

#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A storm of a minute.
    Short {
        /// What decides everything that is left to chance.
        seed: u64,
    },
    /// A cold start of ten thousand requests, and faults for a quarter of an hour.
    Long {
        /// What decides everything that is left to chance.
        seed: u64,
    },
    /// Measures how long a request waits when the first replica is dead, hung or cut off.
    Takeover {
        /// How often each.
        rounds: usize,
    },
}

fn main() {
    let Arguments { what } = Arguments::parse();
    podmint_tests::run(async {
        match what {
            What::Short { seed } => storm(Plan::short(seed)).await,
            What::Long { seed } => storm(Plan::long(seed)).await,
            What::Takeover { rounds } => {
                for ends in Ends::ALL {
                    let waits = takeover::waits(ends, rounds).await;
                    let share = |hundredths: usize| waits[(waits.len() * hundredths / 100).min(waits.len() - 1)];
                    let [half, most] = [share(50), share(99)].map(|wait: Duration| wait.as_millis());
                    println!("{ends:?}: {rounds} times, p50 {half} ms, p99 {most} ms");
                }
            }
        }
    });
}

async fn storm(plan: Plan) {
    let verdict = run(plan).await;
    println!(
        "seed {}: {} requests, {} issued, {} denied, {:.3} status writes an answer, {} signed and not published",
        plan.seed, verdict.requests, verdict.issued, verdict.denied, verdict.writes_per_answer, verdict.unpublished
    );
    for wrong in &verdict.wrong {
        println!("seed {}: {wrong}", plan.seed);
    }
    if !verdict.wrong.is_empty() {
        std::process::exit(1);
    }
}
