//! The task that owns the nonces: takes checked answers, gives each to the chain, and tells each how it ended.
//!
//! Everything that decides is pure and elsewhere ([`crate::nonce`], [`crate::gas`], [`crate::fees`], [`crate::verdict`]); this
//! task carries messages between them, the journal's thread, the follower and the nodes. It alone holds their state, so
//! there is no lock.
//!
//! ```text
//!  handlers ──Job──▶ ┌───────────┐ ──Draft──▶ journal thread ──Journalled──▶ ┌───────────┐ ──▶ node (batched sends)
//!                    │ submitter │                                           │ submitter │
//!  handlers ◀─Ended─ └───────────┘ ◀──ChainEvent── follower                  └───────────┘ ◀── receipts by hash, eth_call,
//!                                                                                              estimates (seldom)
//! ```

mod answers;
mod asking;
mod batches;
mod commands;
mod seen;
mod sending;
mod simulating;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, U256};
use kms_chain::event::ContractSet;
use kms_chain::rpc::{BlockId, Rpc};
use kms_runtime::http::Check;
use kms_schemas::identity::{Identity, Lane};
use kms_schemas::record::{IntentItem, RawLog, Verdict};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::codes::FINALITY_STOPPED;
use crate::command::{Clerk, Command, Standing};
use crate::config::SubmissionConfig;
use crate::fees::{AboveCap, FeePolicy, NoReplacement};
use crate::follow::{ChainEvent, Receipted, Watch, Wishes};
use crate::gas::GasBook;
use crate::journal::{Draft, Entry, Journalled, OpenIntents};
use crate::metrics::{Levels, Metrics};
use crate::nonce::{Action, Mined, Nonce, Planner, Pricing};
use crate::pool::{self, Sends};
use crate::verdict::Patience;
use crate::verify::Call;
use crate::wallet::Payload;

use answers::{Answers, Signed, Stage};
use asking::{Asking, Told};
use commands::Hand;
use seen::{Admit, Seen};
use sending::{Refusals, Sending};
use simulating::Simulating;

/// A result's record, as small as can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemKey {
    /// Lane of the results topic.
    pub lane: Lane,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

/// An answer to submit.
#[derive(Debug)]
pub struct Job {
    /// The result's record.
    pub key: ItemKey,
    /// The same for the journal, with the request's identity.
    pub item: IntentItem,
    /// Block of the request; 0 where an old record does not say.
    pub block: u64,
    /// The checked call.
    pub call: Call,
    /// Where to tell how it ended.
    pub reply: oneshot::Sender<Ended>,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Settled, or given up.
    pub end: End,
    /// Transactions signed for it.
    pub attempts: u32,
}

/// Settled, or given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Settled.
    Verdict(Verdict),
    /// Tried long enough; a dead letter keeps it.
    GivenUp {
        /// Stable code.
        code: &'static str,
        /// Why.
        text: String,
    },
}

/// An answer that an intent carries.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The result's record.
    pub key: ItemKey,
    /// As the intent names it.
    pub item: IntentItem,
    /// What the transaction does.
    pub payload: Payload,
    /// Its nonce.
    pub nonce: Nonce,
    /// Its hash.
    pub hash: B256,
    /// Answers that it carries.
    pub answers: u32,
}

