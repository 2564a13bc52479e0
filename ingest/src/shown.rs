//! What the requests topics show of a source, held against what its cursor claims. Pure.
//!
//! A cursor is a record that others can write too, and one with a good block and the numbering of the last genuine one
//! would skip everything before that block without a word. Its claim about the numbering can be checked: the last record
//! of each topic must be there, with that number and that hash. What came after that record is then asked of the chain.

use std::collections::{BTreeMap, HashSet};

use alloy::primitives::{B256, keccak256};
use kms_chain::event::{ContractSet, decode_request};
use kms_schemas::identity::{Coordinates, Lane};
use kms_schemas::record::{BlockRef, Request};

use crate::chunk::TimedLog;
use crate::numbering::Link;
use crate::record::log_coordinates;

/// What a requests topic shows of the numbering that the cursor claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The cursor claims no record, and none is there.
    Empty,
    /// The last record is there; it is of this block.
    UpTo(BlockRef),
    /// The last record may lie before what was read, or be past its retention.
    Hidden,
    /// The cursor claims no record, but records with the source's name are there: one of the two is forged.
    Unclaimed,
    /// The last record would be there if the claim were true.
    Contradicted,
}

/// The ends of a requests topic's partitions, as they are read.
#[derive(Debug)]
pub(crate) struct TopicScan<'a> {
    source: &'a str,
    /// As the cursor has it for the next record.
    claimed: Link,
    /// Whether the last record would have been seen if it lay in that partition.
    covered: BTreeMap<i32, bool>,
    newest: Option<BlockRef>,
    has_records: bool,
}

impl<'a> TopicScan<'a> {
    pub(crate) fn new(source: &'a str, claimed: Link) -> Self {
        Self { source, claimed, covered: BTreeMap::new(), newest: None, has_records: false }
    }

    /// What follows is read from `from`, an offset, to the end.
    pub(crate) fn begin(&mut self, partition: i32, from: i64) {
        self.covered.insert(partition, from == 0);
    }

    /// The next record of the partition, with its encoded value.
    pub(crate) fn see(&mut self, partition: i32, request: &Request, value: &[u8]) {
        if request.source != self.source {
            return;
        }
        self.has_records = true;
        if request.seq < self.claimed.seq {
            // Within a partition numbers rise, and retention takes the oldest first.
            self.covered.insert(partition, true);
        }
        if self.claimed.seq.checked_sub(1) == Some(request.seq) && keccak256(value) == self.claimed.previous_hash {
            self.newest = Some(BlockRef { number: request.block_number, hash: request.block_hash });
        }
    }

    pub(crate) fn finish(self) -> Standing {
        match self.newest {
            Some(block) => Standing::UpTo(block),
            None if self.claimed.seq == 0 && self.has_records => Standing::Unclaimed,
            None if self.claimed.seq == 0 && self.claimed.previous_hash == B256::ZERO => Standing::Empty,
            None if self.covered.values().all(|is_covered| *is_covered) => Standing::Contradicted,
            None => Standing::Hidden,
        }
    }
}

/// What the topics show of a source.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    pub(crate) lanes: Vec<(Lane, Standing)>,
    /// Logs that became dead letters.
    pub(crate) dead: HashSet<Coordinates>,
}

/// Blocks up to the cursor in which there must be no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// The block after the newest request.
    pub(crate) due: u64,
    /// The first that is looked at; above `due` where the stretch is longer than may be looked at.
    pub(crate) first: u64,
}

impl Shown {
    /// The block of the newest request.
    pub(crate) fn newest(&self) -> Option<BlockRef> {
        let blocks = self.lanes.iter().filter_map(|(_, standing)| match standing {
            Standing::UpTo(block) => Some(*block),
            _ => None,
        });
        blocks.max_by_key(|block| block.number)
    }

    /// A lane whose topic cannot be brought together with the cursor.
    pub(crate) fn contradicted(&self) -> Option<Lane> {
        self.find(|standing| standing == Standing::Contradicted)
    }

