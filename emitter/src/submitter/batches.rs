//! Batches: what goes into one transaction, and what its receipt says of each answer in it.

use alloy::primitives::{B256, Bytes};
use kms_chain::revert::Revert;
use kms_schemas::identity::{Identity, Kind, RequestId};
use kms_schemas::record::{IntentItem, RawLog, Verdict};

use super::answers::Stage;
use super::{End, ItemKey, Submitter};
use crate::batch::{Limits, Load};
use crate::codes::NO_EXECUTOR;
use crate::cost::{self, Weight};
use crate::executor::{self, Outcome};
use crate::nonce::{Mined, Nonce};
use crate::verdict::{self, Cause, Finding, Reverted};
use crate::wallet::Payload;

impl Submitter {
    /// What an answer takes of a transaction.
    pub(super) fn load(&self, key: &ItemKey) -> Load {
        let Some(answer) = self.answers.get(key) else { return Load::default() };
        let (kind, bytes) = (answer.item.identity.kind, answer.payload.data.len());
        let gas = self.gas.limit(kind, bytes, answer.history.gas_tries).unwrap_or(answer.payload.gas_limit);
        Load { bytes, gas, alone: answer.alone }
    }

    /// Gives an answer to the planner.
    pub(super) fn plan(&mut self, key: ItemKey) {
        let load = self.load(&key);
        let actions = self.planner.submit(key, load, self.clock.now());
        self.obey(actions);
    }

    /// What a transaction with these answers does: one goes as a plain call, several as a batch. None if one of them is not
    /// known any more.
    pub(super) fn payload(&mut self, nonce: Nonce, keys: &[ItemKey]) -> Option<(Payload, Vec<(ItemKey, IntentItem)>)> {
        if keys.is_empty() {
            let filler = Payload { to: self.sender, data: Bytes::new(), gas_limit: self.config.filler_gas };
            return Some((filler, Vec::new()));
        }
        if keys.iter().any(|key| self.answers.get(key).is_none()) {
            return None;
        }
        let (mut calls, mut items) = (Vec::with_capacity(keys.len()), Vec::with_capacity(keys.len()));
        for key in keys {
            let limit = self.load(key).gas;
            let answer = self.answers.get_mut(key)?;
            answer.payload.gas_limit = limit;
            answer.history.transactions = answer.history.transactions.saturating_add(1);
            calls.push(answer.payload.clone());
            items.push((*key, answer.item.clone()));
            self.answers.placed(key, nonce);
        }
        let payload = match calls.pop() {
            Some(only) if calls.is_empty() => only,
            last => {
                calls.extend(last);
                let mut batch = executor::batch(self.sender, &calls);
                // Above it no node takes it. What then cannot be started is reported and goes again.
                batch.gas_limit = batch.gas_limit.min(self.config.max_gas);
                batch
            }
        };
        self.metrics.packed(items.len());
        Some((payload, items))
    }

    /// A transaction that carried these answers was mined; `items` of them are settled by it.
    pub(super) fn settled_by(&mut self, carried: &[ItemKey], items: &[ItemKey], nonce: Nonce, mined: Mined) {
        match self.batch_logs.remove(&mined.hash) {
            Some(logs) if mined.succeeded => self.batch_mined(carried, items, nonce, mined, &logs),
            Some(_) => {
                // It ran out of gas as a whole, or is no batch to the account's code: nothing of it was done.
                let shares = self.shares(carried, &vec![Outcome::Silent; carried.len()], mined);
                for (key, share) in shares.into_iter().filter(|(key, _)| items.contains(key)) {
                    self.item_reverted(key, nonce, (share, count(carried)), false);
                    self.asking.examine_revert(key, mined.block_number);
                }
            }
            None => items.iter().for_each(|key| self.mined(*key, nonce, mined)),
        }
    }

    /// Each item ends, or goes on, by what the logs say of it. Nothing is concluded from the transaction's status.
    fn batch_mined(&mut self, carried: &[ItemKey], items: &[ItemKey], nonce: Nonce, mined: Mined, logs: &[RawLog]) {
        let identities: Vec<Identity> = carried.iter().map(|key| self.identity(key)).collect();
        let outcomes = executor::outcomes(self.sender, &self.contracts, logs, &identities);
        if !carried.is_empty() && logs.is_empty() {
            self.stop_batches();
        }
        let answers = count(carried);
        let shares = self.shares(carried, &outcomes, mined);
        for ((key, share), outcome) in shares.into_iter().zip(outcomes) {
            if !items.contains(&key) {
                continue;
            }
            self.metrics.batch_item(&outcome);
            let Some(answer) = self.answers.get_mut(&key) else { continue };
            match outcome {
                Outcome::Recorded => {
                    let kind = answer.item.identity.kind;
                    self.metrics.gas_used(kind, share.gas_used, share.gas_used_for_l1);
                    let inclusion = verdict::inclusion(self.sender, nonce, &share, answers);
                    self.settle(key, End::Verdict(Verdict::Accepted(inclusion)));
                }
                Outcome::Reverted(data) => self.item_failed(key, nonce, (share, answers), data),
                Outcome::NoGas => {
                    answer.alone = true;
                    self.price(key);
                }
                Outcome::OwnAccount => {
                    answer.alone = true;
                    self.unsendable(key, "its call is to the transaction sender itself");
                }
                Outcome::Silent => {
                    answer.alone = true;
                    self.displaced(key);
                }
            }
        }
    }

