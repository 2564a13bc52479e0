//! The emitter as a service: for each destination stand by, lead, and stand by again when leadership is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_runtime::config::{SchemaRegistryConfig, TelemetryConfig};
use kms_runtime::kafka::KafkaConfig;
use kms_runtime::retry::Backoff;
use kms_runtime::service::{Context, Service};
use kms_runtime::shutdown::{Exit, Stopped};
use tokio::task::JoinSet;

use crate::config::EmitterConfig;
use crate::handler::SERVICE;
use crate::leader::{Leadership, Role};
use crate::metrics;
use crate::session::Session;

/// The emitter.
#[derive(Clone, Copy, Debug)]
pub struct Emitter;

impl Service for Emitter {
    type Config = EmitterConfig;
    const NAME: &'static str = SERVICE;
    const PROGRAM: &'static str = "kms-emitter";
    const ABOUT: &'static str = "Submits signed results to the contracts and settles each";

    fn kafka(config: &EmitterConfig) -> &KafkaConfig {
        &config.kafka
    }

    fn schema_registry(config: &EmitterConfig) -> &SchemaRegistryConfig {
        &config.schema_registry
    }

    fn telemetry(config: &EmitterConfig) -> &TelemetryConfig {
        &config.telemetry
    }

    async fn run(config: EmitterConfig, context: Context) -> Result<(), Stopped> {
        metrics::describe();
        kms_chain::metrics::describe();
        kms_runtime::stage::metrics::describe();
        let config = Arc::new(config);
        let indices = 0..config.destination.len();
        // Everything about the configuration is found out before anything begins.
        let sessions = indices.map(|index| Session::new(config.clone(), index, &context).map(Arc::new));
        let sessions = sessions.collect::<Result<Vec<_>, Stopped>>()?;
        side_by_side(sessions).await
    }
}

/// What a task of a destination tells.
enum Told {
    /// Its destination works no more.
    Ended(usize, Result<(), Stopped>),
    /// The pause after a failure is over.
    Again(usize),
    /// The shutdown came during the pause.
    Resting,
}

/// The destinations side by side, none of which stops another.
///
/// An outage, a standby or a fence is waited out within its destination. A failure that would end a process of its own
/// (a wrong chain, a journal that cannot be read, a client that failed for good) gives up the destination's leadership, shows
/// in its readiness, and is followed by a new beginning after a pause that doubles from a second to a minute. Only when every
/// destination has failed at once does the process end, with the exit code of the failure that was last: a process with
/// one destination ends at its first failure.
async fn side_by_side(sessions: Vec<Arc<Session>>) -> Result<(), Stopped> {
    const PAUSE: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(60), factor: 2.0 };
    /// What lasted for so long was no failure at the start.
    const LASTING: Duration = Duration::from_secs(300);
    let mut tasks = JoinSet::new();
    let mut alive = sessions.len();
    let mut failures = vec![(0_u32, Instant::now()); sessions.len()];
    for (index, session) in sessions.iter().enumerate() {
        tasks.spawn(contend(index, session.clone()));
    }
    while let Some(told) = tasks.join_next().await {
        match told {
            Ok(Told::Ended(_, Ok(()))) => alive -= 1,
            Ok(Told::Ended(index, Err(stopped))) => {
                alive -= 1;
                let session = &sessions[index];
                if alive == 0 {
                    if sessions.len() > 1 {
                        session.metrics.failed(stopped.code, &stopped.text, None);
                    }
                    return Err(stopped);
                }
                let (count, began) = &mut failures[index];
                *count = if began.elapsed() > LASTING { 1 } else { *count + 1 };
                let pause = PAUSE.bound(*count);
                session.metrics.failed(stopped.code, &stopped.text, Some(pause));
                session.checks.leader.not_ready(format!("{}: {}", stopped.code, stopped.text));
                let shutdown = session.context.shutdown.clone();
                tasks.spawn(async move {
                    match tokio::time::timeout(pause, shutdown.cancelled()).await {
                        Ok(()) => Told::Resting,
                        Err(_) => Told::Again(index),
                    }
                });
            }
            Ok(Told::Resting) => {}
            Ok(Told::Again(index)) => {
                alive += 1;
                failures[index].1 = Instant::now();
                tasks.spawn(contend(index, sessions[index].clone()));
            }
            Err(error) => {
                return Err(Stopped::new(Exit::Internal, &kms_runtime::codes::INTERNAL, error.to_string()));
            }
        }
    }
    Ok(())
}

/// Takes part in the election of one destination's active emitter until the shutdown or a failure.
async fn contend(index: usize, session: Arc<Session>) -> Told {
    let context = &session.context;
    let leadership = Leadership::contend(
        &context.kafka,
        context.topics.leader(),
        session.destination.chain_id,
        session.wallet.address(),
    );
    let outcome = match leadership {
        Ok(leadership) => terms(&session, leadership).await,
        Err(error) => Err(Stopped::new(Exit::KafkaFatal, &kms_runtime::codes::KAFKA_FATAL, error.to_string())),
    };
    Told::Ended(index, outcome)
}

