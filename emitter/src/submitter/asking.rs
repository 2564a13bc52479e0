//! What the nodes are asked, beyond blocks: receipts by hash, what a call would do, what it would cost, whether it was made.
//! All of it is rare, batched, and asked by tasks so that the submitter never waits.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256};
use kms_chain::event::{ContractSet, ResponseEvent, decode_response};
use kms_chain::revert::{Revert, StateCheck};
use kms_chain::rpc::{BlockId, CallError, CallRequest, Rpc, RpcError, SendOutcome};
use kms_chain::views::{ProtocolConfigViews, ViewError};
use kms_schemas::identity::{Identity, Kind, RequestId};
use kms_schemas::record::{RawLog, Verdict};

use super::answers::{Signed, Stage};
use super::simulating::Shown;
use super::{End, ItemKey, Submitter};
use crate::answer::Mark;
use crate::config::SubmissionConfig;
use crate::follow::{self, Receipted};
use crate::gas::Shape;
use crate::nonce::{Millis, Mined, Nonce};
use crate::order::response_topic;
use crate::verdict::{Case, Cause, Decision, Finding, decide, inclusion};

/// Pause after a question that no node answered.
const OUTAGE_PAUSE: Duration = Duration::from_millis(500);

/// What a task found out.
pub(super) enum Told {
    /// Outcomes of sends.
    Sent(Vec<((Nonce, u32, Bytes), SendOutcome)>),
    /// Receipts of nonces that the chain passed; none of an outage.
    LookedUp(Vec<(Nonce, Result<Option<Receipted>, ()>)>),
    /// What the calls of answers do on chain.
    Examined(Vec<(Question, Result<Finding, CallError>)>),
    /// What calls before sending showed.
    Simulated(Vec<(ItemKey, Shown)>),
    /// The gas of a call.
    Estimated { shape: Shape, key: ItemKey, result: Result<u64, CallError> },
    /// The answer is on chain, or not needed there any more; perhaps the transaction that brought it.
    Evidence { key: ItemKey, verdict: Verdict, transaction_hash: Option<B256> },
    /// The receipt of our own transaction, by which the answer is on chain.
    Own { key: ItemKey, own: Signed, evidence: String, mined: Option<Mined> },
    /// The account's balance, and the priority fee that is usual.
    Balance(Option<U256>, Option<u128>),
}

/// One answer whose call is to be tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    key: ItemKey,
    cause: Cause,
    /// On the state of this block; of the latest where none.
    block: Option<u64>,
}

/// The contract does not accept this node, for one request at least. Meanwhile no answer is sent before a call of it passed: in
/// later releases a request may belong to a set of nodes that this one is not in, while others are accepted.
pub(super) struct Hold {
    next_probe: Millis,
    pause_ms: u64,
    /// Answers that were held and are being tried again.
    probing: HashSet<ItemKey>,
}

/// What waits to be asked.
pub(super) struct Asking {
    lookups: BTreeMap<Nonce, Vec<B256>>,
    looking_up: bool,
    questions: VecDeque<Question>,
    examining: bool,
    waiting: BTreeMap<(Millis, ItemKey), ()>,
    unpriced: HashMap<Shape, VecDeque<ItemKey>>,
    estimating: HashSet<Shape>,
    /// Answers kept until the node is registered.
    held: VecDeque<ItemKey>,
    pub(super) hold: Option<Hold>,
    batch: usize,
    probe_ms: u64,
    longest_probe_ms: u64,
    low_balance: bool,
    poor: bool,
}

impl Asking {
    pub(super) fn new(config: &SubmissionConfig) -> Self {
        Self {
            lookups: BTreeMap::new(),
            looking_up: false,
            questions: VecDeque::new(),
            examining: false,
            waiting: BTreeMap::new(),
            unpriced: HashMap::new(),
            estimating: HashSet::new(),
            held: VecDeque::new(),
            hold: None,
            batch: config.question_batch,
            probe_ms: config.registration_probe_ms,
            longest_probe_ms: config.registration_probe_max_ms,
            low_balance: false,
            poor: false,
        }
    }

    pub(super) fn look_up(&mut self, nonce: Nonce, hashes: Vec<B256>) {
        self.lookups.insert(nonce, hashes);
    }

    pub(super) fn examine_revert(&mut self, key: ItemKey, block: u64) {
        self.questions.push_back(Question { key, cause: Cause::Reverted, block: Some(block) });
    }

    pub(super) fn examine_displaced(&mut self, key: ItemKey) {
        self.questions.push_back(Question { key, cause: Cause::Displaced, block: None });
    }

