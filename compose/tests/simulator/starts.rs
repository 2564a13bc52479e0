//! Start calls: what they accept, and the code of each refusal.

use kms_proto::kms::v1::*;
use kms_stack::simulator::{Fault, Operation};
use tonic::Code;

use crate::world::*;

#[tokio::test]
async fn a_start_is_accepted_with_an_empty_answer() {
    let mut world = World::start().await;
    assert_eq!(world.core.public_decrypt(public(1)).await.unwrap().into_inner(), Empty {});
    assert_eq!(world.core.user_decrypt(user(1)).await.unwrap().into_inner(), Empty {});
    assert_eq!(world.core.key_gen_preproc(prep(1)).await.unwrap().into_inner(), Empty {});
    assert_eq!(world.core.key_gen(keygen(2, 1)).await.unwrap().into_inner(), Empty {});
    assert_eq!(world.core.crs_gen(crsgen(1)).await.unwrap().into_inner(), Empty {});
}

#[tokio::test]
async fn without_enough_tokens_a_start_is_resource_exhausted_and_leaves_no_trace() {
    let mut world = World::limited(|limits| {
        limits.bucket = 4;
        limits.tokens.public_decryption = 3;
        limits.tokens.user_decryption = 2;
    })
    .await;
    world.hold(Operation::PublicDecryption).await;
    world.core.public_decrypt(public(1)).await.unwrap();
    assert_eq!(code(world.core.user_decrypt(user(1)).await), Code::ResourceExhausted);
    assert_eq!(code(world.core.get_user_decryption_result(user_id(1)).await), Code::NotFound);

    world.release(Operation::PublicDecryption).await;
    until_done(|| world.core.clone().get_public_owned(public_id(1))).await;
    eventually(|| async { world.control.stores().await.unwrap().free_tokens == 4 }).await;
    assert_eq!(code(world.core.user_decrypt(user(1)).await), Code::Ok);
}

#[tokio::test]
async fn two_preprocessings_hold_the_whole_default_bucket_until_they_end() {
    let mut world = World::impatient().await;
    world.hold(Operation::Preprocessing).await;
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    world.core.key_gen_preproc(prep(2)).await.unwrap();
    assert_eq!(code(world.core.key_gen_preproc(prep(3)).await), Code::ResourceExhausted);
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::ResourceExhausted);

    world.release(Operation::Preprocessing).await;
    eventually(|| async { world.control.stores().await.unwrap().free_tokens == 50_000 }).await;
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Ok);
}

#[tokio::test]
async fn a_refused_start_gives_its_tokens_back() {
    let mut world = World::limited(|limits| limits.bucket = 1).await;
    for counter in 0..5 {
        let request = PublicDecryptionRequest { domain: None, ..public(counter + 1) };
        assert_eq!(code(world.core.public_decrypt(request).await), Code::InvalidArgument);
    }
    assert_eq!(world.control.stores().await.unwrap().free_tokens, 1);
}

#[tokio::test]
async fn a_full_decryption_store_is_aborted_and_the_id_stays_unknown() {
    let mut world = World::limited(|limits| {
        limits.decryption_capacity = 2;
        limits.decryptions_kept = 1;
    })
    .await;
    world.hold(Operation::PublicDecryption).await;
    world.core.public_decrypt(public(1)).await.unwrap();
    world.core.public_decrypt(public(2)).await.unwrap();
    assert_eq!(code(world.core.public_decrypt(public(3)).await), Code::Aborted);
    assert_eq!(code(world.core.get_public_decryption_result(public_id(3)).await), Code::NotFound);
    assert_eq!(code(world.core.user_decrypt(user(1)).await), Code::Ok, "each kind has a store of its own");
}

#[tokio::test]
async fn a_full_decryption_store_evicts_the_oldest_finished_entry() {
    let mut world = World::limited(|limits| {
        limits.decryption_capacity = 2;
        limits.decryptions_kept = 1;
    })
    .await;
    for counter in 1..=3 {
        world.core.public_decrypt(public(counter)).await.unwrap();
        until_done(|| world.core.clone().get_public_owned(public_id(counter))).await;
    }
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::NotFound);
    assert_eq!(code(world.core.get_public_decryption_result(public_id(3)).await), Code::Ok);
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Ok, "an evicted id can be started again");
}

