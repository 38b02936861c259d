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
//! them: after a power cut of the whole cluster every member may have cut its tail, and somebody has to begin. (Who
//! votes is told by the furthest log's applied configuration. If two changes of membership in a row were committed and
//! not applied there, and the entry is only on a member of the second, it could be missed.)
//!
//! The logs of members that nobody knows as voters do not count: a leader sends what it has not synced yet, so a learner
//! may hold more than any voter after a power cut, and cannot be elected; waiting for its log would last for ever. (What
//! a learner acknowledged counts for a quorum only after its promotion was committed, and somebody applied it. If that
//! one has lost what it had synced and nobody else has applied the promotion, an entry could be missed.)
//!
//! What was promised to a newer leader may be forgotten like the rest. An older one goes on leading for two election
//! timeouts at most after it last heard from a quorum; for so long after its start, this member hears no leader
//! (`replica.rs`). A vote may be forgotten too. (While the candidate it was given to has not counted it, a second vote in
//! its term could follow. A candidate counts a vote when it arrives, and a start takes longer than that unless the network
//! holds the vote back for so long.)

use std::collections::BTreeMap;

use ringd_storage::ids::MemberId;

use super::event::Standing;
use super::replica::{LogPosition, VoteFloor};

/// Standings that are kept: no cluster is larger, and whoever sends more is none of its members.
const HEARD_MAX: usize = 64;

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
        if self.heard.len() < HEARD_MAX || self.heard.contains_key(&member) {
            self.heard.insert(member, standing);
        }
    }

    /// An entry that this member proposed since its start was applied.
    pub fn prove(&mut self) {
        self.is_proven = true;
    }

    /// The verdict for member `own`, whose log ends at `position`; `is_fresh` says that it holds nothing but what a
    /// cluster begins with.
    #[must_use]
    pub fn verdict(&self, own: MemberId, position: LogPosition, is_fresh: bool, voters: &[MemberId]) -> Verdict {
        let mut others = voters.iter().filter(|voter| **voter != own).peekable();
        let is_alone = voters.contains(&own) && others.peek().is_none();
        let of_voters: Vec<&Standing> = others.filter_map(|voter| self.heard.get(voter)).collect();
        let nothing_yet = is_fresh
            && voters.contains(&own)
            && of_voters.len() + 1 > voters.len() / 2
            && self.heard.values().all(|said| !said.past_bootstrap && !said.knows_you && !said.removed_you);
        if self.is_proven || is_alone || nothing_yet {
            return Verdict::Open;
        }
        // Whoever has the furthest log knows best who votes: a member that left since will never be heard.
        let counts =
            |member: &MemberId| voters.contains(member) || self.heard.values().any(|said| said.voters.contains(member));
        let of_voters = self.heard.iter().filter(|(member, _)| counts(member));
        let said = of_voters.map(|(_, said)| ((said.last_term, said.last_index), said.voters.as_slice()));
        let (furthest, voters) = said.chain([(position, voters)]).max().expect("there is at least the own log");
        let all_heard = voters.iter().all(|voter| *voter == own || self.heard.contains_key(voter));
        if all_heard && !voters.is_empty() {
            Verdict::Closed(VoteFloor::From(furthest))
        } else {
            Verdict::Closed(VoteFloor::Nobody)
        }
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
        Standing { last_index, last_term, past_bootstrap: term > 1, voters: voters(), ..Standing::default() }
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
        gate.hear(MemberId::new(3), Standing { voters: vec![OWN, MemberId::new(3)], ..standing(4, 90) });
        let mut gate = Gate { heard: gate.heard.split_off(&MemberId::new(3)), is_proven: false };
        assert_eq!(gate.verdict(OWN, at(1, 3), true, &voters()), from, "member 2 has left");
        gate.hear(MemberId::new(3), standing(4, 90));
        assert_eq!(gate.verdict(OWN, at(1, 3), true, &voters()), Verdict::Closed(VoteFloor::Nobody));
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
    fn a_learners_log_holds_up_no_election() {
        let mut gate = Gate::default();
        gate.hear(MemberId::new(2), Standing { voters: vec![OWN, MemberId::new(2)], ..standing(4, 47) });
        gate.hear(MemberId::new(64), Standing { voters: vec![OWN, MemberId::new(2)], ..standing(4, 50) });
        let voters = [OWN, MemberId::new(2)];
        assert_eq!(gate.verdict(OWN, at(4, 46), false, &voters), Verdict::Closed(VoteFloor::From(at(4, 47))));
        let promoted = vec![OWN, MemberId::new(2), MemberId::new(64)];
        gate.hear(MemberId::new(2), Standing { voters: promoted, ..standing(4, 47) });
        let floor = Verdict::Closed(VoteFloor::From(at(4, 50)));
        assert_eq!(gate.verdict(OWN, at(4, 46), false, &voters), floor, "somebody knows it as a voter");
    }

    #[test]
    fn a_newcomer_votes_when_all_other_voters_were_heard() {
        let mut gate = Gate::default();
        assert_eq!(gate.verdict(OWN, at(0, 0), true, &[]), Verdict::Closed(VoteFloor::Nobody));
        gate.hear(MemberId::new(9), Standing { voters: Vec::new(), ..standing(0, 0) });
        gate.hear(MemberId::new(2), Standing { voters: vec![OWN, MemberId::new(2)], ..standing(4, 40) });
        assert_eq!(gate.verdict(OWN, at(0, 0), true, &[]), Verdict::Closed(VoteFloor::From(at(4, 40))));
        gate.hear(MemberId::new(2), Standing { voters: voters(), ..standing(5, 50) });
        assert_eq!(gate.verdict(OWN, at(0, 0), true, &[]), Verdict::Closed(VoteFloor::Nobody), "one is missing");
    }

    #[test]
    fn a_single_voter_has_nobody_to_ask() {
        assert_eq!(Gate::default().verdict(OWN, at(3, 9), false, &[OWN]), Verdict::Open);
    }
}
