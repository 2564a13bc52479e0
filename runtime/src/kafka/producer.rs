//! A transactional producer that writes one batch per transaction.
//!
//! `commit_transaction` and `flush` of the client wait about 100 ms each unless every delivery report has been polled
//! before; so delivery is polled to its end first, and the commit itself then takes a millisecond. The same holds for
//! `abort_transaction`, which even fails on a producer whose reports were not polled.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};
use rdkafka::statistics::Statistics;

use super::config::KafkaConfig;
use super::context::LogContext;

/// A record to write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutgoingRecord {
    /// Full topic name.
    pub topic: String,
    /// Partition; `None` lets the `murmur2_random` partitioner choose by key.
    pub partition: Option<i32>,
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Headers in order.
    pub headers: Vec<(String, Vec<u8>)>,
}

/// Errors of a transactional producer, by what can be done about them.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProducerError {
    /// The transaction was lost, the producer was not: abort and write the same again.
    #[error("the transaction must be aborted and tried again: {0}")]
    Abortable(KafkaError),
    /// The broker did not answer in time; the same call may be repeated.
    #[error("Kafka did not answer in time: {0}")]
    Retriable(KafkaError),
    /// Another producer with the same transactional id took over.
    #[error("another process with this transactional id has taken over: {0}")]
    Fenced(KafkaError),
    /// The client cannot be used again.
    #[error("the Kafka client failed for good: {0}")]
    Fatal(KafkaError),
}

impl ProducerError {
    /// The client's own error.
    #[must_use]
    pub fn kafka_error(&self) -> &KafkaError {
        match self {
            Self::Abortable(error) | Self::Retriable(error) | Self::Fenced(error) | Self::Fatal(error) => error,
        }
    }

    /// Given up on: whatever could have been done about it was tried.
    fn into_fatal(self) -> Self {
        match self {
            Self::Abortable(error) | Self::Retriable(error) => Self::Fatal(error),
            final_already => final_already,
        }
    }

    /// How a service ends on this error when it gives up.
    #[must_use]
    pub fn stopped(&self) -> crate::shutdown::Stopped {
        let (exit, code) = match self {
            Self::Fenced(_) => (crate::shutdown::Exit::Fenced, &crate::codes::FENCED),
            _ => (crate::shutdown::Exit::KafkaFatal, &crate::codes::KAFKA_FATAL),
        };
        crate::shutdown::Stopped::new(exit, code, self.to_string())
    }
}

/// Why a batch was not written. Nothing of it is visible to a read-committed reader.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BatchError {
    /// One record can never be written as it is: by its position in the batch.
    #[error("record {index} of the batch is refused: {error}")]
    Refused {
        /// Position in the batch.
        index: usize,
        /// The broker's or the client's reason.
        error: KafkaError,
    },
    /// The deadline passed while Kafka was failing in ways that may end.
    #[error("Kafka did not take the batch in time: {0}")]
    TimedOut(ProducerError),
    /// The producer cannot be used again.
    #[error(transparent)]
    Producer(#[from] ProducerError),
}

/// Tells what can be done about an error of a transactional call.
#[must_use]
pub fn classify_error(error: KafkaError) -> ProducerError {
    // A stale epoch alone may be a lost transaction of our own; only these say that somebody else took over.
    let fenced =
        [RDKafkaErrorCode::Fenced, RDKafkaErrorCode::ProducerFenced, RDKafkaErrorCode::TransactionCoordinatorFenced];
    let is_fenced = error.rdkafka_error_code().is_some_and(|code| fenced.contains(&code));
    let KafkaError::Transaction(inner) = &error else {
        return match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => ProducerError::Fatal(error),
            _ if is_fenced => ProducerError::Fenced(error),
            _ => ProducerError::Abortable(error),
        };
    };
    if inner.txn_requires_abort() {
        return ProducerError::Abortable(error);
    }
    if is_fenced {
        return ProducerError::Fenced(error);
    }
    if inner.is_fatal() {
        return ProducerError::Fatal(error);
    }
    let timed_out = [RDKafkaErrorCode::OperationTimedOut, RDKafkaErrorCode::RequestTimedOut];
    if inner.is_retriable() || timed_out.contains(&inner.code()) {
        return ProducerError::Retriable(error);
    }
    // Neither fatal, abortable nor retriable: a call in the wrong state, which no retry can repair.
    ProducerError::Fatal(error)
}

