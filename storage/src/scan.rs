//! Reading frames from a segment file: what stands at an offset, and what can still be found past damage.
//!
//! May touch: one file, by `pread`. Must not: write, map, or decide what damage means (that is `recover`).
//!
//! Invariants:
//! 1. Every byte is untrusted; a frame counts only when epoch, length and checksum agree for its very offset.
//! 2. Memory is bounded by one window, or by one frame when that is larger.

use std::io;
use std::ops::ControlFlow;

use crate::format::{
    FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, FrameHeader, HeaderError, PAGE_BYTES, SegmentHeader, align_page, frame_crc,
    frame_header,
};
use crate::ids::WalIndex;
use crate::medium::StoredFile;
use crate::record::Records;

/// How much is read at once.
const WINDOW_BYTES: usize = 1 << 20;

/// What stands at an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A valid frame.
    Frame(FrameHeader),
    /// A frame of this epoch was begun here, but it is not whole.
    Torn,
    /// Zeros, or bytes of the file's earlier life.
    Nothing,
}

/// What follows a position in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The frame that comes next, and where it begins: at the position or on the next page.
    Frame(u64, FrameHeader),
    /// A valid frame that does not follow: another index, or another history.
    Other(u64, FrameHeader),
    /// No valid frame.
    Absent {
        /// Where a frame was begun, as far as its header tells.
        torn: Option<u64>,
    },
}

/// What the rest of a segment holds after a position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// A header of this epoch was seen, whole frame or not.
    pub this_epoch: bool,
    /// The end of the last 8 bytes that are not all zero.
    pub nonzero_end: u64,
    /// The frame with the highest durable mark, and where it is.
    pub voucher: Option<(u64, FrameHeader)>,
}

/// A segment open for reading.
#[derive(Debug)]
pub struct SegmentReader<F: StoredFile> {
    file: F,
    header: SegmentHeader,
    header_crc: u32,
    bytes: u64,
    window: Vec<u8>,
    window_at: u64,
}

/// A segment cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The device's error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The first page is not a header.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

impl<F: StoredFile> SegmentReader<F> {
    /// Reads the header page.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(file: F) -> Result<Self, OpenError> {
        file.expect_random_reads();
        let bytes = file.len_bytes()?;
        let page = crate::medium::read_vec(&file, 0, PAGE_BYTES as usize)?;
        let (header, header_crc) = SegmentHeader::decode(&page)?;
        Ok(Self { file, header, header_crc, bytes, window: Vec::new(), window_at: 0 })
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// The header's checksum, which the first frame repeats.
    #[must_use]
    pub fn header_crc(&self) -> u32 {
        self.header_crc
    }

    /// The file's length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Forgets what was read ahead: the file may have changed.
    pub fn refresh(&mut self) {
        self.window.clear();
    }

