//! Gas limits: one figure per kind and size, estimated once, then corrected by receipts. Pure.
//!
//! An estimate per answer costs more than the answer (on the `pending` block a node re-executes its whole pool), and is worth
//! little: the order in which nodes answer alone moves the gas of a public decryption by 30 %, and the response that reaches
//! consensus costs a key generation more than twice as much (`docs/protocol.md`, "Gas of an answer"). So a figure carries a
//! margin per lane, and what a block charges for its data on L1 (Arbitrum) is kept apart from execution, because it follows
//! another price.

use std::collections::HashMap;

use kms_schemas::identity::{Kind, Lane};

/// Calldata bytes per size class.
const CLASS_BYTES: usize = 512;
/// Gas per byte by which a call is larger than the one its figure is for: calldata 16, event data 8, hashing and copying.
const GAS_PER_BYTE: u64 = 30;
/// A maximum lives for two spans of this many receipts.
const SPAN: u32 = 500;

/// What a figure is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Kind of the answer.
    pub kind: Kind,
    /// Size class of its calldata.
    pub class: u32,
}

impl Shape {
    /// The shape of a call with this much calldata.
    #[must_use]
    pub fn of(kind: Kind, calldata_bytes: usize) -> Self {
        Self { kind, class: u32::try_from(calldata_bytes / CLASS_BYTES).unwrap_or(u32::MAX) }
    }
}

/// Margins and ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GasPolicy {
    /// Added to a decryption's execution gas, in per cent.
    pub decryption_margin_percent: u32,
    /// Added to a key management answer's execution gas, in per cent.
    pub key_management_margin_percent: u32,
    /// Added to the L1 share, in per cent.
    pub l1_margin_percent: u32,
    /// No transaction asks for more.
    pub ceiling: u64,
}

impl GasPolicy {
    fn margin(&self, kind: Kind) -> u32 {
        match kind.lane() {
            Lane::Decryption => self.decryption_margin_percent,
            Lane::KeyManagement => self.key_management_margin_percent,
        }
    }
}

/// The largest value of the current and the last span.
#[derive(Clone, Copy, Debug, Default)]
struct RecentMax {
    current: u64,
    last: u64,
    seen: u32,
}

impl RecentMax {
    fn note(&mut self, value: u64) {
        if self.seen >= SPAN {
            self.last = std::mem::take(&mut self.current);
            self.seen = 0;
        }
        self.current = self.current.max(value);
        self.seen += 1;
    }

