//! `backup`: a copy of a data directory that starts as a cluster of its own.
//!
//! Owns: which directories are read and written, and in which order. Touches: the source, read-only and without its
//! lock, so that the node may run; the target. Always: the target appears whole or not at all: everything is written
//! and synced under a name with `.partial`, read back, and renamed last.

mod gather;
mod renew;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use ringd_storage::datadir::{DataDir, DataDirError};
use ringd_storage::snapshot::SnapshotError;
use ringd_storage::wal::{AppendError, CreateError, SyncError};
use ringd_storage::walk::WalkError;

use crate::{Exit, Invocation, Outcome};

/// What the target is called before it is whole. A later backup to the same target replaces a leftover.
const PARTIAL_SUFFIX: &str = ".partial";

/// A backup that was not made.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The source or target is not there, or refuses.
    #[error("{what} {path}: {why}")]
    Path { what: &'static str, path: PathBuf, why: String },
    /// The source is damaged.
    #[error(transparent)]
    Source(#[from] WalkError),
    /// A snapshot, of the source or of the target.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The target is in use or cannot be made.
    #[error(transparent)]
    Target(#[from] DataDirError),
    /// The source's log is not one that ringd writes.
    #[error("the entry at raft index {index} {why}; look at it with `ringwal dump`")]
    Entry { index: u64, why: String },
    /// The target's log.
    #[error("cannot write the log of the backup: {0}")]
    Log(String),
    /// The copy does not read back as it was written.
    #[error("the backup does not read back as it was written: {0}")]
    Differs(String),
}

impl From<AppendError> for BackupError {
    fn from(error: AppendError) -> Self {
        BackupError::Log(error.to_string())
    }
}

impl From<SyncError> for BackupError {
    fn from(error: SyncError) -> Self {
        BackupError::Log(error.to_string())
    }
}

impl From<CreateError> for BackupError {
    fn from(error: CreateError) -> Self {
        BackupError::Log(error.to_string())
    }
}

/// A failed step on a path, in the words of etcdctl.
fn path_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BackupError + 'a {
    move |error| {
        let why = match error.kind() {
            io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            _ => error.to_string(),
        };
        BackupError::Path { what, path: path.to_owned(), why }
    }
}

/// Where to read and where to write.
struct Places {
    source_wal: PathBuf,
    source_snap: PathBuf,
    target: PathBuf,
    target_wal: Option<PathBuf>,
}

pub fn run(call: &Invocation) -> Outcome {
    let path = |name: &str| call.flags.text(name).map(PathBuf::from);
    let source = path("data-dir").unwrap_or_default().join("member");
    let places = Places {
        source_wal: path("wal-dir").unwrap_or_else(|| source.join("wal")),
        source_snap: source.join("snap"),
        target: path("backup-dir").unwrap_or_default(),
        target_wal: path("backup-wal-dir"),
    };
    if call.flags.is_set("with-v3") {
        log("there is no v3 data to back up");
    }
    match backup(&places) {
        Ok(done) => {
            log(&done);
            Ok(())
        }
        Err(error) => {
            log(&error.to_string());
            Err(Exit::BadArguments)
        }
    }
}

/// A line as etcdctl logs it.
fn log(text: &str) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    eprintln!("{} I | {text}", timestamp(since.as_secs(), since.subsec_micros()));
}

