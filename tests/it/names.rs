//! DNS names come from Services that select the pod, where a profile asks for them, and from nothing else.

use podmint_tests::leaf;
use podmint_tests::server::Settings;
use podmint_tests::signer::Signer;
use podmint_tests::stage::{Pod, Request, Said};
use podmint_tests::until::until;
use podmint_tests::{Bed, Stage, call, on_every_bed};
use serde_json::{Value, json};

on_every_bed! {
    /// A pod has the names of the Services that select it, and its own below the one that is its subdomain.
    async fn services_that_select_a_pod_give_it_their_names(bed: Bed) {
        let stage = Stage::open(&bed, "services").await;
        stage.service("front", selecting(json!({"app": "web-0"}))).await;
        stage.service("web", json!({"selector": {"app": "web-0", "tier": "web"}, "clusterIP": "None", "ports": ports()})).await;
        stage.service("narrow", selecting(json!({"app": "web-0", "tier": "db"}))).await;
        let signer = with_names(&stage).await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        let of_a_set = stage.a_pod("web-0").on(&node).as_account(&account).labelled("tier", "web");
        let pod = of_a_set.specified("hostname", json!("web-0")).specified("subdomain", json!("web")).make().await;
        assert_eq!(names(&stage, &pod).await, both(&stage, &["front", "web", "web-0.web"]));
        let alone = stage.a_pod("alone").on(&node).as_account(&account).make().await;
        assert_eq!(names(&stage, &alone).await, [""; 0]);

        // The record has each name with its fact.
        let issuing: Vec<Value> = signer.audit().into_iter().filter(|line| line["pod"]["name"] == "web-0" && line["event"] == "issuing").collect();
        let [line] = issuing.as_slice() else { panic!("one line: {issuing:#?}") };
        let of = |name: &str| line["sans"].as_array().unwrap().iter().find(|san| san["dns"] == format!("{name}.{}.svc", stage.namespace)).unwrap().clone();
        let namespace = json!({"value": stage.namespace, "from": "namespace of request and pod"});
        assert_eq!(of("front"), json!({
            "dns": format!("front.{}.svc", stage.namespace), "namespace": namespace, "grantedBy": "PodSigner spec.profile.dnsNames: services",
            "service": {"value": "front", "from": "Service whose spec.selector matches the Pod's labels"},
        }));
        assert_eq!(of("web-0.web"), json!({
            "dns": format!("web-0.web.{}.svc", stage.namespace), "namespace": namespace, "grantedBy": "PodSigner spec.profile.dnsNames: hostname",
            "hostname": {"value": "web-0", "from": "Pod spec.hostname"},
            "service": {"value": "web", "from": "Pod spec.subdomain, and Service whose spec.selector matches the Pod's labels"},
        }));
        signer.stop().await;
    }

    /// A Service made, changed or deleted, and a label set or taken away, show in the next certificate.
    async fn what_changes_shows_in_the_next_certificate(bed: Bed) {
        let stage = Stage::open(&bed, "changes").await;
        let signer = with_names(&stage).await;
        let pod = stage.any_pod().await;
        assert_eq!(names(&stage, &pod).await, [""; 0]);
        let front = stage.core("services/front");
        stage.service("front", selecting(json!({"app": "web"}))).await;
        shows(&stage, &pod, &["front"]).await;
        call::patch(&stage.admin, &front, &json!({"spec": {"selector": {"tier": "web"}}})).await.unwrap();
        shows(&stage, &pod, &[]).await;
        let labels = |tier: Value| json!({"metadata": {"labels": {"tier": tier}}});
        call::patch(&stage.admin, &stage.core("pods/web"), &labels(json!("web"))).await.unwrap();
        shows(&stage, &pod, &["front"]).await;
        call::patch(&stage.admin, &stage.core("pods/web"), &labels(Value::Null)).await.unwrap();
        shows(&stage, &pod, &[]).await;
        call::patch(&stage.admin, &front, &json!({"spec": {"selector": {"tier": null, "app": "web"}}})).await.unwrap();
        shows(&stage, &pod, &["front"]).await;
        call::delete(&stage.admin, &front).await.unwrap();
        shows(&stage, &pod, &[]).await;
        signer.stop().await;
    }

    /// Nobody gets a name by a Service of another namespace, one that selects nothing, or one that only has the name that is wanted.
    async fn no_trick_with_a_service_gives_a_foreign_name(bed: Bed) {
        let stage = Stage::open(&bed, "tricks").await;
        let elsewhere = Stage::open(&bed, "victim").await;
        elsewhere.service("bank", selecting(json!({"app": "web"}))).await;
        stage.service("outside", json!({"type": "ExternalName", "externalName": format!("bank.{}.svc.cluster.local", elsewhere.namespace)})).await;
        stage.service("outside-selecting", json!({"type": "ExternalName", "externalName": "example.org", "selector": {"app": "web"}})).await;
        stage.service("nobody", json!({"ports": ports()})).await;
        stage.service("everybody", json!({"selector": {}, "ports": ports()})).await;
        stage.service("case", selecting(json!({"app": "Web"}))).await;
        // The last one made is the one that is waited for, so that the others were seen.
        stage.service("own", selecting(json!({"app": "web"}))).await;
        let signer = with_names(&stage).await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        let pod = stage.a_pod("web").on(&node).as_account(&account);
        let pod = pod.specified("hostname", json!("bank")).specified("subdomain", json!("nobody")).make().await;
        assert_eq!(names(&stage, &pod).await, both(&stage, &["own"]));
        signer.stop().await;
    }

    /// Every field of a profile, in one certificate and in its record.
    async fn a_profile_decides_every_word(bed: Bed) {
        let stage = Stage::open(&bed, "profile").await;
        let profile = json!({
            "spiffeId": "/ns/{namespace}/team/{label:team}/sa/{serviceAccount}", "trustedLabels": ["team"],
            "dnsNames": ["{pod}.{namespace}.pod.cluster.local"], "ipAddresses": ["podIPs"],
            "subject": {"organization": "Stories", "organizationalUnit": "{label:team}", "commonName": "{serviceAccount}.{namespace}"},
        });
        let signer = stage.a_signer().with("profile", profile).start().await.ready().await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        let pod = stage.a_pod("web").on(&node).as_account(&account).labelled("team", "blue").make().await;
        let request = stage.request_for(&pod).make().await;
        let first = stage.issued(&request).await;
        let uri = stage.identity_of("shop").replace("/sa/", "/team/blue/sa/");
        let dns = format!("DNS:web.{}.pod.cluster.local", stage.namespace);
        assert_eq!(leaf::names(&first), [format!("URI:{uri}"), dns.clone()], "a pod that starts has no address yet");
        assert_eq!(leaf::subject(&first), format!("O=Stories, OU=blue, CN=shop.{}", stage.namespace));
        let times = |status: &Value| ["notBefore", "beginRefreshAt", "notAfter"].map(|field| leaf::seconds(status[field].as_str().unwrap()));
        let [from, refresh, to] = times(&first);
        assert_eq!((refresh - from, to - from), (600, 3600), "an address may be another pod's soon");

        let status = json!({"status": {"podIP": "10.9.8.7", "podIPs": [{"ip": "10.9.8.7"}]}});
        call::patch(&stage.admin, &stage.core("pods/web/status"), &status).await.unwrap();
        let ip = "IP:10.9.8.7".to_owned();
        let second = until("the address is in a certificate", async || {
            let status = stage.issued(&stage.request_for(&pod).make().await).await;
            leaf::names(&status).contains(&ip).then_some(status)
        }).await;
        assert_eq!(leaf::names(&second), [format!("URI:{uri}"), dns, ip]);

        let line = signer.audit().into_iter().find(|line| line["event"] == "issuing" && line["request"]["uid"] == request.uid).unwrap();
        assert_eq!(line["sans"][0]["label:team"], json!({"value": "blue", "from": "Pod metadata.labels, trusted by spec.profile.trustedLabels"}));
        assert_eq!(line["sans"][1]["pod"], json!({"value": "web", "from": "Pod metadata.name, UID checked"}));
        assert_eq!(line["subject"]["organizationalUnit"]["text"], "blue");
        assert_eq!(line["subject"]["commonName"]["serviceAccount"]["value"], "shop");
        signer.stop().await;
    }

    /// What a pod's names or labels make no good certificate of is held with the reason, and the others are served.
    async fn a_name_that_cannot_be_is_held(bed: Bed) {
        let stage = Stage::open(&bed, "no-name").await;
        let profile = json!({"dnsNames": ["x-{label:team}.{namespace}.svc"], "trustedLabels": ["team"]});
        let signer = stage.a_signer().with("profile", profile).start().await.ready().await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        let long = "a".repeat(62);
        let mut held = Vec::new();
        for (number, team) in [None, Some(""), Some("kube-system.svc"), Some("Blue"), Some("a_b"), Some(long.as_str())].into_iter().enumerate() {
            let plan = stage.a_pod(&format!("web-{number}")).on(&node).as_account(&account);
            let pod = match team { Some(team) => plan.labelled("team", team), None => plan }.make().await;
            held.push(stage.request_for(&pod).make().await);
        }
        until("each is held", async || (signer.answered("hold", "no_such_name").await >= 6.0).then_some(())).await;
        let good = stage.a_pod("good").on(&node).as_account(&account).labelled("team", "blue").make().await;
        assert_eq!(names(&stage, &good).await, [format!("x-blue.{}.svc", stage.namespace)]);
        for request in &held {
            assert!(stage.read(request).await.unwrap()["status"].get("conditions").is_none());
        }
        signer.stop().await;
    }

    /// For clients alone and without a SPIFFE ID, as a database wants it.
    async fn a_certificate_for_clients_alone(bed: Bed) {
        let stage = Stage::open(&bed, "client").await;
        let profile = json!({"spiffeId": "none", "usages": ["client"], "subject": {"commonName": "{serviceAccount}"}, "dnsNames": ["{pod}.{namespace}.svc"]});
        let signer = stage.a_signer().with("profile", profile).start().await.ready().await;
        let pod = stage.any_pod().await;
        let status = stage.issued(&stage.request_for(&pod).make().await).await;
        assert_eq!(leaf::names(&status), [format!("DNS:web.{}.svc", stage.namespace)]);
        assert_eq!((leaf::subject(&status).as_str(), leaf::usages(&status)), ("CN=shop", (true, false)));
        leaf::dns_names(&status, &stage.published_roots().await);
        signer.stop().await;
    }

    /// What a pod asks for by annotation it gets where its rule allows exactly that, and the name of a Service once that selects it.
    async fn an_annotation_gets_what_its_rule_allows(bed: Bed) {
        let stage = Stage::open(&bed, "asks").await;
        let api = format!("api.{}.svc", stage.namespace);
        let rule = json!([{"name": "story", "namespaces": [stage.namespace], "serviceAccounts": ["shop"],
            "requests": {"services": true, "dnsNames": [api], "commonNames": ["shop_rw"]}}]);
        let signer = stage.a_signer().with("allow", rule).start().await.ready().await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        let asking = async |name: &str, annotations: Value| {
            let pod = stage.a_pod(name).on(&node).as_account(&account).with("userAnnotations", annotations).make().await;
            stage.request_for(&pod).make().await
        };

        let early = asking("early", json!({"kubernetes.io/service-names": "front"})).await;
        signer.says("hold", "not_selected").await;
        stage.service("front", selecting(json!({"app": "early"}))).await;
        let roots = stage.published_roots().await;
        assert_eq!(leaf::dns_names(&stage.issued(&early).await, &roots), both(&stage, &["front"]));

        let good = asking("good", json!({"podmint.dev/dns-names": api, "podmint.dev/common-name": "shop_rw"})).await;
        let status = stage.issued(&good).await;
        assert_eq!((leaf::dns_names(&status, &roots), leaf::subject(&status)), (vec![api.clone()], "CN=shop_rw".to_owned()));
        let line = signer.audit().into_iter().find(|line| line["event"] == "issuing" && line["request"]["uid"] == good.uid).unwrap();
        let by = |source: &str, annotation: &str| format!("PodSigner spec.allow, rule story, requests.{source}; asked for by {annotation}");
        assert_eq!(line["sans"][1]["grantedBy"], by("dnsNames", "podmint.dev/dns-names"));
        assert_eq!(line["subject"]["commonName"]["grantedBy"], by("commonNames", "podmint.dev/common-name"));

        let mut held = Vec::new();
        for (number, (key, value)) in [
            ("podmint.dev/dns-names", "api.kube-system.svc".to_owned()),
            ("podmint.dev/dns-names", format!("{api}.cluster.local")),
            ("podmint.dev/common-name", "postgres".to_owned()),
            ("podmint.dev/common-name", "Shop_rw".to_owned()),
            ("kubernetes.io/add-pod-ip", "true".to_owned()),
            ("kubernetes.io/add-pod-fqdn", "true".to_owned()),
        ].into_iter().enumerate() {
            held.push(asking(&format!("greedy-{number}"), json!({key: value})).await);
        }
        until("each is held", async || (signer.answered("hold", "not_granted").await >= 6.0).then_some(())).await;
        for value in ["*.kube-system.svc", "\u{430}pi.shop.svc", "API.shop.svc"] {
            let name = format!("odd-{}", held.len());
            held.push(asking(&name, json!({"podmint.dev/dns-names": value})).await);
        }
        held.push(asking("foreign", json!({"kubernetes.io/service-names": "front.kube-system"})).await);
        until("each is held", async || (signer.answered("hold", "annotation_value").await >= 4.0).then_some(())).await;
        let Said::Denied { reason, message } = stage.answer(&asking("slip", json!({"podmint.dev/dns-name": api})).await).await else { panic!("unknown") };
        assert_eq!(reason, "InvalidUnverifiedUserAnnotations");
        assert!(message.contains("did you mean \"podmint.dev/dns-names\"?"), "{message}");
        for request in &held {
            assert!(stage.read(request).await.unwrap()["status"].get("conditions").is_none());
        }
        signer.stop().await;
    }

    /// A rule is for nodes and namespaces that have its labels; one in shadow is counted and admits nobody.
    async fn a_rule_wants_its_labels_and_one_in_shadow_admits_nobody(bed: Bed) {
        let stage = Stage::open(&bed, "rules").await;
        let rule = |name: &str, account: &str, more: Value| {
            let mut rule = json!({"name": name, "namespaces": [stage.namespace], "serviceAccounts": [account]});
            rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            rule
        };
        let rules = json!([
            rule("soon", "shop", json!({"shadow": true, "lifetime": {"max": "1h"}})),
            rule("pool", "shop", json!({"nodeSelector": {"matchLabels": {"pool": "trusted"}}, "lifetime": {"max": "2h"}})),
            rule("env", "bank", json!({"namespaceSelector": {"matchLabels": {"env": "prod"}}})),
        ]);
        let signer = stage.a_signer().with("allow", rules).start().await.ready().await;
        let node = stage.node("node-a").await;
        let by_node = stage.a_pod("by-node").on(&node).as_account(&stage.account("shop").await).make().await;
        let by_namespace = stage.a_pod("by-namespace").on(&node).as_account(&stage.account("bank").await).make().await;
        let (first, second) = (stage.request_for(&by_node).make().await, stage.request_for(&by_namespace).make().await);
        until("both are held", async || (signer.answered("hold", "not_admitted").await >= 2.0).then_some(())).await;
        let shadow = async || signer.metric("podmint_signer_rules_total", &["rule=\"soon\"", "effect=\"shadow\""]).await;
        assert!(shadow().await > 0.5);

        let labels = |key: &str, value: &str| json!({"metadata": {"labels": {key: value}}});
        call::patch(&stage.admin, &format!("/api/v1/nodes/{}", node.name), &labels("pool", "trusted")).await.unwrap();
        call::patch(&stage.admin, &format!("/api/v1/namespaces/{}", stage.namespace), &labels("env", "prod")).await.unwrap();
        let status = stage.issued(&first).await;
        let life = leaf::seconds(status["notAfter"].as_str().unwrap()) - leaf::seconds(status["notBefore"].as_str().unwrap());
        assert_eq!(life, 7_200, "the rule's limit, not that of the one in shadow");
        stage.issued(&second).await;
        let issuing = |request: &Request| signer.audit().into_iter().find(|line| line["event"] == "issuing" && line["request"]["uid"] == request.uid).unwrap();
        assert_eq!((&issuing(&first)["rule"], &issuing(&first)["shadowRule"]), (&json!("pool"), &json!("soon")));
        assert_eq!((&issuing(&second)["rule"], &issuing(&second)["shadowRule"]), (&json!("env"), &Value::Null));
        assert!(signer.metric("podmint_signer_rules_total", &["rule=\"pool\"", "effect=\"issued\""]).await > 0.5);
        signer.stop().await;
    }

    /// Without a profile that says so, a certificate has the SPIFFE ID alone.
    async fn no_profile_no_service_names(bed: Bed) {
        let stage = Stage::open(&bed, "no-profile").await;
        stage.service("front", selecting(json!({"app": "web"}))).await;
        let signer = stage.a_signer().start().await.ready().await;
        let pod = stage.any_pod().await;
        let request = stage.request_for(&pod).make().await;
        assert_eq!(leaf::names(&stage.issued(&request).await), [format!("URI:{}", stage.identity_of("shop"))]);
        signer.stop().await;
    }
}

