//! Request to command or query, outcome to response; pure.

pub mod error;
pub mod keys;
