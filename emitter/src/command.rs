//! What people want of this account: the commands in `emitter.commands`, and what came of them.
//!
//! A term begins by reading the topic to its end: the last pause or resume that changed anything says whether anything may be
//! sent, and what has no outcome yet is obeyed, or refused if it is too late. Afterwards the topic is followed. Outcomes are
//! written by the journal's fenced producer, so that a paused predecessor can tell nobody that it did something.
//!
//! A pause of what is paused changes nothing: who began it, why and since when stay what they are, at work and after a restart.
//!
//! Who may write the topic may command; nothing here makes that safe beyond this: a command names a nonce and a fee, never
//! bytes, so the worst is a pause, and fees up to the cap. See `docs/emitter.md`, "Commands".

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use alloy::primitives::{Address, B256};
use kms_runtime::http::Check;
use kms_runtime::kafka::{KafkaConfig, LogContext, OutgoingRecord, ReadError, StoredRecord, read_to_end};
use kms_runtime::retry::Backoff;
use kms_schemas::codec::Codec;
use kms_schemas::headers::headers;
use kms_schemas::record::{WalletBody, WalletEnd, WalletRecord};
use kms_schemas::topics::{Topics, wallet_key};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Message, Timestamp};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::unix_ms;
use crate::codes::{COMMAND_UNREADABLE, COMMANDS_UNFOLLOWED};
use crate::handler::SERVICE;
use crate::metrics::Metrics;

/// Commands without an outcome that a start takes up; of more, the oldest are left.
const MOST_OPEN: usize = 1_000;

/// Longest wait for a record, and until a stop is noticed.
const POLL: Duration = Duration::from_millis(200);

/// A command with its place. Its body is no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Offset in `emitter.commands`: what an outcome names, and nobody can choose.
    pub offset: i64,
    /// The record.
    pub record: WalletRecord,
}

impl Command {
    /// Who and why, in one short line whatever the record says.
    #[must_use]
    pub fn who(&self) -> String {
        let by = shown(&self.record.by, 80);
        match shown(&self.record.text, 160) {
            why if why.is_empty() => by,
            why => format!("{by}: {why}"),
        }
    }

    /// What this pause says to a second one.
    #[must_use]
    pub fn already(&self, now_ms: u64) -> String {
        format!(
            "paused already for {} s by {}; nothing changes, and one resume ends it for everybody",
            now_ms.saturating_sub(self.record.written_ms) / 1_000,
            self.who()
        )
    }

    /// Whether it is too late to obey it.
    #[must_use]
    pub fn is_expired(&self, now_ms: u64) -> bool {
        match self.record.body {
            WalletBody::Bump { expires_ms, .. } | WalletBody::Cancel { expires_ms, .. } => now_ms > expires_ms,
            WalletBody::Pause | WalletBody::Resume | WalletBody::Outcome { .. } => false,
        }
    }
}

/// Text of others on one line of at most so many characters.
#[must_use]
pub fn shown(text: &str, most: usize) -> String {
    let shown: String = text.chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect();
    shown.trim().to_owned()
}

/// What the topic says of one account. Pure.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// The last pause or resume that changed anything.
    switch: Option<Command>,
    /// An emitter has said that it holds.
    obeyed: bool,
    /// Without a last outcome, by offset; whether one has begun.
    open: BTreeMap<i64, (Command, bool)>,
}

