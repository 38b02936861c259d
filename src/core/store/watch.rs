//! Watchers that wait for an event to come.
//!
//! Owns: who waits where, and which event reaches whom. A slow reader's queue is the shell's business; here a watcher
//! is a token and a place in a list.
//!
//! Always holds:
//! 1. A one-shot watcher is told at most one event, and is gone when it has been.
//! 2. Watchers of one path are told in the order they came.
//! 3. A write pays nothing when nobody watches; otherwise one probe for each ancestor of its path.
//! 4. An id is never used twice: stale ids are recognised and ignored.
//! 5. Events that were fired and not taken yet are no more than [`FIRED_MAX`], or [`FIRED_PER_WATCHER`] for each watcher,
//!    and one for each watcher beside: beyond it the next event of a streaming watcher is its last. It has them all up
//!    to that one, in order.

use std::rc::Rc;

use ringd_storage::ids::EtcdIndex;

use super::event::Event;
use super::path_index::PathIndex;
use super::slab::Slab;

const NONE: u32 = u32::MAX;

/// Events that may wait to be handed out, where watchers are few: one write for every connection the default allows,
/// twice. 48 bytes each.
pub const FIRED_MAX: usize = 1 << 17;
/// And where they are many: so many for each watcher, as many as etcd keeps for one that is slow.
pub const FIRED_PER_WATCHER: usize = 100;

/// A parked watcher. Stays unique after the watcher is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WatcherId {
    slot: u32,
    generation: u64,
}

/// An event for one watcher.
#[derive(Clone)]
pub struct Fired {
    /// What the watcher gave when it was parked.
    pub token: u64,
    /// The watcher.
    pub watcher: WatcherId,
    /// The event; shared with everybody else who gets it.
    pub event: Rc<Event>,
    /// The watcher is gone now: it was for one event, or too much was fired.
    pub last: bool,
}

/// One watcher, 40 bytes; the path it watches is stored once for all watchers on it.
struct Parked {
    token: u64,
    since: EtcdIndex,
    watched: u32,
    next: u32,
    prev: u32,
    /// Zero in a vacant slot.
    generation: u64,
    recursive: bool,
    stream: bool,
}

/// A path somebody watches, and the list of who.
struct Watched {
    path: Box<[u8]>,
    head: u32,
    tail: u32,
}

/// See the module documentation.
pub(super) struct Hub {
    parked: Slab<Parked>,
    watched: Slab<Watched>,
    by_path: PathIndex,
    next_generation: u64,
    /// Events of earlier turns that were not handed out yet.
    owed: usize,
}

