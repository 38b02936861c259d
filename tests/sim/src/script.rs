//! Scenario files: one line, one step, run against a calm world. `tests/sim/README.md` lists the steps.
//!
//! Owns: the little language. Hosts are `a`, `b`, `c`, …, or `leader`, or a name given by `let`. Must hold: a step that
//! does not do what its line says ends the script with the line's number.

use std::collections::BTreeMap;

use ringd::core::event::{ClientToken, Input};
use ringd::core::membership::{Member, MemberChange};
use ringd::core::store::{Event as StoreEvent, WatchRequest, WatchStart};
use ringd_storage::ids::{EtcdIndex, MemberId, UnixNanos};
use ringd_storage::memory::Surviving;
use ringd_storage::payload::{KeyWrite, WriteMethod};

use crate::client::Reply;
use crate::event::{Event, HostId};
use crate::profile::Profile;
use crate::time::{MILLI, Nanos, SECOND};
use crate::turn::shown;
use crate::world::{World, member};

/// The script's place among clients' tokens.
pub(crate) const SCRIPT_SLOT: u32 = u32::MAX - 1;
/// Watch tokens of scripts begin here, far above those of watchers.
const SCRIPT_WATCH: u64 = 1 << 60;
/// A step that waits gives up after this much virtual time.
const PATIENCE: Nanos = 30 * SECOND;
/// Values of `fill-up`.
const FILL_UP_BYTES: usize = 1000;
/// It ends far below: a segment takes 250 of them.
const FILL_UP_MAX: u32 = 1000;

/// What a script waits for.
#[derive(Default)]
pub struct Desk {
    next: u32,
    paths: BTreeMap<u32, Vec<u8>>,
    replies: BTreeMap<u32, Reply>,
    events: BTreeMap<u64, Vec<String>>,
}

impl World {
    /// An answer for the script.
    pub(crate) fn scripted_answer(&mut self, token: ClientToken, reply: Reply) {
        if token.slot == SCRIPT_SLOT {
            self.desk.replies.insert(token.seq, reply);
        }
    }

    /// What a script's linearizable read asks for.
    pub(crate) fn scripted_path(&self, token: ClientToken) -> Option<Vec<u8>> {
        self.desk.paths.get(&token.seq).filter(|_| token.slot == SCRIPT_SLOT).cloned()
    }

    /// An event for a script's watch. False when it is nobody's.
    pub(crate) fn scripted_event(&mut self, token: u64, event: &StoreEvent) -> bool {
        let Some(seen) = self.desk.events.get_mut(&token) else { return false };
        let value = event.node().value.map_or_else(|| event.action.name().to_owned(), text);
        seen.push(value);
        true
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs a script.
///
/// # Errors
/// The number and text of the line that was not true, and why.
pub fn play(script: &str) -> Result<(), String> {
    let mut player: Option<Player> = None;
    for (number, line) in script.lines().enumerate() {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        let Some(first) = words.first() else { continue };
        let result = match (&mut player, *first) {
            (None, "nodes") => Player::begin(&words).map(|begun| player = Some(begun)),
            (None, _) => Err("a script begins with `nodes`".to_owned()),
            (Some(player), _) => player.step(&words),
        };
        let result = result.and_then(|()| match player.as_ref().and_then(|player| player.world.failure.as_ref()) {
            Some(failure) => Err(failure.what.clone()),
            None => Ok(()),
        });
        result.map_err(|why| format!("line {}: {line}\n  {why}", number + 1))?;
    }
    Ok(())
}

struct Player {
    world: World,
    names: BTreeMap<String, HostId>,
    requests: BTreeMap<String, u32>,
    /// Requests of `burst` that `answers` has not waited for.
    burst: Vec<u32>,
    watches: BTreeMap<String, u64>,
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word} is no number"))
}

fn duration(word: &str) -> Result<Nanos, String> {
    let (digits, unit) = word.strip_suffix("ms").map_or((word.strip_suffix('s'), SECOND), |ms| (Some(ms), MILLI));
    Ok(number(digits.ok_or_else(|| format!("{word} is no duration"))?)? * unit)
}

fn option<'w>(words: &[&'w str], name: &str) -> Option<&'w str> {
    words.iter().position(|word| *word == name).and_then(|at| words.get(at + 1)).copied()
}

