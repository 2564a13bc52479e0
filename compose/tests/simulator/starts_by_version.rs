//! Codes of starts where versions differ: one test per row of the tables.

use kms_proto::kms::v1::*;
use kms_stack::simulator::{CoreVersion, Mode, Operation};
use tonic::Code;

use CoreVersion::*;

use crate::world::*;

#[tokio::test]
async fn a_full_decryption_store_is_aborted_up_to_0_13_22_and_then_resource_exhausted() {
    for version in CoreVersion::ALL {
        let mut world = World::with(|config| {
            config.version = version;
            config.limits.decryption_capacity = 2;
            config.limits.decryptions_kept = 1;
        })
        .await;
        world.hold(Operation::PublicDecryption).await;
        world.core.public_decrypt(public(1)).await.unwrap();
        world.core.public_decrypt(public(2)).await.unwrap();
        let expected = if version < V0_14 { Code::Aborted } else { Code::ResourceExhausted };
        assert_eq!(code(world.core.public_decrypt(public(3)).await), expected, "{version:?}");
        let get = code(world.core.get_public_decryption_result(public_id(3)).await);
        assert_eq!(get, Code::NotFound, "{version:?}: it leaves no trace");
    }
}

/// What becomes of a decryption under an unknown key: the code, and whether its id is stuck.
const UNKNOWN_KEY: &[(CoreVersion, Mode, Code, bool)] = &[
    (V0_12, Mode::Threshold, Code::NotFound, false),
    (V0_12, Mode::Centralized, Code::Aborted, true),
    (V0_13_0, Mode::Threshold, Code::NotFound, true),
    (V0_13_0, Mode::Centralized, Code::NotFound, false),
    (V0_13_10, Mode::Threshold, Code::NotFound, true),
    (V0_13_10, Mode::Centralized, Code::NotFound, false),
    (V0_13_20, Mode::Threshold, Code::NotFound, true),
    (V0_13_20, Mode::Centralized, Code::NotFound, false),
    (V0_14, Mode::Threshold, Code::NotFound, false),
    (V0_14, Mode::Centralized, Code::NotFound, false),
    (V0_15, Mode::Threshold, Code::NotFound, false),
    (V0_15, Mode::Centralized, Code::NotFound, false),
];

/// The id was refused: it can be started, or it is pending until the node restarts.
async fn check_trace(world: &mut World, is_stuck: bool, what: &str) {
    if !is_stuck {
        assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::NotFound, "{what}");
        assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Ok, "{what}");
        return;
    }
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::AlreadyExists, "{what}");
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::Unavailable, "{what}");
    let stores = world.control.stores().await.unwrap();
    assert_eq!((stores.public_decryptions.pending, stores.free_tokens), (1, 50_000), "{what}");
    world.control.restart().await.unwrap();
    world.core = core_client(channel(&world.node));
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::NotFound, "{what}");
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Ok, "{what}: a restart heals it");
}

#[tokio::test]
async fn a_decryption_under_an_unknown_key_leaves_a_stuck_id_where_the_version_does() {
    for &(version, mode, expected, is_stuck) in UNKNOWN_KEY {
        let mut world = World::with(|config| {
            config.version = version;
            config.mode = mode;
            config.wait_ms = short_waits();
        })
        .await;
        let what = format!("{version:?}, {mode:?}");
        let unknown = PublicDecryptionRequest { key_id: Some(key_id(9)), ..public(1) };
        assert_eq!(code(world.core.public_decrypt(unknown).await), expected, "{what}");
        check_trace(&mut world, is_stuck, &what).await;
        let unknown = UserDecryptionRequest { key_id: Some(key_id(9)), ..user(1) };
        assert_eq!(code(world.core.user_decrypt(unknown).await), expected, "{what}");
        let again = if is_stuck { Code::AlreadyExists } else { Code::Ok };
        assert_eq!(code(world.core.user_decrypt(user(1)).await), again, "{what}");
    }
}

