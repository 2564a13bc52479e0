//! Reads a chain up to its finalised head and hands whole blocks to the publisher.
//!
//! The position moves only on the answer of a node that had the last block of the range (the client asks for it in the
//! same request), and only from a block to its child: a first block with another parent means that the chain has
//! diverged from what was ingested.
//!
//! A range ends with the block in which a followed contract is upgraded: what comes after may be of another release.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use alloy::primitives::B256;
use alloy::sol_types::SolEvent;
use kms_chain::contracts::Proxy::Upgraded;
use kms_chain::event::ContractSet;
use kms_chain::finality::Finality;
use kms_chain::rpc::{Block, BlockNumberOrTag, ChainLog, LogPage, LogQuery, Rpc, RpcError};
use kms_runtime::http::Check;
use kms_runtime::retry::Backoff;
use kms_schemas::record::BlockRef;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::chunk::{Chunk, TimedLog, split};
use crate::config::SourceConfig;
use crate::error::SourceError;
use crate::metrics::SourceMetrics;
use crate::range::RangeSize;
use crate::release::{ReleaseUnknown, Releases};
use crate::resume::Resume;

/// Pauses while the RPC endpoints fail.
pub(crate) const RETRY: Backoff =
    Backoff { first: Duration::from_millis(200), max: Duration::from_secs(5), factor: 2.0 };

/// How long the nodes may be behind the cursor, or not name the block that is asked for, before the source says that it is
/// not ready.
const LAG_TOLERATED: Duration = Duration::from_secs(15);

/// How long the head may stand still before that is told. A quiet chain's does, so the source stays ready.
const STANDSTILL: Duration = Duration::from_secs(300);

/// Blocks that are remembered for saying how deep a divergence goes.
const RECENT_BLOCKS: usize = 64;

pub(crate) struct Follower {
    source: SourceConfig,
    /// The contracts as they are after the last block that was handed over.
    contracts: ContractSet,
    releases: Releases,
    rpc: Rpc,
    metrics: SourceMetrics,
    check: Check,
    size: RangeSize,
    /// First block that is not handed over yet; none until the head of the first start is known.
    next: Option<u64>,
    /// The block before it.
    last: Option<BlockRef>,
    recent: VecDeque<BlockRef>,
    /// The chain was seen to hold `last`.
    is_confirmed: bool,
    /// Blocks without requests whose cursor is still to be written.
    unsent: Option<BlockRef>,
    sent_at: Option<Instant>,
    /// Where the range must end because a contract is upgraded there.
    bound: Option<u64>,
    /// A block with an upgrade after which the release is not known yet.
    upgraded: Option<u64>,
    diverged_since: Option<Instant>,
    waiting_since: Option<Instant>,
    /// See [`LAG_TOLERATED`].
    patience: Duration,
    head: Option<Head>,
    /// The last block that is read, where the head is not.
    until: Option<u64>,
}

/// The head as it was seen last.
struct Head {
    number: u64,
    since: Instant,
    is_told: bool,
}

/// Why there is nothing to do although something is not as it should be.
enum Wait {
    /// The nodes do not know the tag of the finality that is asked for.
    Untagged,
    /// The head is below the cursor.
    Behind,
    /// The nodes are behind the cursor, or what they say does not fit together.
    Unfit,
}

/// What one look at the chain came to.
enum Look {
    /// Everything up to the head is handed over.
    Idle,
    /// Nothing new, and something is not as it should be; the check says what when it lasts.
    Waiting(Wait),
    /// The publisher is gone.
    Closed,
    /// Everything that was to be read is handed over.
    Reached,
}

enum LookError {
    Rpc(RpcError),
    /// The release after an upgrade is not known yet.
    Release(ReleaseUnknown),
    Source(SourceError),
}

impl From<RpcError> for LookError {
    fn from(error: RpcError) -> Self {
        Self::Rpc(error)
    }
}

