//! `docs/configuration.md`.

use std::collections::BTreeMap;

use kms_emitter::config::EmitterConfig;
use kms_ingest::IngestConfig;
use kms_processor::config::ProcessorConfig;
use kms_runtime::config::{Configuration, config_reference};
use kmsctl::CtlConfig;

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

/// A section from its table on: the sentence before comes from the program's own struct.
fn body(section: &str) -> &str {
    section.find("| key |").map_or(section, |table| section[table..].trim_end())
}
