//! The world: hosts, links, clients, watchers and an operator in one virtual time.
//!
//! Owns: everything of one run, and the loop that takes the next event. What each event does lives beside this file:
//! `turn.rs` (a node's effects), `net.rs`, `faults.rs`, `client.rs`, `watcher.rs`, `operator.rs`.
//!
//! Must hold: a run is a function of seed, profile and what a script does; the first violation ends it.

use std::fmt::Arguments;

use ringd::core::event::{Effects, Input};
use ringd::core::membership::Member;
use ringd_storage::ids::{ClusterId, MemberId};

use crate::check::facts::Facts;
use crate::check::linear::Histories;
use crate::check::state::States;
use crate::check::ttl::Deadlines;
use crate::check::votes::Votes;
use crate::client::Client;
use crate::disk::Disk;
use crate::event::{Event, HostId};
use crate::faults::Trouble;
use crate::host::{Host, HostConfig, StartFailure};
use crate::net::Net;
use crate::operator::Operator;
use crate::profile::{KINDS, Kind, Profile};
use crate::rng::Rng;
use crate::script::Desk;
use crate::time::{MILLI, Nanos, Queue, SECOND};
use crate::watcher::Watcher;

/// A heartbeat interval.
pub const TICK: Nanos = 100 * MILLI;
/// Hosts a world may have: members at the start and two more.
pub const HOSTS_MAX: usize = 8;

/// What kind of failure ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Something that must never happen happened.
    Correctness,
    /// The cluster did not recover in time.
    Liveness,
    /// The product panicked.
    Crash,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its class.
    pub class: Class,
    /// In a sentence.
    pub what: String,
    /// When.
    pub at: Nanos,
}

/// What everybody was shown.
#[derive(Default)]
pub struct Checks {
    /// Keys without deadlines.
    pub histories: Histories,
    /// Events by index.
    pub facts: Facts,
    /// Deadlines.
    pub deadlines: Deadlines,
    /// Members against each other.
    pub states: States,
    /// What members promised each other.
    pub votes: Votes,
    /// Operations begun, for the report.
    pub operations: u64,
    /// Writes acknowledged.
    pub acknowledged: u64,
}

/// See the module documentation.
pub struct World {
    /// The run's seed.
    pub seed: u64,
    /// Its conditions.
    pub profile: Profile,
    /// Virtual time.
    pub now: Nanos,
    pub(crate) queue: Queue,
    /// The hosts.
    pub hosts: Vec<Host>,
    pub(crate) trouble: Vec<Trouble>,
    pub(crate) net: Net,
    pub(crate) clients: Vec<Client>,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) operator: Operator,
    pub(crate) desk: Desk,
    /// What was seen.
    pub checks: Checks,
    /// Faults that happened, by kind.
    pub counts: [u64; KINDS.len()],
    /// Since when everything heals.
    pub healing: Option<Nanos>,
    /// The member that may have forgotten something it promised; at most one at a time.
    pub(crate) amnesic: Option<HostId>,
    /// What ended the run.
    pub failure: Option<Failure>,
    /// Clients begin nothing new.
    pub quiet: bool,
    pub(crate) fault_rngs: Vec<Rng>,
    pub(crate) rng: Rng,
    pub(crate) effects: Effects,
    /// Lines, when a trace is wanted.
    pub trace: Option<Vec<String>>,
    trace_hash: u64,
    /// Clocks differ by at most this much.
    pub(crate) clock_differ: Nanos,
    pub(crate) cluster: ClusterId,
    pub(crate) next_member: u64,
    /// Events handled.
    pub steps: u64,
}

/// A member's record.
pub(crate) fn member(id: u64) -> Member {
    Member {
        id: MemberId::new(id),
        name: format!("m{id}"),
        peer_urls: vec![format!("http://m{id}:2380")],
        client_urls: vec![format!("http://m{id}:2379")],
    }
}

