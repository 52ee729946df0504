//! `kubectl podmint explain` says beforehand what the signer then does, word for word.

use podmint_signer::kubectl::Installation;
use podmint_signer::kubectl::explain::{Question, Which, explain};
use podmint_signer::kubectl::shown::Shown as _;
use podmint_signer::names::{DnsName, Namespace, PodName};
use podmint_tests::kept::Scratch;
use podmint_tests::keys::KeyType;
use podmint_tests::signer::Signer;
use podmint_tests::stage::{Account, Node, Pod, Request, Said};
use podmint_tests::until::until;
use podmint_tests::{Bed, Stage, assets, call, leaf};
use serde_json::{Value, json};

/// Random pods under random rules: for each the answer, its words, its life and its rule are those that were explained; what waits or
/// is denied does so with the very message.
#[test]
fn what_is_explained_is_what_the_signer_does() {
    podmint_tests::run(explained_as_done(5, 20, 0x5eed));
}

mod long {
    #[test]
    #[ignore = "tests/run --long"]
    fn what_is_explained_is_what_the_signer_does_for_a_thousand_pods() {
        podmint_tests::run(super::explained_as_done(25, 40, 0xf00d));
    }
}

async fn explained_as_done(rounds: usize, pods: usize, seed: u64) {
    let bed = Bed::shared(assets::VERSIONS[0]).await;
    let stage = Stage::open(&bed, "explain").await;
    let ground = Ground::make(&stage).await;
    let mut chance = Chance(seed);
    let mut counts = [0; 3];
    for round in 0..rounds {
        let plan = chance.rules(&stage);
        let document = plan.document();
        let signer = plan.start().await.ready().await;
        let mut asked = Vec::new();
        for number in 0..pods {
            let pod = ground.pod(&stage, &mut chance, &format!("pod-{round}-{number}")).await;
            let said = explained(&stage, &document, Which::Named(PodName::parse(&pod.name).unwrap())).await;
            let request = stage.request_for(&pod).make().await;
            asked.push((pod, said, request));
        }
        for (pod, said, request) in asked {
            counts[compare(&stage, &signer, &pod, &said, &request, &document).await] += 1;
        }
        signer.stop().await;
    }
    eprintln!("issued, held, denied: {counts:?}");
    assert!(counts.iter().all(|count| *count > 0), "random pods that have all one fate show nothing: {counts:?}");
}

/// A pod that is not there yet is explained by its manifest, by the configuration in the cluster, and by the command itself.
#[test]
fn a_planned_pod_is_explained() {
    podmint_tests::run(async {
        let bed = Bed::shared(assets::VERSIONS[0]).await;
        let stage = Stage::open(&bed, "planned").await;
        let document = stage.a_signer().with("profile", json!({"dnsNames": ["services"]})).document();
        stage.service("front", json!({"selector": {"app": "web"}, "ports": [{"port": 443}]})).await;
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web", "namespace": stage.namespace, "labels": {"app": "web"}},
            "spec": {"serviceAccountName": "shop", "containers": [], "volumes": [{"name": "identity", "projected": {"sources": [
                {"podCertificate": {"signerName": stage.signer_name, "keyType": "ED25519"}},
            ]}}]},
        });
        let said = explained(&stage, &document, Which::Planned(manifest.clone())).await;
        let names = [
            format!("URI:{}", stage.identity_of("shop")),
            format!("DNS:front.{}.svc", stage.namespace),
            format!("DNS:front.{}.svc.cluster.local", stage.namespace),
        ];
        assert_eq!((said["answer"].as_str(), listed(&said)), (Some("issued"), names.to_vec()), "{said}");
        assert_eq!(said["names"][1]["because"], "Service front selects the pod");

        let map = json!({"metadata": {"name": "podmint-signers"}, "data": {"signers.yaml": document}});
        call::post(&stage.admin, &stage.core("configmaps"), &map).await.unwrap();
        let scratch = Scratch::new();
        let kubeconfig = scratch.write("kubeconfig", &bed.server().unwrap().admin_kubeconfig());
        let mut command = tokio::process::Command::new(assets::binary("kubectl-podmint"));
        command.arg("explain").arg("-f").arg(scratch.write("pod.yaml", &manifest.to_string()));
        command.arg("--signer-namespace").arg(&stage.namespace).arg("--kubeconfig").arg(kubeconfig);
        let done = command.output().await.unwrap();
        let text = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success(), "{text}{}", String::from_utf8_lossy(&done.stderr));
        for word in
            ["gets a certificate by rule story of PodSigner story", &names[1], "(Service front selects the pod)"]
        {
            assert!(text.contains(word), "{word:?} is not in\n{text}");
        }
    });
}

