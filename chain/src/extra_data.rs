//! `extraData` of requests: which KMS context, and which epoch of it, a request is meant for (`docs/protocol.md`,
//! "Extra data"). Contracts of generation (a) do not read it.

use alloy::primitives::{B256, Bytes};
use kms_schemas::identity::RequestId;

/// What `extraData` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExtraData {
    /// Nothing: the context that was current when the request was made.
    None,
    /// A context.
    Context(RequestId),
    /// A context and an epoch of it.
    ContextAndEpoch(RequestId, RequestId),
}

/// Why bytes are no `extraData` that can be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtraDataError {
    /// Another version than 0, 1, 2.
    #[error("extra data of version {0}, which is not known")]
    Version(u8),
    /// Too short for its version.
    #[error("extra data of version {version} has {found} bytes instead of {expected}")]
    Length {
        /// The first byte.
        version: u8,
        /// Bytes that the version needs at least.
        expected: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// The context id is zero, which the contracts refuse.
    #[error("extra data names context 0")]
    NullContext,
}

const CONTEXT_ONLY: u8 = 1;
const CONTEXT_AND_EPOCH: u8 = 2;

impl ExtraData {
    /// Reads `extraData` of a request. Bytes after what the version needs are tolerated, as the Gateway's contract does.
    ///
    /// # Errors
    /// See [`ExtraDataError`]; such a request can never be served.
    pub fn parse(bytes: &[u8]) -> Result<Self, ExtraDataError> {
        let Some(&version) = bytes.first() else { return Ok(Self::None) };
        let need = |expected: usize| {
            let found = bytes.len();
            if found < expected { Err(ExtraDataError::Length { version, expected, found }) } else { Ok(()) }
        };
        let named = match version {
            0 => return Ok(Self::None),
            CONTEXT_ONLY => {
                need(33)?;
                Self::Context(RequestId(B256::from_slice(&bytes[1..33])))
            }
            CONTEXT_AND_EPOCH => {
                need(65)?;
                let epoch = RequestId(B256::from_slice(&bytes[33..65]));
                Self::ContextAndEpoch(RequestId(B256::from_slice(&bytes[1..33])), epoch)
            }
            other => return Err(ExtraDataError::Version(other)),
        };
        if named.context() == Some(RequestId::default()) { Err(ExtraDataError::NullContext) } else { Ok(named) }
    }

    /// The context that is named.
    #[must_use]
    pub fn context(self) -> Option<RequestId> {
        match self {
            Self::None => None,
            Self::Context(context) | Self::ContextAndEpoch(context, _) => Some(context),
        }
    }

    /// The epoch that is named.
    #[must_use]
    pub fn epoch(self) -> Option<RequestId> {
        match self {
            Self::ContextAndEpoch(_, epoch) => Some(epoch),
            Self::None | Self::Context(_) => None,
        }
    }

    /// The canonical encoding; empty for nothing named.
    #[must_use]
    pub fn to_bytes(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::Context(context) => [&[CONTEXT_ONLY], context.0.as_slice()].concat().into(),
            Self::ContextAndEpoch(context, epoch) => {
                [&[CONTEXT_AND_EPOCH], context.0.as_slice(), epoch.0.as_slice()].concat().into()
            }
        }
    }
}

/// What KMS Core is given for a decryption's `extraData`: the same bytes, but nothing for the single byte 0, which old
/// clients send and which they verify as nothing.
#[must_use]
pub fn for_core(bytes: &[u8]) -> &[u8] {
    if bytes == [0] { &[] } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(tag: u8) -> RequestId {
        let mut bytes = [0; 32];
        (bytes[0], bytes[31]) = (tag, 1);
        RequestId(bytes.into())
    }

    #[test]
    fn every_version_reads_what_it_writes() {
        for named in [ExtraData::None, ExtraData::Context(id(7)), ExtraData::ContextAndEpoch(id(7), id(8))] {
            assert_eq!(ExtraData::parse(&named.to_bytes()), Ok(named));
        }
        assert_eq!(ExtraData::parse(&[0, 9, 9]), Ok(ExtraData::None));
    }

    #[test]
    fn trailing_bytes_are_tolerated_as_on_chain() {
        for named in [ExtraData::Context(id(7)), ExtraData::ContextAndEpoch(id(7), id(8))] {
            let long = [&named.to_bytes()[..], &[1, 2, 3]].concat();
            assert_eq!(ExtraData::parse(&long), Ok(named));
        }
    }

    #[test]
    fn short_unknown_and_null_are_refused() {
        let both = ExtraData::ContextAndEpoch(id(7), id(8)).to_bytes();
        for length in 1..65 {
            let error = ExtraDataError::Length { version: 2, expected: 65, found: length };
            assert_eq!(ExtraData::parse(&both[..length]), Err(error));
        }
        let one = ExtraData::Context(id(7)).to_bytes();
        for length in 1..33 {
            let error = ExtraDataError::Length { version: 1, expected: 33, found: length };
            assert_eq!(ExtraData::parse(&one[..length]), Err(error));
        }
        for version in 3..=255 {
            assert_eq!(ExtraData::parse(&[version; 65]), Err(ExtraDataError::Version(version)));
        }
        let null = ExtraData::ContextAndEpoch(RequestId::default(), id(8)).to_bytes();
        assert_eq!(ExtraData::parse(&null), Err(ExtraDataError::NullContext));
    }

    #[test]
    fn only_the_single_zero_byte_becomes_nothing_for_kms_core() {
        assert_eq!(for_core(&[0]), <&[u8]>::default());
        assert_eq!(for_core(&[]), <&[u8]>::default());
        assert_eq!(for_core(&[0, 0]), [0, 0]);
        assert_eq!(for_core(&[1]), [1]);
    }
}
