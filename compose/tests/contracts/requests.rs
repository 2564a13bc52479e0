//! What a request must be before it becomes an event, and requests at volume.

use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::sol_types::{SolCall, SolError};
use kms_chain::contracts::{CiphertextCommits, Decryption, HostAcl};
use kms_schemas::identity::Kind;
use kms_stack::contracts::{Call, ContractsError, Material, NewRequest, Pace, UserRequest, handle, owner};

use super::world::{HOST_CHAIN, MINED, UINT64, World, call, key, now, revert, send, tagged, user_request};

alloy::sol! {
    struct SnsCiphertextMaterial {
        bytes32 ctHandle;
        uint256 keyId;
        bytes32 snsCiphertextDigest;
        address[] coprocessorTxSenderAddresses;
    }

    error EmptyCtHandles();
    error EmptyCtHandleContractPairs();
    error EmptyContractAddresses();
    error ContractAddressesMaxLengthExceeded(uint256 maxLength, uint256 actualLength);
    error ContractNotInContractAddresses(address contractAddress, address[] contractAddresses);
    error UserAddressInContractAddresses(address userAddress, address[] contractAddresses);
    error DelegatorAddressInContractAddresses(address delegatorAddress, address[] contractAddresses);
    error CtHandleChainIdDiffersFromContractChainId(bytes32 ctHandle, uint256 chainId, uint256 contractChainId);
    error MaxDecryptionRequestBitSizeExceeded(uint256 maxBitSize, uint256 totalBitSize);
    error DifferentKeyIdsNotAllowed(SnsCiphertextMaterial firstSnsCtMaterial, SnsCiphertextMaterial invalidSnsCtMaterial);
    error PublicDecryptNotAllowed(bytes32 ctHandle);
    error AccountNotAllowedToUseCiphertext(bytes32 ctHandle, address accountAddress);
    error UserDecryptionNotDelegated(uint256 chainId, address delegator, address delegate, address contractAddress);
    error InvalidNullDurationDays();
    error MaxDurationDaysExceeded(uint256 maxValue, uint256 actualValue);
    error StartTimestampInFuture(uint256 currentTimestamp, uint256 startTimestamp);
    error UserDecryptionRequestExpired(uint256 currentTimestamp, uint256 startTimestamp, uint256 durationDays);
    error InvalidUserSignature(bytes signature);
    error ECDSAInvalidSignatureLength(uint256 length);
    error HostChainNotRegistered(uint256 chainId);
    error CiphertextMaterialNotFound(bytes32 ctHandle);
    error InvalidFHEType(uint8 fheTypeUint8);
    error UnsupportedFHEType(uint8 fheType);
    error NotCoprocessorTxSender(address txSenderAddress);
}

const CONTRACT: Address = Address::repeat_byte(0xc0);

fn public(handles: &[B256]) -> NewRequest {
    NewRequest::PublicDecryption { handles: handles.to_vec(), extra_data: Bytes::new() }
}

fn error<E: SolError>(error: &E) -> Bytes {
    error.abi_encode().into()
}

async fn refusal(world: &World, request: &NewRequest) -> Bytes {
    let error = world.requester.make(request).await.expect_err("the request is made");
    error.revert_data().unwrap_or_else(|| panic!("{error}")).clone()
}

#[tokio::test]
async fn a_public_decryption_needs_handles_rights_ciphertexts_and_one_key() {
    let world = World::of(1).await;
    let allowed = world.public_handles(1, UINT64).await[0];

    assert_eq!(refusal(&world, &public(&[])).await, error(&EmptyCtHandles {}));

    let private = world.materials("private", 1, UINT64, 1).await[0].handle;
    assert_eq!(
        refusal(&world, &public(&[allowed, private])).await,
        error(&PublicDecryptNotAllowed { ctHandle: private })
    );

    let lost = handle(keccak256("lost"), HOST_CHAIN, UINT64);
    world.requester.allow_public(&[lost]).await.unwrap();
    assert_eq!(refusal(&world, &public(&[lost])).await, error(&CiphertextMaterialNotFound { ctHandle: lost }));

    let other_key = world.materials("other key", 1, UINT64, 2).await[0].handle;
    world.requester.allow_public(&[other_key]).await.unwrap();
    let refused = refusal(&world, &public(&[allowed, other_key])).await;
    assert_eq!(refused[..4], DifferentKeyIdsNotAllowed::SELECTOR);
    let told = DifferentKeyIdsNotAllowed::abi_decode(&refused).unwrap();
    assert_eq!((told.firstSnsCtMaterial.ctHandle, told.invalidSnsCtMaterial.ctHandle), (allowed, other_key));
}