    /// Try a call of the answer before it is sent.
    pub(super) fn examine_first(&mut self, key: ItemKey) {
        self.questions.push_back(Question { key, cause: Cause::Waited, block: None });
    }

    /// Moves what has waited long enough to the questions, and the probe of the registration.
    pub(super) fn due(&mut self, now: Millis) {
        while let Some(entry) = self.waiting.first_entry() {
            let (at, key) = *entry.key();
            if at > now {
                break;
            }
            entry.remove();
            self.questions.push_back(Question { key, cause: Cause::Waited, block: None });
        }
        if let Some(hold) = &mut self.hold
            && hold.probing.is_empty()
            && hold.next_probe <= now
        {
            // Those at the back have their turn next time: what is refused comes back there.
            let some = self.held.len().min(self.batch);
            for key in self.held.drain(..some) {
                hold.probing.insert(key);
                self.questions.push_back(Question { key, cause: Cause::Waited, block: None });
            }
        }
    }

    /// Takes back an answer that waits here.
    pub(super) fn withdraw(&mut self, key: &ItemKey) -> bool {
        let before = self.examined() + self.unpriced() + self.held.len();
        self.waiting.retain(|(_, waiting), ()| waiting != key);
        self.unpriced.values_mut().for_each(|keys| keys.retain(|waiting| waiting != key));
        self.held.retain(|waiting| waiting != key);
        self.examined() + self.unpriced() + self.held.len() < before
    }

    pub(super) fn unpriced(&self) -> usize {
        self.unpriced.values().map(VecDeque::len).sum()
    }

    pub(super) fn examined(&self) -> usize {
        self.questions.len() + self.waiting.len()
    }

    /// Answers kept until the node is registered, those included that are being tried again.
    pub(super) fn held(&self) -> usize {
        self.held.len() + self.hold.as_ref().map_or(0, |hold| hold.probing.len())
    }

    /// Whether the balance crossed the limit.
    pub(super) fn note_balance(&mut self, low: bool) -> bool {
        std::mem::replace(&mut self.low_balance, low) != low
    }

    /// Whether the account became unable to pay, or able again.
    pub(super) fn note_poverty(&mut self, poor: bool) -> bool {
        std::mem::replace(&mut self.poor, poor) != poor
    }

    /// A held answer is no longer being tried. Whether it was.
    fn forget_probe(&mut self, key: &ItemKey) -> bool {
        self.hold.as_mut().is_some_and(|hold| hold.probing.remove(key))
    }

    /// An answer that was held is accepted: the others are tried at once.
    fn eased(&mut self, now: Millis) {
        if let Some(hold) = &mut self.hold {
            (hold.next_probe, hold.pause_ms) = (now, self.probe_ms);
        }
    }

    /// The next questions about the same block.
    fn next_questions(&mut self) -> Vec<Question> {
        let Some(first) = self.questions.front().copied() else { return Vec::new() };
        let same = self.questions.iter().take(self.batch).take_while(|question| question.block == first.block).count();
        self.questions.drain(..same).collect()
    }
}

impl Submitter {
    pub(super) fn told(&mut self, told: Told) {
        match told {
            Told::Sent(outcomes) => self.sends_told(outcomes),
            Told::LookedUp(found) => {
                self.asking.looking_up = false;
                for (nonce, found) in found {
                    // Without an answer the planner asks again.
                    let Ok(found) = found else { continue };
                    let found = found.map(|receipt| self.note_logs(receipt));
                    let actions = self.planner.looked_up(nonce, found, self.clock.now());
                    self.obey(actions);
                    self.batch_logs.clear();
                }
            }
            Told::Examined(findings) => {
                self.asking.examining = false;
                for (question, finding) in findings {
                    self.examined(question, finding);
                }
            }
            Told::Simulated(shown) => self.simulated(shown),
            Told::Estimated { shape, key, result } => self.estimated(shape, key, result),
            Told::Evidence { key, verdict, transaction_hash } => self.evidence_found(key, verdict, transaction_hash),
            Told::Own { key, own, evidence, mined } => {
                let verdict = match mined.filter(|mined| mined.succeeded) {
                    Some(mined) => {
                        // What the others in it were is not known any more: an equal part.
                        let parts = u64::from(own.answers.max(1));
                        let (gas_used, gas_used_for_l1) = (mined.gas_used / parts, mined.gas_used_for_l1 / parts);
                        let share = Mined { gas_used, gas_used_for_l1, ..mined };
                        Verdict::Accepted(inclusion(self.sender, own.nonce, &share, own.answers))
                    }
                    None => Verdict::AlreadyAnswered { evidence, transaction_hash: Some(own.hash) },
                };
                self.settle(key, End::Verdict(verdict));
            }
            Told::Balance(balance, priority_fee) => {
                self.priority_fee_told(priority_fee);
                self.balance_told(balance);
            }
        }
    }

