//! The audit log: one line before anything is published, one with what became of it, and both as the API server has it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::certificate::{Leaf, sha256};
use super::request::{Answer, Request, text};

/// The lines about one request, oldest first.
type Lines<'a> = Vec<&'a Value>;

pub(super) fn check(requests: &[Request], trail: &[Value], wrong: &mut Vec<String>) {
    let mut of_request: BTreeMap<String, Lines> = BTreeMap::new();
    for line in trail {
        of_request.entry(text(line, "/request/uid")).or_default().push(line);
    }
    for request in requests {
        let lines = of_request.remove(&request.uid).unwrap_or_default();
        let mut says = |what: String| wrong.push(format!("the audit log of {} {what}", request.name));
        match &request.answer {
            Answer::Issued(_) => issued(request, &lines, &mut says),
            Answer::Denied => denied(&lines, &mut says),
            Answer::Pending | Answer::Broken => {}
        }
        published_once_and_only_what_is_there(request, &lines, &mut says);
    }
    for uid in of_request.keys() {
        wrong.push(format!("the audit log speaks of a request that never was: {uid:?}"));
    }
}

/// One line before, with the facts of this very certificate, and one after.
fn issued(request: &Request, lines: &[&Value], says: &mut dyn FnMut(String)) {
    let Some(leaf) = request.leaf() else { return };
    let ours = |line: &&&Value| text(line, "/serial") == leaf.serial;
    let before: Lines = lines.iter().filter(|line| event(line) == "issuing").filter(ours).copied().collect();
    let after: Lines = lines.iter().filter(|line| event(line) == "outcome").filter(ours).copied().collect();
    let ([before], [after]) = (before.as_slice(), after.as_slice()) else {
        says(format!(
            "has {} lines before and {} after publishing {}, not one each",
            before.len(),
            after.len(),
            leaf.serial
        ));
        return;
    };
    facts_agree(request, leaf, before, says);
    in_order(lines, before, after, says);
    if text(after, "/outcome") != "published" {
        says(format!("calls {} {:?}, but it is there", leaf.serial, text(after, "/outcome")));
    }
}

fn facts_agree(request: &Request, leaf: &Leaf, line: &Value, says: &mut dyn FnMut(String)) {
    let name = leaf.names.first().map_or("", String::as_str);
    for (path, known) in [
        ("/request/name", request.name.as_str()),
        ("/request/namespace", &request.namespace),
        ("/pod/uid", &request.pod_uid),
        ("/pod/name", &request.pod),
        ("/serviceAccount/name", &request.account),
        ("/node/name", &request.node),
        ("/sans/0/uri", name),
        ("/fingerprint", &leaf.fingerprint),
        ("/keyHash", &sha256(&leaf.key)),
    ] {
        let recorded = text(line, path);
        if recorded != known {
            says(format!("has {recorded:?} at {path}, not {known:?}"));
        }
    }
}

fn denied(lines: &[&Value], says: &mut dyn FnMut(String)) {
    let before: Lines = lines.iter().filter(|line| event(line) == "denying").copied().collect();
    let after: Lines =
        lines.iter().filter(|line| event(line) == "outcome" && text(line, "/answer") == "deny").copied().collect();
    match (before.as_slice(), after.as_slice()) {
        ([before], [after]) => {
            in_order(lines, before, after, says);
            if text(after, "/outcome") != "published" {
                says(format!("calls the denial {:?}, but it is there", text(after, "/outcome")));
            }
        }
        _ => says(format!("has {} lines before and {} after the denial, not one each", before.len(), after.len())),
    }
}

/// Whatever is said to be published must be what the API server shows.
fn published_once_and_only_what_is_there(request: &Request, lines: &[&Value], says: &mut dyn FnMut(String)) {
    for line in lines.iter().filter(|line| event(line) == "outcome" && text(line, "/outcome") == "published") {
        let there = match &request.answer {
            Answer::Issued(_) => request.leaf().is_some_and(|leaf| leaf.serial == text(line, "/serial")),
            Answer::Denied => text(line, "/answer") == "deny",
            Answer::Pending | Answer::Broken => false,
        };
        if !there {
            says(format!(
                "says that {} {} was published, but it is not there",
                text(line, "/answer"),
                text(line, "/serial")
            ));
        }
    }
}

fn in_order(lines: &[&Value], before: &Value, after: &Value, says: &mut dyn FnMut(String)) {
    let place = |wanted: &Value| lines.iter().position(|line| std::ptr::eq(*line, wanted));
    if place(before) > place(after) {
        says("has the outcome before the line that must come first".to_owned());
    }
}

fn event(line: &Value) -> String {
    text(line, "/event")
}
