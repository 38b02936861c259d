//! Hosts, a network that loses, delays, doubles and reorders, clients, and time.
//!
//! Owns: what happens when. Everything comes from one [`Dice`]; equal seeds give equal runs.
//!
//! The network's contract with the core: any message may be lost, late, doubled or overtaken, but one that carries
//! proposals is delivered once at most. A handshake (an exchange of standings) happens when two hosts can talk, from
//! time to time, as connections are made anew.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use ringd::core::entries::{is_forwarded_proposal, snapshot_named};
use ringd::core::event::{Answer, ClientToken, Effects, Input, Install, Notice, Outcome, ProposalFailure};
use ringd::core::membership::{Member, MemberChange, cluster_id, member_id};
use ringd::core::node::NodeConfig;
use ringd::core::replica::PeerMessage;
use ringd_storage::ids::{ClusterId, EtcdIndex, MemberId, RaftIndex, UnixNanos};
use ringd_storage::payload::{KeyWrite, WriteMethod};

use crate::checks::{Ending, Operation};
use crate::dice::Dice;
use crate::host::Host;

/// Microseconds, the simulation's unit of time.
pub const MILLI: u64 = 1000;
/// A heartbeat interval.
const TICK: u64 = 100 * MILLI;
/// How often two hosts make a new connection.
const HANDSHAKE: u64 = 400 * MILLI;
/// When the simulated world began, in nanoseconds since 1970.
const EPOCH: u64 = 1_700_000_000_000_000_000;
/// A client gives up on a member's answer after this long.
const PATIENCE: u64 = 9000 * MILLI;
/// Keys in use: few, so that operations meet.
const KEYS: u64 = 6;

/// How likely what is; permille where nothing else is said.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Messages lost.
    pub loss: u64,
    /// Messages doubled.
    pub doubling: u64,
    /// The longest way of a message, in microseconds.
    pub delay: u64,
    /// The longest sync, in microseconds.
    pub sync: u64,
    /// Syncs that take seconds.
    pub stalls: u64,
    /// Faults of hosts and links, per 100 ms.
    pub faults: u64,
    /// Changes of membership, per 100 ms.
    pub changes: u64,
}

impl Profile {
    /// Nothing goes wrong.
    pub const CALM: Self =
        Self { loss: 0, doubling: 0, delay: 2 * MILLI, sync: 2 * MILLI, stalls: 0, faults: 0, changes: 0 };

    /// A profile of its own for every seed.
    pub fn random(dice: &mut Dice) -> Self {
        Self {
            loss: dice.pick(&[0, 0, 10, 100]),
            doubling: dice.pick(&[0, 20, 100]),
            delay: dice.pick(&[2, 20, 150]) * MILLI,
            sync: dice.pick(&[1, 10, 60]) * MILLI,
            stalls: dice.pick(&[0, 0, 20]),
            faults: dice.pick(&[20, 60, 120]),
            changes: 0,
        }
    }
}

#[derive(Debug)]
enum Happening {
    Tick(usize),
    SyncDone { host: usize, start: u32 },
    Slice { host: usize, start: u32 },
    Deliver(PeerMessage),
    Snapshot { message: PeerMessage, of: Install, bytes: Vec<u8> },
    Report { host: usize, to: MemberId, ok: bool },
    Restart(usize),
    Leave { host: usize, start: u32 },
    Handshakes,
    Client(usize),
    Impatience { client: usize, seq: u32 },
    Nemesis,
    Heal,
}

struct Due {
    at: u64,
    order: u64,
    what: Happening,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Due {}
impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// One client: one operation at a time, at any member.
#[derive(Default)]
struct Client {
    seq: u32,
    /// Which operation waits, at which host and start of it.
    waits: Option<(usize, usize, u32)>,
}

/// What happened, for tests that must not be about nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Power cuts.
    pub crashes: u64,
    /// Starts that found a torn tail, or an empty disk.
    pub gated: u64,
    /// Snapshots installed.
    pub installs: u64,
    /// Elections won.
    pub elections: u64,
    /// Writes answered.
    pub writes: u64,
    /// Linearizable reads answered.
    pub reads: u64,
    /// Changes of membership answered.
    pub changes: u64,
    /// Hand-overs because of a slow disk.
    pub handovers: u64,
    /// Disks that died and were replaced.
    pub disks: u64,
    /// Everything that happened.
    pub steps: u64,
}

