//! For tests: an honest request with everything that belongs to it. Each test changes one thing.
//!
//! No two names are alike, and none is a default, so that swapped values show.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use time::{OffsetDateTime, macros::datetime};

use super::{
    Approved, Claim, Fact, Freshness, Issued, KeyType, NamespaceFacts, NodeFacts, Observed, Phase, PodFacts, Profile,
    Projection, ServiceAccountFacts, Verified,
};
use crate::{
    authority::{Confirmed, Generation, Issuer, Makings, Plan, Published, SelfManaged, make},
    cluster::{versions::Version, wire::RequestObject},
    config::{Config, Domains, PodSigner},
    names::{Hostname, NodeName, NodeUid, PodUid, SerialNumber, ServiceAccountName, ServiceAccountUid, ServiceName},
};

pub(crate) const POD_UID: &str = "6d2f7e1c-0f4a-4a8e-9d0b-5f3a1c2b7e90";

pub(crate) const NOW: OffsetDateTime = datetime!(2026-11-23 19:00:00.25 UTC);

/// A key pair of any kind, and what a kubelet does with it.
pub(crate) enum TestKey {
    Ecdsa(&'static [u8], EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl TestKey {
    pub(crate) fn new(kind: KeyType) -> Self {
        let ecdsa = |with: &'static EcdsaSigningAlgorithm, oid| Self::Ecdsa(oid, EcdsaKeyPair::generate(with).unwrap());
        match kind {
            KeyType::Rsa3072 => Self::Rsa(RsaKeyPair::generate(KeySize::Rsa3072).unwrap()),
            KeyType::Rsa4096 => Self::Rsa(RsaKeyPair::generate(KeySize::Rsa4096).unwrap()),
            KeyType::EcdsaP256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING, SHA256_ECDSA),
            KeyType::EcdsaP384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING, SHA384_ECDSA),
            KeyType::EcdsaP521 => ecdsa(&ECDSA_P521_SHA512_ASN1_SIGNING, SHA512_ECDSA),
            KeyType::Ed25519 => Self::Ed25519(Ed25519KeyPair::generate().unwrap()),
        }
    }

    pub(crate) fn spki(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Ecdsa(_, pair) => pair.public_key().as_der().unwrap(),
            Self::Ed25519(pair) => pair.public_key().as_der().unwrap(),
            Self::Rsa(pair) => pair.public_key().as_der().unwrap(),
        };
        der.as_ref().to_vec()
    }

    pub(crate) fn sign(&self, message: &[u8]) -> (&'static [u8], Vec<u8>) {
        match self {
            Self::Ecdsa(oid, pair) => (oid, pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()),
            Self::Ed25519(pair) => (ED25519, pair.sign(message).as_ref().to_vec()),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                (SHA256_RSA, signature)
            }
        }
    }

    /// What a kubelet sends: an empty PKCS#10 request.
    pub(crate) fn csr(&self) -> Vec<u8> {
        self.csr_of(&der(0x30, &[]), &[])
    }

    /// One with a subject and attributes, both in DER.
    pub(crate) fn csr_of(&self, subject: &[u8], attributes: &[u8]) -> Vec<u8> {
        let info = der(0x30, &[&der(0x02, &[&[0]]), subject, &self.spki(), &der(0xa0, &[attributes])]);
        let (algorithm, signature) = self.sign(&info);
        der(0x30, &[&info, algorithm, &der(0x03, &[&[0], &signature])])
    }
}

/// One DER element.
pub(crate) fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let mut element = match length {
        0..128 => vec![tag, u8::try_from(length).unwrap()],
        128..256 => vec![tag, 0x81, u8::try_from(length).unwrap()],
        _ => [&[tag, 0x82][..], &u16::try_from(length).unwrap().to_be_bytes()].concat(),
    };
    element.extend(content);
    element
}

/// One key for all tests that do not care which.
pub(crate) static KEY: LazyLock<TestKey> = LazyLock::new(|| TestKey::new(KeyType::EcdsaP256));

/// RSA keys take a while to make: one for all tests.
pub(crate) static RSA_KEY: LazyLock<TestKey> = LazyLock::new(|| TestKey::new(KeyType::Rsa3072));

/// A request in JSON, as `v1` shows it.
pub(crate) fn request_with(key: &TestKey) -> Value {
    json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "PodCertificateRequest",
        "metadata": {
            "namespace": "shop",
            "name": "req-x7k2p",
            "uid": "b1e6a0f2-9d53-4c1b-8a71-2f0c6e5d4a33",
            "resourceVersion": "4711",
            "creationTimestamp": "2026-11-23T18:59:59Z",
            "managedFields": [{"manager": "kubelet", "operation": "Update"}],
        },
        "spec": {
            "signerName": "podmint.dev/workload",
            "podName": "cart-0",
            "podUID": POD_UID,
            "serviceAccountName": "cart",
            "serviceAccountUID": "c0ffee00-1111-4222-8333-444455556666",
            "nodeName": "node-a",
            "nodeUID": "0ddba11e-7777-4888-9999-aaaabbbbcccc",
            "maxExpirationSeconds": 43_200,
            "stubPKCS10Request": BASE64_STANDARD.encode(key.csr()),
        },
    })
}

pub(crate) fn request() -> Value {
    request_with(&KEY)
}

pub(crate) fn object(request: Value) -> RequestObject {
    serde_json::from_value(request).unwrap()
}

pub(crate) fn claim_with(key: &TestKey) -> Claim {
    Claim::parse(&object(request_with(key)), Version::V1).unwrap()
}

