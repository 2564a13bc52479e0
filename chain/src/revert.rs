//! What a failed call says.
//!
//! Revert data is decoded against the union of the errors of **all** contracts of the protocol, not against those of the
//! contract that was called: an error raised further inside passes through unchanged, and the callee need not declare
//! it (`docs/protocol.md`, "Errors"). Every error that an answer can meet has a class, from the submitter's view.

use std::collections::HashMap;
use std::fmt;
use std::sync::LazyLock;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::sol_types::{Revert as ErrorString, SolError};
use kms_schemas::identity::{Kind, Lane, RequestId};

use crate::release::Release;

/// What to do about a failed answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RevertClass {
    /// The chain already holds this node's answer.
    SuccessEquivalent,
    /// The phase is over or not there yet: read the view that [`Revert::state_check`] names, and decide.
    CheckState,
    /// Wait, and send the same bytes again.
    Retryable,
    /// Normally a node that lags or a reorganisation: retry for a short time against a fresh block, then give up.
    RetryBrieflyThenPermanent,
    /// The answer may be fine, the node's registration or key is not: stop, alert, keep the answer.
    OperatorError,
    /// These bytes can never be accepted.
    Permanent,
}

impl RevertClass {
    /// The name used in logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SuccessEquivalent => "success_equivalent",
            Self::CheckState => "check_state",
            Self::Retryable => "retryable",
            Self::RetryBrieflyThenPermanent => "retry_briefly_then_permanent",
            Self::OperatorError => "operator_error",
            Self::Permanent => "permanent",
        }
    }
}

impl fmt::Display for RevertClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What to read on `ProtocolConfig` when a confirmation comes in the wrong phase. In both cases "no" is either a
/// destruction, which is final, or a node that has not seen the phase yet: retry briefly against a fresh block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateCheck {
    /// `isLiveKmsContext` of this context: yes means that the quorum was reached without us.
    LiveContext(RequestId),
    /// `isValidEpochForContext` of this epoch and its context: yes means that every node confirmed it, ours included.
    ValidEpoch(RequestId),
}

impl StateCheck {
    /// Signature of the view to read.
    #[must_use]
    pub const fn view(self) -> &'static str {
        match self {
            Self::LiveContext(_) => "isLiveKmsContext(uint256)",
            Self::ValidEpoch(_) => "isValidEpochForContext(uint256,uint256)",
        }
    }
}

/// Decoded revert data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Revert {
    /// No data: a malformed or out-of-range argument, out of gas, or (in a batch) not run at all.
    Empty,
    /// Solidity's `Panic(uint256)`.
    Panic(U256),
    /// Solidity's `Error(string)`. No contract of the protocol raises it on purpose.
    Message(String),
    /// An error that one of the contracts of the protocol declares.
    Custom(CustomError),
    /// Anything else.
    Unknown(Bytes),
}

/// An error that one of the contracts of the protocol declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustomError {
    /// Canonical signature, e.g. `NotKmsSigner(address)`.
    pub signature: &'static str,
    /// What to do about it.
    pub class: RevertClass,
    /// One word per argument for an error of static arguments whose data has the right length; empty otherwise.
    pub words: Vec<B256>,
}

impl CustomError {
    /// Name without the arguments' types.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.signature.split('(').next().unwrap_or(self.signature)
    }
}

impl Revert {
    /// Decodes revert data, selector included. Never fails: what is not understood is [`Revert::Unknown`].
    #[must_use]
    pub fn decode(data: &[u8]) -> Self {
        let Some((selector, arguments)) = data.split_first_chunk::<4>() else {
            return if data.is_empty() { Self::Empty } else { Self::Unknown(Bytes::copy_from_slice(data)) };
        };
        if let Some(known) = UNION.get(selector) {
            let words = known.static_words(arguments);
            return Self::Custom(CustomError { signature: known.signature, class: known.class, words });
        }
        match *selector {
            PANIC if arguments.len() == 32 => Self::Panic(U256::from_be_slice(arguments)),
            ERROR if arguments.len() <= MAX_MESSAGE => match ErrorString::abi_decode(data) {
                Ok(error) => Self::Message(error.reason),
                Err(_) => Self::Unknown(Bytes::copy_from_slice(data)),
            },
            _ => Self::Unknown(Bytes::copy_from_slice(data)),
        }
    }

