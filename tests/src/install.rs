//! What an administrator applies before the signer starts: the shipped manifests, word for word but for the namespace.

use serde_json::{Value, json};

use crate::call::{self, Refused};
use crate::until::until;
use crate::{Bed, Who, assets};

/// The namespace the manifests name.
pub const SHIPPED_NAMESPACE: &str = "podmint-system";
/// The service account the manifests name.
pub const ACCOUNT: &str = "podmint-signer";

/// One right of a manifest: one verb on one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Right {
    /// `ClusterRole` or `Role`.
    pub role: String,
    /// Which rule of it, from 0.
    pub rule: usize,
    /// The resource.
    pub resource: String,
    /// The verb.
    pub verb: String,
}

impl std::fmt::Display for Right {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} (rule {} of the {})", self.verb, self.resource, self.rule, self.role)
    }
}

/// Every right that `deploy/kustomize/rbac.yaml` gives.
pub fn rights() -> Vec<Right> {
    rights_of(manifest("rbac.yaml"))
}

/// Every right that the roles of a CA's administrator give.
pub fn rights_of_administrators() -> Vec<Right> {
    rights_of(roles_of_administrators())
}

/// Gives an account of `namespace` the shipped roles of a CA's administrator, all but `missing`.
pub async fn administer(bed: &Bed, namespace: &str, account: &str, missing: Option<&Right>) {
    let admin = bed.client(&Who::Admin).await;
    let mut applied = Vec::new();
    for role in roles_of_administrators() {
        let role = in_namespace(without(role, missing), namespace);
        apply(&admin, &role).await;
        let mut metadata = role["metadata"].clone();
        metadata["name"] = json!(format!("{}:{account}", word(&metadata["name"])));
        let binding = json!({
            "apiVersion": role["apiVersion"], "kind": format!("{}Binding", word(&role["kind"])), "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": role["metadata"]["name"]},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        });
        apply(&admin, &binding).await;
        applied.extend([role, binding]);
    }
    in_force(bed, &applied).await;
}

fn roles_of_administrators() -> Vec<Value> {
    let mut roles = manifest("roles.yaml");
    roles.retain(|role| role["metadata"]["name"] == "podmint-ca-administrator");
    assert_eq!(roles.len(), 2, "a ClusterRole, and a Role for the Secrets");
    roles
}

fn rights_of(manifest: Vec<Value>) -> Vec<Right> {
    let mut all = Vec::new();
    for object in manifest {
        for (rule, content) in list(&object["rules"]).iter().enumerate() {
            for (resource, verb) in
                list(&content["resources"]).iter().flat_map(|r| list(&content["verbs"]).iter().map(move |v| (r, v)))
            {
                all.push(Right { role: word(&object["kind"]), rule, resource: word(resource), verb: word(verb) });
            }
        }
    }
    assert!(!all.is_empty(), "the manifest gives no right at all");
    all
}

/// Gives the service account [`ACCOUNT`] of `namespace` what the shipped manifest gives, all but `missing`. Cluster-wide objects
/// are named after the namespace, so that every story has its own.
pub async fn grant(bed: &Bed, namespace: &str, missing: Option<&Right>) {
    let objects = manifest("rbac.yaml").into_iter().map(|object| in_namespace(without(object, missing), namespace));
    rbac(bed, &objects.collect::<Vec<_>>()).await;
}

/// Applies roles and their bindings, and waits until they count.
pub async fn rbac(bed: &Bed, objects: &[Value]) {
    let admin = bed.client(&Who::Admin).await;
    for object in objects {
        apply(&admin, object).await;
    }
    in_force(bed, objects).await;
}

