//! A node's turn and what follows from it, effect by effect: between any two of them the host may die.
//!
//! Owns: the order in which effects are performed (`Effects` says it), as `shell/driver.rs` (`Hub::turn`, `settle`) and
//! the shell's helper tasks do.

use ringd::core::event::{Answer, Input, Notice, Outcome};
use ringd::core::store::{Event as StoreEvent, Fired, NodeRef, WatchRequest, WatchStart};
use ringd_storage::format::SnapshotMarker;
use ringd_storage::ids::{EtcdIndex, Term};

use crate::check::digest;
use crate::check::facts::Fact;
use crate::client::Reply;
use crate::event::{Event, HostId};
use crate::host::Synced;
use crate::operator::OPERATOR_SLOT;
use crate::profile::Kind;
use crate::time::{MICRO, MILLI, SECOND};
use crate::world::{Class, World};

/// The token of the watcher that the world itself has on every host.
pub(crate) const OBSERVER: u64 = u64::MAX;
/// Every so many applied entries a member's whole state is digested.
const DIGEST_EVERY: u64 = 100;

/// What an event says, for the checks.
pub(crate) fn fact(event: &StoreEvent) -> Fact {
    let node = event.node();
    Fact {
        key: event.key().into(),
        action: event.action.name(),
        value: Fact::value_digest(node.value),
        removes: event.action.removes(),
        created: node.created.get(),
    }
}

impl World {
    /// Puts the world's own watcher on a host.
    pub(crate) fn observe(&mut self, host: HostId) {
        let Some(process) = &mut self.hosts[usize::from(host)].process else { return };
        let request = WatchRequest { path: b"/", recursive: true, stream: true, wait_index: EtcdIndex::ZERO };
        match process.node.store_mut().watch(&request, OBSERVER) {
            Ok(WatchStart::Parked(_)) => {}
            Ok(WatchStart::Now(_)) | Err(_) => {
                self.fail(Class::Correctness, format!("host {host}: a watch from now on did not park"));
            }
        }
    }

