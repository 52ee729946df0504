//! What names and rules cost: a decision under 10 and 1,000 rules, the index of 10,000 Services, and `explain` on a real API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use podmint_signer::cluster::versions::Version;
use podmint_signer::cluster::wire::RequestObject;
use podmint_signer::config::{Config, Domains, PodSigner};
use podmint_signer::kubectl::Installation;
use podmint_signer::kubectl::explain::{Question, Which, explain};
use podmint_signer::names::{DnsName, Namespace, NodeName, PodName, SerialNumber, ServiceAccountName, ServiceName};
use podmint_signer::pipeline::answer::words;
use podmint_signer::pipeline::{
    Claim, Fact, Freshness, NamespaceFacts, NodeFacts, Observed, Phase, PodFacts, Projection, Service,
    ServiceAccountFacts, Services,
};
use podmint_tests::keys::{Key, KeyType};
use podmint_tests::server::Settings;
use podmint_tests::{Bed, Stage, assets};
use serde_json::json;
use time::OffsetDateTime;

use crate::figures::Figures;

const WHO: &str = "names";

/// Measures all of it once.
pub(crate) async fn measure(figures: &mut Figures) {
    // First, for what the decisions leave free would be filled without a sign.
    index(figures);
    for count in [10, 1_000] {
        let figure = if count == 10 { "decision, 10 rules" } else { "decision, 1,000 rules" };
        figures.add(WHO, figure, decision(count) * 1e6, "µs", None);
    }
    latency(figures).await;
}

/// Seconds of one decision, from facts to all words of the certificate, under so many rules.
fn decision(rules: usize) -> f64 {
    let (signer, claim) = (signer(rules), Arc::new(Claim::parse(&request(), Version::V1).expect("an honest claim")));
    let seen: Vec<Observed> = (0..TIMES).map(|_| observed(&claim)).collect();
    let begun = Instant::now();
    for seen in seen {
        let until = OffsetDateTime::UNIX_EPOCH + time::Duration::days(30_000);
        let now = OffsetDateTime::UNIX_EPOCH + time::Duration::days(20_000);
        words(seen, Some(&signer), Some(until), now, SerialNumber::from_random([7; 16])).expect("it is admitted");
    }
    begun.elapsed().as_secs_f64() / TIMES as f64
}

/// A PodSigner with so many rules, the last of which admits.
pub(crate) fn signer(rules: usize) -> Arc<PodSigner> {
    let rule = |number: usize| {
        let account = if number + 1 == rules { "cart".to_owned() } else { format!("other-{number}-*") };
        json!({"name": format!("rule-{number}"), "namespaces": ["shop", "team-*"], "serviceAccounts": [account],
            "nodeSelector": {"matchLabels": {"pool": "trusted"}}})
    };
    let document = json!({
        "apiVersion": "podmint.dev/v1alpha1", "kind": "PodSigner", "metadata": {"name": "bench"},
        "spec": {"signerName": "podmint.dev/bench", "trustDomain": "bench.example.org", "allow": (0..rules).map(rule).collect::<Vec<_>>(),
            "profile": {"dnsNames": ["services", "hostname"]}},
    });
    let domains = Domains::parse("podmint.dev", "cluster.local").unwrap();
    Arc::clone(&Config::parse(&document.to_string(), &domains).unwrap().signers()[0])
}

/// An honest request.
pub(crate) fn request() -> RequestObject {
    let stub = base64::engine::general_purpose::STANDARD.encode(Key::make(KeyType::EcdsaP256).stub_request());
    let request = json!({
        "metadata": {"namespace": "shop", "name": "request", "uid": "1", "resourceVersion": "1"},
        "spec": {"signerName": "podmint.dev/bench", "podName": "cart-0", "podUID": "2", "serviceAccountName": "cart", "serviceAccountUID": "3",
            "nodeName": "node-a", "nodeUID": "4", "maxExpirationSeconds": 86_400, "stubPKCS10Request": stub},
    });
    serde_json::from_value(request).unwrap()
}

