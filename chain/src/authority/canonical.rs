//! Which block is the chain's at a number, without a call for each question.
//!
//! A *tip* is a block that was the chain's when it was last looked at. As long as the node still states the same hash at
//! the tip's number, or a new tip that links to it, every block below that was the chain's under the old tip is still:
//! blocks name their parents. So one look at the tip, every now and then, stands for a look at every cached block. When
//! the tip is another, the *epoch* moves on, and what was confirmed in an earlier one is looked at again.
//!
//! Of the blocks of one HTTP request the tip comes first, what is confirmed under it later: a reorganisation between the
//! two is found with the next look, whereas the other order would hide it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use alloy::primitives::B256;
use serde_json::value::RawValue;

use super::error::Unproven;
use super::header::Link;
use super::metrics::Labels;
use crate::finality::Finality;
use crate::rpc::{BlockNumberOrTag, Evidence, OutageCause, Rpc, Unfound};

/// A wait for a block asks not more often than so.
const SHORTEST_PAUSE: Duration = Duration::from_millis(20);

/// The highest block known to be the chain's, at the finality that is asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tip {
    pub(super) number: u64,
    pub(super) hash: B256,
    /// Moves on whenever the tip turns out not to be the chain's any more.
    pub(super) epoch: u64,
    /// Asked after this moment.
    checked: Instant,
}

/// A block's number, reached: the epoch in which to confirm it, and the block, where it came along.
#[derive(Debug)]
pub(super) struct Reached {
    pub(super) epoch: u64,
    pub(super) block: Option<Box<RawValue>>,
}

#[derive(Debug)]
pub(super) struct Canonical {
    rpc: Rpc,
    finality: Finality,
    labels: Labels,
    /// For how long a look at the tip is good.
    max_age: Duration,
    state: Mutex<State>,
    /// Held while the tip is looked at.
    looking: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    tip: Option<Tip>,
    /// From this number on there was no block, at this moment.
    absent: Option<Absent>,
}

/// That there was no block, from a number on.
#[derive(Clone, Copy, Debug)]
struct Absent {
    from: u64,
    since: Instant,
    /// Endpoints that gave no answer, and may have it.
    silent: usize,
}

/// What one endpoint states: its block at the finality, the block at the old tip's number, and the wanted block.
struct Look {
    head: Link,
    at_old_tip: Option<Link>,
    block: Option<Box<RawValue>>,
}

