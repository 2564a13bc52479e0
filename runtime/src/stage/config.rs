//! What a stage is told by its service.

use std::time::Duration;

use crate::{breaker::BreakerPolicy, retry::Backoff};

use super::schedule::Policy;

/// What to do where the group has no committed offset for a partition although outcomes exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MissingOffsets {
    /// Rebuild the ledger from the outcome topics; refuse if these were trimmed at their start or none is configured.
    #[default]
    Rebuild,
    /// Rebuild from what is left of the outcome topics. What was trimmed from them is handled again if its request is
    /// still there: an operator's decision.
    RebuildFromWhatIsLeft,
    /// Handle everything that the input topic holds again: an operator's decision.
    StartOver,
}

/// The settings of one stage (one lane of one service).
#[derive(Clone, Debug)]
pub struct StageConfig {
    /// Label of the stage in metrics and logs, e.g. `processor.decryption`.
    pub name: &'static str,
    /// Full names of the topics to consume.
    pub input_topics: Vec<String>,
    /// Full names of every topic that the handler's outputs may go to: results, deferred, dead letters.
    pub outcome_topics: Vec<String>,
    /// Consumer group.
    pub group_id: String,
    /// Transactional id, `{prefix}.{service}.{lane}.{instance}`: one running process per id.
    pub transactional_id: String,
    /// Static member id in the group, made from the same stable ordinal.
    pub group_instance_id: String,
    /// Attempts that run at once.
    pub slots: usize,
    /// Bytes of input records held in memory; intake pauses above.
    pub bytes_in_flight: usize,
    /// Offsets per partition between the lowest unfinished one and the newest one read; intake of the partition pauses
    /// above. What the commit metadata can hold may pause it earlier.
    pub window: u64,
    /// Unfinished for longer than this (since the first attempt) is deferred, where the handler has a deferred topic.
    pub defer_after: Duration,
    /// Attempts after which a record becomes a dead letter. Outages do not count.
    pub max_attempts: u32,
    /// Time since the first attempt, outages not counted, after which a record becomes a dead letter.
    pub time_limit: Option<Duration>,
    /// Delays between attempts.
    pub backoff: Backoff,
    /// Outages of one dependency in a row that open its breaker.
    pub breaker_threshold: u32,
    /// How long a breaker stays open before one attempt probes the dependency.
    pub breaker_backoff: Backoff,
    /// Largest output record in bytes (key, value, headers); must not exceed the topics' `max.message.bytes`.
    pub max_output_bytes: usize,
    /// Largest dead letter in bytes; above, it carries only a digest of the original.
    pub max_dead_letter_bytes: usize,
    /// Most outputs in one transaction.
    pub max_batch_records: usize,
    /// Most bytes of outputs in one transaction.
    pub max_batch_bytes: usize,
    /// Longest commit metadata in characters: the broker's `offset.metadata.max.bytes` minus one.
    pub max_metadata: usize,
    /// Time until the group gives a silent member's partitions away (`kafka.session_timeout_ms`).
    pub session_timeout: Duration,
    /// Time until the broker aborts a transaction that nobody ends (`kafka.transaction_timeout_ms`).
    pub transaction_timeout: Duration,
    /// Longest wait for a final commit when partitions are taken away, and at shutdown.
    pub final_commit_timeout: Duration,
    /// At shutdown, how long running attempts may still finish.
    pub drain_timeout: Duration,
    /// What to do without a committed offset.
    pub missing_offsets: MissingOffsets,
}

impl StageConfig {
    /// Settings with the defaults of the design; the identifiers are the caller's.
    #[must_use]
    pub fn new(name: &'static str, input_topics: Vec<String>, outcome_topics: Vec<String>, ids: StageIds) -> Self {
        Self {
            name,
            input_topics,
            outcome_topics,
            group_id: ids.group_id,
            transactional_id: ids.transactional_id,
            group_instance_id: ids.group_instance_id,
            slots: 64,
            bytes_in_flight: 64 << 20,
            window: 200_000,
            defer_after: Duration::from_secs(60),
            max_attempts: 20,
            time_limit: None,
            backoff: Backoff { first: Duration::from_millis(100), max: Duration::from_secs(10), factor: 2.0 },
            breaker_threshold: 5,
            breaker_backoff: Backoff { first: Duration::from_millis(250), max: Duration::from_secs(5), factor: 2.0 },
            max_output_bytes: 1_000_000,
            max_dead_letter_bytes: 2_000_000,
            max_batch_records: 10_000,
            max_batch_bytes: 16 << 20,
            max_metadata: super::commit_metadata::DEFAULT_MAX_CHARACTERS,
            session_timeout: Duration::from_secs(6),
            transaction_timeout: Duration::from_secs(10),
            final_commit_timeout: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(5),
            missing_offsets: MissingOffsets::default(),
        }
    }

    pub(super) fn policy(&self) -> Policy {
        Policy {
            slots: self.slots,
            bytes: self.bytes_in_flight,
            defer_after: self.defer_after,
            max_attempts: self.max_attempts,
            time_limit: self.time_limit,
            backoff: self.backoff,
            breaker: BreakerPolicy { threshold: self.breaker_threshold, backoff: self.breaker_backoff },
        }
    }

    /// Every mistake in the settings.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut require = |holds: bool, text: &str| {
            if !holds {
                problems.push(text.to_owned());
            }
        };
        require(!self.input_topics.is_empty(), "no input topic");
        require(!self.group_id.is_empty(), "group id is empty");
        require(!self.transactional_id.is_empty(), "transactional id is empty");
        require(!self.group_instance_id.is_empty(), "group instance id is empty");
        require(self.slots > 0, "slots must be at least 1");
        require(self.bytes_in_flight > 0, "bytes_in_flight must be at least 1");
        require(self.window >= 2, "window must be at least 2");
        require(self.max_attempts > 0, "max_attempts must be at least 1");
        require(self.breaker_threshold > 0, "breaker_threshold must be at least 1");
        require(self.max_batch_records > 0, "max_batch_records must be at least 1");
        require(self.max_batch_bytes > 0, "max_batch_bytes must be at least 1");
        require(
            self.max_output_bytes <= self.max_dead_letter_bytes,
            "max_dead_letter_bytes must not be below max_output_bytes",
        );
        require(
            self.max_metadata >= super::commit_metadata::MIN_CHARACTERS,
            "max_metadata is too small for a header and one offset",
        );
        require(
            self.final_commit_timeout < self.session_timeout,
            "final_commit_timeout must be below session_timeout, or a rebalance loses its partitions",
        );
        require(self.backoff.is_valid(), "backoff needs first <= max and a factor of at least 1");
        require(self.breaker_backoff.is_valid(), "breaker_backoff needs first <= max and a factor of at least 1");
        problems
    }
}

/// The names by which Kafka knows a stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageIds {
    /// Consumer group.
    pub group_id: String,
    /// Transactional id.
    pub transactional_id: String,
    /// Static member id.
    pub group_instance_id: String,
}

impl StageIds {
    /// The names by the project's rule: group `{prefix}.{service}.{lane}`, both others with `.{instance}` behind it.
    #[must_use]
    pub fn new(prefix: &str, service: &str, lane: &str, instance: &str) -> Self {
        let group_id = format!("{prefix}.{service}.{lane}");
        let transactional_id = format!("{group_id}.{instance}");
        Self { group_instance_id: transactional_id.clone(), transactional_id, group_id }
    }
}
