//! `kmsctl lifecycle`: keys, CRSs, contexts and epochs as the topics know them.
//!
//! Outcomes are read before requests, so that of every outcome that is read the request is read too, and a request without one
//! had none when the reading began.

use std::io::Write as _;

use kms_runtime::kafka::StoredRecord;
use kms_schemas::Record;
use kms_schemas::identity::Lane;
use kms_schemas::record::{DeadLetter, Request, ResultRecord, Submission};

use self::objects::{Object, objects};
use self::trails::Trails;
use crate::Output;
use crate::cluster::Cluster;
use crate::error::CtlError;

mod objects;
#[cfg(test)]
mod tests;
mod trails;

/// Requests of key management that are remembered: two orders of magnitude above what a deployment of years has, and
/// some hundred megabytes.
const LIMIT: usize = 200_000;

/// Reads the topics, and prints what they show.
pub(crate) fn run(cluster: &Cluster, output: Output) -> Result<(), CtlError> {
    let topics = &cluster.topics;
    let lane = Lane::KeyManagement;
    let mut trails = Trails::new(topics.requests(lane), LIMIT);
    fold(cluster, topics.dead_letters(), &mut trails, |trails, _, letter: DeadLetter| trails.dead_letter(&letter))?;
    fold(cluster, topics.submissions(), &mut trails, |trails, _, submission: Submission| {
        trails.submission(&submission);
    })?;
    fold(cluster, topics.results(lane), &mut trails, |trails, _, result: ResultRecord| trails.result(&result))?;
    fold(cluster, topics.requests(lane), &mut trails, |trails, offset, request: Request| {
        trails.request(offset, &request);
    })?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for object in objects(&trails) {
        match output {
            Output::Json => {
                let line = serde_json::to_string(&object).map_err(std::io::Error::from)?;
                writeln!(out, "{line}")?;
            }
            // What was read is no answer for people, but what was left out is.
            Output::Text if matches!(object, Object::Summary(_)) => {}
            Output::Text => writeln!(out, "{object}")?,
        }
    }
    out.flush()?;
    let counts = trails.counts;
    eprintln!("{}", Object::Summary(counts));
    if counts.unreadable > 0 {
        eprintln!("{} records do not decode and are left out; `kmsctl read` shows them", counts.unreadable);
    }
    if counts.left_off > 0 {
        eprintln!(
            "only {LIMIT} requests of key management are remembered; {} records about others are left out",
            counts.left_off
        );
    }
    Ok(())
}

/// Every committed record of a topic, decoded, in the order of offsets within a partition.
fn fold<R: Record>(
    cluster: &Cluster,
    topic: &str,
    trails: &mut Trails,
    mut each: impl FnMut(&mut Trails, i64, R),
) -> Result<(), CtlError> {
    cluster.read_all(topic, |_, record: StoredRecord| {
        let Some(value) = record.value else { return };
        match cluster.codec.decode::<R>(topic, &value) {
            Ok(decoded) => each(trails, record.offset, decoded),
            Err(_) => trails.unreadable(),
        }
    })
}
