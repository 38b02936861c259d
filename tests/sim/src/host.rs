//! One host: a disk that survives, and the process that runs on it while it lives.
//!
//! Owns: the steps the shell takes around the core and the storage, with memory for a disk and a caller for time:
//!
//! | here | mirrors |
//! |---|---|
//! | [`Host::start`] | `shell/start.rs`: `open_node`, `bootstrap`, `load`, `build_node` |
//! | [`Process::append`], [`Process::admit`], its [`Room`], [`Process::turn_is_over`], [`Process::room`] | `shell/disk.rs`: the same names of `Disk` |
//! | [`Process::hear`], [`Process::hear_forwarded`] | `shell/driver.rs`: the same names of `Hub` |
//! | [`Process::begin_sync`], [`Process::sync_step`] | `shell/disk.rs`: `sync`, `perform` |
//! | [`Process::make_spare`] | `shell/disk.rs`: `prepare`, `add_one`, `discard_rest` |
//! | [`Process::snapshot_step`], [`Process::retain`] | `shell/snapshot.rs` |
//! | [`Process::install_step`] | the shell's way with `Effects::install` |
//!
//! Must hold: what is done here is what the shell does in the same order; whatever decides is core or storage.

use std::collections::VecDeque;

use ringd::core::event::{Input, Install, SnapshotDone};
use ringd::core::forwarded::{Forwarded, Room};
use ringd::core::install::{State, StateLoader};
use ringd::core::membership::{Member, bootstrap_log};
use ringd::core::node::{Node, NodeConfig, NodeStart};
use ringd::core::raft_log::RaftLog;
use ringd::core::replica::{Append, PeerMessage, ReadyNumber, entry_from_record};
use ringd::core::store::StoreOptions;
use ringd_storage::format::{Identity, SnapshotMarker};
use ringd_storage::ids::{ClusterId, MemberId, RaftIndex, Term, UnixNanos, WalIndex};
use ringd_storage::memory::{MemoryFile, MemoryMedium};
use ringd_storage::prepare::{Retired, discard, prepare_spare};
use ringd_storage::record::Record;
use ringd_storage::recover::{holds_wal, note_empty_start, recover};
use ringd_storage::snapshot::{Publish, SnapshotMeta, SnapshotReader, SnapshotWriter, retain, snapshot_name};
use ringd_storage::wal::{AppendError, SyncStep, SyncTicket, Wal, WalOptions};
use ringd_storage::walk::WalkError;

use crate::disk::Disk;
use crate::event::Life;
use crate::time::Nanos;

/// The shell's 4 MiB of 64, scaled with the segment (a batch is a larger part of a small one).
const FRAMES_PER_SEGMENT: u64 = 4;
/// The shell's reserve of 1 MiB of 64, scaled in the same way.
const RESERVES_PER_SEGMENT: u64 = 8;
/// As the shell's.
const WRITE_OVERHEAD_BYTES: u64 = 256;
/// Snapshots a member keeps: few, so that retention is exercised.
const SNAPSHOTS_KEPT: usize = 2;
/// Captured between two events.
const SLICE_BYTES: usize = 2000;
/// Items loaded between two events.
const SLICE_ITEMS: usize = 40;

/// What a host is told once.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// The members of the new cluster; empty for one that joins.
    pub initial: Vec<Member>,
    /// `--snapshot-count`.
    pub snapshot_entries: u64,
    /// Entries kept behind a snapshot.
    pub catch_up_entries: u64,
    /// Bytes the log may have and still keep what followers lack.
    pub lagging_bytes: u64,
    /// Events kept for watchers.
    pub history_events: usize,
    /// Size of WAL segments: small, so that runs roll and recycle them; a batch must still fit into one.
    pub segment_bytes: u64,
}

/// A host.
pub struct Host {
    /// Its member's id; another one after it was replaced.
    pub id: MemberId,
    /// The disk.
    pub disk: Disk,
    /// What runs, while it runs.
    pub process: Option<Process>,
    /// Counts starts.
    pub life: Life,
    /// How it was set up.
    pub config: HostConfig,
    /// Its clock is ahead of true time by this much.
    pub clock_offset: i64,
    /// Its clock gains this many nanoseconds per millisecond.
    pub clock_rate: i64,
}

