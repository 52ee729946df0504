//! A story's own corner of a cluster: a namespace, a signer name, and builders for what stands there.

use serde_json::{Value, json};

use crate::call::{self, Answer, Refused};
use crate::keys::{Key, KeyType};
use crate::server::random_word;
use crate::until::until;
use crate::{Bed, Who, install};

/// Where one story plays.
#[derive(Clone)]
pub struct Stage {
    /// The cluster.
    pub bed: Bed,
    /// The story's namespace. The signer's own objects are here, too.
    pub namespace: String,
    /// The signer's name, `podmint.dev/…`, used by no other story.
    pub signer_name: String,
    /// May do everything.
    pub admin: kube::Client,
    /// What the signer runs as.
    pub signer_account: Who,
    /// Where the signer keeps its CA and its Lease.
    pub signer_namespace: String,
    requests_version: &'static str,
}

/// A node of the API.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A service account.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A pod as it was made.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Where it is bound to.
    pub node: Node,
    /// What it runs as.
    pub account: Account,
    /// The source of the projected volume.
    pub projection: Value,
}

/// A certificate request as it was made.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its path in the API.
    pub path: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Stage {
    /// A new namespace and a signer name of the same word on `bed`.
    pub async fn open(bed: &Bed, story: &str) -> Self {
        Self::open_without(None, bed, story).await
    }

    /// The same, where the signer lacks one right of those that its manifest gives.
    pub async fn open_without(missing: Option<&install::Right>, bed: &Bed, story: &str) -> Self {
        let admin = bed.client(&Who::Admin).await;
        let namespace = format!("{}-{}", story, &random_word()[..6]);
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        made("namespace", call::post(&admin, "/api/v1/namespaces", &object).await);
        let stage = Self {
            bed: bed.clone(),
            signer_name: format!("podmint.dev/{namespace}"),
            // devcluster gives its rights to an account of this name when it starts; it knows no RBAC.
            signer_account: match bed.devcluster() {
                Some(_) => Who::service_account("podmint", install::ACCOUNT),
                None => Who::service_account(&namespace, install::ACCOUNT),
            },
            signer_namespace: namespace.clone(),
            namespace,
            admin,
            requests_version: bed.api_version("podcertificaterequests").await,
        };
        if bed.server().is_some() {
            install::grant(bed, &stage.namespace, missing).await;
        }
        stage
    }

    /// The same with the signer where the manifests put it, with the rights they give, not a word changed.
    pub async fn as_shipped(bed: &Bed, story: &str) -> Self {
        let stage = Self::open(bed, story).await;
        for object in install::manifest("namespace.yaml") {
            install::apply(&stage.admin, &object).await;
        }
        install::rbac(bed, &install::manifest("rbac.yaml")).await;
        let namespace = install::SHIPPED_NAMESPACE.to_owned();
        Self {
            signer_account: Who::service_account(&namespace, install::ACCOUNT),
            signer_namespace: namespace,
            ..stage
        }
    }

    /// Another namespace, for pods of the same signer.
    pub async fn beside(&self, word: &str) -> Self {
        let namespace = format!("{}-{word}", self.namespace);
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        made("namespace", call::post(&self.admin, "/api/v1/namespaces", &object).await);
        Self { namespace, ..self.clone() }
    }

    /// The same stage, whose requests are written through this version of `certificates.k8s.io`.
    pub fn writing(self, version: &'static str) -> Self {
        Self { requests_version: version, ..self }
    }

    /// The same stage, whose signer answers for this name.
    pub fn answering_for(self, signer_name: &str) -> Self {
        Self { signer_name: signer_name.to_owned(), ..self }
    }

    /// Namespace and name of the signer's service account.
    pub fn signer_account_name(&self) -> Option<(&str, &str)> {
        match &self.signer_account {
            Who::ServiceAccount { namespace, name } => Some((namespace, name)),
            Who::Admin | Who::Node(_) | Who::User(_) => None,
        }
    }

    /// A node. Its name carries the namespace: nodes of all stories share one space of names.
    pub async fn node(&self, name: &str) -> Node {
        let name = format!("{name}.{}", self.namespace);
        let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        let node = made("node", call::post(&self.admin, "/api/v1/nodes", &object).await);
        Node { name, uid: uid(&node) }
    }

    /// A service account.
    pub async fn account(&self, name: &str) -> Account {
        let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": self.namespace}});
        let account = made("service account", call::post(&self.admin, &self.core("serviceaccounts"), &object).await);
        Account { name: name.to_owned(), uid: uid(&account) }
    }

    /// A pod to be described and made. Without more words it projects our signer with an `ECDSAP256` key.
    pub fn a_pod(&self, name: &str) -> PodPlan<'_> {
        let projection = json!({"signerName": self.signer_name, "keyType": KeyType::EcdsaP256.word(), "credentialBundlePath": "bundle.pem"});
        PodPlan {
            stage: self,
            name: name.to_owned(),
            node: None,
            account: None,
            projection: Some(projection),
            annotations: json!({}),
            labels: json!({"app": name}),
            more: json!({}),
        }
    }

    /// A Service of the story's namespace, new or changed.
    pub async fn service(&self, name: &str, spec: Value) {
        let object = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": self.namespace}, "spec": spec,
        });
        made("service", call::post(&self.admin, &self.core("services"), &object).await);
    }

    /// A pod `web` on a new node `node-a` as a new account `shop`: for stories that need any good pod.
    pub async fn any_pod(&self) -> Pod {
        self.a_pod("web").on(&self.node("node-a").await).as_account(&self.account("shop").await).make().await
    }

    /// The request an honest kubelet makes for this pod. Each story changes one thing.
    pub fn request_for(&self, pod: &Pod) -> RequestPlan<'_> {
        let mut spec = json!({
            "signerName": pod.projection["signerName"],
            "podName": pod.name, "podUID": pod.uid,
            "serviceAccountName": pod.account.name, "serviceAccountUID": pod.account.uid,
            "nodeName": pod.node.name, "nodeUID": pod.node.uid,
        });
        for (from, to) in
            [("maxExpirationSeconds", "maxExpirationSeconds"), ("userAnnotations", "unverifiedUserAnnotations")]
        {
            if let Some(value) = pod.projection.get(from) {
                spec[to] = value.clone();
            }
        }
        let key_type = KeyType::ALL.into_iter().find(|key_type| pod.projection["keyType"] == key_type.word());
        RequestPlan {
            stage: self,
            name: None,
            spec,
            key_type: key_type.unwrap_or(KeyType::EcdsaP256),
            by: Who::Node(pod.node.name.clone()),
            form: self.form(),
        }
    }

    /// How kubelets of the cluster's own version write requests.
    pub fn form(&self) -> Form {
        if self.bed.wants_proof() { Form::KeyAndProof } else { Form::Stub }
    }

    /// The path of a core resource in the story's namespace.
    pub fn core(&self, resource: &str) -> String {
        format!("/api/v1/namespaces/{}/{resource}", self.namespace)
    }

    /// Where certificate requests of the story's namespace are.
    pub fn requests(&self) -> String {
        let version = self.requests_version;
        format!("/apis/certificates.k8s.io/{version}/namespaces/{}/podcertificaterequests", self.namespace)
    }

    /// The request as it is now, or nothing when it is gone.
    pub async fn read(&self, request: &Request) -> Option<Value> {
        match call::get(&self.admin, &request.path).await {
            Ok(object) => Some(object),
            Err(Refused { code: 404, .. }) => None,
            Err(why) => panic!("could not read {}: {why}", request.path),
        }
    }

    /// Waits for the answer and returns it.
    pub async fn answer(&self, request: &Request) -> Said {
        until(format!("{} is answered", request.name), async || {
            let object = call::get(&self.admin, &request.path).await.ok()?;
            Said::of(&object)
        })
        .await
    }

    /// Waits for the answer, which must be a certificate, and returns the status.
    pub async fn issued(&self, request: &Request) -> Value {
        match self.answer(request).await {
            Said::Issued(status) => status,
            Said::Denied { reason, message } => panic!("{} was denied, {reason}: {message}", request.name),
            Said::Failed { reason, message } => panic!("{} failed, {reason}: {message}", request.name),
        }
    }

    /// The trust bundles published under our signer name.
    pub async fn trust_bundles(&self) -> Vec<Value> {
        let version = self.bed.api_version("clustertrustbundles").await;
        let path = format!(
            "/apis/certificates.k8s.io/{version}/clustertrustbundles?fieldSelector=spec.signerName%3D{}",
            self.signer_name.replace('/', "%2F")
        );
        let list = made("list of trust bundles", call::get(&self.admin, &path).await);
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// The roots published under our signer name, as one PEM text.
    pub async fn published_roots(&self) -> String {
        let bundles = self.trust_bundles().await;
        bundles.iter().filter_map(|bundle| bundle["spec"]["trustBundle"].as_str()).collect()
    }

    /// The Events about this pod.
    pub async fn events_of(&self, pod: &Pod) -> Vec<Value> {
        let list = made("list of events", call::get(&self.admin, &self.core("events")).await);
        let all = list["items"].as_array().cloned().unwrap_or_default();
        all.into_iter().filter(|event| event["involvedObject"]["uid"] == pod.uid).collect()
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// A certificate: the whole status.
    Issued(Value),
    /// No, for ever.
    Denied {
        /// The condition's reason.
        reason: String,
        /// The condition's message.
        message: String,
    },
    /// Never written by our signer.
    Failed {
        /// The condition's reason.
        reason: String,
        /// The condition's message.
        message: String,
    },
}

impl Said {
    /// The answer in this object, if it has one.
    pub fn of(request: &Value) -> Option<Self> {
        let condition = request["status"]["conditions"].as_array()?.first()?;
        let word = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        match condition["type"].as_str()? {
            "Issued" => Some(Self::Issued(request["status"].clone())),
            "Denied" => Some(Self::Denied { reason: word("reason"), message: word("message") }),
            "Failed" => Some(Self::Failed { reason: word("reason"), message: word("message") }),
            other => panic!("an unknown condition {other}"),
        }
    }
}

/// A pod being described.
pub struct PodPlan<'a> {
    stage: &'a Stage,
    name: String,
    node: Option<Node>,
    account: Option<Account>,
    projection: Option<Value>,
    annotations: Value,
    labels: Value,
    more: Value,
}

