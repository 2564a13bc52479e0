//! The simulator gives the answers of KMS Core's worked vectors, byte by byte: what the vectors' requests ask for, with the
//! vectors' key, plaintexts and digests. What is random in an answer (a user's shares) is compared without it.

use std::collections::BTreeMap;

use kms_proto::kms::v1::*;
use kms_proto::metastore_status::v1::{GetRequestStatusesRequest, GetRequestStatusesResponse};
use kms_stack::simulator::{CoreVersion, Mode, Operation};
use prost::Message;
use serde_json::Value;
use tonic::Code;

use CoreVersion::{V0_12, V0_15};

use crate::world::*;

/// Vectors that are no answers, or none of the two services': requests by others than this test sends, and health.
const NO_ANSWERS: &[&str] = &["request_id/", "grpc_health_"];

struct Vectors {
    all: Value,
    used: std::cell::RefCell<std::collections::BTreeSet<String>>,
}

impl Vectors {
    fn read() -> Self {
        let all = serde_json::from_str(include_str!("../../../proto/vectors/kms-core.json")).unwrap();
        Self { all, used: Default::default() }
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        let messages = self.all["messages"].as_array().unwrap();
        let vector = messages.iter().find(|vector| vector["name"] == name);
        let vector = vector.unwrap_or_else(|| panic!("there is no vector {name}"));
        self.used.borrow_mut().insert(name.to_owned());
        hex::decode(vector["hex"].as_str().unwrap()).unwrap()
    }

    fn message<M: Message + Default>(&self, name: &str) -> M {
        M::decode(&*self.bytes(name)).unwrap()
    }

    fn answers<M: Message>(&self, name: &str, answer: &M) {
        assert_eq!(hex::encode(answer.encode_to_vec()), hex::encode(self.bytes(name)), "{name}");
    }
}

/// A node with the vectors' key, plaintexts and digests, whose FHE key is there only where it is not generated.
async fn node(vectors: &Vectors, version: CoreVersion, mode: Mode, has_key: bool) -> World {
    let digests = |result: &KeyGenResult| {
        let parts = result.key_digests.iter().cloned();
        parts.map(|part| (part.key_type, hex::encode(part.digest))).collect::<BTreeMap<_, _>>()
    };
    let mut of_key = digests(&vectors.message("keygen_result/v0.12.4"));
    of_key.extend(digests(&vectors.message("keygen_result/HEAD/compressed")));
    let crs: CrsGenResult = vectors.message("crsgen_result/HEAD");
    let response: PublicDecryptionResponse = vectors.message("public_decryption_response/HEAD");
    let request: PublicDecryptionRequest = vectors.message("public_decryption_request/HEAD/extra_data_v2");
    let plaintexts = response.payload.unwrap().plaintexts;
    World::with(|config| {
        config.version = version;
        config.mode = mode;
        config.keys = if has_key { vec![key_id(1).request_id] } else { vec![] };
        config.digests = [
            (key_id(1).request_id, of_key),
            (crs_id(1).request_id, [("CRS".to_owned(), hex::encode(crs.crs_digest))].into()),
        ]
        .into();
        let handles = request.ciphertexts.iter().map(|ciphertext| hex::encode(&ciphertext.external_handle));
        config.plaintexts = handles.zip(plaintexts.iter().map(|value| hex::encode(&value.bytes))).collect();
    })
    .await
}

/// Without the bytes that are drawn anew every time and what covers them.
fn without_randomness(mut response: UserDecryptionResponse) -> UserDecryptionResponse {
    response.signature.fill(0);
    response.external_signature.fill(0);
    for share in response.payload.iter_mut().flat_map(|payload| &mut payload.signcrypted_ciphertexts) {
        share.signcrypted_ciphertext.fill(0);
    }
    response
}

#[tokio::test]
async fn every_answer_of_the_vectors_is_given() {
    let vectors = Vectors::read();
    decryptions(&vectors).await;
    former_generations(&vectors).await;
    generations(&vectors).await;
    contexts(&vectors).await;
    conditions(&vectors).await;

    let used = vectors.used.borrow();
    let messages = vectors.all["messages"].as_array().unwrap();
    let unused = messages.iter().map(|vector| vector["name"].as_str().unwrap());
    let unused: Vec<_> = unused
        .filter(|name| !used.contains(*name) && !NO_ANSWERS.iter().any(|known| name.starts_with(known)))
        .collect();
    assert!(unused.is_empty(), "vectors that this test does not know: {unused:?}");
}

