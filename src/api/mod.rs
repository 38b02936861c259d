//! Request to command or query, outcome to response; pure.

pub mod admin;
pub mod auth;
pub mod discovery;
pub mod error;
pub mod go_json;
pub mod health;
pub mod json;
pub mod keys;
pub mod late;
pub mod members;
pub mod method;
pub mod params;
pub mod peer_members;
pub mod proxy;
pub mod route;
mod scan;
pub mod stats;
pub mod vars;
