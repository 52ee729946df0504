//! A pod's way from its creation to running with credentials, against a signer of twenty lines.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "a test stops at the first surprise"
)]

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{
    Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams,
};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt as _};
use podmint_devcluster::node::{NodeAgent, NodeOptions, Ownership, Pace, State, What};
use podmint_devcluster::{DevCluster, Identity, Options, Versions};
use rcgen::{BasicConstraints, CertificateParams, Issuer, KeyPair, SubjectPublicKeyInfo};
use serde_json::{Value, json};
use time::OffsetDateTime;

fn resource(group: &str, version: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
}

fn requests(client: &Client, versions: Versions) -> Api<DynamicObject> {
    let version = if versions == Versions::V1_37 { "v1" } else { "v1beta1" };
    Api::all_with(client.clone(), &resource("certificates.k8s.io", version, "PodCertificateRequest"))
}

fn pod(name: &str, key_type: &str) -> DynamicObject {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "nodeName": "n1", "containers": [{ "name": "c", "image": "i" }],
            "volumes": [{ "name": "id", "projected": { "sources": [
                { "podCertificate": { "signerName": "example.com/test", "keyType": key_type, "maxExpirationSeconds": 7200,
                    "credentialBundlePath": "bundle.pem", "keyPath": "key.pem", "certificateChainPath": "chain.pem",
                    "userAnnotations": { "example.com/a": "b" } } },
                { "clusterTrustBundle": { "signerName": "example.com/test", "labelSelector": {}, "path": "trust.pem" } },
            ] } }],
        },
    }))
    .unwrap()
}

/// Signs or denies whatever comes.
struct Signer {
    ca: Issuer<'static, KeyPair>,
    anchor: String,
}

impl Signer {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(BasicConstraints::Unconstrained);
        let anchor = params.self_signed(&key).unwrap().pem();
        Self { ca: Issuer::new(params, key), anchor }
    }

    async fn publish(&self, client: &Client, versions: Versions) {
        let version = if versions == Versions::V1_37 { "v1" } else { "v1beta1" };
        let bundles: Api<DynamicObject> =
            Api::all_with(client.clone(), &resource("certificates.k8s.io", version, "ClusterTrustBundle"));
        let bundle = serde_json::from_value(json!({
            "apiVersion": format!("certificates.k8s.io/{version}"), "kind": "ClusterTrustBundle",
            "metadata": { "name": "example.com:test:main" },
            "spec": { "signerName": "example.com/test", "trustBundle": self.anchor },
        }));
        bundles.create(&PostParams::default(), &bundle.unwrap()).await.unwrap();
    }

    fn issue(&self, request: &DynamicObject) -> Value {
        let spec = &request.data["spec"];
        let stub = spec["stubPKCS10Request"].as_str();
        let spki = match stub {
            Some(stub) => stub_key(&STANDARD.decode(stub).unwrap()),
            None => STANDARD.decode(spec["pkixPublicKey"].as_str().unwrap()).unwrap(),
        };
        let public = SubjectPublicKeyInfo::from_der(&spki).unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
        params.not_before = now - Duration::from_secs(60);
        params.not_after = params.not_before + Duration::from_secs(7200);
        let leaf = params.signed_by(&public, &self.ca).unwrap();
        let at = |time: OffsetDateTime| time.format(&time::format_description::well_known::Rfc3339).unwrap();
        json!({ "status": {
            "conditions": [condition("Issued")],
            "certificateChain": format!("words\n{}", leaf.pem()),
            "notBefore": at(params.not_before), "notAfter": at(params.not_after),
            "beginRefreshAt": at(params.not_before + Duration::from_secs(3600)),
        } })
    }
}

fn condition(kind: &str) -> Value {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).unwrap();
    let now = now.format(&time::format_description::well_known::Rfc3339).unwrap();
    json!({ "type": kind, "status": "True", "reason": "Test", "message": "a test", "lastTransitionTime": now })
}

/// The public key inside an empty PKCS#10: after version and empty subject.
fn stub_key(der: &[u8]) -> Vec<u8> {
    use x509_parser::prelude::FromDer as _;
    let (_, request) = x509_parser::certification_request::X509CertificationRequest::from_der(der).unwrap();
    request.certification_request_info.subject_pki.raw.to_vec()
}

struct Rig {
    cluster: DevCluster,
    admin: Client,
    agent: NodeAgent,
    signer: Signer,
    versions: Versions,
    volumes: tempfile::TempDir,
}

