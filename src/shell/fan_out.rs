//! From fired watchers to their connections, a slice at a time.
//!
//! Owns: events that watchers are owed and have not been given. Touches: connections (their mailboxes) and the store
//! (to forget watchers that are too slow).
//!
//! Invariants:
//! 1. A watcher gets its events in the order in which they were applied.
//! 2. At most [`SLICE`] events are handed out before other tasks run, so a write that thousands watch delays nobody:
//!    rendering and sending cost far more than handing out, and the woken connections queue behind nobody but
//!    themselves.
//! 3. A watcher that reads keeps its place whatever the number of events in one turn: its task runs between two slices,
//!    and a slice is smaller than its mailbox.
//! 4. At most [`QUEUE_MAX`] events wait. Beyond it the oldest are handed out at once, and mailboxes that overflow end
//!    their watches as in etcd.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use super::clock;
use super::driver::Hub;
use super::notify::Notify;
use super::watching::MAILBOX_MAX;
use crate::core::store::Fired;
use crate::metrics::Step;

/// Events handed out in one go: about half a millisecond of rendering and sending for those who get them.
const SLICE: usize = 64;
const _: () = assert!(SLICE < MAILBOX_MAX);
/// Events that may wait: one write for every connection the default allows, twice. 48 bytes each.
const QUEUE_MAX: usize = 1 << 17;
/// An empty queue larger than this is given back.
const QUEUE_KEEP: usize = 1 << 12;

/// See the module documentation.
#[derive(Default)]
pub struct FanOut {
    queue: RefCell<VecDeque<Fired>>,
    more: Notify,
}

impl FanOut {
    /// Takes what a turn fired. The first slice is handed out at once if nobody waits before it.
    pub fn add(&self, hub: &Hub, fired: Vec<Fired>) {
        if fired.is_empty() {
            return;
        }
        let before = self.len();
        self.queue.borrow_mut().extend(fired);
        let overflow = self.len().saturating_sub(QUEUE_MAX);
        self.hand_out(hub, if before == 0 { overflow.max(SLICE) } else { overflow });
        if self.len() > 0 {
            self.more.notify();
        }
    }

    fn len(&self) -> usize {
        self.queue.borrow().len()
    }

    fn hand_out(&self, hub: &Hub, events: usize) {
        let connections = hub.connections.borrow();
        let mut queue = self.queue.borrow_mut();
        let slice = events.min(queue.len());
        for Fired { token, watcher, event, last } in queue.drain(..slice) {
            let (slot, generation) = (token as u32, (token >> 32) as u32);
            let kept = connections.get(slot, generation).is_some_and(|conn| conn.deliver(watcher, event, last));
            if !kept && !last {
                hub.node.borrow_mut().store_mut().unwatch(watcher);
            }
        }
        if queue.is_empty() && queue.capacity() > QUEUE_KEEP {
            *queue = VecDeque::new();
        }
    }
}

/// Hands out what did not fit into a turn's first slice.
pub async fn run(hub: Rc<Hub>) {
    loop {
        hub.fan_out.more.wait().await;
        while hub.fan_out.len() > 0 {
            // The tasks woken by the slice before run first, and once a millisecond whoever the ring has woken.
            glommio::executor().yield_now().await;
            let begun = clock::monotonic();
            hub.fan_out.hand_out(&hub, SLICE);
            hub.metrics.step(Step::FanOut, begun.elapsed());
        }
    }
}