    /// One item failed. Its own revert is the best witness; without data it ran out of gas, or the call of a plain
    /// transaction would say no more.
    fn item_failed(&mut self, key: ItemKey, nonce: Nonce, share: (Mined, u32), data: Bytes) {
        self.item_reverted(key, nonce, share, data.is_empty());
        let revert = Revert::decode(&data);
        if !data.is_empty() {
            self.simulating.refused(self.clock.now());
        }
        if data.is_empty() || revert.state_check().is_some() {
            return self.asking.examine_revert(key, share.0.block_number);
        }
        self.conclude(key, Cause::Reverted, Finding::Reverts(revert, data));
    }

    /// `share` is what of the transaction is the answer's, and how many there were.
    fn item_reverted(&mut self, key: ItemKey, nonce: Nonce, share: (Mined, u32), ran_out: bool) {
        let (mined, answers) = share;
        let Some(answer) = self.answers.get_mut(&key) else { return };
        answer.alone = true;
        answer.history.reverted = Some(Reverted { nonce, mined, answers, ran_out });
        let kind = answer.item.identity.kind;
        self.metrics.gas_used(kind, mined.gas_used, mined.gas_used_for_l1);
        self.answers.set(&key, Stage::Examined);
    }

    /// A batch that nobody takes: each of its answers goes alone, and batches get smaller.
    pub(super) fn batch_unsendable(&mut self, keys: Vec<ItemKey>, reason: &str) {
        let destination = self.metrics.destination();
        tracing::warn!(
            destination,
            answers = keys.len(),
            reason,
            "the node does not take a batch; its answers go alone"
        );
        let limits = self.planner.limits();
        self.planner.set_limits(Limits { items: (keys.len() / 2).clamp(1, limits.items.max(1)), ..limits });
        for key in keys {
            if let Some(answer) = self.answers.get_mut(&key) {
                answer.alone = true;
                self.admit(key);
            }
        }
    }

    /// A batch was mined and did nothing: the account does not delegate to the executor any more.
    fn stop_batches(&mut self) {
        if self.planner.limits().items <= 1 {
            return;
        }
        let (destination, code) = (self.metrics.destination(), NO_EXECUTOR);
        tracing::error!(
            destination,
            code,
            "a batch was mined and did nothing; answers go one by one until the next start"
        );
        self.planner.set_limits(Limits::SINGLE);
    }

    /// What of the transaction's cost is each answer's ([`crate::cost`]).
    fn shares(&self, carried: &[ItemKey], outcomes: &[Outcome], mined: Mined) -> Vec<(ItemKey, Mined)> {
        let weight = |(key, outcome): (&ItemKey, &Outcome)| {
            // One that is not known any more weighs as little as can be, and nobody asks for its share.
            let Some(answer) = self.answers.get(key) else { return Weight { execution: 1, bytes: 1 } };
            let (kind, data, cap) = (answer.item.identity.kind, &answer.payload.data, answer.payload.gas_limit);
            Weight::of(outcome, data, self.gas.figure(kind, data.len()).unwrap_or(cap), cap)
        };
        let weights: Vec<Weight> = carried.iter().zip(outcomes).map(weight).collect();
        carried.iter().copied().zip(cost::shares(&weights, mined)).collect()
    }

    fn identity(&self, key: &ItemKey) -> Identity {
        // An answer that is not known any more is looked for under an identity that no event has.
        let nobody = Identity {
            chain_id: 0,
            contract: alloy::primitives::Address::ZERO,
            kind: Kind::PublicDecryption,
            id: RequestId(B256::ZERO),
        };
        self.answers.get(key).map_or(nobody, |answer| answer.item.identity)
    }
}

/// Answers of a transaction, for a record.
fn count(carried: &[ItemKey]) -> u32 {
    u32::try_from(carried.len()).unwrap_or(u32::MAX)
}
