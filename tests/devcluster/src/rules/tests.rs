//! The rules, case by case. Each case changes one thing of a request or an answer that passes.

use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair, SanType,
    SubjectPublicKeyInfo,
};
use time::OffsetDateTime;

use super::answer::{self, Condition, Status};
use super::bundle;
use super::request::{self, Base64, KeyMaterial, Spec};
use crate::api::failure::FieldError;
use crate::node::key::FreshKey;

const NOW: i64 = 1_900_000_000;
const HOUR: i64 = 3600;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn key() -> FreshKey {
    FreshKey::generate("ECDSAP256").unwrap()
}

fn honest(key: &FreshKey) -> Spec {
    Spec {
        signer_name: "example.com/signer".to_owned(),
        pod_name: "web-0".to_owned(),
        pod_uid: "pod-uid".to_owned(),
        service_account_name: "shop".to_owned(),
        service_account_uid: "account-uid".to_owned(),
        node_name: "n1.example".to_owned(),
        node_uid: "node-uid".to_owned(),
        max_expiration_seconds: Some(7200),
        stub: Base64(key.stub().unwrap()),
        ..Spec::default()
    }
}

fn with_proof(key: &FreshKey) -> Spec {
    Spec {
        stub: Base64::default(),
        pkix_public_key: Base64(key.public()),
        proof_of_possession: Base64(key.proof("pod-uid").unwrap()),
        ..honest(key)
    }
}

fn fields(errors: &[FieldError]) -> Vec<&str> {
    errors.iter().map(|error| error.field.as_str()).collect()
}

fn created(change: impl FnOnce(&mut Spec)) -> Vec<FieldError> {
    let mut spec = honest(&key());
    change(&mut spec);
    request::create("req-1", &spec, KeyMaterial::StubOrProof)
}

/// The one field that is wrong.
fn refused(change: impl FnOnce(&mut Spec)) -> String {
    let errors = created(change);
    let all = fields(&errors);
    assert_eq!(all.len(), 1, "{errors:?}");
    all[0].to_owned()
}

#[test]
fn an_honest_request_passes() {
    assert_eq!(created(|_| ()), []);
    for key_type in ["ED25519", "ECDSAP384", "ECDSAP521", "RSA3072", "RSA4096"] {
        let key = FreshKey::generate(key_type).unwrap();
        assert_eq!(request::create("r", &honest(&key), KeyMaterial::StubOrProof), [], "{key_type}");
        assert_eq!(request::create("r", &with_proof(&key), KeyMaterial::ProofOnly), [], "{key_type}");
        assert_eq!(request::create("r", &with_proof(&key), KeyMaterial::StubOrProof), [], "{key_type}");
    }
}

#[test]
fn c1_and_c4_names_are_dns_subdomains() {
    let spec = honest(&key());
    assert_eq!(fields(&request::create("Req", &spec, KeyMaterial::StubOrProof)), ["metadata.name"]);
    assert_eq!(refused(|spec| spec.pod_name = "Web".to_owned()), "spec.podName");
    assert_eq!(refused(|spec| spec.pod_name = String::new()), "spec.podName");
    assert_eq!(refused(|spec| spec.service_account_name = "a_b".to_owned()), "spec.serviceAccountName");
    assert_eq!(refused(|spec| spec.node_name = "-n".to_owned()), "spec.nodeName");
    assert_eq!(refused(|spec| spec.node_name = "a".repeat(254)), "spec.nodeName");
}

#[test]
fn c3_signer_names() {
    for good in ["a.b/c", "example.com/x.y-z", "kubernetes.io/a"] {
        assert_eq!(created(|spec| spec.signer_name = good.to_owned()), [], "{good}");
    }
    let long_label = format!("{}.com/x", "a".repeat(64));
    for bad in
        ["", "example.com", "example/x", "a.b/c/d", "A.b/c", "a.b/", "/c", "a..b/c", "a.b/C", long_label.as_str()]
    {
        let errors = created(|spec| spec.signer_name = bad.to_owned());
        assert!(!errors.is_empty() && errors.iter().all(|error| error.field == "spec.signerName"), "{bad}: {errors:?}");
    }
}

