//! Reads the topics back, record by record: what was lost, what was doubled.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, Instant};

use alloy::primitives::B256;
use kms_runtime::kafka::{KafkaConfig, LogContext};
use kms_schemas::codec::Codec;
use kms_schemas::identity::{Coordinates, Identity, Lane};
use kms_schemas::record::{DeadLetter, DeferredRequest, Request, ResultRecord, Submission, Verdict};
use kms_schemas::topics::Topics;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

use super::observer::ChainView;
use crate::description::Description;
use crate::error::StackError;

const SERVICE: &str = "main-job";
const POLL: Duration = Duration::from_millis(5);

/// What one node's topics hold about one request of the chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trail {
    /// Records in `requests.*`.
    pub(super) requests: u32,
    /// Results in `results.*`.
    pub(super) results: u32,
    /// Dead letters that name the request.
    pub(super) dead_letters: Vec<String>,
    /// Settled submissions, with whether the chain holds the answer.
    pub(super) submissions: Vec<bool>,
}

impl Trail {
    /// One request, one outcome, and as many submissions as results.
    pub(super) fn is_whole(&self) -> bool {
        self.requests == 1 && self.results == 1 && self.dead_letters.is_empty() && self.submissions == [true]
    }

    /// In words, for a report.
    pub(super) fn in_words(&self, node: usize, on_chain: usize) -> String {
        let yes_or_count = |count: u32| match count {
            0 => "no".to_owned(),
            1 => "yes".to_owned(),
            more => more.to_string(),
        };
        let letters = if self.dead_letters.is_empty() { "none".to_owned() } else { self.dead_letters.join(", ") };
        let unsettled = self.submissions.iter().filter(|held| !**held).count();
        let refused = if unsettled > 0 { format!(" ({unsettled} refused or retracted)") } else { String::new() };
        format!(
            "node {node}: request record {}, result {}, dead letters: {letters}, submissions {}{refused}, answers on chain {on_chain}",
            yes_or_count(self.requests),
            yes_or_count(self.results),
            self.submissions.len(),
        )
    }

    pub(super) fn is_doubled(&self) -> bool {
        self.requests > 1 || self.results as usize + self.dead_letters.len() > 1 || self.submissions.len() > 1
    }
}

/// What the topics of every node hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Audit {
    /// Per node (in the stack's order) and request.
    pub(super) trails: Vec<BTreeMap<Identity, Trail>>,
    /// What should not be there: undecodable records, records about what the chain never asked.
    pub(super) oddities: Vec<String>,
}

impl Audit {
    /// Reads until every request's trail is whole, or nothing new came for `patience`; then to the end once more, so that a
    /// second record is not missed.
    pub(super) async fn read(stack: &Description, chain: &ChainView, patience: Duration) -> Result<Self, StackError> {
        let mut readers = Vec::new();
        for node in &stack.nodes {
            let codec = codec_of(stack, &Topics::new(&node.prefix)).await?;
            let kafka = KafkaConfig {
                bootstrap_servers: stack.kafka.clone(),
                topic_prefix: node.prefix.clone(),
                ..KafkaConfig::default()
            };
            let occurrences = occurrences(chain);
            readers.push(tokio::task::spawn_blocking(move || read_node(&kafka, &codec, occurrences, patience)));
        }
        let mut audit = Self::default();
        for reader in readers {
            let (trails, oddities) = reader.await.map_err(unreadable)??;
            audit.trails.push(trails);
            audit.oddities.extend(oddities);
        }
        Ok(audit)
    }
}

/// How the records of these topics are encoded.
pub(super) async fn codec_of(stack: &Description, topics: &Topics) -> Result<Codec, StackError> {
    match &stack.registry {
        None => Ok(Codec::single_object()),
        Some(url) => Codec::with_registry(url, topics).await.map_err(unreadable),
    }
}

/// The requests of the chain by where their logs are.
fn occurrences(chain: &ChainView) -> HashMap<(B256, u64), Identity> {
    chain.requests.iter().map(|(name, seen)| ((seen.block_hash, seen.log_index), *name)).collect()
}

fn unreadable(error: impl std::fmt::Display) -> StackError {
    StackError::Job(format!("the topics cannot be read back: {error}"))
}

type NodeTrails = (BTreeMap<Identity, Trail>, Vec<String>);

