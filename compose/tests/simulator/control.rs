//! The control endpoint: the record of calls, and what can be switched.

use kms_stack::simulator::{ControlError, CoreVersion, Fault, Latencies, Mode, NodeDescription, Operation};
use tonic::Code;

use crate::world::*;

#[tokio::test]
async fn the_record_proves_that_a_call_was_made_once_or_never() {
    let mut world = World::start().await;
    world.core.public_decrypt(public(1)).await.unwrap();
    world.core.get_public_decryption_result(public_id(1)).await.unwrap();
    world.core.get_public_decryption_result(public_id(1)).await.unwrap();
    let _ = world.core.public_decrypt(public(1)).await;

    let of_one = world.control.calls_of(&public_id(1).request_id).await.unwrap();
    assert_eq!(of_one["PublicDecrypt"].calls, 2);
    assert_eq!(of_one["PublicDecrypt"].answered("OK"), 1);
    assert_eq!(of_one["PublicDecrypt"].answered("ALREADY_EXISTS"), 1);
    assert_eq!(of_one["GetPublicDecryptionResult"].answered("OK"), 2);
    assert!(world.control.calls_of(&public_id(2).request_id).await.unwrap().is_empty());

    let all = world.control.calls().await.unwrap();
    assert_eq!(all.count("PublicDecrypt"), 2);
    assert_eq!(all.count("UserDecrypt"), 0);
    assert_eq!(all.ids.len(), 1);
    world.control.forget_calls().await.unwrap();
    assert_eq!(world.control.calls().await.unwrap(), kms_stack::simulator::CallRecord::default());
}

#[tokio::test]
async fn p6_no_more_ids_are_recorded_than_configured() {
    let mut world = World::limited(|limits| limits.recorded_ids = 1).await;
    for counter in 1..=3 {
        world.core.public_decrypt(public(counter)).await.unwrap();
    }
    let record = world.control.calls().await.unwrap();
    assert_eq!((record.ids.len(), record.calls_without_room, record.count("PublicDecrypt")), (1, 2, 3));
}

#[tokio::test]
async fn an_injected_status_strikes_as_often_as_it_counts() {
    let mut world = World::start().await;
    world.control.inject(&Fault::status("*", "RESOURCE_EXHAUSTED", 2)).await.unwrap();
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::ResourceExhausted);
    assert_eq!(world.control.faults().await.unwrap()[0].count, Some(1));
    assert_eq!(code(world.core.user_decrypt(user(1)).await), Code::ResourceExhausted);
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Ok);
    assert!(world.control.faults().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_fault_can_be_configured_for_one_id_with_its_own_text() {
    let mut fault = Fault::status("PublicDecrypt", "FAILED_PRECONDITION", 1);
    fault.id = Some(public_id(2).request_id);
    fault.message = Some("no signing key".to_owned());
    let mut world = World::with(|config| config.faults = vec![fault]).await;
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Ok);
    let status = world.core.public_decrypt(public(2)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "no signing key"));
}

#[tokio::test]
async fn wrong_input_is_refused_with_a_text() {
    let world = World::start().await;
    let refused = |answer: Result<(), ControlError>| match answer {
        Err(ControlError::Refused(text)) => text,
        other => panic!("{other:?}"),
    };
    let text = refused(world.control.inject(&Fault::status("Decrypt", "NO_SUCH_CODE", 0)).await);
    assert_eq!(text.lines().count(), 3, "{text}");
    refused(world.control.fail_id("12").await);
    let latencies = Latencies { jitter: 7.0, ..Latencies::default() };
    assert!(refused(world.control.set_latency_ms(&latencies).await).contains("jitter"));
    assert!(world.control.calls_of("nothing").await.is_err());
}

#[tokio::test]
async fn the_switches_can_be_read_back() {
    let world = World::start().await;
    world.control.fail_handle(handle(7, 5)).await.unwrap();
    world.control.fail_id(&crs_id(1).request_id).await.unwrap();
    world.control.set_plaintext(handle(8, 0), &[1]).await.unwrap();
    world.hold(Operation::CrsGeneration).await;
    let switches = world.control.switches().await.unwrap();
    assert!(switches.failing_handles.contains(&handle(7, 5)));
    assert!(switches.failing_ids.contains(&crs_id(1).request_id));
    assert_eq!(switches.plaintexts[&handle(8, 0)], "0x01");
    assert!(switches.held.contains(&Operation::CrsGeneration));
    assert!(!switches.recovery);
    world.control.set_recovery(true).await.unwrap();
    assert!(world.control.switches().await.unwrap().recovery);
}

#[tokio::test]
async fn a_node_describes_itself() {
    let world = World::centralized().await;
    let expected = NodeDescription {
        version: CoreVersion::V0_12,
        mode: Mode::Centralized,
        party_id: 1,
        nodes: 1,
        degree: 0,
        contexts: vec![hex::encode(kms_proto::id::DEFAULT_CONTEXT_UNTIL_V0_13_3)],
        epochs: vec![],
        signer: world.node.signer(),
    };
    assert_eq!(world.control.node().await.unwrap(), expected);
}
