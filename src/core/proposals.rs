//! The clients that wait for their writes, from proposal to apply.
//!
//! Owns: the window of outstanding proposals and the bytes queued for the next turn. Touches: payload types.
//!
//! Invariants:
//! 1. A waiter is found by the proposal's own id, never by its place in the log: entries of a lost leader may vanish,
//!    and a conf change may become an empty entry.
//! 2. Sequence numbers never repeat over restarts: they start at the clock of the start, and no node makes a proposal
//!    per nanosecond.
//! 3. Every waiter is answered exactly once.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use ringd_storage::ids::{MemberId, UnixNanos};
use ringd_storage::payload::{Command, Proposal, ProposalId};

use super::event::ClientToken;
use super::replica::ENTRY_ROOM_BYTES;

/// Encoded proposals share allocations of this size: one allocation per few hundred writes.
const ARENA_BYTES: usize = 64 << 10;

#[derive(Debug)]
struct Waiter {
    token: ClientToken,
    bytes: u32,
    since_tick: u64,
}

/// What a proposal under way costs beside its encoding: its waiter here and in the shell, raft's entry, its answer.
pub const PROPOSAL_OVERHEAD_BYTES: usize = 256;

/// Outstanding proposals of this member.
#[derive(Debug)]
pub struct Proposals {
    origin: MemberId,
    /// The first sequence number of this start.
    start_seq: u64,
    /// The sequence number of the window's first place.
    first_seq: u64,
    window: VecDeque<Option<Waiter>>,
    outstanding: usize,
    /// What they cost; see [`Proposals::bytes`].
    bytes: u64,
    arena: BytesMut,
    scratch: Vec<u8>,
    queued: Vec<Bytes>,
    queued_bytes: u64,
    queued_from_seq: u64,
}

impl Proposals {
    /// Sequence numbers start at `start`, the clock of this start.
    #[must_use]
    pub fn new(origin: MemberId, start: UnixNanos) -> Self {
        Self {
            origin,
            start_seq: start.get(),
            first_seq: start.get(),
            window: VecDeque::new(),
            outstanding: 0,
            bytes: 0,
            arena: BytesMut::new(),
            scratch: Vec::new(),
            queued: Vec::new(),
            queued_bytes: 0,
            queued_from_seq: start.get(),
        }
    }

    /// The member that proposes here.
    #[must_use]
    pub const fn origin(&self) -> MemberId {
        self.origin
    }

    /// Whether this member made a proposal since its start.
    #[must_use]
    pub fn is_own(&self, id: ProposalId) -> bool {
        // The upper bound matters after a start whose clock lies before that of an earlier one.
        id.origin == self.origin && (self.start_seq..self.next_seq()).contains(&id.seq)
    }

    fn next_seq(&self) -> u64 {
        self.first_seq + self.window.len() as u64
    }

    /// Queues a command for this turn's batch. Without a token nobody waits (the node's own bookkeeping).
    pub fn queue(&mut self, token: Option<ClientToken>, command: Command<'_>, at: UnixNanos, tick: u64) {
        let id = ProposalId { origin: self.origin, seq: self.next_seq() };
        self.scratch.clear();
        Proposal { id, at, command }.encode_into(&mut self.scratch);
        if self.arena.capacity() < self.scratch.len() {
            self.arena = BytesMut::with_capacity(ARENA_BYTES.max(self.scratch.len()));
        }
        self.arena.extend_from_slice(&self.scratch);
        let bytes = u32::try_from(self.scratch.len() + PROPOSAL_OVERHEAD_BYTES).unwrap_or(u32::MAX);
        self.queued_bytes += self.scratch.len() as u64 + ENTRY_ROOM_BYTES;
        self.queued.push(self.arena.split().freeze());
        self.window.push_back(token.map(|token| Waiter { token, bytes, since_tick: tick }));
        if token.is_some() {
            self.outstanding += 1;
            self.bytes += u64::from(bytes);
        }
    }

    /// A place for a proposal that does not travel with the batch. Nothing may be queued.
    ///
    /// # Panics
    /// When something is.
    pub fn reserve(&mut self, token: ClientToken, tick: u64) -> ProposalId {
        assert!(self.queued.is_empty(), "a batch is gathering");
        let id = ProposalId { origin: self.origin, seq: self.next_seq() };
        self.outstanding += 1;
        self.window.push_back(Some(Waiter { token, bytes: 0, since_tick: tick }));
        self.queued_from_seq = self.next_seq();
        id
    }

