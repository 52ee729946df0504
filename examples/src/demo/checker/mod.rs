//! The independent checker: evidence in, figures and disagreements out.
//!
//! It takes nobody's word. The requests, pods and trust bundles come from a list and watch of the demo's own; certificates are
//! read with x509-parser and verified link by link; the audit log is read as text. It shares no code with the signer, so that
//! one mistake cannot hide in both. What it makes of a single request serves the fault suite's checker too (`tests/src/checker`).

pub mod certificate;
mod evidence;
mod figures;
mod pair;
pub mod request;
#[cfg(any(test, feature = "staged"))]
#[expect(
    missing_docs,
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a scene for tests, this crate's and others'"
)]
pub mod staged;
#[cfg(test)]
mod tests;
mod trail;

use std::collections::BTreeMap;

pub use evidence::{AttemptFacts, BundleFacts, Evidence, Expected, PairFacts, PodFacts, RequestFacts, SideFacts};
pub use figures::{Figures, percentile};
use request::{Answer, Request};

/// What came out.
#[derive(Debug)]
pub struct Report {
    /// Counted from the evidence.
    pub figures: Figures,
    /// How many attempts of the impostor were refused.
    pub refused: usize,
    /// One sentence for each thing that does not agree. Empty: all is well.
    pub disagreements: Vec<String>,
}

/// Holds everything against everything.
#[must_use]
pub fn check(evidence: &Evidence) -> Report {
    let mut wrong = Vec::new();
    let requests: Vec<Request> =
        evidence.requests.iter().filter_map(|facts| request::read(facts, &mut wrong)).collect();
    for request in &requests {
        request::check(request, evidence, &mut wrong);
    }
    serials_differ(&requests, &mut wrong);
    trail::check(&requests, &evidence.trail, &mut wrong);
    pair::check(&requests, evidence, &mut wrong);
    attempts_were_refused(&requests, evidence, &mut wrong);
    the_right_ones_are_held(&requests, evidence, &mut wrong);
    let figures = Figures::count(&requests, evidence);
    if evidence.expected.renewals && figures.renewals == 0 {
        wrong.push("no certificate was renewed".to_owned());
    }
    let refused = evidence.attempts.iter().filter(|attempt| attempt.refused).count();
    Report { figures, refused, disagreements: wrong }
}

/// No two certificates have one serial number.
pub fn serials_differ(requests: &[Request], wrong: &mut Vec<String>) {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (request, leaf) in requests.iter().filter_map(|request| Some((request, request.leaf()?))) {
        if let Some(other) = owners.insert(&leaf.serial, &request.name) {
            wrong.push(format!("{} and {other} were given the same serial number {}", request.name, leaf.serial));
        }
    }
}

/// Nobody may hold a certificate for a key that an impostor made, whatever the API server and the signer said.
fn attempts_were_refused(requests: &[Request], evidence: &Evidence, wrong: &mut Vec<String>) {
    for attempt in &evidence.attempts {
        if !attempt.refused {
            wrong.push(format!("the impostor was not refused: {}", attempt.what));
        }
        let theirs = |request: &&Request| request.leaf().is_some_and(|leaf| leaf.key == attempt.key);
        if let Some(request) = requests.iter().find(theirs) {
            wrong.push(format!("{} gave the impostor a certificate: {}", request.name, attempt.what));
        }
    }
    let denied = requests.iter().filter(|request| matches!(request.answer, Answer::Denied)).count();
    let by_signer = evidence.attempts.iter().filter(|attempt| attempt.denied_by_signer).count();
    if denied != by_signer {
        wrong.push(format!(
            "the API shows {denied} denied requests, the impostor was denied by the signer {by_signer} times"
        ));
    }
    if evidence.expected.whole && by_signer == 0 {
        wrong.push("no attempt of the impostor came as far as the signer".to_owned());
    }
}

/// Pending at the end are the requests of pods no rule admits, and no others.
fn the_right_ones_are_held(requests: &[Request], evidence: &Evidence, wrong: &mut Vec<String>) {
    let unadmitted = &evidence.expected.held_pods;
    for request in requests {
        let pending = matches!(request.answer, Answer::Pending);
        if pending && !unadmitted.contains(&request.pod_uid) {
            wrong.push(format!("{} of {}/{} was never answered", request.name, request.namespace, request.pod));
        }
        if !pending && unadmitted.contains(&request.pod_uid) {
            wrong.push(format!(
                "{} of {}/{} was answered, though no rule admits it",
                request.name, request.namespace, request.pod
            ));
        }
    }
    if evidence.expected.whole {
        for pod in unadmitted.iter().filter(|uid| !requests.iter().any(|request| request.pod_uid == **uid)) {
            wrong.push(format!("the pod {pod}, which no rule admits, never asked"));
        }
    }
}
