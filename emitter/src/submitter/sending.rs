//! Journalled bytes on their way to a node: batched, in order, a few requests at once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use alloy::primitives::Bytes;
use kms_chain::rpc::SendOutcome;
use kms_runtime::retry::Backoff;

use super::Submitter;
use super::asking::Told;
use crate::config::SubmissionConfig;
use crate::nonce::{self, Millis, Nonce};
use crate::pool::Sends;

/// What is to become of a transaction that a node refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judgement {
    /// It is tried again by itself.
    Again,
    /// The node takes nothing now, as far as is known: everything waits.
    Outage,
    /// No node will take it.
    Unsendable,
}

/// Refusals that are not about nonce, fee or funds, by nonce. An outage in words that this release does not know must not turn
/// answers into dead letters: such words count only while the node takes other transactions, or when they have stood for long.
/// Pure.
#[derive(Debug)]
pub(super) struct Refusals {
    most: u32,
    patience_ms: u64,
    by_nonce: HashMap<Nonce, Refused>,
    /// Transactions that nodes took.
    taken: u64,
}

#[derive(Clone, Copy, Debug)]
struct Refused {
    since: Millis,
    counted: u32,
    /// [`Refusals::taken`] at the last of them.
    taken: u64,
}

impl Refusals {
    pub(super) fn new(config: &SubmissionConfig) -> Self {
        Self {
            most: config.unknown_refusals,
            patience_ms: config.unknown_refusal_limit_ms,
            by_nonce: HashMap::new(),
            taken: 0,
        }
    }

    /// A node took a transaction with this nonce.
    fn taken(&mut self, nonce: Nonce) {
        self.taken += 1;
        self.forget(nonce);
    }

    /// The nonce is over, or a node has its transaction.
    pub(super) fn forget(&mut self, nonce: Nonce) {
        self.by_nonce.remove(&nonce);
    }

    /// A refusal that names a fault of the transaction.
    fn named(&mut self, nonce: Nonce, now: Millis) -> Judgement {
        self.refused(nonce, now).counted += 1;
        self.judged(nonce, now, Judgement::Again)
    }

    /// A refusal in unknown words.
    fn unknown(&mut self, nonce: Nonce, now: Millis) -> Judgement {
        let is_first = !self.by_nonce.contains_key(&nonce);
        let taken = self.taken;
        let refused = self.refused(nonce, now);
        let others_go = std::mem::replace(&mut refused.taken, taken) < taken;
        if others_go {
            refused.counted += 1;
        }
        self.judged(nonce, now, if is_first || others_go { Judgement::Again } else { Judgement::Outage })
    }

    fn refused(&mut self, nonce: Nonce, now: Millis) -> &mut Refused {
        let taken = self.taken;
        self.by_nonce.entry(nonce).or_insert(Refused { since: now, counted: 0, taken })
    }

    fn judged(&mut self, nonce: Nonce, now: Millis, else_: Judgement) -> Judgement {
        let over = |refused: &Refused| refused.counted > self.most || refused.since.plus(self.patience_ms) <= now;
        if self.by_nonce.get(&nonce).is_some_and(over) {
            self.forget(nonce);
            return Judgement::Unsendable;
        }
        else_
    }
}

/// Bytes that wait.
pub(super) struct Sending {
    queue: VecDeque<(Nonce, u32, Bytes)>,
    queued: HashSet<(Nonce, u32)>,
    running: usize,
    sends: Sends,
    /// After an outage: not before this moment.
    paused_until: Option<Instant>,
    failures: u32,
    pauses: Backoff,
    /// No node takes anything, and that was told.
    told: bool,
}

impl Sending {
    pub(super) fn new(config: &SubmissionConfig, sends: Sends) -> Self {
        Self {
            queue: VecDeque::new(),
            queued: HashSet::new(),
            running: 0,
            sends,
            paused_until: None,
            failures: 0,
            pauses: Backoff {
                first: Duration::from_millis(config.send_pause_ms),
                max: Duration::from_millis(config.send_pause_max_ms),
                factor: 2.0,
            },
            told: false,
        }
    }

