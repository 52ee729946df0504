//! Public keys of the six kinds that Kubernetes knows, and the proofs that somebody holds the private one.

use std::fmt;

use num_bigint::BigUint;
use p521::ecdsa::signature::hazmat::PrehashVerifier;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA384_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey,
    VerificationAlgorithm,
};
use serde::{Serialize, Serializer};
use x509_parser::{
    asn1_rs::Null,
    der_parser::{Oid, oid},
    prelude::{AlgorithmIdentifier, FromDer, SubjectPublicKeyInfo},
    public_key::{PublicKey as Parsed, RSAPublicKey},
};

use super::pss;
use crate::names::{PodUid, Sha256};

/// The kinds of key that a pod can ask its kubelet for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyType {
    /// RSA, 3072 bits.
    Rsa3072,
    /// RSA, 4096 bits.
    Rsa4096,
    /// ECDSA on P-256.
    EcdsaP256,
    /// ECDSA on P-384.
    EcdsaP384,
    /// ECDSA on P-521.
    EcdsaP521,
    /// Ed25519.
    Ed25519,
}

impl KeyType {
    /// All of them, as Kubernetes lists them.
    pub const ALL: [Self; 6] =
        [Self::Rsa3072, Self::Rsa4096, Self::EcdsaP256, Self::EcdsaP384, Self::EcdsaP521, Self::Ed25519];

    /// As in the `keyType` of a pod's volume.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rsa3072 => "RSA3072",
            Self::Rsa4096 => "RSA4096",
            Self::EcdsaP256 => "ECDSAP256",
            Self::EcdsaP384 => "ECDSAP384",
            Self::EcdsaP521 => "ECDSAP521",
            Self::Ed25519 => "ED25519",
        }
    }

    /// Reads a `keyType`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl Serialize for KeyType {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.as_str())
    }
}

/// A public key of a kind that we know.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: KeyType,
    spki: Box<[u8]>,
    hash: Sha256,
}

