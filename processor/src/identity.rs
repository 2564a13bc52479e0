//! One identity, one payload, served once: a second, different payload under a known identity never reaches KMS Core, which does not
//! compare what it is given with what it has (`docs/protocol.md`, "Request ids"), and neither does a copy of a request that is
//! served already.
//!
//! The contracts' ids are counters, so a Gateway that was reorganised gives the id of an abandoned request to another one. What other
//! instances and earlier lives of this one served is recalled from the requests topic when a partition is assigned. Whether what stands
//! there may have been served, the chain tells, and not the topics, where everybody may have written: a forged record must not keep the
//! genuine one from being served.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy::primitives::{B256, keccak256};
use kms_chain::codes::{AUTHORITY_BEHIND, BLOCK_ORPHANED, LOG_NOT_IN_BLOCK};
use kms_runtime::kafka::{KafkaConfig, ReadError, read_ranges, watermarks};
use kms_runtime::stage::Answered;
use kms_schemas::codec::Codec;
use kms_schemas::identity::{Coordinates, Identity, Lane};
use kms_schemas::record::Request;
use kms_schemas::topics::{Topics, partition_for_key, request_key};

use crate::codes;
use crate::error::Trouble;
use crate::gate::Gate;
use crate::handler::SERVICE;
use crate::patience::Budget;

/// The topics, as a dependency with a breaker of its own.
pub const TOPICS: &str = "kafka";
/// Longest silence while topics are read back.
const PATIENCE: Duration = Duration::from_secs(15);

/// One record of an identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where the record lies.
    pub source: Coordinates,
    /// keccak256 over the topics and the data of its log.
    pub payload: B256,
    /// Block hash and index of the log.
    pub occurrence: (B256, u64),
    /// keccak256 over everything of the record that the chain proves.
    claim: B256,
    /// It was proven against the chain by this process; otherwise it was only found in the topic.
    pub proven: bool,
}

impl Known {
    fn of(request: &Request, source: &Coordinates, proven: bool) -> Self {
        Self {
            source: source.clone(),
            payload: payload(request),
            occurrence: (request.block_hash, request.log_index),
            claim: claim(request),
            proven,
        }
    }
}

/// Whether a request may be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Nothing else is known of its identity but the same payload in another block.
    Served,
    /// It says what this record says, which is served.
    Copy(Known),
    /// Another payload was proven under the same identity.
    Other(Known),
    /// Another payload stands before it under the same identity, and nobody has proven it yet.
    Undecided(Known),
}

/// The records of the last requests of each partition, by identity. Bounded: what lies further back than the memory is
/// forgotten, which a reorganisation does not reach.
#[derive(Debug)]
pub struct Identities {
    memory: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    known: HashMap<Identity, BTreeMap<Coordinates, Known>>,
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

    /// A request that lies in the topic, served by whomever or nobody.
    pub fn recall(&self, request: &Request, source: &Coordinates) {
        let mut inner = self.lock();
        let known = inner.known.get(&request.identity()).is_some_and(|records| records.contains_key(source));
        if !known {
            inner.insert(request.identity(), Known::of(request, source, false), self.memory);
        }
    }

    /// A request that was proven, before KMS Core hears of it.
    pub fn admit(&self, request: &Request, source: &Coordinates) -> Admission {
        let identity = request.identity();
        let own = Known::of(request, source, true);
        let mut inner = self.lock();
        let others = || {
            let records = inner.known.get(&identity).into_iter().flat_map(BTreeMap::values);
            records.filter(|other| other.source != *source)
        };
        // A log is one payload in one transaction: who says something else of a proven one is refused without being asked.
        let is_refuted = |other: &Known| other.occurrence == own.occurrence && other.claim != own.claim;
        let differs = |other: &&Known| other.payload != own.payload && !is_refuted(other);
        if let Some(other) = others().find(|other| other.proven && differs(other)) {
            return Admission::Other(other.clone());
        }
        // What lies behind it was recalled too: it comes later, and is judged then.
        if let Some(other) = others().find(|other| differs(other) && !is_before(source, &other.source)) {
            return Admission::Undecided(other.clone());
        }
        // What says the same as a proven record is as genuine. The first in the topic is the original, also while it is not proven.
        let original =
            others().find(|other| other.claim == own.claim && (other.proven || is_before(&other.source, source)));
        if let Some(original) = original {
            return Admission::Copy(original.clone());
        }
        inner.insert(identity, own, self.memory);
        Admission::Served
    }

