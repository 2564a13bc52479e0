//! Records to bytes and back, in either framing.
//!
//! | framing | bytes before the Avro body | used |
//! |---|---|---|
//! | single object | `C3 01`, CRC-64-AVRO fingerprint of the writer's schema, little-endian | without a registry |
//! | Confluent | `00`, the registry's id of the writer's schema, big-endian | with a registry |
//!
//! Both are read always, so that a deployment can start to use a registry, or cease to, on topics that hold records
//! already. (Without a registry nobody knows the ids: then only single objects can be read.)

use std::collections::HashMap;
use std::sync::Arc;

use crate::codes;
use crate::headers::Event;
use crate::record::{Cursor, DeadLetter, DeferredRequest, Intent, Request, ResultRecord, Submission};
use crate::registry::{Registry, RegistryError};
use crate::topics::Topics;
use crate::versions::{CATALOGUE, Catalogue, SchemaVersion};
use crate::wire::{Input, Wire};

pub use crate::wire::{Defect, Flaw};

const SINGLE_OBJECT: [u8; 2] = [0xC3, 0x01];
const CONFLUENT: u8 = 0;

/// A record type of the topics.
pub trait Record: Event + Sized + Send + Sync + 'static {
    /// Full name of the Avro record.
    const NAME: &'static str;

    /// Appends the Avro body, under the newest schema, without framing.
    ///
    /// # Errors
    ///
    /// When a number is above what an Avro `long` holds. `out` then ends in part of a record.
    fn write_body(&self, out: &mut Vec<u8>) -> Result<(), Box<Defect>>;

    /// Reads an Avro body that was written under the newest schema.
    ///
    /// # Errors
    ///
    /// When the bytes are not exactly one such record.
    fn read_body(body: &[u8]) -> Result<Self, Box<Defect>>;
}

macro_rules! records {
    ($($ty:ident as $name:literal),+ $(,)?) => {$(
        impl Record for $ty {
            const NAME: &'static str = concat!("org.kmsconnector.", $name);

            fn write_body(&self, out: &mut Vec<u8>) -> Result<(), Box<Defect>> {
                self.write(out)
            }

            fn read_body(body: &[u8]) -> Result<Self, Box<Defect>> {
                Input::read_all(body)
            }
        }
    )+};
}

records! {
    Request as "Request",
    DeferredRequest as "DeferredRequest",
    ResultRecord as "Result",
    Submission as "Submission",
    DeadLetter as "DeadLetter",
    Cursor as "Cursor",
    Intent as "Intent",
}

/// Why bytes are no record, or a record no bytes.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes start with neither framing.
    #[error("{topic}: {length} bytes that start with {start} are neither an Avro single object nor Confluent framing")]
    Unframed {
        /// Topic of the record.
        topic: String,
        /// How many bytes there are.
        length: usize,
        /// The first of them, in hex.
        start: String,
    },
    /// The fingerprint belongs to no embedded schema.
    #[error(
        "{topic}: no schema with fingerprint {fingerprint:016x} is known; a newer version of the connector, \
         or somebody else, wrote the record"
    )]
    UnknownFingerprint {
        /// Topic of the record.
        topic: String,
        /// CRC-64-AVRO of the writer's schema.
        fingerprint: u64,
    },
    /// The id belongs to no schema that this process found in the registry at its start.
    #[error(
        "{topic}: schema id {id} is not that of a known schema; a newer version of the connector, or somebody else, \
         wrote the record"
    )]
    UnknownSchemaId {
        /// Topic of the record.
        topic: String,
        /// Id of the writer's schema in the registry.
        id: u32,
    },
    /// Confluent framing needs a registry to be read.
    #[error("{topic}: the record names schema id {id} of a schema registry, and none is configured")]
    NoRegistry {
        /// Topic of the record.
        topic: String,
        /// Id of the writer's schema in the registry.
        id: u32,
    },
    /// A record of another type.
    #[error("{topic}: the record is of type {found}, not {expected}")]
    WrongRecord {
        /// Topic of the record.
        topic: String,
        /// Full name of the type that was asked for.
        expected: &'static str,
        /// Full name of the type that the framing or the topic names.
        found: String,
    },
    /// The framing is known and what follows it is broken.
    #[error("{topic}: broken {record} (schema version {version}): {defect}")]
    Undecodable {
        /// Topic of the record.
        topic: String,
        /// Full name of the type.
        record: &'static str,
        /// Version of the writer's schema.
        version: u32,
        /// What is broken.
        defect: Box<Defect>,
    },
    /// A value that the schema cannot hold.
    #[error("{topic}: a {record} cannot be written: {defect}")]
    Unencodable {
        /// Topic of the record.
        topic: String,
        /// Full name of the type.
        record: &'static str,
        /// What cannot be written.
        defect: Box<Defect>,
    },
    /// A topic without schema.
    #[error("{topic} is not in the catalogue of topics that carry records")]
    UnknownTopic {
        /// The topic.
        topic: String,
    },
    /// The schema registry did not do what the start needs.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