/// What the submitter is made of.
pub struct Parts {
    /// The nodes.
    pub rpc: Rpc,
    /// The transaction sender.
    pub sender: Address,
    /// The KMS node's signer.
    pub signer: Address,
    /// The contracts that are answered.
    pub contracts: ContractSet,
    /// Settings.
    pub config: SubmissionConfig,
    /// Wei below which the balance is reported.
    pub low_balance: U256,
    /// The planner after recovery.
    pub planner: Planner<ItemKey>,
    /// The journal's open records after recovery.
    pub open: OpenIntents,
    /// Answers of recovered intents, in the order of the journal.
    pub recovered: Vec<Recovered>,
    /// Clock that the planner was recovered with.
    pub clock: Clock,
    /// Latest block at recovery.
    pub head: u64,
    /// Its base fee.
    pub base_fee: u128,
    /// The priority fee that is usual, in wei per gas, where a node was asked and told.
    pub priority_fee: Option<u128>,
    /// To the journal's thread.
    pub drafts: mpsc::Sender<Entry>,
    /// For the journal's thread.
    pub settled_below: Arc<AtomicI64>,
    /// To the follower.
    pub wishes: Arc<Wishes>,
    /// Readiness: does the contract accept this node, can the account pay.
    pub registration: Check,
    /// Readiness: can the account pay, are fees below the cap.
    pub funds: Check,
    /// Readiness: is the account paused.
    pub paused: Check,
    /// Readiness: does what is mined become final.
    pub finality: Check,
    /// How transactions go to the nodes.
    pub sends: Sends,
    /// What people wanted when the term began.
    pub standing: Standing,
    /// Writes what came of it.
    pub clerk: Clerk,
    /// Happenings of the destination.
    pub metrics: Metrics,
    /// Ends the term, so that the account is taken up anew.
    pub anew: CancellationToken,
}

/// What reaches the submitter.
pub struct Inbox {
    /// Answers.
    pub jobs: mpsc::Receiver<Job>,
    /// From the journal's thread.
    pub journalled: mpsc::Receiver<Journalled>,
    /// From the follower.
    pub chain: mpsc::Receiver<ChainEvent>,
    /// From people.
    pub commands: mpsc::Receiver<Command>,
}

/// See the [module](self).
pub struct Submitter {
    rpc: Rpc,
    sender: Address,
    signer: Address,
    contracts: ContractSet,
    config: SubmissionConfig,
    patience: Patience,
    fees: FeePolicy,
    asks_priority_fee: bool,
    planner: Planner<ItemKey>,
    gas: GasBook,
    answers: Answers,
    seen: Seen,
    asking: Asking,
    sending: Sending,
    simulating: Simulating,
    open: OpenIntents,
    clock: Clock,
    head: u64,
    base_fee: u128,
    drafts: mpsc::Sender<Entry>,
    settled_below: Arc<AtomicI64>,
    wishes: Arc<Wishes>,
    registration: Check,
    funds: Check,
    finality: Check,
    fee_above_cap: bool,
    low_balance: U256,
    /// Refusals that are not about nonce, fee or funds.
    refusals: Refusals,
    /// Logs of the batch whose receipt is being told to the planner, by its hash.
    batch_logs: HashMap<B256, Vec<RawLog>>,
    hand: Hand,
    metrics: Metrics,
    anew: CancellationToken,
    tasks: JoinSet<Told>,
}

/// Why fees are not offered.
enum Unpaid {
    /// The chain asks for more than the cap.
    AboveCap(String),
    /// What was sent cannot be replaced.
    Stays(String),
}

/// How often what depends on time is looked at.
const TICK: Duration = Duration::from_millis(50);
/// How often gauges are set and abandoned answers are looked for.
const SWEEP: Duration = Duration::from_secs(1);

impl Submitter {
    /// Puts the parts together and takes up what the journal holds. `sends` is what recovery wants done first.
    #[must_use]
    pub fn new(parts: Parts, first: Vec<Action<ItemKey>>) -> Self {
        let patience = parts.config.patience();
        let mut answers = Answers::default();
        let mut seen = Seen::new(parts.config.answered_memory, parts.head);
        for recovered in parts.recovered {
            let is_open = recovered.nonce >= parts.planner.account();
            seen.recovered(recovered.item.identity, recovered.key, is_open);
            answers.recover(recovered);
        }
        let mut submitter = Self {
            asking: Asking::new(&parts.config),
            sending: Sending::new(&parts.config, parts.sends),
            refusals: Refusals::new(&parts.config),
            simulating: Simulating::new(&parts.config),
            gas: GasBook::new(parts.config.gas_policy()),
            fees: parts.config.fee_policy(),
            asks_priority_fee: parts.config.asks_priority_fee(parts.sends.pool),
            patience,
            rpc: parts.rpc,
            sender: parts.sender,
            signer: parts.signer,
            metrics: parts.metrics,
            anew: parts.anew,
            contracts: parts.contracts,
            config: parts.config,
            planner: parts.planner,
            answers,
            seen,
            open: parts.open,
            clock: parts.clock,
            head: parts.head,
            base_fee: parts.base_fee,
            drafts: parts.drafts,
            settled_below: parts.settled_below,
            wishes: parts.wishes,
            registration: parts.registration,
            funds: parts.funds,
            finality: parts.finality,
            fee_above_cap: false,
            low_balance: parts.low_balance,
            batch_logs: HashMap::new(),
            hand: Hand::new(parts.clerk, parts.paused, parts.sends.pool),
            tasks: JoinSet::new(),
        };
        submitter.priority_fee_told(parts.priority_fee);
        submitter.registration.ready();
        submitter.funds.ready();
        submitter.finality.ready();
        submitter.obey(first);
        submitter.take_up(parts.standing);
        submitter
    }

