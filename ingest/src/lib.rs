//! Follows chains and writes the requests of their contracts to Kafka.
//!
//! ```text
//!            follower (async)                                     publisher (its own thread)
//!  RPC ──▶ finalised head ──▶ logs of a range, ──▶ bounded queue ──▶ decode, number, encode ──▶ one transaction:
//!               ▲              from a node that       of chunks       (what does not decode      requests, dead letters
//!               │              had its last block         │            becomes a dead letter)    and the cursor
//!               └────────── poll only when idle           └── as many chunks as wait, up to a limit ──┘
//! ```
//!
//! A *source* is one chain with its contracts; one process follows several, each with a follower and a publisher of its
//! own, so that none waits for another. From v0.13 on the Gateway and the Ethereum host chain are two of them. The release
//! of a source's contracts is asked of them, at start and after each upgrade, and decides which events are followed: of a
//! release that tells each decryption in two events, exactly one.
//!
//! What is promised here: every matching log up to the cursor is in the topics (P1; in this release on the word of the
//! nodes, which the cursor says with [`Proof::Believed`](kms_schemas::record::Proof)), and exactly once (P2), because a
//! start first fences whoever wrote before (`init_transactions`), then reads the cursor, then resumes, and because
//! records and cursor share a transaction. The transactional id names the source and not the instance: two processes
//! that follow one source by mistake must fence each other, not both write.
//!
//! The cursor is held against the topics: its numbering must be that of the newest records in them, and between the newest
//! request and the cursor's block the chain must have none (`shown`, `recheck`).
//!
//! Reorganisations: a followed block that is not the child of the ingested one stops its source with a code, and nothing
//! of the other branch is written. Follow `safe`, `finalized` or a depth where that can happen.
//!
//! Start reading at the module `source`.

mod chunk;
mod codes;
mod config;
mod error;
mod follower;
mod metrics;
#[cfg(test)]
mod mock;
mod numbering;
mod publisher;
mod range;
mod recheck;
mod record;
mod release;
mod resume;
mod shown;
mod source;

use std::ffi::OsString;
use std::process::ExitCode;

use kms_runtime::config::{SchemaRegistryConfig, TelemetryConfig};
use kms_runtime::kafka::KafkaConfig;
use kms_runtime::service::{Context, Service};
use kms_runtime::shutdown::Stopped;

pub use codes::CODES;
pub use config::{IngestConfig, SourceConfig};

/// Runs the service with these arguments, of which the first is the program's name.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    kms_runtime::service::main_from::<Ingest>(args)
}

/// The service for [`kms_runtime::service`].
#[derive(Clone, Copy, Debug)]
pub struct Ingest;

impl Service for Ingest {
    type Config = IngestConfig;
    const NAME: &'static str = "ingest";
    const PROGRAM: &'static str = "kms-ingest";
    const ABOUT: &'static str = "Follows chains and writes the requests of their contracts to Kafka.";

    fn kafka(config: &IngestConfig) -> &KafkaConfig {
        &config.kafka
    }

    fn schema_registry(config: &IngestConfig) -> &SchemaRegistryConfig {
        &config.schema_registry
    }

    fn telemetry(config: &IngestConfig) -> &TelemetryConfig {
        &config.telemetry
    }

    async fn run(config: IngestConfig, context: Context) -> Result<(), Stopped> {
        metrics::describe();
        kms_chain::metrics::describe();
        source::run_all(config.source, context).await
    }
}
