//! A JSON-RPC client for one local node: batches, and waiting for receipts.

use std::time::{Duration, Instant};

use alloy::primitives::{Address, B256, Bytes, U64, U256};
use alloy::rpc::client::RpcClient;
use alloy::rpc::json_rpc::{RpcRecv, RpcSend};
use alloy::rpc::types::TransactionReceipt;
use alloy::sol_types::SolCall;
use serde_json::{Value, json};

use super::account::Call;
use super::deployment::BALANCE;
use super::error::ContractsError;

/// Calls in one JSON-RPC batch.
const BATCH: usize = 100;
/// How often receipts that are not there yet are asked for.
const RECEIPT_POLL: Duration = Duration::from_millis(10);
/// How often a node that does not answer is asked again.
const AGAIN_EVERY: Duration = Duration::from_millis(250);
const VIEW_GAS: u64 = 30_000_000;
const CALL_DEADLINE: Duration = Duration::from_secs(30);

/// One node of a chain.
#[derive(Clone, Debug)]
pub struct Node {
    client: RpcClient,
    url: String,
    /// How long an outage is borne.
    patience: Duration,
}

impl Node {
    /// A client for the node at `url`; nothing is asked of it yet.
    ///
    /// # Errors
    /// [`ContractsError::Url`].
    pub fn new(url: &str) -> Result<Self, ContractsError> {
        let wrong = |why: String| ContractsError::Url { url: url.to_owned(), why };
        kms_runtime::telemetry::install_tls_provider();
        let http =
            reqwest::Client::builder().timeout(CALL_DEADLINE).build().map_err(|error| wrong(error.to_string()))?;
        let parsed = url.parse().map_err(|error: url::ParseError| wrong(error.to_string()))?;
        Ok(Self {
            client: RpcClient::new_http_with_client(http, parsed),
            url: url.to_owned(),
            patience: Duration::ZERO,
        })
    }

