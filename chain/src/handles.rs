//! What a ciphertext handle says of itself (`docs/protocol.md`, "Ciphertext handles").

use alloy::primitives::B256;

/// The host chain that the ciphertext lives on.
#[must_use]
pub fn host_chain_id(handle: B256) -> u64 {
    let mut chain_id = [0; 8];
    chain_id.copy_from_slice(&handle[22..30]);
    u64::from_be_bytes(chain_id)
}

/// The FHE type of the value.
#[must_use]
pub fn fhe_type(handle: B256) -> u8 {
    handle[30]
}

/// The version of the handle's layout, 0 today.
#[must_use]
pub fn version(handle: B256) -> u8 {
    handle[31]
}

/// Bits that a decryption counts for a value of this type; none for a type that no decryption accepts
/// (`docs/protocol.md`, "FHE types").
#[must_use]
pub fn bits(fhe_type: u8) -> Option<u32> {
    Some(match fhe_type {
        0 => 2,
        2 => 8,
        3 => 16,
        4 => 32,
        5 => 64,
        6 => 128,
        7 => 160,
        8 => 256,
        _ => return None,
    })
}

/// The most that the handles of one request may sum up to, in bits; a repeated handle counts each time.
pub const MAX_REQUEST_BITS: u32 = 2048;

#[cfg(test)]
mod tests {
    use alloy::primitives::b256;

    use super::*;

    #[test]
    fn a_handle_names_its_chain_its_type_and_its_version() {
        let handle = b256!("7c5f6cb179b5c4c21bd7fa22ee8e4fff1aa70a7c0fff0000000000aa36a70500");
        assert_eq!(host_chain_id(handle), 11_155_111);
        assert_eq!(fhe_type(handle), 5);
        assert_eq!(version(handle), 0);
    }

    #[test]
    fn eight_types_are_accepted() {
        let accepted: Vec<(u8, u32)> = (0..=255).filter_map(|code| Some((code, bits(code)?))).collect();
        assert_eq!(accepted, [(0, 2), (2, 8), (3, 16), (4, 32), (5, 64), (6, 128), (7, 160), (8, 256)]);
    }
}