/// Why bytes are no public key that we can certify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadKey {
    /// No SubjectPublicKeyInfo.
    Garbage,
    /// One of another kind, or an RSA key of another size.
    Unsupported,
    /// An RSA key that no sound library makes.
    Weak,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo. That an elliptic point is on its curve is seen when the proof is verified.
    pub(super) fn parse(spki: &[u8]) -> Result<Self, BadKey> {
        let (rest, info) = SubjectPublicKeyInfo::from_der(spki).map_err(|_garbage| BadKey::Garbage)?;
        if !rest.is_empty() {
            return Err(BadKey::Garbage);
        }
        let kind = kind(spki, &info)?;
        Ok(Self { kind, spki: spki.into(), hash: Sha256::of(spki) })
    }

    /// A key that nobody has, for what would be decided of one of this kind. It cannot be certified: it has no bytes.
    pub(crate) fn of_nobody(kind: KeyType) -> Self {
        Self { kind, spki: Box::default(), hash: Sha256::of(&[]) }
    }

    /// The kind.
    pub fn kind(&self) -> KeyType {
        self.kind
    }

    /// The DER of the SubjectPublicKeyInfo.
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The SHA-256 of [`spki`](Self::spki): how the audit log and the rule of one key for one pod name a key.
    pub fn hash(&self) -> Sha256 {
        self.hash
    }

    /// Whether this key made `signature` over `message`, by the algorithm that a PKCS#10 request names. An algorithm that
    /// does not belong to the key is a "no".
    pub(super) fn signed(&self, algorithm: &AlgorithmIdentifier<'_>, message: &[u8], signature: &[u8]) -> bool {
        let oid = &algorithm.algorithm;
        match self.kind {
            KeyType::Rsa3072 | KeyType::Rsa4096 => {
                rsa_algorithm(oid).is_some_and(|with| self.verify(with, message, signature))
            }
            KeyType::EcdsaP256 if *oid == ECDSA_SHA256 => self.verify(&ECDSA_P256_SHA256_ASN1, message, signature),
            KeyType::EcdsaP256 if *oid == ECDSA_SHA384 => self.verify(&ECDSA_P256_SHA384_ASN1, message, signature),
            KeyType::EcdsaP384 if *oid == ECDSA_SHA256 => self.verify(&ECDSA_P384_SHA256_ASN1, message, signature),
            KeyType::EcdsaP384 if *oid == ECDSA_SHA384 => self.verify(&ECDSA_P384_SHA384_ASN1, message, signature),
            KeyType::EcdsaP521 => ecdsa_digest(oid).is_some_and(|digest| self.verify_p521(digest, message, signature)),
            KeyType::Ed25519 if *oid == ED25519_OID => self.verify(&ED25519, message, signature),
            KeyType::EcdsaP256 | KeyType::EcdsaP384 | KeyType::Ed25519 => false,
        }
    }

    /// Whether `proof` is what a kubelet of Kubernetes 1.35 sends along: a signature over the pod's UID.
    pub(super) fn possessed(&self, pod: &PodUid, proof: &[u8]) -> bool {
        let message = pod.as_str().as_bytes();
        match self.kind {
            KeyType::Rsa3072 | KeyType::Rsa4096 => {
                self.rsa().is_some_and(|(modulus, exponent)| pss::verify(&modulus, exponent, message, proof))
            }
            KeyType::EcdsaP256 => self.verify(&ECDSA_P256_SHA256_ASN1, message, proof),
            KeyType::EcdsaP384 => self.verify(&ECDSA_P384_SHA256_ASN1, message, proof),
            KeyType::EcdsaP521 => self.verify_p521(&ring::digest::SHA256, message, proof),
            KeyType::Ed25519 => self.verify(&ED25519, message, proof),
        }
    }

    fn verify(&self, with: &'static dyn VerificationAlgorithm, message: &[u8], signature: &[u8]) -> bool {
        self.raw().is_some_and(|raw| UnparsedPublicKey::new(with, raw).verify(message, signature).is_ok())
    }

    fn verify_p521(&self, digest: &'static ring::digest::Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let hash = ring::digest::digest(digest, message);
        // `p521` wants at least half a field element (33 bytes), and SHA-256 has 32. Zeros in front change no number.
        let mut padded = [0; P521_FIELD];
        padded.iter_mut().rev().zip(hash.as_ref().iter().rev()).for_each(|(to, from)| *to = *from);
        let key = self.raw().and_then(|raw| p521::ecdsa::VerifyingKey::from_sec1_bytes(&raw).ok());
        let signature = p521::ecdsa::Signature::from_der(signature).ok();
        key.zip(signature).is_some_and(|(key, signature)| key.verify_prehash(&padded, &signature).is_ok())
    }

    fn raw(&self) -> Option<Box<[u8]>> {
        let (_, info) = SubjectPublicKeyInfo::from_der(&self.spki).ok()?;
        Some(info.subject_public_key.data.as_ref().into())
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum, of which one counts")]
    fn rsa(&self) -> Option<(BigUint, u64)> {
        let (_, info) = SubjectPublicKeyInfo::from_der(&self.spki).ok()?;
        match info.parsed().ok()? {
            Parsed::RSA(key) => Some((BigUint::from_bytes_be(key.modulus), key.try_exponent().ok()?)),
            _ => None,
        }
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, spki: _, hash } = self;
        write!(out, "PublicKey({kind} {hash})")
    }
}

/// Compares the elliptic kinds byte by byte with the one DER form that each of them has, since Go's parser, which will read the
/// leaf, takes no other (no compressed points, no parameters spelled out).
fn kind(spki: &[u8], info: &SubjectPublicKeyInfo<'_>) -> Result<KeyType, BadKey> {
    let fixed = FIXED.iter().find(|(_, prefix, length)| spki.len() == *length && spki.starts_with(prefix));
    if let Some((kind, _, _)) = fixed {
        return Ok(*kind);
    }
    match info.parsed() {
        Ok(Parsed::RSA(key)) => rsa_kind(info, &key),
        Ok(_) => Err(BadKey::Unsupported),
        Err(_) => Err(BadKey::Garbage),
    }
}

