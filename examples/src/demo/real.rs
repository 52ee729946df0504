//! A real API server that can be thrown away: what is made there, whom the demo acts as, and how all of it goes again.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use podmint_devcluster::node::Kubelet;
use serde_json::{Value, json};

use super::kinds::{self, Kinds, told};
use super::scene;

/// The signer's namespace and rights and the admission guard, as they are shipped.
const HOME: &str = include_str!("../../../deploy/kustomize/namespace.yaml");
const RIGHTS: &str = include_str!("../../../deploy/kustomize/rbac.yaml");
const GUARD: &str = include_str!("../../../deploy/kustomize/admission-guard.yaml");

/// See the module.
pub struct RealServer {
    config: Config,
    admin: Client,
    url: String,
    version: String,
    minor: u32,
    guarded: bool,
}

impl RealServer {
    /// Connects, and refuses where anything of Podmint's, or of an earlier demo, is in the way.
    pub async fn connect(file: &Path) -> Result<Self> {
        // kube's messages end with their causes'; both would be printed.
        let told_once = |error: KubeconfigError| anyhow!(error.to_string());
        let kubeconfig = Kubeconfig::read_from(file).map_err(told_once);
        let kubeconfig = kubeconfig.with_context(|| format!("could not read the kubeconfig {}", file.display()))?;
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.map_err(told_once);
        let config = config.with_context(|| format!("the kubeconfig {} cannot be used", file.display()))?;
        let admin = Client::try_from(config.clone()).context("could not make a client of the kubeconfig")?;
        let url = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        let asked = tokio::time::timeout(PATIENCE, admin.apiserver_version()).await;
        let version = asked
            .with_context(|| format!("{url} does not answer"))?
            .map_err(told)
            .with_context(|| format!("{url} cannot be asked"))?;
        // Some distributions write `37+`.
        let minor = version.minor.trim_end_matches(|letter: char| !letter.is_ascii_digit()).parse().unwrap_or_default();
        let server = Self { config, admin, url, version: version.git_version, minor, guarded: false };
        server.refuse_where_something_is_in_the_way().await?;
        Ok(server)
    }

    pub(super) fn describe(&self) -> String {
        format!("Kubernetes {} at {}", self.version, self.url)
    }

    pub(super) fn guarded(&self) -> bool {
        self.guarded
    }

    pub(super) fn admin(&self) -> Client {
        self.admin.clone()
    }

    /// The same administrator, acting as somebody else: the API server then judges that one's rights.
    pub(super) fn acting_as(&self, user: &str, groups: &[&str]) -> Result<Client> {
        let mut config = self.config.clone();
        // Signer and node agents know better when to come back.
        config.default_retry = false;
        config.auth_info.impersonate = Some(user.to_owned());
        config.auth_info.impersonate_groups =
            (!groups.is_empty()).then(|| groups.iter().map(|group| (*group).to_owned()).collect());
        Client::try_from(config).with_context(|| format!("could not make a client that acts as {user}"))
    }

    pub(super) fn kubelets(&self) -> Kubelet {
        match self.minor {
            35 => Kubelet::V1_35,
            36 => Kubelet::V1_36,
            _ => Kubelet::V1_37,
        }
    }

    /// The signer's rights, and the one right that the intruder has.
    pub(super) async fn prepare(&self) -> Result<()> {
        self.nodes_may_ask().await?;
        self.create_all(HOME).await?;
        self.create_all(RIGHTS).await?;
        let name = scene::INTRUDER;
        let metadata = json!({"namespace": scene::SERVER.namespace, "name": name});
        let rule =
            json!({"apiGroups": ["certificates.k8s.io"], "resources": ["podcertificaterequests"], "verbs": ["create"]});
        self.create(json!({
            "apiVersion": RBAC, "kind": "Role", "metadata": metadata, "rules": [rule],
        }))
        .await?;
        self.create(json!({
            "apiVersion": RBAC, "kind": "RoleBinding", "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}],
        }))
        .await
    }

    /// Where NodeRestriction is not switched on, a kubelet may ask in the name of another node, and nobody could tell from the
    /// request. That is what the shipped admission guard is for: then it is installed until the demo ends.
    pub(super) async fn fence(&mut self, kinds: &Kinds, forgery: &Value) -> Result<()> {
        let kubelet = self.acting_as(&format!("system:node:{}", scene::NODES[1]), &["system:nodes"])?;
        let trial = Trial { api: kinds::api(&kubelet, &kinds.request(), scene::SERVER.namespace), forgery };
        if trial.is_refused().await? {
            return Ok(());
        }
        self.guarded = true;
        self.create_all(GUARD).await?;
        let begun = Instant::now();
        while !trial.is_refused().await? {
            if begun.elapsed() > GUARD_IN_FORCE {
                bail!("the admission guard did not come into force within {} s", GUARD_IN_FORCE.as_secs());
            }
            tokio::time::sleep(GLANCE).await;
        }
        Ok(())
    }

