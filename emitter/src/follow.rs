//! Follows the destination's blocks: one look at the head per interval, one read of receipts and one of the account's nonce
//! per new block, and none of both while nothing is on its way. What is in a block and only waits to be final is looked for
//! seldom: finality takes minutes, and costs a call per look. A head that does not stand on what was seen before is a
//! reorganisation, and is told with the account's nonce.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use alloy::network::ReceiptResponse as _;
use alloy::primitives::{Address, B256};
use kms_chain::rpc::{Block, BlockId, BlockNumberOrTag, Receipt, Rpc, RpcError};
use kms_runtime::http::Check;
use kms_runtime::retry::Backoff;
use kms_schemas::record::{BlockRef, RawLog};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;
use crate::nonce::{Mined, Nonce};

/// What the chain did.
#[derive(Debug)]
pub enum ChainEvent {
    /// A new block, with the receipts of the sender's transactions in it.
    Block {
        /// Block number.
        number: u64,
        /// Base fee in wei per gas.
        base_fee: u128,
        /// Receipts in the order of the block.
        mined: Vec<Receipted>,
    },
    /// The account's nonce after a block whose receipts were told before.
    AccountNonce(Nonce),
    /// Blocks that were told are not on the chain any more.
    Reorganised {
        /// The account's nonce on the chain that took their place.
        account: Nonce,
    },
    /// Blocks up to this number are final.
    Finalized(u64),
    /// The nodes answer again after an outage.
    Recovered,
}

/// Blocks by which a node that is behind is told from a chain that was reorganised.
const REMEMBERED: usize = 64;

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Watch {
    /// Nothing.
    Nothing,
    /// That blocks with transactions of the account become final.
    Finality,
    /// That transactions of the account come into a block: receipts of new blocks matter.
    Inclusion,
}

/// What the follower is asked for.
#[derive(Debug, Default)]
pub struct Wishes {
    /// A [`Watch`].
    watch: AtomicU8,
    nonce: AtomicBool,
    wake: Notify,
}

impl Wishes {
    /// What is waited for from now on.
    pub fn watch(&self, watch: Watch) {
        if self.watch.swap(watch as u8, Ordering::AcqRel) < watch as u8 {
            self.wake.notify_one();
        }
    }

    fn watched(&self) -> Watch {
        let watch = self.watch.load(Ordering::Acquire);
        let all = [Watch::Nothing, Watch::Finality, Watch::Inclusion];
        all.into_iter().find(|one| *one as u8 == watch).unwrap_or(Watch::Inclusion)
    }

    /// Read the account's nonce soon.
    pub fn check_nonce(&self) {
        if !self.nonce.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }
}

/// The follower.
pub struct Follower {
    /// The nodes.
    pub rpc: Rpc,
    /// The transaction sender.
    pub sender: Address,
    /// The last block that is known already.
    pub last: BlockRef,
    /// Blocks that were told, the newest last.
    pub told: VecDeque<BlockRef>,
    /// Between two looks while something is on its way.
    pub interval: Duration,
    /// The same while everything is in a block and waits to be final.
    pub finality_interval: Duration,
    /// The same while nothing is on its way.
    pub idle_interval: Duration,
    /// Blocks whose receipts are read one after the other after an outage.
    pub catch_up_blocks: u64,
    /// Whether the node is asked which blocks are final.
    pub finalized: bool,
    /// What is asked for.
    pub wishes: Arc<Wishes>,
    /// Where it is told.
    pub events: mpsc::Sender<ChainEvent>,
    /// Readiness of the destination.
    pub check: Check,
    /// Happenings of the destination.
    pub metrics: Metrics,
}

