//! Any record.

use alloy::primitives::{Address, B256, Bytes, U256};
use kms_schemas::identity::{Coordinates, Identity, Kind, RequestId};
use kms_schemas::record::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

/// What an Avro `long` holds of the unsigned numbers, its limit included.
fn long() -> impl Strategy<Value = u64> {
    prop_oneof![0..=u64::MAX / 2, Just(0), Just(u64::MAX / 2), 0..300u64]
}

fn word() -> impl Strategy<Value = B256> {
    any::<[u8; 32]>().prop_map(B256::from)
}

fn id() -> impl Strategy<Value = RequestId> {
    word().prop_map(RequestId)
}

fn uint256() -> impl Strategy<Value = U256> {
    any::<[u8; 32]>().prop_map(U256::from_be_bytes::<32>)
}

fn address() -> impl Strategy<Value = Address> {
    any::<[u8; 20]>().prop_map(Address::from)
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn text() -> impl Strategy<Value = String> {
    vec(any::<char>(), 0..20).prop_map(String::from_iter)
}

fn kind() -> impl Strategy<Value = Kind> {
    select(Kind::ALL.to_vec())
}

fn coordinates() -> impl Strategy<Value = Coordinates> {
    (text(), any::<i32>(), any::<i64>()).prop_map(|(topic, partition, offset)| Coordinates { topic, partition, offset })
}

fn identity() -> impl Strategy<Value = Identity> {
    (long(), address(), kind(), id()).prop_map(|(chain_id, contract, kind, id)| Identity {
        chain_id,
        contract,
        kind,
        id,
    })
}

fn material() -> impl Strategy<Value = CiphertextMaterial> {
    (word(), id(), word(), vec(address(), 0..5)).prop_map(|(handle, key_id, digest, coprocessors)| CiphertextMaterial {
        handle,
        key_id,
        digest,
        coprocessors,
    })
}

fn materials() -> impl Strategy<Value = Vec<CiphertextMaterial>> {
    // Above the number of items that the reader allocates ahead, sometimes.
    prop_oneof![9 => vec(material(), 0..4), 1 => vec(material(), 60..70)]
}

fn body() -> impl Strategy<Value = RequestBody> {
    prop_oneof![
        (materials(), bytes())
            .prop_map(|(materials, extra_data)| RequestBody::PublicDecryption { materials, extra_data }),
        (materials(), address(), bytes(), bytes()).prop_map(|(materials, user_address, public_key, extra_data)| {
            RequestBody::UserDecryption { materials, user_address, public_key, extra_data }
        }),
        (vec(word(), 0..5), bytes())
            .prop_map(|(handles, extra_data)| RequestBody::PublicDecryptionHandles { handles, extra_data }),
        (vec(word(), 0..5), address(), bytes(), bytes()).prop_map(|(handles, user_address, public_key, extra_data)| {
            RequestBody::UserDecryptionHandles { handles, user_address, public_key, extra_data }
        }),
        unified_user_decryption().prop_map(|body| RequestBody::UnifiedUserDecryption(Box::new(body))),
        (uint256(), any::<u8>(), bytes()).prop_map(|(epoch_id, params_type, extra_data)| RequestBody::PrepKeygen {
            epoch_id,
            params_type,
            extra_data,
        }),
        (id(), bytes()).prop_map(|(prep_keygen_id, extra_data)| RequestBody::Keygen { prep_keygen_id, extra_data }),
        (uint256(), any::<u8>(), bytes()).prop_map(|(max_bit_length, params_type, extra_data)| RequestBody::Crsgen {
            max_bit_length,
            params_type,
            extra_data,
        }),
        new_kms_context().prop_map(|body| RequestBody::NewKmsContext(Box::new(body))),
        (id(), id(), id(), uint256()).prop_map(
            |(context_id, previous_context_id, previous_epoch_id, material_block_number)| RequestBody::NewKmsEpoch {
                context_id,
                previous_context_id,
                previous_epoch_id,
                material_block_number,
            }
        ),
        select(vec![
            RequestBody::AbortKeygen,
            RequestBody::AbortCrsgen,
            RequestBody::KmsContextDestroyed,
            RequestBody::KmsEpochDestroyed,
            RequestBody::PrssInit,
        ]),
        (id(), id(), any::<u8>()).prop_map(|(prep_keygen_id, key_id, params_type)| {
            RequestBody::KeyReshareSameSet { prep_keygen_id, key_id, params_type }
        }),
    ]
}

fn unified_user_decryption() -> impl Strategy<Value = UnifiedUserDecryption> {
    let entry =
        (word(), address(), address()).prop_map(|(handle, contract, owner)| HandleEntry { handle, contract, owner });
    let what = (materials(), vec(entry, 0..4), address(), bytes(), vec(address(), 0..4));
    (what, uint256(), uint256(), bytes(), bytes()).prop_map(
        |(what, start_timestamp, duration_seconds, extra_data, signature)| {
            let (materials, entries, user_address, public_key, allowed_contracts) = what;
            UnifiedUserDecryption {
                materials,
                entries,
                user_address,
                public_key,
                allowed_contracts,
                start_timestamp,
                duration_seconds,
                extra_data,
                signature,
            }
        },
    )
}

fn new_kms_context() -> impl Strategy<Value = NewKmsContext> {
    let node = (address(), address(), text(), text(), any::<i32>(), text(), bytes(), text()).prop_map(
        |(tx_sender, signer, ip_address, storage_url, party_id, mpc_identity, ca_cert, storage_prefix)| KmsNodeParams {
            tx_sender,
            signer,
            ip_address,
            storage_url,
            party_id,
            mpc_identity,
            ca_cert,
            storage_prefix,
        },
    );
    let thresholds =
        (uint256(), uint256(), uint256(), uint256()).prop_map(|(public_decryption, user_decryption, kms_gen, mpc)| {
            KmsThresholds { public_decryption, user_decryption, kms_gen, mpc }
        });
    let pcrs = (bytes(), bytes(), bytes()).prop_map(|(pcr0, pcr1, pcr2)| PcrValues { pcr0, pcr1, pcr2 });
    (id(), vec(node, 0..3), thresholds, text(), vec(pcrs, 0..3)).prop_map(
        |(previous_context_id, nodes, thresholds, software_version, pcr_values)| NewKmsContext {
            previous_context_id,
            nodes,
            thresholds,
            software_version,
            pcr_values,
        },
    )
}

pub(crate) fn request() -> impl Strategy<Value = Request> {
    let log =
        (address(), vec(word(), 0..5), bytes()).prop_map(|(address, topics, data)| RawLog { address, topics, data });
    let place = (long(), word(), long(), word(), long());
    ((text(), long(), word(), long(), kind(), id()), place, log, body()).prop_map(|(first, place, log, body)| {
        let (source, seq, previous_hash, chain_id, kind, id) = first;
        let (block_number, block_hash, block_timestamp, transaction_hash, log_index) = place;
        Request {
            source,
            seq,
            previous_hash,
            chain_id,
            kind,
            id,
            block_number,
            block_hash,
            block_timestamp,
            transaction_hash,
            log_index,
            log,
            body,
        }
    })
}

pub(crate) fn deferred_request() -> impl Strategy<Value = DeferredRequest> {
    (coordinates(), any::<u32>(), long(), long(), text(), request()).prop_map(
        |(source, attempts, first_attempt_ms, deferred_ms, why, request)| DeferredRequest {
            source,
            attempts,
            first_attempt_ms,
            deferred_ms,
            why,
            request,
        },
    )
}

fn signed() -> impl Strategy<Value = Signed> {
    (bytes(), word(), address()).prop_map(|(signature, digest, signer)| Signed { signature, digest, signer })
}

fn key_digests() -> impl Strategy<Value = Vec<KeyDigest>> {
    vec((any::<u8>(), bytes()).prop_map(|(key_type, digest)| KeyDigest { key_type, digest }), 0..4)
}

fn answer() -> impl Strategy<Value = Answer> {
    let key = (id(), id(), key_digests(), signed()).prop_map(|(prep_keygen_id, key_id, key_digests, signature)| {
        EpochKey { prep_keygen_id, key_id, key_digests, signature }
    });
    let crs = (id(), uint256(), bytes(), signed()).prop_map(|(crs_id, max_bit_length, crs_digest, signature)| {
        EpochCrs { crs_id, max_bit_length, crs_digest, signature }
    });
    prop_oneof![
        (vec(word(), 0..5), bytes(), bytes(), signed()).prop_map(
            |(handles, decrypted_result, extra_data, signature)| {
                Answer::PublicDecryption { handles, decrypted_result, extra_data, signature }
            }
        ),
        (bytes(), vec(word(), 0..5), bytes(), bytes(), signed()).prop_map(
            |(public_key, handles, share, extra_data, signature)| Answer::UserDecryption {
                public_key,
                handles,
                share,
                extra_data,
                signature,
            }
        ),
        (bytes(), signed()).prop_map(|(extra_data, signature)| Answer::PrepKeygen { extra_data, signature }),
        (id(), key_digests(), bytes(), signed()).prop_map(|(prep_keygen_id, key_digests, extra_data, signature)| {
            Answer::Keygen { prep_keygen_id, key_digests, extra_data, signature }
        }),
        (uint256(), bytes(), bytes(), signed()).prop_map(|(max_bit_length, crs_digest, extra_data, signature)| {
            Answer::Crsgen { max_bit_length, crs_digest, extra_data, signature }
        }),
        (id(), vec(key, 0..3), vec(crs, 0..3)).prop_map(|(context_id, keys, crs_list)| Answer::EpochActivation {
            context_id,
            keys,
            crs_list
        }),
        select(vec![Answer::KmsContextCreated, Answer::Done, Answer::Aborted, Answer::Retracted]),
    ]
}

pub(crate) fn result() -> impl Strategy<Value = ResultRecord> {
    let place = (long(), word(), long());
    (coordinates(), option::of(coordinates()), identity(), place, any::<u32>(), answer()).prop_map(
        |(source, deferred, identity, (block_number, block_hash, log_index), attempts, answer)| ResultRecord {
            source,
            deferred,
            identity,
            block_number,
            block_hash,
            log_index,
            attempts,
            answer,
        },
    )
}

fn inclusion() -> impl Strategy<Value = Inclusion> {
    let place = (address(), long(), word(), long(), word());
    let counts = (option::of(any::<u32>()), option::of(any::<u32>()));
    (place, (long(), long(), any::<u128>()), counts).prop_map(
        |(
            (sender, nonce, transaction_hash, block_number, block_hash),
            (gas_used, gas_used_for_l1, effective_gas_price),
            (answers, order),
        )| Inclusion {
            sender,
            nonce,
            transaction_hash,
            block_number,
            block_hash,
            gas_used,
            gas_used_for_l1,
            effective_gas_price,
            answers,
            order,
        },
    )
}

fn verdict() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        inclusion().prop_map(Verdict::Accepted),
        (text(), option::of(word()))
            .prop_map(|(evidence, transaction_hash)| Verdict::AlreadyAnswered { evidence, transaction_hash }),
        text().prop_map(|evidence| Verdict::Concluded { evidence }),
        Just(Verdict::NoAnswerOnChain),
        (text(), bytes(), option::of(inclusion())).prop_map(|(error, data, inclusion)| Verdict::Refused {
            error,
            data,
            inclusion
        }),
        Just(Verdict::Retracted),
    ]
}

