//! Follows each source in sessions: publisher first (it fences and reads the cursor), then the follower.

use std::time::Duration;

use kms_chain::event::ContractSet;
use kms_chain::rpc::{EndpointUrl, Rpc, RpcConfig};
use kms_runtime::http::Check;
use kms_runtime::retry::Backoff;
use kms_runtime::service::Context;
use kms_runtime::shutdown::{Exit, Stopped};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::config::SourceConfig;
use crate::error::{SessionError, SourceError};
use crate::follower::Follower;
use crate::metrics::SourceMetrics;
use crate::publisher::Publisher;
use crate::recheck::Recheck;
use crate::release::Releases;
use crate::resume::Resume;
use crate::shown::Shown;

/// Pauses between sessions, and between attempts to learn the contracts' release.
const RETRY: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(5), factor: 2.0 };

/// How long a publisher may take to finish after the shutdown began.
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(15);

/// Readiness of a source, by what it depends on.
struct Checks {
    chain: Check,
    kafka: Check,
}

impl Checks {
    fn of(source: &SourceConfig, context: &Context) -> Self {
        let check = |part: &str| context.health.check(format!("source.{}.{part}", source.id));
        Self { chain: check("chain"), kafka: check("kafka") }
    }
}

/// Follows every source until the shutdown. A source that stops leaves the others alone; when none is left, or one was
/// taken over by another process, all end.
pub(crate) async fn run_all(sources: Vec<SourceConfig>, context: Context) -> Result<(), Stopped> {
    let mut running = JoinSet::new();
    for source in sources {
        let context = context.clone();
        running.spawn(async move {
            let metrics = SourceMetrics::new(&source.id);
            let checks = Checks::of(&source, &context);
            let outcome = follow(source, context, metrics.clone(), &checks).await;
            outcome.map_err(|error| {
                let stopped = error.stopped();
                metrics.stopped(stopped.code, &stopped.text);
                checks.chain.not_ready(format!("stopped: {stopped}"));
                stopped
            })
        });
    }
    let mut first_stop = None;
    while let Some(joined) = running.join_next().await {
        let outcome = joined.unwrap_or_else(|error| {
            Err(Stopped::new(Exit::Internal, &kms_runtime::codes::INTERNAL, error.to_string()))
        });
        if let Err(stopped) = outcome {
            if matches!(stopped.exit, Exit::Fenced | Exit::Internal) {
                context.shutdown.cancel();
            }
            first_stop.get_or_insert(stopped);
        }
    }
    // Asked to end: a source that had stopped before is in the log, and no reason for another exit code. One whose end
    // has ended the process is.
    match first_stop {
        Some(stopped) if matches!(stopped.exit, Exit::Fenced | Exit::Internal) => Err(stopped),
        Some(stopped) if !context.shutdown.is_cancelled() => Err(stopped),
        _ => Ok(()),
    }
}

async fn follow(
    source: SourceConfig,
    context: Context,
    metrics: SourceMetrics,
    checks: &Checks,
) -> Result<(), SourceError> {
    let rpc = rpc(&source)?;
    let mut failures = 0;
    loop {
        let reason = match session(&source, &context, &metrics, checks, &rpc).await {
            Ok(()) => return Ok(()),
            Err(SessionError::Final(error)) => return Err(*error),
            Err(SessionError::Lost(_)) if context.shutdown.is_cancelled() => return Ok(()),
            Err(SessionError::Lost(reason)) => reason,
        };
        failures += 1;
        metrics.session_lost(&reason);
        checks.kafka.not_ready("Kafka fails");
        tokio::select! {
            () = context.shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(RETRY.delay(failures, rand::random())) => {}
        }
    }
}

fn rpc(source: &SourceConfig) -> Result<Rpc, SourceError> {
    let internal = |why: String| SourceError::Internal { source_id: source.id.clone(), why };
    let parse = |url: &kms_runtime::config::Endpoint| EndpointUrl::parse(url.expose().as_str());
    let urls: Result<Vec<EndpointUrl>, _> = source.rpc_urls.iter().map(parse).collect();
    let mut config = RpcConfig::new(source.id.clone(), urls.map_err(|error| internal(error.to_string()))?);
    config.chain_id = Some(source.chain_id);
    config.timeout = Duration::from_millis(source.rpc_timeout_ms);
    config.max_response_bytes = source.max_response_bytes;
    Rpc::new(config).map_err(|error| internal(error.to_string()))
}

