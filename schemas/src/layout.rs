//! How each record type is laid out in Avro. The schemas in `avro/` say the same for other readers, and a test compares
//! the two.

use crate::identity::{Coordinates, Identity, Kind};
use crate::record::{
    Answer, BlockRef, CiphertextMaterial, Cursor, DeadLetter, DeferredRequest, EpochCrs, EpochKey, HandleEntry,
    Inclusion, Intent, IntentItem, KeyDigest, KmsNodeParams, KmsThresholds, NewKmsContext, PcrValues, Proof, RawLog,
    Request, RequestBody, ResultRecord, Sequence, Signed, Submission, UnifiedUserDecryption, Verdict, WalletBody,
    WalletEnd, WalletRecord,
};
use crate::wire::{
    Flaw, Input, UNKNOWN, Wire, Wired, attempt, choice, in_field, record, symbols, write_long, write_symbol,
};
#[cfg(test)]
use crate::wire::{Shape, shape_of, shape_of_chosen};

symbols!(Kind as "Kind" {
    "unknown",
    PublicDecryption = "public_decryption",
    UserDecryption = "user_decryption",
    PrepKeygen = "prep_keygen",
    Keygen = "keygen",
    Crsgen = "crsgen",
    PrssInit = "prss_init",
    KeyReshareSameSet = "key_reshare_same_set",
    AbortKeygen = "abort_keygen",
    AbortCrsgen = "abort_crsgen",
    NewKmsContext = "new_kms_context",
    NewKmsEpoch = "new_kms_epoch",
    KmsContextDestroyed = "kms_context_destroyed",
    KmsEpochDestroyed = "kms_epoch_destroyed",
});
record!(Identity as "Identity" { chain_id, contract, kind, id });
record!(Coordinates as "Coordinates" { topic, partition, offset });

record!(Request as "Request" {
    source, seq, previous_hash, chain_id, kind, id, block_number, block_hash, block_timestamp, transaction_hash,
    log_index, log, body,
});
record!(RawLog as "RawLog" { address, topics, data });
choice!(RequestBody as "RequestBody", form "RequestForm" {
    PublicDecryption = "public_decryption" { "PublicDecryptionRequest": materials, extra_data },
    UserDecryption = "user_decryption" { "UserDecryptionRequest": materials, user_address, public_key, extra_data },
    PrepKeygen = "prep_keygen" { "PrepKeygenRequest": epoch_id, params_type, extra_data },
    Keygen = "keygen" { "KeygenRequest": prep_keygen_id, extra_data },
    Crsgen = "crsgen" { "CrsgenRequest": max_bit_length, params_type, extra_data },
    KeyReshareSameSet = "key_reshare_same_set" { "KeyReshareSameSetRequest": prep_keygen_id, key_id, params_type },
    PublicDecryptionHandles = "public_decryption_handles" { "PublicDecryptionHandlesRequest": handles, extra_data },
    UserDecryptionHandles = "user_decryption_handles" {
        "UserDecryptionHandlesRequest": handles, user_address, public_key, extra_data
    },
    UnifiedUserDecryption = "unified_user_decryption" (request),
    NewKmsContext = "new_kms_context" (context),
    NewKmsEpoch = "new_kms_epoch" {
        "NewKmsEpochRequest": context_id, previous_context_id, previous_epoch_id, material_block_number
    },
} or {
    PrssInit = "prss_init",
    AbortKeygen = "abort_keygen",
    AbortCrsgen = "abort_crsgen",
    KmsContextDestroyed = "kms_context_destroyed",
    KmsEpochDestroyed = "kms_epoch_destroyed",
});
record!(CiphertextMaterial as "CiphertextMaterial" { handle, key_id, digest, coprocessors });
record!(UnifiedUserDecryption as "UnifiedUserDecryptionRequest" {
    materials, entries, user_address, public_key, allowed_contracts, start_timestamp, duration_seconds, extra_data,
    signature,
});
record!(HandleEntry as "HandleEntry" { handle, contract, owner });
record!(NewKmsContext as "NewKmsContextRequest" { previous_context_id, nodes, thresholds, software_version, pcr_values });
record!(KmsNodeParams as "KmsNodeParams" {
    tx_sender, signer, ip_address, storage_url, party_id, mpc_identity, ca_cert, storage_prefix,
});
record!(KmsThresholds as "KmsThresholds" { public_decryption, user_decryption, kms_gen, mpc });
record!(PcrValues as "PcrValues" { pcr0, pcr1, pcr2 });

