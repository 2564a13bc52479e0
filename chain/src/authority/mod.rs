//! What the chain says about an occurrence: the proof that a record is not forged (P4).
//!
//! ```text
//!  record ─▶ block number ─▶ canonical: is there a block, at our finality? ─▶ cache ─▶ log ─▶ compare with the record
//!                                │                                             ▲
//!                                └──▶ header, transactions, receipts ──▶ recompute
//! ```
//!
//! Anybody who can write to a topic can write a record that is consistent in itself, with a block, a fork, even a whole
//! chain of his own invention: on chains whose blocks carry no work and no signature that is checked here, a chain of
//! hashes proves nothing but consistency with a head that somebody stated. So the block is read from the chain that the
//! service is configured with, at its own finality, and everything is recomputed from there on: the header's hash from its
//! fields, the receipts root from the receipts, the transactions root from the transactions. What does not recompute
//! is first of all undecidable here, and another endpoint is asked.
//!
//! Two calls per block; everything that is asked about it afterwards comes from a cache, bounded in blocks and bytes.
//! How a cached block is known to be still the chain's: `canonical`.

mod block;
mod cache;
mod canonical;
mod error;
mod header;
pub(crate) mod metrics;
mod receipt;
mod rlp;
#[cfg(test)]
mod tests;
mod transaction;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes};
use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use kms_schemas::record::RawLog;
use serde_json::value::RawValue;

use self::block::{ProvenBlock, ProvenHeader};
use self::cache::{Cache, Entry};
use self::canonical::{Canonical, Reached};
pub use self::error::{Difference, Unproven};
use self::metrics::Labels;
use crate::finality::Finality;
use crate::rpc::{BlockNumberOrTag, Evidence, OutageCause, Rpc, RpcError};

/// Memory that the proven blocks of one authority take at most, unless said otherwise.
pub const DEFAULT_CACHE_BYTES: usize = 64 * 1024 * 1024;
/// For how long a look at the chain's head is good for every block below, unless said otherwise. Does not concern
/// finality `finalized`, where one look is good for ever.
pub const DEFAULT_HEAD_AGE: Duration = Duration::from_millis(500);
/// What takes longer than half a millisecond to recompute goes to a thread of its own.
const LARGE_BYTES: usize = 48 * 1024;

/// Where a log stands. One occurrence of a request is its identity and this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Occurrence {
    /// Block number.
    pub block_number: u64,
    /// Block hash.
    pub block_hash: B256,
    /// Index of the log in the block, over all its transactions.
    pub log_index: u64,
}

/// A log that the chain has, at the authority's finality.
#[derive(Clone)]
pub struct ProvenLog {
    /// Where it stands.
    pub at: Occurrence,
    /// The log.
    pub log: RawLog,
    /// Hash of the transaction that emitted it, proven by the transactions root.
    pub transaction_hash: B256,
    /// Index of that transaction in the block.
    pub transaction_index: u64,
    /// Time of the block, in seconds since 1970.
    pub timestamp: u64,
    block: Arc<Entry>,
}

impl fmt::Debug for ProvenLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProvenLog")
            .field("at", &self.at)
            .field("log", &self.log)
            .field("transaction_hash", &self.transaction_hash)
            .field("transaction_index", &self.transaction_index)
            .field("timestamp", &self.timestamp)
            .finish_non_exhaustive()
    }
}

impl ProvenLog {
    /// Every log of the transaction that emitted it, itself included, in order.
    pub fn transaction_logs(&self) -> impl Iterator<Item = &RawLog> {
        self.block.block.logs_of(usize::try_from(self.transaction_index).unwrap_or(usize::MAX))
    }

    /// Compares with what a record claims.
    ///
    /// # Errors
    /// The first difference.
    pub fn compare(&self, log: &RawLog, transaction_hash: B256, timestamp: u64) -> Result<(), Difference> {
        if self.log.address != log.address {
            return Err(Difference::Address);
        }
        if self.log.topics != log.topics {
            return Err(Difference::Topics);
        }
        if self.log.data != log.data {
            return Err(Difference::Data);
        }
        if self.transaction_hash != transaction_hash {
            return Err(Difference::Transaction);
        }
        if self.timestamp != timestamp {
            return Err(Difference::Timestamp);
        }
        Ok(())
    }
}

/// A transaction that the chain has, at the authority's finality.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenTransaction {
    /// Hash.
    pub hash: B256,
    /// Called contract; none for a creation, and for Arbitrum's own transactions whose encoding names none.
    pub to: Option<Address>,
    /// Calldata; empty for Arbitrum's own transactions whose encoding holds none.
    pub input: Bytes,
}

/// Proves occurrences on one chain, at one finality. Cheap to clone; clones share the cache.
#[derive(Clone)]
pub struct Authority {
    inner: Arc<Inner>,
}

struct Inner {
    rpc: Rpc,
    finality: Finality,
    labels: Labels,
    canonical: Canonical,
    cache: Cache,
    /// Blocks that are being read, by number: whoever needs one of them waits for the same reading.
    flights: Mutex<HashMap<u64, Flight>>,
}

