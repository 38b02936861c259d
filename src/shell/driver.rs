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
use std::time::{Duration, Instant};

use glommio::timer::Timer;
use ringd_storage::datadir::DataDir;
use ringd_storage::fs::FsMedium;
use ringd_storage::ids::{MemberId, RaftIndex, UnixNanos};
use ringd_storage::payload::KeyWrite;

use super::clock;
use super::connection::Audience;
use super::connections::Connections;
use super::credentials::Credentials;
use super::disk::{Disk, LogRoom};
use super::ending;
use super::fan_out::FanOut;
use super::half_way::HalfWay;
use super::notify::Notify;
use super::peers::{self, Peers};
use super::pressure::Pressure;
use super::process;
use super::profile::Profiler;
use super::respond::{Responder, raft_position};
use crate::config::{Ceilings, Cors, LogLevel};
use crate::core::event::{Answer, ClientToken, Effects, Ended, Input, Install, Notice, Outcome};
use crate::core::forwarded::Forwarded;
use crate::core::node::Node;
use crate::core::replica::PeerMessage;
use crate::core::store::Fired;
use crate::metrics::{self, Metrics, Step};
use crate::wire::http_request::Limits;

/// Reads pass through one buffer of this size; it holds a burst of pipelined requests.
const SCRATCH_BYTES: usize = 64 << 10;

/// etcd counts an apply as slow, and says so, beyond this.
const SLOW_APPLY: Duration = Duration::from_millis(100);

/// What a turn owes to clients.
#[derive(Default)]
struct Owed {
    answers: Vec<Answer>,
    fired: Vec<Fired>,
    reads: Vec<(ClientToken, bool)>,
    ended: Vec<Ended>,
}

/// What the program around the node does for it.
pub struct Services {
    /// Changes the log level at run time.
    pub set_log_level: Box<dyn Fn(LogLevel)>,
    /// Lines of the log that were lost because nobody took them.
    pub lost_log_lines: Box<dyn Fn() -> u64>,
}

/// Everything of one node on its thread.
pub struct Hub {
    /// The core.
    pub node: RefCell<Node>,
    /// Whether a connection's task panicked while it changed the core.
    pub half_way: HalfWay,
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
    /// What all of them together may cost.
    pub pressure: Pressure,
    /// What is counted.
    pub metrics: Rc<Metrics>,
    /// What the program lends.
    pub services: Services,
    /// Profiles of the processor's time.
    pub profiler: Profiler,
    /// When this hub was made, on both clocks.
    pub begun: (Instant, UnixNanos),
    /// Both clocks as of the last tick.
    wall_anchor: Cell<(Instant, UnixNanos)>,
    /// Descriptors that were open when this hub was made.
    pub fds_at_start: u64,
    /// Since when the present leader leads, as far as this node saw.
    pub leads_since: Cell<UnixNanos>,
    /// When this member was last elected.
    pub elected: Cell<Option<Instant>>,
    /// `--election-timeout`; set at the start, before anyone is served.
    pub election_timeout: Cell<Duration>,
    /// When the requests taken now were at hand.
    pub taking_since: Cell<Instant>,
    /// When the running [`Hub::settle`] began: the end of the requests it answers.
    pub settling_since: Cell<Instant>,
    /// Where bytes arrive.
    pub scratch: RefCell<Box<[u8]>>,
    /// `X-Raft-Index` and `X-Raft-Term` as of the last turn.
    pub raft_position: Cell<(u64, u64)>,
    /// Set when this member's name and URLs are known to the cluster.
    pub published: Notify,
    /// Set when a capture began or a leader's snapshot was installed.
    pub snapshot_work: Notify,
    /// The entry up to which the last installed snapshot goes, until older ones were removed.
    pub installed: Cell<Option<RaftIndex>>,
    /// The other members.
    pub peers: Peers,
    /// The snapshot to install next.
    pub install: Cell<Option<Install>>,
    /// There is one.
    pub install_wanted: Notify,
    /// Leadership was handed over, or there was none.
    pub not_leading: Notify,
    /// This member was removed for good, and the others can do without it.
    pub may_leave: Notify,
    /// What the tail-cut note warned of is past.
    pub note_obsolete: Notify,
    /// What watchers are owed.
    pub fan_out: FanOut,
    /// Seconds as the sweeper counts them; connections measure their patience by it.
    pub second: Cell<u32>,
    wake: Notify,
    deliver: Notify,
    /// Proposals of other members' clients that the WAL has no room for at this moment.
    forwarded: RefCell<Forwarded>,
    owed: RefCell<Owed>,
    effects: RefCell<Effects>,
    stopping: Cell<bool>,
    /// Clients are served.
    ready: Cell<bool>,
    is_removed: Cell<bool>,
    unreachable: RefCell<Vec<MemberId>>,
    /// Held for life: its lock keeps a second process away.
    directory: RefCell<Option<DataDir>>,
}