pub(crate) fn submission() -> impl Strategy<Value = Submission> {
    (coordinates(), coordinates(), identity(), verdict(), any::<u32>(), long()).prop_map(
        |(result, request, identity, verdict, attempts, settled_ms)| Submission {
            result,
            request,
            identity,
            verdict,
            attempts,
            settled_ms,
        },
    )
}

pub(crate) fn dead_letter() -> impl Strategy<Value = DeadLetter> {
    let original = (option::of(bytes()), option::of(bytes()), long(), word());
    let place = (coordinates(), option::of(coordinates()), option::of(identity()));
    ((text(), text(), text(), any::<u32>(), long()), place, original).prop_map(|(story, place, original)| {
        let (service, reason, text, attempts, dead_ms) = story;
        let (source, request, identity) = place;
        let (key, value, value_bytes, value_digest) = original;
        DeadLetter {
            service,
            source,
            request,
            identity,
            key,
            value,
            value_bytes,
            value_digest,
            reason,
            text,
            attempts,
            dead_ms,
        }
    })
}

pub(crate) fn cursor() -> impl Strategy<Value = Cursor> {
    let recent = vec((long(), word()).prop_map(|(number, hash)| BlockRef { number, hash }), 0..80);
    let proof = select(vec![Proof::Believed, Proof::Receipts]);
    let sequence = (text(), long(), word()).prop_map(|(topic, next, last_hash)| Sequence { topic, next, last_hash });
    (text(), long(), long(), word(), recent, proof, vec(sequence, 0..3), long()).prop_map(
        |(source, chain_id, block_number, block_hash, recent, proof, sequences, written_ms)| Cursor {
            source,
            chain_id,
            block_number,
            block_hash,
            recent,
            proof,
            sequences,
            written_ms,
        },
    )
}

