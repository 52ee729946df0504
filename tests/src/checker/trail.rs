//! The audit logs of all replicas against what the API server has. A replica that was killed, or whose log took nothing, may owe the line
//! that says what became of an answer, never the line before it was published.

use std::collections::BTreeMap;

use podmint_examples::demo::checker::certificate::sha256;
use podmint_examples::demo::checker::request::{Answer, Request, text};
use serde_json::Value;

use super::replicas::{Entry, Remains};
use crate::kept::KILLED;

/// Says how many certificates were recorded and not published.
pub(super) fn check(requests: &[Request], replicas: &[Remains], wrong: &mut Vec<String>) -> usize {
    let mut of_request: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for line in replicas.iter().flat_map(Remains::lines) {
        of_request.entry(text(line, "/request/uid")).or_default().push(line);
    }
    replicas.iter().for_each(|replica| owes_nothing(replica, wrong));
    let mut unpublished = 0;
    for request in requests {
        let lines = of_request.remove(&request.uid).unwrap_or_default();
        let event = |event: &'static str| lines.iter().filter(move |line| text(line, "/event") == event);
        let mut says = |what: String| wrong.push(format!("the audit logs {what} {}", request.name));
        let published = event("outcome").filter(|line| text(line, "/outcome") == "published");
        match (&request.answer, request.leaf()) {
            (Answer::Issued(_), Some(leaf)) => {
                let mine: Vec<_> = event("issuing").filter(|line| text(line, "/serial") == leaf.serial).collect();
                match mine.as_slice() {
                    [line] => facts_agree(request, line, &leaf.fingerprint, &sha256(&leaf.key), &mut says),
                    other => says(format!("have {} lines before the certificate {} of", other.len(), leaf.serial)),
                }
                if published.clone().any(|line| text(line, "/serial") != leaf.serial) {
                    says("say that another certificate was published for".to_owned());
                }
                unpublished += event("issuing").count().saturating_sub(1);
            }
            (Answer::Denied, _) => {
                if event("denying").next().is_none() {
                    says("have no line before the denial of".to_owned());
                }
                if published.clone().any(|line| text(line, "/answer") != "deny") {
                    says("say that a certificate was published for".to_owned());
                }
                unpublished += event("issuing").count();
            }
            (Answer::Issued(_) | Answer::Pending | Answer::Broken, _) => {
                if published.clone().next().is_some() {
                    says("say that an answer was published, and there is none, for".to_owned());
                }
                unpublished += event("issuing").count();
            }
        }
        if published.count() > 1 {
            says("say that more than one answer was published for".to_owned());
        }
    }
    wrong.extend(of_request.keys().map(|uid| format!("the audit logs speak of a request that never was: {uid:?}")));
    unpublished
}

/// How often each outcome is in each log.
pub(super) fn outcomes(replicas: &[Remains]) -> String {
    let mut counts: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for replica in replicas {
        for line in replica.lines().filter(|line| text(line, "/event") == "outcome") {
            *counts.entry((&replica.name, text(line, "/outcome"))).or_default() += 1;
        }
    }
    let words = counts.iter().map(|((replica, outcome), count)| format!("{replica} {outcome} {count}"));
    words.collect::<Vec<_>>().join(", ")
}

/// Each line before an answer has one behind it, in the same life, unless something kept the replica from writing it.
fn owes_nothing(replica: &Remains, wrong: &mut Vec<String>) {
    let mut says = |what: String| wrong.push(format!("the audit log of {} {what}", replica.name));
    let (mut owed, mut is_deaf): (Vec<&Value>, _) = (Vec::new(), false);
    for entry in &replica.log {
        match entry {
            Entry::Line(line) => match text(line, "/event").as_str() {
                "outcome" => settle(&mut owed, line),
                "issuing" | "denying" if !is_deaf => owed.push(line),
                _ => {}
            },
            Entry::Deaf | Entry::End(KILLED) => {
                if owed.len() > IN_HAND {
                    says(format!("owes what became of {} answers at once: it never has so many in hand", owed.len()));
                }
                owed.clear();
                is_deaf = *entry == Entry::Deaf;
            }
            Entry::Hears => is_deaf = false,
            Entry::End(_) => {
                for line in owed.drain(..) {
                    let (event, uid) = (text(line, "/event"), text(line, "/request/uid"));
                    says(format!("never says what became of {event} {} for {uid:?}", text(line, "/serial")));
                }
            }
        }
    }
}

/// The last one, where there are several about this answer.
fn settle(owed: &mut Vec<&Value>, outcome: &Value) {
    let event = if text(outcome, "/answer") == "deny" { "denying" } else { "issuing" };
    let is_about = |line: &&Value| {
        let same = |path| text(line, path) == text(outcome, path);
        text(line, "/event") == event && same("/request/uid") && same("/serial")
    };
    if let Some(at) = owed.iter().rposition(is_about) {
        owed.remove(at);
    }
}

fn facts_agree(request: &Request, line: &Value, fingerprint: &str, key: &str, says: &mut dyn FnMut(String)) {
    for (path, known) in [
        ("/request/name", request.name.as_str()),
        ("/request/namespace", &request.namespace),
        ("/pod/uid", &request.pod_uid),
        ("/pod/name", &request.pod),
        ("/serviceAccount/name", &request.account),
        ("/node/name", &request.node),
        ("/fingerprint", fingerprint),
        ("/keyHash", key),
    ] {
        let recorded = text(line, path);
        if recorded != known {
            says(format!("have {recorded:?} at {path}, not {known:?}, for"));
        }
    }
}

/// A replica looks at no more requests at a time.
const IN_HAND: usize = 256;
