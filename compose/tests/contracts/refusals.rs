//! Every refusal of an answer in generation (b), with its exact data, and which of several comes first.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256, Bytes, U256, uint};
use alloy::sol_types::SolError;
use kms_chain::eip712;
use kms_schemas::identity::RequestId;
use kms_stack::contracts::{Account, Call, NewRequest, Pace, fund};
use serde::Deserialize;

use super::network::{CRS_BITS, Network, crs_digest, crsgen, key_digests, naming, naming_context, signed};
use super::world::{key, revert, tagged, word};

alloy::sol! {
    error KmsNodeAlreadySigned(uint256 decryptionId, address signer);
    error KmsAlreadySignedForPrepKeygen(uint256 prepKeygenId, address kmsSigner);
    error KmsAlreadySignedForKeygen(uint256 keyId, address kmsSigner);
    error KmsAlreadySignedForCrsgen(uint256 crsId, address kmsSigner);
    error KmsContextCreationAlreadyConfirmed(address txSender, uint256 kmsContextId);
    error EpochActivationAlreadyConfirmed(address signer, uint256 epochId);
    error KmsContextNotPending(uint256 kmsContextId);
    error InvalidKmsEpoch(uint256 epochId);
    error KeyManagementRequestPending();
    error DecryptionNotRequested(uint256 decryptionId);
    error PrepKeygenNotRequested(uint256 prepKeygenId);
    error KeygenNotRequested(uint256 keyId);
    error CrsgenNotRequested(uint256 crsId);
    error NotKmsTxSender(address txSenderAddress);
    error KmsSignerDoesNotMatchTxSender(address signerAddress, address txSenderAddress);
    error KmsContextCreationUnauthorized(address caller, uint256 kmsContextId);
    error EpochActivationUnauthorized(address caller, uint256 epochId);
    error NotKmsSigner(address signerAddress);
    error EpochActivationSignerDoesNotMatchTxSender(address signer, address txSender);
    error EmptyEpochActivationAttestation(uint256 epochId);
    error EmptyKeyDigests(uint256 keyId);
    error DecryptionContextMismatch(uint256 decryptionId, uint256 requestContextId, uint256 responseContextId);
    error InvalidKmsContext(uint256 kmsContextId);
    error InvalidExtraDataLength(uint256 length, uint256 minimumLength);
    error InvalidNullContextId();
    error UnsupportedExtraDataVersion(uint8 version);
    error ECDSAInvalidSignature();
    error ECDSAInvalidSignatureLength(uint256 length);
    error ECDSAInvalidSignatureS(bytes32 s);
}

const GROUP_ORDER: U256 = uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);

const DECRYPTIONS: [&str; 2] = ["publicDecryptionResponse", "userDecryptionResponse"];
const KEYS: [&str; 3] = ["prepKeygenResponse", "keygenResponse", "crsgenResponse"];

/// What no request that the contracts made can run into.
const UNREACHABLE: [(&str, &str); 8] = [
    ("KmsContextNotCreated", "confirmEpochActivation"),
    ("InvalidKmsContext", "confirmEpochActivation"),
    ("UnsupportedExtraDataVersion", "prepKeygenResponse"),
    ("UnsupportedExtraDataVersion", "keygenResponse"),
    ("UnsupportedExtraDataVersion", "crsgenResponse"),
    ("DeserializingExtraDataFail", "prepKeygenResponse"),
    ("DeserializingExtraDataFail", "keygenResponse"),
    ("DeserializingExtraDataFail", "crsgenResponse"),
];

/// One request of every kind, open for answers; the first key and the first CRS are there.
struct Open {
    network: Network,
    stranger: Account,
    handles: Vec<B256>,
    public_key: Bytes,
}

impl Open {
    async fn new() -> Self {
        let network = Network::of(4).await;
        network.key_material().await;
        let handles = network.handles(1).await;
        let public_key = Bytes::from(vec![0x77; 100]);
        network.public_request(&handles, &naming(1, 1)).await;
        network.user_request(&handles, &public_key, &naming(1, 1)).await;
        network.make(&NewRequest::Keygen { params_type: 1 }).await;
        network.make(&crsgen()).await;
        fund(network.node.url(), &[key("stranger").address()]).await.unwrap();
        let stranger = Account::open(&network.node, key("stranger")).await.unwrap();
        Self { network, stranger, handles, public_key }
    }

