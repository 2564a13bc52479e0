//! One identity, one payload: a second, different payload under a known identity never reaches KMS Core, which does not compare
//! what it is given with what it has (`docs/protocol.md`, "Request ids").
//!
//! The contracts' ids are counters, so a Gateway that was reorganised gives the id of an abandoned request to another one. Only
//! requests that were proven against the chain are remembered: a forged record must not keep the genuine one from being
//! served. What other instances and earlier lives of this one served is recalled from the requests topic when a partition is
//! assigned; whether such a record was served or refused, the dead letters tell.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy::primitives::{B256, keccak256};
use kms_runtime::kafka::{KafkaConfig, PartitionRange, ReadError, read_ranges, watermarks};
use kms_schemas::codec::Codec;
use kms_schemas::identity::{Coordinates, Identity};
use kms_schemas::record::{DeadLetter, Request};
use kms_schemas::topics::Topics;

use crate::codes;
use crate::error::Trouble;
use crate::handler::SERVICE;
use crate::metrics;

/// The topics, as a dependency with a breaker of its own.
pub const TOPICS: &str = "kafka";
/// Longest silence while topics are read back.
const PATIENCE: Duration = Duration::from_secs(15);
/// Dead letters of each partition that are searched for the fate of a record.
const LETTERS: i64 = 100_000;

/// What is known of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The record that came first.
    pub source: Coordinates,
    /// keccak256 over the topics and the data of its log.
    pub payload: B256,
    /// It was proven against the chain by this process; otherwise it was only found in the topic.
    pub proven: bool,
}

/// Whether a request may be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is the first one of its identity, or says the same as the first.
    Served,
    /// Another payload came first under the same identity.
    Other(Known),
}

/// The payloads of the last requests of each partition, by identity. Bounded: what lies further back than the memory is
/// forgotten, which a reorganisation does not reach.
#[derive(Debug)]
pub struct Identities {
    memory: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<Identity, Known>,
    /// What is known by where it lies, to forget the oldest of a partition.
    places: HashMap<(String, i32), BTreeMap<i64, Identity>>,
}

impl Identities {
    /// Remembers the last `memory` offsets of each partition.
    #[must_use]
    pub fn new(memory: u64) -> Self {
        Self { memory, inner: Mutex::default() }
    }

    /// Offsets of each partition that are remembered.
    #[must_use]
    pub const fn memory(&self) -> u64 {
        self.memory
    }

    /// A request that lies in the topic, served by whomever. Of several with one identity the first counts.
    pub fn recall(&self, request: &Request, source: &Coordinates) {
        let known = Known { source: source.clone(), payload: payload(request), proven: false };
        let mut inner = self.lock();
        match inner.known.get(&request.identity()) {
            Some(first) if first.proven || is_before(&first.source, source) => {}
            _ => inner.insert(request.identity(), known, self.memory),
        }
    }

    /// A request that was proven, before KMS Core hears of it.
    pub fn admit(&self, request: &Request, source: &Coordinates) -> Admission {
        let mut inner = self.lock();
        let payload = payload(request);
        let proven = |source: &Coordinates| Known { source: source.clone(), payload, proven: true };
        match inner.known.get_mut(&request.identity()) {
            Some(first) if first.payload == payload => {
                first.proven = true;
                Admission::Served
            }
            // What lies behind it was recalled too: it comes later, and is judged then.
            Some(first) if !first.proven && is_before(source, &first.source) => {
                inner.insert(request.identity(), proven(source), self.memory);
                Admission::Served
            }
            Some(first) => Admission::Other(first.clone()),
            None => {
                inner.insert(request.identity(), proven(source), self.memory);
                Admission::Served
            }
        }
    }

    /// The request ended before KMS Core heard of it: it stands in nobody's way.
    pub fn forget(&self, request: &Request, source: &Coordinates) {
        let mut inner = self.lock();
        if inner.known.get(&request.identity()).is_some_and(|known| !known.proven && known.source == *source) {
            inner.remove(&request.identity());
        }
    }

    /// Up to which offset a partition is known to this process.
    fn read_up_to(&self, source: &Coordinates) -> i64 {
        let place = (source.topic.clone(), source.partition);
        self.lock().places.get(&place).and_then(|offsets| offsets.last_key_value()).map_or(0, |(last, _)| *last + 1)
    }

    /// The first record of the identity turned out never to have been served: this one takes its place.
    pub fn replace(&self, request: &Request, source: &Coordinates) {
        let known = Known { source: source.clone(), payload: payload(request), proven: true };
        self.lock().insert(request.identity(), known, self.memory);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, identity: &Identity) {
        let Some(known) = self.known.remove(identity) else { return };
        if let Some(offsets) = self.places.get_mut(&(known.source.topic, known.source.partition)) {
            offsets.remove(&known.source.offset);
        }
    }

