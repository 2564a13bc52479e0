//! The effective configuration as TOML with origins.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::tree::{Node, Path, Step};

pub(super) fn to_toml<T: Serialize>(config: &T, tree: &Node) -> String {
    let mut out = String::new();
    match serde_json::to_value(config) {
        Ok(Json::Object(entries)) => Printer { tree, out: &mut out }.table(&entries, &Path::default()),
        Ok(_) => {}
        Err(error) => {
            let _ = writeln!(out, "# cannot be printed: {error}");
        }
    }
    out
}

struct Printer<'a> {
    tree: &'a Node,
    out: &'a mut String,
}

impl Printer<'_> {
    fn table(&mut self, entries: &Map<String, Json>, path: &Path) {
        for (key, value) in entries.iter().filter(|(_, value)| !is_section(value) && !value.is_null()) {
            let here = path.key(key);
            let _ = writeln!(self.out, "{} = {}  # {}", bare(key), inline(value), self.tree.origin_at(&here));
        }
        for (key, value) in entries.iter().filter(|(_, value)| is_section(value)) {
            self.section(&path.key(key), value);
        }
    }

    fn section(&mut self, path: &Path, value: &Json) {
        let name = header(path);
        match value {
            Json::Object(entries) if entries.is_empty() => {}
            Json::Object(entries) => {
                let _ = writeln!(self.out, "\n[{name}]");
                self.table(entries, path);
            }
            Json::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let _ = writeln!(self.out, "\n[[{name}]]");
                    if let Json::Object(entries) = item {
                        self.table(entries, &path.join(Step::Index(index)));
                    }
                }
            }
            _ => {}
        }
    }
}

fn is_section(value: &Json) -> bool {
    match value {
        Json::Object(_) => true,
        Json::Array(items) => items.first().is_some_and(Json::is_object),
        _ => false,
    }
}

fn header(path: &Path) -> String {
    let keys = path.0.iter().filter_map(|step| match step {
        Step::Key(key) => Some(bare(key)),
        Step::Index(_) => None,
    });
    keys.collect::<Vec<_>>().join(".")
}

fn bare(key: &str) -> String {
    let plain = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if plain { key.to_owned() } else { quoted(key) }
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A value on one line.
pub(super) fn inline(value: &Json) -> String {
    match value {
        Json::Null => "none".to_owned(),
        Json::Bool(flag) => flag.to_string(),
        Json::Number(number) => number.to_string(),
        Json::String(text) => quoted(text),
        Json::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Json::Object(entries) => {
            let inner: Vec<String> =
                entries.iter().map(|(key, value)| format!("{} = {}", bare(key), inline(value))).collect();
            if inner.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", inner.join(", ")) }
        }
    }
}
