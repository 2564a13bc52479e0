//! The vectors of the contracts and of KMS Core. Every entry is either used here, or stands in a list of what is
//! deferred to the generation that it belongs to.

use std::collections::BTreeSet;

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Panic, Revert as ErrorString, SolCall, SolError, SolStruct};
use kms_chain::contracts::{ContractsInfo, CtHandleContractPair, Decryption, DelegationAccounts, RequestValidity};
use kms_chain::eip712::{self, Domain, message, message_b};
use kms_chain::event::{ContractSet, ResponseEvent, decode_request, decode_response};
use kms_chain::request::decode_user_request;
use kms_chain::response::response_call;
use kms_chain::revert::{Revert, RevertClass};
use kms_schemas::identity::RequestId;
use kms_schemas::record::{Answer, CiphertextMaterial, KeyDigest, RawLog, RequestBody, Signed};
use serde_json::{Value, json};

fn vectors(path: &str) -> Value {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).expect("the vectors are JSON")
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("an array")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a string")
}

fn bytes(value: &Value) -> Bytes {
    text(value).parse().expect("hex")
}

fn word(value: &Value) -> B256 {
    text(value).parse().expect("32 bytes of hex")
}

fn address(value: &Value) -> Address {
    text(value).parse().expect("an address")
}

/// Vectors write a number in hex, in decimal digits, or as a JSON number.
fn number(value: &Value) -> U256 {
    match value {
        Value::String(text) => text.parse().expect("a number"),
        other => U256::from(other.as_u64().expect("a number")),
    }
}

fn id(value: &Value) -> RequestId {
    RequestId::from(number(value))
}

fn words(value: &Value) -> Vec<B256> {
    list(value).iter().map(word).collect()
}

fn addresses(value: &Value) -> Vec<Address> {
    list(value).iter().map(address).collect()
}

fn raw_log(log: &Value) -> RawLog {
    RawLog { address: address(&log["address"]), topics: words(&log["topics"]), data: bytes(&log["data"]) }
}

/// A deployment in which the log's contract has the part that the vector names.
fn deployment(entry: &Value, log: &RawLog) -> ContractSet {
    let other = Address::repeat_byte(0xee);
    match text(&entry["contract"]) {
        "Decryption" => ContractSet { decryption: log.address, kms_generation: other },
        "KMSGeneration" => ContractSet { decryption: other, kms_generation: log.address },
        contract => panic!("no deployment has {contract} yet"),
    }
}

// --- How the vectors write decoded values --------------------------------------------------------------------------

fn hex(bytes: &Bytes) -> Value {
    json!(bytes.to_string())
}

fn uint256(value: U256) -> Value {
    json!(B256::from(value.to_be_bytes::<32>()))
}

fn addresses_json(addresses: &[Address]) -> Value {
    addresses.iter().map(|address| json!(address.to_checksum(None))).collect()
}

fn materials_json(materials: &[CiphertextMaterial]) -> Value {
    let material = |material: &CiphertextMaterial| {
        json!({
            "ctHandle": material.handle,
            "keyId": material.key_id.0,
            "snsCiphertextDigest": material.digest,
            "coprocessorTxSenderAddresses": addresses_json(&material.coprocessors),
        })
    };
    materials.iter().map(material).collect()
}

fn digests_json(digests: &[KeyDigest]) -> Value {
    digests.iter().map(|digest| json!({ "keyType": digest.key_type, "digest": hex(&digest.digest) })).collect()
}

