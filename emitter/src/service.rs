//! The emitter as a service: stand by, lead, and stand by again when leadership is lost.

use std::sync::Arc;
use std::time::Duration;

use kms_runtime::config::{SchemaRegistryConfig, TelemetryConfig};
use kms_runtime::kafka::KafkaConfig;
use kms_runtime::service::{Context, Service};
use kms_runtime::shutdown::{Exit, Stopped};

use crate::config::EmitterConfig;
use crate::handler::SERVICE;
use crate::leader::Leadership;
use crate::metrics;
use crate::session::{self, Checks, Session};
use crate::wallet::Wallet;

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
        let refuse = |text: String| Stopped::new(Exit::Configuration, &kms_runtime::codes::CONFIG_VALUE, text);
        let wallet = Wallet::new(&config.wallet.private_key).map_err(|error| refuse(error.to_string()))?;
        let rpc = session::destination(&config)?;
        let check = |name: &str| context.health.check(name);
        let checks = Checks {
            leader: check("leader"),
            destination: check("destination"),
            registration: check("registration"),
            funds: check("funds"),
        };
        let leadership =
            Leadership::contend(&context.kafka, context.topics.leader(), config.destination.chain_id, wallet.address())
                .map_err(|error| Stopped::new(Exit::KafkaFatal, &kms_runtime::codes::KAFKA_FATAL, error.to_string()))?;
        let session = Session { config: Arc::new(config), context, wallet, rpc, checks };
        terms(session, leadership).await
    }
}

/// Leads whenever it may, until the shutdown or a failure.
async fn terms(session: Session, mut leadership: Leadership) -> Result<(), Stopped> {
    let shutdown = session.context.shutdown.clone();
    let outcome = loop {
        session
            .checks
            .leader
            .not_ready("standby: another emitter is active for this chain and sender, or Kafka does not answer");
        tokio::select! {
            () = shutdown.cancelled() => break Ok(()),
            () = leadership.acquired() => {}
        }
        metrics::leads(true);
        let outcome = term(&session, &mut leadership).await;
        metrics::leads(false);
        match outcome {
            Ok(()) if shutdown.is_cancelled() => break Ok(()),
            Ok(()) => tracing::warn!("leadership was lost, standing by"),
            Err(stopped) if stopped.exit == Exit::Fenced && lost_soon(&mut leadership).await => {
                tracing::warn!("another emitter took over, standing by");
            }
            Err(stopped) => break Err(stopped),
        }
    };
    // Leaving the group at once is what lets a standby take over at once; joining its thread blocks for a moment.
    let _ = tokio::task::spawn_blocking(move || leadership.resign()).await;
    outcome
}

async fn term(session: &Session, leadership: &mut Leadership) -> Result<(), Stopped> {
    // Ends with the service, and when leadership is lost.
    let stop = session.context.shutdown.child_token();
    let mut leads = leadership.watch();
    let lost = stop.clone();
    let watch = tokio::spawn(async move {
        let _ = leads.wait_for(|leads| !leads).await;
        lost.cancel();
    });
    let outcome = session.run(stop).await;
    watch.abort();
    outcome
}

/// Being fenced and losing the leadership are one happening, seen by two clients.
async fn lost_soon(leadership: &mut Leadership) -> bool {
    const LONGEST_SESSION: Duration = Duration::from_secs(30);
    tokio::time::timeout(LONGEST_SESSION, leadership.lost()).await.is_ok()
}
