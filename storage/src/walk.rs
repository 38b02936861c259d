//! Walking a WAL directory from its oldest segment to its end, read-only: recovery and the inspector share this code.
//!
//! May touch: files, by `pread`. Must not: write anything.
//!
//! Invariants:
//! 1. Every frame handed to the visitor is in order, whole, and chained to the one before.
//! 2. What ends the walk is a row of the table in [`crate::verdict`], never a guess.
//!
//! Segments before a hole in the numbering are leftovers: retiring removes files one by one, and a crash can keep
//! part of that. A segment that is really missing shows as a gap between snapshot and log.

use std::io;

use crate::format::{FrameHeader, SegmentHeader, parse_segment_name};
use crate::ids::{RaftIndex, WalIndex};
use crate::medium::{Access, Medium};
use crate::record::Records;
use crate::scan::{Next, OpenError, Rest, SegmentReader};
use crate::verdict::{AtCursor, Place, Reason, Refusal, Verdict, verdict};

/// Who looks at every frame of a walk.
pub trait Visitor {
    /// A segment begins.
    fn segment(&mut self, path: &str, header: &SegmentHeader, bytes: u64) {
        let _ = (path, header, bytes);
    }

    /// The next frame.
    ///
    /// # Errors
    /// A reason to refuse the WAL here.
    fn frame(&mut self, offset: u64, frame: &FrameHeader, records: Records<'_>) -> Result<(), Reason>;
}

/// Where the tail ends before its file does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailEnd {
    /// Where the next frame would begin.
    pub offset: u64,
    /// What was begun after it and is not whole, if anything.
    pub torn: Option<TailCut>,
}

/// Bytes at the end of the log that are not a whole frame. Normal after a crash: they were never acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TailCut {
    /// Path of the segment.
    pub file: String,
    /// Where the log ends.
    pub offset: u64,
    /// The frame that would have come next.
    pub wal_index: WalIndex,
    /// How many bytes after `offset` are void.
    pub bytes: u64,
}

/// One segment as the walk found it.
#[derive(Clone, Debug)]
pub struct WalkedSegment {
    /// Its name in the directory.
    pub name: String,
    /// Its header.
    pub header: SegmentHeader,
    /// The file's length.
    pub bytes: u64,
    /// Where its frames end.
    pub end: u64,
    /// Checksum of its last frame, or of its header.
    pub last_crc: u32,
    /// The highest raft index of its entries and those before it.
    pub max_raft_index: RaftIndex,
    /// How many frames it holds.
    pub frames: u64,
}

/// What a walk found.
#[derive(Clone, Debug)]
pub struct Walk {
    /// From oldest to tail; never empty.
    pub segments: Vec<WalkedSegment>,
    /// Names of segments before a hole in the numbering.
    pub leftovers: Vec<String>,
    /// The last frame.
    pub last: WalIndex,
    /// How the tail ends.
    pub end: TailEnd,
}

/// A walk stopped early.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// There is no segment: nothing was ever written here.
    #[error("{0} holds no WAL segment")]
    Empty(String),
    /// Damage. Nothing was changed.
    #[error(transparent)]
    Refused(#[from] Box<Refusal>),
    /// The directory cannot be used.
    #[error("cannot {what} {file}: {source}")]
    Io {
        /// The step.
        what: &'static str,
        /// The file.
        file: String,
        /// The reason.
        source: io::Error,
    },
}

/// The published segments of a directory, by number: the leftovers before a hole, then the unbroken run.
pub(crate) fn segment_names<M: Medium>(medium: &M) -> Result<(Vec<String>, Vec<String>), WalkError> {
    let io = |source| WalkError::Io { what: "list", file: medium.path_of(""), source };
    // Sorted by name, which is sorted by number.
    let mut run: Vec<(u64, String)> = Vec::new();
    let mut leftovers = Vec::new();
    for name in medium.list().map_err(io)? {
        let Some((seq, _)) = parse_segment_name(&name) else { continue };
        if run.last().is_some_and(|(last, _)| *last + 1 != seq.get()) {
            leftovers.extend(run.drain(..).map(|(_, name)| name));
        }
        run.push((seq.get(), name));
    }
    Ok((leftovers, run.into_iter().map(|(_, name)| name).collect()))
}

struct Cursor {
    next: WalIndex,
    crc: u32,
    raft: RaftIndex,
    max_raft: RaftIndex,
}