    pub(super) fn pump_questions(&mut self) {
        if !self.asking.looking_up && !self.asking.lookups.is_empty() {
            self.start_lookups();
        }
        if !self.asking.examining && !self.asking.questions.is_empty() {
            self.start_examination();
        }
    }

    fn start_lookups(&mut self) {
        let mut batch = Vec::new();
        while batch.len() < self.config.question_batch
            && let Some((nonce, hashes)) = self.asking.lookups.pop_first()
        {
            batch.push((nonce, hashes));
        }
        self.asking.looking_up = true;
        // Whatever was mined up to this block is known to a node that has it.
        let rpc = self.rpc.needing(self.head);
        self.tasks.spawn(async move { Told::LookedUp(look_up(&rpc, batch).await) });
    }

    fn start_examination(&mut self) {
        let questions = self.asking.next_questions();
        let (mut asked, mut requests) = (Vec::new(), Vec::new());
        for question in questions {
            match self.answers.get(&question.key) {
                Some(answer) => {
                    asked.push((question, answer.context));
                    requests.push(CallRequest::from(self.sender, answer.payload.to, answer.payload.data.clone()));
                }
                // Nobody waits for it any more.
                None => {
                    self.asking.forget_probe(&question.key);
                }
            }
        }
        let Some(block) = asked.first().map(|(question, _)| question.block) else { return };
        self.asking.examining = true;
        let head = self.head;
        let rpc = self.rpc.needing(block.unwrap_or(head));
        let at = block.map_or(BlockId::latest(), BlockId::number);
        self.tasks.spawn(async move {
            let results = match rpc.calls(&requests, at).await {
                Ok(results) => results,
                Err(error) => {
                    tokio::time::sleep(OUTAGE_PAUSE).await;
                    let nothing = |(question, _)| (question, Err(error.clone().into()));
                    return Told::Examined(asked.into_iter().map(nothing).collect());
                }
            };
            let mut findings = Vec::with_capacity(asked.len());
            for (((question, context), request), result) in asked.into_iter().zip(&requests).zip(results) {
                let found = match finding(result) {
                    Ok(Finding::Reverts(revert, data)) => match revert.state_check() {
                        // Call and view on the state of one block, or the view would judge another phase.
                        Some(check) => phase(&rpc, request, (check, context), block.unwrap_or(head)).await,
                        None => Ok(Finding::Reverts(revert, data)),
                    },
                    other => other,
                };
                findings.push((question, found));
            }
            Told::Examined(findings)
        });
    }

    fn examined(&mut self, question: Question, finding: Result<Finding, CallError>) {
        let finding = match finding {
            Ok(finding) => finding,
            Err(error) => {
                // Never a verdict. A node that keeps no old states is asked about the latest block.
                let block = if error.is_outage() { question.block } else { None };
                tracing::debug!(%error, "what an answer does on chain cannot be told yet");
                return self.asking.questions.push_back(Question { block, ..question });
            }
        };
        self.conclude(question.key, question.cause, finding);
    }

    pub(super) fn conclude(&mut self, key: ItemKey, cause: Cause, finding: Finding) {
        let (now, release) = (self.clock.now(), self.contracts.release);
        let Some(answer) = self.answers.get_mut(&key) else {
            self.asking.forget_probe(&key);
            return;
        };
        let case = Case {
            cause,
            sender: self.sender,
            release,
            kind: answer.item.identity.kind,
            can_grow: self.gas.can_grow(answer.payload.gas_limit),
        };
        if let Finding::Reverts(revert, _) | Finding::PhaseOver(revert, _) = &finding {
            self.metrics.reverted(revert.name(), revert.class_in(release, case.kind).as_str());
        }
        let decision = decide(&mut answer.history, case, finding, &self.patience, now);
        let was_held = self.asking.forget_probe(&key);
        match decision {
            Decision::Send => {
                if was_held {
                    self.asking.eased(now);
                }
                self.price(key);
            }
            Decision::Wait(until, revert) => {
                tracing::debug!(?key, error = %revert, "the contract does not accept an answer yet");
                self.answers.set(&key, Stage::Waiting);
                self.asking.waiting.insert((until, key), ());
            }
            Decision::Hold(revert) => self.hold(key, &revert),
            Decision::Settle(verdict @ (Verdict::AlreadyAnswered { .. } | Verdict::Concluded { .. })) => {
                self.search_evidence(key, verdict);
            }
            Decision::Settle(verdict) => {
                if let Verdict::Refused { error, .. } = &verdict {
                    let code = kms_chain::codes::ANSWER_REFUSED;
                    let destination = self.metrics.destination();
                    tracing::error!(destination, code, ?key, error, "the contract can never accept an answer");
                }
                self.settle(key, End::Verdict(verdict));
            }
            Decision::GiveUp(code, revert) => self.settle(key, End::GivenUp { code, text: revert.to_string() }),
        }
        self.end_hold();
    }

