//! The KMS Core simulator behaves as `docs/protocol.md` says of version 0.12: over real gRPC, one test per row of its tables.

#![allow(clippy::unwrap_used)]

#[path = "simulator/answers.rs"]
mod answers;
#[path = "simulator/control.rs"]
mod control;
#[path = "simulator/introspection.rs"]
mod introspection;
#[path = "simulator/only_v0_12.rs"]
mod only_v0_12;
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
