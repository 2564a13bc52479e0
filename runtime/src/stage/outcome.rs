//! What goes into a handler and what comes out of it.

use std::{fmt, future::Future, sync::Arc, time::Duration, time::SystemTime};

use bytes::Bytes;
use kms_schemas::identity::Coordinates;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::kafka::StoredRecord;

/// One record of an input topic, read committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputRecord {
    /// Full topic name.
    pub topic: Arc<str>,
    /// Partition number.
    pub partition: i32,
    /// Offset of this record (not the next one).
    pub offset: i64,
    /// Kafka key. Records of one key and partition are handled one after the other.
    pub key: Option<Bytes>,
    /// Kafka value; none for a tombstone.
    pub value: Option<Bytes>,
    /// Headers in record order; a header without a value has empty bytes.
    pub headers: Vec<(String, Bytes)>,
    /// Milliseconds since 1970, where the record carries a timestamp.
    pub timestamp_ms: Option<i64>,
}

impl InputRecord {
    /// Where the record lies.
    #[must_use]
    pub fn coordinates(&self) -> Coordinates {
        Coordinates { topic: self.topic.to_string(), partition: self.partition, offset: self.offset }
    }

    /// Bytes that the record holds in memory: key, value and headers.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// One record to publish in the same transaction as the offset of the record that caused it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputRecord {
    /// Full topic name.
    pub topic: String,
    /// Explicit partition, or none for the partitioner (`murmur2_random` over the key).
    pub partition: Option<i32>,
    /// Kafka key.
    pub key: Vec<u8>,
    /// Kafka value.
    pub value: Vec<u8>,
    /// Headers in record order.
    pub headers: Vec<(String, Vec<u8>)>,
}

impl OutputRecord {
    /// Upper bound of the bytes that the record takes in a batch: key, value, headers and the framing around them.
    #[must_use]
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 10).sum();
        // Lengths, deltas and attributes of a record are varints of at most 37 bytes together.
        self.key.len() + self.value.len() + headers + 37
    }
}

/// One go at one record, as the handler sees it.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// 1 for the first attempt. Attempts that failed by an outage of a dependency are not counted.
    pub number: u32,
    /// An earlier attempt of this record was made in this process and since this assignment, be it one that failed by an outage.
    pub repeated: bool,
    /// When the first attempt of this record began, in this process and since this assignment.
    pub first_started: SystemTime,
    /// Cancelled when nobody waits for the outcome any more: the partition was taken away, the record was deferred or
    /// given up, or the service stops. The handler should return soon; whatever it returns is dropped.
    pub cancel: CancellationToken,
    /// Tells the stage at once what answers.
    pub answered: Answered,
    /// Later records of the same key for which [`Handler::is_signal`] said yes, in the order they were read. They are
    /// handled as records of their own after this one.
    pub signals: watch::Receiver<Vec<Arc<InputRecord>>>,
}

/// Tells the stage in the middle of an attempt that a dependency answers. What waits for the dependency then need not wait for the
/// attempt to end, which may take hours when the attempt was the one that probed.
#[derive(Clone)]
pub struct Answered(Arc<dyn Fn(&'static str) + Send + Sync>);

impl Answered {
    pub(super) fn new(tell: impl Fn(&'static str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// Nobody listens: for trying parts of a handler on their own.
    #[must_use]
    pub fn unheard() -> Self {
        Self::new(|_| {})
    }

    /// The dependency of this name ([`Failure::dependency`]) answers. Cheap while nothing is thought to be down.
    pub fn by(&self, dependency: &'static str) {
        (self.0)(dependency);
    }
}

impl fmt::Debug for Answered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answered")
    }
}

/// How an attempt ended. Classified once, by the handler, where the error arises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The record is finished; these are its outputs (possibly none).
    Done(Vec<OutputRecord>),
    /// Try again later.
    Retry {
        /// Not before this delay; none leaves it to the stage's back-off.
        after: Option<Duration>,
        /// What went wrong. With a [`Failure::dependency`] it is an outage and burns no attempt.
        why: Failure,
    },
    /// What the record waits for answers, and has not come yet. Burns no attempt: the handler bounds such waiting itself.
    Wait {
        /// Not before this delay.
        after: Duration,
        /// What is waited for.
        why: Failure,
    },
    /// Move the record to the deferred topic now. A stage without a deferred topic retries instead.
    Defer {
        /// Why it cannot be finished here.
        why: Failure,
    },
    /// The record can never be finished.
    DeadLetter {
        /// The verdict.
        why: Failure,
    },
}

/// Why an attempt did not finish its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Stable code, e.g. `KC-0401` (`docs/errors.md`).
    pub code: &'static str,
    /// For a person.
    pub text: String,
    /// Name of the dependency that is down, where that is the cause: an outage is never a verdict on the record. The
    /// name labels a metric and a breaker, so there must be few of them.
    pub dependency: Option<&'static str>,
    /// Who else the dependency concerns.
    pub reach: Reach,
}

