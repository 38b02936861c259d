//! Clients: each has one request outstanding, at one host, and moves on when that one fails.
//!
//! Owns: what is asked, and what the checks are told of the answers. Request handling at the host mirrors
//! `shell/connection.rs` and `shell/respond.rs`: admission, deadline from the host's clock, plain reads from applied
//! state, quorum reads by `LinearRead`.
//!
//! Keys: `/k/<n>` are registers without deadline (checked for linearizability), `/t/<n>` have deadlines, `/q` takes
//! in-order posts. Every value is unique: it begins with its number.

use ringd::core::auth::{AuthDone, AuthRefusal};
use ringd::core::event::{ClientToken, Input};
use ringd_storage::ids::EtcdIndex;
use ringd_storage::payload::{KeyWrite, WriteMethod};

use crate::auth;
use crate::check::linear::{Call, Op};
use crate::event::{Event, HostId};
use crate::rng::Rng;
use crate::time::{MICRO, MILLI, Nanos, SECOND};
use crate::turn::shown;
use crate::world::{Class, World};

/// Registers.
const REGISTERS: u64 = 6;
/// Keys with deadlines.
const MORTALS: u64 = 4;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// PUT of a register.
    Set(u16),
    /// PUT with prevExist=false.
    Create(u16),
    /// PUT with prevValue: the number of the value wanted.
    Swap(u16, u64),
    /// PUT with prevIndex: the value's number and its index.
    SwapAt(u16, u64, u64),
    /// DELETE.
    Remove(u16),
    /// DELETE with prevValue.
    RemoveIf(u16, u64),
    /// GET quorum=true.
    Quorum(u16),
    /// GET.
    Local(u16),
    /// PUT with a TTL in milliseconds.
    Mortal(u16, u64),
    /// PUT refresh=true with a TTL in milliseconds.
    Refresh(u16, u64),
    /// POST.
    Post,
    /// A change of users, roles or their switch.
    Auth(auth::Change),
    /// What they are, with quorum=true.
    AuthRead(auth::Asked),
}

/// What a client hears.
#[derive(Debug)]
pub enum Reply {
    /// Nothing: the connection broke or time ran out; it may have happened.
    Unknown,
    /// It certainly did not happen.
    NotDone,
    /// A write was applied.
    Done {
        /// By which host it was answered.
        host: HostId,
        /// Its index.
        index: u64,
        /// Its key.
        key: Vec<u8>,
        /// The value it replaced.
        prev: Option<Vec<u8>>,
        /// The deadline it set.
        deadline: Option<u64>,
    },
    /// The store refused it.
    Refused {
        /// By which host it was answered.
        host: HostId,
        /// etcd's code.
        code: u16,
        /// etcd's cause.
        cause: Vec<u8>,
        /// The index then.
        index: u64,
    },
    /// A read.
    Read {
        /// Which host.
        host: HostId,
        /// The key's value and index.
        found: Option<(Vec<u8>, u64)>,
        /// The store's index.
        index: u64,
    },
    /// An auth change was applied, or refused by every member.
    Auth(Result<AuthDone, AuthRefusal>),
    /// What the auth state says, and the store's index.
    AuthIs(HostId, Option<u64>, u64),
    /// A membership change was applied; whether it was not refused.
    Members(bool),
}

/// A request on its way.
#[derive(Clone, Debug)]
pub struct Pending {
    /// What.
    pub ask: Ask,
    /// The number of the value it writes.
    pub value: u64,
    /// When it began.
    pub begun: Nanos,
    /// At which host.
    pub host: HostId,
    /// It has arrived there.
    pub arrived: bool,
}

/// One client.
pub struct Client {
    number: u16,
    rng: Rng,
    host: HostId,
    requests: u32,
    pending: Option<Pending>,
    /// Values and indexes it has seen lately, per register.
    known: Vec<Option<(u64, u64)>>,
    /// Writes acknowledged since everything healed.
    pub healed_writes: u64,
}

