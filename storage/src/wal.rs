//! The write-ahead log of one node: append, roll, sync, retire.
//!
//! May touch: the mapped tail. Must not: block, sync, read the map, look at a clock. Syncing is lent out: the driver
//! takes a [`SyncTicket`], performs its steps in order, and brings it back.
//!
//! Invariants:
//! 1. `durable <= appended`; only [`Wal::finish_sync`] moves `durable`, and at most one ticket is out.
//! 2. A frame is one batch: it becomes durable whole or, at recovery, not at all.
//! 3. A batch that starts while a sync is out begins on a fresh page: storing into a page under writeback stalls.
//! 4. After a failed sync nothing is appended and nothing synced again: page state is unknowable, and a second fsync
//!    would answer OK for bytes the disk does not hold.
//! 5. A segment is retired only when its successor is published, and only from the front.
//! 6. A steady state allocates nothing.
//!
//! Not here: performing syncs (`sync` describes them), making spares (`prepare`), reading (`scan`, `recover`).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::format::{
    Identity, PAGE_BYTES, SEGMENT_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, SEGMENT_FLAG_ZEROED, SegmentHeader,
    SnapshotMarker, align_page, parse_segment_name, segment_name,
};
use crate::frame::{FrameBuffer, Place};
use crate::ids::{RaftIndex, SegmentSeq, Term, WalIndex};
use crate::medium::Medium;
use crate::mutation::{self, Mutation};
use crate::prepare::{PrepareError, Retired, Spare, prepare_spare};
use crate::record::{EntryRef, HardState};
use crate::segment::{Sealed, Tail};
pub use crate::sync::{SyncError, SyncStep, SyncTicket};

/// Frames of at least this size are written by the ring instead of being copied on the loop: at 0.75 µs per KiB a
/// larger copy would hold the loop longer than handing it over.
pub const STAGED_BYTES: u64 = 64 << 10;

/// What a WAL is told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalOptions {
    /// Size of new segments: whole pages.
    pub segment_bytes: u64,
    /// How many spares to keep ready.
    pub spares: usize,
    /// Where segment epochs come from. Must be fresh randomness at every start of a process: a segment number can come
    /// back after a crash, and only its epoch tells the frames of the two apart. A test draws it from its own seed.
    pub epoch_seed: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self { segment_bytes: SEGMENT_BYTES, spares: 1, epoch_seed: 1 }
    }
}

impl WalOptions {
    pub(crate) fn check(&self) {
        let range = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
        assert!(range.contains(&self.segment_bytes), "segment size out of range");
        assert!(self.segment_bytes.is_multiple_of(PAGE_BYTES), "segments are whole pages");
    }

    /// A segment's epoch: well mixed, different for every segment of a process, never zero.
    pub(crate) fn epoch(&self, seq: SegmentSeq) -> u64 {
        if mutation::is_on(Mutation::AcceptStaleFrame) {
            return 1;
        }
        // splitmix64 (Steele, Lea, Flood 2014), whose output function is a bijection.
        let mut z = self.epoch_seed.wrapping_add(seq.get().wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).max(1)
    }
}

/// An append that did not happen. The WAL is as it was.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Breaks the format's limit; no disk would take it. Split the batch.
    #[error("a batch of {frame_bytes} bytes exceeds the limit of {limit_bytes} for one segment")]
    TooLarge {
        /// The frame.
        frame_bytes: u64,
        /// The largest frame a segment takes.
        limit_bytes: u64,
    },
    /// The tail is full and no spare is ready. Reads continue; try again after [`Wal::add_spare`].
    #[error("no prepared segment has room for {wanted_bytes} bytes")]
    NoSpace {
        /// The frame.
        wanted_bytes: u64,
    },
    /// An earlier write or sync failed. The node stops.
    #[error("the WAL was poisoned by an earlier failure: {0}")]
    Poisoned(String),
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The frame; durable once [`Wal::durable`] reaches it.
    pub index: WalIndex,
    /// Bytes the frame takes on disk.
    pub bytes: u64,
    /// The next ticket writes it, because it is too large to be copied here.
    pub staged: bool,
    /// The tail rolled: a spare was used up.
    pub rolled: bool,
}

