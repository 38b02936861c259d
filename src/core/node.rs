//! One member: inputs go in, effects come out.
//!
//! Owns: the replica, the state machine, and the policies around them: batching, expiry, linearizable reads,
//! publication, snapshots, timeouts. Touches: nothing outside the core; `now` is an argument.
//!
//! Invariants:
//! 1. The same inputs at the same instants give the same effects: no clock, no randomness, no hash order.
//! 2. An answer leaves only for an entry that was applied, and an entry is applied only when a quorum, this member
//!    included, has it on disk.
//! 3. All proposals of a turn become one raft message, hence one append.

use ringd_storage::ids::{ClusterId, MemberId, RaftIndex, Term, UnixNanos};
use ringd_storage::mutation::{self, Mutation};
use ringd_storage::payload::{Command, ItemClass, MemberRecord};
use ringd_storage::snapshot::push_item;

use super::auth::Auth;
use super::event::{
    Answer, ClientToken, Effects, Ended, Input, Install, Notice, Outcome, ProposalFailure, SnapshotDone, Standing,
};
use super::farewell::Farewell;
use super::gate::{Gate, Verdict};
use super::handover::Handover;
use super::install::{State, StateLoader};
use super::machine::{Machine, MoreDue};
use super::membership::{BOOTSTRAP_TERM, Member, MemberChange, Membership};
use super::proposals::Proposals;
use super::raft_log::RaftLog;
use super::reads::Reads;
use super::reconfig::Reconfig;
use super::replica::{Append, Replica, ReplicaStart, VoteFloor};
use super::status::RaftStatus;
use super::store::{Fired, Store, StoreOptions};

mod installing;
mod proposing;

/// Nodes that one `Expire` entry may remove: bounds one apply to well under a millisecond.
const EXPIRE_BATCH: u32 = 1000;
/// How often the leader looks for due deadlines, as etcd does.
const EXPIRY_PERIOD_NANOS: u64 = 500_000_000;
/// Proposals that may wait for a leader to appear; beyond it they are refused at once.
const QUEUED_MAX: usize = 16_384;
/// And so many bytes of log: half a segment, for all of them are appended in one turn, and room beyond a segment is none.
const QUEUED_BYTES_MAX: u64 = 32 << 20;
/// Entries kept in memory behind a snapshot for slow followers are no more than this, however few they are: what a
/// follower receives in about a second, and a part of what a snapshot waits for.
const CATCH_UP_BYTES_MAX: u64 = 64 << 20;
/// Raft entries dropped from memory per turn after a snapshot: bounds the time of one turn. Under load a turn appends more
/// than that, and drops twice as many as it appended: otherwise the log would grow for as long as the load lasts.
const COMPACT_STEP: u64 = 1024;

/// Stands for this node itself among the readers: its question at a start whether it knows everything.
const PRESENT: ClientToken = ClientToken { slot: u32::MAX, generation: u32::MAX, seq: u32::MAX };

/// What a node is and how it behaves.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// This member.
    pub id: MemberId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub name: String,
    /// What it tells clients to connect to.
    pub client_urls: Vec<String>,
    /// Heartbeat intervals in an election timeout.
    pub election_ticks: usize,
    /// Heartbeat intervals after which a write or a linearizable read is given up (etcd: 5 s + 2 election timeouts).
    pub request_timeout_ticks: u64,
    /// Applied entries between two snapshots; zero is taken as one.
    pub snapshot_entries: u64,
    /// Bytes of applied entries between two snapshots, however few they are: bounds the log on disk and in memory.
    pub snapshot_bytes: u64,
    /// Entries kept in memory behind a snapshot for slow followers (etcd: 5000).
    pub catch_up_entries: u64,
    /// While the log takes at most so many bytes of memory, entries that a follower in touch lacks are kept as well: one
    /// that has just got a snapshot would otherwise need another as soon as a new one was made here meanwhile.
    pub lagging_bytes: u64,
    /// While a snapshot that would let it go does not come about, the log takes no more entries than these, in bytes.
    pub log_bytes: u64,
    /// Refuse membership changes that leave too few started members (`--strict-reconfig-check`).
    pub strict_reconfig_check: bool,
    /// The API level this build speaks.
    pub cluster_version: &'static str,
    /// Seeds what raft would draw at random.
    pub seed: u64,
}

