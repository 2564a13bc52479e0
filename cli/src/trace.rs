//! `kmsctl trace`: what happened to one request id.

use std::io::Write as _;

use alloy::primitives::B256;
use kms_schemas::identity::{Lane, RequestId};
use kms_schemas::topics::{partition_for_key, request_key};

use crate::Output;
use crate::cluster::Cluster;
use crate::error::CtlError;
use crate::read::as_json;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Request id: 64 hex digits, with or without 0x.
    #[arg(value_parser = parse_id)]
    id: RequestId,
}

fn parse_id(text: &str) -> Result<RequestId, String> {
    let mut bytes = [0_u8; 32];
    hex::decode_to_slice(text.strip_prefix("0x").unwrap_or(text), &mut bytes)
        .map_err(|_| "expected 64 hex digits, with or without 0x".to_owned())?;
    Ok(RequestId(B256::from(bytes)))
}

/// The id is the key, so each topic holds it in one partition; dead letters are keyed the same where the key was whole.
pub(crate) fn run(cluster: &Cluster, args: &Args, output: Output) -> Result<(), CtlError> {
    let topics = &cluster.topics;
    let mut names = Vec::new();
    for lane in Lane::ALL {
        names.extend([topics.requests(lane), topics.deferred(lane), topics.results(lane)]);
    }
    names.extend([topics.submissions(), topics.dead_letters()]);
    let key = request_key(args.id);
    let mut found = Vec::new();
    for name in names {
        let spec = cluster.topic(name)?;
        let partition = partition_for_key(&key, spec.partitions);
        cluster.read(name, partition, None, |record| {
            if record.key.as_deref() == Some(key.as_slice()) {
                found.push((record.timestamp_ms, as_json(cluster, name, partition, &record)));
            }
        })?;
    }
    found.sort_by_key(|(timestamp, _)| *timestamp);
    let mut out = std::io::stdout().lock();
    for (timestamp, line) in &found {
        match output {
            Output::Json => writeln!(out, "{line}")?,
            Output::Text => {
                let place =
                    format!("{}[{}]@{}", line["topic"].as_str().unwrap_or_default(), line["partition"], line["offset"]);
                writeln!(out, "{} {place}", timestamp.unwrap_or_default())?;
                writeln!(out, "{:#}", line.get("value").or_else(|| line.get("error")).unwrap_or(line))?;
            }
        }
    }
    if found.is_empty() {
        eprintln!("no topic under {} holds anything about {}", topics.prefix(), args.id);
    }
    Ok(())
}
