//! One simulated host: disks that survive it, and the node that runs on them while it lives.
//!
//! Owns: the same steps as the shell around the same core and storage, with memory for disks and a caller for time.
//!
//! What may happen to the disks: at a crash any subset of the unsynced sectors and names survives (torn frames
//! included). Snapshot files that a peer sent are durable when they are reported, as the shell promises.

use std::collections::BTreeMap;

use ringd::core::event::{Effects, Input, Install, Notice, SnapshotDone};
use ringd::core::install::{State, StateLoader};
use ringd::core::membership::{Member, bootstrap_log};
use ringd::core::node::{Node, NodeConfig, NodeStart};
use ringd::core::raft_log::RaftLog;
use ringd::core::replica::{Append, ReadyNumber, entry_from_record};
use ringd::core::store::StoreOptions;
use ringd_storage::format::{Identity, SnapshotMarker};
use ringd_storage::ids::{ClusterId, EtcdIndex, MemberId, RaftIndex, Term, UnixNanos, WalIndex};
use ringd_storage::memory::{MemoryFile, MemoryMedium, Surviving};
use ringd_storage::prepare::prepare_spare;
use ringd_storage::record::Record;
use ringd_storage::recover::{clear_tail_cut, note_empty_start, recover};
use ringd_storage::snapshot::{SnapshotMeta, SnapshotReader, SnapshotWriter, retain, snapshot_name};
use ringd_storage::wal::{SyncStep, SyncTicket, Wal, WalOptions};

use crate::dice::Dice;

/// Small segments, so that runs roll and recycle them; a batch must still fit into one.
const SEGMENT_BYTES: u64 = 256 << 10;
/// Snapshots a member keeps: few, so that retention is exercised.
const SNAPSHOTS_KEPT: usize = 2;
/// Items loaded or captured between two events.
const SLICE_ITEMS: usize = 20;
const SLICE_BYTES: usize = 2000;

/// A member's state: the last entry applied, the store's index, and every item of a snapshot.
pub type Captured = (RaftIndex, EtcdIndex, BTreeMap<Vec<u8>, Vec<u8>>);

/// A sync under way: which stores of which file it will make durable.
struct Flight {
    ticket: SyncTicket<MemoryMedium>,
    covered: Vec<(usize, MemoryFile, usize)>,
    upto: ReadyNumber,
}

/// A leader's snapshot on its way into the node.
struct Loading {
    install: Install,
    reader: SnapshotReader<MemoryFile>,
    block: usize,
    item: usize,
}

/// A snapshot of this node's own, whose marker is not durable yet.
struct Marking {
    marker: SnapshotMarker,
    appended: WalIndex,
}

/// A running node.
pub struct Life {
    /// The core.
    pub node: Node,
    wal: Wal<MemoryMedium>,
    flight: Option<Flight>,
    appended: ReadyNumber,
    chunks: Vec<Vec<u8>>,
    marking: Option<Marking>,
    loading: Option<Loading>,
    /// It was removed from the cluster.
    pub removed: bool,
}

/// What a turn leaves for the world.
pub struct Turn {
    /// Answers, messages, reads.
    pub effects: Effects,
    /// A sync has begun; say when it is over.
    pub sync_begun: bool,
    /// Slices remain to be done.
    pub busy: bool,
}

/// A host.
pub struct Host {
    /// Its member's id.
    pub id: MemberId,
    cluster: ClusterId,
    /// The WAL's directory.
    pub wal_dir: MemoryMedium,
    /// The snapshots' directory.
    pub snap_dir: MemoryMedium,
    /// The node, while it runs.
    pub life: Option<Life>,
    /// How often it was started.
    pub starts: u32,
    /// When the last sync began, in milliseconds.
    pub sync_began: u64,
    config: NodeConfig,
}

fn append(wal: &mut Wal<MemoryMedium>, records: &Append) {
    let mut frame = wal.begin();
    for record in records.records() {
        match record {
            Record::Entry(entry) => frame.push_entry(&entry),
            Record::HardState(state) => frame.push_hard_state(&state),
            Record::SnapshotMarker { marker, replaces_log: true } => frame.push_snapshot_received(marker),
            Record::SnapshotMarker { marker, replaces_log: false } => frame.push_snapshot_taken(marker),
        }
    }
    if !frame.is_empty() {
        frame.finish().expect("segments are large enough and spares are ready");
    }
}

