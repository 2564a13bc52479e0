//! Keys and CRSs on the Ethereum host: what requests name, what nodes sign, aborts, what the views say.

use alloy::primitives::{Address, Bytes, U256};
use alloy::sol_types::SolError;
use kms_chain::contracts::b::KMSGeneration;
use kms_chain::event::ResponseEvent;
use kms_schemas::identity::{Kind, RequestId};
use kms_schemas::record::RequestBody;
use kms_stack::contracts::NewRequest;

use super::network::{CRS_BITS, Network, crs_digest, crsgen, key_digests, naming, signed};
use super::world::{revert, tagged};

alloy::sol! {
    error KeyManagementRequestPending();
    error KeygenOngoing(uint256 keyId);
    error CrsgenOngoing(uint256 crsId);
    error KeyNotGenerated(uint256 keyId);
    error KeyAborted(uint256 keyId);
    error CrsNotGenerated(uint256 crsId);
    error CrsAborted(uint256 crsId);
    error AbortKeygenInvalidId(uint256 prepKeygenId);
    error AbortKeygenAlreadyDone(uint256 prepKeygenId);
    error AbortCrsgenInvalidId(uint256 crsId);
    error AbortCrsgenAlreadyDone(uint256 crsId);
    error NotKmsSigner(address signerAddress);
}

fn error<E: SolError>(error: &E) -> Bytes {
    error.abi_encode().into()
}

async fn is_done(network: &Network, id: RequestId) -> bool {
    network.generation(KMSGeneration::isRequestDoneCall { requestId: id.as_u256() }).await
}

#[tokio::test]
async fn requests_name_the_current_context_and_epoch_and_answers_sign_what_they_name() {
    let network = Network::of(4).await;
    let made = network.make(&NewRequest::Keygen { params_type: 1 }).await;
    let receipt = network.receipt(made).await;
    let told = network.requests(&receipt).remove(0);
    assert_eq!((told.kind, told.id), (Kind::PrepKeygen, tagged(3, 1)));
    let RequestBody::PrepKeygen { extra_data, .. } = told.body else { panic!() };
    assert_eq!(extra_data, naming(1, 1));

    // Without the extra data in it, a signature is nobody's.
    let other = network.prep_keygen_answer(0, made.id, &Bytes::new());
    assert_eq!(network.revert(0, &other).await[..4], NotKmsSigner::SELECTOR);

    for node in 0..4 {
        let receipt = network.send(node, network.prep_keygen_answer(node, made.id, &extra_data)).await;
        let asked = network.requests(&receipt);
        assert_eq!(asked.len(), usize::from(node == 2), "the third of equal answers decides");
        if let Some(asked) = asked.first() {
            assert_eq!((asked.kind, asked.id), (Kind::Keygen, tagged(4, 1)));
            let RequestBody::Keygen { prep_keygen_id, extra_data: named } = &asked.body else { panic!() };
            assert_eq!((*prep_keygen_id, named), (made.id, &extra_data));
        }
    }
    let keygen = (made.id, tagged(4, 1));
    for node in 0..4 {
        let events = network.answer(node, network.keygen_answer(node, keygen, &key_digests(), &extra_data)).await;
        assert_eq!(events.len(), if node == 2 { 2 } else { 1 });
        if let Some(ResponseEvent::ActivateKey { key_digests: told, storage_urls, .. }) = events.get(1) {
            assert_eq!((told.clone(), storage_urls.len()), (signed(&key_digests()), 3));
        }
    }

    let ids = network.generation(KMSGeneration::getCompletedKeyIdsCall {}).await;
    assert_eq!(ids, [tagged(4, 1).as_u256()]);
    let info = network.generation(KMSGeneration::getKeyInfoCall { keyId: ids[0] }).await;
    assert_eq!((info.prepKeygenId, info.keyId, info.paramsType), (made.id.as_u256(), ids[0], 1));
    assert_eq!(info.keyDigests, key_digests());
    assert_eq!(network.generation(KMSGeneration::getActiveKeyIdCall {}).await, ids[0]);
}

#[tokio::test]
async fn a_key_is_not_answered_before_its_preprocessing() {
    let network = Network::of(1).await;
    let prep = network.make(&NewRequest::Keygen { params_type: 0 }).await.id;
    let answer = network.keygen_answer(0, (prep, tagged(4, 1)), &key_digests(), &naming(1, 1));

    assert_eq!(network.revert(0, &answer).await, error(&KeyManagementRequestPending {}));
    network.send(0, network.prep_keygen_answer(0, prep, &naming(1, 1))).await;
    assert_eq!(network.answer(0, answer).await.len(), 2);
}

