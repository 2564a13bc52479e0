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
mod lifecycle;
mod load;
mod mix;
mod observer;
mod report;

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

pub use mix::Mix;
pub use report::{Counts, KindReport, Latency, Report};

use crate::error::StackError;
use crate::stack::{Generation, Stack};
use audit::Audit;
use lifecycle::Director;
use load::Load;
use observer::Observer;

/// What the main job shall do.
#[derive(Args, Clone, Debug)]
pub struct JobArgs {
    /// Requests to make, among them one of every operation of the generation that is no decryption.
    #[arg(long, default_value_t = 200, value_name = "N", value_parser = mix::parse_requests)]
    pub requests: u32,
    /// Decryption requests per second; 0 makes them as fast as the chain takes them.
    #[arg(long, default_value_t = 50.0, value_name = "R", value_parser = mix::parse_rate)]
    pub rate: f64,
    /// Weights of the decryptions: public, user, delegated; in generation (b) also unified, wallet. Absent: all that there are.
    #[arg(long, value_name = "KIND=WEIGHT,…")]
    pub mix: Option<Mix>,
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

impl JobArgs {
    /// Whether they can be carried through.
    ///
    /// # Errors
    /// [`StackError::Usage`] with what is wrong.
    pub fn check(&self, generation: Generation, nodes: usize) -> Result<(), StackError> {
        let least = lifecycle::least_requests(generation, nodes);
        if self.requests < least {
            return Err(StackError::Usage(format!(
                "--requests {}: at least {least} are needed for one of every operation of generation ({generation}) with {nodes} \
                 node(s), and a decryption",
                self.requests
            )));
        }
        if generation == Generation::A && self.mix.is_some_and(Mix::needs_unified) {
            return Err(StackError::Usage("--mix: only generation (b) has unified user decryptions".to_owned()));
        }
        Ok(())
    }
}

/// Makes the requests of `args` on a running stack, waits for every node's answers, and reports. `begun` is when the
/// program started.
///
/// # Errors
/// The chain, the bucket or Kafka cannot be used, or the arguments do not fit the stack. That answers are missing is no error: the
/// report says so.
pub async fn run(stack: &Stack, args: &JobArgs, begun: Instant) -> Result<Report, StackError> {
    args.check(stack.generation(), stack.nodes().len())?;
    let seconds_to_ready = begun.elapsed().as_secs_f64();
    let progress = stack.workspace().progress();
    let task = progress.begin("requests", "preparing");
    let patience = Duration::from_secs(args.patience);
    let observer = Observer::start(stack)?;
    let load = Load::new(stack, args).await?;
    let work = async {
        let director = Director { stack, requester: load.requester(), observer: &observer, patience };
        task.now("one of every operation that is no decryption");
        let lifecycle = director.open().await?;
        task.now("ciphertexts and access rights");
        let closing = Director::closing(&lifecycle);
        let made = u32::try_from(observer.requests()).unwrap_or(u32::MAX);
        let decryptions = args.requests.saturating_sub(made + closing);
        let calls = load.prepare(&lifecycle, decryptions).await?;
        let before_closing = (args.requests - closing) as usize;
        let (sent, chain) = tokio::join!(load.send(&calls), observer.wait_for_answers(before_closing, patience, &task));
        sent?;
        if closing == 0 {
            return Ok(chain);
        }
        director.close(&lifecycle).await?;
        Ok(observer.wait_for_answers(args.requests as usize, patience, &task).await)
    };
    let chain = tokio::select! {
        chain = work => chain?,
        // Never ends by itself.
        () = load.keep_sent() => return Err(StackError::Job("the load was given up".to_owned())),
    };
    task.now("reading the topics back");
    let audit = Audit::read(stack, &chain, patience).await?;
    let report = Report::new(args, stack, &chain, &audit, begun, seconds_to_ready);
    task.done(&report.headline());
    Ok(report)
}
