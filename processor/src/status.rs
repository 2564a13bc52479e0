//! What a gRPC status of KMS Core means, decided once and without I/O (`docs/protocol.md`, "Status codes of KMS Core").
//!
//! Only the code is a promise of KMS Core's, and only of KMS Core's: the client library makes statuses of whatever else it meets,
//! of a proxy's 404 an `UNIMPLEMENTED`, of a page of HTML an `INTERNAL`. Who speaks is seen by the shape of the status. What is
//! not the core's is an outage under every code, and burns no attempt.

use std::error::Error;

use tonic::{Code, Status, TimeoutExpired};

use crate::config::CoreVersion;

/// What kind of call a status answers, as far as its code means something else for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Public and user decryption.
    Decryption,
    /// Key generation, which needs a preprocessing.
    Keygen,
    /// Creation and destruction of contexts and epochs, which exclude each other.
    Lifecycle,
    /// Everything else.
    Other,
}

/// What to do after a *Start* call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartVerdict {
    /// The id is known: running, finished or failed. Only the *Get* call tells which.
    AlreadyKnown,
    /// A key, context or preprocessing is not there yet, or the store is full: try again, counting attempts.
    MayHeal,
    /// The preprocessing of a key generation still runs: try again, not counting.
    NotYet,
    /// The core is full or cannot serve anybody at the moment: try again, not counting, and take in less.
    Busy,
    /// Another context or epoch is being created or destroyed, or this is the last one. It takes as long as it takes, and nobody
    /// else has to wait for it.
    InFlight,
    /// What the operation builds on was aborted on purpose.
    Aborted,
    /// Nobody answered, or an intermediary did: an outage.
    Unreachable,
    /// The same request will be refused again.
    Refused,
    /// This version of the core does not have the call.
    Unimplemented,
}

/// What to do after a *Get* call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AwaitVerdict {
    /// The operation runs.
    Pending,
    /// The id was never seen, was evicted, or the core restarted: start again.
    Unknown,
    /// The operation ended with an error and this id will never have a result.
    Failed,
    /// The operation was aborted on purpose.
    Aborted,
    /// Nobody answered, or an intermediary did: an outage.
    Unreachable,
    /// The call itself is wrong.
    Refused,
    /// This version of the core does not have the call.
    Unimplemented,
}

/// Reads the status of a *Start* call to a KMS Core of this version.
#[must_use]
pub fn start_verdict(status: &Status, version: CoreVersion, class: Class) -> StartVerdict {
    match speaker(status) {
        Speaker::Core => {}
        Speaker::OwnLimit => return StartVerdict::Refused,
        Speaker::OwnDeadline | Speaker::Between => return StartVerdict::Unreachable,
    }
    match (status.code(), class) {
        (Code::AlreadyExists, _) => StartVerdict::AlreadyKnown,
        // The store of decryptions is full. (A centralized v0.12 also answers so for an unknown key, and holds the id as pending
        // afterwards; see the pitfall of v0.13.)
        (Code::Aborted, Class::Decryption) if version.aborts_when_full() => StartVerdict::Busy,
        (Code::Aborted, Class::Keygen) if version >= CoreVersion::V0_13_20 => StartVerdict::Aborted,
        (Code::FailedPrecondition, Class::Lifecycle) => StartVerdict::InFlight,
        // ABORTED is a launch that failed, on old versions.
        (Code::NotFound | Code::Aborted | Code::Internal, _) => StartVerdict::MayHeal,
        // The preprocessing of the key still runs.
        (Code::Unavailable, Class::Keygen) => StartVerdict::NotYet,
        (Code::ResourceExhausted | Code::FailedPrecondition, _) => StartVerdict::Busy,
        (Code::InvalidArgument | Code::OutOfRange, _) => StartVerdict::Refused,
        (Code::Unimplemented, _) => StartVerdict::Unimplemented,
        _ => StartVerdict::Unreachable,
    }
}

/// Reads the status of a *Get* call.
#[must_use]
pub fn await_verdict(status: &Status) -> AwaitVerdict {
    match speaker(status) {
        Speaker::Core => {}
        // The operation goes on, and nothing is known about the core's health.
        Speaker::OwnDeadline => return AwaitVerdict::Pending,
        Speaker::OwnLimit => return AwaitVerdict::Refused,
        Speaker::Between => return AwaitVerdict::Unreachable,
    }
    match status.code() {
        // The core's own deadline is no more than "not yet".
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => AwaitVerdict::Pending,
        Code::NotFound => AwaitVerdict::Unknown,
        Code::Internal => AwaitVerdict::Failed,
        Code::Aborted => AwaitVerdict::Aborted,
        Code::InvalidArgument | Code::OutOfRange => AwaitVerdict::Refused,
        Code::Unimplemented => AwaitVerdict::Unimplemented,
        _ => AwaitVerdict::Unreachable,
    }
}

