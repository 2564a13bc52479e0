//! Which contexts and epochs are being created or destroyed right now, so that what conflicts is refused.

use std::sync::{Arc, Mutex};

use super::engine::lock;
use super::refusal::OperationId;

/// What can be created and destroyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    /// A context.
    Context(OperationId),
    /// An epoch.
    Epoch(OperationId),
}

/// What happens to a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is being created.
    Creation,
    /// Something of it is being created: it must stay.
    Use,
    /// It is being destroyed.
    Destruction,
}

type Entry = (u64, Subject, Change);

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Leases(Arc<Mutex<(u64, Vec<Entry>)>>);

/// Changes in progress until it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    number: u64,
    leases: Leases,
}

impl Leases {
    /// Takes all of the wanted changes, or none where any of the subjects is in one of the conflicting states.
    pub(super) fn take(&self, wanted: &[(Subject, Change)], conflicts: &[(Subject, Change)]) -> Option<Lease> {
        let mut entries = lock(&self.0);
        let conflict = |(_, subject, change): &Entry| conflicts.contains(&(*subject, *change));
        if entries.1.iter().any(conflict) {
            return None;
        }
        entries.0 += 1;
        let number = entries.0;
        entries.1.extend(wanted.iter().map(|&(subject, change)| (number, subject, change)));
        Some(Lease { number, leases: self.clone() })
    }

    /// Whether a subject is being created or destroyed.
    pub(super) fn changes(&self, subject: Subject) -> bool {
        lock(&self.0).1.iter().any(|(_, of, change)| *of == subject && *change != Change::Use)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.leases.0).1.retain(|(number, _, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::B256;

    use super::*;

    const CONTEXT: Subject = Subject::Context(OperationId(B256::repeat_byte(7)));
    const EPOCH: Subject = Subject::Epoch(OperationId(B256::repeat_byte(8)));

    #[test]
    fn a_lease_holds_off_what_conflicts_until_it_is_dropped() {
        let leases = Leases::default();
        let creation = leases.take(&[(EPOCH, Change::Creation), (CONTEXT, Change::Use)], &[]).unwrap();
        assert!(leases.changes(EPOCH));
        assert!(!leases.changes(CONTEXT));
        let destroy = || leases.take(&[(CONTEXT, Change::Destruction)], &[(CONTEXT, Change::Use)]);
        assert!(destroy().is_none());
        drop(creation);
        assert!(destroy().is_some());
        assert!(!leases.changes(CONTEXT));
    }
}
