//! The committer thread: outputs and offsets, one transaction after the other.
//!
//! ```text
//! wait for outputs ─▶ group metadata ─▶ epochs checked, offsets made (one lock) ─▶ begin ─▶ produce ─▶ offsets ─▶ commit
//!        ▲                                                                                     │ refused: halves, down to one
//!        └───────────────── aborted: the same outputs again ◀──────────────────────────────────┘ record, then a dead letter
//! ```
//!
//! Group commit: a batch is whatever was closed while the last transaction ran. Nothing waits for a timer.
//!
//! The group's metadata is taken before the lock and used only if the assignment did not change in between and is not lost:
//! the broker then fences a transaction that loses its partitions on the way. Metadata taken before the group was joined is
//! *accepted* by the broker and would overwrite the owner's offsets.
//!
//! Adding the offsets is a call that may never come back, whatever its time-out: the client waits for a group coordinator
//! that it has let go of itself (librdkafka 2.10 to 2.14, its issues 5456 and 5511). The stage then starts anew
//! (`StageError::Stalled`); this thread ends when its client wakes, as the zombie that the new producer has fenced.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientContext, Offset as KafkaOffset, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{Consumer, ConsumerGroupMetadata},
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
    statistics::Statistics,
};

use super::{
    config::StageConfig,
    engine::Engine,
    error::{OUTPUT_REFUSED, StageError},
    outcome::{Failure, Handler, OutputRecord},
    poll::StageConsumer,
    state::{Closed, Commit, Phase, Prepared},
};
use crate::{
    kafka::{KafkaConfig, LogContext, ProducerError, classify_error},
    retry::Backoff,
};

/// How long one call into the client may block, so that the end of the stage is seen.
const STEP: Duration = Duration::from_secs(1);
/// Transactions in a row that may fail although the broker answers.
const MAX_ABORTS: u32 = 60;
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(20), max: Duration::from_secs(1), factor: 2.0 };

/// Delivery errors of the transaction at hand.
#[derive(Default)]
pub(super) struct Deliveries {
    /// The first error, where one that refuses a record comes before all others.
    error: Mutex<Option<KafkaError>>,
}

impl Deliveries {
    fn note(&self, error: &KafkaError) {
        let mut noted = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.as_ref().is_none_or(|noted| is_refusal(error) && !is_refusal(noted)) {
            *noted = Some(error.clone());
        }
    }

    fn has_failed(&self) -> bool {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn take(&self) -> Option<KafkaError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        LogContext::write_log(level, facility, message);
    }

    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        LogContext::write_error(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.note(error);
        }
    }
}

/// Makes the producer; nothing is sent yet.
pub(super) fn producer(kafka: &KafkaConfig, config: &StageConfig) -> Result<BaseProducer<Deliveries>, KafkaError> {
    let largest = config.max_dead_letter_bytes.saturating_add(64 * 1024).clamp(1_000_000, 1_000_000_000);
    let largest = u32::try_from(largest).unwrap_or(u32::MAX);
    let mut settings = kafka.producer(config.name, &config.transactional_id, largest);
    settings
        .set("transaction.timeout.ms", config.transaction_timeout.as_millis().to_string())
        // A batch of small records must not be refused for its size where each of them is small enough.
        .set("batch.size", config.max_output_bytes.clamp(16_384, 1_000_000).to_string());
    settings.create_with_context(Deliveries::default())
}

/// Runs until the stage ends.
pub(super) fn run<H: Handler>(
    engine: Arc<Engine<H>>,
    kafka: &KafkaConfig,
    producer: BaseProducer<Deliveries>,
    consumer: Weak<StageConsumer<H>>,
) {
    let mut committer = Committer { engine: Arc::clone(&engine), kafka, producer, consumer };
    if let Err(error) = committer.run() {
        engine.fail(error);
    }
}

struct Committer<'a, H: Handler> {
    engine: Arc<Engine<H>>,
    kafka: &'a KafkaConfig,
    producer: BaseProducer<Deliveries>,
    /// Not ours: a committer that is stuck must not keep its consumer in the group.
    consumer: Weak<StageConsumer<H>>,
}

