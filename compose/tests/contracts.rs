//! The development contracts hold what `docs/protocol.md` says of generation (a): ABI, checks and their order, consensus, events,
//! reverts, gas. On a real chain.

#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "contracts/abi.rs"]
mod abi;
#[path = "contracts/answers.rs"]
mod answers;
#[path = "contracts/deployment.rs"]
mod deployment;
#[path = "contracts/gas.rs"]
mod gas;
#[path = "contracts/requests.rs"]
mod requests;
#[path = "contracts/reverts.rs"]
mod reverts;
#[path = "contracts/world.rs"]
mod world;
