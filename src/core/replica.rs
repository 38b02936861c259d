//! Drives raft-rs: what is proposed, sent, appended, persisted and committed, and in which order.
//!
//! Owns: the `RawNode`, the readies that are not durable yet, and the messages that must wait for them. Touches:
//! raft-rs and [`super::raft_log`]. Knows nothing of the store: committed entries go to a callback.
//!
//! Invariants:
//! 1. A leader's messages leave before its own sync; a follower's or candidate's only after it (raft thesis, 10.2.1).
//! 2. Readies are reported persisted in order, and one that needs a sync only after [`Replica::persisted`] said so.
//! 3. A hard state that only moves the commit index is never synced by itself: it rides on the next append. Losing it
//!    costs nothing, because commit is found again from a quorum.
//! 4. Election timeouts come from the node's seed, not from a thread's random source, so that a run can be replayed.

use std::collections::VecDeque;

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeV2, Entry, EntryType, HardState, Message, MessageType};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};
use ringd_storage::ids::{MemberId, RaftIndex, Term};
use ringd_storage::record::{EntryKind, EntryRef, HardState as StoredHardState, Record};

use super::event::{Effects, SnapshotDone};
use super::raft_log::{RaftLog, conf_state};
use super::status::{Progress, RaftStatus};

/// A raft message between members; only the peer codec looks inside.
pub type PeerMessage = Message;

/// Numbers the readies of one run; appends are durable in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ReadyNumber(pub u64);

/// One append message carries at most this much: large enough to fill a batch, small enough to resend.
const MESSAGE_BYTES_MAX: u64 = 1 << 20;
/// Append messages in flight to one follower: enough to cover a round trip at full rate.
const MESSAGES_INFLIGHT_MAX: usize = 256;
/// Committed entries handed out at once: bounds the time of one turn at restart.
const COMMITTED_BYTES_PER_READY_MAX: u64 = 1 << 20;
/// Proposals beyond this many uncommitted bytes are refused: a leader without a quorum must not fill the memory.
const UNCOMMITTED_BYTES_MAX: u64 = 256 << 20;

/// What a replica starts from.
#[derive(Debug)]
pub struct ReplicaStart {
    /// This member.
    pub id: MemberId,
    /// Ticks between heartbeats and the least ticks between elections.
    pub election_ticks: usize,
    /// Seeds the election timeouts.
    pub seed: u64,
    /// The last applied entry: the snapshot's, or zero.
    pub applied: RaftIndex,
    /// The log.
    pub log: RaftLog,
}

/// Records for the WAL: one frame, in one turn.
#[derive(Debug)]
pub struct Append {
    /// Report this number when it is durable.
    pub ready: ReadyNumber,
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    /// A sync must cover it before it may be reported.
    pub must_sync: bool,
}

impl Append {
    /// The records, in the order they must have in the WAL: a recovering node reads the entries a hard state commits
    /// before the hard state.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        self.entries.iter().map(|entry| Record::Entry(entry_ref(entry))).chain(self.hard_state.as_ref().map(|state| {
            Record::HardState(StoredHardState {
                term: Term::new(state.term),
                vote: MemberId::new(state.vote),
                commit: RaftIndex::new(state.commit),
            })
        }))
    }

    /// How many entries it holds.
    #[must_use]
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }
}

fn entry_ref(entry: &Entry) -> EntryRef<'_> {
    EntryRef {
        term: Term::new(entry.term),
        index: RaftIndex::new(entry.index),
        kind: match entry.get_entry_type() {
            EntryType::EntryNormal => EntryKind::Normal,
            EntryType::EntryConfChange => EntryKind::ConfChange,
            EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
        },
        data: &entry.data,
        context: &entry.context,
    }
}

/// Turns a recovered entry into raft's form.
#[must_use]
pub fn entry_from_record(record: EntryRef<'_>) -> Entry {
    let mut entry = Entry::default();
    entry.set_entry_type(match record.kind {
        EntryKind::Normal => EntryType::EntryNormal,
        EntryKind::ConfChange => EntryType::EntryConfChange,
        EntryKind::ConfChangeV2 => EntryType::EntryConfChangeV2,
    });
    entry.term = record.term.get();
    entry.index = record.index.get();
    entry.data = bytes::Bytes::copy_from_slice(record.data);
    entry.context = bytes::Bytes::copy_from_slice(record.context);
    entry
}

/// A membership change out of an entry.
#[derive(Debug)]
pub struct ConfChangeEntry {
    change: ConfChangeV2,
    /// Member being added or updated, with [`ringd_storage::payload::MemberRecord`] as context.
    pub context: bytes::Bytes,
    /// The member the first change is about.
    pub member: MemberId,
    /// It leaves.
    pub removes: bool,
}

