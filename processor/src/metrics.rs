//! One place per happening: log and metric together.

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use tonic::Code;

use crate::codes;

/// Describes every metric of this crate; called once at start.
pub fn describe() {
    describe_counter!(
        "kms_connector_core_calls_total",
        Unit::Count,
        "Calls to KMS Core by operation, phase and status code"
    );
    describe_gauge!(
        "kms_connector_core_shard_reachable",
        "1 while the shard of KMS Core, by its number in `kms_core.endpoints`, answers, else 0"
    );
    describe_counter!(
        "kms_connector_core_stuck_total",
        Unit::Count,
        "Looks at decryptions that KMS Core v0.13 holds as pending until it is restarted"
    );
    describe_counter!(
        "kms_connector_bucket_failures_total",
        Unit::Count,
        "Failed fetches from coprocessors' buckets by cause"
    );
    describe_counter!(
        "kms_connector_attestations_split_total",
        Unit::Count,
        "Ciphertexts of which two different attestations have the coprocessors' threshold"
    );
    describe_counter!("kms_connector_ciphertexts_fetched_total", Unit::Count, "Ciphertexts fetched and verified");
    describe_histogram!("kms_connector_ciphertext_bytes", Unit::Bytes, "Size of fetched ciphertexts");
    describe_counter!(
        "kms_connector_ciphertext_memory_waits_total",
        Unit::Count,
        "Fetches that waited for memory (`ciphertexts.max_buffered_bytes`)"
    );
    describe_counter!(
        "kms_connector_requests_refused_total",
        Unit::Count,
        "Requests that were given up for good, by kind and code"
    );
    describe_counter!(
        "kms_connector_identities_reused_total",
        Unit::Count,
        "Requests that were quarantined because another payload came first under their identity, by kind"
    );
    describe_counter!(
        "kms_connector_check_waits_total",
        Unit::Count,
        "Looks at what a request waits for that found it not there, by kind and code"
    );
    describe_gauge!("kms_connector_requests_waiting", "Requests whose waiting is remembered (`access.max_waiting`)");
    describe_counter!("kms_connector_answers_total", Unit::Count, "Verified answers of KMS Core by kind");
    describe_counter!(
        "kms_connector_answers_refused_total",
        Unit::Count,
        "Answers of KMS Core that failed verification, by code"
    );
}

/// KMS Core answered a call.
pub fn core_call(operation: &'static str, phase: &'static str, code: Code) {
    counter!("kms_connector_core_calls_total", "operation" => operation, "phase" => phase, "code" => code_name(code))
        .increment(1);
}

/// KMS Core holds an id that it will not answer before it is restarted.
pub fn core_stuck(text: &str) {
    counter!("kms_connector_core_stuck_total").increment(1);
    tracing::error!(code = crate::codes::CORE_STUCK, text, "kms core has to be restarted");
}

/// Whether a shard of KMS Core answers.
pub fn shard_reachable(number: usize, reachable: bool) {
    gauge!("kms_connector_core_shard_reachable", "shard" => number.to_string()).set(f64::from(u8::from(reachable)));
}

/// A bucket did not deliver.
pub fn bucket_failed(cause: &'static str) {
    counter!("kms_connector_bucket_failures_total", "cause" => cause).increment(1);
}

/// The coprocessors contradict each other, which they never should.
pub fn attestations_split(handle: &alloy::primitives::B256, threshold: usize) {
    counter!("kms_connector_attestations_split_total").increment(1);
    let code = crate::codes::ATTESTATIONS_SPLIT;
    tracing::error!(code, %handle, threshold, "two different attestations of one ciphertext have the threshold");
}

/// A ciphertext was fetched and its digest was right.
pub fn ciphertext_fetched(bytes: usize) {
    counter!("kms_connector_ciphertexts_fetched_total").increment(1);
    #[allow(clippy::cast_precision_loss)] // a size of at most some MiB
    histogram!("kms_connector_ciphertext_bytes").record(bytes as f64);
}

/// A fetch had to wait for memory.
pub fn memory_waited() {
    counter!("kms_connector_ciphertext_memory_waits_total").increment(1);
}

/// A request was given up for good. A record that the chain contradicts is an attack or a broken writer.
pub fn request_refused(kind: &'static str, code: &'static str, text: &str) {
    counter!("kms_connector_requests_refused_total", "kind" => kind, "code" => code).increment(1);
    if matches!(code, codes::RECORD_FORGED | codes::BODY_DIFFERS_FROM_LOG | kms_chain::codes::LOG_NOT_IN_BLOCK) {
        tracing::error!(kind, code, text, "a record says what the chain does not say");
    }
}

/// A request was looked at, and what it waits for was not there.
pub fn check_waits(kind: &'static str, code: &'static str) {
    counter!("kms_connector_check_waits_total", "kind" => kind, "code" => code).increment(1);
}

/// Requests whose waiting is remembered.
pub fn waiting(requests: usize) {
    #[allow(clippy::cast_precision_loss)] // bounded by the configuration
    gauge!("kms_connector_requests_waiting").set(requests as f64);
}

/// An answer passed verification.
pub fn answer_verified(kind: &'static str) {
    counter!("kms_connector_answers_total", "kind" => kind).increment(1);
}

/// An answer failed verification; it is never published.
pub fn answer_refused(kind: &'static str, code: &'static str, text: &str) {
    counter!("kms_connector_answers_refused_total", "kind" => kind, "code" => code).increment(1);
    tracing::error!(kind, code, text, "kms core's answer was refused");
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown",
        Code::InvalidArgument => "invalid_argument",
        Code::DeadlineExceeded => "deadline_exceeded",
        Code::NotFound => "not_found",
        Code::AlreadyExists => "already_exists",
        Code::PermissionDenied => "permission_denied",
        Code::ResourceExhausted => "resource_exhausted",
        Code::FailedPrecondition => "failed_precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out_of_range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data_loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

/// A second payload came under a known identity: an alert.
pub fn identity_reused(kind: &'static str, text: &str) {
    tracing::error!(kind, code = codes::IDENTITY_REUSED, text, "a request was quarantined");
    counter!("kms_connector_identities_reused_total", "kind" => kind).increment(1);
}
