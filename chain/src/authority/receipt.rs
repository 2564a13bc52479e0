//! A receipt as a node states it, and the bytes that the receipts root commits to.

use alloy::primitives::{Address, B256, Bloom, Bytes, U256};
use kms_schemas::record::RawLog;
use serde::Deserialize;

use super::rlp::List;

/// A receipt as JSON. What is not hashed (`gasUsedForL1`, the transaction's hash, indexes) is passed over: a receipt
/// does not commit to it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ReceiptFields {
    #[serde(rename = "type", default)]
    kind: U256,
    status: Option<U256>,
    root: Option<B256>,
    cumulative_gas_used: U256,
    logs_bloom: Bloom,
    logs: Vec<LogFields>,
}

#[derive(Debug, Deserialize)]
struct LogFields {
    address: Address,
    topics: Vec<B256>,
    data: Bytes,
}

/// Arbitrum's type of the transactions before Nitro, whose receipts are encoded as legacy ones.
const ARBITRUM_LEGACY: u8 = 0x78;

impl ReceiptFields {
    /// Appends the encoding that the receipts root commits to.
    ///
    /// # Errors
    /// The type is none of one byte, or there is neither status nor root.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), String> {
        let mut list = List::with_capacity(512);
        match (self.status, self.root) {
            (Some(status), _) => list.put(status),
            (None, Some(root)) => list.put(root),
            (None, None) => return Err("a receipt with neither status nor root".to_owned()),
        };
        list.put(self.cumulative_gas_used).put(self.logs_bloom);
        let mut logs = List::default();
        for log in &self.logs {
            let mut item = List::with_capacity(log.data.len() + 200);
            item.put(log.address).put_hashes(&log.topics).put(&log.data);
            logs.put_list(&item);
        }
        list.put_list(&logs);
        match u8::try_from(self.kind) {
            Ok(0 | ARBITRUM_LEGACY) => {}
            // Types that are not known yet are encoded like every other: the root says whether that was right.
            Ok(kind @ 1..0x80) => out.push(kind),
            _ => return Err(format!("a receipt of type {:#x}", self.kind)),
        }
        list.write(out);
        Ok(())
    }

    pub(super) fn into_logs(self) -> impl Iterator<Item = RawLog> {
        self.logs.into_iter().map(|log| RawLog { address: log.address, topics: log.topics, data: log.data })
    }

    pub(super) fn has_logs(&self) -> bool {
        !self.logs.is_empty()
    }
}