impl Player {
    fn begin(words: &[&str]) -> Result<Self, String> {
        let count = number(words.get(1).ok_or("how many nodes?")?)?;
        let mut profile = Profile::calm(count as u8);
        if let Some(entries) = option(words, "snapshot") {
            profile.snapshot_entries = number(entries)?;
        }
        if let Some(entries) = option(words, "catch-up") {
            profile.catch_up_entries = number(entries)?;
        }
        if let Some(events) = option(words, "history") {
            profile.history_events = number(events)? as usize;
        }
        if let Some(bytes) = option(words, "segment") {
            profile.segment_bytes = number(bytes)?;
        }
        let world = World::new(7, profile, false);
        Ok(Self {
            world,
            names: BTreeMap::new(),
            requests: BTreeMap::new(),
            burst: Vec::new(),
            watches: BTreeMap::new(),
        })
    }

    fn host(&self, word: &str) -> Result<HostId, String> {
        if let Some(host) = self.names.get(word) {
            return Ok(*host);
        }
        match word.as_bytes() {
            b"leader" => self.world.leader().ok_or_else(|| "nobody leads".to_owned()),
            [letter @ b'a'..=b'h'] if usize::from(letter - b'a') < self.world.hosts.len() => Ok(letter - b'a'),
            _ => Err(format!("{word} is no host")),
        }
    }

    fn wait(&mut self, mut is_so: impl FnMut(&mut World) -> bool) -> bool {
        let until = self.world.now + PATIENCE;
        while !is_so(&mut self.world) {
            if self.world.now >= until || self.world.failure.is_some() {
                return false;
            }
            self.world.run_until(self.world.now + 5 * MILLI);
        }
        true
    }

    fn step(&mut self, words: &[&str]) -> Result<(), String> {
        let arrow = words.iter().position(|word| *word == "->");
        let (words, wanted) = arrow.map_or((words, None), |at| (&words[..at], words.get(at + 1).copied()));
        let word = |at: usize| words.get(at).copied().ok_or_else(|| "a word is missing".to_owned());
        match words[0] {
            "run" => {
                let until = self.world.now + duration(word(1)?)?;
                self.world.run_until(until);
                Ok(())
            }
            "settle" => {
                if self.wait(|world| world.missing().is_none()) {
                    return Ok(());
                }
                Err(format!("not settled: {}", self.world.missing().unwrap_or_default()))
            }
            "let" => {
                let host = match word(2)? {
                    "follower" => {
                        let leader = self.host("leader")?;
                        let taken: Vec<HostId> = self.names.values().copied().collect();
                        let free = |host: &HostId| *host != leader && !taken.contains(host);
                        (0..self.world.hosts.len() as HostId).find(free).ok_or("no follower is left")?
                    }
                    other => self.host(other)?,
                };
                self.names.insert(word(1)?.to_owned(), host);
                Ok(())
            }
            "put" | "delete" | "post" | "refresh" | "get" | "quorum-get" => {
                let request = self.ask(words)?;
                self.wait(|world| world.desk.replies.contains_key(&request));
                self.compare(request, wanted.unwrap_or("ok"))
            }
            "begin" => {
                let request = self.ask(&words[2..])?;
                self.requests.insert(word(1)?.to_owned(), request);
                Ok(())
            }
            "answer" => {
                let request = *self.requests.get(word(1)?).ok_or("no such request")?;
                match wanted {
                    Some("none") => match self.world.desk.replies.get(&request) {
                        None => Ok(()),
                        Some(reply) => Err(format!("it was answered: {reply:?}")),
                    },
                    wanted => {
                        self.wait(|world| world.desk.replies.contains_key(&request));
                        self.compare(request, wanted.unwrap_or("ok"))
                    }
                }
            }
            "fill" => {
                for at in 0..number(word(2)?)? {
                    let (key, value) = (format!("/fill/{}", at % 10), format!("f{at}"));
                    self.step(&["put", word(1)?, &key, &value])?;
                }
                Ok(())
            }
            "fill-up" => {
                let (host, value) = (word(1)?, "f".repeat(FILL_UP_BYTES));
                for _ in 0..FILL_UP_MAX {
                    let request = self.ask(&["put", host, "/fill", &value])?;
                    if self.world.desk.replies.contains_key(&request) {
                        return Ok(());
                    }
                }
                Err("it took everything".to_owned())
            }
            "burst" => {
                let value = "x".repeat(number(word(3)?)? as usize);
                for _ in 0..number(word(2)?)? {
                    let key = format!("/burst/{}", self.world.desk.next);
                    let request = self.ask(&["put", word(1)?, &key, &value])?;
                    self.burst.push(request);
                }
                Ok(())
            }
            "answers" => std::mem::take(&mut self.burst).into_iter().try_for_each(|request| {
                self.wait(|world| world.desk.replies.contains_key(&request));
                self.compare(request, wanted.unwrap_or("ok"))
            }),
            "watch" => self.watch(words, wanted),
            "events" => {
                let token = *self.watches.get(word(1)?).ok_or("no such watch")?;
                let seen = &self.world.desk.events[&token];
                if seen.iter().map(String::as_str).eq(words[2..].iter().copied()) {
                    return Ok(());
                }
                Err(format!("it saw {seen:?}"))
            }
            "add" => {
                let id = self.world.next_member;
                self.world.next_member += 1;
                let config = self.world.host_config(Vec::new());
                let mut rng = crate::rng::Rng::new(7, id);
                self.world.add_host(MemberId::new(id), config, &mut rng);
                let host = (self.world.hosts.len() - 1) as HostId;
                self.names.insert(word(1)?.to_owned(), host);
                self.world.trouble[usize::from(host)].held = true;
                let added = Member { name: String::new(), client_urls: vec![], ..member(id) };
                let via = self.host(option(words, "via").unwrap_or("leader"))?;
                self.change(via, MemberChange::Add(added), wanted)
            }
            "remove" => {
                let id = self.world.hosts[usize::from(self.host(word(1)?)?)].id;
                let via = self.host(option(words, "via").unwrap_or("leader"))?;
                self.change(via, MemberChange::Remove(id), wanted)
            }
            "expect" => self.expect(words),
            "cut" | "cut-one-way" | "isolate" | "mend" => self.links(words),
            _ => {
                let host = self.host(word(1)?)?;
                self.afflict(host, words)
            }
        }
    }

