use alloy::primitives::{Address, B256, Bytes, U256};
use kms_schemas::identity::{Coordinates, Identity, Kind, RequestId};
use kms_schemas::record::*;
use serde_json::{Value, json};

use super::objects::{Life, Object, objects};
use super::trails::{State, Trails};

const TOPIC: &str = "p.requests.key-management";

/// An id as the contracts make them: a tag and a counter.
fn id(tag: u8, counter: u8) -> RequestId {
    let mut word = B256::ZERO;
    (word[0], word[31]) = (tag, counter);
    RequestId(word)
}

fn identity(kind: Kind, id: RequestId) -> Identity {
    Identity { chain_id: 1, contract: Address::repeat_byte(9), kind, id }
}

fn request(kind: Kind, id: RequestId, body: RequestBody) -> Request {
    Request {
        source: "ethereum".to_owned(),
        seq: 0,
        previous_hash: B256::ZERO,
        chain_id: 1,
        kind,
        id,
        block_number: 1,
        block_hash: B256::ZERO,
        block_timestamp: 1,
        transaction_hash: B256::ZERO,
        log_index: 0,
        log: RawLog { address: Address::repeat_byte(9), topics: vec![], data: Bytes::new() },
        body,
    }
}

fn source(offset: i64) -> Coordinates {
    Coordinates { topic: TOPIC.to_owned(), partition: 0, offset }
}

fn result(kind: Kind, id: RequestId, offset: i64, answer: Answer) -> ResultRecord {
    ResultRecord {
        source: source(offset),
        deferred: None,
        identity: identity(kind, id),
        block_number: 1,
        block_hash: B256::ZERO,
        log_index: 0,
        attempts: 1,
        answer,
    }
}

fn submission(kind: Kind, id: RequestId, offset: i64, verdict: Verdict) -> Submission {
    let result = Coordinates { topic: "p.results.key-management".to_owned(), partition: 0, offset: 0 };
    Submission { result, request: source(offset), identity: identity(kind, id), verdict, attempts: 1, settled_ms: 1 }
}

fn letter(service: &str, kind: Kind, id: RequestId, offset: i64) -> DeadLetter {
    DeadLetter {
        service: service.to_owned(),
        source: source(offset),
        request: None,
        identity: Some(identity(kind, id)),
        key: None,
        value: None,
        value_bytes: 0,
        value_digest: B256::ZERO,
        reason: "KC-0402".to_owned(),
        text: "no".to_owned(),
        attempts: 3,
        dead_ms: 1,
    }
}

fn signed() -> Signed {
    Signed { signature: Bytes::new(), digest: B256::ZERO, signer: Address::ZERO }
}

fn accepted() -> Verdict {
    Verdict::AlreadyAnswered { evidence: "event".to_owned(), transaction_hash: None }
}

/// `extraData` of version 2.
fn pair(context: RequestId, epoch: RequestId) -> Bytes {
    [&[2][..], context.0.as_slice(), epoch.0.as_slice()].concat().into()
}

fn prep(extra_data: Bytes) -> RequestBody {
    RequestBody::PrepKeygen { epoch_id: U256::ZERO, params_type: 1, extra_data }
}

fn keygen(prep_keygen_id: RequestId) -> RequestBody {
    RequestBody::Keygen { prep_keygen_id, extra_data: Bytes::new() }
}

fn key_answer(prep_keygen_id: RequestId) -> Answer {
    let key_digests = vec![KeyDigest { key_type: 0, digest: vec![7; 32].into() }];
    Answer::Keygen { prep_keygen_id, key_digests, extra_data: Bytes::new(), signature: signed() }
}

fn context(previous_context_id: RequestId) -> RequestBody {
    RequestBody::NewKmsContext(Box::new(NewKmsContext {
        previous_context_id,
        nodes: vec![],
        thresholds: KmsThresholds {
            public_decryption: U256::from(3),
            user_decryption: U256::from(3),
            kms_gen: U256::from(3),
            mpc: U256::from(1),
        },
        software_version: "v0.15.0".to_owned(),
        pcr_values: vec![],
    }))
}