    /// Works until cancelled.
    pub async fn run(mut self, mut inbox: Inbox, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let balance_interval = Duration::from_millis(self.config.balance_interval_ms);
        let (mut swept, mut balanced) = (Instant::now(), None::<Instant>);
        loop {
            let gathering = self.gathering();
            tokio::select! {
                () = stop.cancelled() => return,
                Some(job) = inbox.jobs.recv() => {
                    self.take(job);
                    while let Ok(job) = inbox.jobs.try_recv() {
                        self.take(job);
                    }
                }
                Some(outcome) = inbox.journalled.recv() => {
                    self.journalled(outcome);
                    while let Ok(outcome) = inbox.journalled.try_recv() {
                        self.journalled(outcome);
                    }
                }
                Some(event) = inbox.chain.recv() => self.chain_moved(event),
                Some(command) = inbox.commands.recv() => self.command(command),
                Some(told) = self.tasks.join_next(), if !self.tasks.is_empty() => match told {
                    Ok(told) => self.told(told),
                    Err(error) => tracing::error!(%error, "a task of the submitter ended in a way that it never should"),
                },
                () = tokio::time::sleep(gathering.unwrap_or_default()), if gathering.is_some() => {
                    let actions = self.planner.tick(self.clock.now());
                    self.obey(actions);
                }
                _ = tick.tick() => {
                    self.time_passed();
                    if swept.elapsed() >= SWEEP {
                        swept = Instant::now();
                        self.sweep();
                    }
                    if balanced.is_none_or(|at| at.elapsed() >= balance_interval) {
                        balanced = Some(Instant::now());
                        self.ask_balance();
                    }
                }
            }
            self.pump();
        }
    }

    /// How long what is being gathered may still wait.
    fn gathering(&self) -> Option<Duration> {
        let until = self.planner.gathers_until()?;
        Some(Duration::from_millis(until.0.saturating_sub(self.clock.now().0).max(1)))
    }

    /// Starts whatever waits and may run.
    fn pump(&mut self) {
        self.pump_sends();
        self.pump_questions();
        self.pump_simulations();
        self.wishes.watch(match (self.planner.in_flight(), self.planner.unconfirmed()) {
            (0, 0) => Watch::Nothing,
            (0, _) => Watch::Finality,
            _ => Watch::Inclusion,
        });
    }

    fn take(&mut self, job: Job) {
        let (key, nonce) = (job.key, self.answers.nonce_of(&job.key));
        match self.answers.claim(job) {
            Stage::New => self.enter(key),
            // Its transaction is in the journal: on its way, or to be looked up.
            Stage::Recovered => {
                self.answers.set(&key, Stage::Planned);
                tracing::debug!(?key, ?nonce, "a result found its transaction in the journal");
                self.plan(key);
            }
            _ => {}
        }
    }

    /// An answer that nothing is known of yet.
    fn enter(&mut self, key: ItemKey) {
        let Some(answer) = self.answers.get(&key) else { return };
        match self.seen.admit(answer.item.identity, key, answer.block) {
            Admit::First => self.admit(key),
            Admit::AskFirst => self.ask_before(key),
            Admit::Behind => self.answers.set(&key, Stage::Behind),
        }
    }

    /// Sends an answer only if a call of it passes.
    fn ask_before(&mut self, key: ItemKey) {
        self.answers.set(&key, Stage::Examined);
        self.asking.examine_first(key);
    }

