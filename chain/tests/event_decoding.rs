//! Whatever bytes a log has, decoding says what it is, or what is wrong with it; it never panics, and never takes more
//! memory than the log.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolEvent;
use kms_chain::contracts::{Decryption, KMSGeneration, KeyDigest, SnsCiphertextMaterial, b};
use kms_chain::event::{ContractSet, Problem, ResponseEvent, decode_request, decode_response};
use kms_chain::release::Release;
use kms_schemas::identity::Kind;
use kms_schemas::record::{RawLog, RequestBody};
use proptest::collection::vec;
use proptest::prelude::*;

const DECRYPTION: Address = Address::repeat_byte(0xd1);
const GENERATION: Address = Address::repeat_byte(0xd2);
const PROTOCOL: Address = Address::repeat_byte(0xd3);
const CONTRACTS: ContractSet = ContractSet::gateway_a(DECRYPTION, GENERATION);

/// Every release, with all contracts at once.
fn deployments() -> impl Iterator<Item = ContractSet> {
    Release::ALL.into_iter().map(|release| ContractSet {
        release,
        decryption: Some(DECRYPTION),
        kms_generation: Some(GENERATION),
        protocol_config: Some(PROTOCOL),
    })
}

fn log_of<E: SolEvent>(address: Address, event: &E) -> RawLog {
    let encoded = event.encode_log_data();
    RawLog { address, topics: encoded.topics().to_vec(), data: encoded.data }
}

fn materials() -> impl Strategy<Value = Vec<SnsCiphertextMaterial>> {
    let material = (any::<[u8; 32]>(), any::<[u8; 32]>(), any::<[u8; 32]>(), vec(any::<[u8; 20]>(), 0..4));
    vec(material, 0..5).prop_map(|materials| {
        let material =
            |(handle, key, digest, senders): ([u8; 32], [u8; 32], [u8; 32], Vec<[u8; 20]>)| SnsCiphertextMaterial {
                ctHandle: handle.into(),
                keyId: U256::from_be_bytes(key),
                snsCiphertextDigest: digest.into(),
                coprocessorTxSenderAddresses: senders.into_iter().map(Address::from).collect(),
            };
        materials.into_iter().map(material).collect()
    })
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..100).prop_map(Bytes::from)
}

fn user_request() -> impl Strategy<Value = Decryption::UserDecryptionRequest> {
    (any::<[u8; 32]>(), materials(), any::<[u8; 20]>(), bytes(), bytes()).prop_map(
        |(id, materials, user, key, extra)| Decryption::UserDecryptionRequest {
            decryptionId: U256::from_be_bytes(id),
            snsCtMaterials: materials,
            userAddress: user.into(),
            publicKey: key,
            extraData: extra,
        },
    )
}

/// Encodes a decoded user decryption request again.
fn encode_again(id: B256, body: &RequestBody) -> Bytes {
    let RequestBody::UserDecryption { materials, user_address, public_key, extra_data } = body else {
        panic!("a user decryption")
    };
    let event = Decryption::UserDecryptionRequest {
        decryptionId: U256::from_be_bytes(id.0),
        snsCtMaterials: materials
            .iter()
            .map(|material| SnsCiphertextMaterial {
                ctHandle: material.handle,
                keyId: material.key_id.as_u256(),
                snsCiphertextDigest: material.digest,
                coprocessorTxSenderAddresses: material.coprocessors.clone(),
            })
            .collect(),
        userAddress: *user_address,
        publicKey: public_key.clone(),
        extraData: extra_data.clone(),
    };
    event.encode_log_data().data
}

