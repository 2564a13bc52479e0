//! Sections that every service has, besides [`crate::kafka::KafkaConfig`].

use std::net::SocketAddr;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Configuration, Endpoint, Problems};

/// Schema registry. Without a URL records are written in Avro's single-object encoding, with one in the Confluent wire
/// format; both are always read.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SchemaRegistryConfig {
    /// Base URL of a Confluent-compatible registry, e.g. `http://127.0.0.1:8081`.
    pub url: Option<Endpoint>,
}

impl Configuration for SchemaRegistryConfig {
    fn validate(&self, _: &mut Problems) {}
}

/// Logs, metrics and health.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TelemetryConfig {
    /// Address of `/healthz`, `/readyz` and `/metrics`; port 0 takes a free one.
    #[schemars(with = "String", extend("format" = "address:port"))]
    pub listen: SocketAddr,
    /// A file that the bound address is written to, for supervisors that use port 0.
    #[schemars(with = "Option<String>")]
    pub address_file: Option<PathBuf>,
    /// How logs are written.
    pub log_format: LogFormat,
    /// Which logs are written, as `level` or `target=level,…`.
    pub log_filter: String,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One line of text per event.
    Text,
    /// One JSON object per event.
    Json,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9464)),
            address_file: None,
            log_format: LogFormat::Auto,
            log_filter: "info".to_owned(),
        }
    }
}

impl Configuration for TelemetryConfig {
    fn validate(&self, problems: &mut Problems) {
        if let Err(error) = crate::telemetry::parse_filter(&self.log_filter) {
            problems.at("log_filter", error);
        }
    }
}
