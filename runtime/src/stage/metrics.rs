//! What the stage tells the outside: one place per happening.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::{
    error::StageError,
    schedule::{Intake, Leaving},
    state::State,
};

/// Describes the stage's metrics. Call once, after the recorder is installed.
pub fn describe() {
    use metrics::{Unit, describe_counter as counter, describe_gauge as gauge, describe_histogram as histogram};
    gauge!("kms_connector_stage_slots", "Attempts that may run at once");
    gauge!("kms_connector_stage_slots_busy", "Attempts running");
    gauge!("kms_connector_stage_ready_records", "Records that wait for a slot");
    gauge!("kms_connector_stage_waiting_records", "Records that wait for a retry");
    gauge!("kms_connector_stage_closed_records", "Records that wait to be published");
    gauge!("kms_connector_stage_in_flight_records", "Records read and not published");
    gauge!("kms_connector_stage_in_flight_bytes", Unit::Bytes, "Bytes of the records read and not published");
    gauge!("kms_connector_stage_in_flight_bytes_limit", Unit::Bytes, "Bytes above which intake pauses");
    gauge!("kms_connector_stage_unpublished_bytes", Unit::Bytes, "Bytes of outputs that wait to be published");
    gauge!("kms_connector_stage_window_offsets", "Widest ledger: offsets from the lowest unfinished one to the newest");
    gauge!("kms_connector_stage_window_offsets_limit", "Offsets at which intake of a partition pauses");
    gauge!("kms_connector_stage_partitions", "Partitions assigned");
    gauge!("kms_connector_stage_intake_paused", "1 while all intake is paused, by reason");
    gauge!("kms_connector_stage_breaker_open", "1 while the dependency is thought to be down");
    counter!("kms_connector_stage_read_records_total", "Records read, by whether they were work");
    counter!("kms_connector_stage_attempts_total", "Attempts ended, by outcome");
    counter!("kms_connector_stage_deferred_total", "Records moved to the deferred topic");
    counter!("kms_connector_stage_dead_letters_total", "Records given up, by reason code");
    counter!("kms_connector_stage_transactions_total", "Transactions, by how they ended");
    counter!("kms_connector_stage_refused_outputs_total", "Outputs that the broker refused");
    counter!("kms_connector_stage_assignments_total", "Partitions assigned, revoked and lost");
    counter!(
        "kms_connector_stage_replays_total",
        "Commits whose metadata did not decode, so that finished records replay"
    );
    counter!("kms_connector_stage_rebuilds_total", "Ledgers rebuilt from the outcome topics");
    counter!("kms_connector_stage_starts_anew_total", "Starts anew with new Kafka clients, by the reason's code");
    histogram!("kms_connector_stage_transaction_seconds", Unit::Seconds, "Begin to commit of a transaction");
    histogram!("kms_connector_stage_transaction_records", "Records closed by one transaction");
    histogram!("kms_connector_stage_attempt_seconds", Unit::Seconds, "Duration of an attempt");
}

/// The stage leaves its clients behind and starts with new ones.
pub(super) fn anew(stage: &'static str, error: &StageError) {
    metrics::counter!("kms_connector_stage_starts_anew_total", "stage" => stage, "reason" => error.code()).increment(1);
    tracing::warn!(stage, code = error.code(), %error, "starting anew with new Kafka clients");
}

/// Handles of what happens per record, and the labels of the rest.
#[derive(Debug)]
pub(super) struct StageMetrics {
    stage: &'static str,
    read_work: Counter,
    read_finished: Counter,
    done: Counter,
    retry: Counter,
    outage: Counter,
    defer: Counter,
    dead_letter: Counter,
    stale: Counter,
    deferred: Counter,
    committed: Counter,
    aborted: Counter,
    refused: Counter,
    seconds: Histogram,
    records: Histogram,
    attempt_seconds: Histogram,
    busy: Gauge,
    ready: Gauge,
    waiting: Gauge,
    closed: Gauge,
    in_flight: Gauge,
    bytes: Gauge,
    unpublished: Gauge,
    window: Gauge,
    partitions: Gauge,
    paused_bytes: Gauge,
    paused_outage: Gauge,
}

/// How an attempt ended, as a label.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ended {
    Done,
    Retry,
    Outage,
    Defer,
    DeadLetter,
    Stale,
}

