//! Every operation against the vectors of KMS Core: the bytes that are sent, and what becomes of the bytes that are answered.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolEvent, SolValue};
use kms_chain::contracts::KeyDigest;
use kms_chain::contracts::b::{KMSGeneration, KeyInfo, KmsNodeParams, KmsThresholds, PcrValues, ProtocolConfig};
use kms_chain::event::{self, ContractSet, NO_CONTEXT};
use kms_chain::release::{Family, Release};
use kms_proto::kms::v1 as kms;
use kms_schemas::record::{Answer, CiphertextMaterial, NewKmsContext, RawLog, RequestBody};
use prost::Message;
use serde_json::Value;
use tonic::Code;

use super::*;
use crate::attestation::{self, Claim, Stored, attest};
use crate::ciphertext::Wanted;
use crate::config::{CiphertextsConfig, CoreVersion};
use crate::coprocessors::Coprocessors;
use crate::mock::word;
use crate::operation::epoch::NewEpoch;
use crate::operation::key_reshare::Key;
use crate::operation::user_decryption::Recipient;
use crate::scripted::{Object, PROTOCOL_CONFIG, SIGNER, Scene, ScriptedCore, TestBucket};

const SOURCE: &str = include_str!("tests.rs");

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../proto/vectors/kms-core.json")).unwrap()
}

fn vector(name: &str) -> Value {
    let all = vectors();
    let found = all["messages"].as_array().unwrap().iter().find(|vector| vector["name"] == name);
    found.unwrap_or_else(|| panic!("no vector {name}")).clone()
}

fn unhex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap().trim_start_matches("0x")).unwrap()
}

fn bytes(name: &str) -> Vec<u8> {
    unhex(&vector(name)["hex"])
}

fn message<M: Message + Default>(name: &str) -> M {
    M::decode(&*bytes(name)).unwrap()
}

fn id(tag: u8, counter: u64) -> RequestId {
    RequestId::from((U256::from(tag) << 248) | U256::from(counter))
}

/// `extraData` of the vectors: context 1, epoch 1.
fn extra_data() -> Bytes {
    event_extra_data(1)
}

fn event_extra_data(epoch: u64) -> Bytes {
    kms_chain::extra_data::ExtraData::ContextAndEpoch(id(7, 1), id(8, epoch)).to_bytes()
}

/// The two handles of the vectors with their ciphertexts.
fn inputs() -> [(B256, &'static [u8], Stored); 2] {
    let handle = |text: &str| text.parse().unwrap();
    [
        (
            handle("0xa853324e0317eb48f843ac3706feccb257256bac4c0000000000000030390500"),
            b"sns-ciphertext-1",
            Stored::CompressedOnCpu,
        ),
        (
            handle("0x03780b3d9ca610bb5b835358939cd9c7431449f59a0100000000000030390000"),
            b"sns-ciphertext-2",
            Stored::UncompressedOnCpu,
        ),
    ]
}

fn handles() -> [B256; 2] {
    inputs().map(|(handle, ..)| handle)
}

fn materials() -> [CiphertextMaterial; 2] {
    inputs().map(|(handle, body, _)| CiphertextMaterial {
        handle,
        key_id: id(4, 1),
        digest: keccak256(body),
        coprocessors: vec![Address::ZERO],
    })
}

/// A deployment whose one coprocessor stores the ciphertexts in the way of every release.
async fn decrypting(release: Release, version: CoreVersion) -> Scene {
    let mut scene = Scene::start(release, version).await;
    let signer = PrivateKeySigner::from_bytes(&B256::repeat_byte(1)).unwrap();
    let objects = inputs().into_iter().flat_map(|(handle, body, stored)| {
        let claim = Claim {
            key_id: id(4, 1),
            ciphertext_digest: B256::repeat_byte(1),
            sns_ciphertext_digest: keccak256(body),
            stored,
        };
        let format = if stored == Stored::CompressedOnCpu { "compressed_on_cpu" } else { "uncompressed_on_cpu" };
        let object = |name, value: String| Object { status: 200, headers: vec![(name, value)], body: body.to_vec() };
        [
            (hex::encode(keccak256(body)), object("x-amz-meta-ct-format", format.to_owned())),
            (attestation::object_key(handle), object("x-amz-meta-ct-attestation", attest(&signer, handle, &claim))),
        ]
    });
    let bucket = TestBucket::start(objects).await;
    let registry = Coprocessors::registered(&[signer.address()], 1, &[bucket.url]).await;
    scene.ciphertexts = CiphertextStore::new(CiphertextsConfig::default(), registry).unwrap();
    scene
}

async fn public(scene: &Scene, count: usize, extra_data: &[u8]) -> Result<Answer, Trouble> {
    let (materials, handles) = (materials(), handles());
    let wanted = match scene.release.decryption_family() {
        Family::Materials => Wanted::Materials(&materials[..count]),
        Family::Handles => Wanted::Handles(&handles[..count]),
    };
    public_decryption::serve(&scene.work(), id(1, 1), wanted, extra_data).await
}

async fn user(scene: &Scene, extra_data: &[u8]) -> Result<Answer, Trouble> {
    let (materials, handles) = (materials(), handles());
    let wanted = match scene.release.decryption_family() {
        Family::Materials => Wanted::Materials(&materials[..1]),
        Family::Handles => Wanted::Handles(&handles[..1]),
    };
    let request: kms::UserDecryptionRequest = message("user_decryption_request/v0.12.4");
    let public_key = Bytes::from(request.enc_key);
    let recipient = Recipient { user: request.client_address.parse().unwrap(), public_key: &public_key };
    user_decryption::serve(&scene.work(), id(2, 1), wanted, recipient, extra_data).await
}

/// Serves what answers with this message and may be changed, and gives the code of the refusal.
fn code(outcome: Result<Answer, Trouble>) -> &'static str {
    outcome.unwrap_err().code()
}

// --- Public decryption ----------------------------------------------------------------------------------------------

#[tokio::test]
async fn public_decryption_of_generation_a() {
    let scene = decrypting(Release::V0_11, CoreVersion::V0_12).await;
    scene.core.accepts("public_decrypt");
    scene.core.answers(
        "get_public_decryption_result",
        &message::<kms::PublicDecryptionResponse>("public_decryption_response/v0.12.4"),
    );
    let answer = public(&scene, 2, &[0]).await.unwrap();
    assert_eq!(scene.core.requests("public_decrypt"), [bytes("public_decryption_request/v0.12.4")]);
    assert_eq!(scene.core.requests("get_public_decryption_result"), [bytes("request_id/public_decryption_id")]);
    let Answer::PublicDecryption { handles: answered, decrypted_result, extra_data, signature } = answer else {
        panic!("{answer:?}")
    };
    assert_eq!(answered, handles());
    assert_eq!(decrypted_result.len(), 64);
    assert!(extra_data.is_empty(), "what KMS Core signed, not what the event says");
    assert_eq!(signature.signer, SIGNER);
}

#[tokio::test]
async fn public_decryption_of_generation_b_takes_its_key_from_the_attestations() {
    for response in ["public_decryption_response/HEAD", "public_decryption_response/HEAD/with_schemes"] {
        let scene = decrypting(Release::V0_15, CoreVersion::V0_15).await;
        scene.core.accepts("public_decrypt");
        scene.core.answers("get_public_decryption_result", &message::<kms::PublicDecryptionResponse>(response));
        let answer = public(&scene, 2, &extra_data()).await.unwrap();
        assert_eq!(scene.core.requests("public_decrypt"), [bytes("public_decryption_request/HEAD/extra_data_v2")]);
        let Answer::PublicDecryption { extra_data: published, .. } = answer else { panic!("{answer:?}") };
        assert_eq!(published, extra_data());
    }
}

