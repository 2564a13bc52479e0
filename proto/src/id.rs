//! How KMS Core writes ids: 64 lower-case hex digits of the contract's `uint256`, without `0x`
//! (`docs/protocol.md`, "Request ids").

use std::num::NonZeroUsize;

use crate::kms::v1::RequestId;

/// Context that servers up to 0.13.3 use where a request names none.
pub const DEFAULT_CONTEXT_UNTIL_V0_13_3: [u8; 32] = {
    let mut id = [1; 32];
    id[29] = 2;
    id[30] = 3;
    id[31] = 4;
    id
};

/// Epoch that servers of 0.13.0 to 0.13.3 use where a request names none. Version 0.12 has no epochs.
pub const DEFAULT_EPOCH_UNTIL_V0_13_3: [u8; 32] = tagged(0);

/// Context that servers from 0.13.10 on use where a request names none.
pub const DEFAULT_CONTEXT: [u8; 32] = tagged(7);

/// Epoch that servers from 0.13.10 on use where a request names none.
pub const DEFAULT_EPOCH: [u8; 32] = tagged(8);

/// The first id of a kind: the kind's number in the top byte, the counter 1 in the others.
const fn tagged(kind: u8) -> [u8; 32] {
    let mut id = [0; 32];
    id[0] = kind;
    id[31] = 1;
    id
}

/// Why a text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// There is no id at all.
    #[error("the id is missing")]
    Missing,
    /// Not 64 hex digits.
    #[error("the id is not 64 hex digits")]
    Malformed,
    /// The all-zero id, which KMS Core refuses.
    #[error("the id is zero")]
    Zero,
}

/// The id as KMS Core's message.
#[must_use]
pub fn to_message(id: &[u8; 32]) -> RequestId {
    RequestId { request_id: hex::encode(id) }
}

/// Reads an id as KMS Core does, which also takes a `0x` prefix and surrounding blanks.
///
/// # Errors
/// Where the text is not 64 hex digits, or all of them are zero.
pub fn parse(text: &str) -> Result<[u8; 32], IdError> {
    let text = text.trim();
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let mut id = [0; 32];
    hex::decode_to_slice(digits, &mut id).map_err(|_| IdError::Malformed)?;
    if id == [0; 32] { Err(IdError::Zero) } else { Ok(id) }
}

/// Reads the id of an optional message field.
///
/// # Errors
/// Where the field is unset, or as [`parse`].
pub fn from_message(message: Option<&RequestId>) -> Result<[u8; 32], IdError> {
    parse(&message.ok_or(IdError::Missing)?.request_id)
}

/// Which of several KMS Core endpoints of one node serves an id: the id modulo their number, so that every start, poll and
/// abort of the id meets the same process. For key generations the id to take is that of the preprocessing, which only
/// one process holds.
#[must_use]
pub fn endpoint_index(id: &[u8; 32], endpoints: NonZeroUsize) -> usize {
    let modulus = endpoints.get() as u128;
    let remainder = id.iter().fold(0u128, |rest, &byte| ((rest << 8) | u128::from(byte)) % modulus);
    usize::try_from(remainder).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_in_lower_case_without_a_prefix() {
        let mut id = [0xAB; 32];
        id[0] = 1;
        assert_eq!(to_message(&id).request_id, format!("01{}", "ab".repeat(31)));
    }

    #[test]
    fn an_id_is_read_back_from_what_was_written() {
        assert_eq!(parse(&to_message(&DEFAULT_CONTEXT).request_id), Ok(DEFAULT_CONTEXT));
    }

    #[test]
    fn a_prefix_and_blanks_around_an_id_are_taken() {
        assert_eq!(parse(&format!("  0x{} ", hex::encode(DEFAULT_EPOCH))), Ok(DEFAULT_EPOCH));
    }

    #[test]
    fn short_long_foreign_and_zero_ids_are_refused() {
        assert_eq!(parse(""), Err(IdError::Malformed));
        assert_eq!(parse("01"), Err(IdError::Malformed));
        assert_eq!(parse(&"0".repeat(66)), Err(IdError::Malformed));
        assert_eq!(parse(&"g".repeat(64)), Err(IdError::Malformed));
        assert_eq!(parse(&"0".repeat(64)), Err(IdError::Zero));
        assert_eq!(from_message(None), Err(IdError::Missing));
    }
}
