//! What answers do: consensus, events and their order, what comes after consensus, who may answer when the set changes.

use alloy::primitives::{B256, Bytes, U256, keccak256};
use alloy::sol_types::{Eip712Domain, SolEvent, eip712_domain};
use kms_chain::contracts::{KMSGeneration, KeyDigest, Proxy};
use kms_chain::event::{PRSS_INIT_ID, ResponseEvent};
use kms_schemas::identity::Kind;
use kms_stack::contracts::{NewRequest, owner};

use super::world::{GATEWAY_CHAIN, HOST_CHAIN, UINT64, World, call, register_entry, revert, send, tagged, word};

#[tokio::test]
async fn versions_and_domains_are_those_of_generation_a() {
    let world = World::of(1).await;
    let contracts = &world.contracts;

    for (address, version) in [
        (contracts.decryption, "Decryption v0.3.0"),
        (contracts.kms_generation, "KMSGeneration v0.4.0"),
        (contracts.gateway_config, "GatewayConfig v0.4.0"),
    ] {
        assert_eq!(world.node.view(address, &Proxy::getVersionCall {}).await.unwrap(), version);
    }
    for (address, name) in [(contracts.decryption, "Decryption"), (contracts.kms_generation, "KMSGeneration")] {
        let told = world.node.view(address, &Proxy::eip712DomainCall {}).await.unwrap();
        let told = Eip712Domain::new(
            Some(told.name.into()),
            Some(told.version.into()),
            Some(told.chainId),
            Some(told.verifyingContract),
            None,
        );
        let wanted = eip712_domain! { name: name, version: "1", chain_id: GATEWAY_CHAIN, verifying_contract: address, };
        assert_eq!(told.separator(), wanted.separator());
    }
}

#[tokio::test]
async fn one_node_decides_everything_alone() {
    let world = World::of(1).await;
    let handles = world.public_handles(1, UINT64).await;
    let public = world.public_request(&handles).await.id;
    let public_key = Bytes::from(vec![1; 33]);
    let user = world.user_request(&handles, &public_key).await.id;
    let share = Bytes::from(vec![9; 40]);

    world.answer(0, world.public_answer(0, public, &handles, &word(1))).await;
    world.answer(0, world.user_answer(0, user, &handles, &public_key, &share)).await;
    let key = generate_key(&world, &[0]).await;

    assert!(world.is_done(public).await && world.is_done(user).await);
    assert_eq!(key, tagged(4, 1).as_u256());
}

#[tokio::test]
async fn ids_count_from_one_within_their_tag() {
    let world = World::of(1).await;
    let handles = world.public_handles(1, UINT64).await;

    let public = [world.public_request(&handles).await, world.public_request(&handles).await];
    let user = world.user_request(&handles, &Bytes::from_static(&[1; 32])).await;
    let prep = world.requester.make(&NewRequest::Keygen { params_type: 0 }).await.unwrap();
    let crs = world.requester.make(&crsgen()).await.unwrap();
    let prss = world.requester.make(&NewRequest::PrssInit).await.unwrap();

    assert_eq!(public.map(|made| made.id), [tagged(1, 1), tagged(1, 2)]);
    assert_eq!((user.kind, user.id), (Kind::UserDecryption, tagged(2, 1)));
    assert_eq!((prep.kind, prep.id), (Kind::PrepKeygen, tagged(3, 1)));
    assert_eq!((crs.kind, crs.id), (Kind::Crsgen, tagged(5, 1)));
    assert_eq!((prss.kind, prss.id), (Kind::PrssInit, PRSS_INIT_ID));
}

