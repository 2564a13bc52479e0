//! What the tool has to know: where Kafka is, and how records are encoded.

use kms_runtime::config::{Configuration, Problems, SchemaRegistryConfig};
use kms_runtime::kafka::KafkaConfig;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Configuration of `kmsctl`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CtlConfig {
    /// How Kafka is reached.
    pub kafka: KafkaConfig,
    /// Schema registry, if there is one.
    pub schema_registry: SchemaRegistryConfig,
}

impl Configuration for CtlConfig {
    fn validate(&self, problems: &mut Problems) {
        problems.within("kafka", &self.kafka);
        problems.within("schema_registry", &self.schema_registry);
    }
}
