//! Every metric, in one table: name, type, help, and where its value comes from.
//!
//! Owns: the counters that are bumped while the node runs ([`Metrics`]), the list of what `/metrics` shows
//! (`metrics/table.rs`), and its text. Touches: nothing of ours: what is read at a scrape comes in as a [`Scrape`].
//!
//! Must always hold:
//! 1. Bumping is an addition to a plain cell: no lock, no atomic, no allocation, no clock.
//! 2. A name that etcd has means what it means there; names of our own begin with `ringd_`.

mod cells;
mod hot;
mod peers;
mod proxy;
mod table;

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use prometheus::{Encoder, TextEncoder};

pub use cells::{Histogram, doubling};
pub use hot::{Hot, HotPrefixes, SAMPLE_EVERY, SLOTS};
pub use peers::{Latency, PeerMetrics};
pub use proxy::{Dropped, ProxyMetrics};
pub use table::{Scrape, StoreCounts};

/// The `Content-Type` of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What keeps the loop: one synchronous piece of work, between two moments at which other tasks may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Step {
    /// A turn of the node: proposals, appends, applies.
    Turn = 0,
    /// Outcomes and events handed to their connections.
    Settle = 1,
    /// Requests of one connection taken from its input, plain reads answered.
    Request = 2,
    /// A slice of a snapshot's capture.
    Capture = 3,
    /// A slice of the events that a turn owes to its watchers, beyond the first.
    FanOut = 4,
    /// A slice of a snapshot that came from the leader.
    Install = 5,
}

/// Label values of [`Step`].
pub const STEP_NAMES: [&str; 6] = ["turn", "settle", "request", "capture", "fan_out", "install"];

/// Which requests to the keys are counted apart: etcd's `method` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
#[expect(missing_docs, reason = "the names are the documentation; they are etcd's")]
pub enum Kind {
    Get = 0,
    Head = 1,
    /// A GET with `quorum=true`.
    QuorumGet = 2,
    Put = 3,
    Post = 4,
    Delete = 5,
}

/// Label values of [`Kind`].
pub const KIND_NAMES: [&str; 6] = ["GET", "HEAD", "QGET", "PUT", "POST", "DELETE"];

/// etcd's buckets for disk durations: 1 ms to 8.192 s.
const DISK_BOUNDS: [u64; 14] = doubling(1_000_000);
/// etcd's buckets for HTTP durations: 0.5 ms to 2.048 s.
const HTTP_BOUNDS: [u64; 13] = doubling(500_000);
/// ringd's buckets for what takes microseconds: 10 µs to 0.65 s.
const FINE_BOUNDS: [u64; 17] = doubling(10_000);
/// Entries in a batch: 1 to 8192.
const BATCH_BOUNDS: [u64; 14] = doubling(1);
/// How long a stall counts as recent, at least; at most twice that. Prometheus scrapes once in this time by default.
const RECENT: Duration = Duration::from_secs(15);

/// What is counted while the node runs.
#[derive(Debug)]
pub struct Metrics {
    /// How long each synchronous step kept the loop, in nanoseconds.
    pub loop_stall: Histogram,
    longest: [Cell<u64>; STEP_NAMES.len()],
    /// Longest step of this window and of the one before, and when this one began (nanoseconds since the start).
    recent: Cell<(u64, u64)>,
    recent_since: Cell<Duration>,
    /// Entries that one turn appended.
    pub batch_entries: Histogram,
    /// Time of a WAL sync, in nanoseconds.
    pub sync: Histogram,
    /// The same in etcd's coarser buckets.
    pub wal_fsync: Histogram,
    /// From a snapshot's begin to its publication, in nanoseconds.
    pub snapshot: Histogram,
    /// Time of the sync of a snapshot's file, in nanoseconds.
    pub snapshot_sync: Histogram,
    /// From the start of the process to serving, nanoseconds.
    pub ready_after: Cell<u64>,
    /// Recovery of the data directory alone, nanoseconds.
    pub recovery: Cell<u64>,
    /// Connections accepted.
    pub accepted: Cell<u64>,
    /// Connections closed on arrival, for there were too many.
    pub turned_away: Cell<u64>,
    /// Bytes from clients.
    pub received_bytes: Cell<u64>,
    /// A leader was elected, as far as this node saw.
    pub leader_changes: Cell<u64>,
    /// Turns that took longer than etcd's limit for an apply.
    pub slow_applies: Cell<u64>,
    /// Proposals without a result.
    pub proposals_failed: Cell<u64>,
    /// Linearizable reads that found no quorum in time.
    pub reads_failed: Cell<u64>,
    /// Linearizable reads that waited long for their quorum.
    pub slow_reads: Cell<u64>,
    /// Ticks of a leader that came too late.
    pub late_heartbeats: Cell<u64>,
    /// `/health` said true.
    pub health_success: Cell<u64>,
    /// `/health` said false.
    pub health_failures: Cell<u64>,
    /// Watches asked for.
    pub watch_requests: Cell<u64>,
    /// Recursive reads that found something, and that did not.
    pub recursive_reads: (Cell<u64>, Cell<u64>),
    received: [Cell<u64>; KIND_NAMES.len()],
    served: [Histogram; KIND_NAMES.len()],
    /// The same in fine buckets, with `--metrics extensive`.
    served_fine: OnceCell<Box<[Histogram; KIND_NAMES.len()]>>,
    /// Failures by kind and status: a handful of pairs, each seen often.
    failed: RefCell<Vec<(Kind, u16, u64)>>,
    gets_in_step: Cell<u64>,
    /// One per other member, in the order of their ids.
    pub peers: RefCell<Vec<Rc<PeerMetrics>>>,
    /// Writes refused because the key space exceeds its quota.
    pub refused_quota: Cell<u64>,
    /// Writes refused because too much was under way.
    pub refused_overload: Cell<u64>,
    /// Requests refused because too many large bodies were being gathered.
    pub bodies_refused: Cell<u64>,
    /// Reads refused because too many large answers were waiting for their clients.
    pub answers_refused: Cell<u64>,
    /// What is asked for most.
    pub hot: HotPrefixes,
    /// Append messages from leaders.
    pub appends_received: Cell<u64>,
    /// Append messages to followers.
    pub appends_sent: Cell<u64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            loop_stall: Histogram::of_seconds(&FINE_BOUNDS),
            longest: Default::default(),
            recent: Cell::default(),
            recent_since: Cell::default(),
            batch_entries: Histogram::of_units(&BATCH_BOUNDS),
            sync: Histogram::of_seconds(&FINE_BOUNDS),
            wal_fsync: Histogram::of_seconds(&DISK_BOUNDS),
            snapshot: Histogram::of_seconds(&DISK_BOUNDS),
            snapshot_sync: Histogram::of_seconds(&DISK_BOUNDS),
            ready_after: Cell::default(),
            recovery: Cell::default(),
            accepted: Cell::default(),
            turned_away: Cell::default(),
            received_bytes: Cell::default(),
            leader_changes: Cell::default(),
            slow_applies: Cell::default(),
            proposals_failed: Cell::default(),
            reads_failed: Cell::default(),
            slow_reads: Cell::default(),
            late_heartbeats: Cell::default(),
            health_success: Cell::default(),
            health_failures: Cell::default(),
            watch_requests: Cell::default(),
            recursive_reads: Default::default(),
            received: Default::default(),
            served_fine: OnceCell::new(),
            served: std::array::from_fn(|_| Histogram::of_seconds(&HTTP_BOUNDS)),
            failed: RefCell::default(),
            gets_in_step: Cell::default(),
            peers: RefCell::default(),
            refused_quota: Cell::default(),
            refused_overload: Cell::default(),
            bodies_refused: Cell::default(),
            answers_refused: Cell::default(),
            hot: HotPrefixes::default(),
            appends_received: Cell::default(),
            appends_sent: Cell::default(),
        }
    }
}

