//! What a certificate costs without an API server: when nothing but its cryptography is done (the proof of possession verified, the
//! certificate signed, our own signature verified, with P-256 keys and the crypto library that the signer uses), and beside it by the
//! signer's own path, from the request to the certificate that may be published.

use std::sync::Arc;

use podmint_signer::authority::state::Name;
use podmint_signer::authority::{Confirmed, Issuer, Makings, Plan, Published, Put, Roots, SelfManaged, Write, make};
use podmint_signer::cluster::versions::Version;
use podmint_signer::config::Domains;
use podmint_signer::names::SerialNumber;
use podmint_signer::pipeline::{Answer, Claim, Decision, Means, Observed, decide};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use time::OffsetDateTime;

use crate::names::{observed, request, signer};
use crate::program::cpu;

/// Seconds of a processor for each certificate, as the kernel counts them for the programs: of the cryptography alone, and of all of it.
pub(crate) fn measure() -> (f64, f64) {
    let random = SystemRandom::new();
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, made.as_ref(), &random).expect("a key");
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref());
    let (csr, certificate) = ([1; CSR], [2; CERTIFICATE]);
    let proof = key.sign(&random, &csr).expect("a signature");
    let (request, signer, issuer) = (request(), signer(10), issuer());
    let claim = || Claim::parse(&request, Version::V1).expect("an honest claim");
    let (mut floor, mut path) = (0.0, 0.0);
    // Side by side, for the machine may grow faster or slower.
    for _ in 0..ROUNDS {
        let seen: Vec<Observed> = (0..CERTIFICATES).map(|_| observed(&Arc::new(claim()))).collect();
        let begun = own_cpu();
        for _ in 0..CERTIFICATES {
            public.verify(&csr, proof.as_ref()).expect("the proof is good");
            let signature = key.sign(&random, &certificate).expect("a signature");
            public.verify(&certificate, signature.as_ref()).expect("our signature is good");
        }
        let between = own_cpu();
        for facts in seen {
            let seen = Observed { claim: Arc::new(claim()), ..facts };
            let serial = SerialNumber::from_random([7; 16]);
            let means = Means { signer: Some(&signer), issuer: Some(&issuer), now: NOW, serial };
            assert!(matches!(decide(seen, means), Decision::Answer(Answer::Issue(_))), "it is not issued");
        }
        (floor, path) = (floor + between - begun, path + own_cpu() - between);
    }
    let each = f64::from(ROUNDS * CERTIFICATES);
    (floor / each, path / each)
}

/// A CA as the signer makes one.
fn issuer() -> Issuer {
    let (signer, domains) = (signer(1), Domains::parse("podmint.dev", "cluster.local").unwrap());
    let makings = Makings {
        trust_domain: &signer.trust_domain,
        domains: &domains,
        now: NOW,
        serial: SerialNumber::from_random([9; 16]),
        source: &SelfManaged,
        trusted: "",
    };
    let root = make::root(&makings).expect("a root");
    let put =
        Put { name: Name::Issue, plan: Plan::new(1, 86_400), below: Some(root.fingerprint()), write: Write::Create };
    let generation = make::signing(&put, None, Some(&Roots::first(root)), &makings).expect("an issuing CA");
    let published = Published::witness(&generation, &generation.trust_bundle()).expect("its own root");
    let confirmed = Confirmed { at: NOW, lasts: time::Duration::HOUR };
    Issuer::new(Arc::new(generation), published, confirmed).expect("the two belong together")
}

fn own_cpu() -> f64 {
    cpu(std::process::id().try_into().expect("a process has a small number"))
}

/// Half a second and more of each, of which the kernel counts hundredths.
const ROUNDS: u32 = 5;
const CERTIFICATES: u32 = 2000;
/// Bytes that are signed, of a kubelet's stub request and of a leaf of ours.
const CSR: usize = 100;
const CERTIFICATE: usize = 500;
/// Any.
const NOW: OffsetDateTime = time::macros::datetime!(2026-11-23 19:00 UTC);
