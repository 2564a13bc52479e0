//! What a restart forgets and what survives it.

use kms_proto::kms::v1::*;
use kms_stack::simulator::{CoreVersion, Operation, SimulatorConfig, start};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use crate::world::*;

#[tokio::test]
async fn a_restart_forgets_decryptions_which_can_then_be_started_again() {
    let mut world = World::start().await;
    world.core.public_decrypt(public(1)).await.unwrap();
    world.core.user_decrypt(user(1)).await.unwrap();
    let public_before = world.core.get_public_decryption_result(public_id(1)).await.unwrap().into_inner();
    let user_before = world.core.get_user_decryption_result(user_id(1)).await.unwrap().into_inner();

    world.control.restart().await.unwrap();
    let mut core = core_client(channel(&world.node));
    assert_eq!(code(core.get_public_decryption_result(public_id(1)).await), Code::NotFound);
    assert_eq!(code(core.get_user_decryption_result(user_id(1)).await), Code::NotFound);
    assert_eq!(code(core.public_decrypt(public(1)).await), Code::Ok);
    assert_eq!(code(core.user_decrypt(user(1)).await), Code::Ok);

    let public_after = core.get_public_decryption_result(public_id(1)).await.unwrap().into_inner();
    assert_eq!(public_after, public_before);
    let user_after = core.get_user_decryption_result(user_id(1)).await.unwrap().into_inner();
    let shares = |response: UserDecryptionResponse| response.payload.unwrap().signcrypted_ciphertexts;
    assert_ne!(shares(user_after), shares(user_before), "shares are encrypted anew");
}

#[tokio::test]
async fn a_restart_forgets_preprocessings_and_keeps_keys_and_crss() {
    let mut world = World::start().await;
    let key = world.make_key(2, 1).await;
    world.core.key_gen_preproc(prep(2)).await.unwrap();
    world.core.get_key_gen_preproc_result(prep_id(2)).await.unwrap();
    world.core.crs_gen(crsgen(1)).await.unwrap();
    let crs = world.core.get_crs_gen_result(crs_id(1)).await.unwrap().into_inner();

    world.control.restart().await.unwrap();
    let mut core = core_client(channel(&world.node));
    assert_eq!(code(core.get_key_gen_preproc_result(prep_id(2)).await), Code::NotFound);
    assert_eq!(code(core.key_gen(keygen(3, 2)).await), Code::NotFound, "the material itself is gone");
    assert_eq!(core.get_key_gen_result(key_id(2)).await.unwrap().into_inner(), key);
    assert_eq!(core.get_crs_gen_result(crs_id(1)).await.unwrap().into_inner(), crs);
    assert_eq!(code(core.crs_gen(crsgen(1)).await), Code::AlreadyExists);
    let under_key_2 = PublicDecryptionRequest { key_id: Some(key_id(2)), ..public(1) };
    assert_eq!(code(core.public_decrypt(under_key_2).await), Code::Ok);
}

#[tokio::test]
async fn a_restart_stops_what_runs_and_gives_all_tokens_back() {
    let mut world = World::start().await;
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    world.core.get_key_gen_preproc_result(prep_id(1)).await.unwrap();
    world.hold(Operation::KeyGeneration).await;
    world.core.key_gen(keygen(2, 1)).await.unwrap();

    world.control.restart().await.unwrap();
    world.release(Operation::KeyGeneration).await;
    let mut core = core_client(channel(&world.node));
    assert_eq!(code(core.get_key_gen_result(key_id(2)).await), Code::NotFound);
    assert_eq!(world.control.stores().await.unwrap().free_tokens, 50_000);
}

#[tokio::test]
async fn a_restart_breaks_the_connections() {
    let mut world = World::start().await;
    world.hold(Operation::PublicDecryption).await;
    world.core.public_decrypt(public(1)).await.unwrap();
    let held = tokio::spawn(world.core.clone().get_public_owned(public_id(1)));
    world.until_called("GetPublicDecryptionResult", 1).await;
    world.control.restart().await.unwrap();
    assert_ne!(code(held.await.unwrap()), Code::Ok);
}

