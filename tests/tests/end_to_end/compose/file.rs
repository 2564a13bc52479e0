//! `compose/compose.yaml` as a container engine reads it: merged, with the settings of `.env` in place of the variables.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

/// A container of the file.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) command: Vec<String>,
    pub(super) environment: BTreeMap<String, String>,
    /// What is told of its health; empty: nothing, or it is switched off.
    pub(super) healthcheck: Vec<String>,
    pub(super) profiles: Vec<String>,
    pub(super) ports: Vec<String>,
    /// Everything.
    pub(super) all: Value,
}

/// The folder `compose` of the repository.
pub(super) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../compose")
}

/// The settings of `.env`. An environment variable of the engine would go before them; here none does.
pub(crate) fn settings() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(folder().join(".env")).unwrap();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned())).unwrap()).collect()
}

/// The whole file.
pub(super) fn document() -> Value {
    let text = std::fs::read_to_string(folder().join("compose.yaml")).unwrap();
    let document: Value = serde_saphyr::from_str(&text).unwrap();
    filled_in(&document, &settings())
}

/// Every container, whatever its profile.
pub(super) fn containers() -> Vec<Container> {
    let document = document();
    document["services"].as_object().unwrap().iter().map(|(name, all)| container(name, all)).collect()
}

fn container(name: &str, all: &Value) -> Container {
    let words = |value: &Value| value.as_array().into_iter().flatten().map(word).collect::<Vec<_>>();
    let environment = all["environment"].as_object().into_iter().flatten();
    let check = words(&all["healthcheck"]["test"]);
    Container {
        name: name.to_owned(),
        image: word(&all["image"]),
        command: words(&all["command"]),
        environment: environment.map(|(key, value)| (key.clone(), word(value))).collect(),
        healthcheck: if all["healthcheck"]["disable"] == true { Vec::new() } else { check },
        profiles: words(&all["profiles"]),
        ports: words(&all["ports"]),
        all: all.clone(),
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The same with every `${NAME}` and `${NAME:?}` replaced.
fn filled_in(value: &Value, settings: &BTreeMap<String, String>) -> Value {
    match value {
        Value::String(text) => Value::String(replaced(text, settings)),
        Value::Array(items) => items.iter().map(|item| filled_in(item, settings)).collect(),
        Value::Object(map) => map.iter().map(|(key, item)| (key.clone(), filled_in(item, settings))).collect(),
        other => other.clone(),
    }
}

fn replaced(text: &str, settings: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, after) = after.split_once('}').unwrap_or_else(|| panic!("{text}: a variable without end"));
        let (name, needed) = name.strip_suffix(":?").map_or((name, false), |name| (name, true));
        let value = settings.get(name).unwrap_or_else(|| panic!("{name} is used in compose.yaml and not set in .env"));
        assert!(!(needed && value.is_empty()), "{name} is needed in compose.yaml and empty in .env");
        out += before;
        out += value;
        rest = after;
    }
    out + rest
}
