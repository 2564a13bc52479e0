//! What of a block is proven, and how. Pure: takes what nodes state, believes what recomputes.

use alloy::consensus::constants::EMPTY_ROOT_HASH;
use alloy::consensus::proofs::ordered_trie_root_encoded;
use alloy::primitives::{Address, B256, Bytes, keccak256};
use kms_schemas::record::RawLog;
use serde_json::value::RawValue;

use super::header::{BlockFields, Link};
use super::receipt::ReceiptFields;

/// A block whose header hashes to its hash and whose transactions hash to the header's root. Its receipts are to come.
#[derive(Clone, Debug)]
pub(super) struct ProvenHeader {
    pub(super) link: Link,
    timestamp: u64,
    receipts_root: B256,
    transactions: Vec<BlockTransaction>,
}

/// A transaction of a proven block.
#[derive(Clone, Debug)]
pub(super) struct BlockTransaction {
    pub(super) hash: B256,
    pub(super) to: Option<Address>,
    /// Let go where the transaction has no logs: nobody asks for it.
    pub(super) input: Bytes,
}

/// A block of which everything that is kept here was recomputed up to its hash.
#[derive(Debug)]
pub(super) struct ProvenBlock {
    pub(super) link: Link,
    pub(super) timestamp: u64,
    pub(super) transactions: Vec<BlockTransaction>,
    logs: Vec<BlockLog>,
    /// Memory that it takes, about.
    pub(super) bytes: usize,
}

#[derive(Debug)]
pub(super) struct BlockLog {
    pub(super) raw: RawLog,
    pub(super) transaction: usize,
}

impl ProvenHeader {
    /// Reads a block with its transactions.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub(super) fn read(raw: &RawValue, number: u64) -> Result<Self, String> {
        let block: BlockFields = serde_json::from_str(raw.get()).map_err(|error| format!("a block: {error}"))?;
        let (Ok(stated), Ok(timestamp)) = (u64::try_from(block.number), u64::try_from(block.timestamp)) else {
            return Err("a block with a number or time beyond 64 bits".to_owned());
        };
        if stated != number {
            return Err(format!("block {stated} instead of {number}"));
        }
        let hash = block.header_hash();
        if hash != block.hash {
            return Err(format!("the header's fields hash to {hash}, the node states {}", block.hash));
        }

        let mut encoded = Vec::with_capacity(block.transactions.len());
        for transaction in &block.transactions {
            let mut bytes = Vec::new();
            transaction.encode(&mut bytes).map_err(|error| error.to_string())?;
            encoded.push(bytes);
        }
        let root = ordered_trie_root_encoded(&encoded);
        if root != block.transactions_root {
            return Err(format!("the transactions hash to {root}, the header has {}", block.transactions_root));
        }
        let transactions = block.transactions.into_iter().zip(&encoded).map(|(transaction, encoded)| {
            let (to, input) = transaction.into_call();
            BlockTransaction { hash: keccak256(encoded), to, input }
        });
        Ok(Self {
            link: Link { number, hash, parent_hash: block.parent_hash },
            timestamp,
            receipts_root: block.receipts_root,
            transactions: transactions.collect(),
        })
    }

    /// Whether there is nothing to ask receipts for.
    pub(super) fn has_no_receipts(&self) -> bool {
        self.receipts_root == EMPTY_ROOT_HASH
    }

    pub(super) fn transaction_hashes(&self) -> Vec<B256> {
        self.transactions.iter().map(|transaction| transaction.hash).collect()
    }

    /// Adds the receipts, in the order of the block.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub(super) fn with_receipts(mut self, receipts: Vec<ReceiptFields>) -> Result<ProvenBlock, String> {
        if receipts.len() != self.transactions.len() {
            return Err(format!("{} receipts for {} transactions", receipts.len(), self.transactions.len()));
        }
        let mut encoded = Vec::with_capacity(receipts.len());
        for receipt in &receipts {
            let mut bytes = Vec::new();
            receipt.encode(&mut bytes)?;
            encoded.push(bytes);
        }
        let root = ordered_trie_root_encoded(&encoded);
        if root != self.receipts_root {
            return Err(format!("the receipts hash to {root}, the header has {}", self.receipts_root));
        }
        let mut logs = Vec::new();
        for (index, receipt) in receipts.into_iter().enumerate() {
            if !receipt.has_logs() {
                self.transactions[index].input = Bytes::new();
            }
            logs.extend(receipt.into_logs().map(|raw| BlockLog { raw, transaction: index }));
        }
        Ok(ProvenBlock::new(self, logs))
    }
}

impl ProvenBlock {
    /// The logs of one transaction, by its index.
    pub(super) fn logs_of(&self, transaction: usize) -> impl Iterator<Item = &RawLog> {
        self.logs.iter().filter(move |log| log.transaction == transaction).map(|log| &log.raw)
    }

    fn new(header: ProvenHeader, logs: Vec<BlockLog>) -> Self {
        let ProvenHeader { link, timestamp, transactions, .. } = header;
        let transaction_bytes: usize =
            transactions.iter().map(|tx| size_of::<BlockTransaction>() + tx.input.len()).sum();
        let log_bytes: usize =
            logs.iter().map(|log| size_of::<BlockLog>() + log.raw.topics.len() * 32 + log.raw.data.len()).sum();
        let bytes = size_of::<Self>() + transaction_bytes + log_bytes;
        Self { link, timestamp, transactions, logs, bytes }
    }

    pub(super) fn log(&self, index: u64) -> Option<&BlockLog> {
        self.logs.get(usize::try_from(index).ok()?)
    }

    pub(super) fn log_count(&self) -> usize {
        self.logs.len()
    }
}