    /// The contract says that this node may not answer: the answer waits until it may.
    fn hold(&mut self, key: ItemKey, revert: &Revert) {
        let now = self.clock.now();
        let (probe_ms, longest_ms) = (self.asking.probe_ms, self.asking.longest_probe_ms);
        match &mut self.asking.hold {
            None => {
                self.metrics.held(Some(&revert.to_string()));
                self.registration.not_ready(format!("the contract does not accept this node: {}", revert.name()));
                let probing = HashSet::new();
                self.asking.hold = Some(Hold { next_probe: now.plus(probe_ms), pause_ms: probe_ms, probing });
            }
            Some(hold) if now >= hold.next_probe => {
                hold.pause_ms = hold.pause_ms.saturating_mul(2).min(longest_ms);
                hold.next_probe = now.plus(hold.pause_ms);
            }
            Some(_) => {}
        }
        self.answers.set(&key, Stage::Held);
        self.asking.held.push_back(key);
        self.metrics.held_now(self.asking.held());
    }

    /// Nothing is held any more.
    pub(super) fn end_hold(&mut self) {
        let over = self.asking.hold.as_ref().is_some_and(|hold| hold.probing.is_empty());
        if over && self.asking.held.is_empty() {
            self.asking.hold = None;
            self.metrics.held(None);
            self.metrics.held_now(0);
            self.registration.ready();
        }
    }

    pub(super) fn ask_estimate(&mut self, kind: Kind, bytes: usize, key: ItemKey) {
        let shape = Shape::of(kind, bytes);
        self.asking.unpriced.entry(shape).or_default().push_back(key);
        self.start_estimate(shape, Duration::ZERO);
    }

    fn start_estimate(&mut self, shape: Shape, pause: Duration) {
        // What was settled meanwhile, or went another way, must not keep the others of its shape.
        if let Some(keys) = self.asking.unpriced.get_mut(&shape) {
            keys.retain(|key| self.answers.stage(key) == Some(Stage::Unpriced));
        }
        let first = self.asking.unpriced.get(&shape).and_then(VecDeque::front).copied();
        let Some((key, answer)) = first.and_then(|key| Some((key, self.answers.get(&key)?))) else {
            self.asking.unpriced.remove(&shape);
            return;
        };
        if !self.asking.estimating.insert(shape) {
            return;
        }
        self.metrics.estimating();
        let rpc = self.rpc.clone();
        let request = CallRequest::from(self.sender, answer.payload.to, answer.payload.data.clone());
        self.tasks.spawn(async move {
            tokio::time::sleep(pause).await;
            Told::Estimated { shape, key, result: rpc.estimate_gas(&request).await }
        });
    }

    fn estimated(&mut self, shape: Shape, key: ItemKey, result: Result<u64, CallError>) {
        self.asking.estimating.remove(&shape);
        match result {
            Ok(gas) => {
                let bytes = self.answers.get(&key).map_or(0, |answer| answer.payload.data.len());
                self.gas.estimated(shape.kind, bytes, gas);
                for key in self.asking.unpriced.remove(&shape).unwrap_or_default() {
                    if self.answers.stage(&key) == Some(Stage::Unpriced) {
                        self.price(key);
                    }
                }
            }
            Err(CallError::Reverted(data)) => {
                let waiting = self.asking.unpriced.get_mut(&shape);
                let was_waiting = waiting.is_some_and(|keys| {
                    let before = keys.len();
                    keys.retain(|waiting| *waiting != key);
                    keys.len() < before
                });
                if was_waiting && self.answers.stage(&key) == Some(Stage::Unpriced) {
                    self.answers.set(&key, Stage::Examined);
                    let revert = Revert::decode(&data);
                    match revert.state_check() {
                        // The view that decides belongs to a block of its own.
                        Some(_) => self.asking.examine_first(key),
                        None => self.conclude(key, Cause::Waited, Finding::Reverts(revert, data)),
                    }
                }
                self.start_estimate(shape, Duration::ZERO);
            }
            Err(CallError::Rpc(error)) => {
                tracing::warn!(code = error.code(), %error, "gas cannot be estimated, trying again");
                self.start_estimate(shape, OUTAGE_PAUSE * 2);
            }
        }
    }

