//! How each record type is laid out in Avro. The schemas in `avro/` say the same for other readers, and a test compares
//! the two.

use crate::identity::{Coordinates, Identity, Kind};
use crate::record::{
    Answer, BlockRef, CiphertextMaterial, Cursor, DeadLetter, DeferredRequest, Inclusion, Intent, IntentItem,
    KeyDigest, Proof, RawLog, Request, RequestBody, ResultRecord, Sequence, Signed, Submission, Verdict,
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
    PrepKeygen = "prep_keygen" { "PrepKeygenRequest": epoch_id, params_type },
    Keygen = "keygen" { "KeygenRequest": prep_keygen_id },
    Crsgen = "crsgen" { "CrsgenRequest": max_bit_length, params_type },
    KeyReshareSameSet = "key_reshare_same_set" { "KeyReshareSameSetRequest": prep_keygen_id, key_id, params_type },
} or {
    PrssInit = "prss_init",
});
record!(CiphertextMaterial as "CiphertextMaterial" { handle, key_id, digest, coprocessors });

record!(DeferredRequest as "DeferredRequest" { source, attempts, first_attempt_ms, deferred_ms, why, request });

record!(ResultRecord as "Result" { source, deferred, identity, block_hash, log_index, attempts, answer });
choice!(Answer as "Answer", form "AnswerForm" {
    PublicDecryption = "public_decryption" {
        "PublicDecryptionAnswer": handles, decrypted_result, extra_data, signature
    },
    UserDecryption = "user_decryption" { "UserDecryptionAnswer": public_key, handles, share, extra_data, signature },
    PrepKeygen = "prep_keygen" { "PrepKeygenAnswer": signature },
    Keygen = "keygen" { "KeygenAnswer": prep_keygen_id, key_digests, signature },
    Crsgen = "crsgen" { "CrsgenAnswer": max_bit_length, crs_digest, signature },
} or {
    Done = "done",
    Retracted = "retracted",
});
record!(Signed as "Signed" { signature, digest, signer });
record!(KeyDigest as "KeyDigest" { key_type, digest });

record!(Submission as "Submission" { result, request, identity, verdict, attempts, settled_ms });
choice!(Verdict as "Verdict", form "VerdictForm" {
    Accepted = "accepted" (inclusion),
    AlreadyAnswered = "already_answered" { "AlreadyAnswered": evidence, transaction_hash },
    Refused = "refused" { "Refused": error, data, inclusion },
} or {
    NoAnswerOnChain = "no_answer_on_chain",
    Retracted = "retracted",
});
record!(Inclusion as "Inclusion" {
    sender, nonce, transaction_hash, block_number, block_hash, gas_used, gas_used_for_l1, effective_gas_price,
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
