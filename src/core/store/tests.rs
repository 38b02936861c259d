//! The store as a whole: examples of etcd's oddities, and properties over random histories.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use proptest::prelude::*;
use ringd_storage::codec;
use ringd_storage::ids::{EtcdIndex, UnixNanos};
use ringd_storage::payload::{EventNode, EventRecord, ItemClass, KeyWrite, NodeRecord, StoreRecord, WriteMethod};

use super::*;

const PUT: KeyWrite<'static> = KeyWrite {
    method: WriteMethod::Put,
    path: b"/",
    value: b"",
    dir: false,
    recursive: false,
    refresh: false,
    prev_exist: None,
    prev_value: None,
    prev_index: EtcdIndex::ZERO,
    expires_at: None,
};
const DELETE: KeyWrite<'static> = KeyWrite { method: WriteMethod::Delete, ..PUT };

type Items = BTreeMap<Vec<u8>, Vec<u8>>;

fn small_options() -> StoreOptions {
    StoreOptions { history_events_max: 12, history_bytes_max: 1500, hash_seed: 3 }
}

fn apply(store: &mut Store, write: KeyWrite<'_>) -> Result<Rc<Event>, String> {
    let result = store.apply(&write, UnixNanos::ZERO, &mut Vec::new());
    result.map_err(|error| format!("{} {} @{}", error.code as u16, String::from_utf8_lossy(&error.cause), error.index))
}

/// What a snapshot must hold, read from the store without the capture's code.
fn plain_items(store: &Store) -> Items {
    let mut items = Items::new();
    let mut add = |class: ItemClass, rest: &[u8], encode: &dyn Fn(&mut Vec<u8>)| {
        let (mut key, mut value) = (vec![class as u8], Vec::new());
        key.extend_from_slice(rest);
        encode(&mut value);
        assert!(items.insert(key, value).is_none());
    };
    let record = StoreRecord {
        index: store.index,
        cluster_version: &store.cluster_version,
        stats: store.stats.replicated(),
        expiry_seq: store.expiry.next_seq(),
    };
    add(ItemClass::Store, b"", &|out| codec::encode_into(&record, out));
    for id in store.tree.check().into_iter().skip(1) {
        let parts = store.tree.image(id).parts();
        let record = NodeRecord {
            created: parts.created,
            modified: parts.modified,
            expires_at: parts.deadline.map(|deadline| deadline.at),
            expiry_seq: parts.deadline.map_or(0, |deadline| deadline.seq),
            value: parts.value,
        };
        add(ItemClass::Node, parts.path, &|out| codec::encode_into(&record, out));
    }
    for event in store.history.iter() {
        let show = |view: NodeView<'_>| EventNode {
            path: Vec::leak(view.key.to_vec()),
            dir: view.dir,
            value: view.value.map(|value| &*Vec::leak(value.to_vec())),
            created: view.created,
            modified: view.modified,
            expires_at: view.expires_at,
        };
        let record = EventRecord {
            index: event.index,
            action: event.action as u8,
            silent: event.silent,
            node: show(event.node()),
            prev: event.prev().map(show),
            at: event.at,
        };
        add(ItemClass::Event, &event.index.get().to_be_bytes(), &|out| codec::encode_into(&record, out));
    }
    items
}

fn unframe(mut bytes: &[u8]) -> Items {
    let mut items = Items::new();
    while let Some((head, rest)) = bytes.split_at_checked(8) {
        let length = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap()) as usize;
        let (key, rest) = rest.split_at(length(0));
        let (value, rest) = rest.split_at(length(4));
        assert!(items.insert(key.to_vec(), value.to_vec()).is_none(), "an item is written once");
        bytes = rest;
    }
    assert!(bytes.is_empty());
    items
}

fn load(items: &Items) -> Store {
    let pairs = items.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
    Store::load(&small_options(), pairs).expect("a capture loads")
}

fn check(store: &Store) {
    let ids = store.tree.check();
    store.history.check();
    assert_eq!(store.history.newest().unwrap_or_default(), store.index);
    let with_deadline: BTreeSet<_> =
        ids.iter().filter_map(|&id| store.tree.image(id).deadline().map(|deadline| (deadline, id))).collect();
    assert_eq!(with_deadline, store.expiry.iter().collect());
    assert_eq!(store.nodes(), ids.len() - 1);
}