    fn id(function: &str) -> RequestId {
        match function {
            "publicDecryptionResponse" => tagged(1, 1),
            "userDecryptionResponse" => tagged(2, 1),
            "prepKeygenResponse" => tagged(3, 2),
            "keygenResponse" => tagged(4, 2),
            _ => tagged(5, 2),
        }
    }

    /// What an answer of that function is signed over.
    fn digest(&self, function: &str) -> B256 {
        let (id, named) = (Self::id(function), naming(1, 1));
        let Network { decryption, key_generation, .. } = &self.network;
        match function {
            "publicDecryptionResponse" => decryption.public_decryption(&self.handles, &word(7), &named),
            "userDecryptionResponse" => decryption.user_decryption(&self.public_key, &self.handles, &share(), &named),
            "prepKeygenResponse" => key_generation.prep_keygen_with(id, &named),
            "keygenResponse" => key_generation.keygen_with(tagged(3, 2), id, &signed(&key_digests()), &named),
            _ => key_generation.crsgen_with(id, U256::from(CRS_BITS), &crs_digest(), &named),
        }
    }

    fn call_with(&self, function: &str, id: RequestId, signature: &Bytes, extra_data: &Bytes) -> Call {
        match function {
            "publicDecryptionResponse" => self.network.public_call(id, &word(7), signature, extra_data),
            "userDecryptionResponse" => self.network.user_call(id, &share(), signature, extra_data),
            "prepKeygenResponse" => self.network.prep_keygen_call(id, signature),
            "keygenResponse" => self.network.keygen_call(id, &key_digests(), signature),
            _ => self.network.crsgen_call(id, &crs_digest(), signature),
        }
    }

    fn call(&self, function: &str, id: RequestId, signature: &Bytes) -> Call {
        self.call_with(function, id, signature, &naming(1, 1))
    }

    /// The genuine answer of a node.
    fn answer(&self, function: &str, node: usize) -> Call {
        self.call(function, Self::id(function), &self.network.signature(node, self.digest(function)))
    }

    fn signer(&self, node: usize) -> Address {
        self.network.kms[node].signer.address()
    }

    fn sender(&self, node: usize) -> Address {
        self.network.kms[node].sender.address()
    }
}

fn share() -> Bytes {
    vec![0x55; 300].into()
}

/// The reverts of the vectors of generation (b), as (error, function).
fn promised() -> BTreeSet<(String, String)> {
    #[derive(Deserialize)]
    struct Vectors {
        errors: Vec<Vector>,
    }
    #[derive(Deserialize)]
    struct Vector {
        selector: String,
        error: String,
        generations: Vec<String>,
        raised_by: Vec<String>,
    }
    let text = include_str!("../../../chain/vectors/errors.json");
    let vectors: Vectors = serde_json::from_str(text).unwrap();
    let ours = vectors.errors.into_iter().filter(|vector| vector.generations.iter().any(|one| one == "b"));
    ours.flat_map(|vector| {
        let name = vector.error.split('(').next().unwrap().to_owned();
        let reachable = move |by: &String| {
            !by.ends_with("(a only)") && !UNREACHABLE.contains(&(name.as_str(), by.split(' ').next().unwrap()))
        };
        let functions = vector.raised_by.into_iter().filter(reachable);
        let named = functions.map(move |by| (vector.selector.clone(), by.split(' ').next().unwrap().to_owned()));
        named.collect::<Vec<_>>()
    })
    .collect()
}

/// Signatures that no recovery takes, each with the error.
fn damaged(genuine: &Bytes) -> [(Bytes, Vec<u8>); 3] {
    let mut wrong_recovery = genuine.to_vec();
    wrong_recovery[64] -= 27;
    let s = U256::from_be_slice(&genuine[32..64]);
    let high_s = (GROUP_ORDER - s).to_be_bytes::<32>();
    let upper = [&genuine[..32], &high_s, &[55 - genuine[64]]].concat();
    [
        (wrong_recovery.into(), ECDSAInvalidSignature {}.abi_encode()),
        (genuine.slice(..64), ECDSAInvalidSignatureLength { length: U256::from(64) }.abi_encode()),
        (upper.into(), ECDSAInvalidSignatureS { s: B256::from(high_s) }.abi_encode()),
    ]
}

