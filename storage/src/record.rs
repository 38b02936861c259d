//! One record to bytes and back: what a frame carries.
//!
//! Bytes: `FORMAT.md`, "Records". Storage does not know raft: an entry's data and context are opaque here.
//!
//! Invariants:
//! 1. A record is 8 bytes of header (type, kind, two zero bytes, body length) and its body, without padding. The kind
//!    of an entry is its [`EntryKind`], of a snapshot marker whether it replaces the log, else zero.
//! 2. Decoding borrows from the frame, checks every length, and rejects unknown types: a newer ringd wrote them, and
//!    skipping what one cannot read would be losing it.

use crate::format::SnapshotMarker;
use crate::ids::{MemberId, RaftIndex, Term};

/// Bytes before a record's body.
pub const RECORD_HEADER_BYTES: usize = 8;
/// Bytes of an entry's body before context and data: term, index, context length.
pub const ENTRY_FIXED_BYTES: usize = 20;
/// Bytes of a hard state's body.
pub const HARD_STATE_BYTES: usize = 24;
/// Bytes of a snapshot marker's body.
pub const SNAPSHOT_MARKER_BYTES: usize = 16;
/// Record type of an [`EntryRef`].
pub const TYPE_ENTRY: u8 = 1;
/// Record type of a [`HardState`].
pub const TYPE_HARD_STATE: u8 = 2;
/// Record type of a [`SnapshotMarker`].
pub const TYPE_SNAPSHOT_MARKER: u8 = 3;
/// No node lives to write a higher raft index; with one, the next index would have no number.
const INDEX_MAX: u64 = u64::MAX / 2;

/// What an entry's data is, numbered as raft numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum EntryKind {
    /// A proposal, or empty.
    Normal = 0,
    /// One membership change.
    ConfChange = 1,
    /// A joint membership change.
    ConfChangeV2 = 2,
}

impl EntryKind {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Normal),
            1 => Some(Self::ConfChange),
            2 => Some(Self::ConfChangeV2),
            _ => None,
        }
    }
}

/// A raft log entry, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// Its term.
    pub term: Term,
    /// Its place in the raft log.
    pub index: RaftIndex,
    /// What `data` is.
    pub kind: EntryKind,
    /// Opaque.
    pub data: &'a [u8],
    /// Opaque.
    pub context: &'a [u8],
}

/// A raft log entry, owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its term.
    pub term: Term,
    /// Its place in the raft log.
    pub index: RaftIndex,
    /// What `data` is.
    pub kind: EntryKind,
    /// Opaque.
    pub data: Vec<u8>,
    /// Opaque.
    pub context: Vec<u8>,
}

impl Entry {
    /// The same entry, lent.
    #[must_use]
    pub fn as_ref(&self) -> EntryRef<'_> {
        EntryRef { term: self.term, index: self.index, kind: self.kind, data: &self.data, context: &self.context }
    }
}

impl From<EntryRef<'_>> for Entry {
    fn from(entry: EntryRef<'_>) -> Self {
        Self {
            term: entry.term,
            index: entry.index,
            kind: entry.kind,
            data: entry.data.to_vec(),
            context: entry.context.to_vec(),
        }
    }
}

/// What raft must remember besides its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HardState {
    /// The current term.
    pub term: Term,
    /// Who this member voted for in it; zero is nobody.
    pub vote: MemberId,
    /// The last entry known committed.
    pub commit: RaftIndex,
}

/// One record of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A log entry; one with an index at or before the last replaces everything from there on.
    Entry(EntryRef<'a>),
    /// The newest one counts.
    HardState(HardState),
    /// A snapshot up to here is safe on disk.
    SnapshotMarker {
        /// What it contains.
        marker: SnapshotMarker,
        /// It came from a leader and replaces the log: every entry written before this record is void.
        replaces_log: bool,
    },
}

/// Bytes that are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A length points past the frame.
    #[error("a record ends past its frame")]
    Short,
    /// A newer ringd wrote it.
    #[error("unknown record type {0}")]
    Type(u8),
    /// Unknown entry kind, or a reserved byte in use.
    #[error("a record of type {0} breaks its layout")]
    Layout(u8),
    /// The frame's count and its bytes disagree.
    #[error("{0} bytes follow the last record")]
    Trailing(usize),
}

fn header(kind: u8, entry_kind: u8, body: usize) -> [u8; RECORD_HEADER_BYTES] {
    let body = u32::try_from(body).expect("a record fits its frame, and a frame's length is a u32");
    (u64::from(body) << 32 | u64::from(entry_kind) << 8 | u64::from(kind)).to_le_bytes()
}

/// Appends an entry record.
#[inline]
pub(crate) fn encode_entry(out: &mut Vec<u8>, entry: &EntryRef<'_>) {
    // Field by field into the buffer: collecting them in an array first costs a failed store forwarding per append.
    let body = ENTRY_FIXED_BYTES + entry.context.len() + entry.data.len();
    out.reserve(RECORD_HEADER_BYTES + body);
    out.extend_from_slice(&header(TYPE_ENTRY, entry.kind as u8, body));
    out.extend_from_slice(&entry.term.get().to_le_bytes());
    out.extend_from_slice(&entry.index.get().to_le_bytes());
    out.extend_from_slice(&(entry.context.len() as u32).to_le_bytes());
    if !entry.context.is_empty() {
        out.extend_from_slice(entry.context);
    }
    out.extend_from_slice(entry.data);
}

/// Appends a hard state record.
pub(crate) fn encode_hard_state(out: &mut Vec<u8>, state: &HardState) {
    out.extend_from_slice(&header(TYPE_HARD_STATE, 0, HARD_STATE_BYTES));
    out.extend_from_slice(&state.term.get().to_le_bytes());
    out.extend_from_slice(&state.vote.get().to_le_bytes());
    out.extend_from_slice(&state.commit.get().to_le_bytes());
}

