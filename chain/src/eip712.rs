//! The typed messages that KMS Core and users sign (`docs/protocol.md`, "Signed messages"), their digests, and strict
//! recovery of the signer.
//!
//! The signed digest of a decryption names no request id: a genuine signature can be replayed under another id with the
//! same handles. Whoever checks a signature must also check that the handles and the public key are the request's.

use std::fmt;

use alloy::primitives::{Address, B256, Bytes, Signature, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Eip712Domain, SolStruct, SolValue};
use kms_schemas::identity::RequestId;
use kms_schemas::record::{Answer, EpochCrs, EpochKey, KeyDigest, Signed, UnifiedUserDecryption};

use crate::event::ContractSet;
use crate::extra_data::ExtraData;
use crate::release::Release;

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
/// The name of `ProtocolConfig`'s domain, which has no view to check it against.
pub const PROTOCOL_CONFIG_DOMAIN_NAME: &str = "ProtocolConfig";
/// The version that the contracts have in their domain by default.
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

    /// The domain of a `ProtocolConfig` contract.
    #[must_use]
    pub fn protocol_config(chain_id: u64, contract: Address) -> Self {
        Self::new(PROTOCOL_CONFIG_DOMAIN_NAME, DOMAIN_VERSION, chain_id, contract)
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

    /// What a KMS node signs for a preprocessing from v0.13 on. `extra_data` as in the request event.
    #[must_use]
    pub fn prep_keygen_with(&self, id: RequestId, extra_data: &Bytes) -> B256 {
        self.digest(&message_b::PrepKeygenVerification { prepKeygenId: id.as_u256(), extraData: extra_data.clone() })
    }

    /// What a KMS node signs for a key from v0.13 on. `key_digests` in signed order (ascending key type), `extra_data` as in
    /// the request event.
    #[must_use]
    pub fn keygen_with(
        &self,
        prep_keygen_id: RequestId,
        key_id: RequestId,
        key_digests: &[KeyDigest],
        extra_data: &Bytes,
    ) -> B256 {
        let digests = key_digests
            .iter()
            .map(|digest| message_b::KeyDigest { keyType: digest.key_type, digest: digest.digest.clone() })
            .collect();
        self.digest(&message_b::KeygenVerification {
            prepKeygenId: prep_keygen_id.as_u256(),
            keyId: key_id.as_u256(),
            keyDigests: digests,
            extraData: extra_data.clone(),
        })
    }

    /// What a KMS node signs for a CRS from v0.13 on. `max_bit_length` is the full `uint256` of the request, `extra_data` as
    /// in the request event.
    #[must_use]
    pub fn crsgen_with(&self, id: RequestId, max_bit_length: U256, crs_digest: &Bytes, extra_data: &Bytes) -> B256 {
        self.digest(&message_b::CrsgenVerification {
            crsId: id.as_u256(),
            maxBitLength: max_bit_length,
            crsDigest: crs_digest.clone(),
            extraData: extra_data.clone(),
        })
    }

    /// What a KMS node signs for a key that it carries over into an epoch, in `ProtocolConfig`'s domain. Context and epoch
    /// are the **new** ones, not those under which the key was made.
    #[must_use]
    pub fn epoch_key(
        &self,
        (context_id, epoch_id): (RequestId, RequestId),
        prep_keygen_id: RequestId,
        key_id: RequestId,
        key_digests: &[KeyDigest],
    ) -> B256 {
        let extra_data = ExtraData::ContextAndEpoch(context_id, epoch_id).to_bytes();
        self.keygen_with(prep_keygen_id, key_id, key_digests, &extra_data)
    }

    /// What a KMS node signs for a CRS that it carries over into an epoch, in `ProtocolConfig`'s domain.
    #[must_use]
    pub fn epoch_crs(
        &self,
        (context_id, epoch_id): (RequestId, RequestId),
        crs_id: RequestId,
        max_bit_length: U256,
        crs_digest: &Bytes,
    ) -> B256 {
        let extra_data = ExtraData::ContextAndEpoch(context_id, epoch_id).to_bytes();
        self.crsgen_with(crs_id, max_bit_length, crs_digest, &extra_data)
    }

    /// What the user signs for a unified user decryption, if this is the `Decryption` domain of the Gateway: chain id of the
    /// **host chain** of the handles, which are not signed themselves.
    #[must_use]
    pub fn unified_user_request(&self, host_chain_id: u64, request: &UnifiedUserDecryption) -> B256 {
        self.with_chain_id(host_chain_id).digest(&message_b::UserDecryptRequestVerification {
            userAddress: request.user_address,
            publicKey: request.public_key.clone(),
            allowedContracts: request.allowed_contracts.clone(),
            startTimestamp: request.start_timestamp,
            durationSeconds: request.duration_seconds,
            extraData: request.extra_data.clone(),
        })
    }
}