pub(crate) fn claim() -> Claim {
    claim_with(&KEY)
}

/// The claim beside facts that fit it, all of them from the cache.
pub(crate) fn honest_of(claim: Claim) -> Observed {
    let pod = PodFacts {
        uid: Some(PodUid::parse(POD_UID).unwrap()),
        node: Some(NodeName::parse("node-a").unwrap()),
        service_account: Some(ServiceAccountName::parse("cart").unwrap()),
        is_mirror: false,
        labels: [("app".into(), "cart".into())].into(),
        hostname: Some(Hostname::parse("cart-0").unwrap()),
        subdomain: Some(ServiceName::parse("carts").unwrap()),
        is_on_host_network: false,
        addresses: Box::default(),
        phase: Phase::Waiting,
        projections: [Projection {
            signer: "podmint.dev/workload".into(),
            key_type: Some(claim.key_type()),
            max_expiration_seconds: 43_200,
            annotations: Box::default(),
        }]
        .into(),
    };
    let service_account =
        ServiceAccountFacts { uid: Some(ServiceAccountUid::parse("c0ffee00-1111-4222-8333-444455556666").unwrap()) };
    let node = NodeFacts {
        uid: Some(NodeUid::parse("0ddba11e-7777-4888-9999-aaaabbbbcccc").unwrap()),
        labels: Arc::new([("pool".into(), "trusted".into())].into()),
    };
    Observed {
        claim: Arc::new(claim),
        pod: Fact::Found(pod, Freshness::Cached),
        service_account: Fact::Found(service_account, Freshness::Cached),
        node: Fact::Found(node, Freshness::Cached),
        namespace: Some(NamespaceFacts { labels: Arc::new([("env".into(), "prod".into())].into()) }),
        services: Some(["carts", "front"].map(|name| ServiceName::parse(name).unwrap()).into()),
        holds: Some(Arc::default()),
    }
}

pub(crate) fn honest() -> Observed {
    honest_of(claim())
}

pub(crate) fn domains() -> Domains {
    Domains::parse("podmint.dev", "cluster.local").unwrap()
}

pub(crate) const CONFIG: &str = r#"
apiVersion: podmint.dev/v1alpha1
kind: PodSigner
metadata: {name: workload}
spec:
  signerName: podmint.dev/workload
  trustDomain: prod.example.org
  allow:
    - name: shops
      namespaces: ["shop", "team-*"]
      serviceAccounts: ["*"]
"#;

pub(crate) fn signer() -> Arc<PodSigner> {
    let config = Config::parse(CONFIG, &domains()).unwrap();
    Arc::clone(&config.signers()[0])
}

/// The smallest configuration with one more line in its `spec`.
pub(crate) fn config_with(line: &str) -> Arc<PodSigner> {
    let config = Config::parse(&format!("{CONFIG}  {line}\n"), &domains()).unwrap();
    Arc::clone(&config.signers()[0])
}

/// The smallest configuration, whose rule has these `requests`.
pub(crate) fn config_with_rule(requests: &str) -> Arc<PodSigner> {
    let config = Config::parse(&format!("{CONFIG}      requests: {requests}\n"), &domains()).unwrap();
    Arc::clone(&config.signers()[0])
}

pub(crate) fn changed(change: impl FnOnce(&mut PodSigner)) -> Arc<PodSigner> {
    let mut signer = PodSigner::clone(&signer());
    change(&mut signer);
    Arc::new(signer)
}

pub(crate) fn verified() -> Verified {
    Verified::check(honest()).unwrap()
}

pub(crate) fn approved() -> Approved {
    Approved::admit(verified(), &signer()).unwrap()
}

pub(crate) fn serial() -> SerialNumber {
    SerialNumber::from_random([0x5a; 16])
}

pub(crate) fn makings<'a>(signer: &'a PodSigner, domains: &'a Domains, now: OffsetDateTime) -> Makings<'a> {
    let serial = SerialNumber::from_random([9; 16]);
    Makings { trust_domain: &signer.trust_domain, domains, now, serial, source: &SelfManaged, trusted: "" }
}

pub(crate) fn generation() -> Generation {
    let (signer, domains) = (signer(), domains());
    let makings = makings(&signer, &domains, NOW);
    make::generation(&make::root(&makings).unwrap(), Plan::new(7, 86_400), None, &makings).unwrap()
}

pub(crate) fn issuer_of(generation: Generation) -> Issuer {
    let published = Published::witness(&generation, &generation.trust_bundle()).unwrap();
    // Tests go as far as the CA's end.
    let confirmed = Confirmed { at: NOW, lasts: time::Duration::days(60) };
    Issuer::new(Arc::new(generation), published, confirmed).unwrap()
}

pub(crate) fn issuer() -> Issuer {
    issuer_of(generation())
}

pub(crate) fn profile(issuer: &Issuer) -> Profile {
    Profile::decide(approved(), issuer.usable_until(), NOW, serial()).unwrap()
}

pub(crate) fn issued() -> Issued {
    let issuer = issuer();
    Issued::sign(profile(&issuer), &issuer).unwrap()
}

/// Its first certificate, in DER.
pub(crate) fn leaf_of(issued: &Issued) -> Vec<u8> {
    pem::parse_many(issued.chain_pem()).unwrap().swap_remove(0).into_contents()
}

const SHA256_RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00";
const SHA256_ECDSA: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
const SHA384_ECDSA: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03";
const SHA512_ECDSA: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04";
const ED25519: &[u8] = b"\x30\x05\x06\x03\x2b\x65\x70";
