//! `kubectl podmint doctor` on real API servers: a healthy cluster is called so, each thing that can be wrong with one is provoked
//! and found, and mended by nothing but what the doctor prints. What only a kubelet can show is in `tests/node`.

use std::path::PathBuf;

use podmint_tests::kept::Scratch;
use podmint_tests::server::{Kubernetes, Settings};
use podmint_tests::signer::Signer;
use podmint_tests::until::until;
use podmint_tests::{Bed, Stage, Who, assets, call, install};
use serde_json::{Value, json};
use tokio::process::Command;

/// Before there is a node, all can be seen and all is well. A node without a kubelet is a thing not seen, and is said to be. Who may
/// see nothing is told so, and hears nothing of health.
#[test]
fn a_healthy_cluster_is_called_healthy_and_what_was_not_seen_is_said() {
    podmint_tests::run(async {
        let (bed, stage, signer) = healthy(true).await;
        let doctor = Doctor::of(&bed);
        let report = doctor.until("all is well", |report| report.ids().is_empty()).await;
        assert_eq!((report.status, report.unseen.len()), (0, 0), "{report:?}");

        let pod = stage.any_pod().await;
        let request = stage.request_for(&pod).make().await;
        stage.issued(&request).await;
        // The stories' pods name no user.
        let report = doctor.until("the pod is seen", |report| report.ids() == ["key-readable-by-all"]).await;
        assert_eq!(report.status, 2, "{report:?}");
        let [unseen] = report.unseen.as_slice() else { panic!("only the kubelet cannot be asked: {report:?}") };
        assert!(unseen["what"].as_str().unwrap().contains(&format!("the kubelet of {}", pod.node.name)), "{unseen}");
        assert_eq!(unseen["forWantOfRights"], false, "{unseen}");

        let nobody = stage.account("nobody").await;
        let kubeconfig = bed.kubeconfig(&stage.namespace, &nobody.name).await;
        let report = Doctor::with(&kubeconfig).looks().await;
        assert_eq!((report.status, report.findings.len()), (2, 0), "{report:?}");
        let unseen: Vec<&str> = report.unseen.iter().map(|unseen| unseen["what"].as_str().unwrap()).collect();
        for what in [
            "the admission guard",
            "whether the admission guard refuses a forged request",
            "whether NodeRestriction refuses a forged request",
            "the signer's Lease",
            "the signer's configuration",
            "certificate requests",
            "pods",
            "nodes",
            "the nodes' Leases",
            "kube-proxy's mode",
            "what is on hold",
        ] {
            assert!(unseen.contains(&what), "{what} was passed in silence: {unseen:?}");
        }
        assert!(report.unseen.iter().all(|unseen| unseen["forWantOfRights"] == true), "{report:?}");
        signer.stop().await;
    });
}

