//! Looks again at the blocks between the newest request in the topics and the cursor, at the start of a session.
//!
//! A follower of its own reads them, in ordinary ranges and under the ordinary rules; its chunks are compared with the
//! topics and not written. A request among them was skipped: the source then goes on before it.

use std::time::{Duration, Instant};

use kms_chain::rpc::{BlockNumberOrTag, Rpc};
use kms_runtime::http::Check;
use kms_runtime::service::Context;
use kms_schemas::record::BlockRef;
use tokio::sync::mpsc;

use crate::chunk::Chunk;
use crate::config::SourceConfig;
use crate::error::SourceError;
use crate::follower::{Follower, RETRY};
use crate::metrics::SourceMetrics;
use crate::resume::Resume;
use crate::shown::{Shown, Stretch};
use crate::source::contracts;

/// Time between two lines in the log while a long stretch is looked at.
const PROGRESS: Duration = Duration::from_secs(10);

pub(crate) struct Recheck<'a> {
    pub(crate) source: &'a SourceConfig,
    pub(crate) context: &'a Context,
    pub(crate) metrics: &'a SourceMetrics,
    pub(crate) check: &'a Check,
    pub(crate) rpc: &'a Rpc,
}

impl Recheck<'_> {
    /// Where to go on: after the cursor, if it stands. None after a shutdown.
    pub(crate) async fn run(&self, resume: Resume, shown: &Shown) -> Result<Option<Resume>, SourceError> {
        let Some(cursor) = resume.last else { return Ok(Some(resume)) };
        if let Some(newest) = shown.newest().filter(|newest| newest.number > cursor.number) {
            self.metrics.cursor_not_believed(cursor.number, newest.number, "the newest request is of a later block");
            return Ok(Some(Resume { last: Some(newest), recent: Vec::new(), ..resume }));
        }
        let stretch = shown.stretch(self.source.start_block, cursor.number, self.source.verify_cursor_blocks);
        let Some(stretch) = stretch else { return Ok(Some(resume)) };
        match self.block(cursor.number).await {
            None => return Ok(None),
            // The chain contradicts the cursor: that is the follower's to tell.
            Some(found) if found.hash != cursor.hash => return Ok(Some(resume)),
            Some(_) => {}
        }
        let lacking = self.first_lacking(stretch, cursor, shown).await?;
        if self.context.shutdown.is_cancelled() {
            return Ok(None);
        }
        let Some(block) = lacking else { return Ok(Some(resume)) };
        if let Some(lane) = shown.unclaimed().filter(|_| !self.source.start_without_cursor) {
            // The chain has requests, the topics have records of this source, and the cursor knows of none.
            let topic = self.context.topics.requests(lane).to_owned();
            return Err(SourceError::CursorContradicted { source_id: self.source.id.clone(), topic });
        }
        self.metrics.cursor_not_believed(cursor.number, block, "a request of this block is not in the topics");
        // What lies before a stretch that was looked at in part only may have been skipped as well.
        let from = if stretch.first == stretch.due { block } else { stretch.due };
        let last = self.before(from).await;
        Ok(last.map(|last| Resume { last, recent: Vec::new(), ..resume }))
    }

    /// The first block with a request that the topics lack. None also after a shutdown.
    async fn first_lacking(
        &self,
        stretch: Stretch,
        cursor: BlockRef,
        shown: &Shown,
    ) -> Result<Option<u64>, SourceError> {
        let Some(last) = self.before(stretch.first).await else { return Ok(None) };
        let floor = Resume { last, ..Resume::default() };
        let known = contracts(self.source, self.context, self.check, self.rpc, &floor).await?;
        let Some(contracts) = known else { return Ok(None) };
        let (metrics, check) = (self.metrics.clone(), self.check.clone());
        let follower = Follower::new(self.source.clone(), contracts, self.rpc.clone(), metrics, check, &floor)
            .between(stretch.first, cursor.number);
        let (chunks, mut found) = mpsc::channel::<Chunk>(self.source.queue_chunks);
        let blocks = cursor.number - stretch.first + 1;
        tracing::info!(
            source = self.source.id,
            from = stretch.first,
            to = cursor.number,
            blocks,
            "looking for requests between the newest in the topics and the cursor"
        );
        let compared = async move {
            let mut told = Instant::now();
            while let Some(chunk) = found.recv().await {
                if let Some(lacking) = chunk.logs.iter().find(|log| shown.lacks(&self.source.id, &contracts, log)) {
                    return Some(lacking.log.block_number);
                }
                if told.elapsed() >= PROGRESS {
                    told = Instant::now();
                    let (block, to) = (chunk.up_to.number, cursor.number);
                    tracing::info!(source = self.source.id, block, to, "still looking below the cursor");
                }
            }
            None
        };
        let (followed, lacking) = tokio::join!(follower.run(chunks, self.context.shutdown.clone()), compared);
        followed.map(|()| lacking)
    }

    /// The block before `number`; `Some(None)` before the first, and none after a shutdown.
    async fn before(&self, number: u64) -> Option<Option<BlockRef>> {
        match number.checked_sub(1) {
            Some(before) => self.block(before).await.map(Some),
            None => Some(None),
        }
    }

    /// A block of the chain, waited for. None after a shutdown.
    async fn block(&self, number: u64) -> Option<BlockRef> {
        let mut failures = 0;
        loop {
            match self.rpc.needing(number).block(BlockNumberOrTag::Number(number)).await {
                Ok(Some(block)) => return Some(block.reference()),
                Ok(None) => self.check.not_ready(format!("the nodes do not have the cursor's block {number}")),
                Err(error) => {
                    self.check.not_ready(format!("{}: the chain cannot be read below the cursor", error.code()));
                }
            }
            failures += 1;
            tokio::select! {
                () = self.context.shutdown.cancelled() => return None,
                () = tokio::time::sleep(RETRY.delay(failures, rand::random())) => {}
            }
        }
    }
}
