//! Decryptions of generation (b): events in two forms, pinned contexts, what is asked of a request and what is not.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::sol_types::SolError;
use kms_chain::contracts::{Decryption, HostAcl, Proxy, b};
use kms_chain::event::ResponseEvent;
use kms_chain::release::Release;
use kms_schemas::identity::Kind;
use kms_schemas::record::RequestBody;
use kms_stack::contracts::{NewRequest, handle, owner};

use super::network::{APPLICATION, Network, crsgen, legacy, logs, naming, naming_context, public, unified};
use super::world::{HOST_CHAIN, UINT64, call, key, now, revert, tagged, word};

alloy::sol! {
    error DecryptionContextMismatch(uint256 decryptionId, uint256 requestContextId, uint256 responseContextId);
    error InvalidKmsContext(uint256 kmsContextId);
    error InvalidExtraDataLength(uint256 length, uint256 minimumLength);
    error InvalidNullContextId();
    error UnsupportedExtraDataVersion(uint8 version);
    error EmptyHandles();
    error ContractAddressesMaxLengthExceeded(uint256 maxLength, uint256 actualLength);
    error CtHandleChainIdDiffersFromContractChainId(bytes32 ctHandle, uint256 chainId, uint256 contractChainId);
    error InvalidNullDurationSeconds();
    error MaxDurationSecondsExceeded(uint256 maxValue, uint256 actualValue);
    error StartTimestampInFuture(uint256 currentTimestamp, uint256 startTimestamp);
    error HostChainNotRegistered(uint256 chainId);
    error HostChainDisabled(uint256 chainId);
    error InvalidUserSignature(bytes signature);
    error EnforcedPause();
}

/// First topics of the events of both families (`docs/protocol.md`, "Events").
const PUBLIC_MATERIALS: &str = "0x22db480a39bd72556438aadb4a32a3d2a6638b87c03bbec5fef6997e109587ff";
const PUBLIC_HANDLES: &str = "0x9bb088a53f1fe13ec84fa0a1d7b578b589e193268baaccc5e23f7ab785aa3dae";
const USER_MATERIALS: &str = "0xf9011bd6ba0da6049c520d70fe5971f17ed7ab795486052544b51019896c596b";
const USER_HANDLES: &str = "0xc71e32c80f3109c673a9adfcded0b3b2093212ab284084a0e03a281dee2bdd5f";
const UNIFIED_MATERIALS: &str = "0x1f80a47b51979837976f999a7735fdccbbe570e0d40081644ec88f8ed76c9612";
const UNIFIED_HANDLES: &str = "0x8ed4fab8b1d050676cd7d7d9fa448d5d22113375fab8ad4dc690e54593c527bf";

fn error<E: SolError>(error: &E) -> Bytes {
    error.abi_encode().into()
}

fn requests(handles: &[B256]) -> [NewRequest; 4] {
    let public_key = Bytes::from(vec![5; 64]);
    [
        public(handles, &Bytes::new()),
        NewRequest::UserDecryption { user: key("user"), request: legacy(handles, &public_key, &Bytes::new()) },
        NewRequest::DelegatedUserDecryption {
            delegator: key("delegator").address(),
            delegate: key("user"),
            request: legacy(handles, &public_key, &Bytes::new()),
        },
        NewRequest::UnifiedUserDecryption {
            user: key("user").address(),
            signer: key("user"),
            request: unified(handles, key("user").address()),
        },
    ]
}

#[tokio::test]
async fn versions_are_those_of_generation_b() {
    let network = Network::of(1).await;
    for (address, version) in [
        (network.contracts.decryption, "Decryption v0.7.0"),
        (network.contracts.gateway_config, "GatewayConfig v0.8.0"),
        (network.contracts.kms_generation, "KMSGeneration v0.2.0"),
        (network.ethereum().protocol_config, "ProtocolConfig v0.2.0"),
    ] {
        assert_eq!(network.node.view(address, &Proxy::getVersionCall {}).await.unwrap(), version);
    }
    for (address, name) in
        [(network.contracts.decryption, "Decryption"), (network.contracts.kms_generation, "KMSGeneration")]
    {
        let domain = network.node.view(address, &Proxy::eip712DomainCall {}).await.unwrap();
        assert_eq!((domain.name.as_str(), domain.verifyingContract), (name, address));
    }
}

