//! The private key of a CA. It has no `Debug`, `Display`, `Clone` or `Serialize`; its bytes are wiped when it goes. (ring's own
//! copy of the number is not: ring has no way to.)

use pem::{LineEnding, Pem};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use zeroize::Zeroizing;

use super::load::LoadError;

/// A P-256 key that signs certificates.
pub(super) struct CaKey {
    pkcs8: Zeroizing<Vec<u8>>,
    pair: EcdsaKeyPair,
    random: SystemRandom,
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
        if block.tag() != "PRIVATE KEY" {
            return Err(LoadError::KeyUnreadable(field));
        }
        Self::read(Zeroizing::new(block.into_contents())).map_err(|_rejected| LoadError::KeyUnreadable(field))
    }

    fn read(pkcs8: Zeroizing<Vec<u8>>) -> Result<Self, ring::error::KeyRejected> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &random)?;
        Ok(Self { pkcs8, pair, random })
    }

    /// The same key once more.
    pub(super) fn again(&self) -> Result<Self, ring::error::KeyRejected> {
        Self::read(self.pkcs8.clone())
    }

    /// As it is kept in a Secret.
    pub(super) fn to_pem(&self) -> Zeroizing<String> {
        let config = pem::EncodeConfig::new().set_line_ending(LineEnding::LF);
        Zeroizing::new(pem::encode_config(&Pem::new("PRIVATE KEY", self.pkcs8.as_slice()), config))
    }
}

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        let signature = self.pair.sign(&self.random, message).map_err(|_unspecified| rcgen::Error::RingUnspecified)?;
        Ok(signature.as_ref().to_vec())
    }
}
