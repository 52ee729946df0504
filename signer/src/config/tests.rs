//! Each mistake is refused by name and line, and the message says what to write.

use proptest::prelude::*;

use super::*;
use crate::pipeline::honest::{CONFIG, domains};

fn parse(yaml: &str) -> Result<Config, ConfigError> {
    Config::parse(yaml, &domains())
}

/// The smallest configuration with one line replaced.
fn with(line: &str, other: &str) -> Result<Config, ConfigError> {
    assert!(CONFIG.contains(line), "{line}");
    parse(&CONFIG.replace(line, other))
}

fn more(spec: &str) -> Result<Config, ConfigError> {
    parse(&format!("{CONFIG}  {spec}\n"))
}

#[track_caller]
fn refused(config: Result<Config, ConfigError>, line: u64, field: &str, words: &[&str]) {
    let error = config.unwrap_err();
    let text = error.to_string();
    assert_eq!((error.line(), error.field()), (line, field), "{text}");
    assert!(text.starts_with(&format!("line {line}")), "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text:?}");
    }
}

#[test]
fn the_smallest_one_has_sound_defaults() {
    let config = parse(CONFIG).unwrap();
    let [signer] = config.signers() else { panic!() };
    assert_eq!(signer.name.as_str(), "workload");
    assert_eq!(signer.signer_name.as_str(), "podmint.dev/workload");
    assert_eq!(signer.trust_domain.as_str(), "prod.example.org");
    assert_eq!(*signer.key_types, KeyType::ALL);
    assert_eq!(signer.lifetime, Lifetime { max_seconds: 86_400, refresh_from_permille: 400, refresh_to_permille: 600 });
    assert_eq!(signer.authority.secret_name.as_str(), "podmint-ca");
    assert_eq!(signer.authority.root_secret_name.as_str(), "podmint-ca-root");
    assert!(!signer.suspend);
    assert_eq!(config.signer(&signer.signer_name), Some(signer));
}

#[test]
fn every_field_is_read() {
    let config = more(
        "suspend: true\n  keyTypes: [ED25519, ECDSAP384]\n  lifetime: {max: 1h30m, refreshAt: [0.5, 0.66]}\n  authority: {selfManaged: \
         {secretName: a, rootSecretName: b}}",
    )
    .unwrap();
    let signer = &config.signers()[0];
    assert!(signer.suspend);
    assert_eq!(*signer.key_types, [KeyType::Ed25519, KeyType::EcdsaP384]);
    assert_eq!(signer.lifetime, Lifetime { max_seconds: 5_400, refresh_from_permille: 500, refresh_to_permille: 660 });
    assert_eq!(signer.authority.names().map(DnsName::as_str), ["a", "b"]);
}

#[test]
fn a_profile_decides_on_the_words() {
    let config = parse(CONFIG).unwrap();
    let default = &config.signers()[0].wording;
    assert_eq!(default.spiffe_path.as_ref().unwrap().to_string(), "/ns/{namespace}/sa/{serviceAccount}");
    assert!(default.dns_names.is_empty() && !default.pod_ips && default.subject.is_empty());
    assert!(default.usages == Usages::Both && !default.wants_services());

    let config = more(
        "profile:\n      spiffeId: /x/{namespace}/{label:a.b/team}\n      trustedLabels: [a.b/team]\n      dnsNames: [hostname, \
         '{pod}.{namespace}.svc', services]\n      ipAddresses: [podIPs]\n      subject: {organization: A B, organizationalUnit: \
         '{node}', commonName: '{serviceAccount}.{namespace}'}",
    )
    .unwrap();
    let wording = &config.signers()[0].wording;
    assert_eq!(wording.spiffe_path.as_ref().unwrap().to_string(), "/x/{namespace}/{label:a.b/team}");
    let names: Vec<String> = wording.dns_names.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["hostname", "{pod}.{namespace}.svc", "services"]);
    assert!(wording.pod_ips && wording.wants_services());
    let subject: Vec<String> = wording.subject.fields().map(|(_, field)| field.unwrap().to_string()).into();
    assert_eq!(subject, ["A B", "{node}", "{serviceAccount}.{namespace}"]);
    let report = config.report();
    for line in [
        "names pods spiffe://prod.example.org/x/{namespace}/{label:a.b/team}",
        "{service}.{namespace}.svc and {service}.{namespace}.svc.cluster.local of each Service",
        "IP addresses",
        "subject    organization A B, organizationalUnit {node}, commonName {serviceAccount}.{namespace}",
    ] {
        assert!(report.contains(line), "{line:?} is not in\n{report}");
    }
    let server = more("profile: {spiffeId: none, dnsNames: [services], usages: [server]}").unwrap();
    assert_eq!(server.signers()[0].wording.usages, Usages::Server);
    assert!(server.report().contains("usages     servers only"));
}

