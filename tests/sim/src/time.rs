//! Virtual time: nanoseconds since the run began, and what happens when.
//!
//! Must hold: events at one instant happen in the order in which they were planned, so that a run is a function of its
//! seed.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::event::Event;

/// Nanoseconds of virtual time.
pub type Nanos = u64;
/// A microsecond.
pub const MICRO: Nanos = 1_000;
/// A millisecond.
pub const MILLI: Nanos = 1_000_000;
/// A second.
pub const SECOND: Nanos = 1_000_000_000;

struct Planned {
    at: Nanos,
    number: u64,
    event: Event,
}

impl PartialEq for Planned {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}
impl Eq for Planned {}
impl PartialOrd for Planned {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Planned {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// What is planned.
#[derive(Default)]
pub struct Queue {
    heap: BinaryHeap<Reverse<Planned>>,
    next: u64,
}

impl Queue {
    /// Plans an event.
    pub fn plan(&mut self, at: Nanos, event: Event) {
        self.next += 1;
        self.heap.push(Reverse(Planned { at, number: self.next, event }));
    }

    /// The next event, if it is not later than `until`.
    pub fn pop(&mut self, until: Nanos) -> Option<(Nanos, Event)> {
        if self.heap.peek()?.0.at > until {
            return None;
        }
        self.heap.pop().map(|Reverse(planned)| (planned.at, planned.event))
    }
}