impl Canonical {
    pub(super) fn new(rpc: Rpc, finality: Finality, labels: Labels, max_age: Duration) -> Self {
        Self {
            rpc,
            finality,
            labels,
            max_age,
            state: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// The tip, where it is fresh and not below `number`.
    pub(super) fn known(&self, number: u64) -> Option<Tip> {
        let tip = self.state().tip?;
        (tip.number >= number && self.is_fresh(&tip)).then_some(tip)
    }

    /// Makes sure that the chain has reached `number` at the finality, and that the tip is fresh.
    pub(super) async fn reach(&self, number: u64) -> Result<Reached, Unproven> {
        if let Some(tip) = self.known(number) {
            return Ok(Reached { epoch: tip.epoch, block: None });
        }
        let asked = Instant::now();
        let waiting = Waiting::new(&self.waiting);
        let _looking = self.looking.lock().await;
        let State { tip, absent } = self.state();
        if let Some(tip) = tip.filter(|tip| tip.number >= number && (tip.checked >= asked || self.is_fresh(tip))) {
            return Ok(Reached { epoch: tip.epoch, block: None });
        }
        if let Some(absent) = absent.filter(|absent| number >= absent.from && absent.since + SHORTEST_PAUSE >= asked) {
            return Err(self.not_there(number, tip, absent.silent));
        }
        match tip {
            // The next block says itself whether it continues the tip. With others waiting, it is better to see how far
            // the chain is, so that they need not go one after the other.
            Some(tip) if self.finality == Finality::Latest && tip.number + 1 == number && !waiting.others() => {
                self.step(tip, number).await
            }
            tip => self.look(tip, number).await,
        }
    }

    async fn step(&self, tip: Tip, number: u64) -> Result<Reached, Unproven> {
        let checked = Instant::now();
        let evidence = self.rpc.evidence("eth_getBlockByNumber", |endpoint| async move {
            let blocks = [(BlockNumberOrTag::Number(number), true)];
            let mut stated = match self.rpc.stated_blocks(endpoint, &blocks).await? {
                Evidence::Fits(stated) => stated,
                Evidence::Absent => return Ok(Evidence::Absent),
                Evidence::Undecidable(why) => return Ok(Evidence::Undecidable(why)),
            };
            let Some(block) = stated.pop().flatten() else { return Ok(Evidence::Absent) };
            Ok(match link(&block) {
                Ok(link) if link.number == number => Evidence::Fits((link, block)),
                Ok(link) => Evidence::Undecidable(format!("block {} instead of {number}", link.number)),
                Err(why) => Evidence::Undecidable(why),
            })
        });
        match evidence.await? {
            Ok((link, block)) => {
                let epoch = if link.parent_hash == tip.hash { tip.epoch } else { self.reorganised(&tip, &link) };
                self.set(Tip { number, hash: link.hash, epoch, checked });
                Ok(Reached { epoch, block: Some(block) })
            }
            Err(Unfound::Absent) => Err(self.absent(number, Some(tip), checked, 0)),
            Err(Unfound::Unheard { silent, misfit: None }) => Err(self.absent(number, Some(tip), checked, silent)),
            Err(unfound) => Err(self.unproven(number, unfound)),
        }
    }

    async fn look(&self, old: Option<Tip>, number: u64) -> Result<Reached, Unproven> {
        let checked = Instant::now();
        // An endpoint that is behind the tip is asked last.
        let wanted = number.max(old.map_or(0, |tip| tip.number));
        let behind: Mutex<Option<Look>> = Mutex::default();
        let evidence = self.rpc.evidence("eth_getBlockByNumber", |endpoint| {
            let behind = &behind;
            async move {
                let look = match self.look_at(endpoint, old, number).await? {
                    Evidence::Fits(look) => look,
                    Evidence::Absent => return Ok(Evidence::Absent),
                    Evidence::Undecidable(why) => return Ok(Evidence::Undecidable(why)),
                };
                if look.head.number >= wanted {
                    return Ok(Evidence::Fits(look));
                }
                let mut behind = behind.lock().unwrap_or_else(PoisonError::into_inner);
                if behind.as_ref().is_none_or(|other| other.head.number < look.head.number) {
                    *behind = Some(look);
                }
                Ok(Evidence::Absent)
            }
        });
        let (look, silent) = match evidence.await? {
            Ok(look) => (Some(look), 0),
            Err(Unfound::Absent) => (behind.into_inner().unwrap_or_else(PoisonError::into_inner), 0),
            Err(Unfound::Unheard { silent, misfit: None }) => {
                (behind.into_inner().unwrap_or_else(PoisonError::into_inner), silent)
            }
            Err(unfound) => return Err(self.unproven(number, unfound)),
        };
        let Some(look) = look else { return Err(self.absent(number, old, checked, silent)) };
        let epoch = match old {
            None => 0,
            Some(tip) if continues(&tip, &look) => tip.epoch,
            Some(tip) => self.reorganised(&tip, &look.head),
        };
        let tip = Tip { number: look.head.number, hash: look.head.hash, epoch, checked };
        self.set(tip);
        if tip.number < number {
            self.absent(tip.number + 1, Some(tip), checked, silent);
            return Err(self.not_there(number, Some(tip), silent));
        }
        Ok(Reached { epoch, block: look.block })
    }

    async fn look_at(&self, endpoint: usize, old: Option<Tip>, number: u64) -> Result<Evidence<Look>, OutageCause> {
        let head = match self.finality {
            Finality::Latest => BlockNumberOrTag::Latest,
            Finality::Safe => BlockNumberOrTag::Safe,
            Finality::Finalized => BlockNumberOrTag::Finalized,
            Finality::Depth(depth) => match self.rpc.stated_head(endpoint).await?.checked_sub(depth) {
                Some(number) => BlockNumberOrTag::Number(number),
                None => return Ok(Evidence::Absent),
            },
        };
        let mut blocks = vec![(head, false)];
        blocks.extend(old.map(|tip| (BlockNumberOrTag::Number(tip.number), false)));
        // Below the latest block the wanted one is rarely there yet.
        let along = self.finality == Finality::Latest && old.is_none_or(|tip| tip.number < number);
        if along {
            blocks.push((BlockNumberOrTag::Number(number), true));
        }
        let mut stated = match self.rpc.stated_blocks(endpoint, &blocks).await? {
            Evidence::Fits(stated) => stated,
            Evidence::Absent => return Ok(Evidence::Absent),
            Evidence::Undecidable(why) => return Ok(Evidence::Undecidable(why)),
        };
        let block = if along { stated.pop().flatten() } else { None };
        let at_old_tip = if old.is_some() { stated.pop().flatten() } else { None };
        let Some(head) = stated.pop().flatten() else { return Ok(Evidence::Absent) };
        Ok(match (link(&head), at_old_tip.as_deref().map(link).transpose()) {
            (Ok(head), Ok(at_old_tip)) => Evidence::Fits(Look { head, at_old_tip, block }),
            (Err(why), _) | (_, Err(why)) => Evidence::Undecidable(why),
        })
    }

    fn reorganised(&self, old: &Tip, new: &Link) -> u64 {
        self.labels.reorganised(new.number, &new.hash);
        old.epoch + 1
    }

    /// Remembers from which number on there is no block, and says so of it.
    fn absent(&self, from: u64, tip: Option<Tip>, since: Instant, silent: usize) -> Unproven {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).absent = Some(Absent { from, since, silent });
        self.not_there(from, tip, silent)
    }

    /// The block is not there at the endpoints that answered, which are all but these.
    fn not_there(&self, needed: u64, tip: Option<Tip>, silent: usize) -> Unproven {
        let not_yet = Unproven::NotYet { needed, head: tip.map(|tip| tip.number), finality: self.finality };
        if silent == 0 { not_yet } else { Unproven::Unheard { number: needed, silent, why: not_yet.to_string() } }
    }

    /// The block is there, and what belongs to it is not yet, or does not fit.
    pub(super) fn unproven(&self, number: u64, unfound: Unfound) -> Unproven {
        match unfound {
            Unfound::Absent => self.not_there(number, self.state().tip, 0),
            Unfound::Undecidable(why) => Unproven::Undecidable { number, why },
            Unfound::Unheard { silent, misfit: None } => self.not_there(number, self.state().tip, silent),
            Unfound::Unheard { silent, misfit: Some(why) } => Unproven::Unheard { number, silent, why },
        }
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, tip: Tip) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).tip = Some(tip);
    }

    /// What is final stays so.
    fn is_fresh(&self, tip: &Tip) -> bool {
        self.finality == Finality::Finalized || tip.checked.elapsed() < self.max_age
    }
}

/// Whether the new head has the old tip among its ancestors.
fn continues(old: &Tip, look: &Look) -> bool {
    let Look { head, at_old_tip, .. } = look;
    let same = head.number == old.number && head.hash == old.hash;
    let next = head.number == old.number + 1 && head.parent_hash == old.hash;
    let still_there = at_old_tip.is_some_and(|link| link.number == old.number && link.hash == old.hash);
    head.number >= old.number && (same || next || still_there)
}

pub(super) fn link(block: &RawValue) -> Result<Link, String> {
    serde_json::from_str(block.get()).map_err(|error| format!("a block: {error}"))
}

/// Counts those who wait for a look at the tip.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }

    fn others(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 1
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
