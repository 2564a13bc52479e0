//! What the versions of KMS Core differ in, as far as it concerns a connector (`docs/protocol.md`, "Versions of KMS Core").
//!
//! The version is configured, since no call tells it. What a version lacks is refused before the call.

use kms_chain::release::Release;
use kms_proto::kms::v1 as core;

use crate::codes;
use crate::config::CoreVersion;
use crate::error::Trouble;

impl CoreVersion {
    /// As it is written in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_12 => "v0.12",
            Self::V0_13_0 => "v0.13.0",
            Self::V0_13_10 => "v0.13.10",
            Self::V0_13_20 => "v0.13.20",
            Self::V0_14 => "v0.14",
            Self::V0_15 => "v0.15",
        }
    }

    /// Whether the signed messages of preprocessing, key and CRS carry `extraData`.
    #[must_use]
    pub fn signs_extra_data_of_keys(self) -> bool {
        self >= Self::V0_13_20
    }

    /// Whether a request's context and epoch are named to it. Before, `extraData` is ignored and contexts have other ids.
    #[must_use]
    pub fn knows_contexts(self) -> bool {
        self >= Self::V0_13_10
    }

    /// Whether a decryption refused for a missing key may stay pending for ever under its id.
    #[must_use]
    pub fn leaves_ids_stuck(self) -> bool {
        (Self::V0_13_0..=Self::V0_13_20).contains(&self)
    }

    /// Whether a decryption that failed can be started again under the same id.
    #[must_use]
    pub fn restarts_failed_decryptions(self) -> bool {
        self >= Self::V0_14
    }

    /// Whether a full store of decryptions answers ABORTED, rather than RESOURCE_EXHAUSTED.
    #[must_use]
    pub fn aborts_when_full(self) -> bool {
        self < Self::V0_14
    }

    /// The key set to ask for: explicitly wherever the default would be a compressed one that the release's contract does not
    /// take, or where the release wants that. Unset it means an uncompressed one before v0.13.20, and that is what those releases
    /// take. It is never set for v0.13.10 and v0.13.11, where the numbers of the two choices are swapped.
    #[must_use]
    pub fn keyset_config(self, release: Release) -> Option<core::KeySetConfig> {
        if self < Self::V0_13_20 {
            return None;
        }
        let compressed = if release >= Release::V0_15 {
            core::CompressedKeyConfig::CompressedAll
        } else {
            core::CompressedKeyConfig::CompressedNone
        };
        Some(core::KeySetConfig {
            keyset_type: core::KeySetType::Standard.into(),
            standard_keyset_config: Some(core::StandardKeySetConfig {
                compute_key_type: core::ComputeKeyType::Cpu.into(),
                secret_key_config: core::KeyGenSecretKeyConfig::GenerateAll.into(),
                compressed_key_config: compressed.into(),
            }),
        })
    }

    /// A call that exists from version `since` on.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] if this version is older.
    pub fn has_since(self, since: Self, call: &str) -> Result<(), Trouble> {
        if self >= since { Ok(()) } else { Err(self.lacks(call, "exists from", since)) }
    }

    /// A call that exists up to version `last`.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] if this version is newer.
    pub fn has_until(self, last: Self, call: &str) -> Result<(), Trouble> {
        if self <= last { Ok(()) } else { Err(self.lacks(call, "ended with", last)) }
    }

    fn lacks(self, call: &str, relation: &str, other: Self) -> Trouble {
        let text = format!("{call} {relation} KMS Core {}, and kms_core.version is {}", other.as_str(), self.as_str());
        Trouble::permanent(codes::CORE_VERSION_UNFIT, text)
    }

    /// Whether what this version signs for keys and CRSs is what the release's contract checks.
    ///
    /// # Errors
    /// [`Trouble::Permanent`] if not: the contract would refuse every such answer of this node.
    pub fn signs_keys_for(self, release: Release) -> Result<(), Trouble> {
        if self.signs_extra_data_of_keys() == release.signs_extra_data() {
            return Ok(());
        }
        let (core, contract) = if release.signs_extra_data() { ("without", "with") } else { ("with", "without") };
        let text = format!(
            "KMS Core {} signs keys {core} extra data, the contracts of {release} check them {contract}",
            self.as_str()
        );
        Err(Trouble::permanent(codes::CORE_VERSION_UNFIT, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [CoreVersion; 6] = [
        CoreVersion::V0_12,
        CoreVersion::V0_13_0,
        CoreVersion::V0_13_10,
        CoreVersion::V0_13_20,
        CoreVersion::V0_14,
        CoreVersion::V0_15,
    ];

    fn compressed(version: CoreVersion, release: Release) -> Option<i32> {
        let standard = version.keyset_config(release)?.standard_keyset_config.unwrap();
        Some(standard.compressed_key_config)
    }

    #[test]
    fn a_key_set_is_asked_for_explicitly_from_v0_13_20_on_and_never_where_the_numbers_are_swapped() {
        for release in Release::ALL {
            for version in &ALL[..3] {
                assert_eq!(compressed(*version, release), None, "{version:?} {release}");
            }
            for version in &ALL[3..] {
                let number = if release == Release::V0_15 { 0 } else { 1 };
                assert_eq!(compressed(*version, release), Some(number), "{version:?} {release}");
            }
        }
    }

    #[test]
    fn keys_are_only_made_by_versions_whose_signatures_the_release_takes() {
        for release in Release::ALL {
            let fits = ALL.map(|version| version.signs_keys_for(release).is_ok());
            let old = [true, true, true, false, false, false];
            let wanted = if release.signs_extra_data() { old.map(|fits| !fits) } else { old };
            assert_eq!(fits, wanted, "{release}");
            assert!(CoreVersion::of(release).signs_keys_for(release).is_ok(), "the default of {release}");
        }
    }

    #[test]
    fn what_a_version_lacks_is_refused_for_good_with_both_versions_in_the_text() {
        let refused = CoreVersion::V0_13_10.has_until(CoreVersion::V0_13_0, "Init").unwrap_err();
        assert!(matches!(refused, Trouble::Permanent { code: codes::CORE_VERSION_UNFIT, .. }));
        assert!(refused.to_string().contains("v0.13.0, and kms_core.version is v0.13.10"), "{refused}");
        assert!(CoreVersion::V0_13_0.has_until(CoreVersion::V0_13_0, "Init").is_ok());
        assert!(CoreVersion::V0_13_20.has_since(CoreVersion::V0_13_20, "AbortKeyGen").is_ok());
        assert!(CoreVersion::V0_13_10.has_since(CoreVersion::V0_13_20, "AbortKeyGen").is_err());
    }

    #[test]
    fn the_pitfalls_of_each_version() {
        let row = |version: CoreVersion| {
            [
                version.leaves_ids_stuck(),
                version.restarts_failed_decryptions(),
                version.aborts_when_full(),
                version.knows_contexts(),
            ]
        };
        assert_eq!(
            ALL.map(row),
            [
                [false, false, true, false],
                [true, false, true, false],
                [true, false, true, true],
                [true, false, true, true],
                [false, true, false, true],
                [false, true, false, true],
            ]
        );
    }
}
