//! The counters behind `/v2/stats/store`.
//!
//! Owns: which operation counts where, as etcd counts (including its oddities, noted at the callers).
//!
//! Always holds: counters of writes are the same on every member; the two read counters are local, and therefore
//! stored as zero in snapshots.

use std::cell::Cell;

/// How many counters there are, and their places in `StoreRecord::stats`: see [`Counter`].
pub const COUNTERS: usize = 15;

/// One counter. The numbers are places in snapshots: append, never reorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[expect(missing_docs, reason = "the names are the documentation; they are etcd's")]
pub enum Counter {
    GetsSuccess = 0,
    GetsFail = 1,
    SetsSuccess = 2,
    SetsFail = 3,
    DeleteSuccess = 4,
    DeleteFail = 5,
    UpdateSuccess = 6,
    UpdateFail = 7,
    CreateSuccess = 8,
    CreateFail = 9,
    CompareAndSwapSuccess = 10,
    CompareAndSwapFail = 11,
    CompareAndDeleteSuccess = 12,
    CompareAndDeleteFail = 13,
    ExpireCount = 14,
}

/// JSON names of the counters, in the order etcd prints them (`watchers` follows, it is not a counter).
pub const COUNTER_NAMES: [&str; COUNTERS] = [
    "getsSuccess",
    "getsFail",
    "setsSuccess",
    "setsFail",
    "deleteSuccess",
    "deleteFail",
    "updateSuccess",
    "updateFail",
    "createSuccess",
    "createFail",
    "compareAndSwapSuccess",
    "compareAndSwapFail",
    "compareAndDeleteSuccess",
    "compareAndDeleteFail",
    "expireCount",
];

/// All counters of one store.
#[derive(Default)]
pub struct Stats {
    counts: [Cell<u64>; COUNTERS],
}

impl Stats {
    /// The value of one counter.
    #[must_use]
    pub fn get(&self, counter: Counter) -> u64 {
        self.counts[counter as usize].get()
    }

    /// All values, in the order of [`COUNTER_NAMES`].
    pub fn values(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().map(Cell::get)
    }

    #[inline]
    pub(super) fn count(&self, counter: Counter) {
        let cell = &self.counts[counter as usize];
        cell.set(cell.get() + 1);
    }

    /// For a snapshot: the read counters as zero.
    pub(super) fn replicated(&self) -> Vec<u64> {
        let mut values: Vec<u64> = self.values().collect();
        values[Counter::GetsSuccess as usize] = 0;
        values[Counter::GetsFail as usize] = 0;
        values
    }

    /// From a snapshot, which may know fewer counters or more.
    pub(super) fn restore(&self, values: &[u64]) {
        for (cell, value) in self.counts.iter().zip(values) {
            cell.set(*value);
        }
    }
}
