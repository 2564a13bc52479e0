//! Configuration: one documented struct per section, four layers, every mistake at once.
//!
//! ```text
//! defaults in the structs → TOML file → environment → --set flags
//!                             │            │             │
//!                             └──── one tree, each value with its origin ────┐
//!                                                                            ▼
//!      JSON schema of the structs ──▶ keys, types, ranges ──▶ serde ──▶ `validate()` ──▶ Loaded<T>
//! ```
//!
//! | layer | `kafka.bootstrap_servers` is written as |
//! |---|---|
//! | file | `[kafka]` and `bootstrap_servers = "…"` |
//! | environment | `KMS_CONNECTOR_KAFKA__BOOTSTRAP_SERVERS=…` (lists: numbers as segments, `KMS_CONNECTOR_SOURCE__0__ID`) |
//! | flag | `--set kafka.bootstrap_servers=…` (lists: `--set source.0.id=…`) |
//!
//! A later layer replaces single values of an earlier one. Lists of plain values may be written `a,b,c` or as a TOML
//! array in the environment and in flags.
//!
//! The check does not stop at the first mistake: a wrong value is reported and replaced by a stand-in, so that all
//! others are found in the same run; what a stand-in would cause is not reported.
//!
//! Every [`Secret`], and every list of URLs, can be given as `name` or, better, as `name_file`: the path of a file that
//! holds it (relative to the configuration file when written there), of URLs one a line. No secret is ever printed.

mod check;
mod endpoint;
mod layers;
mod print;
mod problem;
mod reference;
mod schema;
mod secret;
mod sections;
mod tree;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use endpoint::Endpoint;
pub use layers::{ENVIRONMENT_PREFIX, Sources};
pub use problem::{ConfigErrors, Problem, Problems};
pub use reference::{check_generated_block, config_reference};
pub use secret::Secret;
pub use sections::{LogFormat, SchemaRegistryConfig, TelemetryConfig};
pub use tree::Origin;

use crate::codes;

/// A whole configuration, or one section of it.
///
/// Ranges and lengths that a schema can say belong into the schema (`#[schemars(range(min = 1))]`): they are then
/// checked and documented without further code. [`Configuration::validate`] holds the rules between values.
pub trait Configuration: Serialize + DeserializeOwned + JsonSchema {
    /// Adds every broken rule to `problems`; paths are relative to this struct.
    fn validate(&self, problems: &mut Problems);
}

/// A checked configuration with the origin of every value.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The configuration itself.
    pub config: T,
    origins: tree::Node,
}

impl<T: Configuration> Loaded<T> {
    /// Where the value at this path (`kafka.bootstrap_servers`, `source.0.id`) was set.
    #[must_use]
    pub fn origin(&self, path: &str) -> Origin {
        self.origins.origin_at(&tree::Path::parse(path))
    }

    /// The effective configuration as TOML, each value with its origin, secrets masked.
    #[must_use]
    pub fn to_toml(&self) -> String {
        print::to_toml(&self.config, &self.origins)
    }
}

/// Merges the layers and checks the result.
///
/// # Errors
/// Every mistake that was found, each with its origin.
pub fn load<T: Configuration>(sources: &Sources) -> Result<Loaded<T>, ConfigErrors> {
    load_with(sources, check::Rules::Held)
}

/// Merges the layers and checks keys, types and ranges, but not the rules between values: what a look at a service needs that
/// runs with this configuration and has held them. A rule may take a second, such as the password of a keystore.
///
/// # Errors
/// As [`load`], without the mistakes that only [`Configuration::validate`] finds.
pub fn load_without_rules<T: Configuration>(sources: &Sources) -> Result<Loaded<T>, ConfigErrors> {
    load_with(sources, check::Rules::Ignored)
}

fn load_with<T: Configuration>(sources: &Sources, rules: check::Rules) -> Result<Loaded<T>, ConfigErrors> {
    let root = schema::Root::of::<T>();
    let mut problems = Vec::new();
    let mut tree = layers::merge(sources, root.view(), &mut problems);
    if problems.iter().any(|problem| problem.code == &codes::CONFIG_FILE) {
        // What an unread file would have held is not missing.
        return Err(ConfigErrors::new(problems));
    }
    layers::read_secret_files(&mut tree, root.view(), sources.file.as_deref(), &mut problems);
    layers::inherit_defaults(&mut tree, root.view(), None);
    match check::into_typed::<T>(&mut tree, root.view(), &mut problems, rules) {
        Some(config) if problems.is_empty() => {
            tree.forget_values();
            Ok(Loaded { config, origins: tree })
        }
        _ => Err(ConfigErrors::new(problems)),
    }
}

#[cfg(test)]
mod tests;
