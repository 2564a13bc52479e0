//! What results hold where versions differ: extra data, key sets, signature schemes, and what an epoch takes over.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::sol_types::SolStruct;
use kms_chain::eip712::{message, message_b, recover};
use kms_proto::encoding;
use kms_proto::kms::v1::*;
use kms_stack::simulator::{CoreVersion, KeyLayout, PrivateKey, material};
use tonic::Code;

use CoreVersion::*;

use crate::world::*;

const OTHER_KEY: &str = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d";

fn signer_of<M: SolStruct>(message: &M, domain_name: &str, signature: &[u8]) -> Address {
    recover(message.eip712_signing_hash(&domain(domain_name)), signature).unwrap()
}

#[tokio::test]
async fn decryptions_sign_and_return_the_extra_data_from_0_13_10_on_and_none_before() {
    for version in CoreVersion::ALL {
        let mut world = World::threshold(version).await;
        let given = extra_data(1, 1);
        let expected = if version < V0_13_10 { vec![] } else { given.clone() };
        let handles = vec![handle(7, 5), handle(8, 0)];

        world.core.public_decrypt(PublicDecryptionRequest { extra_data: given.clone(), ..public(1) }).await.unwrap();
        let response = world.core.get_public_decryption_result(public_id(1)).await.unwrap().into_inner();
        assert_eq!(response.extra_data, expected, "{version:?}");
        let message = message::PublicDecryptVerification {
            ctHandles: handles.clone(),
            decryptedResult: encoding::decrypted_result(&response.payload.unwrap().plaintexts).unwrap().into(),
            extraData: expected.clone().into(),
        };
        assert_eq!(signer_of(&message, "Decryption", &response.external_signature), SIGNER, "{version:?}");

        world.core.user_decrypt(UserDecryptionRequest { extra_data: given, ..user(1) }).await.unwrap();
        let response = world.core.get_user_decryption_result(user_id(1)).await.unwrap().into_inner();
        assert_eq!(response.extra_data, expected, "{version:?}");
        let message = message::UserDecryptResponseVerification {
            publicKey: material::user_public_key(1).into(),
            ctHandles: handles,
            userDecryptedShare: encoding::user_payload(&response.payload.unwrap()).into(),
            extraData: expected.into(),
        };
        assert_eq!(signer_of(&message, "Decryption", &response.external_signature), SIGNER, "{version:?}");
    }
}

/// The signer of a preprocessing, by the version's structure.
fn prep_signer(version: CoreVersion, result: &KeyGenPreprocResult, extra_data: &[u8]) -> Address {
    let prep_id = number(result.preprocessing_id.as_ref().unwrap());
    let signature = &result.external_signature;
    if version < V0_13_20 {
        return signer_of(&message::PrepKeygenVerification { prepKeygenId: prep_id }, "KMSGeneration", signature);
    }
    let message =
        message_b::PrepKeygenVerification { prepKeygenId: prep_id, extraData: Bytes::copy_from_slice(extra_data) };
    signer_of(&message, "KMSGeneration", signature)
}

/// The number that stands for a part of a key set in signatures.
fn key_type(part: &str) -> u8 {
    match part {
        "ServerKey" => 0,
        "PublicKey" => 1,
        "CompressedXofKeySet" => 3,
        other => panic!("there is no part {other}"),
    }
}

fn key_signer(version: CoreVersion, domain: &str, result: &KeyGenResult, extra_data: &[u8]) -> Address {
    let prep_id = number(result.preprocessing_id.as_ref().unwrap());
    let key_id = number(result.request_id.as_ref().unwrap());
    let parts = || result.key_digests.iter().map(|part| (key_type(&part.key_type), part.digest.clone().into()));
    if version < V0_13_20 {
        let digests = parts().map(|(number, digest)| message::KeyDigest { keyType: number, digest }).collect();
        let message = message::KeygenVerification { prepKeygenId: prep_id, keyId: key_id, keyDigests: digests };
        return signer_of(&message, domain, &result.external_signature);
    }
    let digests = parts().map(|(number, digest)| message_b::KeyDigest { keyType: number, digest }).collect();
    let message = message_b::KeygenVerification {
        prepKeygenId: prep_id,
        keyId: key_id,
        keyDigests: digests,
        extraData: Bytes::copy_from_slice(extra_data),
    };
    signer_of(&message, domain, &result.external_signature)
}