/// A sync under way.
struct Flight {
    ticket: SyncTicket<MemoryMedium>,
    next: usize,
    /// What the running step's file had unsynced when it began.
    noted: usize,
    upto: ReadyNumber,
    since: Nanos,
}

/// What this process does about a snapshot of its own.
enum Own {
    Capturing(Vec<Vec<u8>>),
    Publishing(Box<Publish<MemoryMedium>>, SnapshotMarker),
    Marking(SnapshotMarker, WalIndex),
}

struct Loading {
    install: Install,
    reader: SnapshotReader<MemoryFile>,
    block: usize,
    item: usize,
}

/// How a step of a sync went.
pub enum Synced {
    /// There is another step.
    More,
    /// The ticket is done; this ready is durable.
    Upto(ReadyNumber),
    /// The device failed: the process ends.
    Failed(String),
}

/// A running process.
pub struct Process {
    /// The core.
    pub node: Node,
    wal: Wal<MemoryMedium>,
    snap: MemoryMedium,
    identity: Identity,
    appended: ReadyNumber,
    admitted_bytes: u64,
    /// Bytes of other members' entries taken since the last turn.
    heard_bytes: u64,
    forwarded: Forwarded,
    /// Somebody waits for a spare although the regular ones may be ready.
    hurry: bool,
    flight: Option<Flight>,
    /// The disk is full.
    pub full: bool,
    /// A spare is being made.
    pub spare_busy: bool,
    retired: VecDeque<Retired>,
    own: Option<Own>,
    loading: Option<Loading>,
    /// Clients are served.
    pub published: bool,
    /// It was removed from the cluster.
    pub removed: bool,
    /// Its log was begun at this start, or holds nothing but what a cluster begins with.
    pub is_fresh: bool,
    /// A turn is planned.
    pub turn_planned: bool,
    /// What recovery cut, for checks and traces.
    pub cut: bool,
    /// Recovery said that something acknowledged may be missing.
    pub must_catch_up: bool,
}

/// Why a host did not start.
#[derive(Debug)]
pub enum StartFailure {
    /// Recovery refuses the disk: an operator must act.
    Refused(String),
    /// No space, or a device error: try again.
    Later(String),
}

impl Host {
    /// The host's wall clock.
    #[must_use]
    pub fn clock(&self, now: Nanos) -> UnixNanos {
        /// 14 November 2023: any time far from zero.
        const BEGIN: i64 = 1_700_000_000_000_000_000;
        let rate = (now as i64 / 1_000_000) * self.clock_rate;
        UnixNanos::new((BEGIN + now as i64 + rate + self.clock_offset) as u64)
    }

