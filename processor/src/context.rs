//! Whether the KMS context and epoch that a request names may be served, as `ProtocolConfig` on the Ethereum host chain says
//! (`docs/protocol.md`, "Extra data").
//!
//! Read at the configured finality, since a context that a reorganisation takes back never was. The ids count up and are never used again,
//! so that "destroyed" is for ever, and is told from "not known yet" by comparing with the last id given.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use alloy::primitives::{Address, U256};
use alloy::sol_types::SolCall;
use kms_chain::contracts::b::ProtocolConfig;
use kms_chain::extra_data::ExtraData;
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
    block: BlockId,
    release: Release,
    refresh: Duration,
    known: Mutex<Known>,
}

/// What is remembered. Only ids that the chain has given are, so that nobody can fill it.
#[derive(Debug, Default)]
struct Known {
    destroyed_contexts: HashSet<RequestId>,
    destroyed_epochs: HashSet<RequestId>,
    valid: HashMap<(RequestId, Option<RequestId>), Instant>,
}

/// Valid pairs that are remembered at once; there are as many as committees and epochs in use.
const MAX_VALID: usize = 1024;

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
    /// Reads `protocol_config` at `block` (a tag). A state is used for `refresh` before it is read again.
    #[must_use]
    pub fn new(rpc: Rpc, protocol_config: Address, block: BlockId, release: Release, refresh: Duration) -> Self {
        Self { rpc, protocol_config, block, release, refresh, known: Mutex::default() }
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
        let stated = self.read(context, epoch).await?;
        answered.by(ETHEREUM);
        let verdict = judge(context, epoch, stated);
        let mut known = self.lock();
        match &verdict {
            Ok(()) => {
                if known.valid.len() >= MAX_VALID {
                    known.valid.clear();
                }
                known.valid.insert((context, epoch), asked);
            }
            Err(Trouble::Permanent { code: codes::CONTEXT_DESTROYED, .. }) => {
                known.destroyed_contexts.insert(context);
            }
            Err(_) => {}
        }
        verdict
    }

    fn remembered(&self, context: RequestId, epoch: Option<RequestId>, now: Instant) -> Option<Result<(), Trouble>> {
        let known = self.lock();
        if known.destroyed_contexts.contains(&context) {
            return Some(Err(context_destroyed(context)));
        }
        if let Some(epoch) = epoch.filter(|epoch| known.destroyed_epochs.contains(epoch)) {
            return Some(Err(epoch_destroyed(context, epoch)));
        }
        let read = known.valid.get(&(context, epoch))?;
        (now.saturating_duration_since(*read) < self.refresh).then_some(Ok(()))
    }

    async fn read(&self, context: RequestId, epoch: Option<RequestId>) -> Result<Stated, Trouble> {
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
        let outage = |text: String| Trouble::Outage {
            code: codes::ETHEREUM_UNREADABLE,
            dependency: ETHEREUM,
            // Only requests that name a context which was not read lately need it.
            reach: Reach::Some,
            text: format!("contexts cannot be read from ProtocolConfig at {}: {text}", self.protocol_config),
        };
        let answers = self.rpc.calls(&requests, self.block).await.map_err(|error| outage(error.to_string()))?;
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
        Ok(Stated { context_valid, context_live, last_context, epoch })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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

fn context_destroyed(context: RequestId) -> Trouble {
    Trouble::permanent(codes::CONTEXT_DESTROYED, format!("context {context} is destroyed: nobody serves it any more"))
}

fn epoch_destroyed(context: RequestId, epoch: RequestId) -> Trouble {
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
        Contexts::new(chain.rpc(), PROTOCOL_CONFIG, BlockId::finalized(), Release::V0_15, refresh)
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
        let contexts = contexts(&chain, Duration::from_secs(60));
        let pair = ExtraData::ContextAndEpoch(id(7, 5), id(8, 4));
        assert_eq!(check(&contexts, pair).await, None);
        assert_eq!(check(&contexts, pair).await, None);
        assert_eq!(chain.posts_with("eth_call"), 1);
        assert!(chain.blocks_asked().iter().all(|block| block == "finalized"), "{:?}", chain.blocks_asked());
        assert_eq!(check(&contexts, ExtraData::None).await, None);
        assert_eq!(chain.posts_with("eth_call"), 1, "nothing named, nothing asked");
    }

    #[tokio::test]
    async fn a_destroyed_context_is_remembered_and_a_pending_one_asked_for_again() {
        let chain = MockChain::start().await;
        answer(&chain, false, true, false);
        let contexts = contexts(&chain, Duration::from_secs(60));
        let named = ExtraData::Context(id(7, 4));
        assert_eq!(check(&contexts, named).await, Some(codes::CONTEXT_PENDING));
        answer(&chain, false, false, false);
        assert_eq!(check(&contexts, named).await, Some(codes::CONTEXT_DESTROYED));
        answer(&chain, true, true, true);
        assert_eq!(check(&contexts, named).await, Some(codes::CONTEXT_DESTROYED), "there is no way back");
        assert_eq!(chain.posts_with("eth_call"), 2);
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
