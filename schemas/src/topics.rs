//! The catalogue of topics: their names under a prefix, their settings, and which record each carries.

use alloy::primitives::Address;

use crate::codec::Record;
use crate::identity::{Lane, RequestId};
use crate::record::{Cursor, DeadLetter, DeferredRequest, Intent, Request, ResultRecord, Submission};

/// The topic prefix of a deployment that configures none.
pub const DEFAULT_PREFIX: &str = "kms-connector";

/// Largest record, in bytes of key and value, that the topics of requests, results, submissions and intents take.
///
/// The largest request event that fits a block's gas limit is well below 1 MiB; the largest result carries a user
/// decryption's share.
pub const MAX_RECORD_BYTES: usize = 4 << 20;

/// Largest dead letter: twice a record, so that every record fits with its story around it.
pub const MAX_DEAD_LETTER_BYTES: usize = 2 * MAX_RECORD_BYTES;

/// A deferred request is a request with its story around it.
const MAX_DEFERRED_BYTES: usize = MAX_RECORD_BYTES + (64 << 10);

/// Ninety days: how long decryption traffic stays in Kafka by default. Auditors who need more raise `retention.ms`.
const LONG_MS: i64 = 90 * 24 * 60 * 60 * 1000;

/// The names of a deployment's topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    prefix: String,
    requests: [String; 2],
    deferred: [String; 2],
    results: [String; 2],
    submissions: String,
    dead_letters: String,
    cursor: String,
    intents: String,
    leader: String,
}

/// A topic as it must exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Full name, prefix included.
    pub name: String,
    /// Number of partitions. It never changes: services refuse a topic that has another.
    pub partitions: i32,
    /// Topic settings, as Kafka names them, for creation. Operators may change what is not `cleanup.policy`.
    pub config: Vec<(&'static str, String)>,
    /// Avro full name of the record that the topic carries; none for a topic without records.
    pub record: Option<&'static str>,
}

/// Why a prefix cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// No topic may have such a name.
    #[error("the topic prefix is empty")]
    Empty,
    /// Kafka refuses the character.
    #[error("the topic prefix contains `{0}`; Kafka allows letters, digits, `.`, `_` and `-`")]
    Character(char),
    /// The longest topic name would exceed Kafka's 249 characters.
    #[error("the topic prefix has {0} characters; at most {1} leave room for the topic names")]
    TooLong(usize, usize),
}

/// How long a topic keeps its records.
#[derive(Clone, Copy)]
enum Keep {
    Long,
    Forever,
}

fn lane_index(lane: Lane) -> usize {
    match lane {
        Lane::Decryption => 0,
        Lane::KeyManagement => 1,
    }
}

