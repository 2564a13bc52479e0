//! A process of the stack that can be killed and started again.

use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::StackError;
use crate::supervise::{Launch, Process, Signal};
use crate::workspace::Workspace;

/// How often a starting process is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// How much of a log goes into an error.
const TAIL_LINES: usize = 25;

/// A process with the command to start it again. All methods take `&self`, so that tests can share one.
#[derive(Debug)]
pub struct Supervised {
    workspace: Workspace,
    launch: Launch,
    process: Mutex<Option<Arc<Process>>>,
}

impl Supervised {
    /// Not started yet.
    pub fn new(workspace: &Workspace, launch: Launch) -> Self {
        Self { workspace: workspace.clone(), launch, process: Mutex::new(None) }
    }

    /// Name in the stack.
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// Where its output goes, over all its starts.
    pub fn log_path(&self) -> PathBuf {
        self.workspace.log_path(&self.launch.name)
    }

    /// Its whole output so far; empty when there is none.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// Starts it, unless it runs.
    ///
    /// # Errors
    /// As [`Process::spawn`].
    pub fn start(&self) -> Result<Arc<Process>, StackError> {
        let mut slot = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = slot.as_ref().filter(|process| process.exited().is_none()) {
            return Ok(running.clone());
        }
        let process = Arc::new(Process::spawn(&self.workspace, &self.launch)?);
        *slot = Some(process.clone());
        Ok(process)
    }

    /// The process of the last start, running or ended.
    pub fn process(&self) -> Option<Arc<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Process id of the last start.
    pub fn pid(&self) -> Option<u32> {
        self.process().map(|process| process.pid())
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.process().is_some_and(|process| process.exited().is_none())
    }

    /// Sends a signal; nothing happens when it does not run.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = self.process() {
            process.signal(signal);
        }
    }

    /// SIGKILL, and waits for its end. `None` when it was never started.
    pub async fn kill(&self) -> Option<ExitStatus> {
        match self.process() {
            Some(process) => Some(process.kill().await),
            None => None,
        }
    }

    /// SIGTERM, SIGKILL after `grace`, and waits for its end. `None` when it was never started.
    pub async fn stop(&self, grace: Duration) -> Option<ExitStatus> {
        match self.process() {
            Some(process) => Some(process.terminate(grace).await),
            None => None,
        }
    }

    /// Looks at `ready` until it says yes, the process ends, or `limit` has passed. `ready` says what is missing.
    ///
    /// # Errors
    /// [`StackError::Died`] or [`StackError::NotReady`], with the end of the log.
    pub async fn ready(
        &self,
        limit: Duration,
        mut ready: impl AsyncFnMut() -> Result<(), String>,
    ) -> Result<(), StackError> {
        let begun = Instant::now();
        loop {
            let last = match ready().await {
                Ok(()) => return Ok(()),
                Err(missing) => missing,
            };
            self.still_running()?;
            if begun.elapsed() > limit {
                return Err(StackError::NotReady {
                    name: self.name().to_owned(),
                    waited: begun.elapsed(),
                    last,
                    tail: self.log_tail(),
                    log: self.log_path(),
                });
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// An error with the end of the log when the process has ended.
    pub(crate) fn still_running(&self) -> Result<(), StackError> {
        match self.process().and_then(|process| process.exited()) {
            None => Ok(()),
            Some(status) => Err(StackError::Died {
                name: self.name().to_owned(),
                how: status.to_string(),
                tail: self.log_tail(),
                log: self.log_path(),
            }),
        }
    }

    fn log_tail(&self) -> String {
        super::child::tail(&self.log_path(), TAIL_LINES)
    }
}
