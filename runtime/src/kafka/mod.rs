//! Kafka clients as the promises need them.
//!
//! ```text
//! [kafka] section ──▶ client settings ──▶ wait for a broker ──▶ topics against the catalogue ──▶ probe
//!                                                                                                │
//!          read_to_end (cursor, intents)   ◀── init_transactions ◀── TransactionalProducer ◀─────┘
//! ```
//!
//! Everything here that talks to a broker **blocks**: call it from a thread of its own, never from an async task.

mod config;
mod context;
mod probe;
mod producer;
mod properties;
mod quiet;
mod reader;
mod rights;
mod settings;
mod topics;

pub use config::{CheckTopics, KafkaConfig, SecurityProtocol};
pub use context::LogContext;
pub use probe::{probe, probe_topic};
pub use producer::{BatchError, OutgoingRecord, ProducerError, TransactionalProducer, classify_error};
pub use properties::ClientProperties;
pub use reader::{PartitionRange, ReadError, StoredRecord, offset_at, read_ranges, read_to_end, watermarks};
pub use settings::TopicRemark;
pub use topics::{TopicsError, check_session, ensure_topics, wait_for_broker};
