//! What a request claims, in our words: an object comes in, names that are not empty and a key whose holder has proved that he
//! holds it come out. Nothing is known yet about whether the claim is true.

use base64::{Engine, prelude::BASE64_STANDARD};
use x509_parser::{
    asn1_rs::{Any, Class, Oid, Tag},
    prelude::{AlgorithmIdentifier, FromDer},
};

use super::{
    facts::DEFAULT_EXPIRATION,
    key::{BadKey, KeyType, PublicKey},
    refusal::{Denial, Hold, Malformed, ProofFailed},
};
use crate::{
    cluster::{
        versions::Version,
        wire::{Annotations, Field, RequestObject, Spec, Target},
    },
    names::{NameError, NodeName, NodeUid, PodName, PodUid, ServiceAccountName, ServiceAccountUid, Sha256, SignerName},
};

/// A request, read and its key proved.
#[derive(Clone, Debug)]
pub struct Claim {
    /// Which object this is, and where the answer goes. Its namespace is the pod's.
    pub target: Target,
    /// The signer that is asked.
    pub signer: SignerName,
    /// The pod that is to get the certificate.
    pub pod: PodName,
    /// Its UID.
    pub pod_uid: PodUid,
    /// The ServiceAccount that the pod is said to run as.
    pub service_account: ServiceAccountName,
    /// Its UID.
    pub service_account_uid: ServiceAccountUid,
    /// The node that the pod is said to run on.
    pub node: NodeName,
    /// Its UID.
    pub node_uid: NodeUid,
    /// The longest life asked for, in seconds.
    pub max_expiration_seconds: u32,
    /// What the pod's author, or a node in his name, tells the signer; sorted by key.
    pub annotations: Box<[(Box<str>, Box<str>)]>,
    /// The key. Whoever made the request holds the private one.
    pub key: PublicKey,
    /// What else the PKCS#10 request held, and we did not look at: for the audit log.
    pub ignored: Box<[String]>,
    /// When the request was made.
    pub created: Option<jiff::Timestamp>,
}

/// Why an object is no claim. What to answer is in it, but for an object that cannot even be answered.
#[derive(Clone, Debug)]
pub enum Unclaimed {
    /// It lacks name, namespace, UID or resourceVersion: skip, count and log it.
    Unaddressable(NameError),
    /// It will never be right.
    Denied(Target, Denial),
    /// `v1` shows no key: read it again as `v1beta1` where that is served, else answer this.
    KeyNotVisible(Target, Hold),
}

impl Claim {
    /// Reads an object that was fetched through `version`.
    #[expect(clippy::result_large_err, reason = "made once for a request, and taken apart at once")]
    pub fn parse(object: &RequestObject, version: Version) -> Result<Self, Unclaimed> {
        let target = object.target().map_err(Unclaimed::Unaddressable)?;
        match read(object, version, &target) {
            Ok(claim) => Ok(claim),
            Err(Trouble::Deny(denial)) => Err(Unclaimed::Denied(target, denial)),
            Err(Trouble::NoKey) => Err(Unclaimed::KeyNotVisible(target, Hold::KeyNotVisible)),
        }
    }

    /// The kind of the key.
    pub fn key_type(&self) -> KeyType {
        self.key.kind()
    }
}

enum Trouble {
    Deny(Denial),
    NoKey,
}

impl From<Denial> for Trouble {
    fn from(denial: Denial) -> Self {
        Self::Deny(denial)
    }
}

impl From<Malformed> for Trouble {
    fn from(malformed: Malformed) -> Self {
        Self::Deny(Denial::Malformed(malformed))
    }
}