    /// Removes everything the demo may have made, whether or not it came that far. Tries all of it, and reports the first failure.
    pub(super) async fn clean_up(&self, kinds: &Kinds) -> Result<()> {
        let mut first = Ok(());
        let mut note = |done: Result<()>| {
            if first.is_ok() {
                first = done;
            }
        };
        let managed = self.has_namespace_controller().await;
        for namespace in scene::namespaces() {
            for kind in namespaced(kinds) {
                note(self.empty(&kind, namespace).await);
            }
        }
        for object in shipped()? {
            note(self.delete(&object).await);
        }
        for name in scene::NODES {
            note(self.delete(&scene::node(name)).await);
        }
        note(self.remove_bundles(kinds).await);
        for namespace in scene::namespaces() {
            note(self.delete(&scene::namespace(namespace)).await);
        }
        for namespace in scene::namespaces() {
            note(self.wait_until_gone(namespace, managed).await);
        }
        first
    }

    async fn refuse_where_something_is_in_the_way(&self) -> Result<()> {
        let mut found = Vec::new();
        for object in self.everything_named()? {
            let (kind, namespace, name) = place(&object)?;
            let there = kinds::api(&self.admin, &kind, &namespace).get_opt(&name).await;
            if there.map_err(told).with_context(|| format!("could not look for {} {name}", kind.kind))?.is_some() {
                found.push(format!("{} {name}", kind.kind));
            }
        }
        let everywhere = [("Secret", "secrets", "podmint-ca"), ("Secret", "secrets", "podmint-ca-root")];
        for (kind, plural, name) in everywhere {
            let listed = self.list(&kinds::core(kind, plural), &format!("metadata.name={name}")).await?;
            found.extend(
                listed
                    .iter()
                    .map(|one| format!("{kind} {}/{name}", one.metadata.namespace.clone().unwrap_or_default())),
            );
        }
        let leases = self
            .list(&kinds::resource("coordination.k8s.io", "v1", "Lease", "leases"), "metadata.name=podmint-signer")
            .await?;
        found.extend(
            leases
                .iter()
                .map(|one| format!("Lease {}/podmint-signer", one.metadata.namespace.clone().unwrap_or_default())),
        );
        let kinds = Kinds::discover(&self.admin).await?;
        let ours = |one: &&DynamicObject| {
            let signer = one.data.pointer("/spec/signerName").and_then(Value::as_str);
            signer.is_some_and(|signer| signer.split('/').next() == scene::SIGNER_NAME.split('/').next())
        };
        let bundles = self.list(&kinds.bundle(), "").await?;
        let name = |one: &DynamicObject| one.metadata.name.clone().unwrap_or_default();
        found.extend(bundles.iter().filter(ours).map(|one| format!("ClusterTrustBundle {}", name(one))));
        let groups =
            self.admin.list_api_groups().await.map_err(told).context("could not ask the API server what it serves")?;
        if groups.groups.iter().any(|group| group.name == "podmint.dev") {
            found.push("the API group podmint.dev".to_owned());
        }
        let mut told = BTreeSet::new();
        found.retain(|one| told.insert(one.clone()));
        match found.as_slice() {
            [] => Ok(()),
            found if self.was_left_by_a_demo().await => bail!(
                "{} is in use by a demo, or an earlier one was killed before it could clean up. If none is running, remove what is left: \
                 {}. Found: {}",
                self.url,
                LEFTOVERS,
                found.join(", ")
            ),
            found => bail!(
                "Podmint is installed at {}: the demo would get in its way. Found: {}",
                self.url,
                found.join(", ")
            ),
        }
    }

    async fn was_left_by_a_demo(&self) -> bool {
        let label = ListParams::default().labels(&format!("{}={}", scene::LABEL.0, scene::LABEL.1));
        let namespaces = kinds::api(&self.admin, &kinds::core("Namespace", "namespaces"), "").list(&label).await;
        namespaces.is_ok_and(|found| !found.items.is_empty())
    }

    /// Everything the demo makes under a name of its own choice.
    fn everything_named(&self) -> Result<Vec<Value>> {
        let mut all: Vec<Value> = scene::namespaces().into_iter().map(scene::namespace).collect();
        all.extend(scene::NODES.into_iter().map(scene::node));
        all.extend(shipped()?);
        Ok(all)
    }

