//! One stored object: immutable, shared, and serialised at most once for each form.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::{Map, Value};

use super::kind::{Form, Served};

pub(crate) type Fields = Map<String, Value>;

/// An object as it was at one resourceVersion. `kind` and `apiVersion` are not part of it: they depend on who asks.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) fields: Fields,
    pub(crate) version: u64,
    bytes: [OnceLock<Bytes>; 2],
}

impl Object {
    pub(crate) fn new(mut fields: Fields, version: u64) -> Self {
        set_text(&mut fields, "resourceVersion", version.to_string());
        Self { fields, version, bytes: [OnceLock::new(), OnceLock::new()] }
    }

    /// The same object with another resourceVersion, as watchers see a deletion.
    pub(crate) fn at(&self, version: u64) -> Arc<Self> {
        Arc::new(Self::new(self.fields.clone(), version))
    }

    pub(crate) fn meta(&self, key: &str) -> &str {
        meta(&self.fields, key)
    }

    pub(crate) fn uid(&self) -> &str {
        self.meta("uid")
    }

    /// As an item of a list: without kind and apiVersion.
    pub(crate) fn item(&self, form: Form) -> Bytes {
        let Some(slot) = self.bytes.get(form.slot()) else { return Bytes::new() };
        slot.get_or_init(|| Bytes::from(Value::Object(shown(&self.fields, form)).to_string())).clone()
    }

    /// As an object of its own.
    pub(crate) fn alone(&self, served: Served) -> Bytes {
        let item = self.item(served.form);
        let head = format!(r#"{{"kind":"{}","apiVersion":"{}","#, served.kind.name(), served.api_version());
        let mut whole = Vec::with_capacity(head.len().saturating_add(item.len()));
        whole.extend_from_slice(head.as_bytes());
        whole.extend_from_slice(item.get(1..).unwrap_or_default());
        whole.into()
    }
}

/// The fields as `form` shows them.
fn shown(fields: &Fields, form: Form) -> Fields {
    let mut out = fields.clone();
    match form {
        Form::Stored => {}
        Form::RequestV1 => {
            if let Some(spec) = out.get_mut("spec").and_then(Value::as_object_mut) {
                spec.remove("pkixPublicKey");
                spec.remove("proofOfPossession");
                spec.entry("stubPKCS10Request").or_insert(Value::Null);
            }
        }
        Form::EventV1 => rename(&mut out, EVENT_NAMES.iter().copied()),
    }
    out
}

/// What a client sent in `form`, as it is stored.
pub(crate) fn stored(mut fields: Fields, form: Form) -> Fields {
    fields.remove("kind");
    fields.remove("apiVersion");
    match form {
        Form::Stored => {}
        Form::RequestV1 => {
            if let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) {
                spec.remove("pkixPublicKey");
                spec.remove("proofOfPossession");
            }
        }
        Form::EventV1 => rename(&mut fields, EVENT_NAMES.iter().map(|(core, events)| (*events, *core))),
    }
    fields
}

/// Names of one event's fields in core/v1 and in events.k8s.io/v1, which are stored together.
const EVENT_NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

fn rename<'a>(fields: &mut Fields, pairs: impl Iterator<Item = (&'a str, &'a str)>) {
    for (from, to) in pairs {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.to_owned(), value);
        }
    }
}

/// A text of `metadata`, or nothing.
pub(crate) fn meta<'a>(fields: &'a Fields, key: &str) -> &'a str {
    fields.get("metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str).unwrap_or_default()
}

/// A text below a path of keys, or nothing.
pub(crate) fn text<'a>(fields: &'a Fields, path: &[&str]) -> &'a str {
    at(fields, path).and_then(Value::as_str).unwrap_or_default()
}

/// A value below a path of keys.
pub(crate) fn at<'a>(fields: &'a Fields, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(fields.get(*first)?, |value, key| value.get(key))
}

/// Changes `metadata`, which is made if it is not there.
pub(crate) fn edit_metadata(fields: &mut Fields, edit: impl FnOnce(&mut Fields)) {
    let mut metadata = match fields.remove("metadata") {
        Some(Value::Object(metadata)) => metadata,
        Some(_) | None => Map::new(),
    };
    edit(&mut metadata);
    fields.insert("metadata".to_owned(), Value::Object(metadata));
}

/// Sets a text of `metadata`.
pub(crate) fn set_text(fields: &mut Fields, key: &str, value: String) {
    edit_metadata(fields, |metadata| {
        metadata.insert(key.to_owned(), Value::String(value));
    });
}