/// What recovery found, ready to run.
pub struct NodeStart {
    /// The log since the snapshot.
    pub log: RaftLog,
    /// The snapshot's last entry, or zero.
    pub applied: RaftIndex,
    /// Its term.
    pub applied_term: Term,
    /// The state as of the snapshot.
    pub state: State,
    /// How a store that a leader's snapshot brings is made.
    pub store_options: StoreOptions,
    /// The clock at this start.
    pub now: UnixNanos,
    /// This member may have forgotten what it once acknowledged: its tail was cut (`Recovered::must_catch_up`), or its
    /// log was only now begun in an empty directory while the cluster has other voters. It neither votes nor campaigns
    /// until [`Notice::NoteObsolete`]. A cluster of one voter has nobody to ask and says false.
    pub may_have_forgotten: bool,
}

/// A bookkeeping proposal of this node that has not been seen applied. It may be lost with a leader or to a timeout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    term: Term,
    tick: u64,
}

#[derive(Debug)]
struct Capture {
    done: SnapshotDone,
    /// Items of other rooms than the store, written with the first slice.
    head: Vec<u8>,
    /// The captured store was replaced by a leader's snapshot meanwhile: it is `Node::retired`.
    of_retired: bool,
}

/// A leader's snapshot on its way to become the state.
struct Loading {
    install: Install,
    loader: StateLoader,
}

/// What a swap of stores owes, until the next poll.
#[derive(Default)]
struct Owed {
    fired: Vec<Fired>,
    ended: Vec<Ended>,
    notices: Vec<Notice>,
}

/// A member of the cluster.
pub struct Node {
    config: NodeConfig,
    replica: Replica,
    machine: Machine,
    reads: Reads,
    reconfig: Reconfig,
    tick: u64,
    room: bool,
    room_for_expiry: bool,
    early_answers: Vec<Answer>,
    was_leader: bool,
    known_leader: MemberId,
    published: bool,
    /// The question [`PRESENT`] is under way, and it was answered.
    present: (bool, bool),
    publish_pending: Option<Pending>,
    version_pending: Option<Pending>,
    expire_pending: Option<Pending>,
    last_expiry_check: UnixNanos,
    snapshot_index: RaftIndex,
    /// The tick of the last failure, until the next snapshot begins.
    snapshot_failed_at: Option<u64>,
    /// `Machine::applied_bytes` when the last snapshot began or was installed.
    snapshot_bytes_from: u64,
    capture: Option<Capture>,
    snapshot_in_flight: Option<SnapshotDone>,
    compact_to: Option<RaftIndex>,
    /// The last entry at the end of the turn before.
    log_end: RaftIndex,
    store_options: StoreOptions,
    loading: Option<Loading>,
    /// The store that a snapshot replaced, on its way out.
    retired: Option<Store>,
    owed: Owed,
    /// Until it is sure that nothing acknowledged was forgotten.
    gate: Option<Gate>,
    note_is_obsolete: bool,
    rejoin_pending: Option<Pending>,
    handover: Handover,
    farewell: Farewell,
}

impl Node {
    /// Builds a node from what recovery found.
    ///
    /// # Errors
    /// raft-rs' message when the recovered state contradicts itself.
    pub fn new(config: NodeConfig, start: NodeStart) -> Result<Self, String> {
        let mut replica = Replica::new(ReplicaStart {
            id: config.id,
            election_ticks: config.election_ticks,
            seed: config.seed,
            applied: start.applied,
            log: start.log,
        })?;
        let proposals = Proposals::new(config.id, start.now);
        let forgot = start.may_have_forgotten && !mutation::is_on(Mutation::VoteAfterForgetting);
        let gate = forgot.then(Gate::default);
        if gate.is_some() {
            replica.set_vote_floor(Some(VoteFloor::Nobody));
        }
        let log_end = replica.last_index();
        Ok(Self {
            replica,
            machine: Machine {
                store: start.state.store,
                members: start.state.members,
                auth: start.state.auth,
                changed: None,
                applied: start.applied,
                applied_term: start.applied_term,
                applied_bytes: 0,
                proposals,
                expired: None,
                own_was_applied: false,
            },
            reads: Reads::new(config.id, start.now),
            reconfig: Reconfig::default(),
            tick: 0,
            room: true,
            room_for_expiry: true,
            early_answers: Vec::new(),
            was_leader: false,
            known_leader: MemberId::default(),
            published: false,
            present: (false, false),
            publish_pending: None,
            version_pending: None,
            expire_pending: None,
            last_expiry_check: UnixNanos::ZERO,
            snapshot_index: start.applied,
            snapshot_failed_at: None,
            snapshot_bytes_from: 0,
            capture: None,
            snapshot_in_flight: None,
            compact_to: None,
            log_end,
            store_options: start.store_options,
            loading: None,
            retired: None,
            owed: Owed::default(),
            gate,
            note_is_obsolete: false,
            rejoin_pending: None,
            handover: Handover::default(),
            farewell: Farewell::default(),
            config,
        })
    }