    /// A kubelet has its rights from the node authorizer. Without it nothing here would ever be asked for.
    async fn nodes_may_ask(&self) -> Result<()> {
        let kubelet = self.acting_as(&format!("system:node:{}", scene::NODES[0]), &["system:nodes"])?;
        let review =
            kinds::resource("authorization.k8s.io", "v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews");
        let wanted = json!({"group": "certificates.k8s.io", "resource": "podcertificaterequests", "verb": "create", "namespace": "default"});
        let question = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {},
            "spec": {"resourceAttributes": wanted},
        });
        let question: DynamicObject =
            serde_json::from_value(question).context("a question of the demo is malformed")?;
        let answer = kinds::api(&kubelet, &review, "").create(&PostParams::default(), &question).await;
        let answer = answer
            .map_err(told)
            .context("could not ask what a node may do (is this the administrator's kubeconfig?)")?;
        match answer.data.pointer("/status/allowed").and_then(Value::as_bool) {
            Some(true) => Ok(()),
            Some(false) | None => {
                bail!("nodes may not ask for pod certificates at {}: it takes --authorization-mode=Node,RBAC", self.url)
            }
        }
    }

    async fn create_all(&self, manifest: &str) -> Result<()> {
        for object in documents(manifest)? {
            self.create(object).await?;
        }
        Ok(())
    }

    /// Namespaces are made before anything else, so one of a manifest may be there already.
    async fn create(&self, object: Value) -> Result<()> {
        let (kind, namespace, name) = place(&object)?;
        let object: DynamicObject = serde_json::from_value(object).context("a manifest is malformed")?;
        match kinds::api(&self.admin, &kind, &namespace).create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 && kind.kind == "Namespace" => Ok(()),
            done => done.map(|_| ()).map_err(told).with_context(|| format!("could not create {} {name}", kind.kind)),
        }
    }

    async fn delete(&self, object: &Value) -> Result<()> {
        let (kind, namespace, name) = place(object)?;
        let deleted = kinds::api(&self.admin, &kind, &namespace).delete(&name, &DeleteParams::default()).await;
        absent_is_fine(deleted.map(|_| ())).with_context(|| format!("could not delete {} {name}", kind.kind))
    }

    async fn empty(&self, kind: &ApiResource, namespace: &str) -> Result<()> {
        let at_once = DeleteParams::default().grace_period(0);
        let deleted =
            kinds::api(&self.admin, kind, namespace).delete_collection(&at_once, &ListParams::default()).await;
        absent_is_fine(deleted.map(|_| ()))
            .with_context(|| format!("could not delete the {} of {namespace}", kind.plural))
    }

    async fn remove_bundles(&self, kinds: &Kinds) -> Result<()> {
        let ours = self.list(&kinds.bundle(), &format!("spec.signerName={}", scene::SIGNER_NAME)).await?;
        for name in ours.into_iter().filter_map(|bundle| bundle.metadata.name) {
            let deleted = kinds::api(&self.admin, &kinds.bundle(), "").delete(&name, &DeleteParams::default()).await;
            absent_is_fine(deleted.map(|_| ()))
                .with_context(|| format!("could not delete ClusterTrustBundle {name}"))?;
        }
        Ok(())
    }

    /// A controller-manager empties a deleted namespace and lets it go. A bare API server has none: then we do.
    async fn wait_until_gone(&self, name: &str, managed: bool) -> Result<()> {
        let api = kinds::api(&self.admin, &kinds::core("Namespace", "namespaces"), "");
        let begun = Instant::now();
        while let Some(mut namespace) = api.get_opt(name).await.context("could not look whether a namespace is gone")? {
            if begun.elapsed() > NAMESPACE_GONE {
                bail!("the namespace {name} is still there after {} s", NAMESPACE_GONE.as_secs());
            }
            if managed {
                tokio::time::sleep(GLANCE).await;
                continue;
            }
            if let Some(finalizers) = namespace.data.pointer_mut("/spec/finalizers") {
                *finalizers = json!([]);
            }
            let done = api.replace_subresource("finalize", name, &PostParams::default(), &namespace).await;
            absent_is_fine(done.map(|_| ())).with_context(|| format!("could not let go of the namespace {name}"))?;
        }
        Ok(())
    }

    /// It makes a service account `default` in every namespace, before anything else happens there.
    async fn has_namespace_controller(&self) -> bool {
        let accounts = kinds::api(&self.admin, &kinds::core("ServiceAccount", "serviceaccounts"), "default");
        accounts.get_opt("default").await.is_ok_and(|found| found.is_some())
    }

    async fn list(&self, kind: &ApiResource, fields: &str) -> Result<Vec<DynamicObject>> {
        let parameters = if fields.is_empty() { ListParams::default() } else { ListParams::default().fields(fields) };
        let listed = kinds::api(&self.admin, kind, "").list(&parameters).await;
        Ok(listed.map_err(told).with_context(|| format!("could not list {}", kind.plural))?.items)
    }
}

