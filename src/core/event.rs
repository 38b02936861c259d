//! What enters a node and what leaves it: the closed list of inputs and effects.
//!
//! Owns: the vocabulary between core and shell. Touches: storage ids and payload types, the store's event type.
//! Must hold: nothing here names a socket, a clock or an executor, and every effect says all that its performer needs.

use std::rc::Rc;

use ringd_storage::ids::{EtcdIndex, MemberId, RaftIndex, Term};
use ringd_storage::payload::{AuthWrite, KeyWrite};

use super::auth::{AuthDone, AuthRefusal};
use super::membership::{MemberChange, MemberRefusal};
use super::replica::{Append, PeerMessage, ReadyNumber};
use super::store::{Event, Fired, StoreError, WatcherId};

/// Names a waiting client. The core carries it and never looks inside; the shell finds the connection by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientToken {
    /// The shell's slot for the connection.
    pub slot: u32,
    /// Which tenant of the slot.
    pub generation: u32,
    /// Which request of the connection.
    pub seq: u32,
}

/// Everything that can happen to a node. Inputs only change state; [`super::node::Node::poll`] collects the effects.
#[derive(Debug)]
pub enum Input<'a> {
    /// One heartbeat interval has passed.
    Tick,
    /// A message from another member. A `MsgSnapshot` comes only when the file it names is verified, durable and
    /// renamed into this member's `snap/`.
    Peer(PeerMessage),
    /// Messages to this member cannot be delivered for now: the leader goes back to probing it.
    PeerUnreachable {
        /// Which.
        member: MemberId,
    },
    /// A connection to this member was made and its handshake told how it stands ([`super::node::Node::standing`]
    /// there). Only members that may have forgotten something ask for it; others ignore it.
    PeerStanding {
        /// Which.
        member: MemberId,
        /// What it said.
        standing: Standing,
    },
    /// The stream of the snapshot that a `MsgSnapshot` in [`Effects::messages`] named has ended.
    SnapshotSent {
        /// The follower.
        to: MemberId,
        /// It has the file, durable, and got the message.
        ok: bool,
    },
    /// This node is about to stop: hand leadership to whoever is furthest. [`Notice::NotLeading`] tells when it is
    /// done; it comes at once when there is nothing to hand over.
    TransferLeadership,
    /// A sync has been under way for so long and has not ended. Reported about once per heartbeat interval while it
    /// lasts; beyond a threshold a leader with other voters hands its leadership over.
    DiskStalled {
        /// Since when.
        for_ms: u64,
    },
    /// What [`Notice::NoteObsolete`] asked for is done, durably: this member may vote again.
    NoteCleared,
    /// A client's write. Answered once, with its own token.
    Propose {
        /// Who waits.
        token: ClientToken,
        /// What it asks for.
        write: KeyWrite<'a>,
    },
    /// A client's change of users, roles or their switch. Answered once, with its own token.
    Auth {
        /// Who waits.
        token: ClientToken,
        /// What it asks for.
        write: AuthWrite<'a>,
    },
    /// A client's change of membership. Answered once, with its own token.
    Members {
        /// Who waits.
        token: ClientToken,
        /// What it asks for.
        change: MemberChange,
    },
    /// A client wants a linearizable read; [`Effects::reads_ready`] tells when local state may answer it.
    LinearRead {
        /// Who waits.
        token: ClientToken,
    },
    /// Every append up to this ready is on disk.
    Persisted {
        /// The last ready that is durable.
        upto: ReadyNumber,
    },
    /// The snapshot that [`Effects::snapshot_done`] described is durable.
    SnapshotStored {
        /// The last entry it covers.
        index: RaftIndex,
    },
    /// The snapshot could not be written; the log keeps its entries and a later one is tried.
    SnapshotFailed,
    /// What the WAL has room for. Without room for client writes they are refused, reads go on.
    Room {
        /// Client writes may be proposed.
        for_writes: bool,
        /// More is left than what is kept for elections and membership: what the node proposes at leisure (expiry) need
        /// not wait. It says no also while the disk is not full and a segment is being prepared, when writes wait too.
        for_expiry: bool,
    },
    /// Start an election now instead of waiting for a timeout (a single voter at start).
    Campaign,
}

/// How a proposal ended.
pub enum Outcome {
    /// It was applied and this is its event.
    Event(Rc<Event>),
    /// It was applied, and the store refused it; every member refused it equally.
    Refused(StoreError),
    /// A change of the auth state was applied: what it achieved, or why every member refused it.
    Auth(Result<AuthDone, AuthRefusal>),
    /// A change of membership was applied, or refused.
    Members(Result<(), MemberRefusal>),
    /// It was not applied as far as this node knows.
    Failed(ProposalFailure),
}

/// Why a proposal has no result. The reader's next action differs per variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProposalFailure {
    /// No quorum answered in time. The write may still happen.
    Timeout,
    /// There is no leader, or it refuses more: nothing was proposed; try again.
    NotProposed,
    /// The WAL's disk is full: nothing was proposed; free space.
    NoSpace,
}

/// One answer for one client.
pub struct Answer {
    /// Who waits.
    pub token: ClientToken,
    /// What to tell.
    pub outcome: Outcome,
}