    /// Takes one input. Nothing leaves before [`Node::poll`].
    pub fn handle(&mut self, input: Input<'_>, now: UnixNanos) {
        match input {
            Input::Tick => {
                self.tick += 1;
                self.replica.tick();
                self.give_up_on_the_late();
                self.propose_expiry(now);
                self.reconfig.promote(&mut self.replica);
            }
            Input::Peer(message) => self.replica.step(message),
            Input::Propose { token, write } => self.propose(token, Command::Keys(write), now),
            Input::Auth { token, write } => self.propose(token, Command::Auth(write), now),
            Input::Members { token, change } => self.change_members(token, change, now),
            Input::LinearRead { token } => self.reads.push(token, self.tick),
            Input::Persisted { upto } => self.replica.persisted(upto),
            Input::SnapshotStored { index } => {
                let done = self.snapshot_in_flight.take().expect("a stored snapshot was in flight");
                assert_eq!(done.index, index, "the stored snapshot is the one in flight");
                if index < self.snapshot_index {
                    // A leader's snapshot came in between.
                    return;
                }
                self.snapshot_index = index;
                self.replica.set_snapshot(&done);
                self.compact_to = Some(self.forgettable(index));
            }
            Input::SnapshotFailed => {
                self.snapshot_in_flight = None;
                // Try again only after as many entries as usual: a full disk does not get better by hammering. A member
                // that needs one is not kept waiting for entries that may need its vote.
                self.snapshot_index = self.machine.applied;
                self.snapshot_failed_at = Some(self.tick);
            }
            Input::Room { for_writes, for_expiry } => (self.room, self.room_for_expiry) = (for_writes, for_expiry),
            Input::Campaign => self.replica.campaign(),
            Input::PeerUnreachable { member } => self.replica.unreachable(member),
            Input::SnapshotSent { to, ok } => self.replica.snapshot_sent(to, ok),
            Input::PeerStanding { member, standing } => {
                if standing.removed_you {
                    self.farewell.told_by(member);
                }
                if let Some(gate) = &mut self.gate {
                    gate.hear(member, standing);
                }
            }
            Input::TransferLeadership => self.handover.stop(self.tick),
            Input::DiskStalled { for_ms } => self.handover.disk_stalled(for_ms),
            Input::NoteCleared => {
                self.gate = None;
                self.replica.set_vote_floor(None);
            }
        }
    }

