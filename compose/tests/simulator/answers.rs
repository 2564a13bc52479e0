//! What results hold: signatures that recover, the right bytes signed, values that nodes agree on.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::signers::k256::ecdsa::{Signature, VerifyingKey, signature::Verifier};
use alloy::sol_types::{Eip712Domain, SolStruct};
use kms_chain::eip712::message::{
    self, CrsgenVerification, KeygenVerification, PrepKeygenVerification, PublicDecryptVerification,
    UserDecryptResponseVerification,
};
use kms_chain::eip712::recover;
use kms_proto::encoding;
use kms_proto::kms::v1::*;
use kms_stack::simulator::{Mode, material};
use tonic::Code;

use crate::world::*;

alloy::sol! {
    struct UserDecryptionLinker {
        bytes publicKey;
        bytes32[] handles;
        address userAddress;
    }
}

const OTHER_KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

async fn public_result(world: &World, request: PublicDecryptionRequest) -> PublicDecryptionResponse {
    let id = request.request_id.clone().unwrap();
    world.core.clone().public_decrypt(request).await.unwrap();
    world.core.clone().get_public_owned(id).await.unwrap()
}

async fn user_result(world: &World, request: UserDecryptionRequest) -> UserDecryptionResponse {
    let id = request.request_id.clone().unwrap();
    world.core.clone().user_decrypt(request).await.unwrap();
    world.core.clone().get_user_owned(id).await.unwrap()
}

fn signed_by<M: SolStruct>(message: &M, domain: &Eip712Domain, signature: &[u8]) -> Address {
    recover(message.eip712_signing_hash(domain), signature).unwrap()
}

fn public_message(handles: &[B256], response: &PublicDecryptionResponse) -> PublicDecryptVerification {
    let plaintexts = &response.payload.as_ref().unwrap().plaintexts;
    PublicDecryptVerification {
        ctHandles: handles.to_vec(),
        decryptedResult: encoding::decrypted_result(plaintexts).unwrap().into(),
        extraData: Bytes::new(),
    }
}

/// The key of a payload, as the address it stands for.
fn payload_signer(verification_key: &[u8]) -> (VerifyingKey, Address) {
    assert_eq!(verification_key.len(), 41);
    let key = encoding::sec1_of_verification_key(verification_key).unwrap();
    let key = VerifyingKey::from_sec1_bytes(&key).unwrap();
    (key, Address::from_public_key(&key))
}

fn holds_internally(key: &VerifyingKey, separator: &[u8], bincode: &[u8], signature: &[u8]) -> bool {
    assert_eq!(signature.len(), 64);
    let signature = Signature::from_slice(signature).unwrap();
    assert!(signature.normalize_s().is_none(), "s is high");
    key.verify(&[separator, bincode].concat(), &signature).is_ok()
}

#[tokio::test]
async fn a_public_decryption_is_signed_in_the_requests_domain_over_empty_extra_data() {
    let world = World::start().await;
    let response = public_result(&world, public(1)).await;
    let message = public_message(&[handle(7, 5), handle(8, 0)], &response);
    let signer = signed_by(&message, &domain("Decryption"), &response.external_signature);
    assert_eq!(signer, world.node.signer());
    assert!(response.extra_data.is_empty(), "version 0.12 returns none whatever it was given");
    assert!(response.signatures.is_empty());

    let payload = response.payload.unwrap();
    assert_eq!(payload.request_id, Some(public_id(1)));
    let (key, address) = payload_signer(&payload.verification_key);
    assert_eq!(address, world.node.signer());
    assert!(holds_internally(&key, b"PUBL_DEC", &encoding::public_payload(&payload), &response.signature));
}