fn unified_request() -> impl Strategy<Value = b::DecryptionUnified::UserDecryptionRequest> {
    let entries = vec((any::<[u8; 32]>(), any::<[u8; 20]>(), any::<[u8; 20]>()), 0..4);
    let validity = (any::<[u8; 32]>(), any::<[u8; 32]>());
    (any::<[u8; 32]>(), entries, any::<[u8; 20]>(), vec(any::<[u8; 20]>(), 0..4), validity, [bytes(), bytes(), bytes()])
        .prop_map(|(id, entries, user, allowed, (start, duration), [key, extra, signature])| {
            let entry = |(handle, contract, owner): ([u8; 32], [u8; 20], [u8; 20])| b::HandleEntry {
                handle: handle.into(),
                contractAddress: contract.into(),
                ownerAddress: owner.into(),
            };
            b::DecryptionUnified::UserDecryptionRequest {
                decryptionId: U256::from_be_bytes(id),
                handles: entries.into_iter().map(entry).collect(),
                payload: b::UserDecryptionRequestPayload {
                    userAddress: user.into(),
                    publicKey: key,
                    allowedContracts: allowed.into_iter().map(Address::from).collect(),
                    requestValidity: b::RequestValiditySeconds {
                        startTimestamp: U256::from_be_bytes(start),
                        durationSeconds: U256::from_be_bytes(duration),
                    },
                    extraData: extra,
                    signature,
                },
            }
        })
}

/// Encodes a decoded unified request again.
fn unified_again(id: B256, body: &RequestBody) -> Bytes {
    let RequestBody::UnifiedUserDecryption(request) = body else { panic!("a unified user decryption") };
    let event = b::DecryptionUnified::UserDecryptionRequest {
        decryptionId: U256::from_be_bytes(id.0),
        handles: request
            .entries
            .iter()
            .map(|entry| b::HandleEntry {
                handle: entry.handle,
                contractAddress: entry.contract,
                ownerAddress: entry.owner,
            })
            .collect(),
        payload: b::UserDecryptionRequestPayload {
            userAddress: request.user_address,
            publicKey: request.public_key.clone(),
            allowedContracts: request.allowed_contracts.clone(),
            requestValidity: b::RequestValiditySeconds {
                startTimestamp: request.start_timestamp,
                durationSeconds: request.duration_seconds,
            },
            extraData: request.extra_data.clone(),
            signature: request.signature.clone(),
        },
    };
    event.encode_log_data().data
}

fn new_context() -> impl Strategy<Value = b::ProtocolConfig::NewKmsContext> {
    let text = "\\PC{0,40}";
    let node = (any::<[u8; 20]>(), any::<i32>(), bytes(), [text, text, text, text]).prop_map(
        |(account, party, cert, [ip, url, identity, prefix])| b::KmsNodeParams {
            txSenderAddress: account.into(),
            signerAddress: account.into(),
            ipAddress: ip,
            storageUrl: url,
            partyId: party,
            mpcIdentity: identity,
            caCert: cert,
            storagePrefix: prefix,
        },
    );
    let values = [bytes(), bytes(), bytes()].prop_map(|[pcr0, pcr1, pcr2]| b::PcrValues { pcr0, pcr1, pcr2 });
    (any::<[u8; 32]>(), vec(node, 0..4), any::<[u8; 32]>(), text, vec(values, 0..3)).prop_map(
        |(id, nodes, threshold, version, values)| b::ProtocolConfig::NewKmsContext {
            contextId: U256::from_be_bytes(id),
            previousContextId: U256::from(7),
            kmsNodeParams: nodes,
            thresholds: b::KmsThresholds {
                publicDecryption: U256::from_be_bytes(threshold),
                userDecryption: U256::from(2),
                kmsGen: U256::from(3),
                mpc: U256::MAX,
            },
            softwareVersion: version,
            pcrValues: values,
        },
    )
}

