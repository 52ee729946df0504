//! A signer that looks at nothing and denies everything, in a process of its own with the client, the rights and the one PUT of
//! ours: `bench null KUBECONFIG SIGNER_NAME`. What it reaches is what the API server takes.

use std::future::ready;
use std::path::Path;

use futures::{AsyncBufReadExt as _, StreamExt as _};
use http::Request;
use http::header::{ACCEPT, CONTENT_TYPE};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::Deserialize;
use serde_json::json;

/// Answers until it is killed.
pub(crate) async fn run(kubeconfig: &Path, signer: &str) -> ! {
    podmint_devcluster::choose_crypto();
    let file = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let client = podmint_signer::run::client(config.expect("a kubeconfig")).expect("a client can be made");
    let path = format!("{REQUESTS}?watch=true&fieldSelector=spec.signerName%3D{}", signer.replace('/', "%2F"));
    // The API server ends each watch after a while; what was not answered by then comes with the next.
    loop {
        let watch = Request::get(&path).body(Vec::new()).expect("a path is a path");
        let lines = client.request_stream(watch).await.expect("requests can be watched").lines();
        lines
            .take_while(|line| ready(line.is_ok()))
            .filter_map(|line| ready(line.ok().and_then(|line| pending(&line))))
            .for_each_concurrent(IN_FLIGHT, async |(path, body)| {
                let put = Request::put(path).header(CONTENT_TYPE, "application/json").header(ACCEPT, BRIEFLY);
                client.request_text(put.body(body).expect("a path is a path")).await.expect("a denial is taken");
            })
            .await;
    }
}

/// Where the denial of a new request goes, and what it says.
fn pending(line: &str) -> Option<(String, Vec<u8>)> {
    let Event { kind, object: Object { metadata, status } } = serde_json::from_str(line).expect("an event");
    if kind != "ADDED" || status.is_some_and(|status| status.get("conditions").is_some()) {
        return None;
    }
    let Metadata { namespace, name, uid, resource_version, creation_timestamp } = metadata;
    let condition = json!({
        "type": "Denied", "status": "True", "reason": "Null", "message": "nothing is signed here",
        "lastTransitionTime": creation_timestamp,
    });
    let body = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "PodCertificateRequest",
        "metadata": {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": resource_version},
        "status": {"conditions": [condition]},
    });
    let path = format!("/apis/certificates.k8s.io/v1/namespaces/{namespace}/podcertificaterequests/{name}/status");
    Some((path, body.to_string().into_bytes()))
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: Object,
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    status: Option<serde_json::Map<String, serde_json::Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    namespace: String,
    name: String,
    uid: String,
    resource_version: String,
    creation_timestamp: String,
}

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/podcertificaterequests";
/// As many as ours begins with.
const IN_FLIGHT: usize = 16;
const BRIEFLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
