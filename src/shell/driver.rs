//! The hub: one node, its WAL, its connections, and the turn that moves them.
//!
//! Owns: everything with state on this thread. A turn takes what arrived since the last one through the node, hands
//! appends to the disk first and answers to the clients second.
//!
//! Invariants:
//! 1. No borrow of the hub's cells is held across an await.
//! 2. Within a turn the append comes before anything a client sees of it, and the sync is submitted before the answers
//!    of earlier turns are sent, so that the disk works while the sockets do.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use glommio::timer::Timer;
use ringd_storage::datadir::DataDir;
use ringd_storage::payload::KeyWrite;

use super::clock;
use super::connection::Conn;
use super::credentials::Credentials;
use super::disk::Disk;
use super::notify::Notify;
use super::respond::{Responder, raft_position};
use crate::core::event::{Answer, ClientToken, Effects, Input, Notice};
use crate::core::node::Node;
use crate::core::store::Fired;
use crate::wire::http_request::Limits;

/// Reads pass through one buffer of this size; it holds a burst of pipelined requests.
const SCRATCH_BYTES: usize = 64 << 10;

/// The connections, by slot.
#[derive(Default)]
pub struct Connections {
    slots: Vec<Option<Rc<Conn>>>,
    free: Vec<u32>,
    next_generation: u32,
    open: usize,
}

impl Connections {
    /// Gives a new connection a slot.
    pub fn open(&mut self, peer: bool) -> Rc<Conn> {
        self.next_generation = self.next_generation.wrapping_add(1);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("fewer connections than descriptors")
        });
        let conn = Rc::new(Conn::new(slot, self.next_generation, peer));
        self.slots[slot as usize] = Some(Rc::clone(&conn));
        self.open += 1;
        conn
    }

    /// Frees a connection's slot; tokens that still name it find nobody.
    pub fn close(&mut self, conn: &Conn) {
        self.slots[conn.slot() as usize] = None;
        self.free.push(conn.slot());
        self.open -= 1;
    }

    /// The connection in a slot, if it is still the one meant.
    #[must_use]
    pub fn get(&self, slot: u32, generation: u32) -> Option<&Rc<Conn>> {
        self.slots.get(slot as usize)?.as_ref().filter(|conn| conn.generation() == generation)
    }

    /// How many are open.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open == 0
    }

    fn iter(&self) -> impl Iterator<Item = &Rc<Conn>> {
        self.slots.iter().flatten()
    }
}

/// What a turn owes to clients.
#[derive(Default)]
struct Owed {
    answers: Vec<Answer>,
    fired: Vec<Fired>,
    reads: Vec<(ClientToken, bool)>,
}

/// Everything of one node on its thread.
pub struct Hub {
    /// The core.
    pub node: RefCell<Node>,
    /// The WAL and its sync.
    pub disk: Disk,
    /// Who is connected.
    pub connections: RefCell<Connections>,
    /// Whose passwords were verified.
    pub credentials: Credentials,
    /// How answers look.
    pub responder: Responder,
    /// What one request may cost.
    pub limits: Limits,
    /// Where bytes arrive.
    pub scratch: RefCell<Box<[u8]>>,
    /// `X-Raft-Index` and `X-Raft-Term` as of the last turn.
    pub raft_position: Cell<(u64, u64)>,
    /// Set when this member's name and URLs are known to the cluster.
    pub published: Notify,
    /// Set when a capture began.
    pub capture_begun: Notify,
    wake: Notify,
    deliver: Notify,
    owed: RefCell<Owed>,
    effects: RefCell<Effects>,
    stopping: Cell<bool>,
    /// Held for life: its lock keeps a second process away.
    directory: RefCell<Option<DataDir>>,
}

impl Hub {
    /// A hub around a recovered node.
    #[must_use]
    pub fn new(node: Node, disk: Disk, limits: Limits, credentials: Credentials) -> Rc<Self> {
        let responder = Responder::new(node.config().cluster);
        Rc::new(Self {
            raft_position: Cell::new(raft_position(&node)),
            node: RefCell::new(node),
            disk,
            connections: RefCell::default(),
            credentials,
            responder,
            limits,
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            published: Notify::default(),
            capture_begun: Notify::default(),
            wake: Notify::default(),
            deliver: Notify::default(),
            owed: RefCell::default(),
            effects: RefCell::default(),
            stopping: Cell::new(false),
            directory: RefCell::default(),
        })
    }

    /// Keeps the data directory locked for as long as this hub lives.
    pub fn keep(&self, directory: DataDir) {
        *self.directory.borrow_mut() = Some(directory);
    }

    /// Gives the node an input and lets a turn follow.
    pub fn input(&self, input: Input<'_>) {
        self.node.borrow_mut().handle(input, clock::now());
        self.wake.notify();
    }

    /// Proposes a client's write that [`Disk::admit`] has found room for.
    pub fn propose(&self, token: ClientToken, write: KeyWrite<'_>) {
        self.input(Input::Propose { token, write });
    }

