//! The restoring thread: finds out where an assigned partition stands, while the poll thread goes on.
//!
//! ```text
//! committed offset ──┬─ there: ledger from offset and metadata (undecodable: replay)
//!                    └─ none:  ledger rebuilt from the outcome topics (`rebuild`), committed at once
//! ```
//!
//! No offset is no start: a group that was empty for a week has lost its offsets, and beginning at the start of the topic would
//! handle all of history again.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use rdkafka::{Offset as KafkaOffset, TopicPartitionList, consumer::Consumer, error::KafkaError};

use super::{
    commit_metadata::{self, DecodeError},
    config::MissingOffsets,
    engine::Engine,
    error::StageError,
    ledger::{Ledger, NextOffset},
    outcome::Handler,
    poll::{StageConsumer, position},
    rebuild::{self, Rebuilt},
    runs::Runs,
    schedule::Epoch,
    state::Reading,
};
use crate::kafka::{KafkaConfig, PartitionRange, read_ranges};

/// Longest wait for one answer of the cluster.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest silence while the records before a position are read.
const RECALL_PATIENCE: Duration = Duration::from_secs(15);
/// Pause after a failure. The cause is an outage, which the client's own back-off spreads.
const PAUSE: Duration = Duration::from_millis(200);
/// A transaction's marker takes one offset behind its last record. If retention has deleted no more than that, nothing
/// unhandled is gone.
const MARKER: i64 = 1;

/// Runs until the stage ends.
pub(super) fn run<H: Handler>(engine: Arc<Engine<H>>, kafka: &KafkaConfig, consumer: Arc<StageConsumer<H>>) {
    let restorer = Restorer { engine: &engine, kafka, consumer: &consumer };
    let mut pause = None;
    while engine.wait_for_restoring(pause) {
        pause = match restorer.restore() {
            Ok(()) => None,
            Err(Failed::Outage(error)) => {
                tracing::warn!(stage = engine.config.name, %error, "positions cannot be read yet, trying again");
                Some(PAUSE)
            }
            Err(Failed::Refused(error)) => {
                engine.fail(error);
                return;
            }
        };
    }
}

/// Why positions are not known.
#[derive(Debug)]
pub(super) enum Failed {
    /// The cluster did not answer.
    Outage(KafkaError),
    /// The stage must not start like this.
    Refused(StageError),
}

impl From<KafkaError> for Failed {
    fn from(error: KafkaError) -> Self {
        Self::Outage(error)
    }
}

impl From<StageError> for Failed {
    fn from(error: StageError) -> Self {
        Self::Refused(error)
    }
}

/// Where an assigned partition stands.
struct Found {
    epoch: Epoch,
    topic: Arc<str>,
    partition: i32,
    next: NextOffset,
    finished: Runs,
    /// The position is not committed yet.
    uncommitted: bool,
}

struct Restorer<'a, H: Handler> {
    engine: &'a Arc<Engine<H>>,
    kafka: &'a KafkaConfig,
    consumer: &'a StageConsumer<H>,
}