#[test]
fn c5_uids_have_1_to_128_bytes() {
    assert_eq!(created(|spec| spec.node_uid = "x".repeat(128)), []);
    assert_eq!(refused(|spec| spec.node_uid = "x".repeat(129)), "spec.nodeUID");
    assert_eq!(refused(|spec| spec.node_uid = String::new()), "spec.nodeUID");
    assert_eq!(refused(|spec| spec.pod_uid = String::new()), "spec.podUID");
    assert_eq!(refused(|spec| spec.service_account_uid = "x".repeat(129)), "spec.serviceAccountUID");
}

#[test]
fn c6_lives_are_bounded() {
    let day = 86_400;
    let life = |signer: &str, seconds: i32| {
        created(|spec| {
            spec.signer_name = signer.to_owned();
            spec.max_expiration_seconds = Some(seconds);
        })
        .len()
    };
    assert_eq!([3599, 3600, 91 * day, 91 * day + 1].map(|seconds| life("a.b/c", seconds)), [1, 0, 0, 1]);
    assert_eq!([3600, day, day + 1].map(|seconds| life("kubernetes.io/c", seconds)), [0, 0, 1]);
    assert_eq!([day, day + 1].map(|seconds| life("x.kubernetes.io/c", seconds)), [0, 1]);
    assert_eq!(life("notkubernetes.io/c", day + 1), 0);
    assert_eq!(refused(|spec| spec.max_expiration_seconds = None), "spec.maxExpirationSeconds");
    let mut spec = Spec::default();
    request::default(&mut spec);
    assert_eq!(spec.max_expiration_seconds, Some(day));
}

#[test]
fn c7_exactly_one_sort_of_key_material() {
    let key = key();
    let check = |change: &dyn Fn(&mut Spec)| {
        let mut spec = with_proof(&key);
        change(&mut spec);
        fields(&request::create("r", &spec, KeyMaterial::StubOrProof)).join(",")
    };
    assert_eq!(check(&|_| ()), "");
    assert_eq!(check(&|spec| spec.stub = Base64(key.stub().unwrap())), "spec");
    assert_eq!(check(&|spec| spec.proof_of_possession = Base64::default()), "spec");
    assert_eq!(check(&|spec| spec.pkix_public_key = Base64::default()), "spec");
    assert_eq!(refused(|spec| spec.stub = Base64::default()), "spec");
}

#[test]
fn c8_the_stub_is_signed_by_its_key() {
    let broken = |change: &dyn Fn(&mut Vec<u8>)| {
        created(|spec| change(&mut spec.stub.0)).into_iter().map(|error| error.body).collect::<String>()
    };
    assert_eq!(broken(&|stub| *stub.last_mut().unwrap() ^= 1), "Invalid value: invalid signature");
    assert_eq!(broken(&|stub| stub.push(0)), "Invalid value: must be a valid PKCS#10 CSR");
    assert_eq!(broken(&|stub| stub.truncate(20)), "Invalid value: must be a valid PKCS#10 CSR");
    assert_eq!(broken(&|stub| stub.resize(10_241, 0)), "Too long: may not be more than 10240 bytes");
}

#[test]
fn c8_rsa_moduli_are_counted_in_whole_bytes() {
    // rcgen cannot make RSA keys with ring, so the size is tested on the key itself.
    use super::key::PublicKey;
    use num_bigint::BigUint;
    let of = |bits: u64| PublicKey::Rsa {
        modulus: BigUint::from(1_u8) << (bits - 1),
        exponent: 65_537_u32.into(),
        der: Vec::new(),
    };
    for good in [3065, 3072, 4089, 4096] {
        assert_eq!(of(good).refusal(), None, "{good}");
    }
    for bad in [2048, 3064, 3073, 4097] {
        assert!(of(bad).refusal().is_some(), "{bad}");
    }
}