/// A new WAL could not be begun.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There is one already: recover it.
    #[error("{0} already belongs to a WAL")]
    Exists(String),
    /// The first segment could not be made.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// The first header could not be made durable.
    #[error(transparent)]
    Sync(#[from] SyncError),
}

/// What the frames so far say about the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogState {
    pub last: RaftIndex,
    pub max: RaftIndex,
    pub term: Term,
    pub hard_state: HardState,
    pub snapshot: Option<SnapshotMarker>,
}

/// What a frame under construction will change in the [`LogState`]. Only differences: copying the whole state at every
/// append reads fields that the append before has just stored, which costs more than the checksum.
#[derive(Debug, Default)]
struct Draft {
    first_entry: Option<RaftIndex>,
    last: Option<RaftIndex>,
    max: RaftIndex,
    term: Term,
    hard_state: Option<HardState>,
    snapshot: Option<SnapshotMarker>,
}

impl LogState {
    /// A marker was written. The newest snapshot counts: one that this node took while a leader's replaced its log is
    /// marked after it, and lies behind it.
    pub(crate) fn see(&mut self, marker: Option<SnapshotMarker>) {
        self.snapshot = self.snapshot.max(marker);
    }

    fn apply(&mut self, draft: &Draft) {
        self.last = draft.last.unwrap_or(self.last);
        self.max = self.max.max(draft.max);
        self.term = self.term.max(draft.term);
        if let Some(state) = draft.hard_state {
            self.hard_state = state;
        }
        self.see(draft.snapshot);
    }
}

/// An open WAL.
pub struct Wal<M: Medium> {
    medium: M,
    identity: Identity,
    options: WalOptions,
    sealed: VecDeque<Sealed>,
    tail: Tail<M>,
    spares: VecDeque<Spare<M>>,
    buffer: FrameBuffer,
    log: LogState,
    appended: WalIndex,
    durable: WalIndex,
    /// The ticket that is out.
    in_flight: Option<WalIndex>,
    /// The next frame must not touch the page the last one ends in.
    fresh_page: bool,
    /// Steps the next ticket begins with: staged writes and syncs of segments sealed since the last one.
    pending: Vec<SyncStep<M>>,
    /// Segments the next ticket publishes after its syncs.
    publish: Vec<(String, String)>,
    /// How many sealed segments have a published successor.
    retirable: usize,
    poisoned: Option<String>,
}

impl<M: Medium> Wal<M> {
    /// Begins a WAL in an empty directory: makes the first segment and publishes it. Blocks.
    ///
    /// # Errors
    /// [`CreateError`].
    pub fn create(medium: M, identity: Identity, options: WalOptions) -> Result<Self, CreateError> {
        options.check();
        let io = |source| PrepareError::Io { what: "list the directory of", file: medium.path_of(""), source };
        if let Some(name) = medium.list().map_err(io)?.into_iter().find(|name| parse_segment_name(name).is_some()) {
            return Err(CreateError::Exists(medium.path_of(&name)));
        }
        let spare = prepare_spare(&medium, options.segment_bytes, None, &mut || {})?;
        let seq = SegmentSeq::ZERO.next();
        let header = SegmentHeader {
            flags: SEGMENT_FLAG_ZEROED,
            identity,
            seq,
            epoch: options.epoch(seq),
            first_wal_index: WalIndex::ZERO.next(),
            first_raft_index: RaftIndex::ZERO.next(),
            prev_end: 0,
            prev_crc: 0,
            hard_state: HardState::default(),
            snapshot: None,
        };
        let name = segment_name(seq, header.first_raft_index);
        let from = spare.name.clone();
        let mut tail = Tail::begin(&medium, spare, header, RaftIndex::ZERO).map_err(|source| SyncError {
            what: "store into",
            file: medium.path_of(&from),
            source,
        })?;
        SyncStep::<M>::SyncData { file: tail.file.clone(), path: Arc::clone(&tail.path) }.run()?;
        SyncStep::Publish { medium: medium.clone(), from, to: name }.run()?;
        tail.mark_published(&medium);
        tail.mark_synced(PAGE_BYTES);
        Ok(Self::resume(medium, identity, options, Vec::new(), tail, Vec::new(), WalIndex::ZERO, LogState::default()))
    }

