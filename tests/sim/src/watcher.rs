//! Watchers: long polls that ask again behind the last event, and streams; both move to another host when theirs fails.
//!
//! Owns: what is watched and what was given. Registration mirrors `shell/watching.rs`.

use ringd::core::store::{Event as StoreEvent, StoreErrorCode, WatchRequest, WatchStart};
use ringd_storage::ids::EtcdIndex;

use crate::check::watch::{Stretch, check_cleared};
use crate::event::{Event, HostId};
use crate::rng::Rng;
use crate::time::{MILLI, SECOND};
use crate::world::World;

/// What there is to watch.
const PATHS: [(&str, bool); 6] =
    [("/", true), ("/k", true), ("/k/1", false), ("/q", true), ("/t", true), ("/k/2", false)];

/// One watcher.
pub struct Watcher {
    rng: Rng,
    path: &'static str,
    recursive: bool,
    stream: bool,
    host: HostId,
    /// Where it is parked, and which of its watches that is.
    parked: Option<HostId>,
    watches: u32,
    /// The index it asks for next; zero before the first watch.
    next: u64,
    stretch: Option<Stretch>,
    finished: Vec<Stretch>,
}

impl Watcher {
    /// A watcher that has not begun.
    #[must_use]
    pub fn new(seed: u64, number: u16) -> Self {
        let mut rng = Rng::new(seed, 20_000 + u64::from(number));
        let (path, recursive) = *rng.pick(&PATHS);
        let stream = rng.chance(300_000);
        let host = rng.below(3) as HostId;
        Self { rng, path, recursive, stream, host, parked: None, watches: 0, next: 0, stretch: None, finished: vec![] }
    }

    fn begin(&mut self, from: u64) {
        self.end();
        self.next = from;
        let (path, recursive, stream) = (self.path.as_bytes().to_vec(), self.recursive, self.stream);
        self.stretch = Some(Stretch { path, recursive, stream, from, given: vec![], upto: 0 });
    }

    fn end(&mut self) {
        self.finished.extend(self.stretch.take());
    }

    /// What it was given, in unbroken stretches.
    pub fn stretches(&self) -> impl Iterator<Item = &Stretch> {
        self.finished.iter().chain(&self.stretch)
    }

    /// Whether it waits at a host for what comes after `index`.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.parked.is_some()
    }

    /// The host where it waits.
    #[must_use]
    pub fn parked_at(&self) -> Option<HostId> {
        self.parked
    }

    /// It has been parked behind everything up to here: all of it was owed.
    pub fn owed_upto(&mut self, index: u64) {
        if let Some(stretch) = &mut self.stretch {
            stretch.upto = index;
        }
    }
}

impl World {
    pub(crate) fn watch(&mut self, number: u16) {
        let hosts = self.hosts.len() as u64;
        let kept = self.profile.history_events as u64;
        let watcher = &mut self.watchers[usize::from(number)];
        if watcher.parked.is_some() {
            return;
        }
        let host = watcher.host;
        let at = usize::from(host);
        let process = self.hosts.get_mut(at).and_then(|host| host.process.as_mut());
        let Some(process) = process.filter(|process| process.published && !process.removed) else {
            watcher.host = watcher.rng.below(hosts) as HostId;
            let wait = watcher.rng.range(20 * MILLI, SECOND);
            self.queue.plan(self.now + wait, Event::Watch(number));
            return;
        };
        let store = process.node.store_mut();
        let index = store.index().get();
        if watcher.next == 0 || watcher.stream {
            watcher.begin(index + 1);
        }
        watcher.watches += 1;
        let token = u64::from(number) << 32 | u64::from(watcher.watches);
        let request = WatchRequest {
            path: watcher.path.as_bytes(),
            recursive: watcher.recursive,
            stream: watcher.stream,
            wait_index: EtcdIndex::new(watcher.next),
        };
        match store.watch(&request, token) {
            Ok(WatchStart::Parked(_)) => watcher.parked = Some(host),
            Ok(WatchStart::Now(event)) => {
                // A long poll's answer from history.
                self.given(number, &event);
                let wait = self.watchers[usize::from(number)].rng.range(MILLI, 50 * MILLI);
                self.queue.plan(self.now + wait, Event::Watch(number));
            }
            Err(error) => {
                let wanted = watcher.next;
                watcher.begin(error.index.get() + 1);
                let wait = watcher.rng.range(MILLI, 50 * MILLI);
                self.queue.plan(self.now + wait, Event::Watch(number));
                let verdict = if error.code == StoreErrorCode::IndexCleared {
                    check_cleared(wanted, error.index.get(), kept)
                } else {
                    Err(format!("a watch was refused: {error}"))
                };
                self.judge(verdict);
            }
        }
    }

    fn given(&mut self, number: u16, event: &StoreEvent) {
        let index = event.index.get();
        let verdict = self.checks.facts.show(index, crate::turn::fact(event));
        self.judge(verdict);
        let watcher = &mut self.watchers[usize::from(number)];
        watcher.next = index + 1;
        if let Some(stretch) = &mut watcher.stretch {
            stretch.given.push(index);
        }
    }

    /// An event for a parked watcher.
    pub(crate) fn fired(&mut self, token: u64, host: HostId, event: &StoreEvent, last: bool) {
        let (number, watch) = ((token >> 32) as u16, token as u32);
        let Some(watcher) = self.watchers.get_mut(usize::from(number)) else { return };
        if watcher.watches != watch || watcher.parked != Some(host) {
            return;
        }
        if last {
            watcher.parked = None;
            let wait = watcher.rng.wait(30 * MILLI);
            self.queue.plan(self.now + wait, Event::Watch(number));
        }
        self.given(number, event);
    }

    /// A watcher's events are lost: it begins again from what it knows and is told 401, or, as a stream, from now.
    pub(crate) fn watch_ended(&mut self, token: u64) {
        let (number, watch) = ((token >> 32) as u16, token as u32);
        if let Some(watcher) = self.watchers.get_mut(usize::from(number)).filter(|watcher| watcher.watches == watch) {
            watcher.parked = None;
            self.queue.plan(self.now + MILLI, Event::Watch(number));
        }
    }

    pub(crate) fn break_watches(&mut self, host: HostId) {
        for number in 0..self.watchers.len() {
            if self.watchers[number].parked == Some(host) {
                self.watchers[number].parked = None;
                self.queue.plan(self.now + MILLI, Event::Watch(number as u16));
            }
        }
    }
}
