//! The nonce planner: which bytes stand for which nonce, what to send again, what to sign anew, and when a nonce is over.
//!
//! Pure: values in, [`Action`]s out; no I/O, no clock, no async. Time is a number of milliseconds that the caller passes in.
//! The property test at the end drives it against a naive chain that drops pools, mines foreign transactions and kills the
//! process at any moment.
//!
//! Life of a nonce:
//!
//! ```text
//!  submit ─▶ queue ─▶ Sign ─▶ journalled ─▶ Send ─▶ (answers of the node) ─▶ mined ─▶ Settle ─▶ final
//!               ▲       ▲                    │ ▲            │                   │
//!               │       └── fees, refusals ──┘ └─ stalls ───┘                   │
//!               └──────────────── Displaced ◀── account nonce passed it ◀───────┘ (none of our bytes was mined)
//! ```
//!
//! Three rules hold it together. Bytes are sent only after [`Planner::journalled`]. A nonce is given up only when the chain
//! has passed it, never because a send failed. An item is settled by a receipt of a variant that carries it; that the
//! account's nonce moved on only starts a look-up.

mod by_hand;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt::Debug;
use std::hash::Hash;

use alloy::primitives::{B256, Bytes};

pub use by_hand::Unfit;

use crate::batch::{self, Filling, Limits, Load};
use crate::fees::Fees;

/// An account nonce.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nonce(pub u64);

impl Nonce {
    fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// Milliseconds of the caller's monotonic clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Millis(pub u64);

impl Millis {
    /// This moment plus `ms` milliseconds.
    #[must_use]
    pub const fn plus(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }
}

/// When a mined transaction is final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmations {
    /// Under so many blocks; 0 is final at inclusion.
    Blocks(u64),
    /// When the node calls its block finalized ([`Planner::finalized`]).
    Finalized,
}

/// Limits and patience of the planner.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// Nonces that may be open at once.
    pub max_in_flight: usize,
    /// Nonces that may be open or mined and not yet final at once. Where finality stops, they would grow without end.
    pub max_unconfirmed: usize,
    /// What goes into one transaction, and when it leaves.
    pub batch: Limits,
    /// No progress for this long: the lowest bytes are sent again, and all if the node had lost them. Doubles with every
    /// round without progress.
    pub resend_after_ms: u64,
    /// Upper end of that doubling.
    pub resend_max_ms: u64,
    /// Rounds without progress after which the lowest nonce is signed again with higher fees; none where the chain has no
    /// pool to replace in.
    pub replace_after_rounds: Option<u32>,
    /// Byte strings of one nonce, replacements included.
    pub max_variants: usize,
    /// Pause after a refusal that may pass (a nonce gap, missing funds, fees above the cap).
    pub refusal_pause_ms: u64,
    /// A look-up without an answer is asked again after this long.
    pub lookup_retry_ms: u64,
    /// When a nonce is final.
    pub confirmations: Confirmations,
    /// How long recovered nonces below the account's nonce are remembered for results that come back.
    pub past_memory_ms: u64,
}

/// One signed byte string that the journal holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variant<K> {
    /// 0 for the first of its nonce.
    pub attempt: u32,
    /// Transaction hash.
    pub hash: B256,
    /// EIP-2718 bytes.
    pub raw: Bytes,
    /// What it pays.
    pub fees: Fees,
    /// What it carries; empty for a transaction that only fills a gap.
    pub items: Vec<K>,
}

/// Where a transaction was mined and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mined {
    /// Transaction hash.
    pub hash: B256,
    /// Receipt status.
    pub succeeded: bool,
    /// Block number.
    pub block_number: u64,
    /// Block hash.
    pub block_hash: B256,
    /// Gas used, L1 share included.
    pub gas_used: u64,
    /// L1 share of it (Arbitrum), 0 elsewhere.
    pub gas_used_for_l1: u64,
    /// Wei per gas.
    pub effective_gas_price: u128,
}

/// What a node said to bytes sent to it, as far as the planner cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Taken: the node did not have it before.
    Taken,
    /// The node has it already.
    Known,
    /// No answer, or none that tells: a send that timed out is not a failed send.
    Unknown,
    /// The account's nonce is already above.
    NonceTooLow,
    /// The node will not queue behind a missing nonce.
    NonceTooHigh,
    /// The node holds as many transactions of the account as it wants to; of a delegated account that may be one.
    AccountFull,
    /// Another transaction with this nonce pays as much or more.
    ReplacementUnderpriced,
    /// Below what the node or the block asks for.
    FeeTooLow,
    /// The account cannot pay.
    InsufficientFunds,
    /// These bytes can never be taken (size, gas above the block's limit, malformed).
    Unsendable(String),
}

