//! KMS Core's worked vectors against the simulator's signatures, digests and layouts.

use alloy::primitives::{Address, B256, U256, keccak256};
use alloy::signers::k256::ecdsa::{Signature, SigningKey, VerifyingKey, signature::Verifier};
use alloy::sol_types::{Eip712Domain, SolStruct};
use kms_chain::eip712::{self, message, message_b, recover};
use kms_proto::encoding;
use serde_json::Value;

use super::material::{encapsulation_key, shake};
use super::signing::{self, Signing, UserDecryptionLinker};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../proto/vectors/kms-core.json")).unwrap()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn unhex(value: &Value) -> Vec<u8> {
    super::config::parse_bytes(value.as_str().unwrap()).unwrap()
}

fn word(value: &Value) -> B256 {
    value.as_str().unwrap().parse().unwrap()
}

fn words(value: &Value) -> Vec<B256> {
    array(value).iter().map(word).collect()
}

fn number(value: &Value) -> U256 {
    value.as_str().map_or_else(|| U256::from(value.as_u64().unwrap()), |text| text.parse().unwrap())
}

fn address(value: &Value) -> Address {
    value.as_str().unwrap().parse().unwrap()
}

fn domain(value: &Value) -> Eip712Domain {
    let text = |key: &str| Some(value[key].as_str().unwrap().to_owned().into());
    Eip712Domain {
        name: text("name"),
        version: text("version"),
        chain_id: Some(number(&value["chain_id"])),
        verifying_contract: Some(address(&value["verifying_contract"])),
        salt: None,
    }
}

fn test_node() -> Signing {
    let key = unhex(&vectors()["test_signing_key"]["private_key"]);
    Signing::new(SigningKey::from_slice(&key).unwrap())
}

/// The digest of a vector's typed message, by the type it names.
fn digest(vector: &Value) -> B256 {
    let (domain, fields) = (domain(&vector["domain"]), &vector["message"]);
    let bytes = |key: &str| unhex(&fields[key]).into();
    let primary_type = vector["primary_type"].as_str().unwrap();
    let of_type =
        |candidate: String| primary_type == candidate || candidate.starts_with(&format!("{primary_type}KeyDigest"));
    fn type_of<M: SolStruct>() -> String {
        M::eip712_encode_type().into_owned()
    }
    let digests = || array(&fields["keyDigests"]).iter();
    let key_type = |entry: &Value| u8::try_from(entry["keyType"].as_u64().unwrap()).unwrap();
    if of_type(type_of::<message::PublicDecryptVerification>()) {
        message::PublicDecryptVerification {
            ctHandles: words(&fields["ctHandles"]),
            decryptedResult: bytes("decryptedResult"),
            extraData: bytes("extraData"),
        }
        .eip712_signing_hash(&domain)
    } else if of_type(type_of::<message::UserDecryptResponseVerification>()) {
        message::UserDecryptResponseVerification {
            publicKey: bytes("publicKey"),
            ctHandles: words(&fields["ctHandles"]),
            userDecryptedShare: bytes("userDecryptedShare"),
            extraData: bytes("extraData"),
        }
        .eip712_signing_hash(&domain)
    } else if of_type(type_of::<message::PrepKeygenVerification>()) {
        message::PrepKeygenVerification { prepKeygenId: number(&fields["prepKeygenId"]) }.eip712_signing_hash(&domain)
    } else if of_type(type_of::<message_b::PrepKeygenVerification>()) {
        message_b::PrepKeygenVerification {
            prepKeygenId: number(&fields["prepKeygenId"]),
            extraData: bytes("extraData"),
        }
        .eip712_signing_hash(&domain)
    } else if of_type(type_of::<message::KeygenVerification>()) {
        let one =
            |entry: &Value| message::KeyDigest { keyType: key_type(entry), digest: unhex(&entry["digest"]).into() };
        message::KeygenVerification {
            prepKeygenId: number(&fields["prepKeygenId"]),
            keyId: number(&fields["keyId"]),
            keyDigests: digests().map(one).collect(),
        }
        .eip712_signing_hash(&domain)
    } else if of_type(type_of::<message_b::KeygenVerification>()) {
        let one =
            |entry: &Value| message_b::KeyDigest { keyType: key_type(entry), digest: unhex(&entry["digest"]).into() };
        message_b::KeygenVerification {
            prepKeygenId: number(&fields["prepKeygenId"]),
            keyId: number(&fields["keyId"]),
            keyDigests: digests().map(one).collect(),
            extraData: bytes("extraData"),
        }
        .eip712_signing_hash(&domain)
    } else if of_type(type_of::<message::CrsgenVerification>()) {
        message::CrsgenVerification {
            crsId: number(&fields["crsId"]),
            maxBitLength: number(&fields["maxBitLength"]),
            crsDigest: bytes("crsDigest"),
        }
        .eip712_signing_hash(&domain)
    } else if of_type(type_of::<message_b::CrsgenVerification>()) {
        message_b::CrsgenVerification {
            crsId: number(&fields["crsId"]),
            maxBitLength: number(&fields["maxBitLength"]),
            crsDigest: bytes("crsDigest"),
            extraData: bytes("extraData"),
        }
        .eip712_signing_hash(&domain)
    } else {
        panic!("no message of type {primary_type} is known")
    }
}

