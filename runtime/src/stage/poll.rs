//! The poll thread: one consumer that is polled without a break.
//!
//! Full partitions are paused, not left unpolled: a consumer that is not polled loses its membership and, with it, everything
//! in flight. Nothing here waits for a handler, and for a commit only while partitions are taken away.

use std::{
    collections::HashSet,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use kms_schemas::identity::Coordinates;
use rdkafka::{
    ClientContext, Message as _, Offset as KafkaOffset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, RDKafkaErrorCode},
    message::{BorrowedMessage, Headers as _},
    statistics::Statistics,
    types::RDKafkaRespErr,
};

use super::{
    config::StageConfig,
    engine::Engine,
    error::StageError,
    ledger::NextOffset,
    outcome::{Handler, InputRecord},
    schedule::Epoch,
    state::{Commands, Phase},
};
use crate::kafka::{KafkaConfig, LogContext};

/// The consumer, with the engine as its context.
pub(super) type StageConsumer<H> = BaseConsumer<StageContext<H>>;

/// Longest wait for a record. Also the longest delay until a pause or a resume takes effect while nothing arrives.
const POLL: Duration = Duration::from_millis(10);
/// How long after a lost session a fence may come from that session itself.
const GHOST: Duration = Duration::from_secs(60);
/// Most records between two looks at the commands.
const BATCH: usize = 512;
/// Longest wait until the client has taken a new position in; it needs well under a millisecond.
const SEEK: Duration = Duration::from_millis(500);
/// How long the client may refuse to be moved. It does while a fresh assignment is being set up, and for ever where it has
/// given the partition up.
const UNMOVED: Duration = Duration::from_secs(10);

/// Makes the consumer. It joins the group only when it subscribes.
pub(super) fn consumer<H: Handler>(
    kafka: &KafkaConfig,
    config: &StageConfig,
    engine: &Arc<Engine<H>>,
) -> Result<StageConsumer<H>, KafkaError> {
    let session = config.session_timeout.as_millis();
    // The library fetches ahead; what it holds comes on top of the records in flight and gets a part of their bytes.
    let fetched_kib = (config.bytes_in_flight / 1024 / 4).clamp(1024, 65_536);
    let mut settings = kafka.consumer(config.name, &config.group_id);
    settings
        .set("group.instance.id", &config.group_instance_id)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", session.to_string())
        .set("heartbeat.interval.ms", (session / 3).min(1000).to_string())
        .set("queued.max.messages.kbytes", fetched_kib.to_string());
    settings.create_with_context(StageContext { engine: Arc::clone(engine) })
}

/// Hears of assignments on the poll thread, while it polls.
pub(super) struct StageContext<H> {
    engine: Arc<Engine<H>>,
}

impl<H: Handler> ClientContext for StageContext<H> {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        LogContext::write_log(level, facility, message);
    }

    // The default logs every blob at info.
    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        LogContext::write_error(&error, reason);
    }
}

impl<H: Handler> ConsumerContext for StageContext<H> {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let names: Vec<(Arc<str>, i32)> =
            list.elements().iter().map(|element| (Arc::from(element.topic()), element.partition())).collect();
        let outcome = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, &names),
            _ => self.revoke(consumer, list, &names),
        };
        if let Err(error) = outcome {
            self.engine.fail(StageError::Fatal(error));
        }
    }
}

impl<H: Handler> StageContext<H> {
    /// New partitions begin paused: where to read is known only when the ledger is restored, and the consumer is moved there
    /// then. Until then it stands at an offset that needs no question to the broker. Had it asked for the partition's end, an
    /// answer that comes late, as while a leader changes, would make it ask once more *after* it was moved, and go on from the
    /// end of then: past requests that nobody would ever read. A committed offset that the client looked up by itself would
    /// be a second opinion.
    fn assign(&self, consumer: &BaseConsumer<Self>, names: &[(Arc<str>, i32)]) -> Result<(), KafkaError> {
        let mut list = TopicPartitionList::with_capacity(names.len());
        for (topic, partition) in names {
            list.add_partition_offset(topic, *partition, KafkaOffset::Offset(0))?;
        }
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(&list)?,
            _ => consumer.assign(&list)?,
        }
        if !names.is_empty() {
            consumer.pause(&list)?;
        }
        self.engine.assigned(names);
        Ok(())
    }

    fn revoke(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
        names: &[(Arc<str>, i32)],
    ) -> Result<(), KafkaError> {
        if names.is_empty() {
            // Nothing of ours; the client still waits for the call below.
        } else if consumer.assignment_lost() {
            self.engine.lost(names);
        } else {
            self.engine.revoked(names);
        }
        match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        }
    }
}

/// Polls until the stage ends. Dropping the consumer at the end closes it, on this thread.
pub(super) fn run<H: Handler>(engine: &Arc<Engine<H>>, consumer: Arc<StageConsumer<H>>) {
    if engine.wait_until_started() {
        let topics: Vec<&str> = engine.config.input_topics.iter().map(String::as_str).collect();
        match consumer.subscribe(&topics) {
            Ok(()) => {
                let topics = HashSet::new();
                Poll { engine, consumer: &consumer, topics, last_report: None, unmoved: None }.run();
            }
            Err(error) => engine.fail(StageError::Fatal(error)),
        }
    }
    drop(consumer);
}

struct Poll<'a, H: Handler> {
    engine: &'a Arc<Engine<H>>,
    consumer: &'a StageConsumer<H>,
    topics: HashSet<Arc<str>>,
    last_report: Option<Instant>,
    /// Since when some partition cannot be moved.
    unmoved: Option<Instant>,
}

