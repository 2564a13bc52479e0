//! Calls to the nodes of one chain.
//!
//! Several endpoints, an explicit primary with failover: calls go to the first endpoint of the configuration that is up.
//! One that fails is marked down and tried again in the background with a jittered back-off, so that a call never pays
//! for the trial; only when none is up, calls try all of them. The primary is used again as soon as a probe succeeds.
//!
//! A node that has lost its peers answers as before, at a head that stands still. So while a client is in use the heads of
//! its endpoints are compared now and then, beside the calls, and one far behind the others is marked down until it has
//! caught up. There is nothing to compare a single endpoint with.
//!
//! Three things are told apart by type: the node's answer, the node's refusal ([`RpcError::Response`]), and that there was
//! no answer at all ([`RpcError::Outage`], [`RpcError::Lagging`]), which is never a verdict.
//!
//! A node behind a balancer may not have the block that another one announced. So a call that needs a block asks for the
//! node's head, or for the block, **in the same HTTP request**, before what it is really about: see
//! [`Rpc::needing`] and [`Rpc::logs`].

mod endpoint;
mod error;
mod evidence;
mod heads;
mod send;
mod types;
mod wire;

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub use alloy::eips::{BlockId, BlockNumberOrTag};
use alloy::primitives::{Address, B256, Bytes, U64, U128, U256};
pub use alloy::rpc::types::FeeHistory;
use futures::StreamExt;
use rand::RngExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use endpoint::Endpoint;
pub use endpoint::EndpointUrl;
pub use error::{CallError, ErrorObject, OutageCause, RpcError};
pub(crate) use evidence::{Evidence, Unfound};
pub use send::SendOutcome;
pub use types::{Block, CallRequest, ChainLog, EndpointHead, LogPage, LogQuery, Receipt, Transaction};
use wire::{Answer, Call, CallResult, malformed};

/// How the nodes of one chain are reached.
#[derive(Clone, Debug)]
pub struct RpcConfig {
    /// Name of the chain in logs and metrics.
    pub name: String,
    /// Endpoints; the first is the primary.
    pub urls: Vec<EndpointUrl>,
    /// The chain id that every endpoint must report before it is used; none to not check.
    pub chain_id: Option<u64>,
    /// Limit of one request at one endpoint.
    pub timeout: Duration,
    /// The same for sending transactions, which a sequencer may hold back for its queue's time-out.
    pub send_timeout: Duration,
    /// Limit of establishing a connection.
    pub connect_timeout: Duration,
    /// Requests that run at the same time, per endpoint.
    pub max_in_flight: usize,
    /// Calls in one batch request.
    pub max_batch: usize,
    /// Longest answer that is read, in bytes.
    pub max_response_bytes: usize,
    /// First pause before an endpoint that went down is probed; doubles with every failure.
    pub min_back_off: Duration,
    /// Longest such pause.
    pub max_back_off: Duration,
    /// Blocks that an endpoint may be behind the others before it is marked down.
    pub max_lag_blocks: u64,
    /// Time between two comparisons of the endpoints' heads, each of which costs one request to every endpoint. None are made
    /// while the client is not used.
    pub compare_interval: Duration,
}

impl RpcConfig {
    /// The defaults, for these endpoints.
    #[must_use]
    pub fn new(name: impl Into<String>, urls: Vec<EndpointUrl>) -> Self {
        Self {
            name: name.into(),
            urls,
            chain_id: None,
            timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(3),
            max_in_flight: 16,
            max_batch: 100,
            max_response_bytes: 64 * 1024 * 1024,
            min_back_off: Duration::from_millis(250),
            max_back_off: Duration::from_secs(30),
            max_lag_blocks: 64,
            compare_interval: Duration::from_secs(10),
        }
    }
}

/// Why there is no client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RpcConfigError {
    /// Not a URL.
    #[error("invalid RPC URL: {0}")]
    Url(String),
    /// Not HTTP.
    #[error("RPC URL with scheme {0:?} instead of http or https")]
    Scheme(String),
    /// No endpoint.
    #[error("no RPC URL")]
    NoUrl,
    /// The HTTP client cannot be built.
    #[error("cannot build an HTTP client: {0}")]
    Client(String),
}

/// Client for one chain. Cheap to clone.
#[derive(Clone)]
pub struct Rpc {
    inner: Arc<Inner>,
    /// See [`Rpc::needing`].
    needed_block: Option<u64>,
}

