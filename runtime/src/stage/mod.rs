//! The exactly-once stage: consume, process concurrently and out of order, publish outputs and consumed offsets in one
//! Kafka transaction.
//!
//! ```text
//!                  ┌──────────── one lock: ledgers, schedule, what is closed ────────────┐
//!                  │                                                                     │
//!  input topics ──▶ poll thread ──▶ ledger ──▶ schedule ──▶ attempts ──▶ closed ──▶ committer thread ──▶ outcome topics
//!                  (poll.rs)      (ledger.rs) (schedule.rs) (handler)              (committer.rs)   └──▶ committed offsets
//!                       ▲                                                                                    │
//!                       └────── restoring thread (restore.rs, rebuild.rs) ◀── on assignment ◀────────────────┘
//! ```
//!
//! It keeps P2 (each record has exactly one outcome, whatever is killed when), P5 (no record holds up another one) and P6
//! (everything has a limit). The pieces that decide are pure: [`ledger`] (what is finished), [`commit_metadata`] (how that is
//! written down), [`schedule`] (what runs when), `state` (what belongs to which assignment). The threads around them are plain.
//!
//! Start reading at [`run`], then [`outcome::Handler`].

mod committer;
mod engine;
mod poll;
mod rebuild;
mod restore;
mod state;

pub mod commit_metadata;
pub mod config;
pub mod error;
pub mod ledger;
pub mod metrics;
pub mod outcome;
pub mod runs;
pub mod schedule;

pub use config::{MissingOffsets, StageConfig, StageIds};
pub use error::StageError;
pub use outcome::{Answered, Attempt, Carry, Failure, Handler, InputRecord, Outcome, OutcomeView, OutputRecord, Reach};

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::{
    engine::Engine,
    state::{Phase, Reading},
};
use crate::{http::Check, kafka::KafkaConfig};

/// Runs a stage until shutdown: then intake stops, running attempts may finish for a bounded time, what is closed is
/// committed, and the rest stays with the broker for the next start.
///
/// The check is ready while partitions are being consumed or the group has none for this member.
///
/// # Errors
/// See [`StageError`]: whatever only a restart or an operator can mend.
pub async fn run<H: Handler>(
    kafka: &KafkaConfig,
    config: StageConfig,
    handler: H,
    check: Check,
    shutdown: CancellationToken,
) -> Result<(), StageError> {
    let problems = config.problems();
    if !problems.is_empty() {
        return Err(StageError::Settings(problems));
    }
    let handler = Arc::new(handler);
    let mut failures = 0;
    loop {
        let began = Instant::now();
        let outcome = run_once(kafka, config.clone(), Arc::clone(&handler), &check, &shutdown).await;
        failures = if began.elapsed() > LASTING { 1 } else { failures + 1 };
        match &outcome {
            Err(error @ (StageError::Ghost(_) | StageError::Stalled(_) | StageError::Fatal(_)))
                if failures <= FAILURES_IN_A_ROW || !matches!(error, StageError::Fatal(_)) =>
            {
                // The new session takes the transactional id over first, so an attempt of the old one can commit nothing.
                metrics::anew(config.name, error);
                check.not_ready(format!("starting anew: {error}"));
                tokio::select! {
                    () = tokio::time::sleep(BEFORE_ANEW) => {}
                    () = shutdown.cancelled() => return Ok(()),
                }
                continue;
            }
            Ok(()) => tracing::info!(stage = config.name, "stage stopped"),
            Err(error) => {
                check.dead(error.to_string());
                tracing::error!(stage = config.name, code = error.code(), %error, "stage failed");
            }
        }
        return outcome;
    }
}

/// So often in a row a stage starts anew after clients that failed for good, before the process ends.
const FAILURES_IN_A_ROW: u32 = 10;
/// What lasted for so long was no failure at the start.
const LASTING: Duration = Duration::from_secs(60);
/// Pause before a stage starts anew.
const BEFORE_ANEW: Duration = Duration::from_secs(1);

async fn run_once<H: Handler>(
    kafka: &KafkaConfig,
    config: StageConfig,
    handler: Arc<H>,
    check: &Check,
    shutdown: &CancellationToken,
) -> Result<(), StageError> {
    check.not_ready("starting");
    let engine = Arc::new(Engine::new(config, handler));
    let threads = Threads::start(&engine, kafka)?;
    let reported = Reporter { check, last: None, has_started: false };
    attend(&engine, reported, shutdown).await;
    if !engine.has_ended() {
        check.not_ready("shutting down");
        drain(&engine).await;
    }
    engine.enter(Phase::Ended);
    engine.cancel_all();
    threads.join(&engine).await;
    engine.take_failure().map_or(Ok(()), Err)
}