impl Client {
    /// A client that has done nothing.
    #[must_use]
    pub fn new(seed: u64, number: u16) -> Self {
        let mut rng = Rng::new(seed, 10_000 + u64::from(number));
        let host = rng.below(3) as HostId;
        let known = vec![None; REGISTERS as usize];
        Self { number, rng, host, requests: 0, pending: None, known, healed_writes: 0 }
    }

    /// Whether nothing is outstanding.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.pending.is_none()
    }

    fn choose(&mut self) -> Ask {
        let register = self.rng.below(REGISTERS) as u16;
        let mortal = self.rng.below(MORTALS) as u16;
        let ttl = self.rng.range(500, 8000);
        let known = self.known[usize::from(register)];
        match (self.rng.below(100), known) {
            (0..22, _) => Ask::Set(register),
            (22..27, _) => Ask::Create(register),
            (27..37, Some((value, _))) => Ask::Swap(register, value),
            (37..43, Some((value, index))) => Ask::SwapAt(register, value, index),
            (43..47, _) => Ask::Remove(register),
            (47..50, Some((value, _))) => Ask::RemoveIf(register, value),
            (27..66, _) => Ask::Quorum(register),
            (66..74, _) => Ask::Local(register),
            (74..81, _) => Ask::Mortal(mortal, ttl),
            (81..87, _) => Ask::Refresh(mortal, ttl),
            (87..92, _) => Ask::Post,
            (92..97, _) => Ask::Auth(auth::Change::choose(&mut self.rng)),
            _ => Ask::AuthRead(auth::Asked::choose(&mut self.rng)),
        }
    }
}

/// The number a value begins with.
pub(crate) fn number_of(value: &[u8]) -> u64 {
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit());
    digits.fold(0, |number, byte| number * 10 + u64::from(byte - b'0'))
}

/// A value of about this many bytes that begins with its number.
pub(crate) fn value_text(number: u64, bytes: u64) -> Vec<u8> {
    let mut text = format!("{number}-").into_bytes();
    text.resize((bytes as usize).max(text.len()), b'v');
    text
}

fn path_of(ask: &Ask) -> String {
    match ask {
        Ask::Set(key) | Ask::Create(key) | Ask::Swap(key, _) | Ask::SwapAt(key, ..) | Ask::Remove(key) => {
            format!("/k/{key}")
        }
        Ask::RemoveIf(key, _) | Ask::Quorum(key) | Ask::Local(key) => format!("/k/{key}"),
        Ask::Mortal(key, _) | Ask::Refresh(key, _) => format!("/t/{key}"),
        Ask::Post => "/q".to_owned(),
        Ask::Auth(_) | Ask::AuthRead(_) => "/".to_owned(),
    }
}

impl World {
    /// A client begins its next request.
    pub(crate) fn act(&mut self, number: u16) {
        let (hosts, now, quiet) = (self.hosts.len() as u64, self.now, self.quiet);
        let client = &mut self.clients[usize::from(number)];
        if client.pending.is_some() || quiet {
            return;
        }
        if client.rng.chance(50_000) {
            client.host = client.rng.below(hosts) as HostId;
        }
        let ask = client.choose();
        self.ask(number, ask, now);
    }

    /// A client asks something.
    pub(crate) fn ask(&mut self, number: u16, ask: Ask, now: Nanos) {
        let client = &mut self.clients[usize::from(number)];
        client.requests += 1;
        // A number that no other write has.
        let value = u64::from(client.requests) * 1000 + u64::from(client.number);
        client.pending = Some(Pending { ask, value, begun: now, host: client.host, arrived: false });
        let request = client.requests;
        let arrives = now + client.rng.range(50 * MICRO, MILLI);
        let patience = now + client.rng.range(7 * SECOND, 12 * SECOND);
        self.checks.operations += 1;
        self.queue.plan(arrives, Event::Request(number, request));
        self.queue.plan(patience, Event::Impatience(number, request));
    }

