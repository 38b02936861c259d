//! Every magic number, offset, limit and file name of the WAL, and the two fixed layouts: segment header and frame
//! header.
//!
//! Bytes: `FORMAT.md`; a test parses its tables and compares them with the `FIELDS` tables here.
//!
//! Invariants:
//! 1. All integers are little-endian; every offset is in bytes from the start of its structure.
//! 2. Zero is never valid: no magic, no epoch and no frame length is zero, so untouched disk reads as "nothing".
//! 3. Decoding takes untrusted bytes and answers `None` or an error; it never panics.
//! 4. A frame's checksum is seeded with its segment's epoch and its own offset: a frame of another segment, of the
//!    file's earlier life, or copied to another place (say, inside a client's value) does not validate.

use crate::ids::{ClusterId, MemberId, RaftIndex, SegmentSeq, Term, WalIndex};
use crate::record::HardState;

/// A page of the page cache; the unit the kernel writes back and the alignment of headers and fresh batches.
pub const PAGE_BYTES: u64 = 4096;
/// What a disk writes without tearing.
pub const SECTOR_BYTES: u64 = 512;
/// Frames begin at multiples of this, so a scan can resynchronise and a length field never straddles a sector.
pub const FRAME_ALIGN_BYTES: u64 = 8;
/// The default size of a segment file.
pub const SEGMENT_BYTES: u64 = 64 << 20;
/// The smallest segment that makes sense: the header page and one page of frames.
pub const SEGMENT_BYTES_MIN: u64 = 2 * PAGE_BYTES;
/// The largest segment: offsets inside it fit the checksum seed and `u32` lengths.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 31;
/// First bytes of a segment.
pub const SEGMENT_MAGIC: [u8; 8] = *b"RINGDWAL";
/// The version of the segment and frame layout.
pub const WAL_VERSION: u32 = 1;
/// Segment flag: the file was zero-filled when it became the tail, so any byte beyond the last frame was written by
/// this segment. Without it the file was recycled and holds stale bytes.
pub const SEGMENT_FLAG_ZEROED: u32 = 1;
/// Bytes of the frame header.
pub const FRAME_HEADER_BYTES: u64 = 56;

const _: () = assert!(FRAME_HEADER_BYTES.is_multiple_of(FRAME_ALIGN_BYTES));
const _: () = assert!(SEGMENT_BYTES.is_multiple_of(PAGE_BYTES) && SEGMENT_BYTES <= SEGMENT_BYTES_MAX);
const _: () = assert!(PAGE_BYTES.is_multiple_of(SECTOR_BYTES));

/// One row of a layout table: where a field lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// The name used in `FORMAT.md`.
    pub name: &'static str,
    /// Bytes from the start of the structure.
    pub offset: usize,
    /// How many bytes it takes.
    pub bytes: usize,
}

const fn field(name: &'static str, offset: usize, bytes: usize) -> Field {
    Field { name, offset, bytes }
}

/// The segment header page; the checksum closes the page so that no byte of it is unprotected.
pub mod segment_header {
    use super::{Field, field};
    /// [`super::SEGMENT_MAGIC`].
    pub const MAGIC: Field = field("magic", 0, 8);
    /// [`super::WAL_VERSION`].
    pub const VERSION: Field = field("version", 8, 4);
    /// [`super::SEGMENT_FLAG_ZEROED`].
    pub const FLAGS: Field = field("flags", 12, 4);
    /// Cluster id.
    pub const CLUSTER: Field = field("cluster", 16, 8);
    /// Member id.
    pub const MEMBER: Field = field("member", 24, 8);
    /// Sequence of the segment.
    pub const SEQ: Field = field("seq", 32, 8);
    /// Random, never zero.
    pub const EPOCH: Field = field("epoch", 40, 8);
    /// WAL index of the first frame.
    pub const FIRST_WAL: Field = field("first_wal_index", 48, 8);
    /// Raft index after the last entry of the segments before.
    pub const FIRST_RAFT: Field = field("first_raft_index", 56, 8);
    /// Where the frames of the previous segment end; zero in the first.
    pub const PREV_END: Field = field("prev_end", 64, 8);
    /// Checksum of the last frame before this segment; zero in the first.
    pub const PREV_CRC: Field = field("prev_crc", 72, 4);
    /// Zero.
    pub const RESERVED: Field = field("reserved", 76, 4);
    /// Hard state when the segment began.
    pub const HS_TERM: Field = field("hard_state_term", 80, 8);
    /// Hard state when the segment began.
    pub const HS_VOTE: Field = field("hard_state_vote", 88, 8);
    /// Hard state when the segment began.
    pub const HS_COMMIT: Field = field("hard_state_commit", 96, 8);
    /// Newest snapshot marker when the segment began; zero for none.
    pub const SNAP_INDEX: Field = field("snapshot_index", 104, 8);
    /// Newest snapshot marker when the segment began.
    pub const SNAP_TERM: Field = field("snapshot_term", 112, 8);
    /// Zero up to the checksum.
    pub const PADDING: Field = field("padding", 120, 3972);
    /// CRC-32 of all bytes before it.
    pub const CRC: Field = field("crc", 4092, 4);
    /// All of the above, in order.
    pub const FIELDS: &[Field] = &[
        MAGIC, VERSION, FLAGS, CLUSTER, MEMBER, SEQ, EPOCH, FIRST_WAL, FIRST_RAFT, PREV_END, PREV_CRC, RESERVED,
        HS_TERM, HS_VOTE, HS_COMMIT, SNAP_INDEX, SNAP_TERM, PADDING, CRC,
    ];
}

