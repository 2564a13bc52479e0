//! `docs/errors.md`.

use std::collections::BTreeMap;

use kms_runtime::shutdown::Exit;
use kms_schemas::codes::Code;

use crate::markdown::{head, row, sentence};
use crate::repository::{crates, document, files, hold, none, read, root, shown};
use crate::rust_source::literals;

/// Blocks of codes by their first two digits.
const BLOCKS: [(&str, &str); 8] = [
    ("01", "Configuration and start"),
    ("02", "Kafka, records and stages"),
    ("03", "Chains and ingest"),
    ("04", "Ciphertexts"),
    ("05", "KMS Core"),
    ("06", "Answers and signatures"),
    ("07", "Submission"),
    ("08", "The local stack"),
];

fn tables() -> Vec<(&'static str, &'static [Code])> {
    vec![
        ("kms-schemas", kms_schemas::codes::CODES),
        ("kms-chain", kms_chain::codes::CODES),
        ("kms-runtime", kms_runtime::codes::CODES),
        ("kms-runtime", kms_runtime::stage::error::CODES),
        ("kms-ingest", kms_ingest::CODES),
        ("kms-processor", kms_processor::codes::CODES),
        ("kms-emitter", kms_emitter::codes::CODES),
        ("kmsctl", kmsctl::codes::CODES),
        ("kms-stack", kms_stack::CODES),
        ("kms-stack", kms_stack::simulator::CODES),
    ]
}

/// Every code with the crate that defines it.
fn codes() -> BTreeMap<&'static str, (&'static str, &'static Code)> {
    let mut codes = BTreeMap::new();
    for (origin, code) in tables().into_iter().flat_map(|(origin, table)| table.iter().map(move |code| (origin, code)))
    {
        if let Some((other, earlier)) = codes.insert(code.code, (origin, code)) {
            panic!("{} is {} of {other} and {} of {origin}", code.code, earlier.name, code.name);
        }
    }
    codes
}

#[test]
fn the_error_reference_holds_every_code_of_every_crate_once() {
    let codes = codes();
    let mut text = String::new();
    for (digits, title) in BLOCKS {
        let block: Vec<&Code> = codes
            .iter()
            .filter(|(code, _)| code.strip_prefix("KC-").is_some_and(|number| number.starts_with(digits)))
            .map(|(_, (_, code))| *code)
            .collect();
        text += &format!("### {title}: KC-{digits}xx\n\n");
        text += &head(&["code", "name", "what happened", "what to do"]);
        for code in block {
            let (meaning, action) = (sentence(code.meaning), sentence(code.action));
            text += &row([code.code, &format!("`{}`", code.name), &meaning, &action]);
        }
        text.push('\n');
    }
    assert_eq!(text.matches("\n| KC-").count(), codes.len(), "a code lies outside the blocks");
    hold(&document("errors.md"), "codes", &text);
}

#[test]
fn the_exit_codes_are_those_of_the_runtime() {
    let mut table = head(&["exit code", "meaning"]);
    for (exit, meaning) in Exit::ALL {
        table += &row([&*exit.code().to_string(), &sentence(meaning)]);
    }
    hold(&document("errors.md"), "exit-codes", &table);
    hold(&root().join("README.md"), "exit-codes", &table);
}

#[test]
fn the_exit_codes_of_kmsctl_are_those_of_its_help() {
    let listed = kmsctl::EXIT_CODES.strip_prefix("Exit codes: ").and_then(|text| text.split_once(". "));
    let (listed, _) = listed.expect("a list that ends with a full stop");
    let mut table = head(&["exit code", "meaning"]);
    for one in listed.split("; ") {
        let (code, meaning) = one.split_once(' ').expect("a number and its meaning");
        table += &row([code, &sentence(meaning)]);
    }
    hold(&document("errors.md"), "kmsctl-exit-codes", &table);
}

#[test]
fn every_code_in_the_sources_is_documented() {
    let codes = codes();
    let mut complaints = Vec::new();
    let tests = root().join("tests");
    let shipped: Vec<_> =
        crates().into_iter().filter(|folder| *folder != tests).map(|folder| folder.join("src")).collect();
    for file in files(&[".rs"]).iter().filter(|file| shipped.iter().any(|folder| file.starts_with(folder))) {
        for (line, text) in literals(&read(file)) {
            let is_code = text.len() == 7 && text.starts_with("KC-") && text[3..].bytes().all(|b| b.is_ascii_digit());
            if is_code && !codes.contains_key(text) {
                complaints.push(format!("{}:{line}: {text} is in no table of codes", shown(file)));
            }
        }
    }
    none(&complaints);
}
