//! The cluster as the verbs see it: topic names, decoded records.

use std::time::Duration;

use kms_runtime::kafka::{StoredRecord, read_to_end};
use kms_schemas::codec::Codec;
use kms_schemas::topics::{TopicSpec, Topics};

use crate::config::CtlConfig;
use crate::error::CtlError;

/// Name of this client.
pub(crate) const SERVICE: &str = "kmsctl";

pub(crate) struct Cluster {
    pub(crate) config: CtlConfig,
    pub(crate) topics: Topics,
    pub(crate) codec: Codec,
}

impl Cluster {
    pub(crate) fn connect(config: CtlConfig) -> Result<Self, CtlError> {
        let topics = Topics::new(&config.kafka.topic_prefix);
        let codec = match &config.schema_registry.url {
            None => Codec::single_object(),
            Some(url) => {
                kms_runtime::telemetry::install_tls_provider();
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                runtime.block_on(Codec::with_registry(url.expose().as_str(), &topics))?
            }
        };
        Ok(Self { config, topics, codec })
    }

    /// The catalogue's entry of a topic, by its full name or the name behind the prefix.
    pub(crate) fn topic(&self, name: &str) -> Result<TopicSpec, CtlError> {
        let full = format!("{}.{name}", self.topics.prefix());
        let all = self.topics.all();
        let names: Vec<&str> = all.iter().map(|spec| spec.name.as_str()).collect();
        let found = all.iter().find(|spec| spec.name == name || spec.name == full);
        found.cloned().ok_or_else(|| {
            CtlError::Argument(format!("{name:?} is no topic of the connector; its topics are {}", names.join(", ")))
        })
    }

    /// Every committed record of a partition from an offset to the end at the time of the call.
    pub(crate) fn read(
        &self,
        topic: &str,
        partition: i32,
        from: Option<i64>,
        each: impl FnMut(StoredRecord),
    ) -> Result<(), CtlError> {
        let patience = self.config.kafka.transaction_timeout() + Duration::from_secs(15);
        read_to_end(&self.config.kafka, SERVICE, topic, partition, from, patience, each)?;
        Ok(())
    }
}
