//! What every service stands on: the exactly-once stage, Kafka clients, configuration, telemetry, health, shutdown.

pub mod retry;
pub mod stage;