fn epoch(context_id: RequestId, previous: (RequestId, RequestId)) -> RequestBody {
    let (previous_context_id, previous_epoch_id) = previous;
    let material_block_number = U256::from(99);
    RequestBody::NewKmsEpoch { context_id, previous_context_id, previous_epoch_id, material_block_number }
}

fn trails() -> Trails {
    Trails::new(TOPIC, 100)
}

fn as_json(trails: &Trails) -> Vec<Value> {
    objects(trails).iter().map(|object| serde_json::to_value(object).unwrap()).collect()
}

fn key_state(trails: &Trails) -> State {
    match &objects(trails)[..] {
        [Object::Key(key), Object::Summary(_)] => key.state,
        other => panic!("{other:?}"),
    }
}

fn lives(trails: &Trails) -> Vec<(RequestId, Life, State)> {
    let life = |object: Object| match object {
        Object::Context(context) => Some((context.own.id, context.state, context.own.this_node)),
        Object::Epoch(epoch) => Some((epoch.own.id, epoch.state, epoch.own.this_node)),
        _ => None,
    };
    objects(trails).into_iter().filter_map(life).collect()
}

#[test]
fn a_key_goes_from_its_preprocessing_to_an_accepted_answer() {
    let (prep_id, key_id) = (id(3, 1), id(4, 1));
    let mut trails = trails();
    trails.request(0, &request(Kind::PrepKeygen, prep_id, prep(Bytes::new())));
    assert_eq!(key_state(&trails), State::Requested);
    let answer = Answer::PrepKeygen { extra_data: Bytes::new(), signature: signed() };
    trails.result(&result(Kind::PrepKeygen, prep_id, 0, answer));
    assert_eq!(key_state(&trails), State::Answered);
    trails.submission(&submission(Kind::PrepKeygen, prep_id, 0, accepted()));
    assert_eq!(key_state(&trails), State::Accepted);
    trails.request(1, &request(Kind::Keygen, key_id, keygen(prep_id)));
    assert_eq!(key_state(&trails), State::Requested);
    trails.result(&result(Kind::Keygen, key_id, 1, key_answer(prep_id)));
    trails.submission(&submission(Kind::Keygen, key_id, 1, accepted()));
    assert_eq!(key_state(&trails), State::Accepted);
    let expected = json!({
        "object": "key",
        "chain_id": 1,
        "contract": Address::repeat_byte(9),
        "state": "accepted",
        "params_type": 1,
        "preprocessing": { "id": prep_id, "state": "accepted" },
        "key": { "id": key_id, "state": "accepted" },
        "digests": [{ "key_type": 0, "digest": Bytes::from(vec![7; 32]) }],
        "abort": null,
        "reshares": [],
        "epoch": null,
    });
    assert_eq!(as_json(&trails)[0], expected);
    assert_eq!(
        objects(&trails)[0].to_string(),
        format!(
            "key       {key_id} accepted   chain=1 params=1 key={key_id} accepted preprocessing={prep_id} accepted \
             server-key=0x{}",
            "07".repeat(32)
        )
    );
}

#[test]
fn the_order_of_topics_does_not_matter() {
    let (prep_id, key_id) = (id(3, 1), id(4, 1));
    let mut forwards = trails();
    let mut backwards = trails();
    let record_request = |trails: &mut Trails| {
        trails.request(0, &request(Kind::PrepKeygen, prep_id, prep(Bytes::new())));
        trails.request(1, &request(Kind::Keygen, key_id, keygen(prep_id)));
    };
    let record_result = |trails: &mut Trails| trails.result(&result(Kind::Keygen, key_id, 1, key_answer(prep_id)));
    let record_end = |trails: &mut Trails| trails.submission(&submission(Kind::Keygen, key_id, 1, accepted()));
    record_request(&mut forwards);
    record_result(&mut forwards);
    record_end(&mut forwards);
    record_end(&mut backwards);
    record_result(&mut backwards);
    record_request(&mut backwards);
    assert_eq!(objects(&forwards), objects(&backwards));
}

