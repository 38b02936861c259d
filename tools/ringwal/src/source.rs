//! What a path on the command line is: a directory of segments with its snapshots, one segment, or one snapshot.

use std::path::Path;

use ringd_storage::datadir::ReadOnlyDirs;
use ringd_storage::format::{parse_segment_name, parse_spare_name};
use ringd_storage::fs::{FsFile, FsMedium};
use ringd_storage::medium::{Access, Medium, StoredFile};
use ringd_storage::snapshot::{SNAPSHOT_MAGIC, parse_snapshot_name};

use crate::Failure;

/// A path, understood.
pub enum Source {
    /// A WAL directory, with the snapshots that belong to it when they can be found.
    Directory(ReadOnlyDirs),
    /// One segment or spare, and the directory it is in.
    Segment(FsMedium, String),
    /// One snapshot, and the directory it is in.
    Snapshot(FsMedium, String),
}

impl Source {
    /// Looks at the path.
    pub fn find(path: &Path) -> Result<Self, Failure> {
        let fail = |error: std::io::Error| Failure::Message(format!("{}: {error}", path.display()));
        let metadata = std::fs::metadata(path).map_err(fail)?;
        if metadata.is_dir() {
            return Ok(Self::Directory(ReadOnlyDirs::find(path).map_err(fail)?));
        }
        if !metadata.is_file() {
            return Err(Failure::Message(format!("{} is neither a file nor a directory", path.display())));
        }
        // The medium does not follow links, so that nothing leads out of a data directory; a user's path may.
        let path = path.canonicalize().map_err(fail)?;
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Failure::Message(format!("{}: the name is not UTF-8", path.display())))?;
        let parent = FsMedium::open(path.parent().unwrap_or(Path::new("/"))).map_err(fail)?;
        let file = parent.open(name, Access::Read).map_err(fail)?;
        if parse_snapshot_name(name).is_some() || name.ends_with(".snap") || ends_like_a_snapshot(&file) {
            Ok(Self::Snapshot(parent, name.to_owned()))
        } else {
            Ok(Self::Segment(parent, name.to_owned()))
        }
    }
}

fn ends_like_a_snapshot(file: &FsFile) -> bool {
    let magic = SNAPSHOT_MAGIC.len() as u64;
    let mut end = [0u8; SNAPSHOT_MAGIC.len()];
    let at = file.len_bytes().ok().and_then(|bytes| bytes.checked_sub(magic));
    at.is_some_and(|at| file.read_at(&mut end, at).is_ok()) && end == SNAPSHOT_MAGIC
}

/// The published segments of a WAL directory in order, and its spares.
pub fn segment_files(wal: &FsMedium) -> Result<(Vec<String>, Vec<String>), Failure> {
    let names = wal.list().map_err(|error| Failure::Message(format!("{}: {error}", wal.path().display())))?;
    let spares = names.iter().filter(|name| parse_spare_name(name).is_some()).cloned().collect();
    Ok((names.into_iter().filter(|name| parse_segment_name(name).is_some()).collect(), spares))
}