type Flight = Shared<BoxFuture<'static, Result<Arc<Entry>, Unproven>>>;

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("rpc", &self.inner.rpc).field("finality", &self.inner.finality).finish()
    }
}

impl Authority {
    /// An authority over the chain of `rpc`, that holds so many proven blocks. Asks nothing yet.
    #[must_use]
    pub fn new(rpc: Rpc, finality: Finality, cache_blocks: usize) -> Self {
        Self::with_limits(rpc, finality, cache_blocks, DEFAULT_CACHE_BYTES, DEFAULT_HEAD_AGE)
    }

    /// The same with a limit on the cache's bytes, and the time for which a look at the head is good.
    #[must_use]
    pub fn with_limits(
        rpc: Rpc,
        finality: Finality,
        cache_blocks: usize,
        cache_bytes: usize,
        head_age: Duration,
    ) -> Self {
        let labels = Labels::new(&rpc.config().name);
        let canonical = Canonical::new(rpc.clone(), finality, labels.clone(), head_age);
        let cache = Cache::new(cache_blocks, cache_bytes);
        Self { inner: Arc::new(Inner { rpc, finality, labels, canonical, cache, flights: Mutex::default() }) }
    }

    /// Up to where it looks.
    #[must_use]
    pub fn finality(&self) -> Finality {
        self.inner.finality
    }

    /// Proves that the chain has this log, and says what it is. The caller compares it with its record.
    ///
    /// # Errors
    /// See [`Unproven`].
    pub async fn prove(&self, at: Occurrence) -> Result<ProvenLog, Unproven> {
        let proven = self.inner.block(at.block_number).await.and_then(|block| find(block, at));
        self.inner.labels.proof(proven.as_ref().map_or_else(Unproven::outcome, |_| "proven"));
        proven
    }

    /// The transaction that emitted a proven log. From the same proven block, without a call.
    ///
    /// # Errors
    /// None at present: callers are prepared for a cache that lets go of calldata.
    pub async fn transaction(&self, proven: &ProvenLog) -> Result<ProvenTransaction, Unproven> {
        let index = usize::try_from(proven.transaction_index).unwrap_or(usize::MAX);
        let Some(transaction) = proven.block.block.transactions.get(index) else {
            let why = format!("no transaction {index}");
            return Err(Unproven::Undecidable { number: proven.at.block_number, why });
        };
        Ok(ProvenTransaction { hash: transaction.hash, to: transaction.to, input: transaction.input.clone() })
    }

    /// Blocks and bytes that the cache holds.
    #[must_use]
    pub fn cached(&self) -> (usize, usize) {
        self.inner.cache.held()
    }
}

fn find(entry: Arc<Entry>, at: Occurrence) -> Result<ProvenLog, Unproven> {
    let ProvenBlock { link, timestamp, ref transactions, .. } = entry.block;
    if link.hash != at.block_hash {
        return Err(Unproven::Orphaned { number: at.block_number, expected: at.block_hash, found: link.hash });
    }
    let Some(log) = entry.block.log(at.log_index) else {
        let logs = entry.block.log_count();
        return Err(Unproven::NoSuchLog { number: at.block_number, hash: link.hash, log_index: at.log_index, logs });
    };
    Ok(ProvenLog {
        at,
        log: log.raw.clone(),
        transaction_hash: transactions[log.transaction].hash,
        transaction_index: log.transaction as u64,
        timestamp,
        block: Arc::clone(&entry),
    })
}

impl Inner {
    /// The chain's block with this number, proven.
    async fn block(self: &Arc<Self>, number: u64) -> Result<Arc<Entry>, Unproven> {
        if let Some(entry) = self.cache.get(number)
            && self.canonical.known(number).is_some_and(|tip| tip.epoch == entry.epoch())
        {
            return Ok(entry);
        }
        self.flight(number).await
    }

