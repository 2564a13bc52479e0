//! The catalogue of topics: their names under a prefix, their settings, and which record each carries.

use alloy::primitives::Address;

use crate::codec::Record;
use crate::identity::{Lane, RequestId};
use crate::record::{Cursor, DeadLetter, DeferredRequest, Intent, Request, ResultRecord, Submission, WalletRecord};

/// The topic prefix of a deployment that configures none.
pub const DEFAULT_PREFIX: &str = "kms-connector";

/// Largest record, in bytes of key and value, that the topics of requests, results, submissions and intents take.
///
/// The largest request event that fits a block's gas limit is well below 1 MiB; the largest result carries a user
/// decryption's share.
pub const MAX_RECORD_BYTES: usize = 4 << 20;

/// Largest dead letter: twice a record, so that every record fits with its story around it.
pub const MAX_DEAD_LETTER_BYTES: usize = 2 * MAX_RECORD_BYTES;

/// A person's command, or what came of it, which may name many transactions.
const MAX_COMMAND_BYTES: usize = 1 << 20;

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
    commands: String,
    leader: String,
}

/// A topic as it must exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Full name, prefix included.
    pub name: String,
    /// Number of partitions. It never changes: services refuse a topic that has another.
    pub partitions: i32,
    /// Topic settings, as Kafka names them, for creation. Operators may change what breaks no promise: raise limits, keep
    /// longer, and keep shorter what is not kept for ever.
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
            commands: name("emitter.commands"),
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

    /// `emitter.commands`: [`WalletRecord`]s, by chain and sender.
    #[must_use]
    pub fn commands(&self) -> &str {
        &self.commands
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
        // Who paused and who cancelled must be known for as long as the intents are.
        all.push(log_topic::<WalletRecord>(&self.commands, 1, Keep::Forever, MAX_COMMAND_BYTES));
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

/// Kafka key of commands and their outcomes: chain id and sender, as an intent's key begins.
#[must_use]
pub fn wallet_key(chain_id: u64, sender: Address) -> Vec<u8> {
    let mut key = Vec::with_capacity(8 + 20);
    key.extend_from_slice(&chain_id.to_be_bytes());
    key.extend_from_slice(sender.as_slice());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur2_is_that_of_the_java_client() {
        // The values of Kafka's own UtilsTest.
        let golden: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in golden {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
            assert_eq!(partition_for_key(key.as_bytes(), 12), (hash & i32::MAX) % 12, "{key}");
        }
    }

    #[test]
    fn every_key_has_a_partition() {
        for length in 0..40 {
            for partitions in [-1, 0, 1, 3, 12, i32::MAX] {
                let partition = partition_for_key(&vec![0xa5; length], partitions);
                assert!((0..partitions.max(1)).contains(&partition), "{length} {partitions}");
            }
        }
    }

    #[test]
    fn the_catalogue_is_that_of_the_design() {
        let topics = Topics::new("p");
        let all: Vec<(String, i32, Option<&str>, String)> = topics
            .all()
            .into_iter()
            .map(|topic| {
                let config: Vec<String> = topic.config.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let record = topic.record.map(|record| record.trim_start_matches("org.kmsconnector."));
                (topic.name, topic.partitions, record, config.join(" "))
            })
            .collect();
        let log = |retention: &str, max: &str| {
            format!("cleanup.policy=delete retention.ms={retention} retention.bytes=-1 max.message.bytes={max}")
        };
        let (long, forever) = ("7776000000", "-1");
        let cursor = "cleanup.policy=compact segment.bytes=1048576 segment.ms=600000 min.cleanable.dirty.ratio=0.1 \
                      max.message.bytes=1048576";
        let expected = [
            ("p.requests.decryption", 12, Some("Request"), log(long, "4194304")),
            ("p.requests.decryption.deferred", 12, Some("DeferredRequest"), log(long, "4259840")),
            ("p.results.decryption", 12, Some("Result"), log(long, "4194304")),
            ("p.requests.key-management", 3, Some("Request"), log(forever, "4194304")),
            ("p.requests.key-management.deferred", 3, Some("DeferredRequest"), log(long, "4259840")),
            ("p.results.key-management", 3, Some("Result"), log(forever, "4194304")),
            ("p.submissions", 12, Some("Submission"), log(forever, "4194304")),
            ("p.dead-letters", 3, Some("DeadLetter"), log(forever, "8388608")),
            ("p.ingest.cursor", 1, Some("Cursor"), cursor.to_owned()),
            ("p.emitter.intents", 1, Some("Intent"), log(forever, "4194304")),
            ("p.emitter.commands", 1, Some("WalletRecord"), log(forever, "1048576")),
            ("p.emitter.leader", 1, None, "cleanup.policy=delete".to_owned()),
        ]
        .map(|(name, partitions, record, config)| (name.to_owned(), partitions, record, config));
        assert_eq!(all, expected);
    }

    #[test]
    fn a_prefix_is_what_kafka_takes() {
        assert_eq!(Topics::check_prefix(DEFAULT_PREFIX), Ok(()));
        assert_eq!(Topics::check_prefix(""), Err(PrefixError::Empty));
        assert_eq!(Topics::check_prefix("a b"), Err(PrefixError::Character(' ')));
        assert_eq!(Topics::check_prefix("schlüssel"), Err(PrefixError::Character('ü')));
        let longest = "requests.key-management.deferred".len() + 1;
        assert_eq!(Topics::check_prefix(&"x".repeat(249 - longest)), Ok(()));
        assert_eq!(
            Topics::check_prefix(&"x".repeat(250 - longest)),
            Err(PrefixError::TooLong(250 - longest, 249 - longest))
        );
    }

    #[test]
    fn keys_are_big_endian() {
        let id = RequestId::from(alloy::primitives::U256::from(258));
        assert_eq!(request_key(id)[29..], [0, 1, 2]);
        let key = intent_key(1, Address::repeat_byte(9), 258, 3);
        assert_eq!(hex::encode(key), format!("0000000000000001{}000000000000010200000003", "09".repeat(20)));
        let key = wallet_key(1, Address::repeat_byte(9));
        assert_eq!(hex::encode(key), format!("0000000000000001{}", "09".repeat(20)));
    }
}