/// Appends a snapshot marker record.
pub(crate) fn encode_snapshot_marker(out: &mut Vec<u8>, marker: &SnapshotMarker, replaces_log: bool) {
    out.extend_from_slice(&header(TYPE_SNAPSHOT_MARKER, u8::from(replaces_log), SNAPSHOT_MARKER_BYTES));
    out.extend_from_slice(&marker.index.get().to_le_bytes());
    out.extend_from_slice(&marker.term.get().to_le_bytes());
}

/// The records of one frame's body; yields an error once and then ends.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
    left: u32,
}

impl<'a> Records<'a> {
    /// Walks `count` records in `body` (a frame's bytes after its header, without padding).
    #[must_use]
    pub fn new(body: &'a [u8], count: u32) -> Self {
        Self { rest: body, left: count }
    }

    fn next_record(&mut self) -> Result<Record<'a>, RecordError> {
        let (head, rest) = self.rest.split_at_checked(RECORD_HEADER_BYTES).ok_or(RecordError::Short)?;
        let kind = head[0];
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (body, rest) = rest.split_at_checked(length).ok_or(RecordError::Short)?;
        let layout = RecordError::Layout(kind);
        if head[2..4] != [0, 0] || (kind == TYPE_HARD_STATE && head[1] != 0) {
            return Err(layout);
        }
        let word = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
        let in_range = |index: u64| if index <= INDEX_MAX { Ok(RaftIndex::new(index)) } else { Err(layout) };
        let record = match kind {
            TYPE_ENTRY => {
                let (fixed, payload) = body.split_at_checked(ENTRY_FIXED_BYTES).ok_or(layout)?;
                let context = u32::from_le_bytes(fixed[16..20].try_into().expect("four bytes")) as usize;
                let (context, data) = payload.split_at_checked(context).ok_or(layout)?;
                Record::Entry(EntryRef {
                    term: Term::new(word(0)),
                    index: in_range(word(8))?,
                    kind: EntryKind::from_byte(head[1]).ok_or(layout)?,
                    data,
                    context,
                })
            }
            TYPE_HARD_STATE if body.len() == HARD_STATE_BYTES => Record::HardState(HardState {
                term: Term::new(word(0)),
                vote: MemberId::new(word(8)),
                commit: RaftIndex::new(word(16)),
            }),
            TYPE_SNAPSHOT_MARKER if body.len() == SNAPSHOT_MARKER_BYTES && head[1] <= 1 => Record::SnapshotMarker {
                marker: SnapshotMarker { index: in_range(word(0))?, term: Term::new(word(8)) },
                replaces_log: head[1] == 1,
            },
            TYPE_HARD_STATE | TYPE_SNAPSHOT_MARKER => return Err(layout),
            unknown => return Err(RecordError::Type(unknown)),
        };
        self.rest = rest;
        Ok(record)
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            let trailing = std::mem::take(&mut self.rest).len();
            return (trailing > 0).then_some(Err(RecordError::Trailing(trailing)));
        }
        self.left -= 1;
        let next = self.next_record();
        if next.is_err() {
            self.left = 0;
            self.rest = &[];
        }
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_survive_the_round_trip() {
        let entry = EntryRef {
            term: Term::new(2),
            index: RaftIndex::new(9),
            kind: EntryKind::ConfChange,
            data: b"data",
            context: b"ctx",
        };
        let state = HardState { term: Term::new(2), vote: MemberId::new(5), commit: RaftIndex::new(8) };
        let marker = SnapshotMarker { index: RaftIndex::new(4), term: Term::new(1) };
        let mut body = Vec::new();
        encode_entry(&mut body, &entry);
        encode_hard_state(&mut body, &state);
        encode_snapshot_marker(&mut body, &marker, true);
        let records: Result<Vec<_>, _> = Records::new(&body, 3).collect();
        assert_eq!(
            records.unwrap(),
            [Record::Entry(entry), Record::HardState(state), Record::SnapshotMarker { marker, replaces_log: true }]
        );
        let entry_bytes = RECORD_HEADER_BYTES + ENTRY_FIXED_BYTES + 3 + 4;
        assert_eq!(body.len(), entry_bytes + 2 * RECORD_HEADER_BYTES + HARD_STATE_BYTES + SNAPSHOT_MARKER_BYTES);
        let fewer: Result<Vec<_>, _> = Records::new(&body, 2).collect();
        assert_eq!(fewer, Err(RecordError::Trailing(24)));
        let more: Result<Vec<_>, _> = Records::new(&body, 4).collect();
        assert_eq!(more, Err(RecordError::Short));
    }

    #[test]
    fn unknown_types_and_kinds_are_errors() {
        fn collect(bytes: &[u8]) -> Result<Vec<Record<'_>>, RecordError> {
            Records::new(bytes, 1).collect()
        }
        assert_eq!(collect(&[9, 0, 0, 0, 0, 0, 0, 0]), Err(RecordError::Type(9)));
        assert_eq!(collect(&[2, 1, 0, 0, 0, 0, 0, 0]), Err(RecordError::Layout(2)));
        assert_eq!(collect(&[2, 0, 0, 0, 0, 0, 0, 0]), Err(RecordError::Layout(2)));
        let mut entry = vec![1, 3, 0, 0, 20, 0, 0, 0];
        entry.extend_from_slice(&[0; 20]);
        assert_eq!(collect(&entry), Err(RecordError::Layout(1)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), count in 0u32..5) {
            let yielded = Records::new(&bytes, count).count();
            prop_assert!(yielded <= count as usize + 1);
        }
    }
}