/// What random pods are made of.
struct Ground {
    nodes: [Node; 2],
    accounts: [Account; 2],
}

impl Ground {
    async fn make(stage: &Stage) -> Self {
        let nodes = [stage.node("trusted").await, stage.node("spot").await];
        let labels = json!({"metadata": {"labels": {"pool": "trusted"}}});
        call::patch(&stage.admin, &format!("/api/v1/nodes/{}", nodes[0].name), &labels).await.unwrap();
        for (name, selector) in [
            ("front", json!({"tier": "web"})),
            ("back", json!({"tier": "db"})),
            ("web", json!({"tier": "web", "team": "a"})),
        ] {
            stage.service(name, json!({"selector": selector, "ports": [{"port": 443}]})).await;
        }
        Self { nodes, accounts: [stage.account("shop").await, stage.account("bank").await] }
    }

    async fn pod(&self, stage: &Stage, chance: &mut Chance, name: &str) -> Pod {
        let mut plan = stage.a_pod(name).on(chance.of(&self.nodes)).as_account(chance.of(&self.accounts));
        plan = plan.projecting(*chance.of(&[KeyType::EcdsaP256, KeyType::EcdsaP256, KeyType::Ed25519]));
        plan = plan.with("maxExpirationSeconds", json!(*chance.of(&[3_600, 7_200, 86_400])));
        for (key, values) in [("tier", ["web", "db", ""]), ("team", ["a", "B", "x.y"])] {
            if chance.below(3) > 0 {
                plan = plan.labelled(key, chance.of::<&str>(&values));
            }
        }
        if chance.below(2) == 0 {
            plan = plan
                .specified("hostname", json!(name))
                .specified("subdomain", json!(chance.of(&["web", "front", "none"])));
        }
        let asks = [
            json!({"kubernetes.io/service-names": "front"}),
            json!({"kubernetes.io/service-names": "front,web"}),
            json!({"kubernetes.io/add-pod-fqdn": "true"}),
            json!({"kubernetes.io/add-pod-ip": "true"}),
            json!({"kubernetes.io/add-pod-ip": "1"}),
            json!({"podmint.dev/common-name": "shop_rw"}),
            json!({"podmint.dev/common-name": "root"}),
            json!({"podmint.dev/dns-names": "api.kube-system.svc"}),
            json!({"podmint.dev/dns-nmes": "x"}),
        ];
        if chance.below(3) > 0 {
            return plan.make().await;
        }
        plan.with("userAnnotations", chance.of(&asks).clone()).make().await
    }
}

