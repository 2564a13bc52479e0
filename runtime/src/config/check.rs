//! From the merged tree to the typed configuration: keys, types and ranges by the schema, then serde, then the rules.
//!
//! Each step replaces what it refuses by a stand-in, and drops what only a stand-in would cause.

use std::collections::BTreeMap;

use serde_path_to_error::Segment;

use super::problem::{Problem, Problems, at};
use super::schema::{Shape, View};
use super::tree::{Node, Origin, Path, Step, Value};
use super::{Configuration, ENVIRONMENT_PREFIX, layers};
use crate::codes;

/// Whether the rules between values are held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    Held,
    Ignored,
}

pub(super) fn into_typed<T: Configuration>(
    tree: &mut Node,
    schema: View<'_>,
    problems: &mut Vec<Problem>,
    rules: Rules,
) -> Option<T> {
    Walk { problems }.node(tree, schema, &Path::default());
    let config = deserialize::<T>(tree, schema, problems)?;
    if rules == Rules::Ignored {
        return Some(config);
    }
    let mut rules = Problems::default();
    config.validate(&mut rules);
    for (path, code, text) in rules.into_found() {
        if !rests_on_stand_in(tree, &path) {
            problems.push(at(code, &path, &tree.origin_near(&path), text));
        }
    }
    Some(config)
}

struct Walk<'p> {
    problems: &'p mut Vec<Problem>,
}

impl Walk<'_> {
    fn node(&mut self, node: &mut Node, schema: View<'_>, path: &Path) {
        if node.origin == Origin::StandIn {
            return;
        }
        match (schema.shape(), &mut node.value) {
            (Shape::Table(..), Value::Table(_)) => self.table(node, schema, path),
            (Shape::Map(values), Value::Table(entries)) => {
                for (key, inner) in entries.iter_mut() {
                    self.node(inner, values, &path.key(key));
                }
            }
            (Shape::Array(items), Value::Array(nodes)) => {
                let (length, origin) = (nodes.len() as f64, node.origin.clone());
                for (index, inner) in nodes.iter_mut().enumerate() {
                    self.node(inner, items, &path.join(Step::Index(index)));
                }
                self.limits(schema, path, &origin, length, ["minItems", "maxItems"], "entries");
            }
            (Shape::Text, Value::Text(text)) => {
                let length = text.chars().count() as f64;
                self.limits(schema, path, &node.origin, length, ["minLength", "maxLength"], "characters");
            }
            (Shape::Integer, Value::Integer(number)) => {
                let number = *number as f64;
                self.limits(schema, path, &node.origin, number, ["minimum", "maximum"], "");
            }
            (Shape::Number, Value::Integer(number)) => node.value = Value::Float(*number as f64),
            (Shape::Number, Value::Float(number)) => {
                let number = *number;
                self.limits(schema, path, &node.origin, number, ["minimum", "maximum"], "");
            }
            (Shape::Choice(choices), Value::Text(text)) => {
                if !choices.contains(&text.as_str()) {
                    let known = choices.iter().map(|one| format!("`{one}`")).collect::<Vec<_>>().join(", ");
                    let hint = did_you_mean(text, choices.iter().copied());
                    let problem = format!("`{text}` is not one of {known}{hint}");
                    self.refuse(node, schema, path, problem);
                }
            }
            (Shape::Secret, Value::Text(_)) | (Shape::Boolean, Value::Boolean(_)) | (Shape::Any, _) => {}
            (wanted, found) => {
                let text = format!("expected {}, found {}", noun(&wanted), found.noun());
                self.refuse(node, schema, path, text);
            }
        }
    }

    fn table(&mut self, node: &mut Node, schema: View<'_>, path: &Path) {
        let Shape::Table(fields, required) = schema.shape() else { return };
        let Value::Table(entries) = &mut node.value else { return };
        let unknown: Vec<String> = entries.keys().filter(|key| !fields.contains_key(key.as_str())).cloned().collect();
        for key in unknown {
            if let Some(found) = entries.remove(&key) {
                let hint = did_you_mean(&key, fields.keys().copied());
                let text = format!("unknown key{hint}");
                self.problems.push(at(&codes::CONFIG_UNKNOWN_KEY, &path.key(&key), &found.origin, text));
            }
        }
        for key in required {
            let Some(field) = fields.get(key) else { continue };
            if !entries.contains_key(key) {
                self.problems.push(missing(*field, &path.key(key), &node.origin));
                if let Some(stand_in) = field.stand_in() {
                    entries.insert(key.to_owned(), stand_in);
                }
            }
        }
        for (key, inner) in entries.iter_mut() {
            if let Some(field) = fields.get(key.as_str()) {
                self.node(inner, *field, &path.key(key));
            }
        }
    }

    fn limits(&mut self, schema: View<'_>, path: &Path, origin: &Origin, n: f64, keywords: [&str; 2], unit: &str) {
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        let [least, most] = keywords.map(|keyword| schema.number(keyword));
        if let Some(least) = least.filter(|least| n < *least) {
            self.problems.push(at(&codes::CONFIG_VALUE, path, origin, format!("{n}{unit} is below {least}")));
        } else if let Some(most) = most.filter(|most| n > *most) {
            self.problems.push(at(&codes::CONFIG_VALUE, path, origin, format!("{n}{unit} is above {most}")));
        }
    }

    fn refuse(&mut self, node: &mut Node, schema: View<'_>, path: &Path, text: String) {
        self.problems.push(at(&codes::CONFIG_VALUE, path, &node.origin, text));
        *node = schema.stand_in().unwrap_or_else(|| Node { origin: Origin::StandIn, value: node.value.clone() });
    }
}

