//! Destruction of contexts and epochs: `DestroyMpcContext`, `DestroyMpcEpoch`, one call each. There is no answer on chain.

use kms_proto::kms::v1 as core;
use kms_schemas::identity::RequestId;
use kms_schemas::record::Answer;

use super::{Work, epoch};
use crate::config::CoreVersion;
use crate::core::{Client, Reply, Timeouts, with_timeout};
use crate::core_request;
use crate::error::Trouble;
use crate::status::Class;

/// Destroys a context with its epochs, and ends what is being made of it.
///
/// # Errors
/// As KMS Core says; the last context, and one with an operation in flight, may be destroyed later.
pub async fn context(work: &Work<'_>, context_id: RequestId) -> Result<Answer, Trouble> {
    work.core.version().has_since(CoreVersion::V0_13_10, "DestroyMpcContext with the contract's context ids")?;
    work.core.aborts().tell(context_id);
    let message = core::DestroyMpcContextRequest { context_id: Some(core_request::id(context_id)) };
    let call = |mut client: Client, timeouts: Timeouts| async move {
        client.destroy_mpc_context(with_timeout(message, timeouts.long)).await
    };
    let reply = work.core.call(("destroy_mpc_context", Class::Lifecycle), context_id, work.answered, call).await?;
    if let Reply::Done(destroyed) = &reply {
        let epochs: Vec<&str> = destroyed.epoch_ids.iter().map(|id| id.request_id.as_str()).collect();
        tracing::info!(context = %context_id, ?epochs, "kms core destroyed a context");
    }
    Ok(ended(&reply))
}

/// Destroys an epoch, and ends its creation.
///
/// # Errors
/// As KMS Core says; the only epoch, and one in creation, may be destroyed later.
pub async fn epoch(work: &Work<'_>, epoch_id: RequestId) -> Result<Answer, Trouble> {
    work.core.version().has_since(CoreVersion::V0_13_10, "DestroyMpcEpoch")?;
    work.core.aborts().tell(epoch_id);
    epoch::refuse_centralized(work, epoch_id).await?;
    let message = core::DestroyMpcEpochRequest { epoch_id: Some(core_request::id(epoch_id)) };
    let call = |mut client: Client, timeouts: Timeouts| async move {
        client.destroy_mpc_epoch(with_timeout(message, timeouts.long)).await
    };
    let reply = work.core.call(("destroy_mpc_epoch", Class::Lifecycle), epoch_id, work.answered, call).await?;
    Ok(ended(&reply))
}

/// What is not there needs no destruction: it was destroyed before.
const fn ended<T>(reply: &Reply<T>) -> Answer {
    match reply {
        Reply::Done(_) | Reply::AlreadyThere | Reply::NotFound(_) => Answer::Done,
    }
}
