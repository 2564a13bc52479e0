//! A node made of a function, for tests: real HTTP and JSON-RPC framing around whatever it answers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Json, State};
use axum::routing::post;
use kms_chain::rpc::{EndpointUrl, Rpc, RpcConfig};
use serde_json::{Value, json};

/// What a call comes to: a result, or a JSON-RPC error.
pub(crate) type Answered = Result<Value, Value>;

type Answers = Arc<dyn Fn(&str, &Value) -> Answered + Send + Sync>;

/// A client of a node that answers so.
pub(crate) async fn node(answers: impl Fn(&str, &Value) -> Answered + Send + Sync + 'static) -> Rpc {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answers: Answers = Arc::new(answers);
    let app = Router::new().fallback(post(serve)).with_state(answers);
    tokio::spawn(async move { axum::serve(listener, app).await });
    Rpc::new(RpcConfig::new("node", vec![EndpointUrl::parse(&url).unwrap()])).unwrap()
}

/// A JSON-RPC error as nodes put it.
pub(crate) fn error(code: i64, message: &str) -> Answered {
    Err(json!({ "code": code, "message": message }))
}

async fn serve(State(answers): State<Answers>, Json(request): Json<Value>) -> Json<Value> {
    let answer = |call: &Value| {
        let answered = answers(call["method"].as_str().unwrap_or_default(), &call["params"]);
        let (name, value) = match answered {
            Ok(result) => ("result", result),
            Err(error) => ("error", error),
        };
        json!({ "jsonrpc": "2.0", "id": call["id"], name: value })
    };
    Json(match &request {
        Value::Array(calls) => calls.iter().map(answer).collect(),
        call => answer(call),
    })
}
