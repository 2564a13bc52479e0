//! A node made of a table, for tests: real HTTP and JSON-RPC framing, and only the calls that views need.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use alloy::primitives::{Address, B256, Bytes, U256, b256};
use alloy::sol_types::{SolEvent, SolValue};
use axum::Router;
use axum::body::Bytes as Body;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use kms_chain::contracts::{Decryption, SnsCiphertextMaterial};
use kms_chain::rpc::{EndpointUrl, Rpc, RpcConfig};
use kms_schemas::identity::Kind;
use kms_schemas::record::{CiphertextMaterial, RawLog, Request, RequestBody};
use serde_json::{Value, json};

/// Answers to calls that look alike.
type Answer = Arc<dyn Fn(&[u8]) -> Result<Vec<u8>, Vec<u8>> + Send + Sync>;

/// Answers by contract, or none for every contract, and function.
type Answers = HashMap<(Option<Address>, [u8; 4]), Answer>;

/// A node of chain 7. What was not told answers nothing to a call, as an address without code does.
#[derive(Clone)]
pub(crate) struct MockChain {
    url: String,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    answers: Mutex<Answers>,
    broken: Mutex<bool>,
    refuses_calls: Mutex<bool>,
    posts: Mutex<Vec<Vec<Value>>>,
    logs: Mutex<Vec<Value>>,
    /// Functions whose calls end with an error object of the node's.
    failing: Mutex<HashMap<[u8; 4], Value>>,
    /// The block under every tag; none is 100.
    tagged: Mutex<Option<u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MockChain {
    pub(crate) async fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let app = Router::new().fallback(post(serve)).with_state(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { url, shared }
    }

    /// A client of this node, with short pauses and much patience: a machine that stalls is no outage.
    pub(crate) fn rpc(&self) -> Rpc {
        let mut config = RpcConfig::new("mock", vec![EndpointUrl::parse(&self.url).expect("a URL")]);
        config.min_back_off = Duration::from_millis(1);
        config.max_back_off = Duration::from_millis(5);
        config.timeout = Duration::from_secs(60);
        Rpc::new(config).expect("a client")
    }

    /// Every call of this function answers so.
    pub(crate) fn on_selector(&self, selector: [u8; 4], answer: Vec<u8>) {
        self.on(selector, move |_| Ok(answer.clone()));
    }

    /// A call of this function answers so, given its arguments; an error is a revert with this data.
    pub(crate) fn on(
        &self,
        selector: [u8; 4],
        answer: impl Fn(&[u8]) -> Result<Vec<u8>, Vec<u8>> + Send + Sync + 'static,
    ) {
        lock(&self.shared.answers).insert((None, selector), Arc::new(answer));
    }

    /// A call of this function ends with this error of the node's, without data.
    pub(crate) fn fails(&self, selector: [u8; 4], code: i64, message: &str) {
        lock(&self.shared.failing).insert(selector, json!({ "code": code, "message": message }));
    }

    /// A call of this function of this contract answers so. The contract then has code.
    pub(crate) fn on_contract(&self, contract: Address, selector: [u8; 4], answer: Vec<u8>) {
        lock(&self.shared.answers).insert((Some(contract), selector), Arc::new(move |_| Ok(answer.clone())));
    }

    /// This block holds one more log.
    pub(crate) fn log(&self, block: u64, log: &RawLog) {
        let mut logs = lock(&self.shared.logs);
        let log = json!({
            "address": log.address,
            "topics": log.topics,
            "data": log.data,
            "blockNumber": format!("{block:#x}"),
            "blockHash": B256::from(U256::from(block)),
            "transactionHash": B256::from(U256::from(1)),
            "transactionIndex": "0x1",
            "logIndex": format!("{:#x}", logs.len()),
            "removed": false,
        });
        logs.push(log);
    }

    /// The block that is final, and every other that is asked for by a tag.
    pub(crate) fn is_final(&self, block: u64) {
        *lock(&self.shared.tagged) = Some(block);
    }

    /// Answers nothing but errors, or recovers.
    pub(crate) fn break_down(&self, broken: bool) {
        *lock(&self.shared.broken) = broken;
    }

    /// Answers every call of a contract with an error object, as a node does that lacks the block's state, or stops doing so.
    pub(crate) fn refuse_calls(&self, refuses: bool) {
        *lock(&self.shared.refuses_calls) = refuses;
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// HTTP requests so far.
    pub(crate) fn posts(&self) -> usize {
        lock(&self.shared.posts).len()
    }

    /// HTTP requests so far that hold a call of this method.
    pub(crate) fn posts_with(&self, method: &str) -> usize {
        lock(&self.shared.posts).iter().filter(|calls| calls.iter().any(|call| call["method"] == method)).count()
    }

    /// Every `eth_call` so far: its first parameter.
    pub(crate) fn calls(&self) -> Vec<Value> {
        let posts = lock(&self.shared.posts);
        let calls = posts.iter().flatten().filter(|call| call["method"] == "eth_call");
        calls.map(|call| call["params"][0].clone()).collect()
    }

    /// The block of every `eth_call` so far.
    pub(crate) fn blocks_asked(&self) -> Vec<Value> {
        let posts = lock(&self.shared.posts);
        posts
            .iter()
            .flatten()
            .filter(|call| call["method"] == "eth_call")
            .map(|call| call["params"][1].clone())
            .collect()
    }
}

async fn serve(State(shared): State<Arc<Shared>>, body: Body) -> Response {
    let request: Value = serde_json::from_slice(&body).expect("the client sends JSON");
    let calls = match &request {
        Value::Array(calls) => calls.clone(),
        call => vec![call.clone()],
    };
    lock(&shared.posts).push(calls.clone());
    if *lock(&shared.broken) {
        return (StatusCode::BAD_GATEWAY, "down").into_response();
    }
    let answers: Vec<Value> = calls.iter().map(|call| answer(&shared, call)).collect();
    let whole = if request.is_array() { Value::Array(answers) } else { answers[0].clone() };
    whole.to_string().into_response()
}

fn answer(shared: &Shared, call: &Value) -> Value {
    let result = match call["method"].as_str().expect("a method") {
        "eth_chainId" => Ok(json!("0x7")),
        "eth_blockNumber" => Ok(json!("0x64")),
        "eth_getCode" => {
            let of: Address = serde_json::from_value(call["params"][0].clone()).expect("an address");
            let has_code = lock(&shared.answers).keys().any(|(contract, _)| *contract == Some(of));
            Ok(json!(if has_code { "0x6001" } else { "0x" }))
        }
        "eth_call" if *lock(&shared.refuses_calls) => Err(json!({ "code": -32603, "message": "header not found" })),
        "eth_call" => {
            let data: Bytes = serde_json::from_value(call["params"][0]["data"].clone()).expect("calldata");
            let (selector, arguments) = data.split_first_chunk::<4>().expect("a selector");
            let failing = lock(&shared.failing).get(selector).cloned();
            let to: Option<Address> = serde_json::from_value(call["params"][0]["to"].clone()).expect("a contract");
            let answer = {
                let answers = lock(&shared.answers);
                answers.get(&(to, *selector)).or_else(|| answers.get(&(None, *selector))).cloned()
            };
            match answer.map_or(Ok(Vec::new()), |answer| answer(arguments)) {
                _ if failing.is_some() => Err(failing.unwrap_or_default()),
                Ok(bytes) => Ok(json!(Bytes::from(bytes))),
                Err(data) => Err(json!({ "code": 3, "message": "execution reverted", "data": Bytes::from(data) })),
            }
        }
        "eth_getBlockByNumber" => {
            let tagged = json!(format!("{:#x}", lock(&shared.tagged).unwrap_or(100)));
            let asked = &call["params"][0];
            let is_number = asked.as_str().is_some_and(|text| text.starts_with("0x"));
            Ok(block(if is_number { asked } else { &tagged }))
        }
        "eth_getLogs" => {
            let asked = &call["params"][0];
            let holds = |log: &&Value| {
                let named = |list: &Value, one: &Value| list.as_array().is_some_and(|list| list.contains(one));
                log["blockNumber"] == asked["fromBlock"]
                    && named(&asked["address"], &log["address"])
                    && named(&asked["topics"][0], &log["topics"][0])
            };
            Ok(json!(lock(&shared.logs).iter().filter(holds).collect::<Vec<_>>()))
        }
        other => Err(json!({ "code": -32601, "message": format!("the method {other} does not exist") })),
    };
    match result {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": call["id"], "result": result }),
        Err(error) => json!({ "jsonrpc": "2.0", "id": call["id"], "error": error }),
    }
}

/// A block without anything in it.
fn block(number: &Value) -> Value {
    let hash: B256 = number.as_str().and_then(|text| text.parse::<U256>().ok()).unwrap_or_default().into();
    json!({
        "number": number,
        "hash": hash,
        "parentHash": B256::ZERO,
        "timestamp": "0x6553f100",
        "difficulty": "0x0",
        "extraData": "0x",
        "gasLimit": "0x1",
        "gasUsed": "0x0",
        "logsBloom": format!("0x{}", "00".repeat(256)),
        "miner": Address::ZERO,
        "mixHash": B256::ZERO,
        "nonce": "0x0000000000000000",
        "receiptsRoot": B256::ZERO,
        "sha3Uncles": B256::ZERO,
        "stateRoot": B256::ZERO,
        "transactions": [],
        "transactionsRoot": B256::ZERO,
        "uncles": [],
    })
}

/// A word as a contract returns it.
pub(crate) fn word(value: U256) -> Vec<u8> {
    value.to_be_bytes::<32>().to_vec()
}

/// A public decryption of generation (a) on chain 7, as ingest would write it. No chain holds it.
pub(crate) fn request() -> Request {
    let id = U256::from(9);
    let handle = b256!("a853324e0317eb48f843ac3706feccb257256bac4c0000000000000030390500");
    let material = SnsCiphertextMaterial {
        ctHandle: handle,
        keyId: U256::from(4),
        snsCiphertextDigest: B256::repeat_byte(3),
        coprocessorTxSenderAddresses: Vec::new(),
    };
    Request {
        source: "gateway".to_owned(),
        seq: 0,
        previous_hash: B256::ZERO,
        chain_id: 7,
        kind: Kind::PublicDecryption,
        id: id.into(),
        block_number: 50,
        block_hash: B256::repeat_byte(0xb1),
        block_timestamp: 1_700_000_000,
        transaction_hash: B256::repeat_byte(0xa1),
        log_index: 0,
        log: RawLog {
            address: Address::repeat_byte(0xd1),
            topics: vec![Decryption::PublicDecryptionRequest::SIGNATURE_HASH, B256::from(id)],
            data: (vec![material], Bytes::new()).abi_encode_params().into(),
        },
        body: RequestBody::PublicDecryption {
            materials: vec![CiphertextMaterial {
                handle,
                key_id: U256::from(4).into(),
                digest: B256::repeat_byte(3),
                coprocessors: Vec::new(),
            }],
            extra_data: Bytes::new(),
        },
    }
}
