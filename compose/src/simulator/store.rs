//! The result store of one kind of operation: pending, then done or failed, until evicted, removed or forgotten.
//! Entries that were removed are forgotten up to version 0.13.22 and stay as deleted from 0.14 on.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::refusal::OperationId;

/// How a store is bounded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    /// Most entries.
    pub(super) capacity: usize,
    /// Finished entries that are never evicted: the latest ones.
    pub(super) kept: usize,
}

/// How a store treats what it holds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rules {
    /// Where entries are evicted.
    pub(super) bound: Option<Bound>,
    /// A failed entry can be started again.
    pub(super) redoes_failed: bool,
    /// A removed entry stays known as deleted.
    pub(super) remembers_deleted: bool,
}

/// State of an id that a store knows.
#[derive(Debug)]
pub(super) enum State<T> {
    /// Accepted and not finished.
    Pending,
    /// Finished well.
    Done(Arc<T>),
    /// Finished with an error, whose text only the introspection service tells.
    Failed(Arc<str>),
    /// Removed, and never to be used again.
    Deleted,
}

impl<T> Clone for State<T> {
    fn clone(&self) -> Self {
        match self {
            Self::Pending => Self::Pending,
            Self::Done(result) => Self::Done(Arc::clone(result)),
            Self::Failed(why) => Self::Failed(Arc::clone(why)),
            Self::Deleted => Self::Deleted,
        }
    }
}

/// Why an id was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotInserted {
    /// Running, done, failed or deleted already.
    Exists,
    /// No room, and too few finished entries to make any.
    Full,
}

#[derive(Debug)]
struct Entry<T> {
    state: State<T>,
    /// Cancelled when the entry leaves `Pending`.
    settled: CancellationToken,
}

impl<T> Entry<T> {
    fn pending() -> Self {
        Self { state: State::Pending, settled: CancellationToken::new() }
    }

