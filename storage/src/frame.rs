//! Building one frame: records go into a reused buffer, then header and checksum seal it.
//!
//! Invariants: the buffer always holds header space first, then records, then (once sealed) zero padding; after a
//! frame is taken or cleared the buffer's memory stays, so a steady state allocates nothing.

use crate::format::{
    FRAME_ALIGN_BYTES, FRAME_HEADER_BYTES, FrameHeader, SnapshotMarker, align_frame, frame_crc, frame_header, put_u32,
};
use crate::ids::{RaftIndex, Term, WalIndex};
use crate::record::{self, EntryRef, HardState, RECORD_HEADER_BYTES};

/// A frame under construction.
#[derive(Debug)]
pub(crate) struct FrameBuffer {
    bytes: Vec<u8>,
    records: u32,
}

/// What sealing a frame needs to know about its place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub epoch: u64,
    pub offset: u64,
    pub wal_index: WalIndex,
    pub first_raft_index: RaftIndex,
    pub term: Term,
    pub durable: WalIndex,
    pub prev_crc: u32,
}

/// Memory the buffer may keep for the next frame; a rare huge batch must not stay resident.
const KEPT_BYTES: usize = 256 << 10;
/// Memory it begins with: a few ordinary batches.
const INITIAL_BYTES: usize = 16 << 10;

impl FrameBuffer {
    pub(crate) fn new() -> Self {
        let mut buffer = Self { bytes: Vec::with_capacity(INITIAL_BYTES), records: 0 };
        buffer.clear();
        buffer
    }

    /// Forgets the records.
    #[inline]
    pub(crate) fn clear(&mut self) {
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::with_capacity(INITIAL_BYTES);
        }
        // The header's place holds an old header or zeros; sealing writes all of it.
        self.bytes.truncate(FRAME_HEADER_BYTES as usize);
        if self.bytes.len() < FRAME_HEADER_BYTES as usize {
            self.bytes.resize(FRAME_HEADER_BYTES as usize, 0);
        }
        self.records = 0;
    }

    #[inline]
    pub(crate) fn push_entry(&mut self, entry: &EntryRef<'_>) {
        record::encode_entry(&mut self.bytes, entry);
        self.records += 1;
    }

    pub(crate) fn push_hard_state(&mut self, state: &HardState) {
        record::encode_hard_state(&mut self.bytes, state);
        self.records += 1;
    }

    pub(crate) fn push_snapshot_marker(&mut self, marker: &SnapshotMarker, replaces_log: bool) {
        record::encode_snapshot_marker(&mut self.bytes, marker, replaces_log);
        self.records += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Bytes the frame takes on disk.
    pub(crate) fn total_bytes(&self) -> u64 {
        align_frame(self.bytes.len() as u64)
    }

    /// Writes padding, header and checksum. Answers the checksum, which the next frame repeats.
    #[inline]
    pub(crate) fn seal(&mut self, place: Place) -> u32 {
        let length = self.bytes.len() - FRAME_HEADER_BYTES as usize;
        let padding = self.total_bytes() as usize - self.bytes.len();
        self.bytes.extend_from_slice(&[0; FRAME_ALIGN_BYTES as usize][..padding]);
        let header = FrameHeader {
            crc: 0,
            length: u32::try_from(length).expect("append checked the frame against the segment size"),
            epoch: place.epoch,
            wal_index: place.wal_index,
            first_raft_index: place.first_raft_index,
            term: place.term,
            durable: place.durable,
            prev_crc: place.prev_crc,
            records: self.records,
        };
        header.encode_into(&mut self.bytes);
        let crc = frame_crc(place.epoch, place.offset, &self.bytes);
        put_u32(&mut self.bytes, frame_header::CRC, crc);
        crc
    }

    /// The sealed frame.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes the sealed frame's memory away, for a write that outlives the next frame.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let taken = std::mem::take(&mut self.bytes);
        self.clear();
        taken
    }
}

/// What a frame costs besides data and contexts of its entries: callers that fill frames up to a limit add this per
/// entry.
pub const ENTRY_OVERHEAD_BYTES: u64 = (RECORD_HEADER_BYTES + record::ENTRY_FIXED_BYTES) as u64;