    /// An answer is over, or nobody's any more: what waited behind it goes on.
    fn over(&mut self, key: ItemKey, identity: Identity, block: u64) {
        if let Some(next) = self.seen.ended(&identity, &key, block) {
            self.ask_before(next);
        }
    }

    /// Sends an answer. While the contract does not accept this node, for some request at least, a call of it comes first; so it
    /// may where a failure is likely ([`simulating`]).
    fn admit(&mut self, key: ItemKey) {
        if self.asking.hold.is_some() {
            return self.ask_before(key);
        }
        if self.simulates(key) {
            return;
        }
        self.price(key);
    }

    /// Gives an answer to the planner, unless its gas is not known.
    fn price(&mut self, key: ItemKey) {
        let Some(answer) = self.answers.get(&key) else { return };
        let (kind, bytes) = (answer.item.identity.kind, answer.payload.data.len());
        if self.gas.limit(kind, bytes, 0).is_none() {
            self.answers.set(&key, Stage::Unpriced);
            self.ask_estimate(kind, bytes, key);
            return;
        }
        self.answers.set(&key, Stage::Planned);
        self.plan(key);
    }

    fn obey(&mut self, actions: Vec<Action<ItemKey>>) {
        let mut todo: VecDeque<Action<ItemKey>> = actions.into();
        while let Some(action) = todo.pop_front() {
            match action {
                Action::Sign { nonce, attempt, items, pricing } => self.sign(nonce, attempt, items, pricing),
                Action::Send { nonce, attempt, raw } => self.sending.push(nonce, attempt, raw),
                Action::LookUp { nonce, hashes } if hashes.is_empty() => {
                    // Nothing was ever journalled for it.
                    todo.extend(self.planner.looked_up(nonce, None, self.clock.now()));
                }
                Action::LookUp { nonce, hashes } => self.asking.look_up(nonce, hashes),
                Action::CheckNonce => self.wishes.check_nonce(),
                Action::Settle { nonce, carried, items, mined } => {
                    self.hand_mined(nonce, &carried, &mined);
                    self.settled_by(&carried, &items, nonce, mined);
                }
                Action::Displaced { nonce, items, by } => {
                    if by.is_none() {
                        self.metrics.nonce_taken(nonce.0);
                        self.hand_taken(nonce);
                    }
                    items.into_iter().for_each(|key| self.displaced(key));
                }
                Action::Unsendable { items, reason } if items.len() > 1 => self.batch_unsendable(items, &reason),
                Action::Unsendable { items, reason } => {
                    items.into_iter().for_each(|key| self.unsendable(key, &reason));
                }
                Action::Closed { nonce } => {
                    self.refusals.forget(nonce);
                    self.hand_taken(nonce);
                    self.open.close(nonce, self.clock.now());
                    for (key, identity) in self.answers.closed(nonce) {
                        self.over(key, identity, 0);
                    }
                }
            }
        }
    }

    fn sign(&mut self, nonce: Nonce, attempt: u32, keys: Vec<ItemKey>, pricing: Pricing) {
        let above_cap = |error: AboveCap| Unpaid::AboveCap(error.to_string());
        let fees = match pricing {
            Pricing::Current => self.fees.current(self.base_fee).map_err(above_cap),
            Pricing::Above(old) => self.fees.above(old, self.base_fee).map_err(|error| match error {
                NoReplacement::AboveCap(error) => above_cap(error),
                NoReplacement::Exhausted { .. } => Unpaid::Stays(error.to_string()),
            }),
            Pricing::Offer { above, max_fee } => self.offered(above, max_fee).map_err(Unpaid::Stays),
        };
        let by_hand = self.is_by_hand(nonce, attempt);
        let fees = match fees {
            Ok(fees) => fees,
            Err(Unpaid::AboveCap(error) | Unpaid::Stays(error)) if by_hand => {
                self.planner.unsigned(nonce, self.clock.now());
                return self.hand_refused(nonce, attempt, &error);
            }
            Err(Unpaid::Stays(error)) => {
                tracing::debug!(nonce = nonce.0, error, "a transaction stays as it is");
                return self.planner.unsigned(nonce, self.clock.now());
            }
            Err(Unpaid::AboveCap(error)) => {
                if !std::mem::replace(&mut self.fee_above_cap, true) {
                    tracing::warn!(code = crate::codes::FEE_ABOVE_CAP, error, "the chain asks for more than the cap");
                    self.funds.not_ready("the chain asks for a higher fee than the configured cap");
                }
                return self.planner.unsigned(nonce, self.clock.now());
            }
        };
        if std::mem::take(&mut self.fee_above_cap) {
            self.funds.ready();
        }
        let Some((payload, items)) = self.payload(nonce, &keys) else {
            self.hand_refused(nonce, attempt, "its answers are not known any more");
            return self.planner.unsigned(nonce, self.clock.now());
        };
        let draft = Draft { nonce, attempt, items, payload, fees };
        if self.drafts.try_send(Entry::Draft(draft)).is_err() {
            // More drafts than nonces cannot be; after a shutdown nobody reads them.
            self.hand_refused(nonce, attempt, "too much is being signed");
            return self.planner.unsigned(nonce, self.clock.now());
        }
        self.metrics.signing(match (keys.is_empty(), attempt) {
            _ if by_hand => "command",
            (true, _) => "gap",
            (false, 0) => "answer",
            (false, _) => "replacement",
        });
    }

