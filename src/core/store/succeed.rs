//! One store after another: a snapshot from the leader replaces the applied state.
//!
//! Owns: what becomes of the watchers, and of the memory of the store that goes. etcd keeps its watchers parked when it
//! recovers from a snapshot and tells them nothing of what lies between; here they are told what the new history holds.
//!
//! Always holds:
//! 1. A watcher gets every event that it would have got, once and in order, or is ended. A gap before the new history
//!    ends all of them; a directory that went away takes along those below it, because nobody knows what was there.
//! 2. A large store goes in slices.

use super::Store;
use super::watch::{Fired, WatcherId};

/// Deadlines dropped in one slice.
const DEADLINES_PER_SLICE: usize = 2048;

impl Store {
    /// Takes over the watchers of `old`, the store this one replaces: `fired` gets what they missed, `ended` the token
    /// and id of those that missed what nobody can tell.
    ///
    /// # Panics
    /// When anybody watches this store already.
    pub fn succeed(&mut self, old: &mut Self, fired: &mut Vec<Fired>, ended: &mut Vec<(u64, WatcherId)>) {
        assert!(self.hub.is_empty(), "store: a successor nobody watches yet");
        std::mem::swap(&mut self.hub, &mut old.hub);
        let missed_from = old.index.next();
        if self.hub.is_empty() || missed_from > self.index {
            return;
        }
        if self.history.oldest().is_none_or(|oldest| oldest > missed_from) {
            self.hub.end_below(b"/", ended);
            return;
        }
        let missed = self.history.since(missed_from);
        for event in missed.filter(|event| !event.silent) {
            if event.action.removes() {
                self.hub.notify_at(event.key(), event, true, fired);
                if event.node().dir {
                    self.hub.end_below(event.key(), ended);
                }
            }
            self.hub.notify(event, fired);
        }
    }

    /// Drops a part of a store that nobody needs any more; false when nothing large is left. About 100 µs.
    pub fn drop_slice(&mut self) -> bool {
        self.expiry.drop_some(DEADLINES_PER_SLICE) || self.tree.drop_chunk()
    }
}
