//! Worked vectors of KMS Core: messages, encodings and ids. The last test keeps account of where each vector is used.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, num::NonZeroUsize, path::Path};

use kms_proto::{
    encoding, extra_data, handle, id,
    kms::v1::{
        self as kms, PublicDecryptionResponsePayload, TypedPlaintext, TypedSigncryptedCiphertext,
        UserDecryptionResponsePayload,
    },
    metastore_status::v1 as metastore,
};
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value as Field, prost::Message,
};
use serde_json::Value;

/// Vectors that are used by the crate whose code they concern, by path prefix and the file whose tests use them.
const USED_ELSEWHERE: &[(&str, &str)] = &[
    ("eip712/", "compose/src/simulator/vectors.rs"),
    ("signcryption/", "compose/src/simulator/vectors.rs"),
    ("real_transcript/external_signature", "compose/src/simulator/vectors.rs"),
    ("misc/derived_ids/", "compose/src/simulator/vectors.rs"),
    ("misc/shake_digest_examples/", "compose/src/simulator/vectors.rs"),
    ("s3/", "compose/src/simulator/vectors.rs"),
];

/// Vectors that nothing can test, because they are remarks.
const REMARKS: &[&str] = &["about", "sources", "test_signing_key/note", "misc/shard_choice"];

fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/kms-core.json")).unwrap()
}

fn unhex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap_or_else(|| panic!("{text} is no text"));
    hex::decode(text.strip_prefix("0x").unwrap_or(text)).unwrap()
}

fn word(text: &Value) -> [u8; 32] {
    unhex(text).try_into().unwrap()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn int32(value: &Value) -> i32 {
    i32::try_from(value.as_i64().unwrap()).unwrap()
}

/// A message with exactly the fields that the vector lists, built from the descriptors alone.
fn dynamic(descriptor: MessageDescriptor, fields: &Value) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for (name, value) in fields.as_object().unwrap() {
        let field = descriptor.get_field_by_name(name);
        let field = field.unwrap_or_else(|| panic!("{} lacks {name}", descriptor.full_name()));
        let value = match value {
            Value::Array(entries) => Field::List(entries.iter().map(|entry| single(&field, entry)).collect()),
            value => single(&field, value),
        };
        message.set_field(&field, value);
    }
    message
}

fn single(field: &FieldDescriptor, value: &Value) -> Field {
    match field.kind() {
        Kind::Message(descriptor) => Field::Message(dynamic(descriptor, value)),
        Kind::Bytes => Field::Bytes(unhex(value).into()),
        Kind::String => Field::String(value.as_str().unwrap().to_owned()),
        Kind::Int32 => Field::I32(int32(value)),
        Kind::Uint32 => Field::U32(u32::try_from(value.as_u64().unwrap()).unwrap()),
        Kind::Uint64 => Field::U64(value.as_u64().unwrap()),
        Kind::Bool => Field::Bool(value.as_bool().unwrap()),
        Kind::Enum(enumeration) => {
            let squeeze = |text: &str| text.replace('_', "").to_lowercase();
            let wanted = squeeze(value.as_str().unwrap());
            let prefix = squeeze(enumeration.name());
            let found = enumeration.values().find(|candidate| {
                let name = squeeze(candidate.name());
                name == wanted || name.strip_prefix(&prefix) == Some(&wanted)
            });
            Field::EnumNumber(found.unwrap_or_else(|| panic!("{} lacks {value}", enumeration.full_name())).number())
        }
        kind => panic!("no vector uses {kind:?}"),
    }
}

