//! The calls of version 0.12 that later ones do not have, and its answers to those that it does not have itself.

use alloy::primitives::U256;
use alloy::sol_types::SolStruct;
use kms_chain::eip712::message::{KeyDigest, KeygenVerification};
use kms_chain::eip712::recover;
use kms_proto::kms::v1::*;
use kms_stack::simulator::Operation;
use tonic::Code;

use crate::world::*;

fn init() -> InitRequest {
    InitRequest { request_id: Some(id(0, 1)), context_id: None }
}

#[tokio::test]
async fn init_sets_up_once_and_then_already_exists() {
    let mut world = World::with(|config| config.initialized = false).await;
    assert_eq!(world.core.init(init()).await.unwrap().into_inner(), Empty {});
    assert_eq!(code(world.core.init(init()).await), Code::AlreadyExists);
    let other = InitRequest { request_id: Some(id(0, 2)), context_id: None };
    assert_eq!(code(world.core.init(other).await), Code::AlreadyExists, "under whatever id");
}

#[tokio::test]
async fn init_already_exists_on_a_node_that_was_set_up_before() {
    let mut world = World::start().await;
    assert_eq!(code(world.core.init(init()).await), Code::AlreadyExists);
}

#[tokio::test]
async fn init_holds_the_call_until_the_setup_is_done() {
    let mut world = World::with(|config| config.initialized = false).await;
    world.hold(Operation::PrssSetup).await;
    let mut core = world.core.clone();
    let held = tokio::spawn(async move { core.init(init()).await });
    world.until_called("Init", 1).await;
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Internal, "not set up yet");
    world.release(Operation::PrssSetup).await;
    assert_eq!(code(held.await.unwrap()), Code::Ok);
}

#[tokio::test]
async fn init_that_fails_is_internal_and_can_be_repeated() {
    let mut world = World::with(|config| config.initialized = false).await;
    world.control.fail_id(&id(0, 1).request_id).await.unwrap();
    assert_eq!(code(world.core.init(init()).await), Code::Internal);
    world.control.mend_id(&id(0, 1).request_id).await.unwrap();
    assert_eq!(code(world.core.init(init()).await), Code::Ok);
    assert_eq!(code(world.core.init(InitRequest::default()).await), Code::InvalidArgument);
}

#[tokio::test]
async fn init_of_a_centralized_node_only_keeps_a_record() {
    let mut world = World::with(|config| {
        config.mode = kms_stack::simulator::Mode::Centralized;
        config.initialized = false;
    })
    .await;
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Ok, "nothing had to be set up");
    assert_eq!(code(world.core.init(init()).await), Code::Ok);
    assert_eq!(code(world.core.init(init()).await), Code::AlreadyExists);
}

#[tokio::test]
async fn a_resharing_answers_its_own_id_and_a_repeated_one_is_internal() {
    let mut world = World::start().await;
    let answer = world.core.initiate_resharing(reshare(1)).await.unwrap().into_inner();
    assert_eq!(answer.request_id, Some(reshare_id(1)));
    assert_eq!(code(world.core.initiate_resharing(reshare(1)).await), Code::Internal);
    world.core.get_resharing_result(reshare_id(1)).await.unwrap();
    assert_eq!(code(world.core.initiate_resharing(reshare(1)).await), Code::Internal);
}

#[tokio::test]
async fn a_resharing_result_holds_the_keys_digests_signed_as_a_key() {
    let mut world = World::start().await;
    let key = world.make_key(2, 1).await;
    let request = InitiateResharingRequest { key_id: Some(key_id(2)), ..reshare(1) };
    world.core.initiate_resharing(request).await.unwrap();
    let result = world.core.get_resharing_result(reshare_id(1)).await.unwrap().into_inner();
    assert_eq!(result.request_id, Some(reshare_id(1)));
    assert_eq!((result.key_id, result.preprocessing_id), (Some(key_id(2)), Some(prep_id(1))));
    assert_eq!(result.key_digests, key.key_digests);

    let number = |id: RequestId| U256::from_be_slice(&hex::decode(id.request_id).unwrap());
    let digests = (0u8..).zip(&result.key_digests);
    let message = KeygenVerification {
        prepKeygenId: number(prep_id(1)),
        keyId: number(key_id(2)),
        keyDigests: digests.map(|(kind, key)| KeyDigest { keyType: kind, digest: key.digest.clone().into() }).collect(),
    };
    let digest = message.eip712_signing_hash(&domain("KMSGeneration"));
    assert_eq!(recover(digest, &result.external_signature), Ok(world.node.signer()));
}

