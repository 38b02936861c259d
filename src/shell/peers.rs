//! The book of the other members: where each is reached, and what waits to be sent to it.
//!
//! Owns: one [`Peer`] per other member, filled from the member table and from handshakes; the queue to each; the watch
//! over streams that have gone silent. Touches: the hub. What happens on a stream is `peer_out.rs` and `peer_in.rs`,
//! snapshots are `peer_snapshot.rs`.
//!
//! Invariants:
//! 1. Messages of a turn are queued, encoded, before the turn's append, so that they leave while the disk works.
//! 2. A queue holds at most [`QUEUE_BYTES_MAX`]; what does not fit, or has no stream, is dropped and the member reported
//!    unreachable: raft sends again what matters.
//! 3. A member that the table calls removed has no entry here.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use glommio::timer::Timer;
use ringd_storage::ids::{MemberId, RaftIndex};

use super::connection::Conn;
use super::driver::Hub;
use super::notify::Notify;
use super::tls_files::Side;
use super::{clock, peer_out};
use crate::config::url::Url;
use crate::core::event::Input;
use crate::core::membership::{Member, MemberChange, Membership};
use crate::core::node::Node;
use crate::core::replica::PeerMessage;
use crate::metrics::{self, PeerMetrics, nanos};
use crate::wire::peer_frame::{Class, MessageTooLong, Outbox, addressee, classify};

/// Bytes that may wait for one member: a burst of appends while its receive window is closed.
const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Appends whose answers are timed at once; more in flight are not timed.
const TIMED_MAX: usize = 1024;
/// Members known from handshakes alone (the table has not told of them yet).
const STRANGERS_MAX: usize = 16;
/// A member counts as healthy for a change of members when it has been reached for so long, as in etcd.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// Between two probes of every stream.
const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// Probes after which a silent stream is dead: five seconds, as in etcd.
const UNANSWERED_MAX: u32 = 5;

/// Another member.
pub struct Peer {
    /// Who.
    pub id: MemberId,
    urls: RefCell<Vec<Url>>,
    /// What is gathered for it.
    pub outbox: RefCell<Outbox>,
    /// There is something to send, or the stream is over.
    pub wake: Notify,
    /// Since when a stream to it stands.
    connected: Cell<Option<Instant>>,
    /// Probes since something was last heard on the stream to it. Probes are counted, not seconds: a process that was
    /// stopped for a while must not hold it against others.
    pub unanswered: Cell<u32>,
    /// Nothing was heard for too long.
    pub silent: Cell<bool>,
    /// It left the cluster; its tasks end.
    pub gone: Cell<bool>,
    /// Its numbers.
    pub metrics: Rc<PeerMetrics>,
    /// Appends on their way, oldest first, since when.
    timed: RefCell<VecDeque<(RaftIndex, Instant)>>,
}

impl Peer {
    fn new(id: MemberId, urls: Vec<Url>) -> Self {
        Self {
            id,
            urls: RefCell::new(urls),
            outbox: RefCell::default(),
            wake: Notify::default(),
            connected: Cell::default(),
            unanswered: Cell::default(),
            silent: Cell::default(),
            gone: Cell::default(),
            metrics: Rc::new(PeerMetrics::new(id.to_string())),
            timed: RefCell::default(),
        }
    }

    /// Where it is reached; with several URLs, each try takes the next.
    #[must_use]
    pub fn url(&self, number_of_try: usize) -> Option<Url> {
        let urls = self.urls.borrow();
        urls.get(number_of_try % urls.len().max(1)).cloned()
    }

    /// All the places where it is reached.
    #[must_use]
    pub fn urls(&self) -> Vec<Url> {
        self.urls.borrow().clone()
    }

    /// Whether a stream to it stands.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.get().is_some()
    }

    /// The stream to it stands, or no longer.
    pub fn set_connected(&self, connected: bool) {
        self.connected.set(connected.then(clock::monotonic));
        self.metrics.active.set(connected);
        self.unanswered.set(0);
        self.silent.set(false);
        self.outbox.borrow_mut().clear();
        self.timed.borrow_mut().clear();
    }

    /// Queues a message. False when it was dropped.
    fn queue(&self, message: &PeerMessage, now: Instant) -> bool {
        let mut outbox = self.outbox.borrow_mut();
        let taken = self.is_connected() && outbox.len() < QUEUE_BYTES_MAX;
        if !taken {
            metrics::add(&self.metrics.sent_failures, 1);
            self.metrics.latency.borrow_mut().fail += 1;
            return false;
        }
        if let Err(error @ MessageTooLong(_)) = outbox.push(message) {
            tracing::warn!(peer = %self.id, "{error}; it is dropped");
            metrics::add(&self.metrics.sent_failures, 1);
            return true;
        }
        if let Class::Append { last } = classify(message) {
            let mut timed = self.timed.borrow_mut();
            if timed.len() < TIMED_MAX {
                timed.push_back((last, now));
            }
        }
        self.wake.notify();
        true
    }

    /// It acknowledged entries up to this one.
    pub fn acknowledged(&self, upto: RaftIndex, now: Instant) {
        let mut timed = self.timed.borrow_mut();
        while let Some(&(_, sent)) = timed.front().filter(|(last, _)| *last <= upto) {
            timed.pop_front();
            self.metrics.latency.borrow_mut().succeed(now.saturating_duration_since(sent).as_secs_f64() * 1e3);
        }
    }
}

