//! The body of the one PUT to `/status`.

use serde::Serialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{
    issued::Issued,
    refusal::Denial,
    rules::{self, Broken, MESSAGE_LIMIT},
};
use crate::cluster::{versions::Version, wire::Target};

/// What of a `PodCertificateRequest` is sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Body<'a> {
    api_version: String,
    kind: &'static str,
    metadata: Metadata<'a>,
    status: Status<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
    resource_version: &'a str,
}

#[derive(Serialize)]
struct Status<'a> {
    conditions: [Condition; 1],
    #[serde(flatten)]
    certificate: Option<Certificate<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Certificate<'a> {
    certificate_chain: &'a str,
    not_before: String,
    begin_refresh_at: String,
    not_after: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    r#type: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
    last_transition_time: String,
}

/// The status of a request that is answered with a certificate. Its times are the leaf's, to the second.
pub fn issued(issued: &Issued, version: Version, now: OffsetDateTime) -> Result<Body<'_>, Broken> {
    let words = issued.words();
    let message = format!("certificate {} for {}", words.serial, words.called());
    let certificate = Certificate {
        certificate_chain: issued.chain_pem(),
        not_before: whole_seconds(words.not_before)?,
        begin_refresh_at: whole_seconds(words.begin_refresh_at)?,
        not_after: whole_seconds(words.not_after)?,
    };
    let condition = condition("Issued", "Issued", &message, now)?;
    Ok(body(&issued.claim().target, version, condition, Some(certificate)))
}

/// The status of a request that is refused for ever.
pub fn denied<'a>(
    target: &'a Target,
    denial: &Denial,
    version: Version,
    now: OffsetDateTime,
) -> Result<Body<'a>, Broken> {
    let condition = condition("Denied", denial.reason(), &denial.to_string(), now)?;
    Ok(body(target, version, condition, None))
}

fn body<'a>(
    target: &'a Target,
    version: Version,
    condition: Condition,
    certificate: Option<Certificate<'a>>,
) -> Body<'a> {
    let Target { namespace, name, uid, resource_version } = target;
    Body {
        api_version: format!("certificates.k8s.io/{}", version.as_str()),
        kind: "PodCertificateRequest",
        metadata: Metadata {
            namespace: namespace.as_str(),
            name: name.as_str(),
            uid: uid.as_str(),
            resource_version: resource_version.as_str(),
        },
        status: Status { conditions: [condition], certificate },
    }
}

fn condition(
    kind: &'static str,
    reason: &'static str,
    message: &str,
    now: OffsetDateTime,
) -> Result<Condition, Broken> {
    let message = cut(message);
    rules::condition(reason, &message)?;
    Ok(Condition { r#type: kind, status: "True", reason, message, last_transition_time: whole_seconds(now)? })
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pipeline::{
        Malformed, NotProjected, ProofFailed,
        honest::{self, NOW, claim},
        key::KeyType,
    };

    fn sent(body: &Body<'_>) -> Value {
        serde_json::to_value(body).unwrap()
    }

    #[test]
    fn an_issued_status_says_what_the_leaf_says() {
        let certificate = honest::issued();
        let body = sent(&issued(&certificate, Version::V1beta1, NOW).unwrap());
        assert_eq!(body["apiVersion"], "certificates.k8s.io/v1beta1");
        assert_eq!(body["kind"], "PodCertificateRequest");
        assert_eq!(body["metadata"]["namespace"], "shop");
        assert_eq!(body["metadata"]["name"], "req-x7k2p");
        assert_eq!(body["metadata"]["uid"], "b1e6a0f2-9d53-4c1b-8a71-2f0c6e5d4a33");
        assert_eq!(body["metadata"]["resourceVersion"], "4711");
        let status = &body["status"];
        assert_eq!(status["certificateChain"], certificate.chain_pem());
        assert_eq!(status["notBefore"], "2026-11-23T18:59:00Z");
        assert_eq!(status["notAfter"], "2026-11-24T06:59:00Z");
        let refresh = status["beginRefreshAt"].as_str().unwrap();
        assert_eq!(OffsetDateTime::parse(refresh, &Rfc3339).unwrap(), certificate.words().begin_refresh_at);
        let condition = &status["conditions"][0];
        assert_eq!((&condition["type"], &condition["status"]), (&json!("Issued"), &json!("True")));
        assert_eq!(condition["lastTransitionTime"], "2026-11-23T19:00:00Z", "whole seconds");
        assert_eq!(status["conditions"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn every_denial_makes_a_status_that_the_api_server_takes() {
        let claim = claim();
        let denials = [
            Denial::Malformed(Malformed::Csr),
            Denial::ProofFailed(ProofFailed::Csr),
            Denial::UnsupportedKey,
            Denial::WrongNode { asked: claim.node.clone(), bound: claim.node.clone() },
            Denial::WrongServiceAccount { asked: claim.service_account.clone(), has: None },
            Denial::MirrorPod,
            Denial::NotProjected(NotProjected::KeyType { asked: KeyType::Rsa3072 }),
            Denial::Finished,
            Denial::UnknownAnnotation { key: "x/".to_owned() + &"ä".repeat(100_000), nearest: None },
        ];
        for denial in denials {
            let body = sent(&denied(&claim.target, &denial, Version::V1, NOW).unwrap());
            let status = body["status"].as_object().unwrap();
            assert_eq!(status.len(), 1, "nothing but the condition");
            assert_eq!(status["conditions"][0]["type"], "Denied");
            assert_eq!(status["conditions"][0]["reason"], denial.reason());
            assert!(!status["conditions"][0]["message"].as_str().unwrap().is_empty());
        }
    }

    #[test]
    fn a_message_is_cut_between_letters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ä".repeat(20_000)).len(), MESSAGE_LIMIT);
        assert_eq!(cut(&("x".to_owned() + &"ä".repeat(20_000))).len(), MESSAGE_LIMIT - 1);
    }
}
