//! An error status in the making: the code, and the explanation that version 0.12 puts into its text.

use std::fmt;

use alloy::primitives::B256;
use kms_proto::{id, kms::v1::RequestId};
use tonic::{Code, Status};

/// Version 0.12 cuts its explanations off here.
const LONGEST_TEXT: usize = 1024;

/// The id of an operation, key, preprocessing, CRS or context, written as KMS Core writes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OperationId(pub(super) B256);

impl OperationId {
    /// The id as a message.
    pub(super) fn message(self) -> RequestId {
        id::to_message(&self.0.0)
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a call is answered with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: Code,
    pub(super) why: String,
}

impl Refusal {
    pub(super) fn new(code: Code, why: impl Into<String>) -> Self {
        Self { code, why: why.into() }
    }

    pub(super) fn invalid(why: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, why)
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let text: String = refusal.why.chars().take(LONGEST_TEXT).collect();
        Self::new(refusal.code, text)
    }
}
