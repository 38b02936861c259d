//! A consistent cut of a data directory that may belong to a live node.
//!
//! Owns: what a cut is. Touches: the source's files, read-only. Always: a cut is one snapshot and the log after it,
//! without a gap, up to the last whole frame. So everything that this member has acknowledged is in it. The recorded
//! commit does not end the cut: it is written with the next batch, so an idle node's last answered write lies after
//! it. What the cut holds beyond the commit were writes under way, which a client must expect to find or not.

use std::path::Path;
use std::thread;
use std::time::Duration;

use ringd_storage::datadir::ReadOnlyDirs;
use ringd_storage::format::Identity;
use ringd_storage::fs::{FsFile, FsMedium};
use ringd_storage::ids::Term;
use ringd_storage::record::Entry;
use ringd_storage::recover::{self, Contents};
use ringd_storage::snapshot::SnapshotReader;

use super::{BackupError, path_error};

/// A live node may retire a segment or snapshot while it is read. It does so once in thousands of writes, and reading
/// takes moments: a second failure is rare, and this many mean damage.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(50);

/// What is copied.
pub struct Cut {
    pub identity: Identity,
    pub snapshot: Option<SnapshotReader<FsFile>>,
    pub entries: Vec<Entry>,
    pub term: Term,
}

pub fn gather(wal: &Path, snap: &Path) -> Result<Cut, BackupError> {
    let live = ReadOnlyDirs::find(wal).map_err(path_error("open", wal))?.live;
    let wal_dir = FsMedium::open(wal).map_err(path_error("open", wal))?;
    let snap_dir = FsMedium::open(snap).map_err(path_error("open", snap))?;
    let mut attempt = 1;
    loop {
        match attempt_once(&wal_dir, &snap_dir) {
            Err(_) if live && attempt < ATTEMPTS => {
                attempt += 1;
                thread::sleep(PAUSE);
            }
            result => return result,
        }
    }
}

fn attempt_once(wal_dir: &FsMedium, snap_dir: &FsMedium) -> Result<Cut, BackupError> {
    let Contents { identity, snapshot, entries, hard_state } = recover::contents(wal_dir, snap_dir)?;
    let of_snapshot = snapshot.as_ref().map_or(Term::ZERO, |(meta, _)| meta.marker.term);
    let term = entries.iter().map(|entry| entry.term).fold(hard_state.term.max(of_snapshot), Term::max);
    let snapshot = match &snapshot {
        None => None,
        Some((_, name)) => Some(SnapshotReader::open(snap_dir, name)?),
    };
    Ok(Cut { identity, snapshot, entries, term })
}