struct Inner {
    config: RpcConfig,
    endpoints: Vec<Endpoint>,
    /// When the heads were compared last.
    compared: Mutex<Instant>,
}

impl fmt::Debug for Rpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rpc")
            .field("name", &self.inner.config.name)
            .field("urls", &self.inner.config.urls)
            .field("needed_block", &self.needed_block)
            .finish()
    }
}

/// Result of a request at one endpoint.
struct Served {
    results: Vec<CallResult>,
    endpoint: usize,
}

impl Rpc {
    /// A client for these endpoints. Connects to nothing yet.
    ///
    /// # Errors
    /// There is no endpoint, or no HTTP client for one.
    pub fn new(config: RpcConfig) -> Result<Self, RpcConfigError> {
        if config.urls.is_empty() {
            return Err(RpcConfigError::NoUrl);
        }
        let endpoints: Result<Vec<Endpoint>, RpcConfigError> =
            config.urls.iter().enumerate().map(|(index, url)| Endpoint::new(&config, index, url)).collect();
        let inner = Inner { endpoints: endpoints?, config, compared: Mutex::new(Instant::now()) };
        Ok(Self { inner: Arc::new(inner), needed_block: None })
    }

    /// The same client, whose answers come only from a node whose head is at `block` or above. Where none has it, calls
    /// fail with [`RpcError::Lagging`]. It costs one more call in the same HTTP request.
    #[must_use]
    pub fn needing(&self, block: u64) -> Self {
        Self { inner: Arc::clone(&self.inner), needed_block: Some(block) }
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &RpcConfig {
        &self.inner.config
    }

    /// Numbers of the endpoints that are up, in the order in which they are tried.
    #[must_use]
    pub fn endpoints_up(&self) -> Vec<usize> {
        let endpoints = self.inner.endpoints.iter().enumerate();
        endpoints.filter(|(_, endpoint)| endpoint.is_up()).map(|(index, _)| index).collect()
    }

    // --- The chain ------------------------------------------------------------------------------------------------

    /// EIP-155 chain id.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn chain_id(&self) -> Result<u64, RpcError> {
        self.call_one::<U64>("eth_chainId", json!([])).await.map(|id| id.to())
    }