/// Adds to a counter.
#[inline]
pub fn add(counter: &Cell<u64>, more: u64) {
    counter.set(counter.get() + more);
}

/// A duration in nanoseconds.
#[inline]
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Metrics {
    /// A step of the loop has ended. Plain reads served in it took as long as it did.
    #[inline]
    pub fn step(&self, step: Step, took: Duration) {
        let took = nanos(took);
        self.loop_stall.observe(took);
        let longest = &self.longest[step as usize];
        if took > longest.get() {
            longest.set(took);
        }
        let (current, before) = self.recent.get();
        if took > current {
            self.recent.set((took, before));
        }
        let gets = self.gets_in_step.take();
        if gets > 0 {
            self.serve(Kind::Get, took, gets);
        }
    }

    /// Forgets stalls that are no longer recent; `uptime` only grows. Called about ten times a second.
    pub fn tick(&self, uptime: Duration) {
        if uptime.saturating_sub(self.recent_since.get()) >= RECENT {
            self.recent_since.set(uptime);
            let (current, _) = self.recent.get();
            self.recent.set((0, current));
        }
    }

    /// The longest stall of the last 15 to 30 seconds, in nanoseconds.
    #[must_use]
    pub fn recent_stall(&self) -> u64 {
        let (current, before) = self.recent.get();
        current.max(before)
    }

    /// The longest step of a kind since the start, in nanoseconds.
    #[must_use]
    pub fn longest(&self, step: Step) -> u64 {
        self.longest[step as usize].get()
    }

    /// A request to the keys was understood.
    #[inline]
    pub fn received(&self, kind: Kind) {
        add(&self.received[kind as usize], 1);
    }

    /// A write was refused before it was proposed.
    pub fn write_refused(&self, over_quota: bool, overload: bool) {
        add(&self.refused_quota, u64::from(over_quota));
        add(&self.refused_overload, u64::from(overload));
    }

    /// A plain read was answered within the running step.
    #[inline]
    pub fn get_served(&self) {
        add(&self.gets_in_step, 1);
    }

    /// A request to the keys ended well.
    #[inline]
    pub fn served(&self, kind: Kind, took: Duration) {
        self.serve(kind, nanos(took), 1);
    }

    #[inline]
    fn serve(&self, kind: Kind, took: u64, times: u64) {
        self.served[kind as usize].observe_many(took, times);
        if let Some(fine) = self.served_fine.get() {
            fine[kind as usize].observe_many(took, times);
        }
    }

    /// `--metrics extensive`: counts in fine buckets too, from now on.
    pub fn extend(&self) {
        self.served_fine.get_or_init(|| Box::new(std::array::from_fn(|_| Histogram::of_seconds(&FINE_BOUNDS))));
    }

    /// A request to the keys was understood and ended with an error of this status.
    pub fn failed(&self, kind: Kind, status: u16) {
        let mut failed = self.failed.borrow_mut();
        match failed.iter_mut().find(|(known, code, _)| (*known, *code) == (kind, status)) {
            Some((_, _, count)) => *count += 1,
            None => failed.push((kind, status, 1)),
        }
    }
}

/// Appends the text of `/metrics`, in Prometheus' text format 0.0.4.
///
/// # Panics
/// When the table is broken (a test renders it).
pub fn render(out: &mut Vec<u8>, metrics: &Metrics, scrape: &Scrape) {
    let families = table::families(metrics, scrape);
    TextEncoder::new().encode(&families, out).expect("every family has a name and samples, and memory takes all");
}

#[cfg(test)]
mod tests;
