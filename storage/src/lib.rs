//! What a ringd node remembers: WAL segments, snapshots, and the directory that holds them.
//!
//! This crate knows no raft-rs, no HTTP and no executor. It lends bytes and says what must be synced; whoever
//! drives it performs the sync and reports back. `FORMAT.md` documents every byte written here.

pub mod codec;
pub mod conf_change;
pub mod datadir;
pub mod format;
mod frame;
pub mod fs;
pub mod ids;
pub mod medium;
pub mod memory;
pub mod mutation;
pub mod payload;
pub mod prepare;
pub mod record;
pub mod recover;
pub mod region;
pub mod scan;
mod segment;
pub mod snapshot;
mod snapshot_reader;
mod snapshot_writer;
mod sync;
pub mod verdict;
pub mod wal;
pub mod walk;
pub mod writer;

pub use frame::ENTRY_OVERHEAD_BYTES;