    /// The request ended before KMS Core heard of it: it stands in nobody's way.
    pub fn forget(&self, request: &Request, source: &Coordinates) {
        let mut inner = self.lock();
        let records = inner.known.get(&request.identity());
        let known = records.and_then(|records| records.get(source));
        if known.is_some_and(|known| !known.proven && known.claim == claim(request)) {
            inner.remove(&request.identity(), source);
        }
    }

    /// The record was never served, says the chain.
    fn refute(&self, identity: &Identity, known: &Known) {
        self.lock().remove(identity, &known.source);
    }

    /// Whether the topic is known to hold this request there.
    fn holds(&self, request: &Request, source: &Coordinates) -> bool {
        let inner = self.lock();
        let known = inner.known.get(&request.identity()).and_then(|records| records.get(source));
        known.is_some_and(|known| known.claim == claim(request))
    }

    /// Up to which offset a partition is known to this process.
    fn read_up_to(&self, source: &Coordinates) -> i64 {
        let place = (source.topic.clone(), source.partition);
        self.lock().places.get(&place).and_then(|offsets| offsets.last_key_value()).map_or(0, |(last, _)| *last + 1)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, identity: &Identity, source: &Coordinates) {
        if let Some(records) = self.known.get_mut(identity) {
            records.remove(source);
            if records.is_empty() {
                self.known.remove(identity);
            }
        }
        if let Some(offsets) = self.places.get_mut(&(source.topic.clone(), source.partition))
            && offsets.get(&source.offset) == Some(identity)
        {
            offsets.remove(&source.offset);
        }
    }

    fn insert(&mut self, identity: Identity, known: Known, memory: u64) {
        let source = known.source.clone();
        let offsets = self.places.entry((source.topic.clone(), source.partition)).or_default();
        let replaced = offsets.insert(source.offset, identity);
        let newest = offsets.last_key_value().map_or(0, |(offset, _)| *offset);
        let bound = newest.saturating_sub(i64::try_from(memory).unwrap_or(i64::MAX));
        let kept = offsets.split_off(&bound);
        let forgotten = std::mem::replace(offsets, kept);
        if let Some(other) = replaced.filter(|other| *other != identity) {
            self.remove(&other, &source);
        }
        self.known.entry(identity).or_default().insert(source.clone(), known);
        for (offset, identity) in forgotten {
            self.remove(&identity, &Coordinates { offset, ..source.clone() });
        }
    }
}

/// What the chain says of a record that stands in a request's way.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// It is on the chain.
    Served,
    /// It never was: nobody has served it.
    NeverServed,
    /// Its block was there, or was invented; while `turns`, a node may be mistaken about it.
    Orphaned { turns: bool },
    /// Nothing can be said now.
    Unknown(Trouble),
}

fn fate<T>(proven: Result<T, Trouble>) -> Fate {
    let Err(trouble) = proven else { return Fate::Served };
    match (trouble.code(), &trouble) {
        (_, Trouble::Outage { .. }) => Fate::Unknown(trouble),
        (BLOCK_ORPHANED, _) => Fate::Orphaned { turns: matches!(trouble, Trouble::Waits { .. }) },
        (AUTHORITY_BEHIND | LOG_NOT_IN_BLOCK, _) | (_, Trouble::Permanent { .. }) => Fate::NeverServed,
        _ => Fate::Unknown(trouble),
    }
}

/// Keeps a second payload under a known identity from KMS Core, and copies, and deferred records that nobody has deferred.
#[derive(Debug)]
pub struct Quarantine {
    identities: Identities,
    kafka: KafkaConfig,
    codec: Codec,
    topics: Topics,
    /// How many partitions each topic has.
    partitions: HashMap<String, i32>,
    /// One reader at a time: whoever comes meanwhile finds what it has read.
    reading: tokio::sync::Mutex<()>,
}

