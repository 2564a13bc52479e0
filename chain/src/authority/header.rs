//! A block as a node states it, and the hash of its header.

use alloy::primitives::{Address, B64, B256, Bloom, Bytes, U256, keccak256};
use serde::Deserialize;

use super::rlp::List;
use super::transaction::TransactionFields;

/// A block with its transactions, as JSON. Quantities are read in full width, since a header type that saturates or
/// pads would hash to something else than the block. Fields that are not hashed (`sendRoot` and the others of
/// `docs/protocol.md`, "Chains") are passed over.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BlockFields {
    pub(super) hash: B256,
    pub(super) parent_hash: B256,
    sha3_uncles: B256,
    miner: Address,
    state_root: B256,
    pub(super) transactions_root: B256,
    pub(super) receipts_root: B256,
    logs_bloom: Bloom,
    difficulty: U256,
    pub(super) number: U256,
    gas_limit: U256,
    gas_used: U256,
    pub(super) timestamp: U256,
    extra_data: Bytes,
    mix_hash: B256,
    nonce: B64,
    #[serde(default)]
    base_fee_per_gas: Option<U256>,
    #[serde(default)]
    withdrawals_root: Option<B256>,
    #[serde(default)]
    blob_gas_used: Option<U256>,
    #[serde(default)]
    excess_blob_gas: Option<U256>,
    #[serde(default)]
    parent_beacon_block_root: Option<B256>,
    // Some releases of geth, and Nitro's, call it so.
    #[serde(default, alias = "requestsRoot")]
    requests_hash: Option<B256>,
    #[serde(default)]
    block_access_list_hash: Option<B256>,
    #[serde(default)]
    slot_number: Option<U256>,
    pub(super) transactions: Vec<TransactionFields>,
}

impl BlockFields {
    /// The hash that these fields come to, whatever the node states.
    pub(super) fn header_hash(&self) -> B256 {
        let mut list = List::with_capacity(700);
        list.put(self.parent_hash)
            .put(self.sha3_uncles)
            .put(self.miner)
            .put(self.state_root)
            .put(self.transactions_root)
            .put(self.receipts_root)
            .put(self.logs_bloom)
            .put(self.difficulty)
            .put(self.number)
            .put(self.gas_limit)
            .put(self.gas_used)
            .put(self.timestamp)
            .put(&self.extra_data)
            .put(self.mix_hash)
            .put(self.nonce);
        // A fork appends its fields to those of the forks before it, so that none of them is ever missing in between.
        if let Some(base_fee) = self.base_fee_per_gas {
            list.put(base_fee);
        }
        if let Some(root) = self.withdrawals_root {
            list.put(root);
        }
        if let Some(gas) = self.blob_gas_used {
            list.put(gas);
        }
        if let Some(gas) = self.excess_blob_gas {
            list.put(gas);
        }
        if let Some(root) = self.parent_beacon_block_root {
            list.put(root);
        }
        if let Some(hash) = self.requests_hash {
            list.put(hash);
        }
        if let Some(hash) = self.block_access_list_hash {
            list.put(hash);
        }
        if let Some(slot) = self.slot_number {
            list.put(slot);
        }
        let mut encoded = Vec::with_capacity(720);
        list.write(&mut encoded);
        keccak256(encoded)
    }
}

/// What says where a block stands, of a block with or without its transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Link {
    #[serde(with = "alloy::serde::quantity")]
    pub(super) number: u64,
    pub(super) hash: B256,
    pub(super) parent_hash: B256,
}