fn read(object: &RequestObject, version: Version, target: &Target) -> Result<Claim, Trouble> {
    let spec = &object.spec;
    let pod_uid = name("podUID", &spec.pod_uid, PodUid::parse)?;
    let signer = name("signerName", &spec.signer_name, SignerName::parse)?;
    let pod = name("podName", &spec.pod_name, PodName::parse)?;
    let service_account = name("serviceAccountName", &spec.service_account_name, ServiceAccountName::parse)?;
    let service_account_uid = name("serviceAccountUID", &spec.service_account_uid, ServiceAccountUid::parse)?;
    let node = name("nodeName", &spec.node_name, NodeName::parse)?;
    let node_uid = name("nodeUID", &spec.node_uid, NodeUid::parse)?;
    let max_expiration_seconds = expiration(&spec.max_expiration_seconds)?;
    let annotations = annotations(&spec.annotations)?.into();
    // Last, for it is the dear one.
    let Proved { key, ignored } = proved(spec, version, &pod_uid)?;
    let (target, created) = (target.clone(), object.created());
    Ok(Claim {
        target,
        signer,
        pod,
        pod_uid,
        service_account,
        service_account_uid,
        node,
        node_uid,
        max_expiration_seconds,
        annotations,
        key,
        ignored,
        created,
    })
}

fn name<T>(
    field: &'static str,
    found: &Field<Box<str>>,
    parse: fn(&str) -> Result<T, NameError>,
) -> Result<T, Malformed> {
    match found {
        Field::Absent => Err(Malformed::Missing(field)),
        Field::Wrong => Err(Malformed::Type(field)),
        Field::Good(text) => parse(text).map_err(|error| Malformed::Name(field, error)),
    }
}

/// The bounds are the API server's own; it also fills in what is absent.
fn expiration(found: &Field<i64>) -> Result<u32, Malformed> {
    const FIELD: &str = "maxExpirationSeconds";
    let seconds = match found {
        Field::Absent => DEFAULT_EXPIRATION,
        Field::Wrong => return Err(Malformed::Type(FIELD)),
        Field::Good(seconds) => *seconds,
    };
    match u32::try_from(seconds) {
        Ok(seconds) if (3_600..=7_862_400).contains(&seconds) => Ok(seconds),
        Ok(_) | Err(_) => Err(Malformed::Expiration(seconds)),
    }
}

fn annotations(found: &Field<Annotations>) -> Result<Annotations, Malformed> {
    match found {
        Field::Absent => Ok(Annotations::new()),
        Field::Wrong => Err(Malformed::Type("unverifiedUserAnnotations")),
        Field::Good(annotations) => {
            let mut annotations = annotations.clone();
            annotations.sort();
            Ok(annotations)
        }
    }
}

struct Proved {
    key: PublicKey,
    ignored: Box<[String]>,
}

/// The hash of the key that an object asks with, proved or not: to know who asked with it first. None where it shows none.
pub(crate) fn key_asked_with(object: &RequestObject) -> Option<Sha256> {
    let spec = &object.spec;
    match bytes("stubPKCS10Request", &spec.stub_pkcs10_request).ok()? {
        Some(stub) => Some(Sha256::of(Parts::read(&stub)?.key)),
        None => Some(Sha256::of(&bytes("pkixPublicKey", &spec.pkix_public_key).ok()??)),
    }
}

/// The stub first, then the older pair: the order in which the API server compares the leaf's key.
fn proved(spec: &Spec, version: Version, pod: &PodUid) -> Result<Proved, Trouble> {
    let stub = bytes("stubPKCS10Request", &spec.stub_pkcs10_request)?;
    let key = bytes("pkixPublicKey", &spec.pkix_public_key)?;
    let proof = bytes("proofOfPossession", &spec.proof_of_possession)?;
    match (stub, key, proof) {
        (Some(stub), _, _) => Ok(csr(&stub)?),
        (None, Some(key), Some(proof)) => Ok(pair(&key, &proof, pod)?),
        (None, Some(_), None) => Err(Malformed::Missing("proofOfPossession").into()),
        (None, None, Some(_)) => Err(Malformed::Missing("pkixPublicKey").into()),
        (None, None, None) => match version {
            Version::V1 => Err(Trouble::NoKey),
            Version::V1beta1 => Err(Malformed::Missing("stubPKCS10Request").into()),
        },
    }
}

