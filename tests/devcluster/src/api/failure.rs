//! Errors as the API server words them: a `metav1.Status` with reason, code, details and causes.

use serde_json::{Value, json};

use super::kind::Kind;

/// An answer that is not a success.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
    pub(crate) details: Value,
    pub(crate) retry_after: Option<u32>,
}

pub(crate) type Answer<T> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null, retry_after: None }
    }

    fn about(code: u16, reason: &'static str, message: String, kind: Kind, name: &str) -> Self {
        let mut details = json!({ "kind": kind.plural() });
        set_if_any(&mut details, "name", name);
        set_if_any(&mut details, "group", kind.group());
        Self { code, reason, message, details, retry_after: None }
    }

    pub(crate) fn not_found(kind: Kind, name: &str) -> Self {
        Self::about(404, "NotFound", format!("{} {name:?} not found", kind.qualified()), kind, name)
    }

    pub(crate) fn already_exists(kind: Kind, name: &str) -> Self {
        Self::about(409, "AlreadyExists", format!("{} {name:?} already exists", kind.qualified()), kind, name)
    }

    pub(crate) fn conflict(kind: Kind, name: &str, cause: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {name:?}: {cause}", kind.qualified());
        Self::about(409, "Conflict", message, kind, name)
    }

    pub(crate) fn stale(kind: Kind, name: &str) -> Self {
        Self::conflict(
            kind,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    pub(crate) fn other_uid(kind: Kind, namespace: &str, name: &str, asked: &str, stored: &str) -> Self {
        let key = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
        let cause = format!(
            "StorageError: invalid object, Code: 4, Key: /registry/{}/{key}, ResourceVersion: 0, AdditionalErrorMsg: \
             Precondition failed: UID in precondition: {asked}, UID in object meta: {stored}",
            kind.plural()
        );
        Self::conflict(kind, name, &cause)
    }

    pub(crate) fn forbidden(kind: Kind, name: &str, cause: &str) -> Self {
        let subject = if name.is_empty() { kind.qualified() } else { format!("{} {name:?}", kind.qualified()) };
        Self::about(403, "Forbidden", format!("{subject} is forbidden: {cause}"), kind, name)
    }

    /// An admission error that is not a refusal: retrying may help, so it must not be a 403.
    pub(crate) fn unknown(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(crate) fn too_large_version(asked: u64, current: u64) -> Self {
        let mut failure =
            Self::new(504, "Timeout", format!("Timeout: Too large resource version: {asked}, current: {current}"));
        failure.details = json!({
            "retryAfterSeconds": 1,
            "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }]
        });
        failure.retry_after = Some(1);
        failure
    }

    /// 422. `kind_name` is the kind, or (for a missing resourceVersion) the resource, as the real server has it.
    pub(crate) fn invalid(kind_name: &str, group: &str, name: &str, errors: &[FieldError]) -> Self {
        let qualified = if group.is_empty() { kind_name.to_owned() } else { format!("{kind_name}.{group}") };
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let all = match lines.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let causes: Vec<Value> = errors
            .iter()
            .map(|error| json!({ "reason": error.cause.reason(), "message": error.body, "field": error.field }))
            .collect();
        let mut details = json!({ "kind": kind_name, "causes": causes });
        set_if_any(&mut details, "name", name);
        set_if_any(&mut details, "group", group);
        let message = format!("{qualified} {name:?} is invalid: {all}");
        Self { code: 422, reason: "Invalid", message, details, retry_after: None }
    }

    /// The body: a `metav1.Status`.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if let Some(fields) = status.as_object_mut() {
            if !self.reason.is_empty() {
                fields.insert("reason".to_owned(), self.reason.into());
            }
            if !self.details.is_null() {
                fields.insert("details".to_owned(), self.details.clone());
            }
        }
        status
    }
}

fn set_if_any(object: &mut Value, key: &str, value: &str) {
    if let (Some(fields), false) = (object.as_object_mut(), value.is_empty()) {
        fields.insert(key.to_owned(), value.into());
    }
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FieldError {
    pub(crate) cause: Cause,
    pub(crate) field: String,
    pub(crate) body: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Invalid,
    Required,
    TooLong,
    NotSupported,
    Forbidden,
    Duplicate,
}

impl Cause {
    const fn reason(self) -> &'static str {
        match self {
            Self::Invalid => "FieldValueInvalid",
            Self::Required => "FieldValueRequired",
            Self::TooLong => "FieldValueTooLong",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
        }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: {}", self.field, self.body)
    }
}

impl FieldError {
    fn new(cause: Cause, field: &str, body: String) -> Self {
        Self { cause, field: field.to_owned(), body }
    }

    /// The value is shown: strings quoted, everything else as JSON.
    pub(crate) fn invalid(field: &str, value: impl Into<Value>, detail: &str) -> Self {
        Self::new(Cause::Invalid, field, format!("Invalid value: {}: {detail}", value.into()))
    }

    pub(crate) fn invalid_omitted(field: &str, detail: &str) -> Self {
        Self::new(Cause::Invalid, field, format!("Invalid value: {detail}"))
    }

    pub(crate) fn required(field: &str, detail: &str) -> Self {
        Self::new(Cause::Required, field, joined("Required value", detail))
    }

    pub(crate) fn too_long(field: &str, limit: usize) -> Self {
        Self::new(Cause::TooLong, field, format!("Too long: may not be more than {limit} bytes"))
    }

    pub(crate) fn not_supported(field: &str, value: &str, supported: &[&str]) -> Self {
        let known: Vec<String> = supported.iter().map(|one| format!("{one:?}")).collect();
        Self::new(
            Cause::NotSupported,
            field,
            format!("Unsupported value: {value:?}: supported values: {}", known.join(", ")),
        )
    }

    pub(crate) fn forbidden(field: &str, detail: &str) -> Self {
        Self::new(Cause::Forbidden, field, joined("Forbidden", detail))
    }

    pub(crate) fn duplicate(field: &str, value: &str) -> Self {
        Self::new(Cause::Duplicate, field, format!("Duplicate value: {value:?}"))
    }
}

fn joined(what: &str, detail: &str) -> String {
    if detail.is_empty() { what.to_owned() } else { format!("{what}: {detail}") }
}
