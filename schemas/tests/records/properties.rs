//! What holds for any record, and for any bytes.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::writer::datum::GenericDatumWriter;
use kms_schemas::record::*;
use kms_schemas::{Codec, CodecError, Record, versions};
use proptest::prelude::*;

use crate::strategies;

static SCHEMAS: LazyLock<HashMap<&'static str, Schema>> = LazyLock::new(|| {
    versions().iter().map(|version| (version.record, Schema::parse_str(version.json).expect("parses"))).collect()
});

const FRAME: usize = 10;

/// Any Avro implementation reads what we write, and writes the same.
fn is_avro<R: Record>(bytes: &[u8]) {
    let schema = &SCHEMAS[R::NAME];
    let mut body = &bytes[FRAME..];
    let value = GenericDatumReader::builder(schema).build().expect("builds").read_value(&mut body).expect("reads");
    assert!(body.is_empty(), "{} bytes are left", body.len());
    assert!(value.validate(schema));
    let again = GenericDatumWriter::builder(schema).build().expect("builds").write_value_to_vec(value).expect("writes");
    assert_eq!(again, bytes[FRAME..]);
}

fn comes_back<R: Record + PartialEq + Debug>(record: &R) {
    let codec = Codec::single_object();
    let bytes = codec.encode("topic", record).expect("encodes");
    assert_eq!(codec.decode::<R>("topic", &bytes).expect("decodes"), *record);
    is_avro::<R>(&bytes);
}

fn is_refused_when_cut<R: Record + PartialEq + Debug>(record: &R, cut: prop::sample::Index, extra: u8) {
    let codec = Codec::single_object();
    let mut bytes = codec.encode("topic", record).expect("encodes");
    let cut = cut.index(bytes.len());
    let error = codec.decode::<R>("topic", &bytes[..cut]).expect_err("a part is no record");
    assert_eq!(error.code(), if cut < FRAME { "KC-0202" } else { "KC-0201" }, "{error}");
    codec.inspect("topic", &bytes[..cut]).expect_err("a part is no record for anybody");
    bytes.push(extra);
    let error = codec.decode::<R>("topic", &bytes).expect_err("more than a record is none");
    assert!(matches!(error, CodecError::Undecodable { .. }), "{error}");
}

/// A flipped bit gives another record, or an error; if a record, then one that we would write so.
fn never_panics<R: Record + PartialEq + Debug>(record: &R, byte: prop::sample::Index, bit: u8) {
    let codec = Codec::single_object();
    let mut bytes = codec.encode("topic", record).expect("encodes");
    let byte = byte.index(bytes.len());
    bytes[byte] ^= 1 << bit;
    let _ = codec.inspect("topic", &bytes);
    if let Ok(other) = codec.decode::<R>("topic", &bytes) {
        assert_ne!(other, *record, "two byte strings for one record, byte {byte} bit {bit}");
    }
}

macro_rules! for_every_record {
    ($($name:ident: $ty:ty = $strategy:expr;)+) => {$(
        mod $name {
            use super::*;

            proptest! {
                #[test]
                fn any_record_comes_back_and_is_avro(record in $strategy) {
                    comes_back::<$ty>(&record);
                }

                #[test]
                fn no_part_and_no_extension_of_a_record_is_one(
                    record in $strategy, cut in any::<prop::sample::Index>(), extra in any::<u8>(),
                ) {
                    is_refused_when_cut::<$ty>(&record, cut, extra);
                }

                #[test]
                fn a_flipped_bit_is_seen_or_gives_another_record(
                    record in $strategy, byte in any::<prop::sample::Index>(), bit in 0..8u8,
                ) {
                    never_panics::<$ty>(&record, byte, bit);
                }

                #[test]
                fn any_bytes_behind_the_frame_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..600)) {
                    let codec = Codec::single_object();
                    let version = versions().iter().rev().find(|v| v.record == <$ty>::NAME).expect("has a schema");
                    let mut bytes = vec![0xC3, 0x01];
                    bytes.extend_from_slice(&version.fingerprint.to_le_bytes());
                    bytes.extend_from_slice(&body);
                    let _ = codec.decode::<$ty>("topic", &bytes);
                    let _ = codec.inspect("topic", &bytes);
                }
            }
        }
    )+};
}

for_every_record! {
    request: Request = strategies::request();
    deferred_request: DeferredRequest = strategies::deferred_request();
    result: ResultRecord = strategies::result();
    submission: Submission = strategies::submission();
    dead_letter: DeadLetter = strategies::dead_letter();
    cursor: Cursor = strategies::cursor();
    intent: Intent = strategies::intent();
    wallet_record: WalletRecord = strategies::wallet_record();
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let error = Codec::single_object().decode::<Request>("topic", &bytes).expect_err("no frame of ours");
        prop_assert!(error.to_string().starts_with("topic: "));
    }
}
