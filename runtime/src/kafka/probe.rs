//! Does the broker keep the promises that the services build on?
//!
//! Several brokers speak Kafka's protocol and accept transactions, and yet show aborted records to read-committed
//! readers or lose the metadata of committed offsets. Both would break "once" in silence, so both are tried at start:
//! an aborted and a committed record are written, the metadata goes with the committed one, and all is read back.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use kms_schemas::topics::TopicSpec;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::config::KafkaConfig;
use super::context::LogContext;
use super::producer::{ProducerError, classify_error};
use super::reader::{ReadError, read_to_end};
use super::rights::{is_denied, missing_right};
use super::topics::TopicsError;
use crate::codes;
use crate::shutdown::{Exit, Stopped};

/// The longest commit metadata that a broker with default settings takes (`offset.metadata.max.bytes` minus one).
const METADATA_BYTES: usize = 4095;

/// The topic that the probe writes to: an hour is kept, one partition, created like those of the catalogue.
#[must_use]
pub fn probe_topic(config: &KafkaConfig) -> TopicSpec {
    TopicSpec {
        name: format!("{}.probe", config.topic_prefix),
        partitions: 1,
        config: vec![("cleanup.policy", "delete".to_owned()), ("retention.ms", "3600000".to_owned())],
        record: None,
    }
}

/// What the probe found.
enum Finding {
    /// The broker does not do what it must.
    Unfit(String),
    /// The principal lacks a right.
    Denied(RDKafkaErrorCode),
    /// The test could not be finished; it may be repeated.
    Failed(String),
}

impl From<KafkaError> for Finding {
    fn from(error: KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(code) if is_denied(code) => Self::Denied(code),
            _ => Self::Failed(error.to_string()),
        }
    }
}

impl From<ProducerError> for Finding {
    fn from(error: ProducerError) -> Self {
        match Self::from(error.kafka_error().clone()) {
            Self::Failed(_) => Self::Failed(error.to_string()),
            denied => denied,
        }
    }
}

impl From<ReadError> for Finding {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Kafka { error, .. } => error.into(),
            ReadError::NotReached { .. } => Self::Failed(error.to_string()),
        }
    }
}

/// Tests the broker. What fails on the way is tried again for as long as `keep_on` says so.
///
/// # Errors
/// The broker is refused ([`Exit::Refused`]), the principal lacks a right (the same), or `keep_on` ended the attempts ([`Exit::Ok`]).
pub fn probe(config: &KafkaConfig, service: &str, mut keep_on: impl FnMut() -> bool) -> Result<(), Stopped> {
    loop {
        match attempt(config, service) {
            Ok(()) => return Ok(()),
            Err(Finding::Unfit(text)) => {
                return Err(Stopped::new(Exit::Refused, &codes::BROKER_REFUSED, text));
            }
            Err(Finding::Denied(code)) => return Err(denied(config, service, code).stopped()),
            Err(Finding::Failed(error)) if keep_on() => {
                tracing::warn!(error, "the broker could not be tested, trying again");
                std::thread::sleep(Duration::from_millis(500));
            }
            Err(Finding::Failed(error)) => return Err(Stopped::new(Exit::Ok, &codes::KAFKA_UNREACHABLE, error)),
        }
    }
}

fn denied(config: &KafkaConfig, service: &str, code: RDKafkaErrorCode) -> TopicsError {
    let (topic, name) = (probe_topic(config).name, config.transactional_id("probe", service));
    let needs = missing_right(code, &topic, &name, &name).unwrap_or_default();
    TopicsError::Denied { principal: config.principal(), needs, code }
}

fn attempt(config: &KafkaConfig, service: &str) -> Result<(), Finding> {
    let topic = probe_topic(config).name;
    // Each service and instance has its own id and group, so that starts side by side do not disturb each other.
    let name = config.transactional_id("probe", service);
    let timeout = config.request_timeout();
    let producer: Arc<BaseProducer<LogContextProducer>> =
        Arc::new(config.producer(service, &name, 1 << 20).create_with_context(LogContextProducer)?);
    producer.init_transactions(timeout).map_err(classify_error)?;

    let mark: u64 = rand::random();
    producer.begin_transaction().map_err(classify_error)?;
    write(&producer, &topic, &format!("{mark}:aborted"), timeout)?;
    producer.abort_transaction(timeout).map_err(classify_error)?;

    let consumer: BaseConsumer<LogContext> = config.consumer(service, &name).create_with_context(LogContext)?;
    let metadata = "m".repeat(METADATA_BYTES);
    let mut offsets = TopicPartitionList::new();
    offsets.add_partition_offset(&topic, 0, Offset::Offset(1))?;
    for mut element in offsets.elements() {
        element.set_metadata(&metadata);
    }
    let group = consumer.group_metadata().ok_or_else(|| Finding::Failed("no group metadata".to_owned()))?;
    producer.begin_transaction().map_err(classify_error)?;
    write(&producer, &topic, &format!("{mark}:committed"), timeout)?;
    add_offsets(&producer, offsets, group, timeout)?;
    producer.commit_transaction(timeout).map_err(classify_error)?;

    check_records(config, service, &topic, mark)?;
    check_metadata(&consumer, &topic, &metadata, timeout)
}

