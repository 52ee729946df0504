//! Fresh keys of the six types, and what proves them: an empty PKCS#10 as Go makes it, or the proof of 1.35.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::encoding::{AsBigEndian, AsDer, EcPrivateKeyBin, Pkcs8V1Der};
use aws_lc_rs::rand::{SystemRandom, fill};
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA256_ASN1_SIGNING,
    ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use num_bigint::BigUint;
use p384::ecdsa::signature::hazmat::PrehashSigner;

use super::der::{self, bit_string, null, oid, read, sequence};
use crate::rules::pss;

/// A new private key with its ways to prove itself. Has no `Debug`: nothing may print it.
pub(crate) struct FreshKey {
    pair: Pair,
    pkcs8: Vec<u8>,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa(Curve, EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

#[derive(Clone, Copy)]
enum Curve {
    P256,
    P384,
    P521,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyError {
    #[error("unknown key type {0:?}")]
    Unknown(String),
    #[error("the cryptographic library failed: {0}")]
    Library(String),
}

impl From<aws_lc_rs::error::Unspecified> for KeyError {
    fn from(cause: aws_lc_rs::error::Unspecified) -> Self {
        library(cause)
    }
}

fn library(cause: impl std::fmt::Display) -> KeyError {
    KeyError::Library(cause.to_string())
}

impl FreshKey {
    /// Makes a key of the type a pod asks for. RSA takes a while.
    pub(crate) fn generate(key_type: &str) -> Result<Self, KeyError> {
        match key_type {
            "ED25519" => {
                let pair = Ed25519KeyPair::generate()?;
                let pkcs8 = pair.to_pkcs8v1()?.as_ref().to_vec();
                Ok(Self { pair: Pair::Ed25519(pair), pkcs8 })
            }
            "ECDSAP256" => Self::ecdsa(Curve::P256),
            "ECDSAP384" => Self::ecdsa(Curve::P384),
            "ECDSAP521" => Self::ecdsa(Curve::P521),
            "RSA3072" => Self::rsa(KeySize::Rsa3072),
            "RSA4096" => Self::rsa(KeySize::Rsa4096),
            other => Err(KeyError::Unknown(other.to_owned())),
        }
    }

    fn ecdsa(curve: Curve) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(curve.signing())?;
        let pkcs8 = pair.to_pkcs8v1()?.as_ref().to_vec();
        Ok(Self { pair: Pair::Ecdsa(curve, pair), pkcs8 })
    }

    fn rsa(size: KeySize) -> Result<Self, KeyError> {
        let pair = RsaKeyPair::generate(size)?;
        let encoded: Pkcs8V1Der<'_> = AsDer::<Pkcs8V1Der<'_>>::as_der(&pair)?;
        let pkcs8 = encoded.as_ref().to_vec();
        Ok(Self { pair: Pair::Rsa(pair), pkcs8 })
    }

    /// One `PRIVATE KEY` block, PKCS#8, as Go writes it.
    pub(crate) fn pem(&self) -> String {
        der::pem("PRIVATE KEY", &self.pkcs8)
    }

    /// DER SubjectPublicKeyInfo.
    pub(crate) fn public(&self) -> Vec<u8> {
        match &self.pair {
            Pair::Ed25519(pair) => {
                sequence(&[sequence(&[oid(&[43, 101, 112])]), bit_string(pair.public_key().as_ref())])
            }
            Pair::Ecdsa(curve, pair) => {
                let algorithm = sequence(&[oid(EC_KEY), oid(curve.oid())]);
                sequence(&[algorithm, bit_string(pair.public_key().as_ref())])
            }
            Pair::Rsa(pair) => sequence(&[sequence(&[oid(RSA_KEY), null()]), bit_string(pair.public_key().as_ref())]),
        }
    }

    /// A PKCS#10 with nothing in it, as Go makes it from an empty template: no subject, an empty attribute set.
    pub(crate) fn stub(&self) -> Result<Vec<u8>, KeyError> {
        let info = sequence(&[der::integer(&[0]), sequence(&[]), self.public(), der::tagged(0xa0, &[])]);
        let (algorithm, signature) = match &self.pair {
            Pair::Ed25519(pair) => (sequence(&[oid(&[43, 101, 112])]), pair.sign(&info).as_ref().to_vec()),
            Pair::Ecdsa(curve, pair) => {
                (sequence(&[oid(curve.signature_oid())]), pair.sign(&SystemRandom::new(), &info)?.as_ref().to_vec())
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &info, &mut signature)?;
                (sequence(&[oid(RSA_SHA256), null()]), signature)
            }
        };
        Ok(sequence(&[info, algorithm, bit_string(&signature)]))
    }

    /// The proof of possession of 1.35, over the pod's UID.
    pub(crate) fn proof(&self, pod_uid: &str) -> Result<Vec<u8>, KeyError> {
        let message = pod_uid.as_bytes();
        match &self.pair {
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::Ecdsa(Curve::P256, pair) => Ok(pair.sign(&SystemRandom::new(), message)?.as_ref().to_vec()),
            // These two curves over SHA-256: not what the curve's own signature algorithm does.
            Pair::Ecdsa(Curve::P384, pair) => {
                let scalar: EcPrivateKeyBin<'_> = pair.private_key().as_be_bytes()?;
                let key = p384::ecdsa::SigningKey::from_slice(scalar.as_ref()).map_err(library)?;
                let hash = digest(&SHA256, message);
                let signature: p384::ecdsa::Signature = key.sign_prehash(hash.as_ref()).map_err(library)?;
                Ok(signature.to_der().as_bytes().to_vec())
            }
            Pair::Ecdsa(Curve::P521, _) => {
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P521_SHA256_ASN1_SIGNING, &self.pkcs8).map_err(library)?;
                Ok(pair.sign(&SystemRandom::new(), message)?.as_ref().to_vec())
            }
            Pair::Rsa(_) => self.salted_proof(message).ok_or_else(|| library("an RSA key could not be read back")),
        }
    }

