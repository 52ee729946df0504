//! The audit logs of all replicas against what the API server has. A replica that was killed may owe the line that says what became of
//! a certificate, never the line before it was published.

use std::collections::BTreeMap;

use podmint_examples::demo::checker::certificate::sha256;
use podmint_examples::demo::checker::request::{Answer, Request, text};
use serde_json::Value;

/// Says how many certificates were recorded and not published.
pub(super) fn check(requests: &[Request], logs: &[Vec<Value>], wrong: &mut Vec<String>) -> usize {
    let mut of_request: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for line in logs.iter().flatten() {
        of_request.entry(text(line, "/request/uid")).or_default().push(line);
    }
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
