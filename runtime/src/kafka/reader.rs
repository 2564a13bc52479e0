//! Reading one partition to its end, committed records only.
//!
//! The end is the *high watermark* at the time of the call, not the last stable offset: other processes write to the
//! same partition, and an open transaction of theirs hides records of ours that lie behind it. Stopping at the last
//! stable offset would read an old cursor as the newest one, and double what came after it. So the reader waits until
//! such transactions have ended, which the broker enforces within their time-out.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::config::KafkaConfig;
use super::context::LogContext;

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// Its offset.
    pub offset: i64,
    /// Broker's or producer's timestamp, milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
}

/// Why a partition could not be read to its end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    /// The client or the broker failed.
    #[error("{topic}[{partition}] cannot be read: {error}")]
    Kafka {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// The client's reason.
        error: KafkaError,
    },
    /// The end was not reached in time; another producer's transaction may have stayed open.
    #[error("{topic}[{partition}] was read to offset {reached} of {end} only: an open transaction hides the rest")]
    NotReached {
        /// Topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// Next offset to read.
        reached: i64,
        /// High watermark.
        end: i64,
    },
}

/// Reads every committed record from `from` (or the beginning of what is kept) to the high watermark at the time of
/// the call, and hands each to `each`. Returns the high watermark. Gives up when nothing moves for `patience`, which
/// should exceed the transaction time-out of everybody who writes there.
///
/// # Errors
/// See [`ReadError`].
pub fn read_to_end(
    config: &KafkaConfig,
    service: &str,
    topic: &str,
    partition: i32,
    from: Option<i64>,
    patience: Duration,
    each: impl FnMut(StoredRecord),
) -> Result<i64, ReadError> {
    let reader = Reader { config, service, topic, partition, patience };
    let (begin, end) = reader.watermarks("read_uncommitted")?;
    // Not the client's own "beginning": it looks for that at a leader that it does not know yet, and tries again after half
    // a second only.
    let from = from.unwrap_or(begin);
    if from >= end {
        return Ok(end);
    }
    reader.wait_for_open_transactions(end)?;
    reader.read(from, end, each)?;
    Ok(end)
}

/// A part of a partition: its number, the first offset, and the offset behind the last one.
pub type PartitionRange = (i32, i64, i64);

/// Reads the committed records of several ranges of a topic with one client, and hands each with its partition to `each`, in
/// the order of offsets within a partition. Gives up when nothing moves for `patience`.
///
/// # Errors
/// See [`ReadError`].
pub fn read_ranges(
    config: &KafkaConfig,
    service: &str,
    topic: &str,
    ranges: &[PartitionRange],
    patience: Duration,
    mut each: impl FnMut(i32, StoredRecord),
) -> Result<(), ReadError> {
    let mut open: BTreeMap<i32, i64> =
        ranges.iter().filter(|(_, from, to)| from < to).map(|(partition, _, to)| (*partition, *to)).collect();
    let Some(first) = open.keys().next().copied() else { return Ok(()) };
    let reader = Reader { config, service, topic, partition: first, patience };
    let consumer = reader.consumer("read_committed")?;
    let mut assignment = TopicPartitionList::new();
    for (partition, from, to) in ranges {
        if from < to {
            let added = assignment.add_partition_offset(topic, *partition, Offset::Offset(*from));
            added.map_err(|error| reader.fail(error))?;
        }
    }
    consumer.assign(&assignment).map_err(|error| reader.fail(error))?;
    let mut deadline = Instant::now() + patience;
    while let Some((partition, end)) = open.first_key_value().map(|(partition, end)| (*partition, *end)) {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                deadline = Instant::now() + patience;
                let (partition, next) = (message.partition(), message.offset() + 1);
                let Some(end) = open.get(&partition).copied() else { continue };
                if next <= end {
                    each(partition, stored(&message));
                }
                if next >= end {
                    open.remove(&partition);
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                open.remove(&partition);
            }
            Some(Err(error)) if is_final(&error) => return Err(reader.fail(error)),
            Some(Err(error)) => tracing::debug!(topic, %error, "reading goes on after an error"),
            None => {}
        }
        if Instant::now() >= deadline {
            return Err(ReadError::NotReached { topic: topic.to_owned(), partition, reached: 0, end });
        }
    }
    Ok(())
}

/// Beginning and high watermark of the partitions 0 to `partitions` of a topic.
///
/// # Errors
/// See [`ReadError`].
pub fn watermarks(
    config: &KafkaConfig,
    service: &str,
    topic: &str,
    partitions: i32,
) -> Result<Vec<(i64, i64)>, ReadError> {
    let reader = |partition| Reader { config, service, topic, partition, patience: Duration::ZERO };
    let consumer = reader(0).consumer("read_uncommitted")?;
    let timeout = config.request_timeout();
    (0..partitions)
        .map(|partition| {
            let found = consumer.fetch_watermarks(topic, partition, timeout);
            found.map_err(|error| reader(partition).fail(error))
        })
        .collect()
}