    /// Lends `bytes` bytes at `offset`, or fewer when the file ends.
    fn view(&mut self, offset: u64, bytes: usize) -> io::Result<&[u8]> {
        let inside = offset >= self.window_at && offset + bytes as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let wanted = bytes.max(WINDOW_BYTES).min(self.bytes.saturating_sub(offset) as usize);
            self.window.resize(wanted, 0);
            let read = self.file.read_at(&mut self.window, offset);
            self.window.truncate(*read.as_ref().unwrap_or(&0));
            self.window_at = offset;
            read?;
        }
        let start = (offset - self.window_at) as usize;
        let end = (start + bytes).min(self.window.len());
        Ok(&self.window[start.min(end)..end])
    }

    /// What stands at `offset`.
    ///
    /// # Errors
    /// The device's.
    pub fn probe(&mut self, offset: u64) -> io::Result<Probe> {
        let (epoch, left) = (self.header.epoch, self.bytes.saturating_sub(offset));
        let Some(header) = FrameHeader::decode(self.view(offset, FRAME_HEADER_BYTES as usize)?) else {
            return Ok(Probe::Nothing);
        };
        if header.epoch != epoch {
            return Ok(Probe::Nothing);
        }
        let total = header.total_bytes();
        if total > left || header.wal_index == WalIndex::ZERO || header.records == 0 {
            return Ok(Probe::Torn);
        }
        let frame = self.view(offset, total as usize)?;
        let whole = frame.len() as u64 == total && frame_crc(epoch, offset, frame) == header.crc;
        Ok(if whole { Probe::Frame(header) } else { Probe::Torn })
    }

    /// The records of a frame that [`SegmentReader::probe`] found at `offset`.
    ///
    /// # Errors
    /// The device's.
    pub fn records(&mut self, offset: u64, frame: &FrameHeader) -> io::Result<Records<'_>> {
        let body = self.view(offset + FRAME_HEADER_BYTES, frame.length as usize)?;
        Ok(Records::new(body, frame.records))
    }

    /// What follows `cursor`, where frame `expect` should begin and repeat the checksum `prev_crc`.
    ///
    /// # Errors
    /// The device's.
    pub fn next(&mut self, cursor: u64, expect: WalIndex, prev_crc: u32) -> io::Result<Next> {
        let follows = |frame: &FrameHeader| frame.wal_index == expect && frame.prev_crc == prev_crc;
        let here = self.probe(cursor)?;
        if let Probe::Frame(frame) = here {
            return Ok(if follows(&frame) { Next::Frame(cursor, frame) } else { Next::Other(cursor, frame) });
        }
        // The batch may have begun on a fresh page, because a sync was out.
        let page = align_page(cursor);
        let there = if page == cursor { Probe::Nothing } else { self.probe(page)? };
        Ok(match there {
            Probe::Frame(frame) if follows(&frame) => Next::Frame(page, frame),
            // With the right index but another history the log forked; with a later index there is a hole before it.
            Probe::Frame(frame) if frame.wal_index <= expect => Next::Other(page, frame),
            Probe::Torn if here != Probe::Torn => Next::Absent { torn: Some(page) },
            Probe::Nothing if here != Probe::Torn => {
                let begun = self.resembles(cursor, expect, prev_crc)?;
                let torn = if begun { Some(cursor) } else { self.resembles(page, expect, prev_crc)?.then_some(page) };
                Next::Absent { torn }
            }
            _ => Next::Absent { torn: Some(cursor) },
        })
    }

    /// Whether the bytes at `offset` can only be the wanted frame with a damaged epoch: stale frames of a recycled
    /// file have lower indexes.
    fn resembles(&mut self, offset: u64, expect: WalIndex, prev_crc: u32) -> io::Result<bool> {
        let header = FrameHeader::decode(self.view(offset, FRAME_HEADER_BYTES as usize)?);
        Ok(header.is_some_and(|found| found.wal_index == expect || (found.prev_crc == prev_crc && prev_crc != 0)))
    }

    /// Looks at the rest of the segment, at every 8 bytes from `from` on.
    ///
    /// # Errors
    /// The device's.
    pub fn rest(&mut self, from: u64) -> io::Result<Rest> {
        let mut voucher: Option<(u64, FrameHeader)> = None;
        let mut rest = self.scan(from, &mut |at, frame| {
            if voucher.is_none_or(|(_, best)| frame.durable > best.durable) {
                voucher = Some((at, *frame));
            }
            ControlFlow::Continue(())
        })?;
        rest.voucher = voucher;
        Ok(rest)
    }

    /// The first valid frame at or after `from`: where reading can go on past damage.
    ///
    /// # Errors
    /// The device's.
    pub fn find(&mut self, from: u64) -> io::Result<Option<(u64, FrameHeader)>> {
        let mut found = None;
        self.scan(from, &mut |at, frame| {
            found = Some((at, *frame));
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    fn scan(&mut self, from: u64, visit: &mut dyn FnMut(u64, &FrameHeader) -> ControlFlow<()>) -> io::Result<Rest> {
        const WORD: u64 = FRAME_ALIGN_BYTES;
        let epoch_at = frame_header::EPOCH.offset as u64;
        let epoch = self.header.epoch;
        let mut rest = Rest { nonzero_end: from, ..Rest::default() };
        let mut at = from.next_multiple_of(WORD);
        let mut candidates = Vec::new();
        while at + WORD <= self.bytes {
            let chunk = self.view(at, WINDOW_BYTES.min((self.bytes - at) as usize))?;
            if (chunk.len() as u64) < WORD {
                break; // The file became shorter while we read.
            }
            look(chunk, at, &mut |place, word| {
                rest.nonzero_end = place + WORD;
                if word == epoch && place >= from + epoch_at {
                    candidates.push(place - epoch_at);
                }
            });
            at += chunk.len() as u64 / WORD * WORD;
            for candidate in candidates.drain(..) {
                rest.this_epoch = true;
                if let Probe::Frame(frame) = self.probe(candidate)?
                    && visit(candidate, &frame).is_break()
                {
                    return Ok(rest);
                }
            }
        }
        Ok(rest)
    }
}

/// Shows `visit` every 8 bytes of `chunk`, which stands at `at`, that are not all zero: no epoch is.
///
/// Not generic and not inlined, so that it is compiled here, optimised, also for a debug build of the server: it sees
/// every byte of the tail at every start.
#[inline(never)]
fn look(chunk: &[u8], at: u64, visit: &mut dyn FnMut(u64, u64)) {
    const WORD: usize = FRAME_ALIGN_BYTES as usize;
    // Nearly all of a tail is zero, and a page of zeros is told by its OR, many bytes at a time.
    for (page_at, page) in (at..).step_by(PAGE_BYTES as usize).zip(chunk.chunks(PAGE_BYTES as usize)) {
        if page.iter().fold(0, |sum, byte| sum | byte) == 0 {
            continue;
        }
        for (place, bytes) in (page_at..).step_by(WORD).zip(page.chunks_exact(WORD)) {
            let word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
            if word != 0 {
                visit(place, word);
            }
        }
    }
}
