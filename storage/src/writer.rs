//! The same frames through different writers, for `ringbench wal` and the benches: what would another way of
//! appending cost on this disk?
//!
//! - [`MappedWriter`] is what the WAL does: copy into the map (or one write for a large group), then `fdatasync`.
//! - [`DirectWriter`] collects whole pages and writes them with `O_DIRECT` and `RWF_DSYNC`: half the CPU, no page
//!   cache, but every group waits for its own write.
//!
//! Invariants:
//! 1. One writer per file, for the file's whole life: mapped and direct access to one file do not see each other.
//! 2. Both produce a valid version 1 segment, so what was measured can be read back.

use std::io::{self, IoSlice};

use rustix::io::ReadWriteFlags;

use crate::format::{Identity, PAGE_BYTES, SEGMENT_FLAG_ZEROED, SegmentHeader, TEMPORARY_SUFFIX, align_page};
use crate::frame::{FrameBuffer, Place};
use crate::fs::{FsFile, FsMedium};
use crate::ids::{ClusterId, MemberId, RaftIndex, SegmentSeq, Term, WalIndex};
use crate::medium::{Access, Medium, StoredFile};
use crate::prepare::{Layout, PrepareError, adopt, lay_out};
use crate::record::{EntryKind, EntryRef, HardState};
use crate::segment::{Tail, header_crc};
use crate::wal::STAGED_BYTES;

/// Appends groups of records to one file and syncs them.
pub trait GroupWriter {
    /// A short name for tables.
    fn name(&self) -> &'static str;

    /// Adds one frame with an entry per record. Answers the bytes it takes on disk.
    ///
    /// # Errors
    /// `StorageFull` when the file has no room left; the device's error.
    fn append(&mut self, records: &[&[u8]]) -> io::Result<u64>;

    /// Makes everything appended durable.
    ///
    /// # Errors
    /// The device's error.
    fn sync(&mut self) -> io::Result<()>;

    /// Bytes left in the file.
    fn room_bytes(&self) -> u64;
}

/// What a measured file looks like before the first append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileState {
    /// As the WAL prepares a spare.
    ZeroFilled,
    /// As a retired segment comes back: full of old bytes.
    Recycled,
    /// `fallocate` and nothing else.
    Allocated,
}

/// Makes `name` with `bytes` bytes in that state. Blocks; `pace` is called as in [`lay_out`].
///
/// # Errors
/// [`PrepareError`].
pub fn lay_out_state(
    medium: &FsMedium,
    name: &str,
    bytes: u64,
    state: FileState,
    pace: &mut dyn FnMut(),
) -> Result<(), PrepareError> {
    let layout = if state == FileState::Allocated { Layout::Allocated } else { Layout::ZeroFilled };
    let file = lay_out(medium, name, bytes, layout, pace)?;
    if state == FileState::Recycled {
        let stale = [0xa5u8; PAGE_BYTES as usize];
        let written = (0..bytes).step_by(PAGE_BYTES as usize).try_for_each(|at| {
            pace();
            file.write_at(&stale, at)
        });
        written.and_then(|()| file.sync_data()).map_err(|source| PrepareError::Io {
            what: "fill",
            file: medium.path_of(name),
            source,
        })?;
    }
    Ok(())
}

fn header(epoch: u64, zeroed: bool) -> SegmentHeader {
    SegmentHeader {
        flags: if zeroed { SEGMENT_FLAG_ZEROED } else { 0 },
        identity: Identity { cluster: ClusterId::new(1), member: MemberId::new(1) },
        seq: SegmentSeq::new(1),
        epoch,
        first_wal_index: WalIndex::new(1),
        first_raft_index: RaftIndex::new(1),
        prev_end: 0,
        prev_crc: 0,
        hard_state: HardState::default(),
        snapshot: None,
    }
}

/// Numbers and seals frames for a writer.
#[derive(Debug)]
struct Framer {
    buffer: FrameBuffer,
    epoch: u64,
    appended: WalIndex,
    durable: WalIndex,
    raft: RaftIndex,
    last_crc: u32,
}

impl Framer {
    fn new(epoch: u64, last_crc: u32) -> Self {
        let (appended, durable) = (WalIndex::ZERO, WalIndex::ZERO);
        Self { buffer: FrameBuffer::new(), epoch, appended, durable, raft: RaftIndex::ZERO, last_crc }
    }

