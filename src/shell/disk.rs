//! The WAL's shell: one sync in flight, spares prepared ahead, room watched.
//!
//! Owns: the WAL, the order of its syncs, and the helper work that keeps a spare segment ready. Touches: the ring (for
//! `fdatasync`) and the blocking threads (for everything that creates, fills, renames or removes files).
//!
//! Invariants:
//! 1. At most one sync is in flight; what is appended meanwhile belongs to the next (group commit without a timer).
//! 2. A ready is reported persisted only after the sync that began after its append has succeeded.
//! 3. After any error of a write or sync the process ends: a second fsync would answer OK for lost bytes.
//! 4. While the disk is full, client writes are refused before they are proposed; [`RESERVE_BYTES`] stay for raft.
//! 5. Entries of other members are taken only while there is room for them: no message makes the WAL run out of it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use glommio::io::BufferedFile;
use glommio::timer::Timer;
use ringd_storage::format::SnapshotMarker;
use ringd_storage::fs::{FsFile, FsMedium};
use ringd_storage::ids::{RaftIndex, WalIndex};
use ringd_storage::prepare::{PrepareError, Retired, Spare, discard, prepare_spare};
use ringd_storage::record::Record;
use ringd_storage::wal::{AppendError, FrameBuilder, SyncStep, SyncTicket, Wal};

use super::driver::{Hub, die};
use super::notify::Notify;
use super::{clock, raw};
use crate::core::event::Input;
use crate::core::forwarded::Room;
use crate::core::replica::{Append, ReadyNumber};
use crate::metrics::nanos;

/// A turn's batch is cut into frames of about this size, so that one frame never needs a whole segment.
const FRAME_BYTES_MAX: u64 = 4 << 20;
/// Kept free for entries that are no client's: elections, membership, expiry, hard states.
const RESERVE_BYTES: u64 = 1 << 20;
/// What a proposal and its record add to path and value, at most.
const WRITE_OVERHEAD_BYTES: u64 = 256;
/// While filling a spare, rest this long after every 64 KiB: the foreground's syncs stay within 1.1 of their time.
const FILL_PAUSE: Duration = Duration::from_millis(1);
/// After a failed preparation, try again this often: space may return.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A sync that takes longer than this is worth a line, as in etcd.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// Whether a client's write may be proposed now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// There is room.
    Yes,
    /// A spare is being prepared: wait for it.
    Later,
    /// The disk is full: refuse.
    Full,
}

/// Room for other members' entries: on the disk, and in memory.
#[derive(Debug)]
pub struct LogRoom<'a> {
    /// The disk's part.
    pub disk: &'a Disk,
    /// The log in memory takes no more ([`crate::core::node::Node::log_is_full`]).
    pub log_is_full: bool,
}

impl Room for LogRoom<'_> {
    fn admit(&mut self, bytes: u64, beside_own: bool) -> bool {
        !self.log_is_full && self.disk.admit_entries(bytes, beside_own)
    }

    fn is_full(&self) -> bool {
        self.disk.full.get()
    }
}

/// The WAL and what surrounds it.
pub struct Disk {
    wal: RefCell<Wal<FsMedium>>,
    /// The last ready whose records were appended.
    appended: Cell<ReadyNumber>,
    /// Bytes admitted that no turn has appended or sent to a leader yet.
    admitted_bytes: Cell<u64>,
    /// Bytes of other members' entries taken since the last turn.
    heard_bytes: Cell<u64>,
    sync_wanted: Notify,
    spares_wanted: Notify,
    /// A sync was begun and its submission is not in the ring yet.
    unsubmitted: Cell<bool>,
    full: Cell<bool>,
    /// Writers wait for a spare: fill it without rests.
    hurry: Arc<AtomicBool>,
    /// The least room that somebody was refused since writers were last told to look again; zero for none.
    awaited_bytes: Cell<u64>,
    /// The ring's handle on the current tail.
    tail_file: RefCell<Option<(FsFile, Rc<BufferedFile>)>>,
    /// Segments a snapshot covers, to be recycled or removed.
    retired: RefCell<VecDeque<Retired>>,
    /// Bytes of all frames appended.
    pub appended_bytes: Cell<u64>,
    /// Syncs done.
    pub syncs: Cell<u64>,
    /// When the sync in flight began.
    syncing_since: Cell<Option<Instant>>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("appended", &self.appended).field("full", &self.full).finish_non_exhaustive()
    }
}

