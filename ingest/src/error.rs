//! How following a source ends.

use kms_runtime::kafka::{ProducerError, ReadError};
use kms_runtime::shutdown::{Exit, Stopped};

use crate::codes;
use crate::release::ReleaseUnknown;

/// Why a source is not followed any longer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// The chain contradicts the cursor.
    #[error(
        "source {source_id}: block {number} was ingested as {ingested} and the chain now has {found} there{common}"
    )]
    Diverged {
        /// Source.
        source_id: String,
        /// Block number.
        number: u64,
        /// Hash that was ingested.
        ingested: alloy::primitives::B256,
        /// Hash that the chain has.
        found: alloy::primitives::B256,
        /// `; the last common block known is …`.
        common: String,
    },
    /// The cursor cannot be used.
    #[error("source {source_id}: {why}")]
    Cursor {
        /// Source.
        source_id: String,
        /// What is wrong with it.
        why: String,
    },
    /// There is no cursor where there must be one.
    #[error("source {source_id}: it has no cursor, but {topic} holds requests of it")]
    CursorLost {
        /// Source.
        source_id: String,
        /// A topic with its requests.
        topic: String,
    },
    /// Cursor and topics exclude each other.
    #[error(
        "source {source_id}: its cursor and the records in {topic} exclude each other: one of them was not written by ingest"
    )]
    CursorContradicted {
        /// Source.
        source_id: String,
        /// The topic that was to hold it.
        topic: String,
    },
    /// The contracts are of a release that is not served, or not of the configured one.
    #[error("source {source_id}: {error}")]
    Release {
        /// Source.
        source_id: String,
        /// What the contracts said.
        error: Box<ReleaseUnknown>,
    },
    /// Every endpoint serves another chain.
    #[error("source {source_id}: every RPC endpoint answers, and none serves the configured chain id; one has {found}")]
    ForeignChain {
        /// Source.
        source_id: String,
        /// A chain id that was reported.
        found: u64,
    },
    /// Another process writes for this source.
    #[error("source {source_id}: {error}")]
    Fenced {
        /// Source.
        source_id: String,
        /// What Kafka said.
        error: ProducerError,
    },
    /// The broker refuses what it must take.
    #[error("source {source_id}: {why}")]
    Refused {
        /// Source.
        source_id: String,
        /// What was refused.
        why: String,
    },
    /// A client cannot be made, or a thread died.
    #[error("source {source_id}: {why}")]
    Internal {
        /// Source.
        source_id: String,
        /// What happened.
        why: String,
    },
}

impl SourceError {
    /// What the contracts of a source said, which cannot be served.
    pub(crate) fn release(source_id: &str, error: ReleaseUnknown) -> Self {
        Self::Release { source_id: source_id.to_owned(), error: Box::new(error) }
    }

    /// How the process ends if this is what ends it.
    pub(crate) fn stopped(&self) -> Stopped {
        let (exit, code) = match self {
            Self::Diverged { .. } => (Exit::SourceStopped, &codes::CHAIN_DIVERGED),
            Self::Cursor { .. } => (Exit::Refused, &codes::CURSOR_UNUSABLE),
            Self::CursorLost { .. } => (Exit::Refused, &codes::CURSOR_LOST),
            Self::CursorContradicted { .. } => (Exit::Refused, &codes::CURSOR_CONTRADICTED),
            Self::Release { error, .. } => {
                return Stopped { exit: Exit::Refused, code: error.code(), text: self.to_string() };
            }
            Self::ForeignChain { .. } => {
                let code = kms_chain::codes::RPC_WRONG_CHAIN;
                return Stopped { exit: Exit::Refused, code, text: self.to_string() };
            }
            Self::Fenced { .. } => (Exit::Fenced, &codes::SOURCE_FENCED),
            Self::Refused { .. } => (Exit::Refused, &codes::CURSOR_REFUSED),
            Self::Internal { .. } => (Exit::Internal, &kms_runtime::codes::INTERNAL),
        };
        Stopped::new(exit, code, self.to_string())
    }
}

/// Why a publishing session ended before the shutdown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    /// The source cannot go on.
    #[error(transparent)]
    Final(Box<SourceError>),
    /// Kafka failed in a way that a new producer recovers from: what is committed is known from the cursor.
    #[error("{0}")]
    Lost(String),
}

impl From<SourceError> for SessionError {
    fn from(error: SourceError) -> Self {
        Self::Final(Box::new(error))
    }
}

impl From<ReadError> for SessionError {
    fn from(error: ReadError) -> Self {
        Self::Lost(error.to_string())
    }
}