    fn insert(&mut self, identity: Identity, known: Known, memory: u64) {
        self.remove(&identity);
        self.known.insert(identity, known.clone());
        let offsets = self.places.entry((known.source.topic, known.source.partition)).or_default();
        offsets.insert(known.source.offset, identity);
        let newest = offsets.last_key_value().map_or(0, |(offset, _)| *offset);
        let bound = newest.saturating_sub(i64::try_from(memory).unwrap_or(i64::MAX));
        while let Some(oldest) = offsets.first_entry().filter(|oldest| *oldest.key() < bound) {
            self.known.remove(&oldest.remove());
        }
    }
}

/// Keeps a second payload under a known identity from KMS Core, with what the topics tell.
#[derive(Debug)]
pub struct Quarantine {
    identities: Identities,
    kafka: KafkaConfig,
    codec: Codec,
    topics: Topics,
    /// One reader at a time: whoever comes meanwhile finds what it has read.
    reading: tokio::sync::Mutex<()>,
}

impl Quarantine {
    /// Remembers the last `memory` offsets of each partition of the requests topics.
    #[must_use]
    pub fn new(kafka: KafkaConfig, codec: Codec, topics: Topics, memory: u64) -> Self {
        Self { identities: Identities::new(memory), kafka, codec, topics, reading: tokio::sync::Mutex::default() }
    }

    /// What is remembered.
    #[must_use]
    pub const fn identities(&self) -> &Identities {
        &self.identities
    }

    /// A record of a requests topic that was read before this process owned its partition.
    pub fn recall(&self, source: &Coordinates, value: Option<&[u8]>) {
        // What does not decode was nobody's request.
        if let Ok(request) = self.codec.decode::<Request>(&source.topic, value.unwrap_or_default()) {
            self.identities.recall(&request, source);
        }
    }

    /// Lets a proven request pass, unless KMS Core may have heard of another one under its identity. Of a deferred request the
    /// partition may belong to another process: what lies before it is read first.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] for a second payload, naming both; [`Trouble::Outage`] where the topics cannot be read.
    pub async fn pass(
        self: &Arc<Self>,
        request: &Request,
        source: &Coordinates,
        deferred: bool,
    ) -> Result<(), Trouble> {
        if deferred {
            self.catch_up(source).await?;
        }
        let Admission::Other(first) = self.identities.admit(request, source) else { return Ok(()) };
        if !first.proven && self.was_never_served(&first.source).await? {
            self.identities.replace(request, source);
            return Ok(());
        }
        let text = format!(
            "{} {} of {} came first with another payload, in {} (keccak256 of its log {}); this one is in {source} ({})",
            request.kind,
            request.id,
            request.log.address,
            first.source,
            first.payload,
            payload(request),
        );
        metrics::identity_reused(request.kind.as_str(), &text);
        Err(Trouble::permanent(codes::IDENTITY_REUSED, text))
    }

    async fn catch_up(self: &Arc<Self>, source: &Coordinates) -> Result<(), Trouble> {
        let _reading = self.reading.lock().await;
        let memory = i64::try_from(self.identities.memory).unwrap_or(i64::MAX);
        let from = self.identities.read_up_to(source).max(source.offset.saturating_sub(memory));
        if from >= source.offset {
            return Ok(());
        }
        let (quarantine, source) = (Arc::clone(self), source.clone());
        self.in_the_background(move || {
            let low = low_watermarks(&quarantine.kafka, &source.topic, source.partition + 1)?;
            let from = from.max(low.get(source.partition as usize).copied().unwrap_or(from));
            let range = (source.partition, from, source.offset);
            read_ranges(&quarantine.kafka, SERVICE, &source.topic, &[range], PATIENCE, |partition, record| {
                let place = Coordinates { topic: source.topic.clone(), partition, offset: record.offset };
                quarantine.recall(&place, record.value.as_deref());
            })
        })
        .await
    }

    /// Whether the record ended in a dead letter before KMS Core heard of it.
    async fn was_never_served(self: &Arc<Self>, source: &Coordinates) -> Result<bool, Trouble> {
        let (quarantine, source) = (Arc::clone(self), source.clone());
        self.in_the_background(move || {
            let topic = quarantine.topics.dead_letters();
            let partitions = quarantine.topics.all().iter().find(|spec| spec.name == topic).map_or(1, |s| s.partitions);
            let ends = watermarks(&quarantine.kafka, SERVICE, topic, partitions)?;
            let ranges: Vec<PartitionRange> = (0..)
                .zip(&ends)
                .map(|(partition, (low, high))| (partition, (*low).max(high - LETTERS), *high))
                .collect();
            let mut refused = false;
            read_ranges(&quarantine.kafka, SERVICE, topic, &ranges, PATIENCE, |_, record| {
                let value = record.value.as_deref().unwrap_or_default();
                let Ok(letter) = quarantine.codec.decode::<DeadLetter>(topic, value) else { return };
                let is_about_it = letter.request.as_ref().unwrap_or(&letter.source) == &source;
                refused |= is_about_it && letter.service == SERVICE && codes::is_before_core(&letter.reason);
            })?;
            Ok(refused)
        })
        .await
    }

