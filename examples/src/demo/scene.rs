//! Who plays: the names of everything the demo makes, and the objects as they are sent to the API server.

use serde_json::{Value, json};

/// The signer all of this is about.
pub const SIGNER_NAME: &str = "podmint.dev/demo";
/// What identities begin with, behind `spiffe://`.
pub const TRUST_DOMAIN: &str = "demo.podmint.dev";
/// Where the signer keeps its Secrets and its Lease: the names of `deploy/kustomize/rbac.yaml`.
pub const SIGNER_NAMESPACE: &str = "podmint-system";
/// The signer's service account.
pub const SIGNER_ACCOUNT: &str = "podmint-signer";
/// The volume with credentials and roots, in each pod.
pub const VOLUME: &str = "podmint";
/// The two nodes. The server runs on the first, everything else on the second.
pub const NODES: [&str; 2] = ["demo-node-a", "demo-node-b"];
/// Somebody who may create certificate requests but is no kubelet.
pub const INTRUDER: &str = "demo-intruder";
/// On everything the demo makes, so that it can be found and removed.
pub const LABEL: (&str, &str) = ("podmint.dev/part-of", "demo");

/// A pod of the demo. Its service account has the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Player {
    /// Its namespace.
    pub namespace: &'static str,
    /// Its name, and that of its service account.
    pub name: &'static str,
    /// The node it is bound to.
    pub node: &'static str,
}

/// Answers over mTLS.
pub const SERVER: Player = Player { namespace: "demo-pay", name: "echo-server", node: NODES[0] };
/// Asks over mTLS.
pub const CLIENT: Player = Player { namespace: "demo-shop", name: "echo-client", node: NODES[1] };
/// In a namespace that no rule admits: the signer holds its request.
pub const NEWCOMER: Player = Player { namespace: "demo-lab", name: "newcomer", node: NODES[1] };
/// All of them.
pub const PLAYERS: [Player; 3] = [SERVER, CLIENT, NEWCOMER];

impl Player {
    /// The identity its certificate is to carry.
    #[must_use]
    pub fn spiffe_id(&self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/{}", self.namespace, self.name)
    }

    /// The pod: credentials and roots in one projected volume.
    #[must_use]
    pub fn pod(&self) -> Value {
        let certificate =
            json!({"signerName": SIGNER_NAME, "keyType": "ECDSAP256", "credentialBundlePath": CREDENTIALS});
        let trust = json!({"signerName": SIGNER_NAME, "labelSelector": {}, "path": TRUST});
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": self.namespace, "name": self.name, "labels": labels()},
            "spec": {
                "nodeName": self.node,
                "serviceAccountName": self.name,
                "automountServiceAccountToken": false,
                "containers": [{
                    "name": "app", "image": format!("podmint.dev/{}", self.name),
                    "volumeMounts": [{"name": VOLUME, "mountPath": "/var/run/podmint", "readOnly": true}],
                }],
                "volumes": [{"name": VOLUME, "projected": {"sources": [
                    {"podCertificate": certificate}, {"clusterTrustBundle": trust},
                ]}}],
            },
        })
    }

    /// Its service account.
    #[must_use]
    pub fn account(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"namespace": self.namespace, "name": self.name, "labels": labels()},
        })
    }
}

/// Key and chain, below the volume.
pub const CREDENTIALS: &str = "bundle.pem";
/// Roots, below the volume.
pub const TRUST: &str = "trust.pem";

/// Every namespace of the demo, the signer's last.
#[must_use]
pub fn namespaces() -> [&'static str; 4] {
    [SERVER.namespace, CLIENT.namespace, NEWCOMER.namespace, SIGNER_NAMESPACE]
}

/// A namespace.
#[must_use]
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels()}})
}

/// A node that no scheduler of a real cluster puts anything on.
#[must_use]
pub fn node(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels()},
        "spec": {"unschedulable": true, "taints": [{"key": LABEL.0, "value": LABEL.1, "effect": "NoSchedule"}]},
    })
}

/// The configuration of the signer, as it would stand in a file: it admits two of the three namespaces.
#[must_use]
pub fn pod_signer() -> String {
    format!(
        "apiVersion: podmint.dev/v1alpha1
kind: PodSigner
metadata: {{name: demo}}
spec:
  signerName: {SIGNER_NAME}
  trustDomain: {TRUST_DOMAIN}
  allow:
    - name: services
      namespaces: [{}, {}]
      serviceAccounts: [\"*\"]
",
        SERVER.namespace, CLIENT.namespace
    )
}

fn labels() -> Value {
    let (key, value) = LABEL;
    json!({ key: value })
}
