//! Snapshots: what goes in comes out, a crash between any two steps is harmless, and recovery falls back.

mod common;

use std::collections::BTreeMap;

use common::{IDENTITY, append, entry, options, sync};
use proptest::prelude::*;
use ringd_storage::format::SnapshotMarker;
use ringd_storage::ids::{EtcdIndex, RaftIndex, Term, UnixNanos};
use ringd_storage::medium::Medium;
use ringd_storage::memory::{MemoryMedium, Surviving};
use ringd_storage::recover::{Recovered, recover};
use ringd_storage::snapshot::{
    self, BLOCK_BYTES, PUBLISH_STEPS, PublishStep, SnapshotError, SnapshotFault, SnapshotMeta, SnapshotReader,
    SnapshotWriter, push_item, retain,
};
use ringd_storage::verdict::Reason;
use ringd_storage::wal::Wal;
use ringd_storage::walk::WalkError;

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        identity: IDENTITY,
        marker: SnapshotMarker { index: RaftIndex::new(index), term: Term::new(1) },
        etcd_index: EtcdIndex::new(index),
        voters: vec![IDENTITY.member],
        learners: Vec::new(),
        items: 0,
        created: UnixNanos::new(5),
    }
}

fn writer(index: u64, items: &BTreeMap<Vec<u8>, Vec<u8>>, chunks: usize) -> SnapshotWriter {
    let mut writer = SnapshotWriter::new(meta(index));
    let mut parts = vec![Vec::new(); chunks];
    // Backwards and dealt out: nothing about the order helps the writer.
    for (at, (key, value)) in items.iter().rev().enumerate() {
        push_item(&mut parts[at % chunks], &[&key[..key.len() / 2], &key[key.len() / 2..]], |out| {
            out.extend_from_slice(value);
        });
    }
    parts.into_iter().for_each(|part| writer.push_chunk(part));
    writer
}

type Item = (Vec<u8>, Vec<u8>);

fn read(disk: &MemoryMedium, name: &str) -> Result<Vec<Item>, SnapshotError> {
    let mut items = Vec::new();
    SnapshotReader::open(disk, name)?.for_each(|key, value| {
        items.push((key.to_vec(), value.to_vec()));
        Ok::<_, SnapshotError>(())
    })?;
    Ok(items)
}

fn sample() -> BTreeMap<Vec<u8>, Vec<u8>> {
    (0..3000u32).map(|n| (format!("/key/{n:05}").into_bytes(), vec![n as u8; (n % 100) as usize])).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn what_goes_in_comes_out_in_order(
        items in proptest::collection::btree_map(
            proptest::collection::vec(any::<u8>(), 0..40),
            (any::<u8>(), prop_oneof![0usize..300, Just(BLOCK_BYTES), Just(3 * BLOCK_BYTES)])
                .prop_map(|(byte, count)| vec![byte; count]),
            0..60,
        ),
        chunks in 1usize..4,
    ) {
        let disk = MemoryMedium::new();
        let (name, bytes) = writer(7, &items, chunks).publish(disk.clone(), &mut || {}).unwrap();
        let disk = disk.crash(&mut |_| 0);
        prop_assert_eq!(disk.contents(&name).unwrap().len() as u64, bytes);
        prop_assert_eq!(snapshot::verify(&disk, &name).unwrap().items, items.len() as u64);
        prop_assert!(read(&disk, &name).unwrap().into_iter().eq(items));
    }

    #[test]
    fn every_flipped_bit_is_noticed_with_file_and_offset(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let disk = MemoryMedium::new();
        let (name, bytes) = writer(7, &sample(), 1).publish(disk.clone(), &mut || {}).unwrap();
        let at = at.index(bytes as usize) as u64;
        prop_assert!(disk.flip_bit(&name, at, bit));
        let error = snapshot::verify(&disk, &name).unwrap_err();
        prop_assert!(error.offset <= at || matches!(error.fault, SnapshotFault::Layout("trailer")), "{}", error);
        prop_assert!(error.to_string().contains(&name));
    }
}

#[test]
fn a_large_item_has_a_block_of_its_own() {
    let items: BTreeMap<_, _> =
        [(b"a".to_vec(), vec![1; 10]), (b"b".to_vec(), vec![2; 10 << 20]), (b"c".to_vec(), vec![3; 10])].into();
    let disk = MemoryMedium::new();
    let (name, _) = writer(7, &items, 1).publish(disk.clone(), &mut || {}).unwrap();
    assert_eq!(SnapshotReader::open(&disk, &name).unwrap().blocks(), 3);
    assert!(read(&disk, &name).unwrap().into_iter().eq(items));
}

#[test]
#[should_panic(expected = "two snapshot items with one key")]
fn two_items_with_one_key_are_our_own_mistake() {
    let mut chunk = Vec::new();
    push_item(&mut chunk, &[b"k"], |_| {});
    push_item(&mut chunk, &[b"", b"k"], |value| value.push(1));
    let mut writer = SnapshotWriter::new(meta(1));
    writer.push_chunk(chunk);
    drop(writer.into_publish(MemoryMedium::new()));
}

