//! Who is in the cluster: member records, and the ids that bootstrap derives.
//!
//! Owns: the member table as of the last applied entry. Touches: storage ids and payload types.
//! Must hold: equal bootstrap configuration gives equal ids (etcd's own derivation, so that a member's id in old
//! dashboards stays the same), and the table changes only by applied entries.

use std::collections::{BTreeMap, BTreeSet};

use ringd_storage::codec;
use ringd_storage::ids::{ClusterId, MemberId, RaftIndex, Term};
use ringd_storage::payload::MemberRecord;
use sha1::{Digest, Sha1};

use super::entries::{Append, ChangeAction, change_entry, first_append};

/// One member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: MemberId,
    /// Its name, empty until it has started once.
    pub name: String,
    /// Where members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
}

impl Member {
    /// The stored form.
    #[must_use]
    pub fn record(&self) -> MemberRecord<'_> {
        MemberRecord {
            id: self.id,
            name: &self.name,
            peer_urls: self.peer_urls.iter().map(String::as_str).collect(),
            client_urls: self.client_urls.iter().map(String::as_str).collect(),
        }
    }
}

impl From<MemberRecord<'_>> for Member {
    fn from(record: MemberRecord<'_>) -> Self {
        Self {
            id: record.id,
            name: record.name.to_owned(),
            peer_urls: record.peer_urls.into_iter().map(str::to_owned).collect(),
            client_urls: record.client_urls.into_iter().map(str::to_owned).collect(),
        }
    }
}

/// A member's id: the first 8 bytes of SHA-1 over its sorted peer URLs and the cluster token, as etcd derives it.
#[must_use]
pub fn member_id(peer_urls: &[String], token: &str) -> MemberId {
    let mut sorted: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for url in sorted {
        hash.update(url);
    }
    hash.update(token);
    MemberId::new(first_8_bytes(hash))
}

/// A cluster's id: the first 8 bytes of SHA-1 over its sorted member ids, as etcd derives it.
#[must_use]
pub fn cluster_id(members: impl Iterator<Item = MemberId>) -> ClusterId {
    let mut sorted: Vec<MemberId> = members.collect();
    sorted.sort_unstable();
    let mut hash = Sha1::new();
    for id in sorted {
        hash.update(id.get().to_be_bytes());
    }
    ClusterId::new(first_8_bytes(hash))
}

fn first_8_bytes(hash: Sha1) -> u64 {
    let digest = hash.finalize();
    u64::from_be_bytes(digest[..8].try_into().expect("SHA-1 has 20 bytes"))
}

/// The term of the entries a cluster begins with; every election leads to a later one.
pub const BOOTSTRAP_TERM: Term = Term::new(1);

/// The log a new cluster begins with: one entry per initial member, in id order, committed in term 1. Every member
/// writes the same, so no election is needed to agree on it (etcd bootstraps in the same way).
///
/// # Panics
/// Without any member.
#[must_use]
pub fn bootstrap_log(members: &[Member]) -> Append {
    assert!(!members.is_empty(), "a cluster has at least one member");
    let mut sorted: Vec<&Member> = members.iter().collect();
    sorted.sort_unstable_by_key(|member| member.id);
    let mut entries = Vec::with_capacity(sorted.len());
    let mut index = RaftIndex::ZERO;
    for member in sorted {
        index = index.next();
        let mut context = Vec::new();
        // A member announces its own client URLs and name once it runs (`Publish`); the name given here is etcd's way
        // of knowing which configured member has not started yet.
        let unstarted = Member { name: String::new(), client_urls: Vec::new(), ..member.clone() };
        codec::encode_into(&unstarted.record(), &mut context);
        entries.push(change_entry(index, BOOTSTRAP_TERM, member.id, ChangeAction::Voter, context));
    }
    first_append(entries, BOOTSTRAP_TERM, index)
}

/// A change of membership that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A member that has not started joins as a voter.
    Add(Member),
    /// A member is reached elsewhere from now on.
    Update {
        /// Which.
        id: MemberId,
        /// Where.
        peer_urls: Vec<String>,
    },
    /// A member leaves for good.
    Remove(MemberId),
}

