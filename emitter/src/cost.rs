//! What answers cost. Pure, but for the counters.
//!
//! A receipt tells the gas of a transaction and not of the calls in it, and only a trace could. So an answer in a batch bears a
//! share: of execution by what its kind and size costs alone, or by what a failed call uses; of L1 by its bytes. The shares sum
//! up to the receipt. In a batch of one kind and size they are equal, whatever the order of responders: for that the averages
//! over many batches are.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kms_schemas::identity::Kind;
use kms_schemas::record::Inclusion;

use crate::executor::Outcome;
use crate::metrics::Metrics;
use crate::nonce::Mined;

/// Gas of a call that a check of the contract ends, and of its report: the signature is recovered and state read, and nothing
/// written (`docs/protocol.md`, "Batches").
const REFUSED_GAS: u64 = 25_000;
/// Gas of reporting a call that is not started.
const REPORT_GAS: u64 = 3_000;
/// Gas of a transaction's beginning, which a batch has once.
const BASE_GAS: u64 = 21_000;
/// A size that no transaction has none of.
const LEAST: u64 = 1;

/// What one answer weighs in its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Of execution.
    pub execution: u64,
    /// Of L1: its calldata.
    pub bytes: u64,
}

impl Weight {
    /// The weight of an answer with this calldata, whose kind and size uses `figure` gas alone and which may use `cap` here.
    #[must_use]
    pub fn of(outcome: &Outcome, calldata: &[u8], figure: u64, cap: u64) -> Self {
        let zeros = calldata.iter().filter(|byte| **byte == 0).count() as u64;
        let carried = 16 * calldata.len() as u64 - 12 * zeros;
        let execution = match outcome {
            Outcome::Recorded => figure.saturating_sub(BASE_GAS).max(carried),
            Outcome::Reverted(data) if data.is_empty() => carried.saturating_add(cap),
            Outcome::Reverted(_) => carried.saturating_add(REFUSED_GAS),
            Outcome::NoGas | Outcome::OwnAccount => carried.saturating_add(REPORT_GAS),
            Outcome::Silent => carried,
        };
        Self { execution: execution.max(LEAST), bytes: (calldata.len() as u64).max(LEAST) }
    }
}

/// What each answer of a transaction cost, by these weights. They sum up to what the transaction cost.
#[must_use]
pub fn shares(weights: &[Weight], mined: Mined) -> Vec<Mined> {
    let execution = divide(
        mined.gas_used.saturating_sub(mined.gas_used_for_l1),
        &weights.iter().map(|weight| weight.execution).collect::<Vec<_>>(),
    );
    let l1 = divide(mined.gas_used_for_l1, &weights.iter().map(|weight| weight.bytes).collect::<Vec<_>>());
    let share =
        |(execution, l1): (u64, u64)| Mined { gas_used: execution.saturating_add(l1), gas_used_for_l1: l1, ..mined };
    execution.into_iter().zip(l1).map(share).collect()
}

/// `total` in parts of these sizes, to the last unit.
fn divide(total: u64, sizes: &[u64]) -> Vec<u64> {
    let all: u128 = sizes.iter().map(|size| u128::from(*size)).sum();
    let (mut before, mut given) = (0_u128, 0_u64);
    sizes
        .iter()
        .map(|size| {
            before += u128::from(*size);
            // Below `total`, as `before` is never above `all`.
            let until = u64::try_from(u128::from(total) * before / all.max(1)).unwrap_or(total);
            std::mem::replace(&mut given, until).abs_diff(until)
        })
        .collect()
}

/// By what costs are told apart: few values each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    /// Kind of the request.
    pub kind: Kind,
    /// Answers in the transaction: `1`, `2-7`, `8-31`, `32+`, `unknown`.
    pub batch: &'static str,
    /// Place among the nodes' answers to the request: `1`, `2`, `3`, `4+`, `unknown`.
    pub order: &'static str,
}

impl Labels {
    /// Of an accepted answer.
    #[must_use]
    pub fn of(kind: Kind, inclusion: &Inclusion) -> Self {
        let batch = match inclusion.answers {
            None | Some(0) => "unknown",
            Some(1) => "1",
            Some(2..=7) => "2-7",
            Some(8..=31) => "8-31",
            Some(_) => "32+",
        };
        let order = match inclusion.order {
            None | Some(0) => "unknown",
            Some(1) => "1",
            Some(2) => "2",
            Some(3) => "3",
            Some(_) => "4+",
        };
        Self { kind, batch, order }
    }
}

/// Counts what accepted answers cost.
#[derive(Debug)]
pub struct Costs {
    metrics: Metrics,
    /// Wei that make no whole gwei yet.
    carried: Mutex<HashMap<Labels, u128>>,
}

const GWEI: u128 = 1_000_000_000;

