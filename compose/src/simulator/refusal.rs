//! An error status in the making: the code, and the explanation, which only version 0.12 puts into its text.

use std::fmt;

use alloy::primitives::B256;
use kms_proto::{id, kms::v1::RequestId};
use tonic::{Code, Status};

/// Version 0.12 cuts its explanations off here.
const LONGEST_TEXT: usize = 1024;

/// The id of an operation, key, preprocessing, CRS, context or epoch, written as KMS Core writes it.
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
    /// Whether the id was read already, so that an opaque text names it.
    names_id: bool,
}

/// How a version words its error texts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wording<'a> {
    /// With an explanation.
    Explained,
    /// With the id and the operation alone.
    Opaque {
        /// The operation.
        tag: &'static str,
        /// The id of the request, where it has a readable one.
        id: Option<&'a str>,
    },
}

/// What opaque texts name where no id was read.
const NO_ID: OperationId = OperationId(B256::ZERO);

impl Refusal {
    pub(super) fn new(code: Code, why: impl Into<String>) -> Self {
        Self { code, why: why.into(), names_id: true }
    }

    /// A field is wrong in itself.
    pub(super) fn invalid(why: impl Into<String>) -> Self {
        Self { code: Code::InvalidArgument, why: why.into(), names_id: false }
    }

    /// Said before anything of the request was read.
    pub(super) fn unread(code: Code, why: impl Into<String>) -> Self {
        Self { code, why: why.into(), names_id: false }
    }

    /// The status that is sent.
    pub(super) fn into_status(self, wording: Wording<'_>) -> Status {
        match wording {
            Wording::Explained => Status::new(self.code, self.why.chars().take(LONGEST_TEXT).collect::<String>()),
            Wording::Opaque { tag, id } => {
                let named = id.filter(|_| self.names_id).map_or_else(|| NO_ID.to_string(), ToOwned::to_owned);
                Status::new(self.code, format!("Failed on requestID {named} with metric {tag}"))
            }
        }
    }
}
