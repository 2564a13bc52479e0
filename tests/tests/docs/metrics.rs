//! `docs/metrics.md`, from the sources: which metrics are described, and which are recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::markdown::{head, row, sentence};
use crate::repository::{crates, document, files, hold, none, read, root};
use crate::rust_source::{calls, constants, literal, literals, without_tests};

const KINDS: [&str; 3] = ["counter", "gauge", "histogram"];
const PREFIX: &str = "kms_connector_";

#[derive(Debug)]
struct Metric {
    kind: &'static str,
    origin: String,
    help: String,
}

/// The sources of one crate, without tests, and its string constants.
struct Sources {
    name: String,
    texts: Vec<String>,
    constants: BTreeMap<String, String>,
}

impl Sources {
    fn of(folder: &Path) -> Self {
        let all = files(&[".rs"]);
        let own = all.iter().filter(|file| file.starts_with(folder.join("src")));
        let texts: Vec<String> = own.map(|file| without_tests(&read(file)).to_owned()).collect();
        let constants = texts.iter().flat_map(|text| constants(text)).collect();
        let name = folder.strip_prefix(root()).unwrap_or(folder).display().to_string();
        Self { name, texts, constants }
    }

    /// A metric's name, as a literal or by a constant.
    fn name_of(&self, argument: &str) -> Option<String> {
        literal(argument).or_else(|| self.constants.get(argument).cloned())
    }

    fn described(&self) -> Vec<(String, Metric)> {
        let mut found = Vec::new();
        for (text, kind) in self.texts.iter().flat_map(|text| KINDS.map(|kind| (text, kind))) {
            // Functions that describe may import the macros under shorter names.
            let inside = functions(text, "describe").flat_map(|body| calls(body, kind));
            let plain = calls(text, &format!("describe_{kind}"));
            for arguments in plain.into_iter().chain(inside) {
                let name = arguments.first().and_then(|argument| self.name_of(argument));
                let help = arguments.last().and_then(|argument| literal(argument));
                let (Some(name), Some(help)) = (name, help) else {
                    panic!("{}: cannot read the description of a {kind}: {}", self.name, arguments.join(", "));
                };
                found.push((name, Metric { kind, origin: self.name.clone(), help }));
            }
        }
        found
    }

    /// Names that are written anywhere but in a description.
    fn recorded(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for text in &self.texts {
            let mut text = text.clone();
            for body in functions(&text.clone(), "describe") {
                text = text.replace(body, "");
            }
            let described = KINDS.iter().flat_map(|kind| calls(&text, &format!("describe_{kind}")));
            let described: Vec<String> = described.filter_map(|arguments| arguments.into_iter().next()).collect();
            let times = |name: &String| described.iter().filter(|other| *other == name).count();
            for (constant, value) in self.constants.iter().filter(|(_, value)| is_metric(value)) {
                let definition = format!("const {constant}: &str = \"{value}\";");
                text = text.replace(&definition, "");
                if words(&text, constant) > times(constant) {
                    found.insert(value.clone());
                }
            }
            let names: BTreeSet<&str> =
                literals(&text).into_iter().map(|(_, text)| text).filter(|text| is_metric(text)).collect();
            for name in names {
                let written = format!("\"{name}\"");
                if text.matches(&written).count() > times(&written) {
                    found.insert(name.to_owned());
                }
            }
        }
        found
    }
}

/// The bodies of the functions of a name.
fn functions<'a>(source: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let opening = format!("fn {name}() {{\n");
    let starts: Vec<usize> = source.match_indices(&opening).map(|(at, found)| at + found.len()).collect();
    starts.into_iter().map(|at| source[at..].split_once("\n}").map_or("", |(body, _)| body))
}

fn is_metric(text: &str) -> bool {
    text.strip_prefix(PREFIX).is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    })
}

/// How often a word stands in a text.
fn words(text: &str, word: &str) -> usize {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let found = text.match_indices(word);
    found.filter(|(at, _)| !text[..*at].ends_with(is_part) && !text[at + word.len()..].starts_with(is_part)).count()
}

fn catalogue() -> BTreeMap<String, Metric> {
    let mut catalogue = BTreeMap::new();
    for (name, metric) in crates().iter().flat_map(|folder| Sources::of(folder).described()) {
        let origin = metric.origin.clone();
        if let Some(other) = catalogue.insert(name.clone(), metric) {
            panic!("{name} is described in {} and in {origin}", other.origin);
        }
    }
    catalogue
}

#[test]
fn the_metric_table_is_what_the_sources_describe() {
    let mut table = head(&["metric", "type", "in", "meaning"]);
    for (name, metric) in catalogue() {
        table += &row([&*format!("`{name}`"), metric.kind, &metric.origin, &sentence(&metric.help)]);
    }
    hold(&document("metrics.md"), "metrics", &table);
}

#[test]
fn every_metric_is_described_and_every_described_one_is_recorded() {
    let described = catalogue();
    let recorded: BTreeSet<String> = crates().iter().flat_map(|folder| Sources::of(folder).recorded()).collect();
    let undescribed = recorded.iter().filter(|name| !described.contains_key(*name));
    let unrecorded = described.keys().filter(|name| !recorded.contains(*name));
    let mut complaints: Vec<String> = undescribed.map(|name| format!("{name} has no help text")).collect();
    complaints.extend(unrecorded.map(|name| format!("{name} is described and never recorded")));
    none(&complaints);
}

#[test]
fn names_of_metrics_tell_their_type_and_unit() {
    let complaints = catalogue().into_iter().filter_map(|(name, metric)| {
        let is_right = match metric.kind {
            "counter" => name.ends_with("_total"),
            "histogram" => name.ends_with("_seconds") || name.ends_with("_bytes") || name.ends_with("_records"),
            _ => !name.ends_with("_total"),
        };
        (!is_metric(&name) || !is_right).then(|| format!("{name} is no name for a {}", metric.kind))
    });
    none(&complaints.collect::<Vec<_>>());
}
