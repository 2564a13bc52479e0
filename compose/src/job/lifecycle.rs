//! The requests that are no decryptions: every operation of the generation, in an order in which each can succeed.
//!
//! ```text
//!  (a)  PRSS, key, CRS ──▶ same-set resharing ──▶ decryptions
//!  (b)  key, CRS ──▶ aborted key, aborted CRS ──▶ [epoch ──▶ context with epoch] ──▶ decryptions ──▶ [destroyed epoch, context]
//!                                                  └──────────── threshold KMS only ────────────────────────────────┘
//! ```

use std::time::{Duration, Instant};

use alloy::primitives::{Address, Bytes, U256};
use futures::future::try_join_all;
use kms_chain::contracts::b::GatewayConfig;
use kms_chain::extra_data::ExtraData;
use kms_schemas::identity::{Identity, Kind, RequestId};

use super::load::chain_error;
use super::observer::{ChainView, Observer};
use super::watch::through;
use crate::contracts::{ContextDefinition, NewRequest, Pace, Requester};
use crate::description::Description;
use crate::error::StackError;
use crate::simulator::{ControlClient, ControlError, Operation};
use crate::stack::Generation;

/// Bits of the CRS.
const CRS_BITS: u64 = 2048;
/// Bits of the CRS whose generation is aborted.
const ABORTED_CRS_BITS: u64 = 1024;
/// How often the simulators are asked what they have heard.
const LOOK: Duration = Duration::from_millis(50);
/// `ParamsType` test.
const TEST_PARAMS: u8 = 1;

/// What the decryptions are made under.
#[derive(Clone, Debug)]
pub(super) struct Lifecycle {
    /// The key.
    pub(super) key_id: RequestId,
    /// What decryption requests name as their context, one after the other.
    pub(super) extra_data: Vec<Bytes>,
    /// What is over once the decryptions are: an epoch and a context that were replaced.
    retired: Option<(RequestId, RequestId)>,
}

/// Fewest requests of a run: every operation of the generation, and one decryption.
pub(super) const fn least_requests(generation: Generation, nodes: usize) -> u32 {
    match (generation, nodes) {
        (Generation::A, _) => 6,
        (Generation::B, 1) => 9,
        (Generation::B, _) => 14,
    }
}

/// Makes the requests around the decryptions, and waits for each to have its answers.
pub(super) struct Director<'a> {
    pub(super) stack: &'a Description,
    pub(super) requester: &'a Requester,
    pub(super) observer: &'a Observer,
    pub(super) patience: Duration,
}