    /// Number of the latest block at the endpoint in use.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn block_number(&self) -> Result<u64, RpcError> {
        self.call_one::<U64>("eth_blockNumber", json!([])).await.map(|number| number.to())
    }

    /// The chain id that an endpoint reports, if **all** endpoints answer and none has the configured one. While one of them is
    /// silent, it may be the one that is meant.
    pub async fn foreign_chain(&self) -> Option<u64> {
        let mut foreign = None;
        for head in self.heads().await {
            match head.head {
                Err(OutageCause::WrongChain { found, .. }) => foreign = Some(found),
                _ => return None,
            }
        }
        foreign
    }

    /// A block by number or tag; none where the node does not have it (yet). Nodes do not know `safe` and `finalized`
    /// for a while after their start.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn block(&self, block: BlockNumberOrTag) -> Result<Option<Block>, RpcError> {
        match self.call_one("eth_getBlockByNumber", json!([block, false])).await {
            Err(RpcError::Response { code, message, .. })
                if ErrorObject::new(code, &message, None).is_unknown_block() =>
            {
                Ok(None)
            }
            other => other,
        }
    }

    /// The latest block.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn latest_block(&self) -> Result<Block, RpcError> {
        self.call_one("eth_getBlockByNumber", json!(["latest", false])).await
    }

    /// A block by hash; none where the node does not have it, which is also the case after a reorganisation.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn block_by_hash(&self, hash: B256) -> Result<Option<Block>, RpcError> {
        match self.call_one("eth_getBlockByHash", json!([hash, false])).await {
            Err(RpcError::Response { code, message, .. })
                if ErrorObject::new(code, &message, None).is_unknown_block() =>
            {
                Ok(None)
            }
            other => other,
        }
    }

    /// Blocks of a range, batched, in order. They need not link: the caller checks parents.
    ///
    /// # Errors
    /// See [`RpcError`]; [`RpcError::Lagging`] where no endpoint has the end of the range.
    pub async fn blocks(&self, range: RangeInclusive<u64>) -> Result<Vec<Block>, RpcError> {
        self.blocks_at(&range.collect::<Vec<u64>>()).await
    }

    /// Blocks by their numbers, batched, in the given order.
    ///
    /// # Errors
    /// See [`RpcError`]; [`RpcError::Lagging`] where no endpoint has the highest of them.
    pub async fn blocks_at(&self, numbers: &[u64]) -> Result<Vec<Block>, RpcError> {
        let Some(highest) = numbers.iter().copied().max() else { return Ok(Vec::new()) };
        let client = self.needing(self.needed_block.unwrap_or(0).max(highest));
        let calls = numbers
            .iter()
            .map(|number| Call::new("eth_getBlockByNumber", json!([BlockNumberOrTag::Number(*number), false])));
        client.call_all("eth_getBlockByNumber", calls.collect()).await
    }

    /// Logs of a range of blocks, from a node that had the last block of the range: the block is asked for in the same
    /// HTTP request, before the logs.
    ///
    /// # Errors
    /// See [`RpcError`]; [`RpcError::LogRangeTooLarge`] asks for a smaller range, [`RpcError::Lagging`] for patience.
    pub async fn logs(&self, query: &LogQuery) -> Result<LogPage, RpcError> {
        const METHOD: &str = "eth_getLogs";
        let calls = [
            Call::new("eth_getBlockByNumber", json!([BlockNumberOrTag::Number(query.to), false])),
            Call::new(METHOD, json!([query.to_json()])),
        ];
        let timeout = self.inner.config.timeout;
        self.over_endpoints(METHOD, Some(query.to), |index| {
            let calls = &calls;
            async move {
                let answer = self.inner.endpoints[index].exchange_reading(METHOD, calls, timeout).await;
                let results = match answer {
                    Ok(Answer::Results(results)) => results,
                    Ok(Answer::Refused(error)) if error.is_log_range() => {
                        return Ok(Step::Done(Err(RpcError::LogRangeTooLarge { message: error.message })));
                    }
                    Ok(Answer::Refused(error)) => return Err(malformed(format_args!("batch refused with {error}"))),
                    Err(OutageCause::TooLarge(limit)) => {
                        let message = OutageCause::TooLarge(limit).to_string();
                        return Ok(Step::Done(Err(RpcError::LogRangeTooLarge { message })));
                    }
                    Err(cause) => return Err(cause),
                };
                let known_head = self.inner.endpoints[index].head();
                read_log_page(query, results, index, known_head)
            }
        })
        .await
    }

    /// Receipts of the block with this hash, in order; none where the node does not have the block, which is also the
    /// case after a reorganisation. Where the node does not offer receipts by block, they are fetched by transaction.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn block_receipts(&self, hash: B256) -> Result<Option<Vec<Receipt>>, RpcError> {
        let offered = self.inner.endpoints.iter().any(|e| e.is_up() && e.block_receipts.load(Ordering::Relaxed));
        if offered {
            let calls = [Call::new("eth_getBlockReceipts", json!([hash]))];
            let served = self.serve("eth_getBlockReceipts", &calls, self.inner.config.timeout).await?;
            match single(served.results) {
                Ok(raw) => {
                    let receipts: Option<Vec<Receipt>> = self.parse("eth_getBlockReceipts", served.endpoint, &raw)?;
                    return Ok(receipts.filter(|receipts| all_in_block(receipts, hash)));
                }
                Err(error) if error.is_unknown_method() => {
                    self.inner.endpoints[served.endpoint].block_receipts.store(false, Ordering::Relaxed);
                }
                Err(error) if error.is_unknown_block() => return Ok(None),
                Err(error) => return Err(error.into_error("eth_getBlockReceipts")),
            }
        }
        let Some(block) = self.block_by_hash(hash).await? else { return Ok(None) };
        let receipts: Option<Vec<Receipt>> = self.receipts(&block.transactions).await?.into_iter().collect();
        Ok(receipts.filter(|receipts| all_in_block(receipts, hash)))
    }

    /// Receipts by transaction hash, batched; none for a transaction that is not mined, or not known.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn receipts(&self, hashes: &[B256]) -> Result<Vec<Option<Receipt>>, RpcError> {
        let calls = hashes.iter().map(|hash| Call::new("eth_getTransactionReceipt", json!([hash])));
        self.call_all("eth_getTransactionReceipt", calls.collect()).await
    }

    /// Receipt of one transaction; see [`Self::receipts`].
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn receipt(&self, hash: B256) -> Result<Option<Receipt>, RpcError> {
        self.call_one("eth_getTransactionReceipt", json!([hash])).await
    }

    /// Transactions by hash, batched; none for one that the node does not know.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn transactions(&self, hashes: &[B256]) -> Result<Vec<Option<Transaction>>, RpcError> {
        let calls = hashes.iter().map(|hash| Call::new("eth_getTransactionByHash", json!([hash])));
        self.call_all("eth_getTransactionByHash", calls.collect()).await
    }

    /// One transaction by hash; see [`Self::transactions`].
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn transaction(&self, hash: B256) -> Result<Option<Transaction>, RpcError> {
        self.call_one("eth_getTransactionByHash", json!([hash])).await
    }

    // --- Accounts and state ---------------------------------------------------------------------------------------

    /// Number of transactions of the account at `block`: the next nonce. `pending` counts the node's pool, where it has
    /// one.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn nonce(&self, account: Address, block: BlockId) -> Result<u64, RpcError> {
        self.call_one::<U64>("eth_getTransactionCount", json!([account, block])).await.map(|nonce| nonce.to())
    }

    /// Balance in wei.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn balance(&self, account: Address, block: BlockId) -> Result<U256, RpcError> {
        self.call_one("eth_getBalance", json!([account, block])).await
    }

    /// Code of the account; empty for one without.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn code(&self, account: Address, block: BlockId) -> Result<Bytes, RpcError> {
        self.call_one("eth_getCode", json!([account, block])).await
    }

    /// Executes a call on a block's state.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(&self, request: &CallRequest, block: BlockId) -> Result<Bytes, CallError> {
        self.execution("eth_call", json!([request.to_json(), block])).await
    }

    /// Executes several calls, batched, on the same block's state; a revert concerns only its own call.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn calls(
        &self,
        requests: &[CallRequest],
        block: BlockId,
    ) -> Result<Vec<Result<Bytes, CallError>>, RpcError> {
        const METHOD: &str = "eth_call";
        let calls: Vec<Call> =
            requests.iter().map(|request| Call::new(METHOD, json!([request.to_json(), block]))).collect();
        let served = self.serve_chunked(METHOD, calls, self.inner.config.timeout).await?;
        let read = |(endpoint, result): (usize, CallResult)| match result {
            Ok(raw) => Ok(Ok(self.parse(METHOD, endpoint, &raw)?)),
            Err(error) => Ok(Err(CallError::from_object(error, METHOD))),
        };
        served.into_iter().map(read).collect()
    }

    /// Gas of a call on the **latest** block. On the pending one, a node may execute its whole pool for it.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn estimate_gas(&self, request: &CallRequest) -> Result<u64, CallError> {
        let gas: U64 = self.execution("eth_estimateGas", json!([request.to_json(), "latest"])).await?;
        Ok(gas.to())
    }

    // --- Fees -----------------------------------------------------------------------------------------------------

    /// The node's suggestion for a legacy gas price, in wei.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn gas_price(&self) -> Result<u128, RpcError> {
        self.call_one::<U128>("eth_gasPrice", json!([])).await.map(|price| price.to())
    }

    /// The node's suggestion for a priority fee, in wei.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn max_priority_fee(&self) -> Result<u128, RpcError> {
        self.call_one::<U128>("eth_maxPriorityFeePerGas", json!([])).await.map(|fee| fee.to())
    }

    /// Base fees and used priority fees of the last `blocks` blocks.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn fee_history(&self, blocks: u64, percentiles: &[f64]) -> Result<FeeHistory, RpcError> {
        self.call_one("eth_feeHistory", json!([format!("{blocks:#x}"), "latest", percentiles])).await
    }

    // --- Transactions ---------------------------------------------------------------------------------------------

    /// Sends a signed transaction; see [`Self::send_raw_transactions`].
    pub async fn send_raw_transaction(&self, raw: &Bytes) -> SendOutcome {
        let mut outcomes = self.send_raw_transactions(std::slice::from_ref(raw)).await;
        outcomes.pop().unwrap_or_else(|| SendOutcome::Unsent(OutageCause::Transport("nothing was sent".to_owned())))
    }

    /// Sends signed transactions, batched in their order; one outcome for each.
    ///
    /// The next endpoint is tried only while it is certain that nothing has reached a node: an endpoint that took the
    /// request and then failed leaves [`SendOutcome::Uncertain`], because another node's answer about the same bytes
    /// would be as ambiguous. So it is where an endpoint says that it takes none now. The same bytes can be sent again at any
    /// time.
    pub async fn send_raw_transactions(&self, raw: &[Bytes]) -> Vec<SendOutcome> {
        const METHOD: &str = "eth_sendRawTransaction";
        let mut outcomes = Vec::with_capacity(raw.len());
        // One chunk after the other: a transaction must not overtake the one with the nonce before it.
        for chunk in raw.chunks(self.inner.config.max_batch.max(1)) {
            let calls: Vec<Call> = chunk.iter().map(|bytes| Call::new(METHOD, json!([bytes]))).collect();
            outcomes.extend(self.send_chunk(METHOD, &calls).await);
        }
        outcomes
    }

    async fn send_chunk(&self, method: &'static str, calls: &[Call]) -> Vec<SendOutcome> {
        let mut unsent = OutageCause::Transport("no RPC endpoint".to_owned());
        let mut busy = None;
        for index in self.inner.order() {
            let endpoint = &self.inner.endpoints[index];
            if let Err(cause) = self.inner.verify(endpoint).await {
                self.inner.failed(index, &cause);
                unsent = cause;
                continue;
            }
            match endpoint.exchange(method, calls, self.inner.config.send_timeout).await {
                Ok(Answer::Results(results)) if results.iter().all(is_rate_limited) => {
                    let cause = OutageCause::RateLimited("every transaction".to_owned());
                    self.inner.failed(index, &cause);
                    unsent = cause;
                }
                Ok(Answer::Results(results)) => {
                    endpoint.mark_up();
                    let outcomes: Vec<SendOutcome> = results.into_iter().map(send_outcome).collect();
                    if !outcomes.iter().all(|outcome| matches!(outcome, SendOutcome::Busy(_))) {
                        return outcomes;
                    }
                    busy = Some(outcomes);
                }
                Ok(Answer::Refused(error)) if error.is_rate_limit() => {
                    let cause = OutageCause::RateLimited(error.message);
                    self.inner.failed(index, &cause);
                    unsent = cause;
                }
                Ok(Answer::Refused(error)) => {
                    // The node takes no batches of this size. It took none of the transactions.
                    if calls.len() < 2 {
                        return vec![SendOutcome::from_object(&error); calls.len()];
                    }
                    tracing::debug!(%error, calls = calls.len(), "batch refused, halving it");
                    let (first, second) = calls.split_at(calls.len() / 2);
                    let mut outcomes = Box::pin(self.send_chunk(method, first)).await;
                    outcomes.extend(Box::pin(self.send_chunk(method, second)).await);
                    return outcomes;
                }
                Err(cause) if cause.is_unsent() => {
                    self.inner.failed(index, &cause);
                    unsent = cause;
                }
                // A limit on the rate is stated before the transaction is looked at.
                Err(cause @ OutageCause::RateLimited(_)) => {
                    self.inner.failed(index, &cause);
                    unsent = cause;
                }
                // A sequencer may hold a transaction back for longer: no sign that the endpoint is down.
                Err(cause @ OutageCause::Timeout(_)) => return vec![SendOutcome::Uncertain(cause); calls.len()],
                Err(cause) => {
                    self.inner.failed(index, &cause);
                    return vec![SendOutcome::Uncertain(cause); calls.len()];
                }
            }
        }
        busy.unwrap_or_else(|| vec![SendOutcome::Unsent(unsent); calls.len()])
    }

    // --- Machinery ------------------------------------------------------------------------------------------------

    /// Any other call, for tools and tests.
    ///
    /// # Errors
    /// See [`RpcError`].
    pub async fn request<R: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<R, RpcError> {
        self.call_one(method, params).await
    }

    /// One call with one result.
    async fn call_one<R: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<R, RpcError> {
        let calls = [Call::new(method, params)];
        self.over_endpoints(method, self.needed_block, |index| {
            let calls = &calls;
            async move {
                let results = match self.at_endpoint(index, method, calls, self.inner.config.timeout).await? {
                    Step::Done(results) => results,
                    Step::Lagging(head) => return Ok(Step::Lagging(head)),
                };
                match single(results) {
                    Ok(raw) => Ok(Step::Done(Ok(read(&raw)?))),
                    Err(error) => Ok(Step::Done(Err(error.into_error(method)))),
                }
            }
        })
        .await
    }

    /// One call that executes a contract.
    async fn execution<R: DeserializeOwned>(&self, method: &'static str, params: Value) -> Result<R, CallError> {
        let calls = [Call::new(method, params)];
        let served = self.serve(method, &calls, self.inner.config.timeout).await?;
        match single(served.results) {
            Ok(raw) => Ok(self.parse(method, served.endpoint, &raw)?),
            Err(error) => Err(CallError::from_object(error, method)),
        }
    }

    /// Several calls of one method; an error of any is an error of all.
    async fn call_all<R: DeserializeOwned>(&self, method: &'static str, calls: Vec<Call>) -> Result<Vec<R>, RpcError> {
        let served = self.serve_chunked(method, calls, self.inner.config.timeout).await?;
        let read = |(endpoint, result): (usize, CallResult)| match result {
            Ok(raw) => self.parse(method, endpoint, &raw),
            Err(error) => Err(error.into_error(method)),
        };
        served.into_iter().map(read).collect()
    }

    /// Reads a result; one of another type is a fault of the endpoint.
    fn parse<R: DeserializeOwned>(
        &self,
        method: &'static str,
        endpoint: usize,
        raw: &serde_json::value::RawValue,
    ) -> Result<R, RpcError> {
        read(raw).map_err(|cause| {
            self.inner.failed(endpoint, &cause);
            RpcError::Outage { method, endpoints: 1, cause }
        })
    }

    /// Serves any number of calls in chunks, a few at a time, and names the endpoint of every result.
    async fn serve_chunked(
        &self,
        method: &'static str,
        calls: Vec<Call>,
        timeout: Duration,
    ) -> Result<Vec<(usize, CallResult)>, RpcError> {
        /// Chunks in flight for one caller: enough to hide the way to the node, and no more than a fair share.
        const CHUNKS_AT_ONCE: usize = 4;
        let chunks: Vec<Vec<Call>> = calls.chunks(self.inner.config.max_batch.max(1)).map(<[Call]>::to_vec).collect();
        let mut served = futures::stream::iter(chunks)
            .map(|chunk| async move { self.serve(method, &chunk, timeout).await })
            .buffered(CHUNKS_AT_ONCE);
        let mut results = Vec::with_capacity(calls.len());
        while let Some(chunk) = served.next().await {
            let Served { results: chunk, endpoint } = chunk?;
            results.extend(chunk.into_iter().map(|result| (endpoint, result)));
        }
        Ok(results)
    }

    /// Serves the calls of one request at the first endpoint that gives an answer.
    async fn serve(&self, method: &'static str, calls: &[Call], timeout: Duration) -> Result<Served, RpcError> {
        self.over_endpoints(method, self.needed_block, |index| async move {
            Ok(match self.at_endpoint(index, method, calls, timeout).await? {
                Step::Done(results) => Step::Done(Ok(Served { results, endpoint: index })),
                Step::Lagging(head) => Step::Lagging(head),
            })
        })
        .await
    }

    /// Tries the endpoints in order until one gives an answer.
    async fn over_endpoints<T, F>(
        &self,
        method: &'static str,
        needed: Option<u64>,
        attempt: impl Fn(usize) -> F,
    ) -> Result<T, RpcError>
    where
        F: Future<Output = Result<Step<Result<T, RpcError>>, OutageCause>>,
    {
        let order = self.inner.order();
        let endpoints = order.len();
        let mut lagging: Option<u64> = None;
        let mut failed: Option<OutageCause> = None;
        for (tried, index) in order.into_iter().enumerate() {
            let endpoint = &self.inner.endpoints[index];
            let step = match self.inner.verify(endpoint).await {
                Ok(()) => attempt(index).await,
                Err(cause) => Err(cause),
            };
            match step {
                Ok(Step::Done(result)) => {
                    endpoint.mark_up();
                    if tried > 0 {
                        endpoint.labels.failover();
                    }
                    return result;
                }
                Ok(Step::Lagging(head)) => {
                    endpoint.labels.lagging();
                    lagging = lagging.max(Some(head));
                }
                Err(cause) => {
                    self.inner.failed(index, &cause);
                    failed = Some(cause);
                }
            }
        }
        Err(match (lagging, failed) {
            (Some(best), _) => RpcError::Lagging { method, needed: needed.unwrap_or(0), best },
            (None, Some(cause)) => RpcError::Outage { method, endpoints, cause },
            (None, None) => {
                RpcError::Outage { method, endpoints, cause: OutageCause::Transport("no RPC endpoint".to_owned()) }
            }
        })
    }

    /// One request at one endpoint; with the node's head in front where a block is needed.
    async fn at_endpoint(
        &self,
        index: usize,
        method: &'static str,
        calls: &[Call],
        timeout: Duration,
    ) -> Result<Step<Vec<CallResult>>, OutageCause> {
        let endpoint = &self.inner.endpoints[index];
        let Some(needed) = self.needed_block else {
            return self.inner.split(endpoint, method, calls, timeout).await.map(Step::Done);
        };
        let mut with_head = Vec::with_capacity(calls.len() + 1);
        with_head.push(Call::new("eth_blockNumber", json!([])));
        with_head.extend_from_slice(calls);
        let mut results = self.inner.split(endpoint, method, &with_head, timeout).await?;
        let head = results.remove(0).map_err(|error| malformed(format_args!("no head: {error}")))?;
        let head: u64 = read::<U64>(&head)?.to();
        endpoint.set_head(head);
        Ok(if head < needed { Step::Lagging(head) } else { Step::Done(results) })
    }
}