#[test]
fn an_abort_on_chain_makes_a_key_and_a_crs_aborted_whatever_was_answered() {
    let (prep_id, key_id, crs_id) = (id(3, 1), id(4, 1), id(5, 1));
    let mut trails = trails();
    trails.request(0, &request(Kind::PrepKeygen, prep_id, prep(Bytes::new())));
    trails.request(1, &request(Kind::Keygen, key_id, keygen(prep_id)));
    trails.result(&result(Kind::Keygen, key_id, 1, key_answer(prep_id)));
    let body = RequestBody::Crsgen { max_bit_length: U256::from(2_048), params_type: 0, extra_data: Bytes::new() };
    trails.request(2, &request(Kind::Crsgen, crs_id, body));
    trails.result(&result(Kind::Crsgen, crs_id, 2, Answer::Aborted));
    trails.submission(&submission(Kind::Crsgen, crs_id, 2, Verdict::NoAnswerOnChain));
    trails.request(3, &request(Kind::AbortKeygen, prep_id, RequestBody::AbortKeygen));
    trails.request(4, &request(Kind::AbortCrsgen, crs_id, RequestBody::AbortCrsgen));
    trails.result(&result(Kind::AbortCrsgen, crs_id, 4, Answer::Done));
    let seen = as_json(&trails);
    assert_eq!((&seen[0]["state"], &seen[0]["key"]["state"]), (&json!("aborted"), &json!("answered")));
    assert_eq!(seen[0]["abort"], json!({ "id": prep_id, "state": "requested" }));
    assert_eq!(
        (&seen[1]["object"], &seen[1]["state"], &seen[1]["this_node"]),
        (&json!("crs"), &json!("aborted"), &json!("aborted"))
    );
    assert_eq!(seen[1]["abort"], json!({ "id": crs_id, "state": "done" }));
}

#[test]
fn a_dead_letter_is_shown_with_its_code_until_a_redrive_has_an_outcome() {
    let prep_id = id(3, 1);
    let mut trails = trails();
    trails.request(0, &request(Kind::PrepKeygen, prep_id, prep(Bytes::new())));
    trails.dead_letter(&letter("processor", Kind::PrepKeygen, prep_id, 0));
    assert_eq!(as_json(&trails)[0]["preprocessing"], json!({ "id": prep_id, "state": "dead", "reason": "KC-0402" }));
    let answer = Answer::PrepKeygen { extra_data: Bytes::new(), signature: signed() };
    trails.result(&result(Kind::PrepKeygen, prep_id, 0, answer));
    assert_eq!(key_state(&trails), State::Answered);
    // The emitter's letter is about the answer.
    let of_result = DeadLetter {
        source: Coordinates { topic: "p.results.key-management".to_owned(), partition: 0, offset: 7 },
        request: Some(source(0)),
        ..letter("emitter", Kind::PrepKeygen, prep_id, 0)
    };
    trails.dead_letter(&of_result);
    assert_eq!(key_state(&trails), State::Dead);
}

#[test]
fn what_was_retracted_says_nothing_about_the_request_that_took_its_id() {
    let prep_id = id(3, 1);
    let mut trails = trails();
    trails.result(&result(Kind::PrepKeygen, prep_id, 0, Answer::Retracted));
    trails.submission(&submission(Kind::PrepKeygen, prep_id, 0, Verdict::Retracted));
    trails.request(0, &request(Kind::PrepKeygen, prep_id, prep(Bytes::new())));
    assert_eq!(key_state(&trails), State::Retracted);
    trails.request(5, &request(Kind::PrepKeygen, prep_id, prep(Bytes::new())));
    assert_eq!(key_state(&trails), State::Requested);
    let answer = Answer::PrepKeygen { extra_data: Bytes::new(), signature: signed() };
    trails.result(&result(Kind::PrepKeygen, prep_id, 5, answer));
    assert_eq!(key_state(&trails), State::Answered);
}

