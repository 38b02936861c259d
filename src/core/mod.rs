//! What a node decides: no clock, no randomness, no I/O, no await.

pub mod store;