/// Decodes with the generated type and encodes again.
fn through_generated_type(message: &str, bytes: &[u8]) -> Vec<u8> {
    fn pass<M: Message + Default>(bytes: &[u8]) -> Vec<u8> {
        M::decode(bytes).unwrap().encode_to_vec()
    }
    match message {
        "kms.v1.Empty" => pass::<kms::Empty>(bytes),
        "kms.v1.RequestId" => pass::<kms::RequestId>(bytes),
        "kms.v1.PublicDecryptionRequest" => pass::<kms::PublicDecryptionRequest>(bytes),
        "kms.v1.PublicDecryptionResponse" => pass::<kms::PublicDecryptionResponse>(bytes),
        "kms.v1.UserDecryptionRequest" => pass::<kms::UserDecryptionRequest>(bytes),
        "kms.v1.UserDecryptionResponse" => pass::<kms::UserDecryptionResponse>(bytes),
        "kms.v1.KeyGenPreprocRequest" => pass::<kms::KeyGenPreprocRequest>(bytes),
        "kms.v1.KeyGenPreprocResult" => pass::<kms::KeyGenPreprocResult>(bytes),
        "kms.v1.KeyGenRequest" => pass::<kms::KeyGenRequest>(bytes),
        "kms.v1.KeyGenResult" => pass::<kms::KeyGenResult>(bytes),
        "kms.v1.CrsGenRequest" => pass::<kms::CrsGenRequest>(bytes),
        "kms.v1.CrsGenResult" => pass::<kms::CrsGenResult>(bytes),
        "kms.v1.InitRequest" => pass::<kms::InitRequest>(bytes),
        "kms.v1.InitiateResharingRequest" => pass::<kms::InitiateResharingRequest>(bytes),
        "kms.v1.InitiateResharingResponse" => pass::<kms::InitiateResharingResponse>(bytes),
        "kms.v1.ResharingResultResponse" => pass::<kms::ResharingResultResponse>(bytes),
        "kms.v1.NewMpcContextRequest" => pass::<kms::NewMpcContextRequest>(bytes),
        "kms.v1.DestroyMpcContextRequest" => pass::<kms::DestroyMpcContextRequest>(bytes),
        "kms.v1.DestroyMpcContextResponse" => pass::<kms::DestroyMpcContextResponse>(bytes),
        "kms.v1.NewMpcEpochRequest" => pass::<kms::NewMpcEpochRequest>(bytes),
        "kms.v1.EpochResultResponse" => pass::<kms::EpochResultResponse>(bytes),
        "kms.v1.DestroyMpcEpochRequest" => pass::<kms::DestroyMpcEpochRequest>(bytes),
        "kms.v1.KeyMaterialAvailabilityResponse" => pass::<kms::KeyMaterialAvailabilityResponse>(bytes),
        "kms.v1.HealthStatusResponse" => pass::<kms::HealthStatusResponse>(bytes),
        "metastore_status.v1.GetRequestStatusesRequest" => pass::<metastore::GetRequestStatusesRequest>(bytes),
        "metastore_status.v1.GetRequestStatusesResponse" => pass::<metastore::GetRequestStatusesResponse>(bytes),
        "grpc.health.v1.HealthCheckRequest" => pass::<tonic_health::pb::HealthCheckRequest>(bytes),
        "grpc.health.v1.HealthCheckResponse" => pass::<tonic_health::pb::HealthCheckResponse>(bytes),
        other => panic!("a vector of {other} is not tested"),
    }
}

#[test]
fn every_message_encodes_to_the_bytes_of_its_vector() {
    let pool = DescriptorPool::decode(kms_proto::FILE_DESCRIPTOR_SET).unwrap();
    for vector in array(&vectors()["messages"]) {
        let message = vector["message"].as_str().unwrap();
        if let Some(descriptor) = pool.get_message_by_name(message) {
            let encoded = dynamic(descriptor, &vector["fields"]).encode_to_vec();
            assert_eq!(encoded, unhex(&vector["hex"]), "{}", vector["name"]);
        } else {
            assert!(message.starts_with("grpc.health.v1."), "{message} has no descriptor");
        }
    }
}

#[test]
fn every_message_survives_the_generated_types() {
    for vector in array(&vectors()["messages"]) {
        let bytes = unhex(&vector["hex"]);
        assert_eq!(bytes.len() as u64, vector["length"].as_u64().unwrap(), "{}", vector["name"]);
        let again = through_generated_type(vector["message"].as_str().unwrap(), &bytes);
        assert_eq!(again, bytes, "{}", vector["name"]);
    }
}

#[test]
fn the_health_messages_say_what_their_vectors_say() {
    let all = vectors();
    let find = |name| array(&all["messages"]).iter().find(|vector| vector["name"] == name).unwrap();
    let (request, response) = (find("grpc_health_request"), find("grpc_health_response"));
    let asked = tonic_health::pb::HealthCheckRequest::decode(&*unhex(&request["hex"])).unwrap();
    assert_eq!(asked.service, request["fields"]["service"]);
    assert_eq!(asked.service, kms_proto::CORE_SERVICE_NAME);
    let answered = tonic_health::pb::HealthCheckResponse::decode(&*unhex(&response["hex"])).unwrap();
    assert_eq!(answered.status().as_str_name(), response["fields"]["status"]);
}

fn plaintexts(value: &Value) -> Vec<TypedPlaintext> {
    let one = |entry: &Value| TypedPlaintext { bytes: unhex(&entry["bytes"]), fhe_type: int32(&entry["fhe_type"]) };
    array(value).iter().map(one).collect()
}