/// What one member tells another in the handshake of a connection, so that a member that may have forgotten what it
/// once acknowledged (an empty disk, a cut tail) neither votes nor campaigns before it can do no harm.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Standing {
    /// The last entry of its log.
    pub last_index: RaftIndex,
    /// That entry's term.
    pub last_term: Term,
    /// Its log holds more than the entries a cluster begins with.
    pub past_bootstrap: bool,
    /// The voters as of the last change it has applied; none before it knows any.
    pub voters: Vec<MemberId>,
    /// It knows a name of the member it talks to: that one has run before. A member with a new, empty log that hears
    /// this has lost its disk and must stop, as in etcd ("member ... has already been bootstrapped").
    pub knows_you: bool,
    /// The member it talks to was removed for good: that one must stop, too.
    pub removed_you: bool,
}

/// A snapshot that raft has accepted and the WAL durably names: its file's items are the new state.
///
/// The order on disk: file durable under its name, then one frame with the marker that replaces the log and the hard
/// state, then its sync, then this. A crash before the sync recovers the old state, one after it the new.
///
/// The shell reads the file in slices between turns: [`super::node::Node::install_items`] for each run of items,
/// [`super::node::Node::install_done`] after the last one. Until then reads are answered from the old state and entries
/// are logged and acknowledged, but not applied. A newer install (another `Some`) replaces one under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Install {
    /// The last entry the snapshot covers.
    pub index: RaftIndex,
    /// Its term.
    pub term: Term,
}

/// A watcher whose events are lost: an installed snapshot jumped past what history still holds. Its connection ends
/// the answer as for a watcher that is too slow; a client that asks again with its index gets etcd's 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What the watcher gave when it was parked.
    pub token: u64,
    /// The watcher; it is no longer parked.
    pub watcher: WatcherId,
}

/// A moment worth a log line or a metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// This node leads from this term on.
    BecameLeader {
        /// The term.
        term: Term,
    },
    /// Another node leads, or none is known (id zero).
    LeaderChanged {
        /// The leader.
        leader: MemberId,
        /// The term.
        term: Term,
    },
    /// This member's name and client URLs are known to the cluster.
    Published,
    /// The cluster agreed on an API level.
    ClusterVersion(String),
    /// A member joined, changed, was promoted or left: look at [`super::node::Node::members`] and
    /// [`super::node::Node::is_learner`].
    MembershipChanged,
    /// This member was removed for good, by an applied change or as another member says: tell the operator, serve
    /// clients no longer, and go on serving raft until [`Notice::MayLeave`].
    Removed,
    /// This member was removed, and the others can do without it ([`super::farewell`]): end.
    MayLeave,
    /// This node does not lead (any more): a stop that asked for [`Input::TransferLeadership`] may go on.
    NotLeading,
    /// This leader hands its leadership over because its disk stalls.
    HandingOver {
        /// To whom.
        to: MemberId,
        /// How long the sync has lasted.
        stalled_ms: u64,
    },
    /// What the on-disk note (`tail-cut`) warned of is past: remove it durably, then report [`Input::NoteCleared`].
    NoteObsolete,
    /// A snapshot from the leader is the state now: older snapshots and segments may go.
    Installed {
        /// The last entry it covers.
        index: RaftIndex,
    },
    /// A snapshot begins at this entry.
    SnapshotBegins {
        /// The last entry it will cover.
        index: RaftIndex,
    },
}

/// What a snapshot's footer needs to know beside the items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotDone {
    /// The last entry covered.
    pub index: RaftIndex,
    /// Its term.
    pub term: Term,
    /// The voters as of that entry.
    pub voters: Vec<MemberId>,
    /// The learners as of that entry.
    pub learners: Vec<MemberId>,
    /// The store's index as of that entry.
    pub etcd_index: EtcdIndex,
}

/// What one [`super::node::Node::poll`] wants done, in the order of the fields.
///
/// 1. `messages` leave at once: a leader's appends travel while its own disk works (raft thesis, section 10.2.1). A
///    `MsgSnapshot` has no data: the shell streams the file of its (term, index) from `snap/` and reports
///    [`Input::SnapshotSent`].
/// 2. `appends` reach the WAL in order; those that say so need a sync before `Persisted` may be reported.
/// 3. `answers`, `fired` and `reads_ready` go to clients: what they tell is already durable on a quorum.
#[derive(Default)]
pub struct Effects {
    /// For other members, at once.
    pub messages: Vec<PeerMessage>,
    /// For the WAL, in order.
    pub appends: Vec<Append>,
    /// For waiting writers.
    pub answers: Vec<Answer>,
    /// For watchers.
    pub fired: Vec<Fired>,
    /// Linearizable reads that local state may answer now.
    pub reads_ready: Vec<ClientToken>,
    /// Linearizable reads that found no quorum in time.
    pub reads_failed: Vec<ClientToken>,
    /// For the log and the metrics.
    pub notices: Vec<Notice>,
    /// A capture began: call [`super::node::Node::capture_slice`] until it yields this struct's meta.
    pub snapshot_begun: bool,
    /// Load this snapshot's items; see [`Install`].
    pub install: Option<Install>,
    /// Watchers whose events are lost.
    pub ended: Vec<Ended>,
    /// The node cannot go on; stop the process with this message.
    pub fatal: Option<String>,
}

impl Effects {
    /// Empties every list, keeping the allocations for the next turn.
    pub fn clear(&mut self) {
        self.messages.clear();
        self.appends.clear();
        self.answers.clear();
        self.fired.clear();
        self.reads_ready.clear();
        self.reads_failed.clear();
        self.notices.clear();
        self.snapshot_begun = false;
        self.install = None;
        self.ended.clear();
        self.fatal = None;
    }
}
