//! Reading a key from a Web3 Secret Storage file of version 3: what geth, clef, `cast wallet` and most wallets write. Pure.
//!
//! Written here, on RustCrypto's ciphers, because the one crate for it panics on a damaged file and believes any cost
//! that a file asks for. An error repeats nothing of what it was given: a private key put in the wrong place must not be printed.

use aes::cipher::{KeyIvInit as _, StreamCipher as _};
use alloy::primitives::{Address, B256, keccak256};
use alloy::signers::local::PrivateKeySigner;
use serde::Deserialize;
use sha2::Sha256;

/// Most memory that a file may ask scrypt for. Wallets ask for 256 MiB.
const MOST_MEMORY: u64 = 1 << 30;
/// Most work that a file may ask for: scrypt's `n·r·p`, of which wallets ask for 2²¹.
const MOST_WORK: u64 = 1 << 25;
/// The same for PBKDF2's rounds, of which wallets ask for 2¹⁸.
const MOST_ROUNDS: u32 = 20_000_000;

/// Why a keystore gives no key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeystoreError {
    /// It is none.
    #[error("not a keystore: a JSON object of Web3 Secret Storage is expected (line {line}, column {column})")]
    Form {
        /// Where reading ended.
        line: usize,
        /// Where in the line.
        column: usize,
    },
    /// It is one that is not read.
    #[error("a keystore whose {0} is not supported")]
    Unsupported(&'static str),
    /// A value in it is impossible.
    #[error("a damaged keystore: {0}")]
    Damaged(&'static str),
    /// It asks for more than anyone needs.
    #[error("a keystore that asks for too much work or memory to be opened")]
    Costly,
    /// The usual case.
    #[error("the password does not open the keystore")]
    Password,
    /// What came out is no key.
    #[error("what the keystore holds is no private key")]
    NoKey,
    /// It says whose key it is, and is wrong.
    #[error("the keystore names {named}, its key belongs to {found}")]
    Address {
        /// As the file says.
        named: Address,
        /// As the key says.
        found: Address,
    },
}

#[derive(Deserialize)]
struct File {
    version: u64,
    #[serde(alias = "Crypto")]
    crypto: Crypto,
    #[serde(default)]
    address: Option<String>,
}

#[derive(Deserialize)]
struct Crypto {
    cipher: String,
    cipherparams: CipherParams,
    ciphertext: String,
    kdf: String,
    kdfparams: KdfParams,
    mac: String,
}

#[derive(Deserialize)]
struct CipherParams {
    iv: String,
}

/// Of both functions; which are needed depends on `kdf`.
#[derive(Deserialize)]
struct KdfParams {
    dklen: u64,
    salt: String,
    n: Option<u64>,
    r: Option<u32>,
    p: Option<u32>,
    c: Option<u32>,
    prf: Option<String>,
}

/// Opens a keystore. Takes the time that the file asks for, a second as a rule: not for a runtime's thread.
///
/// # Errors
/// See [`KeystoreError`].
pub fn open(json: &str, password: &str) -> Result<PrivateKeySigner, KeystoreError> {
    let file: File = serde_json::from_str(json)
        .map_err(|error| KeystoreError::Form { line: error.line(), column: error.column() })?;
    if file.version != 3 {
        return Err(KeystoreError::Unsupported("version"));
    }
    let crypto = file.crypto;
    if crypto.cipher != "aes-128-ctr" {
        return Err(KeystoreError::Unsupported("cipher"));
    }
    let iv = bytes(&crypto.cipherparams.iv, "crypto.cipherparams.iv")?;
    let iv: [u8; 16] = iv.try_into().map_err(|_| KeystoreError::Damaged("crypto.cipherparams.iv"))?;
    let mut text = bytes(&crypto.ciphertext, "crypto.ciphertext")?;
    let mac = bytes(&crypto.mac, "crypto.mac")?;

    let derived = derive(&crypto.kdf, &crypto.kdfparams, password)?;
    if keccak256([&derived[16..], &text[..]].concat()).as_slice() != mac {
        return Err(KeystoreError::Password);
    }
    let mut aes_key = [0; 16];
    aes_key.copy_from_slice(&derived[..16]);
    ctr::Ctr128BE::<aes::Aes128>::new(&aes_key.into(), &iv.into()).apply_keystream(&mut text);
    let key = B256::try_from(text.as_slice()).map_err(|_| KeystoreError::NoKey)?;
    let key = PrivateKeySigner::from_bytes(&key).map_err(|_| KeystoreError::NoKey)?;
    // Optional, and in some files empty.
    if let Some(named) = file.address.and_then(|named| named.parse::<Address>().ok())
        && named != key.address()
    {
        return Err(KeystoreError::Address { named, found: key.address() });
    }
    Ok(key)
}

fn bytes(text: &str, name: &'static str) -> Result<Vec<u8>, KeystoreError> {
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).map_err(|_| KeystoreError::Damaged(name))
}

