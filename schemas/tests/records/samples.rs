//! One record of every type and variant, each field with a value that no other field has.

use alloy::primitives::{Address, B256, Bytes, U256};
use kms_schemas::identity::{Coordinates, Identity, Kind, RequestId};
use kms_schemas::record::*;

/// A 32-byte word that shows where it belongs.
pub(crate) fn word(n: u8) -> B256 {
    B256::repeat_byte(n)
}

pub(crate) fn id(n: u8) -> RequestId {
    RequestId(word(n))
}

pub(crate) fn address(n: u8) -> Address {
    Address::repeat_byte(n)
}

pub(crate) fn bytes(n: u8, length: usize) -> Bytes {
    vec![n; length].into()
}

pub(crate) fn coordinates(topic: &str, partition: i32, offset: i64) -> Coordinates {
    Coordinates { topic: topic.to_owned(), partition, offset }
}

pub(crate) fn identity(kind: Kind) -> Identity {
    Identity { chain_id: 31_337, contract: address(0x10), kind, id: id(0x11) }
}

fn material(n: u8) -> CiphertextMaterial {
    CiphertextMaterial {
        handle: word(n),
        key_id: id(n + 1),
        digest: word(n + 2),
        coprocessors: vec![address(n + 3), address(n + 4)],
    }
}

pub(crate) fn request(kind: Kind, body: RequestBody) -> Request {
    Request {
        source: "gateway".to_owned(),
        seq: 300,
        previous_hash: word(0x01),
        chain_id: 10_901,
        kind,
        id: id(0x02),
        block_number: 4_000_000_000,
        block_hash: word(0x03),
        block_timestamp: 1_764_027_360,
        transaction_hash: word(0x04),
        log_index: 17,
        log: RawLog { address: address(0x05), topics: vec![word(0x06), word(0x07)], data: bytes(0x08, 40) },
        body,
    }
}

pub(crate) fn requests() -> Vec<(&'static str, Request)> {
    let bodies = [
        (
            Kind::PublicDecryption,
            RequestBody::PublicDecryption {
                materials: vec![material(0x20), material(0x28)],
                extra_data: bytes(0x30, 33),
            },
        ),
        (
            Kind::UserDecryption,
            RequestBody::UserDecryption {
                materials: vec![material(0x20)],
                user_address: address(0x31),
                public_key: bytes(0x32, 80),
                extra_data: Bytes::new(),
            },
        ),
        (Kind::PrepKeygen, RequestBody::PrepKeygen { epoch_id: U256::from(9), params_type: 1 }),
        (Kind::Keygen, RequestBody::Keygen { prep_keygen_id: id(0x33) }),
        (Kind::Crsgen, RequestBody::Crsgen { max_bit_length: U256::MAX, params_type: 255 }),
        (Kind::PrssInit, RequestBody::PrssInit),
        (
            Kind::KeyReshareSameSet,
            RequestBody::KeyReshareSameSet { prep_keygen_id: id(0x34), key_id: id(0x35), params_type: 2 },
        ),
    ];
    bodies.into_iter().map(|(kind, body)| (kind.as_str(), request(kind, body))).collect()
}

pub(crate) fn deferred_requests() -> Vec<(&'static str, DeferredRequest)> {
    let deferred = DeferredRequest {
        source: coordinates("kms-connector.requests.key-management", 2, 77),
        attempts: u32::MAX,
        first_attempt_ms: 1_764_027_361_001,
        deferred_ms: 1_764_027_421_002,
        why: "KMS Core is still at it – später".to_owned(),
        request: request(Kind::Keygen, RequestBody::Keygen { prep_keygen_id: id(0x33) }),
    };
    vec![("keygen", deferred)]
}

fn signed() -> Signed {
    Signed { signature: bytes(0x40, 65), digest: word(0x41), signer: address(0x42) }
}

pub(crate) fn result(kind: Kind, answer: Answer) -> ResultRecord {
    ResultRecord {
        source: coordinates("kms-connector.requests.decryption", 11, i64::MAX),
        deferred: None,
        identity: identity(kind),
        block_hash: word(0x43),
        log_index: 18,
        attempts: 3,
        answer,
    }
}

pub(crate) fn results() -> Vec<(&'static str, ResultRecord)> {
    let public = Answer::PublicDecryption {
        handles: vec![word(0x20), word(0x28)],
        decrypted_result: bytes(0x44, 64),
        extra_data: bytes(0x45, 1),
        signature: signed(),
    };
    let user = Answer::UserDecryption {
        public_key: bytes(0x46, 80),
        handles: vec![word(0x20)],
        share: bytes(0x47, 200),
        extra_data: bytes(0x48, 2),
        signature: signed(),
    };
    let keygen = Answer::Keygen {
        prep_keygen_id: id(0x49),
        key_digests: vec![
            KeyDigest { key_type: 0, digest: bytes(0x4a, 32) },
            KeyDigest { key_type: 1, digest: bytes(0x4b, 32) },
        ],
        signature: signed(),
    };
    let crsgen =
        Answer::Crsgen { max_bit_length: U256::from(1) << 255, crs_digest: bytes(0x4c, 32), signature: signed() };
    let mut deferred = result(Kind::PrepKeygen, Answer::PrepKeygen { signature: signed() });
    deferred.deferred = Some(coordinates("kms-connector.requests.key-management.deferred", 1, 5));
    vec![
        ("public_decryption", result(Kind::PublicDecryption, public)),
        ("user_decryption", result(Kind::UserDecryption, user)),
        ("prep_keygen", deferred),
        ("keygen", result(Kind::Keygen, keygen)),
        ("crsgen", result(Kind::Crsgen, crsgen)),
        ("done", result(Kind::PrssInit, Answer::Done)),
        ("retracted", result(Kind::PublicDecryption, Answer::Retracted)),
    ]
}

