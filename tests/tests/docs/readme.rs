//! The configuration files in the README work.

use kms_emitter::config::EmitterConfig;
use kms_ingest::IngestConfig;
use kms_processor::config::ProcessorConfig;
use kms_runtime::config::{Configuration, Loaded, Sources, load};

use crate::markdown::code;
use crate::repository::{read, root};

/// The README's block that begins with `# {name}`, as a program loads it.
pub(crate) fn loaded<T: Configuration>(name: &str) -> Loaded<T> {
    loads(name, &[], &[])
}

/// Loads the README's block that begins with `# {name}`, with `set` on top.
fn loads<T: Configuration>(name: &str, environment: &[(String, String)], set: &[String]) -> Loaded<T> {
    let readme = read(&root().join("README.md"));
    let blocks = code(&readme, "toml");
    let title = format!("# {name}");
    let found: Vec<&String> = blocks.iter().filter(|block| block.lines().next() == Some(&*title)).collect();
    let [block] = found[..] else { panic!("README.md has {} blocks that begin with {title:?}", found.len()) };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join(name);
    std::fs::write(&file, block).expect("a file");
    // What the files name beside themselves. Any 32 bytes are a key.
    std::fs::write(folder.path().join("wallet.key"), format!("0x{}\n", "01".repeat(32))).expect("a file");
    let sources = Sources { file: Some(file), environment: environment.to_vec(), set: set.to_vec() };
    load::<T>(&sources).unwrap_or_else(|errors| panic!("README.md, {name}: {errors}"))
}

#[test]
fn the_configuration_files_are_valid() {
    loads::<IngestConfig>("ingest.toml", &[], &[]);
    loads::<ProcessorConfig>("processor.toml", &[], &[]);
    loads::<EmitterConfig>("emitter.toml", &[], &[]);
    loads::<IngestConfig>("ingest-b.toml", &[], &[]);
    loads::<ProcessorConfig>("processor-b.toml", &[], &[]);
    loads::<EmitterConfig>("emitter-b.toml", &[], &[]);
}

#[test]
fn the_environment_variables_and_set_flags_are_valid() {
    let readme = read(&root().join("README.md"));
    let (mut environment, mut set) = (Vec::new(), Vec::new());
    for block in code(&readme, "sh").into_iter().filter(|block| block.contains("kms-ingest")) {
        let words: Vec<String> =
            block.replace("\\\n", " ").split_whitespace().map(|word| word.replace('\'', "")).collect();
        for (index, word) in words.iter().enumerate() {
            if let Some((name, value)) = word.split_once('=').filter(|(name, _)| name.starts_with("KMS_CONNECTOR_")) {
                environment.push((name.to_owned(), value.to_owned()));
            }
            if word == "--set" {
                set.extend(words.get(index + 1).cloned());
            }
        }
    }
    assert!(!environment.is_empty() && !set.is_empty(), "README.md shows no variable or no flag");
    loads::<IngestConfig>("ingest.toml", &environment, &set);
}
