//! Contexts and epochs: one test per row of the table.

use kms_proto::CORE_SERVICE_NAME;
use kms_proto::kms::v1::*;
use kms_stack::simulator::{CoreVersion, Effect, EpochConfig, Fault, Latencies, Mode, Operation, When};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use CoreVersion::*;

use crate::transport::health;
use crate::world::*;

fn versions_with_contexts() -> Vec<CoreVersion> {
    CoreVersion::ALL.into_iter().filter(|&version| version >= V0_13_0).collect()
}

// --- Contexts ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_context_is_made_once_and_then_already_exists() {
    for version in versions_with_contexts() {
        for mode in [Mode::Threshold, Mode::Centralized] {
            let mut world = World::of(version, mode).await;
            assert_eq!(world.core.new_mpc_context(new_context(2)).await.unwrap().into_inner(), Empty {});
            assert_eq!(code(world.core.new_mpc_context(new_context(2)).await), Code::AlreadyExists, "{version:?}");
        }
    }
}

#[tokio::test]
async fn the_default_context_already_exists() {
    for version in versions_with_epochs() {
        let mut world = World::threshold(version).await;
        assert_eq!(code(world.core.new_mpc_context(new_context(1)).await), Code::AlreadyExists, "{version:?}");
    }
}

#[tokio::test]
async fn every_mistake_in_a_context_is_an_invalid_argument() {
    type Mistake = fn(&mut MpcContext);
    let mistakes: [(&str, Mistake); 17] = [
        ("no id", |context| context.context_id = None),
        ("a zero id", |context| context.context_id = Some(RequestId { request_id: "0".repeat(64) })),
        ("no nodes", |context| context.mpc_nodes.clear()),
        ("a party twice", |context| context.mpc_nodes[1].party_id = 1),
        ("a party 0", |context| context.mpc_nodes[0].party_id = 0),
        ("a party above n", |context| context.mpc_nodes[3].party_id = 5),
        ("a name twice", |context| context.mpc_nodes[1].mpc_identity = "node-1".to_owned()),
        ("n is not 3t + 1", |context| context.threshold = 0),
        ("three nodes", |context| drop(context.mpc_nodes.pop())),
        ("a negative threshold", |context| context.threshold = -1),
        ("a threshold for one node", |context| context.mpc_nodes.truncate(1)),
        ("no URL", |context| context.mpc_nodes[2].external_url = "node".to_owned()),
        ("no host", |context| context.mpc_nodes[2].external_url = "unix:/run/core".to_owned()),
        ("no port", |context| context.mpc_nodes[2].external_url = "mpc://node".to_owned()),
        ("no PEM", |context| context.mpc_nodes[2].ca_cert = Some(vec![1, 2, 3])),
        ("no version", |context| context.software_version = String::new()),
        ("no semantic version", |context| context.software_version = "v0.15".to_owned()),
    ];
    for version in versions_with_epochs() {
        let mut world = World::threshold(version).await;
        for (what, mistake) in mistakes {
            let mut context = mpc_context(2);
            mistake(&mut context);
            let request = NewMpcContextRequest { new_context: Some(context) };
            let code = code(world.core.new_mpc_context(request).await);
            assert_eq!(code, Code::InvalidArgument, "{what}, {version:?}");
        }
        let nothing = NewMpcContextRequest { new_context: None };
        assert_eq!(code(world.core.new_mpc_context(nothing).await), Code::InvalidArgument, "{version:?}");
        assert_eq!(code(world.core.new_mpc_context(new_context(2)).await), Code::Ok, "{version:?}");
    }
}

#[tokio::test]
async fn from_0_14_on_signers_are_addresses_before_they_are_keys() {
    for version in versions_with_contexts() {
        for extra in [false, true] {
            let mut world = World::threshold(version).await;
            let mut context = mpc_context(2);
            match extra {
                true => context.mpc_nodes[1].extra_signer_addresses = vec![vec![1; 41]],
                false => context.mpc_nodes[1].signer_address = Some(vec![1; 41]),
            }
            let request = NewMpcContextRequest { new_context: Some(context) };
            let expected = if version < V0_14 { Code::Ok } else { Code::InvalidArgument };
            assert_eq!(code(world.core.new_mpc_context(request).await), expected, "{version:?}");
        }
    }
}

