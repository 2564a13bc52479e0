//! The control endpoint: reads the record of calls and changes what the node does, while it runs. Plain HTTP with JSON.
//!
//! | route | what it does |
//! |---|---|
//! | `GET /` | the node: version, mode, party number, signer, contexts and epochs |
//! | `GET /calls` | every call: by RPC and by request id, with the answers by status code |
//! | `GET /calls/{id}` | the calls of one request id |
//! | `DELETE /calls` | forgets the record |
//! | `GET /faults` | the injected failures in force |
//! | `POST /faults` | injects a failure, or a list of them ([`super::Fault`]) |
//! | `DELETE /faults` | removes all failures |
//! | `GET /switches` | plaintext table, failing handles and ids, held operations, latencies |
//! | `PUT`, `DELETE /plaintexts/{handle}` | sets a plaintext (body `{"plaintext": "0x…"}`, little-endian), or removes it |
//! | `PUT`, `DELETE /failing-handles/{handle}` | decryptions of the handle fail, or not |
//! | `PUT`, `DELETE /failing-ids/{id}` | the operation with the id fails (with the text of the body `{"why": "…"}`, if there is one), or not |
//! | `PUT`, `DELETE /held/{operation}` | operations of a kind do not finish until released: `public-decryption`, `user-decryption`, `preprocessing`, `key-generation`, `crs-generation`, `prss-setup`, `resharing`, `context-creation`, `epoch-creation`, `destruction` |
//! | `PATCH /latency-ms` | changes latencies; keys as in the configuration |
//! | `PUT /health/{status}` | what `grpc.health.v1` says: `serving`, `not-serving`, or `own` for what the node would |
//! | `PUT`, `DELETE /recovery` | takes the signing key away, or gives it back |
//! | `GET /stores` | entries by store and state, and the free tokens |
//! | `POST /restart` | restarts in place: connections break, decryptions, preprocessings and results of epochs are forgotten |
//!
//! Changes answer 204 once they are in force; wrong input answers 400 with a text that says what is wrong.

use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, patch, post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;

use super::calls::{CallRecord, CallsByRpc};
use super::client::{NodeDescription, StoreCounts, Stores, SwitchPositions};
use super::config::{Latencies, parse_bytes, parse_handle, parse_id};
use super::engine::{Engine, failure_of, lock};
use super::error::SimulatorError;
use super::faults::Fault;
use super::operation::Operation;
use super::store::{self, Store};
use super::vault::Shelf;

type Node = State<Arc<Engine>>;
type Wrong = (StatusCode, String);
type Changed = Result<StatusCode, Wrong>;

const DONE: Changed = Ok(StatusCode::NO_CONTENT);

pub(super) async fn serve(
    engine: Arc<Engine>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), SimulatorError> {
    let routes = Router::new()
        .route("/", get(node))
        .route("/calls", get(calls).delete(forget_calls))
        .route("/calls/{id}", get(calls_of_id))
        .route("/faults", get(faults).post(add_faults).delete(remove_faults))
        .route("/switches", get(switches))
        .route("/plaintexts/{handle}", put(set_plaintext).delete(remove_plaintext))
        .route("/failing-handles/{handle}", put(fail_handle).delete(mend_handle))
        .route("/failing-ids/{id}", put(fail_id).delete(mend_id))
        .route("/held/{operation}", put(hold).delete(release))
        .route("/latency-ms", patch(set_latency))
        .route("/health/{status}", put(set_health))
        .route("/recovery", put(begin_recovery).delete(end_recovery))
        .route("/stores", get(stores))
        .route("/restart", post(restart))
        .with_state(engine);
    let stop = async move { shutdown.cancelled().await };
    let served = axum::serve(listener, routes).with_graceful_shutdown(stop).await;
    served.map_err(|error| SimulatorError::Server(error.to_string()))
}

fn wrong(why: impl ToString) -> Wrong {
    (StatusCode::BAD_REQUEST, why.to_string())
}

async fn node(State(engine): Node) -> Json<NodeDescription> {
    let config = &engine.config;
    let texts = |shelf| engine.vault.ids(shelf).iter().map(ToString::to_string).collect();
    Json(NodeDescription {
        version: config.version,
        mode: config.mode,
        party_id: config.party_id,
        nodes: config.nodes,
        degree: config.degree,
        contexts: texts(Shelf::Contexts),
        epochs: texts(Shelf::Epochs),
        signer: engine.signer(),
    })
}

async fn calls(State(engine): Node) -> Json<CallRecord> {
    Json(engine.calls.read())
}

async fn calls_of_id(State(engine): Node, Path(id): Path<String>) -> Result<Json<CallsByRpc>, Wrong> {
    let id = parse_id(&id).map_err(wrong)?;
    Ok(Json(engine.calls.of_id(&id.to_string())))
}

async fn forget_calls(State(engine): Node) -> Changed {
    engine.calls.clear();
    DONE
}

async fn faults(State(engine): Node) -> Json<Vec<Fault>> {
    Json(engine.faults.list())
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(Fault),
    More(Vec<Fault>),
}

