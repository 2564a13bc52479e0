//! Creation of a KMS context: `NewMpcContext`, first for the previous context, then for the new one. KMS Core needs both to
//! reshare keys from one to the other.

use kms_chain::event::{self, NO_CONTEXT};
use kms_chain::rpc::{CallError, LogQuery};
use kms_chain::views::ViewError;
use kms_proto::kms::v1 as core;
use kms_schemas::identity::{Kind, RequestId};
use kms_schemas::record::{Answer, KmsNodeParams, NewKmsContext, RawLog, RequestBody};

use super::Work;
use crate::codes;
use crate::config::CoreVersion;
use crate::context::context_destroyed;
use crate::core::{Client, Reply, Timeouts, with_timeout};
use crate::core_request;
use crate::error::Trouble;
use crate::status::Class;

/// Makes the context known to KMS Core. The very first one, which replaces none, is there already. A node that is neither of the new nor
/// of the previous context confirms nothing: the contract would refuse it.
///
/// # Errors
/// As KMS Core and the chain say; [`Trouble::Permanent`] for a context that was destroyed.
pub async fn serve(work: &Work<'_>, id: RequestId, context: &NewKmsContext) -> Result<Answer, Trouble> {
    if context.previous_context_id == NO_CONTEXT {
        return Ok(Answer::Done);
    }
    work.core.version().has_since(CoreVersion::V0_14, "NewMpcContext with signer addresses")?;
    let new = message(id, context)?;
    let previous = definition(work, context.previous_context_id).await?;
    create(work, context.previous_context_id, message(context.previous_context_id, &previous)?).await?;
    if work.core.aborts().has(id) {
        return Err(context_destroyed(id));
    }
    create(work, id, new).await?;
    if names_this_node(work, context) || names_this_node(work, &previous) {
        return Ok(Answer::KmsContextCreated);
    }
    tracing::info!(context = %id, "made a context known that is this node's neither before nor after");
    Ok(Answer::Done)
}

fn names_this_node(work: &Work<'_>, context: &NewKmsContext) -> bool {
    context.nodes.iter().any(|node| node.signer == work.verifier.signer)
}

/// Whether this node, by its signer, is one of the context's. No view tells it of a context that is not active yet; what defined it does.
///
/// # Errors
/// [`Trouble::Outage`] or [`Trouble::MayHeal`]: it cannot be told now.
pub(super) async fn has_this_node(work: &Work<'_>, id: RequestId) -> Result<bool, Trouble> {
    let chain = work.generation()?;
    match chain.protocol_config()?.kms_signers(id, chain.block).await {
        Ok(signers) => Ok(signers.contains(&work.verifier.signer)),
        Err(ViewError::Call { source: CallError::Reverted(_), .. }) => {
            Ok(names_this_node(work, &definition(work, id).await?))
        }
        Err(error) => Err(chain.trouble(&error)),
    }
}

/// Both contexts go to the shard of their own id, as the other connectors of the protocol do.
async fn create(work: &Work<'_>, id: RequestId, message: core::NewMpcContextRequest) -> Result<(), Trouble> {
    let call = |mut client: Client, timeouts: Timeouts| async move {
        client.new_mpc_context(with_timeout(message, timeouts.start)).await
    };
    match work.core.call(("new_mpc_context", Class::Lifecycle), id, work.answered, call).await? {
        Reply::Done(_) | Reply::AlreadyThere => Ok(()),
        Reply::NotFound(text) => Err(Trouble::may_heal(codes::CORE_NOT_READY, text)),
    }
}

/// Rebuilds a context from the log that defined it. The contract keeps the log's block and the hash of its data, so that a node
/// that serves another log is found out.
async fn definition(work: &Work<'_>, id: RequestId) -> Result<NewKmsContext, Trouble> {
    let chain = work.generation()?;
    let views = chain.protocol_config()?;
    let unknown = |text: String| Trouble::may_heal(codes::PREVIOUS_CONTEXT_UNKNOWN, text);
    let anchor = views.context_anchor(id, chain.block).await.map_err(|error| chain.trouble(&error))?;
    let anchor = anchor.ok_or_else(|| unknown(format!("context {id} has no anchor on chain")))?;
    let query = LogQuery {
        addresses: vec![views.contract()],
        topics: chain.contracts.request_topics(),
        from: anchor.block_number,
        to: anchor.block_number,
    };
    let page = chain
        .rpc
        .logs(&query)
        .await
        .map_err(|error| chain.unreachable(codes::HOST_CHAIN_UNREACHABLE, &error, error.to_string()))?;
    work.answered.by(chain.dependency);
    let logs = page.logs.iter().map(|log| &log.raw);
    let log =
        logs.filter(|log| event::context_info_hash(log) == anchor.info_hash).find_map(|log| defined(work, id, log));
    log.ok_or_else(|| {
        unknown(format!(
            "no log of block {} defines context {id} with data of hash {}",
            anchor.block_number, anchor.info_hash
        ))
    })
}

fn defined(work: &Work<'_>, id: RequestId, log: &RawLog) -> Option<NewKmsContext> {
    let decoded = event::decode_request(work.generation?.contracts, log).ok()??;
    match decoded.body {
        RequestBody::NewKmsContext(context) if decoded.kind == Kind::NewKmsContext && decoded.id == id => {
            Some(*context)
        }
        _ => None,
    }
}

fn message(id: RequestId, context: &NewKmsContext) -> Result<core::NewMpcContextRequest, Trouble> {
    let threshold = i32::try_from(context.thresholds.mpc).map_err(|_| {
        Trouble::permanent(codes::REQUEST_INVALID, format!("mpc threshold {} of context {id}", context.thresholds.mpc))
    })?;
    let pcr_values = context.pcr_values.iter().map(|values| core::PcrValues {
        pcr0: values.pcr0.to_vec(),
        pcr1: values.pcr1.to_vec(),
        pcr2: values.pcr2.to_vec(),
    });
    Ok(core::NewMpcContextRequest {
        new_context: Some(core::MpcContext {
            mpc_nodes: context.nodes.iter().map(node).collect(),
            context_id: Some(core_request::id(id)),
            software_version: context.software_version.clone(),
            threshold,
            pcr_values: pcr_values.collect(),
        }),
    })
}

fn node(node: &KmsNodeParams) -> core::MpcNode {
    core::MpcNode {
        mpc_identity: node.mpc_identity.clone(),
        party_id: node.party_id,
        signer_address: Some(node.signer.to_vec()),
        external_url: node.ip_address.clone(),
        // PEM where it is set: an empty one would be refused.
        ca_cert: (!node.ca_cert.is_empty()).then(|| node.ca_cert.to_vec()),
        public_storage_url: node.storage_url.clone(),
        public_storage_prefix: Some(node.storage_prefix.clone()),
        extra_signer_addresses: vec![node.tx_sender.to_vec()],
        scheme_digests: Vec::new(),
    }
}
