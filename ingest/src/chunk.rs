//! What goes from the follower to the publisher: whole blocks, in order. Pure.

use kms_chain::release::Release;
use kms_chain::rpc::ChainLog;
use kms_schemas::record::BlockRef;

/// A log with what is known of its block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TimedLog {
    pub(crate) log: ChainLog,
    /// Seconds since 1970.
    pub(crate) block_timestamp: u64,
    /// Release of the contracts at that block.
    pub(crate) release: Release,
}

/// All matching logs of consecutive blocks that end with `up_to`, in the order of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) up_to: BlockRef,
    pub(crate) logs: Vec<TimedLog>,
}

/// Cuts the logs of a range that ends with `last` into chunks of at most `max_logs`, at block boundaries; a single
/// block with more stays whole, because a cursor cannot stand inside a block.
pub(crate) fn split(logs: Vec<TimedLog>, last: BlockRef, max_logs: usize) -> Vec<Chunk> {
    let mut chunks: Vec<Chunk> = Vec::new();
    let mut open: Vec<TimedLog> = Vec::new();
    for block in into_blocks(logs) {
        if !open.is_empty() && open.len() + block.len() > max_logs {
            close(&mut chunks, std::mem::take(&mut open));
        }
        open.extend(block);
    }
    chunks.push(Chunk { up_to: last, logs: open });
    chunks
}

fn close(chunks: &mut Vec<Chunk>, logs: Vec<TimedLog>) {
    if let Some(newest) = logs.last() {
        let up_to = BlockRef { number: newest.log.block_number, hash: newest.log.block_hash };
        chunks.push(Chunk { up_to, logs });
    }
}

fn into_blocks(logs: Vec<TimedLog>) -> Vec<Vec<TimedLog>> {
    let mut blocks: Vec<Vec<TimedLog>> = Vec::new();
    for log in logs {
        match blocks.last_mut() {
            Some(block) if block[0].log.block_number == log.log.block_number => block.push(log),
            _ => blocks.push(vec![log]),
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, B256, Bytes};
    use kms_schemas::record::RawLog;
    use proptest::prelude::*;

    use super::*;

    fn hash(number: u64) -> B256 {
        B256::with_last_byte(number as u8)
    }

    fn log(block_number: u64, log_index: u64) -> TimedLog {
        let raw = RawLog { address: Address::ZERO, topics: Vec::new(), data: Bytes::new() };
        let log = ChainLog {
            block_number,
            block_hash: hash(block_number),
            block_timestamp: None,
            transaction_hash: B256::ZERO,
            transaction_index: 0,
            log_index,
            raw,
        };
        TimedLog { log, block_timestamp: 0, release: Release::V0_11 }
    }

    proptest! {
        #[test]
        fn p1_chunks_hold_every_log_once_in_order_and_never_cut_a_block(
            per_block in proptest::collection::vec(0_u64..6, 1..40),
            max in 1_usize..12,
        ) {
            let logs: Vec<TimedLog> = per_block
                .iter()
                .enumerate()
                .flat_map(|(number, count)| (0..*count).map(move |index| log(number as u64, index)))
                .collect();
            let last = BlockRef { number: per_block.len() as u64 - 1, hash: hash(per_block.len() as u64 - 1) };
            let chunks = split(logs.clone(), last, max);
            let joined: Vec<TimedLog> = chunks.iter().flat_map(|chunk| chunk.logs.clone()).collect();
            prop_assert_eq!(joined, logs);
            prop_assert_eq!(chunks.last().map(|chunk| chunk.up_to), Some(last));
            let mut from = 0;
            for chunk in &chunks {
                for one in &chunk.logs {
                    prop_assert!(one.log.block_number >= from && one.log.block_number <= chunk.up_to.number);
                }
                let blocks: std::collections::BTreeSet<u64> = chunk.logs.iter().map(|one| one.log.block_number).collect();
                prop_assert!(chunk.logs.len() <= max || blocks.len() == 1);
                prop_assert_eq!(chunk.up_to.hash, hash(chunk.up_to.number));
                from = chunk.up_to.number + 1;
            }
        }
    }
}
