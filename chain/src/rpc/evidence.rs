//! Questions whose answers are checked before they are believed. What does not fit is no fault that takes the endpoint
//! out of use: another one is asked, and where all of them state the same, it is undecidable here.

use alloy::primitives::B256;
use serde_json::json;
use serde_json::value::RawValue;
use std::sync::atomic::Ordering;

use super::error::{OutageCause, RpcError};
use super::wire::{Call, CallResult};
use super::{BlockNumberOrTag, Rpc};

/// What came of a question at one endpoint.
#[derive(Debug)]
pub(crate) enum Evidence<T> {
    /// What it stated, checked.
    Fits(T),
    /// The endpoint does not have it (yet).
    Absent,
    /// What it states does not fit together.
    Undecidable(String),
}

/// Why a question is not answered, though some endpoint spoke.
#[derive(Debug)]
pub(crate) enum Unfound {
    /// Every configured endpoint was asked, and none has it (yet).
    Absent,
    /// Every configured endpoint was asked, and what they state does not fit together.
    Undecidable(String),
    /// As one of the above, of fewer endpoints than are configured: one that failed, or is down and was not asked, may have
    /// what the others lack.
    Unheard {
        /// How many gave no answer.
        silent: usize,
        /// What does not fit at the others; none where they do not have it.
        misfit: Option<String>,
    },
}

impl Rpc {
    /// Asks one endpoint after the other until what one of them states fits. `attempt` gets the endpoint's number.
    ///
    /// That there is nothing takes the word of all of them: one that lags must not speak for one that is silent.
    ///
    /// # Errors
    /// [`RpcError::Outage`] where no endpoint gave an answer.
    pub(crate) async fn evidence<T, F>(
        &self,
        method: &'static str,
        attempt: impl Fn(usize) -> F,
    ) -> Result<Result<T, Unfound>, RpcError>
    where
        F: Future<Output = Result<Evidence<T>, OutageCause>>,
    {
        let order = self.inner.order();
        let endpoints = order.len();
        let (mut answers, mut misfit, mut failed) = (0, None, None);
        for (tried, index) in order.into_iter().enumerate() {
            let endpoint = &self.inner.endpoints[index];
            let evidence = match self.inner.verify(endpoint).await {
                Ok(()) => attempt(index).await,
                Err(cause) => Err(cause),
            };
            match evidence {
                Ok(Evidence::Fits(value)) => {
                    endpoint.mark_up();
                    if tried > 0 {
                        endpoint.labels.failover();
                    }
                    return Ok(Ok(value));
                }
                Ok(Evidence::Undecidable(why)) => {
                    answers += 1;
                    misfit = Some(why);
                }
                Ok(Evidence::Absent) => answers += 1,
                Err(cause) => {
                    self.inner.failed(index, &cause);
                    failed = Some(cause);
                }
            }
        }
        if answers == 0 {
            let cause = failed.unwrap_or_else(|| OutageCause::Transport("no RPC endpoint".to_owned()));
            return Err(RpcError::Outage { method, endpoints, cause });
        }
        // One that is down is not even asked.
        let silent = self.inner.endpoints.len() - answers;
        Ok(Err(match misfit {
            misfit if silent > 0 => Unfound::Unheard { silent, misfit },
            Some(why) => Unfound::Undecidable(why),
            None => Unfound::Absent,
        }))
    }

    /// Blocks of one endpoint, by number or tag, in one HTTP request and in this order; `true` asks for transactions.
    /// An endpoint that does not know a block, or a tag, has none.
    pub(crate) async fn stated_blocks(
        &self,
        endpoint: usize,
        blocks: &[(BlockNumberOrTag, bool)],
    ) -> Result<Evidence<Vec<Option<Box<RawValue>>>>, OutageCause> {
        const METHOD: &str = "eth_getBlockByNumber";
        let calls: Vec<Call> = blocks.iter().map(|(block, full)| Call::new(METHOD, json!([block, full]))).collect();
        let results = self.stated(endpoint, METHOD, &calls).await?;
        let mut stated = Vec::with_capacity(results.len());
        for result in results {
            match result {
                Ok(raw) => stated.push(Some(raw).filter(|raw| raw.get() != "null")),
                Err(error) if error.is_unknown_block() => stated.push(None),
                Err(error) => return Ok(Evidence::Undecidable(format!("{METHOD}: {error}"))),
            }
        }
        Ok(Evidence::Fits(stated))
    }

    /// Receipts of a block at one endpoint: one list, or where the node does not offer that, one receipt for each of
    /// the transactions, batched.
    pub(crate) async fn stated_receipts(
        &self,
        endpoint: usize,
        block: B256,
        transactions: &[B256],
    ) -> Result<Evidence<Vec<Box<RawValue>>>, OutageCause> {
        const METHOD: &str = "eth_getBlockReceipts";
        const SINGLY: &str = "eth_getTransactionReceipt";
        let offered = &self.inner.endpoints[endpoint].block_receipts;
        if offered.load(Ordering::Relaxed) {
            let results = self.stated(endpoint, METHOD, &[Call::new(METHOD, json!([block]))]).await?;
            match super::single(results) {
                Ok(raw) if raw.get() == "null" => return Ok(Evidence::Absent),
                Ok(raw) => {
                    return Ok(match serde_json::from_str(raw.get()) {
                        Ok(receipts) => Evidence::Fits(receipts),
                        Err(error) => Evidence::Undecidable(format!("{METHOD}: {error}")),
                    });
                }
                Err(error) if error.is_unknown_method() => offered.store(false, Ordering::Relaxed),
                Err(error) if error.is_unknown_block() => return Ok(Evidence::Absent),
                Err(error) => return Ok(Evidence::Undecidable(format!("{METHOD}: {error}"))),
            }
        }
        let calls: Vec<Call> = transactions.iter().map(|hash| Call::new(SINGLY, json!([hash]))).collect();
        let mut receipts = Vec::with_capacity(calls.len());
        for result in self.stated(endpoint, SINGLY, &calls).await? {
            match result {
                Ok(raw) if raw.get() == "null" => return Ok(Evidence::Absent),
                Ok(raw) => receipts.push(raw),
                Err(error) => return Ok(Evidence::Undecidable(format!("{SINGLY}: {error}"))),
            }
        }
        Ok(Evidence::Fits(receipts))
    }

    /// Number of the latest block at one endpoint.
    pub(crate) async fn stated_head(&self, endpoint: usize) -> Result<u64, OutageCause> {
        const METHOD: &str = "eth_blockNumber";
        let results = self.stated(endpoint, METHOD, &[Call::new(METHOD, json!([]))]).await?;
        let head = super::single(results).map_err(super::malformed)?;
        super::read::<super::U64>(&head).map(|number| number.to())
    }

    async fn stated(
        &self,
        endpoint: usize,
        method: &'static str,
        calls: &[Call],
    ) -> Result<Vec<CallResult>, OutageCause> {
        let inner = &self.inner;
        inner.split(&inner.endpoints[endpoint], method, calls, inner.config.timeout).await
    }
}
