//! One client connection: bytes in, requests to the node, answers out, in order.
//!
//! Owns: the connection's buffers and what it still owes its client. Touches: the hub (node, store) without ever
//! holding a borrow across an await.
//!
//! Invariants:
//! 1. Answers leave in the order of their requests, whatever order their outcomes arrive in.
//! 2. A read behind a write of the same connection sees that write: it waits until the write was answered.
//! 3. Every buffer is bounded: input by the request limits, output by [`OUT_HIGH_BYTES`] plus one answer, or the answers
//!    to the writes under way; and both, over all connections, by `pressure.rs`.
//! 4. A client that keeps its connection busy lets others run: between two waits the task yields when its time is up.
//! 5. A client that is too slow (`pace.rs`) gets 408 if it was sending a request, nothing if it was silent, and a reset
//!    if it does not read.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::{AsyncRead, AsyncWrite};

use super::clock;
use super::connections::{Connections, Tenancy};
use super::credentials::{self, Findings, HashPlan, VerifyPlan};
use super::driver::Hub;
use super::notify::Notify;
use super::pace::{Pace, Phase};
use super::peer_in;
use super::profile::{self, ProfilePlan};
use super::raw;
use super::respond::{Dispatch, GetPlan, Reply, WatchPlan};
use super::tls::Stream;
use super::watching::{Mailbox, watch};
use crate::core::event::{ClientToken, Outcome};
use crate::core::membership::MemberChange;
use crate::core::store::{Event, WatcherId};
use crate::metrics;
use crate::wire::http_body::{Next, RequestReader};
use crate::wire::http_reply::{CONTINUE, REQUEST_TIMEOUT, TOO_MANY_BODIES};
use crate::wire::http_request::RequestError;
use crate::wire::peer_handshake::parse_request;

/// Writes of one connection that may wait for the disk at once; more pipelined ones wait in the input buffer.
const WRITES_PENDING_MAX: usize = 256;
/// Answers are sent once this much has gathered, even if more requests are at hand.
pub(super) const OUT_HIGH_BYTES: usize = 64 << 10;
/// Buffers larger than this are given back when a connection goes idle: most requests fit, and idle ones are many.
const IDLE_BUFFER_BYTES: usize = 4 << 10;

/// What is served on a connection, by the listener that it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// The API.
    Clients,
    /// What members ask each other.
    Members,
    /// Metrics and health, nothing else.
    Monitors,
}

/// A linearizable read that waits longer is counted as slow: etcd asks the leader again after this long.
const SLOW_READ: std::time::Duration = std::time::Duration::from_millis(500);

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

/// The part of a connection that others reach: the driver puts answers here and wakes the task.
pub struct Conn {
    slot: u32,
    generation: u32,
    audience: Audience,
    out: RefCell<Vec<u8>>,
    pending: RefCell<VecDeque<PendingWrite>>,
    next_seq: Cell<u32>,
    pub(super) mailbox: Mailbox,
    /// The linearizable read that is awaited, by its token's number, and what became of it.
    linear_read: Cell<(u32, Option<bool>)>,
    held: Cell<usize>,
    out_held: Cell<usize>,
    /// Bytes that all connections have sent.
    sent_bytes: Rc<Cell<u64>>,
    findings: Findings,
    /// Whom its certificate names. Boxed: few connections have one, and all would hold the space.
    certificate_user: OnceCell<Box<Rc<str>>>,
    pub(super) wake: Notify,
    /// How long it may take for what it is doing.
    pub pace: Pace,
}

impl Conn {
    /// A connection in this slot.
    #[must_use]
    pub fn new(slot: u32, generation: u32, audience: Audience, all: &Connections) -> Self {
        Self {
            slot,
            generation,
            audience,
            out: RefCell::default(),
            pending: RefCell::default(),
            next_seq: Cell::new(0),
            mailbox: Mailbox::new(Rc::clone(&all.mailbox_bytes)),
            linear_read: Cell::default(),
            held: Cell::new(0),
            out_held: Cell::new(0),
            sent_bytes: Rc::clone(&all.sent_bytes),
            findings: Findings::default(),
            certificate_user: OnceCell::new(),
            wake: Notify::default(),
            pace: Pace::default(),
        }
    }

    /// What is served here.
    #[must_use]
    pub fn audience(&self) -> Audience {
        self.audience
    }