    async fn in_the_background<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Trouble> {
        let outage = |text: String| Trouble::outage(codes::TOPICS_UNREADABLE, TOPICS, text);
        let read = tokio::task::spawn_blocking(read).await.map_err(|error| outage(error.to_string()))?;
        read.map_err(|error| outage(error.to_string()))
    }
}

fn low_watermarks(kafka: &KafkaConfig, topic: &str, partitions: i32) -> Result<Vec<i64>, ReadError> {
    Ok(watermarks(kafka, SERVICE, topic, partitions)?.into_iter().map(|(low, _)| low).collect())
}

/// Records of one identity have one key, so that they lie in one partition: their offsets tell which came first.
fn is_before(one: &Coordinates, other: &Coordinates) -> bool {
    one.topic == other.topic && one.partition == other.partition && one.offset <= other.offset
}

/// What the log says, apart from where it stands.
fn payload(request: &Request) -> B256 {
    let mut bytes = Vec::with_capacity(32 * request.log.topics.len() + request.log.data.len());
    for topic in &request.log.topics {
        bytes.extend_from_slice(topic.as_slice());
    }
    bytes.extend_from_slice(&request.log.data);
    keccak256(bytes)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, Bytes};
    use kms_schemas::identity::{Kind, RequestId};
    use kms_schemas::record::{RawLog, RequestBody};

    use super::*;

    fn at(offset: i64) -> Coordinates {
        Coordinates { topic: "kms.requests.decryption".to_owned(), partition: 3, offset }
    }

    fn request(id: u8, data: &'static [u8]) -> Request {
        Request {
            source: "gateway".to_owned(),
            seq: 0,
            previous_hash: B256::ZERO,
            chain_id: 1,
            kind: Kind::PublicDecryption,
            id: RequestId(B256::with_last_byte(id)),
            block_number: 1,
            block_hash: B256::ZERO,
            block_timestamp: 0,
            transaction_hash: B256::ZERO,
            log_index: 0,
            log: RawLog { address: Address::ZERO, topics: Vec::new(), data: Bytes::from_static(data) },
            body: RequestBody::PrssInit,
        }
    }

    fn other(admission: Admission) -> Known {
        let Admission::Other(known) = admission else { panic!("served") };
        known
    }

    #[test]
    fn p4_a_second_payload_under_a_known_identity_is_told_with_the_first() {
        let identities = Identities::new(100);
        assert_eq!(identities.admit(&request(1, b"a"), &at(5)), Admission::Served);
        assert_eq!(identities.admit(&request(1, b"a"), &at(6)), Admission::Served);
        let first = other(identities.admit(&request(1, b"b"), &at(7)));
        assert_eq!((first.source, first.proven), (at(5), true));
        assert_eq!(identities.admit(&request(2, b"b"), &at(8)), Admission::Served);
    }

    #[test]
    fn p4_what_another_instance_or_an_earlier_life_read_is_known_too() {
        let identities = Identities::new(100);
        identities.recall(&request(1, b"a"), &at(5));
        identities.recall(&request(1, b"b"), &at(6));
        let first = other(identities.admit(&request(1, b"b"), &at(6)));
        assert_eq!((first.source, first.proven), (at(5), false));
        // It was never served, say the dead letters.
        identities.replace(&request(1, b"b"), &at(6));
        assert_eq!(identities.admit(&request(1, b"b"), &at(6)), Admission::Served);
        assert_eq!(other(identities.admit(&request(1, b"c"), &at(9))).source, at(6));
    }

    #[test]
    fn an_unfinished_record_is_not_kept_from_being_served_by_one_that_was_finished_behind_it() {
        let identities = Identities::new(100);
        identities.recall(&request(1, b"b"), &at(9));
        assert_eq!(identities.admit(&request(1, b"a"), &at(5)), Admission::Served);
        assert_eq!(other(identities.admit(&request(1, b"b"), &at(9))).source, at(5));
    }

    #[test]
    fn p6_what_lies_further_back_than_the_memory_is_forgotten() {
        let identities = Identities::new(10);
        for offset in 0..1_000_u16 {
            let mut request = request(0, b"a");
            request.id = RequestId(B256::left_padding_from(&offset.to_be_bytes()));
            assert_eq!(identities.admit(&request, &at(offset.into())), Admission::Served);
        }
        assert_eq!(identities.lock().known.len(), 11);
        assert_eq!(identities.lock().places.values().map(BTreeMap::len).sum::<usize>(), 11);
    }
}