#[test]
fn c9_what_a_stub_says_is_not_looked_at() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["forged.example".to_owned()]).unwrap();
    let csr = params.serialize_request(&key).unwrap();
    assert_eq!(created(|spec| spec.stub = Base64(csr.der().to_vec())), []);
}

#[test]
fn c10_the_proof_is_over_the_pods_uid() {
    for key_type in ["ED25519", "ECDSAP256", "ECDSAP384", "ECDSAP521", "RSA3072"] {
        let mut spec = with_proof(&FreshKey::generate(key_type).unwrap());
        spec.pod_uid = "other".to_owned();
        let errors = request::create("r", &spec, KeyMaterial::StubOrProof);
        assert_eq!(fields(&errors), ["spec.proofOfPossession"], "{key_type}");
    }
    let mut spec = with_proof(&key());
    spec.pkix_public_key.0.push(0);
    assert_eq!(fields(&request::create("r", &spec, KeyMaterial::ProofOnly)), ["spec.pkixPublicKey"]);
}

#[test]
fn c11_annotation_keys_have_a_prefix() {
    let annotate = |key: &str, value: &str| {
        let pair = (key.to_owned(), value.to_owned());
        created(|spec| spec.unverified_user_annotations.extend([pair])).len()
    };
    for good in ["example.com/a", "spiffe/path-overriding", "Example.COM/Upper_case.x"] {
        assert_eq!(annotate(good, "any text\n"), 0, "{good}");
    }
    for bad in ["", "plain", "/a", "example.com/", "a/b/c", "exa_mple/a", "example.com/-a"] {
        assert!(annotate(bad, "") > 0, "{bad}");
    }
    assert_eq!(annotate("a/b", &"x".repeat(262_141)), 0);
    assert_eq!(annotate("a/b", &"x".repeat(262_142)), 1);
}

#[test]
fn u2_nothing_in_the_spec_changes() {
    let spec = honest(&key());
    assert_eq!(request::update(&spec, &spec), None);
    let mut other = spec.clone();
    other.max_expiration_seconds = Some(7201);
    assert_eq!(request::update(&other, &spec).unwrap().field, "spec");
}

// Answers.

struct Case {
    spec: Spec,
    public: Vec<u8>,
    issuer: Issuer<'static, KeyPair>,
}

fn case() -> Case {
    let key = key();
    Case { spec: honest(&key), public: key.public(), issuer: Issuer::new(ca_params(), KeyPair::generate().unwrap()) }
}

fn ca_params() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Case {
    fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let mut params = CertificateParams::new(vec!["web.example".to_owned()]).unwrap();
        params.not_before = OffsetDateTime::from_unix_timestamp(NOW - 60).unwrap();
        params.not_after = OffsetDateTime::from_unix_timestamp(NOW - 60 + 7200).unwrap();
        change(&mut params);
        params.signed_by(&SubjectPublicKeyInfo::from_der(&self.public).unwrap(), &self.issuer).unwrap()
    }

    fn issued(&self, chain: String) -> Status {
        Status {
            conditions: vec![condition("Issued")],
            certificate_chain: chain,
            not_before: Some(at(NOW - 60)),
            begin_refresh_at: Some(at(NOW - 60 + HOUR)),
            not_after: Some(at(NOW - 60 + 7200)),
        }
    }

    fn errors(&self, status: &Status) -> Vec<FieldError> {
        answer::update(status, &Status::default(), &self.spec, at(NOW))
    }

    /// An honest answer with a changed leaf.
    fn with_leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Vec<FieldError> {
        self.errors(&self.issued(self.leaf(change).pem()))
    }

    /// An honest answer with a changed status.
    fn with_status(&self, change: impl FnOnce(&mut Status)) -> Vec<FieldError> {
        let mut status = self.issued(self.leaf(|_| ()).pem());
        change(&mut status);
        self.errors(&status)
    }
}

