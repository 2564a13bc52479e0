//! Whether a chain has a pool of transactions, and how they are sent accordingly.
//!
//! On Ethereum a node keeps what it is sent, in any order, until it is mined or replaced. An Arbitrum sequencer keeps nothing: a
//! send blocks until the transaction is in a block, and one that is ahead of a missing nonce fails after about a second
//! (`docs/protocol.md`, "Chains"). There, a request with many transactions makes each wait for the one before, while those of
//! the next request wait for it in vain; so each transaction is a request of its own, and some are under way at once in the
//! order of their nonces.

use kms_chain::rpc::{Rpc, RpcError};
use serde_json::{Value, json};

/// How transactions go to the nodes of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sends {
    /// The chain has a pool: what is in it can be replaced, and the order of sending does not matter.
    pub pool: bool,
    /// Transactions in one request.
    pub batch: usize,
    /// Such requests at once.
    pub concurrency: usize,
}

impl Sends {
    /// What suits a chain with or without a pool.
    #[must_use]
    pub const fn suiting(pool: bool) -> Self {
        match pool {
            true => Self { pool, batch: 50, concurrency: 4 },
            // Of the requests that a client has under way some are left for reading.
            false => Self { pool, batch: 1, concurrency: 8 },
        }
    }
}

/// Asks the nodes whether the chain has a pool.
///
/// # Errors
/// See [`RpcError`].
pub async fn has_pool(rpc: &Rpc) -> Result<bool, RpcError> {
    let head: Value = rpc.request("eth_getBlockByNumber", json!(["latest", false])).await?;
    Ok(!is_arbitrum(&head))
}

/// The priority fee that is usual on the chain, in wei per gas, as a node suggests it or as the last blocks paid it; none where no
/// node tells either.
///
/// # Errors
/// See [`RpcError`]; a refusal is none.
pub async fn usual_priority_fee(rpc: &Rpc) -> Result<Option<u128>, RpcError> {
    const BLOCKS: u64 = 10;
    match rpc.max_priority_fee().await {
        Ok(fee) => return Ok(Some(fee)),
        Err(error) if error.is_outage() => return Err(error),
        Err(_) => {}
    }
    match rpc.fee_history(BLOCKS, &[50.0]).await {
        Ok(history) => {
            let paid = history.reward.unwrap_or_default();
            Ok(median(paid.iter().filter_map(|block| block.first().copied()).collect()))
        }
        Err(error) if error.is_outage() => Err(error),
        Err(_) => Ok(None),
    }
}

fn median(mut values: Vec<u128>) -> Option<u128> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

/// Whether a block, as a node shows it, is one of an Arbitrum chain.
fn is_arbitrum(block: &Value) -> bool {
    ["sendRoot", "sendCount", "l1BlockNumber"].iter().all(|field| block[*field].is_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arbitrum_chain_is_known_by_the_fields_of_its_blocks() {
        let plain = json!({ "number": "0x1", "hash": "0x02", "baseFeePerGas": "0x7", "extraData": "0x" });
        assert!(!is_arbitrum(&plain));
        assert!(!is_arbitrum(&Value::Null));
        let mut block = plain;
        block["l1BlockNumber"] = json!("0x16e3600");
        assert!(!is_arbitrum(&block), "one field alone may be another rollup's");
        block["sendRoot"] = json!("0x0000000000000000000000000000000000000000000000000000000000000003");
        block["sendCount"] = json!("0x4");
        assert!(is_arbitrum(&block));
    }
}
