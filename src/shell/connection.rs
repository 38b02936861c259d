//! One client connection: bytes in, requests to the node, answers out, in order.
//!
//! Owns: the connection's buffers and what it still owes its client. Touches: the hub (node, store) without ever
//! holding a borrow across an await.
//!
//! Invariants:
//! 1. Answers leave in the order of their requests, whatever order their outcomes arrive in.
//! 2. A read behind a write of the same connection sees that write: it waits until the write was answered.
//! 3. Every buffer is bounded: input by the request limits, output by [`OUT_HIGH_BYTES`] plus one answer, a watcher's
//!    mailbox by [`MAILBOX_MAX`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::credentials::{self, Findings, HashPlan, VerifyPlan};
use super::driver::Hub;
use super::notify::Notify;
use super::respond::{Dispatch, GetPlan, Reply, WatchPlan};
use crate::core::event::{ClientToken, Outcome};
use crate::core::membership::MemberChange;
use crate::core::store::{Event, WatchStart, WatcherId};
use crate::wire::http_body::{Next, RequestReader};
use crate::wire::http_reply::{CONTINUE, Stream};

/// Writes of one connection that may wait for the disk at once; more pipelined ones wait in the input buffer.
const WRITES_PENDING_MAX: usize = 256;
/// Answers are sent once this much has gathered, even if more requests are at hand.
const OUT_HIGH_BYTES: usize = 64 << 10;
/// Input that may gather behind a watch; more stays in the socket.
const WATCH_INPUT_MAX: usize = 64 << 10;
/// Events that may wait for one slow watcher; beyond it the watch ends, as in etcd (its channel holds 100).
pub const MAILBOX_MAX: usize = 100;
/// Buffers larger than this are given back when a connection goes idle: most requests fit, and idle ones are many.
const IDLE_BUFFER_BYTES: usize = 4 << 10;

/// How the outcome of a write is to be told.
#[derive(Debug)]
pub enum Form {
    /// As an event, or one of the keys' errors.
    Keys {
        /// Leave the node out of a success.
        no_value: bool,
    },
    /// As the auth endpoints answer.
    Auth,
    /// As the members endpoints answer; what was asked for is part of the answer.
    Members(Box<MemberChange>),
}

/// A write whose outcome is awaited.
#[derive(Debug)]
struct PendingWrite {
    seq: u32,
    form: Form,
    reply: Reply,
    /// Rendered already, but an earlier one is still awaited.
    rendered: Option<Vec<u8>>,
}

/// After the last answer, this much of what the client still sends is read and thrown away: more than the largest form.
const LINGER_BYTES_MAX: usize = 32 << 20;
/// And for this long.
const LINGER_TIME: std::time::Duration = std::time::Duration::from_secs(2);

/// What a watcher was sent and has not been told yet.
#[derive(Default)]
struct Mailbox {
    events: VecDeque<Rc<Event>>,
    /// No more will come: the one-shot event arrived, or the reader was too slow.
    ended: bool,
}

/// The part of a connection that others reach: the driver puts answers here and wakes the task.
pub struct Conn {
    slot: u32,
    generation: u32,
    /// It came to a peer URL, where the client API is not served.
    peer: bool,
    out: RefCell<Vec<u8>>,
    pending: RefCell<VecDeque<PendingWrite>>,
    next_seq: Cell<u32>,
    mailbox: RefCell<Mailbox>,
    linear_read: Cell<Option<bool>>,
    findings: Findings,
    wake: Notify,
}

impl Conn {
    /// A connection in this slot.
    #[must_use]
    pub fn new(slot: u32, generation: u32, peer: bool) -> Self {
        Self {
            slot,
            generation,
            peer,
            out: RefCell::default(),
            pending: RefCell::default(),
            next_seq: Cell::new(0),
            mailbox: RefCell::default(),
            linear_read: Cell::new(None),
            findings: Findings::default(),
            wake: Notify::default(),
        }
    }

