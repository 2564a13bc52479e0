//! The files of this repository.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use kms_runtime::config::check_generated_block;

/// Folders that hold what others wrote or what is built.
const FOREIGN: [&str; 3] = ["target", "node_modules", ".git"];

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the repository")
}

/// Every own file with one of these endings, sorted.
pub(crate) fn files(endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    walk(root(), endings, &mut found);
    found.sort();
    found
}

fn walk(folder: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let path = entry.expect("a folder's entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !FOREIGN.contains(&name.as_str()) {
                walk(&path, endings, found);
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

/// The folders of the workspace's crates.
pub(crate) fn crates() -> Vec<PathBuf> {
    let members = workspace()["members"].as_array().expect("members").clone();
    members.iter().map(|member| root().join(member.as_str().expect("a path"))).collect()
}

/// The `[workspace]` table of the root manifest.
pub(crate) fn workspace() -> toml::Table {
    let manifest: toml::Table = read(&root().join("Cargo.toml")).parse().expect("the root manifest is TOML");
    manifest["workspace"].as_table().expect("[workspace]").clone()
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A document of `docs/`.
pub(crate) fn document(name: &str) -> PathBuf {
    root().join("docs").join(name)
}

/// A file's path within the repository, for messages.
pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Fails unless the block of a document is what was generated; writes it with `UPDATE_DOCS=1`.
pub(crate) fn hold(file: &Path, block: &str, generated: &str) {
    // Tests run side by side, and two of them may write blocks of one document.
    static WRITING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Err(error) = check_generated_block(file, block, generated) {
        panic!("{error}");
    }
}

/// Fails with every complaint.
pub(crate) fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}