#[tokio::test]
async fn equal_public_answers_decide_at_the_threshold_and_later_ones_are_recorded() {
    let world = World::of(4).await;
    let handles = world.public_handles(2, UINT64).await;
    let id = world.public_request(&handles).await.id;
    let result = Bytes::from([word(1), word(2)].concat());
    let answer = |node| world.public_answer(node, id, &handles, &result);
    let signature =
        |node| world.signature(node, world.domains.decryption.public_decryption(&handles, &result, &Bytes::new()));
    let recorded = |node: usize| ResponseEvent::PublicDecryptionResponseCall {
        id,
        decrypted_result: result.clone(),
        signature: signature(node),
        tx_sender: world.kms[node].sender.address(),
        extra_data: Bytes::new(),
    };

    assert_eq!(world.answer(2, answer(2)).await, [recorded(2)]);
    assert_eq!(world.answer(0, answer(0)).await, [recorded(0)]);
    assert!(!world.is_done(id).await);
    assert!(world.decryption_responders(id).await.is_empty(), "nobody before the decision");

    let decided = ResponseEvent::PublicDecryptionResponse {
        id,
        decrypted_result: result.clone(),
        signatures: vec![signature(2), signature(0), signature(3)],
        extra_data: Bytes::new(),
    };
    assert_eq!(world.answer(3, answer(3)).await, [recorded(3), decided], "the answer's own event comes first");
    assert!(world.is_done(id).await);
    assert_eq!(world.decryption_responders(id).await, world.senders(&[2, 0, 3]));

    assert_eq!(world.answer(1, answer(1)).await, [recorded(1)], "no second decision");
    assert_eq!(world.decryption_responders(id).await, world.senders(&[2, 0, 3, 1]));
}

#[tokio::test]
async fn a_node_that_disagrees_is_recorded_and_counts_for_itself() {
    let world = World::of(4).await;
    let handles = world.public_handles(1, UINT64).await;
    let id = world.public_request(&handles).await.id;

    for (node, result) in [(0, 1), (1, 2), (2, 1)] {
        let events = world.answer(node, world.public_answer(node, id, &handles, &word(result))).await;
        assert_eq!(events.len(), 1, "three answers, but no three equal ones");
    }
    assert!(!world.is_done(id).await);

    let events = world.answer(3, world.public_answer(3, id, &handles, &word(1))).await;
    assert_eq!(events.len(), 2);
    assert_eq!(world.decryption_responders(id).await, world.senders(&[0, 2, 3]));
}

#[tokio::test]
async fn user_shares_count_by_arrival_and_also_after_the_threshold() {
    let world = World::of(4).await;
    let handles = world.public_handles(1, UINT64).await;
    let public_key = Bytes::from(vec![3; 800]);
    let id = world.user_request(&handles, &public_key).await.id;

    for (arrival, node) in [3, 1, 0, 2].into_iter().enumerate() {
        let share = Bytes::from(vec![node as u8; 1_024]);
        let events = world.answer(node, world.user_answer(node, id, &handles, &public_key, &share)).await;

        let digest = world.domains.decryption.user_decryption(&public_key, &handles, &share, &Bytes::new());
        let recorded = ResponseEvent::UserDecryptionResponse {
            id,
            index_share: U256::from(arrival),
            share,
            signature: world.signature(node, digest),
            extra_data: Bytes::new(),
        };
        let reached = ResponseEvent::UserDecryptionResponseThresholdReached { id };
        let expected = if arrival == 2 { vec![recorded, reached] } else { vec![recorded] };
        assert_eq!(events, expected, "share {arrival}");
        assert_eq!(world.decryption_responders(id).await.len(), arrival + 1, "all responders, from the first on");
        assert_eq!(world.is_done(id).await, arrival >= 2);
    }
    assert_eq!(world.decryption_responders(id).await, world.senders(&[3, 1, 0, 2]));
}

#[tokio::test]
async fn extra_data_of_an_answer_is_only_signed() {
    let world = World::of(1).await;
    let handles = world.public_handles(1, UINT64).await;
    let request = NewRequest::PublicDecryption { handles: handles.clone(), extra_data: Bytes::from_static(&[0]) };
    let id = world.requester.make(&request).await.unwrap().id;

    // The request said 0x00; the node answers over empty bytes.
    let events = world.answer(0, world.public_answer(0, id, &handles, &word(1))).await;

    assert_eq!(events.len(), 2);
}