    fn settled(state: State<T>) -> Self {
        let settled = CancellationToken::new();
        settled.cancel();
        Self { state, settled }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store<T> {
    entries: HashMap<OperationId, Entry<T>>,
    /// Finished entries, oldest first. Only kept where entries are evicted.
    finished: VecDeque<OperationId>,
    rules: Rules,
}

impl<T> Store<T> {
    pub(super) fn new(rules: Rules) -> Self {
        Self { entries: HashMap::new(), finished: VecDeque::new(), rules }
    }

    /// Takes an id in as pending, evicting the oldest finished entry where the store is full. A failed entry becomes pending
    /// again where the rules say so.
    pub(super) fn insert(&mut self, id: OperationId) -> Result<(), NotInserted> {
        match self.entries.get(&id).map(|entry| &entry.state) {
            Some(State::Failed(_)) if self.rules.redoes_failed => {
                self.finished.retain(|finished| *finished != id);
                self.entries.insert(id, Entry::pending());
                return Ok(());
            }
            Some(_) => return Err(NotInserted::Exists),
            None => {}
        }
        if let Some(bound) = self.rules.bound
            && self.entries.len() >= bound.capacity
        {
            if self.finished.len() <= bound.kept {
                return Err(NotInserted::Full);
            }
            if let Some(oldest) = self.finished.pop_front() {
                self.entries.remove(&oldest);
            }
        }
        self.entries.insert(id, Entry::pending());
        Ok(())
    }

    /// Settles a pending entry. An entry that was removed meanwhile stays removed.
    pub(super) fn settle(&mut self, id: OperationId, outcome: Result<T, String>) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if !matches!(entry.state, State::Pending) {
            return;
        }
        entry.state = match outcome {
            Ok(result) => State::Done(Arc::new(result)),
            Err(why) => State::Failed(why.into()),
        };
        entry.settled.cancel();
        if self.rules.bound.is_some() {
            self.finished.push_back(id);
        }
    }

    /// Puts a finished entry in, as a restart does from storage.
    pub(super) fn restore(&mut self, id: OperationId, result: T) {
        self.entries.insert(id, Entry::settled(State::Done(Arc::new(result))));
    }

    pub(super) fn state(&self, id: OperationId) -> Option<State<T>> {
        self.entries.get(&id).map(|entry| entry.state.clone())
    }

    /// Resolves once the entry is not pending any more.
    pub(super) fn settled(&self, id: OperationId) -> Option<CancellationToken> {
        self.entries.get(&id).map(|entry| entry.settled.clone())
    }

    /// Removes an id (a preprocessing that was consumed).
    pub(super) fn remove(&mut self, id: OperationId) {
        let removed = self.entries.remove(&id);
        if self.rules.remembers_deleted && removed.is_some() {
            self.entries.insert(id, Entry::settled(State::Deleted));
        }
    }

    /// Entries that were not deleted.
    pub(super) fn len(&self) -> usize {
        self.entries.values().filter(|entry| !matches!(entry.state, State::Deleted)).count()
    }

    /// Most entries; none where the store is unbounded.
    pub(super) fn capacity(&self) -> Option<usize> {
        self.rules.bound.map(|bound| bound.capacity)
    }

    /// Every id with its state, in the order of the ids.
    pub(super) fn list(&self) -> Vec<(OperationId, State<T>)> {
        let mut all: Vec<_> = self.entries.iter().map(|(id, entry)| (*id, entry.state.clone())).collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    fn id(number: u8) -> OperationId {
        OperationId(B256::with_last_byte(number))
    }

    fn bounded(capacity: usize, kept: usize) -> Store<u8> {
        Store::new(Rules { bound: Some(Bound { capacity, kept }), ..Rules::default() })
    }

    #[test]
    fn a_known_id_is_refused_whatever_its_state() {
        let mut store = bounded(10, 0);
        for (number, outcome) in [(1, None), (2, Some(Ok(7))), (3, Some(Err("no".to_owned())))] {
            store.insert(id(number)).unwrap();
            if let Some(outcome) = outcome {
                store.settle(id(number), outcome);
            }
            assert_eq!(store.insert(id(number)), Err(NotInserted::Exists));
        }
    }

    #[test]
    fn a_full_store_evicts_its_oldest_finished_entry() {
        let mut store = bounded(3, 1);
        for number in 1..=3 {
            store.insert(id(number)).unwrap();
        }
        store.settle(id(2), Ok(2));
        store.settle(id(1), Ok(1));
        store.insert(id(4)).unwrap();
        assert!(store.state(id(2)).is_none());
        assert!(store.state(id(1)).is_some());
        assert_eq!(store.len(), 3);
    }

    #[test]
    fn the_latest_finished_entries_and_the_pending_ones_are_never_evicted() {
        let mut store = bounded(2, 1);
        store.insert(id(1)).unwrap();
        assert_eq!(store.insert(id(2)), Ok(()));
        assert_eq!(store.insert(id(3)), Err(NotInserted::Full));
        store.settle(id(1), Ok(1));
        assert_eq!(store.insert(id(3)), Err(NotInserted::Full));
        store.settle(id(2), Ok(2));
        assert_eq!(store.insert(id(3)), Ok(()));
        assert!(store.state(id(1)).is_none());
    }

    #[test]
    fn an_unbounded_store_takes_everything() {
        let mut store = Store::new(Rules::default());
        for number in 0..=255 {
            store.insert(id(number)).unwrap();
            store.settle(id(number), Ok(number));
        }
        assert_eq!(store.len(), 256);
    }

    #[test]
    fn a_removed_entry_stays_removed_when_it_settles() {
        let mut store = bounded(3, 1);
        store.insert(id(1)).unwrap();
        store.remove(id(1));
        store.settle(id(1), Ok(1));
        assert!(store.state(id(1)).is_none());
    }

    #[test]
    fn where_failed_entries_are_redone_only_they_are_taken_in_again() {
        let mut store =
            Store::new(Rules { bound: Some(Bound { capacity: 2, kept: 1 }), redoes_failed: true, ..Rules::default() });
        store.insert(id(1)).unwrap();
        store.settle(id(1), Err("no".to_owned()));
        store.insert(id(1)).unwrap();
        assert!(matches!(store.state(id(1)), Some(State::Pending)));
        assert_eq!(store.insert(id(1)), Err(NotInserted::Exists));
        store.settle(id(1), Ok(1));
        assert_eq!(store.insert(id(1)), Err(NotInserted::Exists));
        assert_eq!(store.finished.len(), 1, "it is evicted once only");
    }

    #[test]
    fn where_deleted_entries_are_remembered_their_ids_are_burnt() {
        let mut store = Store::new(Rules { remembers_deleted: true, ..Rules::default() });
        store.insert(id(1)).unwrap();
        store.settle(id(1), Ok(1));
        store.remove(id(1));
        store.remove(id(2));
        assert!(matches!(store.state(id(1)), Some(State::Deleted)));
        assert!(store.state(id(2)).is_none());
        assert_eq!(store.insert(id(1)), Err(NotInserted::Exists));
        assert_eq!(store.len(), 0);
    }

    #[test]
    fn an_entry_settles_once() {
        let mut store = bounded(3, 1);
        store.insert(id(1)).unwrap();
        store.settle(id(1), Err("aborted".to_owned()));
        store.settle(id(1), Ok(1));
        assert!(matches!(store.state(id(1)), Some(State::Failed(_))));
    }
}
