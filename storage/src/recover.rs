//! From a directory to an open WAL: choose a snapshot, read the log after it, cut a torn tail, go on.
//!
//! May touch: everything in the WAL directory; the caller holds the directory lock. Blocks; runs before the node
//! serves anything.
//!
//! Invariants:
//! 1. Nothing is changed on disk before the whole log has been read and accepted.
//! 2. The tail is synced and its cached pages are forgotten before it is read: after a failed sync the cache shows
//!    bytes that never reached the disk, and they must not be believed.
//! 3. What is returned is durable. A cut tail is zeroed and synced first, so that no stale frame can return.
//! 4. That a tail was cut outlives crashes: a file says so until [`clear_tail_cut`], because a member that cut its
//!    tail may have lost an acknowledged batch and must not vote before it has caught up.

use std::io;
use std::sync::Arc;

use crate::format::{
    FrameHeader, Identity, PAGE_BYTES, SnapshotMarker, TEMPORARY_SUFFIX, align_page, parse_segment_name,
    parse_spare_name,
};
use crate::ids::RaftIndex;
use crate::medium::{Access, Medium, StoredFile};
use crate::prepare::{Spare, adopt};
use crate::record::{Entry, HardState, Record, Records};
use crate::segment::{Sealed, Tail};
use crate::snapshot::{self, SnapshotMeta};
use crate::verdict::{Reason, Refusal};
use crate::wal::{LogState, Wal, WalOptions};
use crate::walk::{self, TailCut, Visitor, Walk, WalkError};

/// The file that says that a tail was cut and the member has not caught up since.
pub const TAIL_CUT_NAME: &str = "tail-cut";

/// How much was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryStats {
    /// Segments walked.
    pub segments: u64,
    /// Frames read.
    pub frames: u64,
    /// Records read.
    pub records: u64,
    /// Bytes of frames read.
    pub bytes: u64,
    /// Snapshots that were passed over because they are damaged or have no marker.
    pub snapshots_passed_over: u64,
}

/// A node's memory, as the disk has it.
pub struct Recovered<M: Medium> {
    /// Ready for appends.
    pub wal: Wal<M>,
    /// Whose it is.
    pub identity: Identity,
    /// The newest good snapshot and its name in the snapshot directory; all its checksums were verified.
    pub snapshot: Option<(SnapshotMeta, String)>,
    /// The log after the snapshot, without gaps.
    pub entries: Vec<Entry>,
    /// The newest hard state; never commits past the last entry, nor before the snapshot.
    pub hard_state: HardState,
    /// What was cut off now, for one log line.
    pub tail: Option<TailCut>,
    /// A tail was cut, now or earlier: this member must not vote before it has caught up with a leader. Call
    /// [`clear_tail_cut`] then; a cluster of one voter has nobody to catch up with and clears it at once.
    pub must_catch_up: bool,
    /// How much was read.
    pub stats: RecoveryStats,
    /// Snapshots newer than the chosen one that could not be used, with the reason, for the log.
    pub passed_over: Vec<String>,
}

/// Collects what the log says after one snapshot.
#[derive(Debug, Default)]
struct Collector {
    base: RaftIndex,
    first_segment: bool,
    entries: Vec<Entry>,
    log: LogState,
    markers: Vec<SnapshotMarker>,
    stats: RecoveryStats,
}

impl Visitor for Collector {
    fn segment(&mut self, _path: &str, header: &crate::format::SegmentHeader, _bytes: u64) {
        self.stats.segments += 1;
        if !std::mem::replace(&mut self.first_segment, false) {
            return;
        }
        let before = RaftIndex::new(header.first_raft_index.get() - 1);
        self.log = LogState {
            last: before,
            max: before,
            term: header.hard_state.term,
            hard_state: header.hard_state,
            snapshot: header.snapshot,
        };
        self.markers.extend(header.snapshot);
    }

    fn frame(&mut self, _offset: u64, frame: &FrameHeader, records: Records<'_>) -> Result<(), Reason> {
        self.stats.frames += 1;
        self.stats.records += u64::from(frame.records);
        self.stats.bytes += frame.total_bytes();
        for record in records {
            match record.map_err(Reason::Record)? {
                Record::Entry(entry) => self.entry(entry.into())?,
                Record::HardState(state) => {
                    self.log.hard_state = state;
                    self.log.term = self.log.term.max(state.term);
                }
                Record::SnapshotMarker { marker, replaces_log } => self.marker(marker, replaces_log)?,
            }
        }
        Ok(())
    }
}

impl Collector {
    fn after(base: RaftIndex) -> Self {
        Self { base, first_segment: true, ..Self::default() }
    }