    /// How many are queued.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued.len()
    }

    /// Bytes of log that what is queued needs, at most.
    #[must_use]
    pub fn queued_bytes(&self) -> u64 {
        self.queued_bytes
    }

    /// Whether anything is queued.
    #[must_use]
    pub fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// The queued entries' data, in order. They count as proposed once this was called.
    pub fn take_queued(&mut self) -> std::vec::Drain<'_, Bytes> {
        self.queued_from_seq = self.next_seq();
        self.queued_bytes = 0;
        self.queued.drain(..)
    }

    /// Puts a batch aside that raft did not take: its waiters, in order.
    pub fn refuse_from(&mut self, from_seq: u64, refused: &mut Vec<ClientToken>) {
        while self.next_seq() > from_seq {
            if let Some(Some(waiter)) = self.window.pop_back() {
                self.outstanding -= 1;
                self.bytes -= u64::from(waiter.bytes);
                refused.push(waiter.token);
            }
        }
        self.queued_from_seq = self.next_seq();
        refused.reverse();
    }

    /// The first sequence number of the batch that is queued now.
    #[must_use]
    pub fn queued_from(&self) -> u64 {
        self.queued_from_seq
    }

    /// An entry with this id was applied: the client that waits for it here, if any.
    pub fn applied(&mut self, id: ProposalId) -> Option<ClientToken> {
        if id.origin != self.origin || id.seq < self.first_seq {
            return None;
        }
        let place = usize::try_from(id.seq - self.first_seq).ok()?;
        let waiter = self.window.get_mut(place)?.take();
        self.trim();
        let waiter = waiter?;
        self.outstanding -= 1;
        self.bytes -= u64::from(waiter.bytes);
        Some(waiter.token)
    }

    /// Gives up on proposals made before `tick`.
    pub fn expire(&mut self, tick: u64, expired: &mut Vec<ClientToken>) {
        for place in &mut self.window {
            match place {
                Some(waiter) if waiter.since_tick < tick => {
                    expired.push(waiter.token);
                    self.outstanding -= 1;
                    self.bytes -= u64::from(waiter.bytes);
                    *place = None;
                }
                Some(_) => break,
                None => {}
            }
        }
        self.trim();
    }

    /// Closes the window up to the first waiter. Bookkeeping proposals hold no place open.
    fn trim(&mut self) {
        while matches!(self.window.front(), Some(None)) && self.first_seq < self.queued_from_seq {
            self.window.pop_front();
            self.first_seq += 1;
        }
    }

    /// Clients that wait.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Bytes of the proposals they wait for, each with [`PROPOSAL_OVERHEAD_BYTES`]; also of those that were forwarded.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(seq: u32) -> ClientToken {
        ClientToken { slot: 0, generation: 0, seq }
    }

    fn filled(count: u32) -> Proposals {
        let mut proposals = Proposals::new(MemberId::new(1), UnixNanos::new(1000));
        for seq in 0..count {
            proposals.queue(Some(token(seq)), Command::Expire { limit: 1 }, UnixNanos::ZERO, u64::from(seq));
        }
        proposals
    }

    fn id(seq: u64) -> ProposalId {
        ProposalId { origin: MemberId::new(1), seq: 1000 + seq }
    }

    #[test]
    fn waiters_are_found_by_id_in_any_order_and_once() {
        let mut proposals = filled(3);
        assert_eq!(proposals.take_queued().count(), 3);
        assert_eq!(proposals.applied(id(1)), Some(token(1)));
        assert_eq!(proposals.applied(id(1)), None);
        assert_eq!(proposals.applied(id(0)), Some(token(0)));
        assert_eq!(proposals.applied(id(2)), Some(token(2)));
        assert_eq!((proposals.outstanding(), proposals.bytes()), (0, 0));
        assert_eq!(proposals.applied(id(3)), None);
        assert_eq!(proposals.applied(ProposalId { origin: MemberId::new(2), seq: 1000 }), None);
    }

    #[test]
    fn a_refused_batch_answers_its_own_waiters_only() {
        let mut proposals = filled(2);
        proposals.take_queued();
        let (from, bytes) = (proposals.queued_from(), proposals.bytes());
        assert!(bytes > 2 * PROPOSAL_OVERHEAD_BYTES as u64);
        proposals.queue(Some(token(7)), Command::Expire { limit: 1 }, UnixNanos::ZERO, 0);
        proposals.queue(None, Command::Expire { limit: 1 }, UnixNanos::ZERO, 0);
        proposals.take_queued();
        let mut refused = Vec::new();
        proposals.refuse_from(from, &mut refused);
        assert_eq!(refused, [token(7)]);
        assert_eq!((proposals.outstanding(), proposals.bytes()), (2, bytes));
    }

    #[test]
    fn old_proposals_expire_and_their_late_apply_finds_nobody() {
        let mut proposals = filled(3);
        proposals.take_queued();
        let mut expired = Vec::new();
        let bytes = proposals.bytes();
        proposals.expire(2, &mut expired);
        assert_eq!(expired, [token(0), token(1)]);
        assert_eq!(proposals.bytes(), bytes / 3);
        assert_eq!(proposals.applied(id(0)), None);
        assert_eq!(proposals.applied(id(2)), Some(token(2)));
    }

    #[test]
    fn a_reserved_place_is_answered_like_any_and_not_refused_with_a_batch() {
        let mut proposals = filled(1);
        proposals.take_queued();
        let reserved = proposals.reserve(token(5), 1);
        assert_eq!(reserved, id(1));
        let from = proposals.queued_from();
        proposals.queue(Some(token(6)), Command::Expire { limit: 1 }, UnixNanos::ZERO, 1);
        proposals.take_queued();
        let mut refused = Vec::new();
        proposals.refuse_from(from, &mut refused);
        assert_eq!(refused, [token(6)]);
        assert_eq!(proposals.applied(reserved), Some(token(5)));
        assert_eq!(proposals.outstanding(), 1);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_no_old_proposal_ones_own() {
        let mut proposals = filled(2);
        assert!(proposals.is_own(id(1)));
        let later = ProposalId { origin: MemberId::new(1), seq: 5_000_000 };
        assert!(!proposals.is_own(later), "made by an earlier start whose clock was ahead");
        proposals.take_queued();
        assert!(proposals.is_own(id(0)));
    }

    #[test]
    fn encoded_proposals_decode() {
        let mut proposals = filled(1);
        let data = proposals.take_queued().next().unwrap();
        assert_eq!(Proposal::decode(&data).unwrap().id, id(0));
    }
}