#[tokio::test]
async fn without_a_signing_key_every_start_is_a_failed_precondition_and_stuck_in_0_13() {
    for version in CoreVersion::ALL {
        for mode in [Mode::Threshold, Mode::Centralized] {
            let mut world = World::with(|config| {
                config.version = version;
                config.mode = mode;
                config.wait_ms = short_waits();
                config.recovery = true;
            })
            .await;
            let core = &mut world.core;
            let codes = [
                code(core.public_decrypt(public(1)).await),
                code(core.key_gen_preproc(prep(1)).await),
                code(core.key_gen(keygen(2, 1)).await),
                code(core.crs_gen(crsgen(1)).await),
            ];
            assert_eq!(codes, [Code::FailedPrecondition; 4], "{version:?}, {mode:?}");
            world.control.set_recovery(false).await.unwrap();
            let is_stuck = (V0_13_0..=V0_13_20).contains(&version);
            check_trace(&mut world, is_stuck, &format!("{version:?}, {mode:?}")).await;
            assert_eq!(code(world.core.key_gen_preproc(prep(1)).await), Code::Ok, "{version:?}, {mode:?}");
        }
    }
}

#[tokio::test]
async fn an_unknown_context_is_not_found_from_0_13_0_on_and_leaves_no_trace() {
    for version in CoreVersion::ALL {
        for mode in [Mode::Threshold, Mode::Centralized] {
            let mut world = World::of(version, mode).await;
            let expected = if version == V0_12 { Code::Internal } else { Code::NotFound };
            let context_id = Some(context_id(9));
            let core = &mut world.core;
            let codes = [
                code(
                    core.public_decrypt(PublicDecryptionRequest { context_id: context_id.clone(), ..public(1) }).await,
                ),
                code(core.user_decrypt(UserDecryptionRequest { context_id: context_id.clone(), ..user(1) }).await),
                code(core.key_gen_preproc(KeyGenPreprocRequest { context_id: context_id.clone(), ..prep(1) }).await),
                code(core.key_gen(KeyGenRequest { context_id: context_id.clone(), ..keygen(2, 1) }).await),
                code(core.crs_gen(CrsGenRequest { context_id, ..crsgen(1) }).await),
            ];
            assert_eq!(codes, [expected; 5], "{version:?}, {mode:?}");
            let get = code(world.core.get_public_decryption_result(public_id(1)).await);
            assert_eq!(get, Code::NotFound, "{version:?}, {mode:?}");
        }
    }
}

#[tokio::test]
async fn an_unknown_epoch_is_not_found_on_threshold_nodes_from_0_13_0_on() {
    for version in CoreVersion::ALL {
        for mode in [Mode::Threshold, Mode::Centralized] {
            let mut world = World::of(version, mode).await;
            let epoch_id = Some(epoch_id(9));
            let refuses = version >= V0_13_0 && mode == Mode::Threshold;
            let expected = |served| if refuses { Code::NotFound } else { served };
            let core = &mut world.core;
            // A centralized node takes any epoch, but holds no key in it.
            let decrypted = if version >= V0_13_0 { Code::NotFound } else { Code::Ok };
            let request = PublicDecryptionRequest { epoch_id: epoch_id.clone(), ..public(1) };
            assert_eq!(code(core.public_decrypt(request).await), decrypted, "{version:?}, {mode:?}");
            let request = KeyGenPreprocRequest { epoch_id: epoch_id.clone(), ..prep(1) };
            assert_eq!(code(core.key_gen_preproc(request).await), expected(Code::Ok), "{version:?}, {mode:?}");
            let request = CrsGenRequest { epoch_id, ..crsgen(1) };
            let named = version >= V0_13_10;
            let crs = if named { expected(Code::Ok) } else { Code::Ok };
            assert_eq!(code(core.crs_gen(request).await), crs, "{version:?}, {mode:?}");
            let get = code(core.get_public_decryption_result(public_id(1)).await);
            let known = if decrypted == Code::Ok { Code::Ok } else { Code::NotFound };
            assert_eq!(get, known, "{version:?}, {mode:?}: a refusal leaves no trace");
        }
    }
}