/// A stream that another member opened.
pub struct Incoming {
    /// Who sends.
    pub from: MemberId,
    /// Its connection; poking it lets its task look at this.
    pub conn: Rc<Conn>,
    /// Probes of ours since something last arrived.
    pub unanswered: Cell<u32>,
    /// A newer stream of the same member took its place, or it was silent too long.
    pub over: Cell<bool>,
}

/// The book.
#[derive(Default)]
pub struct Peers {
    book: RefCell<BTreeMap<MemberId, Rc<Peer>>>,
    incoming: RefCell<Vec<Rc<Incoming>>>,
    /// The member table changed.
    pub changed: Notify,
    /// Snapshots to send.
    pub snapshots: RefCell<Vec<PeerMessage>>,
    /// There are some.
    pub snapshots_wanted: Notify,
    /// A snapshot is being received.
    pub receiving: Cell<bool>,
    /// Where this member says it is reached, before the table knows.
    pub own_urls: RefCell<Vec<String>>,
    /// How members are spoken to where URLs want TLS; set at the start, before anything is dialled.
    pub tls: OnceCell<Rc<Side>>,
}

impl Peers {
    /// How members are spoken to.
    #[must_use]
    pub fn tls(&self) -> &Side {
        self.tls.get().expect("set at the start")
    }

    /// A member by id.
    #[must_use]
    pub fn get(&self, id: MemberId) -> Option<Rc<Peer>> {
        self.book.borrow().get(&id).cloned()
    }

    /// How many members a stream reaches, and how many there are.
    #[must_use]
    pub fn reached(&self) -> (usize, usize) {
        let book = self.book.borrow();
        (book.values().filter(|peer| peer.is_connected()).count(), book.len())
    }

    /// etcd's strict check of a change of members, the part that depends on streams: a member joins only while all
    /// others have been reached for [`HEALTHY_AFTER`], and one that is reached leaves only if a quorum remains without
    /// it.
    ///
    /// # Errors
    /// The members that are not reached.
    pub fn check_health(
        &self,
        members: &Membership,
        own: MemberId,
        change: &MemberChange,
    ) -> Result<(), Vec<MemberId>> {
        let book = self.book.borrow();
        let is_steady = |id: MemberId| {
            let since = book.get(&id).and_then(|peer| peer.connected.get());
            id == own || since.is_some_and(|since| since.elapsed() >= HEALTHY_AFTER)
        };
        let missing: Vec<MemberId> = members.iter().map(|member| member.id).filter(|id| !is_steady(*id)).collect();
        let steady = members.len() - missing.len();
        let is_healthy = match change {
            MemberChange::Add(_) => missing.is_empty(),
            MemberChange::Remove(id) if *id != own && !book.get(id).is_some_and(|peer| peer.is_connected()) => true,
            MemberChange::Remove(_) => steady > 1 + members.len().saturating_sub(1) / 2,
            MemberChange::Update { .. } => true,
        };
        if is_healthy { Ok(()) } else { Err(missing) }
    }

    /// Whether whoever a write needs has been connected since `begun`: the leader, or, where this member leads, members
    /// that make a quorum with it. True when nobody leads.
    #[must_use]
    pub fn were_reached_since(&self, begun: Instant, node: &Node) -> bool {
        let (leader, own) = (node.leader(), node.config().id);
        let book = self.book.borrow();
        let was_reached = |id: MemberId| {
            let since = book.get(&id).and_then(|peer| peer.connected.get());
            id == own || since.is_some_and(|since| since < begun)
        };
        if leader == own {
            let members = node.members();
            members.iter().filter(|member| was_reached(member.id)).count() > members.len() / 2
        } else {
            leader == MemberId::default() || was_reached(leader)
        }
    }

    /// Streams that others opened.
    #[must_use]
    pub fn incoming(&self) -> usize {
        self.incoming.borrow().len()
    }

    /// Queues a turn's messages. Who could not be reached is added to `unreachable`.
    pub fn send(&self, messages: &mut Vec<PeerMessage>, counters: &metrics::Metrics, unreachable: &mut Vec<MemberId>) {
        let book = self.book.borrow();
        let now = clock::monotonic();
        for message in messages.drain(..) {
            let to = addressee(&message);
            match classify(&message) {
                Class::Snapshot { .. } => {
                    self.snapshots.borrow_mut().push(message);
                    self.snapshots_wanted.notify();
                    continue;
                }
                Class::Append { .. } => metrics::add(&counters.appends_sent, 1),
                _ => {}
            }
            let queued = book.get(&to).is_some_and(|peer| peer.queue(&message, now));
            if !queued && !unreachable.contains(&to) {
                unreachable.push(to);
            }
        }
    }

