//! Who is in the cluster: member records, and the ids that bootstrap derives.
//!
//! Owns: the member table as of the last applied entry. Touches: storage ids and payload types.
//! Must hold: equal bootstrap configuration gives equal ids (etcd's own derivation, so that a member's id in old
//! dashboards stays the same), and the table changes only by applied entries.

use std::collections::BTreeMap;

use ringd_storage::codec;
use ringd_storage::ids::{ClusterId, MemberId, RaftIndex, Term};
use ringd_storage::payload::MemberRecord;
use sha1::{Digest, Sha1};

use super::replica;

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

/// The log a new cluster begins with: one entry per initial member, in id order, committed in term 1. Every member
/// writes the same, so no election is needed to agree on it (etcd bootstraps in the same way).
///
/// # Panics
/// Without any member.
#[must_use]
pub fn bootstrap_log(members: &[Member]) -> replica::Append {
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
        entries.push(replica::add_voter_entry(index, Term::new(1), member.id, context));
    }
    replica::bootstrap_append(entries, index)
}

/// The members as of the last applied entry.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    members: BTreeMap<MemberId, Member>,
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

    /// Removes a member; true when it was there.
    pub fn remove(&mut self, id: MemberId) -> bool {
        self.members.remove(&id).is_some()
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

    #[test]
    fn the_order_of_urls_does_not_matter() {
        let forward = ["http://a:1".to_owned(), "http://b:1".to_owned()];
        let backward = ["http://b:1".to_owned(), "http://a:1".to_owned()];
        assert_eq!(member_id(&forward, "t"), member_id(&backward, "t"));
    }
}
