//! What a certificate costs when nothing but its cryptography is done: the proof of possession verified, the certificate signed, our own
//! signature verified, with P-256 keys and the crypto library that the signer uses.

use std::time::Instant;

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};

/// Seconds for each certificate: the quickest of several passes, for whoever else uses the machine only adds to it.
pub(crate) fn measure() -> f64 {
    let random = SystemRandom::new();
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, made.as_ref(), &random).expect("a key");
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref());
    let (csr, certificate) = ([1; CSR], [2; CERTIFICATE]);
    let proof = key.sign(&random, &csr).expect("a signature");
    let pass = |_| {
        let begun = Instant::now();
        for _ in 0..CERTIFICATES {
            public.verify(&csr, proof.as_ref()).expect("the proof is good");
            let signature = key.sign(&random, &certificate).expect("a signature");
            public.verify(&certificate, signature.as_ref()).expect("our signature is good");
        }
        begun.elapsed().as_secs_f64() / f64::from(CERTIFICATES)
    };
    (0..PASSES).map(pass).fold(f64::INFINITY, f64::min)
}

const PASSES: u32 = 10;
const CERTIFICATES: u32 = 200;
/// Bytes that are signed, of a kubelet's stub request and of a leaf of ours.
const CSR: usize = 100;
const CERTIFICATE: usize = 500;