fn crs_signer(version: CoreVersion, domain: &str, result: &CrsGenResult, extra_data: &[u8]) -> Address {
    let crs_id = number(result.request_id.as_ref().unwrap());
    let (bits, digest) = (U256::from(result.max_num_bits), Bytes::from(result.crs_digest.clone()));
    if version < V0_13_20 {
        let message = message::CrsgenVerification { crsId: crs_id, maxBitLength: bits, crsDigest: digest };
        return signer_of(&message, domain, &result.external_signature);
    }
    let message = message_b::CrsgenVerification {
        crsId: crs_id,
        maxBitLength: bits,
        crsDigest: digest,
        extraData: Bytes::copy_from_slice(extra_data),
    };
    signer_of(&message, domain, &result.external_signature)
}

#[tokio::test]
async fn preprocessings_keys_and_crss_sign_extra_data_from_0_13_20_on() {
    for version in CoreVersion::ALL {
        for given in [vec![], extra_data(1, 1)] {
            let mut world = World::threshold(version).await;
            world.core.key_gen_preproc(KeyGenPreprocRequest { extra_data: given.clone(), ..prep(1) }).await.unwrap();
            let prep = until_done(|| world.core.clone().get_prep_owned(prep_id(1))).await;
            assert_eq!(prep_signer(version, &prep, &given), SIGNER, "{version:?}");
            world.core.key_gen(KeyGenRequest { extra_data: given.clone(), ..keygen(2, 1) }).await.unwrap();
            let key = until_done(|| world.core.clone().get_key_gen_result_owned(key_id(2))).await;
            assert_eq!(key_signer(version, "KMSGeneration", &key, &given), SIGNER, "{version:?}");
            let crs = world.make_crs(CrsGenRequest { extra_data: given.clone(), ..crsgen(1) }).await;
            assert_eq!(crs_signer(version, "KMSGeneration", &crs, &given), SIGNER, "{version:?}");
        }
    }
}

fn compression(number: i32) -> Option<KeySetConfig> {
    let standard = StandardKeySetConfig { compressed_key_config: number, ..StandardKeySetConfig::default() };
    Some(KeySetConfig { keyset_type: KeySetType::Standard.into(), standard_keyset_config: Some(standard) })
}

const UNCOMPRESSED: &[&str] = &["ServerKey", "PublicKey"];
const COMPRESSED: &[&str] = &["PublicKey", "CompressedXofKeySet"];

/// The parts of a key by version and by configuration: unset, number 0, number 1.
const LAYOUTS: [(CoreVersion, [&[&str]; 3]); 6] = [
    (V0_12, [UNCOMPRESSED, UNCOMPRESSED, UNCOMPRESSED]),
    (V0_13_0, [UNCOMPRESSED, UNCOMPRESSED, UNCOMPRESSED]),
    (V0_13_10, [UNCOMPRESSED, UNCOMPRESSED, &["CompressedXofKeySet"]]),
    (V0_13_20, [COMPRESSED, COMPRESSED, UNCOMPRESSED]),
    (V0_14, [COMPRESSED, COMPRESSED, UNCOMPRESSED]),
    (V0_15, [COMPRESSED, COMPRESSED, UNCOMPRESSED]),
];

#[tokio::test]
async fn a_key_has_the_parts_of_its_configuration_as_the_version_numbers_it() {
    for (version, parts) in LAYOUTS {
        let mut world = World::threshold(version).await;
        let configs = [None, compression(0), compression(1)];
        for (counter, (config, parts)) in (2..).zip(configs.into_iter().zip(parts)) {
            let prep = KeyGenPreprocRequest { keyset_config: config, ..prep(counter) };
            let request = KeyGenRequest { keyset_config: config, ..keygen(counter, counter) };
            let key = world.make_key_with(request, prep).await;
            let names: Vec<_> = key.key_digests.iter().map(|part| part.key_type.as_str()).collect();
            assert_eq!(names, parts, "{version:?}, {config:?}");
            assert_eq!(key_signer(version, "KMSGeneration", &key, &[]), SIGNER, "{version:?}: in signed order");
        }
    }
}

