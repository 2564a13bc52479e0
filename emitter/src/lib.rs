//! Submits signed results to the contracts and settles each.
//!
//! ```text
//!  results.* ──stage──▶ handler ──▶ verify ──Job──▶ submitter ──▶ nonce planner, gas, fees, verdicts      (pure)
//!                          ▲                          │   ▲   │
//!  submissions ◀───────────┴────────Ended─────────────┘   │   └──Draft──▶ journal ──▶ emitter.intents
//!  dead-letters                                           │                  │
//!                                 follower (blocks) ──────┴──Journalled──────┘
//!                                     ▲                                   └──────▶ batched sends ──▶ the chain
//!                                 the chain
//! ```
//!
//! One emitter is active per chain and transaction sender ([`leader`]); the others stand by. A term of leadership
//! ([`session`]) takes over in this order: fence every predecessor, read the journal to its end, ask the chain where the
//! account stands, send again what is open, consume.
//!
//! What it promises:
//!
//! * **P3 settled** – each result ends in one submission record. It is settled by a receipt, by the contract's own word
//!   that it holds our answer, or by an error that can never pass; never because a nonce moved on, and never by an outage.
//! * **P4 unforged** – [`verify`] recomputes the signed digest from the very fields that go into the call.
//! * **P6 bounded** – nonces in flight, variants per nonce, slots, queues, fees and gas have limits and gauges.
//!
//! Every byte string that can reach the chain is in the [`journal`] before it is sent, so that after a crash the same bytes are
//! sent again, and a paused predecessor can send nothing that its successor does not know. What this buys: no response is
//! accepted twice. What remains: after a foreign use of the account, or a reorganisation, a duplicate may revert and cost
//! its gas. A result is settled at inclusion; a reorganisation after that is healed by the process that saw the
//! inclusion (the same bytes are sent again), not by one that recovers later.
//!
//! Start reading at [`service`], then [`session`] and [`submitter`]; all that decides is in [`nonce`], [`verdict`], [`gas`] and
//! [`fees`], which do no I/O.

use std::ffi::OsString;
use std::process::ExitCode;

pub mod clock;
pub mod codes;
pub mod config;
pub mod fees;
pub mod follow;
pub mod gas;
pub mod handler;
pub mod journal;
pub mod leader;
pub mod metrics;
pub mod nonce;
pub mod service;
pub mod session;
pub mod submitter;
pub mod verdict;
pub mod verify;
pub mod wallet;

/// Runs the emitter as the command line (the program's name first) says, and tells how the process must end.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    kms_runtime::service::main_from::<service::Emitter>(args)
}
