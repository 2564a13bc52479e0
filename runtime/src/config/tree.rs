//! The merged values, each with its origin.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::{Number, Value as Json};

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the default of the struct.
    Default,
    /// A line of the configuration file.
    File {
        /// The file as given.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A `--set` flag, with its key.
    Flag(String),
    /// Stands in for a value that was refused, so that the check can go on.
    StandIn,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(key) => write!(f, "--set {key}"),
            Self::StandIn => f.write_str("not set"),
        }
    }
}

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Where a value stands in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path(pub(super) Vec<Step>);

impl Path {
    /// Reads `a.b.0.c` and `a.b[0].c`.
    pub(super) fn parse(text: &str) -> Self {
        let dotted = text.replace('[', ".").replace(']', "");
        Self(dotted.split('.').filter(|part| !part.is_empty()).map(Step::read).collect())
    }

    pub(super) fn join(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    pub(super) fn key(&self, key: &str) -> Self {
        self.join(Step::Key(key.to_owned()))
    }

    /// One of the two lies inside the other, or they are equal.
    pub(super) fn touches(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(a, b)| a == b)
    }

    /// The path as it is written after `--set`.
    pub(super) fn dotted(&self) -> String {
        let parts: Vec<String> = self.0.iter().map(Step::to_text).collect();
        parts.join(".")
    }
}

impl Step {
    pub(super) fn read(part: &str) -> Self {
        part.parse().map_or_else(|_| Self::Key(part.to_owned()), Self::Index)
    }

    pub(super) fn to_text(&self) -> String {
        match self {
            Self::Key(key) => key.clone(),
            Self::Index(index) => index.to_string(),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if position == 0 => f.write_str(key)?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// A value and where it was set.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) origin: Origin,
    pub(super) value: Value,
}

/// What TOML can say. Dates are texts: no configuration holds one.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(String),
    Integer(i128),
    Float(f64),
    Boolean(bool),
    Array(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Value {
    /// What a person calls it.
    pub(super) fn noun(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Array(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

impl Node {
    pub(super) fn empty_table(origin: Origin) -> Self {
        Self { origin, value: Value::Table(BTreeMap::new()) }
    }

    pub(super) fn get(&self, path: &Path) -> Option<&Self> {
        path.0.iter().try_fold(self, |node, step| node.child(step))
    }

    pub(super) fn get_mut(&mut self, path: &Path) -> Option<&mut Self> {
        path.0.iter().try_fold(self, |node, step| match (&mut node.value, step) {
            (Value::Table(entries), Step::Key(key)) => entries.get_mut(key),
            (Value::Array(items), Step::Index(index)) => items.get_mut(*index),
            _ => None,
        })
    }

    fn child(&self, step: &Step) -> Option<&Self> {
        match (&self.value, step) {
            (Value::Table(entries), Step::Key(key)) => entries.get(key),
            (Value::Array(items), Step::Index(index)) => items.get(*index),
            _ => None,
        }
    }

    /// The origin of the value, or of the innermost table around it that was set.
    pub(super) fn origin_near(&self, path: &Path) -> Origin {
        let mut node = self;
        for step in &path.0 {
            match node.child(step) {
                Some(child) => node = child,
                None => break,
            }
        }
        node.origin.clone()
    }

    /// The origin of the value itself.
    pub(super) fn origin_at(&self, path: &Path) -> Origin {
        self.get(path).map_or(Origin::Default, |node| node.origin.clone())
    }

    /// The same tree without the values, which may be secrets.
    pub(super) fn forget_values(&mut self) {
        match &mut self.value {
            Value::Array(items) => items.iter_mut().for_each(Self::forget_values),
            Value::Table(entries) => entries.values_mut().for_each(Self::forget_values),
            leaf => *leaf = Value::Boolean(false),
        }
    }

    pub(super) fn to_json(&self) -> Json {
        match &self.value {
            Value::Text(text) => Json::String(text.clone()),
            Value::Integer(number) => i64::try_from(*number)
                .map(Number::from)
                .or_else(|_| u64::try_from(*number).map(Number::from))
                .map_or_else(|_| Json::String(number.to_string()), Json::Number),
            Value::Float(number) => Number::from_f64(*number).map_or(Json::Null, Json::Number),
            Value::Boolean(flag) => Json::Bool(*flag),
            Value::Array(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Table(entries) => {
                Json::Object(entries.iter().map(|(key, node)| (key.clone(), node.to_json())).collect())
            }
        }
    }

    /// A tree in which every value has the same origin; `None` for null.
    pub(super) fn from_json(json: &Json, origin: &Origin) -> Option<Self> {
        let value = match json {
            Json::Null => return None,
            Json::Bool(flag) => Value::Boolean(*flag),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(n), _) => Value::Integer(n.into()),
                (None, Some(n)) => Value::Integer(n.into()),
                (None, None) => Value::Float(number.as_f64().unwrap_or_default()),
            },
            Json::String(text) => Value::Text(text.clone()),
            Json::Array(items) => Value::Array(items.iter().filter_map(|item| Self::from_json(item, origin)).collect()),
            Json::Object(entries) => Value::Table(
                entries
                    .iter()
                    .filter_map(|(key, item)| Self::from_json(item, origin).map(|node| (key.clone(), node)))
                    .collect(),
            ),
        };
        Some(Self { origin: origin.clone(), value })
    }
}
