//! Each MUST of X.509-SVID that a verifier can see, by a client that breaks it and nothing else. The chain is always good otherwise, and webpki alone
//! would let most of them in.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a failure is the test's failure")]

mod kit;

use kit::{DOMAIN, Pod, anyone, refusal_of, server_says};
use podmint::testkit::{Authority, Issued, in_seconds, raw_extension};
use podmint::{BadSpiffeId, HandshakeError, NotAnSvid, Reason};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType};

const CART: &str = "/ns/shop/sa/cart";

fn authority() -> Authority {
    Authority::new(DOMAIN)
}

/// What a server says to a leaf that differs in one thing from a good one.
async fn refused(change: impl FnOnce(&mut CertificateParams)) -> Reason {
    let authority = authority();
    refusal_of(&authority, &authority.issue_with(CART, change)).await
}

async fn accepted(authority: &Authority, client: &Issued) {
    let pod = Pod::with(&authority.issue("/ns/shop/sa/till"), &authority.trust());
    server_says(&pod.start().await, anyone(), client).await.unwrap();
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

fn svid(rule: NotAnSvid) -> Reason {
    Reason::NotAnSvid(rule)
}

#[tokio::test]
async fn a_good_leaf_is_let_in() {
    let authority = authority();
    accepted(&authority, &authority.issue(CART)).await;
    accepted(&authority, &authority.intermediate(|_| {}).issue(CART)).await;
    accepted(&authority, &authority.intermediate(|_| {}).intermediate(|_| {}).issue(CART)).await;
}

#[tokio::test]
async fn other_names_beside_the_one_uri_are_allowed() {
    let authority = authority();
    let dns = |params: &mut CertificateParams| {
        params.subject_alt_names.push(SanType::DnsName("cart.shop.svc".try_into().unwrap()));
    };
    accepted(&authority, &authority.issue_with(CART, dns)).await;
}

#[tokio::test]
async fn must_have_a_uri_name() {
    assert_eq!(refused(|params| params.subject_alt_names.clear()).await, svid(NotAnSvid::NoUri));
    let dns = |params: &mut CertificateParams| {
        params.subject_alt_names = vec![SanType::DnsName("cart.shop.svc".try_into().unwrap())];
    };
    assert_eq!(refused(dns).await, svid(NotAnSvid::NoUri));
}

#[tokio::test]
async fn must_have_exactly_one_uri_name() {
    let two = |params: &mut CertificateParams| params.subject_alt_names.push(uri("https://example.org"));
    assert_eq!(refused(two).await, svid(NotAnSvid::SeveralUris(2)));
}

#[tokio::test]
async fn must_have_exactly_one_uri_name_counting_those_that_are_no_text() {
    let id = format!("spiffe://{DOMAIN}{CART}");
    let mut inside = vec![0x86, u8::try_from(id.len()).unwrap()];
    inside.extend(id.bytes());
    inside.extend([0x86, 2, 0xff, 0xfe]);
    let value = [&[0x30, u8::try_from(inside.len()).unwrap()][..], &inside].concat();
    let hidden = |params: &mut CertificateParams| {
        params.subject_alt_names.clear();
        params.custom_extensions.push(raw_extension(&[2, 5, 29, 17], true, value));
    };
    assert_eq!(refused(hidden).await, svid(NotAnSvid::SeveralUris(2)));
}

#[tokio::test]
async fn must_have_a_well_formed_spiffe_id() {
    for (name, why) in [
        (format!("https://{DOMAIN}{CART}"), BadSpiffeId::Scheme),
        (format!("spiffe://{DOMAIN}/a/../b"), BadSpiffeId::DotSegment),
        (format!("spiffe://{DOMAIN}//b"), BadSpiffeId::EmptySegment),
        (format!("spiffe://{DOMAIN}/b%20"), BadSpiffeId::PathCharacter),
        (format!("spiffe://{}{CART}", DOMAIN.to_uppercase()), BadSpiffeId::DomainCharacter),
        (format!("spiffe://{DOMAIN}:443{CART}"), BadSpiffeId::DomainCharacter),
        (format!("spiffe://{DOMAIN}/{}", "x".repeat(2048)), BadSpiffeId::TooLong),
    ] {
        let renamed = |params: &mut CertificateParams| params.subject_alt_names = vec![uri(&name)];
        assert_eq!(refused(renamed).await, svid(NotAnSvid::BadId(why)), "{name}");
    }
}

#[tokio::test]
async fn must_have_a_path_in_a_leaf() {
    let whole = |params: &mut CertificateParams| params.subject_alt_names = vec![uri(&format!("spiffe://{DOMAIN}"))];
    assert_eq!(refused(whole).await, svid(NotAnSvid::NoPath));
}

#[tokio::test]
async fn must_not_be_a_ca_in_a_leaf() {
    let ca = |params: &mut CertificateParams| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert_eq!(refused(ca).await, svid(NotAnSvid::IsCa));
}

#[tokio::test]
async fn may_leave_basic_constraints_out_in_a_leaf() {
    let authority = authority();
    accepted(&authority, &authority.issue_with(CART, |params| params.is_ca = IsCa::NoCa)).await;
}

#[tokio::test]
async fn must_have_a_key_usage() {
    assert_eq!(refused(|params| params.key_usages.clear()).await, svid(NotAnSvid::NoKeyUsage));
}

#[tokio::test]
async fn must_have_a_critical_key_usage() {
    let lax = |params: &mut CertificateParams| {
        params.key_usages.clear();
        params.custom_extensions.push(raw_extension(&[2, 5, 29, 15], false, vec![0x03, 0x02, 0x07, 0x80]));
    };
    assert_eq!(refused(lax).await, svid(NotAnSvid::UsageNotCritical));
}

#[tokio::test]
async fn must_have_digital_signature_in_a_leaf() {
    let encipher = |params: &mut CertificateParams| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
    assert_eq!(refused(encipher).await, svid(NotAnSvid::NoDigitalSignature));
}

#[tokio::test]
async fn must_not_have_key_cert_sign_in_a_leaf() {
    let sign = |params: &mut CertificateParams| params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    assert_eq!(refused(sign).await, svid(NotAnSvid::MaySignCertificates));
}

#[tokio::test]
async fn must_not_have_crl_sign_in_a_leaf() {
    let sign = |params: &mut CertificateParams| params.key_usages.push(KeyUsagePurpose::CrlSign);
    assert_eq!(refused(sign).await, svid(NotAnSvid::MaySignRevocations));
}

#[tokio::test]
async fn must_have_critical_names_where_the_subject_is_empty() {
    let id = format!("spiffe://{DOMAIN}{CART}");
    let length = u8::try_from(id.len()).unwrap();
    let value = [&[0x30, length + 2, 0x86, length][..], id.as_bytes()].concat();
    let named = value.clone();
    let lax = |params: &mut CertificateParams| {
        params.subject_alt_names.clear();
        params.custom_extensions.push(raw_extension(&[2, 5, 29, 17], false, value));
    };
    assert_eq!(refused(lax).await, svid(NotAnSvid::NamesNotCritical));
    // The twin: with a subject, the names need not be critical.
    let authority = authority();
    let twin = authority.issue_with(CART, |params| {
        params.subject_alt_names.clear();
        params.distinguished_name.push(DnType::CommonName, "cart");
        params.custom_extensions.push(raw_extension(&[2, 5, 29, 17], false, named));
    });
    accepted(&authority, &twin).await;
}

#[tokio::test]
async fn must_have_the_purpose_where_purposes_are_named() {
    let server_only = |params: &mut CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    assert_eq!(refused(server_only).await, Reason::WrongPurpose);
    let authority = authority();
    accepted(&authority, &authority.issue_with(CART, |params| params.extended_key_usages.clear())).await;
}

#[tokio::test]
async fn must_have_key_cert_sign_in_every_issuer() {
    let authority = authority();
    let lax = authority.intermediate(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    assert_eq!(refusal_of(&authority, &lax.issue(CART)).await, Reason::IssuerMayNotSign);
    let none = authority.intermediate(|params| params.key_usages.clear());
    assert_eq!(refusal_of(&authority, &none.issue(CART)).await, Reason::IssuerMayNotSign);
}

#[tokio::test]
async fn must_be_a_ca_in_every_issuer() {
    let authority = authority();
    let leaf = authority.intermediate(|params| params.is_ca = IsCa::ExplicitNoCa);
    assert_eq!(refusal_of(&authority, &leaf.issue(CART)).await, Reason::IssuerMayNotSign);
}

#[tokio::test]
async fn must_not_have_a_workloads_id_in_an_issuer() {
    let authority = authority();
    let workload = authority.intermediate(|params| {
        params.subject_alt_names = vec![uri(&format!("spiffe://{DOMAIN}/ns/shop/sa/ca"))];
    });
    assert_eq!(refusal_of(&authority, &workload.issue(CART)).await, Reason::IssuerIsWorkload);
    let domain = authority.intermediate(|params| params.subject_alt_names = vec![uri(&format!("spiffe://{DOMAIN}"))]);
    accepted(&authority, &domain.issue(CART)).await;
}

#[tokio::test]
async fn must_be_valid_now() {
    let authority = authority();
    assert!(matches!(refusal_of(&authority, &authority.issue_valid(CART, -100, -1)).await, Reason::Expired(1..)));
    assert!(matches!(refusal_of(&authority, &authority.issue_valid(CART, 120, 900)).await, Reason::NotYetValid(60..)));
}

#[tokio::test]
async fn may_become_valid_within_a_minute() {
    let authority = authority();
    accepted(&authority, &authority.issue_valid(CART, 30, 900)).await;
    // The allowance is for notBefore alone.
    let short = authority.issue_valid(CART, 20, 40);
    assert!(matches!(refusal_of(&authority, &short).await, Reason::Expired(_)));
}

#[tokio::test]
async fn must_have_a_valid_anchor() {
    let expired = Authority::with_root(DOMAIN, |params| {
        params.not_before = in_seconds(-1000);
        params.not_after = in_seconds(-1);
    });
    assert_eq!(refusal_of(&expired, &expired.issue(CART)).await, Reason::AnchorNotValid);
    let future = Authority::with_root(DOMAIN, |params| params.not_before = in_seconds(1000));
    assert_eq!(refusal_of(&future, &future.issue(CART)).await, Reason::AnchorNotValid);
}

#[tokio::test]
async fn must_keep_the_path_lengths_of_issuers_and_anchor() {
    let root = Authority::with_root(DOMAIN, |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    accepted(&root, &root.issue(CART)).await;
    // webpki does not know an anchor's path length.
    assert_eq!(refusal_of(&root, &root.intermediate(|_| {}).issue(CART)).await, Reason::PathTooLong);
    let authority = authority();
    let last = authority.intermediate(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    accepted(&authority, &last.issue(CART)).await;
    assert_eq!(refusal_of(&authority, &last.intermediate(|_| {}).issue(CART)).await, Reason::PathTooLong);
}

#[tokio::test]
async fn must_chain_to_an_anchor_of_its_own_trust_domain() {
    let ours = authority();
    let theirs = Authority::new("partner.example.net");
    let pod = Pod::new();
    pod.volume.write(&[
        ("bundle.pem", ours.issue("/ns/shop/sa/till").bundle()),
        ("trust.pem", ours.trust()),
        ("partner.pem", theirs.trust()),
    ]);
    let source = pod.source().trust("partner.example.net".parse().unwrap(), pod.folder.path().join("partner.pem"));
    let identity = source.start().await.unwrap();
    let both =
        || podmint::Authorizer::any_of([anyone(), podmint::Authorizer::any_in("partner.example.net".parse().unwrap())]);
    server_says(&identity, both(), &theirs.issue(CART)).await.unwrap();
    // The partner's authority makes up one of our names: bundles are never merged.
    let forged = theirs.issue_with(CART, |params| {
        params.subject_alt_names = vec![uri(&format!("spiffe://{DOMAIN}{CART}"))];
    });
    match server_says(&identity, both(), &forged).await {
        Err(HandshakeError::Refused(refusal)) => {
            assert_eq!(*refusal.reason(), Reason::UnknownIssuer);
            assert!(refusal.authority_key_id().is_some_and(|id| !refusal.anchors().contains(&id.to_owned())));
            let shown = refusal.to_string();
            assert!(
                shown.contains(refusal.authority_key_id().unwrap()) && shown.contains(&refusal.anchors()[0]),
                "{shown}"
            );
            assert!(shown.contains("generation 1"), "{shown}");
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
    let stranger = Authority::new("stranger.example").issue(CART);
    match server_says(&identity, both(), &stranger).await {
        Err(HandshakeError::Refused(refusal)) => assert_eq!(*refusal.reason(), Reason::UnknownTrustDomain),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn a_root_of_the_same_name_with_another_key_is_an_unknown_issuer() {
    let (old, new) = (authority(), authority());
    assert_eq!(refusal_of(&new, &old.issue(CART)).await, Reason::UnknownIssuer);
    // Side by side they both work.
    let pod = Pod::with(&new.issue("/ns/shop/sa/till"), &format!("{}{}", new.trust(), old.trust()));
    server_says(&pod.start().await, anyone(), &old.issue(CART)).await.unwrap();
}

#[tokio::test]
async fn a_leaf_in_the_trust_bundle_is_no_anchor() {
    let authority = authority();
    let stranger = Authority::new(DOMAIN);
    let leaf = stranger.issue(CART);
    let pod = Pod::with(&authority.issue("/ns/shop/sa/till"), &format!("{}{}", authority.trust(), leaf.chain));
    let identity = pod.start().await;
    let anchors = identity.snapshot();
    let anchors = anchors.anchors(&DOMAIN.parse().unwrap()).unwrap();
    assert_eq!((anchors.len(), anchors.ignored()), (1, 1));
    assert!(matches!(server_says(&identity, anyone(), &leaf).await, Err(HandshakeError::Refused(_))));
}

#[tokio::test]
async fn a_uri_constraint_is_refused_by_its_name() {
    let inside = [&[0x30, 10, 0xa0, 8, 0x30, 6, 0x86, 4][..], b"prod"].concat();
    let authority = authority();
    let limited = authority.intermediate(|params| {
        params.custom_extensions.push(raw_extension(&[2, 5, 29, 30], true, inside));
    });
    assert_eq!(refusal_of(&authority, &limited.issue(CART)).await, Reason::UriConstraint);
}

#[tokio::test]
async fn a_refusal_is_short_whatever_the_stranger_sends() {
    let authority = authority();
    let roots: String = (0..30).map(|_| Authority::new(DOMAIN).trust()).collect();
    let pod = Pod::with(&authority.issue("/ns/shop/sa/till"), &format!("{}{roots}", authority.trust()));
    let key_id = [&[0x30, 0x82, 0x20, 0x04, 0x80, 0x82, 0x20, 0x00][..], &[7; 0x2000]].concat();
    let stranger = Authority::new(DOMAIN).issue_with(CART, |params| {
        params.use_authority_key_identifier_extension = false;
        params.custom_extensions.push(raw_extension(&[2, 5, 29, 35], false, key_id));
    });
    match server_says(&pod.start().await, anyone(), &stranger).await {
        Err(HandshakeError::Refused(refusal)) => {
            let shown = refusal.to_string();
            assert!(shown.len() < 1000 && shown.contains(" and 23 more)"), "{} bytes: {shown}", shown.len());
        }
        other => panic!("expected a refusal, got {other:?}"),
    }
}