/// The frame header; the checksum leads so that it covers one contiguous range.
pub mod frame_header {
    use super::{Field, field};
    /// CRC-32 of the rest of the frame with its padding, seeded by epoch and offset.
    pub const CRC: Field = field("crc", 0, 4);
    /// Bytes of records, without padding.
    pub const LENGTH: Field = field("length", 4, 4);
    /// The segment's epoch.
    pub const EPOCH: Field = field("epoch", 8, 8);
    /// Place of the frame in the WAL.
    pub const WAL_INDEX: Field = field("wal_index", 16, 8);
    /// Index of the first entry inside, or of the entry that would come next.
    pub const FIRST_RAFT: Field = field("first_raft_index", 24, 8);
    /// Term of the node after this frame: the highest of its records and of the frames before.
    pub const TERM: Field = field("term", 32, 8);
    /// The last frame known synced when this one was written.
    pub const DURABLE: Field = field("durable", 40, 8);
    /// Checksum of the frame before; in a segment's first frame the checksum of the segment header.
    pub const PREV_CRC: Field = field("prev_crc", 48, 4);
    /// How many records follow.
    pub const RECORDS: Field = field("records", 52, 4);
    /// All of the above, in order.
    pub const FIELDS: &[Field] = &[CRC, LENGTH, EPOCH, WAL_INDEX, FIRST_RAFT, TERM, DURABLE, PREV_CRC, RECORDS];
}

/// Reads a `u32` at a field that is known to lie inside `bytes`.
pub(crate) fn get_u32(bytes: &[u8], field: Field) -> u32 {
    u32::from_le_bytes(bytes[field.offset..field.offset + 4].try_into().expect("four bytes"))
}

/// Reads a `u64` at a field that is known to lie inside `bytes`.
pub(crate) fn get_u64(bytes: &[u8], field: Field) -> u64 {
    u64::from_le_bytes(bytes[field.offset..field.offset + 8].try_into().expect("eight bytes"))
}

pub(crate) fn put_u32(bytes: &mut [u8], field: Field, value: u32) {
    bytes[field.offset..field.offset + 4].copy_from_slice(&value.to_le_bytes());
}

pub(crate) fn put_u64(bytes: &mut [u8], field: Field, value: u64) {
    bytes[field.offset..field.offset + 8].copy_from_slice(&value.to_le_bytes());
}

/// Rounds `offset` up to the next frame boundary.
#[must_use]
pub const fn align_frame(offset: u64) -> u64 {
    offset.next_multiple_of(FRAME_ALIGN_BYTES)
}

/// Rounds `offset` up to the next page boundary.
#[must_use]
pub const fn align_page(offset: u64) -> u64 {
    offset.next_multiple_of(PAGE_BYTES)
}

/// Who a data directory belongs to. Bytes of another cluster or member are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The member of it that this node is.
    pub member: MemberId,
}

/// The place of a snapshot in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct SnapshotMarker {
    /// Raft index of the last entry it contains.
    pub index: RaftIndex,
    /// That entry's term.
    pub term: Term,
}