pub(crate) fn intent() -> impl Strategy<Value = Intent> {
    let item = (coordinates(), identity()).prop_map(|(result, identity)| IntentItem { result, identity });
    (long(), address(), long(), any::<u32>(), bytes(), word(), vec(item, 0..5), any::<i64>(), long()).prop_map(
        |(chain_id, sender, nonce, attempt, raw, hash, items, settled_below, written_ms)| Intent {
            chain_id,
            sender,
            nonce,
            attempt,
            raw,
            hash,
            items,
            settled_below,
            written_ms,
        },
    )
}

pub(crate) fn wallet_record() -> impl Strategy<Value = WalletRecord> {
    let end = prop_oneof![Just(WalletEnd::Accepted), Just(WalletEnd::Done), Just(WalletEnd::Refused)];
    let outcome = (any::<i64>(), end, vec(word(), 0..5))
        .prop_map(|(command_offset, end, transactions)| WalletBody::Outcome { command_offset, end, transactions });
    let bump = (option::of(long()), option::of(any::<u128>()), long())
        .prop_map(|(nonce, max_fee_per_gas, expires_ms)| WalletBody::Bump { nonce, max_fee_per_gas, expires_ms });
    let cancel = (long(), long()).prop_map(|(nonce, expires_ms)| WalletBody::Cancel { nonce, expires_ms });
    let body = prop_oneof![outcome, bump, cancel, Just(WalletBody::Pause), Just(WalletBody::Resume)];
    (long(), address(), word(), text(), long(), text(), body).prop_map(
        |(chain_id, sender, command_id, by, written_ms, text, body)| WalletRecord {
            chain_id,
            sender,
            command_id,
            by,
            written_ms,
            text,
            body,
        },
    )
}