    /// A request is at its host.
    pub(crate) fn request(&mut self, number: u16, request: u32) {
        let client = &mut self.clients[usize::from(number)];
        let Some(pending) = client.pending.as_mut().filter(|_| client.requests == request) else { return };
        let host = pending.host;
        let pending = pending.clone();
        let at = usize::from(host);
        let life = self.hosts.get(at).map_or(0, |host| host.life);
        let token = ClientToken { slot: u32::from(number), generation: life, seq: request };
        let serves = self.hosts.get(at).and_then(|host| host.process.as_ref());
        if !serves.is_some_and(|process| process.published && !process.removed) {
            self.answer(token, Reply::NotDone);
            return;
        }
        let wall = self.hosts[at].clock(self.now);
        let path = path_of(&pending.ask);
        let value = value_text(pending.value, self.profile.value_bytes);
        let mut write = KeyWrite {
            method: WriteMethod::Put,
            path: path.as_bytes(),
            value: &value,
            dir: false,
            recursive: false,
            refresh: false,
            prev_exist: None,
            prev_value: None,
            prev_index: EtcdIndex::ZERO,
            expires_at: None,
        };
        let wanted;
        match &pending.ask {
            Ask::Quorum(_) | Ask::AuthRead(_) => {
                self.set_arrived(number);
                self.input(host, Input::LinearRead { token });
                return;
            }
            Ask::Local(_) => {
                self.read_now(host, token);
                return;
            }
            // Its room is looked at below, as for any write.
            Ask::Auth(_) => {}
            Ask::Set(_) => {}
            Ask::Create(_) => write.prev_exist = Some(false),
            Ask::Swap(_, before) => {
                wanted = value_text(*before, self.profile.value_bytes);
                write.prev_value = Some(&wanted);
            }
            Ask::SwapAt(_, _, index) => write.prev_index = EtcdIndex::new(*index),
            Ask::Remove(_) => (write.method, write.value) = (WriteMethod::Delete, b""),
            Ask::RemoveIf(_, before) => {
                wanted = value_text(*before, self.profile.value_bytes);
                (write.method, write.value, write.prev_value) = (WriteMethod::Delete, b"", Some(wanted.as_slice()));
            }
            Ask::Mortal(_, ttl) => write.expires_at = Some(plus_millis(wall, *ttl)),
            Ask::Refresh(_, ttl) => {
                (write.refresh, write.prev_exist, write.value) = (true, Some(true), b"");
                write.expires_at = Some(plus_millis(wall, *ttl));
            }
            Ask::Post => write.method = WriteMethod::Post,
        }
        let process = self.hosts[at].process.as_mut().expect("serves");
        if let Some(deadline) = write.expires_at {
            self.checks.deadlines.ask(path.as_bytes(), pending.value, deadline.get());
        }
        match process.admit(path.len() + write.value.len()) {
            Some(true) => {
                self.set_arrived(number);
                match &pending.ask {
                    Ask::Auth(change) => {
                        let text = String::from_utf8_lossy(&value);
                        self.input(host, Input::Auth { token, write: change.write(&text) });
                    }
                    _ => self.input(host, Input::Propose { token, write }),
                }
            }
            Some(false) => self.answer(token, Reply::NotDone),
            None => {
                self.queue.plan(self.now + 20 * MILLI, Event::Request(number, request));
                self.plan_spare(host);
            }
        }
    }

    fn set_arrived(&mut self, number: u16) {
        if let Some(pending) = &mut self.clients[usize::from(number)].pending {
            pending.arrived = true;
        }
    }

