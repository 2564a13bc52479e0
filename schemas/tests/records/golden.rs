//! The bytes of every record, committed: what is in topics already must be read for ever (P7), and what is written now
//! is what other readers were promised.
//!
//! `UPDATE_GOLDEN=1 cargo test -p kms-schemas` writes the files of the newest versions anew. That is right for a new schema
//! version or a new sample, and wrong for everything else.

use std::collections::HashMap;
use std::fmt::Debug;
use std::path::PathBuf;

use alloy::primitives::Bytes;
use kms_schemas::record::{Answer, RequestBody, Verdict};
use kms_schemas::{Codec, Record, versions};
use serde_json::{Map, Value, json};

use crate::samples;

/// The golden records of one type under one version of its schema, by the name of the sample.
fn path(version: u32, file: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/records/golden/v{version}")).join(file)
}

fn read(version: u32, file: &str) -> Map<String, Value> {
    let text = std::fs::read_to_string(path(version, file)).expect("the golden file is there");
    serde_json::from_str(&text).expect("the golden file is JSON")
}

fn seen<R: Record>(bytes: &[u8], version: u32) -> Value {
    let seen = Codec::single_object().inspect("topic", bytes).expect("any Avro reader reads it");
    assert_eq!((seen.record, seen.version), (R::NAME, version));
    json!({ "fields": seen.fields, "bytes": hex(bytes) })
}

/// `in_version_1` takes from a sample what version 1 had no field for: that is how its bytes must be read today.
fn hold<R: Record + PartialEq + Debug>(file: &str, samples: Vec<(&'static str, R)>, in_version_1: fn(&mut R)) {
    let codec = Codec::single_object();
    let newest = versions().iter().filter(|v| v.record == R::NAME).map(|v| v.version).max().expect("has a schema");
    let encode = |record: &R| codec.encode("topic", record).expect("encodes");
    let written: Map<String, Value> =
        samples.iter().map(|(name, record)| ((*name).to_owned(), seen::<R>(&encode(record), newest))).collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let path = path(newest, file);
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("creates");
        let text = serde_json::to_string_pretty(&written).expect("serialises") + "\n";
        std::fs::write(path, text).expect("writes");
    }
    let golden = read(newest, file);
    assert_eq!(written, golden, "{file}: what is written now is not what was");
    for (name, record) in &samples {
        let bytes = unhex(golden[*name]["bytes"].as_str().expect("bytes"));
        assert_eq!(codec.decode::<R>("topic", &bytes).expect("decodes"), *record, "{file}: {name}");
    }
    let mut samples: HashMap<&str, R> = samples.into_iter().collect();
    for older in 1..newest {
        for (name, golden) in read(older, file) {
            let bytes = unhex(golden["bytes"].as_str().expect("bytes"));
            assert_eq!(seen::<R>(&bytes, older), golden, "{file} version {older}: {name}");
            let read = codec.decode::<R>("topic", &bytes).expect("is read as the newest");
            if older == 1 {
                let mut record = samples.remove(&*name).expect("the sample is still there");
                in_version_1(&mut record);
                assert_eq!(read, record, "{file} version 1: {name}");
            }
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(digit).collect()
}

fn without_extra_data(body: &mut RequestBody) {
    match body {
        RequestBody::PrepKeygen { extra_data, .. }
        | RequestBody::Keygen { extra_data, .. }
        | RequestBody::Crsgen { extra_data, .. } => *extra_data = Bytes::new(),
        _ => {}
    }
}

#[test]
fn p7_requests_are_written_and_read_as_ever() {
    hold("request.json", samples::requests(), |request| without_extra_data(&mut request.body));
}

#[test]
fn p7_deferred_requests_are_written_and_read_as_ever() {
    hold("deferred_request.json", samples::deferred_requests(), |deferred| {
        without_extra_data(&mut deferred.request.body);
    });
}

#[test]
fn p7_results_are_written_and_read_as_ever() {
    hold("result.json", samples::results(), |result| {
        result.block_number = 0;
        match &mut result.answer {
            Answer::PrepKeygen { extra_data, .. }
            | Answer::Keygen { extra_data, .. }
            | Answer::Crsgen { extra_data, .. } => *extra_data = Bytes::new(),
            _ => {}
        }
    });
}

#[test]
fn p7_submissions_are_written_and_read_as_ever() {
    hold("submission.json", samples::submissions(), |submission| match &mut submission.verdict {
        Verdict::Accepted(inclusion) | Verdict::Refused { inclusion: Some(inclusion), .. } => {
            (inclusion.answers, inclusion.order) = (None, None);
        }
        _ => {}
    });
}

#[test]
fn p7_dead_letters_are_written_and_read_as_ever() {
    hold("dead_letter.json", samples::dead_letters(), |_| {});
}

#[test]
fn p7_cursors_are_written_and_read_as_ever() {
    hold("cursor.json", samples::cursors(), |_| {});
}

#[test]
fn p7_intents_are_written_and_read_as_ever() {
    hold("intent.json", samples::intents(), |_| {});
}

#[test]
fn p7_wallet_records_are_written_and_read_as_ever() {
    hold("wallet_record.json", samples::wallet_records(), |_| {});
}