#[tokio::test]
async fn types_that_cannot_be_decrypted_are_refused() {
    let world = World::of(1).await;

    for (fhe_type, expected) in [
        (1, error(&UnsupportedFHEType { fheType: 1 })),
        (9, error(&UnsupportedFHEType { fheType: 9 })),
        (83, error(&UnsupportedFHEType { fheType: 83 })),
        (84, error(&InvalidFHEType { fheTypeUint8: 84 })),
    ] {
        let handles = world.public_handles(1, fhe_type).await;
        assert_eq!(refusal(&world, &public(&handles)).await, expected, "type {fhe_type}");
    }
}

#[tokio::test]
async fn a_request_holds_at_most_2048_bits() {
    let world = World::of(1).await;
    for (fhe_type, bits) in [(0, 2), (2, 8), (3, 16), (4, 32), (5, 64), (6, 128), (7, 160), (8, 256)] {
        let one = world.public_handles(1, fhe_type).await[0];
        let most = 2_048 / bits;
        // The same handle again and again: each occurrence counts.
        let excess = refusal(&world, &public(&vec![one; most + 1])).await;
        let told = MaxDecryptionRequestBitSizeExceeded {
            maxBitSize: U256::from(2_048),
            totalBitSize: U256::from(bits * (most + 1)),
        };
        assert_eq!(excess, error(&told), "type {fhe_type}");
        if most <= 64 {
            world.requester.make(&public(&vec![one; most])).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_public_request_event_names_the_coprocessors_that_agreed_at_the_time() {
    let world = World::of(1).await;
    let handles = world.public_handles(2, UINT64).await;
    let made = world.public_request(&handles).await;

    let view = CiphertextCommits::getSnsCiphertextMaterialsCall { ctHandles: handles.clone() };
    let materials = world.node.view(world.contracts.ciphertext_commits, &view).await.unwrap();
    assert_eq!(materials.iter().map(|material| material.ctHandle).collect::<Vec<_>>(), handles);
    assert!(materials.iter().all(|material| material.coprocessorTxSenderAddresses.len() == 3));
    assert_eq!((made.kind, made.id), (Kind::PublicDecryption, tagged(1, 1)));
}

#[tokio::test]
async fn ciphertexts_are_the_coprocessors_to_commit_and_count_when_enough_agree() {
    let world = World::of(1).await;
    let stranger = world.stranger("stranger").await;
    let one = handle(keccak256("one"), HOST_CHAIN, UINT64);
    let add = |digest: &str| {
        call(
            world.contracts.ciphertext_commits,
            &CiphertextCommits::addCiphertextMaterialCall {
                ctHandle: one,
                keyId: tagged(4, 1).as_u256(),
                ciphertextDigest: keccak256("small"),
                snsCiphertextDigest: keccak256(digest),
            },
        )
    };
    let refused = revert(&stranger, &add("large")).await;
    assert_eq!(refused, error(&NotCoprocessorTxSender { txSenderAddress: stranger.address() }));

    let mut added = Vec::new();
    for (index, digest) in ["large", "wrong", "large"].into_iter().enumerate() {
        let coprocessor = world.stranger(&format!("coprocessor sender {index}")).await;
        send(&coprocessor, add(digest)).await;
        let view = CiphertextCommits::isCiphertextMaterialAddedCall { ctHandle: one };
        added.push(world.node.view(world.contracts.ciphertext_commits, &view).await.unwrap());
    }
    assert_eq!(added, [false, false, true], "two that differ are not enough");
    let view = CiphertextCommits::getSnsCiphertextMaterialsCall { ctHandles: vec![one] };
    let materials = world.node.view(world.contracts.ciphertext_commits, &view).await.unwrap();
    assert_eq!(materials[0].snsCiphertextDigest, keccak256("large"));
    assert_eq!(materials[0].coprocessorTxSenderAddresses.len(), 2, "the one that disagrees is not named");
}

/// One user decryption that passes, to be spoiled in one way each.
struct Prepared {
    world: World,
    handle: B256,
    request: UserRequest,
}

impl Prepared {
    async fn new() -> Self {
        let world = World::of(1).await;
        let handle = world.materials("user", 1, UINT64, 1).await[0].handle;
        let rights = [(handle, key("user").address()), (handle, CONTRACT)];
        world.requester.allow_accounts(&rights).await.unwrap();
        let request = user_request(&[handle], CONTRACT, &Bytes::from(vec![5; 64]));
        Self { world, handle, request }
    }

    fn spoiled(&self, spoil: impl FnOnce(&mut UserRequest)) -> NewRequest {
        let mut request = self.request.clone();
        spoil(&mut request);
        NewRequest::UserDecryption { user: key("user"), request }
    }

    async fn refusal(&self, spoil: impl FnOnce(&mut UserRequest)) -> Bytes {
        refusal(&self.world, &self.spoiled(spoil)).await
    }
}

#[tokio::test]
async fn a_user_decryption_is_signed_for_the_host_chain() {
    let prepared = Prepared::new().await;

    let made = prepared.world.requester.make(&prepared.spoiled(|_| {})).await.unwrap();

    assert_eq!((made.kind, made.id), (Kind::UserDecryption, tagged(2, 1)));
}

#[tokio::test]
async fn the_form_of_a_user_decryption_is_checked() {
    let prepared = Prepared::new().await;
    let user = key("user").address();
    let foreign = Address::repeat_byte(0xaa);

    assert_eq!(prepared.refusal(|request| request.pairs.clear()).await, error(&EmptyCtHandleContractPairs {}));
    assert_eq!(prepared.refusal(|request| request.contracts.clear()).await, error(&EmptyContractAddresses {}));
    let too_many = ContractAddressesMaxLengthExceeded { maxLength: U256::from(10), actualLength: U256::from(11) };
    assert_eq!(prepared.refusal(|request| request.contracts = vec![CONTRACT; 11]).await, error(&too_many));
    let unlisted = ContractNotInContractAddresses { contractAddress: CONTRACT, contractAddresses: vec![foreign] };
    assert_eq!(prepared.refusal(|request| request.contracts = vec![foreign]).await, error(&unlisted));
    let own = UserAddressInContractAddresses { userAddress: user, contractAddresses: vec![CONTRACT, user] };
    assert_eq!(prepared.refusal(|request| request.contracts.push(user)).await, error(&own));
    prepared.world.requester.make(&prepared.spoiled(|request| request.contracts = vec![CONTRACT; 10])).await.unwrap();
}

#[tokio::test]
async fn a_user_decryption_is_good_for_its_time_only() {
    let prepared = Prepared::new().await;

    assert_eq!(prepared.refusal(|request| request.days = 0).await, error(&InvalidNullDurationDays {}));
    let too_long = MaxDurationDaysExceeded { maxValue: U256::from(365), actualValue: U256::from(366) };
    assert_eq!(prepared.refusal(|request| request.days = 366).await, error(&too_long));
    let early = prepared.refusal(|request| request.start = now() + 3_600).await;
    assert_eq!(early[..4], StartTimestampInFuture::SELECTOR);
    let late = prepared.refusal(|request| request.start = now() - 2 * 86_400).await;
    // The validity is a structure of two words, encoded in place.
    let selector = keccak256("UserDecryptionRequestExpired(uint256,(uint256,uint256))");
    assert_eq!(late[..4], selector[..4]);
    assert_eq!(late.len(), 4 + 3 * 32);
}

#[tokio::test]
async fn the_user_and_the_contract_must_both_be_allowed() {
    let prepared = Prepared::new().await;
    let user = key("user").address();
    let other = prepared.world.materials("other", 1, UINT64, 1).await[0].handle;

    let refused = prepared.refusal(|request| request.pairs.push((other, CONTRACT))).await;
    assert_eq!(refused, error(&AccountNotAllowedToUseCiphertext { ctHandle: other, accountAddress: user }));

    prepared.world.requester.allow_accounts(&[(other, user)]).await.unwrap();
    let refused = prepared.refusal(|request| request.pairs.push((other, CONTRACT))).await;
    assert_eq!(refused, error(&AccountNotAllowedToUseCiphertext { ctHandle: other, accountAddress: CONTRACT }));

    prepared.world.requester.allow_accounts(&[(other, CONTRACT)]).await.unwrap();
    let both = prepared.spoiled(|request| request.pairs.push((other, CONTRACT)));
    prepared.world.requester.make(&both).await.unwrap();
}

#[tokio::test]
async fn all_handles_are_of_the_signed_host_chain_and_it_is_registered() {
    let prepared = Prepared::new().await;
    let elsewhere = handle(keccak256("elsewhere"), 99, UINT64);

    let refused = prepared.refusal(|request| request.pairs.push((elsewhere, CONTRACT))).await;
    let told = CtHandleChainIdDiffersFromContractChainId {
        ctHandle: elsewhere,
        chainId: U256::from(99),
        contractChainId: U256::from(HOST_CHAIN),
    };
    assert_eq!(refused, error(&told));

    let mut unregistered = prepared.world.contracts;
    unregistered.host_chain_id = 99;
    let call = prepared.spoiled(|_| {}).call(&unregistered).unwrap();
    let refused = revert(prepared.world.requester.sender(), &call).await;
    assert_eq!(refused, error(&HostChainNotRegistered { chainId: U256::from(99) }));
}

#[tokio::test]
async fn a_signature_that_is_not_the_users_is_refused() {
    let prepared = Prepared::new().await;
    let contracts = prepared.world.contracts;
    let good = prepared.spoiled(|_| {}).call(&contracts).unwrap();
    let decoded = Decryption::userDecryptionRequestCall::abi_decode(&good.data).unwrap();
    let resigned = |signature: Bytes| {
        let call = Decryption::userDecryptionRequestCall { signature, ..decoded.clone() };
        Call { data: call.abi_encode().into(), ..good.clone() }
    };
    let sender = prepared.world.requester.sender();

    // Signed for the Gateway's chain id instead of the host chain's.
    let mut gateway = contracts;
    gateway.host_chain_id = contracts.gateway_chain_id;
    let wrong = prepared.spoiled(|_| {}).call(&gateway).unwrap();
    let wrong = Decryption::userDecryptionRequestCall::abi_decode(&wrong.data).unwrap().signature;
    let refused = revert(sender, &resigned(wrong.clone())).await;
    assert_eq!(refused, error(&InvalidUserSignature { signature: wrong }));

    let short = decoded.signature.slice(..64);
    let refused = revert(sender, &resigned(short)).await;
    assert_eq!(refused, error(&ECDSAInvalidSignatureLength { length: U256::from(64) }));

    let mut other_key = decoded.clone();
    other_key.publicKey = Bytes::from_static(&[6; 64]);
    let call = Call { data: other_key.abi_encode().into(), ..good.clone() };
    assert_eq!(revert(sender, &call).await[..4], InvalidUserSignature::SELECTOR);
}

#[tokio::test]
async fn a_delegated_decryption_is_signed_by_the_delegate_and_named_after_it() {
    let prepared = Prepared::new().await;
    let world = &prepared.world;
    let (delegator, delegate) = (key("user").address(), key("delegate"));
    let delegated =
        |request: UserRequest| NewRequest::DelegatedUserDecryption { delegator, delegate: delegate.clone(), request };

    let refused = refusal(world, &delegated(prepared.request.clone())).await;
    let told = UserDecryptionNotDelegated {
        chainId: U256::from(HOST_CHAIN),
        delegator,
        delegate: delegate.address(),
        contractAddress: CONTRACT,
    };
    assert_eq!(refused, error(&told));

    world.requester.delegate(delegator, delegate.address(), &[CONTRACT], now() + 86_400).await.unwrap();
    let made = world.requester.make(&delegated(prepared.request.clone())).await.unwrap();
    assert_eq!((made.kind, made.id), (Kind::UserDecryption, tagged(2, 1)));

    let mut own = prepared.request.clone();
    own.contracts.push(delegator);
    let told = DelegatorAddressInContractAddresses {
        delegatorAddress: delegator,
        contractAddresses: vec![CONTRACT, delegator],
    };
    assert_eq!(refusal(world, &delegated(own)).await, error(&told));

    // The host chain says the same as the Gateway.
    let view = HostAcl::isHandleDelegatedForUserDecryptionCall {
        delegator,
        delegate: delegate.address(),
        contractAddress: CONTRACT,
        handle: prepared.handle,
    };
    assert!(world.node.view(world.contracts.host_acl, &view).await.unwrap());
}

#[tokio::test]
async fn rights_on_the_host_chain_are_given_and_taken_back() {
    let world = World::of(1).await;
    let (acl, user) = (world.contracts.host_acl, key("user").address());
    let one = world.public_handles(1, UINT64).await[0];
    world.requester.allow_accounts(&[(one, user)]).await.unwrap();
    let allowed = HostAcl::isAllowedCall { handle: one, account: user };
    let public = HostAcl::isAllowedForDecryptionCall { handle: one };
    assert!(world.node.view(acl, &allowed).await.unwrap() && world.node.view(acl, &public).await.unwrap());

    let owner = world.requester.owner();
    send(owner, call(acl, &owner::HostAcl::disallowCall { handle: one, account: user })).await;
    send(owner, call(acl, &owner::HostAcl::disallowForDecryptionCall { handle: one })).await;

    assert!(!world.node.view(acl, &allowed).await.unwrap() && !world.node.view(acl, &public).await.unwrap());
}

#[tokio::test]
async fn hundreds_of_requests_are_sent_without_waiting_and_get_dense_ids_in_their_order() {
    let world = World::with(1, Some(Duration::from_millis(250))).await;
    assert!(!world.node.mines_at_once().await.unwrap());
    let handles = world.public_handles(16, UINT64).await;
    let requests: Vec<NewRequest> = (0..300).map(|index| public(&handles[index % 16..][..1])).collect();

    let sent = world.requester.submit(&requests, Pace::AtOnce).await.unwrap();
    let made = world.requester.made(&sent, MINED).await.unwrap();

    let ids: Vec<U256> = made.iter().map(|made| made.id.as_u256()).collect();
    let first = tagged(1, 1).as_u256();
    assert_eq!(ids, (0..300).map(|index| first + U256::from(index)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_paced_submission_sends_all_in_order_and_a_pace_of_nothing_is_refused() {
    let world = World::of(1).await;
    let handles = world.public_handles(1, UINT64).await;
    let requests = vec![public(&handles); 20];

    let sent = world.requester.submit(&requests, Pace::PerSecond(200.0)).await.unwrap();
    let made = world.requester.made(&sent, MINED).await.unwrap();
    let never = world.requester.submit(&requests, Pace::PerSecond(0.0)).await;

    assert_eq!(made.iter().map(|made| made.id.0[31]).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    assert!(matches!(never, Err(ContractsError::Argument(_))));
}

#[tokio::test]
async fn a_committed_ciphertext_is_not_committed_again() {
    let world = World::of(1).await;
    let material: Material = world.materials("once", 1, UINT64, 1).await[0];

    let again = world.requester.register(&[material]).await.unwrap_err();

    assert_eq!(again.revert_data().unwrap()[..4], keccak256("CoprocessorAlreadyAdded(bytes32,address)")[..4]);
}
