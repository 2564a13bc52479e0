//! Logs and metrics of a process.

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Json, JsonFields};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::{FormatFields, SubscriberBuilder};

use crate::config::{LogFormat, TelemetryConfig};

/// Bounds of every histogram whose name ends in `_seconds`: 1 ms to 10 min.
const SECONDS_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0, 600.0];

/// Reads a log filter.
///
/// # Errors
/// What is wrong with it.
pub fn parse_filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::builder().parse(text).map_err(|error| error.to_string())
}

/// Starts logging as configured. Later calls in one process do nothing.
pub fn init_logs(config: &TelemetryConfig) {
    let filter = parse_filter(&config.log_filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let as_text = match config.log_format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let base = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second initialisation means that an embedding program has its own; it keeps it.
    let _ = if as_text {
        base.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init()
    } else {
        as_json(base).try_init()
    };
}

/// One JSON object per line, the event's fields beside its text. Fields must not be called `message`, `level`, `target`
/// or `timestamp`, which would be there twice.
pub(crate) fn as_json<N, F, W>(
    base: SubscriberBuilder<N, Format<Full, SystemTime>, F, W>,
) -> SubscriberBuilder<JsonFields, Format<Json, SystemTime>, F, W>
where
    N: for<'writer> FormatFields<'writer> + 'static,
{
    base.json().flatten_event(true).with_current_span(false).with_span_list(false)
}

/// Installs the Prometheus recorder of this process once, and hands out its reader.
pub fn metrics_handle() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    let install = || {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
            .unwrap_or_default()
            .build_recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed, /metrics stays empty");
        }
        handle
    };
    HANDLE.get_or_init(install).clone()
}

/// Keeps the recorder's buffers small; must be polled for as long as metrics are recorded.
pub async fn maintain_metrics(handle: PrometheusHandle) {
    const EVERY: Duration = Duration::from_secs(5);
    loop {
        tokio::time::sleep(EVERY).await;
        handle.run_upkeep();
    }
}

/// Makes `ring` the process's TLS provider. Later calls do nothing.
pub fn install_tls_provider() {
    // An error only says that a provider is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
