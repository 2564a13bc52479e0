//! Every schema that was ever written, embedded.
//!
//! A new version of a record's schema is one file, `avro/v{n}/{record}.avsc`, and one line in [`WRITTEN`] below the
//! record's earlier ones. Earlier lines and files stay for ever (P7): what was written under them is read under them and
//! resolved to the newest. The newest is what the record types and `layout.rs` describe.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::rabin::Rabin;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;

use crate::wire::{Defect, Flaw, Wired};

/// Oldest first per record.
const WRITTEN: &[(&str, u32, &str)] = &[
    ("org.kmsconnector.Request", 1, include_str!("../avro/v1/request.avsc")),
    ("org.kmsconnector.Request", 2, include_str!("../avro/v2/request.avsc")),
    ("org.kmsconnector.DeferredRequest", 1, include_str!("../avro/v1/deferred_request.avsc")),
    ("org.kmsconnector.DeferredRequest", 2, include_str!("../avro/v2/deferred_request.avsc")),
    ("org.kmsconnector.Result", 1, include_str!("../avro/v1/result.avsc")),
    ("org.kmsconnector.Result", 2, include_str!("../avro/v2/result.avsc")),
    ("org.kmsconnector.Submission", 1, include_str!("../avro/v1/submission.avsc")),
    ("org.kmsconnector.Submission", 2, include_str!("../avro/v2/submission.avsc")),
    ("org.kmsconnector.Submission", 3, include_str!("../avro/v3/submission.avsc")),
    ("org.kmsconnector.DeadLetter", 1, include_str!("../avro/v1/dead_letter.avsc")),
    ("org.kmsconnector.DeadLetter", 2, include_str!("../avro/v2/dead_letter.avsc")),
    ("org.kmsconnector.Cursor", 1, include_str!("../avro/v1/cursor.avsc")),
    ("org.kmsconnector.Intent", 1, include_str!("../avro/v1/intent.avsc")),
    ("org.kmsconnector.Intent", 2, include_str!("../avro/v2/intent.avsc")),
    ("org.kmsconnector.WalletRecord", 1, include_str!("../avro/v1/wallet_record.avsc")),
];

/// One version of one record's schema.
#[derive(Debug)]
pub struct SchemaVersion {
    /// Avro full name of the record.
    pub record: &'static str,
    /// 1 for the first.
    pub version: u32,
    /// The schema as it is in the file.
    pub json: &'static str,
    /// CRC-64-AVRO of the parsing canonical form: what single-object encoding names the schema by.
    pub fingerprint: u64,
    schema: Schema,
}

/// Every embedded schema version, oldest first per record.
#[must_use]
pub fn versions() -> &'static [SchemaVersion] {
    &CATALOGUE.versions
}

/// The embedded schemas, parsed once per process.
pub(crate) static CATALOGUE: LazyLock<Catalogue> =
    LazyLock::new(|| Catalogue::parse(WRITTEN).expect("the embedded schemas parse: a test holds it"));

/// Schema versions with the ways to find them.
#[derive(Debug)]
pub(crate) struct Catalogue {
    versions: Vec<SchemaVersion>,
    by_fingerprint: HashMap<u64, usize>,
}