impl Standing {
    /// The next record of the account.
    pub fn take(&mut self, offset: i64, record: WalletRecord) {
        if let WalletBody::Outcome { command_offset, end, .. } = record.body {
            // An outcome of what comes later, or of another command, is nobody's.
            let of = self.open.get_mut(&command_offset);
            let Some((command, begun)) = of.filter(|(command, _)| command.record.command_id == record.command_id)
            else {
                return;
            };
            *begun = true;
            // Whoever repeats the switch hears that it holds, too; whoever was overtaken by it does not.
            let holds = self
                .switch
                .as_ref()
                .is_some_and(|switch| switch.record.body == command.record.body && switch.offset <= command_offset);
            self.obeyed |= holds && end == WalletEnd::Done;
            if end != WalletEnd::Accepted {
                self.open.remove(&command_offset);
            }
            return;
        }
        let command = Command { offset, record };
        let changes = match command.record.body {
            WalletBody::Pause => self.paused().is_none(),
            WalletBody::Resume => self.paused().is_some(),
            _ => false,
        };
        if changes {
            (self.switch, self.obeyed) = (Some(command.clone()), false);
        }
        self.open.insert(offset, (command, false));
        while self.open.len() > MOST_OPEN {
            self.open.pop_first();
        }
    }

    /// The command by which the account is paused: the first since it last was not.
    #[must_use]
    pub fn paused(&self) -> Option<&Command> {
        self.switch.as_ref().filter(|command| command.record.body == WalletBody::Pause)
    }

    /// The last pause or resume that changed anything.
    #[must_use]
    pub fn switch(&self) -> Option<&Command> {
        self.switch.as_ref()
    }

    /// The pause or resume that no emitter has said anything to yet.
    #[must_use]
    pub fn unobeyed(&self) -> Option<&Command> {
        self.switch.as_ref().filter(|_| !self.obeyed)
    }

    /// Commands without a last outcome, oldest first, and whether an emitter has begun with each.
    pub fn open(&self) -> impl Iterator<Item = (&Command, bool)> {
        self.open.values().map(|(command, begun)| (command, *begun))
    }
}

/// Whose commands are read.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Where Kafka is.
    pub kafka: Arc<KafkaConfig>,
    /// How records are encoded.
    pub codec: Codec,
    /// `emitter.commands`.
    pub topic: String,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The transaction sender.
    pub sender: Address,
    /// Happenings of the destination.
    pub metrics: Metrics,
}

/// What a term begins with.
#[derive(Debug, Default)]
pub struct Begun {
    /// What the topic says.
    pub standing: Standing,
    /// Offset from which it is followed.
    pub from: i64,
}

/// The topic is not the one that was read to its end: made anew, or cut short by an unclean election.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{topic} cannot be followed from offset {position}: {error}")]
pub struct Moved {
    topic: String,
    position: i64,
    error: KafkaError,
}

impl Reader {
    /// Reads the topic to its end. Blocking.
    ///
    /// # Errors
    /// Nobody answers, the end is hidden, or the client knows no such partition: it says so also of one that has no leader for
    /// the moment. The service has seen the topic at its start, so none of these means that nobody commanded anything.
    pub fn read(&self) -> Result<Begun, ReadError> {
        let mut standing = Standing::default();
        let patience = self.kafka.transaction_timeout() + Duration::from_secs(20);
        let mut unreadable = 0_u64;
        let from =
            read_to_end(&self.kafka, SERVICE, &self.topic, 0, None, patience, |record| match self.decode(&record) {
                Ok(Some(ours)) => standing.take(record.offset, ours),
                Ok(None) => {}
                Err(_) => unreadable += 1,
            })?;
        if unreadable > 0 {
            let destination = self.metrics.destination();
            tracing::debug!(destination, code = COMMAND_UNREADABLE, unreadable, "old commands cannot be read");
        }
        Ok(Begun { standing, from })
    }

    /// The record, if it is of this account; else why it is no record.
    fn decode(&self, record: &StoredRecord) -> Result<Option<WalletRecord>, String> {
        let value = record.value.as_deref().unwrap_or_default();
        let decoded = self.codec.decode::<WalletRecord>(&self.topic, value).map_err(|error| error.to_string())?;
        Ok(Some(decoded).filter(|one| (one.chain_id, one.sender) == (self.chain_id, self.sender)))
    }

