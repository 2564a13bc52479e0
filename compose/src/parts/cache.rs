//! The cache of fetched parts: one folder per part and pinned content, complete or absent.

use std::fs::File;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::StackError;

/// Written into a folder when everything in it was fetched and verified.
const COMPLETE: &str = ".complete";

/// The user's cache of fetched parts: `$KMS_STACK_CACHE`, else `kms-connector` in `$XDG_CACHE_HOME`, else in `~/.cache`
/// (`~/Library/Caches` on macOS).
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Where the environment says it is. Creates nothing.
    ///
    /// # Errors
    /// [`StackError::Usage`] when none of the variables is set.
    pub fn locate() -> Result<Self, StackError> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(root) = set("KMS_STACK_CACHE") {
            let root = std::path::absolute(&root).map_err(StackError::io(root.display().to_string()))?;
            return Ok(Self { root });
        }
        let home = if cfg!(target_os = "macos") { "Library/Caches" } else { ".cache" };
        // The base directory specification wants a relative XDG_CACHE_HOME ignored.
        let base = set("XDG_CACHE_HOME").filter(|path| path.is_absolute()).or_else(|| Some(set("HOME")?.join(home)));
        match base {
            Some(base) => Ok(Self { root: base.join("kms-connector") }),
            None => {
                Err(StackError::Usage("no cache directory: set HOME, XDG_CACHE_HOME or KMS_STACK_CACHE".to_owned()))
            }
        }
    }

    /// A cache in a given directory.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a part with exactly these pins.
    pub(crate) fn folder(&self, name: &str, pins: &[(&str, &str)]) -> PathBuf {
        let mut digest = Sha256::new();
        for (file, content) in pins {
            for piece in [file, content] {
                digest.update((piece.len() as u64).to_be_bytes());
                digest.update(piece.as_bytes());
            }
        }
        self.root.join(format!("{name}-{}", &hex::encode(digest.finalize())[..12]))
    }

    /// Whether that folder is complete.
    pub(crate) fn has(folder: &Path) -> bool {
        folder.join(COMPLETE).exists()
    }

    /// Takes the part's lock, waiting for another process that is fetching it. Released on drop, also when this process dies.
    /// `waiting` is called once when there is somebody to wait for. Blocks: not for a runtime's thread.
    pub(crate) fn lock(&self, name: &str, waiting: impl FnOnce()) -> Result<File, StackError> {
        let path = self.root.join(format!("{name}.lock"));
        let io = || |source| StackError::CacheUnusable { root: self.root.clone(), source };
        std::fs::create_dir_all(self.root.join("logs")).map_err(io())?;
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io())?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(std::fs::TryLockError::WouldBlock) => waiting(),
            Err(std::fs::TryLockError::Error(error)) => return Err(io()(error)),
        }
        file.lock().map_err(io())?;
        Ok(file)
    }

    /// An empty folder to fetch into. The caller holds the part's lock, so what lies there is left from a fetch that was killed.
    pub(crate) fn scratch(&self, name: &str) -> Result<PathBuf, StackError> {
        let dir = self.root.join(format!(".{name}.partial"));
        if dir.exists() {
            std::fs::remove_dir_all(&dir).map_err(StackError::io(dir.display().to_string()))?;
        }
        std::fs::create_dir_all(&dir).map_err(StackError::io(dir.display().to_string()))?;
        Ok(dir)
    }

    /// Makes a fetched and verified scratch folder the part's folder, in one step.
    pub(crate) fn publish(scratch: &Path, folder: &Path) -> Result<(), StackError> {
        let io = || StackError::io(folder.display().to_string());
        std::fs::write(scratch.join(COMPLETE), "").map_err(io())?;
        if folder.exists() {
            // Without its marker it is nobody's.
            std::fs::remove_dir_all(folder).map_err(io())?;
        }
        std::fs::rename(scratch, folder).map_err(io())
    }

    /// Where the output of a fetch is kept.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_pin_is_another_folder() {
        let cache = Cache::at("/cache");
        let one = cache.folder("kafka-1", &[("pom.xml", "a")]);
        assert_eq!(one, cache.folder("kafka-1", &[("pom.xml", "a")]));
        assert_ne!(one, cache.folder("kafka-1", &[("pom.xml", "b")]));
        assert_ne!(cache.folder("kafka-1", &[("ab", "c")]), cache.folder("kafka-1", &[("a", "bc")]));
    }

    #[test]
    fn a_folder_without_its_marker_does_not_count_and_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        let folder = cache.folder("part", &[]);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("half"), "").unwrap();
        assert!(!Cache::has(&folder));

        let scratch = cache.scratch("part").unwrap();
        std::fs::write(scratch.join("whole"), "").unwrap();
        Cache::publish(&scratch, &folder).unwrap();
        assert!(Cache::has(&folder));
        assert!(folder.join("whole").exists() && !folder.join("half").exists());
    }

    #[test]
    fn two_runs_at_once_fetch_one_after_the_other() {
        let root = tempfile::tempdir().unwrap();
        let cache = Cache::at(root.path());
        let first = cache.lock("part", || panic!("nobody to wait for")).unwrap();
        let (waits, waiting) = std::sync::mpsc::channel();
        let second = std::thread::spawn({
            let cache = cache.clone();
            move || cache.lock("part", || waits.send(()).unwrap()).unwrap()
        });
        waiting.recv_timeout(std::time::Duration::from_secs(120)).unwrap();
        assert!(!second.is_finished());
        drop(first);
        drop(second.join().unwrap());
    }
}
