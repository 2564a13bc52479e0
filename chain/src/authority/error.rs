//! Why an occurrence is not proven.

use alloy::primitives::B256;

use crate::codes;
use crate::finality::Finality;
use crate::rpc::RpcError;

/// Why an occurrence is not proven. Only [`Self::Orphaned`] and [`Self::NoSuchLog`] are statements of the chain.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unproven {
    /// The authority's own head, at its own finality, is below the block. Wait and ask again.
    #[error("needs block {needed}, and the chain is at {} with finality {finality}", head.map_or_else(|| "no block yet".to_owned(), |head| head.to_string()))]
    NotYet {
        /// The block that is needed.
        needed: u64,
        /// The highest block at that finality, where there is any.
        head: Option<u64>,
        /// The authority's finality.
        finality: Finality,
    },
    /// Another block has that number. What names this one was reorganised away, or never was on this chain. While the
    /// chain is reorganised, or where the authority's node is behind in that, it can still turn; at finality
    /// `finalized` it cannot.
    #[error("block {number} is {found} on this chain, not {expected}")]
    Orphaned {
        /// Block number.
        number: u64,
        /// The hash that was asked for.
        expected: B256,
        /// The hash of the chain's block.
        found: B256,
    },
    /// The block has fewer logs.
    #[error("block {number} ({hash}) has {logs} logs, none with index {log_index}")]
    NoSuchLog {
        /// Block number.
        number: u64,
        /// Block hash.
        hash: B256,
        /// The index that was asked for.
        log_index: u64,
        /// How many logs the block has.
        logs: usize,
    },
    /// What the nodes state about the block does not fit together, or cannot be encoded here. Nothing is known of the
    /// block, neither good nor bad.
    #[error("block {number} cannot be proven from what the nodes state: {why}")]
    Undecidable {
        /// Block number.
        number: u64,
        /// What does not fit.
        why: String,
    },
    /// The endpoints that answered cannot prove the block, and others, which might, gave no answer. Never a verdict.
    #[error("block {number}: {why}; and {silent} more RPC endpoint(s), which may have it, did not answer")]
    Unheard {
        /// Block number.
        number: u64,
        /// How many endpoints gave no answer.
        silent: usize,
        /// What those say that answered.
        why: String,
    },
    /// No node answered. Never a verdict.
    #[error(transparent)]
    Unavailable(#[from] RpcError),
}

impl Unproven {
    /// Whether somebody who might know has not spoken: wait and ask again, and count nothing against the request. While it
    /// is not [`Self::Unavailable`], other blocks may well be proven.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unheard { .. })
    }

    /// The stable code (`docs/errors.md`).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotYet { .. } => codes::AUTHORITY_BEHIND,
            Self::Orphaned { .. } => codes::BLOCK_ORPHANED,
            Self::NoSuchLog { .. } => codes::LOG_NOT_IN_BLOCK,
            Self::Undecidable { .. } => codes::PROOF_UNDECIDABLE,
            Self::Unheard { .. } => codes::PROOF_UNHEARD,
            Self::Unavailable(error) => error.code(),
        }
    }

    /// Label in metrics.
    pub(super) fn outcome(&self) -> &'static str {
        match self {
            Self::NotYet { .. } => "not_yet",
            Self::Orphaned { .. } => "orphaned",
            Self::NoSuchLog { .. } => "no_such_log",
            Self::Undecidable { .. } => "undecidable",
            Self::Unheard { .. } => "unheard",
            Self::Unavailable(_) => "unavailable",
        }
    }
}

/// In what a record differs from the chain's log: the record is forged, or broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// The emitting contract.
    #[error("the record's log has another address than the chain's")]
    Address,
    /// The topics.
    #[error("the record's log has other topics than the chain's")]
    Topics,
    /// The data.
    #[error("the record's log has other data than the chain's")]
    Data,
    /// The transaction.
    #[error("the record names another transaction than the one that emitted the log")]
    Transaction,
    /// The time of the block.
    #[error("the record names another time than the block's")]
    Timestamp,
}