#[derive(Default)]
struct Raised(BTreeSet<(String, String)>);

impl Raised {
    async fn expect(&mut self, function: &str, from: &Account, call: &Call, expected: Vec<u8>) {
        let data = revert(from, call).await;
        assert_eq!(data, expected, "{function}");
        self.0.insert((Bytes::copy_from_slice(&data[..4]).to_string(), function.to_owned()));
    }
}

#[tokio::test]
async fn every_revert_of_the_vectors_is_raised_with_its_data() {
    let open = Open::new().await;
    let network = &open.network;
    let own = &network.kms[0].sender;
    let mut raised = Raised::default();

    let early = open.answer("keygenResponse", 0);
    raised.expect("keygenResponse", own, &early, KeyManagementRequestPending {}.abi_encode()).await;
    for node in 1..4 {
        network.send(node, open.answer("prepKeygenResponse", node)).await;
    }

    for function in DECRYPTIONS.into_iter().chain(KEYS) {
        let id = Open::id(function);
        let digest = open.digest(function);
        let genuine = network.signature(0, digest);
        let unknown = RequestId(tagged(id.0[0], 9).0);
        raised.expect(function, own, &open.call(function, unknown, &genuine), not_requested(function, unknown)).await;
        for (signature, expected) in damaged(&genuine) {
            raised.expect(function, own, &open.call(function, id, &signature), expected).await;
        }
        let foreign = eip712::sign(&key("nobody"), digest).unwrap();
        let nobody = NotKmsSigner { signerAddress: key("nobody").address() };
        raised.expect(function, own, &open.call(function, id, &foreign), nobody.abi_encode()).await;
        let mismatch = KmsSignerDoesNotMatchTxSender { signerAddress: open.signer(1), txSenderAddress: open.sender(0) };
        raised.expect(function, own, &open.answer(function, 1), mismatch.abi_encode()).await;
    }
    for function in KEYS {
        let outsider = NotKmsTxSender { txSenderAddress: open.stranger.address() };
        raised.expect(function, &open.stranger, &open.answer(function, 0), outsider.abi_encode()).await;
    }
    let empty = network.keygen_call(tagged(4, 2), &[], &Bytes::new());
    raised.expect("keygenResponse", own, &empty, EmptyKeyDigests { keyId: tagged(4, 2).as_u256() }.abi_encode()).await;
    for function in DECRYPTIONS {
        let id = Open::id(function);
        let with = |extra_data: Vec<u8>| open.call_with(function, id, &Bytes::new(), &extra_data.into());
        let outsider =
            KmsSignerDoesNotMatchTxSender { signerAddress: open.signer(0), txSenderAddress: open.stranger.address() };
        raised.expect(function, &open.stranger, &open.answer(function, 0), outsider.abi_encode()).await;
        let short = InvalidExtraDataLength { length: U256::from(9), minimumLength: U256::from(33) };
        raised.expect(function, own, &with(vec![2; 9]), short.abi_encode()).await;
        let version = UnsupportedExtraDataVersion { version: 7 };
        raised.expect(function, own, &with(vec![7; 65]), version.abi_encode()).await;
        let null = [&[1_u8][..], &[0; 32]].concat();
        raised.expect(function, own, &with(null), InvalidNullContextId {}.abi_encode()).await;
        let mismatch = DecryptionContextMismatch {
            decryptionId: id.as_u256(),
            requestContextId: tagged(7, 1).as_u256(),
            responseContextId: tagged(7, 2).as_u256(),
        };
        raised.expect(function, own, &with(naming_context(2).to_vec()), mismatch.abi_encode()).await;
    }
    for function in DECRYPTIONS.into_iter().chain(KEYS) {
        network.send(0, open.answer(function, 0)).await;
        let already = already(function, Open::id(function), open.signer(0));
        raised.expect(function, own, &open.answer(function, 0), already).await;
    }

    contexts_and_epochs(&open, &mut raised).await;
    assert_eq!(raised.0, promised());
}