/// Why a change of membership was refused. The texts are etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberRefusal {
    /// Another member has this id.
    #[error("membership: ID exists")]
    IdExists,
    /// Another member is reached at one of these URLs.
    #[error("membership: peerURL exists")]
    PeerUrlExists,
    /// There is no such member.
    #[error("membership: ID not found")]
    IdNotFound,
    /// The member was removed, and an id never comes back.
    #[error("membership: ID removed")]
    IdRemoved,
    /// Too few members would have started to keep a quorum (`--strict-reconfig-check`).
    #[error("etcdserver: re-configuration failed due to not enough started members")]
    NotEnoughStarted,
}

/// The members as of the last applied entry.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
}

impl Membership {
    /// Adds or replaces a member; true when anything changed.
    pub fn put(&mut self, member: Member) -> bool {
        self.members.insert(member.id, member.clone()).is_none_or(|before| before != member)
    }

    /// A member announced name and client URLs. Unknown members (removed meanwhile) are ignored.
    pub fn publish(&mut self, id: MemberId, name: &str, client_urls: &[&str]) {
        if let Some(member) = self.members.get_mut(&id) {
            name.clone_into(&mut member.name);
            member.client_urls = client_urls.iter().map(|url| (*url).to_owned()).collect();
        }
    }

    /// Removes a member for good; true when it was there.
    pub fn remove(&mut self, id: MemberId) -> bool {
        self.removed.insert(id);
        self.members.remove(&id).is_some()
    }

    /// Changes where a member is reached. Unknown members are ignored.
    pub fn set_peer_urls(&mut self, id: MemberId, peer_urls: &[&str]) {
        if let Some(member) = self.members.get_mut(&id) {
            member.peer_urls = peer_urls.iter().map(|&url| url.to_owned()).collect();
        }
    }

    /// The members that were removed, by id.
    pub fn removed(&self) -> impl Iterator<Item = MemberId> {
        self.removed.iter().copied()
    }

    /// Whether a member was removed for good.
    #[must_use]
    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// What a snapshot tells of a removed member.
    pub fn restore_removed(&mut self, id: MemberId) {
        self.removed.insert(id);
    }

    /// Whether a change fits the members as they are, by etcd's rules.
    ///
    /// # Errors
    /// [`MemberRefusal`], every variant but `NotEnoughStarted`.
    pub fn validate(&self, change: &MemberChange) -> Result<(), MemberRefusal> {
        let (id, peer_urls) = match change {
            MemberChange::Add(member) => (member.id, member.peer_urls.as_slice()),
            MemberChange::Update { id, peer_urls } => (*id, peer_urls.as_slice()),
            MemberChange::Remove(id) => (*id, &[][..]),
        };
        let is_new = matches!(change, MemberChange::Add(_));
        if self.removed.contains(&id) {
            return Err(MemberRefusal::IdRemoved);
        }
        if self.members.contains_key(&id) == is_new {
            return Err(if is_new { MemberRefusal::IdExists } else { MemberRefusal::IdNotFound });
        }
        let others = self.members.values().filter(|member| member.id != id);
        if others.flat_map(|member| &member.peer_urls).any(|url| peer_urls.contains(url)) {
            return Err(MemberRefusal::PeerUrlExists);
        }
        Ok(())
    }

    /// etcd's strict check: enough members have started to be a quorum of what the change leads to. A member may always
    /// join a cluster of one.
    ///
    /// # Errors
    /// [`MemberRefusal::NotEnoughStarted`].
    pub fn check_quorum(&self, change: &MemberChange) -> Result<(), MemberRefusal> {
        let (leaving, joining) = match change {
            MemberChange::Add(_) => (None, 1),
            MemberChange::Remove(id) => (Some(*id), 0),
            MemberChange::Update { .. } => return Ok(()),
        };
        let stay = || self.members.values().filter(|member| Some(member.id) != leaving);
        let started = stay().filter(|member| !member.name.is_empty()).count();
        let members = stay().count() + joining;
        let from_one_to_two = joining == 1 && started == 1 && members == 2;
        if from_one_to_two || started > members / 2 { Ok(()) } else { Err(MemberRefusal::NotEnoughStarted) }
    }

