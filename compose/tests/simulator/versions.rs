//! What each version has, how long it holds calls, and how it words its refusals.

use kms_proto::kms::v1::*;
use kms_proto::metastore_status::v1::{GetRequestStatusesRequest, ListRequestsRequest};
use kms_stack::simulator::{CoreVersion, Mode, Operation};
use tonic::Code;

use CoreVersion::*;

use crate::world::*;

/// Calls every RPC with an empty request.
async fn call_every_rpc(world: &World) -> Vec<(&'static str, Code)> {
    let mut core = world.core.clone();
    let mut introspection = world.introspection();
    macro_rules! core {
        ($($name:literal $method:ident($request:expr)),+ $(,)?) => {
            vec![$(($name, code(core.$method($request).await))),+]
        };
    }
    let none = || RequestId::default();
    let mut codes = core![
        "Init" init(InitRequest::default()),
        "KeyGenPreproc" key_gen_preproc(KeyGenPreprocRequest::default()),
        "GetKeyGenPreprocResult" get_key_gen_preproc_result(none()),
        "KeyGen" key_gen(KeyGenRequest::default()),
        "GetKeyGenResult" get_key_gen_result(none()),
        "AbortKeyGen" abort_key_gen(none()),
        "PublicDecrypt" public_decrypt(PublicDecryptionRequest::default()),
        "GetPublicDecryptionResult" get_public_decryption_result(none()),
        "PublicDecryptSync" public_decrypt_sync(PublicDecryptionRequest::default()),
        "UserDecrypt" user_decrypt(UserDecryptionRequest::default()),
        "GetUserDecryptionResult" get_user_decryption_result(none()),
        "UserDecryptSync" user_decrypt_sync(UserDecryptionRequest::default()),
        "CrsGen" crs_gen(CrsGenRequest::default()),
        "GetCrsGenResult" get_crs_gen_result(none()),
        "AbortCrsGen" abort_crs_gen(none()),
        "NewKmsContext" new_kms_context(NewKmsContextRequest::default()),
        "DestroyKmsContext" destroy_kms_context(DestroyKmsContextRequest::default()),
        "InitiateResharing" initiate_resharing(InitiateResharingRequest::default()),
        "GetResharingResult" get_resharing_result(none()),
        "NewMpcContext" new_mpc_context(NewMpcContextRequest::default()),
        "DestroyMpcContext" destroy_mpc_context(DestroyMpcContextRequest::default()),
        "NewMpcEpoch" new_mpc_epoch(NewMpcEpochRequest::default()),
        "GetEpochResult" get_epoch_result(none()),
        "DestroyMpcEpoch" destroy_mpc_epoch(DestroyMpcEpochRequest::default()),
        "GetKeyMaterialAvailability" get_key_material_availability(Empty {}),
        "GetHealthStatus" get_health_status(Empty {}),
        "BandwidthBenchmark" bandwidth_benchmark(BandwidthBenchmarkRequest::default()),
    ];
    codes.push((
        "GetRequestStatuses",
        code(introspection.get_request_statuses(GetRequestStatusesRequest::default()).await),
    ));
    codes.push(("ListRequests", code(introspection.list_requests(ListRequestsRequest::default()).await)));
    codes.push(("GetMetaStoreInfo", code(introspection.get_meta_store_info(Empty {}).await)));
    codes
}

/// RPCs that not every version has, with the first and the last that does.
const ONLY_IN_SOME: &[(&str, CoreVersion, CoreVersion)] = &[
    ("Init", V0_12, V0_13_0),
    ("NewKmsContext", V0_12, V0_12),
    ("DestroyKmsContext", V0_12, V0_12),
    ("InitiateResharing", V0_12, V0_13_0),
    ("GetResharingResult", V0_12, V0_13_0),
    ("NewMpcContext", V0_13_0, V0_15),
    ("DestroyMpcContext", V0_13_0, V0_15),
    ("NewMpcEpoch", V0_13_10, V0_15),
    ("GetEpochResult", V0_13_10, V0_15),
    ("DestroyMpcEpoch", V0_13_10, V0_15),
    ("AbortKeyGen", V0_13_20, V0_15),
    ("AbortCrsGen", V0_13_20, V0_15),
    ("BandwidthBenchmark", V0_14, V0_15),
    ("PublicDecryptSync", V0_15, V0_15),
    ("UserDecryptSync", V0_15, V0_15),
];