    /// Joins the reading of a block, or starts it. It goes on when nobody waits any more, within the client's deadlines.
    fn flight(self: &Arc<Self>, number: u64) -> Flight {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&number) {
            return flight.clone();
        }
        let inner = Arc::clone(self);
        let task = tokio::spawn(async move {
            // Also when the reading panics, others must not wait for it.
            let landed = Landed { inner: &inner, number };
            let result = inner.read(number).await;
            drop(landed);
            result
        });
        let flight = async move {
            let stopped = |error: tokio::task::JoinError| Err(stopped("the reading of a block", &error));
            task.await.unwrap_or_else(stopped)
        };
        let flight = flight.boxed().shared();
        flights.insert(number, flight.clone());
        flight
    }

    async fn read(&self, number: u64) -> Result<Arc<Entry>, Unproven> {
        let Reached { epoch, block } = self.canonical.reach(number).await?;
        if let Some(entry) = self.cache.get(number) {
            if entry.epoch() == epoch || self.still_there(&entry).await? {
                entry.confirm(epoch);
                return Ok(entry);
            }
            self.cache.remove(number);
        }
        let header = match block {
            Some(raw) => large_or_not(raw.get().len(), move || ProvenHeader::read(&raw, number)).await.ok(),
            None => None,
        };
        let header = match header {
            Some(Ok(header)) => header,
            // Another endpoint may state a block that fits.
            _ => self.header(number).await?,
        };
        let entry = Arc::new(Entry::new(self.complete(header).await?, epoch));
        self.cache.insert(&entry);
        self.labels.block_read(self.cache.held());
        Ok(entry)
    }

    /// Whether the chain still has a cached block.
    async fn still_there(&self, entry: &Entry) -> Result<bool, Unproven> {
        let number = entry.block.link.number;
        let evidence = self.rpc.evidence("eth_getBlockByNumber", |endpoint| async move {
            let blocks = [(BlockNumberOrTag::Number(number), false)];
            Ok(match self.rpc.stated_blocks(endpoint, &blocks).await? {
                Evidence::Fits(mut stated) => match stated.pop().flatten().as_deref().map(canonical::link) {
                    Some(Ok(link)) => Evidence::Fits(link == entry.block.link),
                    Some(Err(why)) => Evidence::Undecidable(why),
                    None => Evidence::Absent,
                },
                Evidence::Absent => Evidence::Absent,
                Evidence::Undecidable(why) => Evidence::Undecidable(why),
            })
        });
        evidence.await?.map_err(|unfound| self.canonical.unproven(number, unfound))
    }

    async fn header(&self, number: u64) -> Result<ProvenHeader, Unproven> {
        let evidence = self.rpc.evidence("eth_getBlockByNumber", |endpoint| async move {
            let blocks = [(BlockNumberOrTag::Number(number), true)];
            let mut stated = match self.rpc.stated_blocks(endpoint, &blocks).await? {
                Evidence::Fits(stated) => stated,
                Evidence::Absent => return Ok(Evidence::Absent),
                Evidence::Undecidable(why) => return Ok(Evidence::Undecidable(why)),
            };
            let Some(raw) = stated.pop().flatten() else { return Ok(Evidence::Absent) };
            let header = large_or_not(raw.get().len(), move || ProvenHeader::read(&raw, number)).await?;
            Ok(self.fits(number, endpoint, header))
        });
        evidence.await?.map_err(|unfound| self.canonical.unproven(number, unfound))
    }

    async fn complete(&self, header: ProvenHeader) -> Result<ProvenBlock, Unproven> {
        let number = header.link.number;
        if header.has_no_receipts() {
            return header.with_receipts(Vec::new()).map_err(|why| Unproven::Undecidable { number, why });
        }
        let transactions = header.transaction_hashes();
        let (header, transactions) = (&header, &transactions);
        let evidence = self.rpc.evidence("eth_getBlockReceipts", |endpoint| async move {
            let receipts = match self.rpc.stated_receipts(endpoint, header.link.hash, transactions).await? {
                Evidence::Fits(receipts) => receipts,
                Evidence::Absent => return Ok(Evidence::Absent),
                Evidence::Undecidable(why) => return Ok(Evidence::Undecidable(why)),
            };
            let size = receipts.iter().map(|receipt| receipt.get().len()).sum();
            let header = header.clone();
            let block = large_or_not(size, move || with_receipts(header, &receipts)).await?;
            Ok(self.fits(number, endpoint, block))
        });
        evidence.await?.map_err(|unfound| self.canonical.unproven(number, unfound))
    }

    fn fits<T>(&self, block: u64, endpoint: usize, checked: Result<T, String>) -> Evidence<T> {
        match checked {
            Ok(value) => Evidence::Fits(value),
            Err(why) => {
                self.labels.misfit(block, endpoint, &why);
                Evidence::Undecidable(why)
            }
        }
    }
}

/// Takes a flight from the list when it ends, in whatever way.
struct Landed<'a> {
    inner: &'a Inner,
    number: u64,
}

impl Drop for Landed<'_> {
    fn drop(&mut self) {
        self.inner.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}

fn with_receipts(header: ProvenHeader, receipts: &[Box<RawValue>]) -> Result<ProvenBlock, String> {
    let read = receipts.iter().map(|receipt| serde_json::from_str(receipt.get()));
    let receipts: Result<Vec<_>, serde_json::Error> = read.collect();
    header.with_receipts(receipts.map_err(|error| format!("a receipt: {error}"))?)
}

/// Runs work that is in proportion to so many bytes of JSON, where it holds up nobody.
async fn large_or_not<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, OutageCause> {
    if bytes < LARGE_BYTES {
        return Ok(work());
    }
    let stopped = |error: tokio::task::JoinError| OutageCause::Transport(format!("recomputing a block: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(stopped)
}

fn stopped(what: &str, error: &tokio::task::JoinError) -> Unproven {
    let cause = OutageCause::Transport(format!("{what}: {error}"));
    Unproven::Unavailable(RpcError::Outage { method: "eth_getBlockByNumber", endpoints: 0, cause })
}