/// Nothing is `None`: absent, `null` and empty are the same for Go, which sends empty bytes as either.
fn bytes(field: &'static str, found: &Field<Box<str>>) -> Result<Option<Vec<u8>>, Malformed> {
    // The API server takes 10240 bytes; a third more as base64.
    const MOST: usize = 14_000;
    match found {
        Field::Absent => Ok(None),
        Field::Wrong => Err(Malformed::Type(field)),
        Field::Good(text) if text.is_empty() => Ok(None),
        Field::Good(text) if text.len() > MOST => Err(Malformed::Base64(field)),
        Field::Good(text) => match BASE64_STANDARD.decode(text.as_bytes()) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(_) => Err(Malformed::Base64(field)),
        },
    }
}

fn pair(key: &[u8], proof: &[u8], pod: &PodUid) -> Result<Proved, Denial> {
    let key = PublicKey::parse(key).map_err(|bad| refused(bad, "pkixPublicKey"))?;
    if !key.possessed(pod, proof) {
        return Err(Denial::ProofFailed(ProofFailed::Possession));
    }
    Ok(Proved { key, ignored: Box::default() })
}

/// Reads a PKCS#10 request as far as we use it: the key and the signature. What lies between is not even decoded, but listed.
fn csr(der: &[u8]) -> Result<Proved, Denial> {
    let parts = Parts::read(der).ok_or(Denial::Malformed(Malformed::Csr))?;
    let key = PublicKey::parse(parts.key).map_err(|bad| refused(bad, "stubPKCS10Request"))?;
    if !key.signed(&parts.algorithm, parts.signed, parts.signature) {
        return Err(Denial::ProofFailed(ProofFailed::Csr));
    }
    Ok(Proved { key, ignored: ignored(parts.subject, parts.attributes).into() })
}

fn refused(bad: BadKey, field: &'static str) -> Denial {
    match bad {
        BadKey::Garbage => Denial::Malformed(Malformed::Key(field)),
        BadKey::Unsupported => Denial::UnsupportedKey,
        BadKey::Weak => Denial::Malformed(Malformed::WeakKey),
    }
}

struct Parts<'a> {
    signed: &'a [u8],
    subject: &'a [u8],
    key: &'a [u8],
    attributes: &'a [u8],
    algorithm: AlgorithmIdentifier<'a>,
    signature: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(der: &'a [u8]) -> Option<Self> {
        let (_, outer, rest) = element(der, Tag::Sequence)?;
        let (signed, info, after) = element(outer, Tag::Sequence)?;
        let (_, version, info) = element(info, Tag::Integer)?;
        let (_, subject, info) = element(info, Tag::Sequence)?;
        let (key, _, attributes) = element(info, Tag::Sequence)?;
        let (algorithm, _, after) = element(after, Tag::Sequence)?;
        let (_, signature, after) = element(after, Tag::BitString)?;
        let (_, algorithm) = AlgorithmIdentifier::from_der(algorithm).ok()?;
        // A signature is whole bytes: no unused bits.
        let (unused, signature) = signature.split_first()?;
        let sound = rest.is_empty() && after.is_empty() && version == [0] && *unused == 0;
        sound.then_some(Self { signed, subject, key, attributes, algorithm, signature })
    }
}

/// One DER element of this tag: itself, its content, and what follows.
fn element(der: &[u8], tag: Tag) -> Option<(&[u8], &[u8], &[u8])> {
    let (rest, any) = Any::from_der(der).ok()?;
    let whole = der.get(..der.len().checked_sub(rest.len())?)?;
    (any.class() == Class::Universal && any.tag() == tag).then_some((whole, any.data, rest))
}

/// What a request said beside its key, in a few words each: never more than [`MOST_IGNORED`] of them.
fn ignored(subject: &[u8], attributes: &[u8]) -> Vec<String> {
    let subject = (!subject.is_empty()).then(|| "subject".to_owned());
    let mut found: Vec<String> = subject.into_iter().chain(attribute_names(attributes)).collect();
    if found.len() > MOST_IGNORED {
        found.truncate(MOST_IGNORED);
        found.push("and more".to_owned());
    }
    found
}

