//! What ingest reports: log and metric of a happening in one place.

use std::time::Duration;

use kms_schemas::identity::Kind;
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

/// Describes every metric of this crate.
pub(crate) fn describe() {
    describe_gauge!("kms_connector_ingest_head_block", "Highest block that the source's finality allows to ingest");
    describe_gauge!(
        "kms_connector_ingest_head_unchanged_seconds",
        "How long the head has been the same block; a quiet chain's stands still as well as that of a node without peers"
    );
    describe_gauge!("kms_connector_ingest_cursor_block", "Highest block whose requests are committed to the topics");
    describe_gauge!("kms_connector_ingest_range_blocks", "Blocks that are asked for at once at present");
    describe_gauge!("kms_connector_ingest_queued_chunks", "Chunks of blocks that wait for Kafka");
    describe_gauge!("kms_connector_ingest_source_stopped", "1 when the source has stopped for good, by code");
    describe_gauge!("kms_connector_ingest_diverged", "1 while the chain contradicts the cursor");
    describe_counter!("kms_connector_ingest_records_total", "Requests written, by kind");
    describe_counter!("kms_connector_ingest_dead_letters_total", "Logs that became dead letters, by reason");
    describe_counter!("kms_connector_ingest_transactions_total", "Transactions committed");
    describe_counter!("kms_connector_ingest_ranges_refused_total", "Ranges that a node refused as too large");
    describe_counter!("kms_connector_ingest_sessions_total", "Times that a producer was set up for the source");
    describe_counter!(
        "kms_connector_ingest_cursors_not_believed_total",
        "Starts at which the cursor stood behind requests that are not in the topics, or before the newest one"
    );
    describe_histogram!("kms_connector_ingest_transaction_seconds", "Time from the first waiting chunk to the commit");
}

/// Reports of one source. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct SourceMetrics {
    source: String,
}

impl SourceMetrics {
    pub(crate) fn new(source: &str) -> Self {
        Self { source: source.to_owned() }
    }

    pub(crate) fn head(&self, number: u64, unchanged: Duration) {
        gauge!("kms_connector_ingest_head_block", "source" => self.source.clone()).set(number as f64);
        gauge!("kms_connector_ingest_head_unchanged_seconds", "source" => self.source.clone())
            .set(unchanged.as_secs() as f64);
    }

    pub(crate) fn head_stands(&self, block: u64, unchanged: Duration) {
        let seconds = unchanged.as_secs();
        tracing::info!(
            source = self.source,
            block,
            seconds,
            "the head stands still: the chain is quiet, or its nodes are"
        );
    }

    pub(crate) fn range(&self, blocks: u64) {
        gauge!("kms_connector_ingest_range_blocks", "source" => self.source.clone()).set(blocks as f64);
    }

    pub(crate) fn queued(&self, chunks: usize) {
        gauge!("kms_connector_ingest_queued_chunks", "source" => self.source.clone()).set(chunks as f64);
    }

    pub(crate) fn range_refused(&self, blocks: u64, message: &str) {
        tracing::debug!(source = self.source, blocks, refusal = message, "range of blocks refused as too large");
        counter!("kms_connector_ingest_ranges_refused_total", "source" => self.source.clone()).increment(1);
    }

    pub(crate) fn session(&self, resumes_after: Option<u64>) {
        counter!("kms_connector_ingest_sessions_total", "source" => self.source.clone()).increment(1);
        match resumes_after {
            Some(block) => tracing::info!(source = self.source, block, "resuming after the cursor's block"),
            None => tracing::info!(source = self.source, "no cursor: first start of this source"),
        }
    }

    pub(crate) fn cursor_not_believed(&self, cursor: u64, block: u64, why: &str) {
        let code = crate::codes::CURSOR_NOT_BELIEVED.code;
        tracing::error!(source = self.source, code, cursor, block, why, "the cursor is not believed");
        counter!("kms_connector_ingest_cursors_not_believed_total", "source" => self.source.clone()).increment(1);
    }

    pub(crate) fn committed(&self, cursor: u64, kinds: &[(Kind, u64)], waited: Duration) {
        gauge!("kms_connector_ingest_cursor_block", "source" => self.source.clone()).set(cursor as f64);
        counter!("kms_connector_ingest_transactions_total", "source" => self.source.clone()).increment(1);
        histogram!("kms_connector_ingest_transaction_seconds", "source" => self.source.clone()).record(waited);
        for (kind, count) in kinds.iter().filter(|(_, count)| *count > 0) {
            let labels = [("source", self.source.clone()), ("kind", kind.as_str().to_owned())];
            counter!("kms_connector_ingest_records_total", &labels).increment(*count);
        }
    }

    pub(crate) fn dead_letter(&self, reason: &str, text: &str, place: &str) {
        tracing::warn!(source = self.source, code = reason, place, text, "log became a dead letter");
        let labels = [("source", self.source.clone()), ("reason", reason.to_owned())];
        counter!("kms_connector_ingest_dead_letters_total", &labels).increment(1);
    }

    pub(crate) fn diverged(&self, is_diverged: bool) {
        let value = if is_diverged { 1.0 } else { 0.0 };
        gauge!("kms_connector_ingest_diverged", "source" => self.source.clone()).set(value);
    }

    pub(crate) fn stopped(&self, code: &'static str, reason: &str) {
        tracing::error!(source = self.source, code, reason, "source stopped");
        gauge!("kms_connector_ingest_source_stopped", "source" => self.source.clone(), "code" => code).set(1.0);
    }

    pub(crate) fn session_lost(&self, reason: &str) {
        tracing::warn!(source = self.source, reason, "Kafka failed, starting again from the cursor");
    }
}