/// Position in the batch, and partition and offset.
type Delivered = (usize, (i32, i64));

/// Why one transaction was not committed.
enum AttemptError {
    /// Some of these records, by their positions, can never be written.
    Refused(Vec<usize>, KafkaError),
    Producer(ProducerError),
}

impl From<ProducerError> for AttemptError {
    fn from(error: ProducerError) -> Self {
        Self::Producer(error)
    }
}

/// Delivery reports of the batch in flight. The library calls back on the polling thread.
#[derive(Default)]
struct Deliveries {
    reports: Mutex<Vec<Report>>,
}

/// Position in the batch, and partition and offset or the failure.
type Report = (usize, Result<(i32, i64), KafkaError>);

impl Deliveries {
    fn has_failed(&self) -> bool {
        let reports = self.reports.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        reports.iter().any(|(_, report)| report.is_err())
    }

    fn take(&self) -> Vec<Report> {
        std::mem::take(&mut *self.reports.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
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
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, index: usize) {
        let report = match result {
            Ok(message) => Ok((message.partition(), message.offset())),
            Err((error, _)) => Err(error.clone()),
        };
        self.reports.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((index, report));
    }
}

/// One producer with one transactional id. Blocking: give it a thread of its own.
pub struct TransactionalProducer {
    producer: BaseProducer<Deliveries>,
    transactional_id: String,
    /// How long one transaction may stay open: the broker ends it after its time-out, and fences the producer then.
    attempt_limit: Duration,
}

/// How long one call into the client may block. Short, so that a shutdown is seen.
const STEP: Duration = Duration::from_secs(1);

impl TransactionalProducer {
    /// Makes the client; nothing is sent yet.
    ///
    /// # Errors
    /// The client library refuses the settings.
    pub fn new(
        config: &KafkaConfig,
        service: &str,
        transactional_id: &str,
        max_record_bytes: u32,
    ) -> Result<Self, KafkaError> {
        let producer =
            config.producer(service, transactional_id, max_record_bytes).create_with_context(Deliveries::default())?;
        let attempt_limit = config.transaction_timeout().mul_f64(0.8);
        metrics::describe_counter!(
            "kms_connector_kafka_transactions_aborted_total",
            "Transactions of single writers (ingest, the emitter's journal, kmsctl) that were aborted and tried again"
        );
        Ok(Self { producer, transactional_id: transactional_id.to_owned(), attempt_limit })
    }

    /// The id that fences predecessors.
    #[must_use]
    pub fn transactional_id(&self) -> &str {
        &self.transactional_id
    }

    /// Fences a predecessor and ends its open transaction. Must be the first call. Goes on through outages for as long
    /// as `keep_on` says so, and logs each.
    ///
    /// # Errors
    /// The last error when `keep_on` ended it, or a fatal one.
    pub fn init(&self, mut keep_on: impl FnMut() -> bool) -> Result<(), ProducerError> {
        loop {
            let error = match self.producer.init_transactions(STEP * 5) {
                Ok(()) => return Ok(()),
                Err(error) => classify_error(error),
            };
            match error {
                ProducerError::Retriable(_) | ProducerError::Abortable(_) if keep_on() => {
                    let id = &self.transactional_id;
                    tracing::warn!(transactional_id = id, %error, "transactions cannot be initialised yet, trying again");
                    self.producer.poll(STEP);
                }
                error => return Err(error),
            }
        }
    }

    /// Writes the batch in one transaction, retrying through abortable errors until `deadline`. Returns partition and
    /// offset of every record, in order.
    ///
    /// # Errors
    /// See [`BatchError`]. After `Refused` and `TimedOut` the producer can be used again; after `Producer` it cannot.
    pub fn write(&self, records: &[OutgoingRecord], deadline: Instant) -> Result<Vec<(i32, i64)>, BatchError> {
        self.write_watched(records, deadline, |_| {})
    }