    /// Asks again for so long when the node does not answer.
    #[must_use]
    pub fn patient(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    pub(super) fn is_patient(&self) -> bool {
        !self.patience.is_zero()
    }

    /// Whether an outage that began then is not borne any longer; else a moment passes.
    async fn gives_up(&self, begun: &mut Option<Instant>) -> bool {
        let begun = *begun.get_or_insert_with(Instant::now);
        if begun.elapsed() >= self.patience {
            return true;
        }
        tokio::time::sleep(AGAIN_EVERY).await;
        false
    }

    /// The node's address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// One JSON-RPC call of any method.
    ///
    /// # Errors
    /// The node does not answer, or answers with an error.
    pub async fn request<P: RpcSend, R: RpcRecv>(&self, method: &'static str, params: P) -> Result<R, ContractsError> {
        let mut outage = None;
        loop {
            let answer = self.client.request(method, params.clone()).await;
            match answer.map_err(|error| ContractsError::transport(&self.url, method, error)) {
                Err(error @ ContractsError::Unreachable { .. }) => {
                    if self.gives_up(&mut outage).await {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
        }
    }

    /// The same method with each of the parameters, in JSON-RPC batches. The answers are in the order of the parameters.
    ///
    /// # Errors
    /// The node does not answer. What it refuses is in the answers.
    pub async fn batch<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: &[P],
    ) -> Result<Vec<Result<R, ContractsError>>, ContractsError> {
        let mut answers = Vec::with_capacity(params.len());
        for chunk in params.chunks(BATCH) {
            let mut outage = None;
            let answered = loop {
                match self.batch_once::<P, R>(method, chunk).await {
                    Err(error @ ContractsError::Unreachable { .. }) => {
                        if self.gives_up(&mut outage).await {
                            return Err(error);
                        }
                    }
                    answered => break answered?,
                }
            };
            answers.extend(answered);
        }
        Ok(answers)
    }

    async fn batch_once<P: RpcSend, R: RpcRecv>(
        &self,
        method: &'static str,
        params: &[P],
    ) -> Result<Vec<Result<R, ContractsError>>, ContractsError> {
        let failed = |error| ContractsError::transport(&self.url, method, error);
        let mut batch = self.client.new_batch();
        let mut waiters = Vec::with_capacity(params.len());
        for params in params {
            waiters.push(batch.add_call::<P, R>(method, params).map_err(failed)?);
        }
        batch.send().await.map_err(failed)?;
        let mut answers = Vec::with_capacity(waiters.len());
        for waiter in waiters {
            answers.push(waiter.await.map_err(failed));
        }
        Ok(answers)
    }

    /// The chain's EIP-155 id.
    ///
    /// # Errors
    /// As [`Node::request`].
    pub async fn chain_id(&self) -> Result<u64, ContractsError> {
        Ok(self.request::<_, U64>("eth_chainId", ()).await?.to())
    }

    /// The number of the latest block.
    ///
    /// # Errors
    /// As [`Node::request`].
    pub async fn block_number(&self) -> Result<u64, ContractsError> {
        Ok(self.request::<_, U64>("eth_blockNumber", ()).await?.to())
    }

    /// The nonce of the account's next transaction, those in the pool counted.
    ///
    /// # Errors
    /// As [`Node::request`].
    pub async fn next_nonce(&self, account: Address) -> Result<u64, ContractsError> {
        Ok(self.request::<_, U64>("eth_getTransactionCount", (account, "pending")).await?.to())
    }

    /// The nonce of the account's next transaction, as of the latest block.
    ///
    /// # Errors
    /// As [`Node::request`].
    pub async fn mined_nonce(&self, account: Address) -> Result<u64, ContractsError> {
        Ok(self.request::<_, U64>("eth_getTransactionCount", (account, "latest")).await?.to())
    }

    /// Whether the node has a transaction, in a block or in its pool.
    ///
    /// # Errors
    /// As [`Node::request`].
    pub async fn knows(&self, transaction: B256) -> Result<bool, ContractsError> {
        Ok(self.request::<_, Option<Value>>("eth_getTransactionByHash", (transaction,)).await?.is_some())
    }

    /// Whether the node is a development node that makes a block of every transaction as it comes.
    ///
    /// # Errors
    /// The node does not answer. One that does not know the question mines at no one's command.
    pub async fn mines_at_once(&self) -> Result<bool, ContractsError> {
        match self.request("anvil_getAutomine", ()).await {
            Err(ContractsError::Refused { .. }) => Ok(false),
            answer => answer,
        }
    }

    /// Carries out a call on the latest block, without a transaction, as `from`.
    ///
    /// # Errors
    /// [`ContractsError::Reverted`] with the revert data; else as [`Node::request`].
    pub async fn simulate(&self, from: Address, call: &Call) -> Result<Bytes, ContractsError> {
        let mut fields = json!({"from": from, "data": call.data, "gas": U64::from(call.gas)});
        if let Some(to) = call.to {
            fields["to"] = json!(to);
        }
        self.request("eth_call", (fields, "latest")).await
    }

    /// Reads a view on the latest block.
    ///
    /// # Errors
    /// As [`Node::simulate`], and [`ContractsError::Answer`] when the answer is not the view's.
    pub async fn view<C: SolCall>(&self, to: Address, call: &C) -> Result<C::Return, ContractsError> {
        let call = Call { to: Some(to), data: call.abi_encode().into(), gas: VIEW_GAS };
        let answer = self.simulate(Address::ZERO, &call).await?;
        C::abi_decode_returns(&answer).map_err(|error| ContractsError::Answer(format!("{}: {error}", C::SIGNATURE)))
    }

    /// Gives accounts of a development chain a million ether each.
    ///
    /// # Errors
    /// The node does not answer or is no development node.
    pub async fn fund(&self, accounts: &[Address]) -> Result<(), ContractsError> {
        self.set_balances(accounts, BALANCE).await
    }

    /// Gives accounts ether. Development nodes only (`anvil_setBalance`).
    ///
    /// # Errors
    /// As [`Node::request`].
    pub async fn set_balances(&self, accounts: &[Address], wei: U256) -> Result<(), ContractsError> {
        let params: Vec<(Address, U256)> = accounts.iter().map(|account| (*account, wei)).collect();
        for answer in self.batch::<_, Value>("anvil_setBalance", &params).await? {
            answer?;
        }
        Ok(())
    }

    /// Waits for the receipts of transactions, in their order, whatever their status.
    ///
    /// # Errors
    /// [`ContractsError::NotMined`] when the time is over; else as [`Node::request`].
    pub async fn receipts(
        &self,
        transactions: &[B256],
        within: Duration,
    ) -> Result<Vec<TransactionReceipt>, ContractsError> {
        let started = Instant::now();
        let mut found: Vec<Option<TransactionReceipt>> = vec![None; transactions.len()];
        loop {
            // Blocks hold transactions in the order they were sent, so what is missing is nearly always at the end: asking for
            // one batch from the first that is missing on is enough until that one is full.
            let missing: Vec<usize> = (0..found.len()).filter(|index| found[*index].is_none()).take(BATCH).collect();
            if missing.is_empty() {
                return Ok(found.into_iter().flatten().collect());
            }
            let params: Vec<(B256,)> = missing.iter().map(|index| (transactions[*index],)).collect();
            let answers = self.batch::<_, Option<TransactionReceipt>>("eth_getTransactionReceipt", &params).await?;
            let mut new = 0;
            for (index, answer) in missing.into_iter().zip(answers) {
                found[index] = answer?;
                new += usize::from(found[index].is_some());
            }
            if new == 0 {
                if started.elapsed() > within + self.patience {
                    let missing = found.iter().filter(|receipt| receipt.is_none()).count();
                    return Err(ContractsError::NotMined { missing, sent: transactions.len(), waited: within });
                }
                tokio::time::sleep(RECEIPT_POLL).await;
            }
        }
    }
}
