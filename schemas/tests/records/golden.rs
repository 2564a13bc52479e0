//! The bytes of every record, committed: what is in topics already must be read for ever (P7), and what is written now
//! is what other readers were promised.
//!
//! `UPDATE_GOLDEN=1 cargo test -p kms-schemas` writes the files anew. That is right for a new schema version (new
//! directory) or a new sample, and wrong for everything else.

use std::fmt::Debug;
use std::path::PathBuf;

use kms_schemas::{Codec, Record};
use serde_json::{Value, json};

use crate::samples;

fn hold<R: Record + PartialEq + Debug>(file: &str, samples: Vec<(&'static str, R)>) {
    let codec = Codec::single_object();
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/records/golden/v1").join(file);
    let now = |record: &R| {
        let bytes = codec.encode("topic", record).expect("encodes");
        let seen = codec.inspect("topic", &bytes).expect("any Avro reader reads it");
        assert_eq!(seen.record, R::NAME);
        json!({ "fields": seen.fields, "bytes": hex(&bytes) })
    };
    let written: Value = samples.iter().map(|(name, record)| ((*name).to_owned(), now(record))).collect();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().expect("has a parent")).expect("creates");
        let text = serde_json::to_string_pretty(&written).expect("serialises") + "\n";
        std::fs::write(&path, text).expect("writes");
    }
    let text = std::fs::read_to_string(&path).expect("the golden file is there");
    let golden: Value = serde_json::from_str(&text).expect("the golden file is JSON");
    assert_eq!(written, golden, "{file}: what is written now is not what was");
    for (name, record) in samples {
        let bytes = unhex(golden[name]["bytes"].as_str().expect("bytes"));
        assert_eq!(codec.decode::<R>("topic", &bytes).expect("decodes"), record, "{file}: {name}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(digit).collect()
}

#[test]
fn p7_requests_are_written_and_read_as_ever() {
    hold("request.json", samples::requests());
}

#[test]
fn p7_deferred_requests_are_written_and_read_as_ever() {
    hold("deferred_request.json", samples::deferred_requests());
}

#[test]
fn p7_results_are_written_and_read_as_ever() {
    hold("result.json", samples::results());
}

#[test]
fn p7_submissions_are_written_and_read_as_ever() {
    hold("submission.json", samples::submissions());
}

#[test]
fn p7_dead_letters_are_written_and_read_as_ever() {
    hold("dead_letter.json", samples::dead_letters());
}

#[test]
fn p7_cursors_are_written_and_read_as_ever() {
    hold("cursor.json", samples::cursors());
}

#[test]
fn p7_intents_are_written_and_read_as_ever() {
    hold("intent.json", samples::intents());
}
