//! What can go wrong between the requesting side and a chain.

use std::time::Duration;

use alloy::primitives::{B256, Bytes};
use alloy::transports::TransportError;

/// Why a call, a transaction or a deployment did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum ContractsError {
    /// The URL cannot be used.
    #[error("{url} is no URL of a chain: {why}")]
    Url {
        /// What was given.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The node did not answer, or not in JSON-RPC.
    #[error("{url} does not answer {method}")]
    Unreachable {
        /// The node.
        url: String,
        /// What it was asked.
        method: &'static str,
        /// What the transport says.
        #[source]
        source: Box<TransportError>,
    },
    /// The node answered with an error that is no revert.
    #[error("{method} was refused: {message} (code {code})")]
    Refused {
        /// What it was asked.
        method: &'static str,
        /// JSON-RPC error code.
        code: i64,
        /// The node's words.
        message: String,
    },
    /// A contract reverted, in a call or in a mined transaction.
    #[error("{} reverted: {}", .transaction.map_or("a call".to_owned(), |hash| format!("transaction {hash}")), kms_chain::revert::Revert::decode(.data).name())]
    Reverted {
        /// The transaction; absent for a call.
        transaction: Option<B256>,
        /// What the contract gave back; may be empty.
        data: Bytes,
    },
    /// Transactions were not mined in time.
    #[error("{missing} of {sent} transactions were not mined within {} s", waited.as_secs())]
    NotMined {
        /// How many were not.
        missing: usize,
        /// How many were waited for.
        sent: usize,
        /// For how long.
        waited: Duration,
    },
    /// A contract's answer or event has another form than its ABI.
    #[error("unexpected answer of a contract: {0}")]
    Answer(String),
    /// The configuration or an argument makes no sense.
    #[error("{0}")]
    Argument(String),
    /// A key could not sign.
    #[error("signing failed")]
    Signer(#[from] alloy::signers::Error),
}

impl ContractsError {
    /// The data a contract reverted with, if it did.
    #[must_use]
    pub fn revert_data(&self) -> Option<&Bytes> {
        match self {
            Self::Reverted { data, .. } => Some(data),
            _ => None,
        }
    }

    pub(super) fn transport(url: &str, method: &'static str, error: TransportError) -> Self {
        let Some(answer) = error.as_error_resp() else {
            return Self::Unreachable { url: url.to_owned(), method, source: Box::new(error) };
        };
        match answer.as_revert_data() {
            Some(data) => Self::Reverted { transaction: None, data },
            // A revert without data; anvil and geth both say so with code 3.
            None if answer.code == 3 => Self::Reverted { transaction: None, data: Bytes::new() },
            None => Self::Refused { method, code: answer.code, message: answer.message.clone().into_owned() },
        }
    }
}
