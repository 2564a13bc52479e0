//! From logs to records. Pure.

use alloy::primitives::{Bytes, keccak256};
use kms_chain::event::Decoded;
use kms_chain::rpc::ChainLog;
use kms_schemas::identity::Coordinates;
use kms_schemas::record::{DeadLetter, Request};
use kms_schemas::topics::MAX_DEAD_LETTER_BYTES;
use serde_json::json;

use crate::chunk::TimedLog;
use crate::numbering::Link;

/// Room that a dead letter needs beside the value inside it.
const DEAD_LETTER_FRAME_BYTES: usize = 64 << 10;

pub(crate) fn request(source: &str, chain_id: u64, timed: &TimedLog, decoded: &Decoded, link: Link) -> Request {
    let log = &timed.log;
    Request {
        source: source.to_owned(),
        seq: link.seq,
        previous_hash: link.previous_hash,
        chain_id,
        kind: decoded.kind,
        id: decoded.id,
        block_number: log.block_number,
        block_hash: log.block_hash,
        block_timestamp: timed.block_timestamp,
        transaction_hash: log.transaction_hash,
        log_index: log.log_index,
        log: log.raw.clone(),
        body: decoded.body.clone(),
    }
}

/// Why a log is no request record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    /// Stable code.
    pub(crate) reason: &'static str,
    /// For a person.
    pub(crate) text: String,
}

/// Whether a dead letter carries what was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carry {
    Value,
    DigestOnly,
}

/// A log lies in a chain and not in Kafka, so its coordinates are written as `chain:{source}` (which no topic can be
/// called), the log's index in its block as the partition, and the block number as the offset. The value is the log
/// with its place, as JSON.
pub(crate) fn log_coordinates(source: &str, log: &ChainLog) -> Coordinates {
    Coordinates {
        topic: format!("chain:{source}"),
        partition: i32::try_from(log.log_index).unwrap_or(i32::MAX),
        offset: i64::try_from(log.block_number).unwrap_or(i64::MAX),
    }
}

pub(crate) fn dead_log(
    source: &str,
    chain_id: u64,
    timed: &TimedLog,
    rejection: &Rejection,
    carry: Carry,
    now_ms: u64,
) -> DeadLetter {
    let log = &timed.log;
    let value = json!({
        "chainId": chain_id,
        "blockNumber": log.block_number,
        "blockHash": log.block_hash,
        "blockTimestamp": timed.block_timestamp,
        "transactionHash": log.transaction_hash,
        "logIndex": log.log_index,
        "address": log.raw.address,
        "topics": log.raw.topics,
        "data": log.raw.data,
    });
    let what = Rejected { source: log_coordinates(source, log), key: None, value: value.to_string().into_bytes() };
    dead_letter(what, rejection, carry, now_ms)
}

/// Something that is not usable, and where it lies.
pub(crate) struct Rejected {
    pub(crate) source: Coordinates,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Vec<u8>,
}

pub(crate) fn dead_letter(what: Rejected, rejection: &Rejection, carry: Carry, now_ms: u64) -> DeadLetter {
    let fits = what.value.len() <= MAX_DEAD_LETTER_BYTES - DEAD_LETTER_FRAME_BYTES;
    DeadLetter {
        service: "ingest".to_owned(),
        source: what.source,
        request: None,
        identity: None,
        key: what.key.map(Bytes::from),
        value_bytes: what.value.len() as u64,
        value_digest: keccak256(&what.value),
        value: (fits && carry == Carry::Value).then(|| Bytes::from(what.value)),
        reason: rejection.reason.to_owned(),
        text: rejection.text.clone(),
        attempts: 1,
        dead_ms: now_ms,
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, B256};
    use kms_chain::release::Release;
    use kms_schemas::record::RawLog;

    use super::*;

    fn log(data: usize) -> TimedLog {
        let raw =
            RawLog { address: Address::with_last_byte(7), topics: vec![B256::ZERO], data: vec![0xab; data].into() };
        let log = ChainLog {
            block_number: 12,
            block_hash: B256::with_last_byte(12),
            block_timestamp: None,
            transaction_hash: B256::with_last_byte(3),
            transaction_index: 0,
            log_index: 4,
            raw,
        };
        TimedLog { log, block_timestamp: 1000, release: Release::V0_11 }
    }

    fn rejection() -> Rejection {
        Rejection { reason: "KC-0305", text: "trailing data".to_owned() }
    }

    #[test]
    fn p7_a_dead_log_holds_all_that_the_chain_said() {
        let dead = dead_log("gateway", 5, &log(3), &rejection(), Carry::Value, 9);
        assert_eq!(dead.source.to_string(), "chain:gateway[4]@12");
        let value: serde_json::Value = serde_json::from_slice(&dead.value.clone().expect("value")).expect("JSON");
        assert_eq!(value["data"], "0xababab");
        assert_eq!(value["logIndex"], 4);
        assert_eq!(dead.value_digest, keccak256(dead.value.expect("value")));
    }

    #[test]
    fn a_dead_log_above_the_limit_is_named_by_its_digest() {
        let dead = dead_log("gateway", 5, &log(MAX_DEAD_LETTER_BYTES), &rejection(), Carry::Value, 9);
        assert_eq!(dead.value, None);
        assert!(dead.value_bytes > MAX_DEAD_LETTER_BYTES as u64);
        assert_eq!(dead_log("gateway", 5, &log(3), &rejection(), Carry::DigestOnly, 9).value, None);
    }
}