#[tokio::test]
async fn every_request_is_announced_with_materials_and_then_with_handles_alone() {
    let network = Network::of(1).await;
    let handles = network.handles(2).await;

    for (request, topics) in requests(&handles).iter().zip([
        [PUBLIC_MATERIALS, PUBLIC_HANDLES],
        [USER_MATERIALS, USER_HANDLES],
        [USER_MATERIALS, USER_HANDLES],
        [UNIFIED_MATERIALS, UNIFIED_HANDLES],
    ]) {
        let made = network.make(request).await;
        let receipt = network.receipt(made).await;

        let told = logs(&receipt);
        assert_eq!(told.iter().map(|log| log.topics[0].to_string()).collect::<Vec<_>>(), topics);
        assert_eq!(told[0].topics[1], told[1].topics[1], "one id");
        assert_eq!(network.requests(&receipt).len(), 1, "the connector sees one request");
    }
}

#[tokio::test]
async fn release_v0_14_announces_materials_only() {
    let network = Network::with(1, Release::V0_14).await;
    let handles = network.handles(1).await;
    let version = network.node.view(network.contracts.decryption, &Proxy::getVersionCall {}).await.unwrap();
    assert_eq!(version, "Decryption v0.6.0");

    for (request, topic) in
        requests(&handles).iter().zip([PUBLIC_MATERIALS, USER_MATERIALS, USER_MATERIALS, UNIFIED_MATERIALS])
    {
        let made = network.make(request).await;
        let receipt = network.receipt(made).await;

        let told = logs(&receipt);
        assert_eq!((told.len(), told[0].topics[0].to_string().as_str()), (1, topic));
        let seen = network.requests(&receipt);
        let materials = match &seen[0].body {
            RequestBody::PublicDecryption { materials, .. } | RequestBody::UserDecryption { materials, .. } => {
                materials
            }
            RequestBody::UnifiedUserDecryption(request) => &request.materials,
            other => panic!("{other:?}"),
        };
        assert_eq!(materials[0].handle, handles[0]);
    }
}

#[tokio::test]
async fn the_events_tell_what_was_asked_for() {
    let network = Network::of(1).await;
    let handles = network.handles(2).await;
    let [public, user, delegated, together] = requests(&handles);

    let seen = async |request: &NewRequest| {
        let made = network.make(request).await;
        let receipt = network.receipt(made).await;
        network.requests(&receipt).remove(0)
    };

    let RequestBody::PublicDecryptionHandles { handles: told, .. } = seen(&public).await.body else { panic!() };
    assert_eq!(told, handles);
    for request in [user, delegated] {
        let decoded = seen(&request).await;
        let RequestBody::UserDecryptionHandles { handles: told, user_address, .. } = decoded.body else { panic!() };
        assert_eq!((told, user_address), (handles.clone(), key("user").address()), "delegated: the delegate");
    }
    let decoded = seen(&together).await;
    assert_eq!(
        (decoded.kind, decoded.id),
        (Kind::UserDecryption, tagged(2, 3)),
        "one counter for all user decryptions"
    );
    let RequestBody::UnifiedUserDecryption(told) = decoded.body else { panic!() };
    let NewRequest::UnifiedUserDecryption { request, .. } = &together else { panic!() };
    assert_eq!((&told.entries, &told.allowed_contracts), (&request.entries, &request.allowed_contracts));
    let digest = network.decryption.unified_user_request(HOST_CHAIN, &told);
    assert_eq!(kms_chain::eip712::recover(digest, &told.signature).unwrap(), key("user").address());
}

#[tokio::test]
async fn nobodys_rights_are_asked_about_and_no_signature_of_a_unified_request() {
    let network = Network::of(1).await;
    let handles = network.handles(1).await;

    for request in requests(&handles) {
        network.make(&request).await;
    }
    network
        .make(&NewRequest::UnifiedUserDecryption {
            user: key("somebody else").address(),
            signer: key("user"),
            request: unified(&handles, APPLICATION),
        })
        .await;
}

