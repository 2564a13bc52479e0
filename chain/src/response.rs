//! From an answer to the call that carries it to the chain.

use alloy::primitives::{Address, Bytes};
use alloy::sol_types::SolCall;
use kms_schemas::identity::RequestId;
use kms_schemas::record::Answer;

use crate::contracts::{Decryption, KMSGeneration, KeyDigest};
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

/// The call that answers the request `id`; none where the protocol has no answer on chain, or the request is gone.
///
/// The functions have the same selector and arguments in every generation; what is *signed* differs.
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
        Answer::PrepKeygen { signature } => {
            let call =
                KMSGeneration::prepKeygenResponseCall { prepKeygenId: id, signature: signature.signature.clone() };
            (contracts.kms_generation, "prepKeygenResponse", call.abi_encode())
        }
        Answer::Keygen { key_digests, signature, .. } => {
            let digests = key_digests.iter().map(|d| KeyDigest { keyType: d.key_type, digest: d.digest.clone() });
            let call = KMSGeneration::keygenResponseCall {
                keyId: id,
                keyDigests: digests.collect(),
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
        Answer::Done | Answer::Retracted => return None,
    };
    Some(ResponseCall { to, function, calldata: calldata.into() })
}
