//! Every refusal of an answer, with its exact data, and which of several comes first.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256, uint};
use alloy::sol_types::SolError;
use kms_chain::contracts::KeyDigest;
use kms_chain::eip712;
use kms_schemas::identity::RequestId;
use kms_stack::contracts::{Account, Call, NewRequest};
use serde::Deserialize;

use super::world::{UINT64, World, key, revert, tagged, word};

alloy::sol! {
    error KmsNodeAlreadySigned(uint256 decryptionId, address signer);
    error KmsAlreadySignedForPrepKeygen(uint256 prepKeygenId, address kmsSigner);
    error KmsAlreadySignedForKeygen(uint256 keyId, address kmsSigner);
    error KmsAlreadySignedForCrsgen(uint256 crsId, address kmsSigner);
    error DecryptionNotRequested(uint256 decryptionId);
    error PrepKeygenNotRequested(uint256 prepKeygenId);
    error KeygenNotRequested(uint256 keyId);
    error CrsgenNotRequested(uint256 crsId);
    error NotKmsTxSender(address txSenderAddress);
    error KmsSignerDoesNotMatchTxSender(address signerAddress, address txSenderAddress);
    error NotKmsSigner(address signerAddress);
    error EmptyKeyDigests(uint256 keyId);
    error ECDSAInvalidSignature();
    error ECDSAInvalidSignatureLength(uint256 length);
    error ECDSAInvalidSignatureS(bytes32 s);
}

const GROUP_ORDER: U256 = uint!(0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141_U256);

/// Every response function, ready to be called with any signature.
struct Open {
    world: World,
    handles: Vec<B256>,
    public_key: Bytes,
    public: RequestId,
    user: RequestId,
}

const FUNCTIONS: [&str; 5] =
    ["publicDecryptionResponse", "userDecryptionResponse", "prepKeygenResponse", "keygenResponse", "crsgenResponse"];
const PREP: (u8, u8) = (3, 1);
const KEY: (u8, u8) = (4, 1);
const CRS: (u8, u8) = (5, 1);
const CRS_BITS: u64 = 2_048;

impl Open {
    /// One request of each kind is open.
    async fn on(world: World) -> Self {
        let handles = world.public_handles(1, UINT64).await;
        let public_key = Bytes::from(vec![0x77; 100]);
        let public = world.public_request(&handles).await.id;
        let user = world.user_request(&handles, &public_key).await.id;
        let requester = &world.requester;
        requester.make(&NewRequest::Keygen { params_type: 1 }).await.unwrap();
        let crs = NewRequest::Crsgen { max_bit_length: U256::from(CRS_BITS), params_type: 1 };
        requester.make(&crs).await.unwrap();
        Self { world, handles, public_key, public, user }
    }

    fn id(&self, function: &str) -> RequestId {
        match function {
            "publicDecryptionResponse" => self.public,
            "userDecryptionResponse" => self.user,
            "prepKeygenResponse" => tagged(PREP.0, PREP.1),
            "keygenResponse" => tagged(KEY.0, KEY.1),
            _ => tagged(CRS.0, CRS.1),
        }
    }

    /// What an answer of that function is signed over.
    fn digest(&self, function: &str) -> B256 {
        let domains = &self.world.domains;
        let id = self.id(function);
        match function {
            "publicDecryptionResponse" => domains.decryption.public_decryption(&self.handles, &word(7), &Bytes::new()),
            "userDecryptionResponse" => {
                domains.decryption.user_decryption(&self.public_key, &self.handles, &share(), &Bytes::new())
            }
            "prepKeygenResponse" => domains.kms_generation.prep_keygen(id),
            "keygenResponse" => {
                let digests: Vec<_> = key_digests()
                    .into_iter()
                    .map(|d| kms_schemas::record::KeyDigest { key_type: d.keyType, digest: d.digest })
                    .collect();
                domains.kms_generation.keygen(tagged(PREP.0, PREP.1), id, &digests)
            }
            _ => domains.kms_generation.crsgen(id, U256::from(CRS_BITS), &crs_digest()),
        }
    }

    fn call(&self, function: &str, id: RequestId, signature: &Bytes) -> Call {
        match function {
            "publicDecryptionResponse" => self.world.public_call(id, &word(7), signature),
            "userDecryptionResponse" => self.world.user_call(id, &share(), signature),
            "prepKeygenResponse" => self.world.prep_keygen_call(id, signature),
            "keygenResponse" => self.world.keygen_call(id, &key_digests(), signature),
            _ => self.world.crsgen_call(id, &crs_digest(), signature),
        }
    }

    /// The genuine answer of a node.
    fn answer(&self, function: &str, node: usize) -> Call {
        self.call(function, self.id(function), &self.world.signature(node, self.digest(function)))
    }

    fn signer(&self, node: usize) -> Address {
        self.world.kms[node].signer.address()
    }

