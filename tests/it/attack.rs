//! Attempts at names beyond right. Each is on a real API server, too, with what really can be written there; whatever is refused, by the
//! API server or by the signer, nothing is issued that no fact and no rule gives.

use std::collections::BTreeSet;

use podmint_signer::config::{Config, Domains};
use podmint_tests::call::Refused;
use podmint_tests::leaf;
use podmint_tests::signer::MINUTE;
use podmint_tests::stage::{Pod, Request, Said};
use podmint_tests::until::{never, until};
use podmint_tests::{Bed, Stage, on_every_bed};
use serde_json::{Value, json};
use tokio::sync::watch;

on_every_bed! {
    /// Whoever makes a Service that matches somebody else's pod, in another namespace, gives that pod no name and gets none of its own; nor
    /// does a pod with the labels of a Service of another namespace get that Service's name.
    async fn a_service_that_matches_anothers_pod_changes_nothing(bed: Bed) {
        let (attacker, victim) = (Stage::open(&bed, "attacker").await, Stage::open(&bed, "bank").await);
        let selector = json!({"selector": {"app": "vault"}, "ports": [{"port": 443}]});
        victim.service("vault", selector.clone()).await;
        for name in ["vault", "evil", &victim.namespace] {
            attacker.service(name, selector.clone()).await;
        }
        let profile = json!({"dnsNames": ["services", "hostname"]});
        let rule = json!([{"name": "both", "namespaces": [attacker.namespace, victim.namespace], "serviceAccounts": ["*"]}]);
        let signer = attacker.a_signer().with("profile", profile).with("allow", rule).start().await.ready().await;
        let victim = victim.answering_for(&attacker.signer_name);
        let pod_of = async |stage: &Stage| {
            let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
            // As an own pod of the bank, in the eyes of somebody who looks at names alone.
            let pod = stage.a_pod("vault").on(&node).as_account(&account).specified("hostname", json!("vault"));
            pod.specified("subdomain", json!("vault")).make().await
        };
        let own = |stage: &Stage, hosts: &[&str]| {
            let forms = |host: &&str| ["svc", "svc.cluster.local"].map(|end| format!("DNS:{host}.{}.{end}", stage.namespace));
            hosts.iter().flat_map(forms).collect::<BTreeSet<String>>()
        };
        let (robber, vault) = (pod_of(&attacker).await, pod_of(&victim).await);
        let roots = attacker.published_roots().await;
        let names = async |stage: &Stage, pod: &Pod| {
            let status = stage.issued(&stage.request_for(pod).make().await).await;
            leaf::dns_names(&status, &roots);
            leaf::names(&status).into_iter().filter(|name| name.starts_with("DNS:")).collect::<BTreeSet<String>>()
        };
        assert_eq!(names(&victim, &vault).await, own(&victim, &["vault", "vault.vault"]));
        let gets = names(&attacker, &robber).await;
        assert_eq!(gets, own(&attacker, &["vault", "evil", &victim.namespace, "vault.vault"]));
        assert!(gets.iter().all(|name| name.contains(&format!(".{}.svc", attacker.namespace))), "{gets:?}");
        signer.stop().await;
    }

    /// Look-alikes, dots, wildcards and what is too long, wherever a pod's author may write: what the API server takes is a name of the pod's
    /// own namespace or is held.
    async fn what_looks_like_another_name_is_none(bed: Bed) {
        let stage = Stage::open(&bed, "alike").await;
        let api = format!("api.{}.svc", stage.namespace);
        let rule = json!([{"name": "story", "namespaces": [stage.namespace], "serviceAccounts": ["shop"],
            "requests": {"services": true, "hostname": true, "dnsNames": [api], "commonNames": ["shop_rw"]}}]);
        let signer = stage.a_signer().with("allow", rule).start().await.ready().await;
        stage.service("front", json!({"selector": {"tier": "web"}, "ports": [{"port": 443}]})).await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        let long = format!("{}.{api}", ["a".repeat(63).as_str(); 4].join("."));
        let attempts = [
            ("podmint.dev/dns-names", "\u{430}pi.NS.svc"),
            ("podmint.dev/dns-names", "API.NS.svc"),
            ("podmint.dev/dns-names", "api.NS.svc."),
            ("podmint.dev/dns-names", ".api.NS.svc"),
            ("podmint.dev/dns-names", "api..NS.svc"),
            ("podmint.dev/dns-names", "*.NS.svc"),
            ("podmint.dev/dns-names", "api.NS.svc\u{0}.kube-system.svc"),
            ("podmint.dev/dns-names", "api.NS.svc,,"),
            ("podmint.dev/dns-names", "xn--pi-6kc.NS.svc"),
            ("podmint.dev/dns-names", "api\u{3002}NS.svc"),
            ("podmint.dev/dns-names", "127.0.0.1"),
            ("podmint.dev/dns-names", long.as_str()),
            ("podmint.dev/common-name", "shop_rw\u{200b}"),
            ("podmint.dev/common-name", "shop_rw,CN=root"),
            ("podmint.dev/common-name", "shop\u{5f}rw\n"),
            ("kubernetes.io/service-names", "front.kube-system"),
            ("kubernetes.io/service-names", "FRONT"),
            ("kubernetes.io/service-names", "fr\u{43e}nt"),
            ("kubernetes.io/service-names", "*"),
            ("kubernetes.io/add-pod-fqdn", "TRUE"),
        ];
        let mut held = Vec::new();
        for (number, (key, value)) in attempts.into_iter().enumerate() {
            let value = value.replace("NS", &stage.namespace);
            let plan = stage.a_pod(&format!("try-{number}")).on(&node).as_account(&account).labelled("tier", "web");
            let pod = plan.with("userAnnotations", json!({key: value})).make().await;
            held.push(stage.request_for(&pod).make().await);
        }
        // Annotations that are only nearly ours are unknown, and a pod that has not started is told so for ever.
        let nearly = ["podmint.dev/dns-name\u{455}", "Podmint.dev/dns-names", "podmint.dev/dns_names", "podmint.dev.evil.org/dns-names"];
        for (number, key) in nearly.into_iter().enumerate() {
            let plan = stage.a_pod(&format!("key-{number}")).on(&node).as_account(&account);
            let object = plan.with("userAnnotations", json!({key: api})).try_make().await;
            match object {
                Err(Refused { code: 422, .. }) => {}
                Err(why) => panic!("{key}: {why}"),
                Ok(pod) => {
                    let said = stage.answer(&stage.request_for(&pod).make().await).await;
                    assert!(matches!(&said, Said::Denied { reason, .. } if reason == "InvalidUnverifiedUserAnnotations"), "{key}: {said:?}");
                }
            }
        }
        let by = async || signer.answered("hold", "annotation_value").await + signer.answered("hold", "not_granted").await;
        until("each is held", async || (by().await >= 20.0).then_some(())).await;
        none_is_answered(&stage, &held).await;
        let good = stage.a_pod("good").on(&node).as_account(&account).with("userAnnotations", json!({"podmint.dev/dns-names": api})).make().await;
        let names = leaf::names(&stage.issued(&stage.request_for(&good).make().await).await);
        assert_eq!(names, [format!("URI:{}", stage.identity_of("shop")), format!("DNS:{api}")]);
        signer.stop().await;
    }

    /// A template calls a label trusted, and a pod's author sets it to whatever Kubernetes takes: what it makes is the one part that the
    /// template gives it, in the pod's own namespace, or is held. It stands in the audit log, with where it is from.
    async fn an_author_who_sets_a_trusted_label_gets_one_part_of_a_name(bed: Bed) {
        let stage = Stage::open(&bed, "label").await;
        let profile = json!({
            "spiffeId": "/ns/{namespace}/team/{label:team}", "dnsNames": ["{label:team}.{namespace}.svc"], "trustedLabels": ["team"],
        });
        let signer = stage.a_signer().with("profile", profile).start().await.ready().await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        let mut held = Vec::new();
        for (number, team) in ["kube-system", "admin", "a.b", "..", "a_b", "A", "svc", "-a"].into_iter().enumerate() {
            let plan = stage.a_pod(&format!("web-{number}")).on(&node).as_account(&account).labelled("team", team);
            let Ok(pod) = plan.try_make().await else { continue };
            let request = stage.request_for(&pod).make().await;
            if !["kube-system", "admin", "svc"].contains(&team) {
                held.push(request);
                continue;
            }
            let expected = [
                format!("URI:spiffe://stories.example.org/ns/{}/team/{team}", stage.namespace),
                format!("DNS:{team}.{}.svc", stage.namespace),
            ];
            assert_eq!(leaf::names(&stage.issued(&request).await), expected);
            let audit = signer.audit();
            let line = audit.iter().find(|line| line["event"] == "issuing" && line["request"]["uid"] == request.uid).unwrap();
            assert_eq!(line["sans"][0]["label:team"], json!({"value": team, "from": "Pod metadata.labels, trusted by spec.profile.trustedLabels"}));
        }
        assert!(held.len() >= 3, "the API server took {} of them", held.len());
        until("each is held", async || (signer.answered("hold", "no_such_name").await >= 3.0).then_some(())).await;
        none_is_answered(&stage, &held).await;
        signer.stop().await;
    }

    /// A rule is edited again and again while requests are under way: each certificate has what one and the same text of the rule gives, and
    /// once the narrower text is in force nothing more is issued by the wider one.
    async fn a_rule_edited_in_mid_flight_gives_nothing_beyond_it(bed: Bed) {
        let stage = Stage::open(&bed, "edited").await;
        let domains = Domains::parse("podmint.dev", "cluster.local").unwrap();
        let name = |letter: &str| format!("{letter}.{}.svc", stage.namespace);
        let text = |letter: &str, hours: u32| {
            let rule = json!([{"name": format!("rule-{letter}"), "namespaces": [stage.namespace], "serviceAccounts": ["*"],
                "requests": {"dnsNames": [name(letter)]}, "lifetime": {"max": format!("{hours}h")}}]);
            Config::parse(&stage.a_signer().with("allow", rule).document(), &domains).unwrap()
        };
        let texts = [text("a", 2), text("b", 3)];
        let (edit, config) = watch::channel(texts[0].clone());
        let signer = stage.a_signer().fed_by(config).start().await.ready().await;
        let (node, account) = (stage.node("node-a").await, stage.account("shop").await);
        let mut pods = Vec::new();
        for letter in ["a", "b"] {
            let plan = stage.a_pod(&format!("web-{letter}")).on(&node).as_account(&account);
            pods.push(plan.with("userAnnotations", json!({"podmint.dev/dns-names": name(letter)})).make().await);
        }
        let mut requests = Vec::new();
        for round in 0..40 {
            edit.send_replace(texts[round % 2].clone());
            for (pod, letter) in pods.iter().zip(["a", "b"]) {
                requests.push((stage.request_for(pod).make().await, letter));
            }
        }
        // What is left of the others is answered once its rule is back.
        for (text, letter) in texts.iter().zip(["a", "b"]) {
            edit.send_replace(text.clone());
            for (request, _) in requests.iter().filter(|(_, of)| *of == letter) {
                stage.issued(request).await;
            }
        }
        let audit = signer.audit();
        for (request, letter) in &requests {
            let status = stage.issued(request).await;
            assert_eq!(leaf::names(&status), [format!("URI:{}", stage.identity_of("shop")), format!("DNS:{}", name(letter))]);
            let at = |field: &str| leaf::seconds(status[field].as_str().unwrap());
            let hours = (at("notAfter") - at("notBefore")) / 3600;
            let line = audit.iter().rfind(|line| line["event"] == "issuing" && line["request"]["uid"] == request.uid).unwrap();
            assert_eq!((&line["rule"], hours), (&json!(format!("rule-{letter}")), if *letter == "a" { 2 } else { 3 }), "{line}");
        }
        // `b` is in force, as a certificate by it has shown: nothing more for `a`.
        let late = [stage.request_for(&pods[0]).make().await, stage.request_for(&pods[0]).make().await];
        stage.issued(&stage.request_for(&pods[1]).make().await).await;
        none_is_answered(&stage, &late).await;
        signer.stop().await;
    }
}

async fn none_is_answered(stage: &Stage, requests: &[Request]) {
    never("a name beyond right was issued", MINUTE, async || {
        for request in requests {
            let object: Option<Value> = stage.read(request).await;
            if let Some(said) = object.as_ref().and_then(Said::of) {
                return Some(format!("{}: {said:?}", request.name));
            }
        }
        None
    })
    .await;
}
