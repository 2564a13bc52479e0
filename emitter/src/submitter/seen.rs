//! Which requests have an answer of ours on its way, or had one. Pure.
//!
//! Whoever can write to a results topic can write a genuine result once more: it verifies, the chain asked for it, and its
//! transaction would only be refused as a repetition, at our cost. So a request is answered by one result at a time, and by a
//! further one, or by one that this memory cannot vouch for, only after a call showed that the chain still takes it.

use std::collections::{HashMap, VecDeque};

use kms_schemas::identity::Identity;

use super::ItemKey;

/// What is to be done with an answer that was just taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admit {
    /// The first one: send it.
    First,
    /// The chain may have one: try a call before.
    AskFirst,
    /// Another result's answer to the same request is on its way: wait for its end.
    Behind,
}

#[derive(Debug)]
enum State {
    /// An answer is on its way, and these came after it.
    Open { owner: ItemKey, behind: VecDeque<ItemKey> },
    /// One ended.
    Ended { seq: u64 },
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Seen {
    requests: HashMap<Identity, State>,
    /// What ended, oldest first, with the block of the request. What is here and not so in the map was opened again.
    ended: VecDeque<(u64, Identity, u64)>,
    limit: usize,
    seq: u64,
    /// Requests of this block and of earlier ones may have been answered without being remembered.
    vouches_above: u64,
}

impl Seen {
    /// Remembers the end of `limit` answers; those to requests up to the block `head` were perhaps made by a predecessor.
    pub(super) fn new(limit: usize, head: u64) -> Self {
        Self { requests: HashMap::new(), ended: VecDeque::new(), limit, seq: 0, vouches_above: head }
    }

    /// The journal told of a transaction with this answer, which the chain has passed (`is_open` is false) or not.
    pub(super) fn recovered(&mut self, identity: Identity, key: ItemKey, is_open: bool) {
        if is_open {
            self.requests.insert(identity, State::Open { owner: key, behind: VecDeque::new() });
        } else {
            self.requests.entry(identity).or_insert(State::Ended { seq: 0 });
        }
    }

    /// An answer was taken, to a request in this block.
    pub(super) fn admit(&mut self, identity: Identity, key: ItemKey, block: u64) -> Admit {
        match self.requests.get_mut(&identity) {
            Some(State::Open { owner, .. }) if *owner == key => Admit::AskFirst,
            Some(State::Open { behind, .. }) => {
                behind.push_back(key);
                Admit::Behind
            }
            known => {
                let fresh = known.is_none() && block > self.vouches_above;
                self.requests.insert(identity, State::Open { owner: key, behind: VecDeque::new() });
                if fresh { Admit::First } else { Admit::AskFirst }
            }
        }
    }

    /// An answer ended. The one that waited longest for it, which now has to ask the chain.
    pub(super) fn ended(&mut self, identity: &Identity, key: &ItemKey, block: u64) -> Option<ItemKey> {
        let Some(State::Open { owner, behind }) = self.requests.get_mut(identity) else { return None };
        if owner != key {
            behind.retain(|waiting| waiting != key);
            return None;
        }
        if let Some(next) = behind.pop_front() {
            *owner = next;
            return Some(next);
        }
        self.seq += 1;
        self.requests.insert(*identity, State::Ended { seq: self.seq });
        self.ended.push_back((self.seq, *identity, block));
        while self.ended.len() > self.limit {
            self.forget_oldest();
        }
        None
    }

    fn forget_oldest(&mut self) {
        let Some((seq, identity, block)) = self.ended.pop_front() else { return };
        if matches!(self.requests.get(&identity), Some(State::Ended { seq: last }) if *last == seq) {
            self.requests.remove(&identity);
        }
        self.vouches_above = self.vouches_above.max(block);
    }

    /// Requests that are remembered.
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, B256};
    use kms_schemas::identity::{Kind, Lane, RequestId};

    use super::*;

    fn request(number: u8) -> Identity {
        let id = RequestId(B256::with_last_byte(number));
        Identity { chain_id: 1, contract: Address::ZERO, kind: Kind::PublicDecryption, id }
    }

    fn key(offset: i64) -> ItemKey {
        ItemKey { lane: Lane::Decryption, partition: 0, offset }
    }

    #[test]
    fn p4_a_result_written_once_more_waits_for_the_first_and_then_asks_the_chain() {
        let mut seen = Seen::new(10, 100);
        assert_eq!(seen.admit(request(1), key(0), 101), Admit::First);
        assert_eq!(seen.admit(request(1), key(1), 101), Admit::Behind);
        assert_eq!(seen.admit(request(1), key(2), 101), Admit::Behind);
        assert_eq!(seen.admit(request(2), key(3), 101), Admit::First);
        // One at a time: the first may have been refused, and then the second is sent.
        assert_eq!(seen.ended(&request(1), &key(0), 101), Some(key(1)));
        assert_eq!(seen.ended(&request(1), &key(1), 101), Some(key(2)));
        assert_eq!(seen.ended(&request(1), &key(2), 101), None);
        assert_eq!(seen.admit(request(1), key(4), 101), Admit::AskFirst);
    }

    #[test]
    fn p4_what_the_memory_cannot_vouch_for_asks_the_chain() {
        let mut seen = Seen::new(2, 100);
        // From before this term.
        assert_eq!(seen.admit(request(1), key(0), 100), Admit::AskFirst);
        for number in 2..6 {
            let block = 100 + u64::from(number);
            assert_eq!(seen.admit(request(number), key(number.into()), block), Admit::First);
            assert_eq!(seen.ended(&request(number), &key(number.into()), block), None);
        }
        // Forgotten, and with it the certainty about its block and those before.
        assert_eq!(seen.admit(request(2), key(20), 102), Admit::AskFirst);
        assert_eq!(seen.admit(request(7), key(21), 103), Admit::AskFirst);
        assert_eq!(seen.admit(request(8), key(22), 104), Admit::First);
        // Open ones are never forgotten.
        assert_eq!(seen.admit(request(1), key(23), 100), Admit::Behind);
    }

    #[test]
    fn p6_the_memory_is_bounded_also_when_requests_are_answered_again_and_again() {
        let mut seen = Seen::new(3, 0);
        for round in 0..100 {
            for number in 0..6 {
                seen.admit(request(number), key(round), 5);
                seen.ended(&request(number), &key(round), 5);
            }
        }
        assert!(seen.len() <= 3 && seen.ended.len() <= 3, "{seen:?}");
    }

    #[test]
    fn what_the_journal_told_is_on_its_way_or_over() {
        let mut seen = Seen::new(10, 0);
        seen.recovered(request(1), key(0), true);
        seen.recovered(request(2), key(1), false);
        assert_eq!(seen.admit(request(1), key(5), 50), Admit::Behind);
        assert_eq!(seen.admit(request(2), key(6), 50), Admit::AskFirst);
        // One that waited and was taken back leaves no trace.
        assert_eq!(seen.ended(&request(1), &key(5), 50), None);
        assert_eq!(seen.ended(&request(1), &key(0), 50), None);
    }
}