fn attribute_names(attributes: &[u8]) -> Vec<String> {
    let Ok((_, set)) = Any::from_der(attributes) else {
        return if attributes.is_empty() { Vec::new() } else { vec!["attributes".to_owned()] };
    };
    elements(set.data, Tag::Sequence)
        .flat_map(|attribute| {
            let (kind, rest) = oid(attribute);
            if kind == EXTENSION_REQUEST { extension_names(rest) } else { vec![format!("attribute {kind}")] }
        })
        .take(MOST_IGNORED.saturating_add(1))
        .collect()
}

fn extension_names(set: &[u8]) -> Vec<String> {
    let lists = elements(set, Tag::Set).flat_map(|set| elements(set, Tag::Sequence));
    lists
        .flat_map(|list| elements(list, Tag::Sequence))
        .map(|extension| format!("extension {}", oid(extension).0))
        .take(MOST_IGNORED.saturating_add(1))
        .collect()
}

fn elements(mut der: &[u8], tag: Tag) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (_, content, rest) = element(der, tag)?;
        der = rest;
        Some(content)
    })
}

fn oid(der: &[u8]) -> (String, &[u8]) {
    match Oid::from_der(der) {
        Ok((rest, oid)) => (oid.to_id_string(), rest),
        Err(_) => ("unreadable".to_owned(), &[]),
    }
}

const EXTENSION_REQUEST: &str = "1.2.840.113549.1.9.14";

