//! Which release a source's contracts are, and when it changes.
//!
//! Contracts are upgraded in place, and a new release may tell requests in other events. A request of a block must be read
//! as the release of that block wrote it, or it would be missed: so the release is asked for at the block where the source
//! goes on, and again at each block in which a followed contract says that its code has changed.
//!
//! Only the contracts' own answer, be it a revert, decides. A node that answers with an error has said nothing of them and
//! is asked again; where it keeps to that, because the block's state is pruned, the contracts' `Upgraded` events since then
//! say whether they still are what they were.

use alloy::sol_types::SolEvent;
use kms_chain::contracts::Proxy::Upgraded;
use kms_chain::event::ContractSet;
use kms_chain::release::{Release, ReleaseChoice, ReleaseError, detect_release_at, resolve_release};
use kms_chain::rpc::{BlockId, LogQuery, Rpc, RpcError};
use kms_runtime::http::Check;

use crate::config::SourceConfig;
use crate::range::RangeSize;

/// Errors with which the nodes may answer at a block before something else is asked. That decides nothing by itself: the
/// other way gives the same release, or none.
const REFUSALS: u32 = 3;

/// Why a release is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReleaseUnknown {
    /// The contracts could not be asked, or their answer cannot be served.
    #[error(transparent)]
    Contracts(#[from] ReleaseError),
    /// Their upgrades could not be asked for.
    #[error(transparent)]
    Upgrades(#[from] RpcError),
    /// The nodes do not have the block's state, and what the contracts are now they were not then.
    #[error(
        "the nodes do not answer calls at block {block}, and block {upgraded} has upgraded a contract since: {refusal}"
    )]
    StateGone {
        /// The block at which they were asked.
        block: u64,
        /// The first block after it with an upgrade.
        upgraded: u64,
        /// What a node answered.
        refusal: String,
    },
}

impl ReleaseUnknown {
    /// Whether it is the contracts' own answer, which cannot be served. After everything else another one may come.
    pub(crate) fn is_verdict(&self) -> bool {
        matches!(self, Self::Contracts(error) if !matches!(error, ReleaseError::View(_)))
    }

    /// Says in readiness, and at the first of several failures in the log, why the source waits.
    pub(crate) fn tell(&self, source_id: &str, check: &Check, failures: u32) {
        let code = self.code();
        if failures == 1 {
            tracing::warn!(source = source_id, code, error = %self, "the contracts' version cannot be read, trying again");
        }
        check.not_ready(match self {
            Self::StateGone { block, upgraded, .. } => {
                format!(
                    "{code}: the contracts' version at block {block} cannot be read, and block {upgraded} upgraded one"
                )
            }
            _ => format!("{code}: the contracts' version cannot be read"),
        });
    }

    /// The stable code (`docs/errors.md`).
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Contracts(error) => error.code(),
            Self::Upgrades(error) => error.code(),
            Self::StateGone { .. } => crate::codes::RELEASE_UNKNOWN.code,
        }
    }
}

/// The nodes' refusals at one block.
#[derive(Clone, Copy, Debug)]
struct Refused {
    block: u64,
    times: u32,
    /// The first upgrade after it, once it was found.
    upgraded: Option<u64>,
}

pub(crate) struct Releases {
    id: String,
    choice: ReleaseChoice,
    /// The release in it is not looked at.
    contracts: ContractSet,
    rpc: Rpc,
    /// For the ranges in which upgrades are asked for.
    ranges: RangeSize,
    refused: Option<Refused>,
}

impl Releases {
    pub(crate) fn of(source: &SourceConfig, rpc: Rpc) -> Self {
        let contracts = source.contracts(Release::V0_11);
        let ranges = RangeSize::new(source.max_range_blocks, source.target_logs);
        Self { id: source.id.clone(), choice: source.release, contracts, rpc, ranges, refused: None }
    }

    /// The release of the block after which the source goes on; of the latest one at a first start, and where the contracts
    /// were not there yet.
    pub(crate) async fn at_start(&mut self, last: Option<u64>) -> Result<Release, ReleaseUnknown> {
        // A source may begin at a block that is still to come: the operator's word needs nobody to have it.
        let Some(last) = last.filter(|_| self.choice == ReleaseChoice::Auto) else {
            return Ok(self.at_head(None).await?);
        };
        match self.after(last).await {
            Err(ReleaseUnknown::Contracts(error)) if says_nothing(&error) => {
                tracing::info!(
                    source = self.id,
                    block = last,
                    %error,
                    "the contracts' release at this block is not known, taking the latest"
                );
                Ok(self.at_head(Some(last)).await?)
            }
            known => known,
        }
    }