    /// Puts together what recovery has found.
    #[expect(clippy::too_many_arguments, reason = "each is one finding; a struct for one caller would hide nothing")]
    pub(crate) fn resume(
        medium: M,
        identity: Identity,
        options: WalOptions,
        sealed: Vec<Sealed>,
        tail: Tail<M>,
        spares: Vec<Spare<M>>,
        appended: WalIndex,
        log: LogState,
    ) -> Self {
        let retirable = sealed.len();
        Self {
            medium,
            identity,
            options,
            sealed: sealed.into(),
            tail,
            spares: spares.into(),
            buffer: FrameBuffer::new(),
            log,
            appended,
            durable: appended,
            in_flight: None,
            fresh_page: false,
            pending: Vec::new(),
            publish: Vec::new(),
            retirable,
            poisoned: None,
        }
    }

    /// Begins a frame: push records, then [`FrameBuilder::finish`]. Dropping the builder appends nothing.
    pub fn begin(&mut self) -> FrameBuilder<'_, M> {
        self.buffer.clear();
        FrameBuilder { wal: self, draft: Draft::default() }
    }

    fn append(&mut self, draft: &Draft) -> Result<Appended, AppendError> {
        if let Some(reason) = &self.poisoned {
            return Err(AppendError::Poisoned(reason.clone()));
        }
        assert!(!self.buffer.is_empty(), "a frame without records");
        let bytes = self.buffer.total_bytes();
        let limit_bytes = self.frame_limit_bytes();
        if bytes > limit_bytes {
            return Err(AppendError::TooLarge { frame_bytes: bytes, limit_bytes });
        }
        let mut offset = self.tail.offset;
        if self.fresh_page {
            offset = align_page(offset);
        }
        let rolled = offset + bytes > self.tail.capacity;
        if rolled {
            let spare = self.spares.pop_front().ok_or(AppendError::NoSpace { wanted_bytes: bytes })?;
            self.roll(spare)?;
            offset = self.tail.offset;
        }
        let index = self.appended.next();
        let place = Place {
            epoch: self.tail.header.epoch,
            offset,
            wal_index: index,
            first_raft_index: draft.first_entry.unwrap_or_else(|| draft.last.unwrap_or(self.log.last).next()),
            term: self.log.term.max(draft.term),
            durable: self.durable,
            prev_crc: self.tail.last_crc,
        };
        let crc = self.buffer.seal(place);
        let staged = bytes >= STAGED_BYTES;
        if staged {
            self.tail.skip(offset, bytes);
            let (file, path) = (self.tail.file.clone(), Arc::clone(&self.tail.path));
            self.pending.push(SyncStep::Write { file, path, offset, bytes: self.buffer.take() });
        } else if let Err(error) = self.tail.store(offset, self.buffer.bytes()) {
            return Err(self.poison(&format!("cannot read {}: {error}", self.tail.path)));
        }
        self.fresh_page = false;
        self.tail.last_crc = crc;
        self.log.apply(draft);
        self.tail.max_raft_index = self.log.max;
        self.appended = index;
        Ok(Appended { index, bytes, staged, rolled })
    }

    fn roll(&mut self, spare: Spare<M>) -> Result<(), AppendError> {
        let seq = self.tail.seq().next();
        let header = SegmentHeader {
            flags: if spare.zeroed { SEGMENT_FLAG_ZEROED } else { 0 },
            identity: self.identity,
            seq,
            epoch: self.options.epoch(seq),
            first_wal_index: self.appended.next(),
            first_raft_index: self.log.last.next(),
            prev_end: self.tail.offset,
            prev_crc: self.tail.last_crc,
            hard_state: self.log.hard_state,
            snapshot: self.log.snapshot,
        };
        let from = spare.name.clone();
        let tail = match Tail::begin(&self.medium, spare, header, self.log.max) {
            Ok(tail) => tail,
            Err(error) => return Err(self.poison(&format!("cannot map {}: {error}", self.medium.path_of(&from)))),
        };
        let old = std::mem::replace(&mut self.tail, tail);
        if old.synced < old.offset {
            self.pending.push(SyncStep::SyncData { file: old.file.clone(), path: Arc::clone(&old.path) });
        }
        self.publish.push((from, self.tail.name.clone()));
        self.sealed.push_back(old.into_sealed());
        Ok(())
    }

    /// Begins a sync of everything appended so far; `None` when all of it is durable.
    ///
    /// # Errors
    /// [`AppendError::Poisoned`].
    ///
    /// # Panics
    /// When a ticket is out already.
    pub fn begin_sync(&mut self) -> Result<Option<SyncTicket<M>>, AppendError> {
        if let Some(reason) = &self.poisoned {
            return Err(AppendError::Poisoned(reason.clone()));
        }
        assert_eq!(self.in_flight, None, "one sync at a time");
        if self.appended == self.durable {
            return Ok(None);
        }
        let mut steps = std::mem::take(&mut self.pending);
        steps.push(SyncStep::SyncData { file: self.tail.file.clone(), path: Arc::clone(&self.tail.path) });
        for (from, to) in self.publish.drain(..) {
            steps.push(SyncStep::Publish { medium: self.medium.clone(), from, to });
        }
        self.in_flight = Some(self.appended);
        self.fresh_page = true;
        Ok(Some(SyncTicket { upto: self.appended, tail: self.tail.seq(), tail_offset: self.tail.offset, steps }))
    }

    /// All steps of the ticket have succeeded: its frames are durable.
    ///
    /// # Panics
    /// When the ticket is not the one that is out, or the WAL is poisoned: then nothing may be acknowledged.
    pub fn finish_sync(&mut self, ticket: SyncTicket<M>) {
        assert_eq!(self.poisoned, None, "a sync finished on a poisoned WAL");
        assert_eq!(self.in_flight.take(), Some(ticket.upto), "a ticket of another sync");
        self.durable = ticket.upto;
        self.fresh_page = false;
        if ticket.steps.iter().any(|step| matches!(step, SyncStep::Publish { .. })) {
            // Everything up to the ticket's tail is published; segments sealed since then wait for the next ticket.
            let newer = self.tail.seq().steps_since(ticket.tail) as usize;
            self.retirable = self.sealed.len() - newer;
        }
        if ticket.tail == self.tail.seq() {
            self.tail.mark_published(&self.medium);
            self.tail.mark_synced(ticket.tail_offset);
        }
        // Its memory serves the next ticket.
        if self.pending.is_empty() {
            self.pending = ticket.steps;
            self.pending.clear();
        }
    }

    /// Forbids all further work after a write or sync has failed; the first reason stays.
    pub fn poison(&mut self, reason: &str) -> AppendError {
        let reason = self.poisoned.get_or_insert_with(|| reason.to_owned());
        AppendError::Poisoned(reason.clone())
    }

    /// Hands over sealed segments whose entries all lie before `keep_from` (the entry after the oldest kept
    /// snapshot). Recycle or discard them in this order.
    pub fn retire(&mut self, keep_from: RaftIndex) -> Vec<Retired> {
        let mut retired = Vec::new();
        while self.retirable > 0 && self.sealed.front().is_some_and(|front| front.max_raft_index < keep_from) {
            let Sealed { name, bytes, .. } = self.sealed.pop_front().expect("just seen");
            self.retirable -= 1;
            retired.push(Retired { name, bytes });
        }
        retired
    }

    /// Takes a prepared spare.
    ///
    /// # Panics
    /// When it has another size than this WAL's segments.
    pub fn add_spare(&mut self, spare: Spare<M>) {
        assert_eq!(spare.bytes, self.options.segment_bytes, "a spare of another size");
        self.spares.push_back(spare);
    }

    /// How many spares are missing; the driver subtracts those in preparation.
    #[must_use]
    pub fn spares_wanted(&self) -> usize {
        self.options.spares.saturating_sub(self.spares.len())
    }

    /// How many spares are ready.
    #[must_use]
    pub fn spares_ready(&self) -> usize {
        self.spares.len()
    }

    /// Bytes that can surely still be appended as small frames: the rest of the tail and all spares.
    #[must_use]
    pub fn room_bytes(&self) -> u64 {
        let tail = self.tail.capacity - align_page(self.tail.offset).min(self.tail.capacity);
        tail + self.spares.iter().map(|spare| spare.bytes - PAGE_BYTES).sum::<u64>()
    }

    /// The largest frame that can be appended.
    #[must_use]
    pub fn frame_limit_bytes(&self) -> u64 {
        self.options.segment_bytes - PAGE_BYTES
    }

    /// The last frame appended.
    #[must_use]
    pub fn appended(&self) -> WalIndex {
        self.appended
    }

    /// The last frame known to be on disk.
    #[must_use]
    pub fn durable(&self) -> WalIndex {
        self.durable
    }

    /// Whether a ticket is out.
    #[must_use]
    pub fn sync_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// The last entry of the log, or the snapshot that replaced it.
    #[must_use]
    pub fn last_raft_index(&self) -> RaftIndex {
        self.log.last
    }

    /// How many segments the WAL has, the tail included, spares not.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.sealed.len() + 1
    }

    /// Whose WAL this is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The directory it lives in.
    #[must_use]
    pub fn medium(&self) -> &M {
        &self.medium
    }

    /// What it was told.
    #[must_use]
    pub fn options(&self) -> WalOptions {
        self.options
    }
}