/// Whom an outage concerns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Every record: intake pauses, and nothing grows older.
    #[default]
    All,
    /// Records like this one, such as those of one shard of several: the others go on, and this one is deferred in its time.
    Some,
}

impl Failure {
    /// A failure of the record itself.
    #[must_use]
    pub fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), dependency: None, reach: Reach::All }
    }

    /// A failure of something that the record needs.
    #[must_use]
    pub fn outage(code: &'static str, dependency: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), dependency: Some(dependency), reach: Reach::All }
    }

    /// A failure of something that only records like this one need. It burns no attempt and pauses nobody.
    #[must_use]
    pub fn partial_outage(code: &'static str, dependency: &'static str, text: impl Into<String>) -> Self {
        Self { reach: Reach::Some, ..Self::outage(code, dependency, text) }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.text)
    }
}

/// How much of the original record a dead letter carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry {
    /// The whole value.
    Value,
    /// Only its length and digest, because the value does not fit the dead-letter topic.
    Digest,
}

/// A record found in an outcome topic while a ledger is rebuilt.
#[derive(Clone, Copy, Debug)]
pub struct OutcomeView<'a> {
    /// Full topic name.
    pub topic: &'a str,
    /// Partition number.
    pub partition: i32,
    /// Offset of the record.
    pub offset: i64,
    /// Kafka key.
    pub key: Option<&'a [u8]>,
    /// Kafka value.
    pub value: Option<&'a [u8]>,
}

/// What a service does with one record. The engine does all the rest.
pub trait Handler: Send + Sync + 'static {
    /// Handles one record. Called concurrently for different keys, never for two records of one key of one partition.
    /// The same record may be handled again after a crash or a change of owner, so calls to others must be idempotent.
    fn handle(&self, record: Arc<InputRecord>, attempt: Attempt) -> impl Future<Output = Outcome> + Send;

    /// Whether the record concerns an earlier, unfinished record of its key at once (a retraction, an abort).
    fn is_signal(&self, record: &InputRecord) -> bool {
        let _ = record;
        false
    }

    /// How many offsets below the position of a newly assigned partition [`Handler::recall`] is shown; 0 for none. Records
    /// above the position that are finished are shown too.
    fn memory(&self) -> u64 {
        0
    }

    /// A record of a newly assigned partition that an earlier owner, or this process before a restart, has read. Shown before
    /// any record of the partition is handled, in the order of offsets; some may be handled (again) afterwards.
    fn recall(&self, topic: &str, partition: i32, record: &StoredRecord) {
        let _ = (topic, partition, record);
    }

    /// The record for the deferred topic, or none when this stage has no such topic. `attempts` counts over this
    /// stage's life of the record, `first_ms` is the time of its first attempt in milliseconds since 1970.
    fn deferred(&self, record: &InputRecord, attempts: u32, first_ms: u64, why: &Failure) -> Option<OutputRecord>;

    /// The record for the dead-letter topic.
    fn dead_letter(&self, record: &InputRecord, attempts: u32, why: &Failure, carry: Carry) -> OutputRecord;

    /// The input record that this record of an outcome topic finished, or none when it is not an outcome of this stage's
    /// inputs. Only called while a ledger is rebuilt.
    fn outcome_source(&self, outcome: OutcomeView<'_>) -> Option<Coordinates>;
}
