//! The calldata of user decryption requests.
//!
//! The event of a user decryption says neither which contract each handle belongs to, nor whether the request was
//! delegated: both are only in the input of the transaction (`docs/protocol.md`, "Request functions"). The event of a
//! unified one carries all of its arguments, so its calldata is decoded for completeness.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolCall;
use kms_schemas::record::{HandleEntry, UnifiedUserDecryption};

use crate::contracts::{ContractsInfo, CtHandleContractPair, Decryption, RequestValidity, b};

/// A request for a user decryption, as its sender made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserDecryptionCall {
    /// Handle and contract, in request order. A handle may stand twice, also with two contracts: check every pair.
    pub pairs: Vec<(B256, Address)>,
    /// On whose behalf the user asks; none for a direct request.
    pub delegator: Option<Address>,
    /// The user, or the delegate of a delegated request: the address that the event names.
    pub user: Address,
    /// Host chain that the user signed for.
    pub host_chain_id: U256,
    /// Contracts that the user signed for.
    pub contracts: Vec<Address>,
    /// Seconds since 1970 from which the signature is valid.
    pub start_timestamp: U256,
    /// Days for which it is valid.
    pub duration_days: U256,
    /// The user's public key.
    pub public_key: Bytes,
    /// The user's signature.
    pub signature: Bytes,
    /// `extraData` of the request.
    pub extra_data: Bytes,
}

/// Why the input of a transaction is no such request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestCallError {
    /// Another function, or none.
    #[error("the transaction calls no user decryption request function (selector {0})")]
    OtherFunction(Bytes),
    /// The arguments do not decode.
    #[error("{function}: {why}")]
    Undecodable {
        /// The function.
        function: &'static str,
        /// What is wrong.
        why: String,
    },
}

/// Decodes a direct or delegated request, as leniently as the contract does, which accepts encodings that are not
/// canonical. A transaction is bounded by its gas and its chain, and so is what comes out.
///
/// # Errors
/// See [`RequestCallError`].
pub fn decode_user_request(input: &[u8]) -> Result<UserDecryptionCall, RequestCallError> {
    let selector = input.get(..4).unwrap_or(input);
    if selector == Decryption::userDecryptionRequestCall::SELECTOR {
        let call: Decryption::userDecryptionRequestCall = arguments(input)?;
        let from = (None, call.userAddress);
        Ok(assemble(
            from,
            call.ctHandleContractPairs,
            &call.requestValidity,
            call.contractsInfo,
            [call.publicKey, call.signature, call.extraData],
        ))
    } else if selector == Decryption::delegatedUserDecryptionRequestCall::SELECTOR {
        let call: Decryption::delegatedUserDecryptionRequestCall = arguments(input)?;
        let from = (Some(call.delegationAccounts.delegatorAddress), call.delegationAccounts.delegateAddress);
        Ok(assemble(
            from,
            call.ctHandleContractPairs,
            &call.requestValidity,
            call.contractsInfo,
            [call.publicKey, call.signature, call.extraData],
        ))
    } else {
        Err(RequestCallError::OtherFunction(Bytes::copy_from_slice(selector)))
    }
}

/// Decodes a unified request, as leniently as [`decode_user_request`]. The result has no materials: the chain adds them
/// to the event.
///
/// # Errors
/// See [`RequestCallError`].
pub fn decode_unified_request(input: &[u8]) -> Result<UnifiedUserDecryption, RequestCallError> {
    let selector = input.get(..4).unwrap_or(input);
    if selector != b::DecryptionUnified::userDecryptionRequestCall::SELECTOR {
        return Err(RequestCallError::OtherFunction(Bytes::copy_from_slice(selector)));
    }
    let call: b::DecryptionUnified::userDecryptionRequestCall = arguments(input)?;
    let entry = |entry: b::HandleEntry| HandleEntry {
        handle: entry.handle,
        contract: entry.contractAddress,
        owner: entry.ownerAddress,
    };
    Ok(UnifiedUserDecryption {
        materials: Vec::new(),
        entries: call.handles.into_iter().map(entry).collect(),
        user_address: call.userAddress,
        public_key: call.publicKey,
        allowed_contracts: call.allowedContracts,
        start_timestamp: call.requestValidity.startTimestamp,
        duration_seconds: call.requestValidity.durationSeconds,
        extra_data: call.extraData,
        signature: call.signature,
    })
}

fn arguments<C: SolCall>(input: &[u8]) -> Result<C, RequestCallError> {
    C::abi_decode(input)
        .map_err(|error| RequestCallError::Undecodable { function: C::SIGNATURE, why: error.to_string() })
}

fn assemble(
    (delegator, user): (Option<Address>, Address),
    pairs: Vec<CtHandleContractPair>,
    validity: &RequestValidity,
    contracts: ContractsInfo,
    [public_key, signature, extra_data]: [Bytes; 3],
) -> UserDecryptionCall {
    UserDecryptionCall {
        pairs: pairs.into_iter().map(|pair| (pair.ctHandle, pair.contractAddress)).collect(),
        delegator,
        user,
        host_chain_id: contracts.chainId,
        contracts: contracts.addresses,
        start_timestamp: validity.startTimestamp,
        duration_days: validity.durationDays,
        public_key,
        signature,
        extra_data,
    }
}
