//! Calls of answers before they are sent, where one is likely to fail: a failure that a call shows burns no gas and makes no
//! batch smaller than it was planned to be.
//!
//! Each answer is tried by a call of its own, all that wait in one request: that needs no code on the account and no node that
//! overrides state, and tells of each answer what its own transaction would. A batch as a whole would tell nothing, since it
//! succeeds whatever becomes of its items. What a call shows is judged as what a transaction showed; what none shows is sent.

use std::collections::VecDeque;
use std::time::Duration;

use alloy::primitives::Bytes;
use kms_chain::revert::Revert;
use kms_chain::rpc::{BlockId, CallError, CallRequest};

use super::answers::Stage;
use super::asking::Told;
use super::{ItemKey, Submitter};
use crate::config::{Simulate, SubmissionConfig};
use crate::nonce::Millis;
use crate::verdict::{Cause, Finding};

/// Requests at once.
const AT_ONCE: usize = 2;
/// How long answers wait for one.
const PATIENCE: Duration = Duration::from_secs(1);
/// After a request that nobody answered, answers are sent without for so long.
const BLIND_MS: u64 = 5_000;

/// What a call of an answer showed; none if nothing.
pub(super) type Shown = Option<Result<(), Bytes>>;

/// Which answers are tried, and those that wait for it.
pub(super) struct Simulating {
    rule: Rule,
    waiting: VecDeque<ItemKey>,
    running: usize,
}

/// Which answers are tried. Pure.
#[derive(Clone, Copy, Debug)]
struct Rule {
    simulate: Simulate,
    old_blocks: u64,
    suspicion_ms: u64,
    suspicious_until: Millis,
    blind_until: Millis,
}

impl Rule {
    fn applies(&self, request_block: u64, head: u64, now: Millis) -> bool {
        let is_old = request_block > 0 && head.saturating_sub(request_block) >= self.old_blocks;
        let wanted = match self.simulate {
            Simulate::Never => false,
            Simulate::Suspicious => is_old || now < self.suspicious_until,
            Simulate::Always => true,
        };
        wanted && now >= self.blind_until
    }

    /// An answer was refused: those that come now may be too.
    fn refused(&mut self, now: Millis) {
        self.suspicious_until = now.plus(self.suspicion_ms);
    }

    fn unanswered(&mut self, now: Millis) {
        self.blind_until = now.plus(BLIND_MS);
    }
}

impl Simulating {
    pub(super) fn new(config: &SubmissionConfig) -> Self {
        let rule = Rule {
            simulate: config.simulate,
            old_blocks: config.simulate_after_blocks,
            suspicion_ms: config.suspicion_ms,
            suspicious_until: Millis(0),
            blind_until: Millis(0),
        };
        Self { rule, waiting: VecDeque::new(), running: 0 }
    }

    /// An answer was refused by the contract, in a transaction or by a call.
    pub(super) fn refused(&mut self, now: Millis) {
        self.rule.refused(now);
    }

    /// Answers that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

impl Submitter {
    /// Whether a call of the answer comes before it is sent: then it waits for that.
    pub(super) fn simulates(&mut self, key: ItemKey) -> bool {
        let Some(answer) = self.answers.get(&key) else { return false };
        if !self.simulating.rule.applies(answer.block, self.head, self.clock.now()) {
            return false;
        }
        self.answers.set(&key, Stage::Examined);
        self.simulating.waiting.push_back(key);
        true
    }

    pub(super) fn pump_simulations(&mut self) {
        while self.simulating.running < AT_ONCE && !self.simulating.waiting.is_empty() {
            let count = self.simulating.waiting.len().min(self.config.question_batch);
            let (mut keys, mut requests) = (Vec::with_capacity(count), Vec::with_capacity(count));
            for key in self.simulating.waiting.drain(..count) {
                // Nobody waits for one that is not known any more.
                if let Some(answer) = self.answers.get(&key) {
                    keys.push(key);
                    requests.push(CallRequest::from(self.sender, answer.payload.to, answer.payload.data.clone()));
                }
            }
            self.simulating.running += 1;
            let rpc = self.rpc.needing(self.head);
            self.tasks.spawn(async move {
                let results = tokio::time::timeout(PATIENCE, rpc.calls(&requests, BlockId::latest())).await;
                Told::Simulated(match results {
                    Ok(Ok(results)) => keys.into_iter().zip(results.into_iter().map(shown)).collect(),
                    Ok(Err(_)) | Err(_) => keys.into_iter().map(|key| (key, None)).collect(),
                })
            });
        }
    }

    pub(super) fn simulated(&mut self, shown: Vec<(ItemKey, Shown)>) {
        self.simulating.running = self.simulating.running.saturating_sub(1);
        let now = self.clock.now();
        if !shown.is_empty() && shown.iter().all(|(_, shown)| shown.is_none()) {
            let destination = self.metrics.destination();
            tracing::debug!(destination, answers = shown.len(), "calls are not answered; answers are sent without");
            self.simulating.rule.unanswered(now);
        }
        for (key, shown) in shown {
            self.metrics.simulated(match &shown {
                None => "unknown",
                Some(Ok(())) => "passes",
                Some(Err(_)) => "refused",
            });
            match shown {
                None | Some(Ok(())) => self.price(key),
                Some(Err(data)) => {
                    self.simulating.refused(now);
                    let revert = Revert::decode(&data);
                    match revert.state_check() {
                        // The view that decides belongs to a block of its own.
                        Some(_) => self.asking.examine_first(key),
                        None => self.conclude(key, Cause::Waited, Finding::Reverts(revert, data)),
                    }
                }
            }
        }
    }
}

fn shown(result: Result<Bytes, CallError>) -> Shown {
    match result {
        Ok(_) => Some(Ok(())),
        Err(CallError::Reverted(data)) => Some(Err(data)),
        Err(CallError::Rpc(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(simulate: Simulate) -> Rule {
        let (suspicious_until, blind_until) = (Millis(0), Millis(0));
        Rule { simulate, old_blocks: 100, suspicion_ms: 1_000, suspicious_until, blind_until }
    }

    #[test]
    fn an_answer_is_tried_when_its_request_is_old_or_one_was_just_refused() {
        let mut rule = rule(Simulate::Suspicious);
        assert!(!rule.applies(951, 1_000, Millis(5)));
        assert!(rule.applies(900, 1_000, Millis(5)));
        assert!(!rule.applies(0, 1_000, Millis(5)), "no record says how old it is");
        assert!(!rule.applies(1_001, 1_000, Millis(5)), "this node lags");
        rule.refused(Millis(10));
        assert!(rule.applies(951, 1_000, Millis(1_009)));
        assert!(!rule.applies(951, 1_000, Millis(1_010)));
    }

    #[test]
    fn never_and_always_are_what_they_say() {
        let mut never = rule(Simulate::Never);
        never.refused(Millis(10));
        assert!(!never.applies(1, 1_000, Millis(11)));
        assert!(rule(Simulate::Always).applies(1_000, 1_000, Millis(0)));
    }

    #[test]
    fn p5_while_nobody_answers_calls_nothing_waits_for_them() {
        let mut rule = rule(Simulate::Always);
        rule.unanswered(Millis(10));
        assert!(!rule.applies(1, 1_000, Millis(BLIND_MS + 9)));
        assert!(rule.applies(1, 1_000, Millis(BLIND_MS + 10)));
    }
}
