//! The body of the one PUT to `/status`.

use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    issued::Issued,
    refusal::Denial,
    rules::{self, Broken, MESSAGE_LIMIT},
};
use crate::cluster::{versions::Version, wire::Target};

/// The status of a request that is answered with a certificate. Its times are the leaf's, to the second.
pub fn issued(issued: &Issued, version: Version, now: OffsetDateTime) -> Result<Value, Broken> {
    let words = issued.words();
    let message = format!("certificate {} for {}", words.serial, words.uri);
    let mut status = json!({
        "conditions": [condition("Issued", "Issued", &message, now)?],
        "certificateChain": issued.chain_pem(),
    });
    for (field, at) in
        [("notBefore", words.not_before), ("beginRefreshAt", words.begin_refresh_at), ("notAfter", words.not_after)]
    {
        if let Some(status) = status.as_object_mut() {
            status.insert(field.to_owned(), whole_seconds(at)?.into());
        }
    }
    Ok(body(&issued.claim().target, version, status))
}

/// The status of a request that is refused for ever.
pub fn denied(target: &Target, denial: &Denial, version: Version, now: OffsetDateTime) -> Result<Value, Broken> {
    let condition = condition("Denied", denial.reason(), &denial.to_string(), now)?;
    Ok(body(target, version, json!({ "conditions": [condition] })))
}

fn body(target: &Target, version: Version, status: Value) -> Value {
    let Target { namespace, name, uid, resource_version } = target;
    json!({
        "apiVersion": format!("certificates.k8s.io/{}", version.as_str()),
        "kind": "PodCertificateRequest",
        "metadata": {
            "namespace": namespace,
            "name": name,
            "uid": uid,
            "resourceVersion": resource_version,
        },
        "status": status,
    })
}

fn condition(kind: &str, reason: &str, message: &str, now: OffsetDateTime) -> Result<Value, Broken> {
    let message = cut(message);
    rules::condition(reason, &message)?;
    Ok(json!({
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": whole_seconds(now)?,
    }))
}

/// A message may quote names of any length.
fn cut(message: &str) -> String {
    let mut length = 0_usize;
    let fits = |letter: &char| {
        length = length.saturating_add(letter.len_utf8());
        length <= MESSAGE_LIMIT
    };
    message.chars().take_while(fits).collect()
}

fn whole_seconds(at: OffsetDateTime) -> Result<String, Broken> {
    let odd = Broken { rule: "S14", what: "a time cannot be written" };
    let whole = at.to_offset(time::UtcOffset::UTC).replace_nanosecond(0).map_err(|_range| odd)?;
    whole.format(&Rfc3339).map_err(|_format| odd)
}
