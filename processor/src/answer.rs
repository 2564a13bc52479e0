//! What KMS Core's results have in common on their way to an answer that may be published: complete, fitting the request, and
//! signed by the configured signer over the digest recomputed here (`docs/protocol.md`, "Signed messages"). What makes a
//! result complete and fitting is checked by its operation.
//!
//! Pure: takes values, returns values.

use alloy::primitives::{Address, B256};
use kms_chain::eip712::{self, Domain, Domains};
use kms_proto::kms::v1 as core;
use kms_schemas::identity::RequestId;
use kms_schemas::record::{KeyDigest, Signed};

use crate::codes;
use crate::error::Trouble;

/// Whose signatures are accepted, and under which domains.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// The KMS node's signer.
    pub signer: Address,
    /// Domains of the contracts that are answered.
    pub domains: Domains,
}

impl Verifier {
    /// The domain of the Decryption contract.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] if there is none.
    pub fn decryption(&self) -> Result<&Domain, Trouble> {
        configured(self.domains.decryption.as_ref(), "Decryption")
    }

    /// The domain of the KMSGeneration contract.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] if there is none.
    pub fn kms_generation(&self) -> Result<&Domain, Trouble> {
        configured(self.domains.kms_generation.as_ref(), "KMSGeneration")
    }

    /// The domain of the ProtocolConfig contract.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] if there is none.
    pub fn protocol_config(&self) -> Result<&Domain, Trouble> {
        configured(self.domains.protocol_config.as_ref(), "ProtocolConfig")
    }

    /// Accepts a signature of the configured signer over `digest`.
    ///
    /// # Errors
    /// [`Trouble::MayHeal`]: what KMS Core answered cannot be published.
    pub fn check(&self, digest: B256, signature: Vec<u8>) -> Result<Signed, Trouble> {
        let recovered = eip712::recover(digest, &signature).map_err(|error| {
            Trouble::may_heal(codes::SIGNATURE_WRONG, format!("signature over {digest} is not usable: {error}"))
        })?;
        if recovered != self.signer {
            return Err(Trouble::may_heal(
                codes::SIGNATURE_WRONG,
                format!("signature over {digest} recovers to {recovered}, configured signer is {}", self.signer),
            ));
        }
        Ok(Signed { signature: signature.into(), digest, signer: recovered })
    }
}

fn configured<'a>(domain: Option<&'a Domain>, contract: &str) -> Result<&'a Domain, Trouble> {
    domain
        .ok_or_else(|| Trouble::permanent(codes::CHAIN_NOT_CONFIGURED, format!("no {contract} contract is configured")))
}

/// A result that lacks a part, or does not fit its request.
pub fn malformed(text: impl Into<String>) -> Trouble {
    Trouble::may_heal(codes::ANSWER_MALFORMED, text)
}

/// A field of a result names the id that was asked for.
///
/// # Errors
/// [`Trouble::MayHeal`] if it names none, or another.
pub fn expect_id(field: &str, named: Option<&core::RequestId>, wanted: RequestId) -> Result<(), Trouble> {
    let named = named.ok_or_else(|| malformed(format!("the result names no {field}")))?;
    let wanted = wanted.to_core_hex();
    let given = named.request_id.trim().trim_start_matches("0x");
    if given.eq_ignore_ascii_case(&wanted) {
        return Ok(());
    }
    Err(malformed(format!("{field} is {given:?}, the request's is {wanted}")))
}

/// KMS Core's names of key types, with the contract's numbers.
const KEY_TYPES: [(&str, u8); 3] = [("ServerKey", 0), ("PublicKey", 1), ("CompressedXofKeySet", 3)];

/// The digests of a key, in signed order.
///
/// # Errors
/// [`Trouble::MayHeal`] for none, or an unknown key type.
pub fn key_digests(digests: Vec<core::KeyDigest>) -> Result<Vec<KeyDigest>, Trouble> {
    if digests.is_empty() {
        return Err(malformed("the result has no key digest"));
    }
    let one = |digest: core::KeyDigest| {
        let known = KEY_TYPES.iter().find(|(name, _)| *name == digest.key_type);
        let (_, key_type) = known.ok_or_else(|| malformed(format!("unknown key type {:?}", digest.key_type)))?;
        Ok(KeyDigest { key_type: *key_type, digest: digest.digest.into() })
    };
    digests.into_iter().map(one).collect()
}

/// The digests of a key, as KMS Core is told them.
///
/// # Errors
/// [`Trouble::Permanent`] for a key type that KMS Core has no name for.
pub fn core_key_digests(digests: &[KeyDigest]) -> Result<Vec<core::KeyDigest>, Trouble> {
    let one = |digest: &KeyDigest| {
        let known = KEY_TYPES.iter().find(|(_, key_type)| *key_type == digest.key_type);
        let (name, _) = known.ok_or_else(|| {
            Trouble::permanent(codes::REQUEST_INVALID, format!("kms core has no key type {}", digest.key_type))
        })?;
        Ok(core::KeyDigest { key_type: (*name).to_owned(), digest: digest.digest.to_vec() })
    };
    digests.iter().map(one).collect()
}