fn missing(field: View<'_>, path: &Path, table: &Origin) -> Problem {
    let file_hint = field
        .in_file()
        .map(|_| format!(" (or, for a file that holds it, {path}{})", layers::SECRET_FILE_SUFFIX))
        .unwrap_or_default();
    let variable = path.0.iter().map(Step::to_text).collect::<Vec<_>>().join("__").to_uppercase();
    let text = format!(
        "required{file_hint}; set it in the file, as {ENVIRONMENT_PREFIX}{variable}, or with --set {}=…",
        path.dotted()
    );
    let origin = match table {
        Origin::Default => Origin::StandIn,
        set => set.clone(),
    };
    at(&codes::CONFIG_MISSING, path, &origin, text)
}

fn noun(shape: &Shape<'_>) -> &'static str {
    match shape {
        Shape::Table(..) | Shape::Map(_) => "a table",
        Shape::Array(_) => "a list",
        Shape::Text | Shape::Secret | Shape::Choice(_) => "a text",
        Shape::Integer => "an integer",
        Shape::Number => "a number",
        Shape::Boolean => "true or false",
        Shape::Any => "a value",
    }
}

/// Texts that take the place of a refused one: of the types that read themselves, one of them takes each.
const STAND_INS: [&str; 5] =
    ["http://127.0.0.1:1", "0x0000000000000000000000000000000000000001", "latest", "0", "auto"];

/// Types that read themselves (addresses, URLs) stop serde at their first mistake, so it is asked again until nothing
/// is left that can be replaced. A stand-in that its type refuses gives way to the next one, or it would hide every mistake
/// behind it.
fn deserialize<T: Configuration>(tree: &mut Node, schema: View<'_>, problems: &mut Vec<Problem>) -> Option<T> {
    const MISTAKES_SHOWN: usize = 1000;
    let mut tried: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..MISTAKES_SHOWN {
        let error = match serde_path_to_error::deserialize(tree.to_json()) {
            Ok(config) => return Some(config),
            Err(error) => error,
        };
        let path = deepest_existing(tree, &steps(error.path()));
        let place = schema.descend(&path);
        let is_secret = place.is_some_and(|view| matches!(view.shape(), Shape::Secret));
        let text = if is_secret { "not a valid secret".to_owned() } else { error.inner().to_string() };
        let origin = tree.origin_near(&path);
        if origin != Origin::StandIn {
            problems.push(at(&codes::CONFIG_VALUE, &path, &origin, text));
        } else if let Some(next) = next_stand_in(place, tried.entry(path.to_string()).or_default())
            && !problems.is_empty()
        {
            let node = tree.get_mut(&path)?;
            node.value = Value::Text(next.to_owned());
            continue;
        } else if problems.is_empty() {
            // A stand-in without any mistake before it is a fault of a default; it must not pass in silence.
            problems.push(at(&codes::CONFIG_VALUE, &path, &origin, text));
            return None;
        } else {
            return None;
        }
        if !replace(tree, &path, place) {
            return None;
        }
    }
    None
}

fn next_stand_in(place: Option<View<'_>>, tried: &mut usize) -> Option<&'static str> {
    if !matches!(place?.shape(), Shape::Text | Shape::Any) {
        return None;
    }
    *tried += 1;
    STAND_INS.get(*tried - 1).copied()
}

/// Puts a stand-in at `path`, or takes the value away where the type can do without it.
fn replace(tree: &mut Node, path: &Path, place: Option<View<'_>>) -> bool {
    let (Some(view), Some((last, parents))) = (place, path.0.split_last()) else { return false };
    let Some(parent) = tree.get_mut(&Path(parents.to_vec())) else { return false };
    match (&mut parent.value, last, view.stand_in()) {
        (Value::Table(entries), Step::Key(key), Some(node)) => entries.insert(key.clone(), node).is_some(),
        (Value::Table(entries), Step::Key(key), None) => entries.remove(key).is_some(),
        (Value::Array(items), Step::Index(index), Some(node)) if *index < items.len() => {
            items[*index] = node;
            true
        }
        _ => false,
    }
}

fn steps(path: &serde_path_to_error::Path) -> Path {
    let read = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    Path(path.iter().map_while(read).collect())
}

fn deepest_existing(tree: &Node, path: &Path) -> Path {
    let mut existing = path.clone();
    while tree.get(&existing).is_none() && existing.0.pop().is_some() {}
    existing
}

fn rests_on_stand_in(tree: &Node, path: &Path) -> bool {
    let mut stand_ins = Vec::new();
    collect_stand_ins(tree, &Path::default(), &mut stand_ins);
    stand_ins.iter().any(|stand_in| stand_in.touches(path))
}

fn collect_stand_ins(node: &Node, path: &Path, found: &mut Vec<Path>) {
    if node.origin == Origin::StandIn {
        found.push(path.clone());
        return;
    }
    match &node.value {
        Value::Table(entries) => {
            entries.iter().for_each(|(key, inner)| collect_stand_ins(inner, &path.key(key), found));
        }
        Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                collect_stand_ins(inner, &path.join(Step::Index(index)), found);
            }
        }
        _ => {}
    }
}

/// `; did you mean …?`, or nothing.
fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> String {
    let best = known.map(|candidate| (distance(word, candidate), candidate)).min();
    match best {
        Some((distance, candidate)) if distance <= 1 + word.len() / 4 => format!("; did you mean `{candidate}`?"),
        _ => String::new(),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
