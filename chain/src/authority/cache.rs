//! The blocks that were proven lately: bounded in blocks and in bytes, the least recently used goes first.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::block::ProvenBlock;

/// A proven block, and when it was last seen to be the chain's.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) block: ProvenBlock,
    /// See [`super::canonical::Tip::epoch`].
    epoch: AtomicU64,
    used: AtomicU64,
}

impl Entry {
    pub(super) fn new(block: ProvenBlock, epoch: u64) -> Self {
        Self { block, epoch: AtomicU64::new(epoch), used: AtomicU64::new(0) }
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// It was seen to be the chain's, after the epoch was read.
    pub(super) fn confirm(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Release);
    }
}

/// By number, since a chain has one block of each: a record that names another hash there costs no call.
#[derive(Debug)]
pub(super) struct Cache {
    inner: RwLock<Inner>,
    clock: AtomicU64,
    max_blocks: usize,
    max_bytes: usize,
}

#[derive(Debug, Default)]
struct Inner {
    blocks: HashMap<u64, Arc<Entry>>,
    bytes: usize,
}

impl Cache {
    pub(super) fn new(max_blocks: usize, max_bytes: usize) -> Self {
        Self { inner: RwLock::default(), clock: AtomicU64::new(1), max_blocks: max_blocks.max(1), max_bytes }
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<Entry>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let entry = inner.blocks.get(&number)?;
        entry.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        Some(Arc::clone(entry))
    }

    /// Keeps a block in the place of any other with its number. One that is too large for the cache is not kept.
    pub(super) fn insert(&self, entry: &Arc<Entry>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let number = entry.block.link.number;
        inner.remove(number);
        if entry.block.bytes > self.max_bytes {
            return;
        }
        entry.used.store(self.clock.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        inner.bytes += entry.block.bytes;
        inner.blocks.insert(number, Arc::clone(entry));
        while inner.blocks.len() > self.max_blocks || inner.bytes > self.max_bytes {
            let oldest = inner.blocks.iter().min_by_key(|(_, entry)| entry.used.load(Ordering::Relaxed));
            let Some(oldest) = oldest.map(|(number, _)| *number) else { return };
            inner.remove(oldest);
        }
    }

    pub(super) fn remove(&self, number: u64) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).remove(number);
    }

    /// Blocks and bytes that are held.
    pub(super) fn held(&self) -> (usize, usize) {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        (inner.blocks.len(), inner.bytes)
    }
}

impl Inner {
    fn remove(&mut self, number: u64) {
        if let Some(entry) = self.blocks.remove(&number) {
            self.bytes -= entry.block.bytes;
        }
    }
}
