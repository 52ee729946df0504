//! Public keys and the signatures that prove them, held to what Go's `crypto/x509` and the API server take.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{self, ParsedPublicKey, UnparsedPublicKey, VerificationAlgorithm};
use num_bigint::BigUint;
use p384::ecdsa::signature::hazmat::PrehashVerifier;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_NIST_EC_P521, OID_PKCS1_RSAENCRYPTION,
    OID_SIG_ED25519, Oid,
};
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
use x509_parser::public_key::RSAPublicKey;

/// A public key of a sort that Go knows. Equal keys compare equal however they were encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PublicKey {
    Ed25519(Vec<u8>),
    Ecdsa(Curve, Vec<u8>),
    Rsa {
        modulus: BigUint,
        exponent: BigUint,
        der: Vec<u8>,
    },
    /// Go parses it, the API server does not take it: another curve, X25519, DSA.
    Other(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

/// Why a key is no good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeyFault {
    /// Go cannot parse it.
    Malformed,
    /// An algorithm Go does not know.
    Unknown,
}

impl PublicKey {
    /// Reads a DER SubjectPublicKeyInfo with nothing behind it.
    pub(crate) fn from_der(der: &[u8]) -> Result<Self, KeyFault> {
        match SubjectPublicKeyInfo::from_der(der) {
            Ok(([], spki)) => Self::from_spki(&spki),
            Ok(_) | Err(_) => Err(KeyFault::Malformed),
        }
    }

    pub(crate) fn from_spki(spki: &SubjectPublicKeyInfo<'_>) -> Result<Self, KeyFault> {
        let oid = &spki.algorithm.algorithm;
        let data = spki.subject_public_key.data.as_ref();
        let parameters = spki.algorithm.parameters.as_ref();
        if *oid == OID_SIG_ED25519 {
            let good = parameters.is_none() && data.len() == 32;
            return if good { Ok(Self::Ed25519(data.to_vec())) } else { Err(KeyFault::Malformed) };
        }
        if *oid == OID_PKCS1_RSAENCRYPTION {
            let null = parameters.is_some_and(|any| any.tag().0 == 5 && any.data.is_empty());
            return if null { rsa(data) } else { Err(KeyFault::Malformed) };
        }
        if *oid == OID_KEY_TYPE_EC_PUBLIC_KEY {
            let curve = parameters.and_then(|any| any.as_oid().ok()).ok_or(KeyFault::Malformed)?;
            return ec(&curve, data);
        }
        Err(KeyFault::Unknown)
    }

    /// Whether the API server takes a key of this sort; if not, its words for it.
    pub(crate) fn refusal(&self) -> Option<(String, &'static str)> {
        match self {
            Self::Ed25519(_) | Self::Ecdsa(..) => None,
            Self::Rsa { modulus, .. } => {
                let bits = modulus.bits().div_ceil(8).saturating_mul(8);
                (bits != 3072 && bits != 4096)
                    .then(|| (format!("{bits}-bit modulus"), "RSA keys must have modulus size 3072 or 4096"))
            }
            Self::Other(name) => Some(((*name).to_owned(), "")),
        }
    }

    /// Whether `signature` over `message` was made with this key and the signature algorithm a PKCS#10 names.
    pub(crate) fn signed(&self, algorithm: &Oid<'_>, message: &[u8], proof: &[u8]) -> bool {
        let name = algorithm.to_id_string();
        match (self, name.as_str()) {
            (Self::Ed25519(key), "1.3.101.112") => verify(&signature::ED25519, key, message, proof),
            (Self::Ecdsa(curve, key), "1.2.840.10045.4.3.2") => ecdsa_sha256(*curve, key, message, proof),
            (Self::Ecdsa(curve, key), "1.2.840.10045.4.3.3") => ecdsa_sha384(*curve, key, message, proof),
            (Self::Ecdsa(curve, key), "1.2.840.10045.4.3.4") => ecdsa_sha512(*curve, key, message, proof),
            (Self::Rsa { der, .. }, "1.2.840.113549.1.1.11") => {
                verify(&signature::RSA_PKCS1_2048_8192_SHA256, der, message, proof)
            }
            (Self::Rsa { der, .. }, "1.2.840.113549.1.1.12") => {
                verify(&signature::RSA_PKCS1_2048_8192_SHA384, der, message, proof)
            }
            (Self::Rsa { der, .. }, "1.2.840.113549.1.1.13") => {
                verify(&signature::RSA_PKCS1_2048_8192_SHA512, der, message, proof)
            }
            // Go also reads PSS here, with a salt as long as the hash; no kubelet makes it.
            (Self::Rsa { der, .. }, "1.2.840.113549.1.1.10") => {
                verify(&signature::RSA_PSS_2048_8192_SHA256, der, message, proof)
            }
            (Self::Ed25519(_) | Self::Ecdsa(..) | Self::Rsa { .. } | Self::Other(_), _) => false,
        }
    }