    /// Tells every further command of this account until stopped, and by the check whether it can. A client that fails is
    /// replaced, after a pause that grows. Blocking: the body of a thread.
    ///
    /// # Errors
    /// [`Moved`]: the topic is to be read anew from its beginning.
    pub fn follow(
        &self,
        from: i64,
        commands: &mpsc::Sender<Command>,
        check: &Check,
        stop: &CancellationToken,
    ) -> Result<(), Moved> {
        const RETRY: Backoff = Backoff { first: Duration::from_millis(500), max: Duration::from_secs(30), factor: 2.0 };
        let (mut position, mut failures) = (from, 0);
        while !stop.is_cancelled() {
            let begun = position;
            let Err(error) = self.follow_on(&mut position, commands, check, stop) else { return Ok(()) };
            if is_moved(&error) {
                return Err(Moved { topic: self.topic.clone(), position, error });
            }
            failures = if position == begun { failures + 1 } else { 1 };
            self.unfollowed(check, &error.to_string());
            let until = Instant::now() + RETRY.bound(failures);
            while Instant::now() < until && !stop.is_cancelled() {
                std::thread::sleep(POLL.min(until.saturating_duration_since(Instant::now())));
            }
        }
        Ok(())
    }

    /// Follows with one client, until stopped or until it fails.
    fn follow_on(
        &self,
        position: &mut i64,
        commands: &mpsc::Sender<Command>,
        check: &Check,
        stop: &CancellationToken,
    ) -> Result<(), KafkaError> {
        let consumer = self.assigned(*position)?;
        while !stop.is_cancelled() {
            let record = match consumer.poll(POLL) {
                None => continue,
                Some(Ok(message)) => stored(&message),
                // It stands where it began, or behind a marker: so it reads.
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    check.ready();
                    continue;
                }
                Some(Err(error)) if is_final(&error) => return Err(error),
                Some(Err(error)) => {
                    tracing::debug!(topic = self.topic, %error, "following goes on after an error");
                    continue;
                }
            };
            check.ready();
            *position = record.offset + 1;
            match self.decode(&record) {
                Ok(Some(ours)) if !matches!(ours.body, WalletBody::Outcome { .. }) => {
                    if commands.blocking_send(Command { offset: record.offset, record: ours }).is_err() {
                        return Ok(());
                    }
                }
                Ok(_) => {}
                Err(reason) => self.metrics.command_unreadable(record.offset, &reason),
            }
        }
        Ok(())
    }

    fn assigned(&self, from: i64) -> Result<BaseConsumer<LogContext>, KafkaError> {
        let group = format!("{}.emitter.reader", self.kafka.topic_prefix);
        let mut settings = self.kafka.consumer(SERVICE, &group);
        settings.set("enable.partition.eof", "true");
        let consumer: BaseConsumer<LogContext> = settings.create_with_context(LogContext)?;
        let mut assignment = TopicPartitionList::new();
        assignment.add_partition_offset(&self.topic, 0, Offset::Offset(from))?;
        consumer.assign(&assignment)?;
        Ok(consumer)
    }

    /// The check logs it once.
    pub fn unfollowed(&self, check: &Check, reason: &str) {
        check.not_ready(format!("{COMMANDS_UNFOLLOWED}: commands of people cannot be read: {reason}"));
    }
}

fn stored(message: &impl Message) -> StoredRecord {
    StoredRecord {
        offset: message.offset(),
        timestamp_ms: match message.timestamp() {
            Timestamp::NotAvailable => None,
            Timestamp::CreateTime(ms) | Timestamp::LogAppendTime(ms) => Some(ms),
        },
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
    }
}

fn is_moved(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange))
}

/// What one client does not get over, or not soon.
fn is_final(error: &KafkaError) -> bool {
    matches!(error, KafkaError::MessageConsumptionFatal(_))
        || matches!(
            error.rdkafka_error_code(),
            Some(
                RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownPartition
                    | RDKafkaErrorCode::AutoOffsetReset
                    | RDKafkaErrorCode::OffsetOutOfRange
                    | RDKafkaErrorCode::Fatal
                    | RDKafkaErrorCode::TopicAuthorizationFailed
            )
        )
}