fn read_node(
    kafka: &KafkaConfig,
    codec: &Codec,
    occurrences: HashMap<(B256, u64), Identity>,
    patience: Duration,
) -> Result<NodeTrails, StackError> {
    let topics = Topics::new(&kafka.topic_prefix);
    let mut tails: Vec<Tail> = Vec::new();
    for spec in topics.all().iter().filter(|spec| is_audited(&topics, &spec.name)) {
        tails.push(Tail::open(kafka, &spec.name, spec.partitions)?);
    }
    let mut reading = Reading::new(&topics, codec, occurrences);
    let mut last_news = Instant::now();
    loop {
        for tail in &mut tails {
            let read = tail.read(|place, payload| reading.take(place, payload));
            match read {
                Ok(0) => {}
                Ok(_) => last_news = Instant::now(),
                Err(error) if last_news.elapsed() > patience => {
                    let (topic, brokers) = (&tail.topic, &kafka.bootstrap_servers);
                    return Err(unreadable(format!("{topic} at {brokers}, which stack.json names: {error}")));
                }
                // Brokers come and go; the client finds them again.
                Err(_) => {}
            }
        }
        let at_end = tails.iter().all(Tail::is_at_end);
        if at_end && (reading.is_whole() || last_news.elapsed() > patience) {
            return Ok(reading.finish());
        }
        if last_news.elapsed() > patience {
            return Err(unreadable("the ends of the partitions were not reached"));
        }
    }
}

fn is_audited(topics: &Topics, name: &str) -> bool {
    name == topics.submissions()
        || name == topics.dead_letters()
        || Lane::ALL.iter().any(|lane| {
            name == topics.requests(*lane) || name == topics.results(*lane) || name == topics.deferred(*lane)
        })
}

/// One topic, read from its beginning. A client of its own, because the client library's end-of-partition event does not name
/// the topic; and positions tell nothing, because transaction markers stand behind the last record.
struct Tail {
    topic: String,
    consumer: BaseConsumer<LogContext>,
    partitions: usize,
    at_end: HashSet<i32>,
}

impl Tail {
    fn open(kafka: &KafkaConfig, topic: &str, partitions: i32) -> Result<Self, StackError> {
        let mut settings = kafka.consumer(SERVICE, &format!("{}.{SERVICE}", kafka.topic_prefix));
        settings.set("enable.partition.eof", "true").set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer<LogContext> = settings.create_with_context(LogContext).map_err(unreadable)?;
        let mut assignment = TopicPartitionList::new();
        for partition in 0..partitions {
            assignment.add_partition_offset(topic, partition, Offset::Beginning).map_err(unreadable)?;
        }
        consumer.assign(&assignment).map_err(unreadable)?;
        Ok(Self { topic: topic.to_owned(), consumer, partitions: assignment.count(), at_end: HashSet::new() })
    }

