//! Keys of every type a kubelet makes, and the proofs that go with them, written out by hand: nothing here is shared with
//! the signer, so an error there cannot hide behind the same error here.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsBigEndian as _, AsDer as _, EcPrivateKeyBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA256_ASN1_SIGNING,
    ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use p384::ecdsa::signature::hazmat::PrehashSigner as _;

/// The six words of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyType {
    /// `ECDSAP256`
    EcdsaP256,
    /// `ECDSAP384`
    EcdsaP384,
    /// `ECDSAP521`
    EcdsaP521,
    /// `ED25519`
    Ed25519,
    /// `RSA3072`
    Rsa3072,
    /// `RSA4096`
    Rsa4096,
}

impl KeyType {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::EcdsaP256, Self::EcdsaP384, Self::EcdsaP521, Self::Ed25519, Self::Rsa3072, Self::Rsa4096];

    /// As a pod's projection names it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::EcdsaP256 => "ECDSAP256",
            Self::EcdsaP384 => "ECDSAP384",
            Self::EcdsaP521 => "ECDSAP521",
            Self::Ed25519 => "ED25519",
            Self::Rsa3072 => "RSA3072",
            Self::Rsa4096 => "RSA4096",
        }
    }
}

/// A private key. It never leaves this process.
pub struct Key {
    key_type: KeyType,
    pair: Pair,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl Key {
    /// A new key of this type.
    pub fn make(key_type: KeyType) -> Self {
        let ecdsa = |algorithm| Pair::Ecdsa(EcdsaKeyPair::generate(algorithm).expect("a key can be made"));
        let rsa = |size| Pair::Rsa(RsaKeyPair::generate(size).expect("a key can be made"));
        let pair = match key_type {
            KeyType::EcdsaP256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING),
            KeyType::EcdsaP384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING),
            KeyType::EcdsaP521 => ecdsa(&ECDSA_P521_SHA512_ASN1_SIGNING),
            KeyType::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate().expect("a key can be made")),
            KeyType::Rsa3072 => rsa(KeySize::Rsa3072),
            KeyType::Rsa4096 => rsa(KeySize::Rsa4096),
        };
        Self { key_type, pair }
    }

    /// Its type.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// The public key as SubjectPublicKeyInfo, in DER.
    pub fn public(&self) -> Vec<u8> {
        let spki = match &self.pair {
            Pair::Ecdsa(pair) => pair.public_key().as_der(),
            Pair::Ed25519(pair) => pair.public_key().as_der(),
            Pair::Rsa(pair) => pair.public_key().as_der(),
        };
        spki.expect("a public key can be written").as_ref().to_vec()
    }

    /// What a 1.36 or 1.37 kubelet sends: a PKCS#10 request that names nothing.
    pub fn stub_request(&self) -> Vec<u8> {
        self.request_naming(&der(0x30, &[]), &[])
    }

    /// The same with any subject and attributes (both in DER), as only an attacker or a careless client makes it.
    pub fn request_naming(&self, subject: &[u8], attributes: &[u8]) -> Vec<u8> {
        let version = der(0x02, &[0]);
        let info = der(0x30, &[&version[..], subject, &self.public(), &der(0xa0, attributes)].concat());
        let signature = [&[0][..], &self.sign_request(&info)].concat();
        der(0x30, &[info, self.request_algorithm(), der(0x03, &signature)].concat())
    }

    /// What a 1.35 kubelet sends beside the public key: a signature of the pod's UID.
    pub fn proof(&self, pod_uid: &str) -> Vec<u8> {
        let message = pod_uid.as_bytes();
        match &self.pair {
            Pair::Ecdsa(pair) => ecdsa_over_sha256(self.key_type, pair, message),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(pair) => rsa(pair, &RSA_PSS_SHA256, message),
        }
    }

    fn sign_request(&self, info: &[u8]) -> Vec<u8> {
        match &self.pair {
            Pair::Ecdsa(pair) => pair.sign(&SystemRandom::new(), info).expect("a key can sign").as_ref().to_vec(),
            Pair::Ed25519(pair) => pair.sign(info).as_ref().to_vec(),
            Pair::Rsa(pair) => rsa(pair, &RSA_PKCS1_SHA256, info),
        }
    }

    /// The AlgorithmIdentifier of [`Key::sign_request`].
    fn request_algorithm(&self) -> Vec<u8> {
        const ECDSA_WITH_SHA2: [u8; 7] = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
        const SHA256_WITH_RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
        let ecdsa = |hash: u8| der(0x06, &[&ECDSA_WITH_SHA2[..], &[hash]].concat());
        let identifier = match self.key_type {
            KeyType::EcdsaP256 => ecdsa(2),
            KeyType::EcdsaP384 => ecdsa(3),
            KeyType::EcdsaP521 => ecdsa(4),
            KeyType::Ed25519 => der(0x06, &[0x2b, 0x65, 0x70]),
            KeyType::Rsa3072 | KeyType::Rsa4096 => [der(0x06, &SHA256_WITH_RSA), der(0x05, &[])].concat(),
        };
        der(0x30, &identifier)
    }
}

