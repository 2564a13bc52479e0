//! Why a stage ends other than by shutdown.

use kms_schemas::{codes::Code, identity::Coordinates};

use crate::shutdown::{Exit, Stopped};

/// The stage cannot go on. Each has a stable code and the exit code that the process should end with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StageError {
    /// The settings contradict each other.
    #[error("stage settings are invalid: {}", .0.join("; "))]
    Settings(Vec<String>),
    /// A Kafka client could not be made from the settings.
    #[error("kafka client could not be created: {0}")]
    Client(#[source] rdkafka::error::KafkaError),
    /// The transactional id could not be initialised in time.
    #[error("transactional id {transactional_id} could not be initialised: {source}")]
    Start {
        /// The id.
        transactional_id: String,
        /// What the client said last.
        #[source]
        source: rdkafka::error::KafkaError,
    },
    /// Another process with the same instance took over.
    #[error("fenced: another process uses instance of transactional id {transactional_id}: {source}")]
    Fenced {
        /// The id.
        transactional_id: String,
        /// What the client said.
        #[source]
        source: rdkafka::error::KafkaError,
    },
    /// The group took our own session from before an outage for another member; the stage starts anew by itself.
    #[error("the consumer group took an earlier session of this instance for another member: {0}")]
    Ghost(#[source] rdkafka::error::KafkaError),
    /// A call of the client library does not do what it promises; the stage starts anew by itself, with new clients.
    #[error("the kafka client is stuck: {0}")]
    Stalled(&'static str),
    /// A Kafka client is in a state that only a new one ends: the stage starts anew by itself, some times in a row.
    #[error("kafka client failed for good: {0}")]
    Fatal(#[source] rdkafka::error::KafkaError),
    /// Transactions keep failing although the broker answers.
    #[error("{attempts} transactions in a row were aborted: {source}")]
    Aborting {
        /// How many.
        attempts: u32,
        /// What the client said last.
        #[source]
        source: rdkafka::error::KafkaError,
    },
    /// The group has no offset for a partition whose outcomes exist, and the ledger cannot be rebuilt from them.
    #[error("group {group} has no committed offset for {topic}[{partition}]: {reason}")]
    MissingOffset {
        /// Consumer group.
        group: String,
        /// Input topic.
        topic: String,
        /// Input partition.
        partition: i32,
        /// Why it was not rebuilt.
        reason: String,
    },
    /// The committed offset is outside what the partition holds: records were deleted before they were handled, or the
    /// topic was made anew.
    #[error("position {0} is outside the partition: unhandled records were deleted, or the topic was recreated")]
    OutOfRange(Coordinates),
    /// The finished offsets do not fit the commit metadata: a smaller limit than the predecessor's, or a bug.
    #[error("finished offsets of {topic}[{partition}] do not fit the commit metadata; raise window or max_metadata")]
    Window {
        /// Input topic.
        topic: String,
        /// Input partition.
        partition: i32,
    },
    /// A thread of the stage could not be started or ended by a panic.
    #[error("stage thread {0} ended unexpectedly")]
    Thread(&'static str),
}

impl StageError {
    /// Stable code of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Settings(_) => "KC-0230",
            Self::Client(_) => "KC-0231",
            Self::Start { .. } => "KC-0232",
            Self::Fenced { .. } | Self::Ghost(_) => "KC-0233",
            Self::Fatal(_) | Self::Stalled(_) => "KC-0234",
            Self::Aborting { .. } => "KC-0235",
            Self::MissingOffset { .. } => "KC-0236",
            Self::OutOfRange(_) => "KC-0237",
            Self::Window { .. } => "KC-0238",
            Self::Thread(_) => "KC-0239",
        }
    }

    /// How a service ends on this error.
    #[must_use]
    pub fn stopped(&self) -> Stopped {
        Stopped { exit: self.exit(), code: self.code(), text: self.to_string() }
    }

    /// How the process should end.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Settings(_) | Self::Client(_) | Self::Window { .. } => Exit::Configuration,
            Self::Start { .. } | Self::MissingOffset { .. } | Self::OutOfRange(_) => Exit::Refused,
            Self::Fenced { .. } | Self::Ghost(_) => Exit::Fenced,
            Self::Fatal(_) | Self::Stalled(_) | Self::Aborting { .. } => Exit::KafkaFatal,
            Self::Thread(_) => Exit::Internal,
        }
    }
}

