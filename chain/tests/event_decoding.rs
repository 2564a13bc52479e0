//! Whatever bytes a log has, decoding says what it is, or what is wrong with it; it never panics, and never takes more
//! memory than the log.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolEvent;
use kms_chain::contracts::{Decryption, KMSGeneration, KeyDigest, SnsCiphertextMaterial};
use kms_chain::event::{ContractSet, Problem, ResponseEvent, decode_request, decode_response};
use kms_schemas::record::{RawLog, RequestBody};
use proptest::collection::vec;
use proptest::prelude::*;

const CONTRACTS: ContractSet =
    ContractSet { decryption: Address::repeat_byte(0xd1), kms_generation: Address::repeat_byte(0xd2) };

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

proptest! {
    #[test]
    fn what_the_contract_writes_decodes_to_what_was_meant(event in user_request()) {
        let log = log_of(CONTRACTS.decryption, &event);
        let decoded = decode_request(&CONTRACTS, &log).expect("canonical").expect("selected");
        prop_assert_eq!(decoded.id.as_u256(), event.decryptionId);
        prop_assert_eq!(encode_again(decoded.id.0, &decoded.body), log.data);
    }

    #[test]
    fn one_changed_byte_is_an_error_or_another_canonical_value(event in user_request(), at in any::<prop::sample::Index>(), change in 1..=255_u8) {
        let mut log = log_of(CONTRACTS.decryption, &event);
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
        let known: Vec<B256> =
            ContractSet::request_topics().into_iter().chain(ContractSet::response_topics()).collect();
        let topics = vec![known[topic.index(known.len())]; topics];
        for address in CONTRACTS.addresses() {
            let log = RawLog { address, topics: topics.clone(), data: data.clone().into() };
            let _ = decode_request(&CONTRACTS, &log);
            let _ = decode_response(&CONTRACTS, &log);
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
        let decoded = decode_response(&CONTRACTS, &log_of(CONTRACTS.kms_generation, &event));
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
        let decoded = decode_response(&CONTRACTS, &log_of(CONTRACTS.decryption, &event));
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
    log_of(CONTRACTS.decryption, &event)
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
    let error = decode_request(&CONTRACTS, &log_of(CONTRACTS.kms_generation, &event)).expect_err("out of range");
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
    let log = RawLog { address: CONTRACTS.decryption, topics, data: data.into() };
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
        let log = RawLog { address: CONTRACTS.decryption, topics, data: data.into() };
        let error = decode_request(&CONTRACTS, &log).expect_err("a huge array");
        assert!(matches!(error.problem, Problem::Short { .. }), "{error}");
    }
}

#[test]
fn a_log_is_selected_by_contract_and_topic_together() {
    let log = example();
    for other in [
        RawLog { address: CONTRACTS.kms_generation, ..log.clone() },
        RawLog { address: Address::ZERO, ..log.clone() },
        RawLog { topics: Vec::new(), ..log.clone() },
        RawLog { topics: vec![B256::ZERO, log.topics[1]], ..log.clone() },
    ] {
        assert_eq!(decode_request(&CONTRACTS, &other), Ok(None));
        assert_eq!(decode_response(&CONTRACTS, &other), Ok(None));
    }
}