fn request_json(id: RequestId, body: &RequestBody) -> Value {
    match body {
        RequestBody::PublicDecryption { materials, extra_data } => json!({
            "decryptionId": id.0, "snsCtMaterials": materials_json(materials), "extraData": hex(extra_data),
        }),
        RequestBody::UserDecryption { materials, user_address, public_key, extra_data } => json!({
            "decryptionId": id.0,
            "snsCtMaterials": materials_json(materials),
            "userAddress": user_address.to_checksum(None),
            "publicKey": hex(public_key),
            "extraData": hex(extra_data),
        }),
        RequestBody::PrepKeygen { epoch_id, params_type } => json!({
            "prepKeygenId": id.0, "epochId": uint256(*epoch_id), "paramsType": params_type,
        }),
        RequestBody::Keygen { prep_keygen_id } => json!({ "prepKeygenId": prep_keygen_id.0, "keyId": id.0 }),
        RequestBody::Crsgen { max_bit_length, params_type } => json!({
            "crsId": id.0, "maxBitLength": uint256(*max_bit_length), "paramsType": params_type,
        }),
        RequestBody::PrssInit => json!({}),
        RequestBody::KeyReshareSameSet { prep_keygen_id, key_id, params_type } => json!({
            "prepKeygenId": prep_keygen_id.0, "keyId": key_id.0, "keyReshareId": id.0, "paramsType": params_type,
        }),
    }
}

fn response_json(event: &ResponseEvent) -> Value {
    let sender = |address: &Address| address.to_checksum(None);
    match event {
        ResponseEvent::PublicDecryptionResponseCall { id, decrypted_result, signature, tx_sender, extra_data } => {
            json!({
                "decryptionId": id.0, "decryptedResult": hex(decrypted_result), "signature": hex(signature),
                "kmsTxSender": sender(tx_sender), "extraData": hex(extra_data),
            })
        }
        ResponseEvent::PublicDecryptionResponse { id, decrypted_result, signatures, extra_data } => json!({
            "decryptionId": id.0, "decryptedResult": hex(decrypted_result),
            "signatures": signatures.iter().map(hex).collect::<Vec<_>>(), "extraData": hex(extra_data),
        }),
        ResponseEvent::UserDecryptionResponse { id, index_share, share, signature, extra_data } => json!({
            "decryptionId": id.0, "indexShare": uint256(*index_share), "userDecryptedShare": hex(share),
            "signature": hex(signature), "extraData": hex(extra_data),
        }),
        ResponseEvent::UserDecryptionResponseThresholdReached { id } => json!({ "decryptionId": id.0 }),
        ResponseEvent::PrepKeygenResponse { id, signature, tx_sender } => json!({
            "prepKeygenId": id.0, "signature": hex(signature), "kmsTxSender": sender(tx_sender),
        }),
        ResponseEvent::KeygenResponse { id, key_digests, signature, tx_sender } => json!({
            "keyId": id.0, "keyDigests": digests_json(key_digests), "signature": hex(signature),
            "kmsTxSender": sender(tx_sender),
        }),
        ResponseEvent::ActivateKey { id, storage_urls, key_digests } => json!({
            "keyId": id.0, "kmsNodeStorageUrls": storage_urls, "keyDigests": digests_json(key_digests),
        }),
        ResponseEvent::CrsgenResponse { id, crs_digest, signature, tx_sender } => json!({
            "crsId": id.0, "crsDigest": hex(crs_digest), "signature": hex(signature), "kmsTxSender": sender(tx_sender),
        }),
        ResponseEvent::ActivateCrs { id, storage_urls, crs_digest } => json!({
            "crsId": id.0, "kmsNodeStorageUrls": storage_urls, "crsDigest": hex(crs_digest),
        }),
    }
}

// --- Events --------------------------------------------------------------------------------------------------------

fn event_name(entry: &Value) -> String {
    let variant = entry["variant"].as_str().unwrap_or("-");
    format!("{} {} {} {variant}", text(&entry["generation"]), text(&entry["contract"]), text(&entry["name"]))
}

/// Request events that only generation (b) has.
const DEFERRED_REQUESTS: &[&str] = &[
    "b Decryption PublicDecryptionRequest handles",
    "b Decryption UserDecryptionRequest handles",
    "b Decryption UserDecryptionRequest unified_handles",
    "b Decryption UserDecryptionRequest unified_sns_materials",
    "b KMSGeneration AbortCrsgen -",
    "b KMSGeneration AbortKeygen -",
    "b KMSGeneration CrsgenRequest -",
    "b KMSGeneration KeygenRequest -",
    "b KMSGeneration PrepKeygenRequest -",
    "b ProtocolConfig KmsContextDestroyed -",
    "b ProtocolConfig KmsEpochDestroyed -",
    "b ProtocolConfig NewKmsContext -",
    "b ProtocolConfig NewKmsEpoch -",
];

