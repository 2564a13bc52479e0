//! What the nodes are asked, beyond blocks: receipts by hash, what a call would do, what it would cost, whether it was made.
//! All of it is rare, batched, and asked by tasks so that the submitter never waits.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

use alloy::primitives::{B256, Bytes, U256};
use kms_chain::contracts::{Decryption, KMSGeneration};
use kms_chain::event::{ContractSet, decode_response};
use kms_chain::revert::Revert;
use kms_chain::rpc::{BlockId, CallError, CallRequest, Rpc, RpcError, SendOutcome};
use kms_schemas::identity::{Identity, Kind};
use kms_schemas::record::{RawLog, Verdict};

use super::answers::Stage;
use super::{End, ItemKey, Submitter, metrics};
use crate::follow;
use crate::gas::Shape;
use crate::nonce::{Millis, Mined, Nonce};
use crate::verdict::{Cause, Decision, Finding, decide, inclusion};

/// Questions in one batch.
const BATCH: usize = 100;
/// Blocks that are searched for our own response event. It only adds a transaction's hash to the record.
const EVIDENCE_BLOCKS: u64 = 5_000;
/// Pause after a question that no node answered.
const OUTAGE_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause between looks at the registration.
const LONGEST_PROBE_MS: u64 = 300_000;

/// What a task found out.
pub(super) enum Told {
    /// Outcomes of sends.
    Sent(Vec<((Nonce, u32, Bytes), SendOutcome)>),
    /// Receipts of nonces that the chain passed; none of an outage.
    LookedUp(Vec<(Nonce, Result<Option<Mined>, ()>)>),
    /// What the calls of answers do on chain.
    Examined(Vec<(Question, Result<Finding, CallError>)>),
    /// The gas of a call.
    Estimated { shape: Shape, key: ItemKey, result: Result<u64, CallError> },
    /// The answer is on chain; perhaps the transaction that brought it.
    Evidence { key: ItemKey, evidence: String, transaction_hash: Option<B256> },
    /// The receipt of our own transaction, by which the answer is on chain.
    Own { key: ItemKey, nonce: Nonce, hash: B256, evidence: String, mined: Option<Mined> },
    /// The account's balance.
    Balance(Option<U256>),
}

/// One answer whose call is to be tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    key: ItemKey,
    cause: Cause,
    /// On the state of this block; of the latest where none.
    block: Option<u64>,
}

/// The contract does not accept this node.
pub(super) struct Hold {
    next_probe: Millis,
    pause_ms: u64,
    probing: Option<ItemKey>,
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
    pub(super) held: VecDeque<ItemKey>,
    pub(super) hold: Option<Hold>,
    probe_ms: u64,
    low_balance: bool,
    poor: bool,
}