#[tokio::test]
async fn public_decryption_of_v0_14_takes_its_key_from_the_event() {
    let scene = decrypting(Release::V0_14, CoreVersion::V0_14).await;
    scene.core.accepts("public_decrypt");
    scene.core.answers(
        "get_public_decryption_result",
        &message::<kms::PublicDecryptionResponse>("public_decryption_response/HEAD"),
    );
    assert!(public(&scene, 2, &extra_data()).await.is_ok());
    assert_eq!(scene.core.requests("public_decrypt"), [bytes("public_decryption_request/HEAD/extra_data_v2")]);
}

#[tokio::test]
async fn extra_data_of_a_single_zero_byte_is_sent_as_nothing() {
    for given in [&[0][..], &[]] {
        let scene = decrypting(Release::V0_15, CoreVersion::V0_15).await;
        scene.core.accepts("public_decrypt");
        scene.core.refuses("get_public_decryption_result", Code::InvalidArgument);
        assert_eq!(code(public(&scene, 1, given).await), codes::CORE_REFUSED);
        assert_eq!(scene.core.requests("public_decrypt"), [bytes("public_decryption_request/HEAD/no_context")]);
    }
}

#[tokio::test]
async fn p4_a_public_answer_that_is_not_of_this_request_and_signer_is_not_published() {
    type Change = fn(&mut kms::PublicDecryptionResponse);
    let changes: [(Change, &str); 8] = [
        (|response| response.payload = None, codes::ANSWER_MALFORMED),
        (|response| drop(response.payload.as_mut().unwrap().plaintexts.pop()), codes::ANSWER_MALFORMED),
        (|response| response.payload.as_mut().unwrap().plaintexts[0].fhe_type = 4, codes::ANSWER_MALFORMED),
        (|response| response.payload.as_mut().unwrap().plaintexts.swap(0, 1), codes::ANSWER_MALFORMED),
        (
            |response| response.payload.as_mut().unwrap().request_id = Some(crate::core_request::id(id(1, 2))),
            codes::ANSWER_MALFORMED,
        ),
        (|response| response.payload.as_mut().unwrap().plaintexts[0].bytes[0] ^= 1, codes::SIGNATURE_WRONG),
        (|response| response.extra_data.clear(), codes::SIGNATURE_WRONG),
        (|response| response.external_signature.clear(), codes::SIGNATURE_WRONG),
    ];
    for (number, (change, expected)) in changes.into_iter().enumerate() {
        let scene = decrypting(Release::V0_15, CoreVersion::V0_15).await;
        let mut response = message("public_decryption_response/HEAD");
        change(&mut response);
        scene.core.accepts("public_decrypt");
        scene.core.answers("get_public_decryption_result", &response);
        assert_eq!(code(public(&scene, 2, &extra_data()).await), expected, "{number}");
    }
    let mut scene = decrypting(Release::V0_15, CoreVersion::V0_15).await;
    scene.verifier.signer = Address::repeat_byte(1);
    scene.core.accepts("public_decrypt");
    scene.core.answers(
        "get_public_decryption_result",
        &message::<kms::PublicDecryptionResponse>("public_decryption_response/HEAD"),
    );
    assert_eq!(code(public(&scene, 2, &extra_data()).await), codes::SIGNATURE_WRONG, "another signer");
}

#[tokio::test]
async fn a_request_that_no_contract_lets_through_reaches_nobody() {
    let scene = decrypting(Release::V0_15, CoreVersion::V0_15).await;
    let mut unsupported = handles()[0];
    unsupported.0[30] = 1;
    let serve = |handles: Vec<B256>, extra: Vec<u8>| {
        let scene = &scene;
        async move { public_decryption::serve(&scene.work(), id(1, 1), Wanted::Handles(&handles), &extra).await }
    };
    assert_eq!(code(serve(vec![], vec![]).await), codes::REQUEST_INVALID);
    assert_eq!(code(serve(vec![unsupported], vec![]).await), codes::FHE_TYPE_UNSUPPORTED);
    assert_eq!(code(serve(handles().to_vec(), vec![3; 65]).await), codes::EXTRA_DATA_MALFORMED);
    assert!(scene.core.calls().is_empty());
}

// --- User decryption ------------------------------------------------------------------------------------------------

#[tokio::test]
async fn user_decryption_of_generation_a() {
    let scene = decrypting(Release::V0_11, CoreVersion::V0_12).await;
    scene.core.accepts("user_decrypt");
    scene.core.answers(
        "get_user_decryption_result",
        &message::<kms::UserDecryptionResponse>("user_decryption_response/v0.12.4"),
    );
    let answer = user(&scene, &[0]).await.unwrap();
    assert_eq!(scene.core.requests("user_decrypt"), [bytes("user_decryption_request/v0.12.4")]);
    assert_eq!(scene.core.requests("get_user_decryption_result"), [bytes("request_id/user_decryption_id")]);
    let Answer::UserDecryption { extra_data, handles: answered, .. } = answer else { panic!("{answer:?}") };
    assert!(extra_data.is_empty());
    assert_eq!(answered, handles()[..1]);
}