/// The API server compares the length of the modulus in whole bytes; so do we. Go takes exponents of up to 31 bits.
fn rsa_kind(info: &SubjectPublicKeyInfo<'_>, key: &RSAPublicKey<'_>) -> Result<KeyType, BadKey> {
    let null = info.algorithm.parameters.as_ref().is_some_and(|parameters| Null::try_from(parameters.clone()).is_ok());
    let modulus = BigUint::from_bytes_be(key.modulus);
    let exponent = key.try_exponent().unwrap_or(0);
    let kind = match modulus.bits().div_ceil(8) {
        384 => KeyType::Rsa3072,
        512 => KeyType::Rsa4096,
        _ => return Err(BadKey::Unsupported),
    };
    if !null {
        return Err(BadKey::Garbage);
    }
    if !modulus.bit(0) || exponent & 1 == 0 || !(65_537..1 << 31).contains(&exponent) {
        return Err(BadKey::Weak);
    }
    Ok(kind)
}

fn rsa_algorithm(oid: &Oid<'_>) -> Option<&'static dyn VerificationAlgorithm> {
    match oid {
        oid if *oid == RSA_SHA256 => Some(&RSA_PKCS1_2048_8192_SHA256),
        oid if *oid == RSA_SHA384 => Some(&RSA_PKCS1_2048_8192_SHA384),
        oid if *oid == RSA_SHA512 => Some(&RSA_PKCS1_2048_8192_SHA512),
        _ => None,
    }
}

fn ecdsa_digest(oid: &Oid<'_>) -> Option<&'static ring::digest::Algorithm> {
    match oid {
        oid if *oid == ECDSA_SHA256 => Some(&ring::digest::SHA256),
        oid if *oid == ECDSA_SHA384 => Some(&ring::digest::SHA384),
        oid if *oid == ECDSA_SHA512 => Some(&ring::digest::SHA512),
        _ => None,
    }
}

const P521_FIELD: usize = 66;

const RSA_SHA256: Oid<'static> = oid!(1.2.840.113549.1.1.11);
const RSA_SHA384: Oid<'static> = oid!(1.2.840.113549.1.1.12);
const RSA_SHA512: Oid<'static> = oid!(1.2.840.113549.1.1.13);
const ECDSA_SHA256: Oid<'static> = oid!(1.2.840.10045.4.3.2);
const ECDSA_SHA384: Oid<'static> = oid!(1.2.840.10045.4.3.3);
const ECDSA_SHA512: Oid<'static> = oid!(1.2.840.10045.4.3.4);
const ED25519_OID: Oid<'static> = oid!(1.3.101.112);

/// How the SubjectPublicKeyInfo of each kind but RSA begins, up to the byte that says "uncompressed point", and how long it is.
const FIXED: [(KeyType, &[u8], usize); 4] = [
    (
        KeyType::EcdsaP256,
        b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04",
        91,
    ),
    (
        KeyType::EcdsaP384,
        b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00\x04",
        120,
    ),
    (
        KeyType::EcdsaP521,
        b"\x30\x81\x9b\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x23\x03\x81\x86\x00\x04",
        158,
    ),
    (KeyType::Ed25519, b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", 44),
];

#[cfg(test)]
mod tests {
    use aws_lc_rs::{
        rand::SystemRandom,
        signature::{
            ECDSA_P521_SHA256_ASN1_SIGNING, ECDSA_P521_SHA384_ASN1_SIGNING, EcdsaKeyPair, RSA_PKCS1_SHA384,
            RSA_PKCS1_SHA512,
        },
    };
    use base64::{Engine, prelude::BASE64_STANDARD};

    use super::*;
    use crate::pipeline::honest::{POD_UID, RSA_KEY, TestKey, der};

    fn decode(text: &str) -> Vec<u8> {
        BASE64_STANDARD.decode(text).unwrap()
    }

    #[test]
    fn what_go_signs_for_a_kubelet_of_1_35_is_a_proof() {
        let (pod, other) = (PodUid::parse(POD_UID).unwrap(), PodUid::parse("another").unwrap());
        for (kind, spki, proof) in PROOFS {
            let (key, proof) = (PublicKey::parse(&decode(spki)).unwrap(), decode(proof));
            assert_eq!(key.kind(), kind);
            assert!(key.possessed(&pod, &proof), "{kind}");
            assert!(!key.possessed(&other, &proof), "{kind} for another pod");
            for place in [0, proof.len() / 2, proof.len() - 1] {
                let mut torn = proof.clone();
                torn[place] ^= 1;
                assert!(!key.possessed(&pod, &torn), "{kind} with byte {place} changed");
            }
            assert!(!key.possessed(&pod, &proof[1..]), "{kind}, cut");
            assert!(!key.possessed(&pod, &[]), "{kind}, empty");
        }
    }

    #[test]
    fn a_proof_belongs_to_one_key() {
        let pod = PodUid::parse(POD_UID).unwrap();
        for (kind, spki, _) in PROOFS {
            for (other, _, proof) in PROOFS {
                let key = PublicKey::parse(&decode(spki)).unwrap();
                assert_eq!(key.possessed(&pod, &decode(proof)), kind == other, "{kind} with the proof of {other}");
            }
        }
    }

    /// What a PKCS#10 request may be signed with: an algorithm of its key, and the very one that it names.
    #[test]
    fn a_signature_counts_by_the_algorithm_that_made_it_and_by_no_other() {
        let mut made = OTHER_DIGESTS.map(|(oid, spki, signature)| (oid, decode(spki), decode(signature))).to_vec();
        for (kind, oid) in [
            (KeyType::EcdsaP256, ECDSA_SHA256),
            (KeyType::EcdsaP384, ECDSA_SHA384),
            (KeyType::EcdsaP521, ECDSA_SHA512),
            (KeyType::Ed25519, ED25519_OID),
        ] {
            let key = TestKey::new(kind);
            made.push((oid, key.spki(), key.sign(MESSAGE).1));
        }
        for (oid, with) in
            [(ECDSA_SHA256, &ECDSA_P521_SHA256_ASN1_SIGNING), (ECDSA_SHA384, &ECDSA_P521_SHA384_ASN1_SIGNING)]
        {
            let key = TestKey::Ecdsa(&[], EcdsaKeyPair::generate(with).unwrap());
            made.push((oid, key.spki(), key.sign(MESSAGE).1));
        }
        let TestKey::Rsa(pair) = &*RSA_KEY else { panic!("it is an RSA key") };
        made.push((RSA_SHA256, RSA_KEY.spki(), RSA_KEY.sign(MESSAGE).1));
        for (oid, with) in [(RSA_SHA384, &RSA_PKCS1_SHA384), (RSA_SHA512, &RSA_PKCS1_SHA512)] {
            let mut signature = vec![0; pair.public_modulus_len()];
            pair.sign(with, &SystemRandom::new(), MESSAGE, &mut signature).unwrap();
            made.push((oid, RSA_KEY.spki(), signature));
        }
        let all = [RSA_SHA256, RSA_SHA384, RSA_SHA512, ECDSA_SHA256, ECDSA_SHA384, ECDSA_SHA512, ED25519_OID];
        for (oid, spki, signature) in &made {
            let key = PublicKey::parse(spki).unwrap();
            for named in &all {
                let algorithm = AlgorithmIdentifier { algorithm: named.clone(), parameters: None };
                let counts = key.signed(&algorithm, MESSAGE, signature);
                assert_eq!(counts, named == oid, "{} signed with {oid}, named {named}", key.kind());
                assert!(!key.signed(&algorithm, b"something else", signature));
            }
        }
    }

    #[test]
    fn keys_of_other_kinds_are_unsupported() {
        // An RSA key of 2048 bits, X25519, and P-256 as a compressed point.
        let modulus = [&[0x00, 0xc1][..], &[0x55; 254], &[0x01]].concat();
        let body = der(0x30, &[&der(0x02, &[&modulus]), &der(0x02, &[&[1, 0, 1]])]);
        assert_eq!(PublicKey::parse(&rsa(&body)).unwrap_err(), BadKey::Unsupported);
        let x25519 = [&[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x6e, 0x03, 0x21, 0x00][..], &[7; 32]].concat();
        assert_eq!(PublicKey::parse(&x25519).unwrap_err(), BadKey::Unsupported);
    }

    #[test]
    fn weak_rsa_keys_are_told_apart() {
        let with = |last: u8, exponent: &[u8]| {
            let modulus = [&[0x00, 0xc1][..], &[0x55; 382], &[last]].concat();
            let body = der(0x30, &[&der(0x02, &[&modulus]), &der(0x02, &[exponent])]);
            PublicKey::parse(&rsa(&body)).map(|key| key.kind())
        };
        assert_eq!(with(1, &[1, 0, 1]), Ok(KeyType::Rsa3072));
        assert_eq!(with(2, &[1, 0, 1]), Err(BadKey::Weak), "an even modulus");
        assert_eq!(with(1, &[3]), Err(BadKey::Weak), "a small exponent");
        assert_eq!(with(1, &[1, 0, 2]), Err(BadKey::Weak), "an even exponent");
        assert_eq!(with(1, &[0x7f, 0xff, 0xff, 0xff]), Ok(KeyType::Rsa3072), "the greatest that Go takes");
        assert_eq!(with(1, &[0x00, 0x80, 0, 0, 1]), Err(BadKey::Weak), "one that Go does not take");
    }

    #[test]
    fn trailing_bytes_are_garbage() {
        for key in [&*RSA_KEY, &TestKey::new(KeyType::Ed25519)] {
            assert!(PublicKey::parse(&key.spki()).is_ok());
            assert_eq!(PublicKey::parse(&[key.spki(), vec![0]].concat()).unwrap_err(), BadKey::Garbage);
        }
    }

    fn rsa(body: &[u8]) -> Vec<u8> {
        let algorithm = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
        der(0x30, &[algorithm, &der(0x03, &[&[0], body])])
    }

    const MESSAGE: &[u8] = b"signed by another digest than its curve's";

    /// Made once with Go 1.26 (`ecdsa.SignASN1` of [`MESSAGE`]), for the libraries at hand do not sign so. No private key was kept.
    const OTHER_DIGESTS: [(Oid<'static>, &str, &str); 2] = [
        (
            ECDSA_SHA384,
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8+Qkn3wD9bUgUgrdfHxUAbPbSoT/krSu9kyIssgCT9LD6P7jg7BOxdTz57CfmtH/\
             xp4VUJExD7zQOzvk7vdqXQ==",
            "MEYCIQDSL6WaowK9VfGpXYn6QO0k6VQKT9+xMottXucQLBvmlAIhAKBZohi7O6pf/fds6+xIsH0e3j/H44jSrQk4xJF9Bu93",
        ),
        (
            ECDSA_SHA256,
            "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAELJJ31KZhPH2v/6RktjhgYCEkDp4QtcT2ZCu24nqTzA9Ju37YEmUsALPe2v1czbnt8svy\
             J80Nk9VYynoZEbilNa6GYpbbU8BN2Ahqj4n4F4VcTi0q3vs2CBB3REs/PVY0",
            "MGUCMQD97EucnuD5iry8/AjApKLoEVLYahoHfqitxLkjYLDdmIL0fV959VXZkXBSVlcqHCsCMASfmvgZ1Qc2nQwQqAmJGmSYwPI0\
             6pXPsTV490FBHi1W4kDyAciHqJhJfTM+8BW8YA==",
        ),
    ];

    /// Made once with Go 1.26, as kubelets of 1.35 do it: `rsa.SignPSS` with no options, `ecdsa.SignASN1` over SHA-256,
    /// `ed25519.Sign`. Public keys and signatures only; no private key was kept.
    const PROOFS: [(KeyType, &str, &str); 5] = [
        (
            KeyType::Rsa3072,
            "MIIBojANBgkqhkiG9w0BAQEFAAOCAY8AMIIBigKCAYEAzZ1LPywfK4xocw7CQZUYai2OaqIyKulInMnEmNd5nwPaSyGi87dfL+WX\
             T25s59heGoEwGrG1ClqKf++Faju90dcdNAlcRgwQMwpMJMDGP3+VhUqnONQRQmM+nVPI8FhEgIq1RyGPKl5nplnY9ZDLSs/tyl+C\
             0uXx8hPdIgcfCGlK8H8ejIXsyRseo7D1d6JL0S9AP3ZSFhkT1gWM7PEXeKpd2iDQL+LUFw/u1FreKiy42Wx2zeKhaSDR2ef35lfE\
             /V0OVsiyqDG4p3Fp0l9Wa4r0pGrbO/mHzjHmxyb84qwakO7sovnXG7OKwbYFRDS7CBtURBB7la0022EW0N1IKWTELOEnmPIeEHkW\
             jUU6duR6ttkRs0HHBUyF/a3i56TxSQDg1YFwYGIdvSRR0d9gRDrdJAIQfouumAxbbBw15GFUt0zAZVLVbFOmBtqTdrfNjZwBqcbe\
             PfSwCXqgfvv1AwSQ3cnR1+q7bLDSEG/RipIl1rOpmkGJdpVFv//z/EpJAgMBAAE=",
            "nJkH0ExYFBuEq8/cfUE2AjzeRDpMDBUzOC07dmPqpjfeploPNSr52JXn1ycwQ1K/F5vSK1QoUzZfq7NKyaHS3i4/woUs29Pb94uB\
             l4o/zQ5lzd9TNxu0p4VW1MCofFL/xGeLcM2PeA48wciTosDvs2Ta8b67G4kYMzDljodLH5FoFBLn77ylL1BLPtmbS0G5IaFg2HuI\
             jMqfL1MsaiHOvVPsksHpq8MVTAKJ+TIuDnjWRTrr/I/jQ6ol8l48dV5fmCA/MQvGDxJCuhKmVnQ4TszRkz5f0RwHumXECM9IUrnv\
             On7KK/LM2IAPGnkQhruorV5WcnSGhzo48tbwp7X0OIpppXD5a4ZdmFWPjUVz6PlujsWTzUiT9pptJyoJ1RiwgT6nYNkcnt+H3O32\
             V3RomDi5c5ZjzXxr3Fg5oEO3Qboj5v6CB86r2A9vgfEFCqProIVzH3tMbMRi+F/HGoSDxSbyFntX92v2bY4WbRCA/GWKrPRfaptR\
             EVCRERcRJNpw",
        ),
        (
            KeyType::EcdsaP256,
            "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEbktLryULgZyaRle+nJ1pmqB/C5lsykE/UUp7HHjJom04Wc29OauoO5XdojP6TX2q\
             OfMxjYm81If22TUVn1ih/A==",
            "MEQCIGCtEh/SBKyS1R9/FdIDWFrKGmBlpLFMnysRvztABztaAiBW8lvk9tUEojxVp373L3J86y6DzLlsH3GSx6QO2dkWug==",
        ),
        (
            KeyType::EcdsaP384,
            "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEnqNhYrvhL6iLdWKz2q66WbKdfThpRq8rvHxchmpeDhRF5MNSiyss5A4NACS1+195TEQu\
             ZxbrRzH/gWPtpMiK1MSA48SXmbHoobWyrsQ8UT4MbzEDgZlJzc222NJ5oa2Y",
            "MGQCMB5OcyJOexLrQ8bVC3v2h1G9nyNV2j1rQVD7JqDDHFghmFl7zE6bwcddtG7XwAbgNQIwPodLwpIUjbrmOjbXF2MpHSeujhc2\
             s/S0k63sDfIYM9L2iWkq7JenrKVIijVzJ87B",
        ),
        (
            KeyType::EcdsaP521,
            "MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQBrcPlKYEnZ7tf0Q7Pbjx3nR9g3jsLoABJZyDi1NlrcHV+4RfA9oMkbcBVb+JRbxDb\
             Rx/UICDEAgTLYFOCD34ONmUAleDKsANlJhMQww/ABvoqYQ63fZiKdf0TqNKYWTtzGBSxilnwL1qY3ICYJMQreRGJfm9P180+AkS2\
             mLnrQnu8Mi8=",
            "MIGGAkF4XTTrdxnek3V0/PqzSnTOkGj8v1MD+DvMuTsDu7ljKl4l+6ML83iLlQIvBsNBy9om7b5oyO49uf5eyOjNPCE+jgJBNqNG\
             kv7AwjlzzbzZk6lCcBBDFOwLyvZc9EsDSu0HeE3CZemfD3kBQ9eawYqxATZWYJZ9ymHX1sPckeCago7CYSM=",
        ),
        (
            KeyType::Ed25519,
            "MCowBQYDK2VwAyEApK5vq70nN1U0nUjYa3Gaev2FvBqLzWuNsIp3fVc7ORA=",
            "GWnuPN2l8/xhFVeG7tnVAgTl0IBuBQvZWGU6hUPXHizBj8XmQs7DBHTVyMkeo2/2H+nNtAW1TAl8azbk03pGDA==",
        ),
    ];
}