impl Asking {
    pub(super) fn new(probe_ms: u64) -> Self {
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
            probe_ms,
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
            && hold.probing.is_none()
            && hold.next_probe <= now
            && let Some(&key) = self.held.front()
        {
            hold.probing = Some(key);
            self.questions.push_front(Question { key, cause: Cause::Waited, block: None });
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

    /// Whether the balance crossed the limit.
    pub(super) fn note_balance(&mut self, low: bool) -> bool {
        std::mem::replace(&mut self.low_balance, low) != low
    }

    /// Whether the account became unable to pay, or able again.
    pub(super) fn note_poverty(&mut self, poor: bool) -> bool {
        std::mem::replace(&mut self.poor, poor) != poor
    }

    /// The next questions about the same block.
    fn next_questions(&mut self) -> Vec<Question> {
        let Some(first) = self.questions.front().copied() else { return Vec::new() };
        let same = self.questions.iter().take(BATCH).take_while(|question| question.block == first.block).count();
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
                    let actions = self.planner.looked_up(nonce, found, self.clock.now());
                    self.obey(actions);
                }
            }
            Told::Examined(findings) => {
                self.asking.examining = false;
                for (question, finding) in findings {
                    self.examined(question, finding);
                }
            }
            Told::Estimated { shape, key, result } => self.estimated(shape, key, result),
            Told::Evidence { key, evidence, transaction_hash } => self.evidence_found(key, evidence, transaction_hash),
            Told::Own { key, nonce, hash, evidence, mined } => {
                let verdict = match mined.filter(|mined| mined.succeeded) {
                    Some(mined) => Verdict::Accepted(inclusion(self.sender, nonce, &mined)),
                    None => Verdict::AlreadyAnswered { evidence, transaction_hash: Some(hash) },
                };
                self.settle(key, End::Verdict(verdict));
            }
            Told::Balance(balance) => self.balance_told(balance),
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
        while batch.len() < BATCH
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
            if let Some(answer) = self.answers.get(&question.key) {
                asked.push(question);
                requests.push(CallRequest::from(self.sender, answer.payload.to, answer.payload.data.clone()));
            }
        }
        let Some(block) = asked.first().map(|question| question.block) else { return };
        self.asking.examining = true;
        let rpc = self.rpc.needing(block.unwrap_or(self.head));
        let at = block.map_or(BlockId::latest(), BlockId::number);
        self.tasks.spawn(async move {
            match rpc.calls(&requests, at).await {
                Ok(results) => Told::Examined(asked.into_iter().zip(results.into_iter().map(finding)).collect()),
                Err(error) => {
                    tokio::time::sleep(OUTAGE_PAUSE).await;
                    Told::Examined(asked.into_iter().map(|question| (question, Err(error.clone().into()))).collect())
                }
            }
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

    fn conclude(&mut self, key: ItemKey, cause: Cause, finding: Finding) {
        if let Finding::Reverts(revert, _) = &finding {
            metrics::reverted(revert.name(), revert.class().as_str());
        }
        let now = self.clock.now();
        let Some(answer) = self.answers.get_mut(&key) else { return self.probed(key, false) };
        let can_grow = self.gas.can_grow(answer.payload.gas_limit);
        let decision = decide(&mut answer.history, cause, finding, &self.patience, self.sender, can_grow, now);
        if !matches!(decision, Decision::Hold(_)) {
            self.probed(key, true);
        }
        match decision {
            Decision::Send => self.admit(key),
            Decision::Wait(until, revert) => {
                tracing::debug!(?key, error = %revert, "the contract does not accept an answer yet");
                self.answers.set(&key, Stage::Waiting);
                self.asking.waiting.insert((until, key), ());
            }
            Decision::Hold(revert) => self.hold(key, &revert),
            Decision::Settle(Verdict::AlreadyAnswered { evidence, .. }) => self.search_evidence(key, evidence),
            Decision::Settle(verdict) => {
                if let Verdict::Refused { error, .. } = &verdict {
                    let code = kms_chain::codes::ANSWER_REFUSED;
                    tracing::error!(code, ?key, error, "the contract can never accept an answer");
                }
                self.settle(key, End::Verdict(verdict));
            }
            Decision::GiveUp(revert) => {
                let code = kms_chain::codes::RETRIES_EXHAUSTED;
                self.settle(key, End::GivenUp { code, text: revert.to_string() });
            }
        }
    }

    /// The contract says that this node may not answer: everything waits until it may.
    fn hold(&mut self, key: ItemKey, revert: &Revert) {
        let now = self.clock.now();
        let probe_ms = self.asking.probe_ms;
        match &mut self.asking.hold {
            None => {
                metrics::held(Some(&revert.to_string()));
                self.registration.not_ready(format!("the contract does not accept this node: {}", revert.name()));
                self.asking.hold = Some(Hold { next_probe: now.plus(probe_ms), pause_ms: probe_ms, probing: None });
            }
            Some(hold) if hold.probing == Some(key) => {
                hold.probing = None;
                hold.pause_ms = hold.pause_ms.saturating_mul(2).min(LONGEST_PROBE_MS);
                hold.next_probe = now.plus(hold.pause_ms);
                return; // it is at the front of those that are held
            }
            Some(_) => {}
        }
        self.answers.set(&key, Stage::Held);
        self.asking.held.push_back(key);
    }

    /// The look at the registration came back. `accepted` is that the contract no longer objects to the node.
    fn probed(&mut self, key: ItemKey, accepted: bool) {
        let Some(hold) = &mut self.asking.hold else { return };
        if hold.probing != Some(key) {
            return;
        }
        self.asking.held.retain(|held| *held != key);
        if !accepted {
            hold.probing = None;
            return;
        }
        self.asking.hold = None;
        metrics::held(None);
        self.registration.ready();
        for key in std::mem::take(&mut self.asking.held) {
            self.admit(key);
        }
    }

    pub(super) fn ask_estimate(&mut self, kind: Kind, bytes: usize, key: ItemKey) {
        let shape = Shape::of(kind, bytes);
        self.asking.unpriced.entry(shape).or_default().push_back(key);
        self.start_estimate(shape, Duration::ZERO);
    }

    fn start_estimate(&mut self, shape: Shape, pause: Duration) {
        let Some(key) = self.asking.unpriced.get(&shape).and_then(VecDeque::front).copied() else {
            self.asking.unpriced.remove(&shape);
            return;
        };
        let Some(answer) = self.answers.get(&key) else { return };
        if !self.asking.estimating.insert(shape) {
            return;
        }
        metrics::estimating();
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
                    self.admit(key);
                }
            }
            Err(CallError::Reverted(data)) => {
                let waiting = self.asking.unpriced.get_mut(&shape);
                let was_waiting = waiting.is_some_and(|keys| {
                    let before = keys.len();
                    keys.retain(|waiting| *waiting != key);
                    keys.len() < before
                });
                if was_waiting {
                    self.answers.set(&key, Stage::Examined);
                    self.conclude(key, Cause::Waited, Finding::Reverts(Revert::decode(&data), data));
                }
                self.start_estimate(shape, Duration::ZERO);
            }
            Err(CallError::Rpc(error)) => {
                tracing::warn!(code = error.code(), %error, "gas cannot be estimated, trying again");
                self.start_estimate(shape, OUTAGE_PAUSE * 2);
            }
        }
    }

    /// The chain holds our answer: by which transaction?
    fn search_evidence(&mut self, key: ItemKey, evidence: String) {
        let Some(answer) = self.answers.get(&key) else { return };
        let Some(signature) = answer.signature.clone() else {
            return self.settle(key, End::Verdict(Verdict::AlreadyAnswered { evidence, transaction_hash: None }));
        };
        let (rpc, contracts, identity, head) = (self.rpc.clone(), self.contracts, answer.item.identity, self.head);
        self.tasks.spawn(async move {
            let found = find_response(&rpc, &contracts, &identity, &signature, head).await.ok().flatten();
            Told::Evidence { key, evidence, transaction_hash: found }
        });
    }
}

