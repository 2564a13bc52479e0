//! The stack and the services as a user meets them: real Kafka, a real chain, separate processes.

#![allow(clippy::unwrap_used)]

mod emitter;
mod ingest;
mod kafka;
mod fetching;
mod parts;
mod stack;
mod stage;
mod supervision;