impl CodecError {
    /// The stable code (see [`codes::CODES`]).
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Undecodable { .. } => codes::UNDECODABLE_RECORD.code,
            Self::Unframed { .. } => codes::UNFRAMED_RECORD.code,
            Self::UnknownFingerprint { .. } | Self::UnknownSchemaId { .. } | Self::NoRegistry { .. } => {
                codes::UNKNOWN_SCHEMA.code
            }
            Self::WrongRecord { .. } => codes::WRONG_RECORD.code,
            Self::Unencodable { .. } => codes::UNENCODABLE_RECORD.code,
            Self::UnknownTopic { .. } => codes::UNKNOWN_TOPIC.code,
            Self::Registry(error) => error.code(),
        }
    }

    /// Whether trying again later can help, because something was out of reach.
    #[must_use]
    pub const fn is_outage(&self) -> bool {
        matches!(self, Self::Registry(RegistryError::Unreachable { .. }))
    }
}

/// Encodes and decodes records. Cheap to clone; the schemas are parsed once per process.
#[derive(Clone, Debug)]
pub struct Codec {
    catalogue: &'static Catalogue,
    framing: Framing,
}

#[derive(Clone, Debug)]
enum Framing {
    SingleObject,
    Confluent(Arc<Registered>),
}

/// What the registry calls our schemas.
#[derive(Debug, Default)]
struct Registered {
    /// Per topic: full name of its record, and the id of the newest schema.
    by_topic: HashMap<String, (&'static str, u32)>,
    by_id: HashMap<u32, &'static SchemaVersion>,
}

/// A record as any reader of Avro sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Inspected {
    /// Full name of the record type.
    pub record: &'static str,
    /// Version of the schema that it was written under.
    pub version: u32,
    /// The fields; bytes as hex with `0x`, an absent value as null.
    pub fields: serde_json::Value,
}

impl Codec {
    /// Single-object encoding: no registry.
    #[must_use]
    pub fn single_object() -> Self {
        Self { catalogue: &CATALOGUE, framing: Framing::SingleObject }
    }

    /// Confluent framing. Finds or registers the schemas of all `topics` in the registry at `url`, under the subjects
    /// `{topic}-value`; after that no encoding or decoding does any I/O.
    ///
    /// Only the newest schema of a record is ever registered; of the older ones, those that the registry has are read.
    /// Ids that are not found here stay unknown until the next start: an id in a record is the word of whoever wrote
    /// it, and must not make a service call out. So what reads a topic is upgraded before what writes to it.
    ///
    /// # Errors
    ///
    /// [`CodecError::Registry`]: [`CodecError::is_outage`] tells whether to try again.
    pub async fn with_registry(url: &str, topics: &Topics) -> Result<Self, CodecError> {
        let registry = Registry::new(url)?;
        let catalogue: &'static Catalogue = &CATALOGUE;
        let mut registered = Registered::default();
        for topic in topics.all() {
            let Some(record) = topic.record else { continue };
            let subject = format!("{}-value", topic.name);
            let mut newest = None;
            for version in catalogue.of(record) {
                newest = registry.lookup(&subject, version.json).await?;
                if let Some(id) = newest {
                    registered.by_id.insert(id, version);
                }
            }
            let Some(current) = catalogue.current(record) else { continue };
            let id = match newest {
                Some(id) => id,
                None => registry.register(&subject, current.json).await?,
            };
            registered.by_id.insert(id, current);
            registered.by_topic.insert(topic.name, (current.record, id));
        }
        Ok(Self { catalogue, framing: Framing::Confluent(Arc::new(registered)) })
    }

