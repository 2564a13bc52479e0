//! The layers and how they become one tree.

use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};

use serde_json::Value as Json;
use toml::de::{DeInteger, DeTable, DeValue};

use super::problem::{Problem, at};
use super::schema::{InFile, Shape, View};
use super::tree::{Node, Origin, Path, Step, Value};
use crate::codes;

/// Every environment variable that starts so is a configuration key, except a few of the program itself.
pub const ENVIRONMENT_PREFIX: &str = "KMS_CONNECTOR_";

/// Variables that the command line reads itself.
const RESERVED: [&str; 1] = ["KMS_CONNECTOR_CONFIG"];

/// What ends the name of a key that names a file with a secret.
pub(super) const SECRET_FILE_SUFFIX: &str = "_file";

/// Where a configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The TOML file, if there is one.
    pub file: Option<PathBuf>,
    /// Environment variables; those without [`ENVIRONMENT_PREFIX`] are ignored.
    pub environment: Vec<(String, String)>,
    /// `key=value` of every `--set` flag, in order.
    pub set: Vec<String>,
}

impl Sources {
    /// A file, and the environment of this process.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, set: Vec<String>) -> Self {
        let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        let environment = std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value))).collect();
        Self { file, environment, set }
    }
}

/// A single value of the environment or of a flag.
struct Assignment {
    path: Path,
    text: String,
    origin: Origin,
}

pub(super) fn merge(sources: &Sources, schema: View<'_>, problems: &mut Vec<Problem>) -> Node {
    let mut tree = match &sources.file {
        Some(path) => read_file(path, problems),
        None => Node::empty_table(Origin::Default),
    };
    for assignment in from_environment(&sources.environment).into_iter().chain(from_flags(&sources.set, problems)) {
        assign(&mut tree, schema, assignment, problems);
    }
    tree
}

fn read_file(path: &FilePath, problems: &mut Vec<Problem>) -> Node {
    let whole_file = Origin::File { path: path.to_owned(), line: 1 };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            problems.push(at(&codes::CONFIG_FILE, &Path::default(), &whole_file, format!("cannot be read: {error}")));
            return Node::empty_table(whole_file);
        }
    };
    let (table, errors) = DeTable::parse_recoverable(&text);
    let file = SourceFile { path, text: &text };
    for error in errors {
        let origin = file.origin(error.span().map_or(0, |span| span.start));
        problems.push(at(&codes::CONFIG_SYNTAX, &Path::default(), &origin, error.message().trim().replace('\n', ", ")));
    }
    file.table(table.get_ref(), whole_file)
}

/// Fills in what a table that is set only in part would otherwise take from its type, where the table around it has another
/// default. (serde asks the type alone.)
pub(super) fn inherit_defaults(node: &mut Node, schema: View<'_>, given: Option<&Json>) {
    let (Shape::Table(fields, _), Value::Table(entries)) = (schema.shape(), &mut node.value) else { return };
    for (key, field) in fields {
        let default = field.default_within(key, given);
        match entries.get_mut(key) {
            Some(inner) => inherit_defaults(inner, field, default),
            None if default != field.default() => {
                let inherited = default.and_then(|default| Node::from_json(default, &Origin::Default));
                entries.extend(inherited.map(|node| (key.to_owned(), node)));
            }
            None => {}
        }
    }
}

struct SourceFile<'a> {
    path: &'a FilePath,
    text: &'a str,
}

impl SourceFile<'_> {
    fn origin(&self, byte: usize) -> Origin {
        let before = &self.text.as_bytes()[..byte.min(self.text.len())];
        let line = 1 + before.iter().filter(|one| **one == b'\n').count();
        Origin::File { path: self.path.to_owned(), line }
    }

    fn table(&self, table: &DeTable<'_>, origin: Origin) -> Node {
        let mut entries = BTreeMap::new();
        for (key, value) in table.iter() {
            let here = self.origin(key.span().start);
            entries.insert(key.get_ref().to_string(), self.value(value.get_ref(), here));
        }
        Node { origin, value: Value::Table(entries) }
    }

    fn value(&self, value: &DeValue<'_>, origin: Origin) -> Node {
        let value = match value {
            DeValue::String(text) => Value::Text(text.to_string()),
            DeValue::Integer(number) => integer(number),
            DeValue::Float(number) => Value::Float(number.as_str().replace('_', "").parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => Value::Boolean(*flag),
            DeValue::Datetime(moment) => Value::Text(moment.to_string()),
            DeValue::Array(items) => Value::Array(
                items.iter().map(|item| self.value(item.get_ref(), self.origin(item.span().start))).collect(),
            ),
            DeValue::Table(table) => return self.table(table, origin),
        };
        Node { origin, value }
    }
}

fn integer(number: &DeInteger<'_>) -> Value {
    let digits = number.as_str().replace('_', "");
    i128::from_str_radix(&digits, number.radix()).map_or_else(|_| Value::Text(digits), Value::Integer)
}