    fn sender(&self, node: usize) -> Address {
        self.world.kms[node].sender.address()
    }
}

fn share() -> Bytes {
    vec![0x55; 300].into()
}

fn key_digests() -> Vec<KeyDigest> {
    let digest = |key_type: u8| KeyDigest { keyType: key_type, digest: keccak256([key_type]).to_vec().into() };
    vec![digest(0), digest(1)]
}

fn crs_digest() -> Bytes {
    keccak256("crs").to_vec().into()
}

/// The reverts of the vectors of generation (a), as (selector, function).
fn promised() -> BTreeSet<(String, String)> {
    #[derive(Deserialize)]
    struct Vectors {
        errors: Vec<Vector>,
    }
    #[derive(Deserialize)]
    struct Vector {
        selector: String,
        generations: Vec<String>,
        raised_by: Vec<String>,
    }
    let text = include_str!("../../../chain/vectors/errors.json");
    let vectors: Vectors = serde_json::from_str(text).unwrap();
    let ours = vectors.errors.into_iter().filter(|vector| vector.generations.iter().any(|one| one == "a"));
    ours.flat_map(|vector| {
        let functions = vector.raised_by.into_iter().map(|by| by.split(' ').next().unwrap().to_owned());
        let functions: Vec<String> = functions.filter(|by| FUNCTIONS.contains(&by.as_str())).collect();
        functions.into_iter().map(move |function| (vector.selector.clone(), function))
    })
    .collect()
}

#[tokio::test]
async fn every_revert_of_the_vectors_is_raised_with_its_data() {
    let open = Open::on(World::of(4).await).await;
    let stranger = open.world.stranger("stranger").await;
    let mut raised = BTreeSet::new();

    for function in FUNCTIONS {
        let id = open.id(function);
        let digest = open.digest(function);
        let genuine = open.world.signature(0, digest);
        let foreign = eip712::sign(&key("nobody"), digest).unwrap();
        let not_requested = RequestId(id.0.with_count(9));

        let mut wrong_recovery = genuine.to_vec();
        wrong_recovery[64] -= 27;
        let s = U256::from_be_slice(&genuine[32..64]);
        let high_s = (GROUP_ORDER - s).to_be_bytes::<32>();
        let upper = [&genuine[..32], &high_s, &[55 - genuine[64]]].concat();

        let mut cases: Vec<(&Account, Call, Vec<u8>)> = Vec::new();
        let own = &open.world.kms[0].sender;
        cases.push((
            &stranger,
            open.answer(function, 0),
            NotKmsTxSender { txSenderAddress: stranger.address() }.abi_encode(),
        ));
        cases.push((own, open.call(function, not_requested, &genuine), not_requested_error(function, not_requested)));
        cases.push((own, open.call(function, id, &Bytes::from(wrong_recovery)), ECDSAInvalidSignature {}.abi_encode()));
        cases.push((
            own,
            open.call(function, id, &genuine.slice(..64)),
            ECDSAInvalidSignatureLength { length: U256::from(64) }.abi_encode(),
        ));
        cases.push((
            own,
            open.call(function, id, &Bytes::from(upper)),
            ECDSAInvalidSignatureS { s: B256::from(high_s) }.abi_encode(),
        ));
        cases.push((
            own,
            open.call(function, id, &foreign),
            NotKmsSigner { signerAddress: key("nobody").address() }.abi_encode(),
        ));
        let mismatch = KmsSignerDoesNotMatchTxSender { signerAddress: open.signer(1), txSenderAddress: open.sender(0) };
        cases.push((own, open.answer(function, 1), mismatch.abi_encode()));
        if function == "keygenResponse" {
            let call = open.world.keygen_call(id, &[], &genuine);
            cases.push((own, call, EmptyKeyDigests { keyId: id.as_u256() }.abi_encode()));
        }
        for (from, call, expected) in cases {
            let data = revert(from, &call).await;
            assert_eq!(data, expected, "{function}");
            raised.insert((selector(&data), function.to_owned()));
        }

        open.world.send(0, open.answer(function, 0)).await;
        let data = open.world.revert(0, &open.answer(function, 0)).await;
        assert_eq!(data, already_error(function, id, open.signer(0)), "{function}");
        raised.insert((selector(&data), function.to_owned()));
    }

    assert_eq!(raised, promised());
}

