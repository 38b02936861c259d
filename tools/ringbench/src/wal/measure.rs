//! The measured files and the time each step takes.
//!
//! Owns: one file per writer and file state, and one for the floor. Touches: those files. Always: a sample is the time
//! from the first copied byte of a group to the return of the call that makes it durable; the sync alone, which is
//! what the floor compares with, is kept beside it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use ringd_storage::format::PAGE_BYTES;
use ringd_storage::fs::FsMedium;
use ringd_storage::writer::{FileState, GroupWriter, lay_out_state};

use super::writers::{PageBuffer, WriterKind, open_direct};
use super::{GROUPS, Row, WalBenchError};

/// The floor goes around in a file of this size.
pub const FLOOR_FILE_BYTES: u64 = 4 << 20;

/// Nanoseconds.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<u64>);

impl Samples {
    fn add(&mut self, since: Instant) {
        self.0.push(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }

    /// All samples of several kinds together.
    pub fn merged<'a>(parts: impl IntoIterator<Item = &'a Samples>) -> Samples {
        Samples(parts.into_iter().flat_map(|part| &part.0).copied().collect())
    }

    /// The value that `share` of the samples do not exceed, in microseconds; 0 without samples.
    pub fn quantile_us(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).map_or(0.0, |nanos| *nanos as f64 / 1000.0)
    }
}

/// The least a durable write can cost: one page, past the page cache, and a sync.
pub struct Floor {
    file: File,
    page: PageBuffer,
    at: u64,
    /// The file system has direct I/O.
    pub direct: bool,
    /// By the group that was measured beside it: a large group leaves the disk busier than a small one.
    pub samples: [Samples; GROUPS.len()],
}

impl Floor {
    const NAME: &'static str = "floor";

    pub fn prepare(medium: &FsMedium, dir: &Path) -> Result<Floor, WalBenchError> {
        lay_out_state(medium, Floor::NAME, FLOOR_FILE_BYTES, FileState::Recycled, &mut || {})?;
        let path = dir.join(Floor::NAME);
        let failed = |source| WalBenchError::Io { what: "open", dir: path.display().to_string(), source };
        let (file, direct) = match open_direct(&path) {
            Ok(file) => (file, true),
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => {
                (File::options().write(true).open(&path).map_err(failed)?, false)
            }
            Err(e) => return Err(failed(e)),
        };
        let mut page = PageBuffer::new(PAGE_BYTES as usize);
        page.bytes().fill(0x5a);
        Ok(Floor { file, page, at: 0, direct, samples: Default::default() })
    }

    pub fn sample(&mut self, group: usize, keep: bool) -> io::Result<()> {
        let started = Instant::now();
        self.file.write_all_at(&self.page.bytes()[..PAGE_BYTES as usize], self.at)?;
        self.file.sync_data()?;
        if keep {
            self.samples[group].add(started);
        }
        self.at = (self.at + PAGE_BYTES) % FLOOR_FILE_BYTES;
        Ok(())
    }
}

/// One file with its writer, and the samples of every group size.
pub struct Lane {
    state: FileState,
    kind: WriterKind,
    writer: Box<dyn GroupWriter>,
    record: Vec<u8>,
    samples: [Samples; GROUPS.len()],
    syncs: [Samples; GROUPS.len()],
}

impl Lane {
    pub fn prepare(
        medium: &FsMedium,
        dir: &Path,
        state: FileState,
        kind: WriterKind,
        bytes: u64,
        stop: &AtomicBool,
    ) -> Result<Lane, WalBenchError> {
        let name = format!("{state:?}-{kind:?}");
        lay_out_state(medium, &name, bytes, state, &mut || {})?;
        if stop.load(Ordering::Relaxed) {
            return Err(WalBenchError::Interrupted);
        }
        let failed = |source| WalBenchError::Io { what: "open a file", dir: dir.display().to_string(), source };
        let writer = kind.open(medium, dir, &name).map_err(failed)?;
        let largest = GROUPS.iter().map(|g| g.record_bytes).max().unwrap_or(0);
        Ok(Lane {
            state,
            kind,
            writer,
            record: vec![b'r'; largest],
            samples: Default::default(),
            syncs: Default::default(),
        })
    }

    /// Appends and syncs one group of the size `GROUPS[group]`.
    pub fn sample(&mut self, group: usize, keep: bool) -> io::Result<()> {
        let size = GROUPS[group];
        let records = vec![&self.record[..size.record_bytes]; size.records];
        let started = Instant::now();
        self.writer.append(&records)?;
        let appended = Instant::now();
        self.writer.sync()?;
        if keep {
            self.syncs[group].add(appended);
            self.samples[group].add(started);
        }
        Ok(())
    }

    pub fn rows(self) -> impl Iterator<Item = Row> {
        let (state, writer) = (self.state, self.kind);
        let measured = self.samples.into_iter().zip(self.syncs);
        GROUPS.into_iter().zip(measured).map(move |(group, (samples, syncs))| Row {
            group,
            state,
            writer,
            samples,
            syncs,
        })
    }
}