/// Leads whenever it may, until the shutdown or a failure.
///
/// A process that was paused and lost its leadership meanwhile wakes up as a member of the lanes' groups, and so fences the
/// one that leads now, once, before it notices. The one that leads takes the account back then. Should it be fenced again
/// and again, somebody leads beside it, and it gives way.
async fn terms(session: &Session, mut leadership: Leadership) -> Result<(), Stopped> {
    const FENCED_IN_A_ROW: u32 = 5;
    const FAILED_IN_A_ROW: u32 = 10;
    const PAUSE: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_secs(30), factor: 2.0 };
    /// What lasted for so long was a term of its own.
    const LASTING: Duration = Duration::from_secs(60);
    let shutdown = session.context.shutdown.clone();
    let (mut fenced, mut failed) = (0, 0);
    let outcome = loop {
        tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            elected = elected(session, &mut leadership) => if let Err(stopped) = elected {
                break Err(stopped);
            },
        }
        session.metrics.leads(true);
        let began = Instant::now();
        let outcome = term(session, &mut leadership).await;
        session.metrics.leads(false);
        let destination = session.metrics.destination();
        match outcome {
            Ok(()) if shutdown.is_cancelled() => break Ok(()),
            Ok(()) if leadership.leads() => tracing::info!(destination, "taking the account up anew"),
            Ok(()) => tracing::warn!(destination, "leadership was lost, standing by"),
            Err(stopped) if stopped.exit == Exit::Fenced => {
                if lost_soon(session, &mut leadership).await {
                    tracing::warn!(destination, "another emitter took over, standing by");
                    continue;
                }
                fenced = if began.elapsed() > LASTING { 1 } else { fenced + 1 };
                if fenced > FENCED_IN_A_ROW {
                    break Err(stopped);
                }
                let reason = stopped.text;
                tracing::warn!(destination, reason, "fenced by an emitter that does not lead, taking the account back");
            }
            // The clients of a term end with it, and so does what Kafka did to them.
            Err(stopped) if stopped.exit == Exit::KafkaFatal => {
                failed = if began.elapsed() > LASTING { 1 } else { failed + 1 };
                if failed > FAILED_IN_A_ROW {
                    break Err(stopped);
                }
                let pause = PAUSE.bound(failed);
                let reason = format!("{}: {}", stopped.code, stopped.text);
                tracing::warn!(destination, reason, ?pause, "Kafka failed, taking the account up anew");
                session.checks.leader.not_ready(reason);
                tokio::select! {
                    () = shutdown.cancelled() => break Ok(()),
                    () = tokio::time::sleep(pause) => {}
                }
            }
            Err(stopped) => break Err(stopped),
        }
    };
    // Leaving the group at once is what lets a standby take over at once; joining its thread blocks for a moment.
    let _ = tokio::task::spawn_blocking(move || leadership.resign()).await;
    outcome
}

/// Waits until this process leads, and says meanwhile what it is. A standby is ready: it does what it is there for, and an update
/// that waits for it, or an alarm, must not take it for one that is broken. Who leads is in `kms_connector_emitter_leader`.
///
/// # Errors
/// The election's thread has ended.
async fn elected(session: &Session, leadership: &mut Leadership) -> Result<(), Stopped> {
    /// An election of one member takes a moment. What lasts longer is a member that went silent, or Kafka.
    const MOMENT: Duration = Duration::from_secs(10);
    let check = &session.checks.leader;
    let mut roles = leadership.watch();
    loop {
        let role = *roles.borrow_and_update();
        match role {
            Role::Leader => check.waiting("the account is taken up"),
            Role::Standby => session.stands_by(),
            Role::Joining => check.waiting("the active emitter of this chain and sender is being elected"),
        }
        let changed = match role {
            _ if roles.has_changed().is_err() => break,
            Role::Leader => return Ok(()),
            Role::Standby => roles.changed().await,
            Role::Joining => match tokio::time::timeout(MOMENT, roles.changed()).await {
                Ok(changed) => changed,
                Err(_) => {
                    check.not_ready(
                        "the active emitter of this chain and sender is not elected: an emitter that is gone still counts, or \
                         Kafka does not answer",
                    );
                    roles.changed().await
                }
            },
        };
        if changed.is_err() {
            break;
        }
    }
    Err(leadership.failure())
}

async fn term(session: &Session, leadership: &mut Leadership) -> Result<(), Stopped> {
    // Ends with the service, and when leadership is lost.
    let stop = session.context.shutdown.child_token();
    let mut role = leadership.watch();
    let lost = stop.clone();
    let watch = tokio::spawn(async move {
        let _ = role.wait_for(|role| *role != Role::Leader).await;
        lost.cancel();
    });
    let outcome = session.run(stop).await;
    watch.abort();
    outcome
}

/// Being fenced and losing the leadership are one happening, seen by two clients: the other one hears of it with its next
/// heartbeat, or finds itself that its session is over.
async fn lost_soon(session: &Session, leadership: &mut Leadership) -> bool {
    let moment = Duration::from_millis(session.context.kafka.session_timeout_ms.into()) / 2;
    tokio::time::timeout(moment, leadership.lost()).await.is_ok()
}
