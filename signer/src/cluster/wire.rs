//! A PodCertificateRequest as it comes over the wire, in any version that we speak: `v1`, `v1beta1` of Kubernetes 1.36 (stub
//! PKCS#10) and `v1beta1` of 1.35 (public key and proof). Reading never fails on a strange object: what is missing or of the wrong
//! type is remembered as such, so that one malformed object spoils neither a list nor a watch. [`Claim`](crate::pipeline::claim)
//! is what judges it.
//!
//! Only what the walk needs is kept. Of the metadata that is six fields: no owners, labels, annotations or managed fields.

use std::{borrow::Cow, fmt, marker::PhantomData};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::{ApiResource, DynamicResourceScope, ObjectMeta, Resource};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use crate::names::{NameError, Namespace, RequestName, RequestUid, ResourceVersion};

/// A PodCertificateRequest, read leniently.
#[derive(Clone, Debug, Default)]
pub struct RequestObject {
    metadata: ObjectMeta,
    pub(crate) spec: Spec,
    pub(crate) status: Status,
}

/// Which object an answer is written to: all that the one PUT needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The pod's namespace, and the request's.
    pub namespace: Namespace,
    /// The request.
    pub name: RequestName,
    /// Sent along, so that a namesake is not answered in its place.
    pub uid: RequestUid,
    /// Sent along, so that a lost race is noticed.
    pub resource_version: ResourceVersion,
}

/// What a request's status says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not answered.
    Pending,
    /// Answered with a certificate.
    Issued,
    /// Refused for ever.
    Denied,
    /// Given up by somebody: Podmint never writes this.
    Failed,
}

impl RequestObject {
    /// Where an answer goes. An object that lacks one of these cannot be answered: skip, count and log it.
    pub fn target(&self) -> Result<Target, NameError> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        Ok(Target {
            namespace: Namespace::parse(&text(&self.metadata.namespace))?,
            name: RequestName::parse(&text(&self.metadata.name))?,
            uid: RequestUid::parse(&text(&self.metadata.uid))?,
            resource_version: ResourceVersion::parse(&text(&self.metadata.resource_version))?,
        })
    }

    /// The signer that is asked. One comparison of text, to be done before anything else.
    pub fn signer_name(&self) -> Option<&str> {
        self.spec.signer_name.text()
    }

    /// By condition, not by the presence of a chain. Of several terminal ones, which the API server does not allow, the first.
    pub fn state(&self) -> State {
        self.status.conditions.iter().find_map(Condition::terminal).unwrap_or(State::Pending)
    }

    /// When the API server took the request.
    pub fn created(&self) -> Option<jiff::Timestamp> {
        self.metadata.creation_timestamp.as_ref().map(|time| time.0)
    }

    /// Whether somebody deleted it and a finalizer holds it.
    pub fn is_deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// The PEM that was issued: to recognise certificates that are not ours.
    pub fn certificate_chain(&self) -> Option<&str> {
        self.status.certificate_chain.text()
    }
}

impl Resource for RequestObject {
    type DynamicType = ApiResource;
    type Scope = DynamicResourceScope;

    fn kind(api: &ApiResource) -> Cow<'_, str> {
        api.kind.as_str().into()
    }

    fn group(api: &ApiResource) -> Cow<'_, str> {
        api.group.as_str().into()
    }

    fn version(api: &ApiResource) -> Cow<'_, str> {
        api.version.as_str().into()
    }

    fn api_version(api: &ApiResource) -> Cow<'_, str> {
        api.api_version.as_str().into()
    }

    fn plural(api: &ApiResource) -> Cow<'_, str> {
        api.plural.as_str().into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// A field as it was found. `null` and an absent key are the same thing; an empty text is not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Field<T> {
    #[default]
    Absent,
    Wrong,
    Good(T),
}

impl<T> Field<T> {
    fn good(self) -> Option<T> {
        match self {
            Self::Good(value) => Some(value),
            Self::Absent | Self::Wrong => None,
        }
    }
}

impl Field<Box<str>> {
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Good(text) => Some(text),
            Self::Absent | Self::Wrong => None,
        }
    }
}