/// Requests with one mistake each.
fn mistakes_of_ids() -> Vec<Option<RequestId>> {
    let text = |text: String| Some(RequestId { request_id: text });
    vec![
        None,
        text(String::new()),
        text("01".to_owned()),
        text("0".repeat(64)),
        text("x".repeat(64)),
        text("1".repeat(66)),
    ]
}

fn mistakes_of_domains() -> Vec<Option<Eip712DomainMsg>> {
    let right = domain_message("Decryption");
    vec![
        None,
        Some(Eip712DomainMsg { verifying_contract: right.verifying_contract.to_lowercase(), ..right.clone() }),
        Some(Eip712DomainMsg { verifying_contract: right.verifying_contract[2..].to_owned(), ..right.clone() }),
        Some(Eip712DomainMsg { verifying_contract: String::new(), ..right.clone() }),
        Some(Eip712DomainMsg { chain_id: vec![0; 33], ..right.clone() }),
        Some(Eip712DomainMsg { salt: Some(vec![0; 31]), ..right }),
    ]
}

#[tokio::test]
async fn every_mistake_in_a_public_decryption_is_an_invalid_argument() {
    let mut world = World::start().await;
    let mut wrong = vec![PublicDecryptionRequest { ciphertexts: vec![], ..public(1) }];
    for id in mistakes_of_ids() {
        wrong.push(PublicDecryptionRequest { request_id: id.clone(), ..public(1) });
        wrong.push(PublicDecryptionRequest { key_id: id, ..public(1) });
    }
    wrong.extend(mistakes_of_domains().into_iter().map(|domain| PublicDecryptionRequest { domain, ..public(1) }));
    for request in wrong {
        let text = format!("{request:?}");
        assert_eq!(code(world.core.public_decrypt(request).await), Code::InvalidArgument, "{text}");
    }
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::NotFound);
}

#[tokio::test]
async fn every_mistake_in_a_user_decryption_is_an_invalid_argument() {
    let mut world = World::start().await;
    let mut long_handle = ciphertext(7, 5);
    long_handle.external_handle.push(0);
    let mut wrong = vec![
        UserDecryptionRequest { typed_ciphertexts: vec![], ..user(1) },
        UserDecryptionRequest { typed_ciphertexts: vec![long_handle], ..user(1) },
        UserDecryptionRequest { client_address: USER.to_string().to_lowercase(), ..user(1) },
        UserDecryptionRequest { client_address: CONTRACT.to_string(), ..user(1) },
        UserDecryptionRequest { client_address: String::new(), ..user(1) },
        UserDecryptionRequest { enc_key: vec![], ..user(1) },
        UserDecryptionRequest { enc_key: vec![9; 869], ..user(1) },
    ];
    for id in mistakes_of_ids() {
        wrong.push(UserDecryptionRequest { request_id: id.clone(), ..user(1) });
        wrong.push(UserDecryptionRequest { key_id: id, ..user(1) });
    }
    wrong.extend(mistakes_of_domains().into_iter().map(|domain| UserDecryptionRequest { domain, ..user(1) }));
    for request in wrong {
        let text = format!("{request:?}");
        assert_eq!(code(world.core.user_decrypt(request).await), Code::InvalidArgument, "{text}");
    }
    assert_eq!(code(world.core.get_user_decryption_result(user_id(1)).await), Code::NotFound);
}

fn foreign_key_sets() -> Vec<Option<KeySetConfig>> {
    [1, 2, 9].map(|keyset_type| Some(KeySetConfig { keyset_type, standard_keyset_config: None })).into()
}

#[tokio::test]
async fn every_mistake_in_a_preprocessing_is_an_invalid_argument() {
    let mut world = World::start().await;
    let mut wrong = vec![KeyGenPreprocRequest { params: 2, ..prep(1) }, KeyGenPreprocRequest { params: -1, ..prep(1) }];
    wrong.extend(mistakes_of_ids().into_iter().map(|id| KeyGenPreprocRequest { request_id: id, ..prep(1) }));
    wrong.extend(mistakes_of_domains().into_iter().map(|domain| KeyGenPreprocRequest { domain, ..prep(1) }));
    wrong.extend(foreign_key_sets().into_iter().map(|set| KeyGenPreprocRequest { keyset_config: set, ..prep(1) }));
    for request in wrong {
        let text = format!("{request:?}");
        assert_eq!(code(world.core.key_gen_preproc(request).await), Code::InvalidArgument, "{text}");
    }
}

