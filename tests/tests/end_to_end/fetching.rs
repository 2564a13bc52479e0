//! What a person sees when the stack's parts cannot be fetched, from the program itself with made-up package clients.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use kms_tests::program;
use tempfile::TempDir;

/// A folder to be the whole search path, with these programs in it as shell scripts.
fn path_with(programs: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, script) in programs {
        let file = folder.path().join(name);
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// Programs that only have a version.
const JAVA: (&str, &str) = ("java", "echo 'openjdk version \"21.0.1\" 2023-10-17' >&2");
const NODE: (&str, &str) = ("node", "echo v22.1.0");
/// npm that succeeds and fetches nothing.
const NPM: (&str, &str) = ("npm", "echo 10.2.0");
/// npm that never comes to an end.
const SLOW_NPM: (&str, &str) = ("npm", "case \"$1\" in --version) echo 10.2.0;; *) exec /bin/sleep 600;; esac");

fn fetch(path: &Path, cache: &Path) -> Output {
    Command::new(program())
        .arg("fetch")
        .env("PATH", path)
        .env_remove("JAVA_HOME")
        .env("KMS_STACK_CACHE", cache)
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn every_missing_program_is_named_once_with_how_to_install_it() {
    let cache = tempfile::tempdir().unwrap();
    let output = fetch(path_with(&[NODE]).path(), cache.path());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.starts_with("error[KC-0801]: "), "{said}");
    for missing in ["java", "mvn", "npm"] {
        let lines: Vec<&str> = said.lines().filter(|line| line.contains(&format!("{missing}: not found"))).collect();
        assert!(lines.len() == 1 && lines[0].contains("apt-get install"), "{missing} in {said}");
    }
    assert!(!said.contains("node:"), "{said}");
}

#[test]
fn a_program_that_is_too_old_is_named_with_both_versions() {
    let cache = tempfile::tempdir().unwrap();
    let old = ("java", "echo 'openjdk version \"11.0.2\" 2019-01-15' >&2");
    let path = path_with(&[old, NODE, NPM, ("mvn", "echo Apache Maven 3.9.1")]);
    let output = fetch(path.path(), cache.path());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("java: version 11 found, 17 or later needed"), "{said}");
}

#[test]
fn a_client_that_fails_is_quoted_and_its_whole_log_named() {
    let cache = tempfile::tempdir().unwrap();
    let maven = "case \"$1\" in -v) echo Apache Maven 3.9.1;; *) echo '[INFO] noise'; echo '[ERROR] Unknown host'; exit 1;; esac";
    let output = fetch(path_with(&[JAVA, NODE, SLOW_NPM, ("mvn", maven)]).path(), cache.path());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("KC-0802") && said.contains("[ERROR] Unknown host") && !said.contains("[INFO] noise"),
        "{said}"
    );
    let log = cache.path().join("logs/kafka-4.3.0.log");
    assert!(said.contains(&log.display().to_string()), "{said}");
    assert!(std::fs::read_to_string(&log).unwrap().contains("[INFO] noise"));
}

#[test]
fn a_file_that_is_not_the_pinned_one_is_refused_and_nothing_is_kept() {
    let cache = tempfile::tempdir().unwrap();
    let maven =
        "case \"$1\" in -v) echo Apache Maven 3.9.1;; *) /bin/mkdir libs; echo x > libs/kafka-clients-4.3.0.jar;; esac";
    let output = fetch(path_with(&[JAVA, NODE, SLOW_NPM, ("mvn", maven)]).path(), cache.path());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("KC-0803") && said.contains("kafka-clients-4.3.0.jar"), "{said}");
    let kept = std::fs::read_dir(cache.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!kept.into_iter().any(|name| name.to_string_lossy().starts_with("kafka-4.3.0-")));
}

#[test]
fn a_client_that_fetched_nothing_and_says_all_is_well_is_not_believed() {
    let cache = tempfile::tempdir().unwrap();
    let maven = "case \"$1\" in -v) echo Apache Maven 3.9.1;; *) exec /bin/sleep 600;; esac";
    let path = path_with(&[JAVA, NODE, NPM, ("mvn", maven)]);
    let output = fetch(path.path(), cache.path());
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("KC-0802") && said.contains("npm succeeded, but"), "{said}");
}
