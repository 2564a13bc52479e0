//! From an answer to the call that carries it to the chain.

use alloy::primitives::{Address, Bytes};
use alloy::sol_types::SolCall;
use kms_schemas::identity::RequestId;
use kms_schemas::record::{self, Answer};

use crate::contracts::{Decryption, KMSGeneration, KeyDigest, b};
use crate::event::ContractSet;

/// A call that carries an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseCall {
    /// The contract that is called.
    pub to: Address,
    /// Name of the function.
    pub function: &'static str,
    /// Selector and arguments.
    pub calldata: Bytes,
}

/// The call that answers the request `id`; none where the protocol has no answer on chain, the request is gone, or this
/// chain does not have the contract.
///
/// The functions that exist in every release have the same selector and arguments there; what is *signed* differs.
#[must_use]
pub fn response_call(contracts: &ContractSet, id: RequestId, answer: &Answer) -> Option<ResponseCall> {
    let id = id.as_u256();
    let (to, function, calldata) = match answer {
        Answer::PublicDecryption { decrypted_result, extra_data, signature, .. } => {
            let call = Decryption::publicDecryptionResponseCall {
                decryptionId: id,
                decryptedResult: decrypted_result.clone(),
                signature: signature.signature.clone(),
                extraData: extra_data.clone(),
            };
            (contracts.decryption, "publicDecryptionResponse", call.abi_encode())
        }
        Answer::UserDecryption { share, extra_data, signature, .. } => {
            let call = Decryption::userDecryptionResponseCall {
                decryptionId: id,
                userDecryptedShare: share.clone(),
                signature: signature.signature.clone(),
                extraData: extra_data.clone(),
            };
            (contracts.decryption, "userDecryptionResponse", call.abi_encode())
        }
        Answer::PrepKeygen { signature, .. } => {
            let call =
                KMSGeneration::prepKeygenResponseCall { prepKeygenId: id, signature: signature.signature.clone() };
            (contracts.kms_generation, "prepKeygenResponse", call.abi_encode())
        }
        Answer::Keygen { key_digests: signed, signature, .. } => {
            let call = KMSGeneration::keygenResponseCall {
                keyId: id,
                keyDigests: key_digests(signed),
                signature: signature.signature.clone(),
            };
            (contracts.kms_generation, "keygenResponse", call.abi_encode())
        }
        Answer::Crsgen { crs_digest, signature, .. } => {
            let call = KMSGeneration::crsgenResponseCall {
                crsId: id,
                crsDigest: crs_digest.clone(),
                signature: signature.signature.clone(),
            };
            (contracts.kms_generation, "crsgenResponse", call.abi_encode())
        }
        Answer::KmsContextCreated | Answer::EpochActivation { .. } if !contracts.release.epochs() => return None,
        Answer::KmsContextCreated => {
            let call = b::ProtocolConfig::confirmKmsContextCreationCall { kmsContextId: id };
            (contracts.protocol_config, "confirmKmsContextCreation", call.abi_encode())
        }
        Answer::EpochActivation { keys, crs_list, .. } => {
            let call = b::ProtocolConfig::confirmEpochActivationCall {
                epochId: id,
                keys: keys.iter().map(epoch_key).collect(),
                crsList: crs_list.iter().map(epoch_crs).collect(),
            };
            (contracts.protocol_config, "confirmEpochActivation", call.abi_encode())
        }
        Answer::Done | Answer::Aborted | Answer::Retracted => return None,
    };
    Some(ResponseCall { to: to?, function, calldata: calldata.into() })
}

fn key_digests(signed: &[record::KeyDigest]) -> Vec<KeyDigest> {
    signed.iter().map(|d| KeyDigest { keyType: d.key_type, digest: d.digest.clone() }).collect()
}

fn epoch_key(key: &record::EpochKey) -> b::EpochKeyResult {
    b::EpochKeyResult {
        prepKeygenId: key.prep_keygen_id.as_u256(),
        keyId: key.key_id.as_u256(),
        keyDigests: key_digests(&key.key_digests),
        signature: key.signature.signature.clone(),
    }
}

fn epoch_crs(crs: &record::EpochCrs) -> b::EpochCrsResult {
    b::EpochCrsResult {
        crsId: crs.crs_id.as_u256(),
        maxBitLength: crs.max_bit_length,
        crsDigest: crs.crs_digest.clone(),
        signature: crs.signature.signature.clone(),
    }
}
