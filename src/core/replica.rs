//! Drives raft-rs: what is proposed, sent, appended, persisted and committed, and in which order.
//!
//! Owns: the `RawNode`, the readies that are not durable yet, and the messages that must wait for them. Touches:
//! raft-rs and [`super::raft_log`]. Knows nothing of the store: committed entries go to a callback.
//!
//! Invariants:
//! 1. A leader's messages leave before its own sync; a follower's or candidate's only after it (raft thesis, 10.2.1),
//!    but for those that promise nothing: forwarded proposals, reads, answers to heartbeats.
//! 2. Readies are reported persisted in order, and one that needs a sync only after [`Replica::persisted`] said so.
//! 3. A hard state that only moves the commit index is never synced by itself: it rides on the next append. Losing it
//!    costs nothing, because commit is found again from a quorum. After a change of membership it is written at once:
//!    the quorum that would find it again may include a member that has left.
//! 4. Election timeouts come from the node's seed, not from a thread's random source, so that a run can be replayed.
//! 5. No message from outside makes raft-rs panic: what would is dropped or made harmless in [`Replica::step`].
//! 6. An accepted snapshot is the log at once, is reported only when the WAL names it, and nothing after it is applied
//!    before [`Replica::installed`].
//! 7. No election begins here while it could do harm ([`Replica::may_campaign`]).

use std::collections::VecDeque;

mod handing;

pub use raft::eraftpb::MessageType;
use raft::eraftpb::{Entry, EntryType, HardState, Message};
use raft::{ProgressState, RawNode, SnapshotStatus, StateRole};
use ringd_storage::format::SnapshotMarker;
use ringd_storage::ids::{MemberId, RaftIndex, Term};
use ringd_storage::mutation::{self, Mutation};

pub use super::entries::{Append, ConfChangeEntry, MemberVote, ReadyNumber, entry_from_record};
use super::event::{Effects, Install, SnapshotDone};
use super::parcels::{self, MESSAGE_BYTES_MAX};
use super::raft_log::{RaftLog, conf_state};
use super::status::{Progress, RaftStatus};

/// A raft message between members; only the peer codec looks inside.
pub type PeerMessage = Message;

/// Append messages in flight to one follower: enough to cover a round trip at full rate, and together no more than one
/// segment of the follower's log holds.
const MESSAGES_INFLIGHT_MAX: usize = 64;
/// What an entry takes in the log beside its data and context, at most.
pub const ENTRY_ROOM_BYTES: u64 = 64;
/// Committed entries handed out at once: bounds the time of one turn at restart.
const COMMITTED_BYTES_PER_READY_MAX: u64 = 1 << 20;
/// Proposals beyond this many uncommitted bytes are refused: a leader without a quorum must not fill the memory.
const UNCOMMITTED_BYTES_MAX: u64 = 256 << 20;

/// Of an election timeout T in ticks, elections begin after T + 1 to T + this share of it. A late election costs the
/// clients time; two at once cost another timeout, but members tick at times of their own, so that few values keep most
/// of them apart. Never after T itself: whoever ticks a little later still trusts the lost leader then (check-quorum's
/// lease), ignores the question, and the asker waits for another timeout.
const ELECTION_SPREAD_PERCENT: usize = 40;
/// Membership changes of others that a leader keeps until the one in its log is applied.
const POSTPONED_MAX: usize = 64;
/// Forwarded proposals that may wait for the end of a hand-over, of about a megabyte each at most.
const HANDED_OVER_MAX: usize = 64;

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
    /// The snapshot this ready carried.
    snapshot: Option<Install>,
}

/// The position of a log: raft compares candidates by it.
pub type LogPosition = (Term, RaftIndex);

/// Bytes of log that an entry needs, at most.
#[must_use]
pub fn room_for_entry(entry: &Entry) -> u64 {
    (entry.data.len() + entry.context.len()) as u64 + ENTRY_ROOM_BYTES
}