/// An output is larger than the topic's limit; the input became a dead letter instead.
pub const OUTPUT_TOO_LARGE: &str = "KC-0220";
/// The broker refused an output for another reason than its size; the input became a dead letter instead.
pub const OUTPUT_REFUSED: &str = "KC-0221";
/// The handler panicked.
pub const HANDLER_PANICKED: &str = "KC-0222";
/// The time limit was reached.
pub const TIME_EXHAUSTED: &str = "KC-0224";
/// Unfinished after the time allowed in this lane, or it held up half the window.
pub const TOO_SLOW: &str = "KC-0225";

/// The stage's codes.
pub static CODES: &[Code] = &[
    Code {
        code: OUTPUT_TOO_LARGE,
        name: "output_too_large",
        meaning: "The answer to a record is larger than the output topic takes.",
        action: "Report it: the limit is part of the topics' format, and no setting raises it. The dead letter keeps the record that was to be answered; redriven, it ends the same.",
    },
    Code {
        code: OUTPUT_REFUSED,
        name: "output_refused",
        meaning: "The broker refused the answer to a record, alone in its transaction.",
        action: "Read the text for the broker's reason and mend the topic's settings. Then have the record handled once more: a letter of the processor by `kmsctl dead-letters redrive`; for one of the emitter, write the record that it names, whose key and bytes it holds, to its results topic again.",
    },
    Code {
        code: HANDLER_PANICKED,
        name: "handler_panicked",
        meaning: "A bug: the code that handles the record ended by a panic.",
        action: "Report it with the dead letter. After an update a letter of the processor is handled once more by `kmsctl dead-letters redrive`; for one of the emitter, write the record that it names, whose key and bytes it holds, to its results topic again.",
    },
    Code {
        code: TIME_EXHAUSTED,
        name: "time_exhausted",
        meaning: "The record was not finished within the lane's time limit, outages not counted.",
        action: "Read the last failure in the text. When its cause is gone, a letter of the processor is handled once more by `kmsctl dead-letters redrive`; for one of the emitter, write the record that it names, whose key and bytes it holds, to its results topic again.",
    },
    Code {
        code: TOO_SLOW,
        name: "too_slow",
        meaning: "The record was moved to the deferred topic so that others are not held up. Not a failure.",
        action: "None. Many of them point at a slow dependency.",
    },
    Code {
        code: "KC-0230",
        name: "stage_settings",
        meaning: "The lane's settings contradict each other.",
        action: "Correct what the message names.",
    },
    Code {
        code: "KC-0231",
        name: "kafka_client",
        meaning: "librdkafka refuses the client settings.",
        action: "Correct the [kafka] section.",
    },
    Code {
        code: "KC-0232",
        name: "transactions_not_initialised",
        meaning: "The broker did not grant the transactional id in time.",
        action: "Check that the brokers are reachable and that the principal may write with this transactional id.",
    },
    Code {
        code: "KC-0233",
        name: "fenced",
        meaning: "Another process started with the same instance, or the broker timed the transaction out.",
        action: "Give every process its own `kafka.instance`; otherwise let the supervisor restart this one.",
    },
    Code {
        code: "KC-0234",
        name: "fatal_kafka_error",
        meaning: "A Kafka client failed for good or does not come back from a call. The lane starts anew with new ones; clients that fail for good ten times in a row end the process.",
        action: "None at first. If it repeats, read the client's reason and look at the brokers.",
    },
    Code {
        code: "KC-0235",
        name: "transactions_abort",
        meaning: "Transactions were aborted many times in a row although the broker answers.",
        action: "Read the last reason; check the topics' settings and the principal's rights.",
    },
    Code {
        code: "KC-0236",
        name: "offsets_missing",
        meaning: "The group lost its offsets and what is done cannot be told from the outcomes alone.",
        action: "Decide from which offset on records are to be handled, and set it with Kafka's tools (`docs/operations.md`, \"Missing offsets\").",
    },
    Code {
        code: "KC-0237",
        name: "offset_out_of_range",
        meaning: "Unhandled records were deleted from the input topic, or the topic was made anew.",
        action: "Find out which; the cursor of ingest tells what the topic should hold.",
    },
    Code {
        code: "KC-0238",
        name: "window_too_small",
        meaning: "What the predecessor finished out of order does not fit the window or the commit metadata of this one.",
        action: "Set `window` and the broker's offset.metadata.max.bytes to what they were.",
    },
    Code {
        code: "KC-0239",
        name: "stage_thread",
        meaning: "A bug: a thread of the engine ended by a panic.",
        action: "Report it with the log; the supervisor's restart loses nothing.",
    },
];
