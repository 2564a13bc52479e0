//! What the contracts guarantee of every decryption they let through, checked again (`docs/protocol.md`, "FHE types").
//!
//! Pure. A proven request always holds these: a failure means that the contracts, or this code, are not what we think they are, and then
//! nothing should be decrypted. A handle may stand several times; nothing forbids it.

use std::collections::BTreeSet;

use alloy::primitives::B256;
use kms_chain::handles;
use kms_schemas::record::CiphertextMaterial;

use crate::codes;
use crate::error::Trouble;

/// The handles of a decryption: some, of supported types, of at most 2048 bits together.
///
/// # Errors
/// [`Trouble::Permanent`], each with its own code.
pub fn check_handles(asked: &[B256]) -> Result<(), Trouble> {
    if asked.is_empty() {
        return Err(Trouble::permanent(codes::NO_HANDLES, "the request names no handle"));
    }
    let mut bits = 0_u32;
    for handle in asked {
        let fhe_type = handles::fhe_type(*handle);
        let own = handles::bits(fhe_type).ok_or_else(|| {
            Trouble::permanent(codes::FHE_TYPE_UNSUPPORTED, format!("handle {handle} has FHE type {fhe_type}"))
        })?;
        bits = bits.saturating_add(own);
    }
    if bits > handles::MAX_REQUEST_BITS {
        return Err(Trouble::permanent(
            codes::TOO_MANY_BITS,
            format!(
                "the handles hold {bits} bits together, at most {} may be asked for at once",
                handles::MAX_REQUEST_BITS
            ),
        ));
    }
    Ok(())
}

/// The one host chain of a user decryption's handles.
///
/// # Errors
/// [`Trouble::Permanent`]: they are of several, or there is none.
pub fn one_host_chain(asked: &[B256]) -> Result<u64, Trouble> {
    let chains: BTreeSet<u64> = asked.iter().map(|handle| handles::host_chain_id(*handle)).collect();
    match chains.first() {
        Some(chain) if chains.len() == 1 => Ok(*chain),
        Some(_) => Err(Trouble::permanent(
            codes::MIXED_HOST_CHAINS,
            format!("the handles of one user decryption are of several host chains: {chains:?}"),
        )),
        None => Err(Trouble::permanent(codes::NO_HANDLES, "the request names no handle")),
    }
}

/// All ciphertexts are under one key.
///
/// # Errors
/// [`Trouble::Permanent`]: they are not.
pub fn check_one_key(materials: &[CiphertextMaterial]) -> Result<(), Trouble> {
    let keys: BTreeSet<_> = materials.iter().map(|material| material.key_id).collect();
    if keys.len() > 1 {
        let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
        return Err(Trouble::permanent(
            codes::MIXED_KEYS,
            format!("the ciphertexts of one request are under several keys: {}", keys.join(", ")),
        ));
    }
    Ok(())
}

/// The handles that access is asked for are those that the ciphertexts belong to, one by one. Without ciphertexts (v0.15) there is nothing
/// to compare.
///
/// # Errors
/// [`Trouble::Permanent`]: they differ; then access to one ciphertext would be asked for, and another one decrypted.
pub fn check_same_handles(asked: &[B256], materials: &[CiphertextMaterial]) -> Result<(), Trouble> {
    let of_materials = materials.iter().map(|material| material.handle);
    if materials.is_empty() || of_materials.eq(asked.iter().copied()) {
        return Ok(());
    }
    Err(Trouble::permanent(codes::REQUEST_INVALID, "the event's handles are not those of its ciphertexts"))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::U256;

    use super::*;

    fn handle(chain: u64, fhe_type: u8) -> B256 {
        let mut bytes = [7; 32];
        bytes[22..30].copy_from_slice(&chain.to_be_bytes());
        (bytes[30], bytes[31]) = (fhe_type, 0);
        bytes.into()
    }

    fn code(outcome: Result<(), Trouble>) -> Option<&'static str> {
        outcome.err().map(|trouble| {
            assert!(matches!(trouble, Trouble::Permanent { .. }), "{trouble}");
            trouble.code()
        })
    }

    #[test]
    fn p4_an_empty_list_is_refused() {
        assert_eq!(code(check_handles(&[])), Some(codes::NO_HANDLES));
        assert_eq!(code(one_host_chain(&[]).map(drop)), Some(codes::NO_HANDLES));
    }

    #[test]
    fn p4_only_the_eight_supported_types_are_served() {
        for fhe_type in 0..=255 {
            let expected = (!matches!(fhe_type, 0 | 2..=8)).then_some(codes::FHE_TYPE_UNSUPPORTED);
            assert_eq!(code(check_handles(&[handle(1, 5), handle(1, fhe_type)])), expected, "{fhe_type}");
        }
    }

    #[test]
    fn p4_2048_bits_are_served_and_one_value_more_is_not() {
        let mut asked = vec![handle(1, 8); 8];
        assert_eq!(code(check_handles(&asked)), None, "a handle may stand several times, and counts each time");
        asked.push(handle(1, 0));
        assert_eq!(code(check_handles(&asked)), Some(codes::TOO_MANY_BITS));
        assert_eq!(code(check_handles(&vec![handle(1, 0); 1024])), None);
    }

    #[test]
    fn p4_a_user_decryption_is_of_one_host_chain() {
        assert_eq!(one_host_chain(&[handle(9, 5), handle(9, 4)]), Ok(9));
        assert_eq!(code(one_host_chain(&[handle(9, 5), handle(8, 5)]).map(drop)), Some(codes::MIXED_HOST_CHAINS));
    }

    #[test]
    fn p4_a_request_is_under_one_key() {
        let material = |key: u64| CiphertextMaterial {
            handle: handle(1, 5),
            key_id: U256::from(key).into(),
            digest: B256::ZERO,
            coprocessors: Vec::new(),
        };
        assert_eq!(code(check_one_key(&[material(4), material(4)])), None);
        assert_eq!(code(check_one_key(&[material(4), material(5)])), Some(codes::MIXED_KEYS));
    }
}
