//! Creation of an epoch: `NewMpcEpoch`, then `GetEpochResult`. Every completed key is reshared into the epoch, every completed CRS
//! carried over, and each result signed anew.

use alloy::primitives::{Bytes, U256};
use kms_chain::extra_data::ExtraData;
use kms_chain::rpc::BlockId;
use kms_chain::views::{CompletedCrs, CompletedKey, ViewError};
use kms_proto::kms::v1 as core;
use kms_runtime::stage::Reach;
use kms_schemas::identity::RequestId;
use kms_schemas::record::{Answer, EpochCrs, EpochKey};
use tonic::{Request, Response, Status};

use super::{Work, context};
use crate::answer::{self, core_key_digests, expect_id, key_digests, malformed};
use crate::codes;
use crate::config::CoreVersion;
use crate::context::{context_destroyed, epoch_destroyed};
use crate::core::{Client, Ended, Operation, Reply, Starting, Timeouts, with_timeout};
use crate::core_request;
use crate::error::Trouble;
use crate::status::Class;

/// Arguments of `NewKmsEpoch`.
#[derive(Clone, Copy, Debug)]
pub struct NewEpoch {
    /// The epoch.
    pub epoch_id: RequestId,
    /// Its context.
    pub context_id: RequestId,
    /// Context that is current until the activation.
    pub previous_context_id: RequestId,
    /// Epoch that is current until the activation.
    pub previous_epoch_id: RequestId,
    /// Block at which the completed keys and CRSs are read.
    pub material_block_number: U256,
}

/// What is carried into an epoch, in the contract's order.
#[derive(Clone, Debug)]
struct Material {
    keys: Vec<CompletedKey>,
    crs_list: Vec<CompletedCrs>,
}

/// Creates the epoch, and verifies the signature of every key and CRS in it. A node that is not of the epoch's context takes part, since
/// keys are reshared from those that it has, and confirms nothing: the contract would refuse it.
///
/// # Errors
/// As KMS Core, the chain and the check of the answer say.
pub async fn serve(work: &Work<'_>, epoch: NewEpoch) -> Result<Answer, Trouble> {
    work.core.version().has_since(CoreVersion::V0_14, "NewMpcEpoch with signed extra data")?;
    let material = material(work, epoch.material_block_number).await?;
    if material.keys.is_empty() || material.crs_list.is_empty() {
        let text = format!(
            "{} completed keys and {} completed CRSs at block {}",
            material.keys.len(),
            material.crs_list.len(),
            epoch.material_block_number
        );
        return Err(Trouble::permanent(codes::EPOCH_EMPTY, text));
    }
    refuse_centralized(work, epoch.epoch_id).await?;
    let confirms = context::has_this_node(work, epoch.context_id).await?;
    let message = message(work, epoch, &material)?;
    let operation = CreateEpoch { id: epoch.epoch_id, context_id: epoch.context_id, message };
    let response = match work.core.run(&operation, work.repeated, work.answered).await? {
        Ended::Result(response) => response,
        Ended::Aborted { by_chain: true, .. } if work.core.aborts().has(epoch.context_id) => {
            return Err(context_destroyed(epoch.context_id));
        }
        Ended::Aborted { by_chain: true, .. } => return Err(epoch_destroyed(epoch.context_id, epoch.epoch_id)),
        Ended::Aborted { text, .. } => return Err(Trouble::permanent(codes::CORE_ABORTED, text)),
    };
    if !confirms {
        tracing::info!(epoch = %epoch.epoch_id, context = %epoch.context_id, "made an epoch of a context without this node");
        return Ok(Answer::Done);
    }
    answer(work, epoch, &material, response)
}

/// A centralized KMS Core ends the calls about epochs in a panic, which would look like an outage for ever.
///
/// # Errors
/// [`Trouble::Permanent`] if it is one, or as KMS Core says.
pub(super) async fn refuse_centralized(work: &Work<'_>, epoch_id: RequestId) -> Result<(), Trouble> {
    let call = |mut client: Client, timeouts: Timeouts| async move {
        client.get_health_status(with_timeout(core::Empty {}, timeouts.start)).await
    };
    match work.core.call(("get_health_status", Class::Other), epoch_id, work.answered, call).await? {
        Reply::Done(health) if health.node_type() == core::NodeType::Centralized => {
            Err(Trouble::permanent(codes::CORE_CENTRALIZED, "a centralized KMS Core has no epochs"))
        }
        _ => Ok(()),
    }
}

/// Reads what was completed at the block that the event names: whatever was completed since is not part of the epoch.
async fn material(work: &Work<'_>, block_number: U256) -> Result<Material, Trouble> {
    let chain = work.generation()?;
    let number = u64::try_from(block_number)
        .map_err(|_| Trouble::permanent(codes::REQUEST_INVALID, format!("{block_number} is no block number")))?;
    let block = BlockId::number(number);
    let views = chain.kms_generation()?;
    let trouble = |error: ViewError| {
        let (code, text) = (codes::MATERIAL_UNREADABLE, format!("keys and CRSs of block {number}: {error}"));
        match chain.trouble(&error) {
            // As a node answers that does not keep the state of old blocks.
            Trouble::Outage { dependency, reach: Reach::Some, .. } => {
                Trouble::Outage { code, dependency, reach: Reach::Some, text }
            }
            Trouble::MayHeal { .. } => Trouble::may_heal(code, text),
            other => other,
        }
    };
    let mut keys = Vec::new();
    for id in views.completed_key_ids(block).await.map_err(trouble)? {
        keys.push(views.key(id, block).await.map_err(trouble)?);
    }
    let mut crs_list = Vec::new();
    for id in views.completed_crs_ids(block).await.map_err(trouble)? {
        crs_list.push(views.crs(id, block).await.map_err(trouble)?);
    }
    work.answered.by(chain.dependency);
    Ok(Material { keys, crs_list })
}

