//! From an admitted request to KMS Core's verified answer: the one place that knows which operation each kind of request is.

use kms_runtime::stage::Answered;
use kms_schemas::record::{Answer, Request, RequestBody};

use crate::ciphertext::Wanted;
use crate::error::Trouble;
use crate::handler::Shared;
use crate::operation::epoch::NewEpoch;
use crate::operation::key_reshare::Key;
use crate::operation::user_decryption::Recipient;
use crate::operation::{
    GenerationChain, Work, abort, context, crsgen, destroy, epoch, key_reshare, keygen, prep_keygen, prss_init,
    public_decryption, user_decryption,
};

/// Runs a request that was proven and admitted on KMS Core, and verifies what it answered.
///
/// `repeated` says that an earlier attempt may have started it; `answered` is told of every answer of a dependency.
///
/// # Errors
/// As KMS Core, the buckets, the registry and the chains say.
pub async fn serve(shared: &Shared, request: &Request, repeated: bool, answered: &Answered) -> Result<Answer, Trouble> {
    let chain = shared.ethereum.as_ref().filter(|_| shared.release.key_management_on_host());
    let chain = chain.unwrap_or(&shared.gateway);
    let work = Work {
        release: shared.release,
        core: &shared.core,
        verifier: &shared.verifier,
        ciphertexts: &shared.ciphertexts,
        generation: Some(GenerationChain {
            dependency: chain.dependency,
            rpc: &chain.rpc,
            contracts: &chain.contracts,
            block: chain.view_block(),
        }),
        repeated,
        answered,
    };
    run(&work, request).await
}

async fn run(work: &Work<'_>, request: &Request) -> Result<Answer, Trouble> {
    let id = request.id;
    match &request.body {
        RequestBody::PublicDecryption { materials, extra_data } => {
            public_decryption::serve(work, id, Wanted::Materials(materials), extra_data).await
        }
        RequestBody::PublicDecryptionHandles { handles, extra_data } => {
            public_decryption::serve(work, id, Wanted::Handles(handles), extra_data).await
        }
        RequestBody::UserDecryption { materials, user_address, public_key, extra_data } => {
            let recipient = Recipient { user: *user_address, public_key };
            user_decryption::serve(work, id, Wanted::Materials(materials), recipient, extra_data).await
        }
        RequestBody::UserDecryptionHandles { handles, user_address, public_key, extra_data } => {
            let recipient = Recipient { user: *user_address, public_key };
            user_decryption::serve(work, id, Wanted::Handles(handles), recipient, extra_data).await
        }
        RequestBody::UnifiedUserDecryption(body) => {
            let recipient = Recipient { user: body.user_address, public_key: &body.public_key };
            let handles: Vec<_> = body.entries.iter().map(|entry| entry.handle).collect();
            let wanted =
                if body.materials.is_empty() { Wanted::Handles(&handles) } else { Wanted::Materials(&body.materials) };
            user_decryption::serve(work, id, wanted, recipient, &body.extra_data).await
        }
        RequestBody::PrepKeygen { params_type, extra_data, .. } => {
            prep_keygen::serve(work, id, *params_type, extra_data).await
        }
        RequestBody::Keygen { prep_keygen_id, extra_data } => {
            keygen::serve(work, id, *prep_keygen_id, extra_data).await
        }
        RequestBody::Crsgen { max_bit_length, params_type, extra_data } => {
            crsgen::serve(work, id, *max_bit_length, *params_type, extra_data).await
        }
        RequestBody::PrssInit => prss_init::serve(work).await,
        RequestBody::KeyReshareSameSet { prep_keygen_id, key_id, params_type } => {
            let key = Key { prep_keygen_id: *prep_keygen_id, key_id: *key_id, params_type: *params_type };
            key_reshare::serve(work, id, key).await
        }
        RequestBody::AbortKeygen => abort::keygen(work, id).await,
        RequestBody::AbortCrsgen => abort::crsgen(work, id).await,
        RequestBody::NewKmsContext(context) => context::serve(work, id, context).await,
        RequestBody::NewKmsEpoch { context_id, previous_context_id, previous_epoch_id, material_block_number } => {
            let new = NewEpoch {
                epoch_id: id,
                context_id: *context_id,
                previous_context_id: *previous_context_id,
                previous_epoch_id: *previous_epoch_id,
                material_block_number: *material_block_number,
            };
            epoch::serve(work, new).await
        }
        RequestBody::KmsContextDestroyed => destroy::context(work, id).await,
        RequestBody::KmsEpochDestroyed => destroy::epoch(work, id).await,
    }
}
