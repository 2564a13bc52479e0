//! Abort of a key or CRS generation: `AbortKeyGen`, `AbortCrsGen`, one call each. There is no answer on chain.

use kms_schemas::identity::RequestId;
use kms_schemas::record::Answer;

use super::Work;
use crate::config::CoreVersion;
use crate::core::{Client, Reply, Timeouts, with_timeout};
use crate::core_request;
use crate::error::Trouble;
use crate::status::Class;

/// Aborts a preprocessing and the key generation that consumes it, by the id of the preprocessing, on the KMS Core that holds it.
///
/// # Errors
/// As KMS Core says.
pub async fn keygen(work: &Work<'_>, prep_keygen_id: RequestId) -> Result<Answer, Trouble> {
    work.core.version().has_since(CoreVersion::V0_13_20, "AbortKeyGen")?;
    work.core.aborts().tell(prep_keygen_id);
    let call = |mut client: Client, timeouts: Timeouts| async move {
        client.abort_key_gen(with_timeout(core_request::id(prep_keygen_id), timeouts.start)).await
    };
    ended(work.core.call(("abort_key_gen", Class::Other), prep_keygen_id, work.answered, call).await?)
}

/// Aborts the generation of a CRS.
///
/// # Errors
/// As KMS Core says.
pub async fn crsgen(work: &Work<'_>, crs_id: RequestId) -> Result<Answer, Trouble> {
    work.core.version().has_since(CoreVersion::V0_13_20, "AbortCrsGen")?;
    work.core.aborts().tell(crs_id);
    let call = |mut client: Client, timeouts: Timeouts| async move {
        client.abort_crs_gen(with_timeout(core_request::id(crs_id), timeouts.start)).await
    };
    ended(work.core.call(("abort_crs_gen", Class::Other), crs_id, work.answered, call).await?)
}

/// Where nothing runs under the id, there is nothing to abort.
fn ended<T>(reply: Reply<T>) -> Result<Answer, Trouble> {
    match reply {
        Reply::Done(_) | Reply::AlreadyThere | Reply::NotFound(_) => Ok(Answer::Done),
    }
}
