//! Whether this member may vote: one that may have forgotten what it once acknowledged must not.
//!
//! A member whose tail was cut, or that begins with an empty directory in a cluster of several, could vote for somebody
//! who lacks an entry that it has itself acknowledged, and the entry would be lost ("Protocol-Aware Recovery for
//! Consensus-Based Storage", FAST '18). It has a note on disk that says so, and this gate.
//!
//! Owns: what the other voters said of their logs since this start. Knows neither raft nor disk.
//!
//! The gate opens when one of these holds, and the note has then been removed durably:
//! 1. An entry that this member proposed after its start was applied: everything it could have acknowledged before lies
//!    before that entry in the leader's log, or was never committed.
//! 2. Its log, and those of so many voters that they are a quorum with it, hold nothing but what a cluster begins with,
//!    and no voter said otherwise: there is nothing to forget yet. (A member that loses its disk within the first
//!    moments of a cluster, while the only one that knows is away, is not told apart; etcd has the same gap.)
//!
//! While it is closed, and every other voter has told its position, votes go to logs that reach the furthest of all of
//! them: after a power cut of the whole cluster every member may have cut its tail, and somebody has to begin.

use std::collections::BTreeMap;

use ringd_storage::ids::MemberId;

use super::event::Standing;
use super::replica::{LogPosition, VoteFloor};

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Gate {
    heard: BTreeMap<MemberId, Standing>,
    /// The reason to open it was seen; only the note is left.
    is_proven: bool,
}

/// What the gate says now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Remove the note; then the gate may go.
    Open,
    /// Votes are limited.
    Closed(VoteFloor),
}

impl Gate {
    /// Another member told how it stands; what it said before no longer counts.
    pub fn hear(&mut self, member: MemberId, standing: Standing) {
        self.heard.insert(member, standing);
    }

    /// An entry that this member proposed since its start was applied.
    pub fn prove(&mut self) {
        self.is_proven = true;
    }

    /// The verdict for member `own`, whose log ends at `position`; `is_fresh` says that it holds nothing but what a
    /// cluster begins with.
    #[must_use]
    pub fn verdict(&self, own: MemberId, position: LogPosition, is_fresh: bool, voters: &[MemberId]) -> Verdict {
        let heard = || voters.iter().filter_map(|voter| self.heard.get(voter).filter(|_| *voter != own));
        let others = voters.iter().filter(|voter| **voter != own).count();
        let nothing_yet = is_fresh
            && voters.contains(&own)
            && heard().count() + 1 > voters.len() / 2
            && heard().all(|standing| !standing.past_bootstrap && !standing.knows_you && !standing.removed_you);
        if self.is_proven || others == 0 && voters.contains(&own) || nothing_yet {
            return Verdict::Open;
        }
        if heard().count() < others || voters.is_empty() {
            return Verdict::Closed(VoteFloor::Nobody);
        }
        let furthest = heard().map(|standing| (standing.last_term, standing.last_index)).max();
        Verdict::Closed(VoteFloor::From(furthest.map_or(position, |furthest| furthest.max(position))))
    }
}

#[cfg(test)]
mod tests {
    use ringd_storage::ids::{RaftIndex, Term};

    use super::*;

    const OWN: MemberId = MemberId::new(1);

    fn voters() -> Vec<MemberId> {
        (1..=3).map(MemberId::new).collect()
    }

    fn at(term: u64, index: u64) -> LogPosition {
        (Term::new(term), RaftIndex::new(index))
    }

    fn standing(term: u64, index: u64) -> Standing {
        let (last_term, last_index) = at(term, index);
        Standing { last_index, last_term, past_bootstrap: term > 1, ..Standing::default() }
    }

    #[test]
    fn a_new_cluster_begins_when_a_quorum_of_empty_logs_has_met() {
        let mut gate = Gate::default();
        assert_eq!(gate.verdict(OWN, at(1, 3), true, &voters()), Verdict::Closed(VoteFloor::Nobody));
        gate.hear(MemberId::new(2), standing(1, 3));
        assert_eq!(gate.verdict(OWN, at(1, 3), true, &voters()), Verdict::Open);
        gate.hear(MemberId::new(3), standing(4, 90));
        let from = Verdict::Closed(VoteFloor::From(at(4, 90)));
        assert_eq!(gate.verdict(OWN, at(1, 3), true, &voters()), from, "the cluster exists");
    }

    #[test]
    fn a_member_that_is_known_has_lost_something() {
        let mut gate = Gate::default();
        gate.hear(MemberId::new(2), Standing { knows_you: true, ..standing(1, 3) });
        assert_eq!(gate.verdict(OWN, at(1, 3), true, &voters()), Verdict::Closed(VoteFloor::Nobody));
    }

    #[test]
    fn after_a_cut_votes_wait_for_all_and_then_go_to_the_furthest_log() {
        let mut gate = Gate::default();
        gate.hear(MemberId::new(2), standing(3, 50));
        assert_eq!(gate.verdict(OWN, at(3, 60), false, &voters()), Verdict::Closed(VoteFloor::Nobody));
        gate.hear(MemberId::new(3), standing(4, 40));
        assert_eq!(gate.verdict(OWN, at(3, 60), false, &voters()), Verdict::Closed(VoteFloor::From(at(4, 40))));
        gate.hear(MemberId::new(3), standing(3, 40));
        assert_eq!(gate.verdict(OWN, at(3, 60), false, &voters()), Verdict::Closed(VoteFloor::From(at(3, 60))));
        gate.prove();
        assert_eq!(gate.verdict(OWN, at(3, 60), false, &voters()), Verdict::Open);
    }

    #[test]
    fn a_newcomer_that_knows_no_voter_votes_for_nobody() {
        assert_eq!(Gate::default().verdict(OWN, at(0, 0), true, &[]), Verdict::Closed(VoteFloor::Nobody));
    }

    #[test]
    fn a_single_voter_has_nobody_to_ask() {
        assert_eq!(Gate::default().verdict(OWN, at(3, 9), false, &[OWN]), Verdict::Open);
    }
}