    fn journalled(&mut self, outcome: Journalled) {
        let now = self.clock.now();
        let actions = match outcome {
            Journalled::Committed { nonce, variant, offset } => {
                self.open.add(nonce, offset);
                let answers = u32::try_from(variant.items.len()).unwrap_or(u32::MAX);
                for key in &variant.items {
                    self.answers.signed(key, Signed { nonce, hash: variant.hash, answers });
                }
                let (attempt, hash, fees) = (variant.attempt, variant.hash, variant.fees);
                let actions = self.planner.journalled(nonce, variant, now);
                self.hand_journalled(nonce, attempt, hash, fees);
                actions
            }
            Journalled::Refused { nonce, reason } => {
                tracing::error!(nonce = nonce.0, reason, "a transaction cannot be journalled and is not sent");
                if let Some((attempt, _)) = self.hand.signing.get(&nonce).copied() {
                    self.hand_refused(nonce, attempt, &reason);
                }
                self.planner.unjournalled(nonce, reason, now)
            }
        };
        self.obey(actions);
    }

    fn chain_moved(&mut self, event: ChainEvent) {
        let now = self.clock.now();
        match event {
            ChainEvent::Block { number, base_fee, mined } => {
                self.head = number;
                self.base_fee = base_fee;
                self.metrics.head(number, base_fee);
                for receipt in mined {
                    let mined = self.note_logs(receipt);
                    let actions = self.planner.mined(mined, now);
                    self.obey(actions);
                    self.batch_logs.clear();
                }
                let actions = self.planner.head(number, base_fee, now);
                self.obey(actions);
            }
            ChainEvent::AccountNonce(nonce) => {
                let actions = self.planner.account_nonce(nonce, now);
                self.obey(actions);
            }
            ChainEvent::Reorganised { account } if account < self.planner.account() => {
                let (destination, known) = (self.metrics.destination(), self.planner.account().0);
                tracing::warn!(
                    destination,
                    account_nonce = account.0,
                    known,
                    "a reorganisation took back transactions of this account; it is taken up anew by the journal"
                );
                self.anew.cancel();
            }
            ChainEvent::Reorganised { .. } => {}
            ChainEvent::Finalized(number) => {
                let actions = self.planner.finalized(number, now);
                self.obey(actions);
            }
            ChainEvent::Recovered => {
                self.sending.resume();
                let actions = self.planner.nudge(now);
                self.obey(actions);
            }
        }
    }

    /// Keeps a batch's logs until the planner has said what its receipt settles.
    fn note_logs(&mut self, receipt: Receipted) -> Mined {
        if let Some(logs) = receipt.batch {
            self.batch_logs.insert(receipt.mined.hash, logs);
        }
        receipt.mined
    }

    fn time_passed(&mut self) {
        let now = self.clock.now();
        let actions = self.planner.tick(now);
        self.obey(actions);
        self.asking.due(now);
        self.hand_due();
        self.settled_below.store(self.open.settled_below(now), Ordering::Release);
    }

