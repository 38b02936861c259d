//! Linearizable reads by ReadIndex: all that arrive during one round share it.
//!
//! Owns: the readers that wait, and the round under way. Knows neither raft nor store: it is told when a round ends and
//! what has been applied.
//!
//! Invariants:
//! 1. A reader joins only a round that begins after it arrived (raft paper, section 8).
//! 2. At most one round is under way. A round that got lost (raft-rs drops one before the leader's first commit of its
//!    term) is begun again after [`RETRY_TICKS`].
//! 3. Every reader leaves exactly once: ready or failed.

use std::collections::VecDeque;

use ringd_storage::ids::{MemberId, RaftIndex, UnixNanos};

use super::event::ClientToken;

/// A round without an answer is begun again after so many ticks.
const RETRY_TICKS: u64 = 5;

#[derive(Debug)]
struct Round {
    id: u64,
    begun_at: u64,
    readers: Vec<(ClientToken, u64)>,
}

/// The readers of one node.
#[derive(Debug, Default)]
pub struct Reads {
    /// The leader keeps the rounds of all members by their contexts, so a context names its member.
    member: MemberId,
    next_id: u64,
    /// Not in a round yet, with the tick they arrived at.
    waiting: Vec<(ClientToken, u64)>,
    round: Option<Round>,
    /// Confirmed, waiting for the apply to reach the index.
    confirmed: VecDeque<(RaftIndex, Vec<(ClientToken, u64)>)>,
}

impl Reads {
    /// Rounds are numbered from `start`, the clock of this start, so that a late answer to a round of an earlier run
    /// confirms nothing: no node begins a round per nanosecond.
    #[must_use]
    pub fn new(member: MemberId, start: UnixNanos) -> Self {
        Self { member, next_id: start.get(), ..Self::default() }
    }

    /// A reader arrived.
    pub fn push(&mut self, token: ClientToken, tick: u64) {
        self.waiting.push((token, tick));
    }

    /// The context of a round to begin now, if one is due.
    pub fn begin_round(&mut self, tick: u64) -> Option<Vec<u8>> {
        match &mut self.round {
            Some(round) if tick.saturating_sub(round.begun_at) < RETRY_TICKS => return None,
            Some(round) => {
                // A lost round: everyone who waits may share its successor, which begins after they all arrived.
                round.readers.append(&mut self.waiting);
                round.begun_at = tick;
            }
            None if self.waiting.is_empty() => return None,
            None => {
                self.round = Some(Round { id: 0, begun_at: tick, readers: std::mem::take(&mut self.waiting) });
            }
        }
        self.next_id += 1;
        let round = self.round.as_mut().expect("set above");
        round.id = self.next_id;
        Some([self.member.get().to_le_bytes(), round.id.to_le_bytes()].concat())
    }

    /// A round was confirmed: its readers may be answered once `index` is applied.
    pub fn confirmed(&mut self, context: &[u8], index: RaftIndex) {
        let Some((member, id)) = context.split_first_chunk::<8>() else { return };
        let Ok(id) = <[u8; 8]>::try_from(id).map(u64::from_le_bytes) else { return };
        let is_own = u64::from_le_bytes(*member) == self.member.get();
        if is_own && self.round.as_ref().is_some_and(|round| round.id == id) {
            let round = self.round.take().expect("checked");
            self.confirmed.push_back((index, round.readers));
        }
    }

    /// Moves readers whose index is applied to `ready`.
    pub fn applied(&mut self, index: RaftIndex, ready: &mut Vec<ClientToken>) {
        while self.confirmed.front().is_some_and(|(needs, _)| *needs <= index) {
            let (_, readers) = self.confirmed.pop_front().expect("checked");
            ready.extend(readers.into_iter().map(|(token, _)| token));
        }
    }

    /// Moves readers that arrived before `tick` to `failed`.
    pub fn expire(&mut self, tick: u64, failed: &mut Vec<ClientToken>) {
        let mut keep = |readers: &mut Vec<(ClientToken, u64)>| {
            readers.retain(|(token, arrived)| {
                let late = *arrived < tick;
                if late {
                    failed.push(*token);
                }
                !late
            });
        };
        keep(&mut self.waiting);
        if let Some(round) = &mut self.round {
            keep(&mut round.readers);
            if round.readers.is_empty() {
                self.round = None;
            }
        }
        for (_, readers) in &mut self.confirmed {
            keep(readers);
        }
        self.confirmed.retain(|(_, readers)| !readers.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(seq: u32) -> ClientToken {
        ClientToken { slot: 0, generation: 0, seq }
    }

    #[test]
    fn a_reader_never_joins_a_round_that_began_before_it_arrived() {
        let mut reads = Reads::default();
        reads.push(token(1), 0);
        let first = reads.begin_round(0).unwrap();
        reads.push(token(2), 0);
        assert!(reads.begin_round(0).is_none(), "one round at a time");
        reads.confirmed(&first, RaftIndex::new(5));
        let mut ready = Vec::new();
        reads.applied(RaftIndex::new(4), &mut ready);
        assert!(ready.is_empty(), "not applied yet");
        reads.applied(RaftIndex::new(5), &mut ready);
        assert_eq!(ready, [token(1)]);
        let second = reads.begin_round(0).unwrap();
        reads.confirmed(&second, RaftIndex::new(5));
        reads.applied(RaftIndex::new(5), &mut ready);
        assert_eq!(ready, [token(1), token(2)]);
    }

    #[test]
    fn a_lost_round_is_begun_again_and_its_old_answer_ignored() {
        let mut reads = Reads::default();
        reads.push(token(1), 0);
        let lost = reads.begin_round(0).unwrap();
        let again = reads.begin_round(RETRY_TICKS).unwrap();
        assert_ne!(lost, again);
        reads.confirmed(&lost, RaftIndex::new(1));
        let mut ready = Vec::new();
        reads.applied(RaftIndex::new(9), &mut ready);
        assert!(ready.is_empty());
        reads.confirmed(&again, RaftIndex::new(1));
        reads.applied(RaftIndex::new(9), &mut ready);
        assert_eq!(ready, [token(1)]);
    }

    #[test]
    fn a_confirmed_reader_whose_index_is_never_applied_fails_once() {
        let mut reads = Reads::default();
        reads.push(token(1), 3);
        let round = reads.begin_round(3).unwrap();
        reads.confirmed(&round, RaftIndex::new(5));
        let (mut failed, mut ready) = (Vec::new(), Vec::new());
        reads.expire(4, &mut failed);
        assert_eq!(failed, [token(1)]);
        reads.expire(5, &mut failed);
        reads.applied(RaftIndex::new(5), &mut ready);
        assert_eq!((failed.len(), ready.len()), (1, 0));
    }

    #[test]
    fn a_reader_without_a_quorum_fails_once() {
        let mut reads = Reads::default();
        reads.push(token(1), 3);
        reads.begin_round(3);
        reads.push(token(2), 8);
        let mut failed = Vec::new();
        reads.expire(4, &mut failed);
        assert_eq!(failed, [token(1)]);
        reads.expire(9, &mut failed);
        reads.expire(99, &mut failed);
        assert_eq!(failed, [token(1), token(2)]);
    }
}
