//! When a batch leaves, and with what: as much as fits when there is a backlog, whatever there is when there is none. Pure.
//!
//! While few transactions are on their way, an answer leaves at once, alone if it is alone: waiting would only add latency.
//! Once several are, what comes is gathered until a batch is full or its oldest answer has waited long enough; under load
//! batches are therefore full, and nothing has to be tuned for it.

use crate::executor::{self, ItemGas};
use crate::nonce::Millis;

/// Limits of one transaction, and how long it is gathered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Answers in one transaction; 1 where there are no batches.
    pub items: usize,
    /// Calldata bytes of one transaction.
    pub bytes: usize,
    /// Gas limit of one transaction.
    pub gas: u64,
    /// Transactions on their way, below which nothing is gathered.
    pub eager: usize,
    /// How long an answer waits for company.
    pub linger_ms: u64,
}

impl Limits {
    /// One answer per transaction, at once.
    pub const SINGLE: Self = Self { items: 1, bytes: usize::MAX, gas: u64::MAX, eager: usize::MAX, linger_ms: 0 };
}

/// What one answer takes of a transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes of its calldata.
    pub bytes: usize,
    /// Its gas limit when it goes alone.
    pub gas: u64,
    /// It must go alone: it spoiled a batch, or a batch spoiled it.
    pub alone: bool,
}

/// A batch that is being filled.
#[derive(Clone, Copy, Debug)]
pub struct Filling {
    limits: Limits,
    items: usize,
    bytes: usize,
    gas: u64,
    largest: u64,
    closed: bool,
}

impl Filling {
    /// An empty one.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self { limits, items: 0, bytes: executor::FRAME_BYTES, gas: 0, largest: 0, closed: false }
    }

    /// Takes the next answer in, if it fits. The first always does: what is too large for every transaction is for the chain to
    /// refuse.
    pub fn take(&mut self, load: Load) -> bool {
        let padded = load.bytes.div_ceil(32).saturating_mul(32);
        let bytes = self.bytes.saturating_add(padded).saturating_add(executor::ITEM_BYTES);
        // Calldata is counted as if it had no zeros.
        let calldata = (padded + executor::ITEM_BYTES) as u64 * 16;
        let gas =
            self.gas.saturating_add(ItemGas { cap: load.gas, bytes: load.bytes }.total()).saturating_add(calldata);
        let largest = self.largest.max(load.gas);
        let fits = self.items < self.limits.items.max(1)
            && bytes <= self.limits.bytes
            && gas.saturating_add(executor::gas_limit([])).saturating_add(largest / 63 + 21_000) <= self.limits.gas
            && !load.alone;
        if self.closed || (self.items > 0 && !fits) {
            self.closed = true;
            return false;
        }
        (self.items, self.bytes, self.gas, self.largest) = (self.items + 1, bytes, gas, largest);
        self.closed = !fits || self.items == self.limits.items.max(1);
        true
    }

    /// Answers in it.
    #[must_use]
    pub const fn items(&self) -> usize {
        self.items
    }

    /// Nothing more goes in.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.closed
    }
}

/// Whether a batch leaves that holds what `filling` holds, whose oldest answer came at `oldest`.
#[must_use]
pub fn leaves(filling: &Filling, on_their_way: usize, oldest: Millis, now: Millis) -> bool {
    filling.items > 0
        && (filling.closed || on_their_way < filling.limits.eager || oldest.plus(filling.limits.linger_ms) <= now)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, Bytes};
    use proptest::prelude::*;

    use super::*;
    use crate::wallet::Payload;

    const LIMITS: Limits = Limits { items: 32, bytes: 80_000, gas: 16_777_216, eager: 4, linger_ms: 25 };
    const ANSWER: Load = Load { bytes: 420, gas: 370_000, alone: false };

    fn filled(limits: Limits, loads: impl IntoIterator<Item = Load>) -> Filling {
        let mut filling = Filling::new(limits);
        loads.into_iter().take_while(|load| filling.take(*load)).for_each(drop);
        filling
    }

    #[test]
    fn idle_an_answer_leaves_at_once() {
        let one = filled(LIMITS, [ANSWER]);
        assert!(leaves(&one, 0, Millis(7), Millis(7)) && leaves(&one, 3, Millis(7), Millis(7)));
    }

    #[test]
    fn loaded_a_batch_waits_until_it_is_full_or_old() {
        let some = filled(LIMITS, [ANSWER; 5]);
        assert!(!leaves(&some, 4, Millis(100), Millis(124)));
        assert!(leaves(&some, 4, Millis(100), Millis(125)));
        let full = filled(LIMITS, [ANSWER; 40]);
        assert_eq!(full.items(), 32);
        assert!(leaves(&full, 4, Millis(100), Millis(100)));
    }

    #[test]
    fn nothing_is_no_batch() {
        assert!(!leaves(&Filling::new(LIMITS), 0, Millis(0), Millis(1_000)));
    }

    #[test]
    fn bytes_and_gas_close_a_batch_too() {
        assert_eq!(filled(LIMITS, [Load { bytes: 10_000, ..ANSWER }; 40]).items(), 7);
        assert_eq!(filled(LIMITS, [Load { gas: 2_000_000, ..ANSWER }; 40]).items(), 8);
    }

    #[test]
    fn what_must_go_alone_goes_alone_wherever_it_stands() {
        let alone = Load { alone: true, ..ANSWER };
        assert_eq!(filled(LIMITS, [alone, ANSWER, ANSWER]).items(), 1);
        let behind = filled(LIMITS, [ANSWER, ANSWER, alone, ANSWER]);
        assert!(behind.items() == 2 && behind.is_full());
    }

    #[test]
    fn what_fits_nowhere_goes_alone() {
        let huge = filled(LIMITS, [Load { bytes: 1_000_000, ..ANSWER }, ANSWER]);
        assert!(huge.items() == 1 && huge.is_full());
    }

    #[test]
    fn singles_never_wait() {
        let one = filled(Limits::SINGLE, [ANSWER; 3]);
        assert!(one.items() == 1 && leaves(&one, 10_000, Millis(5), Millis(5)));
    }

    proptest! {
        #[test]
        fn p6_a_batch_of_several_is_within_every_limit(loads in prop::collection::vec((0usize..6_000, 30_000u64..3_000_000), 1..80)) {
            let loads: Vec<Load> = loads.into_iter().map(|(bytes, gas)| Load { bytes, gas, alone: false }).collect();
            let count = filled(LIMITS, loads.iter().copied()).items();
            prop_assert!((1..=LIMITS.items).contains(&count));
            let call = |load: &Load| Payload {
                to: Address::repeat_byte(1),
                data: Bytes::from(vec![0xff; load.bytes]),
                gas_limit: load.gas,
            };
            let made = executor::batch(Address::repeat_byte(2), &loads[..count].iter().map(call).collect::<Vec<_>>());
            if count > 1 {
                prop_assert!(made.data.len() <= LIMITS.bytes && made.gas_limit <= LIMITS.gas + made.data.len() as u64 * 24);
            }
        }
    }
}
