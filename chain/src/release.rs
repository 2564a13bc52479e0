//! Which release of the contracts a chain runs, and what follows from it (`docs/protocol.md`, "Releases").

use std::fmt;
use std::str::FromStr;

use alloy::primitives::Address;
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::contracts::Proxy;
use crate::event::ContractSet;
use crate::rpc::{BlockId, Rpc};
use crate::views::{ViewError, view};

/// A release of the contracts, by what a connector can tell apart. Releases are ordered by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Release {
    /// Generation (a): v0.10 and v0.11, whose contracts are the same. Everything is on the Gateway.
    V0_11,
    /// KMS contexts on the Gateway; key generation is still there, as in (a).
    V0_12,
    /// Key generation on an Ethereum host chain; a request's context is pinned when it is made.
    V0_13,
    /// Epochs, confirmed contexts, unified user decryption.
    V0_14,
    /// Generation (b): decryption events carry handles only.
    V0_15,
}

/// Which of the two families of decryption events is followed: both describe the same requests, so never both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// The events carry the ciphertexts' materials: digests, key id, coprocessors.
    Materials,
    /// The events carry handles only.
    Handles,
}

impl Release {
    /// Every release that is served, oldest first.
    pub const ALL: [Self; 5] = [Self::V0_11, Self::V0_12, Self::V0_13, Self::V0_14, Self::V0_15];

    /// The name used in configuration, logs and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_11 => "v0.11",
            Self::V0_12 => "v0.12",
            Self::V0_13 => "v0.13",
            Self::V0_14 => "v0.14",
            Self::V0_15 => "v0.15",
        }
    }

    /// The family of decryption events to follow. From v0.15 on each request is told twice, in one event of each family.
    #[must_use]
    pub fn decryption_family(self) -> Family {
        if self >= Self::V0_15 { Family::Handles } else { Family::Materials }
    }

    /// Whether the Gateway checked the access rights when the request was made. Afterwards the connector alone does.
    #[must_use]
    pub fn gateway_checks_access(self) -> bool {
        self < Self::V0_12
    }

    /// Whether a decryption's response names a KMS context in its `extraData`, and is judged by that context's nodes.
    #[must_use]
    pub fn contexts_in_responses(self) -> bool {
        self >= Self::V0_12
    }

    /// Whether a decryption belongs to the context that it named, or that was current, when it was made.
    #[must_use]
    pub fn pins_context(self) -> bool {
        self >= Self::V0_13
    }

    /// Whether keys and CRSs are generated on the Ethereum host chain rather than on the Gateway.
    #[must_use]
    pub fn key_management_on_host(self) -> bool {
        self >= Self::V0_13
    }

    /// Whether the signed messages of key management carry `extraData`.
    #[must_use]
    pub fn signs_extra_data(self) -> bool {
        self >= Self::V0_13
    }

    /// Whether unified user decryption exists.
    #[must_use]
    pub fn unified(self) -> bool {
        self >= Self::V0_14
    }

    /// Whether contexts have epochs, and both are confirmed on chain by the nodes.
    #[must_use]
    pub fn epochs(self) -> bool {
        self >= Self::V0_14
    }

    /// The highest key type that `keygenResponse` takes. A higher one reverts without data.
    #[must_use]
    pub fn last_key_type(self) -> u8 {
        if self >= Self::V0_15 { 3 } else { 1 }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text names no release.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of v0.11 (also for v0.10), v0.12, v0.13, v0.14, v0.15")]
pub struct ParseReleaseError(String);

impl FromStr for Release {
    type Err = ParseReleaseError;

    fn from_str(text: &str) -> Result<Self, ParseReleaseError> {
        let found = Self::ALL.into_iter().find(|release| release.as_str() == text.trim());
        found.ok_or_else(|| ParseReleaseError(text.to_owned()))
    }
}

impl TryFrom<String> for Release {
    type Error = ParseReleaseError;

    fn try_from(text: String) -> Result<Self, ParseReleaseError> {
        text.parse()
    }
}

impl From<Release> for String {
    fn from(release: Release) -> Self {
        release.as_str().to_owned()
    }
}

/// The `release` of a configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ReleaseChoice {
    /// Ask the contracts.
    #[default]
    Auto,
    /// This one; the contracts must not contradict.
    Is(Release),
}

impl fmt::Display for ReleaseChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Is(release) => release.fmt(f),
        }
    }
}

impl FromStr for ReleaseChoice {
    type Err = ParseReleaseError;

