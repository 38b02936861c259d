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
//! 3. A watcher that reads keeps its place while there is room here: its task runs between two slices, and a slice is
//!    smaller than its mailbox.
//! 4. How many events wait is bounded where they are fired (`core/store/watch.rs`), which is told how many wait here:
//!    beyond it, what a streaming watcher gets next is its last. So a turn, whatever is in it, cannot bring more.
//! 5. They hold at most [`QUEUE_BYTES_MAX`]. Beyond it the oldest are handed out at once, and mailboxes that overflow
//!    end their watches as in etcd.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::clock;
use super::driver::Hub;
use super::notify::Notify;
use super::watching::{MAILBOX_BYTES_MAX, MAILBOX_MAX};
use crate::core::store::Fired;
use crate::metrics::Step;

/// Events handed out in one go: about half a millisecond of rendering and sending for those who get them.
const SLICE: usize = 64;
const _: () = assert!(SLICE < MAILBOX_MAX);
/// And their bytes, each event counted once however many watch it; one event is handed out whatever its size.
const SLICE_BYTES: u64 = 1 << 20;
const _: () = assert!(SLICE_BYTES < MAILBOX_BYTES_MAX);
/// Bytes of the events that may wait: what turns bring in a moment, with the largest values there may be.
const QUEUE_BYTES_MAX: u64 = 64 << 20;
/// An empty queue larger than this is given back.
const QUEUE_KEEP: usize = 1 << 12;

/// See the module documentation.
#[derive(Default)]
pub struct FanOut {
    queue: RefCell<VecDeque<Fired>>,
    /// Bytes of its events; neighbours that are the same event count once.
    bytes: Cell<u64>,
    more: Notify,
}

impl FanOut {
    /// Takes what a turn fired. The first slice is handed out at once if nobody waits before it.
    pub fn add(&self, hub: &Hub, fired: Vec<Fired>) {
        if fired.is_empty() {
            return;
        }
        let before = self.waiting();
        self.extend(fired);
        if before == 0 {
            self.hand_out(hub);
        }
        while self.bytes.get() > QUEUE_BYTES_MAX {
            self.hand_out(hub);
        }
        if self.waiting() > 0 {
            self.more.notify();
        }
    }

    /// How many events wait.
    pub fn waiting(&self) -> usize {
        self.queue.borrow().len()
    }

    fn extend(&self, fired: Vec<Fired>) {
        let mut queue = self.queue.borrow_mut();
        for one in fired {
            let is_repeated = queue.back().is_some_and(|before| Rc::ptr_eq(&before.event, &one.event));
            if !is_repeated {
                self.bytes.set(self.bytes.get() + one.event.weight() as u64);
            }
            queue.push_back(one);
        }
    }

    /// How many of the next make a slice.
    fn slice(&self) -> usize {
        let queue = self.queue.borrow();
        let mut bytes = 0;
        for place in 0..queue.len().min(SLICE) {
            if place == 0 || !Rc::ptr_eq(&queue[place].event, &queue[place - 1].event) {
                bytes += queue[place].event.weight() as u64;
            }
            if place > 0 && bytes > SLICE_BYTES {
                return place;
            }
        }
        queue.len().min(SLICE)
    }

    /// Hands out a slice.
    fn hand_out(&self, hub: &Hub) {
        let slice = self.slice();
        let connections = hub.connections.borrow();
        let mut queue = self.queue.borrow_mut();
        for _ in 0..slice {
            let Fired { token, watcher, event, last } = queue.pop_front().expect("a slice is in the queue");
            if queue.front().is_none_or(|next| !Rc::ptr_eq(&next.event, &event)) {
                self.bytes.set(self.bytes.get() - event.weight() as u64);
            }
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
        while hub.fan_out.waiting() > 0 {
            // The tasks woken by the slice before run first, and once a millisecond whoever the ring has woken.
            glommio::executor().yield_now().await;
            let begun = clock::monotonic();
            hub.fan_out.hand_out(&hub);
            hub.metrics.step(Step::FanOut, begun.elapsed());
        }
    }
}
