//! The vectors of the contracts and of KMS Core. Every entry is used: event by event, message by message, call by call,
//! error by error. A test names the entries it knows, and fails for one that it does not know or does not find.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Panic, Revert as ErrorString, SolCall, SolError, SolStruct};
use kms_chain::contracts::{ContractsInfo, CtHandleContractPair, Decryption, DelegationAccounts, RequestValidity, b};
use kms_chain::eip712::{self, Domain, Domains, message, message_b};
use kms_chain::event::{
    ActivatedCrs, ActivatedKey, ContractSet, ResponseEvent, context_info_hash, decode_request, decode_response,
};
use kms_chain::release::Release;
use kms_chain::request::{decode_unified_request, decode_user_request};
use kms_chain::response::response_call;
use kms_chain::revert::{Revert, RevertClass, StateCheck, known_errors};
use kms_schemas::identity::{Kind, RequestId};
use kms_schemas::record::{
    Answer, CiphertextMaterial, EpochCrs, EpochKey, HandleEntry, KeyDigest, NewKmsContext, RawLog, RequestBody, Signed,
    UnifiedUserDecryption,
};
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

/// A deployment of a release in which the log's contract has the part that the vector names.
fn deployment(release: Release, entry: &Value, log: &RawLog) -> ContractSet {
    let other = |byte: u8| Some(Address::repeat_byte(byte));
    let mut contracts =
        ContractSet { release, decryption: other(0xe1), kms_generation: other(0xe2), protocol_config: other(0xe3) };
    let contract = Some(log.address);
    match text(&entry["contract"]) {
        "Decryption" => contracts.decryption = contract,
        "KMSGeneration" => contracts.kms_generation = contract,
        "ProtocolConfig" => contracts.protocol_config = contract,
        unknown => panic!("no deployment has {unknown}"),
    }
    contracts
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

fn unified_json(id: RequestId, request: &UnifiedUserDecryption) -> Value {
    let entry = |entry: &HandleEntry| {
        json!({
            "handle": entry.handle,
            "contractAddress": entry.contract.to_checksum(None),
            "ownerAddress": entry.owner.to_checksum(None),
        })
    };
    json!({
        "decryptionId": id.0,
        "handles": request.entries.iter().map(entry).collect::<Vec<_>>(),
        "payload": {
            "userAddress": request.user_address.to_checksum(None),
            "publicKey": hex(&request.public_key),
            "allowedContracts": addresses_json(&request.allowed_contracts),
            "requestValidity": {
                "startTimestamp": uint256(request.start_timestamp),
                "durationSeconds": uint256(request.duration_seconds),
            },
            "extraData": hex(&request.extra_data),
            "signature": hex(&request.signature),
        },
    })
}

fn context_json(id: RequestId, context: &NewKmsContext) -> Value {
    let nodes: Vec<Value> = context
        .nodes
        .iter()
        .map(|node| {
            json!({
                "txSenderAddress": node.tx_sender.to_checksum(None),
                "signerAddress": node.signer.to_checksum(None),
                "ipAddress": node.ip_address,
                "storageUrl": node.storage_url,
                "partyId": node.party_id,
                "mpcIdentity": node.mpc_identity,
                "caCert": hex(&node.ca_cert),
                "storagePrefix": node.storage_prefix,
            })
        })
        .collect();
    let values: Vec<Value> = context
        .pcr_values
        .iter()
        .map(|values| json!({ "pcr0": hex(&values.pcr0), "pcr1": hex(&values.pcr1), "pcr2": hex(&values.pcr2) }))
        .collect();
    json!({
        "contextId": id.0,
        "previousContextId": context.previous_context_id.0,
        "kmsNodeParams": nodes,
        "thresholds": {
            "publicDecryption": uint256(context.thresholds.public_decryption),
            "userDecryption": uint256(context.thresholds.user_decryption),
            "kmsGen": uint256(context.thresholds.kms_gen),
            "mpc": uint256(context.thresholds.mpc),
        },
        "softwareVersion": context.software_version,
        "pcrValues": values,
    })
}

/// How the vectors write a request. In releases from v0.13 on, key management has other arguments.
fn request_json(release: Release, id: RequestId, body: &RequestBody) -> Value {
    let on_host = release.key_management_on_host();
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
        RequestBody::PublicDecryptionHandles { handles, extra_data } => json!({
            "decryptionId": id.0, "ctHandles": handles, "extraData": hex(extra_data),
        }),
        RequestBody::UserDecryptionHandles { handles, user_address, public_key, extra_data } => json!({
            "decryptionId": id.0,
            "ctHandles": handles,
            "userAddress": user_address.to_checksum(None),
            "publicKey": hex(public_key),
            "extraData": hex(extra_data),
        }),
        RequestBody::UnifiedUserDecryption(request) => {
            let mut json = unified_json(id, request);
            if release < Release::V0_15 {
                json["snsCtMaterials"] = materials_json(&request.materials);
            }
            json
        }
        RequestBody::PrepKeygen { epoch_id, params_type, extra_data } if on_host => {
            assert_eq!(*epoch_id, U256::ZERO);
            json!({ "prepKeygenId": id.0, "paramsType": params_type, "extraData": hex(extra_data) })
        }
        RequestBody::PrepKeygen { epoch_id, params_type, extra_data } => {
            assert!(extra_data.is_empty());
            json!({ "prepKeygenId": id.0, "epochId": uint256(*epoch_id), "paramsType": params_type })
        }
        RequestBody::Keygen { prep_keygen_id, extra_data } if on_host => {
            json!({ "prepKeygenId": prep_keygen_id.0, "keyId": id.0, "extraData": hex(extra_data) })
        }
        RequestBody::Keygen { prep_keygen_id, extra_data } => {
            assert!(extra_data.is_empty());
            json!({ "prepKeygenId": prep_keygen_id.0, "keyId": id.0 })
        }
        RequestBody::Crsgen { max_bit_length, params_type, extra_data } => {
            let mut json =
                json!({ "crsId": id.0, "maxBitLength": uint256(*max_bit_length), "paramsType": params_type });
            if on_host {
                json["extraData"] = hex(extra_data);
            } else {
                assert!(extra_data.is_empty());
            }
            json
        }
        RequestBody::AbortKeygen => json!({ "prepKeygenId": id.0 }),
        RequestBody::AbortCrsgen => json!({ "crsId": id.0 }),
        RequestBody::NewKmsContext(context) => context_json(id, context),
        RequestBody::NewKmsEpoch { context_id, previous_context_id, previous_epoch_id, material_block_number } => {
            json!({
                "kmsContextId": context_id.0,
                "epochId": id.0,
                "previousContextId": previous_context_id.0,
                "previousEpochId": previous_epoch_id.0,
                "materialBlockNumber": uint256(*material_block_number),
            })
        }
        RequestBody::KmsContextDestroyed => json!({ "kmsContextId": id.0 }),
        RequestBody::KmsEpochDestroyed => json!({ "epochId": id.0 }),
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
        ResponseEvent::KmsContextCreationConfirmation { id, tx_sender, is_previous, is_new } => json!({
            "kmsContextId": id.0, "txSender": sender(tx_sender), "isPreviousTxSender": is_previous, "isNewTxSender": is_new,
        }),
        ResponseEvent::EpochActivationConfirmation { id, signer, data_hash } => json!({
            "epochId": id.0, "signer": sender(signer), "dataHash": data_hash,
        }),
        ResponseEvent::ActivateEpoch { id, context_id, keys, crs_list, storage_urls } => {
            let key = |key: &ActivatedKey| {
                json!({
                    "prepKeygenId": key.prep_keygen_id.0, "keyId": key.key_id.0,
                    "keyDigests": digests_json(&key.key_digests), "signature": hex(&key.signature),
                })
            };
            let crs = |crs: &ActivatedCrs| {
                json!({
                    "crsId": crs.crs_id.0, "maxBitLength": uint256(crs.max_bit_length),
                    "crsDigest": hex(&crs.crs_digest), "signature": hex(&crs.signature),
                })
            };
            json!({
                "kmsContextId": context_id.0, "epochId": id.0,
                "keys": keys.iter().map(key).collect::<Vec<_>>(),
                "crsList": crs_list.iter().map(crs).collect::<Vec<_>>(),
                "kmsNodeStorageUrls": storage_urls,
            })
        }
    }
}