impl Quarantine {
    /// Remembers the last `memory` offsets of each partition of the requests topics.
    #[must_use]
    pub fn new(kafka: KafkaConfig, codec: Codec, topics: Topics, memory: u64) -> Self {
        let partitions = topics.all().into_iter().map(|spec| (spec.name, spec.partitions)).collect();
        let (identities, reading) = (Identities::new(memory), tokio::sync::Mutex::default());
        Self { identities, kafka, codec, topics, partitions, reading }
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
            self.remember(&request, source);
        }
    }

    /// A request that lies in the topic, before anything is proven of it.
    pub fn remember(&self, request: &Request, source: &Coordinates) {
        if self.is_own_partition(request, source) {
            self.identities.recall(request, source);
        }
    }

    /// Whether ingest writes this request into this partition. What lies elsewhere is nobody's original: of several partitions, none
    /// would tell which record came first.
    fn is_own_partition(&self, request: &Request, source: &Coordinates) -> bool {
        let partitions = self.partitions.get(&source.topic);
        partitions.is_some_and(|count| source.partition == partition_for_key(&request_key(request.id), *count))
    }

    /// Lets a proven request pass, unless it is a copy, or KMS Core may have heard of another one under its identity.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] for a copy and for a second payload, naming both; [`Trouble::Waits`] while the chain may still tell of the
    /// first that it was never there; [`Trouble::Outage`] where topics or chain cannot be read.
    pub async fn pass(
        self: &Arc<Self>,
        gate: &Gate,
        request: &Request,
        source: &Coordinates,
        answered: &Answered,
    ) -> Result<(), Trouble> {
        if !self.is_own_partition(request, source) {
            let text = format!("copy in {source}, which is not the partition of {} {}", request.kind, request.id);
            return Err(Trouble::permanent(codes::RECORD_COPIED, text));
        }
        loop {
            let first = match self.identities.admit(request, source) {
                Admission::Served => return Ok(()),
                Admission::Copy(first) => {
                    let text = format!("copy of {}: {} {} in {source}", first.source, request.kind, request.id);
                    return Err(Trouble::permanent(codes::RECORD_COPIED, text));
                }
                Admission::Other(first) => {
                    return Err(Trouble::permanent(codes::IDENTITY_REUSED, reused(request, source, &first)));
                }
                Admission::Undecided(first) => first,
            };
            let text = reused(request, source, &first);
            // What cannot be read any more may have been served.
            let fate = match self.record_at(&first.source).await? {
                Some(recalled) => fate(gate.prove(&recalled, answered).await),
                None => Fate::Served,
            };
            match fate {
                Fate::NeverServed => self.identities.refute(&request.identity(), &first),
                Fate::Served | Fate::Orphaned { turns: false } => {
                    return Err(Trouble::permanent(codes::IDENTITY_REUSED, text));
                }
                Fate::Orphaned { turns: true } => {
                    return Err(Trouble::waits(Budget::Orphan, codes::IDENTITY_REUSED, text));
                }
                Fate::Unknown(trouble) => return Err(trouble),
            }
        }
    }

    /// Holds a deferred record against the request that it says to have deferred, which lies in the partition of the same number. Of that
    /// partition, which may belong to another process, what lies before the request is read too.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] where nobody can have deferred it; [`Trouble::Outage`] where the topics cannot be read.
    pub async fn check_deferred(
        self: &Arc<Self>,
        request: &Request,
        source: &Coordinates,
        deferred: &Coordinates,
    ) -> Result<(), Trouble> {
        let forged = |why: &str| {
            let text = format!("{deferred} says to be the request of {source}, {why}");
            Err(Trouble::permanent(codes::DEFERRED_FORGED, text))
        };
        if !is_place_of(&self.topics, source, deferred) {
            return forged("which is no place that it can have been deferred from");
        }
        if self.identities.holds(request, source) {
            return Ok(());
        }
        let _reading = self.reading.lock().await;
        // Who read meanwhile may have come by here.
        if self.identities.holds(request, source) {
            return Ok(());
        }
        let memory = i64::try_from(self.identities.memory).unwrap_or(i64::MAX);
        let known = self.identities.read_up_to(source).max(source.offset.saturating_sub(memory));
        match self.read(source, known.min(source.offset)).await? {
            Some(there) if claim(&there) == claim(request) => Ok(()),
            Some(_) => forged("which is another one"),
            None => forged("and no request lies there, or none any more"),
        }
    }

    async fn record_at(self: &Arc<Self>, source: &Coordinates) -> Result<Option<Request>, Trouble> {
        self.read(source, source.offset).await
    }

    /// Recalls what lies from an offset up to the place, and returns the request there, if one is.
    async fn read(self: &Arc<Self>, source: &Coordinates, from: i64) -> Result<Option<Request>, Trouble> {
        let (quarantine, place) = (Arc::clone(self), source.clone());
        let read = move || {
            let bounds = watermarks(&quarantine.kafka, SERVICE, &place.topic, place.partition + 1)?;
            let (low, high) = bounds.last().copied().unwrap_or_default();
            if place.offset < low || place.offset >= high {
                return Ok(None);
            }
            let (mut found, range) = (None, (place.partition, from.max(low), place.offset + 1));
            read_ranges(&quarantine.kafka, SERVICE, &place.topic, &[range], PATIENCE, |partition, record| {
                let value = record.value.as_deref().unwrap_or_default();
                let Ok(request) = quarantine.codec.decode::<Request>(&place.topic, value) else { return };
                let at = Coordinates { topic: place.topic.clone(), partition, offset: record.offset };
                quarantine.remember(&request, &at);
                if at == place {
                    found = Some(request);
                }
            })?;
            Ok::<_, ReadError>(found)
        };
        let outage = |text: String| Trouble::outage(codes::TOPICS_UNREADABLE, TOPICS, text);
        let read = tokio::task::spawn_blocking(read).await.map_err(|error| outage(error.to_string()))?;
        read.map_err(|error| outage(error.to_string()))
    }
}