impl<H: Handler> Poll<'_, H> {
    fn run(&mut self) {
        loop {
            let mut inner = self.engine.lock();
            if inner.state.phase == Phase::Ended {
                return;
            }
            let commands = inner.state.commands();
            drop(inner);
            self.apply(commands);
            let records = self.read();
            // Also without records: what a full ledger held back may fit by now.
            self.engine.admit(records);
        }
    }

    fn apply(&mut self, commands: Commands) {
        self.tell("pause", &commands.pause, |list| self.consumer.pause(list));
        let names: Vec<_> =
            commands.resume.iter().map(|(_, topic, partition, _)| (topic.clone(), *partition)).collect();
        self.tell("resume", &names, |list| self.consumer.resume(list));
        let mut all_moved = true;
        for (epoch, topic, partition, position) in commands.resume {
            all_moved &= self.go_on(epoch, &topic, partition, position);
        }
        if all_moved {
            self.unmoved = None;
        } else if self.unmoved.get_or_insert_with(Instant::now).elapsed() > UNMOVED {
            self.engine.fail(StageError::Stalled("a partition cannot be moved to where reading goes on"));
        }
    }

    fn tell(
        &self,
        what: &str,
        names: &[(Arc<str>, i32)],
        call: impl Fn(&TopicPartitionList) -> Result<(), KafkaError>,
    ) {
        if names.is_empty() {
            return;
        }
        let mut list = TopicPartitionList::with_capacity(names.len());
        for (topic, partition) in names {
            list.add_partition(topic, *partition);
        }
        if let Err(error) = call(&list) {
            tracing::warn!(stage = self.engine.config.name, %error, what, "the consumer did not take a command");
        }
    }

    /// Moves the consumer to where reading goes on. Also after a mere pause, where it stands there already: only a move wakes
    /// the client's thread, which otherwise sleeps for up to a second once all its partitions are paused. A move to an
    /// absolute 0 does not wake it either, one to the beginning does; asked for twice (see `assign`), that reads again what the
    /// ledger knows. A fresh assignment may not be ready to be moved: then `false`, and the next round tries again.
    fn go_on(&self, epoch: Epoch, topic: &str, partition: i32, position: NextOffset) -> bool {
        let target = if position.0 == 0 { KafkaOffset::Beginning } else { KafkaOffset::Offset(position.0) };
        match self.consumer.seek(topic, partition, target, SEEK) {
            Ok(()) => {
                self.engine.lock().state.resumed(epoch);
                true
            }
            Err(error) => {
                tracing::debug!(topic, partition, %error, "the consumer cannot be moved yet");
                false
            }
        }
    }

    /// Reads what is there, at least one poll, at most one batch.
    fn read(&mut self) -> Vec<Arc<InputRecord>> {
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut wait = POLL;
        while records.len() < BATCH && bytes < self.engine.config.bytes_in_flight / 8 {
            match self.consumer.poll(wait) {
                Some(Ok(message)) => {
                    let record = input_record(&message, &mut self.topics);
                    bytes += record.size();
                    records.push(Arc::new(record));
                    wait = Duration::ZERO;
                }
                Some(Err(error)) => {
                    self.report(error);
                    break;
                }
                None => break,
            }
        }
        records
    }

    fn report(&mut self, error: KafkaError) {
        match &error {
            KafkaError::MessageConsumptionFatal(RDKafkaErrorCode::FencedInstanceId) => {
                // After an outage of the broker the group may know our own earlier session as another member.
                if self.engine.was_lost_within(GHOST) {
                    self.engine.fail(StageError::Ghost(error));
                    return;
                }
                let transactional_id = self.engine.config.transactional_id.clone();
                self.engine.fail(StageError::Fenced { transactional_id, source: error });
            }
            KafkaError::MessageConsumptionFatal(_) => self.engine.fail(StageError::Fatal(error)),
            _ if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) => self.engine.recheck(),
            // Whatever else the client reports, it goes on trying by itself.
            _ => {
                let now = Instant::now();
                if self.last_report.is_none_or(|last| now.duration_since(last) > Duration::from_secs(5)) {
                    self.last_report = Some(now);
                    tracing::warn!(stage = self.engine.config.name, %error, "reading is disturbed; the client tries again");
                }
            }
        }
    }
}

fn input_record(message: &BorrowedMessage<'_>, topics: &mut HashSet<Arc<str>>) -> InputRecord {
    let topic = match topics.get(message.topic()) {
        Some(topic) => Arc::clone(topic),
        None => {
            let topic: Arc<str> = Arc::from(message.topic());
            topics.insert(Arc::clone(&topic));
            topic
        }
    };
    InputRecord {
        topic,
        partition: message.partition(),
        offset: message.offset(),
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers: headers(message),
        timestamp_ms: message.timestamp().to_millis(),
    }
}

/// The client panics on header names that are not UTF-8, which anybody may write: such headers are dropped.
fn headers(message: &BorrowedMessage<'_>) -> Vec<(String, Bytes)> {
    let Some(headers) = message.headers() else { return Vec::new() };
    (0..headers.count())
        .filter_map(|index| {
            catch_unwind(AssertUnwindSafe(|| {
                let header = headers.get(index);
                (header.key.to_owned(), header.value.map_or_else(Bytes::new, Bytes::copy_from_slice))
            }))
            .ok()
        })
        .collect()
}

/// Where a partition stands, for messages.
pub(super) fn position(topic: &str, partition: i32, offset: i64) -> Coordinates {
    Coordinates { topic: topic.to_owned(), partition, offset }
}
