//! The record of every call, by which a test proves that something was called once, or not at all.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use tonic::Code;

use super::engine::lock;

/// Calls of one RPC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Calls {
    /// Calls that arrived, whatever became of them.
    pub calls: u64,
    /// Calls that were answered, by the name of the status code (`OK`, `NOT_FOUND`). Dropped, hung and cancelled calls are
    /// missing here.
    pub answers: BTreeMap<Cow<'static, str>, u64>,
}

impl Calls {
    /// Calls that were answered with a status code, by its name.
    #[must_use]
    pub fn answered(&self, code: &str) -> u64 {
        self.answers.get(code).copied().unwrap_or(0)
    }
}

/// Calls by RPC (`PublicDecrypt`).
pub type CallsByRpc = BTreeMap<Cow<'static, str>, Calls>;

/// All that was recorded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct CallRecord {
    /// By RPC.
    pub rpcs: CallsByRpc,
    /// By request id (64 hex digits; for `KeyGen` the key id), then by RPC.
    pub ids: HashMap<String, CallsByRpc>,
    /// Calls whose id was not recorded, because as many ids as configured are recorded already.
    pub calls_without_room: u64,
}

impl CallRecord {
    /// How often an RPC was called.
    #[must_use]
    pub fn count(&self, rpc: &str) -> u64 {
        self.rpcs.get(rpc).map_or(0, |calls| calls.calls)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct CallLog {
    most_ids: usize,
    record: Mutex<CallRecord>,
}

impl CallLog {
    pub(super) fn new(most_ids: usize) -> Self {
        Self { most_ids, record: Mutex::default() }
    }

    /// Records that a call arrived.
    pub(super) fn arrived(&self, rpc: &'static str, id: Option<&str>) {
        let mut record = lock(&self.record);
        record.rpcs.entry(rpc.into()).or_default().calls += 1;
        let Some(id) = id else { return };
        if record.ids.len() >= self.most_ids && !record.ids.contains_key(id) {
            record.calls_without_room += 1;
            return;
        }
        record.ids.entry(id.to_owned()).or_default().entry(rpc.into()).or_default().calls += 1;
    }

    /// Records that a call is answered.
    pub(super) fn answered(&self, rpc: &'static str, id: Option<&str>, code: Code) {
        let name = code_name(code);
        let mut record = lock(&self.record);
        *record.rpcs.entry(rpc.into()).or_default().answers.entry(name.into()).or_default() += 1;
        let of_id = id.and_then(|id| record.ids.get_mut(id)).and_then(|rpcs| rpcs.get_mut(rpc));
        if let Some(calls) = of_id {
            *calls.answers.entry(name.into()).or_default() += 1;
        }
    }

    pub(super) fn read(&self) -> CallRecord {
        lock(&self.record).clone()
    }

    pub(super) fn of_id(&self, id: &str) -> CallsByRpc {
        lock(&self.record).ids.get(id).cloned().unwrap_or_default()
    }

    pub(super) fn clear(&self) {
        *lock(&self.record) = CallRecord::default();
    }
}

/// Names of the status codes, as gRPC spells them.
const CODE_NAMES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "CANCELLED"),
    (Code::Unknown, "UNKNOWN"),
    (Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, "ABORTED"),
    (Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, "INTERNAL"),
    (Code::Unavailable, "UNAVAILABLE"),
    (Code::DataLoss, "DATA_LOSS"),
    (Code::Unauthenticated, "UNAUTHENTICATED"),
];

pub(super) fn code_name(code: Code) -> &'static str {
    CODE_NAMES.iter().find(|(known, _)| *known == code).map_or("UNKNOWN", |(_, name)| name)
}

pub(super) fn code_from_name(name: &str) -> Option<Code> {
    CODE_NAMES.iter().find(|(_, known)| *known == name).map(|(code, _)| *code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_rpc_and_by_id() {
        let log = CallLog::new(10);
        log.arrived("PublicDecrypt", Some("01"));
        log.answered("PublicDecrypt", Some("01"), Code::Ok);
        log.arrived("PublicDecrypt", Some("02"));
        log.arrived("GetHealthStatus", None);
        let record = log.read();
        assert_eq!(record.count("PublicDecrypt"), 2);
        assert_eq!(record.rpcs["PublicDecrypt"].answered("OK"), 1);
        assert_eq!(record.rpcs["PublicDecrypt"].answers.len(), 1);
        assert_eq!(record.ids["01"]["PublicDecrypt"].answered("OK"), 1);
        assert!(log.of_id("02")["PublicDecrypt"].answers.is_empty());
    }

    #[test]
    fn p6_no_more_ids_than_configured_are_recorded() {
        let log = CallLog::new(1);
        for id in ["01", "02", "01", "03"] {
            log.arrived("UserDecrypt", Some(id));
            log.answered("UserDecrypt", Some(id), Code::Ok);
        }
        let record = log.read();
        assert_eq!(record.ids.len(), 1);
        assert_eq!(record.ids["01"]["UserDecrypt"].calls, 2);
        assert_eq!(record.calls_without_room, 2);
        assert_eq!(record.count("UserDecrypt"), 4);
    }

    #[test]
    fn every_code_has_a_name_that_leads_back_to_it() {
        for number in 0..=16 {
            let code = Code::from(number);
            assert_eq!(code_from_name(code_name(code)), Some(code));
        }
        assert_eq!(code_from_name("ok"), None);
    }
}