fn from_environment(variables: &[(String, String)]) -> Vec<Assignment> {
    let ours = variables.iter().filter(|(name, _)| !RESERVED.contains(&name.as_str()));
    let mut assignments: Vec<Assignment> = ours
        .filter_map(|(name, value)| {
            let key = name.strip_prefix(ENVIRONMENT_PREFIX)?.to_lowercase();
            let path = Path(key.split("__").map(Step::read).collect());
            Some(Assignment { path, text: value.clone(), origin: Origin::Environment(name.clone()) })
        })
        .collect();
    // List items are appended in order, so item 2 must come before item 10.
    assignments.sort_by(|a, b| a.path.0.cmp(&b.path.0));
    assignments
}

fn from_flags(flags: &[String], problems: &mut Vec<Problem>) -> Vec<Assignment> {
    let mut assignments = Vec::new();
    for flag in flags {
        let Some((key, value)) = flag.split_once('=') else {
            // The value of a malformed flag may be a secret: only what stands before any sign of one is shown.
            let origin = Origin::Flag("…".to_owned());
            problems.push(at(&codes::CONFIG_SYNTAX, &Path::default(), &origin, "expected `section.key=value`"));
            continue;
        };
        let origin = Origin::Flag(key.trim().to_owned());
        assignments.push(Assignment { path: Path::parse(key.trim()), text: value.to_owned(), origin });
    }
    assignments
}

fn assign(tree: &mut Node, schema: View<'_>, assignment: Assignment, problems: &mut Vec<Problem>) {
    let Assignment { path, text, origin } = assignment;
    let path = with_whole_keys(path, schema);
    let value = typed(&text, schema.descend(&path), &origin);
    let Some((last, parents)) = path.0.split_last() else {
        problems.push(at(&codes::CONFIG_SYNTAX, &path, &origin, "names no key"));
        return;
    };
    let mut node = tree;
    for (depth, step) in parents.iter().enumerate() {
        let next_is_index = matches!(path.0[depth + 1], Step::Index(_));
        match open(node, step, next_is_index, &origin) {
            Some(inner) => node = inner,
            None => return problems.push(misplaced(&path, depth, &origin)),
        }
    }
    let leaf = Node { origin: origin.clone(), value };
    match (&mut node.value, last) {
        (Value::Table(entries), step) => {
            entries.insert(step.to_text(), leaf);
        }
        (Value::Array(items), Step::Index(index)) if *index < items.len() => items[*index] = leaf,
        (Value::Array(items), Step::Index(index)) if *index == items.len() => items.push(leaf),
        _ => problems.push(misplaced(&path, parents.len(), &origin)),
    }
}

/// In a table with any keys the rest of the path is one key, dots and all: `kafka.properties.socket.timeout.ms`.
fn with_whole_keys(path: Path, schema: View<'_>) -> Path {
    let mut view = schema;
    for (depth, step) in path.0.iter().enumerate() {
        view = match (view.shape(), step) {
            (Shape::Map(values), _) if !matches!(values.shape(), Shape::Table(..) | Shape::Map(_)) => {
                let (known, rest) = path.0.split_at(depth);
                return Path(known.to_vec()).key(&Path(rest.to_vec()).dotted());
            }
            (Shape::Map(values), Step::Key(_)) => values,
            (Shape::Table(fields, _), Step::Key(key)) => match fields.get(key.as_str()) {
                Some(field) => *field,
                None => return path,
            },
            (Shape::Array(items), Step::Index(_)) => items,
            _ => return path,
        };
    }
    path
}

/// The container at `step`, made if it is not there; `None` if it cannot be.
fn open<'n>(node: &'n mut Node, step: &Step, is_list: bool, origin: &Origin) -> Option<&'n mut Node> {
    let fresh = || Node {
        origin: origin.clone(),
        value: if is_list { Value::Array(Vec::new()) } else { Value::Table(BTreeMap::new()) },
    };
    match (&mut node.value, step) {
        (Value::Table(entries), step) => Some(entries.entry(step.to_text()).or_insert_with(fresh)),
        (Value::Array(items), Step::Index(index)) => {
            if *index == items.len() {
                items.push(fresh());
            }
            items.get_mut(*index)
        }
        _ => None,
    }
}

fn misplaced(path: &Path, depth: usize, origin: &Origin) -> Problem {
    let step = path.0[depth].to_text();
    let text = format!("`{step}` cannot be set there: lists are filled in order from 0, and plain values hold nothing");
    at(&codes::CONFIG_UNKNOWN_KEY, path, origin, text)
}