impl Hub {
    /// A hub around a recovered node.
    #[must_use]
    pub fn new(
        node: Node,
        disk: Disk,
        (limits, ceilings): (Limits, Ceilings),
        cors: &Cors,
        services: Services,
        credentials: Credentials,
        profiler: Profiler,
    ) -> Rc<Self> {
        let metrics = Rc::new(Metrics::default());
        let responder = Responder::new(node.config().cluster, cors, Rc::clone(&metrics));
        let begun = (clock::monotonic(), clock::now());
        Rc::new(Self {
            raft_position: Cell::new(raft_position(&node)),
            node: RefCell::new(node),
            half_way: HalfWay::default(),
            disk,
            connections: RefCell::default(),
            credentials,
            responder,
            limits,
            pressure: Pressure::new(ceilings),
            metrics,
            services,
            profiler,
            begun,
            fds_at_start: process::list_fds(),
            wall_anchor: Cell::new(begun),
            leads_since: Cell::new(begun.1),
            elected: Cell::default(),
            election_timeout: Cell::default(),
            taking_since: Cell::new(begun.0),
            settling_since: Cell::new(begun.0),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
            published: Notify::default(),
            snapshot_work: Notify::default(),
            installed: Cell::default(),
            peers: Peers::default(),
            install: Cell::default(),
            install_wanted: Notify::default(),
            not_leading: Notify::default(),
            may_leave: Notify::default(),
            note_obsolete: Notify::default(),
            fan_out: FanOut::default(),
            second: Cell::new(0),
            wake: Notify::default(),
            deliver: Notify::default(),
            forwarded: RefCell::default(),
            owed: RefCell::default(),
            effects: RefCell::default(),
            stopping: Cell::new(false),
            ready: Cell::new(false),
            is_removed: Cell::new(false),
            unreachable: RefCell::default(),
            directory: RefCell::default(),
        })
    }

    /// Keeps the data directory locked for as long as this hub lives.
    pub fn keep(&self, directory: DataDir) {
        *self.directory.borrow_mut() = Some(directory);
    }

    /// Where snapshots are kept.
    ///
    /// # Panics
    /// Before [`Hub::keep`].
    #[must_use]
    pub fn snapshot_directory(&self) -> FsMedium {
        self.directory.borrow().as_ref().expect("the directory is kept before anyone is served").snap().clone()
    }

