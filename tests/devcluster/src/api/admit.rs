//! What differs between kinds when they are written: defaults, admission, validation, and what follows from a write.

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::access::{restrict_request, signs};
use super::failure::{Answer, Failure, FieldError};
use super::kind::Kind;
use super::object::{Fields, Object, at, edit_metadata, meta, text};
use super::store::{Key, Store};
use super::write::Write;
use crate::clock::{rfc3339, uuid};
use crate::options::{Identity, Versions};
use crate::rules::answer::{self, Status};
use crate::rules::request::{self, KeyMaterial, Spec};
use crate::rules::{bundle, names, pod};

/// Which half of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Main,
    Status,
}

/// Before an object is made.
pub(crate) fn create(write: &Write<'_>, name: &str, fields: &mut Fields) -> Answer<()> {
    match write.call.served.kind {
        Kind::Request => create_request(write, name, fields),
        Kind::TrustBundle => create_bundle(write, name, fields),
        Kind::Pod => create_pod(write, name, fields),
        Kind::Namespace => {
            fields.insert("status".to_owned(), json!({ "phase": "Active" }));
            checked(write, name, &named(names::dns_label, name))
        }
        Kind::Node | Kind::ServiceAccount | Kind::Secret | Kind::ConfigMap | Kind::Lease | Kind::Event => {
            encode_string_data(fields);
            checked(write, name, &named(names::dns_subdomain, name))
        }
        Kind::Service => checked(write, name, &named(names::dns_label, name)),
        Kind::Policy | Kind::PolicyBinding => checked(write, name, &named(names::dns_subdomain, name)),
        Kind::PodSigner => {
            // As of every custom resource with a status of its own. The CRD's schema is a matter for the real server.
            fields.remove("status");
            checked(write, name, &named(names::dns_subdomain, name))
        }
    }
}

/// Before an object is changed.
pub(crate) fn update(write: &Write<'_>, old: &Object, new: &mut Fields) -> Answer<()> {
    let name = write.call.name.as_str();
    match (write.call.served.kind, write.change()) {
        (Kind::Request, Change::Status) => request_status(write, old, new),
        (Kind::Request, Change::Main) => {
            let spec: Spec = decoded(write, new, "spec")?;
            let stored: Spec = decoded(write, &old.fields, "spec")?;
            let errors: Vec<FieldError> = request::update(&spec, &stored).into_iter().collect();
            encoded(new, "spec", &spec);
            checked(write, name, &errors)
        }
        (Kind::TrustBundle, _) => {
            attest(write, text(new, &["spec", "signerName"]), name)?;
            let pair = |key: &'static str| (text(new, &["spec", key]), text(&old.fields, &["spec", key]));
            checked(write, name, &bundle::update(name, pair("signerName"), pair("trustBundle")))
        }
        (Kind::Pod, Change::Main) => checked(write, name, &changed_pod(old, new)),
        (Kind::Secret, _) => {
            encode_string_data(new);
            Ok(())
        }
        (Kind::PodSigner, Change::Main) => {
            count_change(old, new);
            Ok(())
        }
        (_, Change::Main | Change::Status) => Ok(()),
    }
}

/// Another spec is another generation.
fn count_change(old: &Object, new: &mut Fields) {
    if new.get("spec") != old.fields.get("spec") {
        let before = at(&old.fields, &["metadata", "generation"]).and_then(Value::as_i64).unwrap_or(0);
        edit_metadata(new, |metadata| {
            metadata.insert("generation".to_owned(), before.saturating_add(1).into());
        });
    }
}

fn checked(write: &Write<'_>, name: &str, errors: &[FieldError]) -> Answer<()> {
    if errors.is_empty() { Ok(()) } else { Err(write.invalid(name, errors)) }
}

fn named(check: fn(&str) -> Vec<String>, name: &str) -> Vec<FieldError> {
    check(name).iter().map(|wrong| FieldError::invalid("metadata.name", name, wrong)).collect()
}