/// Reads a text as the type that the schema wants; what does not fit stays a text and is refused by the check.
fn typed(text: &str, schema: Option<View<'_>>, origin: &Origin) -> Value {
    let Some(schema) = schema else { return Value::Text(text.to_owned()) };
    let as_toml = || inline(text, origin).unwrap_or_else(|| Value::Text(text.to_owned()));
    match schema.shape() {
        Shape::Text | Shape::Secret | Shape::Choice(_) => Value::Text(text.to_owned()),
        Shape::Integer => {
            text.trim().replace('_', "").parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Integer)
        }
        Shape::Number => text.trim().parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Float),
        Shape::Boolean => text.trim().parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Boolean),
        Shape::Array(items) if !text.trim_start().starts_with('[') => {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            let nodes = parts.map(|part| Node { origin: origin.clone(), value: typed(part, Some(items), origin) });
            Value::Array(nodes.collect())
        }
        Shape::Array(_) | Shape::Table(..) | Shape::Map(_) | Shape::Any => as_toml(),
    }
}

fn inline(text: &str, origin: &Origin) -> Option<Value> {
    let parsed = DeValue::parse(text).ok()?;
    let file = SourceFile { path: FilePath::new(""), text };
    let mut node = file.value(parsed.get_ref(), origin.clone());
    set_origin(&mut node, origin);
    Some(node.value)
}

fn set_origin(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    match &mut node.value {
        Value::Array(items) => items.iter_mut().for_each(|item| set_origin(item, origin)),
        Value::Table(entries) => entries.values_mut().for_each(|entry| set_origin(entry, origin)),
        _ => {}
    }
}

/// Replaces every `name_file` of a secret, or of a list of URLs, by `name` with the file's content.
pub(super) fn read_secret_files(
    node: &mut Node,
    schema: View<'_>,
    config_file: Option<&FilePath>,
    problems: &mut Vec<Problem>,
) {
    let folder = config_file.and_then(FilePath::parent).unwrap_or(FilePath::new("")).to_owned();
    read_secret_files_at(node, schema, &folder, &Path::default(), problems);
}

fn read_secret_files_at(
    node: &mut Node,
    schema: View<'_>,
    folder: &FilePath,
    path: &Path,
    problems: &mut Vec<Problem>,
) {
    match (schema.shape(), &mut node.value) {
        (Shape::Table(fields, _), Value::Table(entries)) => {
            for (key, field) in fields {
                if let Some(form) = field.in_file() {
                    read_secret_file(entries, key, form, folder, path, problems);
                } else if let Some(inner) = entries.get_mut(key) {
                    read_secret_files_at(inner, field, folder, &path.key(key), problems);
                }
            }
        }
        (Shape::Map(values), Value::Table(entries)) => {
            for (key, inner) in entries.iter_mut() {
                read_secret_files_at(inner, values, folder, &path.key(key), problems);
            }
        }
        (Shape::Array(items), Value::Array(nodes)) => {
            for (index, inner) in nodes.iter_mut().enumerate() {
                read_secret_files_at(inner, items, folder, &path.join(Step::Index(index)), problems);
            }
        }
        _ => {}
    }
}

fn read_secret_file(
    entries: &mut BTreeMap<String, Node>,
    key: &str,
    form: InFile,
    folder: &FilePath,
    path: &Path,
    problems: &mut Vec<Problem>,
) {
    let file_key = format!("{key}{SECRET_FILE_SUFFIX}");
    let Some(named) = entries.remove(&file_key) else { return };
    let here = path.key(&file_key);
    let refuse = |text: String| at(&codes::CONFIG_SECRET_FILE, &here, &named.origin, text);
    // Something must stand there, or the secret would be reported as missing too.
    let text = |text: &str, origin: &Origin| Node { origin: origin.clone(), value: Value::Text(text.to_owned()) };
    let stand_in = match form {
        InFile::Whole => text("", &Origin::StandIn),
        InFile::Lines => {
            let one = text("http://127.0.0.1:1", &Origin::StandIn);
            Node { origin: Origin::StandIn, value: Value::Array(vec![one]) }
        }
    };
    if entries.contains_key(key) {
        problems.push(refuse(format!("both `{key}` and `{file_key}` are set")));
        return;
    }
    let Value::Text(file) = &named.value else {
        problems.push(refuse(format!("expected a path, found {}", named.value.noun())));
        entries.insert(key.to_owned(), stand_in);
        return;
    };
    let full = match &named.origin {
        Origin::File { .. } => folder.join(file),
        _ => PathBuf::from(file),
    };
    match std::fs::read_to_string(&full) {
        Ok(content) => {
            let origin = named.origin;
            let node = match form {
                InFile::Whole => text(content.trim(), &origin),
                InFile::Lines => {
                    let lines = content.lines().map(str::trim).filter(|line| !line.is_empty());
                    let value = Value::Array(lines.map(|line| text(line, &origin)).collect());
                    Node { origin, value }
                }
            };
            entries.insert(key.to_owned(), node);
        }
        Err(error) => {
            problems.push(refuse(format!("{}: {error}", full.display())));
            entries.insert(key.to_owned(), stand_in);
        }
    }
}