/// What an embedded list cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogueError {
    #[error("schema {record} version {version} does not parse")]
    Parse { record: &'static str, version: u32, source: Box<apache_avro::Error> },
    #[error("schema {record} version {version} is not the successor of version {before}")]
    Order { record: &'static str, version: u32, before: u32 },
}

impl Catalogue {
    pub(crate) fn parse(written: &[(&'static str, u32, &'static str)]) -> Result<Self, CatalogueError> {
        let mut versions: Vec<SchemaVersion> = Vec::with_capacity(written.len());
        let mut by_fingerprint = HashMap::new();
        for &(record, version, json) in written {
            let schema = Schema::parse_str(json).map_err(|source| CatalogueError::Parse {
                record,
                version,
                source: Box::new(source),
            })?;
            let before = versions.iter().rev().find(|earlier| earlier.record == record).map_or(0, |v| v.version);
            if version != before + 1 {
                return Err(CatalogueError::Order { record, version, before });
            }
            let fingerprint = fingerprint(&schema);
            by_fingerprint.entry(fingerprint).or_insert(versions.len());
            versions.push(SchemaVersion { record, version, json, fingerprint, schema });
        }
        Ok(Self { versions, by_fingerprint })
    }

    /// The newest schema of a record.
    pub(crate) fn current(&self, record: &str) -> Option<&SchemaVersion> {
        self.versions.iter().rev().find(|version| version.record == record)
    }

    pub(crate) fn of(&self, record: &str) -> impl Iterator<Item = &SchemaVersion> {
        self.versions.iter().filter(move |version| version.record == record)
    }

    pub(crate) fn by_fingerprint(&self, fingerprint: u64) -> Option<&SchemaVersion> {
        self.by_fingerprint.get(&fingerprint).and_then(|index| self.versions.get(*index))
    }

    /// Body bytes that were written under `writer`, as the record's newest schema writes them.
    pub(crate) fn translate(&self, writer: &SchemaVersion, body: &[u8]) -> Wired<Vec<u8>> {
        let Some(current) = self.current(writer.record) else {
            return Err(foreign("no newest schema"));
        };
        let value = writer.read(body)?.resolve(&current.schema).map_err(foreign)?;
        let writer = GenericDatumWriter::builder(&current.schema).build().map_err(foreign)?;
        writer.write_value_to_vec(value).map_err(foreign)
    }
}

impl SchemaVersion {
    /// A body as a generic value: what any other reader of Avro sees.
    pub(crate) fn read(&self, body: &[u8]) -> Wired<Value> {
        // The generic reader allocates what a length field says; this bounds it for the process, once.
        apache_avro::util::max_allocation_bytes(MAX_GENERIC_ALLOCATION);
        let reader = GenericDatumReader::builder(&self.schema).build().map_err(foreign)?;
        let mut input = Whole { left: body, short: false };
        let outcome = reader.read_value(&mut input);
        if input.short {
            return Err(Defect::new(Some(body.len()), Flaw::Truncated));
        }
        let value = outcome.map_err(foreign)?;
        match input.left.len() {
            0 => Ok(value),
            left => Err(Defect::new(Some(body.len() - left), Flaw::Trailing(left))),
        }
    }

    #[cfg(test)]
    pub(crate) fn schema(&self) -> &Schema {
        &self.schema
    }
}

/// Far above what any record of ours can hold.
const MAX_GENERIC_ALLOCATION: usize = 64 << 20;

fn fingerprint(schema: &Schema) -> u64 {
    let bytes = schema.fingerprint::<Rabin>().bytes;
    bytes.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes)).unwrap_or_default()
}

fn foreign(error: impl std::fmt::Display) -> Box<Defect> {
    Defect::new(None, Flaw::Foreign(error.to_string()))
}

/// Bytes being read by the generic reader, which takes their end for a null or an empty string: so the end is
/// remembered here.
struct Whole<'a> {
    left: &'a [u8],
    short: bool,
}

