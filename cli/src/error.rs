//! What can go wrong: the code and the exit code of each.

use kms_runtime::config::ConfigErrors;
use kms_runtime::kafka::{BatchError, ProducerError, ReadError, TopicsError, classify_error};
use kms_runtime::shutdown::Exit;
use kms_schemas::codec::CodecError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::codes;

/// Why a verb did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CtlError {
    /// The configuration has mistakes, each with its code.
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
    /// A topic cannot be read, since nobody answers.
    #[error("no Kafka broker answers (kafka.bootstrap_servers = {brokers}): {error}")]
    Unreachable {
        /// Where brokers were looked for.
        brokers: String,
        /// What the client made of it.
        error: Box<ReadError>,
    },
    /// A record cannot be encoded or the registry cannot be used.
    #[error("{0}")]
    Codec(#[from] CodecError),
    /// Nothing was written.
    #[error("nothing was written: {0}")]
    Write(#[from] BatchError),
    /// The executor, or a delegation.
    #[error("{0}")]
    Executor(String),
    /// An emitter refused a command.
    #[error("the emitter refuses: {0}")]
    NotObeyed(String),
    /// No emitter said anything to a command.
    #[error("{0}")]
    Unanswered(String),
    /// Standard output cannot be written to, or the async runtime cannot be started.
    #[error("the output cannot be written, or the system refuses a thread: {0}")]
    Io(#[from] std::io::Error),
}

impl CtlError {
    /// A topic cannot be read; where the brokers are at fault, they are named.
    pub(crate) fn read(error: ReadError, brokers: &str) -> Self {
        if read_code(&error) == kms_runtime::codes::KAFKA_UNREACHABLE.code {
            Self::Unreachable { brokers: brokers.to_owned(), error: Box::new(error) }
        } else {
            Self::Read(error)
        }
    }

    /// Nothing was written: the producer failed before it got a record.
    pub(crate) fn producer(error: ProducerError) -> Self {
        Self::Write(BatchError::Producer(error))
    }

    /// Nothing was written: no producer could be made.
    pub(crate) fn client(error: KafkaError) -> Self {
        Self::producer(classify_error(error))
    }

    /// The stable code (`docs/errors.md`); mistakes in the configuration have one each, in their text.
    #[must_use]
    pub fn code(&self) -> Option<&'static str> {
        Some(match self {
            Self::Config(_) => return None,
            Self::Argument(_) => codes::ARGUMENT.code,
            Self::Topics(error) => error.stopped().code,
            Self::Read(error) => read_code(error),
            Self::Unreachable { .. } => kms_runtime::codes::KAFKA_UNREACHABLE.code,
            Self::Codec(error) => error.code(),
            Self::Write(BatchError::Refused { .. }) => kms_runtime::codes::RECORD_REFUSED.code,
            Self::Write(BatchError::TimedOut(_)) => kms_runtime::codes::KAFKA_UNREACHABLE.code,
            Self::Write(BatchError::Producer(error)) => producer_code(error),
            Self::Executor(_) => codes::EXECUTOR.code,
            Self::NotObeyed(_) => codes::COMMAND_REFUSED.code,
            Self::Unanswered(_) => codes::COMMAND_UNANSWERED.code,
            Self::Io(_) => codes::IO.code,
        })
    }

    /// The exit code of the process.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Config(_) | Self::Argument(_) => Exit::Configuration,
            Self::Topics(_)
            | Self::Read(_)
            | Self::Unreachable { .. }
            | Self::Codec(_)
            | Self::Executor(_)
            | Self::NotObeyed(_)
            | Self::Unanswered(_) => Exit::Refused,
            Self::Write(_) => Exit::KafkaFatal,
            Self::Io(_) => Exit::Output,
        }
    }
}

fn read_code(error: &ReadError) -> &'static str {
    match error {
        ReadError::NotReached { .. } => codes::TRANSACTION_OPEN.code,
        ReadError::Kafka { error, .. } => match error.rdkafka_error_code() {
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition,
            ) => kms_runtime::codes::TOPIC_MISSING.code,
            Some(code) if is_outage(code) => kms_runtime::codes::KAFKA_UNREACHABLE.code,
            _ => codes::TOPIC_UNREADABLE.code,
        },
    }
}

fn producer_code(error: &ProducerError) -> &'static str {
    match error.kafka_error().rdkafka_error_code() {
        Some(code) if is_outage(code) => kms_runtime::codes::KAFKA_UNREACHABLE.code,
        _ => error.stopped().code,
    }
}

fn is_outage(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::Resolve
    )
}