#[tokio::test]
async fn user_decryption_of_generation_b() {
    let scene = decrypting(Release::V0_15, CoreVersion::V0_15).await;
    scene.core.accepts("user_decrypt");
    scene.core.answers(
        "get_user_decryption_result",
        &message::<kms::UserDecryptionResponse>("user_decryption_response/HEAD"),
    );
    let answer = user(&scene, &extra_data()).await.unwrap();
    assert_eq!(scene.core.requests("user_decrypt"), [bytes("user_decryption_request/HEAD")]);
    let Answer::UserDecryption { extra_data: published, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(published, extra_data());
}

#[tokio::test]
async fn p4_a_share_that_is_not_of_this_request_is_not_published() {
    type Change = fn(&mut kms::UserDecryptionResponsePayload);
    let changes: [(Change, &str); 4] = [
        (|payload| payload.signcrypted_ciphertexts.clear(), codes::ANSWER_MALFORMED),
        (|payload| payload.signcrypted_ciphertexts[0].external_handle[0] ^= 1, codes::ANSWER_MALFORMED),
        (|payload| payload.signcrypted_ciphertexts[0].signcrypted_ciphertext[0] ^= 1, codes::SIGNATURE_WRONG),
        (|payload| payload.party_id = 2, codes::SIGNATURE_WRONG),
    ];
    for (number, (change, expected)) in changes.into_iter().enumerate() {
        let scene = decrypting(Release::V0_15, CoreVersion::V0_15).await;
        let mut response: kms::UserDecryptionResponse = message("user_decryption_response/HEAD");
        change(response.payload.as_mut().unwrap());
        scene.core.accepts("user_decrypt");
        scene.core.answers("get_user_decryption_result", &response);
        assert_eq!(code(user(&scene, &extra_data()).await), expected, "{number}");
    }
}

// --- Key and CRS generation -----------------------------------------------------------------------------------------

/// Nothing was decided or aborted on chain.
fn nothing_done(scene: &Scene) {
    scene.chain.on_selector(KMSGeneration::isRequestDoneCall::SELECTOR, word(U256::ZERO));
    scene.chain.on_selector(KMSGeneration::getConsensusTxSendersCall::SELECTOR, Vec::<Address>::new().abi_encode());
}

/// These ids are aborted on chain.
fn aborted_on_chain(scene: &Scene, ids: &[RequestId]) {
    let ids: Vec<U256> = ids.iter().map(RequestId::as_u256).collect();
    scene.chain.on(KMSGeneration::isRequestDoneCall::SELECTOR, move |arguments| {
        let asked = U256::from_be_slice(&arguments[..32]);
        Ok(word(U256::from(u8::from(ids.contains(&asked)))))
    });
    scene.chain.on_selector(KMSGeneration::getConsensusTxSendersCall::SELECTOR, Vec::<Address>::new().abi_encode());
}

async fn generating(release: Release, version: CoreVersion) -> Scene {
    let scene = Scene::start(release, version).await;
    nothing_done(&scene);
    scene
}

#[tokio::test]
async fn preprocessing_of_both_generations() {
    let scene = Scene::start(Release::V0_11, CoreVersion::V0_12).await;
    scene.core.accepts("key_gen_preproc");
    scene
        .core
        .answers("get_key_gen_preproc_result", &message::<kms::KeyGenPreprocResult>("keygen_preproc_result/v0.12.4"));
    let answer = prep_keygen::serve(&scene.work(), id(3, 1), 1, &Bytes::new()).await.unwrap();
    assert_eq!(scene.core.requests("key_gen_preproc"), [bytes("keygen_preproc_request/v0.12.4")]);
    assert_eq!(scene.core.requests("get_key_gen_preproc_result"), [bytes("request_id/prep_keygen_id")]);
    assert!(matches!(answer, Answer::PrepKeygen { extra_data, .. } if extra_data.is_empty()));
    assert_eq!(scene.chain.posts(), 0, "generation (a) aborts nothing");

    let scene = generating(Release::V0_15, CoreVersion::V0_15).await;
    scene.core.accepts("key_gen_preproc");
    scene
        .core
        .answers("get_key_gen_preproc_result", &message::<kms::KeyGenPreprocResult>("keygen_preproc_result/HEAD"));
    let answer = prep_keygen::serve(&scene.work(), id(3, 1), 0, &extra_data()).await.unwrap();
    assert_eq!(scene.core.requests("key_gen_preproc"), [bytes("keygen_preproc_request/HEAD")]);
    assert!(matches!(answer, Answer::PrepKeygen { extra_data: signed, .. } if signed == extra_data()));
}

#[tokio::test]
async fn key_generation_of_both_generations() {
    let scene = Scene::start(Release::V0_11, CoreVersion::V0_12).await;
    scene.core.accepts("key_gen");
    scene.core.answers("get_key_gen_result", &message::<kms::KeyGenResult>("keygen_result/v0.12.4"));
    let answer = keygen::serve(&scene.work(), id(4, 1), id(3, 1), &Bytes::new()).await.unwrap();
    assert_eq!(scene.core.requests("key_gen"), [bytes("keygen_request/v0.12.4")]);
    assert_eq!(scene.core.requests("get_key_gen_result"), [bytes("request_id/key_id")]);
    let Answer::Keygen { key_digests, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(key_digests.iter().map(|digest| digest.key_type).collect::<Vec<_>>(), [0, 1]);

    let scene = generating(Release::V0_15, CoreVersion::V0_15).await;
    scene.core.accepts("key_gen");
    scene.core.answers("get_key_gen_result", &message::<kms::KeyGenResult>("keygen_result/HEAD/compressed"));
    let answer = keygen::serve(&scene.work(), id(4, 1), id(3, 1), &extra_data()).await.unwrap();
    assert_eq!(scene.core.requests("key_gen"), [bytes("keygen_request/HEAD")]);
    let Answer::Keygen { key_digests, extra_data: signed, .. } = answer else { panic!("{answer:?}") };
    assert_eq!(key_digests.iter().map(|digest| digest.key_type).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(signed, extra_data());
}

#[tokio::test]
async fn releases_up_to_v0_14_ask_for_an_uncompressed_key_set_and_publish_no_other() {
    let scene = generating(Release::V0_14, CoreVersion::V0_14).await;
    scene.core.accepts("key_gen");
    scene.core.answers("get_key_gen_result", &message::<kms::KeyGenResult>("keygen_result/HEAD/compressed"));
    let refused = keygen::serve(&scene.work(), id(4, 1), id(3, 1), &extra_data()).await;
    assert_eq!(code(refused), codes::ANSWER_MALFORMED, "the contract would revert without a reason");
    let sent = kms::KeyGenRequest::decode(&*scene.core.requests("key_gen")[0]).unwrap();
    let standard = sent.keyset_config.unwrap().standard_keyset_config.unwrap();
    assert_eq!(standard.compressed_key_config(), kms::CompressedKeyConfig::CompressedNone);
}

#[tokio::test]
async fn crs_generation_of_both_generations() {
    let bits = U256::from(2048);
    let scene = Scene::start(Release::V0_11, CoreVersion::V0_12).await;
    scene.core.accepts("crs_gen");
    scene.core.answers("get_crs_gen_result", &message::<kms::CrsGenResult>("crsgen_result/v0.12.4"));
    let answer = crsgen::serve(&scene.work(), id(5, 1), bits, 1, &Bytes::new()).await.unwrap();
    assert_eq!(scene.core.requests("crs_gen"), [bytes("crsgen_request/v0.12.4")]);
    assert_eq!(scene.core.requests("get_crs_gen_result"), [bytes("request_id/crs_id")]);
    assert!(matches!(answer, Answer::Crsgen { max_bit_length, .. } if max_bit_length == bits));

    let scene = generating(Release::V0_15, CoreVersion::V0_15).await;
    scene.core.accepts("crs_gen");
    scene.core.answers("get_crs_gen_result", &message::<kms::CrsGenResult>("crsgen_result/HEAD"));
    assert!(crsgen::serve(&scene.work(), id(5, 1), bits, 0, &extra_data()).await.is_ok());
    assert_eq!(scene.core.requests("crs_gen"), [bytes("crsgen_request/HEAD")]);

    // Signed over the full bit length of the request, of which KMS Core takes only 32 bits.
    let long = crsgen::serve(&scene.work(), id(5, 1), bits + (U256::from(1) << 32), 0, &extra_data()).await;
    assert_eq!(code(long), codes::REQUEST_INVALID);
    assert_eq!(code(crsgen::serve(&scene.work(), id(5, 1), bits, 2, &extra_data()).await), codes::REQUEST_INVALID);
}

#[tokio::test]
async fn p4_a_key_that_is_not_of_this_request_and_signer_is_not_published() {
    type Change = fn(&mut kms::KeyGenResult);
    let changes: [(Change, &str); 6] = [
        (|result| result.request_id = None, codes::ANSWER_MALFORMED),
        (|result| result.preprocessing_id = Some(crate::core_request::id(id(3, 2))), codes::ANSWER_MALFORMED),
        (|result| result.key_digests.clear(), codes::ANSWER_MALFORMED),
        (|result| result.key_digests[0].key_type = "MysteryKey".to_owned(), codes::ANSWER_MALFORMED),
        (|result| result.key_digests.reverse(), codes::SIGNATURE_WRONG),
        (|result| result.key_digests[0].digest[0] ^= 1, codes::SIGNATURE_WRONG),
    ];
    for (number, (change, expected)) in changes.into_iter().enumerate() {
        let scene = generating(Release::V0_15, CoreVersion::V0_15).await;
        let mut result = message("keygen_result/HEAD/compressed");
        change(&mut result);
        scene.core.accepts("key_gen");
        scene.core.answers("get_key_gen_result", &result);
        let refused = keygen::serve(&scene.work(), id(4, 1), id(3, 1), &extra_data()).await;
        assert_eq!(code(refused), expected, "{number}");
    }
    // The event's extra data is part of what is signed.
    let scene = generating(Release::V0_15, CoreVersion::V0_15).await;
    scene.core.accepts("key_gen");
    scene.core.answers("get_key_gen_result", &message::<kms::KeyGenResult>("keygen_result/HEAD/compressed"));
    let other = keygen::serve(&scene.work(), id(4, 1), id(3, 1), &event_extra_data(2)).await;
    assert_eq!(code(other), codes::SIGNATURE_WRONG);
}

#[tokio::test]
async fn keys_are_not_asked_of_a_core_whose_signatures_the_release_refuses() {
    for (release, version) in [(Release::V0_11, CoreVersion::V0_13_20), (Release::V0_15, CoreVersion::V0_13_10)] {
        let scene = generating(release, version).await;
        let work = scene.work();
        let prep = prep_keygen::serve(&work, id(3, 1), 0, &extra_data()).await;
        let key = keygen::serve(&work, id(4, 1), id(3, 1), &extra_data()).await;
        let crs = crsgen::serve(&work, id(5, 1), U256::from(2048), 0, &extra_data()).await;
        for refused in [prep, key, crs] {
            assert!(matches!(refused, Err(Trouble::Permanent { code: codes::CORE_VERSION_UNFIT, .. })));
        }
        assert!(scene.core.calls().is_empty());
    }
}

#[tokio::test]
async fn a_preprocessing_that_is_gone_is_made_again_only_while_the_chain_waits_for_it() {
    let mut scene = generating(Release::V0_15, CoreVersion::V0_15).await;
    scene.repeated = true;
    scene.core.refuses("get_key_gen_preproc_result", Code::NotFound);
    scene
        .core
        .answers("get_key_gen_preproc_result", &message::<kms::KeyGenPreprocResult>("keygen_preproc_result/HEAD"));
    scene.core.accepts("key_gen_preproc");
    assert!(prep_keygen::serve(&scene.work(), id(3, 1), 0, &extra_data()).await.is_ok());
    assert_eq!(scene.core.count("key_gen_preproc"), 1);

    let mut scene = generating(Release::V0_15, CoreVersion::V0_15).await;
    scene.repeated = true;
    scene.chain.on_selector(KMSGeneration::isRequestDoneCall::SELECTOR, word(U256::from(1)));
    scene
        .chain
        .on_selector(KMSGeneration::getConsensusTxSendersCall::SELECTOR, vec![Address::repeat_byte(1)].abi_encode());
    scene.core.refuses("get_key_gen_preproc_result", Code::NotFound);
    let gone = prep_keygen::serve(&scene.work(), id(3, 1), 0, &extra_data()).await;
    assert_eq!(code(gone), codes::PREPROCESSING_GONE);
    assert_eq!(scene.core.count("key_gen_preproc"), 0);
}

// --- Aborts ---------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_abort_overtakes_what_runs_in_this_process_also_under_another_id() {
    let scene = generating(Release::V0_15, CoreVersion::V0_15).await;
    for (start, get) in [
        ("key_gen_preproc", "get_key_gen_preproc_result"),
        ("key_gen", "get_key_gen_result"),
        ("crs_gen", "get_crs_gen_result"),
    ] {
        scene.core.accepts(start);
        scene.core.refuses(get, Code::Unavailable);
    }
    scene.core.accepts("abort_key_gen");
    scene.core.accepts("abort_crs_gen");
    let (work, extra) = (scene.work(), extra_data());
    let abort = async {
        let all_run = || {
            ["get_key_gen_preproc_result", "get_key_gen_result", "get_crs_gen_result"]
                .iter()
                .all(|get| scene.core.count(get) > 0)
        };
        while !all_run() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let keys = abort::keygen(&work, id(3, 1)).await;
        let crs = abort::crsgen(&work, id(5, 1)).await;
        (keys, crs)
    };
    let all = async {
        tokio::join!(
            prep_keygen::serve(&work, id(3, 1), 0, &extra),
            keygen::serve(&work, id(4, 1), id(3, 1), &extra),
            crsgen::serve(&work, id(5, 1), U256::from(2048), 0, &extra),
            abort,
        )
    };
    let (prep, key, crs, aborts) =
        tokio::time::timeout(std::time::Duration::from_secs(120), Box::pin(all)).await.unwrap();
    assert_eq!([prep, key, crs], [Ok(Answer::Aborted), Ok(Answer::Aborted), Ok(Answer::Aborted)]);
    assert_eq!(aborts, (Ok(Answer::Done), Ok(Answer::Done)));
    assert_eq!(scene.core.requests("abort_key_gen"), [bytes("request_id/prep_keygen_id")]);
    assert_eq!(scene.core.requests("abort_crs_gen"), [bytes("request_id/crs_id")]);
    // What comes after its abort is not started.
    assert_eq!(keygen::serve(&work, id(4, 1), id(3, 1), &extra).await, Ok(Answer::Aborted));
    assert_eq!(scene.core.count("key_gen"), 1);
}

#[tokio::test]
async fn an_abort_of_what_does_not_run_is_done() {
    let scene = generating(Release::V0_15, CoreVersion::V0_15).await;
    scene.core.refuses("abort_key_gen", Code::NotFound);
    scene.core.refuses("abort_crs_gen", Code::NotFound);
    assert_eq!(abort::keygen(&scene.work(), id(3, 1)).await, Ok(Answer::Done));
    assert_eq!(abort::crsgen(&scene.work(), id(5, 1)).await, Ok(Answer::Done));
    let old = generating(Release::V0_13, CoreVersion::V0_13_10).await;
    assert_eq!(code(abort::keygen(&old.work(), id(3, 1)).await), codes::CORE_VERSION_UNFIT);
    assert_eq!(code(abort::crsgen(&old.work(), id(5, 1)).await), codes::CORE_VERSION_UNFIT);
    assert!(old.core.calls().is_empty());
}

#[tokio::test]
async fn what_the_chain_aborted_before_is_not_started() {
    let scene = generating(Release::V0_15, CoreVersion::V0_15).await;
    aborted_on_chain(&scene, &[id(3, 1), id(4, 1), id(5, 1)]);
    let work = scene.work();
    assert_eq!(prep_keygen::serve(&work, id(3, 1), 0, &extra_data()).await, Ok(Answer::Aborted));
    assert_eq!(keygen::serve(&work, id(4, 1), id(3, 1), &extra_data()).await, Ok(Answer::Aborted));
    assert_eq!(crsgen::serve(&work, id(5, 1), U256::from(2048), 0, &extra_data()).await, Ok(Answer::Aborted));
    assert!(scene.core.calls().is_empty());
    let blocks = scene.chain.blocks_asked();
    assert!(blocks.iter().all(|block| block == "0x64"), "all of one block, by its number: {blocks:?}");
    // A key that was aborted after its preprocessing had consensus takes the preprocessing along.
    aborted_on_chain(&scene, &[id(4, 9)]);
    assert_eq!(prep_keygen::serve(&work, id(3, 9), 0, &extra_data()).await, Ok(Answer::Aborted));
}

#[tokio::test]
async fn p3_nodes_of_different_heights_together_abort_nothing() {
    let scene = generating(Release::V0_15, CoreVersion::V0_15).await;
    scene.chain.on_selector(KMSGeneration::isRequestDoneCall::SELECTOR, word(U256::ONE));
    // A node that is behind answers first.
    let looks = std::sync::atomic::AtomicU32::new(0);
    scene.chain.on(KMSGeneration::getConsensusTxSendersCall::SELECTOR, move |_| {
        let is_first = looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 0;
        let agreed = if is_first { Vec::new() } else { vec![Address::repeat_byte(1)] };
        Ok(agreed.abi_encode())
    });
    scene.core.refuses("key_gen", Code::InvalidArgument);
    let outcome = keygen::serve(&scene.work(), id(4, 1), id(3, 1), &extra_data()).await;
    assert_eq!(code(outcome), codes::CORE_REFUSED, "it was asked for");
    // A node that does not have the block that is final is not believed at all.
    scene.chain.is_final(101);
    let outcome = keygen::serve(&scene.work(), id(4, 1), id(3, 1), &extra_data()).await;
    assert!(matches!(outcome, Err(Trouble::Outage { code: codes::HOST_CHAIN_UNREACHABLE, .. })), "{outcome:?}");
}

#[tokio::test]
async fn aborted_in_kms_core_alone_is_a_failure() {
    let scene = generating(Release::V0_15, CoreVersion::V0_15).await;
    scene.core.accepts("key_gen");
    scene.core.refuses("get_key_gen_result", Code::Aborted);
    let outcome = keygen::serve(&scene.work(), id(4, 1), id(3, 1), &extra_data()).await;
    assert!(matches!(outcome, Err(Trouble::Permanent { code: codes::CORE_ABORTED, .. })), "{outcome:?}");
    let scene = generating(Release::V0_15, CoreVersion::V0_15).await;
    // The chain says so only after the first look, as when another instance handled the abort.
    let looks = std::sync::atomic::AtomicU32::new(0);
    scene.chain.on(KMSGeneration::isRequestDoneCall::SELECTOR, move |_| {
        Ok(word(U256::from(looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed).min(1))))
    });
    scene.core.refuses("key_gen", Code::Aborted);
    assert_eq!(keygen::serve(&scene.work(), id(4, 1), id(3, 1), &extra_data()).await, Ok(Answer::Aborted));
}

// --- Generation (a) only --------------------------------------------------------------------------------------------

#[tokio::test]
async fn prss_initialisation() {
    let scene = Scene::start(Release::V0_11, CoreVersion::V0_12).await;
    assert!(bytes("empty").is_empty(), "what accepts a start");
    scene.core.accepts("init");
    scene.core.refuses("init", Code::AlreadyExists);
    assert_eq!(prss_init::serve(&scene.work()).await, Ok(Answer::Done));
    assert_eq!(prss_init::serve(&scene.work()).await, Ok(Answer::Done), "it was there before");
    assert_eq!(scene.core.requests("init")[0], bytes("init_request/v0.12.4"));
    let late = Scene::start(Release::V0_12, CoreVersion::V0_13_10).await;
    assert_eq!(code(prss_init::serve(&late.work()).await), codes::CORE_VERSION_UNFIT);
    assert!(late.core.calls().is_empty());
    let lacking = Scene::start(Release::V0_11, CoreVersion::V0_12).await;
    assert_eq!(code(prss_init::serve(&lacking.work()).await), codes::CORE_LACKS_CALL, "UNIMPLEMENTED");
}

#[tokio::test]
async fn same_set_resharing_asks_for_the_result_first() {
    let key = Key { prep_keygen_id: id(3, 1), key_id: id(4, 1), params_type: 0 };
    let scene = Scene::start(Release::V0_11, CoreVersion::V0_12).await;
    scene.core.refuses("get_resharing_result", Code::NotFound);
    scene
        .core
        .answers("get_resharing_result", &message::<kms::ResharingResultResponse>("resharing_result_response/v0.12.4"));
    scene.core.answers(
        "initiate_resharing",
        &message::<kms::InitiateResharingResponse>("initiate_resharing_response/v0.12.4"),
    );
    assert_eq!(key_reshare::serve(&scene.work(), id(6, 1), key).await, Ok(Answer::Done));
    assert_eq!(scene.core.requests("initiate_resharing"), [bytes("initiate_resharing_request/v0.12.4")]);
    assert_eq!(scene.core.calls(), ["get_resharing_result", "initiate_resharing", "get_resharing_result"]);
    let late = Scene::start(Release::V0_12, CoreVersion::V0_13_10).await;
    assert_eq!(code(key_reshare::serve(&late.work(), id(6, 1), key).await), codes::CORE_VERSION_UNFIT);
}

#[tokio::test]
async fn each_call_goes_to_the_shard_that_all_nodes_ask_for_it() {
    let key = Key { prep_keygen_id: id(3, 1), key_id: id(4, 1), params_type: 0 };
    let scene = Scene::start(Release::V0_11, CoreVersion::V0_12).await;
    let (even, odd) = (ScriptedCore::start().await, ScriptedCore::start().await);
    let kms = ScriptedCore::shards(&[&even, &odd], CoreVersion::V0_12);
    let work = Work { core: &kms, ..scene.work() };
    for (number, shard, other) in [(2, &even, &odd), (3, &odd, &even)] {
        shard.refuses("get_resharing_result", Code::NotFound);
        shard.accepts("initiate_resharing");
        shard.answers("get_resharing_result", &kms::ResharingResultResponse::default());
        assert_eq!(key_reshare::serve(&work, id(6, number), key).await, Ok(Answer::Done));
        let before = other.calls().len();
        assert_eq!(key_reshare::serve(&work, id(6, number), key).await, Ok(Answer::Done), "after a restart");
        assert_eq!(shard.calls().len(), 4);
        assert_eq!(other.calls().len(), before, "nothing of it is there");
    }
    assert_eq!(even.count("initiate_resharing") + odd.count("initiate_resharing"), 2);
    // A key generation follows its preprocessing, whose number is odd.
    even.refuses("key_gen", Code::InvalidArgument);
    odd.refuses("key_gen", Code::InvalidArgument);
    assert_eq!(code(keygen::serve(&work, id(4, 2), id(3, 1), &Bytes::new()).await), codes::CORE_REFUSED);
    assert_eq!((even.count("key_gen"), odd.count("key_gen")), (0, 1));
}

// --- Contexts -------------------------------------------------------------------------------------------------------

/// The `NewKmsContext` log whose message is the vector's, under these ids.
fn context_log(context: RequestId, previous: RequestId) -> RawLog {
    let vector: kms::NewMpcContextRequest = message("new_mpc_context_request/HEAD");
    let vector = vector.new_context.unwrap();
    let node = |node: &kms::MpcNode| KmsNodeParams {
        txSenderAddress: Address::from_slice(&node.extra_signer_addresses[0]),
        signerAddress: Address::from_slice(node.signer_address.as_ref().unwrap()),
        ipAddress: node.external_url.clone(),
        storageUrl: node.public_storage_url.clone(),
        partyId: node.party_id,
        mpcIdentity: node.mpc_identity.clone(),
        caCert: node.ca_cert.clone().unwrap().into(),
        storagePrefix: node.public_storage_prefix.clone().unwrap(),
    };
    let pcr = |values: &kms::PcrValues| PcrValues {
        pcr0: values.pcr0.clone().into(),
        pcr1: values.pcr1.clone().into(),
        pcr2: values.pcr2.clone().into(),
    };
    let (three, one) = (U256::from(3), U256::from(vector.threshold));
    let event = ProtocolConfig::NewKmsContext {
        contextId: context.as_u256(),
        previousContextId: previous.as_u256(),
        kmsNodeParams: vector.mpc_nodes.iter().map(node).collect(),
        thresholds: KmsThresholds { publicDecryption: three, userDecryption: three, kmsGen: three, mpc: one },
        softwareVersion: vector.software_version,
        pcrValues: vector.pcr_values.iter().map(pcr).collect(),
    };
    let data = event.encode_log_data();
    RawLog { address: PROTOCOL_CONFIG, topics: data.topics().to_vec(), data: data.data }
}

fn context_of(log: &RawLog, contracts: &ContractSet) -> NewKmsContext {
    match event::decode_request(contracts, log).unwrap().unwrap().body {
        RequestBody::NewKmsContext(context) => *context,
        other => panic!("{other:?}"),
    }
}

fn anchor(scene: &Scene, block: u64, hash: B256) {
    let anchor = (U256::from(block), hash).abi_encode_params();
    scene.chain.on_selector(ProtocolConfig::getKmsContextAnchorCall::SELECTOR, anchor);
}

#[tokio::test]
async fn a_new_context_is_told_after_the_previous_one_which_is_rebuilt_from_its_own_log() {
    let mut scene = Scene::start(Release::V0_15, CoreVersion::V0_15).await;
    let (previous, new) = (context_log(id(7, 1), NO_CONTEXT), context_log(id(7, 2), id(7, 1)));
    scene.chain.log(41, &context_log(id(7, 1), id(7, 9)));
    scene.chain.log(41, &previous);
    anchor(&scene, 41, event::context_info_hash(&previous));
    scene.core.refuses("new_mpc_context", Code::AlreadyExists);
    scene.core.accepts("new_mpc_context");
    let context = context_of(&new, &scene.contracts);
    scene.verifier.signer = context.nodes[0].signer;
    assert_eq!(context::serve(&scene.work(), id(7, 2), &context).await, Ok(Answer::KmsContextCreated));
    let sent = scene.core.requests("new_mpc_context");
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[1], bytes("new_mpc_context_request/HEAD"));
    let first = kms::NewMpcContextRequest::decode(&*sent[0]).unwrap().new_context.unwrap();
    assert_eq!(first.context_id, Some(crate::core_request::id(id(7, 1))));
    assert_eq!(first.mpc_nodes.len(), 4);
}

