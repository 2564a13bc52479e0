//! `kmsctl topics`: the catalogue, and a cluster held against it.

use std::io::Write as _;
use std::time::Instant;

use kms_runtime::kafka::{TopicRemark, ensure_topics, probe_topic};
use serde_json::json;

use crate::Output;
use crate::cluster::{Cluster, SERVICE};
use crate::error::CtlError;

#[derive(clap::Subcommand, Clone, Copy, Debug)]
pub(crate) enum Verb {
    /// Print the catalogue; asks no cluster.
    List,
    /// Compare the cluster's topics with the catalogue. Ends with 3 where one is missing or breaks a promise; what else
    /// differs is the operator's choice, and is printed.
    Check,
    /// Create what is missing, then compare as `check` does.
    Create,
}

pub(crate) fn run(cluster: &Cluster, verb: Verb, output: Output) -> Result<(), CtlError> {
    let mut specs = cluster.topics.all();
    let mut kafka = cluster.config.kafka.clone();
    kafka.create_topics = matches!(verb, Verb::Create);
    // The services write to it when they start, and may not create it themselves.
    if kafka.probe {
        specs.push(probe_topic(&kafka));
    }
    let mut remarks = Vec::new();
    if !matches!(verb, Verb::List) {
        // A person waits for the answer.
        let begun = Instant::now();
        remarks = ensure_topics(&kafka, SERVICE, &specs, || begun.elapsed() < kafka.request_timeout(), |_| {})?;
        tell(specs.len(), &remarks);
    }
    let mut out = std::io::stdout().lock();
    for spec in &specs {
        match output {
            Output::Json => {
                let config: serde_json::Map<String, serde_json::Value> =
                    spec.config.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
                let differs = remarks.iter().filter(|remark| remark.topic == spec.name);
                let line = json!({
                    "name": spec.name,
                    "partitions": spec.partitions,
                    "record": spec.record,
                    "config": config,
                    "differences": differs.map(|remark| &remark.text).collect::<Vec<_>>(),
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

/// For people, also where the lines on standard output are for a program.
fn tell(topics: usize, remarks: &[TopicRemark]) {
    let mut err = std::io::stderr();
    let _ = match remarks.len() {
        0 => writeln!(err, "{topics} topics are as the catalogue says"),
        count => writeln!(err, "{topics} topics are there; {count} settings are not as the catalogue says:"),
    };
    for remark in remarks {
        let _ = writeln!(err, "  {remark}");
    }
}
