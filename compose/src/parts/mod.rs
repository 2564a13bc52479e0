//! What the stack runs beside our own services: a Kafka cluster, a chain, a bucket, a schema registry. Each is a pinned release,
//! fetched with the ordinary client of its registry (Maven, npm) and started as a local process.

mod anvil;
mod bucket;
mod cache;
mod fetch;
mod kafka;
mod prerequisites;
mod registry;

pub use anvil::{Anvil, AnvilOptions};
pub use bucket::{Bucket, BucketError, Objects};
pub use cache::Cache;
pub use fetch::fetch;
pub(crate) use kafka::INTERNAL_PARTITIONS;
pub use kafka::{Kafka, KafkaOptions, broker_settings};
pub use registry::Registry;

/// How often a part is started on other ports when its own were taken between choice and use.
pub(crate) const PORT_TRIES: usize = 5;