impl Follower {
    /// Follows until cancelled, through outages.
    pub async fn run(mut self, stop: CancellationToken) {
        const RETRY: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(5), factor: 2.0 };
        let mut failures = 0;
        loop {
            let pause = match failures {
                0 => match self.wishes.watched() {
                    Watch::Inclusion => self.interval,
                    Watch::Finality => self.finality_interval,
                    Watch::Nothing => self.idle_interval,
                },
                _ => RETRY.bound(failures),
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wishes.wake.notified(), if failures == 0 => {}
                () = tokio::time::sleep(pause) => {}
            }
            match self.look().await {
                Ok(()) if failures == 0 => {}
                Ok(()) => {
                    tracing::info!(destination = self.metrics.destination(), "the destination answers again");
                    self.check.ready();
                    failures = 0;
                    self.tell(ChainEvent::Recovered).await;
                }
                Err(error) => {
                    if failures == 0 {
                        let (destination, code) = (self.metrics.destination(), error.code());
                        tracing::warn!(destination, code, %error, "the destination cannot be read, trying again");
                        self.check.not_ready("the destination's RPC endpoints do not answer");
                    }
                    failures = failures.saturating_add(1);
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(), RpcError> {
        let head = self.rpc.latest_block().await?;
        let watch = self.wishes.watched();
        let watching = watch == Watch::Inclusion;
        // A node that is behind shows nothing new.
        let is_new = head.reference() != self.last && self.told(head.number()) != Some(head.hash());
        if is_new && self.is_reorganised(&head).await? {
            self.tell_reorganisation(&head).await?;
        }
        if is_new {
            let told = !watching || self.tell_blocks_before(&head).await?;
            if !told || !self.tell_block(&head, watching).await? {
                return Ok(()); // its receipts are not there yet, or it was reorganised away
            }
        }
        // Finality moves on without new blocks too.
        if self.finalized
            && (watch == Watch::Finality || (is_new && watching))
            && let Some(block) = self.rpc.block(BlockNumberOrTag::Finalized).await?
        {
            self.tell(ChainEvent::Finalized(block.number())).await;
        }
        let asked = self.wishes.nonce.swap(false, Ordering::AcqRel);
        if asked || (is_new && watching) {
            let at = BlockId::number(head.number());
            match self.rpc.needing(head.number()).nonce(self.sender, at).await {
                Ok(nonce) => self.tell(ChainEvent::AccountNonce(Nonce(nonce))).await,
                Err(error) => {
                    self.wishes.nonce.store(asked, Ordering::Release);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Whether blocks that were told are not on the chain of this head.
    async fn is_reorganised(&self, head: &Block) -> Result<bool, RpcError> {
        let last = self.last;
        if head.number() < last.number {
            return Ok(self.told(head.number()).is_some_and(|hash| hash != head.hash()));
        }
        if head.number() == last.number {
            return Ok(head.hash() != last.hash);
        }
        if head.number() == last.number + 1 {
            return Ok(head.parent_hash() != last.hash);
        }
        let rpc = self.rpc.needing(head.number());
        Ok(rpc.block(BlockNumberOrTag::Number(last.number)).await?.is_some_and(|block| block.hash() != last.hash))
    }

    /// The hash under which a block of this number was told.
    fn told(&self, number: u64) -> Option<B256> {
        self.told.iter().rev().find(|block| block.number == number).map(|block| block.hash)
    }

    async fn tell_reorganisation(&mut self, head: &Block) -> Result<(), RpcError> {
        let account = Nonce(self.rpc.needing(head.number()).nonce(self.sender, BlockId::number(head.number())).await?);
        self.metrics.reorganised(head.number(), account.0);
        self.tell(ChainEvent::Reorganised { account }).await;
        // Not told again; who lives on looks up what is missing.
        self.last = BlockRef { number: head.number().saturating_sub(1), hash: head.parent_hash() };
        self.told.clear();
        Ok(())
    }

    /// The blocks between the last one known and this head.
    async fn tell_blocks_before(&mut self, head: &Block) -> Result<bool, RpcError> {
        let first = (self.last.number + 1).max(head.number().saturating_sub(self.catch_up_blocks));
        if first >= head.number() {
            return Ok(true);
        }
        for block in self.rpc.blocks(first..=head.number() - 1).await? {
            if !self.tell_block(&block, true).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// False when the node does not show all of the block's receipts: then the block is looked at again. Nodes may show a block
    /// a moment before its receipts.
    async fn tell_block(&mut self, block: &Block, watching: bool) -> Result<bool, RpcError> {
        let mined = if watching && !block.transactions.is_empty() {
            let receipts = self.rpc.block_receipts(block.hash()).await?.unwrap_or_default();
            if receipts.len() != block.transactions.len() {
                return Ok(false);
            }
            receipts.iter().filter(|receipt| receipt.0.from() == self.sender).filter_map(receipted).collect()
        } else {
            Vec::new()
        };
        self.last = block.reference();
        self.told.push_back(self.last);
        if self.told.len() > REMEMBERED {
            self.told.pop_front();
        }
        self.tell(ChainEvent::Block { number: block.number(), base_fee: block.base_fee(), mined }).await;
        Ok(true)
    }

    async fn tell(&self, event: ChainEvent) {
        // Without a receiver the session is over, and this task with it.
        let _ = self.events.send(event).await;
    }
}

/// A receipt of the sender's transaction.
#[derive(Clone, Debug)]
pub struct Receipted {
    /// What the planner needs of it.
    pub mined: Mined,
    /// The logs, where it is a transaction of the account to itself: a batch, or what fills a gap.
    pub batch: Option<Vec<RawLog>>,
}

/// A receipt with what it says of a batch; none while its transaction is pending, or where a log has no place.
#[must_use]
pub fn receipted(receipt: &Receipt) -> Option<Receipted> {
    let mined = mined(receipt)?;
    let batch = if receipt.0.to() == Some(receipt.0.from()) {
        Some(receipt.logs().ok()?.into_iter().map(|log| log.raw).collect())
    } else {
        None
    };
    Some(Receipted { mined, batch })
}

/// A receipt as the planner needs it; none while its transaction is pending.
#[must_use]
pub fn mined(receipt: &Receipt) -> Option<Mined> {
    let block = receipt.block()?;
    Some(Mined {
        hash: receipt.transaction_hash(),
        succeeded: receipt.succeeded(),
        block_number: block.number,
        block_hash: block.hash,
        gas_used: receipt.gas_used(),
        gas_used_for_l1: receipt.gas_used_for_l1(),
        effective_gas_price: receipt.effective_gas_price(),
    })
}
