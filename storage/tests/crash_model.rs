//! Random lives of a WAL, with crashes: recovery yields every acknowledged record and none that was never written, in
//! order; a flipped bit before the last durable mark is always refused, by file and offset.
//!
//! The model keeps the state after every frame; what recovery returns must be exactly the state after one frame that
//! lies between the last acknowledged and the last appended one.

mod common;

use common::{IDENTITY, SEGMENT_BYTES, entry, options};
use proptest::prelude::*;
use ringd_storage::format::{FrameHeader, Identity, SnapshotMarker, align_page};
use ringd_storage::ids::{EtcdIndex, MemberId, RaftIndex, Term, UnixNanos, WalIndex};
use ringd_storage::medium::Medium;
use ringd_storage::memory::{MemoryFile, MemoryMedium, Surviving};
use ringd_storage::prepare::{Retired, prepare_spare};
use ringd_storage::record::{Entry, HardState, Records};
use ringd_storage::recover::{Recovered, recover};
use ringd_storage::snapshot::{SnapshotMeta, SnapshotWriter, retain};
use ringd_storage::verdict::Reason;
use ringd_storage::wal::{AppendError, SyncStep, SyncTicket, Wal, WalOptions};
use ringd_storage::walk::{Visitor, WalkError, walk};

/// The leader whose snapshots arrive.
const OTHER: Identity = Identity { cluster: IDENTITY.cluster, member: MemberId::new(77) };

/// A deterministic source for what a crash keeps.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// Frames of entries: how many, their size, how far back the first one reaches.
    Append { entries: u8, bytes: u32, back: u8 },
    /// A hard state, committing part of the log.
    HardState { commit: u8 },
    /// Begin a sync; when one is out, finish it first.
    BeginSync,
    /// Do the steps of the ticket up to some point without finishing.
    Progress { steps: u8 },
    /// Finish the sync that is out.
    FinishSync,
    /// Provide spares, recycling what is retired.
    Spares,
    /// Take a snapshot of everything committed, publish it, mark it.
    Snapshot,
    /// Replace the log by a snapshot from elsewhere, with entries after it in the same frame; perhaps mark a snapshot
    /// of the old log afterwards, which had been in the making.
    Receive { ahead: u8, entries: u8, older: bool },
    /// A snapshot from elsewhere is published, and nothing comes of it.
    Arrive { ahead: u8 },
    /// Power cut: a random subset of unsynced sectors and names survives.
    Crash { seed: u64 },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (1u8..5, prop_oneof![0u32..200, 0u32..5000, Just(70_000)], 0u8..3)
            .prop_map(|(entries, bytes, back)| Op::Append { entries, bytes, back }),
        2 => any::<u8>().prop_map(|commit| Op::HardState { commit }),
        6 => Just(Op::BeginSync),
        2 => any::<u8>().prop_map(|steps| Op::Progress { steps }),
        4 => Just(Op::FinishSync),
        4 => Just(Op::Spares),
        1 => Just(Op::Snapshot),
        1 => (0u8..5, 0u8..3, any::<bool>())
            .prop_map(|(ahead, entries, older)| Op::Receive { ahead, entries, older }),
        1 => (0u8..5).prop_map(|ahead| Op::Arrive { ahead }),
        2 => any::<u64>().prop_map(|seed| Op::Crash { seed }),
    ]
}

/// What a node would know after some frame.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    /// The whole log since the last received snapshot.
    entries: Vec<Entry>,
    base: u64,
    hard_state: HardState,
    snapshot: Option<SnapshotMarker>,
}

impl State {
    fn last(&self) -> u64 {
        self.entries.last().map_or(self.base, |entry| entry.index.get())
    }
}

/// A sync under way, with the number of stores per file that it will make durable.
struct Flight {
    ticket: SyncTicket<MemoryMedium>,
    covered: Vec<(usize, MemoryFile, usize)>,
    done: usize,
}