#[tokio::test]
async fn with_a_state_directory_keys_crss_setup_and_contexts_survive_the_process() {
    let directory = tempfile::tempdir().unwrap();
    let config = || SimulatorConfig {
        state_dir: Some(directory.path().to_owned()),
        initialized: false,
        keys: vec![],
        ..config()
    };
    let mut first = World::with(|of_world| *of_world = config()).await;
    first.core.init(InitRequest { request_id: Some(id(0, 1)), context_id: None }).await.unwrap();
    let key = first.make_key(2, 1).await;
    first.core.crs_gen(crsgen(1)).await.unwrap();
    let crs = first.core.get_crs_gen_result(crs_id(1)).await.unwrap().into_inner();
    let context = KmsContext { context_id: Some(id(7, 1)), ..KmsContext::default() };
    let request = NewKmsContextRequest { active_context: None, new_context: Some(context) };
    first.core.new_kms_context(request.clone()).await.unwrap();
    drop(first);

    let mut second = World::with(|of_world| *of_world = config()).await;
    assert_eq!(second.core.get_key_gen_result(key_id(2)).await.unwrap().into_inner(), key);
    assert_eq!(second.core.get_crs_gen_result(crs_id(1)).await.unwrap().into_inner(), crs);
    let init = InitRequest { request_id: Some(id(0, 1)), context_id: None };
    assert_eq!(code(second.core.init(init).await), Code::AlreadyExists);
    assert_eq!(code(second.core.new_kms_context(request).await), Code::AlreadyExists);
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_used_is_named_at_start() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a-file");
    std::fs::write(&file, "").unwrap();
    let config = SimulatorConfig { state_dir: Some(file.clone()), ..config() };
    let error = start(config, CancellationToken::new()).await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("KC-0853", 3));
    assert!(error.to_string().contains(file.to_str().unwrap()));
}

#[tokio::test]
async fn a_taken_port_is_named_at_start() {
    let world = World::start().await;
    let config = SimulatorConfig { listen: world.node.grpc_address(), ..config() };
    let error = start(config, CancellationToken::new()).await.unwrap_err();
    assert_eq!((error.code(), error.exit_code()), ("KC-0852", 3));
    assert!(error.to_string().contains(&world.node.grpc_address().to_string()));
}

#[tokio::test]
async fn a_restart_keeps_contexts_epochs_and_their_keys_and_forgets_results_of_epochs() {
    for version in versions_with_epochs() {
        let mut world = World::threshold(version).await;
        world.make_key(2, 1).await;
        world.core.new_mpc_context(new_context(2)).await.unwrap();
        world.make_epoch(new_epoch(2)).await;

        world.control.restart().await.unwrap();
        let mut core = core_client(channel(&world.node));
        assert_eq!(code(core.get_epoch_result(epoch_id(2)).await), Code::NotFound, "{version:?}");
        assert_eq!(code(core.new_mpc_epoch(new_epoch(2)).await), Code::InvalidArgument, "{version:?}: it is stored");
        assert_eq!(code(core.new_mpc_context(new_context(2)).await), Code::AlreadyExists, "{version:?}");
        let under = PublicDecryptionRequest { key_id: Some(key_id(2)), ..public(1) };
        assert_eq!(code(core.public_decrypt(under).await), Code::Ok, "{version:?}");
    }
}

#[tokio::test]
async fn a_restart_takes_an_epoch_that_is_being_made_with_it() {
    let mut world = World::threshold(CoreVersion::V0_15).await;
    world.hold(Operation::EpochCreation).await;
    world.core.new_mpc_epoch(new_epoch(2)).await.unwrap();
    world.control.restart().await.unwrap();
    world.release(Operation::EpochCreation).await;
    let mut core = core_client(channel(&world.node));
    assert_eq!(code(core.get_epoch_result(epoch_id(2)).await), Code::NotFound);
    assert_eq!(code(core.new_mpc_epoch(new_epoch(2)).await), Code::Ok, "it can be started again");
}

#[tokio::test]
async fn what_was_destroyed_stays_destroyed_in_the_next_process() {
    let directory = tempfile::tempdir().unwrap();
    let config =
        || SimulatorConfig { version: CoreVersion::V0_15, state_dir: Some(directory.path().to_owned()), ..config() };
    let mut first = World::with(|of_world| *of_world = config()).await;
    let key = first.make_key(2, 1).await;
    first.core.new_mpc_context(new_context(2)).await.unwrap();
    first.make_epoch(NewMpcEpochRequest { context_id: Some(context_id(2)), ..new_epoch(2) }).await;
    first.core.destroy_mpc_context(DestroyMpcContextRequest { context_id: Some(context_id(1)) }).await.unwrap();
    drop(first);

    let mut second = World::with(|of_world| *of_world = config()).await;
    let node = second.control.node().await.unwrap();
    assert_eq!(node.contexts, [context_id(2).request_id]);
    assert_eq!(node.epochs, [epoch_id(2).request_id]);
    assert_eq!(code(second.core.public_decrypt(public(1)).await), Code::NotFound);
    let material = second.core.get_key_material_availability(Empty {}).await.unwrap().into_inner();
    assert!(!material.fhe_key_ids.contains(&key.request_id.unwrap().request_id), "its last epoch is gone");
}