impl ConfChangeEntry {
    /// Decodes an entry of either conf-change kind.
    ///
    /// # Errors
    /// The decoder's message when the bytes are not a conf change.
    pub fn decode(entry: &Entry) -> Result<Self, String> {
        let change = if entry.get_entry_type() == EntryType::EntryConfChange {
            let mut one = ConfChange::default();
            one.merge_from_bytes(&entry.data).map_err(|error| error.to_string())?;
            raft_proto_v2(one)
        } else {
            let mut change = ConfChangeV2::default();
            change.merge_from_bytes(&entry.data).map_err(|error| error.to_string())?;
            change
        };
        let first = change.changes.first();
        Ok(Self {
            context: change.context.clone(),
            member: MemberId::new(first.map_or(0, |one| one.node_id)),
            removes: first.is_some_and(|one| one.get_change_type() == raft::eraftpb::ConfChangeType::RemoveNode),
            change,
        })
    }
}

fn raft_proto_v2(one: ConfChange) -> ConfChangeV2 {
    let mut single = raft::eraftpb::ConfChangeSingle::default();
    single.set_change_type(one.get_change_type());
    single.node_id = one.node_id;
    let mut change = ConfChangeV2 { context: one.context, ..ConfChangeV2::default() };
    change.mut_changes().push(single);
    change
}

/// The bytes of an entry that adds a voter, for a bootstrap log.
#[must_use]
pub fn add_voter_entry(index: RaftIndex, term: Term, member: MemberId, context: Vec<u8>) -> Entry {
    let mut change = ConfChange::default();
    change.set_change_type(raft::eraftpb::ConfChangeType::AddNode);
    change.node_id = member.get();
    change.context = context.into();
    let mut entry = Entry::default();
    entry.set_entry_type(EntryType::EntryConfChange);
    entry.index = index.get();
    entry.term = term.get();
    entry.data = change.write_to_bytes().expect("a conf change always encodes").into();
    entry
}

/// The change that one member makes or suffers; `context` is its record.
#[must_use]
pub fn voter_change(member: MemberId, removes: bool, context: Vec<u8>) -> VoterChange {
    let mut change = ConfChange::default();
    change.set_change_type(if removes {
        raft::eraftpb::ConfChangeType::RemoveNode
    } else {
        raft::eraftpb::ConfChangeType::AddNode
    });
    change.node_id = member.get();
    change.context = context.into();
    VoterChange(change)
}

/// A membership change to propose.
#[derive(Debug)]
pub struct VoterChange(ConfChange);

/// The append that writes a bootstrap log, before any replica exists.
#[must_use]
pub fn bootstrap_append(entries: Vec<Entry>, commit: RaftIndex) -> Append {
    let hard_state = HardState { term: 1, commit: commit.get(), ..HardState::default() };
    Append { ready: ReadyNumber(0), entries, hard_state: Some(hard_state), must_sync: true }
}

/// Why a proposal was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotProposed;

/// What one pump produced beside committed entries.
#[derive(Debug, Default)]
pub struct Pumped {
    /// Leader, term or role changed.
    pub soft_state_changed: bool,
    /// Finished ReadIndex rounds: (context, index to apply first).
    pub read_states: Vec<(Vec<u8>, RaftIndex)>,
}

/// Readies that wait for the disk, with the messages that wait with them.
#[derive(Debug)]
struct Held {
    number: u64,
    must_sync: bool,
    messages: Vec<Message>,
}

/// One member's raft state machine.
pub struct Replica {
    raw: RawNode<RaftLog>,
    held: VecDeque<Held>,
    /// Readies up to this number are durable.
    synced: u64,
    /// Messages whose time has come.
    outbox: Vec<Message>,
    pending_hard_state: Option<HardState>,
    seed: u64,
    election_ticks: usize,
    ticks: u64,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("id", &self.raw.raft.id).field("term", &self.raw.raft.term).finish()
    }
}

impl Replica {
    /// Starts from recovered state.
    ///
    /// # Errors
    /// raft-rs' message when the configuration or the state contradicts itself.
    pub fn new(start: ReplicaStart) -> Result<Self, String> {
        let config = raft::Config {
            id: start.id.get(),
            election_tick: start.election_ticks,
            heartbeat_tick: 1,
            applied: start.applied.get(),
            max_size_per_msg: MESSAGE_BYTES_MAX,
            max_inflight_msgs: MESSAGES_INFLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            batch_append: true,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_PER_READY_MAX,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, start.log, &logger).map_err(|error| error.to_string())?;
        let mut replica = Self {
            raw,
            held: VecDeque::new(),
            synced: 0,
            outbox: Vec::new(),
            pending_hard_state: None,
            seed: start.seed,
            election_ticks: start.election_ticks,
            ticks: 0,
        };
        replica.pin_election_timeout();
        Ok(replica)
    }