fn reused(request: &Request, source: &Coordinates, first: &Known) -> String {
    format!(
        "{} {} of {} came first with another payload, in {} (keccak256 of its log {}); this one is in {source} ({})",
        request.kind,
        request.id,
        request.log.address,
        first.source,
        first.payload,
        payload(request),
    )
}

/// Whether a record of a deferred topic can have this source: its own lane's requests topic, and its own partition.
fn is_place_of(topics: &Topics, source: &Coordinates, deferred: &Coordinates) -> bool {
    let lane = Lane::ALL.into_iter().find(|lane| topics.deferred(*lane) == deferred.topic);
    lane.is_some_and(|lane| topics.requests(lane) == source.topic)
        && source.partition == deferred.partition
        && (0..i64::MAX).contains(&source.offset)
}

/// Records of one identity have one key, so that they lie in one partition: their offsets tell which came first.
fn is_before(one: &Coordinates, other: &Coordinates) -> bool {
    one.topic == other.topic && one.partition == other.partition && one.offset < other.offset
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

/// Everything that the chain proves of a record: who says the same as a proven record is proven too.
fn claim(request: &Request) -> B256 {
    let Request { source: _, seq: _, previous_hash: _, chain_id, kind, id, block_number, block_hash, .. } = request;
    let Request { block_timestamp, transaction_hash, log_index, log, body, .. } = request;
    let place = (chain_id, kind, id, block_number, block_hash, block_timestamp, transaction_hash, log_index);
    keccak256(format!("{:?}", (place, log, body)))
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

    /// Another payload stands in another place.
    fn request(id: u8, data: &'static [u8]) -> Request {
        Request {
            source: "gateway".to_owned(),
            seq: 0,
            previous_hash: B256::ZERO,
            chain_id: 1,
            kind: Kind::PublicDecryption,
            id: RequestId(B256::with_last_byte(id)),
            block_number: 1,
            block_hash: keccak256(data),
            block_timestamp: 0,
            transaction_hash: B256::ZERO,
            log_index: 0,
            log: RawLog { address: Address::ZERO, topics: Vec::new(), data: Bytes::from_static(data) },
            body: RequestBody::PrssInit,
        }
    }

    fn other(admission: Admission) -> Coordinates {
        let Admission::Other(known) = admission else { panic!("{admission:?}") };
        known.source
    }

    fn undecided(admission: Admission) -> Known {
        let Admission::Undecided(known) = admission else { panic!("{admission:?}") };
        known
    }

    fn copied(admission: Admission) -> Coordinates {
        let Admission::Copy(known) = admission else { panic!("{admission:?}") };
        known.source
    }

    #[test]
    fn p4_a_second_payload_under_a_known_identity_is_told_with_the_first() {
        let identities = Identities::new(100);
        assert_eq!(identities.admit(&request(1, b"a"), &at(5)), Admission::Served);
        assert_eq!(other(identities.admit(&request(1, b"b"), &at(7))), at(5));
        assert_eq!(identities.admit(&request(1, b"a"), &at(5)), Admission::Served, "the first is tried again");
        assert_eq!(identities.admit(&request(2, b"b"), &at(8)), Admission::Served);
    }

    #[test]
    fn p2_a_copy_is_told_with_the_original_and_the_same_payload_in_another_block_is_served() {
        let identities = Identities::new(100);
        assert_eq!(identities.admit(&request(1, b"a"), &at(5)), Admission::Served);
        let copy = Request { seq: 7, source: "somebody".to_owned(), ..request(1, b"a") };
        assert_eq!(copied(identities.admit(&copy, &at(6))), at(5));
        let elsewhere = Coordinates { partition: 1, ..at(2) };
        assert_eq!(copied(identities.admit(&copy, &elsewhere)), at(5), "also in another partition");
        let again = Request { block_hash: B256::repeat_byte(1), ..request(1, b"a") };
        assert_eq!(identities.admit(&again, &at(8)), Admission::Served, "included again after a reorganisation");
        assert_eq!(copied(identities.admit(&again, &at(9))), at(8));
        assert_eq!(identities.admit(&request(1, b"a"), &at(5)), Admission::Served, "the original is tried again");
    }

    #[test]
    fn p2_a_copy_that_is_proven_sooner_or_was_recalled_does_not_shadow_the_original() {
        let identities = Identities::new(100);
        identities.recall(&request(1, b"a"), &at(5));
        identities.recall(&request(1, b"a"), &at(6));
        assert_eq!(copied(identities.admit(&request(1, b"a"), &at(6))), at(5));
        assert_eq!(identities.admit(&request(1, b"a"), &at(5)), Admission::Served);
        identities.recall(&request(1, b"a"), &at(5));
        let second_life = Identities::new(100);
        second_life.recall(&request(1, b"a"), &at(6));
        assert_eq!(second_life.admit(&request(1, b"a"), &at(5)), Admission::Served);
    }

    #[test]
    fn p4_a_record_that_says_something_else_of_a_proven_log_stands_in_nobodys_way() {
        let identities = Identities::new(100);
        let mut forged = request(1, b"a");
        forged.block_timestamp += 1;
        identities.recall(&forged, &at(3));
        forged.log.data = Bytes::from_static(b"another payload in the same place");
        identities.recall(&forged, &at(4));
        assert_eq!(identities.admit(&request(1, b"a"), &at(5)), Admission::Served);
    }

    #[test]
    fn p4_what_was_only_recalled_is_judged_one_after_the_other_before_the_next_is_served() {
        let identities = Identities::new(100);
        identities.recall(&request(1, b"forged"), &at(4));
        identities.recall(&request(1, b"a"), &at(5));
        let first = undecided(identities.admit(&request(1, b"b"), &at(6)));
        assert_eq!((&first.source, first.proven), (&at(4), false));
        identities.refute(&request(1, b"b").identity(), &first);
        let second = undecided(identities.admit(&request(1, b"b"), &at(6)));
        assert_eq!(second.source, at(5), "what lies behind a forged record is not forgotten over it");
        identities.refute(&request(1, b"b").identity(), &second);
        assert_eq!(identities.admit(&request(1, b"b"), &at(6)), Admission::Served);
    }

    #[test]
    fn p4_the_chain_tells_whether_a_recalled_record_may_have_been_served() {
        let proven: Result<(), Trouble> = Ok(());
        assert_eq!(fate(proven), Fate::Served);
        let of = |trouble: Trouble| fate::<()>(Err(trouble));
        for trouble in [
            Trouble::waits(Budget::NotYet, AUTHORITY_BEHIND, ""),
            Trouble::permanent(LOG_NOT_IN_BLOCK, ""),
            Trouble::permanent(codes::RECORD_FORGED, ""),
            Trouble::permanent(codes::BODY_DIFFERS_FROM_LOG, ""),
        ] {
            assert_eq!(of(trouble), Fate::NeverServed);
        }
        assert_eq!(of(Trouble::waits(Budget::Orphan, BLOCK_ORPHANED, "")), Fate::Orphaned { turns: true });
        assert_eq!(of(Trouble::permanent(BLOCK_ORPHANED, "")), Fate::Orphaned { turns: false });
        for trouble in [
            Trouble::waits(Budget::NotYet, kms_chain::codes::PROOF_UNDECIDABLE, ""),
            Trouble::outage(AUTHORITY_BEHIND, "gateway_rpc", ""),
        ] {
            assert_eq!(of(trouble.clone()), Fate::Unknown(trouble));
        }
    }

    #[test]
    fn p5_a_deferred_record_has_its_request_in_the_partition_of_the_same_number_of_its_own_lane() {
        let topics = Topics::new("kms");
        let deferred = Coordinates { topic: topics.deferred(Lane::Decryption).to_owned(), partition: 3, offset: 0 };
        let place = Coordinates { topic: topics.requests(Lane::Decryption).to_owned(), partition: 3, offset: 7 };
        assert!(is_place_of(&topics, &place, &deferred));
        for forged in [
            Coordinates { partition: 99, ..place.clone() },
            Coordinates { partition: -1, ..place.clone() },
            Coordinates { offset: -1, ..place.clone() },
            Coordinates { offset: i64::MAX, ..place.clone() },
            Coordinates { topic: topics.requests(Lane::KeyManagement).to_owned(), ..place.clone() },
            Coordinates { topic: "elsewhere".to_owned(), ..place.clone() },
            deferred.clone(),
        ] {
            assert!(!is_place_of(&topics, &forged, &deferred), "{forged}");
        }
    }

    #[test]
    fn p2_a_copy_in_another_partition_than_its_keys_is_never_the_original() {
        let topics = Topics::new("kms");
        let quarantine = Quarantine::new(KafkaConfig::default(), Codec::single_object(), topics, 100);
        let own = partition_for_key(&request_key(request(1, b"a").id), 12);
        for partition in 0..12 {
            let place = Coordinates { partition, ..at(0) };
            quarantine.remember(&request(1, b"a"), &place);
            assert_eq!(quarantine.identities.holds(&request(1, b"a"), &place), partition == own, "{partition}");
        }
    }

    #[test]
    fn p5_a_place_holds_what_was_read_there_and_nothing_else() {
        let identities = Identities::new(100);
        identities.recall(&request(1, b"a"), &at(5));
        assert!(identities.holds(&request(1, b"a"), &at(5)));
        assert!(!identities.holds(&request(1, b"a"), &at(6)));
        assert!(!identities.holds(&request(1, b"b"), &at(5)));
        assert!(!identities.holds(&request(2, b"a"), &at(5)));
        identities.forget(&request(1, b"b"), &at(5));
        assert!(identities.holds(&request(1, b"a"), &at(5)), "another record's end is not this one's");
        identities.forget(&request(1, b"a"), &at(5));
        assert!(!identities.holds(&request(1, b"a"), &at(5)));
    }

    #[test]
    fn an_unfinished_record_is_not_kept_from_being_served_by_one_that_was_finished_behind_it() {
        let identities = Identities::new(100);
        identities.recall(&request(1, b"b"), &at(9));
        assert_eq!(identities.admit(&request(1, b"a"), &at(5)), Admission::Served);
        assert_eq!(other(identities.admit(&request(1, b"b"), &at(9))), at(5));
    }

    #[test]
    fn p6_what_lies_further_back_than_the_memory_is_forgotten() {
        let identities = Identities::new(10);
        for offset in 0..1_000_u16 {
            let mut request = request(0, b"a");
            request.id = RequestId(B256::left_padding_from(&offset.to_be_bytes()));
            assert_eq!(identities.admit(&request, &at(offset.into())), Admission::Served);
        }
        for offset in 1_000..2_000 {
            identities.recall(&request(1, b"always the same"), &at(offset));
        }
        let inner = identities.lock();
        assert_eq!(inner.known.values().map(BTreeMap::len).sum::<usize>(), 11);
        assert_eq!(inner.places.values().map(BTreeMap::len).sum::<usize>(), 11);
    }
}
