//! The cluster as the verbs see it: topic names, decoded records.

use std::time::Duration;

use kms_runtime::kafka::{LogContext, ReadError, StoredRecord, offset_at, read_ranges, read_to_end, watermarks};
use kms_schemas::codec::Codec;
use kms_schemas::topics::{TopicSpec, Topics};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config::CtlConfig;
use crate::error::CtlError;

/// Name of this client.
pub(crate) const SERVICE: &str = "kmsctl";

pub(crate) struct Cluster {
    pub(crate) config: CtlConfig,
    pub(crate) topics: Topics,
    pub(crate) codec: Codec,
}

/// What a verb does with records, and so with the schema registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Records {
    /// Nothing: the registry is not asked.
    Unused,
    /// It reads them: schemas are looked up.
    Read,
    /// It writes some: missing schemas are registered.
    Written,
}

impl Cluster {
    pub(crate) fn connect(config: CtlConfig, records: Records) -> Result<Self, CtlError> {
        let topics = Topics::new(&config.kafka.topic_prefix);
        let codec = match &config.schema_registry.url {
            Some(url) if records != Records::Unused => {
                kms_runtime::telemetry::install_tls_provider();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let url = url.expose().as_str();
                match records {
                    Records::Written => runtime.block_on(Codec::with_registry(url, &topics))?,
                    _ => runtime.block_on(Codec::reading_with_registry(url, &topics))?,
                }
            }
            _ => Codec::single_object(),
        };
        Ok(Self { config, topics, codec })
    }

    /// The catalogue's entry of a topic, by its full name or the name behind the prefix.
    pub(crate) fn topic(&self, name: &str) -> Result<TopicSpec, CtlError> {
        let full = format!("{}.{name}", self.topics.prefix());
        let all = self.topics.all();
        let names: Vec<&str> = all.iter().map(|spec| spec.name.as_str()).collect();
        let found = all.iter().find(|spec| spec.name == name || spec.name == full);
        found.cloned().ok_or_else(|| {
            CtlError::Argument(format!("{name:?} is no topic of the connector; its topics are {}", names.join(", ")))
        })
    }

    /// Every committed record of a partition from an offset to the end at the time of the call.
    pub(crate) fn read(
        &self,
        topic: &str,
        partition: i32,
        from: Option<i64>,
        each: impl FnMut(StoredRecord),
    ) -> Result<(), CtlError> {
        let kafka = &self.config.kafka;
        let read = read_to_end(kafka, SERVICE, topic, partition, from, self.patience(), each);
        read.map(drop).map_err(|error| self.unread(error))
    }

    /// Every record of a topic that is committed at the time of the call, with its partition; of a partition in the order of
    /// offsets. What lies behind a transaction that is open then is left out.
    pub(crate) fn read_all(&self, topic: &str, each: impl FnMut(i32, StoredRecord)) -> Result<(), CtlError> {
        let kafka = &self.config.kafka;
        let spec = self.topic(topic)?;
        let ends = watermarks(kafka, SERVICE, topic, spec.partitions).map_err(|error| self.unread(error))?;
        let ranges: Vec<_> = (0..).zip(ends).map(|(partition, (begin, end))| (partition, begin, end)).collect();
        read_ranges(kafka, SERVICE, topic, &ranges, self.patience(), each).map_err(|error| self.unread(error))
    }

    /// [`Self::read_all`] of the records that are not older than `timestamp_ms`, and of what lies behind them. One client for
    /// all partitions: each alone takes half a second to begin.
    pub(crate) fn read_since(
        &self,
        topic: &str,
        timestamp_ms: i64,
        each: impl FnMut(i32, StoredRecord),
    ) -> Result<(), CtlError> {
        let kafka = &self.config.kafka;
        let ends = watermarks(kafka, SERVICE, topic, self.topic(topic)?.partitions);
        let mut ranges = Vec::new();
        for (partition, (_, end)) in (0..).zip(ends.map_err(|error| self.unread(error))?) {
            if let Some(from) = self.offset_at(topic, partition, timestamp_ms)? {
                ranges.push((partition, from, end));
            }
        }
        read_ranges(kafka, SERVICE, topic, &ranges, self.patience(), each).map_err(|error| self.unread(error))
    }

    /// The high watermark of a topic's first partition.
    pub(crate) fn end(&self, topic: &str) -> Result<i64, CtlError> {
        let ends = watermarks(&self.config.kafka, SERVICE, topic, 1).map_err(|error| self.unread(error))?;
        Ok(ends.first().map_or(0, |(_, end)| *end))
    }

    /// The first offset of a partition whose record is not older than `timestamp_ms`; none when all are older.
    pub(crate) fn offset_at(&self, topic: &str, partition: i32, timestamp_ms: i64) -> Result<Option<i64>, CtlError> {
        offset_at(&self.config.kafka, SERVICE, topic, partition, timestamp_ms).map_err(|error| self.unread(error))
    }

    fn unread(&self, error: ReadError) -> CtlError {
        CtlError::read(self.told_apart(error), &self.config.kafka.bootstrap_servers)
    }

    /// The client says the same of a partition without a leader as of a topic that is not there. Only the metadata tell.
    fn told_apart(&self, error: ReadError) -> ReadError {
        let ReadError::Kafka { topic, partition, error: cause } = error else { return error };
        let is_unknown = cause.rdkafka_error_code() == Some(RDKafkaErrorCode::UnknownPartition);
        let cause = if is_unknown && self.exists(&topic) {
            KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable)
        } else {
            cause
        };
        ReadError::Kafka { topic, partition, error: cause }
    }

    fn exists(&self, topic: &str) -> bool {
        let kafka = &self.config.kafka;
        let consumer: Result<BaseConsumer<LogContext>, _> = kafka.client(SERVICE).create_with_context(LogContext);
        let metadata = consumer.and_then(|consumer| consumer.fetch_metadata(Some(topic), kafka.request_timeout()));
        metadata.is_ok_and(|all| all.topics().iter().any(|one| one.name() == topic && !one.partitions().is_empty()))
    }

    /// How long nothing may move while records are read.
    pub(crate) fn patience(&self) -> Duration {
        self.config.kafka.transaction_timeout() + Duration::from_secs(15)
    }
}