impl World {
    /// A world at its beginning: no host runs yet.
    #[must_use]
    pub fn new(seed: u64, profile: Profile, traced: bool) -> Self {
        let mut rng = Rng::new(seed, 1);
        let initial: Vec<Member> = (1..=u64::from(profile.members)).map(member).collect();
        let fault_rngs = KINDS.iter().map(|kind| Rng::new(seed, 3000 + kind.place() as u64)).collect();
        let mut world = Self {
            seed,
            now: 0,
            queue: Queue::default(),
            hosts: Vec::new(),
            trouble: Vec::new(),
            net: Net::new(seed),
            clients: (0..profile.clients).map(|number| Client::new(seed, number)).collect(),
            watchers: (0..profile.watchers).map(|number| Watcher::new(seed, number)).collect(),
            operator: Operator::default(),
            desk: Desk::default(),
            checks: Checks::default(),
            counts: [0; KINDS.len()],
            healing: None,
            amnesic: None,
            failure: None,
            quiet: false,
            fault_rngs,
            effects: Effects::default(),
            trace: traced.then(Vec::new),
            trace_hash: 0,
            clock_differ: 0,
            cluster: ClusterId::new(99),
            next_member: 100,
            steps: 0,
            rng: Rng::new(seed, 2),
            profile,
        };
        for member in &initial {
            let config = world.host_config(initial.clone());
            world.add_host(member.id, config, &mut rng);
        }
        for host in 0..world.hosts.len() {
            let at = rng.below(200 * MILLI);
            world.queue.plan(at, Event::Start(host as HostId));
        }
        for client in 0..world.profile.clients {
            world.queue.plan(SECOND + rng.below(SECOND), Event::Act(client));
        }
        for watcher in 0..world.profile.watchers {
            world.queue.plan(SECOND + rng.below(SECOND), Event::Watch(watcher));
        }
        world.queue.plan(SECOND, Event::Operate);
        for kind in KINDS {
            world.plan_fault(kind);
        }
        if world.profile.skew > 0 {
            world.count(Kind::ClockSkew);
        }
        world
    }

    pub(crate) fn host_config(&self, initial: Vec<Member>) -> HostConfig {
        HostConfig {
            initial,
            snapshot_entries: self.profile.snapshot_entries,
            catch_up_entries: self.profile.catch_up_entries,
            lagging_bytes: self.profile.lagging_bytes,
            history_events: self.profile.history_events,
            segment_bytes: self.profile.segment_bytes,
        }
    }

    pub(crate) fn add_host(&mut self, id: MemberId, config: HostConfig, rng: &mut Rng) {
        let skew = self.profile.skew;
        let clock_offset = rng.below(skew + 1) as i64;
        // Up to 50 ppm: a bad quartz.
        let clock_rate = if skew > 0 { rng.below(101) as i64 - 50 } else { 0 };
        self.clock_differ = self.clock_differ.max(skew + if skew > 0 { 20 * MILLI } else { 0 });
        let disk = Disk::default();
        self.hosts.push(Host { id, disk, process: None, life: 0, config, clock_offset, clock_rate });
        self.trouble.push(Trouble::default());
    }

    /// Runs until an instant, or until something is wrong.
    pub fn run_until(&mut self, until: Nanos) {
        while self.failure.is_none() {
            let Some((at, event)) = self.queue.pop(until) else {
                self.now = self.now.max(until);
                return;
            };
            self.now = at;
            self.steps += 1;
            self.take(event);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Tick(host, life) => self.tick(host, life),
            Event::Turn(host, life) => {
                if self.lives(host, life) {
                    self.turn(host);
                }
            }
            Event::SyncStep(host, life) => self.sync_step(host, life),
            Event::Spare(host, life) => self.spare(host, life),
            Event::Snapshot(host, life) => self.snapshot(host, life),
            Event::Install(host, life) => self.install(host, life),
            Event::Deliver(from, message) => self.deliver(from, *message),
            Event::DeliverSnapshot(to, transfer) => self.deliver_snapshot(to, *transfer),
            Event::SnapshotSent(host, life, to, ok) => {
                if self.lives(host, life) {
                    self.input(host, Input::SnapshotSent { to, ok });
                }
            }
            Event::Unreachable(host, life, member) => {
                if self.lives(host, life) {
                    self.input(host, Input::PeerUnreachable { member });
                }
            }
            Event::Handshake(from, to) => self.handshake(from, to),
            Event::Standing(host, life, member, standing) => self.hear(host, life, member, *standing),
            Event::Act(client) => self.act(client),
            Event::Request(client, number) => self.request(client, number),
            Event::Reply(client, number, reply) => self.reply(client, number, *reply),
            Event::Impatience(client, number) => self.impatience(client, number),
            Event::Watch(watcher) => self.watch(watcher),
            Event::Fault(place) => self.fault(KINDS[usize::from(place)]),
            Event::Start(host) => self.start(host),
            Event::Mend(from, to, cut) => self.mend(from, to, cut),
            Event::Leave(host, life) => {
                if self.lives(host, life) {
                    self.kill(host);
                }
            }
            Event::Room(host) => self.hosts[usize::from(host)].disk.limit(None),
            Event::Operate => self.operate(),
        }
    }

