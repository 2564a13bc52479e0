//! Stable codes of what the processor can meet; `docs/errors.md` is generated from this table.

use kms_schemas::codes::Code;

macro_rules! codes {
    ($($ident:ident = $code:literal, $name:literal, $meaning:literal, $action:literal;)*) => {
        $(#[doc = $meaning] pub const $ident: &str = $code;)*
        /// Every code of this crate.
        pub static CODES: &[Code] = &[$(Code { code: $code, name: $name, meaning: $meaning, action: $action }),*];
    };
}

codes! {
    BUCKETS_UNREACHABLE = "KC-0401", "buckets_unreachable",
        "No coprocessor's bucket could be asked for a ciphertext.",
        "Check the network and the buckets; the request waits and burns no attempt.";
    CIPHERTEXT_MISSING = "KC-0402", "ciphertext_missing",
        "Every bucket answered, and none holds an object with the digest that the chain names.",
        "Ask the coprocessors' operators for the object, then redrive the request.";
    REQUEST_TOO_LARGE = "KC-0403", "request_too_large",
        "The ciphertexts of one request are larger together than KMS Core takes in one message.",
        "Nothing can answer it; raise `ciphertexts.max_request_bytes` only if your KMS Core takes more.";
    FHE_TYPE_UNSUPPORTED = "KC-0404", "fhe_type_unsupported",
        "A handle names an FHE type that no contract lets through.",
        "The record did not come from the contracts: find out who wrote it.";
    NO_BUCKET = "KC-0405", "no_bucket",
        "None of the coprocessors that the request names has a bucket in GatewayConfig.",
        "Check the coprocessor registry; the request waits within its budget.";
    REGISTRY_UNREACHABLE = "KC-0406", "registry_unreachable",
        "The coprocessor registry could not be read from the chain.",
        "Check the RPC endpoints; the request waits and burns no attempt.";
    CORE_UNREACHABLE = "KC-0501", "core_unreachable",
        "KMS Core did not answer.",
        "Check the KMS Core and the network; requests wait and burn no attempt.";
    CORE_REFUSED = "KC-0502", "core_refused",
        "KMS Core refused the request as invalid; it will refuse the same bytes again.",
        "Compare the request with KMS Core's log; check the configured domain and contract addresses.";
    CORE_FAILED = "KC-0503", "core_failed",
        "KMS Core ended the operation with an error, and this id will never have a result there.",
        "Read the reason in KMS Core's log; redrive the request after it was mended.";
    CORE_LACKS_CALL = "KC-0504", "core_lacks_call",
        "This KMS Core version does not have the call that the request needs.",
        "Run a KMS Core of the generation's version (`docs/protocol.md`, \"Versions of KMS Core\").";
    CORE_NOT_READY = "KC-0505", "core_not_ready",
        "KMS Core does not know the key or the preprocessing, or its store is full.",
        "Check that the node took part in the key generation; the request waits within its budget.";
    CORE_BUSY = "KC-0506", "core_busy",
        "KMS Core takes no more work at the moment, or has no signing key.",
        "Usually nothing: intake slows down. Look at KMS Core if it lasts.";
    CORE_ABORTED = "KC-0508", "core_aborted",
        "The operation was aborted in KMS Core.",
        "Nothing, if the abort was wanted.";
    CANCELLED = "KC-0509", "cancelled",
        "An attempt was cancelled because its partition was taken away, it outlasted its lane, or the service stops.",
        "Nothing; the request is served again.";
    FOREIGN_REQUEST = "KC-0510", "foreign_request",
        "The request names a chain or contract that this processor does not serve.",
        "Check that ingest and processor are configured for the same deployment and topic prefix.";
    BODY_DIFFERS_FROM_LOG = "KC-0511", "body_differs_from_log",
        "The decoded request is not what its own raw log says.",
        "The record was not written by ingest: find out who wrote it.";
    REQUEST_INVALID = "KC-0512", "request_invalid",
        "The request holds a value that the protocol has no meaning for.",
        "Nothing can answer it.";
    ANSWER_MALFORMED = "KC-0611", "answer_malformed",
        "KMS Core's result lacks a part or does not fit the request.",
        "Compare the versions of KMS Core and contracts; nothing was published.";
    SIGNATURE_WRONG = "KC-0612", "core_signature_wrong",
        "KMS Core's signature does not recover to the configured signer over the digest of this request and result.",
        "Check `signer.address`, the domain and the KMS Core version; nothing was published.";
}
