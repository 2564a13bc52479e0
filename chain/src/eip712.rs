//! The typed messages that KMS Core and users sign (`docs/protocol.md`, "Signed messages"), their digests, and strict
//! recovery of the signer.
//!
//! The signed digest of a decryption names no request id: a genuine signature can be replayed under another id with the
//! same handles. Whoever checks a signature must also check that the handles and the public key are the request's.

use std::fmt;

use alloy::primitives::{Address, B256, Bytes, Signature, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Eip712Domain, SolStruct};
use kms_schemas::identity::RequestId;
use kms_schemas::record::{Answer, KeyDigest};

use crate::event::ContractSet;

/// The typed messages of generation (a), and those of decryptions and user requests, which all generations share.
#[allow(missing_docs, unreachable_pub)]
pub mod message {
    alloy::sol! {
        #![sol(all_derives)]

        struct PublicDecryptVerification {
            bytes32[] ctHandles;
            bytes decryptedResult;
            bytes extraData;
        }

        struct UserDecryptResponseVerification {
            bytes publicKey;
            bytes32[] ctHandles;
            bytes userDecryptedShare;
            bytes extraData;
        }

        struct UserDecryptRequestVerification {
            bytes publicKey;
            address[] contractAddresses;
            uint256 startTimestamp;
            uint256 durationDays;
            bytes extraData;
        }

        struct DelegatedUserDecryptRequestVerification {
            bytes publicKey;
            address[] contractAddresses;
            address delegatorAddress;
            uint256 startTimestamp;
            uint256 durationDays;
            bytes extraData;
        }

        struct KeyDigest {
            uint8 keyType;
            bytes digest;
        }

        struct PrepKeygenVerification {
            uint256 prepKeygenId;
        }

        struct KeygenVerification {
            uint256 prepKeygenId;
            uint256 keyId;
            KeyDigest[] keyDigests;
        }

        struct CrsgenVerification {
            uint256 crsId;
            uint256 maxBitLength;
            bytes crsDigest;
        }
    }
}

/// The messages whose shape is another from v0.13 on: key management carries `extraData`, and user requests of v0.14
/// are unified. The names are the same, the type hashes are not.
#[allow(missing_docs, unreachable_pub)]
pub mod message_b {
    alloy::sol! {
        #![sol(all_derives)]

        struct KeyDigest {
            uint8 keyType;
            bytes digest;
        }

        struct PrepKeygenVerification {
            uint256 prepKeygenId;
            bytes extraData;
        }

        struct KeygenVerification {
            uint256 prepKeygenId;
            uint256 keyId;
            KeyDigest[] keyDigests;
            bytes extraData;
        }

        struct CrsgenVerification {
            uint256 crsId;
            uint256 maxBitLength;
            bytes crsDigest;
            bytes extraData;
        }

        struct UserDecryptRequestVerification {
            address userAddress;
            bytes publicKey;
            address[] allowedContracts;
            uint256 startTimestamp;
            uint256 durationSeconds;
            bytes extraData;
        }
    }
}

/// The name that the `Decryption` contract has in its domain by default.
pub const DECRYPTION_DOMAIN_NAME: &str = "Decryption";
/// The name that the `KMSGeneration` contract has in its domain by default.
pub const KMS_GENERATION_DOMAIN_NAME: &str = "KMSGeneration";
/// The version that both contracts have in their domain by default.
pub const DOMAIN_VERSION: &str = "1";

/// An EIP-712 domain with all of the four fields that the protocol uses, and its separator.
#[derive(Clone, PartialEq, Eq)]
pub struct Domain {
    name: String,
    version: String,
    chain_id: u64,
    contract: Address,
    separator: B256,
}

impl Domain {
    /// A domain with any name and version.
    #[must_use]
    pub fn new(name: impl Into<String>, version: impl Into<String>, chain_id: u64, contract: Address) -> Self {
        let (name, version) = (name.into(), version.into());
        let domain = Eip712Domain {
            name: Some(name.clone().into()),
            version: Some(version.clone().into()),
            chain_id: Some(U256::from(chain_id)),
            verifying_contract: Some(contract),
            salt: None,
        };
        Self { separator: domain.separator(), name, version, chain_id, contract }
    }

