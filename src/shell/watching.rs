//! One watch on one connection: from the store's first answer to the last event.
//!
//! Owns: the mailbox between the fan-out and the connection's task, and the end of a watch in all its ways. Touches: the
//! connection's buffers, the store's watchers.
//!
//! Invariants:
//! 1. A watcher is forgotten by the store the moment its connection's task leaves the watch, whatever the reason.
//! 2. A mailbox holds [`MAILBOX_MAX`] events of [`MAILBOX_BYTES_MAX`] at most, all of them [`MAILBOXES_BYTES_MAX`], and
//!    one event whatever its size; a reader that falls further behind has its watch ended.
//! 3. While too many large answers wait for their clients (`pressure.rs`), a watch that would begin with a large event is
//!    refused, and a large event waits in its mailbox, where all watchers' copies are one.
//! 4. While it waits, a watching connection keeps no buffer.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use glommio::timer::Timer;

use super::connection::{Conn, Input, OUT_HIGH_BYTES, Woke, finish, flush, read_or_wake};
use super::driver::Hub;
use super::respond::{Reply, WatchPlan};
use super::tls::Stream as Channel;
use crate::core::store::{Event, WatchStart, WatcherId};
use crate::metrics;
use crate::wire::http_reply::Stream;

/// Input that may gather behind a watch; more stays in the socket.
const WATCH_INPUT_MAX: usize = 64 << 10;
/// How long a large event waits before it looks again whether there is room for its answer.
const ROOM_LOOK: Duration = Duration::from_millis(200);
/// Events that may wait for one slow watcher; beyond it the watch ends, as in etcd (its channel holds 100).
pub const MAILBOX_MAX: usize = 100;

/// And their bytes: a few of the largest values there may be. More than a slice of the fan-out brings at once.
pub const MAILBOX_BYTES_MAX: u64 = 16 << 20;
/// And those of all watchers who are behind. An event that waits for several counts for each, so that no two need to be
/// compared.
pub const MAILBOXES_BYTES_MAX: u64 = 256 << 20;

/// What a watcher was sent and has not been told yet.
pub struct Mailbox {
    /// Whose events these are. A connection watches again and again; what was meant for an earlier watch is nobody's.
    watcher: Cell<Option<WatcherId>>,
    events: RefCell<VecDeque<Rc<Event>>>,
    /// Of those events.
    bytes: Cell<u64>,
    /// Of all mailboxes' events.
    all_bytes: Rc<Cell<u64>>,
    /// No more will come: the one-shot event arrived, or the reader was too slow.
    ended: Cell<bool>,
}

impl Mailbox {
    /// An empty one of those whose bytes `all_bytes` counts.
    pub fn new(all_bytes: Rc<Cell<u64>>) -> Self {
        let (watcher, events) = Default::default();
        Self { watcher, events, bytes: Cell::new(0), all_bytes, ended: Cell::new(false) }
    }

    fn count(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() + bytes);
        self.all_bytes.set(self.all_bytes.get() + bytes);
    }

    fn discount(&self, bytes: u64) {
        self.bytes.set(self.bytes.get() - bytes);
        self.all_bytes.set(self.all_bytes.get() - bytes);
    }

    fn take(&self) -> Option<Rc<Event>> {
        let event = self.events.borrow_mut().pop_front()?;
        self.discount(event.weight() as u64);
        Some(event)
    }

    fn begin(&self) {
        self.watcher.set(None);
        self.events.take();
        self.discount(self.bytes.get());
        self.ended.set(false);
    }

    /// Takes an event. False when the reader is too slow and its watcher must be removed.
    fn put(&self, event: Rc<Event>, last: bool) -> bool {
        let mut events = self.events.borrow_mut();
        let weight = event.weight() as u64;
        let has_room =
            self.bytes.get() + weight <= MAILBOX_BYTES_MAX && self.all_bytes.get() + weight <= MAILBOXES_BYTES_MAX;
        let fits = events.is_empty() || (events.len() < MAILBOX_MAX && has_room);
        if fits {
            events.push_back(event);
            self.count(weight);
        }
        self.ended.set(last || !fits);
        fits
    }

    /// Takes an event for `watcher`: whether to wake the connection, and whether the watcher stays.
    pub fn deliver(&self, watcher: WatcherId, event: Rc<Event>, last: bool) -> (bool, bool) {
        if self.watcher.get() != Some(watcher) {
            return (false, false);
        }
        if self.ended.get() {
            return (false, true);
        }
        (true, self.put(event, last))
    }

    /// No more will come for `watcher`; whether to wake the connection.
    pub fn end(&self, watcher: WatcherId) -> bool {
        let is_its = self.watcher.get() == Some(watcher);
        if is_its {
            self.ended.set(true);
        }
        is_its
    }

    /// Whether the next event, if there is one, holds no more than `bytes_max`.
    fn next_fits(&self, bytes_max: usize) -> bool {
        self.events.borrow().front().is_none_or(|event| event.weight() <= bytes_max)
    }

    fn is_empty(&self) -> bool {
        self.events.borrow().is_empty()
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.discount(self.bytes.get());
    }
}