/// Always the same numbers, so that a failure comes again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % bound
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }

    fn rules<'s>(&mut self, stage: &'s Stage) -> podmint_tests::signer::SignerPlan<'s> {
        let mut rules = Vec::new();
        for number in 0..=self.below(4) {
            let mut rule = json!({
                "name": format!("rule-{number}"),
                "namespaces": [self.of(&["*", "explain-*", "explain-*", "explain-*", "other"])],
                "serviceAccounts": [self.of(&["*", "shop", "bank", "b*"])],
                "requests": {
                    "services": self.below(2) == 0, "hostname": self.below(2) == 0, "podIPs": self.below(2) == 0,
                    "commonNames": self.of(&[json!([]), json!(["shop_rw"])]), "dnsNames": self.of(&[json!([]), json!(["api.kube-system.svc"])]),
                },
                "shadow": self.below(4) == 0,
            });
            if self.below(4) == 0 {
                rule["nodeSelector"] = json!({"matchLabels": {"pool": "trusted"}});
            }
            if self.below(3) == 0 {
                rule["namespaceSelector"] =
                    json!({"matchLabels": {"kubernetes.io/metadata.name": self.of(&[stage.namespace.as_str(), "x"])}});
            }
            if self.below(6) == 0 {
                rule["keyTypes"] = json!(["ED25519"]);
            }
            if self.below(2) == 0 {
                rule["lifetime"] = json!({"max": self.of(&["1h", "90m", "20h"])});
            }
            rules.push(rule);
        }
        let profiles = [
            json!({}),
            json!({"dnsNames": ["services", "hostname"]}),
            json!({"dnsNames": ["services", "x-{label:team}.{namespace}.svc"], "trustedLabels": ["team"]}),
            json!({"spiffeId": "/{namespace}/{pod}/{node}", "subject": {"organizationalUnit": "{label:team}"}, "trustedLabels": ["team"]}),
            json!({"spiffeId": "none", "dnsNames": ["services"], "usages": ["server"], "ipAddresses": ["podIPs"]}),
        ];
        let profile = self.of(&profiles).clone();
        stage.a_signer().with("allow", Value::from(rules)).with("profile", profile)
    }
}

async fn explained(stage: &Stage, document: &str, pod: Which) -> Value {
    let config = stage.bed.admin_config().await;
    let question = Question {
        installation: Installation {
            domain: DnsName::parse("podmint.dev").unwrap(),
            namespace: Namespace::parse(&stage.namespace).unwrap(),
            cluster_domain: DnsName::parse("cluster.local").unwrap(),
        },
        config: Some(document.to_owned()),
        namespace: Namespace::parse(&stage.namespace).unwrap(),
        pod,
    };
    let mut said = explain(config, question).await.unwrap().to_json();
    assert_eq!(said["sources"].as_array().map(Vec::len), Some(1), "{said}");
    said["sources"][0].take()
}

fn listed(said: &Value) -> Vec<String> {
    said["names"].as_array().unwrap().iter().map(|name| name["name"].as_str().unwrap().to_owned()).collect()
}

/// 0 for issued, 1 for held, 2 for denied.
async fn compare(stage: &Stage, signer: &Signer, pod: &Pod, said: &Value, request: &Request, document: &str) -> usize {
    let context = || format!("{}: explained {said:#}\nunder {document}", pod.name);
    if said["answer"] == "held" {
        let message = said["message"].as_str().unwrap();
        let text = until(format!("{} is told why it waits\n{}", pod.name, context()), async || {
            let answer = stage.read(request).await.as_ref().and_then(Said::of);
            assert_eq!(answer, None, "{}", context());
            stage.events_of(pod).await.first().and_then(|event| event["message"].as_str().map(str::to_owned))
        })
        .await;
        assert_eq!(text, format!("certificate request {} waits: {message}", request.name), "{}", context());
        return 1;
    }
    match stage.answer(request).await {
        Said::Issued(status) => {
            assert_eq!(said["answer"], "issued", "{}", context());
            assert_eq!(leaf::names(&status), listed(said), "{}", context());
            assert_eq!(leaf::subject(&status), said["subject"].as_str().unwrap(), "{}", context());
            assert_eq!(json!(leaf::usages(&status).0), said["usages"]["client"], "{}", context());
            let at = |field: &str| leaf::seconds(status[field].as_str().unwrap());
            let life = (at("notAfter") - at("notBefore"), at("beginRefreshAt") - at("notBefore"));
            assert_eq!(
                (json!(life.0), json!(life.1)),
                (said["seconds"].clone(), said["renewedAfterSeconds"].clone()),
                "{}",
                context()
            );
            let audit = signer.audit();
            let line =
                audit.iter().find(|line| line["event"] == "issuing" && line["request"]["uid"] == request.uid).unwrap();
            assert_eq!((&line["rule"], &line["shadowRule"]), (&said["rule"], &said["shadowRule"]), "{}", context());
            0
        }
        Said::Denied { message, .. } => {
            assert_eq!(
                (said["answer"].as_str(), said["message"].as_str()),
                (Some("denied"), Some(message.as_str())),
                "{}",
                context()
            );
            2
        }
        Said::Failed { .. } => panic!("never written"),
    }
}