#[tokio::test]
async fn a_node_without_a_certificate_is_told_without_one_and_not_with_an_empty_one() {
    let scene = Scene::start(Release::V0_15, CoreVersion::V0_15).await;
    let (previous, new) = (context_log(id(7, 1), NO_CONTEXT), context_log(id(7, 2), id(7, 1)));
    scene.chain.log(41, &previous);
    anchor(&scene, 41, event::context_info_hash(&previous));
    scene.core.accepts("new_mpc_context");
    let mut context = context_of(&new, &scene.contracts);
    context.nodes[0].ca_cert = Bytes::new();
    assert!(context::serve(&scene.work(), id(7, 2), &context).await.is_ok());
    let sent = kms::NewMpcContextRequest::decode(&*scene.core.requests("new_mpc_context")[1]).unwrap();
    let certificates: Vec<_> = sent.new_context.unwrap().mpc_nodes.into_iter().map(|node| node.ca_cert).collect();
    assert_eq!(certificates[0], None);
    assert!(certificates[1..].iter().all(|certificate| certificate.as_ref().is_some_and(|pem| !pem.is_empty())));
}

#[tokio::test]
async fn a_node_of_neither_context_makes_it_known_and_confirms_nothing() {
    let mut scene = Scene::start(Release::V0_15, CoreVersion::V0_15).await;
    let (previous, new) = (context_log(id(7, 1), NO_CONTEXT), context_log(id(7, 2), id(7, 1)));
    scene.chain.log(41, &previous);
    anchor(&scene, 41, event::context_info_hash(&previous));
    scene.core.accepts("new_mpc_context");
    let mut context = context_of(&new, &scene.contracts);
    scene.verifier.signer = context.nodes.remove(0).signer;
    let leaves = context::serve(&scene.work(), id(7, 2), &context).await;
    assert_eq!(leaves, Ok(Answer::KmsContextCreated), "those of the previous one confirm as well");
    scene.verifier.signer = Address::repeat_byte(9);
    assert_eq!(context::serve(&scene.work(), id(7, 2), &context).await, Ok(Answer::Done));
    assert_eq!(scene.core.count("new_mpc_context"), 4);
}