/// What an attempt at one endpoint came to, other than a failure of the endpoint.
enum Step<T> {
    Done(T),
    /// The endpoint has not seen the block that is needed; its head.
    Lagging(u64),
}

impl Inner {
    /// The endpoints to try, in order: those that are up, or all when none is. Every call begins with it, and so does the
    /// comparison of their heads.
    fn order(self: &Arc<Self>) -> Vec<usize> {
        self.compare_heads();
        let up: Vec<usize> = (0..self.endpoints.len()).filter(|index| self.endpoints[*index].is_up()).collect();
        if up.is_empty() { (0..self.endpoints.len()).collect() } else { up }
    }

    /// Makes sure that the endpoint serves the configured chain, once.
    async fn verify(&self, endpoint: &Endpoint) -> Result<(), OutageCause> {
        if endpoint.verified.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.probe(endpoint).await.map(drop)
    }

    /// Asks the endpoint for chain id and head.
    async fn probe(&self, endpoint: &Endpoint) -> Result<u64, OutageCause> {
        let calls = [Call::new("eth_chainId", json!([])), Call::new("eth_blockNumber", json!([]))];
        let timeout = self.config.timeout.min(Duration::from_secs(5));
        let results = self.split(endpoint, "probe", &calls, timeout).await?;
        let mut numbers = results.into_iter().map(|result| match result {
            Ok(raw) => read::<U64>(&raw).map(|number| number.to::<u64>()),
            Err(error) => Err(malformed(error)),
        });
        let (Some(found), Some(head)) = (numbers.next(), numbers.next()) else {
            return Err(malformed("an answer is missing"));
        };
        let found = found?;
        match self.config.chain_id {
            Some(expected) if expected != found => {
                endpoint.verified.store(false, Ordering::Relaxed);
                Err(OutageCause::WrongChain { expected, found })
            }
            _ => {
                endpoint.verified.store(true, Ordering::Relaxed);
                head
            }
        }
    }

