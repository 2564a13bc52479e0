//! Keystore files as wallets write them (Web3 Secret Storage, version 3), made here from their definition.

use aes::cipher::{KeyIvInit as _, StreamCipher as _};
use alloy::primitives::{hex, keccak256};
use alloy::signers::local::PrivateKeySigner;
use serde_json::json;

/// The key, encrypted with the password by scrypt, at a cost that suits tests.
///
/// # Panics
/// Never: the parameters are legal.
#[must_use]
pub fn keystore(key: &PrivateKeySigner, password: &str) -> String {
    let (salt, iv) = ([0x5a; 32], [0xa5; 16]);
    let mut derived = [0; 32];
    let cost = scrypt::Params::new(12, 8, 1, 32).expect("legal parameters");
    scrypt::scrypt(password.as_bytes(), &salt, &cost, &mut derived).expect("a legal length");
    let mut aes_key = [0; 16];
    aes_key.copy_from_slice(&derived[..16]);
    let mut text = key.to_bytes().0;
    ctr::Ctr128BE::<aes::Aes128>::new(&aes_key.into(), &iv.into()).apply_keystream(&mut text);
    json!({
        "address": hex::encode(key.address()),
        "crypto": {
            "cipher": "aes-128-ctr",
            "cipherparams": {"iv": hex::encode(iv)},
            "ciphertext": hex::encode(text),
            "kdf": "scrypt",
            "kdfparams": {"dklen": 32, "n": 4_096, "r": 8, "p": 1, "salt": hex::encode(salt)},
            "mac": hex::encode(keccak256([&derived[16..], &text[..]].concat())),
        },
        "id": "00000000-0000-4000-8000-000000000001",
        "version": 3,
    })
    .to_string()
}