    /// Recovers and starts.
    ///
    /// # Errors
    /// [`StartFailure`].
    pub fn start(&mut self, cluster: ClusterId, now: Nanos, seed: u64, random: u64) -> Result<(), StartFailure> {
        let refused = |error: &dyn std::fmt::Display| StartFailure::Refused(error.to_string());
        let later = |error: &dyn std::fmt::Display| StartFailure::Later(error.to_string());
        let options = WalOptions { segment_bytes: self.config.segment_bytes, spares: 1, epoch_seed: random };
        let (wal_dir, snap_dir) = (self.disk.wal.clone(), self.disk.snap.clone());
        if !holds_wal(&wal_dir).map_err(|error| later(&error))? {
            if self.config.initial.len() != 1 {
                note_empty_start(&wal_dir).map_err(|error| later(&error))?;
            }
            let identity = Identity { cluster, member: self.id };
            Wal::create(wal_dir.clone(), identity, options).map_err(|error| later(&error))?;
        }
        let mut recovered = recover(wal_dir, &snap_dir, options).map_err(|error| match error {
            WalkError::Io { .. } => later(&error),
            WalkError::Refused(_) | WalkError::Empty(_) => refused(&error),
        })?;
        if recovered.entries.is_empty() && recovered.snapshot.is_none() && !self.config.initial.is_empty() {
            let mut frame = recovered.wal.begin();
            for record in bootstrap_log(&self.config.initial).records() {
                match record {
                    Record::Entry(entry) => {
                        frame.push_entry(&entry);
                        recovered.entries.push(entry.into());
                    }
                    Record::HardState(state) => {
                        frame.push_hard_state(&state);
                        recovered.hard_state = state;
                    }
                    Record::SnapshotMarker { .. } => unreachable!("a new log has no snapshot"),
                }
            }
            frame.finish().map_err(|error| later(&error))?;
            if let Some(ticket) = recovered.wal.begin_sync().map_err(|error| later(&error))? {
                ticket.run().map_err(|error| later(&error))?;
                recovered.wal.finish_sync(ticket);
            }
        }
        let store_options = StoreOptions {
            history_events_max: self.config.history_events,
            hash_seed: random,
            ..StoreOptions::default()
        };
        let meta = recovered.snapshot.as_ref().map(|(meta, _)| meta.clone());
        let state = match &recovered.snapshot {
            None => State::empty(&store_options),
            Some((_, name)) => load(&snap_dir, name, &store_options).map_err(|error| refused(&error))?,
        };
        let (applied, applied_term) =
            meta.as_ref().map_or((RaftIndex::ZERO, Term::ZERO), |meta| (meta.marker.index, meta.marker.term));
        let (voters, learners) = meta.as_ref().map_or((&[][..], &[][..]), |meta| (&meta.voters, &meta.learners));
        let is_fresh = meta.is_none() && recovered.entries.iter().all(|entry| entry.term.get() <= 1);
        let entries = recovered.entries.iter().map(|entry| entry_from_record(entry.as_ref())).collect();
        let log = RaftLog::recovered(&recovered.hard_state, voters, learners, applied, applied_term, entries);
        let config = NodeConfig {
            id: recovered.identity.member,
            cluster,
            name: format!("m{}", self.id.get()),
            client_urls: vec![format!("http://m{}:2379", self.id.get())],
            election_ticks: 10,
            request_timeout_ticks: 70,
            snapshot_entries: self.config.snapshot_entries,
            snapshot_bytes: u64::MAX,
            catch_up_entries: self.config.catch_up_entries,
            lagging_bytes: self.config.lagging_bytes,
            log_bytes: u64::MAX,
            strict_reconfig_check: true,
            cluster_version: "3.4.0",
            seed,
        };
        let start = NodeStart {
            log,
            applied,
            applied_term,
            state,
            store_options,
            now: self.clock(now),
            may_have_forgotten: recovered.must_catch_up,
        };
        let node = Node::new(config, start).map_err(StartFailure::Refused)?;
        self.life += 1;
        self.process = Some(Process {
            node,
            identity: recovered.identity,
            wal: recovered.wal,
            snap: snap_dir,
            appended: ReadyNumber(0),
            admitted_bytes: 0,
            heard_bytes: 0,
            forwarded: Forwarded::default(),
            hurry: false,
            flight: None,
            full: false,
            spare_busy: false,
            retired: VecDeque::new(),
            own: None,
            loading: None,
            published: false,
            removed: false,
            is_fresh,
            turn_planned: false,
            cut: recovered.tail.is_some(),
            must_catch_up: recovered.must_catch_up,
        });
        Ok(())
    }

    /// The file of a snapshot, to be sent; `None` when it has gone or is damaged.
    #[must_use]
    pub fn read_snapshot(&self, marker: SnapshotMarker) -> Option<(String, Vec<u8>)> {
        let name = snapshot_name(marker);
        ringd_storage::snapshot::verify(&self.disk.snap, &name).ok()?;
        Some((name.clone(), self.disk.snap.contents(&name)?))
    }

    /// Writes a snapshot that came from another member: temporary name, sync, rename, sync of the directory.
    ///
    /// # Errors
    /// The medium's.
    pub fn receive_snapshot(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        use ringd_storage::medium::{Medium as _, StoredFile as _};
        let snap = &self.disk.snap;
        if snap.contents(name).is_some_and(|known| known == bytes) {
            return snap.sync_dir();
        }
        let temporary = format!("{name}.tmp");
        if snap.contents(&temporary).is_some() {
            snap.remove(&temporary)?;
        }
        let file = snap.create(&temporary)?;
        let written = file.write_at(bytes, 0).and_then(|()| file.sync_data());
        if let Err(error) = written {
            drop(snap.remove(&temporary));
            return Err(error);
        }
        snap.rename(&temporary, name)?;
        snap.sync_dir()
    }
}

