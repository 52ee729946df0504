//! What a pod was made from, and the command that changes it there.

use std::fmt;

use serde_json::Value;

use super::{facts::Pod, report::Mend};

/// What a pod was made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Workload {
    pub(super) namespace: String,
    kind: Kind,
    name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Its template can be changed, and its pods follow.
    Template(&'static str),
    /// Nobody made it but its author.
    Pod,
    /// Something else made it.
    Other(String),
}

impl Workload {
    pub(super) fn of(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        let owner = metadata.owner_references.iter().find(|owner| owner.controller == Some(true));
        let (kind, name) = match owner.map(|owner| (owner.kind.as_str(), owner.name.as_str())) {
            None => (Kind::Pod, metadata.name.as_str()),
            Some(("StatefulSet", name)) => (Kind::Template("statefulset"), name),
            Some(("DaemonSet", name)) => (Kind::Template("daemonset"), name),
            Some((kind, name)) => match deployment(pod, name).filter(|_| kind == "ReplicaSet") {
                Some(deployment) => (Kind::Template("deployment"), deployment),
                None => (Kind::Other(kind.to_lowercase()), name),
            },
        };
        Self { namespace: metadata.namespace.clone(), kind, name: name.to_owned() }
    }

    /// What makes these changes (JSON patch operations on a pod) where they last.
    pub(super) fn change(&self, operations: &[Value]) -> Mend {
        let Self { namespace, kind, name } = self;
        match kind {
            Kind::Template(kind) => {
                let patch = quoted(&Value::from_iter(operations.iter().map(below_template)).to_string());
                Mend::Run(format!("kubectl -n {namespace} patch {kind} {name} --type=json -p {patch}"))
            }
            Kind::Pod => {
                let patch = quoted(&Value::from_iter(operations.iter().cloned()).to_string());
                Mend::Run(format!(
                    "kubectl -n {namespace} get pod {name} -o json | kubectl patch --local -f - --type=json -p {patch} -o json \
                     | kubectl -n {namespace} replace --force -f -"
                ))
            }
            Kind::Other(kind) => Mend::Do(format!(
                "change the pod template in {kind} {namespace}/{name} by this JSON patch: {}",
                Value::from_iter(operations.iter().cloned())
            )),
        }
    }

    /// What applies again what was last applied by kubectl.
    pub(super) fn apply_again(&self) -> Mend {
        let Self { namespace, kind, name } = self;
        match kind {
            Kind::Template(kind) => Mend::Run(format!(
                "kubectl -n {namespace} apply view-last-applied {kind}/{name} -o json | kubectl -n {namespace} apply -f -"
            )),
            Kind::Pod => Mend::Run(format!(
                "kubectl -n {namespace} apply view-last-applied pod/{name} -o json | kubectl -n {namespace} replace --force -f -"
            )),
            Kind::Other(kind) => Mend::Do(format!("apply the manifest of {kind} {namespace}/{name} again")),
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, kind, name } = self;
        match kind {
            Kind::Template(kind) => write!(out, "{kind} {namespace}/{name}"),
            Kind::Pod => write!(out, "pod {namespace}/{name}"),
            Kind::Other(kind) => write!(out, "{kind} {namespace}/{name}"),
        }
    }
}

/// A Deployment names its ReplicaSets after itself and the hash that it also puts on the pods.
fn deployment<'a>(pod: &Pod, replica_set: &'a str) -> Option<&'a str> {
    let hash = pod.metadata.labels.get("pod-template-hash")?;
    replica_set.strip_suffix(hash.as_str())?.strip_suffix('-')
}

fn below_template(operation: &Value) -> Value {
    let mut operation = operation.clone();
    if let Some(path) = operation.get_mut("path") {
        *path = Value::from(format!("/spec/template{}", path.as_str().unwrap_or_default()));
    }
    operation
}

/// For a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::facts::Owner, *};

    fn owned(kind: &str, name: &str) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.namespace = "shop".to_owned();
        pod.metadata.name = "web-6d4b75cb6d-x7k2p".to_owned();
        pod.metadata.labels.insert("pod-template-hash".to_owned(), "6d4b75cb6d".to_owned());
        pod.metadata.owner_references =
            vec![Owner { kind: kind.to_owned(), name: name.to_owned(), controller: Some(true) }];
        pod
    }

    #[test]
    fn a_pod_is_changed_where_it_is_made() {
        let operation = json!({"op": "replace", "path": "/spec/x", "value": "it's"});
        let run = |pod: &Pod| Workload::of(pod).change(std::slice::from_ref(&operation));
        let deployment = run(&owned("ReplicaSet", "web-6d4b75cb6d"));
        let Mend::Run(command) = deployment else { panic!("{deployment:?}") };
        assert_eq!(
            command,
            r#"kubectl -n shop patch deployment web --type=json -p '[{"op":"replace","path":"/spec/template/spec/x","value":"it'\''s"}]'"#
        );
        let Mend::Run(command) = run(&owned("StatefulSet", "db")) else { panic!("no command") };
        assert!(command.starts_with("kubectl -n shop patch statefulset db "), "{command}");
        let Mend::Do(words) = run(&owned("Job", "once")) else { panic!("a Job's template cannot be changed") };
        assert!(words.contains("job shop/once"), "{words}");
        let mut bare = owned("x", "x");
        bare.metadata.owner_references.clear();
        let Mend::Run(command) = run(&bare) else { panic!("no command") };
        assert!(
            command.contains("get pod web-6d4b75cb6d-x7k2p") && command.contains(r#""path":"/spec/x""#),
            "{command}"
        );
    }

    #[test]
    fn a_replica_set_without_a_deployment_is_no_deployment() {
        assert_eq!(Workload::of(&owned("ReplicaSet", "alone")).to_string(), "replicaset shop/alone");
    }
}
