//! `kmsctl dead-letters`: what no service could use, and another go at it.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kms_runtime::kafka::{OutgoingRecord, TransactionalProducer};
use kms_schemas::headers::headers;
use kms_schemas::identity::Coordinates;
use kms_schemas::record::{DeadLetter, DeferredRequest, Request};
use kms_schemas::topics::MAX_DEAD_LETTER_BYTES;
use serde_json::json;

use crate::Output;
use crate::cluster::{Cluster, SERVICE};
use crate::error::CtlError;
use crate::read::as_json;

#[derive(clap::Subcommand, Clone, Debug)]
pub(crate) enum Verb {
    /// Print every dead letter.
    List,
    /// Send the processor's dead letters back to work, by way of the deferred topic. Each gets a second outcome.
    Redrive {
        /// Only those with this reason code.
        #[arg(long, value_name = "CODE")]
        reason: Option<String>,
        /// Only this one, as `PARTITION:OFFSET` in the dead-letters topic.
        #[arg(long, value_name = "PARTITION:OFFSET", value_parser = parse_place)]
        only: Option<(i32, i64)>,
        /// Really write; without it the letters are only named.
        #[arg(long)]
        yes: bool,
    },
}

fn parse_place(text: &str) -> Result<(i32, i64), String> {
    let parsed =
        text.split_once(':').and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    parsed.ok_or_else(|| "expected PARTITION:OFFSET, e.g. 0:42".to_owned())
}

pub(crate) fn run(cluster: &Cluster, verb: Verb, output: Output) -> Result<(), CtlError> {
    match verb {
        Verb::List => list(cluster, output),
        Verb::Redrive { reason, only, yes } => redrive(cluster, reason.as_deref(), only, yes, output),
    }
}

fn list(cluster: &Cluster, output: Output) -> Result<(), CtlError> {
    let spec = cluster.topic(cluster.topics.dead_letters())?;
    let mut out = std::io::stdout().lock();
    for partition in 0..spec.partitions {
        let mut written = Ok(());
        cluster.read(&spec.name, partition, None, |record| {
            let line = as_json(cluster, &spec.name, partition, &record);
            let letter = record.value.as_deref().map(|value| cluster.codec.decode::<DeadLetter>(&spec.name, value));
            let text = match (&letter, output) {
                (Some(Ok(letter)), Output::Text) => format!(
                    "{partition}:{} {} {} {} attempts={} {}",
                    record.offset, letter.reason, letter.service, letter.source, letter.attempts, letter.text
                ),
                _ => line.to_string(),
            };
            if written.is_ok() {
                written = writeln!(out, "{text}");
            }
        })?;
        written?;
    }
    Ok(())
}

/// A letter that can be sent back, with the request that goes.
struct Redrive {
    place: (i32, i64),
    letter: DeadLetter,
    deferred: DeferredRequest,
}

fn redrive(
    cluster: &Cluster,
    reason: Option<&str>,
    only: Option<(i32, i64)>,
    yes: bool,
    output: Output,
) -> Result<(), CtlError> {
    let spec = cluster.topic(cluster.topics.dead_letters())?;
    let mut chosen = Vec::new();
    let (mut letters, mut passed_over) = (0_usize, BTreeMap::<&str, usize>::new());
    for partition in 0..spec.partitions {
        cluster.read(&spec.name, partition, None, |record| {
            letters += 1;
            let Some(Ok(letter)) =
                record.value.as_deref().map(|value| cluster.codec.decode::<DeadLetter>(&spec.name, value))
            else {
                return;
            };
            let place = (partition, record.offset);
            let wanted = only.is_none_or(|only| only == place) && reason.is_none_or(|reason| reason == letter.reason);
            if !wanted {
                return;
            }
            match back_to_work(cluster, &letter) {
                Ok(deferred) => chosen.push(Redrive { place, letter, deferred }),
                Err(why) => *passed_over.entry(why).or_default() += 1,
            }
        })?;
    }
    let mut out = std::io::stdout().lock();
    for one in &chosen {
        match output {
            Output::Json => {
                let line = json!({
                    "partition": one.place.0,
                    "offset": one.place.1,
                    "reason": one.letter.reason,
                    "source": one.letter.source.to_string(),
                    "redriven": yes,
                });
                writeln!(out, "{line}")?;
            }
            Output::Text => {
                writeln!(out, "{}:{} {} {}", one.place.0, one.place.1, one.letter.reason, one.letter.source)?;
            }
        }
    }
    out.flush()?;
    for (why, count) in passed_over {
        eprintln!("{count} letters are not redriven: {why}");
    }
    if chosen.is_empty() {
        eprintln!("nothing to redrive: of {letters} dead letters in {} none is meant and can be redriven", spec.name);
        return Ok(());
    }
    if !yes {
        eprintln!("{} letters can be redriven; add --yes to do it", chosen.len());
        return Ok(());
    }
    let kafka = &cluster.config.kafka;
    let max_bytes = u32::try_from(MAX_DEAD_LETTER_BYTES).unwrap_or(u32::MAX);
    let producer = TransactionalProducer::new(kafka, SERVICE, &kafka.transactional_id(SERVICE, "redrive"), max_bytes)
        .map_err(CtlError::client)?;
    producer.init(|| false).map_err(CtlError::producer)?;
    let outputs: Result<Vec<OutgoingRecord>, CtlError> =
        chosen.iter().map(|one| outgoing(cluster, &one.deferred)).collect();
    let outputs = outputs?;
    producer.write(&outputs, Instant::now() + Duration::from_secs(30))?;
    eprintln!("{} letters redriven", outputs.len());
    Ok(())
}