    /// Starts a host that does not run.
    pub fn start(&mut self, host: HostId) {
        let at = usize::from(host);
        if self.hosts[at].process.is_some() || self.trouble[at].parked() {
            return;
        }
        let founds = !self.hosts[at].config.initial.is_empty()
            && !ringd_storage::recover::holds_wal(&self.hosts[at].disk.wal).unwrap_or(true);
        if founds && self.is_known_founder(host) {
            self.note(host, format_args!("has already been bootstrapped and has an empty disk"));
            self.trouble[at].refused = true;
            if self.amnesic != Some(host) {
                self.fail(Class::Correctness, format!("host {host} is taken for one that lost its disk, and has not"));
            }
            return;
        }
        let (seed, random) = (self.rng.bits(), self.rng.bits());
        let (cluster, now) = (self.cluster, self.now);
        match self.hosts[at].start(cluster, now, seed, random) {
            Ok(()) => self.started(host),
            Err(StartFailure::Later(why)) => {
                self.note(host, format_args!("cannot start now: {why}"));
                self.queue.plan(now + SECOND, Event::Start(host));
            }
            Err(StartFailure::Refused(why)) => {
                self.note(host, format_args!("refuses to start: {why}"));
                if self.amnesic == Some(host) || self.trouble[at].damaged.is_some() {
                    self.trouble[at].refused = true;
                } else {
                    self.fail(
                        Class::Correctness,
                        format!("host {host} refuses its disk, which nothing damaged: {why}"),
                    );
                }
            }
        }
    }

    fn started(&mut self, host: HostId) {
        let at = usize::from(host);
        let process = self.hosts[at].process.as_ref().expect("started");
        let (life, applied, cut, fresh) = (self.hosts[at].life, process.node.applied(), process.cut, process.is_fresh);
        // What recovery says: what the node makes of it is the votes' checker's business.
        let forgot = process.must_catch_up;
        self.note(host, format_args!("starts at applied {applied} (cut: {cut}, fresh: {fresh}, forgot: {forgot})"));
        if let Some(what) = self.trouble[at].damaged.take() {
            if !forgot && what.must_show {
                self.fail(Class::Correctness, format!("host {host} started over damage unnoticed: {}", what.text));
                return;
            }
            if !forgot && self.amnesic == Some(host) {
                self.amnesic = None;
            }
        }
        self.trouble[at].reset_for_start();
        self.observe(host);
        self.queue.plan(self.now + self.rng.below(TICK), Event::Tick(host, life));
        for other in 0..self.hosts.len() as HostId {
            if other != host {
                self.queue.plan(self.now + MILLI, Event::Handshake(host, other));
            }
        }
        self.turn(host);
        if self.hosts[at].process.as_ref().is_some_and(|process| process.node.is_only_voter()) {
            drop(ringd_storage::recover::clear_tail_cut(&self.hosts[at].disk.wal));
            self.input(host, Input::Campaign);
        }
        self.plan_spare(host);
    }

    /// Whether this life of a host is the one that runs.
    #[must_use]
    pub fn lives(&self, host: HostId, life: u32) -> bool {
        let host = &self.hosts[usize::from(host)];
        host.life == life && host.process.is_some()
    }