#[test]
fn typed_messages_have_the_digests_and_signatures_of_their_vectors() {
    let (all, node) = (vectors(), test_node());
    assert_eq!(node.address(), address(&all["test_signing_key"]["address"]));
    let mut signed = 0;
    for vector in array(&all["eip712"]) {
        let digest = digest(vector);
        assert_eq!(digest, word(&vector["digest"]), "{}", vector["name"]);
        if let Some(signature) = vector.get("signature") {
            assert_eq!(node.sign_digest(digest).unwrap(), unhex(signature), "{}", vector["name"]);
            assert_eq!(recover(digest, &unhex(signature)), Ok(node.address()));
            signed += 1;
        }
    }
    assert!(signed > 0, "no vector holds a signature");
}

#[test]
fn payloads_have_the_internal_signatures_and_keys_of_their_vectors() {
    let (all, node) = (vectors(), test_node());
    let find = |name| array(&all["bincode"]).iter().find(|vector| vector["name"] == name).unwrap();
    assert_eq!(node.verification_key(), unhex(&find("verification_key")["hex"]));
    for (name, separator) in
        [("public_payload", signing::PUBLIC_DECRYPTION), ("user_payload", signing::USER_DECRYPTION)]
    {
        let vector = find(name);
        assert_eq!(separator, vector["internal_signature_domain_separator"].as_str().unwrap().as_bytes());
        let signature = node.sign_internally(separator, &unhex(&vector["hex"]));
        assert_eq!(signature, unhex(&vector["internal_signature"]), "{name}");
    }
}

#[test]
fn a_share_of_a_deployed_network_links_and_recovers_as_recorded() {
    let all = vectors();
    let real = &all["real_transcript"];
    let domain = domain(&real["domain"]);
    let linker = UserDecryptionLinker {
        publicKey: unhex(&real["enc_key"]).into(),
        handles: words(&real["ct_handles"]),
        userAddress: address(&real["client_address"]),
    };
    assert_eq!(linker.eip712_signing_hash(&domain), word(&real["linker_digest"]));
    let response = message::UserDecryptResponseVerification {
        publicKey: unhex(&real["enc_key"]).into(),
        ctHandles: words(&real["ct_handles"]),
        userDecryptedShare: unhex(&real["payload_bincode"]).into(),
        extraData: real.get("extra_data").map(unhex).unwrap_or_default().into(),
    };
    let digest = response.eip712_signing_hash(&domain);
    assert_eq!(digest, word(&real["response_digest"]));
    let signer = recover(digest, &unhex(&real["external_signature"])).unwrap();
    assert_eq!(signer, address(&real["recovered_signer"]));
    assert_eq!(signer, address(&real["kms_signers"][real["party_id"].to_string()]));
    let key = encoding::sec1_of_verification_key(&unhex(&real["payload_bincode"])[8..49]).unwrap();
    assert_eq!(Address::from_public_key(&VerifyingKey::from_sec1_bytes(&key).unwrap()), signer);
}

#[test]
fn made_up_shares_are_as_long_as_real_ones() {
    let all = vectors();
    let share = |fhe_type: &Value, threshold| {
        let fhe_type = i32::try_from(fhe_type.as_i64().unwrap()).unwrap();
        super::material::signcrypted_share(&[], fhe_type, threshold).unwrap().len()
    };
    let (real, central) = (&all["real_transcript"], &all["signcryption"]);
    assert_eq!(share(&real["fhe_type"], true) as u64, real["signcrypted_ciphertext_length"].as_u64().unwrap());
    assert_eq!(share(&central["fhe_type"], false), unhex(&central["signcrypted_ciphertext"]).len());
}