// --- Events --------------------------------------------------------------------------------------------------------

fn event_name(entry: &Value) -> String {
    let variant = entry["variant"].as_str().unwrap_or("-");
    format!("{} {} {} {variant}", text(&entry["generation"]), text(&entry["contract"]), text(&entry["name"]))
}

/// Every request event of the vectors, with the oldest and the newest release whose contracts are followed by it. A release
/// outside of the two has the event not at all, or beside another one that is followed instead.
const REQUESTS: &[(&str, Release, Release)] = {
    use Release::{V0_11, V0_12, V0_13, V0_14, V0_15};
    &[
        ("a Decryption PublicDecryptionRequest sns_materials", V0_11, V0_14),
        ("a Decryption UserDecryptionRequest sns_materials", V0_11, V0_14),
        ("a KMSGeneration CrsgenRequest -", V0_11, V0_12),
        ("a KMSGeneration KeyReshareSameSet -", V0_11, V0_12),
        ("a KMSGeneration KeygenRequest -", V0_11, V0_12),
        ("a KMSGeneration PRSSInit -", V0_11, V0_12),
        ("a KMSGeneration PrepKeygenRequest -", V0_11, V0_12),
        ("b Decryption PublicDecryptionRequest handles", V0_15, V0_15),
        ("b Decryption PublicDecryptionRequest sns_materials", V0_11, V0_14),
        ("b Decryption UserDecryptionRequest handles", V0_15, V0_15),
        ("b Decryption UserDecryptionRequest sns_materials", V0_11, V0_14),
        ("b Decryption UserDecryptionRequest unified_handles", V0_15, V0_15),
        ("b Decryption UserDecryptionRequest unified_sns_materials", V0_14, V0_14),
        ("b KMSGeneration AbortCrsgen -", V0_13, V0_15),
        ("b KMSGeneration AbortKeygen -", V0_13, V0_15),
        ("b KMSGeneration CrsgenRequest -", V0_13, V0_15),
        ("b KMSGeneration KeygenRequest -", V0_13, V0_15),
        ("b KMSGeneration PrepKeygenRequest -", V0_13, V0_15),
        ("b ProtocolConfig KmsContextDestroyed -", V0_13, V0_15),
        ("b ProtocolConfig KmsEpochDestroyed -", V0_14, V0_15),
        ("b ProtocolConfig NewKmsContext -", V0_14, V0_15),
        ("b ProtocolConfig NewKmsEpoch -", V0_14, V0_15),
    ]
};