    /// A lane with records that no cursor claims, where no other lane bears the cursor out. The chain tells which is forged.
    pub(crate) fn unclaimed(&self) -> Option<Lane> {
        self.find(|standing| standing == Standing::Unclaimed).filter(|_| self.newest().is_none())
    }

    fn find(&self, which: impl Fn(Standing) -> bool) -> Option<Lane> {
        self.lanes.iter().find(|(_, standing)| which(*standing)).map(|(lane, _)| *lane)
    }

    /// What is to be looked at again below a cursor. None where nothing can be told: before the first request of a source
    /// that began at the head of that day.
    pub(crate) fn stretch(&self, start_block: Option<u64>, cursor: u64, at_most: u64) -> Option<Stretch> {
        if !self.lanes.iter().any(|(lane, _)| self.is_decided(*lane)) {
            return None;
        }
        let is_hidden = self.lanes.iter().any(|(_, standing)| *standing == Standing::Hidden);
        let due = match self.newest() {
            Some(block) => block.number.saturating_add(1),
            // The requests of a hidden lane may be newer than the start.
            None if is_hidden => return None,
            None => start_block?,
        };
        let first = due.max(cursor.saturating_sub(at_most.saturating_sub(1)));
        (first <= cursor).then_some(Stretch { due, first })
    }

    /// Whether this log, of a block after the newest request, should be in the topics and is not.
    pub(crate) fn lacks(&self, source: &str, contracts: &ContractSet, timed: &TimedLog) -> bool {
        let is_due = match decode_request(&contracts.with_release(timed.release), &timed.log.raw) {
            Ok(Some(decoded)) => self.is_decided(decoded.kind.lane()),
            Ok(None) => false,
            // Of which lane it would be is not known.
            Err(_) => true,
        };
        is_due && !self.dead.contains(&log_coordinates(source, &timed.log))
    }

    fn is_decided(&self, lane: Lane) -> bool {
        let none_is_newest = self.newest().is_none();
        let decided = |standing: &Standing| match standing {
            Standing::Empty | Standing::UpTo(_) => true,
            Standing::Unclaimed => none_is_newest,
            Standing::Hidden | Standing::Contradicted => false,
        };
        self.lanes.iter().any(|(one, standing)| *one == lane && decided(standing))
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, Bytes};
    use kms_schemas::identity::{Kind, RequestId};
    use kms_schemas::record::{RawLog, RequestBody};

    use super::*;

    fn block(number: u64) -> BlockRef {
        BlockRef { number, hash: B256::with_last_byte(number as u8) }
    }

    fn request(source: &str, seq: u64, at: u64) -> Request {
        Request {
            source: source.to_owned(),
            seq,
            previous_hash: B256::ZERO,
            chain_id: 5,
            kind: Kind::AbortCrsgen,
            id: RequestId(B256::with_last_byte(1)),
            block_number: at,
            block_hash: block(at).hash,
            block_timestamp: 0,
            transaction_hash: B256::ZERO,
            log_index: 0,
            log: RawLog { address: Address::ZERO, topics: Vec::new(), data: Bytes::new() },
            body: RequestBody::AbortCrsgen,
        }
    }

    /// A record's encoded value, for this purpose.
    fn value(seq: u64) -> Vec<u8> {
        seq.to_be_bytes().to_vec()
    }

    fn claimed(next: u64) -> Link {
        let previous_hash = next.checked_sub(1).map_or(B256::ZERO, |last| keccak256(value(last)));
        Link { seq: next, previous_hash }
    }

    /// One partition, read from this offset, with records of these sources, numbers and blocks.
    fn standing(claimed: Link, from: i64, records: &[(&str, u64, u64)]) -> Standing {
        let mut scan = TopicScan::new("gateway", claimed);
        scan.begin(0, from);
        for (source, seq, at) in records {
            scan.see(0, &request(source, *seq, *at), &value(*seq));
        }
        scan.finish()
    }

