//! The process that kills what a dead stack left behind.

use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::error::StackError;

/// How long the reaper tries to remove directories.
const GONE_DEADLINE: Duration = Duration::from_secs(10);

/// The stack's end of the pipe.
#[derive(Debug)]
pub(crate) struct Reaper {
    pipe: Mutex<ChildStdin>,
}

impl Reaper {
    /// Starts the reaper: `program reaper`, in a group of its own so that Ctrl-C on the terminal does not reach it.
    pub(crate) fn start(program: &Path) -> Result<Self, StackError> {
        let what = || format!("starting the reaper ({} reaper)", program.display());
        let mut child = Command::new(program)
            .arg("reaper")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(StackError::io(what()))?;
        let pipe = child.stdin.take().ok_or_else(|| StackError::io(what())(std::io::ErrorKind::BrokenPipe.into()))?;
        // It ends by itself when the pipe closes; somebody has to collect its status.
        std::thread::Builder::new()
            .name("wait-reaper".to_owned())
            .spawn(move || child.wait())
            .map_err(StackError::io(what()))?;
        Ok(Self { pipe: Mutex::new(pipe) })
    }

    /// A group started.
    pub(crate) fn watch(&self, group: u32) -> Result<(), StackError> {
        self.tell(&format!("+{group}"))
    }

    /// A group ended.
    pub(crate) fn forget(&self, group: u32) {
        // A reaper that is gone has nothing to forget.
        let _ = self.tell(&format!("-{group}"));
    }

    /// A directory to remove at the end, when nobody else did.
    pub(crate) fn remove_at_end(&self, dir: &Path) -> Result<(), StackError> {
        self.tell(&format!("d{}", dir.display()))
    }

    /// A directory not to remove after all.
    pub(crate) fn keep_at_end(&self, dir: &Path) {
        // Without a reaper nobody removes it.
        let _ = self.tell(&format!("k{}", dir.display()));
    }

    fn tell(&self, line: &str) -> Result<(), StackError> {
        let mut pipe = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        pipe.write_all(format!("{line}\n").as_bytes()).map_err(StackError::io("telling the reaper"))
    }
}

/// The reaper itself: reads what starts and ends until the pipe closes, then kills every group that is left and removes the
/// directories it was given.
pub fn run_reaper(input: impl BufRead) {
    let mut groups: Vec<Pid> = Vec::new();
    let mut dirs: Vec<PathBuf> = Vec::new();
    for line in input.lines() {
        let Ok(line) = line else { break };
        let group = || line[1..].parse::<i32>().ok().filter(|group| *group > 1).map(Pid::from_raw);
        match line.as_bytes().first() {
            Some(b'+') => groups.extend(group()),
            Some(b'-') => groups.retain(|known| Some(*known) != group()),
            Some(b'd') => dirs.push(PathBuf::from(&line[1..])),
            Some(b'k') => dirs.retain(|dir| dir != Path::new(&line[1..])),
            _ => {}
        }
    }
    let deadline = Instant::now() + GONE_DEADLINE;
    loop {
        // Again and again: a group may just have been starting another process, and one that is ending may still write a file.
        groups.retain(|group| killpg(*group, Signal::SIGKILL) != Err(Errno::ESRCH));
        dirs.retain(|dir| std::fs::remove_dir_all(dir).is_err() && dir.exists());
        // Without directories there is nothing to wait for; a group whose new parent never collects it would last for ever.
        if dirs.is_empty() || Instant::now() > deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
