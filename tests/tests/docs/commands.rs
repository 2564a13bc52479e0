//! The commands in the documents exist.

use std::process::Command;

use crate::markdown::code;
use crate::repository::{files, none, read, root, shown};

/// A command line of a document, as arguments of `kms-stack`, which is all programs in one.
fn arguments(line: &str) -> Option<Vec<String>> {
    let line = line.split(" # ").next()?;
    // What follows goes to another program or a file.
    let own = line.split_whitespace().take_while(|word| !matches!(*word, "|" | ">"));
    let mut words: Vec<String> = own.map(|word| word.replace('\'', "")).collect();
    while words.first().is_some_and(|word| word.contains('=')) {
        words.remove(0);
    }
    if words.starts_with(&["cargo".to_owned(), "run".to_owned()]) {
        let own = words.iter().position(|word| word == "--").map_or(words.len(), |at| at + 1);
        return Some(words.split_off(own));
    }
    let program = words.first()?.rsplit('/').next()?.to_owned();
    words.remove(0);
    let subcommand = match program.as_str() {
        "kms-stack" => None,
        "kmsctl" => Some("ctl"),
        "kms-ingest" => Some("ingest"),
        "kms-processor" => Some("processor"),
        "kms-emitter" => Some("emitter"),
        _ => return None,
    };
    let mut all: Vec<String> = subcommand.map(str::to_owned).into_iter().collect();
    all.append(&mut words);
    Some(all)
}

#[test]
fn every_command_of_the_documents_is_understood() {
    let mut complaints = Vec::new();
    let mut tried = 0;
    for file in
        files(&[".md"]).iter().filter(|file| file.starts_with(root().join("docs")) || file.ends_with("README.md"))
    {
        let blocks = code(&read(file), "sh").join("\n").replace("\\\n", " ");
        for line in blocks.lines().filter(|line| !line.starts_with('#')) {
            let Some(arguments) = arguments(line) else { continue };
            tried += 1;
            // Arguments are read up to `--help`, so that nothing is started.
            let output =
                Command::new(kms_tests::program()).args(&arguments).arg("--help").output().expect("the program");
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                complaints.push(format!("{}: {line}\n{said}", shown(file)));
            }
        }
    }
    none(&complaints);
    assert!(tried > 0, "no command was found, so the search is broken");
}

#[test]
fn commands_are_read_as_a_shell_would() {
    let read = |line: &str| arguments(line).map(|words| words.join(" "));
    assert_eq!(read("cargo run --release -- --nodes 4").as_deref(), Some("--nodes 4"));
    assert_eq!(read("cargo run --release").as_deref(), Some(""));
    assert_eq!(read("A=1 target/release/kms-ingest --config f.toml").as_deref(), Some("ingest --config f.toml"));
    assert_eq!(read("kmsctl read submissions | jq . # lines").as_deref(), Some("ctl read submissions"));
    assert_eq!(read("sudo apt-get install maven"), None);
}
