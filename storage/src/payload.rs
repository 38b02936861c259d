//! What the bytes inside records mean: replicated commands, and the items of a snapshot.
//!
//! These types live here, not in the core, because they outlive a process: `ringwal` shows them offline, and
//! `FORMAT.md` documents them. They hold data only; what a command *does* is decided by the core's store.
//!
//! Invariants:
//! 1. A variant's or field's place in its type is part of the format: append at the end, never reorder.
//! 2. Everything a command needs to be applied equally everywhere is in it: time, deadline, limits.

use serde::{Deserialize, Serialize};

use crate::codec::{self, CodecError};
use crate::ids::{EtcdIndex, MemberId, UnixNanos};

/// First byte of every entry payload. Raise it when the encoding changes; old values stay readable.
pub const PAYLOAD_VERSION: u8 = 1;

/// Names one proposal across the cluster, so that the member that proposed it finds its waiting client again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ProposalId {
    /// The member that proposed it.
    pub origin: MemberId,
    /// Unique per origin, also over restarts.
    pub seq: u64,
}

/// The data of one replicated log entry (raft's empty entries have none).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal<'a> {
    /// Who waits for it.
    pub id: ProposalId,
    /// The proposer's clock when it was proposed; `now` for everyone who applies it.
    pub at: UnixNanos,
    /// What to do.
    #[serde(borrow)]
    pub command: Command<'a>,
}

impl<'a> Proposal<'a> {
    /// Appends version byte and encoding to `out`.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.push(PAYLOAD_VERSION);
        codec::encode_into(self, out);
    }

    /// Decodes an entry's data.
    ///
    /// # Errors
    /// [`PayloadError`] for an unknown version or malformed bytes.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, PayloadError> {
        match bytes.split_first() {
            Some((&PAYLOAD_VERSION, rest)) => Ok(codec::decode(rest)?),
            Some((&version, _)) => Err(PayloadError::Version { version }),
            None => Err(PayloadError::Empty),
        }
    }
}

/// An entry's data that this build cannot read.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// No bytes at all.
    #[error("empty payload")]
    Empty,
    /// Written by a newer format.
    #[error("payload version {version} is unknown; this build reads version {PAYLOAD_VERSION}")]
    Version {
        /// The version byte found.
        version: u8,
    },
    /// The version is known, the bytes are not.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

/// A replicated change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command<'a> {
    /// A client's write to the key space.
    #[serde(borrow)]
    Keys(KeyWrite<'a>),
    /// Expire nodes whose deadline is at or before the proposal's `at`, at most `limit` of them.
    Expire {
        /// Bounds the work of one apply; the leader proposes again while more are due.
        limit: u32,
    },
    /// A member announces its name and client URLs.
    Publish(#[serde(borrow)] MemberRecord<'a>),
    /// The cluster agrees on the API level it speaks.
    ClusterVersion(&'a str),
    /// A change to users, roles or whether they count.
    Auth(#[serde(borrow)] AuthWrite<'a>),
    /// A member's peer URLs change; name and client URLs of the record are ignored.
    UpdateMember(#[serde(borrow)] MemberRecord<'a>),
}

/// A change of the v2 auth state. What is refused is decided when it is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AuthWrite<'a> {
    /// Credentials count from now on.
    Enable,
    /// They no longer do.
    Disable,
    /// A user is created, or an existing one changed.
    #[serde(borrow)]
    PutUser(UserChange<'a>),
    /// A user is removed.
    DeleteUser(&'a str),
    /// A role is created.
    #[serde(borrow)]
    CreateRole(RoleRecord<'a>),
    /// An existing role gains and loses permissions.
    #[serde(borrow)]
    UpdateRole(RoleChange<'a>),
    /// A role is removed.
    DeleteRole(&'a str),
}

/// What a request asks for one user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserChange<'a> {
    /// Who.
    pub name: &'a str,
    /// bcrypt's text of the new password; never the password. `None` keeps the old one.
    pub password_hash: Option<&'a str>,
    /// Roles of a new user, as given: `None` is JSON's null.
    #[serde(borrow)]
    pub roles: Option<Vec<&'a str>>,
    /// Roles to add to an existing user.
    #[serde(borrow)]
    pub grant: Vec<&'a str>,
    /// Roles to take from one.
    #[serde(borrow)]
    pub revoke: Vec<&'a str>,
}

/// What a request asks for one existing role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleChange<'a> {
    /// Which.
    pub name: &'a str,
    /// Patterns to add.
    #[serde(borrow)]
    pub grant: Option<PermissionRecord<'a>>,
    /// Patterns to take away.
    #[serde(borrow)]
    pub revoke: Option<PermissionRecord<'a>>,
}

/// Path patterns: exact, or a prefix when the last byte is `*`. `None` is JSON's null, which answers show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermissionRecord<'a> {
    /// What may be read.
    #[serde(borrow)]
    pub read: Option<Vec<&'a str>>,
    /// What may be written.
    #[serde(borrow)]
    pub write: Option<Vec<&'a str>>,
}

/// One role: in [`AuthWrite::CreateRole`], and kept in snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleRecord<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it allows.
    #[serde(borrow)]
    pub permissions: PermissionRecord<'a>,
}

/// One user, kept in snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord<'a> {
    /// The name.
    pub name: &'a str,
    /// bcrypt's text.
    pub password_hash: &'a str,
    /// The roles as stored.
    #[serde(borrow)]
    pub roles: Option<Vec<&'a str>>,
}

/// The auth state beside users and roles, kept in snapshots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthRecord {
    /// Credentials count.
    pub enabled: bool,
    /// The first auth write has taken its extra indexes (etcd makes its directories then).
    pub prepared: bool,
}

/// The HTTP method behind a [`KeyWrite`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WriteMethod {
    /// set, create, update, compareAndSwap or refresh, by the conditions.
    Put,
    /// An in-order key below `path`.
    Post,
    /// delete or compareAndDelete.
    Delete,
}

/// One client write, as the request stated it; the store picks the operation from it (etcd does the same).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyWrite<'a> {
    /// The request's method.
    pub method: WriteMethod,
    /// Cleaned absolute path of the key, `/` for the root; any bytes.
    #[serde(with = "serde_bytes")]
    pub path: &'a [u8],
    /// The value; empty when the request had none.
    #[serde(with = "serde_bytes")]
    pub value: &'a [u8],
    /// `dir=true`.
    pub dir: bool,
    /// `recursive=true` (DELETE).
    pub recursive: bool,
    /// `refresh=true` (PUT): keep the value, tell no watcher.
    pub refresh: bool,
    /// `prevExist`.
    pub prev_exist: Option<bool>,
    /// `prevValue`; never empty when present.
    #[serde(with = "serde_bytes")]
    pub prev_value: Option<&'a [u8]>,
    /// `prevIndex`; zero means no condition.
    pub prev_index: EtcdIndex,
    /// When the node expires; the proposer's clock plus `ttl`.
    pub expires_at: Option<UnixNanos>,
}

