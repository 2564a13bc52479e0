//! A node made of a function: real HTTP, real JSON-RPC framing, and the ways in which nodes misbehave.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use kms_chain::rpc::{EndpointUrl, Rpc, RpcConfig};
use serde_json::{Value, json};

/// What a call comes to: a result, or a JSON-RPC error.
pub(crate) type Outcome = Result<Value, Value>;
type Handler = dyn Fn(&str, &Value) -> Outcome + Send + Sync;

/// How the node treats whole requests.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mode {
    /// As the specification says.
    Normal,
    /// Never answers.
    Hang,
    /// Answers with this status and body.
    Body(u16, String),
    /// Answers a batch in reverse order, with ids as text.
    Reversed,
    /// Leaves out the last answer of a batch.
    Forgetful,
    /// Gives the first answer of a batch twice.
    Repeating,
    /// Refuses batches of more calls than this with one error object.
    SmallBatches(usize),
}

/// A running node.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) url: String,
    shared: Arc<Shared>,
}

struct Shared {
    mode: Mutex<Mode>,
    calls: Mutex<Vec<(String, Value)>>,
    requests: Mutex<usize>,
    handler: Box<Handler>,
}

impl Node {
    /// Starts a node on a free port of 127.0.0.1.
    pub(crate) async fn start(handler: impl Fn(&str, &Value) -> Outcome + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Normal),
            calls: Mutex::default(),
            requests: Mutex::default(),
            handler: Box::new(handler),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/secret-path?key=secret-key", listener.local_addr().expect("an address"));
        let app = Router::new().fallback(post(serve)).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, shared }
    }

    /// A node of chain 7 with this head, which answers nothing else.
    pub(crate) async fn at_head(head: u64) -> Self {
        Self::start(move |method, _| basics(method, head).unwrap_or_else(|| Err(unknown_method(method)))).await
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    /// Names of the methods called so far, in order.
    pub(crate) fn methods(&self) -> Vec<String> {
        let calls = self.shared.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().map(|(method, _)| method.clone()).collect()
    }

    /// How often a method was called.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.methods().iter().filter(|called| *called == method).count()
    }

    /// HTTP requests so far.
    pub(crate) fn requests(&self) -> usize {
        *self.shared.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(State(shared): State<Arc<Shared>>, body: Bytes) -> Response {
    *shared.requests.lock().unwrap_or_else(PoisonError::into_inner) += 1;
    let mode = shared.mode.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match &mode {
        Mode::Hang => std::future::pending().await,
        Mode::Body(status, body) => {
            let status = StatusCode::from_u16(*status).expect("a status");
            return (status, body.clone()).into_response();
        }
        _ => {}
    }
    let request: Value = serde_json::from_slice(&body).expect("the client sends JSON");
    let answer = match request {
        Value::Array(calls) => {
            if let Mode::SmallBatches(limit) = mode
                && calls.len() > limit
            {
                let error = json!({ "code": -32600, "message": "batch too large" });
                return json!({ "jsonrpc": "2.0", "id": null, "error": error }).to_string().into_response();
            }
            let mut answers: Vec<Value> = calls.iter().map(|call| answer(&shared, call)).collect();
            match mode {
                Mode::Reversed => {
                    answers.reverse();
                    for answer in &mut answers {
                        answer["id"] = json!(answer["id"].to_string());
                    }
                }
                Mode::Forgetful => drop(answers.pop()),
                Mode::Repeating => answers.push(answers[0].clone()),
                _ => {}
            }
            Value::Array(answers)
        }
        call => answer(&shared, &call),
    };
    answer.to_string().into_response()
}

fn answer(shared: &Shared, call: &Value) -> Value {
    let method = call["method"].as_str().expect("a method");
    shared.calls.lock().unwrap_or_else(PoisonError::into_inner).push((method.to_owned(), call["params"].clone()));
    match (shared.handler)(method, &call["params"]) {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": call["id"], "result": result }),
        Err(error) => json!({ "jsonrpc": "2.0", "id": call["id"], "error": error }),
    }
}

/// What every node of chain 7 answers.
pub(crate) fn basics(method: &str, head: u64) -> Option<Outcome> {
    match method {
        "eth_chainId" => Some(Ok(json!("0x7"))),
        "eth_blockNumber" => Some(Ok(json!(format!("{head:#x}")))),
        _ => None,
    }
}

pub(crate) fn unknown_method(method: &str) -> Value {
    json!({ "code": -32601, "message": format!("the method {method} does not exist/is not available") })
}

/// A client of these nodes, with short pauses.
pub(crate) fn client(nodes: &[&Node]) -> Rpc {
    client_of(&nodes.iter().map(|node| node.url.as_str()).collect::<Vec<_>>(), |_| {})
}

/// A client of these URLs. It waits for long: a machine that stalls is no node that hangs.
pub(crate) fn client_of(urls: &[&str], change: impl FnOnce(&mut RpcConfig)) -> Rpc {
    let urls = urls.iter().map(|url| EndpointUrl::parse(url).expect("a URL")).collect();
    let mut config = RpcConfig::new("test", urls);
    config.min_back_off = Duration::from_millis(10);
    config.max_back_off = Duration::from_millis(50);
    config.timeout = Duration::from_secs(60);
    config.send_timeout = Duration::from_secs(60);
    change(&mut config);
    Rpc::new(config).expect("a client")
}

/// For a client of nodes that hang, where nobody has to answer in time.
pub(crate) fn impatient(config: &mut RpcConfig) {
    config.timeout = Duration::from_millis(500);
    config.send_timeout = Duration::from_millis(500);
}

/// A URL at which nothing listens: a port below those that are handed out.
pub(crate) const DEAD_URL: &str = "http://127.0.0.1:1/secret-path";

/// Waits until the condition holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A block as an Arbitrum node states it.
pub(crate) fn block(number: u64) -> Value {
    json!({
        "number": format!("{number:#x}"),
        "hash": hash(number),
        "parentHash": hash(number.saturating_sub(1)),
        "timestamp": "0x6553f100",
        "baseFeePerGas": "0x989680",
        "difficulty": "0x1",
        "extraData": "0x56c3d0d3aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "gasLimit": "0x4000000000000",
        "gasUsed": "0x5208",
        "l1BlockNumber": "0x1406f40",
        "logsBloom": format!("0x{}", "00".repeat(256)),
        "miner": "0xa4b000000000000000000073657175656e636572",
        "mixHash": "0x000000000001a2b300000000014006f4000000000000003d0000000000000000",
        "nonce": "0x00000000001c8e10",
        "receiptsRoot": hash(1),
        "sendCount": "0x1a2b3",
        "sendRoot": "0x56c3d0d3aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "sha3Uncles": "0x1dcc4de8dec75d7aab85b567b6ccd41ad312451b948a7413f0a142fd40d49347",
        "size": "0x3a1",
        "stateRoot": hash(2),
        "transactions": [transaction_hash(number, 0), transaction_hash(number, 1)],
        "transactionsRoot": hash(3),
        "uncles": [],
    })
}

pub(crate) fn hash(number: u64) -> String {
    format!("0x{number:064x}")
}

pub(crate) fn transaction_hash(block: u64, index: u64) -> String {
    format!("0x{:064x}", (block << 16) + index + 1)
}

/// A log as a node states it.
pub(crate) fn log(block: u64, index: u64) -> Value {
    json!({
        "address": "0x00000000000000000000000000000000000000d1",
        "topics": [hash(9)],
        "data": "0x0102",
        "blockNumber": format!("{block:#x}"),
        "blockHash": hash(block),
        "blockTimestamp": "0x6553f100",
        "transactionHash": transaction_hash(block, 1),
        "transactionIndex": "0x1",
        "logIndex": format!("{index:#x}"),
        "removed": false,
    })
}

/// A receipt as an Arbitrum node states it; index 0 is the block's internal transaction.
pub(crate) fn receipt(block: u64, index: u64) -> Value {
    json!({
        "blockHash": hash(block),
        "blockNumber": format!("{block:#x}"),
        "contractAddress": null,
        "cumulativeGasUsed": "0x5208",
        "effectiveGasPrice": "0x989680",
        "from": "0x00000000000000000000000000000000000a4b05",
        "gasUsed": "0x5208",
        "gasUsedForL1": "0x2a",
        "l1BlockNumber": "0x1406f40",
        "logs": if index == 1 { vec![log(block, 0)] } else { Vec::new() },
        "logsBloom": format!("0x{}", "00".repeat(256)),
        "status": "0x1",
        "timeboosted": false,
        "multiGasUsed": { "computation": "0x1", "storageGrowth": "0x2" },
        "to": "0x00000000000000000000000000000000000000d1",
        "transactionHash": transaction_hash(block, index),
        "transactionIndex": format!("{index:#x}"),
        "type": if index == 0 { "0x6a" } else { "0x2" },
    })
}
