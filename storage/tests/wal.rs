//! The WAL as its driver uses it, on memory and on real files: append, sync, roll, retire, recover.

mod common;

use common::{IDENTITY, append, entry, options, recover_memory, sync};
use ringd_storage::datadir::DataDir;
use ringd_storage::format::{PAGE_BYTES, SnapshotMarker};
use ringd_storage::ids::{MemberId, RaftIndex, Term, WalIndex};
use ringd_storage::medium::Medium;
use ringd_storage::memory::{MemoryMedium, Surviving};
use ringd_storage::prepare::prepare_spare;
use ringd_storage::record::HardState;
use ringd_storage::recover::recover;
use ringd_storage::wal::{AppendError, STAGED_BYTES, SyncStep, Wal};

const SMALL: u64 = 16 << 10;

fn new_wal(segment_bytes: u64) -> Wal<MemoryMedium> {
    Wal::create(MemoryMedium::new(), IDENTITY, options(segment_bytes)).unwrap()
}

#[test]
fn what_was_synced_comes_back_and_what_was_not_may_be_lost() {
    let mut wal = new_wal(SMALL);
    append(&mut wal, &[entry(1, 1, b"one"), entry(1, 2, b"two")]);
    sync(&mut wal);
    append(&mut wal, &[entry(1, 3, b"three")]);
    assert_eq!((wal.appended(), wal.durable()), (WalIndex::new(2), WalIndex::new(1)));
    let lost = recover_memory(&wal.medium().crash(&mut |_| 0)).unwrap();
    assert_eq!(lost.entries, [entry(1, 1, b"one"), entry(1, 2, b"two")]);
    assert_eq!(lost.tail, None, "untouched zeros are a clean end");
    let kept = recover_memory(&wal.medium().crash(&mut |_| 9)).unwrap();
    assert_eq!(kept.entries.len(), 3);
    assert_eq!(kept.wal.appended(), WalIndex::new(2));
}

#[test]
fn a_hard_state_and_its_segment_header_copy_survive() {
    let mut wal = new_wal(SMALL);
    let state = HardState { term: Term::new(3), vote: MemberId::new(7), commit: RaftIndex::new(1) };
    let mut frame = wal.begin();
    frame.push_entry(&entry(3, 1, b"x").as_ref());
    frame.push_hard_state(&state);
    frame.finish().unwrap();
    sync(&mut wal);
    assert_eq!(recover_memory(&wal.medium().crash(&mut |_| 0)).unwrap().hard_state, state);
    // Roll, then retire the segment that holds the record: the header of the next one has it.
    wal.add_spare(prepare_spare(wal.medium(), SMALL, None, &mut || {}).unwrap());
    let mut index = 2;
    while !append(&mut wal, &[entry(3, index, &[7; 1000])]).rolled {
        index += 1;
    }
    assert!(wal.retire(RaftIndex::new(1)).is_empty(), "its successor is not published yet");
    sync(&mut wal);
    let marker = SnapshotMarker { index: RaftIndex::new(index - 1), term: Term::new(3) };
    let mut frame = wal.begin();
    frame.push_snapshot_taken(marker);
    frame.finish().unwrap();
    sync(&mut wal);
    let retired = wal.retire(RaftIndex::new(index));
    assert_eq!(retired.len(), 1);
    let spare = prepare_spare(wal.medium(), SMALL, Some(retired[0].clone()), &mut || {}).unwrap();
    wal.add_spare(spare);
    let error = recover_memory(&wal.medium().crash(&mut |_| 0)).err().unwrap();
    assert!(error.to_string().contains("the log begins at raft index"), "{error}");
}

#[test]
fn rolls_publish_in_order_and_recycled_files_serve_again() {
    let mut wal = new_wal(SMALL);
    let mut last = 0;
    for round in 0..40u64 {
        while wal.spares_wanted() > 0 {
            let recycle = wal.retire(RaftIndex::new(0)).pop();
            wal.add_spare(prepare_spare(wal.medium(), SMALL, recycle, &mut || {}).unwrap());
        }
        for _ in 0..3 {
            last += 1;
            append(&mut wal, &[entry(1, last, &[round as u8; 900])]);
        }
        sync(&mut wal);
        let recovered = recover_memory(&wal.medium().crash(&mut |_| 0)).unwrap();
        assert_eq!(recovered.entries.last().unwrap().index, RaftIndex::new(last));
        assert_eq!(recovered.entries.len() as u64, last);
    }
    assert!(wal.segments() > 5);
}