/// An API server learns of each of these a moment after it has stored it. devcluster knows no RBAC.
async fn in_force(bed: &Bed, objects: &[Value]) {
    if bed.server().is_none() {
        return;
    }
    let admin = bed.client(&Who::Admin).await;
    for binding in objects.iter().filter(|object| object["subjects"].is_array()) {
        let is_bound = |object: &&Value| {
            object["kind"] == binding["roleRef"]["kind"] && object["metadata"]["name"] == binding["roleRef"]["name"]
        };
        let role = objects.iter().find(is_bound).expect("a role comes with its binding");
        let subject = &binding["subjects"][0];
        let user = Who::service_account(&word(&subject["namespace"]), &word(&subject["name"])).user_name();
        // One right of each rule: some of them everybody has.
        for rule in list(&role["rules"]) {
            let resource = word(&rule["resources"][0]);
            let (resource, part) = resource.split_once('/').unwrap_or((&resource, ""));
            let right = json!({
                "namespace": binding["metadata"]["namespace"], "group": rule["apiGroups"][0], "verb": rule["verbs"][0],
                "resource": resource, "subresource": part, "name": rule["resourceNames"][0],
            });
            let review = json!({
                "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
                "spec": {"user": user, "resourceAttributes": right},
            });
            until(format!("{user} may do {right}"), async || {
                let said =
                    call::post(&admin, "/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await.ok()?;
                (said["status"]["allowed"] == true).then_some(())
            })
            .await;
        }
    }
}

/// Applies the shipped admission guard as it is.
pub async fn guard(bed: &Bed) {
    let admin = bed.client(&Who::Admin).await;
    for object in manifest("admission-guard.yaml") {
        apply(&admin, &object).await;
    }
}

/// Applies the chart's FlowSchema, with concurrency of its own for the signer of `namespace`.
pub async fn flow_schema(bed: &Bed, namespace: &str) {
    let admin = bed.client(&Who::Admin).await;
    let path = assets::root().join("deploy/helm/podmint/templates/flowschema.yaml");
    let template = std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    // Its first and last line are for Helm; nothing else in it is, but for the namespace.
    let lines = template.lines().filter(|line| !line.starts_with("{{"));
    let text = lines.collect::<Vec<_>>().join("\n").replace("{{ .Release.Namespace }}", namespace);
    let objects: Vec<Value> =
        serde_saphyr::from_multiple(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    assert_eq!(objects.len(), 2, "a priority level, and the schema that leads to it");
    for object in objects {
        apply(&admin, &object).await;
    }
}

/// Applies the shipped CRD, and waits until PodSigners are served.
pub async fn crd(bed: &Bed) {
    let admin = bed.client(&Who::Admin).await;
    apply(&admin, &shipped_crd()).await;
    until("PodSigners are served", async || call::get(&admin, PODSIGNERS).await.ok()).await;
}

/// The CRD that the chart brings.
pub fn shipped_crd() -> Value {
    let path = assets::root().join("deploy/helm/podmint/crds/podsigners.yaml");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    serde_saphyr::from_str(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// Where PodSigners are in the API.
pub const PODSIGNERS: &str = "/apis/podmint.dev/v1alpha1/podsigners";

/// Takes the guard away again.
pub async fn remove_guard(bed: &Bed) {
    let admin = bed.client(&Who::Admin).await;
    for object in manifest("admission-guard.yaml").iter().rev() {
        call::delete(&admin, &path(object)).await.unwrap_or_else(|why| panic!("{}: {why}", path(object)));
    }
}

/// The objects of a manifest in `deploy/kustomize/`, which is what the chart renders.
pub fn manifest(name: &str) -> Vec<Value> {
    let path = assets::root().join("deploy/kustomize").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    serde_saphyr::from_multiple(&text).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// Creates the object, or replaces the one of that name.
pub async fn apply(admin: &kube::Client, object: &Value) {
    let path = path(object);
    let (collection, _name) = path.rsplit_once('/').expect("a path has parts");
    let done = match call::post(admin, collection, object).await {
        Err(Refused { code: 409, .. }) => replace(admin, &path, object).await,
        answer => answer,
    };
    done.unwrap_or_else(|why| panic!("{path} cannot be applied: {why}"));
}

async fn replace(admin: &kube::Client, path: &str, object: &Value) -> call::Answer {
    let there = call::get(admin, path).await?;
    let mut object = object.clone();
    object["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"].clone();
    call::put(admin, path, &object).await
}

fn without(mut object: Value, missing: Option<&Right>) -> Value {
    let Some(missing) = missing.filter(|missing| object["kind"] == missing.role) else { return object };
    let rules = object["rules"].as_array_mut().expect("a role has rules");
    let mut rule = rules.remove(missing.rule);
    // What the rule gives beside the missing right stays: the other resources with all verbs, this one with the other verbs.
    let others: Vec<Value> = list(&rule["resources"]).iter().filter(|one| **one != missing.resource).cloned().collect();
    let verbs: Vec<Value> = list(&rule["verbs"]).iter().filter(|one| **one != missing.verb).cloned().collect();
    if !others.is_empty() {
        let mut rest = rule.clone();
        rest["resources"] = Value::from(others);
        rules.push(rest);
    }
    if !verbs.is_empty() {
        rule["resources"] = json!([missing.resource]);
        rule["verbs"] = Value::from(verbs);
        rules.push(rule);
    }
    object
}

fn in_namespace(mut object: Value, namespace: &str) -> Value {
    if object["metadata"]["namespace"] == SHIPPED_NAMESPACE {
        object["metadata"]["namespace"] = json!(namespace);
    } else {
        object["metadata"]["name"] = json!(format!("{}:{namespace}", word(&object["metadata"]["name"])));
        if object["roleRef"]["kind"] == "ClusterRole" {
            object["roleRef"]["name"] = object["metadata"]["name"].clone();
        }
    }
    for subject in object["subjects"].as_array_mut().into_iter().flatten() {
        subject["namespace"] = json!(namespace);
    }
    object
}

/// Where an object is in the API, for the kinds that the manifests hold.
pub fn path(object: &Value) -> String {
    let plural = match object["kind"].as_str() {
        Some("ServiceAccount") => "serviceaccounts",
        Some("ClusterRole") => "clusterroles",
        Some("ClusterRoleBinding") => "clusterrolebindings",
        Some("Role") => "roles",
        Some("RoleBinding") => "rolebindings",
        Some("Namespace") => "namespaces",
        Some("PodSigner") => "podsigners",
        Some("CustomResourceDefinition") => "customresourcedefinitions",
        Some("Secret") => "secrets",
        Some("ClusterTrustBundle") => "clustertrustbundles",
        Some("ValidatingAdmissionPolicy") => "validatingadmissionpolicies",
        Some("ValidatingAdmissionPolicyBinding") => "validatingadmissionpolicybindings",
        Some("PriorityLevelConfiguration") => "prioritylevelconfigurations",
        Some("FlowSchema") => "flowschemas",
        other => panic!("no path for a {other:?}"),
    };
    let version = word(&object["apiVersion"]);
    let group = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let name = word(&object["metadata"]["name"]);
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{group}/namespaces/{namespace}/{plural}/{name}"),
        None => format!("{group}/{plural}/{name}"),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_right_is_taken_away_and_no_other() {
        let gone = Right { role: "ClusterRole".to_owned(), rule: 0, resource: "a".to_owned(), verb: "get".to_owned() };
        let role = json!({"kind": "ClusterRole", "rules": [{"resources": ["a", "b"], "verbs": ["get", "list"]}]});
        let left = without(role, Some(&gone));
        assert_eq!(
            left["rules"],
            json!([{"resources": ["b"], "verbs": ["get", "list"]}, {"resources": ["a"], "verbs": ["list"]}])
        );
    }
}