/// Every event of the vectors that reports a response, with the oldest release that has it; all later ones do.
const RESPONSES: &[(&str, Release)] = {
    use Release::{V0_11, V0_14};
    &[
        ("a Decryption PublicDecryptionResponse -", V0_11),
        ("a Decryption PublicDecryptionResponseCall -", V0_11),
        ("a Decryption UserDecryptionResponse -", V0_11),
        ("a Decryption UserDecryptionResponseThresholdReached -", V0_11),
        ("a KMSGeneration ActivateCrs -", V0_11),
        ("a KMSGeneration ActivateKey -", V0_11),
        ("a KMSGeneration CrsgenResponse -", V0_11),
        ("a KMSGeneration KeygenResponse -", V0_11),
        ("a KMSGeneration PrepKeygenResponse -", V0_11),
        ("b Decryption PublicDecryptionResponse -", V0_11),
        ("b Decryption PublicDecryptionResponseCall -", V0_11),
        ("b Decryption UserDecryptionResponse -", V0_11),
        ("b Decryption UserDecryptionResponseThresholdReached -", V0_11),
        ("b KMSGeneration ActivateCrs -", V0_11),
        ("b KMSGeneration ActivateKey -", V0_11),
        ("b KMSGeneration CrsgenResponse -", V0_11),
        ("b KMSGeneration KeygenResponse -", V0_11),
        ("b KMSGeneration PrepKeygenResponse -", V0_11),
        ("b ProtocolConfig ActivateEpoch -", V0_14),
        ("b ProtocolConfig EpochActivationConfirmation -", V0_14),
        ("b ProtocolConfig KmsContextCreationConfirmation -", V0_14),
    ]
};

