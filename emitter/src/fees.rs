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

/// How fees follow the base fee of the latest block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeePolicy {
    /// `maxFeePerGas` in per cent of the base fee, before the priority fee: 200 survives six full blocks in a row.
    pub base_fee_percent: u32,
    /// `maxPriorityFeePerGas` of a first attempt.
    pub priority: u128,
    /// Never offer more than this.
    pub cap: u128,
    /// A replacement offers at least this many per cent more; pools ask for 10.
    pub bump_percent: u32,
}

impl FeePolicy {
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

    /// Fees that replace a transaction paying `old` in a pool and suit this base fee.
    ///
    /// # Errors
    /// When that is above the cap.
    pub fn above(&self, old: Fees, base_fee: u128) -> Result<Fees, AboveCap> {
        let current = self.current(base_fee)?;
        let raised = |fee: u128| percent(fee, 100 + self.bump_percent).max(fee.saturating_add(1));
        let priority = raised(old.priority).max(current.priority);
        let max_fee = raised(old.max_fee).max(current.max_fee).max(priority);
        if max_fee > self.cap {
            return Err(AboveCap { wanted: max_fee, cap: self.cap });
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
