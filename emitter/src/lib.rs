//! Submits signed results to the contracts and settles each.
//!
//! ```text
//!  results.* ──stage──▶ handler ──▶ judge ──Job──▶ submitter ──▶ nonce planner, gas, fees, verdicts      (pure)
//!                          ▲          │              │   ▲   │
//!  submissions ◀───────────┴──────────┼──Ended───────┘   │   └──Draft──▶ journal ──▶ emitter.intents
//!  dead-letters                       │                  │                  │
//!                    routes, verify, prove     follower (blocks) ──Journalled──┘
//!                                     ▲                  ▲                  └──────▶ batched sends ──▶ the chain
//!                                 the chain          the chain
//! ```
//!
//! All of it once per **destination**, which is a chain, its contracts and the account that answers them. One process
//! serves several side by side: each has its own place in the results topics, its own leadership, journal and nonces,
//! and leaves alone what is another's ([`routes`]). None stops another ([`service`]).
//!
//! One emitter is active per destination ([`leader`]); the others stand by. A term of leadership ([`session`]) takes over
//! in this order: fence every predecessor, read the journal to its end, ask the chain for its contracts' release and where
//! the account stands, send again what is open, consume.
//!
//! What it promises:
//!
//! * **P3 settled** – each result ends in one submission record. It is settled by a receipt, by the contract's own word
//!   that it holds our answer or that the phase ended well without it, or by an error that can never pass; never because a
//!   nonce moved on, and never by an outage.
//! * **P4 unforged** – nothing that somebody else writes to a topic makes it submit. [`verify`] recomputes the signed digests from
//!   the very fields that go into the call; [`prove`] reads the request itself from the destination's own chain, at a
//!   finality of its own, and holds the answer against it, because what is signed names no request; [`journal`] believes
//!   only what the sender's own key signed.
//! * **P6 bounded** – nonces in flight, variants per nonce, slots, queues, waits, fees and gas have limits and gauges.
//!
//! A result whose request the chain has no more is settled as retracted, without a transaction: at once when the result says so
//! itself, and otherwise after the destination's nodes kept showing another block in its place for a while
//! (`submission.orphan_patience_ms`), so that a node on a short-lived branch decides nothing. A later occurrence of the
//! same request has a result of its own.
//!
//! Where the sender's key is elsewhere, signatures are waited for through its outages and held against the account
//! ([`signing`], [`wallet`]).
//!
//! Every byte string that can reach the chain is in the [`journal`] before it is sent, so that after a crash the same bytes are
//! sent again, and a paused predecessor can send nothing that its successor does not know. What this buys: no response is
//! accepted twice. What remains: after a foreign use of the account, or a reorganisation, a duplicate may revert and cost
//! its gas. A result is settled at inclusion; when a reorganisation takes transactions back after that, the term ends and the
//! account is taken up anew by the journal, which sends the same bytes again; so does whoever starts later.
//!
//! Start reading at [`service`], then [`session`], [`judge`] and [`submitter`]; what is particular to one kind of answer is in
//! [`answer`]; all that decides is in [`nonce`], [`verdict`], [`gas`], [`fees`] and
//! [`cost`], which do no I/O.

use std::ffi::OsString;
use std::process::ExitCode;

pub mod answer;
pub mod batch;
pub mod clock;
pub mod codes;
pub mod command;
pub mod config;
pub mod cost;
pub mod delegation;
pub mod executor;
pub mod fees;
pub mod follow;
pub mod gas;
pub mod handler;
pub mod journal;
pub mod judge;
pub mod leader;
pub mod metrics;
#[cfg(test)]
mod node;
pub mod nonce;
pub mod order;
pub mod pool;
pub mod prove;
pub mod provision;
pub mod release;
pub mod routes;
pub mod service;
pub mod session;
pub mod signing;
pub mod submitter;
pub mod verdict;
pub mod verify;
pub mod waits;
pub mod wallet;

/// Runs the emitter as the command line (the program's name first) says, and tells how the process must end.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    kms_runtime::service::main_from::<service::Emitter>(args)
}