impl<H: Handler> Restorer<'_, H> {
    fn restore(&self) -> Result<(), Failed> {
        self.recheck()?;
        let wanted = self.engine.lock().state.restoring();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut list = TopicPartitionList::with_capacity(wanted.len());
        for (_, topic, partition) in &wanted {
            list.add_partition(topic, *partition);
        }
        let committed = self.consumer.committed_offsets(list, PATIENCE)?;
        let (mut missing, mut found) = (Vec::new(), Vec::new());
        for (epoch, topic, partition) in wanted {
            let Some(element) = committed.find_partition(&topic, partition) else { continue };
            element.error()?;
            let KafkaOffset::Offset(offset) = element.offset() else {
                missing.push((epoch, topic, partition));
                continue;
            };
            let committed = NextOffset(offset);
            self.check_position(&topic, partition, committed)?;
            // The client panics on metadata that is not UTF-8. Only somebody else writes such, and that means replay.
            let text = catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned()));
            let decoded =
                text.map_err(|_| DecodeError::Text).and_then(|text| commit_metadata::decode(committed, &text));
            let finished = decoded.unwrap_or_else(|error| {
                self.engine.metrics.replay(&topic, partition, &error);
                Runs::default()
            });
            found.push(Found { epoch, topic, partition, next: committed, finished, uncommitted: false });
        }
        self.hand_over(found)?;
        if missing.is_empty() { Ok(()) } else { self.restore_missing(missing) }
    }

    fn restore_missing(&self, missing: Vec<(Epoch, Arc<str>, i32)>) -> Result<(), Failed> {
        let names: Vec<(Arc<str>, i32)> =
            missing.iter().map(|(_, topic, partition)| (topic.clone(), *partition)).collect();
        let config = &self.engine.config;
        let rebuilt = match config.missing_offsets {
            MissingOffsets::StartOver => rebuild::from_nothing(self.kafka, config, &names)?,
            _ => rebuild::from_outcomes(self.kafka, self.engine, &names)?,
        };
        let mut found = Vec::with_capacity(missing.len());
        for ((epoch, topic, partition), Rebuilt { next, finished, outcomes }) in missing.into_iter().zip(rebuilt) {
            if outcomes > 0 {
                self.engine.metrics.rebuilt(&topic, partition, next.0, outcomes);
            }
            found.push(Found { epoch, topic, partition, next, finished, uncommitted: true });
        }
        self.hand_over(found)?;
        self.engine.wake_committer();
        Ok(())
    }

    fn hand_over(&self, found: Vec<Found>) -> Result<(), Failed> {
        self.recall(&found)?;
        let mut inner = self.engine.lock();
        for Found { epoch, topic, partition, next, finished, uncommitted } in found {
            let ledger = Ledger::restore(inner.state.limits(), next, finished);
            if !ledger.always_fits() {
                return Err(StageError::Window { topic: topic.to_string(), partition }.into());
            }
            inner.state.restored(epoch, ledger, uncommitted);
        }
        Ok(())
    }

    /// Shows the handler what was read of these partitions before.
    fn recall(&self, found: &[Found]) -> Result<(), Failed> {
        let handler = &self.engine.handler;
        let memory = i64::try_from(handler.memory()).unwrap_or(i64::MAX);
        if memory == 0 {
            return Ok(());
        }
        let mut ranges: BTreeMap<&str, Vec<PartitionRange>> = BTreeMap::new();
        for Found { topic, partition, next, finished, .. } in found {
            let end = finished.end().unwrap_or(next.0).max(next.0);
            let (low, high) = self.consumer.fetch_watermarks(topic, *partition, PATIENCE)?;
            let range = (*partition, next.0.saturating_sub(memory).max(low), end.min(high));
            ranges.entry(topic).or_default().push(range);
        }
        for (topic, ranges) in ranges {
            let name = self.engine.config.name;
            let read = read_ranges(self.kafka, name, topic, &ranges, RECALL_PATIENCE, |partition, record| {
                handler.recall(topic, partition, &record);
            });
            read.map_err(rebuild::read_failed)?;
        }
        Ok(())
    }

    /// The client found a position outside its partition: which one it does not say.
    fn recheck(&self) -> Result<(), Failed> {
        let suspects: Vec<(Epoch, Arc<str>, i32, NextOffset)> = {
            let mut inner = self.engine.lock();
            if !std::mem::take(&mut inner.state.recheck) {
                return Ok(());
            }
            let suspects = inner.state.partitions().filter_map(|(epoch, partition)| match &partition.reading {
                Reading::Consuming(ledger) => {
                    Some((epoch, partition.topic.clone(), partition.partition, ledger.read()))
                }
                _ => None,
            });
            suspects.collect()
        };
        for (epoch, topic, partition, read) in suspects {
            if let Err(failed) = self.check_position(&topic, partition, read) {
                self.engine.lock().state.recheck |= matches!(failed, Failed::Outage(_));
                return Err(failed);
            }
            self.engine.lock().state.reposition(epoch);
        }
        Ok(())
    }

    fn check_position(&self, topic: &str, partition: i32, next: NextOffset) -> Result<(), Failed> {
        let (low, high) = self.consumer.fetch_watermarks(topic, partition, PATIENCE)?;
        let deleted = low > next.0.saturating_add(MARKER);
        let tolerated = self.engine.config.missing_offsets != MissingOffsets::Rebuild;
        if next.0 > high || (deleted && !tolerated) {
            return Err(StageError::OutOfRange(position(topic, partition, next.0)).into());
        }
        Ok(())
    }
}
