//! What a certificate costs when nothing but its cryptography is done: the proof of possession verified, the certificate signed, our own
//! signature verified, with P-256 keys and the crypto library that the signer uses.

use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};

use crate::program::cpu;

/// Seconds of a processor for each certificate, as the kernel counts them for the programs.
pub(crate) fn measure() -> f64 {
    let random = SystemRandom::new();
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, made.as_ref(), &random).expect("a key");
    let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref());
    let (csr, certificate) = ([1; CSR], [2; CERTIFICATE]);
    let proof = key.sign(&random, &csr).expect("a signature");
    let before = own_cpu();
    for _ in 0..CERTIFICATES {
        public.verify(&csr, proof.as_ref()).expect("the proof is good");
        let signature = key.sign(&random, &certificate).expect("a signature");
        public.verify(&certificate, signature.as_ref()).expect("our signature is good");
    }
    (own_cpu() - before) / f64::from(CERTIFICATES)
}

fn own_cpu() -> f64 {
    cpu(std::process::id().try_into().expect("a process has a small number"))
}

/// Half a second or more, of which the kernel counts hundredths.
const CERTIFICATES: u32 = 5000;
/// Bytes that are signed, of a kubelet's stub request and of a leaf of ours.
const CSR: usize = 100;
const CERTIFICATE: usize = 500;