    /// The chain holds our answer, or does without it: by which transaction? The verdict is what holds if there is none.
    fn search_evidence(&mut self, key: ItemKey, verdict: Verdict) {
        let Some(answer) = self.answers.get(&key) else { return };
        let Some(mark) = answer.mark.clone() else {
            return self.settle(key, End::Verdict(verdict));
        };
        let searched = Searched {
            rpc: self.rpc.clone(),
            contracts: self.contracts,
            identity: answer.item.identity,
            mark,
            tx_sender: self.sender,
            signer: self.signer,
            from: self.head.saturating_sub(self.config.evidence_blocks),
        };
        self.tasks.spawn(async move {
            let transaction_hash = searched.find_response().await.ok().flatten();
            Told::Evidence { key, verdict, transaction_hash }
        });
    }
}

impl Submitter {
    /// The transaction that carried the answer is somebody's, or one that was signed for this very answer: then it is accepted.
    fn evidence_found(&mut self, key: ItemKey, verdict: Verdict, transaction_hash: Option<B256>) {
        let Some(hash) = transaction_hash else { return self.settle(key, End::Verdict(verdict)) };
        let (Verdict::AlreadyAnswered { evidence, .. } | Verdict::Concluded { evidence }) = verdict else {
            return self.settle(key, End::Verdict(verdict));
        };
        let Some(own) = self.answers.own(&key, hash) else {
            return self.settle(key, End::Verdict(Verdict::AlreadyAnswered { evidence, transaction_hash }));
        };
        let rpc = self.rpc.clone();
        self.tasks.spawn(async move {
            let receipt = rpc.receipt(hash).await.ok().flatten();
            Told::Own { key, own, evidence, mined: receipt.as_ref().and_then(follow::mined) }
        });
    }
}

fn finding(result: Result<Bytes, CallError>) -> Result<Finding, CallError> {
    match result {
        Ok(_) => Ok(Finding::Passes),
        Err(CallError::Reverted(data)) => Ok(Finding::Reverts(Revert::decode(&data), data)),
        Err(error) => Err(error),
    }
}

async fn look_up(rpc: &Rpc, batch: Vec<(Nonce, Vec<B256>)>) -> Vec<(Nonce, Result<Option<Receipted>, ()>)> {
    let hashes: Vec<B256> = batch.iter().flat_map(|(_, hashes)| hashes.iter().copied()).collect();
    let receipts = match rpc.receipts(&hashes).await {
        Ok(receipts) => receipts,
        Err(error) => {
            tracing::debug!(%error, "receipts cannot be looked up yet");
            return batch.into_iter().map(|(nonce, _)| (nonce, Err(()))).collect();
        }
    };
    let mut receipts = receipts.into_iter();
    let mut found = Vec::with_capacity(batch.len());
    for (nonce, hashes) in batch {
        let of_nonce: Vec<_> = receipts.by_ref().take(hashes.len()).collect();
        let receipt = of_nonce.iter().flatten().find_map(follow::receipted);
        found.push((nonce, Ok(receipt)));
    }
    found
}

/// Whether the phase in which the chain takes this answer ended as the answer would have had it (`docs/protocol.md`,
/// "Errors").
async fn phase(
    rpc: &Rpc,
    request: &CallRequest,
    (check, context): (StateCheck, Option<RequestId>),
    block: u64,
) -> Result<Finding, CallError> {
    let (rpc, at) = (rpc.needing(block), BlockId::number(block));
    let now = match finding(rpc.call(request, at).await)? {
        Finding::Reverts(revert, data) if revert.state_check() == Some(check) => (revert, data),
        other => return Ok(other),
    };
    let views = ProtocolConfigViews::new(rpc.clone(), request.to);
    let ended = match (check, context) {
        (StateCheck::LiveContext(context), _) => views.is_live_context(context, at).await,
        (StateCheck::ValidEpoch(epoch), Some(context)) => views.is_valid_epoch(context, epoch, at).await,
        // Only the journal told of it: its record comes back.
        (StateCheck::ValidEpoch(_), None) => Ok(false),
    };
    match ended {
        Ok(true) => Ok(Finding::PhaseOver(now.0, format!("{} is true in block {block}", check.view()))),
        Ok(false) => Ok(Finding::Reverts(now.0, now.1)),
        Err(ViewError::Call { source, .. }) => Err(source),
        // A contract that has the error has the view.
        Err(error) => {
            tracing::warn!(%error, "the state that an error asks for cannot be read");
            Ok(Finding::Reverts(now.0, now.1))
        }
    }
}