    /// Whether it came to a peer URL.
    #[must_use]
    pub fn is_peer(&self) -> bool {
        self.peer
    }

    /// Its place among the connections.
    #[must_use]
    pub fn slot(&self) -> u32 {
        self.slot
    }

    /// Which tenant of its slot it is.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// What this connection's own password checks found.
    pub(super) fn findings(&self) -> &Findings {
        &self.findings
    }

    fn token(&self) -> ClientToken {
        let seq = self.next_seq.get();
        self.next_seq.set(seq.wrapping_add(1));
        ClientToken { slot: self.slot, generation: self.generation, seq }
    }

    /// Remembers that an answer is owed for a write; its outcome arrives under the token.
    pub fn expect_write(&self, form: Form, reply: Reply) -> ClientToken {
        let token = self.token();
        self.pending.borrow_mut().push_back(PendingWrite { seq: token.seq, form, reply, rendered: None });
        token
    }

    /// Where answers that need no waiting are rendered.
    pub fn out(&self) -> std::cell::RefMut<'_, Vec<u8>> {
        self.out.borrow_mut()
    }

    /// The token watchers carry.
    fn watch_token(&self) -> u64 {
        u64::from(self.slot) | u64::from(self.generation) << 32
    }

    /// Takes a write's outcome: rendered at once when its turn has come, else kept.
    pub fn answer(&self, hub: &Hub, seq: u32, outcome: &Outcome) {
        let mut pending = self.pending.borrow_mut();
        let Some(front) = pending.front() else { return };
        let place = seq.wrapping_sub(front.seq) as usize;
        let mut out = self.out.borrow_mut();
        if place == 0 {
            let first = pending.pop_front().expect("front exists");
            hub.responder.outcome(&mut out, hub, outcome, &first.form, first.reply);
            while pending.front().is_some_and(|next| next.rendered.is_some()) {
                let next = pending.pop_front().expect("checked");
                out.extend_from_slice(&next.rendered.expect("checked"));
            }
            if pending.is_empty() {
                drop((pending, out));
                self.wake.notify();
            }
        } else if let Some(later) = pending.get_mut(place) {
            let mut rendered = Vec::new();
            hub.responder.outcome(&mut rendered, hub, outcome, &later.form, later.reply);
            later.rendered = Some(rendered);
        }
    }

    /// Takes an event for this connection's watcher. False when the watcher is too slow and must be removed.
    pub fn deliver(&self, event: Rc<Event>, last: bool) -> bool {
        let mut mailbox = self.mailbox.borrow_mut();
        if mailbox.ended {
            return true;
        }
        let fits = mailbox.events.len() < MAILBOX_MAX;
        if fits {
            mailbox.events.push_back(event);
        }
        mailbox.ended = last || !fits;
        drop(mailbox);
        self.wake.notify();
        fits
    }

    /// A linearizable read may be answered now, or has no quorum.
    pub fn linear_read_done(&self, confirmed: bool) {
        self.linear_read.set(Some(confirmed));
        self.wake.notify();
    }

    /// Wakes the task to look at the hub's state (a stop).
    pub fn poke(&self) {
        self.wake.notify();
    }

    fn writes_pending(&self) -> usize {
        self.pending.borrow().len()
    }
}

/// What the bytes at hand lead to.
enum Step {
    /// Every complete request was taken; more bytes are needed.
    Read,
    /// The writes taken so far must be answered first.
    AwaitWrites,
    /// The WAL has no room at this moment, and will have.
    AwaitRoom,
    /// Send what has gathered, then go on with the bytes at hand.
    Flush,
    Verify(VerifyPlan),
    Hash(HashPlan),
    Watch(WatchPlan),
    LinearGet(GetPlan),
    /// Send what has gathered and close.
    Close,
}