async fn add_faults(State(engine): Node, Json(faults): Json<OneOrMore>) -> Changed {
    let faults = match faults {
        OneOrMore::One(fault) => vec![fault],
        OneOrMore::More(faults) => faults,
    };
    let mistakes: Vec<_> = faults.iter().flat_map(Fault::mistakes).collect();
    if !mistakes.is_empty() {
        return Err(wrong(mistakes.join("\n")));
    }
    engine.faults.add(faults);
    DONE
}

async fn remove_faults(State(engine): Node) -> Changed {
    engine.faults.clear();
    DONE
}

async fn switches(State(engine): Node) -> Json<SwitchPositions> {
    let held = engine.held.borrow().clone();
    let switches = lock(&engine.switches);
    let hex = |bytes: &Vec<u8>| format!("0x{}", hex::encode(bytes));
    Json(SwitchPositions {
        plaintexts: switches.plaintexts.iter().map(|(handle, bytes)| (*handle, hex(bytes))).collect(),
        failing_handles: switches.failing_handles.clone(),
        failing_ids: switches.failing_ids.keys().map(ToString::to_string).collect(),
        held,
        latency_ms: switches.latency_ms,
        recovery: switches.recovery,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlaintextBody {
    plaintext: String,
}

async fn set_plaintext(State(engine): Node, Path(handle): Path<String>, Json(body): Json<PlaintextBody>) -> Changed {
    let handle = parse_handle(&handle).map_err(wrong)?;
    let bytes = parse_bytes(&body.plaintext).map_err(wrong)?;
    lock(&engine.switches).plaintexts.insert(handle, bytes);
    DONE
}

async fn remove_plaintext(State(engine): Node, Path(handle): Path<String>) -> Changed {
    lock(&engine.switches).plaintexts.remove(&parse_handle(&handle).map_err(wrong)?);
    DONE
}

async fn fail_handle(State(engine): Node, Path(handle): Path<String>) -> Changed {
    lock(&engine.switches).failing_handles.insert(parse_handle(&handle).map_err(wrong)?);
    DONE
}

async fn mend_handle(State(engine): Node, Path(handle): Path<String>) -> Changed {
    lock(&engine.switches).failing_handles.remove(&parse_handle(&handle).map_err(wrong)?);
    DONE
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FailureBody {
    why: String,
}

async fn fail_id(State(engine): Node, Path(id): Path<String>, body: Option<Json<FailureBody>>) -> Changed {
    let id = parse_id(&id).map_err(wrong)?;
    let why = body.map_or_else(|| failure_of(id), |Json(body)| body.why);
    lock(&engine.switches).failing_ids.insert(id, why);
    DONE
}

async fn mend_id(State(engine): Node, Path(id): Path<String>) -> Changed {
    lock(&engine.switches).failing_ids.remove(&parse_id(&id).map_err(wrong)?);
    DONE
}

async fn hold(State(engine): Node, Path(operation): Path<Operation>) -> Changed {
    engine.held.send_if_modified(|held| held.insert(operation));
    DONE
}

async fn release(State(engine): Node, Path(operation): Path<Operation>) -> Changed {
    engine.held.send_if_modified(|held| held.remove(&operation));
    DONE
}

async fn set_latency(State(engine): Node, Json(changes): Json<serde_json::Map<String, Value>>) -> Changed {
    let mut switches = lock(&engine.switches);
    let mut latency = serde_json::to_value(switches.latency_ms).map_err(wrong)?;
    for (key, value) in changes {
        latency[key] = value;
    }
    let latency: Latencies = serde_json::from_value(latency).map_err(wrong)?;
    if let Some(mistake) = latency.mistakes() {
        return Err(wrong(mistake));
    }
    switches.latency_ms = latency;
    DONE
}

async fn set_health(State(engine): Node, Path(status): Path<String>) -> Changed {
    match status.as_str() {
        "serving" => engine.report_health(ServingStatus::Serving).await,
        "not-serving" => engine.report_health(ServingStatus::NotServing).await,
        "own" => engine.report_own_health().await,
        other => return Err(wrong(format!("{other}: neither serving nor not-serving nor own"))),
    }
    DONE
}

async fn begin_recovery(State(engine): Node) -> Changed {
    lock(&engine.switches).recovery = true;
    DONE
}

async fn end_recovery(State(engine): Node) -> Changed {
    lock(&engine.switches).recovery = false;
    DONE
}

async fn stores(State(engine): Node) -> Json<Stores> {
    let life = engine.life();
    Json(Stores {
        public_decryptions: counts(&life.public_decryptions),
        user_decryptions: counts(&life.user_decryptions),
        preprocessings: counts(&life.preprocessings),
        keys: counts(&life.keys),
        crs: counts(&life.crs),
        resharings: counts(&life.resharings),
        epochs: counts(&life.epochs),
        free_tokens: life.free_tokens(),
    })
}

fn counts<T>(store: &Mutex<Store<T>>) -> StoreCounts {
    let mut counts = StoreCounts::default();
    for (_, state) in lock(store).list() {
        match state {
            store::State::Pending => counts.pending += 1,
            store::State::Done(_) => counts.done += 1,
            store::State::Failed(_) => counts.failed += 1,
            store::State::Deleted => counts.deleted += 1,
        }
    }
    counts
}

async fn restart(State(engine): Node) -> Changed {
    engine.restart().await;
    DONE
}