    /// What to do about it. Data that says nothing is worth a few fresh attempts (with more gas where it is empty), and
    /// is final after that.
    #[must_use]
    pub fn class(&self) -> RevertClass {
        match self {
            Self::Custom(error) => error.class,
            Self::Empty | Self::Panic(_) | Self::Message(_) | Self::Unknown(_) => {
                RevertClass::RetryBrieflyThenPermanent
            }
        }
    }

    /// What to do about it when it answers a response to a request of this kind on contracts of this release.
    ///
    /// Key management of v0.13 says `KmsSignerDoesNotMatchTxSender` for *any* wrong signer, also when the signature covers
    /// other data, which later releases call `NotKmsSigner`: there these bytes can never be accepted, and waiting for a
    /// change of the registry would wait for ever.
    #[must_use]
    pub fn class_in(&self, release: Release, kind: Kind) -> RevertClass {
        let any_wrong_signer = release == Release::V0_13 && kind.lane() == Lane::KeyManagement;
        if any_wrong_signer && self.name() == "KmsSignerDoesNotMatchTxSender" {
            RevertClass::Permanent
        } else {
            self.class()
        }
    }

    /// What to read for an error of the class [`RevertClass::CheckState`]; none for every other one, and for data that does
    /// not say whose state it is.
    #[must_use]
    pub fn state_check(&self) -> Option<StateCheck> {
        let Self::Custom(error) = self else { return None };
        let [word] = error.words[..] else { return None };
        match error.name() {
            "KmsContextNotPending" => Some(StateCheck::LiveContext(RequestId(word))),
            "InvalidKmsEpoch" => Some(StateCheck::ValidEpoch(RequestId(word))),
            _ => None,
        }
    }

    /// A short name: of the custom error, or `empty`, `Panic`, `Error`, `unknown`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Panic(_) => "Panic",
            Self::Message(_) => "Error",
            Self::Custom(error) => error.name(),
            Self::Unknown(_) => "unknown",
        }
    }
}

impl fmt::Display for Revert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("reverted without data"),
            Self::Panic(code) => write!(f, "Panic({code:#x})"),
            Self::Message(text) => write!(f, "Error({text:?})"),
            Self::Custom(error) => error.fmt(f),
            Self::Unknown(data) if data.len() <= 36 => write!(f, "unknown error {data}"),
            Self::Unknown(data) => {
                write!(f, "unknown error {} and {} bytes more", Bytes::copy_from_slice(&data[..36]), data.len() - 36)
            }
        }
    }
}

impl fmt::Display for CustomError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.words.is_empty() {
            return f.write_str(self.signature);
        }
        write!(f, "{}(", self.name())?;
        for (index, (kind, word)) in argument_types(self.signature).zip(&self.words).enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            match kind {
                "address" => write!(f, "{separator}{}", Address::from_word(*word))?,
                "uint8" | "uint64" => write!(f, "{separator}{}", U256::from_be_bytes(word.0))?,
                "uint256" => write!(f, "{separator}{:#x}", U256::from_be_bytes(word.0))?,
                _ => write!(f, "{separator}{word}")?,
            }
        }
        f.write_str(")")
    }
}

/// Every error of the protocol's contracts with its class, as `(canonical signature, class)`.
pub fn known_errors() -> impl Iterator<Item = (&'static str, RevertClass)> {
    RESPONSE_ERRORS
        .iter()
        .copied()
        .chain(OTHER_ERRORS.iter().map(|signature| (*signature, RevertClass::RetryBrieflyThenPermanent)))
}

const PANIC: [u8; 4] = [0x4e, 0x48, 0x7b, 0x71];
const ERROR: [u8; 4] = [0x08, 0xc3, 0x79, 0xa0];

/// Longest `Error(string)` that is decoded, in bytes.
const MAX_MESSAGE: usize = 4096;

struct Known {
    signature: &'static str,
    class: RevertClass,
}