/// What writes outcomes.
#[derive(Clone, Debug)]
pub struct Clerk {
    /// How records are encoded.
    pub codec: Codec,
    /// `emitter.commands`.
    pub topic: String,
    /// Source of the records.
    pub source: String,
    /// This emitter.
    pub by: String,
}

impl Clerk {
    /// For an emitter of this instance.
    #[must_use]
    pub fn new(codec: Codec, topics: &Topics, instance: &str) -> Self {
        let (topic, source) = (topics.commands().to_owned(), format!("/{}/{SERVICE}", topics.prefix()));
        Self { codec, topic, source, by: format!("{SERVICE} {instance}") }
    }

    /// The record of an outcome; none if it cannot be encoded, which no outcome of ours is.
    #[must_use]
    pub fn outcome(
        &self,
        command: &Command,
        end: WalletEnd,
        text: String,
        transactions: Vec<B256>,
    ) -> Option<OutgoingRecord> {
        let now = SystemTime::now();
        let outcome = WalletRecord {
            by: self.by.clone(),
            written_ms: unix_ms(now),
            text,
            body: WalletBody::Outcome { command_offset: command.offset, end, transactions },
            ..command.record.clone()
        };
        command_record(&self.codec, &self.topic, &self.source, &outcome)
    }
}

/// A record for `emitter.commands`; none if it cannot be encoded.
#[must_use]
pub fn command_record(codec: &Codec, topic: &str, source: &str, record: &WalletRecord) -> Option<OutgoingRecord> {
    Some(OutgoingRecord {
        topic: topic.to_owned(),
        partition: Some(0),
        key: Some(wallet_key(record.chain_id, record.sender)),
        value: Some(codec.encode(topic, record).ok()?),
        headers: headers(source, SystemTime::now(), record),
    })
}

#[cfg(test)]
mod tests {
    use kms_runtime::http::{Health, Status};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

    use super::*;

    fn record(id: u8, body: WalletBody) -> WalletRecord {
        WalletRecord {
            chain_id: 1,
            sender: Address::repeat_byte(1),
            command_id: B256::repeat_byte(id),
            by: "ann\n@bastion".to_owned(),
            written_ms: 0,
            text: "why".to_owned(),
            body,
        }
    }

    fn outcome(command_offset: i64, end: WalletEnd) -> WalletBody {
        WalletBody::Outcome { command_offset, end, transactions: vec![] }
    }

    fn standing(records: impl IntoIterator<Item = WalletRecord>) -> Standing {
        let mut standing = Standing::default();
        for (offset, record) in (0..).zip(records) {
            standing.take(offset, record);
        }
        standing
    }

    #[test]
    fn the_last_pause_or_resume_says_what_holds() {
        let (pause, resume) = (record(1, WalletBody::Pause), record(2, WalletBody::Resume));
        assert!(standing([]).paused().is_none());
        assert_eq!(standing([resume.clone(), pause.clone()]).paused().map(|command| command.offset), Some(1));
        assert!(standing([pause.clone(), resume]).paused().is_none());
        // Obeyed or not.
        let obeyed = standing([pause.clone(), record(1, outcome(0, WalletEnd::Done))]);
        assert_eq!(obeyed.paused().map(Command::who).as_deref(), Some("ann @bastion: why"));
        assert_eq!(obeyed.open().count(), 0);
    }