/// Why fees are chosen as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pricing {
    /// The current price.
    Current,
    /// The current price, and enough above these to replace them in a pool.
    Above(Fees),
    /// What a person offers, if it is enough above these to replace them in a pool.
    Offer {
        /// What is to be replaced.
        above: Fees,
        /// Wei per gas.
        max_fee: u128,
    },
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<K> {
    /// Sign these items under this nonce, journal the bytes, then call [`Planner::journalled`].
    Sign {
        /// Nonce to use.
        nonce: Nonce,
        /// Number of the variant.
        attempt: u32,
        /// What to carry; empty means a transfer of 0 to oneself.
        items: Vec<K>,
        /// How to price it.
        pricing: Pricing,
    },
    /// Send these journalled bytes.
    Send {
        /// Their nonce.
        nonce: Nonce,
        /// Their variant.
        attempt: u32,
        /// The bytes.
        raw: Bytes,
    },
    /// Ask for the receipts of these hashes, all of one nonce, then call [`Planner::looked_up`].
    LookUp {
        /// The nonce.
        nonce: Nonce,
        /// Hashes of every variant.
        hashes: Vec<B256>,
    },
    /// Read the account's nonce and call [`Planner::account_nonce`].
    CheckNonce,
    /// A transaction with these items was mined.
    Settle {
        /// The nonce.
        nonce: Nonce,
        /// Everything that it carried, in its order.
        carried: Vec<K>,
        /// What of that it settles; the rest is in a later transaction, or was settled before.
        items: Vec<K>,
        /// Its receipt.
        mined: Mined,
    },
    /// The nonce was used by something that does not carry these items. Ask the chain for our answers first, then
    /// [`Planner::submit`] what is missing.
    Displaced {
        /// The nonce that was taken.
        nonce: Nonce,
        /// What has to be looked at again.
        items: Vec<K>,
        /// The transaction that took it, if it is our own.
        by: Option<B256>,
    },
    /// No node will take a transaction with these items as it was signed.
    Unsendable {
        /// What it carried.
        items: Vec<K>,
        /// The node's words.
        reason: String,
    },
    /// The nonce and all its variants are over for good.
    Closed {
        /// The nonce.
        nonce: Nonce,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Not yet mined as far as we know.
    Open,
    /// The account's nonce passed it and no receipt was seen. `asked` is when the look-up was last requested.
    Consumed { asked: Millis, misses: u32 },
    /// Mined, not yet final. `asked` is set while a look-up is under way.
    Included { mined: Mined, asked: Option<Millis> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Queue,
    At(Nonce),
}

/// How long a node that refused more transactions of the account is not asked for more.
const ROOM_PATIENCE_MS: u64 = 30_000;

/// An item that waits for a nonce.
#[derive(Clone, Debug)]
struct Queued<K> {
    item: K,
    load: Load,
    since: Millis,
}

/// How many transactions of the account a node holds, as it showed by refusing more.
#[derive(Clone, Copy, Debug)]
struct Room {
    most: usize,
    /// It is tried with twice as many at this moment.
    until: Millis,
}

#[derive(Clone, Debug)]
struct Slot<K> {
    variants: Vec<Variant<K>>,
    phase: Phase,
    /// Attempt and items that are being signed or journalled.
    signing: Option<(u32, Vec<K>)>,
    /// A node said something to the newest variant, or may have taken it.
    heard: bool,
    /// The newest variant is to be sent at this moment.
    due: Option<Millis>,
    /// A person asked for what is being signed: it is sent also while paused.
    by_hand: bool,
}

impl<K> Slot<K> {
    fn newest(&self) -> Option<&Variant<K>> {
        self.variants.last()
    }

    /// Of the variants that are replaced only the hashes and items matter any more.
    fn add(&mut self, variant: Variant<K>) {
        self.variants.push(variant);
        self.variants.sort_by_key(|variant| variant.attempt);
        if let Some((_, replaced)) = self.variants.split_last_mut() {
            replaced.iter_mut().for_each(|variant| variant.raw = Bytes::new());
        }
    }

    fn next_attempt(&self) -> u32 {
        self.variants.last().map_or(0, |variant| variant.attempt.saturating_add(1))
    }

    /// Items of the variant with this hash.
    fn items_of(&self, hash: &B256) -> impl Iterator<Item = &K> {
        self.variants.iter().filter(move |variant| variant.hash == *hash).flat_map(|variant| &variant.items)
    }

    fn hashes(&self) -> Vec<B256> {
        self.variants.iter().map(|variant| variant.hash).collect()
    }
}

/// An intent as recovery reads it back.
#[derive(Clone, Debug)]
pub struct Recovered<K> {
    /// Its nonce.
    pub nonce: Nonce,
    /// The bytes and what they carry.
    pub variant: Variant<K>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Planner<K> {
    policy: Policy,
    /// Every nonce below is used on chain.
    floor: Nonce,
    /// Lowest nonce never given out.
    next: Nonce,
    slots: BTreeMap<Nonce, Slot<K>>,
    /// Recovered nonces that the chain had passed before we came.
    past: BTreeMap<Nonce, Slot<K>>,
    past_until: Millis,
    by_hash: HashMap<B256, Nonce>,
    /// Nonces between the account's and the next one that nothing stands for.
    gaps: BTreeSet<Nonce>,
    /// Where an item is. An entry of the queue whose place is not the queue was withdrawn.
    place: HashMap<K, Place>,
    queue: VecDeque<Queued<K>>,
    queued: usize,
    room: Option<Room>,
    /// Slots that are mined and wait to be final.
    included: usize,
    head: u64,
    /// Blocks up to this one are finalized, as the node says.
    finalized: u64,
    progress_at: Millis,
    rounds: u32,
    /// Sent again to find out whether the node still has what it once took.
    probe: Option<(Nonce, u32)>,
    /// Nothing is signed or sent, but for what a person asks for ([`by_hand`]).
    paused: bool,
}

impl<K: Clone + Eq + Hash + Debug> Planner<K> {
    /// A planner for an account whose next nonce on chain is `account_nonce`, with what the journal holds, in journal order.
    ///
    /// Bytes of nonces that are still open are sent again as they are; nonces that the chain has passed are looked up only
    /// if one of their items is submitted again.
    pub fn recover(
        policy: Policy,
        intents: impl IntoIterator<Item = Recovered<K>>,
        account_nonce: Nonce,
        now: Millis,
    ) -> (Self, Vec<Action<K>>) {
        let mut planner = Self::adopted(policy, intents, account_nonce, now);
        let mut actions = Vec::new();
        planner.send_from(Nonce(0), &mut actions);
        planner.fill(now, &mut actions);
        (planner, actions)
    }

    fn adopted(
        policy: Policy,
        intents: impl IntoIterator<Item = Recovered<K>>,
        account_nonce: Nonce,
        now: Millis,
    ) -> Self {
        let mut planner = Self {
            policy,
            floor: account_nonce,
            next: account_nonce,
            slots: BTreeMap::new(),
            past: BTreeMap::new(),
            past_until: now.plus(policy.past_memory_ms),
            by_hash: HashMap::new(),
            gaps: BTreeSet::new(),
            place: HashMap::new(),
            queue: VecDeque::new(),
            queued: 0,
            room: None,
            included: 0,
            head: 0,
            finalized: 0,
            progress_at: now,
            rounds: 0,
            probe: None,
            paused: false,
        };
        for Recovered { nonce, variant } in intents {
            planner.adopt(nonce, variant);
        }
        planner.find_gaps();
        planner
    }

    fn adopt(&mut self, nonce: Nonce, variant: Variant<K>) {
        for item in &variant.items {
            self.place.insert(item.clone(), Place::At(nonce));
        }
        self.by_hash.insert(variant.hash, nonce);
        let home = if nonce < self.floor { &mut self.past } else { &mut self.slots };
        let slot = home.entry(nonce).or_insert_with(|| Slot {
            variants: Vec::new(),
            phase: Phase::Open,
            signing: None,
            heard: false,
            due: None,
            by_hand: false,
        });
        slot.add(variant);
        if nonce >= self.next {
            self.next = nonce.next();
        }
    }

    /// Nonces given out and not known to be mined.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.included
    }

    /// Nonces that are mined and wait to be final.
    #[must_use]
    pub fn unconfirmed(&self) -> usize {
        self.included
    }

    /// Items that wait for a nonce.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// The account's nonce on chain as last told.
    #[must_use]
    pub fn account(&self) -> Nonce {
        self.floor
    }

    /// Lowest nonce never given out.
    #[must_use]
    pub fn next_nonce(&self) -> Nonce {
        self.next
    }

    /// Whether the hash belongs to a transaction of ours that is not over.
    #[must_use]
    pub fn knows(&self, hash: &B256) -> bool {
        self.by_hash.contains_key(hash)
    }

    /// How many signed variants the nonce of this item has; transactions made for it so far.
    #[must_use]
    pub fn variants_of(&self, nonce: Nonce) -> u32 {
        let slot = self.slots.get(&nonce).or_else(|| self.past.get(&nonce));
        slot.map_or(0, |slot| u32::try_from(slot.variants.len()).unwrap_or(u32::MAX))
    }

    /// Take an item: it gets a nonce as soon as there is room. One that is on its way already (redelivered after a restart or
    /// a rebalance) is not taken twice.
    pub fn submit(&mut self, item: K, load: Load, now: Millis) -> Vec<Action<K>> {
        let mut actions = Vec::new();
        match self.place.get(&item) {
            Some(Place::Queue) => return actions,
            Some(Place::At(nonce)) => {
                if let Some(slot) = self.past.get_mut(nonce) {
                    slot.phase = Phase::Consumed { asked: now, misses: 0 };
                    actions.push(Action::LookUp { nonce: *nonce, hashes: slot.hashes() });
                }
                return actions;
            }
            None => {}
        }
        self.place.insert(item.clone(), Place::Queue);
        self.queue.push_back(Queued { item, load, since: now });
        self.queued += 1;
        self.fill(now, &mut actions);
        actions
    }

    /// What goes into one transaction from now on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.policy.batch = limits;
    }

    /// What goes into one transaction.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.policy.batch
    }

    /// When what is being gathered leaves at the latest, if nothing else makes it; call [`Planner::tick`] then.
    #[must_use]
    pub fn gathers_until(&self) -> Option<Millis> {
        if self.paused || self.queued == 0 || self.policy.batch.items <= 1 || !self.has_room() {
            return None;
        }
        let oldest = self.queue.iter().find(|queued| self.place.get(&queued.item) == Some(&Place::Queue))?;
        Some(oldest.since.plus(self.policy.batch.linger_ms))
    }

    /// Withdraw an item that has no nonce yet. Returns whether it was there.
    pub fn withdraw(&mut self, item: &K) -> bool {
        if self.place.get(item) != Some(&Place::Queue) {
            return false;
        }
        self.place.remove(item);
        self.queued -= 1;
        true
    }

    /// The RPC came back after an outage: do not wait for the patience of a stall.
    pub fn nudge(&mut self, now: Millis) -> Vec<Action<K>> {
        let mut actions = Vec::new();
        self.progressed(now);
        if let Some(lowest) = self.lowest_open() {
            actions.push(Action::CheckNonce);
            if !self.paused {
                self.send_probe(lowest, &mut actions);
            }
        }
        actions
    }

    /// The bytes of a [`Action::Sign`] are committed to the journal: they may be sent.
    pub fn journalled(&mut self, nonce: Nonce, variant: Variant<K>, now: Millis) -> Vec<Action<K>> {
        let mut actions = Vec::new();
        let Some(slot) = self.slots.get_mut(&nonce) else {
            // Taken by somebody else while the bytes were being journalled: they are never sent.
            actions.push(Action::Closed { nonce });
            return actions;
        };
        self.by_hash.insert(variant.hash, nonce);
        let awaited = slot.signing.take_if(|(attempt, items)| *attempt == variant.attempt && *items == variant.items);
        if awaited.is_none() {
            // From an earlier life of this nonce, before a reorganisation gave it back: it is in the journal, and not sent.
            slot.variants.insert(0, variant);
            return actions;
        }
        let by_hand = std::mem::take(&mut slot.by_hand);
        if slot.phase == Phase::Open && (by_hand || !self.paused) {
            actions.push(Action::Send { nonce, attempt: variant.attempt, raw: variant.raw.clone() });
            slot.due = None;
        }
        slot.add(variant);
        slot.heard = false;
        if self.rounds == 0 && self.slots.keys().next() == Some(&nonce) {
            self.progress_at = now;
        }
        actions
    }

    /// The bytes of a [`Action::Sign`] could not be made now (fees above the cap): ask again after a pause.
    pub fn unsigned(&mut self, nonce: Nonce, now: Millis) {
        let pause = now.plus(self.policy.refusal_pause_ms);
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        slot.due = Some(pause);
        slot.by_hand = false;
        if !slot.variants.is_empty() {
            slot.signing = None;
        }
    }

    /// The bytes of a [`Action::Sign`] can never be journalled: the nonce goes to something else.
    pub fn unjournalled(&mut self, nonce: Nonce, reason: String, now: Millis) -> Vec<Action<K>> {
        let mut actions = Vec::new();
        let pause = now.plus(self.policy.refusal_pause_ms);
        let Some(slot) = self.slots.get_mut(&nonce).filter(|slot| slot.phase == Phase::Open) else { return actions };
        if self.paused {
            // It is tried again, and then exchanged, when the pause is over.
            slot.due = Some(pause);
            slot.by_hand = false;
            return actions;
        }
        self.exchange(nonce, reason, pause, &mut actions);
        actions
    }

    /// A node's answer to bytes that were sent.
    pub fn answered(&mut self, nonce: Nonce, attempt: u32, answer: Answer, now: Millis) -> Vec<Action<K>> {
        let mut actions = Vec::new();
        let pause = now.plus(self.policy.refusal_pause_ms);
        let Some(slot) = self.slots.get_mut(&nonce) else { return actions };
        let is_newest = slot.newest().is_some_and(|variant| variant.attempt == attempt);
        slot.heard |= is_newest;
        if slot.phase != Phase::Open || !is_newest || slot.signing.is_some() {
            return actions;
        }
        if self.paused {
            // The same bytes are sent again when the pause is over, and then the answer counts.
            if answer == Answer::NonceTooLow {
                actions.push(Action::CheckNonce);
            }
            return actions;
        }
        let probed = self.probe.take_if(|probe| *probe == (nonce, attempt)).is_some();
        match answer {
            // The node had lost what it took once: then also what comes behind.
            Answer::Taken if probed => self.send_from(nonce.next(), &mut actions),
            Answer::Taken | Answer::Known | Answer::Unknown => {}
            Answer::NonceTooLow => actions.push(Action::CheckNonce),
            Answer::NonceTooHigh | Answer::InsufficientFunds => slot.due = Some(pause),
            Answer::AccountFull => {
                slot.due = Some(pause);
                self.account_full(nonce, now);
            }
            Answer::FeeTooLow if slot.variants.len() >= self.policy.max_variants => slot.due = Some(pause),
            Answer::FeeTooLow => self.sign_again(nonce, &mut actions),
            // With attempt 0 the other transaction is not ours: it will be mined, or a stall replaces it.
            Answer::ReplacementUnderpriced if attempt > 0 => self.sign_again(nonce, &mut actions),
            Answer::ReplacementUnderpriced => {}
            Answer::Unsendable(reason) => self.exchange(nonce, reason, pause, &mut actions),
        }
        actions
    }

    /// The node refused this nonce because of those before it: no more than these are given out for a while.
    fn account_full(&mut self, refused: Nonce, now: Millis) {
        let held = self.slots.range(..refused).filter(|(_, slot)| slot.phase == Phase::Open).count();
        let most = held.min(self.most_in_flight()).max(1);
        self.room = Some(Room { most, until: now.plus(ROOM_PATIENCE_MS) });
    }

    /// What a full account held back may go now that one of its transactions is mined.
    fn hasten(&mut self, now: Millis, actions: &mut Vec<Action<K>>) {
        if self.room.is_none() {
            return;
        }
        if let Some(lowest) = self.lowest_open()
            && let Some(slot) = self.slots.get_mut(&lowest)
            && let Some(due) = &mut slot.due
        {
            *due = (*due).min(now);
        }
        self.send_due(now, actions);
    }

    /// More room is tried for from time to time.
    fn widen(&mut self, now: Millis) {
        let Some(room) = &mut self.room else { return };
        if now < room.until {
            return;
        }
        room.most = room.most.saturating_mul(2);
        room.until = now.plus(ROOM_PATIENCE_MS);
        if room.most >= self.policy.max_in_flight {
            self.room = None;
        }
    }

    fn has_room(&self) -> bool {
        self.in_flight() < self.most_in_flight() && !self.awaits_finality()
    }

    /// Whether no further nonce is given out because too many that are mined are not final.
    #[must_use]
    pub fn awaits_finality(&self) -> bool {
        self.included > 0 && self.slots.len() >= self.policy.max_unconfirmed
    }

    fn most_in_flight(&self) -> usize {
        self.room.map_or(self.policy.max_in_flight, |room| room.most.min(self.policy.max_in_flight))
    }

    /// A receipt of a followed block or of a look-up by hash.
    pub fn mined(&mut self, mined: Mined, now: Millis) -> Vec<Action<K>> {
        let mut actions = Vec::new();
        let Some(&nonce) = self.by_hash.get(&mined.hash) else { return actions };
        if self.past.contains_key(&nonce) {
            self.settle_past(nonce, mined, &mut actions);
            return actions;
        }
        let Some(slot) = self.slots.get_mut(&nonce) else { return actions };
        if let Phase::Included { mined: known, asked } = &mut slot.phase {
            // Seen before: the same one, or the same nonce in another block after a reorganisation.
            let before = std::mem::replace(known, mined).hash;
            *asked = None;
            self.exchanged(nonce, before, mined.hash, &mut actions);
            self.raise_floor(nonce.next(), now, &mut actions);
            return actions;
        }
        slot.phase = Phase::Included { mined, asked: None };
        self.included += 1;
        let carried = slot
            .variants
            .iter()
            .find(|variant| variant.hash == mined.hash)
            .map(|variant| variant.items.clone())
            .unwrap_or_default();
        let displaced = self.displaced_by(nonce, &carried);
        for item in &carried {
            // After a reorganisation it may have been queued again.
            if !self.withdraw(item) {
                self.place.remove(item);
            }
        }
        actions.push(Action::Settle { nonce, items: carried.clone(), carried, mined });
        if !displaced.is_empty() {
            actions.push(Action::Displaced { nonce, items: displaced, by: Some(mined.hash) });
        }
        self.progressed(now);
        self.raise_floor(nonce.next(), now, &mut actions);
        if self.policy.confirmations == Confirmations::Blocks(0) {
            self.close(nonce, &mut actions);
        }
        self.hasten(now, &mut actions);
        self.fill(now, &mut actions);
        actions
    }

    /// Items placed at this nonce, in any variant or one being signed, that `carried` does not hold.
    fn displaced_by(&mut self, nonce: Nonce, carried: &[K]) -> Vec<K> {
        let mut displaced: Vec<K> = Vec::new();
        let Some(slot) = self.slots.get(&nonce).or_else(|| self.past.get(&nonce)) else { return displaced };
        let signing = slot.signing.iter().flat_map(|(_, items)| items);
        for item in slot.variants.iter().flat_map(|variant| &variant.items).chain(signing) {
            let here = self.place.get(item) == Some(&Place::At(nonce));
            if here && !carried.contains(item) && !displaced.contains(item) {
                displaced.push(item.clone());
            }
        }
        for item in &displaced {
            self.place.remove(item);
        }
        displaced
    }

    fn settle_past(&mut self, nonce: Nonce, mined: Mined, actions: &mut Vec<Action<K>>) {
        let carried: Vec<K> = self
            .past
            .get(&nonce)
            .into_iter()
            .flat_map(|slot| &slot.variants)
            .filter(|variant| variant.hash == mined.hash)
            .flat_map(|variant| variant.items.iter().cloned())
            .collect();
        let displaced = self.displaced_by(nonce, &carried);
        let here = |item: &&K| self.place.get(*item) == Some(&Place::At(nonce));
        let items: Vec<K> = carried.iter().filter(here).cloned().collect();
        for item in &items {
            self.place.remove(item);
        }
        if !items.is_empty() {
            actions.push(Action::Settle { nonce, carried, items, mined });
        }
        if !displaced.is_empty() {
            actions.push(Action::Displaced { nonce, items: displaced, by: Some(mined.hash) });
        }
        self.close(nonce, actions);
    }

    /// The answer to a [`Action::LookUp`]: the receipt of one of the hashes, or none of them is on a chain whose account nonce
    /// has passed this nonce. (Not to be called when the node could not answer, or is behind.)
    pub fn looked_up(&mut self, nonce: Nonce, found: Option<Mined>, now: Millis) -> Vec<Action<K>> {
        if let Some(found) = found {
            let reconfirmed = self.reconfirm(nonce, found, now);
            return reconfirmed.unwrap_or_else(|| self.mined(found, now));
        }
        let mut actions = Vec::new();
        if self.may_be_too_early(nonce) {
            return actions;
        }
        if self.past.contains_key(&nonce) {
            let displaced = self.displaced_by(nonce, &[]);
            actions.push(Action::Displaced { nonce, items: displaced, by: None });
            self.close(nonce, &mut actions);
            return actions;
        }
        match self.slots.get(&nonce).map(|slot| slot.phase) {
            Some(Phase::Consumed { .. }) => {
                let displaced = self.displaced_by(nonce, &[]);
                if !displaced.is_empty() {
                    actions.push(Action::Displaced { nonce, items: displaced, by: None });
                }
                self.close(nonce, &mut actions);
                self.progressed(now);
            }
            Some(Phase::Included { .. }) => self.reopen(nonce, &mut actions),
            Some(Phase::Open) | None => {}
        }
        self.fill(now, &mut actions);
        actions
    }

    /// A node may show a block before it shows the receipts in it. So nothing found is believed the second time, a while later
    /// (see [`Policy::lookup_retry_ms`]), unless nothing was ever signed.
    fn may_be_too_early(&mut self, nonce: Nonce) -> bool {
        const BELIEVED_MISSES: u32 = 2;
        let slot = self.slots.get_mut(&nonce).or_else(|| self.past.get_mut(&nonce));
        let Some(slot) = slot.filter(|slot| !slot.variants.is_empty()) else { return false };
        let Phase::Consumed { misses, .. } = &mut slot.phase else { return false };
        *misses += 1;
        *misses < BELIEVED_MISSES
    }

    /// A mined transaction was found where it was: it is final. Found elsewhere: it waits anew.
    fn reconfirm(&mut self, nonce: Nonce, found: Mined, now: Millis) -> Option<Vec<Action<K>>> {
        let slot = self.slots.get_mut(&nonce)?;
        let Phase::Included { mined, asked } = &mut slot.phase else { return None };
        *asked = None;
        let unmoved = mined.block_hash == found.block_hash;
        let before = std::mem::replace(mined, found).hash;
        let mut actions = Vec::new();
        self.exchanged(nonce, before, found.hash, &mut actions);
        self.raise_floor(nonce.next(), now, &mut actions);
        if unmoved && self.is_final(found.block_number) {
            self.close(nonce, &mut actions);
            self.fill(now, &mut actions);
        }
        Some(actions)
    }

    /// After a reorganisation another variant stands for the nonce: what only the one before carried is on chain no more.
    fn exchanged(&mut self, nonce: Nonce, before: B256, now: B256, actions: &mut Vec<Action<K>>) {
        let Some(slot) = self.slots.get(&nonce).filter(|_| before != now) else { return };
        let here: Vec<&K> = slot.items_of(&now).collect();
        let lost = slot.items_of(&before).filter(|item| !here.contains(item) && !self.place.contains_key(item));
        let items: Vec<K> = lost.cloned().collect();
        if !items.is_empty() {
            actions.push(Action::Displaced { nonce, items, by: Some(now) });
        }
    }

    /// The block that held the transaction is gone: the same bytes stand again.
    fn reopen(&mut self, nonce: Nonce, actions: &mut Vec<Action<K>>) {
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        let Phase::Included { mined, .. } = slot.phase else { return };
        slot.phase = Phase::Open;
        self.included -= 1;
        // What was settled stands again too, so that it is not lost if the nonce goes to somebody else this time.
        for variant in slot.variants.iter().filter(|variant| variant.hash == mined.hash) {
            for item in &variant.items {
                self.place.entry(item.clone()).or_insert(Place::At(nonce));
            }
        }
        if let Some(newest) = slot.newest().filter(|_| !self.paused) {
            actions.push(Action::Send { nonce, attempt: newest.attempt, raw: newest.raw.clone() });
        }
        if nonce < self.floor {
            self.set_floor_back(nonce);
        }
    }

    fn find_gaps(&mut self) {
        let mut at = self.floor;
        for &held in self.slots.range(self.floor..).map(|(nonce, _)| nonce) {
            while at < held {
                self.gaps.insert(at);
                at = at.next();
            }
            at = held.next();
        }
        // Nothing is above these: they are simply the next ones.
        self.next = at;
    }

    /// The account's nonce on chain, read no later than the last block whose receipts were given to [`Planner::mined`].
    pub fn account_nonce(&mut self, account: Nonce, now: Millis) -> Vec<Action<K>> {
        let mut actions = Vec::new();
        if account < self.floor {
            self.lower_floor(account);
        } else if account > self.floor {
            self.progressed(now);
            self.raise_floor(account, now, &mut actions);
        }
        self.fill(now, &mut actions);
        actions
    }

    /// The chain says that it used fewer nonces than we believe. Normally an old answer or a node that is behind; when nothing
    /// has moved for rounds, a reorganisation took back a transaction that was not ours, and its nonce is missing.
    fn lower_floor(&mut self, account: Nonce) {
        const ROUNDS_BEFORE_BELIEF: u32 = 2;
        if self.rounds >= ROUNDS_BEFORE_BELIEF && self.in_flight() > 0 {
            self.set_floor_back(account);
        }
    }

    fn set_floor_back(&mut self, floor: Nonce) {
        self.floor = floor;
        for slot in self.slots.range_mut(floor..).map(|(_, slot)| slot) {
            if matches!(slot.phase, Phase::Consumed { .. }) {
                slot.phase = Phase::Open;
            }
        }
        self.find_gaps();
    }

    /// The chain has used every nonce below `floor`. What is below and not known to be mined is looked up.
    fn raise_floor(&mut self, floor: Nonce, now: Millis, actions: &mut Vec<Action<K>>) {
        if floor <= self.floor {
            return;
        }
        let before = std::mem::replace(&mut self.floor, floor);
        self.next = self.next.max(floor);
        self.gaps = self.gaps.split_off(&floor);
        for (&nonce, slot) in self.slots.range_mut(before..floor) {
            if slot.phase != Phase::Open {
                continue;
            }
            slot.phase = Phase::Consumed { asked: now, misses: 0 };
            slot.due = None;
            actions.push(Action::LookUp { nonce, hashes: slot.hashes() });
        }
    }

    fn is_final(&self, block: u64) -> bool {
        match self.policy.confirmations {
            Confirmations::Blocks(blocks) => self.head >= block.saturating_add(blocks),
            Confirmations::Finalized => self.finalized >= block,
        }
    }

    /// The node calls blocks up to this one finalized.
    pub fn finalized(&mut self, number: u64, now: Millis) -> Vec<Action<K>> {
        let mut actions = Vec::new();
        self.finalized = self.finalized.max(number);
        self.confirm(now, &mut actions);
        actions
    }

    /// What is deep enough is looked for once more, where it was.
    fn confirm(&mut self, now: Millis, actions: &mut Vec<Action<K>>) {
        let deep = |(_, slot): &(&Nonce, &Slot<K>)| matches!(slot.phase, Phase::Included { mined, asked: None } if self.is_final(mined.block_number));
        let deep: Vec<Nonce> = self.slots.iter().filter(deep).map(|(&nonce, _)| nonce).collect();
        for nonce in deep {
            let Some(slot) = self.slots.get_mut(&nonce) else { continue };
            if let Phase::Included { asked, .. } = &mut slot.phase {
                *asked = Some(now);
                actions.push(Action::LookUp { nonce, hashes: slot.hashes() });
            }
        }
    }

    /// A new head of the chain with its base fee.
    pub fn head(&mut self, number: u64, base_fee: u128, now: Millis) -> Vec<Action<K>> {
        let mut actions = Vec::new();
        self.head = self.head.max(number);
        self.confirm(now, &mut actions);
        let mut starved = Vec::new();
        for (&nonce, slot) in &mut self.slots {
            let starves = slot.signing.is_none()
                && slot.due.is_none()
                && slot.newest().is_some_and(|variant| variant.fees.max_fee < base_fee);
            if slot.phase == Phase::Open && starves {
                starved.push(nonce);
            }
        }
        if self.policy.replace_after_rounds.is_some() {
            for nonce in starved {
                self.sign_again(nonce, &mut actions);
            }
        }
        actions
    }

    /// Time passed: what is due, what stalls, what was asked and not answered.
    pub fn tick(&mut self, now: Millis) -> Vec<Action<K>> {
        let mut actions = Vec::new();
        self.widen(now);
        self.repeat_lookups(now, &mut actions);
        self.send_due(now, &mut actions);
        self.break_stall(now, &mut actions);
        self.forget_past(now, &mut actions);
        self.fill(now, &mut actions);
        actions
    }

    fn repeat_lookups(&mut self, now: Millis, actions: &mut Vec<Action<K>>) {
        let retry = self.policy.lookup_retry_ms;
        for (&nonce, slot) in self.slots.iter_mut().chain(self.past.iter_mut()) {
            let asked = match &mut slot.phase {
                Phase::Consumed { asked, .. } => asked,
                Phase::Included { asked: Some(asked), .. } => asked,
                _ => continue,
            };
            if asked.plus(retry) <= now {
                *asked = now;
                actions.push(Action::LookUp { nonce, hashes: slot.hashes() });
            }
        }
    }

    fn send_due(&mut self, now: Millis, actions: &mut Vec<Action<K>>) {
        if self.paused {
            return;
        }
        for (&nonce, slot) in &mut self.slots {
            if slot.phase != Phase::Open || slot.due.is_none_or(|due| due > now) {
                continue;
            }
            slot.due = None;
            match (&slot.signing, slot.variants.last()) {
                (Some((attempt, items)), _) => actions.push(Action::Sign {
                    nonce,
                    attempt: *attempt,
                    items: items.clone(),
                    pricing: Pricing::Current,
                }),
                (None, Some(newest)) => {
                    actions.push(Action::Send { nonce, attempt: newest.attempt, raw: newest.raw.clone() });
                }
                (None, None) => {}
            }
        }
    }

    /// Nothing moved for a while: the pool may have been emptied, or what we pay is too little. The lowest bytes are sent again as
    /// they are: if the node took them anew, all that follow are sent too; if it knew them, they are paid for better after
    /// some rounds.
    fn break_stall(&mut self, now: Millis, actions: &mut Vec<Action<K>>) {
        let Some(lowest) = self.lowest_open().filter(|_| !self.paused) else {
            self.progressed(now);
            return;
        };
        let doubled = self.policy.resend_after_ms.saturating_mul(1 << self.rounds.min(16));
        if now < self.progress_at.plus(doubled.min(self.policy.resend_max_ms)) {
            return;
        }
        self.progress_at = now;
        self.rounds = self.rounds.saturating_add(1);
        actions.push(Action::CheckNonce);
        let replace = self.policy.replace_after_rounds.is_some_and(|rounds| self.rounds > rounds);
        let idle = self.slots.get(&lowest).is_some_and(|slot| slot.signing.is_none() && slot.due.is_none());
        if replace && idle {
            self.sign_again(lowest, actions);
        }
        self.send_probe(lowest, actions);
    }

    fn lowest_open(&self) -> Option<Nonce> {
        self.slots.iter().find(|(_, slot)| slot.phase == Phase::Open).map(|(&nonce, _)| nonce)
    }

    fn send_probe(&mut self, nonce: Nonce, actions: &mut Vec<Action<K>>) {
        const ROUNDS_UNHEARD: u32 = 3;
        let Some(slot) = self.slots.get(&nonce) else { return };
        // Bytes that are on their way for the first time say nothing about what a node has lost.
        let may_probe = slot.due.is_none() && (slot.heard || self.rounds > ROUNDS_UNHEARD);
        let Some(newest) = slot.newest().filter(|_| may_probe) else { return };
        self.probe = Some((nonce, newest.attempt));
        actions.push(Action::Send { nonce, attempt: newest.attempt, raw: newest.raw.clone() });
    }

    fn send_from(&self, first: Nonce, actions: &mut Vec<Action<K>>) {
        for (&nonce, slot) in self.slots.range(first..) {
            if slot.phase != Phase::Open || slot.due.is_some() {
                continue;
            }
            if let Some(newest) = slot.newest() {
                actions.push(Action::Send { nonce, attempt: newest.attempt, raw: newest.raw.clone() });
            }
        }
    }

    fn forget_past(&mut self, now: Millis, actions: &mut Vec<Action<K>>) {
        if now < self.past_until || self.past.is_empty() {
            return;
        }
        let idle: Vec<Nonce> =
            self.past.iter().filter(|(_, slot)| slot.phase == Phase::Open).map(|(&nonce, _)| nonce).collect();
        for nonce in idle {
            self.close(nonce, actions);
        }
    }

    fn progressed(&mut self, now: Millis) {
        self.progress_at = now;
        self.rounds = 0;
    }

    /// Same nonce, same items, higher fees.
    fn sign_again(&mut self, nonce: Nonce, actions: &mut Vec<Action<K>>) {
        if self.paused {
            return;
        }
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        let attempt = slot.next_attempt();
        let Some(newest) = slot.variants.last() else { return };
        if slot.variants.len() >= self.policy.max_variants {
            return;
        }
        let items = newest.items.clone();
        let pricing = Pricing::Above(newest.fees);
        slot.signing = Some((attempt, items.clone()));
        actions.push(Action::Sign { nonce, attempt, items, pricing });
    }

    /// Same nonce, other items: what it carried cannot be sent, and the nonces above wait for it.
    fn exchange(&mut self, nonce: Nonce, reason: String, pause: Millis, actions: &mut Vec<Action<K>>) {
        let items = self.displaced_by(nonce, &[]);
        let replacement = self.take_queued();
        let Some(slot) = self.slots.get_mut(&nonce) else { return };
        let attempt = slot.next_attempt();
        let pricing = slot.newest().map_or(Pricing::Current, |variant| Pricing::Above(variant.fees));
        slot.signing = Some((attempt, replacement.clone()));
        for item in &replacement {
            self.place.insert(item.clone(), Place::At(nonce));
        }
        if items.is_empty() {
            slot.due = Some(pause); // a filler was refused: no hurry to be refused again
            return;
        }
        actions.push(Action::Unsendable { items, reason });
        actions.push(Action::Sign { nonce, attempt, items: replacement, pricing });
    }

    /// The items of the next transaction, at most as many as fit.
    fn take_queued(&mut self) -> Vec<K> {
        let mut filling = Filling::new(self.policy.batch);
        let mut items = Vec::new();
        while let Some(queued) = self.queue.front() {
            // What was withdrawn is passed over.
            let waits = self.place.get(&queued.item) == Some(&Place::Queue);
            if waits && !filling.take(queued.load) {
                break;
            }
            let Some(queued) = self.queue.pop_front() else { break };
            if waits {
                self.place.remove(&queued.item);
                self.queued -= 1;
                items.push(queued.item);
            }
        }
        items
    }

    /// Whether the next transaction is to leave now, rather than wait for more items.
    fn next_leaves(&self, now: Millis) -> bool {
        let mut filling = Filling::new(self.policy.batch);
        let waiting = self.queue.iter().filter(|queued| self.place.get(&queued.item) == Some(&Place::Queue));
        let mut oldest = now;
        for queued in waiting {
            oldest = oldest.min(queued.since);
            if !filling.take(queued.load) || filling.is_full() {
                break;
            }
        }
        batch::leaves(&filling, self.in_flight(), oldest, now)
    }

    /// Give nonces to what waits: gaps first, with a filler where nothing waits.
    fn fill(&mut self, now: Millis, actions: &mut Vec<Action<K>>) {
        if self.paused {
            return;
        }
        // A gap holds up everything above it, so it is filled beyond the limit too, up to once more the same number.
        while self.in_flight() < self.policy.max_in_flight.saturating_mul(2) {
            let Some(gap) = self.gaps.pop_first() else { break };
            let items = self.take_queued();
            self.open(gap, items, actions);
        }
        while self.queued > 0 && self.has_room() && self.next_leaves(now) {
            if self.slots.is_empty() {
                self.progressed(now);
            }
            let nonce = self.next;
            self.next = nonce.next();
            let items = self.take_queued();
            self.open(nonce, items, actions);
        }
    }

    fn open(&mut self, nonce: Nonce, items: Vec<K>, actions: &mut Vec<Action<K>>) {
        for item in &items {
            self.place.insert(item.clone(), Place::At(nonce));
        }
        let slot = Slot {
            variants: Vec::new(),
            phase: Phase::Open,
            signing: Some((0, items.clone())),
            heard: false,
            due: None,
            by_hand: false,
        };
        self.slots.insert(nonce, slot);
        actions.push(Action::Sign { nonce, attempt: 0, items, pricing: Pricing::Current });
    }

    fn close(&mut self, nonce: Nonce, actions: &mut Vec<Action<K>>) {
        self.drop_slot(nonce);
        actions.push(Action::Closed { nonce });
    }

    fn drop_slot(&mut self, nonce: Nonce) {
        let Some(slot) = self.slots.remove(&nonce).or_else(|| self.past.remove(&nonce)) else { return };
        if matches!(slot.phase, Phase::Included { .. }) {
            self.included -= 1;
        }
        for variant in &slot.variants {
            self.by_hash.remove(&variant.hash);
            for item in &variant.items {
                if self.place.get(item) == Some(&Place::At(nonce)) {
                    self.place.remove(item);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