record!(DeferredRequest as "DeferredRequest" { source, attempts, first_attempt_ms, deferred_ms, why, request });

record!(ResultRecord as "Result" { source, deferred, identity, block_number, block_hash, log_index, attempts, answer });
choice!(Answer as "Answer", form "AnswerForm" {
    PublicDecryption = "public_decryption" {
        "PublicDecryptionAnswer": handles, decrypted_result, extra_data, signature
    },
    UserDecryption = "user_decryption" { "UserDecryptionAnswer": public_key, handles, share, extra_data, signature },
    PrepKeygen = "prep_keygen" { "PrepKeygenAnswer": extra_data, signature },
    Keygen = "keygen" { "KeygenAnswer": prep_keygen_id, key_digests, extra_data, signature },
    Crsgen = "crsgen" { "CrsgenAnswer": max_bit_length, crs_digest, extra_data, signature },
    EpochActivation = "epoch_activation" { "EpochActivationAnswer": context_id, keys, crs_list },
} or {
    Done = "done",
    Retracted = "retracted",
    KmsContextCreated = "kms_context_created",
    Aborted = "aborted",
});
record!(EpochKey as "EpochKey" { prep_keygen_id, key_id, key_digests, signature });
record!(EpochCrs as "EpochCrs" { crs_id, max_bit_length, crs_digest, signature });
record!(Signed as "Signed" { signature, digest, signer });
record!(KeyDigest as "KeyDigest" { key_type, digest });

record!(Submission as "Submission" { result, request, identity, verdict, attempts, settled_ms });
choice!(Verdict as "Verdict", form "VerdictForm" {
    Accepted = "accepted" (inclusion),
    AlreadyAnswered = "already_answered" { "AlreadyAnswered": evidence, transaction_hash },
    Refused = "refused" { "Refused": error, data, inclusion },
    Concluded = "concluded" { "Concluded": evidence },
} or {
    NoAnswerOnChain = "no_answer_on_chain",
    Retracted = "retracted",
});
record!(Inclusion as "Inclusion" {
    sender, nonce, transaction_hash, block_number, block_hash, gas_used, gas_used_for_l1, effective_gas_price, answers,
    order,
});

record!(DeadLetter as "DeadLetter" {
    service, source, request, identity, key, value, value_bytes, value_digest, reason, text, attempts, dead_ms,
});

record!(Cursor as "Cursor" {
    source, chain_id, block_number, block_hash, recent, proof, sequences, written_ms,
});
record!(BlockRef as "BlockRef" { number, hash });
symbols!(Proof as "Proof" { Believed = "believed", Receipts = "receipts" });
record!(Sequence as "Sequence" { topic, next, last_hash });

record!(Intent as "Intent" {
    chain_id, sender, nonce, attempt, raw, hash, items, settled_below, written_ms,
});
record!(IntentItem as "IntentItem" { result, identity });

record!(WalletRecord as "WalletRecord" { chain_id, sender, command_id, by, written_ms, text, body });
choice!(WalletBody as "WalletBody", form "WalletForm" {
    Bump = "bump" { "WalletBump": nonce, max_fee_per_gas, expires_ms },
    Cancel = "cancel" { "WalletCancel": nonce, expires_ms },
    Outcome = "outcome" { "WalletOutcome": command_offset, end, transactions },
} or {
    Pause = "pause",
    Resume = "resume",
});
symbols!(WalletEnd as "WalletEnd" { "unknown", Accepted = "accepted", Done = "done", Refused = "refused" });