#[tokio::test]
async fn every_mistake_in_a_key_generation_is_an_invalid_argument() {
    let mut world = World::start().await;
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    world.core.get_key_gen_preproc_result(prep_id(1)).await.unwrap();
    let other_standard_set = KeySetConfig {
        keyset_type: KeySetType::Standard.into(),
        standard_keyset_config: Some(StandardKeySetConfig { secret_key_config: 1, ..StandardKeySetConfig::default() }),
    };
    let mut wrong = vec![
        KeyGenRequest { params: Some(2), ..keygen(2, 1) },
        KeyGenRequest { params: Some(FheParameter::Default.into()), ..keygen(2, 1) },
        KeyGenRequest { keyset_config: Some(other_standard_set), ..keygen(2, 1) },
    ];
    for id in mistakes_of_ids() {
        wrong.push(KeyGenRequest { request_id: id.clone(), ..keygen(2, 1) });
        wrong.push(KeyGenRequest { preproc_id: id, ..keygen(2, 1) });
    }
    wrong.extend(mistakes_of_domains().into_iter().map(|domain| KeyGenRequest { domain, ..keygen(2, 1) }));
    wrong.extend(foreign_key_sets().into_iter().map(|set| KeyGenRequest { keyset_config: set, ..keygen(2, 1) }));
    for request in wrong {
        let text = format!("{request:?}");
        assert_eq!(code(world.core.key_gen(request).await), Code::InvalidArgument, "{text}");
    }
    assert_eq!(code(world.core.key_gen(keygen(2, 1)).await), Code::Ok, "a refusal does not consume the preprocessing");
}

#[tokio::test]
async fn every_mistake_in_a_crs_generation_is_an_invalid_argument() {
    let mut world = World::start().await;
    let mut wrong = vec![CrsGenRequest { params: 2, ..crsgen(1) }];
    let sizes = [0, 3, 1000, 4096, u32::MAX];
    wrong.extend(sizes.map(|bits| CrsGenRequest { max_num_bits: Some(bits), ..crsgen(1) }));
    wrong.extend(mistakes_of_ids().into_iter().map(|id| CrsGenRequest { request_id: id, ..crsgen(1) }));
    wrong.extend(mistakes_of_domains().into_iter().map(|domain| CrsGenRequest { domain, ..crsgen(1) }));
    for request in wrong {
        let text = format!("{request:?}");
        assert_eq!(code(world.core.crs_gen(request).await), Code::InvalidArgument, "{text}");
    }
}

#[tokio::test]
async fn a_decryption_under_an_unknown_key_is_not_found_and_leaves_no_trace_on_a_threshold_node() {
    let mut world = World::start().await;
    let request = PublicDecryptionRequest { key_id: Some(key_id(9)), ..public(1) };
    assert_eq!(code(world.core.public_decrypt(request).await), Code::NotFound);
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::NotFound);
    let request = UserDecryptionRequest { key_id: Some(key_id(9)), ..user(1) };
    assert_eq!(code(world.core.user_decrypt(request).await), Code::NotFound);
    assert_eq!(code(world.core.user_decrypt(user(1)).await), Code::Ok, "the same id can be sent once the key is there");
}

#[tokio::test]
async fn a_decryption_under_an_unknown_key_is_aborted_and_stuck_on_a_centralized_node_until_it_restarts() {
    let mut world = World::centralized().await;
    let unknown = PublicDecryptionRequest { key_id: Some(key_id(9)), ..public(1) };
    assert_eq!(code(world.core.public_decrypt(unknown).await), Code::Aborted);
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::AlreadyExists);
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::Unavailable);
    assert_eq!(world.control.stores().await.unwrap().free_tokens, 50_000);

    world.control.restart().await.unwrap();
    let mut core = core_client(channel(&world.node));
    assert_eq!(code(core.get_public_decryption_result(public_id(1)).await), Code::NotFound);
    assert_eq!(code(core.public_decrypt(public(1)).await), Code::Ok);
}

#[tokio::test]
async fn a_decryption_under_a_key_that_was_generated_is_accepted() {
    let mut world = World::start().await;
    world.make_key(2, 1).await;
    let request = PublicDecryptionRequest { key_id: Some(key_id(2)), ..public(1) };
    assert_eq!(code(world.core.public_decrypt(request).await), Code::Ok);
}