#[tokio::test]
async fn the_signature_of_an_older_user_request_is_still_checked() {
    let network = Network::of(1).await;
    let handles = network.handles(1).await;
    let mut elsewhere = network.contracts;
    elsewhere.host_chain_id = network.contracts.gateway_chain_id;

    for request in &requests(&handles)[1..3] {
        let mut signed_elsewhere = request.call(&elsewhere).unwrap();
        // The right chain in the call, the wrong one in what was signed.
        let wrong = U256::from(elsewhere.host_chain_id).to_be_bytes::<32>();
        let right = U256::from(HOST_CHAIN).to_be_bytes::<32>();
        let mut data = signed_elsewhere.data.to_vec();
        let at = data.windows(32).position(|word| word == wrong).unwrap();
        data[at..at + 32].copy_from_slice(&right);
        signed_elsewhere.data = data.into();
        let refused = revert(network.requester.sender(), &signed_elsewhere).await;
        assert_eq!(refused[..4], InvalidUserSignature::SELECTOR);
    }
}

#[tokio::test]
async fn the_form_of_a_unified_request_is_checked() {
    let network = Network::of(1).await;
    let handles = network.handles(1).await;
    let spoiled = async |spoil: &dyn Fn(&mut kms_stack::contracts::UnifiedRequest)| {
        let mut request = unified(&handles, key("user").address());
        spoil(&mut request);
        let user = key("user").address();
        network.refusal(&NewRequest::UnifiedUserDecryption { user, signer: key("user"), request }).await
    };

    assert_eq!(spoiled(&|request| request.entries.clear()).await, error(&EmptyHandles {}));
    let too_many = ContractAddressesMaxLengthExceeded { maxLength: U256::from(10), actualLength: U256::from(11) };
    assert_eq!(spoiled(&|request| request.allowed_contracts = vec![APPLICATION; 11]).await, error(&too_many));
    assert_eq!(spoiled(&|request| request.duration_seconds = 0).await, error(&InvalidNullDurationSeconds {}));
    let too_long = MaxDurationSecondsExceeded { maxValue: U256::from(31_536_000), actualValue: U256::from(31_536_001) };
    assert_eq!(spoiled(&|request| request.duration_seconds = 31_536_001).await, error(&too_long));
    let early = spoiled(&|request| request.start = now() + 3_600).await;
    assert_eq!(early[..4], StartTimestampInFuture::SELECTOR);
    let late = spoiled(&|request| request.start = now() - 2 * 86_400).await;
    let selector = keccak256("UserDecryptionRequestExpiredSeconds(uint256,(uint256,uint256))");
    assert_eq!(late[..4], selector[..4]);
    let elsewhere = handle(keccak256("elsewhere"), 99, UINT64);
    let foreign = spoiled(&|request| {
        let mut second = request.entries[0];
        second.handle = elsewhere;
        request.entries.push(second);
    })
    .await;
    let told = CtHandleChainIdDiffersFromContractChainId {
        ctHandle: elsewhere,
        chainId: U256::from(99),
        contractChainId: U256::from(HOST_CHAIN),
    };
    assert_eq!(foreign, error(&told));
    let unknown = spoiled(&|request| request.entries[0].handle = elsewhere).await;
    assert_eq!(unknown, error(&HostChainNotRegistered { chainId: U256::from(99) }));

    // All contracts: none is named.
    let mut all = unified(&handles, key("user").address());
    all.allowed_contracts.clear();
    network
        .make(&NewRequest::UnifiedUserDecryption { user: key("user").address(), signer: key("user"), request: all })
        .await;
}

#[tokio::test]
async fn a_disabled_host_chain_and_a_pause_stop_requests() {
    let network = Network::of(1).await;
    let handles = network.handles(1).await;
    let config = network.contracts.gateway_config;
    let chain = U256::from(HOST_CHAIN);

    network.as_owner(config, owner::GatewayConfigOfContexts::disableHostChainCall { chainId: chain }).await;
    for request in requests(&handles) {
        assert_eq!(network.refusal(&request).await, error(&HostChainDisabled { chainId: chain }));
    }
    network.as_owner(config, owner::GatewayConfigOfContexts::enableHostChainCall { chainId: chain }).await;
    network.as_owner(network.contracts.decryption, owner::Decryption::pauseCall {}).await;
    for request in requests(&handles) {
        assert_eq!(network.refusal(&request).await, error(&EnforcedPause {}));
    }
}

