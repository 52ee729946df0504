//! Create, update, patch and delete: what is the same for every kind. What differs is in [`super::admit`].

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::admit::{self, Change};
use super::failure::{Answer, Failure, FieldError};
use super::fault::Verb;
use super::kind::Kind;
use super::object::{self, Fields, Object, edit_metadata, meta, set_text};
use super::route::Call;
use super::store::{Key, Store, Unwritten};
use crate::clock::{name_suffix, rfc3339, uuid};
use crate::options::{Identity, Options};

/// What a write needs to know.
pub(crate) struct Write<'a> {
    pub(crate) store: &'a Store,
    pub(crate) options: &'a Options,
    pub(crate) who: &'a Identity,
    pub(crate) call: &'a Call,
    pub(crate) now: Timestamp,
}

/// How often an update without resourceVersion, or a patch, is tried again when somebody else was faster.
const TRIES: usize = 5;

impl Write<'_> {
    /// Carries out the call; the body is what the client sent.
    pub(crate) fn run(&self, content_type: &str, body: &[u8]) -> Answer<(u16, Bytes)> {
        match self.call.verb {
            Verb::Create => self.create(body),
            Verb::Update => self.update(body),
            Verb::Patch => self.patch(content_type, body),
            Verb::Delete => self.delete(body),
            Verb::Get | Verb::List | Verb::Watch => Err(Failure::new(405, "MethodNotAllowed", "a read is not a write")),
        }
    }

    fn kind(&self) -> Kind {
        self.call.served.kind
    }

    fn decode(&self, body: &[u8]) -> Answer<Fields> {
        let value: Value = serde_json::from_slice(body).map_err(|error| {
            Failure::bad_request(format!(
                "{} in version {:?} cannot be handled: {error}",
                self.kind().name(),
                self.call.served.version
            ))
        })?;
        let Value::Object(fields) = value else {
            return Err(Failure::bad_request("the body of the request was not an object"));
        };
        let kind = fields.get("kind").and_then(Value::as_str).unwrap_or_default();
        let version = fields.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
        let expected = self.call.served.api_version();
        if (!kind.is_empty() && kind != self.kind().name()) || (!version.is_empty() && version != expected) {
            return Err(Failure::bad_request(format!(
                "the object provided is unrecognized (must be of type {}): {version} {kind}",
                self.kind().name()
            )));
        }
        Ok(object::stored(fields, self.call.served.form))
    }

    fn create(&self, body: &[u8]) -> Answer<(u16, Bytes)> {
        let mut fields = self.decode(body)?;
        self.settle_namespace(&mut fields)?;
        if !meta(&fields, "resourceVersion").is_empty() {
            return Err(Failure::bad_request("resourceVersion should not be set on objects to be created"));
        }
        let name = meta(&fields, "name").to_owned();
        let prefix = meta(&fields, "generateName").to_owned();
        if name.is_empty() && prefix.is_empty() {
            let error = FieldError::required("metadata.name", "name or generateName is required");
            return Err(self.invalid("", &[error]));
        }
        let is_taken =
            |name: &str| self.store.get(self.kind(), &(self.call.namespace.clone(), name.to_owned())).is_some();
        let name = if name.is_empty() { generated(&prefix, name_suffix, is_taken) } else { name };
        self.stamp(&mut fields, &name);
        admit::create(self, &name, &mut fields)?;
        if self.dry_run() {
            return Ok((201, Object::new(fields, 0).alone(self.call.served)));
        }
        let key = (self.call.namespace.clone(), name.clone());
        let made =
            self.store.put(self.kind(), &key, fields, None).map_err(|unwritten| self.unwritten(unwritten, &name))?;
        admit::created(self, &key);
        Ok((201, made.alone(self.call.served)))
    }

    fn settle_namespace(&self, fields: &mut Fields) -> Answer<()> {
        let named = meta(fields, "namespace").to_owned();
        if !self.kind().namespaced() {
            return Ok(());
        }
        if !named.is_empty() && named != self.call.namespace {
            return Err(Failure::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        set_text(fields, "namespace", self.call.namespace.clone());
        let there = self.store.get(Kind::Namespace, &(String::new(), self.call.namespace.clone())).is_some();
        if there { Ok(()) } else { Err(Failure::not_found(Kind::Namespace, &self.call.namespace)) }
    }

    /// What the server alone decides.
    fn stamp(&self, fields: &mut Fields, name: &str) {
        let created = rfc3339(self.now);
        edit_metadata(fields, |metadata| {
            for theirs in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields"] {
                metadata.remove(theirs);
            }
            metadata.insert("name".to_owned(), name.into());
            metadata.insert("uid".to_owned(), uuid().into());
            metadata.insert("creationTimestamp".to_owned(), created.into());
            metadata.insert("generation".to_owned(), 1.into());
        });
    }

    fn update(&self, body: &[u8]) -> Answer<(u16, Bytes)> {
        let new = self.decode(body)?;
        let name = meta(&new, "name");
        if !name.is_empty() && name != self.call.name {
            return Err(Failure::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.call.name
            )));
        }
        if self.store.get(self.kind(), &self.call.key()).is_none() && self.kind().create_on_update() {
            return self.create(body);
        }
        let asked_version = meta(&new, "resourceVersion").to_owned();
        let asked_uid = meta(&new, "uid").to_owned();
        self.write_back(|old| {
            if !asked_uid.is_empty() && asked_uid != old.uid() {
                return Err(Failure::other_uid(
                    self.kind(),
                    &self.call.namespace,
                    &self.call.name,
                    &asked_uid,
                    old.uid(),
                ));
            }
            self.check_version(&asked_version, old)?;
            Ok(new.clone())
        })
    }

    fn check_version(&self, asked: &str, old: &Object) -> Answer<()> {
        if asked.is_empty() && !self.kind().unconditional_update() {
            // The real server names the resource, not the kind, in this one.
            let error = FieldError::invalid("metadata.resourceVersion", 0, "must be specified for an update");
            return Err(Failure::invalid(self.kind().plural(), self.kind().group(), &self.call.name, &[error]));
        }
        if !asked.is_empty() && asked != old.meta("resourceVersion") {
            return Err(Failure::stale(self.kind(), &self.call.name));
        }
        Ok(())
    }

    fn patch(&self, content_type: &str, body: &[u8]) -> Answer<(u16, Bytes)> {
        let known = ["application/merge-patch+json", "application/strategic-merge-patch+json"];
        if !known.contains(&content_type) {
            let message = format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                known.join(", ")
            );
            return Err(Failure::new(415, "UnsupportedMediaType", message));
        }
        let patch: Value = serde_json::from_slice(body).map_err(|error| Failure::bad_request(error.to_string()))?;
        self.write_back(|old| {
            let shown: Value = serde_json::from_slice(&old.item(self.call.served.form)).unwrap_or_default();
            let mut shown = shown;
            merge(&mut shown, &patch);
            let Value::Object(fields) = shown else { return Err(Failure::bad_request("the patch leaves no object")) };
            let mut fields = object::stored(fields, self.call.served.form);
            self.check_version(meta(&fields, "resourceVersion"), old)?;
            if meta(&fields, "uid") != old.uid() {
                let error = FieldError::invalid("metadata.uid", meta(&fields, "uid"), "field is immutable");
                return Err(self.invalid(&self.call.name, &[error]));
            }
            set_text(&mut fields, "name", self.call.name.clone());
            Ok(fields)
        })
    }

    /// Reads, lets `change` make the new object, admits it and writes it; again if somebody else was faster and the client
    /// did not insist on a version.
    fn write_back(&self, change: impl Fn(&Object) -> Answer<Fields>) -> Answer<(u16, Bytes)> {
        let name = &self.call.name;
        for _ in 0..TRIES {
            let old = self.current()?;
            let mut new = change(&old)?;
            self.keep_immutable(&mut new, &old);
            admit::update(self, &old, &mut new)?;
            if new == old.fields || self.dry_run() {
                return Ok((200, old.alone(self.call.served)));
            }
            match self.finish(&old, new) {
                Ok(written) => return Ok((200, written.alone(self.call.served))),
                Err(Unwritten::Changed) => {}
                Err(other) => return Err(self.unwritten(other, name)),
            }
        }
        Err(Failure::stale(self.kind(), name))
    }

    /// An object that is being deleted goes with its last finalizer.
    fn finish(&self, old: &Object, new: Fields) -> Result<Arc<Object>, Unwritten> {
        let key = self.call.key();
        let leaving = !meta(&new, "deletionTimestamp").is_empty() && self.kind() != Kind::Pod;
        if leaving && finalizers(&new) == 0 {
            let gone = self.store.remove(self.kind(), &key, old.version)?;
            admit::removed(self, &gone);
            return Ok(gone);
        }
        self.store.put(self.kind(), &key, new, Some(old.version))
    }

    fn current(&self) -> Answer<Arc<Object>> {
        let found = self.store.get(self.kind(), &self.call.key());
        found.ok_or_else(|| Failure::not_found(self.kind(), &self.call.name))
    }

    /// Metadata no client can change, and for a status write everything but the status.
    fn keep_immutable(&self, new: &mut Fields, old: &Object) {
        let kept = [
            "uid",
            "creationTimestamp",
            "namespace",
            "generation",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generateName",
        ];
        let reset_for_status = ["labels", "annotations", "finalizers", "ownerReferences"];
        let resets: &[&str] = if self.call.status { &reset_for_status } else { &[] };
        let stored = old.fields.get("metadata").and_then(Value::as_object);
        edit_metadata(new, |metadata| {
            metadata.remove("managedFields");
            metadata.insert("resourceVersion".to_owned(), old.version.to_string().into());
            for key in kept.iter().chain(resets) {
                match stored.and_then(|stored| stored.get(*key)) {
                    Some(value) => metadata.insert((*key).to_owned(), value.clone()),
                    None => metadata.remove(*key),
                };
            }
        });
        if self.call.status {
            let status = new.get("status").cloned();
            let metadata = new.remove("metadata");
            new.clone_from(&old.fields);
            restore(new, "status", status);
            restore(new, "metadata", metadata);
        } else if self.kind().has_status() {
            restore(new, "status", old.fields.get("status").cloned());
        }
    }

    fn delete(&self, body: &[u8]) -> Answer<(u16, Bytes)> {
        let options: Value = if body.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(body).map_err(|error| Failure::bad_request(error.to_string()))?
        };
        let text = |pointer: &str| options.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        for _ in 0..TRIES {
            let old = self.current()?;
            let (uid, version) = (text("/preconditions/uid"), text("/preconditions/resourceVersion"));
            if !uid.is_empty() && uid != old.uid() {
                return Err(Failure::other_uid(self.kind(), &self.call.namespace, &self.call.name, uid, old.uid()));
            }
            if !version.is_empty() && version != old.meta("resourceVersion") {
                let cause = format!(
                    "the ResourceVersion in the precondition ({version}) does not match the ResourceVersion in record ({}). The object might have been modified",
                    old.version
                );
                return Err(Failure::conflict(self.kind(), &self.call.name, &cause));
            }
            if self.dry_run() {
                return Ok((200, old.alone(self.call.served)));
            }
            let grace = options.get("gracePeriodSeconds").and_then(Value::as_i64);
            let grace = grace.or_else(|| self.call.query.text("gracePeriodSeconds").parse().ok());
            match self.delete_once(&old, grace) {
                Ok(answer) => return Ok((200, answer)),
                Err(Unwritten::Changed) => {}
                Err(other) => return Err(self.unwritten(other, &self.call.name)),
            }
        }
        Err(Failure::stale(self.kind(), &self.call.name))
    }

    fn delete_once(&self, old: &Object, grace: Option<i64>) -> Result<Bytes, Unwritten> {
        let key = self.call.key();
        let grace = if self.kind() == Kind::Pod { pod_grace(old, grace) } else { 0 };
        if grace == 0 && finalizers(&old.fields) == 0 {
            let gone = self.store.remove(self.kind(), &key, old.version)?;
            admit::removed(self, &gone);
            return Ok(self.deleted(&gone));
        }
        if !old.meta("deletionTimestamp").is_empty() {
            return Ok(old.alone(self.call.served));
        }
        let mut fields = old.fields.clone();
        let when = self.now.saturating_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(self.now);
        edit_metadata(&mut fields, |metadata| {
            metadata.insert("deletionTimestamp".to_owned(), rfc3339(when).into());
            metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
        });
        Ok(self.store.put(self.kind(), &key, fields, Some(old.version))?.alone(self.call.served))
    }

    /// Pods are given back whole; of other kinds only a `Status`.
    fn deleted(&self, gone: &Object) -> Bytes {
        if matches!(self.kind(), Kind::Pod | Kind::ServiceAccount) {
            return gone.alone(self.call.served);
        }
        let mut details = json!({ "name": self.call.name, "kind": self.kind().plural(), "uid": gone.uid() });
        if let (Some(fields), false) = (details.as_object_mut(), self.kind().group().is_empty()) {
            fields.insert("group".to_owned(), self.kind().group().into());
        }
        let status =
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details });
        status.to_string().into()
    }

    fn unwritten(&self, unwritten: Unwritten, name: &str) -> Failure {
        match unwritten {
            Unwritten::Exists => Failure::already_exists(self.kind(), name),
            Unwritten::Missing => Failure::not_found(self.kind(), name),
            Unwritten::Changed => Failure::stale(self.kind(), name),
        }
    }

    pub(crate) fn invalid(&self, name: &str, errors: &[FieldError]) -> Failure {
        Failure::invalid(self.kind().name(), self.kind().group(), name, errors)
    }

    pub(crate) const fn change(&self) -> Change {
        if self.call.status { Change::Status } else { Change::Main }
    }

    fn dry_run(&self) -> bool {
        self.call.query.text("dryRun") == "All"
    }

    pub(crate) fn key_of(&self, name: &str) -> Key {
        (self.call.namespace.clone(), name.to_owned())
    }
}

