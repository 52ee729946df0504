//! The part of pod validation that concerns credentials: `podCertificate` and `clusterTrustBundle` sources (section 4.5).

use std::collections::BTreeSet;

use serde_json::Value;

use super::names;
use crate::api::failure::FieldError;
use crate::api::object::{Fields, at};

const KEY_TYPES: [&str; 6] = ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"];
const HOUR: i64 = 3600;
const DAY: i64 = 86_400;

/// What is wrong with the projected sources of a pod.
pub(crate) fn create(pod: &Fields) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let volumes = list(at(pod, &["spec", "volumes"]));
    for (number, volume) in volumes.iter().enumerate() {
        let mut paths = BTreeSet::new();
        for (index, source) in list(volume.pointer("/projected/sources")).iter().enumerate() {
            let path = format!("spec.volumes[{number}].projected.sources[{index}]");
            if let Some(source) = source.get("podCertificate") {
                errors.extend(pod_certificate(source, &format!("{path}.podCertificate"), &mut paths));
            }
            if let Some(source) = source.get("clusterTrustBundle") {
                errors.extend(trust_bundle(source, &format!("{path}.clusterTrustBundle"), &mut paths));
            }
        }
    }
    errors
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

fn pod_certificate(source: &Value, path: &str, paths: &mut BTreeSet<String>) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let signer = text(source, "signerName");
    let mut errors = names::signer_name(&at("signerName"), signer);
    match text(source, "keyType") {
        "" => errors.push(FieldError::required(&at("keyType"), "")),
        known if KEY_TYPES.contains(&known) => {}
        other => errors.push(FieldError::not_supported(&at("keyType"), other, &KEY_TYPES)),
    }
    let longest = if names::is_kubernetes_signer(signer) { DAY } else { DAY.saturating_mul(91) };
    if let Some(seconds) = source.get("maxExpirationSeconds").and_then(Value::as_i64)
        && !(HOUR..=longest).contains(&seconds)
    {
        let detail = format!("if provided, maxExpirationSeconds must be in the range [{HOUR}, {longest}]");
        errors.push(FieldError::invalid(&at("maxExpirationSeconds"), seconds, &detail));
    }
    let used = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    if used.iter().all(|field| text(source, field).is_empty()) {
        let detail = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        errors.push(FieldError::required(path, detail));
    }
    for field in used {
        errors.extend(file_path(text(source, field), &at(field), paths));
    }
    if let Some(annotations) = source.get("userAnnotations").and_then(Value::as_object) {
        let pairs = annotations.iter().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()));
        errors.extend(names::user_annotations(&at("userAnnotations"), pairs));
    }
    errors
}

fn trust_bundle(source: &Value, path: &str, paths: &mut BTreeSet<String>) -> Vec<FieldError> {
    let at = |field: &str| format!("{path}.{field}");
    let (name, signer) = (text(source, "name"), text(source, "signerName"));
    let mut errors = Vec::new();
    match (name.is_empty(), signer.is_empty()) {
        (true, true) => errors.push(FieldError::required(path, "either name or signerName must be specified")),
        (false, false) => errors.push(FieldError::invalid_omitted(path, "only one of name and signerName may be used")),
        (true, false) => errors.extend(names::signer_name(&at("signerName"), signer)),
        (false, true) => {
            if source.get("labelSelector").is_some() {
                errors.push(FieldError::invalid_omitted(
                    &at("labelSelector"),
                    "labelSelector must be unset if name is specified",
                ));
            }
        }
    }
    if text(source, "path").is_empty() {
        errors.push(FieldError::required(&at("path"), ""));
    }
    errors.extend(file_path(text(source, "path"), &at("path"), paths));
    errors
}

/// Relative, without `..`, and nobody else's.
fn file_path(path: &str, field: &str, paths: &mut BTreeSet<String>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if path.is_empty() {
        return errors;
    }
    if path.starts_with('/') {
        errors.push(FieldError::invalid(field, path, "must be a relative path"));
    }
    if path.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(field, path, "must not contain '..'"));
    }
    if path.starts_with("..") {
        errors.push(FieldError::invalid(field, path, "must not start with '..'"));
    }
    if !paths.insert(path.to_owned()) {
        errors.push(FieldError::invalid(field, path, "conflicting duplicate paths"));
    }
    errors
}