    /// Gives a node an input; its turn follows at once or a little later, as the profile says.
    pub fn input(&mut self, host: HostId, input: Input<'_>) {
        let at = usize::from(host);
        let wall = self.hosts[at].clock(self.now);
        let Some(process) = &mut self.hosts[at].process else { return };
        process.node.handle(input, wall);
        self.plan_turn(host);
    }

    pub(crate) fn plan_turn(&mut self, host: HostId) {
        let at = usize::from(host);
        let life = self.hosts[at].life;
        let Some(process) = &mut self.hosts[at].process else { return };
        if process.turn_planned {
            return;
        }
        if self.profile.turn_wait == 0 {
            self.turn(host);
        } else {
            process.turn_planned = true;
            let wait = self.rng.below(self.profile.turn_wait);
            self.queue.plan(self.now + wait, Event::Turn(host, life));
        }
    }

    fn tick(&mut self, host: HostId, life: u32) {
        if !self.lives(host, life) {
            return;
        }
        self.queue.plan(self.now + TICK, Event::Tick(host, life));
        let at = usize::from(host);
        let process = self.hosts[at].process.as_ref().expect("lives");
        if let Some(lasts) = process.sync_lasts(self.now).filter(|lasts| *lasts >= TICK) {
            self.input(host, Input::DiskStalled { for_ms: lasts / MILLI });
        }
        if !self.lives(host, life) {
            return;
        }
        let process = self.hosts[at].process.as_ref().expect("lives");
        self.trouble[at].ticks += 1;
        // Connections are made anew about once a second; only members that may have forgotten something ask.
        if process.node.may_have_forgotten() && self.trouble[at].ticks.is_multiple_of(10) {
            for other in (0..self.hosts.len() as HostId).filter(|other| *other != host) {
                self.queue.plan(self.now + MILLI, Event::Handshake(host, other));
            }
        }
        self.input(host, Input::Tick);
    }

    /// Something that must not be.
    pub fn fail(&mut self, class: Class, what: String) {
        if self.failure.is_none() {
            self.note(0, format_args!("FAILURE: {what}"));
            self.failure = Some(Failure { class, what, at: self.now });
        }
    }

    pub(crate) fn judge(&mut self, verdict: Result<(), String>) {
        if let Err(what) = verdict {
            self.fail(Class::Correctness, what);
        }
    }

    /// A line of the trace; its text is only made when somebody reads it.
    pub(crate) fn note(&mut self, host: HostId, what: Arguments<'_>) {
        self.mix(u64::from(host) ^ 0x7e);
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>12.6} h{host} {what}", self.now as f64 / SECOND as f64));
        }
    }

    /// Mixes what happened into the trace's hash.
    pub(crate) fn mix(&mut self, what: u64) {
        let mixed = self.trace_hash ^ what.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.now;
        self.trace_hash = mixed.rotate_left(23).wrapping_mul(0xd134_2543_de82_ef95);
    }

    /// The hash of everything that happened.
    #[must_use]
    pub fn trace_hash(&self) -> u64 {
        self.trace_hash
    }

    pub(crate) fn count(&mut self, kind: Kind) {
        self.counts[kind.place()] += 1;
    }

    pub(crate) fn fault_rng(&mut self, kind: Kind) -> &mut Rng {
        &mut self.fault_rngs[kind.place()]
    }

    /// Hosts that serve clients.
    #[must_use]
    pub fn serving(&self) -> Vec<HostId> {
        let serves = |host: &Host| host.process.as_ref().is_some_and(|process| process.published && !process.removed);
        (0..self.hosts.len()).filter(|at| serves(&self.hosts[*at])).map(|at| at as HostId).collect()
    }

    /// The host of a member.
    #[must_use]
    pub fn host_of(&self, member: MemberId) -> Option<HostId> {
        self.hosts.iter().position(|host| host.id == member).map(|at| at as HostId)
    }

    /// Who leads, if exactly one says so in the highest term.
    #[must_use]
    pub fn leader(&self) -> Option<HostId> {
        let leads = |at: &usize| self.hosts[*at].process.as_ref().is_some_and(|process| process.node.is_leader());
        let term = |at: &usize| self.hosts[*at].process.as_ref().map(|process| process.node.term());
        (0..self.hosts.len()).filter(leads).max_by_key(term).map(|at| at as HostId)
    }
}