impl Rig {
    async fn new(versions: Versions, change: impl FnOnce(NodeOptions) -> NodeOptions) -> Self {
        let cluster = DevCluster::start(Options { versions, ..Options::default() }).await.unwrap();
        let admin = cluster.client(&Identity::Admin);
        let volumes = tempfile::tempdir().unwrap();
        let options = NodeOptions { kubelet: versions.kubelet(), ..NodeOptions::new("n1", volumes.path()) };
        let agent = NodeAgent::start(cluster.client(&Identity::node("n1")), change(options)).await.unwrap();
        let signer = Signer::new();
        signer.publish(&admin, versions).await;
        Self { cluster, admin, agent, signer, versions, volumes }
    }

    fn pods(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.admin.clone(), "default", &resource("", "v1", "Pod"))
    }

    /// The next request that is not answered yet.
    async fn next_request(&self) -> DynamicObject {
        let all = requests(&self.admin, self.versions);
        let mut watch = all.watch(&WatchParams::default(), "0").await.unwrap().boxed();
        let search = async {
            loop {
                if let WatchEvent::Added(request) = watch.try_next().await.unwrap().unwrap()
                    && request.data["status"]["conditions"].is_null()
                {
                    return request;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), search).await.unwrap()
    }

    async fn answer(&self, request: &DynamicObject, status: &Value) {
        let kind = requests(&self.admin, self.versions).resource_url().to_owned();
        assert!(kind.contains("podcertificaterequests"));
        let version = if self.versions == Versions::V1_37 { "v1" } else { "v1beta1" };
        let namespaced: Api<DynamicObject> = Api::namespaced_with(
            self.admin.clone(),
            "default",
            &resource("certificates.k8s.io", version, "PodCertificateRequest"),
        );
        namespaced.patch_status(&request.name_any(), &PatchParams::default(), &Patch::Merge(status)).await.unwrap();
    }

    async fn issue_next(&self) {
        let request = self.next_request().await;
        self.answer(&request, &self.signer.issue(&request)).await;
    }

    async fn state(&self, wanted: State) {
        until(async || self.agent.states().await.iter().any(|source| source.state == wanted)).await;
    }

    fn file(&self, pod: &str, name: &str) -> String {
        std::fs::read_to_string(self.agent.volume("default", pod, "id").join(name)).unwrap_or_default()
    }

    /// The first time, a volume's links are made one after the other, by name: whoever finds the last finds all.
    async fn has_files(&self, pod: &str) {
        until(async || !self.file(pod, "trust.pem").is_empty()).await;
    }

    /// A file that is just being replaced may be missing for a moment between two looks.
    async fn renewed(&self, pod: &str, old: &str) {
        until(async || {
            let bundle = self.file(pod, "bundle.pem");
            !bundle.is_empty() && bundle != old
        })
        .await;
    }
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
}

