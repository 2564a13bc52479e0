//! Which release a source's contracts are, and when it changes.
//!
//! Contracts are upgraded in place, and a new release may tell requests in other events. A request of a block must be read
//! as the release of that block wrote it, or it would be missed: so the release is asked for at the block where the source
//! goes on, and again at each block in which a followed contract says that its code has changed.

use kms_chain::event::ContractSet;
use kms_chain::release::{Release, ReleaseChoice, ReleaseError, detect_release, detect_release_at, resolve_release};
use kms_chain::rpc::{BlockId, Rpc};

use crate::config::SourceConfig;

pub(crate) struct Releases {
    id: String,
    choice: ReleaseChoice,
    /// The release in it is not looked at.
    contracts: ContractSet,
    rpc: Rpc,
}

impl Releases {
    pub(crate) fn of(source: &SourceConfig, rpc: Rpc) -> Self {
        let contracts = source.contracts(Release::V0_11);
        Self { id: source.id.clone(), choice: source.release, contracts, rpc }
    }

    /// The release of the block after which the source goes on; of the latest one at a first start, where the contracts
    /// were not there yet, and where the node does not have that state any more.
    pub(crate) async fn at_start(&self, last: Option<u64>) -> Result<Release, ReleaseError> {
        if self.choice != ReleaseChoice::Auto {
            return self.at_head().await;
        }
        let Some(last) = last else { return self.at_head().await };
        match self.at(last).await {
            Err(error) if says_nothing(&error) => {
                tracing::info!(
                    source = self.id,
                    block = last,
                    %error,
                    "the contracts' release at this block is not known, taking the latest"
                );
                self.at_head().await
            }
            known => known,
        }
    }

    /// The release after a block in which a contract was upgraded.
    pub(crate) async fn after_upgrade(&self, block: u64, before: Release) -> Result<Release, ReleaseError> {
        // The operator's word is held against what the contracts have become, not against what they were once.
        let asked = if self.choice == ReleaseChoice::Auto { self.at(block).await } else { self.at_head().await };
        let after = match asked {
            // One contract of several is upgraded, or none is what it will be: the next upgrade settles it.
            Err(error) if says_nothing(&error) => {
                self.at_head().await.or_else(|error| if says_nothing(&error) { Ok(before) } else { Err(error) })?
            }
            known => known?,
        };
        tracing::info!(source = self.id, block, %before, %after, "a contract was upgraded");
        Ok(after)
    }

    async fn at(&self, block: u64) -> Result<Release, ReleaseError> {
        detect_release_at(&self.rpc.needing(block), &self.contracts, BlockId::from(block)).await
    }

    async fn at_head(&self) -> Result<Release, ReleaseError> {
        match self.choice {
            ReleaseChoice::Auto => detect_release(&self.rpc, &self.contracts).await,
            ReleaseChoice::Is(_) => resolve_release(&self.rpc, &self.contracts, self.choice).await,
        }
    }
}

/// Whether the contracts are between two releases, or there is nothing that could be asked; an outage is neither.
fn says_nothing(error: &ReleaseError) -> bool {
    matches!(error, ReleaseError::View(error) if !error.is_outage())
        || matches!(error, ReleaseError::Inconsistent { .. })
}
