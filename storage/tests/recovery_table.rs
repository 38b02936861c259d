//! The recovery table on real bytes, one test per row, and the refusals beside it.

mod common;

use common::{IDENTITY, SEGMENT_BYTES, append, entry, options, recover_memory, sync};
use ringd_storage::format::{Identity, PAGE_BYTES, SnapshotMarker};
use ringd_storage::ids::{ClusterId, EtcdIndex, MemberId, RaftIndex, Term, UnixNanos, WalIndex};
use ringd_storage::medium::Medium;
use ringd_storage::memory::{MemoryMedium, Surviving};
use ringd_storage::prepare::prepare_spare;
use ringd_storage::record::HardState;
use ringd_storage::recover::{inspect, recover};
use ringd_storage::snapshot::{SnapshotMeta, SnapshotWriter};
use ringd_storage::verdict::{Reason, Refusal};
use ringd_storage::wal::Wal;
use ringd_storage::walk::WalkError;

/// Bytes of a frame with one entry of `data` bytes, a multiple of 8.
const fn frame_bytes(data: u64) -> u64 {
    56 + 28 + data
}

/// Five synced frames of one entry with 20 bytes each: 104 bytes per frame, all on one page.
fn five_frames() -> Wal<MemoryMedium> {
    let mut wal = Wal::create(MemoryMedium::new(), IDENTITY, options(SEGMENT_BYTES)).unwrap();
    for index in 1..=5 {
        append(&mut wal, &[entry(1, index, &[index as u8; 20])]);
        sync(&mut wal);
    }
    wal
}

/// Two segments; the first holds frames 1 and 2.
fn two_segments() -> Wal<MemoryMedium> {
    let mut wal = Wal::create(MemoryMedium::new(), IDENTITY, options(SEGMENT_BYTES)).unwrap();
    wal.add_spare(prepare_spare(wal.medium(), SEGMENT_BYTES, None, &mut || {}).unwrap());
    for index in 1..=3 {
        append(&mut wal, &[entry(1, index, &[index as u8; 5000])]);
        sync(&mut wal);
    }
    assert_eq!(wal.segments(), 2);
    wal
}

fn offset_of(frame: u64) -> u64 {
    PAGE_BYTES + (frame - 1) * frame_bytes(20)
}

fn refused(disk: &MemoryMedium) -> Refusal {
    match recover_memory(disk) {
        Err(WalkError::Refused(refusal)) => *refusal,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("accepted"),
    }
}

fn first_name(disk: &MemoryMedium) -> String {
    disk.list().unwrap().remove(0)
}