    /// The release after a block in which a contract was upgraded.
    pub(crate) async fn after_upgrade(&mut self, block: u64, before: Release) -> Result<Release, ReleaseUnknown> {
        // The operator's word is held against what the contracts have become, not against what they were once.
        let asked = match self.choice {
            ReleaseChoice::Auto => self.after(block).await,
            ReleaseChoice::Is(_) => self.at_head(Some(block)).await.map_err(ReleaseUnknown::from),
        };
        let after = match asked {
            // One contract of several is upgraded, or none is what it will be: the next upgrade settles it.
            Err(ReleaseUnknown::Contracts(error)) if says_nothing(&error) => match self.at_head(Some(block)).await {
                Err(error) if says_nothing(&error) => before,
                known => known?,
            },
            known => known?,
        };
        tracing::info!(source = self.id, block, %before, %after, "a contract was upgraded");
        Ok(after)
    }

    /// The release after a block, by the contracts' word at that block or, where the nodes keep answering with an error
    /// there, at the head.
    async fn after(&mut self, block: u64) -> Result<Release, ReleaseUnknown> {
        let error = match self.at(block).await {
            Err(error) if is_refusal(&error) => error,
            known => return Ok(known?),
        };
        let seen = self.refused.filter(|refused| refused.block == block);
        let mut refused = seen.unwrap_or(Refused { block, times: 0, upgraded: None });
        refused.times = refused.times.saturating_add(1);
        self.refused = Some(refused);
        if refused.times < REFUSALS {
            return Err(error.into());
        }
        self.unless_upgraded(refused, &error).await
    }

    /// What the contracts are at the head, if none was upgraded between a block and the head.
    async fn unless_upgraded(&mut self, refused: Refused, error: &ReleaseError) -> Result<Release, ReleaseUnknown> {
        let Refused { block, upgraded, .. } = refused;
        let gone = |upgraded| ReleaseUnknown::StateGone { block, upgraded, refusal: error.to_string() };
        if let Some(upgraded) = upgraded {
            return Err(gone(upgraded));
        }
        let head = self.rpc.needing(block).block_number().await?;
        // Before the logs, which may take longer than the node keeps the head's state.
        let at_head = match self.at(head).await {
            Err(error) if !says_nothing(&error) => return Err(error.into()),
            known => known,
        };
        if let Some(upgraded) = self.first_upgrade(block.saturating_add(1), head).await? {
            self.refused = Some(Refused { upgraded: Some(upgraded), ..refused });
            return Err(gone(upgraded));
        }
        tracing::info!(
            source = self.id,
            block,
            head,
            %error,
            "the nodes do not answer calls at this block; no contract was upgraded since, so the head's release is taken"
        );
        Ok(at_head?)
    }