impl StageMetrics {
    pub(super) fn new(stage: &'static str, slots: usize, bytes: usize, window: u64) -> Self {
        metrics::gauge!("kms_connector_stage_slots", "stage" => stage).set(slots as f64);
        metrics::gauge!("kms_connector_stage_in_flight_bytes_limit", "stage" => stage).set(bytes as f64);
        metrics::gauge!("kms_connector_stage_window_offsets_limit", "stage" => stage).set(window as f64);
        let attempts = |outcome: &'static str| metrics::counter!("kms_connector_stage_attempts_total", "stage" => stage, "outcome" => outcome);
        let read = |kind: &'static str| metrics::counter!("kms_connector_stage_read_records_total", "stage" => stage, "kind" => kind);
        let ended = |end: &'static str| metrics::counter!("kms_connector_stage_transactions_total", "stage" => stage, "end" => end);
        let paused = |reason: &'static str| metrics::gauge!("kms_connector_stage_intake_paused", "stage" => stage, "reason" => reason);
        Self {
            stage,
            read_work: read("work"),
            read_finished: read("finished"),
            done: attempts("done"),
            retry: attempts("retry"),
            outage: attempts("outage"),
            defer: attempts("defer"),
            dead_letter: attempts("dead_letter"),
            stale: attempts("stale"),
            deferred: metrics::counter!("kms_connector_stage_deferred_total", "stage" => stage),
            committed: ended("committed"),
            aborted: ended("aborted"),
            refused: metrics::counter!("kms_connector_stage_refused_outputs_total", "stage" => stage),
            seconds: metrics::histogram!("kms_connector_stage_transaction_seconds", "stage" => stage),
            records: metrics::histogram!("kms_connector_stage_transaction_records", "stage" => stage),
            attempt_seconds: metrics::histogram!("kms_connector_stage_attempt_seconds", "stage" => stage),
            busy: metrics::gauge!("kms_connector_stage_slots_busy", "stage" => stage),
            ready: metrics::gauge!("kms_connector_stage_ready_records", "stage" => stage),
            waiting: metrics::gauge!("kms_connector_stage_waiting_records", "stage" => stage),
            closed: metrics::gauge!("kms_connector_stage_closed_records", "stage" => stage),
            in_flight: metrics::gauge!("kms_connector_stage_in_flight_records", "stage" => stage),
            bytes: metrics::gauge!("kms_connector_stage_in_flight_bytes", "stage" => stage),
            unpublished: metrics::gauge!("kms_connector_stage_unpublished_bytes", "stage" => stage),
            window: metrics::gauge!("kms_connector_stage_window_offsets", "stage" => stage),
            partitions: metrics::gauge!("kms_connector_stage_partitions", "stage" => stage),
            paused_bytes: paused("bytes"),
            paused_outage: paused("outage"),
        }
    }

    pub(super) fn read(&self, work: u64, finished: u64) {
        self.read_work.increment(work);
        self.read_finished.increment(finished);
    }

    pub(super) fn attempt(&self, ended: Ended, took: Duration) {
        self.attempt_seconds.record(took.as_secs_f64());
        match ended {
            Ended::Done => &self.done,
            Ended::Retry => &self.retry,
            Ended::Outage => &self.outage,
            Ended::Defer => &self.defer,
            Ended::DeadLetter => &self.dead_letter,
            Ended::Stale => &self.stale,
        }
        .increment(1);
    }

    pub(super) fn deferred(&self, leaving: &Leaving) {
        self.deferred.increment(1);
        tracing::debug!(stage = self.stage, record = %leaving.record.coordinates(), why = %leaving.why, "record deferred");
    }

    pub(super) fn dead_letter(&self, leaving: &Leaving) {
        metrics::counter!("kms_connector_stage_dead_letters_total", "stage" => self.stage, "reason" => leaving.why.code)
            .increment(1);
        let record = leaving.record.coordinates();
        tracing::warn!(stage = self.stage, %record, code = leaving.why.code, why = leaving.why.text, "record given up");
    }

    pub(super) fn committed(&self, records: usize, took: Duration) {
        self.committed.increment(1);
        self.records.record(records as f64);
        self.seconds.record(took.as_secs_f64());
    }

    pub(super) fn aborted(&self, error: &dyn std::fmt::Display, attempt: u32) {
        self.aborted.increment(1);
        tracing::warn!(stage = self.stage, %error, attempt, "transaction aborted, trying again");
    }

    pub(super) fn refused(&self, error: &dyn std::fmt::Display, records: usize) {
        self.refused.increment(1);
        tracing::warn!(stage = self.stage, %error, records, "the broker refuses an output");
    }

    pub(super) fn assignment(&self, change: &'static str, count: usize) {
        metrics::counter!("kms_connector_stage_assignments_total", "stage" => self.stage, "change" => change)
            .increment(count as u64);
        tracing::info!(stage = self.stage, change, partitions = count, "assignment changed");
    }

    pub(super) fn replay(&self, topic: &str, partition: i32, error: &dyn std::fmt::Display) {
        metrics::counter!("kms_connector_stage_replays_total", "stage" => self.stage).increment(1);
        let stage = self.stage;
        tracing::warn!(stage, topic, partition, %error, "commit metadata is not usable: everything from the offset on replays");
    }

    pub(super) fn rebuilt(&self, topic: &str, partition: i32, position: i64, finished: u64) {
        metrics::counter!("kms_connector_stage_rebuilds_total", "stage" => self.stage).increment(1);
        let stage = self.stage;
        tracing::warn!(
            stage,
            topic,
            partition,
            position,
            finished,
            "no committed offset: ledger rebuilt from the outcomes"
        );
    }

    pub(super) fn gauges(&self, state: &mut State) {
        let counts = state.schedule.counts();
        self.busy.set(counts.running as f64);
        self.ready.set(counts.ready as f64);
        self.waiting.set(counts.waiting as f64);
        self.closed.set(state.closed_count() as f64);
        self.in_flight.set(counts.records as f64);
        self.bytes.set(counts.bytes as f64);
        self.unpublished.set(counts.unpublished_bytes as f64);
        let (mut partitions, mut window) = (0_u32, 0);
        for (_, partition) in state.partitions() {
            partitions += 1;
            window = window.max(partition.ledger().map_or(0, super::ledger::Ledger::span));
        }
        self.partitions.set(f64::from(partitions));
        self.window.set(window as f64);
        let intake = state.schedule.intake();
        self.paused_bytes.set(f64::from(u8::from(intake == Intake::Bytes)));
        self.paused_outage.set(f64::from(u8::from(intake == Intake::Outage)));
        for (dependency, breaker) in state.schedule.breakers() {
            metrics::gauge!("kms_connector_stage_breaker_open", "stage" => self.stage, "dependency" => dependency)
                .set(f64::from(u8::from(!breaker.is_closed())));
        }
    }
}
