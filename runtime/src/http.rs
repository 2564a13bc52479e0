//! `/healthz`, `/readyz` and `/metrics` on one address.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, RwLock};

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::TelemetryConfig;

/// The reason of a check that was never set; it is told by `/readyz` and not logged.
const STARTING: &str = "starting";

/// The named checks behind `/readyz` and `/healthz`. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Health {
    checks: Arc<RwLock<BTreeMap<String, Status>>>,
}

/// State of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "status", content = "reason", rename_all = "snake_case")]
pub enum Status {
    /// Works.
    Ready,
    /// Works, and does less than it could because a person wants it so, or another process does the work.
    Limited(String),
    /// Does not work now, and may again by itself.
    NotReady(String),
    /// Will not work again without a restart; `/healthz` fails too.
    Dead(String),
}

impl Status {
    /// Whether it works.
    #[must_use]
    pub const fn is_ready(&self) -> bool {
        matches!(self, Self::Ready | Self::Limited(_))
    }
}

impl Health {
    /// A handle for one check, which starts as not ready.
    #[must_use]
    pub fn check(&self, name: impl Into<String>) -> Check {
        let check = Check { name: name.into(), health: self.clone() };
        check.not_ready(STARTING);
        check
    }

    /// All checks.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<String, Status> {
        self.checks.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn set(&self, name: &str, status: Status, passing: bool) {
        let known = |checks: &BTreeMap<String, Status>| checks.get(name) == Some(&status);
        if known(&self.checks.read().unwrap_or_else(std::sync::PoisonError::into_inner)) {
            return;
        }
        match &status {
            Status::NotReady(reason) if reason == STARTING => {}
            Status::Ready => tracing::info!(check = name, "ready"),
            Status::Limited(reason) if passing => tracing::info!(check = name, reason, "ready"),
            Status::Limited(reason) => tracing::warn!(check = name, reason, "ready, and limited"),
            Status::NotReady(reason) if passing => tracing::info!(check = name, reason, "not ready yet"),
            Status::NotReady(reason) => tracing::warn!(check = name, reason, "not ready"),
            Status::Dead(reason) => tracing::error!(check = name, reason, "dead"),
        }
        let gauge = metrics::gauge!("kms_connector_check_ready", "check" => name.to_owned());
        gauge.set(if status.is_ready() { 1.0 } else { 0.0 });
        self.checks.write().unwrap_or_else(std::sync::PoisonError::into_inner).insert(name.to_owned(), status);
    }
}

/// One named check. A change of state is logged once and shown in `kms_connector_check_ready`.
#[derive(Clone, Debug)]
pub struct Check {
    name: String,
    health: Health,
}

impl Check {
    /// It works.
    pub fn ready(&self) {
        self.health.set(&self.name, Status::Ready, false);
    }

    /// It works, and does less than it could because a person wants it so; `/readyz` says why.
    pub fn limited(&self, reason: impl Into<String>) {
        self.health.set(&self.name, Status::Limited(reason.into()), false);
    }

    /// It works, and another process does the work; `/readyz` says so. No warning is logged.
    pub fn standby(&self, reason: impl Into<String>) {
        self.health.set(&self.name, Status::Limited(reason.into()), true);
    }

    /// It does not work now; the reason should stay the same for as long as the state does.
    pub fn not_ready(&self, reason: impl Into<String>) {
        self.health.set(&self.name, Status::NotReady(reason.into()), false);
    }

    /// It does not work now, as is to be expected at a start. No warning is logged.
    pub fn waiting(&self, reason: impl Into<String>) {
        self.health.set(&self.name, Status::NotReady(reason.into()), true);
    }

    /// It will not work again without a restart.
    pub fn dead(&self, reason: impl Into<String>) {
        self.health.set(&self.name, Status::Dead(reason.into()), false);
    }
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    checks: BTreeMap<String, Status>,
}

#[derive(Clone)]
struct Shared {
    health: Health,
    metrics: PrometheusHandle,
}

/// A server that was bound and is ready to be run.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
}

impl Server {
    /// Binds the configured address, logs it and writes it to the configured file.
    ///
    /// # Errors
    /// The address cannot be bound or the file cannot be written.
    pub async fn bind(config: &TelemetryConfig, health: Health, metrics: PrometheusHandle) -> std::io::Result<Self> {
        metrics::describe_gauge!("kms_connector_check_ready", "1 while the named readiness check passes, else 0");
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        if let Some(file) = &config.address_file {
            tokio::fs::write(file, address.to_string()).await?;
        }
        tracing::info!(%address, "serving /healthz, /readyz and /metrics");
        let router = Router::new()
            .route("/healthz", get(healthz))
            .route("/readyz", get(readyz))
            .route("/metrics", get(render))
            .with_state(Shared { health, metrics });
        Ok(Self { listener, address, router })
    }

    /// The address that was bound.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the token is cancelled.
    ///
    /// # Errors
    /// The listener fails.
    pub async fn run(self, stop: CancellationToken) -> std::io::Result<()> {
        axum::serve(self.listener, self.router).with_graceful_shutdown(stop.cancelled_owned()).await
    }
}

async fn healthz(State(shared): State<Shared>) -> impl IntoResponse {
    let checks = shared.health.snapshot();
    let ok = !checks.values().any(|status| matches!(status, Status::Dead(_)));
    report(ok, checks)
}

async fn readyz(State(shared): State<Shared>) -> impl IntoResponse {
    let checks = shared.health.snapshot();
    let ok = checks.values().all(Status::is_ready);
    report(ok, checks)
}

fn report(ok: bool, checks: BTreeMap<String, Status>) -> impl IntoResponse {
    let code = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Report { ok, checks }))
}

async fn render(State(shared): State<Shared>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4")], shared.metrics.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_ready_only_when_every_check_is() {
        let health = Health::default();
        let (kafka, source) = (health.check("kafka"), health.check("source"));
        kafka.ready();
        source.not_ready("RPC unreachable");
        assert_eq!(health.snapshot()["source"], Status::NotReady("RPC unreachable".to_owned()));
        assert!(!health.snapshot().values().all(|status| *status == Status::Ready));
        source.ready();
        assert!(health.snapshot().values().all(|status| *status == Status::Ready));
    }
}