/// How a transaction ended.
enum Ended {
    /// Everything is committed, or belonged to lost assignments.
    Published,
    /// An output can never be written as it is.
    Refused(KafkaError),
    /// Nothing is committed; the same again.
    Aborted(KafkaError),
    /// It is not known what is committed; everything is read anew.
    StartedOver,
    /// The stage ends.
    Stopped,
}

impl<H: Handler> Committer<'_, H> {
    fn run(&mut self) -> Result<(), StageError> {
        if !self.init()? {
            return Ok(());
        }
        self.engine.enter(Phase::Running);
        while let Some(batch) = self.engine.wait_for_batch() {
            let outcome = self.publish(batch);
            self.engine.batch_done();
            outcome?;
        }
        Ok(())
    }

    /// Fences the predecessor and ends its transaction, through outages. False when the stage ends before.
    fn init(&self) -> Result<bool, StageError> {
        let transactional_id = &self.engine.config.transactional_id;
        let mut failures = 0;
        while !self.engine.has_ended() {
            let error = match self.producer.init_transactions(STEP * 2).map_err(classify_error) {
                Ok(()) => return Ok(true),
                Err(error) => error,
            };
            match error {
                ProducerError::Retriable(error) | ProducerError::Abortable(error) => {
                    failures += 1;
                    tracing::warn!(transactional_id, %error, "transactions cannot be initialised yet, trying again");
                    self.producer.poll(Duration::ZERO);
                    self.engine.pause(BACKOFF.delay(failures, rand::random()));
                }
                ProducerError::Fenced(source) => {
                    return Err(StageError::Fenced { transactional_id: transactional_id.clone(), source });
                }
                ProducerError::Fatal(source) => {
                    return Err(StageError::Start { transactional_id: transactional_id.clone(), source });
                }
            }
        }
        Ok(false)
    }

    /// Publishes a batch, in parts where the broker refuses some of it.
    fn publish(&mut self, batch: Vec<Closed>) -> Result<(), StageError> {
        let mut parts = VecDeque::from([batch]);
        let mut aborts = 0;
        while let Some(mut part) = parts.pop_front() {
            match self.transact(&mut part)? {
                Ended::Published => aborts = 0,
                Ended::StartedOver | Ended::Stopped => return Ok(()),
                Ended::Aborted(source) => {
                    aborts += 1;
                    self.engine.metrics.aborted(&source, aborts);
                    if aborts >= MAX_ABORTS {
                        return Err(StageError::Aborting { attempts: aborts, source });
                    }
                    self.engine.pause(BACKOFF.delay(aborts, rand::random()));
                    parts.push_front(part);
                }
                Ended::Refused(source) => {
                    self.engine.metrics.refused(&source, part.len());
                    if part.len() > 1 {
                        let second = part.split_off(part.len() / 2);
                        parts.push_front(second);
                        parts.push_front(part);
                    } else if let Some(refused) = part.first_mut() {
                        let why = Failure::new(OUTPUT_REFUSED, format!("refused by the broker: {source}"));
                        if !self.engine.replace_refused(refused, why) {
                            return Err(StageError::Aborting { attempts: 1, source });
                        }
                        parts.push_front(part);
                    }
                }
            }
        }
        Ok(())
    }

    /// One transaction.
    fn transact(&mut self, batch: &mut Vec<Closed>) -> Result<Ended, StageError> {
        let (metadata, commits) = loop {
            let (version, ended) = {
                let inner = self.engine.lock();
                (inner.state.version, inner.state.phase == Phase::Ended)
            };
            if ended {
                return Ok(Ended::Stopped);
            }
            let Some(consumer) = self.consumer.upgrade() else { return Ok(Ended::Stopped) };
            let metadata = consumer.group_metadata();
            // Asked after the metadata was taken: a loss that spoilt it shows here, or in the version.
            let lost = consumer.assignment_lost();
            drop(consumer);
            let prepared = self.engine.lock().state.commits(version, batch)?;
            match (prepared, metadata) {
                (Prepared::Nothing, _) => return Ok(Ended::Published),
                (Prepared::Commits(commits), Some(metadata)) if !lost => break (metadata, commits),
                // The poll thread is about to hear of the loss; what is lost then drops out of the batch.
                (Prepared::Commits(_), _) => self.engine.pause(Duration::from_millis(5)),
                (Prepared::Outdated, _) => {}
            }
        };
        let begun = Instant::now();
        match self.write(batch, &commits, &metadata, begun) {
            Ok(()) => {
                self.engine.metrics.committed(batch.len(), begun.elapsed());
                self.engine.committed(batch, &commits);
                Ok(Ended::Published)
            }
            Err(ProducerError::Abortable(error)) => {
                if let Err(error) = self.abort() {
                    return self.broken(error, begun);
                }
                Ok(if is_refusal(&error) { Ended::Refused(error) } else { Ended::Aborted(error) })
            }
            // Only given up when the stage ends: whether it took place is the successor's to find out.
            Err(ProducerError::Retriable(_)) => Ok(Ended::Stopped),
            Err(error) => self.broken(error, begun),
        }
    }

    fn write(
        &self,
        batch: &[Closed],
        commits: &[Commit],
        metadata: &ConsumerGroupMetadata,
        begun: Instant,
    ) -> Result<(), ProducerError> {
        self.producer.context().take();
        self.producer.begin_transaction().map_err(classify_error)?;
        for output in batch.iter().flat_map(|closed| &closed.outputs) {
            self.send(output, begun)?;
        }
        self.await_deliveries(begun)?;
        let mut offsets = TopicPartitionList::with_capacity(commits.len());
        for commit in commits {
            let mut element = offsets.add_partition(&commit.topic, commit.partition);
            element.set_offset(KafkaOffset::Offset(commit.next.0)).map_err(ProducerError::Abortable)?;
            element.set_metadata(&commit.metadata);
        }
        self.repeat(begun, || {
            self.engine.watched(|| self.producer.send_offsets_to_transaction(&offsets, metadata, STEP))
        })?;
        self.commit()
    }

    fn send(&self, output: &OutputRecord, begun: Instant) -> Result<(), ProducerError> {
        let headers = output
            .headers
            .iter()
            .fold(OwnedHeaders::new_with_capacity(output.headers.len()), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(value.as_slice()) })
            });
        let mut record = BaseRecord::<[u8], [u8]>::to(&output.topic)
            .key(output.key.as_slice())
            .payload(output.value.as_slice())
            .headers(headers);
        record.partition = output.partition;
        loop {
            let (error, returned) = match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
            if !full || self.is_late(begun) {
                return Err(self.failure(error));
            }
            self.producer.poll(Duration::from_millis(1));
            record = returned;
        }
    }

    /// Polls until nothing is in flight: a commit that finds unpolled reports waits a tenth of a second. Ends with the first
    /// error, because the client sends nothing more of a transaction that has failed: what is queued then stays in flight.
    fn await_deliveries(&self, begun: Instant) -> Result<(), ProducerError> {
        self.producer.poll(Duration::ZERO);
        while self.producer.in_flight_count() > 0 && !self.producer.context().has_failed() {
            // The client polls for the whole of the time that it is given, whatever arrives.
            self.producer.poll(Duration::from_micros(500));
            if self.is_late(begun) {
                break;
            }
        }
        match self.producer.context().take() {
            Some(error) => Err(self.failure(error)),
            None if self.producer.in_flight_count() > 0 => {
                Err(ProducerError::Abortable(KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)))
            }
            None => Ok(()),
        }
    }

    /// Repeats a call that may be repeated, until the transaction is late.
    fn repeat(&self, begun: Instant, call: impl Fn() -> Result<(), KafkaError>) -> Result<(), ProducerError> {
        loop {
            match call().map_err(classify_error) {
                Err(ProducerError::Retriable(error)) if self.is_late(begun) => {
                    return Err(ProducerError::Abortable(error));
                }
                Err(ProducerError::Retriable(_)) => self.producer.poll(Duration::from_millis(1)),
                other => return other,
            }
        }
    }

    /// Whether the commit took place is open until the broker says so: only the same call again can tell. Given up only when
    /// the stage ends.
    fn commit(&self) -> Result<(), ProducerError> {
        loop {
            match self.producer.commit_transaction(STEP).map_err(classify_error) {
                Err(ProducerError::Retriable(_)) if !self.engine.has_ended() => {
                    self.producer.poll(Duration::from_millis(1));
                }
                other => return other,
            }
        }
    }

    /// Aborts, through outages. Delivery reports are polled first: an abort fails on a producer that has some unpolled.
    fn abort(&self) -> Result<(), ProducerError> {
        loop {
            self.producer.poll(Duration::from_millis(1));
            match self.producer.abort_transaction(Duration::from_millis(200)).map_err(classify_error) {
                Ok(()) => {
                    self.producer.poll(Duration::ZERO);
                    self.producer.context().take();
                    return Ok(());
                }
                Err(ProducerError::Retriable(_)) if !self.engine.has_ended() => {}
                // Begin itself failed: there is nothing to abort.
                Err(error) if error.kafka_error().rdkafka_error_code() == Some(RDKafkaErrorCode::State) => {
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The producer cannot go on. If our own transaction was open for longer than the broker allows, the broker has fenced us
    /// itself, as after an outage: a new producer takes over, and everything is read anew, because it is not known whether
    /// the last transaction took place. Otherwise somebody else took over, and the supervisor decides.
    fn broken(&mut self, error: ProducerError, begun: Instant) -> Result<Ended, StageError> {
        if self.engine.has_ended() {
            return Ok(Ended::Stopped);
        }
        let transactional_id = self.engine.config.transactional_id.clone();
        let outlived = begun.elapsed() >= self.engine.config.transaction_timeout.mul_f64(0.9);
        if !outlived {
            return Err(match error {
                ProducerError::Fenced(source) => StageError::Fenced { transactional_id, source },
                other => StageError::Fatal(other.kafka_error().clone()),
            });
        }
        tracing::warn!(transactional_id, %error, "transaction outlived the broker's time-out, starting over with a new producer");
        self.producer = producer(self.kafka, &self.engine.config).map_err(StageError::Client)?;
        if !self.init()? {
            return Ok(Ended::Stopped);
        }
        self.engine.start_over();
        Ok(Ended::StartedOver)
    }

    /// A delivery error, unless the client as a whole failed.
    fn failure(&self, error: KafkaError) -> ProducerError {
        if is_refusal(&error) {
            return ProducerError::Abortable(error);
        }
        match self.producer.client().fatal_error() {
            Some((code, reason)) => {
                tracing::error!(%code, reason, "kafka producer failed for good");
                match classify_error(KafkaError::Global(code)) {
                    fenced @ ProducerError::Fenced(_) => fenced,
                    other => ProducerError::Fatal(other.kafka_error().clone()),
                }
            }
            None => ProducerError::Abortable(error),
        }
    }

    /// A commit after the broker's time-out is fatal, so a transaction is given up before.
    fn is_late(&self, begun: Instant) -> bool {
        begun.elapsed() >= self.engine.config.transaction_timeout.mul_f64(0.6) || self.engine.has_ended()
    }
}

/// The record itself is at fault: the same bytes will be refused again. A partition or topic that does not exist is not among
/// them; that is the cluster's fault.
fn is_refusal(error: &KafkaError) -> bool {
    let refusals = [
        RDKafkaErrorCode::MessageSizeTooLarge,
        RDKafkaErrorCode::InvalidMessageSize,
        RDKafkaErrorCode::MessageBatchTooLarge,
        RDKafkaErrorCode::InvalidRecord,
        RDKafkaErrorCode::InvalidTimestamp,
    ];
    error.rdkafka_error_code().is_some_and(|code| refusals.contains(&code))
}