/// The first offset of a partition whose record is not older than `timestamp_ms`, milliseconds since 1970; none when all
/// are older.
///
/// # Errors
/// See [`ReadError`].
pub fn offset_at(
    config: &KafkaConfig,
    service: &str,
    topic: &str,
    partition: i32,
    timestamp_ms: i64,
) -> Result<Option<i64>, ReadError> {
    let reader = Reader { config, service, topic, partition, patience: Duration::ZERO };
    let consumer = reader.consumer("read_committed")?;
    let mut asked = TopicPartitionList::new();
    asked.add_partition_offset(topic, partition, Offset::Offset(timestamp_ms)).map_err(|error| reader.fail(error))?;
    let found = consumer.offsets_for_times(asked, config.request_timeout()).map_err(|error| reader.fail(error))?;
    let found = found.find_partition(topic, partition);
    found.as_ref().map_or(Ok(None), |found| {
        found.error().map_err(|error| reader.fail(error))?;
        Ok(match found.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        })
    })
}

struct Reader<'a> {
    config: &'a KafkaConfig,
    service: &'a str,
    topic: &'a str,
    partition: i32,
    patience: Duration,
}

impl Reader<'_> {
    fn fail(&self, error: KafkaError) -> ReadError {
        ReadError::Kafka { topic: self.topic.to_owned(), partition: self.partition, error }
    }

    fn consumer(&self, isolation: &str) -> Result<BaseConsumer<LogContext>, ReadError> {
        let mut settings =
            self.config.consumer(self.service, &format!("{}.{}.reader", self.config.topic_prefix, self.service));
        settings
            .set("isolation.level", isolation)
            .set("enable.partition.eof", "true")
            // What compaction or retention has removed since the offset was noted is no loss to a reader.
            .set("auto.offset.reset", "earliest");
        settings.create_with_context(LogContext).map_err(|error| self.fail(error))
    }

    /// Beginning, and the end as a reader of this isolation level sees it.
    fn watermarks(&self, isolation: &str) -> Result<(i64, i64), ReadError> {
        let consumer = self.consumer(isolation)?;
        let timeout = self.config.request_timeout();
        consumer.fetch_watermarks(self.topic, self.partition, timeout).map_err(|error| self.fail(error))
    }

    fn wait_for_open_transactions(&self, end: i64) -> Result<(), ReadError> {
        let consumer = self.consumer("read_committed")?;
        let deadline = Instant::now() + self.patience;
        let mut told = false;
        loop {
            let watermarks = consumer.fetch_watermarks(self.topic, self.partition, self.config.request_timeout());
            let (_, stable) = watermarks.map_err(|error| self.fail(error))?;
            if stable >= end {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let topic = self.topic.to_owned();
                return Err(ReadError::NotReached { topic, partition: self.partition, reached: stable, end });
            }
            if !told {
                tracing::info!(topic = self.topic, stable, end, "waiting for open transactions to end");
                told = true;
            }
            // The pause between two looks is a poll, which serves the client's own events.
            let _ = consumer.poll(Duration::from_millis(50));
        }
    }

    fn read(&self, from: i64, end: i64, mut each: impl FnMut(StoredRecord)) -> Result<(), ReadError> {
        let consumer = self.consumer("read_committed")?;
        let mut assignment = TopicPartitionList::new();
        let start = Offset::Offset(from);
        assignment.add_partition_offset(self.topic, self.partition, start).map_err(|error| self.fail(error))?;
        consumer.assign(&assignment).map_err(|error| self.fail(error))?;
        let mut reached = from;
        let mut deadline = Instant::now() + self.patience;
        while reached < end {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    reached = message.offset() + 1;
                    deadline = Instant::now() + self.patience;
                    if message.offset() < end {
                        each(stored(&message));
                    }
                }
                // Markers and aborted records are offsets without a message. The end is stable by now, so that "end of
                // partition" lies at or behind it.
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) if is_final(&error) => return Err(self.fail(error)),
                Some(Err(error)) => tracing::debug!(topic = self.topic, %error, "reading goes on after an error"),
                None => {}
            }
            if Instant::now() >= deadline {
                let topic = self.topic.to_owned();
                return Err(ReadError::NotReached { topic, partition: self.partition, reached, end });
            }
        }
        Ok(())
    }
}

fn is_final(error: &KafkaError) -> bool {
    let hopeless = [
        RDKafkaErrorCode::UnknownTopicOrPartition,
        RDKafkaErrorCode::UnknownTopic,
        RDKafkaErrorCode::UnknownPartition,
        RDKafkaErrorCode::TopicAuthorizationFailed,
    ];
    matches!(error, KafkaError::MessageConsumptionFatal(_))
        || error.rdkafka_error_code().is_some_and(|code| hopeless.contains(&code))
}

// Headers are left out: the client panics on names that are not UTF-8, and nobody here needs them.
fn stored(message: &rdkafka::message::BorrowedMessage<'_>) -> StoredRecord {
    StoredRecord {
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
    }
}