#[tokio::test]
async fn an_unknown_context_is_internal_and_leaves_no_trace() {
    let mut world = World::start().await;
    let context_id = Some(id(7, 9));
    let public_request = PublicDecryptionRequest { context_id: context_id.clone(), ..public(1) };
    assert_eq!(code(world.core.public_decrypt(public_request).await), Code::Internal);
    let user_request = UserDecryptionRequest { context_id: context_id.clone(), ..user(1) };
    assert_eq!(code(world.core.user_decrypt(user_request).await), Code::Internal);
    let prep_request = KeyGenPreprocRequest { context_id: context_id.clone(), ..prep(1) };
    assert_eq!(code(world.core.key_gen_preproc(prep_request).await), Code::Internal);
    let crs_request = CrsGenRequest { context_id, ..crsgen(1) };
    assert_eq!(code(world.core.crs_gen(crs_request).await), Code::Internal);
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::NotFound);
}

#[tokio::test]
async fn the_default_context_and_any_epoch_are_accepted() {
    let mut world = World::start().await;
    let request = PublicDecryptionRequest {
        context_id: Some(kms_proto::id::to_message(&kms_proto::id::DEFAULT_CONTEXT_UNTIL_V0_13_3)),
        epoch_id: Some(id(8, 77)),
        ..public(1)
    };
    assert_eq!(code(world.core.public_decrypt(request).await), Code::Ok);
}

#[tokio::test]
async fn a_known_id_already_exists_while_running_done_and_failed() {
    let mut world = World::impatient().await;
    world.control.fail_id(&public_id(3).request_id).await.unwrap();
    world.hold(Operation::PublicDecryption).await;
    world.core.public_decrypt(public(1)).await.unwrap();
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::AlreadyExists, "running");

    world.release(Operation::PublicDecryption).await;
    until_done(|| world.core.clone().get_public_owned(public_id(1))).await;
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::AlreadyExists, "done");

    world.core.public_decrypt(public(3)).await.unwrap();
    eventually(|| async { world.control.stores().await.unwrap().public_decryptions.failed == 1 }).await;
    world.control.mend_id(&public_id(3).request_id).await.unwrap();
    assert_eq!(code(world.core.public_decrypt(public(3)).await), Code::AlreadyExists, "failed");
    assert_eq!(code(world.core.get_public_decryption_result(public_id(3)).await), Code::Internal, "for ever");
}

#[tokio::test]
async fn the_contents_of_a_repeated_request_are_not_compared() {
    let mut world = World::start().await;
    world.core.public_decrypt(public(1)).await.unwrap();
    let first = world.core.get_public_decryption_result(public_id(1)).await.unwrap().into_inner();
    let other = PublicDecryptionRequest { ciphertexts: vec![ciphertext(9, 8)], ..public(1) };
    assert_eq!(code(world.core.public_decrypt(other).await), Code::AlreadyExists);
    assert_eq!(world.core.get_public_decryption_result(public_id(1)).await.unwrap().into_inner(), first);
}

#[tokio::test]
async fn every_kind_of_operation_refuses_a_known_id() {
    let mut world = World::start().await;
    world.core.user_decrypt(user(1)).await.unwrap();
    assert_eq!(code(world.core.user_decrypt(user(1)).await), Code::AlreadyExists);
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    assert_eq!(code(world.core.key_gen_preproc(prep(1)).await), Code::AlreadyExists);
    world.core.crs_gen(crsgen(1)).await.unwrap();
    assert_eq!(code(world.core.crs_gen(crsgen(1)).await), Code::AlreadyExists);
    world.core.key_gen(keygen(2, 1)).await.unwrap();
    assert_eq!(code(world.core.key_gen(keygen(2, 1)).await), Code::AlreadyExists);
}

#[tokio::test]
async fn failed_preprocessings_keys_and_crss_burn_their_ids() {
    let mut world = World::start().await;
    for id in [prep_id(1), key_id(2), crs_id(1)] {
        world.control.fail_id(&id.request_id).await.unwrap();
    }
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    assert_eq!(code(world.core.get_key_gen_preproc_result(prep_id(1)).await), Code::Internal);
    assert_eq!(code(world.core.key_gen_preproc(prep(1)).await), Code::AlreadyExists);

    world.core.crs_gen(crsgen(1)).await.unwrap();
    assert_eq!(code(world.core.get_crs_gen_result(crs_id(1)).await), Code::Internal);
    assert_eq!(code(world.core.crs_gen(crsgen(1)).await), Code::AlreadyExists);

    world.core.key_gen_preproc(prep(2)).await.unwrap();
    world.core.key_gen(keygen(2, 2)).await.unwrap();
    assert_eq!(code(world.core.get_key_gen_result(key_id(2)).await), Code::Internal);
    assert_eq!(code(world.core.key_gen(keygen(2, 2)).await), Code::AlreadyExists);
}

