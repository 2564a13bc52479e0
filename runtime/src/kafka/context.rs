//! The client library's logs and errors as tracing events.

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;

use super::quiet;

/// Context of clients that need no callbacks of their own.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogContext;

impl LogContext {
    /// For contexts of other clients that delegate their `log`. The same warning is written once in a while only.
    pub fn write_log(level: RDKafkaLogLevel, facility: &str, text: &str) {
        // The field is not called `message`, which is the name that the event's own text has in JSON.
        match level {
            // What a broker says that has just started, or leads for the first time.
            RDKafkaLogLevel::Warning if text.contains("load in progress: retrying") => {
                tracing::info!(facility, text, "kafka client");
            }
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => {
                if let Some(held_back) = quiet::admit(text) {
                    tracing::warn!(facility, text, held_back, "kafka client");
                }
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(facility, text, "kafka client"),
            RDKafkaLogLevel::Debug => tracing::debug!(facility, text, "kafka client"),
        }
    }

    /// For contexts of other clients that delegate their `error`: what the library retries by itself, so a warning.
    pub fn write_error(error: &KafkaError, reason: &str) {
        // What a reader waits for, and no problem.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::PartitionEOF) {
            return;
        }
        if let Some(held_back) = quiet::admit(reason) {
            tracing::warn!(%error, reason, held_back, "kafka client reports a problem");
        }
    }
}

impl ClientContext for LogContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        Self::write_log(level, facility, text);
    }

    // The default logs every blob at info.
    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        Self::write_error(&error, reason);
    }
}

impl ConsumerContext for LogContext {}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What a process writes with JSON logs.
    fn logged(log: impl Fn()) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = crate::telemetry::as_json(tracing_subscriber::fmt()).with_writer(move || writer.clone());
        tracing::subscriber::with_default(subscriber.finish(), log);
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_line_of_the_client_in_json_has_no_key_twice() {
        let lines = logged(|| {
            LogContext::write_log(RDKafkaLogLevel::Warning, "FAIL", "b2:9092/2: a warning");
            LogContext::write_log(RDKafkaLogLevel::Info, "INFO", "b2:9092/2: a notice");
            LogContext::write_error(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "2/2 brokers are down");
        });
        assert_eq!(lines.len(), 3, "{lines:?}");
        for line in lines {
            // Reading into a map would hide a key that is there twice.
            for key in ["timestamp", "level", "message", "text", "reason", "facility", "target"] {
                assert!(line.matches(&format!("\"{key}\":")).count() <= 1, "{key}: {line}");
            }
            let fields: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert!(fields["message"].as_str().unwrap().starts_with("kafka client"), "{line}");
        }
    }

    #[test]
    fn a_warning_that_repeats_is_written_once() {
        let lines = logged(|| {
            for took in 0..100 {
                let text =
                    format!("b3:9092/3: Connect to ipv4#10.0.0.3:9092 failed: Connection refused (after {took}ms)");
                LogContext::write_log(RDKafkaLogLevel::Error, "FAIL", &text);
                LogContext::write_error(&KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure), &text);
            }
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
    }
}