#[test]
fn a_rule_has_conditions_limits_and_requests() {
    let rule = |lines: &str| parse(&format!("{CONFIG}{lines}"));
    let config = rule(
        "      namespaceSelector: {matchLabels: {env: prod}}\n      nodeSelector: {matchLabels: {b: '2', a: '1'}}\n      lifetime: \
         {max: 6h}\n      keyTypes: [ED25519]\n      shadow: true\n      requests: {services: true, hostname: true, podIPs: true, \
         dnsNames: [api.bank.svc], commonNames: [cart_rw]}\n",
    )
    .unwrap();
    let rule_read = &config.signers()[0].allow[0];
    assert_eq!(*rule_read.namespace_labels, [("env".into(), "prod".into())]);
    assert_eq!(*rule_read.node_labels, [("a".into(), "1".into()), ("b".into(), "2".into())]);
    assert_eq!((rule_read.max_seconds, rule_read.shadow), (Some(21_600), true));
    assert_eq!(rule_read.key_types.as_deref(), Some([KeyType::Ed25519].as_slice()));
    assert!(config.signers()[0].wants_services());
    let report = config.report();
    for line in [
        "SHADOW     ServiceAccounts * of namespaces shop, team-* (rule shops)",
        "where the namespace has the labels env=prod",
        "on nodes with the labels a=1, b=2",
        "for 6h at most",
        "with ED25519 keys",
        "which may ask for names of Services that select them, their host name, their addresses, DNS name api.bank.svc, common name \
         cart_rw",
    ] {
        assert!(report.contains(line), "{line:?} is not in\n{report}");
    }
    refused(rule("      nodeSelector: {}\n"), 12, "spec.allow[0].nodeSelector", &["matchLabels is missing"]);
    refused(
        rule("      nodeSelector: {matchLabels: {}}\n"),
        12,
        "spec.allow[0].nodeSelector.matchLabels",
        &["selects everything"],
    );
    refused(
        rule("      nodeSelector: {matchLabels: {a: 1}}\n"),
        12,
        "spec.allow[0].nodeSelector.matchLabels",
        &["\"a\"", "in quotes"],
    );
    refused(rule("      lifetime: {max: 10m}\n"), 12, "spec.allow[0].lifetime.max", &["1h"]);
    refused(rule("      requests: {dnsName: []}\n"), 12, "spec.allow[0].requests", &["did you mean \"dnsNames\"?"]);
    for bad in ["bank.example.org", "svc", "xsvc", "*.bank.svc"] {
        let config = rule(&format!("      requests: {{dnsNames: ['{bad}']}}\n"));
        refused(config, 12, "spec.allow[0].requests.dnsNames[0]", &[bad]);
    }
    refused(
        rule("      requests: {commonNames: ['system:masters']}\n"),
        12,
        "spec.allow[0].requests.commonNames[0]",
        &["Kubernetes"],
    );
}

#[test]
fn a_profile_that_makes_no_good_certificate_is_refused() {
    let profile = |profile: &str| more(&format!("profile: {{{profile}}}"));
    refused(profile("dnsName: [services]"), 12, "spec.profile", &["did you mean \"dnsNames\"?"]);
    refused(profile("dnsNames: [service]"), 12, "spec.profile.dnsNames[0]", &["did you mean services?"]);
    refused(profile("dnsNames: [services, services]"), 12, "spec.profile.dnsNames[1]", &["twice"]);
    refused(profile("dnsNames: [bank.example.org]"), 12, "spec.profile.dnsNames[0]", &["{namespace}.svc"]);
    refused(profile("spiffeId: '/sa/{serviceAccount}'"), 12, "spec.profile.spiffeId", &["{namespace}"]);
    refused(profile("spiffeId: none"), 12, "spec.profile", &["needs a name"]);
    refused(profile("usages: [client]"), 12, "spec.profile", &["X.509-SVID", "spiffeId: none"]);
    refused(profile("usages: [sever]"), 12, "spec.profile.usages[0]", &["did you mean server?"]);
    refused(profile("usages: []"), 12, "spec.profile.usages", &["[client], [server]"]);
    refused(profile("ipAddresses: [nodeIPs]"), 12, "spec.profile.ipAddresses[0]", &["podIPs"]);
    refused(profile("subject: {CN: a}"), 12, "spec.profile.subject", &["\"CN\"", "commonName"]);
    refused(profile("subject: {commonName: 'system:admin'}"), 12, "spec.profile.subject.commonName", &["Kubernetes"]);
    refused(
        profile("subject: {commonName: '{label:team}'}"),
        12,
        "spec.profile.subject.commonName",
        &["pod's author", "trustedLabels"],
    );
    refused(profile("trustedLabels: ['a b']"), 12, "spec.profile.trustedLabels[0]", &["no key of a label"]);
}

