//! A node with one `Decryption` contract, for tests: real HTTP and JSON-RPC framing, and only the calls that ingest makes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes};
use alloy::sol_types::{SolCall, SolEvent};
use axum::Router;
use axum::body::Bytes as Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use kms_chain::contracts::Proxy;
use kms_chain::rpc::{EndpointUrl, Rpc, RpcConfig};
use serde_json::{Value, json};

use crate::config::{IngestConfig, SourceConfig};

pub(crate) const DECRYPTION: Address = Address::with_last_byte(0xd1);

/// What the node knows, and what it does not tell.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    pub(crate) head: u64,
    pub(crate) finalized: Option<u64>,
    /// The contract's version from a block on, in the order of the blocks; it reverts before the first.
    pub(crate) versions: Vec<(u64, &'static str)>,
    /// Blocks in which it says that it was upgraded.
    pub(crate) upgrades: Vec<u64>,
    /// Calls below this block are answered with an error.
    pub(crate) pruned_below: u64,
    /// So many calls are answered with an error, at whatever block.
    pub(crate) failing_calls: u32,
    /// Largest range of logs, if there is a limit.
    pub(crate) max_range: Option<u64>,
    /// A proxy before it gives up on larger ranges of logs, if there is a limit.
    pub(crate) too_slow_above: Option<u64>,
}

#[derive(Clone)]
pub(crate) struct Node {
    url: String,
    chain: Arc<Mutex<Chain>>,
}

type Outcome = Result<Value, Value>;

impl Node {
    pub(crate) async fn start(chain: Chain) -> Self {
        let chain = Arc::new(Mutex::new(chain));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let app = Router::new().fallback(post(serve)).with_state(Arc::clone(&chain));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, chain }
    }

    pub(crate) fn chain(&self) -> MutexGuard<'_, Chain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn rpc(&self) -> Rpc {
        let mut config = RpcConfig::new("mock", vec![EndpointUrl::parse(&self.url).expect("a URL")]);
        config.timeout = Duration::from_secs(60);
        Rpc::new(config).expect("a client")
    }

    /// A source that follows the contract, with further lines of its configuration.
    pub(crate) fn source(&self, lines: &str) -> SourceConfig {
        let text = format!(
            "[[source]]\nid = \"gateway\"\nchain_id = 7\nrpc_urls = [\"{}\"]\ndecryption = \"{DECRYPTION}\"\n\
             poll_interval_ms = 10\n{lines}",
            self.url
        );
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ingest.toml");
        std::fs::write(&file, text).expect("a file");
        let sources = kms_runtime::config::Sources { file: Some(file), ..Default::default() };
        let loaded = kms_runtime::config::load::<IngestConfig>(&sources).expect("valid");
        loaded.config.source.into_iter().next().expect("a source")
    }
}

async fn serve(State(chain): State<Arc<Mutex<Chain>>>, body: Body) -> Result<String, StatusCode> {
    let request: Value = serde_json::from_slice(&body).expect("the client sends JSON");
    let mut chain = chain.lock().unwrap_or_else(PoisonError::into_inner);
    let calls = request.as_array().map_or(std::slice::from_ref(&request), Vec::as_slice);
    if calls.iter().any(|call| call["method"] == "eth_getLogs" && chain.is_too_slow(&call["params"][0])) {
        return Err(StatusCode::GATEWAY_TIMEOUT);
    }
    let mut answer = |call: &Value| match chain.answer(call["method"].as_str().expect("a method"), &call["params"]) {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": call["id"], "result": result }),
        Err(error) => json!({ "jsonrpc": "2.0", "id": call["id"], "error": error }),
    };
    Ok(match &request {
        Value::Array(calls) => Value::Array(calls.iter().map(answer).collect()).to_string(),
        call => answer(call).to_string(),
    })
}

fn error(code: i64, message: &str) -> Value {
    json!({ "code": code, "message": message })
}

fn number(text: &Value) -> u64 {
    let text = text.as_str().expect("a number");
    u64::from_str_radix(text.trim_start_matches("0x"), 16).expect("hex")
}

impl Chain {
    fn answer(&mut self, method: &str, params: &Value) -> Outcome {
        match method {
            "eth_chainId" => Ok(json!("0x7")),
            "eth_blockNumber" => Ok(json!(format!("{:#x}", self.head))),
            "eth_getBlockByNumber" => match params[0].as_str() {
                Some("latest") => Ok(block(self.head)),
                Some("finalized") => {
                    self.finalized.map(block).ok_or_else(|| error(-32000, "finalized block not found"))
                }
                _ => Ok(Some(number(&params[0])).filter(|number| *number <= self.head).map_or(Value::Null, block)),
            },
            "eth_call" => self.call(&params[1]),
            "eth_getLogs" => self.logs(&params[0]),
            other => Err(error(-32601, other)),
        }
    }

    fn call(&mut self, at: &Value) -> Outcome {
        if let Some(left) = self.failing_calls.checked_sub(1) {
            self.failing_calls = left;
            return Err(error(-32603, "internal error"));
        }
        let at = if at == "latest" { self.head } else { number(at) };
        if at < self.pruned_below {
            return Err(error(-32000, &format!("missing trie node {at:064x} (path )")));
        }
        let version =
            self.versions.iter().rev().find(|(from, _)| *from <= at).map(|(_, version)| (*version).to_owned());
        let version = version.ok_or_else(|| error(3, "execution reverted"))?;
        Ok(json!(Bytes::from(Proxy::getVersionCall::abi_encode_returns(&version))))
    }

    fn is_too_slow(&self, filter: &Value) -> bool {
        self.too_slow_above.is_some_and(|limit| blocks(filter) > limit)
    }

    fn logs(&self, filter: &Value) -> Outcome {
        let (from, to) = (number(&filter["fromBlock"]), number(&filter["toBlock"]));
        if self.max_range.is_some_and(|limit| blocks(filter) > limit) {
            return Err(error(-32614, "block range is too large"));
        }
        let upgrades = self.upgrades.iter().filter(|block| (from..=to).contains(*block));
        Ok(upgrades.map(|number| upgraded(*number)).collect())
    }
}

fn blocks(filter: &Value) -> u64 {
    number(&filter["toBlock"]) - number(&filter["fromBlock"]) + 1
}

fn hash(number: u64) -> String {
    format!("0x{number:064x}")
}

fn upgraded(number: u64) -> Value {
    json!({
        "address": DECRYPTION,
        "topics": [Proxy::Upgraded::SIGNATURE_HASH, B256::with_last_byte(1)],
        "data": "0x",
        "blockNumber": format!("{number:#x}"),
        "blockHash": hash(number),
        "blockTimestamp": "0x6553f100",
        "transactionHash": hash(number),
        "transactionIndex": "0x0",
        "logIndex": "0x0",
        "removed": false,
    })
}

fn block(number: u64) -> Value {
    json!({
        "number": format!("{number:#x}"),
        "hash": hash(number),
        "parentHash": hash(number.saturating_sub(1)),
        "timestamp": "0x6553f100",
        "difficulty": "0x1",
        "extraData": "0x",
        "gasLimit": "0x4000000000000",
        "gasUsed": "0x0",
        "logsBloom": format!("0x{}", "00".repeat(256)),
        "miner": Address::ZERO,
        "mixHash": hash(0),
        "nonce": "0x0000000000000000",
        "receiptsRoot": hash(1),
        "sha3Uncles": hash(1),
        "stateRoot": hash(2),
        "transactions": [],
        "transactionsRoot": hash(3),
        "uncles": [],
    })
}
