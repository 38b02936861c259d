//! Memory: of a 64 MiB segment only a window is resident, however much is appended. Alone in its binary, because it
//! reads the process's own counters.

mod common;

use common::{IDENTITY, append, entry, options, sync};
use ringd_storage::datadir::DataDir;
use ringd_storage::format::SEGMENT_BYTES;
use ringd_storage::prepare::prepare_spare;
use ringd_storage::wal::Wal;

/// Resident pages of mapped files, in KiB.
fn resident_file_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn only_a_window_of_the_tail_is_resident() {
    let root = tempfile::tempdir().unwrap();
    let data = DataDir::open(root.path(), None).unwrap();
    let mut wal = Wal::create(data.wal().clone(), IDENTITY, options(SEGMENT_BYTES)).unwrap();
    wal.add_spare(prepare_spare(wal.medium(), SEGMENT_BYTES, None, &mut || {}).unwrap());
    let before = resident_file_kib();
    let mut highest = 0;
    let mut rolled = false;
    for index in 1..=1600 {
        // 48 KiB is copied; every fourth batch is staged instead.
        let bytes = if index % 4 == 0 { 80 << 10 } else { 48 << 10 };
        rolled |= append(&mut wal, &[entry(1, index, &vec![7; bytes])]).rolled;
        sync(&mut wal);
        highest = highest.max(resident_file_kib().saturating_sub(before));
    }
    assert!(rolled, "the roll must not keep the old segment either");
    assert!(highest < 6 << 10, "{highest} KiB of the map were resident");
}