/// Walks the WAL in `medium`.
///
/// # Errors
/// [`WalkError`].
pub fn walk<M: Medium>(medium: &M, visitor: &mut dyn Visitor) -> Result<Walk, WalkError> {
    let (leftovers, names) = segment_names(medium)?;
    if names.is_empty() {
        return Err(WalkError::Empty(medium.path_of("").trim_end_matches('/').to_owned()));
    }
    let mut readers = Vec::with_capacity(names.len());
    for name in names {
        readers.push((open(medium, &name)?, name));
    }
    let first = readers[0].0.header();
    let mut cursor = Cursor {
        next: first.first_wal_index,
        crc: 0,
        raft: first.first_raft_index,
        max_raft: RaftIndex::new(first.first_raft_index.get() - 1),
    };
    check_chain(medium, &readers)?;
    let mut segments = Vec::with_capacity(readers.len());
    let mut end = None;
    for at in 0..readers.len() {
        let sealed_end = readers.get(at + 1).map(|(next, _)| next.header().prev_end);
        let (reader, name) = &mut readers[at];
        let path = medium.path_of(name);
        let found = walk_segment(reader, &path, &mut cursor, sealed_end, visitor)?;
        segments.push(WalkedSegment {
            name: name.clone(),
            header: *reader.header(),
            bytes: reader.bytes(),
            end: found.end.offset,
            last_crc: cursor.crc,
            max_raft_index: cursor.max_raft,
            frames: found.frames,
        });
        if let Some((next, name)) = readers.get(at + 1) {
            check_successor(&medium.path_of(name), next.header(), &cursor)?;
        } else {
            end = Some(found.end);
        }
    }
    let last = WalIndex::new(cursor.next.get() - 1);
    Ok(Walk { segments, leftovers, last, end: end.expect("the last segment is the tail") })
}

fn refusal(file: String, offset: u64, wal_index: WalIndex, raft_index: RaftIndex, reason: Reason) -> WalkError {
    WalkError::Refused(Box::new(Refusal { file, offset, wal_index, raft_index, reason }))
}

fn open<M: Medium>(medium: &M, name: &str) -> Result<SegmentReader<M::File>, WalkError> {
    let path = medium.path_of(name);
    let (_, raft) = parse_segment_name(name).expect("only segment names were listed");
    let file =
        medium.open(name, Access::Read).map_err(|source| WalkError::Io { what: "open", file: path.clone(), source })?;
    SegmentReader::open(file).map_err(|error| {
        let reason = match error {
            OpenError::Io(source) => Reason::Unreadable(source),
            OpenError::Header(header) => Reason::Header(header),
        };
        refusal(path, 0, WalIndex::ZERO, raft, reason)
    })
}

/// What headers alone can tell: names, owner, order.
fn check_chain<M: Medium>(medium: &M, readers: &[(SegmentReader<M::File>, String)]) -> Result<(), WalkError> {
    let owner = readers[0].0.header().identity;
    for (reader, name) in readers {
        let header = reader.header();
        let (seq, raft) = parse_segment_name(name).expect("only segment names were listed");
        let checks = [
            ("sequence", header.seq.get(), seq.get()),
            ("first raft index", header.first_raft_index.get(), raft.get()),
            ("cluster id", header.identity.cluster.get(), owner.cluster.get()),
            ("member id", header.identity.member.get(), owner.member.get()),
        ];
        mismatch(&medium.path_of(name), header, &checks)?;
    }
    Ok(())
}

/// What a header says about the frames before it.
fn check_successor(path: &str, header: &SegmentHeader, cursor: &Cursor) -> Result<(), WalkError> {
    let checks = [
        ("first WAL index", header.first_wal_index.get(), cursor.next.get()),
        ("checksum of the frame before", u64::from(header.prev_crc), u64::from(cursor.crc)),
    ];
    mismatch(path, header, &checks)
}