/// A frame under construction.
pub struct FrameBuilder<'a, M: Medium> {
    wal: &'a mut Wal<M>,
    draft: Draft,
}

impl<M: Medium> FrameBuilder<'_, M> {
    fn last(&self) -> RaftIndex {
        self.draft.last.unwrap_or(self.wal.log.last)
    }

    /// Adds a log entry. One at or before the last entry replaces everything from there on, as in raft.
    ///
    /// # Panics
    /// When it leaves a gap after the last entry.
    pub fn push_entry(&mut self, entry: &EntryRef<'_>) {
        assert!(entry.index > RaftIndex::ZERO && entry.index <= self.last().next(), "a gap in the raft log");
        self.wal.buffer.push_entry(entry);
        self.draft.first_entry.get_or_insert(entry.index);
        self.draft.last = Some(entry.index);
        self.draft.max = self.draft.max.max(entry.index);
        self.draft.term = self.draft.term.max(entry.term);
    }

    /// Adds the hard state as it is now.
    pub fn push_hard_state(&mut self, state: &HardState) {
        self.wal.buffer.push_hard_state(state);
        self.draft.hard_state = Some(*state);
        self.draft.term = self.draft.term.max(state.term);
    }

    /// Records that a snapshot this node took is published. Only a snapshot with a marker is used by recovery.
    ///
    /// # Panics
    /// When it contains entries the log has not seen.
    pub fn push_snapshot_taken(&mut self, marker: SnapshotMarker) {
        assert!(marker.index > RaftIndex::ZERO && marker.index <= self.last(), "a snapshot ahead of the log");
        self.wal.buffer.push_snapshot_marker(&marker, false);
        self.draft.snapshot = Some(marker);
    }

    /// Records that a snapshot from the leader is published and replaces the log, which now begins after it.
    pub fn push_snapshot_received(&mut self, marker: SnapshotMarker) {
        assert!(marker.index > RaftIndex::ZERO, "a snapshot of nothing");
        self.wal.buffer.push_snapshot_marker(&marker, true);
        self.draft.snapshot = Some(marker);
        self.draft.last = Some(marker.index);
        self.draft.max = self.draft.max.max(marker.index);
        self.draft.term = self.draft.term.max(marker.term);
    }

    /// Bytes the frame would take now; a batch stays under [`Wal::frame_limit_bytes`].
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.wal.buffer.total_bytes()
    }

    /// Whether nothing has been pushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wal.buffer.is_empty()
    }

    /// Appends the frame.
    ///
    /// # Errors
    /// [`AppendError`]; then nothing was appended.
    ///
    /// # Panics
    /// When no record was pushed.
    pub fn finish(self) -> Result<Appended, AppendError> {
        self.wal.append(&self.draft)
    }
}