/// Encodes a decoded context again.
fn context_again(id: B256, body: &RequestBody) -> Bytes {
    let RequestBody::NewKmsContext(context) = body else { panic!("a context") };
    let event = b::ProtocolConfig::NewKmsContext {
        contextId: U256::from_be_bytes(id.0),
        previousContextId: context.previous_context_id.as_u256(),
        kmsNodeParams: context
            .nodes
            .iter()
            .map(|node| b::KmsNodeParams {
                txSenderAddress: node.tx_sender,
                signerAddress: node.signer,
                ipAddress: node.ip_address.clone(),
                storageUrl: node.storage_url.clone(),
                partyId: node.party_id,
                mpcIdentity: node.mpc_identity.clone(),
                caCert: node.ca_cert.clone(),
                storagePrefix: node.storage_prefix.clone(),
            })
            .collect(),
        thresholds: b::KmsThresholds {
            publicDecryption: context.thresholds.public_decryption,
            userDecryption: context.thresholds.user_decryption,
            kmsGen: context.thresholds.kms_gen,
            mpc: context.thresholds.mpc,
        },
        softwareVersion: context.software_version.clone(),
        pcrValues: context
            .pcr_values
            .iter()
            .map(|values| b::PcrValues {
                pcr0: values.pcr0.clone(),
                pcr1: values.pcr1.clone(),
                pcr2: values.pcr2.clone(),
            })
            .collect(),
    };
    event.encode_log_data().data
}

proptest! {
    #[test]
    fn what_the_contract_writes_decodes_to_what_was_meant(event in user_request()) {
        let log = log_of(DECRYPTION, &event);
        let decoded = decode_request(&CONTRACTS, &log).expect("canonical").expect("selected");
        prop_assert_eq!(decoded.id.as_u256(), event.decryptionId);
        prop_assert_eq!(encode_again(decoded.id.0, &decoded.body), log.data);
    }

    #[test]
    fn one_changed_byte_is_an_error_or_another_canonical_value(event in user_request(), at in any::<prop::sample::Index>(), change in 1..=255_u8) {
        let mut log = log_of(DECRYPTION, &event);
        let mut data = log.data.to_vec();
        let at = at.index(data.len());
        data[at] ^= change;
        log.data = data.into();
        if let Ok(decoded) = decode_request(&CONTRACTS, &log) {
            let decoded = decoded.expect("selected");
            prop_assert_eq!(encode_again(decoded.id.0, &decoded.body), log.data);
        }
    }

    #[test]
    fn arbitrary_data_never_panics(data in vec(any::<u8>(), 0..600), topic in any::<prop::sample::Index>(), topics in 1..4_usize) {
        for contracts in deployments() {
            let known: Vec<B256> =
                contracts.request_topics().into_iter().chain(contracts.response_topics()).collect();
            let topics = vec![known[topic.index(known.len())]; topics];
            for address in contracts.addresses() {
                let log = RawLog { address, topics: topics.clone(), data: data.clone().into() };
                let _ = decode_request(&contracts, &log);
                let _ = decode_response(&contracts, &log);
            }
        }
    }

    #[test]
    fn a_unified_request_decodes_to_what_was_meant_and_a_changed_byte_to_nothing_else(
        event in unified_request(), at in any::<prop::sample::Index>(), change in 1..=255_u8,
    ) {
        let contracts = ContractSet::gateway(Release::V0_15, DECRYPTION);
        let mut log = log_of(DECRYPTION, &event);
        let decoded = decode_request(&contracts, &log).expect("canonical").expect("selected");
        prop_assert_eq!(unified_again(decoded.id.0, &decoded.body), log.data.clone());
        let mut data = log.data.to_vec();
        let at = at.index(data.len());
        data[at] ^= change;
        log.data = data.into();
        if let Ok(decoded) = decode_request(&contracts, &log) {
            let decoded = decoded.expect("selected");
            prop_assert_eq!(unified_again(decoded.id.0, &decoded.body), log.data);
        }
    }

    #[test]
    fn a_new_context_decodes_to_what_was_meant_and_a_changed_byte_to_nothing_else(
        event in new_context(), at in any::<prop::sample::Index>(), change in 1..=255_u8,
    ) {
        let contracts = ContractSet::host(Release::V0_14, GENERATION, PROTOCOL);
        let mut log = log_of(PROTOCOL, &event);
        let decoded = decode_request(&contracts, &log).expect("canonical").expect("selected");
        prop_assert_eq!(context_again(decoded.id.0, &decoded.body), log.data.clone());
        let mut data = log.data.to_vec();
        let at = at.index(data.len());
        data[at] ^= change;
        log.data = data.into();
        if let Ok(decoded) = decode_request(&contracts, &log) {
            let decoded = decoded.expect("selected");
            prop_assert_eq!(context_again(decoded.id.0, &decoded.body), log.data);
        }
    }

    #[test]
    fn a_response_with_arrays_of_dynamic_parts_decodes_to_what_was_meant(
        digests in vec((any::<u8>(), bytes()), 0..4),
        urls in vec("\\PC{0,40}", 0..4),
        signatures in vec(bytes(), 0..4),
    ) {
        let key_digests: Vec<KeyDigest> =
            digests.iter().map(|(key_type, digest)| KeyDigest { keyType: *key_type, digest: digest.clone() }).collect();
        let event = KMSGeneration::ActivateKey {
            keyId: U256::from(7),
            kmsNodeStorageUrls: urls.clone(),
            keyDigests: key_digests,
        };
        let decoded = decode_response(&CONTRACTS, &log_of(GENERATION, &event));
        let Ok(Some(ResponseEvent::ActivateKey { storage_urls, key_digests, .. })) = decoded else {
            panic!("{decoded:?}")
        };
        prop_assert_eq!(storage_urls, urls);
        prop_assert_eq!(key_digests.into_iter().map(|d| (d.key_type, d.digest)).collect::<Vec<_>>(), digests);

        let event = Decryption::PublicDecryptionResponse {
            decryptionId: U256::from(7),
            decryptedResult: Bytes::new(),
            signatures: signatures.clone(),
            extraData: Bytes::new(),
        };
        let decoded = decode_response(&CONTRACTS, &log_of(DECRYPTION, &event));
        let Ok(Some(ResponseEvent::PublicDecryptionResponse { signatures: found, .. })) = decoded else {
            panic!("{decoded:?}")
        };
        prop_assert_eq!(found, signatures);
    }
}