/// Events reporting responses that only generation (b) has.
const DEFERRED_RESPONSES: &[&str] = &[
    "b ProtocolConfig ActivateEpoch -",
    "b ProtocolConfig EpochActivationConfirmation -",
    "b ProtocolConfig KmsContextCreationConfirmation -",
];

#[test]
fn every_request_event_of_generation_a_decodes_to_the_vectors_values() {
    let file = vectors("vectors/events.json");
    let mut deferred = BTreeSet::new();
    let mut used = 0;
    for entry in list(&file["events"]) {
        let name = event_name(entry);
        if DEFERRED_REQUESTS.contains(&name.as_str()) {
            deferred.insert(name);
            continue;
        }
        for example in list(&entry["examples"]) {
            let log = raw_log(&example["log"]);
            assert!(ContractSet::request_topics().contains(&log.topics[0]), "{name}");
            let decoded = decode_request(&deployment(entry, &log), &log);
            let decoded = decoded.unwrap_or_else(|e| panic!("{name}, {}: {e}", example["label"]));
            let decoded = decoded.unwrap_or_else(|| panic!("{name}, {}: not selected", example["label"]));
            assert_eq!(request_json(decoded.id, &decoded.body), example["decoded"], "{name}, {}", example["label"]);
            assert_eq!(decode_response(&deployment(entry, &log), &log), Ok(None), "{name}");
            used += 1;
        }
    }
    assert_eq!(deferred.into_iter().collect::<Vec<_>>(), DEFERRED_REQUESTS, "deferred entries");
    assert!(used >= 21, "{used} examples");
}

#[test]
fn every_response_event_of_generation_a_decodes_to_the_vectors_values() {
    let file = vectors("vectors/events.json");
    let mut deferred = BTreeSet::new();
    let mut topics = BTreeSet::new();
    for entry in list(&file["response_events"]) {
        let name = event_name(entry);
        if DEFERRED_RESPONSES.contains(&name.as_str()) {
            deferred.insert(name);
            continue;
        }
        for example in list(&entry["examples"]) {
            let log = raw_log(&example["log"]);
            topics.insert(log.topics[0]);
            let decoded = decode_response(&deployment(entry, &log), &log);
            let decoded = decoded.unwrap_or_else(|e| panic!("{name}, {}: {e}", example["label"]));
            let decoded = decoded.unwrap_or_else(|| panic!("{name}, {}: not selected", example["label"]));
            assert_eq!(response_json(&decoded), example["decoded"], "{name}, {}", example["label"]);
            assert_eq!(decode_request(&deployment(entry, &log), &log), Ok(None), "{name}");
        }
    }
    assert_eq!(deferred.into_iter().collect::<Vec<_>>(), DEFERRED_RESPONSES, "deferred entries");
    assert_eq!(topics, ContractSet::response_topics().into_iter().collect());
    // The one event of another release belongs to a contract that generation (a) does not have.
    let other: Vec<String> = list(&file["other_release_events"]).iter().map(event_name).collect();
    assert_eq!(other, ["b ProtocolConfig NewKmsContext -"]);
}

// --- EIP-712 -------------------------------------------------------------------------------------------------------

fn key_digests<T>(value: &Value, make: impl Fn(u8, Bytes) -> T) -> Vec<T> {
    let digest = |digest: &Value| make(number(&digest["keyType"]).to(), bytes(&digest["digest"]));
    list(value).iter().map(digest).collect()
}

fn hashes<M: SolStruct>(domain: &Domain, message: &M) -> (String, B256, B256, B256) {
    let type_string = M::eip712_encode_type().into_owned();
    let type_hash = message.eip712_type_hash();
    (type_string, type_hash, message.eip712_hash_struct(), domain.digest(message))
}