/// The claim beside facts that fit it.
pub(crate) fn observed(claim: &Arc<Claim>) -> Observed {
    let labels = |key: &str, value: &str| BTreeMap::from([(Box::from(key), Box::from(value))]);
    let projection = Projection {
        signer: claim.signer.as_str().into(),
        key_type: Some(claim.key_type()),
        max_expiration_seconds: 86_400,
        annotations: Box::default(),
    };
    let pod = PodFacts {
        uid: Some(claim.pod_uid.clone()),
        node: NodeName::parse("node-a").ok(),
        service_account: ServiceAccountName::parse("cart").ok(),
        is_mirror: false,
        labels: labels("app", "cart"),
        hostname: None,
        subdomain: None,
        is_on_host_network: false,
        addresses: Box::default(),
        phase: Phase::Waiting,
        projections: [projection].into(),
    };
    let node = NodeFacts { uid: Some(claim.node_uid.clone()), labels: Arc::new(labels("pool", "trusted")) };
    Observed {
        claim: Arc::clone(claim),
        pod: Fact::Found(pod, Freshness::Cached),
        service_account: Fact::Found(
            ServiceAccountFacts { uid: Some(claim.service_account_uid.clone()) },
            Freshness::Cached,
        ),
        node: Fact::Found(node, Freshness::Cached),
        namespace: Some(NamespaceFacts::default()),
        services: Some(["carts", "front"].map(|name| ServiceName::parse(name).unwrap()).into()),
        holds: Some(Arc::default()),
    }
}

/// Memory and speed of the index: Services as they are named and labelled in practice, a hundred to a namespace.
fn index(figures: &mut Figures) {
    let before = resident();
    let mut services = Services::default();
    for number in 0..SERVICES {
        let (namespace, name) = (format!("team-{}-production", number / 100), format!("checkout-service-{number}"));
        let selector = [
            ("app.kubernetes.io/name".into(), name.as_str().into()),
            ("app.kubernetes.io/instance".into(), format!("release-{}", number % 100).into()),
        ];
        services.set(Service {
            namespace: Namespace::parse(&namespace).unwrap(),
            name: ServiceName::parse(&name).unwrap(),
            selector: selector.into(),
        });
    }
    figures.add(WHO, "index of 10,000 Services", (resident() - before) / 1024.0, "MiB", None);
    let namespace = Namespace::parse("team-42-production").unwrap();
    let labels = BTreeMap::from([
        (Box::from("app.kubernetes.io/name"), Box::from("checkout-service-4217")),
        (Box::from("app.kubernetes.io/instance"), Box::from("release-17")),
        (Box::from("pod-template-hash"), Box::from("5d4f8c7b9")),
    ]);
    let begun = Instant::now();
    for _ in 0..TIMES {
        assert_eq!(services.selecting(&namespace, &labels).len(), 1);
    }
    figures.add(
        WHO,
        "Services of a pod, from the index",
        begun.elapsed().as_secs_f64() / TIMES as f64 * 1e6,
        "µs",
        None,
    );
}

/// KiB of this process in memory.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// `explain` of a pod that is there, with a connection of its own each time, as the command has.
async fn latency(figures: &mut Figures) {
    let bed = Bed::own(Settings { recorded: false, ..Settings::of(assets::VERSIONS[0]) }).await;
    let stage = Stage::open(&bed, "explain").await;
    for number in 0..100 {
        stage.service(&format!("web-{number}"), json!({"selector": {"app": "web"}, "ports": [{"port": 443}]})).await;
    }
    let pod = stage.any_pod().await;
    let document = stage.a_signer().document();
    for _ in 0..30 {
        let question = Question {
            installation: Installation {
                domain: DnsName::parse("podmint.dev").unwrap(),
                namespace: Namespace::parse(&stage.namespace).unwrap(),
                cluster_domain: DnsName::parse("cluster.local").unwrap(),
            },
            config: Some(document.clone()),
            namespace: Namespace::parse(&stage.namespace).unwrap(),
            pod: Which::Named(PodName::parse(&pod.name).unwrap()),
        };
        let config = bed.admin_config().await;
        let begun = Instant::now();
        explain(config, question).await.expect("the pod is explained");
        figures.add(WHO, "explain, of a pod among 100 Services", begun.elapsed().as_secs_f64() * 1e3, "ms", None);
    }
}

const SERVICES: usize = 10_000;
const TIMES: usize = 10_000;
