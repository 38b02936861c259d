//! Making segment files ready, off the hot path. Everything here blocks: call it on a helper thread, one call at a
//! time per directory.
//!
//! Order, for a fresh file: fallocate, zeros in 4 KiB writes, `fdatasync`, rename to a spare's name, fsync of the
//! directory, map. For a recycled one: rename, fsync of the directory, map; its old frames stay and are harmless,
//! because the next header carries another epoch.
//!
//! Why 4 KiB writes: larger ones make ext4 build large folios, and then one stored byte flushes up to 1 MiB. Why zeros
//! at all: into allocated but unwritten blocks a sync has to update extents, which is 2.4 to 2.6 times slower.

use std::io;

use crate::format::{PAGE_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, TEMPORARY_SUFFIX, parse_spare_name, spare_name};
use crate::medium::{Access, Medium, StoredFile};

/// How many bytes are written between two calls of `pace`.
pub const PACE_BYTES: u64 = 64 << 10;

/// A file that can become the tail. It has a spare's name, and is mapped but not resident.
#[derive(Debug)]
pub struct Spare<M: Medium> {
    pub(crate) name: String,
    pub(crate) file: M::File,
    pub(crate) region: M::Region,
    pub(crate) bytes: u64,
    /// Nothing but zeros inside.
    pub(crate) zeroed: bool,
}

impl<M: Medium> Spare<M> {
    /// The file's size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A sealed segment that nobody needs any more; still on disk under its old name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

impl Retired {
    /// The file's name in the WAL directory.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A spare could not be made. Nothing of the attempt is left behind.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The disk is full: try again when there is space.
    #[error("no space for a segment of {wanted_bytes} bytes at {file}")]
    NoSpace {
        /// The file that did not fit.
        file: String,
        /// Its size.
        wanted_bytes: u64,
    },
    /// The device or the directory is in trouble.
    #[error("cannot {what} {file}: {source}")]
    Io {
        /// The step that failed.
        what: &'static str,
        /// The file concerned.
        file: String,
        /// The reason.
        source: io::Error,
    },
}

/// How the blocks of a new file are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Allocated and filled with zeros by 4 KiB writes; what the WAL uses.
    ZeroFilled,
    /// Only allocated: for comparison, syncs into it are slower.
    Allocated,
}

