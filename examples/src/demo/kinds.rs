//! The kinds the demo reads and writes, as plain JSON objects of whichever version the API server has.

use anyhow::{Context, Error, Result, anyhow, bail};
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::Value;

/// The certificate kinds, in the version that this API server serves.
#[derive(Debug, Clone)]
pub struct Kinds {
    version: String,
}

impl Kinds {
    /// Asks the API server. v1 where there is one: older kubelets' requests are not made here.
    pub async fn discover(client: &Client) -> Result<Self> {
        let groups =
            client.list_api_groups().await.map_err(told).context("could not ask the API server what it serves")?;
        let served: Vec<String> = groups
            .groups
            .into_iter()
            .filter(|group| group.name == GROUP)
            .flat_map(|group| group.versions)
            .map(|version| version.version)
            .collect();
        for version in ["v1", "v1beta1"].into_iter().filter(|version| served.iter().any(|one| one == version)) {
            let listed = client.list_api_group_resources(&format!("{GROUP}/{version}")).await;
            let listed = listed.map_err(told).context("could not ask the API server what it serves")?.resources;
            let both = ["podcertificaterequests", "clustertrustbundles"];
            if both.iter().all(|kind| listed.iter().any(|resource| resource.name == *kind)) {
                return Ok(Self { version: version.to_owned() });
            }
        }
        bail!(
            "this API server serves no {GROUP} podcertificaterequests and clustertrustbundles: it takes Kubernetes 1.37, or 1.35 and \
             1.36 with the feature gates PodCertificateRequest and ClusterTrustBundle and \
             --runtime-config={GROUP}/v1beta1=true"
        )
    }

    /// `v1` or `v1beta1`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// PodCertificateRequest.
    #[must_use]
    pub fn request(&self) -> ApiResource {
        resource(GROUP, &self.version, "PodCertificateRequest", "podcertificaterequests")
    }

    /// ClusterTrustBundle.
    #[must_use]
    pub fn bundle(&self) -> ApiResource {
        resource(GROUP, &self.version, "ClusterTrustBundle", "clustertrustbundles")
    }
}

const GROUP: &str = "certificates.k8s.io";

/// A kind by its names.
#[must_use]
pub fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural)
}

/// A kind of the core group.
#[must_use]
pub fn core(kind: &str, plural: &str) -> ApiResource {
    resource("", "v1", kind, plural)
}

/// The objects of a kind in a namespace; with the empty namespace, those that live in none.
#[must_use]
pub fn api(client: &Client, kind: &ApiResource, namespace: &str) -> Api<DynamicObject> {
    match namespace {
        "" => Api::all_with(client.clone(), kind),
        namespace => Api::namespaced_with(client.clone(), namespace, kind),
    }
}

/// Creates an object and returns it as the API server keeps it.
pub async fn create(client: &Client, kind: &ApiResource, object: Value) -> Result<DynamicObject> {
    let object: DynamicObject = serde_json::from_value(object).context("an object of the demo is malformed")?;
    let namespace = object.metadata.namespace.clone().unwrap_or_default();
    let name = object.metadata.name.clone().unwrap_or_default();
    let made = api(client, kind, &namespace).create(&kube::api::PostParams::default(), &object).await;
    made.map_err(told).with_context(|| format!("could not create {} {namespace}/{name}", kind.kind))
}

/// What the API server said, without the object it said it in.
#[must_use]
pub fn told(error: kube::Error) -> Error {
    if let kube::Error::Api(status) = &error {
        anyhow!("{} (HTTP {})", status.message, status.code)
    } else {
        error.into()
    }
}
