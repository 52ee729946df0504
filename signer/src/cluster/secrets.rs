//! Reads and writes the CA's Secrets: creates only what is absent, replaces only what was read. Whoever loses such a race looks
//! again.

use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::ObjectMeta};

use serde::Deserialize;

use super::calls::{CallError, Calls, Part};
use crate::{
    authority::{SecretData, Write},
    names::DnsName,
};

/// The Secrets of one namespace.
#[derive(Clone)]
pub(crate) struct Secrets {
    pub(crate) calls: Calls,
    pub(crate) namespace: String,
}

/// Whether a write took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Done,
    /// Somebody was faster: look again.
    Beaten,
}

impl Secrets {
    /// As it is now, by quorum.
    pub(crate) async fn read(&self, name: &DnsName) -> Result<Option<Secret>, CallError> {
        match self.calls.get(&self.path(name.as_str())).await {
            Ok(secret) => Ok(Some(secret)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Which version of it there is: no key is read.
    pub(crate) async fn version(&self, name: &DnsName) -> Result<Option<String>, CallError> {
        #[derive(Deserialize)]
        struct Object {
            metadata: ObjectMeta,
        }
        match self.calls.get_part::<Object>(&self.path(name.as_str()), Part::Metadata).await {
            Ok(object) => Ok(object.metadata.resource_version),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// `before` is what was read; its resourceVersion guards a replacement.
    pub(crate) async fn write(
        &self,
        name: &DnsName,
        data: SecretData,
        write: Write,
        before: Option<&Secret>,
    ) -> Result<Written, CallError> {
        let written = match (write, before) {
            (Write::Create, _) | (Write::Replace, None) => {
                let metadata = ObjectMeta {
                    name: Some(name.to_string()),
                    labels: Some([("app.kubernetes.io/name".to_owned(), "podmint".to_owned())].into()),
                    ..ObjectMeta::default()
                };
                let secret = Secret { metadata, data: Some(data), type_: Some(TYPE.to_owned()), ..Secret::default() };
                self.calls.create::<Secret>(&self.path(""), &secret).await
            }
            (Write::Replace, Some(before)) => {
                let secret = Secret { data: Some(data), ..before.clone() };
                self.calls.replace::<Secret>(&self.path(name.as_str()), &secret).await
            }
        };
        match written {
            Ok(_) => Ok(Written::Done),
            Err(error) if error.is_conflict() || error.is_absent() => Ok(Written::Beaten),
            Err(error) => Err(error),
        }
    }

    fn path(&self, name: &str) -> String {
        let secrets = format!("/api/v1/namespaces/{}/secrets", self.namespace);
        if name.is_empty() { secrets } else { format!("{secrets}/{name}") }
    }
}

/// So that nobody takes it for a Secret of his own.
const TYPE: &str = "podmint.dev/ca";
