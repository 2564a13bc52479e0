//! Fetching pinned parts with Maven and npm, once per machine.
//!
//! npm verifies what it fetches against the lock file's digests; what Maven fetches is verified here against a list of SHA-256
//! digests. Neither file names a registry: both clients use the user's own settings, mirrors and proxies.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::cache::Cache;
use super::prerequisites::Tool;
use crate::error::StackError;
use crate::progress::Task;
use crate::workspace::Workspace;

/// The Maven plugin that copies dependencies; pinned, since Maven would take the newest.
const COPY_DEPENDENCIES: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies";

/// A pinned part.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Folder name in the cache, with version.
    pub(crate) name: &'static str,
    /// What people call it, with version.
    pub(crate) label: &'static str,
    /// Files that pin its content, written where the client runs.
    pins: &'static [(&'static str, &'static str)],
    client: Client,
    /// What is needed to run it.
    runs_on: &'static [Tool],
}

#[derive(Clone, Copy, Debug)]
enum Client {
    /// Jars into `libs/`.
    Maven,
    /// One archive into `libs/`, unpacked there.
    MavenArchive,
    /// Packages into `node_modules/`.
    Npm,
}

/// Apache Kafka.
pub(crate) const KAFKA: Part = Part {
    name: "kafka-4.3.0",
    label: "Apache Kafka 4.3.0",
    pins: &[
        ("pom.xml", include_str!("../../parts/kafka.pom.xml")),
        ("sha256", include_str!("../../parts/kafka.sha256")),
    ],
    client: Client::Maven,
    runs_on: &[Tool::Java],
};

/// anvil and the bucket.
pub(crate) const NPM: Part = Part {
    name: "npm",
    label: "anvil 1.7.1, s3rver 3.7.1",
    pins: &[
        ("package.json", include_str!("../../parts/package.json")),
        ("package-lock.json", include_str!("../../parts/package-lock.json")),
    ],
    client: Client::Npm,
    runs_on: &[Tool::Node],
};

/// The schema registry.
pub(crate) const REGISTRY: Part = Part {
    name: "registry-2.6.13",
    label: "Apicurio Registry 2.6.13",
    pins: &[
        ("pom.xml", include_str!("../../parts/registry.pom.xml")),
        ("sha256", include_str!("../../parts/registry.sha256")),
    ],
    client: Client::MavenArchive,
    runs_on: &[Tool::Java],
};

/// Checks what the machine must have, all of it at once, then fetches what the cache lacks, side by side. With `registry`, the
/// schema registry too.
///
/// # Errors
/// [`StackError::Prerequisites`] with a line per missing program; [`StackError::Fetch`] and [`StackError::Checksum`].
pub async fn fetch(workspace: &Workspace, registry: bool) -> Result<(), StackError> {
    let parts: &'static [Part] = if registry { &[KAFKA, NPM, REGISTRY] } else { &[KAFKA, NPM] };
    let cache = workspace.cache().clone();
    blocking(move || check_prerequisites(&cache, parts)).await?;
    let kafka_then_registry = async {
        // One Maven after the other: two cores and one local repository.
        ensure(workspace, KAFKA).await?;
        if registry {
            ensure(workspace, REGISTRY).await?;
        }
        Ok(())
    };
    // The first failure is told at once. What the other client then still does is ended with the process.
    tokio::try_join!(kafka_then_registry, ensure(workspace, NPM))?;
    Ok(())
}

/// The part's folder, fetched now unless the cache has it.
pub(crate) async fn ensure(workspace: &Workspace, part: Part) -> Result<PathBuf, StackError> {
    let cache = workspace.cache().clone();
    let folder = cache.folder(part.name, part.pins);
    if Cache::has(&folder) {
        return Ok(folder);
    }
    let workspace = workspace.clone();
    blocking(move || {
        check_prerequisites(&cache, &[part])?;
        fetch_part(&workspace, &folder, part)?;
        Ok(folder)
    })
    .await
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StackError> + Send + 'static,
) -> Result<T, StackError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StackError::io("running a blocking step")(std::io::Error::other(error))),
    }
}

/// Every program that fetching (where the cache lacks something) or running the parts needs.
fn check_prerequisites(cache: &Cache, parts: &[Part]) -> Result<(), StackError> {
    let mut tools: Vec<Tool> = Vec::new();
    for part in parts {
        let fetch: &[Tool] = match part.client {
            _ if Cache::has(&cache.folder(part.name, part.pins)) => &[],
            Client::Maven => &[Tool::Maven],
            Client::MavenArchive => &[Tool::Maven, Tool::Tar],
            Client::Npm => &[Tool::Npm],
        };
        tools.extend(part.runs_on.iter().chain(fetch));
    }
    let mut known = Vec::new();
    tools.retain(|tool| {
        !known.contains(tool) && {
            known.push(*tool);
            true
        }
    });
    let missing: Vec<String> = std::thread::scope(|scope| {
        let checks: Vec<_> = tools.iter().map(|tool| scope.spawn(|| tool.check().err())).collect();
        checks.into_iter().filter_map(|check| check.join().ok().flatten()).collect()
    });
    if missing.is_empty() { Ok(()) } else { Err(StackError::Prerequisites(missing)) }
}