#[tokio::test]
async fn a_context_that_was_destroyed_is_not_made() {
    let scene = Scene::start(Release::V0_15, CoreVersion::V0_15).await;
    let (previous, new) = (context_log(id(7, 1), NO_CONTEXT), context_log(id(7, 2), id(7, 1)));
    scene.chain.log(41, &previous);
    anchor(&scene, 41, event::context_info_hash(&previous));
    scene.core.refuses("destroy_mpc_context", Code::NotFound);
    scene.core.accepts("new_mpc_context");
    assert_eq!(destroy::context(&scene.work(), id(7, 2)).await, Ok(Answer::Done));
    let context = context_of(&new, &scene.contracts);
    assert_eq!(code(context::serve(&scene.work(), id(7, 2), &context).await), codes::CONTEXT_DESTROYED);
    let told = scene.core.requests("new_mpc_context");
    assert_eq!(told.len(), 1, "only the previous one, which is there");
}

#[tokio::test]
async fn the_first_context_of_all_needs_nothing() {
    let scene = Scene::start(Release::V0_15, CoreVersion::V0_15).await;
    let context = context_of(&context_log(id(7, 1), NO_CONTEXT), &scene.contracts);
    assert_eq!(context::serve(&scene.work(), id(7, 1), &context).await, Ok(Answer::Done));
    assert!(scene.core.calls().is_empty());
    assert_eq!(scene.chain.posts(), 0);
}

