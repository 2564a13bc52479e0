//! Keys for chains on one's own machine.
//!
//! **Development keys only.** Each follows from the name of its role alone, so that a run can be repeated and anybody who reads
//! this can compute them. Never give one of these accounts anything of value on any chain.

use alloy::primitives::{B256, keccak256};
use alloy::signers::local::PrivateKeySigner;

/// The key of a role, e.g. `node 1 signer`.
///
/// ```
/// let signer = kms_stack::keys::development_key("node 1 signer");
/// assert_eq!(signer, kms_stack::keys::development_key("node 1 signer"));
/// assert_ne!(signer, kms_stack::keys::development_key("node 2 signer"));
/// ```
pub fn development_key(role: &str) -> PrivateKeySigner {
    let mut seed = keccak256(format!("kms-connector development key: {role}"));
    loop {
        match PrivateKeySigner::from_bytes(&seed) {
            Ok(key) => return key,
            // Zero or above the group's order: about one in 2^128.
            Err(_) => seed = keccak256(seed),
        }
    }
}

/// A key as the services read it from a file: hex digits after `0x`.
pub(crate) fn key_file_text(key: &PrivateKeySigner) -> String {
    format!("{}\n", B256::from(key.to_bytes()))
}
