//! A JSON-RPC proxy in front of a node, which may answer some calls itself.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the proxy says to a call in the node's place; none passes it on. The method and its parameters are given, and a way to
/// ask the node.
pub(super) type Answer = dyn for<'a> Fn(&'a Node, &'a str, &'a Value) -> futures::future::BoxFuture<'a, Option<Result<Value, (i64, String)>>>
    + Send
    + Sync;

/// The node behind the proxy.
pub(super) struct Node {
    url: String,
    client: reqwest::Client,
}

impl Node {
    pub(super) async fn ask(&self, method: &str, params: Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.pass_on(&body).await["result"].take()
    }

    async fn pass_on(&self, body: &Value) -> Value {
        let response = self.client.post(&self.url).json(body).send().await.unwrap();
        response.json().await.unwrap()
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
                Value::Array(answers)
            }
            call => one(call, &node, &answer).await,
        };
        let text = said.to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", text.len());
        if stream.get_mut().write_all(format!("{head}{text}").as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn one(call: Value, node: &Node, answer: &Arc<Answer>) -> Value {
    let (method, params) = (call["method"].as_str().unwrap_or_default(), &call["params"]);
    match answer(node, method, params).await {
        Some(Ok(result)) => json!({"jsonrpc": "2.0", "id": call["id"], "result": result}),
        Some(Err((code, message))) => {
            json!({"jsonrpc": "2.0", "id": call["id"], "error": {"code": code, "message": message}})
        }
        None => node.pass_on(&call).await,
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