async fn decryptions(vectors: &Vectors) {
    for (version, request, answer) in [
        (V0_12, "public_decryption_request/v0.12.4", "public_decryption_response/v0.12.4"),
        (V0_15, "public_decryption_request/HEAD/extra_data_v2", "public_decryption_response/HEAD"),
    ] {
        let mut world = node(vectors, version, Mode::Centralized, true).await;
        let started = world.core.public_decrypt(vectors.message::<PublicDecryptionRequest>(request)).await;
        vectors.answers("empty", &started.unwrap().into_inner());
        let result = world.core.get_public_decryption_result(public_id(1)).await.unwrap().into_inner();
        vectors.answers(answer, &result);
    }
    let mut world = node(vectors, V0_15, Mode::Centralized, true).await;
    let plain: PublicDecryptionRequest = vectors.message("public_decryption_request/HEAD/no_context");
    assert_eq!(code(world.core.public_decrypt_sync(plain).await), Code::Ok);

    // The vector's answer is to the request with both handles, the vector's request with schemes names one of them.
    let mut world = node(vectors, V0_15, Mode::Centralized, true).await;
    let with_schemes: PublicDecryptionRequest = vectors.message("public_decryption_request/HEAD/with_schemes");
    let answer = world.core.public_decrypt_sync(with_schemes.clone()).await.unwrap().into_inner();
    let schemes: Vec<_> = answer.signatures.iter().map(|signature| signature.scheme).collect();
    assert_eq!(schemes, with_schemes.signing_schemes);
    let mut world = node(vectors, V0_15, Mode::Centralized, true).await;
    let request = PublicDecryptionRequest {
        signing_schemes: vec![SigningSchemeType::Ecdsa256k1.into()],
        ..vectors.message("public_decryption_request/HEAD/extra_data_v2")
    };
    let answer = world.core.public_decrypt_sync(request).await.unwrap().into_inner();
    vectors.answers("public_decryption_response/HEAD/with_schemes", &answer);

    for (version, request, answer) in [
        (V0_12, "user_decryption_request/v0.12.4", "user_decryption_response/v0.12.4"),
        (V0_15, "user_decryption_request/HEAD", "user_decryption_response/HEAD"),
    ] {
        let mut world = node(vectors, version, Mode::Centralized, true).await;
        world.core.user_decrypt(vectors.message::<UserDecryptionRequest>(request)).await.unwrap();
        let result = world.core.get_user_decryption_result(user_id(1)).await.unwrap().into_inner();
        let expected: UserDecryptionResponse = vectors.message(answer);
        assert_eq!(without_randomness(result), without_randomness(expected), "{answer}");
    }
}

/// Preprocessing, key, CRS, set-up and resharing of version 0.12.
async fn former_generations(vectors: &Vectors) {
    let mut world = node(vectors, V0_12, Mode::Threshold, false).await;
    let core = &mut world.core;
    let request: KeyGenPreprocRequest = vectors.message("keygen_preproc_request/v0.12.4");
    core.key_gen_preproc(request).await.unwrap();
    let result = core.get_key_gen_preproc_result(prep_id(1)).await.unwrap().into_inner();
    vectors.answers("keygen_preproc_result/v0.12.4", &result);
    core.key_gen(vectors.message::<KeyGenRequest>("keygen_request/v0.12.4")).await.unwrap();
    let result = core.get_key_gen_result(key_id(1)).await.unwrap().into_inner();
    vectors.answers("keygen_result/v0.12.4", &result);
    core.crs_gen(vectors.message::<CrsGenRequest>("crsgen_request/v0.12.4")).await.unwrap();
    let result = core.get_crs_gen_result(crs_id(1)).await.unwrap().into_inner();
    vectors.answers("crsgen_result/v0.12.4", &result);
    let request: InitiateResharingRequest = vectors.message("initiate_resharing_request/v0.12.4");
    let answer = core.initiate_resharing(request).await.unwrap().into_inner();
    vectors.answers("initiate_resharing_response/v0.12.4", &answer);
    let result = core.get_resharing_result(reshare_id(1)).await.unwrap().into_inner();
    vectors.answers("resharing_result_response/v0.12.4", &result);

    let mut world = World::with(|config| config.initialized = false).await;
    let answer = world.core.init(vectors.message::<InitRequest>("init_request/v0.12.4")).await.unwrap();
    vectors.answers("empty", &answer.into_inner());
}