#[test]
fn a_directory_update_shows_a_new_index_and_stores_the_old() {
    let mut store = Store::new(&StoreOptions::default());
    apply(&mut store, KeyWrite { path: b"/d", dir: true, ..PUT }).unwrap();
    let expires_at = Some(UnixNanos::new(5));
    let update = KeyWrite { path: b"/d", dir: true, prev_exist: Some(true), expires_at, ..PUT };
    let event = apply(&mut store, update.clone()).unwrap();
    assert_eq!((event.node().modified.get(), event.node().created.get()), (2, 1));
    let stored = store.get(b"/d").unwrap();
    assert_eq!((stored.modified().get(), stored.expires_at()), (1, expires_at));
    assert_eq!(apply(&mut store, KeyWrite { value: b"v", ..update }).err().unwrap(), "102 /d @2");
}

#[test]
fn a_failed_comparison_names_what_differs() {
    let mut store = Store::new(&StoreOptions::default());
    apply(&mut store, KeyWrite { path: b"/k", value: b"v1", ..PUT }).unwrap();
    let cause = |store: &mut Store, value: Option<&'static [u8]>, index| {
        let write = KeyWrite { path: b"/k", prev_value: value, prev_index: EtcdIndex::new(index), ..PUT };
        apply(store, write).err().unwrap()
    };
    assert_eq!(cause(&mut store, Some(b"bad"), 0), "101 [bad != v1] @1");
    assert_eq!(cause(&mut store, Some(b"bad"), 1), "101 [bad != v1] @1");
    assert_eq!(cause(&mut store, None, 7), "101 [7 != 1] @1");
    assert_eq!(cause(&mut store, Some(b"v1"), 7), "101 [7 != 1] @1");
    assert_eq!(cause(&mut store, Some(b"bad"), 7), "101 [bad != v1] [7 != 1] @1");
}

#[test]
fn the_cause_is_the_first_missing_path_or_the_file_in_the_way() {
    let mut store = Store::new(&StoreOptions::default());
    apply(&mut store, KeyWrite { path: b"/a/b/f", ..PUT }).unwrap();
    let cause = |path: &[u8]| {
        let error = store.get(path).err().unwrap();
        format!("{} {}", error.code as u16, String::from_utf8(error.cause).unwrap())
    };
    assert_eq!(cause(b"/x/y/z"), "100 /x");
    assert_eq!(cause(b"/a/x/y/z/1/2/3/4/5"), "100 /a/x");
    assert_eq!(cause(b"/a/b/x"), "100 /a/b/x");
    assert_eq!(cause(b"/a/b/f/1/2/3/4/5/6"), "104 /a/b/f");
    assert_eq!(cause(b""), "100 ");
    assert_eq!(cause(b"x"), "100 x");
}

#[test]
fn the_root_cannot_be_changed() {
    let mut store = Store::new(&StoreOptions::default());
    assert_eq!(apply(&mut store, PUT).err().unwrap(), "107 / @0");
    assert_eq!(apply(&mut store, KeyWrite { recursive: true, ..DELETE }).err().unwrap(), "107 / @0");
    assert_eq!(apply(&mut store, KeyWrite { prev_value: Some(b"x"), ..DELETE }).err().unwrap(), "102  @0");
    let event = apply(&mut store, KeyWrite { method: WriteMethod::Post, ..PUT }).unwrap();
    assert_eq!(event.key(), b"/00000000000000000001");
}

#[test]
fn paths_no_client_can_send_are_refused() {
    let mut store = Store::new(&StoreOptions::default());
    let long = [b"/".as_slice(), &[b'a'; PATH_BYTES_MAX]].concat();
    for path in [b"".as_slice(), b"a", b"/a/", b"//", b"/a//b", &long] {
        assert_eq!(apply(&mut store, KeyWrite { path, ..PUT }).err().unwrap(), "209 path @0");
    }
    apply(&mut store, KeyWrite { path: &long[..PATH_BYTES_MAX], ..PUT }).unwrap();
    let post = KeyWrite { path: &long[..PATH_BYTES_MAX], method: WriteMethod::Post, ..PUT };
    assert_eq!(apply(&mut store, post).err().unwrap(), "209 path @1");
}

#[test]
fn deep_trees_cost_no_stack() {
    let mut store = Store::new(&StoreOptions::default());
    let deep = b"/d".repeat(PATH_BYTES_MAX / 2);
    apply(&mut store, KeyWrite { path: &deep, ..PUT }).unwrap();
    assert_eq!(store.nodes(), PATH_BYTES_MAX / 2);
    assert_eq!(store.get(&deep).unwrap().key(), deep);
    apply(&mut store, KeyWrite { path: b"/d", recursive: true, ..DELETE }).unwrap();
    assert_eq!(store.nodes(), 0);
    check(&store);
}