/// Type string, type hash, struct hash and digest of a vector's message.
fn typed_message(type_string: &str, domain: &Domain, m: &Value) -> (String, B256, B256, B256) {
    let name = type_string.split('(').next().expect("a type string has a name");
    let later_generation = type_string.contains(",bytes extraData)") || type_string.contains("durationSeconds");
    match (name, later_generation) {
        ("PublicDecryptVerification", _) => hashes(
            domain,
            &message::PublicDecryptVerification {
                ctHandles: words(&m["ctHandles"]),
                decryptedResult: bytes(&m["decryptedResult"]),
                extraData: bytes(&m["extraData"]),
            },
        ),
        ("UserDecryptResponseVerification", _) => hashes(
            domain,
            &message::UserDecryptResponseVerification {
                publicKey: bytes(&m["publicKey"]),
                ctHandles: words(&m["ctHandles"]),
                userDecryptedShare: bytes(&m["userDecryptedShare"]),
                extraData: bytes(&m["extraData"]),
            },
        ),
        ("UserDecryptRequestVerification", _) if m.get("userAddress").is_some() => hashes(
            domain,
            &message_b::UserDecryptRequestVerification {
                userAddress: address(&m["userAddress"]),
                publicKey: bytes(&m["publicKey"]),
                allowedContracts: addresses(&m["allowedContracts"]),
                startTimestamp: number(&m["startTimestamp"]),
                durationSeconds: number(&m["durationSeconds"]),
                extraData: bytes(&m["extraData"]),
            },
        ),
        ("UserDecryptRequestVerification", _) => hashes(
            domain,
            &message::UserDecryptRequestVerification {
                publicKey: bytes(&m["publicKey"]),
                contractAddresses: addresses(&m["contractAddresses"]),
                startTimestamp: number(&m["startTimestamp"]),
                durationDays: number(&m["durationDays"]),
                extraData: bytes(&m["extraData"]),
            },
        ),
        ("DelegatedUserDecryptRequestVerification", _) => hashes(
            domain,
            &message::DelegatedUserDecryptRequestVerification {
                publicKey: bytes(&m["publicKey"]),
                contractAddresses: addresses(&m["contractAddresses"]),
                delegatorAddress: address(&m["delegatorAddress"]),
                startTimestamp: number(&m["startTimestamp"]),
                durationDays: number(&m["durationDays"]),
                extraData: bytes(&m["extraData"]),
            },
        ),
        ("PrepKeygenVerification", false) => {
            hashes(domain, &message::PrepKeygenVerification { prepKeygenId: number(&m["prepKeygenId"]) })
        }
        ("PrepKeygenVerification", true) => hashes(
            domain,
            &message_b::PrepKeygenVerification {
                prepKeygenId: number(&m["prepKeygenId"]),
                extraData: bytes(&m["extraData"]),
            },
        ),
        ("KeygenVerification", false) => hashes(
            domain,
            &message::KeygenVerification {
                prepKeygenId: number(&m["prepKeygenId"]),
                keyId: number(&m["keyId"]),
                keyDigests: key_digests(&m["keyDigests"], |key_type, digest| message::KeyDigest {
                    keyType: key_type,
                    digest,
                }),
            },
        ),
        ("KeygenVerification", true) => hashes(
            domain,
            &message_b::KeygenVerification {
                prepKeygenId: number(&m["prepKeygenId"]),
                keyId: number(&m["keyId"]),
                keyDigests: key_digests(&m["keyDigests"], |key_type, digest| message_b::KeyDigest {
                    keyType: key_type,
                    digest,
                }),
                extraData: bytes(&m["extraData"]),
            },
        ),
        ("CrsgenVerification", false) => hashes(
            domain,
            &message::CrsgenVerification {
                crsId: number(&m["crsId"]),
                maxBitLength: number(&m["maxBitLength"]),
                crsDigest: bytes(&m["crsDigest"]),
            },
        ),
        ("CrsgenVerification", true) => hashes(
            domain,
            &message_b::CrsgenVerification {
                crsId: number(&m["crsId"]),
                maxBitLength: number(&m["maxBitLength"]),
                crsDigest: bytes(&m["crsDigest"]),
                extraData: bytes(&m["extraData"]),
            },
        ),
        other => panic!("no message {other:?}"),
    }
}