    /// Carries out everything that is due and says what the shell must do.
    pub fn poll(&mut self, now: UnixNanos, effects: &mut Effects) {
        effects.answers.append(&mut self.early_answers);
        effects.fired.append(&mut self.owed.fired);
        effects.ended.append(&mut self.owed.ended);
        effects.notices.append(&mut self.owed.notices);
        self.announce(now);
        self.ask_for_the_present();
        loop {
            self.flush_proposals(effects);
            self.advance_reconfig(effects);
            if self.has_leader()
                && let Some(context) = self.reads.begin_round(self.tick)
            {
                if mutation::is_on(Mutation::ReadWithoutRound) {
                    self.reads.confirmed(&context, self.machine.applied);
                } else {
                    self.replica.read_index(context);
                }
            }
            let pumped =
                self.replica.pump(effects, |replica, entry, effects| self.machine.apply(replica, &entry, effects));
            match pumped {
                Ok(pumped) => {
                    for (context, index) in pumped.read_states {
                        self.reads.confirmed(&context, index);
                    }
                }
                Err(message) => {
                    effects.fatal = Some(message);
                    return;
                }
            }
            match self.machine.expired.take() {
                Some(MoreDue(true)) if self.may_expire() => self.queue_expiry(now),
                Some(_) => self.expire_pending = None,
                None => {}
            }
            if let Some(id) = self.machine.changed.take() {
                self.reconfig.applied(id);
            }
            let waits = self.machine.proposals.has_queued();
            let more = if waits { self.may_propose() } else { self.reconfig.is_ready(&self.replica) };
            if !more {
                break;
            }
        }
        // A newer snapshot makes the one being loaded void, also before the WAL names it.
        self.loading.take_if(|loading| self.replica.installing() != Some(loading.install));
        if let Some(install) = effects.install {
            self.loading = Some(Loading { install, loader: StateLoader::new(&self.store_options) });
        }
        self.reads.applied(self.machine.applied, &mut effects.reads_ready);
        self.update_gate(effects);
        self.handover.advance(&mut self.replica, self.tick, self.config.election_ticks as u64, &mut effects.notices);
        self.consider_farewell(effects);
        self.notice_changes(effects);
        self.consider_snapshot(effects);
        let end = self.replica.last_index();
        let appended = end.get().saturating_sub(std::mem::replace(&mut self.log_end, end).get());
        if let Some(target) = self.compact_to
            && !self.replica.compact(target, COMPACT_STEP.max(2 * appended))
        {
            self.compact_to = None;
        }
    }

    /// Up to which entry the log may be forgotten now that a snapshot covers it up to `covered`.
    fn forgettable(&self, covered: RaftIndex) -> RaftIndex {
        let usual = self.replica.catch_up_from(covered, self.config.catch_up_entries, CATCH_UP_BYTES_MAX);
        let within = self.replica.log_memory() <= self.config.lagging_bytes;
        self.replica.held_by_followers().filter(|_| within).map_or(usual, |held| held.min(usual))
    }

    /// A new address is no matter of raft's, so it goes with the other commands; who votes goes one change at a time.
    fn change_members(&mut self, token: ClientToken, change: MemberChange, now: UnixNanos) {
        if let MemberChange::Update { id, peer_urls } = &change {
            if let Err(refusal) = self.machine.members.validate(&change) {
                self.early_answers.push(Answer { token, outcome: Outcome::Members(Err(refusal)) });
                return;
            }
            let peer_urls = peer_urls.iter().map(String::as_str).collect();
            let record = MemberRecord { id: *id, name: "", peer_urls, client_urls: Vec::new() };
            self.propose(token, Command::UpdateMember(record), now);
        } else if !self.room {
            self.answer_early(token, ProposalFailure::NoSpace);
        } else if !self.reconfig.push(token, change, self.tick) {
            self.answer_early(token, ProposalFailure::NotProposed);
        }
    }

    fn advance_reconfig(&mut self, effects: &mut Effects) {
        if self.machine.proposals.has_queued() {
            return;
        }
        let Machine { proposals, members, .. } = &mut self.machine;
        let strict = self.config.strict_reconfig_check;
        self.reconfig.advance(&mut self.replica, proposals, members, strict, self.tick, &mut effects.answers);
    }

    fn answer_early(&mut self, token: ClientToken, failure: ProposalFailure) {
        self.early_answers.push(Answer { token, outcome: Outcome::Failed(failure) });
    }

    fn give_up_on_the_late(&mut self) {
        let Some(oldest) = self.tick.checked_sub(self.config.request_timeout_ticks) else { return };
        let mut late = Vec::new();
        self.machine.proposals.expire(oldest, &mut late);
        self.reconfig.expire(oldest, &mut self.early_answers);
        for token in late {
            self.answer_early(token, ProposalFailure::Timeout);
        }
    }

    fn propose_expiry(&mut self, now: UnixNanos) {
        if now.nanos_since(self.last_expiry_check) < EXPIRY_PERIOD_NANOS && now >= self.last_expiry_check {
            return;
        }
        self.last_expiry_check = now;
        let due = self.machine.store.next_deadline().is_some_and(|deadline| deadline <= now);
        if due && self.may_expire() && !self.is_pending(self.expire_pending) {
            self.queue_expiry(now);
        }
    }

    /// Expiry waits for room as client writes do: it must not use up what is kept for elections and membership.
    fn may_expire(&self) -> bool {
        self.room_for_expiry && self.replica.is_leader()
    }

