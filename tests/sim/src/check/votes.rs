//! Votes, as the network saw them: what a member promised before a crash binds it afterwards.
//!
//! Owns: who was voted for, what was acknowledged, and what candidates said of their logs. Must hold (raft paper, 5.2
//! and 5.4.1): a member votes for at most one candidate per term, whatever it has forgotten since; and for none,
//! itself included, whose log ends before what it has acknowledged, unless a later leader has replaced that.

use std::collections::BTreeMap;

use super::Verdict;

/// A place in a log: raft compares logs by their last one.
type Place = (u64, u64);

/// What a member acknowledged last.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    /// To the leader of this term.
    leader_term: u64,
    /// The last entry: its term, or less, and its index.
    place: Place,
}

/// See the module documentation.
#[derive(Default)]
pub struct Votes {
    /// Per member and term.
    given: BTreeMap<(u64, u64), u64>,
    /// Where a candidate's log ends, per candidate and term.
    asked: BTreeMap<(u64, u64), Place>,
    /// Per leader's term, and term of its entries: the first index at which such an entry was seen.
    runs: BTreeMap<u64, BTreeMap<u64, u64>>,
    acknowledged: BTreeMap<u64, Acknowledged>,
}

impl Votes {
    /// A candidate asks for votes: it has voted for itself.
    ///
    /// # Errors
    /// As [`Votes::votes`].
    pub fn asks(&mut self, candidate: u64, term: u64, place: (u64, u64)) -> Verdict {
        self.asked.insert((candidate, term), place);
        self.votes(candidate, term, candidate)
    }

    /// A member gives its vote.
    ///
    /// # Errors
    /// When it gave it to somebody else in this term, or has acknowledged what the candidate lacks.
    pub fn votes(&mut self, member: u64, term: u64, candidate: u64) -> Verdict {
        let known = *self.given.entry((member, term)).or_insert(candidate);
        if known != candidate {
            return Err(format!("member {member:x} votes for {known:x} and for {candidate:x} in term {term}"));
        }
        let (Some(acknowledged), Some(place)) = (self.acknowledged.get(&member), self.asked.get(&(candidate, term)))
        else {
            return Ok(());
        };
        if *place < acknowledged.place {
            return Err(format!(
                "member {member:x} votes in term {term} for {candidate:x}, whose log ends at {place:?} (term, index), and \
                 has acknowledged {:?}",
                acknowledged.place
            ));
        }
        Ok(())
    }

    /// A leader's log has an entry of `entry_term` at `index`.
    pub fn leads_with(&mut self, leader_term: u64, entry_term: u64, index: u64) {
        let first = self.runs.entry(leader_term).or_default().entry(entry_term).or_insert(index);
        *first = index.min(*first);
    }

    /// A member acknowledges a leader's log up to `index`.
    pub fn acknowledges(&mut self, member: u64, leader_term: u64, index: u64) {
        // Terms only grow along a log: the newest run that has begun by then says the least the entry's term can be.
        let runs = self.runs.get(&leader_term).into_iter().flatten();
        let Some(term) = runs.filter(|(_, first)| **first <= index).map(|(term, _)| *term).max() else { return };
        let place = (term, index);
        let known = self.acknowledged.entry(member).or_insert(Acknowledged { leader_term, place });
        if leader_term > known.leader_term || leader_term == known.leader_term && place > known.place {
            *known = Acknowledged { leader_term, place };
        }
    }

    /// A leader's entries or snapshot reach a member: those of a later leader may replace what it has acknowledged.
    pub fn hears(&mut self, member: u64, leader_term: u64) {
        if self.acknowledged.get(&member).is_some_and(|known| known.leader_term < leader_term) {
            self.acknowledged.remove(&member);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged() -> Votes {
        let mut votes = Votes::default();
        votes.leads_with(4, 2, 5);
        votes.leads_with(4, 4, 9);
        votes.acknowledges(1, 4, 10);
        votes.acknowledges(1, 4, 7);
        votes
    }

    #[test]
    fn honest_votes_pass() {
        let mut votes = acknowledged();
        votes.asks(2, 5, (4, 10)).unwrap();
        votes.votes(1, 5, 2).unwrap();
        votes.votes(1, 5, 2).unwrap();
        votes.asks(3, 6, (5, 3)).unwrap();
        votes.votes(1, 6, 3).unwrap();
        votes.asks(2, 7, (3, 8)).unwrap();
        votes.votes(3, 7, 2).unwrap();
        votes.hears(1, 4);
        votes.hears(1, 6);
        votes.votes(1, 7, 2).unwrap();
    }

    #[test]
    fn votes_that_were_forgotten_are_rejected() {
        let mut votes = acknowledged();
        votes.asks(2, 5, (4, 12)).unwrap();
        votes.votes(1, 5, 2).unwrap();
        votes.asks(3, 5, (4, 12)).unwrap();
        assert!(votes.votes(1, 5, 3).is_err(), "two votes in one term");
        assert!(votes.votes(2, 5, 3).is_err(), "a candidate votes for itself");
        assert!(votes.asks(1, 5, (4, 12)).is_err(), "it has voted and stands itself");
        votes.asks(3, 6, (4, 9)).unwrap();
        assert!(votes.votes(1, 6, 3).is_err(), "the candidate lacks entry 10");
        assert!(votes.asks(1, 8, (4, 9)).is_err(), "it stands itself and lacks it");
        votes.asks(3, 7, (3, 40)).unwrap();
        votes.hears(1, 4);
        assert!(votes.votes(1, 7, 3).is_err(), "a longer log of an earlier term");
    }
}