    /// Answers the sealed frame, which is for `offset`; `None` when it does not fit before `capacity`.
    fn seal(&mut self, records: &[&[u8]], offset: u64, capacity: u64) -> Option<&[u8]> {
        assert!(!records.is_empty(), "a group has records");
        self.buffer.clear();
        let first_raft_index = self.raft.next();
        for data in records {
            self.raft = self.raft.next();
            let (term, kind) = (Term::new(1), EntryKind::Normal);
            self.buffer.push_entry(&EntryRef { term, index: self.raft, kind, data, context: &[] });
        }
        if offset + self.buffer.total_bytes() > capacity {
            return None;
        }
        self.appended = self.appended.next();
        self.last_crc = self.buffer.seal(Place {
            epoch: self.epoch,
            offset,
            wal_index: self.appended,
            first_raft_index,
            term: Term::new(1),
            durable: self.durable,
            prev_crc: self.last_crc,
        });
        Some(self.buffer.bytes())
    }
}

fn full() -> io::Error {
    io::ErrorKind::StorageFull.into()
}

/// The WAL's own way.
pub struct MappedWriter {
    tail: Tail<FsMedium>,
    framer: Framer,
}

impl MappedWriter {
    /// Takes over a file made by [`lay_out_state`]; `epoch` is any random number but zero.
    ///
    /// # Errors
    /// Whatever opening, mapping and syncing answer.
    pub fn open(medium: &FsMedium, name: &str, epoch: u64) -> io::Result<Self> {
        let file = medium.open(name, Access::ReadWrite)?;
        let bytes = file.len_bytes()?;
        let spare = adopt(medium, name.to_owned(), file, bytes, false).map_err(io::Error::other)?;
        let tail = Tail::begin(medium, spare, header(epoch, false), RaftIndex::ZERO)?;
        tail.file.sync_data()?;
        let framer = Framer::new(epoch, tail.last_crc);
        Ok(Self { tail, framer })
    }

    /// The file, for a caller that syncs it on a ring and then calls [`MappedWriter::mark_synced`].
    #[must_use]
    pub fn file(&self) -> &FsFile {
        &self.tail.file
    }

    /// Everything appended so far was synced elsewhere.
    pub fn mark_synced(&mut self) {
        self.framer.durable = self.framer.appended;
        self.tail.mark_synced(self.tail.offset);
    }
}

impl GroupWriter for MappedWriter {
    fn name(&self) -> &'static str {
        "mmap+fdatasync"
    }

    fn append(&mut self, records: &[&[u8]]) -> io::Result<u64> {
        let offset = self.tail.offset;
        let frame = self.framer.seal(records, offset, self.tail.capacity).ok_or_else(full)?;
        let bytes = frame.len() as u64;
        if bytes >= STAGED_BYTES {
            self.tail.file.write_at(frame, offset)?;
            self.tail.skip(offset, bytes);
        } else {
            self.tail.store(offset, frame)?;
        }
        self.tail.last_crc = self.framer.last_crc;
        Ok(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.tail.file.sync_data()?;
        self.mark_synced();
        Ok(())
    }

    fn room_bytes(&self) -> u64 {
        self.tail.capacity - self.tail.offset
    }
}

/// The comparison: whole pages, past the page cache, durable when the write returns.
pub struct DirectWriter {
    file: FsFile,
    capacity: u64,
    framer: Framer,
    /// Memory with a page-aligned run inside, which begins at `aligned`.
    memory: Vec<u8>,
    aligned: usize,
    /// The file offset of the buffer's first byte: the page the next write begins with.
    page_at: u64,
    /// How many bytes of the run are in use.
    filled: usize,
}

/// Groups up to this size are collected between two syncs.
const DIRECT_BUFFER_BYTES: usize = 4 << 20;

impl DirectWriter {
    /// Takes over a file made by [`lay_out_state`]; `epoch` is any random number but zero.
    ///
    /// # Errors
    /// `InvalidInput` where the file system has no direct I/O; whatever else opening answers.
    pub fn open(medium: &FsMedium, name: &str, epoch: u64) -> io::Result<Self> {
        let file = medium.open_direct(name)?;
        let capacity = file.len_bytes()?;
        let page = header(epoch, false).encode();
        let memory = vec![0u8; DIRECT_BUFFER_BYTES + PAGE_BYTES as usize];
        let aligned = memory.as_ptr().align_offset(PAGE_BYTES as usize);
        let framer = Framer::new(epoch, header_crc(&page));
        let mut writer = Self { file, capacity, framer, memory, aligned, page_at: 0, filled: page.len() };
        writer.memory[aligned..aligned + page.len()].copy_from_slice(&page);
        writer.sync()?;
        Ok(writer)
    }
}

