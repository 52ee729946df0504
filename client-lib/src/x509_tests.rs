use super::*;
use crate::testkit::{Authority, raw_extension};
use proptest::prelude::*;
use rcgen::{BasicConstraints, IsCa, KeyUsagePurpose, SanType};

fn der_of(pem: &str) -> Vec<u8> {
    match crate::pem::blocks(pem.as_bytes(), 3).unwrap().remove(0) {
        crate::pem::Block::Certificate(der) => der,
        crate::pem::Block::Key(_) => panic!("a key where a certificate was expected"),
    }
}

fn leaf_with(change: impl FnOnce(&mut rcgen::CertificateParams)) -> Vec<u8> {
    der_of(&Authority::new("prod").issue_with("/ns/shop/sa/cart", change).chain)
}

/// Subject alternative names of these (tag, content) pairs.
fn names_of(pairs: &[(u8, &[u8])]) -> Vec<u8> {
    let inside: Vec<u8> = pairs
        .iter()
        .flat_map(|(tag, content)| [&[*tag, u8::try_from(content.len()).unwrap()][..], content].concat())
        .collect();
    [&[0x30, u8::try_from(inside.len()).unwrap()][..], &inside].concat()
}

fn with_names(pairs: &[(u8, &[u8])]) -> Vec<u8> {
    let value = names_of(pairs);
    leaf_with(|params| {
        params.subject_alt_names.clear();
        params.custom_extensions.push(raw_extension(&[2, 5, 29, 17], true, value));
    })
}

#[test]
fn a_leaf_of_our_signer_is_read_whole() {
    let der = leaf_with(|_| {});
    let facts = Facts::read(&der).unwrap();
    assert_eq!(facts.key, KeyKind::P256);
    assert_eq!(facts.basic, Basic { ca: false, path_len: None });
    assert_eq!(facts.usage, Some(Usage { critical: true, digital_signature: true, cert_sign: false, crl_sign: false }));
    let names = facts.names.unwrap();
    assert_eq!((names.critical, names.uris), (true, 1));
    assert_eq!(names.first_uri, Some(&b"spiffe://prod/ns/shop/sa/cart"[..]));
    assert_eq!(facts.authority_key_id.map(<[u8]>::len), Some(20));
    assert!(facts.not_after.as_secs() - facts.not_before.as_secs() == 86_460);
}

#[test]
fn an_authority_is_read_whole() {
    let authority = Authority::with_root("prod", |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(3));
        params.name_constraints = Some(rcgen::NameConstraints {
            permitted_subtrees: vec![rcgen::GeneralSubtree::DnsName("svc".into())],
            excluded_subtrees: vec![],
        });
    });
    let der = der_of(&authority.trust());
    let facts = Facts::read(&der).unwrap();
    assert_eq!(facts.basic, Basic { ca: true, path_len: Some(3) });
    assert!(facts.usage.unwrap().cert_sign && facts.usage.unwrap().crl_sign);
    assert!(!facts.limits_uris, "a DNS constraint is none on URIs");
    assert!(facts.subject_key_id.is_some());
}

#[test]
fn uri_constraints_are_seen() {
    // permitted [0] { GeneralSubtree { [6] "spiffe://prod" } }
    let uri = b"prod";
    let subtree = [&[0x30, 6, 0x86, 4][..], uri].concat();
    let value = [&[0x30, 10, 0xa0, 8][..], &subtree].concat();
    let authority = Authority::with_root("prod", |params| {
        params.custom_extensions.push(raw_extension(&[2, 5, 29, 30], true, value));
    });
    assert!(Facts::read(&der_of(&authority.trust())).unwrap().limits_uris);
}

#[test]
fn uri_names_that_are_no_text_are_counted_too() {
    let der = with_names(&[(0x86, b"spiffe://prod/a"), (0x86, b"\xff\xfe")]);
    assert_eq!(Facts::read(&der).unwrap().names.unwrap().uris, 2);
    let der = with_names(&[(0x86, b"\xff"), (0x82, b"cart.shop.svc"), (0x87, &[10, 0, 0, 1])]);
    assert_eq!(Facts::read(&der).unwrap().names.unwrap().uris, 1);
}

#[test]
fn names_of_unknown_kinds_and_empty_lists_are_refused() {
    for pairs in [&[(0xa6, &b"x"[..])][..], &[(0x89, b"x")], &[(0x0c, b"x")], &[]] {
        assert_eq!(Facts::read(&with_names(pairs)).unwrap_err(), BadDer("alternative names"));
    }
}

#[test]
fn an_extension_may_occur_once() {
    let der = leaf_with(|params| {
        params.custom_extensions.push(raw_extension(&[2, 5, 29, 17], true, names_of(&[(0x86, b"spiffe://prod/b")])));
    });
    assert_eq!(Facts::read(&der).unwrap_err(), BadDer("extensions (one occurs twice)"));
}