pub(crate) fn submission(verdict: Verdict) -> Submission {
    Submission {
        result: coordinates("kms-connector.results.decryption", 4, 400),
        request: coordinates("kms-connector.requests.decryption", 5, 500),
        identity: identity(Kind::PublicDecryption),
        verdict,
        attempts: 2,
        settled_ms: 1_764_027_362_003,
    }
}

fn inclusion() -> Inclusion {
    Inclusion {
        sender: address(0x50),
        nonce: 1_001,
        transaction_hash: word(0x51),
        block_number: 1_002,
        block_hash: word(0x52),
        gas_used: 263_529,
        gas_used_for_l1: 1_003,
        effective_gas_price: u128::MAX - 1,
    }
}

pub(crate) fn submissions() -> Vec<(&'static str, Submission)> {
    let already =
        |transaction_hash| Verdict::AlreadyAnswered { evidence: "KmsNodeAlreadySigned".to_owned(), transaction_hash };
    let refused = |inclusion| Verdict::Refused { error: "empty".to_owned(), data: bytes(0x54, 4), inclusion };
    vec![
        ("accepted", submission(Verdict::Accepted(inclusion()))),
        ("already_answered", submission(already(Some(word(0x53))))),
        ("already_answered_somewhere", submission(already(None))),
        ("no_answer_on_chain", submission(Verdict::NoAnswerOnChain)),
        ("refused", submission(refused(Some(inclusion())))),
        ("refused_before_sending", submission(refused(None))),
        ("retracted", submission(Verdict::Retracted)),
    ]
}

pub(crate) fn dead_letters() -> Vec<(&'static str, DeadLetter)> {
    let known = DeadLetter {
        service: "emitter".to_owned(),
        source: coordinates("kms-connector.results.decryption", 6, 600),
        request: Some(coordinates("kms-connector.requests.decryption", 7, 700)),
        identity: Some(identity(Kind::UserDecryption)),
        key: Some(bytes(0x11, 32)),
        value: Some(bytes(0x60, 7)),
        value_bytes: 7,
        value_digest: word(0x61),
        reason: "KC-0601".to_owned(),
        text: "the signature recovers to somebody else".to_owned(),
        attempts: 1,
        dead_ms: 1_764_027_363_004,
    };
    let foreign = DeadLetter {
        request: None,
        identity: None,
        key: None,
        value: None,
        value_bytes: 20_000_000,
        reason: "KC-0202".to_owned(),
        ..known.clone()
    };
    let empty = DeadLetter { key: Some(Bytes::new()), value: Some(Bytes::new()), value_bytes: 0, ..foreign.clone() };
    vec![("known", known), ("foreign", foreign), ("empty", empty)]
}

pub(crate) fn cursors() -> Vec<(&'static str, Cursor)> {
    let first = Cursor {
        source: "gateway".to_owned(),
        chain_id: 10_901,
        block_number: 0,
        block_hash: word(0x70),
        recent: vec![],
        proof: Proof::Believed,
        sequences: vec![],
        written_ms: 1_764_027_364_005,
    };
    let later = Cursor {
        block_number: 5_000,
        recent: vec![BlockRef { number: 4_999, hash: word(0x71) }, BlockRef { number: 4_998, hash: word(0x72) }],
        proof: Proof::Receipts,
        sequences: vec![Sequence {
            topic: "kms-connector.requests.decryption".to_owned(),
            next: 301,
            last_hash: word(0x73),
        }],
        ..first.clone()
    };
    vec![("first", first), ("later", later)]
}

pub(crate) fn intents() -> Vec<(&'static str, Intent)> {
    let one = Intent {
        chain_id: 10_901,
        sender: address(0x80),
        nonce: 2_001,
        attempt: 2,
        raw: bytes(0x81, 120),
        hash: word(0x82),
        items: vec![IntentItem {
            result: coordinates("kms-connector.results.decryption", 8, 800),
            identity: identity(Kind::PublicDecryption),
        }],
        settled_below: 2_002,
        written_ms: 1_764_027_365_006,
    };
    let gap = Intent { items: vec![], settled_below: -1, ..one.clone() };
    vec![("one", one), ("gap", gap)]
}
