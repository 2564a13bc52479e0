//! Mistakes in a configuration.

use std::fmt;

use kms_schemas::codes::Code;

use super::tree::{Origin, Path};
use crate::codes;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its code (`KC-01xx`).
    pub code: &'static Code,
    /// Where in the configuration, e.g. `source[0].rpc_urls`; empty for the file as a whole.
    pub path: String,
    /// Where the value was set, or where it would have to be set.
    pub origin: String,
    /// What is wrong, for a person.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: ", self.code.code, self.origin)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.text)
    }
}

/// Every mistake of a configuration. A service ends with exit code 2 on them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
}

impl ConfigErrors {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        let mut told: Vec<Problem> = Vec::with_capacity(problems.len());
        for problem in problems {
            if !told.contains(&problem) {
                told.push(problem);
            }
        }
        Self { problems: told }
    }

    /// A mistake that only showed after loading.
    #[must_use]
    pub fn single(code: &'static Code, path: &str, text: impl Into<String>) -> Self {
        Self::new(vec![Problem { code, path: path.to_owned(), origin: "configuration".to_owned(), text: text.into() }])
    }

    /// The mistakes, in the order of the check: syntax, keys and types, values, rules between values.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("1 mistake in the configuration:")?,
            n => write!(f, "{n} mistakes in the configuration:")?,
        }
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects what [`super::Configuration::validate`] finds.
#[derive(Debug, Default)]
pub struct Problems {
    prefix: String,
    found: Vec<(Path, &'static Code, String)>,
}

impl Problems {
    /// A rule that the value at `path` (relative to the struct being validated) breaks.
    pub fn at(&mut self, path: &str, text: impl Into<String>) {
        self.coded(path, &codes::CONFIG_RULE, text);
    }

    /// The same, with a code of its own.
    pub fn coded(&mut self, path: &str, code: &'static Code, text: impl Into<String>) {
        let full = format!("{}.{path}", self.prefix);
        self.found.push((Path::parse(&full), code, text.into()));
    }

    /// Validates a section that stands at `path`, e.g. `kafka` or `source.0`.
    pub fn within<T: super::Configuration>(&mut self, path: &str, section: &T) {
        let outer = self.prefix.len();
        self.prefix = format!("{}.{path}", self.prefix);
        section.validate(self);
        self.prefix.truncate(outer);
    }

    pub(super) fn into_found(self) -> Vec<(Path, &'static Code, String)> {
        self.found
    }
}

/// A mistake at a value of the tree.
pub(super) fn at(code: &'static Code, path: &Path, origin: &Origin, text: impl Into<String>) -> Problem {
    Problem { code, path: path.to_string(), origin: origin.to_string(), text: text.into() }
}
