//! What the CA of a fleet lives through: its root rotates, its issuing CA grows old.

use std::time::{Duration, Instant};

use podmint_tests::Stage;
use serde_json::json;

use super::service::Talk;
use super::{paced, told_again};
use crate::hand::{self, state, wish};
use crate::rotate::PACE;

/// How long after the wish each phase began, as everybody but the certificates lived it.
#[derive(Clone, Copy)]
pub(super) struct Rotated([Duration; PHASES.len()]);

/// The phases in their order, and what is so when all is done.
const PHASES: [&str; 5] = ["prepare", "distribute", "sign", "drain", "stable"];

impl std::fmt::Display for Rotated {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let minutes = |after: Duration| after.as_secs_f64() / 60.0;
        let phases = PHASES.iter().zip(self.0).map(|(phase, after)| format!("{phase} {:.1}", minutes(after)));
        write!(out, "{} min", phases.collect::<Vec<_>>().join(", "))
    }
}

impl Rotated {
    /// The earliest and the latest beginning of each phase.
    pub(super) fn range(all: &[Self]) -> (Self, Self) {
        let each = |pick: fn(Duration, Duration) -> Duration| {
            let both = |one: Self, other: Self| Self(std::array::from_fn(|phase| pick(one.0[phase], other.0[phase])));
            all.iter().copied().reduce(both).expect("a rotation")
        };
        (each(Duration::min), each(Duration::max))
    }
}

/// Asks for a rotation of the root and waits until it is over.
pub(super) async fn rotate(stage: &Stage, number: usize, talk: &Talk) -> Rotated {
    let asked = format!("rotation-{number}");
    told_again(async || wish(stage, json!({"podmint.dev/rotate": asked})).await.ok()).await;
    let begun = Instant::now();
    let mut after = [None; PHASES.len()];
    while after.contains(&None) {
        assert!(begun.elapsed() < LONGEST, "rotation {number} does not end: {after:?}");
        tokio::time::sleep(LOOK).await;
        let Some(state) = state(stage).await.filter(|state| state["asked"] == asked.as_str()) else { continue };
        let phase = state["rotation"]["phase"].as_str().unwrap_or("stable");
        talk.is_in(format!("rotation {number}, {phase}"));
        let reached = PHASES.iter().position(|known| *known == phase).expect("a phase");
        for first in after[..=reached].iter_mut().filter(|first| first.is_none()) {
            *first = Some(begun.elapsed() * PACE);
        }
    }
    Rotated(after.map(Option::unwrap))
}

/// Renews the issuing CA every few minutes, whatever phase the root is in, until pods have come with certificates of so many.
pub(super) async fn renew(stage: &Stage, times: usize, talk: &Talk) {
    let mut seen = 0;
    while seen < times {
        let begun = Instant::now();
        let made = told_again(async || hand::renew(stage).await).await;
        // The root may switch before any does.
        while !talk.has_met(made.fingerprint())
            && state(stage).await.is_none_or(|state| state["generation"] == made.number())
        {
            assert!(begun.elapsed() < LONGEST, "nobody comes with a certificate of the issuing CA {}", made.number());
            tokio::time::sleep(LOOK).await;
        }
        seen += usize::from(talk.has_met(made.fingerprint()));
        tokio::time::sleep(paced(Duration::from_mins(4))).await;
    }
    talk.has_renewed(seen);
}

const LOOK: Duration = Duration::from_millis(20);
/// Only decides how long a broken rotation takes to fail.
const LONGEST: Duration = Duration::from_secs(600);
