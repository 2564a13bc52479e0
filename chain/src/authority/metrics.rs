//! What the authority counts. Labels are bounded: the chain's name and outcomes out of fixed sets.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

const PROOFS: &str = "kms_connector_authority_proofs_total";
const BLOCKS: &str = "kms_connector_authority_blocks_read_total";
const CACHED_BLOCKS: &str = "kms_connector_authority_cached_blocks";
const CACHED_BYTES: &str = "kms_connector_authority_cached_bytes";
const REORGANISATIONS: &str = "kms_connector_authority_reorganisations_total";
const MISFITS: &str = "kms_connector_authority_misfits_total";

pub(crate) fn describe() {
    describe_counter!(PROOFS, "Occurrences that were to be proven against the chain, by outcome");
    describe_counter!(BLOCKS, "Blocks that were read from the chain and recomputed");
    describe_gauge!(CACHED_BLOCKS, "Proven blocks that are held");
    describe_gauge!(CACHED_BYTES, Unit::Bytes, "Memory that the proven blocks take, about");
    describe_counter!(REORGANISATIONS, "Times that the chain's head was found to be no descendant of the one before");
    describe_counter!(MISFITS, "Blocks or receipts that an RPC endpoint stated and that do not recompute");
}

/// Labels of one chain.
#[derive(Clone, Debug)]
pub(super) struct Labels {
    chain: String,
}

impl Labels {
    pub(super) fn new(chain: &str) -> Self {
        Self { chain: chain.to_owned() }
    }

    pub(super) fn proof(&self, outcome: &'static str) {
        counter!(PROOFS, "chain" => self.chain.clone(), "outcome" => outcome).increment(1);
    }

    #[allow(clippy::cast_precision_loss)]
    pub(super) fn block_read(&self, (blocks, bytes): (usize, usize)) {
        counter!(BLOCKS, "chain" => self.chain.clone()).increment(1);
        gauge!(CACHED_BLOCKS, "chain" => self.chain.clone()).set(blocks as f64);
        gauge!(CACHED_BYTES, "chain" => self.chain.clone()).set(bytes as f64);
    }

    pub(super) fn reorganised(&self, number: u64, hash: &dyn std::fmt::Display) {
        counter!(REORGANISATIONS, "chain" => self.chain.clone()).increment(1);
        tracing::info!(chain = %self.chain, block = number, %hash, "the chain was reorganised, cached blocks are checked again");
    }

    pub(super) fn misfit(&self, block: u64, endpoint: usize, why: &str) {
        counter!(MISFITS, "chain" => self.chain.clone()).increment(1);
        tracing::warn!(chain = %self.chain, block, endpoint, why, "what an RPC endpoint states does not recompute");
    }
}