#[tokio::test]
async fn equal_crs_answers_decide_at_the_threshold() {
    let network = Network::of(4).await;
    let made = network.make(&crsgen()).await;
    let receipt = network.receipt(made).await;
    let RequestBody::Crsgen { max_bit_length, extra_data, .. } = network.requests(&receipt).remove(0).body else {
        panic!()
    };
    assert_eq!((max_bit_length, &extra_data), (U256::from(CRS_BITS), &naming(1, 1)));

    let missing = KMSGeneration::getCrsMaterialsCall { crsId: made.id.as_u256() };
    let refused = network.view_refusal(network.contracts.kms_generation, missing).await;
    assert_eq!(refused, error(&CrsNotGenerated { crsId: made.id.as_u256() }));
    for node in 0..4 {
        let events = network.answer(node, network.crsgen_answer(node, made.id, &crs_digest(), &extra_data)).await;
        assert_eq!(events.len(), if node == 2 { 2 } else { 1 });
    }
    let materials = network.generation(KMSGeneration::getCrsMaterialsCall { crsId: made.id.as_u256() }).await;
    assert_eq!((materials._0.len(), materials._1), (4, crs_digest()));
    assert_eq!(network.generation(KMSGeneration::getCompletedCrsIdsCall {}).await, [made.id.as_u256()]);
}

#[tokio::test]
async fn an_aborted_key_takes_answers_without_effect_and_makes_room_for_the_next() {
    let network = Network::of(1).await;
    let prep = network.make(&NewRequest::Keygen { params_type: 0 }).await.id;
    let key = tagged(4, 1);
    let again = network.refusal(&NewRequest::Keygen { params_type: 0 }).await;
    assert_eq!(again, error(&KeygenOngoing { keyId: key.as_u256() }));

    let made = network.make(&NewRequest::AbortKeygen { prep_keygen_id: prep }).await;
    assert_eq!((made.kind, made.id), (Kind::AbortKeygen, prep));
    assert!(is_done(&network, prep).await && is_done(&network, key).await);

    let receipt = network.send(0, network.prep_keygen_answer(0, prep, &naming(1, 1))).await;
    assert!(network.requests(&receipt).is_empty(), "no key is asked for");
    let events = network.answer(0, network.keygen_answer(0, (prep, key), &key_digests(), &naming(1, 1))).await;
    assert!(matches!(&events[..], [ResponseEvent::KeygenResponse { .. }]), "recorded, and no key");
    let info = KMSGeneration::getKeyInfoCall { keyId: key.as_u256() };
    let refused = network.view_refusal(network.contracts.kms_generation, info).await;
    assert_eq!(refused, error(&KeyAborted { keyId: key.as_u256() }));
    let view = KMSGeneration::getConsensusTxSendersCall { requestId: key.as_u256() };
    assert_eq!(network.generation(view).await, Vec::<Address>::new());
    assert!(network.generation(KMSGeneration::getCompletedKeyIdsCall {}).await.is_empty());

    let twice = network.refusal(&NewRequest::AbortKeygen { prep_keygen_id: prep }).await;
    assert_eq!(twice, error(&AbortKeygenAlreadyDone { prepKeygenId: prep.as_u256() }));
    let unknown = network.refusal(&NewRequest::AbortKeygen { prep_keygen_id: tagged(3, 2) }).await;
    assert_eq!(unknown, error(&AbortKeygenInvalidId { prepKeygenId: tagged(3, 2).as_u256() }));
    let next = network.make(&NewRequest::Keygen { params_type: 0 }).await;
    assert_eq!((next.kind, next.id), (Kind::PrepKeygen, tagged(3, 2)));
}