#[tokio::test]
async fn a_key_of_a_centralized_node_is_found_in_the_epoch_it_was_made_in_alone() {
    for version in versions_with_epochs() {
        let mut world = World::of(version, Mode::Centralized).await;
        let epoch_id = Some(epoch_id(5));
        let prep = KeyGenPreprocRequest { epoch_id: epoch_id.clone(), ..prep(1) };
        world.make_key_with(KeyGenRequest { epoch_id: epoch_id.clone(), ..keygen(2, 1) }, prep).await;
        let under = PublicDecryptionRequest { key_id: Some(key_id(2)), ..public(1) };
        assert_eq!(code(world.core.public_decrypt(under.clone()).await), Code::NotFound, "{version:?}");
        let there = PublicDecryptionRequest { epoch_id, ..under };
        assert_eq!(code(world.core.public_decrypt(there).await), Code::Ok, "{version:?}");
    }
}

#[tokio::test]
async fn a_failed_decryption_is_done_again_from_0_14_on_and_burnt_before() {
    for version in CoreVersion::ALL {
        let mut world = World::threshold(version).await;
        for failing in [public_id(1), user_id(1)] {
            world.control.fail_id(&failing.request_id).await.unwrap();
        }
        world.core.public_decrypt(public(1)).await.unwrap();
        world.core.user_decrypt(user(1)).await.unwrap();
        assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::Internal);
        assert_eq!(code(world.core.get_user_decryption_result(user_id(1)).await), Code::Internal);
        for failing in [public_id(1), user_id(1)] {
            world.control.mend_id(&failing.request_id).await.unwrap();
        }
        let (start, get) = if version < V0_14 { (Code::AlreadyExists, Code::Internal) } else { (Code::Ok, Code::Ok) };
        assert_eq!(code(world.core.public_decrypt(public(1)).await), start, "{version:?}");
        assert_eq!(code(world.core.user_decrypt(user(1)).await), start, "{version:?}");
        assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), get, "{version:?}");
        assert_eq!(code(world.core.get_user_decryption_result(user_id(1)).await), get, "{version:?}");
        assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::AlreadyExists, "{version:?}: done");
    }
}

#[tokio::test]
async fn a_running_and_a_finished_decryption_already_exist_in_every_version() {
    for version in CoreVersion::ALL {
        let mut world = World::threshold(version).await;
        world.hold(Operation::PublicDecryption).await;
        world.core.public_decrypt(public(1)).await.unwrap();
        assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::AlreadyExists, "{version:?}");
        world.release(Operation::PublicDecryption).await;
        world.core.get_public_decryption_result(public_id(1)).await.unwrap();
        assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::AlreadyExists, "{version:?}");
    }
}

#[tokio::test]
async fn failed_preprocessings_keys_and_crss_burn_their_ids_in_every_version() {
    for version in CoreVersion::ALL {
        let mut world = World::threshold(version).await;
        for id in [prep_id(1), key_id(2), crs_id(1)] {
            world.control.fail_id(&id.request_id).await.unwrap();
        }
        world.core.key_gen_preproc(prep(1)).await.unwrap();
        world.core.crs_gen(crsgen(1)).await.unwrap();
        world.core.key_gen_preproc(prep(2)).await.unwrap();
        until_done(|| world.core.clone().get_prep_owned(prep_id(2))).await;
        world.core.key_gen(keygen(2, 2)).await.unwrap();
        eventually(|| async {
            let stores = world.control.stores().await.unwrap();
            (stores.preprocessings.failed, stores.crs.failed, stores.keys.failed) == (1, 1, 1)
        })
        .await;
        assert_eq!(code(world.core.key_gen_preproc(prep(1)).await), Code::AlreadyExists, "{version:?}");
        assert_eq!(code(world.core.crs_gen(crsgen(1)).await), Code::AlreadyExists, "{version:?}");
        assert_eq!(code(world.core.key_gen(keygen(2, 2)).await), Code::AlreadyExists, "{version:?}");
        assert_eq!(code(world.core.key_gen(keygen(3, 1)).await), Code::Internal, "{version:?}: failed preprocessing");
    }
}