fn load(snap: &MemoryMedium, name: &str, options: &StoreOptions) -> Result<State, String> {
    let reader = SnapshotReader::open(snap, name).map_err(|error| error.to_string())?;
    let mut loader = StateLoader::new(options);
    let mut damaged = None;
    reader
        .for_each(|key, value| -> Result<(), ringd_storage::snapshot::SnapshotError> {
            if damaged.is_none() {
                damaged = loader.item(key, value).err();
            }
            Ok(())
        })
        .map_err(|error| error.to_string())?;
    damaged.map_or_else(|| loader.finish(), Err)
}

impl Room for Process {
    fn admit(&mut self, bytes: u64, beside_own: bool) -> bool {
        let heard = self.heard_bytes + bytes;
        let own = if beside_own { self.admitted_bytes } else { 0 };
        let fits = own + heard + self.reserve_bytes() <= self.room_bytes();
        if fits {
            self.heard_bytes = heard;
        } else {
            self.hurry = true;
        }
        fits
    }

    fn is_full(&self) -> bool {
        self.full
    }
}

impl Process {
    /// Whether a write of so many bytes may be proposed. `None`: later, a spare is being made.
    pub fn admit(&mut self, bytes: usize) -> Option<bool> {
        let wanted = self.admitted_bytes + bytes as u64 + WRITE_OVERHEAD_BYTES;
        if wanted + self.heard_bytes + self.reserve_bytes() <= self.room_bytes() {
            self.admitted_bytes = wanted;
            return Some(true);
        }
        self.hurry |= !self.full;
        self.full.then_some(false)
    }

    /// A message of another member; false when the node has not got it, for want of room.
    pub fn hear(&mut self, message: PeerMessage, wall: UnixNanos) -> bool {
        let mut forwarded = std::mem::take(&mut self.forwarded);
        let message = forwarded.arrived(message, self);
        self.forwarded = forwarded;
        message.map(|message| self.node.handle(Input::Peer(message), wall)).is_some()
    }

    /// Gives the node the proposals that have waited for room, as far as there is some; whether there was one.
    pub fn hear_forwarded(&mut self, wall: UnixNanos) -> bool {
        let (mut forwarded, mut some) = (std::mem::take(&mut self.forwarded), false);
        while let Some(message) = forwarded.next(self) {
            self.node.handle(Input::Peer(message), wall);
            some = true;
        }
        self.forwarded = forwarded;
        some
    }

    /// A turn has appended what it was given.
    pub fn turn_is_over(&mut self) {
        self.heard_bytes = 0;
        self.admitted_bytes = self.node.queued_bytes();
    }

    fn reserve_bytes(&self) -> u64 {
        self.wal.options().segment_bytes / RESERVES_PER_SEGMENT
    }

    fn room_bytes(&self) -> u64 {
        let wal = &self.wal;
        let spare = if wal.spares_ready() > 0 { wal.frame_limit_bytes() } else { 0 };
        let tail = wal.room_bytes() - wal.spares_ready() as u64 * wal.frame_limit_bytes();
        tail.max(spare)
    }