    fn entry(&mut self, entry: Entry) -> Result<(), Reason> {
        let index = entry.index;
        if index == RaftIndex::ZERO || index > self.log.last.next() {
            let what = format!("raft entry {index} follows entry {}: entries between them are missing", self.log.last);
            return Err(Reason::Contradiction(what));
        }
        self.log.last = index;
        self.log.max = self.log.max.max(index);
        self.log.term = self.log.term.max(entry.term);
        let keep = self.entries.partition_point(|kept| kept.index < index);
        self.entries.truncate(keep);
        if index > self.base {
            self.entries.push(entry);
        }
        Ok(())
    }

    fn marker(&mut self, marker: SnapshotMarker, replaces_log: bool) -> Result<(), Reason> {
        if replaces_log {
            self.entries.clear();
            self.log.last = marker.index;
            self.log.max = self.log.max.max(marker.index);
            self.log.term = self.log.term.max(marker.term);
        } else if marker.index > self.log.last {
            let what = format!("a snapshot of raft index {} in a log that ends at {}", marker.index, self.log.last);
            return Err(Reason::Contradiction(what));
        }
        self.log.see(Some(marker));
        self.markers.push(marker);
        Ok(())
    }

    /// What the log as a whole must hold.
    fn finish(&mut self) -> Result<(), Reason> {
        let first = self.entries.first().map_or(self.log.last.next(), |entry| entry.index);
        if first > self.base.next() {
            return Err(Reason::Gap { first, snapshot: self.base });
        }
        let last = self.log.last.max(self.base);
        if self.log.hard_state.commit > last {
            return Err(Reason::CommitPastEnd { commit: self.log.hard_state.commit, last });
        }
        // A snapshot holds committed entries only; its marker may be older than the last synced hard state.
        self.log.hard_state.commit = self.log.hard_state.commit.max(self.base);
        self.log.last = last;
        Ok(())
    }
}

/// Whether `medium` holds a WAL: recover it, else create one.
///
/// # Errors
/// [`WalkError::Io`].
pub fn holds_wal<M: Medium>(medium: &M) -> Result<bool, WalkError> {
    Ok(!walk::segment_names(medium)?.1.is_empty())
}

/// Opens the WAL in `wal_dir` for appending, with the newest good snapshot of `snap_dir`.
///
/// # Errors
/// [`WalkError`]; nothing but a torn tail has been changed then.
pub fn recover<M: Medium>(wal_dir: M, snap_dir: &M, options: WalOptions) -> Result<Recovered<M>, WalkError> {
    options.check();
    let (_, names) = walk::segment_names(&wal_dir)?;
    let io = |what, name: &str| {
        let file = wal_dir.path_of(name);
        move |source| WalkError::Io { what, file, source }
    };
    if let Some(name) = names.last() {
        let file = wal_dir.open(name, Access::ReadWrite).map_err(io("open", name))?;
        file.sync_data().map_err(io("sync", name))?;
        file.forget_cache();
    }
    // A process that was killed between a rename and its sync has left names that a power cut would take back, and with
    // them whatever is appended to those files from here on.
    wal_dir.sync_dir().map_err(io("sync", ""))?;
    let mut passed_over = Vec::new();
    let (walked, log, snapshot) = read_log(&wal_dir, snap_dir, &mut passed_over)?;
    let mut stats = log.stats;
    stats.snapshots_passed_over = passed_over.len() as u64;
    let tail_name = &walked.segments.last().expect("a walk has a tail").name;
    let cut = walked.end.torn.clone();
    let marked = wal_dir.list().map_err(io("list", ""))?.iter().any(|name| name == TAIL_CUT_NAME);
    if let Some(cut) = &cut {
        if !marked {
            note_tail_cut(&wal_dir, cut).map_err(io("write", TAIL_CUT_NAME))?;
        }
        let file = wal_dir.open(tail_name, Access::ReadWrite).map_err(io("open", tail_name))?;
        wipe(&file, cut).map_err(io("zero the torn end of", tail_name))?;
    }
    remove_leftovers(&wal_dir, &walked.leftovers).map_err(io("clean up", ""))?;
    snapshot::remove_leftovers(snap_dir).map_err(|source| WalkError::Io {
        what: "clean up",
        file: snap_dir.path_of(""),
        source,
    })?;
    let spares = adopt_spares(&wal_dir, &options).map_err(io("reuse the spares in", ""))?;
    let tail = open_tail(&wal_dir, &walked).map_err(io("map", tail_name))?;
    let sealed = walked.segments[..walked.segments.len() - 1]
        .iter()
        .map(|s| Sealed { name: s.name.clone(), bytes: s.bytes, max_raft_index: s.max_raft_index })
        .collect();
    let identity = tail.header.identity;
    let hard_state = log.log.hard_state;
    let wal = Wal::resume(wal_dir, identity, options, sealed, tail, spares, walked.last, log.log);
    let must_catch_up = marked || cut.is_some();
    Ok(Recovered {
        wal,
        identity,
        snapshot,
        entries: log.entries,
        hard_state,
        tail: cut,
        must_catch_up,
        stats,
        passed_over,
    })
}