#[tokio::test]
async fn plaintexts_follow_from_the_handles_in_request_order_with_the_width_of_their_types() {
    let world = World::start().await;
    let types = [0u8, 1, 2, 3, 4, 5, 6, 7, 8];
    let ciphertexts: Vec<_> = (1..).zip(types).map(|(counter, fhe_type)| ciphertext(counter, fhe_type)).collect();
    let response = public_result(&world, PublicDecryptionRequest { ciphertexts, ..public(1) }).await;
    let plaintexts = response.payload.unwrap().plaintexts;
    assert_eq!(plaintexts.len(), types.len());
    for ((counter, fhe_type), plaintext) in (1..).zip(types).zip(plaintexts) {
        assert_eq!(plaintext.fhe_type, i32::from(fhe_type));
        assert_eq!(Some(plaintext.bytes.len()), encoding::plaintext_bytes(fhe_type.into()));
        assert_eq!(Some(plaintext.bytes), material::plaintext(handle(counter, fhe_type).as_slice(), fhe_type.into()));
    }
}

#[tokio::test]
async fn a_plaintext_from_the_table_takes_the_place_of_the_derived_one() {
    let world = World::with(|config| {
        config.plaintexts = BTreeMap::from([(handle(7, 5).to_string(), "0x3279060000000000".to_owned())]);
    })
    .await;
    let words = |response: PublicDecryptionResponse| {
        let words = encoding::decrypted_result(&response.payload.unwrap().plaintexts).unwrap();
        U256::from_be_slice(&words[..32])
    };
    assert_eq!(words(public_result(&world, public(1)).await), U256::from(0x67932));
    world.control.set_plaintext(handle(7, 5), &[1, 0, 0, 0, 0, 0, 0, 0]).await.unwrap();
    assert_eq!(words(public_result(&world, public(2)).await), U256::from(1));
    world.control.remove_plaintext(handle(7, 5)).await.unwrap();
    let derived = material::plaintext(handle(7, 5).as_slice(), 5).unwrap();
    assert_eq!(words(public_result(&world, public(3)).await), U256::from_le_slice(&derived));
}

#[tokio::test]
async fn a_plaintext_of_the_wrong_width_fails_the_decryption() {
    let mut world = World::start().await;
    world.control.set_plaintext(handle(7, 5), &[1]).await.unwrap();
    world.core.public_decrypt(public(1)).await.unwrap();
    assert_eq!(code(world.core.get_public_decryption_result(public_id(1)).await), Code::Internal);
}

#[tokio::test]
async fn equal_handles_in_one_request_are_each_answered() {
    let world = World::start().await;
    let ciphertexts = vec![ciphertext(7, 5), ciphertext(7, 5), ciphertext(8, 0)];
    let response = public_result(&world, PublicDecryptionRequest { ciphertexts, ..public(1) }).await;
    let message = public_message(&[handle(7, 5), handle(7, 5), handle(8, 0)], &response);
    assert_eq!(message.decryptedResult.len(), 96);
    assert_eq!(signed_by(&message, &domain("Decryption"), &response.external_signature), world.node.signer());
}

#[tokio::test]
async fn a_short_handle_is_signed_with_zeros_before_it() {
    let world = World::start().await;
    let short = TypedCiphertext { external_handle: vec![5, 6], ..ciphertext(7, 5) };
    let response = public_result(&world, PublicDecryptionRequest { ciphertexts: vec![short], ..public(1) }).await;
    let message = public_message(&[B256::left_padding_from(&[5, 6])], &response);
    assert_eq!(signed_by(&message, &domain("Decryption"), &response.external_signature), world.node.signer());
}

#[tokio::test]
async fn a_salt_is_part_of_the_domain_that_is_signed_in() {
    let world = World::start().await;
    let salted = Eip712DomainMsg { salt: Some(vec![3; 32]), ..domain_message("Decryption") };
    let response = public_result(&world, PublicDecryptionRequest { domain: Some(salted), ..public(1) }).await;
    let message = public_message(&[handle(7, 5), handle(8, 0)], &response);
    let domain = Eip712Domain { salt: Some(B256::repeat_byte(3)), ..domain("Decryption") };
    assert_eq!(signed_by(&message, &domain, &response.external_signature), world.node.signer());
}