/// What the first page of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// [`SEGMENT_FLAG_ZEROED`] or nothing.
    pub flags: u32,
    /// Whose it is.
    pub identity: Identity,
    /// Its place in the WAL.
    pub seq: SegmentSeq,
    /// Random; tells its frames from everybody else's.
    pub epoch: u64,
    /// Index of its first frame.
    pub first_wal_index: WalIndex,
    /// Index of the entry that comes after all entries before this segment.
    pub first_raft_index: RaftIndex,
    /// Where the previous segment's frames end; zero in the first segment.
    pub prev_end: u64,
    /// Checksum of the last frame before, or of the previous segment's header when it had none.
    pub prev_crc: u32,
    /// The hard state then, so that older segments can go.
    pub hard_state: HardState,
    /// The newest snapshot marker then.
    pub snapshot: Option<SnapshotMarker>,
}

/// Why a page is not a segment header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Shorter than a page.
    #[error("the file ends inside the segment header")]
    Short,
    /// Another kind of file.
    #[error("no segment magic")]
    Magic,
    /// A newer ringd wrote it.
    #[error("segment format version {0} is unknown; this build reads version {WAL_VERSION}")]
    Version(u32),
    /// Damaged.
    #[error("the segment header's checksum does not match")]
    Crc,
    /// The checksum holds but a field breaks the format's rules.
    #[error("the segment header's field {0} is out of range")]
    Field(&'static str),
}

impl SegmentHeader {
    /// The header page, ready to be written at offset 0.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        use segment_header as f;
        assert_ne!(self.epoch, 0, "zero is never a valid epoch");
        let mut page = vec![0u8; PAGE_BYTES as usize];
        page[..8].copy_from_slice(&SEGMENT_MAGIC);
        put_u32(&mut page, f::VERSION, WAL_VERSION);
        put_u32(&mut page, f::FLAGS, self.flags);
        put_u64(&mut page, f::CLUSTER, self.identity.cluster.get());
        put_u64(&mut page, f::MEMBER, self.identity.member.get());
        put_u64(&mut page, f::SEQ, self.seq.get());
        put_u64(&mut page, f::EPOCH, self.epoch);
        put_u64(&mut page, f::FIRST_WAL, self.first_wal_index.get());
        put_u64(&mut page, f::FIRST_RAFT, self.first_raft_index.get());
        put_u64(&mut page, f::PREV_END, self.prev_end);
        put_u32(&mut page, f::PREV_CRC, self.prev_crc);
        put_u64(&mut page, f::HS_TERM, self.hard_state.term.get());
        put_u64(&mut page, f::HS_VOTE, self.hard_state.vote.get());
        put_u64(&mut page, f::HS_COMMIT, self.hard_state.commit.get());
        let snapshot = self.snapshot.unwrap_or_default();
        put_u64(&mut page, f::SNAP_INDEX, snapshot.index.get());
        put_u64(&mut page, f::SNAP_TERM, snapshot.term.get());
        let crc = crc32fast::hash(&page[..f::CRC.offset]);
        put_u32(&mut page, f::CRC, crc);
        page
    }

    /// Reads a header page and its checksum (which begins the chain of frame checksums).
    ///
    /// # Errors
    /// [`HeaderError`] when the bytes are not a header this build can read.
    pub fn decode(page: &[u8]) -> Result<(Self, u32), HeaderError> {
        use segment_header as f;
        let page = page.get(..PAGE_BYTES as usize).ok_or(HeaderError::Short)?;
        if page[..8] != SEGMENT_MAGIC {
            return Err(HeaderError::Magic);
        }
        // The version first: a newer format may place its checksum elsewhere.
        let version = get_u32(page, f::VERSION);
        let crc = get_u32(page, f::CRC);
        let crc_holds = crc32fast::hash(&page[..f::CRC.offset]) == crc;
        if version != WAL_VERSION {
            return Err(if crc_holds { HeaderError::Version(version) } else { HeaderError::Crc });
        }
        if !crc_holds {
            return Err(HeaderError::Crc);
        }
        let header = Self {
            flags: get_u32(page, f::FLAGS),
            identity: Identity {
                cluster: ClusterId::new(get_u64(page, f::CLUSTER)),
                member: MemberId::new(get_u64(page, f::MEMBER)),
            },
            seq: SegmentSeq::new(get_u64(page, f::SEQ)),
            epoch: get_u64(page, f::EPOCH),
            first_wal_index: WalIndex::new(get_u64(page, f::FIRST_WAL)),
            first_raft_index: RaftIndex::new(get_u64(page, f::FIRST_RAFT)),
            prev_end: get_u64(page, f::PREV_END),
            prev_crc: get_u32(page, f::PREV_CRC),
            hard_state: HardState {
                term: Term::new(get_u64(page, f::HS_TERM)),
                vote: MemberId::new(get_u64(page, f::HS_VOTE)),
                commit: RaftIndex::new(get_u64(page, f::HS_COMMIT)),
            },
            snapshot: match get_u64(page, f::SNAP_INDEX) {
                0 => None,
                index => {
                    Some(SnapshotMarker { index: RaftIndex::new(index), term: Term::new(get_u64(page, f::SNAP_TERM)) })
                }
            },
        };
        let broken = [
            (header.epoch == 0, f::EPOCH),
            (header.seq == SegmentSeq::ZERO, f::SEQ),
            (header.first_wal_index == WalIndex::ZERO || header.first_wal_index.get() > u64::MAX / 2, f::FIRST_WAL),
            (header.first_raft_index == RaftIndex::ZERO || header.first_raft_index.get() > u64::MAX / 2, f::FIRST_RAFT),
        ];
        match broken.iter().find(|(is_broken, _)| *is_broken) {
            Some((_, field)) => Err(HeaderError::Field(field.name)),
            None => Ok((header, crc)),
        }
    }
}