/// Whether KMS Core itself said it. What anybody else says of a request is no verdict about it.
#[must_use]
pub fn is_from_core(status: &Status) -> bool {
    speaker(status) == Speaker::Core
}

/// Who made a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaker {
    /// KMS Core, or a proxy that speaks its language so well that nothing tells them apart.
    Core,
    /// This process: the call took longer than it may.
    OwnDeadline,
    /// This process: the core's answer is larger than is configured, and will be so the next time.
    OwnLimit,
    /// The transport, or somebody on the way who does not speak gRPC.
    Between,
}

/// How the texts begin of statuses that the client library makes of an answer that is none of gRPC. It lends them the answer's
/// headers, so that only the text tells, where somebody on the way answers an error under the content type of gRPC.
const MADE_UP: [&str; 6] = [
    "grpc-status header missing",
    "protocol error: ",
    "Unexpected EOF decoding stream",
    "Error decompressing: ",
    "h2 protocol error: ",
    "failed to decode Protobuf message",
];

/// How the text begins of the status about an answer beyond the configured size. A request beyond it only shows as a stream that broke;
/// the configuration's checks exclude it.
const TOO_LARGE: &str = "Error, decoded message length too large";

fn speaker(status: &Status) -> Speaker {
    if let Some(source) = status.source() {
        return if is_own_deadline(source) { Speaker::OwnDeadline } else { Speaker::Between };
    }
    let text = status.message();
    if !speaks_grpc(status) || MADE_UP.iter().any(|begin| text.starts_with(begin)) {
        return Speaker::Between;
    }
    if status.code() == Code::OutOfRange && text.starts_with(TOO_LARGE) { Speaker::OwnLimit } else { Speaker::Core }
}