/// The 32 bytes that the password stands for.
fn derive(function: &str, params: &KdfParams, password: &str) -> Result<[u8; 32], KeystoreError> {
    if params.dklen != 32 {
        return Err(KeystoreError::Unsupported("crypto.kdfparams.dklen"));
    }
    let salt = bytes(&params.salt, "crypto.kdfparams.salt")?;
    let mut derived = [0; 32];
    match (function, params) {
        ("scrypt", KdfParams { n: Some(n), r: Some(r), p: Some(p), .. }) => {
            let (r_wide, p_wide) = (u64::from(*r), u64::from(*p));
            let memory = n.saturating_mul(r_wide).saturating_mul(128);
            if memory > MOST_MEMORY || n.saturating_mul(r_wide).saturating_mul(p_wide) > MOST_WORK {
                return Err(KeystoreError::Costly);
            }
            let damaged = KeystoreError::Damaged("crypto.kdfparams");
            let log_n = u8::try_from(n.checked_ilog2().unwrap_or_default()).unwrap_or_default();
            if !n.is_power_of_two() || log_n == 0 {
                return Err(damaged);
            }
            let params = scrypt::Params::new(log_n, *r, *p, derived.len()).map_err(|_| damaged.clone())?;
            scrypt::scrypt(password.as_bytes(), &salt, &params, &mut derived).map_err(|_| damaged)?;
        }
        ("pbkdf2", KdfParams { c: Some(rounds), prf, .. }) => {
            if prf.as_deref().is_some_and(|prf| prf != "hmac-sha256") {
                return Err(KeystoreError::Unsupported("crypto.kdfparams.prf"));
            }
            if *rounds > MOST_ROUNDS {
                return Err(KeystoreError::Costly);
            }
            if *rounds == 0 {
                return Err(KeystoreError::Damaged("crypto.kdfparams"));
            }
            pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), &salt, *rounds, &mut derived);
        }
        ("scrypt" | "pbkdf2", _) => return Err(KeystoreError::Damaged("crypto.kdfparams")),
        _ => return Err(KeystoreError::Unsupported("crypto.kdf")),
    }
    Ok(derived)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{address, b256};
    use serde_json::{Value, json};

    use super::*;

    /// A test vector of the Web3 Secret Storage Definition. Its other one breaks scrypt's own rule that n < 2^(16·r).
    const PASSWORD: &str = "testpassword";
    const KEY: B256 = b256!("7a28b5ba57c53603b0b07b56bba752f7784bf506fa95edc395f5cf6c7514fe9d");
    const OWNER: Address = address!("008aeeda4d805471df9b2a5b0f38a0c3bcba786b");

    fn pbkdf2_file() -> Value {
        json!({
            "crypto": {
                "cipher": "aes-128-ctr",
                "cipherparams": {"iv": "6087dab2f9fdbbfaddc31a909735c1e6"},
                "ciphertext": "5318b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46",
                "kdf": "pbkdf2",
                "kdfparams": {
                    "c": 262_144,
                    "dklen": 32,
                    "prf": "hmac-sha256",
                    "salt": "ae3cd4e7013836a3df6bd7241b12db061dbe2c6785853cce422d148a624ce0bd"
                },
                "mac": "517ead924a9d0dc3124507e3393d175ce3ff7c1e96529c6c555ce9e51205e9b2"
            },
            "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
            "version": 3
        })
    }

    /// As wallets write it, at their cost; made with the scrypt and AES of OpenSSL.
    const SCRYPT_PASSWORD: &str = "correct horse battery stäple";
    const SCRYPT_KEY: B256 = b256!("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d");

    fn scrypt_file() -> Value {
        json!({
            "address": "70997970c51812dc3a010c7d01b50e0d17dc79c8",
            "crypto": {
                "cipher": "aes-128-ctr",
                "cipherparams": {"iv": "f0b53b2da041fca49ef0b9839060b345"},
                "ciphertext": "8d92d99b80815f224cf689465210532681fe27f7a2c5e60c0600a0b3b28112d3",
                "kdf": "scrypt",
                "kdfparams": {
                    "dklen": 32,
                    "n": 262_144,
                    "r": 8,
                    "p": 1,
                    "salt": "63479ad69a090b258277ec8fba6f99419a2ffb248981510657c944ccd1148e97"
                },
                "mac": "edfd6b1d3a633b89e7781a643cc0c2218a484057daada28d470755356d5a40d0"
            },
            "id": "3198bc9c-6672-5ab3-d995-4942343ae5b6",
            "version": 3
        })
    }

    fn changed(pointer: &str, to: Value) -> String {
        let mut file = pbkdf2_file();
        *file.pointer_mut(pointer).unwrap() = to;
        file.to_string()
    }

    #[test]
    fn files_written_by_others_give_their_keys() {
        let key = open(&pbkdf2_file().to_string(), PASSWORD).unwrap();
        assert_eq!((key.to_bytes(), key.address()), (KEY, OWNER));
        let key = open(&scrypt_file().to_string(), SCRYPT_PASSWORD).unwrap();
        assert_eq!(key.to_bytes(), SCRYPT_KEY);
    }

    #[test]
    fn older_spelling_and_a_named_address_are_read_too() {
        let mut file = pbkdf2_file();
        let crypto = file["crypto"].take();
        file.as_object_mut().unwrap().remove("crypto");
        file["Crypto"] = crypto;
        file["address"] = json!("008aeeda4d805471df9b2a5b0f38a0c3bcba786b");
        assert_eq!(open(&file.to_string(), PASSWORD).unwrap().address(), OWNER);

        let named = Address::repeat_byte(1);
        file["address"] = json!(named);
        assert_eq!(open(&file.to_string(), PASSWORD).unwrap_err(), KeystoreError::Address { named, found: OWNER });
    }

    #[test]
    fn a_wrong_password_and_a_changed_byte_are_the_same_and_say_nothing() {
        let error = open(&pbkdf2_file().to_string(), "hunter2").unwrap_err();
        assert_eq!(error, KeystoreError::Password);
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        let text = "0018b4d5bcd28de64ee5559e671353e16f075ecae9f99c7a79a38af5f869aa46";
        assert_eq!(open(&changed("/crypto/ciphertext", json!(text)), PASSWORD).unwrap_err(), KeystoreError::Password);
    }

    #[test]
    fn what_is_no_keystore_is_refused_without_being_repeated() {
        let secret = KEY.to_string();
        for text in [secret.clone(), format!("\"{secret}\""), format!("{{\"version\": \"{secret}\"}}"), String::new()] {
            let error = open(&text, PASSWORD).unwrap_err();
            assert!(matches!(error, KeystoreError::Form { .. }), "{error}");
            assert!(!format!("{error} {error:?}").contains(&secret[2..]), "{error}");
        }
    }

    #[test]
    fn no_file_makes_it_panic_or_work_for_ever() {
        use KeystoreError::{Costly, Damaged, Unsupported};
        let cases = [
            (changed("/version", json!(4)), Unsupported("version")),
            (changed("/crypto/cipher", json!("aes-256-gcm")), Unsupported("cipher")),
            (changed("/crypto/kdf", json!("argon2id")), Unsupported("crypto.kdf")),
            (changed("/crypto/kdf", json!("scrypt")), Damaged("crypto.kdfparams")),
            (changed("/crypto/kdfparams/prf", json!("hmac-md5")), Unsupported("crypto.kdfparams.prf")),
            (changed("/crypto/kdfparams/dklen", json!(8)), Unsupported("crypto.kdfparams.dklen")),
            (changed("/crypto/kdfparams/c", json!(0)), Damaged("crypto.kdfparams")),
            (changed("/crypto/kdfparams/c", json!(u32::MAX)), Costly),
            (changed("/crypto/kdfparams/salt", json!("zz")), Damaged("crypto.kdfparams.salt")),
            (changed("/crypto/cipherparams/iv", json!("60")), Damaged("crypto.cipherparams.iv")),
            (changed("/crypto/mac", json!("5")), Damaged("crypto.mac")),
        ];
        for (file, expected) in cases {
            assert_eq!(open(&file, PASSWORD).unwrap_err(), expected, "{file}");
        }
        for (n, expected) in [
            (0, Damaged("crypto.kdfparams")),
            (1, Damaged("crypto.kdfparams")),
            (262_143, Damaged("crypto.kdfparams")),
            (1 << 40, Costly),
            (u64::MAX, Costly),
        ] {
            let mut file = scrypt_file();
            file["crypto"]["kdfparams"]["n"] = json!(n);
            assert_eq!(open(&file.to_string(), PASSWORD).unwrap_err(), expected, "n = {n}");
        }
    }
}
