//! The KMS Core simulator behaves as `docs/protocol.md` says of each version: over real gRPC, one test per row of its tables.

#![allow(clippy::unwrap_used)]

#[path = "simulator/aborts.rs"]
mod aborts;
#[path = "simulator/answers.rs"]
mod answers;
#[path = "simulator/answers_by_version.rs"]
mod answers_by_version;
#[path = "simulator/control.rs"]
mod control;
#[path = "simulator/former.rs"]
mod former;
#[path = "simulator/introspection.rs"]
mod introspection;
#[path = "simulator/lifecycle.rs"]
mod lifecycle;
#[path = "simulator/program.rs"]
mod program;
#[path = "simulator/restarts.rs"]
mod restarts;
#[path = "simulator/results.rs"]
mod results;
#[path = "simulator/starts.rs"]
mod starts;
#[path = "simulator/starts_by_version.rs"]
mod starts_by_version;
#[path = "simulator/transport.rs"]
mod transport;
#[path = "simulator/vectors.rs"]
mod vectors;
#[path = "simulator/versions.rs"]
mod versions;
#[path = "simulator/world.rs"]
mod world;
