//! How many blocks to ask for at once. Pure.

/// Adapts the size of `eth_getLogs` ranges to what the node returns: halves on refusal, grows by a half on success, and
/// aims below a number of logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RangeSize {
    blocks: u64,
    max_blocks: u64,
    target_logs: usize,
}

impl RangeSize {
    /// Starts at the largest size: a node that refuses it says so at once and costs a few halvings.
    pub(crate) fn new(max_blocks: u64, target_logs: usize) -> Self {
        let max_blocks = max_blocks.max(1);
        Self { blocks: max_blocks, max_blocks, target_logs: target_logs.max(1) }
    }

    /// Blocks to ask for at most; at least 1.
    pub(crate) fn blocks(self) -> u64 {
        self.blocks
    }

    /// The last block of a range that begins at `first` and must not pass `head` (which is not below `first`).
    pub(crate) fn end(self, first: u64, head: u64) -> u64 {
        first.saturating_add(self.blocks - 1).min(head)
    }

    /// The node answered `asked` blocks with so many logs.
    pub(crate) fn answered(&mut self, asked: u64, logs: usize) {
        if logs > self.target_logs {
            // What the density of this range allows; the next may differ, so never below one block.
            let fitting = u128::from(asked) * self.target_logs as u128 / logs as u128;
            self.blocks = u64::try_from(fitting).unwrap_or(u64::MAX).clamp(1, self.max_blocks);
        } else if asked >= self.blocks {
            // A range cut short by the head says nothing about larger ones.
            self.blocks = self.blocks.saturating_add(self.blocks / 2 + 1).min(self.max_blocks);
        }
    }

    /// The node refused `asked` blocks. `false` when there is nothing left to halve.
    #[must_use]
    pub(crate) fn refused(&mut self, asked: u64) -> bool {
        self.blocks = (asked / 2).clamp(1, self.max_blocks);
        asked > 1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a node that refuses above some size, every block is asked for once and in order, and the refusals are
        /// few: a logarithm for finding the size, then at most one per growth.
        #[test]
        fn a_range_covers_every_block_once_whatever_the_node_takes(
            max in 1_u64..5000,
            node_takes in 1_u64..5000,
            head in 0_u64..20_000,
            density in 0_usize..3,
            target in 1_usize..500,
        ) {
            let mut size = RangeSize::new(max, target);
            let (mut next, mut calls, mut refusals) = (0, 0_u64, 0_u64);
            while next <= head {
                let end = size.end(next, head);
                prop_assert!(end >= next && end <= head);
                let asked = end - next + 1;
                prop_assert!(asked <= max);
                if asked > node_takes {
                    prop_assert!(size.refused(asked), "one block is never refused here");
                    refusals += 1;
                } else {
                    size.answered(asked, asked as usize * density);
                    next = end + 1;
                    calls += 1;
                }
                prop_assert!(size.blocks() >= 1 && size.blocks() <= max);
            }
            prop_assert!(refusals <= calls + 14, "{refusals} refusals in {calls} calls");
        }

        /// A dense stretch shrinks the range towards the target, and a sparse one lets it grow back to the limit.
        #[test]
        fn the_range_grows_back_when_logs_become_sparse(max in 1_u64..100_000, target in 1_usize..1000) {
            let mut size = RangeSize::new(max, target);
            size.answered(max, target.saturating_mul(1_000_000));
            let shrunk = size.blocks();
            prop_assert!(shrunk == 1 || shrunk < max);
            for _ in 0..64 {
                let asked = size.blocks();
                size.answered(asked, 0);
            }
            prop_assert_eq!(size.blocks(), max);
        }
    }

    #[test]
    fn a_single_block_that_is_refused_cannot_be_halved() {
        let mut size = RangeSize::new(1, 10);
        assert!(!size.refused(1));
        assert_eq!(size.blocks(), 1);
    }
}