/// The guard, NodeRestriction, v1beta1, kube-proxy, a clock, the signer: each broken once, found, and mended by what is printed.
#[test]
fn what_is_wrong_with_a_cluster_is_found_and_mended_by_what_is_printed() {
    podmint_tests::run(async {
        let (bed, stage, signer) = healthy(false).await;
        let doctor = Doctor::of(&bed);
        doctor.mends(&bed, "node-restriction-off").await;

        install::remove_guard(&bed).await;
        doctor.mends(&bed, "guard-missing").await;
        let (status, said) = doctor.shell("kubectl podmint guard --namespace Mint").await;
        assert!(status == 2 && said.contains("--namespace is no namespace"), "a guard that nobody can satisfy: {said}");
        let admin = &stage.admin;
        let binding = format!("{ADMISSION}/validatingadmissionpolicybindings/podmint-requests");
        call::patch(admin, &binding, &json!({"spec": {"validationActions": ["Audit"]}})).await.unwrap();
        doctor.mends(&bed, "guard-unbound").await;
        let policy = format!("{ADMISSION}/validatingadmissionpolicies/podmint-requests");
        call::patch(admin, &policy, &json!({"spec": {"failurePolicy": "Ignore"}})).await.unwrap();
        doctor.mends(&bed, "guard-changed").await;

        let proxy = "/api/v1/namespaces/kube-system/configmaps/kube-proxy";
        call::patch(admin, proxy, &json!({"data": {"config.conf": proxy_configuration("ipvs")}})).await.unwrap();
        doctor.mends(&bed, "kube-proxy-ipvs").await;

        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let lease = json!({"metadata": {"name": "node-a"}, "spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}});
        call::post(admin, leases, &lease).await.unwrap();
        doctor.until("the clock that is behind is found", |report| report.ids() == ["clock-of-node"]).await;
        call::delete(admin, &format!("{leases}/node-a")).await.unwrap();

        let node = stage.node("node-a").await;
        let old = json!({"status": {"nodeInfo": {"kubeletVersion": "v1.36.3"}}});
        call::patch(admin, &format!("/api/v1/nodes/{}/status", node.name), &old).await.unwrap();
        // That it declares no features is another finding, and true.
        doctor.finds(&["v1beta1-needed", "no-declared-features"]).await;
        doctor.mends(&bed, "v1beta1-needed").await;

        signer.stop().await;
        let lease = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases/podmint-signer", stage.signer_namespace);
        call::patch(admin, &lease, &json!({"spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}})).await.unwrap();
        doctor.until("the silent signer is found", |report| report.ids().contains(&"no-signer")).await;
        let signer = stage.a_signer().guarded().start().await.ready().await;
        doctor.until("the signer is back", |report| !report.ids().contains(&"no-signer")).await;
        signer.stop().await;
    });
}

/// Pods that say the wrong thing: each is found, and the command that is printed makes it right.
#[test]
fn what_is_wrong_with_pods_is_found_and_mended_by_what_is_printed() {
    podmint_tests::run(async {
        let (bed, stage, signer) = healthy(true).await;
        let doctor = Doctor::of(&bed);
        let name = &stage.signer_name;
        let path = name.strip_prefix("podmint.dev/").unwrap();
        // Bound to no node: a pod of a node goes when its kubelet has ended it, and there is none.
        let good = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": stage.namespace},
            "spec": {
                "securityContext": {"fsGroup": 65532},
                "containers": [{"name": "app", "image": "app", "volumeMounts": [{"name": "identity", "mountPath": "/identity"}]}],
                "volumes": [{"name": "identity", "projected": {"sources": [
                    {"podCertificate": {"signerName": name, "keyType": "ECDSAP256", "credentialBundlePath": "bundle.pem"}},
                    {"clusterTrustBundle": {"signerName": name, "labelSelector": {}, "path": "roots.pem"}},
                ]}}],
            },
        });
        let trust = "/spec/volumes/0/projected/sources/1/clusterTrustBundle";
        let by_file = |file: &str| json!({"name": "identity", "mountPath": format!("/tls/{file}"), "subPath": file});
        for (id, changes) in [
            (
                "trust-by-name",
                vec![(trust, json!({"name": format!("podmint.dev:{path}:podmint"), "path": "roots.pem"}))],
            ),
            ("trust-selects-nothing", vec![(trust, json!({"signerName": name, "path": "roots.pem"}))]),
            (
                "sub-path",
                vec![("/spec/containers/0/volumeMounts", json!([by_file("bundle.pem"), by_file("roots.pem")]))],
            ),
            ("key-readable-by-all", vec![("/spec/securityContext", json!({"runAsNonRoot": true}))]),
            (
                "key-unreadable",
                vec![
                    ("/spec/securityContext", json!({"runAsNonRoot": true})),
                    ("/spec/volumes/0/projected/defaultMode", json!(0o400)),
                ],
            ),
            (
                "nobody-serves",
                vec![
                    ("/spec/volumes/0/projected/sources/0/podCertificate/signerName", json!("podmint.dev/wrkload")),
                    (&format!("{trust}/signerName"), json!("podmint.dev/wrkload")),
                ],
            ),
        ] {
            let mut pod = good.clone();
            for (pointer, value) in changes {
                let (parent, field) = pointer.rsplit_once('/').unwrap();
                pod.pointer_mut(parent).unwrap()[field] = value;
            }
            call::post(&stage.admin, &stage.core("pods"), &pod).await.unwrap();
            doctor.mends(&bed, id).await;
            // The command leaves a pod that is right in all else, too.
            let mended = call::get(&stage.admin, &stage.core("pods/web")).await.unwrap();
            let source = &mended["spec"]["volumes"][0]["projected"]["sources"][0]["podCertificate"];
            assert_eq!(source["signerName"], *name, "{id}: {source}");
            call::delete(&stage.admin, &stage.core("pods/web")).await.unwrap();
        }
        let mut stranger = good;
        stranger["spec"]["volumes"][0]["projected"]["sources"][1]["clusterTrustBundle"]["signerName"] =
            json!("example.org/x");
        call::post(&stage.admin, &stage.core("pods"), &stranger).await.unwrap();
        let report = doctor.finds(&["no-trust-bundle"]).await;
        assert_eq!(report.status, 1, "{report:?}");
        signer.stop().await;
    });
}

mod v1_37 {
    #[test]
    fn an_api_that_is_off_is_found_and_mended() {
        podmint_tests::run(super::an_api_that_is_off_is_found_and_mended("1.37.2"));
    }
}

mod v1_36 {
    #[test]
    #[ignore = "tests/run --rest"]
    fn an_api_that_is_off_is_found_and_mended() {
        podmint_tests::run(super::an_api_that_is_off_is_found_and_mended("1.36.3"));
    }
}

mod v1_35 {
    #[test]
    #[ignore = "tests/run --rest"]
    fn an_api_that_is_off_is_found_and_mended() {
        podmint_tests::run(super::an_api_that_is_off_is_found_and_mended("1.35.4"));
    }
}

/// Where the feature gates are off, the API server takes a pod and silently drops its certificate. The doctor sees both, and what it
/// prints mends first the API server and then the pod.
async fn an_api_that_is_off_is_found_and_mended(version: &'static str) {
    let bed = Bed::own(Settings { node_restriction: true, pod_certificates: false, ..Settings::of(version) }).await;
    let doctor = Doctor::of(&bed);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": "default"},
        "spec": {
            "securityContext": {"fsGroup": 65532},
            "containers": [{"name": "app", "image": "app", "volumeMounts": [{"name": "identity", "mountPath": "/identity"}]}],
            "volumes": [{"name": "identity", "projected": {"sources": [
                {"podCertificate": {"signerName": "podmint.dev/workload", "keyType": "ECDSAP256", "credentialBundlePath": "bundle.pem"}},
            ]}}],
        },
    });
    doctor.run(&format!("kubectl apply -f - <<'EOF'\n{pod}\nEOF")).await;
    let stored = async || {
        let admin = bed.client(&Who::Admin).await;
        let stored = call::get(&admin, "/api/v1/namespaces/default/pods/web").await.unwrap();
        stored["spec"]["volumes"][0]["projected"]["sources"][0]["podCertificate"]["signerName"].clone()
    };
    assert_eq!(stored().await, Value::Null, "a server with the gate off drops the source");

    let others = ["guard-missing", "no-signer", "kube-proxy-not-found"];
    doctor.finds(&[&["not-served", "source-lost"], &others[..]].concat()).await;
    doctor.mends(&bed, "not-served").await;
    doctor.mends(&bed, "source-lost").await;
    assert_eq!(stored().await, "podmint.dev/workload");
}

/// A server of the story's own, with everything as it should be but perhaps NodeRestriction, and the signer answering.
async fn healthy(node_restriction: bool) -> (Bed, Stage, Signer) {
    let bed = Bed::own(Settings { node_restriction, ..Settings::of(assets::VERSIONS[0]) }).await;
    install::guard(&bed).await;
    let stage = Stage::as_shipped(&bed, "doctor").await;
    let maps = |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps");
    let signers = json!({"metadata": {"name": "podsigners"}, "data": {"signers.yaml": stage.a_signer().document()}});
    call::post(&stage.admin, &maps(&stage.signer_namespace), &signers).await.unwrap();
    let proxy = json!({"metadata": {"name": "kube-proxy"}, "data": {"config.conf": proxy_configuration("nftables")}});
    call::post(&stage.admin, &maps("kube-system"), &proxy).await.unwrap();
    // Nothing runs it; it is there to be restarted.
    let labels = json!({"k8s-app": "kube-proxy"});
    let set = json!({"metadata": {"name": "kube-proxy"}, "spec": {
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "kube-proxy", "image": "kube-proxy"}]}},
    }});
    call::post(&stage.admin, "/apis/apps/v1/namespaces/kube-system/daemonsets", &set).await.unwrap();
    let signer = stage.a_signer().guarded().start().await.ready().await;
    (bed, stage, signer)
}

