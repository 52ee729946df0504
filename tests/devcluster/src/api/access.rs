//! Who is calling, and whether they may. Coarse but for nodes: RBAC is a matter for stories on the real server.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use http::HeaderMap;
use serde_json::Value;

use super::failure::{Answer, Failure};
use super::fault::Verb;
use super::kind::Kind;
use super::object::{Fields, at, text};
use super::route::Call;
use super::store::Store;
use crate::clock::uuid;
use crate::options::{Identity, Options};

/// The bearer tokens handed out.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    known: Mutex<BTreeMap<String, Identity>>,
}

impl Tokens {
    /// The token of `who`: the same one each time.
    pub(crate) fn of(&self, who: &Identity) -> String {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, _)) = known.iter().find(|(_, identity)| *identity == who) {
            return token.clone();
        }
        let token = format!("devcluster-{}", uuid());
        known.insert(token.clone(), who.clone());
        token
    }

    /// Who sends these headers; an administrator may speak for somebody else.
    pub(crate) fn identify(&self, headers: &HeaderMap) -> Answer<Identity> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let token = header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let caller = token
            .and_then(|token| known.get(token))
            .cloned()
            .ok_or_else(|| Failure::new(401, "Unauthorized", "Unauthorized"))?;
        let Some(user) = header("impersonate-user") else { return Ok(caller) };
        if caller != Identity::Admin {
            let message = format!(
                "users {user:?} is forbidden: User {:?} cannot impersonate resource \"users\"",
                caller.user_name()
            );
            return Err(Failure::new(403, "Forbidden", message));
        }
        let masters = headers.get_all("impersonate-group").iter().any(|group| group == "system:masters");
        Ok(if masters { Identity::Admin } else { named(user) })
    }
}

fn named(user: &str) -> Identity {
    if let Some(name) = user.strip_prefix("system:node:") {
        return Identity::node(name);
    }
    match user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, name)) => Identity::service_account(namespace, name),
        None => Identity::User(user.to_owned()),
    }
}

/// Whether `who` may `sign` or `attest` for any signer.
pub(crate) fn signs(options: &Options, who: &Identity) -> bool {
    *who == Identity::Admin || options.signers.contains(who)
}

/// Refuses a call that its caller may not make.
pub(crate) fn authorize(options: &Options, store: &Store, who: &Identity, call: &Call) -> Answer<()> {
    let allowed = match who {
        Identity::Admin => true,
        Identity::Node(name) => node_may(store, name, call),
        Identity::ServiceAccount { .. } | Identity::User(_) => {
            options.writers.contains(who) || options.signers.contains(who) || anybody_may(who, call)
        }
    };
    if allowed { Ok(()) } else { Err(refusal(who, call)) }
}

fn refusal(who: &Identity, call: &Call) -> Failure {
    let kind = call.served.kind;
    let resource = call.resource();
    let place = if call.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace {:?}", call.namespace)
    };
    let cause = format!(
        "User {:?} cannot {} resource {resource:?} in API group {:?} {place}",
        who.user_name(),
        call.verb.name(),
        call.served.group
    );
    Failure::forbidden(kind, &call.name, &cause)
}

/// Service accounts may read trust bundles.
fn anybody_may(who: &Identity, call: &Call) -> bool {
    let reads = matches!(call.verb, Verb::Get | Verb::List | Verb::Watch);
    reads && call.served.kind == Kind::TrustBundle && matches!(who, Identity::ServiceAccount { .. })
}

/// The node authorizer, as far as a kubelet needs it for pods and their certificates.
fn node_may(store: &Store, node: &str, call: &Call) -> bool {
    let own_pod = |name: &str| {
        store
            .get(Kind::Pod, &(call.namespace.clone(), name.to_owned()))
            .is_some_and(|pod| text(&pod.fields, &["spec", "nodeName"]) == node)
    };
    let pinned = |field: &str| call.selector.pinned(field) == Some(node);
    let follows = matches!(call.verb, Verb::List | Verb::Watch);
    let changes = matches!(call.verb, Verb::Update | Verb::Patch);
    match call.served.kind {
        Kind::Pod => match (call.status, call.verb) {
            (_, Verb::List | Verb::Watch) => pinned("spec.nodeName"),
            (_, Verb::Get) | (false, Verb::Delete) => own_pod(&call.name),
            (true, Verb::Update | Verb::Patch) => own_pod(&call.name),
            (_, Verb::Create | Verb::Update | Verb::Patch | Verb::Delete) => false,
        },
        Kind::Node => match call.verb {
            Verb::Create => true,
            Verb::Get => true,
            Verb::List | Verb::Watch => pinned("metadata.name"),
            Verb::Update | Verb::Patch => call.name == node,
            Verb::Delete => false,
        },
        Kind::Request => {
            let own = || {
                let found = store.get(Kind::Request, &(call.namespace.clone(), call.name.clone()));
                found.is_some_and(|request| text(&request.fields, &["spec", "nodeName"]) == node)
            };
            !call.status
                && (call.verb == Verb::Create
                    || (call.verb == Verb::Get && own())
                    || (follows && pinned("spec.nodeName")))
        }
        Kind::TrustBundle => follows || call.verb == Verb::Get,
        Kind::ServiceAccount => call.verb == Verb::Get && runs_as(store, node, &call.namespace, &call.name),
        Kind::Event => call.verb == Verb::Create || changes,
        Kind::Lease => {
            call.namespace == "kube-node-lease" && (changes || matches!(call.verb, Verb::Create | Verb::Get))
        }
        Kind::Namespace
        | Kind::Service
        | Kind::Secret
        | Kind::ConfigMap
        | Kind::Policy
        | Kind::PolicyBinding
        | Kind::PodSigner => false,
    }
}

