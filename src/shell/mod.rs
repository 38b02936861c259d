//! The only room that waits: sockets, disk completions, clock and signals meet the core here.
//!
//! Everything here runs on one thread, so state is shared by `Rc<RefCell<_>>` and no borrow is held across an await.

mod admin;
pub mod bootstrap;
pub mod check;
pub mod clock;
pub mod connection;
pub mod connections;
pub mod cors;
pub mod credentials;
pub mod dial;
mod discovery;
pub mod disk;
pub mod driver;
pub mod ending;
pub mod executor;
pub mod fan_out;
pub mod half_way;
mod health;
mod http_client;
pub mod install;
mod joining;
pub mod listener;
pub mod manage;
pub mod notify;
pub mod observe;
pub mod pace;
mod peer_in;
pub mod peer_out;
pub mod peer_snapshot;
pub mod peers;
pub mod pressure;
pub mod process;
mod profile;
mod proxy;
pub mod raw;
pub mod respond;
pub mod signals;
pub mod snapshot;
mod srv;
pub mod start;
mod supervisor;
pub mod tls;
pub mod tls_files;
pub mod tls_handshake;
mod tls_verify;
pub mod watching;
