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
        (
            Kind::PrepKeygen,
            RequestBody::PrepKeygen { epoch_id: U256::from(9), params_type: 1, extra_data: bytes(0x36, 33) },
        ),
        (Kind::Keygen, keygen_body()),
        (
            Kind::Crsgen,
            RequestBody::Crsgen { max_bit_length: U256::MAX, params_type: 255, extra_data: bytes(0x37, 65) },
        ),
        (Kind::PrssInit, RequestBody::PrssInit),
        (
            Kind::KeyReshareSameSet,
            RequestBody::KeyReshareSameSet { prep_keygen_id: id(0x34), key_id: id(0x35), params_type: 2 },
        ),
        (Kind::AbortKeygen, RequestBody::AbortKeygen),
        (Kind::AbortCrsgen, RequestBody::AbortCrsgen),
        (Kind::NewKmsContext, RequestBody::NewKmsContext(Box::new(new_kms_context()))),
        (
            Kind::NewKmsEpoch,
            RequestBody::NewKmsEpoch {
                context_id: id(0x3a),
                previous_context_id: id(0x3b),
                previous_epoch_id: id(0x3c),
                material_block_number: U256::from(23_000_001),
            },
        ),
        (Kind::KmsContextDestroyed, RequestBody::KmsContextDestroyed),
        (Kind::KmsEpochDestroyed, RequestBody::KmsEpochDestroyed),
    ];
    let mut requests: Vec<_> = bodies.into_iter().map(|(kind, body)| (kind.as_str(), request(kind, body))).collect();
    let handles = vec![word(0x20), word(0x28)];
    let public = RequestBody::PublicDecryptionHandles { handles: handles.clone(), extra_data: bytes(0x38, 65) };
    let user = RequestBody::UserDecryptionHandles {
        handles,
        user_address: address(0x31),
        public_key: bytes(0x32, 80),
        extra_data: bytes(0x39, 65),
    };
    let with_materials = unified_user_decryption();
    let with_handles = UnifiedUserDecryption { materials: vec![], ..unified_user_decryption() };
    let unified = |body| RequestBody::UnifiedUserDecryption(Box::new(body));
    requests.extend([
        ("public_decryption_handles", request(Kind::PublicDecryption, public)),
        ("user_decryption_handles", request(Kind::UserDecryption, user)),
        ("unified_user_decryption", request(Kind::UserDecryption, unified(with_materials))),
        ("unified_user_decryption_handles", request(Kind::UserDecryption, unified(with_handles))),
    ]);
    requests
}

fn keygen_body() -> RequestBody {
    RequestBody::Keygen { prep_keygen_id: id(0x33), extra_data: bytes(0x3d, 33) }
}

fn unified_user_decryption() -> UnifiedUserDecryption {
    let entry = |n| HandleEntry { handle: word(n), contract: address(n + 1), owner: address(n + 2) };
    UnifiedUserDecryption {
        materials: vec![material(0x20), material(0x28)],
        entries: vec![entry(0x20), entry(0x28)],
        user_address: address(0x90),
        public_key: bytes(0x91, 80),
        allowed_contracts: vec![address(0x92), address(0x93)],
        start_timestamp: U256::from(1_764_027_000),
        duration_seconds: U256::from(864_000),
        extra_data: bytes(0x94, 65),
        signature: bytes(0x95, 65),
    }
}

fn new_kms_context() -> NewKmsContext {
    let node = |n: u8, party_id| KmsNodeParams {
        tx_sender: address(n),
        signer: address(n + 1),
        ip_address: format!("10.0.0.{n}"),
        storage_url: format!("https://storage-{n}.example"),
        party_id,
        mpc_identity: format!("node-{n}"),
        ca_cert: bytes(n + 2, 50),
        storage_prefix: format!("PUB-{n}"),
    };
    NewKmsContext {
        previous_context_id: id(0xa0),
        nodes: vec![node(0xa1, 1), node(0xa4, i32::MAX)],
        thresholds: KmsThresholds {
            public_decryption: U256::from(7),
            user_decryption: U256::from(9),
            kms_gen: U256::from(8),
            mpc: U256::from(4),
        },
        software_version: "v0.14.0".to_owned(),
        pcr_values: vec![PcrValues { pcr0: bytes(0xa7, 48), pcr1: bytes(0xa8, 48), pcr2: bytes(0xa9, 48) }],
    }
}

