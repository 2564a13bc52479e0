//! What nodes answer, in the tolerant form that an Arbitrum chain needs (`docs/protocol.md`, "Chains").

use alloy::network::{AnyRpcHeader, AnyTransactionReceipt};
use alloy::primitives::{Address, B256, Bytes};
use kms_schemas::record::{BlockRef, RawLog};
use serde::Deserialize;

use super::error::OutageCause;
use super::wire::malformed;

/// A block's header and the hashes of its transactions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Block {
    /// The header as the node states it; its hash is not recomputed.
    #[serde(flatten)]
    pub header: AnyRpcHeader,
    /// Hashes of the transactions, in order.
    #[serde(default)]
    pub transactions: Vec<B256>,
}

impl Block {
    /// Block number.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.header.inner.number
    }

    /// Block hash, as stated.
    #[must_use]
    pub fn hash(&self) -> B256 {
        self.header.hash
    }

    /// Hash of the block before.
    #[must_use]
    pub fn parent_hash(&self) -> B256 {
        self.header.inner.parent_hash
    }

    /// Seconds since 1970. Blocks less than a second apart share it.
    #[must_use]
    pub fn timestamp(&self) -> u64 {
        self.header.inner.timestamp
    }

    /// Base fee in wei per gas; 0 where the chain has none.
    #[must_use]
    pub fn base_fee(&self) -> u128 {
        self.header.inner.base_fee_per_gas.unwrap_or(0).into()
    }

    /// Number and hash.
    #[must_use]
    pub fn reference(&self) -> BlockRef {
        BlockRef { number: self.number(), hash: self.hash() }
    }
}

/// A log of a mined transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainLog {
    /// Block number.
    pub block_number: u64,
    /// Block hash.
    pub block_hash: B256,
    /// Seconds since 1970, where the node says it.
    pub block_timestamp: Option<u64>,
    /// Transaction, as the node states it.
    pub transaction_hash: B256,
    /// Index of the transaction in the block.
    pub transaction_index: u64,
    /// Index of the log in the block.
    pub log_index: u64,
    /// The log itself.
    pub raw: RawLog,
}

impl TryFrom<alloy::rpc::types::Log> for ChainLog {
    type Error = OutageCause;

    fn try_from(log: alloy::rpc::types::Log) -> Result<Self, OutageCause> {
        if log.removed {
            return Err(malformed("a removed log"));
        }
        let (Some(block_number), Some(block_hash), Some(transaction_hash), Some(transaction_index), Some(log_index)) =
            (log.block_number, log.block_hash, log.transaction_hash, log.transaction_index, log.log_index)
        else {
            return Err(malformed("a log without its place in the chain"));
        };
        let block_timestamp = log.block_timestamp;
        let (topics, data) = (log.inner.data.topics().to_vec(), log.inner.data.data);
        let raw = RawLog { address: log.inner.address, topics, data };
        Ok(Self { block_number, block_hash, block_timestamp, transaction_hash, transaction_index, log_index, raw })
    }
}

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Receipt(pub AnyTransactionReceipt);

impl Receipt {
    /// Hash of the transaction.
    #[must_use]
    pub fn transaction_hash(&self) -> B256 {
        self.0.transaction_hash()
    }

    /// The block that includes the transaction; none while it is pending, for nodes that answer so.
    #[must_use]
    pub fn block(&self) -> Option<BlockRef> {
        Some(BlockRef { number: self.0.block_number()?, hash: self.0.block_hash()? })
    }

    /// Whether the transaction succeeded.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.0.is_success()
    }

    /// Gas used, the L1 share included.
    #[must_use]
    pub fn gas_used(&self) -> u64 {
        self.0.gas_used()
    }

    /// The L1 share of the gas used (`gasUsedForL1` of Arbitrum chains); 0 where the chain has none. It follows the
    /// price of L1 and says nothing about the call.
    #[must_use]
    pub fn gas_used_for_l1(&self) -> u64 {
        let field = self.0.other_fields().get("gasUsedForL1").and_then(serde_json::Value::as_str);
        field.and_then(|hex| u64::from_str_radix(hex.trim_start_matches("0x"), 16).ok()).unwrap_or(0)
    }

    /// Wei per gas.
    #[must_use]
    pub fn effective_gas_price(&self) -> u128 {
        self.0.effective_gas_price()
    }

    /// The logs, which must all belong to the same mined block.
    ///
    /// # Errors
    /// A log does not say its place in the chain.
    pub fn logs(&self) -> Result<Vec<ChainLog>, OutageCause> {
        self.0.0.inner.inner.logs().iter().cloned().map(ChainLog::try_from).collect()
    }
}

/// A transaction of any type, as far as anybody needs it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Transaction {
    /// Hash.
    pub hash: B256,
    /// The block that includes it; none while it is pending.
    #[serde(default)]
    pub block_hash: Option<B256>,
    /// Number of that block.
    #[serde(default, with = "alloy::serde::quantity::opt")]
    pub block_number: Option<u64>,
    /// Sender.
    pub from: Address,
    /// Called contract; none for a creation.
    #[serde(default)]
    pub to: Option<Address>,
    /// Calldata.
    #[serde(default)]
    pub input: Bytes,
    /// Nonce of the sender.
    #[serde(default, with = "alloy::serde::quantity")]
    pub nonce: u64,
}

/// A call or an estimate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRequest {
    /// `msg.sender`; none for a view that does not look at it.
    pub from: Option<Address>,
    /// Called contract.
    pub to: Address,
    /// Calldata.
    pub data: Bytes,
    /// Gas limit; none for the node's own.
    pub gas: Option<u64>,
}

impl CallRequest {
    /// A call of a view.
    #[must_use]
    pub fn view(to: Address, data: impl Into<Bytes>) -> Self {
        Self { from: None, to, data: data.into(), gas: None }
    }

    /// A call as `from` would send it.
    #[must_use]
    pub fn from(from: Address, to: Address, data: impl Into<Bytes>) -> Self {
        Self { from: Some(from), to, data: data.into(), gas: None }
    }

    pub(crate) fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::json!({ "to": self.to, "data": self.data });
        if let Some(from) = self.from {
            json["from"] = serde_json::json!(from);
        }
        if let Some(gas) = self.gas {
            json["gas"] = serde_json::json!(format!("{gas:#x}"));
        }
        json
    }
}

/// Which logs to ask for: of any of these contracts, with any of these first topics, in a closed range of blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogQuery {
    /// Contracts.
    pub addresses: Vec<Address>,
    /// First topics.
    pub topics: Vec<B256>,
    /// First block.
    pub from: u64,
    /// Last block.
    pub to: u64,
}

impl LogQuery {
    pub(crate) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "address": self.addresses,
            "topics": [self.topics],
            "fromBlock": format!("{:#x}", self.from),
            "toBlock": format!("{:#x}", self.to),
        })
    }
}

/// The answer to a [`LogQuery`], from a node that had the last block of the range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPage {
    /// The logs, in the order of the chain.
    pub logs: Vec<ChainLog>,
    /// The last block of the range.
    pub last: Block,
    /// Number of the endpoint that answered.
    pub endpoint: usize,
}

/// What one endpoint says about its head.
#[derive(Clone, Debug)]
pub struct EndpointHead {
    /// Number of the endpoint in the configuration.
    pub endpoint: usize,
    /// Scheme and host of its URL.
    pub url: String,
    /// Its latest block, or why there is none.
    pub head: Result<u64, OutageCause>,
}