#[test]
fn names_that_a_killed_process_left_unsynced_are_durable_before_anything_relies_on_them() {
    let mut wal = new_wal(SMALL);
    wal.add_spare(prepare_spare(wal.medium(), SMALL, None, &mut || {}).unwrap());
    let mut index = 1;
    while !append(&mut wal, &[entry(1, index, &[7; 1000])]).rolled {
        index += 1;
    }
    // Killed in the middle of the publication, between the rename and its sync.
    let ticket = wal.begin_sync().unwrap().unwrap();
    for step in ticket.steps() {
        match step {
            SyncStep::Publish { medium, from, to } => medium.rename(from, to).unwrap(),
            other => other.run().unwrap(),
        }
    }
    let mut recovered = recover_memory(wal.medium()).unwrap();
    append(&mut recovered.wal, &[entry(1, index + 1, b"acknowledged")]);
    sync(&mut recovered.wal);
    let after = recover_memory(&recovered.wal.medium().crash(&mut |_| 0)).unwrap();
    assert_eq!(after.entries.last(), Some(&entry(1, index + 1, b"acknowledged")));
}

#[test]
fn a_batch_during_a_sync_begins_on_a_fresh_page() {
    let mut wal = new_wal(SMALL);
    append(&mut wal, &[entry(1, 1, b"a")]);
    let ticket = wal.begin_sync().unwrap().unwrap();
    assert!(ticket.only_sync().is_some());
    let before = wal.room_bytes();
    append(&mut wal, &[entry(1, 2, b"b")]);
    append(&mut wal, &[entry(1, 3, b"c")]);
    assert_eq!(before - wal.room_bytes(), PAGE_BYTES, "both later batches share the next page");
    ticket.run().unwrap();
    wal.finish_sync(ticket);
    assert_eq!(wal.durable(), WalIndex::new(1));
    sync(&mut wal);
    let name = wal.medium().list().unwrap().remove(0);
    let bytes = wal.medium().contents(&name).unwrap();
    assert_ne!(bytes[2 * PAGE_BYTES as usize..][..8], [0; 8], "the second batch begins the second page of frames");
    assert_eq!(recover_memory(&wal.medium().crash(&mut |_| 0)).unwrap().entries.len(), 3);
}

#[test]
fn large_batches_are_staged_and_written_by_the_ticket() {
    let mut wal = new_wal(1 << 20);
    let big = vec![5u8; STAGED_BYTES as usize];
    append(&mut wal, &[entry(1, 1, b"small")]);
    assert!(append(&mut wal, &[entry(1, 2, &big)]).staged);
    append(&mut wal, &[entry(1, 3, b"after")]);
    let ticket = wal.begin_sync().unwrap().unwrap();
    assert!(matches!(ticket.steps(), [SyncStep::Write { .. }, SyncStep::SyncData { .. }]));
    ticket.run().unwrap();
    wal.finish_sync(ticket);
    let recovered = recover_memory(&wal.medium().crash(&mut |_| 0)).unwrap();
    assert_eq!(recovered.entries[1].data, big);
    assert_eq!(recovered.entries.len(), 3);
}

#[test]
fn refusals_leave_the_wal_as_it_was() {
    let mut wal = new_wal(SMALL);
    let mut frame = wal.begin();
    frame.push_entry(&entry(1, 1, &[0; SMALL as usize]).as_ref());
    assert!(matches!(frame.finish(), Err(AppendError::TooLarge { limit_bytes: 12288, .. })));
    for index in 1..=2 {
        append(&mut wal, &[entry(1, index, &[1; 6000])]);
    }
    let mut frame = wal.begin();
    frame.push_entry(&entry(1, 3, &[1; 6000]).as_ref());
    assert!(matches!(frame.finish(), Err(AppendError::NoSpace { .. })));
    assert_eq!(wal.last_raft_index(), RaftIndex::new(2));
    wal.add_spare(prepare_spare(wal.medium(), SMALL, None, &mut || {}).unwrap());
    assert!(append(&mut wal, &[entry(1, 3, &[1; 6000])]).rolled);
    sync(&mut wal);
    assert_eq!(recover_memory(&wal.medium().crash(&mut |_| 0)).unwrap().entries.len(), 3);
}

#[test]
fn after_a_failed_sync_nothing_works_any_more() {
    let mut wal = new_wal(SMALL);
    append(&mut wal, &[entry(1, 1, b"x")]);
    let ticket = wal.begin_sync().unwrap().unwrap();
    wal.medium().fail_next_sync(1);
    let error = ticket.run().unwrap_err();
    assert!(error.to_string().contains(".wal"), "{error}");
    wal.poison(&error.to_string());
    let mut frame = wal.begin();
    frame.push_entry(&entry(1, 2, b"y").as_ref());
    assert!(matches!(frame.finish(), Err(AppendError::Poisoned(_))));
    assert!(matches!(wal.begin_sync(), Err(AppendError::Poisoned(_))));
    assert_eq!(wal.durable(), WalIndex::ZERO);
}