fn fetch_part(workspace: &Workspace, folder: &Path, part: Part) -> Result<(), StackError> {
    let cache = workspace.cache();
    let task = workspace.progress().begin(part.label, "fetching");
    let _lock = cache.lock(part.name, || task.now("waiting for another run that is fetching it"))?;
    if Cache::has(folder) {
        task.done("fetched by another run");
        return Ok(());
    }
    task.now("fetching");
    let scratch = cache.scratch(part.name)?;
    for (name, content) in part.pins {
        std::fs::write(scratch.join(name), content)
            .map_err(StackError::io(scratch.join(name).display().to_string()))?;
    }
    let files = match part.client {
        Client::Maven => fetch_with_maven(workspace, &scratch, part, &task)?,
        Client::MavenArchive => {
            let files = fetch_with_maven(workspace, &scratch, part, &task)?;
            unpack(&scratch, part)?;
            files
        }
        Client::Npm => fetch_with_npm(workspace, &scratch, part, &task)?,
    };
    Cache::publish(&scratch, folder)?;
    task.done(&format!("fetched {files}"));
    Ok(())
}

fn fetch_with_maven(workspace: &Workspace, scratch: &Path, part: Part, task: &Task) -> Result<String, StackError> {
    let mut command = Command::new(Tool::Maven.program());
    command.args(["--batch-mode", COPY_DEPENDENCIES, "-DoutputDirectory=libs"]);
    let mut seen = 0;
    run(workspace, scratch, part, command, |line| {
        if let Some(file) = downloaded(line) {
            seen += 1;
            task.now(format!("fetching: {seen} files, {file}"));
        }
    })?;
    verify(scratch, part)
}

fn fetch_with_npm(workspace: &Workspace, scratch: &Path, part: Part, task: &Task) -> Result<String, StackError> {
    let mut command = Command::new(Tool::Npm.program());
    // No scripts: neither package needs one, and nothing fetched runs before it is asked to.
    // Optional packages whatever the user's settings say: anvil's binary is one.
    command.args(["ci", "--ignore-scripts", "--include=optional", "--no-audit", "--no-fund", "--loglevel=http"]);
    let mut seen = 0;
    run(workspace, scratch, part, command, |line| {
        if line.contains("http fetch GET 200") {
            seen += 1;
            task.now(format!("fetching: {seen} files"));
        }
    })?;
    for file in [super::anvil::binary(scratch)?, super::bucket::script(scratch)] {
        if !file.is_file() {
            let why = format!("npm succeeded, but {} is not there", file.display());
            return Err(StackError::Fetch { part: part.label.to_owned(), why, log: workspace.cache().log(part.name) });
        }
    }
    Ok("and verified".to_owned())
}

/// The file name in a line of Maven that says it was downloaded.
fn downloaded(line: &str) -> Option<&str> {
    let (_, rest) = line.split_once("Downloaded from ")?;
    let url = rest.split_whitespace().find(|word| word.contains("://"))?;
    url.rsplit('/').next()
}

/// Runs a client in the scratch folder. Its output goes to the part's log and line by line to `each`.
fn run(
    workspace: &Workspace,
    scratch: &Path,
    part: Part,
    mut command: Command,
    mut each: impl FnMut(&str),
) -> Result<(), StackError> {
    let log = workspace.cache().log(part.name);
    let io = |what: &str| StackError::io(format!("{what} for {}", part.label));
    let mut file = File::create(&log).map_err(io("opening the log"))?;
    let (reader, writer) = std::io::pipe().map_err(io("making a pipe"))?;
    let errors = writer.try_clone().map_err(io("making a pipe"))?;
    let mut child = command
        .current_dir(scratch)
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(errors)
        .process_group(0)
        .spawn()
        .map_err(io("starting the client"))?;
    // A client that outlived its run would write into the next one's folder.
    workspace.reaper().watch(child.id())?;
    // `command` still holds the writing ends; the reader would wait for them for ever.
    drop(command);
    let mut said = Vec::new();
    for line in BufReader::new(reader).split(b'\n') {
        let line = line.map_err(io("reading the client's output"))?;
        let line = String::from_utf8_lossy(&line);
        writeln!(file, "{line}").map_err(io("writing the log"))?;
        each(&line);
        said.push(line.trim_end().to_owned());
    }
    let status = child.wait().map_err(io("waiting for the client"))?;
    workspace.reaper().forget(child.id());
    if status.success() {
        return Ok(());
    }
    Err(StackError::Fetch { part: part.label.to_owned(), why: condensed(&said), log })
}

