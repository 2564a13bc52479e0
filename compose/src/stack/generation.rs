//! What a whole stack is of.

use std::fmt;

use kms_chain::release::Release;
use serde::{Deserialize, Serialize};

use crate::simulator::CoreVersion;

/// A generation of the protocol (`docs/protocol.md`, "Generations"), with the chains and the KMS Core that belong to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Generation {
    /// v0.10 and v0.11: one chain, the Gateway; KMS Core 0.12.
    #[default]
    A,
    /// v0.15: decryptions on the Gateway, keys, contexts and epochs on an Ethereum host chain; KMS Core 0.15.
    B,
}

impl Generation {
    /// The release of its contracts.
    pub fn release(self) -> Release {
        match self {
            Self::A => Release::V0_11,
            Self::B => Release::V0_15,
        }
    }

    /// The version of its KMS Core.
    pub fn core_version(self) -> CoreVersion {
        match self {
            Self::A => CoreVersion::V0_12,
            Self::B => CoreVersion::V0_15,
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}
