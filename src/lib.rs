//! ringd's rooms. Core decides, wire translates, shell waits, storage remembers.

pub mod core;
pub mod wire;