fn example() -> RawLog {
    let event = Decryption::UserDecryptionRequest {
        decryptionId: U256::from(1),
        snsCtMaterials: vec![SnsCiphertextMaterial {
            ctHandle: B256::repeat_byte(1),
            keyId: U256::from(4),
            snsCiphertextDigest: B256::repeat_byte(2),
            coprocessorTxSenderAddresses: vec![Address::repeat_byte(3)],
        }],
        userAddress: Address::repeat_byte(4),
        publicKey: Bytes::from_static(b"key"),
        extraData: Bytes::from_static(b"x"),
    };
    log_of(DECRYPTION, &event)
}

#[test]
fn every_truncation_is_an_error_that_says_where() {
    let log = example();
    for length in 0..log.data.len() {
        let short = RawLog { data: log.data.slice(..length), ..log.clone() };
        let error = decode_request(&CONTRACTS, &short).expect_err("truncated");
        assert_eq!(error.event, "UserDecryptionRequest");
        assert!(matches!(error.problem, Problem::Short { .. }), "{length}: {error}");
        assert!(error.at <= log.data.len(), "{error}");
    }
}

#[test]
fn trailing_data_is_an_error() {
    let log = example();
    for extra in [1, 31, 32] {
        let data = [&log.data[..], &vec![0; extra]].concat();
        let long = RawLog { data: data.into(), ..log.clone() };
        let error = decode_request(&CONTRACTS, &long).expect_err("trailing data");
        assert_eq!(error.problem, Problem::Trailing { extra });
    }
}

