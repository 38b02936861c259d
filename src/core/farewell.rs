//! When a member that was removed may end.
//!
//! The others may need it after its removal was committed: one that holds the entry may not know yet that it is
//! committed, and counts the removed member's vote until it does; one whose tail was cut waits to hear from everybody
//! the furthest log calls a voter. So a removed member goes on serving raft, and no clients.
//!
//! Owns: who said that this member was removed. Knows neither raft nor sockets. Must hold: each notice comes once, and
//! the second one in bounded time.

use std::collections::BTreeSet;

use ringd_storage::ids::MemberId;

use super::event::Notice;

/// A removed member ends after so many election timeouts also when the others have not said that they know: long
/// enough for a restart of one of them, short enough for an operator who waits.
const PATIENCE_ELECTIONS: u64 = 30;
/// Members that are remembered: no cluster is larger.
const TOLD_MAX: usize = 64;

/// See the module documentation.
#[derive(Debug, Default)]
pub struct Farewell {
    since: Option<u64>,
    told_by: BTreeSet<MemberId>,
    is_over: bool,
}

impl Farewell {
    /// A member has applied the removal, and said so.
    pub fn told_by(&mut self, member: MemberId) {
        if self.told_by.len() < TOLD_MAX {
            self.told_by.insert(member);
        }
    }

    /// Does what is due at `tick`. `is_removed` says that the removal was applied here; `voters` are the others that
    /// have a vote as far as is known here.
    pub fn advance(
        &mut self,
        is_removed: bool,
        (tick, election_ticks): (u64, u64),
        voters: impl Iterator<Item = MemberId>,
        notices: &mut Vec<Notice>,
    ) {
        if self.is_over || !(is_removed || self.since.is_some() || !self.told_by.is_empty()) {
            return;
        }
        let since = *self.since.get_or_insert_with(|| {
            notices.push(Notice::Removed);
            tick
        });
        let (mut others, mut know) = (0, 0);
        for voter in voters {
            others += 1;
            know += usize::from(self.told_by.contains(&voter));
        }
        // A quorum of those who stay can elect a leader among themselves, and tell the rest.
        if 2 * know > others || tick.saturating_sub(since) >= PATIENCE_ELECTIONS * election_ticks {
            self.is_over = true;
            notices.push(Notice::MayLeave);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn advance(farewell: &mut Farewell, is_removed: bool, tick: u64) -> Vec<Notice> {
        let mut notices = Vec::new();
        farewell.advance(is_removed, (tick, 10), (2..=5).map(MemberId::new), &mut notices);
        notices
    }

    #[test]
    fn it_ends_when_a_quorum_of_those_who_stay_knows() {
        let mut farewell = Farewell::default();
        assert_eq!(advance(&mut farewell, false, 1), []);
        assert_eq!(advance(&mut farewell, true, 2), [Notice::Removed]);
        farewell.told_by(MemberId::new(2));
        farewell.told_by(MemberId::new(3));
        farewell.told_by(MemberId::new(9));
        assert_eq!(advance(&mut farewell, true, 3), []);
        farewell.told_by(MemberId::new(5));
        assert_eq!(advance(&mut farewell, true, 4), [Notice::MayLeave]);
        assert_eq!(advance(&mut farewell, true, 400), []);
    }

    #[test]
    fn it_ends_in_bounded_time_also_when_it_only_heard_of_it() {
        let mut farewell = Farewell::default();
        farewell.told_by(MemberId::new(2));
        assert_eq!(advance(&mut farewell, false, 7), [Notice::Removed]);
        assert_eq!(advance(&mut farewell, false, 306), []);
        assert_eq!(advance(&mut farewell, false, 307), [Notice::MayLeave]);
    }
}