/// The refusals of the two confirmations, and what is left of requests whose context is destroyed.
async fn contexts_and_epochs(open: &Open, raised: &mut Raised) {
    let network = &open.network;
    let own = &network.kms[0].sender;
    let creation = "confirmKmsContextCreation";
    let unknown = network.context_confirmation(tagged(7, 2));
    let not_pending = KmsContextNotPending { kmsContextId: tagged(7, 2).as_u256() };
    raised.expect(creation, own, &unknown, not_pending.abi_encode()).await;
    let context = network.new_context(0..4, &[0, 1, 2]).await;
    let confirmation = network.context_confirmation(context);
    let outsider = KmsContextCreationUnauthorized { caller: open.stranger.address(), kmsContextId: context.as_u256() };
    raised.expect(creation, &open.stranger, &confirmation, outsider.abi_encode()).await;
    let again = KmsContextCreationAlreadyConfirmed { txSender: open.sender(0), kmsContextId: context.as_u256() };
    raised.expect(creation, own, &confirmation, again.abi_encode()).await;
    network.send(3, confirmation.clone()).await;
    let over = KmsContextNotPending { kmsContextId: context.as_u256() };
    raised.expect(creation, own, &confirmation, over.abi_encode()).await;

    let activation = "confirmEpochActivation";
    let epoch = tagged(8, 2);
    let named = (context, epoch);
    let genuine = network.epoch_confirmation(0, named);
    let unknown = InvalidKmsEpoch { epochId: tagged(8, 9).as_u256() };
    raised.expect(activation, own, &network.epoch_confirmation(0, (context, tagged(8, 9))), unknown.abi_encode()).await;
    let outsider = EpochActivationUnauthorized { caller: open.stranger.address(), epochId: epoch.as_u256() };
    raised.expect(activation, &open.stranger, &genuine, outsider.abi_encode()).await;
    let key_digest = network.protocol_config.epoch_key(named, tagged(3, 1), tagged(4, 1), &signed(&key_digests()));
    let crs_digest = network.protocol_config.epoch_crs(named, tagged(5, 1), U256::from(CRS_BITS), &crs_digest());
    let (of_key, of_crs) = (network.signature(0, key_digest), network.signature(0, crs_digest));
    let empty = EmptyEpochActivationAttestation { epochId: epoch.as_u256() }.abi_encode();
    for (keys, crs_list) in [(vec![], vec![of_crs.clone()]), (vec![of_key.clone()], vec![])] {
        let call = network.epoch_call(epoch, &keys, &crs_list);
        raised.expect(activation, own, &call, empty.clone()).await;
    }
    for (signature, expected) in damaged(&of_crs) {
        let call = network.epoch_call(epoch, std::slice::from_ref(&of_key), &[signature]);
        raised.expect(activation, own, &call, expected).await;
    }
    let mismatch = EpochActivationSignerDoesNotMatchTxSender { signer: open.signer(1), txSender: open.sender(0) };
    let foreign = network.signature(1, key_digest);
    let call = network.epoch_call(epoch, &[foreign], std::slice::from_ref(&of_crs));
    raised.expect(activation, own, &call, mismatch.abi_encode()).await;
    network.send(0, genuine.clone()).await;
    let again = EpochActivationAlreadyConfirmed { signer: open.signer(0), epochId: epoch.as_u256() };
    raised.expect(activation, own, &genuine, again.abi_encode()).await;
    network.activate(1..4, named).await;
    let over = InvalidKmsEpoch { epochId: epoch.as_u256() };
    raised.expect(activation, own, &genuine, over.abi_encode()).await;

    let update =
        NewRequest::GatewayUpdateContext { context_id: context, definition: Box::new(network.context_of(0..4)) };
    let destroy = NewRequest::GatewayDestroyContext { context_id: tagged(7, 1) };
    network.requester.submit(&[update, destroy], Pace::AtOnce).await.unwrap();
    network.make(&NewRequest::DestroyContext { context_id: tagged(7, 1) }).await;
    let gone = InvalidKmsContext { kmsContextId: tagged(7, 1).as_u256() }.abi_encode();
    for function in DECRYPTIONS.into_iter().chain(KEYS) {
        let from = &network.kms[1].sender;
        raised.expect(function, from, &open.answer(function, 1), gone.clone()).await;
    }
}