fn ports() -> Value {
    json!([{"port": 443}])
}

fn selecting(selector: Value) -> Value {
    json!({"selector": selector, "ports": ports()})
}

/// etcd is an older one, as a backup brings it back. A watch from where it was would be silent for long; what changes shows all the same.
#[test]
fn what_changes_in_an_older_etcd_shows_in_the_next_certificate() {
    podmint_tests::run(async {
        let bed = Bed::own(Settings::of("1.37.2")).await;
        let server = bed.server().unwrap();
        let stage = Stage::open(&bed, "older").await;
        let signer = with_names(&stage).await;
        let pod = stage.any_pod().await;
        server.snapshot().await;
        stage.service("later", selecting(json!({"app": "web"}))).await;
        // etcd comes further than it will again while this story lasts.
        for change in 0..500 {
            let labels = json!({"metadata": {"labels": {"change": change.to_string()}}});
            call::patch(&stage.admin, &stage.core("services/later"), &labels).await.unwrap();
        }
        shows(&stage, &pod, &["later"]).await;
        server.restore().await;
        shows(&stage, &pod, &[]).await;
        stage.service("front", selecting(json!({"app": "web"}))).await;
        shows(&stage, &pod, &["front"]).await;
        signer.stop().await;
    });
}

async fn with_names(stage: &Stage) -> Signer {
    stage.a_signer().with("profile", json!({"dnsNames": ["services", "hostname"]})).start().await.ready().await
}

/// The DNS names of a new certificate of this pod, whose URI is what it always is.
async fn names(stage: &Stage, pod: &Pod) -> Vec<String> {
    let request = stage.request_for(pod).make().await;
    let status = stage.issued(&request).await;
    let uris: Vec<String> = leaf::names(&status).into_iter().filter(|name| name.starts_with("URI:")).collect();
    assert_eq!(uris, [format!("URI:{}", stage.identity_of(&pod.account.name))]);
    leaf::dns_names(&status, &stage.published_roots().await)
}

/// The two names of each of these hosts.
fn both(stage: &Stage, hosts: &[&str]) -> Vec<String> {
    let forms = |host: &&str| ["svc", "svc.cluster.local"].map(|end| format!("{host}.{}.{end}", stage.namespace));
    hosts.iter().flat_map(forms).collect()
}

async fn shows(stage: &Stage, pod: &Pod, hosts: &[&str]) {
    let expected = both(stage, hosts);
    until(format!("the names are {expected:?}"), async || (names(stage, pod).await == expected).then_some(())).await;
}
