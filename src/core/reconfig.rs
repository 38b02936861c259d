//! Changes of membership on their way into the log: one at a time, in the order they were asked for.
//!
//! Owns: the clients that wait for their turn, and the one change that is in flight. Touches: the replica and the
//! proposals it is given. What a change does is decided where it is applied (`machine.rs`).
//!
//! Invariants:
//! 1. At most one change of this member is in the log and not applied: raft drops a second one without a word.
//! 2. Every client is answered once: here when its change is refused or too late to begin, else by apply or by the
//!    proposals' own time limit.

use std::collections::VecDeque;

use ringd_storage::codec;
use ringd_storage::ids::{MemberId, Term};
use ringd_storage::payload::{MemberRecord, ProposalId};

use super::entries::{ChangeAction, member_vote};
use super::event::{Answer, ClientToken, Outcome, ProposalFailure};
use super::membership::{MemberChange, Membership};
use super::proposals::Proposals;
use super::replica::Replica;

/// A learner this close to the leader's last entry has caught up: what is under way during a round trip at full rate.
const PROMOTION_LAG_MAX: u64 = 1000;
/// Changes that may wait; beyond it they are refused at once.
const WAITING_MAX: usize = 64;

#[derive(Debug)]
struct Waiting {
    token: ClientToken,
    change: MemberChange,
    since_tick: u64,
}

/// The change in the log. A lost leader or a dropped entry ends it without an apply, hence term and tick.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    id: ProposalId,
    term: Term,
    tick: u64,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Reconfig {
    waiting: VecDeque<Waiting>,
    in_flight: Option<InFlight>,
}

impl Reconfig {
    /// Takes a client's change. False when too many wait already; the client has not been answered then.
    pub fn push(&mut self, token: ClientToken, change: MemberChange, tick: u64) -> bool {
        let fits = self.waiting.len() < WAITING_MAX;
        if fits {
            self.waiting.push_back(Waiting { token, change, since_tick: tick });
        }
        fits
    }

    /// A change was applied.
    pub fn applied(&mut self, id: ProposalId) {
        if self.in_flight.is_some_and(|flying| flying.id == id) {
            self.in_flight = None;
        }
    }

    /// Gives up on clients whose change has not begun before `tick`, and on a change in flight since then.
    pub fn expire(&mut self, tick: u64, answers: &mut Vec<Answer>) {
        while self.waiting.front().is_some_and(|front| front.since_tick < tick) {
            let late = self.waiting.pop_front().expect("front exists");
            answers.push(Answer { token: late.token, outcome: Outcome::Failed(ProposalFailure::Timeout) });
        }
        if self.in_flight.is_some_and(|flying| flying.tick < tick) {
            self.in_flight = None;
        }
    }

    /// Proposes the next change that the members allow, if none is in flight and somebody leads. `strict` asks for
    /// etcd's `--strict-reconfig-check`. Nothing may be queued in `proposals`.
    pub fn advance(
        &mut self,
        replica: &mut Replica,
        proposals: &mut Proposals,
        members: &Membership,
        strict: bool,
        tick: u64,
        answers: &mut Vec<Answer>,
    ) {
        if self.in_flight.is_some_and(|flying| flying.term != replica.term()) {
            self.in_flight = None;
        }
        while self.in_flight.is_none() && replica.leader() != MemberId::default() && !replica.change_is_pending() {
            let Some(Waiting { token, change, .. }) = self.waiting.pop_front() else { return };
            let quorum = if strict { members.check_quorum(&change) } else { Ok(()) };
            if let Err(refusal) = quorum.and_then(|()| members.validate(&change)) {
                answers.push(Answer { token, outcome: Outcome::Members(Err(refusal)) });
                continue;
            }
            let (id, action, record) = match &change {
                // etcd lets anybody join a cluster of one with a vote, which costs the quorum until it has started
                // (conformance case `zz_disposable`). In any other cluster a newcomer first learns what there is.
                MemberChange::Add(member) if replica.has_other_voters() => {
                    (member.id, ChangeAction::Learner, member.record())
                }
                MemberChange::Add(member) => (member.id, ChangeAction::Voter, member.record()),
                MemberChange::Remove(id) => (*id, ChangeAction::Remove, bare_record(*id)),
                MemberChange::Update { .. } => unreachable!("an update is no change of raft's configuration"),
            };
            let mut context = Vec::new();
            codec::encode_into(&record, &mut context);
            let proposal = proposals.reserve(token, tick);
            let mut waiter = Vec::new();
            codec::encode_into(&proposal, &mut waiter);
            if replica.propose_change(waiter, member_vote(id, action, context)).is_ok() {
                self.in_flight = Some(InFlight { id: proposal, term: replica.term(), tick });
            } else if let Some(token) = proposals.applied(proposal) {
                answers.push(Answer { token, outcome: Outcome::Failed(ProposalFailure::NotProposed) });
            }
        }
    }

    /// A leader's: gives a learner that has caught up its vote. Called once per tick; if the entry is lost, the next
    /// leader does the same.
    pub fn promote(&self, replica: &mut Replica) {
        if replica.change_is_pending() {
            return;
        }
        if let Some(learner) = replica.caught_up_learner(PROMOTION_LAG_MAX) {
            let _ = replica.propose_change(Vec::new(), member_vote(learner, ChangeAction::Voter, Vec::new()));
        }
    }

    /// Whether a change could begin now.
    #[must_use]
    pub fn is_ready(&self, replica: &Replica) -> bool {
        !self.waiting.is_empty()
            && self.in_flight.is_none()
            && replica.leader() != MemberId::default()
            && !replica.change_is_pending()
    }
}

fn bare_record(id: MemberId) -> MemberRecord<'static> {
    MemberRecord { id, name: "", peer_urls: Vec::new(), client_urls: Vec::new() }
}
