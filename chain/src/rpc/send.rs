//! What a node says to a raw transaction.

use alloy::primitives::B256;

use super::error::{ErrorObject, OutageCause};

/// What became of a transaction that was sent.
///
/// Only [`Self::Accepted`] and [`Self::AlreadyKnown`] say that the node holds it, and only inclusion says that it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// The node took it.
    Accepted(B256),
    /// The node has it already.
    AlreadyKnown,
    /// The account's nonce has passed this one: by this very transaction, by another variant of it, or by a foreign use
    /// of the account. Look for the receipt.
    NonceTooLow,
    /// A transaction before this one is missing, and the node does not keep it until that comes.
    NonceTooHigh,
    /// Another transaction with this nonce is in the pool, and this one pays too little to replace it.
    ReplacementUnderpriced,
    /// It pays less than the base fee, or less than the node's minimum.
    FeeTooLow,
    /// The account cannot pay.
    InsufficientFunds,
    /// The node holds as many transactions of this account as it wants to; of an account with a delegation
    /// (EIP-7702) that may be one.
    AccountLimit,
    /// The node has no room, or asks to try again later.
    Busy,
    /// Its gas limit is below what it needs for a start, or above what the chain takes.
    GasLimit,
    /// Any other refusal: the node does not hold it.
    Refused {
        /// JSON-RPC error code.
        code: i64,
        /// The node's message, shortened.
        message: String,
    },
    /// The node did not say: it may hold the transaction, and the transaction may be included at any time.
    Uncertain(OutageCause),
    /// The transaction never left: no endpoint could be reached.
    Unsent(OutageCause),
}

impl SendOutcome {
    /// Whether the node holds the transaction.
    #[must_use]
    pub fn is_held(&self) -> bool {
        matches!(self, Self::Accepted(_) | Self::AlreadyKnown)
    }

    /// Name for logs and metric labels.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Accepted(_) => "accepted",
            Self::AlreadyKnown => "already_known",
            Self::NonceTooLow => "nonce_too_low",
            Self::NonceTooHigh => "nonce_too_high",
            Self::ReplacementUnderpriced => "replacement_underpriced",
            Self::FeeTooLow => "fee_too_low",
            Self::InsufficientFunds => "insufficient_funds",
            Self::AccountLimit => "account_limit",
            Self::Busy => "busy",
            Self::GasLimit => "gas_limit",
            Self::Refused { .. } => "refused",
            Self::Uncertain(_) => "uncertain",
            Self::Unsent(_) => "unsent",
        }
    }

    pub(crate) fn from_object(object: &ErrorObject) -> Self {
        let text = object.message.to_ascii_lowercase();
        for (parts, outcome) in TEXTS {
            if parts.iter().all(|part| text.contains(part)) {
                return outcome.clone();
            }
        }
        if text.contains("deadline exceeded") || text.contains("timeout") || text.contains("timed out") {
            return Self::Uncertain(OutageCause::Transport(object.message.clone()));
        }
        Self::Refused { code: object.code, message: object.message.clone() }
    }
}

/// Parts that all stand in a message, and what it means; the first match counts.
const TEXTS: &[(&[&str], SendOutcome)] = &[
    (&["already known"], SendOutcome::AlreadyKnown),
    (&["already imported"], SendOutcome::AlreadyKnown),
    (&["known transaction"], SendOutcome::AlreadyKnown),
    (&["existing tx with same hash"], SendOutcome::AlreadyKnown),
    (&["already in mempool"], SendOutcome::AlreadyKnown),
    (&["replacement", "underpriced"], SendOutcome::ReplacementUnderpriced),
    (&["could not replace existing"], SendOutcome::ReplacementUnderpriced),
    (&["future transaction tries to replace pending"], SendOutcome::ReplacementUnderpriced),
    (&["in-flight transaction limit"], SendOutcome::AccountLimit),
    (&["gapped-nonce", "delegated"], SendOutcome::AccountLimit),
    (&["gapped nonce", "delegated"], SendOutcome::AccountLimit),
    (&["account limit exceeded"], SendOutcome::AccountLimit),
    (&["already reserved"], SendOutcome::AccountLimit),
    (&["nonce too low"], SendOutcome::NonceTooLow),
    (&["nonce is too low"], SendOutcome::NonceTooLow),
    (&["nonce too high"], SendOutcome::NonceTooHigh),
    (&["nonce is too high"], SendOutcome::NonceTooHigh),
    (&["nonce gap"], SendOutcome::NonceTooHigh),
    (&["nonce too distant"], SendOutcome::NonceTooHigh),
    (&["max fee per gas less than block base fee"], SendOutcome::FeeTooLow),
    (&["fee", "less than", "base fee"], SendOutcome::FeeTooLow),
    (&["gas price below"], SendOutcome::FeeTooLow),
    (&["underpriced"], SendOutcome::FeeTooLow),
    (&["feetoolow"], SendOutcome::FeeTooLow),
    (&["fee too low"], SendOutcome::FeeTooLow),
    (&["insufficient funds"], SendOutcome::InsufficientFunds),
    (&["insufficient balance"], SendOutcome::InsufficientFunds),
    (&["pool is full"], SendOutcome::Busy),
    (&["pool overflow"], SendOutcome::Busy),
    (&["please retry transaction"], SendOutcome::Busy),
    (&["intrinsic gas"], SendOutcome::GasLimit),
    (&["exceeds block gas limit"], SendOutcome::GasLimit),
    (&["gas limit too high"], SendOutcome::GasLimit),
    (&["gas limit is too high"], SendOutcome::GasLimit),
    (&["gas too high"], SendOutcome::GasLimit),
    (&["gas too low"], SendOutcome::GasLimit),
    (&["floor data gas"], SendOutcome::GasLimit),
    (&["gas limit reached"], SendOutcome::GasLimit),
    (&["transaction gas limit"], SendOutcome::GasLimit),
];