impl Submitter {
    /// The transaction that carried the answer is somebody's, or one that was signed for this very answer: then it is accepted.
    fn evidence_found(&mut self, key: ItemKey, evidence: String, transaction_hash: Option<B256>) {
        let own = transaction_hash.and_then(|hash| Some((self.answers.own(&key, hash)?, hash)));
        let Some((nonce, hash)) = own else {
            return self.settle(key, End::Verdict(Verdict::AlreadyAnswered { evidence, transaction_hash }));
        };
        let rpc = self.rpc.clone();
        self.tasks.spawn(async move {
            let receipt = rpc.receipt(hash).await.ok().flatten();
            Told::Own { key, nonce, hash, evidence, mined: receipt.as_ref().and_then(follow::mined) }
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

async fn look_up(rpc: &Rpc, batch: Vec<(Nonce, Vec<B256>)>) -> Vec<(Nonce, Result<Option<Mined>, ()>)> {
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
        let mined = of_nonce.iter().flatten().find_map(follow::mined);
        found.push((nonce, Ok(mined)));
    }
    found
}

/// The transaction whose response event carries this signature, in the last blocks.
async fn find_response(
    rpc: &Rpc,
    contracts: &ContractSet,
    identity: &Identity,
    signature: &Bytes,
    head: u64,
) -> Result<Option<B256>, RpcError> {
    use alloy::sol_types::SolEvent as _;
    let (topic, id_is_indexed) = match identity.kind {
        Kind::PublicDecryption => (Decryption::PublicDecryptionResponseCall::SIGNATURE_HASH, true),
        Kind::UserDecryption => (Decryption::UserDecryptionResponse::SIGNATURE_HASH, true),
        Kind::PrepKeygen => (KMSGeneration::PrepKeygenResponse::SIGNATURE_HASH, false),
        Kind::Keygen => (KMSGeneration::KeygenResponse::SIGNATURE_HASH, false),
        Kind::Crsgen => (KMSGeneration::CrsgenResponse::SIGNATURE_HASH, false),
        Kind::PrssInit | Kind::KeyReshareSameSet => return Ok(None),
    };
    let mut topics = vec![topic];
    if id_is_indexed {
        topics.push(identity.id.0);
    }
    let filter = serde_json::json!([{
        "address": identity.contract,
        "topics": topics,
        "fromBlock": format!("{:#x}", head.saturating_sub(EVIDENCE_BLOCKS)),
        "toBlock": "latest",
    }]);
    let logs: Vec<alloy::rpc::types::Log> = rpc.request("eth_getLogs", filter).await?;
    let carries_it = |log: &&alloy::rpc::types::Log| {
        let raw = RawLog {
            address: log.inner.address,
            topics: log.inner.data.topics().to_vec(),
            data: log.inner.data.data.clone(),
        };
        let event = decode_response(contracts, &raw).ok().flatten();
        event.is_some_and(|event| event.id() == identity.id && event.signature() == Some(signature))
    };
    Ok(logs.iter().find(carries_it).and_then(|log| log.transaction_hash))
}
