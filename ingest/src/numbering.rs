//! The dense numbering of records per requests topic, chained by hash. Pure.

use std::collections::BTreeMap;

use alloy::primitives::{B256, keccak256};
use kms_schemas::record::Sequence;

/// Next number and last hash of every requests topic. Cloned for a transaction, and taken over when it is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Numbering {
    topics: BTreeMap<String, Link>,
}

/// What the next record of a topic carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its number.
    pub(crate) seq: u64,
    /// Hash of the record before; zero for the first.
    pub(crate) previous_hash: B256,
}

impl Numbering {
    pub(crate) fn from_sequences(sequences: &[Sequence]) -> Self {
        let link = |sequence: &Sequence| Link { seq: sequence.next, previous_hash: sequence.last_hash };
        Self { topics: sequences.iter().map(|sequence| (sequence.topic.clone(), link(sequence))).collect() }
    }

    pub(crate) fn to_sequences(&self) -> Vec<Sequence> {
        let sequence = |(topic, link): (&String, &Link)| Sequence {
            topic: topic.clone(),
            next: link.seq,
            last_hash: link.previous_hash,
        };
        self.topics.iter().map(sequence).collect()
    }

    pub(crate) fn next(&self, topic: &str) -> Link {
        self.topics.get(topic).copied().unwrap_or_default()
    }

    /// The next record of `topic` was encoded as `value`.
    pub(crate) fn wrote(&mut self, topic: &str, value: &[u8]) {
        let link = self.next(topic);
        let next = Link { seq: link.seq + 1, previous_hash: keccak256(value) };
        self.topics.insert(topic.to_owned(), next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_per_topic_and_each_record_names_the_hash_of_the_one_before() {
        let mut numbering = Numbering::default();
        assert_eq!(numbering.next("a"), Link { seq: 0, previous_hash: B256::ZERO });
        numbering.wrote("a", b"first");
        assert_eq!(numbering.next("a"), Link { seq: 1, previous_hash: keccak256(b"first") });
        assert_eq!(numbering.next("b"), Link::default());
        numbering.wrote("b", b"other");
        numbering.wrote("a", b"second");
        assert_eq!(numbering.next("a"), Link { seq: 2, previous_hash: keccak256(b"second") });
        assert_eq!(numbering.next("b"), Link { seq: 1, previous_hash: keccak256(b"other") });
    }

    #[test]
    fn p2_a_numbering_goes_on_from_the_cursor_where_it_stopped() {
        let mut before = Numbering::default();
        before.wrote("a", b"1");
        before.wrote("a", b"2");
        before.wrote("b", b"3");
        assert_eq!(Numbering::from_sequences(&before.to_sequences()), before);
    }

    #[test]
    fn p2_a_transaction_that_is_not_committed_uses_up_no_number() {
        let committed = Numbering::default();
        let mut attempt = committed.clone();
        attempt.wrote("a", b"lost");
        assert_eq!(committed.next("a").seq, 0);
    }
}