#[tokio::test]
async fn the_first_failed_check_of_a_decryption_answer_is_the_one_that_is_told() {
    let open = Open::new().await;
    let network = &open.network;
    let short = Bytes::from_static(&[1; 64]);
    let malformed = Bytes::from_static(&[9]);
    for function in DECRYPTIONS {
        let id = Open::id(function);
        let unknown = tagged(id.0[0], 9);
        let told = async |id, signature: &Bytes, extra_data: &Bytes| {
            network.revert(0, &open.call_with(function, id, signature, extra_data)).await
        };
        assert_eq!(told(unknown, &short, &malformed).await, not_requested(function, unknown), "the id first");
        let version = UnsupportedExtraDataVersion { version: 9 }.abi_encode();
        assert_eq!(told(id, &short, &malformed).await, version, "then the extra data's form");
        let mismatch = told(id, &short, &naming(2, 2)).await;
        assert_eq!(mismatch[..4], DecryptionContextMismatch::SELECTOR, "then the context");
        network.send(0, open.answer(function, 0)).await;
        let length = ECDSAInvalidSignatureLength { length: U256::from(64) }.abi_encode();
        assert_eq!(told(id, &short, &naming(1, 1)).await, length, "then the signature's form, also of a repetition");
        let other = KmsSignerDoesNotMatchTxSender { signerAddress: open.signer(0), txSenderAddress: open.sender(1) };
        assert_eq!(network.revert(1, &open.answer(function, 0)).await, other.abi_encode(), "the node, then repetition");
    }
}

#[tokio::test]
async fn the_first_failed_check_of_a_key_answer_is_the_one_that_is_told() {
    let open = Open::new().await;
    let network = &open.network;
    let short = Bytes::from_static(&[1; 64]);
    let outsider = NotKmsTxSender { txSenderAddress: open.stranger.address() }.abi_encode();
    for function in KEYS {
        let id = Open::id(function);
        let unknown = tagged(id.0[0], 9);
        let data = revert(&open.stranger, &open.call(function, unknown, &short)).await;
        assert_eq!(data, not_requested(function, unknown), "{function}: the id before the sender");
        let data = revert(&open.stranger, &open.call(function, id, &short)).await;
        assert_eq!(data, outsider, "{function}: the sender before the signature");
        let below = RequestId(B256::with_last_byte(1));
        let data = network.revert(0, &open.call(function, below, &short)).await;
        assert_eq!(data, not_requested(function, below), "{function}: ids below the base are none");
    }
    let empty = network.keygen_call(tagged(4, 2), &[], &short);
    let told = EmptyKeyDigests { keyId: tagged(4, 2).as_u256() }.abi_encode();
    assert_eq!(revert(&open.stranger, &empty).await, told, "digests before the sender");
    let pending = network.revert(0, &open.call("keygenResponse", tagged(4, 2), &short)).await;
    assert_eq!(pending, KeyManagementRequestPending {}.abi_encode(), "the preprocessing before the signature");
}

fn not_requested(function: &str, id: RequestId) -> Vec<u8> {
    let id = id.as_u256();
    match function {
        "publicDecryptionResponse" | "userDecryptionResponse" => {
            DecryptionNotRequested { decryptionId: id }.abi_encode()
        }
        "prepKeygenResponse" => PrepKeygenNotRequested { prepKeygenId: id }.abi_encode(),
        "keygenResponse" => KeygenNotRequested { keyId: id }.abi_encode(),
        _ => CrsgenNotRequested { crsId: id }.abi_encode(),
    }
}

fn already(function: &str, id: RequestId, signer: Address) -> Vec<u8> {
    let id = id.as_u256();
    match function {
        "publicDecryptionResponse" | "userDecryptionResponse" => {
            KmsNodeAlreadySigned { decryptionId: id, signer }.abi_encode()
        }
        "prepKeygenResponse" => KmsAlreadySignedForPrepKeygen { prepKeygenId: id, kmsSigner: signer }.abi_encode(),
        "keygenResponse" => KmsAlreadySignedForKeygen { keyId: id, kmsSigner: signer }.abi_encode(),
        _ => KmsAlreadySignedForCrsgen { crsId: id, kmsSigner: signer }.abi_encode(),
    }
}