/// Serves a connection until either side ends it.
pub async fn serve(hub: Rc<Hub>, mut stream: TcpStream, peer: bool) {
    // Answers are whole when sent; waiting for more to send would only delay them.
    let _ = stream.set_nodelay(true);
    let conn = hub.connections.borrow_mut().open(peer);
    let ended = exchange(&hub, &conn, &mut stream).await;
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
    hub.connections.borrow_mut().close(&conn);
}

async fn exchange(hub: &Rc<Hub>, conn: &Rc<Conn>, stream: &mut TcpStream) -> io::Result<()> {
    let mut reader = RequestReader::new();
    let mut input = Input::default();
    loop {
        match step(hub, conn, &mut reader, &mut input) {
            Step::Read => {
                flush(conn, stream).await?;
                release(&mut input.bytes);
                release(&mut conn.out.borrow_mut());
                if hub.is_stopping() && !reader.is_inside_request(&input.bytes) {
                    return Ok(());
                }
                match read_or_wake(hub, conn, stream, &mut input.bytes).await? {
                    Woke::Bytes => {}
                    Woke::End => return Ok(()),
                    Woke::Poked => {}
                }
            }
            Step::AwaitWrites => await_writes(conn).await,
            Step::AwaitRoom => {
                flush(conn, stream).await?;
                conn.wake.wait().await;
            }
            Step::Flush => flush(conn, stream).await?,
            Step::Verify(plan) => {
                flush(conn, stream).await?;
                credentials::verify_password(hub, conn, plan).await;
            }
            Step::Hash(plan) => {
                flush(conn, stream).await?;
                credentials::hash_password(hub, conn, plan).await?;
            }
            Step::Watch(plan) => {
                if !watch(hub, conn, stream, &mut input, plan).await? {
                    return Ok(());
                }
            }
            Step::LinearGet(plan) => {
                linear_get(hub, conn, &plan).await;
                if !plan.reply.keep_alive {
                    return finish(hub, conn, stream).await;
                }
            }
            Step::Close => {
                await_writes(conn).await;
                return finish(hub, conn, stream).await;
            }
        }
    }
}

/// Bytes from the client; those before `start` are served.
#[derive(Default)]
struct Input {
    bytes: Vec<u8>,
    start: usize,
    /// The client holds its body back until it reads `100 Continue`.
    owes_continue: bool,
}

/// Takes requests from the input until it runs out or something must be awaited.
fn step(hub: &Rc<Hub>, conn: &Rc<Conn>, reader: &mut RequestReader, input: &mut Input) -> Step {
    loop {
        if conn.writes_pending() >= WRITES_PENDING_MAX {
            return Step::AwaitWrites;
        }
        let next = reader.next(&input.bytes[input.start..], &hub.limits);
        match next {
            Next::Request(request) => {
                let writes_pending = conn.writes_pending();
                let keep_alive = request.keep_alive && !hub.is_stopping();
                let dispatch = hub.responder.dispatch(hub, conn, &request, keep_alive, writes_pending > 0);
                match dispatch {
                    Dispatch::Answered | Dispatch::Proposed => {}
                    Dispatch::BehindWrites => return Step::AwaitWrites,
                    Dispatch::ProposedAlone => {
                        input.start += reader.served();
                        return if keep_alive { Step::AwaitWrites } else { Step::Close };
                    }
                    Dispatch::Verify(_) | Dispatch::Hash(_) if writes_pending > 0 => return Step::AwaitWrites,
                    Dispatch::Verify(plan) => return Step::Verify(plan),
                    Dispatch::Hash(plan) => return Step::Hash(plan),
                    Dispatch::AwaitRoom if writes_pending > 0 => return Step::AwaitWrites,
                    Dispatch::AwaitRoom => return Step::AwaitRoom,
                    Dispatch::Close => return Step::Close,
                    Dispatch::Watch(plan) => {
                        input.start += reader.served();
                        return Step::Watch(plan);
                    }
                    Dispatch::LinearGet(plan) => {
                        input.start += reader.served();
                        return Step::LinearGet(plan);
                    }
                }
                input.start += reader.served();
                if !keep_alive {
                    return Step::Close;
                }
                if conn.out.borrow().len() >= OUT_HIGH_BYTES {
                    return if conn.writes_pending() > 0 { Step::AwaitWrites } else { Step::Flush };
                }
            }
            Next::Decode => reader.decode(&mut input.bytes[input.start..]),
            Next::Refuse(error) => {
                if conn.writes_pending() > 0 {
                    return Step::AwaitWrites;
                }
                conn.out.borrow_mut().extend_from_slice(error.reply());
                return Step::Close;
            }
            Next::NeedMore { send_continue, total } => {
                // The reader says it once; answers that are still owed go first.
                input.owes_continue |= send_continue;
                if conn.writes_pending() > 0 {
                    return Step::AwaitWrites;
                }
                input.compact(reader);
                if let Some(total) = total {
                    input.bytes.reserve(total.saturating_sub(input.bytes.len()));
                }
                if std::mem::take(&mut input.owes_continue) {
                    conn.out.borrow_mut().extend_from_slice(CONTINUE);
                }
                return Step::Read;
            }
        }
    }
}

