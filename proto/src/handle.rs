//! What the bytes of a ciphertext handle say (`docs/protocol.md`, "Ciphertext handles").

/// Index byte of a handle that a computation made, as opposed to an input.
pub const COMPUTED: u8 = 0xff;

/// The parts of a 32-byte handle: 21 bytes of hash, index, host chain id, FHE type, version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandleParts {
    /// The hash that makes the handle unique.
    pub hash: [u8; 21],
    /// Position among the inputs of one proof, or [`COMPUTED`].
    pub index: u8,
    /// EIP-155 id of the host chain.
    pub chain_id: u64,
    /// FHE type number (see [`crate::encoding::plaintext_bytes`]).
    pub fhe_type: u8,
    /// Version of the handle's layout.
    pub version: u8,
}

/// Takes a handle apart. Every 32 bytes are a handle; whether the type is known is another question.
#[must_use]
pub fn parts(handle: &[u8; 32]) -> HandleParts {
    let mut hash = [0; 21];
    hash.copy_from_slice(&handle[..21]);
    let mut chain_id = [0; 8];
    chain_id.copy_from_slice(&handle[22..30]);
    HandleParts {
        hash,
        index: handle[21],
        chain_id: u64::from_be_bytes(chain_id),
        fhe_type: handle[30],
        version: handle[31],
    }
}