const MOST_IGNORED: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::pipeline::honest::{KEY, POD_UID, RSA_KEY, TestKey, der, object, request, request_with};

    #[expect(clippy::result_large_err, reason = "a test")]
    fn parse(request: Value) -> Result<Claim, Unclaimed> {
        Claim::parse(&object(request), Version::V1)
    }

    fn denied(request: Value) -> Denial {
        match parse(request) {
            Err(Unclaimed::Denied(target, denial)) => {
                assert_eq!(target.name.as_str(), "req-x7k2p");
                denial
            }
            other => panic!("not denied: {other:?}"),
        }
    }

    fn with(field: &str, value: Value) -> Value {
        let mut request = request();
        request["spec"][field] = value;
        request
    }

    #[test]
    fn every_word_of_a_request_is_where_it_belongs() {
        let claim = parse(request()).unwrap();
        assert_eq!(claim.signer.as_str(), "podmint.dev/workload");
        assert_eq!(claim.pod.as_str(), "cart-0");
        assert_eq!(claim.pod_uid.as_str(), POD_UID);
        assert_eq!(claim.service_account.as_str(), "cart");
        assert_eq!(claim.service_account_uid.as_str(), "c0ffee00-1111-4222-8333-444455556666");
        assert_eq!(claim.node.as_str(), "node-a");
        assert_eq!(claim.node_uid.as_str(), "0ddba11e-7777-4888-9999-aaaabbbbcccc");
        assert_eq!(claim.max_expiration_seconds, 43_200);
        assert!(claim.annotations.is_empty() && claim.ignored.is_empty());
        assert_eq!(claim.key.spki(), KEY.spki());
    }

    #[test]
    fn keys_of_all_six_kinds_are_proved_by_the_request() {
        for kind in KeyType::ALL {
            assert_eq!(parse(request_with(&TestKey::new(kind))).unwrap().key_type(), kind);
        }
    }

    #[test]
    fn a_request_signed_with_another_key_or_torn_is_no_proof() {
        for key in [&*KEY, &*RSA_KEY, &TestKey::new(KeyType::EcdsaP521), &TestKey::new(KeyType::Ed25519)] {
            let mut csr = key.csr();
            *csr.last_mut().unwrap() ^= 1;
            let torn = denied(with("stubPKCS10Request", BASE64_STANDARD.encode(&csr).into()));
            assert_eq!(torn, Denial::ProofFailed(ProofFailed::Csr));
        }
        let ours = KEY.csr();
        let theirs = TestKey::new(KeyType::EcdsaP256).spki();
        let place = ours.windows(26).position(|window| window == &theirs[..26]).unwrap();
        let swapped = [&ours[..place], &theirs, &ours[place + theirs.len()..]].concat();
        let swapped = denied(with("stubPKCS10Request", BASE64_STANDARD.encode(swapped).into()));
        assert_eq!(swapped, Denial::ProofFailed(ProofFailed::Csr));
    }

    #[test]
    fn what_else_a_csr_holds_is_ignored_and_listed() {
        let oid = |bytes: &[u8]| der(0x06, &[bytes]);
        let admin = der(0x31, &[&der(0x30, &[&oid(&[0x55, 4, 3]), &der(0x0c, &[b"admin"])])]);
        let san = der(0x30, &[&oid(&[0x55, 0x1d, 0x11]), &der(0x04, &[b"whatever"])]);
        let extensions = der(0x31, &[&der(0x30, &[&san])]);
        let request_oid = oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 14]);
        let password_oid = oid(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 7]);
        let attributes =
            [der(0x30, &[&request_oid, &extensions]), der(0x30, &[&password_oid, &der(0x31, &[])])].concat();
        let csr = KEY.csr_of(&der(0x30, &[&admin]), &attributes);
        let claim = parse(with("stubPKCS10Request", BASE64_STANDARD.encode(csr).into())).unwrap();
        assert_eq!(*claim.ignored, ["subject", "extension 2.5.29.17", "attribute 1.2.840.113549.1.9.7"]);
    }

    #[test]
    fn a_csr_with_one_thing_too_many_or_of_another_version_is_malformed() {
        let good = KEY.csr();
        let (_, outer, _) = element(&good, Tag::Sequence).unwrap();
        let (info, _, rest) = element(outer, Tag::Sequence).unwrap();
        let (algorithm, _, rest) = element(rest, Tag::Sequence).unwrap();
        let (bits, signature, _) = element(rest, Tag::BitString).unwrap();
        assert!(super::csr(&der(0x30, &[info, algorithm, bits])).is_ok());
        let (mut later, mut octets, mut unused) = (info.to_vec(), info.to_vec(), signature.to_vec());
        let version = info.windows(3).position(|bytes| bytes == [0x02, 1, 0]).unwrap();
        (later[version + 2], octets[version], unused[0]) = (1, 0x04, 1);
        for bad in [
            [&good, &[0][..]].concat(),
            der(0x30, &[info, algorithm, bits, &[0x05, 0]]),
            der(0x30, &[&later, algorithm, bits]),
            der(0x30, &[&octets, algorithm, bits]),
            der(0x70, &[info, algorithm, bits]),
            der(0x30, &[info, algorithm, &der(0x03, &[&unused])]),
        ] {
            let denial = denied(with("stubPKCS10Request", BASE64_STANDARD.encode(&bad).into()));
            assert_eq!(denial, Denial::Malformed(Malformed::Csr), "{bad:02x?}");
        }
    }

    #[test]
    fn the_list_of_what_was_ignored_has_an_end() {
        let attribute = der(0x30, &[&der(0x06, &[&[0x55, 1]]), &der(0x31, &[])]);
        let csr = KEY.csr_of(&der(0x30, &[]), &attribute.repeat(400));
        let claim = parse(with("stubPKCS10Request", BASE64_STANDARD.encode(csr).into())).unwrap();
        assert_eq!(claim.ignored.len(), MOST_IGNORED + 1);
        assert_eq!(claim.ignored.last().unwrap(), "and more");
    }

    #[test]
    fn an_old_request_seen_through_v1_is_not_malformed() {
        for empty in [json!(null), json!("")] {
            let object = object(with("stubPKCS10Request", empty));
            let through_v1 = Claim::parse(&object, Version::V1);
            assert!(matches!(through_v1, Err(Unclaimed::KeyNotVisible(_, Hold::KeyNotVisible))));
            let through_beta = Claim::parse(&object, Version::V1beta1);
            assert!(matches!(through_beta, Err(Unclaimed::Denied(_, Denial::Malformed(Malformed::Missing(_))))));
        }
    }

    #[test]
    fn the_older_pair_is_proved_over_the_pod() {
        // With an Ed25519 key, whose signature of 1.35 and of a CSR are alike but for the message.
        use aws_lc_rs::{
            encoding::AsDer,
            signature::{Ed25519KeyPair, KeyPair},
        };
        let pair = Ed25519KeyPair::generate().unwrap();
        let spki: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let old = |message: &[u8]| {
            let mut request = with("stubPKCS10Request", json!(null));
            request["spec"]["pkixPublicKey"] = BASE64_STANDARD.encode(spki.as_ref()).into();
            request["spec"]["proofOfPossession"] = BASE64_STANDARD.encode(pair.sign(message).as_ref()).into();
            request
        };
        let claim = Claim::parse(&object(old(POD_UID.as_bytes())), Version::V1beta1).unwrap();
        assert_eq!(claim.key_type(), KeyType::Ed25519);
        assert_eq!(denied(old(b"another pod")), Denial::ProofFailed(ProofFailed::Possession));
        let mut half = old(POD_UID.as_bytes());
        half["spec"]["proofOfPossession"] = json!(null);
        assert_eq!(denied(half), Denial::Malformed(Malformed::Missing("proofOfPossession")));
    }

    #[test]
    fn what_is_missing_or_odd_is_malformed_by_name() {
        for field in
            ["signerName", "podName", "podUID", "serviceAccountName", "serviceAccountUID", "nodeName", "nodeUID"]
        {
            assert_eq!(denied(with(field, json!(null))), Denial::Malformed(Malformed::Missing(field)));
            assert_eq!(denied(with(field, json!(7))), Denial::Malformed(Malformed::Type(field)));
            assert!(
                matches!(denied(with(field, json!(""))), Denial::Malformed(Malformed::Name(found, _)) if found == field)
            );
        }
        for seconds in [3_599, 7_862_401, 0, -1, i64::MIN, i64::MAX] {
            let refused = denied(with("maxExpirationSeconds", seconds.into()));
            assert_eq!(refused, Denial::Malformed(Malformed::Expiration(seconds)));
        }
        assert_eq!(parse(with("maxExpirationSeconds", json!(null))).unwrap().max_expiration_seconds, 86_400);
        let odd = denied(with("unverifiedUserAnnotations", json!({"a/b": 1})));
        assert_eq!(odd, Denial::Malformed(Malformed::Type("unverifiedUserAnnotations")));
        let odd = denied(with("stubPKCS10Request", json!("%%%")));
        assert_eq!(odd, Denial::Malformed(Malformed::Base64("stubPKCS10Request")));
        let long = denied(with("stubPKCS10Request", json!("A".repeat(20_000))));
        assert_eq!(long, Denial::Malformed(Malformed::Base64("stubPKCS10Request")));
        let garbage = denied(with("stubPKCS10Request", json!("AAAA")));
        assert_eq!(garbage, Denial::Malformed(Malformed::Csr));
    }

    #[test]
    fn what_cannot_be_addressed_cannot_be_answered() {
        for field in ["namespace", "name", "uid", "resourceVersion"] {
            let mut request = request();
            request["metadata"][field] = json!(null);
            assert!(matches!(parse(request), Err(Unclaimed::Unaddressable(_))), "{field}");
        }
    }

    proptest! {
        #[test]
        fn no_csr_makes_it_panic(place in 0..400_usize, byte in any::<u8>(), cut in 0..400_usize) {
            let mut csr = RSA_KEY.csr();
            let (length, original) = (csr.len(), csr.clone());
            *csr.get_mut(place.min(length.saturating_sub(1))).unwrap() = byte;
            csr.truncate(length.saturating_sub(cut.saturating_sub(200)));
            if csr != original {
                prop_assert!(super::csr(&csr).is_err(), "a changed request is never proved");
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(super::csr(&bytes).is_err());
            prop_assert!(pair(&bytes, &bytes, &PodUid::parse(POD_UID).unwrap()).is_err());
        }
    }
}