fn proxy_configuration(mode: &str) -> String {
    format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: \"{mode}\"\n")
}

/// The shipped binary, and a shell that has it as kubectl's plugin.
struct Doctor {
    kubeconfig: PathBuf,
    _scratch: Scratch,
}

#[derive(Debug)]
struct Report {
    status: i32,
    findings: Vec<Value>,
    unseen: Vec<Value>,
}

impl Doctor {
    fn of(bed: &Bed) -> Self {
        Self::with(&server(bed).admin_kubeconfig())
    }

    fn with(kubeconfig: &str) -> Self {
        let scratch = Scratch::new();
        Self { kubeconfig: scratch.write("kubeconfig", kubeconfig), _scratch: scratch }
    }

    async fn looks(&self) -> Report {
        let (status, said) = self.shell("kubectl podmint doctor -o json").await;
        let report: Value = serde_json::from_str(&said).unwrap_or_else(|why| panic!("no JSON ({why}): {said}"));
        let list = |name: &str| report[name].as_array().unwrap().clone();
        Report { status, findings: list("findings"), unseen: list("unseen") }
    }

    /// Looks until it is so. The API server enforces what it has stored a moment later.
    async fn until(&self, what: &str, test: impl Fn(&Report) -> bool) -> Report {
        until(what, async || Some(self.looks().await).filter(&test)).await
    }

