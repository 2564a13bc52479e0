//! Reading one partition to its end, committed records only.
//!
//! The end is the *high watermark* at the time of the call, not the last stable offset: other processes write to the
//! same partition, and an open transaction of theirs hides records of ours that lie behind it. Stopping at the last
//! stable offset would read an old cursor as the newest one, and double what came after it. So the reader waits until
//! such transactions have ended, which the broker enforces within their time-out.
//!
//! The client's "end of partition" is no proof of that end. A broker that has just become the leader knows the records and
//! learns only from the next fetches of its followers up to where they are committed; until then it tells an end that lies
//! before the high watermark of its predecessor. Nor does the last record tell: offsets behind it may be markers and aborted
//! records. So an end that comes too early is doubted, the end is looked up again, and only the next one is believed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::config::KafkaConfig;
use super::context::LogContext;

/// Longest wait for the next record before the deadline is looked at.
const POLL: Duration = Duration::from_millis(100);

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
    mut each: impl FnMut(StoredRecord),
) -> Result<i64, ReadError> {
    let reader = Reader { config, service, topic, patience };
    let timeout = config.request_timeout();
    let high = reader.consumer("read_uncommitted", partition)?;
    let (begin, end) =
        high.fetch_watermarks(topic, partition, timeout).map_err(|error| reader.fail(partition, error))?;
    // Not the client's own "beginning": it looks for that at a leader that it does not know yet, and tries again after half
    // a second only.
    let from = from.unwrap_or(begin);
    if from >= end {
        return Ok(end);
    }
    let stable = reader.consumer("read_committed", partition)?;
    reader.wait_for_end(&stable, partition, end)?;
    let consumer = reader.consumer("read_committed", partition)?;
    let look = |partition, end| reader.wait_for_end(&stable, partition, end);
    reader.read(&consumer, &[(partition, from, end)], look, |_, record| each(record))?;
    Ok(end)
}

/// A part of a partition: its number, the first offset, and the offset behind the last one.
pub type PartitionRange = (i32, i64, i64);

/// Reads the committed records of several ranges of a topic with one client, and hands each with its partition to `each`, in
/// the order of offsets within a partition. What a transaction hides that is open now is left out, with everything behind it.
/// Gives up when nothing moves for `patience`.
///
/// # Errors
/// See [`ReadError`].
pub fn read_ranges(
    config: &KafkaConfig,
    service: &str,
    topic: &str,
    ranges: &[PartitionRange],
    patience: Duration,
    each: impl FnMut(i32, StoredRecord),
) -> Result<(), ReadError> {
    let Some((first, ..)) = ranges.iter().find(|(_, from, to)| from < to).copied() else { return Ok(()) };
    let reader = Reader { config, service, topic, patience };
    let consumer = reader.consumer("read_committed", first)?;
    let mut high = None;
    let look = |partition, end| {
        let high = match &high {
            Some(high) => high,
            None => high.insert(reader.consumer("read_uncommitted", partition)?),
        };
        reader.wait_for_end(high, partition, end)
    };
    reader.read(&consumer, ranges, look, each)
}

