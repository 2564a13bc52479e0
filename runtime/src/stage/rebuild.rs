//! A ledger from the outcomes: every one names the record that it finished.
//!
//! The outcome topics tell which records of a partition are finished. Which of the other offsets are records at all, and which
//! are gaps, only the partition itself tells; so it is read up to the last finished record as well.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rdkafka::{
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
};

use super::{
    config::{MissingOffsets, StageConfig},
    engine::Engine,
    error::StageError,
    ledger::NextOffset,
    outcome::{Handler, OutcomeView},
    restore::Failed,
    runs::Runs,
};
use crate::kafka::{KafkaConfig, LogContext, ReadError, read_to_end};

/// Longest wait for one answer of the cluster.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where a partition stands, as found out.
#[derive(Debug)]
pub(super) struct Rebuilt {
    pub(super) next: NextOffset,
    pub(super) finished: Runs,
    /// Outcomes found.
    pub(super) outcomes: u64,
}

/// Everything that the partitions hold is work.
pub(super) fn from_nothing(
    kafka: &KafkaConfig,
    config: &StageConfig,
    names: &[(Arc<str>, i32)],
) -> Result<Vec<Rebuilt>, Failed> {
    let consumer = watcher(kafka, config)?;
    let rebuilt = names.iter().map(|(topic, partition)| {
        let (low, _) = consumer.fetch_watermarks(topic, *partition, PATIENCE)?;
        Ok(Rebuilt { next: NextOffset(low), finished: Runs::default(), outcomes: 0 })
    });
    rebuilt.collect()
}

/// What the outcome topics name as finished is finished; the rest is work.
pub(super) fn from_outcomes<H: Handler>(
    kafka: &KafkaConfig,
    engine: &Engine<H>,
    names: &[(Arc<str>, i32)],
) -> Result<Vec<Rebuilt>, Failed> {
    let config = &engine.config;
    let consumer = watcher(kafka, config)?;
    let refuse = |reason: String| {
        let (topic, partition) =
            names.first().map_or_else(|| (String::new(), 0), |(topic, partition)| (topic.to_string(), *partition));
        Failed::Refused(StageError::MissingOffset { group: config.group_id.clone(), topic, partition, reason })
    };
    let mut finished: BTreeMap<(&str, i32), Runs> = BTreeMap::new();
    for topic in &config.outcome_topics {
        for partition in 0..partitions(&consumer, topic)? {
            let (low, high) = consumer.fetch_watermarks(topic, partition, PATIENCE)?;
            if low > 0 && config.missing_offsets == MissingOffsets::Rebuild {
                return Err(refuse(format!("{topic}[{partition}] begins at {low}: older outcomes are gone")));
            }
            if low == high {
                continue;
            }
            let read = read_to_end(kafka, config.name, topic, partition, None, patience(config), |record| {
                let outcome = OutcomeView {
                    topic,
                    partition,
                    offset: record.offset,
                    key: record.key.as_deref(),
                    value: record.value.as_deref(),
                };
                let Some(source) = engine.handler.outcome_source(outcome) else { return };
                let name =
                    names.iter().find(|(topic, partition)| **topic == *source.topic && *partition == source.partition);
                if let Some((topic, partition)) = name {
                    let runs = finished.entry((topic, *partition)).or_default();
                    runs.insert(source.offset..source.offset.saturating_add(1));
                }
            });
            read.map_err(read_failed)?;
        }
    }
    let mut rebuilt = Vec::with_capacity(names.len());
    for (topic, partition) in names {
        let (low, high) = consumer.fetch_watermarks(topic, *partition, PATIENCE)?;
        let Some(found) = finished.remove(&(&**topic, *partition)) else {
            if config.outcome_topics.is_empty() && low < high {
                return Err(refuse("the stage has no outcome topics to rebuild from".to_owned()));
            }
            rebuilt.push(Rebuilt { next: NextOffset(low), finished: Runs::default(), outcomes: 0 });
            continue;
        };
        if found.end().is_some_and(|end| end > high) {
            return Err(refuse(format!("outcomes name records up to {:?}, but it ends at {high}", found.end())));
        }
        rebuilt.push(with_gaps(kafka, config, topic, *partition, low, &found)?);
    }
    Ok(rebuilt)
}

/// Tells gaps from unfinished records, by reading the partition up to its last finished one.
fn with_gaps(
    kafka: &KafkaConfig,
    config: &StageConfig,
    topic: &str,
    partition: i32,
    low: i64,
    found: &Runs,
) -> Result<Rebuilt, Failed> {
    let end = found.end().unwrap_or(low).max(low);
    let mut unfinished = Runs::default();
    let read = read_to_end(kafka, config.name, topic, partition, None, patience(config), |record| {
        if record.offset < end && !found.contains(record.offset) {
            unfinished.insert(record.offset..record.offset + 1);
        }
    });
    read.map_err(read_failed)?;
    let next = unfinished.start().unwrap_or(end);
    let mut finished = Runs::default();
    let mut position = next;
    for run in unfinished.iter() {
        finished.insert(position..run.start);
        position = run.end;
    }
    finished.insert(position..end);
    Ok(Rebuilt { next: NextOffset(next), finished, outcomes: found.count() })
}

fn patience(config: &StageConfig) -> Duration {
    // Whoever writes to the outcome topics ends within its own time-out, which is like ours; the broker's clean-up comes late.
    config.transaction_timeout * 2 + Duration::from_secs(15)
}

pub(super) fn read_failed(error: ReadError) -> Failed {
    match error {
        ReadError::Kafka { error, .. } => Failed::Outage(error),
        ReadError::NotReached { .. } => {
            Failed::Outage(KafkaError::MessageConsumption(rdkafka::error::RDKafkaErrorCode::OperationTimedOut))
        }
    }
}

fn watcher(kafka: &KafkaConfig, config: &StageConfig) -> Result<BaseConsumer<LogContext>, KafkaError> {
    let mut settings = kafka.consumer(config.name, &format!("{}.rebuild", config.group_id));
    // Nothing of another's open transaction may pass for the end.
    settings.set("isolation.level", "read_uncommitted");
    settings.create_with_context(LogContext)
}

fn partitions(consumer: &BaseConsumer<LogContext>, topic: &str) -> Result<i32, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let count =
        metadata.topics().iter().find(|found| found.name() == topic).map_or(0, |found| found.partitions().len());
    if count == 0 {
        return Err(KafkaError::MetadataFetch(rdkafka::error::RDKafkaErrorCode::UnknownTopicOrPartition));
    }
    Ok(i32::try_from(count).unwrap_or(i32::MAX))
}
