//! A client of the control endpoint, for tests and for the stack.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use alloy::primitives::{Address, B256};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::calls::{CallRecord, CallsByRpc};
use super::config::{Latencies, Mode};
use super::faults::Fault;
use super::operation::Operation;
use super::version::CoreVersion;
use crate::http::http_client;

/// Why the control endpoint did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// It was not reached, or answered something else than it should.
    #[error("the simulator's control endpoint: {0}")]
    Transport(#[from] reqwest::Error),
    /// It refused.
    #[error("the simulator's control endpoint refused: {0}")]
    Refused(String),
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct NodeDescription {
    /// The version it takes on.
    pub version: CoreVersion,
    /// Centralized or threshold.
    pub mode: Mode,
    /// Its number, from 1.
    pub party_id: u32,
    /// Nodes there are.
    pub nodes: u32,
    /// Degree of the sharing.
    pub degree: u32,
    /// Contexts it knows, 64 hex digits each.
    pub contexts: Vec<String>,
    /// Epochs it knows, 64 hex digits each.
    pub epochs: Vec<String>,
    /// The address its signatures recover to.
    pub signer: Address,
}

/// Entries of one store by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct StoreCounts {
    /// Running, or stuck.
    pub pending: usize,
    /// Finished well.
    pub done: usize,
    /// Finished with an error.
    pub failed: usize,
    /// Removed, with an id that cannot be used again.
    pub deleted: usize,
}

/// Entries of every store, and the tokens that no operation holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Stores {
    /// Public decryptions.
    pub public_decryptions: StoreCounts,
    /// User decryptions.
    pub user_decryptions: StoreCounts,
    /// Preprocessings that were not consumed.
    pub preprocessings: StoreCounts,
    /// Key generations.
    pub keys: StoreCounts,
    /// CRS generations.
    pub crs: StoreCounts,
    /// Resharings.
    pub resharings: StoreCounts,
    /// Creations of epochs.
    pub epochs: StoreCounts,
    /// Tokens left in the bucket.
    pub free_tokens: usize,
}

/// All switches.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct SwitchPositions {
    /// Plaintexts by handle, as hex of the little-endian bytes.
    pub plaintexts: BTreeMap<B256, String>,
    /// Handles whose decryption fails.
    pub failing_handles: BTreeSet<B256>,
    /// Operations that fail.
    pub failing_ids: BTreeSet<String>,
    /// Kinds of operation that do not finish.
    pub held: BTreeSet<Operation>,
    /// Latencies in force.
    pub latency_ms: Latencies,
    /// Whether there is no signing key.
    pub recovery: bool,
}

/// What `grpc.health.v1` is made to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportedHealth {
    /// SERVING.
    Serving,
    /// NOT_SERVING.
    NotServing,
    /// What the node would say by itself.
    Own,
}

/// See the module; the routes are described at [`super::control`].
#[derive(Clone, Debug)]
pub struct ControlClient {
    base: String,
    http: reqwest::Client,
}

type Done = Result<(), ControlError>;