#[tokio::test]
async fn p4_a_previous_context_that_is_not_what_its_anchor_says_is_not_told_to_anybody() {
    let (previous, new) = (context_log(id(7, 1), NO_CONTEXT), context_log(id(7, 2), id(7, 1)));
    let other = context_log(id(7, 3), NO_CONTEXT);
    for (block, hash, logged) in [
        (41, B256::repeat_byte(1), &previous),
        (42, event::context_info_hash(&previous), &previous),
        (41, event::context_info_hash(&previous), &other),
        (41, B256::ZERO, &previous),
    ] {
        let scene = Scene::start(Release::V0_15, CoreVersion::V0_15).await;
        scene.chain.log(41, logged);
        anchor(&scene, block, hash);
        let context = context_of(&new, &scene.contracts);
        let refused = context::serve(&scene.work(), id(7, 2), &context).await;
        assert!(matches!(refused, Err(Trouble::MayHeal { code: codes::PREVIOUS_CONTEXT_UNKNOWN, .. })), "{refused:?}");
        assert!(scene.core.calls().is_empty());
    }
    let scene = Scene::start(Release::V0_15, CoreVersion::V0_15).await;
    scene.chain.break_down(true);
    let context = context_of(&new, &scene.contracts);
    let down = context::serve(&scene.work(), id(7, 2), &context).await;
    assert!(matches!(down, Err(Trouble::Outage { code: codes::HOST_CHAIN_UNREACHABLE, .. })), "{down:?}");
}

#[tokio::test]
async fn a_context_that_kms_core_refuses_is_refused_and_one_in_flight_is_waited_for() {
    let (previous, new) = (context_log(id(7, 1), NO_CONTEXT), context_log(id(7, 2), id(7, 1)));
    for (status, code) in [
        (Code::InvalidArgument, codes::CORE_REFUSED),
        (Code::FailedPrecondition, codes::CORE_LIFECYCLE),
        (Code::Internal, codes::CORE_NOT_READY),
    ] {
        let scene = Scene::start(Release::V0_15, CoreVersion::V0_15).await;
        scene.chain.log(41, &previous);
        anchor(&scene, 41, event::context_info_hash(&previous));
        scene.core.refuses("new_mpc_context", status);
        let context = context_of(&new, &scene.contracts);
        let refused = context::serve(&scene.work(), id(7, 2), &context).await.unwrap_err();
        assert_eq!(refused.code(), code);
        assert!(!matches!(refused, Trouble::Outage { .. }), "nobody else has to wait");
    }
    let old = Scene::start(Release::V0_14, CoreVersion::V0_13_20).await;
    let context = context_of(&new, &old.contracts);
    assert_eq!(code(context::serve(&old.work(), id(7, 2), &context).await), codes::CORE_VERSION_UNFIT);
}

// --- Epochs ---------------------------------------------------------------------------------------------------------

fn new_epoch(epoch: u64) -> NewEpoch {
    NewEpoch {
        epoch_id: id(8, epoch),
        context_id: id(7, 1),
        previous_context_id: id(7, 1),
        previous_epoch_id: id(8, 1),
        material_block_number: U256::from(99),
    }
}