fn options(dice: &mut Dice) -> WalOptions {
    WalOptions { segment_bytes: SEGMENT_BYTES, spares: 2, epoch_seed: dice.bits() }
}

impl Host {
    /// A host whose disk holds an empty WAL: the log of a new cluster when `members` names its members, else nothing
    /// (it will be told).
    pub fn new(config: NodeConfig, members: Option<&[Member]>, dice: &mut Dice) -> Self {
        let (wal_dir, snap_dir) = (MemoryMedium::new(), MemoryMedium::new());
        let identity = Identity { cluster: config.cluster, member: config.id };
        if members.is_none_or(|members| members.len() > 1) {
            note_empty_start(&wal_dir).expect("a disk without faults");
        }
        let mut wal = Wal::create(wal_dir.clone(), identity, options(dice)).expect("a disk without faults");
        if let Some(members) = members {
            append(&mut wal, &bootstrap_log(members));
            let ticket = wal.begin_sync().expect("a healthy WAL").expect("something to sync");
            ticket.run().expect("a disk without faults");
            wal.finish_sync(ticket);
        }
        let (id, cluster) = (config.id, config.cluster);
        Self { id, cluster, wal_dir, snap_dir, life: None, starts: 0, sync_began: 0, config }
    }

    /// The disk died; the member comes back under its old id with an empty one.
    pub fn replace_disk(&mut self, dice: &mut Dice) {
        let empty = Self::new(self.config.clone(), None, dice);
        self.life = None;
        (self.wal_dir, self.snap_dir) = (empty.wal_dir, empty.snap_dir);
    }

    /// Recovers and starts the node.
    ///
    /// # Errors
    /// Recovery's refusal: the model never damages what was synced, so this is a finding.
    pub fn start(&mut self, now: UnixNanos, dice: &mut Dice) -> Result<(), String> {
        let recovered =
            recover(self.wal_dir.clone(), &self.snap_dir, options(dice)).map_err(|error| error.to_string())?;
        let store_options = StoreOptions::default();
        let meta = recovered.snapshot.as_ref().map(|(meta, _)| meta);
        let state = match &recovered.snapshot {
            None => State::empty(&store_options),
            Some((_, name)) => {
                let reader = SnapshotReader::open(&self.snap_dir, name).map_err(|error| error.to_string())?;
                let mut loader = StateLoader::new(&store_options);
                reader
                    .for_each(|key, value| {
                        loader.item(key, value).expect("what was captured loads");
                        Ok::<(), ringd_storage::snapshot::SnapshotError>(())
                    })
                    .map_err(|error| error.to_string())?;
                loader.finish()?
            }
        };
        let (applied, applied_term) =
            meta.map_or((RaftIndex::ZERO, Term::ZERO), |meta| (meta.marker.index, meta.marker.term));
        let (voters, learners) = meta.map_or((&[][..], &[][..]), |meta| (&meta.voters, &meta.learners));
        let entries = recovered.entries.iter().map(|entry| entry_from_record(entry.as_ref())).collect();
        let log = RaftLog::recovered(&recovered.hard_state, voters, learners, applied, applied_term, entries);
        let start = NodeStart {
            log,
            applied,
            applied_term,
            state,
            store_options,
            now,
            may_have_forgotten: recovered.must_catch_up,
        };
        let config = NodeConfig { seed: dice.bits(), ..self.config.clone() };
        let node = Node::new(config, start)?;
        self.starts += 1;
        self.life = Some(Life {
            node,
            wal: recovered.wal,
            flight: None,
            appended: ReadyNumber(0),
            chunks: Vec::new(),
            marking: None,
            loading: None,
            removed: false,
        });
        Ok(())
    }

