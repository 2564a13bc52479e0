//! Obeys what people command ([`crate::command`]): pause, resume, pay more, use a nonce up.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::SystemTime;

use alloy::primitives::B256;
use kms_runtime::http::Check;
use kms_schemas::record::{WalletBody, WalletEnd};

use super::{ItemKey, Submitter};
use crate::clock::unix_ms;
use crate::command::{Clerk, Command, Standing};
use crate::fees::Fees;
use crate::journal::Entry;
use crate::nonce::{Action, Mined, Nonce, Unfit};

/// Commands that wait for a signature or a block; of one more the answer is no.
const MOST_UNDER_WAY: usize = 256;

/// What is known of commands.
pub(super) struct Hand {
    clerk: Clerk,
    check: Check,
    /// Transactions can be replaced on this chain.
    pool: bool,
    /// The command by which nothing is sent.
    paused: Option<Command>,
    under_way: BTreeMap<i64, UnderWay>,
    /// Attempt that is being signed because of a command, with its offset.
    pub(super) signing: HashMap<Nonce, (u32, i64)>,
    /// What is sent although paused.
    by_hand: HashSet<(Nonce, u32)>,
}

/// A command that is being obeyed.
struct UnderWay {
    command: Command,
    /// Nonces that cannot be signed for yet.
    waiting: BTreeSet<Nonce>,
    /// Nonces that are being signed for.
    signing: BTreeSet<Nonce>,
    transactions: Vec<B256>,
    /// What is to be told, nonce by nonce.
    told: Vec<String>,
    obeyed: usize,
    /// Of a cancel: an outcome says that it has begun, and it ends when this nonce is used.
    ends_with: Option<Nonce>,
}

impl UnderWay {
    fn new(command: Command, nonces: impl IntoIterator<Item = Nonce>) -> Self {
        Self {
            command,
            waiting: nonces.into_iter().collect(),
            signing: BTreeSet::new(),
            transactions: Vec::new(),
            told: Vec::new(),
            obeyed: 0,
            ends_with: None,
        }
    }

    fn tell(&mut self, nonce: Nonce, what: impl std::fmt::Display) {
        /// A record has a limit; so has a person's patience.
        const MOST: usize = 50;
        match self.told.len() {
            MOST => self.told.push("and more".to_owned()),
            more if more > MOST => {}
            _ => self.told.push(format!("nonce {}: {what}", nonce.0)),
        }
    }
}

impl Hand {
    pub(super) fn new(clerk: Clerk, check: Check, pool: bool) -> Self {
        Self {
            clerk,
            check,
            pool,
            paused: None,
            under_way: BTreeMap::new(),
            signing: HashMap::new(),
            by_hand: HashSet::new(),
        }
    }

    /// Whether it is sent although nothing else is.
    pub(super) fn may_send(&self, nonce: Nonce, attempt: u32) -> bool {
        self.by_hand.contains(&(nonce, attempt))
    }
}