    fn value(&self) -> u64 {
        self.current.max(self.last)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Figure {
    /// From `eth_estimateGas`, for a call of `bytes`.
    estimate: u64,
    bytes: usize,
    execution: RecentMax,
    l1: RecentMax,
}

/// The figures. See the [module](self).
#[derive(Debug)]
pub struct GasBook {
    policy: GasPolicy,
    figures: HashMap<Shape, Figure>,
}

impl GasBook {
    /// An empty book.
    #[must_use]
    pub fn new(policy: GasPolicy) -> Self {
        Self { policy, figures: HashMap::new() }
    }

    /// Gas limit for a call, `tries` times out of gas before; none while the shape has no figure and needs an estimate.
    #[must_use]
    pub fn limit(&self, kind: Kind, calldata_bytes: usize, tries: u32) -> Option<u64> {
        let figure = self.figures.get(&Shape::of(kind, calldata_bytes))?;
        let learned = figure.execution.value();
        let base = if learned == 0 { figure.estimate } else { learned };
        let larger = calldata_bytes.saturating_sub(figure.bytes) as u64;
        let execution = with_margin(base, self.policy.margin(kind)).saturating_add(larger.saturating_mul(GAS_PER_BYTE));
        let l1 = with_margin(figure.l1.value(), self.policy.l1_margin_percent);
        let limit = execution.saturating_add(l1).saturating_mul(1 << tries.min(16));
        Some(limit.min(self.policy.ceiling))
    }

    /// Gas that a call uses alone, without margins; none while the shape has no figure.
    #[must_use]
    pub fn figure(&self, kind: Kind, calldata_bytes: usize) -> Option<u64> {
        let figure = self.figures.get(&Shape::of(kind, calldata_bytes))?;
        let learned = figure.execution.value();
        let larger = calldata_bytes.saturating_sub(figure.bytes) as u64;
        let base = if learned == 0 { figure.estimate } else { learned };
        Some(base.saturating_add(larger.saturating_mul(GAS_PER_BYTE)))
    }

    /// Whether more gas than last time can still be asked for.
    #[must_use]
    pub fn can_grow(&self, limit: u64) -> bool {
        limit < self.policy.ceiling
    }

    /// An estimate for a shape that had none.
    pub fn estimated(&mut self, kind: Kind, calldata_bytes: usize, gas: u64) {
        let figure = self.figures.entry(Shape::of(kind, calldata_bytes)).or_default();
        figure.estimate = figure.estimate.max(gas);
        figure.bytes = calldata_bytes;
    }

    /// A receipt of a successful call.
    pub fn used(&mut self, kind: Kind, calldata_bytes: usize, gas_used: u64, gas_used_for_l1: u64) {
        let figure = self.figures.entry(Shape::of(kind, calldata_bytes)).or_default();
        figure.execution.note(gas_used.saturating_sub(gas_used_for_l1));
        figure.l1.note(gas_used_for_l1);
        // The largest size seen of the class is the safe reference only together with the largest gas.
        figure.bytes = if figure.bytes == 0 { calldata_bytes } else { figure.bytes.min(calldata_bytes) };
    }

    /// A call ran out of this much gas: the whole shape was too low.
    pub fn exhausted(&mut self, kind: Kind, calldata_bytes: usize, limit: u64) {
        let figure = self.figures.entry(Shape::of(kind, calldata_bytes)).or_default();
        figure.execution.note(limit);
    }

    /// The figure of this shape led to a limit that a node will not take: estimate anew.
    pub fn forget(&mut self, kind: Kind, calldata_bytes: usize) {
        self.figures.remove(&Shape::of(kind, calldata_bytes));
    }

    /// Number of shapes with a figure, for a gauge.
    #[must_use]
    pub fn shapes(&self) -> usize {
        self.figures.len()
    }
}

/// Whether a reverted transaction used so much of its limit that it must have run out: an inner call leaves a sixty-fourth.
#[must_use]
pub fn ran_out(gas_used: u64, limit: u64) -> bool {
    gas_used >= limit.saturating_sub(limit / 32)
}

fn with_margin(gas: u64, percent: u32) -> u64 {
    let total = u128::from(gas) * (100 + u128::from(percent));
    u64::try_from(total.div_ceil(100)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: GasPolicy = GasPolicy {
        decryption_margin_percent: 40,
        key_management_margin_percent: 300,
        l1_margin_percent: 100,
        ceiling: 16_777_216,
    };

    #[test]
    fn a_shape_without_a_figure_asks_for_an_estimate() {
        let mut book = GasBook::new(POLICY);
        assert_eq!(book.limit(Kind::PublicDecryption, 400, 0), None);
        book.estimated(Kind::PublicDecryption, 400, 263_503);
        assert_eq!(book.limit(Kind::PublicDecryption, 400, 0), Some(368_905));
        assert_eq!(book.limit(Kind::UserDecryption, 400, 0), None);
    }

    #[test]
    fn a_figure_of_the_cheapest_responder_pays_for_the_dearest() {
        // Measured: the fourth responder pays 226 073, the one that reaches consensus 298 175; a key generation 136 k and 479 k.
        let mut book = GasBook::new(POLICY);
        book.used(Kind::PublicDecryption, 400, 226_073, 0);
        assert!(book.limit(Kind::PublicDecryption, 400, 0).unwrap() >= 298_175);
        book.used(Kind::Keygen, 400, 136_000, 0);
        assert!(book.limit(Kind::Keygen, 400, 0).unwrap() >= 479_000);
    }

    #[test]
    fn the_l1_share_is_kept_apart() {
        let mut book = GasBook::new(POLICY);
        book.used(Kind::PublicDecryption, 400, 250_000, 50_000);
        book.used(Kind::PublicDecryption, 400, 210_000, 10_000);
        assert_eq!(book.limit(Kind::PublicDecryption, 400, 0), Some(280_000 + 100_000));
    }

    #[test]
    fn a_spike_is_forgotten_after_two_spans() {
        let mut book = GasBook::new(POLICY);
        book.exhausted(Kind::PublicDecryption, 400, 5_000_000);
        for _ in 0..=(2 * SPAN) {
            book.used(Kind::PublicDecryption, 400, 200_000, 0);
        }
        assert_eq!(book.limit(Kind::PublicDecryption, 400, 0), Some(280_000));
    }

    #[test]
    fn running_out_doubles_up_to_the_ceiling() {
        let mut book = GasBook::new(POLICY);
        book.estimated(Kind::PublicDecryption, 400, 1_000_000);
        assert_eq!(book.limit(Kind::PublicDecryption, 400, 1), Some(2_800_000));
        assert_eq!(book.limit(Kind::PublicDecryption, 400, 12), Some(POLICY.ceiling));
        assert!(!book.can_grow(POLICY.ceiling));
    }

    #[test]
    fn a_call_that_leaves_a_sixty_fourth_ran_out() {
        assert!(ran_out(1_000_000 - 1_000_000 / 64, 1_000_000));
        assert!(!ran_out(600_000, 1_000_000));
    }

    proptest! {
        #[test]
        fn a_limit_never_falls_below_what_the_same_call_just_used(
            uses in prop::collection::vec((30_000u64..2_000_000, 0u64..30_000, 100usize..6_000), 1..80)
        ) {
            let mut book = GasBook::new(POLICY);
            for (execution, l1, bytes) in uses {
                book.used(Kind::UserDecryption, bytes, execution + l1, l1);
                let limit = book.limit(Kind::UserDecryption, bytes, 0).unwrap();
                prop_assert!(limit >= execution + l1 && limit <= POLICY.ceiling);
            }
        }
    }
}
