//! Get calls: one code per state of the id, and how long they hold the call.

use kms_proto::kms::v1::*;
use kms_stack::simulator::Operation;
use tonic::Code;

use crate::world::*;

/// The codes of every Get for one id.
async fn codes_of_every_get(world: &World, id: &RequestId) -> Vec<(&'static str, Code)> {
    let core = || world.core.clone();
    vec![
        ("public decryption", code(core().get_public_owned(id.clone()).await)),
        ("user decryption", code(core().get_user_owned(id.clone()).await)),
        ("preprocessing", code(core().get_prep_owned(id.clone()).await)),
        ("key", code(core().get_key_gen_result_owned(id.clone()).await)),
        ("crs", code(core().get_crs_owned(id.clone()).await)),
        ("resharing", code(core().get_resharing_owned(id.clone()).await)),
    ]
}

#[tokio::test]
async fn a_malformed_or_zero_id_is_an_invalid_argument() {
    let world = World::start().await;
    for text in [String::new(), "1".to_owned(), "0".repeat(64), "z".repeat(64), "1".repeat(63)] {
        for (kind, code) in codes_of_every_get(&world, &RequestId { request_id: text.clone() }).await {
            assert_eq!(code, Code::InvalidArgument, "{kind} of {text:?}");
        }
    }
}

#[tokio::test]
async fn an_id_that_was_never_started_is_not_found() {
    let world = World::start().await;
    for (kind, code) in codes_of_every_get(&world, &id(1, 99)).await {
        assert_eq!(code, Code::NotFound, "{kind}");
    }
}

#[tokio::test]
async fn an_id_with_a_prefix_and_blanks_is_the_same_id() {
    let mut world = World::start().await;
    world.core.public_decrypt(public(1)).await.unwrap();
    let id = RequestId { request_id: format!(" 0x{} ", public_id(1).request_id.to_uppercase()) };
    assert_eq!(code(world.core.get_public_decryption_result(id).await), Code::Ok);
}

/// Starts one operation of every kind that has a result, key generation last because it needs a preprocessing.
async fn start_every_kind(world: &mut World) {
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    until_done(|| world.core.clone().get_prep_owned(prep_id(1))).await;
    for operation in Operation::ALL {
        world.hold(operation).await;
    }
    world.core.key_gen(keygen(2, 1)).await.unwrap();
    world.core.public_decrypt(public(1)).await.unwrap();
    world.core.user_decrypt(user(1)).await.unwrap();
    world.core.crs_gen(crsgen(1)).await.unwrap();
    world.core.initiate_resharing(reshare(1)).await.unwrap();
    world.core.key_gen_preproc(prep(2)).await.unwrap();
}

#[tokio::test]
async fn a_get_of_a_running_operation_is_unavailable_once_the_wait_is_over() {
    let mut world = World::impatient().await;
    start_every_kind(&mut world).await;
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::Unavailable);
    assert_eq!(code(world.core.get_user_decryption_result(user_id(1)).await), Code::Unavailable);
    assert_eq!(code(world.core.get_key_gen_preproc_result(prep_id(2)).await), Code::Unavailable);
    assert_eq!(code(world.core.get_key_gen_result(key_id(2)).await), Code::Unavailable);
    assert_eq!(code(world.core.get_crs_gen_result(crs_id(1)).await), Code::Unavailable);
    assert_eq!(code(world.core.get_resharing_result(reshare_id(1)).await), Code::Unavailable);
}

#[tokio::test]
async fn a_get_holds_the_call_until_the_operation_finishes() {
    let mut world = World::start().await;
    start_every_kind(&mut world).await;
    let core = || world.core.clone();
    let gets = tokio::spawn(futures::future::join5(
        core().get_public_owned(public_id(1)),
        core().get_user_owned(user_id(1)),
        core().get_prep_owned(prep_id(2)),
        core().get_key_gen_result_owned(key_id(2)),
        futures::future::join(core().get_crs_owned(crs_id(1)), core().get_resharing_owned(reshare_id(1))),
    ));
    for rpc in [
        "GetPublicDecryptionResult",
        "GetUserDecryptionResult",
        "GetKeyGenResult",
        "GetCrsGenResult",
        "GetResharingResult",
    ] {
        world.until_called(rpc, 1).await;
    }
    world.until_called("GetKeyGenPreprocResult", 2).await;
    for operation in Operation::ALL {
        world.release(operation).await;
    }
    let (public, user, prep, key, (crs, resharing)) = gets.await.unwrap();
    let codes = [code(public), code(user), code(prep), code(key), code(crs), code(resharing)];
    assert_eq!(codes, [Code::Ok; 6]);
    let calls = world.control.calls().await.unwrap();
    assert_eq!(calls.count("GetPublicDecryptionResult"), 1, "one held call was enough");
}