/// What stands before a frame's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Seeded checksum.
    pub crc: u32,
    /// Bytes of records, without padding.
    pub length: u32,
    /// The segment's epoch.
    pub epoch: u64,
    /// Place of the frame in the WAL.
    pub wal_index: WalIndex,
    /// See [`frame_header::FIRST_RAFT`].
    pub first_raft_index: RaftIndex,
    /// See [`frame_header::TERM`].
    pub term: Term,
    /// The last frame known synced when this one was written.
    pub durable: WalIndex,
    /// Checksum of the frame before.
    pub prev_crc: u32,
    /// How many records follow.
    pub records: u32,
}

impl FrameHeader {
    /// Writes everything but the checksum into the first [`FRAME_HEADER_BYTES`] of `frame`.
    pub(crate) fn encode_into(&self, frame: &mut [u8]) {
        use frame_header as f;
        let frame = &mut frame[..FRAME_HEADER_BYTES as usize];
        put_u32(frame, f::LENGTH, self.length);
        put_u64(frame, f::EPOCH, self.epoch);
        put_u64(frame, f::WAL_INDEX, self.wal_index.get());
        put_u64(frame, f::FIRST_RAFT, self.first_raft_index.get());
        put_u64(frame, f::TERM, self.term.get());
        put_u64(frame, f::DURABLE, self.durable.get());
        put_u32(frame, f::PREV_CRC, self.prev_crc);
        put_u32(frame, f::RECORDS, self.records);
    }

    /// Reads the fields; says nothing about whether they are true.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        use frame_header as f;
        let bytes = bytes.get(..FRAME_HEADER_BYTES as usize)?;
        Some(Self {
            crc: get_u32(bytes, f::CRC),
            length: get_u32(bytes, f::LENGTH),
            epoch: get_u64(bytes, f::EPOCH),
            wal_index: WalIndex::new(get_u64(bytes, f::WAL_INDEX)),
            first_raft_index: RaftIndex::new(get_u64(bytes, f::FIRST_RAFT)),
            term: Term::new(get_u64(bytes, f::TERM)),
            durable: WalIndex::new(get_u64(bytes, f::DURABLE)),
            prev_crc: get_u32(bytes, f::PREV_CRC),
            records: get_u32(bytes, f::RECORDS),
        })
    }

    /// Bytes the frame takes on disk: header, records and padding.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        align_frame(FRAME_HEADER_BYTES + self.length as u64)
    }
}

/// The checksum of a frame that begins at `offset` of the segment with `epoch`. `frame` is the whole frame with its
/// padding; its first four bytes (the checksum itself) do not count.
#[must_use]
pub fn frame_crc(epoch: u64, offset: u64, frame: &[u8]) -> u32 {
    let seed = (epoch as u32) ^ ((epoch >> 32) as u32) ^ (offset as u32);
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&frame[4..]);
    hasher.finalize()
}

