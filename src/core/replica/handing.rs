//! How leadership is handed over, and what becomes of the writes that come meanwhile.
//!
//! Owns: the choice of who leads next, and the proposals that wait for it. Touches: the replica's fields. Must hold: a
//! proposal that waited goes on at most once, and only as one that no log has seen.

use ringd_storage::ids::MemberId;

use super::{Replica, room_for};

impl Replica {
    /// Of the other voters that were heard of lately, the one that is furthest. `None` when there is none, or this node
    /// does not lead.
    #[must_use]
    pub fn furthest_voter(&self) -> Option<MemberId> {
        self.furthest_beyond(None)
    }

    /// The same, but only if it has on disk what this node has not.
    #[must_use]
    pub fn quicker_voter(&self) -> Option<MemberId> {
        let raft = &self.raw.raft;
        self.furthest_beyond(Some(raft.prs().get(raft.id)?.matched))
    }

    fn furthest_beyond(&self, floor: Option<u64>) -> Option<MemberId> {
        if !self.is_leader() {
            return None;
        }
        let raft = &self.raw.raft;
        let voters = raft.prs().conf().voters();
        let candidates = raft.prs().iter().filter(|(id, progress)| {
            let is_beyond = floor.is_none_or(|floor| progress.matched > floor);
            **id != raft.id && voters.contains(**id) && progress.recent_active && is_beyond
        });
        let (&furthest, _) = candidates.max_by_key(|(id, progress)| (progress.matched, **id))?;
        Some(MemberId::new(furthest))
    }

    /// Asks a voter to take over.
    pub fn transfer_leadership_to(&mut self, to: MemberId) {
        self.raw.transfer_leader(to.get());
        self.handing_since = Some(self.ticks);
    }

    /// Whether anybody else has a vote.
    #[must_use]
    pub fn has_other_voters(&self) -> bool {
        let raft = &self.raw.raft;
        raft.prs().conf().voters().ids().iter().any(|id| id != raft.id)
    }

    /// Whether a transfer is under way.
    #[must_use]
    pub fn is_transferring(&self) -> bool {
        self.raw.raft.lead_transferee.is_some()
    }

    /// Whether proposals must wait for the end of a hand-over: raft-rs drops them until it knows who leads next. Members
    /// that do not know yet that it is another one go on sending theirs here, for an election timeout at most.
    pub(super) fn hands_over(&self) -> bool {
        let recently =
            self.handing_since.is_some_and(|since| self.ticks.saturating_sub(since) <= self.election_ticks as u64);
        self.is_transferring() || recently && !self.is_leader()
    }

    /// Bytes of log that the proposals need which wait for the end of a hand-over: if it fails, they are appended in one
    /// turn.
    #[must_use]
    pub fn handed_over_bytes(&self) -> u64 {
        self.handed_over.iter().map(room_for).sum()
    }

    /// Gives the proposals that waited for the end of a hand-over to whoever leads now.
    pub(super) fn hand_on(&mut self) {
        let (transfers, leader) = (self.is_transferring(), self.raw.raft.leader_id);
        if transfers || leader == 0 && self.hands_over() {
            return;
        }
        // What has waited in vain until here is lost; its clients' time limit tells them.
        for mut message in std::mem::take(&mut self.handed_over) {
            if self.is_leader() {
                self.step(message);
            } else {
                // It leaves in this member's name, for its stream carries no other's.
                message.from = self.raw.raft.id;
                let _ = self.raw.step(message);
            }
        }
    }
}
