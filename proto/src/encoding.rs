//! From KMS Core's response to the bytes that are signed and published (`docs/protocol.md`, "KMS Core encodings").
//!
//! KMS Core serializes payloads with bincode in its *legacy* configuration: fixed-width little-endian integers, a `u64`
//! length before byte strings, strings and lists, one byte before an option, fields in the order of the message. Only two
//! shapes of it are needed, so they are written out here rather than drawn from a library whose formats differ by version.

use crate::kms::v1::{PublicDecryptionResponsePayload, TypedPlaintext, UserDecryptionResponsePayload};

/// Bytes of a `verification_key` field: the length 33 as `u64`, then the compressed SEC1 key.
pub const VERIFICATION_KEY_BYTES: usize = 41;

/// Bytes of one EVM word.
const WORD_BYTES: usize = 32;

/// Why a response of KMS Core cannot be encoded for the chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodingError {
    /// The type is unknown, or its values do not fit one EVM word.
    #[error("plaintext {position} has FHE type {fhe_type}, which has no encoding as one word")]
    UnsupportedType {
        /// Position in the response, from 0.
        position: usize,
        /// FHE type number.
        fhe_type: i32,
    },
    /// The bytes are not as wide as the type.
    #[error("plaintext {position} of FHE type {fhe_type} has {actual} bytes, expected {expected}")]
    WrongWidth {
        /// Position in the response, from 0.
        position: usize,
        /// FHE type number.
        fhe_type: i32,
        /// Bytes of the type.
        expected: usize,
        /// Bytes there are.
        actual: usize,
    },
    /// The verification key is not a length of 33 and a compressed key.
    #[error("the verification key is not 41 bytes with a length prefix of 33")]
    MalformedVerificationKey,
}

/// Bytes of a plaintext of an FHE type, or none where the number is not known.
///
/// The protocol's contracts let only the types 0 and 2 to 8 through.
#[must_use]
pub fn plaintext_bytes(fhe_type: i32) -> Option<usize> {
    let bits: usize = match fhe_type {
        0 => 1,
        1 => 4,
        2 => 8,
        3 => 16,
        4 => 32,
        5 => 64,
        6 => 128,
        7 => 160,
        8 => 256,
        9 => 512,
        10 => 1024,
        11 => 2048,
        39 => 80,
        _ => return None,
    };
    Some(bits.div_ceil(8))
}

/// The `decryptedResult` of a public decryption: per plaintext, in order, one big-endian word, and nothing else.
///
/// # Errors
/// Where a plaintext is not as wide as its type, or its type does not fit a word.
pub fn decrypted_result(plaintexts: &[TypedPlaintext]) -> Result<Vec<u8>, EncodingError> {
    let mut words = vec![0; plaintexts.len() * WORD_BYTES];
    for (position, (plaintext, word)) in plaintexts.iter().zip(words.chunks_exact_mut(WORD_BYTES)).enumerate() {
        let fhe_type = plaintext.fhe_type;
        let expected = plaintext_bytes(fhe_type)
            .filter(|&width| width <= WORD_BYTES)
            .ok_or(EncodingError::UnsupportedType { position, fhe_type })?;
        let actual = plaintext.bytes.len();
        if actual != expected {
            return Err(EncodingError::WrongWidth { position, fhe_type, expected, actual });
        }
        for (to, from) in word.iter_mut().rev().zip(&plaintext.bytes) {
            *to = *from;
        }
    }
    Ok(words)
}

/// The bincode of a public decryption's payload: what KMS Core's internal signature covers.
#[must_use]
pub fn public_payload(payload: &PublicDecryptionResponsePayload) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, &payload.verification_key);
    put_length(&mut out, payload.plaintexts.len());
    for plaintext in &payload.plaintexts {
        put_bytes(&mut out, &plaintext.bytes);
        out.extend(plaintext.fhe_type.to_le_bytes());
    }
    match &payload.request_id {
        None => out.push(0),
        Some(id) => {
            out.push(1);
            put_bytes(&mut out, id.request_id.as_bytes());
        }
    }
    out
}