struct Life {
    wal: Wal<MemoryMedium>,
    snaps: MemoryMedium,
    flight: Option<Flight>,
    retired: Vec<Retired>,
    /// `states[i]` is the state after frame `first + i`.
    states: Vec<State>,
    first: WalIndex,
    term: u64,
    oldest_snapshot: Option<SnapshotMarker>,
    segment_bytes: u64,
    salt: u8,
    recycled: usize,
    cuts: usize,
}

impl Life {
    fn new(segment_bytes: u64) -> Self {
        let wal = Wal::create(MemoryMedium::new(), IDENTITY, options(segment_bytes)).unwrap();
        Self {
            wal,
            snaps: MemoryMedium::new(),
            flight: None,
            retired: Vec::new(),
            states: vec![State::default()],
            first: WalIndex::ZERO,
            term: 1,
            oldest_snapshot: None,
            segment_bytes,
            salt: 0,
            recycled: 0,
            cuts: 0,
        }
    }

    fn state(&self) -> State {
        self.states.last().unwrap().clone()
    }

    fn did_append(&mut self, result: Result<ringd_storage::wal::Appended, AppendError>, state: State) {
        match result {
            Ok(appended) => {
                self.states.push(state);
                assert_eq!(appended.index.get(), self.first.get() + self.states.len() as u64 - 1);
            }
            Err(AppendError::NoSpace { .. } | AppendError::TooLarge { .. }) => {}
            Err(AppendError::Poisoned(reason)) => panic!("poisoned: {reason}"),
        }
    }

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        let mut state = self.state();
        match op {
            Op::Append { entries, bytes, back } => {
                let floor = state.hard_state.commit.get().max(state.base) + 1;
                let start = (state.last() + 1).saturating_sub(u64::from(*back)).max(floor);
                if start <= state.last() {
                    self.term += 1;
                }
                self.salt = self.salt.wrapping_add(1);
                let new: Vec<Entry> = (0..u64::from(*entries))
                    .map(|i| entry(self.term, start + i, &vec![self.salt; *bytes as usize / usize::from(*entries)]))
                    .collect();
                state.entries.retain(|entry| entry.index.get() < start);
                state.entries.extend(new.iter().cloned());
                let mut frame = self.wal.begin();
                new.iter().for_each(|entry| frame.push_entry(&entry.as_ref()));
                let result = frame.finish();
                self.did_append(result, state);
            }
            Op::HardState { commit } => {
                let floor = state.hard_state.commit.get().max(state.base);
                let commit = floor + u64::from(*commit) % (state.last() - floor + 1);
                let vote = MemberId::new(u64::from(self.salt));
                state.hard_state = HardState { term: Term::new(self.term), vote, commit: RaftIndex::new(commit) };
                let mut frame = self.wal.begin();
                frame.push_hard_state(&state.hard_state);
                let result = frame.finish();
                self.did_append(result, state);
            }
            Op::BeginSync => {
                self.finish_sync();
                self.flight = self.wal.begin_sync().unwrap().map(|ticket| {
                    let mut covered = Vec::new();
                    for (number, step) in ticket.steps().iter().enumerate() {
                        match step {
                            SyncStep::Write { .. } => step.run().unwrap(),
                            SyncStep::SyncData { file, .. } => {
                                covered.push((number, file.clone(), file.stores_pending()));
                            }
                            SyncStep::Publish { .. } => {}
                        }
                    }
                    Flight { ticket, covered, done: 0 }
                });
            }
            Op::Progress { steps } => self.progress(usize::from(*steps) % 5),
            Op::FinishSync => self.finish_sync(),
            Op::Spares => {
                while self.wal.spares_wanted() > 0 {
                    if self.retired.is_empty()
                        && let Some(oldest) = self.oldest_snapshot
                    {
                        self.retired = self.wal.retire(oldest.index.next());
                    }
                    let recycle = (!self.retired.is_empty()).then(|| self.retired.remove(0));
                    self.recycled += usize::from(recycle.is_some());
                    let medium = self.wal.medium().clone();
                    self.wal.add_spare(prepare_spare(&medium, self.segment_bytes, recycle, &mut || {}).unwrap());
                }
            }
            Op::Snapshot => {
                let commit = state.hard_state.commit;
                let known = state.entries.iter().find(|entry| entry.index == commit);
                let (Some(entry), true) = (known, self.committed_is_durable(commit)) else { return Ok(()) };
                let marker = SnapshotMarker { index: commit, term: entry.term };
                self.publish(marker);
                state.snapshot = Some(marker);
                let mut frame = self.wal.begin();
                frame.push_snapshot_taken(marker);
                let result = frame.finish();
                self.did_append(result, state);
                self.retire_after_sync(marker);
            }
            Op::Arrive { ahead } => {
                let index = RaftIndex::new(state.last() + 1 + u64::from(*ahead));
                // A term that nothing of ours will have.
                self.publish_from(OTHER, SnapshotMarker { index, term: Term::new(self.term + 1_000_000) });
            }
            Op::Receive { ahead, entries, older } => {
                let commit = state.hard_state.commit;
                let known = state.entries.iter().find(|entry| entry.index == commit);
                let unfinished = known.filter(|_| *older && self.committed_is_durable(commit));
                let unfinished = unfinished.map(|entry| SnapshotMarker { index: commit, term: entry.term });
                self.term += 1;
                let index = state.last() + 1 + u64::from(*ahead);
                let marker = SnapshotMarker { index: RaftIndex::new(index), term: Term::new(self.term) };
                self.publish_from(OTHER, marker);
                let vote = state.hard_state.vote;
                let hard_state = HardState { term: Term::new(self.term), vote, commit: marker.index };
                let new: Vec<Entry> =
                    (1..=u64::from(*entries)).map(|i| entry(self.term, index + i, &[self.salt])).collect();
                state = State { entries: new.clone(), base: index, hard_state, snapshot: Some(marker) };
                let mut frame = self.wal.begin();
                frame.push_snapshot_received(marker);
                new.iter().for_each(|entry| frame.push_entry(&entry.as_ref()));
                frame.push_hard_state(&hard_state);
                let result = frame.finish();
                self.did_append(result, state.clone());
                if let (Some(older), true) = (unfinished, self.state() == state) {
                    self.publish(older);
                    let mut frame = self.wal.begin();
                    frame.push_snapshot_taken(older);
                    let result = frame.finish();
                    self.did_append(result, state);
                }
                self.retire_after_sync(marker);
            }
            Op::Crash { seed } => self.crash(*seed)?,
        }
        Ok(())
    }

    /// A node applies, and so snapshots, only what it has synced.
    fn committed_is_durable(&self, commit: RaftIndex) -> bool {
        let durable = &self.states[(self.wal.durable().get() - self.first.get()) as usize];
        durable.last() >= commit.get() && durable.hard_state.commit >= commit
    }

    fn publish(&self, marker: SnapshotMarker) {
        self.publish_from(IDENTITY, marker);
    }

    fn publish_from(&self, identity: Identity, marker: SnapshotMarker) {
        let meta = SnapshotMeta {
            identity,
            marker,
            etcd_index: EtcdIndex::new(marker.index.get()),
            voters: vec![IDENTITY.member],
            learners: Vec::new(),
            items: 0,
            created: UnixNanos::ZERO,
        };
        SnapshotWriter::new(meta).publish(self.snaps.clone(), &mut || {}).unwrap();
    }

    /// Only a marker that is durable lets older snapshots and segments go.
    fn retire_after_sync(&mut self, marker: SnapshotMarker) {
        self.finish_sync();
        if let Some(ticket) = self.wal.begin_sync().unwrap() {
            ticket.run().unwrap();
            self.wal.finish_sync(ticket);
        }
        if self.state().snapshot == Some(marker) {
            self.oldest_snapshot = retain(&self.snaps, 2, marker).unwrap();
        }
    }

    fn progress(&mut self, steps: usize) {
        let Some(flight) = &mut self.flight else { return };
        let until = (flight.done + steps).min(flight.ticket.steps().len());
        for number in flight.done..until {
            match &flight.ticket.steps()[number] {
                SyncStep::Write { .. } => {}
                SyncStep::SyncData { .. } => {
                    let (_, file, count) = flight.covered.iter().find(|(step, ..)| *step == number).unwrap();
                    file.sync_stores(*count);
                }
                publish @ SyncStep::Publish { .. } => publish.run().unwrap(),
            }
        }
        flight.done = until;
    }

    fn finish_sync(&mut self) {
        self.progress(usize::MAX - 100);
        if let Some(flight) = self.flight.take() {
            self.wal.finish_sync(flight.ticket);
        }
    }

    fn crash(&mut self, seed: u64) -> Result<(), TestCaseError> {
        let mut dice = Dice(seed);
        // A third of the crashes lose everything unsynced, a third keep everything, a third tear.
        let style = dice.roll(3);
        let disk = self.wal.medium().crash(&mut |what| match (style, what) {
            (0, _) => 0,
            (1, _) => u32::MAX,
            (_, Surviving::Sector { stores, .. }) => dice.roll(u64::from(stores) + 1) as u32,
            (_, Surviving::Name(_)) => dice.roll(2) as u32,
        });
        let snaps = self.snaps.crash(&mut |_| 0);
        let durable = self.wal.durable();
        let appended = self.wal.appended();
        // As the contract of `epoch_seed` asks: fresh at every start. A spare that was the unpublished tail of the last
        // life holds frames of the number it now gets again.
        let options = WalOptions { epoch_seed: seed, ..options(self.segment_bytes) };
        let recovered = recover(disk, &snaps, options)
            .map_err(|error| TestCaseError::fail(format!("acknowledged up to {durable}: {error}")))?;
        self.check(&recovered, durable, appended)?;
        self.cuts += usize::from(recovered.tail.is_some());
        let kept = (recovered.wal.appended().get() - self.first.get()) as usize + 1;
        self.states.truncate(kept);
        self.wal = recovered.wal;
        self.snaps = snaps;
        self.flight = None;
        self.retired = Vec::new();
        self.term += 1;
        Ok(())
    }

    fn check(
        &self,
        recovered: &Recovered<MemoryMedium>,
        durable: WalIndex,
        appended: WalIndex,
    ) -> Result<(), TestCaseError> {
        let last = recovered.wal.appended();
        prop_assert!(durable <= last, "frames up to {} were acknowledged, {} came back", durable, last);
        prop_assert!(last <= appended, "frame {} was never appended, {} came back", appended, last);
        let expected = &self.states[(last.get() - self.first.get()) as usize];
        let base = recovered.snapshot.as_ref().map_or(0, |(meta, _)| meta.marker.index.get());
        let after: Vec<Entry> = expected.entries.iter().filter(|entry| entry.index.get() > base).cloned().collect();
        prop_assert_eq!(&recovered.entries, &after);
        prop_assert_eq!(recovered.hard_state, expected.hard_state);
        prop_assert!(base >= expected.base, "the snapshot that replaced the log is there");
        Ok(())
    }
}

