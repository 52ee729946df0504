//! Chains from our own generator through our verifier, each verdict with the rule it rests on; and what Go's crypto/x509, go-spiffe and OpenSSL say of the same chains, with the
//! reason where one of them differs.
//!
//! Rules of the leaf alone are in `svid.rs`, one test each.

#![expect(clippy::indexing_slicing, clippy::unwrap_used, reason = "helpers of tests: a failure is the test's failure")]

mod kit;

use kit::{DOMAIN, Pod, aws, go, server_says};
use podmint::Authorizer;
use podmint::testkit::{Authority, Issued, in_seconds, raw_extension};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyUsagePurpose,
    NameConstraints, SanType,
};
use std::collections::BTreeMap;
use std::process::Command;

const CART: &str = "/ns/shop/sa/cart";

/// Who says the opposite of the same chain, and why. The others agree.
type Differing = &'static [(Other, &'static str)];
const AGREE: Differing = &[];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Other {
    /// Go's crypto/x509, as crypto/tls uses it for clients.
    Std,
    /// go-spiffe's `x509svid.Verify`, which has no side: it asks for no purpose.
    Spiffe,
    /// `openssl verify -purpose sslclient -x509_strict`.
    OpenSsl,
}
use Other::{OpenSsl, Spiffe, Std};

struct Case {
    name: &'static str,
    issued: Issued,
    trust: String,
    /// "accept", or the reason of the refusal.
    ours: &'static str,
    rule: &'static str,
    differing: Differing,
}

