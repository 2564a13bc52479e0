//! The introspection service and the calls about a node's state.

use kms_proto::kms::v1::{Empty, NodeType};
use kms_proto::metastore_status::v1::*;
use kms_stack::simulator::{CoreVersion, Operation};
use tonic::Code;

use crate::world::*;

/// A failed, a running and two finished decryptions, and a CRS.
async fn busy() -> World {
    let mut world = World::start().await;
    world.control.fail_id(&public_id(1).request_id).await.unwrap();
    world.core.public_decrypt(public(1)).await.unwrap();
    world.core.public_decrypt(public(2)).await.unwrap();
    world.core.public_decrypt(public(3)).await.unwrap();
    world.core.crs_gen(crsgen(1)).await.unwrap();
    for counter in 1..=3 {
        let _ = world.core.get_public_decryption_result(public_id(counter)).await;
    }
    world.core.get_crs_gen_result(crs_id(1)).await.unwrap();
    world.hold(Operation::PublicDecryption).await;
    world.core.public_decrypt(public(4)).await.unwrap();
    world
}

#[tokio::test]
async fn the_real_text_of_a_failure_is_told() {
    let world = busy().await;
    let request = GetRequestStatusesRequest {
        request_ids: (1..=5).map(|counter| public_id(counter).request_id).collect(),
        meta_store_type: Some(MetaStoreType::PublicDecryption.into()),
    };
    let statuses = world.introspection().get_request_statuses(request).await.unwrap().into_inner().statuses;
    let states: Vec<_> = statuses.iter().map(RequestStatusInfo::status).collect();
    use RequestProcessingStatus::{Completed, Failed, Processing};
    assert_eq!(states, [Failed, Completed, Completed, Processing]);
    assert!(statuses[0].error_message.as_ref().unwrap().contains("switched to fail"));
    assert!(statuses[1..].iter().all(|status| status.error_message.is_none()));
}

#[tokio::test]
async fn without_a_store_an_id_is_looked_up_in_all_of_them() {
    let world = busy().await;
    let request_ids = vec![crs_id(1).request_id, public_id(2).request_id];
    let request = GetRequestStatusesRequest { request_ids, meta_store_type: None };
    let statuses = world.introspection().get_request_statuses(request).await.unwrap().into_inner().statuses;
    let stores: Vec<_> = statuses.iter().map(RequestStatusInfo::meta_store_type).collect();
    assert_eq!(stores, [MetaStoreType::PublicDecryption, MetaStoreType::CrsGeneration]);
}

#[tokio::test]
async fn requests_are_listed_page_by_page_and_by_state() {
    let world = busy().await;
    let mut introspection = world.introspection();
    let mut ids = vec![];
    let mut page_token = None;
    loop {
        let request = ListRequestsRequest {
            meta_store_type: MetaStoreType::PublicDecryption.into(),
            status_filter: None,
            max_results: Some(3),
            page_token,
        };
        let page = introspection.list_requests(request).await.unwrap().into_inner();
        ids.extend(page.requests.into_iter().map(|request| request.request_id));
        page_token = page.next_page_token;
        if page_token.is_none() {
            break;
        }
    }
    assert_eq!(ids, (1..=4).map(|counter| public_id(counter).request_id).collect::<Vec<_>>());

    let completed = ListRequestsRequest {
        meta_store_type: MetaStoreType::All.into(),
        status_filter: Some(RequestProcessingStatus::Completed.into()),
        max_results: None,
        page_token: None,
    };
    assert_eq!(introspection.list_requests(completed).await.unwrap().into_inner().requests.len(), 3);
}