#[test]
fn unknown_keys_are_refused_with_the_one_that_was_meant() {
    refused(
        more("trustdomain: x"),
        12,
        "spec",
        &["document 1 (PodSigner workload)", "\"trustdomain\"", "\"trustDomain\""],
    );
    refused(more("nonsense: x"), 12, "spec", &["the keys are signerName, trustDomain"]);
    let rule = with("serviceAccounts:", "serviceAccount:");
    refused(rule, 11, "spec.allow[0]", &["did you mean \"serviceAccounts\"?"]);
    refused(
        with("metadata: {name: workload}", "metadata: {name: workload, labels: {}}"),
        4,
        "metadata",
        &["\"labels\""],
    );
    refused(more("lifetime: {maximum: 1h}"), 12, "spec.lifetime", &["\"maximum\""]);
}

#[test]
fn what_is_missing_is_named() {
    refused(with("  trustDomain: prod.example.org\n", ""), 6, "spec", &["trustDomain is missing", "prod.example.org"]);
    refused(
        with("  signerName: podmint.dev/workload\n", ""),
        6,
        "spec",
        &["signerName is missing", "podmint.dev/workload"],
    );
    refused(with("kind: PodSigner\n", ""), 2, "", &["kind is missing"]);
    refused(with("kind: PodSigner", "kind: Signer"), 3, "kind", &["write PodSigner"]);
    refused(with("v1alpha1", "v2"), 2, "apiVersion", &["write podmint.dev/v1alpha1"]);
    refused(with("    - name: shops\n      namespaces", "    - namespaces"), 9, "spec.allow[0]", &["name is missing"]);
}

#[test]
fn signer_names_stay_below_our_domain() {
    let name = |name: &str| with("signerName: podmint.dev/workload", &format!("signerName: {name}"));
    refused(
        name("other.org/workload"),
        6,
        "spec.signerName",
        &["write podmint.dev/workload", "--signer-domain other.org"],
    );
    refused(name("a.podmint.dev/workload"), 6, "spec.signerName", &["not the signer domain"]);
    refused(name("x.kubernetes.io/workload"), 6, "spec.signerName", &["belong to Kubernetes"]);
    refused(name("kubernetes.io/workload"), 6, "spec.signerName", &["belong to Kubernetes"]);
    refused(name("workload"), 6, "spec.signerName", &["domain/path"]);
    refused(name("podmint.dev/a/b"), 6, "spec.signerName", &["exactly one"]);
}

#[test]
fn trust_domains_are_bare_names() {
    let domain = |domain: &str| with("trustDomain: prod.example.org", &format!("trustDomain: {domain:?}"));
    refused(domain("spiffe://prod"), 7, "spec.trustDomain", &["without `spiffe://`"]);
    refused(domain("Prod"), 7, "spec.trustDomain", &["lower case"]);
    refused(domain("prod:1"), 7, "spec.trustDomain", &["no port"]);
    refused(domain("prod/x"), 7, "spec.trustDomain", &["no path"]);
    refused(domain("prod..x"), 7, "spec.trustDomain", &["empty"]);
    refused(domain(""), 7, "spec.trustDomain", &["empty"]);
    refused(with("trustDomain: prod.example.org", "trustDomain: 7"), 7, "spec.trustDomain", &["quotes"]);
}