    /// Adds bytes, unless they wait already.
    pub(super) fn push(&mut self, nonce: Nonce, attempt: u32, raw: Bytes) {
        if !self.queued.insert((nonce, attempt)) {
            return;
        }
        // Where there is no pool, one that is ahead of a missing nonce is refused.
        let place = match self.sends.pool {
            true => self.queue.len(),
            false => self.queue.partition_point(|(other, ..)| *other <= nonce),
        };
        self.queue.insert(place, (nonce, attempt, raw));
    }

    /// Forgets what waits: the planner has it sent again.
    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.queued.clear();
    }

    /// What was certainly not sent goes to the front again, in its order.
    fn push_back_front(&mut self, unsent: Vec<(Nonce, u32, Bytes)>) {
        for (nonce, attempt, raw) in unsent.into_iter().rev() {
            if !self.sends.pool {
                self.push(nonce, attempt, raw);
            } else if self.queued.insert((nonce, attempt)) {
                self.queue.push_front((nonce, attempt, raw));
            }
        }
    }

    fn next(&mut self) -> Option<Vec<(Nonce, u32, Bytes)>> {
        if self.running >= self.sends.concurrency || self.queue.is_empty() {
            return None;
        }
        if self.paused_until.is_some_and(|until| Instant::now() < until) {
            return None;
        }
        self.paused_until = None;
        let batch: Vec<_> = self.queue.drain(..self.sends.batch.min(self.queue.len())).collect();
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
        for ((nonce, ..), outcome) in &outcomes {
            match outcome {
                SendOutcome::Accepted(_) => self.refusals.taken(*nonce),
                SendOutcome::AlreadyKnown => self.refusals.forget(*nonce),
                _ => {}
            }
        }
        self.tell_refusing(&outcomes);
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

    /// Tells once that nodes take nothing, in their own words, and once that they do again.
    fn tell_refusing(&mut self, outcomes: &[((Nonce, u32, Bytes), SendOutcome)]) {
        let destination = self.metrics.destination();
        if outcomes.iter().any(|(_, outcome)| matches!(outcome, SendOutcome::Accepted(_))) {
            if std::mem::take(&mut self.sending.told) {
                tracing::info!(destination, "transactions are taken again");
            }
            return;
        }
        let refusal = outcomes.iter().find_map(|(_, outcome)| match outcome {
            SendOutcome::Busy(refusal) | SendOutcome::Refused { message: refusal, .. } => Some(refusal),
            _ => None,
        });
        if let Some(refusal) = refusal
            && !std::mem::replace(&mut self.sending.told, true)
        {
            tracing::warn!(destination, refusal, "no transaction is taken; they are sent again as they are");
        }
    }

    /// What an outcome means for the planner; none if the bytes are simply sent again.
    fn reading_of(&mut self, nonce: Nonce, outcome: &SendOutcome) -> Option<nonce::Answer> {
        let now = self.clock.now();
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
            SendOutcome::Invalid { code, message } => {
                let judgement = self.refusals.named(nonce, now);
                return judged(judgement, nonce, *code, message);
            }
            SendOutcome::Refused { code, message } => {
                let judgement = self.refusals.unknown(nonce, now);
                return judged(judgement, nonce, *code, message);
            }
            SendOutcome::Uncertain(_) => nonce::Answer::Unknown,
            SendOutcome::Busy(_) | SendOutcome::Unsent(_) => return None,
        })
    }
}