#[tokio::test]
async fn other_numbers_of_nodes_are_taken_where_configured() {
    let mut world = World::with(|config| {
        config.version = V0_15;
        config.check_node_counts = false;
    })
    .await;
    for (counter, nodes, threshold, expected) in
        [(2, 2, 1, Code::Ok), (3, 1, 1, Code::Ok), (4, 4, 0, Code::Ok), (5, 1, 2, Code::InvalidArgument)]
    {
        let mut context = MpcContext { threshold, ..mpc_context(counter) };
        context.mpc_nodes.truncate(nodes);
        let request = NewMpcContextRequest { new_context: Some(context) };
        assert_eq!(code(world.core.new_mpc_context(request).await), expected, "{nodes} nodes, threshold {threshold}");
    }
}

#[tokio::test]
async fn trouble_with_the_storage_is_internal_and_can_be_tried_again() {
    let mut world = World::threshold(V0_15).await;
    world.control.fail_id(&context_id(2).request_id).await.unwrap();
    assert_eq!(code(world.core.new_mpc_context(new_context(2)).await), Code::Internal);
    world.control.mend_id(&context_id(2).request_id).await.unwrap();
    assert_eq!(code(world.core.new_mpc_context(new_context(2)).await), Code::Ok);

    world.control.fail_id(&context_id(2).request_id).await.unwrap();
    assert_eq!(code(world.core.destroy_mpc_context(destroy_context(2)).await), Code::Internal);
    world.control.mend_id(&context_id(2).request_id).await.unwrap();
    assert_eq!(code(world.core.destroy_mpc_context(destroy_context(2)).await), Code::Ok);
}

#[tokio::test]
async fn a_destroyed_context_takes_its_epochs_along_and_0_15_lists_them() {
    for version in versions_with_epochs() {
        let mut world = World::threshold(version).await;
        world.core.new_mpc_context(new_context(2)).await.unwrap();
        for counter in [2, 3] {
            world.make_epoch(NewMpcEpochRequest { context_id: Some(context_id(2)), ..new_epoch(counter) }).await;
        }
        let in_epoch = |counter| PublicDecryptionRequest {
            context_id: Some(context_id(2)),
            epoch_id: Some(epoch_id(2)),
            key_id: Some(key_id(1)),
            ..public(counter)
        };
        let response = world.core.destroy_mpc_context(destroy_context(2)).await.unwrap().into_inner();
        let listed = if version < V0_15 { vec![] } else { vec![epoch_id(2), epoch_id(3)] };
        assert_eq!(response.epoch_ids, listed, "{version:?}");
        assert_eq!(code(world.core.destroy_mpc_context(destroy_context(2)).await), Code::NotFound, "{version:?}");
        assert_eq!(code(world.core.public_decrypt(in_epoch(1)).await), Code::NotFound, "{version:?}");
        assert_eq!(code(world.core.destroy_mpc_epoch(destroy_epoch(2)).await), Code::NotFound, "{version:?}");
        let node = world.control.node().await.unwrap();
        assert_eq!(node.contexts, [context_id(1).request_id], "{version:?}");
        assert_eq!(node.epochs, [epoch_id(1).request_id], "{version:?}");
    }
}

#[tokio::test]
async fn a_centralized_node_lists_no_epochs_of_a_destroyed_context() {
    for version in versions_with_epochs() {
        let mut world = World::of(version, Mode::Centralized).await;
        world.core.new_mpc_context(new_context(2)).await.unwrap();
        let response = world.core.destroy_mpc_context(destroy_context(1)).await.unwrap().into_inner();
        assert!(response.epoch_ids.is_empty(), "{version:?}");
    }
}