#[test]
fn rules_that_could_match_nothing_are_refused() {
    let namespaces = |list: &str| with("[\"shop\", \"team-*\"]", list);
    refused(namespaces("[]"), 10, "spec.allow[0].namespaces", &["matches nothing", "[\"*\"]"]);
    refused(namespaces("[shop, \"\"]"), 10, "spec.allow[0].namespaces[1]", &["empty"]);
    refused(namespaces("[Shop]"), 10, "spec.allow[0].namespaces[0]", &["lower-case"]);
    refused(namespaces("shop"), 10, "spec.allow[0].namespaces", &["a list is wanted"]);
    let twice = more("  - {name: shops, namespaces: [\"*\"], serviceAccounts: [\"*\"]}");
    refused(twice, 12, "spec.allow[1]", &["\"shops\""]);
}

#[test]
fn lifetimes_that_cannot_be_granted_are_refused() {
    let max = |max: &str| more(&format!("lifetime: {{max: {max}}}"));
    refused(max("59m"), 12, "spec.lifetime.max", &["1h or more"]);
    refused(max("15d"), 12, "spec.lifetime.max", &["14d or less"]);
    refused(max("24"), 12, "spec.lifetime.max", &["quotes"]);
    refused(max("a day"), 12, "spec.lifetime.max", &["24h, 90m or 1h30m"]);
    refused(max("1m1h"), 12, "spec.lifetime.max", &["no duration"]);
    refused(max("99999999999h"), 12, "spec.lifetime.max", &["no duration"]);
    for (text, seconds) in [("1h", 3_600), ("14d", 1_209_600), ("1d2h3m4s", 93_784), ("90m", 5_400)] {
        assert_eq!(max(text).unwrap().signers()[0].lifetime.max_seconds, seconds);
    }
    let at = |at: &str| more(&format!("lifetime: {{refreshAt: {at}}}"));
    refused(at("[0.1, 0.5]"), 12, "spec.lifetime.refreshAt[0]", &["0.17 to 0.83"]);
    refused(at("[0.5, 0.9]"), 12, "spec.lifetime.refreshAt[1]", &["0.17 to 0.83"]);
    refused(at("[0.6, 0.4]"), 12, "spec.lifetime.refreshAt", &["swap them"]);
    refused(at("[0.4]"), 12, "spec.lifetime.refreshAt", &["[0.4, 0.6]"]);
    refused(at("0.4"), 12, "spec.lifetime.refreshAt", &["a list is wanted"]);
    refused(at("[.nan, 0.5]"), 12, "", &["non-finite"]);
    refused(at("[1, 0.5]"), 12, "spec.lifetime.refreshAt[0]", &["0.17 to 0.83"]);
    assert!(at("[0.17, 0.83]").is_ok());
}

#[test]
fn key_types_are_known_and_not_repeated() {
    let kinds = |kinds: &str| more(&format!("keyTypes: {kinds}"));
    refused(kinds("[ECDSA256]"), 12, "spec.keyTypes[0]", &["did you mean ECDSAP256?"]);
    refused(kinds("[X]"), 12, "spec.keyTypes[0]", &["RSA3072, RSA4096"]);
    refused(kinds("[ED25519, ED25519]"), 12, "spec.keyTypes[1]", &["twice"]);
    refused(kinds("[]"), 12, "spec.keyTypes", &["nothing can be served"]);
}

#[test]
fn what_two_pod_signers_may_not_share_is_refused() {
    let both = |change: &dyn Fn(&str) -> String| parse(&format!("{CONFIG}---{}", change(CONFIG)));
    let other = |yaml: &str| yaml.replace("workload", "other") + "  authority: {selfManaged: {secretName: other-ca}}\n";
    assert_eq!(both(&other).unwrap().signers().len(), 2);
    refused(both(&str::to_owned), 13, "", &["document 2 (PodSigner workload)", "another metadata.name"]);
    let same_name = |yaml: &str| yaml.replace("name: workload", "name: other");
    refused(both(&same_name), 13, "", &["PodSigner workload has signerName podmint.dev/workload, too"]);
    let same_secret = |yaml: &str| yaml.replace("workload", "other");
    refused(both(&same_secret), 13, "", &["Secret podmint-ca", "podmint-ca-other"]);
    let one_secret = more("authority: {selfManaged: {secretName: a, rootSecretName: a}}");
    refused(one_secret, 12, "spec.authority.selfManaged", &["must differ"]);
}