    #[test]
    fn a_second_pause_or_resume_leaves_the_first_as_it_is() {
        let (pause, resume) = (record(1, WalletBody::Pause), record(2, WalletBody::Resume));
        let again = WalletRecord { by: "bob".to_owned(), ..record(3, WalletBody::Pause) };
        let switch = |records: &[&WalletRecord]| {
            let standing = standing(records.iter().map(|record| (*record).clone()));
            (standing.paused().map(|command| command.offset), standing.switch().map(|command| command.offset))
        };
        let done = record(1, outcome(0, WalletEnd::Done));
        assert_eq!(switch(&[&pause, &again]), (Some(0), Some(0)));
        assert_eq!(switch(&[&pause, &done, &again]), (Some(0), Some(0)));
        // One resume ends both, and the next pause is a first one.
        assert_eq!(switch(&[&pause, &again, &resume]), (None, Some(2)));
        assert_eq!(switch(&[&pause, &again, &resume, &again, &pause]), (Some(3), Some(3)));
        assert_eq!(switch(&[&pause, &resume, &resume]), (None, Some(1)));
        assert_eq!(switch(&[&resume]), (None, None));
    }

    #[test]
    fn a_pause_or_resume_is_obeyed_when_an_emitter_has_said_so() {
        let (pause, resume) = (record(1, WalletBody::Pause), record(2, WalletBody::Resume));
        let unobeyed = |records: &[&WalletRecord]| {
            let standing = standing(records.iter().map(|record| (*record).clone()));
            standing.unobeyed().map(|command| command.offset)
        };
        let done = |id, offset| record(id, outcome(offset, WalletEnd::Done));
        assert_eq!(unobeyed(&[]), None);
        assert_eq!(unobeyed(&[&pause]), Some(0));
        assert_eq!(unobeyed(&[&pause, &done(1, 0)]), None);
        assert_eq!(unobeyed(&[&pause, &record(1, outcome(0, WalletEnd::Refused))]), Some(0));
        assert_eq!(unobeyed(&[&pause, &done(1, 0), &resume]), Some(2));
        assert_eq!(unobeyed(&[&pause, &done(1, 0), &resume, &done(2, 2)]), None);
        // An emitter that answers a second pause holds the first.
        assert_eq!(unobeyed(&[&pause, &pause, &done(1, 1)]), None);
        // What a later command overtook says nothing of that.
        assert_eq!(unobeyed(&[&pause, &resume, &done(1, 0)]), Some(1));
        assert_eq!(unobeyed(&[&pause, &resume, &pause, &done(1, 0)]), Some(2));
    }

    #[test]
    fn p2_a_command_is_open_until_its_own_last_outcome() {
        let cancel = record(1, WalletBody::Cancel { nonce: 5, expires_ms: 10 });
        let begun = record(1, outcome(0, WalletEnd::Accepted));
        let open = |records: &[&WalletRecord]| {
            standing(records.iter().map(|record| (*record).clone())).open().map(|(_, begun)| begun).collect::<Vec<_>>()
        };
        assert_eq!(open(&[&cancel]), [false]);
        assert_eq!(open(&[&cancel, &begun]), [true]);
        assert_eq!(open(&[&cancel, &begun, &record(1, outcome(0, WalletEnd::Done))]), [false; 0]);
        assert_eq!(open(&[&cancel, &record(1, outcome(0, WalletEnd::Refused))]), [false; 0]);
        // Of another command, of another place, before its command.
        assert_eq!(open(&[&cancel, &record(2, outcome(0, WalletEnd::Done))]), [false]);
        assert_eq!(open(&[&cancel, &record(1, outcome(7, WalletEnd::Done))]), [false]);
        assert_eq!(open(&[&record(1, outcome(1, WalletEnd::Done)), &cancel]), [false]);
    }

    #[test]
    fn p6_of_many_commands_without_an_outcome_the_oldest_are_left() {
        let bump = WalletBody::Bump { nonce: None, max_fee_per_gas: None, expires_ms: 10 };
        let standing = standing((0..MOST_OPEN + 5).map(|_| record(1, bump.clone())));
        assert_eq!(standing.open().count(), MOST_OPEN);
        assert_eq!(standing.open().next().map(|(command, _)| command.offset), Some(5));
    }

