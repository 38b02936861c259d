//! Members that applied the same entries are equal, and nothing of a member moves back while it runs.
//!
//! Must hold: one digest per applied index, whoever computes it; one leader per term; applied and committed positions
//! only grow in one life.

use std::collections::BTreeMap;

use super::Verdict;

/// How far back digests are kept, in applied entries: members that lag further are compared at their next digest.
const KEPT: u64 = 4000;

/// See the module documentation.
#[derive(Default)]
pub struct States {
    digests: BTreeMap<u64, (u64, u8)>,
    leaders: BTreeMap<u64, u64>,
    /// Per host: life, applied, committed, store index.
    marks: BTreeMap<u8, (u32, [u64; 3])>,
}

impl States {
    /// A member's state after applying up to `applied` has this digest.
    ///
    /// # Errors
    /// When another member's differs.
    pub fn digest(&mut self, host: u8, applied: u64, digest: u64) -> Verdict {
        let (known, of) = *self.digests.entry(applied).or_insert((digest, host));
        if known != digest {
            return Err(format!("hosts {of} and {host} differ after applying entry {applied}"));
        }
        while self.digests.first_key_value().is_some_and(|(first, _)| first + KEPT < applied) {
            self.digests.pop_first();
        }
        Ok(())
    }

    /// A member leads in a term.
    ///
    /// # Errors
    /// When another one does.
    pub fn leads(&mut self, member: u64, term: u64) -> Verdict {
        let known = *self.leaders.entry(term).or_insert(member);
        if known != member {
            return Err(format!("members {known:x} and {member:x} both lead in term {term}"));
        }
        Ok(())
    }

    /// Where a host's node stands: applied and committed entries, and the store's index.
    ///
    /// # Errors
    /// When one of them moved back in this life.
    pub fn stands(&mut self, host: u8, life: u32, marks: [u64; 3]) -> Verdict {
        let (known_life, known) = self.marks.entry(host).or_insert((life, marks));
        if *known_life != life {
            (*known_life, *known) = (life, marks);
        }
        if let Some(at) = (0..3).find(|&at| marks[at] < known[at]) {
            let what = ["applied entry", "committed entry", "index"][at];
            return Err(format!("the {what} of host {host} moved back from {} to {}", known[at], marks[at]));
        }
        *known = marks;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_agrees_passes_and_what_does_not_is_rejected() {
        let mut states = States::default();
        states.digest(1, 10, 77).unwrap();
        states.digest(2, 10, 77).unwrap();
        assert!(states.digest(3, 10, 78).is_err(), "another state");
        states.leads(1, 5).unwrap();
        states.leads(1, 5).unwrap();
        assert!(states.leads(2, 5).is_err(), "two leaders");
        states.stands(1, 1, [5, 6, 7]).unwrap();
        assert!(states.stands(1, 1, [4, 6, 7]).is_err(), "applied goes back");
        assert!(states.stands(1, 1, [5, 6, 6]).is_err(), "the index goes back");
        states.stands(1, 2, [3, 3, 3]).unwrap();
    }
}
