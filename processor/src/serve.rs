//! From an admitted request to KMS Core's verified answer: the one place that knows which operation each kind of request is.

use kms_runtime::stage::Answered;
use kms_schemas::record::{Answer, Request, RequestBody};

use crate::core_request;
use crate::error::Trouble;
use crate::handler::Shared;
use crate::operation::{Crsgen, KeyReshare, Keygen, PrepKeygen, PublicDecryption, UserDecryption};

/// Runs a request that was proven and admitted on KMS Core, and verifies what it answered.
///
/// `repeated` says that an earlier attempt may have started it; `answered` is told of every answer of a dependency.
///
/// # Errors
/// As KMS Core, the buckets and the registry say.
pub async fn serve(shared: &Shared, request: &Request, repeated: bool, answered: &Answered) -> Result<Answer, Trouble> {
    let id = request.id;
    let decryption = || core_request::domain(&shared.decryption, shared.chain_id);
    let generation = || core_request::domain(&shared.kms_generation, shared.chain_id);
    match &request.body {
        RequestBody::PublicDecryption { materials, extra_data } => {
            let operation =
                PublicDecryption { id, materials, extra_data, domain: decryption(), store: &shared.ciphertexts };
            let response = shared.core.run(&operation, repeated, answered).await?;
            shared.verifier.public_decryption(id, materials, response)
        }
        RequestBody::UserDecryption { materials, user_address, public_key, extra_data } => {
            let operation = UserDecryption {
                id,
                materials,
                user: *user_address,
                public_key,
                extra_data,
                domain: decryption(),
                store: &shared.ciphertexts,
            };
            let response = shared.core.run(&operation, repeated, answered).await?;
            shared.verifier.user_decryption(materials, public_key, response)
        }
        RequestBody::PrepKeygen { params_type, .. } => {
            let message = core_request::prep_keygen(id, *params_type, generation())?;
            let result = shared.core.run(&PrepKeygen { id, message }, repeated, answered).await?;
            shared.verifier.prep_keygen(id, result)
        }
        RequestBody::Keygen { prep_keygen_id, .. } => {
            let message = core_request::keygen(id, *prep_keygen_id, generation());
            let operation = Keygen { id, prep_keygen_id: *prep_keygen_id, message };
            let result = shared.core.run(&operation, repeated, answered).await?;
            shared.verifier.keygen(id, *prep_keygen_id, result)
        }
        RequestBody::Crsgen { max_bit_length, params_type, .. } => {
            let message = core_request::crsgen(id, *max_bit_length, *params_type, generation())?;
            let result = shared.core.run(&Crsgen { id, message }, repeated, answered).await?;
            shared.verifier.crsgen(id, *max_bit_length, result)
        }
        RequestBody::PrssInit => shared.core.prss_init(answered).await.map(|()| Answer::Done),
        RequestBody::KeyReshareSameSet { prep_keygen_id, key_id, params_type } => {
            let message = core_request::key_reshare(id, *prep_keygen_id, *key_id, *params_type, generation())?;
            let operation = KeyReshare { id, prep_keygen_id: *prep_keygen_id, message };
            shared.core.run(&operation, repeated, answered).await.map(|_| Answer::Done)
        }
    }
}
