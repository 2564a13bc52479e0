//! What every service stands on: the exactly-once stage, Kafka clients, configuration, telemetry, health, shutdown.
//!
//! ```text
//!           cli ──▶ config ──▶ service ──▶ telemetry, http, shutdown
//!                                 │
//!                                 ▼
//!                               kafka ──▶ topics and probe, transactional producer, reader
//!                                 │
//!                                 ▼
//!                               stage ──▶ retry, breaker        (processor and emitter; ingest has no input topic)
//! ```
//!
//! Start reading at [`service`]: it is the life of a process from its command line to its exit code. The engine behind
//! the promises P2, P5 and P6 is [`stage`].

pub mod breaker;
pub mod cli;
pub mod codes;
pub mod config;
pub mod healthcheck;
pub mod http;
pub mod kafka;
pub mod retry;
pub mod service;
pub mod shutdown;
pub mod stage;
pub mod telemetry;
