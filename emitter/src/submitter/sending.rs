//! Journalled bytes on their way to a node: batched, in order, a few requests at once.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use alloy::primitives::Bytes;
use kms_chain::rpc::SendOutcome;
use kms_runtime::retry::Backoff;

use super::Submitter;
use super::asking::Told;
use crate::config::SubmissionConfig;
use crate::nonce::{self, Nonce};

/// Bytes that wait.
pub(super) struct Sending {
    queue: VecDeque<(Nonce, u32, Bytes)>,
    queued: HashSet<(Nonce, u32)>,
    running: usize,
    batch: usize,
    concurrency: usize,
    /// After an outage: not before this moment.
    paused_until: Option<Instant>,
    failures: u32,
    pauses: Backoff,
}

impl Sending {
    pub(super) fn new(config: &SubmissionConfig) -> Self {
        Self {
            queue: VecDeque::new(),
            queued: HashSet::new(),
            running: 0,
            batch: config.send_batch,
            concurrency: config.send_concurrency,
            paused_until: None,
            failures: 0,
            pauses: Backoff {
                first: Duration::from_millis(config.send_pause_ms),
                max: Duration::from_millis(config.send_pause_max_ms),
                factor: 2.0,
            },
        }
    }

    /// Adds bytes, unless they wait already.
    pub(super) fn push(&mut self, nonce: Nonce, attempt: u32, raw: Bytes) {
        if self.queued.insert((nonce, attempt)) {
            self.queue.push_back((nonce, attempt, raw));
        }
    }

    /// Forgets what waits: the planner has it sent again.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.queued.clear();
    }

    /// What was certainly not sent goes to the front again, in its order.
    fn push_back_front(&mut self, unsent: Vec<(Nonce, u32, Bytes)>) {
        for (nonce, attempt, raw) in unsent.into_iter().rev() {
            if self.queued.insert((nonce, attempt)) {
                self.queue.push_front((nonce, attempt, raw));
            }
        }
    }

    fn next(&mut self) -> Option<Vec<(Nonce, u32, Bytes)>> {
        if self.running >= self.concurrency || self.queue.is_empty() {
            return None;
        }
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        self.paused_until = None;
        let batch: Vec<_> = self.queue.drain(..self.batch.min(self.queue.len())).collect();
        for (nonce, attempt, _) in &batch {
            self.queued.remove(&(*nonce, *attempt));
        }
        self.running += 1;
        Some(batch)
    }

    fn pause(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.paused_until = Some(Instant::now() + self.pauses.bound(self.failures));
    }

    pub(super) fn resume(&mut self) {
        self.failures = 0;
        self.paused_until = None;
    }

    pub(super) fn waiting(&self) -> usize {
        self.queue.len()
    }
}

impl Submitter {
    pub(super) fn pump_sends(&mut self) {
        while let Some(batch) = self.sending.next() {
            let rpc = self.rpc.clone();
            self.tasks.spawn(async move {
                let raw: Vec<Bytes> = batch.iter().map(|(_, _, raw)| raw.clone()).collect();
                let outcomes = rpc.send_raw_transactions(&raw).await;
                Told::Sent(batch.into_iter().zip(outcomes).collect())
            });
        }
    }

    pub(super) fn sends_told(&mut self, outcomes: Vec<((Nonce, u32, Bytes), SendOutcome)>) {
        self.sending.running = self.sending.running.saturating_sub(1);
        let mut unsent = Vec::new();
        let (mut heard, mut poor) = (false, false);
        for ((nonce, attempt, raw), outcome) in outcomes {
            self.metrics.sent(outcome.as_str());
            match self.reading_of(nonce, &outcome) {
                Some(answer) => {
                    heard |= answer != nonce::Answer::Unknown;
                    poor |= answer == nonce::Answer::InsufficientFunds;
                    let actions = self.planner.answered(nonce, attempt, answer, self.clock.now());
                    self.obey(actions);
                }
                None => unsent.push((nonce, attempt, raw)),
            }
        }
        if poor && self.asking.note_poverty(true) {
            let code = kms_chain::codes::INSUFFICIENT_FUNDS;
            tracing::error!(code, "the transaction sender cannot pay; sending goes on when it can");
            self.funds.not_ready("the transaction sender cannot pay for gas");
        } else if heard && !poor && self.asking.note_poverty(false) {
            self.funds.ready();
        }
        if unsent.is_empty() {
            self.sending.failures = 0;
        } else {
            self.sending.pause();
            // While paused the planner keeps them.
            let paused = self.planner.is_paused();
            unsent.retain(|(nonce, attempt, _)| !paused || self.hand.may_send(*nonce, *attempt));
            self.sending.push_back_front(unsent);
        }
    }

    /// What an outcome means for the planner; none if the bytes never left and are simply sent again.
    fn reading_of(&mut self, nonce: Nonce, outcome: &SendOutcome) -> Option<nonce::Answer> {
        Some(match outcome {
            SendOutcome::Accepted(_) => nonce::Answer::Taken,
            SendOutcome::AlreadyKnown => nonce::Answer::Known,
            SendOutcome::NonceTooLow => nonce::Answer::NonceTooLow,
            SendOutcome::NonceTooHigh => nonce::Answer::NonceTooHigh,
            SendOutcome::AccountLimit => nonce::Answer::AccountFull,
            SendOutcome::ReplacementUnderpriced => nonce::Answer::ReplacementUnderpriced,
            SendOutcome::FeeTooLow => nonce::Answer::FeeTooLow,
            SendOutcome::InsufficientFunds => nonce::Answer::InsufficientFunds,
            SendOutcome::GasLimit => nonce::Answer::Unsendable("the node refuses the gas limit".to_owned()),
            SendOutcome::Refused { code, message } => {
                let refusals = self.refusals.entry(nonce).or_default();
                *refusals += 1;
                // An unknown refusal may be a passing fault of the node.
                if *refusals > self.config.unknown_refusals {
                    *refusals = 0;
                    nonce::Answer::Unsendable(format!("error {code}: {message}"))
                } else {
                    let refusal = message;
                    tracing::warn!(nonce = nonce.0, code, refusal, "the node refuses a transaction, trying again");
                    nonce::Answer::NonceTooHigh
                }
            }
            SendOutcome::Uncertain(_) => nonce::Answer::Unknown,
            SendOutcome::Busy | SendOutcome::Unsent(_) => return None,
        })
    }
}
