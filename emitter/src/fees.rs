//! What a transaction offers to pay (EIP-1559). Pure.

/// Fees of one transaction, in wei per gas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fees {
    /// `maxFeePerGas`.
    pub max_fee: u128,
    /// `maxPriorityFeePerGas`.
    pub priority: u128,
}

/// The fees would be above the configured cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a fee of {wanted} wei per gas is needed and the cap is {cap}")]
pub struct AboveCap {
    /// What the chain asks for.
    pub wanted: u128,
    /// What the operator allows.
    pub cap: u128,
}

/// Why a transaction is not replaced by one that pays more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoReplacement {
    /// The chain asks for more than the cap.
    #[error(transparent)]
    AboveCap(#[from] AboveCap),
    /// The chain does not, but a pool does: it takes no replacement that pays only a little more than what it holds.
    #[error("a replacement has to offer {wanted} wei per gas, the cap is {cap}, and {offered} are offered already")]
    Exhausted {
        /// What a pool asks of a replacement.
        wanted: u128,
        /// What the operator allows.
        cap: u128,
        /// What the transaction offers.
        offered: u128,
    },
}

/// How fees follow the base fee of the latest block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeePolicy {
    /// `maxFeePerGas` in per cent of the base fee, before the priority fee: 200 survives six full blocks in a row.
    pub base_fee_percent: u32,
    /// `maxPriorityFeePerGas` of a first attempt.
    pub priority: u128,
    /// Never offer more than this.
    pub cap: u128,
    /// A replacement offers this many per cent more, or what the chain asks for if that is more; pools ask for 10.
    pub bump_percent: u32,
}

impl FeePolicy {
    /// The same, with the priority fee that others pay, but no less than the policy's own, and no more than `most` and half the
    /// cap.
    #[must_use]
    pub fn with_market(self, market: u128, most: u128) -> Self {
        let most = most.min(self.cap / 2).max(self.priority);
        Self { priority: market.clamp(self.priority, most), ..self }
    }

    /// Fees of a first attempt at this base fee.
    ///
    /// # Errors
    /// When even the base fee alone is above the cap. Between the two the offer is cut to the cap.
    pub fn current(&self, base_fee: u128) -> Result<Fees, AboveCap> {
        let least = base_fee.saturating_add(self.priority);
        if least > self.cap {
            return Err(AboveCap { wanted: least, cap: self.cap });
        }
        let wanted = percent(base_fee, self.base_fee_percent).saturating_add(self.priority);
        Ok(Fees { max_fee: wanted.max(least).min(self.cap), priority: self.priority })
    }

    /// Fees that replace a transaction paying `old` in a pool and suit this base fee: the priority fee of now, and on both no
    /// more above `old` than a pool asks for.
    ///
    /// # Errors
    /// When the chain asks for more than the cap, or the pool does.
    pub fn above(&self, old: Fees, base_fee: u128) -> Result<Fees, NoReplacement> {
        let current = self.current(base_fee)?;
        let raised = |fee: u128| percent(fee, 100 + self.bump_percent).max(fee.saturating_add(1));
        let priority = raised(old.priority).max(current.priority);
        let suiting = percent(base_fee, self.base_fee_percent).saturating_add(priority).min(self.cap);
        let max_fee = raised(old.max_fee).max(suiting).max(priority);
        if max_fee > self.cap {
            return Err(NoReplacement::Exhausted { wanted: max_fee, cap: self.cap, offered: old.max_fee });
        }
        Ok(Fees { max_fee, priority })
    }
}

fn percent(value: u128, percent: u32) -> u128 {
    let percent = u128::from(percent);
    value.checked_mul(percent).map_or(u128::MAX, |product| product.div_ceil(100))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: FeePolicy = FeePolicy { base_fee_percent: 200, priority: 2, cap: 1_000, bump_percent: 25 };

    #[test]
    fn a_first_attempt_offers_twice_the_base_fee_and_the_tip() {
        assert_eq!(POLICY.current(100), Ok(Fees { max_fee: 202, priority: 2 }));
    }

    #[test]
    fn an_offer_is_cut_to_the_cap_while_the_base_fee_fits_below_it() {
        assert_eq!(POLICY.current(900), Ok(Fees { max_fee: 1_000, priority: 2 }));
        assert_eq!(POLICY.current(999), Err(AboveCap { wanted: 1_001, cap: 1_000 }));
    }

    #[test]
    fn a_replacement_raises_a_zero_tip_too() {
        let policy = FeePolicy { priority: 0, ..POLICY };
        assert_eq!(policy.above(Fees { max_fee: 100, priority: 0 }, 10), Ok(Fees { max_fee: 125, priority: 1 }));
    }

    #[test]
    fn the_priority_fee_of_the_market_is_paid_within_its_bounds() {
        assert_eq!(POLICY.with_market(50, 100).current(100), Ok(Fees { max_fee: 250, priority: 50 }));
        assert_eq!(POLICY.with_market(1, 100).priority, 2, "no less than the policy's own");
        assert_eq!(POLICY.with_market(500, 100).priority, 100, "no more than the operator allows");
        assert_eq!(POLICY.with_market(500, 0).priority, 2);
    }

    #[test]
    fn a_replacement_offers_the_market_at_once_and_leaves_the_cap_alone() {
        const GWEI: u128 = 1_000_000_000;
        let policy = FeePolicy { base_fee_percent: 200, priority: 1, cap: 1_000 * GWEI, bump_percent: 12 };
        let first = policy.current(10 * GWEI).unwrap();
        let market = policy.with_market(2 * GWEI, 5 * GWEI);
        let mut fees = market.above(first, 10 * GWEI).unwrap();
        assert_eq!(fees.priority, 2 * GWEI);
        // As many as there may be of one nonce: a price that still looks like the chain's.
        for _ in 2..32 {
            fees = market.above(fees, 10 * GWEI).unwrap();
        }
        assert!(fees.max_fee < policy.cap && fees.priority < fees.max_fee, "{fees:?}");
    }

    #[test]
    fn a_replacement_that_only_the_pool_makes_dear_is_not_taken_for_a_dear_chain() {
        let offered = Fees { max_fee: 900, priority: 2 };
        let refused = POLICY.above(offered, 100);
        assert_eq!(refused, Err(NoReplacement::Exhausted { wanted: 1_125, cap: 1_000, offered: 900 }));
        assert!(matches!(POLICY.above(offered, 1_000), Err(NoReplacement::AboveCap(_))));
    }

    proptest! {
        #[test]
        fn fees_are_always_coherent(base in 0u128..2_000, old_fee in 0u128..2_000, old_tip in 0u128..2_000) {
            if let Ok(fees) = POLICY.current(base) {
                prop_assert!(fees.priority <= fees.max_fee && fees.max_fee <= POLICY.cap && fees.max_fee >= base);
            }
            let old = Fees { max_fee: old_fee, priority: old_tip.min(old_fee) };
            if let Ok(fees) = POLICY.above(old, base) {
                // What pools ask of a replacement: ten per cent on both.
                prop_assert!(fees.max_fee * 100 >= old.max_fee * 110);
                prop_assert!(fees.priority * 100 >= old.priority * 110 && fees.priority > old.priority);
                prop_assert!(fees.priority <= fees.max_fee && fees.max_fee <= POLICY.cap && fees.max_fee >= base);
            }
        }

        #[test]
        fn nothing_overflows(base: u128, fee: u128, tip: u128) {
            let policy = FeePolicy { cap: u128::MAX, ..POLICY };
            let _ = policy.current(base);
            let _ = policy.above(Fees { max_fee: fee, priority: tip }, base);
        }
    }
}