fn mismatch(path: &str, header: &SegmentHeader, checks: &[(&'static str, u64, u64)]) -> Result<(), WalkError> {
    match checks.iter().find(|(_, found, expected)| found != expected) {
        None => Ok(()),
        Some(&(field, found, expected)) => {
            let (found, expected) = (format!("{found:x}"), format!("{expected:x}"));
            let reason = Reason::HeaderMismatch { field, found, expected };
            Err(refusal(path.to_owned(), 0, header.first_wal_index, header.first_raft_index, reason))
        }
    }
}

struct Found {
    end: TailEnd,
    frames: u64,
}

fn walk_segment<F: crate::medium::StoredFile>(
    reader: &mut SegmentReader<F>,
    path: &str,
    cursor: &mut Cursor,
    sealed_end: Option<u64>,
    visitor: &mut dyn Visitor,
) -> Result<Found, WalkError> {
    let place = if sealed_end.is_some() { Place::Sealed } else { Place::Tail };
    visitor.segment(path, reader.header(), reader.bytes());
    cursor.crc = reader.header_crc();
    let mut offset = crate::format::PAGE_BYTES;
    let mut frames = 0;
    let mut looked_twice = false;
    loop {
        if sealed_end == Some(offset) {
            return Ok(Found { end: TailEnd { offset, torn: None }, frames });
        }
        let refuse = |cursor: &Cursor, at, reason| refusal(path.to_owned(), at, cursor.next, cursor.raft, reason);
        let unreadable = |cursor: &Cursor, source| refuse(cursor, offset, Reason::Unreadable(source));
        let next = reader.next(offset, cursor.next, cursor.crc).map_err(|e| unreadable(cursor, e))?;
        let (found, rest) = match next {
            Next::Frame(..) => (AtCursor::ValidNext, Rest::default()),
            Next::Other(..) => (AtCursor::ValidOther, Rest::default()),
            Next::Absent { .. } => (AtCursor::ZeroOrTorn, reader.rest(offset).map_err(|e| unreadable(cursor, e))?),
        };
        let voucher = rest.voucher.filter(|(_, frame)| frame.durable >= cursor.next);
        match (verdict(found, voucher.is_some(), place), next) {
            (Verdict::Keep, Next::Frame(at, frame)) => {
                let records = reader.records(at, &frame).map_err(|e| unreadable(cursor, e))?;
                visitor.frame(at, &frame, records).map_err(|reason| refuse(cursor, at, reason))?;
                let records = reader.records(at, &frame).map_err(|e| unreadable(cursor, e))?;
                track_raft_index(records, cursor);
                offset = at + frame.total_bytes();
                cursor.next = cursor.next.next();
                cursor.crc = frame.crc;
                frames += 1;
                looked_twice = false;
            }
            (Verdict::Refuse, _) if !looked_twice => {
                // A live node may have finished this very frame while we looked at what follows it.
                looked_twice = true;
                reader.refresh();
            }
            (Verdict::Refuse, Next::Other(at, frame)) => {
                return Err(refuse(cursor, at, Reason::OtherFrame { found: frame.wal_index }));
            }
            (Verdict::Refuse, absent) => {
                let at = if let Next::Absent { torn: Some(at) } = absent { at } else { offset };
                let reason = match (voucher, sealed_end) {
                    (Some((voucher_offset, frame)), _) => {
                        Reason::DamagedButVouched { voucher: frame.wal_index, voucher_offset }
                    }
                    (None, end) => Reason::DamagedInSealed { end: end.unwrap_or(0) },
                };
                return Err(refuse(cursor, at, reason));
            }
            (Verdict::EndHere, _) => {
                let torn = torn_part(reader, path, cursor.next, offset, next, &rest);
                return Ok(Found { end: TailEnd { offset, torn }, frames });
            }
            (Verdict::Keep, _) => unreachable!("only a valid next frame is kept"),
        }
    }
}

/// Keeps the raft position for messages and for retiring; recovery proper checks the records.
fn track_raft_index(records: Records<'_>, cursor: &mut Cursor) {
    use crate::record::Record;
    for record in records.flatten() {
        let last = match record {
            Record::Entry(entry) => entry.index,
            Record::SnapshotMarker { marker, replaces_log: true } => marker.index,
            _ => continue,
        };
        cursor.raft = RaftIndex::new(last.get().saturating_add(1));
        cursor.max_raft = cursor.max_raft.max(last);
    }
}

/// Whether something was begun after the end of the log. In a zero-filled segment every other byte tells; in a
/// recycled one only headers of this epoch do.
fn torn_part<F: crate::medium::StoredFile>(
    reader: &SegmentReader<F>,
    path: &str,
    wal_index: WalIndex,
    offset: u64,
    next: Next,
    rest: &Rest,
) -> Option<TailCut> {
    let zeroed = reader.header().flags & crate::format::SEGMENT_FLAG_ZEROED != 0;
    let begun =
        matches!(next, Next::Absent { torn: Some(_) }) || rest.this_epoch || (zeroed && rest.nonzero_end > offset);
    begun.then(|| TailCut { file: path.to_owned(), offset, wal_index, bytes: rest.nonzero_end.max(offset) - offset })
}