impl Known {
    fn static_words(&self, arguments: &[u8]) -> Vec<B256> {
        let types: Vec<&str> = argument_types(self.signature).collect();
        let all_static =
            types.iter().all(|kind| matches!(*kind, "address" | "uint8" | "uint64" | "uint256" | "bytes32"));
        if all_static && arguments.len() == types.len() * 32 {
            arguments.chunks_exact(32).map(B256::from_slice).collect()
        } else {
            Vec::new()
        }
    }
}

fn argument_types(signature: &str) -> impl Iterator<Item = &str> {
    let (_, arguments) = signature.split_once('(').unwrap_or((signature, ")"));
    let arguments = arguments.strip_suffix(')').unwrap_or(arguments);
    arguments.split(',').filter(|kind| !kind.is_empty())
}

static UNION: LazyLock<HashMap<[u8; 4], Known>> = LazyLock::new(|| {
    known_errors()
        .map(|(signature, class)| {
            let hash = keccak256(signature);
            ([hash[0], hash[1], hash[2], hash[3]], Known { signature, class })
        })
        .collect()
});

/// The errors that an answer can meet.
const RESPONSE_ERRORS: &[(&str, RevertClass)] = &[
    ("KmsNodeAlreadySigned(uint256,address)", RevertClass::SuccessEquivalent),
    ("KmsAlreadySignedForPrepKeygen(uint256,address)", RevertClass::SuccessEquivalent),
    ("KmsAlreadySignedForKeygen(uint256,address)", RevertClass::SuccessEquivalent),
    ("KmsAlreadySignedForCrsgen(uint256,address)", RevertClass::SuccessEquivalent),
    ("KmsContextCreationAlreadyConfirmed(address,uint256)", RevertClass::SuccessEquivalent),
    ("EpochActivationAlreadyConfirmed(address,uint256)", RevertClass::SuccessEquivalent),
    ("KmsContextNotPending(uint256)", RevertClass::CheckState),
    ("InvalidKmsEpoch(uint256)", RevertClass::CheckState),
    ("KeyManagementRequestPending()", RevertClass::Retryable),
    ("KmsContextNotCreated(uint256)", RevertClass::Retryable),
    ("DecryptionNotRequested(uint256)", RevertClass::RetryBrieflyThenPermanent),
    ("PrepKeygenNotRequested(uint256)", RevertClass::RetryBrieflyThenPermanent),
    ("KeygenNotRequested(uint256)", RevertClass::RetryBrieflyThenPermanent),
    ("CrsgenNotRequested(uint256)", RevertClass::RetryBrieflyThenPermanent),
    ("NotKmsTxSender(address)", RevertClass::OperatorError),
    ("KmsSignerDoesNotMatchTxSender(address,address)", RevertClass::OperatorError),
    ("KmsContextCreationUnauthorized(address,uint256)", RevertClass::OperatorError),
    ("EpochActivationUnauthorized(address,uint256)", RevertClass::OperatorError),
    ("NotKmsSigner(address)", RevertClass::Permanent),
    ("EpochActivationSignerDoesNotMatchTxSender(address,address)", RevertClass::Permanent),
    ("EmptyEpochActivationAttestation(uint256)", RevertClass::Permanent),
    ("EmptyKeyDigests(uint256)", RevertClass::Permanent),
    ("DecryptionContextMismatch(uint256,uint256,uint256)", RevertClass::Permanent),
    ("InvalidKmsContext(uint256)", RevertClass::Permanent),
    ("InvalidExtraDataLength(uint256,uint256)", RevertClass::Permanent),
    ("UnsupportedExtraDataVersion(uint8)", RevertClass::Permanent),
    ("InvalidNullContextId()", RevertClass::Permanent),
    ("DeserializingExtraDataFail()", RevertClass::Permanent),
    ("ECDSAInvalidSignature()", RevertClass::Permanent),
    ("ECDSAInvalidSignatureLength(uint256)", RevertClass::Permanent),
    ("ECDSAInvalidSignatureS(bytes32)", RevertClass::Permanent),
];

