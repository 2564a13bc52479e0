//! What the simulator makes up instead of computing it: plaintexts, shares, digests and a user's public key.
//!
//! Everything but the shares follows from public input alone, so that nodes agree without talking to each other and a test can
//! say beforehand what the answer will be.

use sha3::Shake256;
use sha3::digest::{ExtendableOutput, Update, XofReader};

use kms_proto::encoding::{plaintext_bytes, signcryption_message};

use super::version::KeyLayout;

/// Bytes of an ML-KEM-512 encapsulation key.
const ML_KEM_512_KEY_BYTES: usize = 800;
/// Bytes of an ML-KEM-1024 encapsulation key.
const ML_KEM_1024_KEY_BYTES: usize = 1568;
/// Bytes of an ML-KEM-512 ciphertext.
const ML_KEM_512_CIPHERTEXT_BYTES: usize = 768;
/// Type name in the header of a user's public key.
const USER_KEY_NAME: &[u8] = b"UnifiedPublicEncKey";
/// Bytes of one ring element of a threshold share: four coefficients of 128 bits.
const RING_ELEMENT_BYTES: usize = 64;
/// Coefficients of one ring element.
const RING_ELEMENT_COEFFICIENTS: usize = 4;
/// Bits of one block of an integer.
const BLOCK_BITS: usize = 2;
/// Blocks per coefficient of a threshold share, as seen on a deployed network.
pub(super) const THRESHOLD_PACKING: u32 = 2;

/// SHAKE-256 over a separator and parts, as KMS Core makes digests and ids.
pub(super) fn shake(separator: &[u8], parts: &[&[u8]], length: usize) -> Vec<u8> {
    let mut hasher = Shake256::default();
    hasher.update(separator);
    for part in parts {
        hasher.update(part);
    }
    let mut out = vec![0; length];
    hasher.finalize_xof().read(&mut out);
    out
}

/// The plaintext of a handle without an entry in the table: little-endian, as wide as the type. None for unknown types.
#[must_use]
pub fn plaintext(handle: &[u8], fhe_type: i32) -> Option<Vec<u8>> {
    let width = plaintext_bytes(fhe_type)?;
    let mut bytes = shake(b"simulated plaintext", &[handle], width);
    match fhe_type {
        0 => bytes[0] &= 0x01,
        1 => bytes[0] &= 0x0f,
        _ => {}
    }
    Some(bytes)
}

/// The parts of a key set, in the order of responses and signatures, with their digests.
#[must_use]
pub fn key_digests(key_id: &[u8; 32], params: i32, layout: KeyLayout) -> Vec<(&'static str, Vec<u8>)> {
    let digest = |part: &str| {
        let object: [&[u8]; 4] = [b"simulated ", part.as_bytes(), key_id, &params.to_le_bytes()];
        shake(b"PDAT_KEY", &object, 32)
    };
    layout.parts().iter().map(|&(part, _)| (part, digest(part))).collect()
}

/// The digest of a CRS.
#[must_use]
pub fn crs_digest(crs_id: &[u8; 32], params: i32, max_num_bits: u32) -> Vec<u8> {
    let object: [&[u8]; 4] = [b"simulated CRS", crs_id, &params.to_le_bytes(), &max_num_bits.to_le_bytes()];
    shake(b"PDAT_CRS", &object, 32)
}

/// Bytes of a node's share of a value before encryption.
///
/// Centralized: the value itself. Threshold: bincode of the ring elements that hold the blocks; the one share of a deployed
/// network that was seen (32 bits, 136 bytes) fixes the parameters.
fn share_bytes(fhe_type: i32, threshold: bool) -> Option<usize> {
    let value = plaintext_bytes(fhe_type)?;
    if !threshold {
        return Some(value);
    }
    let bits = if fhe_type == 0 { 1 } else { value * 8 };
    let blocks_per_element = RING_ELEMENT_COEFFICIENTS * THRESHOLD_PACKING as usize;
    let elements = bits.div_ceil(BLOCK_BITS).div_ceil(blocks_per_element);
    Some(8 + elements * RING_ELEMENT_BYTES)
}