#[tokio::test]
async fn a_handle_listed_twice_is_answered_twice() {
    let world = World::of(1).await;
    let handle = world.public_handles(1, UINT64).await[0];
    let handles = [handle, handle];
    let id = world.public_request(&handles).await.id;

    let result = Bytes::from([word(5), word(5)].concat());
    let events = world.answer(0, world.public_answer(0, id, &handles, &result)).await;

    assert_eq!(events.len(), 2);
}

#[tokio::test]
async fn a_key_generation_is_asked_for_by_the_preprocessing_that_decides() {
    let world = World::of(4).await;
    let prep = world.requester.make(&NewRequest::Keygen { params_type: 1 }).await.unwrap().id;
    let (key, digests) = (tagged(4, 1), key_digests());
    let asks = KMSGeneration::KeygenRequest { prepKeygenId: prep.as_u256(), keyId: key.as_u256() };

    for node in 0..4 {
        let receipt = world.send(node, world.prep_keygen_answer(node, prep)).await;
        let topics: Vec<B256> = receipt.inner.logs().iter().filter_map(|log| log.topic0().copied()).collect();
        let mut expected = vec![KMSGeneration::PrepKeygenResponse::SIGNATURE_HASH];
        if node == 2 {
            expected.push(KMSGeneration::KeygenRequest::SIGNATURE_HASH);
            assert_eq!(receipt.inner.logs()[1].data().data, asks.encode_data());
        }
        assert_eq!(topics, expected, "answer {node}");
    }

    for node in 0..4 {
        let events = world.answer(node, world.keygen_answer(node, prep, key, &digests)).await;
        assert_eq!(events.len(), if node == 2 { 2 } else { 1 });
        assert!(matches!(&events[0], ResponseEvent::KeygenResponse { id, .. } if *id == key));
        if node == 2 {
            let urls = (0..3).map(|node: usize| world.kms[node].storage_url.clone()).collect();
            let signed = digests
                .iter()
                .map(|d| kms_schemas::record::KeyDigest { key_type: d.keyType, digest: d.digest.clone() })
                .collect();
            assert_eq!(events[1], ResponseEvent::ActivateKey { id: key, storage_urls: urls, key_digests: signed });
        }
    }

    let kms_generation = world.contracts.kms_generation;
    let view = KMSGeneration::getKeyMaterialsCall { keyId: key.as_u256() };
    let materials = world.node.view(kms_generation, &view).await.unwrap();
    assert_eq!(materials._1, digests);
    assert_eq!(materials._0.len(), 4, "those who agreed, also after the decision");
    let view = KMSGeneration::getConsensusTxSendersCall { requestId: prep.as_u256() };
    assert_eq!(world.node.view(kms_generation, &view).await.unwrap(), world.senders(&[0, 1, 2, 3]));
    let view = KMSGeneration::getKeyParamsTypeCall { keyId: key.as_u256() };
    assert_eq!(world.node.view(kms_generation, &view).await.unwrap(), 1);
}

#[tokio::test]
async fn a_key_generation_may_be_answered_before_its_preprocessing() {
    let world = World::of(4).await;
    let prep = world.requester.make(&NewRequest::Keygen { params_type: 0 }).await.unwrap().id;

    for node in 0..3 {
        let events = world.answer(node, world.keygen_answer(node, prep, tagged(4, 1), &key_digests())).await;
        assert_eq!(events.len(), if node == 2 { 2 } else { 1 });
    }
}

#[tokio::test]
async fn one_generation_of_each_sort_is_open_at_a_time() {
    alloy::sol! {
        error KeygenOngoing(uint256 keyId);
        error CrsgenOngoing(uint256 crsId);
    }
    let world = World::of(1).await;
    let keygen = NewRequest::Keygen { params_type: 0 };
    world.requester.make(&keygen).await.unwrap();
    world.requester.make(&crsgen()).await.unwrap();

    let refused = world.requester.make(&keygen).await.unwrap_err();
    assert_eq!(refused.revert_data().unwrap(), &error(&KeygenOngoing { keyId: tagged(4, 1).as_u256() }));
    let refused = world.requester.make(&crsgen()).await.unwrap_err();
    assert_eq!(refused.revert_data().unwrap(), &error(&CrsgenOngoing { crsId: tagged(5, 1).as_u256() }));

    world.send(0, world.prep_keygen_answer(0, tagged(3, 1))).await;
    world.send(0, world.keygen_answer(0, tagged(3, 1), tagged(4, 1), &key_digests())).await;
    assert_eq!(world.requester.make(&keygen).await.unwrap().id, tagged(3, 2));
}

