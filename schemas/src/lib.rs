//! Avro records, topic catalogue and codec of the KMS Connector's topics.

mod json;
mod layout;
mod versions;
mod wire;

pub mod codec;
pub mod codes;
pub mod headers;
pub mod identity;
pub mod record;
pub mod registry;
pub mod topics;

pub use codec::{Codec, CodecError, Record};
pub use headers::headers;
pub use topics::{TopicSpec, Topics, partition_for_key};
pub use versions::{SchemaVersion, versions};