/// Bytes of log that the entries or proposals of a message need, at most; zero when it has none.
#[must_use]
pub fn room_for(message: &PeerMessage) -> u64 {
    match message.get_msg_type() {
        MessageType::MsgAppend | MessageType::MsgPropose => message.entries.iter().map(room_for_entry).sum(),
        _ => 0,
    }
}

/// One member's raft state machine.
pub struct Replica {
    raw: RawNode<RaftLog>,
    held: VecDeque<Held>,
    /// Readies up to this number are durable.
    synced: u64,
    /// Messages whose time has come.
    outbox: Vec<Message>,
    /// The term that was last given to the disk.
    written_term: u64,
    /// A leader's messages wait until this ready is durable: it began a term that nobody else was asked about.
    silent_until: u64,
    pending_hard_state: Option<HardState>,
    /// The last snapshot accepted, while its state is not loaded.
    installing: Option<Install>,
    /// It is durable; the shell has to be told.
    to_install: Option<Install>,
    /// Committed entries that wait for it.
    deferred: Vec<Entry>,
    /// A leader's: changes of membership that came while another one was in the log.
    postponed: VecDeque<Message>,
    /// Forwarded proposals that came while leadership was being handed over: they are for whoever leads next.
    handed_over: VecDeque<Message>,
    /// The tick of the last try to hand leadership over.
    handing_since: Option<u64>,
    /// A change of membership was applied, and the disk does not say yet that it is committed.
    change_unwritten: bool,
    /// What this member must see in a candidate before it votes; see [`super::gate`].
    vote_floor: Option<VoteFloor>,
    seed: u64,
    election_ticks: usize,
    ticks: u64,
}

