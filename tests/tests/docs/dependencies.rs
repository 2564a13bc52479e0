//! `docs/dependencies.md`, and the licences of everything that is built or fetched.

use std::collections::BTreeMap;
use std::process::Command;

use crate::licences::{is_permissive, normal};
use crate::repository::{document, none, read, root, workspace};

/// npm packages whose manifest has no `license` field of today's form, with what their files say.
const UNNAMED_IN_LOCK: [(&str, &str); 5] =
    [("busboy", "MIT"), ("dicer", "MIT"), ("humanize-number", "MIT"), ("only", "MIT"), ("streamsearch", "MIT")];

fn cargo(arguments: &[&str]) -> String {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(program).current_dir(root()).args(arguments).output().expect("cargo");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo writes text")
}

/// Name, version and licence of every package that is built for any platform and with any feature of ours.
fn built() -> Vec<(String, String, String)> {
    let tree = cargo(&[
        "tree",
        "--workspace",
        "--all-features",
        "--target=all",
        "--edges=normal,build,dev",
        "--prefix=none",
        "--format={p}\t{l}",
    ]);
    let third_party = tree.lines().filter(|line| !line.is_empty() && !line.contains(&root().display().to_string()));
    let parsed = third_party.map(|line| {
        let (package, licence) = line.split_once('\t').expect("two columns");
        let (name, version) = package.split_once(" v").expect("name and version");
        let version = version.split(' ').next().unwrap_or_default();
        (name.to_owned(), version.to_owned(), licence.trim_end_matches(" (*)").trim().to_owned())
    });
    let mut all: Vec<_> = parsed.collect();
    all.sort();
    all.dedup();
    all
}

#[test]
fn nothing_that_is_built_has_a_copyleft_licence() {
    let built = built();
    assert!(built.len() > 100, "only {} packages were found, so the search is broken", built.len());
    let refused = built.iter().filter(|(_, _, licence)| !is_permissive(licence));
    none(&refused.map(|(name, version, licence)| format!("{name} {version}: {licence:?}")).collect::<Vec<_>>());
}

#[test]
fn nothing_that_npm_fetches_for_the_stack_has_a_copyleft_licence() {
    let lock: serde_json::Value =
        serde_json::from_str(&read(&root().join("compose/parts/package-lock.json"))).expect("JSON");
    let packages = lock["packages"].as_object().expect("packages");
    let mut complaints = Vec::new();
    for (path, package) in packages.iter().filter(|(path, _)| !path.is_empty()) {
        let name = path.rsplit("node_modules/").next().unwrap_or_default();
        let known = UNNAMED_IN_LOCK.iter().find(|(unnamed, _)| *unnamed == name).map(|(_, licence)| *licence);
        let licence = package["license"].as_str().or(known).unwrap_or_default();
        if !is_permissive(licence) {
            complaints.push(format!("{name}: {licence:?}"));
        }
    }
    none(&complaints);
}

/// The rows of the table of crates: name and licence.
fn documented() -> BTreeMap<String, String> {
    let text = read(&document("dependencies.md"));
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| `")?.split(" | ").collect();
        let [name, _, _, licence] = cells[..] else { return None };
        Some((name.trim_end_matches('`').to_owned(), licence.trim_end_matches('|').trim().to_owned()))
    });
    rows.collect()
}

#[test]
fn every_dependency_has_its_line_with_its_licence() {
    let workspace = workspace();
    let dependencies = workspace["dependencies"].as_table().expect("[workspace.dependencies]");
    let is_own = |entry: &toml::Value| entry.get("path").is_some();
    let documented = documented();
    let built = built();
    let mut complaints = Vec::new();
    for (name, _) in dependencies.iter().filter(|(_, entry)| !is_own(entry)) {
        let Some(stated) = documented.get(name) else {
            complaints.push(format!("{name} has no line in docs/dependencies.md"));
            continue;
        };
        let licences: Vec<String> =
            built.iter().filter(|(built, _, _)| built == name).map(|(_, _, licence)| normal(licence)).collect();
        if !licences.contains(stated) {
            complaints.push(format!("{name}: docs/dependencies.md says {stated:?}, the package {licences:?}"));
        }
    }
    let gone = documented.keys().filter(|name| dependencies.get(*name).is_none_or(is_own));
    complaints.extend(gone.map(|name| format!("{name} in docs/dependencies.md is no dependency")));
    none(&complaints);
}
