//! The development contracts hold what `docs/protocol.md` says of both generations: ABI, checks and their order, consensus, events,
//! reverts, gas. On a real chain.

#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "contracts/abi.rs"]
mod abi;
#[path = "contracts/answers.rs"]
mod answers;
#[path = "contracts/contexts.rs"]
mod contexts;
#[path = "contracts/deployment.rs"]
mod deployment;
#[path = "contracts/executor.rs"]
mod executor;
#[path = "contracts/gas.rs"]
mod gas;
#[path = "contracts/handles.rs"]
mod handles;
#[path = "contracts/keys.rs"]
mod keys;
#[path = "contracts/network.rs"]
mod network;
#[path = "contracts/refusals.rs"]
mod refusals;
#[path = "contracts/requests.rs"]
mod requests;
#[path = "contracts/reverts.rs"]
mod reverts;
#[path = "contracts/world.rs"]
mod world;
