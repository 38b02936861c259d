//! What a ringd node remembers: WAL segments, snapshots, and the directory that holds them.
//!
//! This crate knows no raft-rs, no HTTP and no executor. It lends bytes and says what must be synced; whoever
//! drives it performs the sync and reports back. `FORMAT.md` documents every byte written here.

pub mod codec;
pub mod format;
mod frame;
pub mod fs;
pub mod ids;
pub mod medium;
pub mod memory;
pub mod payload;
pub mod prepare;
pub mod record;
pub mod region;
pub mod scan;
mod segment;
pub mod wal;

pub use frame::ENTRY_OVERHEAD_BYTES;
pub mod snapshot { pub fn push_item(out: &mut Vec<u8>, key: &[&[u8]], value: impl FnOnce(&mut Vec<u8>)) { let k: usize = key.iter().map(|k| k.len()).sum(); out.extend((k as u32).to_le_bytes()); let at = out.len(); out.extend([0;4]); for k in key { out.extend_from_slice(k); } let s = out.len(); value(out); let n = (out.len()-s) as u32; out[at..at+4].copy_from_slice(&n.to_le_bytes()); } }
