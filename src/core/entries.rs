//! Log entries between raft's form and the WAL's, and the membership changes inside them.
//!
//! Owns: the encoding of membership changes, and what one append holds. Touches: raft-rs' message types and storage's
//! records; protobuf only for bytes that a checksum has covered or this node has made.
//!
//! Must hold: what a record was made of comes back from it, and an append's records stand in the order in which
//! recovery needs them.

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeSingle, ConfChangeType, ConfChangeV2, HardState};
/// A log entry and its kind in raft's form; rooms that do not know raft pass them on.
pub use raft::eraftpb::{Entry, EntryType};
pub(super) use raft::eraftpb::{Message, MessageType};
use ringd_storage::format::SnapshotMarker;
use ringd_storage::ids::{MemberId, RaftIndex, Term};
use ringd_storage::mutation::{self, Mutation};
use ringd_storage::record::{EntryKind, EntryRef, HardState as StoredHardState, Record};

use super::event::Install;

/// Numbers the readies of one run; appends are durable in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct ReadyNumber(pub u64);

/// Records for the WAL: one frame, in one turn.
#[derive(Debug)]
pub struct Append {
    /// Report this number when it is durable.
    pub ready: ReadyNumber,
    /// A snapshot from the leader, durable under its name, that replaces the log before the entries.
    pub(super) replaces_log: Option<SnapshotMarker>,
    pub(super) entries: Vec<Entry>,
    pub(super) hard_state: Option<HardState>,
    /// A sync must cover it before it may be reported.
    pub must_sync: bool,
}

impl Append {
    /// The records, in the order they must have in the WAL: a marker that replaces the log, the entries after it, the
    /// hard state that commits them. A marker and its hard state must reach the WAL in one frame; alone, the hard state
    /// would commit past the end of the log, or the marker lie behind the old one.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let marker = self.replaces_log.map(|marker| Record::SnapshotMarker { marker, replaces_log: true });
        let entries = self.entries.iter().map(|entry| Record::Entry(entry_ref(entry)));
        let hard_state =
            self.hard_state.as_ref().filter(|_| self.ready.0 == 0 || !mutation::is_on(Mutation::DropHardState));
        let hard_state = hard_state.map(|state| {
            Record::HardState(StoredHardState {
                term: Term::new(state.term),
                vote: MemberId::new(state.vote),
                commit: RaftIndex::new(state.commit),
            })
        });
        marker.into_iter().chain(entries).chain(hard_state)
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
    /// What happens to it.
    pub action: ChangeAction,
}

/// What a membership change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeAction {
    /// It joins with a vote, or gets one.
    Voter,
    /// It joins without a vote.
    Learner,
    /// It leaves.
    Remove,
}

impl ChangeAction {
    fn kind(self) -> ConfChangeType {
        match self {
            Self::Voter => ConfChangeType::AddNode,
            Self::Learner => ConfChangeType::AddLearnerNode,
            Self::Remove => ConfChangeType::RemoveNode,
        }
    }
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
            action: match first.map(ConfChangeSingle::get_change_type) {
                Some(ConfChangeType::RemoveNode) => ChangeAction::Remove,
                Some(ConfChangeType::AddLearnerNode) => ChangeAction::Learner,
                Some(ConfChangeType::AddNode) | None => ChangeAction::Voter,
            },
            change,
        })
    }

    /// The change as raft wants it applied.
    pub(super) const fn change(&self) -> &ConfChangeV2 {
        &self.change
    }
}

fn raft_proto_v2(one: ConfChange) -> ConfChangeV2 {
    let mut single = ConfChangeSingle::default();
    single.set_change_type(one.get_change_type());
    single.node_id = one.node_id;
    let mut change = ConfChangeV2 { context: one.context, ..ConfChangeV2::default() };
    change.mut_changes().push(single);
    change
}

/// An entry with a membership change that nobody waits for, for a log that is written before any replica exists.
#[must_use]
pub fn change_entry(index: RaftIndex, term: Term, member: MemberId, action: ChangeAction, context: Vec<u8>) -> Entry {
    let mut entry = Entry::default();
    entry.set_entry_type(EntryType::EntryConfChange);
    entry.index = index.get();
    entry.term = term.get();
    let MemberVote(change) = member_vote(member, action, context);
    entry.data = change.write_to_bytes().expect("a conf change always encodes").into();
    entry
}

/// The change that one member makes or suffers; `context` is its record, or empty when the record stays.
#[must_use]
pub fn member_vote(member: MemberId, action: ChangeAction, context: Vec<u8>) -> MemberVote {
    let mut change = ConfChange::default();
    change.set_change_type(action.kind());
    change.node_id = member.get();
    change.context = context.into();
    MemberVote(change)
}

/// A membership change to propose.
#[derive(Debug)]
pub struct MemberVote(pub(super) ConfChange);

/// The append that writes entries before any replica exists, all of them committed.
#[must_use]
pub fn first_append(entries: Vec<Entry>, term: Term, commit: RaftIndex) -> Append {
    let hard_state = HardState { term: term.get(), commit: commit.get(), ..HardState::default() };
    Append { ready: ReadyNumber(0), replaces_log: None, entries, hard_state: Some(hard_state), must_sync: true }
}

/// The snapshot that a message tells its receiver to install, whose file travels beside it.
#[must_use]
pub fn snapshot_named(message: &Message) -> Option<Install> {
    if message.get_msg_type() != MessageType::MsgSnapshot {
        return None;
    }
    let meta = message.get_snapshot().get_metadata();
    Some(Install { index: RaftIndex::new(meta.index), term: Term::new(meta.term) })
}

/// Whether a message carries proposals: whoever carries messages may lose it, but must never deliver it twice.
#[must_use]
pub fn is_forwarded_proposal(message: &Message) -> bool {
    message.get_msg_type() == MessageType::MsgPropose
}
