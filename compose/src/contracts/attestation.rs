//! What coprocessors of generation (b) say of a ciphertext beside the object in their bucket (`docs/protocol.md`,
//! "Ciphertext location").

use alloy::primitives::{B256, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use serde_json::json;

use super::error::ContractsError;
use super::request::Material;

const PREFIX: &[u8] = b"FHEVMCTA";
const VERSION: u8 = 1;
/// The only coprocessor context there is.
const COPROCESSOR_CONTEXT: u8 = 1;

/// How a ciphertext is serialised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CiphertextFormat {
    /// `uncompressed_on_cpu`.
    UncompressedOnCpu,
    /// `compressed_on_cpu`.
    #[default]
    CompressedOnCpu,
    /// `uncompressed_on_gpu`.
    UncompressedOnGpu,
    /// `compressed_on_gpu`.
    CompressedOnGpu,
}

impl CiphertextFormat {
    /// Its name, in attestations and in the `ct-format` metadata of generation (a).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UncompressedOnCpu => "uncompressed_on_cpu",
            Self::CompressedOnCpu => "compressed_on_cpu",
            Self::UncompressedOnGpu => "uncompressed_on_gpu",
            Self::CompressedOnGpu => "compressed_on_gpu",
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::UncompressedOnCpu => 10,
            Self::CompressedOnCpu => 11,
            Self::UncompressedOnGpu => 20,
            Self::CompressedOnGpu => 21,
        }
    }
}

/// The key of a handle's object in a bucket of generation (b).
#[must_use]
pub fn attested_object(handle: B256) -> String {
    format!("ct128/{}/{COPROCESSOR_CONTEXT}", alloy::hex::encode(handle))
}

/// The value of the object's metadata `ct-attestation`: JSON, signed with a coprocessor's signing key over the raw hash.
///
/// # Errors
/// [`ContractsError::Signer`]; a key in memory does not fail.
pub fn attestation(
    signer: &PrivateKeySigner,
    material: &Material,
    format: CiphertextFormat,
) -> Result<String, ContractsError> {
    let key_id = material.key_id.as_u256();
    let signed = [
        PREFIX,
        &[VERSION],
        material.handle.as_slice(),
        &key_id.to_be_bytes::<32>(),
        &U256::from(COPROCESSOR_CONTEXT).to_be_bytes::<32>(),
        material.ciphertext_digest.as_slice(),
        material.sns_ciphertext_digest.as_slice(),
        &[format.byte()],
    ]
    .concat();
    let signature = signer.sign_hash_sync(&keccak256(signed))?;
    let fields = json!({
        "version": VERSION,
        "key_id": key_id,
        "ciphertext_digest": material.ciphertext_digest,
        "sns_ciphertext_digest": material.sns_ciphertext_digest,
        "format": format.name(),
        "signer": format!("{:#x}", signer.address()),
        "signature": alloy::hex::encode_prefixed(signature.as_bytes()),
    });
    Ok(fields.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attestation_is_that_of_the_vectors() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../chain/vectors/eip712.json")).unwrap();
        let vector = &vectors["other"]["ciphertext_attestation"];
        let field = |name: &str| vector["fields"][name].as_str().unwrap();
        let hash = |name: &str| field(name).parse::<B256>().unwrap();
        let material = Material {
            handle: hash("handle"),
            key_id: field("key_id").parse::<U256>().unwrap().into(),
            ciphertext_digest: hash("ciphertext_digest"),
            sns_ciphertext_digest: hash("sns_ciphertext_digest"),
        };
        let signer: PrivateKeySigner = vector["private_key"].as_str().unwrap().parse().unwrap();

        let made = attestation(&signer, &material, CiphertextFormat::CompressedOnCpu).unwrap();

        let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(json(&made), json(vector["json_header"].as_str().unwrap()));
        assert_eq!(
            attested_object(material.handle),
            "ct128/7c5f6cb179b5c4c21bd7fa22ee8e4fff1aa70a7c0fff0000000000aa36a70500/1"
        );
    }
}