impl Follower {
    pub(crate) fn new(
        source: SourceConfig,
        contracts: ContractSet,
        rpc: Rpc,
        metrics: SourceMetrics,
        check: Check,
        resume: &Resume,
    ) -> Self {
        let size = RangeSize::new(source.max_range_blocks, source.target_logs);
        let releases = Releases::of(&source, rpc.clone());
        let next = resume.last.map(|block| block.number.saturating_add(1)).or(source.start_block);
        Self {
            source,
            contracts,
            releases,
            rpc,
            metrics,
            check,
            size,
            next,
            last: resume.last,
            recent: resume.recent.iter().copied().collect(),
            is_confirmed: false,
            unsent: None,
            sent_at: None,
            bound: None,
            upgraded: None,
            diverged_since: None,
            waiting_since: None,
            patience: LAG_TOLERATED,
            head: None,
            until: None,
        }
    }

    /// To read these blocks and no others, and to end then.
    pub(crate) fn between(self, first: u64, last: u64) -> Self {
        Self { next: Some(first), until: Some(last), ..self }
    }

    /// Follows until `stop` is cancelled or the publisher ends.
    pub(crate) async fn run(mut self, chunks: mpsc::Sender<Chunk>, stop: CancellationToken) -> Result<(), SourceError> {
        let mut failures = 0;
        loop {
            let looked = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                looked = self.look(&chunks) => looked,
            };
            let pause = match looked {
                Ok(Look::Closed | Look::Reached) => return Ok(()),
                Ok(Look::Idle) => {
                    failures = 0;
                    self.waiting_since = None;
                    self.check.ready();
                    self.source.poll_interval()
                }
                Ok(Look::Waiting(why)) => {
                    failures = 0;
                    self.still_waiting(&why);
                    self.source.poll_interval()
                }
                Err(LookError::Source(error)) => return Err(error),
                Err(LookError::Release(error)) => {
                    failures += 1;
                    error.tell(&self.source.id, &self.check, failures);
                    RETRY.delay(failures, rand::random())
                }
                Err(LookError::Rpc(error)) => {
                    failures += 1;
                    self.rpc_failed(&error, failures);
                    match error {
                        RpcError::Lagging { .. } => self.source.poll_interval(),
                        _ => RETRY.delay(failures, rand::random()),
                    }
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = chunks.closed() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
        if let Some(up_to) = self.unsent.take() {
            // Only spares the next start some empty blocks; a publisher that is gone does not matter.
            let _ = chunks.send(Chunk { up_to, logs: Vec::new() }).await;
        }
        Ok(())
    }

    /// Short waits are ordinary (one node is a block behind another); long ones are told.
    fn still_waiting(&mut self, why: &Wait) {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        if self.diverged_since.is_some() || since.elapsed() < self.patience {
            return;
        }
        let code = kms_chain::codes::RPC_LAGGING;
        self.check.not_ready(match why {
            Wait::Untagged => format!("{code}: the nodes name no block as {}", self.source.finality()),
            Wait::Behind => format!("{code}: the nodes' {} block is behind the cursor", self.source.finality()),
            Wait::Unfit => "the nodes are behind the cursor, or their answers do not fit together".to_owned(),
        });
    }

    /// Reports the head, and that it stands still.
    fn head_is(&mut self, number: u64) {
        let seen = self.head.take().filter(|head| head.number == number);
        let mut head = seen.unwrap_or_else(|| Head { number, since: Instant::now(), is_told: false });
        let stands = head.since.elapsed();
        self.metrics.head(number, stands);
        if stands >= STANDSTILL && !head.is_told {
            head.is_told = true;
            self.metrics.head_stands(number, stands);
        }
        self.head = Some(head);
    }

    fn rpc_failed(&self, error: &RpcError, failures: u32) {
        if let RpcError::Lagging { .. } = error {
            tracing::debug!(source = self.source.id, %error, "waiting for the block");
            return;
        }
        if failures == 1 {
            tracing::warn!(source = self.source.id, code = error.code(), %error, "the chain cannot be read, trying again");
        }
        self.check.not_ready(format!("{}: the chain cannot be read", error.code()));
    }

    async fn look(&mut self, chunks: &mpsc::Sender<Chunk>) -> Result<Look, LookError> {
        let Some(head) = self.source.finality().resolve(&self.rpc).await? else {
            return Ok(match self.source.finality() {
                // The chain is that short.
                Finality::Depth(_) if self.until.is_none() => Look::Idle,
                _ => Look::Waiting(Wait::Untagged),
            });
        };
        self.head_is(head.number());
        if let Some(last) = self.last {
            let is_doubtful = !self.is_confirmed || (head.number() == last.number && head.hash() != last.hash);
            if is_doubtful && !self.confirm(last, &head).await? {
                return Ok(Look::Waiting(Wait::Unfit));
            }
            if head.number() < last.number {
                return Ok(Look::Waiting(Wait::Behind));
            }
        }
        let mut next = *self.next.get_or_insert(head.number());
        let end = self.until.unwrap_or(u64::MAX).min(head.number());
        while next <= end {
            if let Some(block) = self.upgraded {
                self.upgrade(block).await?;
            }
            let Some(page) = self.logs(next, end).await? else { continue };
            let last = page.last.reference();
            let Some(logs) = self.link(next, page).await? else { return Ok(Look::Waiting(Wait::Unfit)) };
            if !self.hand_over(logs, last, chunks).await {
                return Ok(Look::Closed);
            }
            next = last.number + 1;
            self.next = Some(next);
            self.upgraded = self.bound.take_if(|bound| *bound <= last.number);
            if let Some(before) = self.last.replace(last) {
                self.recent.push_front(before);
                self.recent.truncate(RECENT_BLOCKS);
            }
        }
        if let Some(until) = self.until {
            return Ok(if next > until { Look::Reached } else { Look::Waiting(Wait::Behind) });
        }
        let up_to = self.unsent.filter(|_| self.cursor_is_due());
        match up_to {
            Some(up_to) if !self.send(Chunk { up_to, logs: Vec::new() }, chunks).await => Ok(Look::Closed),
            _ => Ok(Look::Idle),
        }
    }

    /// Learns which release the contracts are after the upgrade in this block.
    async fn upgrade(&mut self, block: u64) -> Result<(), LookError> {
        match self.releases.after_upgrade(block, self.contracts.release).await {
            Ok(release) => {
                self.contracts = self.contracts.with_release(release);
                self.upgraded = None;
                Ok(())
            }
            Err(error) if error.is_verdict() => Err(LookError::Source(SourceError::release(&self.source.id, error))),
            Err(error) => Err(LookError::Release(error)),
        }
    }

    /// The logs of the next range; none when the range was refused, or passes an upgrade, and is smaller now.
    async fn logs(&mut self, next: u64, head: u64) -> Result<Option<LogPage>, RpcError> {
        let end = self.size.end(next, self.bound.unwrap_or(head).min(head));
        let asked = end - next + 1;
        let mut topics = self.contracts.request_topics();
        topics.push(Upgraded::SIGNATURE_HASH);
        let query = LogQuery { addresses: self.contracts.addresses(), topics, from: next, to: end };
        match self.rpc.logs(&query).await {
            Ok(page) => {
                let is_upgrade = |log: &&ChainLog| log.raw.topics.first() == Some(&Upgraded::SIGNATURE_HASH);
                self.bound = page.logs.iter().find(is_upgrade).map(|log| log.block_number).or(self.bound);
                if self.bound.is_some_and(|bound| bound < end) {
                    return Ok(None);
                }
                self.size.answered(asked, page.logs.len());
                self.metrics.range(self.size.blocks());
                Ok(Some(page))
            }
            // Nodes word this limit in many ways, so any refusal of more than one block is taken for it.
            Err(error @ (RpcError::LogRangeTooLarge { .. } | RpcError::Response { .. })) => {
                self.metrics.range_refused(asked, &error.to_string());
                if self.size.refused(asked) { Ok(None) } else { Err(error) }
            }
            // Many blocks may be what the node, or a proxy before it, has not the time for: the next attempt asks for fewer.
            Err(error @ RpcError::Outage { .. }) => {
                let _ = self.size.refused(asked);
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Holds the range against what came before and its logs against their blocks; none when they do not fit.
    async fn link(&mut self, next: u64, page: LogPage) -> Result<Option<Vec<TimedLog>>, LookError> {
        let mut logs = page.logs;
        logs.dedup();
        let blocks = self.blocks(next, &logs, page.last).await?;
        let parent = blocks.first().map(Block::parent_hash);
        if self.last.is_some_and(|last| parent != Some(last.hash)) {
            self.is_confirmed = false;
            tracing::debug!(source = self.source.id, block = next, "the next block has another parent");
            return Ok(None);
        }
        let mut timed = Vec::with_capacity(logs.len());
        for log in logs {
            let known = blocks.iter().find(|block| block.number() == log.block_number);
            let block_timestamp = match (known, log.block_timestamp) {
                (Some(block), _) if block.hash() == log.block_hash => block.timestamp(),
                (None, Some(timestamp)) => timestamp,
                _ => {
                    tracing::debug!(source = self.source.id, block = log.block_number, "log and block do not fit");
                    return Ok(None);
                }
            };
            timed.push(TimedLog { log, block_timestamp, release: self.contracts.release });
        }
        self.is_confirmed = true;
        Ok(Some(timed))
    }

    /// The first block of the range, the last, and those of logs whose node does not state the timestamp. In one batch,
    /// and not at all when the range is a single block.
    async fn blocks(&self, next: u64, logs: &[ChainLog], last: Block) -> Result<Vec<Block>, RpcError> {
        if last.number() == next {
            return Ok(vec![last]);
        }
        let untimed = logs.iter().filter(|log| log.block_timestamp.is_none()).map(|log| log.block_number);
        let mut numbers: Vec<u64> = std::iter::once(next).chain(untimed.filter(|n| *n != last.number())).collect();
        numbers.dedup();
        let mut blocks = self.rpc.needing(last.number()).blocks_at(&numbers).await?;
        blocks.push(last);
        Ok(blocks)
    }

    /// `false` when the publisher is gone.
    async fn hand_over(&mut self, logs: Vec<TimedLog>, last: BlockRef, chunks: &mpsc::Sender<Chunk>) -> bool {
        if logs.is_empty() && !self.cursor_is_due() {
            self.unsent = Some(last);
            return true;
        }
        for chunk in split(logs, last, self.source.max_transaction_records) {
            if !self.send(chunk, chunks).await {
                return false;
            }
        }
        true
    }

    fn cursor_is_due(&self) -> bool {
        self.sent_at.is_none_or(|sent| sent.elapsed() >= self.source.cursor_interval())
    }

    async fn send(&mut self, chunk: Chunk, chunks: &mpsc::Sender<Chunk>) -> bool {
        self.unsent = None;
        self.sent_at = Some(Instant::now());
        let is_taken = chunks.send(chunk).await.is_ok();
        self.metrics.queued(chunks.max_capacity() - chunks.capacity());
        is_taken
    }

    /// Whether the chain still holds the last ingested block.
    async fn confirm(&mut self, last: BlockRef, head: &Block) -> Result<bool, LookError> {
        let found = match self.rpc.block(BlockNumberOrTag::Number(last.number)).await? {
            Some(block) => block.hash(),
            None => {
                tracing::debug!(
                    source = self.source.id,
                    head = head.number(),
                    cursor = last.number,
                    "head below cursor"
                );
                return Ok(false);
            }
        };
        if found == last.hash {
            self.is_confirmed = true;
            self.diverged_since = None;
            self.metrics.diverged(false);
            return Ok(true);
        }
        self.diverged(last, found).await.map(|()| false)
    }

    async fn diverged(&mut self, last: BlockRef, found: B256) -> Result<(), LookError> {
        let since = *self.diverged_since.get_or_insert_with(Instant::now);
        self.metrics.diverged(true);
        self.check.not_ready(format!("{}: the chain contradicts the cursor", crate::codes::CHAIN_DIVERGED.code));
        if since.elapsed() < self.source.divergence_grace() {
            return Ok(());
        }
        let mut common = "; no block before it is known to be common".to_owned();
        for block in &self.recent {
            let same = self.rpc.block(BlockNumberOrTag::Number(block.number)).await?;
            if same.is_some_and(|same| same.hash() == block.hash) {
                common = format!("; the last common block known is {}", block.number);
                break;
            }
        }
        let source_id = self.source.id.clone();
        let (number, ingested) = (last.number, last.hash);
        Err(LookError::Source(SourceError::Diverged { source_id, number, ingested, found, common }))
    }
}

#[cfg(test)]
mod tests {
    use kms_chain::release::Release;
    use kms_runtime::http::{Health, Status};

    use super::*;
    use crate::mock::{Chain, Node};

    /// A follower that runs, with little patience.
    struct Running {
        node: Node,
        health: Health,
        stop: CancellationToken,
        follower: tokio::task::JoinHandle<Result<(), SourceError>>,
        _taken: tokio::task::JoinHandle<()>,
    }

    impl Running {
        async fn start(chain: Chain, lines: &str) -> Self {
            let node = Node::start(chain).await;
            let (source, health) = (node.source(lines), Health::default());
            let contracts = source.contracts(Release::V0_14);
            let (metrics, check) = (SourceMetrics::new(&source.id), health.check("chain"));
            let mut follower = Follower::new(source, contracts, node.rpc(), metrics, check, &Resume::default());
            follower.patience = Duration::from_millis(50);
            let (chunks, mut taken) = mpsc::channel(8);
            let stop = CancellationToken::new();
            Self {
                node,
                health,
                follower: tokio::spawn(follower.run(chunks, stop.clone())),
                stop,
                _taken: tokio::spawn(async move { while taken.recv().await.is_some() {} }),
            }
        }

        async fn reaches(&self, what: &str, is_it: impl Fn(&Status) -> bool) {
            let deadline = Instant::now() + Duration::from_secs(60);
            loop {
                let status = self.health.snapshot().remove("chain").expect("the check");
                if is_it(&status) {
                    return;
                }
                assert!(Instant::now() < deadline, "not {what}, but {status:?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }

        async fn is_ready(&self) {
            self.reaches("ready", Status::is_ready).await;
        }

        async fn says(&self, text: &str) {
            let contains = |status: &Status| matches!(status, Status::NotReady(why) if why.contains(text));
            self.reaches(text, contains).await;
        }

        async fn ends(self) {
            self.stop.cancel();
            self.follower.await.expect("no panic").expect("an orderly end");
        }
    }

    #[tokio::test]
    async fn a_node_that_names_no_finalized_block_is_told_and_waited_for() {
        let running = Running::start(Chain { head: 100, ..Chain::default() }, "finality = \"finalized\"").await;
        running.says("KC-0303: the nodes name no block as finalized").await;
        running.node.chain().finalized = Some(60);
        running.is_ready().await;
        running.node.chain().finalized = None;
        running.says("KC-0303: the nodes name no block as finalized").await;
        running.ends().await;
    }

    #[tokio::test]
    async fn p1_a_node_without_the_time_for_many_blocks_is_asked_for_fewer() {
        let chain = Chain { head: 100, too_slow_above: Some(2), ..Chain::default() };
        let running = Running::start(chain, "start_block = 80\nmax_range_blocks = 16").await;
        running.is_ready().await;
        running.ends().await;
    }

    #[tokio::test]
    async fn a_chain_that_is_shorter_than_the_depth_is_just_young() {
        let running = Running::start(Chain { head: 3, ..Chain::default() }, "finality = \"depth:10\"").await;
        running.is_ready().await;
        running.ends().await;
    }

    #[tokio::test]
    async fn a_head_that_falls_behind_what_was_read_is_told() {
        let running = Running::start(Chain { head: 100, ..Chain::default() }, "start_block = 90").await;
        running.is_ready().await;
        running.node.chain().head = 95;
        running.says("KC-0303: the nodes' latest block is behind the cursor").await;
        running.node.chain().head = 101;
        running.is_ready().await;
        running.ends().await;
    }

    #[tokio::test]
    async fn p1_a_release_that_cannot_be_read_after_an_upgrade_stops_the_reading_and_not_the_source() {
        let chain = Chain {
            head: 100,
            versions: vec![(0, "Decryption v0.6.0"), (95, "Decryption v0.7.0")],
            upgrades: vec![95],
            failing_calls: u32::MAX,
            ..Chain::default()
        };
        let running = Running::start(chain, "start_block = 90").await;
        running.says("KC-0304: the contracts' version cannot be read").await;
        running.node.chain().failing_calls = 0;
        running.is_ready().await;
        running.ends().await;
    }
}
