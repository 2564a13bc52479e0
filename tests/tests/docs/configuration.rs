//! `docs/configuration.md`.

use std::collections::BTreeMap;

use kms_emitter::config::EmitterConfig;
use kms_ingest::IngestConfig;
use kms_processor::config::ProcessorConfig;
use kms_runtime::config::{Configuration, config_reference};
use kmsctl::CtlConfig;

use crate::readme::loaded;
use crate::repository::{document, hold};

/// Sections that are described once for all programs.
const SHARED: [&str; 3] = ["kafka", "schema_registry", "telemetry"];

/// What a program's reference says before its first section, and its sections by name, in order.
struct Reference {
    before: String,
    sections: Vec<(String, String)>,
}

fn reference<T: Configuration>() -> Reference {
    let whole = config_reference::<T>();
    let mut pieces = whole.split("#### `");
    let before = pieces.next().unwrap_or_default().to_owned();
    let named = pieces.map(|piece| {
        let name = piece.split('`').next().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        (name, format!("### `{piece}"))
    });
    Reference { before, sections: named.collect() }
}

fn program(reference: &Reference) -> String {
    let own = reference.sections.iter().filter(|(name, _)| !SHARED.contains(&name.as_str()));
    let mut text = reference.before.clone();
    text.extend(own.map(|(_, section)| section.as_str()));
    let shared: Vec<String> = reference
        .sections
        .iter()
        .filter(|(name, _)| SHARED.contains(&name.as_str()))
        .map(|(name, _)| format!("`[{name}]`"))
        .collect();
    format!("{}\n\nBesides: {}, see \"Sections of all programs\".\n", text.trim_end(), shared.join(", "))
}

#[test]
fn the_configuration_reference_is_what_the_structs_say() {
    let file = document("configuration.md");
    let references = [
        ("ingest", reference::<IngestConfig>()),
        ("processor", reference::<ProcessorConfig>()),
        ("emitter", reference::<EmitterConfig>()),
        ("kmsctl", reference::<CtlConfig>()),
    ];
    let mut shared: BTreeMap<&str, &str> = BTreeMap::new();
    for (name, reference) in &references {
        for (section, text) in &reference.sections {
            if let Some(section) = SHARED.iter().find(|shared| *shared == section) {
                let first = shared.entry(section).or_insert(text);
                assert_eq!(body(first), body(text), "[{section}] of {name} is described otherwise than elsewhere");
            }
        }
        hold(&file, name, &program(reference));
    }
    let sections: Vec<String> = SHARED.iter().map(|name| format!("### `[{name}]`\n\n{}", body(shared[name]))).collect();
    hold(&file, "shared", &sections.join("\n\n"));
}

/// Of a configuration file of the README, each value that nobody set is the default that the reference names. Where the
/// structs around a section say another default than its own type, that one is in force.
#[test]
fn the_documented_defaults_are_in_force() {
    fn compared<T: Configuration>(file: &str) -> usize {
        let reference = config_reference::<T>();
        let (mut section, mut documented) = (String::new(), BTreeMap::new());
        for line in reference.lines() {
            if let Some(name) = line.strip_prefix("#### `") {
                name.trim_end_matches('`').trim_matches(['[', ']']).clone_into(&mut section);
            }
            let cells: Vec<&str> = line.split(" | ").collect();
            if let [key, _, default, ..] = cells[..]
                && let Some(key) = key.strip_prefix("| `")
            {
                documented
                    .insert((section.clone(), key.trim_matches('`').to_owned()), default.trim_matches('`').to_owned());
            }
        }
        let printed = loaded::<T>(file).to_toml();
        let (mut section, mut count) = (String::new(), 0);
        for line in printed.lines() {
            if line.starts_with('[') {
                line.trim_matches(['[', ']']).clone_into(&mut section);
            }
            let Some((key, value)) = line.strip_suffix("  # default").and_then(|line| line.split_once(" = ")) else {
                continue;
            };
            let default = documented.get(&(section.clone(), key.to_owned()));
            // A list of tables is a section of the reference.
            if default.is_none() && value == "[]" {
                continue;
            }
            assert_eq!(default.map(String::as_str), Some(value), "[{section}] {key} of {file}");
            count += 1;
        }
        count
    }
    assert!(compared::<IngestConfig>("ingest.toml") > 10);
    assert!(compared::<ProcessorConfig>("processor.toml") > 10);
    assert!(compared::<EmitterConfig>("emitter.toml") > 10);
    assert!(compared::<EmitterConfig>("emitter-b.toml") > 10);
}

/// A section from its table on: the sentence before comes from the program's own struct.
fn body(section: &str) -> &str {
    section.find("| key |").map_or(section, |table| section[table..].trim_end())
}
