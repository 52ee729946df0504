//! The committed CRD is the generated one, and the schema speaks of the same fields as the checks of `config` do.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::{
    config::Config,
    pipeline::{self, honest::domains},
};

fn schema() -> Value {
    serde_json::to_value(&crd().spec.versions[0].schema).unwrap()["openAPIV3Schema"].clone()
}

#[test]
fn the_committed_crd_is_the_generated_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/podmint/crds/podsigners.yaml");
    let committed: Value = serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert_eq!(committed, serde_json::to_value(crd()).unwrap(), "run deploy/check --render and look at what changes");
}

/// The checks name all keys that they know to whoever writes one that they do not.
fn known_keys(documents: &[Value], place: &str) -> BTreeSet<String> {
    let mut document = documents.iter().find(|document| document.pointer(place).is_some()).unwrap().clone();
    document.pointer_mut(place).unwrap()["zzzzzzzz"] = json!(1);
    let error = Config::parse(&document.to_string(), &domains()).unwrap_err().to_string();
    let (_, keys) = error.split_once("the keys are ").unwrap_or_else(|| panic!("{place}: {error}"));
    keys.split(", ").map(str::to_owned).collect()
}

fn compare(schema: &Value, documents: &[Value], place: &str) {
    for (name, property) in schema["properties"].as_object().unwrap() {
        let place = format!("{place}/{name}");
        if property["properties"].is_object() {
            compare(property, documents, &place);
        } else if property["items"]["properties"].is_object() {
            compare(&property["items"], documents, &format!("{place}/0"));
        }
    }
    let keys: BTreeSet<String> = schema["properties"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, known_keys(documents, place), "of {place}: schema (left) and config/check.rs (right)");
}

#[test]
fn schema_and_checks_know_the_same_keys() {
    let spec = json!({
        "signerName": "podmint.dev/a", "trustDomain": "a.example",
        "allow": [{
            "name": "a", "namespaces": ["a"], "serviceAccounts": ["a"], "namespaceSelector": {"matchLabels": {"a": "b"}},
            "nodeSelector": {"matchLabels": {"a": "b"}}, "lifetime": {"max": "6h"}, "requests": {},
        }],
        "lifetime": {}, "authority": {"selfManaged": {}}, "profile": {"subject": {}},
    });
    // A CA comes from one place, so that no document names them all.
    let of = |authority: Value| {
        let mut spec = spec.clone();
        spec["authority"] = authority;
        json!({"apiVersion": "podmint.dev/v1alpha1", "kind": "PodSigner", "metadata": {"name": "a"}, "spec": spec})
    };
    let brought = [json!({"secret": {"name": "b"}}), json!({"files": {"directory": "/b"}})];
    let documents: Vec<Value> = [spec["authority"].clone()].into_iter().chain(brought).map(of).collect();
    compare(&schema()["properties"]["spec"], &documents, "/spec");
}

#[test]
fn the_defaults_of_the_schema_are_those_of_the_checks() {
    let mut spec = json!({"signerName": "podmint.dev/a", "trustDomain": "a.example"});
    let parse = |spec: &Value| {
        let document =
            json!({"apiVersion": "podmint.dev/v1alpha1", "kind": "PodSigner", "metadata": {"name": "a"}, "spec": spec});
        Config::parse(&document.to_string(), &domains()).unwrap().signers()[0].clone()
    };
    let ours = parse(&spec);
    let properties = schema()["properties"]["spec"]["properties"].clone();
    for (name, property) in properties.as_object().unwrap() {
        if let Some(default) = property.get("default") {
            spec[name] = default.clone();
        }
    }
    assert!(spec["lifetime"]["max"].is_string() && spec.get("authority").is_none(), "{spec}");
    assert_eq!(parse(&spec), ours);
}

#[test]
fn the_schema_knows_every_kind_of_key() {
    let items = &schema()["properties"]["spec"]["properties"]["keyTypes"]["items"]["enum"];
    assert_eq!(*items, json!(pipeline::KeyType::ALL.map(pipeline::KeyType::as_str)));
}

/// The paths of all fields of a schema.
fn fields(schema: &Value, at: &str, found: &mut BTreeSet<String>, whole: &Value) {
    let schema = match schema["$ref"].as_str() {
        Some(place) => whole.pointer(place.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    let inner = [&schema["properties"], &schema["items"]["properties"]].into_iter().find_map(Value::as_object);
    for (name, field) in inner.into_iter().flatten() {
        found.insert(format!("{at}{name}"));
        fields(field, &format!("{at}{name}."), found, whole);
    }
}

#[test]
fn the_values_of_the_chart_are_the_fields_of_the_spec() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/helm/podmint/values.schema.json");
    let values: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (mut of_chart, mut of_spec) = (BTreeSet::from(["signerName".to_owned()]), BTreeSet::new());
    let signer = values["properties"]["signers"]["patternProperties"].as_object().unwrap().values().next().unwrap();
    fields(signer, "", &mut of_chart, &values);
    fields(&schema()["properties"]["spec"], "", &mut of_spec, &Value::Null);
    assert_eq!(of_chart, of_spec, "values.schema.json (left) and resource.rs (right)");
}
