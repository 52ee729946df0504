//! The ClusterTrustBundles of one signer name: reads back what is published, and publishes our root.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    calls::{CallError, Calls},
    following::encode,
    versions::{BUNDLES, GROUP, Version},
};
use crate::{
    config::PodSigner,
    names::{Sha256, SignerName},
};

/// What the API server has under a signer name.
#[derive(Debug)]
pub(crate) struct Bundles {
    /// The one that we write.
    pub(crate) ours: Option<Bundle>,
    /// How many others there are: whoever mounts by signer name alone trusts those, too.
    pub(crate) foreign: usize,
}

/// One of them.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Bundle {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    labels: serde_json::Map<String, Value>,
    #[serde(default)]
    annotations: serde_json::Map<String, Value>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    #[serde(default)]
    signer_name: Option<String>,
    #[serde(default)]
    trust_bundle: String,
}

#[derive(Deserialize)]
struct List {
    items: Option<Vec<Bundle>>,
}

impl Bundle {
    fn is_of(&self, signer: &PodSigner) -> bool {
        self.spec.signer_name.as_deref() == Some(signer.signer_name.as_str())
    }

    /// The PEM that pods get.
    pub(crate) fn text(&self) -> &str {
        &self.spec.trust_bundle
    }

    /// Another one after each write, whoever writes.
    pub(crate) fn version(&self) -> &str {
        &self.metadata.resource_version
    }

    /// The root that signed when we last wrote it.
    pub(crate) fn marked(&self) -> Option<Sha256> {
        self.metadata.annotations.get(SIGNS).and_then(Value::as_str).and_then(Sha256::parse)
    }

    /// Whether pods that mount by label find it.
    pub(crate) fn is_labelled(&self) -> bool {
        self.metadata.labels.get(LABEL).and_then(Value::as_str) == Some(LIVE)
    }
}

/// Reads our bundle by quorum, and counts the others by what the API server's cache knows. A list that is to be as new as etcd would take
/// up to a tenth of a second whenever anything else was written since: the cache asks etcd no more often how far it has come.
pub(crate) async fn read(calls: &Calls, version: Version, signer: &PodSigner) -> Result<Bundles, CallError> {
    let (ours, foreign) = tokio::try_join!(ours(calls, version, signer), foreign(calls, version, signer))?;
    Ok(Bundles { ours, foreign })
}

/// Ours as it is now; none if there is none.
pub(crate) async fn ours(calls: &Calls, version: Version, signer: &PodSigner) -> Result<Option<Bundle>, CallError> {
    match calls.get::<Bundle>(&format!("{}/{}", path(version), encode(&name(signer)))).await {
        Ok(bundle) => Ok(Some(bundle).filter(|bundle| bundle.is_of(signer))),
        Err(error) if error.is_absent() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn foreign(calls: &Calls, version: Version, signer: &PodSigner) -> Result<usize, CallError> {
    let selector = format!("spec.signerName={}", signer.signer_name);
    let path = format!("{}?fieldSelector={}&resourceVersion=0", path(version), encode(&selector));
    let list: List = calls.get(&path).await?;
    let ours = name(signer);
    let others = list.items.unwrap_or_default().into_iter();
    // A server that ignores the selector must not make all others' bundles foreign ones of ours.
    Ok(others.filter(|bundle| bundle.is_of(signer) && bundle.metadata.name != ours).count())
}

/// Writes our bundle: in place of the one that was read, or for the first time.
pub(crate) async fn publish(
    calls: &Calls,
    version: Version,
    signer: &PodSigner,
    before: Option<&Bundle>,
    text: &str,
    signs: Sha256,
) -> Result<(), CallError> {
    let (name, path) = (name(signer), path(version));
    let mut annotations = before.map(|before| before.metadata.annotations.clone()).unwrap_or_default();
    annotations.insert(SIGNS.to_owned(), signs.to_string().into());
    let mut labels = before.map(|before| before.metadata.labels.clone()).unwrap_or_default();
    labels.insert(LABEL.to_owned(), LIVE.into());
    labels.insert("app.kubernetes.io/name".to_owned(), "podmint".into());
    let mut body = json!({
        "apiVersion": format!("{GROUP}/{}", version.as_str()),
        "kind": "ClusterTrustBundle",
        "metadata": {"name": name, "labels": labels, "annotations": annotations},
        "spec": {"signerName": signer.signer_name, "trustBundle": text},
    });
    let Some(before) = before else {
        return calls.create::<Value>(&path, &body).await.map(drop);
    };
    if let Some(metadata) = body.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".to_owned(), before.metadata.resource_version.as_str().into());
    }
    calls.replace::<Value>(&format!("{path}/{}", encode(&name)), &body).await.map(drop)
}

/// `<domain>:<path>:<name>`, as the API server wants it for a bundle with a signer name.
fn name(signer: &PodSigner) -> String {
    let signer_name: &SignerName = &signer.signer_name;
    format!("{}:{}:{}", signer_name.domain(), signer_name.path(), signer.name)
}

fn path(version: Version) -> String {
    format!("/apis/{GROUP}/{}/{BUNDLES}", version.as_str())
}

/// What pods mount by, beside the signer name: a ClusterTrustBundle that somebody else adds under it lacks this.
const LABEL: &str = "podmint.dev/trust";
const LIVE: &str = "live";
/// For the signer alone: whoever replaces both Secrets of the CA by others forgets this.
const SIGNS: &str = "podmint.dev/signing-root";
