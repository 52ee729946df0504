//! Rules S2-S18: what may be written to the status of a `PodCertificateRequest`.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::request::{Spec, or_empty, requested_key};
use super::{names, pem, x509};
use crate::api::failure::FieldError;

/// `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Status {
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "or_empty")]
    pub(crate) conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "or_empty")]
    pub(crate) certificate_chain: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_before: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) begin_refresh_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) not_after: Option<Timestamp>,
}

/// `metav1.Condition`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Condition {
    #[serde(rename = "type", deserialize_with = "or_empty")]
    pub(crate) kind: String,
    #[serde(deserialize_with = "or_empty")]
    pub(crate) status: String,
    #[serde(skip_serializing_if = "is_zero", deserialize_with = "or_empty")]
    pub(crate) observed_generation: i64,
    pub(crate) last_transition_time: Option<Timestamp>,
    #[serde(deserialize_with = "or_empty")]
    pub(crate) reason: String,
    #[serde(deserialize_with = "or_empty")]
    pub(crate) message: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Status {
    fn is(&self, kind: &str) -> bool {
        self.conditions.iter().any(|condition| condition.kind == kind && condition.status == "True")
    }

    fn is_final(&self) -> bool {
        ENDS.iter().any(|end| self.is(end))
    }
}

const ENDS: [&str; 3] = ["Issued", "Denied", "Failed"];
const MAX_CHAIN: usize = 102_400;
const MAX_REASON: usize = 1024;
const MAX_MESSAGE: usize = 32_768;
const CHAIN: &str = "status.certificateChain";
const NOT_BEFORE: &str = "status.notBefore";
const NOT_AFTER: &str = "status.notAfter";
const BEGIN_REFRESH: &str = "status.beginRefreshAt";

/// S2-S18. `now` is the API server's time of this write.
pub(crate) fn update(new: &Status, old: &Status, spec: &Spec, now: Timestamp) -> Vec<FieldError> {
    let errors = conditions(new);
    if !errors.is_empty() {
        return errors;
    }
    let unlike = |wanted: &Status, detail: &str| -> Vec<FieldError> {
        if new == wanted { Vec::new() } else { vec![FieldError::invalid_omitted("status", detail)] }
    };
    if old.is_final() {
        return unlike(old, "immutable after PodCertificateRequest is issued, denied, or failed");
    }
    if new.is("Denied") || new.is("Failed") {
        let bare = Status { conditions: new.conditions.clone(), ..Status::default() };
        let detail = "non-condition status fields must be empty when denying or failing the PodCertificateRequest";
        return unlike(&bare, detail);
    }
    if new.is("Issued") {
        return issued(new, spec, now).err().unwrap_or_default();
    }
    unlike(old, "status is immutable unless transitioning to \"Issued\", \"Denied\", or \"Failed\"")
}

/// S2-S4.
fn conditions(status: &Status) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for (index, condition) in status.conditions.iter().enumerate() {
        let at = |field: &str| format!("status.conditions.[{index}].{field}");
        if !ENDS.contains(&condition.kind.as_str()) {
            errors.push(FieldError::not_supported(&at("type"), &condition.kind, &ENDS));
            continue;
        }
        if index > 0 {
            let detail = "There may be at most one condition with type \"Issued\", \"Denied\", or \"Failed\"";
            errors.push(FieldError::invalid(&at("type"), condition.kind.as_str(), detail));
        }
        if condition.status != "True" {
            errors.push(FieldError::not_supported(&at("status"), &condition.status, &["True"]));
        }
    }
    for (index, condition) in status.conditions.iter().enumerate() {
        let earlier = status.conditions.iter().take(index).any(|other| other.kind == condition.kind);
        if earlier {
            errors.push(FieldError::duplicate(&format!("status.conditions[{index}]"), &condition.kind));
        }
        errors.extend(condition_parts(condition, &format!("status.conditions[{index}]")));
    }
    errors
}

fn condition_parts(condition: &Condition, path: &str) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let mut errors = Vec::new();
    if condition.kind.is_empty() {
        errors.push(FieldError::required(&at("type"), "is required"));
    }
    match condition.status.as_str() {
        "" => errors.push(FieldError::required(&at("status"), "")),
        "True" | "False" | "Unknown" => {}
        other => errors.push(FieldError::not_supported(&at("status"), other, &["False", "True", "Unknown"])),
    }
    if condition.observed_generation < 0 {
        let detail = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(&at("observedGeneration"), condition.observed_generation, detail));
    }
    if condition.last_transition_time.is_none() {
        errors.push(FieldError::required(&at("lastTransitionTime"), ""));
    }
    if condition.reason.is_empty() {
        errors.push(FieldError::required(&at("reason"), ""));
    } else {
        if !names::is_reason(&condition.reason) {
            errors.push(FieldError::invalid(&at("reason"), condition.reason.as_str(), REASON));
        }
        if condition.reason.len() > MAX_REASON {
            errors.push(FieldError::too_long(&at("reason"), MAX_REASON));
        }
    }
    if condition.message.len() > MAX_MESSAGE {
        errors.push(FieldError::too_long(&at("message"), MAX_MESSAGE));
    }
    errors
}

const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric \
characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or \
'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";

type Checked<T> = Result<T, Vec<FieldError>>;