fn condition(kind: &str) -> Condition {
    Condition {
        kind: kind.to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(at(NOW)),
        reason: "Because".to_owned(),
        message: String::new(),
        observed_generation: 0,
    }
}

fn body(errors: &[FieldError]) -> String {
    errors.iter().map(|error| error.body.rsplit(": ").next().unwrap().to_owned()).collect::<Vec<_>>().join("; ")
}

#[test]
fn an_honest_answer_passes() {
    let case = case();
    assert_eq!(case.with_status(|_| ()), []);
    assert_eq!(case.with_leaf(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), [], "not looked at");
}

#[test]
fn s2_s3_one_known_condition_that_is_true() {
    let case = case();
    assert_eq!(
        fields(&case.with_status(|status| status.conditions[0].kind = "Ready".to_owned())),
        ["status.conditions.[0].type"]
    );
    assert!(
        body(&case.with_status(|status| status.conditions.push(condition("Denied"))))
            .starts_with("There may be at most one")
    );
    assert_eq!(
        fields(&case.with_status(|status| status.conditions[0].status = "False".to_owned())),
        ["status.conditions.[0].status"]
    );
}

#[test]
fn s4_parts_of_a_condition() {
    let case = case();
    let part = |change: &dyn Fn(&mut Condition)| {
        fields(&case.with_status(|status| change(&mut status.conditions[0]))).join(",")
    };
    assert_eq!(part(&|condition| condition.reason = String::new()), "status.conditions[0].reason");
    assert_eq!(part(&|condition| condition.reason = "no spaces".to_owned()), "status.conditions[0].reason");
    assert_eq!(part(&|condition| condition.reason = "1st".to_owned()), "status.conditions[0].reason");
    assert_eq!(part(&|condition| condition.reason = "a".repeat(1024)), "");
    assert_eq!(part(&|condition| condition.reason = "a".repeat(1025)), "status.conditions[0].reason");
    assert_eq!(part(&|condition| condition.message = "a".repeat(32_768)), "");
    assert_eq!(part(&|condition| condition.message = "a".repeat(32_769)), "status.conditions[0].message");
    assert_eq!(part(&|condition| condition.last_transition_time = None), "status.conditions[0].lastTransitionTime");
    assert_eq!(part(&|condition| condition.observed_generation = -1), "status.conditions[0].observedGeneration");
}

#[test]
fn s5_what_is_answered_stays() {
    let case = case();
    for end in ["Issued", "Denied", "Failed"] {
        let old = Status { conditions: vec![condition(end)], ..Status::default() };
        assert_eq!(answer::update(&old, &old, &case.spec, at(NOW)), []);
        let new = case.issued(case.leaf(|_| ()).pem());
        assert_eq!(
            body(&answer::update(&new, &old, &case.spec, at(NOW))),
            "immutable after PodCertificateRequest is issued, denied, or failed"
        );
    }
}

#[test]
fn s6_s7_no_half_answers() {
    let case = case();
    for end in ["Denied", "Failed"] {
        assert_eq!(case.errors(&Status { conditions: vec![condition(end)], ..Status::default() }), []);
        assert_eq!(fields(&case.with_status(|status| status.conditions[0].kind = end.to_owned())), ["status"]);
    }
    assert_eq!(fields(&case.with_status(|status| status.conditions.clear())), ["status"]);
}

