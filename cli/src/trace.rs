//! `kmsctl trace`: what happened to one request id.

use std::io::Write as _;

use alloy::primitives::B256;
use kms_schemas::identity::{Lane, RequestId};
use kms_schemas::record::Intent;
use kms_schemas::topics::{partition_for_key, request_key};
use serde_json::Value;

use crate::Output;
use crate::cluster::Cluster;
use crate::error::CtlError;
use crate::read::as_json;

/// How far apart the clocks of the connector's hosts may be, in milliseconds.
const CLOCKS_DIFFER_MS: i64 = 10 * 60 * 1000;

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
    let started = found.iter().filter_map(|(timestamp, _)| *timestamp).min();
    found.extend(intents(cluster, args.id, started)?);
    found.sort_by_key(|(timestamp, _)| *timestamp);
    let mut out = std::io::stdout().lock();
    for (timestamp, line) in &found {
        match output {
            Output::Json => writeln!(out, "{line}")?,
            Output::Text => {
                let place =
                    format!("{}[{}]@{}", line["topic"].as_str().unwrap_or_default(), line["partition"], line["offset"]);
                writeln!(out, "{} {place}", timestamp.unwrap_or_default())?;
                let shown = line.get("value").or_else(|| line.get("error")).unwrap_or(line);
                writeln!(out, "{:#}", for_people(shown, args.id))?;
            }
        }
    }
    if found.is_empty() {
        eprintln!("no topic under {} holds anything about {}", topics.prefix(), args.id);
    }
    Ok(())
}

/// Transactions that carry the answer. Their key is the sender's nonce, so all since the request are looked at; without
/// anything else about the request, all.
fn intents(cluster: &Cluster, id: RequestId, started: Option<i64>) -> Result<Vec<(Option<i64>, Value)>, CtlError> {
    let topic = cluster.topics.intents();
    let from = match started {
        Some(started) => match cluster.offset_at(topic, 0, started - CLOCKS_DIFFER_MS)? {
            Some(from) => Some(from),
            None => return Ok(vec![]),
        },
        None => None,
    };
    let mut found = Vec::new();
    cluster.read(topic, 0, from, |record| {
        let intent = record.value.as_deref().map(|value| cluster.codec.decode::<Intent>(topic, value));
        let Some(Ok(intent)) = intent else { return };
        if intent.items.iter().any(|item| item.identity.id == id) {
            found.push((record.timestamp_ms, as_json(cluster, topic, 0, &record)));
        }
    })?;
    Ok(found)
}

/// A batch carries the answers to many requests, and its bytes are for machines.
fn for_people(value: &Value, id: RequestId) -> Value {
    let mut value = value.clone();
    if let Some(raw) = value.get("raw").and_then(Value::as_str) {
        let bytes = raw.trim_start_matches("0x").len() / 2;
        value["raw"] = format!("{bytes} bytes").into();
    }
    if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
        let of_all = items.len();
        items.retain(|item| item["identity"]["id"].as_str().is_some_and(|text| text == id.to_string()));
        if items.len() < of_all {
            items.push(format!("{} for other requests", of_all - items.len()).into());
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn people_see_of_a_batch_what_is_about_the_request() {
        let id = RequestId(B256::repeat_byte(1));
        let item = |id: RequestId| json!({ "result": { "offset": 3 }, "identity": { "id": id.to_string() } });
        let other = RequestId(B256::repeat_byte(2));
        let intent = json!({ "nonce": 7, "raw": "0x0102", "items": [item(other), item(id), item(other)] });
        let expected = json!({ "nonce": 7, "raw": "2 bytes", "items": [item(id), "2 for other requests"] });
        assert_eq!(for_people(&intent, id), expected);
        let request = json!({ "seq": 1, "body": { "form": "keygen" } });
        assert_eq!(for_people(&request, id), request);
    }
}
