//! What one operation on the store and one request cost, at a few sizes of the key space.
//!
//! `cargo bench --bench apply` runs the timings; with `RINGD_BENCH_MEMORY=1` it also fills a store with a million keys
//! of 128 bytes and prints what the process holds per key.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use ringd::api::keys::{Extent, KeysRequest, parse, render_event, render_get};
use ringd::api::method::Method;
use ringd::api::route::{Route, route};
use ringd::core::store::{Store, StoreOptions, WatchRequest};
use ringd_storage::ids::{EtcdIndex, UnixNanos};
use ringd_storage::payload::{KeyWrite, WriteMethod};

const VALUE_BYTES: usize = 128;
const SIZES: [usize; 3] = [1_000, 100_000, 1_000_000];
const EXTENT: Extent = Extent { recursive: false, sorted: false, bytes_max: usize::MAX };
const NOW: UnixNanos = UnixNanos::new(1_700_000_000_000_000_000);

fn put<'a>(path: &'a [u8], value: &'a [u8]) -> KeyWrite<'a> {
    KeyWrite {
        method: WriteMethod::Put,
        path,
        value,
        dir: false,
        recursive: false,
        refresh: false,
        prev_exist: None,
        prev_value: None,
        prev_index: EtcdIndex::ZERO,
        expires_at: None,
    }
}

fn path(n: usize) -> Vec<u8> {
    format!("/bench/{:03}/{n:08}", n % 997).into_bytes()
}

/// A fixed random order, so that no cache helps more than it would in service.
struct Shuffle(u64);

impl Shuffle {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}

fn filled(keys: usize) -> Store {
    let mut store = Store::new(&StoreOptions { hash_seed: 1, ..StoreOptions::default() });
    let mut fired = Vec::new();
    for n in 0..keys {
        store.apply(&put(&path(n), &[b'v'; VALUE_BYTES]), NOW, &mut fired).expect("a set of a new key");
    }
    store
}

fn operations(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    for keys in SIZES {
        let mut store = filled(keys);
        let paths: Vec<_> = (0..keys.min(100_000)).map(|n| path(n * (keys / keys.min(100_000)))).collect();
        let mut shuffle = Shuffle(1);
        let mut fired = Vec::new();
        group.bench_function(format!("get/{keys}"), |bencher| {
            bencher.iter(|| black_box(store.get(&paths[shuffle.below(paths.len())]).expect("a key").value()));
        });
        group.bench_function(format!("put/{keys}"), |bencher| {
            bencher.iter(|| {
                let path = &paths[shuffle.below(paths.len())];
                black_box(store.apply(&put(path, &[b'w'; VALUE_BYTES]), NOW, &mut fired)).expect("a set");
            });
        });
        let mut fresh = keys;
        group.bench_function(format!("put_new_and_delete/{keys}"), |bencher| {
            bencher.iter(|| {
                let path = path(fresh);
                fresh += 1;
                store.apply(&put(&path, &[b'w'; VALUE_BYTES]), NOW, &mut fired).expect("a set");
                let delete = KeyWrite { method: WriteMethod::Delete, ..put(&path, b"") };
                black_box(store.apply(&delete, NOW, &mut fired)).expect("a delete");
            });
        });
        for n in 0..1000 {
            let elsewhere = format!("/elsewhere/{n}");
            let wait_index = EtcdIndex::ZERO;
            let request = WatchRequest { path: elsewhere.as_bytes(), recursive: true, stream: true, wait_index };
            store.watch(&request, n).expect("a watch");
        }
        group.bench_function(format!("put_with_watchers_elsewhere/{keys}"), |bencher| {
            bencher.iter(|| {
                let path = &paths[shuffle.below(paths.len())];
                black_box(store.apply(&put(path, &[b'w'; VALUE_BYTES]), NOW, &mut fired)).expect("a set");
            });
        });
        let mut out = Vec::with_capacity(1 << 20);
        group.bench_function(format!("capture_slice_64KiB/{keys}"), |bencher| {
            bencher.iter(|| {
                if !store.is_capturing() {
                    store.capture_begin();
                }
                out.clear();
                black_box(store.capture_slice(&mut out, 64 << 10));
            });
        });
        store.capture_end();
    }
    group.finish();
}

fn requests(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("request");
    let store = filled(1000);
    let (mut path_buffer, mut form_buffer, mut out) = (Vec::new(), Vec::new(), Vec::new());
    group.bench_function("parse_get", |bencher| {
        bencher.iter(|| {
            let routed = route(black_box(b"/v2/keys/bench/007/00000007"), &mut path_buffer);
            let Route::Keys(path) = routed.route else { unreachable!("a key") };
            let request = parse(Method::Get, path, routed.query, None, b"", NOW, &mut form_buffer);
            black_box(matches!(request, Ok(KeysRequest::Get { .. })))
        });
    });
    let mut body = b"value=".to_vec();
    body.extend_from_slice(&[b'v'; VALUE_BYTES]);
    let form = Some(&b"application/x-www-form-urlencoded"[..]);
    group.bench_function("parse_put", |bencher| {
        bencher.iter(|| {
            let routed = route(black_box(b"/v2/keys/bench/007/00000007"), &mut path_buffer);
            let Route::Keys(path) = routed.route else { unreachable!("a key") };
            let request = parse(Method::Put, path, routed.query, form, &body, NOW, &mut form_buffer);
            black_box(matches!(request, Ok(KeysRequest::Write { .. })))
        });
    });
    let node = store.get(&path(7)).expect("a key");
    group.throughput(Throughput::Bytes(VALUE_BYTES as u64));
    group.bench_function("render_get", |bencher| {
        bencher.iter(|| {
            out.clear();
            assert!(render_get(&mut out, black_box(&node), EXTENT, NOW));
            black_box(out.len())
        });
    });
    let mut store = filled(10);
    let event = store.apply(&put(&path(7), &[b'w'; VALUE_BYTES]), NOW, &mut Vec::new()).expect("a set");
    group.bench_function("render_event", |bencher| {
        bencher.iter(|| {
            out.clear();
            render_event(&mut out, black_box(&event), false);
            black_box(out.len())
        });
    });
    group.finish();
}

fn whole_stores(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    group.sample_size(10);
    group.bench_function("fill/100000", |bencher| {
        bencher.iter_batched(|| (), |()| filled(100_000), BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group!(benches, operations, requests, whole_stores);

/// Resident bytes of this process, from `/proc/self/statm`.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or(0) * 4096
}

fn main() {
    if std::env::var_os("RINGD_BENCH_MEMORY").is_some() {
        let before = resident_bytes();
        let store = filled(1_000_000);
        let after = resident_bytes();
        println!("1,000,000 keys of {VALUE_BYTES} bytes: {:.1} bytes each", (after - before) as f64 / 1e6);
        drop(store);
    }
    benches();
    Criterion::default().configure_from_args().final_summary();
}
