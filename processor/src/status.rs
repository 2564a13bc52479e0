//! What a gRPC status of KMS Core means, decided once and without I/O (`docs/protocol.md`, "Status codes of KMS Core").
//!
//! Only the code is a promise of KMS Core's. Whether an `UNAVAILABLE` means "pending" or "unreachable" also takes the shape
//! of the status, and that distinction only ever decides pacing, the breaker and alerts: neither may fail a request.

use std::error::Error;

use tonic::{Code, Status};

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

/// Reads the status of a *Start* call. `waits_for_preprocessing` is set for key generation, whose `UNAVAILABLE` without a
/// transport error means that the preprocessing still runs.
#[must_use]
pub fn start_verdict(status: &Status, waits_for_preprocessing: bool) -> StartVerdict {
    if is_transport(status) {
        return StartVerdict::Unreachable;
    }
    match status.code() {
        Code::AlreadyExists => StartVerdict::AlreadyKnown,
        // ABORTED is a full store, or a launch that failed, on the versions of generation (a).
        Code::NotFound | Code::Aborted | Code::Internal => StartVerdict::MayHeal,
        Code::Unavailable if waits_for_preprocessing => StartVerdict::NotYet,
        Code::ResourceExhausted | Code::FailedPrecondition => StartVerdict::Busy,
        Code::InvalidArgument | Code::OutOfRange => StartVerdict::Refused,
        Code::Unimplemented => StartVerdict::Unimplemented,
        _ => StartVerdict::Unreachable,
    }
}

/// Reads the status of a *Get* call for the id `core_hex` (64 hex digits).
#[must_use]
pub fn await_verdict(status: &Status, core_hex: &str) -> AwaitVerdict {
    match status.code() {
        // A deadline of ours or of the server's: the operation goes on, and nothing is known about the core's health.
        Code::DeadlineExceeded | Code::Cancelled => AwaitVerdict::Pending,
        _ if is_transport(status) => AwaitVerdict::Unreachable,
        Code::Unavailable if comes_from_core(status, core_hex) => AwaitVerdict::Pending,
        Code::NotFound => AwaitVerdict::Unknown,
        Code::Internal => AwaitVerdict::Failed,
        Code::Aborted => AwaitVerdict::Aborted,
        Code::InvalidArgument | Code::OutOfRange => AwaitVerdict::Refused,
        Code::Unimplemented => AwaitVerdict::Unimplemented,
        _ => AwaitVerdict::Unreachable,
    }
}

/// A status that the client library made itself carries the transport's error as its source.
fn is_transport(status: &Status) -> bool {
    status.source().is_some()
}

/// The core names the id in its text, or at least answers as gRPC; a plain HTTP proxy does neither.
fn comes_from_core(status: &Status, core_hex: &str) -> bool {
    status.message().contains(core_hex)
        || status
            .metadata()
            .get("content-type")
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("application/grpc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0100000000000000000000000000000000000000000000000000000000000001";

    fn transport(code: Code) -> Status {
        let mut status = Status::new(code, "tcp connect error");
        status.set_source(std::sync::Arc::new(std::io::Error::other("refused")));
        status
    }

    #[test]
    fn an_unavailable_that_names_the_id_is_pending_and_a_transport_error_is_an_outage() {
        assert_eq!(await_verdict(&Status::unavailable(format!("{ID} not done")), ID), AwaitVerdict::Pending);
        assert_eq!(await_verdict(&transport(Code::Unavailable), ID), AwaitVerdict::Unreachable);
        assert_eq!(await_verdict(&Status::unavailable("upstream 503"), ID), AwaitVerdict::Unreachable);
        assert_eq!(await_verdict(&transport(Code::Unknown), ID), AwaitVerdict::Unreachable);
    }

    #[test]
    fn a_deadline_of_either_side_is_pending() {
        assert_eq!(await_verdict(&transport(Code::Cancelled), ID), AwaitVerdict::Pending);
        assert_eq!(await_verdict(&Status::cancelled("Timeout expired"), ID), AwaitVerdict::Pending);
        assert_eq!(await_verdict(&Status::deadline_exceeded("late"), ID), AwaitVerdict::Pending);
    }

    #[test]
    fn not_found_on_a_get_asks_for_a_new_start_and_internal_is_final() {
        assert_eq!(await_verdict(&Status::not_found(ID), ID), AwaitVerdict::Unknown);
        assert_eq!(await_verdict(&Status::internal(ID), ID), AwaitVerdict::Failed);
        assert_eq!(await_verdict(&Status::aborted(ID), ID), AwaitVerdict::Aborted);
        assert_eq!(await_verdict(&Status::invalid_argument(ID), ID), AwaitVerdict::Refused);
        assert_eq!(await_verdict(&Status::unimplemented("no such method"), ID), AwaitVerdict::Unimplemented);
    }

    #[test]
    fn each_start_code_has_its_verdict() {
        let verdict = |status: Status| start_verdict(&status, false);
        assert_eq!(verdict(Status::already_exists(ID)), StartVerdict::AlreadyKnown);
        assert_eq!(verdict(Status::not_found(ID)), StartVerdict::MayHeal);
        assert_eq!(verdict(Status::aborted(ID)), StartVerdict::MayHeal);
        assert_eq!(verdict(Status::internal(ID)), StartVerdict::MayHeal);
        assert_eq!(verdict(Status::resource_exhausted(ID)), StartVerdict::Busy);
        assert_eq!(verdict(Status::failed_precondition(ID)), StartVerdict::Busy);
        assert_eq!(verdict(Status::invalid_argument(ID)), StartVerdict::Refused);
        assert_eq!(verdict(Status::unimplemented(ID)), StartVerdict::Unimplemented);
        assert_eq!(verdict(Status::unavailable(ID)), StartVerdict::Unreachable);
        assert_eq!(verdict(transport(Code::Unavailable)), StartVerdict::Unreachable);
        assert_eq!(verdict(transport(Code::Internal)), StartVerdict::Unreachable);
        assert_eq!(start_verdict(&Status::unavailable(ID), true), StartVerdict::NotYet);
        assert_eq!(start_verdict(&transport(Code::Unavailable), true), StartVerdict::Unreachable);
    }
}
