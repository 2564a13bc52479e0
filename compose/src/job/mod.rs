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
mod pause;
mod report;
mod watch;

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};

pub use mix::Mix;
pub use report::{Counts, KindReport, Latency, Report};

use crate::contracts::{ContractsError, Node};
use crate::description::Description;
use crate::error::StackError;
use crate::progress::Progress;
use crate::stack::{Generation, Stack};
use audit::Audit;
use lifecycle::Director;
use load::Load;
use observer::Observer;
use watch::Watch;

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

/// Where the main job is done.
pub struct Site<'a> {
    /// The stack.
    pub stack: &'a Description,
    /// Where progress is shown.
    pub progress: &'a Progress,
    /// How long fetching took, within the time until the stack was ready.
    pub fetching: Duration,
    /// How long something that the stack needs may be down before what is missing counts as lost; zero: not looked at.
    pub outage: Duration,
    /// What has ended that should run, in words.
    pub ended: &'a (dyn Fn() -> Vec<String> + Sync),
}

impl Site<'_> {
    /// Says who has paused what, where somebody may have: on a stack that was up before.
    fn lookout(&self) -> Option<pause::Lookout> {
        (!self.outage.is_zero()).then(|| pause::Lookout::start(self.stack, self.progress))
    }

    /// Connections to the chains that bear an outage.
    fn connect(&self) -> Result<(Node, Option<Node>), ContractsError> {
        let connect = |url: &String| Node::new(url).map(|node| node.patient(self.outage));
        let host = self.stack.ethereum.as_ref().map(|place| connect(&place.url)).transpose()?;
        Ok((connect(&self.stack.gateway.url)?, host))
    }
}

/// Makes the requests of `args` on a running stack, waits for every node's answers, and reports. `begun` is when the
/// program started.
///
/// # Errors
/// The chain, the bucket or Kafka cannot be used, or the arguments do not fit the stack. That answers are missing is no error: the
/// report says so.
pub async fn run(stack: &Stack, args: &JobArgs, begun: Instant) -> Result<Report, StackError> {
    let ended = || {
        let processes = stack.nodes().iter().flat_map(crate::stack::Node::processes);
        let ended = processes.filter(|process| !process.is_running());
        ended
            .map(|process| format!("{} is not running any more; see {}", process.name(), process.log_path().display()))
            .collect()
    };
    let site = Site {
        stack: &stack.describe(),
        progress: stack.workspace().progress(),
        fetching: stack.times().fetch,
        outage: Duration::ZERO,
        ended: &ended,
    };
    run_at(&site, args, begun).await
}

/// As [`run`], wherever the stack's processes are. Requests that are on the chain already are waited for and judged with the others; the
/// operations that a stack needs only once are not made again.
///
/// # Errors
/// As [`run`].
pub async fn run_at(site: &Site<'_>, args: &JobArgs, begun: Instant) -> Result<Report, StackError> {
    let stack = site.stack;
    args.check(stack.generation, stack.nodes.len())?;
    let seconds_to_ready = begun.elapsed().as_secs_f64();
    let task = site.progress.begin("requests", "preparing");
    let patience = Duration::from_secs(args.patience);
    let watch = Watch::start(stack, site.progress, site.outage);
    let _lookout = site.lookout();
    let (gateway, host) = site.connect().map_err(load::chain_error)?;
    let mut requester = stack.requester_over(gateway.clone(), host.clone()).await.map_err(load::chain_error)?;
    // What an earlier load sent has to be on the chain before it can be told from what this one sends.
    requester.settled(patience).await.map_err(load::chain_error)?;
    let mut observer = Observer::start(stack, watch)?;
    let before = observer.look_back(&gateway, host.as_ref(), patience).await?;
    if before > 0 {
        requester.leave_out_what_is_done();
    }
    let load = Load::new(stack, args, requester, site.outage);
    let work = async {
        let director = Director { stack, requester: load.requester(), observer: &observer, patience };
        task.now("one of every operation that is no decryption");
        let lifecycle = director.open().await?;
        task.now("ciphertexts and access rights");
        let closing = Director::closing(&lifecycle);
        let made = u32::try_from(observer.requests().saturating_sub(before)).unwrap_or(u32::MAX);
        let decryptions = args.requests.saturating_sub(made + closing);
        let calls = load.prepare(&lifecycle, decryptions).await?;
        let before_closing = before + (args.requests - closing) as usize;
        let (sent, chain) = tokio::join!(load.send(&calls), observer.wait_for_answers(before_closing, patience, &task));
        sent?;
        if closing == 0 {
            return Ok(chain);
        }
        director.close(&lifecycle).await?;
        Ok(observer.wait_for_answers(before + args.requests as usize, patience, &task).await)
    };
    let chain = tokio::select! {
        chain = work => match chain {
            Ok(chain) => chain,
            Err(error) => return Err(pause::explained(stack, error).await),
        },
        // Never ends by itself.
        () = load.keep_sent() => return Err(StackError::Job("the load was given up".to_owned())),
    };
    task.now("reading the topics back");
    let report =
        judge(site, &observer, &chain, before + args.requests as usize, begun, seconds_to_ready, patience).await?;
    task.done(&report.headline());
    Ok(report)
}

/// Waits for the answers to every request that is on the chain, makes none, and reports.
///
/// # Errors
/// As [`run`].
pub async fn judge_at(site: &Site<'_>, patience: Duration, begun: Instant) -> Result<Report, StackError> {
    let stack = site.stack;
    let seconds_to_ready = begun.elapsed().as_secs_f64();
    let task = site.progress.begin("requests", "looking back");
    let watch = Watch::start(stack, site.progress, site.outage);
    let _lookout = site.lookout();
    let (gateway, host) = site.connect().map_err(load::chain_error)?;
    let mut observer = Observer::start(stack, watch)?;
    let before = observer.look_back(&gateway, host.as_ref(), patience).await?;
    let chain = observer.wait_for_answers(before, patience, &task).await;
    task.now("reading the topics back");
    let report = judge(site, &observer, &chain, before, begun, seconds_to_ready, patience).await?;
    task.done(&report.headline());
    Ok(report)
}

async fn judge(
    site: &Site<'_>,
    observer: &Observer,
    chain: &observer::ChainView,
    requests: usize,
    begun: Instant,
    seconds_to_ready: f64,
    patience: Duration,
) -> Result<Report, StackError> {
    observer.watch().wait_for_topics().await;
    let audit = Audit::read(site.stack, chain, patience).await?;
    let times = report::Times { begun, seconds_to_ready, fetching: site.fetching };
    // What a person ordered explains more than what happened.
    let mut reasons = match observer.lacks_answers(chain, requests) {
        true => pause::paused(site.stack).await,
        false => Vec::new(),
    };
    reasons.extend(observer.watch().down());
    let surroundings = report::Surroundings { ended: (site.ended)(), reasons };
    Ok(Report::new(requests, site.stack, chain, &audit, &times, surroundings))
}