/// Declares an object whose fields are read one by one: a wrong one does not hide the others, an unknown one is skipped
/// without keeping it, of a repeated one the last counts, as in Go.
macro_rules! lenient {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty = $key:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default)]
        pub(crate) struct $name { $(pub(crate) $field: $type,)* }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'de> Visitor<'de> for Fields {
                    type Value = $name;

                    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                        out.write_str("an object")
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$name, A::Error> {
                        let mut object = $name::default();
                        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
                            match &*key {
                                $($key => object.$field = map.next_value()?,)*
                                _ => { map.next_value::<IgnoredAny>()?; }
                            }
                        }
                        Ok(object)
                    }
                }
                input.deserialize_map(Fields)
            }
        }
    };
}

lenient!(Metadata {
    name: Field<Box<str>> = "name",
    namespace: Field<Box<str>> = "namespace",
    uid: Field<Box<str>> = "uid",
    resource_version: Field<Box<str>> = "resourceVersion",
    creation_timestamp: Field<Box<str>> = "creationTimestamp",
    deletion_timestamp: Field<Box<str>> = "deletionTimestamp",
});

lenient!(
    /// What is asked for. Every field of every version.
    Spec {
        signer_name: Field<Box<str>> = "signerName",
        pod_name: Field<Box<str>> = "podName",
        pod_uid: Field<Box<str>> = "podUID",
        service_account_name: Field<Box<str>> = "serviceAccountName",
        service_account_uid: Field<Box<str>> = "serviceAccountUID",
        node_name: Field<Box<str>> = "nodeName",
        node_uid: Field<Box<str>> = "nodeUID",
        max_expiration_seconds: Field<i64> = "maxExpirationSeconds",
        stub_pkcs10_request: Field<Box<str>> = "stubPKCS10Request",
        pkix_public_key: Field<Box<str>> = "pkixPublicKey",
        proof_of_possession: Field<Box<str>> = "proofOfPossession",
        annotations: Field<Annotations> = "unverifiedUserAnnotations",
    }
);

lenient!(
    /// What was answered.
    Status {
        conditions: Conditions = "conditions",
        certificate_chain: Field<Box<str>> = "certificateChain",
    }
);

lenient!(Condition {
    kind: Field<Box<str>> = "type",
    status: Field<Box<str>> = "status",
});

lenient!(Whole {
    metadata: Field<Metadata> = "metadata",
    spec: Field<Spec> = "spec",
    status: Field<Status> = "status",
});

impl Condition {
    fn terminal(&self) -> Option<State> {
        if self.status.text() != Some("True") {
            return None;
        }
        match self.kind.text()? {
            "Issued" => Some(State::Issued),
            "Denied" => Some(State::Denied),
            "Failed" => Some(State::Failed),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for RequestObject {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        // Through `Field`, so that an item that is no object at all is an empty request, not a broken list.
        let Whole { metadata, spec, status } = Field::<Whole>::deserialize(input)?.good().unwrap_or_default();
        Ok(Self {
            metadata: metadata.good().unwrap_or_default().into(),
            spec: spec.good().unwrap_or_default(),
            status: status.good().unwrap_or_default(),
        })
    }
}

impl From<Metadata> for ObjectMeta {
    fn from(found: Metadata) -> Self {
        let Metadata { name, namespace, uid, resource_version, creation_timestamp, deletion_timestamp } = found;
        let text = |field: Field<Box<str>>| field.good().map(String::from);
        let time = |field: Field<Box<str>>| Some(Time(field.text()?.parse().ok()?));
        Self {
            name: text(name),
            namespace: text(namespace),
            uid: text(uid),
            resource_version: text(resource_version),
            creation_timestamp: time(creation_timestamp),
            deletion_timestamp: time(deletion_timestamp),
            ..Self::default()
        }
    }
}

/// Text to text; a value of another type makes the whole wrong.
pub(crate) type Annotations = Vec<(Box<str>, Box<str>)>;

/// A list; an item that is no condition says nothing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conditions(Vec<Condition>);

impl Conditions {
    fn iter(&self) -> impl Iterator<Item = &Condition> {
        self.0.iter()
    }
}

impl<'de> Deserialize<'de> for Conditions {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        let found = Field::<Vec<Field<Condition>>>::deserialize(input)?.good().unwrap_or_default();
        Ok(Self(found.into_iter().filter_map(Field::good).collect()))
    }
}

/// What a [`Field`] may hold. Each of them takes one shape of JSON; of all others [`Field`] says that they are wrong.
pub(crate) trait Shape<'de>: Sized {
    fn of_text(_: &str) -> Field<Self> {
        Field::Wrong
    }