    /// Answers a read from a host's state as it is now.
    pub(crate) fn read_now(&mut self, host: HostId, token: ClientToken) {
        let asked = || {
            let client = self.clients.get(token.slot as usize)?;
            let pending = client.pending.as_ref().filter(|_| client.requests == token.seq)?;
            Some(pending.ask.clone())
        };
        let asked = asked();
        if let Some(Ask::AuthRead(asked)) = asked {
            let Some(process) = &self.hosts[usize::from(host)].process else { return };
            let (found, index) = (asked.look(process.node.auth()), process.node.store().index().get());
            self.answer(token, Reply::AuthIs(host, found, index));
            return;
        }
        let Some(path) = asked.map(|ask| path_of(&ask).into_bytes()).or_else(|| self.scripted_path(token)) else {
            return;
        };
        let Some(process) = &self.hosts[usize::from(host)].process else { return };
        let store = process.node.store();
        let found = shown(store.get(&path).ok());
        let index = store.index().get();
        if let Some((value, modified)) = &found {
            let verdict = self.checks.facts.saw(&path, *modified, value);
            self.judge(verdict);
        }
        self.answer(token, Reply::Read { host, found, index });
    }

    /// Sends an answer to its client.
    pub(crate) fn answer(&mut self, token: ClientToken, reply: Reply) {
        let number = token.slot as u16;
        let Some(client) = self.clients.get_mut(usize::from(number)) else {
            self.scripted_answer(token, reply);
            return;
        };
        let takes = client.rng.range(50 * MICRO, MILLI);
        self.queue.plan(self.now + takes, Event::Reply(number, token.seq, Box::new(reply)));
    }

    /// Whoever waits at a host that went dark sees the connection break.
    pub(crate) fn break_connections(&mut self, host: HostId) {
        let mut broken = Vec::new();
        for client in &self.clients {
            if let Some(pending) = &client.pending
                && pending.host == host
                && pending.arrived
            {
                broken.push((client.number, client.requests));
            }
        }
        for (number, request) in broken {
            self.queue.plan(self.now + MILLI, Event::Reply(number, request, Box::new(Reply::Unknown)));
        }
        self.break_watches(host);
    }

    pub(crate) fn impatience(&mut self, number: u16, request: u32) {
        self.reply(number, request, Reply::Unknown);
    }

    /// A client hears how its request ended.
    pub(crate) fn reply(&mut self, number: u16, request: u32, reply: Reply) {
        let (hosts, now, healing) = (self.hosts.len() as u64, self.now, self.healing.is_some());
        let client = &mut self.clients[usize::from(number)];
        if client.requests != request {
            return;
        }
        let Some(pending) = client.pending.take() else { return };
        if matches!(reply, Reply::Unknown | Reply::NotDone) {
            client.host = ((u64::from(client.host) + 1) % hosts) as HostId;
        }
        let think = client.rng.wait(self.profile.think) + MILLI;
        self.queue.plan(now + think, Event::Act(number));
        let client = &mut self.clients[usize::from(number)];
        let is_key_write = matches!(reply, Reply::Done { .. });
        self.checks.acknowledged += u64::from(is_key_write || matches!(reply, Reply::Auth(Ok(_))));
        client.healed_writes += u64::from(healing && is_key_write);
        if let (Some(key), Reply::Done { index, .. }) = (register(&pending.ask), &reply) {
            client.known[usize::from(key)] = Some((pending.value, *index));
        }
        if let (Some(key), Reply::Read { found, .. }) = (register(&pending.ask), &reply) {
            client.known[usize::from(key)] = found.as_ref().map(|(value, index)| (number_of(value), *index));
        }
        self.mix(u64::from(number) << 32 | u64::from(request));
        self.record(number, &pending, &reply);
    }

