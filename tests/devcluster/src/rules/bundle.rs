//! Rules B1-B5: what a `ClusterTrustBundle` may be.

use std::collections::BTreeMap;

use super::{names, pem, x509};
use crate::api::failure::FieldError;

const MAX_BUNDLE: usize = 1024 * 1024;
const BUNDLE: &str = "spec.trustBundle";

/// B1-B3 for a new bundle.
pub(crate) fn create(name: &str, signer: &str, anchors: &str) -> Vec<FieldError> {
    let mut errors = named(name, signer);
    errors.extend(trust_anchors(anchors));
    errors
}

/// B1-B5 for a changed one: text that did not change is not read again.
pub(crate) fn update(name: &str, signer: (&str, &str), anchors: (&str, &str)) -> Vec<FieldError> {
    let ((new_signer, old_signer), (new_anchors, old_anchors)) = (signer, anchors);
    let mut errors = named(name, new_signer);
    if new_anchors != old_anchors {
        errors.extend(trust_anchors(new_anchors));
    }
    if new_signer != old_signer {
        errors.push(FieldError::invalid("spec.signerName", new_signer, "field is immutable"));
    }
    errors
}

fn named(name: &str, signer: &str) -> Vec<FieldError> {
    let wrong = if signer.is_empty() {
        if name.contains(':') {
            vec!["ClusterTrustBundle without signer name must not have \":\" in its name".to_owned()]
        } else {
            names::dns_subdomain(name)
        }
    } else {
        let prefix = format!("{}:", signer.replace('/', ":"));
        match name.strip_prefix(&prefix) {
            Some(rest) => names::dns_subdomain(rest),
            None => vec![format!("ClusterTrustBundle for signerName {signer} must be named with prefix {prefix}")],
        }
    };
    let mut errors: Vec<FieldError> = wrong.iter().map(|one| FieldError::invalid("metadata.name", name, one)).collect();
    if !signer.is_empty() {
        errors.extend(names::signer_name("spec.signerName", signer));
    }
    errors
}

fn trust_anchors(text: &str) -> Vec<FieldError> {
    if text.len() > MAX_BUNDLE {
        return vec![FieldError::too_long(BUNDLE, MAX_BUNDLE)];
    }
    let omitted = |detail: &str| FieldError::invalid(BUNDLE, "<value omitted>", detail);
    let mut errors = Vec::new();
    let mut seen: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
    for (index, block) in pem::blocks(text).into_iter().enumerate() {
        let certificate = x509::certificate(&block.bytes);
        let wrong = match certificate {
            _ if block.label != "CERTIFICATE" => Some(format!("entry {index} has bad block type: {}", block.label)),
            _ if block.has_headers => Some(format!("entry {index} has PEM block headers")),
            None => Some(format!("entry {index} does not parse as X.509")),
            Some(certificate) if !certificate.is_ca => Some(format!("entry {index} does not have the CA bit set")),
            Some(certificate) if !certificate.basic_constraints_valid => {
                Some(format!("entry {index} has invalid basic constraints"))
            }
            Some(_) => None,
        };
        match wrong {
            Some(detail) => errors.push(omitted(&detail)),
            None => seen.entry(block.bytes).or_default().push(index),
        }
    }
    if !errors.is_empty() {
        return errors;
    }
    if seen.is_empty() {
        return vec![omitted("at least one trust anchor must be provided")];
    }
    let twice = seen.values().filter(|indices| indices.len() > 1);
    twice.map(|indices| omitted(&format!("duplicate trust anchor (indices {})", go_list(indices)))).collect()
}

fn go_list(numbers: &[usize]) -> String {
    let spelt: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    format!("[{}]", spelt.join(" "))
}
