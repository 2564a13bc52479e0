//! Aborts, from 0.13.20 on.

use kms_proto::kms::v1::*;
use kms_stack::simulator::{CoreVersion, Mode, Operation};
use tonic::Code;

use CoreVersion::*;

use crate::world::*;

const VERSIONS: [CoreVersion; 3] = [V0_13_20, V0_14, V0_15];

#[tokio::test]
async fn an_abort_of_what_does_not_run_is_not_found_and_a_malformed_id_an_invalid_argument() {
    for version in VERSIONS {
        let mut world = World::threshold(version).await;
        world.make_key(2, 1).await;
        world.make_crs(crsgen(1)).await;
        world.core.key_gen_preproc(prep(2)).await.unwrap();
        until_done(|| world.core.clone().get_prep_owned(prep_id(2))).await;
        for id in [prep_id(1), prep_id(2), prep_id(9), key_id(2)] {
            assert_eq!(code(world.core.abort_key_gen(id).await), Code::NotFound, "{version:?}");
        }
        assert_eq!(code(world.core.abort_crs_gen(crs_id(1)).await), Code::NotFound, "{version:?}: it is done");
        assert_eq!(code(world.core.abort_crs_gen(crs_id(9)).await), Code::NotFound, "{version:?}");
        let malformed = || RequestId { request_id: "03".to_owned() };
        assert_eq!(code(world.core.abort_key_gen(malformed()).await), Code::InvalidArgument, "{version:?}");
        assert_eq!(code(world.core.abort_crs_gen(malformed()).await), Code::InvalidArgument, "{version:?}");
    }
}

#[tokio::test]
async fn an_aborted_preprocessing_is_aborted_on_every_get_and_its_id_is_burnt() {
    for version in VERSIONS {
        let mut world = World::threshold(version).await;
        world.hold(Operation::Preprocessing).await;
        world.core.key_gen_preproc(prep(1)).await.unwrap();
        assert_eq!(code(world.core.abort_key_gen(prep_id(1)).await), Code::Ok, "{version:?}");
        assert_eq!(world.control.stores().await.unwrap().free_tokens, 50_000, "{version:?}: tokens are given back");
        for _ in 0..2 {
            assert_eq!(code(world.core.get_key_gen_preproc_result(prep_id(1)).await), Code::Aborted, "{version:?}");
        }
        assert_eq!(code(world.core.key_gen_preproc(prep(1)).await), Code::AlreadyExists, "{version:?}");
        assert_eq!(code(world.core.key_gen(keygen(2, 1)).await), Code::Aborted, "{version:?}: a start upon it too");
        assert_eq!(code(world.core.abort_key_gen(prep_id(1)).await), Code::NotFound, "{version:?}: it runs no more");
    }
}

#[tokio::test]
async fn a_key_generation_is_aborted_by_the_id_of_its_preprocessing() {
    for version in VERSIONS {
        for mode in [Mode::Threshold, Mode::Centralized] {
            let mut world = World::of(version, mode).await;
            world.core.key_gen_preproc(prep(1)).await.unwrap();
            until_done(|| world.core.clone().get_prep_owned(prep_id(1))).await;
            world.hold(Operation::KeyGeneration).await;
            world.core.key_gen(keygen(2, 1)).await.unwrap();
            assert_eq!(code(world.core.abort_key_gen(key_id(2)).await), Code::NotFound, "{version:?}: not by its own");
            assert_eq!(code(world.core.abort_key_gen(prep_id(1)).await), Code::Ok, "{version:?}, {mode:?}");
            assert_eq!(code(world.core.get_key_gen_result(key_id(2)).await), Code::Aborted, "{version:?}, {mode:?}");
            assert_eq!(code(world.core.key_gen(keygen(2, 1)).await), Code::AlreadyExists, "{version:?}, {mode:?}");
            assert_eq!(code(world.core.key_gen(keygen(3, 1)).await), Code::NotFound, "{version:?}: it stays consumed");
            let known = world.core.get_key_material_availability(Empty {}).await.unwrap().into_inner();
            assert_eq!(known.fhe_key_ids, [key_id(1).request_id], "{version:?}, {mode:?}");
        }
    }
}

#[tokio::test]
async fn a_centralized_node_aborts_no_preprocessing() {
    for version in VERSIONS {
        let mut world = World::of(version, Mode::Centralized).await;
        world.hold(Operation::Preprocessing).await;
        world.core.key_gen_preproc(prep(1)).await.unwrap();
        assert_eq!(code(world.core.abort_key_gen(prep_id(1)).await), Code::NotFound, "{version:?}");
        world.release(Operation::Preprocessing).await;
        until_done(|| world.core.clone().get_prep_owned(prep_id(1))).await;
    }
}

#[tokio::test]
async fn an_aborted_crs_generation_is_aborted_and_its_id_is_burnt() {
    for version in VERSIONS {
        let mut world = World::threshold(version).await;
        world.hold(Operation::CrsGeneration).await;
        world.core.crs_gen(crsgen(1)).await.unwrap();
        assert_eq!(code(world.core.abort_crs_gen(crs_id(1)).await), Code::Ok, "{version:?}");
        assert_eq!(code(world.core.get_crs_gen_result(crs_id(1)).await), Code::Aborted, "{version:?}");
        assert_eq!(code(world.core.crs_gen(crsgen(1)).await), Code::AlreadyExists, "{version:?}");
        assert_eq!(world.control.stores().await.unwrap().free_tokens, 50_000, "{version:?}");
    }
}

#[tokio::test]
async fn a_held_get_is_answered_by_the_abort() {
    let mut world = World::threshold(V0_13_20).await;
    world.hold(Operation::CrsGeneration).await;
    world.core.crs_gen(crsgen(1)).await.unwrap();
    let held = tokio::spawn(world.core.clone().get_crs_owned(crs_id(1)));
    world.until_called("GetCrsGenResult", 1).await;
    world.core.abort_crs_gen(crs_id(1)).await.unwrap();
    assert_eq!(code(held.await.unwrap()), Code::Aborted);
}

#[tokio::test]
async fn from_0_13_20_on_the_text_of_a_failure_alone_makes_it_aborted() {
    let texts = [("out of memory", Code::Internal), ("the peers ABORTED the round", Code::Aborted)];
    for version in CoreVersion::ALL {
        for (why, code_from_0_13_20) in texts {
            let mut world = World::threshold(version).await;
            for id in [public_id(1), crs_id(1), prep_id(1)] {
                world.control.fail_id_with(&id.request_id, why).await.unwrap();
            }
            world.core.public_decrypt(public(1)).await.unwrap();
            world.core.crs_gen(crsgen(1)).await.unwrap();
            world.core.key_gen_preproc(prep(1)).await.unwrap();
            eventually(|| async {
                let stores = world.control.stores().await.unwrap();
                (stores.public_decryptions.failed, stores.crs.failed, stores.preprocessings.failed) == (1, 1, 1)
            })
            .await;
            let expected = if version < V0_13_20 { Code::Internal } else { code_from_0_13_20 };
            let codes = [
                code(world.core.get_public_decryption_result(public_id(1)).await),
                code(world.core.get_crs_gen_result(crs_id(1)).await),
                code(world.core.get_key_gen_preproc_result(prep_id(1)).await),
                code(world.core.key_gen(keygen(2, 1)).await),
            ];
            assert_eq!(codes, [expected; 4], "{version:?}: {why}");
        }
    }
}
