//! `ringsim`: whole clusters of the real core on the real storage, through years of faults, from one seed.
//!
//! `world.rs` is where to begin. `README.md` says what is modelled and what is not.

pub mod auth;
pub mod check;
pub mod client;
pub mod disk;
pub mod event;
pub mod faults;
pub mod host;
pub mod net;
pub mod operator;
pub mod profile;
pub mod rng;
pub mod run;
pub mod script;
pub mod time;
pub mod turn;
pub mod watcher;
pub mod world;