    fn token(&mut self) -> ClientToken {
        self.world.desk.next += 1;
        ClientToken { slot: SCRIPT_SLOT, generation: 0, seq: self.world.desk.next }
    }

    fn change(&mut self, via: HostId, change: MemberChange, wanted: Option<&str>) -> Result<(), String> {
        let token = self.token();
        self.world.input(via, Input::Members { token, change });
        self.wait(|world| world.desk.replies.contains_key(&token.seq));
        self.compare(token.seq, wanted.unwrap_or("ok"))
    }

    /// Sends a request; answers its number.
    fn ask(&mut self, words: &[&str]) -> Result<u32, String> {
        let word = |at: usize| words.get(at).copied().ok_or_else(|| "a word is missing".to_owned());
        let host = self.host(word(1)?)?;
        let path = word(2)?.as_bytes();
        let token = self.token();
        let at = usize::from(host);
        let wall = self.world.hosts[at].clock(self.world.now);
        let ttl = option(words, "ttl").map(duration).transpose()?;
        if !self.world.hosts[at].process.as_ref().is_some_and(|process| process.published) {
            self.world.desk.replies.insert(token.seq, Reply::NotDone);
            return Ok(token.seq);
        }
        match words[0] {
            "get" | "quorum-get" => {
                self.world.desk.paths.insert(token.seq, path.to_vec());
                if words[0] == "get" {
                    self.world.read_now(host, token);
                } else {
                    self.world.input(host, Input::LinearRead { token });
                }
            }
            method => {
                let value = if matches!(method, "put" | "post") { word(3)?.as_bytes() } else { b"" };
                let write = KeyWrite {
                    method: match method {
                        "delete" => WriteMethod::Delete,
                        "post" => WriteMethod::Post,
                        _ => WriteMethod::Put,
                    },
                    path,
                    value,
                    dir: false,
                    recursive: false,
                    refresh: method == "refresh",
                    prev_exist: match option(words, "exists") {
                        Some(word) => Some(word == "yes"),
                        None => (method == "refresh").then_some(true),
                    },
                    prev_value: option(words, "was").map(str::as_bytes),
                    prev_index: EtcdIndex::new(option(words, "at").map(number).transpose()?.unwrap_or(0)),
                    expires_at: ttl.map(|ttl| UnixNanos::new(wall.get() + ttl)),
                };
                let process = self.world.hosts[at].process.as_mut().expect("published");
                if process.admit(path.len() + value.len()) == Some(true) {
                    self.world.input(host, Input::Propose { token, write });
                } else {
                    self.world.desk.replies.insert(token.seq, Reply::NotDone);
                }
            }
        }
        Ok(token.seq)
    }