#[tokio::test]
async fn every_mistake_in_a_resharing_is_an_invalid_argument_and_an_unknown_key_is_not_found() {
    let mut world = World::start().await;
    let wrong = [
        InitiateResharingRequest { request_id: None, ..reshare(1) },
        InitiateResharingRequest { key_id: None, ..reshare(1) },
        InitiateResharingRequest { preproc_id: None, ..reshare(1) },
        InitiateResharingRequest { key_parameters: 7, ..reshare(1) },
        InitiateResharingRequest { domain: None, ..reshare(1) },
    ];
    for request in wrong {
        assert_eq!(code(world.core.initiate_resharing(request).await), Code::InvalidArgument);
    }
    let unknown = InitiateResharingRequest { key_id: Some(key_id(9)), ..reshare(1) };
    assert_eq!(code(world.core.initiate_resharing(unknown).await), Code::NotFound);
    assert_eq!(code(world.core.initiate_resharing(reshare(1)).await), Code::Ok);
}

#[tokio::test]
async fn a_resharing_takes_tokens_like_every_operation() {
    let mut world = World::limited(|limits| {
        limits.bucket = 1;
        limits.tokens.resharing = 2;
    })
    .await;
    assert_eq!(code(world.core.initiate_resharing(reshare(1)).await), Code::ResourceExhausted);
    assert_eq!(code(world.core.get_resharing_result(reshare_id(1)).await), Code::NotFound);
}

#[tokio::test]
async fn a_context_can_be_made_used_and_destroyed_once() {
    let mut world = World::start().await;
    let context = KmsContext { context_id: Some(id(7, 1)), ..KmsContext::default() };
    let request = NewKmsContextRequest { active_context: None, new_context: Some(context) };
    let in_context = |counter| PublicDecryptionRequest { context_id: Some(id(7, 1)), ..public(counter) };
    let destroy = DestroyKmsContextRequest { context_id: Some(id(7, 1)) };

    assert_eq!(code(world.core.new_kms_context(NewKmsContextRequest::default()).await), Code::InvalidArgument);
    assert_eq!(code(world.core.new_kms_context(request.clone()).await), Code::Ok);
    assert_eq!(code(world.core.new_kms_context(request).await), Code::AlreadyExists);
    assert_eq!(code(world.core.public_decrypt(in_context(1)).await), Code::Ok);
    assert_eq!(code(world.core.destroy_kms_context(destroy.clone()).await), Code::Ok);
    assert_eq!(code(world.core.destroy_kms_context(destroy).await), Code::NotFound);
    assert_eq!(code(world.core.public_decrypt(in_context(2)).await), Code::Internal);
}

#[tokio::test]
async fn calls_of_later_versions_and_custodian_calls_are_unimplemented_and_recorded() {
    let mut world = World::start().await;
    let core = &mut world.core;
    let codes = [
        code(core.abort_key_gen(prep_id(1)).await),
        code(core.abort_crs_gen(crs_id(1)).await),
        code(core.public_decrypt_sync(public(1)).await),
        code(core.user_decrypt_sync(user(1)).await),
        code(core.new_mpc_context(NewMpcContextRequest::default()).await),
        code(core.destroy_mpc_context(DestroyMpcContextRequest::default()).await),
        code(core.new_mpc_epoch(NewMpcEpochRequest::default()).await),
        code(core.get_epoch_result(id(8, 1)).await),
        code(core.destroy_mpc_epoch(DestroyMpcEpochRequest::default()).await),
        code(core.bandwidth_benchmark(BandwidthBenchmarkRequest::default()).await),
        code(core.new_custodian_context(NewCustodianContextRequest::default()).await),
        code(core.destroy_custodian_context(DestroyCustodianContextRequest::default()).await),
        code(core.get_operator_public_key(Empty {}).await),
        code(core.restore_from_backup(Empty {}).await),
        code(core.custodian_recovery_init(CustodianRecoveryInitRequest::default()).await),
        code(core.custodian_backup_recovery(CustodianRecoveryRequest::default()).await),
    ];
    assert_eq!(codes, [Code::Unimplemented; 16]);
    let calls = world.control.calls().await.unwrap();
    assert_eq!(calls.rpcs["PublicDecryptSync"].answered("UNIMPLEMENTED"), 1);
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::NotFound);
}