fn user_payload(fields: &Value) -> UserDecryptionResponsePayload {
    let share = |entry: &Value| TypedSigncryptedCiphertext {
        fhe_type: int32(&entry["fhe_type"]),
        signcrypted_ciphertext: unhex(&entry["signcrypted_ciphertext"]),
        external_handle: unhex(&entry["external_handle"]),
        packing_factor: u32::try_from(entry["packing_factor"].as_u64().unwrap()).unwrap(),
    };
    UserDecryptionResponsePayload {
        verification_key: unhex(&fields["verification_key"]),
        digest: unhex(&fields["digest"]),
        signcrypted_ciphertexts: array(&fields["signcrypted_ciphertexts"]).iter().map(share).collect(),
        party_id: u32::try_from(fields["party_id"].as_u64().unwrap()).unwrap(),
        degree: u32::try_from(fields["degree"].as_u64().unwrap()).unwrap(),
    }
}

#[test]
fn payloads_have_the_bincode_of_their_vectors() {
    let all = vectors();
    let signing_key = &all["test_signing_key"];
    for vector in array(&all["bincode"]) {
        let fields = &vector["fields"];
        let encoded = match vector["name"].as_str().unwrap() {
            "verification_key" => {
                assert_eq!(vector["private_key"], signing_key["private_key"]);
                let sec1: [u8; 33] = unhex(&vector["sec1_compressed"]).try_into().unwrap();
                let field = encoding::verification_key(&sec1);
                assert_eq!(encoding::sec1_of_verification_key(&field), Ok(sec1));
                field.to_vec()
            }
            "public_payload" => encoding::public_payload(&PublicDecryptionResponsePayload {
                verification_key: unhex(&fields["verification_key"]),
                plaintexts: plaintexts(&fields["plaintexts"]),
                request_id: Some(id::to_message(&word(&fields["request_id"]))),
            }),
            "user_payload" => encoding::user_payload(&user_payload(fields)),
            "signcryption_payload" => {
                let (bytes, link) = (unhex(&fields["bytes"]), unhex(&fields["link"]));
                encoding::signcryption_message(&bytes, int32(&fields["fhe_type"]), &link)
            }
            other => panic!("bincode vector {other} is not tested"),
        };
        assert_eq!(encoded, unhex(&vector["hex"]), "{}", vector["name"]);
    }
}

#[test]
fn a_payload_of_a_deployed_network_is_rebuilt_byte_by_byte() {
    let all = vectors();
    let real = &all["real_transcript"];
    let bincode = unhex(&real["payload_bincode"]);
    // verification_key and digest lead, party id and degree end; the one share lies between.
    let share_bytes = usize::try_from(real["signcrypted_ciphertext_length"].as_u64().unwrap()).unwrap();
    let share_at = 8 + 41 + 8 + 32 + 8 + 4 + 8;
    let payload = UserDecryptionResponsePayload {
        verification_key: bincode[8..49].to_vec(),
        digest: unhex(&real["linker_digest"]),
        signcrypted_ciphertexts: vec![TypedSigncryptedCiphertext {
            fhe_type: int32(&real["fhe_type"]),
            signcrypted_ciphertext: bincode[share_at..share_at + share_bytes].to_vec(),
            external_handle: unhex(&real["ct_handles"][0]),
            packing_factor: u32::try_from(real["packing_factor"].as_u64().unwrap()).unwrap(),
        }],
        party_id: u32::try_from(real["party_id"].as_u64().unwrap()).unwrap(),
        degree: u32::try_from(real["degree"].as_u64().unwrap()).unwrap(),
    };
    assert_eq!(encoding::user_payload(&payload), bincode);
    assert!(encoding::sec1_of_verification_key(&payload.verification_key).is_ok());
}

#[test]
fn plaintexts_become_the_words_of_their_vectors() {
    for vector in array(&vectors()["abi_encoded_plaintexts"]) {
        let words = encoding::decrypted_result(&plaintexts(&vector["plaintexts"])).unwrap();
        assert_eq!(words, unhex(&vector["decrypted_result"]), "{}", vector["name"]);
    }
}

#[test]
fn ids_are_written_and_read_as_in_their_vectors() {
    let all = vectors();
    for vector in array(&all["misc"]["request_id_encoding"]) {
        let text = vector["request_id"].as_str().unwrap();
        let parsed = id::parse(text).unwrap();
        assert_eq!(id::to_message(&parsed).request_id, text);
        let decimal = vector["uint256"].to_string();
        assert_eq!(parsed, big_endian(decimal.trim_matches('"')), "{text}");
    }
    for (name, value) in all["ids"].as_object().unwrap() {
        let text = value.as_str().unwrap();
        assert_eq!(id::to_message(&id::parse(text).unwrap()).request_id, text[2..], "{name}");
    }
}