#[tokio::test]
async fn the_stores_tell_their_bound_and_what_they_hold() {
    let world = busy().await;
    let stores = world.introspection().get_meta_store_info(Empty {}).await.unwrap().into_inner().meta_stores;
    let of = |kind: MetaStoreType| stores.iter().find(|store| store.r#type == i32::from(kind)).unwrap();
    assert_eq!(of(MetaStoreType::PublicDecryption).current_count, 4);
    assert_eq!(of(MetaStoreType::PublicDecryption).capacity, 10_000);
    assert_eq!(of(MetaStoreType::CrsGeneration).current_count, 1);
    assert_eq!(stores.len(), 5);
}

#[tokio::test]
async fn malformed_ids_unknown_stores_and_foreign_page_tokens_are_invalid_arguments() {
    let world = World::start().await;
    let mut introspection = world.introspection();
    let ids = GetRequestStatusesRequest { request_ids: vec!["1".to_owned()], meta_store_type: None };
    assert_eq!(code(introspection.get_request_statuses(ids).await), Code::InvalidArgument);
    let store = ListRequestsRequest { meta_store_type: 9, ..ListRequestsRequest::default() };
    assert_eq!(code(introspection.list_requests(store).await), Code::InvalidArgument);
    let token = ListRequestsRequest { page_token: Some("next".to_owned()), ..ListRequestsRequest::default() };
    assert_eq!(code(introspection.list_requests(token).await), Code::InvalidArgument);
}

#[tokio::test]
async fn available_material_names_keys_crss_and_finished_preprocessings() {
    let mut world = World::start().await;
    world.make_key(2, 1).await;
    world.core.key_gen_preproc(prep(2)).await.unwrap();
    world.core.get_key_gen_preproc_result(prep_id(2)).await.unwrap();
    world.core.crs_gen(crsgen(1)).await.unwrap();
    world.core.get_crs_gen_result(crs_id(1)).await.unwrap();
    world.hold(Operation::Preprocessing).await;
    world.core.key_gen_preproc(prep(3)).await.unwrap();

    let material = world.core.get_key_material_availability(Empty {}).await.unwrap().into_inner();
    assert_eq!(material.fhe_key_ids, [key_id(1).request_id, key_id(2).request_id]);
    assert_eq!(material.crs_ids, [crs_id(1).request_id]);
    assert_eq!(material.preprocessing_ids, [prep_id(2).request_id]);
}

#[tokio::test]
async fn health_in_detail_names_the_mode_and_the_peers() {
    let mut world = World::start().await;
    let health = world.core.get_health_status(Empty {}).await.unwrap().into_inner();
    assert_eq!(health.node_type(), NodeType::Threshold);
    let peers = &health.peers_from_all_contexts[0];
    assert_eq!((peers.my_party_id, peers.nodes_reachable, peers.peers.len()), (1, 4, 3));
    assert_eq!(health.my_fhe_key_ids, [key_id(1).request_id]);

    let mut centralized = World::centralized().await;
    let health = centralized.core.get_health_status(Empty {}).await.unwrap().into_inner();
    assert_eq!(health.node_type(), NodeType::Centralized);
    assert!(health.peers_from_all_contexts.is_empty());
}

#[tokio::test]
async fn a_consumed_preprocessing_is_deleted_from_0_14_on_and_unknown_before() {
    for version in CoreVersion::ALL {
        let mut world = World::threshold(version).await;
        world.make_key(2, 1).await;
        let request = GetRequestStatusesRequest { request_ids: vec![prep_id(1).request_id], meta_store_type: None };
        let statuses = world.introspection().get_request_statuses(request).await.unwrap().into_inner().statuses;
        let states: Vec<_> = statuses.iter().map(RequestStatusInfo::status).collect();
        let deleted = version >= CoreVersion::V0_14;
        let expected = if deleted { vec![RequestProcessingStatus::Deleted] } else { vec![] };
        assert_eq!(states, expected, "{version:?}");

        let filter = ListRequestsRequest {
            meta_store_type: MetaStoreType::Preprocessing.into(),
            status_filter: Some(RequestProcessingStatus::Deleted.into()),
            ..ListRequestsRequest::default()
        };
        let listed = world.introspection().list_requests(filter).await.unwrap().into_inner().requests;
        assert_eq!(listed.len(), usize::from(deleted), "{version:?}");
        let stores = world.control.stores().await.unwrap();
        assert_eq!(stores.preprocessings.deleted, usize::from(deleted), "{version:?}");
    }
}

#[tokio::test]
async fn the_real_text_of_an_abort_is_told_and_a_stuck_id_looks_like_a_running_one() {
    let mut world = World::threshold(CoreVersion::V0_13_20).await;
    world.hold(Operation::CrsGeneration).await;
    world.core.crs_gen(crsgen(1)).await.unwrap();
    world.core.abort_crs_gen(crs_id(1)).await.unwrap();
    let unknown = kms_proto::kms::v1::PublicDecryptionRequest { key_id: Some(key_id(9)), ..public(1) };
    assert_eq!(code(world.core.public_decrypt(unknown).await), Code::NotFound);
    let request_ids = vec![crs_id(1).request_id, public_id(1).request_id];
    let request = GetRequestStatusesRequest { request_ids, meta_store_type: None };
    let statuses = world.introspection().get_request_statuses(request).await.unwrap().into_inner().statuses;
    let [stuck, aborted] = &statuses[..] else { panic!("{statuses:?}") };
    assert_eq!(stuck.status(), RequestProcessingStatus::Processing);
    assert_eq!(aborted.status(), RequestProcessingStatus::Failed);
    assert!(aborted.error_message.as_ref().unwrap().contains("abort"));
}