    /// Asks for a linearizable read; the connection is told when.
    pub fn linear_read(&self, token: ClientToken) {
        self.input(Input::LinearRead { token });
    }

    /// Whether the process is about to end.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.get()
    }

    /// Takes no further requests; open connections end after what they have begun.
    pub fn begin_stop(&self) {
        self.stopping.set(true);
        for conn in self.connections.borrow().iter() {
            conn.poke();
        }
    }

    /// Wakes every connection, so that those that wait for room look again.
    pub fn poke_writers(&self) {
        for conn in self.connections.borrow().iter() {
            conn.poke();
        }
    }

    /// One turn of the node. Synchronous: what it owes to clients is handed to [`deliver`].
    pub fn turn(&self) {
        let mut effects = self.effects.borrow_mut();
        effects.clear();
        let mut node = self.node.borrow_mut();
        node.poll(clock::now(), &mut effects);
        self.raft_position.set(raft_position(&node));
        drop(node);
        if let Some(message) = effects.fatal.take() {
            die(&message);
        }
        for append in effects.appends.drain(..) {
            if let Err(error) = self.disk.append(&append) {
                die(&error.to_string());
            }
        }
        self.disk.kick();
        let mut owed = self.owed.borrow_mut();
        owed.answers.append(&mut effects.answers);
        owed.fired.append(&mut effects.fired);
        owed.reads.extend(effects.reads_ready.drain(..).map(|token| (token, true)));
        owed.reads.extend(effects.reads_failed.drain(..).map(|token| (token, false)));
        if !(owed.answers.is_empty() && owed.fired.is_empty() && owed.reads.is_empty()) {
            self.deliver.notify();
        }
        if effects.snapshot_begun {
            self.capture_begun.notify();
        }
        for notice in effects.notices.drain(..) {
            self.tell_operator(&notice);
        }
    }

    fn tell_operator(&self, notice: &Notice) {
        match notice {
            Notice::BecameLeader { term } => tracing::info!(%term, "became leader"),
            Notice::LeaderChanged { leader, term } => tracing::info!(%leader, %term, "leader changed"),
            Notice::Published => {
                let node = self.node.borrow();
                let config = node.config();
                tracing::info!(
                    "published {{Name:{} ClientURLs:[{}]}} to cluster {}",
                    config.name,
                    config.client_urls.join(" "),
                    config.cluster
                );
                self.published.notify();
            }
            Notice::ClusterVersion(version) => {
                tracing::info!("set the initial cluster version to {version}");
                tracing::info!("enabled capabilities for version {version}");
            }
            Notice::MembershipChanged => tracing::debug!("membership changed"),
            Notice::SnapshotBegins { index } => tracing::info!(%index, "snapshot begins"),
        }
    }

    /// Hands outcomes to their connections.
    fn settle(&self) {
        let Owed { answers, fired, reads } = std::mem::take(&mut *self.owed.borrow_mut());
        let connections = self.connections.borrow();
        for Answer { token, outcome } in &answers {
            if let Some(conn) = connections.get(token.slot, token.generation) {
                conn.answer(self, token.seq, outcome);
            }
        }
        for (token, confirmed) in reads {
            if let Some(conn) = connections.get(token.slot, token.generation) {
                conn.linear_read_done(confirmed);
            }
        }
        for Fired { token, watcher, event, last } in fired {
            let (slot, generation) = (token as u32, (token >> 32) as u32);
            let kept = connections.get(slot, generation).is_some_and(|conn| conn.deliver(event, last));
            if !kept && !last {
                self.node.borrow_mut().store_mut().unwatch(watcher);
            }
        }
        // Give the allocation back for the next turn, unless one has begun to gather meanwhile.
        let mut owed = self.owed.borrow_mut();
        if owed.answers.is_empty() {
            let mut answers = answers;
            answers.clear();
            owed.answers = answers;
        }
    }
}

/// Takes turns whenever there is input.
pub async fn drive(hub: Rc<Hub>) {
    loop {
        hub.wake.wait().await;
        hub.turn();
    }
}

/// Settles what turns owe, each time after the ring was entered: the sync of the same turn is on its way by then.
pub async fn deliver(hub: Rc<Hub>) {
    loop {
        hub.deliver.wait().await;
        if hub.disk.sync_awaits_submission() {
            Timer::new(Duration::ZERO).await;
        }
        hub.settle();
    }
}

/// Ticks the node once per heartbeat interval.
pub async fn tick(hub: Rc<Hub>, interval: Duration) {
    loop {
        Timer::new(interval).await;
        hub.input(Input::Tick);
    }
}

/// Ends the process: the node's state can no longer be trusted or moved on.
pub fn die(message: &str) -> ! {
    tracing::error!("{message}");
    eprintln!("ringd: {message}");
    std::process::exit(1)
}
