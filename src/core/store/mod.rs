//! etcd's v2 key space: directories, values, hidden nodes, TTLs, in-order keys, conditions, history and watchers.
//!
//! Owns: the applied state of one node and its own index. `ops.rs` holds the operations, `tree.rs` the nodes, `image.rs`
//! what a node is, `history.rs` and `watch.rs` the events, `expiry.rs` the deadlines, `capture.rs` and `load.rs` the way
//! into and out of snapshots.
//!
//! May touch: nothing outside itself. No clock (time comes with each command), no randomness, no I/O, no await.
//!
//! Always holds:
//! 1. Members that apply the same commands in the same order hold equal stores: equal captures, equal answers (but for
//!    the order of unsorted listings).
//! 2. A successful change adds exactly one to the index and one event to the history; a failed one changes nothing.
//! 3. A lookup is one hash probe; the number of keys does not show in its cost.
//! 4. No operation recurses, and no growth copies more than a few thousand entries at once.

mod capture;
mod error;
mod event;
mod expiry;
mod history;
mod image;
mod load;
mod ops;
mod path_index;
mod slab;
mod stats;
mod succeed;
#[cfg(test)]
mod tests;
mod tree;
mod view;
mod watch;

use std::rc::Rc;

use ringd_storage::ids::{EtcdIndex, UnixNanos};

pub use error::{StoreError, StoreErrorCode};
pub use event::{Action, Event, NodeView};
pub use image::PATH_BYTES_MAX;
pub use load::{LoadError, Loader};
pub use stats::{COUNTER_NAMES, COUNTERS, Counter, Stats};
pub use view::{Children, NodeRef};
pub use watch::{FIRED_MAX, FIRED_PER_WATCHER, Fired, WatcherId};

use capture::Capture;
use expiry::Expiry;
use history::History;
use tree::Tree;
use watch::Hub;

/// etcd's number of events kept for watches.
pub const HISTORY_EVENTS_DEFAULT: usize = 1000;
/// Bound on the bytes those events may keep alive. etcd has none; with values below 32 KiB (an event holds two) all of
/// the default count are kept, as in etcd.
pub const HISTORY_BYTES_DEFAULT: usize = 64 << 20;

/// Settings of a [`Store`].
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Events kept for watches that begin in the past; at least one is kept.
    pub history_events_max: usize,
    /// Bytes those events may keep alive; the newest event is kept whatever its size. Events share their bytes with
    /// the tree, so this is what they could cost at most, not what they cost on top.
    pub history_bytes_max: usize,
    /// Seeds the hash of paths, against crafted collisions. No answer depends on it, members may differ.
    pub hash_seed: u64,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self { history_events_max: HISTORY_EVENTS_DEFAULT, history_bytes_max: HISTORY_BYTES_DEFAULT, hash_seed: 0 }
    }
}

/// A watch as a client asks for it.
#[derive(Clone, Copy, Debug)]
pub struct WatchRequest<'a> {
    /// Clean absolute path; it need not exist.
    pub path: &'a [u8],
    /// Events below the path count too.
    pub recursive: bool,
    /// More than one event.
    pub stream: bool,
    /// The first index of interest; zero means whatever comes next.
    pub wait_index: EtcdIndex,
}

/// How a watch begins.
pub enum WatchStart {
    /// History holds a matching event: here it is. Nothing was parked, for streams too: as in etcd, a stream that
    /// begins in the past gets this one event and then stays open without ever getting another (conformance case
    /// `watch/stream_from_index_then_live`).
    Now(Rc<Event>),
    /// Wait for [`Fired`] with this id.
    Parked(WatcherId),
}

/// The applied key space of one member. See the module documentation.
pub struct Store {
    index: EtcdIndex,
    tree: Tree,
    expiry: Expiry,
    history: History,
    hub: Hub,
    stats: Stats,
    cluster_version: String,
    capture: Option<Capture>,
    /// Working space for building images and in-order paths.
    scratch: Vec<u8>,
}

impl Store {
    /// An empty store at index zero.
    #[must_use]
    pub fn new(options: &StoreOptions) -> Self {
        Self {
            index: EtcdIndex::ZERO,
            tree: Tree::new(options.hash_seed),
            expiry: Expiry::default(),
            history: History::new(options.history_events_max, options.history_bytes_max),
            hub: Hub::new(options.hash_seed),
            stats: Stats::default(),
            cluster_version: String::new(),
            capture: None,
            scratch: Vec::new(),
        }
    }

    /// `X-Etcd-Index`.
    #[must_use]
    pub const fn index(&self) -> EtcdIndex {
        self.index
    }