#[tokio::test]
async fn the_last_context_an_unknown_one_and_none_at_all_are_not_destroyed() {
    for version in versions_with_epochs() {
        for mode in [Mode::Threshold, Mode::Centralized] {
            let mut world = World::of(version, mode).await;
            let core = &mut world.core;
            let codes = [
                code(core.destroy_mpc_context(destroy_context(1)).await),
                code(core.destroy_mpc_context(destroy_context(9)).await),
                code(core.destroy_mpc_context(DestroyMpcContextRequest::default()).await),
            ];
            assert_eq!(codes, [Code::FailedPrecondition, Code::NotFound, Code::InvalidArgument], "{version:?}");
        }
    }
}

#[tokio::test]
async fn a_context_whose_epochs_are_the_last_ones_is_not_destroyed() {
    let mut world = World::threshold(V0_15).await;
    world.core.new_mpc_context(new_context(2)).await.unwrap();
    assert_eq!(code(world.core.destroy_mpc_context(destroy_context(1)).await), Code::FailedPrecondition);
    world.make_epoch(NewMpcEpochRequest { context_id: Some(context_id(2)), ..new_epoch(2) }).await;
    let response = world.core.destroy_mpc_context(destroy_context(1)).await.unwrap().into_inner();
    assert_eq!(response.epoch_ids, [epoch_id(1)]);
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::NotFound, "the default is gone");
}