impl GroupWriter for DirectWriter {
    fn name(&self) -> &'static str {
        "O_DIRECT+RWF_DSYNC"
    }

    fn append(&mut self, records: &[&[u8]]) -> io::Result<u64> {
        let offset = self.page_at + self.filled as u64;
        let frame = self.framer.seal(records, offset, self.capacity).ok_or_else(full)?;
        if self.filled + frame.len() > DIRECT_BUFFER_BYTES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let start = self.aligned + self.filled;
        self.memory[start..start + frame.len()].copy_from_slice(frame);
        self.filled += frame.len();
        Ok(frame.len() as u64)
    }

    fn sync(&mut self) -> io::Result<()> {
        let whole = align_page(self.filled as u64) as usize;
        self.memory[self.aligned + self.filled..self.aligned + whole].fill(0);
        let mut done = 0;
        while done < whole {
            let rest = &self.memory[self.aligned + done..self.aligned + whole];
            let at = self.page_at + done as u64;
            match rustix::io::pwritev2(&self.file, &[IoSlice::new(rest)], at, ReadWriteFlags::DSYNC) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // The last page is written again while it is not full.
        let kept = self.filled % PAGE_BYTES as usize;
        let from = self.aligned + self.filled - kept;
        self.memory.copy_within(from..from + kept, self.aligned);
        self.page_at += (self.filled - kept) as u64;
        self.filled = kept;
        self.framer.durable = self.framer.appended;
        Ok(())
    }

    fn room_bytes(&self) -> u64 {
        self.capacity - self.page_at - self.filled as u64
    }
}

/// Removes what a measurement left, finished or not.
///
/// # Errors
/// Whatever the directory answers; a missing file is none.
pub fn remove_measured(medium: &FsMedium, name: &str) -> io::Result<()> {
    for name in [name.to_owned(), format!("{name}{TEMPORARY_SUFFIX}")] {
        match medium.remove(&name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::{Next, SegmentReader};

    fn frames(medium: &FsMedium, name: &str) -> Vec<(u64, u32, u64)> {
        let mut reader = SegmentReader::open(medium.open(name, Access::Read).unwrap()).unwrap();
        let (mut at, mut crc, mut found) = (PAGE_BYTES, reader.header_crc(), Vec::new());
        while let Next::Frame(offset, frame) = reader.next(at, WalIndex::new(found.len() as u64 + 1), crc).unwrap() {
            found.push((offset, frame.records, frame.durable.get()));
            (at, crc) = (offset + frame.total_bytes(), frame.crc);
        }
        found
    }

    fn exercise(writer: &mut dyn GroupWriter) {
        let large = vec![7u8; 80 << 10];
        for size in [1usize, 3] {
            writer.append(&vec![b"0123456789".as_slice(); size]).unwrap();
            writer.sync().unwrap();
        }
        writer.append(&[&large]).unwrap();
        writer.append(&[b"z"]).unwrap();
        writer.sync().unwrap();
        let error = (0..100).find_map(|_| writer.append(&[&large]).err()).unwrap();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn every_writer_leaves_a_segment_that_reads_back() {
        let root = tempfile::tempdir().unwrap();
        let medium = FsMedium::open(root.path()).unwrap();
        for state in [FileState::ZeroFilled, FileState::Recycled, FileState::Allocated] {
            lay_out_state(&medium, "mapped", 1 << 20, state, &mut || {}).unwrap();
            exercise(&mut MappedWriter::open(&medium, "mapped", 9).unwrap());
            let found = frames(&medium, "mapped");
            assert_eq!(found[..4].iter().map(|frame| frame.1).collect::<Vec<_>>(), [1, 3, 1, 1]);
            assert_eq!((found[2].2, found[4].2), (2, 4), "durable marks follow the syncs");

            lay_out_state(&medium, "direct", 1 << 20, state, &mut || {}).unwrap();
            match DirectWriter::open(&medium, "direct", 9) {
                Ok(mut writer) => {
                    exercise(&mut writer);
                    assert_eq!(frames(&medium, "direct")[..4], found[..4], "the same bytes in the same places");
                }
                // Some file systems (tmpfs before Linux 6.6) have no direct I/O.
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::InvalidInput),
            }
            remove_measured(&medium, "mapped").unwrap();
            remove_measured(&medium, "direct").unwrap();
        }
        assert_eq!(medium.list().unwrap(), [""; 0]);
    }
}
