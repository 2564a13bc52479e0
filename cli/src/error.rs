//! What can go wrong, and the exit code of each.

use kms_runtime::config::ConfigErrors;
use kms_runtime::kafka::{BatchError, ReadError, TopicsError};
use kms_runtime::shutdown::Exit;
use kms_schemas::codec::CodecError;

/// Why a verb did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// The configuration has mistakes.
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    /// An argument is wrong.
    #[error("{0}")]
    Argument(String),
    /// The topics are not as the catalogue says, or the cluster cannot be asked.
    #[error("{0}")]
    Topics(#[from] TopicsError),
    /// A topic cannot be read.
    #[error("{0}")]
    Read(#[from] ReadError),
    /// A record cannot be encoded or the registry cannot be used.
    #[error("{0}")]
    Codec(#[from] CodecError),
    /// Nothing was written.
    #[error("nothing was written: {0}")]
    Write(#[from] BatchError),
    /// The producer cannot be used.
    #[error("nothing was written: {0}")]
    Producer(String),
    /// Standard output is closed, or the async runtime cannot be started.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl CtlError {
    /// The exit code of the process.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Argument(_) => Exit::Configuration,
            Self::Topics(_) | Self::Read(_) | Self::Codec(_) => Exit::Refused,
            Self::Write(_) | Self::Producer(_) => Exit::KafkaFatal,
            Self::Io(_) => Exit::Internal,
        }
    }
}