#[test]
fn a_torn_tail_is_cut_noted_and_overwritten() {
    let mut wal = new_wal(SMALL);
    append(&mut wal, &[entry(1, 1, b"safe")]);
    sync(&mut wal);
    append(&mut wal, &[entry(1, 2, &[9; 2000])]);
    // Only the frame's first sector arrives.
    let disk = wal.medium().crash(&mut |what| match what {
        Surviving::Sector { offset: 4096, stores, .. } => stores,
        _ => 0,
    });
    let mut recovered = recover_memory(&disk).unwrap();
    let cut = recovered.tail.clone().unwrap();
    assert_eq!((cut.wal_index, cut.offset), (WalIndex::new(2), 4096 + 56 + 28 + 4));
    assert!(recovered.must_catch_up);
    append(&mut recovered.wal, &[entry(2, 2, b"new")]);
    sync(&mut recovered.wal);
    let again = recover_memory(&disk.crash(&mut |_| 0)).unwrap();
    assert_eq!(again.entries, [entry(1, 1, b"safe"), entry(2, 2, b"new")]);
    assert!(again.tail.is_none() && again.must_catch_up, "remembered until it has caught up");
    ringd_storage::recover::clear_tail_cut(&disk).unwrap();
    assert!(!recover_memory(&disk.crash(&mut |_| 0)).unwrap().must_catch_up);
}

#[test]
fn an_entry_replaces_everything_from_its_index_on() {
    let mut wal = new_wal(SMALL);
    append(&mut wal, &[entry(1, 1, b"a"), entry(1, 2, b"b"), entry(1, 3, b"c")]);
    append(&mut wal, &[entry(2, 2, b"B")]);
    sync(&mut wal);
    let recovered = recover_memory(&wal.medium().crash(&mut |_| 0)).unwrap();
    assert_eq!(recovered.entries, [entry(1, 1, b"a"), entry(2, 2, b"B")]);
    assert_eq!(recovered.wal.last_raft_index(), RaftIndex::new(2));
}

#[test]
#[should_panic(expected = "a gap in the raft log")]
fn a_gap_is_our_own_mistake() {
    let mut wal = new_wal(SMALL);
    append(&mut wal, &[entry(1, 2, b"b")]);
}

#[test]
fn the_same_code_runs_on_real_files() {
    let root = tempfile::tempdir().unwrap();
    let data = DataDir::open(root.path(), None).unwrap();
    let mut wal = Wal::create(data.wal().clone(), IDENTITY, options(1 << 20)).unwrap();
    let mut last = 0;
    for _ in 0..30 {
        while wal.spares_wanted() > 0 {
            let recycle = wal.retire(RaftIndex::new(last.max(1))).pop();
            wal.add_spare(prepare_spare(wal.medium(), 1 << 20, recycle, &mut || {}).unwrap());
        }
        last += 1;
        append(&mut wal, &[entry(1, last, &[last as u8; 100 << 10])]);
        last += 1;
        append(&mut wal, &[entry(1, last, &[last as u8; 10 << 10])]);
        sync(&mut wal);
    }
    assert!(wal.segments() <= 4, "old segments were recycled");
    let (appended, durable) = (wal.appended(), wal.durable());
    assert_eq!(appended, durable);
    drop(wal);
    // Without a snapshot a log that begins late is refused; with everything kept it comes back.
    assert!(recover(data.wal().clone(), data.snap(), options(1 << 20)).is_err());

    let other = tempfile::tempdir().unwrap();
    let data = DataDir::open(other.path(), None).unwrap();
    let mut wal = Wal::create(data.wal().clone(), IDENTITY, options(1 << 20)).unwrap();
    for index in 1..=20 {
        wal.add_spare(prepare_spare(wal.medium(), 1 << 20, None, &mut || {}).unwrap());
        append(&mut wal, &[entry(1, index, &[index as u8; 70 << 10])]);
    }
    sync(&mut wal);
    drop(wal);
    let recovered = recover(data.wal().clone(), data.snap(), options(1 << 20)).unwrap();
    assert_eq!(recovered.entries.len(), 20);
    assert_eq!(recovered.entries[19], entry(1, 20, &[20; 70 << 10]));
    assert_eq!(recovered.identity, IDENTITY);
    assert_eq!(recovered.wal.spares_ready(), 1, "one leftover spare is adopted, the others are removed");
    assert!(Wal::create(data.wal().clone(), IDENTITY, options(1 << 20)).is_err());
}