    /// A transaction with the answer was mined.
    fn mined(&mut self, key: ItemKey, nonce: Nonce, mined: Mined) {
        let sender = self.sender;
        let Some(answer) = self.answers.get_mut(&key) else { return };
        let (kind, bytes) = (answer.item.identity.kind, answer.payload.data.len());
        self.metrics.gas_used(kind, mined.gas_used, mined.gas_used_for_l1);
        if mined.succeeded {
            self.gas.used(kind, bytes, mined.gas_used, mined.gas_used_for_l1);
            let inclusion = crate::verdict::inclusion(sender, nonce, &mined, 1);
            return self.settle(key, End::Verdict(Verdict::Accepted(inclusion)));
        }
        let gas_limit = answer.payload.gas_limit;
        let ran_out = crate::gas::ran_out(mined.gas_used, gas_limit);
        answer.history.reverted = Some(crate::verdict::Reverted { nonce, mined, answers: 1, ran_out });
        if ran_out {
            self.gas.exhausted(kind, bytes, gas_limit);
        } else {
            self.simulating.refused(self.clock.now());
        }
        self.answers.set(&key, Stage::Examined);
        self.asking.examine_revert(key, mined.block_number);
    }

    /// Its nonce went to something else: does the chain hold the answer by another transaction?
    fn displaced(&mut self, key: ItemKey) {
        if self.answers.get(&key).is_some() {
            self.answers.set(&key, Stage::Examined);
            self.asking.examine_displaced(key);
        }
    }

    fn unsendable(&mut self, key: ItemKey, reason: &str) {
        let Some(answer) = self.answers.get_mut(&key) else { return };
        answer.unsendable += 1;
        let (kind, bytes, tries) = (answer.item.identity.kind, answer.payload.data.len(), answer.unsendable);
        let destination = self.metrics.destination();
        tracing::warn!(destination, kind = kind.as_str(), reason, tries, "the node does not take a transaction");
        if tries > self.config.unsendable_tries {
            let code = kms_chain::codes::TRANSACTION_REFUSED;
            return self.settle(key, End::GivenUp { code, text: reason.to_owned() });
        }
        self.gas.forget(kind, bytes);
        self.admit(key);
    }

    fn settle(&mut self, key: ItemKey, end: End) {
        let Some(answer) = self.answers.get(&key) else { return };
        let (identity, block) = (answer.item.identity, answer.block);
        if let Some((kind, verdict, took)) = self.answers.settle(&key, end, self.clock.now()) {
            self.metrics.settled(kind, verdict, took);
            self.over(key, identity, block);
        }
    }

    fn sweep(&mut self) {
        let now = self.clock.now();
        for key in self.answers.abandoned() {
            // Nobody waits any more and no transaction carries it: whoever has the record now will bring it again.
            let without_nonce = match self.answers.stage(&key) {
                Some(Stage::Planned) => self.planner.withdraw(&key),
                Some(Stage::Held | Stage::Unpriced | Stage::Waiting) => self.asking.withdraw(&key),
                Some(Stage::Behind) => true,
                _ => false,
            };
            if let Some(answer) = self.answers.get(&key).filter(|_| without_nonce) {
                let (identity, block) = (answer.item.identity, answer.block);
                self.answers.remove(&key);
                self.over(key, identity, block);
            }
        }
        // What was held may just have been withdrawn.
        self.end_hold();
        self.answers.forget_unclaimed(now, self.config.journal_memory());
        self.tell_finality();
        self.metrics.levels(&Levels {
            in_flight: self.planner.in_flight(),
            unconfirmed: self.planner.unconfirmed(),
            queued: self.planner.queued(),
            unpriced: self.asking.unpriced(),
            examined: self.asking.examined() + self.simulating.waiting(),
            held: self.asking.held(),
            sends: self.sending.waiting(),
            intents: self.open.len(),
            gas_figures: self.gas.shapes(),
            remembered: self.seen.len(),
            account_nonce: self.planner.account().0,
        });
    }

    fn tell_finality(&self) {
        if self.planner.awaits_finality() {
            let most = self.config.max_unconfirmed;
            self.finality.not_ready(format!(
                "{FINALITY_STOPPED}: {most} transactions are mined or on their way and not final, nothing further is sent"
            ));
        } else {
            self.finality.ready();
        }
    }

