//! What every part of one run shares: the run directory, the reaper, the cache of fetched parts, the progress display.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::StackError;
use crate::parts::Cache;
use crate::progress::Progress;
use crate::supervise::Reaper;

/// The surroundings of one run. Cheap to clone; the run directory is removed when the last clone is gone, unless it is kept.
#[derive(Clone, Debug)]
pub struct Workspace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    program: PathBuf,
    dir: PathBuf,
    keep: AtomicBool,
    names: Mutex<HashSet<String>>,
    reaper: Arc<Reaper>,
    cache: Cache,
    progress: Progress,
}

/// How a [`Workspace`] is laid out.
#[derive(Debug)]
pub struct WorkspaceOptions {
    /// The multi-call program, `kms-stack` or one that calls its `main`: started as `program reaper`, `program ingest`, …
    pub program: PathBuf,
    /// The run directory, kept after the run; absent: a new one under the system's directory for temporary files.
    pub run_dir: Option<PathBuf>,
    /// Whether the run directory outlives the run.
    pub keep: bool,
    /// Whether the reaper removes the run directory of a run that ended without doing so. Test processes end so, since what their
    /// tests share lives until the end; somebody who kills a run of the program may want to look at it.
    pub remove_when_killed: bool,
    /// Where progress is shown.
    pub progress: Progress,
}

impl WorkspaceOptions {
    /// A new temporary run directory, removed at the end of the run, and no progress display.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            run_dir: None,
            keep: false,
            remove_when_killed: true,
            progress: Progress::silent(),
        }
    }
}

impl Workspace {
    /// Makes the run directory and starts the reaper.
    ///
    /// # Errors
    /// [`StackError::Usage`] when the directory asked for has something in it, [`StackError::Io`] when it cannot be made or the
    /// reaper cannot be started.
    pub fn create(options: WorkspaceOptions) -> Result<Self, StackError> {
        let cache = Cache::locate()?;
        // Whoever names a directory wants to find something in it.
        let keep = options.keep || options.run_dir.is_some();
        let dir = match options.run_dir {
            Some(dir) => empty_dir(&dir)?,
            None => tempfile::Builder::new()
                .prefix("kms-stack-")
                .tempdir()
                .map_err(StackError::io("creating the run directory"))?
                .keep(),
        };
        for folder in ["logs", "data", "config"] {
            std::fs::create_dir_all(dir.join(folder)).map_err(StackError::io(dir.display().to_string()))?;
        }
        let reaper = Arc::new(Reaper::start(&options.program)?);
        if options.remove_when_killed && !keep {
            reaper.remove_at_end(&dir)?;
        }
        let keep = AtomicBool::new(keep);
        Ok(Self(Arc::new(Inner {
            program: options.program,
            dir,
            keep,
            names: Mutex::default(),
            reaper,
            cache,
            progress: options.progress,
        })))
    }

    /// The run directory: `logs/`, `config/` and `data/`.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// The multi-call program.
    pub fn program(&self) -> &Path {
        &self.0.program
    }

    /// The log file of the process of that name.
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.0.dir.join("logs").join(format!("{name}.log"))
    }

    /// Keeps the run directory, for whoever looks into why a run failed.
    pub fn keep(&self) {
        self.0.keep.store(true, Ordering::Relaxed);
        self.0.reaper.keep_at_end(&self.0.dir);
    }

    /// Has the run directory removed even if this process ends without doing so, unless it is kept.
    pub(crate) fn discard(&self) {
        if !self.is_kept() {
            // Without a reaper the directory stays among the temporary files.
            let _ = self.0.reaper.remove_at_end(&self.0.dir);
        }
    }

    /// Whether the run directory is kept.
    pub fn is_kept(&self) -> bool {
        self.0.keep.load(Ordering::Relaxed)
    }

    /// Where progress is shown.
    pub fn progress(&self) -> &Progress {
        &self.0.progress
    }

    /// The cache of fetched parts.
    pub fn cache(&self) -> &Cache {
        &self.0.cache
    }

    pub(crate) fn reaper(&self) -> &Arc<Reaper> {
        &self.0.reaper
    }

    /// A name for a part's processes, files and directory that no other part of this run has: `anvil`, then `anvil-2`, …
    pub(crate) fn claim(&self, base: &str) -> String {
        let mut names = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        let numbered = (2_u32..).map(|number| format!("{base}-{number}"));
        let free = std::iter::once(base.to_owned()).chain(numbered).find(|name| !names.contains(name));
        let name = free.unwrap_or_else(|| base.to_owned());
        names.insert(name.clone());
        name
    }

    /// A new directory `data/NAME` for a part.
    pub(crate) fn data_dir(&self, name: &str) -> Result<PathBuf, StackError> {
        let dir = self.0.dir.join("data").join(name);
        std::fs::create_dir_all(&dir).map_err(StackError::io(dir.display().to_string()))?;
        Ok(dir)
    }

    /// Writes a file under the run directory and returns its path.
    pub(crate) fn write(&self, path: &str, content: &str) -> Result<PathBuf, StackError> {
        let path = self.0.dir.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(StackError::io(parent.display().to_string()))?;
        }
        std::fs::write(&path, content).map_err(StackError::io(path.display().to_string()))?;
        Ok(path)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed) {
            // The last process may still be closing files; the directory is temporary in any case.
            for _ in 0..3 {
                if std::fs::remove_dir_all(&self.dir).is_ok() {
                    break;
                }
            }
        }
    }
}

fn empty_dir(dir: &Path) -> Result<PathBuf, StackError> {
    let io = || |error| StackError::Usage(format!("--run-dir {}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(io())?;
    if std::fs::read_dir(dir).map_err(io())?.next().is_some() {
        return Err(StackError::Usage(format!("--run-dir {}: the directory is not empty", dir.display())));
    }
    // Absolute, since it goes into configuration files that other processes read.
    dir.canonicalize().map_err(io())
}