#[test]
fn every_request_event_decodes_to_the_vectors_values_in_the_releases_that_follow_it_and_in_no_other() {
    let file = vectors("vectors/events.json");
    let mut used: BTreeMap<String, usize> = BTreeMap::new();
    for entry in list(&file["events"]) {
        let name = event_name(entry);
        let (_, first, last) = *REQUESTS.iter().find(|(known, ..)| *known == name).expect(&name);
        for example in list(&entry["examples"]) {
            let (log, label) = (raw_log(&example["log"]), &example["label"]);
            for release in Release::ALL {
                let contracts = deployment(release, entry, &log);
                let decoded = decode_request(&contracts, &log).unwrap_or_else(|e| panic!("{name}, {label}: {e}"));
                let followed = (first..=last).contains(&release);
                assert_eq!(decoded.is_some(), followed, "{name}, {label}, {release}");
                assert_eq!(contracts.request_topics().contains(&log.topics[0]), followed, "{name}, {release}");
                assert_eq!(decode_response(&contracts, &log), Ok(None), "{name}");
                let Some(decoded) = decoded else { continue };
                let json = request_json(release, decoded.id, &decoded.body);
                assert_eq!(json, example["decoded"], "{name}, {label}, {release}");
                assert!(contracts.serves(decoded.kind, log.address), "{name}, {release}");
            }
            *used.entry(name.clone()).or_default() += 1;
        }
    }
    let known: Vec<&str> = REQUESTS.iter().map(|(name, ..)| *name).collect();
    assert_eq!(used.keys().collect::<Vec<_>>(), known, "every entry is used, and there is no other");
    assert!(used.values().all(|examples| *examples >= 2), "{used:?}");
}

#[test]
fn every_request_is_followed_by_one_event_only_in_every_release() {
    // Of a request that the contracts of v0.15 tell in two events, one is followed; in every release a decryption is.
    let file = vectors("vectors/events.json");
    for release in Release::ALL {
        let mut followed = BTreeMap::new();
        for entry in list(&file["events"]).iter().filter(|entry| entry["generation"] == "b") {
            if entry["contract"] != "Decryption" {
                continue;
            }
            let log = raw_log(&entry["examples"][0]["log"]);
            let decoded = decode_request(&deployment(release, entry, &log), &log).expect("decodes");
            let unified = entry["variant"].as_str().is_some_and(|variant| variant.starts_with("unified"));
            *followed.entry((text(&entry["name"]), unified)).or_insert(0) += usize::from(decoded.is_some());
        }
        let unified = usize::from(release.unified());
        let expected = BTreeMap::from([
            (("PublicDecryptionRequest", false), 1),
            (("UserDecryptionRequest", false), 1),
            (("UserDecryptionRequest", true), unified),
        ]);
        assert_eq!(followed, expected, "{release}");
    }
}

#[test]
fn every_response_event_decodes_to_the_vectors_values() {
    let file = vectors("vectors/events.json");
    let mut used = BTreeSet::new();
    let mut topics: BTreeMap<Release, BTreeSet<B256>> = BTreeMap::new();
    for entry in list(&file["response_events"]) {
        let name = event_name(entry);
        let (_, first) = *RESPONSES.iter().find(|(known, _)| *known == name).expect(&name);
        for example in list(&entry["examples"]) {
            let (log, label) = (raw_log(&example["log"]), &example["label"]);
            for release in Release::ALL {
                let contracts = deployment(release, entry, &log);
                let decoded = decode_response(&contracts, &log).unwrap_or_else(|e| panic!("{name}, {label}: {e}"));
                assert_eq!(decoded.is_some(), release >= first, "{name}, {label}, {release}");
                assert_eq!(decode_request(&contracts, &log), Ok(None), "{name}");
                let Some(decoded) = decoded else { continue };
                assert_eq!(response_json(&decoded), example["decoded"], "{name}, {label}");
                topics.entry(release).or_default().insert(log.topics[0]);
            }
            used.insert(name.clone());
        }
    }
    let known: Vec<&str> = RESPONSES.iter().map(|(name, _)| *name).collect();
    assert_eq!(used.iter().collect::<Vec<_>>(), known, "every entry is used, and there is no other");
    for release in Release::ALL {
        let contracts = ContractSet::host(release, Address::ZERO, Address::ZERO);
        let contracts = ContractSet { decryption: Some(Address::ZERO), ..contracts };
        assert_eq!(topics[&release], contracts.response_topics().into_iter().collect(), "{release}");
    }
}

