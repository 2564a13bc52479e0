//! The kinds of work a node does.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A kind of work, named in routes and switches as `public-decryption` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    /// A public decryption.
    PublicDecryption,
    /// A user decryption.
    UserDecryption,
    /// A preprocessing.
    Preprocessing,
    /// A key generation.
    KeyGeneration,
    /// A CRS generation.
    CrsGeneration,
    /// The PRSS set-up of versions up to 0.13.3, which holds its call.
    PrssSetup,
    /// A resharing of versions up to 0.13.3.
    Resharing,
    /// The creation of a context, which holds its call.
    ContextCreation,
    /// The creation of an epoch, with the resharing of its keys.
    EpochCreation,
    /// The destruction of a context or an epoch, which holds its call.
    Destruction,
}

impl Operation {
    /// Every kind, in the order of their definition.
    pub const ALL: [Self; 10] = [
        Self::PublicDecryption,
        Self::UserDecryption,
        Self::Preprocessing,
        Self::KeyGeneration,
        Self::CrsGeneration,
        Self::PrssSetup,
        Self::Resharing,
        Self::ContextCreation,
        Self::EpochCreation,
        Self::Destruction,
    ];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PublicDecryption => "public-decryption",
            Self::UserDecryption => "user-decryption",
            Self::Preprocessing => "preprocessing",
            Self::KeyGeneration => "key-generation",
            Self::CrsGeneration => "crs-generation",
            Self::PrssSetup => "prss-setup",
            Self::Resharing => "resharing",
            Self::ContextCreation => "context-creation",
            Self::EpochCreation => "epoch-creation",
            Self::Destruction => "destruction",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_displayed_name_is_the_serialized_one() {
        for operation in Operation::ALL {
            assert_eq!(serde_json::to_value(operation).unwrap(), operation.to_string());
        }
    }
}