fn all() -> Vec<Case> {
    let root = Authority::new(DOMAIN);
    let trust = root.trust();
    let mut cases = Vec::new();
    let mut add = |name, issued: Issued, trust: &str, ours, rule, differing| {
        cases.push(Case { name, issued, trust: trust.to_owned(), ours, rule, differing });
    };
    let with = |authority: &Authority, change: fn(&mut CertificateParams)| authority.issue_with(CART, change);
    let below = |change: fn(&mut CertificateParams)| root.intermediate(change).issue(CART);
    let two = root.intermediate(|_| {}).intermediate(|_| {});

    add("honest", root.issue(CART), &trust, "accept", "RFC 5280 6.1", AGREE);
    add("honest-with-two-intermediates", two.issue(CART), &trust, "accept", "RFC 5280 6.1", AGREE);
    let odd = two.issue(CART);
    let parts = blocks(&odd);
    let chain = format!("{}{}{}", parts[0], parts[2], parts[1]);
    add("odd-order", Issued { chain, ..odd }, &trust, "accept", "RFC 8446 4.4.2", AGREE);
    let whole = two.issue(CART);
    let missing = blocks(&whole)[0].clone();
    add(
        "missing-intermediate",
        Issued { chain: missing, ..whole },
        &trust,
        "unknown_issuer",
        "RFC 5280 6.1.3 (a)(4)",
        AGREE,
    );
    let honest = root.issue(CART);
    let extra = format!("{}{}", honest.chain, Authority::new("other.example").trust());
    add("unrelated-extra", Issued { chain: extra, ..honest }, &trust, "accept", "RFC 8446 4.4.2", AGREE);

    // The time of every link.
    add("leaf-expired", root.issue_valid(CART, -900, -300), &trust, "expired", "RFC 5280 4.1.2.5", AGREE);
    add("leaf-in-the-future", root.issue_valid(CART, 3600, 7200), &trust, "not_yet_valid", "RFC 5280 4.1.2.5", AGREE);
    add(
        "intermediate-expired",
        below(|p| p.not_after = in_seconds(-300)),
        &trust,
        "expired",
        "RFC 5280 6.1.3 (a)(2)",
        AGREE,
    );
    add(
        "intermediate-in-the-future",
        below(|p| p.not_before = in_seconds(3600)),
        &trust,
        "not_yet_valid",
        "RFC 5280 6.1.3 (a)(2)",
        AGREE,
    );
    let old = Authority::with_root(DOMAIN, |p| p.not_after = in_seconds(-300));
    add(
        "anchor-expired",
        old.issue(CART),
        &old.trust(),
        "anchor_not_valid",
        "X509-SVID 5.2: the anchor is part of the path",
        AGREE,
    );

    // Who may sign, and how far.
    let short = root.intermediate(|p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    add("path-length", short.intermediate(|_| {}).issue(CART), &trust, "path_too_long", "RFC 5280 6.1.4 (m)", AGREE);
    let bound = Authority::with_root(DOMAIN, |p| p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    add(
        "anchor-path-length",
        bound.intermediate(|_| {}).issue(CART),
        &bound.trust(),
        "path_too_long",
        "RFC 5280 4.2.1.9",
        AGREE,
    );
    add(
        "issuer-is-no-ca",
        below(|p| p.is_ca = IsCa::ExplicitNoCa),
        &trust,
        "issuer_may_not_sign",
        "RFC 5280 6.1.4 (k)",
        AGREE,
    );
    add(
        "issuer-without-cert-sign",
        below(|p| p.key_usages = vec![KeyUsagePurpose::CrlSign]),
        &trust,
        "issuer_may_not_sign",
        "X509-SVID 4.3, RFC 5280 6.1.4 (n)",
        AGREE,
    );
    let same_name = Authority::new(DOMAIN);
    add("same-subject-other-key", same_name.issue(CART), &trust, "unknown_issuer", "RFC 5280 6.1.3 (a)(1)", AGREE);
    let both = format!("{}{}", same_name.trust(), trust);
    add("same-subject-both-keys", root.issue(CART), &both, "accept", "RFC 5280 6.1", AGREE);
    let old = Authority::new("old.example");
    let crossed = Authority::new(DOMAIN).crossed_by(&old);
    add("cross-signed", crossed.issue(CART), &old.trust(), "accept", "RFC 5280 6.1", AGREE);
    // Each of two roots is signed by the other, and neither is an anchor.
    let one = Authority::new(DOMAIN).crossed_by(&old);
    let two = old.crossed_by(&one);
    let turn = one.issue(CART);
    let cycle = format!("{}{}", turn.chain, blocks(&two.issue(CART))[1]);
    add("cycle", Issued { chain: cycle, ..turn }, &trust, "unknown_issuer", "RFC 5280 6.1", AGREE);
    let flipped = root.issue(CART);
    add("signature-altered", altered(flipped), &trust, "bad_signature", "RFC 5280 6.1.3 (a)(1)", AGREE);

    // What nobody knows, and what is limited.
    let critical = |p: &mut CertificateParams| {
        p.custom_extensions.push(raw_extension(&[1, 3, 6, 1, 4, 1, 99999, 1], true, vec![5, 0]))
    };
    add("critical-extension-in-leaf", with(&root, critical), &trust, "chain", "RFC 5280 4.2", AGREE);
    add("critical-extension-in-issuer", below(critical), &trust, "chain", "RFC 5280 4.2", AGREE);
    let limited = |limit: fn() -> GeneralSubtree| {
        root.intermediate(move |p| {
            p.name_constraints =
                Some(NameConstraints { permitted_subtrees: vec![limit()], excluded_subtrees: Vec::new() });
        })
    };
    let dns =
        |p: &mut CertificateParams| p.subject_alt_names.push(SanType::DnsName("cart.shop.svc".try_into().unwrap()));
    let svc = limited(|| GeneralSubtree::DnsName("svc".into()));
    add("dns-limit-kept", with(&svc, dns), &trust, "accept", "RFC 5280 4.2.1.10", AGREE);
    let other = limited(|| GeneralSubtree::DnsName("example.net".into()));
    add("dns-limit-broken", with(&other, dns), &trust, "name_constraint", "RFC 5280 4.2.1.10", AGREE);

    let uris = [&[0x30, 22, 0xa0, 20, 0x30, 18, 0x86, 16][..], DOMAIN.as_bytes()].concat();
    let limited = root.intermediate(move |p| p.custom_extensions.push(raw_extension(&[2, 5, 29, 30], true, uris)));
    add(
        "uri-limit-kept",
        limited.issue(CART),
        &trust,
        "uri_constraint",
        "webpki takes no chain with a limit on URIs (RUSTSEC-2026-0098): refused rather than not looked at",
        &[(Std, "it compares the URI's host"), (Spiffe, "the same"), (OpenSsl, "the same")],
    );

    // What only SPIFFE forbids.
    const STD: Differing = &[(Std, "a rule of X509-SVID, which it does not know")];
    const SPIFFE: Differing = &[(Std, "a rule of X509-SVID, which it does not know"), (OpenSsl, "the same")];
    add(
        "leaf-is-ca",
        with(&root, |p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        &trust,
        "leaf_is_ca",
        "X509-SVID 5.2",
        STD,
    );
    add(
        "leaf-may-sign",
        with(&root, |p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        &trust,
        "may_sign_certificates",
        "X509-SVID 5.2",
        STD,
    );
    let second =
        |p: &mut CertificateParams| p.subject_alt_names.push(SanType::URI("https://example.org/".try_into().unwrap()));
    add("two-uris", with(&root, second), &trust, "several_uris", "X509-SVID 2", SPIFFE);
    let only_server = |p: &mut CertificateParams| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    add(
        "server-only",
        with(&root, only_server),
        &trust,
        "wrong_purpose",
        "X509-SVID 4.4, RFC 5280 4.2.1.12",
        &[(Spiffe, "it asks for no purpose")],
    );
    let workload = |p: &mut CertificateParams| {
        p.subject_alt_names = vec![SanType::URI("spiffe://prod.example.org/ns/a/sa/b".try_into().unwrap())];
    };
    add(
        "issuer-is-workload",
        below(workload),
        &trust,
        "issuer_is_workload",
        "X509-SVID 3.2",
        &[(Std, "it knows no SPIFFE"), (OpenSsl, "the same"), (Spiffe, "it does not look at the names of issuers")],
    );

    // A bound of ours against work without end.
    let many = root.issue(CART);
    let stuffing: String = (0..11).map(|_| Authority::new("other.example").trust()).collect();
    let stuffed = Issued { chain: format!("{}{stuffing}", many.chain), ..many };
    add(
        "stuffed",
        stuffed,
        &trust,
        "path_too_long",
        "at most ten intermediates are looked at",
        &[(Std, "it looks at all of them"), (Spiffe, "the same"), (OpenSsl, "the same")],
    );
    cases
}

fn blocks(issued: &Issued) -> Vec<String> {
    issued.chain.split_inclusive("-----END CERTIFICATE-----\n").map(str::to_owned).collect()
}

/// One bit of the leaf's signature, the last thing in it.
fn altered(issued: Issued) -> Issued {
    use rustls_pki_types::pem::PemObject as _;
    let mut der = rustls_pki_types::CertificateDer::from_pem_slice(issued.chain.as_bytes()).unwrap().to_vec();
    *der.last_mut().unwrap() ^= 1;
    Issued { chain: podmint::testkit::pem("CERTIFICATE", &der), ..issued }
}

#[tokio::test]
async fn every_verdict_is_the_one_its_rule_asks_for() {
    // Its root has another name than those of the cases: with two roots of one name, webpki reports what it met at the wrong one.
    let home = Authority::with_root(DOMAIN, |params| params.distinguished_name.push(DnType::OrganizationName, "home"));
    for case in all() {
        let pod = Pod::new();
        pod.volume.write(&[
            ("bundle.pem", home.issue("/ns/shop/sa/till").bundle()),
            ("trust.pem", format!("{}{}", case.trust, home.trust())),
        ]);
        let identity = pod.builder().provider(aws()).start().await.unwrap();
        let everyone = Authorizer::not(Authorizer::one_of([]));
        let verdict = match server_says(&identity, everyone, &case.issued).await {
            Ok(()) => "accept",
            Err(error) => error.reason(),
        };
        assert_eq!(verdict, case.ours, "{} ({})", case.name, case.rule);
    }
}

/// What one of the others says of each case, by its name: "accept" or "refuse".
type Said = BTreeMap<String, &'static str>;

fn compare(cases: &[Case], who: Other, said: &Said) {
    assert_eq!(said.len(), cases.len(), "{said:?}");
    let mut wrong = Vec::new();
    for case in cases {
        let ours = if case.ours == "accept" { "accept" } else { "refuse" };
        let differs = said.get(case.name) != Some(&ours);
        if differs != case.differing.iter().any(|(other, _)| *other == who) {
            wrong.push(format!("{}: we say {}, {who:?} says {:?}", case.name, case.ours, said.get(case.name)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Each case in a folder of its own.
fn write(cases: &[Case]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for case in cases {
        let home = folder.path().join(case.name);
        std::fs::create_dir(&home).unwrap();
        std::fs::write(home.join("chain.pem"), &case.issued.chain).unwrap();
        std::fs::write(home.join("leaf.pem"), &blocks(&case.issued)[0]).unwrap();
        std::fs::write(home.join("trust.pem"), &case.trust).unwrap();
    }
    folder
}

fn word(accepts: bool) -> &'static str {
    if accepts { "accept" } else { "refuse" }
}

#[test]
fn go_and_go_spiffe_agree_or_the_difference_has_a_reason() {
    let cases = all();
    let folder = write(&cases);
    let output = Command::new(go::program("peer")).arg("verify").arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let column = |which: usize| -> Said {
        let line = |line: &str| {
            let words: Vec<_> = line.split(' ').collect();
            (words[0].to_owned(), word(words[which] == "accept"))
        };
        text.lines().map(line).collect()
    };
    compare(&cases, Std, &column(1));
    compare(&cases, Spiffe, &column(2));
}

#[test]
#[ignore = "needs OpenSSL's program: tests/run --rest"]
fn openssl_agrees_or_the_difference_has_a_reason() {
    let cases = all();
    let folder = write(&cases);
    let says = |case: &Case| {
        let home = folder.path().join(case.name);
        let mut command = Command::new("openssl");
        command.args(["verify", "-purpose", "sslclient", "-x509_strict", "-no-CApath", "-no-CAstore", "-CAfile"]);
        command.arg(home.join("trust.pem")).arg("-untrusted").arg(home.join("chain.pem")).arg(home.join("leaf.pem"));
        let output = command.output().unwrap_or_else(|error| panic!("OpenSSL is needed for this test: {error}"));
        (case.name.to_owned(), word(output.status.success()))
    };
    compare(&cases, OpenSsl, &cases.iter().map(says).collect());
}