    fn of_number(_: i64) -> Field<Self> {
        Field::Wrong
    }

    fn of_map<A: MapAccess<'de>>(map: A) -> Result<Field<Self>, A::Error> {
        skip_map(map).map(|()| Field::Wrong)
    }

    fn of_list<A: SeqAccess<'de>>(list: A) -> Result<Field<Self>, A::Error> {
        skip_list(list).map(|()| Field::Wrong)
    }
}

impl Shape<'_> for Box<str> {
    fn of_text(text: &str) -> Field<Self> {
        Field::Good(text.into())
    }
}

impl Shape<'_> for i64 {
    fn of_number(number: i64) -> Field<Self> {
        Field::Good(number)
    }
}

impl<'de> Shape<'de> for Annotations {
    fn of_map<A: MapAccess<'de>>(mut map: A) -> Result<Field<Self>, A::Error> {
        let mut annotations = Vec::new();
        let mut good = true;
        while let Some((key, value)) = map.next_entry::<Cow<'de, str>, Field<Box<str>>>()? {
            match value.good() {
                Some(value) => annotations.push((Box::from(&*key), value)),
                None => good = false,
            }
        }
        Ok(if good { Field::Good(annotations) } else { Field::Wrong })
    }
}

impl<'de> Shape<'de> for Vec<Field<Condition>> {
    fn of_list<A: SeqAccess<'de>>(mut list: A) -> Result<Field<Self>, A::Error> {
        let mut items = Self::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Field::Good(items))
    }
}

macro_rules! object_shape {
    ($($name:ident)*) => {$(
        impl<'de> Shape<'de> for $name {
            fn of_map<A: MapAccess<'de>>(map: A) -> Result<Field<Self>, A::Error> {
                Self::deserialize(MapAccessDeserializer::new(map)).map(Field::Good)
            }
        }
    )*};
}

object_shape!(Whole Metadata Spec Status Condition);

