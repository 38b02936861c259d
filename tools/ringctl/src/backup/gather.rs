//! A consistent cut of a data directory that may belong to a live node.
//!
//! Owns: what a cut is. Touches: the source's files, read-only. Always: a cut is one snapshot and the log after it,
//! without a gap, up to one entry. The only voter's log is committed as far as it is whole: everything that was
//! answered before the backup began is in it. Where others vote too, entries past the recorded commit may yet be
//! replaced, so the cut ends at that commit.

use std::collections::BTreeSet;
use std::path::Path;
use std::thread;
use std::time::Duration;

use ringd_storage::conf_change;
use ringd_storage::datadir::ReadOnlyDirs;
use ringd_storage::format::Identity;
use ringd_storage::fs::{FsFile, FsMedium};
use ringd_storage::ids::Term;
use ringd_storage::record::{Entry, EntryKind};
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
    let Contents { identity, snapshot, mut entries, hard_state } = recover::contents(wal_dir, snap_dir)?;
    let mut voters: BTreeSet<u64> = BTreeSet::new();
    let mut term = hard_state.term;
    if let Some((meta, _)) = &snapshot {
        voters.extend(meta.voters.iter().map(|id| id.get()));
        term = term.max(meta.marker.term);
    }
    for entry in &entries {
        count_voters(entry, &mut voters);
        term = term.max(entry.term);
    }
    if voters.len() > 1 {
        entries.retain(|entry| entry.index <= hard_state.commit);
    }
    let snapshot = match &snapshot {
        None => None,
        Some((_, name)) => Some(SnapshotReader::open(snap_dir, name)?),
    };
    Ok(Cut { identity, snapshot, entries, term })
}

fn count_voters(entry: &Entry, voters: &mut BTreeSet<u64>) {
    let change = match entry.kind {
        EntryKind::Normal => return,
        EntryKind::ConfChange => conf_change::decode_v1(&entry.data),
        EntryKind::ConfChangeV2 => conf_change::decode_v2(&entry.data),
    };
    for change in change.map(|change| change.changes).unwrap_or_default() {
        if change.kind == 0 {
            voters.insert(change.node);
        } else {
            voters.remove(&change.node);
        }
    }
}
