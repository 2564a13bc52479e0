//! The KMS Core simulator behaves as `docs/protocol.md` says of each version: over real gRPC, one test per row of its tables.

#![allow(clippy::unwrap_used)]

#[path = "simulator/answers.rs"]
mod answers;
#[path = "simulator/control.rs"]
mod control;
#[path = "simulator/former.rs"]
mod former;
#[path = "simulator/introspection.rs"]
mod introspection;
#[path = "simulator/program.rs"]
mod program;
#[path = "simulator/restarts.rs"]
mod restarts;
#[path = "simulator/results.rs"]
mod results;
#[path = "simulator/starts.rs"]
mod starts;
#[path = "simulator/transport.rs"]
mod transport;
#[path = "simulator/world.rs"]
mod world;
