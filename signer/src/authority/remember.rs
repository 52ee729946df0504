//! Verifies the signatures of our own chains. That of the issuing CA is the same above every leaf, and that of a leaf is verified once
//! for each of its usages: the very bytes that were found good are not calculated again.

use std::sync::{Mutex, OnceLock, PoisonError};

use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};
use webpki::ring::ECDSA_P256_SHA256;

/// ECDSA with P-256 and SHA-256, which our CAs sign with. It remembers two signatures that it found good: the first, which is that of
/// the CA, for webpki goes from the root downwards; and the last, which is that of the leaf in hand.
#[derive(Debug, Default)]
pub(crate) struct Remembering {
    first: OnceLock<Signed>,
    last: Mutex<Option<Signed>>,
}

#[derive(Debug)]
struct Signed {
    key: Box<[u8]>,
    message: Box<[u8]>,
    signature: Box<[u8]>,
}

impl Remembering {
    /// This one before all that webpki knows: a CA that is brought may sign with any of them.
    pub(crate) fn and_all_others(&self) -> Vec<&dyn SignatureVerificationAlgorithm> {
        let ours: &dyn SignatureVerificationAlgorithm = self;
        std::iter::once(ours).chain(webpki::ALL_VERIFICATION_ALGS.iter().copied()).collect()
    }
}

impl SignatureVerificationAlgorithm for Remembering {
    fn verify_signature(&self, key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), InvalidSignature> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if [self.first.get(), last.as_ref()].into_iter().flatten().any(|good| good.is(key, message, signature)) {
            return Ok(());
        }
        ECDSA_P256_SHA256.verify_signature(key, message, signature)?;
        let good = Signed { key: key.into(), message: message.into(), signature: signature.into() };
        if let Err(good) = self.first.set(good) {
            *last = Some(good);
        }
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        ECDSA_P256_SHA256.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        ECDSA_P256_SHA256.signature_alg_id()
    }
}

impl Signed {
    fn is(&self, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        let Self { key: known, message: said, signature: signed } = self;
        (&**known, &**said, &**signed) == (key, message, signature)
    }
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
    };

    use super::*;

    fn key() -> EcdsaKeyPair {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap()
    }

    #[test]
    fn nothing_is_good_but_the_very_bytes_that_were_found_good() {
        let (one, other, random) = (key(), key(), SystemRandom::new());
        let (key, other) = (one.public_key().as_ref(), other.public_key().as_ref());
        let signature = one.sign(&random, b"CA").unwrap();
        let second = one.sign(&random, b"leaf").unwrap();
        let mut flipped = signature.as_ref().to_vec();
        *flipped.last_mut().unwrap() ^= 1;

        let remembering = Remembering::default();
        assert!(remembering.verify_signature(key, b"CA", &flipped).is_err());
        assert!(remembering.first.get().is_none(), "a bad signature is not remembered");
        for _ in 0..2 {
            assert!(remembering.verify_signature(key, b"CA", signature.as_ref()).is_ok());
            assert!(remembering.verify_signature(key, b"leaf", second.as_ref()).is_ok());
            assert!(remembering.verify_signature(key, b"CA", &flipped).is_err());
            assert!(remembering.verify_signature(other, b"CA", signature.as_ref()).is_err());
            assert!(remembering.verify_signature(key, b"leaf", signature.as_ref()).is_err());
        }
        assert_eq!(&*remembering.first.get().unwrap().message, b"CA");
        assert_eq!(&*remembering.last.lock().unwrap().as_ref().unwrap().message, b"leaf");
    }
}