fn restore(fields: &mut Fields, key: &str, value: Option<Value>) {
    match value {
        Some(value) => fields.insert(key.to_owned(), value),
        None => fields.remove(key),
    };
}

fn finalizers(fields: &Fields) -> usize {
    object::at(fields, &["metadata", "finalizers"]).and_then(Value::as_array).map_or(0, Vec::len)
}

/// A pod on a node is given time; its kubelet deletes it at last, with none.
fn pod_grace(pod: &Object, asked: Option<i64>) -> i64 {
    let bound = !object::text(&pod.fields, &["spec", "nodeName"]).is_empty();
    let finished = matches!(object::text(&pod.fields, &["status", "phase"]), "Succeeded" | "Failed");
    if !bound || finished {
        return 0;
    }
    let own = object::at(&pod.fields, &["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
    asked.or(own).unwrap_or(30).max(0)
}

/// A name that is free, within eight tries (`RetryGenerateName`).
fn generated(prefix: &str, suffix: impl Fn() -> String, is_taken: impl Fn(&str) -> bool) -> String {
    let name = || format!("{prefix}{}", suffix());
    (1..8).map(|_| name()).find(|name| !is_taken(name)).unwrap_or_else(name)
}

/// RFC 7386. Lists are replaced: the one way in which a strategic patch of our clients would differ is avoided by them.
pub(crate) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.clone()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_generated_name_is_free_if_one_of_eight_is() {
        for (free, is_found) in [(1, true), (8, true), (9, false)] {
            let tries = Cell::new(0);
            let suffix = || {
                tries.set(tries.get() + 1);
                tries.get().to_string()
            };
            let name = generated("req-", suffix, |name| name != format!("req-{free}"));
            assert_eq!((name == format!("req-{free}"), tries.get()), (is_found, free.min(8)));
        }
    }
}
