//! What can keep a request from its answer, classified once, where it arises.

use kms_runtime::stage::{Failure, Outcome, Reach};

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
            Self::Outage { code, .. } | Self::MayHeal { code, .. } | Self::Permanent { code, .. } => code,
        }
    }

    /// What the stage is told.
    #[must_use]
    pub fn into_outcome(self) -> Outcome {
        match self {
            Self::Outage { code, dependency, reach: Reach::All, text } => {
                Outcome::Retry { after: None, why: Failure::outage(code, dependency, text) }
            }
            Self::Outage { code, dependency, reach: Reach::Some, text } => {
                Outcome::Retry { after: None, why: Failure::partial_outage(code, dependency, text) }
            }
            Self::MayHeal { code, text } => Outcome::Retry { after: None, why: Failure::new(code, text) },
            Self::Permanent { code, text } => Outcome::DeadLetter { why: Failure::new(code, text) },
        }
    }
}