fn run(ops: &[Op], segment_bytes: u64) -> Result<Life, TestCaseError> {
    let mut life = Life::new(segment_bytes);
    for op in ops {
        life.apply(op)?;
    }
    Ok(life)
}

/// Where every frame is.
#[derive(Default)]
struct Frames {
    segment: String,
    found: Vec<(String, u64, FrameHeader)>,
}

impl Visitor for Frames {
    fn segment(&mut self, path: &str, _header: &ringd_storage::format::SegmentHeader, _bytes: u64) {
        self.segment = path.to_owned();
    }

    fn frame(&mut self, offset: u64, frame: &FrameHeader, _records: Records<'_>) -> Result<(), Reason> {
        self.found.push((self.segment.clone(), offset, *frame));
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn recovery_yields_what_was_acknowledged_and_nothing_invented(
        ops in proptest::collection::vec(op(), 1..80),
        last_crash in any::<u64>(),
        large in any::<bool>(),
    ) {
        let mut life = run(&ops, if large { 256 << 10 } else { SEGMENT_BYTES })?;
        life.crash(last_crash)?;
        // And once more without any failure: what was recovered stays.
        let (durable, appended) = (life.wal.durable(), life.wal.appended());
        let again = recover(life.wal.medium().crash(&mut |_| 0), &life.snaps, options(life.segment_bytes))
            .map_err(|error| TestCaseError::fail(error.to_string()))?;
        life.check(&again, durable, appended)?;
        prop_assert!(again.tail.is_none(), "a tail is cut once");
    }

    #[test]
    fn a_flipped_bit_is_refused_where_later_frames_vouch_and_never_believed(
        ops in proptest::collection::vec(op(), 1..60),
        pick in any::<u64>(),
    ) {
        let mut life = run(&ops, SEGMENT_BYTES)?;
        life.retire_after_sync(SnapshotMarker::default());
        let disk = life.wal.medium().crash(&mut |_| 0);
        let mut frames = Frames::default();
        walk(&disk, &mut frames).unwrap();
        prop_assume!(!frames.found.is_empty());
        let vouched = frames.found.iter().map(|(_, _, frame)| frame.durable).max().unwrap();
        let mut dice = Dice(pick);
        let (path, offset, frame) = frames.found[dice.roll(frames.found.len() as u64) as usize].clone();
        let name = path.strip_prefix("memory/").unwrap();
        prop_assert!(disk.flip_bit(name, offset + dice.roll(frame.total_bytes()), dice.roll(8) as u8));
        match recover(disk, &life.snaps, options(SEGMENT_BYTES)) {
            Err(WalkError::Refused(refusal)) => {
                prop_assert_eq!(&refusal.file, &path);
                // Where the frame began, or (its header being unreadable) the end of the frame before it.
                let at = refusal.offset;
                prop_assert!(at == offset || (at < offset && align_page(at) == offset), "{} for {}", at, offset);
                prop_assert_eq!(refusal.wal_index, frame.wal_index);
            }
            Err(other) => prop_assert!(false, "{}", other),
            Ok(recovered) => {
                prop_assert!(frame.wal_index > vouched, "frame {} is vouched up to {}", frame.wal_index, vouched);
                // A snapshot's marker may have been in the damaged frame: then the log alone decides, as before.
                life.check(&recovered, WalIndex::new(frame.wal_index.get() - 1), life.wal.appended())?;
                prop_assert!(recovered.must_catch_up, "it cut its tail");
            }
        }
    }

    #[test]
    fn a_flipped_header_bit_is_refused_at_offset_zero(ops in proptest::collection::vec(op(), 1..40), pick in any::<u64>()) {
        let mut life = run(&ops, SEGMENT_BYTES)?;
        life.retire_after_sync(SnapshotMarker::default());
        let disk = life.wal.medium().crash(&mut |_| 0);
        let names: Vec<String> = disk.list().unwrap().into_iter().filter(|name| name.ends_with(".wal")).collect();
        let mut dice = Dice(pick);
        let name = &names[dice.roll(names.len() as u64) as usize];
        prop_assert!(disk.flip_bit(name, dice.roll(4096), dice.roll(8) as u8));
        match recover(disk.clone(), &life.snaps, options(SEGMENT_BYTES)) {
            Err(WalkError::Refused(refusal)) => {
                prop_assert_eq!(refusal.file, disk.path_of(name));
                prop_assert_eq!(refusal.offset, 0);
            }
            Err(other) => prop_assert!(false, "{}", other),
            Ok(_) => prop_assert!(false, "a damaged header went unnoticed"),
        }
    }
}

#[test]
fn the_random_lives_reach_the_interesting_corners() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut recycled, mut cuts, mut segments) = (0, 0, 0);
    for _ in 0..150 {
        let ops = proptest::collection::vec(op(), 60..80).new_tree(&mut runner).unwrap().current();
        let life = run(&ops, SEGMENT_BYTES).unwrap();
        recycled += life.recycled;
        cuts += life.cuts;
        segments = segments.max(life.wal.segments());
    }
    assert!(recycled > 20 && cuts > 20 && segments >= 3, "recycled {recycled} cuts {cuts} segments {segments}");
}

/// How many lives each property tries; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(300)
}