#[test]
fn s8_s18_the_chain_holds_certificates() {
    let case = case();
    let leaf = case.leaf(|_| ()).pem();
    let chain = |text: String| body(&case.errors(&case.issued(text)));
    assert_eq!(chain(String::new()), "issued certificate chain must contain at least one certificate");
    assert_eq!(
        chain(leaf.replace("CERTIFICATE", "X509")),
        "issued certificate chain must consist entirely of CERTIFICATE PEM blocks"
    );
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(chain(junk.to_owned()), "leaf certificate does not parse as valid X.509");
    assert_eq!(chain(format!("{leaf}{junk}")), "intermediate certificate does not parse as valid X.509");
    assert_eq!(
        chain(format!("{leaf}{}", leaf.replace("CERTIFICATE", "X"))),
        "issued certificate chain must consist entirely of CERTFICATE PEM blocks"
    );
    assert_eq!(chain(format!("words\n{leaf}more words\n{leaf}")), "");
    assert_eq!(chain(format!("{leaf}{}", " ".repeat(102_400))), "may not be more than 102400 bytes");
}

#[test]
fn s9_s10_s11_names_of_the_leaf() {
    let case = case();
    let dns = |name: &str| {
        case.with_leaf(|params| params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())])
    };
    assert_eq!(dns("*.shop.svc"), []);
    for bad in ["", "a..b", ".a", "a."] {
        assert!(!dns(bad).is_empty(), "{bad:?}");
    }
    let mail = |name: &str| {
        case.with_leaf(|params| params.subject_alt_names = vec![SanType::Rfc822Name(name.try_into().unwrap())])
    };
    assert_eq!(mail("shop@example.com"), []);
    assert!(!mail("nobody").is_empty() && !mail("a@").is_empty());
    let uri =
        |name: &str| case.with_leaf(|params| params.subject_alt_names = vec![SanType::URI(name.try_into().unwrap())]);
    assert_eq!(uri("spiffe://prod.example.org/ns/shop/sa/web"), []);
    for bad in ["spiffe://a..b/x", "spiffe://a./x", "spiffe://a b/x", "%zz", "spiffe://a%zz"] {
        assert_eq!(body(&uri(bad)), "leaf certificate does not parse as valid X.509", "{bad}");
    }
}

#[test]
fn s11_the_parser_is_strict() {
    let case = case();
    let with = |oid: &[u64], critical: bool, content: &[u8]| {
        let mut extension = CustomExtension::from_oid_content(oid, content.to_vec());
        extension.set_criticality(critical);
        body(&case.with_leaf(|params| params.custom_extensions.push(extension)))
    };
    let unparsed = "leaf certificate does not parse as valid X.509";
    assert_eq!(with(&[1, 2, 3, 4], true, &[5, 0]), "", "an unknown critical extension is fine");
    assert_eq!(with(&[2, 5, 29, 14], true, &[4, 1, 1]), unparsed, "a critical subject key identifier");
    assert_eq!(with(&[2, 5, 29, 17], false, &[0x30, 0]), unparsed, "a second SAN extension");
    assert_eq!(with(&[2, 5, 29, 19], true, &[0xff]), unparsed, "malformed basic constraints");
    let trailing = case.leaf(|_| ()).der().to_vec();
    let trailing = crate::node::der::pem("CERTIFICATE", &[trailing, vec![0]].concat());
    assert_eq!(body(&case.errors(&case.issued(trailing))), unparsed, "bytes behind the certificate");
    let negative = case.leaf(|params| params.serial_number = Some(vec![1, 2, 3].into()));
    let mut der = negative.der().to_vec();
    let serial = der.windows(3).position(|window| window == [1, 2, 3]).unwrap();
    der[serial] = 0x81;
    let negative = crate::node::der::pem("CERTIFICATE", &der);
    assert_eq!(body(&case.errors(&case.issued(negative))), unparsed, "a negative serial number");
}

#[test]
fn s12_the_leaf_has_the_requested_key() {
    let mut case = case();
    let leaf = case.leaf(|_| ()).pem();
    case.spec = honest(&key());
    assert_eq!(body(&case.errors(&case.issued(leaf))), "leaf certificate was not issued to the requested public key");
}