#[test]
fn a_crash_between_any_two_steps_leaves_all_or_nothing() {
    for steps in 0..=PUBLISH_STEPS.len() {
        for style in 0..3 {
            let disk = MemoryMedium::new();
            let mut publish = writer(7, &sample(), 2).into_publish(disk.clone());
            for expected in &PUBLISH_STEPS[..steps] {
                assert_eq!(publish.step(&mut || {}).unwrap(), Some(*expected));
            }
            let mut coin = 0u32;
            let after = disk.crash(&mut |what| match (style, what) {
                (0, _) => 0,
                (1, _) => u32::MAX,
                (_, Surviving::Name(_)) => 1,
                _ => {
                    coin += 1;
                    coin % 2
                }
            });
            let listed = snapshot::list(&after).unwrap();
            assert!(listed.len() <= 1);
            for (_, name) in &listed {
                assert!(read(&after, name).unwrap().into_iter().eq(sample()), "a name means a whole file");
            }
            if steps == PUBLISH_STEPS.len() {
                assert_eq!(listed.len(), 1, "published means durable");
            }
            snapshot::remove_leftovers(&after).unwrap();
            assert_eq!(after.list().unwrap().len(), listed.len());
        }
    }
    assert_eq!(PUBLISH_STEPS[4], PublishStep::SyncDirectory);
}

#[test]
fn a_failed_publication_leaves_no_file() {
    let disk = MemoryMedium::new();
    disk.fail_next_sync(1);
    let error = writer(7, &sample(), 1).publish(disk.clone(), &mut || {}).unwrap_err();
    assert!(matches!(error.fault, SnapshotFault::Io(_)), "{error}");
    assert_eq!(disk.list().unwrap(), [""; 0]);
    disk.set_capacity(Some(1000));
    assert!(writer(7, &sample(), 1).publish(disk.clone(), &mut || {}).is_err());
    assert_eq!(disk.list().unwrap(), [""; 0]);
}

#[test]
fn retention_keeps_the_newest_and_names_the_oldest_kept() {
    let disk = MemoryMedium::new();
    for index in [3, 20, 100, 7] {
        writer(index, &BTreeMap::new(), 1).publish(disk.clone(), &mut || {}).unwrap();
    }
    let newest = SnapshotMarker { index: RaftIndex::new(100), term: Term::new(9) };
    let oldest = retain(&disk, 2, newest).unwrap().unwrap();
    assert_eq!(oldest.index, RaftIndex::new(20));
    assert_eq!(disk.crash(&mut |_| 0).list().unwrap().len(), 2);
    assert_eq!(retain(&disk, 0, newest).unwrap().unwrap().index, RaftIndex::new(100), "one always stays");
}

/// A log of ten entries with marked snapshots at 3 and 6, and an unmarked one at 9.
fn log_with_snapshots() -> (MemoryMedium, MemoryMedium) {
    let mut wal = Wal::create(MemoryMedium::new(), IDENTITY, options(64 << 10)).unwrap();
    let snaps = MemoryMedium::new();
    for index in 1..=10 {
        append(&mut wal, &[entry(1, index, b"x")]);
        if index % 3 == 0 {
            writer(index, &sample(), 1).publish(snaps.clone(), &mut || {}).unwrap();
        }
        if index == 3 || index == 6 {
            let mut frame = wal.begin();
            frame.push_snapshot_taken(meta(index).marker);
            frame.finish().unwrap();
        }
    }
    sync(&mut wal);
    (wal.medium().crash(&mut |_| 0), snaps)
}

fn recovered(wal: &MemoryMedium, snaps: &MemoryMedium) -> Result<Recovered<MemoryMedium>, WalkError> {
    recover(wal.clone(), snaps, options(64 << 10))
}

#[test]
fn recovery_takes_the_newest_snapshot_with_a_marker() {
    let (wal, snaps) = log_with_snapshots();
    let found = recovered(&wal, &snaps).unwrap();
    assert_eq!(found.snapshot.unwrap().0.marker.index, RaftIndex::new(6));
    assert_eq!(found.entries.iter().map(|entry| entry.index.get()).collect::<Vec<_>>(), [7, 8, 9, 10]);
    assert_eq!(found.hard_state.commit, RaftIndex::new(6), "what a snapshot holds is committed");
    assert!(found.passed_over[0].contains("no marker"), "{:?}", found.passed_over);
}

#[test]
fn recovery_falls_back_past_damaged_snapshots_down_to_the_log_alone() {
    let (wal, snaps) = log_with_snapshots();
    for (index, next) in [(6, Some(3)), (3, None)] {
        assert!(snaps.flip_bit(&meta(index).file_name(), 100, 0));
        let found = recovered(&wal, &snaps).unwrap();
        assert_eq!(found.snapshot.map(|(meta, _)| meta.marker.index.get()), next);
        assert_eq!(found.entries.len() as u64, 10 - next.unwrap_or(0));
        assert!(found.passed_over.iter().any(|reason| reason.contains("checksum of the block")));
    }
}

#[test]
fn a_received_snapshot_replaces_the_log_and_cannot_be_missed() {
    let mut wal = Wal::create(MemoryMedium::new(), IDENTITY, options(64 << 10)).unwrap();
    let snaps = MemoryMedium::new();
    append(&mut wal, &[entry(1, 1, b"old"), entry(1, 2, b"old")]);
    writer(50, &sample(), 1).publish(snaps.clone(), &mut || {}).unwrap();
    let mut frame = wal.begin();
    frame.push_snapshot_received(meta(50).marker);
    frame.finish().unwrap();
    append(&mut wal, &[entry(1, 51, b"new")]);
    sync(&mut wal);
    let disk = wal.medium().crash(&mut |_| 0);
    let found = recovered(&disk, &snaps).unwrap();
    assert_eq!(found.entries, [entry(1, 51, b"new")]);
    assert_eq!(found.wal.last_raft_index(), RaftIndex::new(51));
    snaps.remove(&meta(50).file_name()).unwrap();
    let error = recovered(&disk, &snaps).err().unwrap();
    assert!(matches!(error, WalkError::Refused(refusal) if matches!(refusal.reason, Reason::Gap { .. })));
}