    /// Whether the host dies here: a planned crash counts effects.
    fn doomed(&mut self, host: HostId) -> bool {
        let trouble = &mut self.trouble[usize::from(host)];
        match &mut trouble.doom {
            Some((0, _)) => {
                let (_, power) = trouble.doom.take().expect("just seen");
                self.crash(host, power);
                true
            }
            Some((left, _)) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    /// One turn.
    pub fn turn(&mut self, host: HostId) {
        let mut effects = std::mem::take(&mut self.effects);
        effects.clear();
        self.perform(host, &mut effects);
        effects.clear();
        self.effects = effects;
    }

    fn perform(&mut self, host: HostId, effects: &mut ringd::core::event::Effects) {
        let at = usize::from(host);
        let wall = self.hosts[at].clock(self.now);
        let life = self.hosts[at].life;
        let Some(process) = &mut self.hosts[at].process else { return };
        process.turn_planned = false;
        process.hear_forwarded(wall);
        process.node.handle(process.room(), wall);
        process.node.poll(wall, effects);
        let marks = [process.node.applied().get(), process.node.committed().get(), process.node.store().index().get()];
        self.mix(marks[0] ^ marks[2] << 20 ^ u64::from(host) << 60);
        let verdict = self.checks.states.stands(host, life, marks);
        self.judge(verdict);
        if let Some(message) = effects.fatal.take() {
            self.fail(Class::Correctness, format!("host {host} cannot go on: {message}"));
            return;
        }
        for message in effects.messages.drain(..) {
            self.send(host, message);
            if self.doomed(host) {
                return;
            }
        }
        for append in effects.appends.drain(..) {
            let Some(process) = &mut self.hosts[at].process else { return };
            if let Err(error) = process.append(&append) {
                self.stop_for_disk(host, &error.to_string());
                return;
            }
            if self.doomed(host) {
                return;
            }
        }
        if let Some(process) = &mut self.hosts[at].process {
            process.turn_is_over();
        }
        if let Some(install) = effects.install {
            self.note(host, format_args!("installs a snapshot of {}", install.index));
            let Some(process) = &mut self.hosts[at].process else { return };
            if let Err(error) = process.begin_install(install) {
                self.fail(Class::Correctness, format!("host {host}: an accepted snapshot cannot be read: {error}"));
                return;
            }
            self.queue.plan(self.now + 50 * MICRO, Event::Install(host, life));
        }
        if !self.begin_sync(host) || self.doomed(host) {
            return;
        }
        self.plan_spare(host);
        for Answer { token, outcome } in effects.answers.drain(..) {
            if token.slot == OPERATOR_SLOT {
                self.operator_heard(outcome);
            } else {
                let reply = self.reply_of(host, &outcome);
                self.answer(token, reply);
            }
            if self.doomed(host) {
                return;
            }
        }
        for Fired { token, event, last, .. } in effects.fired.drain(..) {
            if token == OBSERVER {
                self.saw_event(host, &event);
            } else if !self.scripted_event(token, &event) {
                self.fired(token, host, &event, last);
            }
        }
        for token in effects.reads_ready.drain(..) {
            self.read_now(host, token);
        }
        for token in effects.reads_failed.drain(..) {
            self.answer(token, Reply::Unknown);
        }
        for ended in effects.ended.drain(..) {
            if ended.token == OBSERVER {
                self.observe(host);
            } else {
                self.watch_ended(ended.token);
            }
        }
        if effects.snapshot_begun {
            let Some(process) = &mut self.hosts[at].process else { return };
            process.begin_snapshot();
            self.queue.plan(self.now + 50 * MICRO, Event::Snapshot(host, life));
        }
        for notice in effects.notices.drain(..) {
            self.notice(host, &notice);
        }
        self.digest(host);
    }

    fn notice(&mut self, host: HostId, notice: &Notice) {
        let at = usize::from(host);
        let (id, life) = (self.hosts[at].id, self.hosts[at].life);
        if !matches!(notice, Notice::MembershipChanged) {
            self.note(host, format_args!("{notice:?}"));
        }
        let Some(process) = &mut self.hosts[at].process else { return };
        match notice {
            Notice::BecameLeader { term } => {
                let verdict = self.checks.states.leads(id.get(), term.get());
                self.judge(verdict);
            }
            Notice::Published => {
                process.published = true;
            }
            Notice::NoteObsolete => {
                let wall = self.hosts[at].clock(self.now);
                if ringd_storage::recover::clear_tail_cut(&self.hosts[at].disk.wal).is_err() {
                    self.stop_for_disk(host, "the note of a cut tail cannot be removed");
                    return;
                }
                if self.amnesic == Some(host) {
                    self.amnesic = None;
                }
                if let Some(process) = &mut self.hosts[at].process {
                    process.node.handle(Input::NoteCleared, wall);
                }
            }
            Notice::Removed => {
                process.removed = true;
                self.trouble[at].gone = true;
            }
            Notice::MayLeave => self.queue.plan(self.now, Event::Leave(host, life)),
            Notice::Installed { index } => {
                process.retain(SnapshotMarker { index: *index, term: Term::new(u64::MAX) });
            }
            _ => {}
        }
    }

    /// Begins a sync if one is due; false when the host stopped over it.
    pub(crate) fn begin_sync(&mut self, host: HostId) -> bool {
        let at = usize::from(host);
        let Some(process) = &mut self.hosts[at].process else { return false };
        match process.begin_sync(self.now) {
            Ok(true) => self.plan_sync_step(host),
            Ok(false) => {}
            Err(error) => {
                self.stop_for_disk(host, &error);
                return false;
            }
        }
        true
    }

    fn plan_sync_step(&mut self, host: HostId) {
        let at = usize::from(host);
        let life = self.hosts[at].life;
        let usual = self.profile.sync;
        let mut takes = self.rng.range(usual / 2, usual * 2);
        let trouble = &self.trouble[at];
        if trouble.slow_until > self.now {
            takes *= trouble.slow_by;
        }
        let end = (self.now + takes).max(trouble.stuck_until);
        self.queue.plan(end, Event::SyncStep(host, life));
    }

    pub(crate) fn sync_step(&mut self, host: HostId, life: u32) {
        if !self.lives(host, life) {
            return;
        }
        let at = usize::from(host);
        let fails = std::mem::take(&mut self.trouble[at].sync_fails);
        let wall = self.hosts[at].clock(self.now);
        let process = self.hosts[at].process.as_mut().expect("lives");
        match process.sync_step(fails) {
            Synced::More => {
                if !self.doomed(host) {
                    self.plan_sync_step(host);
                }
            }
            Synced::Failed(error) => {
                if fails {
                    self.count(Kind::SyncError);
                }
                self.stop_for_disk(host, &error);
            }
            Synced::Upto(upto) => {
                if self.doomed(host) {
                    return;
                }
                let process = self.hosts[at].process.as_mut().expect("lives");
                process.after_sync(wall);
                process.node.handle(Input::Persisted { upto }, wall);
                // The turn applies what became durable and appends the next batch, so that its sync begins at once.
                self.turn(host);
                self.plan_spare(host);
                self.begin_sync(host);
            }
        }
    }

    pub(crate) fn plan_spare(&mut self, host: HostId) {
        let at = usize::from(host);
        let life = self.hosts[at].life;
        let Some(process) = &mut self.hosts[at].process else { return };
        if process.wants_spare() {
            process.spare_busy = true;
            let takes = self.rng.range(MILLI, 30 * MILLI);
            self.queue.plan(self.now + takes, Event::Spare(host, life));
        }
    }

    pub(crate) fn spare(&mut self, host: HostId, life: u32) {
        if !self.lives(host, life) {
            return;
        }
        let wall = self.hosts[usize::from(host)].clock(self.now);
        let process = self.hosts[usize::from(host)].process.as_mut().expect("lives");
        if process.make_spare() {
            process.spare_busy = false;
            if process.hear_forwarded(wall) {
                self.plan_turn(host);
            }
            if !self.doomed(host) {
                self.plan_spare(host);
            }
        } else {
            self.queue.plan(self.now + SECOND, Event::Spare(host, life));
        }
    }

    pub(crate) fn snapshot(&mut self, host: HostId, life: u32) {
        if !self.lives(host, life) {
            return;
        }
        let at = usize::from(host);
        let wall = self.hosts[at].clock(self.now);
        let process = self.hosts[at].process.as_mut().expect("lives");
        if let Err(error) = process.snapshot_step(wall) {
            self.stop_for_disk(host, &error);
            return;
        }
        if self.doomed(host) {
            return;
        }
        let ppm = self.profile.snapshot_break_ppm / 10;
        if self.healing.is_none() && self.fault_rng(Kind::SnapshotBreak).chance(ppm) {
            self.count(Kind::SnapshotBreak);
            self.crash(host, true);
            return;
        }
        let process = self.hosts[at].process.as_ref().expect("lives");
        if process.snapshot_busy() {
            let takes = self.rng.range(50 * MICRO, 3 * MILLI);
            self.queue.plan(self.now + takes, Event::Snapshot(host, life));
        } else {
            self.begin_sync(host);
            self.plan_spare(host);
        }
    }

    pub(crate) fn install(&mut self, host: HostId, life: u32) {
        if !self.lives(host, life) {
            return;
        }
        let process = self.hosts[usize::from(host)].process.as_mut().expect("lives");
        if let Err(error) = process.install_step() {
            self.fail(Class::Correctness, format!("host {host}: an accepted snapshot cannot be loaded: {error}"));
            return;
        }
        if process.installing() {
            let takes = self.rng.range(20 * MICRO, 2 * MILLI);
            self.queue.plan(self.now + takes, Event::Install(host, life));
        }
        if !self.doomed(host) {
            self.turn(host);
        }
    }

    fn saw_event(&mut self, host: HostId, event: &StoreEvent) {
        let index = event.index.get();
        let verdict = self.checks.facts.show(index, fact(event)).map_err(|what| format!("host {host}: {what}"));
        self.judge(verdict);
        if event.action.name() == "expire" {
            let (at, key) = (event.at.get(), event.key());
            let verdict = self.checks.deadlines.expired(key, index, at, self.now, self.clock_differ);
            self.judge(verdict);
        }
    }

    /// Compares a member's whole state with what others had at the same applied entry.
    fn digest(&mut self, host: HostId) {
        let at = usize::from(host);
        let Some(process) = &mut self.hosts[at].process else { return };
        let applied = process.node.applied().get();
        if applied / DIGEST_EVERY == self.trouble[at].digested / DIGEST_EVERY && self.healing.is_none()
            || applied == self.trouble[at].digested
            || process.node.capturing()
            || process.node.store().is_capturing()
            || process.node.is_installing()
        {
            return;
        }
        self.trouble[at].digested = applied;
        let digest = state_digest(&mut process.node);
        let verdict = self.checks.states.digest(host, applied, digest);
        self.judge(verdict);
    }

    /// What a client is told of an outcome.
    fn reply_of(&mut self, host: HostId, outcome: &Outcome) -> Reply {
        match outcome {
            Outcome::Event(event) => {
                if !event.silent {
                    let verdict = self.checks.facts.show(event.index.get(), fact(event));
                    self.judge(verdict);
                }
                let prev = event.prev().map(|prev| prev.value.unwrap_or_default().to_vec());
                let deadline = event.node().expires_at.map(ringd_storage::ids::UnixNanos::get);
                Reply::Done { host, index: event.index.get(), key: event.key().to_vec(), prev, deadline }
            }
            Outcome::Refused(error) => {
                Reply::Refused { host, code: error.code as u16, cause: error.cause.clone(), index: error.index.get() }
            }
            Outcome::Auth(result) => Reply::Auth(result.clone()),
            Outcome::Members(result) => Reply::Members(result.is_ok()),
            Outcome::Failed(failure) => match failure {
                ringd::core::event::ProposalFailure::Timeout => Reply::Unknown,
                ringd::core::event::ProposalFailure::NotProposed => Reply::NotDone,
                ringd::core::event::ProposalFailure::NoSpace => Reply::NotDone,
            },
        }
    }
}

/// A digest of everything replicated in a node: the store's nodes and history, members and auth. Not the store's own
/// record (counters may differ in how reads were counted), but its index.
fn state_digest(node: &mut ringd::core::node::Node) -> u64 {
    let mut bytes = Vec::new();
    let store = node.store_mut();
    store.capture_begin();
    while store.capture_slice(&mut bytes, usize::MAX) {}
    node.auth().write_items(&mut bytes);
    let mut items = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some((head, tail)) = rest.split_at_checked(8) {
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes")) as usize;
        let (key, after) = tail.split_at(word(0));
        let (value, next) = after.split_at(word(4));
        // Class 1 is the store's own record.
        if key.first() != Some(&1) {
            items.push((key, value));
        }
        rest = next;
    }
    items.sort_unstable();
    let mut digests: Vec<u64> = items.iter().map(|(key, value)| digest(&[key, value])).collect();
    digests.push(node.store().index().get());
    for member in node.members().iter() {
        let urls = member.peer_urls.concat() + &member.client_urls.concat();
        digests.push(digest(&[&member.id.get().to_le_bytes(), member.name.as_bytes(), urls.as_bytes()]));
    }
    digests.extend(node.members().removed().map(|id| !id.get()));
    let bytes: Vec<u8> = digests.iter().flat_map(|digest| digest.to_le_bytes()).collect();
    digest(&[&bytes])
}

/// A node's value and index, or nothing.
pub(crate) fn shown(node: Option<NodeRef<'_>>) -> Option<(Vec<u8>, u64)> {
    node.map(|node| (node.value().unwrap_or_default().to_vec(), node.modified().get()))
}