impl ControlClient {
    /// A client of the control endpoint at this address. Nothing is sent yet.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self::at(&format!("http://{address}"))
    }

    /// A client of the control endpoint at this URL, which may name a host. Nothing is sent yet.
    #[must_use]
    pub fn at(url: &str) -> Self {
        Self { base: url.trim_end_matches('/').to_owned(), http: http_client() }
    }

    /// What the node says of itself.
    ///
    /// # Errors
    /// As [`ControlError`]; so with every call below.
    pub async fn node(&self) -> Result<NodeDescription, ControlError> {
        self.get("/").await
    }

    /// Every call so far.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn calls(&self) -> Result<CallRecord, ControlError> {
        self.get("/calls").await
    }

    /// The calls for one request id (64 hex digits).
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn calls_of(&self, id: &str) -> Result<CallsByRpc, ControlError> {
        self.get(&format!("/calls/{id}")).await
    }

    /// Forgets every call.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn forget_calls(&self) -> Done {
        self.change(Method::DELETE, "/calls", None).await
    }

    /// Injects a failure.
    ///
    /// # Errors
    /// As [`ControlError`]; a fault with mistakes is refused.
    pub async fn inject(&self, fault: &Fault) -> Done {
        self.change(Method::POST, "/faults", Some(json!(fault))).await
    }

    /// The injected failures in force.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn faults(&self) -> Result<Vec<Fault>, ControlError> {
        self.get("/faults").await
    }

    /// Removes every injected failure.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn remove_faults(&self) -> Done {
        self.change(Method::DELETE, "/faults", None).await
    }

    /// All switches.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn switches(&self) -> Result<SwitchPositions, ControlError> {
        self.get("/switches").await
    }

    /// Sets the plaintext of a handle: little-endian bytes.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn set_plaintext(&self, handle: B256, bytes: &[u8]) -> Done {
        let body = json!({ "plaintext": format!("0x{}", hex::encode(bytes)) });
        self.change(Method::PUT, &format!("/plaintexts/{handle}"), Some(body)).await
    }

    /// Removes the plaintext of a handle; it gets the derived one again.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn remove_plaintext(&self, handle: B256) -> Done {
        self.change(Method::DELETE, &format!("/plaintexts/{handle}"), None).await
    }

    /// Lets decryptions of a handle fail.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn fail_handle(&self, handle: B256) -> Done {
        self.change(Method::PUT, &format!("/failing-handles/{handle}"), None).await
    }

    /// Lets decryptions of a handle succeed again.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn mend_handle(&self, handle: B256) -> Done {
        self.change(Method::DELETE, &format!("/failing-handles/{handle}"), None).await
    }

    /// Lets the operation with this id (64 hex digits) fail.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn fail_id(&self, id: &str) -> Done {
        self.change(Method::PUT, &format!("/failing-ids/{id}"), None).await
    }

    /// Lets the operation with this id (64 hex digits) fail with a text of its own. From 0.13.20 on a text with "abort" in it
    /// makes the failure ABORTED.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn fail_id_with(&self, id: &str, why: &str) -> Done {
        self.change(Method::PUT, &format!("/failing-ids/{id}"), Some(json!({ "why": why }))).await
    }

    /// Lets the operation with this id succeed again.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn mend_id(&self, id: &str) -> Done {
        self.change(Method::DELETE, &format!("/failing-ids/{id}"), None).await
    }

    /// Lets no operation of a kind finish until it is released.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn hold(&self, operation: Operation) -> Done {
        self.change(Method::PUT, &format!("/held/{operation}"), None).await
    }

    /// Lets operations of a kind finish.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn release(&self, operation: Operation) -> Done {
        self.change(Method::DELETE, &format!("/held/{operation}"), None).await
    }

    /// Replaces the latencies.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn set_latency_ms(&self, latencies: &Latencies) -> Done {
        self.change(Method::PATCH, "/latency-ms", Some(json!(latencies))).await
    }

    /// Makes `grpc.health.v1` say something.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn set_health(&self, health: ReportedHealth) -> Done {
        let status = match health {
            ReportedHealth::Serving => "serving",
            ReportedHealth::NotServing => "not-serving",
            ReportedHealth::Own => "own",
        };
        self.change(Method::PUT, &format!("/health/{status}"), None).await
    }

    /// Takes the signing key away, so that every start is refused with FAILED_PRECONDITION, or gives it back.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn set_recovery(&self, recovery: bool) -> Done {
        let method = if recovery { Method::PUT } else { Method::DELETE };
        self.change(method, "/recovery", None).await
    }

    /// What the stores hold.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn stores(&self) -> Result<Stores, ControlError> {
        self.get("/stores").await
    }

    /// Restarts the node in place: connections break; decryptions, preprocessings and results of epochs are forgotten; keys,
    /// CRSs, contexts and epochs stay.
    ///
    /// # Errors
    /// As [`ControlError`].
    pub async fn restart(&self) -> Done {
        self.change(Method::POST, "/restart", None).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ControlError> {
        let response = self.http.get(format!("{}{path}", self.base)).send().await?;
        Ok(accepted(response).await?.json().await?)
    }

    async fn change(&self, method: Method, path: &str, body: Option<serde_json::Value>) -> Done {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(&body);
        }
        accepted(request.send().await?).await.map(drop)
    }
}

async fn accepted(response: reqwest::Response) -> Result<reqwest::Response, ControlError> {
    if response.status().is_success() { Ok(response) } else { Err(ControlError::Refused(response.text().await?)) }
}