/// `2006-01-02 15:04:05.000000` in UTC.
fn timestamp(seconds: u64, micros: u32) -> String {
    let (mut year, mut day) = (1970, seconds / 86400);
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days_of = |year: u64| if leap(year) { 366 } else { 365 };
    while day >= days_of(year) {
        day -= days_of(year);
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{:02} {hour:02}:{minute:02}:{second:02}.{micros:06}", day + 1)
}

fn backup(places: &Places) -> Result<String, BackupError> {
    let Places { source_wal, source_snap, target, target_wal } = places;
    // With no directory given etcdctl has just made the one for snapshots itself, and misses the log.
    let nothing_given = target.as_os_str().is_empty() && source_snap.starts_with("member");
    let needed: &[&PathBuf] = if nothing_given { &[source_wal] } else { &[source_snap, source_wal] };
    for directory in needed {
        fs::read_dir(directory).map_err(path_error("open", directory))?;
    }
    if target.as_os_str().is_empty() {
        let why = "give a directory that does not exist yet with --backup-dir".to_owned();
        return Err(BackupError::Path { what: "no target", path: target.clone(), why });
    }
    for directory in [Some(target), target_wal.as_ref()].into_iter().flatten() {
        check_free(directory)?;
    }
    let cut = gather::gather(source_wal, source_snap)?;
    let (partial, partial_wal) = (partial_path(target), target_wal.as_deref().map(partial_path));
    for directory in [Some(&partial), partial_wal.as_ref()].into_iter().flatten() {
        remove_leftover(directory)?;
    }
    let written = DataDir::open(&partial, partial_wal.as_deref()).map_err(BackupError::from).and_then(|directory| {
        let written = renew::write(&cut, &directory)?;
        renew::verify(&written, &directory)?;
        Ok(written)
    });
    let written = match written {
        Ok(written) => written,
        Err(error) => {
            // What cannot be removed now has a name that says that it is not whole.
            for directory in [Some(&partial), partial_wal.as_ref()].into_iter().flatten() {
                fs::remove_dir_all(directory).ok();
            }
            return Err(error);
        }
    };
    // The log first: without its data directory it is nothing.
    if let (Some(from), Some(to)) = (&partial_wal, target_wal) {
        publish(from, to)?;
    }
    publish(&partial, target)?;
    Ok(format!(
        "backed up {} up to raft index {}: member {} of the new cluster {}; start it with --force-new-cluster",
        source_wal.parent().unwrap_or(source_wal).display(),
        written.last,
        written.identity.member,
        written.identity.cluster
    ))
}

fn partial_path(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or(target.as_os_str()).to_owned();
    name.push(PARTIAL_SUFFIX);
    target.with_file_name(name)
}

/// The target must not exist, or be empty.
fn check_free(target: &Path) -> Result<(), BackupError> {
    match fs::read_dir(target) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(path_error("open", target)(e)),
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => {
                let why = "it is not empty".to_owned();
                Err(BackupError::Path { what: "will not write to", path: target.to_owned(), why })
            }
        },
    }
}

/// Removes what an interrupted backup left. One that is still being written holds the lock and stays.
fn remove_leftover(partial: &Path) -> Result<(), BackupError> {
    if !partial.exists() {
        return Ok(());
    }
    if partial.join("member").is_dir() {
        drop(DataDir::open(partial, None)?);
    }
    fs::remove_dir_all(partial).map_err(path_error("remove", partial))
}

/// Gives a finished directory its name, durably.
fn publish(partial: &Path, target: &Path) -> Result<(), BackupError> {
    fs::rename(partial, target).map_err(path_error("rename to", target))?;
    let parent = target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|directory| directory.sync_all()).map_err(path_error("sync", parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_count_leap_days() {
        for (seconds, wanted) in [
            (0, "1970-01-01 00:00:00.000000"),
            (951_868_799, "2000-02-29 23:59:59.000000"),
            (951_868_800, "2000-03-01 00:00:00.000000"),
            (1_735_689_599, "2024-12-31 23:59:59.000000"),
        ] {
            assert_eq!(timestamp(seconds, 0), wanted);
        }
    }

    #[test]
    fn the_partial_name_is_beside_the_target() {
        for (target, partial) in [("/a/b", "/a/b.partial"), ("b", "b.partial"), ("/a/b/", "/a/b.partial")] {
            assert_eq!(partial_path(Path::new(target)), Path::new(partial));
        }
    }
}
