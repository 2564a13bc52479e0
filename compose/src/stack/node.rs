//! One KMS node: its KMS Core simulator and its connector.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use alloy::primitives::Address;
use alloy::signers::local::PrivateKeySigner;

use super::service::{Service, ServiceKind};
use crate::supervise::Supervised;

/// The keys of a node.
#[derive(Clone, Debug)]
pub struct NodeKeys {
    /// The key in its KMS Core, which signs its answers.
    pub signer: PrivateKeySigner,
    /// The account that sends them.
    pub sender: PrivateKeySigner,
}

impl NodeKeys {
    /// Development keys of the node of that number.
    pub(crate) fn of(number: usize) -> Self {
        Self {
            signer: crate::keys::development_key(&format!("node {number} signer")),
            sender: crate::keys::development_key(&format!("node {number} sender")),
        }
    }
}

/// A KMS node with its connector.
#[derive(Debug)]
pub struct Node {
    pub(super) number: usize,
    pub(super) prefix: String,
    pub(super) keys: NodeKeys,
    pub(super) core: Core,
    pub(super) wallet: PathBuf,
    pub(super) services: [Service; 3],
}

/// Its KMS Core simulator.
#[derive(Debug)]
pub struct Core {
    pub(super) process: Supervised,
    pub(super) grpc: u16,
    pub(super) control: u16,
}

impl Core {
    /// Its gRPC endpoint.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.grpc)
    }

    /// Address of its control endpoint, over which tests change its behaviour.
    pub fn control(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.control).into()
    }

    /// Its process, to be killed, paused and started again by tests; follow with [`Core::wait_ready`].
    pub fn process(&self) -> &Supervised {
        &self.process
    }

    /// Waits until it accepts connections.
    ///
    /// # Errors
    /// [`crate::StackError::Died`] and [`crate::StackError::NotReady`] with the end of its log.
    pub async fn wait_ready(&self) -> Result<(), crate::StackError> {
        let limit = std::time::Duration::from_secs(90);
        self.process
            .ready(limit, async || {
                for port in [self.grpc, self.control] {
                    let connected = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await;
                    connected.map_err(|error| format!("port {port}: {error}"))?;
                }
                Ok(())
            })
            .await
    }
}

impl Node {
    /// Its number, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// What its topics' names begin with.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Its keys. Development keys only.
    pub fn keys(&self) -> &NodeKeys {
        &self.keys
    }

    /// The address that its answers' signatures recover to.
    pub fn signer(&self) -> Address {
        self.keys.signer.address()
    }

    /// The account that sends its answers.
    pub fn sender(&self) -> Address {
        self.keys.sender.address()
    }

    /// Its KMS Core simulator.
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// Its three services, in the order of the data.
    pub fn services(&self) -> &[Service; 3] {
        &self.services
    }

    /// Its services' processes and its core's.
    pub fn processes(&self) -> impl Iterator<Item = &Supervised> {
        self.services.iter().map(Service::process).chain([self.core.process()])
    }

    /// One of its services.
    pub fn service(&self, kind: ServiceKind) -> &Service {
        &self.services[kind as usize]
    }

    /// Its ingest.
    pub fn ingest(&self) -> &Service {
        self.service(ServiceKind::Ingest)
    }

    /// Its processor.
    pub fn processor(&self) -> &Service {
        self.service(ServiceKind::Processor)
    }

    /// Its emitter.
    pub fn emitter(&self) -> &Service {
        self.service(ServiceKind::Emitter)
    }
}