#[tokio::test]
async fn extra_data_of_a_request_names_a_valid_context_or_none() {
    let network = Network::of(1).await;
    let handles = network.handles(1).await;
    let refused = async |extra_data: Vec<u8>| network.refusal(&public(&handles, &extra_data.into())).await;

    for short in [vec![1; 32], vec![2; 32]] {
        let told = InvalidExtraDataLength { length: U256::from(32), minimumLength: U256::from(33) };
        assert_eq!(refused(short).await, error(&told));
    }
    assert_eq!(refused(vec![3; 40]).await, error(&UnsupportedExtraDataVersion { version: 3 }));
    assert_eq!(refused([&[1_u8][..], &[0; 32]].concat()).await, error(&InvalidNullContextId {}));
    let unknown = InvalidKmsContext { kmsContextId: tagged(7, 2).as_u256() };
    assert_eq!(refused(naming_context(2).to_vec()).await, error(&unknown));

    // Version 0 whatever follows, and bytes behind what is read.
    let tail = [naming_context(1).to_vec(), vec![9; 7]].concat();
    for fine in [vec![], vec![0], vec![0, 9, 9], naming_context(1).to_vec(), naming(1, 200).to_vec(), tail] {
        network.make(&public(&handles, &fine.into())).await;
    }
}

#[tokio::test]
async fn an_answer_speaks_for_the_context_of_its_request_whatever_is_current() {
    let network = Network::of(4).await;
    let handles = network.handles(1).await;
    let unnamed = network.public_request(&handles, &Bytes::new()).await;
    let named = network.public_request(&handles, &naming_context(1)).await;
    let second = network.context_of(4..8);
    let update = NewRequest::GatewayUpdateContext { context_id: tagged(7, 2), definition: Box::new(second) };
    network.requester.submit(&[update], kms_stack::contracts::Pace::AtOnce).await.unwrap();
    assert_eq!(network.gateway(b::GatewayConfig::getCurrentKmsContextIdCall {}).await, tagged(7, 2).as_u256());

    // Nothing named: the answer speaks for the current context, which is another now.
    let mismatch = |id: kms_schemas::identity::RequestId| {
        error(&DecryptionContextMismatch {
            decryptionId: id.as_u256(),
            requestContextId: tagged(7, 1).as_u256(),
            responseContextId: tagged(7, 2).as_u256(),
        })
    };
    let silent = network.public_answer(0, unnamed, &handles, &word(1), &Bytes::new());
    assert_eq!(network.revert(0, &silent).await, mismatch(unnamed));
    let wrong = network.public_answer(4, named, &handles, &word(1), &naming(2, 2));
    assert_eq!(network.revert(4, &wrong).await, mismatch(named));

    // The old context's nodes go on answering, under either form of naming it.
    for (id, extra_data) in [(unnamed, naming_context(1)), (named, naming(1, 1))] {
        for node in 0..4 {
            let events = network.answer(node, network.public_answer(node, id, &handles, &word(1), &extra_data)).await;
            assert_eq!(events.len(), if node == 2 { 2 } else { 1 });
            assert!(
                matches!(&events[0], ResponseEvent::PublicDecryptionResponseCall { extra_data: told, .. } if *told == extra_data)
            );
        }
    }

    // New requests are the new context's.
    let third = network.public_request(&handles, &Bytes::new()).await;
    let events = network.answer(4, network.public_answer(4, third, &handles, &word(1), &Bytes::new())).await;
    assert_eq!(events.len(), 1);

    // And when the old one is destroyed, nobody can answer what is open.
    let destroy = NewRequest::GatewayDestroyContext { context_id: tagged(7, 1) };
    network.requester.submit(&[destroy], kms_stack::contracts::Pace::AtOnce).await.unwrap();
    let gone = error(&InvalidKmsContext { kmsContextId: tagged(7, 1).as_u256() });
    let late = network.public_answer(3, named, &handles, &word(2), &naming_context(1));
    assert_eq!(network.revert(3, &late).await, gone);
    assert_eq!(network.refusal(&public(&handles, &naming_context(1))).await, gone);
}

