//! The replicated state machine: what a committed entry does.
//!
//! Owns: the store, the auth state, the member table, the cluster version, and the clients that wait for entries. Touches: payload
//! types and the store. Knows no raft message and no disk.
//!
//! Invariants:
//! 1. Entries are applied in order and once: `applied` moves by exactly one per entry.
//! 2. Every member that applies the same entries ends in the same state: time comes out of the entry.
//! 3. An entry that cannot be read stops the node; guessing would let members drift apart.

use raft::eraftpb::{Entry, EntryType};
use ringd_storage::codec;
use ringd_storage::ids::{RaftIndex, Term, UnixNanos};
use ringd_storage::mutation::{self, Mutation};
use ringd_storage::payload::{Command, MemberRecord, Proposal, ProposalId};

use super::auth::Auth;
use super::entries::{ChangeAction, ConfChangeEntry};
use super::event::{Answer, Effects, Notice, Outcome};
use super::membership::{Member, MemberChange, MemberRefusal, Membership};
use super::proposals::Proposals;
use super::replica::{Replica, room_for_entry};
use super::store::Store;

/// State as of the last applied entry.
pub struct Machine {
    /// The v2 key space.
    pub store: Store,
    /// Who is in the cluster.
    pub members: Membership,
    /// Who may do what.
    pub auth: Auth,
    /// A membership change that waits here was applied or refused.
    pub changed: Option<ProposalId>,
    /// The last applied entry.
    pub applied: RaftIndex,
    /// Its term.
    pub applied_term: Term,
    /// Bytes of all entries applied since the start.
    pub applied_bytes: u64,
    /// Who waits.
    pub proposals: Proposals,
    /// An `Expire` of ours was applied, and says whether more nodes were due at its time.
    pub expired: Option<MoreDue>,
    /// A proposal that this member made since its start was applied.
    pub own_was_applied: bool,
}

/// What an applied `Expire` left over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MoreDue(pub bool);

impl Machine {
    /// Applies one committed entry.
    ///
    /// # Errors
    /// A sentence for the operator when the entry cannot be applied; the node must stop.
    pub fn apply(&mut self, replica: &mut Replica, entry: &Entry, effects: &mut Effects) -> Result<(), String> {
        assert_eq!(entry.index, self.applied.next().get(), "entries are applied in order");
        let outcome = match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => Ok(()),
            EntryType::EntryNormal => {
                if mutation::is_on(Mutation::ApplyTwice) && !self.own_was_applied && !self.members.is_empty() {
                    self.apply_proposal(&entry.data, effects).and_then(|()| self.apply_proposal(&entry.data, effects))
                } else {
                    self.apply_proposal(&entry.data, effects)
                }
            }
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                self.apply_conf_change(replica, entry, effects)
            }
        };
        outcome.map_err(|error| {
            format!(
                "the entry at raft index {} cannot be applied: {error}; look at it with `ringwal dump`",
                entry.index
            )
        })?;
        self.applied = RaftIndex::new(entry.index);
        self.applied_term = Term::new(entry.term);
        self.applied_bytes += room_for_entry(entry);
        Ok(())
    }

    fn apply_proposal(&mut self, data: &[u8], effects: &mut Effects) -> Result<(), String> {
        let proposal = Proposal::decode(data).map_err(|error| error.to_string())?;
        let outcome = match &proposal.command {
            Command::Keys(write) => Some(match self.store.apply(write, proposal.at, &mut effects.fired) {
                Ok(event) => Outcome::Event(event),
                Err(error) => Outcome::Refused(error),
            }),
            Command::Expire { limit } => {
                self.store.expire(proposal.at, *limit, &mut effects.fired);
                let more = self.store.next_deadline().is_some_and(|deadline| deadline <= proposal.at);
                self.expired = Some(MoreDue(more));
                None
            }
            Command::Publish(record) => {
                self.publish(record, proposal.at, effects);
                None
            }
            Command::ClusterVersion(version) => {
                self.store.set_cluster_version(version);
                self.store.bump(proposal.at);
                effects.notices.push(Notice::ClusterVersion((*version).to_owned()));
                None
            }
            Command::Auth(write) => {
                let applied = self.auth.apply(write);
                (0..applied.steps).for_each(|_| self.store.bump(proposal.at));
                Some(Outcome::Auth(applied.outcome))
            }
            Command::UpdateMember(record) => {
                let peer_urls = record.peer_urls.iter().map(|&url| url.to_owned()).collect();
                let verdict = self.members.validate(&MemberChange::Update { id: record.id, peer_urls });
                if verdict.is_ok() {
                    self.members.set_peer_urls(record.id, &record.peer_urls);
                    self.store.bump(proposal.at);
                    effects.notices.push(Notice::MembershipChanged);
                }
                Some(Outcome::Members(verdict))
            }
        };
        self.own_was_applied |= self.proposals.is_own(proposal.id);
        if let (Some(token), Some(outcome)) = (self.proposals.applied(proposal.id), outcome) {
            effects.answers.push(Answer { token, outcome });
        }
        Ok(())
    }

    fn publish(&mut self, record: &MemberRecord<'_>, at: UnixNanos, effects: &mut Effects) {
        self.members.publish(record.id, record.name, &record.client_urls);
        self.store.bump(at);
        effects.notices.push(Notice::MembershipChanged);
    }

    fn apply_conf_change(&mut self, replica: &mut Replica, entry: &Entry, effects: &mut Effects) -> Result<(), String> {
        let change = ConfChangeEntry::decode(entry)?;
        let record = match change.context.as_ref() {
            [] => None,
            bytes => Some(codec::decode::<MemberRecord<'_>>(bytes).map_err(|error| error.to_string())?),
        };
        // The entries a cluster begins with, and a promotion by the leader, name nobody who waits.
        let waiter = match entry.context.as_ref() {
            [] => None,
            bytes => Some(codec::decode::<ProposalId>(bytes).map_err(|error| error.to_string())?),
        };
        let mut verdict = match (&record, waiter) {
            (None, None) if change.action == ChangeAction::Voter && self.members.get(change.member).is_none() => {
                Err(MemberRefusal::IdNotFound)
            }
            (_, None) => Ok(()),
            (_, Some(_)) if change.action == ChangeAction::Remove => {
                self.members.validate(&MemberChange::Remove(change.member))
            }
            (Some(record), Some(_)) => self.members.validate(&MemberChange::Add(Member::from(record.clone()))),
            (None, Some(_)) => Ok(()),
        };
        // What is refused never reaches raft's configuration: etcd applies it as a change of nobody. What raft refuses
        // (the last voter cannot leave) is refused by every member alike.
        if verdict.is_ok() && replica.apply_conf_change(&change).is_err() {
            verdict = Err(MemberRefusal::NotEnoughStarted);
        }
        if verdict.is_ok() {
            if change.action == ChangeAction::Remove {
                self.members.remove(change.member);
                // etcd deletes the member's node and makes one that remembers the id, which takes two indexes.
                self.store.bump(UnixNanos::ZERO);
                self.store.bump(UnixNanos::ZERO);
            } else if let Some(record) = record {
                self.members.put(Member::from(record));
                // etcd keeps members in the same store as keys, so a new one takes an index there; a promotion, which
                // etcd's v2 API does not know, takes none.
                self.store.bump(UnixNanos::ZERO);
            }
            effects.notices.push(Notice::MembershipChanged);
        }
        if let Some(id) = waiter {
            self.changed = Some(id);
            if let Some(token) = self.proposals.applied(id) {
                effects.answers.push(Answer { token, outcome: Outcome::Members(verdict) });
            }
        }
        Ok(())
    }
}
