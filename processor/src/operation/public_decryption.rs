//! Public decryption: `PublicDecrypt`, then `GetPublicDecryptionResult`.

use alloy::primitives::{B256, Bytes};
use kms_chain::eip712::Domain;
use kms_proto::encoding;
use kms_proto::kms::v1 as core;
use kms_schemas::identity::RequestId;
use kms_schemas::record::Answer;
use tonic::{Request, Response, Status};

use super::Work;
use crate::answer::{Verifier, expect_id, malformed};
use crate::ciphertext::{BUCKETS, CiphertextStore, Fetched, Wanted};
use crate::coprocessors::REGISTRY;
use crate::core::{Client, Operation, Starting};
use crate::core_request::{self, Place};
use crate::error::Trouble;
use crate::status::Class;

/// Decrypts for everybody, and verifies the plaintexts.
///
/// # Errors
/// As the buckets, KMS Core and the check of its answer say.
pub async fn serve(work: &Work<'_>, id: RequestId, wanted: Wanted<'_>, extra_data: &[u8]) -> Result<Answer, Trouble> {
    let handles = wanted.handles();
    core_request::check_handles(&handles)?;
    let operation = PublicDecryption {
        id,
        wanted,
        place: Place::of_decryption(work.release, work.core.version(), extra_data)?,
        domain: work.verifier.decryption()?,
        store: work.ciphertexts,
    };
    let response = work.run(&operation).await?;
    answer(work.verifier, id, handles, response)
}

struct PublicDecryption<'a> {
    id: RequestId,
    wanted: Wanted<'a>,
    place: Place,
    domain: &'a Domain,
    store: &'a CiphertextStore,
}

impl Operation for PublicDecryption<'_> {
    type Result = core::PublicDecryptionResponse;
    const NAME: &'static str = "public_decrypt";
    const CLASS: Class = Class::Decryption;
    const NEEDS: &'static [&'static str] = &[BUCKETS, REGISTRY];

    fn id(&self) -> RequestId {
        self.id
    }

    async fn start(&self, starting: Starting<'_>) -> Result<Result<(), Status>, Trouble> {
        let fetched = self.store.fetch(self.wanted).await?;
        let message = message(self.id, &self.wanted.handles(), &fetched, &self.place, self.domain)?;
        let key = core_request::id(fetched.key_id);
        starting.key_is_there(&key, message.context_id.as_ref(), message.epoch_id.as_ref()).await?;
        Ok(starting.client().public_decrypt(starting.request(message)).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_public_decryption_result(request).await
    }
}

fn message(
    id: RequestId,
    handles: &[B256],
    fetched: &Fetched,
    place: &Place,
    domain: &Domain,
) -> Result<core::PublicDecryptionRequest, Trouble> {
    Ok(core::PublicDecryptionRequest {
        request_id: Some(core_request::id(id)),
        ciphertexts: core_request::typed_ciphertexts(handles, &fetched.ciphertexts)?,
        key_id: Some(core_request::id(fetched.key_id)),
        domain: Some(core_request::domain(domain)),
        extra_data: place.extra_data.clone(),
        context_id: place.context_id.clone(),
        epoch_id: place.epoch_id.clone(),
        signing_schemes: Vec::new(),
    })
}

/// One plaintext per handle, in order, of the handle's type. The extra data that is published is what KMS Core says it signed,
/// which old versions leave empty.
fn answer(
    verifier: &Verifier,
    id: RequestId,
    handles: Vec<B256>,
    response: core::PublicDecryptionResponse,
) -> Result<Answer, Trouble> {
    let payload = response.payload.ok_or_else(|| malformed("the result has no payload"))?;
    if payload.request_id.is_some() {
        expect_id("request_id", payload.request_id.as_ref(), id)?;
    }
    if payload.plaintexts.len() != handles.len() {
        return Err(malformed(format!("{} plaintexts for {} handles", payload.plaintexts.len(), handles.len())));
    }
    for (index, (plaintext, handle)) in payload.plaintexts.iter().zip(&handles).enumerate() {
        let wanted = core_request::fhe_type(*handle)?;
        if plaintext.fhe_type != wanted {
            return Err(malformed(format!(
                "plaintext {index} has FHE type {}, its handle has {wanted}",
                plaintext.fhe_type
            )));
        }
    }
    let decrypted_result: Bytes =
        encoding::decrypted_result(&payload.plaintexts).map_err(|error| malformed(error.to_string()))?.into();
    let extra_data = Bytes::from(response.extra_data);
    let digest = verifier.decryption()?.public_decryption(&handles, &decrypted_result, &extra_data);
    let signature = verifier.check(digest, response.external_signature)?;
    Ok(Answer::PublicDecryption { handles, decrypted_result, extra_data, signature })
}