impl PodPlan<'_> {
    /// Bound to this node.
    pub fn on(mut self, node: &Node) -> Self {
        self.node = Some(node.clone());
        self
    }

    /// Running as this account.
    pub fn as_account(mut self, account: &Account) -> Self {
        self.account = Some(account.clone());
        self
    }

    /// With another key.
    pub fn projecting(mut self, key_type: KeyType) -> Self {
        self.projection_mut()["keyType"] = json!(key_type.word());
        self
    }

    /// With another field in its `podCertificate` source.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.projection_mut()[field] = value;
        self
    }

    /// With no `podCertificate` source at all.
    pub fn projecting_nothing(mut self) -> Self {
        self.projection = None;
        self
    }

    /// With an annotation of its own.
    pub fn annotated(mut self, key: &str, value: &str) -> Self {
        self.annotations[key] = json!(value);
        self
    }

    /// With another label. Every pod has `app`, its name.
    pub fn labelled(mut self, key: &str, value: &str) -> Self {
        self.labels[key] = json!(value);
        self
    }

    /// With another field in its spec.
    pub fn specified(mut self, field: &str, value: Value) -> Self {
        self.more[field] = value;
        self
    }

    /// Makes it; the API server must take it.
    pub async fn make(self) -> Pod {
        self.try_make().await.unwrap_or_else(|why| panic!("the API server did not take a pod: {why}"))
    }

    /// Makes it if the API server takes it.
    pub async fn try_make(self) -> Result<Pod, Refused> {
        let (node, account) = (self.node.expect("a pod is on a node"), self.account.expect("a pod runs as an account"));
        let sources: Vec<Value> = self.projection.iter().map(|source| json!({"podCertificate": source})).collect();
        let volumes = if sources.is_empty() {
            json!([])
        } else {
            json!([{"name": "identity", "projected": {"sources": sources}}])
        };
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": self.stage.namespace, "annotations": self.annotations, "labels": self.labels,
            },
            "spec": {
                "nodeName": node.name, "serviceAccountName": account.name,
                "containers": [{"name": "app", "image": "app"}], "volumes": volumes,
            },
        });
        for (field, value) in self.more.as_object().into_iter().flatten() {
            object["spec"][field] = value.clone();
        }
        let pod = call::post(&self.stage.admin, &self.stage.core("pods"), &object).await?;
        let projection = self.projection.unwrap_or_else(|| json!({"signerName": self.stage.signer_name}));
        Ok(Pod { name: self.name, uid: uid(&pod), node, account, projection })
    }

    fn projection_mut(&mut self) -> &mut Value {
        self.projection.as_mut().expect("a pod that projects something")
    }
}

