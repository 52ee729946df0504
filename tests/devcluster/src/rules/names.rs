//! Names of Kubernetes' things: DNS labels and subdomains, signer names, annotation keys. Messages as the API server has them.

use crate::api::failure::FieldError;

const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end \
with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";

const MAX_SUBDOMAIN: usize = 253;
const MAX_LABEL: usize = 63;
/// Domain, slash, and a path that takes a label, a dot and a subdomain.
const MAX_SIGNER_NAME: usize = 571;
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// What is wrong with a DNS label.
pub(crate) fn dns_label(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > MAX_LABEL {
        wrong.push(format!("must be no more than {MAX_LABEL} bytes"));
    }
    if !is_label(value) {
        wrong.push(if is_subdomain(value) { "must not contain dots".to_owned() } else { LABEL.to_owned() });
    }
    wrong
}

/// What is wrong with a DNS subdomain.
pub(crate) fn dns_subdomain(value: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if value.len() > MAX_SUBDOMAIN {
        wrong.push(format!("must be no more than {MAX_SUBDOMAIN} bytes"));
    }
    if !is_subdomain(value) {
        wrong.push(SUBDOMAIN.to_owned());
    }
    wrong
}

fn is_label(value: &str) -> bool {
    let edge = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    value.starts_with(edge) && value.ends_with(edge) && value.chars().all(|c| edge(c) || c == '-')
}

fn is_subdomain(value: &str) -> bool {
    value.split('.').all(is_label)
}

/// `domain/path`.
pub(crate) fn signer_name(field: &str, name: &str) -> Vec<FieldError> {
    if name.is_empty() {
        return vec![FieldError::required(field, "")];
    }
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.contains('/')) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return vec![FieldError::invalid(field, name, detail)];
    };
    let mut errors = Vec::new();
    if domain.len() > MAX_SUBDOMAIN {
        errors.push(FieldError::too_long(field, MAX_SUBDOMAIN));
    }
    let part = |errors: &mut Vec<FieldError>, whole: &str, check: fn(&str) -> Vec<String>| {
        let first_bad = whole.split('.').map(|label| (label, check(label))).find(|(_, wrong)| !wrong.is_empty());
        if let Some((label, wrong)) = first_bad {
            let details = wrong.iter().map(|one| format!("validating label {label:?}: {one}"));
            errors.extend(details.map(|detail| FieldError::invalid(field, whole, &detail)));
        }
    };
    part(&mut errors, domain, dns_label);
    if !domain.contains('.') {
        errors.push(FieldError::invalid(
            field,
            domain,
            "should be a domain with at least two segments separated by dots",
        ));
    }
    part(&mut errors, path, dns_subdomain);
    if name.len() > MAX_SIGNER_NAME {
        errors.push(FieldError::too_long(field, MAX_SIGNER_NAME));
    }
    errors
}

/// Signers of the Kubernetes project itself, for whom a certificate lives a day at most.
pub(crate) fn is_kubernetes_signer(name: &str) -> bool {
    let domain = name.split('/').next().unwrap_or_default();
    domain == "kubernetes.io" || domain.ends_with(".kubernetes.io")
}

/// Annotations a pod's author gives a signer: keys with a domain prefix, values free.
pub(crate) fn user_annotations<'a>(field: &str, all: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut size: usize = 0;
    for (key, value) in all {
        size = size.saturating_add(key.len()).saturating_add(value.len());
        errors.extend(prefixed_key(field, &key.to_lowercase()));
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(field, MAX_ANNOTATIONS));
    }
    errors
}

fn prefixed_key(field: &str, key: &str) -> Vec<FieldError> {
    if key.is_empty() {
        return vec![FieldError::required(field, "")];
    }
    let Some((prefix, name)) = key.split_once('/').filter(|(_, name)| !name.contains('/')) else {
        let detail = "must be a domain-prefixed key (such as \"acme.io/foo\")";
        return vec![FieldError::invalid(field, key, detail)];
    };
    if prefix.is_empty() || name.is_empty() {
        let detail = "must be a domain-prefixed key (such as \"acme.io/foo\")";
        return vec![FieldError::invalid(field, key, detail)];
    }
    let mut errors: Vec<FieldError> = dns_subdomain(prefix)
        .iter()
        .map(|wrong| FieldError::invalid(field, prefix, &format!("prefix part {wrong}")))
        .collect();
    if name.len() > MAX_LABEL {
        errors.push(FieldError::invalid(field, name, "name part must be no more than 63 bytes"));
    }
    if !is_qualified(name) {
        errors.push(FieldError::invalid(field, name, QUALIFIED));
    }
    errors
}

fn is_qualified(name: &str) -> bool {
    let edge = |c: char| c.is_ascii_alphanumeric();
    name.starts_with(edge) && name.ends_with(edge) && name.chars().all(|c| edge(c) || "-_.".contains(c))
}

/// A condition's reason.
pub(crate) fn is_reason(reason: &str) -> bool {
    let last = |c: char| c.is_ascii_alphanumeric() || c == '_';
    reason.starts_with(|c: char| c.is_ascii_alphabetic())
        && reason.ends_with(last)
        && reason.chars().all(|c| last(c) || c == ',' || c == ':')
}