    /// One member.
    #[must_use]
    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    /// All members, by id.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_the_ones_etcd_derives() {
        // What a real etcd 3.4 logs for its default configuration.
        let id = member_id(&["http://localhost:2380".to_owned()], "etcd-cluster");
        assert_eq!(id.to_string(), "8e9e05c52164694d");
        assert_eq!(cluster_id([id].into_iter()).to_string(), "cdf818194e3a8c32");
    }

    fn member(id: u64, name: &str) -> Member {
        Member {
            id: MemberId::new(id),
            name: name.to_owned(),
            peer_urls: vec![format!("http://m{id}:1")],
            client_urls: Vec::new(),
        }
    }

    fn members(list: &[(u64, &str)]) -> Membership {
        let mut members = Membership::default();
        for &(id, name) in list {
            assert!(members.put(member(id, name)));
        }
        members
    }

    #[test]
    fn changes_are_validated_as_etcd_validates_them() {
        let mut members = members(&[(1, "a"), (2, "b")]);
        let update = |id, url: &str| MemberChange::Update { id: MemberId::new(id), peer_urls: vec![url.to_owned()] };
        assert_eq!(members.validate(&MemberChange::Add(member(3, ""))), Ok(()));
        assert_eq!(members.validate(&MemberChange::Add(member(1, ""))), Err(MemberRefusal::IdExists));
        let taken = Member { id: MemberId::new(9), ..member(1, "") };
        assert_eq!(members.validate(&MemberChange::Add(taken)), Err(MemberRefusal::PeerUrlExists));
        assert_eq!(members.validate(&update(1, "http://m1:1")), Ok(()));
        assert_eq!(members.validate(&update(1, "http://m2:1")), Err(MemberRefusal::PeerUrlExists));
        assert_eq!(members.validate(&update(7, "http://m7:1")), Err(MemberRefusal::IdNotFound));
        assert_eq!(members.validate(&MemberChange::Remove(MemberId::new(7))), Err(MemberRefusal::IdNotFound));
        assert_eq!(members.validate(&MemberChange::Remove(MemberId::new(2))), Ok(()));
        assert!(members.remove(MemberId::new(2)));
        assert_eq!(members.removed().collect::<Vec<_>>(), [MemberId::new(2)]);
        for change in
            [MemberChange::Add(member(2, "")), update(2, "http://m2:1"), MemberChange::Remove(MemberId::new(2))]
        {
            assert_eq!(members.validate(&change), Err(MemberRefusal::IdRemoved));
        }
    }

    #[test]
    fn the_strict_check_keeps_a_quorum_of_started_members() {
        let add = MemberChange::Add(member(9, ""));
        let remove = |id| MemberChange::Remove(MemberId::new(id));
        let short = Err(MemberRefusal::NotEnoughStarted);
        let one = members(&[(1, "a")]);
        assert_eq!((one.check_quorum(&add), one.check_quorum(&remove(1))), (Ok(()), short));
        assert_eq!(one.check_quorum(&remove(7)), Ok(()));
        let one_and_new = members(&[(1, "a"), (2, "")]);
        assert_eq!((one_and_new.check_quorum(&add), one_and_new.check_quorum(&remove(2))), (short, Ok(())));
        let three = members(&[(1, "a"), (2, "b"), (3, "c")]);
        assert_eq!((three.check_quorum(&add), three.check_quorum(&remove(1))), (Ok(()), Ok(())));
        let three_and_new = members(&[(1, "a"), (2, "b"), (3, "c"), (4, "")]);
        assert_eq!(three_and_new.check_quorum(&add), Ok(()));
        let two_of_four = members(&[(1, "a"), (2, "b"), (3, ""), (4, "")]);
        assert_eq!((two_of_four.check_quorum(&add), two_of_four.check_quorum(&remove(1))), (short, short));
        assert_eq!(two_of_four.check_quorum(&remove(3)), Ok(()));
    }

    #[test]
    fn the_order_of_urls_does_not_matter() {
        let forward = ["http://a:1".to_owned(), "http://b:1".to_owned()];
        let backward = ["http://b:1".to_owned(), "http://a:1".to_owned()];
        assert_eq!(member_id(&forward, "t"), member_id(&backward, "t"));
    }
}