pub(crate) fn deferred_requests() -> Vec<(&'static str, DeferredRequest)> {
    let deferred = DeferredRequest {
        source: coordinates("kms-connector.requests.key-management", 2, 77),
        attempts: u32::MAX,
        first_attempt_ms: 1_764_027_361_001,
        deferred_ms: 1_764_027_421_002,
        why: "KMS Core is still at it – später".to_owned(),
        request: request(Kind::Keygen, keygen_body()),
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
        block_number: 19,
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
        extra_data: bytes(0x4d, 33),
        signature: signed(),
    };
    let crsgen = Answer::Crsgen {
        max_bit_length: U256::from(1) << 255,
        crs_digest: bytes(0x4c, 32),
        extra_data: bytes(0x4e, 65),
        signature: signed(),
    };
    let activation = Answer::EpochActivation {
        context_id: id(0x4f),
        keys: vec![EpochKey {
            prep_keygen_id: id(0xb0),
            key_id: id(0xb1),
            key_digests: vec![KeyDigest { key_type: 3, digest: bytes(0xb2, 32) }],
            signature: signed(),
        }],
        crs_list: vec![EpochCrs {
            crs_id: id(0xb3),
            max_bit_length: U256::from(2_048),
            crs_digest: bytes(0xb4, 32),
            signature: signed(),
        }],
    };
    let nothing = Answer::EpochActivation { context_id: id(0x4f), keys: vec![], crs_list: vec![] };
    let mut deferred =
        result(Kind::PrepKeygen, Answer::PrepKeygen { extra_data: bytes(0xb5, 33), signature: signed() });
    deferred.deferred = Some(coordinates("kms-connector.requests.key-management.deferred", 1, 5));
    vec![
        ("public_decryption", result(Kind::PublicDecryption, public)),
        ("user_decryption", result(Kind::UserDecryption, user)),
        ("prep_keygen", deferred),
        ("keygen", result(Kind::Keygen, keygen)),
        ("crsgen", result(Kind::Crsgen, crsgen)),
        ("kms_context_created", result(Kind::NewKmsContext, Answer::KmsContextCreated)),
        ("epoch_activation", result(Kind::NewKmsEpoch, activation)),
        ("epoch_activation_of_nothing", result(Kind::NewKmsEpoch, nothing)),
        ("aborted", result(Kind::Keygen, Answer::Aborted)),
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
        answers: Some(32),
        order: Some(3),
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
        ("concluded", submission(Verdict::Concluded { evidence: "KmsContextNotPending".to_owned() })),
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

pub(crate) fn wallet_records() -> Vec<(&'static str, WalletRecord)> {
    let record = |text: &str, body| WalletRecord {
        chain_id: 10_901,
        sender: address(0x90),
        command_id: word(0x91),
        by: "operator@bastion".to_owned(),
        written_ms: 1_764_027_366_007,
        text: text.to_owned(),
        body,
    };
    let transactions = vec![word(0x92), word(0x93)];
    let outcome = |end| WalletBody::Outcome { command_offset: 42, end, transactions: transactions.clone() };
    let expires_ms = 1_764_027_396_007;
    vec![
        ("pause", record("the node is moved", WalletBody::Pause)),
        ("resume", record("", WalletBody::Resume)),
        ("bump", record("stuck", WalletBody::Bump { nonce: Some(2_001), max_fee_per_gas: Some(1 << 70), expires_ms })),
        ("bump_all", record("", WalletBody::Bump { nonce: None, max_fee_per_gas: None, expires_ms })),
        ("cancel", record("never mind", WalletBody::Cancel { nonce: 2_002, expires_ms })),
        ("accepted", record("nonce 2002: replaced", outcome(WalletEnd::Accepted))),
        ("done", record("nonce 2002: mined", outcome(WalletEnd::Done))),
        (
            "refused",
            record(
                "the chain has no pool",
                WalletBody::Outcome { command_offset: 43, end: WalletEnd::Refused, transactions: vec![] },
            ),
        ),
    ]
}
