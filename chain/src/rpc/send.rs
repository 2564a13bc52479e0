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
    /// The node takes no transactions now: it has no room, it has no sequencer to pass them to, it fails itself. It says nothing
    /// about this transaction, which is sent again as it is.
    Busy(String),
    /// Its gas limit is below what it needs for a start, or above what the chain takes.
    GasLimit,
    /// The node names a fault of the transaction itself, which the same bytes will have again.
    Invalid {
        /// JSON-RPC error code.
        code: i64,
        /// The node's message, shortened.
        message: String,
    },
    /// Any other refusal: the node does not hold it, and what it says is not known here. It may concern this transaction, and it
    /// may be an outage in words of its own.
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
            Self::Busy(_) => "busy",
            Self::GasLimit => "gas_limit",
            Self::Invalid { .. } => "invalid",
            Self::Refused { .. } => "refused",
            Self::Uncertain(_) => "uncertain",
            Self::Unsent(_) => "unsent",
        }
    }

    pub(crate) fn from_object(object: &ErrorObject) -> Self {
        let text = object.message.to_ascii_lowercase();
        let known = TEXTS.iter().find(|(parts, _)| parts.iter().all(|part| text.contains(part)));
        match known {
            Some((_, meaning)) => meaning.outcome(object),
            None if object.code == INTERNAL_ERROR => Meaning::Busy.outcome(object),
            None => Self::Refused { code: object.code, message: object.message.clone() },
        }
    }
}

/// JSON-RPC's "internal error": the node failed, whatever it says about it.
const INTERNAL_ERROR: i64 = -32603;

/// What a text means.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    AlreadyKnown,
    NonceTooLow,
    NonceTooHigh,
    ReplacementUnderpriced,
    FeeTooLow,
    InsufficientFunds,
    AccountLimit,
    GasLimit,
    Busy,
    Invalid,
    Uncertain,
}

impl Meaning {
    fn outcome(self, object: &ErrorObject) -> SendOutcome {
        let message = || object.message.clone();
        match self {
            Self::AlreadyKnown => SendOutcome::AlreadyKnown,
            Self::NonceTooLow => SendOutcome::NonceTooLow,
            Self::NonceTooHigh => SendOutcome::NonceTooHigh,
            Self::ReplacementUnderpriced => SendOutcome::ReplacementUnderpriced,
            Self::FeeTooLow => SendOutcome::FeeTooLow,
            Self::InsufficientFunds => SendOutcome::InsufficientFunds,
            Self::AccountLimit => SendOutcome::AccountLimit,
            Self::GasLimit => SendOutcome::GasLimit,
            Self::Busy => SendOutcome::Busy(message()),
            Self::Invalid => SendOutcome::Invalid { code: object.code, message: message() },
            Self::Uncertain => SendOutcome::Uncertain(OutageCause::Transport(message())),
        }
    }
}