/// How far a range has been read.
#[derive(Clone, Copy, Debug)]
struct Progress {
    /// Behind the last record.
    reached: i64,
    /// Behind the range.
    end: i64,
    /// The end was looked up after the client had told one that came too early.
    looked: bool,
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
    let reader = Reader { config, service, topic, patience: Duration::ZERO };
    let consumer = reader.consumer("read_uncommitted", 0)?;
    let timeout = config.request_timeout();
    (0..partitions)
        .map(|partition| {
            let found = consumer.fetch_watermarks(topic, partition, timeout);
            found.map_err(|error| reader.fail(partition, error))
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
    let reader = Reader { config, service, topic, patience: Duration::ZERO };
    let consumer = reader.consumer("read_committed", partition)?;
    let mut asked = TopicPartitionList::new();
    asked
        .add_partition_offset(topic, partition, Offset::Offset(timestamp_ms))
        .map_err(|error| reader.fail(partition, error))?;
    let found =
        consumer.offsets_for_times(asked, config.request_timeout()).map_err(|error| reader.fail(partition, error))?;
    let found = found.find_partition(topic, partition);
    found.as_ref().map_or(Ok(None), |found| {
        found.error().map_err(|error| reader.fail(partition, error))?;
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
    patience: Duration,
}

impl Reader<'_> {
    fn fail(&self, partition: i32, error: KafkaError) -> ReadError {
        ReadError::Kafka { topic: self.topic.to_owned(), partition, error }
    }

    /// The partition is for the error alone.
    fn consumer(&self, isolation: &str, partition: i32) -> Result<BaseConsumer<LogContext>, ReadError> {
        let mut settings =
            self.config.consumer(self.service, &format!("{}.{}.reader", self.config.topic_prefix, self.service));
        settings
            .set("isolation.level", isolation)
            .set("enable.partition.eof", "true")
            // An end is told by a fetch that waits for records and gets none.
            .set("fetch.wait.max.ms", "10")
            // From the leader, whatever rack is configured: a follower's end lags behind.
            .set("client.rack", "")
            // What compaction or retention has removed since the offset was noted is no loss to a reader.
            .set("auto.offset.reset", "earliest");
        settings.create_with_context(LogContext).map_err(|error| self.fail(partition, error))
    }

    /// Waits until the end, as a client that reads nothing sees it with its isolation level, is not before `end`.
    fn wait_for_end(&self, consumer: &BaseConsumer<LogContext>, partition: i32, end: i64) -> Result<(), ReadError> {
        let deadline = Instant::now() + self.patience;
        let mut told = false;
        loop {
            let watermarks = consumer.fetch_watermarks(self.topic, partition, self.config.request_timeout());
            let (_, seen) = watermarks.map_err(|error| self.fail(partition, error))?;
            if seen >= end {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(ReadError::NotReached { topic: self.topic.to_owned(), partition, reached: seen, end });
            }
            if !told {
                let topic = self.topic;
                tracing::info!(topic, partition, seen, end, "waiting for open transactions, or for a new leader");
                told = true;
            }
            // The pause between two looks is a poll, which serves the client's own events.
            let _ = consumer.poll(Duration::from_millis(50));
        }
    }

    /// Reads ranges with a consumer that has no assignment yet. `look` gets a partition and the end of its range, and returns
    /// once the partition's end, looked up anew, is not before it.
    fn read(
        &self,
        consumer: &BaseConsumer<LogContext>,
        ranges: &[PartitionRange],
        mut look: impl FnMut(i32, i64) -> Result<(), ReadError>,
        mut each: impl FnMut(i32, StoredRecord),
    ) -> Result<(), ReadError> {
        let mut open: BTreeMap<i32, Progress> = BTreeMap::new();
        let mut assignment = TopicPartitionList::new();
        for (partition, from, to) in ranges.iter().filter(|(_, from, to)| from < to).copied() {
            open.insert(partition, Progress { reached: from, end: to, looked: false });
            let added = assignment.add_partition_offset(self.topic, partition, Offset::Offset(from));
            added.map_err(|error| self.fail(partition, error))?;
        }
        let Some(first) = open.keys().next().copied() else { return Ok(()) };
        consumer.assign(&assignment).map_err(|error| self.fail(first, error))?;
        let mut deadline = Instant::now() + self.patience;
        while let Some((partition, left)) = open.first_key_value().map(|(partition, left)| (*partition, *left)) {
            match consumer.poll(POLL) {
                Some(Ok(message)) => {
                    deadline = Instant::now() + self.patience;
                    let (partition, next) = (message.partition(), message.offset() + 1);
                    let Some(left) = open.get_mut(&partition) else { continue };
                    left.reached = next;
                    let end = left.end;
                    if next <= end {
                        each(partition, stored(&message));
                    }
                    if next >= end {
                        open.remove(&partition);
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => match open.get_mut(&partition) {
                    Some(left) if !left.looked => {
                        look(partition, left.end)?;
                        self.read_again(consumer, partition, left.reached)?;
                        left.looked = true;
                        deadline = Instant::now() + self.patience;
                    }
                    // What is left are markers, aborted records, or what an open transaction hides.
                    _ => drop(open.remove(&partition)),
                },
                Some(Err(error)) if is_final(&error) => return Err(self.fail(partition, error)),
                Some(Err(error)) => tracing::debug!(topic = self.topic, %error, "reading goes on after an error"),
                None => {}
            }
            if Instant::now() >= deadline {
                let Progress { reached, end, .. } = left;
                return Err(ReadError::NotReached { topic: self.topic.to_owned(), partition, reached, end });
            }
        }
        Ok(())
    }

    /// Fetches from an offset anew. What was fetched before, an end included, is dropped by the client.
    fn read_again(&self, consumer: &BaseConsumer<LogContext>, partition: i32, from: i64) -> Result<(), ReadError> {
        let sought = consumer.seek(self.topic, partition, Offset::Offset(from), self.config.request_timeout());
        sought.map_err(|error| self.fail(partition, error))
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

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

    use super::*;

    const TOPIC: &str = "led-elsewhere";
    const LIMIT: Duration = Duration::from_secs(30);

    /// Three records at the leader, of which the broker that serves readers knows one to be committed. It stands for a leader
    /// that was elected a moment ago.
    fn lagging_cluster<'c>() -> (MockCluster<'c, rdkafka::producer::DefaultProducerContext>, KafkaConfig) {
        let cluster = MockCluster::new(2).expect("a mock cluster");
        let config = KafkaConfig { bootstrap_servers: cluster.bootstrap_servers(), ..KafkaConfig::default() };
        cluster.create_topic(TOPIC, 1, 2).expect("a topic");
        cluster.partition_leader(TOPIC, 0, Some(1)).expect("a leader");
        let producer: BaseProducer = config.client("test").create().expect("a producer");
        for value in ["a", "b", "c"] {
            producer.send(BaseRecord::<(), str>::to(TOPIC).partition(0).payload(value)).map_err(|e| e.0).expect("sent");
            producer.flush(LIMIT).expect("a record in a batch of its own");
        }
        cluster.partition_follower(TOPIC, 0, 2).expect("another broker serves");
        cluster.follower_watermarks(TOPIC, 0, Some(0), Some(1)).expect("it lags behind");
        (cluster, config)
    }

    #[test]
    fn p2_an_end_that_a_new_leader_tells_too_early_is_not_believed() {
        let (cluster, config) = lagging_cluster();
        let reader = Reader { config: &config, service: "test", topic: TOPIC, patience: LIMIT };
        // The mock cluster has a stable offset of its own, which does not lag.
        let consumer = reader.consumer("read_uncommitted", 0).expect("a consumer");
        let mut looks = Vec::new();
        let look = |partition, end| {
            looks.push((partition, end));
            cluster.follower_watermarks(TOPIC, 0, Some(0), Some(3)).expect("it catches up");
            Ok(())
        };
        let mut read = Vec::new();
        reader.read(&consumer, &[(0, 0, 3)], look, |_, record| read.push(record.offset)).expect("is read");
        assert_eq!((read, looks), (vec![0, 1, 2], vec![(0, 3)]));
    }
}