#[test]
fn contexts_and_epochs_are_as_far_as_the_records_show() {
    use Life::{Active, Confirmed, Created, Destroyed, Requested};
    let (base, first, second) = (id(7, 0), id(7, 1), id(7, 2));
    let (epoch_1, epoch_2, epoch_3) = (id(8, 1), id(8, 2), id(8, 3));
    let mut trails = trails();
    trails.request(0, &request(Kind::NewKmsContext, first, context(base)));
    trails.result(&result(Kind::NewKmsContext, first, 0, Answer::Done));
    assert_eq!(lives(&trails), [(first, Active, State::Done)], "the first context is active at once");

    trails.request(1, &request(Kind::NewKmsContext, second, context(first)));
    assert_eq!(lives(&trails)[1], (second, Requested, State::Requested));
    trails.result(&result(Kind::NewKmsContext, second, 1, Answer::KmsContextCreated));
    trails.submission(&submission(Kind::NewKmsContext, second, 1, accepted()));
    assert_eq!(lives(&trails)[1], (second, Confirmed, State::Accepted));

    trails.request(2, &request(Kind::NewKmsEpoch, epoch_2, epoch(second, (first, epoch_1))));
    let seen = lives(&trails);
    assert_eq!(seen[1], (second, Created, State::Accepted), "its epoch is asked for when enough nodes confirmed");
    assert_eq!(seen[2], (epoch_1, Active, State::Unknown), "no event announces the first epoch, but others name it");
    assert_eq!(seen[3], (epoch_2, Requested, State::Requested));

    let key = EpochKey { prep_keygen_id: id(3, 1), key_id: id(4, 1), key_digests: vec![], signature: signed() };
    let answer = Answer::EpochActivation { context_id: second, keys: vec![key], crs_list: vec![] };
    trails.result(&result(Kind::NewKmsEpoch, epoch_2, 2, answer));
    trails.submission(&submission(Kind::NewKmsEpoch, epoch_2, 2, accepted()));
    assert_eq!(lives(&trails)[3], (epoch_2, Confirmed, State::Accepted));
    trails.request(3, &request(Kind::Keygen, id(4, 1), keygen(id(3, 1))));
    let seen = as_json(&trails);
    assert_eq!(seen[0]["epoch"], json!(epoch_2), "the key knows its latest epoch");
    let of_epoch = seen.iter().find(|object| object["id"] == json!(epoch_2)).unwrap();
    assert_eq!((&of_epoch["keys"], &of_epoch["crs_list"]), (&json!(1), &json!(0)));

    trails.request(4, &request(Kind::NewKmsEpoch, epoch_3, epoch(second, (second, epoch_2))));
    let seen = lives(&trails);
    assert_eq!((seen[1].1, seen[3].1, seen[4].1), (Active, Active, Requested), "a successor names what was current");

    trails.request(5, &request(Kind::KmsContextDestroyed, first, RequestBody::KmsContextDestroyed));
    trails.result(&result(Kind::KmsContextDestroyed, first, 5, Answer::Done));
    let seen = lives(&trails);
    assert_eq!((seen[0].1, seen[2].1), (Destroyed, Destroyed), "with a context go its epochs");
    assert_eq!((seen[1].1, seen[3].1), (Active, Active));
    trails.request(6, &request(Kind::KmsEpochDestroyed, epoch_2, RequestBody::KmsEpochDestroyed));
    let seen = lives(&trails);
    assert_eq!((seen[3].1, seen[4].1), (Destroyed, Requested));
}

