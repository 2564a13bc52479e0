//! `kmsctl read`: a topic's records as lines of JSON.

use std::io::Write as _;

use kms_runtime::kafka::StoredRecord;
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::error::CtlError;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Topic, with or without the prefix.
    topic: String,
    /// Only this partition.
    #[arg(long)]
    partition: Option<i32>,
    /// Only from this offset on.
    #[arg(long, requires = "partition")]
    from: Option<i64>,
}

pub(crate) fn run(cluster: &Cluster, args: &Args) -> Result<(), CtlError> {
    let spec = cluster.topic(&args.topic)?;
    let partitions = match args.partition {
        Some(partition) if (0..spec.partitions).contains(&partition) => partition..partition + 1,
        Some(partition) => {
            return Err(CtlError::Argument(format!(
                "{} has no partition {partition}, only 0 to {}",
                spec.name,
                spec.partitions - 1
            )));
        }
        None => 0..spec.partitions,
    };
    let mut out = std::io::stdout().lock();
    for partition in partitions {
        let mut written = Ok(());
        cluster.read(&spec.name, partition, args.from, |record| {
            if written.is_ok() {
                written = writeln!(out, "{}", as_json(cluster, &spec.name, partition, &record));
            }
        })?;
        written?;
    }
    Ok(())
}

/// Coordinates, key and decoded value; what does not decode is shown as an error beside its bytes.
pub(crate) fn as_json(cluster: &Cluster, topic: &str, partition: i32, record: &StoredRecord) -> Value {
    let hex = |bytes: &Vec<u8>| format!("0x{}", hex::encode(bytes));
    let mut line = json!({
        "topic": topic,
        "partition": partition,
        "offset": record.offset,
        "timestamp_ms": record.timestamp_ms,
        "key": record.key.as_ref().map(hex),
    });
    match record.value.as_deref().map(|value| cluster.codec.inspect(topic, value)) {
        None => line["value"] = Value::Null,
        Some(Ok(inspected)) => {
            line["record"] = json!(inspected.record);
            line["schema_version"] = json!(inspected.version);
            line["value"] = inspected.fields;
        }
        Some(Err(error)) => {
            line["error"] = json!(error.to_string());
            line["bytes"] = json!(record.value.as_ref().map(hex));
        }
    }
    line
}