impl Costs {
    /// Those of one destination.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self { metrics, carried: Mutex::default() }
    }

    /// An answer was accepted.
    pub fn accepted(&self, kind: Kind, inclusion: &Inclusion) {
        let labels = Labels::of(kind, inclusion);
        let gwei = self.whole_gwei(labels, inclusion.fee());
        self.metrics.cost(labels, inclusion.execution_gas(), inclusion.gas_used_for_l1, gwei);
    }

    fn whole_gwei(&self, labels: Labels, wei: u128) -> u64 {
        let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = carried.entry(labels).or_default();
        let all = rest.saturating_add(wei);
        *rest = all % GWEI;
        u64::try_from(all / GWEI).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, B256, Bytes};
    use proptest::prelude::*;

    use super::*;

    const MINED: Mined = Mined {
        hash: B256::ZERO,
        succeeded: true,
        block_number: 1,
        block_hash: B256::ZERO,
        gas_used: 1_000_001,
        gas_used_for_l1: 10,
        effective_gas_price: 5,
    };

    fn inclusion(answers: Option<u32>, order: Option<u32>) -> Inclusion {
        Inclusion {
            sender: Address::ZERO,
            nonce: 1,
            transaction_hash: B256::ZERO,
            block_number: 1,
            block_hash: B256::ZERO,
            gas_used: 210_000,
            gas_used_for_l1: 10_000,
            effective_gas_price: 7,
            answers,
            order,
        }
    }

    #[test]
    fn answers_alike_bear_alike() {
        let weight = Weight::of(&Outcome::Recorded, &[7; 420], 240_000, 370_000);
        let parts = shares(&[weight; 3], MINED);
        assert!(parts.iter().all(|part| (333_332..=333_335).contains(&part.gas_used)), "{parts:?}");
    }

    #[test]
    fn a_failed_answer_bears_what_it_used_and_no_more() {
        let calldata = [7; 420];
        let weight = |outcome: &Outcome| Weight::of(outcome, &calldata, 240_000, 370_000).execution;
        let recorded = weight(&Outcome::Recorded);
        assert!(weight(&Outcome::Reverted(Bytes::new())) > recorded, "it used its whole cap");
        assert!(weight(&Outcome::Reverted(Bytes::from_static(b"why"))) * 4 < recorded);
        assert!(weight(&Outcome::NoGas) * 10 < recorded);
        // Nothing was done at all: only the calldata was paid for.
        assert_eq!(weight(&Outcome::Silent), 420 * 16);
    }

    #[test]
    fn l1_is_borne_by_bytes() {
        let small = Weight { execution: 100, bytes: 100 };
        let large = Weight { execution: 100, bytes: 300 };
        let mined = Mined { gas_used: 1_000, gas_used_for_l1: 400, ..MINED };
        let parts = shares(&[small, large], mined);
        let told: Vec<_> = parts.iter().map(|part| (part.gas_used, part.gas_used_for_l1)).collect();
        assert_eq!(told, [(400, 100), (600, 300)]);
    }

    #[test]
    fn p6_costs_have_few_labels() {
        let labels = |answers, order| {
            let labels = Labels::of(Kind::Keygen, &inclusion(answers, order));
            (labels.batch, labels.order)
        };
        assert_eq!(labels(Some(1), Some(1)), ("1", "1"));
        assert_eq!(labels(Some(7), Some(2)), ("2-7", "2"));
        assert_eq!(labels(Some(31), Some(3)), ("8-31", "3"));
        assert_eq!(labels(Some(500), Some(13)), ("32+", "4+"));
        assert_eq!(labels(None, None), ("unknown", "unknown"));
    }

    #[test]
    fn fees_below_a_gwei_add_up() {
        let costs = Costs::new(Metrics::of("test"));
        let labels = Labels::of(Kind::Keygen, &inclusion(None, None));
        let told: Vec<u64> = (0..4).map(|_| costs.whole_gwei(labels, GWEI / 3 + 1)).collect();
        assert_eq!(told, [0, 0, 1, 0]);
    }

    proptest! {
        #[test]
        fn the_shares_of_a_batch_sum_up_to_its_cost(
            execution in 0u64..30_000_000,
            l1 in 0u64..30_000_000,
            weights in prop::collection::vec((1u64..2_000_000, 1u64..100_000), 1..80),
        ) {
            let weights: Vec<Weight> =
                weights.into_iter().map(|(execution, bytes)| Weight { execution, bytes }).collect();
            let mined = Mined { gas_used: execution + l1, gas_used_for_l1: l1, ..MINED };
            let parts = shares(&weights, mined);
            prop_assert_eq!(parts.len(), weights.len());
            prop_assert_eq!(parts.iter().map(|part| part.gas_used).sum::<u64>(), execution + l1);
            prop_assert_eq!(parts.iter().map(|part| part.gas_used_for_l1).sum::<u64>(), l1);
            // Nobody's share is off by more than one unit of each.
            let all: u64 = weights.iter().map(|weight| weight.execution).sum();
            for (part, weight) in parts.iter().zip(&weights) {
                let exact = u128::from(execution) * u128::from(weight.execution) / u128::from(all);
                prop_assert!(u128::from(part.gas_used - part.gas_used_for_l1).abs_diff(exact) <= 1);
            }
        }
    }
}