/// The chain has the key and the CRS of the vectors.
async fn resharing() -> Scene {
    let scene = Scene::start(Release::V0_15, CoreVersion::V0_15).await;
    let vector: kms::NewMpcEpochRequest = message("new_mpc_epoch_request/HEAD");
    let previous = vector.previous_epoch.unwrap();
    let digest = |digest: &kms::KeyDigest| KeyDigest {
        keyType: if digest.key_type == "PublicKey" { 1 } else { 3 },
        digest: digest.digest.clone().into(),
    };
    let key = KeyInfo {
        prepKeygenId: id(3, 1).as_u256(),
        keyId: id(4, 1).as_u256(),
        paramsType: 0,
        keyDigests: previous.keys_info[0].key_digests.iter().map(digest).collect(),
    };
    completed(&scene, &[id(4, 1)], &[id(5, 1)]);
    scene.chain.on_selector(KMSGeneration::getKeyInfoCall::SELECTOR, (key,).abi_encode_params());
    let crs = (Vec::<String>::new(), Bytes::from(previous.crs_info[0].crs_digest.clone()));
    scene.chain.on_selector(KMSGeneration::getCrsMaterialsCall::SELECTOR, crs.abi_encode_params());
    let health = kms::HealthStatusResponse { node_type: kms::NodeType::Threshold.into(), ..Default::default() };
    scene.core.answers("get_health_status", &health);
    signers(&scene, &[Address::repeat_byte(1), SIGNER]);
    scene
}

/// The nodes of every context are these.
fn signers(scene: &Scene, signers: &[Address]) {
    scene.chain.on_selector(ProtocolConfig::getKmsSignersForContextCall::SELECTOR, signers.to_vec().abi_encode());
}

fn completed(scene: &Scene, keys: &[RequestId], crs_list: &[RequestId]) {
    let ids = |ids: &[RequestId]| ids.iter().map(RequestId::as_u256).collect::<Vec<_>>().abi_encode();
    scene.chain.on_selector(KMSGeneration::getCompletedKeyIdsCall::SELECTOR, ids(keys));
    scene.chain.on_selector(KMSGeneration::getCompletedCrsIdsCall::SELECTOR, ids(crs_list));
}

#[tokio::test]
async fn an_epoch_carries_over_what_was_complete_at_the_named_block_and_every_signature_is_checked() {
    let scene = resharing().await;
    scene.core.accepts("new_mpc_epoch");
    scene.core.refuses("get_epoch_result", Code::Unavailable);
    scene.core.answers("get_epoch_result", &message::<kms::EpochResultResponse>("epoch_result_response/HEAD"));
    let answer = epoch::serve(&scene.work(), new_epoch(2)).await.unwrap();
    assert_eq!(scene.core.requests("new_mpc_epoch"), [bytes("new_mpc_epoch_request/HEAD")]);
    let mut blocks = scene.chain.blocks_asked();
    blocks.retain(|block| block != "0x63");
    assert_eq!(blocks, ["finalized"], "only who is of the context");
    let Answer::EpochActivation { context_id, keys, crs_list } = answer else { panic!("{answer:?}") };
    assert_eq!(context_id, id(7, 1));
    assert_eq!((keys.len(), crs_list.len()), (1, 1));
    assert_eq!(keys[0].signature.signer, SIGNER);
    assert_eq!(crs_list[0].max_bit_length, U256::from(2048));
    let again = Answer::EpochActivation { context_id, keys, crs_list };
    assert_eq!(scene.verifier.domains.signed(id(8, 2), &again).unwrap().len(), 2);
}

#[tokio::test]
async fn p4_an_epoch_that_is_not_the_chains_material_is_not_published() {
    type Change = fn(&mut kms::EpochResultResponse);
    let changes: [(Change, &str); 8] = [
        (|result| result.reshare_responses.clear(), codes::ANSWER_MALFORMED),
        (|result| result.crs_responses.clear(), codes::ANSWER_MALFORMED),
        (
            |result| {
                let mut more = result.reshare_responses[0].clone();
                more.request_id = Some(crate::core_request::id(id(4, 2)));
                result.reshare_responses.push(more);
            },
            codes::ANSWER_MALFORMED,
        ),
        (|result| result.reshare_responses.push(result.reshare_responses[0].clone()), codes::ANSWER_MALFORMED),
        (|result| result.reshare_responses[0].preprocessing_id = None, codes::ANSWER_MALFORMED),
        (|result| result.reshare_responses[0].key_digests[0].digest[0] ^= 1, codes::SIGNATURE_WRONG),
        (|result| result.crs_responses[0].max_num_bits = 1024, codes::SIGNATURE_WRONG),
        (
            |result| {
                // Signed when the key was made, not for the epoch.
                let made: kms::KeyGenResult = message("keygen_result/HEAD/compressed");
                result.reshare_responses[0].external_signature = made.external_signature;
            },
            codes::SIGNATURE_WRONG,
        ),
    ];
    for (number, (change, expected)) in changes.into_iter().enumerate() {
        let scene = resharing().await;
        let mut result = message("epoch_result_response/HEAD");
        change(&mut result);
        scene.core.accepts("new_mpc_epoch");
        scene.core.answers("get_epoch_result", &result);
        assert_eq!(code(epoch::serve(&scene.work(), new_epoch(2)).await), expected, "{number}");
    }
}

#[tokio::test]
async fn the_material_of_an_epoch_is_published_in_the_order_of_the_chain() {
    let keys = [id(4, 1), id(4, 2), id(4, 3)];
    let results: Vec<kms::KeyGenResult> = keys
        .iter()
        .rev()
        .map(|key| kms::KeyGenResult { request_id: Some(crate::core_request::id(*key)), ..Default::default() })
        .collect();
    let mut left = results;
    for key in keys {
        let taken = epoch::take(&mut left, key, |result| result.request_id.as_ref(), "key").unwrap();
        assert_eq!(taken.request_id, Some(crate::core_request::id(key)));
    }
    assert!(left.is_empty());
}

#[tokio::test]
async fn an_epoch_without_material_is_refused_before_kms_core_hears_of_it() {
    for (keys, crs_list) in [(vec![], vec![id(5, 1)]), (vec![id(4, 1)], vec![])] {
        let scene = resharing().await;
        completed(&scene, &keys, &crs_list);
        assert_eq!(code(epoch::serve(&scene.work(), new_epoch(2)).await), codes::EPOCH_EMPTY);
        assert!(scene.core.calls().is_empty());
    }
    let pruned = resharing().await;
    pruned.chain.on(KMSGeneration::getKeyInfoCall::SELECTOR, |_| Err(Vec::new()));
    let refused = epoch::serve(&pruned.work(), new_epoch(2)).await;
    assert!(matches!(refused, Err(Trouble::MayHeal { code: codes::MATERIAL_UNREADABLE, .. })), "{refused:?}");
}

#[tokio::test]
async fn a_node_that_is_not_of_the_epochs_context_takes_part_and_confirms_nothing() {
    let leaving = resharing().await;
    signers(&leaving, &[Address::repeat_byte(1)]);
    leaving.core.accepts("new_mpc_epoch");
    leaving.core.answers("get_epoch_result", &kms::EpochResultResponse::default());
    assert_eq!(epoch::serve(&leaving.work(), new_epoch(2)).await, Ok(Answer::Done));
    assert_eq!(leaving.core.count("new_mpc_epoch"), 1);

    // No view knows the nodes of a context that is not active yet.
    let defined = context_log(id(7, 1), NO_CONTEXT);
    let member = context_of(&defined, &leaving.contracts).nodes[2].signer;
    for (signer, refused) in [(member, Some(codes::SIGNATURE_WRONG)), (Address::repeat_byte(9), None)] {
        let mut pending = resharing().await;
        pending.chain.on(ProtocolConfig::getKmsSignersForContextCall::SELECTOR, |_| Err(Vec::new()));
        pending.chain.log(41, &defined);
        anchor(&pending, 41, event::context_info_hash(&defined));
        pending.core.accepts("new_mpc_epoch");
        let result = message::<kms::EpochResultResponse>("epoch_result_response/HEAD");
        pending.core.answers("get_epoch_result", &result);
        pending.verifier.signer = signer;
        match (epoch::serve(&pending.work(), new_epoch(2)).await, refused) {
            (Ok(answer), None) => assert_eq!(answer, Answer::Done),
            // A member's answer is looked at.
            (outcome, refused) => assert_eq!(Some(code(outcome)), refused),
        }
    }

    let unclear = resharing().await;
    unclear.chain.on_selector(ProtocolConfig::getKmsSignersForContextCall::SELECTOR, vec![1]);
    let waits = epoch::serve(&unclear.work(), new_epoch(2)).await;
    assert!(matches!(waits, Err(Trouble::MayHeal { .. })), "{waits:?}");
}

