//! What may be brought, and what is told of the rest.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair,
    KeyUsagePurpose, NameConstraints,
};
use time::Duration;

use super::*;
use crate::{
    authority::{
        Origin,
        foreign::{Foreign, before_pkcs8, brought, keys, params},
        trace,
    },
    pipeline::{
        Approved, Issued, Profile, Verified,
        honest::{NOW, changed, config_with, honest, issuer_of, serial, signer},
    },
};

fn found(data: SecretData) -> Result<Root, BroughtError> {
    found_for(data, &signer())
}

fn found_for(data: SecretData, signer: &PodSigner) -> Result<Root, BroughtError> {
    Brought::new("the Secret my-ca".to_owned(), Ok(data), Wanted { signer, now: NOW }).found
}

fn with(data: SecretData, field: &str, value: &str) -> SecretData {
    let mut data = data;
    data.insert(field.to_owned(), ByteString(value.as_bytes().to_vec()));
    data
}

fn text(data: &SecretData, field: &str) -> String {
    String::from_utf8(data[field].0.clone()).unwrap()
}

/// What a pod gets of it, by way of our own Secrets.
fn issues(root: &Root) -> Issued {
    let Means::Brought(issuing) = &root.means else { panic!("it was brought") };
    let plan = Plan::new(1, 86_400);
    let generation = Generation::new(plan, true, issuing.again().unwrap(), root.certificate.clone(), None).unwrap();
    let issuer = issuer_of(Generation::load(&generation.data().unwrap()).unwrap());
    let approved = Approved::admit(Verified::check(honest()).unwrap(), &signer()).unwrap();
    Issued::sign(Profile::decide(approved, issuer.usable_until(), NOW, serial()).unwrap(), &issuer).unwrap()
}

#[test]
fn what_a_ca_signs_that_was_made_just_now_is_ours() {
    let foreign = Foreign::new();
    let young = foreign.issuing_of(&KeyPair::generate().unwrap(), |params| params.not_before = NOW);
    let issued = issues(&found(young).unwrap());
    let ours = Origin::Ours { leaf: issued.fingerprint() };
    assert_eq!(trace(issued.chain_pem(), &foreign.root.pem()), ours, "though it is backdated to before its CA");
}

#[test]
fn every_kind_of_key_signs_in_every_form() {
    let foreign = Foreign::new();
    for (kind, key) in keys() {
        let data = foreign.issuing_of(&key, |_| ());
        issues(&found(data.clone()).unwrap());
        if let Some(older) = before_pkcs8(kind, &key) {
            issues(&found(with(data.clone(), "tls.key", &older)).unwrap_or_else(|error| panic!("{kind}: {error}")));
            let named =
                format!("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{older}");
            assert!(found(with(data, "tls.key", &named)).is_ok(), "{kind}: as openssl ecparam writes it");
        }
    }
}

#[test]
fn a_root_may_sign_itself_and_others_may_be_between() {
    let foreign = Foreign::new();
    let blocks = |issued: &Issued| pem::parse_many(issued.chain_pem()).unwrap().len();
    for itself in [foreign.itself(), with(foreign.itself(), "ca.crt", "")] {
        let root = found(itself).unwrap();
        assert_eq!((blocks(&issues(&root)), root.fingerprint()), (1, foreign.fingerprint()), "the root is not sent");
    }
    let between = CertifiedIssuer::signed_by(params("Between"), KeyPair::generate().unwrap(), &foreign.root).unwrap();
    let key = KeyPair::generate().unwrap();
    let issuing = params("Issuing").signed_by(&key, &between).unwrap().pem();
    let chain = issuing.clone() + &between.pem();
    for chain in [chain.clone(), chain + &foreign.root.pem()] {
        let root = found(brought(&chain, &key.serialize_pem(), &foreign.root.pem())).unwrap();
        assert_eq!((blocks(&issues(&root)), root.fingerprint()), (3, foreign.fingerprint()));
    }
    let whole = brought(&(issuing.clone() + &between.pem() + &foreign.root.pem()), &key.serialize_pem(), "");
    assert_eq!(found(whole).unwrap().fingerprint(), foreign.fingerprint(), "the last of the chain is the root");
    let reversed = brought(&(issuing + &foreign.root.pem()), &key.serialize_pem(), &foreign.root.pem());
    assert_eq!(found(reversed).unwrap_err(), BroughtError::Load(LoadError::NotBelowRoot), "one is missing");
}