impl<'de, T: Shape<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Self, D::Error> {
        struct Any<T>(PhantomData<T>);

        impl<'de, T: Shape<'de>> Visitor<'de> for Any<T> {
            type Value = Field<T>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("any value")
            }

            fn visit_unit<E: Error>(self) -> Result<Field<T>, E> {
                Ok(Field::Absent)
            }

            fn visit_bool<E: Error>(self, _: bool) -> Result<Field<T>, E> {
                Ok(Field::Wrong)
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Field<T>, E> {
                Ok(T::of_number(number))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Field<T>, E> {
                Ok(i64::try_from(number).map_or(Field::Wrong, T::of_number))
            }

            fn visit_f64<E: Error>(self, _: f64) -> Result<Field<T>, E> {
                Ok(Field::Wrong)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Field<T>, E> {
                Ok(T::of_text(text))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Field<T>, A::Error> {
                T::of_map(map)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Field<T>, A::Error> {
                T::of_list(list)
            }
        }

        input.deserialize_any(Any(PhantomData))
    }
}

fn skip_map<'de, A: MapAccess<'de>>(mut map: A) -> Result<(), A::Error> {
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

fn skip_list<'de, A: SeqAccess<'de>>(mut list: A) -> Result<(), A::Error> {
    while list.next_element::<IgnoredAny>()?.is_some() {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use kube::core::ObjectList;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::pipeline::honest::{object, request};

    #[test]
    fn what_is_needed_is_read_and_nothing_else_is_kept() {
        let object = object(request());
        let target = object.target().unwrap();
        assert_eq!(target.namespace.as_str(), "shop");
        assert_eq!(target.name.as_str(), "req-x7k2p");
        assert_eq!(target.uid.as_str(), "b1e6a0f2-9d53-4c1b-8a71-2f0c6e5d4a33");
        assert_eq!(target.resource_version.as_str(), "4711");
        assert_eq!(object.signer_name(), Some("podmint.dev/workload"));
        assert_eq!(object.created().unwrap().to_string(), "2026-11-23T18:59:59Z");
        assert_eq!(object.state(), State::Pending);
        assert_eq!(object.meta().managed_fields, None);
        assert!(!object.is_deleting());
    }

    #[test]
    fn the_state_is_told_by_the_condition_that_is_true() {
        let state = |conditions: Value| {
            let mut request = request();
            request["status"] = json!({"conditions": conditions, "certificateChain": "PEM"});
            object(request).state()
        };
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status});
        assert_eq!(state(json!([condition("Issued", "True")])), State::Issued);
        assert_eq!(state(json!([condition("Denied", "True")])), State::Denied);
        assert_eq!(state(json!([condition("Failed", "True")])), State::Failed);
        assert_eq!(state(json!([condition("Issued", "False")])), State::Pending, "not by the chain");
        assert_eq!(state(json!([condition("Odd", "True"), 7, null, condition("Denied", "True")])), State::Denied);
        assert_eq!(state(json!("Issued")), State::Pending);
        assert_eq!(state(json!(null)), State::Pending);
    }

    #[test]
    fn one_malformed_object_does_not_spoil_a_list() {
        let odd = [
            json!(null),
            json!(7),
            json!([]),
            json!({}),
            json!({"metadata": 1, "spec": [], "status": "x"}),
            json!({"metadata": {"name": {}, "uid": 3, "creationTimestamp": "yesterday"}, "spec": {"signerName": ["a"]}}),
            json!({"spec": {"unverifiedUserAnnotations": {"a/b": 1}, "maxExpirationSeconds": 1e99}}),
        ];
        let mut items = odd.to_vec();
        items.push(request());
        let list = json!({"kind": "L", "apiVersion": "v1", "metadata": {"resourceVersion": "9"}, "items": items});
        let list: ObjectList<RequestObject> = serde_json::from_value(list).unwrap();
        assert_eq!(list.items.len(), odd.len() + 1);
        let (good, odd) = list.items.split_last().unwrap();
        assert!(good.target().is_ok());
        assert!(odd.iter().all(|object| object.target().is_err()));
    }

    #[test]
    fn absent_null_and_wrong_are_not_empty() {
        let spec: Spec = serde_json::from_value(json!({"podName": null, "podUID": 3, "nodeName": ""})).unwrap();
        assert_eq!(spec.pod_name, Field::Absent);
        assert_eq!(spec.node_uid, Field::Absent);
        assert_eq!(spec.pod_uid, Field::Wrong);
        assert_eq!(spec.node_name, Field::Good("".into()));
    }

    #[test]
    fn of_a_repeated_key_the_last_counts_as_in_go() {
        let spec: Spec = serde_json::from_str(r#"{"podName": "a", "podName": "b"}"#).unwrap();
        assert_eq!(spec.pod_name.text(), Some("b"));
    }

    proptest! {
        #[test]
        fn any_json_is_read(text in json_text()) {
            let parsed: Result<RequestObject, _> = serde_json::from_str(&text);
            prop_assert!(parsed.is_ok(), "{}", text);
        }
    }

    /// JSON of any shape that uses the keys we look for.
    fn json_text() -> impl Strategy<Value = String> {
        let keys = [
            "metadata",
            "spec",
            "status",
            "name",
            "uid",
            "signerName",
            "conditions",
            "type",
            "podUID",
            "x",
            "maxExpirationSeconds",
            "unverifiedUserAnnotations",
            "creationTimestamp",
            "stubPKCS10Request",
        ];
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        let tree = leaf.prop_recursive(4, 64, 8, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::hash_map(prop::sample::select(keys.to_vec()).prop_map(str::to_owned), inner, 0..8)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        tree.prop_map(|value| value.to_string())
    }
}