/// An elliptic curve key proves itself over SHA-256, whatever its curve. aws-lc-rs can do that for all but P-384.
fn ecdsa_over_sha256(key_type: KeyType, pair: &EcdsaKeyPair, message: &[u8]) -> Vec<u8> {
    let with = |algorithm: &'static EcdsaSigningAlgorithm| {
        let pkcs8 = pair.to_pkcs8v1().expect("a key can be written");
        let same = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).expect("the same curve");
        same.sign(&SystemRandom::new(), message).expect("a key can sign").as_ref().to_vec()
    };
    match key_type {
        KeyType::EcdsaP384 => {
            let scalar: EcPrivateKeyBin<'static> = pair.private_key().as_be_bytes().expect("a key can be written");
            let key = p384::ecdsa::SigningKey::from_slice(scalar.as_ref()).expect("a P-384 key");
            let hash = digest(&SHA256, message);
            let signature: p384::ecdsa::Signature = key.sign_prehash(hash.as_ref()).expect("a key can sign");
            signature.to_der().as_bytes().to_vec()
        }
        KeyType::EcdsaP521 => with(&ECDSA_P521_SHA256_ASN1_SIGNING),
        KeyType::EcdsaP256 | KeyType::Ed25519 | KeyType::Rsa3072 | KeyType::Rsa4096 => {
            with(&ECDSA_P256_SHA256_ASN1_SIGNING)
        }
    }
}

fn rsa(pair: &RsaKeyPair, padding: &'static dyn RsaEncoding, message: &[u8]) -> Vec<u8> {
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(padding, &SystemRandom::new(), message, &mut signature).expect("a key can sign");
    signature
}

/// The subject `CN=name`.
pub fn common_name(name: &str) -> Vec<u8> {
    let attribute = der(0x30, &[der(0x06, &[0x55, 0x04, 0x03]), der(0x0c, name.as_bytes())].concat());
    der(0x30, &der(0x31, &attribute))
}

/// One DER element.
pub fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
    let header = match content.len() {
        short @ 0..=127 => vec![tag, u8::try_from(short).expect("below 128")],
        _ => [&[tag, 0x80 | u8::try_from(length.len()).expect("at most 8")][..], length].concat(),
    };
    [&header[..], content].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::{FromDer as _, X509CertificationRequest};

    #[test]
    fn every_stub_request_names_nothing_and_carries_its_key() {
        for key_type in KeyType::ALL {
            let key = Key::make(key_type);
            let stub = key.stub_request();
            let (rest, request) = X509CertificationRequest::from_der(&stub).unwrap();
            assert!(rest.is_empty());
            let info = &request.certification_request_info;
            assert_eq!(info.subject.iter().count(), 0, "{key_type:?}");
            assert_eq!(info.subject_pki.raw, key.public(), "{key_type:?}");
        }
    }
}
