//! The ways of making an append durable that are compared.
//!
//! Owns: the two writers that are here for comparison only; the other two are the storage crate's. Touches: one file
//! each. Always: every writer puts the same number of bytes into the file for the same group.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use ringd_storage::ENTRY_OVERHEAD_BYTES;
use ringd_storage::format::{FRAME_HEADER_BYTES, PAGE_BYTES, align_frame};
use ringd_storage::fs::FsMedium;
use ringd_storage::writer::{DirectWriter, GroupWriter, MappedWriter};

const PAGE: usize = PAGE_BYTES as usize;
/// Largest group the direct writers collect.
const BUFFER_BYTES: usize = 1 << 20;
/// Any number but zero.
const EPOCH: u64 = 0x52_4247;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriterKind {
    /// What a node does: copy into the map, fdatasync.
    Mapped,
    /// pwrite through the page cache, fdatasync.
    Pwrite,
    /// Whole pages past the page cache, then fdatasync.
    Direct,
    /// Whole pages past the page cache, durable when the write returns.
    DirectDsync,
}

impl WriterKind {
    pub const ALL: [WriterKind; 4] =
        [WriterKind::Mapped, WriterKind::Pwrite, WriterKind::Direct, WriterKind::DirectDsync];

    pub fn name(self) -> &'static str {
        match self {
            WriterKind::Mapped => "mmap+fdatasync",
            WriterKind::Pwrite => "pwrite+fdatasync",
            WriterKind::Direct => "O_DIRECT+fdatasync",
            WriterKind::DirectDsync => "O_DIRECT+RWF_DSYNC",
        }
    }

    /// Whether it needs a file system with direct I/O.
    pub fn is_direct(self) -> bool {
        matches!(self, WriterKind::Direct | WriterKind::DirectDsync)
    }

    /// Takes over the file `name` in `dir`.
    pub fn open(self, medium: &FsMedium, dir: &Path, name: &str) -> io::Result<Box<dyn GroupWriter>> {
        Ok(match self {
            WriterKind::Mapped => Box::new(MappedWriter::open(medium, name, EPOCH)?),
            WriterKind::DirectDsync => Box::new(DirectWriter::open(medium, name, EPOCH)?),
            WriterKind::Pwrite => Box::new(PlainWriter::open(&dir.join(name), false)?),
            WriterKind::Direct => Box::new(PlainWriter::open(&dir.join(name), true)?),
        })
    }
}

/// Opens for direct I/O.
pub fn open_direct(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(rustix::fs::OFlags::DIRECT.bits().cast_signed()).open(path)
}

/// Memory whose first byte lies on a page, as direct I/O wants it.
pub struct PageBuffer {
    memory: Vec<u8>,
    start: usize,
}

impl PageBuffer {
    pub fn new(bytes: usize) -> PageBuffer {
        let memory = vec![0; bytes + PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        PageBuffer { memory, start }
    }

    /// The usable bytes; `memory` never grows, so they stay where they are.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..]
    }
}

/// Appends to a file with pwrite, cached or direct, and syncs it with fdatasync.
struct PlainWriter {
    file: File,
    direct: bool,
    buffer: PageBuffer,
    /// File offset of the buffer's first byte.
    page_at: u64,
    /// Bytes of the buffer that are in use; those before `written` are in the page cache already.
    filled: usize,
    written: usize,
    capacity: u64,
}

impl PlainWriter {
    fn open(path: &Path, direct: bool) -> io::Result<PlainWriter> {
        let file = if direct { open_direct(path)? } else { OpenOptions::new().read(true).write(true).open(path)? };
        let capacity = file.metadata()?.len();
        let buffer = PageBuffer::new(BUFFER_BYTES);
        // The first page is the segment's header in the other writers.
        Ok(PlainWriter { file, direct, buffer, page_at: PAGE_BYTES, filled: 0, written: 0, capacity })
    }
}

impl GroupWriter for PlainWriter {
    fn name(&self) -> &'static str {
        if self.direct { WriterKind::Direct.name() } else { WriterKind::Pwrite.name() }
    }

    fn append(&mut self, records: &[&[u8]]) -> io::Result<u64> {
        let payload: usize = records.iter().map(|r| r.len() + ENTRY_OVERHEAD_BYTES as usize).sum();
        let bytes = align_frame(FRAME_HEADER_BYTES + payload as u64) as usize;
        if bytes as u64 > self.room_bytes() || self.filled + bytes > BUFFER_BYTES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let group = &mut self.buffer.bytes()[self.filled..self.filled + bytes];
        group.fill(1); // stands for the headers
        let mut at = FRAME_HEADER_BYTES as usize;
        for record in records {
            at += ENTRY_OVERHEAD_BYTES as usize;
            group[at..at + record.len()].copy_from_slice(record);
            at += record.len();
        }
        self.filled += bytes;
        Ok(bytes as u64)
    }

    fn sync(&mut self) -> io::Result<()> {
        let end = if self.direct { self.filled.next_multiple_of(PAGE) } else { self.filled };
        let start = if self.direct { 0 } else { self.written };
        let (page_at, filled) = (self.page_at, self.filled);
        let bytes = self.buffer.bytes();
        bytes[filled..end].fill(0);
        self.file.write_all_at(&bytes[start..end], page_at + start as u64)?;
        self.file.sync_data()?;
        // The last page stays: while it is not full, a direct writer has to write it again.
        let kept = filled % PAGE;
        bytes.copy_within(filled - kept..filled, 0);
        self.page_at += (filled - kept) as u64;
        (self.filled, self.written) = (kept, kept);
        Ok(())
    }

    fn room_bytes(&self) -> u64 {
        self.capacity - self.page_at - self.filled as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_plain_writers_put_the_same_bytes_in_the_same_places() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let mut contents = Vec::new();
        for direct in [false, true] {
            let path = root.path().join(format!("{direct}"));
            std::fs::write(&path, vec![0u8; 1 << 20]).expect("our own file");
            let Ok(mut writer) = PlainWriter::open(&path, direct) else { continue }; // no direct I/O here
            for length in [1usize, 100, 5000, 3] {
                writer.append(&[&vec![7u8; length], b"end"]).expect("room is left");
                writer.sync().expect("our own file");
            }
            let large = vec![7u8; 300 << 10];
            let full = (0..10).find_map(|_| {
                let outcome = writer.append(&[&large]);
                writer.sync().expect("our own file");
                outcome.err()
            });
            assert_eq!(full.map(|e| e.kind()), Some(io::ErrorKind::StorageFull));
            contents.push(std::fs::read(&path).expect("our own file"));
        }
        assert!(contents.windows(2).all(|pair| pair[0] == pair[1]));
        assert!(contents[0].windows(3).any(|w| w == b"end"));
    }
}