/// The simulated world.
pub struct World {
    /// The hosts, by place.
    pub hosts: Vec<Host>,
    /// What happened.
    pub tally: Tally,
    /// What the clients saw.
    pub history: Vec<Operation>,
    dice: Dice,
    profile: Profile,
    now: u64,
    order: u64,
    due: BinaryHeap<Reverse<Due>>,
    /// Directions that carry nothing.
    cut: BTreeSet<(usize, usize)>,
    clients: Vec<Client>,
    cluster: ClusterId,
    /// Who led which term.
    leaders: BTreeMap<u64, MemberId>,
    /// The store's index as of an entry, as the first member to apply it had it.
    applied: BTreeMap<RaftIndex, EtcdIndex>,
    next_value: u64,
    problem: Option<String>,
    /// Clients rest.
    quiet: bool,
    removed: BTreeSet<MemberId>,
    disk_replaced: bool,
}

fn member(number: u64, born: u64) -> Member {
    let peer_urls = vec![format!("http://10.0.0.{number}:2380")];
    let id = member_id(&peer_urls, &format!("sim{born}"));
    Member { id, name: format!("n{number}"), peer_urls, client_urls: Vec::new() }
}

fn config(member: &Member, cluster: ClusterId) -> NodeConfig {
    NodeConfig {
        id: member.id,
        cluster,
        name: member.name.clone(),
        client_urls: vec![format!("http://{}:2379", member.name)],
        election_ticks: 10,
        request_timeout_ticks: 70,
        snapshot_entries: 25,
        snapshot_bytes: u64::MAX,
        catch_up_entries: 8,
        strict_reconfig_check: true,
        cluster_version: "3.4.0",
        seed: 0,
    }
}

impl World {
    /// `count` new hosts, about to start, and `clients`.
    pub fn new(seed: u64, count: u64, clients: usize, profile: Profile) -> Self {
        let mut dice = Dice::new(seed);
        let members: Vec<Member> = (1..=count).map(|number| member(number, 0)).collect();
        let cluster = cluster_id(members.iter().map(|member| member.id));
        let hosts: Vec<Host> =
            members.iter().map(|one| Host::new(config(one, cluster), Some(&members), &mut dice)).collect();
        let mut world = Self {
            hosts,
            tally: Tally::default(),
            history: Vec::new(),
            dice,
            profile,
            now: 0,
            order: 0,
            due: BinaryHeap::new(),
            cut: BTreeSet::new(),
            clients: (0..clients).map(|_| Client::default()).collect(),
            cluster,
            leaders: BTreeMap::new(),
            applied: BTreeMap::new(),
            next_value: 0,
            problem: None,
            quiet: false,
            removed: BTreeSet::new(),
            disk_replaced: false,
        };
        for host in 0..world.hosts.len() {
            let first = world.dice.roll(TICK);
            world.plan(first, Happening::Restart(host));
        }
        for client in 0..clients {
            let first = world.dice.roll(500 * MILLI);
            world.plan(first, Happening::Client(client));
        }
        world.plan(10 * MILLI, Happening::Handshakes);
        world.plan(TICK, Happening::Nemesis);
        world
    }

    fn plan(&mut self, after: u64, what: Happening) {
        self.order += 1;
        self.due.push(Reverse(Due { at: self.now + after, order: self.order, what }));
    }

    fn clock(&self) -> UnixNanos {
        UnixNanos::new(EPOCH + self.now * 1000)
    }

    fn wrong(&mut self, problem: String) {
        if self.problem.is_none() {
            self.problem = Some(format!("at {} ms: {problem}", self.now / MILLI));
        }
    }

    /// Runs for so many microseconds.
    ///
    /// # Errors
    /// The first thing that must not happen.
    pub fn run(&mut self, for_long: u64) -> Result<(), String> {
        let until = self.now + for_long;
        while self.due.peek().is_some_and(|Reverse(due)| due.at <= until) {
            let Reverse(Due { at, what, .. }) = self.due.pop().expect("just seen");
            self.now = at;
            self.tally.steps += 1;
            self.happen(what);
            if let Some(problem) = self.problem.take() {
                return Err(problem);
            }
        }
        self.now = until;
        Ok(())
    }