async fn check_user_decryption(world: &World) -> UserDecryptionResponsePayload {
    let response = user_result(world, user(1)).await;
    let handles = vec![handle(7, 5), handle(8, 0)];
    let payload = response.payload.unwrap();
    let bincode = encoding::user_payload(&payload);
    let public_key = Bytes::from(material::user_public_key(1));
    let message = UserDecryptResponseVerification {
        publicKey: public_key.clone(),
        ctHandles: handles.clone(),
        userDecryptedShare: bincode.clone().into(),
        extraData: Bytes::new(),
    };
    assert_eq!(signed_by(&message, &domain("Decryption"), &response.external_signature), world.node.signer());
    assert!(response.extra_data.is_empty());

    let linker = UserDecryptionLinker { publicKey: public_key, handles: handles.clone(), userAddress: USER };
    assert_eq!(payload.digest, linker.eip712_signing_hash(&domain("Decryption")).to_vec());

    let (key, address) = payload_signer(&payload.verification_key);
    assert_eq!(address, world.node.signer());
    assert!(holds_internally(&key, b"USER_DEC", &bincode, &response.signature));

    let echoed: Vec<_> = payload.signcrypted_ciphertexts.iter().map(|share| share.external_handle.clone()).collect();
    assert_eq!(echoed, handles.iter().map(|handle| handle.to_vec()).collect::<Vec<_>>());
    payload
}

/// Nonce, KEM ciphertext, and an AES-GCM ciphertext over share, type, link, signature and key hash, with their lengths.
fn share_length(value: usize) -> usize {
    12 + 8 + 768 + 8 + (8 + value + 4 + 8 + 32) + 64 + 32 + 16
}

#[tokio::test]
async fn a_threshold_share_is_signed_linked_and_as_long_as_a_real_one() {
    let world = World::with(|config| {
        config.party_id = 3;
        config.nodes = 7;
        config.threshold = 2;
    })
    .await;
    let payload = check_user_decryption(&world).await;
    assert_eq!((payload.party_id, payload.degree), (3, 2));
    let shares = &payload.signcrypted_ciphertexts;
    assert!(shares.iter().all(|share| share.packing_factor == 2));
    let lengths: Vec<_> = shares.iter().map(|share| share.signcrypted_ciphertext.len()).collect();
    assert_eq!(lengths, [share_length(8 + 4 * 64), share_length(8 + 64)], "64 bits, one bit");
}

#[tokio::test]
async fn a_centralized_share_names_party_1_degree_0_and_packing_1() {
    let world = World::centralized().await;
    let payload = until_user(&world).await;
    assert_eq!((payload.party_id, payload.degree), (1, 0));
    let shares = &payload.signcrypted_ciphertexts;
    assert!(shares.iter().all(|share| share.packing_factor == 1));
    let lengths: Vec<_> = shares.iter().map(|share| share.signcrypted_ciphertext.len()).collect();
    assert_eq!(lengths, [share_length(8), share_length(1)]);
}

async fn until_user(world: &World) -> UserDecryptionResponsePayload {
    world.core.clone().user_decrypt(user(1)).await.unwrap();
    until_done(|| world.core.clone().get_user_owned(user_id(1))).await.payload.unwrap()
}

#[tokio::test]
async fn preprocessing_key_and_crs_are_signed_without_extra_data() {
    let mut world = World::start().await;
    let prep_number = U256::from_be_slice(&hex::decode(prep_id(1).request_id).unwrap());
    let key_number = U256::from_be_slice(&hex::decode(key_id(2).request_id).unwrap());
    let crs_number = U256::from_be_slice(&hex::decode(crs_id(1).request_id).unwrap());
    let domain = domain("KMSGeneration");

    world.core.key_gen_preproc(prep(1)).await.unwrap();
    let prep = world.core.get_key_gen_preproc_result(prep_id(1)).await.unwrap().into_inner();
    assert_eq!(prep.preprocessing_id, Some(prep_id(1)));
    let message = PrepKeygenVerification { prepKeygenId: prep_number };
    assert_eq!(signed_by(&message, &domain, &prep.external_signature), world.node.signer());

    world.core.key_gen(keygen(2, 1)).await.unwrap();
    let key = world.core.get_key_gen_result(key_id(2)).await.unwrap().into_inner();
    assert_eq!((key.request_id, key.preprocessing_id), (Some(key_id(2)), Some(prep_id(1))));
    let names: Vec<_> = key.key_digests.iter().map(|digest| digest.key_type.as_str()).collect();
    assert_eq!(names, ["ServerKey", "PublicKey"], "the order is that of the signature");
    let digest = |key_type: u8| message::KeyDigest {
        keyType: key_type,
        digest: key.key_digests[usize::from(key_type)].digest.clone().into(),
    };
    let message =
        KeygenVerification { prepKeygenId: prep_number, keyId: key_number, keyDigests: vec![digest(0), digest(1)] };
    assert_eq!(signed_by(&message, &domain, &key.external_signature), world.node.signer());

    world.core.crs_gen(crsgen(1)).await.unwrap();
    let crs = world.core.get_crs_gen_result(crs_id(1)).await.unwrap().into_inner();
    assert_eq!((crs.request_id, crs.max_num_bits, crs.crs_digest.len()), (Some(crs_id(1)), 1024, 32));
    let message =
        CrsgenVerification { crsId: crs_number, maxBitLength: U256::from(1024), crsDigest: crs.crs_digest.into() };
    assert_eq!(signed_by(&message, &domain, &crs.external_signature), world.node.signer());
}

