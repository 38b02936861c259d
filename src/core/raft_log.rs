//! The replicated log as raft-rs reads it: every entry since the last compaction, in memory.
//!
//! Owns: the entry window, the hard state and the configuration raft-rs starts from. Touches: raft-rs types.
//! Invariants:
//! 1. Entries are contiguous: the entry at place `i` has index `first + i`.
//! 2. The hot path never reads the disk: what a follower may still need is here, what is not here needs a snapshot.
//! 3. Nothing here says what is durable; [`super::replica`] counts that.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};
use ringd_storage::ids::{MemberId, RaftIndex, Term};
use ringd_storage::record::HardState as StoredHardState;

use super::replica::room_for_entry;

/// raft's form of a configuration.
#[must_use]
pub fn conf_state(voters: &[MemberId], learners: &[MemberId]) -> ConfState {
    ConfState {
        voters: voters.iter().map(|id| id.get()).collect(),
        learners: learners.iter().map(|id| id.get()).collect(),
        ..ConfState::default()
    }
}

/// Bytes that an entry carries; its other fields are of one size.
fn carried(entry: &Entry) -> u64 {
    entry.data.len() as u64
}

/// The window of the replicated log that this node holds.
#[derive(Debug)]
pub struct RaftLog {
    hard_state: HardState,
    conf_state: ConfState,
    /// The entry directly before the window: the last compacted one. (0, 0) when nothing was compacted.
    base_index: u64,
    base_term: u64,
    entries: VecDeque<Entry>,
    /// What the window's entries carry, in bytes.
    bytes: u64,
    /// The newest snapshot on disk, for followers that are too far behind.
    snapshot: Option<Snapshot>,
    /// A follower needed a snapshot and there was none.
    snapshot_missed: Cell<bool>,
}

impl RaftLog {
    /// A log that continues after `(base_index, base_term)` with `entries`.
    ///
    /// # Panics
    /// When the entries are not contiguous: recovery has checked that.
    #[must_use]
    pub fn new(
        hard_state: HardState,
        conf_state: ConfState,
        base_index: u64,
        base_term: u64,
        entries: Vec<Entry>,
    ) -> Self {
        for (place, entry) in entries.iter().enumerate() {
            assert_eq!(entry.index, base_index + 1 + place as u64, "gap in the recovered raft log");
        }
        Self {
            hard_state,
            conf_state,
            base_index,
            base_term,
            bytes: entries.iter().map(carried).sum(),
            entries: entries.into(),
            snapshot: None,
            snapshot_missed: Cell::new(false),
        }
    }

    /// A log from what storage recovered: the entries after `(base, base_term)`.
    #[must_use]
    pub fn recovered(
        hard_state: &StoredHardState,
        voters: &[MemberId],
        learners: &[MemberId],
        base: RaftIndex,
        base_term: Term,
        entries: Vec<Entry>,
    ) -> Self {
        let raft_hard_state = HardState {
            term: hard_state.term.get(),
            vote: hard_state.vote.get(),
            commit: hard_state.commit.get().max(base.get()),
            ..HardState::default()
        };
        let conf_state = conf_state(voters, learners);
        let mut log = Self::new(raft_hard_state, conf_state.clone(), base.get(), base_term.get(), entries);
        if base > RaftIndex::ZERO {
            log.set_snapshot(base.get(), base_term.get(), conf_state);
        }
        log
    }

    fn last(&self) -> u64 {
        self.base_index + self.entries.len() as u64
    }