    /// Ends all faults: links carry, hosts run.
    pub fn heal(&mut self) {
        self.profile = Profile::CALM;
        self.cut.clear();
        for host in 0..self.hosts.len() {
            if self.hosts[host].life.is_none() && !self.removed.contains(&self.hosts[host].id) {
                self.happen(Happening::Restart(host));
            }
        }
    }

    /// No further operations begin.
    pub fn rest(&mut self) {
        self.quiet = true;
    }

    fn lives(&self, host: usize, start: u32) -> bool {
        self.hosts[host].life.is_some() && self.hosts[host].starts == start
    }

    fn place(&self, id: MemberId) -> Option<usize> {
        self.hosts.iter().position(|host| host.id == id)
    }

    fn happen(&mut self, what: Happening) {
        let now = self.clock();
        match what {
            Happening::Tick(host) => {
                self.plan(TICK, Happening::Tick(host));
                if self.hosts[host].life.is_some() {
                    if let Some(for_ms) = self.hosts[host].stalled_ms(self.now / MILLI) {
                        self.hosts[host].input(Input::DiskStalled { for_ms }, now);
                    }
                    self.hosts[host].input(Input::Tick, now);
                    self.turn(host);
                }
            }
            Happening::SyncDone { host, start } if self.lives(host, start) => {
                self.hosts[host].finish_sync(now);
                self.turn(host);
            }
            Happening::Slice { host, start } if self.lives(host, start) => self.turn(host),
            Happening::SyncDone { .. } | Happening::Slice { .. } => {}
            Happening::Deliver(message) => {
                let Some(host) = self.place(MemberId::new(message.to)) else { return };
                if self.hosts[host].life.is_some() {
                    self.hosts[host].input(Input::Peer(message), now);
                    self.turn(host);
                }
            }
            Happening::Snapshot { message, of, bytes } => {
                let (from, to) = (MemberId::new(message.from), MemberId::new(message.to));
                let (Some(sender), Some(host)) = (self.place(from), self.place(to)) else { return };
                let ok = self.hosts[host].life.is_some() && !self.cut.contains(&(sender, host));
                if ok {
                    self.hosts[host].receive_snapshot(of, bytes);
                    self.hosts[host].input(Input::Peer(message), now);
                    self.turn(host);
                }
                let delay = 1 + self.dice.roll(self.profile.delay);
                self.plan(delay, Happening::Report { host: sender, to, ok });
            }
            Happening::Report { host, to, ok } => {
                self.hosts[host].input(Input::SnapshotSent { to, ok }, now);
                self.turn(host);
            }
            Happening::Restart(host) => self.restart(host),
            Happening::Leave { host, start } if self.lives(host, start) => {
                self.removed.insert(self.hosts[host].id);
                self.hosts[host].life = None;
                self.forget_clients_of(host);
            }
            Happening::Leave { .. } => {}
            Happening::Handshakes => self.handshakes(),
            Happening::Client(client) => self.client(client),
            Happening::Impatience { client, seq } => {
                // It asked again, or its member died.
                if let Some((_, host, _)) = self.clients[client].waits.filter(|waits| waits.2 == seq) {
                    let id = self.hosts[host].id;
                    self.wrong(format!("member {id} never answered request {seq} of client {client}"));
                }
            }
            Happening::Nemesis => self.nemesis(),
            Happening::Heal => self.cut.clear(),
        }
    }

    fn restart(&mut self, host: usize) {
        if self.hosts[host].life.is_some() || self.removed.contains(&self.hosts[host].id) {
            return;
        }
        let now = self.clock();
        if let Err(problem) = self.hosts[host].start(now, &mut self.dice) {
            return self.wrong(format!("member {} cannot start: {problem}", self.hosts[host].id));
        }
        self.turn(host);
        let Some(life) = &self.hosts[host].life else { return };
        self.tally.gated += u64::from(life.node.may_have_forgotten());
        if life.node.is_only_voter() {
            self.hosts[host].input(Input::Campaign, now);
            self.turn(host);
        }
        if self.hosts[host].starts == 1 {
            let first = self.dice.roll(TICK);
            self.plan(first, Happening::Tick(host));
        }
    }