/// The digest as the functions for generation (a)'s answers compute it, from plain arguments.
fn answer_digest(type_string: &str, domain: &Domain, m: &Value) -> Option<B256> {
    let name = type_string.split('(').next()?;
    match name {
        "PublicDecryptVerification" => {
            let (result, extra) = (bytes(&m["decryptedResult"]), bytes(&m["extraData"]));
            Some(domain.public_decryption(&words(&m["ctHandles"]), &result, &extra))
        }
        "UserDecryptResponseVerification" => {
            let (key, share, extra) = (bytes(&m["publicKey"]), bytes(&m["userDecryptedShare"]), bytes(&m["extraData"]));
            Some(domain.user_decryption(&key, &words(&m["ctHandles"]), &share, &extra))
        }
        _ if m.get("extraData").is_some() => None,
        "PrepKeygenVerification" => Some(domain.prep_keygen(id(&m["prepKeygenId"]))),
        "KeygenVerification" => {
            let digests = key_digests(&m["keyDigests"], |key_type, digest| KeyDigest { key_type, digest });
            Some(domain.keygen(id(&m["prepKeygenId"]), id(&m["keyId"]), &digests))
        }
        "CrsgenVerification" => {
            Some(domain.crsgen(id(&m["crsId"]), number(&m["maxBitLength"]), &bytes(&m["crsDigest"])))
        }
        _ => None,
    }
}

#[test]
fn every_typed_message_of_the_contracts_hashes_and_recovers_as_the_vectors_say() {
    let file = vectors("vectors/eip712.json");
    let mut answers = 0;
    for vector in list(&file["vectors"]) {
        let name = text(&vector["name"]);
        let d = &vector["domain"];
        let chain_id = number(&d["chainId"]).to();
        let domain = Domain::new(text(&d["name"]), text(&d["version"]), chain_id, address(&d["verifyingContract"]));
        assert_eq!(domain.separator(), word(&vector["domain_separator"]), "{name}");

        let type_string = text(&vector["type_string"]);
        let (found, type_hash, struct_hash, digest) = typed_message(type_string, &domain, &vector["message"]);
        assert_eq!(found, type_string, "{name}");
        assert_eq!(type_hash, word(&vector["type_hash"]), "{name}");
        assert_eq!(struct_hash, word(&vector["struct_hash"]), "{name}");
        assert_eq!(digest, word(&vector["digest"]), "{name}");
        if let Some(computed) = answer_digest(type_string, &domain, &vector["message"]) {
            assert_eq!(computed, digest, "{name}");
            answers += 1;
        }

        let (signature, signer) = (bytes(&vector["signature"]), address(&vector["signer_address"]));
        assert_eq!(eip712::recover(digest, &signature), Ok(signer), "{name}");
        let key: PrivateKeySigner = text(&vector["private_key"]).parse().expect("a private key");
        assert_eq!(eip712::sign(&key, digest).expect("a key in memory signs"), signature, "{name}");
    }
    assert_eq!(answers, 8, "messages of generation (a)'s answers");
}

#[test]
fn the_other_hashes_of_the_contracts_are_only_those_of_generation_b() {
    let file = vectors("vectors/eip712.json");
    let other = file["other"].as_object().expect("an object");
    let names: Vec<&String> = other.keys().collect();
    assert_eq!(names, ["ciphertext_attestation", "context_info_hash", "epoch_activation_data_hash"]);
}

