//! What a request is called: its kind, its id, and the identity by which it is looked up, compared and deduplicated.

use std::fmt;

use alloy::primitives::{Address, B256, U256};
use serde::{Deserialize, Serialize};

/// The 32-byte big-endian id that a contract gave a request (`docs/protocol.md`, "Request ids").
///
/// It is the Kafka key of requests, results and submissions, and never an identity by itself: see [`Identity`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RequestId(pub B256);

impl RequestId {
    /// The id as the contracts' `uint256`.
    #[must_use]
    pub fn as_u256(&self) -> U256 {
        U256::from_be_bytes(self.0.0)
    }

    /// The id as KMS Core wants it: 64 lower-case hex digits, no `0x`.
    #[must_use]
    pub fn to_core_hex(&self) -> String {
        hex::encode(self.0)
    }
}

impl From<U256> for RequestId {
    fn from(value: U256) -> Self {
        Self(B256::from(value.to_be_bytes::<32>()))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// What a request asks the KMS to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// Decrypt for everybody.
    PublicDecryption,
    /// Re-encrypt for one user, direct or delegated.
    UserDecryption,
    /// Preprocessing of a key generation.
    PrepKeygen,
    /// Key generation, consuming a preprocessing.
    Keygen,
    /// Generation of a common reference string.
    Crsgen,
    /// PRSS set-up between the nodes; generation (a), no answer on chain.
    PrssInit,
    /// Resharing of a key within the same node set; generation (a), no answer on chain.
    KeyReshareSameSet,
    /// Abort of a preprocessing and its key generation; its id is the preprocessing's. No answer on chain.
    AbortKeygen,
    /// Abort of a CRS generation; its id is the CRS's. No answer on chain.
    AbortCrsgen,
    /// A new KMS context (node set), to be confirmed by the nodes of the previous and of the new one.
    NewKmsContext,
    /// A new epoch of a context, whose key material has to be reshared; confirmed by every node of the context.
    NewKmsEpoch,
    /// A context is gone, and with it its epochs. No answer on chain.
    KmsContextDestroyed,
    /// An epoch is gone. No answer on chain.
    KmsEpochDestroyed,
}

impl Kind {
    /// Every kind, in the order of their definition.
    pub const ALL: [Self; 13] = [
        Self::PublicDecryption,
        Self::UserDecryption,
        Self::PrepKeygen,
        Self::Keygen,
        Self::Crsgen,
        Self::PrssInit,
        Self::KeyReshareSameSet,
        Self::AbortKeygen,
        Self::AbortCrsgen,
        Self::NewKmsContext,
        Self::NewKmsEpoch,
        Self::KmsContextDestroyed,
        Self::KmsEpochDestroyed,
    ];

    /// The name used in logs, metric labels and reports (snake case).
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PublicDecryption => "public_decryption",
            Self::UserDecryption => "user_decryption",
            Self::PrepKeygen => "prep_keygen",
            Self::Keygen => "keygen",
            Self::Crsgen => "crsgen",
            Self::PrssInit => "prss_init",
            Self::KeyReshareSameSet => "key_reshare_same_set",
            Self::AbortKeygen => "abort_keygen",
            Self::AbortCrsgen => "abort_crsgen",
            Self::NewKmsContext => "new_kms_context",
            Self::NewKmsEpoch => "new_kms_epoch",
            Self::KmsContextDestroyed => "kms_context_destroyed",
            Self::KmsEpochDestroyed => "kms_epoch_destroyed",
        }
    }

    /// Whether the chain takes an answer to requests of this kind. For the others the work in KMS Core is all.
    #[must_use]
    pub const fn has_answer(self) -> bool {
        match self {
            Self::PublicDecryption
            | Self::UserDecryption
            | Self::PrepKeygen
            | Self::Keygen
            | Self::Crsgen
            | Self::NewKmsContext
            | Self::NewKmsEpoch => true,
            Self::PrssInit
            | Self::KeyReshareSameSet
            | Self::AbortKeygen
            | Self::AbortCrsgen
            | Self::KmsContextDestroyed
            | Self::KmsEpochDestroyed => false,
        }
    }

    /// The lane that serves this kind.
    #[must_use]
    pub const fn lane(self) -> Lane {
        match self {
            Self::PublicDecryption | Self::UserDecryption => Lane::Decryption,
            _ => Lane::KeyManagement,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Decryptions and key management have separate topics, consumers and limits, because they differ by four orders of
/// magnitude in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lane {
    /// Public and user decryptions.
    Decryption,
    /// Everything else.
    KeyManagement,
}

impl Lane {
    /// Both lanes.
    pub const ALL: [Self; 2] = [Self::Decryption, Self::KeyManagement];

    /// The name used in topic names, transactional ids and metric labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Decryption => "decryption",
            Self::KeyManagement => "key-management",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The identity of a request. Aborts, destructions and different contracts share ids, and every PRSS initialisation is
/// id 1, so the bare id is never enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// EIP-155 id of the chain whose contract asked.
    pub chain_id: u64,
    /// The contract that asked.
    pub contract: Address,
    /// What it asked for.
    pub kind: Kind,
    /// The contract's id of the request.
    pub id: RequestId,
}

/// Where a record lies in Kafka.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Coordinates {
    /// Full topic name, prefix included.
    pub topic: String,
    /// Partition number.
    pub partition: i32,
    /// Offset of the record itself (not the next one).
    pub offset: i64,
}

impl fmt::Display for Coordinates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]@{}", self.topic, self.partition, self.offset)
    }
}
