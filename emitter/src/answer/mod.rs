//! What the emitter knows of each kind of answer, one file per family: to what request it is an answer, what of the request
//! must stand in it, and by what the node's own recorded answer is recognised on chain.
//!
//! The call itself is made by `kms_chain::response`, what is signed is known to `kms_chain::eip712`. A new kind of answer
//! needs an arm in each function here, and its rules in a file of its family.

mod context;
mod decryption;
mod epoch;
mod key_management;

use alloy::primitives::Bytes;
use kms_chain::event::Decoded;
use kms_schemas::identity::{Kind, RequestId};
use kms_schemas::record::Answer;

pub(crate) use epoch::names_everything;
pub(crate) use key_management::is_aborted;

/// Why an answer is none to the request that the chain holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// It answers another kind of request.
    #[error("the answer is none to a request of kind {0}")]
    Kind(Kind),
    /// Something that must be the request's is not.
    #[error("{0} of the answer is not the request's")]
    Field(&'static str),
    /// The chain takes no answer to this one request.
    #[error("{0}")]
    Unasked(&'static str),
}

/// By what the node's own answer is recognised among the response events of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The event carries this signature.
    Signature(Bytes),
    /// The event names the node's transaction sender.
    TxSender,
    /// The event names the node's signer.
    Signer,
}

/// Whether this form of answer is one to requests of this kind.
#[must_use]
pub fn belongs_to(answer: &Answer, kind: Kind) -> bool {
    match answer {
        Answer::PublicDecryption { .. } => kind == Kind::PublicDecryption,
        Answer::UserDecryption { .. } => kind == Kind::UserDecryption,
        Answer::PrepKeygen { .. } => kind == Kind::PrepKeygen,
        Answer::Keygen { .. } => kind == Kind::Keygen,
        Answer::Crsgen { .. } => kind == Kind::Crsgen,
        Answer::KmsContextCreated => kind == Kind::NewKmsContext,
        Answer::EpochActivation { .. } => kind == Kind::NewKmsEpoch,
        Answer::Aborted => matches!(kind, Kind::PrepKeygen | Kind::Keygen | Kind::Crsgen),
        // Also to those that the chain takes an answer to, where for once there was nothing to do.
        Answer::Done => !kind.has_answer() || matches!(kind, Kind::NewKmsContext | Kind::NewKmsEpoch),
        Answer::Retracted => true,
    }
}

/// By what the recorded answer is recognised; none for answers that are not sent.
#[must_use]
pub fn mark(answer: &Answer) -> Option<Mark> {
    match answer {
        Answer::PublicDecryption { signature, .. }
        | Answer::UserDecryption { signature, .. }
        | Answer::PrepKeygen { signature, .. }
        | Answer::Keygen { signature, .. }
        | Answer::Crsgen { signature, .. } => Some(Mark::Signature(signature.signature.clone())),
        Answer::KmsContextCreated => Some(Mark::TxSender),
        Answer::EpochActivation { .. } => Some(Mark::Signer),
        Answer::Done | Answer::Aborted | Answer::Retracted => None,
    }
}

/// The context that the answer was signed for, where the answer itself names it.
#[must_use]
pub fn context(answer: &Answer) -> Option<RequestId> {
    match answer {
        Answer::EpochActivation { context_id, .. } => Some(*context_id),
        _ => None,
    }
}

/// Whether the answer fits the request, as it was decoded from the chain's own log. A genuine signature names no request: only
/// this keeps it from being used under another one.
///
/// # Errors
/// In what it does not fit.
pub fn fits(answer: &Answer, request: &Decoded) -> Result<(), Misfit> {
    let body = &request.body;
    if !belongs_to(answer, request.kind) {
        return Err(Misfit::Kind(request.kind));
    }
    match answer {
        Answer::PublicDecryption { handles, extra_data, .. } => decryption::public_fits(handles, extra_data, body),
        Answer::UserDecryption { public_key, handles, extra_data, .. } => {
            decryption::user_fits(public_key, handles, extra_data, body)
        }
        Answer::PrepKeygen { extra_data, .. } => key_management::prep_keygen_fits(extra_data, body),
        Answer::Keygen { prep_keygen_id, extra_data, .. } => {
            key_management::keygen_fits(*prep_keygen_id, extra_data, body)
        }
        Answer::Crsgen { max_bit_length, extra_data, .. } => {
            key_management::crsgen_fits(*max_bit_length, extra_data, body)
        }
        Answer::KmsContextCreated => context::created_fits(body),
        Answer::EpochActivation { context_id, .. } => epoch::activation_fits(*context_id, body),
        // Nothing is sent.
        Answer::Done | Answer::Aborted | Answer::Retracted => Ok(()),
    }
}

fn must(holds: bool, field: &'static str) -> Result<(), Misfit> {
    if holds { Ok(()) } else { Err(Misfit::Field(field)) }
}