impl Disk {
    /// Around a recovered or new WAL.
    #[must_use]
    pub fn new(wal: Wal<FsMedium>) -> Self {
        let disk = Self {
            wal: RefCell::new(wal),
            appended: Cell::default(),
            admitted_bytes: Cell::new(0),
            heard_bytes: Cell::new(0),
            sync_wanted: Notify::default(),
            spares_wanted: Notify::default(),
            unsubmitted: Cell::new(false),
            full: Cell::new(false),
            hurry: Arc::new(AtomicBool::new(false)),
            awaited_bytes: Cell::new(0),
            tail_file: RefCell::default(),
            retired: RefCell::default(),
            appended_bytes: Cell::new(0),
            syncs: Cell::new(0),
            syncing_since: Cell::default(),
        };
        disk.spares_wanted.notify();
        disk
    }

    /// Whether a write of so many bytes may be proposed; counts it when it may.
    pub fn admit(&self, bytes: usize) -> Admission {
        let own = bytes as u64 + WRITE_OVERHEAD_BYTES;
        let wanted = self.admitted_bytes.get() + own;
        if wanted + self.heard_bytes.get() + RESERVE_BYTES <= self.room_bytes() {
            self.admitted_bytes.set(wanted);
            Admission::Yes
        } else if self.full.get() || own + RESERVE_BYTES > self.wal.borrow().frame_limit_bytes() {
            Admission::Full
        } else {
            self.want_room(own);
            Admission::Later
        }
    }

    /// Whether so many bytes of another member's entries may be taken now; see [`Room`]. A follower that catches up must
    /// not die because a spare is prepared slower than entries arrive, nor because its disk is full.
    pub fn admit_entries(&self, bytes: u64, beside_own: bool) -> bool {
        let heard = self.heard_bytes.get() + bytes;
        let own = if beside_own { self.admitted_bytes.get() } else { 0 };
        let fits = own + heard + RESERVE_BYTES <= self.room_bytes();
        if fits {
            self.heard_bytes.set(heard);
        } else if beside_own {
            self.want_room(bytes);
        } else {
            self.want_spare();
        }
        fits
    }

    /// A turn has appended what it was given. `queued_bytes` of what was admitted wait for a leader and will be appended
    /// in one turn, however many appends come before it (a hard state, a former leader's entries). True
    /// when there is room again for somebody who was refused it: all who wait shall look.
    #[must_use]
    pub fn turn_is_over(&self, queued_bytes: u64) -> bool {
        self.heard_bytes.set(0);
        self.admitted_bytes.set(queued_bytes);
        let awaited = self.awaited_bytes.get();
        let fits = awaited > 0 && queued_bytes + awaited + RESERVE_BYTES <= self.room_bytes();
        if fits {
            self.awaited_bytes.set(0);
        }
        fits
    }

    /// Remembers that so many bytes wait; see [`Self::want_spare`].
    fn want_room(&self, bytes: u64) {
        let awaited = self.awaited_bytes.get();
        self.awaited_bytes.set(if awaited == 0 { bytes } else { awaited.min(bytes) });
        self.want_spare();
    }

    /// Fills the next spare without rests; makes one more if all are ready.
    fn want_spare(&self) {
        self.hurry.store(true, Ordering::Relaxed);
        self.spares_wanted.notify();
    }

    /// Bytes that one turn can surely append: all in the tail, or all in the spare. A frame never spans segments, so
    /// the two do not add up.
    fn room_bytes(&self) -> u64 {
        let wal = self.wal.borrow();
        let spare = if wal.spares_ready() > 0 { wal.frame_limit_bytes() } else { 0 };
        let tail = wal.room_bytes() - wal.spares_ready() as u64 * wal.frame_limit_bytes();
        tail.max(spare)
    }