/// The hash over all keys and CRSs of an epoch that every node must confirm alike (`docs/protocol.md`, "Contexts and
/// epochs"): `dataHash` of `EpochActivationConfirmation`. The order counts, signatures do not.
#[must_use]
pub fn epoch_data_hash(keys: &[EpochKey], crs_list: &[EpochCrs]) -> B256 {
    let key_hash = |key: &EpochKey| {
        let digests: Vec<u8> = key
            .key_digests
            .iter()
            .flat_map(|digest| {
                let digest = message::KeyDigest { keyType: digest.key_type, digest: digest.digest.clone() };
                digest.eip712_hash_struct().0
            })
            .collect();
        keccak256((key.prep_keygen_id.as_u256(), key.key_id.as_u256(), keccak256(digests)).abi_encode_params())
    };
    let crs_hash = |crs: &EpochCrs| {
        keccak256((crs.crs_id.as_u256(), crs.max_bit_length, crs.crs_digest.clone()).abi_encode_params())
    };
    let keys: Vec<B256> = keys.iter().map(key_hash).collect();
    let crs_list: Vec<B256> = crs_list.iter().map(crs_hash).collect();
    keccak256((keys, crs_list).abi_encode_params())
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

/// The domains in which a node's answers are signed. Which are there depends on the chain, or on the chains, that they
/// describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domains {
    /// Domain of `Decryption`, on the Gateway.
    pub decryption: Option<Domain>,
    /// Domain of `KMSGeneration`.
    pub kms_generation: Option<Domain>,
    /// Domain of `ProtocolConfig`, on the Ethereum host chain.
    pub protocol_config: Option<Domain>,
    /// Release of the contracts, which selects the shape of the signed messages.
    pub release: Release,
}