#[tokio::test]
async fn a_key_generation_on_a_running_preprocessing_is_unavailable_at_once_except_in_0_12() {
    for version in CoreVersion::ALL.into_iter().filter(|&version| version > V0_12) {
        let mut world = World::threshold(version).await;
        world.hold(Operation::Preprocessing).await;
        world.core.key_gen_preproc(prep(1)).await.unwrap();
        assert_eq!(code(world.core.key_gen(keygen(2, 1)).await), Code::Unavailable, "{version:?}");
        assert_eq!(world.control.stores().await.unwrap().keys.pending, 0, "{version:?}");
    }
}

#[tokio::test]
async fn a_consumed_preprocessing_is_not_found_and_from_0_14_on_its_id_is_burnt() {
    for version in CoreVersion::ALL {
        let mut world = World::threshold(version).await;
        world.make_key(2, 1).await;
        assert_eq!(code(world.core.get_key_gen_preproc_result(prep_id(1)).await), Code::NotFound, "{version:?}");
        assert_eq!(code(world.core.key_gen(keygen(3, 1)).await), Code::NotFound, "{version:?}");
        let again = if version < V0_14 { Code::Ok } else { Code::AlreadyExists };
        assert_eq!(code(world.core.key_gen_preproc(prep(1)).await), again, "{version:?}");
    }
}