#[tokio::test]
async fn in_0_15_a_result_has_one_signature_per_wanted_scheme_and_in_others_none() {
    use SigningSchemeType::{Ecdsa256k1, Ed25519, Mldsa44, Mldsa65, Mldsa87};
    let wanted = [Ecdsa256k1, Mldsa65, Ed25519, Mldsa44, Mldsa87, Ecdsa256k1];
    let lengths = [(Ecdsa256k1, 65), (Mldsa65, 3309), (Ed25519, 64), (Mldsa44, 2420), (Mldsa87, 4627)];
    for version in CoreVersion::ALL {
        let mut world = World::threshold(version).await;
        let signing_schemes: Vec<i32> = wanted.map(Into::into).into();
        let check = |external_signature: &[u8], signatures: &[TypedSignature]| {
            if version < V0_15 {
                assert!(signatures.is_empty(), "{version:?}");
                return;
            }
            let found: Vec<_> = signatures.iter().map(|one| (one.scheme(), one.signature.len())).collect();
            assert_eq!(found, lengths);
            assert_eq!(signatures[0].signature, external_signature);
        };

        let request = PublicDecryptionRequest { signing_schemes: signing_schemes.clone(), ..public(1) };
        world.core.public_decrypt(request).await.unwrap();
        let result = world.core.get_public_decryption_result(public_id(1)).await.unwrap().into_inner();
        check(&result.external_signature, &result.signatures);
        let request = UserDecryptionRequest { signing_schemes: signing_schemes.clone(), ..user(1) };
        world.core.user_decrypt(request).await.unwrap();
        let result = world.core.get_user_decryption_result(user_id(1)).await.unwrap().into_inner();
        check(&result.external_signature, &result.signatures);
        let prep = KeyGenPreprocRequest { signing_schemes: signing_schemes.clone(), ..prep(1) };
        let key = KeyGenRequest { signing_schemes: signing_schemes.clone(), ..keygen(2, 1) };
        let result = world.make_key_with(key, prep).await;
        check(&result.external_signature, &result.signatures);
        let result = world.make_crs(CrsGenRequest { signing_schemes, ..crsgen(1) }).await;
        check(&result.external_signature, &result.signatures);
    }
}

// --- What an epoch takes over -------------------------------------------------------------------------------------------

/// A key and a CRS made in the first epoch, as the contract tells them to the next one.
async fn make_material(world: &mut World) -> PreviousEpochInfo {
    let key = world.make_key(2, 1).await;
    let crs = world.make_crs(crsgen(1)).await;
    PreviousEpochInfo {
        context_id: Some(context_id(1)),
        epoch_id: Some(epoch_id(1)),
        keys_info: vec![KeyInfo {
            key_id: key.request_id,
            preproc_id: key.preprocessing_id,
            key_parameters: FheParameter::Test.into(),
            key_digests: key.key_digests,
        }],
        crs_info: vec![CrsInfo { crs_id: crs.request_id, crs_digest: crs.crs_digest }],
    }
}

fn taking_over(counter: u64, previous: &PreviousEpochInfo) -> NewMpcEpochRequest {
    NewMpcEpochRequest { previous_epoch: Some(previous.clone()), ..new_epoch(counter) }
}

#[tokio::test]
async fn an_epoch_reshares_keys_and_carries_crss_over_under_its_own_domain_and_extra_data() {
    for version in versions_with_epochs() {
        let mut world = World::threshold(version).await;
        let previous = make_material(&mut world).await;
        let result = world.make_epoch(taking_over(2, &previous)).await;

        let [key] = &result.reshare_responses[..] else { panic!("{version:?}: {result:?}") };
        assert_eq!((&key.request_id, &key.preprocessing_id), (&Some(key_id(2)), &Some(prep_id(1))), "{version:?}");
        assert_eq!(key.key_digests, previous.keys_info[0].key_digests, "{version:?}: digests stay");
        assert_eq!(key_signer(version, "ProtocolConfig", key, &extra_data(1, 2)), SIGNER, "{version:?}");
        let [crs] = &result.crs_responses[..] else { panic!("{version:?}: {result:?}") };
        assert_eq!((&crs.request_id, crs.max_num_bits), (&Some(crs_id(1)), 1024), "{version:?}");
        assert_eq!(crs.crs_digest, previous.crs_info[0].crs_digest, "{version:?}");
        assert_eq!(crs_signer(version, "ProtocolConfig", crs, &extra_data(1, 2)), SIGNER, "{version:?}");

        let under = |counter, epoch| PublicDecryptionRequest {
            key_id: Some(key_id(2)),
            epoch_id: Some(epoch_id(epoch)),
            ..public(counter)
        };
        assert_eq!(code(world.core.public_decrypt(under(1, 2)).await), Code::Ok, "{version:?}");
        assert_eq!(code(world.core.public_decrypt(under(2, 1)).await), Code::Ok, "{version:?}: both epochs have it");
        assert_eq!(code(world.core.destroy_mpc_epoch(destroy_epoch(1)).await), Code::Ok, "{version:?}");
        assert_eq!(code(world.core.public_decrypt(under(3, 2)).await), Code::Ok, "{version:?}: the key outlives it");
        assert_eq!(code(world.core.public_decrypt(under(4, 1)).await), Code::NotFound, "{version:?}");
    }
}