    /// How many nodes there are, directories included, the root not.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.tree.len()
    }

    /// Bytes of all nodes: paths, values, indexes and deadlines, and what a node costs beside them. The history is not in
    /// it, which has a limit of its own. Equal on members that applied the same entries.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.tree.bytes()
    }

    /// Whether a write of a value of so many bytes leaves the node at `path` no larger than it is: it replaces a file's
    /// value by one that is no longer, or touches a directory that is there.
    #[must_use]
    pub fn holds_room_for(&self, path: &[u8], value_bytes: usize) -> bool {
        self.tree
            .find(path)
            .is_some_and(|id| self.tree.image(id).value().map_or(value_bytes == 0, |value| value_bytes <= value.len()))
    }

    /// How large the value at `path` is; 0 where there is none.
    #[must_use]
    pub fn value_bytes(&self, path: &[u8]) -> usize {
        self.tree.find(path).and_then(|id| self.tree.image(id).value()).map_or(0, <[u8]>::len)
    }

    /// The agreed cluster version, empty before there is one. The store only keeps it for snapshots.
    #[must_use]
    pub fn cluster_version(&self) -> &str {
        &self.cluster_version
    }

    /// Remembers the agreed cluster version. Takes no index: the caller [`Store::bump`]s if etcd would.
    pub fn set_cluster_version(&mut self, version: &str) {
        version.clone_into(&mut self.cluster_version);
    }

    /// The counters of `/v2/stats/store`; `watchers` is [`Store::watcher_count`].
    #[must_use]
    pub const fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The earliest deadline in the store.
    #[must_use]
    pub fn next_deadline(&self) -> Option<UnixNanos> {
        self.expiry.first().map(|(deadline, _)| deadline.at)
    }

    /// The node at `path`. Counts as a read in the statistics.
    ///
    /// # Errors
    /// [`StoreErrorCode::KeyNotFound`] or [`StoreErrorCode::NotDirectory`].
    pub fn get(&self, path: &[u8]) -> Result<NodeRef<'_>, StoreError> {
        match self.find(path) {
            Ok(id) => {
                self.stats.count(Counter::GetsSuccess);
                Ok(NodeRef::new(&self.tree, id))
            }
            Err(error) => {
                self.stats.count(Counter::GetsFail);
                Err(error)
            }
        }
    }

    /// Begins a watch. `token` comes back in every [`Fired`] of it.
    ///
    /// # Errors
    /// [`StoreErrorCode::IndexCleared`] when `wait_index` lies before the oldest event kept.
    pub fn watch(&mut self, request: &WatchRequest<'_>, token: u64) -> Result<WatchStart, StoreError> {
        let since = if request.wait_index == EtcdIndex::ZERO { self.index.next() } else { request.wait_index };
        match self.history.scan(request.path, request.recursive, since) {
            Ok(Some(event)) => Ok(WatchStart::Now(Rc::clone(event))),
            Ok(None) => {
                let WatchRequest { path, recursive, stream, .. } = *request;
                Ok(WatchStart::Parked(self.hub.park(path, recursive, stream, since, token)))
            }
            Err(oldest) => {
                let cause = format!("the requested history has been cleared [{oldest}/{since}]");
                Err(self.error(StoreErrorCode::IndexCleared, cause.as_bytes()))
            }
        }
    }

    /// Forgets a parked watcher, for instance because its client left. One that fired for the last time is gone
    /// already; that is no mistake.
    pub fn unwatch(&mut self, watcher: WatcherId) {
        self.hub.unpark(watcher);
    }

    /// So many events that watchers are owed wait to be handed out, beside those that are still to be fired:
    /// [`FIRED_MAX`] bounds both together.
    pub fn set_owed(&mut self, events: usize) {
        self.hub.set_owed(events);
    }

    /// Parked watchers.
    #[must_use]
    pub fn watcher_count(&self) -> usize {
        self.hub.len()
    }

    fn find(&self, path: &[u8]) -> Result<u32, StoreError> {
        self.tree.find(path).ok_or_else(|| self.miss(path))
    }

    #[cold]
    fn miss(&self, path: &[u8]) -> StoreError {
        let miss = self.tree.miss(path);
        if self.tree.is_dir(miss.deepest) {
            self.error(StoreErrorCode::KeyNotFound, &path[..miss.missing_len])
        } else {
            self.error(StoreErrorCode::NotDirectory, &path[..miss.deepest_len])
        }
    }

    fn error(&self, code: StoreErrorCode, cause: &[u8]) -> StoreError {
        StoreError { code, cause: cause.to_vec(), index: self.index }
    }
}
