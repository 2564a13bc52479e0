//! Stable codes of what an operator can meet.

/// One code with its documentation; `docs/errors.md` is generated from the crates' tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// Stable code, e.g. `KC-0201`.
    pub code: &'static str,
    /// Short name in snake case, for logs and metric labels.
    pub name: &'static str,
    /// What happened, in one sentence.
    pub meaning: &'static str,
    /// What to do, in one sentence.
    pub action: &'static str,
}
