//! One endpoint: its URL (a secret), its HTTP client, and whether it is in use.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use tokio::sync::Semaphore;
use url::Url;

use super::error::{OutageCause, shorten};
use super::wire::{self, Answer, Call};
use super::{RpcConfig, RpcConfigError};
use crate::metrics::EndpointLabels;

/// The URL of an RPC endpoint. Paths, queries and user names of such URLs hold API keys, so only scheme, host and port
/// are ever printed.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointUrl(Url);

impl EndpointUrl {
    /// Reads an `http` or `https` URL.
    ///
    /// # Errors
    /// It is none. The message does not repeat it.
    pub fn parse(text: &str) -> Result<Self, RpcConfigError> {
        let url = Url::parse(text.trim()).map_err(|error| RpcConfigError::Url(error.to_string()))?;
        match url.scheme() {
            "http" | "https" if url.has_host() => Ok(Self(url)),
            other => Err(RpcConfigError::Scheme(other.to_owned())),
        }
    }

    fn is_loopback(&self) -> bool {
        match self.0.host_str() {
            Some("localhost") => true,
            Some(host) => host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
            None => false,
        }
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.0.host_str().unwrap_or_default())?;
        match self.0.port() {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whether an endpoint is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Up,
    Down {
        since: Instant,
        failures: u32,
        /// It answers as well as ever, of a chain that the others have left behind: no answer lets it in again, but its head.
        is_behind: bool,
    },
}

pub(super) struct Endpoint {
    pub(super) url: EndpointUrl,
    pub(super) labels: EndpointLabels,
    client: reqwest::Client,
    slots: Semaphore,
    max_response_bytes: usize,
    health: Mutex<Health>,
    /// A probe task runs.
    pub(super) probing: AtomicBool,
    /// The endpoint reported the configured chain id.
    pub(super) verified: AtomicBool,
    /// Latest head that it reported; 0 before the first.
    head: AtomicU64,
    /// Calls that it takes in one batch.
    pub(super) max_batch: AtomicUsize,
    /// It offers `eth_getBlockReceipts`, as far as is known.
    pub(super) block_receipts: AtomicBool,
}

impl Endpoint {
    pub(super) fn new(config: &RpcConfig, index: usize, url: &EndpointUrl) -> Result<Self, RpcConfigError> {
        let labels = EndpointLabels::new(&config.name, index);
        labels.set_up(1.0);
        Ok(Self {
            url: url.clone(),
            labels,
            client: client(config, url)?,
            slots: Semaphore::new(config.max_in_flight.max(1)),
            max_response_bytes: config.max_response_bytes,
            health: Mutex::new(Health::Up),
            probing: AtomicBool::new(false),
            verified: AtomicBool::new(config.chain_id.is_none()),
            head: AtomicU64::new(0),
            max_batch: AtomicUsize::new(config.max_batch.max(1)),
            block_receipts: AtomicBool::new(true),
        })
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_up(&self) -> bool {
        *self.health() == Health::Up
    }

    /// Failures in a row since it went down; 0 while it is up.
    pub(super) fn failures(&self) -> u32 {
        match *self.health() {
            Health::Up => 0,
            Health::Down { failures, .. } => failures,
        }
    }

    /// It answered a call.
    pub(super) fn mark_up(&self) {
        self.come_up(|health| matches!(health, Health::Down { is_behind: false, .. }));
    }

    /// It answers, and its head is not behind the others'.
    pub(super) fn let_in(&self) {
        self.come_up(|health| health != Health::Up);
    }

    fn come_up(&self, is_due: impl FnOnce(Health) -> bool) {
        let mut health = self.health();
        if let Health::Down { since, .. } = *health
            && is_due(*health)
        {
            *health = Health::Up;
            drop(health);
            self.labels.up(&self.url.to_string(), since.elapsed());
        }
    }

    pub(super) fn mark_down(&self, cause: &OutageCause) {
        let lags = matches!(cause, OutageCause::FarBehind { .. });
        let mut health = self.health();
        match &mut *health {
            Health::Down { failures, is_behind, .. } => {
                *failures = failures.saturating_add(1);
                *is_behind |= lags;
            }
            Health::Up => {
                *health = Health::Down { since: Instant::now(), failures: 1, is_behind: lags };
                drop(health);
                self.labels.down(&self.url.to_string(), cause);
            }
        }
    }

    pub(super) fn head(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    pub(super) fn set_head(&self, number: u64) {
        self.head.store(number, Ordering::Relaxed);
        self.labels.head(number);
    }

    /// [`Self::exchange`] for calls without effect: a connection that broke, which a kept-alive one does when the node
    /// has closed it meanwhile, is tried again once.
    pub(super) async fn exchange_reading(
        &self,
        name: &'static str,
        calls: &[Call],
        timeout: Duration,
    ) -> Result<Answer, OutageCause> {
        let answer = match self.exchange(name, calls, timeout).await {
            Err(OutageCause::Transport(_)) => self.exchange(name, calls, timeout).await?,
            other => other?,
        };
        answer.unless_limited()
    }

    /// Sends one request and reads its answer. `name` is the method in metrics.
    pub(super) async fn exchange(
        &self,
        name: &'static str,
        calls: &[Call],
        timeout: Duration,
    ) -> Result<Answer, OutageCause> {
        let waiting = self.labels.waiting();
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        drop(waiting);
        let _in_flight = self.labels.in_flight();
        let started = Instant::now();
        let exchanged = tokio::time::timeout(timeout, self.post(wire::encode(calls)))
            .await
            .unwrap_or(Err(OutageCause::Timeout(timeout)))
            .and_then(|body| body.read(calls.len()));
        let outcome = match &exchanged {
            Ok(_) => "answer",
            Err(cause) => cause.outcome(),
        };
        self.labels.request(name, outcome, calls.len(), started.elapsed());
        exchanged
    }

    async fn post(&self, body: Vec<u8>) -> Result<Body, OutageCause> {
        let request = self.client.post(self.url.0.clone()).header("content-type", "application/json").body(body);
        let response = request.send().await.map_err(transport)?;
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(transport)?;
            if bytes.len() + chunk.len() > self.max_response_bytes {
                return Err(OutageCause::TooLarge(self.max_response_bytes));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Body { status, bytes })
    }
}

struct Body {
    status: u16,
    bytes: Vec<u8>,
}

impl Body {
    /// A provider may give a JSON-RPC error with an HTTP status that blames the request; that is an answer. A status
    /// that blames the provider or the account is none, whatever stands in the body.
    fn read(&self, calls: usize) -> Result<Answer, OutageCause> {
        match self.status {
            200..=299 => wire::decode(&self.bytes, calls),
            429 => Err(OutageCause::RateLimited(format!("HTTP status {}", self.status))),
            401 | 403 | 407 | 408 => Err(OutageCause::Status(self.status)),
            400..=499 => wire::decode(&self.bytes, calls).map_err(|_| OutageCause::Status(self.status)),
            _ => Err(OutageCause::Status(self.status)),
        }
    }
}

/// The error without the URL, with the innermost reason, which is the one that helps.
fn transport(error: reqwest::Error) -> OutageCause {
    let connect = error.is_connect();
    let timeout = error.is_timeout();
    let error = error.without_url();
    let mut reason: &dyn std::error::Error = &error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    let text = shorten(&reason.to_string());
    match (connect, timeout) {
        (true, _) => OutageCause::Connect(text),
        (false, _) => OutageCause::Transport(text),
    }
}

fn client(config: &RpcConfig, url: &EndpointUrl) -> Result<reqwest::Client, RpcConfigError> {
    let mut builder = reqwest::Client::builder()
        .connect_timeout(config.connect_timeout)
        .pool_max_idle_per_host(config.max_in_flight.max(1))
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none());
    if url.is_loopback() {
        builder = builder.no_proxy();
    }
    if url.0.scheme() == "http" {
        // No certificates are needed, and a machine without any must not be refused.
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| RpcConfigError::Client(error.to_string()))?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder = builder.tls_backend_preconfigured(tls);
    } else if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Another thread may be faster, with the same result.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    builder.build().map_err(|error| RpcConfigError::Client(error.without_url().to_string()))
}
