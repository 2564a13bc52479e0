//! Bytes that somebody else wrote, one defect each, and what the error says of them.

use alloy::primitives::Bytes;
use kms_schemas::codec::{Codec, CodecError, Flaw};
use kms_schemas::identity::{Coordinates, Kind};
use kms_schemas::record::*;
use kms_schemas::{Record, versions};

use crate::samples;

const TOPIC: &str = "kms-connector.requests.decryption";

fn framed<R: Record>(body: &[u8]) -> Vec<u8> {
    let version = versions().iter().rev().find(|version| version.record == R::NAME).expect("has a schema");
    let mut bytes = vec![0xC3, 0x01];
    bytes.extend_from_slice(&version.fingerprint.to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

fn error_of<R: Record>(bytes: &[u8]) -> CodecError {
    match Codec::single_object().decode::<R>(TOPIC, bytes) {
        Ok(_) => panic!("{} bytes are no {}", bytes.len(), R::NAME),
        Err(error) => error,
    }
}

fn flaw_of<R: Record>(body: &[u8]) -> (String, Flaw) {
    match error_of::<R>(&framed::<R>(body)) {
        CodecError::Undecodable { defect, .. } => (defect.field(), defect.flaw),
        other => panic!("{other}"),
    }
}

/// The body of a record up to where `part` of it begins.
fn body_before<R: Record>(record: &R, part: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    record.write_body(&mut body).expect("encodes");
    let at = body.windows(part.len()).position(|window| window == part).expect("the part is there");
    body.truncate(at);
    body
}

fn dead_letter_up_to_key() -> Vec<u8> {
    let (_, letter) = samples::dead_letters().swap_remove(0);
    // Branch 1, length 32, then the key.
    body_before(&letter, &[2, 64, 0x11, 0x11, 0x11])
}

#[test]
fn bytes_without_framing_are_foreign() {
    for bytes in [&b""[..], b"{\"id\":1}", &[0xC3], &[0xC3, 1, 2, 3], &[0, 0, 0, 1], &[0xC3, 2, 1, 2, 3, 4, 5, 6, 7, 8]]
    {
        let error = error_of::<Request>(bytes);
        assert!(matches!(error, CodecError::Unframed { .. }), "{error}");
        assert_eq!(error.code(), "KC-0202");
    }
    assert_eq!(
        error_of::<Request>(b"{\"id\":1}").to_string(),
        "kms-connector.requests.decryption: 8 bytes that start with 7b226964223a317d are neither an Avro single object \
         nor Confluent framing"
    );
}

#[test]
fn a_fingerprint_that_nobody_wrote_is_an_unknown_schema() {
    let error = error_of::<Request>(&[0xC3, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0]);
    assert!(matches!(error, CodecError::UnknownFingerprint { fingerprint: 0x0807_0605_0403_0201, .. }), "{error}");
    assert_eq!(error.code(), "KC-0203");
}

#[test]
fn an_id_of_a_registry_cannot_be_read_without_one() {
    let error = error_of::<Request>(&[0, 0, 0, 1, 2, 9, 9]);
    assert!(matches!(error, CodecError::NoRegistry { id: 258, .. }), "{error}");
    assert_eq!(error.code(), "KC-0203");
}

#[test]
fn a_record_of_another_type_is_told_by_name() {
    let (_, cursor) = samples::cursors().swap_remove(0);
    let bytes = Codec::single_object().encode(TOPIC, &cursor).expect("encodes");
    let error = error_of::<Request>(&bytes);
    assert_eq!(error.code(), "KC-0204");
    assert_eq!(
        error.to_string(),
        "kms-connector.requests.decryption: the record is of type org.kmsconnector.Cursor, not org.kmsconnector.Request"
    );
}

#[test]
fn an_error_names_field_and_byte() {
    let (_, request) = samples::requests().swap_remove(0);
    let mut bytes = Codec::single_object().encode(TOPIC, &request).expect("encodes");
    // Behind the last field of the body come ten that are not set.
    bytes.truncate(bytes.len() - 11);
    let error = error_of::<Request>(&bytes).to_string();
    assert!(
        error.starts_with(
            "kms-connector.requests.decryption: broken org.kmsconnector.Request (schema version 2): \
             field body.public_decryption.extra_data, byte "
        ),
        "{error}"
    );
}

#[test]
fn a_length_beyond_the_bytes_is_refused_before_anything_is_allocated() {
    let mut body = dead_letter_up_to_key();
    body.extend_from_slice(&[2, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
    assert_eq!(flaw_of::<DeadLetter>(&body), ("key".to_owned(), Flaw::Length(i64::MAX)));
}

#[test]
fn a_negative_length_is_refused() {
    let mut body = dead_letter_up_to_key();
    body.extend_from_slice(&[2, 1]);
    assert_eq!(flaw_of::<DeadLetter>(&body), ("key".to_owned(), Flaw::Length(-1)));
}

#[test]
fn a_number_of_more_than_64_bits_is_refused() {
    let mut body = dead_letter_up_to_key();
    body.extend_from_slice(&[0xff; 9]);
    body.push(0x02);
    assert_eq!(flaw_of::<DeadLetter>(&body), ("key".to_owned(), Flaw::Overlong));
}

#[test]
fn a_branch_that_the_union_does_not_have_is_refused() {
    let mut body = dead_letter_up_to_key();
    body.push(4);
    assert_eq!(flaw_of::<DeadLetter>(&body), ("key".to_owned(), Flaw::Branch(2)));
}

#[test]
fn text_that_is_not_utf_8_is_refused() {
    assert_eq!(flaw_of::<Request>(&[4, 0xff, 0xfe]), ("source".to_owned(), Flaw::NotUtf8));
}

#[test]
fn a_negative_number_is_refused_where_none_can_be() {
    // Source "a", then seq -3.
    assert_eq!(flaw_of::<Request>(&[2, b'a', 5]), ("seq".to_owned(), Flaw::Range(-3, "u64")));
}

#[test]
fn an_array_can_come_in_blocks() {
    let (_, cursor) = samples::cursors().swap_remove(1);
    let block = |number: u8, hash: u8| [&[number][..], &[hash; 32]].concat();
    let mut body = body_before(&cursor, &[4, 0x8e, 0x4e]);
    // One block with its size in bytes, one without, then the end.
    body.extend_from_slice(&[1, 66]);
    body.extend_from_slice(&block(2, 0xaa));
    body.push(4);
    body.extend_from_slice(&block(4, 0xbb));
    body.extend_from_slice(&block(6, 0xcc));
    body.extend_from_slice(&[0, 0, 0, 0]);
    let cursor: Cursor = Codec::single_object().decode(TOPIC, &framed::<Cursor>(&body)).expect("decodes");
    let numbers: Vec<u64> = cursor.recent.iter().map(|block| block.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
}

#[test]
fn an_array_that_claims_more_items_than_there_are_bytes_is_refused() {
    let (_, cursor) = samples::cursors().swap_remove(1);
    let prefix = body_before(&cursor, &[4, 0x8e, 0x4e]);
    for (count, claimed) in [
        (&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..], i64::MAX),
        (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0], i64::MIN),
    ] {
        let body = [&prefix[..], count].concat();
        assert_eq!(flaw_of::<Cursor>(&body), ("recent".to_owned(), Flaw::Length(claimed)));
    }
}

fn submission_body(form: u8, rest: &[u8]) -> Vec<u8> {
    let marker = samples::submission(Verdict::NoAnswerOnChain);
    // Form no_answer_on_chain, four nulls, two attempts.
    let mut body = body_before(&marker, &[10, 0, 0, 0, 0, 4]);
    body.push(form);
    body.extend_from_slice(rest);
    body
}

#[test]
fn a_form_with_the_field_of_another_is_refused() {
    let already = [2, 2, b'x', 0];
    // Form refused, and the field already_answered is set.
    let body = submission_body(6, &[&[0][..], &already, &[0, 0, 4, 2]].concat());
    assert_eq!(flaw_of::<Submission>(&body), ("verdict".to_owned(), Flaw::Form("refused")));
    // Form already_answered, with that field and refused.
    let body = submission_body(4, &[&[0][..], &already, &[2, 2, b'y', 0, 0], &[0, 4, 2]].concat());
    assert_eq!(flaw_of::<Submission>(&body), ("verdict".to_owned(), Flaw::Form("already_answered")));
    // Form accepted, and nothing is set.
    let body = submission_body(2, &[0, 0, 0, 0, 4, 2]);
    assert_eq!(flaw_of::<Submission>(&body), ("verdict".to_owned(), Flaw::Form("accepted")));
    // Form retracted, which has no field, and one is set.
    let body = submission_body(12, &[&[0][..], &already, &[0, 0, 4, 2]].concat());
    assert_eq!(flaw_of::<Submission>(&body), ("verdict".to_owned(), Flaw::Form("retracted")));
}

#[test]
fn a_form_or_kind_of_no_schema_is_refused() {
    assert_eq!(flaw_of::<Submission>(&submission_body(0, &[0, 0, 0, 0, 4, 2])), ("verdict".to_owned(), Flaw::Unknown));
    assert_eq!(
        flaw_of::<Submission>(&submission_body(14, &[0, 0, 0, 0, 4, 2])),
        ("verdict.form".to_owned(), Flaw::Symbol(7))
    );
}

#[test]
fn a_number_above_a_long_cannot_be_written_and_never_wraps() {
    let mut request = samples::request(Kind::PrssInit, RequestBody::PrssInit);
    request.block_number = 1 << 63;
    let error = Codec::single_object().encode(TOPIC, &request).expect_err("is above a long");
    assert_eq!(error.code(), "KC-0205");
    assert_eq!(
        error.to_string(),
        "kms-connector.requests.decryption: org.kmsconnector.Request cannot be written: field block_number: \
         9223372036854775808 is outside the range of an Avro long"
    );
}

#[test]
fn large_values_come_back() {
    let (_, mut letter) = samples::dead_letters().swap_remove(0);
    letter.value = Some(Bytes::from(vec![7; 5 << 20]));
    letter.source = Coordinates { topic: "t".repeat(249), partition: i32::MAX, offset: i64::MAX };
    let codec = Codec::single_object();
    let bytes = codec.encode(TOPIC, &letter).expect("encodes");
    assert_eq!(codec.decode::<DeadLetter>(TOPIC, &bytes).expect("decodes"), letter);
}
