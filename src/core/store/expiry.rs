//! Which node expires next.
//!
//! Owns: the order of deadlines. The deadline itself is part of the node's image; the tree and this set change
//! together.
//!
//! Always holds: exactly the nodes whose image has a deadline are in the set, in (deadline, order set) order. The
//! order number is unique, so two members agree on ties.

use std::collections::BTreeMap;

use ringd_storage::ids::UnixNanos;

use super::image::Deadline;

/// See the module documentation.
#[derive(Default)]
pub(super) struct Expiry {
    nodes: BTreeMap<Deadline, u32>,
    next_seq: u64,
}

impl Expiry {
    /// A deadline at `at` that comes after all earlier ones at the same instant. Not in the set yet.
    pub(super) fn deadline(&mut self, at: UnixNanos) -> Deadline {
        let seq = self.next_seq;
        self.next_seq += 1;
        Deadline { at, seq }
    }

    pub(super) fn insert(&mut self, deadline: Deadline, id: u32) {
        let before = self.nodes.insert(deadline, id);
        assert!(before.is_none(), "expiry: order numbers are unique");
    }

    pub(super) fn remove(&mut self, deadline: Deadline) {
        let before = self.nodes.remove(&deadline);
        assert!(before.is_some(), "expiry: a node with a deadline is in the set");
    }

    /// The earliest deadline and its node.
    pub(super) fn first(&self) -> Option<(Deadline, u32)> {
        self.nodes.first_key_value().map(|(deadline, id)| (*deadline, *id))
    }

    pub(super) fn contains(&self, deadline: Deadline) -> bool {
        self.nodes.contains_key(&deadline)
    }

    /// Forgets up to `count` deadlines, for a store that goes; false when there was none.
    pub(super) fn drop_some(&mut self, count: usize) -> bool {
        let some = !self.nodes.is_empty();
        for _ in 0..count.min(self.nodes.len()) {
            self.nodes.pop_first();
        }
        some
    }

    pub(super) const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    pub(super) fn set_next_seq(&mut self, seq: u64) {
        self.next_seq = seq;
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (Deadline, u32)> {
        self.nodes.iter().map(|(deadline, id)| (*deadline, *id))
    }
}