    /// Power cut: of what was not synced, chance decides what the disks hold.
    pub fn crash(&mut self, dice: &mut Dice) {
        self.life = None;
        let style = dice.roll(3);
        let mut survive = |what: Surviving<'_>| match (style, what) {
            (0, _) => 0,
            (1, _) => u32::MAX,
            (_, Surviving::Sector { stores, .. }) => dice.roll(u64::from(stores) + 1) as u32,
            (_, Surviving::Name(_)) => dice.roll(2) as u32,
        };
        self.wal_dir = self.wal_dir.crash(&mut survive);
        self.snap_dir = self.snap_dir.crash(&mut survive);
    }

    /// Gives the node an input, if it runs.
    pub fn input(&mut self, input: Input<'_>, now: UnixNanos) {
        if let Some(life) = &mut self.life {
            life.node.handle(input, now);
        }
    }

    /// How long the sync under way has lasted, in milliseconds.
    pub fn stalled_ms(&self, now: u64) -> Option<u64> {
        self.life.as_ref()?.flight.as_ref().map(|_| now.saturating_sub(self.sync_began))
    }

    /// The file of a snapshot, for a follower.
    pub fn read_snapshot(&self, of: Install) -> Option<Vec<u8>> {
        self.snap_dir.contents(&snapshot_name(SnapshotMarker { index: of.index, term: of.term }))
    }

    /// A snapshot's file has come in whole.
    pub fn receive_snapshot(&mut self, of: Install, bytes: Vec<u8>) {
        self.snap_dir.put_file(&snapshot_name(SnapshotMarker { index: of.index, term: of.term }), bytes);
    }

    /// One turn of the node, and a slice of whatever is done in slices.
    pub fn turn(&mut self, now: UnixNanos) -> Turn {
        let mut effects = Effects::default();
        let Some(life) = &mut self.life else { return Turn { effects, sync_begun: false, busy: false } };
        life.slice(self.cluster, self.id, &self.snap_dir, now);
        life.node.poll(now, &mut effects);
        for notice in &effects.notices {
            match notice {
                Notice::NoteObsolete => {
                    clear_tail_cut(&self.wal_dir).expect("a disk without faults");
                    life.node.handle(Input::NoteCleared, now);
                }
                Notice::Removed => life.removed = true,
                Notice::Installed { index } => life.keep_few(&self.snap_dir, *index),
                _ => {}
            }
        }
        if let Some(install) = effects.install {
            let name = snapshot_name(SnapshotMarker { index: install.index, term: install.term });
            let reader = SnapshotReader::open(&self.snap_dir, &name).expect("an accepted snapshot is there");
            life.loading = Some(Loading { install, reader, block: 0, item: 0 });
        }
        for records in effects.appends.drain(..) {
            append(&mut life.wal, &records);
            if records.must_sync {
                life.appended = records.ready;
            }
            life.refill();
        }
        let sync_begun = life.begin_sync();
        let busy = life.loading.is_some() || life.node.capturing();
        Turn { effects, sync_begun, busy }
    }

    /// The sync under way is over.
    pub fn finish_sync(&mut self, now: UnixNanos) {
        let Some(life) = &mut self.life else { return };
        let Some(flight) = life.flight.take() else { return };
        for (number, step) in flight.ticket.steps().iter().enumerate() {
            match step {
                SyncStep::Write { .. } => {}
                SyncStep::SyncData { .. } => {
                    let (_, file, count) =
                        flight.covered.iter().find(|(step, ..)| *step == number).expect("every sync was counted");
                    file.sync_stores(*count);
                }
                publish @ SyncStep::Publish { .. } => publish.run().expect("a disk without faults"),
            }
        }
        life.wal.finish_sync(flight.ticket);
        life.node.handle(Input::Persisted { upto: flight.upto }, now);
        if let Some(Marking { marker, .. }) = life.marking.take_if(|marking| life.wal.durable() >= marking.appended) {
            life.node.handle(Input::SnapshotStored { index: marker.index }, now);
            life.retain(&self.snap_dir, marker);
        }
    }

    /// A clean stop: the last hard state is written, everything is synced.
    pub fn stop(&mut self, now: UnixNanos) {
        self.finish_sync(now);
        if let Some(mut life) = self.life.take() {
            if let Some(records) = life.node.take_pending_hard_state() {
                append(&mut life.wal, &records);
            }
            if let Some(ticket) = life.wal.begin_sync().expect("a healthy WAL") {
                ticket.run().expect("a disk without faults");
                life.wal.finish_sync(ticket);
            }
        }
    }
}

impl Life {
    fn refill(&mut self) {
        while self.wal.spares_wanted() > 0 {
            let medium = self.wal.medium().clone();
            let spare = prepare_spare(&medium, SEGMENT_BYTES, None, &mut || {}).expect("a disk without faults");
            self.wal.add_spare(spare);
        }
    }