    #[test]
    fn what_is_to_be_done_now_is_not_done_later() {
        let at = |body| Command { offset: 0, record: record(1, body) };
        let bump = at(WalletBody::Bump { nonce: None, max_fee_per_gas: None, expires_ms: 10 });
        assert!(!bump.is_expired(10) && bump.is_expired(11));
        assert!(!at(WalletBody::Pause).is_expired(u64::MAX));
    }

    #[test]
    fn a_second_pause_hears_who_paused_why_and_for_how_long() {
        let pause = Command { offset: 0, record: record(1, WalletBody::Pause) };
        let expected =
            "paused already for 90 s by ann @bastion: why; nothing changes, and one resume ends it for everybody";
        assert_eq!(pause.already(90_500), expected);
    }

    fn reader(cluster: &MockCluster<'_, DefaultProducerContext>) -> Reader {
        let kafka = KafkaConfig { bootstrap_servers: cluster.bootstrap_servers(), ..KafkaConfig::default() };
        Reader {
            kafka: Arc::new(KafkaConfig { request_timeout_ms: 2_000, ..kafka }),
            codec: Codec::single_object(),
            topic: "commands".to_owned(),
            chain_id: 1,
            sender: Address::repeat_byte(1),
            metrics: Metrics::of("test"),
        }
    }

    fn write(reader: &Reader, body: WalletBody) {
        let written = command_record(&reader.codec, &reader.topic, "/test", &record(1, body)).unwrap();
        let producer: BaseProducer = reader.kafka.client("test").create().unwrap();
        let value = written.value.unwrap();
        producer.send(BaseRecord::<(), _>::to(&reader.topic).payload(&value).partition(0)).unwrap();
        producer.flush(Duration::from_secs(20)).unwrap();
    }

    #[test]
    fn p4_a_partition_without_a_leader_is_no_topic_without_a_pause() {
        let cluster = MockCluster::new(1).unwrap();
        let reader = reader(&cluster);
        cluster.create_topic(&reader.topic, 1, 1).unwrap();
        write(&reader, WalletBody::Pause);
        cluster.partition_leader(&reader.topic, 0, None).unwrap();
        let read = reader.read();
        assert!(matches!(read, Err(ReadError::Kafka { .. })), "{read:?}");
        cluster.partition_leader(&reader.topic, 0, Some(1)).unwrap();
        let begun = reader.read().unwrap();
        assert!(begun.standing.paused().is_some() && begun.from == 1, "{begun:?}");
    }

    #[test]
    fn p6_a_follower_whose_client_fails_says_so_and_goes_on_with_another() {
        let cluster = MockCluster::new(1).unwrap();
        let reader = reader(&cluster);
        cluster.create_topic(&reader.topic, 1, 1).unwrap();
        write(&reader, WalletBody::Pause);
        let (health, stop) = (Health::default(), CancellationToken::new());
        let check = health.check("commands");
        let (tell, mut told) = mpsc::channel(10);
        let following = {
            let (reader, stop) = (reader.clone(), stop.clone());
            std::thread::spawn(move || reader.follow(0, &tell, &check, &stop))
        };
        assert_eq!(told.blocking_recv().map(|command| command.offset), Some(0));
        let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
        // Also of the clients that follow, so that nobody has to look in the right moment.
        cluster.request_errors(RDKafkaApiKey::Fetch, &[denied; 1_000]);
        let is = |ready| {
            let is = |status: &Status| status.is_ready() == ready;
            let begun = Instant::now();
            while !health.snapshot().get("commands").is_some_and(is) {
                assert!(begun.elapsed() < Duration::from_secs(90), "{:?}", health.snapshot());
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        is(false);
        cluster.clear_request_errors(RDKafkaApiKey::Fetch);
        write(&reader, WalletBody::Resume);
        assert_eq!(told.blocking_recv().map(|command| command.offset), Some(1));
        is(true);
        stop.cancel();
        assert!(following.join().unwrap().is_ok());
    }
}
