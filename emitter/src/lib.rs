//! Submits signed results to the contracts and settles each.

pub mod codes;
pub mod fees;
pub mod gas;
pub mod nonce;
pub mod verdict;
pub mod verify;