    /// Appends a turn's records.
    ///
    /// # Errors
    /// When the WAL takes no more, which ends the process: admission has kept room for everything that may arrive.
    pub fn append(&self, append: &Append) -> Result<(), AppendError> {
        let mut wal = self.wal.borrow_mut();
        let mut rolled = false;
        let mut frame = wal.begin();
        for record in append.records() {
            match record {
                Record::Entry(entry) => frame.push_entry(&entry),
                Record::HardState(state) => frame.push_hard_state(&state),
                Record::SnapshotMarker { marker, replaces_log: true } => frame.push_snapshot_received(marker),
                Record::SnapshotMarker { marker, replaces_log: false } => frame.push_snapshot_taken(marker),
            }
            if frame.bytes() >= FRAME_BYTES_MAX {
                rolled |= self.finish(frame)?;
                frame = wal.begin();
            }
        }
        if !frame.is_empty() {
            rolled |= self.finish(frame)?;
        }
        if append.must_sync {
            self.appended.set(append.ready);
        }
        if rolled {
            self.spares_wanted.notify();
        }
        Ok(())
    }

    /// Ends a frame and counts its bytes; true when a new segment was begun for it.
    fn finish(&self, frame: FrameBuilder<'_, FsMedium>) -> Result<bool, AppendError> {
        let appended = frame.finish()?;
        self.appended_bytes.set(self.appended_bytes.get() + appended.bytes);
        Ok(appended.rolled)
    }

    /// What there is room for: client writes unless only the reserve is left and no spare can be made; what the node
    /// itself proposes at leisure (expiry) only beyond the reserve, or it would use the reserve up.
    #[must_use]
    pub fn room(&self) -> Input<'static> {
        let beyond_reserve = self.room_bytes() > RESERVE_BYTES;
        Input::Room { for_writes: beyond_reserve || !self.full.get(), for_expiry: beyond_reserve }
    }

    /// Whether client writes are refused until there is space.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.get()
    }

    /// Records that a snapshot is published; it becomes durable with the next sync.
    ///
    /// # Errors
    /// As [`Disk::append`].
    pub fn append_snapshot_marker(&self, marker: SnapshotMarker) -> Result<WalIndex, AppendError> {
        let mut wal = self.wal.borrow_mut();
        let mut frame = wal.begin();
        frame.push_snapshot_taken(marker);
        let appended = frame.finish()?;
        drop(wal);
        if appended.rolled {
            self.spares_wanted.notify();
        }
        self.kick();
        Ok(appended.index)
    }

    /// Hands segments that only hold entries before `keep_from` to the recycler.
    pub fn retire(&self, keep_from: RaftIndex) {
        let retired = self.wal.borrow_mut().retire(keep_from);
        if !retired.is_empty() {
            self.retired.borrow_mut().extend(retired);
            self.spares_wanted.notify();
        }
    }

    /// Lets the sync task begin a sync if something is not durable and none is in flight.
    pub fn kick(&self) {
        let wal = self.wal.borrow();
        if wal.appended() > wal.durable() && !wal.sync_in_flight() {
            self.unsubmitted.set(true);
            self.sync_wanted.notify();
        }
    }

    /// Whether a sync was begun this turn that the ring has not been told of yet.
    pub fn sync_awaits_submission(&self) -> bool {
        self.unsubmitted.take()
    }

    /// The last frame known to be on disk.
    #[must_use]
    pub fn durable(&self) -> WalIndex {
        self.wal.borrow().durable()
    }

    /// When the sync in flight began, if one is.
    #[must_use]
    pub fn syncing_since(&self) -> Option<Instant> {
        self.syncing_since.get()
    }

    /// Whether everything appended is durable.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let wal = self.wal.borrow();
        wal.appended() == wal.durable()
    }

    fn begin_sync(&self) -> Option<SyncTicket<FsMedium>> {
        let mut wal = self.wal.borrow_mut();
        if wal.sync_in_flight() {
            return None;
        }
        wal.begin_sync().unwrap_or_else(|error| die(&error.to_string()))
    }

    /// The ring's handle on a file, made once per segment.
    fn ring_file(&self, file: &FsFile) -> io::Result<Rc<BufferedFile>> {
        let mut cached = self.tail_file.borrow_mut();
        // The cache holds the file open, so its descriptor cannot come to name another file.
        if let Some((known, handle)) = &*cached
            && known.as_fd().as_raw_fd() == file.as_fd().as_raw_fd()
        {
            return Ok(Rc::clone(handle));
        }
        let handle = Rc::new(raw::adopt_file(file.as_fd())?);
        *cached = Some((file.clone(), Rc::clone(&handle)));
        Ok(handle)
    }
}