struct CreateEpoch {
    id: RequestId,
    context_id: RequestId,
    message: core::NewMpcEpochRequest,
}

impl Operation for CreateEpoch {
    type Result = core::EpochResultResponse;
    const NAME: &'static str = "new_mpc_epoch";
    const CLASS: Class = Class::Lifecycle;
    /// An epoch that lies in storage already is refused as invalid, like one whose material does not fit.
    const REFUSED_OR_THERE: Option<&'static str> = Some(codes::EPOCH_REFUSED);

    fn id(&self) -> RequestId {
        self.id
    }

    /// Either destruction ends it.
    fn abort_ids(&self) -> Vec<RequestId> {
        vec![self.id, self.context_id]
    }

    async fn start(&self, starting: Starting<'_>) -> Result<Result<(), Status>, Trouble> {
        Ok(starting.client().new_mpc_epoch(starting.request(self.message.clone())).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_epoch_result(request).await
    }
}

fn message(work: &Work<'_>, epoch: NewEpoch, material: &Material) -> Result<core::NewMpcEpochRequest, Trouble> {
    let keys_info = material.keys.iter().map(|key| {
        Ok(core::KeyInfo {
            key_id: Some(core_request::id(key.key_id)),
            preproc_id: Some(core_request::id(key.prep_keygen_id)),
            key_parameters: core_request::params(key.params_type)?.into(),
            key_digests: core_key_digests(&key.key_digests)?,
        })
    });
    let crs_info = material
        .crs_list
        .iter()
        .map(|crs| core::CrsInfo { crs_id: Some(core_request::id(crs.crs_id)), crs_digest: crs.crs_digest.to_vec() });
    Ok(core::NewMpcEpochRequest {
        context_id: Some(core_request::id(epoch.context_id)),
        epoch_id: Some(core_request::id(epoch.epoch_id)),
        previous_epoch: Some(core::PreviousEpochInfo {
            context_id: Some(core_request::id(epoch.previous_context_id)),
            epoch_id: Some(core_request::id(epoch.previous_epoch_id)),
            keys_info: keys_info.collect::<Result<_, Trouble>>()?,
            crs_info: crs_info.collect(),
        }),
        domain: Some(core_request::domain(work.verifier.protocol_config()?)),
        extra_data: ExtraData::ContextAndEpoch(epoch.context_id, epoch.epoch_id).to_bytes().to_vec(),
        signing_schemes: Vec::new(),
    })
}

/// Exactly the keys and CRSs of the chain, in the chain's order: the contract compares a hash over all of them in the order in
/// which they are given.
fn answer(
    work: &Work<'_>,
    epoch: NewEpoch,
    material: &Material,
    response: core::EpochResultResponse,
) -> Result<Answer, Trouble> {
    let domain = work.verifier.protocol_config()?;
    let place = (epoch.context_id, epoch.epoch_id);
    let mut reshared = response.reshare_responses;
    let mut keys = Vec::with_capacity(material.keys.len());
    for key in &material.keys {
        let result = take(&mut reshared, key.key_id, |result| result.request_id.as_ref(), "key")?;
        expect_id("preprocessing_id", result.preprocessing_id.as_ref(), key.prep_keygen_id)?;
        let key_digests = key_digests(result.key_digests)?;
        if key_digests != key.key_digests {
            // The chain decides by the agreement of all nodes; a node alone cannot tell which is right.
            tracing::warn!(key = %key.key_id, epoch = %epoch.epoch_id, "digests of a reshared key are not those on chain");
        }
        let digest = domain.epoch_key(place, key.prep_keygen_id, key.key_id, &key_digests);
        let signature = work.verifier.check(digest, result.external_signature)?;
        keys.push(EpochKey { prep_keygen_id: key.prep_keygen_id, key_id: key.key_id, key_digests, signature });
    }
    let mut carried = response.crs_responses;
    let mut crs_list = Vec::with_capacity(material.crs_list.len());
    for crs in &material.crs_list {
        let result = take(&mut carried, crs.crs_id, |result| result.request_id.as_ref(), "CRS")?;
        let crs_digest = Bytes::from(result.crs_digest);
        let max_bit_length = U256::from(result.max_num_bits);
        let digest = domain.epoch_crs(place, crs.crs_id, max_bit_length, &crs_digest);
        let signature = work.verifier.check(digest, result.external_signature)?;
        crs_list.push(EpochCrs { crs_id: crs.crs_id, max_bit_length, crs_digest, signature });
    }
    if !reshared.is_empty() || !carried.is_empty() {
        let text = format!("{} keys and {} CRSs that were not asked for", reshared.len(), carried.len());
        return Err(malformed(text));
    }
    Ok(Answer::EpochActivation { context_id: epoch.context_id, keys, crs_list })
}

pub(super) fn take<R>(
    results: &mut Vec<R>,
    id: RequestId,
    named: impl Fn(&R) -> Option<&core::RequestId>,
    what: &str,
) -> Result<R, Trouble> {
    let position = results.iter().position(|result| answer::expect_id("request_id", named(result), id).is_ok());
    position.map(|at| results.swap_remove(at)).ok_or_else(|| malformed(format!("the result lacks {what} {id}")))
}