    /// Finds exactly these.
    async fn finds(&self, ids: &[&str]) -> Report {
        let sorted = |mut ids: Vec<&str>| {
            ids.sort_unstable();
            ids.join(" ")
        };
        let wanted = sorted(ids.to_vec());
        self.until(&format!("{wanted} is found"), |report| sorted(report.ids()) == wanted).await
    }

    /// Finds it, does what it says, and finds it no more.
    async fn mends(&self, bed: &Bed, id: &'static str) {
        let report = self.until(&format!("{id} is found"), |report| report.ids().contains(&id)).await;
        let finding = report.findings.iter().find(|finding| finding["id"] == id).unwrap();
        if finding["severity"] == "breaks" {
            assert_eq!(report.status, 1, "{report:?}");
        }
        let mend = &finding["mend"];
        match (mend["run"].as_str(), mend["flags"].as_array()) {
            (Some(command), _) => self.run(command).await,
            (None, Some(flags)) => {
                assert_eq!(mend["component"], "kube-apiserver");
                let flags: Vec<String> = flags.iter().map(|flag| flag.as_str().unwrap().to_owned()).collect();
                server(bed).restart_with(&flags).await;
            }
            (None, None) => panic!("nothing mends {finding}"),
        }
        self.until(&format!("{id} is mended"), |report| !report.ids().contains(&id)).await;
    }

    async fn run(&self, command: &str) {
        let (status, said) = self.shell(command).await;
        assert_eq!(status, 0, "{command}\n{said}");
    }

    async fn shell(&self, command: &str) -> (i32, String) {
        let (plugin, kubectl) = (assets::binary("kubectl-podmint"), assets::kubectl());
        let path = format!("PATH={}:{}:$PATH; export PATH\n", plugin.parent().unwrap().display(), kubectl.display());
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("{path}{command}")).env("KUBECONFIG", &self.kubeconfig);
        let done = shell.output().await.unwrap();
        let said = [done.stdout, if done.status.success() { Vec::new() } else { done.stderr }].concat();
        (done.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
    }
}

impl Report {
    fn ids(&self) -> Vec<&str> {
        self.findings.iter().map(|finding| finding["id"].as_str().unwrap()).collect()
    }
}

fn server(bed: &Bed) -> &Kubernetes {
    bed.server().expect("the doctor's stories are about real API servers")
}

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