    /// The same, and tells `on_trouble` about every transaction that has to be aborted, before the abort: while a broker
    /// is away, that may take as long as the outage.
    ///
    /// # Errors
    /// See [`TransactionalProducer::write`].
    pub fn write_watched(
        &self,
        records: &[OutgoingRecord],
        deadline: Instant,
        mut on_trouble: impl FnMut(&ProducerError),
    ) -> Result<Vec<(i32, i64)>, BatchError> {
        loop {
            let failure = match self.attempt(records, self.attempt_deadline(deadline)) {
                Ok(written) => return Ok(written),
                Err(AttemptError::Refused(suspects, error)) => {
                    self.abort(deadline)?;
                    match self.find_refused(records, suspects, deadline)? {
                        Some(index) => return Err(BatchError::Refused { index, error }),
                        // Each is taken alone: only together they were too much, which the next attempt may avoid.
                        None => ProducerError::Abortable(error),
                    }
                }
                Err(AttemptError::Producer(error @ (ProducerError::Abortable(_) | ProducerError::Retriable(_)))) => {
                    on_trouble(&error);
                    tracing::warn!(
                        transactional_id = self.transactional_id,
                        %error,
                        "transaction aborted, trying again"
                    );
                    self.abort(deadline)?;
                    error
                }
                Err(AttemptError::Producer(error)) => return Err(error.into()),
            };
            metrics::counter!("kms_connector_kafka_transactions_aborted_total").increment(1);
            if Instant::now() >= deadline {
                return Err(BatchError::TimedOut(failure));
            }
            // The pause is the poll: reports and errors are served in it.
            self.producer.poll(Duration::from_millis(100));
        }
    }

    fn attempt_deadline(&self, deadline: Instant) -> Instant {
        deadline.min(Instant::now() + self.attempt_limit)
    }

    /// The broker refuses produce requests, which hold many records; so the one at fault is found by halving, in
    /// transactions that are always aborted. `None` when every suspect is taken alone.
    fn find_refused(
        &self,
        records: &[OutgoingRecord],
        mut suspects: Vec<usize>,
        deadline: Instant,
    ) -> Result<Option<usize>, ProducerError> {
        while suspects.len() > 1 {
            let rest = suspects.split_off(suspects.len() / 2);
            if !self.is_refused(records, &suspects, deadline)? {
                suspects = rest;
            }
        }
        match suspects.first() {
            Some(last) if self.is_refused(records, &[*last], deadline)? => Ok(Some(*last)),
            _ => Ok(None),
        }
    }

    fn is_refused(
        &self,
        records: &[OutgoingRecord],
        suspects: &[usize],
        deadline: Instant,
    ) -> Result<bool, ProducerError> {
        loop {
            let until = self.attempt_deadline(deadline.max(Instant::now() + STEP));
            let tried = self.deliver(suspects.iter().map(|index| (*index, &records[*index])), until);
            self.abort(deadline)?;
            match tried {
                Ok(_) => return Ok(false),
                Err(AttemptError::Refused(..)) => return Ok(true),
                Err(AttemptError::Producer(ProducerError::Abortable(_) | ProducerError::Retriable(_)))
                    if Instant::now() < deadline => {}
                Err(AttemptError::Producer(error)) => return Err(error),
            }
        }
    }

    fn attempt(&self, records: &[OutgoingRecord], deadline: Instant) -> Result<Vec<(i32, i64)>, AttemptError> {
        let reports = self.deliver(records.iter().enumerate(), deadline)?;
        self.commit(deadline)?;
        let mut written = vec![(-1, -1); records.len()];
        for (index, position) in reports {
            written[index] = position;
        }
        Ok(written)
    }

    /// Begins a transaction, and sends records until the broker has taken or refused each.
    fn deliver<'r>(
        &self,
        records: impl Iterator<Item = (usize, &'r OutgoingRecord)>,
        deadline: Instant,
    ) -> Result<Vec<Delivered>, AttemptError> {
        self.producer.context().take();
        self.producer.begin_transaction().map_err(classify_error)?;
        for (index, record) in records {
            self.send(index, record, deadline)?;
        }
        self.await_deliveries(deadline)
    }

    fn send(&self, index: usize, record: &OutgoingRecord, deadline: Instant) -> Result<(), AttemptError> {
        let empty = || OwnedHeaders::new_with_capacity(record.headers.len());
        let headers = record
            .headers
            .iter()
            .fold(empty(), |headers, (key, value)| headers.insert(Header { key, value: Some(value.as_slice()) }));
        let mut outgoing = BaseRecord::<[u8], [u8], usize>::with_opaque_to(&record.topic, index);
        outgoing.key = record.key.as_deref();
        outgoing.payload = record.value.as_deref();
        outgoing.partition = record.partition;
        outgoing.headers = Some(headers);
        loop {
            let (error, returned) = match self.producer.send(outgoing) {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(self.refusal_or_failure(vec![index], error));
            }
            if Instant::now() >= deadline {
                return Err(ProducerError::Abortable(error).into());
            }
            self.producer.poll(Duration::from_millis(10));
            outgoing = returned;
        }
    }