/// Removes the watcher when the connection's task leaves the watch in any way.
struct Guard<'a> {
    hub: &'a Hub,
    id: Option<WatcherId>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.hub.node.borrow_mut().store_mut().unwatch(id);
        }
    }
}

/// Runs one watch. False when the connection is over.
pub(super) async fn watch(
    hub: &Rc<Hub>,
    conn: &Rc<Conn>,
    stream: &mut Channel,
    input: &mut Input,
    plan: WatchPlan,
) -> io::Result<bool> {
    let reply = plan.reply;
    let mut guard = Guard { hub, id: None };
    let Some(body) = begin(hub, conn, &mut guard, &plan) else {
        return Ok(reply.keep_alive || finish(hub, conn, stream).await.map(|()| false)?);
    };
    drop(plan);
    loop {
        while !conn.mailbox.next_fits(hub.pressure.answer_bytes_max()) && !hub.is_closing(conn.audience()) {
            Timer::new(ROOM_LOOK).await;
        }
        let ended = tell(hub, conn, body, reply);
        flush(hub, conn, stream).await?;
        if ended {
            break;
        }
        if hub.is_closing(conn.audience()) {
            body.finish(&mut conn.out());
            finish(hub, conn, stream).await?;
            return Ok(false);
        }
        if conn.mailbox.is_empty() {
            input.drop_served();
            conn.release_out();
            hub.pressure.hold(conn.held(), input.waiting());
            if input.waiting() >= WATCH_INPUT_MAX {
                // Without reading on nobody would notice that the client has left.
                tracing::debug!("a client sent too much behind a watch");
                return Ok(false);
            }
            if let Woke::End = read_or_wake(hub, conn, stream, input).await? {
                return Ok(false);
            }
        }
        glommio::yield_if_needed().await;
    }
    if body.must_close() {
        finish(hub, conn, stream).await?;
        return Ok(false);
    }
    Ok(true)
}

/// Asks the store and renders the answer's head; `None` when the answer is an error.
fn begin(hub: &Hub, conn: &Conn, guard: &mut Guard<'_>, plan: &WatchPlan) -> Option<Stream> {
    conn.mailbox.begin();
    metrics::add(&hub.metrics.watch_requests, 1);
    let watch = || hub.node.borrow_mut().store_mut().watch(&plan.request(), conn.watch_token());
    let started = hub.half_way.during(watch);
    let mut out = conn.out();
    match started {
        Err(error) => {
            hub.responder.store_error(&mut out, &error, plan.reply);
            None
        }
        Ok(WatchStart::Now(event)) if event.weight() > hub.pressure.answer_bytes_max() => {
            hub.responder.refuse_answer(&mut out, plan.reply);
            None
        }
        Ok(start) => {
            let body = hub.responder.watch_begins(&mut out, hub, plan.reply);
            match start {
                WatchStart::Now(event) => {
                    conn.mailbox.put(event, !plan.stream);
                }
                WatchStart::Parked(id) => {
                    guard.id = Some(id);
                    conn.mailbox.watcher.set(Some(id));
                }
            }
            Some(body)
        }
    }
}

/// Renders what the mailbox holds; true when the watch is over.
fn tell(hub: &Hub, conn: &Conn, body: Stream, reply: Reply) -> bool {
    let mut out = conn.out();
    while out.len() < OUT_HIGH_BYTES
        && conn.mailbox.next_fits(hub.pressure.answer_bytes_max())
        && let Some(event) = conn.mailbox.take()
    {
        if !reply.head_only {
            body.append(&mut out, |out| hub.responder.watch_event(out, &event));
        }
    }
    let ended = conn.mailbox.ended.get() && conn.mailbox.is_empty();
    if ended {
        body.finish(&mut out);
    }
    ended
}