// --- Epochs -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_epoch_without_a_predecessor_has_an_empty_result_and_serves_new_keys() {
    for version in versions_with_epochs() {
        let mut world = World::threshold(version).await;
        let without_domain = NewMpcEpochRequest { domain: None, ..new_epoch(2) };
        assert_eq!(world.make_epoch(without_domain).await, EpochResultResponse::default(), "{version:?}");
        let epoch_id = Some(epoch_id(2));
        let prep = KeyGenPreprocRequest { epoch_id: epoch_id.clone(), ..prep(1) };
        world.make_key_with(KeyGenRequest { epoch_id: epoch_id.clone(), ..keygen(2, 1) }, prep).await;
        let under = PublicDecryptionRequest { key_id: Some(key_id(2)), epoch_id, ..public(1) };
        assert_eq!(code(world.core.public_decrypt(under).await), Code::Ok, "{version:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_known_in_another_epoch_only_is_not_found() {
    for version in versions_with_epochs() {
        let mut world = World::threshold(version).await;
        world.make_epoch(new_epoch(2)).await;
        let elsewhere = PublicDecryptionRequest { epoch_id: Some(epoch_id(2)), ..public(1) };
        assert_eq!(code(world.core.public_decrypt(elsewhere).await), Code::NotFound, "{version:?}");
        let elsewhere = UserDecryptionRequest { epoch_id: Some(epoch_id(2)), ..user(1) };
        assert_eq!(code(world.core.user_decrypt(elsewhere).await), Code::NotFound, "{version:?}");
        let material = world.core.get_key_material_availability(Empty {}).await.unwrap().into_inner();
        assert_eq!(material.fhe_key_ids, [key_id(1).request_id], "{version:?}: the list is that of all epochs");
    }
}

#[tokio::test]
async fn a_result_of_an_epoch_is_unavailable_while_it_is_made() {
    for version in versions_with_epochs() {
        let mut world = World::with(|config| {
            config.version = version;
            if version < V0_14 {
                config.wait_ms = short_waits();
            }
        })
        .await;
        world.hold(Operation::EpochCreation).await;
        assert_eq!(code(world.core.new_mpc_epoch(new_epoch(2)).await), Code::Ok, "{version:?}: in the background");
        assert_eq!(code(world.core.get_epoch_result(epoch_id(2)).await), Code::Unavailable, "{version:?}");
        assert_eq!(code(world.core.new_mpc_epoch(new_epoch(2)).await), Code::AlreadyExists, "{version:?}: running");
        assert_eq!(code(world.core.destroy_mpc_epoch(destroy_epoch(2)).await), Code::FailedPrecondition, "{version:?}");
        assert_eq!(world.control.stores().await.unwrap().free_tokens, 49_999, "{version:?}");
        world.release(Operation::EpochCreation).await;
        until_done(|| world.core.clone().get_epoch_owned(epoch_id(2))).await;
        assert_eq!(code(world.core.new_mpc_epoch(new_epoch(2)).await), Code::InvalidArgument, "{version:?}: stored");
        assert_eq!(world.control.stores().await.unwrap().free_tokens, 50_000, "{version:?}");
    }
}

#[tokio::test]
async fn up_to_0_13_22_a_result_of_an_epoch_holds_the_call() {
    let mut world = World::threshold(V0_13_20).await;
    world.hold(Operation::EpochCreation).await;
    world.core.new_mpc_epoch(new_epoch(2)).await.unwrap();
    let held = tokio::spawn(world.core.clone().get_epoch_owned(epoch_id(2)));
    world.until_called("GetEpochResult", 1).await;
    world.release(Operation::EpochCreation).await;
    assert_eq!(code(held.await.unwrap()), Code::Ok);
}

#[tokio::test]
async fn every_mistake_in_an_epoch_is_refused_with_its_code() {
    for version in versions_with_epochs() {
        let mut world = World::with(|config| {
            config.version = version;
            config.limits.bucket = 1;
        })
        .await;
        let zero = || Some(RequestId { request_id: "0".repeat(64) });
        let wrong = [
            (NewMpcEpochRequest { context_id: zero(), ..new_epoch(2) }, Code::InvalidArgument),
            (NewMpcEpochRequest { epoch_id: zero(), ..new_epoch(2) }, Code::InvalidArgument),
            (NewMpcEpochRequest { epoch_id: None, ..new_epoch(2) }, Code::InvalidArgument),
            (new_epoch(1), Code::InvalidArgument),
            (NewMpcEpochRequest { context_id: Some(context_id(9)), ..new_epoch(2) }, Code::NotFound),
        ];
        for (request, expected) in wrong {
            assert_eq!(code(world.core.new_mpc_epoch(request).await), expected, "{version:?}");
        }
        assert_eq!(code(world.core.get_epoch_result(epoch_id(1)).await), Code::NotFound, "{version:?}");
        assert_eq!(code(world.core.get_epoch_result(RequestId::default()).await), Code::InvalidArgument);
        world.hold(Operation::PublicDecryption).await;
        world.core.public_decrypt(public(1)).await.unwrap();
        assert_eq!(code(world.core.new_mpc_epoch(new_epoch(2)).await), Code::ResourceExhausted, "{version:?}");
    }
}

#[tokio::test]
async fn an_epoch_that_fails_is_internal_and_its_id_already_exists() {
    for version in versions_with_epochs() {
        let mut world = World::threshold(version).await;
        world.control.fail_id(&epoch_id(2).request_id).await.unwrap();
        world.core.new_mpc_epoch(new_epoch(2)).await.unwrap();
        eventually(|| async { world.control.stores().await.unwrap().epochs.failed == 1 }).await;
        assert_eq!(code(world.core.get_epoch_result(epoch_id(2)).await), Code::Internal, "{version:?}");
        assert_eq!(code(world.core.new_mpc_epoch(new_epoch(2)).await), Code::AlreadyExists, "{version:?}");
    }
}

#[tokio::test]
async fn the_first_epoch_makes_a_node_serve() {
    for version in versions_with_epochs() {
        let mut world = World::with(|config| {
            config.version = version;
            config.initialized = false;
        })
        .await;
        assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::NotFound, "{version:?}");
        assert_eq!(code(world.core.key_gen_preproc(prep(1)).await), Code::NotFound, "{version:?}");
        assert_eq!(health(&world, CORE_SERVICE_NAME).await.unwrap(), ServingStatus::NotServing, "{version:?}");
        world.make_epoch(new_epoch(1)).await;
        assert_eq!(health(&world, CORE_SERVICE_NAME).await.unwrap(), ServingStatus::Serving, "{version:?}");
        assert_eq!(code(world.core.key_gen_preproc(prep(1)).await), Code::Ok, "{version:?}");
    }
}

