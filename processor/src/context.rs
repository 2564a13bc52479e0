//! Whether the KMS context and epoch that a request names may be served, as `ProtocolConfig` on the Ethereum host chain says
//! (`docs/protocol.md`, "Extra data").
//!
//! Read at the configured finality, since a context that a reorganisation takes back never was. The ids count up and are never used again,
//! so that "destroyed" is for ever, and is told from "not known yet" by comparing with the last id given.
//!
//! The answers that are compared are all of one block, since "not valid" before an activation and "already given" after it would together
//! read "destroyed". A node may still answer wrongly, so that one look refuses nothing: "destroyed" is looked at twice. And only an event,
//! proven, makes it permanent here.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, U256};
use alloy::sol_types::SolCall;
use kms_chain::contracts::b::ProtocolConfig;
use kms_chain::extra_data::ExtraData;
use kms_chain::finality::Finality;
use kms_chain::release::Release;
use kms_chain::rpc::{BlockId, CallRequest, Rpc};
use kms_chain::views::read_view;
use kms_runtime::stage::{Answered, Reach};
use kms_schemas::identity::RequestId;

use crate::chains::ETHEREUM;
use crate::codes;
use crate::error::Trouble;
use crate::patience::Budget;

/// The context of a request that names none, or whose release has no contexts, is not looked at.
///
/// # Errors
/// [`Trouble::Permanent`]: the bytes are no extra data of any version.
pub fn named(release: Release, extra_data: &[u8]) -> Result<ExtraData, Trouble> {
    if !release.contexts_in_responses() {
        return Ok(ExtraData::None);
    }
    ExtraData::parse(extra_data).map_err(|error| Trouble::permanent(codes::EXTRA_DATA_MALFORMED, error.to_string()))
}

/// States of contexts and epochs. Shared by all lanes.
#[derive(Debug)]
pub struct Contexts {
    rpc: Rpc,
    protocol_config: Address,
    finality: Finality,
    release: Release,
    refresh: Duration,
    second_look: Duration,
    known: Mutex<Known>,
}

/// What is remembered. Only ids that the chain has given are, so that nobody can fill it.
#[derive(Debug, Default)]
struct Known {
    destroyed_contexts: HashSet<RequestId>,
    destroyed_epochs: HashSet<RequestId>,
    valid: HashMap<Named, Instant>,
    /// What looked destroyed once.
    suspected: HashMap<Named, Suspicion>,
}

/// A context, and an epoch if one is named.
type Named = (RequestId, Option<RequestId>);

/// When something first looked destroyed.
#[derive(Clone, Copy, Debug)]
struct Suspicion {
    code: &'static str,
    block: u64,
    at: Instant,
}

/// Valid pairs that are remembered at once; there are as many as committees and epochs in use.
const MAX_VALID: usize = 1024;

/// Suspicions that are remembered at once. Who asks can name any epoch.
const MAX_SUSPECTED: usize = 1024;

/// What looks destroyed is looked at again after so long: enough for another node to be asked, or for this one to have caught up.
pub(crate) const SECOND_LOOK: Duration = Duration::from_secs(1);

/// A first look that is older counts no more.
const FORGET_SUSPICION: Duration = Duration::from_secs(60);

/// Looks at one request before the chain counts as unreadable.
const MAX_LOOKS: usize = 4;

/// What follows from one more look at what seems destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Confirmation {
    Confirmed,
    LookAgain(Duration),
}

/// What follows from the contract's answers.
type Judge = fn(RequestId, Option<RequestId>, Stated) -> Result<(), Trouble>;

/// What `ProtocolConfig` says of a context and an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stated {
    context_valid: bool,
    /// Pending, created or active.
    context_live: bool,
    /// The last context id given.
    last_context: U256,
    /// The epoch that is current, and whether the named one is valid; none where none is named.
    epoch: Option<EpochStated>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EpochStated {
    valid: bool,
    current: U256,
}

impl Contexts {
    /// Reads `protocol_config` at the block that is final. A valid state is used for `refresh` before it is read again.
    #[must_use]
    pub fn new(rpc: Rpc, protocol_config: Address, finality: Finality, release: Release, refresh: Duration) -> Self {
        let second_look = SECOND_LOOK;
        Self { rpc, protocol_config, finality, release, refresh, second_look, known: Mutex::default() }
    }