impl Hub {
    pub(super) fn new(seed: u64) -> Self {
        let (parked, watched) = (Slab::new(), Slab::new());
        Self { parked, watched, by_path: PathIndex::new(seed), next_generation: 1, owed: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.parked.live()
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.parked.live() == 0
    }

    pub(super) fn set_owed(&mut self, events: usize) {
        self.owed = events;
    }

    /// Parks a watcher on `path` for events with an index of at least `since`.
    pub(super) fn park(
        &mut self,
        path: &[u8],
        recursive: bool,
        stream: bool,
        since: EtcdIndex,
        token: u64,
    ) -> WatcherId {
        let hash = self.by_path.hash(path);
        let watched = self.by_path.find(hash, |id| *self.watched[id].path == *path).unwrap_or_else(|| {
            let id = self.watched.insert(Watched { path: path.into(), head: NONE, tail: NONE });
            self.by_path.insert(hash, id);
            id
        });
        let generation = self.next_generation;
        self.next_generation += 1;
        let prev = self.watched[watched].tail;
        let parked = Parked { token, since, watched, next: NONE, prev, generation, recursive, stream };
        let slot = self.parked.insert(parked);
        if prev == NONE {
            self.watched[watched].head = slot;
        } else {
            self.parked[prev].next = slot;
        }
        self.watched[watched].tail = slot;
        WatcherId { slot, generation }
    }

    /// Forgets a watcher; false when it was gone already.
    pub(super) fn unpark(&mut self, id: WatcherId) -> bool {
        if id.slot >= self.parked.slots() || self.parked[id.slot].generation != id.generation {
            return false;
        }
        self.remove(id.slot);
        true
    }

    /// Tells the watchers on the event's path and on every directory above it.
    pub(super) fn notify(&mut self, event: &Rc<Event>, fired: &mut Vec<Fired>) {
        if self.is_empty() {
            return;
        }
        let path = event.key();
        self.notify_at(b"/", event, false, fired);
        if path == b"/" {
            return;
        }
        for end in (1..path.len()).filter(|&at| path[at] == b'/') {
            self.notify_at(&path[..end], event, false, fired);
        }
        self.notify_at(path, event, false, fired);
    }

    /// Tells the watchers on `path`. With `removed`, `path` is a node that `event` took away, and every watcher on it
    /// is told, whatever the event's own path.
    pub(super) fn notify_at(&mut self, path: &[u8], event: &Rc<Event>, removed: bool, fired: &mut Vec<Fired>) {
        if self.is_empty() {
            return;
        }
        let hash = self.by_path.hash(path);
        let Some(watched) = self.by_path.find(hash, |id| *self.watched[id].path == *path) else {
            return;
        };
        let is_own_path = event.key() == path;
        if !is_own_path && is_hidden(path, event.key()) {
            return;
        }
        let fired_max = FIRED_MAX.max(self.len() * FIRED_PER_WATCHER).saturating_sub(self.owed);
        let mut at = self.watched[watched].head;
        while at != NONE {
            let parked = &self.parked[at];
            let next = parked.next;
            if (parked.recursive || is_own_path || removed) && event.index >= parked.since {
                let watcher = WatcherId { slot: at, generation: parked.generation };
                let last = !parked.stream || fired.len() >= fired_max;
                fired.push(Fired { token: parked.token, watcher, event: Rc::clone(event), last });
                if last {
                    self.remove(at);
                }
            }
            at = next;
        }
    }

    /// Removes every watcher on a path strictly below `path` (of all, for the root), and tells who they were.
    pub(super) fn end_below(&mut self, path: &[u8], ended: &mut Vec<(u64, WatcherId)>) {
        for slot in 0..self.parked.slots() {
            let parked = &self.parked[slot];
            if parked.generation == 0 {
                continue;
            }
            let watched = &self.watched[parked.watched].path;
            let is_below = path == b"/" || watched.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/"));
            if is_below {
                ended.push((parked.token, WatcherId { slot, generation: parked.generation }));
                self.remove(slot);
            }
        }
    }

    fn remove(&mut self, slot: u32) {
        let vacant = Parked {
            token: 0,
            since: EtcdIndex::ZERO,
            watched: NONE,
            next: NONE,
            prev: NONE,
            generation: 0,
            recursive: false,
            stream: false,
        };
        let Parked { watched, next, prev, .. } = self.parked.remove(slot, vacant);
        if prev == NONE {
            self.watched[watched].head = next;
        } else {
            self.parked[prev].next = next;
        }
        if next == NONE {
            self.watched[watched].tail = prev;
        } else {
            self.parked[next].prev = prev;
        }
        if self.watched[watched].head == NONE {
            let hash = self.by_path.hash(&self.watched[watched].path);
            self.by_path.remove(hash, watched);
            self.watched.remove(watched, Watched { path: Box::default(), head: NONE, tail: NONE });
        }
    }
}

/// Whether a watcher on `watched` must not see `key`: some name below `watched` on the way to `key` begins with `_`.
/// A `key` above `watched` (its removal concerns the watcher too) is never hidden.
fn is_hidden(watched: &[u8], key: &[u8]) -> bool {
    if watched.len() > key.len() {
        return false;
    }
    let below = &key[watched.len()..];
    let first_is_hidden = watched.ends_with(b"/") && below.starts_with(b"_");
    first_is_hidden || below.windows(2).any(|pair| pair == b"/_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_means_hidden_below_the_watched_path() {
        assert!(is_hidden(b"/", b"/_h"));
        assert!(is_hidden(b"/d", b"/d/_h"));
        assert!(is_hidden(b"/d", b"/d/x/_h/y"));
        assert!(!is_hidden(b"/d/_h", b"/d/_h/y"));
        assert!(!is_hidden(b"/d/_h", b"/d/_h"));
        assert!(!is_hidden(b"/d", b"/d/a_b"));
        assert!(!is_hidden(b"/d/_h/x", b"/d"));
    }

    #[test]
    fn a_stale_id_is_ignored_when_its_slot_is_used_again() {
        let mut hub = Hub::new(1);
        let first = hub.park(b"/a", false, false, EtcdIndex::ZERO, 1);
        assert!(hub.unpark(first));
        assert!(!hub.unpark(first));
        let second = hub.park(b"/a", false, false, EtcdIndex::ZERO, 2);
        assert_ne!(first, second);
        assert!(!hub.unpark(first));
        assert_eq!(hub.len(), 1);
        assert!(hub.unpark(second));
        assert!(hub.is_empty());
    }
}