#[test]
fn the_context_event_of_v0_13_is_read_as_a_context_that_asks_for_nothing() {
    let file = vectors("vectors/events.json");
    let entries = list(&file["other_release_events"]);
    assert_eq!(entries.iter().map(event_name).collect::<Vec<_>>(), ["b ProtocolConfig NewKmsContext -"]);
    assert_eq!(entries[0]["release"], "v0.13.0");
    for example in list(&entries[0]["examples"]) {
        let log = raw_log(&example["log"]);
        for release in Release::ALL {
            let decoded = decode_request(&deployment(release, &entries[0], &log), &log).expect("decodes");
            assert_eq!(decoded.is_some(), release == Release::V0_13, "{release}");
            let Some(decoded) = decoded else { continue };
            let RequestBody::NewKmsContext(context) = &decoded.body else { panic!("a context") };
            assert_eq!(context.previous_context_id, kms_chain::event::NO_CONTEXT);
            let nodes: Vec<Value> = context
                .nodes
                .iter()
                .map(|node| {
                    json!({
                        "txSenderAddress": node.tx_sender.to_checksum(None),
                        "signerAddress": node.signer.to_checksum(None),
                        "ipAddress": node.ip_address,
                        "storageUrl": node.storage_url,
                    })
                })
                .collect();
            let found = json!({
                "kmsContextId": decoded.id.0,
                "kmsNodes": nodes,
                "thresholds": context_json(decoded.id, context)["thresholds"],
            });
            assert_eq!(found, example["decoded"]);
        }
    }
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

/// The digest as the connector's own functions compute it, from plain arguments. `name` is the vector's.
fn own_digest(name: &str, domain: &Domain, m: &Value) -> Option<B256> {
    let digests = |m: &Value| key_digests(&m["keyDigests"], |key_type, digest| KeyDigest { key_type, digest });
    let extra = |m: &Value| bytes(&m["extraData"]);
    let epoch = |m: &Value| {
        let extra = extra(m);
        assert_eq!((extra.len(), extra[0]), (65, 2));
        (RequestId(B256::from_slice(&extra[1..33])), RequestId(B256::from_slice(&extra[33..])))
    };
    Some(match name {
        "public_decryption_response/empty_extra_data"
        | "public_decryption_response/extra_data_v1"
        | "public_decryption_response/extra_data_v2" => {
            domain.public_decryption(&words(&m["ctHandles"]), &bytes(&m["decryptedResult"]), &extra(m))
        }
        "user_decryption_response/empty_extra_data" | "user_decryption_response/extra_data_v2" => domain
            .user_decryption(
                &bytes(&m["publicKey"]),
                &words(&m["ctHandles"]),
                &bytes(&m["userDecryptedShare"]),
                &extra(m),
            ),
        "unified_user_decryption_request" | "unified_user_decryption_request/permissive" => {
            let request = UnifiedUserDecryption {
                materials: Vec::new(),
                entries: Vec::new(),
                user_address: address(&m["userAddress"]),
                public_key: bytes(&m["publicKey"]),
                allowed_contracts: addresses(&m["allowedContracts"]),
                start_timestamp: number(&m["startTimestamp"]),
                duration_seconds: number(&m["durationSeconds"]),
                extra_data: extra(m),
                signature: Bytes::new(),
            };
            // The connector has the Gateway's domain, and puts the host chain's id into it.
            domain.with_chain_id(1).unified_user_request(domain.chain_id(), &request)
        }
        "prep_keygen_response" => domain.prep_keygen(id(&m["prepKeygenId"])),
        "prep_keygen_response/host" => domain.prep_keygen_with(id(&m["prepKeygenId"]), &extra(m)),
        "keygen_response" => domain.keygen(id(&m["prepKeygenId"]), id(&m["keyId"]), &digests(m)),
        "keygen_response/host" => domain.keygen_with(id(&m["prepKeygenId"]), id(&m["keyId"]), &digests(m), &extra(m)),
        "keygen_epoch_activation" => domain.epoch_key(epoch(m), id(&m["prepKeygenId"]), id(&m["keyId"]), &digests(m)),
        "crsgen_response" => domain.crsgen(id(&m["crsId"]), number(&m["maxBitLength"]), &bytes(&m["crsDigest"])),
        "crsgen_response/host" => {
            domain.crsgen_with(id(&m["crsId"]), number(&m["maxBitLength"]), &bytes(&m["crsDigest"]), &extra(m))
        }
        "crsgen_epoch_activation" => {
            domain.epoch_crs(epoch(m), id(&m["crsId"]), number(&m["maxBitLength"]), &bytes(&m["crsDigest"]))
        }
        _ => return None,
    })
}

#[test]
fn every_typed_message_of_the_contracts_hashes_and_recovers_as_the_vectors_say() {
    let file = vectors("vectors/eip712.json");
    let mut only_checked_on_chain = Vec::new();
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
        match own_digest(name, &domain, &vector["message"]) {
            Some(computed) => assert_eq!(computed, digest, "{name}"),
            None => only_checked_on_chain.push(name),
        }

        let (signature, signer) = (bytes(&vector["signature"]), address(&vector["signer_address"]));
        assert_eq!(eip712::recover(digest, &signature), Ok(signer), "{name}");
        let key: PrivateKeySigner = text(&vector["private_key"]).parse().expect("a private key");
        assert_eq!(eip712::sign(&key, digest).expect("a key in memory signs"), signature, "{name}");
    }
    // Legacy requests of users, whose signature the contract checks itself: their types are held to the vectors above.
    assert_eq!(only_checked_on_chain, ["user_decryption_request", "delegated_user_decryption_request"]);
}

