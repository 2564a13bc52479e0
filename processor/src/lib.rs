//! The processor: requests in, signed results out, by way of KMS Core.
//!
//! ```text
//! requests.decryption ───────────────┐                                       ┌──▶ results.decryption
//! requests.decryption.deferred ──────┤                                       │
//!                                    ├─▶ authorise ▶ fetch ▶ core ▶ verify ──┼──▶ results.key-management
//! requests.key-management ───────────┤       │         ▲       │             │
//! requests.key-management.deferred ──┘       │      buckets   gRPC           ├──▶ requests.*.deferred
//!                                            └───────────────────────────────┴──▶ dead-letters
//! ```
//!
//! Each of the four inputs is an exactly-once stage of its own (`kms_runtime::stage`), so that decryptions never wait for
//! key generations, nor quick requests for slow ones (P5). The work is decoded from a request's raw log, not from what the
//! record says beside it (P4), and only what the configured signer signed is published.
//!
//! Start reading at [`service`], which puts the parts together, then [`handler`], which is what happens to one request:
//! [`ciphertext`] and [`coprocessors`] fetch, [`core_request`] builds, [`core`] and [`operation`] start and await, [`status`]
//! reads KMS Core's status codes, [`answer`] verifies.

use std::ffi::OsString;
use std::process::ExitCode;

pub mod aborts;
pub mod access;
pub mod answer;
pub mod attestation;
pub mod authorise;
pub mod bounds;
pub mod chains;
pub mod check;
pub mod ciphertext;
pub mod codes;
pub mod config;
pub mod context;
pub mod coprocessors;
pub mod core;
pub mod core_request;
pub mod core_version;
pub mod error;
pub mod gate;
pub mod handler;
pub mod identity;
pub mod metrics;
pub mod operation;
pub mod patience;
pub mod serve;
pub mod service;
pub mod status;
pub mod user_request;

#[cfg(test)]
mod mock;
#[cfg(test)]
mod scripted;

/// Runs the processor as the command line (the program's name first) says, and tells how the process must end.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    kms_runtime::service::main_from::<service::Processor>(args)
}