    /// Sends calls to one endpoint, halving the batch while the endpoint refuses it as a whole. What it took is
    /// remembered.
    async fn split(
        &self,
        endpoint: &Endpoint,
        method: &'static str,
        calls: &[Call],
        timeout: Duration,
    ) -> Result<Vec<CallResult>, OutageCause> {
        let mut results = Vec::with_capacity(calls.len());
        while results.len() < calls.len() {
            let size = endpoint.max_batch.load(Ordering::Relaxed).max(1);
            let rest = &calls[results.len()..];
            let chunk = &rest[..rest.len().min(size)];
            match endpoint.exchange_reading(method, chunk, timeout).await? {
                Answer::Results(chunk) => results.extend(chunk),
                Answer::Refused(error) if chunk.len() == 1 => results.push(Err(error)),
                Answer::Refused(error) => {
                    tracing::debug!(%error, calls = chunk.len(), "batch refused, halving it");
                    endpoint.max_batch.store(chunk.len() / 2, Ordering::Relaxed);
                }
            }
        }
        Ok(results)
    }

    /// The endpoint failed: it is not used until a probe succeeds.
    fn failed(self: &Arc<Self>, index: usize, cause: &OutageCause) {
        let endpoint = &self.endpoints[index];
        endpoint.mark_down(cause);
        if endpoint.probing.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::downgrade(self);
        let mut pause = self.back_off(1);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(pause).await;
                // Nobody holds the client any more.
                let Some(inner) = inner.upgrade() else { return };
                let endpoint = &inner.endpoints[index];
                match inner.recovered(endpoint).await {
                    Ok(()) => {
                        // In this order: whoever marks it down from here on starts a probe of his own.
                        endpoint.probing.store(false, Ordering::Release);
                        endpoint.let_in();
                        return;
                    }
                    Err(cause) => {
                        endpoint.mark_down(&cause);
                        pause = inner.back_off(endpoint.failures());
                    }
                }
            }
        });
    }

    /// The pause after so many failures in a row: doubling, with a random half.
    fn back_off(&self, failures: u32) -> Duration {
        let factor = 1_u32.checked_shl(failures.saturating_sub(1).min(16)).unwrap_or(u32::MAX);
        let pause = self.config.min_back_off.saturating_mul(factor).min(self.config.max_back_off);
        pause.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

fn read<R: DeserializeOwned>(raw: &serde_json::value::RawValue) -> Result<R, OutageCause> {
    serde_json::from_str(raw.get()).map_err(malformed)
}

fn single(results: Vec<CallResult>) -> CallResult {
    results.into_iter().next().unwrap_or_else(|| Err(ErrorObject::new(0, "no result", None)))
}

/// The limit is stated before the transaction is looked at.
fn is_rate_limited(result: &CallResult) -> bool {
    result.as_ref().is_err_and(ErrorObject::is_rate_limit)
}

fn send_outcome(result: CallResult) -> SendOutcome {
    match result {
        Err(error) if error.is_rate_limit() => SendOutcome::Busy(error.message),
        Ok(raw) => match read::<B256>(&raw) {
            Ok(hash) => SendOutcome::Accepted(hash),
            Err(cause) => SendOutcome::Uncertain(cause),
        },
        Err(error) => SendOutcome::from_object(&error),
    }
}

fn all_in_block(receipts: &[Receipt], hash: B256) -> bool {
    receipts.iter().all(|receipt| receipt.0.block_hash() == Some(hash))
}

/// Reads the block and the logs of one request. The block comes first: a node that lacks it has not seen the range, and
/// whatever it says about logs is worth nothing.
fn read_log_page(
    query: &LogQuery,
    results: Vec<CallResult>,
    endpoint: usize,
    known_head: u64,
) -> Result<Step<Result<LogPage, RpcError>>, OutageCause> {
    let mut results = results.into_iter();
    let (Some(block), Some(logs)) = (results.next(), results.next()) else {
        return Err(malformed("an answer is missing"));
    };
    // How far behind it is, the node has not said now: what it said last must do.
    let behind = known_head.min(query.to.saturating_sub(1));
    let last: Option<Block> = match block {
        Ok(raw) => read(&raw)?,
        Err(error) if error.is_unknown_block() => None,
        Err(error) => return Ok(Step::Done(Err(error.into_error("eth_getBlockByNumber")))),
    };
    let Some(last) = last else { return Ok(Step::Lagging(behind)) };
    let raw = match logs {
        Ok(raw) => raw,
        Err(error) if error.is_log_range() => {
            return Ok(Step::Done(Err(RpcError::LogRangeTooLarge { message: error.message })));
        }
        Err(error) if error.is_unknown_block() => return Ok(Step::Lagging(behind)),
        Err(error) => return Ok(Step::Done(Err(error.into_error("eth_getLogs")))),
    };
    let logs: Vec<alloy::rpc::types::Log> = read(&raw)?;
    let logs: Result<Vec<ChainLog>, OutageCause> = logs.into_iter().map(ChainLog::try_from).collect();
    let mut logs = logs?;
    logs.sort_by_key(|log| (log.block_number, log.log_index));
    let range = query.from..=query.to;
    if logs.iter().any(|log| !range.contains(&log.block_number)) {
        return Err(malformed("a log from outside the range"));
    }
    if logs.iter().any(|log| log.block_number == last.number() && log.block_hash != last.hash()) {
        return Err(malformed("a log from another block than the one with its number"));
    }
    Ok(Step::Done(Ok(LogPage { logs, last, endpoint })))
}
