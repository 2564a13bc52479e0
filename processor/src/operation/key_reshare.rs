//! Resharing of a key within the same node set, generation (a): `InitiateResharing`, then `GetResharingResult`. There is no
//! answer on chain.

use kms_proto::kms::v1 as core;
use kms_schemas::identity::RequestId;
use kms_schemas::record::Answer;
use tonic::{Request, Response, Status};

use super::Work;
use crate::config::CoreVersion;
use crate::core::{Client, Operation, Starting};
use crate::core_request;
use crate::error::Trouble;

/// What is reshared.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Preprocessing of the key.
    pub prep_keygen_id: RequestId,
    /// The key.
    pub key_id: RequestId,
    /// Parameter set of the key.
    pub params_type: u8,
}

/// Reshares the key.
///
/// # Errors
/// As KMS Core says.
pub async fn serve(work: &Work<'_>, id: RequestId, key: Key) -> Result<Answer, Trouble> {
    work.core.version().has_until(CoreVersion::V0_13_0, "InitiateResharing")?;
    let operation = KeyReshare { id, message: message(work, id, key)? };
    work.run(&operation).await.map(|_| Answer::Done)
}

/// A repeated start answers `INTERNAL`, so the result is asked for first.
///
/// It goes to the shard of its own id, not of the key's preprocessing: all nodes must ask the same one, and the protocol's other
/// connectors go by this id.
struct KeyReshare {
    id: RequestId,
    message: core::InitiateResharingRequest,
}

impl Operation for KeyReshare {
    type Result = core::ResharingResultResponse;
    const NAME: &'static str = "initiate_resharing";
    const GET_FIRST: bool = true;

    fn id(&self) -> RequestId {
        self.id
    }

    async fn start(&self, starting: Starting<'_>) -> Result<Result<(), Status>, Trouble> {
        Ok(starting.client().initiate_resharing(starting.request(self.message.clone())).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_resharing_result(request).await
    }
}

fn message(work: &Work<'_>, id: RequestId, key: Key) -> Result<core::InitiateResharingRequest, Trouble> {
    Ok(core::InitiateResharingRequest {
        request_id: Some(core_request::id(id)),
        context_id: None,
        key_id: Some(core_request::id(key.key_id)),
        key_parameters: core_request::params(key.params_type)?.into(),
        domain: Some(core_request::domain(work.verifier.kms_generation()?)),
        preproc_id: Some(core_request::id(key.prep_keygen_id)),
        epoch_id: None,
        key_digests: Vec::new(),
    })
}