#[test]
fn an_error_names_the_field() {
    let log = example();
    // The first coprocessor's word: after 4 head words, the array's length and offset, 4 head words, and a length.
    let at = (4 + 2 + 4 + 1) * 32;
    let mut data = log.data.to_vec();
    data[at] = 1;
    let dirty = RawLog { data: data.into(), ..log };
    let error = decode_request(&CONTRACTS, &dirty).expect_err("a dirty address");
    assert_eq!(error.field, "snsCtMaterials[0].coprocessorTxSenderAddresses[0]");
    assert_eq!(error.at, at);
    assert!(error.to_string().starts_with("UserDecryptionRequest: snsCtMaterials[0]."), "{error}");
}

#[test]
fn a_wrong_number_of_topics_is_an_error() {
    let log = example();
    for topics in [vec![log.topics[0]], vec![log.topics[0]; 3]] {
        let found = topics.len();
        let error = decode_request(&CONTRACTS, &RawLog { topics, ..log.clone() }).expect_err("topics");
        assert_eq!(error.problem, Problem::Topics { expected: 2, found });
    }
}

#[test]
fn an_unknown_parameter_set_is_an_error() {
    let event = KMSGeneration::PrepKeygenRequest { prepKeygenId: U256::from(3), epochId: U256::ZERO, paramsType: 2 };
    let error = decode_request(&CONTRACTS, &log_of(GENERATION, &event)).expect_err("out of range");
    assert_eq!(error.field, "paramsType");
}

#[test]
fn arrays_that_share_one_long_array_are_refused_before_anything_is_allocated() {
    // Many array heads that all point at the same place decode to far more than the data in a lenient decoder.
    const ELEMENTS: usize = 2_000;
    const SHARED: usize = 10_000;
    let mut words = vec![U256::from(64), U256::ZERO, U256::from(ELEMENTS)];
    words.extend(std::iter::repeat_n(U256::from(ELEMENTS * 32), ELEMENTS));
    words.extend([U256::ZERO, U256::ZERO, U256::ZERO, U256::from(128), U256::from(SHARED)]);
    words.extend(std::iter::repeat_n(U256::ZERO, SHARED));
    let data: Vec<u8> = words.iter().flat_map(U256::to_be_bytes::<32>).collect();
    let topics = vec![Decryption::PublicDecryptionRequest::SIGNATURE_HASH, B256::ZERO];
    let log = RawLog { address: DECRYPTION, topics, data: data.into() };
    let error = decode_request(&CONTRACTS, &log).expect_err("shared arrays");
    assert_eq!(error.field, "snsCtMaterials[1]");
    assert!(matches!(error.problem, Problem::Offset { .. }), "{error}");
}

#[test]
fn a_huge_length_is_refused() {
    for length in [U256::MAX, U256::from(u64::MAX), U256::from(1_u64 << 40)] {
        let words = [U256::from(64), U256::ZERO, length];
        let data: Vec<u8> = words.iter().flat_map(U256::to_be_bytes::<32>).collect();
        let topics = vec![Decryption::PublicDecryptionRequest::SIGNATURE_HASH, B256::ZERO];
        let log = RawLog { address: DECRYPTION, topics, data: data.into() };
        let error = decode_request(&CONTRACTS, &log).expect_err("a huge array");
        assert!(matches!(error.problem, Problem::Short { .. }), "{error}");
    }
}

#[test]
fn a_log_is_selected_by_contract_and_topic_together() {
    let log = example();
    for other in [
        RawLog { address: GENERATION, ..log.clone() },
        RawLog { address: Address::ZERO, ..log.clone() },
        RawLog { topics: Vec::new(), ..log.clone() },
        RawLog { topics: vec![B256::ZERO, log.topics[1]], ..log.clone() },
    ] {
        assert_eq!(decode_request(&CONTRACTS, &other), Ok(None));
        assert_eq!(decode_response(&CONTRACTS, &other), Ok(None));
    }
}