#[tokio::test]
async fn an_epoch_is_destroyed_once_with_the_keys_that_are_in_no_other() {
    for version in versions_with_epochs() {
        let mut world = World::threshold(version).await;
        world.make_epoch(new_epoch(2)).await;
        let epoch_id = Some(epoch_id(2));
        let prep = KeyGenPreprocRequest { epoch_id: epoch_id.clone(), ..prep(1) };
        world.make_key_with(KeyGenRequest { epoch_id, ..keygen(2, 1) }, prep).await;
        assert_eq!(world.core.destroy_mpc_epoch(destroy_epoch(2)).await.unwrap().into_inner(), Empty {});
        assert_eq!(code(world.core.destroy_mpc_epoch(destroy_epoch(2)).await), Code::NotFound, "{version:?}");
        let material = world.core.get_key_material_availability(Empty {}).await.unwrap().into_inner();
        assert_eq!(material.fhe_key_ids, [key_id(1).request_id], "{version:?}");
        assert_eq!(code(world.core.destroy_mpc_epoch(destroy_epoch(1)).await), Code::FailedPrecondition, "the last");
        let nothing = DestroyMpcEpochRequest::default();
        assert_eq!(code(world.core.destroy_mpc_epoch(nothing).await), Code::InvalidArgument, "{version:?}");
    }
}

#[tokio::test]
async fn a_destruction_that_fails_is_internal_and_can_be_tried_again() {
    let mut world = World::threshold(V0_15).await;
    world.make_epoch(new_epoch(2)).await;
    world.control.fail_id(&epoch_id(2).request_id).await.unwrap();
    assert_eq!(code(world.core.destroy_mpc_epoch(destroy_epoch(2)).await), Code::Internal);
    world.control.mend_id(&epoch_id(2).request_id).await.unwrap();
    assert_eq!(code(world.core.destroy_mpc_epoch(destroy_epoch(2)).await), Code::Ok);
}

#[tokio::test]
async fn a_centralized_node_has_one_epoch_and_breaks_two_calls() {
    for version in versions_with_epochs() {
        let mut world = World::of(version, Mode::Centralized).await;
        assert_eq!(code(world.core.new_mpc_epoch(new_epoch(2)).await), Code::AlreadyExists, "{version:?}");
        for status in [
            world.core.get_epoch_result(epoch_id(1)).await.unwrap_err(),
            world.core.destroy_mpc_epoch(destroy_epoch(1)).await.unwrap_err(),
        ] {
            assert_eq!(status.code(), Code::Cancelled);
            assert!(std::error::Error::source(&status).is_some(), "{version:?}: not an answer of the node: {status:?}");
            assert!(status.metadata().is_empty(), "{status:?}");
        }
        let calls = world.control.calls().await.unwrap();
        assert!(calls.rpcs["GetEpochResult"].answers.is_empty(), "{version:?}");
        assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Ok, "{version:?}: the node goes on");
    }
}

#[tokio::test]
async fn a_centralized_node_without_an_epoch_takes_its_first() {
    let mut world = World::with(|config| {
        config.version = V0_15;
        config.mode = Mode::Centralized;
        config.initialized = false;
    })
    .await;
    assert_eq!(code(world.core.new_mpc_epoch(new_epoch(1)).await), Code::Ok);
    eventually(|| async { world.control.node().await.unwrap().epochs == [epoch_id(1).request_id] }).await;
    assert_eq!(code(world.core.new_mpc_epoch(new_epoch(2)).await), Code::AlreadyExists);
}

#[tokio::test]
async fn failures_are_injected_into_the_calls_of_contexts_and_epochs() {
    let mut world = World::threshold(V0_15).await;
    for rpc in ["NewMpcContext", "NewMpcEpoch", "GetEpochResult", "DestroyMpcEpoch", "DestroyMpcContext"] {
        world.control.inject(&Fault::status(rpc, "UNAVAILABLE", 1)).await.unwrap();
    }
    let core = &mut world.core;
    assert_eq!(code(core.new_mpc_context(new_context(2)).await), Code::Unavailable);
    assert_eq!(code(core.new_mpc_context(new_context(2)).await), Code::Ok);
    assert_eq!(code(core.new_mpc_epoch(new_epoch(2)).await), Code::Unavailable);
    assert_eq!(code(core.get_epoch_result(epoch_id(2)).await), Code::Unavailable);
    assert_eq!(code(core.get_epoch_result(epoch_id(2)).await), Code::NotFound, "the start had no effect");
    assert_eq!(code(core.destroy_mpc_epoch(destroy_epoch(1)).await), Code::Unavailable);
    assert_eq!(code(core.destroy_mpc_context(destroy_context(2)).await), Code::Unavailable);
    assert_eq!(code(core.destroy_mpc_context(destroy_context(2)).await), Code::Ok);
    let lost = Fault { when: When::After, count: Some(1), ..Fault::lasting("NewMpcEpoch", Effect::Drop) };
    world.control.inject(&lost).await.unwrap();
    assert_eq!(code(world.core.new_mpc_epoch(new_epoch(3)).await), Code::Unknown);
    until_done(|| world.core.clone().get_epoch_owned(epoch_id(3))).await;
    let calls = world.control.calls_of(&epoch_id(3).request_id).await.unwrap();
    assert_eq!(calls["NewMpcEpoch"].calls, 1);
}

