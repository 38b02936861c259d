//! The store as a whole: examples of etcd's oddities; `histories` checks properties over random histories.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ringd_storage::codec;
use ringd_storage::ids::{EtcdIndex, UnixNanos};
use ringd_storage::payload::{EventNode, EventRecord, ItemClass, KeyWrite, NodeRecord, StoreRecord, WriteMethod};

use super::*;

mod histories;

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
    // Another seed: nothing may depend on it.
    Store::load(&StoreOptions { hash_seed: 77, ..small_options() }, pairs).expect("a capture loads")
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
fn too_many_events_end_the_streams_that_get_them_and_nobody_gets_them_out_of_order() {
    const WATCHERS: u64 = FIRED_MAX as u64 / 128;
    let mut store = Store::new(&StoreOptions::default());
    let everything = WatchRequest { path: b"/", recursive: true, stream: true, wait_index: EtcdIndex::ZERO };
    for token in 0..WATCHERS {
        assert!(matches!(store.watch(&everything, token), Ok(WatchStart::Parked(_))));
    }
    let once = WatchRequest { path: b"/once", recursive: false, stream: false, wait_index: EtcdIndex::ZERO };
    assert!(matches!(store.watch(&once, WATCHERS), Ok(WatchStart::Parked(_))));
    let mut fired = Vec::new();
    let mut put = |store: &mut Store, path: &[u8]| {
        store.apply(&KeyWrite { path, ..PUT }, UnixNanos::ZERO, &mut fired).expect("a write");
    };
    for _ in 0..200 {
        put(&mut store, b"/k");
    }
    assert_eq!(store.watcher_count(), 1, "streams are ended");
    put(&mut store, b"/once");
    assert_eq!(store.watcher_count(), 0, "who waits for one event gets it");
    assert_eq!(fired.len() as u64, FIRED_MAX as u64 + WATCHERS + 1);
    for token in 0..WATCHERS {
        let own: Vec<_> = fired.iter().filter(|one| one.token == token).collect();
        assert!(own.windows(2).all(|pair| pair[1].event.index == pair[0].event.index.next()));
        assert_eq!(own.iter().position(|one| one.last), Some(own.len() - 1));
    }

    // What was not handed out of earlier turns counts as well.
    let mut fired = Vec::new();
    store.watch(&everything, 1).expect("a watch");
    for (owed, stays) in [(FIRED_MAX - 1, 1), (FIRED_MAX, 0)] {
        store.set_owed(owed);
        fired.clear();
        store.apply(&KeyWrite { path: b"/k", ..PUT }, UnixNanos::ZERO, &mut fired).expect("a write");
        assert_eq!((store.watcher_count(), fired.len()), (stays, 1));
    }
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

/// Lets a successor with what `later` did take over from `old`; tells whose event it was and who was ended.
fn succeed(old: &mut Store, later: &[KeyWrite<'_>]) -> (Vec<(u64, u64)>, Vec<u64>) {
    let mut items = Vec::new();
    old.capture_begin();
    while old.capture_slice(&mut items, usize::MAX) {}
    let mut sorted = BTreeMap::new();
    let mut rest = &items[..];
    while !rest.is_empty() {
        let word = |at: usize| u32::from_le_bytes(rest[at..at + 4].try_into().unwrap()) as usize;
        let (key, value) = (word(0), word(4));
        sorted.insert(rest[8..8 + key].to_vec(), rest[8 + key..8 + key + value].to_vec());
        rest = &rest[8 + key + value..];
    }
    let pairs = sorted.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
    let mut new = Store::load(&small_options(), pairs).unwrap();
    for write in later {
        apply(&mut new, write.clone()).unwrap();
    }
    let (mut fired, mut ended) = (Vec::new(), Vec::new());
    new.succeed(old, &mut fired, &mut ended);
    while old.drop_slice() {}
    let fired = fired.iter().map(|fired| (fired.token, fired.event.index.get())).collect();
    (fired, ended.iter().map(|(token, _)| *token).collect())
}

fn watched(paths: &[(&'static [u8], bool, bool)]) -> Store {
    let mut store = Store::new(&small_options());
    for path in [&b"/d/a"[..], b"/d/b", b"/e"] {
        apply(&mut store, KeyWrite { path, ..PUT }).unwrap();
    }
    for (token, &(path, recursive, stream)) in paths.iter().enumerate() {
        let request = WatchRequest { path, recursive, stream, wait_index: EtcdIndex::ZERO };
        assert!(matches!(store.watch(&request, token as u64), Ok(WatchStart::Parked(_))));
    }
    store
}

#[test]
fn watchers_get_what_they_missed_when_a_snapshot_replaces_the_store() {
    let mut store = watched(&[(b"/d", true, true), (b"/d/a", false, false), (b"/e", false, true)]);
    let later =
        [KeyWrite { path: b"/d/a", ..PUT }, KeyWrite { path: b"/d/b", ..PUT }, KeyWrite { path: b"/d/a", ..DELETE }];
    let (fired, ended) = succeed(&mut store, &later);
    let stream: Vec<u64> = fired.iter().filter(|(token, _)| *token == 0).map(|(_, index)| *index).collect();
    let once: Vec<u64> = fired.iter().filter(|(token, _)| *token == 1).map(|(_, index)| *index).collect();
    assert_eq!((stream, once), (vec![4, 5, 6], vec![4]));
    assert!(ended.is_empty() && fired.iter().all(|(token, _)| *token != 2));
}

#[test]
fn watchers_whose_events_nobody_can_tell_are_ended() {
    let mut store = watched(&[(b"/d", true, true), (b"/d/a", false, true), (b"/e", false, true)]);
    let gone = [KeyWrite { path: b"/d", recursive: true, dir: true, ..DELETE }];
    let (fired, ended) = succeed(&mut store, &gone);
    assert_eq!(ended, [1], "what was below a removed directory is not known");
    assert!(fired.iter().any(|(token, _)| *token == 0));
    let mut store = watched(&[(b"/d", true, true), (b"/e", false, false)]);
    let many = vec![KeyWrite { path: b"/x", ..PUT }; 20];
    let (fired, ended) = succeed(&mut store, &many);
    assert_eq!((fired.len(), ended), (0, vec![0, 1]), "history begins after the gap");
}
