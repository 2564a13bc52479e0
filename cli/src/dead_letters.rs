//! `kmsctl dead-letters`: what no service could use, and another go at it.

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

/// A letter that can be sent back, with the record that does it.
struct Redrive {
    place: (i32, i64),
    letter: DeadLetter,
    output: OutgoingRecord,
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
    let (mut letters, mut passed_over) = (0_usize, 0_usize);
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
                Some(output) => chosen.push(Redrive { place, letter, output }),
                None => passed_over += 1,
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
    if passed_over > 0 {
        eprintln!("{passed_over} letters hold no request that the processor could serve again");
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
    let outputs: Vec<OutgoingRecord> = chosen.into_iter().map(|one| one.output).collect();
    producer.write(&outputs, Instant::now() + Duration::from_secs(30))?;
    eprintln!("{} letters redriven", outputs.len());
    Ok(())
}

/// The letter's request as a deferred one, whose outcome will name the original record. Letters of other services hold no
/// request, or one that another go cannot help.
fn back_to_work(cluster: &Cluster, letter: &DeadLetter) -> Option<OutgoingRecord> {
    if letter.service != "processor" {
        return None;
    }
    let value = letter.value.as_deref()?;
    let (source, request): (Coordinates, Request) =
        match cluster.codec.decode::<DeferredRequest>(&letter.source.topic, value) {
            Ok(deferred) => (deferred.source, deferred.request),
            Err(_) => (letter.source.clone(), cluster.codec.decode(&letter.source.topic, value).ok()?),
        };
    let topic = cluster.topics.deferred(request.kind.lane()).to_owned();
    let now = SystemTime::now();
    let now_ms = now.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    let deferred = DeferredRequest {
        source,
        attempts: letter.attempts,
        first_attempt_ms: now_ms,
        deferred_ms: now_ms,
        why: format!("redriven after {}", letter.reason),
        request,
    };
    let value = cluster.codec.encode(&topic, &deferred).ok()?;
    Some(OutgoingRecord {
        partition: Some(deferred.source.partition),
        key: Some(deferred.request.id.0.to_vec()),
        value: Some(value),
        headers: headers(&format!("/{}/{SERVICE}", cluster.topics.prefix()), now, &deferred),
        topic,
    })
}