#[test]
fn every_other_hash_of_the_contracts_is_recomputed() {
    let file = vectors("vectors/eip712.json");
    let other = file["other"].as_object().expect("an object");
    for (name, vector) in other {
        match name.as_str() {
            "context_info_hash" => context_info_hashes(list(vector)),
            "epoch_activation_data_hash" => epoch_activation_data_hash(vector),
            "ciphertext_attestation" => ciphertext_attestation(vector),
            unknown => panic!("{unknown} is not used"),
        }
    }
    assert_eq!(other.len(), 3);
}

fn context_info_hashes(hashes: &[Value]) {
    let events = vectors("vectors/events.json");
    let entry = list(&events["events"]).iter().find(|entry| entry["name"] == "NewKmsContext").expect("the event");
    assert_eq!(hashes.len(), list(&entry["examples"]).len());
    for vector in hashes {
        let example = list(&entry["examples"]).iter().find(|example| example["label"] == vector["label"]);
        let log = raw_log(&example.expect("the event with the label")["log"]);
        assert_eq!(context_info_hash(&log), word(&vector["hash"]), "{}", vector["label"]);
    }
}

fn epoch_keys(value: &Value) -> Vec<EpochKey> {
    let key = |key: &Value| EpochKey {
        prep_keygen_id: id(&key["prepKeygenId"]),
        key_id: id(&key["keyId"]),
        key_digests: key_digests(&key["keyDigests"], |key_type, digest| KeyDigest { key_type, digest }),
        signature: maybe_signed(key),
    };
    list(value).iter().map(key).collect()
}

fn epoch_crs_list(value: &Value) -> Vec<EpochCrs> {
    let crs = |crs: &Value| EpochCrs {
        crs_id: id(&crs["crsId"]),
        max_bit_length: number(&crs["maxBitLength"]),
        crs_digest: bytes(&crs["crsDigest"]),
        signature: maybe_signed(crs),
    };
    list(value).iter().map(crs).collect()
}

fn epoch_activation_data_hash(vector: &Value) {
    let (keys, crs_list) = (epoch_keys(&vector["keys"]), epoch_crs_list(&vector["crsList"]));
    assert_eq!(eip712::epoch_data_hash(&keys, &crs_list), word(&vector["data_hash"]));
    // The hash that the event reports is the one of the call with the same values.
    let events = vectors("vectors/events.json");
    let event = list(&events["response_events"]).iter().find(|entry| entry["name"] == "EpochActivationConfirmation");
    assert_eq!(event.expect("the event")["examples"][0]["decoded"]["dataHash"], vector["data_hash"]);
}