/// Overwrites bytes of a file, durably.
fn patch(disk: &MemoryMedium, name: &str, at: u64, bytes: &[u8]) {
    let mut contents = disk.contents(name).unwrap();
    contents[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    disk.put_file(name, contents);
}

#[test]
fn row_1_whole_frames_are_kept() {
    let disk = five_frames().medium().crash(&mut |_| 0);
    let recovered = recover_memory(&disk).unwrap();
    assert_eq!((recovered.entries.len(), recovered.wal.appended()), (5, WalIndex::new(5)));
    assert!(recovered.tail.is_none() && !recovered.must_catch_up);
}

#[test]
fn row_2_a_frame_of_another_history_is_refused() {
    let disk = five_frames().medium().crash(&mut |_| 0);
    let name = first_name(&disk);
    // Another life with the same epoch (the seed is fixed here) wrote another second frame of the same size.
    let mut other = Wal::create(MemoryMedium::new(), IDENTITY, options(SEGMENT_BYTES)).unwrap();
    append(&mut other, &[entry(1, 1, &[9; 20])]);
    append(&mut other, &[entry(1, 2, &[9; 20])]);
    let bytes = other.medium().contents(&name).unwrap();
    let (from, to) = (offset_of(2) as usize, offset_of(3) as usize);
    patch(&disk, &name, offset_of(2), &bytes[from..to]);
    let refusal = refused(&disk);
    assert!(matches!(refusal.reason, Reason::OtherFrame { .. }), "{refusal}");
    assert_eq!((refusal.offset, refusal.wal_index), (offset_of(2), WalIndex::new(2)));
}

#[test]
fn row_3_a_damaged_frame_that_was_synced_is_refused() {
    for (zeros, torn) in [(true, false), (false, true)] {
        let disk = five_frames().medium().crash(&mut |_| 0);
        let name = first_name(&disk);
        if zeros {
            patch(&disk, &name, offset_of(3), &[0; frame_bytes(20) as usize]);
        }
        if torn {
            assert!(disk.flip_bit(&name, offset_of(3) + 60, 0));
        }
        let refusal = refused(&disk);
        let vouched =
            matches!(refusal.reason, Reason::DamagedButVouched { voucher, .. } if voucher == WalIndex::new(5));
        assert!(vouched, "{refusal}");
        assert_eq!((refusal.file.as_str(), refusal.offset), (disk.path_of(&name).as_str(), offset_of(3)));
        assert_eq!((refusal.wal_index, refusal.raft_index), (WalIndex::new(3), RaftIndex::new(3)));
        assert!(refusal.to_string().contains("ringwal verify"));
    }
}

#[test]
fn row_4_a_damaged_frame_in_a_sealed_segment_is_refused() {
    let disk = two_segments().medium().crash(&mut |_| 0);
    let name = first_name(&disk);
    let second = PAGE_BYTES + frame_bytes(5000).next_multiple_of(8);
    // The segment's last frame: nothing later in this epoch vouches for it, the next segment does.
    assert!(disk.flip_bit(&name, second + 100, 3));
    let refusal = refused(&disk);
    assert!(matches!(refusal.reason, Reason::DamagedInSealed { .. }), "{refusal}");
    assert_eq!((refusal.offset, refusal.wal_index), (second, WalIndex::new(2)));
}

#[test]
fn row_5_an_unsynced_hole_ends_the_tail_and_later_frames_are_wiped() {
    let mut wal = Wal::create(MemoryMedium::new(), IDENTITY, options(SEGMENT_BYTES)).unwrap();
    append(&mut wal, &[entry(1, 1, b"synced")]);
    sync(&mut wal);
    for index in 2..=4 {
        append(&mut wal, &[entry(1, index, &[7; 1500])]);
    }
    // The sectors of frame 2 are lost, frames 3 and 4 arrive: normal, writeback is unordered.
    let disk = wal.medium().crash(&mut |what| match what {
        Surviving::Sector { offset, stores, .. } => u32::from(offset >= 5632) * stores,
        Surviving::Name(_) => 1,
    });
    let before = inspect(&disk, &MemoryMedium::new()).unwrap();
    assert_eq!(before.walk.end.torn.as_ref().unwrap().wal_index, WalIndex::new(2));
    let recovered = recover_memory(&disk).unwrap();
    assert_eq!(recovered.entries.len(), 1);
    let bytes = disk.crash(&mut |_| 0).contents(&first_name(&disk)).unwrap();
    let end = recovered.tail.unwrap().offset as usize;
    assert!(bytes[end..].iter().all(|byte| *byte == 0), "nothing stale is left");
}

#[test]
fn a_damaged_header_is_refused_even_in_the_tail() {
    let disk = two_segments().medium().crash(&mut |_| 0);
    let name = disk.list().unwrap().remove(1);
    assert!(disk.flip_bit(&name, 50, 1));
    let refusal = refused(&disk);
    assert!(matches!(refusal.reason, Reason::Header(_)), "{refusal}");
    assert_eq!((refusal.file, refusal.offset), (disk.path_of(&name), 0));
}

#[test]
fn a_missing_segment_is_a_gap() {
    let disk = two_segments().medium().crash(&mut |_| 0);
    disk.remove(&first_name(&disk)).unwrap();
    let refusal = refused(&disk);
    assert!(matches!(refusal.reason, Reason::Gap { first, .. } if first == RaftIndex::new(3)), "{refusal}");
}

#[test]
fn a_renamed_segment_does_not_fit() {
    let disk = two_segments().medium().crash(&mut |_| 0);
    let name = disk.list().unwrap().remove(1);
    disk.rename(&name, "0000000000000002-0000000000000009.wal").unwrap();
    let refusal = refused(&disk);
    assert!(matches!(refusal.reason, Reason::HeaderMismatch { field: "first raft index", .. }), "{refusal}");
}

#[test]
fn a_segment_of_another_member_does_not_fit() {
    let disk = two_segments().medium().crash(&mut |_| 0);
    let stranger = Identity { cluster: ClusterId::new(0xc0ffee), member: MemberId::new(1) };
    let mut wal = Wal::create(MemoryMedium::new(), stranger, options(SEGMENT_BYTES)).unwrap();
    wal.add_spare(prepare_spare(wal.medium(), SEGMENT_BYTES, None, &mut || {}).unwrap());
    for index in 1..=3 {
        append(&mut wal, &[entry(1, index, &[index as u8; 5000])]);
    }
    sync(&mut wal);
    let name = wal.medium().list().unwrap().remove(1);
    disk.put_file(&name, wal.medium().contents(&name).unwrap());
    let refusal = refused(&disk);
    assert!(matches!(refusal.reason, Reason::HeaderMismatch { field: "member id", .. }), "{refusal}");
}

#[test]
fn a_hard_state_that_commits_past_the_last_entry_is_refused() {
    let mut wal = five_frames();
    let mut frame = wal.begin();
    frame.push_hard_state(&HardState { term: Term::new(1), vote: MemberId::new(0), commit: RaftIndex::new(6) });
    frame.finish().unwrap();
    sync(&mut wal);
    let refusal = refused(&wal.medium().crash(&mut |_| 0));
    let expected = (RaftIndex::new(6), RaftIndex::new(5));
    assert!(
        matches!(refusal.reason, Reason::CommitPastEnd { commit, last } if (commit, last) == expected),
        "{refusal}"
    );
}

#[test]
fn a_refusal_changes_nothing_on_disk() {
    let disk = five_frames().medium().crash(&mut |_| 0);
    let name = first_name(&disk);
    assert!(disk.flip_bit(&name, offset_of(2) + 60, 0));
    let before = (disk.list().unwrap(), disk.contents(&name));
    refused(&disk);
    assert_eq!((disk.list().unwrap(), disk.contents(&name)), before);
}

#[test]
fn segments_that_a_crash_kept_while_retiring_are_removed_when_a_snapshot_covers_them() {
    let mut wal = Wal::create(MemoryMedium::new(), IDENTITY, options(SEGMENT_BYTES)).unwrap();
    let marker = SnapshotMarker { index: RaftIndex::new(4), term: Term::new(1) };
    for index in 1..=7 {
        wal.add_spare(prepare_spare(wal.medium(), SEGMENT_BYTES, None, &mut || {}).unwrap());
        append(&mut wal, &[entry(1, index, &[index as u8; 5000])]);
    }
    let mut frame = wal.begin();
    frame.push_snapshot_taken(marker);
    frame.finish().unwrap();
    sync(&mut wal);
    let disk = wal.medium().crash(&mut |_| 0);
    let names = disk.list().unwrap();
    // Two entries per segment. The second segment is gone, the first came back.
    disk.remove(&names[1]).unwrap();
    let refusal = refused(&disk);
    assert!(matches!(refusal.reason, Reason::Gap { .. }), "{refusal}");
    assert!(disk.list().unwrap().contains(&names[0]), "a refusal removes nothing");
    let snaps = MemoryMedium::new();
    let meta = SnapshotMeta {
        identity: IDENTITY,
        marker,
        etcd_index: EtcdIndex::ZERO,
        voters: Vec::new(),
        learners: Vec::new(),
        items: 0,
        created: UnixNanos::ZERO,
    };
    SnapshotWriter::new(meta).publish(snaps.clone(), &mut || {}).unwrap();
    let recovered = recover(disk.clone(), &snaps, options(SEGMENT_BYTES)).unwrap();
    assert_eq!(recovered.entries.iter().map(|entry| entry.index.get()).collect::<Vec<_>>(), [5, 6, 7]);
    assert!(!disk.list().unwrap().contains(&names[0]));
}

#[test]
fn an_empty_directory_is_told_apart_from_damage() {
    let error = recover_memory(&MemoryMedium::new()).err().unwrap();
    assert!(matches!(error, WalkError::Empty(_)), "{error}");
}