    fn compare(&mut self, request: u32, wanted: &str) -> Result<(), String> {
        let got = match self.world.desk.replies.get(&request) {
            None => "nothing".to_owned(),
            Some(Reply::Unknown) => "unknown".to_owned(),
            Some(Reply::NotDone) => "not-done".to_owned(),
            Some(Reply::Refused { code, .. }) => code.to_string(),
            Some(Reply::Read { found: Some((value, _)), .. }) => text(value),
            Some(Reply::Read { found: None, .. }) => "missing".to_owned(),
            Some(Reply::Done { .. } | Reply::Auth(Ok(_)) | Reply::Members(true)) => "ok".to_owned(),
            Some(Reply::Auth(Err(_)) | Reply::Members(false)) => "refused".to_owned(),
            Some(Reply::AuthIs(_, found, _)) => format!("{found:?}"),
        };
        if got == wanted { Ok(()) } else { Err(format!("the answer is {got}")) }
    }

    fn watch(&mut self, words: &[&str], wanted: Option<&str>) -> Result<(), String> {
        let word = |at: usize| words.get(at).copied().ok_or_else(|| "a word is missing".to_owned());
        let host = self.host(word(2)?)?;
        let token = SCRIPT_WATCH + self.watches.len() as u64;
        let request = WatchRequest {
            path: word(3)?.as_bytes(),
            recursive: words.contains(&"recursive"),
            stream: words.contains(&"stream"),
            wait_index: EtcdIndex::new(option(words, "from").map(number).transpose()?.unwrap_or(0)),
        };
        self.watches.insert(word(1)?.to_owned(), token);
        self.world.desk.events.insert(token, Vec::new());
        let process = self.world.hosts[usize::from(host)].process.as_mut().ok_or("it does not run")?;
        let got = match process.node.store_mut().watch(&request, token) {
            Ok(WatchStart::Parked(_)) => "ok".to_owned(),
            Ok(WatchStart::Now(event)) => {
                self.world.scripted_event(token, &event);
                "ok".to_owned()
            }
            Err(error) => (error.code as u16).to_string(),
        };
        if got == wanted.unwrap_or("ok") { Ok(()) } else { Err(format!("the answer is {got}")) }
    }

    fn links(&mut self, words: &[&str]) -> Result<(), String> {
        let hosts = self.world.hosts.len() as HostId;
        if words[0] == "mend" {
            self.world.net.heal();
            return Ok(());
        }
        let from = self.host(words.get(1).ok_or("which host?")?)?;
        let cut = self.world.net.begin_cut();
        let others: Vec<HostId> = match words.get(2) {
            Some(word) => vec![self.host(word)?],
            None => (0..hosts).filter(|host| *host != from).collect(),
        };
        for to in others {
            self.world.net.sever(from, to, cut);
            if words[0] != "cut-one-way" {
                self.world.net.sever(to, from, cut);
            }
        }
        Ok(())
    }

