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
use std::fmt;
use std::sync::Arc;

use crate::codes;
use crate::headers::Event;
use crate::record::{Cursor, DeadLetter, DeferredRequest, Intent, Request, ResultRecord, Submission, WalletRecord};
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
    WalletRecord as "WalletRecord",
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
    #[error("{topic}: {record} cannot be written: {defect}")]
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
#[derive(Clone)]
pub struct Codec {
    catalogue: &'static Catalogue,
    framing: Framing,
}

/// What becomes of a schema that the registry does not have.
#[derive(Clone, Copy)]
enum Absent {
    Registered,
    LeftOut,
}

#[derive(Clone)]
enum Framing {
    SingleObject,
    Confluent(Arc<Registered>),
}

/// What the registry calls our schemas.
#[derive(Default)]
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
        Self::from_registry(url, topics, Absent::Registered).await
    }

    /// [`Codec::with_registry`] for who only reads: what the registry does not have is left out instead of registered, so that
    /// a look changes nothing. Nobody can have written a record under a schema that is not there.
    ///
    /// # Errors
    ///
    /// As [`Codec::with_registry`]; encoding for a topic that was left out is [`CodecError::UnknownTopic`].
    pub async fn reading_with_registry(url: &str, topics: &Topics) -> Result<Self, CodecError> {
        Self::from_registry(url, topics, Absent::LeftOut).await
    }

    async fn from_registry(url: &str, topics: &Topics, absent: Absent) -> Result<Self, CodecError> {
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
            let id = match (newest, absent) {
                (Some(id), _) => id,
                (None, Absent::Registered) => registry.register(&subject, current.json).await?,
                (None, Absent::LeftOut) => continue,
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

impl fmt::Debug for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.framing {
            Framing::SingleObject => "Codec(single object)",
            Framing::Confluent(_) => "Codec(Confluent)",
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

#[cfg(test)]
mod tests {
    //! Evolution, with versions that were never released.

    use super::*;
    use crate::record::{BlockRef, Proof};
    use alloy::primitives::B256;
    use apache_avro::types::Value;
    use apache_avro::writer::datum::GenericDatumWriter;

    const CURSOR: &str = include_str!("../avro/v1/cursor.avsc");
    const SUBMISSION: &str = include_str!("../avro/v3/submission.avsc");

    fn codec_of(written: &[(&'static str, u32, &'static str)]) -> Codec {
        let catalogue = Catalogue::parse(written).expect("the versions parse");
        Codec { catalogue: Box::leak(Box::new(catalogue)), framing: Framing::SingleObject }
    }

    /// A schema with another text in one place.
    fn edited(schema: &str, from: &str, to: &str) -> &'static str {
        assert_eq!(schema.matches(from).count(), 1, "{from}");
        schema.replace(from, to).leak()
    }

    fn framed(writer: &SchemaVersion, value: Value) -> Vec<u8> {
        let mut bytes = SINGLE_OBJECT.to_vec();
        bytes.extend_from_slice(&writer.fingerprint.to_le_bytes());
        let schema = writer.schema();
        GenericDatumWriter::builder(schema).build().expect("builds").write_value(&mut bytes, value).expect("writes");
        bytes
    }

    fn cursor() -> Cursor {
        Cursor {
            source: "gateway".to_owned(),
            chain_id: 1,
            block_number: 2,
            block_hash: B256::repeat_byte(3),
            recent: vec![BlockRef { number: 4, hash: B256::repeat_byte(5) }],
            proof: Proof::Receipts,
            sequences: vec![],
            written_ms: 6,
        }
    }

    /// A cursor as an older version wrote it: without the field `recent`, with an order of fields of its own, and with
    /// another proof.
    fn older_cursor(proof: &str) -> (Codec, Vec<u8>) {
        let v1: &str = r#"{
            "type": "record", "name": "Cursor", "namespace": "org.kmsconnector",
            "fields": [
                {"name": "written_ms", "type": "long"},
                {"name": "source", "type": "string"},
                {"name": "chain_id", "type": "int"},
                {"name": "block_number", "type": "long"},
                {"name": "block_hash", "type": {"type": "fixed", "name": "Hash", "size": 32}},
                {"name": "proof", "type": {"type": "enum", "name": "Proof", "symbols": ["oracle", "receipts"]}},
                {"name": "gone", "type": ["null", "Hash"], "default": null},
                {"name": "sequences", "type": {"type": "array", "items": {
                    "type": "record", "name": "Sequence", "fields": [
                        {"name": "topic", "type": "string"},
                        {"name": "next", "type": "long"},
                        {"name": "last_hash", "type": "Hash"}
                    ]
                }}}
            ]
        }"#;
        let v2 = edited(CURSOR, "\"name\": \"recent\",", "\"name\": \"recent\", \"default\": [],");
        let codec = codec_of(&[(Cursor::NAME, 1, v1), (Cursor::NAME, 2, v2)]);
        let index = u32::from(proof == "receipts");
        let hash = |n| Value::Fixed(32, vec![n; 32]);
        let sequence = Value::Record(vec![
            ("topic".to_owned(), Value::String("t".to_owned())),
            ("next".to_owned(), Value::Long(7)),
            ("last_hash".to_owned(), hash(8)),
        ]);
        let value = Value::Record(vec![
            ("written_ms".to_owned(), Value::Long(6)),
            ("source".to_owned(), Value::String("gateway".to_owned())),
            ("chain_id".to_owned(), Value::Int(1)),
            ("block_number".to_owned(), Value::Long(2)),
            ("block_hash".to_owned(), hash(3)),
            ("proof".to_owned(), Value::Enum(index, proof.to_owned())),
            ("gone".to_owned(), Value::Union(1, Box::new(hash(9)))),
            ("sequences".to_owned(), Value::Array(vec![sequence])),
        ]);
        let writer = codec.catalogue.of(Cursor::NAME).next().expect("version 1");
        (codec.clone(), framed(writer, value))
    }

    #[test]
    fn p7_a_record_of_an_older_version_is_read_as_the_newest() {
        let (codec, bytes) = older_cursor("receipts");
        let read: Cursor = codec.decode("topic", &bytes).expect("decodes");
        let sequences =
            vec![crate::record::Sequence { topic: "t".to_owned(), next: 7, last_hash: B256::repeat_byte(8) }];
        assert_eq!(read, Cursor { recent: vec![], sequences, ..cursor() });
        let seen = codec.inspect("topic", &bytes).expect("reads");
        assert_eq!((seen.version, &seen.fields["gone"]), (1, &format!("0x{}", "09".repeat(32)).into()));
    }

    #[test]
    fn p7_a_proof_that_a_reader_does_not_know_is_the_weakest() {
        let (codec, bytes) = older_cursor("oracle");
        assert_eq!(codec.decode::<Cursor>("topic", &bytes).expect("decodes").proof, Proof::Believed);
    }

    #[test]
    fn a_part_of_a_record_of_an_older_version_is_refused() {
        let (codec, bytes) = older_cursor("receipts");
        for cut in 10..bytes.len() {
            let error = codec.decode::<Cursor>("topic", &bytes[..cut]).expect_err("a part is no record");
            let CodecError::Undecodable { version: 1, defect, .. } = error else { panic!("{error}") };
            assert_eq!(defect.flaw, Flaw::Truncated, "{cut}");
        }
        let error = codec.decode::<Cursor>("topic", &[&bytes[..], &[0]].concat()).expect_err("more than a record");
        let CodecError::Undecodable { defect, .. } = error else { panic!("{error}") };
        assert_eq!(defect.flaw, Flaw::Trailing(1));
    }

    #[test]
    fn any_damage_to_a_record_of_an_older_version_is_survived() {
        let (codec, bytes) = older_cursor("receipts");
        for bit in 80..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let _ = codec.decode::<Cursor>("topic", &bytes);
        }
    }

    /// A verdict that is younger than this reader: one form and one field more.
    #[test]
    fn p7_a_form_that_a_reader_does_not_know_is_told_and_can_be_added_without_breaking_anybody() {
        let forms = edited(SUBMISSION, "\"retracted\"\n", "\"retracted\",\n                \"superseded\"\n");
        let younger = edited(
            forms,
            "\"doc\": \"Set for accepted: the transaction.\",",
            r#""type": ["null", "long"], "default": null}, {"name": "accepted",
               "doc": "Set for accepted: the transaction.","#,
        );
        let younger = edited(younger, "{\n            \"name\": \"accepted\",", "{\"name\": \"superseded\",");
        // Here the younger is the writer and the one of today the reader.
        let codec = codec_of(&[(Submission::NAME, 1, younger), (Submission::NAME, 2, SUBMISSION)]);
        let writer = codec.catalogue.of(Submission::NAME).next().expect("version 1");
        let reader = codec.catalogue.current(Submission::NAME).expect("version 2");
        apache_avro::schema_compatibility::SchemaCompatibility::mutual_read(writer.schema(), reader.schema())
            .expect("a form can be added under FULL_TRANSITIVE");

        let single = Codec::single_object();
        let known = Submission {
            result: crate::identity::Coordinates { topic: "r".to_owned(), partition: 1, offset: 2 },
            request: crate::identity::Coordinates { topic: "q".to_owned(), partition: 3, offset: 4 },
            identity: crate::identity::Identity {
                chain_id: 5,
                contract: alloy::primitives::Address::repeat_byte(6),
                kind: crate::identity::Kind::Keygen,
                id: crate::identity::RequestId(B256::repeat_byte(7)),
            },
            verdict: crate::record::Verdict::Retracted,
            attempts: 8,
            settled_ms: 9,
        };
        let body = single.encode("topic", &known).expect("encodes")[10..].to_vec();
        let mut value = reader.read(&body).expect("reads").resolve(writer.schema()).expect("resolves");
        let old_form = codec.decode::<Submission>("topic", &framed(writer, value.clone()));
        assert_eq!(old_form.expect("decodes"), known);

        let Value::Record(fields) = &mut value else { panic!("a record") };
        let verdict = fields.iter_mut().find(|(name, _)| name == "verdict").map(|(_, value)| value);
        let Some(Value::Record(verdict)) = verdict else { panic!("a record") };
        for (name, field) in verdict {
            match name.as_str() {
                "form" => *field = Value::Enum(7, "superseded".to_owned()),
                "superseded" => *field = Value::Union(1, Box::new(Value::Long(10))),
                _ => {}
            }
        }
        let error = codec.decode::<Submission>("topic", &framed(writer, value)).expect_err("the form is unknown");
        assert_eq!(error.code(), "KC-0201");
        assert!(error.to_string().contains("field verdict, "), "{error}");
        assert!(error.to_string().contains("a kind that this version does not know"), "{error}");
    }

    #[test]
    fn a_registry_names_older_versions_too() {
        let (codec, bytes) = older_cursor("receipts");
        let mut registered = Registered::default();
        for (id, version) in (11..).zip(codec.catalogue.of(Cursor::NAME)) {
            registered.by_id.insert(id, version);
        }
        let confluent = Codec { framing: Framing::Confluent(Arc::new(registered)), ..codec.clone() };
        let renamed = [&[0, 0, 0, 0, 11][..], &bytes[10..]].concat();
        assert_eq!(
            confluent.decode::<Cursor>("topic", &renamed).expect("decodes"),
            codec.decode::<Cursor>("topic", &bytes).expect("decodes")
        );
    }

    #[test]
    fn a_list_of_versions_with_a_gap_or_a_broken_schema_is_none() {
        let text = |error| format!("{error}");
        let gap = Catalogue::parse(&[(Cursor::NAME, 2, CURSOR)]).map(|_| ()).map_err(text);
        assert_eq!(gap, Err("schema org.kmsconnector.Cursor version 2 is not the successor of version 0".to_owned()));
        let broken = Catalogue::parse(&[(Cursor::NAME, 1, "{}")]).map(|_| ()).map_err(text);
        assert_eq!(broken, Err("schema org.kmsconnector.Cursor version 1 does not parse".to_owned()));
    }

    #[test]
    fn codes_are_stable_unique_and_of_this_crates_block() {
        let mut seen = std::collections::HashSet::new();
        for code in codes::CODES {
            assert!(code.code.starts_with("KC-02"), "{}", code.code);
            assert!(seen.insert(code.code) && seen.insert(code.name), "{}", code.code);
        }
    }
}