#[test]
fn every_typed_message_of_kms_core_hashes_and_recovers_as_the_vectors_say() {
    let file = vectors("../proto/vectors/kms-core.json");
    let signer = address(&file["test_signing_key"]["address"]);
    for vector in list(&file["eip712"]) {
        let name = text(&vector["name"]);
        let d = &vector["domain"];
        let chain_id = number(&d["chain_id"]).to();
        let domain = Domain::new(text(&d["name"]), text(&d["version"]), chain_id, address(&d["verifying_contract"]));
        let type_string = text(&vector["primary_type"]);
        let (found, _, struct_hash, digest) = typed_message(type_string, &domain, &vector["message"]);
        assert_eq!(found, type_string, "{name}");
        assert_eq!(digest, word(&vector["digest"]), "{name}");
        // One vector is a value that KMS Core's own tests assert, and has nothing but its digest.
        if vector.get("signature").is_none() {
            assert_eq!(name, "public_decryption/upstream_reference");
            continue;
        }
        assert_eq!(domain.separator(), word(&vector["domain_separator"]), "{name}");
        assert_eq!(struct_hash, word(&vector["struct_hash"]), "{name}");
        assert_eq!(address(&vector["signer"]), signer, "{name}");
        assert_eq!(eip712::verify(digest, &bytes(&vector["signature"]), signer), Ok(()), "{name}");
    }
}

#[test]
fn a_real_share_of_the_public_testnet_recovers_to_the_node_that_made_it() {
    let file = vectors("../proto/vectors/kms-core.json");
    let real = &file["real_transcript"];
    let d = &real["domain"];
    let domain = Domain::decryption(number(&d["chain_id"]).to(), address(&d["verifying_contract"]));
    assert_eq!((domain.name(), domain.version()), (text(&d["name"]), text(&d["version"])));
    let digest = domain.user_decryption(
        &bytes(&real["enc_key"]),
        &words(&real["ct_handles"]),
        &bytes(&real["payload_bincode"]),
        &Bytes::new(),
    );
    assert_eq!(digest, word(&real["response_digest"]));
    let node = address(&real["recovered_signer"]);
    assert_eq!(eip712::recover(digest, &bytes(&real["external_signature"])), Ok(node));
    let party = real["party_id"].to_string();
    assert_eq!(address(&real["kms_signers"][party.as_str()]), node);
}

#[test]
fn ciphertext_objects_are_named_by_keccak_256() {
    let file = vectors("../proto/vectors/kms-core.json");
    for vector in list(&file["s3"]["digests"]) {
        let body = match vector.get("body_utf8") {
            Some(body) => text(body).as_bytes().to_vec(),
            None => {
                let repeat = &vector["body_repeat"];
                let (byte, count) = (number(&repeat["byte"]).to(), number(&repeat["count"]).to());
                vec![byte; count]
            }
        };
        assert_eq!(keccak256(body), word(&vector["keccak256"]));
    }
}

// --- Calls ---------------------------------------------------------------------------------------------------------

/// Functions that only generation (b) has.
const DEFERRED_CALLS: &[&str] =
    &["confirmEpochActivation", "confirmKmsContextCreation", "unified userDecryptionRequest"];

fn signed(args: &Value) -> Signed {
    Signed { signature: bytes(&args["signature"]), digest: B256::ZERO, signer: Address::ZERO }
}

fn pairs(value: &Value) -> Vec<CtHandleContractPair> {
    let pair = |pair: &Value| CtHandleContractPair {
        ctHandle: word(&pair["ctHandle"]),
        contractAddress: address(&pair["contractAddress"]),
    };
    list(value).iter().map(pair).collect()
}

fn validity(value: &Value) -> RequestValidity {
    RequestValidity { startTimestamp: number(&value["startTimestamp"]), durationDays: number(&value["durationDays"]) }
}

fn contracts_info(value: &Value) -> ContractsInfo {
    ContractsInfo { chainId: number(&value["chainId"]), addresses: addresses(&value["addresses"]) }
}

