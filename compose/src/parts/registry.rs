//! A Confluent-compatible schema registry, for the Confluent wire format.

use std::path::Path;
use std::time::Duration;

use super::PORT_TRIES;
use super::fetch::{REGISTRY, ensure};
use super::prerequisites::Tool;
use crate::error::StackError;
use crate::http::http_client;
use crate::ports::{free_port, says_port_taken};
use crate::supervise::{Launch, Supervised};
use crate::workspace::Workspace;

const READY_LIMIT: Duration = Duration::from_secs(120);
const STOP_GRACE: Duration = Duration::from_secs(5);

/// A running registry. It keeps its schemas in memory: a restart forgets them. Dropping it ends it.
#[derive(Debug)]
pub struct Registry {
    process: Supervised,
    port: u16,
}

impl Registry {
    /// Starts a registry and waits until it lists its subjects.
    ///
    /// # Errors
    /// What fetching it can fail with; [`StackError::Died`] and [`StackError::NotReady`] with the end of its log.
    pub async fn start(workspace: &Workspace) -> Result<Self, StackError> {
        let folder = ensure(workspace, REGISTRY).await?;
        for attempt in 1.. {
            match Self::start_once(workspace, &folder).await {
                Err(StackError::Died { tail, .. }) if attempt < PORT_TRIES && says_port_taken(&tail) => {}
                result => return result,
            }
        }
        unreachable!("the last attempt returns its result")
    }

    async fn start_once(workspace: &Workspace, folder: &Path) -> Result<Self, StackError> {
        let task = workspace.progress().begin(REGISTRY.label, "starting");
        let port = free_port()?;
        let launch = Launch::new(workspace.claim("registry"), Tool::Java.program())
            .args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dquarkus.http.host=127.0.0.1"])
            .arg(format!("-Dquarkus.http.port={port}"))
            .arg("-jar")
            .arg(folder.join("apicurio-registry-app-2.6.13.Final-runner.jar"));
        let process = Supervised::new(workspace, launch);
        process.start()?;
        let registry = Self { process, port };
        registry.wait_ready().await?;
        task.done(&format!("up at {}", registry.url()));
        Ok(registry)
    }

    /// Its Confluent-compatible API.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }

    /// Its process, to be killed and started again by tests; follow with [`Registry::wait_ready`].
    pub fn process(&self) -> &Supervised {
        &self.process
    }

    /// Waits until it lists its subjects.
    ///
    /// # Errors
    /// [`StackError::Died`] and [`StackError::NotReady`] with the end of its log.
    pub async fn wait_ready(&self) -> Result<(), StackError> {
        let client = http_client();
        self.process
            .ready(READY_LIMIT, async || {
                let request = client.get(format!("{}/subjects", self.url())).timeout(Duration::from_secs(5));
                let status = request.send().await.map_err(|error| error.to_string())?.status();
                if status.is_success() { Ok(()) } else { Err(format!("it answers {status}")) }
            })
            .await
    }

    /// Stops it in order.
    pub async fn stop(&self) {
        self.process.stop(STOP_GRACE).await;
    }
}
