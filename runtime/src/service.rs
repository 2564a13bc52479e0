//! The life of a service process, the same for all three.
//!
//! ```text
//! command line → configuration → logs, metrics, health → broker reachable → topics → probe → codec → run → exit code
//! ```

use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_schemas::codec::Codec;
use kms_schemas::codes::REGISTRY_UNREACHABLE;
use kms_schemas::topics::Topics;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::sync::CancellationToken;

use crate::cli::{Invocation, read};
use crate::config::{Configuration, SchemaRegistryConfig, TelemetryConfig};
use crate::http::{Check, Health, Server};
use crate::kafka::{KafkaConfig, check_session, ensure_topics, probe, probe_topic, wait_for_broker};
use crate::retry::Backoff;
use crate::shutdown::{Exit, Stopped, on_signal};
use crate::{codes, healthcheck, telemetry};

/// A service: its name, its configuration and what it does once everything it stands on is there.
pub trait Service: Send + 'static {
    /// The whole configuration.
    type Config: Configuration + Send + 'static;
    /// Name in transactional ids, metrics and records: `ingest`.
    const NAME: &'static str;
    /// Name of the program: `kms-ingest`.
    const PROGRAM: &'static str;
    /// One sentence for `--help`.
    const ABOUT: &'static str;

    /// The `[kafka]` section.
    fn kafka(config: &Self::Config) -> &KafkaConfig;
    /// The `[schema_registry]` section.
    fn schema_registry(config: &Self::Config) -> &SchemaRegistryConfig;
    /// The `[telemetry]` section.
    fn telemetry(config: &Self::Config) -> &TelemetryConfig;

    /// Runs until the shutdown token is cancelled, then finishes or parks its work and returns `Ok`.
    fn run(config: Self::Config, context: Context) -> impl Future<Output = Result<(), Stopped>> + Send;
}

/// What a running service stands on.
#[derive(Clone, Debug)]
pub struct Context {
    /// Name of the service.
    pub service: &'static str,
    /// Cancelled by the first signal.
    pub shutdown: CancellationToken,
    /// Readiness checks.
    pub health: Health,
    /// The `[kafka]` section.
    pub kafka: Arc<KafkaConfig>,
    /// Names of the topics.
    pub topics: Topics,
    /// Encodes and decodes records.
    pub codec: Codec,
}

/// Reads the command line (first argument: the program's name), runs the service and tells how the process must end.
pub fn main_from<S: Service>(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let loaded = match read::<S::Config>(S::PROGRAM, S::ABOUT, args) {
        Invocation::Run(loaded) => loaded,
        Invocation::Healthcheck(loaded, ready) => return healthcheck::run(S::telemetry(&loaded.config), ready),
        Invocation::Done(code) => return code,
    };
    telemetry::init_logs(S::telemetry(&loaded.config));
    telemetry::install_tls_provider();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the async runtime cannot be started");
            return Exit::Internal.into();
        }
    };
    let outcome = runtime.block_on(supervise::<S>(loaded.config));
    // Clients with a blocking call in flight must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(2));
    match outcome {
        Ok(()) => {
            tracing::info!("ended as asked");
            Exit::Ok.into()
        }
        Err(stopped) if stopped.exit == Exit::Ok => {
            tracing::info!(reason = stopped.text, "ended as asked, before it had started");
            Exit::Ok.into()
        }
        Err(stopped) => {
            tracing::error!(code = stopped.code, exit = stopped.exit.code(), reason = stopped.text, "ended");
            stopped.exit.into()
        }
    }
}

async fn supervise<S: Service>(config: S::Config) -> Result<(), Stopped> {
    let internal = |error: std::io::Error| Stopped::new(Exit::Internal, &codes::INTERNAL, error.to_string());
    let shutdown = on_signal().map_err(internal)?;
    let metrics = telemetry::metrics_handle();
    tokio::spawn(telemetry::maintain_metrics(metrics.clone()));
    let health = Health::default();
    let check = health.check("kafka");
    let server = bind(S::telemetry(&config), &health, &metrics, &shutdown).await?;
    let stop_server = CancellationToken::new();
    tokio::spawn(server.run(stop_server.clone()));

    let kafka = Arc::new(S::kafka(&config).clone());
    let topics = Topics::new(&kafka.topic_prefix);
    check_cluster(S::NAME, kafka.clone(), topics.clone(), check.clone(), shutdown.clone()).await?;
    let codec = codec(S::schema_registry(&config), &topics, &check, &shutdown).await?;
    tracing::info!(service = S::NAME, version = env!("CARGO_PKG_VERSION"), prefix = topics.prefix(), "running");
    let context = Context { service: S::NAME, shutdown, health, kafka, topics, codec };
    let outcome = tokio::select! {
        // In this order: the service's own checks are there before this one says yes.
        biased;
        outcome = S::run(config, context) => outcome,
        outcome = async { check.ready(); std::future::pending().await } => outcome,
    };
    stop_server.cancel();
    outcome
}