/// Says that the member has caught up with a leader since its tail was cut. Blocks.
///
/// # Errors
/// Whatever the directory answers.
pub fn clear_tail_cut<M: Medium>(wal_dir: &M) -> io::Result<()> {
    match wal_dir.remove(TAIL_CUT_NAME) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => wal_dir.sync_dir(),
    }
}

/// What [`recover`] would find; for looking only.
#[derive(Debug)]
pub struct Inspection {
    /// The segments and how the log ends.
    pub walk: Walk,
    /// The snapshot that would be loaded.
    pub snapshot: Option<(SnapshotMeta, String)>,
    /// The hard state that would be used.
    pub hard_state: HardState,
    /// The log's last entry.
    pub last: RaftIndex,
    /// How many entries follow the snapshot.
    pub entries: usize,
    /// How much was read.
    pub stats: RecoveryStats,
    /// Snapshots that could not be used, with the reason.
    pub passed_over: Vec<String>,
}

/// Reads everything recovery would read and gives the same verdict. Takes no lock and changes nothing, so it may run
/// beside a live node.
///
/// # Errors
/// [`WalkError`].
pub fn inspect<M: Medium>(wal_dir: &M, snap_dir: &M) -> Result<Inspection, WalkError> {
    let mut passed_over = Vec::new();
    let (walk, log, snapshot) = read_log(wal_dir, snap_dir, &mut passed_over)?;
    let Collector { entries, log, stats, .. } = log;
    let (entries, last, hard_state) = (entries.len(), log.last, log.hard_state);
    Ok(Inspection { walk, snapshot, hard_state, last, entries, stats, passed_over })
}

/// A copy of what a data directory says, for whoever writes another one from it.
#[derive(Debug)]
pub struct Contents {
    /// Whose it is.
    pub identity: Identity,
    /// The newest usable snapshot and its name in the snapshot directory.
    pub snapshot: Option<(SnapshotMeta, String)>,
    /// The log after it: every entry in a whole frame, without gaps.
    pub entries: Vec<Entry>,
    /// The newest hard state.
    pub hard_state: HardState,
}

/// Reads what [`recover`] would, with the same verdict, and changes nothing. Beside a live node the log ends with the
/// last frame that was whole when it was looked at; segments and snapshots may go away meanwhile, which is an error
/// that another attempt does not repeat.
///
/// # Errors
/// [`WalkError`].
pub fn contents<M: Medium>(wal_dir: &M, snap_dir: &M) -> Result<Contents, WalkError> {
    let (walk, log, snapshot) = read_log(wal_dir, snap_dir, &mut Vec::new())?;
    let identity = walk.segments.last().expect("a walk has a tail").header.identity;
    Ok(Contents { identity, snapshot, entries: log.entries, hard_state: log.log.hard_state })
}

type Log = (Walk, Collector, Option<(SnapshotMeta, String)>);

/// Reads the log after the newest snapshot that is whole and has a marker in the log. Changes nothing.
fn read_log<M: Medium>(wal_dir: &M, snap_dir: &M, passed_over: &mut Vec<String>) -> Result<Log, WalkError> {
    let list = |source| WalkError::Io { what: "list", file: snap_dir.path_of(""), source };
    let mut candidates = snapshot::list(snap_dir).map_err(list)?;
    loop {
        // Newest first; the last attempt is without a snapshot.
        let candidate = candidates.pop();
        let meta = match &candidate {
            None => None,
            Some((_, name)) => match snapshot::verify(snap_dir, name) {
                Ok(meta) => Some(meta),
                Err(error) => {
                    passed_over.push(error.to_string());
                    continue;
                }
            },
        };
        let mut log = Collector::after(candidate.as_ref().map_or(RaftIndex::ZERO, |(marker, _)| marker.index));
        let walked = walk::walk(wal_dir, &mut log)?;
        let tail = walked.segments.last().expect("a walk has a tail");
        if let (Some((marker, name)), Some(meta)) = (&candidate, &meta) {
            if !log.markers.contains(marker) {
                passed_over.push(format!("{} has no marker in the WAL", snap_dir.path_of(name)));
                continue;
            }
            // A snapshot may have come from a leader, so the member that wrote it may be another.
            if meta.identity.cluster != tail.header.identity.cluster {
                passed_over.push(format!("{} belongs to another cluster", snap_dir.path_of(name)));
                continue;
            }
        }
        return match log.finish() {
            Ok(()) => Ok((walked, log, meta.zip(candidate.map(|(_, name)| name)))),
            Err(reason) => Err(WalkError::Refused(Box::new(Refusal {
                file: wal_dir.path_of(&tail.name),
                offset: walked.end.offset,
                wal_index: walked.last.next(),
                raft_index: log.log.last.next(),
                reason,
            }))),
        };
    }
}