/// S8-S18.
fn issued(status: &Status, spec: &Spec, now: Timestamp) -> Checked<()> {
    let chain = status.certificate_chain.as_str();
    if chain.len() > MAX_CHAIN {
        return Err(vec![FieldError::too_long(CHAIN, MAX_CHAIN)]);
    }
    let blocks = pem::blocks(chain);
    let Some((first, others)) = blocks.split_first() else {
        return Err(wrong(chain, "issued certificate chain must contain at least one certificate"));
    };
    if first.label != "CERTIFICATE" {
        return Err(wrong(chain, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks"));
    }
    let Some(leaf) = x509::certificate(&first.bytes) else {
        return Err(wrong(chain, "leaf certificate does not parse as valid X.509"));
    };
    // Bad names are reported together with missing times, as the real server does; other faults come alone.
    let mut errors = leaf_names(&leaf);
    let wanted = requested_key(spec).map_err(|error| vec![error])?;
    if wanted.is_some() && wanted != leaf.key {
        errors.extend(wrong(chain, "leaf certificate was not issued to the requested public key"));
        return Err(errors);
    }
    let times = times(status, &mut errors).ok_or_else(|| errors.clone())?;
    dates(&times, &leaf, spec, now)?;
    for other in others {
        if other.label != "CERTIFICATE" {
            // "CERTFICATE": the real server's own spelling.
            return Err(wrong(chain, "issued certificate chain must consist entirely of CERTFICATE PEM blocks"));
        }
        if x509::certificate(&other.bytes).is_none() {
            return Err(wrong(chain, "intermediate certificate does not parse as valid X.509"));
        }
    }
    Ok(())
}

fn wrong(chain: &str, detail: &str) -> Vec<FieldError> {
    vec![FieldError::invalid(CHAIN, chain, detail)]
}

/// S9, S10.
fn leaf_names(leaf: &x509::Certificate) -> Vec<FieldError> {
    let mut errors = Vec::new();
    for name in leaf.dns_names.iter().map(String::as_str) {
        if name.is_empty() {
            errors.push(FieldError::invalid(CHAIN, name, "leaf certificate should not contain empty DNSName"));
        }
        if name.contains("..") {
            errors.push(FieldError::invalid(CHAIN, name, "leaf certificate's DNSName should not contain '..'"));
        }
        if name.starts_with('.') || name.ends_with('.') {
            errors.push(FieldError::invalid(
                CHAIN,
                name,
                "leaf certificate's DNSName should not start or end with '.'",
            ));
        }
    }
    for address in leaf.email_addresses.iter().map(String::as_str) {
        if !x509::is_mail_address(address) {
            errors.push(FieldError::invalid(
                CHAIN,
                address,
                "leaf certificate should not contain invalid EmailAddress",
            ));
        }
    }
    errors
}

struct Times {
    not_before: Timestamp,
    begin_refresh: Timestamp,
    not_after: Timestamp,
}

/// S13. Errors so far count as well: the real server returns here if there are any.
fn times(status: &Status, errors: &mut Vec<FieldError>) -> Option<Times> {
    let mut must = |time: Option<Timestamp>, field: &str, detail: &str| {
        if time.is_none() {
            errors.push(FieldError::required(field, detail));
        }
        time
    };
    let consistent = "must be present and consistent with the issued certificate";
    let not_before = must(status.not_before, NOT_BEFORE, consistent);
    let not_after = must(status.not_after, NOT_AFTER, consistent);
    let begin_refresh = must(
        status.begin_refresh_at,
        BEGIN_REFRESH,
        "must be present and in the range [notbefore+10min, notafter-10min]",
    );
    if !errors.is_empty() {
        return None;
    }
    Some(Times { not_before: not_before?, begin_refresh: begin_refresh?, not_after: not_after? })
}

/// S14-S17.
fn dates(times: &Times, leaf: &x509::Certificate, spec: &Spec, now: Timestamp) -> Checked<()> {
    let bad =
        |field: &str, time: Timestamp, detail: &str| Err(vec![FieldError::invalid(field, time.to_string(), detail)]);
    if times.not_before != leaf.not_before {
        return bad(NOT_BEFORE, times.not_before, "must be set to the NotBefore time encoded in the leaf certificate");
    }
    if times.not_before.duration_since(now).abs() >= SignedDuration::from_mins(5) {
        return bad(NOT_BEFORE, times.not_before, "must be set to within 5 minutes of kube-apiserver's current time");
    }
    if times.not_after != leaf.not_after {
        return bad(NOT_AFTER, times.not_after, "must be set to the NotAfter time encoded in the leaf certificate");
    }
    let life = leaf.not_after.duration_since(leaf.not_before);
    let too = |detail: &str| Err(vec![FieldError::invalid(CHAIN, go_nanoseconds(life), detail)]);
    if life < SignedDuration::from_hours(1) {
        return too("leaf certificate lifetime must be >= 1 hour");
    }
    let longest = spec.max_expiration_seconds.unwrap_or_default();
    if life > SignedDuration::from_secs(longest.into()) {
        return too(&format!("leaf certificate lifetime must be <= spec.maxExpirationSeconds ({longest})"));
    }
    let margin = SignedDuration::from_mins(10);
    if times.begin_refresh.duration_since(times.not_before) < margin {
        return bad(BEGIN_REFRESH, times.begin_refresh, "must be at least 10 minutes after status.notBefore");
    }
    if times.not_after.duration_since(times.begin_refresh) < margin {
        return bad(BEGIN_REFRESH, times.begin_refresh, "must be at least 10 minutes before status.notAfter");
    }
    Ok(())
}

/// A Go duration is marshalled as a number of nanoseconds.
fn go_nanoseconds(life: SignedDuration) -> i64 {
    i64::try_from(life.as_nanos()).unwrap_or(i64::MAX)
}