#[tokio::test]
async fn a_key_generation_without_its_preprocessing_is_not_found_and_leaves_no_trace() {
    let mut world = World::start().await;
    assert_eq!(code(world.core.key_gen(keygen(2, 1)).await), Code::NotFound);
    assert_eq!(code(world.core.get_key_gen_result(key_id(2)).await), Code::NotFound);
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    assert_eq!(code(world.core.key_gen(keygen(2, 1)).await), Code::Ok);
}

#[tokio::test]
async fn a_preprocessing_serves_one_key_generation_only() {
    let mut world = World::start().await;
    world.make_key(2, 1).await;
    assert_eq!(code(world.core.key_gen(keygen(3, 1)).await), Code::NotFound);
    assert_eq!(code(world.core.get_key_gen_preproc_result(prep_id(1)).await), Code::NotFound);
}

#[tokio::test]
async fn of_two_key_generations_at_once_one_gets_the_preprocessing() {
    let mut world = World::start().await;
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    world.core.get_key_gen_preproc_result(prep_id(1)).await.unwrap();
    let (mut one, mut other) = (world.core.clone(), world.core.clone());
    let (one, other) = tokio::join!(one.key_gen(keygen(2, 1)), other.key_gen(keygen(3, 1)));
    let mut codes = [code(one), code(other)];
    codes.sort_unstable_by_key(|code| *code as i32);
    assert_eq!(codes, [Code::Ok, Code::NotFound]);
}

#[tokio::test]
async fn a_key_generation_on_a_running_preprocessing_is_unavailable_after_the_wait() {
    let mut world = World::impatient().await;
    world.hold(Operation::Preprocessing).await;
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    assert_eq!(code(world.core.key_gen(keygen(2, 1)).await), Code::Unavailable);
    assert_eq!(code(world.core.get_key_gen_result(key_id(2)).await), Code::NotFound);
}

#[tokio::test]
async fn a_key_generation_waits_for_its_preprocessing() {
    let mut world = World::start().await;
    world.hold(Operation::Preprocessing).await;
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    let mut core = world.core.clone();
    let waiting = tokio::spawn(async move { core.key_gen(keygen(2, 1)).await });
    world.until_called("KeyGen", 1).await;
    world.release(Operation::Preprocessing).await;
    assert_eq!(code(waiting.await.unwrap()), Code::Ok);
}

#[tokio::test]
async fn a_key_generation_on_a_failed_preprocessing_is_internal() {
    let mut world = World::start().await;
    world.control.fail_id(&prep_id(1).request_id).await.unwrap();
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    assert_eq!(code(world.core.key_gen(keygen(2, 1)).await), Code::Internal);
    assert_eq!(code(world.core.get_key_gen_result(key_id(2)).await), Code::NotFound);
}

#[tokio::test]
async fn without_a_prss_setup_every_start_is_internal() {
    let mut world = World::with(|config| config.initialized = false).await;
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Internal);
    assert_eq!(code(world.core.user_decrypt(user(1)).await), Code::Internal);
    assert_eq!(code(world.core.key_gen_preproc(prep(1)).await), Code::Internal);
    assert_eq!(code(world.core.crs_gen(crsgen(1)).await), Code::Internal);
    world.core.init(InitRequest { request_id: Some(id(0, 1)), context_id: None }).await.unwrap();
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Ok);
}

#[tokio::test]
async fn a_launch_that_fails_is_aborted() {
    let mut world = World::start().await;
    world.control.inject(&Fault::status("PublicDecrypt", "ABORTED", 1)).await.unwrap();
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Aborted);
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Ok);
}

#[tokio::test]
async fn a_crs_without_a_size_has_2048_bits() {
    let mut world = World::start().await;
    world.core.crs_gen(CrsGenRequest { max_num_bits: None, ..crsgen(1) }).await.unwrap();
    let result = world.core.get_crs_gen_result(crs_id(1)).await.unwrap().into_inner();
    assert_eq!(result.max_num_bits, 2048);
}

#[tokio::test]
async fn a_key_generation_takes_the_parameters_of_its_preprocessing() {
    let mut world = World::start().await;
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    let request = KeyGenRequest { params: Some(FheParameter::Test.into()), ..keygen(2, 1) };
    assert_eq!(code(world.core.key_gen(request).await), Code::Ok);
}
