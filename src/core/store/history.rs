//! The last events, for watches that begin in the past.
//!
//! Owns: which events are kept and which of them a watch may see.
//!
//! Always holds:
//! 1. The kept events have consecutive indexes; the newest has the store's index. (Every index produces an event.)
//! 2. At most `events_max` are kept, and at most `bytes_max` bytes, except that the newest is kept whatever its size.
//! 3. While a capture runs, events it has yet to read stay alive.

use std::collections::VecDeque;
use std::rc::Rc;

use ringd_storage::ids::EtcdIndex;
use ringd_storage::mutation::{self, Mutation};

use super::event::{Action, Event};

/// See the module documentation.
pub(super) struct History {
    ring: VecDeque<Rc<Event>>,
    bytes: usize,
    events_max: usize,
    bytes_max: usize,
    capture: Option<Evicted>,
}

/// What a capture still has to read.
struct Evicted {
    /// Index of the next event to read, and the last to read.
    next: u64,
    last: u64,
    /// Those that have left the ring since, oldest first; they come before what is in the ring.
    events: VecDeque<Rc<Event>>,
}

/// The ring is allocated at once up to this many events, so that normal settings never grow it.
const RESERVED_EVENTS_MAX: usize = 1 << 16;

impl History {
    pub(super) fn new(events_max: usize, bytes_max: usize) -> Self {
        let events_max = events_max.max(1);
        let ring = VecDeque::with_capacity(events_max.min(RESERVED_EVENTS_MAX) + 1);
        Self { ring, bytes: 0, events_max, bytes_max, capture: None }
    }

    /// Adds the event of the newest index.
    pub(super) fn push(&mut self, event: Rc<Event>) {
        if let Some(newest) = self.ring.back() {
            assert_eq!(newest.index.next(), event.index, "history: an index is missing");
        }
        self.bytes += event.weight();
        self.ring.push_back(event);
        let events_max = self.events_max - usize::from(mutation::is_on(Mutation::LoseHistoryEvent));
        while self.ring.len() > events_max.max(1) || (self.bytes > self.bytes_max && self.ring.len() > 1) {
            let oldest = self.ring.pop_front().expect("more than one event");
            self.bytes -= oldest.weight();
            if let Some(capture) = &mut self.capture
                && oldest.index.get() >= capture.next
                && oldest.index.get() <= capture.last
            {
                capture.events.push_back(oldest);
            }
        }
    }

    /// The index of the oldest event kept.
    pub(super) fn oldest(&self) -> Option<EtcdIndex> {
        self.ring.front().map(|event| event.index)
    }

    /// The index of the newest event.
    pub(super) fn newest(&self) -> Option<EtcdIndex> {
        self.ring.back().map(|event| event.index)
    }

    /// The first event at or after `from` that a watch on `path` matches. `Err` names the oldest index kept when `from`
    /// lies before it.
    ///
    /// etcd's rules, with their oddities: hidden keys are *not* left out here, and a removed directory matches every
    /// path that begins with its text.
    pub(super) fn scan(&self, path: &[u8], recursive: bool, from: EtcdIndex) -> Result<Option<&Rc<Event>>, EtcdIndex> {
        let Some(oldest) = self.oldest() else {
            return Ok(None);
        };
        if from < oldest {
            return Err(oldest);
        }
        let skip = usize::try_from(from.steps_since(oldest)).unwrap_or(usize::MAX);
        Ok(self.ring.iter().skip(skip).find(|event| !event.silent && matches(event, path, recursive)))
    }

    /// The kept events from index `from` on, the oldest first.
    pub(super) fn since(&self, from: EtcdIndex) -> impl Iterator<Item = &Rc<Event>> {
        let kept = self.ring.iter();
        kept.skip_while(move |event| event.index < from)
    }

    pub(super) fn begin_capture(&mut self) {
        let first = self.ring.front().map_or(1, |event| event.index.get());
        let last = self.ring.back().map_or(0, |event| event.index.get());
        self.capture = Some(Evicted { next: first, last, events: VecDeque::new() });
    }

    /// The next event of those that were kept when the capture began.
    pub(super) fn next_captured(&mut self) -> Option<Rc<Event>> {
        let capture = self.capture.as_mut().expect("a capture is running");
        if capture.next > capture.last {
            return None;
        }
        let event = match capture.events.pop_front() {
            Some(event) => event,
            None => {
                let oldest = self.ring.front().expect("the newest event is always kept").index;
                let place = EtcdIndex::new(capture.next).steps_since(oldest);
                Rc::clone(&self.ring[usize::try_from(place).expect("a place in the ring")])
            }
        };
        assert_eq!(event.index.get(), capture.next, "history: a capture reads consecutive events");
        capture.next += 1;
        Some(event)
    }

    pub(super) fn end_capture(&mut self) {
        self.capture = None;
    }

    /// Everything kept, the oldest first.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Event>> {
        self.ring.iter()
    }

    #[cfg(test)]
    pub(super) fn check(&self) {
        assert!(self.ring.len() <= self.events_max && (self.bytes <= self.bytes_max || self.ring.len() == 1));
        assert_eq!(self.bytes, self.ring.iter().map(|event| event.weight()).sum::<usize>());
        assert!(self.ring.iter().zip(self.ring.iter().skip(1)).all(|(a, b)| a.index.next() == b.index));
    }
}

fn matches(event: &Event, path: &[u8], recursive: bool) -> bool {
    let key = event.key();
    if key == path || (recursive && is_below(key, path)) {
        return true;
    }
    let removes_dir = matches!(event.action, Action::Delete | Action::Expire) && event.node.is_dir();
    removes_dir && path.starts_with(key)
}

/// Whether `key` lies below the directory `path`.
fn is_below(key: &[u8], path: &[u8]) -> bool {
    path == b"/" || (key.len() > path.len() && key.starts_with(path) && key[path.len()] == b'/')
}