    fn queue_expiry(&mut self, now: UnixNanos) {
        self.expire_pending = Some(self.pending());
        self.machine.proposals.queue(None, Command::Expire { limit: EXPIRE_BATCH }, now, self.tick);
    }

    fn pending(&self) -> Pending {
        Pending { term: self.replica.term(), tick: self.tick }
    }

    fn is_pending(&self, proposed: Option<Pending>) -> bool {
        proposed.is_some_and(|at| {
            at.term == self.replica.term() && self.tick.saturating_sub(at.tick) <= self.config.request_timeout_ticks
        })
    }

    /// Makes this member's name and client URLs, and as leader the API level, known to the cluster.
    fn announce(&mut self, now: UnixNanos) {
        let leader_known = self.replica.leader() != MemberId::default();
        let Some(own) = self.machine.members.get(self.config.id).filter(|_| leader_known) else { return };
        if !self.published && !self.is_published(own) && !self.is_pending(self.publish_pending) {
            let announced =
                Member { name: self.config.name.clone(), client_urls: self.config.client_urls.clone(), ..own.clone() };
            self.publish_pending = Some(self.pending());
            self.machine.proposals.queue(None, Command::Publish(announced.record()), now, self.tick);
        }
        if self.gate.is_some() && !self.note_is_obsolete && !self.is_pending(self.rejoin_pending) {
            // Changes nothing; that it was applied proves that everything acknowledged earlier is here again.
            self.rejoin_pending = Some(self.pending());
            self.machine.proposals.queue(None, Command::Expire { limit: 0 }, now, self.tick);
        }
        let version = self.config.cluster_version;
        if self.replica.is_leader()
            && self.machine.store.cluster_version() != version
            && !self.is_pending(self.version_pending)
        {
            self.version_pending = Some(self.pending());
            self.machine.proposals.queue(None, Command::ClusterVersion(version), now, self.tick);
        }
    }

    fn is_published(&self, own: &Member) -> bool {
        own.name == self.config.name && own.client_urls == self.config.client_urls
    }

    /// A follower that has applied an entry of this term asks the leader how far it is: it may have shown its clients
    /// more before it was restarted within the term.
    fn ask_for_the_present(&mut self) {
        let (asked, answered) = self.present;
        if !(self.published || asked || answered)
            && self.has_leader()
            && !self.replica.is_leader()
            && self.machine.applied_term == self.replica.term()
        {
            self.present = (true, false);
            self.reads.push(PRESENT, self.tick);
        }
    }

    /// Whether everything that was ever acknowledged before this start is applied: an entry that this node proposed
    /// since then was, or, where it leads, any entry of its term (raft paper, section 8), or the leader was asked.
    fn knows_the_present(&mut self, effects: &mut Effects) -> bool {
        if self.present.0
            && let Some(place) = effects.reads_ready.iter().position(|token| *token == PRESENT)
        {
            effects.reads_ready.remove(place);
            self.present = (false, true);
        }
        let leads = self.replica.is_leader() && self.machine.applied_term == self.replica.term();
        leads || self.machine.own_was_applied || self.present.1
    }

    fn notice_changes(&mut self, effects: &mut Effects) {
        let knows = self.knows_the_present(effects);
        if !self.published
            && (knows || mutation::is_on(Mutation::ServeEarly))
            && self.replica.leader() != MemberId::default()
            && self.machine.members.get(self.config.id).is_some_and(|own| self.is_published(own))
        {
            self.published = true;
            effects.notices.push(Notice::Published);
        }
        let (leads, leader, term) = (self.replica.is_leader(), self.replica.leader(), self.replica.term());
        if leads != self.was_leader {
            self.was_leader = leads;
            if leads {
                effects.notices.push(Notice::BecameLeader { term });
            }
        }
        if leader != self.known_leader {
            self.known_leader = leader;
            effects.notices.push(Notice::LeaderChanged { leader, term });
        }
        if let Some(oldest) = self.tick.checked_sub(self.config.request_timeout_ticks) {
            self.reads.expire(oldest, &mut effects.reads_failed);
            if let Some(place) = effects.reads_failed.iter().position(|token| *token == PRESENT) {
                effects.reads_failed.remove(place);
                self.present = (false, false);
            }
        }
    }