#[tokio::test]
async fn a_result_is_the_same_again_on_every_get() {
    let mut world = World::start().await;
    world.core.public_decrypt(public(1)).await.unwrap();
    world.core.user_decrypt(user(1)).await.unwrap();
    let public = world.core.get_public_decryption_result(public_id(1)).await.unwrap().into_inner();
    let user = world.core.get_user_decryption_result(user_id(1)).await.unwrap().into_inner();
    for _ in 0..3 {
        assert_eq!(world.core.get_public_decryption_result(public_id(1)).await.unwrap().into_inner(), public);
        assert_eq!(world.core.get_user_decryption_result(user_id(1)).await.unwrap().into_inner(), user);
    }
}

#[tokio::test]
async fn a_failed_operation_is_internal_on_every_get() {
    let mut world = World::start().await;
    for id in [public_id(1), user_id(1), prep_id(1), key_id(2), crs_id(1), reshare_id(1)] {
        world.control.fail_id(&id.request_id).await.unwrap();
    }
    world.core.public_decrypt(public(1)).await.unwrap();
    world.core.user_decrypt(user(1)).await.unwrap();
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    world.core.key_gen_preproc(prep(2)).await.unwrap();
    world.core.get_key_gen_preproc_result(prep_id(2)).await.unwrap();
    world.core.key_gen(keygen(2, 2)).await.unwrap();
    world.core.crs_gen(crsgen(1)).await.unwrap();
    world.core.initiate_resharing(reshare(1)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::Internal);
        assert_eq!(code(world.core.get_user_decryption_result(user_id(1)).await), Code::Internal);
        assert_eq!(code(world.core.get_key_gen_preproc_result(prep_id(1)).await), Code::Internal);
        assert_eq!(code(world.core.get_key_gen_result(key_id(2)).await), Code::Internal);
        assert_eq!(code(world.core.get_crs_gen_result(crs_id(1)).await), Code::Internal);
        assert_eq!(code(world.core.get_resharing_result(reshare_id(1)).await), Code::Internal);
    }
}

#[tokio::test]
async fn a_failing_handle_fails_the_whole_decryption() {
    let mut world = World::start().await;
    world.control.fail_handle(handle(8, 0)).await.unwrap();
    world.core.public_decrypt(public(1)).await.unwrap();
    world.core.user_decrypt(user(1)).await.unwrap();
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::Internal);
    assert_eq!(code(world.core.get_user_decryption_result(user_id(1)).await), Code::Internal);

    world.control.mend_handle(handle(8, 0)).await.unwrap();
    world.core.public_decrypt(public(2)).await.unwrap();
    assert_eq!(code(world.core.get_public_decryption_result(public_id(2)).await), Code::Ok);
}

#[tokio::test]
async fn an_unknown_type_a_long_handle_and_an_empty_ciphertext_are_accepted_and_fail() {
    let mut world = World::start().await;
    let unknown_type = TypedCiphertext { fhe_type: 200, ..ciphertext(7, 200) };
    let empty = TypedCiphertext { ciphertext: vec![].into(), ..ciphertext(7, 5) };
    let long_handle = TypedCiphertext { external_handle: vec![1; 33], ..ciphertext(7, 5) };
    for (counter, ciphertext) in (1..).zip([unknown_type, empty, long_handle]) {
        let request = PublicDecryptionRequest { ciphertexts: vec![ciphertext], ..public(counter) };
        world.core.public_decrypt(request).await.unwrap();
        assert_eq!(code(world.core.get_public_decryption_result(public_id(counter)).await), Code::Internal);
    }
}

#[tokio::test]
async fn cancelling_a_get_does_not_cancel_the_operation() {
    let mut world = World::start().await;
    world.hold(Operation::PublicDecryption).await;
    world.core.public_decrypt(public(1)).await.unwrap();
    let get = tokio::spawn(world.core.clone().get_public_owned(public_id(1)));
    world.until_called("GetPublicDecryptionResult", 1).await;
    get.abort();
    world.release(Operation::PublicDecryption).await;
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::Ok);
}

#[tokio::test]
async fn an_operation_runs_as_long_as_its_latency() {
    let mut world = World::with(|config| {
        config.wait_ms = short_waits();
        config.latency_ms.public_decryption = 24 * 60 * 60 * 1000;
    })
    .await;
    world.core.public_decrypt(public(1)).await.unwrap();
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::Unavailable);
    let mut latencies = world.control.switches().await.unwrap().latency_ms;
    latencies.public_decryption = 1;
    world.control.set_latency_ms(&latencies).await.unwrap();
    world.core.public_decrypt(public(2)).await.unwrap();
    until_done(|| world.core.clone().get_public_owned(public_id(2))).await;
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::Unavailable);
}

#[tokio::test]
async fn the_time_scale_shortens_hours_to_moments() {
    let mut world = World::with(|config| {
        config.time_scale = 1e-6;
        config.limits.request_timeout_ms = Some(u64::MAX / 2);
        config.latency_ms.crs_generation = 60 * 60 * 1000;
        config.wait_ms.crs_generation = Some(24 * 60 * 60 * 1000 * 1000);
    })
    .await;
    world.core.crs_gen(crsgen(1)).await.unwrap();
    assert_eq!(code(world.core.get_crs_gen_result(crs_id(1)).await), Code::Ok);
}