#[tokio::test]
async fn the_next_epoch_takes_over_from_the_one_before() {
    let mut world = World::threshold(V0_15).await;
    let previous = make_material(&mut world).await;
    let second = world.make_epoch(taking_over(2, &previous)).await;
    let from_second = PreviousEpochInfo { epoch_id: Some(epoch_id(2)), ..previous };
    let third = world.make_epoch(taking_over(3, &from_second)).await;
    assert_eq!(second.reshare_responses[0].key_digests, third.reshare_responses[0].key_digests);
    assert_ne!(second.reshare_responses[0].external_signature, third.reshare_responses[0].external_signature);
}

#[tokio::test]
async fn what_does_not_fit_the_previous_epoch_is_an_invalid_argument() {
    type Mistake = fn(&mut NewMpcEpochRequest, &mut PreviousEpochInfo);
    let mistakes: [(&str, Mistake); 15] = [
        ("no domain", |request, _| request.domain = None),
        ("no context", |_, previous| previous.context_id = None),
        ("no epoch", |_, previous| previous.epoch_id = None),
        ("an unknown context", |_, previous| previous.context_id = Some(context_id(9))),
        ("an unknown epoch", |_, previous| previous.epoch_id = Some(epoch_id(9))),
        ("no key", |_, previous| previous.keys_info[0].key_id = None),
        ("an unknown key", |_, previous| previous.keys_info[0].key_id = Some(key_id(9))),
        ("no preprocessing", |_, previous| previous.keys_info[0].preproc_id = None),
        ("another preprocessing", |_, previous| previous.keys_info[0].preproc_id = Some(prep_id(9))),
        ("unknown parameters", |_, previous| previous.keys_info[0].key_parameters = 7),
        ("no digests", |_, previous| previous.keys_info[0].key_digests.clear()),
        ("a digest too few", |_, previous| drop(previous.keys_info[0].key_digests.pop())),
        ("an unknown part", |_, previous| previous.keys_info[0].key_digests[0].key_type = "Key".to_owned()),
        ("another digest", |_, previous| previous.keys_info[0].key_digests[0].digest[0] ^= 1),
        ("another CRS digest", |_, previous| previous.crs_info[0].crs_digest[0] ^= 1),
    ];
    for version in versions_with_epochs() {
        let mut world = World::threshold(version).await;
        let right = make_material(&mut world).await;
        for (what, mistake) in mistakes {
            let (mut request, mut previous) = (new_epoch(2), right.clone());
            mistake(&mut request, &mut previous);
            request.previous_epoch = Some(previous);
            let code = code(world.core.new_mpc_epoch(request).await);
            assert_eq!(code, Code::InvalidArgument, "{what}, {version:?}");
        }
        assert_eq!(code(world.core.new_mpc_epoch(taking_over(2, &right)).await), Code::Ok, "{version:?}");
    }
}