#[test]
fn nodes_expire_by_deadline_and_then_by_the_order_set() {
    let mut store = Store::new(&StoreOptions::default());
    for (path, at) in [("/c", 7), ("/a", 5), ("/d/x", 9), ("/b", 5), ("/late", 50), ("/again", 5)] {
        let expires_at = Some(UnixNanos::new(at));
        apply(&mut store, KeyWrite { path: path.as_bytes(), expires_at, ..PUT }).unwrap();
    }
    let dir = KeyWrite { path: b"/d", prev_exist: Some(true), expires_at: Some(UnixNanos::new(6)), ..PUT };
    apply(&mut store, dir).unwrap();
    apply(&mut store, KeyWrite { path: b"/again", ..PUT }).unwrap();
    let before = store.index().get();
    let mut fired = Vec::new();
    let root = WatchRequest { path: b"/", recursive: true, stream: true, wait_index: EtcdIndex::ZERO };
    assert!(matches!(store.watch(&root, 1), Ok(WatchStart::Parked(_))));
    assert_eq!(store.next_deadline(), Some(UnixNanos::new(5)));
    assert_eq!(store.expire(UnixNanos::new(40), 3, &mut fired), 3);
    assert_eq!(store.expire(UnixNanos::new(40), 3, &mut fired), 1);
    let order: Vec<_> = fired.iter().map(|fired| String::from_utf8_lossy(fired.event.key()).into_owned()).collect();
    assert_eq!(order, ["/a", "/b", "/d", "/c"]);
    assert_eq!((store.index().get(), store.nodes()), (before + 4, 2));
    assert_eq!(store.next_deadline(), Some(UnixNanos::new(50)));
}

#[test]
fn history_is_bounded_in_events_and_bytes_and_says_what_is_cleared() {
    let mut store = Store::new(&StoreOptions { history_events_max: 3, history_bytes_max: 10_000, hash_seed: 0 });
    let watch = |store: &mut Store, from| {
        let request = WatchRequest { path: b"/k", recursive: false, stream: true, wait_index: EtcdIndex::new(from) };
        match store.watch(&request, 0) {
            Ok(WatchStart::Now(event)) => event.index.to_string(),
            Ok(WatchStart::Parked(_)) => "parked".to_owned(),
            Err(error) => String::from_utf8(error.cause).unwrap(),
        }
    };
    assert_eq!(watch(&mut store, 1), "parked");
    for _ in 0..5 {
        apply(&mut store, KeyWrite { path: b"/k", ..PUT }).unwrap();
    }
    assert_eq!(watch(&mut store, 2), "the requested history has been cleared [3/2]");
    assert_eq!(watch(&mut store, 3), "3");
    apply(&mut store, KeyWrite { path: b"/big", value: &[0; 20_000], ..PUT }).unwrap();
    assert_eq!(watch(&mut store, 5), "the requested history has been cleared [6/5]");
    assert_eq!(watch(&mut store, 6), "parked");
}

#[test]
fn damaged_snapshots_are_refused() {
    let mut store = Store::new(&small_options());
    let expires_at = Some(UnixNanos::new(9));
    for path in [b"/a/b".as_slice(), b"/a/c", b"/d"] {
        apply(&mut store, KeyWrite { path, value: b"v", expires_at, ..PUT }).unwrap();
    }
    apply(&mut store, KeyWrite { path: b"/d", ..DELETE }).unwrap();
    let items = plain_items(&store);
    let try_load = |items: &[(&[u8], &[u8])]| Store::load(&small_options(), items.iter().copied()).is_ok();
    let whole: Vec<_> = items.iter().map(|(key, value)| (key.as_slice(), value.as_slice())).collect();
    assert!(try_load(&whole));
    for at in 0..whole.len() {
        let mut some = whole.clone();
        let (key, value) = some.remove(at);
        // Leaves and the oldest event are the only items nothing else depends on.
        let free = [&b"\x03/a/b"[..], b"\x03/a/c", b"\x04\0\0\0\0\0\0\0\x01"].contains(&key);
        assert_eq!(try_load(&some), free, "without {key:?}");
        some.insert(at, (key, &value[..value.len() - 1]));
        assert!(!try_load(&some), "{key:?} cut short");
        some.insert(at, whole[at]);
        assert!(!try_load(&some), "{key:?} twice");
    }
}

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
