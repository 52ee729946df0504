//! The private key of a CA. It has no `Debug`, `Display`, `Clone` or `Serialize`; its bytes are wiped when it goes. (ring's own
//! copy of the number is not: ring has no way to.)

use pem::{LineEnding, Pem};
use rcgen::{
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, PublicKeyData, SignatureAlgorithm,
    SigningKey,
};
use ring::{
    error::KeyRejected,
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
        RSA_PKCS1_SHA256, RsaKeyPair,
    },
};
use zeroize::Zeroizing;

use super::load::LoadError;

/// A key that signs certificates: P-256 where we make it; P-256, P-384, Ed25519 or RSA where it is brought.
pub(super) struct CaKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: Pair,
    random: SystemRandom,
}

enum Pair {
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl CaKey {
    /// Makes a new one.
    pub(super) fn generate() -> Result<Self, rcgen::Error> {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random)
            .map_err(|_unspecified| rcgen::Error::RingUnspecified)?;
        Self::read(Zeroizing::new(pkcs8.as_ref().to_vec()))
            .map_err(|rejected| rcgen::Error::RingKeyRejected(rejected.to_string()))
    }

    /// Reads the one `PRIVATE KEY` block of a Secret's value.
    pub(super) fn parse(field: &'static str, pem: &[u8]) -> Result<Self, LoadError> {
        let block = pem::parse(pem).map_err(|_garbage| LoadError::KeyUnreadable(field))?;
        if block.tag() != PKCS8 {
            return Err(LoadError::KeyUnreadable(field));
        }
        Self::read(Zeroizing::new(block.into_contents())).map_err(|_rejected| LoadError::KeyUnreadable(field))
    }

    /// Reads the one key that somebody brings, in whichever of the three forms his tool writes it.
    pub(super) fn parse_brought(field: &'static str, pem: &[u8]) -> Result<Self, LoadError> {
        let unreadable = || LoadError::KeyUnreadable(field);
        let blocks = pem::parse_many(pem).map_err(|_garbage| unreadable())?;
        let is_encrypted =
            |block: &Pem| block.tag() == "ENCRYPTED PRIVATE KEY" || block.headers().get("DEK-Info").is_some();
        // `openssl ecparam -genkey` writes the name of the curve before the key.
        let mut blocks = blocks.into_iter().filter(|block| block.tag() != "EC PARAMETERS");
        let (Some(block), None) = (blocks.next(), blocks.next()) else { return Err(LoadError::NotOneKey(field)) };
        if is_encrypted(&block) {
            return Err(LoadError::KeyEncrypted(field));
        }
        let tag = block.tag().to_owned();
        let key = Zeroizing::new(block.into_contents());
        let kinds: &[&[u8]] = match tag.as_str() {
            PKCS8 => return Self::read(key).map_err(|_rejected| unreadable()),
            "RSA PRIVATE KEY" => &[RSA],
            "EC PRIVATE KEY" => &[P256, P384],
            _ => return Err(unreadable()),
        };
        let wrapped = kinds.iter().filter_map(|kind| wrap(kind, &key));
        wrapped.map(Self::read).find_map(Result::ok).ok_or_else(unreadable)
    }

    fn read(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, KeyRejected> {
        let random = SystemRandom::new();
        let ecdsa = |curve| EcdsaKeyPair::from_pkcs8(curve, &pkcs8, &random);
        let pair = ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map(Pair::P256)
            .or_else(|_other| ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING).map(Pair::P384))
            // Go writes no public key beside it. That it belongs to the certificate is held against that.
            .or_else(|_other| Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8).map(Pair::Ed25519))
            .or_else(|_other| RsaKeyPair::from_pkcs8(&pkcs8).map(Pair::Rsa))?;
        Ok(Self { pkcs8, pair, random })
    }

    /// The same key once more.
    pub(super) fn again(&self) -> Result<Self, KeyRejected> {
        Self::read(self.pkcs8.clone())
    }

    /// As it is kept in a Secret.
    pub(super) fn to_pem(&self) -> Zeroizing<String> {
        let config = pem::EncodeConfig::new().set_line_ending(LineEnding::LF);
        Zeroizing::new(pem::encode_config(&Pem::new(PKCS8, self.pkcs8.as_slice()), config))
    }

    /// What certificates say of its signatures: an `AlgorithmIdentifier`, in DER.
    pub(super) fn signs_with(&self) -> &'static [u8] {
        match self.pair {
            Pair::P256(_) => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02",
            Pair::P384(_) => b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03",
            Pair::Ed25519(_) => b"\x30\x05\x06\x03\x2b\x65\x70",
            Pair::Rsa(_) => b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00",
        }
    }
}

/// A key of before PKCS#8 as PKCS#8 has it: `SEQUENCE { INTEGER 0, kind, OCTET STRING }`.
fn wrap(kind: &[u8], key: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let octets = element(0x04, &[key])?;
    element(0x30, &[&[0x02, 0x01, 0x00], kind, &octets])
}

fn element(tag: u8, parts: &[&[u8]]) -> Option<Zeroizing<Vec<u8>>> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let [high, low] = u16::try_from(length).ok()?.to_be_bytes();
    // Made as long as it will be: whatever grows leaves copies of the key behind.
    let mut element = Zeroizing::new(Vec::with_capacity(length.checked_add(4)?));
    match (high, low) {
        (0, 0..=0x7f) => element.extend([tag, low]),
        (0, _) => element.extend([tag, 0x81, low]),
        (_, _) => element.extend([tag, 0x82, high, low]),
    }
    parts.iter().for_each(|part| element.extend_from_slice(part));
    Some(element)
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        match &self.pair {
            Pair::P256(pair) | Pair::P384(pair) => pair.public_key().as_ref(),
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
            Pair::Rsa(pair) => pair.public_key().as_ref(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self.pair {
            Pair::P256(_) => &PKCS_ECDSA_P256_SHA256,
            Pair::P384(_) => &PKCS_ECDSA_P384_SHA384,
            Pair::Ed25519(_) => &PKCS_ED25519,
            Pair::Rsa(_) => &PKCS_RSA_SHA256,
        }
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let failed = |_unspecified| rcgen::Error::RingUnspecified;
        match &self.pair {
            Pair::P256(pair) | Pair::P384(pair) => {
                Ok(pair.sign(&self.random, message).map_err(failed)?.as_ref().to_vec())
            }
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &self.random, message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
        }
    }
}

const PKCS8: &str = "PRIVATE KEY";

// The kinds of key as PKCS#8 names them.
const RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
const P256: &[u8] = b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const P384: &[u8] = b"\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";