    fn turn(&mut self, host: usize) {
        let now = self.clock();
        let turn = self.hosts[host].turn(now);
        let start = self.hosts[host].starts;
        let id = self.hosts[host].id;
        let mut effects = turn.effects;
        if let Some(message) = effects.fatal.take() {
            return self.wrong(format!("member {id} stops: {message}"));
        }
        if turn.sync_begun {
            let took = if self.dice.chance(self.profile.stalls) {
                MILLI * (1000 + self.dice.roll(3000))
            } else {
                1 + self.dice.roll(self.profile.sync)
            };
            self.hosts[host].sync_began = self.now / MILLI;
            self.plan(took, Happening::SyncDone { host, start });
        }
        if turn.busy {
            self.plan(MILLI, Happening::Slice { host, start });
        }
        self.observe(host, &effects);
        for message in effects.messages.drain(..) {
            self.send(host, message);
        }
        for answer in effects.answers.drain(..) {
            self.answer(host, answer);
        }
        for token in effects.reads_ready.drain(..) {
            self.read(host, token);
        }
        for token in effects.reads_failed.drain(..) {
            self.end(host, token, Ending::Unknown);
        }
    }

    fn observe(&mut self, host: usize, effects: &Effects) {
        let id = self.hosts[host].id;
        for notice in &effects.notices {
            match notice {
                Notice::BecameLeader { term } => {
                    self.tally.elections += 1;
                    if let Some(other) = self.leaders.insert(term.get(), id).filter(|other| *other != id) {
                        self.wrong(format!("{other} and {id} both lead term {term}"));
                    }
                }
                Notice::Installed { .. } => self.tally.installs += 1,
                Notice::HandingOver { .. } => self.tally.handovers += 1,
                Notice::MayLeave => {
                    let start = self.hosts[host].starts;
                    self.plan(1, Happening::Leave { host, start });
                }
                _ => {}
            }
        }
        let Some(life) = &self.hosts[host].life else { return };
        let (applied, index) = (life.node.applied(), life.node.store().index());
        let known = *self.applied.entry(applied).or_insert(index);
        if known != index {
            self.wrong(format!("after entry {applied} member {id} has index {index}, another had {known}"));
        }
    }

    fn send(&mut self, from: usize, message: PeerMessage) {
        let Some(to) = self.place(MemberId::new(message.to)) else { return };
        if let Some(of) = snapshot_named(&message) {
            let delay = 5 * MILLI + self.dice.roll(self.profile.delay * 3);
            let gone = self.cut.contains(&(from, to)) || self.dice.chance(self.profile.loss);
            match self.hosts[from].read_snapshot(of).filter(|_| !gone) {
                Some(bytes) => self.plan(delay, Happening::Snapshot { message, of, bytes }),
                None => {
                    let to = MemberId::new(message.to);
                    self.plan(delay, Happening::Report { host: from, to, ok: false });
                }
            }
            return;
        }
        if self.cut.contains(&(from, to)) || self.dice.chance(self.profile.loss) {
            return;
        }
        if self.dice.chance(self.profile.doubling) && !is_forwarded_proposal(&message) {
            let delay = 1 + self.dice.roll(self.profile.delay * 4);
            self.plan(delay, Happening::Deliver(message.clone()));
        }
        let delay = 1 + self.dice.roll(self.profile.delay);
        self.plan(delay, Happening::Deliver(message));
    }

    fn handshakes(&mut self) {
        let now = self.clock();
        let pause = HANDSHAKE + self.dice.roll(HANDSHAKE);
        self.plan(pause, Happening::Handshakes);
        for one in 0..self.hosts.len() {
            for other in 0..self.hosts.len() {
                let open = !self.cut.contains(&(one, other)) && !self.cut.contains(&(other, one));
                let told = self.hosts[other].id;
                let Some(life) = self.hosts[one].life.as_ref().filter(|_| open && one != other) else { continue };
                let (member, standing) = (self.hosts[one].id, life.node.standing(told));
                self.hosts[other].input(Input::PeerStanding { member, standing }, now);
                self.turn(other);
            }
        }
    }