#[tokio::test]
async fn a_preprocessing_in_use_by_another_key_already_exists_in_0_15() {
    for version in CoreVersion::ALL {
        let mut world = World::threshold(version).await;
        world.core.key_gen_preproc(prep(1)).await.unwrap();
        until_done(|| world.core.clone().get_prep_owned(prep_id(1))).await;
        world.hold(Operation::KeyGeneration).await;
        world.core.key_gen(keygen(2, 1)).await.unwrap();
        let expected = if version < V0_15 { Code::NotFound } else { Code::AlreadyExists };
        assert_eq!(code(world.core.key_gen(keygen(3, 1)).await), expected, "{version:?}");
        assert_eq!(code(world.core.key_gen(keygen(2, 1)).await), Code::AlreadyExists, "{version:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_in_storage_already_exists_in_0_15() {
    let mut world = World::threshold(V0_15).await;
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    until_done(|| world.core.clone().get_prep_owned(prep_id(1))).await;
    assert_eq!(code(world.core.key_gen(keygen(1, 1)).await), Code::AlreadyExists);
}

#[tokio::test]
async fn users_keys_of_the_old_form_are_taken_up_to_0_13_11() {
    let mut legacy = 1568u64.to_le_bytes().to_vec();
    legacy.extend([4; 1568]);
    for version in CoreVersion::ALL {
        let mut world = World::threshold(version).await;
        let request = UserDecryptionRequest { enc_key: legacy.clone(), ..user(1) };
        let expected = if version < V0_13_20 { Code::Ok } else { Code::InvalidArgument };
        assert_eq!(code(world.core.user_decrypt(request).await), expected, "{version:?}");
        assert_eq!(code(world.core.user_decrypt(user(2)).await), Code::Ok, "{version:?}");
    }
}

#[tokio::test]
async fn an_unknown_signature_scheme_is_an_invalid_argument_in_0_15_and_ignored_before() {
    for version in CoreVersion::ALL {
        let mut world = World::threshold(version).await;
        let signing_schemes = vec![9];
        let expected = if version < V0_15 { Code::Ok } else { Code::InvalidArgument };
        let core = &mut world.core;
        let codes = [
            code(
                core.public_decrypt(PublicDecryptionRequest { signing_schemes: signing_schemes.clone(), ..public(1) })
                    .await,
            ),
            code(
                core.user_decrypt(UserDecryptionRequest { signing_schemes: signing_schemes.clone(), ..user(1) }).await,
            ),
            code(
                core.key_gen_preproc(KeyGenPreprocRequest { signing_schemes: signing_schemes.clone(), ..prep(1) })
                    .await,
            ),
            code(core.crs_gen(CrsGenRequest { signing_schemes, ..crsgen(1) }).await),
        ];
        assert_eq!(codes, [expected; 4], "{version:?}");
    }
}

/// A key set's configuration with numbers as they are on the wire.
fn key_set(secret_key_config: i32, compressed_key_config: i32) -> Option<KeySetConfig> {
    let standard = StandardKeySetConfig { compute_key_type: 0, secret_key_config, compressed_key_config };
    Some(KeySetConfig { keyset_type: KeySetType::Standard.into(), standard_keyset_config: Some(standard) })
}

#[tokio::test]
async fn a_key_sets_configuration_must_be_one_that_the_version_has_and_fit_the_preprocessing() {
    for version in CoreVersion::ALL {
        let mut world = World::threshold(version).await;
        let foreign = [
            Some(KeySetConfig { keyset_type: 1, standard_keyset_config: None }),
            Some(KeySetConfig { keyset_type: 9, standard_keyset_config: None }),
        ];
        let later = [key_set(1, 0), key_set(0, 2)];
        let wrong = foreign.into_iter().chain(later.into_iter().filter(|_| version >= V0_13_10));
        for keyset_config in wrong {
            let request = KeyGenPreprocRequest { keyset_config, ..prep(1) };
            assert_eq!(code(world.core.key_gen_preproc(request).await), Code::InvalidArgument, "{version:?}");
        }
        world.core.key_gen_preproc(prep(1)).await.unwrap();
        until_done(|| world.core.clone().get_prep_owned(prep_id(1))).await;
        // What is unset means the default; 1 is the other.
        let other = KeyGenRequest { keyset_config: key_set(0, 1), ..keygen(2, 1) };
        let expected = if version < V0_13_10 { Code::Ok } else { Code::InvalidArgument };
        assert_eq!(code(world.core.key_gen(other).await), expected, "{version:?}");
        let same = KeyGenRequest { keyset_config: key_set(0, 0), ..keygen(3, 1) };
        let expected = if version < V0_13_10 { Code::NotFound } else { Code::Ok };
        assert_eq!(code(world.core.key_gen(same).await), expected, "{version:?}: a refusal consumes nothing");
    }
}

#[tokio::test]
async fn every_version_refuses_the_same_mistakes() {
    let short = || Some(RequestId { request_id: "07".to_owned() });
    for version in CoreVersion::ALL {
        let mut world = World::threshold(version).await;
        let core = &mut world.core;
        let codes = [
            code(core.public_decrypt(PublicDecryptionRequest { request_id: None, ..public(1) }).await),
            code(core.public_decrypt(PublicDecryptionRequest { ciphertexts: vec![], ..public(1) }).await),
            code(core.public_decrypt(PublicDecryptionRequest { domain: None, ..public(1) }).await),
            code(core.public_decrypt(PublicDecryptionRequest { context_id: short(), ..public(1) }).await),
            code(core.user_decrypt(UserDecryptionRequest { client_address: CONTRACT.to_string(), ..user(1) }).await),
            code(core.user_decrypt(UserDecryptionRequest { enc_key: vec![1], ..user(1) }).await),
            code(core.key_gen_preproc(KeyGenPreprocRequest { params: 7, ..prep(1) }).await),
            code(core.key_gen(KeyGenRequest { preproc_id: None, ..keygen(2, 1) }).await),
            code(core.crs_gen(CrsGenRequest { max_num_bits: Some(3), ..crsgen(1) }).await),
        ];
        assert_eq!(codes, [Code::InvalidArgument; 9], "{version:?}");
        if version >= V0_13_0 {
            let request = PublicDecryptionRequest { epoch_id: short(), ..public(1) };
            assert_eq!(code(world.core.public_decrypt(request).await), Code::InvalidArgument, "{version:?}");
        }
    }
}

#[tokio::test]
async fn two_preprocessings_hold_the_bucket_in_every_version() {
    for version in CoreVersion::ALL {
        let mut world = World::threshold(version).await;
        world.hold(Operation::Preprocessing).await;
        world.core.key_gen_preproc(prep(1)).await.unwrap();
        world.core.key_gen_preproc(prep(2)).await.unwrap();
        let status = world.core.public_decrypt(public(1)).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{version:?}");
        world.release(Operation::Preprocessing).await;
        eventually(|| async { world.control.stores().await.unwrap().free_tokens == 50_000 }).await;
        assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Ok, "{version:?}");
    }
}

#[tokio::test]
async fn what_starts_and_waits_answers_the_result_or_joins_what_runs() {
    let mut world = World::threshold(V0_15).await;
    let first = world.core.public_decrypt_sync(public(1)).await.unwrap().into_inner();
    let again = world.core.public_decrypt_sync(public(1)).await.unwrap().into_inner();
    assert_eq!(first, again, "never ALREADY_EXISTS");
    assert_eq!(world.core.get_public_decryption_result(public_id(1)).await.unwrap().into_inner(), first);
    let shares = world.core.user_decrypt_sync(user(1)).await.unwrap().into_inner();
    assert_eq!(world.core.get_user_decryption_result(user_id(1)).await.unwrap().into_inner(), shares);

    world.hold(Operation::PublicDecryption).await;
    world.core.public_decrypt(public(2)).await.unwrap();
    let mut core = world.core.clone();
    let joined = tokio::spawn(async move { core.public_decrypt_sync(public(2)).await });
    world.until_called("PublicDecryptSync", 3).await;
    world.release(Operation::PublicDecryption).await;
    assert_eq!(code(joined.await.unwrap()), Code::Ok);
}

#[tokio::test]
async fn what_starts_and_waits_is_unavailable_after_the_wait_and_goes_on() {
    let mut world = World::with(|config| {
        config.version = V0_15;
        config.wait_ms = short_waits();
    })
    .await;
    world.hold(Operation::PublicDecryption).await;
    world.hold(Operation::UserDecryption).await;
    assert_eq!(code(world.core.public_decrypt_sync(public(1)).await), Code::Unavailable);
    assert_eq!(code(world.core.user_decrypt_sync(user(1)).await), Code::Unavailable);
    world.release(Operation::PublicDecryption).await;
    world.release(Operation::UserDecryption).await;
    until_done(|| world.core.clone().get_public_owned(public_id(1))).await;
    until_done(|| world.core.clone().get_user_owned(user_id(1))).await;
}

#[tokio::test]
async fn what_starts_and_waits_refuses_as_a_start_does() {
    let mut world = World::threshold(V0_15).await;
    let unknown = PublicDecryptionRequest { key_id: Some(key_id(9)), ..public(1) };
    assert_eq!(code(world.core.public_decrypt_sync(unknown).await), Code::NotFound);
    let invalid = UserDecryptionRequest { domain: None, ..user(1) };
    assert_eq!(code(world.core.user_decrypt_sync(invalid).await), Code::InvalidArgument);
    world.control.fail_id(&public_id(1).request_id).await.unwrap();
    assert_eq!(code(world.core.public_decrypt_sync(public(1)).await), Code::Internal);
    world.control.mend_id(&public_id(1).request_id).await.unwrap();
    assert_eq!(code(world.core.public_decrypt_sync(public(1)).await), Code::Ok, "a failed one is done again");
}