/// Whether an I/O error says that the disk or the quota is full.
#[must_use]
pub fn is_no_space(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Creates `name` with `bytes` bytes, durable including its name. Calls `pace` about every [`PACE_BYTES`] written.
///
/// # Errors
/// [`PrepareError`]; the partial file is cut and removed.
pub fn lay_out<M: Medium>(
    medium: &M,
    name: &str,
    bytes: u64,
    layout: Layout,
    pace: &mut dyn FnMut(),
) -> Result<M::File, PrepareError> {
    let temporary = format!("{name}{TEMPORARY_SUFFIX}");
    let failed = |what, source: io::Error| {
        let file = medium.path_of(&temporary);
        if is_no_space(&source) {
            PrepareError::NoSpace { file, wanted_bytes: bytes }
        } else {
            PrepareError::Io { what, file, source }
        }
    };
    let file = medium.create(&temporary).map_err(|e| failed("create", e))?;
    let filled = fill(&file, bytes, layout, pace).map_err(|(what, e)| failed(what, e));
    let named = filled.and_then(|()| {
        medium.rename(&temporary, name).map_err(|e| failed("rename", e))?;
        medium.sync_dir().map_err(|e| failed("sync the directory of", e))
    });
    if let Err(error) = named {
        // Truncating first gives the blocks back even where a reader still holds the file open. Failures of the
        // cleanup change nothing: the next start removes leftovers.
        drop(file.truncate());
        drop(medium.remove(&temporary));
        return Err(error);
    }
    Ok(file)
}

fn fill<F: StoredFile>(
    file: &F,
    bytes: u64,
    layout: Layout,
    pace: &mut dyn FnMut(),
) -> Result<(), (&'static str, io::Error)> {
    match file.allocate(bytes) {
        // Some file systems cannot preallocate; writing zeros allocates as well.
        Err(error) if error.kind() == io::ErrorKind::Unsupported && layout == Layout::ZeroFilled => {}
        result => result.map_err(|e| ("allocate", e))?,
    }
    if layout == Layout::ZeroFilled {
        let zeros = [0u8; PAGE_BYTES as usize];
        for offset in (0..bytes).step_by(PAGE_BYTES as usize) {
            file.write_at(&zeros, offset).map_err(|e| ("fill", e))?;
            if (offset + PAGE_BYTES).is_multiple_of(PACE_BYTES) {
                pace();
            }
        }
    }
    file.sync_data().map_err(|e| ("sync", e))
}

/// Makes one spare of `segment_bytes`, from `recycle` when it has the right size. At most one call at a time per
/// directory, because it picks the next free spare name.
///
/// # Errors
/// [`PrepareError`]. A `recycle` that could not be used is left under its old name or removed, never half renamed.
///
/// # Panics
/// When `segment_bytes` breaks the limits of the format, which `WalOptions` rules out.
pub fn prepare_spare<M: Medium>(
    medium: &M,
    segment_bytes: u64,
    recycle: Option<Retired>,
    pace: &mut dyn FnMut(),
) -> Result<Spare<M>, PrepareError> {
    assert!(segment_bytes.is_multiple_of(PAGE_BYTES), "segments are whole pages");
    assert!((SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes), "segment size out of range");
    let io = |what, name: &str, source| PrepareError::Io { what, file: medium.path_of(name), source };
    let taken = medium.list().map_err(|e| io("list the directory of", "", e))?;
    let number = taken.iter().filter_map(|name| parse_spare_name(name.trim_end_matches(TEMPORARY_SUFFIX))).max();
    let name = spare_name(number.map_or(1, |highest| highest + 1));
    let (file, zeroed) = match recycle {
        Some(retired) if retired.bytes == segment_bytes => {
            medium.rename(&retired.name, &name).map_err(|e| io("recycle", &retired.name, e))?;
            // Durable before the first new byte: else a crash could show the new header under the old name.
            medium.sync_dir().map_err(|e| io("sync the directory of", &name, e))?;
            (medium.open(&name, Access::ReadWrite).map_err(|e| io("open", &name, e))?, false)
        }
        other => {
            if let Some(retired) = other {
                discard(medium, &retired)?;
            }
            (lay_out(medium, &name, segment_bytes, Layout::ZeroFilled, pace)?, true)
        }
    };
    adopt(medium, name, file, segment_bytes, zeroed)
}

/// Maps a complete spare file.
pub(crate) fn adopt<M: Medium>(
    medium: &M,
    name: String,
    file: M::File,
    bytes: u64,
    zeroed: bool,
) -> Result<Spare<M>, PrepareError> {
    file.expect_random_reads();
    let region = medium.map(&file, bytes).map_err(|source| PrepareError::Io {
        what: "map",
        file: medium.path_of(&name),
        source,
    })?;
    Ok(Spare { name, file, region, bytes, zeroed })
}

/// Removes a retired segment. Retired segments must go in the order they were handed out, each before the next: a
/// crash in between then leaves a WAL without a hole.
///
/// # Errors
/// [`PrepareError::Io`].
pub fn discard<M: Medium>(medium: &M, retired: &Retired) -> Result<(), PrepareError> {
    let io = |what, source| PrepareError::Io { what, file: medium.path_of(&retired.name), source };
    medium.remove(&retired.name).map_err(|e| io("remove", e))?;
    medium.sync_dir().map_err(|e| io("sync the directory of", e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryMedium;

    #[test]
    fn a_fresh_spare_is_whole_zero_and_durable() {
        let medium = MemoryMedium::new();
        let mut paces = 0;
        let spare = prepare_spare(&medium, 256 << 10, None, &mut || paces += 1).unwrap();
        assert_eq!((spare.name.as_str(), spare.bytes(), spare.zeroed, paces), ("spare-1", 256 << 10, true, 4));
        let disk = medium.crash(&mut |_| 0);
        assert_eq!(disk.list().unwrap(), ["spare-1"]);
        assert_eq!(disk.contents("spare-1").unwrap(), vec![0; 256 << 10]);
        assert_eq!(prepare_spare(&medium, 8192, None, &mut || {}).unwrap().name, "spare-2");
    }

    #[test]
    fn a_full_disk_leaves_nothing_behind() {
        let medium = MemoryMedium::new();
        medium.set_capacity(Some(10_000));
        let error = prepare_spare(&medium, 16384, None, &mut || {}).unwrap_err();
        assert!(matches!(error, PrepareError::NoSpace { wanted_bytes: 16384, .. }), "{error}");
        assert_eq!(medium.list().unwrap(), [""; 0]);
        prepare_spare(&medium, 8192, None, &mut || {}).unwrap();
    }

    #[test]
    fn a_failed_sync_is_an_error_that_names_the_step() {
        let medium = MemoryMedium::new();
        medium.fail_next_sync(1);
        let error = prepare_spare(&medium, 8192, None, &mut || {}).unwrap_err();
        assert!(matches!(error, PrepareError::Io { what: "sync", .. }), "{error}");
    }

    #[test]
    fn recycling_keeps_the_file_and_refuses_another_size() {
        let medium = MemoryMedium::new();
        medium.put_file("old", vec![7; 8192]);
        medium.put_file("odd", vec![7; 4096]);
        let retired = |name: &str, bytes| Some(Retired { name: name.to_owned(), bytes });
        let spare = prepare_spare(&medium, 8192, retired("old", 8192), &mut || {}).unwrap();
        assert!(!spare.zeroed);
        assert_eq!(medium.contents("spare-1").unwrap(), vec![7; 8192]);
        let spare = prepare_spare(&medium, 8192, retired("odd", 4096), &mut || {}).unwrap();
        assert!(spare.zeroed);
        assert_eq!(medium.crash(&mut |_| 0).list().unwrap(), ["spare-1", "spare-2"]);
    }
}
