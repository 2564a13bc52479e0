//! Answers that wait: results that an account's emitter has not settled, and that no transaction on its way carries.
//!
//! The lag of its groups is another number: it counts the markers of transactions, what is for other chains, and what was settled
//! out of turn behind the committed offset. So the positions are read as the emitter reads them when it starts, and the
//! records behind them are counted one by one.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use kms_emitter::session::results_group;
use kms_runtime::kafka::{LogContext, PartitionRange, read_ranges, watermarks};
use kms_runtime::stage::commit_metadata;
use kms_runtime::stage::ledger::NextOffset;
use kms_runtime::stage::runs::Runs;
use kms_schemas::identity::{Coordinates, Lane};
use kms_schemas::record::ResultRecord;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::list::Id;
use crate::cluster::{Cluster, SERVICE};
use crate::error::CtlError;

/// Offsets that are looked at for an account: seconds of reading, half an hour of a loaded node's answers.
const MOST: i64 = 100_000;

/// How many answers wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    /// So many.
    pub(super) answers: u64,
    /// There are more offsets than were looked at.
    pub(super) at_least: bool,
}

/// What is settled of a partition.
struct Place {
    next: i64,
    /// Behind that.
    settled: Runs,
}

impl Place {
    /// Of what a group has committed. Text that says nothing means that everything behind the offset is handled again.
    fn read(next: i64, text: Option<String>) -> Self {
        let settled = text.and_then(|text| commit_metadata::decode(NextOffset(next), &text).ok()).unwrap_or_default();
        Self { next, settled }
    }

    fn is_open(&self, offset: i64) -> bool {
        offset >= self.next && !self.settled.contains(offset)
    }

    /// Offsets to look at, of a partition with this beginning and end, so many at most; and whether that are all.
    fn range(&self, partition: i32, (begin, end): (i64, i64), most: i64) -> (PartitionRange, bool) {
        let from = self.next.max(begin).min(end);
        let to = end.min(from.saturating_add(most));
        ((partition, from, to), to == end)
    }
}

/// How many wait, of an account whose transactions on their way carry these results; none if its emitter never committed
/// where it stands, or not yet everywhere.
pub(super) fn of(
    cluster: &Cluster,
    (chain_id, sender): Id,
    carried: &HashSet<Coordinates>,
) -> Result<Option<Waiting>, CtlError> {
    let (kafka, mut left, mut waiting) = (&cluster.config.kafka, MOST, None);
    let unread = |error| CtlError::read(error, &kafka.bootstrap_servers);
    for lane in Lane::ALL {
        let topic = cluster.topics.results(lane);
        let group = results_group(cluster.topics.prefix(), lane, chain_id, sender);
        let partitions = cluster.topic(topic)?.partitions;
        let places = places(cluster, &group, topic, partitions)?;
        // A lane without work for its contracts is not read by every emitter.
        if places.is_empty() {
            continue;
        }
        if places.len() < usize::try_from(partitions).unwrap_or_default() {
            return Ok(None);
        }
        let waiting = waiting.get_or_insert_with(Waiting::default);
        let mut ranges = Vec::new();
        let ends = watermarks(kafka, SERVICE, topic, partitions).map_err(unread)?;
        for ((partition, place), ends) in (0..).zip(&places).zip(ends) {
            let (range, is_all) = place.range(partition, ends, left);
            left -= range.2 - range.1;
            waiting.at_least |= !is_all;
            ranges.push(range);
        }
        read_ranges(kafka, SERVICE, topic, &ranges, cluster.patience(), |partition, record| {
            let place = usize::try_from(partition).ok().and_then(|index| places.get(index));
            if !place.is_some_and(|place| place.is_open(record.offset)) {
                return;
            }
            let result = cluster.codec.decode::<ResultRecord>(topic, record.value.as_deref().unwrap_or_default());
            let place = Coordinates { topic: topic.to_owned(), partition, offset: record.offset };
            let is_own = result.is_ok_and(|result| result.identity.chain_id == chain_id);
            waiting.answers += u64::from(is_own && !carried.contains(&place));
        })
        .map_err(unread)?;
    }
    Ok(waiting)
}

/// What a group has committed of a topic's partitions, of all that it has a place in. The group is not joined.
fn places(cluster: &Cluster, group: &str, topic: &str, partitions: i32) -> Result<Vec<Place>, CtlError> {
    let kafka = &cluster.config.kafka;
    let client = kafka.consumer(SERVICE, group);
    let consumer: BaseConsumer<LogContext> = client.create_with_context(LogContext).map_err(CtlError::client)?;
    let mut asked = TopicPartitionList::new();
    for partition in 0..partitions {
        asked.add_partition(topic, partition);
    }
    let told = consumer.committed_offsets(asked, kafka.request_timeout()).map_err(CtlError::client)?;
    let mut places = Vec::new();
    for partition in 0..partitions {
        let Some(element) = told.find_partition(topic, partition) else { continue };
        element.error().map_err(CtlError::client)?;
        let Offset::Offset(next) = element.offset() else { continue };
        // The client panics on text that is not UTF-8, which only somebody else writes.
        let text = catch_unwind(AssertUnwindSafe(|| element.metadata().to_owned())).ok();
        places.push(Place::read(next, text));
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_waits_unless_it_was_settled_in_turn_or_out_of_turn() {
        let settled: Runs = [12, 13, 15].into_iter().collect();
        let text = commit_metadata::encode(NextOffset(10), &settled, 1_000).unwrap();
        let open = |place: &Place| (8..18).filter(|offset| place.is_open(*offset)).collect::<Vec<_>>();
        assert_eq!(open(&Place::read(10, Some(text.clone()))), [10, 11, 14, 16, 17]);
        assert_eq!(open(&Place::read(10, Some(String::new()))), (10..18).collect::<Vec<_>>());
        // Of another offset, or nothing that can be read: the emitter begins at the offset again.
        assert_eq!(open(&Place::read(11, Some(text))), (11..18).collect::<Vec<_>>());
        assert_eq!(open(&Place::read(10, None)), (10..18).collect::<Vec<_>>());
    }

    #[test]
    fn p6_so_many_offsets_are_looked_at_and_it_is_said_that_there_are_more() {
        let place = Place::read(10, None);
        assert_eq!(place.range(3, (0, 110), 100), ((3, 10, 110), true));
        assert_eq!(place.range(3, (0, 111), 100), ((3, 10, 110), false));
        assert_eq!(place.range(3, (0, 111), 0), ((3, 10, 10), false));
        assert_eq!(place.range(3, (0, 10), 0), ((3, 10, 10), true));
        // Retention has taken what lies before the beginning.
        assert_eq!(place.range(3, (50, 60), 100), ((3, 50, 60), true));
    }
}