/// A signcrypted share: opaque bytes with the layout and length of a real one (nonce, KEM ciphertext, and an AES-GCM
/// ciphertext over the share, the link, a signature and a key hash). None for unknown types.
pub(super) fn signcrypted_share(seed: &[&[u8]], fhe_type: i32, threshold: bool) -> Option<Vec<u8>> {
    const NONCE: usize = 12;
    const SIGNATURE: usize = 64;
    const KEY_HASH: usize = 32;
    const TAG: usize = 16;
    let message = signcryption_message(&vec![0; share_bytes(fhe_type, threshold)?], fhe_type, &[0; 32]);
    let ciphertext = message.len() + SIGNATURE + KEY_HASH + TAG;
    let random = shake(b"simulated share", seed, NONCE + ML_KEM_512_CIPHERTEXT_BYTES + ciphertext);
    let (nonce, rest) = random.split_at(NONCE);
    let (kem, ciphertext) = rest.split_at(ML_KEM_512_CIPHERTEXT_BYTES);
    let mut out = nonce.to_vec();
    for bytes in [kem, ciphertext] {
        out.extend((bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    }
    Some(out)
}

/// A user's public key that KMS Core decodes: the header of an ML-KEM-512 key and made-up key bytes.
#[must_use]
pub fn user_public_key(seed: u64) -> Vec<u8> {
    let mut out = user_key_header(b"0.5", b"0.1");
    out.extend((ML_KEM_512_KEY_BYTES as u64).to_le_bytes());
    out.extend(shake(b"simulated user key", &[&seed.to_le_bytes()], ML_KEM_512_KEY_BYTES));
    out
}

fn user_key_header(format: &[u8], type_version: &[u8]) -> Vec<u8> {
    let mut out = vec![];
    let put = |out: &mut Vec<u8>, bytes: &[u8]| {
        out.extend((bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(bytes);
    };
    put(&mut out, format);
    out.extend(0u32.to_le_bytes());
    put(&mut out, type_version);
    put(&mut out, USER_KEY_NAME);
    out.extend([0; 8]);
    out
}

/// Takes the encapsulation key out of a user's public key: a safe-serialized ML-KEM-512 key, or where `legacy` (versions up to
/// 0.13.11) also the bincode of an ML-KEM-1024 key, which is tried first. None where it is neither.
#[must_use]
pub fn encapsulation_key(public_key: &[u8], legacy: bool) -> Option<&[u8]> {
    let old = if legacy { legacy_key(public_key) } else { None };
    old.or_else(|| serialized_key(public_key))
}

fn legacy_key(public_key: &[u8]) -> Option<&[u8]> {
    let (key, rest) = prefixed(public_key)?;
    (key.len() == ML_KEM_1024_KEY_BYTES && rest.is_empty()).then_some(key)
}

fn serialized_key(public_key: &[u8]) -> Option<&[u8]> {
    let (_format, rest) = prefixed(public_key)?;
    let rest = rest.strip_prefix(&[0; 4])?;
    let (_type_version, rest) = prefixed(rest)?;
    let (name, rest) = prefixed(rest)?;
    let (key, rest) = prefixed(rest.strip_prefix(&[0; 8])?)?;
    let fits = name == USER_KEY_NAME && key.len() == ML_KEM_512_KEY_BYTES && rest.is_empty();
    fits.then_some(key)
}

/// Bytes behind a `u64` length, and what follows.
fn prefixed(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plaintexts_are_as_wide_as_their_type_and_follow_from_the_handle() {
        for fhe_type in [0, 1, 2, 3, 4, 5, 6, 7, 8] {
            let bytes = plaintext(&[7; 32], fhe_type).unwrap();
            assert_eq!(Some(bytes.len()), plaintext_bytes(fhe_type));
            assert_eq!(plaintext(&[7; 32], fhe_type), Some(bytes));
        }
        assert!(plaintext(&[7; 32], 0).unwrap()[0] <= 1);
        assert!(plaintext(&[7; 32], 1).unwrap()[0] <= 15);
        assert_ne!(plaintext(&[7; 32], 8), plaintext(&[8; 32], 8));
        assert_eq!(plaintext(&[7; 32], 200), None);
    }

    #[test]
    fn key_digests_are_ordered_by_their_number_in_signatures() {
        for layout in KeyLayout::ALL {
            assert!(layout.parts().is_sorted_by_key(|(_, number)| *number));
            let digests = key_digests(&[4; 32], 0, layout);
            assert!(digests.iter().all(|(_, digest)| digest.len() == 32));
            assert!(digests.iter().map(|(name, _)| name).eq(layout.parts().iter().map(|(name, _)| name)));
        }
        let of = |layout| key_digests(&[4; 32], 0, layout);
        assert_eq!(
            of(KeyLayout::Compressed)[0],
            of(KeyLayout::Uncompressed)[1],
            "a part has one digest in every layout"
        );
        assert_ne!(of(KeyLayout::Uncompressed)[0].1, of(KeyLayout::Uncompressed)[1].1);
    }

    #[test]
    fn a_made_up_user_key_is_decodable_and_has_the_real_length() {
        let key = user_public_key(1);
        assert_eq!(key.len(), 869);
        assert_eq!(encapsulation_key(&key, false).map(<[u8]>::len), Some(ML_KEM_512_KEY_BYTES));
    }

    #[test]
    fn a_legacy_user_key_is_decodable() {
        let mut key = (ML_KEM_1024_KEY_BYTES as u64).to_le_bytes().to_vec();
        key.extend([9; ML_KEM_1024_KEY_BYTES]);
        assert!(encapsulation_key(&key, true).is_some());
        assert!(encapsulation_key(&key, false).is_none());
    }

    #[test]
    fn cut_extended_and_foreign_user_keys_are_not_decodable() {
        let key = user_public_key(1);
        for length in [0, 1, 7, 8, 40, 868] {
            assert_eq!(encapsulation_key(&key[..length], true), None);
        }
        assert_eq!(encapsulation_key(&[key.clone(), vec![0]].concat(), true), None);
        assert_eq!(encapsulation_key(&[0xff; 869], true), None);
    }
}