    /// Whether `proof` is the proof of possession of 1.35: over the pod's UID, by the key's plainest means.
    pub(crate) fn proves(&self, pod_uid: &str, proof: &[u8]) -> bool {
        match self {
            Self::Ed25519(key) => verify(&signature::ED25519, key, pod_uid.as_bytes(), proof),
            Self::Ecdsa(curve, key) => ecdsa_sha256(*curve, key, pod_uid.as_bytes(), proof),
            Self::Rsa { modulus, exponent, .. } => super::pss::verify(modulus, exponent, pod_uid.as_bytes(), proof),
            Self::Other(_) => false,
        }
    }
}

fn rsa(data: &[u8]) -> Result<PublicKey, KeyFault> {
    // What follows the sequence within the bit string is ignored, as Go does.
    let Ok((_, key)) = RSAPublicKey::from_der(data) else { return Err(KeyFault::Malformed) };
    let number = |bytes: &[u8]| {
        let negative = bytes.first().is_none_or(|first| first & 0x80 != 0);
        let value = BigUint::from_bytes_be(bytes);
        (!negative && value.bits() > 0).then_some(value).ok_or(KeyFault::Malformed)
    };
    Ok(PublicKey::Rsa { modulus: number(key.modulus)?, exponent: number(key.exponent)?, der: data.to_vec() })
}

fn ec(curve: &Oid<'_>, data: &[u8]) -> Result<PublicKey, KeyFault> {
    let known = |curve: Curve, algorithm: &'static signature::EcdsaVerificationAlgorithm| {
        let uncompressed = data.first() == Some(&4);
        let on_curve = uncompressed && ParsedPublicKey::new(algorithm, data).is_ok();
        if on_curve { Ok(PublicKey::Ecdsa(curve, data.to_vec())) } else { Err(KeyFault::Malformed) }
    };
    if *curve == OID_EC_P256 {
        known(Curve::P256, &signature::ECDSA_P256_SHA256_ASN1)
    } else if *curve == OID_NIST_EC_P384 {
        known(Curve::P384, &signature::ECDSA_P384_SHA384_ASN1)
    } else if *curve == OID_NIST_EC_P521 {
        known(Curve::P521, &signature::ECDSA_P521_SHA512_ASN1)
    } else if curve.to_id_string() == "1.3.132.0.33" {
        Ok(PublicKey::Other("curve P-224"))
    } else {
        Err(KeyFault::Malformed)
    }
}

fn verify<A: VerificationAlgorithm>(algorithm: &'static A, key: &[u8], message: &[u8], proof: &[u8]) -> bool {
    UnparsedPublicKey::new(algorithm, key).verify(message, proof).is_ok()
}

fn ecdsa_sha256(curve: Curve, key: &[u8], message: &[u8], proof: &[u8]) -> bool {
    match curve {
        Curve::P256 => verify(&signature::ECDSA_P256_SHA256_ASN1, key, message, proof),
        Curve::P384 => {
            let hash = digest(&SHA256, message);
            let Ok(key) = p384::ecdsa::VerifyingKey::from_sec1_bytes(key) else { return false };
            p384::ecdsa::Signature::from_der(proof).is_ok_and(|proof| key.verify_prehash(hash.as_ref(), &proof).is_ok())
        }
        Curve::P521 => verify(&signature::ECDSA_P521_SHA256_ASN1, key, message, proof),
    }
}

fn ecdsa_sha384(curve: Curve, key: &[u8], message: &[u8], proof: &[u8]) -> bool {
    match curve {
        Curve::P256 => verify(&signature::ECDSA_P256_SHA384_ASN1, key, message, proof),
        Curve::P384 => verify(&signature::ECDSA_P384_SHA384_ASN1, key, message, proof),
        Curve::P521 => verify(&signature::ECDSA_P521_SHA384_ASN1, key, message, proof),
    }
}

fn ecdsa_sha512(curve: Curve, key: &[u8], message: &[u8], proof: &[u8]) -> bool {
    match curve {
        Curve::P256 => verify(&signature::ECDSA_P256_SHA512_ASN1, key, message, proof),
        Curve::P384 => verify(&signature::ECDSA_P384_SHA512_ASN1, key, message, proof),
        Curve::P521 => verify(&signature::ECDSA_P521_SHA512_ASN1, key, message, proof),
    }
}