impl Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.left.read(buffer)?;
        self.short |= count < buffer.len();
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::keccak256;
    use apache_avro::schema_compatibility::SchemaCompatibility;

    use super::*;
    use crate::record::{Cursor, DeadLetter, DeferredRequest, Intent, Request, ResultRecord, Submission, WalletRecord};
    use crate::wire::{Shape, Wire};

    /// The structure of a parsed schema, names resolved.
    fn shape_of_schema(schema: &Schema, named: &mut HashMap<String, Shape>) -> Shape {
        let shape = match schema {
            Schema::Int => Shape::Int,
            Schema::Long => Shape::Long,
            Schema::Bytes => Shape::Bytes,
            Schema::String => Shape::Text,
            Schema::Fixed(fixed) => Shape::Fixed(fixed.name.name().to_owned().leak(), fixed.size),
            Schema::Array(array) => Shape::Array(Box::new(shape_of_schema(&array.items, named))),
            Schema::Union(union) => match union.variants() {
                [Schema::Null, other] => Shape::Optional(Box::new(shape_of_schema(other, named))),
                other => panic!("a union that no type of ours has: {other:?}"),
            },
            Schema::Enum(symbols) => Shape::Enum(
                symbols.name.name().to_owned().leak(),
                symbols.symbols.iter().map(|symbol| &*symbol.clone().leak()).collect(),
            ),
            Schema::Record(record) => {
                let mut fields = Vec::new();
                for field in &record.fields {
                    let name: &'static str = field.name.clone().leak();
                    fields.push((name, shape_of_schema(&field.schema, named)));
                }
                Shape::Record(record.name.name().to_owned().leak(), fields)
            }
            Schema::Ref { name } => return named[&name.to_string()].clone(),
            other => panic!("a schema that no type of ours has: {other:?}"),
        };
        if let Some(name) = schema.name() {
            assert_eq!(name.namespace(), Some("org.kmsconnector"), "{name}");
            let other = named.insert(name.to_string(), shape.clone());
            assert!(other.is_none_or(|other| other == shape), "{name} is not the same in all schemas");
        }
        shape
    }

    #[test]
    fn every_record_type_is_laid_out_as_its_newest_schema_says() {
        let types = [
            ("org.kmsconnector.Request", Request::shape()),
            ("org.kmsconnector.DeferredRequest", DeferredRequest::shape()),
            ("org.kmsconnector.Result", ResultRecord::shape()),
            ("org.kmsconnector.Submission", Submission::shape()),
            ("org.kmsconnector.DeadLetter", DeadLetter::shape()),
            ("org.kmsconnector.Cursor", Cursor::shape()),
            ("org.kmsconnector.Intent", Intent::shape()),
            ("org.kmsconnector.WalletRecord", WalletRecord::shape()),
        ];
        let mut named = HashMap::new();
        for (record, shape) in types {
            let schema = CATALOGUE.current(record).expect("has a schema");
            assert_eq!(shape_of_schema(schema.schema(), &mut named), shape, "{record}");
        }
    }

    #[test]
    fn p7_a_schema_that_was_written_never_changes() {
        // What is pinned here is what is in topics. A schema that must change gets a new version beside the old one.
        // The text counts as well: a registry knows a schema by it.
        let written: Vec<(&str, u32, String, String)> = versions()
            .iter()
            .map(|v| (v.record, v.version, format!("{:016x}", v.fingerprint), hex::encode(&keccak256(v.json)[..8])))
            .collect();
        let pinned = [
            ("org.kmsconnector.Request", 1, "35085551f4e76070", "6da12219223b1c39"),
            ("org.kmsconnector.Request", 2, "6748c41c9f19a625", "869caf3200900a60"),
            ("org.kmsconnector.DeferredRequest", 1, "84dc15ac27c36e7e", "6956ff2a134ea8e7"),
            ("org.kmsconnector.DeferredRequest", 2, "f1eb55b3da1f5321", "afc0272be8bf2428"),
            ("org.kmsconnector.Result", 1, "4b68c16de51ad437", "227e873f19c4abf1"),
            ("org.kmsconnector.Result", 2, "59552d3ff65d86c5", "d2e22af58b88c4eb"),
            ("org.kmsconnector.Submission", 1, "4f59bedb27aac99c", "45709a86593efa9d"),
            ("org.kmsconnector.Submission", 2, "6970841ffb93819b", "c08d2db62cf8f3ef"),
            ("org.kmsconnector.Submission", 3, "6f37bb24f9eea6e2", "774708f4af5e7224"),
            ("org.kmsconnector.DeadLetter", 1, "22a4d6e613649bc3", "82de562711d5025b"),
            ("org.kmsconnector.DeadLetter", 2, "97e30a2d555e2f94", "c6301daa9fdf4a7b"),
            ("org.kmsconnector.Cursor", 1, "2c3a2ba059dc953c", "1e1d74c37730cfd1"),
            ("org.kmsconnector.Intent", 1, "ec8de203f3d76e11", "d61523338100fc9f"),
            ("org.kmsconnector.Intent", 2, "539d9ed91adee38a", "4f1e44f054689b3e"),
            ("org.kmsconnector.WalletRecord", 1, "423eb11b977c661a", "f3e064b444945c59"),
        ]
        .map(|(record, version, fingerprint, text)| (record, version, fingerprint.to_owned(), text.to_owned()));
        assert_eq!(written, pinned);
    }

    #[test]
    fn p7_all_versions_of_a_schema_read_each_other() {
        for version in versions() {
            for other in CATALOGUE.of(version.record) {
                SchemaCompatibility::can_read(version.schema(), other.schema()).expect(version.record);
            }
        }
    }
}
