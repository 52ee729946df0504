//! RSASSA-PSS with SHA-256, verified with a salt of any length (RFC 8017, 8.1.2 and 9.1.2).
//!
//! Kubelets of 1.35 sign the pod's UID with Go's `rsa.SignPSS` and no options, which means the longest salt that fits. ring
//! verifies salts of the hash's length only, and the `rsa` crate carries an open advisory for its private-key half. What is
//! left is one public exponentiation (`num-bigint`, already below x509-parser) and the padding. No secret is involved.

use num_bigint::BigUint;
use ring::digest::{Context, SHA256, digest};

/// Whether `signature` was made over `message` with the private key of this modulus and exponent.
pub(super) fn verify(modulus: &BigUint, exponent: u64, message: &[u8], signature: &[u8]) -> bool {
    let number = BigUint::from_bytes_be(signature);
    if BigUint::from(signature.len()) != BigUint::from(modulus.bits().div_ceil(8)) || number >= *modulus {
        return false;
    }
    let encoded = number.modpow(&BigUint::from(exponent), modulus);
    let bits = modulus.bits().saturating_sub(1);
    encoding_holds(&encoded, bits, digest(&SHA256, message).as_ref()).unwrap_or(false)
}

/// EMSA-PSS-VERIFY over an encoded message of this many bits. `None` where it is too short to be one.
fn encoding_holds(encoded: &BigUint, bits: u64, message_hash: &[u8]) -> Option<bool> {
    let length = usize::try_from(bits.div_ceil(8)).ok()?;
    let digits = encoded.to_bytes_be();
    let mut bytes = vec![0; length.checked_sub(digits.len())?];
    bytes.extend_from_slice(&digits);

    let (&end, rest) = bytes.split_last()?;
    let (masked, hash) = rest.split_at_checked(rest.len().checked_sub(HASH)?)?;
    let unused = u32::try_from(length.checked_mul(8)?).ok()?.checked_sub(u32::try_from(bits).ok()?)?;
    let keep = 0xff_u8.checked_shr(unused)?;
    let (&first, _) = masked.split_first()?;
    if end != 0xbc || first & !keep != 0 {
        return Some(false);
    }

    let mut block: Vec<u8> = masked.iter().zip(mask(hash, masked.len())).map(|(byte, mask)| byte ^ mask).collect();
    *block.first_mut()? &= keep;
    let one = block.iter().position(|byte| *byte != 0)?;
    let (&marker, salt) = block.get(one..)?.split_first()?;
    let mut context = Context::new(&SHA256);
    context.update(&[0; 8]);
    context.update(message_hash);
    context.update(salt);
    Some(marker == 1 && context.finish().as_ref() == hash)
}

/// MGF1.
fn mask(seed: &[u8], length: usize) -> Vec<u8> {
    let blocks = (0_u32..).flat_map(|counter| {
        let mut context = Context::new(&SHA256);
        context.update(seed);
        context.update(&counter.to_be_bytes());
        context.finish().as_ref().to_vec()
    });
    blocks.take(length).collect()
}

const HASH: usize = 32;
