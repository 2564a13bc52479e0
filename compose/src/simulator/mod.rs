//! A KMS Core for one KMS node that computes nothing: the real gRPC interface, the real status codes, limits and pitfalls, and
//! real signatures, over made-up plaintexts, shares and keys (`docs/protocol.md`, "Status codes of KMS Core").
//!
//! ```text
//!   gRPC :listen ──▶ service ──▶ calls (record) ──▶ faults ──▶ engine ──▶ stores ──▶ signing
//!                                                                │  ▲
//!   HTTP :control ──▶ control ── faults, switches, holds ────────┘  └── vault (keys, CRSs, contexts, epochs: survive a restart)
//! ```
//!
//! What it makes up is the same on every node that ought to agree ([`material`]): plaintexts follow from the handle, digests
//! from the id. What differs between nodes differs here: the signature, the shares, the party number.
//!
//! What it leaves out: it neither decrypts nor encrypts anything, so a user cannot open its shares; it talks to no other node,
//! so thresholds other than 3t + 1 nodes work; custodian backup answers UNIMPLEMENTED. What differs between KMS Core's
//! versions is told by [`CoreVersion`]; a simulator takes on one of them.
//!
//! Start with [`SimulatorConfig`] for what can be set, [`start`] for running it inside a test, and [`control`] and [`ControlClient`] for what can be
//! changed and read while it runs.

mod calls;
mod client;
mod condition;
mod config;
mod connection;
mod context;
pub mod control;
mod decryption;
mod engine;
mod error;
mod faults;
mod former;
mod generation;
mod introspection;
mod leases;
mod lifecycle;
pub mod material;
mod operation;
mod program;
mod refusal;
mod service;
mod signing;
mod store;
mod validation;
mod vault;
#[cfg(test)]
mod vectors;
mod version;

use std::net::SocketAddr;
use std::sync::Arc;

use alloy::primitives::Address;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use calls::{CallRecord, Calls, CallsByRpc};
pub use client::{ControlClient, ControlError, NodeDescription, ReportedHealth, StoreCounts, Stores, SwitchPositions};
pub use config::{EpochConfig, Latencies, Limits, Mode, PrivateKey, SimulatorConfig, Tokens, Waits};
pub use error::{CODES, SimulatorError};
pub use faults::{Effect, Fault, When};
pub use operation::Operation;
pub use program::main_from;
pub use version::{CoreVersion, KeyLayout};

use engine::Engine;

/// A simulator that answers on its ports.
#[derive(Debug)]
pub struct RunningSimulator {
    grpc: SocketAddr,
    control: Option<SocketAddr>,
    signer: Address,
    task: JoinHandle<Result<(), SimulatorError>>,
}

impl RunningSimulator {
    /// Where `CoreServiceEndpoint`, `MetaStoreStatusService` and `grpc.health.v1` answer.
    #[must_use]
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// The endpoint for clients, `http://host:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.grpc)
    }

    /// Where the control endpoint answers, if one is configured.
    #[must_use]
    pub fn control_address(&self) -> Option<SocketAddr> {
        self.control
    }

    /// The address that every result's signature recovers to.
    #[must_use]
    pub fn signer(&self) -> Address {
        self.signer
    }

    /// Waits until it was shut down and every port is closed.
    ///
    /// # Errors
    /// Where a server ended by itself.
    pub async fn stopped(self) -> Result<(), SimulatorError> {
        self.task.await.unwrap_or_else(|error| Err(SimulatorError::Server(error.to_string())))
    }
}

/// Binds the ports and serves until `shutdown`.
///
/// # Errors
/// Where the configuration is wrong, a port is taken, or the state directory cannot be used.
pub async fn start(config: SimulatorConfig, shutdown: CancellationToken) -> Result<RunningSimulator, SimulatorError> {
    let checked = config.check()?;
    let listener = bind(checked.listen).await?;
    let control = match checked.control {
        Some(address) => Some(bind(address).await?),
        None => None,
    };
    let engine = Arc::new(Engine::open(checked).await?);
    let running = RunningSimulator {
        grpc: local_address(&listener)?,
        control: control.as_ref().map(local_address).transpose()?,
        signer: engine.signer(),
        task: tokio::spawn(run(engine, listener, control, shutdown)),
    };
    Ok(running)
}

/// Runs a simulator from start to shutdown.
///
/// # Errors
/// As [`start`] and [`RunningSimulator::stopped`].
pub async fn serve(config: SimulatorConfig, shutdown: CancellationToken) -> Result<(), SimulatorError> {
    start(config, shutdown).await?.stopped().await
}

async fn run(
    engine: Arc<Engine>,
    listener: TcpListener,
    control: Option<TcpListener>,
    shutdown: CancellationToken,
) -> Result<(), SimulatorError> {
    // Either server's end is the end of both.
    let both = shutdown.child_token();
    let grpc = tokio::spawn(service::serve(Arc::clone(&engine), listener, both.clone()));
    let http = async {
        match control {
            Some(listener) => control::serve(Arc::clone(&engine), listener, both.clone()).await,
            None => {
                both.cancelled().await;
                Ok(())
            }
        }
    };
    let stop_both = both.clone().drop_guard();
    let grpc = async move {
        let ended = grpc.await.unwrap_or_else(|error| Err(SimulatorError::Server(error.to_string())));
        drop(stop_both);
        ended
    };
    let (grpc, http) = tokio::join!(grpc, http);
    grpc.and(http)
}

async fn bind(address: SocketAddr) -> Result<TcpListener, SimulatorError> {
    TcpListener::bind(address).await.map_err(|source| SimulatorError::Bind { address, source })
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, SimulatorError> {
    listener.local_addr().map_err(|error| SimulatorError::Server(error.to_string()))
}