/// Whether a pod of the node runs as this service account.
fn runs_as(store: &Store, node: &str, namespace: &str, account: &str) -> bool {
    let (pods, _) = store.all(Kind::Pod);
    pods.iter().any(|((its_namespace, _), pod)| {
        its_namespace == namespace
            && text(&pod.fields, &["spec", "nodeName"]) == node
            && text(&pod.fields, &["spec", "serviceAccountName"]) == account
    })
}

/// NodeRestriction for certificate requests (N1-N9). Where lag could be the cause the answer is not a 403, so that retries go on.
pub(crate) fn restrict_request(
    store: &Store,
    node: &str,
    namespace: &str,
    request: &Fields,
    since_1_37: bool,
) -> Answer<()> {
    let spec = |key: &str| text(request, &["spec", key]).to_owned();
    let shown = ["name", "generateName"].map(|key| super::object::meta(request, key).to_owned());
    let shown = shown.into_iter().find(|name| !name.is_empty()).unwrap_or_else(|| "Unknown".to_owned());
    let forbidden = |cause: String| Err(Failure::forbidden(Kind::Request, &shown, &cause));
    let node_name = spec("nodeName");
    if node_name != node {
        return forbidden(format!(
            "PodCertificateRequest.Spec.NodeName={node_name:?}, which is not the requesting node {node:?}"
        ));
    }
    let full = format!("{namespace}/{}", spec("podName"));
    let Some(found) = store.get(Kind::Node, &(String::new(), node_name.clone())) else {
        let cause = format!(
            "while retrieving node {node_name:?} named in the PodCertificateRequest: node {node_name:?} not found"
        );
        return Err(Failure::unknown(cause));
    };
    if found.uid() != spec("nodeUID") {
        return Err(Failure::unknown(format!(
            "PodCertificateRequest for pod {full:?} names node UID {:?}, inconsistent with the running node ({:?})",
            spec("nodeUID"),
            found.uid()
        )));
    }
    let Some(pod) = store.get(Kind::Pod, &(namespace.to_owned(), spec("podName"))) else {
        let cause = format!(
            "while retrieving pod {full:?} named in the PodCertificateRequest: pod {:?} not found",
            spec("podName")
        );
        return Err(Failure::unknown(cause));
    };
    if pod.uid() != spec("podUID") {
        return Err(Failure::unknown(format!(
            "PodCertificateRequest for pod {full:?} contains pod UID ({:?}) which differs from running pod {:?}",
            spec("podUID"),
            pod.uid()
        )));
    }
    if text(&pod.fields, &["spec", "nodeName"]) != node_name {
        return forbidden(format!(
            "pod {full:?} is not running on node {node_name:?} named in the PodCertificateRequest"
        ));
    }
    if at(&pod.fields, &["metadata", "annotations", "kubernetes.io/config.mirror"]).is_some() {
        return forbidden(format!("pod {full:?} is a mirror pod"));
    }
    let account = spec("serviceAccountName");
    let running = text(&pod.fields, &["spec", "serviceAccountName"]);
    if account != running {
        return forbidden(format!(
            "PodCertificateRequest for pod {full:?} contains serviceAccountName ({account:?}) that differs from running pod ({running:?})"
        ));
    }
    let Some(found) = store.get(Kind::ServiceAccount, &(namespace.to_owned(), account.clone())) else {
        return Err(Failure::unknown(format!(
            "while retrieving service account \"{namespace}/{account}\" named in the PodCertificateRequest: serviceaccount {account:?} not found"
        )));
    };
    if found.uid() != spec("serviceAccountUID") {
        return Err(Failure::unknown(format!(
            "PodCertificateRequest for pod {full:?} names service account UID {:?}, which differs from the running service account ({:?})",
            spec("serviceAccountUID"),
            found.uid()
        )));
    }
    if since_1_37 && !projects(&pod.fields, &spec("signerName")) {
        return forbidden(format!(
            "pod {full:?} does not mount a podCertificate projected volume for signer {:?}",
            spec("signerName")
        ));
    }
    Ok(())
}

fn projects(pod: &Fields, signer: &str) -> bool {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    list(at(pod, &["spec", "volumes"])).iter().any(|volume| {
        let sources = list(volume.pointer("/projected/sources"));
        sources
            .iter()
            .any(|source| source.pointer("/podCertificate/signerName").and_then(Value::as_str) == Some(signer))
    })
}
