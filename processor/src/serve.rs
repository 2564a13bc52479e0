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

#[cfg(test)]
mod tests {
    use alloy::primitives::{Address, B256, Bytes, U256};
    use kms_chain::release::Release;
    use kms_proto::kms::v1 as kms;
    use kms_schemas::record::{HandleEntry, UnifiedUserDecryption};
    use tonic::Code;

    use super::*;
    use crate::config::CoreVersion;
    use crate::mock::{self, word};
    use crate::scripted::Scene;

    fn request(body: RequestBody) -> Request {
        Request { body, id: U256::from(9).into(), ..mock::request() }
    }

    /// The first call that KMS Core gets for this body.
    async fn first_call(release: Release, version: CoreVersion, body: RequestBody) -> Vec<&'static str> {
        use alloy::sol_types::{SolCall, SolValue};
        use kms_chain::contracts::b::KMSGeneration;
        let scene = Scene::start(release, version).await;
        scene.chain.on_selector(KMSGeneration::isRequestDoneCall::SELECTOR, word(U256::ZERO));
        scene.chain.on_selector(KMSGeneration::getConsensusTxSendersCall::SELECTOR, Vec::<Address>::new().abi_encode());
        let threshold = kms::HealthStatusResponse { node_type: kms::NodeType::Threshold.into(), ..Default::default() };
        scene.core.answers("get_health_status", &threshold);
        scene.core.refuses("get_resharing_result", Code::NotFound);
        let refused = run(&scene.work(), &request(body)).await;
        assert!(refused.is_err(), "{refused:?}");
        let calls = scene.core.calls();
        calls.into_iter().filter(|call| !matches!(*call, "get_health_status" | "get_resharing_result")).collect()
    }

    #[tokio::test]
    async fn each_kind_of_key_management_makes_its_own_call() {
        let other = U256::from(3).into();
        let old = (Release::V0_11, CoreVersion::V0_12);
        let new = (Release::V0_15, CoreVersion::V0_15);
        let extra_data = Bytes::new;
        for ((release, version), body, call) in [
            (old, RequestBody::PrssInit, "init"),
            (
                old,
                RequestBody::KeyReshareSameSet { prep_keygen_id: other, key_id: other, params_type: 0 },
                "initiate_resharing",
            ),
            (
                new,
                RequestBody::PrepKeygen { epoch_id: U256::ZERO, params_type: 0, extra_data: extra_data() },
                "key_gen_preproc",
            ),
            (new, RequestBody::Keygen { prep_keygen_id: other, extra_data: extra_data() }, "key_gen"),
            (
                new,
                RequestBody::Crsgen { max_bit_length: U256::from(64), params_type: 0, extra_data: extra_data() },
                "crs_gen",
            ),
            (new, RequestBody::AbortKeygen, "abort_key_gen"),
            (new, RequestBody::AbortCrsgen, "abort_crs_gen"),
            (new, RequestBody::KmsContextDestroyed, "destroy_mpc_context"),
            (new, RequestBody::KmsEpochDestroyed, "destroy_mpc_epoch"),
        ] {
            assert_eq!(first_call(release, version, body).await, [call]);
        }
    }

    #[tokio::test]
    async fn a_unified_decryption_takes_its_ciphertexts_from_the_event_or_from_the_attestations() {
        let handle: B256 = "0xa853324e0317eb48f843ac3706feccb257256bac4c0000000000000030390500".parse().unwrap();
        let entry = HandleEntry { handle, contract: Address::ZERO, owner: Address::ZERO };
        let unified = UnifiedUserDecryption {
            materials: Vec::new(),
            entries: vec![entry, entry],
            user_address: Address::repeat_byte(1),
            public_key: Bytes::from_static(&[1]),
            allowed_contracts: Vec::new(),
            start_timestamp: U256::ZERO,
            duration_seconds: U256::ZERO,
            extra_data: Bytes::new(),
            signature: Bytes::new(),
        };
        // Nobody has a bucket here; who is asked tells which way was taken.
        let scene = Scene::start(Release::V0_15, CoreVersion::V0_15).await;
        let body = RequestBody::UnifiedUserDecryption(Box::new(unified.clone()));
        let attested = run(&scene.work(), &request(body)).await.unwrap_err();
        assert_eq!(attested.code(), crate::codes::REGISTRY_UNREACHABLE, "all registered coprocessors are looked up");
        let material = kms_schemas::record::CiphertextMaterial {
            handle,
            key_id: U256::from(4).into(),
            digest: B256::ZERO,
            coprocessors: Vec::new(),
        };
        let body = RequestBody::UnifiedUserDecryption(Box::new(UnifiedUserDecryption {
            materials: vec![material.clone(), material],
            ..unified
        }));
        let scene = Scene::start(Release::V0_14, CoreVersion::V0_14).await;
        let named = run(&scene.work(), &request(body)).await.unwrap_err();
        assert_eq!(named.code(), crate::codes::NO_BUCKET, "only those that the event names");
    }
}