/// The calldata of an answer, and the contract that it goes to.
fn encode_answer(function: &str, args: &Value) -> Option<(Address, Bytes)> {
    let contracts = ContractSet { decryption: Address::repeat_byte(1), kms_generation: Address::repeat_byte(2) };
    let (request, answer) = match function {
        "publicDecryptionResponse" => (
            id(&args["decryptionId"]),
            Answer::PublicDecryption {
                handles: Vec::new(),
                decrypted_result: bytes(&args["decryptedResult"]),
                extra_data: bytes(&args["extraData"]),
                signature: signed(args),
            },
        ),
        "userDecryptionResponse" => (
            id(&args["decryptionId"]),
            Answer::UserDecryption {
                public_key: Bytes::new(),
                handles: Vec::new(),
                share: bytes(&args["userDecryptedShare"]),
                extra_data: bytes(&args["extraData"]),
                signature: signed(args),
            },
        ),
        "prepKeygenResponse" => (id(&args["prepKeygenId"]), Answer::PrepKeygen { signature: signed(args) }),
        "keygenResponse" => (
            id(&args["keyId"]),
            Answer::Keygen {
                prep_keygen_id: RequestId::default(),
                key_digests: key_digests(&args["keyDigests"], |key_type, digest| KeyDigest { key_type, digest }),
                signature: signed(args),
            },
        ),
        "crsgenResponse" => (
            id(&args["crsId"]),
            Answer::Crsgen {
                max_bit_length: U256::ZERO,
                crs_digest: bytes(&args["crsDigest"]),
                signature: signed(args),
            },
        ),
        _ => return None,
    };
    let call = response_call(&contracts, request, &answer).expect("these answers go to the chain");
    assert_eq!(call.function, function);
    Some((call.to, call.calldata))
}

fn encode_request(function: &str, args: &Value) -> Option<Vec<u8>> {
    let (key, signature, extra) = (&args["publicKey"], &args["signature"], &args["extraData"]);
    match function {
        "publicDecryptionRequest" => {
            let call = Decryption::publicDecryptionRequestCall {
                ctHandles: words(&args["ctHandles"]),
                extraData: bytes(extra),
            };
            Some(call.abi_encode())
        }
        "userDecryptionRequest" => {
            let call = Decryption::userDecryptionRequestCall {
                ctHandleContractPairs: pairs(&args["ctHandleContractPairs"]),
                requestValidity: validity(&args["requestValidity"]),
                contractsInfo: contracts_info(&args["contractsInfo"]),
                userAddress: address(&args["userAddress"]),
                publicKey: bytes(key),
                signature: bytes(signature),
                extraData: bytes(extra),
            };
            let decoded = decode_user_request(&call.abi_encode()).expect("a request decodes");
            assert_eq!((decoded.delegator, decoded.user), (None, call.userAddress));
            Some(call.abi_encode())
        }
        "delegatedUserDecryptionRequest" => {
            let accounts = &args["delegationAccounts"];
            let call = Decryption::delegatedUserDecryptionRequestCall {
                ctHandleContractPairs: pairs(&args["ctHandleContractPairs"]),
                requestValidity: validity(&args["requestValidity"]),
                delegationAccounts: DelegationAccounts {
                    delegatorAddress: address(&accounts["delegatorAddress"]),
                    delegateAddress: address(&accounts["delegateAddress"]),
                },
                contractsInfo: contracts_info(&args["contractsInfo"]),
                publicKey: bytes(key),
                signature: bytes(signature),
                extraData: bytes(extra),
            };
            let decoded = decode_user_request(&call.abi_encode()).expect("a request decodes");
            assert_eq!(decoded.delegator, Some(call.delegationAccounts.delegatorAddress));
            assert_eq!(decoded.user, call.delegationAccounts.delegateAddress);
            let first = &call.ctHandleContractPairs[0];
            assert_eq!(decoded.pairs[0], (first.ctHandle, first.contractAddress));
            Some(call.abi_encode())
        }
        _ => None,
    }
}

#[test]
fn every_call_of_generation_a_encodes_to_the_vectors_bytes() {
    let file = vectors("vectors/calls.json");
    let mut deferred = BTreeSet::new();
    for vector in list(&file["calls"]) {
        let mut function = text(&vector["function"]).split('(').next().expect("a function has a name");
        let args = &vector["args"];
        if args.get("allowedContracts").is_some() {
            function = "unified userDecryptionRequest";
        }
        if DEFERRED_CALLS.contains(&function) {
            deferred.insert(function);
            continue;
        }
        let expected = bytes(&vector["calldata"]);
        let calldata = match encode_answer(function, args) {
            Some((to, calldata)) => {
                let decryption = text(&vector["to"]) == "Decryption";
                assert_eq!(to, Address::repeat_byte(if decryption { 1 } else { 2 }), "{function}");
                calldata
            }
            None => encode_request(function, args).unwrap_or_else(|| panic!("{function} is not used")).into(),
        };
        assert_eq!(calldata, expected, "{function} {}", vector["label"]);
        assert_eq!(calldata[..4], bytes(&vector["selector"]), "{function}");
    }
    assert_eq!(deferred.into_iter().collect::<Vec<_>>(), DEFERRED_CALLS, "deferred entries");
}