/// One producer's life. `Ok` after an orderly shutdown.
async fn session(
    source: &SourceConfig,
    context: &Context,
    metrics: &SourceMetrics,
    checks: &Checks,
    rpc: &Rpc,
) -> Result<(), SessionError> {
    let internal = |why: String| SourceError::Internal { source_id: source.id.clone(), why };
    let (chunks, mut waiting) = mpsc::channel(source.queue_chunks);
    let (resumed, resume) = oneshot::channel();
    let (ended, mut end) = oneshot::channel();
    let publisher = Publisher::new(source.clone(), context.clone(), metrics.clone(), checks.kafka.clone());
    let spawned = std::thread::Builder::new().name(format!("publish-{}", source.id)).spawn(move || {
        // Nobody waits any more after a shutdown that took too long.
        let _ = ended.send(publisher.run(&mut waiting, resumed));
    });
    spawned.map_err(|error| internal(format!("no thread: {error}")))?;

    let mut followed = Ok(());
    if let Ok((resume, shown)) = resume.await {
        let recheck = Recheck { source, context, metrics, check: &checks.chain, rpc };
        followed = match where_to_go_on(&recheck, resume, shown).await {
            Ok(Some((resume, contracts))) => {
                let (metrics, check) = (metrics.clone(), checks.chain.clone());
                let follower = Follower::new(source.clone(), contracts, rpc.clone(), metrics, check, &resume);
                follower.run(chunks, context.shutdown.clone()).await
            }
            stopped => {
                drop(chunks);
                stopped.map(|_| ())
            }
        };
    }
    let published = if context.shutdown.is_cancelled() {
        match tokio::time::timeout(SHUTDOWN_PATIENCE, &mut end).await {
            Ok(published) => published,
            Err(_) => {
                tracing::warn!(
                    source = source.id,
                    "Kafka did not take the last blocks in time; the next start reads them again"
                );
                return Ok(());
            }
        }
    } else {
        end.await
    };
    let published = published.unwrap_or_else(|_| Err(internal("the publishing thread has died".to_owned()).into()));
    match (published, followed) {
        (Err(error @ SessionError::Final(_)), _) => Err(error),
        (Ok(()), Err(error)) => Err(error.into()),
        // The follower's verdict stands, whatever Kafka does.
        (Err(SessionError::Lost(_)), Err(error)) => Err(error.into()),
        (Err(lost), Ok(())) => Err(lost),
        (Ok(()), Ok(())) => Ok(()),
    }
}

/// Where to go on with which contracts. None after a shutdown.
async fn where_to_go_on(
    recheck: &Recheck<'_>,
    resume: Resume,
    shown: Option<Shown>,
) -> Result<Option<(Resume, ContractSet)>, SourceError> {
    let Recheck { source, context, check, rpc, .. } = recheck;
    let Some(known) = contracts(source, context, check, rpc, &resume).await? else { return Ok(None) };
    let Some(shown) = shown else { return Ok(Some((resume, known))) };
    let cursor = resume.last;
    match recheck.run(resume, &shown).await? {
        Some(resume) if resume.last == cursor => Ok(Some((resume, known))),
        Some(resume) => {
            let contracts = contracts(source, context, check, rpc, &resume).await?;
            Ok(contracts.map(|contracts| (resume, contracts)))
        }
        None => Ok(None),
    }
}

/// The followed contracts with their release, which is asked of them before anything is written. What is not served is
/// refused; an outage is waited for, and so is a contract that is not deployed yet. None after a shutdown.
pub(crate) async fn contracts(
    source: &SourceConfig,
    context: &Context,
    check: &Check,
    rpc: &Rpc,
    resume: &Resume,
) -> Result<Option<ContractSet>, SourceError> {
    let mut releases = Releases::of(source, rpc.clone());
    let before_start = source.start_block.and_then(|start| start.checked_sub(1));
    let last = resume.last.map(|block| block.number).or(before_start);
    let mut failures = 0;
    loop {
        let known = tokio::select! {
            () = context.shutdown.cancelled() => return Ok(None),
            known = releases.at_start(last) => known,
        };
        let error = match known {
            Ok(release) => {
                tracing::info!(source = source.id, %release, "release of the contracts known");
                return Ok(Some(source.contracts(release)));
            }
            Err(error) if error.is_verdict() => return Err(SourceError::release(&source.id, error)),
            Err(error) => error,
        };
        // One endpoint of another chain is passed over; when all are, waiting does not help.
        if error.code() == kms_chain::codes::RPC_WRONG_CHAIN
            && let Some(found) = rpc.foreign_chain().await
        {
            return Err(SourceError::ForeignChain { source_id: source.id.clone(), found });
        }
        failures += 1;
        error.tell(&source.id, check, failures);
        tokio::select! {
            () = context.shutdown.cancelled() => return Ok(None),
            () = tokio::time::sleep(RETRY.delay(failures, rand::random())) => {}
        }
    }
}
