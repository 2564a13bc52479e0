//! The life of contexts and epochs on the Ethereum host.

use alloy::primitives::{B256, Bytes, U256};
use alloy::sol_types::{SolCall, SolError};
use kms_chain::contracts::b::{KMSGeneration, ProtocolConfig};
use kms_chain::eip712;
use kms_chain::event::{NO_CONTEXT, ResponseEvent, context_info_hash};
use kms_schemas::identity::Kind;
use kms_schemas::record::{EpochCrs, EpochKey, RequestBody, Signed};
use kms_stack::contracts::NewRequest;

use super::network::{CRS_BITS, Network, crs_digest, crsgen, key_digests, logs, naming, signed};
use super::world::tagged;

alloy::sol! {
    error KmsLifecycleOperationInFlight(uint256 kmsContextId, uint256 epochId);
    error LatestActiveKmsContextCannotBeDestroyed(uint256 kmsContextId);
    error LatestActiveKmsEpochCannotBeDestroyed(uint256 epochId);
    error InvalidKmsContext(uint256 kmsContextId);
    error InvalidKmsEpoch(uint256 epochId);
    error InvalidHighThreshold(string thresholdName, uint256 threshold, uint256 nodeCount);
    error KmsTxSenderAlreadyRegistered(address txSender);
    error KmsContextAlreadyRegistered(uint256 contextId, uint256 currentKmsContextId);
    error CurrentKmsContextCannotBeDestroyed(uint256 currentKmsContextId);
}

fn error<E: SolError>(error: &E) -> Bytes {
    error.abi_encode().into()
}

fn pair(context: u8, epoch: u8) -> (U256, U256) {
    (tagged(7, context).as_u256(), tagged(8, epoch).as_u256())
}

async fn current(network: &Network) -> (U256, U256) {
    let pair = network.protocol(ProtocolConfig::getCurrentKmsContextAndEpochCall {}).await;
    (pair.contextId, pair.epochId)
}

async fn is_valid(network: &Network, (context, epoch): (U256, U256)) -> bool {
    network.protocol(ProtocolConfig::isValidEpochForContextCall { kmsContextId: context, epochId: epoch }).await
}

fn in_flight(context: u8, epoch: u8) -> Bytes {
    let (kms_context_id, epoch_id) = pair(context, epoch);
    error(&KmsLifecycleOperationInFlight { kmsContextId: kms_context_id, epochId: epoch_id })
}

#[tokio::test]
async fn the_first_context_and_its_epoch_are_active_at_once() {
    let network = Network::of(4).await;

    assert_eq!(current(&network).await, pair(1, 1));
    assert!(is_valid(&network, pair(1, 1)).await);
    let nodes = ProtocolConfig::getKmsNodesForContextCall { kmsContextId: pair(1, 1).0 };
    assert_eq!(network.protocol(nodes).await.len(), 4);
    let (context, _) = pair(1, 1);
    let mpc = network.protocol(ProtocolConfig::getMpcThresholdForContextCall { kmsContextId: context }).await;
    assert_eq!(mpc, U256::from(1));
}