    /// The default domain of a `Decryption` contract.
    #[must_use]
    pub fn decryption(chain_id: u64, contract: Address) -> Self {
        Self::new(DECRYPTION_DOMAIN_NAME, DOMAIN_VERSION, chain_id, contract)
    }

    /// The default domain of a `KMSGeneration` contract.
    #[must_use]
    pub fn kms_generation(chain_id: u64, contract: Address) -> Self {
        Self::new(KMS_GENERATION_DOMAIN_NAME, DOMAIN_VERSION, chain_id, contract)
    }

    /// The same contract under another chain id. Users sign their requests with the id of the **host chain** and the
    /// address of the Gateway's `Decryption`.
    #[must_use]
    pub fn with_chain_id(&self, chain_id: u64) -> Self {
        Self::new(self.name.clone(), self.version.clone(), chain_id, self.contract)
    }

    /// `name` of the domain.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `version` of the domain.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `chainId` of the domain.
    #[must_use]
    pub fn chain_id(&self) -> u64 {
        self.chain_id
    }

    /// `verifyingContract` of the domain.
    #[must_use]
    pub fn contract(&self) -> Address {
        self.contract
    }

    /// The domain separator, computed once.
    #[must_use]
    pub fn separator(&self) -> B256 {
        self.separator
    }

    /// The digest of a typed message in this domain.
    #[must_use]
    pub fn digest<M: SolStruct>(&self, message: &M) -> B256 {
        let mut preimage = [0; 66];
        preimage[..2].copy_from_slice(&[0x19, 0x01]);
        preimage[2..34].copy_from_slice(self.separator.as_slice());
        preimage[34..].copy_from_slice(message.eip712_hash_struct().as_slice());
        keccak256(preimage)
    }

    /// What a KMS node signs for a public decryption. `handles` in request order, repetitions kept; `decrypted_result`
    /// one 32-byte word per handle; `extra_data` as KMS Core returned it.
    #[must_use]
    pub fn public_decryption(&self, handles: &[B256], decrypted_result: &Bytes, extra_data: &Bytes) -> B256 {
        self.digest(&message::PublicDecryptVerification {
            ctHandles: handles.to_vec(),
            decryptedResult: decrypted_result.clone(),
            extraData: extra_data.clone(),
        })
    }

    /// What a KMS node signs for a user decryption. `share` is the exact encoding of KMS Core's payload.
    #[must_use]
    pub fn user_decryption(&self, public_key: &Bytes, handles: &[B256], share: &Bytes, extra_data: &Bytes) -> B256 {
        self.digest(&message::UserDecryptResponseVerification {
            publicKey: public_key.clone(),
            ctHandles: handles.to_vec(),
            userDecryptedShare: share.clone(),
            extraData: extra_data.clone(),
        })
    }

    /// What a KMS node of generation (a) signs for a preprocessing.
    #[must_use]
    pub fn prep_keygen(&self, id: RequestId) -> B256 {
        self.digest(&message::PrepKeygenVerification { prepKeygenId: id.as_u256() })
    }

    /// What a KMS node of generation (a) signs for a key. `key_digests` in signed order (ascending key type).
    #[must_use]
    pub fn keygen(&self, prep_keygen_id: RequestId, key_id: RequestId, key_digests: &[KeyDigest]) -> B256 {
        let digests = key_digests
            .iter()
            .map(|digest| message::KeyDigest { keyType: digest.key_type, digest: digest.digest.clone() })
            .collect();
        self.digest(&message::KeygenVerification {
            prepKeygenId: prep_keygen_id.as_u256(),
            keyId: key_id.as_u256(),
            keyDigests: digests,
        })
    }

    /// What a KMS node of generation (a) signs for a CRS. `max_bit_length` is the full `uint256` of the request.
    #[must_use]
    pub fn crsgen(&self, id: RequestId, max_bit_length: U256, crs_digest: &Bytes) -> B256 {
        self.digest(&message::CrsgenVerification {
            crsId: id.as_u256(),
            maxBitLength: max_bit_length,
            crsDigest: crs_digest.clone(),
        })
    }
}

impl fmt::Debug for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} of {} on chain {}", self.name, self.version, self.contract, self.chain_id)
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The domains of one deployment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domains {
    /// Domain of `Decryption`.
    pub decryption: Domain,
    /// Domain of `KMSGeneration`.
    pub kms_generation: Domain,
}