    #[test]
    fn p1_the_last_record_is_the_one_with_the_number_and_the_hash_that_the_cursor_claims() {
        let records = [("gateway", 0, 10), ("other", 1, 99), ("gateway", 1, 12), ("gateway", 7, 50)];
        assert_eq!(standing(claimed(2), 0, &records), Standing::UpTo(block(12)));
        assert_eq!(standing(claimed(0), 0, &records[1..2]), Standing::Empty);
    }

    #[test]
    fn p1_a_claim_that_the_topic_would_show_and_does_not_is_contradicted() {
        assert_eq!(standing(claimed(2), 0, &[]), Standing::Contradicted);
        assert_eq!(standing(claimed(5), 0, &[("gateway", 1, 12)]), Standing::Contradicted);
        let of_another_record = Link { seq: 2, previous_hash: B256::repeat_byte(7) };
        assert_eq!(standing(of_another_record, 0, &[("gateway", 1, 12)]), Standing::Contradicted);
        // What came before it is still there, so retention cannot have taken it.
        assert_eq!(standing(claimed(5), 100, &[("gateway", 1, 12)]), Standing::Contradicted);
    }

    #[test]
    fn p5_a_record_past_its_retention_or_before_the_part_that_was_read_contradicts_nothing() {
        assert_eq!(standing(claimed(5), 100, &[("other", 1, 12)]), Standing::Hidden);
        assert_eq!(standing(claimed(5), 100, &[]), Standing::Hidden);
    }

    fn shown(decryption: Standing, key_management: Standing) -> Shown {
        let lanes = vec![(Lane::Decryption, decryption), (Lane::KeyManagement, key_management)];
        Shown { lanes, dead: HashSet::new() }
    }

    #[test]
    fn p4_a_forged_request_beside_a_true_cursor_stops_nobody_and_a_cursor_that_claims_nothing_hides_nothing() {
        let beside = shown(Standing::UpTo(block(3)), Standing::Unclaimed);
        assert_eq!((beside.contradicted(), beside.unclaimed()), (None, None));
        assert!(!beside.is_decided(Lane::KeyManagement));
        let alone = shown(Standing::Empty, Standing::Unclaimed);
        assert_eq!((alone.contradicted(), alone.unclaimed()), (None, Some(Lane::KeyManagement)));
        assert!(alone.is_decided(Lane::KeyManagement), "the chain is asked");
        assert_eq!(shown(Standing::Contradicted, Standing::UpTo(block(3))).contradicted(), Some(Lane::Decryption));
    }

    #[test]
    fn p1_every_block_between_the_newest_request_and_the_cursor_is_looked_at_up_to_the_limit() {
        let both = shown(Standing::UpTo(block(30)), Standing::UpTo(block(12)));
        assert_eq!(both.newest(), Some(block(30)));
        assert_eq!(both.stretch(Some(0), 90, 1000), Some(Stretch { due: 31, first: 31 }));
        assert_eq!(both.stretch(Some(0), 90, 10), Some(Stretch { due: 31, first: 81 }));
        assert_eq!(both.stretch(Some(0), 30, 1000), None);
        assert_eq!(both.stretch(None, u64::MAX, 1), Some(Stretch { due: 31, first: u64::MAX }));
    }

    #[test]
    fn p2_what_nobody_can_tell_is_not_taken_for_skipped() {
        let none = shown(Standing::Empty, Standing::Empty);
        assert_eq!(none.stretch(Some(5), 90, 1000), Some(Stretch { due: 5, first: 5 }));
        assert_eq!(none.stretch(None, 90, 1000), None);
        assert_eq!(shown(Standing::Empty, Standing::Hidden).stretch(Some(5), 90, 1000), None);
        assert_eq!(shown(Standing::Hidden, Standing::Hidden).stretch(Some(5), 90, 1000), None);
        assert!(!shown(Standing::UpTo(block(3)), Standing::Hidden).is_decided(Lane::KeyManagement));
    }
}
