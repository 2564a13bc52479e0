//! What a person has the planner do: pause, go on, pay more, use a nonce up. Pure, like the rest.

use std::fmt::Debug;
use std::hash::Hash;

use super::{Action, Millis, Nonce, Phase, Planner, Policy, Pricing, Recovered};

/// Why a nonce is not bumped or cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The chain has passed it.
    #[error("the chain has used it already")]
    Used,
    /// It was never given out.
    #[error("it was not given out yet, the next one is {next}", next = .next.0)]
    Unknown {
        /// The next one.
        next: Nonce,
    },
    /// Nothing was signed for it yet, so there is nothing on its way.
    #[error("nothing was sent under it yet")]
    Unsent,
    /// A variant is being signed or journalled: ask again.
    #[error("another transaction is being signed for it")]
    Signing,
    /// It has as many variants as it may have.
    #[error("it has {variants} transactions already, which is the limit (submission.max_variants)")]
    Full {
        /// How many.
        variants: usize,
    },
    /// It carries no answer, and never did.
    #[error("it carries no answer, so there is nothing to take back: bump it")]
    Empty,
    /// What was sent last under it is empty, and what was sent before is not.
    #[error("it is cancelled already")]
    Cancelled,
}

impl<K: Clone + Eq + Hash + Debug> Planner<K> {
    /// [`Planner::recover`], paused: nothing is sent.
    pub fn recover_paused(
        policy: Policy,
        intents: impl IntoIterator<Item = Recovered<K>>,
        account_nonce: Nonce,
        now: Millis,
    ) -> Self {
        let mut planner = Self::adopted(policy, intents, account_nonce, now);
        planner.paused = true;
        planner
    }

    /// From now on nothing is signed and nothing sent, not even the same bytes again, but for what [`Planner::bump`] and
    /// [`Planner::cancel`] ask for. Receipts settle as ever.
    pub fn pause(&mut self) {
        self.paused = true;
    }

    /// Whether it is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Works again: what is open is sent again as it is, and what waits gets its nonces.
    pub fn resume(&mut self, now: Millis) -> Vec<Action<K>> {
        let mut actions = Vec::new();
        if !std::mem::take(&mut self.paused) {
            return actions;
        }
        self.progressed(now);
        actions.push(Action::CheckNonce);
        self.send_from(Nonce(0), &mut actions);
        self.send_due(now, &mut actions);
        self.fill(now, &mut actions);
        actions
    }

    /// Nonces that are not known to be mined, lowest first.
    pub fn open_nonces(&self) -> impl Iterator<Item = Nonce> {
        self.slots.iter().filter(|(_, slot)| slot.phase == Phase::Open).map(|(&nonce, _)| nonce)
    }

    /// Answers of this nonce, of all its variants.
    #[must_use]
    pub fn answers_of(&self, nonce: Nonce) -> usize {
        let Some(slot) = self.slots.get(&nonce) else { return 0 };
        let mut items: Vec<&K> = Vec::new();
        for item in slot.variants.iter().flat_map(|variant| &variant.items) {
            if !items.contains(&item) {
                items.push(item);
            }
        }
        items.len()
    }

    /// The same items under the same nonce at higher fees, now: as much as a replacement needs, or `offer` wei per gas.
    ///
    /// # Errors
    /// Why not.
    pub fn bump(&mut self, nonce: Nonce, offer: Option<u128>) -> Result<Action<K>, Unfit> {
        let most = self.policy.max_variants;
        let variants = self.replaceable(nonce)?;
        if variants >= most {
            return Err(Unfit::Full { variants });
        }
        self.by_hand(nonce, offer, false)
    }

    /// Nothing under this nonce, at higher fees, now. Its items are displaced when that is mined, and settled when one of
    /// its earlier variants is.
    ///
    /// # Errors
    /// Why not.
    pub fn cancel(&mut self, nonce: Nonce) -> Result<Action<K>, Unfit> {
        if let Some(slot) = self.slots.get(&nonce).filter(|slot| slot.phase == Phase::Open) {
            let is_empty = slot.newest().is_some_and(|variant| variant.items.is_empty()) && slot.signing.is_none();
            let carried = slot.variants.iter().any(|variant| !variant.items.is_empty());
            match (is_empty, carried) {
                (true, true) => return Err(Unfit::Cancelled),
                (true, false) => return Err(Unfit::Empty),
                (false, _) => {}
            }
        }
        // One beyond the limit of variants, and only once: the next cancel finds it cancelled.
        self.replaceable(nonce)?;
        self.by_hand(nonce, None, true)
    }

    /// How many variants the nonce has, if another one may be made now.
    fn replaceable(&self, nonce: Nonce) -> Result<usize, Unfit> {
        let Some(slot) = self.slots.get(&nonce) else {
            return Err(if nonce < self.next { Unfit::Used } else { Unfit::Unknown { next: self.next } });
        };
        if slot.phase != Phase::Open {
            return Err(Unfit::Used);
        }
        match (slot.variants.len(), &slot.signing) {
            (0, _) => Err(Unfit::Unsent),
            (_, Some(_)) => Err(Unfit::Signing),
            (variants, None) => Ok(variants),
        }
    }

    fn by_hand(&mut self, nonce: Nonce, offer: Option<u128>, empty: bool) -> Result<Action<K>, Unfit> {
        let slot = self.slots.get_mut(&nonce).ok_or(Unfit::Used)?;
        let attempt = slot.next_attempt();
        let newest = slot.variants.last().ok_or(Unfit::Unsent)?;
        let items = if empty { Vec::new() } else { newest.items.clone() };
        let pricing = match offer {
            None => Pricing::Above(newest.fees),
            Some(max_fee) => Pricing::Offer { above: newest.fees, max_fee },
        };
        slot.signing = Some((attempt, items.clone()));
        slot.due = None;
        slot.by_hand = true;
        Ok(Action::Sign { nonce, attempt, items, pricing })
    }
}