/// Reads a part of an object as the Go type would be read: unknown fields vanish, wrong types are refused.
fn decoded<T: DeserializeOwned + Default>(write: &Write<'_>, fields: &Fields, part: &str) -> Answer<T> {
    let Some(value) = fields.get(part).filter(|value| !value.is_null()) else { return Ok(T::default()) };
    T::deserialize(value).map_err(|error| {
        let served = write.call.served;
        Failure::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: json: cannot unmarshal {part}: {error}",
            served.kind.name(),
            served.version,
            served.kind.name()
        ))
    })
}

fn encoded<T: serde::Serialize>(fields: &mut Fields, part: &str, value: &T) {
    fields.insert(part.to_owned(), serde_json::to_value(value).unwrap_or_default());
}

/// C1-C12; then NodeRestriction if the caller is a node. The real server admits before it validates.
fn create_request(write: &Write<'_>, name: &str, fields: &mut Fields) -> Answer<()> {
    let mut spec: Spec = decoded(write, fields, "spec")?;
    let versions = write.options.versions;
    let material = match versions {
        Versions::V1_35 => KeyMaterial::ProofOnly,
        Versions::V1_36 | Versions::V1_37 | Versions::V1_37WithBeta => KeyMaterial::StubOrProof,
    };
    if material == KeyMaterial::ProofOnly {
        // A field that release does not know.
        spec.stub = request::Base64::default();
    }
    request::default(&mut spec);
    encoded(fields, "spec", &spec);
    fields.insert("status".to_owned(), json!({}));
    if let (Identity::Node(node), true) = (write.who, write.options.node_restriction) {
        let since_1_37 = matches!(versions, Versions::V1_37 | Versions::V1_37WithBeta);
        restrict_request(write.store, node, &write.call.namespace, fields, since_1_37)?;
    }
    checked(write, name, &request::create(name, &spec, material))
}

/// S1-S19.
fn request_status(write: &Write<'_>, old: &Object, new: &mut Fields) -> Answer<()> {
    let name = write.call.name.as_str();
    let spec: Spec = decoded(write, &old.fields, "spec")?;
    let before: Status = decoded(write, &old.fields, "status")?;
    let after: Status = decoded(write, new, "status")?;
    checked(write, name, &answer::update(&after, &before, &spec, write.now))?;
    if after != before && !signs(write.options, write.who) {
        // Not a 403: the check sits among the validations.
        let detail =
            format!("User {:?} is not permitted to \"sign\" for signer {:?}", write.who.user_name(), spec.signer_name);
        return Err(write.invalid(name, &[FieldError::forbidden("spec.signerName", &detail)]));
    }
    encoded(new, "status", &after);
    whole_seconds(new);
    Ok(())
}

/// Times in the API are whole seconds, whatever was sent.
fn whole_seconds(fields: &mut Fields) {
    let Some(status) = fields.get_mut("status").and_then(Value::as_object_mut) else { return };
    for key in ["notBefore", "beginRefreshAt", "notAfter"] {
        if let Some(value) = status.get_mut(key) {
            shorten(value);
        }
    }
    let conditions = status.get_mut("conditions").and_then(Value::as_array_mut);
    for time in conditions.into_iter().flatten().filter_map(|condition| condition.get_mut("lastTransitionTime")) {
        shorten(time);
    }
}

fn shorten(value: &mut Value) {
    if let Some(time) = value.as_str().and_then(|text| text.parse().ok()) {
        *value = rfc3339(time).into();
    }
}

fn create_bundle(write: &Write<'_>, name: &str, fields: &Fields) -> Answer<()> {
    let signer = text(fields, &["spec", "signerName"]);
    attest(write, signer, name)?;
    checked(write, name, &bundle::create(name, signer, text(fields, &["spec", "trustBundle"])))
}

/// B6.
fn attest(write: &Write<'_>, signer: &str, name: &str) -> Answer<()> {
    if signer.is_empty() || signs(write.options, write.who) {
        return Ok(());
    }
    let cause = format!("user not permitted to attest for signerName {signer:?}");
    Err(Failure::forbidden(Kind::TrustBundle, name, &cause))
}