/// Preprocessing, key, CRS and the epoch that takes them over, of version 0.15.
async fn generations(vectors: &Vectors) {
    let mut world = node(vectors, V0_15, Mode::Threshold, false).await;
    let request: KeyGenPreprocRequest = vectors.message("keygen_preproc_request/HEAD");
    world.core.key_gen_preproc(request.clone()).await.unwrap();
    let result = until_done(|| world.core.clone().get_prep_owned(prep_id(1))).await;
    vectors.answers("keygen_preproc_result/HEAD", &result);
    world.core.key_gen(vectors.message::<KeyGenRequest>("keygen_request/HEAD")).await.unwrap();
    let result = until_done(|| world.core.clone().get_key_gen_result_owned(key_id(1))).await;
    vectors.answers("keygen_result/HEAD/compressed", &result);
    world.core.crs_gen(vectors.message::<CrsGenRequest>("crsgen_request/HEAD")).await.unwrap();
    let result = until_done(|| world.core.clone().get_crs_owned(crs_id(1))).await;
    vectors.answers("crsgen_result/HEAD", &result);
    let request: NewMpcEpochRequest = vectors.message("new_mpc_epoch_request/HEAD");
    world.core.new_mpc_epoch(request).await.unwrap();
    let result = until_done(|| world.core.clone().get_epoch_owned(epoch_id(2))).await;
    vectors.answers("epoch_result_response/HEAD", &result);
    let request: DestroyMpcEpochRequest = vectors.message("destroy_mpc_epoch_request/HEAD");
    let destroyed = request.epoch_id.clone();
    assert_eq!(code(world.core.destroy_mpc_epoch(request).await), Code::Ok, "{destroyed:?}");

    let mut world = node(vectors, V0_15, Mode::Threshold, false).await;
    world.core.key_gen_preproc(KeyGenPreprocRequest { params: 0, ..prep(1) }).await.unwrap();
    until_done(|| world.core.clone().get_prep_owned(prep_id(1))).await;
    let request: KeyGenRequest = vectors.message("keygen_request/HEAD/params_default_set");
    assert_eq!(code(world.core.key_gen(request).await), Code::Ok);
}

async fn contexts(vectors: &Vectors) {
    let mut world = node(vectors, V0_15, Mode::Threshold, false).await;
    let request: NewMpcContextRequest = vectors.message("new_mpc_context_request/HEAD");
    vectors.answers("empty", &world.core.new_mpc_context(request).await.unwrap().into_inner());

    // A third context with an epoch of its own, so that the first may go with both of its.
    world.core.new_mpc_context(new_context(3)).await.unwrap();
    world.make_epoch(NewMpcEpochRequest { context_id: Some(context_id(3)), ..new_epoch(3) }).await;
    world.make_epoch(new_epoch(2)).await;
    let request: DestroyMpcContextRequest = vectors.message("destroy_mpc_context_request/HEAD");
    let answer = world.core.destroy_mpc_context(request).await.unwrap().into_inner();
    vectors.answers("destroy_mpc_context_response/HEAD", &answer);
}

async fn conditions(vectors: &Vectors) {
    let state = tempfile::tempdir().unwrap();
    let mut world = World::with(|config| {
        config.version = V0_15;
        config.mode = Mode::Centralized;
        config.state_dir = Some(state.path().to_owned());
    })
    .await;
    world.make_crs(crsgen(1)).await;
    let answer = world.core.get_key_material_availability(Empty {}).await.unwrap().into_inner();
    vectors.answers("key_material_availability_response/HEAD", &answer);
    let answer = world.core.get_health_status(Empty {}).await.unwrap().into_inner();
    vectors.answers("health_status_response/HEAD", &answer);

    // The text of a failure is the node's own.
    world.control.fail_id(&public_id(1).request_id).await.unwrap();
    world.core.public_decrypt(public(1)).await.unwrap();
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::Internal);
    let request: GetRequestStatusesRequest = vectors.message("metastore_get_request_statuses");
    let mut answer = world.introspection().get_request_statuses(request).await.unwrap().into_inner();
    let expected: GetRequestStatusesResponse = vectors.message("metastore_request_statuses");
    for (ours, theirs) in answer.statuses.iter_mut().zip(&expected.statuses) {
        assert!(ours.error_message.is_some());
        ours.error_message.clone_from(&theirs.error_message);
    }
    vectors.answers("metastore_request_statuses", &answer);
    world.release(Operation::PublicDecryption).await;
}
