//! Up to which block a source is followed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::rpc::{Block, BlockNumberOrTag, Rpc, RpcError};

/// Up to which block a source is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Finality {
    /// The latest block. Whatever is ingested may still be reorganised away.
    #[default]
    Latest,
    /// The block that the node calls `safe`.
    Safe,
    /// The block that the node calls `finalized`.
    Finalized,
    /// So many blocks below the latest.
    Depth(u64),
}

impl Finality {
    /// The highest block to follow now; none while the chain is shorter than the depth, or the node does not know the tag
    /// yet.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn resolve(self, rpc: &Rpc) -> Result<Option<Block>, RpcError> {
        match self {
            Self::Latest => rpc.latest_block().await.map(Some),
            Self::Safe => rpc.block(BlockNumberOrTag::Safe).await,
            Self::Finalized => rpc.block(BlockNumberOrTag::Finalized).await,
            Self::Depth(depth) => {
                let Some(number) = rpc.block_number().await?.checked_sub(depth) else { return Ok(None) };
                rpc.block(BlockNumberOrTag::Number(number)).await
            }
        }
    }
}

/// Why a text is no finality.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of latest, safe, finalized, depth:<blocks>")]
pub struct ParseFinalityError(String);

impl FromStr for Finality {
    type Err = ParseFinalityError;

    fn from_str(text: &str) -> Result<Self, ParseFinalityError> {
        let error = || ParseFinalityError(text.to_owned());
        match text.trim() {
            "latest" => Ok(Self::Latest),
            "safe" => Ok(Self::Safe),
            "finalized" => Ok(Self::Finalized),
            other => {
                let depth = other.strip_prefix("depth:").ok_or_else(error)?;
                depth.trim().parse().map(Self::Depth).map_err(|_| error())
            }
        }
    }
}

impl TryFrom<String> for Finality {
    type Error = ParseFinalityError;

    fn try_from(text: String) -> Result<Self, ParseFinalityError> {
        text.parse()
    }
}

impl From<Finality> for String {
    fn from(finality: Finality) -> Self {
        finality.to_string()
    }
}

impl fmt::Display for Finality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Safe => f.write_str("safe"),
            Self::Finalized => f.write_str("finalized"),
            Self::Depth(depth) => write!(f, "depth:{depth}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Finality;

    #[test]
    fn finality_reads_what_it_writes_and_refuses_everything_else() {
        for finality in [Finality::Latest, Finality::Safe, Finality::Finalized, Finality::Depth(0), Finality::Depth(12)]
        {
            assert_eq!(finality.to_string().parse(), Ok(finality));
        }
        for text in ["", "Latest", "depth", "depth:", "depth:-1", "depth:x", "12", "safe:1"] {
            assert!(text.parse::<Finality>().is_err(), "{text:?}");
        }
    }
}