async fn comes_up(versions: Versions, key_type: &str) {
    let rig = Rig::new(versions, |options| options).await;
    let mut events = rig.agent.events();
    let made = rig.pods().create(&PostParams::default(), &pod("web", key_type)).await.unwrap();
    let request = rig.next_request().await;
    assert!(request.name_any().starts_with("req-"));
    assert_eq!(request.owner_references()[0].uid, made.uid().unwrap());
    assert_eq!(request.data["spec"]["maxExpirationSeconds"], 7200);
    assert_eq!(request.data["spec"]["unverifiedUserAnnotations"]["example.com/a"], "b");
    assert_eq!(rig.pods().get("web").await.unwrap().data["status"]["phase"], "Pending");
    rig.answer(&request, &rig.signer.issue(&request)).await;
    until(async || rig.pods().get("web").await.unwrap().data["status"]["phase"] == "Running").await;
    let bundle = rig.file("web", "bundle.pem");
    assert_eq!(bundle, format!("{}{}", rig.file("web", "key.pem"), rig.file("web", "chain.pem")));
    assert!(bundle.starts_with("-----BEGIN PRIVATE KEY-----\n") && !bundle.contains("words"), "{key_type}");
    assert_eq!(rig.file("web", "trust.pem"), rig.signer.anchor.replace("\r\n", "\n"));
    let mut seen = Vec::new();
    // They are told after the pod's status is written.
    while !seen.contains(&What::Running) {
        let event = tokio::time::timeout(Duration::from_secs(20), events.recv()).await;
        assert!(event.is_ok(), "only these were told: {seen:?}");
        seen.push(event.unwrap().unwrap().what);
    }
    assert!(seen.contains(&What::Issued { request: request.name_any(), renewal: false }), "{seen:?}");
    assert!(seen.contains(&What::FilesWritten), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_comes_up_on_every_version() {
    for versions in [Versions::V1_37, Versions::V1_36, Versions::V1_35] {
        comes_up(versions, "ECDSAP256").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_comes_up_with_every_key_type() {
    for key_type in ["ED25519", "ECDSAP384", "RSA3072"] {
        comes_up(Versions::V1_37, key_type).await;
        comes_up(Versions::V1_35, key_type).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_brings_a_new_key_and_keeps_the_old_until_then() {
    let rig = Rig::new(Versions::V1_37, |options| options).await;
    rig.pods().create(&PostParams::default(), &pod("web", "ECDSAP256")).await.unwrap();
    assert_eq!(rig.agent.refresh("default", "web").await, 0, "there is nothing to refresh yet");
    rig.issue_next().await;
    rig.state(State::Fresh).await;
    rig.has_files("web").await;
    let old = rig.file("web", "bundle.pem");
    assert_eq!(rig.agent.refresh("default", "web").await, 1);
    rig.state(State::WaitRefresh).await;
    assert_eq!(rig.file("web", "bundle.pem"), old);
    rig.issue_next().await;
    rig.renewed("web", &old).await;
    rig.agent.restart().await;
    assert_eq!(rig.agent.states().await.len(), 1);
    rig.state(State::Wait).await;
    let kept = rig.file("web", "bundle.pem");
    assert!(!kept.is_empty(), "files outlive the agent's memory");
    rig.issue_next().await;
    rig.renewed("web", &kept).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn renewals_can_be_asked_for_at_any_pace() {
    let rig = Rig::new(Versions::V1_37, |options| options).await;
    rig.pods().create(&PostParams::default(), &pod("web", "ECDSAP256")).await.unwrap();
    rig.agent.refresh_every(Some(Duration::from_millis(50))).await;
    for _ in 0..5 {
        rig.issue_next().await;
    }
    rig.agent.refresh_every(None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_refresh_is_final_until_the_agent_restarts() {
    let rig = Rig::new(Versions::V1_37, |options| options).await;
    rig.pods().create(&PostParams::default(), &pod("web", "ECDSAP256")).await.unwrap();
    rig.issue_next().await;
    rig.state(State::Fresh).await;
    rig.has_files("web").await;
    let old = rig.file("web", "bundle.pem");
    rig.agent.refresh("default", "web").await;
    let request = rig.next_request().await;
    rig.answer(&request, &json!({ "status": { "conditions": [condition("Denied")] } })).await;
    rig.state(State::Denied).await;
    assert_eq!(rig.agent.refresh("default", "web").await, 0);
    assert_eq!(rig.file("web", "bundle.pem"), old, "the files stay as they were");
    rig.agent.restart().await;
    rig.issue_next().await;
    rig.renewed("web", &old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_vanishes_is_made_again_but_not_at_once() {
    let short = Duration::from_millis(6000)..Duration::from_millis(6001);
    let rig = Rig::new(Versions::V1_37, |options| NodeOptions {
        pace: Pace {
            abandon_after: short,
            refresh_pass: Duration::from_millis(50)..Duration::from_millis(60),
            ..Pace::prompt()
        },
        ..options
    })
    .await;
    rig.pods().create(&PostParams::default(), &pod("web", "ED25519")).await.unwrap();
    let lost = rig.next_request().await;
    let version = resource("certificates.k8s.io", "v1", "PodCertificateRequest");
    let all: Api<DynamicObject> = Api::namespaced_with(rig.admin.clone(), "default", &version);
    all.delete(&lost.name_any(), &DeleteParams::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(all.list(&ListParams::default()).await.unwrap().items.is_empty(), "it might be lag");
    assert_ne!(rig.next_request().await.name_any(), lost.name_any());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_missing_source_holds_back_the_whole_volume() {
    let rig = Rig::new(Versions::V1_37, |options| options).await;
    let mut web = pod("web", "ED25519");
    web.data["spec"]["volumes"][0]["projected"]["sources"][1]["clusterTrustBundle"]["signerName"] =
        "example.com/other".into();
    rig.pods().create(&PostParams::default(), &web).await.unwrap();
    rig.issue_next().await;
    rig.state(State::Fresh).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(rig.file("web", "bundle.pem"), "");
    assert_eq!(rig.pods().get("web").await.unwrap().data["status"]["phase"], "Pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_goes_takes_its_volumes_along_and_a_new_one_starts_anew() {
    let rig = Rig::new(Versions::V1_37, |options| NodeOptions { ownership: Ownership::FsGroup, ..options }).await;
    rig.pods().create(&PostParams::default(), &pod("web", "ED25519")).await.unwrap();
    rig.issue_next().await;
    rig.has_files("web").await;
    assert_eq!(mode(&rig.agent.volume("default", "web", "id").join("key.pem")), 0o640);
    rig.pods().delete("web", &DeleteParams::default()).await.unwrap();
    until(async || rig.pods().get_opt("web").await.unwrap().is_none()).await;
    until(async || !rig.volumes.path().join("default/web").exists()).await;
    let left = requests(&rig.admin, Versions::V1_37).list(&ListParams::default()).await.unwrap();
    assert!(left.items.is_empty(), "requests go with their pod");
    rig.pods().create(&PostParams::default(), &pod("web", "ED25519")).await.unwrap();
    rig.issue_next().await;
    rig.has_files("web").await;
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_lives_through_an_outage() {
    let rig = Rig::new(Versions::V1_37, |options| options).await;
    rig.cluster.go_down();
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.cluster.come_back().await.unwrap();
    rig.pods().create(&PostParams::default(), &pod("web", "ED25519")).await.unwrap();
    rig.issue_next().await;
    rig.state(State::Fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_kubelet_named_by_a_request_may_make_it() {
    let rig = Rig::new(Versions::V1_37, |options| options).await;
    rig.pods().create(&PostParams::default(), &pod("web", "ED25519")).await.unwrap();
    let honest = rig.next_request().await;
    let kind = resource("certificates.k8s.io", "v1", "PodCertificateRequest");
    let copy = |change: &dyn Fn(&mut Value)| {
        let mut request = DynamicObject::new("", &kind);
        request.metadata.name = None;
        request.metadata.generate_name = Some("req-".to_owned());
        request.data = json!({ "spec": honest.data["spec"] });
        change(&mut request.data["spec"]);
        request
    };
    let ask = async |who: &str, request: DynamicObject| {
        let client = rig.cluster.client(&Identity::node(who));
        let api: Api<DynamicObject> = Api::namespaced_with(client, "default", &kind);
        match api.create(&PostParams::default(), &request).await {
            Ok(_) => 201,
            Err(kube::Error::Api(status)) => status.code,
            Err(_) => 0,
        }
    };
    let set = |field: &'static str, value: &'static str| copy(&move |spec: &mut Value| spec[field] = value.into());
    let n2 = NodeOptions::new("n2", rig.volumes.path().join("n2"));
    let other = NodeAgent::start(rig.cluster.client(&Identity::node("n2")), n2).await.unwrap();
    let nodes: Api<DynamicObject> = Api::all_with(rig.admin.clone(), &resource("", "v1", "Node"));
    let uid = nodes.get(other.name()).await.unwrap().uid().unwrap();
    let moved = copy(&|spec| {
        spec["nodeName"] = "n2".into();
        spec["nodeUID"] = uid.clone().into();
    });
    let mut answers = vec![
        ("honest", ask("n1", copy(&|_| ())).await),
        ("N2", ask("n2", copy(&|_| ())).await),
        ("N3", ask("n1", set("nodeUID", "x")).await),
        ("N4 uid", ask("n1", set("podUID", "x")).await),
        ("N4 name", ask("n1", set("podName", "gone")).await),
        ("N5", ask("n2", moved).await),
        ("N7", ask("n1", set("serviceAccountName", "other")).await),
        ("N8", ask("n1", set("serviceAccountUID", "x")).await),
        ("N9", ask("n1", set("signerName", "example.com/else")).await),
    ];
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { "kubernetes.io/config.mirror": "x" } } }));
    rig.pods().patch("web", &PatchParams::default(), &patch).await.unwrap();
    answers.push(("N6", ask("n1", copy(&|_| ())).await));
    // What may be the lag of a cache is no 403, so that retries go on.
    let expected = vec![
        ("honest", 201),
        ("N2", 403),
        ("N3", 500),
        ("N4 uid", 500),
        ("N4 name", 500),
        ("N5", 403),
        ("N7", 403),
        ("N8", 500),
        ("N9", 403),
        ("N6", 403),
    ];
    assert_eq!(answers, expected);
}
