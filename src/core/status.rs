//! How a member's raft looks from outside, for an operator who asks.
//!
//! Owns: the words. Touches: ids. Must hold: plain data; nothing here changes anything.

use ringd_storage::ids::{MemberId, RaftIndex, Term};

/// A member's raft at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftStatus {
    /// The member.
    pub id: MemberId,
    /// Its term.
    pub term: Term,
    /// Whom it voted for in that term.
    pub vote: MemberId,
    /// The last committed entry.
    pub committed: RaftIndex,
    /// The last applied entry.
    pub applied: RaftIndex,
    /// The leader, zero when unknown.
    pub leader: MemberId,
    /// Its role, in etcd's words: `StateLeader`.
    pub role: &'static str,
    /// Whom it hands its leadership to, zero for nobody.
    pub transferee: MemberId,
    /// What a leader knows of each member, by id; empty elsewhere.
    pub progress: Vec<Progress>,
}

/// How far a member is, as its leader knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The member.
    pub id: MemberId,
    /// The last entry known to be on its disk.
    pub matched: RaftIndex,
    /// The next entry to send.
    pub next: RaftIndex,
    /// How it is fed, in etcd's words: `StateReplicate`.
    pub state: &'static str,
}
