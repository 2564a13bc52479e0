//! `kmsctl topics`: the catalogue, and a cluster held against it.

use std::io::Write as _;

use kms_runtime::kafka::ensure_topics;
use serde_json::json;

use crate::Output;
use crate::cluster::{Cluster, SERVICE};
use crate::error::CtlError;

#[derive(clap::Subcommand, Clone, Copy, Debug)]
pub(crate) enum Verb {
    /// Print the catalogue; asks no cluster.
    List,
    /// Compare the cluster's topics with the catalogue.
    Check,
    /// Create what is missing, then compare.
    Create,
}

pub(crate) fn run(cluster: &Cluster, verb: Verb, output: Output) -> Result<(), CtlError> {
    let specs = cluster.topics.all();
    let mut kafka = cluster.config.kafka.clone();
    kafka.create_topics = matches!(verb, Verb::Create);
    if !matches!(verb, Verb::List) {
        // One try per request: a person waits for the answer.
        ensure_topics(&kafka, SERVICE, &specs, || false, |_| {})?;
        eprintln!("{} topics are as the catalogue says", specs.len());
    }
    let mut out = std::io::stdout().lock();
    for spec in &specs {
        match output {
            Output::Json => {
                let config: serde_json::Map<String, serde_json::Value> =
                    spec.config.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
                let line = json!({
                    "name": spec.name,
                    "partitions": spec.partitions,
                    "record": spec.record,
                    "config": config,
                });
                writeln!(out, "{line}")?;
            }
            Output::Text => {
                let config: Vec<String> = spec.config.iter().map(|(key, value)| format!("{key}={value}")).collect();
                writeln!(out, "{:<48} {:>3} partitions  {}", spec.name, spec.partitions, config.join(" "))?;
            }
        }
    }
    Ok(())
}