    /// One heartbeat interval passed.
    pub fn tick(&mut self) {
        self.ticks += 1;
        self.raw.tick();
        self.pin_election_timeout();
    }

    /// Takes a message from another member. One that no longer fits (a removed sender, an old term) is dropped, as
    /// raft allows for any message.
    pub fn step(&mut self, message: PeerMessage) {
        let _ = self.raw.step(message);
        self.pin_election_timeout();
    }

    /// A member cannot be reached for now.
    pub fn unreachable(&mut self, member: MemberId) {
        self.raw.report_unreachable(member.get());
    }

    /// How the sending of a snapshot ended.
    pub fn snapshot_sent(&mut self, to: MemberId, ok: bool) {
        self.raw.report_snapshot(to.get(), if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    /// Starts an election at once.
    pub fn campaign(&mut self) {
        let _ = self.raw.campaign();
        self.pin_election_timeout();
    }

    /// Proposes all entries in one message: raft's cost is per message, not per entry.
    ///
    /// # Errors
    /// [`NotProposed`] when there is no leader or it takes no more: none of them was proposed.
    pub fn propose(&mut self, datas: impl Iterator<Item = bytes::Bytes>) -> Result<(), NotProposed> {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.raw.raft.id;
        message.set_entries(datas.map(|data| Entry { data, ..Entry::default() }).collect());
        self.raw.raft.step(message).map_err(|_| NotProposed)
    }

    /// Proposes a membership change; `waiter` becomes the entry's own context.
    ///
    /// # Errors
    /// [`NotProposed`] when there is no leader or it takes no more.
    pub fn propose_change(&mut self, waiter: Vec<u8>, change: VoterChange) -> Result<(), NotProposed> {
        self.raw.propose_conf_change(waiter, change.0).map_err(|_| NotProposed)
    }

    /// Whether an earlier membership change may be in the log, not applied: a leader would drop another one.
    #[must_use]
    pub fn change_is_pending(&self) -> bool {
        self.raw.raft.has_pending_conf()
    }

    /// Begins a ReadIndex round; its context comes back in [`Pumped::read_states`], or never (retry by tick).
    pub fn read_index(&mut self, context: Vec<u8>) {
        self.raw.read_index(context);
    }

    /// Every append up to `upto` is durable.
    pub fn persisted(&mut self, upto: ReadyNumber) {
        assert!(upto.0 >= self.synced, "the durable mark moved back");
        self.synced = upto.0;
        self.release();
    }

    /// Reports every ready whose bytes are durable, and lets its messages go.
    fn release(&mut self) {
        let mut last = None;
        while let Some(front) = self.held.front() {
            if front.must_sync && front.number > self.synced {
                break;
            }
            last = Some(front.number);
            self.outbox.append(&mut self.held.pop_front().expect("front exists").messages);
        }
        if let Some(number) = last {
            self.raw.on_persist_ready(number);
        }
    }

    /// Handles everything raft has ready: messages and appends go out, committed entries go to `apply`, which returns
    /// the new configuration when an entry changed it.
    ///
    /// # Errors
    /// What `apply` returned: the node must stop.
    pub fn pump(
        &mut self,
        effects: &mut Effects,
        mut apply: impl FnMut(&mut Self, Entry, &mut Effects) -> Result<(), String>,
    ) -> Result<Pumped, String> {
        let mut pumped = Pumped::default();
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            let number = ready.number();
            self.outbox.append(&mut ready.take_messages());
            pumped.soft_state_changed |= ready.ss().is_some();
            for state in ready.take_read_states() {
                pumped.read_states.push((state.request_ctx, RaftIndex::new(state.index)));
            }
            if let Some(state) = ready.hs() {
                self.pending_hard_state = Some(state.clone());
            }
            if !ready.snapshot().is_empty() {
                return Err(format!(
                    "a snapshot at raft index {} arrived, and this version cannot install one",
                    ready.snapshot().get_metadata().index
                ));
            }
            let entries = ready.take_entries();
            self.raw.mut_store().append(&entries);
            let must_sync = ready.must_sync();
            let committed = ready.take_committed_entries();
            let waiting = ready.take_persisted_messages();
            self.raw.advance_append_async(ready);
            self.held.push_back(Held { number, must_sync, messages: waiting });
            if must_sync {
                let hard_state = self.pending_hard_state.take();
                effects.appends.push(Append { ready: ReadyNumber(number), entries, hard_state, must_sync });
            }
            self.release();
            if let Some(last) = committed.last().map(|entry| entry.index) {
                for entry in committed {
                    apply(self, entry, effects)?;
                }
                self.raw.advance_apply_to(last);
            }
        }
        effects.messages.append(&mut self.outbox);
        self.pin_election_timeout();
        Ok(pumped)
    }

    /// Applies a membership change and returns the new voters and learners.
    ///
    /// # Errors
    /// raft-rs' message when the change contradicts the configuration.
    pub fn apply_conf_change(&mut self, entry: &ConfChangeEntry) -> Result<(), String> {
        let state = self.raw.apply_conf_change(&entry.change).map_err(|error| error.to_string())?;
        self.raw.mut_store().set_conf_state(state);
        Ok(())
    }

    /// The hard state that no append has carried yet: written at a clean stop, so that a restart needs no replay
    /// beyond the log.
    pub fn take_pending_hard_state(&mut self) -> Option<Append> {
        let hard_state = self.pending_hard_state.take()?;
        let number = self.held.back().map_or(self.synced, |held| held.number);
        Some(Append { ready: ReadyNumber(number), entries: Vec::new(), hard_state: Some(hard_state), must_sync: false })
    }

    /// Whether this node leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// The leader as far as this node knows; id zero when unknown.
    #[must_use]
    pub fn leader(&self) -> MemberId {
        MemberId::new(self.raw.raft.leader_id)
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        Term::new(self.raw.raft.term)
    }

    /// The last committed entry this node knows of.
    #[must_use]
    pub fn committed(&self) -> RaftIndex {
        RaftIndex::new(self.raw.raft.raft_log.committed)
    }

    /// The last entry of the log.
    #[must_use]
    pub fn last_index(&self) -> RaftIndex {
        RaftIndex::new(self.raw.raft.raft_log.last_index())
    }

    /// What an operator may want to see.
    #[must_use]
    pub fn status(&self, applied: RaftIndex) -> RaftStatus {
        let raft = &self.raw.raft;
        let mut progress = Vec::new();
        if self.is_leader() {
            progress.extend(raft.prs().iter().map(|(&id, known)| Progress {
                id: MemberId::new(id),
                matched: RaftIndex::new(known.matched),
                next: RaftIndex::new(known.next_idx),
                state: match known.state {
                    ProgressState::Probe => "StateProbe",
                    ProgressState::Replicate => "StateReplicate",
                    ProgressState::Snapshot => "StateSnapshot",
                },
            }));
            progress.sort_unstable_by_key(|known| known.id);
        }
        RaftStatus {
            id: MemberId::new(raft.id),
            term: self.term(),
            vote: MemberId::new(raft.vote),
            committed: self.committed(),
            applied,
            leader: self.leader(),
            role: match raft.state {
                StateRole::Leader => "StateLeader",
                StateRole::Follower => "StateFollower",
                StateRole::Candidate => "StateCandidate",
                StateRole::PreCandidate => "StatePreCandidate",
            },
            transferee: MemberId::new(raft.lead_transferee.unwrap_or(0)),
            progress,
        }
    }

    /// Voters and learners as of the last applied change.
    #[must_use]
    pub fn configuration(&self) -> (Vec<MemberId>, Vec<MemberId>) {
        let state = self.raw.store().conf_state();
        (
            state.voters.iter().copied().map(MemberId::new).collect(),
            state.learners.iter().copied().map(MemberId::new).collect(),
        )
    }

    /// Forgets at most `limit` entries up to `index`; true when more remain to forget.
    pub fn compact(&mut self, index: RaftIndex, limit: u64) -> bool {
        use raft::Storage as _;
        let first = self.raw.store().first_index().expect("the log is in memory");
        let step = index.get().min((first - 1).saturating_add(limit));
        self.raw.mut_store().compact(step);
        step < index.get()
    }

    /// Names the newest durable snapshot, so that raft may offer it.
    pub fn set_snapshot(&mut self, done: &SnapshotDone) {
        let state = conf_state(&done.voters, &done.learners);
        self.raw.mut_store().set_snapshot(done.index.get(), done.term.get(), state);
    }

    /// Replaces raft-rs' thread-random election timeout by one drawn from (seed, id, term, era). raft-rs draws anew at
    /// every role change, also within a term, so it is pinned again after every input; the era (two election
    /// timeouts long) makes two members that once drew the same number draw apart.
    fn pin_election_timeout(&mut self) {
        let ticks = self.election_ticks as u64;
        let era = self.ticks / (2 * ticks);
        let mixed = splitmix(self.seed ^ splitmix(self.raw.raft.id) ^ splitmix(self.raw.raft.term) ^ era);
        self.raw.raft.set_randomized_election_timeout(self.election_ticks + (mixed % ticks) as usize);
    }
}

/// Steele, Lea and Flood's SplitMix64 finaliser: one input bit changes half of the output bits.
fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