impl Domains {
    /// The default domains of a deployment.
    #[must_use]
    pub fn new(chain_id: u64, contracts: &ContractSet) -> Self {
        Self {
            decryption: Domain::decryption(chain_id, contracts.decryption),
            kms_generation: Domain::kms_generation(chain_id, contracts.kms_generation),
        }
    }

    /// The digest that a node's answer to the request `id` is signed over, recomputed from the answer; none for answers
    /// that carry no signature.
    #[must_use]
    pub fn answer_digest(&self, id: RequestId, answer: &Answer) -> Option<B256> {
        match answer {
            Answer::PublicDecryption { handles, decrypted_result, extra_data, .. } => {
                Some(self.decryption.public_decryption(handles, decrypted_result, extra_data))
            }
            Answer::UserDecryption { public_key, handles, share, extra_data, .. } => {
                Some(self.decryption.user_decryption(public_key, handles, share, extra_data))
            }
            Answer::PrepKeygen { .. } => Some(self.kms_generation.prep_keygen(id)),
            Answer::Keygen { prep_keygen_id, key_digests, .. } => {
                Some(self.kms_generation.keygen(*prep_keygen_id, id, key_digests))
            }
            Answer::Crsgen { max_bit_length, crs_digest, .. } => {
                Some(self.kms_generation.crsgen(id, *max_bit_length, crs_digest))
            }
            Answer::Done | Answer::Retracted => None,
        }
    }
}

/// Why a signature is none that the contracts would accept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not 65 bytes; the contracts refuse the compact form of 64 bytes.
    #[error("signature has {0} bytes instead of 65")]
    Length(usize),
    /// The last byte is neither 27 nor 28; the contracts refuse 0 and 1.
    #[error("signature has recovery byte {0} instead of 27 or 28")]
    RecoveryByte(u8),
    /// `s` is in the upper half of the group order.
    #[error("signature has a high s")]
    HighS,
    /// No key could have made it.
    #[error("signature recovers to no key")]
    Unrecoverable,
    /// It is somebody else's, or covers other data than the digest.
    #[error("signature recovers to {recovered} instead of {expected}")]
    WrongSigner {
        /// The only accepted signer.
        expected: Address,
        /// Who signed this digest.
        recovered: Address,
    },
}

/// Recovers the signer of a digest under the rules of the contracts: 65 bytes r, s, v with v 27 or 28 and low s.
///
/// # Errors
/// The signature has another form, or recovers to no key.
pub fn recover(digest: B256, signature: &[u8]) -> Result<Address, SignatureError> {
    let bytes: &[u8; 65] = signature.try_into().map_err(|_| SignatureError::Length(signature.len()))?;
    let odd_y = match bytes[64] {
        27 => false,
        28 => true,
        other => return Err(SignatureError::RecoveryByte(other)),
    };
    let r = U256::from_be_slice(&bytes[..32]);
    let s = U256::from_be_slice(&bytes[32..64]);
    let signature = Signature::new(r, s, odd_y);
    if signature.normalize_s().is_some() {
        return Err(SignatureError::HighS);
    }
    let recovered = signature.recover_address_from_prehash(&digest).map_err(|_| SignatureError::Unrecoverable)?;
    // `ecrecover` has no error but the zero address, which the contracts' library refuses.
    if recovered.is_zero() { Err(SignatureError::Unrecoverable) } else { Ok(recovered) }
}

/// Checks that `expected` signed the digest.
///
/// # Errors
/// As [`recover`], and [`SignatureError::WrongSigner`].
pub fn verify(digest: B256, signature: &[u8], expected: Address) -> Result<(), SignatureError> {
    let recovered = recover(digest, signature)?;
    if recovered == expected { Ok(()) } else { Err(SignatureError::WrongSigner { expected, recovered }) }
}