fn is_own_deadline(source: &(dyn Error + 'static)) -> bool {
    let mut chain = std::iter::successors(Some(source), |inner| (*inner).source());
    chain.any(<dyn Error>::is::<TimeoutExpired>)
}

/// The headers of an answer come with its status. Every answer of gRPC's states its content type.
fn speaks_grpc(status: &Status) -> bool {
    let stated = status.metadata().get("content-type").and_then(|value| value.to_str().ok());
    stated.is_some_and(|value| value.starts_with("application/grpc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0100000000000000000000000000000000000000000000000000000000000001";

    /// As the core's statuses arrive; that they do is tested with a real server (`core_tests.rs`).
    fn core(code: Code) -> Status {
        answered(code, ID, "application/grpc")
    }

    fn answered(code: Code, text: &str, content_type: &'static str) -> Status {
        let mut status = Status::new(code, text);
        status.metadata_mut().insert("content-type", content_type.parse().unwrap());
        status
    }

    fn transport(code: Code, source: impl Error + Send + Sync + 'static) -> Status {
        let mut status = Status::new(code, ID);
        status.set_source(std::sync::Arc::new(source));
        status
    }

    fn refused() -> std::io::Error {
        std::io::Error::other("refused")
    }

    const CODES: [Code; 16] = [
        Code::Cancelled,
        Code::Unknown,
        Code::InvalidArgument,
        Code::DeadlineExceeded,
        Code::NotFound,
        Code::AlreadyExists,
        Code::PermissionDenied,
        Code::ResourceExhausted,
        Code::FailedPrecondition,
        Code::Aborted,
        Code::OutOfRange,
        Code::Unimplemented,
        Code::Internal,
        Code::Unavailable,
        Code::DataLoss,
        Code::Unauthenticated,
    ];

    fn start(status: &Status) -> StartVerdict {
        start_verdict(status, CoreVersion::V0_15, Class::Other)
    }

    #[test]
    fn p5_what_the_core_did_not_say_is_an_outage_under_every_code() {
        for code in CODES {
            let mut others = vec![
                transport(code, refused()),
                Status::new(code, ID),
                answered(code, ID, "text/html"),
                answered(code, ID, "application/json"),
            ];
            others.extend(MADE_UP.map(|text| answered(code, &format!("{text} 404"), "application/grpc")));
            for status in others {
                assert_eq!(start(&status), StartVerdict::Unreachable, "{status:?}");
                let keygen = start_verdict(&status, CoreVersion::V0_12, Class::Keygen);
                assert_eq!(keygen, StartVerdict::Unreachable, "{status:?}");
                assert_eq!(await_verdict(&status), AwaitVerdict::Unreachable, "{status:?}");
                assert!(!is_from_core(&status));
            }
            assert!(is_from_core(&core(code)));
        }
    }

    #[test]
    fn a_deadline_of_either_side_is_pending() {
        let own = transport(Code::Cancelled, TimeoutExpired(()));
        assert_eq!(await_verdict(&own), AwaitVerdict::Pending);
        assert_eq!(start(&own), StartVerdict::Unreachable, "a start answers at once");
        assert_eq!(await_verdict(&core(Code::Cancelled)), AwaitVerdict::Pending);
        assert_eq!(await_verdict(&core(Code::DeadlineExceeded)), AwaitVerdict::Pending);
    }

    #[test]
    fn an_answer_beyond_the_configured_size_will_be_so_again_if_it_is_the_cores() {
        let of = |content_type| answered(Code::OutOfRange, &format!("{TOO_LARGE}: 5 bytes"), content_type);
        assert_eq!(start(&of("application/grpc")), StartVerdict::Refused);
        assert_eq!(await_verdict(&of("application/grpc")), AwaitVerdict::Refused);
        assert_eq!(await_verdict(&of("text/html")), AwaitVerdict::Unreachable);
    }

    #[test]
    fn not_found_on_a_get_asks_for_a_new_start_and_internal_is_final() {
        assert_eq!(await_verdict(&core(Code::Unavailable)), AwaitVerdict::Pending);
        assert_eq!(await_verdict(&core(Code::NotFound)), AwaitVerdict::Unknown);
        assert_eq!(await_verdict(&core(Code::Internal)), AwaitVerdict::Failed);
        assert_eq!(await_verdict(&core(Code::Aborted)), AwaitVerdict::Aborted);
        assert_eq!(await_verdict(&core(Code::InvalidArgument)), AwaitVerdict::Refused);
        assert_eq!(await_verdict(&core(Code::Unimplemented)), AwaitVerdict::Unimplemented);
    }

    #[test]
    fn each_start_code_has_its_verdict() {
        for (code, verdict) in [
            (Code::AlreadyExists, StartVerdict::AlreadyKnown),
            (Code::NotFound, StartVerdict::MayHeal),
            (Code::Aborted, StartVerdict::MayHeal),
            (Code::Internal, StartVerdict::MayHeal),
            (Code::ResourceExhausted, StartVerdict::Busy),
            (Code::FailedPrecondition, StartVerdict::Busy),
            (Code::InvalidArgument, StartVerdict::Refused),
            (Code::Unimplemented, StartVerdict::Unimplemented),
            (Code::Unavailable, StartVerdict::Unreachable),
        ] {
            assert_eq!(start(&core(code)), verdict, "{code:?}");
        }
        let keygen = start_verdict(&core(Code::Unavailable), CoreVersion::V0_15, Class::Keygen);
        assert_eq!(keygen, StartVerdict::NotYet);
        let lifecycle = start_verdict(&core(Code::FailedPrecondition), CoreVersion::V0_15, Class::Lifecycle);
        assert_eq!(lifecycle, StartVerdict::InFlight);
    }

    #[test]
    fn aborted_is_a_full_store_an_abort_or_a_failed_launch_by_version_and_call() {
        let verdict = |version, class| start_verdict(&core(Code::Aborted), version, class);
        for version in [CoreVersion::V0_12, CoreVersion::V0_13_0, CoreVersion::V0_13_10, CoreVersion::V0_13_20] {
            assert_eq!(verdict(version, Class::Decryption), StartVerdict::Busy, "{version:?}");
        }
        assert_eq!(verdict(CoreVersion::V0_14, Class::Decryption), StartVerdict::MayHeal);
        assert_eq!(verdict(CoreVersion::V0_12, Class::Keygen), StartVerdict::MayHeal);
        assert_eq!(verdict(CoreVersion::V0_13_20, Class::Keygen), StartVerdict::Aborted);
        assert_eq!(verdict(CoreVersion::V0_15, Class::Keygen), StartVerdict::Aborted);
    }
}