#[tokio::test]
async fn a_key_can_be_aborted_after_its_preprocessing_and_a_crs_until_it_is_there() {
    let network = Network::of(1).await;
    let prep = network.make(&NewRequest::Keygen { params_type: 0 }).await.id;
    network.send(0, network.prep_keygen_answer(0, prep, &naming(1, 1))).await;
    network.make(&NewRequest::AbortKeygen { prep_keygen_id: prep }).await;

    let crs = network.make(&crsgen()).await.id;
    assert_eq!(network.refusal(&crsgen()).await, error(&CrsgenOngoing { crsId: crs.as_u256() }));
    let made = network.make(&NewRequest::AbortCrsgen { crs_id: crs }).await;
    assert_eq!((made.kind, made.id), (Kind::AbortCrsgen, crs));
    let events = network.answer(0, network.crsgen_answer(0, crs, &crs_digest(), &naming(1, 1))).await;
    assert_eq!(events.len(), 1, "recorded, and no CRS");
    let view = KMSGeneration::getCrsMaterialsCall { crsId: crs.as_u256() };
    let refused = network.view_refusal(network.contracts.kms_generation, view).await;
    assert_eq!(refused, error(&CrsAborted { crsId: crs.as_u256() }));

    let second = network.make(&crsgen()).await.id;
    network.send(0, network.crsgen_answer(0, second, &crs_digest(), &naming(1, 1))).await;
    let late = network.refusal(&NewRequest::AbortCrsgen { crs_id: second }).await;
    assert_eq!(late, error(&AbortCrsgenAlreadyDone { crsId: second.as_u256() }));
    let unknown = network.refusal(&NewRequest::AbortCrsgen { crs_id: tagged(5, 3) }).await;
    assert_eq!(unknown, error(&AbortCrsgenInvalidId { crsId: tagged(5, 3).as_u256() }));
}

#[tokio::test]
async fn digests_of_every_kind_of_key_set_are_taken_and_others_revert_without_data() {
    let network = Network::of(1).await;
    let prep = network.make(&NewRequest::Keygen { params_type: 0 }).await.id;
    network.send(0, network.prep_keygen_answer(0, prep, &naming(1, 1))).await;
    let mut beyond = key_digests();
    beyond[1].keyType = 4;

    let refused = network.keygen_answer(0, (prep, tagged(4, 1)), &beyond, &naming(1, 1));
    assert_eq!(revert(&network.kms[0].sender, &refused).await, Bytes::new());

    let mut uncompressed = key_digests();
    (uncompressed[0].keyType, uncompressed[1].keyType) = (0, 1);
    let events = network.answer(0, network.keygen_answer(0, (prep, tagged(4, 1)), &uncompressed, &naming(1, 1))).await;
    assert_eq!(events.len(), 2);
    let missing = KMSGeneration::getKeyInfoCall { keyId: tagged(4, 2).as_u256() };
    let refused = network.view_refusal(network.contracts.kms_generation, missing).await;
    assert_eq!(refused, error(&KeyNotGenerated { keyId: tagged(4, 2).as_u256() }));
}

#[tokio::test]
async fn answers_cost_what_they_cost_on_a_real_host() {
    // `docs/protocol.md`, "Gas of an answer": four nodes, threshold three.
    let network = Network::of(4).await;
    let extra_data = naming(1, 1);
    let prep = network.make(&NewRequest::Keygen { params_type: 1 }).await.id;
    let crs = network.make(&crsgen()).await.id;
    let (mut preps, mut keys, mut crss) = (Vec::new(), Vec::new(), Vec::new());
    for node in 0..4 {
        preps.push(network.send(node, network.prep_keygen_answer(node, prep, &extra_data)).await.gas_used);
        crss.push(network.send(node, network.crsgen_answer(node, crs, &crs_digest(), &extra_data)).await.gas_used);
    }
    for node in 0..4 {
        let answer = network.keygen_answer(node, (prep, tagged(4, 1)), &key_digests(), &extra_data);
        keys.push(network.send(node, answer).await.gas_used);
    }
    let epoch = network.make(&NewRequest::NewEpoch).await.id;
    let mut epochs = Vec::new();
    for node in 0..4 {
        let call = network.epoch_confirmation(node, (tagged(7, 1), epoch));
        epochs.push(network.send(node, call).await.gas_used);
    }
    let context = network.make(&NewRequest::NewContextAndEpoch(Box::new(network.context_of(0..4)))).await.id;
    let mut contexts = Vec::new();
    for node in 0..4 {
        contexts.push(network.send(node, network.context_confirmation(context)).await.gas_used);
    }

    println!("prep {preps:?}\nkey {keys:?}\ncrs {crss:?}\nepoch {epochs:?}\ncontext {contexts:?}");
    // Within a tenth of what was seen of the real ones.
    let near = |gas: &[u64], from: u64, to: u64| gas.iter().all(|gas| (from * 9 / 10..=to * 11 / 10).contains(gas));
    assert!(near(&preps, 123_000, 196_000));
    assert!(near(&[keys[0], keys[1], keys[3]], 136_000, 180_000) && near(&keys[2..3], 388_000, 479_000));
    assert!(near(&[crss[0], crss[1], crss[3]], 128_000, 170_000) && near(&crss[2..3], 284_000, 352_000));
    assert!(near(&epochs[..3], 103_000, 146_000));
    assert!(near(&contexts[..3], 73_000, 132_000));
}