/// Why a letter of ingest is not redriven.
const OF_INGEST: &str = "ingest wrote them, and no request was made of what they hold; docs/errors.md says by their code what \
    to do";
/// Why a letter of the emitter is not redriven.
const OF_EMITTER: &str = "the emitter wrote them, so KMS Core has answered and only the answer was not used; to have it tried \
    once more, write the record that the letter names, whose key and bytes it holds, to its results topic again";

/// The letter's request as a deferred one, whose outcome will name the original record; or why there is none.
fn back_to_work(cluster: &Cluster, letter: &DeadLetter) -> Result<DeferredRequest, &'static str> {
    match letter.service.as_str() {
        "processor" => {}
        "ingest" => return Err(OF_INGEST),
        "emitter" => return Err(OF_EMITTER),
        _ => return Err("they name a service that this version does not know"),
    }
    let value = letter
        .value
        .as_deref()
        .ok_or("the record was too large to be kept in the letter; it is where the letter says")?;
    let topic = &letter.source.topic;
    let (source, request): (Coordinates, Request) = match cluster.codec.decode::<DeferredRequest>(topic, value) {
        Ok(deferred) => (deferred.source, deferred.request),
        Err(_) => match cluster.codec.decode(topic, value) {
            Ok(request) => (letter.source.clone(), request),
            Err(_) => {
                return Err("the record that they hold is no request, or of a schema that this version does not know");
            }
        },
    };
    let now_ms = unix_ms(SystemTime::now());
    Ok(DeferredRequest {
        source,
        attempts: letter.attempts,
        first_attempt_ms: now_ms,
        deferred_ms: now_ms,
        why: format!("redriven after {}", letter.reason),
        request,
    })
}

fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn outgoing(cluster: &Cluster, deferred: &DeferredRequest) -> Result<OutgoingRecord, CtlError> {
    let topic = cluster.topics.deferred(deferred.request.kind.lane()).to_owned();
    Ok(OutgoingRecord {
        partition: Some(deferred.source.partition),
        key: Some(deferred.request.id.0.to_vec()),
        value: Some(cluster.codec.encode(&topic, deferred)?),
        headers: headers(&format!("/{}/{SERVICE}", cluster.topics.prefix()), SystemTime::now(), deferred),
        topic,
    })
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;
    use kms_schemas::codec::Codec;
    use kms_schemas::topics::Topics;

    use super::*;
    use crate::CtlConfig;

    #[test]
    fn a_letter_that_is_not_redriven_says_why() {
        let cluster = Cluster { config: CtlConfig::default(), topics: Topics::new("p"), codec: Codec::single_object() };
        let letter = |service: &str, value: Option<&[u8]>| DeadLetter {
            service: service.to_owned(),
            source: Coordinates { topic: "p.results.decryption".to_owned(), partition: 0, offset: 0 },
            request: None,
            identity: None,
            key: None,
            value: value.map(|bytes| bytes.to_vec().into()),
            value_bytes: 0,
            value_digest: B256::ZERO,
            reason: "KC-0222".to_owned(),
            text: String::new(),
            attempts: 1,
            dead_ms: 0,
        };
        for (service, value, why) in [
            ("emitter", Some(&b"{}"[..]), "KMS Core has answered"),
            ("ingest", Some(b"{}"), "no request was made"),
            ("processor", None, "too large"),
            ("processor", Some(b"{}"), "is no request"),
        ] {
            let refused = back_to_work(&cluster, &letter(service, value)).expect_err("no request");
            assert!(refused.contains(why), "{service}: {refused}");
        }
    }
}
