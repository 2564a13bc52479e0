//! What a gRPC status of KMS Core means, decided once and without I/O (`docs/protocol.md`, "Status codes of KMS Core").
//!
//! Only the code is a promise of KMS Core's. Whether an `UNAVAILABLE` means "pending" or "unreachable" also takes the shape
//! of the status, and that distinction only ever decides pacing, the breaker and alerts: neither may fail a request.

use std::error::Error;

use tonic::{Code, Status};

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
    if is_transport(status) {
        return StartVerdict::Unreachable;
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
        let verdict = |status: Status| start_verdict(&status, CoreVersion::V0_15, Class::Other);
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
        let keygen = |status: Status| start_verdict(&status, CoreVersion::V0_15, Class::Keygen);
        assert_eq!(keygen(Status::unavailable(ID)), StartVerdict::NotYet);
        assert_eq!(keygen(transport(Code::Unavailable)), StartVerdict::Unreachable);
        let lifecycle = start_verdict(&Status::failed_precondition(ID), CoreVersion::V0_15, Class::Lifecycle);
        assert_eq!(lifecycle, StartVerdict::InFlight);
    }

    #[test]
    fn aborted_is_a_full_store_an_abort_or_a_failed_launch_by_version_and_call() {
        let verdict = |version, class| start_verdict(&Status::aborted(ID), version, class);
        for version in [CoreVersion::V0_12, CoreVersion::V0_13_0, CoreVersion::V0_13_10, CoreVersion::V0_13_20] {
            assert_eq!(verdict(version, Class::Decryption), StartVerdict::Busy, "{version:?}");
        }
        assert_eq!(verdict(CoreVersion::V0_14, Class::Decryption), StartVerdict::MayHeal);
        assert_eq!(verdict(CoreVersion::V0_12, Class::Keygen), StartVerdict::MayHeal);
        assert_eq!(verdict(CoreVersion::V0_13_20, Class::Keygen), StartVerdict::Aborted);
        assert_eq!(verdict(CoreVersion::V0_15, Class::Keygen), StartVerdict::Aborted);
    }
}