// --- What happens at the same time --------------------------------------------------------------------------------------

#[tokio::test]
async fn in_0_15_a_start_in_an_epoch_or_context_that_changes_is_a_failed_precondition() {
    for version in versions_with_epochs() {
        let mut world = World::threshold(version).await;
        let expected = if version < V0_15 { Code::NotFound } else { Code::FailedPrecondition };

        world.hold(Operation::EpochCreation).await;
        world.core.new_mpc_epoch(new_epoch(2)).await.unwrap();
        let in_epoch = |counter| PublicDecryptionRequest { epoch_id: Some(epoch_id(2)), ..public(counter) };
        assert_eq!(code(world.core.public_decrypt(in_epoch(1)).await), expected, "{version:?}: epoch being created");
        assert_eq!(code(world.core.public_decrypt(public(2)).await), Code::Ok, "{version:?}: its context stays");
        world.release(Operation::EpochCreation).await;
        until_done(|| world.core.clone().get_epoch_owned(epoch_id(2))).await;

        world.hold(Operation::ContextCreation).await;
        let mut core = world.core.clone();
        let creation = tokio::spawn(async move { core.new_mpc_context(new_context(2)).await });
        world.until_called("NewMpcContext", 1).await;
        let in_context = PublicDecryptionRequest { context_id: Some(context_id(2)), ..public(3) };
        let during = code(world.core.public_decrypt(in_context).await);
        assert_eq!(during, expected, "{version:?}: context being created");
        world.release(Operation::ContextCreation).await;
        assert_eq!(code(creation.await.unwrap()), Code::Ok);
    }
}

#[tokio::test]
async fn in_0_15_a_start_in_an_epoch_that_is_being_destroyed_is_a_failed_precondition() {
    let mut world = World::threshold(V0_15).await;
    world.make_epoch(new_epoch(2)).await;
    world.hold(Operation::Destruction).await;
    let mut core = world.core.clone();
    let destruction = tokio::spawn(async move { core.destroy_mpc_epoch(destroy_epoch(2)).await });
    world.until_called("DestroyMpcEpoch", 1).await;
    let in_epoch = PublicDecryptionRequest { epoch_id: Some(epoch_id(2)), ..public(1) };
    assert_eq!(code(world.core.public_decrypt(in_epoch.clone()).await), Code::FailedPrecondition);
    assert_eq!(code(world.core.destroy_mpc_epoch(destroy_epoch(2)).await), Code::FailedPrecondition);
    assert_eq!(code(world.core.new_mpc_epoch(new_epoch(2)).await), Code::FailedPrecondition);
    world.release(Operation::Destruction).await;
    assert_eq!(code(destruction.await.unwrap()), Code::Ok);
    assert_eq!(code(world.core.public_decrypt(in_epoch).await), Code::NotFound);
}