/// Starts attempts until shutdown or failure.
async fn attend<H: Handler>(engine: &Arc<Engine<H>>, mut reporter: Reporter<'_>, shutdown: &CancellationToken) {
    /// At least this often gauges and the readiness check are looked at.
    const LOOK: Duration = Duration::from_millis(250);
    /// A group lets a member in within seconds. A client that lost its brokers may never ask again.
    const JOIN: Duration = Duration::from_secs(30);
    let mut outside_since = None;
    loop {
        let deadline = engine.turn();
        reporter.report(engine);
        if engine.is_stalled() {
            engine.fail(StageError::Stalled("offsets of a transaction are not taken and not refused"));
        }
        if engine.is_outside() {
            if outside_since.get_or_insert_with(Instant::now).elapsed() > JOIN {
                engine.fail(StageError::Stalled("the consumer group does not answer"));
            }
        } else {
            outside_since = None;
        }
        if engine.has_ended() {
            return;
        }
        let look = Instant::now() + LOOK;
        let deadline = deadline.map_or(look, |deadline| deadline.min(look));
        tokio::select! {
            () = engine.dispatch.notified() => {}
            () = tokio::time::sleep_until(deadline.into()) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// Finishes what finishes in time and commits it.
async fn drain<H: Handler>(engine: &Arc<Engine<H>>) {
    engine.enter(Phase::Draining);
    let deadline = Instant::now() + engine.config.drain_timeout;
    while engine.running() > 0 && Instant::now() < deadline && !engine.has_ended() {
        tokio::select! {
            () = engine.dispatch.notified() => {}
            () = tokio::time::sleep_until(deadline.into()) => {}
        }
    }
    engine.cancel_all();
    engine.enter(Phase::Flushing);
    let flushing = Arc::clone(engine);
    // The wait is on a condition variable, so it has a thread of its own; if the runtime refuses it one, nothing is lost.
    let _ = tokio::task::spawn_blocking(move || flushing.flush(flushing.config.final_commit_timeout)).await;
}

/// Tells health what the stage can do.
struct Reporter<'a> {
    check: &'a Check,
    last: Option<Status>,
    /// It has been ready: what every start passes through is from then on a reason for a warning.
    has_started: bool,
}

#[derive(Clone, PartialEq, Eq)]
enum Status {
    Starting,
    Joining,
    Restoring,
    /// The dependencies that are down, each with the failure that showed it first.
    Outage(Vec<String>),
    Ready,
}

impl Reporter<'_> {
    fn report<H: Handler>(&mut self, engine: &Engine<H>) {
        let status = {
            let inner = engine.lock();
            if inner.state.phase == Phase::Starting {
                Status::Starting
            } else if !inner.state.joined {
                Status::Joining
            } else if inner.state.schedule.is_outage() {
                let outages = inner.state.schedule.outages();
                Status::Outage(outages.map(|(name, cause)| format!("{name}: {cause}")).collect())
            } else if inner.state.partitions().any(|(_, partition)| !matches!(partition.reading, Reading::Consuming(_)))
            {
                Status::Restoring
            } else {
                Status::Ready
            }
        };
        if self.last.as_ref() == Some(&status) {
            return;
        }
        match &status {
            Status::Starting => self.passing("waiting for the transactional id"),
            Status::Joining => self.passing("joining the consumer group, which Kafka has not answered yet"),
            Status::Restoring => self.passing("reading positions"),
            Status::Outage(causes) => self.check.not_ready(format!("intake is paused; {}", causes.join("; "))),
            Status::Ready => {
                self.has_started = true;
                self.check.ready();
            }
        }
        self.last = Some(status);
    }

    fn passing(&self, reason: &str) {
        if self.has_started { self.check.not_ready(reason) } else { self.check.waiting(reason) }
    }
}

/// Name of the thread that writes transactions.
const COMMITTER: &str = "commit";

/// The stage's own threads. Each tells when it has ended, so that no async thread blocks on a join.
struct Threads {
    handles: Vec<(&'static str, JoinHandle<()>, oneshot::Receiver<()>)>,
    guard: Guard,
}

/// Ends the threads when the future is dropped halfway.
struct Guard(Box<dyn Fn() + Send + Sync>);

impl Drop for Guard {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl Threads {
    fn start<H: Handler>(engine: &Arc<Engine<H>>, kafka: &KafkaConfig) -> Result<Self, StageError> {
        let consumer = Arc::new(poll::consumer(kafka, &engine.config, engine).map_err(StageError::Client)?);
        let producer = committer::producer(kafka, &engine.config).map_err(StageError::Client)?;
        let ending = Arc::clone(engine);
        let guard = Guard(Box::new(move || {
            ending.enter(Phase::Ended);
            ending.cancel_all();
        }));
        let mut threads = Self { handles: Vec::new(), guard };
        let (of, with, settings) = (Arc::clone(engine), Arc::downgrade(&consumer), kafka.clone());
        threads.spawn(engine, COMMITTER, move || committer::run(of, &settings, producer, with))?;
        let (of, with, settings) = (Arc::clone(engine), Arc::clone(&consumer), kafka.clone());
        threads.spawn(engine, "restore", move || restore::run(of, &settings, with))?;
        let of = Arc::clone(engine);
        threads.spawn(engine, "poll", move || poll::run(&of, consumer))?;
        Ok(threads)
    }

    fn spawn<H: Handler>(
        &mut self,
        engine: &Arc<Engine<H>>,
        name: &'static str,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), StageError> {
        let (ended, told) = oneshot::channel();
        let engine = Arc::clone(engine);
        let body = move || {
            if catch_unwind(AssertUnwindSafe(body)).is_err() {
                engine.fail(StageError::Thread(name));
            }
            drop(ended);
        };
        let handle = Builder::new().name(format!("stage-{name}")).spawn(body).map_err(|_| StageError::Thread(name))?;
        self.handles.push((name, handle, told));
        Ok(())
    }

    /// Waits for all of them, but not for a committer that is stuck in its client: that one ends when its client wakes.
    async fn join<H: Handler>(self, engine: &Engine<H>) {
        const LOOK: Duration = Duration::from_millis(250);
        let Self { handles, guard } = self;
        for (name, handle, mut told) in handles {
            let is_left_behind = loop {
                match tokio::time::timeout(LOOK, &mut told).await {
                    Ok(_) => break false,
                    Err(_) if name == COMMITTER && engine.is_stalled() => break true,
                    Err(_) => {}
                }
            };
            if !is_left_behind {
                // It has ended, and told of a panic itself.
                let _ = handle.join();
            }
        }
        drop(guard);
    }
}
