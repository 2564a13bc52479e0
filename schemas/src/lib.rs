//! Avro records, topic catalogue and codec of the KMS Connector's topics.

pub mod codes;
pub mod identity;
pub mod record;
