//! Injected failures: a status, a dropped connection or a hanging call, before or after the call took effect.

use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

use super::calls::code_from_name;
use super::engine::lock;
use super::version::rpc;

/// A failure that calls meet until it is used up or removed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Name of the RPC, such as `PublicDecrypt`; `*` for every one.
    pub rpc: String,
    /// Only calls for this id (64 hex digits); absent: every call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What happens.
    pub effect: Effect,
    /// Status code by its gRPC name, such as `UNAVAILABLE`; for [`Effect::Status`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Status text; for [`Effect::Status`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How many calls meet it; absent: all, until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
    /// Whether the call takes effect first.
    #[serde(default)]
    pub when: When,
}

/// What an injected failure does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Answer with a status.
    Status,
    /// Drop the connection, and every other call on it.
    Drop,
    /// Never answer.
    Hang,
}

/// When an injected failure strikes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// Instead of the call: it has no effect.
    #[default]
    Before,
    /// Instead of the answer: the call has taken effect.
    After,
}

impl Fault {
    /// Answer a number of calls with a status.
    #[must_use]
    pub fn status(rpc: &str, code: &str, count: u32) -> Self {
        Self { code: Some(code.to_owned()), count: Some(count), ..Self::lasting(rpc, Effect::Status) }
    }

    /// Meet every call until removed. A status needs a code besides.
    #[must_use]
    pub fn lasting(rpc: &str, effect: Effect) -> Self {
        Self { rpc: rpc.to_owned(), id: None, effect, code: None, message: None, count: None, when: When::Before }
    }

    /// Everything that is wrong with it.
    pub(super) fn mistakes(&self) -> Vec<String> {
        let mut mistakes = vec![];
        if self.rpc != "*" && rpc(&self.rpc).is_none() {
            mistakes.push(format!("rpc: KMS Core has no RPC {}", self.rpc));
        }
        if let Some(id) = &self.id
            && kms_proto::id::parse(id).is_err()
        {
            mistakes.push(format!("id: {id} is not 64 hex digits"));
        }
        match (self.effect, self.code.as_deref().map(code_from_name)) {
            (Effect::Status, None) => mistakes.push("code: a status needs one".to_owned()),
            (Effect::Status, Some(None | Some(Code::Ok))) => {
                mistakes.push(format!("code: {} is no gRPC error code", self.code.as_deref().unwrap_or_default()));
            }
            (Effect::Drop | Effect::Hang, Some(_)) => mistakes.push("code: only a status has one".to_owned()),
            _ => {}
        }
        if self.count == Some(0) {
            mistakes.push("count: 0 calls".to_owned());
        }
        mistakes
    }

    fn meets(&self, rpc: &str, id: Option<&str>, when: When) -> bool {
        self.when == when && (self.rpc == "*" || self.rpc == rpc) && (self.id.is_none() || self.id.as_deref() == id)
    }

    /// The status to answer with.
    pub(super) fn to_status(&self) -> Status {
        let code = self.code.as_deref().and_then(code_from_name).unwrap_or(Code::Unknown);
        Status::new(code, self.message.as_deref().unwrap_or("injected failure"))
    }
}

/// The failures in force. The first that meets a call is the one that strikes.
#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    pub(super) fn new(faults: Vec<Fault>) -> Self {
        Self(Mutex::new(faults))
    }

    /// The failure that strikes a call, which uses up one of its count.
    pub(super) fn strike(&self, rpc: &str, id: Option<&str>, when: When) -> Option<Fault> {
        let mut faults = lock(&self.0);
        let at = faults.iter().position(|fault| fault.meets(rpc, id, when))?;
        let fault = faults[at].clone();
        match &mut faults[at].count {
            Some(1) => drop(faults.remove(at)),
            Some(count) => *count -= 1,
            None => {}
        }
        Some(fault)
    }

    pub(super) fn add(&self, new: Vec<Fault>) {
        lock(&self.0).extend(new);
    }

    pub(super) fn list(&self) -> Vec<Fault> {
        lock(&self.0).clone()
    }

    pub(super) fn clear(&self) {
        lock(&self.0).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_strikes_as_often_as_it_counts() {
        let faults = Faults::new(vec![Fault::status("UserDecrypt", "INTERNAL", 2)]);
        assert!(faults.strike("PublicDecrypt", None, When::Before).is_none());
        assert!(faults.strike("UserDecrypt", None, When::After).is_none());
        assert!(faults.strike("UserDecrypt", None, When::Before).is_some());
        assert_eq!(faults.list()[0].count, Some(1));
        assert!(faults.strike("UserDecrypt", Some("01"), When::Before).is_some());
        assert!(faults.strike("UserDecrypt", None, When::Before).is_none());
    }

    #[test]
    fn a_fault_with_an_id_strikes_only_that_id() {
        let fault = Fault { id: Some("01".to_owned()), ..Fault::lasting("*", Effect::Hang) };
        let faults = Faults::new(vec![fault]);
        assert!(faults.strike("CrsGen", Some("02"), When::Before).is_none());
        assert!(faults.strike("GetCrsGenResult", Some("01"), When::Before).is_some());
        assert!(faults.strike("CrsGen", Some("01"), When::Before).is_some());
    }

    #[test]
    fn every_mistake_of_a_fault_is_named() {
        let fault = Fault {
            rpc: "Decrypt".to_owned(),
            id: Some("1".to_owned()),
            code: Some("OK".to_owned()),
            count: Some(0),
            ..Fault::lasting("*", Effect::Status)
        };
        assert_eq!(fault.mistakes().len(), 4);
        assert_eq!(Fault::lasting("*", Effect::Status).mistakes().len(), 1);
        assert_eq!(Fault::lasting("*", Effect::Drop).mistakes(), Vec::<String>::new());
    }
}