    fn afflict(&mut self, host: HostId, words: &[&str]) -> Result<(), String> {
        let at = usize::from(host);
        let world = &mut self.world;
        match words[0] {
            "kill" => {
                world.trouble[at].held = true;
                world.kill(host);
            }
            "power" => {
                world.trouble[at].held = true;
                let style = words.get(2).copied().unwrap_or("nothing");
                world.hosts[at].disk.keep(&mut |what| match (style, what) {
                    ("all", _) | ("torn", Surviving::Name(_)) => u32::MAX,
                    ("torn", Surviving::Sector { offset, .. }) => u32::from(offset / 512 % 2 == 0) * u32::MAX,
                    _ => 0,
                });
                world.kill(host);
            }
            "stop" => {
                world.trouble[at].held = true;
                world.hosts[at].process.as_mut().ok_or("it does not run")?.stop_cleanly();
                world.kill(host);
            }
            "start" => {
                world.trouble[at].held = false;
                world.trouble[at].refused = false;
                world.start(host);
            }
            "hold-syncs" => world.trouble[at].stuck_until = Nanos::MAX / 2,
            "release-syncs" => {
                world.trouble[at].stuck_until = 0;
                let life = world.hosts[at].life;
                if world.hosts[at].process.as_ref().is_some_and(|process| process.syncing()) {
                    world.queue.plan(world.now + MILLI, Event::SyncStep(host, life));
                }
            }
            "fail-sync" => {
                world.trouble[at].held = true;
                world.trouble[at].sync_fails = true;
            }
            "fill-disk" => world.hosts[at].disk.limit(Some(0)),
            "empty-disk" => world.hosts[at].disk.limit(None),
            "new-disk" => {
                world.hosts[at].disk.replace();
                world.amnesic = Some(host);
            }
            "clock" => {
                let step = words.get(2).ok_or("by how much?")?;
                let (sign, step) = step.strip_prefix('-').map_or((1, *step), |step| (-1, step));
                world.hosts[at].clock_offset += sign * duration(step)? as i64;
            }
            "flip" => {
                let disk = &mut world.hosts[at].disk;
                let name = disk.newest_segment().ok_or("no segment")?;
                let offset = number(words.get(2).ok_or("where?")?)?;
                if !disk.wal.flip_bit(&name, offset, 0) {
                    return Err("no such byte".to_owned());
                }
                world.trouble[at].damaged = Some(crate::faults::Damage { text: name, must_show: false });
                world.amnesic = Some(host);
            }
            "damage-snapshots" => {
                world.hosts[at].disk.damage_snapshots(words.contains(&"newest"));
                world.trouble[at].damaged =
                    Some(crate::faults::Damage { text: "snapshots".to_owned(), must_show: false });
                world.amnesic = Some(host);
            }
            other => return Err(format!("{other} is no step")),
        }
        Ok(())
    }

    fn expect(&mut self, words: &[&str]) -> Result<(), String> {
        let word = |at: usize| words.get(at).copied().ok_or_else(|| "a word is missing".to_owned());
        let host = self.host(word(1)?)?;
        let at = usize::from(host);
        let (negated, what) = if word(2)? == "not" { (true, word(3)?) } else { (false, word(2)?) };
        if what == "children" {
            let (key, wanted) = (words[words.len() - 2], number(words[words.len() - 1])?);
            let process = self.world.hosts[at].process.as_ref().ok_or("it does not run")?;
            let found = process.node.store().get(key.as_bytes()).map_or(0, |node| node.children().count() as u64);
            return if (found == wanted) != negated { Ok(()) } else { Err(format!("it has {found}")) };
        }
        let found = {
            let key = words.last().copied().unwrap_or_default();
            self.wait_for(host, what, key, negated)
        };
        let process = self.world.hosts[at].process.as_ref();
        match found {
            true => Ok(()),
            false => Err(format!("it is otherwise: {:?}", process.map(|process| process.node.raft_status()))),
        }
    }

    /// Whether something becomes so within [`PATIENCE`], or, negated, is not so now.
    fn wait_for(&mut self, host: HostId, what: &str, last: &str, negated: bool) -> bool {
        let at = usize::from(host);
        let is_so = move |world: &mut World, last: &str| {
            let refused = world.trouble[at].refused;
            let gone = world.trouble[at].gone;
            let Some(process) = &world.hosts[at].process else {
                return what == "down" || what == "refused" && refused || what == "gone" && gone;
            };
            let applied = process.node.applied().get();
            match what {
                "leads" => process.node.is_leader(),
                "serves" => process.published,
                "forgot" => process.node.may_have_forgotten(),
                "learner" => process.node.is_learner(),
                "full" => process.full,
                "cut" => process.cut,
                "applied" => last.parse().is_ok_and(|least: u64| applied >= least),
                "has" => shown(process.node.store().get(last.as_bytes()).ok()).is_some(),
                "snapshot" => {
                    use ringd_storage::medium::Medium as _;
                    let names = world.hosts[at].disk.snap.list().unwrap_or_default();
                    names.iter().any(|name| name.ends_with(".snap"))
                }
                _ => false,
            }
        };
        if negated {
            return !is_so(&mut self.world, last);
        }
        self.wait(|world| is_so(world, last))
    }
}