#[tokio::test]
async fn user_shares_count_by_arrival_and_also_after_the_threshold() {
    let network = Network::of(4).await;
    let handles = network.handles(2).await;
    let public_key = Bytes::from(vec![3; 800]);
    let id = network.user_request(&handles, &public_key, &naming(1, 1)).await;

    for (arrival, node) in [3, 1, 0, 2].into_iter().enumerate() {
        let share = Bytes::from(vec![node as u8; 1_024]);
        let answer = network.user_answer(node, id, (&handles, &public_key), &share, &naming(1, 1));
        let events = network.answer(node, answer).await;

        assert_eq!(events.len(), if arrival == 2 { 2 } else { 1 });
        assert!(
            matches!(&events[0], ResponseEvent::UserDecryptionResponse { index_share, .. } if *index_share == U256::from(arrival))
        );
    }
    let view = Decryption::getDecryptionConsensusTxSendersCall { decryptionId: id.as_u256() };
    assert_eq!(network.node.view(network.contracts.decryption, &view).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_wallet_takes_its_owners_signature_for_its_own_and_misbehaves_when_told() {
    let network = Network::of(1).await;
    let owner_key = key("user");
    let wallet = network.requester.wallet(&owner_key).await.unwrap();
    let digest = keccak256("digest");
    let good = kms_chain::eip712::sign(&owner_key, digest).unwrap();
    let foreign = kms_chain::eip712::sign(&key("nobody"), digest).unwrap();
    let ask =
        |signature: &Bytes| call(wallet, &owner::Wallet::isValidSignatureCall { digest, signature: signature.clone() });
    let asked = async |signature: &Bytes| network.node.simulate(Address::ZERO, &ask(signature)).await;
    let manner = async |manner: u8| {
        let change = call(wallet, &owner::Wallet::setMannerCall { newManner: manner });
        network.requester.as_user(&owner_key, change).await.unwrap();
    };
    let magic = Bytes::from([&[0x16, 0x26, 0xba, 0x7e][..], &[0; 28]].concat());

    assert_eq!(asked(&good).await.unwrap(), magic);
    assert_ne!(asked(&foreign).await.unwrap(), magic);
    assert_ne!(asked(&Bytes::new()).await.unwrap(), magic);
    let approve = call(wallet, &owner::Wallet::approveCall { digest });
    network.requester.as_user(&owner_key, approve).await.unwrap();
    assert_eq!(asked(&Bytes::new()).await.unwrap(), magic, "approved on chain");

    manner(1).await;
    assert_eq!(asked(&good).await.unwrap()[..4], [0xde, 0xad, 0xbe, 0xef]);
    manner(2).await;
    assert!(asked(&good).await.unwrap_err().revert_data().is_some());
    manner(3).await;
    assert_eq!(asked(&good).await.unwrap(), magic[..4]);
    manner(4).await;
    asked(&good).await.unwrap_err();

    // Its owner acts in its name.
    let before = now() - 10;
    let void = owner::UserAcl::invalidateDecryptionSignaturesBeforeCall { timestamp: U256::from(before) };
    let data = alloy::sol_types::SolCall::abi_encode(&void).into();
    let execute = call(wallet, &owner::Wallet::executeCall { to: network.contracts.host_acl, data });
    network.requester.as_user(&owner_key, execute).await.unwrap();
    let view = b::HostAcl::decryptionSignatureInvalidatedBeforeCall { account: wallet };
    assert_eq!(network.node.view(network.contracts.host_acl, &view).await.unwrap(), U256::from(before));
}

#[tokio::test]
async fn users_take_back_what_they_signed_and_never_less_than_before() {
    alloy::sol! {
        error InvalidationTimestampInTheFuture();
        error InvalidationTimestampTooLow();
    }
    let network = Network::of(1).await;
    let user = key("user");
    let before = now() - 100;
    network.requester.void_signatures(&user, before).await.unwrap();
    let view = b::HostAcl::decryptionSignatureInvalidatedBeforeCall { account: user.address() };
    assert_eq!(network.node.view(network.contracts.host_acl, &view).await.unwrap(), U256::from(before));

    let early = network.requester.void_signatures(&user, before - 1).await.unwrap_err();
    assert_eq!(*early.revert_data().unwrap(), error(&InvalidationTimestampTooLow {}));
    let future = network.requester.void_signatures(&user, now() + 3_600).await.unwrap_err();
    assert_eq!(*future.revert_data().unwrap(), error(&InvalidationTimestampInTheFuture {}));
}

#[tokio::test]
async fn rights_are_granted_on_the_host_chain_alone() {
    let network = Network::of(1).await;
    let handle = network.handles(1).await[0];
    let (user, delegate) = (key("user").address(), key("delegate").address());

    network.requester.allow_public(&[handle]).await.unwrap();
    network.requester.allow_accounts(&[(handle, user), (handle, APPLICATION)]).await.unwrap();
    network.requester.delegate(user, delegate, &[APPLICATION], now() + 86_400).await.unwrap();

    let acl = network.contracts.host_acl;
    let view = HostAcl::isHandleDelegatedForUserDecryptionCall {
        delegator: user,
        delegate,
        contractAddress: APPLICATION,
        handle,
    };
    assert!(network.node.view(acl, &view).await.unwrap());
    assert!(network.node.view(acl, &HostAcl::isAllowedForDecryptionCall { handle }).await.unwrap());
    assert!(network.contracts.multichain_acl.is_none());

    // A user can do the same himself, and undo it.
    let revoke = owner::UserAcl::revokeDelegationForUserDecryptionCall { delegate, contractAddress: APPLICATION };
    network.requester.as_user(&key("user"), call(acl, &revoke)).await.unwrap();
    assert!(!network.node.view(acl, &view).await.unwrap());
    let grant = owner::UserAcl::delegateForUserDecryptionCall {
        delegate,
        contractAddress: Address::repeat_byte(0xff),
        expirationDate: now() + 86_400,
    };
    network.requester.as_user(&key("user"), call(acl, &grant)).await.unwrap();
    assert!(network.node.view(acl, &view).await.unwrap(), "for every contract");
}

#[tokio::test]
async fn answers_cost_what_they_cost_on_a_real_gateway() {
    // `docs/protocol.md`, "Gas of an answer": four nodes, threshold three.
    let network = Network::of(4).await;
    let handles = network.handles(2).await;
    let extra_data = Bytes::new();
    let id = network.public_request(&handles, &extra_data).await;
    let mut public = Vec::new();
    let result = Bytes::from([word(1), word(2)].concat());
    for node in 0..4 {
        let answer = network.public_answer(node, id, &handles, &result, &extra_data);
        public.push(network.send(node, answer).await.gas_used);
    }
    // A user's key is read word by word, 2100 gas each: what was seen of the real ones fits a short one.
    let public_key = Bytes::from(vec![3; 64]);
    let id = network.user_request(&handles[..1], &public_key, &extra_data).await;
    let mut user = Vec::new();
    for node in 0..4 {
        let share = Bytes::from(vec![0xa5; 1_024]);
        let answer = network.user_answer(node, id, (&handles[..1], &public_key), &share, &extra_data);
        user.push(network.send(node, answer).await.gas_used);
    }

    println!("public {public:?}, user {user:?}");
    for (arrival, gas) in public.into_iter().enumerate() {
        let real = if arrival == 2 { 295_000..=317_000 } else { 225_000..=280_000 };
        assert!(real.contains(&gas), "public answer {arrival} costs {gas}");
    }
    for (arrival, gas) in user.into_iter().enumerate() {
        assert!((160_000..=200_000).contains(&gas), "share {arrival} costs {gas}");
    }
}

#[tokio::test]
async fn key_management_contexts_and_epochs_are_the_owners() {
    alloy::sol! { error NotHostOwner(address sender); error OwnableUnauthorizedAccount(address account); }
    let network = Network::of(1).await;
    let stranger = &network.kms[0].sender;
    let refused = error(&NotHostOwner { sender: stranger.address() });

    for request in [
        NewRequest::Keygen { params_type: 0 },
        crsgen(),
        NewRequest::AbortKeygen { prep_keygen_id: tagged(3, 1) },
        NewRequest::AbortCrsgen { crs_id: tagged(5, 1) },
        NewRequest::NewEpoch,
        NewRequest::NewContextAndEpoch(Box::new(network.config.context())),
        NewRequest::DestroyContext { context_id: tagged(7, 1) },
        NewRequest::DestroyEpoch { epoch_id: tagged(8, 1) },
    ] {
        assert_eq!(revert(stranger, &request.call(&network.contracts).unwrap()).await, refused, "{request:?}");
    }
    let refused = error(&OwnableUnauthorizedAccount { account: stranger.address() });
    let definition = Box::new(network.config.context());
    for request in [
        NewRequest::GatewayUpdateContext { context_id: tagged(7, 2), definition },
        NewRequest::GatewayDestroyContext { context_id: tagged(7, 1) },
    ] {
        assert_eq!(revert(stranger, &request.call(&network.contracts).unwrap()).await, refused, "{request:?}");
    }
}