/// Signs a digest in the form that the contracts accept. For simulators, load generators and tests: the connector
/// itself signs no message of the protocol.
///
/// # Errors
/// As the signer; a key in memory does not fail.
pub fn sign(signer: &PrivateKeySigner, digest: B256) -> Result<Bytes, alloy::signers::Error> {
    Ok(Bytes::copy_from_slice(&signer.sign_hash_sync(&digest)?.as_bytes()))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::uint;

    use super::*;

    /// Order of secp256k1.
    const ORDER: U256 = uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);

    fn signed() -> (B256, Address, [u8; 65]) {
        let key = PrivateKeySigner::random();
        let digest = keccak256("digest");
        let signature = sign(&key, digest).expect("a key in memory signs");
        (digest, key.address(), signature[..].try_into().expect("65 bytes"))
    }

    #[test]
    fn a_signature_in_the_contracts_form_recovers_to_its_signer() {
        let (digest, signer, signature) = signed();
        assert!(matches!(signature[64], 27 | 28));
        assert_eq!(recover(digest, &signature), Ok(signer));
        assert_eq!(verify(digest, &signature, signer), Ok(()));
    }

    #[test]
    fn another_length_is_refused_also_the_compact_form() {
        let (digest, _, signature) = signed();
        for length in [0, 1, 64] {
            assert_eq!(recover(digest, &signature[..length]), Err(SignatureError::Length(length)));
        }
        assert_eq!(recover(digest, &[&signature[..], &[0]].concat()), Err(SignatureError::Length(66)));
    }

    #[test]
    fn a_recovery_byte_other_than_27_and_28_is_refused() {
        let (digest, _, mut signature) = signed();
        for byte in (0..=255).filter(|byte| !matches!(byte, 27 | 28)) {
            signature[64] = byte;
            assert_eq!(recover(digest, &signature), Err(SignatureError::RecoveryByte(byte)));
        }
    }

    #[test]
    fn the_other_form_of_a_signature_with_high_s_is_refused() {
        let (digest, _, mut signature) = signed();
        let s = U256::from_be_slice(&signature[32..64]);
        signature[32..64].copy_from_slice(&(ORDER - s).to_be_bytes::<32>());
        signature[64] = 55 - signature[64];
        assert_eq!(recover(digest, &signature), Err(SignatureError::HighS));
    }

    #[test]
    fn values_outside_the_group_recover_to_nothing_and_never_panic() {
        let (digest, _, signature) = signed();
        for (r, s) in [
            (U256::ZERO, U256::ZERO),
            (U256::ZERO, U256::ONE),
            (U256::ONE, U256::ZERO),
            (ORDER, U256::ONE),
            (U256::MAX, U256::ONE),
            (U256::ONE, ORDER),
            (U256::ONE, U256::MAX),
        ] {
            let mut bytes = signature;
            bytes[..32].copy_from_slice(&r.to_be_bytes::<32>());
            bytes[32..64].copy_from_slice(&s.to_be_bytes::<32>());
            let error = recover(digest, &bytes).expect_err("no signature");
            assert!(matches!(error, SignatureError::HighS | SignatureError::Unrecoverable), "{r} {s}: {error}");
        }
    }

    #[test]
    fn a_signature_over_other_data_names_who_signed_instead() {
        let (digest, signer, signature) = signed();
        let error = verify(keccak256("other"), &signature, signer).expect_err("other data");
        assert!(
            matches!(error, SignatureError::WrongSigner { expected, recovered } if expected == signer && recovered != signer)
        );
        let stranger = Address::repeat_byte(7);
        let error = verify(digest, &signature, stranger).expect_err("another signer");
        assert_eq!(error, SignatureError::WrongSigner { expected: stranger, recovered: signer });
    }

    #[test]
    fn the_digest_of_an_answer_is_recomputed_from_the_answer_alone() {
        let contracts = ContractSet { decryption: Address::repeat_byte(1), kms_generation: Address::repeat_byte(2) };
        let domains = Domains::new(7, &contracts);
        let signed = kms_schemas::record::Signed { signature: Bytes::new(), digest: B256::ZERO, signer: Address::ZERO };
        let id = RequestId::from(U256::from(3));
        let answer = Answer::PrepKeygen { signature: signed };
        assert_eq!(domains.answer_digest(id, &answer), Some(domains.kms_generation.prep_keygen(id)));
        assert_eq!(domains.answer_digest(id, &Answer::Done), None);
        assert_eq!(domains.decryption.with_chain_id(8).with_chain_id(7), domains.decryption);
        assert_ne!(domains.decryption.with_chain_id(8).separator(), domains.decryption.separator());
    }
}
