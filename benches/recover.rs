//! What a start costs: walking one full 64 MiB segment of 128-byte entries (16 per frame), looking for vouchers in an
//! empty one, and loading a snapshot of a million items of 100 bytes. Target for the last: 100 ms, warm.
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use ringd_storage::format::{Identity, SnapshotMarker};
use ringd_storage::fs::FsMedium;
use ringd_storage::ids::{ClusterId, EtcdIndex, MemberId, RaftIndex, Term, UnixNanos};
use ringd_storage::record::{EntryKind, EntryRef};
use ringd_storage::recover::inspect;
use ringd_storage::snapshot::{SnapshotError, SnapshotMeta, SnapshotReader, SnapshotWriter, push_item};
use ringd_storage::wal::{AppendError, Wal, WalOptions};

const IDENTITY: Identity = Identity { cluster: ClusterId::new(1), member: MemberId::new(2) };

fn fill(wal: &mut Wal<FsMedium>) {
    let data = [7u8; 128];
    let (term, kind) = (Term::new(1), EntryKind::Normal);
    loop {
        let first = wal.last_raft_index();
        let mut frame = wal.begin();
        for step in 1..=16 {
            let index = RaftIndex::new(first.get() + step);
            frame.push_entry(&EntryRef { term, index, kind, data: &data, context: &[] });
        }
        match frame.finish() {
            Ok(_) => {}
            Err(AppendError::NoSpace { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

fn recover(c: &mut Criterion) {
    let root = tempfile::tempdir().unwrap();
    let mut group = c.benchmark_group("recover");
    group.sample_size(10).measurement_time(Duration::from_secs(3));
    let open = |name: &str| {
        let path = root.path().join(name);
        std::fs::create_dir(&path).unwrap();
        FsMedium::open(&path).unwrap()
    };
    let (full, empty, snap) = (open("full"), open("empty"), open("snap"));
    let mut wal = Wal::create(full.clone(), IDENTITY, WalOptions::default()).unwrap();
    fill(&mut wal);
    let last = wal.last_raft_index();
    group.bench_function("full segment", |b| {
        b.iter(|| assert_eq!(inspect(&full, &snap).unwrap().last, last));
    });
    drop(Wal::create(empty.clone(), IDENTITY, WalOptions::default()).unwrap());
    group.bench_function("empty segment", |b| b.iter(|| black_box(inspect(&empty, &snap).unwrap())));

    let meta = SnapshotMeta {
        identity: IDENTITY,
        marker: SnapshotMarker { index: RaftIndex::new(1), term: Term::new(1) },
        etcd_index: EtcdIndex::new(1),
        voters: vec![IDENTITY.member],
        learners: Vec::new(),
        items: 0,
        created: UnixNanos::ZERO,
    };
    let mut chunk = Vec::new();
    for number in 0..1_000_000u32 {
        let key = format!("{:08x}", number.wrapping_mul(2_654_435_761));
        push_item(&mut chunk, &[b"\x03/k/", key.as_bytes()], |value| value.extend_from_slice(&[5; 100]));
    }
    let mut writer = SnapshotWriter::new(meta);
    writer.push_chunk(chunk);
    let start = std::time::Instant::now();
    let (name, bytes) = writer.publish(snap.clone(), &mut || {}).unwrap();
    println!("publishing 1M items, {bytes} bytes, took {:?}", start.elapsed());
    group.bench_function("snapshot of 1M items", |b| {
        b.iter(|| {
            let reader = SnapshotReader::open(&snap, &name).unwrap();
            let mut items = 0u64;
            let read = reader.for_each(|key, value| {
                items += u64::from(black_box(key.len() + value.len()) > 0);
                Ok::<_, SnapshotError>(())
            });
            read.unwrap();
            assert_eq!(items, 1_000_000);
        });
    });
    group.finish();
}

criterion_group!(benches, recover);
criterion_main!(benches);
