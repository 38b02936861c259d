//! What a ringd node remembers: WAL segments, snapshots, and the directory that holds them.
//!
//! This crate knows no raft-rs, no HTTP and no executor. It lends bytes and says what must be synced; whoever
//! drives it performs the sync and reports back. `FORMAT.md` documents every byte written here.

pub mod codec;
pub mod ids;
pub mod payload;