/// Notes durably, before a WAL is begun in an empty directory, that this member may have had another one: in a cluster
/// with other voters it must not vote before it knows better. Blocks.
///
/// # Errors
/// Whatever the directory answers.
pub fn note_empty_start<M: Medium>(wal_dir: &M) -> io::Result<()> {
    write_note(wal_dir, "begun in an empty directory\n")
}

fn note_tail_cut<M: Medium>(wal_dir: &M, cut: &TailCut) -> io::Result<()> {
    write_note(
        wal_dir,
        &format!("{} offset {} wal index {} bytes {}\n", cut.file, cut.offset, cut.wal_index, cut.bytes),
    )
}

fn write_note<M: Medium>(wal_dir: &M, text: &str) -> io::Result<()> {
    let file = match wal_dir.create(TAIL_CUT_NAME) {
        // An earlier start got this far; only the note's existence counts.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return wal_dir.sync_dir(),
        result => result?,
    };
    file.write_at(text.as_bytes(), 0)?;
    file.sync_data()?;
    wal_dir.sync_dir()
}

/// Zeroes everything after the end of the log, in 4 KiB writes (see `prepare`), and syncs.
fn wipe<F: StoredFile>(file: &F, cut: &TailCut) -> io::Result<()> {
    let zeros = [0u8; PAGE_BYTES as usize];
    let end = align_page(cut.offset + cut.bytes).min(file.len_bytes()?);
    let mut at = cut.offset;
    while at < end {
        let bytes = (align_page(at + 1) - at).min(end - at);
        file.write_at(&zeros[..bytes as usize], at)?;
        at += bytes;
    }
    file.sync_data()
}

fn remove_leftovers<M: Medium>(wal_dir: &M, segments: &[String]) -> io::Result<()> {
    let mut removed = false;
    let temporary = wal_dir
        .list()?
        .into_iter()
        .filter(|name| name.strip_suffix(TEMPORARY_SUFFIX).is_some_and(|whole| parse_spare_name(whole).is_some()));
    for name in temporary.chain(segments.iter().cloned()) {
        wal_dir.remove(&name)?;
        removed = true;
    }
    if removed { wal_dir.sync_dir() } else { Ok(()) }
}

/// Spares of an earlier run are complete, but one may have been the tail without ever being published: they count as
/// recycled, not as zeroed.
fn adopt_spares<M: Medium>(wal_dir: &M, options: &WalOptions) -> io::Result<Vec<Spare<M>>> {
    let mut spares = Vec::new();
    let mut removed = false;
    let (segments, names): (Vec<_>, Vec<_>) =
        wal_dir.list()?.into_iter().partition(|name| parse_segment_name(name).is_some());
    for name in names.into_iter().filter(|name| parse_spare_name(name).is_some()) {
        if is_segment(wal_dir, &name, &segments)? {
            continue; // Neither reusable nor safe to remove: its link count may be wrong.
        }
        let file = wal_dir.open(&name, Access::ReadWrite)?;
        if spares.len() < options.spares
            && file.len_bytes()? == options.segment_bytes
            && let Ok(spare) = adopt(wal_dir, name.clone(), file, options.segment_bytes, false)
        {
            spares.push(spare);
        } else {
            wal_dir.remove(&name)?;
            removed = true;
        }
    }
    if removed {
        wal_dir.sync_dir()?;
    }
    Ok(spares)
}

fn is_segment<M: Medium>(wal_dir: &M, spare: &str, segments: &[String]) -> io::Result<bool> {
    for segment in segments {
        if wal_dir.same_file(spare, segment)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn open_tail<M: Medium>(wal_dir: &M, walked: &Walk) -> io::Result<Tail<M>> {
    let segment = walked.segments.last().expect("a walk has a tail");
    let file = wal_dir.open(&segment.name, Access::ReadWrite)?;
    file.expect_random_reads();
    let region = wal_dir.map(&file, segment.bytes)?;
    let offset = walked.end.offset;
    Ok(Tail {
        file,
        region,
        header: segment.header,
        name: segment.name.clone(),
        path: Arc::from(wal_dir.path_of(&segment.name)),
        unpublished: None,
        capacity: segment.bytes,
        offset,
        synced: offset,
        last_crc: segment.last_crc,
        max_raft_index: segment.max_raft_index,
        present_to: offset / PAGE_BYTES * PAGE_BYTES,
        released_to: offset / PAGE_BYTES * PAGE_BYTES,
    })
}
