//! The stack and the services as a user meets them: real Kafka, a real chain, separate processes.

#![allow(clippy::unwrap_used)]

mod access;
mod authority;
mod bad_input;
mod compose;
mod containers;
mod emitter;
mod faults;
mod fetching;
mod forged;
mod ingest;
mod kafka;
mod kmsctl;
mod parts;
mod pipeline;
mod processor;
mod rights;
mod setup;
mod stack;
mod stage;
mod supervision;
mod versions;
