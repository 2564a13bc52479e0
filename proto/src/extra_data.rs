//! Which context and epoch a request's `extraData` names (`docs/protocol.md`, "Extra data").
//!
//! KMS Core before 0.13.10 ignores `extraData`; requests to it leave context and epoch unset.

/// Context and epoch of a request; what is not named is the server's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextAndEpoch {
    /// Context id.
    pub context_id: Option<[u8; 32]>,
    /// Epoch id.
    pub epoch_id: Option<[u8; 32]>,
}

/// Why `extraData` cannot be read. Such a request is refused for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtraDataError {
    /// The first byte names a version nobody defined.
    #[error("extra data of unknown version {0}")]
    UnknownVersion(u8),
    /// Fewer bytes than the version needs.
    #[error("extra data of version {version} has {actual} bytes, needs {needed}")]
    TooShort {
        /// First byte.
        version: u8,
        /// Bytes there are.
        actual: usize,
        /// Bytes the version needs.
        needed: usize,
    },
}

/// Reads `extraData`: empty or version 0 names nothing, version 1 a context, version 2 a context and an epoch. Bytes after
/// what the version needs are ignored.
///
/// # Errors
/// Where the version is unknown or bytes are missing.
pub fn parse(extra_data: &[u8]) -> Result<ContextAndEpoch, ExtraDataError> {
    let word = |version, start: usize| {
        let error =
            ExtraDataError::TooShort { version, actual: extra_data.len(), needed: 1 + 32 * usize::from(version) };
        extra_data.get(start..start + 32).and_then(|bytes| bytes.try_into().ok()).ok_or(error)
    };
    match extra_data.first() {
        None | Some(0) => Ok(ContextAndEpoch::default()),
        Some(1) => Ok(ContextAndEpoch { context_id: Some(word(1, 1)?), epoch_id: None }),
        Some(2) => Ok(ContextAndEpoch { context_id: Some(word(2, 1)?), epoch_id: Some(word(2, 33)?) }),
        Some(&version) => Err(ExtraDataError::UnknownVersion(version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_after_version_zero_are_ignored() {
        assert_eq!(parse(&[0, 9, 9]), Ok(ContextAndEpoch::default()));
    }

    #[test]
    fn missing_bytes_are_refused() {
        assert_eq!(parse(&[1; 32]), Err(ExtraDataError::TooShort { version: 1, actual: 32, needed: 33 }));
        assert_eq!(parse(&[2; 64]), Err(ExtraDataError::TooShort { version: 2, actual: 64, needed: 65 }));
    }

    #[test]
    fn unknown_versions_are_refused() {
        assert_eq!(parse(&[3; 99]), Err(ExtraDataError::UnknownVersion(3)));
    }
}