/// RPCs whose empty request is no mistake.
const TAKE_EMPTY: &[&str] = &[
    "GetKeyMaterialAvailability",
    "GetHealthStatus",
    "BandwidthBenchmark",
    "GetRequestStatuses",
    "ListRequests",
    "GetMetaStoreInfo",
];

#[tokio::test]
async fn a_version_has_its_rpcs_and_answers_unimplemented_to_the_others() {
    for version in CoreVersion::ALL {
        let world = World::threshold(version).await;
        for (name, code) in call_every_rpc(&world).await {
            let range = ONLY_IN_SOME.iter().find(|(of, _, _)| *of == name);
            let is_served = range.is_none_or(|&(_, first, last)| first <= version && version <= last);
            let expected = match is_served {
                false => Code::Unimplemented,
                true if TAKE_EMPTY.contains(&name) => Code::Ok,
                true => Code::InvalidArgument,
            };
            assert_eq!(code, expected, "{name} of {version:?}");
        }
    }
}

#[tokio::test]
async fn a_centralized_node_measures_no_bandwidth() {
    let mut world = World::of(V0_15, Mode::Centralized).await;
    let request = BandwidthBenchmarkRequest::default();
    assert_eq!(code(world.core.bandwidth_benchmark(request).await), Code::Unimplemented);
    let mut world = World::threshold(V0_15).await;
    let peers = world.core.bandwidth_benchmark(request_for_default()).await.unwrap().into_inner().peers_info;
    assert_eq!(peers.iter().map(|peer| peer.peer_id).collect::<Vec<_>>(), [2, 3, 4]);
    let unknown = BandwidthBenchmarkRequest { context_id: Some(context_id(9)), ..BandwidthBenchmarkRequest::default() };
    assert_eq!(code(world.core.bandwidth_benchmark(unknown).await), Code::NotFound);
}

fn request_for_default() -> BandwidthBenchmarkRequest {
    BandwidthBenchmarkRequest { context_id: Some(context_id(1)), ..BandwidthBenchmarkRequest::default() }
}

/// Starts one operation of every kind that has a result and lets none finish.
async fn start_and_hold_every_kind(world: &mut World) {
    world.core.key_gen_preproc(prep(1)).await.unwrap();
    until_done(|| world.core.clone().get_prep_owned(prep_id(1))).await;
    for operation in Operation::ALL {
        world.hold(operation).await;
    }
    world.core.key_gen(keygen(2, 1)).await.unwrap();
    world.core.key_gen_preproc(prep(2)).await.unwrap();
    world.core.public_decrypt(public(1)).await.unwrap();
    world.core.user_decrypt(user(1)).await.unwrap();
    world.core.crs_gen(crsgen(1)).await.unwrap();
}

/// Whether a version's Get answers a running operation at once, by mode: threshold, centralized.
const IMMEDIATE: &[(&str, CoreVersion, [bool; 2])] = &[
    ("key", V0_13_20, [false, false]),
    ("key", V0_14, [true, true]),
    ("key", V0_15, [true, true]),
    ("crs", V0_13_20, [false, false]),
    ("crs", V0_15, [true, true]),
    ("preprocessing", V0_13_20, [false, false]),
    ("preprocessing", V0_15, [false, true]),
    ("public", V0_15, [false, false]),
    ("user", V0_15, [false, false]),
];

#[tokio::test]
async fn a_get_of_a_running_operation_holds_the_call_or_not_as_the_version_does() {
    for &(kind, version, immediate) in IMMEDIATE {
        for (mode, immediate) in [Mode::Threshold, Mode::Centralized].into_iter().zip(immediate) {
            let mut world = World::of(version, mode).await;
            start_and_hold_every_kind(&mut world).await;
            let core = world.core.clone();
            let get = async move {
                match kind {
                    "key" => code(core.get_key_gen_result_owned(key_id(2)).await),
                    "crs" => code(core.get_crs_owned(crs_id(1)).await),
                    "preprocessing" => code(core.get_prep_owned(prep_id(2)).await),
                    "public" => code(core.get_public_owned(public_id(1)).await),
                    _ => code(core.get_user_owned(user_id(1)).await),
                }
            };
            let mut get = tokio::spawn(get);
            if immediate {
                // The shortest wait is a minute: an answer that was held would not come within the test's patience.
                assert_eq!(get.await.unwrap(), Code::Unavailable, "{kind} of {version:?}, {mode:?}");
                continue;
            }
            let calls = if kind == "preprocessing" { 2 } else { 1 };
            let rpc = match kind {
                "key" => "GetKeyGenResult",
                "crs" => "GetCrsGenResult",
                "preprocessing" => "GetKeyGenPreprocResult",
                "public" => "GetPublicDecryptionResult",
                _ => "GetUserDecryptionResult",
            };
            world.until_called(rpc, calls).await;
            let held = tokio::time::timeout(std::time::Duration::from_millis(20), &mut get).await;
            assert!(held.is_err(), "{kind} of {version:?}, {mode:?}: the call was not held");
            for operation in Operation::ALL {
                world.release(operation).await;
            }
            assert_eq!(get.await.unwrap(), Code::Ok, "{kind} of {version:?}, {mode:?}");
        }
    }
}

