//! The answers that the submitter knows, from intake to the end of their nonce.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use alloy::primitives::B256;
use kms_schemas::identity::{Identity, Kind, RequestId};
use kms_schemas::record::{IntentItem, Verdict};
use tokio::sync::oneshot;

use crate::answer::Mark;
use crate::nonce::{Millis, Nonce};
use crate::verdict::History;
use crate::wallet::Payload;

use super::{End, Ended, ItemKey, Job, Recovered};

/// Where an answer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Just taken.
    New,
    /// Known from the journal; its record has not come back yet.
    Recovered,
    /// With the planner: queued, or carried by a nonce.
    Planned,
    /// Waits for a gas estimate.
    Unpriced,
    /// The chain is being asked about it.
    Examined,
    /// Pauses before the chain is asked again.
    Waiting,
    /// Waits for the end of another result's answer to the same request.
    Behind,
    /// Kept until the node is registered.
    Held,
    /// Ended.
    Settled,
}

/// A transaction that was signed for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed {
    pub(super) nonce: Nonce,
    pub(super) hash: B256,
    /// Answers that it carries.
    pub(super) answers: u32,
}

pub(super) struct Answer {
    pub(super) item: IntentItem,
    /// Block of the request; 0 for an answer that only the journal told of.
    pub(super) block: u64,
    pub(super) payload: Payload,
    /// By what our recorded answer is recognised; unknown for an answer that only the journal told of.
    pub(super) mark: Option<Mark>,
    /// The context that it was signed for, where the call does not name it.
    pub(super) context: Option<RequestId>,
    pub(super) history: History,
    pub(super) unsendable: u32,
    /// It shares no transaction any more.
    pub(super) alone: bool,
    /// Every transaction that was signed for it.
    signed: Vec<Signed>,
    stage: Stage,
    reply: Option<oneshot::Sender<Ended>>,
    /// Ended before anybody asked.
    unclaimed: Option<(Ended, Millis)>,
    /// The nonce that carries it, until that is over.
    nonce: Option<Nonce>,
    taken: Option<Instant>,
}

/// See the [module](self).
#[derive(Default)]
pub(super) struct Answers {
    answers: HashMap<ItemKey, Answer>,
    by_nonce: HashMap<Nonce, Vec<ItemKey>>,
}

impl Answers {
    /// An answer that the journal told of; a later intent of it replaces what an earlier one said.
    pub(super) fn recover(&mut self, recovered: Recovered) {
        let Recovered { key, item, payload, nonce, hash, answers } = recovered;
        let answer = self.answers.entry(key).or_insert_with(|| Answer {
            item,
            block: 0,
            payload: payload.clone(),
            mark: None,
            context: None,
            history: History::default(),
            unsendable: 0,
            alone: false,
            signed: Vec::new(),
            stage: Stage::Recovered,
            reply: None,
            unclaimed: None,
            nonce: None,
            taken: None,
        });
        answer.payload = payload;
        answer.history.transactions = answer.history.transactions.saturating_add(1);
        answer.signed.push(Signed { nonce, hash, answers });
        self.placed(&key, nonce);
    }

    /// Takes a job, whatever is known of it already. Says where the answer was; an end that nobody had asked for is told.
    pub(super) fn claim(&mut self, job: Job) -> Stage {
        let Job { key, item, block, call, reply } = job;
        let Some(answer) = self.answers.get_mut(&key) else {
            let payload = Payload { to: call.to, data: call.calldata, gas_limit: 0 };
            self.answers.insert(
                key,
                Answer {
                    item,
                    block,
                    payload,
                    mark: Some(call.mark),
                    context: call.context,
                    history: History::default(),
                    unsendable: 0,
                    alone: false,
                    signed: Vec::new(),
                    stage: Stage::Planned,
                    reply: Some(reply),
                    unclaimed: None,
                    nonce: None,
                    taken: Some(Instant::now()),
                },
            );
            return Stage::New;
        };
        answer.block = block;
        answer.mark = Some(call.mark);
        answer.context = call.context;
        let before = answer.stage.clone();
        if before == Stage::Recovered {
            answer.payload.to = call.to;
            answer.payload.data = call.calldata;
        }
        answer.taken = Some(Instant::now());
        match answer.unclaimed.take() {
            Some((ended, at)) => {
                if let Err(ended) = reply.send(ended) {
                    answer.unclaimed = Some((ended, at));
                }
                self.drop_if_over(&key);
            }
            None => answer.reply = Some(reply),
        }
        before
    }

    /// A transaction with the answer is in the journal.
    pub(super) fn signed(&mut self, key: &ItemKey, signed: Signed) {
        if let Some(answer) = self.answers.get_mut(key) {
            answer.signed.push(signed);
        }
    }

    /// This transaction, if it was signed for this very answer.
    pub(super) fn own(&self, key: &ItemKey, hash: B256) -> Option<Signed> {
        self.answers.get(key)?.signed.iter().find(|own| own.hash == hash).copied()
    }