    /// Whether clients are served: everything acknowledged earlier is applied again, and the cluster knows this member.
    #[inline]
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.get()
    }

    /// Serves clients from now on.
    pub fn begin_service(&self) {
        self.ready.set(true);
        self.poke_writers();
    }

    /// Gives the node messages of other members, as far as there is room for what they carry; one turn follows.
    pub fn hear(&self, messages: impl Iterator<Item = PeerMessage>) {
        let now = clock::now();
        let mut node = self.node.borrow_mut();
        let mut forwarded = self.forwarded.borrow_mut();
        for message in messages.filter_map(|message| forwarded.arrived(message, &mut self.log_room())) {
            self.half_way.during(|| node.handle(Input::Peer(message), now));
        }
        drop(node);
        self.wake.notify();
    }

    fn log_room(&self) -> LogRoom<'_> {
        LogRoom { disk: &self.disk, log_is_full: self.pressure.log_is_full() }
    }

    /// Gives the node the proposals that have waited for room, as far as there is some.
    fn hear_forwarded(&self) {
        let mut forwarded = self.forwarded.borrow_mut();
        while let Some(message) = forwarded.next(&mut self.log_room()) {
            self.node.borrow_mut().handle(Input::Peer(message), clock::now());
        }
    }

    /// Gives the node an input and lets a turn follow.
    pub fn input(&self, input: Input<'_>) {
        self.half_way.during(|| self.node.borrow_mut().handle(input, clock::now()));
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

    /// The wall clock at an instant since the last tick: requests are stamped with it, so that serving one reads the
    /// clock no oftener than timing it does. A step of the wall clock shows within one heartbeat.
    #[must_use]
    pub fn wall(&self, at: Instant) -> UnixNanos {
        let (anchor, wall) = self.wall_anchor.get();
        let since = u64::try_from(at.saturating_duration_since(anchor).as_nanos()).unwrap_or(u64::MAX);
        UnixNanos::new(wall.get().saturating_add(since))
    }

    /// Whether connections of this kind end after what they have begun: all when the process stops, and those of
    /// clients when this member was removed, while it goes on serving raft.
    #[must_use]
    pub fn is_closing(&self, audience: Audience) -> bool {
        self.stopping.get() || (self.is_removed.get() && audience == Audience::Clients)
    }

    /// Takes no further requests; open connections end after what they have begun.
    pub fn begin_stop(&self) {
        self.stopping.set(true);
        for conn in self.connections.borrow().iter() {
            conn.poke();
        }
    }

    /// Lets everybody who waits for room look again.
    pub fn poke_writers(&self) {
        self.wake.notify();
        for conn in self.connections.borrow().iter() {
            conn.poke();
        }
    }

    /// One turn of the node. Synchronous: what it owes to clients is handed to [`deliver`].
    pub fn turn(&self) {
        let begun = clock::monotonic();
        let mut effects = self.effects.borrow_mut();
        effects.clear();
        self.hear_forwarded();
        let mut node = self.node.borrow_mut();
        node.handle(self.disk.room(), clock::now());
        node.store_mut().set_owed(self.fan_out.waiting() + self.owed.borrow().fired.len());
        node.poll(clock::now(), &mut effects);
        self.raft_position.set(raft_position(&node));
        self.pressure.look_at(node.store().bytes());
        self.pressure.look_at_log(node.log_is_full(), node.log_memory());
        let queued_bytes = node.queued_bytes();
        drop(node);
        if let Some(message) = effects.fatal.take() {
            die(&message);
        }
        // Before the append: what leaves now travels while the disk works.
        if !effects.messages.is_empty() {
            let mut unreachable = self.unreachable.borrow_mut();
            self.peers.send(&mut effects.messages, &self.metrics, &mut unreachable);
            peers::report_unreachable(self, &unreachable);
            unreachable.clear();
        }
        let mut entries = 0;
        for append in effects.appends.drain(..) {
            entries += append.entry_count() as u64;
            if let Err(error) = self.disk.append(&append) {
                die(&error.to_string());
            }
        }
        if self.disk.turn_is_over(queued_bytes) {
            self.poke_writers();
        }
        self.disk.kick();
        if entries > 0 {
            self.metrics.batch_entries.observe(entries);
        }
        let mut owed = self.owed.borrow_mut();
        owed.answers.append(&mut effects.answers);
        owed.fired.append(&mut effects.fired);
        owed.reads.extend(effects.reads_ready.drain(..).map(|token| (token, true)));
        owed.reads.extend(effects.reads_failed.drain(..).map(|token| (token, false)));
        owed.ended.append(&mut effects.ended);
        if !(owed.answers.is_empty() && owed.fired.is_empty() && owed.reads.is_empty() && owed.ended.is_empty()) {
            self.deliver.notify();
        }
        if let Some(install) = effects.install.take() {
            self.install.set(Some(install));
            self.install_wanted.notify();
        }
        if effects.snapshot_begun {
            self.snapshot_work.notify();
        }
        for notice in effects.notices.drain(..) {
            self.tell_operator(&notice);
        }
        let took = begun.elapsed();
        self.metrics.step(Step::Turn, took);
        if took > SLOW_APPLY {
            metrics::add(&self.metrics.slow_applies, 1);
            tracing::warn!(?took, "expected-duration" = ?SLOW_APPLY, entries, "apply request took too long");
        }
    }

    /// Logs a moment, and wakes whoever waits for it.
    pub fn tell_operator(&self, notice: &Notice) {
        match notice {
            Notice::BecameLeader { term } => {
                self.elected.set(Some(clock::monotonic()));
                tracing::info!(%term, "became leader");
            }
            Notice::LeaderChanged { leader, term } => {
                if *leader != MemberId::default() {
                    self.leads_since.set(clock::now());
                    metrics::add(&self.metrics.leader_changes, 1);
                }
                tracing::info!(%leader, %term, "leader changed");
            }
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
            Notice::MembershipChanged => self.peers.changed.notify(),
            Notice::Removed => {
                self.is_removed.set(true);
                self.poke_writers();
                tracing::error!("the member has been permanently removed from the cluster");
                tracing::info!("the data-dir used by this member must be removed.");
            }
            Notice::MayLeave => self.may_leave.notify(),
            Notice::NotLeading => self.not_leading.notify(),
            Notice::NoteObsolete => self.note_obsolete.notify(),
            Notice::HandingOver { to, stalled_ms } => {
                tracing::warn!(%to, stalled_ms, "the disk stalls; handing leadership over");
            }
            Notice::Installed { index } => {
                tracing::info!(%index, "a snapshot from the leader is installed");
                self.installed.set(Some(*index));
                self.snapshot_work.notify();
            }
            Notice::SnapshotBegins { index } => tracing::info!(%index, "snapshot begins"),
        }
    }

    /// Hands outcomes to their connections.
    fn settle(&self) {
        let begun = clock::monotonic();
        self.settling_since.set(begun);
        let Owed { answers, fired, reads, ended } = std::mem::take(&mut *self.owed.borrow_mut());
        let connections = self.connections.borrow();
        for Answer { token, outcome } in &answers {
            if matches!(outcome, Outcome::Failed(_)) {
                metrics::add(&self.metrics.proposals_failed, 1);
            }
            if let Some(conn) = connections.get(token.slot, token.generation) {
                conn.answer(self, token.seq, outcome);
            }
        }
        for (token, confirmed) in reads {
            metrics::add(&self.metrics.reads_failed, u64::from(!confirmed));
            if let Some(conn) = connections.get(token.slot, token.generation) {
                conn.linear_read_done(token.seq, confirmed);
            }
        }
        for Ended { token, watcher } in ended {
            if let Some(conn) = connections.get(token as u32, (token >> 32) as u32) {
                conn.end_watch(watcher);
            }
        }
        drop(connections);
        self.fan_out.add(self, fired);
        // Give the allocation back for the next turn, unless one has begun to gather meanwhile.
        let mut owed = self.owed.borrow_mut();
        if owed.answers.is_empty() {
            let mut answers = answers;
            answers.clear();
            owed.answers = answers;
        }
        drop(owed);
        self.metrics.step(Step::Settle, begun.elapsed());
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
    let mut last = clock::monotonic();
    loop {
        Timer::new(interval).await;
        let late = std::mem::replace(&mut last, clock::monotonic()).elapsed().saturating_sub(interval);
        if late > interval && hub.node.borrow().is_leader() {
            metrics::add(&hub.metrics.late_heartbeats, 1);
            tracing::warn!(
                "heartbeat-interval" = ?interval,
                "expected-duration" = ?2 * interval,
                "exceeded-duration" = ?late - interval,
                "leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk"
            );
        }
        hub.metrics.tick(hub.begun.0.elapsed());
        hub.wall_anchor.set((clock::monotonic(), clock::now()));
        if let Some(since) = hub.disk.syncing_since() {
            let for_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            hub.node.borrow_mut().handle(Input::DiskStalled { for_ms }, clock::now());
        }
        hub.input(Input::Tick);
    }
}

/// Ends the process: the node's state can no longer be trusted or moved on.
pub fn die(message: &str) -> ! {
    tracing::error!("{message}");
    ending::flush_log();
    std::process::exit(1)
}
