//! The two states of a segment in use: the tail, which is mapped and filled front to back, and the sealed ones before
//! it, of which only the name and a few numbers are kept.
//!
//! Bytes: `FORMAT.md`, "Segment". Golden file: `testdata/segment_v1.wal`.
//!
//! Invariants:
//! 1. `synced <= offset <= capacity`; `offset` is always a multiple of 8 and only grows.
//! 2. Bytes once stored are never stored again; the next frame begins at `offset`, or at the next page boundary.
//! 3. The kernel may write any dirty page at any time and in any order. After a crash a frame past `synced` is
//!    believed only if checksum, epoch, WAL index and the chain to the frame before all agree.
//! 4. A `.wal` name belongs only to a file whose header and whose predecessor are durable. Until then the tail lives
//!    under its spare's name, which recovery ignores.
//! 5. Only a window around `offset` is resident: 1 MiB ahead is made present before it is needed, and what is synced
//!    is given back.
//!
//! Not here: syncing, what records mean, removal.

use std::io;
use std::sync::Arc;

use crate::format::{PAGE_BYTES, SegmentHeader, segment_name};
use crate::ids::{RaftIndex, SegmentSeq};
use crate::medium::Medium;
use crate::prepare::Spare;
use crate::region::Region;

/// How far ahead of the append position pages are present: more than the largest batch that is copied.
const PREFAULT_AHEAD_BYTES: u64 = 1 << 20;
/// Pages are made present in steps of this size, so that no single append pays for a whole window.
const PREFAULT_STEP_BYTES: u64 = 256 << 10;
/// Synced pages are given back in steps of this size: one system call per MiB.
const RELEASE_STEP_BYTES: u64 = 1 << 20;

/// A segment that is full.
#[derive(Clone, Debug)]
pub(crate) struct Sealed {
    pub name: String,
    pub bytes: u64,
    /// The highest raft index among its entries and those before it.
    pub max_raft_index: RaftIndex,
}

/// The segment that takes the next frame.
pub(crate) struct Tail<M: Medium> {
    pub file: M::File,
    pub region: M::Region,
    pub header: SegmentHeader,
    /// Its published name.
    pub name: String,
    /// Its path now, for messages.
    pub path: Arc<str>,
    /// The spare's name it still has, while unpublished.
    pub unpublished: Option<String>,
    pub capacity: u64,
    /// Where the next frame begins, unless it wants a fresh page.
    pub offset: u64,
    /// Up to where the file is synced.
    pub synced: u64,
    /// Checksum of the last frame, or of the header.
    pub last_crc: u32,
    /// The highest raft index among its entries and those before it.
    pub max_raft_index: RaftIndex,
    pub present_to: u64,
    pub released_to: u64,
}

impl<M: Medium> Tail<M> {
    /// Makes a spare the tail: stores its header. Nothing is durable yet.
    pub fn begin(medium: &M, spare: Spare<M>, header: SegmentHeader, max_raft_index: RaftIndex) -> io::Result<Self> {
        let Spare { name, file, mut region, bytes, zeroed: _ } = spare;
        region.prefault(0, PREFAULT_STEP_BYTES)?;
        let page = header.encode();
        let last_crc = header_crc(&page);
        region.store(0, &page);
        Ok(Self {
            file,
            region,
            name: segment_name(header.seq, header.first_raft_index),
            path: medium.path_of(&name).into(),
            unpublished: Some(name),
            header,
            capacity: bytes,
            offset: PAGE_BYTES,
            synced: 0,
            last_crc,
            max_raft_index,
            present_to: PREFAULT_STEP_BYTES,
            released_to: 0,
        })
    }

    pub fn seq(&self) -> SegmentSeq {
        self.header.seq
    }

    /// Copies a sealed frame of at most [`PREFAULT_AHEAD_BYTES`] to `at`.
    pub fn store(&mut self, at: u64, frame: &[u8]) -> io::Result<()> {
        let end = at + frame.len() as u64;
        assert!(at >= self.offset && end <= self.capacity, "a frame outside the free part of the tail");
        if self.present_to < (end + PREFAULT_AHEAD_BYTES - PREFAULT_STEP_BYTES).min(self.capacity) {
            // Usually one step; more after a staged batch, whose pages nobody stored into.
            let from = self.present_to.max(at / PAGE_BYTES * PAGE_BYTES);
            let to = (end + PREFAULT_AHEAD_BYTES).next_multiple_of(PREFAULT_STEP_BYTES);
            self.region.prefault(from, to)?;
            self.present_to = to;
        }
        self.region.store(at, frame);
        self.offset = end;
        Ok(())
    }

    /// Accounts for a frame that the ring will write.
    pub fn skip(&mut self, at: u64, bytes: u64) {
        assert!(at >= self.offset && at + bytes <= self.capacity, "a frame outside the free part of the tail");
        self.offset = at + bytes;
    }

    /// The file has its segment name now.
    pub fn mark_published(&mut self, medium: &M) {
        if self.unpublished.take().is_some() {
            self.path = medium.path_of(&self.name).into();
        }
    }

    /// Everything before `offset` is on disk.
    pub fn mark_synced(&mut self, offset: u64) {
        assert!(self.synced <= offset && offset <= self.offset, "synced moves forward, up to what was appended");
        self.synced = offset;
        let done = offset / RELEASE_STEP_BYTES * RELEASE_STEP_BYTES;
        if done > self.released_to {
            self.region.release(self.released_to, done);
            self.released_to = done;
        }
    }

    pub fn into_sealed(self) -> Sealed {
        Sealed { name: self.name, bytes: self.capacity, max_raft_index: self.max_raft_index }
    }
}

/// The checksum that closes an encoded header page.
pub(crate) fn header_crc(page: &[u8]) -> u32 {
    crate::format::get_u32(page, crate::format::segment_header::CRC)
}