/// The bincode of a user decryption's payload: the `userDecryptedShare` that is signed and published.
#[must_use]
pub fn user_payload(payload: &UserDecryptionResponsePayload) -> Vec<u8> {
    let shares = payload.signcrypted_ciphertexts.iter();
    let share_bytes: usize = shares.map(|share| share.signcrypted_ciphertext.len() + 64).sum();
    let mut out = Vec::with_capacity(share_bytes + 128);
    put_bytes(&mut out, &payload.verification_key);
    put_bytes(&mut out, &payload.digest);
    put_length(&mut out, payload.signcrypted_ciphertexts.len());
    for share in &payload.signcrypted_ciphertexts {
        out.extend(share.fhe_type.to_le_bytes());
        put_bytes(&mut out, &share.signcrypted_ciphertext);
        put_bytes(&mut out, &share.external_handle);
        out.extend(share.packing_factor.to_le_bytes());
    }
    out.extend(payload.party_id.to_le_bytes());
    out.extend(payload.degree.to_le_bytes());
    out
}

/// The bincode of what a share encrypts: the share's bytes, the type, and the link to the user's key and address.
#[must_use]
pub fn signcryption_message(share: &[u8], fhe_type: i32, link: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(share.len() + link.len() + 20);
    put_bytes(&mut out, share);
    out.extend(fhe_type.to_le_bytes());
    put_bytes(&mut out, link);
    out
}

/// The `verification_key` field for a compressed SEC1 key.
#[must_use]
pub fn verification_key(sec1: &[u8; 33]) -> [u8; VERIFICATION_KEY_BYTES] {
    let mut out = [0; VERIFICATION_KEY_BYTES];
    out[..8].copy_from_slice(&33u64.to_le_bytes());
    out[8..].copy_from_slice(sec1);
    out
}

/// The compressed SEC1 key inside a `verification_key` field. Whether it is a point of the curve is not checked.
///
/// # Errors
/// Where the field has another length or prefix.
pub fn sec1_of_verification_key(field: &[u8]) -> Result<[u8; 33], EncodingError> {
    let prefix = 33u64.to_le_bytes();
    let key = field.strip_prefix(&prefix).and_then(|key| key.try_into().ok());
    key.ok_or(EncodingError::MalformedVerificationKey)
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend((length as u64).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plaintext(fhe_type: i32, bytes: &[u8]) -> TypedPlaintext {
        TypedPlaintext { bytes: bytes.to_vec(), fhe_type }
    }

    #[test]
    fn no_plaintexts_make_no_words() {
        assert_eq!(decrypted_result(&[]), Ok(vec![]));
    }

    #[test]
    fn a_plaintext_of_the_wrong_width_is_refused() {
        for (bytes, fhe_type, expected) in [(&[1u8, 0][..], 0, 1), (&[1], 4, 4), (&[0; 33], 8, 32), (&[], 2, 1)] {
            assert_eq!(
                decrypted_result(&[plaintext(2, &[7]), plaintext(fhe_type, bytes)]),
                Err(EncodingError::WrongWidth { position: 1, fhe_type, expected, actual: bytes.len() })
            );
        }
    }

    #[test]
    fn a_type_that_is_unknown_or_wider_than_a_word_is_refused() {
        for fhe_type in [-1, 9, 10, 11, 12, 255] {
            assert_eq!(
                decrypted_result(&[plaintext(fhe_type, &[0; 64])]),
                Err(EncodingError::UnsupportedType { position: 0, fhe_type })
            );
        }
    }

    #[test]
    fn a_payload_without_an_id_is_encoded_with_an_empty_option() {
        let payload = PublicDecryptionResponsePayload::default();
        assert_eq!(public_payload(&payload), [0; 17]);
    }

    #[test]
    fn a_bare_key_is_no_verification_key() {
        assert_eq!(sec1_of_verification_key(&[2; 33]), Err(EncodingError::MalformedVerificationKey));
        assert_eq!(sec1_of_verification_key(&[2; 41]), Err(EncodingError::MalformedVerificationKey));
        assert_eq!(sec1_of_verification_key(&verification_key(&[3; 33])), Ok([3; 33]));
    }
}