    /// Whether it came to a peer URL.
    #[must_use]
    pub fn is_peer(&self) -> bool {
        self.audience == Audience::Members
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

    /// What [`super::pressure::Pressure`] counts of its input.
    pub(super) fn held(&self) -> &Cell<usize> {
        &self.held
    }

    /// And of its output.
    pub(super) fn out_held(&self) -> &Cell<usize> {
        &self.out_held
    }

    /// The user that its certificate names; whether there is such a user is another question.
    pub(super) fn certificate_user(&self) -> Option<&Rc<str>> {
        self.certificate_user.get().map(|user| &**user)
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
    pub(super) fn watch_token(&self) -> u64 {
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

    /// Takes an event for one of this connection's watchers. False when the watcher is too slow, or no longer this
    /// connection's, and must be removed.
    pub fn deliver(&self, watcher: WatcherId, event: Rc<Event>, last: bool) -> bool {
        let (wakes, stays) = self.mailbox.deliver(watcher, event, last);
        if wakes {
            self.wake.notify();
        }
        stays
    }

    /// A watcher's events are lost: its watch ends.
    pub fn end_watch(&self, watcher: WatcherId) {
        if self.mailbox.end(watcher) {
            self.wake.notify();
        }
    }

    /// A linearizable read may be answered now, or has no quorum.
    pub fn linear_read_done(&self, seq: u32, confirmed: bool) {
        let (awaited, _) = self.linear_read.get();
        if awaited == seq {
            self.linear_read.set((seq, Some(confirmed)));
            self.wake.notify();
        }
    }

    /// Gives the answers' buffer back, for a connection that will wait long.
    pub(super) fn release_out(&self) {
        let mut out = self.out.borrow_mut();
        if out.is_empty() {
            *out = Vec::new();
        }
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
    Profile(ProfilePlan),
    /// The cluster does not serve clients yet.
    AwaitReady,
    /// Another member begins a stream.
    PeerStream,
    /// Send what has gathered and close.
    Close,
}

/// Serves a connection until either side ends it.
pub async fn serve(hub: Rc<Hub>, mut stream: Stream, audience: Audience) {
    // Answers are whole when sent; waiting for more to send would only delay them.
    let _ = stream.socket().set_nodelay(true);
    let tenancy = Tenancy::begin(&hub.connections, &hub.pressure, audience);
    let conn = &tenancy.conn;
    if let Some(user) = stream.user() {
        conn.certificate_user.get_or_init(|| Box::new(Rc::clone(user)));
    }
    let ended = exchange(&hub, conn, &mut stream).await;
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
        if error.kind() == io::ErrorKind::TimedOut {
            // What it does not read would stay in the kernel for minutes.
            raw::reset_on_close(stream.socket());
        }
    }
}

async fn exchange(hub: &Rc<Hub>, conn: &Rc<Conn>, stream: &mut Stream) -> io::Result<()> {
    let mut reader = RequestReader::new();
    let mut input = Input::default();
    loop {
        match step(hub, conn, &mut reader, &mut input) {
            Step::Read => {
                flush(hub, conn, stream).await?;
                release(&mut input.bytes);
                release(&mut conn.out.borrow_mut());
                if hub.is_closing(conn.audience()) && !reader.is_inside_request(&input.bytes) {
                    return Ok(());
                }
                conn.pace.enter(awaited(&reader, &input.bytes), hub.second.get());
                let woke = read_or_wake(hub, conn, stream, &mut input).await?;
                match (woke, conn.pace.overdue()) {
                    (Woke::End, _) | (Woke::Poked, Some(Phase::Idle)) => return Ok(()),
                    (Woke::Poked, Some(_)) => {
                        conn.out().extend_from_slice(REQUEST_TIMEOUT);
                        return finish(hub, conn, stream).await;
                    }
                    (Woke::Bytes, _) | (Woke::Poked, None) => {}
                }
            }
            Step::AwaitWrites => await_writes(conn).await,
            Step::AwaitRoom => {
                flush(hub, conn, stream).await?;
                conn.wake.wait().await;
            }
            Step::Flush => flush(hub, conn, stream).await?,
            Step::AwaitReady => {
                // A client that leaves meanwhile is noticed, one that goes on sending is not read for ever.
                if input.waiting() < OUT_HIGH_BYTES {
                    if let Woke::End = read_or_wake(hub, conn, stream, &mut input).await? {
                        return Ok(());
                    }
                } else {
                    conn.wake.wait().await;
                }
                if hub.is_closing(conn.audience()) {
                    return Ok(());
                }
            }
            Step::PeerStream => {
                let request = input.bytes.split_off(input.start);
                let (head, rest) = request.split_at(reader.served());
                let Some(handshake) = parse_request(head) else {
                    conn.out().extend_from_slice(RequestError::Malformed("peer handshake").reply());
                    return finish(hub, conn, stream).await;
                };
                // Boxed: it is rare, and every connection's task would hold its space for life.
                return Box::pin(peer_in::serve(hub, conn, stream, handshake, rest)).await;
            }
            Step::Verify(plan) => {
                flush(hub, conn, stream).await?;
                Box::pin(credentials::verify_password(hub, conn, plan)).await;
            }
            Step::Hash(plan) => {
                flush(hub, conn, stream).await?;
                Box::pin(credentials::hash_password(hub, conn, plan)).await?;
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
            Step::Profile(plan) => {
                // Boxed: it is rare, and every connection's task would hold its space for life.
                Box::pin(profile::take(hub, conn, stream, &mut input, &plan)).await?;
                if !plan.reply.keep_alive {
                    return finish(hub, conn, stream).await;
                }
            }
            Step::Close => {
                await_writes(conn).await;
                return finish(hub, conn, stream).await;
            }
        }
        glommio::yield_if_needed().await;
    }
}

/// What a connection that reads is waiting for.
fn awaited(reader: &RequestReader, bytes: &[u8]) -> Phase {
    if reader.is_inside_body() {
        Phase::Body
    } else if reader.is_inside_request(bytes) {
        Phase::Head
    } else {
        Phase::Idle
    }
}

/// Bytes from the client; those before `start` are served.
#[derive(Default)]
pub(super) struct Input {
    bytes: Vec<u8>,
    start: usize,
    /// The client holds its body back until it reads `100 Continue`.
    owes_continue: bool,
}

/// Takes requests from the input until it runs out or something must be awaited.
fn step(hub: &Rc<Hub>, conn: &Rc<Conn>, reader: &mut RequestReader, input: &mut Input) -> Step {
    let begun = clock::monotonic();
    hub.taking_since.set(begun);
    let step = take_requests(hub, conn, reader, input);
    hub.metrics.step(metrics::Step::Request, begun.elapsed());
    step
}

fn take_requests(hub: &Rc<Hub>, conn: &Rc<Conn>, reader: &mut RequestReader, input: &mut Input) -> Step {
    loop {
        if conn.writes_pending() >= WRITES_PENDING_MAX {
            return Step::AwaitWrites;
        }
        if conn.out.borrow().len() >= OUT_HIGH_BYTES {
            return if conn.writes_pending() > 0 { Step::AwaitWrites } else { Step::Flush };
        }
        let next = reader.next(&input.bytes[input.start..], &hub.limits);
        match next {
            Next::Request(request) => {
                conn.pace.serve();
                let writes_pending = conn.writes_pending();
                let keep_alive = request.keep_alive && !hub.is_closing(conn.audience());
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
                    Dispatch::AwaitReady => return Step::AwaitReady,
                    Dispatch::PeerStream => return Step::PeerStream,
                    Dispatch::Watch(plan) => {
                        input.start += reader.served();
                        return Step::Watch(plan);
                    }
                    Dispatch::LinearGet(plan) => {
                        input.start += reader.served();
                        return Step::LinearGet(plan);
                    }
                    Dispatch::Profile(plan) => {
                        input.start += reader.served();
                        return Step::Profile(plan);
                    }
                }
                input.start += reader.served();
                if !keep_alive {
                    return Step::Close;
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
                let held = conn.held.get();
                if !hub.pressure.hold(&conn.held, total.unwrap_or(0).max(input.bytes.len())) {
                    metrics::add(&hub.metrics.bodies_refused, 1);
                    conn.out().extend_from_slice(TOO_MANY_BODIES);
                    return Step::Close;
                }
                if conn.held.get() < held {
                    input.bytes.shrink_to(IDLE_BUFFER_BYTES);
                }
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
    /// Forgets what is served, and the buffer with it when nothing else is in it.
    pub(super) fn drop_served(&mut self) {
        self.bytes.drain(..self.start);
        self.start = 0;
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
    }

    /// Bytes that are not served.
    pub(super) fn waiting(&self) -> usize {
        self.bytes.len() - self.start
    }

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

/// Sends everything that has gathered. `TimedOut` when the client takes nothing for too long.
pub(super) async fn flush(hub: &Hub, conn: &Conn, stream: &mut Stream) -> io::Result<()> {
    hub.pressure.hold_answers(&conn.out_held, conn.out.borrow().len());
    let mut sent = 0;
    let mut blocked = false;
    poll_fn(|context| {
        let out = conn.out.borrow();
        while sent < out.len() {
            match Pin::new(&mut *stream).poll_write(context, &out[sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(bytes)) => {
                    sent += bytes;
                    if blocked {
                        conn.pace.unblocked(hub.second.get());
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending if conn.pace.blocked(hub.second.get(), context.waker()) => {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending => {
                    blocked = true;
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(()))
    })
    .await?;
    if blocked {
        conn.pace.serve();
    }
    let mut out = conn.out.borrow_mut();
    out.clear();
    if conn.out_held.get() > 0 {
        *out = Vec::new();
        hub.pressure.let_go_answers(&conn.out_held);
    }
    metrics::add(&conn.sent_bytes, sent as u64);
    Ok(())
}

/// Sends what is left, says goodbye, and reads on for a while: closing while the client still sends would reset the
/// connection, and the reset can overtake the answer.
pub(super) async fn finish(hub: &Hub, conn: &Conn, stream: &mut Stream) -> io::Result<()> {
    flush(hub, conn, stream).await?;
    // Boxed: it is rare, and every connection's task would hold its space for life.
    Box::pin(linger(hub, stream)).await
}

/// Ends our side and throws away what still comes.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(hub: &Hub, stream: &mut S) -> io::Result<()> {
    let discarded = async {
        // Over TLS the goodbye is bytes, which a client that reads nothing does not take.
        poll_fn(|context| Pin::new(&mut *stream).poll_close(context)).await?;
        let mut left = LINGER_BYTES_MAX;
        let mut bytes = Vec::new();
        while left > 0 {
            bytes.clear();
            match poll_fn(|context| poll_read_into(hub, stream, &mut bytes, context)).await {
                Ok(Woke::Bytes) => left = left.saturating_sub(bytes.len()),
                Ok(Woke::End | Woke::Poked) | Err(_) => break,
            }
            glommio::yield_if_needed().await;
        }
        Ok(())
    };
    let tired = async {
        glommio::timer::Timer::new(LINGER_TIME).await;
        Ok(())
    };
    futures_lite::future::or(discarded, tired).await
}

pub(super) enum Woke {
    Bytes,
    End,
    Poked,
}

/// Waits for bytes, the end of the stream, or a wake-up.
pub(super) async fn read_or_wake(hub: &Hub, conn: &Conn, stream: &mut Stream, input: &mut Input) -> io::Result<Woke> {
    let mut woken = pin!(conn.wake.wait());
    poll_fn(|context| {
        if let Poll::Ready(read) = poll_read_into(hub, stream, &mut input.bytes, context) {
            return Poll::Ready(read);
        }
        woken.as_mut().poll(context).map(|()| Ok(Woke::Poked))
    })
    .await
}

/// Reads through the hub's one large buffer: a connection that waits holds no buffer of its own.
fn poll_read_into<S: AsyncRead + Unpin>(
    hub: &Hub,
    stream: &mut S,
    into: &mut Vec<u8>,
    context: &mut Context<'_>,
) -> Poll<io::Result<Woke>> {
    let mut scratch = hub.scratch.borrow_mut();
    match Pin::new(stream).poll_read(context, &mut scratch) {
        Poll::Ready(Ok(0)) => Poll::Ready(Ok(Woke::End)),
        Poll::Ready(Ok(bytes)) => {
            into.extend_from_slice(&scratch[..bytes]);
            metrics::add(&hub.metrics.received_bytes, bytes as u64);
            Poll::Ready(Ok(Woke::Bytes))
        }
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Pending => Poll::Pending,
    }
}

async fn linear_get(hub: &Rc<Hub>, conn: &Rc<Conn>, plan: &GetPlan) {
    let begun = clock::monotonic();
    let token = conn.token();
    conn.linear_read.set((token.seq, None));
    hub.linear_read(token);
    let done = async {
        loop {
            if let (_, Some(confirmed)) = conn.linear_read.get() {
                return confirmed;
            }
            conn.wake.wait().await;
        }
    };
    let confirmed = match plan.patience() {
        None => done.await,
        Some(patience) => {
            let impatient = async {
                glommio::timer::Timer::new(patience).await;
                false
            };
            futures_lite::future::or(done, impatient).await
        }
    };
    if begun.elapsed() > SLOW_READ {
        metrics::add(&hub.metrics.slow_reads, 1);
    }
    let mut out = conn.out.borrow_mut();
    hub.responder.linear_get(&mut out, hub, plan, confirmed);
    // Others whose round has ended may be answered before this one begins to send.
    hub.pressure.hold_answers(&conn.out_held, out.len());
}
