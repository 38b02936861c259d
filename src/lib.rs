//! ringd's rooms. Core decides, wire translates, shell waits, storage remembers.

pub mod api;
pub mod config;
pub mod core;
pub mod metrics;
pub mod shell;
pub mod wire;