    /// Hands over what is there; returns how many records that was.
    fn read(&mut self, mut take: impl FnMut(Coordinates, &[u8])) -> Result<usize, KafkaError> {
        let mut records = 0;
        // The first look may wait a moment, the others take what is there.
        let mut wait = POLL;
        while let Some(event) = self.consumer.poll(wait) {
            wait = Duration::ZERO;
            match event {
                Ok(message) => {
                    records += 1;
                    self.at_end.remove(&message.partition());
                    let place = Coordinates {
                        topic: self.topic.clone(),
                        partition: message.partition(),
                        offset: message.offset(),
                    };
                    take(place, message.payload().unwrap_or_default());
                }
                Err(KafkaError::PartitionEOF(partition)) => {
                    self.at_end.insert(partition);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    fn is_at_end(&self) -> bool {
        self.at_end.len() == self.partitions
    }
}

/// Records as they come, matched by coordinates.
struct Reading<'a> {
    topics: &'a Topics,
    codec: &'a Codec,
    occurrences: HashMap<(B256, u64), Identity>,
    trails: BTreeMap<Identity, Trail>,
    /// Which request each record in `requests.*` is of.
    by_source: HashMap<Coordinates, Identity>,
    /// Outcomes that came before their request was read.
    results: Vec<ResultRecord>,
    letters: Vec<DeadLetter>,
    submissions: Vec<Submission>,
    deferred: HashMap<Coordinates, Coordinates>,
    oddities: Vec<String>,
}

impl<'a> Reading<'a> {
    fn new(topics: &'a Topics, codec: &'a Codec, occurrences: HashMap<(B256, u64), Identity>) -> Self {
        Self {
            topics,
            codec,
            trails: occurrences.values().map(|name| (*name, Trail::default())).collect(),
            occurrences,
            by_source: HashMap::new(),
            results: Vec::new(),
            letters: Vec::new(),
            submissions: Vec::new(),
            deferred: HashMap::new(),
            oddities: Vec::new(),
        }
    }

    fn take(&mut self, place: Coordinates, bytes: &[u8]) {
        let topic = place.topic.as_str();
        let taken = if topic == self.topics.submissions() {
            self.codec.decode::<Submission>(topic, bytes).map(|submission| self.submissions.push(submission))
        } else if topic == self.topics.dead_letters() {
            self.codec.decode::<DeadLetter>(topic, bytes).map(|letter| self.letters.push(letter))
        } else if Lane::ALL.iter().any(|lane| topic == self.topics.results(*lane)) {
            self.codec.decode::<ResultRecord>(topic, bytes).map(|result| self.results.push(result))
        } else if Lane::ALL.iter().any(|lane| topic == self.topics.deferred(*lane)) {
            self.codec.decode::<DeferredRequest>(topic, bytes).map(|deferred| {
                self.deferred.insert(place.clone(), deferred.source);
            })
        } else {
            self.codec.decode::<Request>(topic, bytes).map(|request| self.take_request(&place, &request))
        };
        if let Err(error) = taken {
            self.oddities.push(format!("{place}: {error}"));
        }
    }

    fn take_request(&mut self, place: &Coordinates, request: &Request) {
        let Some(name) = self.occurrences.get(&(request.block_hash, request.log_index)) else {
            self.oddities.push(format!("{place}: the chain did not ask for {} {}", request.kind, request.id));
            return;
        };
        self.by_source.insert(place.clone(), *name);
        self.trails.entry(*name).or_default().requests += 1;
    }

    /// The trails with everything read so far matched to its request.
    fn matched(&self) -> NodeTrails {
        let mut trails = self.trails.clone();
        let mut oddities = self.oddities.clone();
        let mut count = |source: Option<&Coordinates>, what: &str, take: &mut dyn FnMut(&mut Trail)| match source
            .and_then(|source| self.by_source.get(source))
            .and_then(|name| trails.get_mut(name))
        {
            Some(trail) => take(trail),
            None => oddities.push(format!("{what} of no request that was read")),
        };
        for result in &self.results {
            count(Some(&result.source), &label(&result.identity, "a result"), &mut |trail| trail.results += 1);
        }
        for letter in &self.letters {
            let source =
                letter.request.as_ref().or_else(|| Some(self.deferred.get(&letter.source).unwrap_or(&letter.source)));
            let text = format!("{} {}: {}", letter.service, letter.reason, letter.text);
            count(source, &format!("a dead letter ({text})"), &mut |trail| trail.dead_letters.push(text.clone()));
        }
        for submission in &self.submissions {
            let held = match submission.verdict {
                Verdict::Accepted(_)
                | Verdict::AlreadyAnswered { .. }
                | Verdict::NoAnswerOnChain
                | Verdict::Concluded { .. } => true,
                Verdict::Refused { .. } | Verdict::Retracted => false,
            };
            count(Some(&submission.request), &label(&submission.identity, "a submission"), &mut |trail| {
                trail.submissions.push(held);
            });
        }
        (trails, oddities)
    }

    fn is_whole(&self) -> bool {
        // Cheap test first: matching is linear in what was read.
        self.submissions.len() + self.letters.len() >= self.trails.len()
            && self.matched().0.values().all(|trail| trail.is_whole() || !trail.dead_letters.is_empty())
    }

    fn finish(self) -> NodeTrails {
        self.matched()
    }
}

fn label(identity: &Identity, what: &str) -> String {
    format!("{what} ({} {})", identity.kind, identity.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trail_reads_as_words() {
        let stuck = Trail { requests: 1, ..Trail::default() };
        let said = "node 1: request record yes, result no, dead letters: none, submissions 0, answers on chain 0";
        assert_eq!(stuck.in_words(1, 0), said);
        let doubled = Trail {
            requests: 2,
            results: 1,
            dead_letters: vec!["processor KC-0402: why".to_owned()],
            submissions: vec![true, false],
        };
        let said = "node 3: request record 2, result yes, dead letters: processor KC-0402: why, submissions 2 (1 refused or \
                    retracted), answers on chain 2";
        assert_eq!(doubled.in_words(3, 2), said);
    }
}
