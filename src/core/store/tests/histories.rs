//! Random histories, each step checked against simple rules: links and index, refusals that change nothing, who is told
//! what, captures against a plain walk, and stores loaded from captures.

use proptest::prelude::*;

use super::*;

/// One step of a random history.
#[derive(Clone, Debug)]
enum Step {
    Write {
        method: u8,
        path: Vec<u8>,
        value: u8,
        flags: u8,
        prev_exist: Option<bool>,
        prev_value: Option<u8>,
        prev_index: u8,
        ttl: Option<u8>,
    },
    Expire,
    Bump,
    Watch {
        path: Vec<u8>,
        recursive: bool,
        stream: bool,
        back: Option<u8>,
    },
    Unwatch(u8),
}

fn any_path() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![4 => Just("a"), 4 => Just("b"), 2 => Just("_h"), 1 => Just("ab")];
    proptest::collection::vec(name, 0..4).prop_map(|names| match names.len() {
        0 => b"/".to_vec(),
        _ => names.iter().flat_map(|name| [b"/", name.as_bytes()].concat()).collect(),
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    let write = (
        0..6_u8,
        any_path(),
        0..3_u8,
        any::<u8>(),
        proptest::option::weighted(0.3, any::<bool>()),
        proptest::option::weighted(0.2, 0..3_u8),
        prop_oneof![5 => Just(0), 1 => 1..5_u8],
        proptest::option::weighted(0.4, 0..6_u8),
    )
        .prop_map(|(method, path, value, flags, prev_exist, prev_value, prev_index, ttl)| Step::Write {
            method,
            path,
            value,
            flags,
            prev_exist,
            prev_value,
            prev_index,
            ttl,
        });
    let watch = (any_path(), any::<bool>(), any::<bool>(), proptest::option::of(0..16_u8))
        .prop_map(|(path, recursive, stream, back)| Step::Watch { path, recursive, stream, back });
    prop_oneof![
        12 => write,
        2 => Just(Step::Expire),
        1 => Just(Step::Bump),
        3 => watch,
        1 => any::<u8>().prop_map(Step::Unwatch),
    ]
}

/// A watcher as the model knows it.
struct Waiting {
    id: WatcherId,
    token: u64,
    path: Vec<u8>,
    recursive: bool,
    stream: bool,
    since: EtcdIndex,
}

/// Drives a store and checks every step against simple rules.
struct Driver {
    store: Store,
    now: UnixNanos,
    waiting: Vec<Waiting>,
    events: Vec<Rc<Event>>,
    tokens: u64,
}

impl Driver {
    fn new(store: Store) -> Self {
        Self { store, now: UnixNanos::ZERO, waiting: Vec::new(), events: Vec::new(), tokens: 0 }
    }

    fn step(&mut self, step: &Step) {
        self.now = self.now.plus_seconds(1);
        match step {
            Step::Write { method, path, value, flags, prev_exist, prev_value, prev_index, ttl } => {
                let values: [&[u8]; 3] = [b"", b"1", b"22"];
                let index = self.store.index().get();
                let write = KeyWrite {
                    method: match method {
                        0 => WriteMethod::Post,
                        1 => WriteMethod::Delete,
                        _ => WriteMethod::Put,
                    },
                    path,
                    value: values[usize::from(*value)],
                    dir: flags & 3 == 0,
                    recursive: flags & 4 != 0,
                    refresh: flags & 24 == 0,
                    prev_exist: *prev_exist,
                    prev_value: prev_value.map(|value| values[usize::from(value)]),
                    prev_index: EtcdIndex::new(if *prev_index == 0 {
                        0
                    } else {
                        index + 1 - u64::from(*prev_index).min(index)
                    }),
                    expires_at: ttl.map(|ttl| self.now.plus_seconds(u64::from(ttl))),
                };
                self.write(&write);
            }
            Step::Expire => self.expire(),
            Step::Bump => {
                let before = self.store.index();
                self.store.bump(self.now);
                assert_eq!(self.store.index(), before.next());
                self.events.push(Rc::clone(self.store.history.iter().last().unwrap()));
            }
            Step::Watch { path, recursive, stream, back } => self.watch(path, *recursive, *stream, *back),
            Step::Unwatch(which) => {
                if !self.waiting.is_empty() {
                    let gone = self.waiting.remove(usize::from(*which) % self.waiting.len());
                    self.store.unwatch(gone.id);
                    self.store.unwatch(gone.id);
                }
            }
        }
        assert_eq!(self.store.watcher_count(), self.waiting.len());
        check(&self.store);
    }

    fn write(&mut self, write: &KeyWrite<'_>) {
        let before = plain_items(&self.store);
        let index = self.store.index();
        let mut fired = Vec::new();
        match self.store.apply(write, self.now, &mut fired) {
            Ok(event) => {
                assert_eq!((self.store.index(), event.index), (index.next(), index.next()));
                let found = self.store.get(event.key());
                assert_eq!(found.is_err(), event.action.removes());
                self.told(&before, &event, &fired);
                self.events.push(event);
            }
            Err(error) => {
                assert_eq!((error.index, fired.len()), (index, 0));
                let mut after = plain_items(&self.store);
                // The failure itself is counted.
                after.insert(vec![ItemClass::Store as u8], before[&vec![ItemClass::Store as u8]].clone());
                assert!(before == after, "a refused write changed something");
            }
        }
    }

    fn expire(&mut self) {
        let mut last = None;
        loop {
            let before = plain_items(&self.store);
            let due = self.store.expiry.first().filter(|(deadline, _)| deadline.at <= self.now);
            let mut fired = Vec::new();
            let count = self.store.expire(self.now, 1, &mut fired);
            assert_eq!(count, u32::from(due.is_some()));
            let Some((deadline, _)) = due else {
                break;
            };
            assert!(last < Some(deadline));
            last = Some(deadline);
            let event = Rc::clone(self.store.history.iter().last().unwrap());
            assert_eq!(event.prev().unwrap().expires_at, Some(deadline.at));
            self.told(&before, &event, &fired);
            self.events.push(event);
        }
    }

    /// Compares who was told of `event` with who should have been.
    fn told(&mut self, before: &Items, event: &Event, fired: &[Fired]) {
        let after = plain_items(&self.store);
        let nodes = |items: &Items| -> BTreeSet<Vec<u8>> {
            items.keys().filter(|key| key[0] == ItemClass::Node as u8).map(|key| key[1..].to_vec()).collect()
        };
        let removed: BTreeSet<_> = nodes(before).difference(&nodes(&after)).cloned().collect();
        let key = event.key();
        for removed in &removed {
            assert!(event.action.removes() && (removed == key || is_below(removed, key)));
        }
        self.waiting.retain(|waiting| {
            let hidden = key.get(waiting.path.len().min(key.len())..).unwrap_or_default();
            let hidden = [b"/", hidden].concat().windows(2).any(|pair| pair == b"/_");
            let mut times = 0;
            if event.index >= waiting.since && !event.silent {
                times += usize::from(removed.contains(&waiting.path));
                let above = is_below(key, &waiting.path) && waiting.recursive && !hidden;
                times += usize::from(waiting.path == key || above);
            }
            let times = if waiting.stream { times } else { times.min(1) };
            let told: Vec<_> = fired.iter().filter(|fired| fired.token == waiting.token).collect();
            assert_eq!(told.len(), times, "watcher on {:?}", String::from_utf8_lossy(&waiting.path));
            assert!(told.iter().all(|fired| fired.last != waiting.stream && fired.event.index == event.index));
            waiting.stream || times == 0
        });
    }

    fn watch(&mut self, path: &[u8], recursive: bool, stream: bool, back: Option<u8>) {
        let index = self.store.index();
        let wait_index =
            back.map_or(EtcdIndex::ZERO, |back| EtcdIndex::new((index.get() + 3).saturating_sub(back.into())));
        let since = if wait_index == EtcdIndex::ZERO { index.next() } else { wait_index };
        let kept = self.store.history.iter().count();
        let kept = &self.events[self.events.len() - kept..];
        let expected = kept.iter().find(|event| {
            let key = event.key();
            let dir_gone = matches!(event.action, Action::Delete | Action::Expire) && event.node().dir;
            let matches = key == path || (recursive && is_below(key, path)) || (dir_gone && path.starts_with(key));
            event.index >= since && !event.silent && matches
        });
        self.tokens += 1;
        let token = self.tokens;
        match self.store.watch(&WatchRequest { path, recursive, stream, wait_index }, token) {
            Ok(WatchStart::Now(event)) => assert_eq!(Some(event.index), expected.map(|event| event.index)),
            Ok(WatchStart::Parked(id)) => {
                assert!(expected.is_none());
                self.waiting.push(Waiting { id, token, path: path.to_vec(), recursive, stream, since });
            }
            Err(error) => {
                assert_eq!(error.code, StoreErrorCode::IndexCleared);
                assert!(since < kept[0].index);
            }
        }
    }
}

fn is_below(key: &[u8], dir: &[u8]) -> bool {
    let dir = if dir == b"/" { b"" } else { dir };
    key.len() > dir.len() + 1 && key.starts_with(dir) && key[dir.len()] == b'/'
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn random_histories_keep_every_promise(steps in proptest::collection::vec(any_step(), 1..80)) {
        let mut driver = Driver::new(Store::new(&small_options()));
        for step in &steps {
            driver.step(step);
        }
    }

    #[test]
    fn a_capture_is_the_store_as_it_was_when_it_began(
        first in proptest::collection::vec(any_step(), 0..60),
        then in proptest::collection::vec(any_step(), 0..60),
        budget in 1..400_usize,
    ) {
        let mut driver = Driver::new(Store::new(&small_options()));
        driver.store.set_cluster_version("3.4.0");
        for step in &first {
            driver.step(step);
        }
        let expected = plain_items(&driver.store);
        driver.store.capture_begin();
        let mut written = Vec::new();
        let mut more = true;
        for step in &then {
            driver.step(step);
            more = more && driver.store.capture_slice(&mut written, budget);
        }
        while more {
            more = driver.store.capture_slice(&mut written, budget);
        }
        prop_assert!(!driver.store.is_capturing());
        prop_assert!(unframe(&written) == expected);
    }

    #[test]
    fn a_loaded_store_goes_on_like_the_one_captured(
        first in proptest::collection::vec(any_step(), 0..60),
        then in proptest::collection::vec(any_step(), 0..40),
    ) {
        let mut driver = Driver::new(Store::new(&small_options()));
        for step in &first {
            driver.step(step);
        }
        let items = plain_items(&driver.store);
        let mut twin = Driver::new(load(&items));
        prop_assert!(plain_items(&twin.store) == items);
        twin.now = driver.now;
        twin.events = twin.store.history.iter().map(Rc::clone).collect();
        for step in then.iter().filter(|step| !matches!(step, Step::Watch { .. } | Step::Unwatch(_))) {
            driver.step(step);
            twin.step(step);
            prop_assert!(plain_items(&driver.store) == plain_items(&twin.store));
        }
    }

    #[test]
    fn any_items_are_loaded_or_refused(
        items in proptest::collection::vec((1..6_u8, proptest::collection::vec(any::<u8>(), 0..12), proptest::collection::vec(any::<u8>(), 0..24)), 0..8)
    ) {
        let store = StoreRecord { index: EtcdIndex::new(9), cluster_version: "", stats: Vec::new(), expiry_seq: 4 };
        let mut value = Vec::new();
        codec::encode_into(&store, &mut value);
        let mut loader = Loader::new(&small_options());
        prop_assert!(loader.item(&[ItemClass::Store as u8], &value).unwrap());
        for (class, rest, value) in items {
            if loader.item(&[&[class], rest.as_slice()].concat(), &value).is_err() {
                return Ok(());
            }
        }
        if let Ok(store) = loader.finish() {
            check(&store);
        }
    }
}