/// How a request carries its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A PKCS#10 request, from 1.36 on.
    Stub,
    /// A public key and a signature of the pod's UID, up to 1.35.
    KeyAndProof,
}

/// A certificate request being described.
pub struct RequestPlan<'a> {
    stage: &'a Stage,
    name: Option<String>,
    spec: Value,
    key_type: KeyType,
    by: Who,
    form: Form,
}

impl RequestPlan<'_> {
    /// The type of the key it will carry.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// With a key of another type.
    pub fn key(mut self, key_type: KeyType) -> Self {
        self.key_type = key_type;
        self
    }

    /// With another value in its spec.
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.spec[field] = value.into();
        self
    }

    /// Made by somebody else than the pod's node.
    pub fn by(mut self, who: &Who) -> Self {
        self.by = who.clone();
        self
    }

    /// Under this name.
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// As kubelets of another version write it.
    pub fn in_form(mut self, form: Form) -> Self {
        self.form = form;
        self
    }

    /// Makes it; the API server must take it.
    pub async fn make(self) -> Request {
        self.try_make().await.unwrap_or_else(|why| panic!("the API server did not take an honest request: {why}"))
    }

    /// Makes it with this key; the API server must take it.
    pub async fn make_with(self, key: &Key) -> Request {
        self.try_make_with(key)
            .await
            .unwrap_or_else(|why| panic!("the API server did not take an honest request: {why}"))
    }

    /// Makes it if the API server takes it.
    pub async fn try_make(self) -> Result<Request, Refused> {
        let key = Key::make(self.key_type);
        self.try_make_with(&key).await
    }

    async fn try_make_with(self, key: &Key) -> Result<Request, Refused> {
        let client = self.stage.bed.client(&self.by).await;
        let path = self.stage.requests();
        let object = call::post(&client, &path, &self.object(key)).await?;
        let name = object["metadata"]["name"].as_str().expect("an object has a name").to_owned();
        Ok(Request { path: format!("{path}/{name}"), name, uid: uid(&object) })
    }

    /// The object itself, for those who want to send it in another way.
    pub fn object(mut self, key: &Key) -> Value {
        let base64 =
            |bytes: &[u8]| Value::from(base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes));
        match self.form {
            Form::Stub if self.spec.get("stubPKCS10Request").is_none() => {
                self.spec["stubPKCS10Request"] = base64(&key.stub_request())
            }
            Form::Stub => {}
            Form::KeyAndProof => {
                let pod_uid = self.spec["podUID"].as_str().unwrap_or_default().to_owned();
                self.spec["pkixPublicKey"] = base64(&key.public());
                self.spec["proofOfPossession"] = base64(&key.proof(&pod_uid));
            }
        }
        let mut metadata = json!({"namespace": self.stage.namespace});
        match self.name {
            Some(name) => metadata["name"] = json!(name),
            None => metadata["generateName"] = json!("req-"),
        }
        let version = format!("certificates.k8s.io/{}", self.stage.requests_version);
        json!({"apiVersion": version, "kind": "PodCertificateRequest", "metadata": metadata, "spec": self.spec})
    }
}

/// The object's UID.
pub fn uid(object: &Value) -> String {
    object["metadata"]["uid"].as_str().expect("an object has a UID").to_owned()
}

fn made(what: &str, answer: Answer) -> Value {
    answer.unwrap_or_else(|why| panic!("{what}: {why}"))
}