#[tokio::test]
async fn the_first_failed_check_is_the_one_that_is_told() {
    let open = Open::on(World::of(4).await).await;
    let stranger = open.world.stranger("stranger").await;
    let short = Bytes::from_static(&[1; 64]);

    for function in FUNCTIONS {
        let id = open.id(function);
        let unknown = RequestId(id.0.with_count(9));

        let data = revert(&stranger, &open.call(function, unknown, &short)).await;
        assert_eq!(
            data,
            NotKmsTxSender { txSenderAddress: stranger.address() }.abi_encode(),
            "{function}: sender first"
        );

        let data = open.world.revert(0, &open.call(function, unknown, &short)).await;
        assert_eq!(data, not_requested_error(function, unknown), "{function}: then the id");

        open.world.send(0, open.answer(function, 0)).await;
        let data = open.world.revert(0, &open.call(function, id, &short)).await;
        let damaged = ECDSAInvalidSignatureLength { length: U256::from(64) }.abi_encode();
        assert_eq!(data, damaged, "{function}: a repetition with a damaged signature is told of the damage");

        let data = open.world.revert(1, &open.answer(function, 0)).await;
        let mismatch = KmsSignerDoesNotMatchTxSender { signerAddress: open.signer(0), txSenderAddress: open.sender(1) };
        assert_eq!(data, mismatch.abi_encode(), "{function}: the node before the repetition");
    }

    let empty = open.world.keygen_call(tagged(KEY.0, KEY.1), &[], &short);
    let expected = EmptyKeyDigests { keyId: tagged(KEY.0, KEY.1).as_u256() }.abi_encode();
    assert_eq!(open.world.revert(2, &empty).await, expected, "digests before the signature");
}

#[tokio::test]
async fn a_repetition_is_refused_whatever_it_says_also_after_consensus() {
    let open = Open::on(World::of(4).await).await;
    let decryption = &open.world.domains.decryption;
    for node in 0..4 {
        open.world.send(node, open.answer("publicDecryptionResponse", node)).await;
    }

    for node in 0..4 {
        let other = open.world.signature(node, decryption.public_decryption(&open.handles, &word(8), &Bytes::new()));
        let data = open.world.revert(node, &open.world.public_call(open.public, &word(8), &other)).await;
        assert_eq!(data, already_error("publicDecryptionResponse", open.public, open.signer(node)));
    }
}

#[tokio::test]
async fn a_decryption_id_with_the_wrong_tag_was_not_requested_but_key_management_ids_are_loose() {
    let open = Open::on(World::of(4).await).await;
    let signature = open.world.signature(0, B256::repeat_byte(1));

    for (function, id) in [
        ("publicDecryptionResponse", open.user),
        ("publicDecryptionResponse", tagged(1, 0)),
        ("userDecryptionResponse", open.public),
        ("userDecryptionResponse", tagged(2, 0)),
    ] {
        let data = open.world.revert(0, &open.call(function, id, &signature)).await;
        assert_eq!(data, not_requested_error(function, id), "{function} of {id}");
    }
    for function in ["prepKeygenResponse", "keygenResponse", "crsgenResponse"] {
        let zero = RequestId(B256::ZERO);
        assert_eq!(
            open.world.revert(0, &open.call(function, zero, &signature)).await,
            not_requested_error(function, zero)
        );
        let below_the_base = RequestId(B256::with_last_byte(1));
        let data = open.world.revert(0, &open.call(function, below_the_base, &signature)).await;
        assert_eq!(selector(&data), selector(&NotKmsSigner::SELECTOR), "{function}: the signature is looked at");
    }
}

#[tokio::test]
async fn a_signature_over_other_data_is_of_nobody() {
    let open = Open::on(World::of(1).await).await;
    let genuine = open.world.signature(0, open.digest("publicDecryptionResponse"));

    let other_result = open.world.revert(0, &open.world.public_call(open.public, &word(8), &genuine)).await;
    let second = open.world.public_request(&[open.handles[0], open.handles[0]]).await.id;
    let other_handles = open.world.revert(0, &open.call("publicDecryptionResponse", second, &genuine)).await;

    assert_eq!(selector(&other_result), selector(&NotKmsSigner::SELECTOR));
    assert_eq!(selector(&other_handles), selector(&NotKmsSigner::SELECTOR));
}

#[tokio::test]
async fn a_key_type_beyond_the_enum_reverts_without_data() {
    let open = Open::on(World::of(1).await).await;
    let digests = [KeyDigest { keyType: 3, digest: Bytes::from_static(&[1; 32]) }];
    let call = open.world.keygen_answer(0, tagged(PREP.0, PREP.1), tagged(KEY.0, KEY.1), &digests);

    assert_eq!(open.world.revert(0, &call).await, Bytes::new());
}

fn selector(data: &[u8]) -> String {
    Bytes::copy_from_slice(&data[..4]).to_string()
}

fn not_requested_error(function: &str, id: RequestId) -> Vec<u8> {
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

fn already_error(function: &str, id: RequestId, signer: Address) -> Vec<u8> {
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

trait WithCount {
    /// The same tag, another count.
    fn with_count(self, count: u8) -> Self;
}

impl WithCount for B256 {
    fn with_count(mut self, count: u8) -> Self {
        self[31] = count;
        self
    }
}
