//! How a client tells a pending operation from trouble on the way, and what one port serves.

use std::error::Error;
use std::time::Duration;

use kms_proto::CORE_SERVICE_NAME;
use kms_proto::kms::v1::*;
use kms_stack::simulator::{Effect, Fault, Operation, ReportedHealth, When};
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::world::*;

/// A started decryption that does not finish.
async fn held_decryption(world: &mut World) {
    world.hold(Operation::PublicDecryption).await;
    world.core.public_decrypt(public(1)).await.unwrap();
}

/// Whether the client library made the status itself.
fn is_from_the_transport(status: &Status) -> bool {
    status.source().is_some()
}

#[tokio::test]
async fn pending_has_no_source_has_metadata_and_names_the_id() {
    let mut world = World::impatient().await;
    held_decryption(&mut world).await;
    let status = world.core.get_public_decryption_result(public_id(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(!is_from_the_transport(&status));
    assert!(status.metadata().contains_key("content-type"));
    assert!(status.message().contains(&public_id(1).request_id));
    assert!(status.details().is_empty());
}

#[tokio::test]
async fn every_refusal_names_the_id_and_none_has_details() {
    let mut world = World::start().await;
    world.core.public_decrypt(public(1)).await.unwrap();
    let unknown_key = PublicDecryptionRequest { key_id: Some(key_id(9)), ..public(2) };
    let refusals = [
        (public_id(1), world.core.public_decrypt(public(1)).await.unwrap_err()),
        (public_id(2), world.core.public_decrypt(unknown_key).await.unwrap_err()),
        (user_id(1), world.core.get_user_decryption_result(user_id(1)).await.unwrap_err()),
        (key_id(2), world.core.get_key_gen_result(key_id(2)).await.unwrap_err()),
    ];
    for (id, status) in refusals {
        assert!(status.message().contains(&id.request_id), "{status:?}");
        assert!(status.message().len() <= 1024 && status.details().is_empty());
        assert!(!is_from_the_transport(&status));
    }
}

#[tokio::test]
async fn a_refused_connection_is_unavailable_with_a_source_and_without_metadata() {
    let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
    let status = core_client(channel).get_public_decryption_result(public_id(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(is_from_the_transport(&status));
    assert!(status.metadata().is_empty());
    assert!(!status.message().contains(&public_id(1).request_id));
}

#[tokio::test]
async fn a_connection_broken_during_a_call_is_unknown_with_a_source_and_without_metadata() {
    let mut world = World::start().await;
    let fault = Fault { count: Some(1), ..Fault::lasting("GetPublicDecryptionResult", Effect::Drop) };
    world.control.inject(&fault).await.unwrap();
    let status = world.core.get_public_decryption_result(public_id(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unknown, "{status:?}");
    assert!(is_from_the_transport(&status));
    assert!(status.metadata().is_empty());
    assert_eq!(
        code(world.core.get_public_decryption_result(public_id(1)).await),
        Code::NotFound,
        "the next call connects again"
    );
}

#[tokio::test]
async fn a_clients_deadline_is_cancelled_with_a_source() {
    let mut world = World::start().await;
    held_decryption(&mut world).await;
    let endpoint = Endpoint::from_shared(world.node.endpoint()).unwrap().timeout(Duration::from_millis(20));
    let status = core_client(endpoint.connect_lazy()).get_public_decryption_result(public_id(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Cancelled);
    assert!(is_from_the_transport(&status));
    assert_eq!(status.message(), "Timeout expired");
}

#[tokio::test]
async fn the_servers_own_timeout_is_cancelled_without_a_source() {
    // It applies to the calls before the one that is held, too.
    let mut world = World::with(|config| config.limits.request_timeout_ms = Some(10_000)).await;
    held_decryption(&mut world).await;
    let status = world.core.get_public_decryption_result(public_id(1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Cancelled);
    assert!(!is_from_the_transport(&status));
    assert!(!status.metadata().is_empty());
    assert_eq!(status.message(), "Timeout expired");
    world.release(Operation::PublicDecryption).await;
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::Ok, "the operation went on");
}

#[tokio::test]
async fn a_held_get_is_unavailable_at_once_when_the_node_shuts_down() {
    let shutdown = tokio_util::sync::CancellationToken::new();
    let node = kms_stack::simulator::start(config(), shutdown.clone()).await.unwrap();
    let control = kms_stack::simulator::ControlClient::new(node.control_address().unwrap());
    let mut core = core_client(channel(&node));
    control.hold(Operation::PublicDecryption).await.unwrap();
    core.public_decrypt(public(1)).await.unwrap();
    let held = tokio::spawn(core.get_public_owned(public_id(1)));
    eventually(|| async { control.calls().await.unwrap().count("GetPublicDecryptionResult") == 1 }).await;
    drop(control);
    shutdown.cancel();
    assert_eq!(code(held.await.unwrap()), Code::Unavailable);
    node.stopped().await.unwrap();
}

#[tokio::test]
async fn a_hanging_call_is_answered_by_the_clients_deadline_alone() {
    let world = World::start().await;
    world.control.inject(&Fault::lasting("PublicDecrypt", Effect::Hang)).await.unwrap();
    let endpoint = Endpoint::from_shared(world.node.endpoint()).unwrap().timeout(Duration::from_secs(5));
    let mut core = core_client(endpoint.connect_lazy());
    assert_eq!(code(core.public_decrypt(public(1)).await), Code::Cancelled);
    world.control.remove_faults().await.unwrap();
    let calls = world.control.calls_of(&public_id(1).request_id).await.unwrap();
    assert_eq!(calls["PublicDecrypt"].calls, 1);
    assert!(calls["PublicDecrypt"].answers.is_empty());
    assert_eq!(code(world.core.clone().get_public_owned(public_id(1)).await), Code::NotFound, "it had no effect");
}

#[tokio::test]
async fn an_answer_that_is_lost_leaves_the_operation_started() {
    let mut world = World::start().await;
    let fault = Fault { when: When::After, count: Some(1), ..Fault::lasting("PublicDecrypt", Effect::Drop) };
    world.control.inject(&fault).await.unwrap();
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Unknown);
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::AlreadyExists);
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::Ok);
}

#[tokio::test]
async fn messages_above_4_mib_pass_both_ways_where_the_client_allows_them() {
    let mut world = World::start().await;
    let large = TypedCiphertext { ciphertext: vec![1; 5 << 20].into(), ..ciphertext(7, 5) };
    let mut typed_ciphertexts = vec![large];
    typed_ciphertexts.extend((0..4_500).map(|_| ciphertext(8, 5)));
    world.core.user_decrypt(UserDecryptionRequest { typed_ciphertexts, ..user(1) }).await.unwrap();
    let response = world.core.get_user_decryption_result(user_id(1)).await.unwrap().into_inner();
    assert_eq!(response.payload.unwrap().signcrypted_ciphertexts.len(), 4_501);

    let default_limit = kms_proto::core_service_endpoint_client::CoreServiceEndpointClient::new(channel(&world.node));
    assert_eq!(code(default_limit.get_user_owned(user_id(1)).await), Code::OutOfRange);
}

pub(crate) async fn health(world: &World, service: &str) -> Result<ServingStatus, Status> {
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(channel(&world.node)).check(request).await.map(|response| response.into_inner().status())
}

#[tokio::test]
async fn a_node_is_serving_once_it_is_set_up() {
    let mut world = World::with(|config| config.initialized = false).await;
    assert_eq!(health(&world, CORE_SERVICE_NAME).await.unwrap(), ServingStatus::NotServing);
    world.core.init(InitRequest { request_id: Some(id(0, 1)), context_id: None }).await.unwrap();
    assert_eq!(health(&world, CORE_SERVICE_NAME).await.unwrap(), ServingStatus::Serving);
    assert_eq!(health(&world, "another.Service").await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reported_health_can_be_switched_without_touching_the_node() {
    let mut world = World::start().await;
    world.control.set_health(ReportedHealth::NotServing).await.unwrap();
    assert_eq!(health(&world, CORE_SERVICE_NAME).await.unwrap(), ServingStatus::NotServing);
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Ok);
    world.control.set_health(ReportedHealth::Own).await.unwrap();
    assert_eq!(health(&world, CORE_SERVICE_NAME).await.unwrap(), ServingStatus::Serving);
}
