//! Preprocessing of a key generation: `KeyGenPreproc`, then `GetKeyGenPreprocResult`.

use alloy::primitives::{Bytes, U256};
use kms_chain::eip712::Domain;
use kms_proto::kms::v1 as core;
use kms_schemas::identity::RequestId;
use kms_schemas::record::Answer;
use tonic::{Request, Response, Status};

use super::Work;
use crate::answer::expect_id;
use crate::codes;
use crate::core::{Client, Operation, Starting};
use crate::core_request::{self, Place};
use crate::error::Trouble;

/// Makes the preprocessing, and verifies the signature over its id.
///
/// # Errors
/// As KMS Core, the chain and the check of the answer say.
pub async fn serve(work: &Work<'_>, id: RequestId, params_type: u8, extra_data: &Bytes) -> Result<Answer, Trouble> {
    work.core.version().signs_keys_for(work.release)?;
    let message = message(work, id, params_type, extra_data, work.verifier.kms_generation()?)?;
    let operation = PrepKeygen { work, id, message };
    match work.run_abortable(&operation, &[id, key_of(id)]).await? {
        Some(result) => answer(work, id, extra_data, result),
        None => Ok(Answer::Aborted),
    }
}

struct PrepKeygen<'a> {
    work: &'a Work<'a>,
    id: RequestId,
    message: core::KeyGenPreprocRequest,
}

impl Operation for PrepKeygen<'_> {
    type Result = core::KeyGenPreprocResult;
    const NAME: &'static str = "key_gen_preproc";

    fn id(&self) -> RequestId {
        self.id
    }

    fn abort_ids(&self) -> Vec<RequestId> {
        vec![self.id]
    }

    async fn start(&self, starting: Starting<'_>) -> Result<Result<(), Status>, Trouble> {
        Ok(starting.client().key_gen_preproc(starting.request(self.message.clone())).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_key_gen_preproc_result(request).await
    }

    /// A preprocessing that KMS Core does not know was lost, or consumed by its key generation. It takes hours and all nodes, so
    /// it is only made again while the chain still waits for it.
    async fn before_restart(&self) -> Result<(), Trouble> {
        let Some(chain) = self.work.generation else { return Ok(()) };
        if chain.has_consensus(self.id).await? {
            let text = format!(
                "kms core does not have preprocessing {} (any more), and the chain has its consensus without this node",
                self.id
            );
            return Err(Trouble::permanent(codes::PREPROCESSING_GONE, text));
        }
        Ok(())
    }
}

/// The key that the contract allocates together with a preprocessing: the same counter under the tag of keys
/// (`docs/protocol.md`, "Request ids").
fn key_of(prep_keygen_id: RequestId) -> RequestId {
    const TAG: usize = 248;
    let counter = prep_keygen_id.as_u256() & (U256::MAX >> 8);
    RequestId::from((U256::from(4) << TAG) | counter)
}

fn message(
    work: &Work<'_>,
    id: RequestId,
    params_type: u8,
    extra_data: &[u8],
    domain: &Domain,
) -> Result<core::KeyGenPreprocRequest, Trouble> {
    let place = Place::of_generation(work.release, work.core.version(), extra_data)?;
    Ok(core::KeyGenPreprocRequest {
        request_id: Some(core_request::id(id)),
        params: core_request::params(params_type)?.into(),
        keyset_config: work.core.version().keyset_config(work.release),
        domain: Some(core_request::domain(domain)),
        context_id: place.context_id,
        epoch_id: place.epoch_id,
        extra_data: place.extra_data,
        signing_schemes: Vec::new(),
    })
}

fn answer(
    work: &Work<'_>,
    id: RequestId,
    extra_data: &Bytes,
    result: core::KeyGenPreprocResult,
) -> Result<Answer, Trouble> {
    expect_id("preprocessing_id", result.preprocessing_id.as_ref(), id)?;
    let domain = work.verifier.kms_generation()?;
    let (digest, extra_data) = if work.release.signs_extra_data() {
        (domain.prep_keygen_with(id, extra_data), extra_data.clone())
    } else {
        (domain.prep_keygen(id), Bytes::new())
    };
    Ok(Answer::PrepKeygen { extra_data, signature: work.verifier.check(digest, result.external_signature)? })
}