#[test]
fn trailing_bytes_are_refused() {
    let mut der = leaf_with(|_| {});
    der.push(0);
    assert!(Facts::read(&der).is_err());
}

#[test]
fn dates_are_whole_seconds_in_utc() {
    let utc =
        |text: &'static [u8]| time(Value { tag: der::UTC_TIME, content: text, whole: text }).map(|time| time.as_secs());
    let general = |text: &'static [u8]| {
        time(Value { tag: der::GENERALIZED_TIME, content: text, whole: text }).map(|time| time.as_secs())
    };
    assert_eq!(utc(b"261123190000Z"), Ok(1_795_460_400));
    assert_eq!(utc(b"700101000000Z"), Ok(0));
    assert_eq!(utc(b"500101000000Z"), Ok(0), "1950 is long ago");
    assert_eq!(utc(b"491231235959Z"), Ok(2_524_607_999));
    assert_eq!(general(b"20500101000000Z"), Ok(2_524_608_000));
    assert_eq!(utc(b"000229000000Z"), Ok(951_782_400));
    assert_eq!(general(b"99991231235959Z"), Ok(253_402_300_799));
    for bad in [
        &b"261123190000"[..],
        b"2611231900Z",
        b"261323190000Z",
        b"261100190000Z",
        b"261131190000Z",
        b"270229000000Z",
        b"261123240000Z",
        b"261123196000Z",
        b"261123190060Z",
        b"2611231900000Z",
        b"26112319000xZ",
        b"261123190000+0100",
    ] {
        assert!(utc(bad).is_err(), "{}", String::from_utf8_lossy(bad));
    }
    assert!(general(b"20501301000000Z").is_err());
    assert!(general(b"20500101000000.5Z").is_err());
}

#[test]
fn a_key_usage_has_one_to_nine_bits() {
    let usage_of = |value: &[u8]| usage(true, value);
    assert!(usage_of(&[0x03, 0x02, 0x07, 0x80]).unwrap().digital_signature);
    assert!(usage_of(&[0x03, 0x02, 0x01, 0x06]).unwrap().crl_sign);
    for bad in
        [&[0x03, 0x01, 0x00][..], &[0x03, 0x02, 0x07, 0x00], &[0x03, 0x02, 0x08, 0x80], &[0x03, 0x04, 0, 1, 1, 1]]
    {
        assert!(usage_of(bad).is_err(), "{bad:02x?}");
    }
}

#[test]
fn a_path_length_is_not_negative_and_never_wraps() {
    assert_eq!(small(&[0]), Ok(0));
    assert_eq!(small(&[1, 0]), Ok(256));
    assert_eq!(small(&[1, 0, 0, 0, 0]), Ok(u32::MAX));
    assert!(small(&[0x80]).is_err() && small(&[]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever bytes come, the walk ends without a panic.
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        Facts::read(&bytes).map(|_| ()).unwrap_or_default();
    }

    /// One byte of a good certificate changed: what x509-parser still reads, and we read, we read alike.
    #[test]
    fn a_changed_byte_is_read_as_x509_parser_reads_it(place in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut der = GOOD.with(Clone::clone);
        let place = place.index(der.len());
        der[place] = value;
        let ours = Facts::read(&der);
        let theirs = x509_parser::parse_x509_certificate(&der);
        if let (Ok(ours), Ok(([], theirs))) = (ours, theirs) {
            prop_assert_eq!(ours.serial, theirs.tbs_certificate.raw_serial());
            let ca = theirs.basic_constraints().ok().flatten().is_some_and(|found| found.value.ca);
            prop_assert_eq!(ours.basic.ca, ca);
            if let Ok(Some(usage)) = theirs.key_usage() {
                let ours = ours.usage.expect("we see it too");
                prop_assert_eq!(ours.digital_signature, usage.value.digital_signature());
                prop_assert_eq!(ours.cert_sign, usage.value.key_cert_sign());
                prop_assert_eq!(ours.crl_sign, usage.value.crl_sign());
            }
            if let Ok(Some(names)) = theirs.subject_alternative_name() {
                let is_uri = |name: &&_| matches!(name, x509_parser::extensions::GeneralName::URI(_));
                let uris = names.value.general_names.iter().filter(is_uri).count();
                let ours = ours.names.expect("we see them too");
                prop_assert!(ours.uris >= uris);
            }
            prop_assert_eq!(i64::try_from(ours.not_after.as_secs()).unwrap(), theirs.validity().not_after.timestamp().max(0));
            prop_assert_eq!(i64::try_from(ours.not_before.as_secs()).unwrap(), theirs.validity().not_before.timestamp().max(0));
        }
    }
}

thread_local! {
    static GOOD: Vec<u8> = leaf_with(|params| {
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        params.subject_alt_names.push(SanType::DnsName("cart.shop.svc".try_into().unwrap()));
    });
}