/// The call may never come back, whatever its time-out, when the group's coordinator is just being elected or has left
/// (librdkafka's issues 5456 and 5511): so it has a thread, which is left behind then. The next attempt fences it.
fn add_offsets(
    producer: &Arc<BaseProducer<LogContextProducer>>,
    offsets: TopicPartitionList,
    group: ConsumerGroupMetadata,
    timeout: Duration,
) -> Result<(), Finding> {
    const GRACE: Duration = Duration::from_secs(1);
    let (end, ended) = mpsc::channel();
    let producer = Arc::clone(producer);
    let call = move || {
        // Nobody waits any more after the time-out.
        let _ = end.send(producer.send_offsets_to_transaction(&offsets, &group, timeout));
    };
    let thread = std::thread::Builder::new().name("broker-probe".to_owned()).spawn(call);
    thread.map_err(|error| Finding::Failed(format!("no thread: {error}")))?;
    match ended.recv_timeout(timeout + GRACE) {
        Ok(outcome) => outcome.map_err(refused_metadata),
        Err(_) => Err(Finding::Failed("the client does not come back from adding offsets to a transaction".to_owned())),
    }
}

fn refused_metadata(error: KafkaError) -> Finding {
    use rdkafka::error::RDKafkaErrorCode::OffsetMetadataTooLarge;
    if error.rdkafka_error_code() == Some(OffsetMetadataTooLarge) {
        return Finding::Unfit(format!(
            "the broker refuses {METADATA_BYTES} bytes of commit metadata; set offset.metadata.max.bytes to 4096 or more"
        ));
    }
    classify_error(error).into()
}

fn write(
    producer: &BaseProducer<LogContextProducer>,
    topic: &str,
    text: &str,
    timeout: Duration,
) -> Result<(), Finding> {
    producer.send(BaseRecord::<(), str>::to(topic).partition(0).payload(text)).map_err(|(error, _)| error)?;
    let deadline = Instant::now() + timeout;
    while producer.in_flight_count() > 0 {
        if Instant::now() >= deadline {
            return Err(Finding::Failed("a record was not delivered in time".to_owned()));
        }
        producer.poll(Duration::from_millis(10));
    }
    Ok(())
}

fn check_records(config: &KafkaConfig, service: &str, topic: &str, mark: u64) -> Result<(), Finding> {
    let (mut aborted, mut committed) = (false, false);
    let patience = config.transaction_timeout() * 3;
    read_to_end(config, service, topic, 0, None, patience, |record| {
        let value = record.value.unwrap_or_default();
        aborted |= value == format!("{mark}:aborted").as_bytes();
        committed |= value == format!("{mark}:committed").as_bytes();
    })?;
    match (aborted, committed) {
        (true, _) => Err(Finding::Unfit("the broker shows an aborted record to a read-committed reader".to_owned())),
        (false, false) => Err(Finding::Unfit("the broker hides a committed record".to_owned())),
        (false, true) => Ok(()),
    }
}

fn check_metadata(
    consumer: &BaseConsumer<LogContext>,
    topic: &str,
    metadata: &str,
    timeout: Duration,
) -> Result<(), Finding> {
    let mut wanted = TopicPartitionList::new();
    wanted.add_partition(topic, 0);
    let found = consumer.committed_offsets(wanted, timeout)?;
    // The client panics on metadata that is not UTF-8, which an unfit broker might return.
    let comparison =
        || found.elements().iter().any(|one| one.offset() == Offset::Offset(1) && one.metadata() == metadata);
    let kept = std::panic::catch_unwind(std::panic::AssertUnwindSafe(comparison)).unwrap_or(false);
    if kept { Ok(()) } else { Err(Finding::Unfit("the broker loses the metadata of committed offsets".to_owned())) }
}

/// The probe looks at what can be read back, not at delivery reports.
struct LogContextProducer;

impl rdkafka::ClientContext for LogContextProducer {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        LogContext::write_log(level, facility, message);
    }

    fn stats(&self, _: rdkafka::statistics::Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        LogContext::write_error(&error, reason);
    }
}

impl rdkafka::producer::ProducerContext for LogContextProducer {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &rdkafka::message::DeliveryResult<'_>, (): ()) {}
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    /// The client library's own mock speaks the protocol and enforces nothing.
    #[test]
    fn p2_a_broker_that_does_not_hide_aborted_records_is_refused() {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        let config = KafkaConfig { bootstrap_servers: cluster.bootstrap_servers(), ..KafkaConfig::default() };
        cluster.create_topic(&probe_topic(&config).name, 1, 1).expect("a topic");
        let begun = Instant::now();
        let refused = probe(&config, "test", || begun.elapsed() < Duration::from_secs(120)).expect_err("refused");
        assert_eq!((refused.exit, refused.code), (Exit::Refused, "KC-0213"), "{refused}");
    }
}
