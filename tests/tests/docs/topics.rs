//! `docs/topics.md`.

use kms_schemas::topics::Topics;
use kms_schemas::versions;

use crate::markdown::{head, row};
use crate::repository::{document, hold, root};

/// Avro namespace of all records.
const NAMESPACE: &str = "org.kmsconnector.";

#[test]
fn the_topic_table_is_the_catalogue() {
    let topics = Topics::new("prefix");
    let mut table = head(&["topic", "record", "partitions", "settings"]);
    for topic in topics.all() {
        let name = topic.name.strip_prefix("prefix.").expect("names begin with the prefix");
        let settings: Vec<String> = topic.config.iter().map(|(key, value)| format!("`{key}={value}`")).collect();
        let record = topic.record.map_or_else(|| "none".to_owned(), |record| record.replace(NAMESPACE, ""));
        table += &row([&*format!("`{name}`"), &record, &topic.partitions.to_string(), &settings.join(" ")]);
    }
    hold(&document("topics.md"), "topics", &table);
}

#[test]
fn the_schema_table_names_every_embedded_version_and_its_file() {
    let mut table = head(&["record", "version", "fingerprint (CRC-64-AVRO)", "schema"]);
    for version in versions() {
        let name = version.record.replace(NAMESPACE, "");
        let file = format!("schemas/avro/v{}/{}.avsc", version.version, file_name(&name));
        let text = std::fs::read_to_string(root().join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_eq!(text, version.json, "{file} is not the embedded schema");
        let link = format!("[{file}](../{file})");
        table += &row([&*name, &version.version.to_string(), &format!("`{:016x}`", version.fingerprint), &link]);
    }
    hold(&document("topics.md"), "schemas", &table);
}

/// `DeadLetter` is in `dead_letter.avsc`.
fn file_name(record: &str) -> String {
    let mut name = String::new();
    for c in record.chars() {
        if c.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(c.to_lowercase());
    }
    name
}
