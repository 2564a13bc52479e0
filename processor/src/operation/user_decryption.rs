//! User decryption, direct, delegated or unified: `UserDecrypt`, then `GetUserDecryptionResult`.

use alloy::primitives::{Address, B256, Bytes};
use kms_chain::eip712::Domain;
use kms_proto::encoding;
use kms_proto::kms::v1 as core;
use kms_schemas::identity::RequestId;
use kms_schemas::record::Answer;
use tonic::{Request, Response, Status};

use super::Work;
use crate::answer::{Verifier, malformed};
use crate::ciphertext::{BUCKETS, CiphertextStore, Fetched, Wanted};
use crate::coprocessors::REGISTRY;
use crate::core::{Client, Operation, Starting};
use crate::core_request::{self, Place};
use crate::error::Trouble;
use crate::status::Class;

/// For whom a value is decrypted.
#[derive(Clone, Copy, Debug)]
pub struct Recipient<'a> {
    /// The user, or the delegate of a delegated request.
    pub user: Address,
    /// The user's ML-KEM public key, unchanged.
    pub public_key: &'a Bytes,
}

/// Re-encrypts for one user, and verifies the share.
///
/// # Errors
/// As the buckets, KMS Core and the check of its answer say.
pub async fn serve(
    work: &Work<'_>,
    id: RequestId,
    wanted: Wanted<'_>,
    recipient: Recipient<'_>,
    extra_data: &[u8],
) -> Result<Answer, Trouble> {
    let handles = wanted.handles();
    core_request::check_handles(&handles)?;
    let operation = UserDecryption {
        id,
        wanted,
        recipient,
        place: Place::of_decryption(work.release, work.core.version(), extra_data)?,
        domain: work.verifier.decryption()?,
        store: work.ciphertexts,
    };
    let response = work.run(&operation).await?;
    answer(work.verifier, handles, recipient.public_key, response)
}

struct UserDecryption<'a> {
    id: RequestId,
    wanted: Wanted<'a>,
    recipient: Recipient<'a>,
    place: Place,
    domain: &'a Domain,
    store: &'a CiphertextStore,
}

impl Operation for UserDecryption<'_> {
    type Result = core::UserDecryptionResponse;
    const NAME: &'static str = "user_decrypt";
    const CLASS: Class = Class::Decryption;
    const NEEDS: &'static [&'static str] = &[BUCKETS, REGISTRY];

    fn id(&self) -> RequestId {
        self.id
    }

    async fn start(&self, starting: Starting<'_>) -> Result<Result<(), Status>, Trouble> {
        let fetched = self.store.fetch(self.wanted).await?;
        let message = message(self.id, &self.wanted.handles(), &fetched, self.recipient, &self.place, self.domain)?;
        let key = core_request::id(fetched.key_id);
        starting.key_is_there(&key, message.context_id.as_ref(), message.epoch_id.as_ref()).await?;
        Ok(starting.client().user_decrypt(starting.request(message)).await.map(drop))
    }

    async fn get(
        &self,
        mut client: Client,
        request: Request<core::RequestId>,
    ) -> Result<Response<Self::Result>, Status> {
        client.get_user_decryption_result(request).await
    }
}

fn message(
    id: RequestId,
    handles: &[B256],
    fetched: &Fetched,
    recipient: Recipient<'_>,
    place: &Place,
    domain: &Domain,
) -> Result<core::UserDecryptionRequest, Trouble> {
    Ok(core::UserDecryptionRequest {
        request_id: Some(core_request::id(id)),
        typed_ciphertexts: core_request::typed_ciphertexts(handles, &fetched.ciphertexts)?,
        key_id: Some(core_request::id(fetched.key_id)),
        client_address: recipient.user.to_checksum(None),
        enc_key: recipient.public_key.to_vec(),
        domain: Some(core_request::domain(domain)),
        extra_data: place.extra_data.clone(),
        context_id: place.context_id.clone(),
        epoch_id: place.epoch_id.clone(),
        signing_schemes: Vec::new(),
    })
}

/// One share per handle, in order; the share bytes are what KMS Core signed. The extra data that is published is what KMS Core
/// says it signed.
fn answer(
    verifier: &Verifier,
    handles: Vec<B256>,
    public_key: &Bytes,
    response: core::UserDecryptionResponse,
) -> Result<Answer, Trouble> {
    let payload = response.payload.ok_or_else(|| malformed("the result has no payload"))?;
    let shares = &payload.signcrypted_ciphertexts;
    if shares.len() != handles.len() {
        return Err(malformed(format!("{} shares for {} handles", shares.len(), handles.len())));
    }
    for (index, (share, handle)) in shares.iter().zip(&handles).enumerate() {
        if share.external_handle != handle.as_slice() {
            return Err(malformed(format!(
                "share {index} is of handle 0x{}, not of {handle}",
                hex::encode(&share.external_handle)
            )));
        }
    }
    let share = Bytes::from(encoding::user_payload(&payload));
    let extra_data = Bytes::from(response.extra_data);
    let digest = verifier.decryption()?.user_decryption(public_key, &handles, &share, &extra_data);
    let signature = verifier.check(digest, response.external_signature)?;
    Ok(Answer::UserDecryption { public_key: public_key.clone(), handles, share, extra_data, signature })
}