#[test]
fn each_thing_that_is_wrong_is_told() {
    let (foreign, other) = (Foreign::new(), Foreign::new());
    let good = foreign.issuing();
    let load = BroughtError::Load;
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let twice = text(&good, "tls.key") + &text(&other.issuing(), "tls.key");
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let older = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n";
    let both = text(&good, "ca.crt") + &text(&other.issuing(), "ca.crt");
    for (field, value, wanted) in [
        ("tls.key", "", BroughtError::Missing("tls.key")),
        ("tls.crt", "", BroughtError::Missing("tls.crt")),
        ("ca.crt", "", BroughtError::NoRoot("tls.crt")),
        ("ca.crt", &text(&good, "tls.crt"), BroughtError::NoRoot("ca.crt")),
        ("ca.crt", &both, load(LoadError::NotOne("ca.crt"))),
        ("ca.crt", &text(&other.issuing(), "ca.crt"), load(LoadError::NotBelowRoot)),
        ("tls.crt", garbage, load(LoadError::Unreadable("tls.crt"))),
        ("tls.crt", "a word", load(LoadError::Unreadable("tls.crt"))),
        ("tls.key", "a word", load(LoadError::NotOneKey("tls.key"))),
        ("tls.key", &twice, load(LoadError::NotOneKey("tls.key"))),
        ("tls.key", garbage, load(LoadError::KeyUnreadable("tls.key"))),
        ("tls.key", encrypted, load(LoadError::KeyEncrypted("tls.key"))),
        ("tls.key", older, load(LoadError::KeyEncrypted("tls.key"))),
        ("tls.key", &text(&other.issuing(), "tls.key"), load(LoadError::KeyOfAnother)),
        ("tls.crt", &"x".repeat(70_000), BroughtError::TooLarge("tls.crt")),
    ] {
        assert_eq!(found(with(good.clone(), field, value)).unwrap_err(), wanted, "{field}");
    }
    assert_eq!(found(SecretData::new()).unwrap_err(), BroughtError::Absent);
    assert_eq!(found(with(SecretData::new(), "tls.key", " \n")).unwrap_err(), BroughtError::Absent);
}

#[test]
fn a_ca_that_peers_would_refuse_is_told() {
    let foreign = Foreign::new();
    let of = |change: fn(&mut CertificateParams)| {
        found(foreign.issuing_of(&KeyPair::generate().unwrap(), change)).map(|_| ()).unwrap_err()
    };
    let load = BroughtError::Load;
    assert_eq!(of(|ca| ca.is_ca = IsCa::ExplicitNoCa), load(LoadError::NoCa("tls.crt")));
    assert_eq!(of(|ca| ca.key_usages = vec![KeyUsagePurpose::CrlSign]), load(LoadError::NoCertSign("tls.crt")));
    let server = |ca: &mut CertificateParams| ca.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    assert_eq!(of(server), load(LoadError::Usage("tls.crt")));
    assert_eq!(of(|ca| ca.not_before = NOW + Duration::HOUR), BroughtError::NotYetValid(whole(NOW + Duration::HOUR)));
    assert_eq!(of(|ca| ca.not_after = NOW + Duration::HOUR), BroughtError::Ends(whole(NOW + Duration::HOUR)));
    let mut short = params("Short");
    short.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let short = Foreign::of(short);
    assert_eq!(found(short.issuing()).unwrap_err(), load(LoadError::PathLength));
    assert!(found(short.itself()).is_ok(), "none is below it");
    // A modulus of 1024 bits, all of them set: nobody makes such keys any more.
    let modulus = [&[0x02, 0x81, 0x81, 0x00][..], &[0xff; 128], &[0x02, 0x03, 0x01, 0x00, 0x01]].concat();
    let key = [&[0x03, 0x81, 0x8d, 0x00, 0x30, 0x81, 0x89][..], &modulus].concat();
    let algorithm = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
    let spki = [&[0x30, 0x81, 0x9f][..], algorithm, &key].concat();
    let weak = rcgen::SubjectPublicKeyInfo::from_der(&spki).unwrap();
    let weak = params("Weak").signed_by(&weak, &foreign.root).unwrap().pem();
    let weak = found(with(foreign.issuing(), "tls.crt", &weak)).unwrap_err();
    assert_eq!(weak, BroughtError::Key("RSA of 1024 bits".to_owned()));

    // A constraint on DNS names counts where there are any.
    let below = |names: [&str; 1]| {
        let subtrees = names.map(|name| GeneralSubtree::DnsName(name.to_owned())).into();
        let constraints = NameConstraints { permitted_subtrees: subtrees, excluded_subtrees: Vec::new() };
        foreign.issuing_of(&KeyPair::generate().unwrap(), |ca| ca.name_constraints = Some(constraints))
    };
    let elsewhere = below(["example.org"]);
    assert!(found(elsewhere.clone()).is_ok(), "only a SPIFFE ID");
    let services = config_with("profile: {dnsNames: [services]}");
    let refused = found_for(elsewhere.clone(), &services).unwrap_err();
    assert!(matches!(&refused, BroughtError::Refused(why) if why.contains("svc and cluster.local")), "{refused}");
    assert!(found_for(below(["svc"]), &services).is_err(), "the longer names are below the cluster domain");
    let asked = changed(|signer| {
        let mut allow = signer.allow.to_vec();
        allow[0].requests.hostname = true;
        signer.allow = allow.into();
    });
    assert!(found_for(elsewhere, &asked).is_err());
    assert!(found_for(foreign.issuing(), &asked).is_ok());
}

fn whole(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap()
}

#[test]
fn nothing_prints_what_is_brought() {
    let data = Foreign::new().issuing();
    let source = Brought::new("the Secret my-ca".to_owned(), Ok(data.clone()), Wanted { signer: &signer(), now: NOW });
    let bad = Brought::new(
        "the Secret my-ca".to_owned(),
        Ok(with(data.clone(), "tls.crt", "x")),
        Wanted { signer: &signer(), now: NOW },
    );
    let printed = format!("{source:?} {bad:?} {:?} {}", bad.trouble(), bad.trouble().unwrap());
    let key = text(&data, "tls.key");
    let line = key.lines().nth(1).unwrap();
    assert!(!printed.contains(line) && printed.len() < 1_000, "{printed}");
    assert!(
        printed.contains("the CA in the Secret my-ca cannot be used: tls.crt holds no readable certificate"),
        "{printed}"
    );
}