    fn ask_balance(&mut self) {
        let (rpc, sender, asks_fee) = (self.rpc.clone(), self.sender, self.asks_priority_fee);
        self.tasks.spawn(async move {
            let fee = match asks_fee {
                true => pool::usual_priority_fee(&rpc).await.ok().flatten(),
                false => None,
            };
            Told::Balance(rpc.balance(sender, BlockId::latest()).await.ok(), fee)
        });
    }

    /// What was usual before stays until somebody says otherwise.
    fn priority_fee_told(&mut self, usual: Option<u128>) {
        if let Some(usual) = usual {
            self.fees = self.config.fee_policy().with_market(usual, self.config.priority_fee_max_wei.into());
        }
    }

    fn balance_told(&mut self, balance: Option<U256>) {
        let Some(balance) = balance else { return };
        let ether = alloy::primitives::utils::format_ether(balance);
        self.metrics.balance(ether.parse().unwrap_or_default());
        if self.asking.note_balance(balance < self.low_balance) {
            if balance < self.low_balance {
                tracing::warn!(
                    code = kms_chain::codes::INSUFFICIENT_FUNDS,
                    ether,
                    "the transaction sender is low on funds"
                );
            } else {
                tracing::info!(ether, "the transaction sender is funded");
                self.funds.ready();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Bytes;
    use kms_runtime::http::Health;
    use kms_schemas::codec::Codec;
    use kms_schemas::identity::{Coordinates, Kind, RequestId};
    use kms_schemas::topics::Topics;

    use super::*;
    use crate::answer::Mark;
    use crate::routes::tests::destination;

    const HEAD: u64 = 10;

    pub(super) fn key(offset: i64) -> ItemKey {
        ItemKey { lane: Lane::Decryption, partition: 0, offset }
    }

    /// An answer to a request of its own; all are of one shape.
    pub(super) fn job(offset: i64) -> (Job, oneshot::Receiver<Ended>) {
        let (reply, ended) = oneshot::channel();
        let id = RequestId(B256::left_padding_from(&offset.to_be_bytes()));
        let contract = Address::repeat_byte(3);
        let identity = Identity { chain_id: 1, contract, kind: Kind::PublicDecryption, id };
        let result = Coordinates { topic: "results".to_owned(), partition: 0, offset };
        let (kind, calldata) = (identity.kind, Bytes::from(vec![1; 100]));
        let call = Call { kind, to: contract, calldata, mark: Mark::TxSender, context: None };
        (Job { key: key(offset), item: IntentItem { result, identity }, block: HEAD + 1, call, reply }, ended)
    }

    /// One that has just begun, at block 10 of a chain that this node shows.
    pub(super) fn submitter(rpc: Rpc) -> Submitter {
        let (config, clock, health) = (SubmissionConfig::default(), Clock::start(), Health::default());
        let destination = destination(1, [3, 0, 0]);
        let sends = config.sends(true);
        let policy = config.nonce_policy(&destination, sends);
        let (planner, first) = Planner::recover(policy, [], Nonce(0), clock.now());
        let topics = Topics::new("test");
        let parts = Parts {
            rpc,
            sender: Address::repeat_byte(1),
            signer: Address::repeat_byte(2),
            contracts: destination.contracts(kms_chain::release::Release::V0_11),
            config,
            low_balance: U256::ZERO,
            planner,
            open: OpenIntents::new(1_000),
            recovered: Vec::new(),
            clock,
            head: HEAD,
            base_fee: 1,
            priority_fee: None,
            drafts: mpsc::channel(100).0,
            settled_below: Arc::new(AtomicI64::new(0)),
            wishes: Arc::new(Wishes::default()),
            registration: health.check("registration"),
            funds: health.check("funds"),
            paused: health.check("paused"),
            finality: health.check("finality"),
            sends,
            standing: Standing::default(),
            clerk: Clerk::new(Codec::single_object(), &topics, "0"),
            metrics: Metrics::of("test"),
            anew: CancellationToken::new(),
        };
        Submitter::new(parts, first)
    }
}