/// Parts that all stand in a message, in lower case, and what it means; the first match counts.
const TEXTS: &[(&[&str], Meaning)] = &[
    (&["unknown transaction"], Meaning::Invalid),
    (&["already known"], Meaning::AlreadyKnown),
    (&["alreadyknown"], Meaning::AlreadyKnown),
    (&["already imported"], Meaning::AlreadyKnown),
    (&["known transaction"], Meaning::AlreadyKnown),
    (&["existing tx with same hash"], Meaning::AlreadyKnown),
    (&["already in mempool"], Meaning::AlreadyKnown),
    (&["replacement", "underpriced"], Meaning::ReplacementUnderpriced),
    (&["replacementnotallowed"], Meaning::ReplacementUnderpriced),
    (&["could not replace existing"], Meaning::ReplacementUnderpriced),
    (&["future transaction tries to replace pending"], Meaning::ReplacementUnderpriced),
    (&["in-flight transaction limit"], Meaning::AccountLimit),
    (&["gapped-nonce", "delegated"], Meaning::AccountLimit),
    (&["gapped nonce", "delegated"], Meaning::AccountLimit),
    (&["account limit exceeded"], Meaning::AccountLimit),
    (&["already reserved"], Meaning::AccountLimit),
    (&["notcurrentnoncefordelegation"], Meaning::AccountLimit),
    (&["delegatorhaspendingtx"], Meaning::AccountLimit),
    (&["nonce too low"], Meaning::NonceTooLow),
    (&["nonce is too low"], Meaning::NonceTooLow),
    (&["oldnonce"], Meaning::NonceTooLow),
    (&["nonce too high"], Meaning::NonceTooHigh),
    (&["nonce is too high"], Meaning::NonceTooHigh),
    (&["nonce gap"], Meaning::NonceTooHigh),
    (&["noncegap"], Meaning::NonceTooHigh),
    (&["nonce", "too distant"], Meaning::NonceTooHigh),
    (&["nonce", "too far in"], Meaning::NonceTooHigh),
    (&["noncetoofarinfuture"], Meaning::NonceTooHigh),
    (&["max fee per gas less than block base fee"], Meaning::FeeTooLow),
    (&["fee", "less than", "base fee"], Meaning::FeeTooLow),
    (&["gas price below"], Meaning::FeeTooLow),
    (&["underpriced"], Meaning::FeeTooLow),
    (&["feetoolow"], Meaning::FeeTooLow),
    (&["fee too low"], Meaning::FeeTooLow),
    (&["insufficient funds"], Meaning::InsufficientFunds),
    (&["insufficientfunds"], Meaning::InsufficientFunds),
    (&["insufficient balance"], Meaning::InsufficientFunds),
    (&["cost exceeds", "balance"], Meaning::InsufficientFunds),
    // geth, reth (also of an account that has all its slots), Erigon, Besu
    (&["pool is full"], Meaning::Busy),
    (&["pool overflow"], Meaning::Busy),
    (&["pool not enabled"], Meaning::Busy),
    (&["intrinsic gas"], Meaning::GasLimit),
    (&["intrinsicgas"], Meaning::GasLimit),
    (&["exceeds block gas limit"], Meaning::GasLimit),
    (&["gaslimitexceeded"], Meaning::GasLimit),
    (&["gas limit too high"], Meaning::GasLimit),
    (&["gas limit is too high"], Meaning::GasLimit),
    (&["gas too high"], Meaning::GasLimit),
    (&["gas too low"], Meaning::GasLimit),
    (&["floor data gas"], Meaning::GasLimit),
    (&["gas limit reached"], Meaning::GasLimit),
    (&["transaction gas limit"], Meaning::GasLimit),
    // Arbitrum: a sequencer that changes or has stopped, a node that passes transactions on and has nobody to pass them to. What it
    // tried to pass on may have arrived; the same bytes once more do no harm.
    (&["sequencer temporarily not available"], Meaning::Busy),
    (&["forwarding targets"], Meaning::Busy),
    (&["not the chosen sequencer"], Meaning::Busy),
    (&["sequencer internal error"], Meaning::Busy),
    (&["currently not accepting transactions"], Meaning::Busy),
    (&["publishing transactions not supported"], Meaning::Busy),
    // Nodes that follow or have lost their state
    (&["syncing"], Meaning::Busy),
    (&["not synced"], Meaning::Busy),
    (&["not yet in sync"], Meaning::Busy),
    (&["missing trie node"], Meaning::Busy),
    (&["header not found"], Meaning::Busy),
    (&["method handler crashed"], Meaning::Busy),
    // Providers and what balances between their nodes
    (&["temporary internal error"], Meaning::Busy),
    (&["internal server error"], Meaning::Busy),
    (&["unable to complete request"], Meaning::Busy),
    (&["no backend"], Meaning::Busy),
    (&["backend offline"], Meaning::Busy),
    (&["backend returned an invalid response"], Meaning::Busy),
    (&["over capacity"], Meaning::Busy),
    (&["route your request"], Meaning::Busy),
    (&["temporarily unavailable"], Meaning::Busy),
    (&["service unavailable"], Meaning::Busy),
    (&["try again later"], Meaning::Busy),
    (&["please retry"], Meaning::Busy),
    (&["overloaded"], Meaning::Busy),
    (&["bad gateway"], Meaning::Busy),
    // It may have had its effect
    (&["deadline exceeded"], Meaning::Uncertain),
    (&["timeout"], Meaning::Uncertain),
    (&["timed out"], Meaning::Uncertain),
    (&["context cancel"], Meaning::Uncertain),
    (&["connection refused"], Meaning::Uncertain),
    (&["connection reset"], Meaning::Uncertain),
    (&["broken pipe"], Meaning::Uncertain),
    (&["no such host"], Meaning::Uncertain),
    (&["unexpected eof"], Meaning::Uncertain),
    // The transaction itself
    (&["oversized data"], Meaning::Invalid),
    (&["transaction", "too large"], Meaning::Invalid),
    (&["invalid sender"], Meaning::Invalid),
    (&["invalid signature"], Meaning::Invalid),
    (&["invalid chain id"], Meaning::Invalid),
    (&["not an eoa"], Meaning::Invalid),
    (&["transaction type not supported"], Meaning::Invalid),
    (&["unsupported transaction type"], Meaning::Invalid),
    (&["priority fee per gas higher than max fee"], Meaning::Invalid),
    (&["exceeds the configured cap"], Meaning::Invalid),
    (&["nonce has max value"], Meaning::Invalid),
    (&["not on the whitelist"], Meaning::Invalid),
    (&["execution reverted"], Meaning::Invalid),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: i64, message: &str) -> SendOutcome {
        SendOutcome::from_object(&ErrorObject::new(code, message, None))
    }

    #[test]
    fn what_nodes_say_of_themselves_is_no_verdict_on_a_transaction() {
        for (code, message) in [
            (-32000, "sequencer temporarily not available"),
            (-32010, "Sequencer temporarily not available."),
            (-32000, "failed to publish transaction to any of the forwarding targets"),
            (-32000, "sequencer is not the chosen sequencer"),
            (-32000, "sequencer internal error"),
            (-32000, "currently not accepting transactions due to expected surplus being below threshold"),
            (-32000, "publishing transactions not supported by this endpoint"),
            (-32003, "txpool is full"),
            (-32000, "pending sub-pool is full"),
            (-32002, "Transaction pool not enabled. (Either txpool explicitly disabled, or node not yet in sync)."),
            (-32010, "Syncing"),
            (-32000, "missing trie node 1234 (path ) state 0x1234 is not available"),
            (-32011, "no backends available for method"),
            (-32011, "no backend is currently healthy to serve traffic"),
            (-32010, "backend offline"),
            (-32012, "backend is over capacity"),
            (-32001, "Unable to complete request at this time."),
            (12, "Can't route your request to suitable provider, if you specified certain providers revise the list"),
            (19, "Temporary internal error. Please retry, trace-id: 1234"),
            (-32603, "Internal error"),
            (-32603, "whatever a node says when it fails"),
        ] {
            assert_eq!(told(code, message), SendOutcome::Busy(message.to_owned()));
        }
    }

    #[test]
    fn what_may_have_had_its_effect_is_uncertain() {
        for (code, message) in [
            (-32000, "context deadline exceeded"),
            (-32000, "context canceled"),
            (-32603, "Timeout expired"),
            (-32002, "request timed out"),
            (-32000, "Post \"http://sequencer:8547\": dial tcp 10.0.0.1:8547: connect: connection refused"),
            (-32015, "gateway timeout"),
        ] {
            assert!(matches!(told(code, message), SendOutcome::Uncertain(_)), "{message}");
        }
    }

    #[test]
    fn a_named_fault_counts_whatever_its_code() {
        for (code, message, name) in [
            (-32000, "nonce too high: address 0x01, tx: 7 state: 5", "nonce_too_high"),
            (-32000, "Transaction nonce is too distant from current sender nonce", "nonce_too_high"),
            (-32010, "OldNonce, Current nonce: 5, nonce of rejected tx: 4", "nonce_too_low"),
            (-32603, "replacement transaction underpriced", "replacement_underpriced"),
            (
                -32000,
                "max fee per gas less than block base fee: address 0x01, maxFeePerGas: 1 baseFee: 2",
                "fee_too_low",
            ),
            (-32000, "insufficient funds for gas * price + value: address 0x01 have 1 want 2", "insufficient_funds"),
            (-32004, "Upfront cost exceeds account balance", "insufficient_funds"),
            (-32000, "intrinsic gas too low", "gas_limit"),
            (-32000, "transaction gas limit too high (cap: 16777216, tx: 30000000)", "gas_limit"),
            (-32000, "oversized data: transaction size 200000, limit 131072", "invalid"),
            (-32000, "tx fee (1.20 ether) exceeds the configured cap (1.00 ether)", "invalid"),
            (-32000, "transaction type not supported", "invalid"),
            (-32003, "something that nobody here has heard of", "refused"),
        ] {
            assert_eq!(told(code, message).as_str(), name, "{message}");
        }
    }
}