/// Syncs whatever is appended, one sync after the other.
pub async fn sync(hub: Rc<Hub>) {
    let disk = &hub.disk;
    loop {
        disk.sync_wanted.wait().await;
        while let Some(ticket) = disk.begin_sync() {
            let upto = disk.appended.get();
            let begun = clock::monotonic();
            disk.syncing_since.set(Some(begun));
            let ticket = perform(disk, ticket).await;
            disk.syncing_since.set(None);
            let took = begun.elapsed();
            hub.metrics.sync.observe(nanos(took));
            hub.metrics.wal_fsync.observe(nanos(took));
            if took > SLOW_SYNC {
                tracing::warn!(?took, "expected-duration" = ?SLOW_SYNC, "slow fdatasync");
            }
            disk.wal.borrow_mut().finish_sync(ticket);
            disk.syncs.set(disk.syncs.get() + 1);
            hub.input(Input::Persisted { upto });
            // The turn applies what became durable and appends the next batch, so that its sync begins at once.
            hub.turn();
        }
    }
}

/// Performs a ticket: on the ring when it is one `fdatasync`, on a blocking thread when files are written or renamed.
async fn perform(disk: &Disk, ticket: SyncTicket<FsMedium>) -> SyncTicket<FsMedium> {
    if let [step @ SyncStep::SyncData { file, .. }] = ticket.steps() {
        let synced = match disk.ring_file(file) {
            Ok(handle) => handle.fdatasync().await.map_err(io::Error::from),
            Err(error) => Err(error),
        };
        if let Err(error) = synced {
            stop(disk, &step.failed(error).to_string());
        }
        return ticket;
    }
    let (result, ticket) = glommio::executor().spawn_blocking(move || (ticket.run(), ticket)).await;
    if let Err(error) = result {
        stop(disk, &error.to_string());
    }
    ticket
}

fn stop(disk: &Disk, message: &str) -> ! {
    let _ = disk.wal.borrow_mut().poison(message);
    die(message)
}

/// Keeps spares ready, recycling what snapshots cover, and tells the hub when the disk is full and when it no longer
/// is.
pub async fn prepare(hub: Rc<Hub>) {
    let disk = &hub.disk;
    loop {
        if disk.wal.borrow().spares_wanted() > 0 {
            add_one(&hub).await;
        } else {
            disk.hurry.store(false, Ordering::Relaxed);
            discard_rest(disk).await;
            disk.spares_wanted.wait().await;
            let wanted_more = disk.hurry.load(Ordering::Relaxed);
            let has_regular_ones = {
                let wal = disk.wal.borrow();
                wal.spares_ready() == wal.options().spares
            };
            if wanted_more && has_regular_ones {
                // Writers wait although every regular spare is ready: the next one will not be there in time either.
                add_one(&hub).await;
            }
        }
    }
}

async fn add_one(hub: &Rc<Hub>) {
    let disk = &hub.disk;
    let (medium, bytes) = {
        let wal = disk.wal.borrow();
        (wal.medium().clone(), wal.options().segment_bytes)
    };
    let recycle = disk.retired.borrow_mut().pop_front();
    let hurry = Arc::clone(&disk.hurry);
    let made: Result<Spare<FsMedium>, PrepareError> = glommio::executor()
        .spawn_blocking(move || {
            prepare_spare(&medium, bytes, recycle, &mut || {
                if !hurry.load(Ordering::Relaxed) {
                    std::thread::sleep(FILL_PAUSE);
                }
            })
        })
        .await;
    match made {
        Ok(spare) => {
            disk.wal.borrow_mut().add_spare(spare);
            if disk.full.replace(false) {
                tracing::info!("there is space for the WAL again; writes are accepted");
            }
            disk.hurry.store(false, Ordering::Relaxed);
            hub.poke_writers();
        }
        Err(error) => {
            if !disk.full.replace(true) {
                tracing::error!("{error}; writes are refused before the WAL runs out of room, reads go on");
            }
            hub.poke_writers();
            Timer::new(RETRY_PAUSE).await;
        }
    }
}

