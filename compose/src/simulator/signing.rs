//! The node's signatures: EIP-712 for the chain, the internal one for old clients, and the key they are checked with.

use alloy::primitives::{Address, B256};
use alloy::signers::k256::ecdsa::{Signature, SigningKey, signature::Signer};
use alloy::sol_types::{Eip712Domain, SolStruct};

use kms_proto::encoding;
use kms_proto::kms::v1::{SigningSchemeType, TypedSignature};

use super::material::shake;

alloy::sol! {
    /// Links the shares of a user decryption to the user's key and address.
    #[derive(Debug)]
    struct UserDecryptionLinker {
        bytes publicKey;
        bytes32[] handles;
        address userAddress;
    }
}

/// Separator of the internal signature over a public decryption's payload.
pub(super) const PUBLIC_DECRYPTION: &[u8] = b"PUBL_DEC";
/// Separator of the internal signature over a user decryption's payload.
pub(super) const USER_DECRYPTION: &[u8] = b"USER_DEC";
/// What stands before the made-up signatures of key management.
pub(super) const KEY_MANAGEMENT: &[u8] = b"simulated key management";

/// The node's key pair.
pub(super) struct Signing {
    key: SigningKey,
    verification_key: [u8; encoding::VERIFICATION_KEY_BYTES],
    address: Address,
}

impl Signing {
    pub(super) fn new(key: SigningKey) -> Self {
        let point = key.verifying_key().to_encoded_point(true);
        let mut sec1 = [0; 33];
        sec1.copy_from_slice(point.as_bytes());
        let address = Address::from_public_key(key.verifying_key());
        Self { key, verification_key: encoding::verification_key(&sec1), address }
    }

    /// The address that the signatures recover to.
    pub(super) fn address(&self) -> Address {
        self.address
    }

    /// The `verification_key` of payloads.
    pub(super) fn verification_key(&self) -> Vec<u8> {
        self.verification_key.to_vec()
    }

    /// 65 bytes r, s, v with v 27 or 28 and low s, over the message in the domain.
    pub(super) fn sign<M: SolStruct>(&self, domain: &Eip712Domain, message: &M) -> Result<Vec<u8>, String> {
        self.sign_digest(message.eip712_signing_hash(domain))
    }

    pub(super) fn sign_digest(&self, digest: B256) -> Result<Vec<u8>, String> {
        let signed = self.key.sign_prehash_recoverable(digest.as_slice());
        let (signature, recovery) = signed.map_err(|error| format!("signing failed: {error}"))?;
        let mut out = signature.to_bytes().to_vec();
        out.push(27 + recovery.to_byte());
        Ok(out)
    }

    /// One signature per requested scheme. That of the first scheme is the signature for the chain; those of the others are
    /// made up, with the length of real ones, from the node and the bytes they would cover.
    pub(super) fn sign_in(
        &self,
        schemes: &[SigningSchemeType],
        external_signature: &[u8],
        separator: &[u8],
        payload: &[u8],
    ) -> Vec<TypedSignature> {
        let one = |&scheme: &SigningSchemeType| {
            let length = match scheme {
                SigningSchemeType::Ecdsa256k1 => {
                    return TypedSignature { scheme: scheme.into(), signature: external_signature.to_vec() };
                }
                SigningSchemeType::Ed25519 => 64,
                SigningSchemeType::Mldsa44 => 2420,
                SigningSchemeType::Mldsa65 => 3309,
                SigningSchemeType::Mldsa87 => 4627,
            };
            let parts: [&[u8]; 4] = [self.address.as_slice(), &i32::from(scheme).to_le_bytes(), separator, payload];
            TypedSignature { scheme: scheme.into(), signature: shake(b"simulated signature", &parts, length) }
        };
        schemes.iter().map(one).collect()
    }

    /// 64 bytes r, s with low s, over SHA-256 of separator and bytes.
    pub(super) fn sign_internally(&self, separator: &[u8], bytes: &[u8]) -> Vec<u8> {
        let signature: Signature = self.key.sign(&[separator, bytes].concat());
        signature.normalize_s().unwrap_or(signature).to_bytes().to_vec()
    }
}