/// Defaults and the ServiceAccount plugin; then the rules for projected credentials.
fn create_pod(write: &Write<'_>, name: &str, fields: &mut Fields) -> Answer<()> {
    let spec = fields.entry("spec").or_insert_with(|| json!({}));
    let Some(spec) = spec.as_object_mut() else { return Err(Failure::bad_request("spec is not an object")) };
    spec.entry("restartPolicy").or_insert("Always".into());
    let account = spec.entry("serviceAccountName").or_insert("default".into()).as_str().unwrap_or_default().to_owned();
    fields.insert("status".to_owned(), json!({ "phase": "Pending" }));
    if write.store.get(Kind::ServiceAccount, &write.key_of(&account)).is_none() {
        let cause = format!(
            "error looking up service account {}/{account}: serviceaccount {account:?} not found",
            write.call.namespace
        );
        return Err(Failure::forbidden(Kind::Pod, name, &cause));
    }
    let mut errors = named(names::dns_subdomain, name);
    let containers = at(fields, &["spec", "containers"]).and_then(Value::as_array).map_or(0, Vec::len);
    if containers == 0 {
        errors.push(FieldError::required("spec.containers", ""));
    }
    errors.extend(pod::create(fields));
    checked(write, name, &errors)
}

/// Of a running pod's spec little may change; nothing of it concerns us.
fn changed_pod(old: &Object, new: &Fields) -> Vec<FieldError> {
    let fixed = ["volumes", "nodeName", "serviceAccountName", "restartPolicy"];
    let part = |fields: &Fields, key: &str| at(fields, &["spec", key]).cloned();
    let binds = text(&old.fields, &["spec", "nodeName"]).is_empty();
    let changed =
        fixed.iter().filter(|key| !(binds && **key == "nodeName")).any(|key| part(&old.fields, key) != part(new, key));
    let detail = "pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, \
                  `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations), \
                  `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    if changed { vec![FieldError::forbidden("spec", detail)] } else { Vec::new() }
}

/// `stringData` of a Secret becomes `data`.
fn encode_string_data(fields: &mut Fields) {
    use base64::Engine as _;
    let Some(Value::Object(plain)) = fields.remove("stringData") else { return };
    let data = fields.entry("data").or_insert_with(|| json!({}));
    let Some(data) = data.as_object_mut() else { return };
    for (key, value) in plain {
        let encoded = base64::engine::general_purpose::STANDARD.encode(value.as_str().unwrap_or_default());
        data.insert(key, encoded.into());
    }
}

/// What controllers make after a write, if they run: a default service account in each namespace.
pub(crate) fn created(write: &Write<'_>, key: &Key) {
    if write.options.controllers && write.call.served.kind == Kind::Namespace {
        default_account(write.store, &key.1, &rfc3339(write.now));
    }
}

/// A namespace's default service account.
pub(crate) fn default_account(store: &Store, namespace: &str, created: &str) {
    let account = json!({ "metadata": {
        "name": "default", "namespace": namespace, "uid": uuid(), "creationTimestamp": created, "generation": 1
    } });
    if let Value::Object(fields) = account
        && store.put(Kind::ServiceAccount, &(namespace.to_owned(), "default".to_owned()), fields, None).is_err()
    {
        tracing::debug!(namespace, "the default service account was there already");
    }
}

/// What controllers remove after a deletion, if they run: what an owner or a namespace leaves behind.
pub(crate) fn removed(write: &Write<'_>, gone: &Object) {
    if !write.options.controllers {
        return;
    }
    let namespace = (write.call.served.kind == Kind::Namespace).then(|| gone.meta("name"));
    for kind in Kind::all().into_iter().filter(|kind| kind.namespaced()) {
        let (all, _) = write.store.all(kind);
        for (key, object) in all {
            if (namespace == Some(key.0.as_str()) || owned_by(&object, gone.uid()))
                && write.store.remove(kind, &key, object.version).is_err()
            {
                tracing::debug!(
                    kind = kind.name(),
                    name = meta(&object.fields, "name"),
                    "changed while it was tidied up"
                );
            }
        }
    }
}

fn owned_by(object: &Object, uid: &str) -> bool {
    let owners = at(&object.fields, &["metadata", "ownerReferences"]).and_then(Value::as_array);
    owners.is_some_and(|owners| owners.iter().any(|owner| owner.get("uid").and_then(Value::as_str) == Some(uid)))
}