    /// What there is room for.
    #[must_use]
    pub fn room(&self) -> Input<'static> {
        let beyond_reserve = self.room_bytes() > self.reserve_bytes();
        Input::Room { for_writes: beyond_reserve || !self.full, for_expiry: beyond_reserve }
    }

    /// Appends a turn's records.
    ///
    /// # Errors
    /// The WAL's; the process ends.
    pub fn append(&mut self, append: &Append) -> Result<(), AppendError> {
        let frame_bytes_max = self.wal.options().segment_bytes / FRAMES_PER_SEGMENT;
        let mut frame = self.wal.begin();
        for record in append.records() {
            match record {
                Record::Entry(entry) => frame.push_entry(&entry),
                Record::HardState(state) => frame.push_hard_state(&state),
                Record::SnapshotMarker { marker, replaces_log: true } => frame.push_snapshot_received(marker),
                Record::SnapshotMarker { marker, replaces_log: false } => frame.push_snapshot_taken(marker),
            }
            if frame.bytes() >= frame_bytes_max {
                frame.finish()?;
                frame = self.wal.begin();
            }
        }
        if !frame.is_empty() {
            frame.finish()?;
        }
        if append.must_sync {
            self.appended = append.ready;
        }
        Ok(())
    }

    /// Begins a sync if something is not durable and none is in flight; true when one was begun.
    ///
    /// # Errors
    /// The WAL's; the process ends.
    pub fn begin_sync(&mut self, now: Nanos) -> Result<bool, String> {
        if self.flight.is_some() {
            return Ok(false);
        }
        let Some(ticket) = self.wal.begin_sync().map_err(|error| error.to_string())? else { return Ok(false) };
        self.flight = Some(Flight { ticket, next: 0, noted: 0, upto: self.appended, since: now });
        self.begin_step()?;
        Ok(true)
    }

    /// What is done at the beginning of a step: a write reaches the cache, a sync takes what is there.
    fn begin_step(&mut self) -> Result<(), String> {
        let Some(flight) = &mut self.flight else { return Ok(()) };
        match &flight.ticket.steps()[flight.next] {
            step @ SyncStep::Write { .. } => step.run().map_err(|error| error.to_string()),
            SyncStep::SyncData { file, .. } => {
                flight.noted = file.stores_pending();
                Ok(())
            }
            SyncStep::Publish { .. } => Ok(()),
        }
    }

    /// Ends the running step, and begins the next one. `fails` is what the device answers.
    pub fn sync_step(&mut self, fails: bool) -> Synced {
        let Some(flight) = &mut self.flight else { return Synced::More };
        let step = &flight.ticket.steps()[flight.next];
        if fails {
            let error = step.failed(std::io::Error::from(std::io::ErrorKind::Other)).to_string();
            return Synced::Failed(self.wal.poison(&error).to_string());
        }
        match step {
            SyncStep::Write { .. } => {}
            SyncStep::SyncData { file, .. } => file.sync_stores(flight.noted),
            publish @ SyncStep::Publish { .. } => {
                if let Err(error) = publish.run() {
                    return Synced::Failed(error.to_string());
                }
            }
        }
        flight.next += 1;
        if flight.next < flight.ticket.steps().len() {
            return match self.begin_step() {
                Ok(()) => Synced::More,
                Err(error) => Synced::Failed(error),
            };
        }
        let flight = self.flight.take().expect("just seen");
        self.wal.finish_sync(flight.ticket);
        Synced::Upto(flight.upto)
    }

    /// How long the sync under way has lasted.
    #[must_use]
    pub fn sync_lasts(&self, now: Nanos) -> Option<Nanos> {
        self.flight.as_ref().map(|flight| now - flight.since)
    }

    /// Whether a sync is under way.
    #[must_use]
    pub fn syncing(&self) -> bool {
        self.flight.is_some()
    }

    /// Whether a spare should be made now.
    #[must_use]
    pub fn wants_spare(&self) -> bool {
        !self.spare_busy && (self.wal.spares_wanted() > 0 || !self.retired.is_empty() || self.hurry)
    }

    /// Makes one spare, or removes what no spare needs. False when there is no space.
    pub fn make_spare(&mut self) -> bool {
        let medium = self.wal.medium().clone();
        let recycle = self.retired.pop_front();
        if self.wal.spares_wanted() == 0
            && let Some(retired) = &recycle
        {
            // What cannot be removed costs space, nothing else.
            drop(discard(&medium, retired));
            return true;
        }
        let bytes = self.wal.options().segment_bytes;
        match prepare_spare(&medium, bytes, recycle, &mut || {}) {
            Ok(spare) => {
                self.wal.add_spare(spare);
                self.full = false;
                self.hurry = false;
                true
            }
            Err(_) => {
                self.full = true;
                false
            }
        }
    }

    /// A capture has begun.
    pub fn begin_snapshot(&mut self) {
        self.own = Some(Own::Capturing(Vec::new()));
    }

    /// Whether there is something to do for a snapshot of this process' own, other than waiting for a sync.
    #[must_use]
    pub fn snapshot_busy(&self) -> bool {
        matches!(self.own, Some(Own::Capturing(_) | Own::Publishing(..)))
    }

    /// One slice of the capture, or one step of the publication.
    ///
    /// # Errors
    /// The WAL's; the process ends.
    pub fn snapshot_step(&mut self, wall: UnixNanos) -> Result<(), String> {
        match self.own.take() {
            Some(Own::Capturing(mut chunks)) => {
                let mut chunk = Vec::new();
                let done = self.node.capture_slice(&mut chunk, SLICE_BYTES);
                chunks.push(chunk);
                let Some(SnapshotDone { index, term, voters, learners, etcd_index }) = done else {
                    self.own = Some(Own::Capturing(chunks));
                    return Ok(());
                };
                let marker = SnapshotMarker { index, term };
                let identity = self.identity;
                let meta = SnapshotMeta { identity, marker, etcd_index, voters, learners, items: 0, created: wall };
                let mut writer = SnapshotWriter::new(meta);
                chunks.into_iter().for_each(|chunk| writer.push_chunk(chunk));
                self.own = Some(Own::Publishing(Box::new(writer.into_publish(self.snap.clone())), marker));
            }
            Some(Own::Publishing(mut publish, marker)) => match publish.step(&mut || {}) {
                Ok(Some(_)) => self.own = Some(Own::Publishing(publish, marker)),
                Ok(None) => {
                    let mut frame = self.wal.begin();
                    frame.push_snapshot_taken(marker);
                    let appended = frame.finish().map_err(|error| error.to_string())?;
                    self.own = Some(Own::Marking(marker, appended.index));
                }
                Err(_) => {
                    use ringd_storage::medium::Medium as _;
                    drop(self.snap.remove(&format!("{}.tmp", publish.name())));
                    self.node.handle(Input::SnapshotFailed, wall);
                }
            },
            other => self.own = other,
        }
        Ok(())
    }

    /// A sync is over: if it covered the marker of a snapshot, the node is told and older ones go.
    pub fn after_sync(&mut self, wall: UnixNanos) {
        if let Some(Own::Marking(marker, appended)) = self.own
            && self.wal.durable() >= appended
        {
            self.own = None;
            self.node.handle(Input::SnapshotStored { index: marker.index }, wall);
            self.retain(marker);
        }
    }

    /// Keeps the newest snapshots up to `newest`, and hands over the segments no kept one needs.
    pub fn retain(&mut self, newest: SnapshotMarker) {
        if let Ok(Some(oldest)) = retain(&self.snap, SNAPSHOTS_KEPT, newest) {
            self.retired.extend(self.wal.retire(oldest.index.next()));
        }
    }

    /// A snapshot of the leader's is to be loaded.
    ///
    /// # Errors
    /// Its file cannot be read: the process ends.
    pub fn begin_install(&mut self, install: Install) -> Result<(), String> {
        let name = snapshot_name(SnapshotMarker { index: install.index, term: install.term });
        let reader = SnapshotReader::open(&self.snap, &name).map_err(|error| error.to_string())?;
        self.loading = Some(Loading { install, reader, block: 0, item: 0 });
        Ok(())
    }

    /// Whether an install is under way.
    #[must_use]
    pub fn installing(&self) -> bool {
        self.loading.is_some()
    }

    /// Loads one slice.
    ///
    /// # Errors
    /// The file is damaged: the process ends.
    pub fn install_step(&mut self) -> Result<(), String> {
        let Some(loading) = &mut self.loading else { return Ok(()) };
        let mut buffer = Vec::new();
        if loading.block < loading.reader.blocks() {
            let items = loading.reader.read_block(loading.block, &mut buffer).map_err(|error| error.to_string())?;
            let (mut taken, mut rest) = (0, false);
            for item in items.skip(loading.item) {
                if taken == SLICE_ITEMS {
                    rest = true;
                    break;
                }
                let (key, value) = item.ok_or("a damaged item in a verified block")?;
                if !self.node.install_item(loading.install, key, value)? {
                    self.loading = None;
                    return Ok(());
                }
                taken += 1;
            }
            loading.item += taken;
            if !rest {
                loading.block += 1;
                loading.item = 0;
            }
            return Ok(());
        }
        self.node.install_done(loading.install)?;
        self.loading = None;
        while self.node.discard_slice() && !self.node.capturing() {}
        Ok(())
    }

    /// What a clean stop still writes.
    pub fn stop_cleanly(&mut self) {
        while self.flight.is_some() {
            self.sync_step(false);
        }
        if let Some(rest) = self.node.take_pending_hard_state()
            && self.append(&rest).is_err()
        {
            return;
        }
        if self.begin_sync(0) == Ok(true) {
            while self.flight.is_some() {
                self.sync_step(false);
            }
        }
    }
}
