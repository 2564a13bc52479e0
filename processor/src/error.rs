//! What can keep a request from its answer, classified once, where it arises.

use std::time::Duration;

use kms_runtime::stage::{Failure, Outcome, Reach};

use crate::patience::Budget;

/// Why an attempt did not end in an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// A dependency is down: no verdict about the request, no attempt used.
    #[error("{code}: {dependency} is not reachable: {text}")]
    Outage {
        /// Stable code.
        code: &'static str,
        /// Which dependency, for its breaker.
        dependency: &'static str,
        /// Whether it concerns every request of the lane.
        reach: Reach,
        /// For a person.
        text: String,
    },
    /// Something that concerns only this request keeps it, and nobody knows for how long: looked at rarely, no attempt used.
    #[error("{code}: {text}")]
    SetAside {
        /// Stable code.
        code: &'static str,
        /// What has to be mended, by its name in outages.
        dependency: &'static str,
        /// When to look again.
        after: Duration,
        /// For a person.
        text: String,
    },
    /// Everybody answered, and what the request waits for is not there yet: waits within a budget of its own, no attempt used.
    #[error("{code}: {text}")]
    Waits {
        /// What bounds the waiting.
        budget: Budget,
        /// Stable code, also of the dead letter when the budget is used up.
        code: &'static str,
        /// For a person.
        text: String,
    },
    /// A healthy dependency said "not now"; counts as an attempt.
    #[error("{code}: {text}")]
    MayHeal {
        /// Stable code.
        code: &'static str,
        /// For a person.
        text: String,
    },
    /// Can never succeed.
    #[error("{code}: {text}")]
    Permanent {
        /// Stable code.
        code: &'static str,
        /// For a person.
        text: String,
    },
}

impl Trouble {
    /// A dependency is down.
    #[must_use]
    pub fn outage(code: &'static str, dependency: &'static str, text: impl Into<String>) -> Self {
        Self::Outage { code, dependency, reach: Reach::All, text: text.into() }
    }

    /// What the request waits for is not there yet.
    #[must_use]
    pub fn waits(budget: Budget, code: &'static str, text: impl Into<String>) -> Self {
        Self::Waits { budget, code, text: text.into() }
    }

    /// A healthy dependency said "not now".
    #[must_use]
    pub fn may_heal(code: &'static str, text: impl Into<String>) -> Self {
        Self::MayHeal { code, text: text.into() }
    }

    /// Can never succeed.
    #[must_use]
    pub fn permanent(code: &'static str, text: impl Into<String>) -> Self {
        Self::Permanent { code, text: text.into() }
    }

    /// The stable code.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Outage { code, .. }
            | Self::SetAside { code, .. }
            | Self::Waits { code, .. }
            | Self::MayHeal { code, .. }
            | Self::Permanent { code, .. } => code,
        }
    }

    /// What the stage is told. The handler, which counts what was waited, asks this of everything but [`Trouble::Waits`].
    #[must_use]
    pub fn into_outcome(self) -> Outcome {
        match self {
            Self::Outage { code, dependency, reach: Reach::All, text } => {
                Outcome::Retry { after: None, why: Failure::outage(code, dependency, text) }
            }
            Self::Outage { code, dependency, reach: Reach::Some, text } => {
                Outcome::Retry { after: None, why: Failure::partial_outage(code, dependency, text) }
            }
            Self::SetAside { code, dependency, after, text } => {
                Outcome::Retry { after: Some(after), why: Failure::partial_outage(code, dependency, text) }
            }
            Self::Waits { code, text, .. } | Self::MayHeal { code, text } => {
                Outcome::Retry { after: None, why: Failure::new(code, text) }
            }
            Self::Permanent { code, text } => Outcome::DeadLetter { why: Failure::new(code, text) },
        }
    }
}