#[tokio::test]
async fn from_0_13_0_on_texts_name_the_id_and_the_operation_and_explain_nothing() {
    for version in CoreVersion::ALL {
        let mut world = World::threshold(version).await;
        let unknown = world.core.get_public_decryption_result(public_id(9)).await.unwrap_err();
        let lower_case =
            Eip712DomainMsg { verifying_contract: CONTRACT.to_string().to_lowercase(), ..domain_message("Decryption") };
        let request = PublicDecryptionRequest { domain: Some(lower_case), ..public(1) };
        let invalid = world.core.public_decrypt(request).await.unwrap_err();
        if version == V0_12 {
            assert!(unknown.message().contains("is not known"), "{unknown:?}");
            assert!(invalid.message().contains("EIP-55"), "{invalid:?}");
            continue;
        }
        let named = public_id(9).request_id;
        assert_eq!(unknown.message(), format!("Failed on requestID {named} with metric public_decrypt_result"));
        let nothing = "0".repeat(64);
        let text = format!("Failed on requestID {nothing} with metric public_decrypt_request");
        assert_eq!(invalid.message(), text, "nothing was read");
        assert!(unknown.details().is_empty());
    }
}

#[tokio::test]
async fn a_pending_get_names_the_id_in_every_version() {
    for version in CoreVersion::ALL {
        let mut world = World::with(|config| {
            config.version = version;
            config.wait_ms = short_waits();
        })
        .await;
        world.hold(Operation::PublicDecryption).await;
        world.core.public_decrypt(public(1)).await.unwrap();
        let status = world.core.get_public_decryption_result(public_id(1)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().contains(&public_id(1).request_id), "{version:?}");
    }
}

#[tokio::test]
async fn the_default_context_and_epoch_are_those_of_the_version() {
    use kms_proto::id::{DEFAULT_CONTEXT, DEFAULT_CONTEXT_UNTIL_V0_13_3, DEFAULT_EPOCH, DEFAULT_EPOCH_UNTIL_V0_13_3};
    for version in CoreVersion::ALL {
        let node = World::threshold(version).await.control.node().await.unwrap();
        let (context, epoch) = match version {
            V0_12 => (DEFAULT_CONTEXT_UNTIL_V0_13_3, None),
            V0_13_0 => (DEFAULT_CONTEXT_UNTIL_V0_13_3, Some(DEFAULT_EPOCH_UNTIL_V0_13_3)),
            _ => (DEFAULT_CONTEXT, Some(DEFAULT_EPOCH)),
        };
        assert_eq!(node.contexts, [hex::encode(context)], "{version:?}");
        assert_eq!(node.epochs, epoch.map(hex::encode).into_iter().collect::<Vec<_>>(), "{version:?}");
    }
}

#[tokio::test]
async fn in_0_13_0_the_prss_setup_makes_the_epoch_of_its_id() {
    let mut world = World::with(|config| {
        config.version = V0_13_0;
        config.initialized = false;
    })
    .await;
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::NotFound, "there is no epoch");
    let init = |counter| InitRequest { request_id: Some(id(0, counter)), context_id: None };
    let elsewhere = InitRequest { context_id: Some(context_id(9)), ..init(1) };
    assert_eq!(code(world.core.init(elsewhere).await), Code::NotFound);
    assert_eq!(code(world.core.init(init(1)).await), Code::Ok);
    assert_eq!(code(world.core.init(init(1)).await), Code::AlreadyExists);
    assert_eq!(code(world.core.public_decrypt(public(1)).await), Code::Ok);
    assert_eq!(code(world.core.init(init(2)).await), Code::Ok, "another epoch");
}