/// Binds the address for health and metrics. A predecessor that is just ending holds it for a moment.
async fn bind(
    config: &TelemetryConfig,
    health: &Health,
    metrics: &PrometheusHandle,
    shutdown: &CancellationToken,
) -> Result<Server, Stopped> {
    const PATIENCE: Duration = Duration::from_secs(10);
    const PAUSE: Duration = Duration::from_millis(200);
    let give_up = Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        let error = match Server::bind(config, health.clone(), metrics.clone()).await {
            Ok(server) => return Ok(server),
            Err(error) => error,
        };
        let text = format!("{}: {error}", config.listen);
        if error.kind() != ErrorKind::AddrInUse || Instant::now() >= give_up {
            return Err(Stopped::new(Exit::Configuration, &codes::LISTEN, text));
        }
        if !told {
            tracing::warn!(address = %config.listen, "the address for health and metrics is in use, trying again");
            told = true;
        }
        tokio::select! {
            () = shutdown.cancelled() => return Err(Stopped::new(Exit::Ok, &codes::LISTEN, text)),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Everything about the cluster that must be right before any work is done. Blocking calls, so on a thread for such.
async fn check_cluster(
    service: &'static str,
    kafka: Arc<KafkaConfig>,
    topics: Topics,
    check: Check,
    shutdown: CancellationToken,
) -> Result<(), Stopped> {
    let blocking = move || {
        let keep_on = || !shutdown.is_cancelled();
        let on_outage = |reason: &str| check.not_ready(reason);
        wait_for_broker(&kafka, service, keep_on, on_outage).map_err(|error| error.stopped())?;
        check_session(&kafka, service, keep_on, on_outage).map_err(|error| error.stopped())?;
        let mut specs = topics.all();
        if kafka.probe {
            specs.push(probe_topic(&kafka));
        }
        // What differs is logged.
        ensure_topics(&kafka, service, &specs, keep_on, on_outage).map(drop).map_err(|error| error.stopped())?;
        if kafka.probe { probe(&kafka, service, keep_on) } else { Ok(()) }
    };
    match tokio::task::spawn_blocking(blocking).await {
        Ok(outcome) => outcome,
        Err(error) => Err(Stopped::new(Exit::Internal, &codes::INTERNAL, error.to_string())),
    }
}

async fn codec(
    config: &SchemaRegistryConfig,
    topics: &Topics,
    check: &Check,
    shutdown: &CancellationToken,
) -> Result<Codec, Stopped> {
    const RETRY: Backoff = Backoff { first: Duration::from_millis(200), max: Duration::from_secs(5), factor: 2.0 };
    let Some(url) = &config.url else { return Ok(Codec::single_object()) };
    let mut failures = 0;
    loop {
        let error = match Codec::with_registry(url.expose().as_str(), topics).await {
            Ok(codec) => return Ok(codec),
            Err(error) if error.is_outage() => error,
            Err(error) => return Err(Stopped { exit: Exit::Refused, code: error.code(), text: error.to_string() }),
        };
        failures += 1;
        if failures == 1 {
            tracing::warn!(code = error.code(), registry = %url, %error, "the schema registry cannot be reached, trying again");
            check.not_ready("the schema registry cannot be reached");
        }
        tokio::select! {
            () = shutdown.cancelled() => {
                return Err(Stopped::new(Exit::Ok, &REGISTRY_UNREACHABLE, "shut down before the registry answered"));
            }
            () = tokio::time::sleep(RETRY.delay(failures, rand::random())) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_address_that_a_predecessor_still_holds_is_waited_for() {
        let predecessor = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let config =
            TelemetryConfig { listen: predecessor.local_addr().expect("it is bound"), ..TelemetryConfig::default() };
        let (health, metrics, shutdown) = (Health::default(), telemetry::metrics_handle(), CancellationToken::new());
        let mut bound = std::pin::pin!(bind(&config, &health, &metrics, &shutdown));
        // The first attempt fails at once, and nothing else is ready before the pause is over.
        assert!(bound.as_mut().now_or_never().is_none(), "the address is in use");
        drop(predecessor);
        let server = bound.await.map_err(|stopped| stopped.to_string()).expect("the address is free");
        assert_eq!(server.address(), config.listen);
    }
}