    fn update_gate(&mut self, effects: &mut Effects) {
        let Some(gate) = self.gate.as_mut().filter(|_| !self.note_is_obsolete) else { return };
        if self.machine.own_was_applied {
            gate.prove();
        }
        let position = self.replica.position();
        let voters = self.replica.configuration().0;
        match gate.verdict(self.config.id, position, position.0 <= BOOTSTRAP_TERM, &voters) {
            Verdict::Open => {
                self.note_is_obsolete = true;
                effects.notices.push(Notice::NoteObsolete);
            }
            Verdict::Closed(floor) => self.replica.set_vote_floor(Some(floor)),
        }
    }

    fn consider_farewell(&mut self, effects: &mut Effects) {
        let own = self.config.id;
        let is_removed = self.machine.members.is_removed(own);
        let others = self.replica.voters().filter(|voter| *voter != own);
        let now = (self.tick, self.config.election_ticks as u64);
        self.farewell.advance(is_removed, now, others, &mut effects.notices);
    }

    fn consider_snapshot(&mut self, effects: &mut Effects) {
        let new_entries = self.machine.applied.steps_since(self.snapshot_index.min(self.machine.applied));
        let rested = |failed: u64| self.tick.saturating_sub(failed) >= self.config.request_timeout_ticks;
        let may_succeed = new_entries > 0 || self.snapshot_failed_at.is_some_and(rested);
        let missed = self.replica.take_snapshot_missed() && may_succeed;
        let new_bytes = self.machine.applied_bytes - self.snapshot_bytes_from;
        let many = new_entries >= self.config.snapshot_entries.max(1) || new_bytes >= self.config.snapshot_bytes;
        let again = self.log_is_full() && self.snapshot_failed_at.is_some_and(rested);
        let due = missed || many || again;
        if due && self.replica.installing().is_none() && self.capture.is_none() && self.snapshot_in_flight.is_none() {
            self.force_snapshot(effects);
        }
    }

    /// Begins a capture now.
    ///
    /// # Panics
    /// When one is under way.
    pub fn force_snapshot(&mut self, effects: &mut Effects) {
        assert!(self.capture.is_none() && self.snapshot_in_flight.is_none(), "one snapshot at a time");
        self.snapshot_failed_at = None;
        let (voters, learners) = self.replica.configuration();
        let mut head = Vec::new();
        for member in self.machine.members.iter() {
            let id = member.id.get().to_be_bytes();
            push_item(&mut head, &[&[ItemClass::Member as u8], &id], |out| {
                ringd_storage::codec::encode_into(&member.record(), out);
            });
        }
        for id in self.machine.members.removed() {
            push_item(&mut head, &[&[ItemClass::RemovedMember as u8], &id.get().to_be_bytes()], |_| {});
        }
        self.machine.auth.write_items(&mut head);
        self.machine.store.capture_begin();
        self.snapshot_bytes_from = self.machine.applied_bytes;
        let index = self.machine.applied;
        self.capture = Some(Capture {
            done: SnapshotDone {
                index,
                term: self.machine.applied_term,
                voters,
                learners,
                etcd_index: self.machine.store.index(),
            },
            head,
            of_retired: false,
        });
        effects.snapshot_begun = true;
        effects.notices.push(Notice::SnapshotBegins { index });
    }

    /// Appends about `budget_bytes` of the running capture to `out`. Returns the snapshot's description with the last
    /// slice; call it between turns until then.
    pub fn capture_slice(&mut self, out: &mut Vec<u8>, budget_bytes: usize) -> Option<SnapshotDone> {
        let capture = self.capture.as_mut()?;
        out.append(&mut capture.head);
        let store = match &mut self.retired {
            Some(retired) if capture.of_retired => retired,
            _ => &mut self.machine.store,
        };
        if store.capture_slice(out, budget_bytes) {
            return None;
        }
        let done = self.capture.take()?.done;
        self.snapshot_in_flight = Some(done.clone());
        Some(done)
    }

    /// Whether a capture is under way.
    #[must_use]
    pub fn capturing(&self) -> bool {
        self.capture.is_some()
    }