    /// Tells the checks.
    fn record(&mut self, number: u16, pending: &Pending, reply: &Reply) {
        if let Reply::Done { host, index, .. }
        | Reply::Refused { host, index, .. }
        | Reply::Read { host, index, .. }
        | Reply::AuthIs(host, _, index) = reply
        {
            let verdict = self.checks.facts.answer(*host, number, *index);
            self.judge(verdict);
        }
        if self.trace.is_some() {
            let text = format!("client {number} {:?} ({}) -> {reply:?}", pending.ask, pending.value);
            self.note(pending.host, format_args!("{text:.300}"));
        }
        if let (Ask::Mortal(_, ttl) | Ask::Refresh(_, ttl), Reply::Done { index, key, deadline, .. }) =
            (&pending.ask, reply)
        {
            let (asked, lasts) = (pending.begun, ttl * MILLI);
            self.checks.deadlines.promise(key, *index, *deadline, asked, lasts);
        }
        if !matches!(reply, Reply::Unknown) {
            self.checks.deadlines.answered(path_of(&pending.ask).as_bytes(), pending.value);
        }
        let value = pending.value;
        let prev = |prev: &Option<Vec<u8>>| prev.as_ref().map(|value| number_of(value));
        let op = match (&pending.ask, reply) {
            (_, Reply::NotDone) => None,
            (Ask::Auth(change), Reply::Auth(answer)) => change.op(value, answer),
            (Ask::Auth(change), Reply::Unknown) => change.maybe(value),
            (Ask::AuthRead(_), Reply::AuthIs(_, found, _)) => Some(Op::Read(*found)),
            (Ask::Set(_), Reply::Done { prev: before, .. }) => Some(Op::Set(value, prev(before))),
            (Ask::Create(_), Reply::Done { .. }) => Some(Op::Create(value)),
            (Ask::Swap(_, wanted) | Ask::SwapAt(_, wanted, _), Reply::Done { prev: before, .. }) => {
                if prev(before) != Some(*wanted) {
                    let what = format!("a swap that wanted {wanted} replaced {:?}", prev(before));
                    self.fail(Class::Correctness, what);
                }
                Some(Op::Swap(*wanted, value))
            }
            (Ask::Remove(_) | Ask::RemoveIf(..), Reply::Done { prev: before, .. }) => prev(before).map(Op::Remove),
            (Ask::Set(_), Reply::Unknown) => Some(Op::MaybeSet(value)),
            (Ask::Create(_), Reply::Unknown) => Some(Op::MaybeCreate(value)),
            (Ask::Swap(_, wanted) | Ask::SwapAt(_, wanted, _), Reply::Unknown) => Some(Op::MaybeSwap(*wanted, value)),
            (Ask::Remove(_), Reply::Unknown) => Some(Op::MaybeRemove(None)),
            (Ask::RemoveIf(_, wanted), Reply::Unknown) => Some(Op::MaybeRemove(Some(*wanted))),
            (Ask::Quorum(_), Reply::Read { found, .. }) => {
                Some(Op::Read(found.as_ref().map(|(value, _)| number_of(value))))
            }
            (_, Reply::Refused { code: 100, .. }) => Some(Op::Missed),
            (Ask::Swap(_, wanted) | Ask::RemoveIf(_, wanted), Reply::Refused { code: 101, cause, .. }) => {
                // "[wanted != found]"
                let text = String::from_utf8_lossy(cause);
                text.split(" != ").nth(1).map(|found| Op::Unequal(*wanted, number_of(found.as_bytes())))
            }
            _ => None,
        };
        let (Some(key), Some(op)) = (register(&pending.ask), op) else { return };
        let ended = if matches!(reply, Reply::Unknown) { u64::MAX } else { self.now };
        self.checks.histories.push(key, Call { begun: pending.begun, ended, op });
    }
}

fn plus_millis(wall: ringd_storage::ids::UnixNanos, millis: u64) -> ringd_storage::ids::UnixNanos {
    ringd_storage::ids::UnixNanos::new(wall.get() + millis * MILLI)
}

fn register(ask: &Ask) -> Option<u16> {
    match ask {
        Ask::Set(key) | Ask::Create(key) | Ask::Swap(key, _) | Ask::SwapAt(key, ..) | Ask::Remove(key) => Some(*key),
        Ask::RemoveIf(key, _) | Ask::Quorum(key) | Ask::Local(key) => Some(*key),
        Ask::Auth(change) => change.about().map(auth::Asked::register),
        Ask::AuthRead(asked) => Some(asked.register()),
        _ => None,
    }
}
