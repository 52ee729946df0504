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
        if let (Ok(ours), Ok(([], theirs))) = (ours, x509_parser::parse_x509_certificate(&der)) {
            agrees_with_x509_parser(&ours, &theirs);
        }
    }
}

/// Where both read a certificate, they read the same; x509-parser drops URI names that are no text.
pub(crate) fn agrees_with_x509_parser(ours: &Facts<'_>, theirs: &x509_parser::certificate::X509Certificate<'_>) {
    assert_eq!(ours.serial, theirs.tbs_certificate.raw_serial());
    if let Ok(basic) = theirs.basic_constraints() {
        assert_eq!(ours.basic.ca, basic.is_some_and(|found| found.value.ca));
    }
    if let Ok(Some(usage)) = theirs.key_usage() {
        let ours = ours.usage.expect("we see it too");
        assert_eq!(ours.critical, usage.critical);
        assert_eq!(ours.digital_signature, usage.value.digital_signature());
        assert_eq!(ours.cert_sign, usage.value.key_cert_sign());
        assert_eq!(ours.crl_sign, usage.value.crl_sign());
    }
    if let Ok(Some(names)) = theirs.subject_alternative_name() {
        let is_uri = |name: &&_| matches!(name, x509_parser::extensions::GeneralName::URI(_));
        let uris = names.value.general_names.iter().filter(is_uri).count();
        let ours = ours.names.as_ref().expect("we see them too");
        assert_eq!(ours.critical, names.critical);
        assert!(ours.uris >= uris, "x509-parser sees more URI names");
    }
    let seconds = |time: UnixTime| i64::try_from(time.as_secs()).unwrap();
    assert_eq!(seconds(ours.not_after), theirs.validity().not_after.timestamp().max(0));
    assert_eq!(seconds(ours.not_before), theirs.validity().not_before.timestamp().max(0));
}

#[path = "../tests/kit/go.rs"]
mod go;

/// What Go reads of a certificate, in the words of `tests/kube/peer.go`.
fn as_go_says(facts: &Facts<'_>) -> String {
    let serial = hex(facts.serial);
    let serial = serial.trim_start_matches('0');
    let length = facts.basic.path_len.map_or("-".into(), |length| length.to_string());
    let bits = facts.usage.map_or(0, |usage| {
        u32::from(usage.digital_signature) | u32::from(usage.cert_sign) << 5 | u32::from(usage.crl_sign) << 6
    });
    format!(
        "{} {} {} {} {length} {bits} {} [{}] [{}]",
        if serial.is_empty() { "0" } else { serial },
        facts.not_before.as_secs(),
        facts.not_after.as_secs(),
        facts.basic.ca,
        facts.names.as_ref().map_or(0, |names| names.uris),
        facts.subject_key_id.map(hex).unwrap_or_default(),
        facts.authority_key_id.map(hex).unwrap_or_default(),
    )
}

/// Thousands of certificates with something changed in each: where Go reads one and we do, we read the same.
#[test]
fn what_go_reads_too_is_read_as_go_reads_it() {
    let mut mutator = crate::fuzz::certificates(0);
    let certificates: Vec<Vec<u8>> = (0..20_000).map(|_| mutator.next()).collect();
    let file = tempfile::NamedTempFile::new().unwrap();
    let bytes: Vec<u8> = certificates
        .iter()
        .flat_map(|der| [&u32::try_from(der.len()).unwrap().to_be_bytes()[..], der].concat())
        .collect();
    std::fs::write(file.path(), bytes).unwrap();
    let output = std::process::Command::new(go::program("peer")).arg("facts").arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().count(), certificates.len());
    let mut both = 0;
    for (der, theirs) in certificates.iter().zip(said.lines()) {
        if let (Ok(ours), false) = (Facts::read(der), theirs == "refuse") {
            both += 1;
            assert_eq!(as_go_says(&ours), theirs, "{}", hex(der));
        }
    }
    assert!(both > 500, "only {both} were read by both");
}

thread_local! {
    static GOOD: Vec<u8> = leaf_with(|params| {
        params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        params.subject_alt_names.push(SanType::DnsName("cart.shop.svc".try_into().unwrap()));
    });
}

#[test]
fn extensions_are_bounded() {
    let with = |count: u64| {
        leaf_with(|params| {
            let more = (0..count).map(|number| raw_extension(&[1, 3, 6, 1, 4, 1, 99999, number], false, vec![5, 0]));
            params.custom_extensions.extend(more);
        })
    };
    assert!(Facts::read(&with(50)).is_ok());
    assert_eq!(Facts::read(&with(100)).unwrap_err(), BadDer("extensions (too many)"));
}