    fn begin_sync(&mut self) -> bool {
        if self.flight.is_some() {
            return false;
        }
        let Some(ticket) = self.wal.begin_sync().expect("a healthy WAL") else { return false };
        let mut covered = Vec::new();
        for (number, step) in ticket.steps().iter().enumerate() {
            match step {
                SyncStep::Write { .. } => step.run().expect("a disk without faults"),
                SyncStep::SyncData { file, .. } => covered.push((number, file.clone(), file.stores_pending())),
                SyncStep::Publish { .. } => {}
            }
        }
        self.flight = Some(Flight { ticket, covered, upto: self.appended });
        true
    }

    /// A slice of a running install or capture.
    fn slice(&mut self, cluster: ClusterId, member: MemberId, snap_dir: &MemoryMedium, now: UnixNanos) {
        self.load();
        if !self.node.capturing() {
            return;
        }
        let mut chunk = Vec::new();
        let done = self.node.capture_slice(&mut chunk, SLICE_BYTES);
        self.chunks.push(chunk);
        let Some(SnapshotDone { index, term, voters, learners, etcd_index }) = done else { return };
        let marker = SnapshotMarker { index, term };
        let identity = Identity { cluster, member };
        let meta = SnapshotMeta { identity, marker, etcd_index, voters, learners, items: 0, created: now };
        let mut writer = SnapshotWriter::new(meta);
        self.chunks.drain(..).for_each(|chunk| writer.push_chunk(chunk));
        writer.publish(snap_dir.clone(), &mut || {}).expect("a disk without faults");
        let mut frame = self.wal.begin();
        frame.push_snapshot_taken(marker);
        let appended = frame.finish().expect("spares are ready").index;
        self.refill();
        self.marking = Some(Marking { marker, appended });
    }

    fn load(&mut self) {
        let Some(loading) = &mut self.loading else { return };
        let mut buffer = Vec::new();
        let mut budget = SLICE_ITEMS;
        while loading.block < loading.reader.blocks() && budget > 0 {
            let items = loading.reader.read_block(loading.block, &mut buffer).expect("an accepted snapshot is whole");
            let mut done = true;
            for item in items.skip(loading.item) {
                if budget == 0 {
                    done = false;
                    break;
                }
                let (key, value) = item.expect("a block that was verified");
                if !self.node.install_item(loading.install, key, value).expect("what was captured loads") {
                    self.loading = None;
                    return;
                }
                loading.item += 1;
                budget -= 1;
            }
            if done {
                loading.block += 1;
                loading.item = 0;
            }
        }
        if loading.block == loading.reader.blocks() {
            self.node.install_done(loading.install).expect("what was captured loads");
            while self.node.discard_slice() && !self.node.capturing() {}
            self.loading = None;
        }
    }

    fn retain(&mut self, snap_dir: &MemoryMedium, newest: SnapshotMarker) {
        let oldest = retain(snap_dir, SNAPSHOTS_KEPT, newest).expect("a disk without faults");
        if let Some(oldest) = oldest {
            for retired in self.wal.retire(oldest.index.next()) {
                ringd_storage::prepare::discard(self.wal.medium(), &retired).expect("a disk without faults");
            }
        }
    }

    fn keep_few(&mut self, snap_dir: &MemoryMedium, index: RaftIndex) {
        // Any term: no two committed snapshots have one index.
        self.retain(snap_dir, SnapshotMarker { index, term: Term::new(u64::MAX) });
    }

    /// The state as a snapshot would hold it, sorted, without the counters of reads, which every member has its own of.
    pub fn capture(&mut self) -> Option<Captured> {
        if self.node.capturing() || self.marking.is_some() || self.node.is_installing() {
            return None;
        }
        self.node.force_snapshot(&mut Effects::default());
        let mut bytes = Vec::new();
        let done = loop {
            if let Some(done) = self.node.capture_slice(&mut bytes, SLICE_BYTES) {
                break done;
            }
        };
        let mut items = BTreeMap::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().expect("four bytes")) as usize;
            let (key, value) = (word(0), word(4));
            items.insert(rest[8..8 + key].to_vec(), rest[8 + key..8 + key + value].to_vec());
            rest = &rest[8 + key + value..];
        }
        Some((done.index, done.etcd_index, items))
    }
}