    /// The context, proven to be destroyed, and its epochs are served no more.
    pub fn context_destroyed(&self, context: RequestId) {
        let mut known = self.lock();
        known.valid.retain(|(of, _), _| *of != context);
        known.destroyed_contexts.insert(context);
    }

    /// The epoch, proven to be destroyed, is served no more.
    pub fn epoch_destroyed(&self, epoch: RequestId) {
        let mut known = self.lock();
        known.valid.retain(|(_, of), _| *of != Some(epoch));
        known.destroyed_epochs.insert(epoch);
    }

    /// Whether what the request names may be served.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] for what is destroyed, [`Trouble::Waits`] for what is not there yet, [`Trouble::Outage`].
    pub async fn check(&self, named: ExtraData, answered: &Answered) -> Result<(), Trouble> {
        let Some(context) = named.context() else { return Ok(()) };
        // v0.13 has no epochs: what stands there is of a later release.
        let epoch = named.epoch().filter(|_| self.release.epochs());
        if let Some(verdict) = self.remembered(context, epoch, Instant::now()) {
            return verdict;
        }
        let asked = Instant::now();
        let verdict = self.look(context, epoch, judge, answered).await;
        if verdict.is_ok() {
            self.lock().valid_at((context, epoch), asked);
        }
        verdict
    }

    /// Whether the context, or the epoch of the context, may still be made: it is not destroyed, as far as an event or a view tells. (No
    /// view tells a pending epoch from one that was destroyed while it was pending.)
    ///
    /// # Errors
    /// As [`Self::check`].
    pub async fn check_creation(
        &self,
        context: RequestId,
        epoch: Option<RequestId>,
        answered: &Answered,
    ) -> Result<(), Trouble> {
        if let Some(destroyed) = self.lock().destroyed(context, epoch) {
            return Err(destroyed);
        }
        self.look(context, epoch, judge_creation, answered).await
    }

    /// What follows from the contract's answers by `judge`, of which "destroyed" needs two looks.
    async fn look(
        &self,
        context: RequestId,
        epoch: Option<RequestId>,
        judge: Judge,
        answered: &Answered,
    ) -> Result<(), Trouble> {
        for _ in 0..MAX_LOOKS {
            let (block, stated) = self.read(context, epoch).await?;
            answered.by(ETHEREUM);
            let verdict = judge(context, epoch, stated);
            let code = match &verdict {
                Err(Trouble::Permanent { code, .. }) => *code,
                _ => {
                    self.lock().suspected.remove(&(context, epoch));
                    return verdict;
                }
            };
            let suspicion = Suspicion { code, block, at: Instant::now() };
            let confirmation = self.lock().suspect((context, epoch), suspicion, self.second_look);
            match confirmation {
                Confirmation::Confirmed => return verdict,
                Confirmation::LookAgain(pause) => tokio::time::sleep(pause).await,
            }
        }
        Err(self.outage(&format!("context {context} looks destroyed, and no second look confirms it")))
    }

    fn remembered(&self, context: RequestId, epoch: Option<RequestId>, now: Instant) -> Option<Result<(), Trouble>> {
        let known = self.lock();
        if let Some(destroyed) = known.destroyed(context, epoch) {
            return Some(Err(destroyed));
        }
        let read = known.valid.get(&(context, epoch))?;
        (now.saturating_duration_since(*read) < self.refresh).then_some(Ok(()))
    }

    fn outage(&self, text: &str) -> Trouble {
        Trouble::Outage {
            code: codes::ETHEREUM_UNREADABLE,
            dependency: ETHEREUM,
            // Only requests that name a context which was not read lately need it.
            reach: Reach::Some,
            text: format!("contexts cannot be read from ProtocolConfig at {}: {text}", self.protocol_config),
        }
    }