/// All other errors of the contracts, and those of the fee token. They come back from requests and from the owner's
/// calls, and never to an answer; should one do so after all, a fresh attempt is worth it.
const OTHER_ERRORS: &[&str] = &[
    "AbortCrsgenAlreadyDone(uint256)",
    "AbortCrsgenInvalidId(uint256)",
    "AbortKeygenAlreadyDone(uint256)",
    "AbortKeygenInvalidId(uint256)",
    "AccountAlreadyBlocked(address)",
    "AccountNotAllowedToUseCiphertext(bytes32,address)",
    "AccountNotBlocked(address)",
    "AddressEmptyCode(address)",
    "AllGatewayContractsAlreadyPaused()",
    "AllGatewayContractsAlreadyUnpaused()",
    "AlreadyDelegatedOrRevokedInSameBlock(address,address,address,uint256)",
    "ChainIdNotUint64(uint256)",
    "CiphertextMaterialNotFound(bytes32)",
    "ContractAddressesMaxLengthExceeded(uint256,uint256)",
    "ContractNotInContractAddresses(address,address[])",
    "ContractsMaxLengthExceeded(uint256,uint256)",
    "CoprocessorAlreadyAdded(bytes32,address)",
    "CoprocessorAlreadyAllowedAccount(bytes32,address,address)",
    "CoprocessorAlreadyAllowedPublicDecrypt(bytes32,address)",
    "CoprocessorAlreadyDelegatedUserDecryption(uint256,address,address,address,uint64,uint64,address)",
    "CoprocessorAlreadyRevokedUserDecryption(uint256,address,address,address,uint64,uint64,address)",
    "CoprocessorSignerAlreadyRegistered(address)",
    "CoprocessorSignerDoesNotMatchTxSender(address,address)",
    "CoprocessorTxSenderAlreadyRegistered(address)",
    "CrsAborted(uint256)",
    "CrsNotGenerated(uint256)",
    "CrsgenOngoing(uint256)",
    "CtHandleChainIdDiffersFromContractChainId(bytes32,uint256,uint256)",
    "CurrentKMSContextCannotBeDestroyed(uint256)",
    "CurrentKmsContextCannotBeDestroyed(uint256)",
    "CustodianSignerAlreadyRegistered(address)",
    "CustodianTxSenderAlreadyRegistered(address)",
    "DelegateCannotBeContractAddress(address)",
    "DelegateCannotBeWildcard(address)",
    "DelegatorAddressInContractAddresses(address,address[])",
    "DeserializingDecryptionProofFail()",
    "DifferentKeyIdsNotAllowed((bytes32,uint256,bytes32,address[]),(bytes32,uint256,bytes32,address[]))",
    "DuplicateChainId(uint64)",
    "ERC1967InvalidImplementation(address)",
    "ERC1967NonPayable()",
    "ERC20InsufficientAllowance(address,uint256,uint256)",
    "ERC20InsufficientBalance(address,uint256,uint256)",
    "EmptyChainUpgradeWindows()",
    "EmptyContractAddresses()",
    "EmptyCoprocessors()",
    "EmptyCtHandleContractPairs()",
    "EmptyCtHandles()",
    "EmptyCustodians()",
    "EmptyDecryptionProof()",
    "EmptyHandles()",
    "EmptyKmsNodes()",
    "EmptySoftwareVersion()",
    "EnforcedPause()",
    "ExpectedPause()",
    "ExpirationDateAlreadySetToSameValue(address,address,address,uint256)",
    "ExpirationDateBeforeOneHour()",
    "ExpirationDateInThePast()",
    "FailedCall()",
    "HandlesListIsEmpty()",
    "HostChainAlreadyDisabled(uint256)",
    "HostChainAlreadyEnabled(uint256)",
    "HostChainAlreadyRegistered(uint256)",
    "HostChainDisabled(uint256)",
    "HostChainNotDisabled(uint256)",
    "HostChainNotRegistered(uint256)",
    "InputVerificationMustBePaused()",
    "InvalidBlockWindow(uint64,uint64,uint64)",
    "InvalidFHEType(uint8)",
    "InvalidHighCoprocessorThreshold(uint256,uint256)",
    "InvalidHighKmsGenThreshold(uint256,uint256)",
    "InvalidHighMpcThreshold(uint256,uint256)",
    "InvalidHighPublicDecryptionThreshold(uint256,uint256)",
    "InvalidHighThreshold(string,uint256,uint256)",
    "InvalidHighUserDecryptionThreshold(uint256,uint256)",
    "InvalidInitialization()",
    "InvalidKMSContext(uint256)",
    "InvalidNullChainId()",
    "InvalidNullCoprocessorThreshold()",
    "InvalidNullDurationDays()",
    "InvalidNullDurationSeconds()",
    "InvalidNullKmsContextId()",
    "InvalidNullKmsGenThreshold()",
    "InvalidNullPublicDecryptionThreshold()",
    "InvalidNullThreshold(string)",
    "InvalidNullUserDecryptionThreshold()",
    "InvalidProposalId()",
    "InvalidUserSignature(bytes)",
    "InvalidationTimestampInTheFuture()",
    "InvalidationTimestampTooLow()",
    "KMSAlreadySigner()",
    "KMSInvalidSigner(address)",
    "KMSSignatureThresholdNotReached(uint256)",
    "KMSSignerNull()",
    "KMSZeroSignature()",
    "KeyAborted(uint256)",
    "KeyNotGenerated(uint256)",
    "KeygenOngoing(uint256)",
    "KmsContextAlreadyRegistered(uint256,uint256)",
    "KmsLifecycleOperationInFlight(uint256,uint256)",
    "KmsNodeNullSigner()",
    "KmsNodeNullTxSender()",
    "KmsSignerAlreadyRegistered(address)",
    "KmsSignerSetExceedsProofFormatLimit(uint256,uint256)",
    "KmsTxSenderAlreadyRegistered(address)",
    "LatestActiveKmsContextCannotBeDestroyed(uint256)",
    "LatestActiveKmsEpochCannotBeDestroyed(uint256)",
    "MaxDecryptionRequestBitSizeExceeded(uint256,uint256)",
    "MaxDurationDaysExceeded(uint256,uint256)",
    "MaxDurationSecondsExceeded(uint256,uint256)",
    "NonIncreasingEpochId(uint256,uint256)",
    "NonIncreasingKmsContextId(uint256,uint256)",
    "NotCoprocessorSigner(address)",
    "NotCoprocessorTxSender(address)",
    "NotCustodianSigner(address)",
    "NotCustodianTxSender(address)",
    "NotDelegatedYet(address,address,address)",
    "NotGatewayOwner(address)",
    "NotHostOwner(address)",
    "NotInitializing()",
    "NotInitializingFromEmptyProxy()",
    "NotOwnerOrGatewayConfig(address)",
    "NotPauser(address)",
    "NotPauserOrGatewayConfig(address)",
    "OwnableInvalidOwner(address)",
    "OwnableUnauthorizedAccount(address)",
    "PublicDecryptNotAllowed(bytes32)",
    "SenderCannotBeContractAddress(address)",
    "SenderCannotBeDelegate(address)",
    "SenderDenied(address)",
    "SenderNotAllowed(address)",
    "SenderNotDecryptionContract(address)",
    "SenderNotInputVerificationContract(address)",
    "SignersSetIsEmpty()",
    "StartTimestampInFuture(uint256,uint256)",
    "ThresholdExceedsProofFormatLimit(string,uint256,uint256)",
    "ThresholdIsAboveNumberOfSigners()",
    "ThresholdIsNull()",
    "UUPSUnauthorizedCallContext()",
    "UUPSUnsupportedProxiableUUID(bytes32)",
    "UnsupportedFHEType(uint8)",
    "UserAddressInContractAddresses(address,address[])",
    "UserDecryptionDelegationCounterTooLow(uint64)",
    "UserDecryptionNotDelegated(uint256,address,address,address)",
    "UserDecryptionRequestExpired(uint256,(uint256,uint256))",
    "UserDecryptionRequestExpiredSeconds(uint256,(uint256,uint256))",
    "ZeroChainId()",
    "ZeroGwStartBlock()",
];