fn judged(judgement: Judgement, nonce: Nonce, code: i64, refusal: &str) -> Option<nonce::Answer> {
    match judgement {
        Judgement::Again => {
            tracing::debug!(nonce = nonce.0, code, refusal, "the node refuses a transaction, trying again");
            Some(nonce::Answer::NonceTooHigh)
        }
        Judgement::Outage => None,
        Judgement::Unsendable => Some(nonce::Answer::Unsendable(format!("error {code}: {refusal}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE_MS: u64 = 3_600_000;

    fn next_nonces(sending: &mut Sending) -> Vec<u64> {
        let batch = sending.next().unwrap_or_default();
        batch.into_iter().map(|(nonce, ..)| nonce.0).collect()
    }

    #[test]
    fn without_a_pool_each_leaves_by_itself_in_the_order_of_the_nonces() {
        let mut sending = Sending::new(&SubmissionConfig::default(), Sends { concurrency: 2, ..Sends::suiting(false) });
        for nonce in [5, 3, 4] {
            sending.push(Nonce(nonce), 0, Bytes::new());
        }
        assert_eq!(next_nonces(&mut sending), [3]);
        assert_eq!(next_nonces(&mut sending), [4]);
        assert_eq!(next_nonces(&mut sending), [0; 0], "two are under way");
        sending.push_back_front(vec![(Nonce(4), 0, Bytes::new())]);
        sending.running = 0;
        assert_eq!(next_nonces(&mut sending), [4], "what was not sent goes before what comes after it");
    }

    #[test]
    fn into_a_pool_many_leave_together_in_the_order_in_which_they_came() {
        let mut sending = Sending::new(&SubmissionConfig::default(), Sends::suiting(true));
        for nonce in [5, 3, 4] {
            sending.push(Nonce(nonce), 0, Bytes::new());
        }
        assert_eq!(next_nonces(&mut sending), [5, 3, 4]);
    }

    fn refusals() -> Refusals {
        let config = SubmissionConfig {
            unknown_refusals: 5,
            unknown_refusal_limit_ms: PATIENCE_MS,
            ..SubmissionConfig::default()
        };
        Refusals::new(&config)
    }

    #[test]
    fn words_that_nobody_knows_are_an_outage_while_nothing_else_is_taken() {
        let mut refusals = refusals();
        refusals.taken(Nonce(6));
        assert_eq!(refusals.unknown(Nonce(7), Millis(0)), Judgement::Again);
        // A pause of a sequencer, of minutes.
        for now in (500..600_000).step_by(500) {
            assert_eq!(refusals.unknown(Nonce(7), Millis(now)), Judgement::Outage);
            assert_ne!(refusals.unknown(Nonce(8), Millis(now)), Judgement::Unsendable);
        }
        assert_eq!(refusals.unknown(Nonce(7), Millis(PATIENCE_MS)), Judgement::Unsendable, "not for ever");
    }

    #[test]
    fn a_transaction_that_alone_is_refused_gives_its_nonce_up_soon() {
        let mut refusals = refusals();
        let mut tries = 0;
        while refusals.unknown(Nonce(7), Millis(tries * 500)) == Judgement::Again {
            refusals.taken(Nonce(8 + tries));
            tries += 1;
        }
        assert_eq!(tries, 6);
        assert_eq!(refusals.unknown(Nonce(7), Millis(9_000)), Judgement::Again, "its next one is counted anew");
    }

    #[test]
    fn a_named_fault_is_counted_though_nothing_else_is_sent() {
        let mut refusals = refusals();
        let judgements: Vec<_> = (0..6).map(|now| refusals.named(Nonce(7), Millis(now))).collect();
        assert_eq!(judgements[..5], [Judgement::Again; 5]);
        assert_eq!(judgements[5], Judgement::Unsendable);
    }

    #[test]
    fn what_a_node_takes_at_last_starts_anew() {
        let mut refusals = refusals();
        assert_eq!(refusals.unknown(Nonce(7), Millis(0)), Judgement::Again);
        refusals.taken(Nonce(7));
        assert_eq!(refusals.unknown(Nonce(7), Millis(PATIENCE_MS)), Judgement::Again);
    }
}