    fn nemesis(&mut self) {
        self.plan(TICK, Happening::Nemesis);
        if self.dice.chance(self.profile.changes) {
            self.change_members();
        }
        if !self.dice.chance(self.profile.faults) {
            return;
        }
        let hosts = self.hosts.len() as u64;
        let host = self.dice.roll(hosts) as usize;
        let downtime = MILLI * (10 + self.dice.roll(3000));
        match self.dice.roll(11) {
            // One disk at most, and not with changes of membership, which may leave a cluster of one: what is on no
            // other disk is lost with it.
            10 if !self.disk_replaced && self.profile.changes == 0 && self.hosts[host].life.is_some() => {
                self.disk_replaced = true;
                self.tally.disks += 1;
                self.hosts[host].replace_disk(&mut self.dice);
                self.forget_clients_of(host);
                self.plan(downtime, Happening::Restart(host));
            }
            0..=3 => self.crash(host, downtime),
            4 => {
                // Power fails for all.
                for host in 0..self.hosts.len() {
                    let downtime = downtime + self.dice.roll(1000 * MILLI);
                    self.crash(host, downtime);
                }
            }
            5 => {
                for other in 0..self.hosts.len() {
                    self.cut.extend([(host, other), (other, host)]);
                }
                self.plan(downtime * 2, Happening::Heal);
            }
            6 => {
                let other = self.dice.roll(hosts) as usize;
                self.cut.insert((host, other));
                self.plan(downtime, Happening::Heal);
            }
            7 => {
                // Deaf, but not dumb.
                for other in 0..self.hosts.len() {
                    self.cut.insert((other, host));
                }
                self.plan(downtime, Happening::Heal);
            }
            8 if self.hosts[host].life.is_some() => {
                let now = self.clock();
                self.hosts[host].stop(now);
                self.forget_clients_of(host);
                self.plan(downtime, Happening::Restart(host));
            }
            _ => {
                let now = self.clock();
                self.hosts[host].input(Input::TransferLeadership, now);
                self.turn(host);
            }
        }
    }

    fn crash(&mut self, host: usize, downtime: u64) {
        if self.hosts[host].life.is_none() {
            return;
        }
        self.tally.crashes += 1;
        self.hosts[host].crash(&mut self.dice);
        self.forget_clients_of(host);
        self.plan(downtime, Happening::Restart(host));
    }

    fn forget_clients_of(&mut self, host: usize) {
        for client in 0..self.clients.len() {
            if self.clients[client].waits.is_some_and(|(_, at, _)| at == host) {
                self.clients[client].waits = None;
                let pause = self.dice.roll(100 * MILLI);
                self.plan(pause, Happening::Client(client));
            }
        }
    }

    fn change_members(&mut self) {
        let now = self.clock();
        let live: Vec<usize> = (0..self.hosts.len()).filter(|&host| self.hosts[host].life.is_some()).collect();
        if live.is_empty() {
            return;
        }
        let at = self.dice.pick(&live);
        let members = self.hosts[at].life.as_ref().expect("it lives").node.members();
        let (known, count) = (members.iter().map(|member| member.id).collect::<Vec<_>>(), members.len());
        let token = ClientToken { slot: u32::MAX, generation: 0, seq: 0 };
        let change = if count < 3 || (count < 6 && self.dice.chance(500)) {
            let number = self.hosts.len() as u64 + 1;
            let joining = member(number, self.now);
            let host = Host::new(config(&joining, self.cluster), None, &mut self.dice);
            self.hosts.push(host);
            let host = self.hosts.len() - 1;
            self.plan(MILLI, Happening::Restart(host));
            MemberChange::Add(Member { name: String::new(), ..joining })
        } else {
            MemberChange::Remove(self.dice.pick(&known))
        };
        self.hosts[at].input(Input::Members { token, change }, now);
        self.turn(at);
    }

    fn client(&mut self, client: usize) {
        let live: Vec<usize> = (0..self.hosts.len()).filter(|&host| self.serves(host)).collect();
        let again = 5 * MILLI + self.dice.roll(60 * MILLI);
        if self.quiet || self.clients[client].waits.is_some() {
            return;
        }
        if live.is_empty() {
            return self.plan(again, Happening::Client(client));
        }
        let host = self.dice.pick(&live);
        let key = self.dice.roll(KEYS) as u32;
        let now = self.clock();
        self.clients[client].seq += 1;
        let seq = self.clients[client].seq;
        let token = ClientToken { slot: client as u32, generation: self.hosts[host].starts, seq };
        let operation = self.history.len();
        let writes = self.dice.chance(650);
        let wrote = writes.then(|| {
            self.next_value += 1;
            format!("v{}", self.next_value)
        });
        let begun = self.now;
        self.history.push(Operation { key, wrote: wrote.clone(), begun, ended: None, ending: Ending::Unknown });
        self.clients[client].waits = Some((operation, host, seq));
        self.plan(PATIENCE, Happening::Impatience { client, seq });
        match wrote {
            None => self.hosts[host].input(Input::LinearRead { token }, now),
            Some(value) => {
                let path = format!("/k{key}");
                // A third of the writes insist on what this member shows: compare and swap.
                let prev_index = if self.dice.chance(330) { self.version(host, key).0 } else { 0 };
                let expires_at = None;
                let write = KeyWrite {
                    method: WriteMethod::Put,
                    path: path.as_bytes(),
                    value: value.as_bytes(),
                    dir: false,
                    recursive: false,
                    refresh: false,
                    prev_exist: None,
                    prev_value: None,
                    prev_index: EtcdIndex::new(prev_index),
                    expires_at,
                };
                self.hosts[host].input(Input::Propose { token, write }, now);
            }
        }
        self.turn(host);
    }

