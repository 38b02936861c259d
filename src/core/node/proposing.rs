//! How a client's command enters the log, or is refused.
//!
//! Owns: when commands wait for a leader. Touches: the node's queue of proposals. Must hold: what is queued is bounded.

use ringd_storage::ids::UnixNanos;
use ringd_storage::payload::Command;

use super::super::event::{Answer, ClientToken, Effects, Outcome, ProposalFailure};
use super::{Node, QUEUED_BYTES_MAX, QUEUED_MAX};

impl Node {
    pub(super) fn propose(&mut self, token: ClientToken, command: Command<'_>, now: UnixNanos) {
        let queue = &self.machine.proposals;
        let is_long = queue.queued() >= QUEUED_MAX || queue.queued_bytes() >= QUEUED_BYTES_MAX;
        let queue_full = !self.may_propose() && is_long;
        if !self.room {
            self.answer_early(token, ProposalFailure::NoSpace);
        } else if queue_full {
            self.answer_early(token, ProposalFailure::NotProposed);
        } else {
            self.machine.proposals.queue(Some(token), command, now, self.tick);
        }
    }

    /// Whether somebody leads who takes proposals: not one that hands over.
    pub(super) fn may_propose(&self) -> bool {
        self.has_leader() && !self.replica.is_transferring()
    }

    pub(super) fn flush_proposals(&mut self, effects: &mut Effects) {
        if !self.machine.proposals.has_queued() || !self.may_propose() {
            return;
        }
        let from = self.machine.proposals.queued_from();
        if self.replica.propose(self.machine.proposals.take_queued()).is_err() {
            let mut refused = Vec::new();
            self.machine.proposals.refuse_from(from, &mut refused);
            effects.answers.extend(
                refused
                    .into_iter()
                    .map(|token| Answer { token, outcome: Outcome::Failed(ProposalFailure::NotProposed) }),
            );
        }
    }
}