/// The name of a published segment: `<seq>-<first raft index>.wal`, both as 16 hex digits so that names sort.
#[must_use]
pub fn segment_name(seq: SegmentSeq, first_raft_index: RaftIndex) -> String {
    format!("{:016x}-{:016x}.wal", seq.get(), first_raft_index.get())
}

/// Reads a name made by [`segment_name`].
#[must_use]
pub fn parse_segment_name(name: &str) -> Option<(SegmentSeq, RaftIndex)> {
    let (seq, index) = parse_hex_pair(name, ".wal")?;
    Some((SegmentSeq::new(seq), RaftIndex::new(index)))
}

/// Reads `<16 hex>-<16 hex><suffix>`.
pub(crate) fn parse_hex_pair(name: &str, suffix: &str) -> Option<(u64, u64)> {
    let (first, second) = name.strip_suffix(suffix)?.split_once('-')?;
    let hex = |text: &str| {
        let canonical = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        canonical.then(|| u64::from_str_radix(text, 16).ok()).flatten()
    };
    Some((hex(first)?, hex(second)?))
}

/// The name of a spare segment, ready to become the tail.
#[must_use]
pub fn spare_name(number: u64) -> String {
    format!("spare-{number}")
}

/// Reads a name made by [`spare_name`].
#[must_use]
pub fn parse_spare_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("spare-")?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// What a name carries until its file is complete.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            flags: SEGMENT_FLAG_ZEROED,
            identity: Identity { cluster: ClusterId::new(1), member: MemberId::new(2) },
            seq: SegmentSeq::new(3),
            epoch: 4,
            first_wal_index: WalIndex::new(5),
            first_raft_index: RaftIndex::new(6),
            prev_end: 4104,
            prev_crc: 8,
            hard_state: HardState { term: Term::new(9), vote: MemberId::new(10), commit: RaftIndex::new(11) },
            snapshot: Some(SnapshotMarker { index: RaftIndex::new(12), term: Term::new(13) }),
        }
    }

    #[test]
    fn a_header_survives_the_round_trip_and_every_flipped_bit_is_noticed() {
        let page = header().encode();
        assert_eq!(SegmentHeader::decode(&page).unwrap().0, header());
        for bit in (0..page.len() * 8).step_by(7) {
            let mut damaged = page.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(SegmentHeader::decode(&damaged).is_err(), "bit {bit}");
        }
        assert_eq!(SegmentHeader::decode(&page[..4095]), Err(HeaderError::Short));
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut page = header().encode();
        put_u32(&mut page, segment_header::VERSION, 2);
        assert_eq!(SegmentHeader::decode(&page), Err(HeaderError::Crc), "a flipped version is damage");
        let crc = crc32fast::hash(&page[..segment_header::CRC.offset]);
        put_u32(&mut page, segment_header::CRC, crc);
        assert_eq!(SegmentHeader::decode(&page), Err(HeaderError::Version(2)));
    }

    #[test]
    fn layout_tables_have_no_hole_and_no_overlap() {
        for (fields, total) in
            [(segment_header::FIELDS, PAGE_BYTES as usize), (frame_header::FIELDS, FRAME_HEADER_BYTES as usize)]
        {
            let mut end = 0;
            for field in fields {
                assert_eq!(field.offset, end, "{}", field.name);
                end += field.bytes;
            }
            assert_eq!(end, total);
        }
    }

    #[test]
    fn names_round_trip_and_strangers_are_not_ours() {
        let name = segment_name(SegmentSeq::new(0x1f), RaftIndex::new(7));
        assert_eq!(name, "000000000000001f-0000000000000007.wal");
        assert_eq!(parse_segment_name(&name), Some((SegmentSeq::new(0x1f), RaftIndex::new(7))));
        for stranger in ["1-7.wal", "000000000000001F-0000000000000007.wal", "spare-1", "x.wal", ".wal", "-.wal"] {
            assert_eq!(parse_segment_name(stranger), None, "{stranger}");
        }
        assert_eq!(parse_spare_name("spare-12"), Some(12));
        assert_eq!(parse_spare_name("spare-12.tmp"), None);
        assert_eq!(parse_spare_name("spare-"), None);
    }
}
