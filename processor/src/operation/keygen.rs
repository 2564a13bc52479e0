//! Key generation: `KeyGen`, then `GetKeyGenResult`, on the KMS Core that made the preprocessing.

use alloy::primitives::Bytes;
use kms_proto::kms::v1 as core;
use kms_schemas::identity::RequestId;
use kms_schemas::record::Answer;
use tonic::{Request, Response, Status};

use super::Work;
use crate::answer::{expect_id, key_digests, malformed};
use crate::core::{Client, Operation, Starting};
use crate::core_request::{self, Place};
use crate::error::Trouble;
use crate::status::Class;

/// Makes the key of a preprocessing, and verifies its digests.
///
/// # Errors
/// As KMS Core, the chain and the check of the answer say.
pub async fn serve(
    work: &Work<'_>,
    id: RequestId,
    prep_keygen_id: RequestId,
    extra_data: &Bytes,
) -> Result<Answer, Trouble> {
    work.core.version().signs_keys_for(work.release)?;
    let operation = Keygen { id, prep_keygen_id, message: message(work, id, prep_keygen_id, extra_data)? };
    match work.run_abortable(&operation, &[id]).await? {
        Some(result) => answer(work, id, prep_keygen_id, extra_data, result),
        None => Ok(Answer::Aborted),
    }
}

struct Keygen {
    id: RequestId,
    prep_keygen_id: RequestId,
    message: core::KeyGenRequest,
}

impl Operation for Keygen {
    type Result = core::KeyGenResult;
    const NAME: &'static str = "key_gen";
    const CLASS: Class = Class::Keygen;

    fn id(&self) -> RequestId {
        self.id
    }

    fn shard_id(&self) -> RequestId {
        self.prep_keygen_id
    }

    fn abort_ids(&self) -> Vec<RequestId> {
        vec![self.prep_keygen_id]
    }

    async fn start(&self, starting: Starting<'_>) -> Result<Result<(), Status>, Trouble> {
        Ok(starting.client().key_gen(starting.request(self.message.clone())).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_key_gen_result(request).await
    }
}

/// With the parameters of the preprocessing.
fn message(
    work: &Work<'_>,
    id: RequestId,
    prep_keygen_id: RequestId,
    extra_data: &[u8],
) -> Result<core::KeyGenRequest, Trouble> {
    let place = Place::of_generation(work.release, work.core.version(), extra_data)?;
    Ok(core::KeyGenRequest {
        request_id: Some(core_request::id(id)),
        params: None,
        preproc_id: Some(core_request::id(prep_keygen_id)),
        domain: Some(core_request::domain(work.verifier.kms_generation()?)),
        keyset_config: work.core.version().keyset_config(work.release),
        keyset_added_info: None,
        context_id: place.context_id,
        epoch_id: place.epoch_id,
        extra_data: place.extra_data,
        signing_schemes: Vec::new(),
    })
}

/// Digests in the order that was signed, of key types that the contract knows.
fn answer(
    work: &Work<'_>,
    id: RequestId,
    prep_keygen_id: RequestId,
    extra_data: &Bytes,
    result: core::KeyGenResult,
) -> Result<Answer, Trouble> {
    expect_id("request_id", result.request_id.as_ref(), id)?;
    expect_id("preprocessing_id", result.preprocessing_id.as_ref(), prep_keygen_id)?;
    let key_digests = key_digests(result.key_digests)?;
    let last = work.release.last_key_type();
    if let Some(digest) = key_digests.iter().find(|digest| digest.key_type > last) {
        // The contract would revert without any reason.
        let text = format!("key type {} is unknown to the contracts of {}", digest.key_type, work.release);
        return Err(malformed(text));
    }
    let domain = work.verifier.kms_generation()?;
    let (digest, extra_data) = if work.release.signs_extra_data() {
        (domain.keygen_with(prep_keygen_id, id, &key_digests, extra_data), extra_data.clone())
    } else {
        (domain.keygen(prep_keygen_id, id, &key_digests), Bytes::new())
    };
    let signature = work.verifier.check(digest, result.external_signature)?;
    Ok(Answer::Keygen { prep_keygen_id, key_digests, extra_data, signature })
}
