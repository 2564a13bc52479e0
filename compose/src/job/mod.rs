//! The main job: a load of mixed requests through the whole stack, judged from outside.
//!
//! ```text
//! plan ──▶ materials (bucket, coprocessors, access rights) ──▶ load ──▶ contracts ──▶ … the connector … ──▶ contracts
//!                                                                           │                                  │
//!                                  audit ◀── topics, read back              └───────────▶ observer ◀───────────┘
//!                                    └────────────▶ report ◀────────────────────────────────┘
//! ```
//!
//! *Accepted* is what the chain's response events show, with each signer recovered from the signature over the digest that is
//! recomputed from request and answer. *Lost* and *doubled* come from the chain and from the topics, read back record by record.
//! The services' own counters and statuses are not asked.

mod audit;
mod load;
mod mix;
mod observer;
mod report;

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

pub use mix::Mix;
pub use report::{Counts, KindReport, Latency, Report};

use crate::error::StackError;
use crate::stack::Stack;
use audit::Audit;
use load::Load;
use observer::Observer;

/// What the main job shall do.
#[derive(Args, Clone, Debug)]
pub struct JobArgs {
    /// Requests to make, among them one preprocessing, one key generation and one CRS generation.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = mix::parse_requests)]
    pub requests: u32,
    /// Decryption requests per second; 0 makes them as fast as the chain takes them.
    #[arg(long, default_value_t = 50.0, value_name = "R", value_parser = mix::parse_rate)]
    pub rate: f64,
    /// Weights of the decryptions: public, user, delegated.
    #[arg(long, default_value_t = Mix::default(), value_name = "KIND=WEIGHT,…")]
    pub mix: Mix,
    /// Handles per decryption.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    pub handles: u32,
    /// Bytes of each ciphertext.
    #[arg(long, default_value_t = 16 * 1024, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=8 * 1024 * 1024))]
    pub ciphertext_bytes: u32,
    /// Seconds that may pass without any progress before what is missing counts as lost.
    #[arg(long, default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub patience: u64,
    /// End after the report, instead of staying up until Ctrl-C.
    #[arg(long)]
    pub exit: bool,
    /// How the report is written to standard output.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How the report is written.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A table.
    Text,
    /// One JSON object (`docs/main-job.md`).
    Json,
}

/// Makes the requests of `args` on a running stack, waits for every node's answers, and reports. `begun` is when the
/// program started.
///
/// # Errors
/// The chain, the bucket or Kafka cannot be used. That answers are missing is no error: the report says so.
pub async fn run(stack: &Stack, args: &JobArgs, begun: Instant) -> Result<Report, StackError> {
    let seconds_to_ready = begun.elapsed().as_secs_f64();
    let progress = stack.workspace().progress();
    let task = progress.begin("requests", "preparing");
    let patience = Duration::from_secs(args.patience);
    let observer = Observer::start(stack).await?;

    let load = Load::new(stack, args).await?;
    task.now("one key generation and one CRS generation");
    load.key_material(&observer, patience).await?;
    task.now("ciphertexts and access rights");
    let decryptions = load.prepare().await?;
    let sending = load.send(&decryptions);
    let waiting = observer.wait_for_answers(args.requests as usize, patience, &task);
    let finished = async { tokio::join!(sending, waiting) };
    let (sent, chain) = tokio::select! {
        finished = finished => finished,
        // Never ends by itself.
        () = load.keep_sent() => return Err(StackError::Job("the load was given up".to_owned())),
    };
    sent?;
    task.now("reading the topics back");
    let audit = Audit::read(stack, &chain, patience).await?;
    let report = Report::new(args, stack, &chain, &audit, begun, seconds_to_ready);
    task.done(&report.headline());
    Ok(report)
}