impl Director<'_> {
    /// Everything that comes before the decryptions.
    pub(super) async fn open(&self) -> Result<Lifecycle, StackError> {
        let key_id = match self.stack.generation {
            Generation::A => {
                self.ensure(Kind::PrssInit, 1, || NewRequest::PrssInit).await?;
                let key_id = self.key_material().await?;
                self.ensure(Kind::KeyReshareSameSet, 1, || NewRequest::KeyReshareSameSet { key_id }).await?;
                self.seen("the resharing of the key", Kind::KeyReshareSameSet, 1).await?;
                return Ok(Lifecycle { key_id, extra_data: vec![Bytes::new()], retired: None });
            }
            Generation::B => self.key_material().await?,
        };
        self.aborted().await?;
        let (mut context, mut epoch) = (first(7), first(8));
        let mut retired = None;
        if self.stack.nodes.len() > 1 {
            self.ensure(Kind::NewKmsEpoch, 1, || NewRequest::NewEpoch).await?;
            let second = self.answered("the new epoch", Kind::NewKmsEpoch, 1).await?;
            let definition = || Box::new(self.stack.deployment().context());
            // The first context is the genesis, which is nobody's to answer.
            self.ensure(Kind::NewKmsContext, 2, || NewRequest::NewContextAndEpoch(definition())).await?;
            let new_context = self.answered("the new context", Kind::NewKmsContext, 2).await?;
            self.copy_context(new_context, definition()).await?;
            let third = self.answered("the new context's epoch", Kind::NewKmsEpoch, 2).await?;
            retired = (self.count(Kind::KmsContextDestroyed) == 0).then_some((second, context));
            (context, epoch) = (new_context, third);
        }
        let named = [
            ExtraData::None.to_bytes(),
            ExtraData::Context(context).to_bytes(),
            ExtraData::ContextAndEpoch(context, epoch).to_bytes(),
        ];
        Ok(Lifecycle { key_id, extra_data: named.to_vec(), retired })
    }

    /// Tells the Gateway of a new context, unless it knows it already.
    async fn copy_context(&self, context_id: RequestId, definition: Box<ContextDefinition>) -> Result<(), StackError> {
        let gateway = self.requester.gateway();
        let current = GatewayConfig::getCurrentKmsContextIdCall {};
        let known = gateway.view(self.stack.contracts.gateway_config, &current).await.map_err(chain_error)?;
        if known == context_id.as_u256() {
            return Ok(());
        }
        self.submit(&[NewRequest::GatewayUpdateContext { context_id, definition }]).await
    }

    /// Requests that [`Self::close`] will make.
    pub(super) const fn closing(lifecycle: &Lifecycle) -> u32 {
        if lifecycle.retired.is_some() { 2 } else { 0 }
    }

    /// What comes after the last decryption has its answers.
    pub(super) async fn close(&self, lifecycle: &Lifecycle) -> Result<(), StackError> {
        let Some((epoch_id, context_id)) = lifecycle.retired else { return Ok(()) };
        self.ensure(Kind::KmsEpochDestroyed, 1, || NewRequest::DestroyEpoch { epoch_id }).await?;
        self.ensure(Kind::KmsContextDestroyed, 1, || NewRequest::DestroyContext { context_id }).await?;
        self.seen("the end of the context", Kind::KmsContextDestroyed, 1).await?;
        self.seen("the end of the epoch", Kind::KmsEpochDestroyed, 1).await
    }

    async fn key_material(&self) -> Result<RequestId, StackError> {
        // The request for the key is an event that follows the preprocessing.
        self.ensure(Kind::PrepKeygen, 1, || NewRequest::Keygen { params_type: TEST_PARAMS }).await?;
        self.ensure(Kind::Crsgen, 1, || crs(CRS_BITS)).await?;
        let key_id = self.answered("the key", Kind::Keygen, 1).await?;
        self.answered("the CRS", Kind::Crsgen, 1).await?;
        Ok(key_id)
    }

    /// A key and a CRS generation that the owner takes back while the cores are at work.
    async fn aborted(&self) -> Result<(), StackError> {
        if self.count(Kind::AbortKeygen) > 0 && self.count(Kind::AbortCrsgen) > 0 {
            // An earlier load that was cut here may have left the cores so.
            return self.hold(false).await;
        }
        self.hold(true).await?;
        self.ensure(Kind::PrepKeygen, 2, || NewRequest::Keygen { params_type: TEST_PARAMS }).await?;
        self.ensure(Kind::Crsgen, 2, || crs(ABORTED_CRS_BITS)).await?;
        let prep_keygen_id = self.nth("the key to abort", Kind::PrepKeygen, 2, |_, _, _| true).await?;
        let crs_id = self.nth("the CRS to abort", Kind::Crsgen, 2, |_, _, _| true).await?;
        self.ensure(Kind::AbortKeygen, 1, || NewRequest::AbortKeygen { prep_keygen_id }).await?;
        self.ensure(Kind::AbortCrsgen, 1, || NewRequest::AbortCrsgen { crs_id }).await?;
        self.seen("the abort of the key", Kind::AbortKeygen, 1).await?;
        self.seen("the abort of the CRS", Kind::AbortCrsgen, 1).await?;
        self.cores_have_heard(&["AbortKeyGen", "AbortCrsGen"]).await?;
        self.hold(false).await
    }

    /// Waits until each of these calls has reached every core.
    async fn cores_have_heard(&self, rpcs: &[&str]) -> Result<(), StackError> {
        let deadline = Instant::now() + self.patience;
        for (number, control) in self.controls() {
            loop {
                let calls = through(self.outage(), async || control.calls().await);
                let record = calls.await.map_err(core_error)?;
                if rpcs.iter().all(|rpc| record.count(rpc) > 0) {
                    break;
                }
                if Instant::now() >= deadline {
                    let text = format!("node {number}: no {} reached KMS Core", rpcs.join(" and no "));
                    return Err(StackError::Job(text));
                }
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(())
    }

    /// The nodes' simulators. A real KMS Core cannot be held; what is aborted is then done or not.
    fn controls(&self) -> impl Iterator<Item = (usize, ControlClient)> {
        self.stack.nodes.iter().filter_map(|node| Some((node.number, ControlClient::at(node.control.as_deref()?))))
    }

    /// Keeps every core's preprocessings and CRS generations from finishing, or lets them finish.
    async fn hold(&self, hold: bool) -> Result<(), StackError> {
        try_join_all(self.controls().map(async |(_, control)| {
            for operation in [Operation::Preprocessing, Operation::CrsGeneration] {
                let switch = async || {
                    if hold { control.hold(operation).await } else { control.release(operation).await }
                };
                through(self.outage(), switch).await?;
            }
            Ok(())
        }))
        .await
        .map(drop)
        .map_err(core_error)
    }

    fn outage(&self) -> Duration {
        self.observer.watch().outage()
    }

    /// How many requests of a kind the chain has shown.
    fn count(&self, kind: Kind) -> usize {
        self.observer.count(kind)
    }

    /// Makes the `nth` request (from 1) of a kind, unless it is on the chain already, made by an earlier load.
    async fn ensure(&self, kind: Kind, nth: usize, request: impl Fn() -> NewRequest) -> Result<(), StackError> {
        if self.count(kind) >= nth {
            return Ok(());
        }
        self.submit(&[request()]).await
    }

    async fn submit(&self, requests: &[NewRequest]) -> Result<(), StackError> {
        self.requester.submit(requests, Pace::AtOnce).await.map(drop).map_err(chain_error)
    }

    /// Waits until the chain shows the `nth` request (from 1) of a kind.
    async fn seen(&self, what: &str, kind: Kind, nth: usize) -> Result<(), StackError> {
        self.nth(what, kind, nth, |_, _, _| true).await.map(drop)
    }

    /// Waits until every node's answer to the `nth` request (from 1) of a kind is accepted, and tells the request's id.
    async fn answered(&self, what: &str, kind: Kind, nth: usize) -> Result<RequestId, StackError> {
        self.nth(what, kind, nth, ChainView::is_answered).await
    }

    async fn nth(
        &self,
        what: &str,
        kind: Kind,
        nth: usize,
        holds: impl Fn(&ChainView, &Identity, &[Address]) -> bool,
    ) -> Result<RequestId, StackError> {
        let wanted = |view: &ChainView, signers: &[Address]| {
            let identity = view.of_kind(kind).nth(nth - 1)?;
            holds(view, identity, signers).then_some(identity.id)
        };
        self.observer.wait_for(self.patience, wanted).await.ok_or_else(|| {
            StackError::Job(format!(
                "{what} ({kind}) had not what it waits for within {} s of the last sign of life; see the services' logs",
                self.patience.as_secs()
            ))
        })
    }
}

fn crs(max_bit_length: u64) -> NewRequest {
    NewRequest::Crsgen { max_bit_length: U256::from(max_bit_length), params_type: TEST_PARAMS }
}

fn core_error(error: ControlError) -> StackError {
    StackError::Job(format!("a KMS Core simulator: {error}"))
}

/// The first id that a counter with this tag gives (`docs/protocol.md`, "Request ids").
fn first(tag: u64) -> RequestId {
    RequestId::from((U256::from(tag) << 248) | U256::ONE)
}