    /// What to tell `peer` in a handshake.
    #[must_use]
    pub fn standing(&self, peer: MemberId) -> Standing {
        let (last_term, last_index) = self.replica.position();
        Standing {
            last_index,
            last_term,
            past_bootstrap: last_term > BOOTSTRAP_TERM,
            voters: self.replica.configuration().0,
            knows_you: self.machine.members.get(peer).is_some_and(|member| !member.name.is_empty()),
            removed_you: self.machine.members.is_removed(peer),
        }
    }

    /// What a clean stop still writes, unsynced entries aside.
    pub fn take_pending_hard_state(&mut self) -> Option<Append> {
        self.replica.take_pending_hard_state()
    }

    /// The applied store: plain reads are answered from it.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.machine.store
    }

    /// The applied store, for watchers, which are no replicated state.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.machine.store
    }

    /// The members as of the last applied entry.
    #[must_use]
    pub fn members(&self) -> &Membership {
        &self.machine.members
    }

    /// Users and roles as of the last applied entry.
    #[inline]
    #[must_use]
    pub fn auth(&self) -> &Auth {
        &self.machine.auth
    }

    /// The API level the cluster agreed on; empty before it did.
    #[must_use]
    pub fn cluster_version(&self) -> &str {
        self.machine.store.cluster_version()
    }

    /// The last applied entry.
    #[must_use]
    pub fn applied(&self) -> RaftIndex {
        self.machine.applied
    }

    /// The last entry known to be committed.
    #[must_use]
    pub fn committed(&self) -> RaftIndex {
        self.replica.committed()
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.replica.term()
    }

    /// The leader as far as this node knows; id zero when unknown.
    #[must_use]
    pub fn leader(&self) -> MemberId {
        self.replica.leader()
    }

    /// Whether this node leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.replica.is_leader()
    }

    /// How this node's raft looks from outside.
    #[must_use]
    pub fn raft_status(&self) -> RaftStatus {
        self.replica.status(self.machine.applied)
    }

    /// Whether a leader is known.
    #[must_use]
    pub fn has_leader(&self) -> bool {
        self.replica.leader() != MemberId::default()
    }

    /// Whether this member neither votes nor campaigns freely, because it may have forgotten something.
    #[must_use]
    pub fn may_have_forgotten(&self) -> bool {
        self.gate.is_some()
    }

    /// Voters and learners as of the last applied change.
    #[must_use]
    pub fn configuration(&self) -> (Vec<MemberId>, Vec<MemberId>) {
        self.replica.configuration()
    }

    /// Whether a member has a vote.
    #[must_use]
    pub fn is_voter(&self, member: MemberId) -> bool {
        self.replica.configuration().0.contains(&member)
    }

    /// Whether this node has no vote.
    #[must_use]
    pub fn is_learner(&self) -> bool {
        self.replica.configuration().1.contains(&self.config.id)
    }

    /// What this node was built with.
    #[must_use]
    pub fn config(&self) -> &NodeConfig {
        &self.config
    }

    /// Clients that wait for a write.
    #[must_use]
    pub fn writes_outstanding(&self) -> usize {
        self.machine.proposals.outstanding()
    }

    /// Bytes of the writes they wait for ([`Proposals::bytes`]): what the shell admits more by.
    #[must_use]
    pub fn write_bytes_outstanding(&self) -> u64 {
        self.machine.proposals.bytes()
    }

    /// Bytes of log that the proposals need that no leader was there for yet, own and forwarded: they are appended in one
    /// turn, whenever one appears ([`Proposals::queued_bytes`], [`Replica::handed_over_bytes`]).
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.machine.proposals.queued_bytes() + self.replica.handed_over_bytes()
    }

    /// What the log takes in memory, in bytes.
    #[must_use]
    pub fn log_memory(&self) -> u64 {
        self.replica.log_memory()
    }

    /// Whether the log takes more memory than it may while it waits for a snapshot that fails, or is not finished: client
    /// writes and a leader's entries are to be kept away until it is.
    #[must_use]
    pub fn log_is_full(&self) -> bool {
        let waits = self.capture.is_some() || self.snapshot_in_flight.is_some() || self.snapshot_failed_at.is_some();
        waits && self.log_memory() > self.config.log_bytes
    }

    /// Whether this node is the only voter, so that it may lead without asking anyone.
    #[must_use]
    pub fn is_only_voter(&self) -> bool {
        self.replica.configuration().0 == [self.config.id]
    }
}