impl Input {
    fn compact(&mut self, reader: &mut RequestReader) {
        self.bytes.drain(..self.start);
        self.start = 0;
        let slack = reader.slack();
        if !slack.is_empty() {
            self.bytes.drain(slack);
            reader.compacted();
        }
    }
}

fn release(buffer: &mut Vec<u8>) {
    if buffer.is_empty() && buffer.capacity() > IDLE_BUFFER_BYTES {
        *buffer = Vec::new();
    }
}

async fn await_writes(conn: &Conn) {
    while conn.writes_pending() > 0 {
        conn.wake.wait().await;
    }
}

/// Sends everything that has gathered.
async fn flush(conn: &Conn, stream: &mut TcpStream) -> io::Result<()> {
    let mut sent = 0;
    poll_fn(|context| {
        let out = conn.out.borrow();
        while sent < out.len() {
            match Pin::new(&mut *stream).poll_write(context, &out[sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(bytes)) => sent += bytes,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    })
    .await?;
    conn.out.borrow_mut().clear();
    Ok(())
}

/// Sends what is left, says goodbye, and reads on for a while: closing while the client still sends would reset the
/// connection, and the reset can overtake the answer.
async fn finish(hub: &Hub, conn: &Conn, stream: &mut TcpStream) -> io::Result<()> {
    flush(conn, stream).await?;
    poll_fn(|context| Pin::new(&mut *stream).poll_close(context)).await?;
    let discarded = async {
        let mut left = LINGER_BYTES_MAX;
        let mut bytes = Vec::new();
        while left > 0 {
            bytes.clear();
            match poll_fn(|context| poll_read_into(hub, stream, &mut bytes, context)).await {
                Ok(Woke::Bytes) => left = left.saturating_sub(bytes.len()),
                Ok(Woke::End | Woke::Poked) | Err(_) => return,
            }
        }
    };
    let tired = async {
        glommio::timer::Timer::new(LINGER_TIME).await;
    };
    futures_lite::future::or(discarded, tired).await;
    Ok(())
}

enum Woke {
    Bytes,
    End,
    Poked,
}

/// Waits for bytes, the end of the stream, or a wake-up.
async fn read_or_wake(hub: &Hub, conn: &Conn, stream: &mut TcpStream, into: &mut Vec<u8>) -> io::Result<Woke> {
    let mut woken = pin!(conn.wake.wait());
    poll_fn(|context| {
        if let Poll::Ready(read) = poll_read_into(hub, stream, into, context) {
            return Poll::Ready(read);
        }
        woken.as_mut().poll(context).map(|()| Ok(Woke::Poked))
    })
    .await
}

/// Reads through the hub's one large buffer: a connection that waits holds no buffer of its own.
fn poll_read_into(
    hub: &Hub,
    stream: &mut TcpStream,
    into: &mut Vec<u8>,
    context: &mut Context<'_>,
) -> Poll<io::Result<Woke>> {
    let mut scratch = hub.scratch.borrow_mut();
    match Pin::new(stream).poll_read(context, &mut scratch) {
        Poll::Ready(Ok(0)) => Poll::Ready(Ok(Woke::End)),
        Poll::Ready(Ok(bytes)) => {
            into.extend_from_slice(&scratch[..bytes]);
            Poll::Ready(Ok(Woke::Bytes))
        }
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}

async fn linear_get(hub: &Rc<Hub>, conn: &Rc<Conn>, plan: &GetPlan) {
    conn.linear_read.set(None);
    hub.linear_read(conn.token());
    let confirmed = loop {
        if let Some(confirmed) = conn.linear_read.take() {
            break confirmed;
        }
        conn.wake.wait().await;
    };
    hub.responder.linear_get(&mut conn.out.borrow_mut(), hub, plan, confirmed);
}

/// Removes the watcher when the connection's task ends in any way.
struct WatchGuard<'a> {
    hub: &'a Hub,
    id: Option<WatcherId>,
}

impl Drop for WatchGuard<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.hub.node.borrow_mut().store_mut().unwatch(id);
        }
    }
}

