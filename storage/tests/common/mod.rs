//! What the storage tests share: a fixed identity, entries, and a driver that syncs.
#![allow(dead_code)] // Every test binary uses its own part of it.

use ringd_storage::format::Identity;
use ringd_storage::ids::{ClusterId, MemberId, RaftIndex, Term};
use ringd_storage::medium::Medium;
use ringd_storage::memory::MemoryMedium;
use ringd_storage::record::{Entry, EntryKind};
use ringd_storage::recover::{Recovered, recover};
use ringd_storage::wal::{Appended, Wal, WalOptions};
use ringd_storage::walk::WalkError;

/// Whose files the tests write.
pub const IDENTITY: Identity = Identity { cluster: ClusterId::new(0xc0ffee), member: MemberId::new(0xabcd) };

/// The segment size that [`recover_memory`] assumes for spares.
pub const SEGMENT_BYTES: u64 = 16 << 10;

/// Options with one spare and a fixed seed.
pub fn options(segment_bytes: u64) -> WalOptions {
    WalOptions { segment_bytes, spares: 1, epoch_seed: 42 }
}

/// A normal entry.
pub fn entry(term: u64, index: u64, data: &[u8]) -> Entry {
    Entry {
        term: Term::new(term),
        index: RaftIndex::new(index),
        kind: EntryKind::Normal,
        data: data.to_vec(),
        context: Vec::new(),
    }
}

/// Appends one frame.
pub fn append<M: Medium>(wal: &mut Wal<M>, entries: &[Entry]) -> Appended {
    let mut frame = wal.begin();
    entries.iter().for_each(|entry| frame.push_entry(&entry.as_ref()));
    frame.finish().unwrap()
}

/// Syncs everything.
pub fn sync<M: Medium>(wal: &mut Wal<M>) {
    if let Some(ticket) = wal.begin_sync().unwrap() {
        ticket.run().unwrap();
        wal.finish_sync(ticket);
    }
    assert_eq!(wal.durable(), wal.appended());
}

/// Recovers a WAL in memory that has no snapshots.
pub fn recover_memory(medium: &MemoryMedium) -> Result<Recovered<MemoryMedium>, WalkError> {
    recover(medium.clone(), &MemoryMedium::new(), options(SEGMENT_BYTES))
}