#[tokio::test]
async fn nodes_agree_on_values_and_digests_and_differ_in_signatures_and_shares() {
    let mut one = World::start().await;
    let mut other = World::with(|config| {
        *config = kms_stack::simulator::SimulatorConfig {
            private_key: Some(kms_stack::simulator::PrivateKey::new(OTHER_KEY)),
            party_id: 2,
            ..config.clone()
        };
    })
    .await;
    assert_ne!(one.node.signer(), other.node.signer());

    let (mine, theirs) = (public_result(&one, public(1)).await, public_result(&other, public(1)).await);
    assert_eq!(mine.payload.unwrap().plaintexts, theirs.payload.unwrap().plaintexts);
    assert_ne!(mine.external_signature, theirs.external_signature);

    let (mine, theirs) = (user_result(&one, user(1)).await, user_result(&other, user(1)).await);
    let (mine, theirs) = (mine.payload.unwrap(), theirs.payload.unwrap());
    assert_eq!(mine.digest, theirs.digest);
    assert_eq!((mine.party_id, theirs.party_id), (1, 2));
    assert_ne!(mine.signcrypted_ciphertexts, theirs.signcrypted_ciphertexts);

    let (mine, theirs) = (one.make_key(2, 1).await, other.make_key(2, 1).await);
    assert_eq!(mine.key_digests, theirs.key_digests);
    assert_ne!(mine.external_signature, theirs.external_signature);

    for world in [&mut one, &mut other] {
        world.core.crs_gen(crsgen(1)).await.unwrap();
    }
    let mine = one.core.get_crs_gen_result(crs_id(1)).await.unwrap().into_inner();
    let theirs = other.core.get_crs_gen_result(crs_id(1)).await.unwrap().into_inner();
    assert_eq!(mine.crs_digest, theirs.crs_digest);
    assert_ne!(mine.external_signature, theirs.external_signature);
}

#[tokio::test]
async fn both_forms_of_user_keys_are_accepted() {
    let mut legacy = 1568u64.to_le_bytes().to_vec();
    legacy.extend([4; 1568]);
    let mut world = World::start().await;
    let request = UserDecryptionRequest { enc_key: legacy, ..user(1) };
    assert_eq!(code(world.core.user_decrypt(request).await), Code::Ok);
    assert_eq!(code(world.core.user_decrypt(user(2)).await), Code::Ok);
}

#[tokio::test]
async fn unchecked_user_keys_and_unknown_keys_are_accepted_where_configured() {
    let mut world = World::with(|config| {
        config.check_user_keys = false;
        config.any_key = true;
    })
    .await;
    let request = UserDecryptionRequest { enc_key: vec![1, 2, 3], key_id: Some(key_id(99)), ..user(1) };
    assert_eq!(code(world.core.user_decrypt(request).await), Code::Ok);
    assert_eq!(world.node.signer().to_checksum(None), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
    assert_eq!(world.control.node().await.unwrap().mode, Mode::Threshold);
}
