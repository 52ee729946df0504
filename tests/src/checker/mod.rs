//! The fault suite's checker: what was seen of a run in, what is wrong with it out.
//!
//! It shares no code with the signer. What it makes of a single request (its key, its certificate, link by link to a root that was
//! published before) is the demo's checker's; here are the laws of a run with faults and several replicas:
//!
//! | law | where |
//! |---|---|
//! | every request alive at the end is answered or rightly held | [`truth`] |
//! | one certificate each, which never changes; serial numbers are unique | the demo's `request` and `serials_differ` |
//! | nothing is denied without a contradiction that lasts; nothing fails | [`truth`], the demo's `request` |
//! | each certificate has its line in the audit log of some replica, and its chain leads to a root published before | [`trail`], the demo's `certificate` |
//! | what became of an answer is in the audit log, too, unless its replica was killed then or its log took nothing | [`trail`] |
//! | no replica panics, ends by itself, or takes more memory than its container may | [`replicas`] |
//! | hostile requests come as far as the signer | [`hostile`] |
//! | at most 1.05 status writes a certificate | [`check`] |
//! | no kubelet was refused or is waiting, and what its files hold is what was published for that pod | [`nodes`] |

pub mod hostile;
pub mod nodes;
pub mod replicas;
#[cfg(test)]
mod tests;
pub mod trail;
pub mod truth;

use std::collections::{BTreeMap, BTreeSet};

use podmint_examples::demo::checker::request::{self, Answer, Request};
use podmint_examples::demo::checker::{Evidence, serials_differ};
use serde_json::Value;

use hostile::Sent;
use nodes::Volume;
use replicas::Remains;

/// What was seen of a run, not yet believed.
#[derive(Debug, Default, Clone)]
pub struct Facts {
    /// Requests, pods and trust bundles, as the API server showed them. The audit logs are beside it, one for each replica.
    pub seen: Evidence,
    /// Every pod there ever was, by UID.
    pub pods: BTreeMap<String, Value>,
    /// UIDs of the requests that were still there at the end.
    pub alive: BTreeSet<String>,
    /// Namespaces that a rule admits.
    pub admitted: BTreeSet<String>,
    /// What is left of each replica.
    pub replicas: Vec<Remains>,
    /// The most memory that a replica may use, in KiB.
    pub memory: u64,
    /// Status writes of the signers, as the API server recorded them, by what it said: refused ones too.
    pub writes: BTreeMap<String, usize>,
    /// What the kubelets have.
    pub volumes: Vec<Volume>,
    /// Requests that lie or are huge, by kind.
    pub hostile: Vec<Sent>,
    /// What was not as it has to be when the time was over that the law gives, whatever became of it since.
    pub late: Vec<String>,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Requests that were made.
    pub requests: usize,
    /// Of these, answered with a certificate.
    pub issued: usize,
    /// Denied.
    pub denied: usize,
    /// Status writes a answer.
    pub writes_per_answer: f64,
    /// Certificates that were signed and recorded, and not published: a crash, or another replica was quicker.
    pub unpublished: usize,
    /// One sentence for each thing that is wrong. Empty: all laws held.
    pub wrong: Vec<String>,
}

/// One write each, and one in twenty may be lost to a race or a reply that never came.
const MOST_WRITES: f64 = 1.05;

/// What is not as it has to be once all has come to rest; while a run settles, what it waits for.
#[must_use]
pub fn unsettled(facts: &Facts) -> Vec<String> {
    let mut wrong = Vec::new();
    let requests = requests(facts, &mut wrong);
    nodes::check(&requests, &facts.volumes, &mut wrong);
    wrong
}

/// Reads all requests and looks at each for itself.
fn requests(facts: &Facts, wrong: &mut Vec<String>) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    let owners = truth::owners(facts);
    for versions in &facts.seen.requests {
        if let (Some(one), Some(object)) = (request::read(versions, wrong), versions.versions.last()) {
            request::check(&one, &facts.seen, wrong);
            truth::check(&one, object, facts, &owners, wrong);
            requests.push(one);
        }
    }
    requests
}

/// Holds everything against everything.
#[must_use]
pub fn check(facts: &Facts) -> Verdict {
    let mut wrong = Vec::new();
    let requests = requests(facts, &mut wrong);
    truth::no_key_is_two_pods(&requests, &mut wrong);
    serials_differ(&requests, &mut wrong);
    let unpublished = trail::check(&requests, &facts.replicas, &mut wrong);
    replicas::check(&facts.replicas, facts.memory, &mut wrong);
    nodes::check(&requests, &facts.volumes, &mut wrong);
    hostile::check(&facts.hostile, &mut wrong);
    if let Some(first) = facts.late.first() {
        wrong.push(format!("{} things were not settled in time, the first of them: {first}", facts.late.len()));
    }
    let how_many = |wanted: fn(&Answer) -> bool| requests.iter().filter(|request| wanted(&request.answer)).count();
    let (issued, denied) =
        (how_many(|answer| matches!(answer, Answer::Issued(_))), how_many(|answer| matches!(answer, Answer::Denied)));
    let count = |count: usize| f64::from(u32::try_from(count).expect("a run has no thousand million of anything"));
    let writes: usize = facts.writes.values().sum();
    let writes_per_answer = count(writes) / count((issued + denied).max(1));
    if writes_per_answer > MOST_WRITES {
        wrong.push(format!(
            "{writes} status writes for {} answers are {writes_per_answer:.3} each; the API server said {:?}; the audit logs, {}",
            issued + denied,
            facts.writes,
            trail::outcomes(&facts.replicas)
        ));
    }
    Verdict { requests: requests.len(), issued, denied, writes_per_answer, unpublished, wrong }
}
