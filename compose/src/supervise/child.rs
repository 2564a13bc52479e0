//! One child process: its group, its log, its end.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::sync::watch;

use crate::error::StackError;
use crate::workspace::Workspace;

/// How long dropping a [`Process`] waits for the kernel to end it.
const DROP_WAIT: Duration = Duration::from_secs(2);

/// What to start.
#[derive(Clone, Debug)]
pub struct Launch {
    pub(crate) name: String,
    program: PathBuf,
    args: Vec<OsString>,
    envs: Vec<(OsString, OsString)>,
}

impl Launch {
    /// `name` is the process's name in the stack and its log file's.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), program: program.into(), args: Vec::new(), envs: Vec::new() }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.envs.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }
}

/// A running or ended child. Dropping it kills its group.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    log: PathBuf,
    exit: watch::Receiver<Option<ExitStatus>>,
    ended: std::sync::Mutex<mpsc::Receiver<()>>,
    // Keeps the run directory and the reaper for as long as anything runs.
    _workspace: Workspace,
}

impl Process {
    /// Starts `launch` in the workspace; its output is appended to `logs/NAME.log`.
    ///
    /// # Errors
    /// [`StackError::Io`] when the log cannot be opened or the process cannot be created. A program that does not exist is
    /// seen as an early exit with status 127, and its log says so.
    pub fn spawn(workspace: &Workspace, launch: &Launch) -> Result<Self, StackError> {
        let name = launch.name.clone();
        let what = || format!("starting {name}");
        let log = workspace.log_path(&name);
        let out = File::options().create(true).append(true).open(&log).map_err(StackError::io(what()))?;
        let err = out.try_clone().map_err(StackError::io(what()))?;
        let mut command = Command::new("sh");
        command
            .args(["-c", r#"read -r go && exec "$0" "$@" </dev/null"#])
            .arg(&launch.program)
            .args(&launch.args)
            .envs(launch.envs.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            .process_group(0);
        // The stack's processes are configured by what the stack wrote, not by what the user's shell has set for a connector.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("KMS_CONNECTOR_")) {
            command.env_remove(key);
        }
        let mut child = command.spawn().map_err(StackError::io(what()))?;
        let pid = child.id();
        let gate = child.stdin.take();
        let told = workspace.reaper().watch(pid);
        let (exit_sender, exit) = watch::channel(None);
        let (ended_sender, ended) = mpsc::channel();
        let reaper = workspace.reaper().clone();
        let waiting = std::thread::Builder::new().name(format!("wait-{pid}")).spawn(move || {
            let status = child.wait().unwrap_or_else(|_| ExitStatus::from_raw(-1));
            // What the child itself started must not outlive it.
            let _ = killpg(group(pid), Signal::SIGKILL);
            reaper.forget(pid);
            exit_sender.send_replace(Some(status));
            drop(ended_sender);
        });
        let process = Self {
            name: name.clone(),
            pid,
            log,
            exit,
            ended: std::sync::Mutex::new(ended),
            _workspace: workspace.clone(),
        };
        // From here on dropping `process` ends the child, whatever fails.
        told?;
        waiting.map_err(StackError::io(what()))?;
        if let Some(mut gate) = gate {
            gate.write_all(b"go\n").map_err(StackError::io(what()))?;
        }
        Ok(process)
    }

    /// Name in the stack.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id, which is also the id of its group.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Sends a signal to the whole group; nothing happens when it has ended.
    pub fn signal(&self, signal: Signal) {
        if self.exited().is_none() {
            let _ = killpg(group(self.pid), signal);
        }
    }

    /// Waits for the end.
    pub async fn wait(&self) -> ExitStatus {
        let mut exit = self.exit.clone();
        let status = exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
        status.unwrap_or_else(|| ExitStatus::from_raw(-1))
    }

    /// SIGKILL, then waits for the end.
    pub async fn kill(&self) -> ExitStatus {
        self.signal(Signal::SIGKILL);
        self.wait().await
    }

    /// SIGTERM, and SIGKILL after `grace`; waits for the end.
    pub async fn terminate(&self, grace: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        match tokio::time::timeout(grace, self.wait()).await {
            Ok(status) => status,
            Err(_) => self.kill().await,
        }
    }

    /// The last `lines` lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.exited().is_some() {
            return;
        }
        self.signal(Signal::SIGKILL);
        let ended = self.ended.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let _ = ended.recv_timeout(DROP_WAIT);
    }
}

fn group(pid: u32) -> Pid {
    // Process ids are positive and far below 2^31 on every Unix.
    Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX))
}

/// The last `lines` lines of a file; empty when it cannot be read.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let bytes = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