    /// Polls until nothing is in flight, so that the commit does not have to wait.
    fn await_deliveries(&self, deadline: Instant) -> Result<Vec<Delivered>, AttemptError> {
        // A failed transaction sends nothing more, so what is queued behind the first failure stays in flight.
        while self.producer.in_flight_count() > 0 && !self.producer.context().has_failed() {
            self.producer.poll(Duration::from_millis(10));
            if Instant::now() >= deadline && self.producer.in_flight_count() > 0 {
                let error = KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut);
                return Err(ProducerError::Abortable(error).into());
            }
        }
        self.producer.poll(Duration::ZERO);
        let mut written = Vec::new();
        let mut failed = Vec::new();
        for (index, report) in self.producer.context().take() {
            match report {
                Ok(position) => written.push((index, position)),
                Err(error) => failed.push((index, error)),
            }
        }
        // One refusal makes the others fail too, with the error of a transaction that is lost anyway.
        let refusal = failed.iter().find(|(_, error)| is_refusal(error)).or(failed.first());
        match refusal.map(|(_, error)| error.clone()) {
            None => Ok(written),
            Some(error) => {
                let suspects = failed.iter().filter(|(_, error)| is_refusal(error)).map(|(index, _)| *index);
                Err(self.refusal_or_failure(suspects.collect(), error))
            }
        }
    }

    fn refusal_or_failure(&self, suspects: Vec<usize>, error: KafkaError) -> AttemptError {
        if is_refusal(&error) {
            return AttemptError::Refused(suspects, error);
        }
        match self.producer.client().fatal_error() {
            Some((code, reason)) => {
                tracing::error!(%code, reason, "kafka producer failed for good");
                classify_error(KafkaError::Global(code)).into_fatal().into()
            }
            None => ProducerError::Abortable(error).into(),
        }
    }

    fn commit(&self, deadline: Instant) -> Result<(), ProducerError> {
        loop {
            match self.producer.commit_transaction(STEP).map_err(classify_error) {
                Ok(()) => return Ok(()),
                // Whether the commit took place is open; only the same call again can tell.
                Err(ProducerError::Retriable(error)) => {
                    if Instant::now() >= deadline + STEP * 30 {
                        return Err(ProducerError::Fatal(error));
                    }
                    self.producer.poll(Duration::from_millis(50));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn abort(&self, deadline: Instant) -> Result<(), ProducerError> {
        // What is still queued must not hold up the abort; its reports come as errors and are thrown away.
        self.producer.purge(PurgeConfig::default().queue().inflight());
        let give_up = deadline.max(Instant::now()) + STEP * 30;
        loop {
            self.producer.poll(Duration::from_millis(10));
            match self.producer.abort_transaction(STEP).map_err(classify_error) {
                Ok(()) => {
                    self.producer.poll(Duration::ZERO);
                    self.producer.context().take();
                    return Ok(());
                }
                Err(ProducerError::Retriable(_) | ProducerError::Abortable(_)) if Instant::now() < give_up => {}
                // Nothing was begun: nothing to abort.
                Err(error) if is_no_transaction(&error) => return Ok(()),
                Err(error) => return Err(error.into_fatal()),
            }
        }
    }
}

/// The record itself is at fault, so that the same bytes will be refused again.
fn is_refusal(error: &KafkaError) -> bool {
    let refusals = [
        RDKafkaErrorCode::MessageSizeTooLarge,
        RDKafkaErrorCode::InvalidMessageSize,
        RDKafkaErrorCode::InvalidMessage,
        RDKafkaErrorCode::InvalidRecord,
        RDKafkaErrorCode::UnknownPartition,
        RDKafkaErrorCode::InvalidTimestamp,
    ];
    error.rdkafka_error_code().is_some_and(|code| refusals.contains(&code))
}

fn is_no_transaction(error: &ProducerError) -> bool {
    error.kafka_error().rdkafka_error_code() == Some(RDKafkaErrorCode::State)
}
