//! RSA-PSS over SHA-256 with a salt of any length, as Go's `rsa.SignPSS` and `rsa.VerifyPSS` do with no options: the signer fills
//! what room there is with salt, the verifier finds its length. The usual crates insist on a salt as long as the hash.
//!
//! Not constant-time: for the throw-away keys of an embedded cluster alone.

use aws_lc_rs::digest::{SHA256, digest};
use num_bigint::BigUint;

const HASH: usize = 32;
const TRAILER: u8 = 0xbc;

/// Whether `signature` over `message` is good, whatever its salt's length.
pub(crate) fn verify(modulus: &BigUint, exponent: &BigUint, message: &[u8], signature: &[u8]) -> bool {
    let size = usize::try_from(modulus.bits().div_ceil(8)).unwrap_or(0);
    let number = BigUint::from_bytes_be(signature);
    if signature.len() != size || &number >= modulus {
        return false;
    }
    let encoded_bits = modulus.bits().saturating_sub(1);
    encoded(&number.modpow(exponent, modulus), encoded_bits)
        .is_some_and(|encoded| matches(&encoded, encoded_bits, message))
}

/// Signs with the longest salt that fits. `salt` gives that many random bytes.
pub(crate) fn sign(
    modulus: &BigUint,
    private: &BigUint,
    message: &[u8],
    salt: impl Fn(usize) -> Vec<u8>,
) -> Option<Vec<u8>> {
    let encoded_bits = modulus.bits().checked_sub(1)?;
    let length = usize::try_from(encoded_bits.div_ceil(8)).ok()?;
    let salt = salt(length.checked_sub(HASH)?.checked_sub(2)?);
    let block_length = length.checked_sub(HASH)?.checked_sub(1)?;
    let hash = salted(message, &salt);
    let mut block = vec![0; block_length.checked_sub(salt.len())?.checked_sub(1)?];
    block.push(1);
    block.extend_from_slice(&salt);
    mask(&mut block, &hash);
    clear_unused(&mut block, encoded_bits);
    block.extend_from_slice(&hash);
    block.push(TRAILER);
    let signature = BigUint::from_bytes_be(&block).modpow(private, modulus).to_bytes_be();
    let size = usize::try_from(modulus.bits().div_ceil(8)).ok()?;
    let mut padded = vec![0; size.checked_sub(signature.len())?];
    padded.extend(signature);
    Some(padded)
}

fn encoded(number: &BigUint, bits: u64) -> Option<Vec<u8>> {
    let length = usize::try_from(bits.div_ceil(8)).ok()?;
    let bytes = number.to_bytes_be();
    let mut padded = vec![0; length.checked_sub(bytes.len())?];
    padded.extend(bytes);
    Some(padded)
}

fn matches(encoded: &[u8], bits: u64, message: &[u8]) -> bool {
    let Some((TRAILER, body)) = encoded.split_last().map(|(last, body)| (*last, body)) else { return false };
    let Some((block, hash)) = body.len().checked_sub(HASH).and_then(|at| body.split_at_checked(at)) else {
        return false;
    };
    let mut plain = block.to_vec();
    clear_unused(&mut plain, bits);
    if plain.first() != block.first() {
        return false;
    }
    mask(&mut plain, hash);
    clear_unused(&mut plain, bits);
    let zeros = plain.iter().take_while(|byte| **byte == 0).count();
    match plain.get(zeros..).and_then(<[u8]>::split_first) {
        Some((1, salt)) => salted(message, salt) == hash,
        Some(_) | None => false,
    }
}

fn salted(message: &[u8], salt: &[u8]) -> Vec<u8> {
    let mut whole = vec![0; 8];
    whole.extend_from_slice(digest(&SHA256, message).as_ref());
    whole.extend_from_slice(salt);
    digest(&SHA256, &whole).as_ref().to_vec()
}

/// MGF1 with SHA-256, applied in place.
fn mask(block: &mut [u8], seed: &[u8]) {
    for (counter, part) in (0_u32..).zip(block.chunks_mut(HASH)) {
        let mut input = seed.to_vec();
        input.extend_from_slice(&counter.to_be_bytes());
        let stream = digest(&SHA256, &input);
        for (byte, with) in part.iter_mut().zip(stream.as_ref()) {
            *byte ^= with;
        }
    }
}

/// The bits of the first byte that are beyond the modulus are zero.
fn clear_unused(block: &mut [u8], bits: u64) {
    let used = bits.checked_rem(8).unwrap_or(0);
    if let (Some(first), true) = (block.first_mut(), used != 0) {
        *first &= 0xff_u8.checked_shr(u32::try_from(8_u64.saturating_sub(used)).unwrap_or(0)).unwrap_or(0);
    }
}
