//! `--force-new-cluster`: what is appended to a log so that one member goes on alone.
//!
//! For the operator who has lost the quorum for good. Everything in the log counts as committed: the log says how far
//! it surely was only now and then, so whatever follows may have been acknowledged (etcd, whose log says so with every
//! entry, drops it). Then the member gets a vote if it has none, and every other member is removed, all as committed
//! entries, so that the next start finds a cluster of one like any other.
//!
//! Owns: those entries. Touches: recovered records. Must hold: the same log gives the same entries; no entry is lost.

use std::collections::BTreeSet;

use ringd_storage::ids::MemberId;
use ringd_storage::record::{Entry, EntryKind, HardState};

use super::entries::{Append, ChangeAction, ConfChangeEntry, change_entry, entry_from_record, first_append};

/// What a log must be continued with so that `own` is alone and all of it is committed. `voters` and `learners` are the
/// members as of the snapshot, `entries` the log after it, which ends at the commit index of `state` or beyond.
///
/// # Errors
/// A sentence when a membership change cannot be read.
pub fn append_alone(
    own: MemberId,
    voters: &[MemberId],
    learners: &[MemberId],
    entries: &[Entry],
    state: &HardState,
) -> Result<Append, String> {
    let mut members: BTreeSet<MemberId> = voters.iter().chain(learners).copied().collect();
    let mut has_vote = voters.contains(&own);
    for entry in entries.iter().filter(|entry| entry.kind != EntryKind::Normal) {
        let change = ConfChangeEntry::decode(&entry_from_record(entry.as_ref()))?;
        match change.action {
            ChangeAction::Remove => members.remove(&change.member),
            ChangeAction::Voter | ChangeAction::Learner => members.insert(change.member),
        };
        if change.member == own {
            has_vote = change.action == ChangeAction::Voter;
        }
    }
    members.remove(&own);
    let promotion = (!has_vote).then_some((own, ChangeAction::Voter));
    let changes = promotion.into_iter().chain(members.into_iter().map(|member| (member, ChangeAction::Remove)));
    let end = entries.last();
    let mut last = end.map_or(state.commit, |entry| entry.index.max(state.commit));
    let term = end.map_or(state.term, |entry| entry.term.max(state.term));
    let added: Vec<_> = changes
        .map(|(member, action)| {
            last = last.next();
            change_entry(last, term, member, action, Vec::new())
        })
        .collect();
    Ok(first_append(added, term, last))
}

#[cfg(test)]
mod tests {
    use ringd_storage::ids::{RaftIndex, Term};
    use ringd_storage::record::Record;

    use super::*;

    const OWN: MemberId = MemberId::new(2);

    fn change(index: u64, member: u64, action: ChangeAction) -> Entry {
        let made = change_entry(RaftIndex::new(index), Term::new(3), MemberId::new(member), action, Vec::new());
        let append = first_append(vec![made], Term::new(3), RaftIndex::new(index));
        let entry = append.records().find_map(|record| match record {
            Record::Entry(entry) => Some(Entry::from(entry)),
            _ => None,
        });
        entry.expect("one entry")
    }

    fn state(commit: u64) -> HardState {
        HardState { term: Term::new(5), vote: MemberId::new(1), commit: RaftIndex::new(commit) }
    }

    /// The changes an append makes, with their indexes.
    fn changes(append: &Append) -> Vec<(u64, u64, ChangeAction)> {
        let records = append.records().filter_map(|record| match record {
            Record::Entry(entry) => {
                let decoded = ConfChangeEntry::decode(&entry_from_record(entry)).unwrap();
                assert_eq!((entry.term, entry.kind), (Term::new(5), EntryKind::ConfChange));
                Some((entry.index.get(), decoded.member.get(), decoded.action))
            }
            _ => None,
        });
        records.collect()
    }

    #[test]
    fn others_leave_and_everything_counts_as_committed() {
        let log =
            [change(4, 3, ChangeAction::Voter), change(5, 1, ChangeAction::Remove), change(6, 9, ChangeAction::Voter)];
        let voters = [1, 2].map(MemberId::new);
        let append = append_alone(OWN, &voters, &[], &log, &state(5)).unwrap();
        assert_eq!(changes(&append), [(7, 3, ChangeAction::Remove), (8, 9, ChangeAction::Remove)]);
        let committed = append.records().find_map(|record| match record {
            Record::HardState(state) => Some(state.commit.get()),
            _ => None,
        });
        assert_eq!(committed, Some(8));
    }

    #[test]
    fn a_learner_gets_its_vote_before_the_others_leave() {
        let log = [change(1, 1, ChangeAction::Voter), change(2, 2, ChangeAction::Learner)];
        let append = append_alone(OWN, &[], &[], &log, &state(2)).unwrap();
        assert_eq!(changes(&append), [(3, 2, ChangeAction::Voter), (4, 1, ChangeAction::Remove)]);
        // The same as a snapshot tells it.
        let append = append_alone(OWN, &[MemberId::new(1)], &[OWN], &[], &state(2)).unwrap();
        assert_eq!(changes(&append), [(3, 2, ChangeAction::Voter), (4, 1, ChangeAction::Remove)]);
    }

    #[test]
    fn who_is_alone_stays_as_it_is() {
        assert_eq!(changes(&append_alone(OWN, &[OWN], &[], &[], &state(7)).unwrap()), []);
    }
}
