//! A JSON-RPC proxy in front of a node, which may answer some calls itself.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What becomes of a call. The method and its parameters are given, and a way to ask the node.
pub(super) type Answer =
    dyn for<'a> Fn(&'a Node, &'a str, &'a Value) -> futures::future::BoxFuture<'a, Reply> + Send + Sync;

/// What becomes of a call.
pub(super) enum Reply {
    /// The node answers.
    PassOn,
    /// This result, in the node's place.
    Result(Value),
    /// This error, in the node's place.
    Error(i64, String),
    /// The connection breaks, without an answer to anything that came in the same request.
    Cut,
}

/// The node behind the proxy.
pub(super) struct Node {
    url: String,
    client: reqwest::Client,
}

impl Node {
    pub(super) async fn ask(&self, method: &str, params: Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.pass_on(&body).await.map(|mut said| said["result"].take()).unwrap_or_default()
    }

    /// The node's whole answer; none of a node that does not answer.
    async fn pass_on(&self, body: &Value) -> Option<Value> {
        let response = self.client.post(&self.url).json(body).send().await.ok()?;
        response.json().await.ok()
    }

    /// Asks the node, and says what it says.
    pub(super) async fn say(&self, method: &str, params: &Value) -> Reply {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let Some(mut said) = self.pass_on(&body).await else { return Reply::Cut };
        match said.get("error") {
            Some(error) => Reply::Error(
                error["code"].as_i64().unwrap_or(-32_000),
                error["message"].as_str().unwrap_or_default().to_owned(),
            ),
            None => Reply::Result(said["result"].take()),
        }
    }
}

pub(super) struct NodeProxy {
    url: String,
    serving: JoinHandle<()>,
}

impl NodeProxy {
    pub(super) async fn start(node: &str, answer: Arc<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let node = Arc::new(Node { url: node.to_owned(), client: reqwest::Client::new() });
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, node.clone(), answer.clone()));
            }
        });
        Self { url, serving }
    }

    pub(super) fn url(&self) -> String {
        self.url.clone()
    }
}

impl Drop for NodeProxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(stream: TcpStream, node: Arc<Node>, answer: Arc<Answer>) {
    let mut stream = BufReader::new(stream);
    while let Some(body) = read_request(&mut stream).await {
        let asked: Value = serde_json::from_slice(&body).unwrap();
        let said = match asked {
            Value::Array(calls) => {
                let mut answers = Vec::with_capacity(calls.len());
                for call in calls {
                    answers.push(one(call, &node, &answer).await);
                }
                answers.into_iter().collect::<Option<Vec<Value>>>().map(Value::Array)
            }
            call => one(call, &node, &answer).await,
        };
        let Some(said) = said else { return };
        let text = said.to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", text.len());
        if stream.get_mut().write_all(format!("{head}{text}").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// None cuts the connection, once everything that came in the request has been seen to.
async fn one(call: Value, node: &Node, answer: &Arc<Answer>) -> Option<Value> {
    let (method, params) = (call["method"].as_str().unwrap_or_default(), &call["params"]);
    match answer(node, method, params).await {
        Reply::PassOn => node.pass_on(&call).await,
        Reply::Result(result) => Some(json!({"jsonrpc": "2.0", "id": call["id"], "result": result})),
        Reply::Error(code, message) => {
            Some(json!({"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": message}}))
        }
        Reply::Cut => None,
    }
}

/// The body of the next request on a connection; none when it is closed.
async fn read_request(stream: &mut BufReader<TcpStream>) -> Option<Vec<u8>> {
    let mut length = 0;
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(body)
}