/// A member's public data: replicated by [`Command::Publish`] and membership changes, kept in snapshots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord<'a> {
    /// The member.
    pub id: MemberId,
    /// Its name; empty until it has started once.
    pub name: &'a str,
    /// Where other members reach it.
    #[serde(borrow)]
    pub peer_urls: Vec<&'a str>,
    /// Where clients reach it.
    #[serde(borrow)]
    pub client_urls: Vec<&'a str>,
}

/// The first byte of a snapshot item's key; items sort by class, then by the rest of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ItemClass {
    /// One item, empty rest: [`StoreRecord`].
    Store = 1,
    /// Rest: member id, 8 bytes big-endian. [`MemberRecord`].
    Member = 2,
    /// Rest: the node's path. [`NodeRecord`].
    Node = 3,
    /// Rest: the event's place in history, 8 bytes big-endian. [`EventRecord`].
    Event = 4,
    /// Rest of the key: a member id, 8 bytes big-endian. An empty value: that member was removed for good.
    RemovedMember = 5,
    /// One item, an empty rest of the key: [`AuthRecord`]. Missing when auth was never touched.
    Auth = 6,
    /// Rest of the key: the user's name. [`UserRecord`].
    User = 7,
    /// Rest of the key: the role's name. [`RoleRecord`].
    Role = 8,
}

/// The store's own counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRecord<'a> {
    /// `X-Etcd-Index`.
    pub index: EtcdIndex,
    /// The agreed cluster version, empty before there is one.
    pub cluster_version: &'a str,
    /// Operation counters, in the order the store documents.
    pub stats: Vec<u64>,
    /// The next expiry tie-breaker.
    pub expiry_seq: u64,
}

/// One node of the tree, without its path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord<'a> {
    /// The index that created it.
    pub created: EtcdIndex,
    /// The index that last changed it.
    pub modified: EtcdIndex,
    /// Its deadline, if it has one.
    pub expires_at: Option<UnixNanos>,
    /// Breaks ties between equal deadlines: the order they were set in. Zero without a deadline.
    pub expiry_seq: u64,
    /// The value; `None` is a directory.
    #[serde(with = "serde_bytes")]
    pub value: Option<&'a [u8]>,
}

/// One event of the watch history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord<'a> {
    /// The event's index.
    pub index: EtcdIndex,
    /// Which action, numbered as the store documents.
    pub action: u8,
    /// A refresh or bookkeeping event: takes a place in history, matches no watcher.
    pub silent: bool,
    /// The node after the change, with its path.
    #[serde(borrow)]
    pub node: EventNode<'a>,
    /// The node before it.
    #[serde(borrow)]
    pub prev: Option<EventNode<'a>>,
    /// The clock the event was made at; its `ttl` is counted from here.
    pub at: UnixNanos,
}

/// A node as an event shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventNode<'a> {
    /// The full path.
    #[serde(with = "serde_bytes")]
    pub path: &'a [u8],
    /// A directory.
    pub dir: bool,
    /// The value, when the event shows one.
    #[serde(with = "serde_bytes")]
    pub value: Option<&'a [u8]>,
    /// The index that created it.
    pub created: EtcdIndex,
    /// The index that last changed it.
    pub modified: EtcdIndex,
    /// Its deadline.
    pub expires_at: Option<UnixNanos>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proposal_survives_the_round_trip() {
        let proposal = Proposal {
            id: ProposalId { origin: MemberId::new(7), seq: 9 },
            at: UnixNanos::new(1_700_000_000_000_000_000),
            command: Command::Keys(KeyWrite {
                method: WriteMethod::Put,
                path: b"/a",
                value: b"\xff1",
                dir: false,
                recursive: false,
                refresh: false,
                prev_exist: Some(true),
                prev_value: Some(b"x"),
                prev_index: EtcdIndex::new(4),
                expires_at: None,
            }),
        };
        let mut bytes = Vec::new();
        proposal.encode_into(&mut bytes);
        assert_eq!(Proposal::decode(&bytes).unwrap(), proposal);
        for cut in 0..bytes.len() {
            assert!(Proposal::decode(&bytes[..cut]).is_err(), "a prefix of {cut} bytes must not decode");
        }
        bytes.push(0);
        assert!(matches!(Proposal::decode(&bytes), Err(PayloadError::Codec(CodecError::TrailingBytes { left: 1 }))));
    }
}