    /// What the contract states at the block that is final now, and the number of that block.
    async fn read(&self, context: RequestId, epoch: Option<RequestId>) -> Result<(u64, Stated), Trouble> {
        let outage = |text: String| self.outage(&text);
        let block = self.finality.resolve(&self.rpc).await.map_err(|error| outage(error.to_string()))?;
        let block = block.ok_or_else(|| outage(format!("there is no block yet that is {}", self.finality)))?.number();
        let id = context.as_u256();
        let mut calls = vec![ProtocolConfig::isValidKmsContextCall { kmsContextId: id }.abi_encode()];
        if self.release.epochs() {
            calls.push(ProtocolConfig::isLiveKmsContextCall { kmsContextId: id }.abi_encode());
            calls.push(ProtocolConfig::getCurrentKmsContextIdCounterCall {}.abi_encode());
        } else {
            // A context of v0.13 is active at once: the current one is the last.
            calls.push(ProtocolConfig::isValidKmsContextCall { kmsContextId: id }.abi_encode());
            calls.push(ProtocolConfig::getCurrentKmsContextIdCall {}.abi_encode());
        }
        if let Some(epoch) = epoch {
            let call = ProtocolConfig::isValidEpochForContextCall { kmsContextId: id, epochId: epoch.as_u256() };
            calls.push(call.abi_encode());
            calls.push(ProtocolConfig::getCurrentKmsContextAndEpochCall {}.abi_encode());
        }
        let requests: Vec<CallRequest> =
            calls.into_iter().map(|data| CallRequest::view(self.protocol_config, data)).collect();
        // Not asked of a node that does not have the block yet.
        let asked = self.rpc.needing(block);
        let answers =
            asked.calls(&requests, BlockId::number(block)).await.map_err(|error| outage(error.to_string()))?;
        let mut answers = answers.into_iter();
        let mut next = || match answers.next() {
            Some(Ok(bytes)) => Ok(bytes),
            Some(Err(error)) => Err(outage(error.to_string())),
            None => Err(outage("an answer is missing".to_owned())),
        };
        let contract = self.protocol_config;
        let context_valid = bool_of::<ProtocolConfig::isValidKmsContextCall>(contract, &next()?).map_err(outage)?;
        let context_live = bool_of::<ProtocolConfig::isLiveKmsContextCall>(contract, &next()?).map_err(outage)?;
        let last_context = read_view::<ProtocolConfig::getCurrentKmsContextIdCounterCall>(contract, &next()?)
            .map_err(|error| outage(error.to_string()))?;
        let epoch = match epoch {
            None => None,
            Some(_) => {
                let valid =
                    bool_of::<ProtocolConfig::isValidEpochForContextCall>(contract, &next()?).map_err(outage)?;
                let pair = read_view::<ProtocolConfig::getCurrentKmsContextAndEpochCall>(contract, &next()?)
                    .map_err(|error| outage(error.to_string()))?;
                Some(EpochStated { valid, current: pair.epochId })
            }
        };
        Ok((block, Stated { context_valid, context_live, last_context, epoch }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Known {
    /// What an event said of these.
    fn destroyed(&self, context: RequestId, epoch: Option<RequestId>) -> Option<Trouble> {
        if self.destroyed_contexts.contains(&context) {
            return Some(context_destroyed(context));
        }
        let epoch = epoch.filter(|epoch| self.destroyed_epochs.contains(epoch))?;
        Some(epoch_destroyed(context, epoch))
    }

    /// The chain, asked at this time, states that this is valid.
    fn valid_at(&mut self, named: Named, asked: Instant) {
        if self.valid.len() >= MAX_VALID {
            self.valid.clear();
        }
        self.valid.insert(named, asked);
    }

    /// This looks destroyed. It is confirmed by an earlier look that said the same, `pause` ago or more, at this block or below.
    fn suspect(&mut self, named: Named, now: Suspicion, pause: Duration) -> Confirmation {
        self.valid.remove(&named);
        if let Some(first) = self.suspected.get(&named)
            && first.code == now.code
            && first.block <= now.block
        {
            let ago = now.at.saturating_duration_since(first.at);
            if ago < pause {
                return Confirmation::LookAgain(pause - ago);
            }
            if ago < FORGET_SUSPICION {
                return Confirmation::Confirmed;
            }
        }
        if self.suspected.len() >= MAX_SUSPECTED {
            self.suspected.clear();
        }
        self.suspected.insert(named, now);
        Confirmation::LookAgain(pause)
    }
}

fn bool_of<C: SolCall<Return = bool>>(contract: Address, answer: &[u8]) -> Result<bool, String> {
    read_view::<C>(contract, answer).map_err(|error| error.to_string())
}

/// What follows from the contract's answers.
fn judge(context: RequestId, epoch: Option<RequestId>, stated: Stated) -> Result<(), Trouble> {
    let waits = |code, text| Err(Trouble::waits(Budget::Context, code, text));
    if !stated.context_valid {
        if stated.context_live {
            return waits(codes::CONTEXT_PENDING, format!("context {context} is not active yet"));
        }
        if context.as_u256() > stated.last_context {
            return waits(codes::CONTEXT_UNKNOWN, format!("context {context} was not made yet, as far as is final"));
        }
        return Err(context_destroyed(context));
    }
    let (Some(epoch), Some(of_epoch)) = (epoch, stated.epoch) else { return Ok(()) };
    if of_epoch.valid {
        return Ok(());
    }
    // Epochs become active in the order of their ids, one at a time: what is not valid up to the current one was destroyed, or is another
    // context's, and neither will change.
    if epoch.as_u256() <= of_epoch.current {
        return Err(epoch_destroyed(context, epoch));
    }
    waits(codes::EPOCH_NOT_ACTIVE, format!("epoch {epoch} of context {context} is not active yet, as far as is final"))
}

/// What follows for what is to be made.
fn judge_creation(context: RequestId, epoch: Option<RequestId>, stated: Stated) -> Result<(), Trouble> {
    if !stated.context_live {
        if context.as_u256() > stated.last_context {
            let text = format!("context {context} was not made yet, as far as is final");
            return Err(Trouble::waits(Budget::Context, codes::CONTEXT_UNKNOWN, text));
        }
        return Err(context_destroyed(context));
    }
    // As below the current one in `judge`.
    match (epoch, stated.epoch) {
        (Some(epoch), Some(of_epoch)) if !of_epoch.valid && epoch.as_u256() <= of_epoch.current => {
            Err(epoch_destroyed(context, epoch))
        }
        _ => Ok(()),
    }
}

pub(crate) fn context_destroyed(context: RequestId) -> Trouble {
    Trouble::permanent(codes::CONTEXT_DESTROYED, format!("context {context} is destroyed: nobody serves it any more"))
}

pub(crate) fn epoch_destroyed(context: RequestId, epoch: RequestId) -> Trouble {
    Trouble::permanent(
        codes::EPOCH_DESTROYED,
        format!("epoch {epoch} of context {context} is destroyed, or was never one of this context"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::{MockChain, word};

    fn id(tag: u8, low: u64) -> RequestId {
        let tag: U256 = U256::from(tag) << 248;
        RequestId::from(tag | U256::from(low))
    }

    fn stated(context_valid: bool, context_live: bool, epoch: Option<(bool, u64)>) -> Stated {
        let epoch = epoch.map(|(valid, current)| EpochStated { valid, current: id(8, current).as_u256() });
        Stated { context_valid, context_live, last_context: id(7, 5).as_u256(), epoch }
    }

    #[test]
    fn a_context_is_valid_pending_destroyed_or_not_known_yet() {
        let code = |context, stated| judge(context, None, stated).err().map(|trouble| trouble.code());
        assert_eq!(code(id(7, 3), stated(true, true, None)), None);
        assert_eq!(code(id(7, 5), stated(false, true, None)), Some(codes::CONTEXT_PENDING));
        assert_eq!(code(id(7, 3), stated(false, false, None)), Some(codes::CONTEXT_DESTROYED));
        assert_eq!(code(id(7, 0), stated(false, false, None)), Some(codes::CONTEXT_DESTROYED), "never a context");
        assert_eq!(code(id(7, 6), stated(false, false, None)), Some(codes::CONTEXT_UNKNOWN));
    }

    #[test]
    fn an_epoch_is_valid_destroyed_or_not_active_yet() {
        let outcome = |low, of_epoch| judge(id(7, 3), Some(id(8, low)), stated(true, true, Some(of_epoch)));
        assert_eq!(outcome(4, (true, 4)), Ok(()));
        let permanent = |outcome: Result<(), Trouble>| match outcome {
            Err(Trouble::Permanent { code, .. }) => Some(code),
            _ => None,
        };
        assert_eq!(permanent(outcome(3, (false, 4))), Some(codes::EPOCH_DESTROYED));
        assert_eq!(permanent(outcome(4, (false, 4))), Some(codes::EPOCH_DESTROYED), "another context's");
        assert!(matches!(
            outcome(5, (false, 4)),
            Err(Trouble::Waits { budget: Budget::Context, code: codes::EPOCH_NOT_ACTIVE, .. })
        ));
    }

    #[test]
    fn what_is_to_be_made_is_open_until_it_is_destroyed() {
        let outcome = |context, epoch: Option<u64>, stated| {
            let epoch = epoch.map(|low| id(8, low));
            judge_creation(context, epoch, stated).err().map(|trouble| trouble.code())
        };
        for context_valid in [true, false] {
            assert_eq!(outcome(id(7, 5), None, stated(context_valid, true, None)), None);
            let above_the_current = stated(context_valid, true, Some((false, 4)));
            assert_eq!(outcome(id(7, 5), Some(5), above_the_current), None, "pending");
        }
        assert_eq!(outcome(id(7, 5), Some(4), stated(true, true, Some((true, 4)))), None, "active by now");
        assert_eq!(outcome(id(7, 5), Some(4), stated(true, true, Some((false, 4)))), Some(codes::EPOCH_DESTROYED));
        assert_eq!(outcome(id(7, 5), None, stated(false, false, None)), Some(codes::CONTEXT_DESTROYED));
        assert_eq!(outcome(id(7, 5), Some(9), stated(false, false, Some((false, 4)))), Some(codes::CONTEXT_DESTROYED));
        assert_eq!(
            outcome(id(7, 6), None, stated(false, false, None)),
            Some(codes::CONTEXT_UNKNOWN),
            "a node is behind"
        );
    }

    #[test]
    fn extra_data_is_opaque_up_to_v0_11_and_refused_when_malformed_afterwards() {
        assert_eq!(named(Release::V0_11, &[9, 9]), Ok(ExtraData::None));
        for release in [Release::V0_12, Release::V0_13, Release::V0_14, Release::V0_15] {
            assert_eq!(named(release, &[]), Ok(ExtraData::None));
            assert_eq!(named(release, &[0, 1]), Ok(ExtraData::None));
            for bytes in [&[3][..], &[1; 32], &[2; 64], &[1, 0, 0]] {
                let refused = named(release, bytes).unwrap_err();
                assert!(matches!(refused, Trouble::Permanent { code: codes::EXTRA_DATA_MALFORMED, .. }), "{refused}");
            }
        }
    }

    const PROTOCOL_CONFIG: Address = Address::repeat_byte(0xc1);

    fn contexts(chain: &MockChain, refresh: Duration) -> Contexts {
        let contexts = Contexts::new(chain.rpc(), PROTOCOL_CONFIG, Finality::Finalized, Release::V0_15, refresh);
        Contexts { second_look: Duration::from_millis(20), ..contexts }
    }

    fn answer(chain: &MockChain, valid: bool, live: bool, epoch_valid: bool) {
        let flag = |flag: bool| word(U256::from(u8::from(flag)));
        chain.on_selector(ProtocolConfig::isValidKmsContextCall::SELECTOR, flag(valid));
        chain.on_selector(ProtocolConfig::isLiveKmsContextCall::SELECTOR, flag(live));
        chain.on_selector(ProtocolConfig::getCurrentKmsContextIdCounterCall::SELECTOR, word(id(7, 5).as_u256()));
        chain.on_selector(ProtocolConfig::isValidEpochForContextCall::SELECTOR, flag(epoch_valid));
        let pair = [word(id(7, 5).as_u256()), word(id(8, 4).as_u256())].concat();
        chain.on_selector(ProtocolConfig::getCurrentKmsContextAndEpochCall::SELECTOR, pair);
    }

    async fn check(contexts: &Contexts, named: ExtraData) -> Option<&'static str> {
        contexts.check(named, &Answered::unheard()).await.err().map(|trouble| trouble.code())
    }

    #[tokio::test]
    async fn a_valid_pair_is_read_once_in_one_request_at_the_final_block() {
        let chain = MockChain::start().await;
        answer(&chain, true, true, true);
        chain.is_final(98);
        let contexts = contexts(&chain, Duration::from_secs(60));
        let pair = ExtraData::ContextAndEpoch(id(7, 5), id(8, 4));
        assert_eq!(check(&contexts, pair).await, None);
        assert_eq!(check(&contexts, pair).await, None);
        assert_eq!(chain.posts_with("eth_call"), 1);
        assert_eq!(chain.blocks_asked(), ["0x62"; 5], "all of one block");
        assert_eq!(check(&contexts, ExtraData::None).await, None);
        assert_eq!(chain.posts_with("eth_call"), 1, "nothing named, nothing asked");
    }

    #[tokio::test]
    async fn what_is_destroyed_is_looked_at_twice_and_what_is_pending_again_and_again() {
        let chain = MockChain::start().await;
        answer(&chain, false, true, false);
        let contexts = contexts(&chain, Duration::from_secs(60));
        let named = ExtraData::Context(id(7, 4));
        assert_eq!(check(&contexts, named).await, Some(codes::CONTEXT_PENDING));
        assert_eq!(check(&contexts, named).await, Some(codes::CONTEXT_PENDING));
        assert_eq!(chain.posts_with("eth_call"), 2);
        answer(&chain, false, false, false);
        assert_eq!(check(&contexts, named).await, Some(codes::CONTEXT_DESTROYED));
        assert_eq!(chain.posts_with("eth_call"), 4, "two looks");
        assert_eq!(check(&contexts, named).await, Some(codes::CONTEXT_DESTROYED));
        assert_eq!(chain.posts_with("eth_call"), 5, "the next request's look confirms the first ones");
        answer(&chain, true, true, true);
        assert_eq!(check(&contexts, named).await, None, "views destroy nothing for ever");
    }

    #[tokio::test]
    async fn p1_one_answer_of_another_state_refuses_neither_a_context_nor_an_epoch() {
        for selector in
            [ProtocolConfig::isValidKmsContextCall::SELECTOR, ProtocolConfig::isValidEpochForContextCall::SELECTOR]
        {
            let chain = MockChain::start().await;
            answer(&chain, true, true, true);
            // Another node's, that has not seen the activation.
            chain.on_selector(ProtocolConfig::isLiveKmsContextCall::SELECTOR, word(U256::ZERO));
            let asked = std::sync::atomic::AtomicUsize::new(0);
            chain.on(selector, move |_| {
                let is_first = asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
                Ok(word(U256::from(u8::from(!is_first))))
            });
            let contexts = contexts(&chain, Duration::from_secs(60));
            let pair = ExtraData::ContextAndEpoch(id(7, 5), id(8, 4));
            assert_eq!(check(&contexts, pair).await, None);
            assert_eq!(chain.posts_with("eth_call"), 2);
            assert!(contexts.lock().suspected.is_empty());
            assert_eq!(check(&contexts, pair).await, None);
        }
    }

    #[tokio::test]
    async fn a_node_that_does_not_have_the_final_block_is_not_believed() {
        let chain = MockChain::start().await;
        answer(&chain, false, false, false);
        // Its head is at 100.
        chain.is_final(101);
        let contexts = contexts(&chain, Duration::ZERO);
        let outcome = contexts.check(ExtraData::Context(id(7, 4)), &Answered::unheard()).await;
        assert!(matches!(outcome, Err(Trouble::Outage { code: codes::ETHEREUM_UNREADABLE, .. })), "{outcome:?}");
    }

    #[test]
    fn only_a_later_look_at_the_same_block_or_above_confirms_and_not_for_ever() {
        let (named, pause, begin) = ((id(7, 4), None), Duration::from_secs(1), Instant::now());
        let look = |code, block, after: u64| Suspicion { code, block, at: begin + Duration::from_millis(after) };
        let (context, epoch) = (codes::CONTEXT_DESTROYED, codes::EPOCH_DESTROYED);
        let again = |millis| Confirmation::LookAgain(Duration::from_millis(millis));
        let suspect = |second: Suspicion| {
            let mut known = Known::default();
            assert_eq!(known.suspect(named, look(context, 10, 0), pause), again(1_000));
            known.suspect(named, second, pause)
        };
        assert_eq!(suspect(look(context, 10, 1_000)), Confirmation::Confirmed);
        assert_eq!(suspect(look(context, 12, 1_500)), Confirmation::Confirmed);
        assert_eq!(suspect(look(context, 10, 400)), again(600), "too early");
        assert_eq!(suspect(look(context, 9, 1_500)), again(1_000), "a block below");
        assert_eq!(suspect(look(epoch, 10, 1_500)), again(1_000), "something else");
        assert_eq!(suspect(look(context, 10, 60_000)), again(1_000), "too long ago");
        let mut known = Known::default();
        known.suspect(named, look(context, 10, 0), pause);
        known.suspected.remove(&named);
        assert_eq!(known.suspect(named, look(context, 10, 1_500), pause), again(1_000), "it lived in between");
    }

    #[test]
    fn p6_suspicions_are_bounded() {
        let mut known = Known::default();
        for low in 0..3_000 {
            let named = (id(7, 5), Some(id(8, low)));
            let suspicion = Suspicion { code: codes::EPOCH_DESTROYED, block: 1, at: Instant::now() };
            known.suspect(named, suspicion, Duration::ZERO);
        }
        assert!(known.suspected.len() <= MAX_SUSPECTED);
    }

    #[tokio::test]
    async fn what_an_event_says_is_destroyed_is_refused_at_once_without_asking() {
        let chain = MockChain::start().await;
        answer(&chain, true, true, true);
        let contexts = contexts(&chain, Duration::from_secs(60));
        let pair = ExtraData::ContextAndEpoch(id(7, 5), id(8, 3));
        assert_eq!(check(&contexts, pair).await, None);
        contexts.epoch_destroyed(id(8, 3));
        assert_eq!(check(&contexts, pair).await, Some(codes::EPOCH_DESTROYED));
        let other = ExtraData::ContextAndEpoch(id(7, 5), id(8, 4));
        assert_eq!(check(&contexts, other).await, None);
        contexts.context_destroyed(id(7, 5));
        assert_eq!(check(&contexts, other).await, Some(codes::CONTEXT_DESTROYED));
        assert_eq!(chain.posts_with("eth_call"), 2);
    }

    #[tokio::test]
    async fn what_is_to_be_made_is_not_valid_by_that_and_destroyed_only_by_an_event_or_two_looks() {
        let chain = MockChain::start().await;
        answer(&chain, false, true, false);
        let contexts = contexts(&chain, Duration::from_secs(60));
        let making = async |context, epoch| {
            contexts.check_creation(context, epoch, &Answered::unheard()).await.err().map(|trouble| trouble.code())
        };
        assert_eq!(making(id(7, 5), None).await, None);
        assert_eq!(making(id(7, 5), Some(id(8, 5))).await, None);
        let named = ExtraData::ContextAndEpoch(id(7, 5), id(8, 5));
        assert_eq!(check(&contexts, named).await, Some(codes::CONTEXT_PENDING), "nobody may use it yet");
        answer(&chain, false, false, false);
        let before = chain.posts_with("eth_call");
        assert_eq!(making(id(7, 4), None).await, Some(codes::CONTEXT_DESTROYED));
        assert_eq!(chain.posts_with("eth_call") - before, 2, "two looks");
        answer(&chain, true, true, false);
        assert_eq!(making(id(7, 5), Some(id(8, 5))).await, None);
        contexts.epoch_destroyed(id(8, 5));
        assert_eq!(making(id(7, 5), Some(id(8, 5))).await, Some(codes::EPOCH_DESTROYED));
        assert_eq!(making(id(7, 5), Some(id(8, 6))).await, None);
        contexts.context_destroyed(id(7, 5));
        assert_eq!(making(id(7, 5), Some(id(8, 6))).await, Some(codes::CONTEXT_DESTROYED));
    }

    #[tokio::test]
    async fn an_outage_or_an_answer_of_no_contract_is_never_a_verdict() {
        let chain = MockChain::start().await;
        let contexts = contexts(&chain, Duration::ZERO);
        let named = ExtraData::Context(id(7, 4));
        // No such contract: every answer is empty.
        let outcome = contexts.check(named, &Answered::unheard()).await;
        assert!(matches!(outcome, Err(Trouble::Outage { code: codes::ETHEREUM_UNREADABLE, .. })), "{outcome:?}");
        chain.break_down(true);
        let outcome = contexts.check(named, &Answered::unheard()).await;
        assert!(matches!(outcome, Err(Trouble::Outage { code: codes::ETHEREUM_UNREADABLE, .. })), "{outcome:?}");
        chain.break_down(false);
        answer(&chain, true, true, true);
        assert_eq!(check(&contexts, named).await, None);
    }
}