#[test]
fn a_ca_comes_from_one_place() {
    let of = |authority: &str| more(&format!("authority: {authority}"));
    let origin = |authority: &str| of(authority).unwrap().signers()[0].authority.clone();
    assert_eq!(origin("{}"), parse(CONFIG).unwrap().signers()[0].authority);
    let secret = origin("{secret: {name: my-ca}}");
    assert_eq!(secret.origin, Origin::Secret(DnsName::parse("my-ca").unwrap()));
    assert_eq!(secret.names().map(DnsName::as_str), ["podmint-ca", "podmint-ca-root"]);
    let files = origin("{files: {directory: /run/ca, secretName: a, rootSecretName: b}}");
    assert_eq!(files.origin, Origin::Files(std::path::Path::new("/run/ca").into()));
    assert_eq!(files.names().map(DnsName::as_str), ["a", "b"]);
    assert!(of("{secret: {name: my-ca}}").unwrap().report().contains("brought in the Secret my-ca"));

    refused(of("{selfManaged: {}, secret: {name: a}}"), 12, "spec.authority", &["take selfManaged or secret away"]);
    refused(of("{secret: {}}"), 12, "spec.authority.secret", &["name is missing"]);
    refused(of("{files: {}}"), 12, "spec.authority.files", &["directory is missing"]);
    refused(of("{files: {directory: run/ca}}"), 12, "spec.authority.files.directory", &["from the root on"]);
    refused(of("{secret: {name: podmint-ca-root}}"), 12, "spec.authority.secret", &["Secrets of its own"]);
    let two = |own: &str| {
        let brought = |own: &str| format!("{CONFIG}  authority: {{secret: {{name: my-ca, secretName: {own}}}}}\n");
        parse(&format!("{}---{}", brought("a"), brought(own).replace("workload", "other")))
    };
    refused(two("b"), 14, "", &["keeps its CA in the Secret my-ca, too", "spec.authority.secret.secretName"]);
}

#[test]
fn broken_yaml_is_refused_with_its_line() {
    let error = parse("apiVersion: podmint.dev/v1alpha1\nkind: [PodSigner\n").unwrap_err();
    assert!(error.line() > 0, "{error}");
    let error = parse(&CONFIG.replace("kind: PodSigner", "kind: PodSigner\nkind: PodSigner")).unwrap_err();
    assert_eq!(error.line(), 4, "{error}");
    refused(parse("- a\n"), 1, "", &["document 1", "a mapping is wanted"]);
}

#[test]
fn an_empty_stream_admits_nobody_and_says_so() {
    for empty in ["", "# nothing\n"] {
        let config = parse(empty).unwrap();
        assert!(config.signers().is_empty());
        assert!(config.report().contains("nobody gets a certificate"));
    }
}

#[test]
fn the_report_says_what_is_in_force() {
    let report = more("lifetime: {max: 1d12h}\n  suspend: true\n  keyTypes: [RSA3072, ED25519]").unwrap().report();
    for line in [
        "signer domain podmint.dev, cluster domain cluster.local",
        "PodSigner workload (SUSPENDED: every request is held)",
        "answers    signerName podmint.dev/workload",
        "spiffe://prod.example.org/ns/{namespace}/sa/{serviceAccount}",
        "admits     ServiceAccounts * of namespaces shop, team-* (rule shops)",
        "key types  RSA3072 or ED25519",
        "lifetime   1d 12h at most, renewed at 40% to 60% of it",
        "Secret podmint-ca (issuing CA, 30d), Secret podmint-ca-root (root, 10 years)",
    ] {
        assert!(report.contains(line), "{line:?} is not in\n{report}");
    }
    let (head, _) = CONFIG.split_once("  allow:").unwrap();
    assert!(parse(head).unwrap().report().contains("admits     NOBODY"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}") {
        drop(parse(&text));
    }

    #[test]
    fn no_change_of_one_place_makes_it_panic(place in 0..300_usize, new in "[\\PC\n]{0,3}") {
        let (before, after): (Vec<_>, Vec<_>) = CONFIG.chars().enumerate().partition(|(at, _)| *at < place);
        let text = |part: Vec<(usize, char)>| part.into_iter().map(|(_, letter)| letter).collect::<String>();
        drop(parse(&(text(before) + &new + text(after.into_iter().skip(1).collect()).as_str())));
    }
}
