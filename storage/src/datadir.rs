//! The data directory: its layout, its lock, and finding one's way in somebody else's.
//!
//! ```text
//! <data-dir>/member/LOCK   wal/   snap/
//! ```
//!
//! Invariants:
//! 1. Nothing in the directory is changed before its lock is held, and the lock is held for life. The kernel drops it
//!    when the process ends, however it ends; the file itself stays.
//! 2. A separate WAL directory (`--wal-dir`) has a lock of its own: two data directories must not share it.
//! 3. What is created is readable by its owner only, and its name is durable before it is used.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use crate::fs::FsMedium;

/// The lock's name.
pub const LOCK_NAME: &str = "LOCK";
/// What the lock file says before the holder's process id.
pub const LOCK_PREFIX: &str = "pid ";
/// The longest content of a lock file that is worth reading.
const LOCK_BYTES_MAX: u64 = 64;
/// An inspector holds the lock for an instant to see whether it is free; a node that starts then tries again.
const LOCK_TRIES: u32 = 3;
/// Far longer than such an instant, too short to notice.
const LOCK_RETRY: Duration = Duration::from_millis(20);
/// Owner only, as etcd creates it.
const DIRECTORY_MODE: u32 = 0o700;

/// A locked data directory.
#[derive(Debug)]
pub struct DataDir {
    wal: FsMedium,
    snap: FsMedium,
    _locks: Vec<File>,
}

/// A data directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process works on it. Stop it, or choose another directory.
    #[error("{directory} is in use by another process{}; stop it or choose another directory", holder(.pid))]
    Locked {
        /// The locked directory.
        directory: PathBuf,
        /// Who holds it, when its lock file tells.
        pid: Option<u32>,
    },
    /// The file system refuses.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The step.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DataDirError + 'a {
    move |source| DataDirError::Io { what, path: path.to_path_buf(), source }
}

impl DataDir {
    /// Creates the directories that are missing, and locks them.
    ///
    /// # Errors
    /// [`DataDirError`].
    pub fn open(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Self, DataDirError> {
        let member = data_dir.join("member");
        create(&member)?;
        let mut locks = vec![lock(&member)?];
        let wal_path = match wal_dir {
            None => member.join("wal"),
            Some(separate) => separate.to_path_buf(),
        };
        let snap_path = member.join("snap");
        create(&wal_path)?;
        create(&snap_path)?;
        if wal_dir.is_some() {
            locks.push(lock(&wal_path)?);
        }
        let open = |path: &Path| FsMedium::open(path).map_err(io_error("open", path));
        Ok(Self { wal: open(&wal_path)?, snap: open(&snap_path)?, _locks: locks })
    }

    /// The WAL directory.
    #[must_use]
    pub fn wal(&self) -> &FsMedium {
        &self.wal
    }

    /// The snapshot directory.
    #[must_use]
    pub fn snap(&self) -> &FsMedium {
        &self.snap
    }
}

/// Creates a directory with its missing parents, and makes every new name durable.
fn create(path: &Path) -> Result<(), DataDirError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create(parent)?;
    match DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        // Another process may have been faster; the lock decides who goes on.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        result => result.map_err(io_error("create", path))?,
    }
    let opened = File::open(parent).map_err(io_error("open", parent))?;
    opened.sync_all().map_err(io_error("sync", parent))
}

fn lock(directory: &Path) -> Result<File, DataDirError> {
    let path = directory.join(LOCK_NAME);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(io_error("open", &path))?;
    let mut tries = 1;
    while let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(io_error("lock", &path)(error.into()));
        }
        if tries == LOCK_TRIES {
            return Err(DataDirError::Locked { directory: directory.to_path_buf(), pid: read_pid(&file) });
        }
        tries += 1;
        std::thread::sleep(LOCK_RETRY);
    }
    // For people and messages only, so it need not be durable; on a full disk the lock holds all the same.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{LOCK_PREFIX}{}", std::process::id()));
    Ok(file)
}

fn read_pid(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(LOCK_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.strip_prefix(LOCK_PREFIX)?.trim_end().parse().ok()
}

/// The directories of a data directory that may belong to a live node: no lock, and nothing here writes.
#[derive(Clone, Debug)]
pub struct ReadOnlyDirs {
    /// The WAL directory.
    pub wal: FsMedium,
    /// The snapshot directory; `None` when nothing beside the WAL directory looks like one.
    pub snap: Option<FsMedium>,
    /// A process holds the lock, so an unfinished frame at the end is simply being written.
    pub live: bool,
}

impl ReadOnlyDirs {
    /// Finds the directories from a data directory, a `member` directory, or a WAL directory.
    ///
    /// # Errors
    /// Whatever opening them answers.
    pub fn find(path: &Path) -> io::Result<Self> {
        let (member, wal) = [path.join("member"), path.to_path_buf()]
            .into_iter()
            .map(|member| (member.join("wal"), member))
            .find(|(wal, _)| wal.is_dir())
            .map_or_else(|| (path.join(".."), path.to_path_buf()), |(wal, member)| (member, wal));
        let snap = member.join("snap");
        let snap = if snap.is_dir() { Some(FsMedium::open(&snap)?) } else { None };
        let live = is_locked(&wal.join(LOCK_NAME)) || is_locked(&member.join(LOCK_NAME));
        Ok(Self { wal: FsMedium::open(&wal)?, snap, live })
    }
}

/// Whether somebody holds the lock: asks for a shared one and drops it at once.
fn is_locked(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| {
        matches!(flock(&file, FlockOperation::NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_opener_is_refused_by_name_until_the_first_is_gone() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("a/b.etcd");
        let first = DataDir::open(&data, None).unwrap();
        assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
        let error = DataDir::open(&data, None).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("b.etcd/member") && text.contains(&format!("pid {}", std::process::id())), "{text}");
        assert!(ReadOnlyDirs::find(&data).unwrap().live);
        drop(first);
        assert!(!ReadOnlyDirs::find(&data).unwrap().live);
        DataDir::open(&data, None).unwrap();
    }

    #[test]
    fn a_separate_wal_directory_cannot_be_shared() {
        let root = tempfile::tempdir().unwrap();
        let wal = root.path().join("wal");
        let _first = DataDir::open(&root.path().join("one"), Some(&wal)).unwrap();
        let error = DataDir::open(&root.path().join("two"), Some(&wal)).unwrap_err();
        assert!(matches!(error, DataDirError::Locked { directory, .. } if directory == wal));
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let root = tempfile::tempdir().unwrap();
        let data = root.path().join("file");
        std::fs::write(&data, "x").unwrap();
        let text = DataDir::open(&data, None).unwrap_err().to_string();
        assert!(text.contains("file"), "{text}");
    }

    #[test]
    fn looking_finds_the_same_directories_from_every_level() {
        let root = tempfile::tempdir().unwrap();
        let _data = DataDir::open(root.path(), None).unwrap();
        for level in ["", "member", "member/wal"] {
            let found = ReadOnlyDirs::find(&root.path().join(level)).unwrap();
            assert!(found.wal.path().canonicalize().unwrap().ends_with("member/wal"), "{level}");
            assert!(found.snap.is_some() && found.live, "{level}");
        }
    }
}