#[test]
fn every_kind_is_asked_by_one_contract_of_the_release_and_by_no_other() {
    for contracts in deployments() {
        for kind in Kind::ALL {
            let contract = contracts.contract_of(kind);
            let serving: Vec<Address> =
                contracts.addresses().into_iter().filter(|address| contracts.serves(kind, *address)).collect();
            assert_eq!(serving, Vec::from_iter(contract), "{} {kind}", contracts.release);
        }
    }
    let kinds = |contracts: ContractSet| -> Vec<&str> {
        Kind::ALL.iter().filter(|kind| contracts.contract_of(**kind).is_some()).map(|kind| kind.as_str()).collect()
    };
    let decryptions = ["public_decryption", "user_decryption"];
    assert_eq!(kinds(ContractSet::gateway(Release::V0_15, DECRYPTION)), decryptions);
    let on_gateway = ["prep_keygen", "keygen", "crsgen", "prss_init", "key_reshare_same_set"];
    assert_eq!(kinds(CONTRACTS), [&decryptions[..], &on_gateway].concat());
    assert_eq!(kinds(CONTRACTS.with_release(Release::V0_12)), kinds(CONTRACTS));
    let on_host = ["prep_keygen", "keygen", "crsgen", "abort_keygen", "abort_crsgen", "new_kms_context"];
    let host = ContractSet::host(Release::V0_13, GENERATION, PROTOCOL);
    assert_eq!(kinds(host), [&on_host[..], &["kms_context_destroyed"]].concat());
    let ends = ["new_kms_epoch", "kms_context_destroyed", "kms_epoch_destroyed"];
    for release in [Release::V0_14, Release::V0_15] {
        assert_eq!(kinds(host.with_release(release)), [&on_host[..], &ends].concat());
    }
}

#[test]
fn an_indexed_address_and_a_boolean_are_read_strictly() {
    let contracts = ContractSet::host(Release::V0_15, GENERATION, PROTOCOL);
    let event = b::ProtocolConfig::KmsContextCreationConfirmation {
        kmsContextId: U256::from(7),
        txSender: Address::repeat_byte(1),
        isPreviousTxSender: false,
        isNewTxSender: true,
    };
    let log = log_of(PROTOCOL, &event);
    assert!(decode_response(&contracts, &log).is_ok_and(|decoded| decoded.is_some()));
    let mut dirty = log.clone();
    dirty.topics[2] = B256::repeat_byte(1);
    assert_eq!(decode_response(&contracts, &dirty).expect_err("no address").field, "txSender");
    let mut data = log.data.to_vec();
    data[31] = 2;
    let error = decode_response(&contracts, &RawLog { data: data.into(), ..log }).expect_err("no boolean");
    assert_eq!(error.field, "isPreviousTxSender");
}

#[test]
fn an_error_inside_a_struct_names_its_path() {
    let contracts = ContractSet::gateway(Release::V0_15, DECRYPTION);
    let event = b::DecryptionUnified::UserDecryptionRequest {
        decryptionId: U256::from(1),
        handles: Vec::new(),
        payload: b::UserDecryptionRequestPayload {
            userAddress: Address::repeat_byte(1),
            publicKey: Bytes::new(),
            allowedContracts: vec![Address::repeat_byte(2)],
            requestValidity: b::RequestValiditySeconds { startTimestamp: U256::ZERO, durationSeconds: U256::ZERO },
            extraData: Bytes::new(),
            signature: Bytes::new(),
        },
    };
    let log = log_of(DECRYPTION, &event);
    // Two head words, the length of the handles, seven head words of the payload, two empty lengths before the address.
    let at = (2 + 1 + 7 + 1 + 1) * 32;
    let mut data = log.data.to_vec();
    data[at] = 1;
    let error = decode_request(&contracts, &RawLog { data: data.into(), ..log }).expect_err("a dirty address");
    assert_eq!((error.field.as_str(), error.at), ("payload.allowedContracts[0]", at));
}