/// Runs one watch. False when the connection is over.
async fn watch(
    hub: &Rc<Hub>,
    conn: &Rc<Conn>,
    stream: &mut TcpStream,
    input: &mut Input,
    plan: WatchPlan,
) -> io::Result<bool> {
    *conn.mailbox.borrow_mut() = Mailbox::default();
    let mut guard = WatchGuard { hub, id: None };
    let started = hub.node.borrow_mut().store_mut().watch(&plan.request(), conn.watch_token());
    let body = match started {
        Err(error) => {
            hub.responder.store_error(&mut conn.out.borrow_mut(), &error, plan.reply);
            return Ok(plan.reply.keep_alive || finish(hub, conn, stream).await.map(|()| false)?);
        }
        Ok(start) => {
            let body = hub.responder.watch_begins(&mut conn.out.borrow_mut(), hub, plan.reply);
            match start {
                WatchStart::Now(event) => {
                    conn.deliver(event, !plan.stream);
                }
                WatchStart::Parked(id) => guard.id = Some(id),
            }
            body
        }
    };
    loop {
        let ended = tell(hub, conn, body, plan.reply);
        flush(conn, stream).await?;
        if ended {
            break;
        }
        if hub.is_stopping() {
            body.finish(&mut conn.out.borrow_mut());
            finish(hub, conn, stream).await?;
            return Ok(false);
        }
        if conn.mailbox.borrow().events.is_empty() {
            let woke = if input.bytes.len() - input.start < WATCH_INPUT_MAX {
                read_or_wake(hub, conn, stream, &mut input.bytes).await?
            } else {
                conn.wake.wait().await;
                Woke::Poked
            };
            if matches!(woke, Woke::End) {
                return Ok(false);
            }
        }
    }
    if body.must_close() {
        finish(hub, conn, stream).await?;
        return Ok(false);
    }
    Ok(true)
}

/// Renders what the mailbox holds; true when the watch is over.
fn tell(hub: &Hub, conn: &Conn, body: Stream, reply: Reply) -> bool {
    let mut mailbox = conn.mailbox.borrow_mut();
    let mut out = conn.out.borrow_mut();
    while let Some(event) = mailbox.events.pop_front() {
        if !reply.head_only {
            body.append(&mut out, |out| hub.responder.watch_event(out, &event));
        }
    }
    let ended = mailbox.ended;
    if ended {
        body.finish(&mut out);
    }
    ended
}