    pub(super) fn get(&self, key: &ItemKey) -> Option<&Answer> {
        self.answers.get(key)
    }

    pub(super) fn get_mut(&mut self, key: &ItemKey) -> Option<&mut Answer> {
        self.answers.get_mut(key)
    }

    pub(super) fn stage(&self, key: &ItemKey) -> Option<Stage> {
        self.answers.get(key).map(|answer| answer.stage.clone())
    }

    pub(super) fn nonce_of(&self, key: &ItemKey) -> Option<Nonce> {
        self.answers.get(key)?.nonce
    }

    /// Moves an answer on; one that has ended stays ended.
    pub(super) fn set(&mut self, key: &ItemKey, stage: Stage) {
        if let Some(answer) = self.answers.get_mut(key)
            && answer.stage != Stage::Settled
        {
            answer.stage = stage;
        }
    }

    /// A transaction under this nonce carries it.
    pub(super) fn placed(&mut self, key: &ItemKey, nonce: Nonce) {
        let Some(answer) = self.answers.get_mut(key) else { return };
        answer.nonce = Some(nonce);
        let keys = self.by_nonce.entry(nonce).or_default();
        if !keys.contains(key) {
            keys.push(*key);
        }
    }

    /// The answer has ended: whoever waits is told, once. None if it had ended before.
    pub(super) fn settle(
        &mut self,
        key: &ItemKey,
        end: End,
        now: Millis,
    ) -> Option<(Kind, &'static str, Option<Duration>)> {
        let answer = self.answers.get_mut(key)?;
        if answer.stage == Stage::Settled {
            return None;
        }
        answer.stage = Stage::Settled;
        let told = (answer.item.identity.kind, name(&end), answer.taken.map(|at| at.elapsed()));
        let ended = Ended { end, attempts: answer.history.transactions };
        answer.unclaimed = match answer.reply.take() {
            Some(reply) => reply.send(ended).err().map(|ended| (ended, now)),
            None => Some((ended, now)),
        };
        self.drop_if_over(key);
        Some(told)
    }

    /// The nonce and all that it carried are over. The answers that only the journal knew, which are forgotten.
    pub(super) fn closed(&mut self, nonce: Nonce) -> Vec<(ItemKey, Identity)> {
        let mut forgotten = Vec::new();
        for key in self.by_nonce.remove(&nonce).unwrap_or_default() {
            if let Some(answer) = self.answers.get_mut(&key)
                && answer.nonce == Some(nonce)
            {
                answer.nonce = None;
                // Only the journal knew it, and its record was never brought back: it had been settled in Kafka before.
                if answer.stage == Stage::Recovered {
                    forgotten.push((key, answer.item.identity));
                    self.answers.remove(&key);
                    continue;
                }
            }
            self.drop_if_over(&key);
        }
        forgotten
    }

    fn drop_if_over(&mut self, key: &ItemKey) {
        let over =
            |answer: &Answer| answer.stage == Stage::Settled && answer.unclaimed.is_none() && answer.nonce.is_none();
        if self.answers.get(key).is_some_and(over) {
            self.answers.remove(key);
        }
    }

    /// Answers that have not ended and that nobody waits for any more.
    pub(super) fn abandoned(&self) -> Vec<ItemKey> {
        let nobody = |answer: &Answer| {
            !matches!(answer.stage, Stage::Settled | Stage::Recovered)
                && answer.reply.as_ref().is_none_or(oneshot::Sender::is_closed)
        };
        self.answers.iter().filter(|(_, answer)| nobody(answer)).map(|(key, _)| *key).collect()
    }

    /// Ends that nobody asked for within the journal's memory were told before a restart.
    pub(super) fn forget_unclaimed(&mut self, now: Millis, memory: Duration) {
        let memory = u64::try_from(memory.as_millis()).unwrap_or(u64::MAX).saturating_mul(10);
        let stale: Vec<ItemKey> = self
            .answers
            .iter()
            .filter(|(_, answer)| answer.unclaimed.as_ref().is_some_and(|(_, at)| at.plus(memory) <= now))
            .map(|(key, _)| *key)
            .collect();
        for key in stale {
            if let Some(answer) = self.answers.get_mut(&key) {
                answer.unclaimed = None;
            }
            self.drop_if_over(&key);
        }
    }

    pub(super) fn remove(&mut self, key: &ItemKey) {
        self.answers.remove(key);
    }
}

fn name(end: &End) -> &'static str {
    match end {
        End::Verdict(Verdict::Accepted(_)) => "accepted",
        End::Verdict(Verdict::AlreadyAnswered { .. }) => "already_answered",
        End::Verdict(Verdict::NoAnswerOnChain) => "no_answer_on_chain",
        End::Verdict(Verdict::Concluded { .. }) => "concluded",
        End::Verdict(Verdict::Refused { .. }) => "refused",
        End::Verdict(Verdict::Retracted) => "retracted",
        End::GivenUp { .. } => "given_up",
    }
}
