//! What a node decides: no clock, no randomness, no I/O, no await.
//!
//! Inputs go into [`node::Node`], effects come out; the same node runs under an executor and under a simulator.

pub mod auth;
pub mod entries;
pub mod event;
pub mod farewell;
pub mod forced;
pub mod forwarded;
pub mod gate;
pub mod handover;
pub mod install;
pub mod machine;
pub mod membership;
pub mod node;
#[cfg(test)]
mod node_tests;
pub mod parcels;
pub mod proposals;
pub mod raft_log;
pub mod reads;
pub mod reconfig;
pub mod replica;
pub mod status;
pub mod store;