    /// Appends entries, replacing everything from the first one's index on (raft paper, figure 2).
    ///
    /// # Panics
    /// When they would leave a gap or replace a compacted entry.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.base_index, "an append below the compacted log");
        assert!(first.index <= self.last() + 1, "gap in the raft log");
        let kept = (first.index - self.base_index - 1) as usize;
        self.bytes -= self.entries.range(kept..).map(carried).sum::<u64>();
        self.entries.truncate(kept);
        self.bytes += entries.iter().map(carried).sum::<u64>();
        self.entries.extend(entries.iter().cloned());
    }

    /// Remembers the configuration after a change.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// The configuration as of the last applied change.
    #[must_use]
    pub fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// Forgets entries up to and including `index`; it must not be beyond the last entry.
    ///
    /// # Panics
    /// When `index` lies beyond the log.
    pub fn compact(&mut self, index: u64) {
        if index <= self.base_index {
            return;
        }
        assert!(index <= self.last(), "compaction beyond the log");
        let drop = (index - self.base_index) as usize;
        self.base_term = self.entries[drop - 1].term;
        self.bytes -= self.entries.drain(..drop).map(|entry| carried(&entry)).sum::<u64>();
        self.base_index = index;
        // A burst must not pin its memory for ever.
        if self.entries.capacity() > 4 * self.entries.len().max(1024) {
            self.entries.shrink_to(2 * self.entries.len());
        }
    }

    /// The last entry that slow followers can do without: after it, and up to `covered`, lie at most so many entries, and
    /// so many bytes.
    #[must_use]
    pub fn catch_up_from(&self, covered: u64, entries: u64, bytes: u64) -> u64 {
        let held = covered.saturating_sub(self.base_index).min(self.entries.len() as u64);
        let newest_first =
            self.entries.range(..held as usize).rev().take(usize::try_from(entries).unwrap_or(usize::MAX));
        let mut used = 0;
        let fitting = newest_first.take_while(|entry| {
            used += carried(entry);
            used <= bytes
        });
        covered - fitting.count() as u64
    }

    /// What the entries take in memory, in bytes.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.bytes + (self.entries.len() * size_of::<Entry>()) as u64
    }

    /// Replaces everything by a snapshot that is on disk.
    pub fn restore(&mut self, index: u64, term: u64, conf_state: ConfState) {
        self.entries.clear();
        self.bytes = 0;
        self.base_index = index;
        self.base_term = term;
        self.conf_state = conf_state.clone();
        self.set_snapshot(index, term, conf_state);
    }

    /// The last entry before the window.
    #[must_use]
    pub const fn base_index(&self) -> u64 {
        self.base_index
    }

    /// Whether a follower has needed a snapshot that there was not, since the last call.
    pub fn take_snapshot_missed(&self) -> bool {
        self.snapshot_missed.take()
    }

    /// Names the newest snapshot on disk; an older one than the known is ignored.
    pub fn set_snapshot(&mut self, index: u64, term: u64, conf_state: ConfState) {
        if self.snapshot.as_ref().is_some_and(|known| known.get_metadata().index >= index) {
            return;
        }
        let mut snapshot = Snapshot::default();
        let meta = snapshot.mut_metadata();
        meta.index = index;
        meta.term = term;
        meta.set_conf_state(conf_state);
        self.snapshot = Some(snapshot);
    }

    /// How many entries are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no entry is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Storage for RaftLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base_index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        assert!(high <= self.last() + 1, "raft asked for entries up to {high}, the log ends at {}", self.last());
        let from = (low - self.base_index - 1) as usize;
        let to = (high - self.base_index - 1) as usize;
        let budget = max_size.into().unwrap_or(u64::MAX);
        let mut used = 0;
        let mut out = Vec::with_capacity(to - from);
        for entry in self.entries.range(from..to) {
            used += room_for_entry(entry);
            if used > budget && !out.is_empty() {
                break;
            }
            out.push(entry.clone());
        }
        Ok(out)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base_index {
            return Ok(self.base_term);
        }
        if index < self.base_index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        match self.entries.get((index - self.base_index - 1) as usize) {
            Some(entry) => Ok(entry.term),
            None => Err(raft::Error::Store(StorageError::Unavailable)),
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        // A member refuses a snapshot that does not know it: one from before it joined is of no use to it.
        let knows = |snapshot: &Snapshot| {
            let members = snapshot.get_metadata().get_conf_state();
            members.voters.contains(&to) || members.learners.contains(&to)
        };
        match &self.snapshot {
            Some(snapshot) if snapshot.get_metadata().index >= request_index && knows(snapshot) => Ok(snapshot.clone()),
            _ => {
                self.snapshot_missed.set(true);
                Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Entry::default() }
    }

    fn log(upto: u64) -> RaftLog {
        let entries = (1..=upto).map(|index| entry(index, 1)).collect();
        RaftLog::new(HardState::default(), ConfState::default(), 0, 0, entries)
    }

    #[test]
    fn an_append_replaces_the_conflicting_suffix() {
        let mut log = log(5);
        log.append(&[entry(3, 2), entry(4, 2)]);
        assert_eq!(log.last_index().unwrap(), 4);
        assert_eq!(log.term(2).unwrap(), 1);
        assert_eq!(log.term(3).unwrap(), 2);
    }

    #[test]
    fn compaction_keeps_the_term_of_the_last_forgotten_entry() {
        let mut log = log(5);
        log.compact(3);
        assert_eq!(log.first_index().unwrap(), 4);
        assert_eq!(log.term(3).unwrap(), 1);
        assert!(matches!(log.term(2), Err(raft::Error::Store(StorageError::Compacted))));
        assert!(matches!(log.term(6), Err(raft::Error::Store(StorageError::Unavailable))));
        let context = GetEntriesContext::empty(false);
        assert!(matches!(log.entries(3, 5, None, context), Err(raft::Error::Store(StorageError::Compacted))));
    }

    #[test]
    fn what_is_kept_for_slow_followers_is_bounded_in_entries_and_bytes() {
        let mut log = log(0);
        let full = |index| Entry { data: vec![0; 100].into(), ..entry(index, 1) };
        log.append(&(1..=5).map(full).collect::<Vec<_>>());
        assert_eq!(log.catch_up_from(4, 2, 1000), 2);
        assert_eq!(log.catch_up_from(4, 10, 399), 1);
        assert_eq!(log.catch_up_from(4, 10, 99), 4);
        assert_eq!(log.catch_up_from(5, 10, 1000), 0);
        log.compact(3);
        assert_eq!(log.catch_up_from(5, 10, 1000), 3);
        assert_eq!(log.catch_up_from(2, 10, 1000), 2, "forgotten already");
    }

    #[test]
    fn the_bytes_in_memory_are_counted_as_entries_come_and_go() {
        let sized = |index, bytes| Entry { data: vec![0; bytes].into(), ..entry(index, 1) };
        let mut log = RaftLog::new(HardState::default(), ConfState::default(), 0, 0, vec![sized(1, 10), sized(2, 20)]);
        assert_eq!(log.bytes, 30);
        log.append(&[sized(2, 5), sized(3, 7)]);
        assert_eq!(log.bytes, 22, "the replaced suffix no longer counts");
        log.compact(2);
        assert_eq!(log.bytes, 7);
        log.restore(9, 1, ConfState::default());
        assert_eq!(log.bytes, 0);
    }

    #[test]
    fn a_size_limit_still_yields_one_entry() {
        let log = log(5);
        assert_eq!(log.entries(1, 6, Some(1), GetEntriesContext::empty(false)).unwrap().len(), 1);
        assert_eq!(log.entries(1, 6, None, GetEntriesContext::empty(false)).unwrap().len(), 5);
    }

    #[test]
    #[should_panic(expected = "gap in the raft log")]
    fn a_gap_is_a_defect() {
        log(2).append(&[entry(4, 1)]);
    }
}
