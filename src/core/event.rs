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
use super::store::{Event, Fired, StoreError};

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
    /// A message from another member.
    Peer(PeerMessage),
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
    /// Whether the WAL has room for client writes. Without it they are refused, reads go on.
    Room {
        /// There is room.
        available: bool,
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
    /// A member joined, changed or left.
    MembershipChanged,
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
/// 1. `messages` leave at once: a leader's appends travel while its own disk works (raft thesis, section 10.2.1).
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
        self.fatal = None;
    }
}