    /// What a member's applied state shows.
    pub fn version(&self, host: usize, key: u32) -> (u64, Option<String>) {
        let Some(life) = &self.hosts[host].life else { return (0, None) };
        match life.node.store().get(format!("/k{key}").as_bytes()) {
            Err(_) => (0, None),
            Ok(node) => {
                let value = node.value().map(|value| String::from_utf8_lossy(value).into_owned());
                (node.modified().get(), value)
            }
        }
    }

    fn answer(&mut self, host: usize, answer: Answer) {
        if answer.token.slot == u32::MAX {
            self.tally.changes += u64::from(matches!(answer.outcome, Outcome::Members(Ok(()))));
            return;
        }
        let ending = match &answer.outcome {
            Outcome::Event(event) => {
                self.tally.writes += 1;
                Ending::Wrote(event.index.get())
            }
            Outcome::Refused(_) | Outcome::Failed(ProposalFailure::NotProposed | ProposalFailure::NoSpace) => {
                Ending::Refused
            }
            Outcome::Failed(ProposalFailure::Timeout) => Ending::Unknown,
            Outcome::Auth(_) | Outcome::Members(_) => return self.wrong("an answer of another kind".to_owned()),
        };
        self.end(host, answer.token, ending);
    }

    fn read(&mut self, host: usize, token: ClientToken) {
        let client = token.slot as usize;
        let Some((operation, ..)) = self.clients[client].waits else {
            return self.wrong(format!("client {client} was answered twice"));
        };
        self.tally.reads += 1;
        let (version, value) = self.version(host, self.history[operation].key);
        self.end(host, token, Ending::Saw(version, value));
    }

    fn end(&mut self, host: usize, token: ClientToken, ending: Ending) {
        let client = token.slot as usize;
        match self.clients[client].waits {
            Some((operation, at, seq))
                if at == host && seq == token.seq && token.generation == self.hosts[host].starts =>
            {
                self.clients[client].waits = None;
                let known = ending != Ending::Unknown;
                self.history[operation].ending = ending;
                self.history[operation].ended = known.then_some(self.now);
                let pause = self.dice.roll(150 * MILLI);
                self.plan(pause, Happening::Client(client));
            }
            _ => self.wrong(format!("client {client} was answered twice, or by somebody it did not ask")),
        }
    }

    /// Whether a member serves clients: it runs and knows itself in the cluster.
    fn serves(&self, host: usize) -> bool {
        let id = self.hosts[host].id;
        self.hosts[host].life.as_ref().is_some_and(|life| life.node.members().get(id).is_some())
    }

    /// How the hosts stand, for whoever looks at a failure.
    pub fn describe(&self) -> String {
        let mut lines = String::new();
        for host in &self.hosts {
            let line = match &host.life {
                None if self.removed.contains(&host.id) => format!("{}: removed\n", host.id),
                None => format!("{}: down\n", host.id),
                Some(life) => {
                    let status = life.node.raft_status();
                    let (voters, learners) = life.node.configuration();
                    let forgot = if life.node.may_have_forgotten() { " may have forgotten" } else { "" };
                    format!("{status:?} voters {voters:?} learners {learners:?}{forgot}\n")
                }
            };
            lines.push_str(&line);
        }
        lines
    }

    /// Who may still be in the cluster.
    pub fn members(&self) -> Vec<usize> {
        (0..self.hosts.len()).filter(|&host| !self.removed.contains(&self.hosts[host].id)).collect()
    }
}
