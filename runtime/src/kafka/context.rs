//! The client library's logs and errors as tracing events.

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

/// Context of clients that need no callbacks of their own.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogContext;

impl LogContext {
    /// For contexts of other clients that delegate their `log`.
    pub fn write_log(level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => tracing::warn!(facility, message, "kafka client"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(facility, message, "kafka client"),
            RDKafkaLogLevel::Debug => tracing::debug!(facility, message, "kafka client"),
        }
    }

    /// For contexts of other clients that delegate their `error`: what the library retries by itself, so a warning.
    pub fn write_error(error: &KafkaError, reason: &str) {
        // What a reader waits for, and no problem.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        tracing::warn!(%error, reason, "kafka client reports a problem");
    }
}

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Self::write_log(level, facility, message);
    }

    // The default logs every blob at info.
    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        Self::write_error(&error, reason);
    }
}

impl ConsumerContext for LogContext {}