    /// RSA-PSS with the longest salt, as Go does when told nothing.
    fn salted_proof(&self, message: &[u8]) -> Option<Vec<u8>> {
        let (_, inner, _) = read(&self.pkcs8)?;
        let (_, _, rest) = read(inner)?;
        let (_, _, rest) = read(rest)?;
        let (_, octets, _) = read(rest)?;
        let (_, numbers, _) = read(octets)?;
        let (_, _, rest) = read(numbers)?;
        let (_, modulus, rest) = read(rest)?;
        let (_, _, rest) = read(rest)?;
        let (_, private, _) = read(rest)?;
        let (modulus, private) = (BigUint::from_bytes_be(modulus), BigUint::from_bytes_be(private));
        let salt = |length| {
            let mut salt = vec![0; length];
            if fill(&mut salt).is_err() {
                tracing::error!("the system gives no random bytes");
            }
            salt
        };
        pss::sign(&modulus, &private, message, salt)
    }
}

impl Curve {
    const fn signing(self) -> &'static EcdsaSigningAlgorithm {
        match self {
            Self::P256 => &ECDSA_P256_SHA256_ASN1_SIGNING,
            Self::P384 => &ECDSA_P384_SHA384_ASN1_SIGNING,
            Self::P521 => &ECDSA_P521_SHA512_ASN1_SIGNING,
        }
    }

    const fn oid(self) -> &'static [u8] {
        match self {
            Self::P256 => &[42, 134, 72, 206, 61, 3, 1, 7],
            Self::P384 => &[43, 129, 4, 0, 34],
            Self::P521 => &[43, 129, 4, 0, 35],
        }
    }

    /// ecdsa-with-SHA256, -SHA384, -SHA512: what Go chooses for the curve.
    const fn signature_oid(self) -> &'static [u8] {
        match self {
            Self::P256 => &[42, 134, 72, 206, 61, 4, 3, 2],
            Self::P384 => &[42, 134, 72, 206, 61, 4, 3, 3],
            Self::P521 => &[42, 134, 72, 206, 61, 4, 3, 4],
        }
    }
}

const EC_KEY: &[u8] = &[42, 134, 72, 206, 61, 2, 1];
const RSA_KEY: &[u8] = &[42, 134, 72, 134, 247, 13, 1, 1, 1];
const RSA_SHA256: &[u8] = &[42, 134, 72, 134, 247, 13, 1, 1, 11];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::key::PublicKey;
    use crate::rules::x509::certification_request;

    const ALL: [&str; 6] = ["ED25519", "ECDSAP256", "ECDSAP384", "ECDSAP521", "RSA3072", "RSA4096"];

    #[test]
    fn every_key_type_proves_itself_in_both_ways() {
        for key_type in ALL {
            let key = FreshKey::generate(key_type).unwrap();
            let request = certification_request(&key.stub().unwrap()).unwrap();
            assert!(request.signature_good, "{key_type}");
            let public = PublicKey::from_der(&key.public()).unwrap();
            assert_eq!(request.key.as_ref(), Some(&public), "{key_type}");
            assert_eq!(public.refusal(), None, "{key_type}");
            let proof = key.proof("uid-1").unwrap();
            assert!(public.proves("uid-1", &proof), "{key_type}");
            assert!(!public.proves("uid-2", &proof), "{key_type}");
        }
    }

    #[test]
    fn a_changed_request_does_not_verify() {
        for key_type in ["ED25519", "ECDSAP256", "RSA3072"] {
            let mut stub = FreshKey::generate(key_type).unwrap().stub().unwrap();
            *stub.last_mut().unwrap() ^= 1;
            assert!(!certification_request(&stub).unwrap().signature_good, "{key_type}");
        }
    }

    #[test]
    fn the_private_key_is_written_as_go_writes_it() {
        let ed25519 = FreshKey::generate("ED25519").unwrap();
        // Version 0, the algorithm, the seed in two octet strings, and no public key.
        assert_eq!(ed25519.pkcs8.len(), 48);
        assert_eq!(ed25519.pkcs8[..16], [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20]);
        for (key_type, length) in [("ECDSAP256", 138), ("ECDSAP384", 185), ("ECDSAP521", 241)] {
            let key = FreshKey::generate(key_type).unwrap();
            assert_eq!(key.pkcs8.len(), length, "{key_type}: with the public key, without the inner curve");
        }
        assert!(
            ed25519.pem().starts_with("-----BEGIN PRIVATE KEY-----\n")
                && ed25519.pem().ends_with("-----END PRIVATE KEY-----\n")
        );
    }

    #[test]
    fn the_request_has_the_shape_of_gos_empty_template() {
        let stub = FreshKey::generate("ED25519").unwrap().stub().unwrap();
        // version 0, empty subject, 44 bytes of public key, attributes [0] empty
        assert_eq!(stub[..9], [0x30, 0x7f, 0x30, 0x33, 2, 1, 0, 0x30, 0]);
        assert_eq!(stub[53..55], [0xa0, 0]);
    }

    #[test]
    fn an_unknown_key_type_is_an_error() {
        assert!(FreshKey::generate("DSA1024").is_err());
    }
}