/// The domain that an answer is signed in is not known here: the answer goes to another chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no {0} contract is configured, whose domain the answer is signed in")]
pub struct NoDomain(pub &'static str);

impl Domains {
    /// The default domains of the contracts of one chain.
    #[must_use]
    pub fn new(chain_id: u64, contracts: &ContractSet) -> Self {
        Self {
            decryption: contracts.decryption.map(|contract| Domain::decryption(chain_id, contract)),
            kms_generation: contracts.kms_generation.map(|contract| Domain::kms_generation(chain_id, contract)),
            protocol_config: contracts.protocol_config.map(|contract| Domain::protocol_config(chain_id, contract)),
            release: contracts.release,
        }
    }

    /// These domains, and where one is missing, that of another chain.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            decryption: self.decryption.or(other.decryption),
            kms_generation: self.kms_generation.or(other.kms_generation),
            protocol_config: self.protocol_config.or(other.protocol_config),
            release: self.release,
        }
    }

    /// Every signature that a node's answer to the request `id` carries, with the digest that it is made over, recomputed
    /// from the answer. Empty for an answer that carries none.
    ///
    /// # Errors
    /// The answer is signed in a domain that is not here. It must not be taken for unsigned.
    pub fn signed<'a>(&self, id: RequestId, answer: &'a Answer) -> Result<Vec<(B256, &'a Signed)>, NoDomain> {
        let decryption = || self.decryption.as_ref().ok_or(NoDomain("Decryption"));
        let generation = || self.kms_generation.as_ref().ok_or(NoDomain("KMSGeneration"));
        let with_extra_data = self.release.signs_extra_data();
        Ok(match answer {
            Answer::PublicDecryption { handles, decrypted_result, extra_data, signature } => {
                vec![(decryption()?.public_decryption(handles, decrypted_result, extra_data), signature)]
            }
            Answer::UserDecryption { public_key, handles, share, extra_data, signature } => {
                vec![(decryption()?.user_decryption(public_key, handles, share, extra_data), signature)]
            }
            Answer::PrepKeygen { extra_data, signature } if with_extra_data => {
                vec![(generation()?.prep_keygen_with(id, extra_data), signature)]
            }
            Answer::PrepKeygen { signature, .. } => vec![(generation()?.prep_keygen(id), signature)],
            Answer::Keygen { prep_keygen_id, key_digests, extra_data, signature } if with_extra_data => {
                vec![(generation()?.keygen_with(*prep_keygen_id, id, key_digests, extra_data), signature)]
            }
            Answer::Keygen { prep_keygen_id, key_digests, signature, .. } => {
                vec![(generation()?.keygen(*prep_keygen_id, id, key_digests), signature)]
            }
            Answer::Crsgen { max_bit_length, crs_digest, extra_data, signature } if with_extra_data => {
                vec![(generation()?.crsgen_with(id, *max_bit_length, crs_digest, extra_data), signature)]
            }
            Answer::Crsgen { max_bit_length, crs_digest, signature, .. } => {
                vec![(generation()?.crsgen(id, *max_bit_length, crs_digest), signature)]
            }
            Answer::EpochActivation { context_id, keys, crs_list } => {
                let domain = self.protocol_config.as_ref().ok_or(NoDomain("ProtocolConfig"))?;
                let place = (*context_id, id);
                let key = |key: &'a EpochKey| {
                    (domain.epoch_key(place, key.prep_keygen_id, key.key_id, &key.key_digests), &key.signature)
                };
                let crs = |crs: &'a EpochCrs| {
                    (domain.epoch_crs(place, crs.crs_id, crs.max_bit_length, &crs.crs_digest), &crs.signature)
                };
                keys.iter().map(key).chain(crs_list.iter().map(crs)).collect()
            }
            Answer::KmsContextCreated | Answer::Done | Answer::Aborted | Answer::Retracted => Vec::new(),
        })
    }

    /// The digest that a node's answer to the request `id` is signed over, recomputed from the answer; none for answers
    /// that carry no signature, for an epoch's, which carries many (see [`Domains::signed`]), and for those whose domain is
    /// not here.
    #[must_use]
    pub fn answer_digest(&self, id: RequestId, answer: &Answer) -> Option<B256> {
        match self.signed(id, answer).ok()?[..] {
            [(digest, _)] if !matches!(answer, Answer::EpochActivation { .. }) => Some(digest),
            _ => None,
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

    fn id(value: u64) -> RequestId {
        RequestId::from(U256::from(value))
    }

    fn unchecked() -> Signed {
        Signed { signature: Bytes::new(), digest: B256::ZERO, signer: Address::ZERO }
    }

    #[test]
    fn the_digest_of_an_answer_is_recomputed_from_the_answer_alone() {
        let contracts = ContractSet::gateway_a(Address::repeat_byte(1), Address::repeat_byte(2));
        let domains = Domains::new(7, &contracts);
        let (decryption, generation) = (domains.decryption.clone().unwrap(), domains.kms_generation.clone().unwrap());
        let answer = Answer::PrepKeygen { extra_data: Bytes::from_static(b"x"), signature: unchecked() };
        assert_eq!(domains.answer_digest(id(3), &answer), Some(generation.prep_keygen(id(3))));
        assert_eq!(domains.answer_digest(id(3), &Answer::Done), None);
        assert_eq!(decryption.with_chain_id(8).with_chain_id(7), decryption);
        assert_ne!(decryption.with_chain_id(8).separator(), decryption.separator());
    }

    #[test]
    fn from_v0_13_on_key_management_is_signed_over_extra_data_too() {
        let host = ContractSet::host(Release::V0_13, Address::repeat_byte(1), Address::repeat_byte(2));
        let extra_data = Bytes::from_static(b"x");
        let answer = Answer::PrepKeygen { extra_data: extra_data.clone(), signature: unchecked() };
        let domains = Domains::new(7, &host);
        let expected = domains.kms_generation.as_ref().unwrap().prep_keygen_with(id(3), &extra_data);
        assert_eq!(domains.answer_digest(id(3), &answer), Some(expected));
        let older = Domains { release: Release::V0_12, ..domains };
        assert_ne!(older.answer_digest(id(3), &answer), Some(expected));
    }

    #[test]
    fn an_answer_whose_domain_is_elsewhere_is_not_taken_for_unsigned() {
        let gateway = Domains::new(7, &ContractSet::gateway(Release::V0_15, Address::repeat_byte(1)));
        let host = ContractSet::host(Release::V0_15, Address::repeat_byte(2), Address::repeat_byte(3));
        let answer = Answer::PrepKeygen { extra_data: Bytes::new(), signature: unchecked() };
        assert_eq!(gateway.signed(id(3), &answer), Err(NoDomain("KMSGeneration")));
        let epoch = Answer::EpochActivation { context_id: id(1), keys: Vec::new(), crs_list: Vec::new() };
        assert_eq!(gateway.signed(id(3), &epoch), Err(NoDomain("ProtocolConfig")));
        let both = gateway.or(Domains::new(8, &host));
        assert_eq!(both.signed(id(3), &answer).map(|signatures| signatures.len()), Ok(1));
        assert_eq!(both.signed(id(3), &Answer::KmsContextCreated), Ok(Vec::new()));
    }

    #[test]
    fn every_signature_of_an_epoch_is_recomputed_under_the_new_context_and_epoch() {
        let host = ContractSet::host(Release::V0_15, Address::repeat_byte(2), Address::repeat_byte(3));
        let domains = Domains::new(7, &host);
        let key = EpochKey { prep_keygen_id: id(3), key_id: id(4), key_digests: Vec::new(), signature: unchecked() };
        let digest = Bytes::from_static(b"d");
        let crs = EpochCrs {
            crs_id: id(5),
            max_bit_length: U256::from(6),
            crs_digest: digest.clone(),
            signature: unchecked(),
        };
        let answer = Answer::EpochActivation { context_id: id(1), keys: vec![key], crs_list: vec![crs] };
        let extra_data = ExtraData::ContextAndEpoch(id(1), id(2)).to_bytes();
        let domain = domains.protocol_config.as_ref().unwrap();
        let digests: Vec<B256> =
            domains.signed(id(2), &answer).unwrap().into_iter().map(|(digest, _)| digest).collect();
        assert_eq!(
            digests,
            [
                domain.keygen_with(id(3), id(4), &[], &extra_data),
                domain.crsgen_with(id(5), U256::from(6), &digest, &extra_data),
            ]
        );
        assert_eq!(domains.answer_digest(id(2), &answer), None);
    }
}