/// A request that must be refused, tried without being kept.
struct Trial<'a> {
    api: kube::Api<DynamicObject>,
    forgery: &'a Value,
}

impl Trial<'_> {
    async fn is_refused(&self) -> Result<bool> {
        let object: DynamicObject =
            serde_json::from_value(self.forgery.clone()).context("a request of the demo is malformed")?;
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        match self.api.create(&dry, &object).await {
            Ok(_) => Ok(false),
            Err(kube::Error::Api(status)) if status.code == 403 => Ok(true),
            Err(why) => Err(told(why)).context("could not find out whether this API server restricts its nodes"),
        }
    }
}

/// Every object of the manifests.
fn shipped() -> Result<Vec<Value>> {
    Ok([documents(HOME)?, documents(RIGHTS)?, documents(GUARD)?].concat())
}

/// The documents of a manifest, as JSON.
fn documents(manifest: &str) -> Result<Vec<Value>> {
    serde_saphyr::from_multiple(manifest).context("a manifest that is shipped cannot be read")
}

/// Where an object lives: kind, namespace and name.
fn place(object: &Value) -> Result<(ApiResource, String, String)> {
    let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("/apiVersion").split_once('/').unwrap_or(("", text("/apiVersion")));
    let plural = match text("/kind") {
        "Namespace" => "namespaces",
        "Node" => "nodes",
        "ServiceAccount" => "serviceaccounts",
        "ClusterRole" => "clusterroles",
        "ClusterRoleBinding" => "clusterrolebindings",
        "Role" => "roles",
        "RoleBinding" => "rolebindings",
        "ValidatingAdmissionPolicy" => "validatingadmissionpolicies",
        "ValidatingAdmissionPolicyBinding" => "validatingadmissionpolicybindings",
        other => bail!("the demo does not know the kind {other:?} of a manifest"),
    };
    let kind = kinds::resource(group, version, text("/kind"), plural);
    Ok((kind, text("/metadata/namespace").to_owned(), text("/metadata/name").to_owned()))
}

/// What lies in a namespace of the demo.
fn namespaced(kinds: &Kinds) -> Vec<ApiResource> {
    let rbac = |kind, plural| kinds::resource("rbac.authorization.k8s.io", "v1", kind, plural);
    vec![
        kinds::core("Pod", "pods"),
        kinds.request(),
        kinds::core("ServiceAccount", "serviceaccounts"),
        kinds::core("Secret", "secrets"),
        kinds::core("ConfigMap", "configmaps"),
        kinds::core("Event", "events"),
        kinds::resource("coordination.k8s.io", "v1", "Lease", "leases"),
        rbac("RoleBinding", "rolebindings"),
        rbac("Role", "roles"),
    ]
}

fn absent_is_fine(done: kube::Result<()>) -> Result<()> {
    match done {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        done => done.map_err(told),
    }
}

/// What a killed demo leaves, and how it goes.
const LEFTOVERS: &str = "kubectl delete --ignore-not-found -f deploy/kustomize/namespace.yaml -f deploy/kustomize/rbac.yaml -f \
     deploy/kustomize/admission-guard.yaml; kubectl delete clustertrustbundles --field-selector spec.signerName=podmint.dev/demo; kubectl delete namespaces,nodes -l podmint.dev/part-of=demo";
const RBAC: &str = "rbac.authorization.k8s.io/v1";
/// An API server that takes longer to say its version is not there.
const PATIENCE: Duration = Duration::from_secs(10);
/// The API server takes a second or so to notice a policy.
const GUARD_IN_FORCE: Duration = Duration::from_secs(30);
/// A namespace controller at work takes five to ten seconds.
const NAMESPACE_GONE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_manifests_hold_only_what_can_be_removed_again() {
        let objects = shipped().unwrap();
        assert!(objects.len() >= 9);
        for object in objects {
            let (kind, _, name) = place(&object).unwrap();
            assert!(!name.is_empty(), "{} without a name", kind.kind);
        }
    }

    #[test]
    fn the_signer_lives_where_its_rights_are() {
        let accounts: Vec<Value> =
            documents(RIGHTS).unwrap().into_iter().filter(|one| one["kind"] == "ServiceAccount").collect();
        assert_eq!(accounts[0]["metadata"]["namespace"], scene::SIGNER_NAMESPACE);
        assert_eq!(accounts[0]["metadata"]["name"], scene::SIGNER_ACCOUNT);
    }
}