/// A search for the node's own response event in the last blocks.
struct Searched {
    rpc: Rpc,
    contracts: ContractSet,
    identity: Identity,
    mark: Mark,
    tx_sender: Address,
    signer: Address,
    from: u64,
}

impl Searched {
    /// The transaction that it was recorded in.
    async fn find_response(&self) -> Result<Option<B256>, RpcError> {
        let Some((topic, id_is_indexed)) = response_topic(self.identity.kind) else { return Ok(None) };
        let mut topics = vec![topic];
        if id_is_indexed {
            topics.push(self.identity.id.0);
        }
        let filter = serde_json::json!([{
            "address": self.identity.contract,
            "topics": topics,
            "fromBlock": format!("{:#x}", self.from),
            "toBlock": "latest",
        }]);
        let logs: Vec<alloy::rpc::types::Log> = self.rpc.request("eth_getLogs", filter).await?;
        let ours = |log: &&alloy::rpc::types::Log| {
            let raw = RawLog {
                address: log.inner.address,
                topics: log.inner.data.topics().to_vec(),
                data: log.inner.data.data.clone(),
            };
            let event = decode_response(&self.contracts, &raw).ok().flatten();
            event.is_some_and(|event| event.id() == self.identity.id && self.is_ours(&event))
        };
        Ok(logs.iter().find(ours).and_then(|log| log.transaction_hash))
    }

    fn is_ours(&self, event: &ResponseEvent) -> bool {
        match (&self.mark, event) {
            (Mark::Signature(signature), event) => event.signature() == Some(signature),
            (Mark::TxSender, event) => event.tx_sender() == Some(self.tx_sender),
            (Mark::Signer, ResponseEvent::EpochActivationConfirmation { signer, .. }) => *signer == self.signer,
            (Mark::Signer, _) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::hex;

    use super::super::tests::{job, key, submitter};
    use super::*;
    use crate::node::{error, node};

    const ANSWERED: End = End::Verdict(Verdict::NoAnswerOnChain);

    fn outage() -> CallError {
        RpcError::Response { method: "eth_estimateGas", code: -32603, message: "internal error".to_owned(), data: None }
            .into()
    }

    #[tokio::test]
    async fn p6_an_answer_that_was_settled_while_its_gas_was_asked_for_keeps_no_other_of_its_shape() {
        let mut submitter = submitter(node(|_, _| error(-32603, "internal error")).await);
        let (first, ended) = job(1);
        submitter.take(first);
        submitter.take(job(2).0);
        assert_eq!(submitter.asking.unpriced(), 2);
        let shape = *submitter.asking.unpriced.keys().next().unwrap();
        // An earlier transaction of it, which a node had refused, was mined after all.
        submitter.settle(key(1), ANSWERED);
        ended.await.unwrap();
        assert!(submitter.answers.get(&key(1)).is_none());
        submitter.estimated(shape, key(1), Err(outage()));
        assert!(submitter.asking.estimating.contains(&shape), "the second is estimated");
        assert_eq!(submitter.asking.unpriced[&shape], [key(2)]);
    }

    #[tokio::test]
    async fn p3_an_answer_that_was_settled_while_its_gas_was_asked_for_gets_no_further_transaction() {
        let mut submitter = submitter(node(|_, _| error(-32603, "internal error")).await);
        let (first, ended) = job(1);
        submitter.take(first);
        let shape = *submitter.asking.unpriced.keys().next().unwrap();
        // Nobody heard it yet, so it is still known.
        drop(ended);
        submitter.settle(key(1), ANSWERED);
        submitter.estimated(shape, key(1), Ok(100_000));
        assert_eq!((submitter.planner.queued(), submitter.planner.in_flight()), (0, 0));
        let reverted = CallError::Reverted(hex!("6fbcdd2b").into());
        submitter.estimated(shape, key(1), Err(reverted));
        assert_eq!(submitter.asking.examined(), 0);
    }
}