/// What needs an ML-KEM implementation stays out: the seed, the decapsulation key, the shared secret, the opened ciphertext.
#[test]
fn a_signcrypted_share_is_laid_out_as_its_vector() {
    let (all, node) = (vectors(), test_node());
    let vector = &all["signcryption"];
    let (link, message) = (unhex(&vector["link"]), unhex(&vector["message"]));
    let fhe_type = i32::try_from(vector["fhe_type"].as_i64().unwrap()).unwrap();
    assert_eq!(encoding::signcryption_message(&unhex(&vector["plaintext"]), fhe_type, &link), message);

    let enc_key = unhex(&vector["enc_key"]);
    let encapsulation = encapsulation_key(&enc_key, false).unwrap();
    assert_eq!(encapsulation, unhex(&vector["user_encapsulation_key"]));

    let length = (encapsulation.len() as u64).to_le_bytes();
    let client = address(&vector["client_address"]);
    let user_id = shake(b"SIGNCRYP", &[&length, encapsulation], 32);
    let signed = [signing::USER_DECRYPTION, &message, client.as_slice(), &user_id].concat();
    let inner_signature = unhex(&vector["inner_signature"]);
    let key = encoding::sec1_of_verification_key(&node.verification_key()).unwrap();
    let key = VerifyingKey::from_sec1_bytes(&key).unwrap();
    key.verify(&signed, &Signature::from_slice(&inner_signature).unwrap()).unwrap();

    let node_id = shake(b"SIGNCRYP", &[&node.verification_key()], 32);
    assert_eq!([message, inner_signature, node_id].concat(), unhex(&vector["inner_plaintext_hex"]));

    let whole = unhex(&vector["signcrypted_ciphertext"]);
    let kem = unhex(&vector["kem_ciphertext"]);
    let head = [unhex(&vector["aes256gcm_nonce"]), (kem.len() as u64).to_le_bytes().to_vec(), kem].concat();
    assert!(whole.starts_with(&head));
    let rest = &whole[head.len()..];
    let tag = 16;
    assert_eq!(rest.len(), 8 + unhex(&vector["inner_plaintext_hex"]).len() + tag);
    assert_eq!(rest[..8], ((rest.len() - 8) as u64).to_le_bytes());
}

#[test]
fn ids_and_digests_are_derived_as_in_their_vectors() {
    let misc = &vectors()["misc"];
    for vector in array(&misc["derived_ids"]) {
        let name = vector["name"].as_str().unwrap().as_bytes();
        let id = shake(b"REQST_ID", &[&(name.len() as u64).to_le_bytes(), name], 32);
        assert_eq!(id, unhex(&vector["id"]));
    }
    for vector in array(&misc["shake_digest_examples"]) {
        let text = |key: &str| vector[key].as_str().unwrap().as_bytes();
        assert_eq!(shake(text("domain_separator"), &[text("input_utf8")], 32), unhex(&vector["digest"]));
    }
}

#[test]
fn ciphertext_objects_are_named_and_attested_as_in_their_vectors() {
    let all = vectors();
    let s3 = &all["s3"];
    assert_eq!(s3["digest_algorithm"], "keccak-256 over the raw object body, no domain separator");
    for vector in array(&s3["digests"]) {
        let body = match vector.get("body_utf8") {
            Some(text) => text.as_str().unwrap().as_bytes().to_vec(),
            None => {
                let repeat = &vector["body_repeat"];
                let byte = u8::try_from(repeat["byte"].as_u64().unwrap()).unwrap();
                vec![byte; usize::try_from(repeat["count"].as_u64().unwrap()).unwrap()]
            }
        };
        assert_eq!(keccak256(body), word(&vector["keccak256"]));
    }

    let layout = &s3["layout_dec_2025"];
    let digest = word(&array(&s3["digests"])[3]["keccak256"]);
    let url = format!("{}/{}", layout["bucket_url"].as_str().unwrap(), hex::encode(digest));
    assert_eq!(url, layout["url"].as_str().unwrap());

    let attestation = &s3["attestation"];
    let handle = word(&attestation["handle"]);
    let context = attestation["coprocessor_context_id"].as_u64().unwrap();
    let layout = &s3["layout_head"];
    let url = format!("{}/ct128/{}/{context}", layout["bucket_url"].as_str().unwrap(), hex::encode(handle));
    assert_eq!(url, layout["url"].as_str().unwrap());
    let canonical = [
        b"FHEVMCTA".to_vec(),
        vec![u8::try_from(attestation["version"].as_u64().unwrap()).unwrap()],
        handle.to_vec(),
        unhex(&attestation["key_id"]),
        U256::from(context).to_be_bytes_vec(),
        unhex(&attestation["ciphertext_digest"]),
        unhex(&attestation["sns_ciphertext_digest"]),
        vec![u8::try_from(attestation["format_byte"].as_u64().unwrap()).unwrap()],
    ]
    .concat();
    assert_eq!(canonical, unhex(&attestation["canonical_bytes"]));
    let digest = keccak256(canonical);
    assert_eq!(digest, word(&attestation["canonical_digest"]));
    assert_eq!(eip712::recover(digest, &unhex(&attestation["signature"])), Ok(address(&attestation["signer"])));
    let header: Value = serde_json::from_str(attestation["header_value"].as_str().unwrap()).unwrap();
    assert_eq!(number(&header["key_id"]), number(&attestation["key_id"]));
    assert_eq!(address(&header["signer"]), address(&attestation["signer"]));
    for key in ["version", "ciphertext_digest", "sns_ciphertext_digest", "format", "signature"] {
        assert_eq!(header[key], attestation[key], "{key}");
    }
}