#[test]
fn answers_that_the_protocol_does_not_know_on_chain_have_no_call() {
    let contracts = ContractSet { decryption: Address::ZERO, kms_generation: Address::ZERO };
    assert_eq!(response_call(&contracts, RequestId::default(), &Answer::Done), None);
    assert_eq!(response_call(&contracts, RequestId::default(), &Answer::Retracted), None);
}

// --- Errors --------------------------------------------------------------------------------------------------------

#[test]
fn every_error_of_the_vectors_has_its_name_its_class_and_its_arguments() {
    let file = vectors("vectors/errors.json");
    let mut classes = BTreeSet::new();
    for vector in list(&file["errors"]) {
        let name = text(&vector["error"]).split('(').next().expect("an error has a name");
        let data = bytes(&vector["example_revert_data"]);
        assert_eq!(data[..4], bytes(&vector["selector"]), "{name}");
        let revert = Revert::decode(&data);
        assert_eq!(revert.name(), name);
        assert_eq!(revert.class().as_str(), text(&vector["class"]), "{name}");
        classes.insert(revert.class());
        let Revert::Custom(error) = &revert else { panic!("{name} is a custom error") };
        let arguments = vector["example_args"].as_object().expect("an object");
        assert_eq!(error.words.len(), arguments.len(), "{name}");
        let encoded: Vec<u8> = error.words.iter().flat_map(|word| word.0).collect();
        assert_eq!(encoded, data[4..], "{name}");
    }
    let known: BTreeSet<&str> = list(&file["about"]["classes"]).iter().map(text).collect();
    assert_eq!(known, classes.iter().map(|class| class.as_str()).collect());
}

#[test]
fn every_error_of_every_contract_is_known() {
    let folder = format!("{}/abi", env!("CARGO_MANIFEST_DIR"));
    let mut missing = BTreeSet::new();
    for file in std::fs::read_dir(folder).expect("the ABI files are in the repository") {
        let text = std::fs::read_to_string(file.expect("a file").path()).expect("readable");
        let abi: alloy::json_abi::JsonAbi = serde_json::from_str(&text).expect("an ABI");
        for error in abi.errors() {
            let revert = Revert::decode(error.selector().as_slice());
            match revert {
                Revert::Custom(known) if known.signature == error.signature() => {}
                _ => {
                    missing.insert(error.signature());
                }
            }
        }
    }
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn data_that_says_nothing_is_worth_a_few_fresh_attempts() {
    let panic = Panic { code: U256::from(0x11) }.abi_encode();
    let message = ErrorString { reason: "too late".to_owned() }.abi_encode();
    let mut endless = message[..4].to_vec();
    endless.resize(100_000, 0xff);
    let cases = [
        (Vec::new(), "empty", "reverted without data"),
        (panic, "Panic", "Panic(0x11)"),
        (message.clone(), "Error", "Error(\"too late\")"),
        (message[..40].to_vec(), "unknown", "unknown error 0x08c379a0"),
        (endless, "unknown", "unknown error 0x08c379a0"),
        (vec![1], "unknown", "unknown error 0x01"),
        (vec![1, 2, 3, 4], "unknown", "unknown error 0x01020304"),
    ];
    for (data, name, shown) in cases {
        let revert = Revert::decode(&data);
        assert_eq!(revert.name(), name);
        assert_eq!(revert.class(), RevertClass::RetryBrieflyThenPermanent);
        assert!(revert.to_string().starts_with(shown), "{revert}");
        assert!(revert.to_string().len() < 200);
    }
}
