//! Generation of a common reference string: `CrsGen`, then `GetCrsGenResult`.

use alloy::primitives::{Bytes, U256};
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

/// Makes the CRS, and verifies its digest.
///
/// # Errors
/// As KMS Core, the chain and the check of the answer say.
pub async fn serve(
    work: &Work<'_>,
    id: RequestId,
    max_bit_length: U256,
    params_type: u8,
    extra_data: &Bytes,
) -> Result<Answer, Trouble> {
    work.core.version().signs_keys_for(work.release)?;
    let operation = Crsgen { id, message: message(work, id, max_bit_length, params_type, extra_data)? };
    match work.run_abortable(&operation, &[id]).await? {
        Some(result) => answer(work, id, max_bit_length, extra_data, result),
        None => Ok(Answer::Aborted),
    }
}

struct Crsgen {
    id: RequestId,
    message: core::CrsGenRequest,
}

impl Operation for Crsgen {
    type Result = core::CrsGenResult;
    const NAME: &'static str = "crs_gen";

    fn id(&self) -> RequestId {
        self.id
    }

    fn abort_ids(&self) -> Vec<RequestId> {
        vec![self.id]
    }

    async fn start(&self, starting: Starting<'_>) -> Result<Result<(), Status>, Trouble> {
        Ok(starting.client().crs_gen(starting.request(self.message.clone())).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_crs_gen_result(request).await
    }
}

/// A bit length above KMS Core's `u32` is refused: the low 32 bits would be generated, and the signature over them refused by
/// the contract.
fn message(
    work: &Work<'_>,
    id: RequestId,
    max_bit_length: U256,
    params_type: u8,
    extra_data: &[u8],
) -> Result<core::CrsGenRequest, Trouble> {
    let bits = u32::try_from(max_bit_length).map_err(|_| {
        Trouble::permanent(codes::REQUEST_INVALID, format!("max bit length {max_bit_length} is above 2^32 - 1"))
    })?;
    let place = Place::of_generation(work.release, work.core.version(), extra_data)?;
    Ok(core::CrsGenRequest {
        request_id: Some(core_request::id(id)),
        params: core_request::params(params_type)?.into(),
        max_num_bits: Some(bits),
        domain: Some(core_request::domain(work.verifier.kms_generation()?)),
        context_id: place.context_id,
        epoch_id: place.epoch_id,
        extra_data: place.extra_data,
        signing_schemes: Vec::new(),
    })
}

/// Signed over the full bit length of the request.
fn answer(
    work: &Work<'_>,
    id: RequestId,
    max_bit_length: U256,
    extra_data: &Bytes,
    result: core::CrsGenResult,
) -> Result<Answer, Trouble> {
    expect_id("request_id", result.request_id.as_ref(), id)?;
    let crs_digest = Bytes::from(result.crs_digest);
    let domain = work.verifier.kms_generation()?;
    let (digest, extra_data) = if work.release.signs_extra_data() {
        (domain.crsgen_with(id, max_bit_length, &crs_digest, extra_data), extra_data.clone())
    } else {
        (domain.crsgen(id, max_bit_length, &crs_digest), Bytes::new())
    };
    let signature = work.verifier.check(digest, result.external_signature)?;
    Ok(Answer::Crsgen { max_bit_length, crs_digest, extra_data, signature })
}