/// 32 big-endian bytes of a decimal number.
fn big_endian(decimal: &str) -> [u8; 32] {
    let mut out = [0u8; 32];
    for digit in decimal.bytes() {
        let mut carry = u32::from(digit - b'0');
        for byte in out.iter_mut().rev() {
            carry += u32::from(*byte) * 10;
            *byte = carry.to_be_bytes()[3];
            carry >>= 8;
        }
        assert_eq!(carry, 0);
    }
    out
}

#[test]
fn ids_choose_the_endpoints_of_their_vectors() {
    for vector in array(&vectors()["misc"]["shard_examples"]) {
        let endpoints = NonZeroUsize::new(usize::try_from(vector["endpoints"].as_u64().unwrap()).unwrap()).unwrap();
        let chosen = id::endpoint_index(&word(&vector["id"]), endpoints);
        assert_eq!(chosen as u64, vector["index"].as_u64().unwrap(), "{vector}");
    }
}

#[test]
fn default_ids_are_those_of_their_vectors() {
    let defaults = &vectors()["misc"]["default_ids"];
    let (old, new) = (&defaults["v0.12.4 to v0.13.3"], &defaults["from v0.13.10"]);
    assert_eq!(id::DEFAULT_CONTEXT_UNTIL_V0_13_3, word(&old["mpc_context"]));
    assert_eq!(id::DEFAULT_EPOCH_UNTIL_V0_13_3, word(&old["epoch"]));
    assert_eq!(id::DEFAULT_CONTEXT, word(&new["mpc_context"]));
    assert_eq!(id::DEFAULT_EPOCH, word(&new["epoch"]));
}

#[test]
fn extra_data_names_the_context_and_epoch_of_its_vectors() {
    for vector in array(&vectors()["misc"]["extra_data"]) {
        let read = extra_data::parse(&unhex(&vector["hex"])).unwrap();
        let optional = |value: &Value| (!value.is_null()).then(|| word(value));
        assert_eq!(read.context_id, optional(&vector["context_id"]), "{vector}");
        assert_eq!(read.epoch_id, optional(&vector["epoch_id"]), "{vector}");
    }
}

#[test]
fn handles_have_the_parts_of_their_vectors() {
    for vector in array(&vectors()["misc"]["handles"]) {
        let parts = handle::parts(&word(&vector["handle"]));
        assert_eq!(parts.hash.to_vec(), unhex(&vector["random21"]));
        assert_eq!(u64::from(parts.index), vector["index_byte_21"].as_u64().unwrap());
        assert_eq!(parts.chain_id, vector["chain_id_bytes_22_29"].as_u64().unwrap());
        assert_eq!(u64::from(parts.fhe_type), vector["fhe_type_byte_30"].as_u64().unwrap());
        assert_eq!(u64::from(parts.version), vector["version_byte_31"].as_u64().unwrap());
    }
}

/// Every vector as `group`, `group/entry` or `group/list/position`.
fn names(all: &Value) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (group, entries) in all.as_object().unwrap() {
        match entries {
            Value::Object(entries) => {
                for (name, entry) in entries {
                    let list = entry.as_array().filter(|_| group == "misc" || group == "s3");
                    match list {
                        Some(list) => names.extend((0..list.len()).map(|at| format!("{group}/{name}/{at}"))),
                        None => names.extend([format!("{group}/{name}")]),
                    }
                }
            }
            Value::Array(entries) if entries.iter().all(Value::is_object) => {
                names.extend(entries.iter().map(|entry| format!("{group}/{}", entry["name"].as_str().unwrap())));
            }
            _ => names.extend([group.clone()]),
        }
    }
    names
}

/// Groups that the tests of this file iterate over as a whole.
const USED_HERE: &[&str] = &[
    "test_signing_key/",
    "ids/",
    "messages/",
    "bincode/",
    "abi_encoded_plaintexts/",
    "real_transcript/",
    "misc/request_id_encoding/",
    "misc/shard_examples/",
    "misc/extra_data/",
    "misc/handles/",
    "misc/default_ids",
];

#[test]
fn every_vector_is_used_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let unused: Vec<_> = names(&vectors())
        .into_iter()
        .filter(|name| !REMARKS.contains(&name.as_str()))
        .filter(|name| !USED_HERE.iter().any(|prefix| name.starts_with(prefix)))
        .filter(|name| !USED_ELSEWHERE.iter().any(|(prefix, _)| name.starts_with(prefix)))
        .collect();
    assert!(unused.is_empty(), "no test uses {unused:?}");

    for (prefix, file) in USED_ELSEWHERE {
        let source = fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        let group = prefix.trim_end_matches('/').split('/').next_back().unwrap();
        assert!(source.contains(&format!("\"{group}\"")), "{file} does not use {prefix}");
    }
}