    fn from_str(text: &str) -> Result<Self, ParseReleaseError> {
        if text.trim() == "auto" { Ok(Self::Auto) } else { text.parse().map(Self::Is) }
    }
}

impl TryFrom<String> for ReleaseChoice {
    type Error = ParseReleaseError;

    fn try_from(text: String) -> Result<Self, ParseReleaseError> {
        text.parse()
    }
}

impl From<ReleaseChoice> for String {
    fn from(choice: ReleaseChoice) -> Self {
        choice.to_string()
    }
}

/// The releases that a version of a contract belongs to, oldest first. Releases that one contract does not tell apart
/// are the same for that contract.
type Versions = &'static [(&'static str, &'static [Release])];

const DECRYPTION: Versions = &[
    ("Decryption v0.3.0", &[Release::V0_11]),
    ("Decryption v0.4.0", &[Release::V0_12]),
    ("Decryption v0.5.0", &[Release::V0_13]),
    ("Decryption v0.6.0", &[Release::V0_14]),
    ("Decryption v0.7.0", &[Release::V0_15]),
];

const KMS_GENERATION: Versions = &[
    ("KMSGeneration v0.4.0", &[Release::V0_11, Release::V0_12]),
    ("KMSGeneration v0.1.0", &[Release::V0_13]),
    ("KMSGeneration v0.2.0", &[Release::V0_14, Release::V0_15]),
];

const PROTOCOL_CONFIG: Versions =
    &[("ProtocolConfig v0.1.0", &[Release::V0_13]), ("ProtocolConfig v0.2.0", &[Release::V0_14, Release::V0_15])];

/// The Gateway's `KMSGeneration` from v0.13 on, which emits no requests any more.
const RETIRED_KMS_GENERATION: &str = "KMSGeneration v0.5.0";

/// Why the release is not known, or is not served.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReleaseError {
    /// A version could not be read.
    #[error(transparent)]
    View(#[from] ViewError),
    /// It is none that is served.
    #[error(
        "the contract at {contract} reports version {version:?}, which is not served as {role}; served: {}",
        served(.role)
    )]
    Unsupported {
        /// The configured part of the contract.
        role: &'static str,
        /// The contract that was asked.
        contract: Address,
        /// What it answered.
        version: String,
    },
    /// The Gateway's key generation of a release that has moved it.
    #[error(
        "the contract at {contract}, configured as kms_generation of the Gateway, is the KMSGeneration of v0.13 or later, \
         which only answers views: remove kms_generation from the Gateway's section ([gateway] of the processor, the \
         Gateway's [[source]] of ingest, its [[destination]] of the emitter), and configure the KMSGeneration of the \
         Ethereum host chain: [ethereum] of the processor, a [[source]] and a [[destination]] of its own"
    )]
    Retired {
        /// The contract that was asked.
        contract: Address,
    },
    /// The contracts of one chain are of releases that do not go together.
    #[error("the contracts of this chain are of different releases: {}", versions.join(", "))]
    Inconsistent {
        /// What the contracts answered.
        versions: Vec<String>,
    },
    /// The configuration names another release than the contracts.
    #[error("the configuration says release {configured}, the contracts answer {}", versions.join(", "))]
    Contradicted {
        /// The configured release.
        configured: Release,
        /// What the contracts answered.
        versions: Vec<String>,
    },
    /// No contract is configured.
    #[error("no contract is configured whose version could be asked")]
    NoContract,
}

impl ReleaseError {
    /// Whether the contracts have not spoken: wait and ask again. An error object of a node says nothing about them.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::View(error) if !error.is_answer())
    }

    /// The stable code (`docs/errors.md`).
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::View(error) => error.code(),
            Self::Unsupported { .. } | Self::Retired { .. } | Self::NoContract => codes::RELEASE_UNSUPPORTED,
            Self::Inconsistent { .. } | Self::Contradicted { .. } => codes::RELEASE_MISMATCH,
        }
    }
}

fn served(role: &str) -> String {
    let versions = match role {
        "decryption" => DECRYPTION,
        "kms_generation" => KMS_GENERATION,
        _ => PROTOCOL_CONFIG,
    };
    versions.iter().map(|(version, _)| *version).collect::<Vec<_>>().join(", ")
}

/// The version that a contract of the protocol reports at a block, e.g. `Decryption v0.3.0`.
///
/// # Errors
/// See [`ViewError`].
pub async fn version(rpc: &Rpc, contract: Address, block: BlockId) -> Result<String, ViewError> {
    view(rpc, contract, &Proxy::getVersionCall {}, block).await
}