#[tokio::test]
async fn a_context_in_which_an_epoch_is_made_is_not_destroyed_and_none_is_made_in_one_that_is() {
    for version in versions_with_epochs() {
        let mut world = World::threshold(version).await;
        world.core.new_mpc_context(new_context(2)).await.unwrap();
        let in_second = |counter| NewMpcEpochRequest { context_id: Some(context_id(2)), ..new_epoch(counter) };
        world.hold(Operation::EpochCreation).await;
        world.core.new_mpc_epoch(in_second(2)).await.unwrap();
        let destruction = code(world.core.destroy_mpc_context(destroy_context(2)).await);
        assert_eq!(destruction, Code::FailedPrecondition, "{version:?}");
        world.release(Operation::EpochCreation).await;
        until_done(|| world.core.clone().get_epoch_owned(epoch_id(2))).await;

        world.hold(Operation::Destruction).await;
        let mut core = world.core.clone();
        let destruction = tokio::spawn(async move { core.destroy_mpc_context(destroy_context(2)).await });
        world.until_called("DestroyMpcContext", 2).await;
        assert_eq!(code(world.core.new_mpc_epoch(in_second(3)).await), Code::FailedPrecondition, "{version:?}");
        world.release(Operation::Destruction).await;
        assert_eq!(code(destruction.await.unwrap()), Code::Ok, "{version:?}");
    }
}

#[tokio::test]
async fn what_holds_its_call_holds_it_as_long_as_its_latency() {
    let world = World::threshold(V0_15).await;
    let latencies = Latencies { context_creation: 24 * 60 * 60 * 1000, ..Latencies::default() };
    world.control.set_latency_ms(&latencies).await.unwrap();
    let mut core = world.core.clone();
    let creation = tokio::spawn(async move { core.new_mpc_context(new_context(2)).await });
    world.until_called("NewMpcContext", 1).await;
    assert_eq!(world.control.node().await.unwrap().contexts, [context_id(1).request_id]);
    creation.abort();
    eventually(|| async {
        let mut core = world.core.clone();
        world.control.set_latency_ms(&Latencies::default()).await.unwrap();
        code(core.new_mpc_context(new_context(2)).await) == Code::Ok
    })
    .await;
}

// --- What is known before the first start -----------------------------------------------------------------------------

#[tokio::test]
async fn contexts_and_epochs_known_from_the_start_hold_the_keys_from_the_start() {
    let mut world = World::with(|config| {
        config.version = V0_15;
        config.contexts = vec![context_id(3).request_id];
        config.epochs = vec![EpochConfig { id: epoch_id(4).request_id, context: Some(context_id(3).request_id) }];
    })
    .await;
    let request = PublicDecryptionRequest { context_id: Some(context_id(3)), epoch_id: Some(epoch_id(4)), ..public(1) };
    assert_eq!(code(world.core.public_decrypt(request).await), Code::Ok);
    assert_eq!(code(world.core.public_decrypt(public(2)).await), Code::Ok, "the default ones too");
}

#[tokio::test]
async fn the_shares_of_a_node_are_those_of_its_place_in_the_context() {
    let mut world = World::threshold(V0_15).await;
    let mut context = mpc_context(2);
    context.mpc_nodes.rotate_left(1);
    for (party_id, node) in (1..).zip(&mut context.mpc_nodes) {
        node.party_id = party_id;
    }
    world.core.new_mpc_context(NewMpcContextRequest { new_context: Some(context) }).await.unwrap();
    world.make_epoch(NewMpcEpochRequest { context_id: Some(context_id(2)), ..new_epoch(2) }).await;
    let epoch = Some(epoch_id(2));
    let prep = KeyGenPreprocRequest { epoch_id: epoch.clone(), ..prep(1) };
    world.make_key_with(KeyGenRequest { epoch_id: epoch.clone(), ..keygen(2, 1) }, prep).await;
    let request =
        UserDecryptionRequest { context_id: Some(context_id(2)), epoch_id: epoch, key_id: Some(key_id(2)), ..user(1) };
    world.core.user_decrypt(request).await.unwrap();
    let response = world.core.get_user_decryption_result(user_id(1)).await.unwrap().into_inner();
    let payload = response.payload.unwrap();
    assert_eq!((payload.party_id, payload.degree), (4, 1));
    let health = world.core.get_health_status(Empty {}).await.unwrap().into_inner();
    let parties: Vec<_> = health.peers_from_all_contexts.iter().map(|peers| peers.my_party_id).collect();
    assert_eq!(parties, [1, 4]);
}