#[tokio::test]
async fn equal_crs_answers_decide_at_the_threshold() {
    let world = World::of(4).await;
    let id = world.requester.make(&crsgen()).await.unwrap().id;
    let digest = Bytes::from(keccak256("crs").to_vec());

    for node in 0..4 {
        let events = world.answer(node, world.crsgen_answer(node, id, 2_048, &digest)).await;
        assert!(matches!(&events[0], ResponseEvent::CrsgenResponse { crs_digest, .. } if *crs_digest == digest));
        assert_eq!(events.len(), if node == 2 { 2 } else { 1 });
        if node == 2 {
            assert!(matches!(&events[1], ResponseEvent::ActivateCrs { storage_urls, .. } if storage_urls.len() == 3));
        }
    }
    let active = world.node.view(world.contracts.kms_generation, &KMSGeneration::getActiveCrsIdCall {}).await.unwrap();
    assert_eq!(active, id.as_u256());
}

#[tokio::test]
async fn a_reshare_is_of_a_generated_key_only() {
    alloy::sol! { error KeyNotGenerated(uint256 keyId); }
    let world = World::of(1).await;
    let reshare = NewRequest::KeyReshareSameSet { key_id: tagged(4, 1) };

    let refused = world.requester.make(&reshare).await.unwrap_err();
    assert_eq!(refused.revert_data().unwrap(), &error(&KeyNotGenerated { keyId: tagged(4, 1).as_u256() }));

    generate_key(&world, &[0]).await;
    let made = world.requester.make(&reshare).await.unwrap();
    assert_eq!((made.kind, made.id), (Kind::KeyReshareSameSet, tagged(6, 1)));
}

#[tokio::test]
async fn key_management_is_the_owners() {
    alloy::sol! { error NotGatewayOwner(address sender); }
    let world = World::of(1).await;
    let stranger = world.stranger("stranger").await;
    let refusal = error(&NotGatewayOwner { sender: stranger.address() });

    for request in [
        NewRequest::Keygen { params_type: 0 },
        crsgen(),
        NewRequest::PrssInit,
        NewRequest::KeyReshareSameSet { key_id: tagged(4, 1) },
    ] {
        assert_eq!(revert(&stranger, &request.call(&world.contracts).unwrap()).await, refusal);
    }
}

#[tokio::test]
async fn a_pause_stops_requests_and_no_answers() {
    alloy::sol! { error EnforcedPause(); }
    let world = World::of(1).await;
    let handles = world.public_handles(1, UINT64).await;
    let id = world.public_request(&handles).await.id;
    send(world.requester.owner(), call(world.contracts.decryption, &owner::Decryption::pauseCall {})).await;

    let request = NewRequest::PublicDecryption { handles: handles.clone(), extra_data: Bytes::new() };
    let refused = world.requester.make(&request).await.unwrap_err();
    assert_eq!(refused.revert_data().unwrap(), &error(&EnforcedPause {}));
    assert_eq!(world.answer(0, world.public_answer(0, id, &handles, &word(1))).await.len(), 2);

    send(world.requester.owner(), call(world.contracts.decryption, &owner::Decryption::unpauseCall {})).await;
    world.requester.make(&request).await.unwrap();
}

#[tokio::test]
async fn a_lowered_threshold_decides_with_the_next_answer() {
    let world = World::of(4).await;
    let handles = world.public_handles(1, UINT64).await;
    let id = world.public_request(&handles).await.id;
    for node in 0..2 {
        world.send(node, world.public_answer(node, id, &handles, &word(1))).await;
    }

    let lower =
        owner::GatewayConfig::updatePublicDecryptionThresholdCall { newPublicDecryptionThreshold: U256::from(2) };
    send(world.requester.owner(), call(world.contracts.gateway_config, &lower)).await;
    assert!(!world.is_done(id).await, "not by itself");

    assert_eq!(world.answer(2, world.public_answer(2, id, &handles, &word(1))).await.len(), 2);
}