#[tokio::test]
async fn p5_the_destruction_of_an_epoch_or_of_its_context_ends_its_creation_and_nothing_is_started_for_it_again() {
    for (of_context, expected) in [(false, codes::EPOCH_DESTROYED), (true, codes::CONTEXT_DESTROYED)] {
        let scene = resharing().await;
        scene.core.accepts("new_mpc_epoch");
        scene.core.refuses("get_epoch_result", Code::Unavailable);
        scene.core.answers("destroy_mpc_context", &kms::DestroyMpcContextResponse::default());
        scene.core.accepts("destroy_mpc_epoch");
        let work = scene.work();
        let destruction = async {
            while scene.core.count("get_epoch_result") == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
            let destroyed = match of_context {
                true => destroy::context(&work, id(7, 1)).await,
                false => destroy::epoch(&work, id(8, 2)).await,
            };
            assert_eq!(destroyed, Ok(Answer::Done));
        };
        let both = async { tokio::join!(epoch::serve(&work, new_epoch(2)), destruction) };
        let (made, ()) = tokio::time::timeout(std::time::Duration::from_secs(120), both).await.unwrap();
        assert_eq!(code(made), expected);
        assert_eq!(code(epoch::serve(&work, new_epoch(2)).await), expected, "and later");
        assert_eq!(scene.core.count("new_mpc_epoch"), 1);
    }
}

#[tokio::test]
async fn an_error_of_a_node_burns_no_attempt_of_key_management_and_holds_up_nobody_else() {
    let refused = |code: &'static str, outcome: Result<Answer, Trouble>| {
        let is_partial =
            matches!(&outcome, Err(Trouble::Outage { code: told, reach: Reach::Some, .. }) if *told == code);
        assert!(is_partial, "{outcome:?}");
    };
    let generation = generating(Release::V0_15, CoreVersion::V0_15).await;
    generation.chain.refuse_calls(true);
    let outcome = prep_keygen::serve(&generation.work(), id(3, 1), 0, &extra_data()).await;
    refused(codes::HOST_CHAIN_UNREACHABLE, outcome);
    let pruned = resharing().await;
    pruned.chain.refuse_calls(true);
    refused(codes::MATERIAL_UNREADABLE, epoch::serve(&pruned.work(), new_epoch(2)).await);
    pruned.chain.break_down(true);
    let down = epoch::serve(&pruned.work(), new_epoch(2)).await;
    assert!(matches!(down, Err(Trouble::Outage { reach: Reach::All, .. })), "{down:?}");
}

#[tokio::test]
async fn an_epoch_refused_as_invalid_may_be_there_already() {
    let there = resharing().await;
    there.core.refuses("new_mpc_epoch", Code::InvalidArgument);
    there.core.answers("get_epoch_result", &message::<kms::EpochResultResponse>("epoch_result_response/HEAD"));
    assert!(epoch::serve(&there.work(), new_epoch(2)).await.is_ok());
    let lost = resharing().await;
    lost.core.refuses("new_mpc_epoch", Code::InvalidArgument);
    lost.core.refuses("get_epoch_result", Code::NotFound);
    let refused = epoch::serve(&lost.work(), new_epoch(1)).await;
    assert!(matches!(refused, Err(Trouble::Permanent { code: codes::EPOCH_REFUSED, .. })), "{refused:?}");
    assert_eq!(lost.core.requests("get_epoch_result"), [bytes("request_id/epoch_id")]);
    let busy = resharing().await;
    busy.core.refuses("new_mpc_epoch", Code::FailedPrecondition);
    let waits = epoch::serve(&busy.work(), new_epoch(2)).await;
    assert!(matches!(waits, Err(Trouble::MayHeal { code: codes::CORE_LIFECYCLE, .. })), "{waits:?}");
}

#[tokio::test]
async fn a_centralized_core_is_asked_for_no_epoch_since_it_would_panic() {
    let scene = resharing().await;
    let central = Scene::start(Release::V0_15, CoreVersion::V0_15).await;
    central.core.answers("get_health_status", &message::<kms::HealthStatusResponse>("health_status_response/HEAD"));
    let work = Work { core: &central.kms, ..scene.work() };
    assert_eq!(code(epoch::serve(&work, new_epoch(2)).await), codes::CORE_CENTRALIZED);
    assert_eq!(code(destroy::epoch(&work, id(8, 1)).await), codes::CORE_CENTRALIZED);
    assert_eq!(central.core.calls(), ["get_health_status", "get_health_status"]);
}

// --- Destruction ----------------------------------------------------------------------------------------------------

#[tokio::test]
async fn contexts_and_epochs_are_destroyed_once() {
    let scene = resharing().await;
    scene.core.answers(
        "destroy_mpc_context",
        &message::<kms::DestroyMpcContextResponse>("destroy_mpc_context_response/HEAD"),
    );
    scene.core.refuses("destroy_mpc_context", Code::NotFound);
    scene.core.accepts("destroy_mpc_epoch");
    scene.core.refuses("destroy_mpc_epoch", Code::NotFound);
    for _ in 0..2 {
        assert_eq!(destroy::context(&scene.work(), id(7, 1)).await, Ok(Answer::Done));
        assert_eq!(destroy::epoch(&scene.work(), id(8, 1)).await, Ok(Answer::Done));
    }
    assert_eq!(scene.core.requests("destroy_mpc_context")[0], bytes("destroy_mpc_context_request/HEAD"));
    assert_eq!(scene.core.requests("destroy_mpc_epoch")[0], bytes("destroy_mpc_epoch_request/HEAD"));
}

#[tokio::test]
async fn a_destruction_that_is_not_possible_yet_is_tried_again() {
    let scene = resharing().await;
    scene.core.refuses("destroy_mpc_context", Code::FailedPrecondition);
    scene.core.refuses("destroy_mpc_epoch", Code::Internal);
    let in_flight = destroy::context(&scene.work(), id(7, 1)).await;
    assert!(matches!(in_flight, Err(Trouble::MayHeal { code: codes::CORE_LIFECYCLE, .. })), "{in_flight:?}");
    let failed = destroy::epoch(&scene.work(), id(8, 1)).await;
    assert!(matches!(failed, Err(Trouble::MayHeal { code: codes::CORE_NOT_READY, .. })), "{failed:?}");
}

// --- Account --------------------------------------------------------------------------------------------------------

/// Vectors of requests and responses that are no concern of the processor's.
const ELSEWHERE: &[(&str, &str)] = &[
    ("public_decryption_request/HEAD/with_schemes", "no signing schemes are asked for, since the chain verifies ECDSA"),
    ("keygen_request/HEAD/params_default_set", "the parameters are those of the preprocessing"),
    ("key_material_availability_response/HEAD", "core_tests.rs"),
    ("grpc_health_request", "no health call is made: the answers themselves tell"),
    ("grpc_health_response", "no health call is made: the answers themselves tell"),
    ("metastore_get_request_statuses", "statuses are no promise of KMS Core's"),
    ("metastore_request_statuses", "statuses are no promise of KMS Core's"),
];

#[test]
fn every_vector_of_a_message_is_used_by_an_operation() {
    let all = vectors();
    let names = all["messages"].as_array().unwrap().iter().map(|vector| vector["name"].as_str().unwrap());
    let unused: Vec<&str> = names
        .filter(|name| !ELSEWHERE.iter().any(|(elsewhere, _)| elsewhere == name))
        .filter(|name| !SOURCE.contains(&format!("\"{name}\"")))
        .collect();
    assert!(unused.is_empty(), "no test uses {unused:?}");
}