/// What a client said when it failed: its error lines if it marks any, else its last lines.
fn condensed(said: &[String]) -> String {
    const SHOWN: usize = 6;
    let marked =
        |line: &&String| line.starts_with("[ERROR]") || line.starts_with("npm error") || line.starts_with("npm ERR!");
    let errors: Vec<&str> = said.iter().filter(marked).map(String::as_str).take(SHOWN).collect();
    let lines = if errors.is_empty() {
        said[said.len().saturating_sub(SHOWN)..].iter().map(String::as_str).collect()
    } else {
        errors
    };
    lines.join("\n")
}

/// Compares `libs/` with the pinned digests: every listed file there and unchanged, and no other.
fn verify(scratch: &Path, part: Part) -> Result<String, StackError> {
    let pins = part.pins.iter().find(|(name, _)| *name == "sha256").map_or("", |(_, content)| content);
    let pinned: BTreeMap<&str, &str> =
        pins.lines().filter_map(|line| line.split_once("  ")).map(|(a, b)| (b, a)).collect();
    let wrong = |file: &str, why: &str| StackError::Checksum {
        part: part.label.to_owned(),
        file: file.to_owned(),
        why: why.to_owned(),
    };
    let libs = scratch.join("libs");
    let io = || StackError::io(libs.display().to_string());
    let mut bytes = 0;
    let mut found = 0;
    for entry in std::fs::read_dir(&libs).map_err(io())? {
        let entry = entry.map_err(io())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let digest = pinned.get(name.as_str()).ok_or_else(|| wrong(&name, "it is not in the list of pinned files"))?;
        if sha256(&entry.path()).map_err(io())? != **digest {
            return Err(wrong(&name, "its SHA-256 differs"));
        }
        bytes += entry.metadata().map_err(io())?.len();
        found += 1;
    }
    if found != pinned.len() {
        return Err(wrong("libs", &format!("{found} files instead of {}", pinned.len())));
    }
    Ok(format!("{found} files, {} MB, and verified", bytes / 1_000_000))
}

fn sha256(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hex::encode(digest.finalize()));
        }
        digest.update(&buffer[..read]);
    }
}

fn unpack(scratch: &Path, part: Part) -> Result<(), StackError> {
    let libs = scratch.join("libs");
    let what = || StackError::io(format!("unpacking {}", part.label));
    for entry in std::fs::read_dir(&libs).map_err(what())? {
        let archive = entry.map_err(what())?.path();
        let status = Command::new(Tool::Tar.program())
            .arg("-xzf")
            .arg(&archive)
            .arg("-C")
            .arg(scratch)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .map_err(what())?;
        if !status.success() {
            return Err(what()(std::io::Error::other(format!("tar ended with {status}"))));
        }
    }
    std::fs::remove_dir_all(&libs).map_err(what())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part() -> Part {
        Part { pins: &[("sha256", PINS)], ..KAFKA }
    }

    const PINS: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a.jar\n";

    fn libs(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("libs")).unwrap();
        for (name, content) in files {
            std::fs::write(dir.path().join("libs").join(name), content).unwrap();
        }
        dir
    }

    #[test]
    fn the_pinned_file_is_accepted() {
        assert!(verify(libs(&[("a.jar", "abc")]).path(), part()).is_ok());
    }

    #[test]
    fn a_changed_a_missing_and_an_unknown_file_are_refused_by_name() {
        let changed = verify(libs(&[("a.jar", "abd")]).path(), part()).unwrap_err();
        assert!(changed.to_string().contains("a.jar") && changed.code() == "KC-0803", "{changed}");
        assert_eq!(verify(libs(&[]).path(), part()).unwrap_err().code(), "KC-0803");
        let unknown = verify(libs(&[("a.jar", "abc"), ("evil.jar", "")]).path(), part()).unwrap_err();
        assert!(unknown.to_string().contains("evil.jar"), "{unknown}");
    }

    #[test]
    fn of_a_failed_client_its_error_lines_are_shown() {
        let said: Vec<String> =
            ["[INFO] noise", "[ERROR] Failed to execute goal", "[INFO] more", "[ERROR] Unknown host"]
                .map(str::to_owned)
                .to_vec();
        assert_eq!(condensed(&said), "[ERROR] Failed to execute goal\n[ERROR] Unknown host");
        let plain: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        assert_eq!(condensed(&plain), "3\n4\n5\n6\n7\n8");
    }

    #[test]
    fn progress_is_read_from_the_words_of_maven() {
        let line = "[INFO] Downloaded from central: https://repo.example/a/kafka-clients-4.3.0.jar (9.9 MB at 30 MB/s)";
        assert_eq!(downloaded(line), Some("kafka-clients-4.3.0.jar"));
        assert_eq!(downloaded("[INFO] Downloading from central: https://repo.example/a.pom"), None);
    }

    #[test]
    fn no_pin_names_a_registry() {
        for part in [KAFKA, NPM, REGISTRY] {
            for (name, content) in part.pins {
                assert!(
                    !content.contains("\"resolved\"") && !content.contains("<repository>"),
                    "{} {name}",
                    part.label
                );
            }
        }
    }
}