impl Submitter {
    /// Takes up what the topic said when the term began.
    pub(super) fn take_up(&mut self, standing: Standing) {
        self.show_pause(standing.paused().cloned());
        let last = standing.switch().map(|command| command.offset);
        for (command, begun) in standing.open() {
            let is_switch = matches!(command.record.body, WalletBody::Pause | WalletBody::Resume);
            match (is_switch, begun) {
                (true, _) => {
                    let text = match last {
                        Some(last) if command.offset < last => "a later command overtook it".to_owned(),
                        Some(last) if command.offset == last => self.switched(),
                        _ => self.repeated(),
                    };
                    self.outcome(command, WalletEnd::Done, text, Vec::new());
                }
                (false, false) => self.command(command.clone()),
                (false, true) => self.go_on(command.clone()),
            }
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        self.metrics.command(command.record.body.as_str(), &command.who(), command.offset);
        match command.record.body {
            // As the standing of a term that begins has it: what is so already is left as it is.
            WalletBody::Pause if self.hand.paused.is_some() => {
                self.outcome(&command, WalletEnd::Done, self.repeated(), Vec::new());
            }
            WalletBody::Resume if self.hand.paused.is_none() => {
                self.outcome(&command, WalletEnd::Done, self.repeated(), Vec::new());
            }
            WalletBody::Pause => {
                self.planner.pause();
                // It is sent again when the pause is over; what a node is being told at this moment it is told.
                self.sending.clear();
                self.show_pause(Some(command.clone()));
                self.outcome(&command, WalletEnd::Done, self.switched(), Vec::new());
            }
            WalletBody::Resume => {
                self.show_pause(None);
                self.hand.by_hand.clear();
                let actions = self.planner.resume(self.clock.now());
                self.obey(actions);
                self.outcome(&command, WalletEnd::Done, self.switched(), Vec::new());
            }
            WalletBody::Bump { nonce, max_fee_per_gas, .. } => {
                if let Some(why) = self.why_not(&command, max_fee_per_gas) {
                    return self.outcome(&command, WalletEnd::Refused, why, Vec::new());
                }
                let nonces: Vec<Nonce> = match nonce {
                    Some(nonce) => vec![Nonce(nonce)],
                    None => self.planner.open_nonces().collect(),
                };
                self.begin(command, nonces);
            }
            WalletBody::Cancel { nonce, .. } => {
                if let Some(why) = self.why_not(&command, None) {
                    return self.outcome(&command, WalletEnd::Refused, why, Vec::new());
                }
                self.begin(command, [Nonce(nonce)]);
            }
            WalletBody::Outcome { .. } => {}
        }
    }

    fn why_not(&self, command: &Command, offer: Option<u128>) -> Option<String> {
        if !self.hand.pool {
            return Some(
                "the destination has no pool (destination.pool): what was sent is in a block or was refused, and is not \
                 replaced"
                    .to_owned(),
            );
        }
        if command.is_expired(unix_ms(SystemTime::now())) {
            return Some("it was read too late to be obeyed; compare the clocks if it was not".to_owned());
        }
        if self.hand.under_way.len() >= MOST_UNDER_WAY {
            return Some(format!("{MOST_UNDER_WAY} commands are under way already"));
        }
        let cap = self.fees.cap;
        offer.filter(|offer| *offer > cap).map(|offer| {
            format!("{offer} wei per gas are offered and the cap is {cap} (submission.max_fee_per_gas_wei)")
        })
    }

    fn begin(&mut self, command: Command, nonces: impl IntoIterator<Item = Nonce>) {
        let offset = command.offset;
        self.hand.under_way.insert(offset, UnderWay::new(command, nonces));
        self.go_through(offset);
    }

    /// A predecessor had begun with it.
    fn go_on(&mut self, command: Command) {
        let WalletBody::Cancel { nonce, .. } = command.record.body else { return self.command(command) };
        let nonce = Nonce(nonce);
        if self.planner.open_nonces().any(|open| open == nonce) {
            let mut one = UnderWay::new(command, []);
            one.ends_with = Some(nonce);
            self.hand.under_way.insert(one.command.offset, one);
            return;
        }
        let text = format!(
            "nonce {}: the chain has used it while no emitter looked; of its answers, those that are not on chain go again",
            nonce.0
        );
        self.outcome(&command, WalletEnd::Done, text, Vec::new());
    }

    /// Signs for what waits, if it can be signed for now.
    fn go_through(&mut self, offset: i64) {
        let Some(one) = self.hand.under_way.get_mut(&offset) else { return };
        let body = one.command.record.body.clone();
        for nonce in std::mem::take(&mut one.waiting) {
            let planned = match &body {
                WalletBody::Bump { max_fee_per_gas, .. } => self.planner.bump(nonce, *max_fee_per_gas),
                _ => self.planner.cancel(nonce),
            };
            let Some(one) = self.hand.under_way.get_mut(&offset) else { return };
            match planned {
                Ok(action) => {
                    if let Action::Sign { attempt, .. } = &action {
                        one.signing.insert(nonce);
                        self.hand.signing.insert(nonce, (*attempt, offset));
                    }
                    self.obey(vec![action]);
                }
                Err(Unfit::Signing) => {
                    one.waiting.insert(nonce);
                }
                Err(why @ Unfit::Cancelled) => {
                    one.tell(nonce, why);
                    one.obeyed += 1;
                    one.ends_with = Some(nonce);
                }
                Err(why) => one.tell(nonce, why),
            }
        }
        self.conclude_command(offset);
    }

    /// Tells the outcome once nothing is waited for.
    fn conclude_command(&mut self, offset: i64) {
        let Some(one) = self.hand.under_way.get(&offset) else { return };
        if !one.waiting.is_empty() || !one.signing.is_empty() {
            return;
        }
        let text = match one.told.is_empty() {
            true => "no transaction is on its way".to_owned(),
            false => one.told.join("; "),
        };
        let (command, transactions) = (one.command.clone(), one.transactions.clone());
        let end = match (one.obeyed, one.ends_with) {
            (0, _) => WalletEnd::Refused,
            (_, Some(_)) => WalletEnd::Accepted,
            (_, None) => WalletEnd::Done,
        };
        if end != WalletEnd::Accepted {
            self.hand.under_way.remove(&offset);
        }
        self.outcome(&command, end, text, transactions);
    }

    /// Fees of what a person has signed.
    pub(super) fn offered(&self, above: Fees, max_fee: u128) -> Result<Fees, String> {
        let least = self.fees.above(above, self.base_fee).map_err(|error| error.to_string())?;
        if max_fee < least.max_fee {
            return Err(format!(
                "{max_fee} wei per gas are offered, and a replacement takes {} at least",
                least.max_fee
            ));
        }
        Ok(Fees { max_fee: max_fee.min(self.fees.cap), ..least })
    }

    /// Whether this is being signed because of a command.
    pub(super) fn is_by_hand(&self, nonce: Nonce, attempt: u32) -> bool {
        self.hand.signing.get(&nonce).is_some_and(|(signing, _)| *signing == attempt)
    }

    /// What a command wanted signed cannot be.
    pub(super) fn hand_refused(&mut self, nonce: Nonce, attempt: u32, why: &str) {
        if !self.is_by_hand(nonce, attempt) {
            return;
        }
        let Some((_, offset)) = self.hand.signing.remove(&nonce) else { return };
        if let Some(one) = self.hand.under_way.get_mut(&offset) {
            one.signing.remove(&nonce);
            one.tell(nonce, why);
        }
        self.conclude_command(offset);
    }

    /// What a command wanted signed is in the journal, before it is sent.
    pub(super) fn hand_journalled(&mut self, nonce: Nonce, attempt: u32, hash: B256, fees: Fees) {
        if !self.is_by_hand(nonce, attempt) {
            return;
        }
        let Some((_, offset)) = self.hand.signing.remove(&nonce) else { return };
        self.hand.by_hand.insert((nonce, attempt));
        let answers = self.planner.answers_of(nonce);
        let Some(one) = self.hand.under_way.get_mut(&offset) else { return };
        one.signing.remove(&nonce);
        one.transactions.push(hash);
        one.obeyed += 1;
        let Fees { max_fee, priority } = fees;
        match one.command.record.body {
            WalletBody::Cancel { .. } => {
                one.ends_with = Some(nonce);
                one.tell(
                    nonce,
                    format!(
                        "an empty transaction replaces it, offering {max_fee} wei per gas ({priority} priority); its {answers} \
                         answers go again unless an earlier one is mined"
                    ),
                );
            }
            _ => one.tell(nonce, format!("replaced, offering {max_fee} wei per gas ({priority} priority)")),
        }
        self.conclude_command(offset);
    }

    /// A transaction of ours with this nonce was mined.
    pub(super) fn hand_mined(&mut self, nonce: Nonce, carried: &[ItemKey], mined: &Mined) {
        if self.hand.under_way.is_empty() {
            return;
        }
        let text = match carried.len() {
            0 => format!(
                "nonce {}: the empty transaction was mined in block {}; what it replaced goes again",
                nonce.0, mined.block_number
            ),
            answers => format!(
                "nonce {}: an earlier transaction was mined after all in block {}, with {answers} answers",
                nonce.0, mined.block_number
            ),
        };
        self.hand_over(nonce, &text, vec![mined.hash]);
    }

    /// The nonce went to somebody else's transaction, or is over.
    pub(super) fn hand_taken(&mut self, nonce: Nonce) {
        if !self.hand.under_way.is_empty() {
            let text = format!(
                "nonce {}: the chain has used it; of its answers, those that are not on chain go again",
                nonce.0
            );
            self.hand_over(nonce, &text, Vec::new());
        }
    }

    /// The nonce is used: ends what waited for that.
    fn hand_over(&mut self, nonce: Nonce, text: &str, transactions: Vec<B256>) {
        if let Some((_, offset)) = self.hand.signing.remove(&nonce) {
            if let Some(one) = self.hand.under_way.get_mut(&offset) {
                one.signing.remove(&nonce);
                one.tell(nonce, Unfit::Used);
            }
            self.conclude_command(offset);
        }
        let ended = |one: &UnderWay| one.ends_with == Some(nonce) && one.signing.is_empty();
        let ended: Vec<i64> =
            self.hand.under_way.iter().filter(|(_, one)| ended(one)).map(|(&offset, _)| offset).collect();
        for offset in ended {
            if let Some(one) = self.hand.under_way.remove(&offset) {
                self.outcome(&one.command, WalletEnd::Done, text.to_owned(), transactions.clone());
            }
        }
        self.hand.by_hand.retain(|(other, _)| *other != nonce);
    }

    /// Tries again what could not be signed for; what has waited too long is refused.
    pub(super) fn hand_due(&mut self) {
        let waiting = |one: &UnderWay| !one.waiting.is_empty();
        let due: Vec<i64> =
            self.hand.under_way.iter().filter(|(_, one)| waiting(one)).map(|(&offset, _)| offset).collect();
        let now = unix_ms(SystemTime::now());
        for offset in due {
            let Some(one) = self.hand.under_way.get_mut(&offset) else { continue };
            if one.command.is_expired(now) {
                for nonce in std::mem::take(&mut one.waiting) {
                    one.tell(nonce, Unfit::Signing);
                }
                self.conclude_command(offset);
            } else {
                self.go_through(offset);
            }
        }
    }

    fn switched(&self) -> String {
        let open = self.planner.in_flight();
        match &self.hand.paused {
            Some(_) => format!(
                "nothing is signed or sent any more; {open} transactions that were sent before are followed, and may be mined"
            ),
            None => format!("answers are sent; {open} transactions are on their way"),
        }
    }

    /// What is told to a pause of what is paused, and to a resume of what is not.
    fn repeated(&self) -> String {
        let now = unix_ms(SystemTime::now());
        self.hand
            .paused
            .as_ref()
            .map_or_else(|| format!("it was not paused: {}", self.switched()), |first| first.already(now))
    }

    fn show_pause(&mut self, paused: Option<Command>) {
        match &paused {
            Some(command) => {
                self.hand.check.limited(format!("paused, nothing is sent: {}", command.who()));
            }
            None => self.hand.check.ready(),
        }
        self.metrics.paused(paused.is_some());
        self.hand.paused = paused;
    }

    fn outcome(&self, command: &Command, end: WalletEnd, text: String, transactions: Vec<B256>) {
        let action = command.record.body.as_str();
        self.metrics.commanded(action, end.as_str(), &text, command.offset);
        let Some(record) = self.hand.clerk.outcome(command, end, text, transactions) else { return };
        // Transactions come first. A command without an outcome is answered when the next term begins.
        let has_room = self.drafts.capacity() > self.drafts.max_capacity() / 2;
        if !has_room || self.drafts.try_send(Entry::Note(record)).is_err() {
            tracing::warn!(offset = command.offset, "the outcome of a command is not recorded");
        }
    }
}