#[tokio::test]
async fn nodes_agree_on_what_an_epoch_takes_over_also_one_that_was_not_there_before() {
    let mut one = World::threshold(V0_15).await;
    let previous = make_material(&mut one).await;
    // This node knows the former context, in which it has no part, and gets everything new.
    let mut other = World::with(|config| {
        config.version = V0_15;
        config.private_key = Some(PrivateKey::new(OTHER_KEY));
        config.party_id = 2;
        config.initialized = false;
        config.keys.clear();
    })
    .await;
    let former = mpc_context(5);
    let newcomer = |mut context: MpcContext| {
        context.mpc_nodes[1].signer_address = Some(other.node.signer().to_vec());
        NewMpcContextRequest { new_context: Some(context) }
    };
    let (former, next) = (NewMpcContextRequest { new_context: Some(former) }, newcomer(mpc_context(6)));
    let previous = PreviousEpochInfo { context_id: Some(context_id(5)), ..previous };
    let request = NewMpcEpochRequest { context_id: Some(context_id(6)), ..taking_over(7, &previous) };
    let mut results = vec![];
    for world in [&mut one, &mut other] {
        world.core.new_mpc_context(former.clone()).await.unwrap();
        world.core.new_mpc_context(next.clone()).await.unwrap();
        results.push(world.make_epoch(request.clone()).await);
    }
    let [mine, theirs] = &results[..] else { unreachable!() };
    assert_eq!(mine.reshare_responses[0].key_digests, theirs.reshare_responses[0].key_digests);
    assert_eq!(mine.crs_responses[0].max_num_bits, theirs.crs_responses[0].max_num_bits);
    assert_ne!(mine.reshare_responses[0].external_signature, theirs.reshare_responses[0].external_signature);
    let signer = key_signer(V0_15, "ProtocolConfig", &theirs.reshare_responses[0], &extra_data(1, 7));
    assert_eq!(signer, other.node.signer());
    let under = PublicDecryptionRequest {
        context_id: Some(context_id(6)),
        epoch_id: Some(epoch_id(7)),
        key_id: Some(key_id(2)),
        ..public(1)
    };
    assert_eq!(code(other.core.public_decrypt(under).await), Code::Ok);
}

#[tokio::test]
async fn a_node_that_is_not_among_the_new_ones_gets_nothing() {
    let mut world = World::threshold(V0_15).await;
    let previous = make_material(&mut world).await;
    let mut context = mpc_context(2);
    context.mpc_nodes[0].signer_address = Some(vec![9; 20]);
    world.core.new_mpc_context(NewMpcContextRequest { new_context: Some(context) }).await.unwrap();
    let request = NewMpcEpochRequest { context_id: Some(context_id(2)), ..taking_over(2, &previous) };
    assert_eq!(world.make_epoch(request).await, EpochResultResponse::default());
    assert_eq!(world.control.node().await.unwrap().epochs, [epoch_id(1).request_id]);
}

#[tokio::test]
async fn a_key_from_the_start_is_reshared_with_the_digests_every_node_makes_up() {
    let mut world = World::threshold(V0_15).await;
    let id = key_id(1);
    let bytes: B256 = id.request_id.parse().unwrap();
    let digests = material::key_digests(&bytes.0, 0, KeyLayout::Compressed).into_iter();
    let digest = |(part, digest): (&str, _)| KeyDigest { key_type: part.to_owned(), digest };
    let key = KeyInfo {
        key_id: Some(id.clone()),
        preproc_id: Some(prep_id(8)),
        key_parameters: FheParameter::Default.into(),
        key_digests: digests.map(digest).collect(),
    };
    let previous = PreviousEpochInfo {
        context_id: Some(context_id(1)),
        epoch_id: Some(epoch_id(1)),
        keys_info: vec![key],
        crs_info: vec![],
    };
    let result = world.make_epoch(taking_over(2, &previous)).await;
    assert_eq!(result.reshare_responses[0].request_id, Some(id));
    let under = PublicDecryptionRequest { epoch_id: Some(epoch_id(2)), ..public(1) };
    assert_eq!(code(world.core.public_decrypt(under).await), Code::Ok);
}

#[tokio::test]
async fn a_node_with_other_digests_than_its_peers_signs_its_own() {
    let own = format!("0x{}", "ab".repeat(32));
    let mut world = World::with(|config| {
        config.version = V0_15;
        config.digests = [
            (key_id(2).request_id, [("PublicKey".to_owned(), own.clone())].into()),
            (crs_id(1).request_id, [("CRS".to_owned(), own.clone())].into()),
        ]
        .into();
    })
    .await;
    let key = world.make_key(2, 1).await;
    assert_eq!(key.key_digests[0].digest, [0xab; 32]);
    assert_ne!(key.key_digests[1].digest, [0xab; 32]);
    assert_eq!(key_signer(V0_15, "KMSGeneration", &key, &[]), SIGNER);
    assert_eq!(world.make_crs(crsgen(1)).await.crs_digest, [0xab; 32]);
}