    /// One record as the value of a Kafka record in `topic`.
    ///
    /// # Errors
    ///
    /// [`CodecError::Unencodable`] when a number is above what the schema holds; with a registry also
    /// [`CodecError::UnknownTopic`] and [`CodecError::WrongRecord`], when `topic` does not carry `R`.
    pub fn encode<R: Record>(&self, topic: &str, record: &R) -> Result<Vec<u8>, CodecError> {
        let mut bytes = Vec::with_capacity(TYPICAL_BYTES);
        match &self.framing {
            Framing::SingleObject => {
                let current = self.current::<R>(topic)?;
                bytes.extend_from_slice(&SINGLE_OBJECT);
                bytes.extend_from_slice(&current.fingerprint.to_le_bytes());
            }
            Framing::Confluent(registered) => {
                let Some((found, id)) = registered.by_topic.get(topic) else {
                    return Err(CodecError::UnknownTopic { topic: topic.to_owned() });
                };
                check_record::<R>(topic, found)?;
                bytes.push(CONFLUENT);
                bytes.extend_from_slice(&id.to_be_bytes());
            }
        }
        record.write_body(&mut bytes).map_err(|defect| CodecError::Unencodable {
            topic: topic.to_owned(),
            record: R::NAME,
            defect,
        })?;
        Ok(bytes)
    }

    /// The record in the value of a Kafka record of `topic`, in either framing, written under any embedded version of
    /// its schema. `topic` is for the error alone.
    ///
    /// # Errors
    ///
    /// Says precisely why the bytes are no `R`. Never panics, and allocates in proportion to `bytes`.
    pub fn decode<R: Record>(&self, topic: &str, bytes: &[u8]) -> Result<R, CodecError> {
        let (writer, body) = self.unframe(topic, bytes)?;
        check_record::<R>(topic, writer.record)?;
        let current = self.current::<R>(topic)?;
        let outcome = if writer.version == current.version {
            R::read_body(body)
        } else {
            self.catalogue.translate(writer, body).and_then(|body| R::read_body(&body))
        };
        outcome.map_err(|defect| undecodable(topic, writer, defect))
    }

    /// A record of any type, as any reader of Avro sees it: for people, and to check this codec against.
    ///
    /// # Errors
    ///
    /// As [`Codec::decode`].
    pub fn inspect(&self, topic: &str, bytes: &[u8]) -> Result<Inspected, CodecError> {
        let (writer, body) = self.unframe(topic, bytes)?;
        let value = writer.read(body).map_err(|defect| undecodable(topic, writer, defect))?;
        Ok(Inspected { record: writer.record, version: writer.version, fields: crate::json::from_avro(value) })
    }

    fn current<R: Record>(&self, topic: &str) -> Result<&'static SchemaVersion, CodecError> {
        self.catalogue.current(R::NAME).ok_or_else(|| CodecError::UnknownTopic { topic: topic.to_owned() })
    }

    /// The writer's schema and the Avro body.
    fn unframe<'b>(&self, topic: &str, bytes: &'b [u8]) -> Result<(&'static SchemaVersion, &'b [u8]), CodecError> {
        if let Some((fingerprint, body)) = bytes.strip_prefix(&SINGLE_OBJECT).and_then(<[u8]>::split_first_chunk::<8>) {
            let fingerprint = u64::from_le_bytes(*fingerprint);
            let Some(writer) = self.catalogue.by_fingerprint(fingerprint) else {
                return Err(CodecError::UnknownFingerprint { topic: topic.to_owned(), fingerprint });
            };
            return Ok((writer, body));
        }
        if let Some((id, body)) = bytes.strip_prefix(&[CONFLUENT]).and_then(<[u8]>::split_first_chunk::<4>) {
            let id = u32::from_be_bytes(*id);
            let Framing::Confluent(registered) = &self.framing else {
                return Err(CodecError::NoRegistry { topic: topic.to_owned(), id });
            };
            let Some(writer) = registered.by_id.get(&id) else {
                return Err(CodecError::UnknownSchemaId { topic: topic.to_owned(), id });
            };
            return Ok((writer, body));
        }
        Err(CodecError::Unframed {
            topic: topic.to_owned(),
            length: bytes.len(),
            start: hex::encode(bytes.get(..10).unwrap_or(bytes)),
        })
    }
}

/// Room for a request of one or two ciphertexts.
const TYPICAL_BYTES: usize = 1024;

fn check_record<R: Record>(topic: &str, found: &str) -> Result<(), CodecError> {
    if found == R::NAME {
        return Ok(());
    }
    Err(CodecError::WrongRecord { topic: topic.to_owned(), expected: R::NAME, found: found.to_owned() })
}

fn undecodable(topic: &str, writer: &SchemaVersion, defect: Box<Defect>) -> CodecError {
    CodecError::Undecodable { topic: topic.to_owned(), record: writer.record, version: writer.version, defect }
}