    /// The first block of the range in which a contract says that it was upgraded.
    async fn first_upgrade(&mut self, first: u64, last: u64) -> Result<Option<u64>, RpcError> {
        let mut next = first;
        while next <= last {
            let to = self.ranges.end(next, last);
            let asked = to - next + 1;
            let (addresses, topics) = (self.contracts.addresses(), vec![Upgraded::SIGNATURE_HASH]);
            match self.rpc.logs(&LogQuery { addresses, topics, from: next, to }).await {
                Ok(page) => {
                    if let Some(log) = page.logs.first() {
                        return Ok(Some(log.block_number));
                    }
                    self.ranges.answered(asked, 0);
                    next = to + 1;
                }
                // As the follower does: any refusal of more than one block is taken for one of the range.
                Err(error @ (RpcError::LogRangeTooLarge { .. } | RpcError::Response { .. })) => {
                    if !self.ranges.refused(asked) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    async fn at(&self, block: u64) -> Result<Release, ReleaseError> {
        detect_release_at(&self.rpc.needing(block), &self.contracts, BlockId::from(block)).await
    }

    /// The release at the head of a node that has this block.
    async fn at_head(&self, needed: Option<u64>) -> Result<Release, ReleaseError> {
        let rpc = needed.map_or_else(|| self.rpc.clone(), |block| self.rpc.needing(block));
        resolve_release(&rpc, &self.contracts, self.choice).await
    }
}

/// Whether the contracts are between two releases, or there is nothing that could be asked. What a node says instead of
/// asking them is neither.
fn says_nothing(error: &ReleaseError) -> bool {
    matches!(error, ReleaseError::View(error) if error.is_answer())
        || matches!(error, ReleaseError::Inconsistent { .. })
}

/// Whether a node answered with an error, and not the contract; that no node answered is none.
fn is_refusal(error: &ReleaseError) -> bool {
    let unexecuted = match error {
        ReleaseError::View(error) => error.unexecuted(),
        _ => None,
    };
    unexecuted.is_some_and(|error| !error.is_outage())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mock::{Chain, Node};

    const V0_14: &str = "Decryption v0.6.0";
    const V0_15: &str = "Decryption v0.7.0";

    /// An upgrade to v0.15 in block 50 of 100.
    fn upgraded_at_50() -> Chain {
        Chain { head: 100, versions: vec![(0, V0_14), (50, V0_15)], upgrades: vec![50], ..Chain::default() }
    }

    fn releases(node: &Node, lines: &str) -> Releases {
        Releases::of(&node.source(lines), node.rpc())
    }

    #[tokio::test]
    async fn p1_an_error_of_the_node_after_an_upgrade_does_not_keep_the_older_release() {
        let node = Node::start(Chain { failing_calls: 2, ..upgraded_at_50() }).await;
        let mut releases = releases(&node, "");
        for _ in 0..2 {
            let error = releases.after_upgrade(50, Release::V0_14).await.expect_err("nothing is known");
            assert!(!error.is_verdict() && error.code() == "KC-0304", "{error}");
        }
        assert_eq!(releases.after_upgrade(50, Release::V0_14).await.expect("known"), Release::V0_15);
    }

    #[tokio::test]
    async fn p1_an_error_of_the_node_at_a_start_does_not_take_the_latest_release_for_the_backlog() {
        let node = Node::start(Chain { failing_calls: 2, ..upgraded_at_50() }).await;
        let mut releases = releases(&node, "");
        for _ in 0..2 {
            let error = releases.at_start(Some(20)).await.expect_err("nothing is known");
            assert!(!error.is_verdict() && error.code() == "KC-0304", "{error}");
        }
        assert_eq!(releases.at_start(Some(20)).await.expect("known"), Release::V0_14);
    }

    /// What comes of asking until the answer is not an error of the node any more.
    async fn at_last(releases: &mut Releases, last: u64) -> Result<Release, ReleaseUnknown> {
        for _ in 1..REFUSALS {
            let error = releases.at_start(Some(last)).await.expect_err("not yet");
            assert_eq!(error.code(), "KC-0304", "{error}");
        }
        releases.at_start(Some(last)).await
    }

    #[tokio::test]
    async fn where_the_state_is_gone_the_head_says_the_release_if_nothing_was_upgraded_since() {
        let chain = Chain { pruned_below: 90, max_range: Some(7), ..upgraded_at_50() };
        let node = Node::start(chain).await;
        let mut releases = releases(&node, "max_range_blocks = 30");
        assert_eq!(at_last(&mut releases, 50).await.expect("known"), Release::V0_15);
    }

    #[tokio::test]
    async fn p1_where_the_state_is_gone_and_a_contract_was_upgraded_since_no_release_is_taken() {
        let node = Node::start(Chain { pruned_below: 90, ..upgraded_at_50() }).await;
        let mut releases = releases(&node, "");
        for _ in 0..2 {
            let error = match releases.refused {
                None => at_last(&mut releases, 49).await,
                Some(_) => releases.at_start(Some(49)).await,
            };
            let error = error.expect_err("it may have been another one");
            assert!(!error.is_verdict() && error.code() == "KC-0329", "{error}");
            assert!(error.to_string().contains("block 49") && error.to_string().contains("block 50"), "{error}");
        }
        // Another node has the state.
        node.chain().pruned_below = 0;
        assert_eq!(releases.at_start(Some(49)).await.expect("known"), Release::V0_14);
    }

    #[tokio::test]
    async fn a_configured_release_is_known_before_the_first_block_is_there() {
        let node = Node::start(upgraded_at_50()).await;
        let mut releases = releases(&node, "release = \"v0.15\"");
        assert_eq!(releases.at_start(Some(1_000)).await.expect("known"), Release::V0_15);
        // What a node says instead of asking the contracts does not agree with it.
        node.chain().failing_calls = 1;
        let error = releases.at_start(Some(1_000)).await.expect_err("nothing is known");
        assert!(!error.is_verdict() && error.code() == "KC-0304", "{error}");
    }

    #[tokio::test]
    async fn contracts_that_were_not_there_yet_are_read_as_the_latest_release() {
        let chain = Chain { head: 100, versions: vec![(60, V0_14)], upgrades: vec![60], ..Chain::default() };
        let node = Node::start(chain).await;
        assert_eq!(releases(&node, "").at_start(Some(20)).await.expect("known"), Release::V0_14);
        assert_eq!(releases(&node, "").at_start(None).await.expect("known"), Release::V0_14);
    }

    #[tokio::test]
    async fn a_contract_that_reverts_after_an_upgrade_is_what_it_was_until_the_next_one() {
        let chain = Chain { head: 100, versions: vec![(200, V0_15)], upgrades: vec![50], ..Chain::default() };
        let node = Node::start(chain).await;
        let after = releases(&node, "").after_upgrade(50, Release::V0_14).await;
        assert_eq!(after.expect("known"), Release::V0_14);
    }
}
