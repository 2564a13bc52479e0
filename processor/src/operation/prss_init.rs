//! Initialisation of the pseudo-random secret sharing, generation (a): `Init`, one call that answers when it is done. There is no
//! answer on chain.

use kms_chain::event::PRSS_INIT_ID;
use kms_proto::kms::v1 as core;
use kms_schemas::record::Answer;

use super::Work;
use crate::codes;
use crate::config::CoreVersion;
use crate::core::{Reply, with_timeout};
use crate::core_request;
use crate::error::Trouble;
use crate::status::Class;

/// Sets the sharing up; one that was there before is success.
///
/// # Errors
/// As KMS Core says.
pub async fn serve(work: &Work<'_>) -> Result<Answer, Trouble> {
    work.core.version().has_until(CoreVersion::V0_13_0, "Init")?;
    let call = |mut client: crate::core::Client, timeouts: crate::core::Timeouts| async move {
        client.init(with_timeout(message(), timeouts.long)).await
    };
    match work.core.call(("init", Class::Other), PRSS_INIT_ID, work.answered, call).await? {
        Reply::Done(_) | Reply::AlreadyThere => Ok(Answer::Done),
        Reply::NotFound(text) => Err(Trouble::may_heal(codes::CORE_NOT_READY, text)),
    }
}

/// The event carries no id; the constant 1 is always sent.
fn message() -> core::InitRequest {
    core::InitRequest { request_id: Some(core_request::id(PRSS_INIT_ID)), context_id: None }
}
