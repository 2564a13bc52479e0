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
    /// How it ended. Kept while a transaction still carries it, because whoever was told may have to ask again: a stage that
    /// could not publish what it was told reads its record anew.
    ended: Option<Known>,
    /// The nonce that carries it, until that is over.
    nonce: Option<Nonce>,
    taken: Option<Instant>,
}

/// An end, and whether anybody was told of it.
struct Known {
    ended: Ended,
    at: Millis,
    is_told: bool,
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
            ended: None,
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
                    ended: None,
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
        match &mut answer.ended {
            Some(known) => {
                known.is_told |= reply.send(known.ended.clone()).is_ok();
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
        let is_told = answer.reply.take().is_some_and(|reply| reply.send(ended.clone()).is_ok());
        answer.ended = Some(Known { ended, at: now, is_told });
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
        let over = |answer: &Answer| answer.nonce.is_none() && answer.ended.as_ref().is_some_and(|known| known.is_told);
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
            .filter(|(_, answer)| {
                answer.ended.as_ref().is_some_and(|known| !known.is_told && known.at.plus(memory) <= now)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in stale {
            if let Some(known) = self.answers.get_mut(&key).and_then(|answer| answer.ended.as_mut()) {
                known.is_told = true;
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

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, Bytes};
    use kms_schemas::identity::{Coordinates, Lane};

    use super::*;
    use crate::verify::Call;

    const KEY: ItemKey = ItemKey { lane: Lane::Decryption, partition: 0, offset: 7 };
    const NONCE: Nonce = Nonce(3);
    const NOW: Millis = Millis(1_000);

    fn job() -> (Job, oneshot::Receiver<Ended>) {
        let (reply, ended) = oneshot::channel();
        let id = RequestId(B256::with_last_byte(4));
        let identity = Identity { chain_id: 1, contract: Address::ZERO, kind: Kind::PublicDecryption, id };
        let result = Coordinates { topic: "results".to_owned(), partition: 0, offset: 7 };
        let call = Call {
            kind: Kind::PublicDecryption,
            to: Address::ZERO,
            calldata: Bytes::new(),
            mark: Mark::TxSender,
            context: None,
        };
        (Job { key: KEY, item: IntentItem { result, identity }, block: 9, call, reply }, ended)
    }

    fn end() -> End {
        End::Verdict(Verdict::NoAnswerOnChain)
    }

    #[test]
    fn p3_whoever_could_not_publish_an_end_is_told_it_again_while_its_transaction_is_open() {
        let mut answers = Answers::default();
        let (first, mut ended) = job();
        assert_eq!(answers.claim(first), Stage::New);
        answers.placed(&KEY, NONCE);
        answers.settle(&KEY, end(), NOW);
        let told = ended.try_recv().unwrap();
        // The stage that was told starts anew before it could publish.
        for _ in 0..2 {
            let (again, mut ended) = job();
            assert_eq!(answers.claim(again), Stage::Settled);
            assert_eq!(ended.try_recv().unwrap(), told);
        }
        answers.closed(NONCE);
        assert!(answers.get(&KEY).is_none(), "told, and its nonce is over");
    }

    #[test]
    fn p3_an_end_that_nobody_heard_is_kept_for_whoever_asks_within_the_memory() {
        let memory = Duration::from_secs(60);
        let mut answers = Answers::default();
        let (first, ended) = job();
        answers.claim(first);
        answers.placed(&KEY, NONCE);
        drop(ended);
        answers.settle(&KEY, end(), NOW);
        answers.closed(NONCE);
        answers.forget_unclaimed(NOW.plus(599_999), memory);
        let (again, mut ended) = job();
        assert_eq!(answers.claim(again), Stage::Settled);
        assert_eq!(ended.try_recv().unwrap().end, end());
        assert!(answers.get(&KEY).is_none());

        let (first, ended) = job();
        answers.claim(first);
        drop(ended);
        answers.settle(&KEY, end(), NOW);
        answers.forget_unclaimed(NOW.plus(600_000), memory);
        assert!(answers.get(&KEY).is_none(), "nobody asked for long");
    }
}