/// Removes retired segments that no spare needs.
async fn discard_rest(disk: &Disk) {
    loop {
        let Some(retired) = disk.retired.borrow_mut().pop_front() else { return };
        let medium = disk.wal.borrow().medium().clone();
        let removed = glommio::executor().spawn_blocking(move || discard(&medium, &retired)).await;
        if let Err(error) = removed {
            tracing::warn!("cannot remove a segment that is no longer needed: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use ringd_storage::format::Identity;
    use ringd_storage::ids::{ClusterId, MemberId, Term};
    use ringd_storage::wal::WalOptions;

    use super::*;
    use crate::core::entries::{ChangeAction, change_entry, first_append};

    const SEGMENT_BYTES: u64 = 8 << 20;
    const ENTRY_BYTES: usize = 256 << 10;

    /// Appends entries that another member sent until one is refused; how many were taken.
    fn hear_until_refused(disk: &Disk, index: &mut RaftIndex) -> u64 {
        let mut taken = 0;
        while disk.admit_entries(ENTRY_BYTES as u64 + 64, false) {
            *index = index.next();
            let context = vec![7; ENTRY_BYTES];
            let entry = change_entry(*index, Term::new(1), MemberId::new(1), ChangeAction::Voter, context);
            disk.append(&first_append(vec![entry], Term::new(1), *index)).expect("there was room");
            let _ = disk.turn_is_over(0);
            taken += 1;
        }
        taken
    }

    #[test]
    fn entries_of_others_wait_for_a_spare_instead_of_running_the_wal_full() {
        let directory = tempfile::tempdir().unwrap();
        let medium = FsMedium::open(directory.path()).unwrap();
        let options = WalOptions { segment_bytes: SEGMENT_BYTES, ..WalOptions::default() };
        let identity = Identity { cluster: ClusterId::new(1), member: MemberId::new(1) };
        let wal = Wal::create(medium.clone(), identity, options).unwrap();
        let disk = Disk::new(wal);
        let mut index = RaftIndex::ZERO;
        let first = hear_until_refused(&disk, &mut index);
        assert!(first > 0);
        assert_eq!(hear_until_refused(&disk, &mut index), 0);
        assert!(disk.hurry.load(Ordering::Relaxed), "the next spare is filled without rests");
        assert!(disk.admit_entries(64, false), "little still fits");
        let _ = disk.turn_is_over(0);
        let spare = prepare_spare(&medium, SEGMENT_BYTES, None, &mut || {}).unwrap();
        disk.wal.borrow_mut().add_spare(spare);
        assert!(hear_until_refused(&disk, &mut index) >= SEGMENT_BYTES / ENTRY_BYTES as u64 - 8);
    }

    #[test]
    fn what_waits_for_a_leader_keeps_its_room_over_other_appends() {
        let directory = tempfile::tempdir().unwrap();
        let medium = FsMedium::open(directory.path()).unwrap();
        let options = WalOptions { segment_bytes: SEGMENT_BYTES, ..WalOptions::default() };
        let identity = Identity { cluster: ClusterId::new(1), member: MemberId::new(1) };
        let disk = Disk::new(Wal::create(medium, identity, options).unwrap());
        let half = 4 << 20;
        assert_eq!(disk.admit(half), Admission::Yes);
        // A vote is written while nobody leads.
        disk.append(&first_append(Vec::new(), Term::new(2), RaftIndex::ZERO)).unwrap();
        assert!(!disk.turn_is_over(half as u64));
        assert_eq!(disk.admit(half), Admission::Later);
        assert!(!disk.turn_is_over(half as u64), "no room yet");
        assert!(disk.turn_is_over(0), "who was refused may look again");
        assert!(!disk.turn_is_over(0), "and is told once");
        assert_eq!(disk.admit(SEGMENT_BYTES as usize), Admission::Full, "no turn will ever have room for that");
        assert_eq!(disk.admit(half), Admission::Yes, "they were sent to a leader");
    }

    #[test]
    fn forwarded_proposals_share_the_room_with_own_writes() {
        let directory = tempfile::tempdir().unwrap();
        let medium = FsMedium::open(directory.path()).unwrap();
        let options = WalOptions { segment_bytes: SEGMENT_BYTES, ..WalOptions::default() };
        let identity = Identity { cluster: ClusterId::new(1), member: MemberId::new(1) };
        let disk = Disk::new(Wal::create(medium, identity, options).unwrap());
        let half = 4 << 20;
        assert_eq!(disk.admit(half), Admission::Yes);
        assert!(!disk.admit_entries(half as u64, true));
        assert!(disk.admit_entries(half as u64, false));
        assert_eq!(disk.admit(half), Admission::Later);
    }
}