impl Topics {
    /// The topics under `prefix`, which [`Topics::check_prefix`] should have accepted.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let name = |topic: &str| format!("{prefix}.{topic}");
        let per_lane = |before: &str, after: &str| Lane::ALL.map(|lane| name(&format!("{before}.{lane}{after}")));
        Self {
            prefix: prefix.to_owned(),
            requests: per_lane("requests", ""),
            deferred: per_lane("requests", ".deferred"),
            results: per_lane("results", ""),
            submissions: name("submissions"),
            dead_letters: name("dead-letters"),
            cursor: name("ingest.cursor"),
            intents: name("emitter.intents"),
            leader: name("emitter.leader"),
        }
    }

    /// Whether Kafka takes the names that `prefix` makes.
    ///
    /// # Errors
    ///
    /// Says what Kafka would refuse.
    pub fn check_prefix(prefix: &str) -> Result<(), PrefixError> {
        const LONGEST_TOPIC: usize = 249;
        if prefix.is_empty() {
            return Err(PrefixError::Empty);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if let Some(refused) = prefix.chars().find(|c| !allowed(*c)) {
            return Err(PrefixError::Character(refused));
        }
        let longest_name = Self::new("").all().iter().map(|topic| topic.name.len()).max().unwrap_or_default();
        let room = LONGEST_TOPIC - longest_name;
        if prefix.len() > room {
            return Err(PrefixError::TooLong(prefix.len(), room));
        }
        Ok(())
    }

    /// The prefix.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// `requests.{lane}`: [`Request`]s, by request id.
    #[must_use]
    pub fn requests(&self, lane: Lane) -> &str {
        &self.requests[lane_index(lane)]
    }

    /// `requests.{lane}.deferred`: [`DeferredRequest`]s, by request id.
    #[must_use]
    pub fn deferred(&self, lane: Lane) -> &str {
        &self.deferred[lane_index(lane)]
    }

    /// `results.{lane}`: [`ResultRecord`]s, by request id.
    #[must_use]
    pub fn results(&self, lane: Lane) -> &str {
        &self.results[lane_index(lane)]
    }

    /// `submissions`: [`Submission`]s, by request id.
    #[must_use]
    pub fn submissions(&self) -> &str {
        &self.submissions
    }

    /// `dead-letters`: [`DeadLetter`]s, by the original key.
    #[must_use]
    pub fn dead_letters(&self) -> &str {
        &self.dead_letters
    }

    /// `ingest.cursor`: [`Cursor`]s, by source id, compacted.
    #[must_use]
    pub fn cursor(&self) -> &str {
        &self.cursor
    }

    /// `emitter.intents`: [`Intent`]s, by chain, sender, nonce and attempt.
    #[must_use]
    pub fn intents(&self) -> &str {
        &self.intents
    }

    /// `emitter.leader`: carries nothing; its one partition elects the emitter that is active.
    #[must_use]
    pub fn leader(&self) -> &str {
        &self.leader
    }

    /// Every topic with its settings.
    #[must_use]
    pub fn all(&self) -> Vec<TopicSpec> {
        let mut all = Vec::new();
        for lane in Lane::ALL {
            let (partitions, keep) = match lane {
                Lane::Decryption => (12, Keep::Long),
                Lane::KeyManagement => (3, Keep::Forever),
            };
            all.push(log_topic::<Request>(self.requests(lane), partitions, keep, MAX_RECORD_BYTES));
            all.push(log_topic::<DeferredRequest>(self.deferred(lane), partitions, Keep::Long, MAX_DEFERRED_BYTES));
            all.push(log_topic::<ResultRecord>(self.results(lane), partitions, keep, MAX_RECORD_BYTES));
        }
        all.push(log_topic::<Submission>(&self.submissions, 12, Keep::Forever, MAX_RECORD_BYTES));
        all.push(log_topic::<DeadLetter>(&self.dead_letters, 3, Keep::Forever, MAX_DEAD_LETTER_BYTES));
        all.push(TopicSpec {
            name: self.cursor.clone(),
            partitions: 1,
            config: vec![
                ("cleanup.policy", "compact".to_owned()),
                // A start reads the topic to its end, so superseded cursors must go soon. A megabyte is the least that
                // Kafka 4 takes for a segment.
                ("segment.bytes", (1 << 20).to_string()),
                ("segment.ms", (10 * 60 * 1000).to_string()),
                ("min.cleanable.dirty.ratio", "0.1".to_owned()),
                ("max.message.bytes", (1 << 20).to_string()),
            ],
            record: Some(Cursor::NAME),
        });
        // Compaction would erase a variant of a transaction that may still be mined.
        all.push(log_topic::<Intent>(&self.intents, 1, Keep::Forever, MAX_RECORD_BYTES));
        all.push(TopicSpec {
            name: self.leader.clone(),
            partitions: 1,
            config: vec![("cleanup.policy", "delete".to_owned())],
            record: None,
        });
        all
    }
}

fn log_topic<R: Record>(name: &str, partitions: i32, keep: Keep, max_bytes: usize) -> TopicSpec {
    let retention_ms = match keep {
        Keep::Long => LONG_MS,
        Keep::Forever => -1,
    };
    TopicSpec {
        name: name.to_owned(),
        partitions,
        config: vec![
            ("cleanup.policy", "delete".to_owned()),
            ("retention.ms", retention_ms.to_string()),
            // A cluster's default limit in bytes would delete what a limit in time keeps.
            ("retention.bytes", "-1".to_owned()),
            ("max.message.bytes", max_bytes.to_string()),
        ],
        record: Some(R::NAME),
    }
}

/// Kafka key of an intent: chain id, sender, nonce and attempt, big-endian, one after the other.
#[must_use]
pub fn intent_key(chain_id: u64, sender: Address, nonce: u64, attempt: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + 20 + 8 + 4);
    key.extend_from_slice(&chain_id.to_be_bytes());
    key.extend_from_slice(sender.as_slice());
    key.extend_from_slice(&nonce.to_be_bytes());
    key.extend_from_slice(&attempt.to_be_bytes());
    key
}

/// Kafka key of requests, results and submissions: the 32 bytes of the id.
#[must_use]
pub fn request_key(id: RequestId) -> [u8; 32] {
    id.0.0
}

/// The partition that Kafka's Java client and librdkafka's `murmur2_random` choose for `key`.
///
/// A topic has one partition or more; for a smaller number the answer is 0.
#[must_use]
pub fn partition_for_key(key: &[u8], partitions: i32) -> i32 {
    let positive = (murmur2(key) & 0x7fff_ffff) as i32;
    positive.checked_rem(partitions.max(1)).unwrap_or_default()
}

/// MurmurHash2 with Kafka's seed.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    // Keys are far below 4 GiB; the hash takes the length modulo 2^32 as the Java client does.
    let mut h = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (index, byte) in tail.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * index);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}