#[test]
fn what_the_chain_concluded_without_this_node_is_created_and_active() {
    let (first, second, epoch_1, epoch_2) = (id(7, 1), id(7, 2), id(8, 1), id(8, 2));
    let concluded = || Verdict::Concluded { evidence: "view".to_owned() };
    let mut trails = trails();
    trails.request(0, &request(Kind::NewKmsContext, second, context(first)));
    trails.submission(&submission(Kind::NewKmsContext, second, 0, concluded()));
    assert_eq!(lives(&trails), [(second, Life::Created, State::Concluded)]);
    trails.request(1, &request(Kind::NewKmsEpoch, epoch_2, epoch(second, (first, epoch_1))));
    trails.submission(&submission(Kind::NewKmsEpoch, epoch_2, 1, concluded()));
    let active: Vec<RequestId> = lives(&trails).iter().filter(|one| one.1 == Life::Active).map(|one| one.0).collect();
    assert_eq!(active, [first, second, epoch_1, epoch_2]);
}

#[test]
fn a_request_shows_that_the_pair_in_its_extra_data_is_active() {
    let (context, epoch) = (id(7, 1), id(8, 1));
    let mut trails = trails();
    trails.request(0, &request(Kind::PrepKeygen, id(3, 1), prep(pair(context, epoch))));
    // Too short for its version, and of another version: they show nothing.
    trails.request(1, &request(Kind::PrepKeygen, id(3, 2), prep(pair(id(7, 5), id(8, 5)).slice(..64))));
    trails.request(2, &request(Kind::PrepKeygen, id(3, 3), prep(vec![1; 65].into())));
    let expected = [(context, Life::Active, State::Unknown), (epoch, Life::Active, State::Unknown)];
    assert_eq!(lives(&trails), expected);
    let seen = as_json(&trails);
    assert_eq!(seen.iter().find(|object| object["id"] == json!(epoch)).unwrap()["context"], json!(context));
}

#[test]
fn decryptions_are_left_out_and_letters_without_a_name_are_counted() {
    let mut trails = trails();
    trails.result(&result(Kind::PublicDecryption, id(1, 1), 0, Answer::Retracted));
    trails.submission(&submission(Kind::UserDecryption, id(2, 1), 0, accepted()));
    trails.dead_letter(&letter("processor", Kind::PublicDecryption, id(1, 1), 0));
    let nameless = DeadLetter { identity: None, ..letter("processor", Kind::Keygen, id(4, 1), 0) };
    trails.dead_letter(&nameless);
    let seen = as_json(&trails);
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (&seen[0]["object"], &seen[0]["submissions"], &seen[0]["nameless_dead_letters"]),
        (&json!("summary"), &json!(0), &json!(1))
    );
}

#[test]
fn what_is_remembered_is_bounded_and_what_is_left_off_is_counted() {
    let mut trails = Trails::new(TOPIC, 20_000);
    for n in 0..50_000_u64 {
        let key_id = RequestId::from(U256::from(n + 1));
        trails.result(&result(Kind::Keygen, key_id, n as i64, key_answer(key_id)));
        trails.request(n as i64, &request(Kind::Keygen, key_id, keygen(key_id)));
    }
    let seen = objects(&trails);
    assert_eq!(seen.len(), 20_001);
    assert!(matches!(seen.last(), Some(Object::Summary(counts)) if counts.left_off == 60_000));
}

#[test]
fn long_texts_and_many_digests_of_a_forged_record_are_cut() {
    let (prep_id, key_id) = (id(3, 1), id(4, 1));
    let digest = KeyDigest { key_type: 9, digest: vec![1; 100_000].into() };
    let key_digests = vec![digest; 1_000];
    let answer = Answer::Keygen { prep_keygen_id: prep_id, key_digests, extra_data: Bytes::new(), signature: signed() };
    let mut trails = trails();
    trails.request(0, &request(Kind::Keygen, key_id, keygen(prep_id)));
    trails.result(&result(Kind::Keygen, key_id, 0, answer));
    let RequestBody::NewKmsContext(mut body) = context(id(7, 0)) else { unreachable!() };
    body.software_version = "\u{1b}[31m".repeat(100_000);
    trails.request(1, &request(Kind::NewKmsContext, id(7, 1), RequestBody::NewKmsContext(body)));
    for object in objects(&trails) {
        let text = object.to_string();
        assert!(text.len() < 4_000 && !text.contains('\u{1b}'), "{text}");
    }
}