/// The layout of the signed bytes is held here; reading headers and counting attestations is the processor's.
fn ciphertext_attestation(vector: &Value) {
    let fields = &vector["fields"];
    let mut canonical = b"FHEVMCTA".to_vec();
    canonical.push(number(&fields["version"]).to());
    for field in ["handle", "key_id", "coprocessor_context_id", "ciphertext_digest", "sns_ciphertext_digest"] {
        canonical.extend(word(&fields[field]));
    }
    canonical.push(number(&fields["format_byte"]).to());
    assert_eq!(canonical, bytes(&vector["canonical_bytes"]));
    let digest = keccak256(&canonical);
    assert_eq!(digest, word(&vector["digest"]));
    let signer = address(&vector["signer_address"]);
    assert_eq!(eip712::verify(digest, &bytes(&vector["signature"]), signer), Ok(()));
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

/// Every function of the vectors, with the number of its calls there.
const CALLS: &[(&str, usize)] = &[
    ("confirmEpochActivation", 1),
    ("confirmKmsContextCreation", 1),
    ("crsgenResponse", 2),
    ("delegatedUserDecryptionRequest", 1),
    ("keygenResponse", 2),
    ("prepKeygenResponse", 2),
    ("publicDecryptionRequest", 1),
    ("publicDecryptionResponse", 2),
    ("unified userDecryptionRequest", 1),
    ("userDecryptionRequest", 1),
    ("userDecryptionResponse", 1),
];

const DECRYPTION: Address = Address::repeat_byte(1);
const GENERATION: Address = Address::repeat_byte(2);
const PROTOCOL: Address = Address::repeat_byte(3);

fn maybe_signed(args: &Value) -> Signed {
    let signature = if args.get("signature").is_some() { bytes(&args["signature"]) } else { Bytes::new() };
    Signed { signature, digest: B256::ZERO, signer: Address::ZERO }
}

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
    let contracts =
        ContractSet { decryption: Some(DECRYPTION), ..ContractSet::host(Release::V0_15, GENERATION, PROTOCOL) };
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
        "prepKeygenResponse" => {
            (id(&args["prepKeygenId"]), Answer::PrepKeygen { extra_data: Bytes::new(), signature: signed(args) })
        }
        "keygenResponse" => (
            id(&args["keyId"]),
            Answer::Keygen {
                prep_keygen_id: RequestId::default(),
                key_digests: key_digests(&args["keyDigests"], |key_type, digest| KeyDigest { key_type, digest }),
                extra_data: Bytes::new(),
                signature: signed(args),
            },
        ),
        "crsgenResponse" => (
            id(&args["crsId"]),
            Answer::Crsgen {
                max_bit_length: U256::ZERO,
                crs_digest: bytes(&args["crsDigest"]),
                extra_data: Bytes::new(),
                signature: signed(args),
            },
        ),
        "confirmKmsContextCreation" => (id(&args["kmsContextId"]), Answer::KmsContextCreated),
        "confirmEpochActivation" => (
            id(&args["epochId"]),
            Answer::EpochActivation {
                context_id: RequestId::default(),
                keys: epoch_keys(&args["keys"]),
                crs_list: epoch_crs_list(&args["crsList"]),
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
        "unified userDecryptionRequest" => {
            let entry = |entry: &Value| b::HandleEntry {
                handle: word(&entry["handle"]),
                contractAddress: address(&entry["contractAddress"]),
                ownerAddress: address(&entry["ownerAddress"]),
            };
            let validity = &args["requestValidity"];
            let call = b::DecryptionUnified::userDecryptionRequestCall {
                handles: list(&args["handles"]).iter().map(entry).collect(),
                userAddress: address(&args["userAddress"]),
                publicKey: bytes(key),
                allowedContracts: addresses(&args["allowedContracts"]),
                requestValidity: b::RequestValiditySeconds {
                    startTimestamp: number(&validity["startTimestamp"]),
                    durationSeconds: number(&validity["durationSeconds"]),
                },
                signature: bytes(signature),
                extraData: bytes(extra),
            };
            let decoded = decode_unified_request(&call.abi_encode()).expect("a request decodes");
            let payload = &unified_json(RequestId::default(), &decoded)["payload"];
            for field in ["userAddress", "publicKey", "allowedContracts", "requestValidity", "extraData", "signature"] {
                assert_eq!(payload[field], args[field], "{field}");
            }
            assert_eq!(unified_json(RequestId::default(), &decoded)["handles"], args["handles"]);
            assert!(decode_user_request(&call.abi_encode()).is_err(), "it is no legacy request");
            Some(call.abi_encode())
        }
        _ => None,
    }
}

#[test]
fn every_call_encodes_to_the_vectors_bytes() {
    let file = vectors("vectors/calls.json");
    let mut used: BTreeMap<&str, usize> = BTreeMap::new();
    for vector in list(&file["calls"]) {
        let mut function = text(&vector["function"]).split('(').next().expect("a function has a name");
        let args = &vector["args"];
        if args.get("allowedContracts").is_some() {
            function = "unified userDecryptionRequest";
        }
        let expected = bytes(&vector["calldata"]);
        let calldata = match encode_answer(function, args) {
            Some((to, calldata)) => {
                let contract = match text(&vector["to"]) {
                    "Decryption" => DECRYPTION,
                    "KMSGeneration" => GENERATION,
                    _ => PROTOCOL,
                };
                assert_eq!(to, contract, "{function}");
                calldata
            }
            None => encode_request(function, args).unwrap_or_else(|| panic!("{function} is not used")).into(),
        };
        assert_eq!(calldata, expected, "{function} {}", vector["label"]);
        assert_eq!(calldata[..4], bytes(&vector["selector"]), "{function}");
        *used.entry(function).or_default() += 1;
    }
    assert_eq!(used.into_iter().collect::<Vec<_>>(), CALLS, "every entry is used, and there is no other");
}

#[test]
fn answers_that_the_protocol_does_not_know_on_chain_have_no_call() {
    let contracts =
        ContractSet { decryption: Some(DECRYPTION), ..ContractSet::host(Release::V0_15, GENERATION, PROTOCOL) };
    for answer in [Answer::Done, Answer::Aborted, Answer::Retracted] {
        assert_eq!(response_call(&contracts, RequestId::default(), &answer), None);
    }
    // Contexts are confirmed from v0.14 on only.
    let answer = Answer::KmsContextCreated;
    assert!(response_call(&contracts, RequestId::default(), &answer).is_some());
    assert_eq!(response_call(&contracts.with_release(Release::V0_13), RequestId::default(), &answer), None);
}

#[test]
fn an_answer_for_another_chain_has_no_call_on_this_one() {
    let gateway = ContractSet::gateway(Release::V0_15, DECRYPTION);
    assert_eq!(response_call(&gateway, RequestId::default(), &Answer::KmsContextCreated), None);
    let signature = maybe_signed(&json!({}));
    let answer = Answer::PrepKeygen { extra_data: Bytes::new(), signature };
    assert_eq!(response_call(&gateway, RequestId::default(), &answer), None);
    assert!(Domains::new(7, &gateway).signed(RequestId::default(), &answer).is_err());
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
    // Every error that the connector classifies is in the vectors; all others are worth a few attempts only.
    let named: BTreeSet<&str> =
        list(&file["errors"]).iter().filter_map(|vector| text(&vector["error"]).split('(').next()).collect();
    let classified = known_errors().filter(|(_, class)| *class != RevertClass::RetryBrieflyThenPermanent);
    for (signature, _) in classified {
        let name = signature.split('(').next().expect("an error has a name");
        assert!(named.contains(name), "{signature} is in no vector");
    }
}

#[test]
fn an_error_that_asks_for_the_state_names_the_view_and_whose_state_it_is() {
    let file = vectors("vectors/errors.json");
    let mut checked = BTreeSet::new();
    for vector in list(&file["errors"]) {
        let revert = Revert::decode(&bytes(&vector["example_revert_data"]));
        let check = revert.state_check();
        assert_eq!(check.is_some(), revert.class() == RevertClass::CheckState, "{revert}");
        let Some(check) = check else { continue };
        let args = vector["example_args"].as_object().expect("an object");
        let subject = id(args.values().next().expect("one argument"));
        assert!(
            matches!(check, StateCheck::LiveContext(id) | StateCheck::ValidEpoch(id) if id == subject),
            "{check:?}"
        );
        checked.insert(check.view());
    }
    assert_eq!(Vec::from_iter(checked), ["isLiveKmsContext(uint256)", "isValidEpochForContext(uint256,uint256)"]);
    // Data that is cut off names nobody.
    let cut = Revert::decode(&[0x35, 0x86, 0xef, 0xa1, 1]);
    assert_eq!((cut.class(), cut.state_check()), (RevertClass::CheckState, None));
}

#[test]
fn a_wrong_signer_of_key_management_is_final_on_v0_13_which_has_one_error_for_every_cause() {
    let file = vectors("vectors/errors.json");
    for vector in list(&file["errors"]) {
        let revert = Revert::decode(&bytes(&vector["example_revert_data"]));
        for release in Release::ALL {
            for kind in Kind::ALL {
                let key_management = !matches!(kind, Kind::PublicDecryption | Kind::UserDecryption);
                let special =
                    release == Release::V0_13 && key_management && revert.name() == "KmsSignerDoesNotMatchTxSender";
                let expected = if special { RevertClass::Permanent } else { revert.class() };
                assert_eq!(revert.class_in(release, kind), expected, "{revert}, {release}, {kind}");
            }
        }
    }
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