/// How far votes of a member that may have forgotten something go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteFloor {
    /// It votes for nobody.
    Nobody,
    /// It votes for whoever's log reaches this position.
    From(LogPosition),
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
        let raw_term = raw.raft.term;
        let mut replica = Self {
            raw,
            held: VecDeque::new(),
            synced: 0,
            outbox: Vec::new(),
            written_term: raw_term,
            silent_until: 0,
            pending_hard_state: None,
            installing: None,
            to_install: None,
            deferred: Vec::new(),
            postponed: VecDeque::new(),
            handed_over: VecDeque::new(),
            handing_since: None,
            change_unwritten: false,
            vote_floor: None,
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
        let raft = &self.raw.raft;
        let campaigns = raft.state != StateRole::Leader
            && raft.promotable()
            && raft.election_elapsed + 1 >= raft.randomized_election_timeout();
        if campaigns && !self.may_campaign() {
            // The leader is lost all the same.
            if raft.leader_id != 0 {
                let term = raft.term;
                self.raw.raft.become_follower(term, 0);
            }
        } else {
            self.raw.tick();
        }
        self.pin_election_timeout();
    }

    /// Whether an election may begin here: nothing is being installed, this member remembers what it acknowledged (or
    /// reaches what its peers remember), raft has applied what it has compacted (it reads the entries between), and a
    /// single voter, which would lead at once, has its log on disk, as raft expects of a leader.
    #[must_use]
    pub fn may_campaign(&self) -> bool {
        let raft = &self.raw.raft;
        let remembers = match self.vote_floor {
            None => true,
            Some(VoteFloor::Nobody) => false,
            Some(VoteFloor::From(floor)) => self.position() >= floor,
        };
        let alone = raft.prs().conf().voters().ids().len() == 1;
        remembers
            && self.installing.is_none()
            && raft.raft_log.applied >= self.raw.store().base_index()
            && (!alone || raft.raft_log.persisted == raft.raft_log.last_index())
    }

    /// Limits votes and campaigns, or lifts the limit.
    pub fn set_vote_floor(&mut self, floor: Option<VoteFloor>) {
        self.vote_floor = floor;
    }

    /// The last entry of the log.
    #[must_use]
    pub fn position(&self) -> LogPosition {
        (Term::new(self.raw.raft.raft_log.last_term()), self.last_index())
    }

    /// Takes a message from another member. One that no longer fits (a removed sender, an old term) is dropped, as
    /// raft allows for any message, and so is one that no member would send.
    pub fn step(&mut self, mut message: PeerMessage) {
        if !self.is_sound(&mut message) {
            return;
        }
        match message.get_msg_type() {
            // Whoever forwarded this took this node for the leader; its client's time limit tells it otherwise. Sent on
            // from here it could go round in circles.
            MessageType::MsgPropose if self.hands_over() => {
                if self.handed_over.len() < HANDED_OVER_MAX {
                    self.handed_over.push_back(message);
                }
                return;
            }
            MessageType::MsgPropose | MessageType::MsgReadIndex if !self.is_leader() => return,
            MessageType::MsgPropose if self.change_is_pending() && changes_members(&message) => {
                // raft-rs would turn it into an empty entry, and its client would wait in vain.
                if self.postponed.len() < POSTPONED_MAX {
                    self.postponed.push_back(message);
                }
                return;
            }
            MessageType::MsgAppend => parcels::skip(&mut message, self.raw.raft.raft_log.committed),
            MessageType::MsgAppendResponse if message.reject => self.notice_shorter_log(&message),
            _ => {}
        }
        let _ = self.raw.step(message);
        self.pin_election_timeout();
    }

    /// Whether raft-rs can take a message: it panics at some that no member sends.
    fn is_sound(&self, message: &mut Message) -> bool {
        let raft = &self.raw.raft;
        let contiguous = |message: &Message| {
            let expected = (message.index.saturating_add(1)..).zip(&message.entries);
            expected.into_iter().all(|(index, entry)| entry.index == index && entry.term <= message.term)
        };
        if message.to != raft.id || message.from == raft.id || message.from == 0 {
            return false;
        }
        // To raft-rs an entry that is not there has term 0, so that a message without a term would match it.
        let kind = message.get_msg_type();
        if message.term == 0 && !matches!(kind, MessageType::MsgPropose | MessageType::MsgReadIndex) {
            return false;
        }
        // What this member has forgotten may have been a promise to a newer leader. An older one goes on leading for two
        // election timeouts at most after it has heard of a quorum for the last time, of which this may be a part.
        let from_leader = matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot);
        if from_leader && self.vote_floor.is_some() && self.ticks <= 2 * self.election_ticks as u64 {
            return false;
        }
        match kind {
            MessageType::MsgAppend => contiguous(message) && (message.index == 0 || message.log_term > 0),
            MessageType::MsgAppendResponse => message.reject || message.index <= raft.raft_log.last_index(),
            MessageType::MsgPropose => !message.entries.is_empty(),
            MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => message.entries.len() == 1,
            MessageType::MsgSnapshot => {
                let meta = message.get_snapshot().get_metadata();
                let state = meta.get_conf_state();
                let known = || state.voters.iter().chain(&state.learners);
                let unique = known().all(|id| *id != 0 && known().filter(|other| *other == id).count() == 1);
                let simple = state.voters_outgoing.is_empty() && state.learners_next.is_empty() && !state.auto_leave;
                meta.index > 0 && meta.term <= message.term && !state.voters.is_empty() && unique && simple
            }
            MessageType::MsgHeartbeat => {
                // A leader that remembers more of this log than there is (its tail was cut): commit moves again with
                // the appends, which compare terms.
                if message.commit > raft.raft_log.last_index() || self.vote_floor.is_some() {
                    message.commit = message.commit.min(raft.raft_log.committed);
                }
                true
            }
            MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => match self.vote_floor {
                None => true,
                Some(VoteFloor::Nobody) => false,
                Some(VoteFloor::From(floor)) => (Term::new(message.log_term), RaftIndex::new(message.index)) >= floor,
            },
            MessageType::MsgTimeoutNow => self.may_campaign(),
            // Members do not send it: who leads is decided where the leader is.
            MessageType::MsgTransferLeader => false,
            _ => true,
        }
    }

    /// A follower whose log ends before what this leader has seen on its disk has lost its tail: forget what it had, or
    /// it would never be sent again. A late rejection does the same, which costs a probe.
    fn notice_shorter_log(&mut self, message: &Message) {
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::Leader || message.term != raft.term || message.request_snapshot != 0 {
            return;
        }
        let Some(progress) = raft.mut_prs().get_mut(message.from) else { return };
        if progress.state == ProgressState::Snapshot || message.reject_hint >= progress.matched {
            return;
        }
        progress.matched = 0;
        progress.become_probe();
        progress.next_idx = message.reject_hint + 1;
        raft.send_append(message.from);
    }

    /// A member cannot be reached for now.
    pub fn unreachable(&mut self, member: MemberId) {
        self.raw.report_unreachable(member.get());
    }

    /// How the sending of a snapshot ended.
    pub fn snapshot_sent(&mut self, to: MemberId, ok: bool) {
        self.raw.report_snapshot(to.get(), if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    /// Starts an election at once, if one may begin.
    pub fn campaign(&mut self) {
        if !self.may_campaign() {
            return;
        }
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
    pub fn propose_change(&mut self, waiter: Vec<u8>, change: MemberVote) -> Result<(), NotProposed> {
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
        let mut snapshot = None;
        while let Some(front) = self.held.front() {
            let (leads, counts_too_early) = (self.raw.raft.state == StateRole::Leader, mutation::is_on);
            let too_early = leads && counts_too_early(Mutation::AnswerBeforeSync)
                || !leads && counts_too_early(Mutation::SkipFollowerSync);
            if front.must_sync && front.number > self.synced && !too_early {
                break;
            }
            let mut released = self.held.pop_front().expect("front exists");
            last = Some(released.number);
            snapshot = released.snapshot.or(snapshot);
            self.outbox.append(&mut released.messages);
        }
        if let Some(number) = last {
            self.raw.on_persist_ready(number);
        }
        if let Some(install) = snapshot {
            self.raw.advance_apply_to(install.index.get());
            self.to_install = Some(install);
        }
    }

    /// The state of the last accepted snapshot is loaded: entries after it may be applied.
    ///
    /// # Panics
    /// When it is another snapshot.
    pub fn installed(&mut self, install: Install) {
        assert_eq!(self.installing.take(), Some(install), "the last snapshot accepted is the one loaded");
    }

    /// The last snapshot accepted, while its state is not loaded. An earlier one that is still being loaded is void.
    #[must_use]
    pub const fn installing(&self) -> Option<Install> {
        self.installing
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
        self.step_postponed();
        self.hand_on();
        if self.installing.is_none() && !self.deferred.is_empty() {
            let deferred = std::mem::take(&mut self.deferred);
            self.apply(deferred, effects, &mut apply)?;
        }
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            let number = ready.number();
            let mut messages = ready.take_messages();
            pumped.soft_state_changed |= ready.ss().is_some();
            for state in ready.take_read_states() {
                pumped.read_states.push((state.request_ctx, RaftIndex::new(state.index)));
            }
            if let Some(state) = ready.hs() {
                if std::mem::replace(&mut self.written_term, state.term) != state.term && self.is_leader() {
                    // Only a single voter is elected within one ready. To raft-rs a leader's term is on disk, as it is
                    // where votes were asked for; here its learners would keep entries of a term that a crash undoes.
                    self.silent_until = number;
                }
                self.pending_hard_state = Some(state.clone());
            }
            let snapshot = (!ready.snapshot().is_empty()).then(|| self.accept_snapshot(ready.snapshot()));
            let entries = ready.take_entries();
            self.raw.mut_store().append(&entries);
            let must_sync = ready.must_sync();
            let committed = ready.take_committed_entries();
            let mut waiting = ready.take_persisted_messages();
            if must_sync || self.held.iter().any(|held| held.must_sync) {
                self.outbox.extend(waiting.extract_if(.., promises_nothing));
            }
            let to = if self.silent_until > self.synced { &mut waiting } else { &mut self.outbox };
            to.append(&mut messages);
            self.raw.advance_append_async(ready);
            self.held.push_back(Held { number, must_sync, messages: waiting, snapshot });
            if must_sync {
                let hard_state = self.pending_hard_state.take();
                let replaces_log = snapshot.map(|of| SnapshotMarker { index: of.index, term: of.term });
                effects.appends.push(Append {
                    ready: ReadyNumber(number),
                    replaces_log,
                    entries,
                    hard_state,
                    must_sync,
                });
            }
            self.release();
            if self.installing.is_some() {
                self.deferred.extend(committed);
            } else {
                self.apply(committed, effects, &mut apply)?;
            }
        }
        if std::mem::take(&mut self.change_unwritten) {
            effects.appends.extend(self.take_pending_hard_state());
        }
        parcels::pack(&mut self.outbox, &mut effects.messages);
        effects.install = self.to_install.take_if(|install| self.installing == Some(*install)).or(effects.install);
        self.pin_election_timeout();
        Ok(pumped)
    }

    fn apply(
        &mut self,
        committed: Vec<Entry>,
        effects: &mut Effects,
        apply: &mut impl FnMut(&mut Self, Entry, &mut Effects) -> Result<(), String>,
    ) -> Result<(), String> {
        let Some(last) = committed.last().map(|entry| entry.index) else { return Ok(()) };
        for entry in committed {
            apply(self, entry, effects)?;
        }
        self.raw.advance_apply_to(last);
        Ok(())
    }

    /// Makes a snapshot the log. Entries that waited for an older one are inside it.
    fn accept_snapshot(&mut self, snapshot: &raft::eraftpb::Snapshot) -> Install {
        let meta = snapshot.get_metadata();
        self.raw.mut_store().restore(meta.index, meta.term, meta.get_conf_state().clone());
        self.deferred.clear();
        let install = Install { index: RaftIndex::new(meta.index), term: Term::new(meta.term) };
        self.installing = Some(install);
        install
    }

    fn step_postponed(&mut self) {
        while !self.postponed.is_empty() {
            if !self.is_leader() {
                self.postponed.clear();
            } else if self.change_is_pending() {
                return;
            } else if let Some(message) = self.postponed.pop_front() {
                let _ = self.raw.step(message);
            }
        }
    }

    /// Applies a membership change and returns the new voters and learners.
    ///
    /// # Errors
    /// raft-rs' message when the change contradicts the configuration.
    pub fn apply_conf_change(&mut self, entry: &ConfChangeEntry) -> Result<(), String> {
        let state = self.raw.apply_conf_change(entry.change()).map_err(|error| error.to_string())?;
        self.raw.mut_store().set_conf_state(state);
        self.change_unwritten = true;
        let raft = &mut self.raw.raft;
        if raft.state == StateRole::Leader && raft.prs().get(raft.id).is_none() {
            // raft-rs leaves a removed leader leading and panics at its next sync. Whoever is furthest goes on.
            let voters = raft.prs().conf().voters();
            let next =
                raft.prs().iter().filter(|(id, _)| voters.contains(**id)).max_by_key(|(id, at)| (at.matched, **id));
            if let Some(next) = next.map(|(&id, _)| id) {
                raft.send_timeout_now(next);
            }
            let term = raft.term;
            raft.become_follower(term, 0);
        }
        Ok(())
    }

    /// The hard state that no append has carried yet: written at a clean stop, so that a restart needs no replay
    /// beyond the log.
    pub fn take_pending_hard_state(&mut self) -> Option<Append> {
        let hard_state = self.pending_hard_state.take()?;
        let number = self.held.back().map_or(self.synced, |held| held.number);
        Some(Append {
            ready: ReadyNumber(number),
            replaces_log: None,
            entries: Vec::new(),
            hard_state: Some(hard_state),
            must_sync: false,
        })
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

    /// Up to which entry the log may be forgotten once a snapshot covers it up to `covered`; see
    /// [`RaftLog::catch_up_from`].
    #[must_use]
    pub fn catch_up_from(&self, covered: RaftIndex, entries: u64, bytes: u64) -> RaftIndex {
        RaftIndex::new(self.raw.store().catch_up_from(covered.get(), entries, bytes))
    }

    /// The last entry that every follower in touch has, or gets by the snapshot on its way to it; what comes after it, a
    /// follower will want from the log. Nothing when no follower counts: this member does not lead, or is alone.
    #[must_use]
    pub fn held_by_followers(&self) -> Option<RaftIndex> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            return None;
        }
        let others = raft.prs().iter().filter(|(id, _)| **id != raft.id);
        let held = others.filter_map(|(_, progress)| match progress.state {
            ProgressState::Snapshot => Some(progress.pending_snapshot.max(progress.matched)),
            _ => progress.recent_active.then_some(progress.matched),
        });
        held.min().map(RaftIndex::new)
    }

    /// What the log takes in memory, in bytes.
    #[must_use]
    pub fn log_memory(&self) -> u64 {
        self.raw.store().memory()
    }

    /// The voters as of the last applied change.
    pub fn voters(&self) -> impl Iterator<Item = MemberId> {
        self.raw.store().conf_state().voters.iter().copied().map(MemberId::new)
    }

    /// Forgets at most `limit` entries up to `index`; true when more remain to forget.
    pub fn compact(&mut self, index: RaftIndex, limit: u64) -> bool {
        use raft::Storage as _;
        let first = self.raw.store().first_index().expect("the log is in memory");
        let step = index.get().min((first - 1).saturating_add(limit));
        self.raw.mut_store().compact(step);
        step < index.get()
    }

    /// Whether a follower has needed a snapshot that there was not, since the last call.
    #[must_use]
    pub fn take_snapshot_missed(&self) -> bool {
        self.raw.store().take_snapshot_missed()
    }

    /// A learner that has caught up with this leader to within `lag` entries, if there is one.
    #[must_use]
    pub fn caught_up_learner(&self, lag: u64) -> Option<MemberId> {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader || raft.prs().conf().learners().is_empty() {
            return None;
        }
        let last = raft.raft_log.last_index();
        let is_ready = |id: &&u64| {
            raft.prs().get(**id).is_some_and(|progress| {
                // It has answered appends: with a short log "close" would say nothing.
                let answers = progress.recent_active && progress.state == ProgressState::Replicate;
                answers && progress.matched + lag >= last
            })
        };
        raft.prs().conf().learners().iter().filter(is_ready).min().copied().map(MemberId::new)
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
        let ticks = self.election_ticks;
        let era = self.ticks / (2 * ticks as u64);
        let mixed = splitmix(self.seed ^ splitmix(self.raw.raft.id) ^ splitmix(self.raw.raft.term) ^ era);
        // raft-rs takes nothing from two timeouts on; etcd's rule of five heartbeats per timeout leaves two values.
        let values = (ticks * ELECTION_SPREAD_PERCENT / 100).clamp(1, ticks - 1) as u64;
        self.raw.raft.set_randomized_election_timeout(ticks + 1 + (mixed % values) as usize);
    }
}

/// Whether losing this node's disk could not make the message untrue: it may leave before a sync. The answer to a
/// heartbeat says that this node hears its leader and has not heard of a later one: a vote or an entry of a later term is
/// answered when it is on disk, and only then counts for anybody. Were it to wait, followers with slow disks would look
/// dead to their leader, which would step down (check-quorum) when the cluster can do with an election least.
fn promises_nothing(message: &mut Message) -> bool {
    use MessageType::{MsgHeartbeatResponse, MsgPropose, MsgReadIndex};
    matches!(message.get_msg_type(), MsgPropose | MsgReadIndex | MsgHeartbeatResponse)
}

fn changes_members(message: &Message) -> bool {
    message.entries.iter().any(|entry| entry.get_entry_type() != EntryType::EntryNormal)
}

/// Steele, Lea and Flood's SplitMix64 finaliser: one input bit changes half of the output bits.
fn splitmix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