/// What one contract says of itself.
struct Stated {
    version: String,
    releases: &'static [Release],
}

fn releases_of(role: &'static str, contract: Address, version: &str) -> Result<&'static [Release], ReleaseError> {
    let versions = match role {
        "decryption" => DECRYPTION,
        "kms_generation" => KMS_GENERATION,
        _ => PROTOCOL_CONFIG,
    };
    if role == "kms_generation" && version == RETIRED_KMS_GENERATION {
        return Err(ReleaseError::Retired { contract });
    }
    let found = versions.iter().find(|(known, _)| *known == version).map(|(_, releases)| *releases);
    found.ok_or_else(|| ReleaseError::Unsupported { role, contract, version: version.to_owned() })
}

/// The newest release that every contract agrees to.
fn agree(stated: &[Stated]) -> Result<Release, ReleaseError> {
    if stated.is_empty() {
        return Err(ReleaseError::NoContract);
    }
    let everybody = |release: &Release| stated.iter().all(|contract| contract.releases.contains(release));
    Release::ALL
        .into_iter()
        .rev()
        .find(everybody)
        .ok_or_else(|| ReleaseError::Inconsistent { versions: versions(stated) })
}

fn versions(stated: &[Stated]) -> Vec<String> {
    stated.iter().map(|contract| contract.version.clone()).collect()
}

/// The configured contracts with their parts in the configuration.
fn roles(contracts: &ContractSet) -> impl Iterator<Item = (&'static str, Address)> {
    let parts = [
        ("decryption", contracts.decryption),
        ("kms_generation", contracts.kms_generation),
        ("protocol_config", contracts.protocol_config),
    ];
    parts.into_iter().filter_map(|(role, contract)| Some((role, contract?)))
}

async fn state(rpc: &Rpc, role: &'static str, contract: Address, block: BlockId) -> Result<Stated, ReleaseError> {
    let version = version(rpc, contract, block).await?;
    let releases = releases_of(role, contract, &version)?;
    Ok(Stated { version, releases })
}

/// Asks every configured contract of one chain for its version. The set's own `release` is not looked at.
///
/// Key management of v0.14 and v0.15 is the same on the host chain, whose contracts report the same versions: a set
/// without `decryption` is taken for the newer one.
///
/// # Errors
/// A version cannot be read or is not served, or the contracts do not go together.
pub async fn detect_release(rpc: &Rpc, contracts: &ContractSet) -> Result<Release, ReleaseError> {
    detect_release_at(rpc, contracts, BlockId::latest()).await
}

/// As [`detect_release`], of the contracts as they were at a block, whose state the node must still have.
///
/// # Errors
/// As [`detect_release`].
pub async fn detect_release_at(rpc: &Rpc, contracts: &ContractSet, block: BlockId) -> Result<Release, ReleaseError> {
    let mut stated = Vec::new();
    for (role, contract) in roles(contracts) {
        stated.push(state(rpc, role, contract, block).await?);
    }
    agree(&stated)
}

/// The release to work with: the detected one, or the configured one if the contracts do not contradict it. A contract
/// whose version is not known, or that has none, does not contradict: the operator's word stands. One whose version could
/// not be read might contradict.
///
/// # Errors
/// As [`detect_release`], or the configuration names another release than the contracts.
pub async fn resolve_release(
    rpc: &Rpc,
    contracts: &ContractSet,
    choice: ReleaseChoice,
) -> Result<Release, ReleaseError> {
    let ReleaseChoice::Is(configured) = choice else { return detect_release(rpc, contracts).await };
    let mut versions = Vec::new();
    let mut is_contradicted = false;
    for (role, contract) in roles(contracts) {
        match state(rpc, role, contract, BlockId::latest()).await {
            Ok(stated) => {
                is_contradicted |= !stated.releases.contains(&configured);
                versions.push(stated.version);
            }
            Err(ReleaseError::Unsupported { .. }) => {}
            Err(ReleaseError::View(error)) if error.is_answer() => {}
            Err(error) => return Err(error),
        }
    }
    if is_contradicted { Err(ReleaseError::Contradicted { configured, versions }) } else { Ok(configured) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_reads_what_it_writes_and_refuses_everything_else() {
        for release in Release::ALL {
            assert_eq!(release.to_string().parse(), Ok(release));
            assert_eq!(release.to_string().parse(), Ok(ReleaseChoice::Is(release)));
        }
        assert_eq!("auto".parse(), Ok(ReleaseChoice::Auto));
        for text in ["", "v0.10", "0.11", "v0.16", "a", "Auto"] {
            assert!(text.parse::<Release>().is_err(), "{text:?}");
            assert!(text.parse::<ReleaseChoice>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_a_release_has_grows_with_its_age_and_a_request_is_told_by_one_family() {
        let steps: Vec<[bool; 6]> = Release::ALL
            .iter()
            .map(|r| {
                let handles = r.decryption_family() == Family::Handles;
                [r.contexts_in_responses(), r.pins_context(), r.signs_extra_data(), r.epochs(), r.unified(), handles]
            })
            .collect();
        assert_eq!(
            steps,
            [
                [false; 6],
                [true, false, false, false, false, false],
                [true, true, true, false, false, false],
                [true, true, true, true, true, false],
                [true; 6],
            ]
        );
        assert_eq!(Release::ALL.map(Release::last_key_type), [1, 1, 1, 1, 3]);
        assert_eq!(Release::ALL.map(Release::gateway_checks_access), [true, false, false, false, false]);
        assert_eq!(Release::ALL.map(Release::key_management_on_host), [false, false, true, true, true]);
    }

    fn detected(parts: &[(&'static str, &str)]) -> Result<Release, ReleaseError> {
        let stated: Result<Vec<Stated>, ReleaseError> = parts
            .iter()
            .map(|(role, version)| {
                let releases = releases_of(role, Address::repeat_byte(1), version)?;
                Ok(Stated { version: (*version).to_owned(), releases })
            })
            .collect();
        agree(&stated?)
    }

    #[test]
    fn every_combination_of_a_real_chain_is_told_apart() {
        let cases: &[(&[(&'static str, &str)], Release)] = &[
            (&[("decryption", "Decryption v0.3.0"), ("kms_generation", "KMSGeneration v0.4.0")], Release::V0_11),
            (&[("decryption", "Decryption v0.4.0"), ("kms_generation", "KMSGeneration v0.4.0")], Release::V0_12),
            (&[("decryption", "Decryption v0.5.0")], Release::V0_13),
            (&[("decryption", "Decryption v0.6.0")], Release::V0_14),
            (&[("decryption", "Decryption v0.7.0")], Release::V0_15),
            (
                &[("kms_generation", "KMSGeneration v0.1.0"), ("protocol_config", "ProtocolConfig v0.1.0")],
                Release::V0_13,
            ),
            (
                &[("kms_generation", "KMSGeneration v0.2.0"), ("protocol_config", "ProtocolConfig v0.2.0")],
                Release::V0_15,
            ),
            (&[("decryption", "Decryption v0.6.0"), ("protocol_config", "ProtocolConfig v0.2.0")], Release::V0_14),
        ];
        for (parts, release) in cases {
            assert_eq!(detected(parts).ok(), Some(*release), "{parts:?}");
        }
    }

    #[test]
    fn what_is_not_served_is_refused_with_the_list_of_what_is() {
        let unsupported = detected(&[("decryption", "Decryption v0.8.0")]).expect_err("a later release");
        assert_eq!(unsupported.code(), codes::RELEASE_UNSUPPORTED);
        let text = unsupported.to_string();
        assert!(
            text.contains("\"Decryption v0.8.0\"") && text.contains("Decryption v0.3.0, Decryption v0.4.0"),
            "{text}"
        );

        let mixed = detected(&[("decryption", "Decryption v0.7.0"), ("kms_generation", "KMSGeneration v0.4.0")]);
        assert_eq!(mixed.expect_err("two releases").code(), codes::RELEASE_MISMATCH);

        let retired = detected(&[("decryption", "Decryption v0.7.0"), ("kms_generation", "KMSGeneration v0.5.0")]);
        let retired = retired.expect_err("moved to the host chain");
        assert_eq!(retired.code(), codes::RELEASE_UNSUPPORTED);
        let text = retired.to_string();
        assert!(text.contains("Ethereum host chain"), "{text}");
        for key in ["remove kms_generation", "[gateway]", "[[source]]", "[[destination]]"] {
            assert!(text.contains(key), "what to change is named: {text}");
        }

        // A contract in another's place is not served there.
        assert!(detected(&[("protocol_config", "Decryption v0.7.0")]).is_err());
        assert!(matches!(detected(&[]), Err(ReleaseError::NoContract)));
    }
}
