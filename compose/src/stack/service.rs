//! One of the three services as a process of the stack.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::StackError;
use crate::http::http_client;
use crate::supervise::{Launch, Supervised};
use crate::workspace::Workspace;

/// A service that was killed may have to wait for its group's session and its transaction to time out.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// A service drains in seconds; only a machine that stalls makes it take longer.
const STOP_GRACE: Duration = Duration::from_secs(60);
/// One of many looks while it starts.
const LOOK_LIMIT: Duration = Duration::from_secs(5);
const METRICS_LIMIT: Duration = Duration::from_secs(30);

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceKind {
    /// Chain to requests topics.
    Ingest,
    /// Requests topics to results topics.
    Processor,
    /// Results topics to chain.
    Emitter,
}

impl ServiceKind {
    /// All three, in the order of the data.
    pub const ALL: [Self; 3] = [Self::Ingest, Self::Processor, Self::Emitter];

    /// Its name, which is also the subcommand that runs it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Processor => "processor",
            Self::Emitter => "emitter",
        }
    }
}

impl fmt::Display for ServiceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A service process with its configuration file.
#[derive(Debug)]
pub struct Service {
    kind: ServiceKind,
    process: Supervised,
    config: PathBuf,
    listen: SocketAddr,
}

impl Service {
    pub(super) fn new(
        workspace: &Workspace,
        kind: ServiceKind,
        name: String,
        config: PathBuf,
        listen: SocketAddr,
        settings: &[String],
    ) -> Self {
        let mut launch = Launch::new(name, workspace.program()).arg(kind.name()).arg("--config").arg(&config);
        for setting in settings {
            launch = launch.arg("--set").arg(setting);
        }
        Self { kind, process: Supervised::new(workspace, launch), config, listen }
    }

    /// Which service.
    pub fn kind(&self) -> ServiceKind {
        self.kind
    }

    /// Its process: to be killed, paused and started again by tests; follow a start with [`Service::wait_ready`].
    pub fn process(&self) -> &Supervised {
        &self.process
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Address of `/healthz`, `/readyz` and `/metrics`.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Address of its metrics.
    pub fn metrics_url(&self) -> String {
        format!("http://{}/metrics", self.listen)
    }

    /// Waits until `/readyz` says yes.
    ///
    /// # Errors
    /// [`StackError::Died`] and [`StackError::NotReady`] with the end of its log.
    pub async fn wait_ready(&self) -> Result<(), StackError> {
        let client = http_client();
        let url = format!("http://{}/readyz", self.listen);
        self.process
            .ready(READY_LIMIT, async || {
                let response = client.get(&url).timeout(LOOK_LIMIT).send().await.map_err(|error| error.to_string())?;
                let status = response.status();
                if status.is_success() {
                    return Ok(());
                }
                Err(format!("{url} answers {status}: {}", response.text().await.unwrap_or_default()))
            })
            .await
    }

    /// Starts it, unless it runs, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Supervised::start`] and [`Service::wait_ready`].
    pub async fn start(&self) -> Result<(), StackError> {
        self.process.start()?;
        self.wait_ready().await
    }

    /// SIGKILL, and waits for its end.
    pub async fn kill(&self) {
        self.process.kill().await;
    }

    /// SIGTERM and, much later, SIGKILL; its exit status.
    pub async fn stop(&self) -> Option<std::process::ExitStatus> {
        self.process.stop(STOP_GRACE).await
    }

    /// Its metrics in the text format of Prometheus.
    ///
    /// # Errors
    /// The transport's.
    pub async fn metrics(&self) -> Result<String, reqwest::Error> {
        http_client().get(self.metrics_url()).timeout(METRICS_LIMIT).send().await?.text().await
    }

    /// The sum of a metric over all its labels; `None` when it does not answer or has no such metric.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        sum_of(&self.metrics().await.ok()?, name)
    }
}

/// The sum over all series of one metric.
fn sum_of(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.as_bytes().first()? {
            b' ' => rest,
            b'{' => rest.rsplit_once('}')?.1,
            _ => return None,
        };
        value.split_whitespace().next()?.parse::<f64>().ok()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_told_from_longer_names() {
        let text = "# HELP a_total x\n# TYPE a_total counter\na_total{kind=\"x } y\"} 2\na_total{kind=\"z\"} 3 17\na_total_more 9\nb 1.5\n";
        assert_eq!(sum_of(text, "a_total"), Some(5.0));
        assert_eq!(sum_of(text, "b"), Some(1.5));
        assert_eq!(sum_of(text, "c"), None);
    }
}