#[test]
fn s13_s14_the_times_are_the_leafs() {
    let case = case();
    assert_eq!(fields(&case.with_status(|status| status.not_before = None)), ["status.notBefore"]);
    assert_eq!(fields(&case.with_status(|status| status.not_after = None)), ["status.notAfter"]);
    assert_eq!(fields(&case.with_status(|status| status.begin_refresh_at = None)), ["status.beginRefreshAt"]);
    assert_eq!(fields(&case.with_status(|status| status.not_before = Some(at(NOW - 59)))), ["status.notBefore"]);
    assert_eq!(fields(&case.with_status(|status| status.not_after = Some(at(NOW)))), ["status.notAfter"]);
}

#[test]
fn s15_not_before_is_near_the_moment_of_the_write() {
    let case = case();
    let status = case.issued(case.leaf(|_| ()).pem());
    let written = |late: i64| {
        let now = at(NOW - 60).saturating_add(SignedDuration::from_secs(late)).unwrap();
        answer::update(&status, &Status::default(), &case.spec, now).len()
    };
    assert_eq!([-300, -299, 0, 299, 300].map(written), [1, 0, 0, 0, 1]);
}

#[test]
fn s16_a_life_of_an_hour_to_what_was_asked() {
    let case = case();
    let life = |seconds: i64| {
        let end = NOW - 60 + seconds;
        let leaf = case.leaf(|params| params.not_after = OffsetDateTime::from_unix_timestamp(end).unwrap());
        let mut status = case.issued(leaf.pem());
        status.not_after = Some(at(end));
        status.begin_refresh_at = Some(at(NOW - 60 + 1800));
        case.errors(&status).len()
    };
    assert_eq!([3599, 3600, 7200, 7201].map(life), [1, 0, 0, 1]);
}

#[test]
fn s17_the_refresh_is_ten_minutes_from_both_ends() {
    let case = case();
    let refresh = |after: i64| case.with_status(|status| status.begin_refresh_at = Some(at(NOW - 60 + after))).len();
    assert_eq!([599, 600, 6600, 6601].map(refresh), [1, 0, 0, 1]);
}

// Trust bundles.

fn anchor() -> String {
    ca_params().self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

#[test]
fn b2_a_bundles_name_carries_its_signer() {
    let anchor = anchor();
    let ok = |name: &str, signer: &str| bundle::create(name, signer, &anchor).is_empty();
    assert!(ok("a.b:c:main", "a.b/c") && ok("plain.name", ""));
    assert!(!ok("a.b:c:", "a.b/c") && !ok("main", "a.b/c") && !ok("a.b:d:main", "a.b/c") && !ok("a:b", ""));
}

#[test]
fn b3_a_bundle_holds_ca_certificates_each_once() {
    let anchor = anchor();
    let says = |text: &str| body(&bundle::create("plain", "", text));
    assert_eq!(says(&format!("words\n{anchor}")), "");
    assert_eq!(says(""), "at least one trust anchor must be provided");
    assert_eq!(says(&format!("{anchor}{anchor}")), "duplicate trust anchor (indices [0 1])");
    assert_eq!(says(&anchor.replace("CERTIFICATE", "X")), "X");
    assert_eq!(says(&case().leaf(|_| ()).pem()), "entry 0 does not have the CA bit set");
    let headed = anchor.replacen("-----\n", "-----\nA: b\n\n", 1).replacen("-----\r\n", "-----\r\nA: b\r\n\r\n", 1);
    assert_eq!(says(&headed), "entry 0 has PEM block headers");
    assert_eq!(says(&" ".repeat(1024 * 1024 + 1)), "may not be more than 1048576 bytes");
}

#[test]
fn b5_unchanged_text_is_not_read_again() {
    let update = |signer, anchors| bundle::update("a.b:c:x", signer, anchors).len();
    assert_eq!(update(("a.b/c", "a.b/c"), ("junk", "junk")), 0);
    assert_eq!(update(("a.b/c", "a.b/c"), ("junk", "other")), 1);
    assert_eq!(bundle::update("plain", ("", "a.b/c"), ("x", "x")).len(), 1, "the signer name is immutable");
}