#[tokio::test]
async fn the_anchor_of_a_context_leads_to_its_event_and_is_the_hash_of_its_data() {
    let network = Network::of(4).await;
    let made = network.make(&NewRequest::NewContextAndEpoch(Box::new(network.context_of(4..8)))).await;
    let receipt = network.receipt(made).await;

    let anchor = network.protocol(ProtocolConfig::getKmsContextAnchorCall { contextId: made.id.as_u256() }).await;
    assert_eq!(anchor.emissionBlockNumber, U256::from(made.block));
    assert_eq!(anchor.contextInfoHash, context_info_hash(&logs(&receipt)[0]));
    let RequestBody::NewKmsContext(told) = network.requests(&receipt).remove(0).body else { panic!() };
    assert_eq!((told.previous_context_id, told.nodes.len()), (tagged(7, 1), 4));
    assert_ne!(told.previous_context_id, NO_CONTEXT);
    assert_eq!(told.nodes.iter().map(|node| node.party_id).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_context_is_created_by_every_new_node_and_enough_of_the_former_ones() {
    let network = Network::of(4).await;
    network.key_material().await;
    let made = network.make(&NewRequest::NewContextAndEpoch(Box::new(network.context_of(2..6)))).await;
    let context = made.id;
    let live = ProtocolConfig::isLiveKmsContextCall { kmsContextId: context.as_u256() };
    let valid = ProtocolConfig::isValidKmsContextCall { kmsContextId: context.as_u256() };
    assert!(network.protocol(live.clone()).await && !network.protocol(valid.clone()).await);
    let needed = ProtocolConfig::getContextCreationPreviousTxSenderThresholdCall { kmsContextId: context.as_u256() };
    assert_eq!(network.protocol(needed).await, U256::from(3), "four nodes, one of them corrupt");

    // Nodes 2 and 3 are in both sets, 0 in the former, 4 and 5 in the new one.
    for (node, is_previous, is_new) in [(2, true, true), (3, true, true), (4, false, true), (5, false, true)] {
        let events = network.answer(node, network.context_confirmation(context)).await;
        let expected = ResponseEvent::KmsContextCreationConfirmation {
            id: context,
            tx_sender: network.kms[node].sender.address(),
            is_previous,
            is_new,
        };
        assert_eq!(events, [expected]);
    }
    let receipt = network.send(0, network.context_confirmation(context)).await;
    let asked = network.requests(&receipt).remove(0);
    assert_eq!((asked.kind, asked.id), (Kind::NewKmsEpoch, tagged(8, 2)));
    let RequestBody::NewKmsEpoch { context_id, previous_context_id, previous_epoch_id, material_block_number } =
        asked.body
    else {
        panic!()
    };
    assert_eq!((context_id, previous_context_id, previous_epoch_id), (context, tagged(7, 1), tagged(8, 1)));
    assert_eq!(material_block_number, U256::from(receipt.block_number.unwrap() - 1), "the block before the event's");
    assert!(network.protocol(live).await && !network.protocol(valid).await, "created, not yet active");
    assert_eq!(current(&network).await, pair(1, 1));

    // Every node of the new context, with the same keys and CRSs.
    let named = (context, tagged(8, 2));
    let digests = signed(&key_digests());
    let unsigned = Signed { signature: Bytes::new(), digest: B256::ZERO, signer: Default::default() };
    let key = EpochKey {
        prep_keygen_id: tagged(3, 1),
        key_id: tagged(4, 1),
        key_digests: digests,
        signature: unsigned.clone(),
    };
    let crs = EpochCrs {
        crs_id: tagged(5, 1),
        max_bit_length: U256::from(CRS_BITS),
        crs_digest: crs_digest(),
        signature: unsigned,
    };
    let hash = eip712::epoch_data_hash(&[key], &[crs]);
    for node in 2..6 {
        let events = network.answer(node, network.epoch_confirmation(node, named)).await;
        let confirmed = ResponseEvent::EpochActivationConfirmation {
            id: named.1,
            signer: network.kms[node].signer.address(),
            data_hash: hash,
        };
        assert_eq!(events[0], confirmed);
        assert_eq!(events.len(), if node == 5 { 2 } else { 1 });
        if let Some(ResponseEvent::ActivateEpoch { context_id, keys, crs_list, storage_urls, .. }) = events.get(1) {
            assert_eq!((*context_id, keys.len(), crs_list.len(), storage_urls.len()), (context, 1, 1, 4));
        }
    }
    assert_eq!(current(&network).await, pair(2, 2));
    assert!(is_valid(&network, pair(2, 2)).await && is_valid(&network, pair(1, 1)).await, "the former stays good");
}

#[tokio::test]
async fn an_epoch_of_the_same_nodes_replaces_the_current_one() {
    let network = Network::of(4).await;
    network.key_material().await;
    let made = network.make(&NewRequest::NewEpoch).await;
    assert_eq!((made.kind, made.id), (Kind::NewKmsEpoch, tagged(8, 2)));

    network.activate(0..4, (tagged(7, 1), made.id)).await;

    assert_eq!(current(&network).await, pair(1, 2));
    assert!(is_valid(&network, pair(1, 1)).await, "until it is destroyed");
    network.make(&NewRequest::DestroyEpoch { epoch_id: tagged(8, 1) }).await;
    assert!(!is_valid(&network, pair(1, 1)).await && is_valid(&network, pair(1, 2)).await);

    // Keys are asked for in the new epoch's name.
    let made = network.make(&crsgen()).await;
    let receipt = network.receipt(made).await;
    let RequestBody::Crsgen { extra_data, .. } = network.requests(&receipt).remove(0).body else { panic!() };
    assert_eq!(extra_data, naming(1, 2));
}

#[tokio::test]
async fn a_node_that_diverges_keeps_the_epoch_from_its_activation() {
    let network = Network::of(4).await;
    network.key_material().await;
    let epoch = network.make(&NewRequest::NewEpoch).await.id;
    let named = (tagged(7, 1), epoch);
    for node in 0..3 {
        network.send(node, network.epoch_confirmation(node, named)).await;
    }
    // The fourth has the CRS twice.
    let key = network.protocol_config.epoch_key(named, tagged(3, 1), tagged(4, 1), &signed(&key_digests()));
    let crs = network.protocol_config.epoch_crs(named, tagged(5, 1), U256::from(CRS_BITS), &crs_digest());
    let crs = network.signature(3, crs);
    let events = network.answer(3, network.epoch_call(epoch, &[network.signature(3, key)], &[crs.clone(), crs])).await;
    assert_eq!(events.len(), 1, "confirmed, not activated");
    assert_eq!(current(&network).await, pair(1, 1));

    assert_eq!(network.refusal(&NewRequest::NewEpoch).await, in_flight(1, 2));
    network.make(&NewRequest::DestroyEpoch { epoch_id: epoch }).await;
    assert_eq!(network.make(&NewRequest::NewEpoch).await.id, tagged(8, 3), "ids are not used twice");
}

#[tokio::test]
async fn one_thing_is_open_at_a_time_and_destruction_ends_it() {
    let network = Network::of(4).await;
    let define = || NewRequest::NewContextAndEpoch(Box::new(network.context_of(0..4)));
    let pending = network.make(&define()).await.id;
    for request in [define(), NewRequest::NewEpoch] {
        assert_eq!(network.refusal(&request).await, in_flight(2, 1));
    }

    let made = network.make(&NewRequest::DestroyContext { context_id: pending }).await;
    assert_eq!((made.kind, made.id), (Kind::KmsContextDestroyed, pending));
    let again = network.refusal(&NewRequest::DestroyContext { context_id: pending }).await;
    assert_eq!(again, error(&InvalidKmsContext { kmsContextId: pending.as_u256() }));

    // A created context takes its pending epoch with it, without a word of that.
    let created = network.new_context(0..4, &[0, 1, 2, 3]).await;
    assert_eq!(created, tagged(7, 3));
    assert_eq!(network.refusal(&define()).await, in_flight(3, 2));
    let epoch = network.refusal(&NewRequest::DestroyEpoch { epoch_id: tagged(8, 2) }).await;
    assert_eq!(epoch, error(&InvalidKmsEpoch { epochId: tagged(8, 2).as_u256() }), "its context is not active");
    let made = network.make(&NewRequest::DestroyContext { context_id: created }).await;
    let receipt = network.receipt(made).await;
    assert_eq!(logs(&receipt).len(), 1);
    let made = network.make(&NewRequest::NewEpoch).await;
    assert_eq!(made.id, tagged(8, 3));
}

#[tokio::test]
async fn the_current_context_and_epoch_cannot_be_destroyed() {
    let network = Network::of(4).await;
    let (context_id, epoch_id) = (tagged(7, 1), tagged(8, 1));

    let refused = network.refusal(&NewRequest::DestroyContext { context_id }).await;
    assert_eq!(refused, error(&LatestActiveKmsContextCannotBeDestroyed { kmsContextId: context_id.as_u256() }));
    let refused = network.refusal(&NewRequest::DestroyEpoch { epoch_id }).await;
    assert_eq!(refused, error(&LatestActiveKmsEpochCannotBeDestroyed { epochId: epoch_id.as_u256() }));
    let on_gateway = network.refusal_of_call(&NewRequest::GatewayDestroyContext { context_id }).await;
    assert_eq!(on_gateway, error(&CurrentKmsContextCannotBeDestroyed { currentKmsContextId: context_id.as_u256() }));
}

#[tokio::test]
async fn a_destroyed_context_takes_its_epochs_and_its_open_requests_with_it() {
    let network = Network::of(4).await;
    network.key_material().await;
    let crs = network.make(&crsgen()).await.id;
    let context = network.new_context(0..4, &[0, 1, 2, 3]).await;
    network.activate(0..4, (context, tagged(8, 2))).await;

    // What was asked for in the former context's name is answered in its name.
    network.send(0, network.crsgen_answer(0, crs, &crs_digest(), &naming(1, 1))).await;

    network.make(&NewRequest::DestroyContext { context_id: tagged(7, 1) }).await;
    assert!(!is_valid(&network, pair(1, 1)).await);
    let gone = error(&InvalidKmsContext { kmsContextId: tagged(7, 1).as_u256() });
    assert_eq!(network.revert(1, &network.crsgen_answer(1, crs, &crs_digest(), &naming(1, 1))).await, gone);
    let anchor = ProtocolConfig::getKmsContextAnchorCall { contextId: tagged(7, 1).as_u256() };
    assert_ne!(network.protocol(anchor).await.emissionBlockNumber, U256::ZERO, "the anchor stays");
    let nodes = ProtocolConfig::getKmsNodesForContextCall { kmsContextId: tagged(7, 1).as_u256() };
    assert_eq!(network.view_refusal(network.ethereum().protocol_config, nodes).await, gone);
    // The keys of before are there.
    assert_eq!(network.generation(KMSGeneration::getCompletedKeyIdsCall {}).await.len(), 1);
}

#[tokio::test]
async fn limits_of_a_node_set_are_checked() {
    let network = Network::of(1).await;
    let mut too_high = network.context_of(0..4);
    too_high.thresholds.kms_gen = 5;
    let refused = network.refusal(&NewRequest::NewContextAndEpoch(Box::new(too_high))).await;
    let told =
        InvalidHighThreshold { thresholdName: "kmsGen".to_owned(), threshold: U256::from(5), nodeCount: U256::from(4) };
    assert_eq!(refused, error(&told));
    let mut twice = network.context_of(0..4);
    twice.nodes[3].tx_sender = twice.nodes[0].tx_sender;
    let refused = network.refusal(&NewRequest::NewContextAndEpoch(Box::new(twice.clone()))).await;
    assert_eq!(refused, error(&KmsTxSenderAlreadyRegistered { txSender: twice.nodes[0].tx_sender }));

    let stale =
        NewRequest::GatewayUpdateContext { context_id: tagged(7, 1), definition: Box::new(network.context_of(0..4)) };
    let refused = network.refusal_of_call(&stale).await;
    let id = tagged(7, 1).as_u256();
    assert_eq!(refused, error(&KmsContextAlreadyRegistered { contextId: id, currentKmsContextId: id }));
}

impl Network {
    /// What the call of something that is no request reverts with.
    async fn refusal_of_call(&self, request: &NewRequest) -> Bytes {
        let call = request.call(&self.contracts).unwrap();
        super::world::revert(self.requester.owner(), &call).await
    }
}

#[test]
fn selectors_of_the_owners_functions_are_those_of_the_real_contracts() {
    use kms_stack::contracts::owner::{GatewayConfigOfContexts as Gateway, ProtocolConfig as Protocol};
    let selectors = [
        (Protocol::defineNewKmsContextAndEpochCall::SELECTOR, [0x97, 0x6c, 0x98, 0xb5]),
        (Protocol::defineNewEpochForCurrentKmsContextCall::SELECTOR, [0x1c, 0xe3, 0xf9, 0xbc]),
        (Protocol::destroyKmsContextCall::SELECTOR, [0xc0, 0xae, 0x64, 0xf7]),
        (Protocol::destroyKmsEpochCall::SELECTOR, [0xc2, 0x58, 0x0a, 0x2d]),
        (Gateway::updateKmsContextCall::SELECTOR, [0x3d, 0x5d, 0x35, 0x7f]),
        (Gateway::destroyKmsContextCall::SELECTOR, [0xc0, 0xae, 0x64, 0xf7]),
    ];
    for (ours, real) in selectors {
        assert_eq!(ours, real);
    }
}