#[tokio::test]
async fn open_requests_are_judged_by_the_new_set_and_old_votes_stay() {
    alloy::sol! { error NotKmsTxSender(address txSenderAddress); }
    let world = World::of(4).await;
    let handles = world.public_handles(1, UINT64).await;
    let id = world.public_request(&handles).await.id;
    for node in 0..2 {
        world.send(node, world.public_answer(node, id, &handles, &word(1))).await;
    }

    // Node 0 leaves.
    let set = owner::GatewayConfig::updateKmsNodesCall {
        newKmsNodes: (1..4).map(|node| register_entry(node).record()).collect(),
        newMpcThreshold: U256::from(0),
        newPublicDecryptionThreshold: U256::from(3),
        newUserDecryptionThreshold: U256::from(3),
        newKmsGenThreshold: U256::from(3),
    };
    send(world.requester.owner(), call(world.contracts.gateway_config, &set)).await;

    let second = world.public_request(&handles).await.id;
    let data = world.revert(0, &world.public_answer(0, second, &handles, &word(1))).await;
    assert_eq!(data, error(&NotKmsTxSender { txSenderAddress: world.kms[0].sender.address() }));
    let events = world.answer(2, world.public_answer(2, id, &handles, &word(1))).await;
    assert_eq!(events.len(), 2, "with the vote of a node that has left");
}

#[tokio::test]
async fn the_register_tells_what_it_was_given() {
    use kms_chain::contracts::GatewayConfig;
    let world = World::of(4).await;
    let config = world.contracts.gateway_config;
    let sender = world.kms[1].sender.address();

    let node = world.node.view(config, &GatewayConfig::getKmsNodeCall { kmsTxSenderAddress: sender }).await.unwrap();
    assert_eq!(
        (node.signerAddress, node.storageUrl),
        (world.kms[1].signer.address(), world.kms[1].storage_url.clone())
    );
    let unknown = GatewayConfig::getKmsNodeCall { kmsTxSenderAddress: config };
    assert_eq!(world.node.view(config, &unknown).await.unwrap().signerAddress, alloy::primitives::Address::ZERO);
    let senders = world.node.view(config, &GatewayConfig::getKmsTxSendersCall {}).await.unwrap();
    assert_eq!(senders, world.senders(&[0, 1, 2, 3]));
    let threshold = world.node.view(config, &GatewayConfig::getCoprocessorMajorityThresholdCall {}).await.unwrap();
    assert_eq!(threshold, U256::from(2));
    let hosts = world.node.view(config, &GatewayConfig::getHostChainsCall {}).await.unwrap();
    assert_eq!(hosts.len(), 1);
    assert_eq!((hosts[0].chainId, hosts[0].aclAddress), (U256::from(HOST_CHAIN), world.contracts.host_acl));
}

fn crsgen() -> NewRequest {
    NewRequest::Crsgen { max_bit_length: U256::from(2_048), params_type: 0 }
}

fn key_digests() -> Vec<KeyDigest> {
    let digest = |key_type: u8| KeyDigest { keyType: key_type, digest: keccak256([key_type]).to_vec().into() };
    vec![digest(0), digest(1)]
}

fn error<E: alloy::sol_types::SolError>(error: &E) -> Bytes {
    error.abi_encode().into()
}

/// The first key, generated by some nodes; the active key afterwards.
async fn generate_key(world: &World, nodes: &[usize]) -> U256 {
    let prep = world.requester.make(&NewRequest::Keygen { params_type: 0 }).await.unwrap().id;
    for node in nodes {
        world.send(*node, world.prep_keygen_answer(*node, prep)).await;
    }
    for node in nodes {
        world.send(*node, world.keygen_answer(*node, prep, tagged(4, 1), &key_digests())).await;
    }
    world.node.view(world.contracts.kms_generation, &KMSGeneration::getActiveKeyIdCall {}).await.unwrap()
}