    /// Remembers a stream that a member opened; an older one of the same member is over.
    pub fn arrived(&self, from: MemberId, conn: &Rc<Conn>) -> Rc<Incoming> {
        let mut incoming = self.incoming.borrow_mut();
        for older in incoming.iter().filter(|older| older.from == from) {
            older.over.set(true);
            older.conn.poke();
        }
        let (unanswered, over) = (Cell::default(), Cell::default());
        let stream = Rc::new(Incoming { from, conn: Rc::clone(conn), unanswered, over });
        incoming.push(Rc::clone(&stream));
        stream
    }

    /// A stream that a member opened has ended.
    pub fn left(&self, stream: &Rc<Incoming>) {
        self.incoming.borrow_mut().retain(|other| !Rc::ptr_eq(other, stream));
    }

    /// Ends every stream, for the process stops.
    pub fn close_all(&self) {
        for stream in self.incoming.borrow().iter() {
            stream.over.set(true);
            stream.conn.poke();
        }
        for peer in self.book.borrow().values() {
            peer.gone.set(true);
            peer.wake.notify();
        }
    }
}

/// Adds a member that a handshake or another member's list told of, if it is not known yet.
pub fn introduce(hub: &Rc<Hub>, id: MemberId, urls: &[String]) {
    let strangers = {
        let (node, book) = (hub.node.borrow(), hub.peers.book.borrow());
        let is_known = book.contains_key(&id) || id == node.config().id || node.members().is_removed(id);
        let strangers = book.keys().filter(|id| node.members().get(**id).is_none()).count();
        if is_known { STRANGERS_MAX } else { strangers }
    };
    let urls: Vec<Url> = urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
    if strangers < STRANGERS_MAX && !urls.is_empty() {
        add(hub, id, urls);
    }
}

fn add(hub: &Rc<Hub>, id: MemberId, urls: Vec<Url>) {
    tracing::info!("added peer {id} {:?}", urls.iter().map(Url::as_str).collect::<Vec<_>>());
    let peer = Rc::new(Peer::new(id, urls));
    hub.peers.book.borrow_mut().insert(id, Rc::clone(&peer));
    glommio::spawn_local(peer_out::run(Rc::clone(hub), peer)).detach();
    publish_metrics(hub);
}

fn publish_metrics(hub: &Hub) {
    let book = hub.peers.book.borrow();
    *hub.metrics.peers.borrow_mut() = book.values().map(|peer| Rc::clone(&peer.metrics)).collect();
}

/// Brings the book in line with the member table.
pub fn update(hub: &Rc<Hub>) {
    let (own, members, removed) = {
        let node = hub.node.borrow();
        let members: Vec<Member> = node.members().iter().cloned().collect();
        (node.config().id, members, node.members().removed().collect::<Vec<_>>())
    };
    for id in removed {
        let peer = hub.peers.book.borrow_mut().remove(&id);
        if let Some(peer) = peer {
            tracing::info!("removed peer {id}");
            peer.gone.set(true);
            peer.wake.notify();
            for stream in hub.peers.incoming.borrow().iter().filter(|stream| stream.from == id) {
                stream.over.set(true);
                stream.conn.poke();
            }
        }
    }
    for member in members.into_iter().filter(|member| member.id != own) {
        let urls: Vec<Url> = member.peer_urls.iter().filter_map(|url| Url::parse(url).ok()).collect();
        match hub.peers.get(member.id) {
            Some(peer) => drop(peer.urls.replace(urls)),
            None => add(hub, member.id, urls),
        }
    }
    publish_metrics(hub);
}

/// Follows the member table.
pub async fn keep_book(hub: Rc<Hub>) {
    loop {
        hub.peers.changed.wait().await;
        update(&hub);
    }
}

/// Probes every stream once a second, and ends those that are silent.
pub async fn probe(hub: Rc<Hub>) {
    loop {
        Timer::new(PROBE_PERIOD).await;
        let now = nanos(hub.begun.0.elapsed());
        let is_silent = |unanswered: &Cell<u32>| unanswered.replace(unanswered.get() + 1) >= UNANSWERED_MAX;
        for peer in hub.peers.book.borrow().values().filter(|peer| peer.is_connected()) {
            if is_silent(&peer.unanswered) {
                peer.silent.set(true);
            } else {
                peer.outbox.borrow_mut().ping(now);
            }
            peer.wake.notify();
        }
        for stream in hub.peers.incoming.borrow().iter().filter(|stream| is_silent(&stream.unanswered)) {
            stream.over.set(true);
            stream.conn.poke();
        }
    }
}

/// Tells the node who cannot be reached.
pub fn report_unreachable(hub: &Hub, members: &[MemberId]) {
    let mut node = hub.node.borrow_mut();
    for &member in members {
        node.handle(Input::PeerUnreachable { member }, clock::now());
    }
}
